//! A cluster of played nodes in the simulated region, and the real `node-agent roll` beside it.

#![allow(dead_code, unused_imports, unreachable_pub, missing_docs, reason = "each test uses its part")]

#[path = "process.rs"]
pub mod process;
#[path = "witness.rs"]
pub mod witness;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub use ec2_sim::Outcome::{self, Healthy, Held};
use ec2_sim::{
    ActionResult, GroupSpec, HookSpec, InstanceId, InterfaceSpec, Latencies, Launches, LightNode, Quota, RandomFaults,
    Sim, SimConfig, Spread, TemplateChoice, TemplateSpec, TemplateVersion, Transition, What,
};
pub use process::Rolling;

pub const CLUSTER: &str = "stateful-cluster=kafka";
/// A roll that lasts longer is stuck. The test runner ends a test after five minutes, without its output.
pub const STUCK: Duration = Duration::from_mins(4);

pub struct Cluster {
    pub sim: Sim,
    dir: tempfile::TempDir,
    drain: Spread,
    boot: Spread,
}

/// How the cluster behaves.
pub struct Behaviour {
    pub nodes: usize,
    pub drain: Spread,
    pub boot: Spread,
    pub latencies: Latencies,
    pub faults: Option<RandomFaults>,
    pub quotas: Vec<Quota>,
}

impl Default for Behaviour {
    fn default() -> Self {
        let moment = Duration::from_millis(300);
        Behaviour {
            nodes: 3,
            drain: moment.into(),
            boot: moment.into(),
            latencies: Latencies::default(),
            faults: None,
            quotas: Vec::new(),
        }
    }
}

pub fn group(number: usize) -> String {
    format!("kafka-node-{number:02}")
}

pub fn template(number: usize) -> String {
    group(number)
}

/// The network interface that is made for a node.
pub fn interface(number: usize) -> String {
    format!("eni-{number:017x}")
}

fn address(number: usize) -> String {
    format!("10.0.{}.{}", 1 + number / 200, 10 + number % 200)
}

impl Cluster {
    /// A cluster whose nodes all run version 1, which is the groups' own.
    pub fn new(behaviour: &Behaviour) -> Cluster {
        let dir = tempfile::TempDir::new().unwrap();
        let config = SimConfig {
            work_dir: dir.path().join("world"),
            latencies: behaviour.latencies.clone(),
            random_faults: behaviour.faults.clone(),
            quotas: behaviour.quotas.clone(),
            ..SimConfig::default()
        };
        let sim = Sim::start_blocking(config).unwrap();
        let cluster = Cluster { sim, dir, drain: behaviour.drain, boot: behaviour.boot };
        for number in 0..behaviour.nodes {
            cluster.add(number);
        }
        for number in 0..behaviour.nodes {
            cluster.in_service(number);
        }
        cluster
    }

    fn add(&self, number: usize) {
        let interface = InterfaceSpec { id: Some(interface(number)), private_ips: vec![address(number)] };
        self.sim.create_interface(interface).unwrap();
        self.sim
            .create_template(TemplateSpec {
                name: template(number),
                id: None,
                versions: vec![self.version(number, "ami-1", Healthy)],
            })
            .unwrap();
        let hook = |name: &str, transition, default_result| HookSpec {
            name: name.to_owned(),
            transition,
            default_result,
            ..HookSpec::default()
        };
        let mut launches = Launches { retry: Spread::from(Duration::from_secs(1)), ..Launches::default() };
        launches.instance.private_ips = vec![address(number)];
        self.sim
            .create_group(GroupSpec {
                name: group(number),
                hooks: vec![
                    hook("launch-hook", Transition::Launching, ActionResult::Abandon),
                    hook("terminate-hook", Transition::Terminating, ActionResult::Continue),
                ],
                tags: BTreeMap::from([("stateful-cluster".to_owned(), "kafka".to_owned())]),
                maintenance_policy: Some((0, 100)),
                template: Some(TemplateChoice::new(&template(number), "1")),
                launches: Some(launches),
                ..GroupSpec::default()
            })
            .unwrap();
    }

    /// A version whose launches end like this.
    pub fn version(&self, number: usize, image: &str, outcome: Outcome) -> TemplateVersion {
        let node = LightNode { boot: self.boot, drain: self.drain, outcome, ..LightNode::default() };
        TemplateVersion {
            image: image.to_owned(),
            interface: Some(interface(number)),
            launch: Some(node),
            ..TemplateVersion::default()
        }
    }

    /// Adds a version to a node's template, and returns its number.
    pub fn publish_for(&self, number: usize, version: TemplateVersion) -> u64 {
        self.sim.add_template_version(&template(number), version).unwrap()
    }

    /// Adds a version to every template, and returns its number.
    pub fn publish(&self, image: &str, outcome: Outcome) -> u64 {
        let groups = self.groups();
        let add = |number: usize| self.publish_for(number, self.version(number, image, outcome));
        (0..groups.len()).map(add).max().unwrap()
    }

    /// Adds a version to a node's template, and has the node run it.
    pub fn run_version(&self, number: usize, version: TemplateVersion) -> InstanceId {
        let old = self.in_service(number);
        let version = self.publish_for(number, version).to_string();
        self.change(number, |spec| spec.template = Some(TemplateChoice::new(&template(number), &version)));
        self.sim.kill_instance(&old).unwrap();
        self.successor(number, &old)
    }

