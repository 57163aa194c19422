//! The first half of the reading: bash split into tokens. In one file, because quotes, expansions and here-documents
//! contain each other.

use std::ops::Range;

/// What bash's grammar is made of, as far as functions need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
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
pub(super) struct Word {
    pub(super) text: String,
    /// No part of it was quoted or expanded.
    pub(super) plain: bool,
    /// It becomes something that is not seen here: an expansion, a pattern, braces.
    pub(super) expands: bool,
    /// It becomes one word: its expansions are all in double quotes.
    whole: bool,
}

impl Word {
    pub(super) fn is(&self, word: &str) -> bool {
        self.plain && self.text == word
    }

    /// Whether the command of this name may be anything. What has a slash in it is a program's path.
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
/// The longest arithmetic that is looked through.
const LONGEST_ARITHMETIC: usize = 1000;

/// Splits bash into tokens.
#[derive(Default)]
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
    /// Set where the text cannot be followed, or is so unusual that it is not worth it.
    pub(super) lost: bool,
    /// The here-documents that begin at the next line.
    pending: Vec<HereDocument>,
    pub(super) comments: Vec<Range<usize>>,
}

/// A here-document that is announced.
struct HereDocument {
    delimiter: Vec<u8>,
    /// Leading tabs are taken off.
    tabs: bool,
    /// Backslashes mean nothing in it.
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

    /// Gives up: what follows is not read.
    fn give_up(&mut self) {
        self.lost = true;
        self.at = self.text.len();
    }

    /// The tokens up to the end, or to the parenthesis that closes a command substitution.
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
                    // A `case` in a substitution has parentheses that close nothing: `$(case $x in a) …`.
                    if substitution && word.is("case") {
                        self.give_up();
                    }
                    if !self.is_redirected(&word) {
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

    /// A backslash at the end of a line. An operator may go on behind it: `<\`, and `<` on the next line.
    fn continue_line(&mut self) {
        let before = self.at.checked_sub(1).map(|at| self.text[at]);
        let divided = |byte: Option<u8>| byte.is_some_and(|byte| b"<>&|();".contains(&byte));
        if divided(before) && divided(self.peek(2)) {
            self.give_up();
        }
        self.at += 2;
    }

    /// Whether the word that was just read is the descriptor of a redirection: `2>…` and `{name}>…`.
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
        // With a quote in it, it could be the end of a string to a reader who knows better.
        if !self.text[comment.clone()].iter().any(|byte| b"'\"`\\".contains(byte)) && self.depth == 0 {
            self.comments.push(comment);
        }
    }

    /// `<`, `>`, `&>` and what belongs to it.
    fn redirection(&mut self) {
        self.at += usize::from(self.peek(0) == Some(b'&'));
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
                b'\'' | b'"' => {
                    word.plain = false;
                    self.at += 1;
                    match byte {
                        b'"' => self.double_quoted(&mut text, &mut word),
                        _ => self.single_quoted(false, &mut text),
                    }
                }
                b'`' | b'$' => {
                    (word.plain, word.expands, word.whole) = (false, true, false);
                    self.at += 1;
                    match (byte, self.peek(0)) {
                        (b'`', _) => self.skip_backquoted(),
                        (_, Some(b'\'')) => {
                            self.at += 1;
                            self.single_quoted(true, &mut text);
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
