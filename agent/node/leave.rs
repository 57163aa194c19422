//! The departure, top to bottom.

use std::cell::Cell;
use std::cmp::Reverse;
use std::convert::Infallible;
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::aws::Aws;
use crate::aws::autoscaling::global_limit;
use crate::config::{Config, Lifecycle, Script, Volume};
use crate::failure::{Class, FailedStep, without_retry};
use crate::host::systemd;
use crate::lifecycle::Launch;
use crate::lifecycle::heartbeat::Heart;
use crate::node::order::Watch;
use crate::node::site::Site;
use crate::node::steps::detach::Detach;
use crate::node::steps::drain::Drain;
use crate::node::steps::fetch::{Fetch, StagedScript};
use crate::node::steps::function::Call;
use crate::node::steps::gate::{Gate, Looks, Passage, tell};
use crate::node::steps::hook_environment;
use crate::node::steps::leave::Leave;
use crate::node::steps::unmount::{StopApplications, Unmount};
use crate::runner::Runner;
use crate::runner::allowance::Allowance;
use crate::runner::plan::Planned;
use crate::sequence::{Sequence, StepName};
use crate::state::{Journal, Reason};

/// How long the volumes may take to be detached.
pub const DETACH: Duration = Duration::from_mins(1);

/// How long before EC2 takes a spot instance its departure ends.
const BEFORE_SPOT: Duration = Duration::from_secs(15);

/// How long a volume's unmount may take at least.
const ONE_TRY: Duration = Duration::from_secs(5);

/// How often it is looked whether the hook's timeout is known.
const POLL: Duration = Duration::from_secs(1);

/// The longest that a script which was not kept may take to be fetched.
const FETCH: Duration = Duration::from_secs(30);

