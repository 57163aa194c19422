//! Live progress on a terminal: finished steps get a tick, running ones show their time and what they do, and all other lines
//! scroll by above.
//!
//! ```text
//! ✓ identity      41ms
//! ✓ attach        4.1s            vol-0123456789abcdef0
//!   filesystem vol-0123456789abcdef0: formatted /dev/nvme1n1 as xfs
//! ⠹ filesystem    1s of 30m       vol-0123456789abcdef0  the disk is blank: …
//! ```
//!
//! Only one thread writes, eight times a second at most: many lines do not make the screen flicker, and a terminal that blocks
//! (a session whose other end sleeps) does not delay the node.
//!
//! Not by the crate indicatif: it pads the lines above its bars with blanks to the terminal's edge instead of ending them, so
//! that they run together when copied or resized, and it panics or hoards memory once the terminal is gone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::thread;
use std::time::{Duration, SystemTime};

use console::{Term, truncate_str};

use super::outlet::{Backlog, Item as _, Outlet};
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

pub(super) struct Live {
    terminal: Term,
    style: Style,
    /// The running steps, and finished ones that may have another part.
    steps: BTreeMap<(StepName, Option<String>), Progress>,
    /// What a rolling update shows of its nodes, below the steps.
    table: Vec<String>,
    /// Printed above the steps with the next redraw.
    above: Backlog<Plain>,
    /// The screen needs a redraw.
    stale: bool,
    pub(super) outlet: Outlet<Plain>,
    /// How many rows at the bottom are redrawn.
    rows: usize,
    /// The painting thread runs.
    animated: bool,
}

struct Progress {
    /// The time of the parts that are finished.
    spent: Duration,
    state: State,
}

enum State {
    Running { began: SystemTime, updated: SystemTime, allowed: Option<Duration>, doing: String, waits: bool },
    Done { had_to_act: bool },
}

impl Live {
    /// `None` unless the standard error is a terminal that can move its cursor.
    pub(super) fn if_possible() -> Option<Self> {
        let term = std::env::var("TERM").unwrap_or_default();
        if !io::stderr().is_terminal() || matches!(term.as_str(), "" | "dumb") {
            return None;
        }
        Some(Live {
            terminal: Term::stderr(),
            style: Style::new(),
            steps: BTreeMap::new(),
            table: Vec::new(),
            above: Backlog::default(),
            stale: false,
            outlet: super::stderr(),
            rows: 0,
            animated: false,
        })
    }

    pub(super) fn show(&mut self, line: &Line) {
        let step = line.step.as_deref().and_then(StepName::named);
        match (line.kind, step) {
            (Kind::Begin | Kind::Start | Kind::Wait, Some(step)) => self.running(step, line),
            (Kind::Done, Some(step)) => self.done(step, line),
            (Kind::Failed, Some(step)) => self.failed(step, line),
            _ => self.above.push(Plain(self.style.line(line))),
        }
        self.redraw();
    }

    /// Shows these rows below all else, in place of those before.
    pub(super) fn show_table(&mut self, rows: Vec<String>) {
        self.table = rows;
        self.redraw();
    }

    /// Leaves the finished steps on the screen and removes the running ones.
    pub(super) fn finish(&mut self) {
        self.end_with(String::new());
    }

    /// As [`Live::finish`], with a text below.
    pub(super) fn say(&mut self, text: &str) {
        // ED: the rows below the text are cleared.
        self.end_with(format!("\x1b[J{text}\n"));
    }

    fn end_with(&mut self, text: String) {
        self.move_done_above(|_| true);
        self.steps.clear();
        self.table.clear();
        if !text.is_empty() {
            self.above.push(Plain(text));
        }
        self.redraw();
        self.paint();
    }

    /// Schedules a redraw.
    fn redraw(&mut self) {
        self.stale = true;
        if !self.animated {
            self.animated = thread::Builder::new().name("progress".to_owned()).spawn(animate).is_ok();
        }
        if !self.animated {
            self.paint();
        }
    }

    /// Updates the screen in one write, so that no intermediate state shows. Returns whether it succeeded: while the terminal
    /// blocks, only the newest state is kept.
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

    fn running(&mut self, step: StepName, line: &Line) {
        self.move_done_above(|before| before.precedes(step));
        let key = (step, line.volume.clone());
        let updated = time(line);
        let (spent, began) = match self.steps.remove(&key) {
            // The step's next part; the part before ended with its last line.
            Some(Progress { spent, state: State::Running { began, updated: before, .. } })
                if line.kind == Kind::Begin =>
            {
                (spent + before.duration_since(began).unwrap_or_default(), updated)
            }
            Some(Progress { spent, state: State::Running { began, .. } }) => (spent, began),
            Some(Progress { spent, .. }) => (spent, updated),
            None => (Duration::ZERO, updated),
        };
        let doing = if line.kind == Kind::Begin { String::new() } else { gist(line) };
        let allowed = line.allowed_ms.map(Duration::from_millis);
        let state = State::Running { began, updated, allowed, doing, waits: line.kind == Kind::Wait };
        self.steps.insert(key, Progress { spent, state });
    }

    fn done(&mut self, step: StepName, line: &Line) {
        let spent = self.remove(step, line);
        let state = State::Done { had_to_act: line.attempt != Some(0) };
        self.steps.insert((step, line.volume.clone()), Progress { spent, state });
    }

    fn failed(&mut self, step: StepName, line: &Line) {
        let spent = self.remove(step, line);
        self.move_done_above(|before| before.precedes(step));
        let why = line.why.as_deref().unwrap_or(&line.message);
        let cross = self.style.tint(RED, self.style.cross);
        let row = row(&cross, step, &rough(spent), line.volume.as_deref(), why);
        self.above.push(Plain(row + "\n"));
    }

