//! What a process that works on the node has for itself: the lock, the journal, the clients, the stop signal.

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
use crate::node::boot::{Boot, Up};
use crate::node::lock::Lock;
use crate::node::places::{Places, take_lock};
use crate::node::reboot;
use crate::node::settings;
use crate::node::site::Site;
use crate::node::steps::complete::Complete;
use crate::node::steps::fetch::prepare_scratch;
use crate::node::steps::hooks::end_survivor;
use crate::runner::Runner;
use crate::runner::allowance::Allowance;
use crate::sequence::StepName;
use crate::state::publish::Publisher;
use crate::state::{Journal, LaunchOutcome, Phase, Process, store};

/// A process at work on the node; no other is, as long as this lives.
#[derive(Debug)]
pub struct Session {
    /// Where things are.
    pub places: Places,
    /// What was done.
    pub journal: Journal,
    /// Tells others of it.
    pub publisher: Publisher,
    /// The services.
    pub aws: Aws,
    /// The instance and its region's services, once they are known.
    pub site: OnceCell<Site>,
    /// When there may be heartbeats.
    pub allowance: Allowance,
    /// Becomes true when the agent is told to stop.
    pub stop: watch::Receiver<bool>,
    boot_id: String,
    scratch: PathBuf,
    /// Why the state could not be written at the start of the present attempt.
    unwritable: RefCell<Option<Failure>>,
    _lock: Lock,
}

/// What one go at bringing the node up came to.
#[derive(Debug)]
pub struct Attempt {
    /// How it ended.
    pub result: Result<Up, FailedStep>,
    /// The configuration, if there was one without mistakes.
    pub config: Option<Config>,
    /// `[lifecycle]`, also of a configuration with mistakes; without one, what is known of the launch from before.
    pub lifecycle: Option<config::Lifecycle>,
}

/// A configuration that is read within this time needs no heartbeat meanwhile, and no question about the hook's timeout.
const READ_IN_AN_INSTANT: Duration = Duration::from_secs(1);

/// How long reading the user data may take once the instance is known.
const READING_AGAIN: Duration = Duration::from_secs(30);

/// How long a hold may be put off to learn first which instance this is.
const BEFORE_A_HOLD: Duration = Duration::from_secs(10);

