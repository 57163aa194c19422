//! What was done and when: the state file.
//!
//! The world is the truth. The journal records only what cannot be observed (a hook ran, this agent formatted, a lifecycle
//! action was sent), and tells people what happened. It is written whole, to a temporary file that is fsynced and renamed, so
//! that a reader sees either the old state or the new one, even after a power cut.
//!
//! In one file, because every change of the state passes through it.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::lifecycle::{Action, Clock, Deadline, LaunchOutcome, LifecycleRecord};
use super::model::{Lost, ONCE, Phase, Process, State, Subject, VolumeRecord, Warning};
use super::publish::Publisher;
use super::record::{FailedStepRecord, StepRecord};
use super::store::{self, FILE, SCHEMA, STALE, Unreadable};
use crate::config::{self, Config};
use crate::failure::{Code, Failure};
use crate::host::atomic;
use crate::sequence::StepName;
use crate::time::now;

/// The open journal. Single-threaded: the agent's runtime is one thread.
pub struct Journal {
    /// None if nothing is to be written.
    dir: Option<PathBuf>,
    publisher: Option<Publisher>,
    state: RefCell<State>,
    /// Whether the last write failed.
    unwritable: Cell<bool>,
    /// The schema of a file that a newer version wrote. Such a file is never written.
    left_alone: Option<u32>,
}

impl Journal {
    /// Opens the journal in `dir`; each change goes to `publisher`. An unreadable file is set aside. A directory that takes no
    /// file is detected by the first write.
    pub fn open(dir: &Path, boot_id: &str, publisher: Option<Publisher>) -> Self {
        if let Err(error) = atomic::remove_leftovers(dir) {
            tracing::debug!("clearing {}: {error}", dir.display());
        }
        let (mut state, unreadable) = store::begin_from(dir);
        let mut left_alone = None;
        match unreadable {
            None => {}
            Some(Unreadable::Newer(schema)) => {
                tracing::warn!("{}", store::newer(dir, schema));
                left_alone = Some(schema);
            }
            Some(Unreadable::Broken(why)) => {
                tracing::warn!("the journal {} is unreadable ({why}); set aside as {STALE}", dir.join(FILE).display());
                store::set_aside(dir);
            }
        }
        state.schema = SCHEMA;
        boot_id.clone_into(&mut state.boot_id);
        Journal { publisher, left_alone, ..Journal::with(Some(dir.to_owned()), state) }
    }

    /// A journal for reading: changes stay in memory, and an unreadable file is left where it is.
    pub fn read_only(dir: &Path) -> Self {
        Journal::with(None, store::begin_from(dir).0)
    }

    fn with(dir: Option<PathBuf>, mut state: State) -> Self {
        state.settle_once_complete();
        Journal { dir, publisher: None, state: RefCell::new(state), unwritable: Cell::new(false), left_alone: None }
    }

    /// Records that this process begins a sequence. After an error the record is in this process's memory only.
    pub fn begin(&self, agent: Process) -> Result<(), Failure> {
        self.adopt(|state| {
            state.keep_run();
            state.agent = Some(agent);
            state.phase = Phase::Running;
            state.since = now();
            // Both are about one sequence, and this one observes everything anew.
            state.warnings.clear();
            state.steps.clear();
        })
    }

    /// Records the configuration of the sequence.
    pub fn configured(&self, config: &Config) {
        self.note(|state| {
            config.digest.clone_into(&mut state.config_digest);
            state.node = Subject {
                id: config.node.id.clone(),
                ip: config.node.ip.to_string(),
                asg_name: config.lifecycle.as_ref().map(|lifecycle| lifecycle.asg_name.clone()),
            };
            let cluster = config.cluster.as_ref();
            state.lifecycle.action = config.lifecycle.as_ref().map(|lifecycle| Action::new(lifecycle, cluster));
        });
    }

    /// The lifecycle action of this launch as the configuration last named it; none once the launch is completed. The end of
    /// a hold is promised for this action.
    pub fn action(&self) -> Option<config::Lifecycle> {
        let open = |state: &State| state.lifecycle.action.clone().filter(|_| state.lifecycle.outcome().is_none());
        self.read(open).as_ref().map(config::Lifecycle::from)
    }

