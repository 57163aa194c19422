//! The picture of a roll: `--plot FILE`. A row for each node, its phases, and what was waited for.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::course::{Activity, Stretch};
use super::decision::End;
use super::follow::Replacement;
use super::marks::AwsTime;
use super::report::About;
use super::{Roll, ending, since_boot, timeline};
use crate::failure::{Code, Failure};
use crate::log::Level;
use crate::plot::{Bar, Fill, Note, Panel, Plot, Row, Tone};
use crate::time::rough;

/// How many of a node's waits have a line of their own: the longest.
const LINES: usize = 4;
/// AWS's times are whole seconds: what is shorter is not drawn as a wait.
const SHORTEST: Duration = Duration::from_secs(1);
const LEGEND: [(Fill, &str); 9] = [
    (Fill::Blue, "the roll looks and acts; attach"),
    (Fill::Green, "check, bake"),
    (Fill::Violet, "drain, hooks"),
    (Fill::Grey, "EC2's end"),
    (Fill::Slate, "until the interface is free"),
    (Fill::Pale, "until a launch succeeds"),
    (Fill::Teal, "boot"),
    (Fill::Hatched, "waits, with the reason below"),
    (Fill::Red, "failed"),
];

/// The file that the picture is for, open from the beginning: one that cannot be written is found before anything is taken.
#[derive(Debug)]
pub(super) struct Picture {
    path: PathBuf,
    file: File,
}

impl Picture {
    /// Opens the file. What is in it stays until the roll ends.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(|error| {
            Failure::new(Code::RollUsage, format!("--plot {}: it cannot be written: {error}", path.display()))
        })?;
        Ok(Picture { path: path.to_owned(), file })
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        // A pipe or a terminal has no length.
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        self.file.write_all(text.as_bytes())
    }
}

impl Roll {
    /// Writes the picture, where one is wanted. The roll is over: a failure is a warning.
    pub(super) fn write_picture(&mut self, result: &Result<End, Failure>) {
        let Some(mut picture) = self.picture.take() else { return };
        let written = picture.write(&self.picture_of(result).svg());
        let path = picture.path.display();
        let (level, text) = match written {
            Ok(()) => (Level::Info, format!("where the time went is drawn in {path}")),
            Err(error) => (Level::Warning, format!("the picture {path} was not written: {error}")),
        };
        self.report.event(level, "plot", About::default(), &text);
    }

    fn picture_of(&self, result: &Result<End, Failure>) -> Plot {
        let axis = Axis { began: self.course.began, now: since_boot(), aws_now: self.aws.clock.now() };
        let mut rows: Vec<Row> = Vec::new();
        rows.extend(self.row("", "the roll", &axis, result));
        let mut nodes: Vec<Row> =
            self.settings.iter().filter_map(|(group, setting)| self.row(group, &setting.id, &axis, result)).collect();
        nodes.sort_by_key(|row| row.bars.iter().map(|bar| bar.from).min());
        let untouched = self.settings.len() - nodes.len();
        rows.extend(nodes);
        let mut head = vec![match result {
            Ok(end) => Note::new(Tone::Plain, ending(end)),
            Err(failure) => Note::new(Tone::Failed, failure.to_string()),
        }];
        if untouched > 0 {
            head.push(Note::new(Tone::Dim, format!("groups that the roll did not touch: {untouched}")));
        }
        let is_used = |fill: Fill| rows.iter().any(|row| row.bars.iter().any(|bar| bar.fill == fill));
        let legend = LEGEND.into_iter().filter(|(fill, _)| is_used(*fill)).collect();
        let list = self.options.cluster.clone().unwrap_or_else(|| self.options.asg.join(", "));
        let heading = format!(
            "run {}: {} in all, from {}",
            self.flag.mark.run,
            rough(axis.now.saturating_sub(axis.began)),
            self.course.began_at
        );
        Plot { title: format!("Roll of {list}"), notes: head, legend, panels: vec![Panel { heading, rows }] }
    }

    /// A node's row; none if the roll had nothing to do with it.
    fn row(&self, group: &str, name: &str, axis: &Axis, result: &Result<End, Failure>) -> Option<Row> {
        let at_work = self.follower.at_work.iter().filter(|replacement| replacement.group == group);
        let past = self.follower.past.iter().filter(|replacement| replacement.group == group);
        let replaced: Vec<(&Replacement, bool)> =
            past.map(|one| (one, true)).chain(at_work.map(|one| (one, false))).collect();
        let stretches: Vec<(&Stretch, Duration)> =
            self.course_of(axis.now).filter(|(stretch, _)| stretch.group == group).collect();
        if replaced.is_empty() && stretches.is_empty() {
            return None;
        }
        let mut row = Row { name: name.to_owned(), about: group.to_owned(), ..Row::default() };
        let (held, own): (Vec<_>, Vec<_>) =
            stretches.iter().partition(|(stretch, _)| stretch.activity == Activity::Held);
        row.bars.extend(own.iter().filter_map(|(stretch, to)| drawn(stretch, *to, axis)));
        for (replacement, is_back) in &replaced {
            add_phases(&mut row, replacement, *is_back, axis);
        }
        // Over the phase that lasts meanwhile.
        row.bars.extend(held.iter().filter_map(|(stretch, to)| drawn(stretch, *to, axis)));
        row.notes.extend(waits(&stretches));
        for (why, count) in replaced.iter().flat_map(|(one, _)| &one.failed) {
            row.notes.push(Note::new(Tone::Failed, format!("launches that failed: {count}: {why}")));
        }
        // The roll ends here, and this is the node that it was at.
        let is_last = self.course.stretches.last().is_some_and(|last| last.group == group);
        if let Err(failure) = result
            && is_last
        {
            let end = axis.now.saturating_sub(axis.began);
            row.bars.push(Bar {
                from: end,
                to: end,
                fill: Fill::Red,
                label: String::new(),
                story: failure.to_string(),
            });
            row.notes.push(Note::new(Tone::Failed, format!("the roll ended here: {failure}")));
        }
        if self.memory.done.contains(group) {
            "done".clone_into(&mut row.result);
        }
        Some(row)
    }

