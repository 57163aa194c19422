//! Text for people: harmless on a terminal, and with commands that work as typed.
//!
//! Hook output, file names, tools, AWS and the configuration can contain any character, so all text for people passes through
//! here. JSON and the state files keep each character, escaped.

use std::borrow::Cow;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

/// Makes text harmless: it cannot move the cursor, clear the screen, set a title or reorder characters. Line ends and tabs
/// stay, other separators become a space, and escape sequences and other control characters are removed.
pub fn text(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unfit) {
        return Cow::Borrowed(text);
    }
    // Line by line: an unterminated sequence must not swallow the next line.
    let lines = text.split('\n').map(|line| {
        let line = console::strip_ansi_codes(line.strip_suffix('\r').unwrap_or(line));
        let fit = line.chars().filter_map(|char| match char {
            '\r' | '\u{2028}' | '\u{2029}' | '\u{b}' | '\u{c}' | '\u{85}' => Some(' '),
            _ => (!is_unfit(char)).then_some(char),
        });
        fit.collect::<String>()
    });
    Cow::Owned(lines.collect::<Vec<_>>().join("\n"))
}

/// As [`text`], on one line, for places where a second line would be misread.
pub fn line(of: &str) -> Cow<'_, str> {
    match text(of) {
        shown if shown.contains(['\n', '\t']) => Cow::Owned(shown.trim_end().replace(['\n', '\t'], " ")),
        shown => shown,
    }
}

/// The final state of a line that was rewritten in place: `20%` of `10%\r20%`.
pub fn last_state(line: &str) -> &str {
    line.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default()
}

/// Whether this character must not be shown: controls (C0 but tab and newline, DEL, C1), line and paragraph separators, which
/// only some programs know, and characters that reorder the surrounding text (UAX #9).
fn is_unfit(char: char) -> bool {
    match char {
        '\n' | '\t' => false,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}' => true,
        _ => char.is_control(),
    }
}

/// A text for people, composed piece by piece. Each piece passes through [`text`]; only the page itself adds colours.
#[derive(Default)]
pub struct Page {
    text: String,
    colours: bool,
}

impl Page {
    /// An empty page.
    pub fn new(colours: bool) -> Self {
        Page { text: String::new(), colours }
    }

    /// Adds text in a colour, a parameter of ECMA-48's SGR.
    pub fn paint(&mut self, colour: &'static str, piece: &str) {
        let piece = text(piece);
        if self.colours {
            self.text.extend(["\x1b[", colour, "m", &piece, "\x1b[0m"]);
        } else {
            self.text.push_str(&piece);
        }
    }

    /// The whole text.
    pub fn into_text(self) -> String {
        self.text
    }
}

impl fmt::Write for Page {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.text.push_str(&text(piece));
        Ok(())
    }
}

/// The agent's commands that occur in remedies.
pub(crate) const COMMANDS: [&str; 9] =
    ["run", "status", "retry", "complete", "plan", "install", "check", "config", "completions"];
/// The agent's name in remedies.
const NAME: &str = "node-agent";
/// sudo's search path on RHEL and Amazon Linux (sudoers, `secure_path`).
const SECURE_PATH: [&str; 4] = ["/sbin", "/bin", "/usr/sbin", "/usr/bin"];

/// A remedy for people: as [`commands`]; after commands of the AWS CLI it refers to an operator's machine.
pub fn remedy(remedy: &str) -> String {
    let text = commands(remedy).into_owned();
    if names_aws(&text) { text + OPERATOR } else { text }
}

/// What is typed in the place of the agent's name; none where the name is enough.
static PROGRAM: OnceLock<Option<String>> = OnceLock::new();

/// From now on the agent's commands in texts are for other machines, whose paths this one does not know.
pub fn speaks_of_other_machines() {
    // Whatever was said before was about this machine.
    let _ = PROGRAM.set(None);
}

