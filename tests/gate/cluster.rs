//! A whole cluster: each node has a machine, a volume and the real agent, and so has the node that its group launches in its place.

use std::fmt::{self, Write};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use ec2_sim::{Fault, FaultRule, GroupSpec, InstanceSpec, Latencies, Launches, SimConfig, Spread, VolumeId, What};

use super::common::{CLUSTER, HOOKS, config_of, drained_at, tags, uptime};
use super::departure::{hooks, in_service};
use super::support::{GROUP, Instance, Running, World, volume_at};

/// A run that takes longer than this is stuck.
const STUCK: Duration = Duration::from_mins(8);

/// One node of the cluster.
struct Node {
    group: String,
    ip: String,
    volume: VolumeId,
    by_id: PathBuf,
    service: Option<Running>,
    instance: Instance,
    /// When it was told to go, and how its departure went.
    absence: Option<Absence>,
}

/// How a node left and came back, in seconds since the boot of this host.
#[derive(Clone, Default)]
pub(crate) struct Absence {
    pub(crate) group: String,
    pub(crate) told: f64,
    pub(crate) drained: f64,
    /// When the node that was launched in its place came into service.
    pub(crate) back: f64,
    /// What its agent logged.
    pub(crate) log: String,
}

impl fmt::Debug for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Absence { group, told, drained, back, .. } = self;
        write!(f, "{group}: drained {:.1} s after its order, back {:.1} s later", drained - told, back - drained)
    }
}

/// How a cluster behaves.
pub(crate) struct Behaviour {
    pub(crate) seed: u64,
    pub(crate) latencies: Latencies,
    /// From the loss of an instance until the launch in its place, and between launches that fail.
    pub(crate) launch: (Spread, Spread),
    /// How long the hooks of a node take.
    pub(crate) configure: Duration,
    pub(crate) drain: Duration,
    /// The calls whose answers are older than the world, by action, how many such calls before, how many changes.
    pub(crate) stale: Vec<(&'static str, u32, usize)>,
    /// What the nodes' role may not do.
    pub(crate) denied: Vec<String>,
    /// `[cluster]`
    pub(crate) cluster: String,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            seed: 0,
            latencies: Latencies::default(),
            launch: (Spread::default(), Spread::from(Duration::from_secs(1))),
            configure: Duration::ZERO,
            drain: Duration::ZERO,
            stale: Vec::new(),
            denied: Vec::new(),
            cluster: CLUSTER.to_owned(),
        }
    }
}

/// The cluster.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    behaviour: Behaviour,
    world: World,
    /// When the simulated world began.
    began: f64,
    /// How many of its events were looked at.
    seen: usize,
}

impl Cluster {
    /// A cluster of which all nodes are in service.
    pub(crate) fn new(size: usize, behaviour: Behaviour) -> Cluster {
        let began = uptime();
        let world = World::with(|config: &mut SimConfig| {
            config.seed = Some(behaviour.seed);
            config.latencies = Latencies { shutting_down: Duration::from_millis(500), ..behaviour.latencies.clone() };
        });
        let mut cluster = Cluster { nodes: Vec::new(), behaviour, world, began, seen: 0 };
        for number in 0..size {
            cluster.add(number);
        }
        for &(action, before, back) in &cluster.behaviour.stale {
            cluster.world.sim.add_fault(FaultRule::once(action, Fault::Stale { back }).after(before)).unwrap();
        }
        cluster.seen = cluster.world.events().len();
        cluster
    }

    fn add(&mut self, number: usize) {
        let sim = &self.world.sim;
        let (group, ip) = (format!("kafka-node-{number:02}"), format!("10.0.1.{}", 10 + number));
        if group != GROUP {
            sim.create_group(GroupSpec { name: group.clone(), ..GroupSpec::default() }).unwrap();
        }
        let by_id = self.world.folder("links-");
        let spec = InstanceSpec {
            by_id_dir: by_id.clone(),
            private_ips: vec![ip.clone()],
            denied: self.behaviour.denied.clone(),
            ..InstanceSpec::default()
        };
        sim.change_group(&group, |group| (group.hooks, group.tags) = (hooks(), tags())).unwrap();
        let id = sim.launch(InstanceSpec { group: Some(group.clone()), ..spec.clone() }).unwrap();
        let (after, retry) = self.behaviour.launch;
        sim.change_group(&group, |group| group.launches = Some(Launches { instance: spec, after, retry })).unwrap();
        let volume = self.world.volume(1);
        let instance = self.world.boot(id, by_id.clone());
        let mut node = Node { group, ip, volume, by_id, service: None, instance, absence: None };
        self.prepare(&node);
        node.service = Some(in_service(&node.instance));
        self.nodes.push(node);
    }