    /// `[cluster]` as the configuration last named it.
    pub fn cluster(&self) -> Option<config::Cluster> {
        self.read(|state| Some(state.lifecycle.action.as_ref()?.cluster.as_ref()?.into()))
    }

    /// The lifecycle action as the configuration last named it, whatever has become of the launch.
    pub fn last_action(&self) -> Option<config::Lifecycle> {
        self.read(|state| state.lifecycle.action.as_ref().map(config::Lifecycle::from))
    }

    /// [`Journal::action`], if the end of a hold was promised for it.
    pub fn promised_action(&self) -> Option<config::Lifecycle> {
        self.action().filter(|_| self.read(|state| state.lifecycle.hold_until.is_some()))
    }

    /// The present time in this boot.
    pub fn clock(&self) -> Clock {
        self.read(|state| Clock::now(&state.boot_id))
    }

    /// The time that is left of the hold. The first failure promises its end for this action; later failures keep that end and
    /// only update the action's names. The promise becomes durable with the failure's record, and does not depend on a disk
    /// that may be full.
    pub fn hold(&self, action: Action) -> Duration {
        let clock = self.clock();
        let hold_for = Duration::from_millis(action.hold_for_ms);
        let gate = action.gate();
        let before = self.read(|state| state.lifecycle.hold_left(&clock));
        let whole = |state: &State| state.lifecycle.hold_deadline.as_ref().map(|end| end.whole_ms);
        let whole = self.read(whole).map_or(hold_for, Duration::from_millis);
        let left = before.unwrap_or(hold_for).min(whole);
        self.note(|state| {
            let record = &mut state.lifecycle;
            record.action = Some(action);
            if record.abandon_by.is_none() {
                record.abandon_by =
                    gate.map(|gate| (clock.after(left + gate), Deadline::new(&clock, left + gate, whole + gate)));
            }
            if record.hold_deadline.as_ref().is_none_or(|end| end.boot_id != clock.boot_id) {
                record.hold_deadline = Some(Deadline::new(&clock, left, whole));
            }
            record.hold_until = Some(record.hold_until(&clock).unwrap_or_else(|| clock.after(left)));
        });
        left
    }

    /// Forgets the promised end of a hold, because no action is left that it could end.
    pub fn take_back_hold(&self) {
        if self.read(|state| state.lifecycle.hold_until.is_some()) {
            self.note(|state| state.lifecycle.take_back_hold());
        }
    }

    /// Records the end of the sequence. If the record cannot be made durable, this process keeps it in memory.
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

    /// Records that this is `instance_id`. The journal of another instance (from an image baked of a booted machine) is set
    /// aside, and a new one begun with the steps of this run.
    pub fn claim(&self, instance_id: &str) {
        let before = self.state.borrow().instance_id.clone();
        if before == instance_id {
            return;
        }
        // Written in this very boot by a run that did not yet know its instance.
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
            store::set_aside(dir);
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

    /// Reads the state.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.borrow())
    }

    /// Changes the state, and returns when the change is durable.
    pub fn update(&self, change: impl FnOnce(&mut State)) -> Result<(), Failure> {
        self.write(change)?;
        self.publish();
        Ok(())
    }

    fn write(&self, change: impl FnOnce(&mut State)) -> Result<(), Failure> {
        let mut next = self.state.borrow().clone();
        change(&mut next);
        next.revision += 1;
        if let (Some(dir), Some(schema)) = (&self.dir, self.left_alone) {
            return Err(store::newer(dir, schema));
        }
        if let Some(dir) = &self.dir {
            let text = serde_json::to_vec_pretty(&next.split_for_file());
            let text = text.map_err(|error| Failure::io("writing the journal", error.into()))?;
            let written = atomic::Replacement::new(dir.join(FILE)).mode(0o600).write(&text);
            self.unwritable.set(written.is_err());
            written.map_err(|error| {
                Failure::new(Code::StateUnusable, format!("writing {}", dir.join(FILE).display())).because(error)
            })?;
        }
        *self.state.borrow_mut() = next;
        Ok(())
    }

    /// Changes the state in memory, and on the disk if it can be written. For changes that must take effect even on a full
    /// disk; the next successful write makes them durable.
    pub fn keep(&self, change: impl FnOnce(&mut State)) {
        let known = self.unwritable.get();
        if let Err(failure) = self.adopt(change)
            && !known
        {
            tracing::error!("{failure}; the agent goes on with its state in memory");
        }
    }