/// Makes the agent's commands in a text work as typed: with the program's path if root's shell would not find the name.
pub fn commands(text: &str) -> Cow<'_, str> {
    let own = || path_to_type(&std::env::current_exe().ok()?, &SECURE_PATH.map(Path::new));
    PROGRAM.get_or_init(own).as_deref().map_or(Cow::Borrowed(text), |program| with_program(text, program).into())
}

/// Ends a remedy with commands of the AWS CLI: the node may lack that program, and its role the permissions.
const OPERATOR: &str = "; the aws commands: from an operator's machine, because the node's role lacks the rights";

/// Whether the text contains commands of the AWS CLI.
fn names_aws(remedy: &str) -> bool {
    let services = ["ec2", "autoscaling", "s3", "kms", "sts", "iam", "ssm"];
    remedy.split("aws ").skip(1).any(|rest| services.contains(&rest.split(' ').next().unwrap_or_default()))
}

/// The path to type for this executable; `None` if its name is enough.
fn path_to_type(executable: &Path, secure_path: &[&Path]) -> Option<String> {
    // proc_pid_exe(5): Linux appends this to the path of a file that an upgrade has replaced.
    let path = executable.to_str()?;
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let own = same_file(Path::new(path))?;
    if secure_path.iter().any(|dir| same_file(&dir.join(NAME)) == Some(own)) {
        return None;
    }
    Some(quoted(path))
}

