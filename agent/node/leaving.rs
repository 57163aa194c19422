//! How a session takes its node out of the cluster: what it needs besides the steps.

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::config::schema::{hooks, timeouts, volume};
use crate::config::{self, Config, FileSystemType, Format, Hooks, Recursive, Scope, Script, Timeouts, Volume};
use crate::failure::{Code, FailedStep, Failure};
use crate::lifecycle::Launch;
use crate::node::boot::{Boot, BootOutcome};
use crate::node::leave::{Departure, longest, until_spot};
use crate::node::order::{News, Order, Watch};
use crate::node::session::Session;
use crate::node::settings;
use crate::node::steps::fetch::prepare_scratch;
use crate::node::steps::function::end_leftover;
use crate::runner::allowance::Allowance;
use crate::runner::stopped;
use crate::state::{Lost, Phase, Process};

/// How long reading the configuration may take once the instance is to go.
const READ_LIMIT: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_secs(1);

impl Session {
    /// Brings the node up, unless it is told to go meanwhile: then the work ends as at the stop signal.
    pub(super) async fn bring_up_unless_ordered(
        &self,
        config: &Config,
    ) -> (Result<BootOutcome, FailedStep>, Option<Order>) {
        let (cut, is_cut) = watch::channel(false);
        let boot = Boot { stop: is_cut, ..self.boot(config) };
        let mut work = pin!(boot.bring_up());
        let mut order = pin!(self.wait_for_order(config.lifecycle.as_ref()));
        let mut stop = self.stop.clone();
        let mut ordered = None;
        loop {
            tokio::select! {
                result = &mut work => return (result, ordered),
                _ = stop.wait_for(|stop| *stop), if !*cut.borrow() => {
                    cut.send_replace(true);
                }
                order = &mut order, if ordered.is_none() => {
                    tracing::info!("this instance is to go: the work on it ends here");
                    ordered = Some(order);
                    cut.send_replace(true);
                }
            }
        }
    }

    /// Waits for the order to go, once the instance is known. Without a termination hook none is waited for.
    pub async fn wait_for_order(&self, lifecycle: Option<&config::Lifecycle>) -> Order {
        let Some(launch) = self.launch_to_leave(lifecycle).await else { return std::future::pending().await };
        let mut watch = Watch::new(&launch, &self.journal);
        loop {
            if let News::Leave(order) = watch.news().await {
                return order;
            }
        }
    }

    /// Waits for news of a node in service.
    pub async fn wait_for_news(&self, lifecycle: Option<&config::Lifecycle>) -> News {
        self.wait_until_known().await;
        match self.launch(lifecycle) {
            Some(launch) => Watch::new(&launch, &self.journal).news().await,
            None => std::future::pending().await,
        }
    }

    async fn launch_to_leave<'a>(&'a self, lifecycle: Option<&'a config::Lifecycle>) -> Option<Launch<'a>> {
        lifecycle.filter(|lifecycle| lifecycle.terminate_hook_name.is_some())?;
        loop {
            if let Some(launch) = self.launch(lifecycle) {
                return Some(launch);
            }
            sleep(POLL).await;
        }
    }

