//! The report of `status` as data: the document of `status --json`.

use std::time::SystemTime;

use serde::{Serialize, Serializer};

use crate::sequence::{Sequence, StepName};
use crate::state::{
    Clock, FailedStepRecord, FailureRecord, LaunchOutcome, Outcome, PartRecord, Phase, State, StepRecord, Subject,
    WaitRecord, Warning,
};

/// The version of this document. A reader can rely on every field of a version; new ones may be added to it.
pub const SCHEMA: u32 = 1;

/// How the node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overall {
    /// As the agent has recorded it.
    Phase(Phase),
    /// The agent died before the end.
    Dead,
    /// The agent has not run in this boot.
    NeverStarted,
}

impl Serialize for Overall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Overall {
    /// As in the document.
    pub fn as_str(self) -> &'static str {
        match self {
            Overall::Phase(phase) => phase.as_str(),
            Overall::Dead => "dead",
            Overall::NeverStarted => "never-started",
        }
    }

    /// Whether the node is up or has failed.
    pub fn is_decided(self) -> bool {
        matches!(self, Overall::Phase(Phase::Held | Phase::Failed | Phase::Done | Phase::Warm | Phase::Left))
    }

    /// The exit code of `status`.
    pub fn exit_code(self) -> u8 {
        match self {
            Overall::Phase(Phase::Done | Phase::Warm | Phase::Left) => 0,
            Overall::Phase(Phase::Held | Phase::Failed) => 1,
            Overall::Phase(Phase::Running | Phase::Stopped | Phase::Leaving)
            | Overall::Dead
            | Overall::NeverStarted => 3,
        }
    }
}

/// The whole document.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// See [`SCHEMA`].
    pub(crate) schema: u32,
    pub(crate) state: Overall,
    /// The exit code of `status`.
    pub(crate) exit_code: u8,
    /// Since when, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<String>,
    /// The node as configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Subject>,
    /// The instance, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) instance_id: Option<String>,
    /// The agent's process, if it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<i32>,
    /// The hold, if one with an end is in progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hold: Option<Hold>,
    /// How the launch was completed, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) launch: Option<LaunchOutcome>,
    /// The last failure of the sequence, unless the sequence has succeeded since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<FailedStepRecord>,
    /// The steps, in their order.
    pub(crate) steps: Vec<StepReport>,
    /// Problems that do not keep the node from being up.
    pub(crate) warnings: Vec<Warning>,
    /// Whether EC2 recommends to replace this spot instance.
    pub(crate) rebalance_recommended: bool,
}

/// The hold of a failed node.
#[derive(Clone, Debug, Serialize)]
pub struct Hold {
    /// RFC 3339.
    pub(crate) until: String,
    /// Until then.
    pub(crate) seconds_left: u64,
}

/// A step.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    pub(crate) step: StepName,
    /// The volume's id, if the step is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) volume: Option<String>,
    pub(crate) outcome: StepOutcome,
    /// Rounds in which the step acted or an attempt failed.
    pub(crate) attempts: u32,
    /// When it began, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) started_at: Option<String>,
    /// How long it took, or has taken so far.
    pub(crate) took_ms: u64,
    /// When it began, in milliseconds since the machine's start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) began_ms: Option<u64>,
    /// Its parts, where other steps lay between them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) parts: Vec<PartRecord>,
    /// When and why it waited.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) waits: Vec<WaitRecord>,
    /// How long it may take.
    pub(crate) allowed_ms: u64,
    /// What went wrong and what to do, if it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<FailureRecord>,
    /// What it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waiting: Option<String>,
    /// The result of its first part in a word (`fetched`), if the step itself has not begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prepared: Option<String>,
    /// The last lines of a hook's output.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) output: Vec<String>,
}

/// How a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepOutcome {
    /// It has not begun.
    Pending,
    /// It is running.
    Running,
    /// The agent ended while it was running.
    Interrupted,
    /// There was nothing to do.
    AlreadySo,
    /// It did its work.
    Changed,
    /// It failed.
    Failed,
}

