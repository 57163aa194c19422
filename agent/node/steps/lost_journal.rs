//! `identity`, after the journal was lost: whether it was the journal of a node in service.

use std::time::Duration;

use crate::aws::autoscaling::{Hook, LifecycleState};
use crate::config;
use crate::failure::{Code, Failure};
use crate::host::fstab;
use crate::lifecycle::Launch;
use crate::runner::{Header, Observed, Step};
use crate::sequence::StepName;
use crate::state::Lost;

/// Determines whether the lost journal belonged to a node in service. Only Auto Scaling knows, but its answer is not enough:
/// an instance whose group has no launch hook, or had none when the instance was launched, is in service before it is set
/// up. Therefore this machine must also have a trace of an earlier run; an unreadable journal is one.
pub struct AssessLostJournal<'a> {
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) config: &'a config::Lifecycle,
    /// How the journal was lost.
    pub(crate) lost: Lost,
    pub(crate) deadline: Duration,
}

impl AssessLostJournal<'_> {
    /// Whether there is a trace of an earlier run, for example a line for a configured volume in this machine's fstab.
    pub fn has_trace(lost: Lost, volumes: &[config::Volume]) -> bool {
        let is_in_fstab = |volume: &config::Volume| matches!(fstab::ours(volume.id.as_str()), Ok(Some(_)));
        match lost {
            Lost::Unreadable | Lost::Missing => true,
            Lost::Absent => volumes.iter().any(is_in_fstab),
        }
    }
}

impl Step for AssessLostJournal<'_> {
    /// Whether the once-per-instance steps count as done.
    type Output = bool;

    fn header(&self) -> Header<'_> {
        Header { observes_only: true, ..Header::of(StepName::Identity, self.deadline) }
    }

    async fn observe(&self) -> Result<Observed<bool>, Failure> {
        let autoscaling = self.launch.autoscaling;
        if autoscaling.state(&self.launch.instance.instance_id).await? != LifecycleState::InService {
            return Ok(Observed::Done(false));
        }
        if self.lost == Lost::Unreadable {
            return Ok(Observed::Done(true));
        }
        // The trace may come from an image. If the group has a launch hook, CONTINUE was sent for this instance.
        match autoscaling.hooks(&self.config.asg_name).await {
            Ok(hooks) => Ok(Observed::Done(hooks.is_some_and(|hooks| hooks.iter().any(Hook::is_for_launches)))),
            Err(failure) if failure.code == Code::AccessDenied => {
                tracing::debug!("whether the group has a launch hook is unknown: {failure}");
                Ok(Observed::Done(true))
            }
            Err(failure) => Err(failure),
        }
    }
}
