//! Live progress on a terminal: what is done is ticked off, what is under way shows its clock and what it is at, and all that
//! is said scrolls by above.
//!
//! ```text
//! ✓ identity      41ms
//! ✓ attach        4.1s            vol-0123456789abcdef0
//!   filesystem vol-0123456789abcdef0: formatted /dev/nvme1n1 as xfs
//! ⠹ filesystem    1s of 30m       vol-0123456789abcdef0  the disk is blank: …
//! ```
//!
//! Only a thread of its own writes, eight times a second at most: however much is said, the screen stays calm, and a terminal
//! that takes nothing (a session whose other end sleeps) does not hold the node up.
//!
//! Not by the crate indicatif: what it prints above its bars ends in blanks up to the terminal's edge instead of a newline,
//! so that copied or resized it is one long line, and it panics or hoards what it cannot write once the terminal is gone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use console::{Term, truncate_str};
use serde::de::value::Error as Unknown;
use serde::de::{Deserialize, IntoDeserializer};

use super::outlet::{Backlog, Item, Outlet};
use super::text::{CYAN, DIM, GREEN, PLAIN, RED, YELLOW};
use super::{Kind, Level, Line, Plain, Sink};
use crate::sequence::StepName;
use crate::time::rough;

/// Between two redraws.
const FRAME: Duration = Duration::from_millis(125);

/// `health-check`
const STEP_WIDTH: usize = 12;
/// `12m 34s of 30m`
const TIME_WIDTH: usize = 14;

/// What is on the screen.
pub(super) struct Live {
    terminal: Term,
    look: Look,
    /// What is under way, and what is done but may go on (some steps have several parts).
    steps: BTreeMap<(StepName, Option<String>), Shown>,
    /// To be printed above with the next redraw.
    above: Backlog<Above>,
    /// What is on the screen is not how things are.
    stale: bool,
    outlet: Outlet<Plain>,
    /// How many rows at the bottom are redrawn.
    rows: usize,
    /// The thread runs.
    animated: bool,
}

/// Rows that are not redrawn.
struct Above(String);

impl Item for Above {
    fn size(&self) -> usize {
        self.0.len()
    }

    fn dropped(lines: u64) -> Self {
        Above(Look::new().said(&Line::dropped(lines)))
    }
}

struct Shown {
    /// By the parts before.
    spent: Duration,
    now: Now,
}

enum Now {
    AtWork { began: SystemTime, told: SystemTime, allowed: Option<Duration>, doing: String, waits: bool },
    Done { had_to_act: bool },
}

impl Live {
    /// If the standard error is a terminal that can move its cursor.
    pub(super) fn if_possible() -> Option<Self> {
        let term = std::env::var("TERM").unwrap_or_default();
        if !io::stderr().is_terminal() || matches!(term.as_str(), "" | "dumb") {
            return None;
        }
        Some(Live {
            terminal: Term::stderr(),
            look: Look::new(),
            steps: BTreeMap::new(),
            above: Backlog::default(),
            stale: false,
            outlet: super::stderr(),
            rows: 0,
            animated: false,
        })
    }

    pub(super) fn take(&mut self, line: &Line) {
        let step = line.step.as_deref().and_then(step_name);
        match (line.kind, step) {
            (Kind::Begin | Kind::Start | Kind::Wait, Some(step)) => self.at_work(step, line),
            (Kind::Done, Some(step)) => self.done(step, line),
            (Kind::Failed, Some(step)) => self.failed(step, line),
            _ => self.above.push(Above(self.look.said(line))),
        }
        self.changed();
    }

    /// What is done stays, what is under way goes.
    pub(super) fn finish(&mut self) {
        self.settle(|_| true);
        self.steps.clear();
        self.changed();
        self.paint();
    }

    /// As [`Live::finish`], with a text below.
    pub(super) fn say(&mut self, text: &str) {
        self.settle(|_| true);
        self.steps.clear();
        // Below it there is nothing more.
        self.above.push(Above(format!("\x1b[J{text}\n")));
        self.changed();
        self.paint();
    }

    /// Has it painted soon.
    fn changed(&mut self) {
        self.stale = true;
        if !self.animated {
            self.animated = thread::Builder::new().name("progress".to_owned()).spawn(animate).is_ok();
        }
        if !self.animated {
            self.paint();
        }
    }

    /// Brings the screen up to date, in one write so that no state between shows. Returns whether it is: while the terminal
    /// takes nothing, only the newest state is kept for it.
    pub(super) fn paint(&mut self) -> bool {
        if self.outlet.is_idle() {
            let frame = self.frame();
            if !frame.is_empty() {
                self.outlet.push(Plain(frame));
            }
            self.stale = false;
        }
        !self.stale
    }

