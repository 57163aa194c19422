//! Nodes in service whose group has a termination hook.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses its part")]

use std::process::Command;
use std::time::Duration;

use ec2_sim::{ActionResult, Fault, FaultRule, HookSpec, SimConfig, Transition, VolumeId, What};
use serde_json::Value;

use super::support::{
    GROUP, HOOK, Instance, Outcome, Running, World, config_with, hooks_called, status, volume_at, wait_until,
};

/// The termination hook.
pub const TERMINATE_HOOK: &str = "kafka-node-terminate-hook";

/// `[[volume]]` with this is detached.
pub const DETACHES: &str = "detach_on_terminate = true";

/// The line of [`config`] that names the hook script.
pub const SCRIPT: &str = "script = \"/usr/local/lib/node/hooks.sh\"";

/// A node in service, with its running agent.
pub struct Leaving {
    pub world: World,
    pub node: Instance,
    pub volume: VolumeId,
    pub service: Running,
}

/// A hook script that logs its calls on the root disk.
pub const HOOKS: &str = r#"
configure_cluster_node() {
  echo "configure $1 $2 $MOUNT_PATH" >> /var/log/hooks.log
}
wait_for_healthy_cluster() {
  echo "health $1 $2 $ASG_NAME" >> /var/log/hooks.log
}
drain_cluster_node() {
  echo "drain $1 $2 $MOUNT_PATH" >> /var/log/hooks.log
}
"#;

/// As [`HOOKS`], with this as the body of the drain function, after it has logged its call.
pub fn draining(body: &str) -> String {
    format!("{HOOKS}\ndrain_cluster_node() {{\n  echo \"drain $1 $2\" >> /var/log/hooks.log\n  {body}\n}}\n")
}

/// A drain that hangs, with a child. It logs that it has begun.
pub fn hanging() -> String {
    draining("sleep 600 & echo $! > /tmp/child\n  echo drains\n  sleep 600")
}

/// A world whose group has both hooks.
pub fn world(change: impl FnOnce(&mut SimConfig)) -> World {
    let world = World::with(change);
    world.sim.change_group(GROUP, |group| group.hooks = hooks()).unwrap();
    world
}

/// Both hooks, as the Terraform module makes them.
pub fn hooks() -> Vec<HookSpec> {
    vec![
        HookSpec { name: HOOK.to_owned(), ..HookSpec::default() },
        HookSpec {
            name: TERMINATE_HOOK.to_owned(),
            transition: Transition::Terminating,
            heartbeat_timeout: Duration::from_secs(300),
            default_result: ActionResult::Continue,
        },
    ]
}

/// The configuration of a node that leaves, with more for its volume, and more at the end.
pub fn config(volume: &VolumeId, file_system: &str, of_volume: &str, rest: &str) -> String {
    of_volumes(&[volume_at("/mydata", volume, file_system) + of_volume + "\n"], rest)
}

/// The configuration of a node that leaves, with these volumes.
pub fn of_volumes(volumes: &[String], rest: &str) -> String {
    config_with(&format!("terminate_hook_name = \"{TERMINATE_HOOK}\""), volumes, rest)
}

/// A node in service.
pub fn leaving(file_system: &str, of_volume: &str, rest: &str) -> Leaving {
    leaving_by(HOOKS, file_system, of_volume, rest)
}

/// A node in service with an XFS volume that is detached, this hook script, and more at the configuration's end.
pub fn with_hooks(hooks: &str, rest: &str) -> Leaving {
    leaving_by(hooks, "xfs", DETACHES, rest)
}

fn leaving_by(hooks: &str, file_system: &str, of_volume: &str, rest: &str) -> Leaving {
    let world = world(|_| {});
    let (node, volume) = world.node();
    node.hooks(hooks);
    node.configure(config(&volume, file_system, of_volume, rest));
    let service = in_service(&node);
    wait_for_lifecycle(&world, &node, "InService");
    Leaving { world, node, volume, service }
}

/// Starts the service, and waits until the node is in service.
pub fn in_service(node: &Instance) -> Running {
    let service = node.start_with(&["run"]);
    service.wait_for("result=done");
    service
}

/// Auto Scaling terminates the node's instance.
pub fn ordered(world: &World, node: &Instance) {
    world.sim.terminate_in_group(&node.id).unwrap();
}

