//! What was done and when: the state file.
//!
//! The world is the truth. The journal answers only what cannot be observed (a hook ran, this agent formatted, a
//! lifecycle action was sent) and tells people what happened. Written whole, by temporary file, fsync and rename, so that
//! a reader sees the old state or the new one, also after a power cut.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{self, Config, OnFailure};
use crate::failure::{Code, FailedStep, Failure};
use crate::host::{self, atomic, group};
use crate::publish::Publisher;
use crate::sequence::StepName;
use crate::time::{millis, now};
use crate::words::{self, Word};

/// The layout of the file below. A file of a later one is left alone. What a version adds has a key of its own, so that the one
/// before it passes over it.
pub const SCHEMA: u32 = 1;

const FILE: &str = "state.json";
const STALE: &str = "state.json.stale";

/// Where contents are fetched to, in the state directory.
pub const SCRATCH: &str = "fetched";

/// How a step ended, or that it has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// At work, or the agent died in it.
    Running,
    /// The effect was there before.
    AlreadySo,
    /// The step brought the effect about.
    Changed,
    /// It ended with the error beside.
    Failed,
}

/// One step's story, for one volume where the step is about volumes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepRecord {
    /// Which step.
    pub step: StepName,
    /// The volume's id, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// How long it may take, in milliseconds.
    #[serde(default)]
    pub allowed_ms: u64,
    /// Rounds in which something was tried or went wrong.
    pub attempts: u32,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// How long it took so far, in milliseconds.
    pub took_ms: u64,
    /// Only the first part of the step is done, in a word: `fetched`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared: Option<String>,
    /// What went wrong and what to do, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<FailureRecord>,
}

/// A [`Failure`] as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FailureRecord {
    /// The catalogue's name.
    pub code: String,
    /// What happened and what was seen.
    pub message: String,
    /// What to do.
    pub remedy: String,
    /// The message without a hook's output, for places that others than root can read.
    pub public: String,
}

impl From<&Failure> for FailureRecord {
    fn from(failure: &Failure) -> Self {
        FailureRecord {
            code: failure.code.name().to_owned(),
            message: failure.to_string(),
            remedy: failure.what_to_do().to_owned(),
            public: failure.in_public(),
        }
    }
}

/// What this agent did to a volume and could not see afterwards.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// A format was begun, with the evidence that the disk was blank; none once it was completed.
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
    /// Growing was tried at this device size, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grow_tried_at: Option<u64>,
    /// How it was mounted when it was last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounted: Option<MountRecord>,
    /// The UUID of the filesystem that the node was launched with: another one in its place is not mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem_uuid: Option<String>,
    /// Of a newer version.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A volume's mount. The kernel does not tell of all options whether they are in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// The boot in which it was seen: another boot's mount is another mount.
    pub boot_id: String,
    /// Where.
    pub mount_point: PathBuf,
    /// The device's number.
    pub device: u64,
    /// The options that are in force.
    pub options: Vec<String>,
    /// The flags that mountinfo showed once mount(8) had mounted it so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<String>,
}

/// Made durable before mkfs starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormatIntent {
    /// The device's path.
    pub device: String,
    /// Its size in bytes.
    pub size: u64,
    /// The filesystem to make.
    pub file_system: String,
    /// The UUID it gets, drawn beforehand: what the mkfs leaves can be told by it. Earlier versions left it to mkfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Why the disk counted as blank.
    pub evidence: String,
    /// RFC 3339.
    pub at: String,
}

/// A process, told from a later one with the same id.
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
    /// The process of this id as it is now.
    pub fn of(pid: i32, boot_id: &str) -> Self {
        Process { pid, started: group::start_time(pid).unwrap_or_default(), boot_id: boot_id.to_owned() }
    }

    /// Whether it still runs in this boot.
    pub fn is_alive(&self, boot_id: &str) -> bool {
        self.boot_id == boot_id && group::start_time(self.pid) == Some(self.started)
    }
}

/// How far the agent has come with the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The sequence is at work.
    #[default]
    Running,
    /// It failed; the service waits for a retry.
    Held,
    /// It failed, and nobody waits.
    Failed,
    /// The node is up and, where there is somebody to tell, reported.
    Done,
    /// The instance is in a warm pool: left alone until it is really launched.
    Warm,
    /// Told to stop before the end.
    Stopped,
}

/// A [`FailedStep`] as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FailedStepRecord {
    /// The step, where it was in one.
    #[serde(default, deserialize_with = "words::known", skip_serializing_if = "Option::is_none")]
    pub step: Option<StepName>,
    /// The exit code that belongs to it.
    pub exit_code: u8,
    /// What went wrong and what to do.
    pub error: FailureRecord,
}

impl From<&FailedStep> for FailedStepRecord {
    fn from(failed: &FailedStep) -> Self {
        let FailedStep { step, failure } = failed;
        FailedStepRecord { step: *step, exit_code: failure.class().exit_code(), error: failure.into() }
    }
}

impl From<FailedStep> for FailedStepRecord {
    fn from(failed: FailedStep) -> Self {
        (&failed).into()
    }
}

impl From<Failure> for FailedStepRecord {
    fn from(failure: Failure) -> Self {
        FailedStep::from(failure).into()
    }
}

/// Something that does not keep a node from coming up, but should be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The step that saw it.
    pub step: StepName,
    /// The volume's id, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What was seen.
    pub message: String,
}

