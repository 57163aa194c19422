//! The boot sequence, top to bottom.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::pin::pin;

use futures_util::future::join_all;
use tokio::join;
use tokio::sync::watch;

use crate::aws::Aws;
use crate::aws::ec2::Ec2;
use crate::config::Config;
use crate::failure::{FailedStep, Failure};
use crate::host::{fstab, systemd};
use crate::lifecycle::heartbeat::Heart;
use crate::lifecycle::{Launch, LaunchResult};
use crate::node::site::Site;
use crate::node::steps::attach::{Attach, Attached, Confirm};
use crate::node::steps::complete::Complete;
use crate::node::steps::device::FindDevice;
use crate::node::steps::fetch::{Fetch, Staged};
use crate::node::steps::files::WriteFiles;
use crate::node::steps::filesystem::{Formatted, MakeFilesystem};
use crate::node::steps::function::Call;
use crate::node::steps::grow::Grow;
use crate::node::steps::hook_environment;
use crate::node::steps::hooks::Hook;
use crate::node::steps::identity::{Identify, Identity, Node};
use crate::node::steps::mount::MountVolume;
use crate::node::steps::ownership::Own;
use crate::node::steps::tag::TagFormatted;
use crate::node::steps::warm_pool::EnterPool;
use crate::runner::allowance::Allowance;
use crate::runner::plan::Planned;
use crate::runner::{Observed, Runner, Step as _};
use crate::sequence::{Sequence, StepName};
use crate::state::Journal;

/// The inputs of a run.
#[expect(clippy::struct_field_names, reason = "boot_id is what the kernel calls it")]
pub struct Boot<'a> {
    pub(crate) config: &'a Config,
    pub(crate) journal: &'a Journal,
    pub(crate) aws: &'a Aws,
    /// The instance and its region's services, once they are known.
    pub(crate) site: &'a OnceCell<Site>,
    /// A private directory for fetched contents.
    pub(crate) scratch: &'a Path,
    pub(crate) state_dir: &'a Path,
    /// Why the state cannot be written, if so: then no launch begins, but a node in service is still mounted.
    pub(crate) unwritable: &'a RefCell<Option<Failure>>,
    pub(crate) boot_id: &'a str,
    /// When heartbeats may be sent.
    pub(crate) allowance: &'a Allowance,
    /// Becomes true at the stop signal.
    pub(crate) stop: watch::Receiver<bool>,
}

/// How a successful run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootOutcome {
    /// The node is up and reported.
    Up,
    /// The instance is in a warm pool.
    WarmPool,
}

