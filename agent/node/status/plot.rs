//! The picture of a launch, and of a departure: `status --plot`. From the records alone.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::report::{self, Overall, Report, StepOutcome, StepReport};
use super::text::{headline, subject};
use crate::plot::{Bar, Fill, Note, Panel, Plot, Row, Tone};
use crate::sequence::{Sequence, StepName};
use crate::state::{Phase, RunRecord, State};
use crate::time::{millis, rough};

/// How many of a step's waits have a line of their own: the longest.
const LINES: usize = 4;
const LEGEND: [(Fill, &str); 5] = [
    (Fill::Blue, "work"),
    (Fill::Violet, "a hook of the user's script"),
    (Fill::Hatched, "waits, with the reason below"),
    (Fill::Red, "failed"),
    (Fill::Pale, "not ended"),
];

/// The picture of this state.
pub(super) fn of(state: &State, report: &Report, now: SystemTime) -> Plot {
    let has_departure = state.departure.is_some();
    // What has become of the boot sequence once a departure was ordered: it does not run any more.
    let of_boot = if has_departure { Overall::Phase(Phase::Stopped) } else { report.state };
    let steps = report::steps(state, Sequence::Boot, of_boot, now);
    let mut panels = vec![panel("The boot sequence", &steps, &state.earlier_runs)];
    if has_departure {
        panels.push(panel("The departure", &report.steps, &[]));
    }
    let is_used =
        |fill: Fill| panels.iter().flat_map(|panel| &panel.rows).any(|row| row.bars.iter().any(|bar| bar.fill == fill));
    Plot {
        title: subject(report),
        notes: head(report, &steps),
        legend: LEGEND.into_iter().filter(|(fill, _)| is_used(*fill)).collect(),
        panels,
    }
}

/// How the node stands, why, and when the machine was started.
fn head(report: &Report, steps: &[StepReport]) -> Vec<Note> {
    let is_bad = matches!(report.state, Overall::Phase(Phase::Held | Phase::Failed) | Overall::Dead);
    let since = report.since.as_deref().filter(|since| !since.is_empty());
    let since = since.map(|since| format!(", since {since}")).unwrap_or_default();
    let tone = if is_bad { Tone::Failed } else { Tone::Plain };
    let mut notes = vec![Note::new(tone, format!("{}{since}", headline(report)))];
    if let Some(fault) = &report.failure {
        let step = fault.step.map(|step| format!("{step}: ")).unwrap_or_default();
        notes.push(Note::new(tone, format!("{step}{}", fault.error.public)));
    }
    let first = steps.iter().filter_map(|step| Some((step.began_ms?, unix(step)?))).min();
    if let Some((began, at)) = first {
        let started = shown(at.saturating_sub(began));
        notes.push(Note::new(Tone::Dim, format!("the machine was started at {started}")));
    }
    notes
}

/// The steps of one sequence on their axis, below the runs that have failed before.
fn panel(name: &str, steps: &[StepReport], runs: &[RunRecord]) -> Panel {
    let recorded = || steps.iter().filter(|step| step.started_at.is_some());
    // The time since the machine's start, unless version 0.1.0 has written one of them.
    let is_since_start = recorded().all(|step| step.began_ms.is_some());
    let runs = if is_since_start { runs } else { &[] };
    let begin = |step: &StepReport| if is_since_start { step.began_ms } else { unix(step) };
    let first = recorded().filter_map(begin).min();
    let origin = runs.iter().map(|run| run.began_ms).chain(first).min().unwrap_or_default();
    let next_runs = runs.iter().skip(1).map(|run| Some(run.began_ms)).chain([first]);
    let mut rows: Vec<Row> = runs
        .iter()
        .zip(next_runs)
        .enumerate()
        .map(|(number, (run, next))| run_row(number + 1, run, next, origin))
        .collect();
    rows.extend(steps.iter().map(|step| step_row(step, begin(step).map(|begin| begin.saturating_sub(origin)))));
    let end = rows.iter().flat_map(|row| &row.bars).map(|bar| bar.to).max();
    let since_start =
        if is_since_start { format!(", {} after the machine's start", rough(ms(origin))) } else { String::new() };
    let at = runs.first().map(|run| run.started_at.clone());
    let at = at.or_else(|| recorded().min_by_key(|step| begin(step))?.started_at.clone());
    let heading = match (end, at) {
        (Some(end), Some(at)) => format!("{name}: {} in all, from {at}{since_start}", rough(end)),
        _ => format!("{name}: no step has begun"),
    };
    Panel { heading, rows }
}

/// A run before the present one, and the time until the next one.
fn run_row(number: usize, run: &RunRecord, next: Option<u64>, origin: u64) -> Row {
    let begin = run.began_ms.saturating_sub(origin);
    let end = begin.saturating_add(run.took_ms);
    let (result, fill) = match run.phase {
        Phase::Held | Phase::Failed => ("failed", Fill::Red),
        Phase::Stopped => ("told to stop", Fill::Pale),
        _ => ("cut off", Fill::Pale),
    };
    let step = run.step.as_ref().and_then(crate::state::words::Word::known);
    let why = format!("{}{}", step.map(|step| format!("{step}: ")).unwrap_or_default(), run.why);
    let story = format!("run {number}, {result}: {}\n{why}", rough(ms(run.took_ms)));
    let mut bars = vec![bar(begin, end, fill, story)];
    if let Some(next) = next.map(|next| next.saturating_sub(origin)).filter(|next| *next > end) {
        let word = if run.phase == Phase::Held { "held for repair" } else { "until the next run" };
        bars.push(bar(end, next, Fill::Hatched, format!("{word}: {}", rough(ms(next - end)))));
    }
    let notes = if why.is_empty() { Vec::new() } else { vec![Note::new(Tone::Failed, why)] };
    let (name, about) = (format!("run {number}"), result.to_owned());
    Row { name, about, took: Some(ms(run.took_ms)), bars, result: String::new(), notes }
}