    /// Removes a step, and returns how long it has run.
    fn remove(&mut self, step: StepName, line: &Line) -> Duration {
        match self.steps.remove(&(step, line.volume.clone())) {
            Some(Progress { spent, state: State::Running { began, .. } }) => {
                spent + time(line).duration_since(began).unwrap_or_default()
            }
            Some(Progress { spent, .. }) => spent,
            None => Duration::ZERO,
        }
    }

    /// Moves the done steps that `is_final` above, in the order of the sequence.
    fn move_done_above(&mut self, is_final: impl Fn(StepName) -> bool) {
        let moved = self.steps.extract_if(.., |(step, _), progress| !progress.is_running() && is_final(*step));
        for ((step, volume), progress) in moved {
            self.above.push(Plain(self.style.step(step, volume.as_deref(), &progress) + "\n"));
        }
    }

    fn is_busy(&self) -> bool {
        self.stale || self.steps.values().any(Progress::is_running)
    }

    /// The text and control sequences that update the screen.
    fn frame(&mut self) -> String {
        let (height, width) = self.terminal.size();
        let mut rows: Vec<_> = self
            .steps
            .iter()
            .map(|((step, volume), progress)| self.style.step(*step, volume.as_deref(), progress))
            .chain(self.table.iter().cloned())
            // A row that reached the edge would wrap on some terminals.
            .map(|row| truncate_str(&row, usize::from(width).saturating_sub(1), self.style.ellipsis).into_owned())
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
            while let Some((dropped, Plain(text))) = self.above.pop() {
                if dropped > 0 {
                    frame += &self.style.line(&Line::dropped(dropped));
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

impl Progress {
    fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }
}

/// Paints while a step runs or the screen is stale.
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

/// Colours, and symbols from the terminal's character set.
struct Style {
    colours: bool,
    spinner: &'static [&'static str],
    tick: &'static str,
    cross: &'static str,
    ellipsis: &'static str,
}

impl Style {
    fn new() -> Self {
        let colours = super::colours();
        // locale(7): the first that is set counts.
        let mut locales = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(|name| std::env::var(name).ok());
        let locale = locales.find(|value| !value.is_empty()).unwrap_or_default().to_uppercase();
        if locale.contains("UTF-8") || locale.contains("UTF8") {
            let spinner = &["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
            Style { colours, spinner, tick: "✓", cross: "✗", ellipsis: "…" }
        } else {
            Style { colours, spinner: &["|", "/", "-", "\\"], tick: "+", cross: "x", ellipsis: "..." }
        }
    }

    fn tint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("{colour}{text}{PLAIN}") } else { text.to_owned() }
    }

    /// A step's row.
    fn step(&self, step: StepName, volume: Option<&str>, progress: &Progress) -> String {
        match &progress.state {
            State::Done { had_to_act } => {
                let how = if *had_to_act { String::new() } else { self.tint(DIM, "already so") };
                row(&self.tint(GREEN, self.tick), step, &rough(progress.spent), volume, &how)
            }
            State::Running { began, allowed, doing, waits, .. } => {
                let elapsed = SystemTime::now().duration_since(*began).unwrap_or_default();
                let frame = elapsed.as_millis() / FRAME.as_millis() % self.spinner.len() as u128;
                let spinner = self.spinner[usize::try_from(frame).unwrap_or_default()];
                let of = allowed.map(|allowed| format!(" of {}", rough(allowed))).unwrap_or_default();
                let time = humantime::format_duration(Duration::from_secs(elapsed.as_secs()));
                let doing = self.tint(if *waits { YELLOW } else { DIM }, doing);
                row(&self.tint(CYAN, spinner), step, &format!("{time}{of}"), volume, &doing)
            }
        }
    }

    /// A line that is not a step's row.
    fn line(&self, line: &Line) -> String {
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

fn row(symbol: &str, step: StepName, time: &str, volume: Option<&str>, rest: &str) -> String {
    let mut row = format!("{symbol} {:STEP_WIDTH$}  {time:TIME_WIDTH$}", step.as_str());
    for part in [volume.unwrap_or_default(), rest] {
        if !part.is_empty() {
            row.extend(["  ", part]);
        }
    }
    row.truncate(row.trim_end().len());
    row
}

/// Why a step acts, waits or has failed, on one row and without the volume, which has its own column.
fn gist(line: &Line) -> String {
    let why = line.why.as_deref().unwrap_or(&line.message);
    let about = format!("volume {} ", line.volume.as_deref().unwrap_or_default());
    why.strip_prefix(&about).unwrap_or(why).replace(['\n', '\t'], " ")
}

fn time(line: &Line) -> SystemTime {
    humantime::parse_rfc3339(&line.time).unwrap_or_else(|_| SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steps_reason_is_shown_on_one_row_without_its_volume() {
        let gist_of = |why: &str| {
            let volume = Some("vol-0abc".to_owned());
            gist(&Line { volume, why: Some(why.to_owned()), ..Line::note(Level::Info, "wait: …") })
        };
        assert_eq!(gist_of("volume vol-0abc is attached to i-0 (running)"), "is attached to i-0 (running)");
        assert_eq!(gist_of("make\nxfs"), "make xfs");
        assert_eq!(gist_of("volume vol-0abcdef is another"), "volume vol-0abcdef is another");
    }

    #[test]
    fn rows_are_aligned_in_columns() {
        assert_eq!(row("+", StepName::Identity, "41ms", None, ""), "+ identity      41ms");
        let volume = Some("vol-0abc");
        assert_eq!(
            row("/", StepName::HealthCheck, "12m 34s of 30m", volume, "held"),
            "/ health-check  12m 34s of 30m  vol-0abc  held"
        );
    }
}
