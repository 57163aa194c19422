//! `identity`, where the journal was lost: was it that of a node in service?

use std::time::Duration;

use crate::aws::autoscaling::{LaunchHook, LifecycleState};
use crate::config;
use crate::failure::{Code, Failure};
use crate::host::fstab;
use crate::lifecycle::Launch;
use crate::runner::{Header, Observed, Step};
use crate::sequence::StepName;
use crate::state::Lost;

/// Whether a journal that was lost was that of a node in service. Only Auto Scaling can tell, and a node that was never set up
/// must not pass for one: an instance whose group has no launch hook, or got one after its first instance, is in service from
/// the start. So there must be a trace of an earlier run on this machine, too; a journal that cannot be read is one.
#[derive(Debug)]
pub struct FindLost<'a> {
    /// The launch.
    pub launch: &'a Launch<'a>,
    /// `[lifecycle]`
    pub config: &'a config::Lifecycle,
    /// How the journal was lost.
    pub lost: Lost,
    /// `timeouts.aws`
    pub deadline: Duration,
}

impl FindLost<'_> {
    /// Whether there is a trace of an earlier run: this machine's fstab has one of the configured volumes, say.
    pub fn has_trace(lost: Lost, volumes: &[config::Volume]) -> bool {
        let is_in_fstab = |volume: &config::Volume| matches!(fstab::ours(volume.id.as_str()), Ok(Some(_)));
        match lost {
            Lost::Unreadable | Lost::Missing => true,
            Lost::Absent => volumes.iter().any(is_in_fstab),
        }
    }
}

impl Step for FindLost<'_> {
    /// Whether the once-per-instance steps count as done.
    type Output = bool;

    fn header(&self) -> Header<'_> {
        Header { only_looks: true, ..Header::of(StepName::Identity, self.deadline) }
    }

    async fn observe(&self) -> Result<Observed<bool>, Failure> {
        let autoscaling = self.launch.autoscaling;
        if autoscaling.state(&self.launch.instance.instance_id).await? != LifecycleState::InService {
            return Ok(Observed::Done(false));
        }
        if self.lost == Lost::Unreadable {
            return Ok(Observed::Done(true));
        }
        // The trace may have come with an image. Then a launch hook tells that somebody has sent CONTINUE for this instance.
        match autoscaling.hooks(&self.config.asg_name).await {
            Ok(hooks) => Ok(Observed::Done(hooks.is_some_and(|hooks| hooks.iter().any(LaunchHook::is_for_launches)))),
            Err(failure) if failure.code == Code::AccessDenied => {
                tracing::debug!("whether the group has a launch hook cannot be told: {failure}");
                Ok(Observed::Done(true))
            }
            Err(failure) => Err(failure),
        }
    }
}
