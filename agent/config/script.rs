//! Does a bash script define a function? Answered by reading it, never by running it.
//!
//! "No" refuses the script before anything is touched, so it must be certain; a function that lacks is found again when
//! it is called. Two things must hold together for it. The text holds nothing of a definition's shape with that name
//! (`name (`, `function name`), in whatever quotes, strings and here-documents: that needs no knowledge of bash's
//! quoting. And a plain reading of the commands meets nothing that could bring a function in from elsewhere: no
//! `source`, no `eval`, no command whose name is an expansion. The reader gives up at all that is unusual, and then the
//! script has the benefit of the doubt.
//!
//! Not by the crate brush-parser, which reads nearly all of bash: its grammar tries again and again, and cannot be stopped.
//! 24 opening parentheses take it a second, 40 half a day (as nested `case` does), and scripts come from the network. It
//! would bring 37 crates, among them a library for snapshot tests and a switch of stacks in assembler.

use std::collections::HashSet;
use std::ops::Range;

/// Whether a script defines a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Definition {
    /// It does.
    Yes,
    /// It does not, and nothing in it could bring the function in from elsewhere.
    No,
    /// It could: the script reads other files, uses `eval`, or cannot be followed.
    Unsure,
}

/// Whether `script` defines `function` as `name()`, `function name` or `function name()`.
pub fn defines(script: &[u8], function: &str) -> Definition {
    let reading = read(script);
    if reading.functions.iter().any(|name| name == function) && !reading.unset.contains(function) {
        Definition::Yes
    } else if reading.elsewhere || mentions(script, &reading.comments, function) {
        Definition::Unsure
    } else {
        Definition::No
    }
}

/// The functions that a script is seen to define.
pub(super) fn functions(script: &[u8]) -> Vec<String> {
    read(script).functions
}

/// Whether `script` would define `function`, were its lines not to end in CRLF: then bash finds an error before it has one.
pub(super) fn is_broken_by_carriage_returns(script: &[u8], function: &str) -> bool {
    if !contains(script, b"\r\n") {
        return false;
    }
    let lines = script.split_inclusive(|byte| *byte == b'\n');
    let every_line = lines.clone().all(|line| line.ends_with(b"\r\n") || !line.ends_with(b"\n"));
    let converted: Vec<u8> =
        lines.flat_map(|line| line.strip_suffix(b"\r\n").map_or(line.to_vec(), without_end)).collect();
    let (windows, unix) = (read(script), read(&converted));
    let defined = |reading: &Reading| reading.functions.iter().any(|name| name == function);
    let followed = !windows.lost && !unix.lost && unix.whole;
    // A `source` of a path that ends in a carriage return finds nothing.
    let alone = !windows.brings_in || every_line;
    followed && alone && defined(&unix) && !defined(&windows) && (windows.broken || !windows.whole)
}

fn without_end(line: &[u8]) -> Vec<u8> {
    [line, b"\n"].concat()
}

/// Whether the function is written in the text's first word, and nowhere else.
pub(super) fn is_first_word_alone(script: &[u8], function: &str) -> bool {
    let Some(rest) = script.strip_prefix(function.as_bytes()) else { return false };
    let reading = read(script);
    rest.trim_ascii_start().starts_with(b"(")
        && !reading.elsewhere
        && reading.functions.first().is_some_and(|name| name == function)
        && !mentions(rest, &[], function)
}

/// What was found in a script.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is an observation of its own")]
struct Reading {
    /// Those that the shell has which reads the script: not in a subshell, not in another function.
    functions: Vec<String>,
    /// The arguments of `unset`.
    unset: HashSet<String>,
    /// Whether a function could come from elsewhere, or the reader was lost.
    elsewhere: bool,
    /// Whether a command may bring functions in.
    brings_in: bool,
    /// Whether the text could not be followed to its end.
    lost: bool,
    /// Whether all that was opened is closed.
    whole: bool,
    /// Whether a function's body begins with what is none to bash for the carriage return behind it.
    broken: bool,
    /// The bytes that are comments beyond doubt.
    comments: Vec<Range<usize>>,
}

