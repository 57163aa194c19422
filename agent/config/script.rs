//! Does a bash script define a function? Answered by reading it, never by running it.
//!
//! A small reader of bash's words: it knows comments, quotes, expansions and here-documents well enough to tell code
//! from text. Where it cannot be sure it says so, and the script gets the benefit of the doubt.

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
    if reading.functions.iter().any(|name| name == function) {
        Definition::Yes
    } else if reading.elsewhere {
        Definition::Unsure
    } else {
        Definition::No
    }
}

/// The functions that a script is seen to define.
pub(super) fn functions(script: &[u8]) -> Vec<String> {
    read(script).functions
}

/// What was found in a script.
#[derive(Debug, Default)]
struct Reading {
    functions: Vec<String>,
    /// Whether a function could come from elsewhere.
    elsewhere: bool,
}

/// What bash's grammar is made of, as far as functions need it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A word and whether any part of it was quoted or expanded.
    Word(String, bool),
    /// `;`, `&`, `|`, `(`, `)`, or a line's end.
    Operator(u8),
}

/// Words after which a command may begin.
const BEFORE_COMMANDS: [&str; 14] =
    ["if", "then", "elif", "else", "while", "until", "do", "{", "!", "time", "command", "builtin", "coproc", "exec"];

fn read(script: &[u8]) -> Reading {
    let mut lexer = Lexer { text: script, at: 0, depth: 0, lost: false, pending: Vec::new() };
    let tokens = lexer.tokens(false);
    let mut reading = Reading { functions: Vec::new(), elsewhere: lexer.lost };
    let mut command = true;
    let mut rest = tokens.as_slice();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            Token::Operator(_) => command = true,
            Token::Word(word, plain) => {
                let parentheses = matches!(tail, [Token::Operator(b'('), Token::Operator(b')'), ..]);
                if parentheses && *plain {
                    reading.functions.push(word.clone());
                } else if command && word == "function" {
                    if let [Token::Word(name, true), ..] = tail {
                        reading.functions.push(name.clone());
                    }
                } else if command && brings_in(word) {
                    reading.elsewhere = true;
                }
                command = command && (BEFORE_COMMANDS.contains(&word.as_str()) || is_assignment(word));
            }
        }
    }
    reading
}

/// Whether a command may define functions that are not to be seen here. `alias` can stand for any of them.
fn brings_in(command: &str) -> bool {
    matches!(command.trim_start_matches('\\'), "source" | "." | "eval" | "alias")
}

