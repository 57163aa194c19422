//! The second half of the reading: finds the functions that the tokens define, and the commands that could import one.

use super::lexer::{Token, Word};
use super::{IMPORTS, Reading, read_at};

/// Words after which a command may begin.
const BEFORE_COMMANDS: [&str; 18] = [
    "if", "then", "elif", "else", "fi", "while", "until", "do", "done", "esac", "{", "}", "!", "time", "command",
    "builtin", "coproc", "exec",
];

/// A construct that is not yet closed.
#[derive(PartialEq, Eq)]
enum Open {
    Braces,
    /// A function's body, and its name if the script's own shell defines it.
    Function(Option<String>),
    Subshell,
}

#[derive(Default)]
pub(super) struct Scan {
    pub(super) reading: Reading,
    open: Vec<Open>,
    /// The number of open `if`, `do` and `case`.
    blocks: [isize; 3],
    /// The number of surrounding `trap`s.
    depth: usize,
}

impl Scan {
    pub(super) fn new(depth: usize) -> Self {
        Scan { depth, ..Scan::default() }
    }

    /// Whether every opened construct is closed.
    pub(super) fn is_closed(&self) -> bool {
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
                        // Otherwise it ends a pattern of `case`.
                        b')' if self.open.last() == Some(&Open::Subshell) => {
                            self.open.pop();
                        }
                        _ => {}
                    }
                    (command, prefixed, piped) = (true, false, *operator == b'|');
                }
                Token::Redirection => {
                    // The target is not a command.
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

    /// Reads a definition's beginning, and returns the tokens of its body.
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
            // The caller opens the subshell.
            [Token::Operator(b'('), ..] => {
                self.reading.functions.extend(name);
                body
            }
            _ => {
                let is_broken = |word: &Word| word.is("{\r") || word.is("\r");
                self.reading.broken |= matches!(body, [Token::Word(word), ..] if is_broken(word));
                self.reading.unsure = true;
                body
            }
        }
    }

    /// The tokens behind `[[ … ]]`; the reader gives up if it spans lines.
    fn condition<'t>(&mut self, tokens: &'t [Token]) -> &'t [Token] {
        let mut line = tokens.iter().take_while(|token| **token != Token::Operator(b'\n'));
        let end = line.position(|token| matches!(token, Token::Word(word) if word.is("]]")));
        self.reading.unsure |= end.is_none();
        &tokens[end.map_or(0, |at| at + 1)..]
    }

    /// Reads a command's name, or a reserved word in its place.
    fn command(&mut self, word: &Word, tail: &[Token]) {
        if word.plain {
            self.grammar(&word.text);
        }
        // A pattern of `case`, or a command whose effect ends with its subshell.
        if matches!(tail.first(), Some(Token::Operator(b')' | b'|'))) || word.is_assignment() {
            return;
        }
        self.reading.imports |= word.is_any_command();
        let arguments = tail.iter().take_while(|token| !matches!(token, Token::Operator(_)));
        let mut arguments = arguments.filter_map(|token| if let Token::Word(word) = token { Some(word) } else { None });
        match word.text.as_str() {
            name if IMPORTS.contains(&name) => self.reading.imports = true,
            // -C evaluates a text.
            "mapfile" | "readarray" => {
                self.reading.imports |=
                    arguments.any(|word| word.expands || (word.text.starts_with('-') && word.text.contains('C')));
            }
            // `jobs -x` runs a command.
            "jobs" => self.reading.imports |= arguments.next().is_some(),
            "unset" => {
                for word in arguments {
                    self.reading.imports |= word.expands;
                    self.reading.unset.insert(word.text.clone());
                }
            }
            "trap" => {
                if let Some(action) = arguments.find(|word| word.text != "--") {
                    let inner = read_at(action.text.as_bytes(), self.depth + 1);
                    self.reading.imports |= action.expands || inner.unsure;
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
                _ => self.reading.unsure = true,
            },
            "if" => self.blocks[0] += 1,
            "fi" => self.blocks[0] -= 1,
            "done" => self.blocks[1] -= 1,
            "case" => {
                self.blocks[2] += 1;
                // The parentheses of its patterns do not close the subshell.
                self.reading.unsure |= self.open.contains(&Open::Subshell);
            }
            "esac" => self.blocks[2] -= 1,
            _ => {}
        }
    }
}

/// The name in a definition's head, and the tokens behind the head.
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
