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

mod lexer;
mod scan;

use std::collections::HashSet;
use std::ops::Range;

use lexer::Lexer;
use scan::Scan;

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

/// Commands that may define functions which are not to be seen here. `alias` can stand for any of them.
const BRING_IN: [&str; 6] = ["source", ".", "eval", "alias", "enable", "fc"];

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
    let mut lexer = Lexer::new(script);
    let mut scan = Scan::new(depth);
    scan.tokens(&lexer.tokens(false));
    // A quote taken wrongly turns text into code and code into text, and then hardly anything is closed as it should be.
    let whole = scan.is_whole();
    let mut reading = Reading { whole, ..scan.reading };
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
