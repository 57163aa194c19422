//! Lines for people.

use std::io::{self, IsTerminal};

use super::{Kind, Level, Line};

/// `12:03:04.567 attach vol-0abc: wait: …`
pub(super) struct Text {
    terminal: bool,
    colours: bool,
}

impl Text {
    pub(super) fn new() -> Self {
        Text { terminal: io::stderr().is_terminal(), colours: super::colours() }
    }

    pub(super) fn render(&self, line: &Line) -> String {
        // The date is the same for hours; the journal has it.
        let time = line.time.get(11..23).unwrap_or(&line.time);
        let (colour, level) = match line.level {
            Level::Error => (RED, "error: "),
            Level::Warning => (YELLOW, "warning: "),
            Level::Info | Level::Debug => (CYAN, ""),
        };
        let place = line.place();
        let bar = if line.kind == Kind::Output { "| " } else { "" };
        let message = if self.terminal { &on_terminal(&line.message) } else { &line.message };
        if self.colours {
            format!("{DIM}{time}{PLAIN} {colour}{place}{level}{PLAIN}{bar}{message}\n")
        } else {
            format!("{time} {place}{level}{bar}{message}\n")
        }
    }
}

// ECMA-48, SGR.
pub(super) const PLAIN: &str = "\x1b[0m";
pub(super) const DIM: &str = "\x1b[2m";
pub(super) const RED: &str = "\x1b[31m";
pub(super) const GREEN: &str = "\x1b[32m";
pub(super) const YELLOW: &str = "\x1b[33m";
pub(super) const CYAN: &str = "\x1b[36m";

/// As it may go to a terminal: what others wrote must not move its cursor, set its title or anything of that kind. Of a line
/// that was rewritten in place (`10%\r20%`), the last state.
pub(super) fn on_terminal(text: &str) -> String {
    let lines = text.split('\n').map(|line| {
        let line = console::strip_ansi_codes(line.trim_end_matches('\r'));
        let last = line.rsplit('\r').next().unwrap_or_default();
        last.chars().filter(|char| !char.is_control() || *char == '\t').collect::<String>()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Text = Text { terminal: false, colours: false };

    fn line(kind: Kind, level: Level) -> Line {
        Line {
            time: "2026-01-02T12:03:04.567Z".to_owned(),
            step: Some("attach".to_owned()),
            volume: Some("vol-0abc".to_owned()),
            kind,
            ..Line::note(level, "it is so")
        }
    }

    #[test]
    fn a_line_says_when_where_how_bad_and_what() {
        assert_eq!(FILE.render(&line(Kind::Wait, Level::Info)), "12:03:04.567 attach vol-0abc: it is so\n");
        assert_eq!(FILE.render(&line(Kind::Note, Level::Warning)), "12:03:04.567 attach vol-0abc: warning: it is so\n");
        let output = Line { volume: None, ..line(Kind::Output, Level::Info) };
        assert_eq!(FILE.render(&output), "12:03:04.567 attach: | it is so\n");
        let bare = Line { step: None, volume: None, ..line(Kind::Note, Level::Error) };
        assert_eq!(FILE.render(&bare), "12:03:04.567 error: it is so\n");
    }

    #[test]
    fn colours_surround_the_time_and_the_place() {
        let coloured = Text { terminal: true, colours: true }.render(&line(Kind::Wait, Level::Info));
        assert_eq!(coloured, "\x1b[2m12:03:04.567\x1b[0m \x1b[36mattach vol-0abc: \x1b[0mit is so\n");
    }

    #[test]
    fn what_others_wrote_does_not_control_the_terminal_but_stays_whole_in_a_file() {
        assert_eq!(on_terminal("\x1b]0;title\x07\x1b[31mred\x1b[0m\x1b[2J\tend\x08"), "red\tend");
        assert_eq!(on_terminal("10%\r55%\r100%\r"), "100%");
        assert_eq!(on_terminal("one\ntwo"), "one\ntwo");
        let hostile = Line { message: "\x1b[2J10%\r55%".to_owned(), ..line(Kind::Output, Level::Info) };
        assert!(Text { terminal: true, colours: false }.render(&hostile).ends_with("| 55%\n"));
        assert!(FILE.render(&hostile).ends_with("| \x1b[2J10%\r55%\n"));
    }
}
