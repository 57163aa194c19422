//! Whether the volumes of a node that is up, and the target of its applications, are as the agent left them. The journal cannot
//! know: the kernel makes a filesystem read-only after an error, and operators unmount volumes and stop units.

use super::report::{Overall, Report, StepOutcome, StepReport};
use crate::failure::{Code, Failure};
use crate::host::{mount, systemd};
use crate::sequence::{Sequence, StepName};
use crate::state::{FailedStepRecord, MountRecord, Outcome, Phase, State};

/// The first volume that is not as the agent left it, or else the target of the applications if it is stopped.
pub fn broken(state: &State) -> Option<(Option<String>, Failure)> {
    let mounted = || {
        let done = state.records(Sequence::Boot).iter().filter(|record| {
            record.step == StepName::Mount && matches!(record.outcome, Outcome::AlreadySo | Outcome::Changed)
        });
        done.filter_map(|record| record.subject.as_deref()).filter_map(|id| {
            let left = state.volumes.get(id)?.mounted.as_ref().filter(|left| left.boot_id == state.boot_id)?;
            Some((id, left))
        })
    };
    let volume = mounted().find_map(|(id, left)| check(id, left).err().map(|failure| (Some(id.to_owned()), failure)));
    volume.or_else(|| {
        let stopped = mounted().next().is_some() && systemd::is_stopped(systemd::MOUNTED_TARGET) == Some(true);
        let text = || format!("{} is stopped: applications that depend on it do not run", systemd::MOUNTED_TARGET);
        stopped.then(|| (None, Failure::new(Code::TargetStopped, text())))
    })
}

fn check(id: &str, left: &MountRecord) -> Result<(), Failure> {
    let place = left.mount_point.display();
    match mount::at(&left.mount_point)? {
        Some(mounted) if mounted.device == left.device => {
            let read_only_wanted = mount::asks_for_read_only(&left.options);
            mount::ensure_writable(&mounted, id, read_only_wanted)?;
            if read_only_wanted || !mounted.options.split(',').any(|option| option == "ro") {
                return Ok(());
            }
            let text = format!("volume {id}, mounted at {place}, was remounted read-only");
            Err(Failure::new(Code::ReadOnly, text)
                .remedy("see what did it (journalctl -b); to mount it as configured again: node-agent retry"))
        }
        Some(other) => {
            let text = format!("{} ({}) is mounted at {place}, over volume {id}", other.source, other.kind);
            Err(Failure::new(Code::MountPointTaken, text)
                .remedy(format!("see what mounted it (journalctl -b); umount {place}; then: node-agent retry")))
        }
        None => {
            let text = format!("volume {id} was mounted at {place} and is no longer mounted");
            Err(Failure::new(Code::NotMounted, text))
        }
    }
}

impl Report {
    pub(super) fn mark_broken(&mut self, volume: Option<&str>, failure: &Failure) {
        // A running service accepts the retry with which the remedy ends.
        self.state = if self.pid.is_some() { Overall::Phase(Phase::Held) } else { Overall::Phase(Phase::Failed) };
        self.exit_code = self.state.exit_code();
        self.failure =
            Some(FailedStepRecord { step: Some(StepName::Mount), exit_code: self.exit_code, error: failure.into() });
        let is_it = |step: &&mut StepReport| {
            step.step == StepName::Mount && volume.is_some() && step.volume.as_deref() == volume
        };
        for step in self.steps.iter_mut().filter(is_it) {
            step.outcome = StepOutcome::Failed;
        }
    }
}
