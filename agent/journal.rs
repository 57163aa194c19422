//! What was done and when: the state file.
//!
//! The world is the truth. The journal answers only what cannot be observed (a hook ran, this agent formatted, a
//! lifecycle action was sent) and tells people what happened. Written whole, by temporary file, fsync and rename, so that
//! a reader sees the old state or the new one, also after a power cut.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Named};
use crate::host::atomic;
use crate::step::StepName;

/// The layout of the file below; a reader of another number leaves the file alone.
pub const SCHEMA: u32 = 1;

const FILE: &str = "state.json";
const STALE: &str = "state.json.stale";

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
    /// Rounds in which something was tried or went wrong.
    pub attempts: u32,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// How long it took so far, in milliseconds.
    pub took_ms: u64,
    /// What went wrong and what to do, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorRecord>,
}

/// A failure as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorRecord {
    /// The catalogue's name.
    pub code: String,
    /// What happened and what was seen.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl From<&Failure> for ErrorRecord {
    fn from(failure: &Failure) -> Self {
        ErrorRecord {
            code: failure.code.name().to_owned(),
            message: failure.to_string(),
            remedy: failure.what_to_do().to_owned(),
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
    /// Why the disk counted as blank.
    pub evidence: String,
    /// RFC 3339.
    pub at: String,
}

/// A hook's process group, so that a restarted agent can end what a killed one left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookProcess {
    /// The group's id, which is its leader's process id.
    pub group: i32,
    /// The leader's start time in clock ticks since boot (field 22 of /proc/PID/stat).
    pub started: u64,
    /// The boot in which it ran.
    pub boot_id: String,
}

/// The launch lifecycle action.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LifecycleRecord {
    /// The result about to be sent, journaled before the first call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<String>,
    /// How the launch ended; nothing is sent any more once this is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<LaunchOutcome>,
}

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
}

/// The state file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// The instance this is about; empty until it is known.
    pub instance_id: String,
    /// The boot in which it was last written.
    pub boot_id: String,
    /// The configuration it was last run with.
    pub config_digest: String,
    /// The steps, in the order of the sequence.
    #[serde(default)]
    pub steps: Vec<StepRecord>,
    /// By volume id.
    #[serde(default)]
    pub volumes: BTreeMap<String, VolumeRecord>,
    /// The inputs' digest of each completed once-per-instance step.
    #[serde(default)]
    pub once: BTreeMap<StepName, String>,
    /// The hook at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<HookProcess>,
    /// The launch lifecycle action.
    #[serde(default)]
    pub lifecycle: LifecycleRecord,
}

/// The open journal. Single-threaded: the agent's runtime is one thread.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    state: RefCell<State>,
}

impl Journal {
    /// Opens the journal in `dir`, which is made (0700) if need be. An unreadable file is set aside, not trusted.
    pub fn open(dir: &Path, boot_id: &str, config_digest: &str) -> Result<Self, Failure> {
        let fresh = State {
            schema: SCHEMA,
            instance_id: String::new(),
            boot_id: boot_id.to_owned(),
            config_digest: config_digest.to_owned(),
            steps: Vec::new(),
            volumes: BTreeMap::new(),
            once: BTreeMap::new(),
            hook: None,
            lifecycle: LifecycleRecord::default(),
        };
        atomic::remove_leftovers(dir).named(format_args!("clearing {}", dir.display()))?;
        let state = match read(dir) {
            Ok(Some(state)) => State { boot_id: fresh.boot_id, config_digest: fresh.config_digest, ..state },
            Ok(None) => fresh,
            Err(why) => {
                tracing::warn!("the journal {} is unreadable ({why}); set aside as {STALE}", dir.join(FILE).display());
                set_aside(dir)?;
                fresh
            }
        };
        Ok(Journal { dir: dir.to_owned(), state: RefCell::new(state) })
    }

    /// The journal's instance is `instance_id`. One of another instance (an image baked from a booted machine) is set
    /// aside and begun anew, but for the steps of this run.
    pub fn claim(&self, instance_id: &str) -> Result<(), Failure> {
        let before = self.state.borrow().instance_id.clone();
        if before == instance_id {
            return Ok(());
        }
        if !before.is_empty() {
            tracing::warn!("the journal is of instance {before}, this is {instance_id}; set aside as {STALE}");
            set_aside(&self.dir)?;
        }
        self.update(|state| {
            *state = State {
                instance_id: instance_id.to_owned(),
                steps: state.steps.iter().filter(|record| record.step == StepName::Identity).cloned().collect(),
                volumes: BTreeMap::new(),
                once: BTreeMap::new(),
                hook: None,
                lifecycle: LifecycleRecord::default(),
                ..state.clone()
            };
        })
    }