/// The node as it was configured, for those who read the journal without the configuration.
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

/// The launch lifecycle action.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LifecycleRecord {
    /// The result about to be sent, journaled before the first call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<String>,
    /// How the launch ended; nothing is sent any more once this is set.
    #[serde(default, rename = "outcome", skip_serializing_if = "Option::is_none")]
    pub ended: Option<Word<LaunchOutcome>>,
    /// When a failed node is given up, RFC 3339: set at the first failure, so that neither a retry nor a restart of the
    /// service puts it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_until: Option<String>,
    /// The boot in which the outcome was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_in: Option<String>,
    /// The instance was seen in a warm pool since then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pooled_since: bool,
    /// The action as a configuration last named it: for a hold whose configuration is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// When the hold ends by the clock that nobody sets; `hold_until` is the same end for people and for other boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_deadline: Option<HoldDeadline>,
    /// The journal was lost on a node in service: that its steps are done is concluded, not recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub presumed: bool,
    /// Of a newer version.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// `[lifecycle]` as it was read: what a hold needs to keep its promise without the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// `asg_name`
    pub asg_name: String,
    /// `hook_name`
    pub hook_name: String,
    /// Whether `on_failure` is `abandon`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abandons: bool,
    /// `hold_for`, in milliseconds.
    pub hold_for_ms: u64,
    /// `heartbeat_timeout`, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_timeout_ms: Option<u64>,
}

impl From<&config::Lifecycle> for Action {
    fn from(lifecycle: &config::Lifecycle) -> Self {
        Action {
            asg_name: lifecycle.asg_name.clone(),
            hook_name: lifecycle.hook_name.clone(),
            abandons: lifecycle.on_failure == OnFailure::Abandon,
            hold_for_ms: millis(lifecycle.hold_for),
            heartbeat_timeout_ms: lifecycle.heartbeat_timeout.map(millis),
        }
    }
}

impl From<&Action> for config::Lifecycle {
    fn from(action: &Action) -> Self {
        config::Lifecycle {
            asg_name: action.asg_name.clone(),
            hook_name: action.hook_name.clone(),
            on_failure: if action.abandons { OnFailure::Abandon } else { OnFailure::Hold },
            hold_for: Duration::from_millis(action.hold_for_ms),
            heartbeat_timeout: action.heartbeat_timeout_ms.map(Duration::from_millis),
            terminate_hook_name: None,
        }
    }
}

/// The end of a hold by a boot's own clock. A wall clock can be stepped at any time, and is wrong on many machines at first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldDeadline {
    /// The boot whose clock it is.
    pub boot_id: String,
    /// The end, in milliseconds since that boot (`CLOCK_BOOTTIME`).
    pub since_boot_ms: u64,
    /// How long the hold was to be, in milliseconds: in another boot there is never more of it left.
    pub hold_for_ms: u64,
}

impl LifecycleRecord {
    /// How the launch ended, if it has.
    pub fn outcome(&self) -> Option<LaunchOutcome> {
        self.ended.as_ref().map(|ended| ended.known().unwrap_or(LaunchOutcome::Unknown))
    }

    /// No end of a hold is promised any more.
    fn take_back_hold(&mut self) {
        (self.hold_until, self.hold_deadline) = (None, None);
    }

    /// How much is left of the hold that was promised, at this moment of this boot; none where none was.
    pub fn hold_left(&self, boot_id: &str, since_boot: Duration, now: SystemTime) -> Option<Duration> {
        let until = self.hold_until.as_ref()?;
        if let Some(end) = self.hold_deadline.as_ref().filter(|end| end.boot_id == boot_id) {
            return Some(Duration::from_millis(end.since_boot_ms).saturating_sub(since_boot));
        }
        let promised = self.hold_deadline.as_ref().map(|end| end.hold_for_ms);
        // Earlier versions recorded the wall clock's end alone.
        let promised = promised.or(self.action.as_ref().map(|action| action.hold_for_ms));
        let most = promised.map_or(Duration::MAX, Duration::from_millis);
        let left = humantime::parse_rfc3339(until).map(|until| until.duration_since(now).unwrap_or_default());
        Some(left.unwrap_or(most).min(most))
    }

    /// The end of the hold for people, RFC 3339: as it was promised, unless the wall clock was stepped since.
    pub fn hold_until(&self, boot_id: &str, since_boot: Duration, now: SystemTime) -> Option<String> {
        let promised = self.hold_until.clone()?;
        let end = now + self.hold_left(boot_id, since_boot, now)?;
        let promised_end = humantime::parse_rfc3339(&promised).ok();
        let apart = promised_end
            .map(|promised| promised.duration_since(end).or_else(|_| end.duration_since(promised)).unwrap_or_default());
        // An end in the past stays where it was.
        let is_over = promised_end.is_some_and(|promised| promised <= now && end == now);
        let unstepped = apart.is_some_and(|apart| apart < CLOCK_DRIFT);
        Some(if unstepped || is_over { promised } else { humantime::format_rfc3339_seconds(end).to_string() })
    }
}

/// Two clocks that were never stepped differ by less over a hold.
const CLOCK_DRIFT: Duration = Duration::from_secs(5);

