//! Where a step's time went, and what was tried before. All of it is for people and has keys of its own: version 0.1.0 passes them
//! over. It is bounded: the journal is written whole.

use super::model::{Phase, RunRecord, State};
use super::record::{PartRecord, StepRecord, WaitRecord};
use super::words::Word;

/// How many waits of a step are recorded, how many of its parts, and how many earlier runs.
const MOST: usize = 20;
/// A wait that was shorter is none, in milliseconds.
const SHORTEST: u64 = 50;
/// Waits for the same reason with less than this between them are one, in milliseconds.
const BETWEEN: u64 = 1_000;
/// The longest reason, in characters.
const REASON: usize = 500;

impl StepRecord {
    /// The step waits, `at` milliseconds after its beginning.
    pub(crate) fn wait_begins(&mut self, why: &str, at: u64) {
        let why: String = why.chars().take(REASON).collect();
        if self.waits.last().is_some_and(|last| last.took_ms.is_none() && last.why == why) {
            return;
        }
        self.wait_ends(at);
        let is_full = self.waits.len() >= MOST;
        let is_same = |last: &WaitRecord| last.why == why && at < last.end().saturating_add(BETWEEN);
        match self.waits.last_mut() {
            Some(last) if is_full || is_same(last) => *last = WaitRecord { why, took_ms: None, ..*last },
            _ => self.waits.push(WaitRecord { why, after_ms: at, took_ms: None }),
        }
    }

    /// The step does not wait any more.
    pub(crate) fn wait_ends(&mut self, at: u64) {
        let Some(last) = self.waits.last_mut().filter(|last| last.took_ms.is_none()) else { return };
        match at.saturating_sub(last.after_ms) {
            0..SHORTEST => drop(self.waits.pop()),
            took => last.took_ms = Some(took),
        }
    }

    /// A later part of the step begins.
    pub(crate) fn part_begins(&mut self, at: u64) {
        if self.parts.is_empty() {
            self.parts.push(PartRecord { after_ms: 0, took_ms: self.took_ms });
        }
        // Parts that follow at once are one, and the last one takes in what is too much.
        let last_end = self.parts.last().map_or(0, |last| last.after_ms.saturating_add(last.took_ms));
        if at > last_end.saturating_add(SHORTEST) && self.parts.len() < MOST {
            self.parts.push(PartRecord { after_ms: at, took_ms: 0 });
        }
    }

    /// The step's present part has lasted until now.
    pub(crate) fn part_lasts(&mut self, at: u64) {
        if let Some(last) = self.parts.last_mut() {
            last.took_ms = at.saturating_sub(last.after_ms);
        }
    }
}

impl WaitRecord {
    fn end(&self) -> u64 {
        self.after_ms.saturating_add(self.took_ms.unwrap_or_default())
    }
}

impl State {
    /// Before the steps are cleared for another run: what the last one has come to, if it belongs to the same launch.
    pub(super) fn keep_run(&mut self) {
        let is_of_this_boot = self.agent.as_ref().is_some_and(|agent| agent.boot_id == self.boot_id);
        let is_over = matches!(self.phase, Phase::Done | Phase::Warm) || self.lifecycle.outcome().is_some();
        if !is_of_this_boot || is_over {
            self.earlier_runs.clear();
            return;
        }
        let began = self.steps.iter().filter_map(|step| Some((step.began_ms?, step.started_at.clone()))).min();
        let Some((began_ms, started_at)) = began else { return };
        let end = |step: &StepRecord| {
            let parts = step.parts.last().map_or(step.took_ms, |last| last.after_ms.saturating_add(last.took_ms));
            step.began_ms.unwrap_or_default().saturating_add(parts)
        };
        let ended = self.steps.iter().map(end).max().unwrap_or(began_ms);
        let fault = self.fault.as_ref().filter(|_| matches!(self.phase, Phase::Held | Phase::Failed));
        if self.earlier_runs.len() >= MOST {
            self.earlier_runs.remove(0);
        }
        self.earlier_runs.push(RunRecord {
            started_at,
            began_ms,
            took_ms: ended.saturating_sub(began_ms),
            phase: self.phase,
            step: fault.and_then(|fault| fault.step).map(Word::from),
            why: fault.map(|fault| fault.error.public.chars().take(REASON).collect()).unwrap_or_default(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Outcome, Process};
    use super::*;
    use crate::sequence::StepName;

    fn step() -> StepRecord {
        StepRecord {
            step: StepName::Attach,
            subject: None,
            outcome: Outcome::Running,
            waiting: None,
            allowed_ms: 0,
            attempts: 0,
            started_at: String::new(),
            took_ms: 0,
            began_ms: Some(100),
            parts: Vec::new(),
            waits: Vec::new(),
            prepared: None,
            error: None,
        }
    }

    fn waits(step: &StepRecord) -> Vec<(&str, u64, Option<u64>)> {
        step.waits.iter().map(|wait| (wait.why.as_str(), wait.after_ms, wait.took_ms)).collect()
    }

    #[test]
    fn a_wait_lasts_as_long_as_its_reason_and_a_short_one_is_none() {
        let mut step = step();
        for at in [10, 30, 900] {
            step.wait_begins("held", at);
        }
        assert_eq!(waits(&step), [("held", 10, None)]);
        step.wait_begins("detaching", 1_000);
        step.wait_ends(1_040);
        step.wait_ends(9_000);
        assert_eq!(waits(&step), [("held", 10, Some(990))]);
        step.wait_begins("held", 1_500);
        step.wait_ends(2_000);
        assert_eq!(waits(&step), [("held", 10, Some(1_990))]);
        step.wait_begins("held", 8_000);
        assert_eq!(waits(&step), [("held", 10, Some(1_990)), ("held", 8_000, None)]);
    }

    #[test]
    fn waits_are_bounded_in_number_and_length_and_the_last_one_takes_in_the_rest() {
        let mut step = step();
        for number in 0..100 {
            step.wait_begins(&format!("{number}{}", "ä".repeat(9_000)), number * 1_000);
        }
        step.wait_ends(100_000);
        assert_eq!(step.waits.len(), MOST);
        assert!(step.waits.iter().all(|wait| wait.why.chars().count() == REASON));
        let last = step.waits.last().unwrap();
        assert_eq!((last.after_ms, last.took_ms), (19_000, Some(81_000)));
        assert!(last.why.starts_with("99"));
    }

    #[test]
    fn parts_are_recorded_only_where_something_lies_between_them() {
        let mut step = step();
        step.took_ms = 200;
        step.part_begins(210);
        step.part_lasts(300);
        step.part_begins(5_000);
        step.part_lasts(5_700);
        let parts: Vec<_> = step.parts.iter().map(|part| (part.after_ms, part.took_ms)).collect();
        assert_eq!(parts, [(0, 300), (5_000, 700)]);
    }

    #[test]
    fn earlier_runs_are_those_of_this_launch_alone() {
        let agent = Process { pid: 1, started: 1, boot_id: "boot".to_owned() };
        let failed = StepRecord { took_ms: 400, ..step() };
        let steps = vec![failed];
        let mut state =
            State { boot_id: "boot".to_owned(), agent: Some(agent), phase: Phase::Failed, steps, ..State::default() };
        for _ in 0..30 {
            state.keep_run();
        }
        assert_eq!(state.earlier_runs.len(), MOST);
        assert_eq!((state.earlier_runs[0].began_ms, state.earlier_runs[0].took_ms), (100, 400));
        state.boot_id = "next".to_owned();
        state.keep_run();
        assert!(state.earlier_runs.is_empty());
    }
}
