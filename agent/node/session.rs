//! The context of a process that works on the node: the lock, the journal, the clients, the stop signal.

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::aws::Aws;
use crate::config::schema::timeouts;
use crate::config::{self, Config, Scope};
use crate::failure::{Class, Code, FailedStep, Failure};
use crate::host;
use crate::host::this_host::ThisHost;
use crate::lifecycle::heartbeat::Heart;
use crate::lifecycle::{Launch, LaunchResult};
use crate::node::boot::{Boot, BootOutcome};
use crate::node::lock::Lock;
use crate::node::order::Order;
use crate::node::places::{Places, take_lock};
use crate::node::reboot;
use crate::node::settings;
use crate::node::site::Site;
use crate::node::steps::complete::Complete;
use crate::node::steps::fetch::prepare_scratch;
use crate::node::steps::function::end_leftover;
use crate::runner::allowance::Allowance;
use crate::runner::{Runner, stopped, unless_stopped};
use crate::sequence::{Sequence, StepName};
use crate::state::publish::Publisher;
use crate::state::{Journal, LaunchOutcome, Phase, Process, store};

/// The context of the one process that works on the node. Its lock excludes all others until it is dropped.
pub struct Session {
    pub(crate) places: Places,
    pub(crate) journal: Journal,
    pub(crate) publisher: Publisher,
    pub(crate) aws: Aws,
    /// The instance and its region's services, once they are known.
    pub(crate) site: OnceCell<Site>,
    /// When heartbeats may be sent.
    pub(crate) allowance: Allowance,
    /// Becomes true at the stop signal.
    pub(crate) stop: watch::Receiver<bool>,
    pub(super) boot_id: String,
    pub(super) scratch: PathBuf,
    /// Why the state could not be written at the start of the present attempt.
    unwritable: RefCell<Option<Failure>>,
    _lock: Lock,
}

/// One attempt to bring the node up.
pub struct Attempt {
    pub(crate) result: Result<BootOutcome, FailedStep>,
    /// The configuration, if it was valid.
    pub(crate) config: Option<Config>,
    /// `[lifecycle]`, even of a configuration with mistakes elsewhere; without a configuration, the journal's record of it.
    pub(crate) lifecycle: Option<config::Lifecycle>,
    /// `[cluster]`, likewise.
    pub(crate) cluster: Option<config::Cluster>,
    /// The order to go, if it came meanwhile and ended the attempt.
    pub(crate) order: Option<Order>,
}

impl Attempt {
    fn new(result: Result<BootOutcome, FailedStep>, config: Option<Config>) -> Self {
        Attempt { result, config, lifecycle: None, cluster: None, order: None }
    }
}

/// Heartbeats begin only if reading the configuration takes longer: they need a request for the hook's timeout first.
const READ_WITHOUT_HEARTBEATS: Duration = Duration::from_secs(1);

/// How long reading the user data may take once the instance is known.
const REREAD_LIMIT: Duration = Duration::from_secs(30);

/// How long a hold may be delayed to identify the instance first.
const IDENTIFY_BEFORE_HOLD: Duration = Duration::from_secs(10);

/// How often a hold tries to identify the instance.
const IDENTIFY_INTERVAL: Duration = Duration::from_secs(5);

impl Session {
    /// Takes the lock and opens the journal.
    pub fn open(places: Places, aws: Aws, stop: watch::Receiver<bool>) -> Result<Self, Failure> {
        let state_dir = &places.state_dir;
        let lock = take_lock(&places)?;
        let boot_id = host::boot_id()?;
        let publisher = Publisher::new(&places.runtime_dir);
        let journal = Journal::open(state_dir, &boot_id, Some(publisher.clone()));
        let scratch = state_dir.join(store::SCRATCH);
        Ok(Session {
            journal,
            publisher,
            aws,
            site: OnceCell::new(),
            allowance: Allowance::default(),
            stop,
            boot_id,
            scratch,
            unwritable: RefCell::default(),
            _lock: lock,
            places,
        })
    }