/// How this instance's launch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaunchOutcome {
    /// Auto Scaling was told CONTINUE.
    Continued,
    /// Auto Scaling was told ABANDON.
    Abandoned,
    /// The instance is in no group: nobody to tell.
    NoGroup,
    /// No lifecycle hook is configured.
    NoHook,
    /// CONTINUE was sent, but nobody could see that it was taken: IAM does not let the state be read.
    Unconfirmed,
    /// It ended in a way that only a newer version knows.
    #[serde(skip_deserializing)]
    Unknown,
}

impl fmt::Display for LaunchOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LaunchOutcome::Continued => "CONTINUE was sent",
            LaunchOutcome::Abandoned => "ABANDON was sent",
            LaunchOutcome::NoGroup => "the instance is in no group",
            LaunchOutcome::NoHook => "no lifecycle hook is configured",
            LaunchOutcome::Unconfirmed => "CONTINUE was sent, unconfirmed",
            LaunchOutcome::Unknown => "as a newer version of the agent has recorded",
        })
    }
}

/// The state file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// How often the state was changed, by whichever process: of two copies the one with the larger number is newer.
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
    /// How far it has come.
    #[serde(default, deserialize_with = "words::known")]
    pub phase: Phase,
    /// Since when, RFC 3339.
    #[serde(default)]
    pub since: String,
    /// How the sequence failed the last time, unless it has succeeded since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<FailedStepRecord>,
    /// What should be looked at.
    #[serde(default, deserialize_with = "words::known_among", skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
    /// The last lines that each hook printed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub output: BTreeMap<Word<StepName>, Vec<String>>,
    /// The step from which on everything is to be redone, asked for by an operator and not completed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redo_from: Option<Word<StepName>>,
    /// The instance's tag says that the node failed.
    #[serde(default)]
    pub tagged: bool,
    /// The steps, in the order of the sequence.
    #[serde(default, deserialize_with = "words::known_among")]
    pub steps: Vec<StepRecord>,
    /// By volume id.
    #[serde(default)]
    pub volumes: BTreeMap<String, VolumeRecord>,
    /// The inputs' digest of each completed once-per-instance step.
    #[serde(default)]
    pub once: BTreeMap<Word<StepName>, String>,
    /// An earlier journal may have been lost. None once that is decided.
    #[serde(default, deserialize_with = "words::known", skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
    /// Whether every once-per-instance step before `complete` is done, whatever Auto Scaling was told. Journals of earlier
    /// versions do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub once_complete: Option<bool>,
    /// The hook at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<Process>,
    /// The launch lifecycle action.
    #[serde(default)]
    pub lifecycle: LifecycleRecord,
    /// Of a newer version.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// Why there is no record of what was done, where there may have been one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lost {
    /// The journal could not be read.
    Unreadable,
    /// There was none, although an agent has been at work here before.
    Missing,
    /// There was none, as on a machine's first boot.
    Absent,
}

impl State {
    /// The steps from this one on are due again, and so are those of a newer version, which may come behind it.
    fn forget_once_from(&mut self, step: StepName) {
        self.once.retain(|done, _| done.known().is_some_and(|done| done < step));
    }

    /// The step from which on everything is to be redone. A step of a newer version is that version's affair.
    pub fn redone_from(&self) -> Option<StepName> {
        self.redo_from.as_ref().and_then(Word::known)
    }

    /// The launch has ended so, in this boot.
    fn end_launch(&mut self, outcome: LaunchOutcome) {
        self.lifecycle.ended = Some(outcome.into());
        self.lifecycle.completed_in = Some(self.boot_id.clone());
        self.lifecycle.pooled_since = false;
    }