/// Whether the text has the shape of a definition of `function` anywhere but in a comment.
fn mentions(script: &[u8], comments: &[Range<usize>], function: &str) -> bool {
    let mut text = Vec::with_capacity(script.len());
    let mut from = 0;
    for comment in comments {
        text.extend_from_slice(&script[from..comment.start]);
        from = comment.end;
    }
    text.extend_from_slice(&script[from..]);
    // As bash does it where it is code. Quotes and backslashes in a name are no part of it.
    let mut bare = Vec::with_capacity(text.len());
    let mut rest = text.as_slice();
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'\\', [b'\n', tail @ ..]) | (b'\\' | b'"' | b'\'' | 0, tail) => tail,
            _ => {
                bare.push(*first);
                tail
            }
        };
    }
    has_shape(&text, function.as_bytes()) || has_shape(&bare, function.as_bytes())
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}

fn has_shape(text: &[u8], name: &[u8]) -> bool {
    let blank = |byte: &&u8| matches!(**byte, b' ' | b'\t');
    let of_a_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':');
    if name.is_empty() {
        return true;
    }
    text.windows(name.len()).enumerate().any(|(at, window)| {
        if window != name {
            return false;
        }
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        let blanks = before.iter().rev().take_while(blank).count();
        let keyword = blanks > 0 && before[..at - blanks].ends_with(b"function");
        let parenthesis = after.iter().find(|byte| !blank(byte)) == Some(&b'(');
        let whole = !before.last().is_some_and(of_a_name) && !after.first().is_some_and(of_a_name);
        whole && (keyword || parenthesis)
    })
}

/// What bash's grammar is made of, as far as functions need it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(Word),
    /// `;`, `&`, `|`, `(`, `)`, or a line's end; `&&` and `||` are a `;`.
    Operator(u8),
    /// `>` and its like, with the number in front: the next word is its target.
    Redirection,
    /// `((…))`
    Arithmetic,
}

/// A word without its quotes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Word {
    text: String,
    /// No part of it was quoted or expanded.
    plain: bool,
    /// It becomes something that is not seen here: an expansion, a pattern, braces.
    expands: bool,
    /// It becomes one word: its expansions are all in double quotes.
    whole: bool,
}

impl Word {
    fn is(&self, word: &str) -> bool {
        self.plain && self.text == word
    }

    /// Whether the command of this name may be anything. What has a slash in it is a program's path.
    fn is_any_command(&self) -> bool {
        self.expands && !(self.whole && self.text.contains('/'))
    }

    fn is_assignment(&self) -> bool {
        let name = self.text.split(['=', '[', '+']).next().unwrap_or_default();
        self.text.contains('=') && !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    }
}

/// Words after which a command may begin.
const BEFORE_COMMANDS: [&str; 18] = [
    "if", "then", "elif", "else", "fi", "while", "until", "do", "done", "esac", "{", "}", "!", "time", "command",
    "builtin", "coproc", "exec",
];

/// Commands that may define functions which are not to be seen here. `alias` can stand for any of them.
const BRING_IN: [&str; 6] = ["source", ".", "eval", "alias", "enable", "fc"];

/// What was opened and not yet closed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Open {
    Braces,
    /// A function's body, and its name where the shell has it that reads the script.
    Function(Option<String>),
    Subshell,
}

/// Longer than any script that a person writes.
const LONGEST: usize = 1 << 20;

fn read(script: &[u8]) -> Reading {
    read_at(script, 0)
}

fn read_at(script: &[u8], depth: usize) -> Reading {
    // bash leaves zero bytes out.
    if script.len() > LONGEST || script.contains(&0) || depth > 3 {
        return Reading { elsewhere: true, lost: true, ..Reading::default() };
    }
    let mut lexer = Lexer { text: script, at: 0, depth: 0, lost: false, pending: Vec::new(), comments: Vec::new() };
    let tokens = lexer.tokens(false);
    let mut scan = Scan { reading: Reading::default(), open: Vec::new(), blocks: [0; 3], depth };
    scan.tokens(&tokens);
    let mut reading = scan.reading;
    // A quote taken wrongly turns text into code and code into text, and then hardly anything is closed as it should be.
    reading.whole = scan.open.is_empty() && scan.blocks == [0; 3];
    reading.lost = lexer.lost;
    reading.brings_in |= begins_a_line(script);
    reading.elsewhere |= reading.lost || !reading.whole || reading.brings_in || contains(script, b"BASH_ALIASES");
    reading.comments = lexer.comments;
    reading
}

