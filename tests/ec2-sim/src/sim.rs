//! The handle scenarios hold, in one file: each method is a line or two in front of the module that does it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::api::ApiServer;
use crate::catalog::ImageState;
use crate::clock::{Clock, iso};
use crate::config::{GroupSpec, InstanceSpec, SimConfig, VolumeSpec};
use crate::core::Core;
use crate::credentials::{Credentials, Issuer};
use crate::deaths::{self, Deaths, RandomDeaths};
use crate::devices::{self, Devices};
use crate::error::{ApiError, SimError};
use crate::events::{Event, EventLog, Events, What};
use crate::faults::{FaultRule, Faults, Times};
use crate::ids::{InstanceId, VolumeId, random_hex};
use crate::instances;
use crate::interfaces::InterfaceSpec;
use crate::lag::{Lag, Lags};
use crate::launches::{self, LaunchFailure};
use crate::lifecycle;
use crate::light;
use crate::lock;
use crate::pages::{self, PageServer, Pages};
use crate::quota::Quotas;
use crate::s3::{Objects, WrongRegion};
use crate::snapshots::SnapshotView;
use crate::templates::{Template, TemplateSpec, TemplateVersion};
use crate::volumes;
use crate::wire;
use crate::world::{Group, InstanceState};

/// A running simulator. Clones share it; when the last one is dropped, also by a panic, its servers stop, its loop
/// devices are detached and its links removed. What it wrote into the work directory stays.
#[derive(Clone)]
pub struct Sim {
    shared: Arc<Shared>,
}

struct Shared {
    core: Arc<Core>,
    engine: Mutex<Option<Engine>>,
}

