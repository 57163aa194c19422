//! Lines for people.

use super::{Kind, Level, Line};

/// `12:03:04.567 attach vol-0abc: wait: …`
pub(super) struct Text {
    colours: bool,
}

impl Text {
    pub(super) fn new() -> Self {
        Text { colours: super::colours() }
    }

    pub(super) fn render(&self, line: &Line) -> String {
        // Without the date, which the journal has.
        let time = line.time.get(11..23).unwrap_or(&line.time);
        let (colour, level) = match line.level {
            Level::Error => (RED, "error: "),
            Level::Warning => (YELLOW, "warning: "),
            Level::Info | Level::Debug => (CYAN, ""),
        };
        let place = line.place();
        let bar = if line.kind == Kind::Output { "| " } else { "" };
        let message = &line.message;
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

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Text = Text { colours: false };

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
    fn a_line_shows_time_place_level_and_message() {
        assert_eq!(FILE.render(&line(Kind::Wait, Level::Info)), "12:03:04.567 attach vol-0abc: it is so\n");
        assert_eq!(FILE.render(&line(Kind::Note, Level::Warning)), "12:03:04.567 attach vol-0abc: warning: it is so\n");
        let output = Line { volume: None, ..line(Kind::Output, Level::Info) };
        assert_eq!(FILE.render(&output), "12:03:04.567 attach: | it is so\n");
        let bare = Line { step: None, volume: None, ..line(Kind::Note, Level::Error) };
        assert_eq!(FILE.render(&bare), "12:03:04.567 error: it is so\n");
    }

    #[test]
    fn colours_surround_the_time_and_the_place() {
        let coloured = Text { colours: true }.render(&line(Kind::Wait, Level::Info));
        assert_eq!(coloured, "\x1b[2m12:03:04.567\x1b[0m \x1b[36mattach vol-0abc: \x1b[0mit is so\n");
    }
}