    /// Takes the node out of its cluster. Fails at the stop signal, for an instance whose launch was not completed, and with the
    /// failure for which the instance was given up.
    pub async fn leave(&self, config: &Config, order: Order, given_up: Option<FailedStep>) -> Result<(), FailedStep> {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = self.wait_until_known() => {}
            _ = stop.wait_for(|stop| *stop) => return Err(stopped().into()),
        }
        let Some(site) = self.site.get() else { return Err(stopped().into()) };
        let agent = Process::of(std::process::id().cast_signed(), &self.boot_id);
        self.journal.begin_departure(agent, order.reason, longest(config));
        if let Some(at) = order.at {
            self.journal.hasten_departure(Some(order.reason), until_spot(at));
        }
        end_leftover(&self.journal, &self.boot_id).await;
        if let Err(failure) = prepare_scratch(&self.scratch) {
            tracing::warn!("{failure}");
        }
        let allowance = Allowance::default();
        let departure = Departure {
            config,
            journal: &self.journal,
            aws: &self.aws,
            site,
            allowance: &allowance,
            scratch: &self.scratch,
            state_dir: &self.places.state_dir,
            boot_id: &self.boot_id,
            stop: self.stop.clone(),
        };
        if let Err(failed) = Box::pin(departure.leave()).await {
            return Err(self.record_stop().map_or_else(FailedStep::from, |()| failed));
        }
        let is_lost = self.journal.read(|state| matches!(state.lost, Some(Lost::Unreadable | Lost::Missing)));
        let result = match given_up {
            Some(failed) => Err(failed),
            None if self.journal.launch_outcome().is_some() || is_lost => Ok(()),
            None => {
                let text = format!("instance {} is to go, and its launch was not completed", site.instance.instance_id);
                Err(FailedStep::from(Failure::new(Code::Terminating, text)))
            }
        };
        if let Err(failure) = self.journal.end(Phase::Left, result.as_ref().err().map(Into::into)) {
            tracing::error!("{failure}");
        }
        tracing::info!("the node has left");
        result
    }

    /// The configuration for a departure: as it can be read, or else as the journal remembers it.
    pub async fn config_to_leave(&self) -> Config {
        let (from, state_dir) = (&self.places.config, &self.places.state_dir);
        let texts = match settings::read(from, &self.aws.imds, READ_LIMIT).await {
            Err(failure) => settings::read_kept(from, state_dir).await.map_err(|_| failure),
            texts => texts,
        };
        match texts.and_then(|texts| texts.validate(Scope::Offline)) {
            Ok(mut config) => {
                if config.lifecycle.as_ref().is_none_or(|lifecycle| lifecycle.terminate_hook_name.is_none()) {
                    // The departure was begun for a hook that the configuration names no more.
                    config.lifecycle = self.journal.last_action();
                }
                config
            }
            Err(failure) => {
                tracing::warn!("the node leaves as its journal remembers its configuration: {failure}");
                self.remembered_config()
            }
        }
    }

    /// What the journal remembers of the configuration: enough to unmount, and to complete the termination hook's action.
    fn remembered_config(&self) -> Config {
        let node = self.journal.read(|state| state.node.clone());
        let remembered = |id: &String, mount_path: PathBuf| {
            Some(Volume {
                id: id.parse().ok()?,
                device_name: volume::DEVICE_NAME.default_text().to_owned(),
                mount_path,
                file_system: FileSystemType::Xfs,
                mount_options: Vec::new(),
                owner: None,
                group: None,
                recursive: Recursive::AfterFormat,
                detach_on_terminate: false,
                format: Format::Never,
                install_tools: false,
            })
        };
        let volumes = self.journal.read(|state| {
            let mounted = state.volumes.iter().filter_map(|(id, record)| Some((id, record.mounted.clone()?)));
            mounted.filter_map(|(id, mounted)| remembered(id, mounted.mount_point)).collect()
        });
        Config {
            node: config::Node { id: node.id, ip: node.ip.parse().unwrap_or([0, 0, 0, 0].into()) },
            lifecycle: self.journal.last_action(),
            cluster: self.journal.cluster(),
            volumes,
            files: Vec::new(),
            // Where the script was kept.
            hooks: Some(Hooks {
                script: Script::Inline(Vec::new()),
                sha256: None,
                configure: hooks::CONFIGURE.default_text().to_owned(),
                health_check: hooks::HEALTH_CHECK.default_text().to_owned(),
                drain: hooks::DRAIN.default_text().to_owned(),
            }),
            timeouts: Timeouts {
                aws: timeouts::AWS.default_span(),
                volume: timeouts::VOLUME.default_span(),
                hooks: timeouts::HOOKS.default_span(),
                downloads: timeouts::DOWNLOADS.default_span(),
                complete: timeouts::COMPLETE.default_span(),
                drain: timeouts::DRAIN.default_span(),
                unmount: timeouts::UNMOUNT.default_span(),
            },
            digest: String::new(),
            origin: self.places.config.clone(),
            warnings: Vec::new(),
        }
    }
}
