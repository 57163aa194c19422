//! The content of the state file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::departure::DepartureRecord;
use super::lifecycle::{LaunchOutcome, LifecycleRecord};
use super::record::{FailedStepRecord, Outcome, StepRecord};
use super::words::{self, Word};
use crate::host::group;
use crate::sequence::{Sequence, StepName};

/// What this agent did to a volume and cannot observe afterwards.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// A format that was begun, with the evidence that the disk was blank. None once it is completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub formatting: Option<FormatIntent>,
    /// When this agent completed a format, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub formatted_at: Option<String>,
    /// The volume has not been tagged as formatted yet.
    #[serde(default)]
    pub tag_due: bool,
    /// The recursive change of owner that follows a format has not been completed yet.
    #[serde(default)]
    pub ownership_due: bool,
    /// The device's size in bytes when growing was last tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grow_tried_at: Option<u64>,
    /// How it was mounted at the last observation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounted: Option<MountRecord>,
    /// The UUID of the filesystem that the node was launched with. Another filesystem in its place is not mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem_uuid: Option<String>,
    /// Fields of a newer version, kept as they are.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A volume's mount. The kernel does not report for every option whether it is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// The boot in which it was observed: a mount does not outlive its boot.
    pub(crate) boot_id: String,
    pub(crate) mount_point: PathBuf,
    /// The device's number.
    pub(crate) device: u64,
    /// The options that are in force.
    pub(crate) options: Vec<String>,
    /// The flags in mountinfo after mount(8) had mounted it with these options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) flags: Option<String>,
}

/// The intent to format, made durable before mkfs starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormatIntent {
    /// The device's path.
    pub(crate) device: String,
    /// Its size in bytes.
    pub(crate) size: u64,
    pub(crate) file_system: String,
    /// The filesystem's UUID, drawn beforehand, so that an interrupted mkfs can be recognised. Version 0.1.0 left it to mkfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) uuid: Option<String>,
    /// Why the disk counted as blank.
    pub(crate) evidence: String,
    /// RFC 3339.
    pub(crate) at: String,
}

/// A process, distinguished from a later one with the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id; also its group's, where it leads one.
    pub pid: i32,
    /// Its start time in clock ticks since boot (field 22 of /proc/PID/stat).
    pub started: u64,
    /// The boot in which it ran.
    pub boot_id: String,
}

impl Process {
    /// The process that has this id now.
    pub fn of(pid: i32, boot_id: &str) -> Self {
        Process { pid, started: group::start_time(pid).unwrap_or_default(), boot_id: boot_id.to_owned() }
    }

    /// Whether it still runs in this boot.
    pub fn is_alive(&self, boot_id: &str) -> bool {
        self.boot_id == boot_id && group::start_time(self.pid) == Some(self.started)
    }
}

/// The phase that the agent is in with the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The sequence runs.
    #[default]
    Running,
    /// It failed; the service waits for a retry.
    Held,
    /// It failed, and no service waits.
    Failed,
    /// The node is up and, with a lifecycle hook, reported.
    Done,
    /// The instance is in a warm pool, and left alone until it is launched.
    Warm,
    /// The agent received the stop signal before the end.
    Stopped,
    /// The instance is to go: the departure runs.
    Leaving,
    /// The departure has ended.
    Left,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 8] = [
        Phase::Running,
        Phase::Held,
        Phase::Failed,
        Phase::Done,
        Phase::Warm,
        Phase::Stopped,
        Phase::Leaving,
        Phase::Left,
    ];

    /// As in the state file.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Running => "running",
            Phase::Held => "held",
            Phase::Failed => "failed",
            Phase::Done => "done",
            Phase::Warm => "warm",
            Phase::Stopped => "stopped",
            Phase::Leaving => "leaving",
            Phase::Left => "left",
        }
    }
}

/// A problem that does not keep the node from coming up but needs attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The step that saw it.
    pub(crate) step: StepName,
    /// The volume's id, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    pub(crate) message: String,
}

/// The node as it was configured, for readers of the journal that have no configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// `node.id`
    pub id: String,
    /// `node.ip`
    pub ip: String,
    /// `lifecycle.asg_name`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asg_name: Option<String>,
}

/// The words of a departure, in the file alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Apart {
    #[serde(default, deserialize_with = "words::known", skip_serializing_if = "Option::is_none")]
    pub(super) phase: Option<Phase>,
    #[serde(default, deserialize_with = "words::known_among", skip_serializing_if = "Vec::is_empty")]
    pub(super) warnings: Vec<Warning>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) output: BTreeMap<Word<StepName>, Vec<String>>,
}

