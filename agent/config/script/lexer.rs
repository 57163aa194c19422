//! The first half of the reading: splits bash into tokens. In one file because quotes, expansions and here-documents nest, and
//! skip each other.

use std::ops::Range;

/// A token of bash, as far as functions need it.
#[derive(PartialEq, Eq)]
pub(super) enum Token {
    Word(Word),
    /// `;`, `&`, `|`, `(`, `)`, or a line's end; `&&` and `||` are a `;`.
    Operator(u8),
    /// `>` or another redirection, with its number: the next word is its target.
    Redirection,
    /// `((…))`
    Arithmetic,
}

/// A word without its quotes.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    /// No part was quoted or expanded.
    pub(super) plain: bool,
    /// The value is unknown: an expansion, a pattern, braces.
    pub(super) expands: bool,
    /// The value is one word: all expansions are in double quotes.
    whole: bool,
}

impl Word {
    pub(super) fn is(&self, word: &str) -> bool {
        self.plain && self.text == word
    }

    /// Whether a command of this name may be any command. A name with a slash is a program's path.
    pub(super) fn is_any_command(&self) -> bool {
        self.expands && !(self.whole && self.text.contains('/'))
    }

    pub(super) fn is_assignment(&self) -> bool {
        let name = self.text.split(['=', '[', '+']).next().unwrap_or_default();
        self.text.contains('=') && !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    }
}

/// How deep expansions may be nested before the reader gives up.
const DEEPEST: usize = 40;
/// The longest arithmetic expression, in bytes, before the reader gives up.
const LONGEST_ARITHMETIC: usize = 1000;

#[derive(Default)]
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
    /// Whether the text could not be parsed, or was too unusual.
    pub(super) gave_up: bool,
    /// The here-documents that begin at the next line.
    pending: Vec<HereDocument>,
    pub(super) comments: Vec<Range<usize>>,
}

struct HereDocument {
    delimiter: Vec<u8>,
    /// `<<-`: leading tabs are removed.
    tabs: bool,
    /// The delimiter is quoted: backslashes are literal.
    quoted: bool,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Lexer { text, ..Lexer::default() }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn starts_with(&self, text: &str) -> bool {
        self.text[self.at.min(self.text.len())..].starts_with(text.as_bytes())
    }

    /// Gives up: the rest is not read.
    fn give_up(&mut self) {
        self.gave_up = true;
        self.at = self.text.len();
    }

