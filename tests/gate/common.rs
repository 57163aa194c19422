//! Clusters whose nodes leave one at a time: each node is an Auto Scaling group of one.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use ec2_sim::{InstanceId, InstanceSpec, What};

use super::departure::{Leaving, leaving};
use super::support::{GROUP, IP, Instance, Running, World, config_with, wait_until};

/// `[cluster]` by its tag.
pub const CLUSTER: &str = "[cluster]\ntag = \"stateful-cluster=kafka\"\n";
/// A group that sorts before the node's own, and one that sorts after it.
pub const EARLIER: &str = "a-node";
pub const LATER: &str = "z-node";
/// What the gate says while it waits.
pub const AWAY: &str = "another node of the cluster is away: ";

/// A hook script whose drain records when it was called, by the time since the machine's boot.
pub const HOOKS: &str = r#"
configure_cluster_node() {
  echo "configure $1 $2" >> /var/log/hooks.log
}
wait_for_healthy_cluster() {
  echo "health $1 $2" >> /var/log/hooks.log
}
drain_cluster_node() {
  read -r at _ < /proc/uptime
  echo "$at" >> /var/log/drained
  echo "drain $1 $2" >> /var/log/hooks.log
}
"#;

/// The tags of the cluster's groups.
pub fn tags() -> BTreeMap<String, String> {
    [("stateful-cluster".to_owned(), "kafka".to_owned())].into()
}

/// Seconds since the boot of this host.
pub fn uptime() -> f64 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// When the drain function was called, in seconds since the boot of this host; none if it was not.
pub fn drained_at(node: &Instance) -> Option<f64> {
    let log = node.machine().read("/var/log/drained").ok()?;
    Some(log.lines().next()?.parse().unwrap())
}

/// A node in service, in a cluster of which it is the only one so far.
pub fn node_of_cluster(rest: &str) -> Leaving {
    let leaving = leaving("xfs", "", rest);
    leaving.node.hooks(HOOKS);
    leaving.world.sim.change_group(GROUP, |group| group.tags = tags()).unwrap();
    leaving
}

/// A group of the cluster whose only node is in service; no machine runs it.
pub fn other(world: &World, group: &str) -> InstanceId {
    other_of(world, ec2_sim::GroupSpec { name: group.to_owned(), tags: tags(), ..ec2_sim::GroupSpec::default() })
}

/// As [`other`], of a group like this.
pub fn other_of(world: &World, group: ec2_sim::GroupSpec) -> InstanceId {
    let name = world.sim.create_group(group).unwrap();
    let spec = InstanceSpec {
        group: Some(name),
        private_ips: vec!["10.0.1.99".to_owned()],
        by_id_dir: world.folder("links-"),
        ..InstanceSpec::default()
    };
    let id = world.sim.launch(spec).unwrap();
    let state = || world.sim.lifecycle_state(&id);
    wait_until(|| state().as_deref() == Some("InService"), || format!("{:?}", state()));
    id
}

/// Makes another node write this status.
pub fn write_status(world: &World, node: &InstanceId, text: &str) {
    world.sim.change_instance(node, |spec| drop(spec.tags.insert(STATUS.to_owned(), text.to_owned()))).unwrap();
}

/// The tag with a node's status.
pub const STATUS: &str = "node-agent:status";

/// What stands in a node's status tag; empty where it has none.
pub fn written(world: &World, node: &InstanceId) -> String {
    world.sim.instance_tags(node).unwrap().remove(STATUS).unwrap_or_default()
}

/// Waits until a node has written this status.
pub fn wait_until_written(world: &World, node: &Instance, text: &str, service: &Running) {
    let is = || written(world, &node.id);
    wait_until(|| is() == text, || format!("{text:?} was never written, but {:?}\n{}", is(), service.log()));
}

/// Waits until the gate waits for this.
pub fn wait_at_the_gate(service: &Running, why: &str) {
    service.wait_for(&format!("{AWAY}{why}"));
}

/// The node must leave, and drain only after `released`, in seconds since the boot of this host.
pub fn must_leave_after(released: f64, node: &Instance, service: Running) -> String {
    let outcome = service.end();
    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    let drained = drained_at(node).unwrap_or_else(|| panic!("it never drained\n{}", outcome.log));
    // The clock of the host has hundredths.
    assert!(drained >= released - 0.01, "drained {:.2} s too early\n{}", released - drained, outcome.log);
    outcome.log
}

/// When something happened first in the simulated world: seconds since its start.
pub fn when(world: &World, mut wanted: impl FnMut(&What) -> bool) -> Option<f64> {
    world.events().iter().find(|event| wanted(&event.what)).map(|event| event.t)
}

/// Seconds from one of these events to the other.
pub fn between(world: &World, first: impl FnMut(&What) -> bool, second: impl FnMut(&What) -> bool) -> Option<Duration> {
    Some(Duration::from_secs_f64((when(world, second)? - when(world, first)?).max(0.0)))
}

/// The configuration of the node of this group, at this address.
pub fn config_of(group: &str, ip: &str, volumes: &[String], rest: &str) -> String {
    let lifecycle = format!("terminate_hook_name = \"{}\"", super::departure::TERMINATE_HOOK);
    config_with(&lifecycle, volumes, rest).replace(GROUP, group).replace(IP, ip)
}