/// How often a hold asks which instance this is.
const ASKING_AGAIN: Duration = Duration::from_secs(5);

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

    /// Brings the node up, with this configuration or with the one that is read now. A failure is for the caller to put down
    /// ([`Session::failed`]).
    pub async fn attempt(&self, given: Option<Config>) -> Attempt {
        if let Some(site) = self.site.get() {
            // The instance may have been given another role since.
            site.services.credentials.forget();
        }
        let began = Process::of(std::process::id().cast_signed(), &self.boot_id);
        let written = self.journal.begin(began).and_then(|()| prepare_scratch(&self.scratch));
        self.unwritable.replace(written.err());
        // With or without a configuration: no run waits for the hook of a killed agent any more.
        end_survivor(&self.journal, &self.boot_id).await;
        let mut attempt = match (Box::pin(self.mount_at_once(given.as_ref())).await, given) {
            (Err(failed), config) => Attempt { result: Err(failed), config, lifecycle: None },
            (Ok(()), Some(config)) => Box::pin(self.bring_up(config)).await,
            (Ok(()), None) => Box::pin(self.configured_attempt()).await,
        };
        if attempt.lifecycle.is_none() {
            // Without a configuration the last one counts; one that says nothing of the launch keeps what was promised.
            let promised = || self.journal.promised_action();
            attempt.lifecycle = if attempt.config.is_some() { promised() } else { self.journal.action() };
        }
        let ended = match &attempt.result {
            Ok(Up::Done) => self.journal.end(Phase::Done, None),
            Ok(Up::Warm) => self.journal.end(Phase::Warm, None),
            Err(failed) if failed.was_stopped() => self.stopped(),
            Err(_) => Ok(()),
        };
        if let (Err(failure), Ok(_)) = (ended, &attempt.result) {
            attempt.result = Err(failure.into());
        }
        attempt
    }

    /// Puts down that the node failed, and whether somebody waits for its repair.
    pub fn failed(&self, failed: &FailedStep, phase: Phase) {
        if let Err(failure) = self.journal.end(phase, Some(failed.into())) {
            tracing::error!("{failure}");
        }
    }

    /// Puts down that the work was stopped before its end; an earlier failure is still worth telling.
    pub fn stopped(&self) -> Result<(), Failure> {
        let fault = self.journal.read(|state| state.fault.clone());
        self.journal.end(Phase::Stopped, fault)
    }

    /// Mounts the volumes of a node in service at a reboot, for a unit that is ordered after neither network nor cloud-init. The
    /// service starts after it and retries whatever failed.
    pub async fn mount_at_boot(&self) -> Result<(), Failure> {
        if !reboot::is_in_service(&self.journal) {
            tracing::info!("no node in service: the rest is for node-agent.service");
            return Ok(());
        }
        // A full disk keeps no data from being mounted.
        let began = self.journal.begin(Process::of(std::process::id().cast_signed(), &self.boot_id));
        let mounted = self.mount_at_once(None).await;
        if let (Err(failure), Ok(())) = (began, &mounted) {
            tracing::warn!("{failure}");
        }
        if let Err(failed) = mounted {
            tracing::warn!("{failed}; node-agent.service tries again");
        }
        if let Err(failure) = self.stopped() {
            tracing::warn!("{failure}");
        }
        Ok(())
    }

    /// On a node in service, mounts the volumes that can be mounted without any answer from AWS.
    async fn mount_at_once(&self, given: Option<&Config>) -> Result<(), FailedStep> {
        if !reboot::is_in_service(&self.journal) {
            return Ok(());
        }
        let kept =
            async { settings::read_kept(&self.places.config, &self.places.state_dir).await?.validate(Scope::Offline) };
        let config = match given {
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

    async fn configured_attempt(&self) -> Attempt {
        let mut stop = self.stop.clone();
        // A known instance may be held, for an end that is not put off by much.
        let patience = if self.site.get().is_some() { READING_AGAIN } else { timeouts::AWS.default_span() };
        let known = self.journal.action();
        let launch = self.launch(known.as_ref());
        let read = {
            let _permit = self.allowance.permit(Some(Instant::now() + patience));
            tokio::select! {
                read = settings::read(&self.places.config, &self.aws.imds, patience) => read,
                _ = stop.wait_for(|stop| *stop) => Err(crate::runner::stopped()),
                never = self.keep_waiting(launch.as_ref()) => match never {},
            }
        };
        let texts = match read {
            Ok(texts) => texts,
            Err(failure) => return Box::pin(self.without_configuration(failure, None)).await,
        };
        let validated = tokio::select! {
            validated = texts.clone().validate_aside(Scope::ThisHost(&ThisHost)) => validated,
            _ = stop.wait_for(|stop| *stop) => {
                return Attempt { result: Err(crate::runner::stopped().into()), config: None, lifecycle: None };
            }
        };
        let config = match validated {
            Ok(config) => {
                texts.keep(&self.places.state_dir);
                config
            }
            Err(failure) => return Box::pin(self.without_configuration(failure, texts.lifecycle())).await,
        };
        self.bring_up(config).await
    }

    /// Has the launch wait, as long as heartbeats are allowed, and never returns: a launch that is lost is for the steps to find.
    async fn keep_waiting(&self, launch: Option<&Launch<'_>>) -> Infallible {
        if let Some(launch) = launch {
            sleep(READ_IN_AN_INSTANT).await;
            let _lost = Box::pin(Heart { launch, journal: &self.journal, allowance: &self.allowance }.beat()).await;
        }
        std::future::pending().await
    }

    /// There is no configuration to go by. For the hold the instance is asked for: what the journal knows of the launch is
    /// this instance's only if the journal is. That it does not become known now is the lesser trouble: the hold goes on asking.
    async fn without_configuration(&self, failure: Failure, lifecycle: Option<config::Lifecycle>) -> Attempt {
        let in_launch = lifecycle.is_some() || self.journal.action().is_some();
        if in_launch && failure.class() != Class::Stopped {
            let run = Runner::new(&self.journal, BEFORE_A_HOLD, self.stop.clone(), &self.allowance);
            drop(Site::find(&self.site, &run, &self.aws, &self.journal, BEFORE_A_HOLD).await);
        }
        Attempt { result: Err(failure.into()), config: None, lifecycle }
    }

    async fn bring_up(&self, mut config: Config) -> Attempt {
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        if config.lifecycle.is_none() && self.journal.promised_action().is_some() {
            let run = Runner::new(&self.journal, config.timeouts.aws, self.stop.clone(), &self.allowance);
            if let Err(failed) = Box::pin(self.identify(&run)).await {
                return Attempt { result: Err(failed), config: Some(config), lifecycle: None };
            }
            config.lifecycle = self.journal.promised_action();
            if let Some(promised) = &config.lifecycle {
                let text = format!(
                    "the configuration has no [lifecycle], but this launch waits for hook {} of {}, which was promised its end: \
                     it is reported to that hook",
                    promised.hook_name, promised.asg_name
                );
                self.journal.warn(StepName::Complete, None, text);
            }
        }
        self.journal.configured(&config);
        let result = Box::pin(self.boot(&config).bring_up()).await;
        let lifecycle = config.lifecycle.clone();
        Attempt { result, config: Some(config), lifecycle }
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

    /// Completes the launch by hand, or at the end of a hold.
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
                format!("no lifecycle hook is configured, so nobody waits for {result}: there is nothing to complete");
            return Err(Failure::new(Code::NothingToComplete, text).into());
        }
        let run = Runner::new(&self.journal, deadline, self.stop.clone(), &self.allowance);
        let launch = Box::pin(self.identify(&run)).await?.launch(&self.aws, lifecycle);
        Box::pin(run.step(Complete::new(&self.journal, &launch, result, deadline))).await
    }

    async fn identify(&self, run: &Runner<'_>) -> Result<&Site, FailedStep> {
        Site::find(&self.site, run, &self.aws, &self.journal, timeouts::AWS.default_span()).await
    }

    /// Asks for this instance, quietly, until it is known.
    pub async fn become_known(&self) {
        while self.site.get().is_none() {
            if let Err(failure) = Site::try_find(&self.site, &self.aws, &self.journal).await {
                tracing::debug!("this instance is not known yet: {failure}");
                sleep(ASKING_AGAIN).await;
            }
        }
    }

    /// This instance's launch, once the instance is known.
    pub fn launch<'a>(&'a self, lifecycle: Option<&'a config::Lifecycle>) -> Option<Launch<'a>> {
        self.site.get().map(|site| site.launch(&self.aws, lifecycle))
    }
}