    /// Reads something.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.borrow())
    }

    /// Changes something, and returns when it is durable.
    pub fn update(&self, change: impl FnOnce(&mut State)) -> Result<(), Failure> {
        let mut next = self.state.borrow().clone();
        change(&mut next);
        let text = serde_json::to_vec_pretty(&next).map_err(|error| Failure::io("the journal", error.into()))?;
        atomic::Replacement::new(self.dir.join(FILE)).mode(0o600).write(&text).named("writing state.json")?;
        *self.state.borrow_mut() = next;
        Ok(())
    }

    /// What is known of a volume.
    pub fn volume(&self, id: &str) -> VolumeRecord {
        self.read(|state| state.volumes.get(id).cloned().unwrap_or_default())
    }

    /// Changes what is known of a volume.
    pub fn update_volume(&self, id: &str, change: impl FnOnce(&mut VolumeRecord)) -> Result<(), Failure> {
        self.update(|state| change(state.volumes.entry(id.to_owned()).or_default()))
    }

    /// Whether a once-per-instance step was completed with these very inputs.
    pub fn once_done(&self, step: StepName, inputs: &str) -> bool {
        self.read(|state| state.once.get(&step).is_some_and(|done| done == inputs))
    }

    /// A once-per-instance step is completed: those after it are due again.
    pub fn record_once(&self, step: StepName, inputs: &str) -> Result<(), Failure> {
        self.update(|state| {
            state.once.retain(|done, _| *done < step);
            state.once.insert(step, inputs.to_owned());
        })
    }

    /// How this instance's launch ended, if it has.
    pub fn launch_outcome(&self) -> Option<LaunchOutcome> {
        self.read(|state| state.lifecycle.outcome)
    }

    /// Puts a step's record in its place.
    pub fn record(&self, record: StepRecord) -> Result<(), Failure> {
        self.update(|state| {
            let same = |old: &&mut StepRecord| old.step == record.step && old.subject == record.subject;
            if let Some(old) = state.steps.iter_mut().find(same) {
                *old = record;
            } else {
                state.steps.push(record);
                // Fetching begins beside attaching; people read the sequence.
                state.steps.sort_by_key(|record| record.step);
            }
        })
    }
}

/// Now, as the journal writes it.
pub fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// Milliseconds, as the journal writes them.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn read(dir: &Path) -> Result<Option<State>, String> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    let text = match fs::read(dir.join(FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let version: Version = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if version.schema != SCHEMA {
        return Err(format!("schema {}, this agent knows {SCHEMA}", version.schema));
    }
    serde_json::from_slice(&text).map(Some).map_err(|error| error.to_string())
}

fn set_aside(dir: &Path) -> Result<(), Failure> {
    fs::rename(dir.join(FILE), dir.join(STALE))
        .or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
        .named("setting the journal aside")
}

/// Makes a directory of the agent's own, 0700.
pub fn private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Journal {
        Journal::open(dir, "boot-1", "digest-1").unwrap()
    }

    #[test]
    fn what_was_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path());
        journal.claim("i-1").unwrap();
        journal.record_once(StepName::Configure, "abc").unwrap();
        let again = open(dir.path());
        again.claim("i-1").unwrap();
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
    fn a_journal_of_another_instance_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path());
        journal.claim("i-old").unwrap();
        journal.update(|state| state.lifecycle.outcome = Some(LaunchOutcome::Continued)).unwrap();
        let baked = open(dir.path());
        baked.claim("i-new").unwrap();
        assert_eq!(baked.launch_outcome(), None);
        let stale = fs::read_to_string(dir.path().join(STALE)).unwrap();
        assert!(stale.contains("i-old"));
    }

    #[test]
    fn an_unreadable_or_newer_journal_is_set_aside() {
        for text in ["", "{\"schema\":1,\"instance_id\":\"i", "{\"schema\":99}"] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(FILE), text).unwrap();
            let journal = open(dir.path());
            journal.claim("i-1").unwrap();
            assert!(dir.path().join(STALE).exists(), "{text}");
        }
    }
}
