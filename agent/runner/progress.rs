//! A step's progress: its record in the journal, and the lines in the log.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::contract::Header;
use super::patience::Patience;
use crate::failure::{Failure, without_retry};
use crate::host::since_boot;
use crate::sequence::Sequence;
use crate::state::{FailureRecord, Journal, Outcome, StepRecord};
use crate::time::{self, rough};

/// How often an unchanged wait is logged again.
const REMINDER: Duration = Duration::from_secs(30);

/// From when on the journal shows a wait also after a power cut. A disk takes milliseconds to make a record durable.
const LONG: Duration = Duration::from_secs(1);

/// A step's record while it runs.
pub(super) struct Progress {
    pub(super) began: Instant,
    earlier: Duration,
    /// From the beginning of the step to that of this part.
    offset: Duration,
    /// Not within the futures of the steps, which are large.
    record: Box<StepRecord>,
    allowed: Duration,
    changed: bool,
    observes_only: bool,
    prepares: Option<&'static str>,
    /// The present or last action, and its reason.
    doing: Option<String>,
    /// Whether the present wait is on the disk.
    is_durable: bool,
    told: Option<(String, Instant)>,
}

impl Progress {
    pub(super) fn begin(header: Header<'_>, journal: &Journal, first_part: bool) -> Self {
        let (name, subject) = (header.name, header.subject);
        let earlier_part = || journal.read(|state| state.record(name, subject).cloned());
        let now = time::millis(since_boot());
        let mut record = if first_part { None } else { earlier_part() }.unwrap_or_else(|| StepRecord {
            step: name,
            subject: subject.map(str::to_owned),
            outcome: Outcome::AlreadySo,
            waiting: None,
            allowed_ms: 0,
            attempts: 0,
            started_at: time::now(),
            took_ms: 0,
            began_ms: Some(now),
            parts: Vec::new(),
            waits: Vec::new(),
            prepared: None,
            error: None,
        });
        let offset = now.saturating_sub(record.began_ms.unwrap_or(now));
        if !first_part {
            record.part_begins(offset);
        }
        let mut progress = Progress {
            began: Instant::now(),
            earlier: Duration::from_millis(record.took_ms),
            offset: Duration::from_millis(offset),
            changed: record.outcome == Outcome::Changed && record.prepared.is_none(),
            record: Box::new(StepRecord { allowed_ms: time::millis(header.deadline), prepared: None, ..record }),
            allowed: header.deadline,
            observes_only: header.observes_only,
            prepares: header.prepares,
            doing: None,
            is_durable: false,
            told: None,
        };
        progress.log("begin", None, format_args!("observing the present state"));
        progress.record.outcome = Outcome::Running;
        journal.note_record(StepRecord::clone(&progress.record));
        progress
    }

    pub(super) fn acting(&mut self, journal: &Journal, because: &str) {
        self.record.attempts += 1;
        // A retry of the same action keeps the last failure, so that `status` can say why it takes so long.
        if self.doing.as_deref() != Some(because) {
            self.record.waiting = None;
            self.doing = Some(because.to_owned());
        }
        self.changed = true;
        self.record.wait_ends(self.since_step());
        self.log(
            "start",
            Some(because),
            format_args!("start: {because} (attempt {}, deadline {})", self.record.attempts, rough(self.allowed)),
        );
        self.save(journal, Outcome::Running);
    }

    pub(super) fn waiting(&mut self, journal: &Journal, patience: &Patience, pause: Duration) {
        self.record.attempts += 1;
        let now = Instant::now();
        let why = patience.last.as_ref().map(ToString::to_string).unwrap_or_default();
        let in_public = patience.last.as_ref().map(Failure::in_public).unwrap_or_default();
        self.record.wait_begins(&in_public, self.since_step());
        if self.record.waiting.as_ref() != Some(&why) {
            self.record.waiting = Some(why.clone());
            self.is_durable = false;
            journal.note_record(StepRecord::clone(&self.record));
        }
        if !self.is_durable && self.began.elapsed() >= LONG {
            journal.record(StepRecord::clone(&self.record));
            self.is_durable = true;
        }
        if self.told.as_ref().is_some_and(|(text, at)| *text == why && now - *at < REMINDER) {
            return;
        }
        self.log(
            "wait",
            Some(&why),
            format_args!(
                "wait: {why} (attempt {}, {} of {}, again in {})",
                self.record.attempts,
                rough(self.began.elapsed()),
                rough(self.allowed),
                rough(pause),
            ),
        );
        self.told = Some((why, now));
    }

    pub(super) fn end<T>(mut self, journal: &Journal, result: Result<T, Failure>) -> Result<T, Failure> {
        self.record.waiting = None;
        self.record.wait_ends(self.since_step());
        match result {
            Ok(output) => {
                let outcome = if self.changed { Outcome::Changed } else { Outcome::AlreadySo };
                self.record.prepared = self.prepares.map(str::to_owned);
                self.save(journal, outcome);
                if let Some(prepared) = self.prepares {
                    tracing::debug!(
                        step = self.record.step.as_str(),
                        volume = self.record.subject.as_deref(),
                        "{prepared} ({})",
                        rough(self.began.elapsed())
                    );
                    return Ok(output);
                }
                let how = if self.changed || self.observes_only || self.told.is_some() { "done" } else { "already so" };
                self.log("done", None, format_args!("{how} ({})", rough(self.began.elapsed())));
                Ok(output)
            }
            Err(failure) => {
                let mut error = FailureRecord::from(&failure);
                if self.record.step.sequence() == Sequence::Departure {
                    error.remedy.truncate(without_retry(&error.remedy).len());
                }
                self.record.error = Some(error);
                self.save(journal, Outcome::Failed);
                let why = failure.to_string();
                self.log("failed", Some(&why), format_args!("failed ({}): {why}", rough(self.began.elapsed())));
                Err(failure)
            }
        }
    }

    /// How long ago the step began, in milliseconds.
    fn since_step(&self) -> u64 {
        time::millis(self.offset + self.began.elapsed())
    }

    fn save(&mut self, journal: &Journal, outcome: Outcome) {
        self.record.outcome = outcome;
        self.record.took_ms = time::millis(self.earlier + self.began.elapsed());
        self.record.part_lasts(self.since_step());
        let record = StepRecord::clone(&self.record);
        // No step depends on the record: where nothing fails or waits, no disk is waited for.
        if outcome == Outcome::Failed {
            journal.record(record);
        } else {
            journal.note_record(record);
        }
    }

    /// `kind` is for the live progress (agent/log/live.rs), which draws the step by it.
    fn log(&self, kind: &'static str, why: Option<&str>, text: fmt::Arguments<'_>) {
        let step = self.record.step.as_str();
        let volume = self.record.subject.as_deref();
        let (attempt, allowed_ms) = (self.record.attempts, time::millis(self.allowed));
        tracing::info!(step, volume, kind, attempt, allowed_ms, why, "{text}");
    }
}