    pub(super) fn flush(&self) -> impl FnOnce(Instant) + use<> {
        self.outlet.flush()
    }

    fn at_work(&mut self, step: StepName, line: &Line) {
        self.settle(|before| before.precedes(step));
        let key = (step, line.volume.clone());
        let told = time(line);
        let (spent, began) = match self.steps.remove(&key) {
            // The step's next part, some time after what was told of the one before.
            Some(Shown { spent, now: Now::AtWork { began, told: before, .. } }) if line.kind == Kind::Begin => {
                (spent + before.duration_since(began).unwrap_or_default(), told)
            }
            Some(Shown { spent, now: Now::AtWork { began, .. } }) => (spent, began),
            Some(Shown { spent, .. }) => (spent, told),
            None => (Duration::ZERO, told),
        };
        let doing = if line.kind == Kind::Begin { String::new() } else { gist(line) };
        let allowed = line.allowed_ms.map(Duration::from_millis);
        let now = Now::AtWork { began, told, allowed, doing, waits: line.kind == Kind::Wait };
        self.steps.insert(key, Shown { spent, now });
    }

    fn done(&mut self, step: StepName, line: &Line) {
        let spent = self.ended(step, line);
        let had_to_act = line.attempt != Some(0);
        self.steps.insert((step, line.volume.clone()), Shown { spent, now: Now::Done { had_to_act } });
    }

    fn failed(&mut self, step: StepName, line: &Line) {
        let spent = self.ended(step, line);
        self.settle(|before| before.precedes(step));
        let why = line.why.as_deref().unwrap_or(&line.message);
        let cross = self.look.tint(RED, self.look.cross);
        let row = row(&cross, step, &rough(spent), line.volume.as_deref(), why);
        self.above.push(Above(row + "\n"));
    }

    /// How long the step was at work, now that it is not any more.
    fn ended(&mut self, step: StepName, line: &Line) -> Duration {
        match self.steps.remove(&(step, line.volume.clone())) {
            Some(Shown { spent, now: Now::AtWork { began, .. } }) => {
                spent + time(line).duration_since(began).unwrap_or_default()
            }
            Some(Shown { spent, .. }) => spent,
            None => Duration::ZERO,
        }
    }

    /// Moves what is done and has no further part above, in the order of the sequence.
    fn settle(&mut self, settled: impl Fn(StepName) -> bool) {
        let look = &self.look;
        let above = &mut self.above;
        self.steps.retain(|(step, volume), shown| {
            let keep = matches!(shown.now, Now::AtWork { .. }) || !settled(*step);
            if !keep {
                above.push(Above(look.shown(*step, volume.as_deref(), shown) + "\n"));
            }
            keep
        });
    }

    fn is_busy(&self) -> bool {
        self.stale || self.steps.values().any(|shown| matches!(shown.now, Now::AtWork { .. }))
    }

    /// What brings the screen up to date.
    fn frame(&mut self) -> String {
        let (height, width) = self.terminal.size();
        let mut rows: Vec<_> = self
            .steps
            .iter()
            .map(|((step, volume), shown)| self.look.shown(*step, volume.as_deref(), shown))
            // A row that reached the edge would wrap on some terminals.
            .map(|row| truncate_str(&row, usize::from(width).saturating_sub(1), self.look.cut).into_owned())
            .collect();
        rows.truncate(usize::from(height).saturating_sub(1));
        if rows.is_empty() && self.rows == 0 && self.above.is_empty() {
            return String::new();
        }
        // ECMA-48: CUU, ED to the end of the screen, EL to the end of the row.
        let mut frame = String::from("\r");
        if self.rows > 1 {
            // Writing to a String cannot fail.
            let _ = write!(frame, "\x1b[{}A", self.rows - 1);
        }
        let is_cleared = !self.above.is_empty();
        if is_cleared {
            frame += "\x1b[J";
            while let Some((dropped, Above(text))) = self.above.pop() {
                if dropped > 0 {
                    frame += &Above::dropped(dropped).0;
                }
                frame += &text;
            }
        }
        self.rows = rows.len();
        frame += &rows.join("\x1b[K\n");
        if !(is_cleared && rows.is_empty()) {
            frame += "\x1b[J";
        }
        frame
    }
}

/// Paints while something is under way.
fn animate() {
    loop {
        if let Sink::Live(live) = &mut *super::sink() {
            live.paint();
            if !live.is_busy() {
                live.animated = false;
                return;
            }
        }
        thread::sleep(FRAME);
    }
}