impl Report {
    /// The report of a state; `None` if the agent has never run here.
    pub fn of(state: Option<State>, boot_id: &str, now: SystemTime) -> Self {
        let has_run = state.is_some();
        // Without a record nothing is known: no boot, no instance, no process.
        let state = state.unwrap_or_default();
        let agent = state.agent.clone().filter(|agent| agent.is_alive(boot_id));
        let overall = match state.phase {
            // The state is of an earlier boot: in this one the agent has not run.
            _ if state.boot_id != boot_id => Overall::NeverStarted,
            Phase::Running | Phase::Held | Phase::Leaving if agent.is_none() => Overall::Dead,
            phase => Overall::Phase(phase),
        };
        let promised =
            state.lifecycle.outcome().is_none() && !matches!(overall, Overall::Phase(Phase::Done | Phase::Failed));
        let clock = Clock::now(boot_id);
        let hold = Some(&state.lifecycle).filter(|_| promised).and_then(|lifecycle| {
            let seconds_left = lifecycle.hold_left(&clock)?.as_secs();
            Some(Hold { until: lifecycle.hold_until(&clock)?, seconds_left })
        });
        Report {
            schema: SCHEMA,
            state: overall,
            exit_code: overall.exit_code(),
            since: has_run.then(|| state.since.clone()),
            node: Some(state.node.clone()).filter(|node| !node.id.is_empty()),
            instance_id: Some(state.instance_id.clone()).filter(|id| !id.is_empty()),
            pid: agent.map(|agent| agent.pid),
            hold,
            launch: state.lifecycle.outcome(),
            failure: state.fault.clone(),
            steps: if has_run { steps(&state, state.sequence(), overall, now) } else { Vec::new() },
            warnings: state.warnings,
            rebalance_recommended: state.rebalance_recommended,
        }
    }
}

impl Report {
    /// Why Auto Scaling could not be told that the node has left, if so.
    pub fn untold(&self) -> Option<&FailureRecord> {
        self.steps.iter().find(|step| step.step == StepName::Leave)?.error.as_ref()
    }
}

/// The recorded steps of a sequence and those that are still to come.
pub(super) fn steps(state: &State, sequence: Sequence, overall: Overall, now: SystemTime) -> Vec<StepReport> {
    let ended = |record: &StepRecord| matches!(record.outcome, Outcome::AlreadySo | Outcome::Changed);
    // A step before one that is done is through, even if its record only shows its first part.
    let records = state.records(sequence);
    let done = records.iter().filter(|record| ended(record) && record.prepared.is_none());
    let last_done = done.map(|record| record.step).max();
    let is_through = |record: &StepRecord| {
        ended(record) && (record.prepared.is_none() || last_done.is_some_and(|last| last.follows(record.step)))
    };
    let at_work = records.iter().find(|record| !is_through(record)).map(|record| record.step);
    let to_come = |step: StepName| {
        // Steps that are not configured leave no record.
        !matches!(overall, Overall::Phase(Phase::Done | Phase::Warm | Phase::Left))
            && (at_work.is_some_and(|at_work| step.follows(at_work)) || last_done.is_none_or(|last| step.follows(last)))
    };
    let mut reports = Vec::new();
    for &step in sequence.steps() {
        let mut records = records.iter().filter(|record| record.step == step).peekable();
        if records.peek().is_none() {
            reports.extend(to_come(step).then(|| pending(step)));
        }
        reports.extend(records.map(|record| {
            let report = of_record(state, record, overall, now);
            if ended(record) && !is_through(record) {
                return StepReport { outcome: StepOutcome::Pending, prepared: record.prepared.clone(), ..report };
            }
            report
        }));
    }
    reports
}

fn pending(step: StepName) -> StepReport {
    StepReport {
        step,
        volume: None,
        outcome: StepOutcome::Pending,
        attempts: 0,
        started_at: None,
        took_ms: 0,
        began_ms: None,
        parts: Vec::new(),
        waits: Vec::new(),
        allowed_ms: 0,
        error: None,
        waiting: None,
        prepared: None,
        output: Vec::new(),
    }
}

fn of_record(state: &State, record: &StepRecord, overall: Overall, now: SystemTime) -> StepReport {
    let outcome = match record.outcome {
        Outcome::Running if matches!(overall, Overall::Phase(Phase::Running | Phase::Leaving)) => StepOutcome::Running,
        Outcome::Running => StepOutcome::Interrupted,
        Outcome::AlreadySo => StepOutcome::AlreadySo,
        Outcome::Changed => StepOutcome::Changed,
        Outcome::Failed => StepOutcome::Failed,
    };
    let since = humantime::parse_rfc3339(&record.started_at).ok();
    let so_far = since.and_then(|since| now.duration_since(since).ok()).map(crate::time::millis);
    StepReport {
        step: record.step,
        volume: record.subject.clone(),
        outcome,
        attempts: record.attempts,
        started_at: Some(record.started_at.clone()),
        took_ms: so_far.filter(|_| outcome == StepOutcome::Running).unwrap_or(record.took_ms),
        began_ms: record.began_ms,
        parts: record.parts.clone(),
        waits: record.waits.clone(),
        allowed_ms: record.allowed_ms,
        error: record.error.clone().filter(|_| outcome == StepOutcome::Failed),
        waiting: record.waiting.clone(),
        prepared: None,
        output: state.output.get(&record.step.into()).cloned().unwrap_or_default(),
    }
}