fn is_assignment(word: &str) -> bool {
    let name = word.split(['=', '[', '+']).next().unwrap_or("");
    word.contains('=') && !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// How deep expansions may be nested before the reader gives up.
const DEEPEST: usize = 40;

/// Splits bash into tokens.
struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
    /// Set where the text cannot be followed: a quote or here-document without end, or nesting without reason.
    lost: bool,
    /// The delimiters of the here-documents that begin at the next line; whether leading tabs are taken off.
    pending: Vec<(Vec<u8>, bool)>,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn starts_with(&self, text: &str) -> bool {
        self.text[self.at.min(self.text.len())..].starts_with(text.as_bytes())
    }

    /// The tokens up to the end, or to the parenthesis that closes a command substitution.
    fn tokens(&mut self, substitution: bool) -> Vec<Token> {
        let mut tokens = Vec::new();
        let mut open = 0_usize;
        while let Some(byte) = self.peek(0) {
            match byte {
                b' ' | b'\t' | b'\r' => self.at += 1,
                b'\\' if self.peek(1) == Some(b'\n') => self.at += 2,
                b'\n' => {
                    self.at += 1;
                    self.here_documents();
                    tokens.push(Token::Operator(b'\n'));
                }
                b'#' => self.skip_line(),
                b'<' if self.starts_with("<<<") => self.at += 3,
                b'<' if self.starts_with("<<") => self.here_document(),
                b'<' | b'>' => {
                    self.at += 1;
                    // `<(…)` and `>(…)` are commands; a plain redirection's target is a word like any other.
                }
                b'(' if self.starts_with("((") && self.arithmetic(self.at + 2) => {
                    tokens.push(Token::Word("((…))".to_owned(), false));
                }
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
                    self.at += 1;
                    tokens.push(Token::Operator(byte));
                }
                _ => {
                    let (word, plain) = self.word();
                    // A `case` in a substitution has parentheses that close nothing: `$(case $x in a) …`.
                    if substitution && plain && word == "case" {
                        self.lost = true;
                    }
                    tokens.push(Token::Word(word, plain));
                }
            }
        }
        // A here-document of a substitution that ends on the same line begins behind that line.
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

    /// A word, without its quotes.
    fn word(&mut self) -> (String, bool) {
        let (mut word, mut plain) = (Vec::new(), true);
        while let Some(byte) = self.peek(0) {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b';' | b'&' | b'|' | b'(' | b')' | b'<' | b'>' => {
                    break;
                }
                b'\\' => {
                    plain = false;
                    if let Some(next) = self.peek(1).filter(|&next| next != b'\n') {
                        word.push(next);
                    }
                    self.at += 2;
                }
                b'\'' => {
                    plain = false;
                    let ansi = word.last() == Some(&b'$');
                    self.at += 1;
                    self.single_quoted(ansi, &mut word);
                }
                b'"' => {
                    plain = false;
                    self.at += 1;
                    self.double_quoted(&mut word);
                }
                b'`' => {
                    plain = false;
                    self.at += 1;
                    self.skip_backquoted();
                }
                b'$' => {
                    plain = false;
                    word.push(b'$');
                    self.at += 1;
                    self.expansion();
                }
                _ => {
                    word.push(byte);
                    self.at += 1;
                }
            }
        }
        self.at = self.at.min(self.text.len());
        (String::from_utf8_lossy(&word).into_owned(), plain)
    }

    /// `'…'`, and `$'…'` in which a backslash escapes.
    fn single_quoted(&mut self, ansi: bool, word: &mut Vec<u8>) {
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            match byte {
                b'\'' => return,
                b'\\' if ansi => self.at += 1,
                _ => word.push(byte),
            }
        }
        self.lost = true;
    }

    fn double_quoted(&mut self, word: &mut Vec<u8>) {
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            match byte {
                b'"' => return,
                b'\\' => {
                    word.extend(self.peek(0));
                    self.at += 1;
                }
                b'`' => self.skip_backquoted(),
                b'$' => self.expansion(),
                _ => word.push(byte),
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
    fn expansion(&mut self) {
        if self.depth >= DEEPEST {
            self.lost = true;
            self.at = self.text.len();
            return;
        }
        self.depth += 1;
        if self.starts_with("((") && self.arithmetic(self.at + 2) {
            // Skipped.
        } else if self.peek(0) == Some(b'(') {
            self.at += 1;
            self.tokens(true);
        } else if self.peek(0) == Some(b'{') {
            self.at += 1;
            self.braces();
        }
        self.depth -= 1;
    }

    /// `${…}`, behind its brace.
    fn braces(&mut self) {
        let mut ignored = Vec::new();
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            match byte {
                b'}' => return,
                b'\\' => self.at += 1,
                b'"' => self.double_quoted(&mut ignored),
                b'`' => self.skip_backquoted(),
                b'$' => self.expansion(),
                _ => {}
            }
        }
        self.lost = true;
    }

    /// Skips `((…))` whose inside begins at `start`; false where it is a subshell in a subshell after all.
    fn arithmetic(&mut self, start: usize) -> bool {
        let mut open = 0_usize;
        for at in start..self.text.len() {
            match self.text[at] {
                b'(' => open += 1,
                b')' if open > 0 => open -= 1,
                b')' => {
                    let closed = self.text.get(at + 1) == Some(&b')');
                    if closed {
                        self.at = at + 2;
                    }
                    return closed;
                }
                _ => {}
            }
        }
        false
    }

    /// `<<` or `<<-` and its delimiter.
    fn here_document(&mut self) {
        self.at += 2;
        let tabs = self.peek(0) == Some(b'-');
        self.at += usize::from(tabs);
        while matches!(self.peek(0), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        let (delimiter, _) = self.word();
        self.pending.push((delimiter.into_bytes(), tabs));
    }

    /// Skips the here-documents that begin on this line.
    fn here_documents(&mut self) {
        for (delimiter, tabs) in std::mem::take(&mut self.pending) {
            loop {
                if self.at >= self.text.len() {
                    self.lost = true;
                    return;
                }
                let start = self.at;
                self.skip_line();
                let line = &self.text[start..self.at];
                self.at = (self.at + 1).min(self.text.len());
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                let indent = if tabs { line.iter().take_while(|&&byte| byte == b'\t').count() } else { 0 };
                if line[indent..] == delimiter[..] {
                    break;
                }
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
        ("f()\r\n{\r\n  :\r\n}\r\n", Yes),
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
        ("echo 'f() { :; }'", No),
        ("echo \"\nf() { :; }\n\"", No),
        ("cat <<EOF\nf() { :; }\nEOF\n", No),
        ("cat <<-\"E\"\n\tf() { :; }\n\tE\n", No),
        ("x=$(f() { :; }; f)", No),
        ("echo function f", No),
        ("find . -name x\ncp a .\n./run.sh\nfoo.eval source", No),
        ("source /lib.sh", Unsure),
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