impl Boot<'_> {
    /// Brings the node up and reports it; with `on_failure = "abandon"` a failure is reported too.
    pub async fn bring_up(&self) -> Result<BootOutcome, FailedStep> {
        let Boot { config, journal, .. } = *self;
        let run = &Runner::new(journal, config.timeouts.aws, self.stop.clone(), self.allowance);

        let site = self.find_site(run).await?;
        let launch = &site.launch(self.aws, config.lifecycle.as_ref());

        let heart = Heart { launch, journal, allowance: self.allowance, of: Sequence::Boot };
        let mut work = pin!(self.sequence(run, site, launch));
        let result = tokio::select! {
            result = &mut work => result,
            // The running step detects the lost launch itself, where it is safe to stop.
            _lost = heart.beat() => work.await,
        };
        if let Err(failed) = &result
            && launch.abandons_on(failed)
            && journal.launch_outcome().is_none()
        {
            // The failure above is the run's result, even if it cannot be reported.
            drop(run.step(Complete::new(journal, launch, LaunchResult::Abandon, config.timeouts.complete)).await);
        }
        if matches!(result, Ok(BootOutcome::Up)) {
            keep_in_isolation().await;
        }
        result
    }

    /// What [`Boot::bring_up`] would do, as far as observation shows.
    pub async fn plan(&self) -> Vec<Planned> {
        let run = Runner::planning(self.journal, self.stop.clone(), self.allowance);
        if let Ok(site) = self.find_site(&run).await {
            let launch = &site.launch(self.aws, self.config.lifecycle.as_ref());
            // The plan shows where the sequence ends.
            drop(Box::pin(self.sequence(&run, site, launch)).await);
        }
        run.into_plan()
    }

    async fn find_site(&self, run: &Runner<'_>) -> Result<&Site, FailedStep> {
        Site::find(self.site, run, self.aws, self.journal, self.config.timeouts.aws).await
    }

    async fn sequence(&self, run: &Runner<'_>, site: &Site, launch: &Launch<'_>) -> Result<BootOutcome, FailedStep> {
        let Boot { config, journal, .. } = *self;
        let (ec2, deadline) = (&site.services.ec2, config.timeouts.volume);

        let identify = Identify { imds: &self.aws.imds, launch, config: &config.node, deadline: config.timeouts.aws };
        let node = match run.step(identify).await? {
            Identity::Node(node) => node,
            Identity::Pooled(state) => return self.enter_pool(run, launch, state.as_str()).await,
        };
        let launched = self.is_launched(run, launch).await?;

        // The files are fetched while the volumes are attached.
        let taken = &RefCell::new(BTreeSet::new());
        let attach = config.volumes.iter().map(|want| Attach::new(ec2, launch, want, taken, deadline));
        let (attached, staged) = tokio::try_join!(run.together(attach), self.fetch(run, site, launched))?;

        if !launched && !run.is_planning() {
            // The answer is there by the time that a format or a hook needs it.
            launch.ask_ahead();
        }
        let find = attached.iter().map(|volume| FindDevice::new(ec2, volume, deadline));
        let disks = run.together(find).await?;
        let make = disks.iter().map(|disk| MakeFilesystem { journal, ec2, launch, disk, deadline });
        let formatted = run.each_to_its_end(make).await?;
        if !launched && !run.is_planning() {
            self.forget_other_volumes();
        }
        let tags = self.due_tags(ec2, launch, &formatted);
        let (mounted, ()) = join!(self.mount(run, &formatted), try_ahead(run, &tags));
        mounted?;
        run.together(tags.into_iter().filter(TagFormatted::is_due)).await?;
        run.in_turn(disks.iter().map(|disk| Grow::new(journal, disk, deadline))).await?;
        run.in_turn(attached.iter().map(|volume| Own::new(journal, volume))).await?;

        if let Some(staged) = staged {
            self.set_up(run, launch, &node, &attached, &staged).await?;
        }
        self.record_as_set_up(run, &formatted);
        if !launched {
            let undescribed = attached.iter().filter(|volume| !volume.is_described);
            confirm(run, undescribed.map(|volume| Confirm::new(ec2, launch, volume, deadline)).collect()).await?;
            run.step(Complete::new(journal, launch, LaunchResult::Continue, config.timeouts.complete)).await?;
        }
        Ok(BootOutcome::Up)
    }

    /// Fetches the inputs of the once-per-instance steps, unless the instance is launched.
    async fn fetch(&self, run: &Runner<'_>, site: &Site, launched: bool) -> Result<Option<Staged>, FailedStep> {
        if launched {
            return Ok(None);
        }
        run.step(Fetch::new(&site.services.sources, self.config, self.scratch)).await.map(Some)
    }

    /// The tags of the volumes that this agent has formatted.
    fn due_tags<'a>(&'a self, ec2: &'a Ec2, launch: &'a Launch<'_>, made: &[Formatted<'a>]) -> Vec<TagFormatted<'a>> {
        let Boot { config, journal, .. } = *self;
        let (deadline, instance_id) = (config.timeouts.volume, launch.instance.instance_id.as_str());
        let tags = made.iter().map(|made| TagFormatted { journal, ec2, volume: made.want, instance_id, deadline });
        tags.filter(TagFormatted::is_due).collect()
    }

    /// Mounts these volumes, and starts the applications that wait for them.
    pub(crate) async fn mount(&self, run: &Runner<'_>, formatted: &[Formatted<'_>]) -> Result<(), FailedStep> {
        // Sorted, because a mount point may lie inside another volume.
        let mut formatted: Vec<_> = formatted.iter().collect();
        formatted.sort_by_key(|formatted| &formatted.want.mount_path);
        let deadline = self.config.timeouts.volume;
        let mount = |formatted| MountVolume::new(self.journal, formatted, self.allowance, deadline);
        run.in_turn(formatted.into_iter().map(mount)).await?;
        if !run.is_planning() {
            start_applications().await;
        }
        Ok(())
    }

    /// The steps that are done once per instance: the files, and the user's functions.
    async fn set_up(
        &self,
        run: &Runner<'_>,
        launch: &Launch<'_>,
        node: &Node,
        volumes: &[Attached<'_>],
        staged: &Staged,
    ) -> Result<(), FailedStep> {
        let Boot { config, journal, .. } = *self;
        if let Some(failure) = self.unwritable.take() {
            return Err(FailedStep::at(StepName::Files, failure));
        }
        let write = WriteFiles { journal, files: &config.files, contents: &staged.files };
        let mut inputs = run.step(write).await?;
        let (Some(hooks), Some(script)) = (&config.hooks, &staged.script) else { return Ok(()) };
        if !run.is_planning() {
            script.keep(self.state_dir);
        }
        let named = volumes.iter().map(|volume| (volume.want, volume.device_name.as_str()));
        let environment = &hook_environment::of(config, launch.instance, node.ip, named);
        let functions = [(StepName::Configure, &hooks.configure), (StepName::HealthCheck, &hooks.health_check)];
        for (step, function) in functions {
            let call = Call {
                step,
                journal,
                script,
                config: &config.origin,
                function,
                optional: false,
                arguments: [&node.id, &node.ip.to_string()],
                environment,
                state_dir: self.state_dir,
                boot_id: self.boot_id,
                deadline: config.timeouts.hooks,
                cut: &Cell::default(),
                stop: self.stop.clone(),
            };
            let hook = Hook { launch, call, after: &inputs };
            inputs = run.step(hook).await?;
        }
        Ok(())
    }

    /// Records that all once-per-instance steps before `complete` are done, and with which filesystems.
    fn record_as_set_up(&self, run: &Runner<'_>, formatted: &[Formatted<'_>]) {
        if !run.is_planning() {
            self.journal.record_once_complete();
            self.journal.record_filesystems(
                formatted.iter().map(|formatted| (formatted.want.id.as_str(), formatted.found.uuid.as_str())),
            );
        }
    }

    /// An image of a running node has fstab lines for that node's volumes, for which each boot would wait.
    fn forget_other_volumes(&self) {
        let volumes: Vec<_> = self.config.volumes.iter().map(|volume| volume.id.as_str()).collect();
        match fstab::drop_others(&volumes) {
            Ok(dropped) => dropped.iter().for_each(|line| {
                tracing::info!(step = "mount", "removed from /etc/fstab, because this node has no such volume: {line}");
            }),
            Err(failure) => {
                let text = format!(
                    "/etc/fstab may have lines for volumes of another node: {failure}; {}",
                    failure.what_to_do()
                );
                self.journal.warn(StepName::Mount, None, text);
            }
        }
    }

    async fn enter_pool(&self, run: &Runner<'_>, launch: &Launch<'_>, state: &str) -> Result<BootOutcome, FailedStep> {
        tracing::info!("this instance is {state}: it waits in a warm pool, and nothing is touched");
        run.step(EnterPool::new(launch, self.config.timeouts.complete)).await?;
        if !run.is_planning() {
            self.journal.in_pool().map_err(|failure| FailedStep::at(StepName::Complete, failure))?;
        }
        Ok(BootOutcome::WarmPool)
    }
}