    /// For journals of earlier versions: without a completed launch, or after a once-per-instance step that failed or was
    /// interrupted, not all of these steps are done. Otherwise the configuration decides ([`Journal::is_set_up`]).
    fn settle_once_complete(&mut self) {
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
const ONCE: [StepName; 3] = [StepName::Files, StepName::Configure, StepName::HealthCheck];

/// The open journal. Single-threaded: the agent's runtime is one thread.
#[derive(Debug)]
pub struct Journal {
    /// None where nothing is to be written.
    dir: Option<PathBuf>,
    publisher: Option<Publisher>,
    state: RefCell<State>,
    /// The last write failed.
    unwritable: Cell<bool>,
    /// The schema of the file, which a newer version wrote: nothing is written to it.
    left_alone: Option<u32>,
}

impl Journal {
    /// Opens the journal in `dir` and tells `publisher` of each change. An unreadable file is set aside, not trusted. A
    /// directory that takes no file is found by the first write.
    pub fn open(dir: &Path, boot_id: &str, publisher: Option<Publisher>) -> Self {
        if let Err(error) = atomic::remove_leftovers(dir) {
            tracing::debug!("clearing {}: {error}", dir.display());
        }
        let (mut state, unreadable) = begin_from(dir);
        let mut left_alone = None;
        match unreadable {
            None => {}
            Some(Unreadable::Newer(schema)) => {
                tracing::warn!("{}", newer(dir, schema));
                left_alone = Some(schema);
            }
            Some(Unreadable::Broken(why)) => {
                tracing::warn!("the journal {} is unreadable ({why}); set aside as {STALE}", dir.join(FILE).display());
                set_aside(dir);
            }
        }
        state.schema = SCHEMA;
        boot_id.clone_into(&mut state.boot_id);
        Journal { publisher, left_alone, ..Journal::with(Some(dir.to_owned()), state) }
    }

    /// A journal to look at: changes stay in memory. One that cannot be read would be set aside.
    pub fn look(dir: &Path) -> Self {
        let (state, _) = begin_from(dir);
        Journal::with(None, state)
    }

    fn with(dir: Option<PathBuf>, mut state: State) -> Self {
        state.settle_once_complete();
        Journal { dir, publisher: None, state: RefCell::new(state), unwritable: Cell::new(false), left_alone: None }
    }

    /// A sequence begins, by this process. After an error only this process knows of it.
    pub fn begin(&self, agent: Process) -> Result<(), Failure> {
        self.adopt(|state| {
            state.agent = Some(agent);
            state.phase = Phase::Running;
            state.since = now();
            // They tell of one sequence, which looks at everything anew.
            state.warnings.clear();
            state.steps.clear();
        })
    }

    /// The configuration of the sequence is known.
    pub fn configured(&self, config: &Config) {
        self.note(|state| {
            config.digest.clone_into(&mut state.config_digest);
            state.node = Subject {
                id: config.node.id.clone(),
                ip: config.node.ip.to_string(),
                asg_name: config.lifecycle.as_ref().map(|lifecycle| lifecycle.asg_name.clone()),
            };
            state.lifecycle.action = config.lifecycle.as_ref().map(Action::from);
        });
    }

    /// The action of this launch as a configuration last named it; none once the launch is completed. Where a hold was
    /// promised, it holds for this action.
    pub fn action(&self) -> Option<config::Lifecycle> {
        let open = |state: &State| state.lifecycle.action.clone().filter(|_| state.lifecycle.outcome().is_none());
        self.read(open).as_ref().map(config::Lifecycle::from)
    }

    /// [`Journal::action`], where the end of a hold was promised for it.
    pub fn promised_action(&self) -> Option<config::Lifecycle> {
        self.action().filter(|_| self.read(|state| state.lifecycle.hold_until.is_some()))
    }

    /// How much is left of the hold. The first failure promises its end, for this action; later ones keep that end and only
    /// take the action as it is called now. It becomes durable with the failure: a disk that is full is one to be repaired,
    /// and the hold does not depend on it.
    pub fn hold(&self, lifecycle: &config::Lifecycle) -> Duration {
        let (since_boot, now) = (host::since_boot(), SystemTime::now());
        let boot_id = self.read(|state| state.boot_id.clone());
        let before = self.read(|state| state.lifecycle.hold_left(&boot_id, since_boot, now));
        let left = before.unwrap_or(lifecycle.hold_for);
        let hold_for_ms = |state: &State| state.lifecycle.hold_deadline.as_ref().map(|end| end.hold_for_ms);
        let hold_for_ms = self.read(hold_for_ms).unwrap_or(millis(lifecycle.hold_for));
        let left = left.min(Duration::from_millis(hold_for_ms));
        self.note(|state| {
            let record = &mut state.lifecycle;
            record.action = Some(lifecycle.into());
            if record.hold_deadline.as_ref().is_none_or(|end| end.boot_id != boot_id) {
                record.hold_deadline = Some(HoldDeadline {
                    boot_id: boot_id.clone(),
                    since_boot_ms: millis(since_boot + left),
                    hold_for_ms,
                });
            }
            let until = record.hold_until(&boot_id, since_boot, now);
            let until = until.unwrap_or_else(|| humantime::format_rfc3339_millis(now + left).to_string());
            record.hold_until = Some(until);
        });
        left
    }

    /// Nobody can be told of the end of a hold any more: none is promised.
    pub fn take_back_hold(&self) {
        if self.read(|state| state.lifecycle.hold_until.is_some()) {
            self.note(|state| state.lifecycle.take_back_hold());
        }
    }

    /// The sequence has come to an end of this kind. Where that cannot be made durable, it is known all the same as long as
    /// this process lives.
    pub fn end(&self, phase: Phase, fault: Option<FailedStepRecord>) -> Result<(), Failure> {
        self.adopt(|state| {
            state.phase = phase;
            state.since = now();
            state.fault = fault;
            if phase == Phase::Done {
                state.redo_from = None;
                state.lifecycle.take_back_hold();
            }
        })
    }

    /// The journal's instance is `instance_id`. One of another instance (an image baked from a booted machine) is set
    /// aside and begun anew, but for the steps of this run.
    pub fn claim(&self, instance_id: &str) {
        let before = self.state.borrow().instance_id.clone();
        if before == instance_id {
            return;
        }
        // Of a run that has not learnt its instance, in this very boot: it was this instance's.
        let own =
            self.read(|state| state.lifecycle.hold_deadline.as_ref().is_some_and(|end| end.boot_id == state.boot_id));
        if before.is_empty() && (own || self.read(|state| state.lifecycle.hold_until.is_none())) {
            self.keep(|state| instance_id.clone_into(&mut state.instance_id));
            return;
        }
        if !before.is_empty()
            && self.left_alone.is_none()
            && let Some(dir) = &self.dir
        {
            tracing::warn!("the journal is of instance {before}, this is {instance_id}; set aside as {STALE}");
            set_aside(dir);
        }
        self.keep(|state| {
            *state = State {
                schema: SCHEMA,
                revision: state.revision,
                instance_id: instance_id.to_owned(),
                boot_id: state.boot_id.clone(),
                config_digest: state.config_digest.clone(),
                node: state.node.clone(),
                agent: state.agent.clone(),
                phase: state.phase,
                since: state.since.clone(),
                steps: state.steps.iter().filter(|record| record.step == StepName::Identity).cloned().collect(),
                once_complete: Some(false),
                ..State::default()
            };
        });
    }

    /// Reads something.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.borrow())
    }

    /// Changes something, and returns when it is durable.
    pub fn update(&self, change: impl FnOnce(&mut State)) -> Result<(), Failure> {
        let mut next = self.state.borrow().clone();
        change(&mut next);
        next.revision += 1;
        if let (Some(dir), Some(schema)) = (&self.dir, self.left_alone) {
            return Err(newer(dir, schema));
        }
        if let Some(dir) = &self.dir {
            let text =
                serde_json::to_vec_pretty(&next).map_err(|error| Failure::io("writing the journal", error.into()))?;
            let written = atomic::Replacement::new(dir.join(FILE)).mode(0o600).write(&text);
            self.unwritable.set(written.is_err());
            written.map_err(|error| {
                Failure::new(Code::StateUnusable, format!("writing {}", dir.join(FILE).display())).because(error)
            })?;
        }
        *self.state.borrow_mut() = next;
        self.publish();
        Ok(())
    }

    /// Changes the state in memory, and on the disk where there is room. For changes that must take effect even on a full
    /// disk; the next write that succeeds makes them durable.
    pub fn keep(&self, change: impl FnOnce(&mut State)) {
        let known = self.unwritable.get();
        if let Err(failure) = self.adopt(change)
            && !known
        {
            tracing::error!("{failure}; the agent goes on with the state that it has in memory");
        }
    }

    /// As [`Journal::keep`], for a caller who has something to say of the error. A newer version's journal was said to be left
    /// alone, and is no error here.
    fn adopt(&self, change: impl FnOnce(&mut State)) -> Result<(), Failure> {
        self.note(change);
        if self.left_alone.is_some() { Ok(()) } else { self.update(|_| {}) }
    }

    /// Why nothing is written, where the journal is a newer version's.
    pub fn left_alone(&self) -> Option<Failure> {
        Some(newer(self.dir.as_deref()?, self.left_alone?))
    }

    /// Changes something that only people look at. It becomes durable with the next [`Journal::update`].
    pub fn note(&self, change: impl FnOnce(&mut State)) {
        {
            let mut state = self.state.borrow_mut();
            change(&mut state);
            state.revision += 1;
        }
        self.publish();
    }

    fn publish(&self) {
        if let Some(publisher) = &self.publisher {
            publisher.publish(&self.state.borrow());
        }
    }

    /// Warns, and keeps the warning for those who look later.
    pub fn warn(&self, step: StepName, subject: Option<&str>, message: impl Into<String>) {
        let warning = Warning { step, subject: subject.map(str::to_owned), message: message.into() };
        tracing::warn!(step = step.as_str(), volume = subject, "{}", warning.message);
        self.note(|state| {
            if !state.warnings.contains(&warning) {
                state.warnings.push(warning);
            }
        });
    }

    /// Takes a warning back that does not hold any more.
    pub fn take_back(&self, warning: &Warning) {
        self.note(|state| state.warnings.retain(|one| one != warning));
    }

    /// What is known of a volume.
    pub fn volume(&self, id: &str) -> VolumeRecord {
        self.read(|state| state.volumes.get(id).cloned().unwrap_or_default())
    }

    /// Changes what is known of a volume.
    pub fn update_volume(&self, id: &str, change: impl FnOnce(&mut VolumeRecord)) -> Result<(), Failure> {
        self.update(|state| change(state.volumes.entry(id.to_owned()).or_default()))
    }

    /// Records the filesystems, by volume id and UUID, that a launched node has. A record that is there stays.
    pub fn record_filesystems<'a>(&self, filesystems: impl Iterator<Item = (&'a str, &'a str)>) {
        let unknown = |(id, _): &(&str, &str)| self.volume(id).filesystem_uuid.is_none();
        let new: Vec<_> = filesystems.filter(unknown).collect();
        if !new.is_empty() {
            self.keep(|state| {
                for (id, uuid) in new {
                    state.volumes.entry(id.to_owned()).or_default().filesystem_uuid = Some(uuid.to_owned());
                }
            });
        }
    }

