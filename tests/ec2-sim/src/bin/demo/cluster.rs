//! The simulated region of three nodes: a group of one for each, whose instances boot machines with the real agent; and the
//! operator's machine, on which `node-agent roll` runs.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ec2_sim::fleet::{Fleet, FleetSettings};
use ec2_sim::machine::{Machine, RootDisk};
use ec2_sim::sandbox::Sandbox;
use ec2_sim::{
    ActionResult, Event, GroupSpec, HookSpec, InstanceId, InterfaceSpec, Latencies, Launches, Sim, SimConfig, Spread,
    TemplateChoice, TemplateSpec, TemplateVersion, Transition, VolumeSpec, What, agent,
};

use crate::data::Data;
use crate::terminal::type_in;
use crate::{Result, image};

/// The nodes' ids.
pub(crate) const NODES: [&str; 3] = ["00", "01", "02"];
/// The tag by which the roll finds the groups.
pub(crate) const CLUSTER: &str = "stateful-cluster=kafka";

const HOOKS: &str = include_str!("cluster.sh");
const BROKERS: &str = include_str!("brokers.sh");

/// How long a dying instance keeps its volume and its network interface.
const DYING: Duration = Duration::from_secs(1);
/// How long after the loss of an instance its group launches another one. A launch that fails because the network interface is in
/// use is tried again after the same time, and then after twice that time: a node takes up to twelve seconds to leave.
const RELAUNCH: Spread = Spread::between(Duration::from_secs(3), Duration::from_secs(3));
/// A boot that takes longer is stuck.
const STUCK: Duration = Duration::from_mins(1);

/// The group of a node, and its launch template.
pub(crate) fn group(node: &str) -> String {
    format!("kafka-node-{node}")
}

/// The cluster. When it is dropped, the machines are switched off before the region ends, so that no device is left to the kernel.
pub(crate) struct Cluster {
    fleet: Fleet,
    pub(crate) sim: Sim,
    operator: Machine,
}

impl Cluster {
    /// Three nodes in service, of version 1.
    pub(crate) fn new(sandbox: &Sandbox) -> Result<Cluster> {
        let sim = Sim::start_blocking(SimConfig {
            work_dir: sandbox.dir().join("region"),
            latencies: Latencies { shutting_down: DYING, ..Latencies::default() },
            ..SimConfig::default()
        })?;
        let prepare = Box::new(|_: &InstanceId, machine: &mut Machine| image::install(machine));
        let machines = FleetSettings::new(sandbox.binary(), sandbox.dir().join("machines"));
        let fleet = Fleet::start(&sim, FleetSettings { prepare, ..machines })?;
        let cluster = Cluster { fleet, sim, operator: operator(sandbox)? };
        for node in NODES {
            cluster.add(node)?;
        }
        for node in NODES {
            cluster.wait_until_in_service(node, None)?;
        }
        Ok(cluster)
    }

    /// Makes what a node needs, and its group, which launches the first instance.
    fn add(&self, node: &str) -> Result<()> {
        self.sim.create_volume(VolumeSpec { id: Some(volume(node)), ..VolumeSpec::default() })?;
        self.sim.create_interface(InterfaceSpec { id: Some(interface(node)), private_ips: vec![address(node)] })?;
        self.sim.create_template(TemplateSpec { name: group(node), id: None, versions: vec![version(node, 1)] })?;
        let hook = |name: &str, transition, default_result| HookSpec {
            name: name.to_owned(),
            transition,
            default_result,
            ..HookSpec::default()
        };
        self.sim.create_group(GroupSpec {
            name: group(node),
            hooks: vec![
                hook("launch-hook", Transition::Launching, ActionResult::Abandon),
                hook("terminate-hook", Transition::Terminating, ActionResult::Continue),
            ],
            tags: CLUSTER.split_once('=').into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            maintenance_policy: Some((0, 100)),
            template: Some(TemplateChoice::new(&group(node), "1")),
            launches: Some(Launches { after: RELAUNCH, retry: RELAUNCH, ..Launches::default() }),
            ..GroupSpec::default()
        })?;
        Ok(())
    }

    /// Publishes another version of every launch template.
    pub(crate) fn publish(&self, number: u64) -> Result<()> {
        for node in NODES {
            self.sim.add_template_version(&group(node), version(node, number))?;
        }
        Ok(())
    }

    /// `node-agent roll` on the operator's machine.
    pub(crate) fn roll(&self, arguments: &[&str]) -> Command {
        let mut command = self.operator.command(agent::INSTALLED);
        command.arg("roll").args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", "/root").env("USER", "operator").envs(self.sim.operator_env(&[])).stdin(Stdio::null());
        command
    }

    /// Does something on the machine of an instance.
    pub(crate) fn on<T>(&self, instance: &InstanceId, act: impl FnOnce(&Machine) -> T) -> Result<T> {
        self.fleet.on(instance, act).ok_or_else(|| format!("the machine of {instance} does not run").into())
    }