    /// What the roll did, each with its end.
    fn course_of(&self, now: Duration) -> impl Iterator<Item = (&Stretch, Duration)> {
        let all = &self.course.stretches;
        let ends = all.iter().skip(1).map(|next| next.from).chain([now]);
        all.iter().zip(ends)
    }
}

/// The axis: from the beginning of the roll until now.
struct Axis {
    began: Duration,
    now: Duration,
    /// The present time by AWS's clock.
    aws_now: Option<AwsTime>,
}

impl Axis {
    /// Where a time since the boot of this machine lies.
    fn at(&self, time: Duration) -> Duration {
        time.saturating_sub(self.began)
    }

    /// Where a time of AWS's lies.
    fn at_aws(&self, time: AwsTime) -> Duration {
        let ago = self.aws_now.map_or(0, |now| now.saturating_sub(time));
        self.at(self.now.saturating_sub(Duration::from_secs(u64::try_from(ago).unwrap_or_default())))
    }
}

/// The bar of what the roll did itself. What it saw of a node that was out is drawn by the node's phases.
fn drawn(stretch: &Stretch, to: Duration, axis: &Axis) -> Option<Bar> {
    let (fill, label) = match stretch.activity {
        Activity::Follows => return None,
        Activity::Prepares => (Fill::Blue, "prepares"),
        Activity::Turn => (Fill::Blue, "last look"),
        Activity::Checks => (Fill::Green, "check"),
        Activity::Bakes => (Fill::Green, "bake"),
        Activity::ChecksAgain | Activity::Waits | Activity::Held => (Fill::Hatched, ""),
    };
    let lasted = to.saturating_sub(stretch.from);
    if fill == Fill::Hatched && lasted < SHORTEST {
        return None;
    }
    let name = if label.is_empty() { "waits" } else { label };
    let why = if stretch.why.is_empty() { String::new() } else { format!(": {}", stretch.why) };
    let story = format!("{name} {}{why}", rough(lasted));
    Some(Bar { from: axis.at(stretch.from), to: axis.at(to), fill, label: label.to_owned(), story })
}

/// The phases of a replacement; of one that is not back also the one that lasts.
fn add_phases(row: &mut Row, replacement: &Replacement, is_back: bool, axis: &Axis) {
    let mut told: Vec<String> = Vec::new();
    for (name, from, to) in timeline::phases(replacement, axis.aws_now.filter(|_| !is_back)) {
        let (from, to) = (axis.at_aws(from), axis.at_aws(to));
        let fill = match name {
            "drain" | "hooks" => Fill::Violet,
            "EC2's end" => Fill::Grey,
            "interface free" => Fill::Slate,
            "launch" => Fill::Pale,
            "boot" => Fill::Teal,
            _ => Fill::Blue,
        };
        let story = format!("{name}: {}", timeline::shown(to.saturating_sub(from)));
        told.push(format!("{name} {}", timeline::shown(to.saturating_sub(from))));
        row.bars.push(Bar { from, to, fill, label: name.to_owned(), story });
    }
    let out = replacement.out_for(axis.aws_now);
    row.took = Some(row.took.unwrap_or_default() + out);
    let end = if is_back { "" } else { " and not back" };
    let text = format!("out for {}{end}: {}", timeline::shown(out), told.join(", "));
    row.notes.push(Note::new(Tone::Dim, text));
    if replacement.tries > 0 {
        let text = format!("launches that failed until the interface was free: {}", replacement.tries);
        row.notes.push(Note::new(Tone::Dim, text));
    }
}

/// The longest waits, in the order of time; those for the same reason are one line.
fn waits(stretches: &[(&Stretch, Duration)]) -> Vec<Note> {
    let mut sums: Vec<(&str, Duration)> = Vec::new();
    let is_wait =
        |stretch: &Stretch| matches!(stretch.activity, Activity::ChecksAgain | Activity::Waits | Activity::Held);
    for (stretch, to) in stretches.iter().filter(|(stretch, _)| is_wait(stretch)) {
        let lasted = to.saturating_sub(stretch.from);
        match sums.iter_mut().find(|(why, _)| *why == stretch.why) {
            Some((_, sum)) => *sum += lasted,
            None => sums.push((&stretch.why, lasted)),
        }
    }
    sums.retain(|(_, lasted)| *lasted >= SHORTEST);
    let mut longest: Vec<Duration> = sums.iter().map(|(_, lasted)| *lasted).collect();
    longest.sort_unstable_by_key(|lasted| std::cmp::Reverse(*lasted));
    let least = longest.get(LINES - 1).copied().unwrap_or_default();
    let lines = sums.iter().filter(|(_, lasted)| *lasted >= least).take(LINES);
    lines.map(|(why, lasted)| Note::new(Tone::Wait, format!("waits {}: {why}", rough(*lasted)))).collect()
}
