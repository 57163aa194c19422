//! Lifecycle actions hold, end and time out as Auto Scaling's do.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::time::{Duration, Instant};

use common::{GROUP, HOOK, Reply, World, hook};
use ec2_sim::{ActionResult, InstanceState, Transition};

fn action(world: &World, name: &str, hook: &str, result: Option<&str>) -> Reply {
    let mut parameters =
        vec![("AutoScalingGroupName", GROUP), ("LifecycleHookName", hook), ("InstanceId", world.instance.as_str())];
    parameters.extend(result.map(|result| ("LifecycleActionResult", result)));
    world.client().call("autoscaling", name, &parameters).unwrap()
}

fn complete(world: &World, hook: &str, result: &str) -> Reply {
    action(world, "CompleteLifecycleAction", hook, Some(result))
}

fn states(world: &World) -> Vec<String> {
    world.sim.events().lifecycle(&world.instance).iter().map(|change| change.to.clone()).collect()
}

#[test]
fn completing_before_the_wait_is_refused_and_after_it_goes_into_service() {
    let world = World::with(|config| config.latencies.pending_to_wait = Duration::from_hours(1), |_| {});
    let early = complete(&world, HOOK, "CONTINUE");
    assert_eq!(early.status, 400);
    assert_eq!(early.element("Code").unwrap(), "ValidationError");
    let message = format!("No active Lifecycle Action found with instance ID {}", world.instance);
    assert_eq!(early.element("Message").unwrap(), message);
    world.sim.set_lifecycle_state(&world.instance, "Pending:Wait").unwrap();
    world.wait_lifecycle(&world.instance, "Pending:Wait");
    assert_eq!(complete(&world, "another-hook", "CONTINUE").status, 400);
    assert_eq!(complete(&world, HOOK, "CONTINUE").status, 200);
    world.wait_lifecycle(&world.instance, "InService");
    assert_eq!(states(&world), ["Pending", "Pending:Wait", "Pending:Proceed", "InService"]);
}

#[test]
fn abandon_runs_the_terminating_hook_and_ends_the_instance() {
    let world = World::with(|_| {}, |group| group.hooks.push(hook(Transition::Terminating)));
    world.wait_lifecycle(&world.instance, "Pending:Wait");
    assert_eq!(complete(&world, HOOK, "ABANDON").status, 200);
    world.wait_lifecycle(&world.instance, "Terminating:Wait");
    assert_eq!(complete(&world, "terminate-hook", "CONTINUE").status, 200);
    world.wait_lifecycle(&world.instance, "Terminated");
    assert_eq!(world.sim.instance_state(&world.instance).unwrap(), InstanceState::Terminated);
    assert_eq!(world.sim.lifecycle_state(&world.instance), None);
}

#[test]
fn a_heartbeat_restarts_the_timeout_which_otherwise_ends_in_the_default_result() {
    let timeout = Duration::from_secs(4);
    let world = World::with(
        |_| {},
        |group| {
            group.hooks[0].heartbeat_timeout = timeout;
            group.hooks[0].default_result = ActionResult::Continue;
        },
    );
    world.wait_lifecycle(&world.instance, "Pending:Wait");
    std::thread::sleep(timeout / 2);
    let beat = Instant::now();
    assert_eq!(action(&world, "RecordLifecycleActionHeartbeat", HOOK, None).status, 200);
    world.wait_lifecycle(&world.instance, "InService");

    assert!(beat.elapsed() >= timeout, "{:?}", beat.elapsed());
    let events = world.sim.events();
    let changes = events.lifecycle(&world.instance);
    assert_eq!(changes[2].cause, "heartbeat timeout CONTINUE");
    assert_eq!(action(&world, "RecordLifecycleActionHeartbeat", HOOK, None).status, 400);
}

#[test]
fn heartbeats_cannot_pass_the_global_limit_of_a_hundred_timeouts() {
    let timeout = Duration::from_millis(30);
    let world = World::with(|_| {}, |group| group.hooks[0].heartbeat_timeout = timeout);
    world.wait_lifecycle(&world.instance, "Pending:Wait");
    let begun = std::time::Instant::now();
    // Far more often than needed, so that a slow machine misses none.
    while action(&world, "RecordLifecycleActionHeartbeat", HOOK, None).status == 200 {
        assert!(begun.elapsed() < timeout * 200, "heartbeats hold for ever");
    }
    let events = world.sim.events();
    let ended = events.lifecycle(&world.instance)[2].cause.clone();
    assert!(ended.ends_with("timeout ABANDON"), "{ended}");
}

#[test]
fn every_hook_must_continue() {
    let world = World::with(
        |_| {},
        |group| {
            let mut second = hook(Transition::Launching);
            second.name = "second".to_owned();
            group.hooks.push(second);
        },
    );
    world.wait_lifecycle(&world.instance, "Pending:Wait");
    assert_eq!(complete(&world, HOOK, "CONTINUE").status, 200);
    assert_eq!(complete(&world, HOOK, "CONTINUE").status, 400);
    assert_eq!(world.sim.lifecycle_state(&world.instance).as_deref(), Some("Pending:Wait"));
    assert_eq!(complete(&world, "second", "CONTINUE").status, 200);
    world.wait_lifecycle(&world.instance, "InService");
}

#[test]
fn a_warm_pool_instance_that_continues_is_stopped_in_the_pool() {
    let world = World::new();
    world.wait_lifecycle(&world.instance, "Pending:Wait");
    world.sim.set_lifecycle_state(&world.instance, "Warmed:Pending:Wait").unwrap();
    assert_eq!(complete(&world, HOOK, "CONTINUE").status, 200);
    world.wait_lifecycle(&world.instance, "Warmed:Stopped");
}

#[test]
fn missing_and_wrong_parameters_are_validation_errors() {
    let world = World::new();
    world.wait_lifecycle(&world.instance, "Pending:Wait");
    for (name, result) in [("CompleteLifecycleAction", None), ("CompleteLifecycleAction", Some("MAYBE"))] {
        let reply = action(&world, name, HOOK, result);
        assert_eq!((reply.status, reply.element("Code").unwrap().as_str()), (400, "ValidationError"));
    }
    assert_eq!(states(&world), ["Pending", "Pending:Wait"]);
}
