//! The second half of the reading: which functions the tokens define, and what in them could bring one in from elsewhere.

use super::lexer::{Token, Word};
use super::{BRING_IN, Reading, read_at};

/// Words after which a command may begin.
const BEFORE_COMMANDS: [&str; 18] = [
    "if", "then", "elif", "else", "fi", "while", "until", "do", "done", "esac", "{", "}", "!", "time", "command",
    "builtin", "coproc", "exec",
];

/// What was opened and not yet closed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Open {
    Braces,
    /// A function's body, and its name where the shell has it that reads the script.
    Function(Option<String>),
    Subshell,
}

/// Goes through the tokens.
#[derive(Default)]
pub(super) struct Scan {
    pub(super) reading: Reading,
    open: Vec<Open>,
    /// `if`, `do` and `case` without their ends.
    blocks: [isize; 3],
    /// How many `trap` stand around this.
    depth: usize,
}

impl Scan {
    pub(super) fn new(depth: usize) -> Self {
        Scan { depth, ..Scan::default() }
    }

    /// Whether all that was opened is closed.
    pub(super) fn is_whole(&self) -> bool {
        self.open.is_empty() && self.blocks == [0; 3]
    }

    pub(super) fn tokens(&mut self, tokens: &[Token]) {
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