/// Colours, and signs that the terminal's character set has.
struct Look {
    colours: bool,
    spinner: &'static [&'static str],
    tick: &'static str,
    cross: &'static str,
    cut: &'static str,
}

impl Look {
    fn new() -> Self {
        let colours = super::colours();
        // locale(7): the first that is set counts.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(|name| std::env::var(name).ok());
        let locale = locale.into_iter().find(|value| !value.is_empty()).unwrap_or_default().to_uppercase();
        if locale.contains("UTF-8") || locale.contains("UTF8") {
            let spinner = &["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
            Look { colours, spinner, tick: "✓", cross: "✗", cut: "…" }
        } else {
            Look { colours, spinner: &["|", "/", "-", "\\"], tick: "+", cross: "x", cut: "..." }
        }
    }

    fn tint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("{colour}{text}{PLAIN}") } else { text.to_owned() }
    }

    /// A step's row.
    fn shown(&self, step: StepName, volume: Option<&str>, shown: &Shown) -> String {
        match &shown.now {
            Now::Done { had_to_act } => {
                let how = if *had_to_act { String::new() } else { self.tint(DIM, "already so") };
                row(&self.tint(GREEN, self.tick), step, &rough(shown.spent), volume, &how)
            }
            Now::AtWork { began, allowed, doing, waits, .. } => {
                let elapsed = SystemTime::now().duration_since(*began).unwrap_or_default();
                let frame = elapsed.as_millis() / FRAME.as_millis() % self.spinner.len() as u128;
                let sign = self.spinner[usize::try_from(frame).unwrap_or_default()];
                let of = allowed.map(|allowed| format!(" of {}", rough(allowed))).unwrap_or_default();
                let time = humantime::format_duration(Duration::from_secs(elapsed.as_secs()));
                let doing = self.tint(if *waits { YELLOW } else { DIM }, doing);
                row(&self.tint(CYAN, sign), step, &format!("{time}{of}"), volume, &doing)
            }
        }
    }

    /// A line that is no step's row.
    fn said(&self, line: &Line) -> String {
        let (place, message) = (line.place(), &line.message);
        match (line.kind, line.level) {
            (Kind::Output, _) => format!("  {} {message}\n", self.tint(DIM, "|")),
            (_, Level::Error) => format!("{} {place}{message}\n", self.tint(RED, self.cross)),
            (_, Level::Warning) => format!("{} {place}{message}\n", self.tint(YELLOW, "!")),
            (_, Level::Info) => format!("  {place}{message}\n"),
            (_, Level::Debug) => format!("  {}\n", self.tint(DIM, &format!("{place}{message}"))),
        }
    }
}

fn row(sign: &str, step: StepName, time: &str, volume: Option<&str>, rest: &str) -> String {
    let mut row = format!("{sign} {:STEP_WIDTH$}  {time:TIME_WIDTH$}", step.as_str());
    for part in [volume.unwrap_or_default(), rest] {
        if !part.is_empty() {
            row += "  ";
            row += part;
        }
    }
    row.truncate(row.trim_end().len());
    row
}

/// Why a step acts, waits or has failed, on one row: the volume has its own place.
fn gist(line: &Line) -> String {
    let why = line.why.as_deref().unwrap_or(&line.message);
    let about = format!("volume {} ", line.volume.as_deref().unwrap_or_default());
    why.strip_prefix(&about).unwrap_or(why).replace(['\n', '\t'], " ")
}

fn time(line: &Line) -> SystemTime {
    humantime::parse_rfc3339(&line.time).unwrap_or_else(|_| SystemTime::now())
}

fn step_name(name: &str) -> Option<StepName> {
    let step: Result<StepName, Unknown> = StepName::deserialize(name.into_deserializer());
    step.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_only_the_gist_of_what_a_step_is_at() {
        let gist_of = |why: &str| {
            let volume = Some("vol-0abc".to_owned());
            gist(&Line { volume, why: Some(why.to_owned()), ..Line::note(Level::Info, "wait: …") })
        };
        assert_eq!(gist_of("volume vol-0abc is attached to i-0 (running)"), "is attached to i-0 (running)");
        assert_eq!(gist_of("make\nxfs"), "make xfs");
        assert_eq!(gist_of("volume vol-0abcdef is another"), "volume vol-0abcdef is another");
    }

    #[test]
    fn rows_stand_in_columns() {
        assert_eq!(row("+", StepName::Identity, "41ms", None, ""), "+ identity      41ms");
        let volume = Some("vol-0abc");
        assert_eq!(
            row("/", StepName::HealthCheck, "12m 34s of 30m", volume, "held"),
            "/ health-check  12m 34s of 30m  vol-0abc  held"
        );
    }
}