/// Whether any line, be it in a string, begins with a command that brings functions in.
fn begins_a_line(script: &[u8]) -> bool {
    script.split(|byte| *byte == b'\n').any(|line| {
        let line = line.trim_ascii_start();
        BRING_IN.iter().any(|word| {
            line.strip_prefix(word.as_bytes()).is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_whitespace))
        })
    })
}

/// Goes through the tokens.
struct Scan {
    reading: Reading,
    open: Vec<Open>,
    /// `if`, `do` and `case` without their ends.
    blocks: [isize; 3],
    depth: usize,
}

impl Scan {
    fn tokens(&mut self, tokens: &[Token]) {
        let (mut command, mut prefixed, mut piped) = (true, false, false);
        let mut rest = tokens;
        while let [first, tail @ ..] = rest {
            rest = tail;
            match first {
                Token::Operator(operator) => {
                    match operator {
                        b'(' => self.open.push(Open::Subshell),
                        // Else it ends a pattern of `case`.
                        b')' if self.open.last() == Some(&Open::Subshell) => {
                            self.open.pop();
                        }
                        _ => {}
                    }
                    (command, prefixed, piped) = (true, false, *operator == b'|');
                }
                Token::Redirection => {
                    // Its target is no command.
                    if let [Token::Word(_), tail @ ..] = tail {
                        rest = tail;
                    }
                }
                Token::Arithmetic => command = true,
                Token::Word(word) if word.is("do") => {
                    self.blocks[1] += 1;
                    command = true;
                }
                Token::Word(_) if !command => {}
                Token::Word(word) => {
                    if let Some((name, body)) = definition(word, tail) {
                        rest = self.define(name, body, piped);
                        piped = false;
                        continue;
                    }
                    if word.is("[[") {
                        rest = self.condition(tail);
                        continue;
                    }
                    if prefixed && word.text.starts_with('-') {
                        // `command -v` runs nothing.
                        command = !word.text.contains(['v', 'V']);
                        continue;
                    }
                    self.command(word, tail);
                    prefixed = BEFORE_COMMANDS.contains(&word.text.as_str());
                    command = prefixed || word.is_assignment();
                }
            }
        }
    }

    /// A definition, up to its body.
    fn define<'t>(&mut self, name: &str, body: &'t [Token], piped: bool) -> &'t [Token] {
        let lines = body.iter().take_while(|token| **token == Token::Operator(b'\n')).count();
        let body = &body[lines..];
        let seen = self.open.iter().all(|open| *open == Open::Braces) && !piped;
        let name = seen.then(|| name.to_owned());
        match body {
            [Token::Word(brace), rest @ ..] if brace.is("{") => {
                self.open.push(Open::Function(name));
                rest
            }
            // Its operator opens a subshell.
            [Token::Operator(b'('), ..] => {
                self.reading.functions.extend(name);
                body
            }
            [Token::Word(brace), ..] if brace.is("{\r") || brace.is("\r") => {
                self.reading.broken = true;
                self.reading.elsewhere = true;
                body
            }
            _ => {
                self.reading.elsewhere = true;
                body
            }
        }
    }

    /// Behind the end of `[[ … ]]`, which is on the same line in what is followed here.
    fn condition<'t>(&mut self, tokens: &'t [Token]) -> &'t [Token] {
        let line = tokens.iter().take_while(|token| **token != Token::Operator(b'\n'));
        let end = line.enumerate().find(|(_, token)| matches!(token, Token::Word(word) if word.is("]]")));
        if let Some((at, _)) = end {
            &tokens[at + 1..]
        } else {
            self.reading.elsewhere = true;
            tokens
        }
    }

    /// A command's name, or a word of the grammar where a command may begin.
    fn command(&mut self, word: &Word, tail: &[Token]) {
        if word.plain {
            self.grammar(&word.text);
        }
        // A pattern of `case`, or else what ends with a subshell.
        if matches!(tail.first(), Some(Token::Operator(b')' | b'|'))) {
            return;
        }
        if word.is_assignment() {
            return;
        }
        self.reading.brings_in |= word.is_any_command();
        let arguments = tail.iter().take_while(|token| !matches!(token, Token::Operator(_)));
        let mut arguments = arguments.filter_map(|token| if let Token::Word(word) = token { Some(word) } else { None });
        match word.text.as_str() {
            name if BRING_IN.contains(&name) => self.reading.brings_in = true,
            // It calls a text for every so many lines.
            "mapfile" | "readarray" => {
                self.reading.brings_in |=
                    arguments.any(|word| word.expands || (word.text.starts_with('-') && word.text.contains('C')));
            }
            // It runs a command, too.
            "jobs" => self.reading.brings_in |= arguments.next().is_some(),
            "unset" => {
                for word in arguments {
                    self.reading.brings_in |= word.expands;
                    self.reading.unset.insert(word.text.clone());
                }
            }
            "trap" => {
                if let Some(action) = arguments.find(|word| word.text != "--") {
                    let inner = read_at(action.text.as_bytes(), self.depth + 1);
                    self.reading.brings_in |= action.expands || inner.elsewhere;
                }
            }
            _ => {}
        }
    }

    fn grammar(&mut self, word: &str) {
        match word {
            "{" => self.open.push(Open::Braces),
            "}" => match self.open.pop() {
                Some(Open::Braces) => {}
                Some(Open::Function(name)) => self.reading.functions.extend(name),
                _ => self.reading.elsewhere = true,
            },
            "if" => self.blocks[0] += 1,
            "fi" => self.blocks[0] -= 1,
            "done" => self.blocks[1] -= 1,
            "case" => {
                self.blocks[2] += 1;
                // The parentheses of its patterns close nothing.
                self.reading.elsewhere |= self.open.contains(&Open::Subshell);
            }
            "esac" => self.blocks[2] -= 1,
            _ => {}
        }
    }
}

