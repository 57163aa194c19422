//! How long the agent tries again: without credentials, and when heartbeats are refused.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::time::Duration;

use ec2_sim::{Fault, FaultRule, HookSpec, InstanceSpec};
use support::{HOOKS, Instance, World, config_with, in_group, volume_at, wait_until};

/// Of a launch hook of four seconds.
const TIMEOUT: Duration = Duration::from_secs(4);

fn refused_once() -> FaultRule {
    let message = "No active Lifecycle Action found with instance ID i-0".to_owned();
    let fault = Fault::Error { http: 400, code: "ValidationError".to_owned(), message };
    FaultRule::once("autoscaling:RecordLifecycleActionHeartbeat", fault)
}

/// A node whose configure hook takes three times the lifecycle hook's timeout.
fn slow_node() -> (World, Instance) {
    let world = World::with_hook(&HookSpec { heartbeat_timeout: TIMEOUT, ..HookSpec::default() }, |_| {});
    let node = world.launch();
    node.hooks(HOOKS.replace("echo \"configure", "sleep 12; echo \"configure"));
    let state = || world.sim.lifecycle_state(&node.id);
    wait_until(|| state().as_deref() == Some("Pending:Wait"), || format!("{:?}", state()));
    (world, node)
}

#[test]
fn one_refused_heartbeat_while_the_hook_waits_does_not_end_the_heartbeats() {
    let (world, node) = slow_node();
    // Between the two answers the instance went from Pending to Pending:Wait.
    world.sim.add_fault(refused_once()).unwrap();

    let outcome = node.run(&config_with("", &[], ""));

    outcome.must_fail(0, &["result=done"]);
    assert!(!outcome.log.contains("may be wrong"), "{}", outcome.log);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn an_old_description_beside_a_refused_heartbeat_does_not_end_the_heartbeats() {
    let (world, node) = slow_node();
    world.sim.set_lifecycle_state(&node.id, "Warmed:Stopped").unwrap();
    world.sim.set_lifecycle_state(&node.id, "Pending:Wait").unwrap();
    let agent = node.start(&config_with("", &[], ""));
    agent.wait_for("configure: start:");
    world.sim.add_fault(refused_once()).unwrap();
    world.sim.add_fault(FaultRule::once("autoscaling:DescribeAutoScalingInstances", Fault::Stale { back: 1 })).unwrap();

    agent.end().must_fail(0, &["result=done"]);

    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_hook_name_that_may_be_wrong_is_told_while_the_work_goes_on() {
    let world =
        World::with_hook(&HookSpec { heartbeat_timeout: Duration::from_mins(5), ..HookSpec::default() }, |_| {});
    let node = world.launch();
    node.hooks(HOOKS.replace("echo \"configure", "sleep 25; echo \"configure"));
    let config = config_with("heartbeat_timeout = \"9s\"", &[], "[timeouts]\ncomplete = \"2s\"");

    let outcome = node.run(&config.replace("kafka-node-asg-hook", "another-hook"));

    outcome.must_fail(7, &["heartbeats are refused", "lifecycle.hook_name or asg_name may be wrong"]);
    let told = outcome.log.find("heartbeats are refused").unwrap();
    assert!(told < outcome.log.find("configure: done").unwrap(), "{}", outcome.log);
}

#[test]
fn missing_credentials_are_waited_for_as_long_as_timeouts_aws_says() {
    let world = World::new();
    let volume = world.volume(1);
    let node = world.launch_as(InstanceSpec { role: None, ..in_group() });

    // Without a lifecycle hook the volume's step, which has half an hour, is the first one to call AWS.
    let lifecycle = "[lifecycle]\nasg_name = \"kafka-node-00\"\nhook_name = \"kafka-node-asg-hook\"";
    let config = config_with("", &[volume_at("/mydata", volume, "xfs")], "[timeouts]\naws = \"4s\"");

    let outcome = node.run(&config.replace(lifecycle, ""));

    outcome.must_fail(1, &["step=attach code=credentials", "gave up after "]);
    assert!(outcome.took < Duration::from_secs(30), "{:?}", outcome.took);
}
