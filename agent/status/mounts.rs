//! Whether the volumes of a node that is up are as the agent left them. The journal cannot know: the kernel makes a filesystem
//! read-only when it meets an error, and people unmount.

use super::report::{Overall, Report, StepOutcome};
use crate::failure::{Code, Failure};
use crate::host::mount;
use crate::journal::{Fault, MountRecord, Outcome, State};
use crate::step::StepName;

/// The first volume that is not as it was left, and how.
pub(super) fn broken(state: &State) -> Option<(String, Failure)> {
    let mounted = state.steps.iter().filter(|record| {
        record.step == StepName::Mount && matches!(record.outcome, Outcome::AlreadySo | Outcome::Changed)
    });
    mounted.filter_map(|record| record.subject.as_deref()).find_map(|id| {
        let left = state.volumes.get(id)?.mounted.as_ref().filter(|left| left.boot_id == state.boot_id)?;
        look(id, left).err().map(|failure| (id.to_owned(), failure))
    })
}

fn look(id: &str, left: &MountRecord) -> Result<(), Failure> {
    let place = left.mount_point.display();
    match mount::at(&left.mount_point)? {
        Some(mounted) if mounted.device == left.device => {
            let read_only_wanted = mount::asks_for_read_only(&left.options);
            mount::must_take_writes(&mounted, id, read_only_wanted)?;
            if read_only_wanted || !mounted.options.split(',').any(|option| option == "ro") {
                return Ok(());
            }
            let text = format!("volume {id}, mounted at {place}, was remounted read-only");
            Err(Failure::new(Code::ReadOnly, text)
                .remedy("see who did it (journalctl -b); to have it as configured again: node-agent retry"))
        }
        Some(other) => {
            let text = format!("{} ({}) is mounted at {place}, over volume {id}", other.source, other.kind);
            Err(Failure::new(Code::MountPointTaken, text)
                .remedy(format!("see who mounted it (journalctl -b); umount {place}; then: node-agent retry")))
        }
        None => {
            let text = format!("volume {id} was mounted at {place} and is no longer mounted");
            Err(Failure::new(Code::NotMounted, text))
        }
    }
}

impl Report {
    /// The node was up; now one of its volumes is not as it was left.
    pub(super) fn has_lost(&mut self, volume: &str, failure: &Failure) {
        // A service that runs takes the retry that the remedy ends with.
        self.state = if self.pid.is_some() { Overall::Held } else { Overall::Failed };
        self.exit_code = self.state.exit_code();
        self.failure = Some(Fault { step: Some(StepName::Mount), exit_code: self.exit_code, error: failure.into() });
        let of_volume = |volume_of: &Option<String>| volume_of.as_deref() == Some(volume);
        for step in self.steps.iter_mut().filter(|step| step.step == StepName::Mount && of_volume(&step.volume)) {
            step.outcome = StepOutcome::Failed;
        }
    }
}
