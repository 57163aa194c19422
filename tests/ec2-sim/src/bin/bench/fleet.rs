//! Many real agents at once against an account's request quotas.
//!
//! Each agent has a machine, an instance with a metadata service, a group and a disk of its own, and makes all its real calls; the
//! disks are [partitions](ec2_sim::partitions) of few loop devices. An instance is gone as soon as its agent has ended, so that a
//! thousand disks need no memory at the same time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ec2_sim::agent::{self, INSTALLED};
use ec2_sim::machine::{Machine, RootDisk};
use ec2_sim::partitions::{Partitions, Slot};
use ec2_sim::sandbox::Sandbox;
use ec2_sim::{
    Event, Fault, GroupSpec, InstanceId, InstanceSpec, Latencies, Quota, Sim, SimConfig, Slots, VolumeId, VolumeSpec,
    What,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::Result;
use crate::config::{self, CONFIG, HOOKS, SCRIPT, launch_hook};
use crate::lab::STUCK;
use crate::measured::number;
use crate::quotas;
use crate::results::FleetResult;
use crate::rows::ec2_latencies;

/// Within this time all agents are started, if the machine can.
const START: Duration = Duration::from_secs(1);
/// What has not ended by then has failed.
const GIVEN_UP: Duration = Duration::from_mins(40);
/// How often it is looked whether agents have ended.
const LOOK: Duration = Duration::from_millis(20);
/// The filesystem of the disks: of the two the one whose mkfs writes less, and memory is what a thousand disks need.
const FILE_SYSTEM: &str = "ext4";
const DISK_BYTES: u64 = 1 << 30;

/// No node can do without: one look at its volume, and one that finds it attached. What an agent asks beyond is its waiting.
const LOOKS_NEEDED: usize = 2;

/// A fleet in a region of its own.
struct Fleet<'a> {
    sandbox: &'a Sandbox,
    sim: Sim,
    dir: PathBuf,
    disks: Arc<Partitions>,
}

/// One node that has not begun.
struct Node {
    instance: InstanceId,
    volume: VolumeId,
    slot: Arc<Slot>,
    machine: Machine,
    log: PathBuf,
}

/// What became of a fleet.
struct Outcome {
    started_within: f64,
    /// When each CONTINUE was taken, in seconds from the first agent's start.
    continued: Vec<f64>,
    endings: BTreeMap<String, usize>,
    /// All calls and the throttled ones, by action.
    calls: BTreeMap<String, (usize, usize)>,
}

/// Measures fleets of these sizes, and first a single node without quotas.
pub(crate) fn measure(sandbox: &Sandbox, sizes: &[usize]) -> Result<Vec<FleetResult>> {
    allow_many_files()?;
    let single = Fleet::create(sandbox, "single", 1, Vec::new())?.run(1)?;
    if single.continued.is_empty() {
        return Err(format!("a single node fails: {:?}", single.endings).into());
    }
    let mut results = Vec::new();
    for &size in sizes {
        eprintln!("fleet: {size} agents");
        let outcome = Fleet::create(sandbox, &format!("fleet-{size}"), size, quotas::account())?.run(size)?;
        results.push(result(size, &single, outcome));
    }
    Ok(results)
}

/// A socket for each metadata service, and each agent's connections.
fn allow_many_files() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

fn result(agents: usize, single: &Outcome, outcome: Outcome) -> FleetResult {
    let sum = |calls: &BTreeMap<String, (usize, usize)>| calls.values().map(|(all, _)| all).sum::<usize>();
    let needed = single.calls.iter().map(|(action, (count, _))| {
        let count = if action == "ec2:DescribeVolumes" { LOOKS_NEEDED.min(*count) } else { *count };
        (action.clone(), count * agents)
    });
    let (by_quota, limit) = quotas::floor(&needed.collect());
    let alone = single.continued.first().copied().unwrap_or_default();
    let (floor, limit) = if by_quota > alone { (by_quota, limit) } else { (alone, "a single node's time".to_owned()) };
    let last_continue = outcome.continued.iter().copied().fold(0.0, f64::max);
    let throttled: usize = outcome.calls.values().map(|(_, throttled)| throttled).sum();
    let (all, single_calls) = (sum(&outcome.calls), number(sum(&single.calls)));
    let calls_a_node = number(all) / number(agents);
    FleetResult {
        agents,
        started_within: outcome.started_within,
        last_continue,
        single: alone,
        floor,
        limit,
        ratio: last_continue / floor,
        calls_a_node,
        single_calls,
        calls_ratio: calls_a_node / single_calls,
        throttled_share: number(throttled) / number(all),
        failures: agents - outcome.continued.len(),
        endings: outcome.endings,
        calls: outcome.calls,
    }
}

impl<'a> Fleet<'a> {
    fn create(sandbox: &'a Sandbox, name: &str, count: usize, quotas: Vec<Quota>) -> Result<Self> {
        let dir = sandbox.dir().join(name);
        let latencies = Latencies { shutting_down: Duration::ZERO, ..ec2_latencies() };
        let config = SimConfig { work_dir: dir.join("aws"), latencies, quotas, ..SimConfig::default() };
        let sim = Sim::start_blocking(config)?;
        let disks = Partitions::create(&dir.join("disks"), count, DISK_BYTES)?;
        Ok(Self { sandbox, sim, dir, disks })
    }