/// The inputs of a departure.
pub struct Departure<'a> {
    pub(crate) config: &'a Config,
    pub(crate) journal: &'a Journal,
    pub(crate) aws: &'a Aws,
    pub(crate) site: &'a Site,
    /// When heartbeats may be sent for the termination hook.
    pub(crate) allowance: &'a Allowance,
    /// A private directory for fetched contents.
    pub(crate) scratch: &'a Path,
    pub(crate) state_dir: &'a Path,
    pub(crate) boot_id: &'a str,
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
        // Set when the drain has to end earlier than it was given.
        let cut = &Cell::default();
        let mut work = pin!(self.sequence(run, launch, cut));
        tokio::select! {
            result = &mut work => result,
            never = self.hasten_for_spot(launch, cut) => match never {},
            never = self.keep_within_the_hook() => match never {},
            never = self.send_heartbeats(launch) => match never {},
        }
    }

    /// What [`Departure::leave`] would do now, as far as observation shows.
    pub async fn plan(&self) -> Vec<Planned> {
        let run = Runner::planning(self.journal, self.stop.clone(), self.allowance);
        let launch = &self.site.launch(self.aws, self.config.lifecycle.as_ref());
        // Nothing in a plan fails but for the stop signal.
        drop(Box::pin(self.sequence(&run, launch, &Cell::default())).await);
        run.into_plan()
    }

    async fn sequence(
        &self,
        run: &Runner<'_>,
        launch: &Launch<'_>,
        cut: &Cell<Option<Instant>>,
    ) -> Result<(), FailedStep> {
        self.pass_the_gate(run, launch).await?;
        Box::pin(self.drain(run, cut)).await?;
        let unmounted = self.unmount(run).await?;
        self.detach(run, unmounted).await?;
        self.complete(run, launch).await
    }

    /// Waits until no other node of the cluster is away.
    async fn pass_the_gate(&self, run: &Runner<'_>, launch: &Launch<'_>) -> Result<(), FailedStep> {
        let Departure { config, journal, .. } = *self;
        let (Some(cluster), Some(Lifecycle { asg_name, .. })) = (&config.cluster, &config.lifecycle) else {
            return Ok(());
        };
        let reserve = config.timeouts.drain + config.timeouts.unmount + DETACH;
        let deadline = self.left().map_or(cluster.gate, |left| cluster.gate.min(left.saturating_sub(reserve)));
        // Before a hold's ABANDON there was a gate already; an operator's passes none.
        let is_free = matches!(journal.departure_reason(), Some(Reason::Spot | Reason::GivenUp));
        if is_free || journal.has_passed() || cluster.gate.is_zero() {
            return Ok(());
        }
        let departure = Passage::Departure { reserve, allowance: self.allowance };
        let passage = if run.is_planning() { Passage::Plan } else { departure };
        let (ec2, looks) = (&self.site.services.ec2, &Looks::default());
        let gate =
            Gate { journal, launch, ec2, cluster, group: asg_name, passage, deadline, began: Instant::now(), looks };
        goes_on(run.step(gate).await)?;
        if !run.is_planning() {
            if looks.may_have_word() {
                // Whoever reads the word would go, too.
                tell(ec2, &launch.instance.instance_id, "drain: the node leaves").await;
            }
            journal.passed();
        }
        Ok(())
    }

    /// Calls the user's drain function, where the script defines one and this instance was configured.
    async fn drain(&self, run: &Runner<'_>, cut: &Cell<Option<Instant>>) -> Result<(), FailedStep> {
        let Departure { config, journal, .. } = *self;
        let Some(hooks) = config.hooks.as_ref().filter(|_| journal.was_configured() && !journal.is_drained()) else {
            return Ok(());
        };
        let Some(script) = Box::pin(self.script(run, &hooks.script)).await? else { return Ok(()) };
        if !script.may_define(&hooks.drain) {
            tracing::info!(step = "drain", "{} does not define {}: nothing is called", script.name, hooks.drain);
            return Ok(());
        }
        let instance = &self.site.instance;
        let volumes = config.volumes.iter().map(|volume| (volume, volume.device_name.as_str()));
        let call = Call {
            step: StepName::Drain,
            journal,
            script: &script,
            config: &config.origin,
            function: &hooks.drain,
            optional: true,
            arguments: [&config.node.id, &config.node.ip.to_string()],
            environment: &hook_environment::of(config, instance, config.node.ip, volumes),
            state_dir: self.state_dir,
            boot_id: self.boot_id,
            deadline: self.at_most(config.timeouts.drain, self.reserve()),
            cut,
            stop: self.stop.clone(),
        };
        goes_on(run.step(Drain { call }).await).map(drop)
    }

    /// The hook script: as the node was configured with it, or else as it can be had now.
    async fn script(&self, run: &Runner<'_>, script: &Script) -> Result<Option<StagedScript>, FailedStep> {
        if let Some(at_hand) = StagedScript::at_hand(script, self.state_dir).await {
            return Ok(Some(at_hand));
        }
        let deadline = self.at_most(self.config.timeouts.downloads.min(FETCH), self.reserve());
        let fetch = Fetch::script_alone(&self.site.services.sources, self.config, self.scratch, deadline);
        Ok(goes_on(run.step(fetch).await)?.and_then(|staged| staged.script))
    }

    /// Stops the applications and unmounts the volumes; returns those that are unmounted.
    async fn unmount(&self, run: &Runner<'_>) -> Result<Vec<&Volume>, FailedStep> {
        let mut volumes: Vec<&Volume> = self.config.volumes.iter().collect();
        if volumes.is_empty() {
            return Ok(volumes);
        }
        let end = Instant::now() + self.at_most(self.config.timeouts.unmount, self.reserve_for_detach());
        // Whatever took its time before, each volume is tried.
        let least = ONE_TRY.min(self.config.timeouts.unmount);
        let left = || end.saturating_duration_since(Instant::now()).max(least);
        if systemd::is_running() {
            let deadline = left() * 3 / 4;
            goes_on(run.step(StopApplications { deadline }).await)?;
        }
        // A mount point may lie inside another volume: the inner one is unmounted first.
        volumes.sort_by_key(|volume| Reverse(&volume.mount_path));
        let mut unmounted = Vec::new();
        for want in volumes {
            let known = self.journal.volume(want.id.as_str()).mounted;
            let known = known.filter(|known| known.boot_id == self.boot_id).map(|known| known.device);
            let done = goes_on(run.step(Unmount::new(want, known, left())).await)?;
            if done.is_some() || run.is_planning() {
                unmounted.push(want);
            }
        }
        Ok(unmounted)
    }

    /// Detaches the unmounted volumes for which that is configured, unless the instance keeps them.
    async fn detach(&self, run: &Runner<'_>, unmounted: Vec<&Volume>) -> Result<(), FailedStep> {
        if self.journal.departure_reason() == Some(Reason::RootVolume) {
            return Ok(());
        }
        let (ec2, instance) = (&self.site.services.ec2, self.site.instance.instance_id.as_str());
        let deadline = self.at_most(DETACH, Duration::ZERO);
        for want in unmounted.into_iter().filter(|want| want.detach_on_terminate) {
            goes_on(run.step(Detach { ec2, volume: want.id.as_str(), instance, deadline }).await)?;
        }
        Ok(())
    }

    /// Completes the termination hook's action, and shows outside what has failed.
    async fn complete(&self, run: &Runner<'_>, launch: &Launch<'_>) -> Result<(), FailedStep> {
        let Departure { config, journal, .. } = *self;
        let Some((lifecycle, hook)) =
            config.lifecycle.as_ref().and_then(|lifecycle| Some((lifecycle, lifecycle.terminate_hook_name.as_ref()?)))
        else {
            return Ok(());
        };
        let reason = journal.departure_reason().unwrap_or(Reason::Terminated);
        let (group, deadline) = (lifecycle.asg_name.as_str(), config.timeouts.complete);
        let leave = Leave { journal, launch, group, hook, reason, deadline, began: Instant::now() };
        let tagging = async {
            let failed = journal.read(|state| {
                let records = state.records(Sequence::Departure).iter();
                let failed = records.rev().find_map(|record| Some((record.step, record.error.clone()?)));
                failed.map(|(step, error)| format!("{step}: {}", error.public))
            });
            if let Some(text) = failed.filter(|_| !run.is_planning()) {
                tell(&self.site.services.ec2, &launch.instance.instance_id, &crate::node::status_tag::value(&text))
                    .await;
            }
        };
        let (left, ()) = tokio::join!(Box::pin(run.step(leave)), tagging);
        if let Err(FailedStep { failure, .. }) = &left
            && failure.class() != Class::Stopped
        {
            tracing::warn!(step = "leave", "{}", without_retry(failure.what_to_do()));
        }
        goes_on(left).map(drop)
    }

    /// The time that is left of the departure; none in a plan.
    fn left(&self) -> Option<Duration> {
        self.journal.departure_left()
    }

    /// A step's own time, or what is left less what the later steps need.
    fn at_most(&self, own: Duration, reserve: Duration) -> Duration {
        self.left().map_or(own, |left| own.min(left.saturating_sub(reserve)))
    }

    /// What the steps after the drain need. When little is left, the drain gets the larger part of it.
    fn reserve(&self) -> Duration {
        let unmount = self.config.timeouts.unmount;
        self.left().map_or(unmount, |left| unmount.min(left / 4)) + self.reserve_for_detach()
    }

    fn reserve_for_detach(&self) -> Duration {
        if self.config.volumes.iter().all(|volume| !volume.detach_on_terminate) {
            return Duration::ZERO;
        }
        self.left().map_or(DETACH, |left| DETACH.min(left / 8))
    }

    /// Shortens the departure once EC2 gives notice that it takes this spot instance.
    async fn hasten_for_spot(&self, launch: &Launch<'_>, cut: &Cell<Option<Instant>>) -> Infallible {
        if self.journal.departure_reason() != Some(Reason::Spot) {
            let at = Watch::new(launch, self.journal).spot_notice().await;
            let left = until_spot(at);
            tracing::warn!("EC2 takes this spot instance: {} are left to leave", crate::time::rough(left));
            self.journal.hasten_departure(Some(Reason::Spot), left);
            cut.set(Some(Instant::now() + self.at_most(Duration::MAX, self.reserve())));
        }
        std::future::pending().await
    }

    /// Shortens the departure to the time for which the termination hook waits at most, once that is known.
    async fn keep_within_the_hook(&self) -> Infallible {
        let timeout = loop {
            match self.allowance.timeout.get() {
                Some(timeout) => break timeout,
                None => sleep(POLL).await,
            }
        };
        let left = global_limit(timeout).saturating_sub(self.journal.departure_age());
        self.journal.hasten_departure(None, left);
        std::future::pending().await
    }

    async fn send_heartbeats(&self, launch: &Launch<'_>) -> Infallible {
        let Departure { journal, allowance, .. } = *self;
        // The steps go on without heartbeats.
        let _lost = Box::pin(Heart { launch, journal, allowance, of: Sequence::Departure }.beat()).await;
        allowance.is_over.set(true);
        std::future::pending().await
    }
}

/// How long a departure may take at most, by its own configuration.
pub fn longest(config: &Config) -> Duration {
    let gate = config.cluster.as_ref().map_or(Duration::ZERO, |cluster| cluster.gate);
    let sum = gate + config.timeouts.drain + config.timeouts.unmount + DETACH;
    sum.min(global_limit(Duration::MAX))
}

/// How long a departure may take that ends before EC2 takes the spot instance.
pub fn until_spot(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::now()).unwrap_or_default().saturating_sub(BEFORE_SPOT)
}

/// Only the stop signal ends a departure early. Any other failure is recorded, and the next step runs.
#[expect(clippy::result_large_err, reason = "as every step's result; once per step")]
fn goes_on<T>(result: Result<T, FailedStep>) -> Result<Option<T>, FailedStep> {
    match result {
        Err(failed) if failed.was_stopped() => Err(failed),
        other => Ok(other.ok()),
    }
}