    /// As [`Journal::keep`], for a caller that handles the error. That a newer version's journal is left alone was reported
    /// before, and is no error here.
    fn adopt(&self, change: impl FnOnce(&mut State)) -> Result<(), Failure> {
        {
            let mut state = self.state.borrow_mut();
            change(&mut state);
            state.revision += 1;
        }
        let written = if self.left_alone.is_some() { Ok(()) } else { self.write(|_| {}) };
        // Published also where the disk does not take it.
        self.publish();
        written
    }

    /// The failure to write a newer version's journal, if it is one.
    pub fn left_alone(&self) -> Option<Failure> {
        Some(store::newer(self.dir.as_deref()?, self.left_alone?))
    }

    /// Changes what is only for people. It becomes durable with the next [`Journal::update`].
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

    /// Logs a warning, and records it for `status`.
    pub fn warn(&self, step: StepName, subject: Option<&str>, message: impl Into<String>) {
        let warning = Warning { step, subject: subject.map(str::to_owned), message: message.into() };
        tracing::warn!(step = step.as_str(), volume = subject, "{}", warning.message);
        self.note(|state| {
            if !state.warnings.contains(&warning) {
                state.warnings.push(warning);
            }
        });
    }

    /// Withdraws a warning that no longer holds.
    pub fn take_back(&self, warning: &Warning) {
        self.note(|state| state.warnings.retain(|one| one != warning));
    }

    /// The record of a volume.
    pub fn volume(&self, id: &str) -> VolumeRecord {
        self.read(|state| state.volumes.get(id).cloned().unwrap_or_default())
    }

    /// Changes the record of a volume.
    pub fn update_volume(&self, id: &str, change: impl FnOnce(&mut VolumeRecord)) -> Result<(), Failure> {
        self.update(|state| change(state.volumes.entry(id.to_owned()).or_default()))
    }

    /// Records the filesystems of a launched node, by volume id and UUID. An existing record is kept.
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

    /// Whether a once-per-instance step was completed with exactly these inputs.
    pub fn once_done(&self, step: StepName, inputs: &str) -> bool {
        self.read(|state| state.once.get(&step.into()).is_some_and(|done| done == inputs))
    }

    /// Records that a once-per-instance step is completed. The steps after it are due again.
    pub fn record_once(&self, step: StepName, inputs: &str) -> Result<(), Failure> {
        self.update(|state| {
            state.forget_once_from(step);
            state.once.insert(step.into(), inputs.to_owned());
            state.once_complete = Some(false);
        })
    }

    /// Records that the last once-per-instance step before `complete` is done. Each of them is durable, and this follows from
    /// them: a full disk is no reason to fail a healthy node.
    pub fn record_once_complete(&self) {
        if self.read(|state| state.once_complete != Some(true)) {
            self.keep(|state| state.once_complete = Some(true));
        }
    }

    /// Whether the once-per-instance steps are behind this instance: its launch is completed, the steps are done, and none is
    /// to be redone. A completed launch alone proves nothing about the steps: operators complete launches by hand.
    pub fn is_set_up(&self, config: &Config) -> bool {
        self.read(|state| {
            // Version 0.1.0 did not record it: then every step of this configuration must be recorded.
            let recorded = || {
                let hooks = |step: &StepName| *step == StepName::Files || config.hooks.is_some();
                ONCE.iter().filter(|step| hooks(step)).all(|step| state.once.contains_key(&(*step).into()))
            };
            let launched = state.lifecycle.outcome().is_some_and(|outcome| outcome != LaunchOutcome::Abandoned);
            launched && state.redone_from().is_none() && state.once_complete.unwrap_or_else(recorded)
        })
    }

    /// How an earlier journal of this launch may have been lost, until that is decided.
    pub fn lost(&self) -> Option<Lost> {
        self.read(|state| state.lost.filter(|_| state.lifecycle.outcome().is_none()))
    }

    /// Records that nothing is missing from this journal.
    pub fn nothing_lost(&self) {
        if self.read(|state| state.lost.is_some()) {
            self.keep(|state| state.lost = None);
        }
    }