/// The results that took effect for the termination hook.
pub fn completed(world: &World) -> Vec<String> {
    let events = world.events();
    let calls = events.calls("autoscaling:CompleteLifecycleAction");
    let of_termination = calls.iter().filter(|call| call.parameters["LifecycleHookName"] == TERMINATE_HOOK);
    of_termination.map(|call| call.parameters["LifecycleActionResult"].clone()).collect()
}

/// How often a result was sent for the termination hook, whatever became of it.
pub fn attempts_to_complete(world: &World) -> usize {
    let events = world.events();
    let calls = events.attempts("autoscaling:CompleteLifecycleAction");
    calls
        .iter()
        .filter(|call| call.parameters.get("LifecycleHookName").is_some_and(|hook| hook == TERMINATE_HOOK))
        .count()
}

/// How often the drain function was called.
pub fn drains(node: &Instance) -> usize {
    hooks_called(node).iter().filter(|name| *name == "drain").count()
}

pub fn is_mounted(node: &Instance) -> bool {
    // findmnt exits with 1 where nothing is mounted.
    !node.shell("findmnt -no FSTYPE /mydata || true").is_empty()
}

/// The volume's attachments.
pub fn is_attached(world: &World, volume: &VolumeId) -> bool {
    !world.sim.volume_state(volume).unwrap().attachments.is_empty()
}

/// Whether anything has asked for a volume to be detached.
pub fn asked_to_detach(world: &World) -> bool {
    !world.events().attempts("ec2:DetachVolume").is_empty()
}

/// Waits until Auto Scaling has had the instance in this state.
pub fn wait_for_lifecycle(world: &World, node: &Instance, state: &str) {
    let is_it = |what: &What| matches!(what, What::Lifecycle(it) if it.instance == node.id.as_str() && it.to == state);
    let found = world.sim.wait_for_blocking(|event| is_it(&event.what), Duration::from_mins(1));
    assert!(found.is_some(), "never {state}: {:?}", world.sim.lifecycle_state(&node.id));
}

/// Waits until the metadata service was asked this many times more for the target state.
pub fn wait_for_looks(world: &World, more: usize) {
    let looks = || world.events().imds("imds:GET /latest/meta-data/autoscaling/target-lifecycle-state").len();
    let enough = looks() + more;
    wait_until(|| looks() >= enough, || format!("{} looks, not {enough}", looks()));
}

/// Neither EC2 nor Auto Scaling answers any more.
pub fn api_outage(world: &World) {
    for action in ["ec2:*", "autoscaling:*"] {
        world.sim.add_fault(FaultRule::always(action, Fault::Reset)).unwrap();
    }
}

/// The steps of the departure in the journal, each with its outcome; both by their names there.
pub fn steps(node: &Instance) -> Vec<(String, String)> {
    let journal = node.journal();
    let steps = journal["departure"]["steps"].as_array().cloned().unwrap_or_default();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    steps.iter().map(|step| (word(&step["step"]), word(&step["outcome"]))).collect()
}

/// The outcome of a step of the departure; empty where it has not run.
pub fn outcome_of(node: &Instance, step: &str) -> String {
    steps(node).into_iter().rfind(|(name, _)| name == step).map(|(_, outcome)| outcome).unwrap_or_default()
}

/// The node has left: exit code 0, and one CONTINUE for the termination hook.
pub fn must_have_left(world: &World, node: &Instance, outcome: &Outcome) {
    must_have_left_with(0, world, node, outcome);
}

/// As [`must_have_left`], with this exit code.
pub fn must_have_left_with(code: i32, world: &World, node: &Instance, outcome: &Outcome) {
    assert_eq!(outcome.code, Some(code), "{}", outcome.log);
    assert_eq!(completed(world), ["CONTINUE"], "{}", outcome.log);
    assert_eq!(status(node).0["state"], "left", "{}", outcome.log);
}

/// Whether the next mount of this filesystem has nothing to replay, by the filesystem's own tools. The volume's bytes are looked
/// at where EC2 has them.
pub fn is_clean(world: &World, volume: &VolumeId, file_system: &str) -> bool {
    let file = world.sim.volume_state(volume).unwrap().backing_file;
    let (tool, complaint): (&[&str], _) = match file_system {
        "xfs" => (&["xfs_repair", "-n", "-f"], "valuable metadata changes in a log"),
        _ => (&["dumpe2fs", "-h"], "needs_recovery"),
    };
    let output = Command::new(tool[0]).args(&tool[1..]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let is_clean = !said.contains(complaint);
    assert!(output.status.success() || !is_clean, "{tool:?}: {said}");
    is_clean
}
