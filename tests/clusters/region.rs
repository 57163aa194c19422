//! The simulated region of a cluster: for each node a group, a volume, a network interface and a machine with the real agent in the
//! node's network namespace.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use ec2_sim::fleet::{Fleet, FleetSettings};
use ec2_sim::machine::Machine;
use ec2_sim::{
    ActionResult, GroupSpec, HookSpec, InstanceId, InterfaceSpec, Latencies, Launches, Sim, SimConfig, Spread,
    TemplateChoice, TemplateSpec, TemplateVersion, Transition, VolumeSpec, What, agent,
};

use super::kind::Kind;
use super::network::{self, OUTSIDE, address};
use super::room::{AGENT, DIR};
use super::writer::Writer;

pub const NODES: [usize; 3] = [0, 1, 2];
/// What takes longer is stuck; a machine under load must not fail a test.
pub const STUCK: Duration = Duration::from_mins(4);
/// From the loss of an instance to the first try to launch another one.
const RELAUNCH: Spread = Spread::between(Duration::from_secs(2), Duration::from_secs(2));

/// A time that is over, for the setting of that name.
pub const LONG_AGO: &str = "2020-01-01T00:00:00Z";
const FAR_AHEAD: &str = "2999-01-01T00:00:00Z";

/// A cluster. Its machines go before its region, so that no device is left to the kernel.
pub struct Cluster<K: Kind> {
    pub fleet: Fleet,
    pub sim: Sim,
    volumes: RefCell<[String; 3]>,
    kind: PhantomData<K>,
}

/// The node's id in configurations.
pub fn id(node: usize) -> String {
    format!("{node:02}")
}

fn volume(node: usize) -> String {
    format!("vol-{node:017x}")
}

impl<K: Kind> Cluster<K> {
    /// Three nodes that are launched, with blank volumes and these settings of the hook.
    pub fn launch(settings: &[(&str, &str)]) -> Cluster<K> {
        assert!(Path::new(K::NEEDS).exists(), "{} is not installed: .ci/tools clusters", K::NEEDS);
        K::prepare();
        network::build(NODES.len());
        let config = SimConfig {
            work_dir: Path::new(DIR).join("region"),
            address: OUTSIDE,
            latencies: Latencies { shutting_down: Duration::from_secs(1), ..Latencies::default() },
            ..SimConfig::default()
        };
        let sim = Sim::start_blocking(config).unwrap();
        let (region, machines) = (sim.clone(), FleetSettings::new(AGENT, Path::new(DIR).join("machines")));
        let prepare = move |id: &InstanceId, machine: &mut Machine| {
            let node = node_of(&region, id).ok_or_else(|| io::Error::other(format!("{id} is no node")))?;
            machine.join_network(network::of(node));
            K::install(machine)
        };
        let fleet = Fleet::start(&sim, FleetSettings { prepare: Box::new(prepare), ..machines }).unwrap();
        let volumes = RefCell::new(NODES.map(volume));
        let cluster = Cluster { fleet, sim, volumes, kind: PhantomData };
        for node in NODES {
            cluster.add(node, settings);
        }
        cluster
    }

    /// Three nodes that have begun a cluster and are in service.
    pub fn up() -> Cluster<K> {
        let cluster = Self::launch(&[]);
        for node in NODES {
            cluster.in_service(node);
        }
        cluster
    }

    fn add(&self, node: usize, settings: &[(&str, &str)]) {
        self.sim.create_volume(VolumeSpec { id: Some(volume(node)), ..VolumeSpec::default() }).unwrap();
        let interface = Some(format!("eni-{node:017x}"));
        let private_ips = vec![address(node).to_string()];
        self.sim.create_interface(InterfaceSpec { id: interface, private_ips }).unwrap();
        let versions = vec![self.version(node, 1, settings)];
        self.sim.create_template(TemplateSpec { name: group::<K>(node), id: None, versions }).unwrap();
        let hook = |name: &str, transition, default_result| HookSpec {
            name: name.to_owned(),
            transition,
            default_result,
            ..HookSpec::default()
        };
        let spec = GroupSpec {
            name: group::<K>(node),
            hooks: vec![
                hook("launch-hook", Transition::Launching, ActionResult::Abandon),
                hook("terminate-hook", Transition::Terminating, ActionResult::Continue),
            ],
            tags: BTreeMap::from([("stateful-cluster".to_owned(), K::NAME.to_owned())]),
            maintenance_policy: Some((0, 100)),
            template: Some(TemplateChoice::new(&group::<K>(node), "1")),
            launches: Some(Launches { after: RELAUNCH, retry: RELAUNCH, ..Launches::default() }),
            ..GroupSpec::default()
        };
        self.sim.create_group(spec).unwrap();
    }