    /// Whether a once-per-instance step was completed with these very inputs.
    pub fn once_done(&self, step: StepName, inputs: &str) -> bool {
        self.read(|state| state.once.get(&step.into()).is_some_and(|done| done == inputs))
    }

    /// A once-per-instance step is completed: those after it are due again.
    pub fn record_once(&self, step: StepName, inputs: &str) -> Result<(), Failure> {
        self.update(|state| {
            state.forget_once_from(step);
            state.once.insert(step.into(), inputs.to_owned());
            state.once_complete = Some(false);
        })
    }

    /// The last of the once-per-instance steps before `complete` is done. Each of them is durable, and what follows from
    /// them is found again: a full disk is no reason to fail a node that is healthy.
    pub fn record_once_complete(&self) {
        if self.read(|state| state.once_complete != Some(true)) {
            self.keep(|state| state.once_complete = Some(true));
        }
    }

    /// Whether the once-per-instance steps are behind this instance: its launch is completed, the steps themselves are done,
    /// and nobody wants one redone. That the launch is completed says nothing of the steps: people complete launches by hand.
    pub fn is_set_up(&self, config: &Config) -> bool {
        self.read(|state| {
            // Earlier versions did not record it: then each step must be recorded that this configuration asks for.
            let recorded = || {
                let hooks = |step: &StepName| *step == StepName::Files || config.hooks.is_some();
                ONCE.iter().filter(|step| hooks(step)).all(|step| state.once.contains_key(&(*step).into()))
            };
            let launched = state.lifecycle.outcome().is_some_and(|outcome| outcome != LaunchOutcome::Abandoned);
            launched && state.redone_from().is_none() && state.once_complete.unwrap_or_else(recorded)
        })
    }