/// Sets the tags beside other work. One that fails is still due.
async fn try_ahead(run: &Runner<'_>, tags: &[TagFormatted<'_>]) {
    if !run.is_planning() {
        join_all(tags.iter().map(TagFormatted::act)).await;
    }
}

/// Waits until EC2 says that the volumes are attached whose devices were here before. A step only where it does not say so yet.
async fn confirm(run: &Runner<'_>, volumes: Vec<Confirm<'_>>) -> Result<(), FailedStep> {
    let said = join_all(volumes.iter().map(Confirm::observe)).await;
    let is_open = said.into_iter().map(|said| run.is_planning() || !matches!(said, Ok(Observed::Done(()))));
    let open = volumes.into_iter().zip(is_open).filter_map(|(volume, is_open)| is_open.then_some(volume));
    run.together(open).await.map(drop)
}

/// Starts the applications that are `WantedBy` the target. A failure is only a warning: the health check decides about the node.
async fn start_applications() {
    if !systemd::has_unit(systemd::MOUNTED_TARGET).await {
        return;
    }
    if let Err(failure) = systemd::start(systemd::MOUNTED_TARGET).await {
        tracing::warn!(
            step = "mount",
            "applications that wait for {} are not started: {failure}",
            systemd::MOUNTED_TARGET
        );
    }
}

/// Keeps the applications running through `systemctl isolate`. Called last, because systemd reloads all units for it.
async fn keep_in_isolation() {
    if let Err(failure) = systemd::keep_in_isolation(systemd::MOUNTED_TARGET).await {
        tracing::warn!(step = "mount", "systemctl isolate would stop the applications: {failure}");
    }
}
