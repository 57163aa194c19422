//! The boot sequence, top to bottom. In one file with what decides its branches, so that a boot is read without turning pages.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::aws::{Aws, Services};
use crate::config::{self, Config};
use crate::failure::{Code, FailedStep, Failure};
use crate::host::{fstab, systemd};
use crate::lifecycle::heartbeat::Heart;
use crate::lifecycle::{Launch, LaunchResult, Node, Standing};
use crate::node::steps::attach::Attach;
use crate::node::steps::complete::Complete;
use crate::node::steps::device::{Disk, FindDevice};
use crate::node::steps::fetch::Fetch;
use crate::node::steps::files::WriteFiles;
use crate::node::steps::filesystem::{Formatted, MakeFilesystem};
use crate::node::steps::grow::Grow;
use crate::node::steps::hook_environment;
use crate::node::steps::hooks::Hook;
use crate::node::steps::identity::{Identify, RightNode};
use crate::node::steps::lost_journal::FindLost;
use crate::node::steps::mount::MountVolume;
use crate::node::steps::ownership::Own;
use crate::node::steps::warm_pool::{EnterPool, Relaunch};
use crate::runner::Runner;
use crate::runner::allowance::Allowance;
use crate::runner::plan::Planned;
use crate::sequence::StepName;
use crate::state::{Journal, LaunchOutcome};

/// What a run works with.
#[derive(Debug)]
pub struct Boot<'a> {
    /// What the user wrote.
    pub config: &'a Config,
    /// What was done before.
    pub journal: &'a Journal,
    /// The services.
    pub aws: &'a Aws,
    /// The instance and its region's services, once they are known.
    pub site: &'a OnceCell<Site>,
    /// A private directory for fetched contents.
    pub scratch: &'a Path,
    /// `--state-dir`
    pub state_dir: &'a Path,
    /// Why the state cannot be written: then no launch begins, but a node in service is still mounted.
    pub unwritable: &'a RefCell<Option<Failure>>,
    /// This boot.
    pub boot_id: &'a str,
    /// When there may be heartbeats.
    pub allowance: &'a Allowance,
    /// Becomes true when the agent is told to stop.
    pub stop: watch::Receiver<bool>,
}

/// Where the agent is at work. Kept as long as the process, because the SDK corrects clock skew per client.
#[derive(Debug)]
pub struct Site {
    /// This instance.
    pub node: Node,
    /// Its region's services.
    pub services: Services,
}

impl Site {
    /// Asks the metadata service, the first time.
    pub async fn find<'a>(
        known: &'a OnceCell<Site>,
        run: &Runner<'_>,
        aws: &Aws,
        journal: &Journal,
        deadline: Duration,
    ) -> Result<&'a Site, FailedStep> {
        if let Some(site) = known.get() {
            return Ok(site);
        }
        let node = run.step(Identify { imds: &aws.imds, deadline }).await?;
        Ok(Site::settle(known, aws, journal, node).await)
    }

    /// Asks the metadata service once, without a step or a log line: the caller asks again.
    pub async fn try_find(known: &OnceCell<Site>, aws: &Aws, journal: &Journal) -> Result<(), Failure> {
        let document = aws.imds.identity().await?;
        Site::settle(known, aws, journal, document.into()).await;
        Ok(())
    }

    async fn settle<'a>(known: &'a OnceCell<Site>, aws: &Aws, journal: &Journal, node: Node) -> &'a Site {
        journal.claim(&node.instance_id);
        let services = aws.connect(&node.region).await;
        known.get_or_init(|| Site { node, services })
    }

    /// This instance's launch.
    pub fn launch<'a>(&'a self, aws: &'a Aws, config: Option<&'a config::Lifecycle>) -> Launch<'a> {
        Launch { autoscaling: &self.services.autoscaling, imds: &aws.imds, node: &self.node, config }
    }
}

/// What became of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Up {
    /// It is up and reported.
    Done,
    /// It waits in a warm pool.
    Warm,
}

