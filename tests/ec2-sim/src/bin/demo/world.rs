//! The simulated region of one node: its group and its volume, and the launches of its instances.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use ec2_sim::sandbox::{Node, Sandbox};
use ec2_sim::{
    Event, GroupSpec, HookSpec, InstanceId, InstanceSpec, Latencies, Sim, SimConfig, VolumeId, VolumeSpec, What,
};

use crate::boot::Boot;
use crate::checks::Checks;
use crate::terminal::{Ended, exit, follow, show, type_in};
use crate::{Result, image};

/// As it stands in docs/configuration.md.
const CONFIG: &str = include_str!("config.toml");
pub(crate) const HOOKS: &str = include_str!("hooks.sh");
/// Replaces the stand-in for a broker by one that never answers.
pub(crate) const BROKEN: &str = "TRIES=3\nbroker_answers() { false; }\n";
/// Replaces the configure function by one that misses a file.
const UNLICENSED: &str = "configure_cluster_node() {\n  [ -s /etc/kafka/licence ] || { echo '/etc/kafka/licence is missing' >&2; return 1; }\n  touch \"$STARTED\"\n  echo \"broker $1 listens on $2\"\n}\n";
const LICENCE: &str = "/etc/kafka/licence";
/// Wins key by key over the configuration.
const OVERRIDE: &str = "[lifecycle]\non_failure = \"abandon\"\n";

/// The volume of [`CONFIG`].
pub(crate) const VOLUME: &str = "vol-0123456789abcdef0";
const GROUP: &str = "kafka-node-00";
const HOOK: &str = "kafka-node-asg-hook";
/// The file that [`CONFIG`] has from S3.
pub(crate) const FILE: &str = "broker.id=00\nlisteners=PLAINTEXT://10.0.1.10:9092\nlog.dirs=/mydata/kafka\n";

/// How long a dying instance keeps its volume.
const DYING: Duration = Duration::from_secs(4);
/// A boot that takes longer is stuck.
const STUCK: Duration = Duration::from_mins(2);

/// The simulated EC2 with the node's group and volume.
pub(crate) struct World<'a> {
    sandbox: &'a Sandbox,
    sim: Sim,
    pub(crate) volume: VolumeId,
    pub(crate) first_holder: InstanceId,
}

