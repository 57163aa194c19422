//! The departure, top to bottom.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::aws::Aws;
use crate::config::{Config, Volume};
use crate::failure::FailedStep;
use crate::host::device::Device;
use crate::lifecycle::Launch;
use crate::lifecycle::heartbeat::Heart;
use crate::node::site::Site;
use crate::node::steps::detach::Detach;
use crate::node::steps::gate::Gate;
use crate::node::steps::leave::Leave;
use crate::node::steps::unmount::{StopApplications, Unmount};
use crate::runner::Runner;
use crate::runner::allowance::Allowance;
use crate::sequence::Sequence;
use crate::state::{Journal, Reason};

/// How long the volumes may take to be detached.
const DETACH: Duration = Duration::from_mins(1);

/// The inputs of a departure.
pub struct Departure<'a> {
    pub(crate) config: &'a Config,
    pub(crate) journal: &'a Journal,
    pub(crate) aws: &'a Aws,
    pub(crate) site: &'a Site,
    pub(crate) reason: Reason,
    /// When heartbeats may be sent.
    pub(crate) allowance: &'a Allowance,
    /// Becomes true at the stop signal.
    pub(crate) stop: watch::Receiver<bool>,
}

impl Departure<'_> {
    /// Takes the node out of its cluster, and tells Auto Scaling. Fails only at the stop signal: the instance goes, whatever
    /// happens, and each step's failure is recorded.
    pub async fn leave(&self) -> Result<(), FailedStep> {
        let Departure { config, journal, allowance, .. } = *self;
        let run = &Runner::new(journal, config.timeouts.aws, self.stop.clone(), allowance);
        let launch = &self.site.launch(self.aws, config.lifecycle.as_ref());
        let heart = Heart { launch, journal, allowance, of: Sequence::Departure };
        let mut work = pin!(self.sequence(run, launch));
        tokio::select! {
            result = &mut work => result,
            _lost = heart.beat() => work.await,
        }
    }

    async fn sequence(&self, run: &Runner<'_>, launch: &Launch<'_>) -> Result<(), FailedStep> {
        let Departure { config, journal, .. } = *self;
        let (ec2, unmounting) = (&self.site.services.ec2, config.timeouts.unmount);

        if let (Some(cluster), Some(lifecycle)) = (&config.cluster, &config.lifecycle)
            && self.reason == Reason::Terminated
        {
            let gate = Gate::new(journal, launch, ec2, cluster, &lifecycle.asg_name, cluster.gate);
            goes_on(run.step(gate).await)?;
        }

        goes_on(run.step(StopApplications { deadline: unmounting }).await)?;
        let mut unmounted = Vec::new();
        // A mount point may lie inside another volume: the inner one is unmounted first.
        let mut volumes: Vec<&Volume> = config.volumes.iter().collect();
        volumes.sort_by_key(|volume| std::cmp::Reverse(&volume.mount_path));
        for want in volumes {
            let device = Device::find_by_identity(&want.id.serial()).ok().flatten();
            let unmount = Unmount { want, device: device.as_ref(), deadline: unmounting };
            unmounted.extend(goes_on(run.step(unmount).await)?.map(|()| want));
        }

        let instance = self.site.instance.instance_id.as_str();
        let to_detach = unmounted.iter().filter(|want| want.detach_on_terminate && self.reason != Reason::RootVolume);
        let detach = to_detach.map(|want| Detach { ec2, volume: want.id.as_str(), instance, deadline: DETACH });
        goes_on(run.together(detach).await)?;

        if let Some(lifecycle) = &config.lifecycle
            && let Some(hook) = &lifecycle.terminate_hook_name
        {
            let leave = Leave {
                journal,
                launch,
                group: &lifecycle.asg_name,
                hook,
                reason: self.reason,
                deadline: config.timeouts.complete,
                began: Instant::now(),
                accepted: Cell::default(),
            };
            goes_on(run.step(leave).await)?;
        }
        Ok(())
    }
}

/// Only the stop signal ends a departure early. Any other failure is recorded, and the next step runs.
fn goes_on<T>(result: Result<T, FailedStep>) -> Result<Option<T>, FailedStep> {
    match result {
        Err(failed) if failed.was_stopped() => Err(failed),
        other => Ok(other.ok()),
    }
}