    /// What the agent of an instance has logged; also of one that is gone.
    pub(crate) fn log(&self, instance: &InstanceId) -> String {
        self.fleet.log(instance)
    }

    /// Shows a command of the agent as it is typed in a session on a node's machine, and returns what it prints.
    pub(crate) fn type_in(&self, instance: &InstanceId, arguments: &[&str]) -> Result<String> {
        self.on(instance, |machine| type_in(arguments, &mut agent::command(machine, &self.sim, instance, arguments)))?
    }

    /// Waits until an instance of the node has come into service: this one, or any.
    pub(crate) fn wait_until_in_service(&self, node: &str, instance: Option<&InstanceId>) -> Result<()> {
        let is_meant = |id: &str| instance.is_none_or(|wanted| wanted.as_str() == id);
        let came = |event: &Event| matches!(&event.what, What::Lifecycle(change) if change.group == group(node) && change.to == "InService" && is_meant(&change.instance));
        if self.sim.wait_for_blocking(came, STUCK).is_some() {
            return Ok(());
        }
        let log = self.member(node).map(|member| self.log(&member.instance)).unwrap_or_default();
        Err(format!("{node} is not in service after {} s; its agent's log:\n{log}", STUCK.as_secs()).into())
    }

    /// The instance that the node's group has launched last, in its last state before it leaves.
    pub(crate) fn member(&self, node: &str) -> Result<Member> {
        let mut last = None;
        for event in self.sim.events().iter() {
            if let What::Lifecycle(change) = &event.what
                && change.group == group(node)
                && !change.to.starts_with("Terminat")
            {
                let (state, version) = (change.to.clone(), change.version);
                last = Some(Member { instance: change.instance.as_str().into(), state, version });
            }
        }
        last.ok_or_else(|| format!("{} never had an instance", group(node)).into())
    }

    /// What is on the node's volume.
    pub(crate) fn data(&self, node: &str) -> Result<Data> {
        self.on(&self.member(node)?.instance, Data::read)?
    }

    /// The version of its launch template that a group would launch.
    pub(crate) fn set_to(&self, node: &str) -> Result<Option<String>> {
        let mut version = None;
        self.sim
            .change_group(&group(node), |spec| version = spec.template.as_ref().map(|choice| choice.version.clone()))?;
        Ok(version)
    }

    /// The keys of a group's tags.
    pub(crate) fn tags(&self, node: &str) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        self.sim.change_group(&group(node), |spec| keys = spec.tags.keys().cloned().collect())?;
        Ok(keys)
    }
}

/// An instance of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) instance: InstanceId,
    pub(crate) state: String,
    /// The version of the launch template that it was launched from.
    pub(crate) version: Option<u64>,
}

/// The operator's machine, with the roll's check in the folder where its commands run.
fn operator(sandbox: &Sandbox) -> Result<Machine> {
    let dir = sandbox.dir().join("operator");
    let disk = RootDisk::create(dir.join("disk"))?;
    let agent = (sandbox.binary(), Path::new(agent::INSTALLED));
    let machine = Machine::boot_with(&disk, &dir.join("by-id"), &[agent])?;
    machine.write("/brokers.sh", BROKERS)?;
    machine.shell("chmod 755 /brokers.sh")?;
    Ok(machine)
}

fn address(node: &str) -> String {
    format!("10.0.1.1{}", &node[1..])
}

fn interface(node: &str) -> String {
    format!("eni-000000000000000{node}")
}

fn volume(node: &str) -> String {
    format!("vol-000000000000000{node}")
}

/// A version of the node's launch template: the image, and the agent's configuration as user data.
fn version(node: &str, number: u64) -> TemplateVersion {
    TemplateVersion {
        image: format!("ami-0000000000000000{number}"),
        user_data: Some(configuration(node, number).into_bytes()),
        interface: Some(interface(node)),
        ..TemplateVersion::default()
    }
}

fn configuration(node: &str, release: u64) -> String {
    let script = STANDARD.encode(format!("RELEASE={release}\n{HOOKS}"));
    let timeout = if release == 1 { "15m" } else { "5m" };
    format!(
        r#"[node]
id = "{node}"
ip = "{address}"

[lifecycle]
asg_name = "{group}"
hook_name = "launch-hook"
terminate_hook_name = "terminate-hook"

[cluster]
tag = "{CLUSTER}"

[[volume]]
id = "{volume}"
mount_path = "/mydata"
file_system = "xfs"
owner = "kafka"
group = "kafka"
detach_on_terminate = true

[hooks]
script_base64 = "{script}"

[timeouts]
hooks = "{timeout}"
"#,
        address = address(node),
        group = group(node),
        volume = volume(node),
    )
}