impl World<'_> {
    pub(crate) fn new(sandbox: &Sandbox) -> Result<World<'_>> {
        let config = SimConfig {
            work_dir: sandbox.dir().join("aws"),
            latencies: Latencies { shutting_down: DYING, ..Latencies::default() },
            ..SimConfig::default()
        };
        let sim = Sim::start_blocking(config)?;
        let hook = HookSpec { name: HOOK.to_owned(), ..HookSpec::default() };
        sim.create_group(GroupSpec { name: GROUP.to_owned(), hooks: vec![hook], ..GroupSpec::default() })?;
        sim.put_object("kafka-config", "node-00/server.properties", FILE);
        let volume = sim.create_volume(VolumeSpec { id: Some(VOLUME.to_owned()), ..VolumeSpec::default() })?;
        let by_id_dir = sandbox.dir().join("first-holder");
        let first_holder = sim.launch(InstanceSpec { by_id_dir, ..InstanceSpec::default() })?;
        sim.attach(&volume, &first_holder, "/dev/sdf")?;
        let attached = |event: &Event| matches!(&event.what, What::Volume(change) if change.attachment.as_deref() == Some("attached"));
        sim.wait_for_blocking(attached, STUCK).ok_or("the volume was not attached")?;
        sim.terminate(&first_holder)?;
        Ok(World { sandbox, sim, volume, first_holder })
    }

    /// Launches an instance with what its image and its configuration bring.
    fn prepare(&self, hooks: &str) -> Result<Node> {
        let spec = InstanceSpec { group: Some(GROUP.to_owned()), ..InstanceSpec::default() };
        let node = self.sandbox.launch(&self.sim, spec)?;
        image::install(&node.machine)?;
        node.write("/etc/node-agent/config.toml", CONFIG)?;
        if hooks.ends_with(BROKEN) {
            node.write("/etc/node-agent/override.toml", OVERRIDE)?;
        }
        node.write("/usr/local/lib/node/hooks.sh", hooks)?;
        Ok(node)
    }

    /// Launches an instance and runs the agent on it, its log passed through.
    pub(crate) fn boot(&self, hooks: &str) -> Result<Boot> {
        let node = self.prepare(hooks)?;
        let (started, wall_clock) = (node.log_began.elapsed(), SystemTime::now());
        let Ended { code, lines: log } = follow("agent", &mut node.agent(&["run", "--once"]), STUCK)?;
        let journal = node.machine.read("/var/lib/node-agent/state.json");
        let journal = journal.map_err(|error| format!("the agent left no journal ({error}); exit {}", exit(code)))?;
        let journal = serde_json::from_str(&journal)?;
        Ok(Boot { node, started: started.as_secs_f64(), wall_clock, code, log, journal })
    }

    /// Launches an instance whose service holds it, and repairs it as an operator would.
    pub(crate) fn hold(&self, checks: &mut Checks) -> Result<Node> {
        let node = self.prepare(&[HOOKS, UNLICENSED].concat())?;
        let mut service = node.agent(&["run"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        // What a session shows does not begin before the node is held.
        let waited = node.agent(&["status", "--wait", "--timeout", "2m"]).output()?;
        checks.equal("the exit code of status", &waited.status.code(), &Some(1));

        let status = on(&node, &["status"])?;
        checks.holds("status says held, why, and what to do", {
            ["HELD", "then ABANDON", "FAIL  configure", LICENCE, "node-agent retry"]
                .iter()
                .all(|text| status.contains(text))
        });
        println!("  # echo A1B2 > {LICENCE}");
        node.write(LICENCE, "A1B2\n")?;
        let retried = on(&node, &["retry"])?;
        checks.holds("retry ends with success", retried.ends_with("node-agent: result=done\n"));
        on(&node, &["status"])?;
        checks.holds(format_args!("{} is InService", node.id), self.wait_for_state(&node.id, "InService"));
        checks.equal("what was sent to Auto Scaling", &*self.completions(&node.id), &["CONTINUE".to_owned()]);
        service.kill()?;
        service.wait()?;
        Ok(node)
    }

    /// The events about this volume, instance or group, with their times since the agent's start.
    pub(crate) fn events<'e>(&self, boot: &Boot, wanted: impl Fn(&What) -> Option<String> + 'e) -> Vec<(f64, String)> {
        let events = self.sim.events();
        events.iter().filter_map(|event| Some((event.t - boot.started, wanted(&event.what)?))).collect()
    }

    /// The results this instance sent that took effect.
    pub(crate) fn completions(&self, instance: &InstanceId) -> Vec<String> {
        self.sim
            .events()
            .calls("autoscaling:CompleteLifecycleAction")
            .into_iter()
            .filter(|call| call.parameters.get("InstanceId").is_some_and(|id| id == instance.as_str()))
            .filter_map(|call| call.parameters.get("LifecycleActionResult").cloned())
            .collect()
    }

    pub(crate) fn wait_for_state(&self, instance: &InstanceId, state: &str) -> bool {
        let entered = |event: &Event| matches!(&event.what, What::Lifecycle(change) if change.instance == instance.as_str() && change.to == state);
        self.sim.wait_for_blocking(entered, Duration::from_secs(10)).is_some()
    }
}

/// Shows a command of the agent as it is typed on the node, and what it prints, which it returns.
fn on(node: &Node, arguments: &[&str]) -> Result<String> {
    let text = type_in(arguments, &mut node.agent(arguments))?;
    show(&text);
    Ok(text)
}