/// The state file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// See [`super::store::SCHEMA`].
    pub schema: u32,
    /// Counts the changes, by all processes: the copy with the larger number is the newer one.
    #[serde(default)]
    pub revision: u64,
    /// The instance this is about; empty until it is known.
    pub instance_id: String,
    /// The boot in which it was last written.
    pub boot_id: String,
    /// The configuration it was last run with; empty until it is known.
    pub config_digest: String,
    /// The node that was configured.
    #[serde(default)]
    pub node: Subject,
    /// The process that wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Process>,
    /// The phase it is in.
    #[serde(default, deserialize_with = "words::known")]
    pub phase: Phase,
    /// Since when, RFC 3339.
    #[serde(default)]
    pub since: String,
    /// How the sequence failed the last time, unless it has succeeded since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<FailedStepRecord>,
    /// What needs attention.
    #[serde(default, deserialize_with = "words::known_among", skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
    /// The last lines that each hook printed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub output: BTreeMap<Word<StepName>, Vec<String>>,
    /// The step from which on everything is to be redone, asked for by an operator and not completed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redo_from: Option<Word<StepName>>,
    /// Whether the instance's tag says that the node failed.
    #[serde(default)]
    pub tagged: bool,
    /// The boot sequence's steps, in its order: see [`State::records`].
    #[serde(default, deserialize_with = "words::known_among")]
    pub(super) steps: Vec<StepRecord>,
    /// The runs of this launch that have failed before the present one. Version 0.1.0 keeps them as they are.
    #[serde(default, deserialize_with = "words::known_among", skip_serializing_if = "Vec::is_empty")]
    pub(crate) earlier_runs: Vec<RunRecord>,
    /// By volume id.
    #[serde(default)]
    pub volumes: BTreeMap<String, VolumeRecord>,
    /// The inputs' digest of each completed once-per-instance step.
    #[serde(default)]
    pub once: BTreeMap<Word<StepName>, String>,
    /// That an earlier journal may have been lost. None once that is decided.
    #[serde(default, deserialize_with = "words::known", skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
    /// Whether every once-per-instance step before `complete` is done, whatever Auto Scaling was told. Journals of earlier
    /// versions do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub once_complete: Option<bool>,
    /// The hook that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<Process>,
    /// The launch lifecycle action.
    #[serde(default)]
    pub lifecycle: LifecycleRecord,
    /// The departure, once the instance is to go. A key of its own: version 0.1 passes it over.
    #[serde(default, deserialize_with = "words::known", skip_serializing_if = "Option::is_none")]
    pub departure: Option<DepartureRecord>,
    /// What earlier versions could not read; in the file alone.
    #[serde(default, deserialize_with = "words::known", skip_serializing_if = "Option::is_none")]
    pub(super) apart: Option<Apart>,
    /// Whether EC2 recommends to replace this spot instance.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rebalance_recommended: bool,
    /// Fields of a newer version, kept as they are.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A run of the boot sequence that has not brought the node up, before the present one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// When its first step began, RFC 3339.
    pub(crate) started_at: String,
    /// The same since the machine's start, in milliseconds.
    pub(crate) began_ms: u64,
    /// How long its steps took.
    pub(crate) took_ms: u64,
    /// How it ended.
    #[serde(default, deserialize_with = "words::known")]
    pub(crate) phase: Phase,
    /// The step that failed, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<Word<StepName>>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) why: String,
}

/// Why there is no record of an earlier run, where there may have been one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lost {
    /// The journal could not be read.
    Unreadable,
    /// There was none, although an agent has run here before.
    Missing,
    /// There was none, as on a machine's first boot.
    Absent,
}

impl State {
    /// The records of a sequence's steps, in its order.
    pub fn records(&self, sequence: Sequence) -> &[StepRecord] {
        match sequence {
            Sequence::Boot => &self.steps,
            Sequence::Departure => self.departure.as_ref().map_or(&[], |departure| &departure.steps),
        }
    }

    /// The sequence that runs or ran last.
    pub fn sequence(&self) -> Sequence {
        if self.departure.is_some() { Sequence::Departure } else { Sequence::Boot }
    }

    /// A step's record, for one volume where the step is about volumes.
    pub fn record(&self, step: StepName, subject: Option<&str>) -> Option<&StepRecord> {
        self.records(step.sequence()).iter().find(|old| old.step == step && old.subject.as_deref() == subject)
    }

    /// The steps from this one on are due again, and so are those of a newer version, which may come behind it.
    pub(super) fn forget_once_from(&mut self, step: StepName) {
        self.once.retain(|done, _| done.known().is_some_and(|done| done.precedes(step)));
    }

    /// The step from which on everything is to be redone. A step that only a newer version knows counts as none.
    pub fn redone_from(&self) -> Option<StepName> {
        let step = self.redo_from.as_ref().and_then(Word::known);
        step.filter(|step| step.sequence() == Sequence::Boot)
    }

    /// Records how the launch ended, in this boot.
    pub(super) fn end_launch(&mut self, outcome: LaunchOutcome) {
        self.lifecycle.ended = Some(outcome.into());
        self.lifecycle.completed_in = Some(self.boot_id.clone());
        self.lifecycle.pooled_since = false;
    }

    /// Adds a step's record, or replaces an earlier one.
    pub(super) fn put(&mut self, record: StepRecord) {
        let records = match (record.step.sequence(), &mut self.departure) {
            (Sequence::Departure, Some(departure)) => &mut departure.steps,
            // No departure has been recorded: neither are its steps.
            (Sequence::Departure, None) => return,
            (Sequence::Boot, _) => &mut self.steps,
        };
        if let Some(old) = records.iter_mut().find(|old| old.step == record.step && old.subject == record.subject) {
            *old = record;
        } else {
            records.push(record);
            // Fetching begins while volumes are attached; people expect the order of the sequence.
            records.sort_by_key(|record| record.step);
        }
    }

    /// For journals of earlier versions: without a completed launch, or after a once-per-instance step that failed or was
    /// interrupted, not all of these steps are done. Otherwise the configuration decides ([`super::Journal::is_set_up`]).
    pub(super) fn settle_once_complete(&mut self) {
        let once = |step: &StepName| ONCE.contains(step);
        let unfinished =
            |record: &StepRecord| once(&record.step) && matches!(record.outcome, Outcome::Running | Outcome::Failed);
        let failed = self.fault.as_ref().and_then(|fault| fault.step).is_some_and(|step| once(&step));
        if self.once_complete.is_none()
            && (self.lifecycle.outcome().is_none() || failed || self.steps.iter().any(unfinished))
        {
            self.once_complete = Some(false);
        }
    }
}

/// The once-per-instance steps before `complete`.
pub(super) const ONCE: [StepName; 3] = [StepName::Files, StepName::Configure, StepName::HealthCheck];