/// The name that a definition gives, and what follows its head.
fn definition<'t>(word: &'t Word, tail: &'t [Token]) -> Option<(&'t str, &'t [Token])> {
    let behind = |tail: &'t [Token]| match tail {
        [Token::Operator(b'('), Token::Operator(b')'), rest @ ..] => Some(rest),
        _ => None,
    };
    match tail {
        [Token::Word(name), tail @ ..] if word.is("function") && name.plain => {
            Some((&name.text, behind(tail).unwrap_or(tail)))
        }
        _ if word.plain => Some((&word.text, behind(tail)?)),
        _ => None,
    }
}

/// How deep expansions may be nested before the reader gives up.
const DEEPEST: usize = 40;
/// The longest arithmetic that is looked through.
const LONGEST_ARITHMETIC: usize = 1000;

/// Splits bash into tokens.
struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
    /// Set where the text cannot be followed, or is so unusual that it is not worth it.
    lost: bool,
    /// The here-documents that begin at the next line.
    pending: Vec<HereDocument>,
    comments: Vec<Range<usize>>,
}

/// A here-document that is announced.
struct HereDocument {
    delimiter: Vec<u8>,
    /// Leading tabs are taken off.
    tabs: bool,
    /// Backslashes mean nothing in it.
    quoted: bool,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn starts_with(&self, text: &str) -> bool {
        self.text[self.at.min(self.text.len())..].starts_with(text.as_bytes())
    }

    /// Gives up: what follows is not read.
    fn give_up(&mut self) {
        self.lost = true;
        self.at = self.text.len();
    }