    /// Puts the hooks and the configuration onto a node's machine.
    fn prepare(&self, node: &Node) {
        let (configure, drain) = (self.behaviour.configure.as_secs_f64(), self.behaviour.drain.as_secs_f64());
        let slow = HOOKS.replace("echo \"configure", &format!("sleep {configure}; echo \"configure"));
        let slow = slow.replace("echo \"drain", &format!("sleep {drain}; echo \"drain"));
        node.instance.hooks(if configure + drain > 0.0 { &slow } else { HOOKS });
        let volume = volume_at("/mydata", &node.volume, "xfs");
        node.instance.configure(config_of(&node.group, &node.ip, &[volume], &self.behaviour.cluster));
    }

    /// Tells these nodes to go, each after this time, and waits until each is back.
    pub(crate) fn tell(&mut self, orders: &[(Duration, usize)]) -> Vec<Absence> {
        let began = Instant::now();
        let mut left = orders.to_vec();
        while !left.is_empty() || self.nodes.iter().any(|node| node.absence.as_ref().is_some_and(|it| it.back == 0.0)) {
            assert!(began.elapsed() < STUCK, "stuck\n{}", self.story());
            left.retain(|&(after, number)| {
                let is_due = began.elapsed() >= after;
                if is_due {
                    let node = &mut self.nodes[number];
                    node.absence = Some(Absence { group: node.group.clone(), told: uptime(), ..Absence::default() });
                    self.world.sim.terminate_in_group(&node.instance.id).unwrap();
                }
                !is_due
            });
            self.follow();
            thread::sleep(Duration::from_millis(20));
        }
        self.nodes.iter().filter_map(|node| node.absence.clone()).collect()
    }

    /// Follows what the groups do: boots the machines that they launch.
    fn follow(&mut self) {
        let events = self.world.events();
        for event in &events[self.seen..] {
            match &event.what {
                What::Activity(activity) => {
                    if let Some(id) = &activity.instance {
                        self.replace(&activity.group, id);
                    }
                }
                What::Lifecycle(change) if change.to == "InService" => {
                    let mine = |node: &&mut Node| node.group == change.group;
                    if let Some(absence) = self.nodes.iter_mut().find(mine).and_then(|node| node.absence.as_mut()) {
                        absence.back = self.began + event.t;
                    }
                }
                _ => {}
            }
        }
        self.seen = events.len();
    }

    /// The old agent has left; the new machine boots.
    fn replace(&mut self, group: &str, id: &str) {
        let number = self.nodes.iter().position(|node| node.group == group).unwrap();
        let node = &mut self.nodes[number];
        let old = node.service.take().unwrap().end();
        assert_eq!(old.code, Some(0), "{group}\n{}", old.log);
        let drained = drained_at(&node.instance).unwrap_or_else(|| panic!("{group} never drained\n{}", old.log));
        let absence = node.absence.as_mut().unwrap();
        (absence.drained, absence.log) = (drained, old.log);
        node.instance = self.world.boot(id.into(), node.by_id.clone());
        self.prepare(&self.nodes[number]);
        let node = &mut self.nodes[number];
        node.service = Some(node.instance.start_with(&["run"]));
    }

    /// The logs of all nodes, for a test that fails.
    pub(crate) fn story(&self) -> String {
        let mut story = String::new();
        for node in &self.nodes {
            let log = node.service.as_ref().map(Running::log).unwrap_or_default();
            writeln!(story, "{} {}: {:?}\n{log}", node.group, node.instance.id, node.absence).unwrap();
        }
        story
    }
}