    /// Publishes a version of every launch template whose hook has these settings, and returns its number.
    pub fn publish(&self, number: u64, settings: &[(&str, &str)]) {
        for node in NODES {
            let added = self.sim.add_template_version(&group::<K>(node), self.version(node, number, settings)).unwrap();
            assert_eq!(added, number);
        }
    }

    /// Changes the hook of a version that was published, as somebody who repairs it.
    pub fn mend(&self, number: u64, settings: &[(&str, &str)]) {
        self.sim.put_object("hooks", &format!("{}-{number}.sh", K::NAME), hooks::<K>(settings));
    }

    /// The node has a blank volume in place of its own from the next published version on.
    pub fn lose_volume(&self, node: usize) {
        let lost = volume(node + 100);
        self.sim.create_volume(VolumeSpec { id: Some(lost.clone()), ..VolumeSpec::default() }).unwrap();
        self.volumes.borrow_mut()[node] = lost;
    }

    /// Sets a node's group to a version.
    pub fn set_version(&self, node: usize, number: u64) {
        let choice = TemplateChoice::new(&group::<K>(node), &number.to_string());
        self.sim.change_group(&group::<K>(node), |spec| spec.template = Some(choice)).unwrap();
    }

    /// Says whether the node's group launches.
    pub fn set_launching(&self, node: usize, launches: bool) {
        let change = |spec: &mut GroupSpec| {
            spec.suspended.clear();
            if !launches {
                spec.suspended.insert("Launch".to_owned(), "User suspended at the test's will".to_owned());
            }
        };
        self.sim.change_group(&group::<K>(node), change).unwrap();
    }

    /// Ends the node's instance as a power cut does, and returns it. Its group launches another one.
    pub fn kill(&self, node: usize) -> InstanceId {
        let (instance, _) = self.member(node).unwrap();
        self.sim.kill_instance(&instance).unwrap();
        instance
    }

    /// Ends the node's server by SIGKILL, and nothing else. Returns once its last thread has closed its sockets.
    pub fn kill_server(&self, node: usize) {
        let kill = format!(
            "pid=$(cat /run/{}.pid)
             kill -9 $pid
             until [ ! -e /proc/$pid ] || [ \"$(awk '/^(State|Threads):/ {{ print $2 }}' /proc/$pid/status | xargs)\" = 'Z 1' ]
             do sleep 0.05; done",
            K::NAME
        );
        self.shell(node, &kill);
    }

    fn version(&self, node: usize, number: u64, settings: &[(&str, &str)]) -> TemplateVersion {
        let key = format!("{}-{number}.sh", K::NAME);
        self.sim.put_object("hooks", &key, hooks::<K>(settings));
        TemplateVersion {
            image: format!("ami-{number:017x}"),
            user_data: Some(configuration::<K>(node, &self.volumes.borrow()[node], &key).into_bytes()),
            interface: Some(format!("eni-{node:017x}")),
            ..TemplateVersion::default()
        }
    }

    /// The instance that came last, with its lifecycle state.
    pub fn member(&self, node: usize) -> Option<(InstanceId, String)> {
        let mut last = None;
        for event in self.sim.events().iter() {
            if let What::Lifecycle(change) = &event.what
                && change.group == group::<K>(node)
                && !(change.to.starts_with("Terminat") && last.as_ref().is_some_and(|(id, _)| *id != change.instance))
            {
                last = Some((change.instance.clone(), change.to.clone()));
            }
        }
        last.map(|(id, state)| (id.into(), state))
    }

    /// Waits until the node's agent holds, and returns what it has logged.
    pub fn held(&self, node: usize) -> String {
        self.wait(&format!("{} is held", id(node)), || {
            let (instance, _) = self.member(node)?;
            let (_, said) = self.fleet.on(&instance, |_| ()).map(|()| self.type_in(node, &["status"]))?;
            said.contains("HELD").then(|| self.fleet.log(&instance))
        })
    }

    /// Waits until another instance of the node than this one is in service, and returns it.
    pub fn successor(&self, node: usize, old: &InstanceId) -> InstanceId {
        self.wait(&format!("a successor of {old} in service"), || {
            self.member(node).filter(|(id, state)| id != old && state == "InService").map(|(id, _)| id)
        })
    }

    /// Waits until the node's last instance is in service, and returns it.
    pub fn in_service(&self, node: usize) -> InstanceId {
        self.wait(&format!("{} in service", id(node)), || {
            self.member(node).filter(|(_, state)| state == "InService").map(|(id, _)| id)
        })
    }

    /// Waits until this is there.
    pub fn wait<T>(&self, wanted: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(began.elapsed() < STUCK, "never: {wanted}\n{}", self.story());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the agents of the nodes' last instances have logged.
    pub fn story(&self) -> String {
        let told = |node| {
            let (instance, state) = self.member(node)?;
            let server = self.on(node, |machine| machine.shell(format!("tail -n 5 /var/log/{}.log", K::NAME)));
            Some(format!("== {} {instance} {state}\n{}\n{server:?}\n", id(node), self.fleet.log(&instance)))
        };
        NODES.into_iter().filter_map(told).collect()
    }

    /// Does something on the machine of the node's last instance, which must run.
    pub fn on<T>(&self, node: usize, act: impl FnOnce(&Machine) -> T) -> Option<T> {
        self.fleet.on(&self.member(node)?.0, act)
    }

    /// What a shell command prints on the node.
    pub fn shell(&self, node: usize, script: &str) -> String {
        self.on(node, |machine| machine.shell(script)).unwrap_or_else(|| panic!("{node} is off")).unwrap()
    }

    /// What `node-agent` prints on the node, and its exit code.
    pub fn type_in(&self, node: usize, arguments: &[&str]) -> (Option<i32>, String) {
        let (instance, _) = self.member(node).unwrap();
        let run = |machine: &Machine| agent::command(machine, &self.sim, &instance, arguments).output().unwrap();
        let output = self.fleet.on(&instance, run).unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), said)
    }