    /// Whether an earlier journal of this launch may have been lost, which nobody has looked into yet.
    pub fn lost(&self) -> Option<Lost> {
        self.read(|state| state.lost.filter(|_| state.lifecycle.outcome().is_none()))
    }

    /// Records that nothing is missing from this journal.
    pub fn nothing_lost(&self) {
        if self.read(|state| state.lost.is_some()) {
            self.keep(|state| state.lost = None);
        }
    }

    /// The journal was lost, but the instance is in service: its launch was completed and its steps were done, as far as
    /// can be told.
    pub fn presume_set_up(&self) {
        self.keep(|state| {
            state.lost = None;
            state.once_complete = Some(true);
            state.end_launch(LaunchOutcome::Continued);
            state.lifecycle.presumed = true;
        });
    }

    /// How this instance's launch ended, if it has.
    pub fn launch_outcome(&self) -> Option<LaunchOutcome> {
        self.read(|state| state.lifecycle.outcome())
    }

    /// Records how the launch ended, in memory at least: nothing is sent for it any more.
    pub fn launch_ended(&self, outcome: LaunchOutcome) {
        self.keep(|state| state.end_launch(outcome));
    }

    /// The instance is in a warm pool: where its launch is completed already, another one may follow.
    pub fn in_pool(&self) -> Result<(), Failure> {
        if self.launch_outcome().is_none() || self.read(|state| state.lifecycle.pooled_since) {
            return Ok(());
        }
        self.update(|state| state.lifecycle.pooled_since = true)
    }

    /// Whether the completed launch may have been followed by another one of the same instance: in this boot, if that is not the
    /// one in which it was completed, or by way of a warm pool that was seen.
    pub fn may_be_launched_anew(&self, boot_id: &str) -> bool {
        self.read(|state| {
            let lifecycle = &state.lifecycle;
            matches!(lifecycle.outcome(), Some(LaunchOutcome::Continued | LaunchOutcome::Unconfirmed))
                && (lifecycle.pooled_since || lifecycle.completed_in.as_deref() != Some(boot_id))
        })
    }

    /// The instance is launched anew: what is done once for a launch is due again, and nothing has been sent for it yet.
    pub fn launched_anew(&self) -> Result<(), Failure> {
        self.update(|state| {
            state.lifecycle = LifecycleRecord { action: state.lifecycle.action.take(), ..LifecycleRecord::default() };
            state.once.clear();
            state.once_complete = Some(false);
        })
    }

    /// Puts a step's record in its place, durably where the disk takes it: it tells people, and no step depends on it.
    pub fn record(&self, record: StepRecord) {
        self.keep(|state| put(state, record));
    }

    /// As [`Journal::record`], for what only people look at.
    pub fn note_record(&self, record: StepRecord) {
        self.note(|state| put(state, record));
    }

    /// Everything from `step` on is to be redone. What Auto Scaling was told stays told.
    pub fn redo_from(&self, step: StepName) -> Result<(), Failure> {
        self.update(|state| {
            state.redo_from = Some(step.into());
            state.forget_once_from(step);
            if step < StepName::Complete {
                state.once_complete = Some(false);
                state.lifecycle.presumed = false;
            }
            if step <= StepName::Filesystem {
                // An operator has decided that what is on the disks now is right.
                state.volumes.values_mut().for_each(|volume| volume.filesystem_uuid = None);
            }
            if matches!(state.lifecycle.outcome(), Some(LaunchOutcome::NoGroup | LaunchOutcome::NoHook)) {
                state.lifecycle.ended = None;
            }
        })
    }
}

fn put(state: &mut State, record: StepRecord) {
    let same = |old: &&mut StepRecord| old.step == record.step && old.subject == record.subject;
    if let Some(old) = state.steps.iter_mut().find(same) {
        *old = record;
    } else {
        state.steps.push(record);
        // Fetching begins beside attaching; people read the sequence.
        state.steps.sort_by_key(|record| record.step);
    }
}

/// Why a journal cannot be read.
#[derive(Debug)]
pub enum Unreadable {
    /// A newer version has written it, with this schema.
    Newer(u32),
    /// It is damaged.
    Broken(String),
}

/// A newer version's journal is left alone.
pub fn newer(dir: &Path, schema: u32) -> Failure {
    let (path, own) = (dir.join(FILE), env!("CARGO_PKG_VERSION"));
    let text = format!(
        "the journal {0} has schema {schema}, and this agent ({own}) knows {SCHEMA}: it is left alone, nothing is recorded, and Auto \
         Scaling is told nothing",
        path.display()
    );
    Failure::new(Code::StateUnusable, text).remedy(format!(
        "install the version that wrote it, or a newer one, then: systemctl restart node-agent; if the journal came with the image \
         of another machine: mv {0} {0}.other && node-agent retry",
        path.display()
    ))
}

