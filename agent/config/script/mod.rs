//! Finds the functions that a bash script defines, by reading it, never by running it.
//!
//! [`Definition::No`] refuses the script before anything is changed, so it must be certain; a function that is missing after
//! all fails when it is called. `No` takes two conditions. The text has nothing of a definition's shape with that name (`name
//! (`, `function name`), not even in quotes and here-documents: that needs no knowledge of bash's quoting. And the commands
//! include nothing that could import a function: no `source`, no `eval`, no command whose name is an expansion. The reader
//! gives up at anything unusual, and then the answer is [`Definition::Unsure`].
//!
//! Not by the crate brush-parser, which reads nearly all of bash: its grammar backtracks exponentially and cannot be stopped.
//! 24 opening parentheses take it a second, 40 half a day (as nested `case` does), and scripts come from the network. It
//! would add 37 crates, among them a library for snapshot tests and stack switching in assembler.

mod lexer;
mod scan;

use std::collections::HashSet;
use std::ops::Range;

use lexer::{Lexer, Token};
use scan::Scan;

/// Whether a script defines a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Definition {
    /// The script defines it.
    Yes,
    /// The script does not define it, and cannot import it.
    No,
    /// The script may define it: it reads other files, uses `eval`, or cannot be parsed.
    Unsure,
}

/// Whether `script` defines `function` as `name()`, `function name` or `function name()`.
pub fn defines(script: &[u8], function: &str) -> Definition {
    let reading = read(script);
    if reading.functions.iter().any(|name| name == function) && !reading.unset.contains(function) {
        Definition::Yes
    } else if reading.unsure || mentions(script, &reading.comments, function) {
        Definition::Unsure
    } else {
        Definition::No
    }
}

/// The functions that a script certainly defines.
pub(super) fn functions(script: &[u8]) -> Vec<String> {
    read(script).functions
}

/// Whether `script` would define `function` but for its CRLF line ends, at which bash reports an error first.
pub(super) fn is_broken_by_carriage_returns(script: &[u8], function: &str) -> bool {
    if !contains(script, b"\r\n") {
        return false;
    }
    let lines = script.split_inclusive(|byte| *byte == b'\n');
    let every_line = lines.clone().all(|line| line.ends_with(b"\r\n") || !line.ends_with(b"\n"));
    let unix_line = |line: &[u8]| line.strip_suffix(b"\r\n").map_or(line.to_vec(), |line| [line, b"\n"].concat());
    let converted: Vec<u8> = lines.flat_map(unix_line).collect();
    let (windows, unix) = (read(script), read(&converted));
    let defined = |reading: &Reading| reading.functions.iter().any(|name| name == function);
    let parsed = !windows.gave_up && !unix.gave_up && unix.closed;
    // A `source` of a path that ends in a carriage return finds nothing.
    let alone = !windows.imports || every_line;
    parsed && alone && defined(&unix) && !defined(&windows) && (windows.broken || !windows.closed)
}

/// Whether the function is defined in the text's first word, and nowhere else.
pub(super) fn is_first_word_alone(script: &[u8], function: &str) -> bool {
    let Some(rest) = script.strip_prefix(function.as_bytes()) else { return false };
    let reading = read(script);
    rest.trim_ascii_start().starts_with(b"(")
        && !reading.unsure
        && reading.functions.first().is_some_and(|name| name == function)
        && !mentions(rest, &[], function)
}

/// Whether the line behind this beginning of a script is certainly a command at its top level: not part of a quoted text, of a
/// here-document, of the command before it, nor of a condition, loop, subshell or function.
pub(super) fn ends_at_top_level(script: &[u8]) -> bool {
    let mut lexer = Lexer::new(script);
    let tokens = lexer.tokens(false);
    let is_line_end = |token: &&Token| **token == Token::Operator(b'\n');
    // `&&`, `||` and `|` at the end of a line; a backslash there hides the line's end.
    let goes_on = matches!(tokens.iter().rev().find(|token| !is_line_end(token)), Some(Token::Operator(b';' | b'|')));
    let is_whole = tokens.last().is_none_or(|token| is_line_end(&token));
    let mut scan = Scan::new(0);
    scan.tokens(&tokens);
    !lexer.gave_up && is_whole && !goes_on && scan.is_closed()
}

/// What was found in a script.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is an observation of its own")]
struct Reading {
    /// The functions defined in the script's own shell: not in a subshell or in another function.
    functions: Vec<String>,
    /// The arguments of `unset`.
    unset: HashSet<String>,
    /// Whether other functions may exist: some may be imported, or the text was not understood.
    unsure: bool,
    /// Whether a command may import functions.
    imports: bool,
    /// Whether the lexer gave up before the end.
    gave_up: bool,
    /// Whether every opened construct is closed.
    closed: bool,
    /// Whether a carriage return breaks the beginning of a function's body.
    broken: bool,
    /// The bytes that are certainly comments.
    comments: Vec<Range<usize>>,
}

/// Whether the text has the shape of a definition of `function` outside of comments.
fn mentions(script: &[u8], comments: &[Range<usize>], function: &str) -> bool {
    let mut text = Vec::with_capacity(script.len());
    let mut from = 0;
    for comment in comments {
        text.extend_from_slice(&script[from..comment.start]);
        from = comment.end;
    }
    text.extend_from_slice(&script[from..]);
    // In code bash removes quotes and backslashes from a name.
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

/// Commands that may define functions out of the reader's sight. `alias` can stand for any of them.
const IMPORTS: [&str; 6] = ["source", ".", "eval", "alias", "enable", "fc"];

/// In bytes; no hand-written script is longer.
const LONGEST: usize = 1 << 20;

fn read(script: &[u8]) -> Reading {
    read_at(script, 0)
}

fn read_at(script: &[u8], depth: usize) -> Reading {
    // bash ignores zero bytes.
    if script.len() > LONGEST || script.contains(&0) || depth > 3 {
        return Reading { unsure: true, gave_up: true, ..Reading::default() };
    }
    let mut lexer = Lexer::new(script);
    let mut scan = Scan::new(depth);
    scan.tokens(&lexer.tokens(false));
    // A misread quote swaps text and code, and then hardly any construct is closed properly.
    let closed = scan.is_closed();
    let mut reading = Reading { closed, gave_up: lexer.gave_up, comments: lexer.comments, ..scan.reading };
    reading.imports |= import_begins_a_line(script);
    reading.unsure |= reading.gave_up || !reading.closed || reading.imports || contains(script, b"BASH_ALIASES");
    reading
}

/// Whether any line, even in a string, begins with a command that imports functions.
fn import_begins_a_line(script: &[u8]) -> bool {
    script.split(|byte| *byte == b'\n').any(|line| {
        let line = line.trim_ascii_start();
        IMPORTS.iter().any(|word| {
            line.strip_prefix(word.as_bytes()).is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_whitespace))
        })
    })
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
        // Text that may be a definition, or that a small mistake of the reader could not distinguish from one.
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
    fn definitions_are_distinguished_from_text() {
        for (script, expected) in SCRIPTS {
            assert_eq!(defines(script.as_bytes(), "f"), *expected, "{script}");
        }
    }

    #[test]
    fn bytes_outside_of_utf_8_do_not_matter() {
        assert_eq!(defines(b"echo \xff\xfe '\xff'\nf() { :; }\n", "f"), Yes);
    }

    #[test]
    fn every_function_is_listed() {
        assert_eq!(functions(b"a() { :; }\nfunction b { :; }\n# c() { :; }\n"), ["a", "b"]);
    }
}
