//! Nodes in service whose group has a termination hook.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses its part")]

use ec2_sim::{ActionResult, HookSpec, SimConfig, Transition, VolumeId};

use super::support::{GROUP, HOOK, Instance, Running, World, config_with, volume_at};

/// The termination hook.
pub const TERMINATE_HOOK: &str = "kafka-node-terminate-hook";

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
            heartbeat_timeout: std::time::Duration::from_secs(300),
            default_result: ActionResult::Continue,
        },
    ]
}

/// The configuration of a node that leaves, with more for its volume, and more at the end.
pub fn config(volume: &VolumeId, file_system: &str, of_volume: &str, rest: &str) -> String {
    let lifecycle = format!("terminate_hook_name = \"{TERMINATE_HOOK}\"");
    config_with(&lifecycle, &[volume_at("/mydata", volume, file_system) + of_volume + "\n"], rest)
}

/// A node in service.
pub fn leaving(file_system: &str, of_volume: &str, rest: &str) -> Leaving {
    let world = world(|_| {});
    let (node, volume) = world.node();
    node.hooks(HOOKS);
    node.configure(config(&volume, file_system, of_volume, rest));
    let service = in_service(&node);
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