/// The runtime everything runs on, on a thread of its own: what a test does to its own runtime does not delay the
/// simulated world, and a `Sim` can be dropped anywhere.
struct Engine {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Engine {
    fn start() -> Result<(Self, Handle), SimError> {
        let (stop, stopped) = oneshot::channel();
        let (started, handle) = mpsc::channel();
        let run = move || {
            let built = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
            match built {
                Err(error) => drop(started.send(Err(error))),
                Ok(runtime) => {
                    drop(started.send(Ok(runtime.handle().clone())));
                    // Ends by a message or by the sender being dropped: both mean stop.
                    let _ = runtime.block_on(stopped);
                    runtime.shutdown_timeout(Duration::from_secs(5));
                }
            }
        };
        let what = "start the simulator's thread";
        let thread = thread::Builder::new().name("ec2-sim".to_owned()).spawn(run).map_err(SimError::io(what))?;
        let handle = handle.recv().map_err(std::io::Error::other).flatten().map_err(SimError::io(what))?;
        Ok((Self { stop, thread }, handle))
    }
}

impl Shared {
    fn stop(&self) {
        if let Some(Engine { stop, thread }) = lock(&self.engine).take() {
            let _ = stop.send(());
            let _ = thread.join();
            self.core.devices.clear();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Sim {
    /// Starts a world without anything in it.
    pub async fn start(config: SimConfig) -> Result<Self, SimError> {
        // Nothing here waits for longer than a bind; async for callers who write async anyway.
        std::future::ready(Self::start_blocking(config)).await
    }

    /// [`Sim::start`] for callers without a runtime.
    pub fn start_blocking(config: SimConfig) -> Result<Self, SimError> {
        if config.work_dir.as_os_str().is_empty() {
            return Err(SimError::Invalid("work_dir is required".to_owned()));
        }
        std::fs::create_dir_all(&config.work_dir)
            .map_err(SimError::io(format!("create {}", config.work_dir.display())))?;
        let what = format!("find {}", config.work_dir.display());
        // Canonical, because the kernel tells backing files by their canonical path.
        let work_dir = config.work_dir.canonicalize().map_err(SimError::io(what))?;
        let log = EventLog::create(&work_dir.join("events.jsonl"))?;
        let faults = Faults::new(config.faults.clone(), config.random_faults.clone())?;
        let quotas = Quotas::new(config.quotas.clone())?;
        let acceptor = pages::tls(&work_dir.join("ca.pem"))?;
        let (api_listener, api) = wire::bind(config.address)?;
        let (api_https_listener, api_https) = wire::bind(config.address)?;
        let (https_listener, https) = wire::bind(config.address)?;
        let (engine, runtime) = Engine::start()?;
        let random = config.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        let core = Arc::new(Core {
            work_dir,
            clock: Clock::new(config.clock_ahead_seconds),
            issuer: Issuer::new(config.credential_lifetime),
            config,
            log,
            devices: Devices::default(),
            faults,
            quotas,
            lags: Lags::default(),
            deaths: Deaths::default(),
            objects: Objects::default(),
            pages: Pages::default(),
            api,
            api_https,
            https,
            runtime: runtime.clone(),
            state: Mutex::default(),
            random: Mutex::new(random),
        });
        wire::serve(&runtime, api_listener, None, ApiServer { core: Arc::clone(&core) });
        wire::serve(&runtime, api_https_listener, Some(acceptor.clone()), ApiServer { core: Arc::clone(&core) });
        wire::serve(&runtime, https_listener, Some(acceptor), PageServer { core: Arc::clone(&core) });
        Ok(Self { shared: Arc::new(Shared { core, engine: Mutex::new(Some(engine)) }) })
    }

    /// Stops everything now, whoever else holds a clone; a clone can then only look at the log.
    pub async fn shutdown(self) {
        // Joins a thread and waits for the kernel; both take milliseconds.
        let shared = self.shared;
        {
            shared.stop();
            std::future::ready(())
        }
        .await;
    }

    fn core(&self) -> &Arc<Core> {
        &self.shared.core
    }

    /// Makes a volume over a sparse backing file; a file that exists in the work directory keeps its content.
    pub fn create_volume(&self, spec: VolumeSpec) -> Result<VolumeId, SimError> {
        volumes::create(self.core(), spec)
    }

    /// Makes an Auto Scaling group; its name is its identifier. It launches only what [`GroupSpec::launches`] says.
    pub fn create_group(&self, spec: GroupSpec) -> Result<String, SimError> {
        let mut world = self.core().world();
        let name = spec.name.clone();
        if name.is_empty() || world.groups.contains_key(&name) {
            return Err(SimError::Invalid(format!("the group {name:?} has no name or exists already")));
        }
        let created = self.core().clock.now();
        world.groups.insert(name.clone(), Group::new(spec, created));
        launches::check(self.core(), &mut world, &name);
        Ok(name)
    }

    /// Changes a group: its tags, its capacity, what it launches.
    pub fn change_group(&self, name: &str, change: impl FnOnce(&mut GroupSpec)) -> Result<(), SimError> {
        let mut world = self.core().world();
        world.group_mut(name)?.prepare(change);
        launches::check(self.core(), &mut world, name);
        Ok(())
    }

    /// Makes a launch template and tells its identifier.
    pub fn create_template(&self, spec: TemplateSpec) -> Result<String, SimError> {
        let created = self.core().clock.now();
        let template = Template::new(spec, created);
        let mut world = self.core().world();
        let taken = [&template.id, &template.name].iter().any(|name| world.template(name).is_some());
        if template.name.is_empty() || template.versions.is_empty() || taken {
            let message = format!("the launch template {:?} has no name, no version, or exists already", template.name);
            return Err(SimError::Invalid(message));
        }
        let id = template.id.clone();
        world.templates.insert(id.clone(), template);
        Ok(id)
    }

    /// Adds a version to a launch template and tells its number.
    pub fn add_template_version(&self, template: &str, version: TemplateVersion) -> Result<u64, SimError> {
        self.change_template(template, |template| {
            template.versions.push(version);
            Ok(template.latest())
        })
    }

    /// Says which version is the default.
    pub fn set_default_version(&self, template: &str, version: u64) -> Result<(), SimError> {
        self.change_template(template, |template| {
            template.default = template.version(&version.to_string())?.0;
            Ok(())
        })
    }

    fn change_template<R>(
        &self,
        template: &str,
        change: impl FnOnce(&mut Template) -> Result<R, ApiError>,
    ) -> Result<R, SimError> {
        let mut world = self.core().world();
        let id = world.template(template).map(|template| template.id.clone());
        let found = id.and_then(|id| world.templates.get_mut(&id));
        let found = found.ok_or_else(|| SimError::Invalid(format!("there is no launch template {template:?}")))?;
        Ok(change(found)?)
    }

    /// Sets the parameter of Systems Manager that `resolve:ssm:NAME` stands for.
    pub fn set_parameter(&self, name: &str, image: &str) {
        self.core().world().parameters.insert(name.to_owned(), image.to_owned());
    }

    /// Puts an image into a state; every image is available as long as nothing is said of it.
    pub fn set_image(&self, image: &str, state: ImageState) {
        self.core().world().catalog.set_image(image, state);
    }

    /// Says whether a zone offers an instance type; every zone offers all as long as nothing is said.
    pub fn set_offered(&self, instance_type: &str, zone: &str, offered: bool) {
        self.core().world().catalog.set_offered(instance_type, zone, offered);
    }

    /// Sets the account setting `launchBeforeTerminate`. It is only shown.
    pub fn set_launch_before_terminate(&self, enabled: bool) {
        self.core().world().launch_before_terminate = enabled;
    }

    /// Sets what `GetConsoleOutput` tells of an instance.
    pub fn set_console(&self, instance: &InstanceId, text: &str) {
        self.core().world().consoles.insert(instance.clone(), text.to_owned());
    }

    /// The snapshots that were begun.
    pub fn snapshots(&self) -> Vec<SnapshotView> {
        self.core().world().snapshots.clone()
    }

    /// Puts the services' clock ahead of the machine's, or back: the `Date` of their answers and all their times.
    pub fn set_clock_ahead(&self, seconds: i64) {
        self.core().clock.set(seconds);
    }

    /// Makes a network interface and tells its identifier.
    pub fn create_interface(&self, spec: InterfaceSpec) -> Result<String, SimError> {
        let id = spec.id.clone().unwrap_or_else(|| format!("eni-{}", random_hex(17)));
        let mut world = self.core().world();
        if world.interfaces.contains_key(&id) {
            return Err(SimError::Invalid(format!("the network interface {id} exists already")));
        }
        world.interfaces.insert(id.clone(), spec);
        Ok(id)
    }

    /// Launches an instance with a metadata service of its own. In a group it begins in `Pending`.
    pub fn launch(&self, spec: InstanceSpec) -> Result<InstanceId, SimError> {
        instances::launch(self.core(), spec)
    }

    /// The environment of a process on that instance. Region and credentials come from its metadata service.
    pub fn env(&self, instance: &InstanceId) -> Vec<(String, String)> {
        vec![
            ("AWS_ENDPOINT_URL".to_owned(), self.api_url()),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT".to_owned(), self.imds_url(instance)),
        ]
    }

    /// Where EC2, Auto Scaling and S3 answer.
    pub fn api_url(&self) -> String {
        format!("http://{}", self.core().api)
    }

    /// Where the same services answer by https. The certificate is good for `*.sim.example` and `*.s3.sim.example`, too.
    pub fn api_https_address(&self) -> SocketAddr {
        self.core().api_https
    }

    /// Where the instance's metadata service answers; a port that never does for an instance that was never launched
    /// and for a light node.
    pub fn imds_url(&self, instance: &InstanceId) -> String {
        let world = self.core().world();
        let address = world.instance(instance).ok().and_then(|instance| instance.imds);
        address.map_or_else(|| "http://127.0.0.1:1".to_owned(), |address| format!("http://{address}"))
    }

    /// Credentials for clients outside an instance; they may do everything.
    pub fn static_credentials(&self) -> Credentials {
        self.core().issuer.fixed(self.core().clock.now())
    }

    /// The environment of a client outside an instance, such as an operator's machine, with static credentials that permit
    /// everything but these patterns of actions.
    pub fn operator_env(&self, denied: &[&str]) -> Vec<(String, String)> {
        let core = self.core();
        let denied = denied.iter().map(|pattern| (*pattern).to_owned()).collect();
        let credentials = core.issuer.operator(denied, core.clock.now());
        let pairs = [
            ("AWS_ENDPOINT_URL", self.api_url()),
            ("AWS_REGION", core.config.region.clone()),
            ("AWS_ACCESS_KEY_ID", credentials.access_key_id),
            ("AWS_SECRET_ACCESS_KEY", credentials.secret_access_key),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// The keys that the instance's role has had so far are not accepted any more; its metadata service has new ones.
    pub fn revoke_credentials(&self, instance: &InstanceId) {
        self.core().issuer.revoke(instance);
    }

    /// The metadata service refuses the tokens that it has issued so far, as after a resume from hibernation.
    pub fn revoke_tokens(&self, instance: &InstanceId) -> Result<(), ApiError> {
        self.core().world().instance_mut(instance)?.change(|instance| instance.tokens_since = Instant::now());
        Ok(())
    }

    /// Puts an object into S3; its bucket is made with it.
    pub fn put_object(&self, bucket: &str, key: &str, bytes: impl Into<Vec<u8>>) {
        self.core().objects.put(bucket, key, bytes.into(), self.core().clock.now());
    }

    /// Puts a bucket into a region of its own, and says what requests for another region are answered.
    pub fn place_bucket(&self, bucket: &str, region: &str, answer: WrongRegion) {
        self.core().objects.place(bucket, region, answer);
    }

    /// Puts a page on the https file server that leads elsewhere, by the status 302, and tells its address. Without a
    /// `location` the answer does not say where to.
    pub fn put_redirect(&self, path: &str, location: Option<&str>) -> String {
        let path = format!("/{}", path.trim_start_matches('/'));
        self.core().pages.redirect(path.clone(), location.map(str::to_owned));
        format!("https://{}{path}", self.core().https)
    }

    /// Puts a page on the https file server and tells its address. `path` begins with a slash.
    pub fn put_page(&self, path: &str, bytes: impl Into<Vec<u8>>) -> String {
        let path = format!("/{}", path.trim_start_matches('/'));
        self.core().pages.put(path.clone(), bytes.into());
        format!("https://{}{path}", self.core().https)
    }

    /// The certificate authority of the https file server, for `SSL_CERT_FILE` or `AWS_CA_BUNDLE`.
    pub fn ca_pem_path(&self) -> PathBuf {
        self.core().work_dir.join("ca.pem")
    }

    /// The event log's file.
    pub fn events_path(&self) -> PathBuf {
        self.core().work_dir.join("events.jsonl")
    }

    /// Begins to attach, as `AttachVolume`.
    pub fn attach(&self, volume: &VolumeId, instance: &InstanceId, device: &str) -> Result<(), ApiError> {
        volumes::attach(self.core(), volume, instance, device).map(|_| ())
    }

    /// Begins to detach, as `DetachVolume`.
    pub fn detach(&self, volume: &VolumeId, instance: &InstanceId) -> Result<(), ApiError> {
        volumes::detach(self.core(), volume, Some(instance)).map(|_| ())
    }

    /// Terminates, as `TerminateInstances`: `shutting-down`, and later `terminated` with its volumes free. No terminating
    /// hook is asked.
    pub fn terminate(&self, instance: &InstanceId) -> Result<(), ApiError> {
        self.set_instance_state(instance, InstanceState::ShuttingDown)
    }

    /// Ends an instance at once, as a lost machine: its volumes and its network interface come free without delay.
    pub fn kill_instance(&self, instance: &InstanceId) -> Result<(), ApiError> {
        self.set_instance_state(instance, InstanceState::Terminated)
    }

    /// Has the next launches of a group fail, or ends that: `Times::Count(0)`.
    pub fn fail_launches(&self, group: &str, failure: LaunchFailure, times: Times) -> Result<(), SimError> {
        self.core().world().group_mut(group)?.failing = Some((failure, times));
        Ok(())
    }

    /// Mends a light node that is held: it sends CONTINUE.
    pub fn repair(&self, instance: &InstanceId) -> Result<(), SimError> {
        light::repair(self.core(), instance)
    }

    /// Kills members at random from now on, or no more.
    pub fn set_random_deaths(&self, deaths: Option<RandomDeaths>) {
        deaths::set(self.core(), deaths);
    }

    /// [`Sim::terminate`], some time from now.
    pub fn terminate_later(&self, instance: &InstanceId, after: Duration) -> Result<(), ApiError> {
        let core = self.core();
        core.world().instance(instance)?;
        let id = instance.clone();
        core.later(after, move |core| {
            let ending = InstanceState::ShuttingDown;
            instances::set_state(core, &mut core.world(), &id, ending, "set by the scenario");
        });
        Ok(())
    }

    /// Terminates by its group, with its terminating hooks.
    pub fn terminate_in_group(&self, instance: &InstanceId) -> Result<(), SimError> {
        let mut world = self.core().world();
        if !world.members.contains_key(instance) {
            return Err(SimError::Invalid(format!("{instance} is in no group")));
        }
        lifecycle::terminate(self.core(), &mut world, instance, "terminated by the scenario");
        Ok(())
    }

    /// Puts an instance into a state; the ending ones take their usual way.
    pub fn set_instance_state(&self, instance: &InstanceId, state: InstanceState) -> Result<(), ApiError> {
        let mut world = self.core().world();
        world.instance(instance)?;
        instances::set_state(self.core(), &mut world, instance, state, "set by the scenario");
        Ok(())
    }

    /// Puts a group member into any lifecycle state, also one that is unknown or of a warm pool. `…:Wait` states get
    /// their actions with their timeouts.
    pub fn set_lifecycle_state(&self, instance: &InstanceId, state: &str) -> Result<(), SimError> {
        lifecycle::set_state(self.core(), instance, state)
    }

    /// Says whether the group calls the instance healthy, as `SetInstanceHealth` and failed health checks do.
    pub fn set_health(&self, instance: &InstanceId, healthy: bool) -> Result<(), SimError> {
        lifecycle::set_health(self.core(), instance, healthy)
    }

    /// Says whether the member is protected from scale-in.
    pub fn set_protection(&self, instance: &InstanceId, protected: bool) -> Result<(), SimError> {
        lifecycle::set_protection(self.core(), instance, protected)
    }

    /// Gives the spot notice: the metadata service announces the end of the instance, which comes after this time without
    /// a lifecycle action. AWS gives two minutes.
    pub fn interrupt(&self, instance: &InstanceId, after: Duration) -> Result<(), ApiError> {
        let notice = format!(r#"{{"action":"terminate","time":"{}"}}"#, iso(self.core().clock.now() + after));
        self.change_instance(instance, |spec| {
            spec.metadata.insert("spot/instance-action".to_owned(), notice);
        })?;
        self.terminate_later(instance, after)
    }

    /// Changes anything about an instance that its metadata and its permissions are derived from: the role that comes
    /// late, a metadata value, a denied action.
    pub fn change_instance(
        &self,
        instance: &InstanceId,
        change: impl FnOnce(&mut InstanceSpec),
    ) -> Result<(), ApiError> {
        self.core().world().instance_mut(instance)?.change(|instance| change(&mut instance.spec));
        Ok(())
    }

    /// Makes a volume larger, as `ModifyVolume` does but to the byte.
    pub fn grow_volume(&self, volume: &VolumeId, size_bytes: u64) -> Result<(), ApiError> {
        volumes::grow(self.core(), volume, size_bytes)
    }

    /// The volume's status, its attachments and where its bytes are.
    pub fn volume_state(&self, volume: &VolumeId) -> Result<VolumeView, ApiError> {
        let world = self.core().world();
        let volume = world.volume(volume)?;
        let attachments = volume
            .attachments
            .iter()
            .map(|attachment| AttachmentView {
                instance: attachment.instance.clone(),
                device: attachment.device.clone(),
                status: attachment.status.name(),
            })
            .collect();
        Ok(VolumeView {
            status: volume.status(),
            size_bytes: volume.size_bytes,
            attachments,
            tags: volume.tags.clone(),
            backing_file: volume.backing.clone(),
        })
    }

    /// The instance's state.
    pub fn instance_state(&self, instance: &InstanceId) -> Result<InstanceState, ApiError> {
        self.core().world().instance(instance).map(|instance| instance.state)
    }

    /// The instance's own tags.
    pub fn instance_tags(&self, instance: &InstanceId) -> Result<std::collections::BTreeMap<String, String>, ApiError> {
        self.core().world().instance(instance).map(|instance| instance.spec.tags.clone())
    }

    /// The member's lifecycle state; none once it left its group.
    pub fn lifecycle_state(&self, instance: &InstanceId) -> Option<String> {
        self.core().world().members.get(instance).map(|member| member.get().state.clone())
    }

    /// The block device, once it has appeared.
    pub fn device(&self, volume: &VolumeId, instance: &InstanceId) -> Option<PathBuf> {
        self.core().devices.path(volume, instance)
    }

    /// The name of the volume's by-id link.
    pub fn link_name(volume: &VolumeId) -> String {
        devices::link_name(volume)
    }

    /// Adds a fault; refused where no action matches it.
    pub fn add_fault(&self, rule: FaultRule) -> Result<(), SimError> {
        self.core().faults.add(rule)
    }

    /// Has descriptions tell of the past from now on; `Lag::default()` ends it.
    pub fn set_lag(&self, lag: Lag) {
        self.core().lags.set(lag);
    }

    /// Ends all faults, scripted and random.
    pub fn clear_faults(&self) {
        self.core().faults.clear();
    }

    /// What happened so far.
    pub fn events(&self) -> Events {
        self.core().log.copy()
    }

    /// The first event that matches, past ones included, or none within the time.
    pub async fn wait_for(&self, wanted: impl FnMut(&Event) -> bool, timeout: Duration) -> Option<Event> {
        self.core().log.wait(wanted, timeout).await
    }

    /// [`Sim::wait_for`] for callers without a runtime.
    pub fn wait_for_blocking(&self, wanted: impl FnMut(&Event) -> bool, timeout: Duration) -> Option<Event> {
        self.core().log.wait_blocking(wanted, timeout)
    }

    /// Waits until the instance has entered this lifecycle state at some time.
    pub async fn wait_for_lifecycle(&self, instance: &InstanceId, state: &str, timeout: Duration) -> Option<Event> {
        let wanted = |event: &Event| matches!(&event.what, What::Lifecycle(change) if change.instance == instance.as_str() && change.to == state);
        self.wait_for(wanted, timeout).await
    }

    /// Waits until the volume's device has appeared on the instance, and tells where.
    pub async fn wait_for_device(
        &self,
        volume: &VolumeId,
        instance: &InstanceId,
        timeout: Duration,
    ) -> Option<PathBuf> {
        let wanted = |event: &Event| {
            matches!(&event.what, What::Device(change) if change.id == volume.as_str()
                && change.instance == instance.as_str() && change.state == "appeared")
        };
        self.wait_for(wanted, timeout).await?;
        self.device(volume, instance)
    }

    /// What was logged since `seen`, which follows; empty after the time.
    pub(crate) fn new_events(&self, seen: &mut usize, timeout: Duration) -> Vec<Event> {
        self.core().log.next(seen, timeout)
    }

    /// Where the links of an instance's volumes go, if a machine here is to run it: it is a member of such a group and neither
    /// a light node nor a machine elsewhere.
    pub(crate) fn links_of_member(&self, id: &InstanceId, wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
        let world = self.core().world();
        let spec = &world.instance(id).ok()?.spec;
        let here = spec.light.is_none() && spec.slots.is_none() && spec.group.as_deref().is_some_and(wanted);
        here.then(|| spec.by_id_dir.clone())
    }

    /// The directory with the backing files, `events.jsonl` and `ca.pem`.
    pub fn work_dir(&self) -> &Path {
        &self.core().work_dir
    }
}

/// A volume as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeView {
    /// `available` or `in-use`.
    pub status: &'static str,
    /// Its size.
    pub size_bytes: u64,
    /// Where it is.
    pub attachments: Vec<AttachmentView>,
    /// Its tags.
    pub tags: std::collections::BTreeMap<String, String>,
    /// The file with its bytes.
    pub backing_file: PathBuf,
}

/// An attachment as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentView {
    /// Its instance.
    pub instance: InstanceId,
    /// The device name asked for.
    pub device: String,
    /// `attaching`, `attached`, `detaching` or `busy`.
    pub status: &'static str,
}