    /// The tokens up to the end, or to the parenthesis that closes a command substitution.
    fn tokens(&mut self, substitution: bool) -> Vec<Token> {
        let mut tokens = Vec::new();
        let mut open = 0_usize;
        while let Some(byte) = self.peek(0) {
            match byte {
                b' ' | b'\t' => self.at += 1,
                b'\\' if self.peek(1) == Some(b'\n') => {
                    // An operator may go on behind it: `<\`, and `<` on the next line.
                    let before = self.at.checked_sub(1).map(|at| self.text[at]);
                    let divided = |byte: Option<u8>| byte.is_some_and(|byte| b"<>&|();".contains(&byte));
                    if divided(before) && divided(self.peek(2)) {
                        self.give_up();
                    }
                    self.at += 2;
                }
                b'\n' => {
                    self.at += 1;
                    self.here_documents();
                    tokens.push(Token::Operator(b'\n'));
                }
                b'#' => self.comment(),
                b'<' | b'>' if self.peek(1) == Some(b'(') => {
                    self.at += 1;
                    self.expand(false);
                    tokens.push(Token::Word(Word { text: "<()".to_owned(), expands: true, ..Word::default() }));
                }
                b'<' if self.starts_with("<<") && !self.starts_with("<<<") => self.here_document(),
                b'<' | b'>' => {
                    self.redirection();
                    tokens.push(Token::Redirection);
                }
                b'&' if self.peek(1) == Some(b'>') => {
                    self.at += 1;
                    self.redirection();
                    tokens.push(Token::Redirection);
                }
                b'(' if self.starts_with("((") && self.arithmetic(self.at + 2) => tokens.push(Token::Arithmetic),
                b'(' => {
                    open += 1;
                    self.at += 1;
                    tokens.push(Token::Operator(b'('));
                }
                b')' => {
                    self.at += 1;
                    if substitution && open == 0 {
                        return tokens;
                    }
                    open = open.saturating_sub(1);
                    tokens.push(Token::Operator(b')'));
                }
                b'&' | b'|' if self.peek(1) == Some(byte) => {
                    self.at += 2;
                    tokens.push(Token::Operator(b';'));
                }
                b';' | b'&' | b'|' => {
                    self.at += 1;
                    tokens.push(Token::Operator(byte));
                }
                _ => {
                    let word = self.word();
                    // A `case` in a substitution has parentheses that close nothing: `$(case $x in a) …`.
                    if substitution && word.is("case") {
                        self.give_up();
                    }
                    // `2>…` and `{name}>…`
                    let number = !word.text.is_empty() && word.text.bytes().all(|byte| byte.is_ascii_digit());
                    let variable = word.text.starts_with('{') && word.text.ends_with('}');
                    let redirects = matches!(self.peek(0), Some(b'<' | b'>')) && self.peek(1) != Some(b'(');
                    if !(redirects && word.plain && number || redirects && variable) {
                        tokens.push(Token::Word(word));
                    }
                }
            }
        }
        if substitution || !self.pending.is_empty() {
            self.lost = true;
        }
        tokens
    }

    fn skip_line(&mut self) {
        while self.peek(0).is_some_and(|byte| byte != b'\n') {
            self.at += 1;
        }
    }

    fn comment(&mut self) {
        let start = self.at;
        self.skip_line();
        let comment = start..self.at;
        // With a quote in it, it could be the end of a string to a reader who knows better.
        if !self.text[comment.clone()].iter().any(|byte| b"'\"`\\".contains(byte)) && self.depth == 0 {
            self.comments.push(comment);
        }
    }

    /// `<`, `>` and what belongs to it.
    fn redirection(&mut self) {
        while matches!(self.peek(0), Some(b'<' | b'>')) {
            self.at += 1;
        }
        if matches!(self.peek(0), Some(b'&' | b'|')) {
            self.at += 1;
        }
    }

    /// A word, without its quotes.
    fn word(&mut self) -> Word {
        let mut word = Word { plain: true, whole: true, ..Word::default() };
        let mut text = Vec::new();
        let (mut brace, start) = (false, self.at);
        while let Some(byte) = self.peek(0) {
            match byte {
                b'(' if text.last() == Some(&b'=') && self.at > start => {
                    self.at += 1;
                    self.array();
                    word.plain = false;
                }
                b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'(' | b')' | b'<' | b'>' => break,
                b'\\' => {
                    match self.peek(1) {
                        // The line goes on.
                        Some(b'\n') => {}
                        next => {
                            word.plain = false;
                            text.extend(next);
                        }
                    }
                    self.at += 2;
                }
                b'\'' => {
                    word.plain = false;
                    self.at += 1;
                    self.single_quoted(false, &mut text);
                }
                b'"' => {
                    word.plain = false;
                    self.at += 1;
                    self.double_quoted(&mut text, &mut word);
                }
                b'`' => {
                    (word.plain, word.expands, word.whole) = (false, true, false);
                    self.at += 1;
                    self.skip_backquoted();
                }
                b'$' => {
                    (word.plain, word.expands, word.whole) = (false, true, false);
                    self.at += 1;
                    if self.peek(0) == Some(b'\'') {
                        self.at += 1;
                        self.single_quoted(true, &mut text);
                    } else {
                        self.expand(false);
                    }
                }
                _ => {
                    brace |= byte == b'{';
                    if matches!(byte, b'*' | b'?' | b'[') && !self.is_test(start) {
                        (word.expands, word.whole) = (true, false);
                    }
                    text.push(byte);
                    self.at += 1;
                }
            }
        }
        self.at = self.at.min(self.text.len());
        word.text = String::from_utf8_lossy(&text).into_owned();
        if brace && word.text != "{" {
            (word.expands, word.whole) = (true, false);
        }
        word
    }