    /// Brings the node up, with this configuration or else, in the service, with the one that is read now. The caller records a
    /// failure ([`Session::record_failure`]).
    pub async fn attempt(&self, config: Option<Config>) -> Attempt {
        if let Some(site) = self.site.get() {
            // The instance's role may have been replaced since.
            site.services.credentials.forget();
        }
        let began = Process::of(std::process::id().cast_signed(), &self.boot_id);
        let written = self.journal.begin(began).and_then(|()| prepare_scratch(&self.scratch));
        self.unwritable.replace(written.err());
        // Even without a configuration: no run waits for the hook of a killed agent any more.
        end_leftover(&self.journal, &self.boot_id).await;
        let mut attempt = match (Box::pin(self.mount_offline(config.as_ref())).await, config) {
            (Err(failed), config) => Attempt::new(Err(failed), config),
            (Ok(()), Some(config)) => Box::pin(self.bring_up(config, false)).await,
            (Ok(()), None) => Box::pin(self.read_and_bring_up()).await,
        };
        if attempt.lifecycle.is_none() {
            // Without a configuration the last one counts; if a configuration lacks `[lifecycle]`, only a promised hold does.
            let promised = || self.journal.promised_action();
            attempt.lifecycle = if attempt.config.is_some() { promised() } else { self.journal.action() };
        }
        let configured = attempt.config.as_ref().filter(|config| config.lifecycle.is_some());
        attempt.cluster = configured.map_or_else(|| self.journal.cluster(), |config| config.cluster.clone());
        let ended = match &attempt.result {
            Ok(BootOutcome::Up) => self.journal.end(Phase::Done, None),
            Ok(BootOutcome::WarmPool) => self.journal.end(Phase::Warm, None),
            Err(failed) if failed.was_stopped() && attempt.order.is_none() => self.record_stop(),
            Err(_) => Ok(()),
        };
        if let (Err(failure), Ok(_)) = (ended, &attempt.result) {
            attempt.result = Err(failure.into());
        }
        attempt
    }

    /// Records that the node failed: `phase` says whether it is held for repair.
    pub fn record_failure(&self, failed: &FailedStep, phase: Phase) {
        if let Err(failure) = self.journal.end(phase, Some(failed.into())) {
            tracing::error!("{failure}");
        }
    }

    /// Records that the work was stopped before its end, and keeps an earlier failure.
    pub fn record_stop(&self) -> Result<(), Failure> {
        let fault = self.journal.read(|state| state.fault.clone());
        self.journal.end(Phase::Stopped, fault)
    }

    /// Mounts the volumes of a node in service at a reboot, for a unit that is ordered after neither network nor cloud-init. The
    /// service starts after it and retries whatever failed.
    pub async fn mount_at_boot(&self) -> Result<(), Failure> {
        if !reboot::is_in_service(&self.journal) {
            tracing::info!("this is not a node in service: node-agent.service does the rest");
            return Ok(());
        }
        // A full disk must not prevent the mount.
        let began = self.journal.begin(Process::of(std::process::id().cast_signed(), &self.boot_id));
        let mounted = self.mount_offline(None).await;
        if let (Err(failure), Ok(())) = (began, &mounted) {
            tracing::warn!("{failure}");
        }
        if let Err(failed) = mounted {
            tracing::warn!("{failed}; node-agent.service tries again");
        }
        if let Err(failure) = self.record_stop() {
            tracing::warn!("{failure}");
        }
        Ok(())
    }

    /// On a node in service, mounts the volumes that can be mounted without any answer from AWS.
    async fn mount_offline(&self, config: Option<&Config>) -> Result<(), FailedStep> {
        if !reboot::is_in_service(&self.journal) {
            return Ok(());
        }
        let kept =
            async { settings::read_kept(&self.places.config, &self.places.state_dir).await?.validate(Scope::Offline) };
        let config = match config {
            Some(config) => Ok(Cow::Borrowed(config)),
            None => kept.await.map(Cow::Owned),
        };
        match config {
            Ok(config) => reboot::mount(&self.boot(&config)).await,
            // The full read reports any mistake.
            Err(failure) => {
                tracing::debug!("nothing is mounted before AWS answers: {failure}");
                Ok(())
            }
        }
    }

    async fn read_and_bring_up(&self) -> Attempt {
        let mut stop = self.stop.clone();
        // A known instance may be in a hold, whose end must not be delayed by much.
        let patience = if self.site.get().is_some() { REREAD_LIMIT } else { timeouts::AWS.default_span() };
        let known = self.journal.action();
        let launch = self.launch(known.as_ref());
        let read = {
            let _permit = self.allowance.permit(Some(Instant::now() + patience));
            tokio::select! {
                read = settings::read(&self.places.config, &self.aws.imds, patience) => read,
                _ = stop.wait_for(|stop| *stop) => Err(stopped()),
                never = self.send_heartbeats(launch.as_ref()) => match never {},
            }
        };
        let texts = match read {
            Ok(texts) => texts,
            Err(failure) => return Box::pin(self.without_configuration(failure, None)).await,
        };
        let validate = texts.clone().validate_in_thread(Scope::ThisHost(&ThisHost));
        match unless_stopped(&self.stop, validate).await {
            Ok(config) => {
                texts.keep(&self.places.state_dir);
                self.bring_up(config, true).await
            }
            Err(failure) => Box::pin(self.without_configuration(failure, texts.lifecycle())).await,
        }
    }

    /// Sends heartbeats while they are allowed, and never returns: the steps detect a lost launch.
    async fn send_heartbeats(&self, launch: Option<&Launch<'_>>) -> Infallible {
        if let Some(launch) = launch {
            sleep(READ_WITHOUT_HEARTBEATS).await;
            let (journal, allowance) = (&self.journal, &self.allowance);
            let _lost = Box::pin(Heart { launch, journal, allowance, of: Sequence::Boot }.beat()).await;
        }
        std::future::pending().await
    }