/// The state in `dir`, without touching it; none where there is none.
pub fn read(dir: &Path) -> Result<Option<State>, Unreadable> {
    match fs::read(dir.join(FILE)) {
        Ok(text) => parse(&text).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Unreadable::Broken(error.to_string())),
    }
}

/// The state to begin with in `dir`, and why the one that is there cannot be read.
fn begin_from(dir: &Path) -> (State, Option<Unreadable>) {
    let lost = |lost| State { lost: Some(lost), ..State::default() };
    match read(dir) {
        Ok(Some(state)) => (state, None),
        // Every run makes it once its journal is written.
        Ok(None) if dir.join(SCRATCH).is_dir() => (lost(Lost::Missing), None),
        Ok(None) => (lost(Lost::Absent), None),
        Err(Unreadable::Newer(schema)) => (glimpse(dir), Some(Unreadable::Newer(schema))),
        Err(why) => (lost(Lost::Unreadable), Some(why)),
    }
}

/// What counts of a newer version's journal: it is of this instance, which was launched and set up, as far as can be told.
fn glimpse(dir: &Path) -> State {
    let document: Value =
        fs::read(dir.join(FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    State {
        instance_id: document["instance_id"].as_str().unwrap_or_default().to_owned(),
        once_complete: Some(true),
        lifecycle: LifecycleRecord { ended: Some(Word::Other("newer".to_owned())), ..LifecycleRecord::default() },
        ..State::default()
    }
}

/// Reads a state; one of a later schema is not understood.
pub fn parse(text: &[u8]) -> Result<State, Unreadable> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    let broken = |error: serde_json::Error| Unreadable::Broken(error.to_string());
    let version: Version = serde_json::from_slice(text).map_err(broken)?;
    match version.schema {
        SCHEMA => serde_json::from_slice(text).map_err(broken),
        newer if newer > SCHEMA => Err(Unreadable::Newer(newer)),
        none => Err(Unreadable::Broken(format!("there is no schema {none}"))),
    }
}

/// Where it cannot be renamed, the next write replaces it.
fn set_aside(dir: &Path) {
    match fs::rename(dir.join(FILE), dir.join(STALE)) {
        Err(error) if error.kind() != ErrorKind::NotFound => tracing::error!("setting the journal aside: {error}"),
        _ => {}
    }
}

/// Makes a directory of the agent's own, 0700.
pub fn private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Journal {
        Journal::open(dir, "boot-1", None)
    }

    #[test]
    fn what_was_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path());
        journal.claim("i-1");
        journal.record_once(StepName::Configure, "abc").unwrap();
        let again = open(dir.path());
        again.claim("i-1");
        assert!(again.once_done(StepName::Configure, "abc"));
        assert!(!again.once_done(StepName::Configure, "other"));
    }

    #[test]
    fn redoing_a_step_makes_the_later_ones_due_again() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path());
        journal.record_once(StepName::Files, "1").unwrap();
        journal.record_once(StepName::Configure, "1").unwrap();
        journal.record_once(StepName::HealthCheck, "1").unwrap();
        journal.record_once(StepName::Configure, "2").unwrap();
        assert!(journal.once_done(StepName::Files, "1"));
        assert!(!journal.once_done(StepName::HealthCheck, "1"));
    }

    #[test]
    fn the_rest_of_a_hold_follows_the_boots_clock_and_never_exceeds_the_promise() {
        let seconds = Duration::from_secs;
        let now = humantime::parse_rfc3339("2026-01-01T00:00:00Z").unwrap();
        let record = |until: &str, boot: Option<&str>| LifecycleRecord {
            hold_until: Some(until.to_owned()),
            hold_deadline: boot.map(|boot_id| HoldDeadline {
                boot_id: boot_id.to_owned(),
                since_boot_ms: 5_000_000,
                hold_for_ms: 3_600_000,
            }),
            ..LifecycleRecord::default()
        };
        // The recorded end, the boot it was recorded in, and what is left 4,400 s into boot b.
        let cases = [
            ("2026-01-01T00:10:00Z", Some("b"), seconds(600)),
            ("2046-01-01T00:00:00Z", Some("b"), seconds(600)),
            ("2006-01-01T00:00:00Z", Some("b"), seconds(600)),
            ("2026-01-01T00:20:00Z", Some("a"), seconds(1200)),
            ("2046-01-01T00:00:00Z", Some("a"), seconds(3600)),
            ("2006-01-01T00:00:00Z", Some("a"), seconds(0)),
            ("never", Some("a"), seconds(3600)),
            ("2026-01-01T00:20:00Z", None, seconds(1200)),
        ];
        for (until, boot, left) in cases {
            let record = record(until, boot);
            assert_eq!(record.hold_left("b", seconds(4_400), now), Some(left), "{until} {boot:?}");
            // What people are told is the same.
            let told = record.hold_until("b", seconds(4_400), now).unwrap();
            let end = humantime::parse_rfc3339(&told).unwrap_or_else(|error| panic!("{told}: {error}"));
            assert_eq!(end.duration_since(now).unwrap_or_default(), left, "{until} {boot:?}: {told}");
        }
        assert_eq!(LifecycleRecord::default().hold_left("b", seconds(1), now), None);
    }

    #[test]
    fn a_completed_launch_says_nothing_of_steps_that_are_not_done() {
        let text = "[node]\nid = \"00\"\nip = \"10.0.1.10\"\n[hooks]\nscript = \"/h.sh\"\n";
        let text = config::Text { name: "config.toml".to_owned(), text: text.to_owned() };
        let config = config::load(text, None, config::Scope::Offline).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path());
        for step in ONCE {
            journal.record_once(step, "1").unwrap();
        }
        journal.launch_ended(LaunchOutcome::Continued);
        assert!(!journal.is_set_up(&config));
        journal.record_once_complete();
        assert!(journal.is_set_up(&config));
        journal.redo_from(StepName::HealthCheck).unwrap();
        journal.end(Phase::Done, None).unwrap();
        assert!(!journal.is_set_up(&config));
        journal.record_once_complete();
        assert!(journal.is_set_up(&config));
        journal.record_once(StepName::Configure, "2").unwrap();
        assert!(!journal.is_set_up(&config));
        journal.record_once_complete();
        journal.launched_anew().unwrap();
        journal.launch_ended(LaunchOutcome::Continued);
        assert!(!journal.is_set_up(&config));
    }

    #[test]
    fn a_journal_of_another_instance_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path());
        journal.claim("i-old");
        journal.launch_ended(LaunchOutcome::Continued);
        let baked = open(dir.path());
        baked.claim("i-new");
        assert_eq!(baked.launch_outcome(), None);
        let stale = fs::read_to_string(dir.path().join(STALE)).unwrap();
        assert!(stale.contains("i-old"));
    }

    #[test]
    fn an_unreadable_journal_is_set_aside() {
        for text in ["", "{\"schema\":1,\"instance_id\":\"i", "{\"schema\":0}", "{}", "[]"] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(FILE), text).unwrap();
            let journal = open(dir.path());
            journal.claim("i-1");
            assert!(dir.path().join(STALE).exists(), "{text}");
        }
    }

    #[test]
    fn a_newer_journal_is_never_written() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"schema":2,"instance_id":"i-1","lifecycle":{"outcome":{"launch":"continued"}}}"#;
        fs::write(dir.path().join(FILE), text).unwrap();
        for (instance_id, launched) in [("i-1", true), ("i-2", false)] {
            let journal = open(dir.path());
            journal.claim(instance_id);
            assert_eq!(journal.launch_outcome().is_some(), launched);
            journal.launch_ended(LaunchOutcome::Continued);
            journal.record_once_complete();
            let refused = journal.record_once(StepName::Files, "1").unwrap_err();
            assert!(refused.to_string().contains("has schema 2"), "{refused}");
            assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), text);
            assert!(!dir.path().join(STALE).exists());
        }
    }

    #[test]
    fn words_of_a_newer_version_are_kept_and_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let newer = serde_json::json!({
            "schema": 1, "instance_id": "i-1", "boot_id": "boot-1", "config_digest": "d", "revision": 7,
            "phase": "departing",
            "departure": { "phase": "draining" },
            "redo_from": "drain",
            "fault": { "step": "drain", "exit_code": 1, "error": { "code": "x", "message": "m", "remedy": "r", "public": "m" } },
            "warnings": [{ "step": "drain", "message": "m" }, { "step": "mount", "message": "m" }],
            "steps": [
                { "step": "gate", "outcome": "changed", "attempts": 1, "started_at": "", "took_ms": 1 },
                { "step": "mount", "outcome": "adopted", "attempts": 1, "started_at": "", "took_ms": 1 },
                { "step": "grow", "outcome": "changed", "attempts": 1, "started_at": "", "took_ms": 1 },
            ],
            "output": { "drain": ["a"], "configure": ["b"] },
            "once": { "files": "1", "configure": "2", "health-check": "3", "enrol": "4" },
            "lost": "eaten",
            "lifecycle": { "outcome": "transferred", "terminate": { "intent": "CONTINUE" } },
            "volumes": { "vol-1": { "tag_due": false, "ownership_due": false, "sealed": true } },
        });
        fs::write(dir.path().join(FILE), newer.to_string()).unwrap();

        let journal = open(dir.path());
        journal.claim("i-1");
        assert_eq!(journal.launch_outcome(), Some(LaunchOutcome::Unknown));
        assert!(journal.once_done(StepName::HealthCheck, "3"));
        assert_eq!(journal.read(|state| state.steps.len()), 1);
        assert_eq!(journal.read(|state| state.warnings.len()), 1);
        assert_eq!(journal.read(State::redone_from), None);
        journal.keep(|_| {});

        let kept: Value = serde_json::from_slice(&fs::read(dir.path().join(FILE)).unwrap()).unwrap();
        for path in [
            "/departure",
            "/redo_from",
            "/output",
            "/once",
            "/lifecycle/outcome",
            "/lifecycle/terminate",
            "/volumes/vol-1/sealed",
        ] {
            assert_eq!(kept.pointer(path), newer.pointer(path), "{path}: {kept}");
        }
        // A step that is redone has later ones redone, also those that only the newer version knows.
        journal.record_once(StepName::Configure, "5").unwrap();
        assert_eq!(journal.read(|state| state.once.len()), 2);
    }
}