/// A step, or one volume's, that begins so many milliseconds after the axis.
fn step_row(step: &StepReport, begin: Option<u64>) -> Row {
    let is_hook = matches!(step.step, StepName::Configure | StepName::HealthCheck | StepName::Drain);
    let about = step.volume.clone().unwrap_or_else(|| if is_hook { "hook".to_owned() } else { String::new() });
    let mut row = Row { name: step.step.to_string(), about, result: result(step), ..Row::default() };
    if let Some(error) = &step.error {
        row.notes.push(Note::new(Tone::Failed, format!("failed: {}", error.public)));
    }
    let Some(begin) = begin else { return row };
    let fill = match step.outcome {
        StepOutcome::Failed => Fill::Red,
        StepOutcome::Running | StepOutcome::Interrupted => Fill::Pale,
        _ if is_hook => Fill::Violet,
        _ => Fill::Blue,
    };
    row.took = Some(ms(step.took_ms));
    let parts = parts(step);
    let end = parts.last().map_or(begin, |(_, end)| begin.saturating_add(*end));
    let story = story(step);
    let bars =
        parts.iter().map(|(from, to)| bar(begin.saturating_add(*from), begin.saturating_add(*to), fill, story.clone()));
    row.bars.extend(bars);
    let mut waits: Vec<(u64, u64, &str)> = waits(step, end - begin).collect();
    for (from, to, why) in &waits {
        let story = format!("{} waits {}: {why}", step.step, rough(ms(to - from)));
        row.bars.push(bar(begin.saturating_add(*from), begin.saturating_add(*to), Fill::Hatched, story));
    }
    if step.outcome == StepOutcome::Failed && !waits.is_empty() {
        row.bars.push(bar(end, end, Fill::Red, story));
    }
    waits.sort_by_key(|(from, to, _)| std::cmp::Reverse(to - from));
    let rest = waits.split_off(waits.len().min(LINES));
    waits.sort_by_key(|(from, ..)| *from);
    let line =
        |(from, to, why): (u64, u64, &str)| Note::new(Tone::Wait, format!("waits {}: {why}", rough(ms(to - from))));
    let mut notes: Vec<Note> = waits.into_iter().map(line).collect();
    if !rest.is_empty() {
        let sum = rest.iter().fold(0_u64, |sum, (from, to, _)| sum.saturating_add(to - from));
        notes.push(Note::new(Tone::Wait, format!("and {} shorter waits, {} together", rest.len(), rough(ms(sum)))));
    }
    notes.append(&mut row.notes);
    Row { notes, ..row }
}

/// From and to, after the beginning of the step.
fn parts(step: &StepReport) -> Vec<(u64, u64)> {
    let mut parts: Vec<(u64, u64)> =
        step.parts.iter().map(|part| (part.after_ms, part.after_ms.saturating_add(part.took_ms))).collect();
    match parts.last_mut() {
        None => parts.push((0, step.took_ms)),
        // The record of a step that runs is as old as its last change.
        Some((_, to)) if step.outcome == StepOutcome::Running => *to = (*to).max(step.took_ms),
        Some(_) => {}
    }
    parts
}

/// As [`parts`], with the reason. A wait without an end lasts as long as the step, and so does the last one of a step that waits for
/// the same now.
fn waits(step: &StepReport, end: u64) -> impl Iterator<Item = (u64, u64, &str)> {
    let last = step.waits.len().saturating_sub(1);
    let waits_now = |why: &str| step.outcome == StepOutcome::Running && step.waiting.as_deref() == Some(why);
    step.waits.iter().enumerate().map(move |(number, wait)| {
        let lasts = wait.took_ms.filter(|_| number < last || !waits_now(&wait.why));
        let from = wait.after_ms.min(end);
        let to = lasts.map_or(end, |took| from.saturating_add(took)).clamp(from, end.max(from));
        (from, to, wait.why.as_str())
    })
}

fn result(step: &StepReport) -> String {
    let word = match step.outcome {
        StepOutcome::Pending => step.prepared.as_deref().unwrap_or("not begun"),
        StepOutcome::Running => "running",
        StepOutcome::Interrupted => "cut off",
        StepOutcome::AlreadySo => "already so",
        StepOutcome::Changed => "",
        StepOutcome::Failed => "failed",
    };
    let attempts = (step.attempts > 1).then(|| format!("{} attempts", step.attempts));
    [Some(word.to_owned()).filter(|word| !word.is_empty()), attempts]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ")
}

/// The step in full, for a tooltip.
fn story(step: &StepReport) -> String {
    let volume = step.volume.as_deref().map(|volume| format!(" {volume}")).unwrap_or_default();
    let started = step.started_at.as_deref().unwrap_or_default();
    let mut story = format!("{}{volume}: {}, from {started}", step.step, rough(ms(step.took_ms)));
    for line in [result(step)].into_iter().chain(step.error.as_ref().map(|error| error.public.clone())) {
        if !line.is_empty() {
            story = format!("{story}\n{line}");
        }
    }
    story
}

fn bar(from: u64, to: u64, fill: Fill, story: String) -> Bar {
    Bar { from: ms(from), to: ms(to), fill, label: String::new(), story }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// When a step began by the wall clock, in milliseconds since 1970.
fn unix(step: &StepReport) -> Option<u64> {
    let at = humantime::parse_rfc3339(step.started_at.as_deref()?).ok()?;
    at.duration_since(UNIX_EPOCH).ok().map(millis)
}

fn shown(unix: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + ms(unix)).to_string()
}