    /// Boots the machines, starts their agents within a second, waits for all ends, and removes everything.
    fn run(self, count: usize) -> Result<Outcome> {
        let nodes = (0..count).map(|number| self.boot(number)).collect::<Result<Vec<_>>>()?;
        for node in &nodes {
            let waits = |event: &Event| matches!(&event.what, What::Lifecycle(change) if change.instance == node.instance.as_str() && change.to == "Pending:Wait");
            self.sim.wait_for_blocking(waits, STUCK).ok_or("an instance does not come to Pending:Wait")?;
        }
        let (before, began, clock) = (self.sim.events().len(), Instant::now(), self.clock()?);
        let mut running = Vec::new();
        for (index, node) in nodes.into_iter().enumerate() {
            let due = began + START.mul_f64(number(index) / number(count));
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let child = self.start(&node)?;
            running.push((node, child));
        }
        let started_within = began.elapsed().as_secs_f64();
        let endings = self.wait_for_all(running, began)?;
        let outcome = self.outcome(before, started_within, endings, began.duration_since(clock).as_secs_f64());
        let dir = self.dir.clone();
        drop(self);
        fs::remove_dir_all(dir)?;
        Ok(outcome)
    }

    /// When the clock of the event log stood at zero.
    fn clock(&self) -> Result<Instant> {
        let now = Instant::now();
        self.sim.create_volume(VolumeSpec { size_bytes: 512, ..VolumeSpec::default() })?;
        let t = self.sim.events().last().map_or(0.0, |event| event.t);
        Ok(now.checked_sub(Duration::from_secs_f64(t)).unwrap_or(now))
    }

    fn boot(&self, number: usize) -> Result<Node> {
        let group = format!("fleet-{number:04}");
        self.sim.create_group(GroupSpec { name: group.clone(), hooks: vec![launch_hook()], ..GroupSpec::default() })?;
        let dir = self.dir.join(&group);
        let by_id_dir = dir.join("by-id");
        let slot = Arc::new(self.disks.slot(number, &by_id_dir)?);
        let slots: Arc<dyn Slots> = Arc::<Slot>::clone(&slot);
        let spec = InstanceSpec { group: Some(group.clone()), slots: Some(slots), ..InstanceSpec::default() };
        let instance = self.sim.launch(spec)?;
        let volume = self.sim.create_volume(VolumeSpec { size_bytes: DISK_BYTES, ..VolumeSpec::default() })?;
        let disk = RootDisk::create(dir.join("disk"))?;
        let installed = [(self.sandbox.binary(), Path::new(INSTALLED))];
        let machine = Machine::boot_with(&disk, &by_id_dir, &installed)?;
        slot.prepare(&machine)?;
        machine.write(CONFIG, config::node(&group, std::slice::from_ref(&volume), FILE_SYSTEM, 0))?;
        machine.write(SCRIPT, HOOKS)?;
        Ok(Node { instance, volume, slot, machine, log: dir.join("agent.log") })
    }

    fn start(&self, node: &Node) -> Result<Child> {
        let mut command = agent::command(&node.machine, &self.sim, &node.instance, &["run", "--once"]);
        let log = fs::File::create(&node.log)?;
        Ok(command.stdout(log.try_clone()?).stderr(log).spawn()?)
    }

    /// How the agents that failed have ended. An instance whose agent has ended is gone at once.
    fn wait_for_all(&self, mut running: Vec<(Node, Child)>, began: Instant) -> Result<BTreeMap<String, usize>> {
        let mut endings = BTreeMap::new();
        while !running.is_empty() {
            let late = began.elapsed() > GIVEN_UP;
            let mut left = Vec::new();
            for (node, mut child) in running {
                if late {
                    child.kill()?;
                }
                match child.try_wait()? {
                    None if late => {
                        child.wait()?;
                        *endings.entry("not ended".to_owned()).or_insert(0) += 1;
                    }
                    None => left.push((node, child)),
                    Some(status) => {
                        if let Some(ending) = ending(status, &node.log) {
                            *endings.entry(ending).or_insert(0) += 1;
                        }
                        self.end(node)?;
                    }
                }
            }
            running = left;
            thread::sleep(LOOK);
        }
        Ok(endings)
    }

    fn end(&self, node: Node) -> Result<()> {
        let Node { instance, volume, slot, machine, .. } = node;
        drop(machine);
        self.sim.kill_instance(&instance)?;
        let until = Instant::now() + STUCK;
        // The last of the machine's processes takes the mount with it.
        while !slot.is_gone(&volume) {
            if Instant::now() > until {
                return Err(format!("the disk of {instance} is still in use").into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(slot.wipe()?)
    }

    /// What the event log tells. `start` is the first agent's start by its clock.
    fn outcome(&self, before: usize, started_within: f64, endings: BTreeMap<String, usize>, start: f64) -> Outcome {
        let mut calls = BTreeMap::<String, (usize, usize)>::new();
        let mut continued = Vec::new();
        for event in &self.sim.events()[before..] {
            let What::Api(call) = &event.what else { continue };
            let (all, throttled) = calls.entry(call.action.clone()).or_default();
            *all += 1;
            if call.fault.as_deref() == Some(Fault::Throttling.name()) {
                *throttled += 1;
            }
            if call.action == "autoscaling:CompleteLifecycleAction" && call.done {
                continued.push(event.t - start);
            }
        }
        Outcome { started_within, continued, endings, calls }
    }
}

/// How an agent that failed has ended: its exit code, and the code of its failure.
fn ending(status: ExitStatus, log: &Path) -> Option<String> {
    if status.success() {
        return None;
    }
    let log = fs::read_to_string(log).unwrap_or_default();
    let code = log.lines().rev().find_map(|line| line.split_once("code=")?.1.split_whitespace().next());
    Some(format!("{status}, {}", code.unwrap_or("no code")))
}