    /// Presumes that the launch was completed and its steps were done, because the journal was lost and the instance is in
    /// service.
    pub fn presume_set_up(&self) {
        self.keep(|state| {
            state.lost = None;
            state.once_complete = Some(true);
            state.end_launch(LaunchOutcome::Continued);
            state.lifecycle.presumed = true;
        });
    }

    /// How this instance's launch ended, if it has ended.
    pub fn launch_outcome(&self) -> Option<LaunchOutcome> {
        self.read(|state| state.lifecycle.outcome())
    }

    /// Records how the launch ended, at least in memory. After that nothing is sent for it.
    pub fn launch_ended(&self, outcome: LaunchOutcome) {
        self.keep(|state| state.end_launch(outcome));
    }

    /// Records that the instance is in a warm pool. If its launch is completed, another launch may follow.
    pub fn in_pool(&self) -> Result<(), Failure> {
        if self.launch_outcome().is_none() || self.read(|state| state.lifecycle.pooled_since) {
            return Ok(());
        }
        self.update(|state| state.lifecycle.pooled_since = true)
    }

    /// Whether another launch of the same instance may have followed the completed one: since a boot after it, or since the
    /// instance was in a warm pool.
    pub fn may_be_launched_anew(&self, boot_id: &str) -> bool {
        self.read(|state| {
            let lifecycle = &state.lifecycle;
            matches!(lifecycle.outcome(), Some(LaunchOutcome::Continued | LaunchOutcome::Unconfirmed))
                && (lifecycle.pooled_since || lifecycle.completed_in.as_deref() != Some(boot_id))
        })
    }

    /// Records that the instance is launched anew: the once-per-instance steps are due again, and nothing has been sent.
    pub fn launched_anew(&self) -> Result<(), Failure> {
        self.update(|state| {
            state.lifecycle = LifecycleRecord { action: state.lifecycle.action.take(), ..LifecycleRecord::default() };
            state.once.clear();
            state.once_complete = Some(false);
        })
    }

    /// Records a step, durably if the disk can be written: the record is for people, and no step depends on it.
    pub fn record(&self, record: StepRecord) {
        self.keep(|state| state.put(record));
    }

    /// As [`Journal::record`], but durable only with the next [`Journal::update`].
    pub fn note_record(&self, record: StepRecord) {
        self.note(|state| state.put(record));
    }

    /// Records that everything from `step` on is to be redone. Results that were sent to Auto Scaling stay as they are.
    pub fn redo_from(&self, step: StepName) -> Result<(), Failure> {
        self.update(|state| {
            state.redo_from = Some(step.into());
            state.forget_once_from(step);
            if step.precedes(StepName::Complete) {
                state.once_complete = Some(false);
                state.lifecycle.presumed = false;
            }
            if !step.follows(StepName::Filesystem) {
                // An operator has decided that what is on the disks now is right.
                state.volumes.values_mut().for_each(|volume| volume.filesystem_uuid = None);
            }
            if matches!(state.lifecycle.outcome(), Some(LaunchOutcome::NoGroup | LaunchOutcome::NoHook)) {
                state.lifecycle.ended = None;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::Value;

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
            "phase": "relocating",
            "relocation": { "phase": "surveying" },
            "redo_from": "survey",
            "fault": { "step": "survey", "exit_code": 1, "error": { "code": "x", "message": "m", "remedy": "r", "public": "m" } },
            "warnings": [{ "step": "survey", "message": "m" }, { "step": "mount", "message": "m" }],
            "steps": [
                { "step": "survey", "outcome": "changed", "attempts": 1, "started_at": "", "took_ms": 1 },
                { "step": "mount", "outcome": "adopted", "attempts": 1, "started_at": "", "took_ms": 1 },
                { "step": "grow", "outcome": "changed", "attempts": 1, "started_at": "", "took_ms": 1 },
            ],
            "output": { "survey": ["a"], "configure": ["b"] },
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
        let paths =
            "/relocation /redo_from /output /once /lifecycle/outcome /lifecycle/terminate /volumes/vol-1/sealed";
        for path in paths.split(' ') {
            assert_eq!(kept.pointer(path), newer.pointer(path), "{path}: {kept}");
        }
        // A step that is redone has later ones redone, also those that only the newer version knows.
        journal.record_once(StepName::Configure, "5").unwrap();
        assert_eq!(journal.read(|state| state.once.len()), 2);
    }
}