    /// Starts `node-agent` on the node.
    pub fn start(&self, node: usize, arguments: &[&str]) -> Child {
        let (instance, _) = self.member(node).unwrap();
        let start = |machine: &Machine| agent::command(machine, &self.sim, &instance, arguments).spawn().unwrap();
        self.fleet.on(&instance, start).unwrap()
    }

    /// What must never change of a node's data: the filesystem, the folder, and whose data it is.
    pub fn data(&self, node: usize) -> String {
        self.shell(
            node,
            &format!(
                "blkid -p -s UUID -o value $(findmnt -n -o SOURCE /mydata); stat -c %i /mydata/{}; cat {}",
                K::NAME,
                K::IDENTITY.join(" ")
            ),
        )
    }

    /// A client that writes to all nodes.
    pub fn writer(&self) -> Writer {
        Writer::start::<K>(addresses())
    }

    /// Ends the client; every write that was acknowledged must be there, as each node tells.
    pub fn loses_nothing(&self, writer: Writer) -> usize {
        let written = writer.stop();
        for node in NODES {
            let began = Instant::now();
            let there = loop {
                match K::read_all(address(node)) {
                    Ok(there) => break there,
                    Err(error) => assert!(began.elapsed() < STUCK, "{node} is not read: {error}\n{}", self.story()),
                }
            };
            let lost: Vec<_> = written.difference(&there).collect();
            assert!(lost.is_empty(), "{} of {} writes are lost on {node}: {lost:?}", lost.len(), written.len());
        }
        written.len()
    }
}

fn addresses() -> Vec<Ipv4Addr> {
    NODES.map(address).into()
}

pub fn group<K: Kind>(node: usize) -> String {
    format!("{}-node-{}", K::NAME, id(node))
}

fn node_of(sim: &Sim, instance: &InstanceId) -> Option<usize> {
    let mut ip = None;
    sim.change_instance(instance, |spec| ip = spec.private_ips.first().cloned()).ok()?;
    NODES.into_iter().find(|node| Some(address(*node).to_string()) == ip)
}

/// The shipped hook with these settings, changed as a user changes them: at its top.
pub fn hooks<K: Kind>(settings: &[(&str, &str)]) -> String {
    let own = K::settings();
    let own = own.iter().map(|(name, value)| (*name, value.as_str()));
    let always = [("NEW_CLUSTER_BEFORE", FAR_AHEAD)];
    let mut text = K::HOOKS.to_owned();
    for (name, value) in own.chain(always).chain(settings.iter().copied()) {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}="))).map(str::to_owned);
        let line = line.unwrap_or_else(|| panic!("{} has no setting {name}", K::NAME));
        text = text.replacen(&line, &format!("{name}=\"{value}\""), 1);
    }
    text
}

fn configuration<K: Kind>(node: usize, volume: &str, key: &str) -> String {
    format!(
        r#"[node]
id = "{id}"
ip = "{address}"

[lifecycle]
asg_name = "{group}"
hook_name = "launch-hook"
terminate_hook_name = "terminate-hook"

[cluster]
tag = "stateful-cluster={name}"

[[volume]]
id = "{volume}"
mount_path = "/mydata"
file_system = "ext4"
owner = "{user}"
group = "{user}"
detach_on_terminate = true

[hooks]
script_source = "s3://hooks/{key}"
"#,
        id = id(node),
        address = address(node),
        group = group::<K>(node),
        name = K::NAME,
        user = K::USER,
    )
}