    /// Whether the word that begins here is `[` or `[[`.
    fn is_test(&self, start: usize) -> bool {
        let word = &self.text[start..];
        let brackets = word.iter().take_while(|byte| **byte == b'[').count();
        (1..=2).contains(&brackets) && word.get(brackets).is_none_or(u8::is_ascii_whitespace)
    }

    /// `(…)` behind `name=`.
    fn array(&mut self) {
        while let Some(byte) = self.peek(0) {
            match byte {
                b' ' | b'\t' | b'\n' => self.at += 1,
                b'#' => self.skip_line(),
                b')' => {
                    self.at += 1;
                    return;
                }
                b'(' | b'<' | b'>' | b'&' | b'|' | b';' => return self.give_up(),
                _ => {
                    self.depth += 1;
                    if self.depth > DEEPEST {
                        return self.give_up();
                    }
                    self.word();
                    self.depth -= 1;
                }
            }
        }
        self.lost = true;
    }

    /// `'…'`, and `$'…'` in which a backslash escapes.
    fn single_quoted(&mut self, ansi: bool, text: &mut Vec<u8>) {
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            match byte {
                b'\'' => return,
                b'\\' if ansi => self.at += 1,
                _ => text.push(byte),
            }
        }
        self.lost = true;
    }

    fn double_quoted(&mut self, text: &mut Vec<u8>, word: &mut Word) {
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            match byte {
                b'"' => return,
                b'\\' => {
                    text.extend(self.peek(0).filter(|byte| *byte != b'\n'));
                    self.at += 1;
                }
                b'`' => {
                    word.expands = true;
                    self.skip_backquoted();
                }
                b'$' => {
                    word.expands = true;
                    let start = self.at;
                    self.expand(true);
                    // `"$@"` is more words than one.
                    let end = (self.at + 1).min(self.text.len());
                    word.whole &= !self.text[start.min(end)..end].contains(&b'@');
                }
                _ => text.push(byte),
            }
        }
        self.lost = true;
    }

    fn skip_backquoted(&mut self) {
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            match byte {
                b'`' => return,
                b'\\' => self.at += 1,
                _ => {}
            }
        }
        self.lost = true;
    }

    /// What follows a `$`: `{…}`, `(…)` or `((…))`. Functions defined in there are gone when it ends.
    fn expand(&mut self, quoted: bool) {
        if self.depth >= DEEPEST || self.peek(0) == Some(b'[') || self.starts_with("\\\n") {
            return self.give_up();
        }
        self.depth += 1;
        if self.starts_with("((") && self.arithmetic(self.at + 2) {
            // Skipped.
        } else if self.peek(0) == Some(b'(') {
            self.at += 1;
            // Its here-documents begin in it.
            let pending = std::mem::take(&mut self.pending);
            self.tokens(true);
            self.lost |= !self.pending.is_empty();
            self.pending = pending;
        } else if self.peek(0) == Some(b'{') {
            self.at += 1;
            self.braces(quoted);
        }
        self.depth -= 1;
    }

    /// `${…}`, behind its brace.
    fn braces(&mut self, quoted: bool) {
        // Commands in this very shell, as newer bash has them.
        if matches!(self.peek(0), Some(b' ' | b'\t' | b'\n' | b'|')) {
            return self.give_up();
        }
        let mut ignored = Vec::new();
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            match byte {
                b'}' => return,
                b'\\' => self.at += 1,
                b'"' => self.double_quoted(&mut ignored, &mut Word::default()),
                // Within double quotes it depends on the operator.
                b'\'' if quoted => return self.give_up(),
                b'\'' => self.single_quoted(false, &mut ignored),
                b'`' => self.skip_backquoted(),
                b'$' if self.peek(0) == Some(b'\'') => return self.give_up(),
                b'$' => self.expand(quoted),
                b'\n' => return self.give_up(),
                _ => {}
            }
        }
        self.lost = true;
    }

    /// Skips `((…))` whose inside begins at `start`; false where it is a subshell in a subshell after all.
    fn arithmetic(&mut self, start: usize) -> bool {
        let mut open = 0_usize;
        let end = self.text.len().min(start + LONGEST_ARITHMETIC);
        for at in start..end {
            match self.text[at] {
                b'(' => open += 1,
                b')' if open > 0 => open -= 1,
                b')' => {
                    let closed = self.text.get(at + 1) == Some(&b')');
                    if closed {
                        // Quotes could hide a parenthesis.
                        self.lost |= self.text[start..at].iter().any(|byte| b"'\"`\\".contains(byte));
                        self.at = at + 2;
                    }
                    return closed;
                }
                _ => {}
            }
        }
        self.give_up();
        true
    }

    /// `<<` or `<<-` and its delimiter.
    fn here_document(&mut self) {
        self.at += 2;
        let tabs = self.peek(0) == Some(b'-');
        self.at += usize::from(tabs);
        while matches!(self.peek(0), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        let start = self.at;
        let word = self.word();
        // What the delimiter is where it looks like an expansion is for bash to know.
        if self.text[start..self.at].iter().any(|byte| b"$`\n".contains(byte)) || word.text.is_empty() {
            return self.give_up();
        }
        self.pending.push(HereDocument { delimiter: word.text.into_bytes(), tabs, quoted: !word.plain });
    }

    /// Skips the here-documents that begin on this line.
    fn here_documents(&mut self) {
        for HereDocument { delimiter, tabs, quoted } in std::mem::take(&mut self.pending) {
            let mut continued = false;
            loop {
                if self.at >= self.text.len() {
                    self.lost = true;
                    return;
                }
                let start = self.at;
                self.skip_line();
                let line = &self.text[start..self.at];
                self.at = (self.at + 1).min(self.text.len());
                let indent = if tabs { line.iter().take_while(|&&byte| byte == b'\t').count() } else { 0 };
                if line[indent..] == delimiter[..] {
                    // Behind a backslash it ends nothing.
                    if continued {
                        return self.give_up();
                    }
                    break;
                }
                continued = !quoted && line.ends_with(b"\\");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Definition, Definition::*, defines, functions};

    /// Scripts and whether they define `f`.
    const SCRIPTS: &[(&str, Definition)] = &[
        ("f() { :; }", Yes),
        ("f () { :; }", Yes),
        ("f( ) { :; }", Yes),
        ("f()\n{\n  :\n}", Yes),
        ("function f { :; }", Yes),
        ("function f() { :; }", Yes),
        ("function f\n{\n  :\n}", Yes),
        ("  function  f() (:)", Yes),
        ("#!/bin/bash\nset -e # it's strict\nf() { :; }", Yes),
        ("g() { :; }; f() { :; }", Yes),
        ("if true; then f() { :; }; fi", Yes),
        ("[[ -x /a ]] && f() { :; }", Yes),
        ("x=\"$(grep \"it's\" a)\"\nf() { :; }", Yes),
        ("echo \"a $(echo \")\" | sed 's/\"/x/') b\"\nf() { :; }", Yes),
        ("x=${y#\"'\"} z=${#y} w=$#\nf() { :; }", Yes),
        ("x=$(( 1 << 2 ))\n(( x <<= 1 ))\nf() { :; }", Yes),
        ("echo $'it\\'s'\nf() { :; }", Yes),
        ("echo `echo \"it's\"`\nf() { :; }", Yes),
        ("cat <<EOF\nit's\nEOF\nf() { :; }", Yes),
        ("cat <<-'EOF' | tee x\n\tit's\n\tEOF\nf() { :; }", Yes),
        ("x=$(cat <<EOF\nit's\nEOF\n)\nf() { :; }", Yes),
        ("cat <<A <<B\n'\nA\n\"\nB\nf() { :; }", Yes),
        ("cat <<<\"x\"\nf() { :; }", Yes),
        ("case $x in\n  a) echo ')' ;;\n  *\"'\"*) : ;;\nesac\nf() { :; }", Yes),
        ("a=${v%'}'}\nf() { :; } # it's", Yes),
        ("f\\\n() { :; }", Yes),
        ("f() { 2>/dev/null :; }\nunset -f g", Yes),
        ("a=(1 2 3)\nf() { :; }", Yes),
        ("((true) || (false))\nf() { :; }", Yes),
        ("source /lib.sh\nf() { :; }", Yes),
        ("", No),
        ("echo f", No),
        ("f", No),
        ("f x()", No),
        ("f_() { :; }\nxf() { :; }\nf-g() { :; }", No),
        ("# f() { :; }", No),
        ("true # f() { :; }", No),
        ("trap 'rm -f x' EXIT\ntrap g INT", No),
        ("command -v \"$tool\" >/dev/null || exit 1", No),
        ("\"$JAVA_HOME/bin/java\" -version", No),
        ("echo \"$a\" $b > \"$log\" 2>&1", No),
        ("if [ \"$a\" = b ]; then x=\"$y\"; fi > \"$log\"", No),
        ("case \"$x\" in\n  \"$y\"|*.sh) echo;;\nesac", No),
        ("[[ $a =~ ^(b|c)$ && $d ]]", No),
        ("a=(\"$b\" $c)\n(( ${#a[@]} > 1 )) || exit 1", No),
        ("a=${v%'}'}\ng() { :; } # it's", No),
        ("find . -name x\ncp a .\n./run.sh\nfoo.eval source", No),
        // Text that may be a definition somewhere, or that could not be told from one by a smaller mistake of the reader.
        ("echo 'f() { :; }'", Unsure),
        ("echo \"\nf() { :; }\n\"", Unsure),
        ("cat <<EOF\nf() { :; }\nEOF\n", Unsure),
        ("cat <<-\"E\"\n\tf() { :; }\n\tE\n", Unsure),
        ("x=$(f() { :; }; f)", Unsure),
        ("(f() { :; })", Unsure),
        ("true | f() { :; }", Unsure),
        ("g() { f() { :; }; }\ng", Unsure),
        ("echo function f", Unsure),
        ("f() { :; }\nunset -f f", Unsure),
        ("f()\r\n{\r\n  :\r\n}\r\n", Unsure),
        ("f() {\n  echo 'unclosed }", Unsure),
        ("source /lib.sh", Unsure),
        ("2>/dev/null source lib.sh", Unsure),
        ("2>/dev/null 3<x A=1 source lib.sh", Unsure),
        ("<<<'a b' source lib.sh", Unsure),
        ("cat <<E; source lib.sh\nE\n", Unsure),
        ("{fd}>x source lib.sh", Unsure),
        ("&>x source lib.sh", Unsure),
        ("sour\\\nce lib.sh", Unsure),
        ("so''urce lib.sh", Unsure),
        ("\"source\" lib.sh", Unsure),
        ("\\source lib.sh", Unsure),
        ("{source,lib.sh}", Unsure),
        ("sourc? lib.sh", Unsure),
        ("$load lib.sh", Unsure),
        ("\"$load\" lib.sh", Unsure),
        ("\"${load[@]}/x\" lib.sh", Unsure),
        ("$(echo source) lib.sh", Unsure),
        ("`echo source` lib.sh", Unsure),
        ("a=(1 2) $load lib.sh", Unsure),
        ("case x in x) $load lib.sh;; esac", Unsure),
        ("[[ x ]] && $load lib.sh", Unsure),
        ("(( 1 )) && $load lib.sh", Unsure),
        ("for x in a; do $load lib.sh; done", Unsure),
        ("for x do source lib.sh; done", Unsure),
        ("command . lib.sh", Unsure),
        ("command -p . lib.sh", Unsure),
        ("time -p source lib.sh", Unsure),
        ("trap 'source lib.sh' EXIT", Unsure),
        ("trap \"$load\" EXIT", Unsure),
        ("mapfile -C \"$load\" -c 1 x", Unsure),
        ("enable -f x y", Unsure),
        ("shopt -s expand_aliases; BASH_ALIASES[g]='f() { :; }'", Unsure),
        ("${ source lib.sh; }", Unsure),
        (". /lib.sh", Unsure),
        ("if true; then\n  . ./lib.sh\nfi", Unsure),
        ("g() { source x; }", Unsure),
        ("[ -f x ] && . x", Unsure),
        ("A=1 eval \"$x\"", Unsure),
        ("builtin source x", Unsure),
        ("alias f=g", Unsure),
        ("echo 'unclosed", Unsure),
        ("cat <<EOF\nunclosed", Unsure),
        ("x=$(case a in a) echo;; esac)", Unsure),
    ];

    #[test]
    fn definitions_are_told_from_text() {
        for (script, expected) in SCRIPTS {
            assert_eq!(defines(script.as_bytes(), "f"), *expected, "{script}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_do_not_matter() {
        assert_eq!(defines(b"echo \xff\xfe '\xff'\nf() { :; }\n", "f"), Yes);
    }

    #[test]
    fn every_function_is_listed() {
        assert_eq!(functions(b"a() { :; }\nfunction b { :; }\n# c() { :; }\n"), ["a", "b"]);
    }
}