/// A file's device and inode.
fn same_file(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Quotes a word for a shell, if it needs quotes.
pub fn quoted(word: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "/._-+".contains(char);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// Replaces the agent's name by `program` in commands, but not in the names of units, directories or packages.
fn with_program(text: &str, program: &str) -> String {
    let (mut result, mut done) = (String::new(), 0);
    for (at, _) in text.match_indices(NAME) {
        result.push_str(&text[done..at]);
        done = at + NAME.len();
        let begins = !result.ends_with(|char: char| char.is_alphanumeric() || "/._-@".contains(char));
        let behind = text[done..].strip_prefix(' ');
        let word =
            behind.and_then(|text| text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '-')).next());
        let is_command = begins && word.is_some_and(|word| COMMANDS.contains(&word));
        result.push_str(if is_command { program } else { NAME });
    }
    result + &text[done..]
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn foreign_text_cannot_control_the_terminal_and_its_words_stay() {
        for (foreign, shown) in [
            ("plain, tab\tand\nnewline: ä ✓ 日本", "plain, tab\tand\nnewline: ä ✓ 日本"),
            ("\x1b]0;title\x07\x1b[31mred\x1b[0m\x1b[2J\tend\x08", "red\tend"),
            ("\u{9b}2Jcleared\u{9d}0;title\u{9c}", "cleared0;title"),
            ("a\x1b]0;never ended\nthe reason\x07", "a\nthe reason"),
            ("10%\r55%\r\nend\r", "10% 55%\nend"),
            ("a\u{202e}gpj.exe\u{2066}b\u{2069}", "agpj.exeb"),
            ("one\u{2028}two\u{2029}three\u{85}four", "one two three four"),
            ("nul\0del\x7f", "nuldel"),
        ] {
            assert_eq!(text(foreign), shown, "{foreign:?}");
        }
        assert_eq!(line("one\ntwo\tthree\n"), "one two three");
        assert_eq!(last_state("10%\r55%\r100%\r"), "100%");
        assert_eq!(last_state("whole"), "whole");
    }

    #[test]
    fn a_page_has_only_its_own_colours() {
        let page = |colours| {
            let mut page = Page::new(colours);
            let foreign = "\x1b[31mforeign\x1b[0m";
            write!(page, "{foreign} ").unwrap();
            page.paint("32", "\x1b[2Jours");
            page.into_text()
        };
        assert_eq!(page(true), "foreign \x1b[32mours\x1b[0m");
        assert_eq!(page(false), "foreign ours");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_keeps_an_unfit_character_or_loses_a_line(foreign in prop::collection::vec(prop_oneof![
            prop::sample::select(vec![
                "\x1b[", "\x1b]0;", "\x07", "\x1b\\", "\x1bP", "\u{9b}", "\u{9d}", "\u{9c}", "\r", "\n", "2J", "m",
                "\u{202e}", "\u{2068}", "\u{2028}", "\u{85}", "\x7f", "\x08", "word", "\t", "ä",
            ]).prop_map(str::to_owned),
            any::<char>().prop_map(String::from),
        ], 0..24).prop_map(|parts| parts.concat())) {
            let shown = text(&foreign);
            prop_assert!(!shown.contains(is_unfit), "{foreign:?}: {shown:?}");
            prop_assert_eq!(shown.matches('\n').count(), foreign.matches('\n').count());
            prop_assert_eq!(&text(&shown), &shown);
            prop_assert!(!line(&foreign).contains(['\n', '\t']));
        }

        #[test]
        fn text_without_unfit_characters_stays_as_it_is(fit in "[^\\p{C}\u{2028}\u{2029}]*") {
            prop_assert_eq!(&text(&fit), &fit);
        }
    }

    #[test]
    fn only_commands_get_the_programs_path() {
        for (remedy, typed) in [
            ("correct it, then: node-agent retry", "correct it, then: /x/node-agent retry"),
            ("umount /d && node-agent retry, which", "umount /d && /x/node-agent retry, which"),
            ("sudo node-agent status", "sudo /x/node-agent status"),
            ("(node-agent status --wait)", "(/x/node-agent status --wait)"),
            ("node-agent retry; node-agent check", "/x/node-agent retry; /x/node-agent check"),
            ("/usr/bin/node-agent retry", "/usr/bin/node-agent retry"),
            ("/etc/node-agent/config.toml", "/etc/node-agent/config.toml"),
            ("journalctl -u node-agent, then look", "journalctl -u node-agent, then look"),
            ("systemctl restart node-agent (what runs", "systemctl restart node-agent (what runs"),
            ("node-agent.service and node-agent-mounted.target", "node-agent.service and node-agent-mounted.target"),
            ("my-node-agent retry", "my-node-agent retry"),
            ("node-agent retrying", "node-agent retrying"),
        ] {
            assert_eq!(with_program(remedy, "/x/node-agent"), typed);
        }
    }

    #[test]
    fn the_path_is_typed_only_where_the_name_does_not_find_this_program() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str| dir.path().join(name);
        for folder in ["bin", "local", "my tools"] {
            fs::create_dir(of(folder)).unwrap();
        }
        for file in ["bin/node-agent", "local/node-agent", "my tools/node-agent"] {
            File::create(of(file)).unwrap();
        }
        let typed = |executable: &str| path_to_type(&of(executable), &[&of("none"), &of("bin")]);
        let path = |name: &str| of(name).display().to_string();
        assert_eq!(typed("bin/node-agent"), None);
        assert_eq!(typed("bin/node-agent (deleted)"), None, "an upgrade has replaced it");
        assert_eq!(typed("local/node-agent"), Some(path("local/node-agent")), "the name finds another program");
        assert_eq!(typed("my tools/node-agent"), Some(format!("'{}'", path("my tools/node-agent"))));
        assert_eq!(typed("gone/node-agent"), None, "a path that leads nowhere helps nobody");
        fs::remove_file(of("bin/node-agent")).unwrap();
        symlink(of("local/node-agent"), of("bin/node-agent")).unwrap();
        assert_eq!(typed("local/node-agent"), None, "the name leads to it");
    }

    #[test]
    fn a_remedy_with_aws_commands_refers_to_an_operators_machine() {
        assert!(remedy("take one: aws ec2 create-snapshot --volume-id vol-0").ends_with(OPERATOR));
        assert_eq!(remedy("raise timeouts.aws or look at aws itself"), "raise timeouts.aws or look at aws itself");
    }
}
