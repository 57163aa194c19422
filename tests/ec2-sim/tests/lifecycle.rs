//! Lifecycle actions hold, end and time out as Auto Scaling's do.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::time::{Duration, Instant};

use common::{GROUP, HOOK, Reply, World, hook};
use ec2_sim::{ActionResult, Event, InstanceSpec, InstanceState, Launches, Spread, Transition, What};

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

/// Waits for an event, and returns it.
fn wait_for(world: &World, what: &str, wanted: impl FnMut(&Event) -> bool) -> Event {
    let event = world.sim.wait_for_blocking(wanted, Duration::from_mins(1));
    event.unwrap_or_else(|| panic!("never: {what}: {:#?}", world.sim.events()))
}

#[test]
fn an_abandoned_termination_keeps_the_instance_where_the_group_retains() {
    let world = World::with(
        |_| {},
        |group| {
            group.hooks = vec![hook(Transition::Terminating)];
            group.retains = true;
        },
    );
    world.wait_lifecycle(&world.instance, "InService");
    world.sim.terminate_in_group(&world.instance).unwrap();
    assert_eq!(complete(&world, "terminate-hook", "ABANDON").status, 200);
    assert_eq!(world.sim.lifecycle_state(&world.instance).unwrap(), "Terminating:Retained");
    assert_eq!(world.sim.instance_state(&world.instance).unwrap(), InstanceState::Running);
}

#[test]
fn a_group_launches_while_the_old_instance_still_has_the_interface_and_backs_off() {
    let world = World::with(|config| config.seed = Some(1), |group| group.hooks = vec![hook(Transition::Terminating)]);
    world.wait_lifecycle(&world.instance, "InService");
    let instance = InstanceSpec { by_id_dir: world.sim.work_dir().join("new"), ..InstanceSpec::default() };
    let retry = Spread::between(Duration::from_millis(20), Duration::from_millis(60));
    let launches = Launches { instance, after: Spread::default(), retry };
    world.sim.change_group(GROUP, |group| group.launches = Some(launches)).unwrap();
    world.sim.terminate_in_group(&world.instance).unwrap();

    let mut failed = 0;
    wait_for(&world, "three launches that fail", |event| {
        failed += usize::from(matches!(&event.what, What::Activity(activity) if activity.instance.is_none()));
        failed == 3
    });
    assert_eq!(complete(&world, "terminate-hook", "CONTINUE").status, 200);
    let success = wait_for(
        &world,
        "a launch",
        |event| matches!(&event.what, What::Activity(activity) if activity.instance.is_some()),
    );

    let events = world.sim.events();
    let of = |event: &&Event| matches!(&event.what, What::Activity(_));
    let times: Vec<f64> = events.iter().filter(of).map(|event| event.t).collect();
    // Timers are late under load, never early: the third pause is at least four times the shortest first one.
    assert!(times[2] - times[1] >= 0.04 && times[3] - times[2] >= 0.08, "{times:?}");
    let gone = events.iter().find(
        |event| matches!(&event.what, What::Instance(change) if change.id == *world.instance && change.to == "terminated"),
    );
    assert!(gone.unwrap().seq < success.seq, "the interface was still in use");
}

#[test]
fn the_metadata_service_shows_the_target_late_and_none_before_the_first_transition() {
    let late = Duration::from_secs(2);
    let world = World::with(|config| config.latencies.target_state = late.into(), |group| group.hooks.clear());
    let target = || world.metadata("autoscaling/target-lifecycle-state");
    assert_eq!(target(), None);
    world.wait_lifecycle(&world.instance, "InService");
    while target().is_none() {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(target().unwrap(), "InService");
    let events = world.sim.events();
    let joined = events.iter().find(|event| matches!(event.what, What::Lifecycle(_))).unwrap().t;
    assert!(events.last().unwrap().t - joined >= late.as_secs_f64(), "{events:#?}");
    let ordered = Instant::now();
    world.sim.set_lifecycle_state(&world.instance, "Terminating:Wait").unwrap();
    while target().as_deref() != Some("Terminated") {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(ordered.elapsed() >= late);
}

#[test]
fn a_spot_notice_comes_before_the_end_of_the_instance_which_no_hook_delays() {
    let world = World::with(|_| {}, |group| group.hooks = vec![hook(Transition::Terminating)]);
    world.wait_lifecycle(&world.instance, "InService");
    assert_eq!(world.metadata("spot/instance-action"), None);
    world.sim.interrupt(&world.instance, Duration::from_secs(1)).unwrap();
    let notice = world.metadata("spot/instance-action").unwrap();
    assert!(notice.contains(r#""action":"terminate""#), "{notice}");
    world.wait_lifecycle(&world.instance, "Terminated");
    assert_eq!(complete(&world, "terminate-hook", "CONTINUE").status, 400);
}

#[test]
fn groups_are_found_by_tag_and_say_what_they_want() {
    let world = World::with(
        |_| {},
        |group| {
            group.tags.insert("stateful-cluster".to_owned(), "kafka".to_owned());
            group.maintenance_policy = Some((0, 100));
            group.retains = true;
        },
    );
    let by_tag = |value: &str| {
        let parameters =
            [("Filters.member.1.Name", "tag:stateful-cluster"), ("Filters.member.1.Values.member.1", value)];
        world.client().call("autoscaling", "DescribeAutoScalingGroups", &parameters).unwrap().text()
    };
    let found = by_tag("kafka");
    for text in [
        "<AutoScalingGroupName>kafka-00<",
        "<DesiredCapacity>1<",
        "<MaxHealthyPercentage>100<",
        "<RetentionTriggers><TerminateHookAbandon>retain<",
        "<Key>stateful-cluster</Key><Value>kafka<",
        "<HealthStatus>Healthy<",
    ] {
        let text = text.replace("kafka-00", GROUP);
        assert!(found.contains(&text), "{text}: {found}");
    }
    assert!(!by_tag("mongodb").contains("<DesiredCapacity>"));
    world.sim.set_health(&world.instance, false).unwrap();
    world.sim.change_group(GROUP, |group| group.deleting = true).unwrap();
    let found = by_tag("kafka");
    assert!(found.contains("<HealthStatus>Unhealthy<") && found.contains("<Status>Delete in progress<"), "{found}");
}