    /// Waits until another instance of the node than this one is in service.
    pub fn successor(&self, number: usize, old: &InstanceId) -> InstanceId {
        let until = Instant::now() + STUCK;
        loop {
            if let Some(id) = self.now_in_service(number).filter(|id| id != old) {
                return id;
            }
            assert!(Instant::now() < until, "{old} has no successor\n{}", witness::story(&self.sim));
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Begins a roll of these nodes, a list that leaves out the others.
    pub fn roll_of(&self, numbers: &[usize], arguments: &[&str]) -> Rolling {
        let names: Vec<String> = numbers.iter().map(|number| group(*number)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.start(&[], &[&["--asg"], &names[..], &["--yes", "--override", "partial-list"], arguments].concat())
    }

    pub fn groups(&self) -> Vec<String> {
        let mut groups = Vec::new();
        for event in self.sim.events().iter() {
            if let What::Lifecycle(change) = &event.what
                && !groups.contains(&change.group)
            {
                groups.push(change.group.clone());
            }
        }
        groups.sort();
        groups
    }

    /// The instance in service of a node.
    pub fn in_service(&self, number: usize) -> InstanceId {
        self.wait_until(number, "InService")
    }

    pub fn now_in_service(&self, number: usize) -> Option<InstanceId> {
        self.now_in(number, "InService")
    }

    fn now_in(&self, number: usize, wanted: &str) -> Option<InstanceId> {
        self.states(number).into_iter().find(|(_, state)| state == wanted).map(|(id, _)| id)
    }

    /// Every instance that the node has ever had, with its lifecycle state.
    pub fn states(&self, number: usize) -> BTreeMap<InstanceId, String> {
        let mut last = BTreeMap::new();
        for event in self.sim.events().iter() {
            if let What::Lifecycle(change) = &event.what
                && change.group == group(number)
            {
                last.insert(change.instance.clone().into(), change.to.clone());
            }
        }
        last
    }

    /// Lets a held node go into service, as after a repair and `node-agent retry`.
    pub fn repair(&self, id: &InstanceId) {
        self.sim.repair(id).unwrap();
    }

    /// Begins a roll of the cluster.
    pub fn roll(&self, arguments: &[&str]) -> Rolling {
        self.roll_as(&[], arguments)
    }

    /// As [`Cluster::roll`], with credentials that are denied these actions.
    pub fn roll_as(&self, denied: &[&str], arguments: &[&str]) -> Rolling {
        let all = [&["--cluster", CLUSTER, "--yes"], arguments].concat();
        self.start(denied, &all)
    }

    /// Runs `node-agent roll` with exactly these arguments.
    pub fn start(&self, denied: &[&str], arguments: &[&str]) -> Rolling {
        Rolling::start(self.command(denied, arguments), self.dir.path(), STUCK, STUCK)
    }

    /// `node-agent roll` with these arguments, to be run.
    pub fn command(&self, denied: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_node-agent"));
        command.arg("roll").args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("HOME", self.dir.path()).env("USER", "ann").envs(self.sim.operator_env(denied));
        command.stdin(Stdio::null());
        command
    }

    /// Changes a group.
    pub fn change(&self, number: usize, change: impl FnOnce(&mut GroupSpec)) {
        self.sim.change_group(&group(number), change).unwrap();
    }

    /// The files' place, for what a check reads.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Waits until the node is in this lifecycle state, and tells its instance.
    pub fn wait_until(&self, number: usize, state: &str) -> InstanceId {
        let until = Instant::now() + STUCK;
        loop {
            if let Some(id) = self.now_in(number, state) {
                return id;
            }
            assert!(Instant::now() < until, "{} was never {state}\n{}", group(number), witness::story(&self.sim));
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// No roll has left its flag.
    pub fn has_no_flag(&self) {
        for number in 0..self.groups().len() {
            let tags = self.tags(number);
            assert!(!tags.contains_key("node-agent:roll"), "{number}: {tags:?}");
        }
    }

    /// Every node is in service, its group set to this version.
    pub fn all_run(&self, version: &str) {
        for number in 0..self.groups().len() {
            let id = self.in_service(number);
            assert_eq!(self.staged(number), version, "{}", witness::story(&self.sim));
            assert_eq!(self.version_of(&id), version, "{id}\n{}", witness::story(&self.sim));
        }
    }

    /// The version that an instance was launched from.
    pub fn version_of(&self, id: &InstanceId) -> String {
        let mut version = String::new();
        let read = |spec: &mut ec2_sim::InstanceSpec| version = spec.template.as_ref().unwrap().version.to_string();
        self.sim.change_instance(id, read).unwrap();
        version
    }

    /// The tags of a group.
    pub fn tags(&self, number: usize) -> BTreeMap<String, String> {
        let mut tags = BTreeMap::new();
        self.sim.change_group(&group(number), |spec| tags.clone_from(&spec.tags)).unwrap();
        tags
    }

    pub fn set_tag(&self, number: usize, key: &str, value: &str) {
        self.sim.change_group(&group(number), |spec| drop(spec.tags.insert(key.to_owned(), value.to_owned()))).unwrap();
    }

    /// The version that a group would launch.
    pub fn staged(&self, number: usize) -> String {
        let mut version = String::new();
        self.sim
            .change_group(&group(number), |spec| version = spec.template.as_ref().unwrap().version.clone())
            .unwrap();
        version
    }
}
