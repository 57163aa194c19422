//! Machines with the real agent for whatever groups launch: each instance that a group launches boots a machine of its own,
//! whose agent has the instance's user data as its configuration, and is off when the instance ends.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::agent::{self, INSTALLED};
use crate::faults::glob;
use crate::machine::{Machine, RootDisk};
use crate::{Event, InstanceId, InstanceState, Sim, SimError, What, lock};

/// How long the end of a fleet goes unnoticed at most while nothing happens.
const LOOK: Duration = Duration::from_millis(50);

type Prepare = dyn Fn(&InstanceId, &mut Machine) -> io::Result<()> + Send;

/// How a fleet boots its machines.
pub struct FleetSettings {
    /// The agent's binary on the host.
    pub agent: PathBuf,
    /// Where root disks and logs go. It must be on a filesystem that overlayfs can write to (tmpfs, ext4, XFS).
    pub dir: PathBuf,
    /// Patterns of the groups whose instances get a machine.
    pub groups: Vec<String>,
    /// The agent's arguments.
    pub arguments: Vec<String>,
    /// What is done on a machine before its agent starts, such as joining a network.
    pub prepare: Box<Prepare>,
}

impl FleetSettings {
    /// The agent as a service that reads its configuration from the user data, for all groups.
    pub fn new(agent: impl Into<PathBuf>, dir: impl Into<PathBuf>) -> Self {
        Self {
            agent: agent.into(),
            dir: dir.into(),
            groups: vec!["*".to_owned()],
            arguments: ["run", "--config", "imds"].map(str::to_owned).into(),
            prepare: Box::new(|_, _| Ok(())),
        }
    }
}

/// A machine that runs.
struct Running {
    machine: Machine,
    agent: Child,
}

struct Shared {
    sim: Sim,
    settings: Mutex<FleetSettings>,
    dir: PathBuf,
    running: Mutex<BTreeMap<InstanceId, Running>>,
    ends: AtomicBool,
}

/// The machines. Dropped, it switches them off.
pub struct Fleet {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Fleet {
    /// Boots a machine for each member that is there, and from now on for each that comes. Its thread is in the mount
    /// namespace of the caller's.
    pub fn start(sim: &Sim, settings: FleetSettings) -> Result<Self, SimError> {
        let dir = settings.dir.clone();
        fs::create_dir_all(&dir).map_err(SimError::io(format!("create {}", dir.display())))?;
        let shared = Arc::new(Shared {
            sim: sim.clone(),
            settings: Mutex::new(settings),
            dir,
            running: Mutex::default(),
            ends: AtomicBool::new(false),
        });
        let follower = Arc::clone(&shared);
        let thread = thread::Builder::new().name("fleet".to_owned()).spawn(move || follower.follow());
        Ok(Self { shared, thread: Some(thread.map_err(SimError::io("start the fleet's thread"))?) })
    }

    /// The instances whose machines run.
    pub fn instances(&self) -> Vec<InstanceId> {
        lock(&self.shared.running).keys().cloned().collect()
    }

    /// What the instance's agent has logged, over all boots; also of an instance that is gone.
    pub fn log(&self, instance: &InstanceId) -> String {
        fs::read_to_string(self.shared.log_path(instance)).unwrap_or_default()
    }

    /// Does something on a machine that runs; none where it does not.
    pub fn on<T>(&self, instance: &InstanceId, act: impl FnOnce(&Machine) -> T) -> Option<T> {
        lock(&self.shared.running).get(instance).map(|running| act(&running.machine))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let all = std::mem::take(&mut *lock(&self.shared.running));
        for (id, running) in all {
            switch_off(&id, running);
        }
    }
}

impl Shared {
    fn log_path(&self, instance: &InstanceId) -> PathBuf {
        self.dir.join(format!("{instance}.log"))
    }

    fn disk_path(&self, instance: &InstanceId) -> PathBuf {
        self.dir.join(instance.as_str())
    }

    /// Boots and switches off as the event log says, until the end.
    fn follow(&self) {
        let mut seen = 0;
        while !self.ends.load(Ordering::SeqCst) {
            for event in self.sim.new_events(&mut seen, LOOK) {
                self.act(&event);
            }
        }
    }

    fn act(&self, event: &Event) {
        let What::Instance(change) = &event.what else { return };
        let id = InstanceId::from(change.id.as_str());
        match change.to.as_str() {
            "pending" | "running" => {
                // The event may be long past: the instance may have ended since, or its machine run already.
                let alive = self.sim.instance_state(&id).is_ok_and(InstanceState::is_up);
                if alive && !lock(&self.running).contains_key(&id) {
                    self.boot(&id);
                }
            }
            _ => {
                let running = lock(&self.running).remove(&id);
                if let Some(running) = running {
                    switch_off(&id, running);
                }
                if change.to == "terminated" {
                    let _ = fs::remove_dir_all(self.disk_path(&id));
                }
            }
        }
    }

    fn boot(&self, id: &InstanceId) {
        let groups = lock(&self.settings).groups.clone();
        let wanted = |group: &str| groups.iter().any(|pattern| glob(pattern, group));
        let Some(by_id_dir) = self.sim.links_of_member(id, wanted) else { return };
        match self.start_machine(id, &by_id_dir) {
            Ok(running) => drop(lock(&self.running).insert(id.clone(), running)),
            // The instance then has no agent; its log says why.
            Err(error) => {
                let _ = fs::write(self.log_path(id), format!("ec2-sim: the machine of {id} does not boot: {error}\n"));
            }
        }
    }

    fn start_machine(&self, id: &InstanceId, by_id_dir: &Path) -> io::Result<Running> {
        let settings = lock(&self.settings);
        let dir = self.disk_path(id);
        let disk = if dir.exists() { RootDisk::open(dir) } else { RootDisk::create(dir)? };
        let mut machine = Machine::boot_with(&disk, by_id_dir, &[(&settings.agent, Path::new(INSTALLED))])?;
        (settings.prepare)(id, &mut machine)?;
        let log: File = OpenOptions::new().create(true).append(true).open(self.log_path(id))?;
        let mut agent = agent::command(&machine, &self.sim, id, &settings.arguments);
        let agent = agent.stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Running { machine, agent })
    }
}

/// As a power cut: no process of the machine goes on.
fn switch_off(id: &InstanceId, running: Running) {
    let Running { machine, mut agent } = running;
    if let Err(error) = machine.switch_off() {
        eprintln!("ec2-sim: the machine of {id}: {error}");
    }
    let _ = agent.kill();
    let _ = agent.wait();
}
