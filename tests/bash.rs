//! The reader of hook scripts, against bash itself.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use node_agent::config::fault::{Fault, of_script};
use node_agent::config::script::{Definition, defines};

/// A function that no script defines.
const NOWHERE: &str = "zz_no_script_has_this";

/// The scripts of the installed packages, each once.
fn installed() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
            if kind.is_dir() {
                walk(&path, found);
            } else if kind.is_file() && is_script(&path) {
                found.insert(path.canonicalize().unwrap_or(path));
            }
        }
    }
    let mut found = BTreeSet::new();
    for folder in ["/usr", "/etc", "/lib", "/sbin", "/var/lib/dpkg/info"] {
        walk(Path::new(folder), &mut found);
    }
    found.into_iter().collect()
}

fn is_script(path: &Path) -> bool {
    use std::io::Read;
    let mut first = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(100).read_to_end(&mut first));
    let line = first.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let shell = String::from_utf8_lossy(line);
    let words: Vec<&str> = shell.trim_start_matches("#!").split([' ', '/']).collect();
    let by_name = ["sh", "bash"].iter().any(|end| path.extension().is_some_and(|extension| extension == *end));
    let completion = path.as_os_str().as_bytes().windows(28).any(|part| part == b"/bash-completion/completions");
    let shebang = shell.starts_with("#!") && words.iter().any(|word| ["sh", "bash", "dash"].contains(word));
    read.is_ok() && (shebang || ((by_name || completion) && !first.contains(&0)))
}

/// What bash's own parser takes for functions: the script is made the body of a function, which is
/// printed and never called. None where bash finds an error in it, or where it could not be wrapped.
fn functions_by_bash(script: &[u8]) -> Option<Vec<String>> {
    let mut text = b"zz_wrap() {\n:\n".to_vec();
    text.extend_from_slice(script);
    text.extend_from_slice(b"\n}\ndeclare -f zz_wrap\n");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrapped");
    fs::write(&path, text).unwrap();
    let out = Command::new("/bin/bash")
        .args(["--norc", "--noprofile"])
        .arg(&path)
        .env_clear()
        .env("PATH", "/nowhere")
        .env("LC_ALL", "C.UTF-8")
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    if !out.status.success() || !text.starts_with("zz_wrap ()") || !out.stderr.is_empty() {
        return None;
    }
    // Functions defined inside others and in subshells count too: the reader must not call them missing.
    let names = text.lines().filter_map(|line| line.trim_start().strip_prefix("function ")?.strip_suffix(" () "));
    Some(names.map(str::to_owned).collect())
}

/// Whether a script could break out of the function that wraps it: with one closing brace too many it would run.
fn is_wrapped_safely(script: &[u8]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("script");
    fs::write(&path, script).unwrap();
    // What bash accepts by itself closes no brace that it has not opened.
    let out = Command::new("/bin/bash").args(["-n"]).arg(&path).env_clear().output().unwrap();
    out.status.success() && out.stderr.is_empty()
}