impl Boot<'_> {
    /// Brings the node up and reports it; with `on_failure = "abandon"` a failure is reported too.
    pub async fn bring_up(&self) -> Result<Up, FailedStep> {
        let Boot { config, journal, .. } = *self;
        let run = &Runner::new(journal, config.timeouts.aws, self.stop.clone(), self.allowance);

        let site = self.identify(run).await?;
        let launch = &site.launch(self.aws, config.lifecycle.as_ref());

        let heart = Heart { launch, journal, allowance: self.allowance };
        let mut work = pin!(self.sequence(run, site, launch));
        let result = tokio::select! {
            result = &mut work => result,
            // The step at work finds out by itself, where it is safe to stop.
            _lost = heart.beat() => work.await,
        };
        if let Err(failed) = &result
            && launch.abandons_on(failed)
            && journal.launch_outcome().is_none()
        {
            // The failure above is the run's result, whatever comes of reporting it.
            drop(run.step(self.complete(launch, LaunchResult::Abandon)).await);
        }
        if matches!(result, Ok(Up::Done)) {
            keep_in_isolation().await;
        }
        result
    }

    /// What [`Boot::bring_up`] would do, as far as can be known by looking.
    pub async fn plan(&self) -> Vec<Planned> {
        let run = Runner::planning(self.journal, self.stop.clone(), self.allowance);
        if let Ok(site) = self.identify(&run).await {
            let launch = &site.launch(self.aws, self.config.lifecycle.as_ref());
            // How far it comes is in the plan.
            drop(Box::pin(self.sequence(&run, site, launch)).await);
        }
        run.into_plan()
    }

    async fn identify(&self, run: &Runner<'_>) -> Result<&Site, FailedStep> {
        Site::find(self.site, run, self.aws, self.journal, self.config.timeouts.aws).await
    }

    async fn sequence(&self, run: &Runner<'_>, site: &Site, launch: &Launch<'_>) -> Result<Up, FailedStep> {
        let Boot { config, journal, .. } = *self;
        let Site { node, services } = site;
        let deadline = config.timeouts.volume;
        let taken = &RefCell::new(BTreeSet::new());

        let standing = run
            .step(RightNode { imds: &self.aws.imds, launch, node, ip: config.node.ip, deadline: config.timeouts.aws })
            .await?;
        if let Standing::Warm(state) = standing {
            return self.enter_pool(run, launch, state.as_str()).await;
        }
        if let Some(config) = config.lifecycle.as_ref().filter(|_| journal.may_be_launched_anew(self.boot_id)) {
            let (deadline, began) = (self.config.timeouts.aws, Instant::now());
            run.step(Relaunch { journal, launch, config, deadline, began, planning: run.is_planning() }).await?;
        }
        self.find_what_was_lost(run, launch).await?;
        let launched = self.launched_before().map_err(at(StepName::Identity))?;
        self.must_take_records().map_err(at(StepName::Identity))?;

        let attach = run.together(config.volumes.iter().map(|want| Attach {
            ec2: &services.ec2,
            launch,
            node,
            want,
            deadline,
            taken,
            holder: RefCell::default(),
            accepted: Cell::default(),
        }));
        let fetch = async { if launched { Ok(None) } else { run.step(self.fetch(services)).await.map(Some) } };
        let (volumes, staged) = tokio::try_join!(attach, fetch)?;

        let disks = run
            .together(volumes.iter().map(|volume| FindDevice {
                ec2: &services.ec2,
                volume,
                deadline,
                described: Cell::default(),
            }))
            .await?;
        let (ec2, instance_id) = (&services.ec2, node.instance_id.as_str());
        let formatted = run
            .in_turn(disks.iter().map(|Disk { volume, device }| MakeFilesystem {
                journal,
                ec2,
                launch,
                instance_id,
                volume,
                device,
                deadline,
            }))
            .await?;
        if !launched && !run.is_planning() {
            self.forget_other_volumes();
        }
        self.mount(run, &formatted).await?;
        run.in_turn(disks.iter().map(|Disk { volume, device }| Grow {
            journal,
            volume,
            device,
            deadline,
            tried: Cell::default(),
        }))
        .await?;
        run.in_turn(volumes.iter().map(|volume| Own { journal, volume, swept: Cell::default() })).await?;

        // What follows is done once per instance.
        let Some(staged) = staged else {
            self.is_set_up(run, &formatted);
            return Ok(Up::Done);
        };
        if let Some(failure) = self.unwritable.take() {
            return Err(at(StepName::Files)(failure));
        }
        let mut inputs = run.step(WriteFiles { journal, files: &config.files, contents: &staged.files }).await?;
        if let (Some(hooks), Some(script)) = (&config.hooks, &staged.script) {
            let environment = &hook_environment::of(config, node, &volumes);
            let functions = [(StepName::Configure, &hooks.configure), (StepName::HealthCheck, &hooks.health_check)];
            for (step, function) in functions {
                inputs = run
                    .step(Hook {
                        step,
                        journal,
                        launch,
                        script,
                        config: &config.origin,
                        function,
                        arguments: [&config.node.id, &config.node.ip.to_string()],
                        environment,
                        state_dir: self.state_dir,
                        after: &inputs,
                        boot_id: self.boot_id,
                        deadline: config.timeouts.hooks,
                        stop: self.stop.clone(),
                    })
                    .await?;
            }
        }
        self.is_set_up(run, &formatted);
        run.step(self.complete(launch, LaunchResult::Continue)).await?;
        Ok(Up::Done)
    }

    /// A launch is begun only where it can be recorded. Whatever its steps came to, a node in service is mounted first.
    fn must_take_records(&self) -> Result<(), Failure> {
        let left_alone = self.journal.left_alone();
        if self.journal.launch_outcome().is_none() {
            let failure = self.unwritable.take().or(left_alone);
            return failure.map_or(Ok(()), Err);
        }
        if let Some(failure) = left_alone {
            self.journal.warn(StepName::Identity, None, format!("{failure}; {}", failure.what_to_do()));
        }
        Ok(())
    }

    /// Records that all once-per-instance steps before `complete` are done, and with which filesystems.
    fn is_set_up(&self, run: &Runner<'_>, formatted: &[Formatted<'_>]) {
        if !run.is_planning() {
            self.journal.record_once_complete();
            self.journal.record_filesystems(
                formatted.iter().map(|formatted| (formatted.want.id.as_str(), formatted.found.uuid.as_str())),
            );
        }
    }

    /// Decides what a journal that may have been lost means for the once-per-instance steps, once for a journal.
    async fn find_what_was_lost(&self, run: &Runner<'_>, launch: &Launch<'_>) -> Result<(), FailedStep> {
        let journal = self.journal;
        let lost = journal.lost().filter(|lost| FindLost::has_trace(*lost, &self.config.volumes));
        if let (Some(lost), Some(config)) = (lost, self.config.lifecycle.as_ref()) {
            let deadline = self.config.timeouts.aws;
            if run.step(FindLost { launch, config, lost, deadline }).await? {
                journal.presume_set_up();
            }
        }
        journal.nothing_lost();
        if journal.read(|state| state.lifecycle.presumed) {
            let text = format!(
                "the journal was lost, and {} is in service: files, configure and health-check count as done, and are not \
                 called; if this node was never set up: node-agent retry --from files",
                launch.node.instance_id
            );
            journal.warn(StepName::Identity, None, text);
        }
        Ok(())
    }

    /// An image made of a node that was up has fstab lines for that node's volumes, for which each boot would wait.
    fn forget_other_volumes(&self) {
        let volumes: Vec<_> = self.config.volumes.iter().map(|volume| volume.id.as_str()).collect();
        match fstab::drop_others(&volumes) {
            Ok(dropped) => dropped.iter().for_each(|line| {
                tracing::info!(step = "mount", "taken out of /etc/fstab, as this node has no such volume: {line}");
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

    /// Mounts these, and tells applications that all of them are mounted.
    pub(crate) async fn mount(&self, run: &Runner<'_>, formatted: &[Formatted<'_>]) -> Result<(), FailedStep> {
        // One that lies in another comes after it.
        let mut formatted: Vec<_> = formatted.iter().collect();
        formatted.sort_by_key(|formatted| &formatted.want.mount_path);
        run.in_turn(formatted.into_iter().map(|Formatted { want, device, found }| MountVolume {
            journal: self.journal,
            want,
            device,
            found,
            allowance: self.allowance,
            deadline: self.config.timeouts.volume,
            tried: Cell::default(),
        }))
        .await?;
        if !run.is_planning() {
            announce_mounts().await;
        }
        Ok(())
    }

    async fn enter_pool(&self, run: &Runner<'_>, launch: &Launch<'_>, state: &str) -> Result<Up, FailedStep> {
        tracing::info!("this instance is {state}: it waits in a warm pool, and nothing is touched");
        let (deadline, began) = (self.config.timeouts.complete, Instant::now());
        run.step(EnterPool { launch, deadline, began, accepted: Cell::default() }).await?;
        if !run.is_planning() {
            self.journal.in_pool().map_err(at(StepName::Complete))?;
        }
        Ok(Up::Warm)
    }

    fn complete<'b>(&'b self, launch: &'b Launch<'b>, result: LaunchResult) -> Complete<'b> {
        let (deadline, began) = (self.config.timeouts.complete, Instant::now());
        Complete { journal: self.journal, launch, result, deadline, began, accepted: Cell::default() }
    }

    /// Whether the once-per-instance steps are behind this instance. One that was abandoned is not to be used.
    fn launched_before(&self) -> Result<bool, Failure> {
        match self.journal.launch_outcome() {
            Some(LaunchOutcome::Abandoned) => {
                Err(Failure::new(Code::LaunchAbandoned, "the launch of this instance was abandoned before"))
            }
            _ => Ok(self.journal.is_set_up(self.config)),
        }
    }

    fn fetch<'b>(&'b self, services: &'b Services) -> Fetch<'b> {
        Fetch {
            sources: &services.sources,
            files: &self.config.files,
            hooks: self.config.hooks.as_ref(),
            scratch: self.scratch,
            deadline: self.config.timeouts.downloads,
            began: Instant::now(),
            got: RefCell::default(),
        }
    }
}

fn at(step: StepName) -> impl Fn(Failure) -> FailedStep {
    move |failure| FailedStep::at(step, failure)
}

/// Applications `WantedBy` the target start once all volumes are mounted. That it cannot be started is no reason to give
/// up on the node: the health check will tell.
async fn announce_mounts() {
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

/// Keeps the applications running through `systemctl isolate`. Called last, because systemd reads all units again for it.
async fn keep_in_isolation() {
    if let Err(failure) = systemd::keep_in_isolation(systemd::MOUNTED_TARGET).await {
        tracing::warn!(step = "mount", "systemctl isolate would stop the applications: {failure}");
    }
}