    /// The tokens up to the end of the text or of the command substitution.
    pub(super) fn tokens(&mut self, substitution: bool) -> Vec<Token> {
        let mut tokens = Vec::new();
        let mut open = 0_usize;
        while let Some(byte) = self.peek(0) {
            match byte {
                b' ' | b'\t' => self.at += 1,
                b'\\' if self.peek(1) == Some(b'\n') => self.continue_line(),
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
                b'<' | b'>' | b'&' if byte != b'&' || self.peek(1) == Some(b'>') => {
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
                b';' | b'&' | b'|' => {
                    let doubled = byte != b';' && self.peek(1) == Some(byte);
                    self.at += 1 + usize::from(doubled);
                    tokens.push(Token::Operator(if doubled { b';' } else { byte }));
                }
                _ => {
                    let word = self.word();
                    // The parentheses of a `case` do not close a substitution: `$(case $x in a) …`.
                    if substitution && word.is("case") {
                        self.give_up();
                    }
                    if !self.is_redirected(&word) {
                        tokens.push(Token::Word(word));
                    }
                }
            }
        }
        self.gave_up |= substitution || !self.pending.is_empty();
        tokens
    }

    /// Skips a backslash at the end of a line. It may divide an operator: `<\`, and `<` on the next line.
    fn continue_line(&mut self) {
        let before = self.at.checked_sub(1).map(|at| self.text[at]);
        let is_operator = |byte: Option<u8>| byte.is_some_and(|byte| b"<>&|();".contains(&byte));
        if is_operator(before) && is_operator(self.peek(2)) {
            self.give_up();
        }
        self.at += 2;
    }

    /// Whether the word just read is the descriptor of a redirection: `2>…` and `{name}>…`.
    fn is_redirected(&self, word: &Word) -> bool {
        let number = !word.text.is_empty() && word.text.bytes().all(|byte| byte.is_ascii_digit());
        let variable = word.text.starts_with('{') && word.text.ends_with('}');
        let redirects = matches!(self.peek(0), Some(b'<' | b'>')) && self.peek(1) != Some(b'(');
        redirects && (word.plain && number || variable)
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
        // With a quote it may be the end of a string that this reader missed.
        if !self.text[comment.clone()].iter().any(|byte| b"'\"`\\".contains(byte)) && self.depth == 0 {
            self.comments.push(comment);
        }
    }

    /// Skips a redirection's operator: `<`, `>`, `&>`, `>>`, `>&`, ….
    fn redirection(&mut self) {
        self.at += usize::from(self.peek(0) == Some(b'&'));
        while matches!(self.peek(0), Some(b'<' | b'>')) {
            self.at += 1;
        }
        if matches!(self.peek(0), Some(b'&' | b'|')) {
            self.at += 1;
        }
    }

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
                    // A backslash before a newline continues the line.
                    let escaped = self.peek(1);
                    if escaped != Some(b'\n') {
                        word.plain = false;
                        text.extend(escaped);
                    }
                    self.at += 2;
                }
                b'\'' | b'"' => {
                    word.plain = false;
                    self.at += 1;
                    match byte {
                        b'"' => self.double_quoted(&mut text, &mut word),
                        _ => self.quoted(b'\'', false, &mut text),
                    }
                }
                b'`' | b'$' => {
                    (word.plain, word.expands, word.whole) = (false, true, false);
                    self.at += 1;
                    match (byte, self.peek(0)) {
                        (b'`', _) => self.quoted(b'`', true, &mut Vec::new()),
                        (_, Some(b'\'')) => {
                            self.at += 1;
                            self.quoted(b'\'', true, &mut text);
                        }
                        _ => self.expand(false),
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

    /// Whether the word at `start` is `[` or `[[`.
    fn is_test(&self, start: usize) -> bool {
        let word = &self.text[start..];
        let brackets = word.iter().take_while(|byte| **byte == b'[').count();
        (1..=2).contains(&brackets) && word.get(brackets).is_none_or(u8::is_ascii_whitespace)
    }

    /// Skips `(…)` behind `name=`.
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
        self.gave_up = true;
    }

    /// Reads up to `end`: `'…'`, or `$'…'` and backquotes, in which a backslash escapes.
    fn quoted(&mut self, end: u8, escapes: bool, text: &mut Vec<u8>) {
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            match byte {
                _ if byte == end => return,
                b'\\' if escapes => self.at += 1,
                _ => text.push(byte),
            }
        }
        self.gave_up = true;
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
                    self.quoted(b'`', true, &mut Vec::new());
                }
                b'$' => {
                    word.expands = true;
                    let start = self.at;
                    self.expand(true);
                    // `"$@"` may be several words.
                    let end = (self.at + 1).min(self.text.len());
                    word.whole &= !self.text[start.min(end)..end].contains(&b'@');
                }
                _ => text.push(byte),
            }
        }
        self.gave_up = true;
    }

    /// Skips `{…}`, `(…)` or `((…))` behind a `$`. Functions defined there end with its subshell.
    fn expand(&mut self, quoted: bool) {
        if self.depth >= DEEPEST || self.peek(0) == Some(b'[') || self.starts_with("\\\n") {
            return self.give_up();
        }
        self.depth += 1;
        if self.starts_with("((") && self.arithmetic(self.at + 2) {
            // Skipped.
        } else if self.peek(0) == Some(b'(') {
            self.at += 1;
            // Here-documents announced inside begin inside.
            let pending = std::mem::take(&mut self.pending);
            self.tokens(true);
            self.gave_up |= !self.pending.is_empty();
            self.pending = pending;
        } else if self.peek(0) == Some(b'{') {
            self.at += 1;
            self.braces(quoted);
        }
        self.depth -= 1;
    }

    /// Skips `…}` behind `${`.
    fn braces(&mut self, quoted: bool) {
        // bash 5.3: commands that run in this shell.
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
                // Within double quotes its meaning depends on the operator.
                b'\'' if quoted => return self.give_up(),
                b'\'' => self.quoted(b'\'', false, &mut ignored),
                b'`' => self.quoted(b'`', true, &mut ignored),
                b'$' if self.peek(0) == Some(b'\'') => return self.give_up(),
                b'$' => self.expand(quoted),
                b'\n' => return self.give_up(),
                _ => {}
            }
        }
        self.gave_up = true;
    }

    /// Skips `((…))`, whose inside begins at `start`; false if it is a subshell within a subshell.
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
                        self.gave_up |= self.text[start..at].iter().any(|byte| b"'\"`\\".contains(byte));
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

    /// Reads `<<` or `<<-` and its delimiter.
    fn here_document(&mut self) {
        self.at += 2;
        let tabs = self.peek(0) == Some(b'-');
        self.at += usize::from(tabs);
        while matches!(self.peek(0), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        let start = self.at;
        let word = self.word();
        // Delimiters that look like an expansion have rules of their own in bash.
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
                    return self.give_up();
                }
                let start = self.at;
                self.skip_line();
                let line = &self.text[start..self.at];
                self.at = (self.at + 1).min(self.text.len());
                let indent = if tabs { line.iter().take_while(|&&byte| byte == b'\t').count() } else { 0 };
                if line[indent..] == delimiter[..] {
                    // A backslash before it makes it a part of the line above.
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