#[test]
fn no_script_of_the_installed_packages_is_said_to_lack_what_bash_finds_in_it() {
    let scripts = installed();
    // A machine with fewer scripts lacks bash-completion or does not run Debian.
    assert!(scripts.len() >= 100, "only {} scripts are installed here", scripts.len());
    if scripts.len() < 300 {
        eprintln!("only {} scripts are installed here, not the 300 that a whole Debian has", scripts.len());
    }
    let workers = 4;
    let parts: Vec<_> =
        (0..workers).map(|part| scripts.iter().skip(part).step_by(workers).cloned().collect::<Vec<_>>()).collect();
    let judged = std::thread::scope(|scope| {
        let threads: Vec<_> =
            parts.iter().map(|part| scope.spawn(|| part.iter().map(judge).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<Option<Judged>>>()
    });
    let judged: Vec<Judged> = judged.into_iter().flatten().collect();
    let count = |of: fn(&Judged) -> usize| judged.iter().map(of).sum::<usize>();
    let (functions, yes, no) = (count(|j| j.functions), count(|j| j.yes), count(|j| usize::from(j.lacks)));
    eprintln!(
        "{} scripts, {} read by bash; {functions} functions, {yes} found, none denied; of a function that no script has: \
         {no} lack it, {} unsure",
        scripts.len(),
        judged.len(),
        judged.len() - no
    );
    let denied: Vec<&String> = judged.iter().flat_map(|j| &j.denied).collect();
    assert!(denied.is_empty(), "said to be missing, and there: {denied:#?}");
    assert!(judged.len() * 10 >= scripts.len() * 8, "bash reads too few of them");
    // A reader that is never sure would be useless.
    assert!(yes * 10 >= functions * 7, "{yes} of {functions} functions");
    assert!(no * 10 >= judged.len() * 3, "{no} of {} scripts surely lack a function", judged.len());
}

#[derive(Default)]
struct Judged {
    functions: usize,
    yes: usize,
    lacks: bool,
    denied: Vec<String>,
}

fn judge(path: &PathBuf) -> Option<Judged> {
    let script = fs::read(path).ok()?;
    if script.windows(7).any(|word| word == b"zz_wrap") || !is_wrapped_safely(&script) {
        return None;
    }
    let functions = functions_by_bash(&script)?;
    let mut judged = Judged { functions: functions.len(), ..Judged::default() };
    judged.lacks = defines(&script, NOWHERE) == Definition::No;
    assert_ne!(defines(&script, NOWHERE), Definition::Yes, "{}", path.display());
    for name in functions {
        match defines(&script, &name) {
            Definition::Yes => judged.yes += 1,
            Definition::No => judged.denied.push(format!("{name} in {}", path.display())),
            Definition::Unsure => {}
        }
    }
    Some(judged)
}

/// A pseudo-random number generator with a fixed seed (xorshift).
struct Random(u64);

impl Random {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % sides
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }
}

/// The functions that a generated script may define, the last one through `lib.sh`.
const NAMES: [&str; 4] = ["alpha", "beta_2", "gam-ma", "from_lib"];

/// A command of one or more lines, without the line's end.
fn command(random: &mut Random, depth: usize) -> String {
    let name = random.pick(&NAMES[..3]);
    if depth > 0 && random.roll(3) == 0 {
        let (a, b) = (command(random, depth - 1), command(random, depth - 1));
        return match random.roll(16) {
            0 => format!("if true; then\n{a}\nelse\n{b}\nfi"),
            1 => format!("if false; then\n{a}\nfi\n{b}"),
            2 => format!("{{ {a}\n{b}\n}}"),
            3 => format!("( {a}\n)"),
            4 => format!("for i in 1 2; do\n{a}\ndone"),
            5 => format!("while true; do {a}\nbreak; done\n{b}"),
            6 => format!("case x in\n  y) {b}\n ;;\n  x|'z)') {a}\n ;;\nesac"),
            7 => format!("{name}() {{\n{a}\n}}\n{b}"),
            8 => format!("{name}() {{\n{a}\n}}\n{name}"),
            9 => format!("x=$({a}\n)"),
            10 => format!("true && {{ {a}\n}} > /dev/null"),
            11 => format!("echo | {{ {a}\n}}"),
            12 => format!("until {a}\ndo {b}\nbreak; done"),
            13 => format!("for i do :; done; {a}"),
            14 => format!("[[ a == a ]] && {a}"),
            _ => format!("! {a}"),
        };
    }
    let quoted = random.pick(&["'", "\"", "it's", "a b", "#", ")", "}", "`", "$", "\\", "<<E", "f() {", "source", "é"]);
    let load = random.pick(&[
        "source lib.sh",
        ". ./lib.sh",
        "2>/dev/null source lib.sh",
        "2>&1 >/dev/null <<<'a b' source lib.sh",
        "sou\\\nrce lib.sh",
        "'source' lib.sh",
        "so\"\"urce lib.sh",
        "\\source lib.sh",
        "load=source; $load lib.sh",
        "load=source; \"$load\" lib.sh",
        "load=source; x=1 ${load} lib.sh",
        "eval 'from_lib() { :; }'",
        "eval \"$(cat lib.sh)\"",
        "command source lib.sh",
        "builtin . ./lib.sh",
        "command -p -- . ./lib.sh",
        "source <(cat lib.sh)",
        "{source,lib.sh}",
        "time -p source lib.sh",
        "trap 'source lib.sh' DEBUG; :; trap - DEBUG",
        "mapfile -t -c 1 -C 'source lib.sh;:' x <<<a",
        "$(echo source) lib.sh",
        "`echo .` ./lib.sh",
        "a=(source lib.sh); \"${a[@]}\"",
        "set -- source lib.sh; \"$@\"",
        "&>/dev/null . ./lib.sh",
        "{fd}>/dev/null . ./lib.sh",
        "BASH_ALIASES[ll]='from_lib() { :; }'; shopt -s expand_aliases\nll",
        "alias ll='from_lib() { :; }'; shopt -s expand_aliases\nll",
        "cat /dev/null <<E; source lib.sh\n$x it's \" `\nE",
        "for i do :; done; source lib.sh",
        "(( 1 )) && source lib.sh",
        "case source in source) source lib.sh;; esac",
    ]);
    match random.roll(34) {
        0 | 1 => format!("{name}() {{ :; }}"),
        2 => format!("{name} ( )\n{{\n  :\n}}"),
        3 => format!("function {name} {{ :; }}"),
        4 => format!("function {name}()\n{{ :; }}"),
        5 => format!("{}\\\n{}() {{ :; }}", &name[..2], &name[2..]),
        6 => format!("{name}\\\n \t(\\\n) {{ :; }}"),
        7 => format!("{name}() (:)"),
        8 => format!("{name}() if true; then :; fi"),
        9 => format!("{name}() [[ a ]]"),
        10 => format!("# {name}() {{ it's {quoted}"),
        11 => format!("echo a # {quoted} {name}()"),
        12 => format!("echo '{}'", quoted.replace('\'', "")),
        13 => format!("echo $'\\'{}\\n'", quoted.replace(['\'', '\\'], "")),
        14 => format!("echo \"a {} b\"", quoted.replace(['"', '`', '\\', '$'], "\\\"")),
        15 => format!("v='a}}b'; a=${{v%'}}'}} # {quoted}'"),
        16 => format!("echo \"${{v:-{}}}\"", random.pick(&["a", "\"b c\"", "$(echo ')')", "it's", "\\}", "${w#'x'}"])),
        17 => format!("echo ${{v#{}}} $#", random.pick(&["a", "'\"'", "\"'\"", "\\'", "$(echo '}')", "[{(]"])),
        18 => format!("cat >/dev/null <<E\n{quoted} it's {name}() \\$(\nE"),
        19 => format!("cat >/dev/null <<-'E F'\n\t{name}() {{ $( ` \" {quoted}\n\tE F"),
        20 => format!("cat <<A <<\\B >/dev/null\n' {name}\nA\n\"\nB"),
        21 => "x=$(cat <<E\nit's\nE\n)".to_owned(),
        22 => format!("(( x = ({} << 2) ))", random.roll(9)),
        23 => format!("echo $(( {} # 1 )) $((1 << 2))", random.pick(&["16", "(2)", "2"])),
        24 => format!("a=( '{}' \"b c\" # it's\n d )", quoted.replace('\'', "")),
        25 => format!("echo {{a,b}} a\\ b *.none \\\n  {} \\\n  # it's", random.pick(&["a", "\\'", "\\\"", "\"\""])),
        26 => format!("[[ $x =~ ^(a|b)$ || $x == {} ]] || :", random.pick(&["\"'\"", "\\'", "a*", "@(a|')')"])),
        27 => format!("unset -f {name}"),
        28 => format!("x=`echo {} \\`echo b\\``", random.pick(&["a", "\"b\"", "\\$x"])),
        29 => "case a\\'b in *\\'*) :;; (\"(\") ;; *) : ;; esac".to_owned(),
        30 => format!("exec 3>&1 4>/dev/null; echo {} >&4 2>&1", random.pick(&["a", "2>b", "\">\""])),
        31 | 32 => load.to_owned(),
        _ => {
            format!(
                "printf '%s' \"$(echo \"a {}\" | cat)\" >/dev/null",
                random.pick(&["'", ")", "b", "$(echo \"')\")"])
            )
        }
    }
}

#[test]
fn no_generated_script_is_said_to_lack_what_bash_has_after_it() {
    const SCRIPTS: usize = 10_000;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("lib.sh"), "from_lib() { :; }\n").unwrap();
    let mut random = Random(0x005e_ed0f_ba5e);
    let scripts: Vec<String> = (0..SCRIPTS)
        .map(|_| {
            (0..=random.roll(7)).map(|_| command(&mut random, 2) + random.pick(&["\n", "\n", "\n\n", " ;\n"])).collect()
        })
        .collect();
    for (number, script) in scripts.iter().enumerate() {
        fs::write(folder.path().join(number.to_string()), script).unwrap();
    }
    let workers = 4;
    let told: String = std::thread::scope(|scope| {
        let run = |part: usize| {
            let all = "for (( n = $1; n < $2; n += $3 )); do
                ( trap '{ echo $n; declare -F; } >&9' EXIT; source \"./$n\" </dev/null >/dev/null 2>&1 )
                done 9>&1";
            let numbers = [part, SCRIPTS, workers].map(|number| number.to_string());
            let mut bash = Command::new("/bin/bash");
            bash.args(["-c", all, "bash"]).args(numbers).env_clear().env("PATH", "/usr/bin:/bin");
            String::from_utf8(bash.current_dir(folder.path()).stderr(Stdio::null()).output().unwrap().stdout).unwrap()
        };
        let threads: Vec<_> = (0..workers).map(|part| scope.spawn(move || run(part))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut there: Vec<Option<BTreeSet<&str>>> = vec![None; SCRIPTS];
    let mut number = 0;
    for line in told.lines() {
        if let Some(name) = line.strip_prefix("declare -f ") {
            there[number].as_mut().unwrap().insert(name);
        } else {
            number = line.parse().unwrap();
            there[number] = Some(BTreeSet::new());
        }
    }
    let (mut ran, mut yes, mut wrong, mut defined, mut no, mut lacking) = (0, 0, 0, 0, 0, 0);
    for (script, there) in scripts.iter().zip(&there) {
        let Some(there) = there else { continue };
        ran += 1;
        for name in NAMES {
            let (found, is_there) = (defines(script.as_bytes(), name), there.contains(name));
            assert!(!(is_there && found == Definition::No), "{name} is said to be missing:\n{script}");
            defined += usize::from(is_there);
            lacking += usize::from(!is_there);
            yes += usize::from(found == Definition::Yes);
            wrong += usize::from(found == Definition::Yes && !is_there);
            no += usize::from(found == Definition::No);
        }
    }
    eprintln!(
        "{ran} of {SCRIPTS} scripts ran; {defined} functions, {} found; {lacking} lacking, {no} surely, {wrong} said to be there",
        yes - wrong
    );
    assert!(ran * 100 >= SCRIPTS * 95 && defined > SCRIPTS / 2, "the scripts do not what they are made for");
    assert!((yes - wrong) * 10 >= defined * 5 && no * 10 >= lacking * 3, "a reader that is never sure");
    // In branches that are not taken, and behind errors of syntax.
    assert!(wrong * 20 <= lacking, "{wrong} of {lacking} are said to be there");
}

/// Scripts that define `alpha` and `beta_2`, or would, and whether they are refused for what they are as a whole.
fn wholes() -> Vec<(&'static str, Vec<u8>, bool)> {
    const SCRIPT: &str = "#!/bin/bash\nset -eu\nalpha() {\n  :\n}\nbeta_2() {\n  :\n}\n";
    let crlf = |text: &str| text.replace('\n', "\r\n").into_bytes();
    let utf16 = |text: &str| [0xff, 0xfe].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    let marked = |text: &str| format!("\u{feff}{text}").into_bytes();
    let gzip = || {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, SCRIPT.as_bytes()).unwrap();
        packed.finish().unwrap()
    };
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, SCRIPT);
    let document =
        "alpha() { cat >/dev/null <<'E'\nE\n:; }\nbeta_2() { :; } # x\n".replace("<<'E'\n", "<<'E'\na\r\nb\r\n");
    vec![
        ("plain", SCRIPT.into(), false),
        ("CRLF", crlf(SCRIPT), true),
        ("CRLF, a line each", crlf("alpha() { :; }\nbeta_2() { :; }\n"), true),
        ("CRLF, braces on lines of their own", crlf("alpha()\n{\n:\n}\nbeta_2 ()\n{\n:\n}\n"), true),
        ("CRLF, with the keyword", crlf("function alpha {\n:\n}\nfunction beta_2 {\n:\n}\n"), true),
        ("CRLF, in a block", crlf("if true; then\nalpha() { :; }\nbeta_2() { :; }\nfi\n"), true),
        ("CRLF, behind what sources", crlf("source /etc/os-release\nalpha() {\n:\n}\nbeta_2() {\n:\n}\n"), true),
        ("CRLF in comments", SCRIPT.replace("set -eu", "# a comment\r").into_bytes(), false),
        ("CRLF in a here-document", document.into_bytes(), false),
        ("CRLF behind comments on every line", b"alpha() { :; } #\r\nbeta_2() { :; } #\r\n".to_vec(), false),
        ("a byte order mark", marked(SCRIPT), true),
        ("a byte order mark and CRLF", marked(&SCRIPT.replace('\n', "\r\n")), true),
        ("a byte order mark before a function", marked("alpha() { :; }\nbeta_2() { :; }\n"), true),
        ("a byte order mark before an assignment", marked("x=1\nalpha() { :; }\nbeta_2() { :; }\n"), true),
        ("a byte order mark that is survived", marked("x || :\nalpha() { :; }\nbeta_2() { :; }\n"), false),
        ("a byte order mark before another function", marked("x() { :; }\nalpha() { :; }\nbeta_2() { :; }\n"), false),
        ("UTF-16", utf16(SCRIPT), true),
        ("UTF-16 without an interpreter", utf16(SCRIPT.split_once('\n').unwrap().1), true),
        ("empty", b" \n\n".to_vec(), true),
        ("gzip", gzip(), true),
        ("a program", fs::read("/bin/true").unwrap(), true),
        ("zero bytes", [SCRIPT.as_bytes(), &b"#\0".repeat(300)].concat(), true),
        ("zero bytes side by side", [SCRIPT.as_bytes(), &[0; 300]].concat(), false),
        ("a few zero bytes", SCRIPT.replace("  :", "  :\0").into_bytes(), false),
        ("HTML", b"<!DOCTYPE html>\n<html><body>403</body></html>\n".to_vec(), true),
        ("HTML in a line", b"<HTML><head><title>502 Bad Gateway</title></head></HTML>".to_vec(), true),
        ("XML", b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code></Error>".to_vec(), true),
        ("JSON", b"{\"message\": \"Forbidden\"}\n".to_vec(), true),
        ("base64", encoded.into_bytes(), true),
    ]
}

/// Which of the numbered scripts in the folder bash gets through, as hooks are run: sourced with `-e`, then both functions.
fn works(folder: &Path, count: usize) -> BTreeSet<usize> {
    let all = "for (( n = 0; n < $1; n++ )); do
        ( set -Eeuo pipefail; source \"./$n\"; alpha; beta_2; echo $n >&9 ) </dev/null >/dev/null 2>&1
        done 9>&1";
    let mut bash = Command::new("/bin/bash");
    bash.args(["-c", all, "bash", &count.to_string()]).env_clear().env("PATH", "/usr/bin:/bin").current_dir(folder);
    let out = bash.stderr(Stdio::null()).output().unwrap();
    String::from_utf8(out.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn what_is_refused_as_a_whole_is_what_bash_fails_on() {
    let folder = tempfile::tempdir().unwrap();
    let wholes = wholes();
    for (number, (_, script, _)) in wholes.iter().enumerate() {
        fs::write(folder.path().join(number.to_string()), script).unwrap();
    }
    let works = works(folder.path(), wholes.len());
    for (number, (name, script, refused)) in wholes.iter().enumerate() {
        let fault = of_script(script, &["alpha", "beta_2"], "FILE");
        assert_eq!(fault.is_some(), *refused, "{name}: {fault:?}");
        assert_eq!(works.contains(&number), !refused, "{name}: bash does not agree");
        if let Some(Fault { what, instead }) = fault {
            assert!(
                !what.contains('\n') && !instead.contains('\n') && !instead.is_empty(),
                "{name}: {what}; {instead}"
            );
        }
    }
}

#[test]
fn what_is_refused_of_generated_scripts_with_odd_line_ends_bash_fails_on() {
    const SCRIPTS: usize = 1500;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("lib.sh"), "from_lib() { :; }\n").unwrap();
    let mut random = Random(0x00c0_ffee_b0a7);
    let functions = ["alpha() { :; }\nbeta_2() {\n:\n}\n", "function alpha {\n  :\n}\nbeta_2()\n{\n:\n}\n"];
    let scripts: Vec<Vec<u8>> = (0..SCRIPTS)
        .map(|_| {
            let text: String = (0..random.roll(4)).map(|_| command(&mut random, 1) + "\n").collect();
            let text = if random.roll(2) == 0 {
                text + random.pick(&functions)
            } else {
                random.pick(&functions).to_owned() + &text
            };
            match random.roll(4) {
                0 => text.replace('\n', "\r\n"),
                1 => format!("\u{feff}{text}"),
                2 => format!("\u{feff}{}", text.replace('\n', "\r\n")),
                _ => text.split('\n').map(|line| line.to_owned() + random.pick(&["\n", "\n", "\n", "\r\n"])).collect(),
            }
            .into_bytes()
        })
        .collect();
    for (number, script) in scripts.iter().enumerate() {
        fs::write(folder.path().join(number.to_string()), script).unwrap();
    }
    let works = works(folder.path(), SCRIPTS);
    let mut refused = 0;
    for (number, script) in scripts.iter().enumerate() {
        if let Some(fault) = of_script(script, &["alpha", "beta_2"], "FILE") {
            refused += 1;
            assert!(!works.contains(&number), "{fault:?}, and it works:\n{}", String::from_utf8_lossy(script));
        }
    }
    eprintln!("{refused} of {SCRIPTS} scripts are refused, {} work", works.len());
    assert!(refused * 4 > SCRIPTS && works.len() > 20, "{refused} are refused, {} work", works.len());
}