    /// The attempt without a usable configuration. Tries to identify the instance for the hold: the journal's launch counts only
    /// if the journal is this instance's. A failure to identify it is ignored, because the hold retries.
    async fn without_configuration(&self, failure: Failure, lifecycle: Option<config::Lifecycle>) -> Attempt {
        let in_launch = lifecycle.is_some() || self.journal.action().is_some();
        if in_launch && failure.class() != Class::Stopped {
            let run = Runner::new(&self.journal, IDENTIFY_BEFORE_HOLD, self.stop.clone(), &self.allowance);
            drop(Site::find(&self.site, &run, &self.aws, &self.journal, IDENTIFY_BEFORE_HOLD).await);
        }
        Attempt { lifecycle, ..Attempt::new(Err(failure.into()), None) }
    }

    /// Brings the node up; the service leaves when it is told to go meanwhile.
    async fn bring_up(&self, mut config: Config, leaves: bool) -> Attempt {
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        if config.lifecycle.is_none() && self.journal.promised_action().is_some() {
            let run = Runner::new(&self.journal, config.timeouts.aws, self.stop.clone(), &self.allowance);
            if let Err(failed) = Box::pin(self.identify(&run)).await {
                return Attempt::new(Err(failed), Some(config));
            }
            config.lifecycle = self.journal.promised_action();
            if let Some(promised) = &config.lifecycle {
                let text = format!(
                    "the configuration has no [lifecycle], but an earlier one held this launch for hook {} of {}: the result is \
                     reported to that hook",
                    promised.hook_name, promised.asg_name
                );
                self.journal.warn(StepName::Complete, None, text);
            }
        }
        self.journal.configured(&config);
        let (result, order) = if leaves {
            Box::pin(self.bring_up_unless_ordered(&config)).await
        } else {
            (Box::pin(self.boot(&config).bring_up()).await, None)
        };
        Attempt { lifecycle: config.lifecycle.clone(), order, ..Attempt::new(result, Some(config)) }
    }

    /// The boot sequence with this configuration.
    pub fn boot<'a>(&'a self, config: &'a Config) -> Boot<'a> {
        Boot {
            config,
            journal: &self.journal,
            aws: &self.aws,
            site: &self.site,
            scratch: &self.scratch,
            state_dir: &self.places.state_dir,
            unwritable: &self.unwritable,
            boot_id: &self.boot_id,
            allowance: &self.allowance,
            stop: self.stop.clone(),
        }
    }

    /// Completes the launch for the operator, or at the end of a hold.
    pub async fn complete(
        &self,
        lifecycle: Option<&config::Lifecycle>,
        deadline: Duration,
        result: LaunchResult,
    ) -> Result<(), FailedStep> {
        match (self.journal.launch_outcome(), result) {
            (None, _) => {}
            (Some(outcome @ LaunchOutcome::Continued), LaunchResult::Continue)
            | (Some(outcome @ LaunchOutcome::Abandoned), LaunchResult::Abandon) => {
                tracing::info!("{outcome} before: there is nothing more to send");
                return Ok(());
            }
            (Some(outcome), _) => {
                let text = format!("{result} cannot be sent: the launch of this instance is completed ({outcome})");
                return Err(Failure::new(Code::LaunchCompleted, text).into());
            }
        }
        if lifecycle.is_none() {
            let text =
                format!("no lifecycle hook is configured, so {result} has no recipient: there is nothing to complete");
            return Err(Failure::new(Code::NothingToComplete, text).into());
        }
        let run = Runner::new(&self.journal, deadline, self.stop.clone(), &self.allowance);
        let launch = Box::pin(self.identify(&run)).await?.launch(&self.aws, lifecycle);
        Box::pin(run.step(Complete::new(&self.journal, &launch, result, deadline))).await
    }

    async fn identify(&self, run: &Runner<'_>) -> Result<&Site, FailedStep> {
        Site::find(&self.site, run, &self.aws, &self.journal, timeouts::AWS.default_span()).await
    }

    /// Identifies this instance, retrying without log lines until it is known.
    pub async fn wait_until_known(&self) {
        while self.site.get().is_none() {
            if let Err(failure) = Site::try_find(&self.site, &self.aws, &self.journal).await {
                tracing::debug!("this instance is not known yet: {failure}");
                sleep(IDENTIFY_INTERVAL).await;
            }
        }
    }

    /// This instance's launch, once the instance is known.
    pub fn launch<'a>(&'a self, lifecycle: Option<&'a config::Lifecycle>) -> Option<Launch<'a>> {
        self.site.get().map(|site| site.launch(&self.aws, lifecycle))
    }
}
