//! How the journal keeps a departure.

use std::time::{Duration, SystemTime};

use super::departure::{DepartureOutcome, DepartureRecord, Reason};
use super::journal::Journal;
use super::lifecycle::{Deadline, LaunchOutcome};
use super::model::{Lost, Phase, Process};
use crate::sequence::{Sequence, StepName};
use crate::time::now;

impl Journal {
    /// Records that this process takes the node out of its cluster, at most within `whole`. An order that was recorded before
    /// keeps its time and, but for a spot notice, its reason.
    pub fn begin_departure(&self, agent: Process, reason: Reason, whole: Duration) {
        let clock = self.clock();
        self.keep(|state| {
            state.agent = Some(agent);
            state.phase = Phase::Leaving;
            state.since = now();
            state.fault = None;
            state.warnings.retain(|warning| warning.step.sequence() == Sequence::Boot);
            match &mut state.departure {
                Some(departure) => departure.steps.clear(),
                none => {
                    *none = Some(DepartureRecord {
                        reason,
                        ordered_at: now(),
                        until: clock.after(whole),
                        deadline: Deadline::new(&clock, whole, whole),
                        steps: Vec::new(),
                        passed: false,
                        drained: false,
                        intent: false,
                        ended: None,
                    });
                }
            }
        });
    }

    /// The departure must end within `left`, if it has no earlier end: for this reason, if there is a new one.
    pub fn hasten_departure(&self, reason: Option<Reason>, left: Duration) {
        let clock = self.clock();
        if self.departure_left().is_some_and(|before| before <= left) && reason.is_none() {
            return;
        }
        let left = self.departure_left().map_or(left, |before| before.min(left));
        self.change_departure(|departure| {
            departure.reason = reason.unwrap_or(departure.reason);
            departure.until = clock.after(left);
            departure.deadline = Deadline::new(&clock, left, left);
        });
    }

    /// Why the instance is to go, if it is.
    pub fn departure_reason(&self) -> Option<Reason> {
        self.read(|state| state.departure.as_ref().map(|departure| departure.reason))
    }

    /// The time since the order to go, by the wall clock.
    pub fn departure_age(&self) -> Duration {
        let now = SystemTime::now();
        self.read(|state| {
            let ordered = humantime::parse_rfc3339(&state.departure.as_ref()?.ordered_at).ok()?;
            now.duration_since(ordered).ok()
        })
        .unwrap_or_default()
    }

    /// The time that is left of the departure.
    pub fn departure_left(&self) -> Option<Duration> {
        let clock = self.clock();
        self.read(|state| state.departure.as_ref().map(|departure| departure.deadline.left(&departure.until, &clock)))
    }

    /// Forgets a replacement of the root volume in an earlier boot: the instance has kept its root volume, and is wanted.
    pub fn forget_root_volume_replacement(&self) {
        let is_over = self.read(|state| {
            state.departure.as_ref().is_some_and(|departure| {
                departure.reason == Reason::RootVolume && departure.deadline.boot_id != state.boot_id
            })
        });
        if is_over {
            self.keep(|state| state.departure = None);
        }
    }

    /// Whether the gate is behind this node.
    pub fn has_passed(&self) -> bool {
        self.read(|state| state.departure.as_ref().is_some_and(|departure| departure.passed))
    }

    /// Records that the gate is behind this node: it does not wait again, whatever becomes of this process.
    pub fn passed(&self) {
        self.change_departure(|departure| departure.passed = true);
    }

    /// Whether the drain hook has ended before.
    pub fn is_drained(&self) -> bool {
        self.read(|state| state.departure.as_ref().is_some_and(|departure| departure.drained))
    }

    /// Records that the drain hook has ended.
    pub fn drained(&self) {
        self.change_departure(|departure| departure.drained = true);
    }

    /// Whether the user's configure function was run on this instance, as far as the journal shows: a lost journal shows nothing
    /// that speaks against it.
    pub fn was_configured(&self) -> bool {
        self.read(|state| {
            let is_lost = matches!(state.lost, Some(Lost::Unreadable | Lost::Missing));
            is_lost
                || state.once_complete == Some(true)
                || state.once.contains_key(&StepName::Configure.into())
                || state.lifecycle.outcome().is_some_and(|outcome| outcome != LaunchOutcome::Abandoned)
        })
    }

    /// Whether CONTINUE may have been sent without an answer.
    pub fn intends_to_leave(&self) -> bool {
        self.read(|state| state.departure.as_ref().is_some_and(|departure| departure.intent))
    }

    /// Records that CONTINUE is about to be sent, or that it certainly had no effect.
    pub fn intend_to_leave(&self, intent: bool) {
        self.change_departure(|departure| departure.intent = intent);
    }

    /// Whether the termination hook's action is behind this instance.
    pub fn has_left(&self) -> bool {
        self.read(|state| state.departure.as_ref().is_some_and(|departure| departure.ended.is_some()))
    }

    /// Records how the termination hook's action ended. After that nothing is sent for it.
    pub fn left(&self, outcome: DepartureOutcome) {
        self.change_departure(|departure| departure.ended = Some(outcome));
    }

    fn change_departure(&self, change: impl FnOnce(&mut DepartureRecord)) {
        self.keep(|state| {
            if let Some(departure) = &mut state.departure {
                change(departure);
            }
        });
    }
}
