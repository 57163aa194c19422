//! Launches fail, nodes die and are replaced, and the event log can tell of it.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::time::Duration;

use common::fleet::{Fleet, must_have};
use common::{GROUP, World};
use ec2_sim::{Act, ActKind, InstanceId, InstanceState, LaunchFailure, Spread, Times, What};

fn failures(fleet: &Fleet) -> Vec<String> {
    let events = fleet.sim.events();
    let failed = events.iter().filter_map(|event| match &event.what {
        What::Activity(activity) if activity.instance.is_none() => Some(activity.status.clone()),
        _ => None,
    });
    failed.collect()
}

#[test]
fn launches_fail_as_often_as_they_are_told_to() {
    let fleet = Fleet::new(|group| group.wants = 0);
    fleet.sim.fail_launches(GROUP, LaunchFailure::Capacity, Times::Count(2)).unwrap();
    fleet.sim.change_group(GROUP, |group| group.wants = 1).unwrap();
    let first = fleet.in_service(0);
    let failed = failures(&fleet);
    assert_eq!(failed.len(), 2);
    must_have(&failed[0], &["sufficient m6i.large capacity in the Availability Zone you requested (eu-west-1a)"]);

    let other = LaunchFailure::Other("You have requested more vCPU capacity than your limit.".to_owned());
    fleet.sim.fail_launches(GROUP, other.clone(), Times::Forever).unwrap();
    fleet.terminate(&first);
    fleet.wait(|what| matches!(what, What::Activity(activity) if activity.status.contains("vCPU")));
    fleet.sim.fail_launches(GROUP, other, Times::Count(0)).unwrap();
    fleet.in_service(1);
}

#[test]
fn a_lost_machine_is_in_service_until_its_group_notices() {
    let world =
        World::with(|config| config.latencies.notice = Duration::from_secs(1).into(), |group| group.hooks.clear());
    world.wait_lifecycle(&world.instance, "InService");
    world.sim.kill_instance(&world.instance).unwrap();
    let members = world.client().call("autoscaling", "DescribeAutoScalingInstances", &[]).unwrap().text();
    must_have(&members, &["<LifecycleState>InService<", "<HealthStatus>HEALTHY<"]);
    world.wait_lifecycle(&world.instance, "Terminated");
    let events = world.sim.events();
    let gone = |what: &What| matches!(what, What::Instance(change) if change.to == "shutting-down");
    let gone = events.iter().find(|event| gone(&event.what)).unwrap().t;
    let noticed = |what: &What| matches!(what, What::Lifecycle(change) if change.to == "Terminating");
    let noticed = events.iter().find(|event| noticed(&event.what)).unwrap().t;
    assert!(noticed - gone >= 1.0, "{gone} {noticed}");
    // The node was away from its end on, whatever the group thought.
    let gaps = events.gaps(GROUP);
    assert_eq!((gaps.len(), gaps[0].from, gaps[0].to), (1, gone, None));
}

#[test]
fn an_unhealthy_member_is_replaced_where_its_group_does_so() {
    let fleet = Fleet::new(|group| group.replaces_unhealthy = Some(Spread::default()));
    let first = fleet.in_service(0);
    fleet
        .sim
        .change_group(GROUP, |group| drop(group.suspended.insert("ReplaceUnhealthy".to_owned(), String::new())))
        .unwrap();
    fleet.sim.set_health(&first, false).unwrap();
    fleet.sim.set_health(&first, true).unwrap();
    fleet.sim.change_group(GROUP, |group| group.suspended.clear()).unwrap();
    assert_eq!(fleet.sim.lifecycle_state(&first).as_deref(), Some("InService"));
    fleet.sim.set_health(&first, false).unwrap();
    let second = fleet.in_service(1);
    fleet.sim.set_instance_state(&second, InstanceState::Stopped).unwrap();
    fleet.in_service(2);
    let gaps = fleet.sim.events().gaps(GROUP);
    let lengths: Vec<f64> = gaps.iter().map(|gap| gap.to.unwrap() - gap.from).collect();
    assert_eq!(lengths.len(), 3, "{gaps:?}");
    assert!(lengths.iter().all(|length| *length >= 0.0), "{gaps:?}");
}

#[test]
fn acts_are_told_with_the_version_of_their_instance() {
    let fleet = Fleet::new(|_| {});
    let first = fleet.in_service(0);
    let tag = [
        ("Tags.member.1.ResourceId", GROUP),
        ("Tags.member.1.ResourceType", "auto-scaling-group"),
        ("Tags.member.1.Key", "node-agent:roll"),
        ("Tags.member.1.Value", "run"),
    ];
    fleet.update(&[("LaunchTemplate.LaunchTemplateName", "kafka"), ("LaunchTemplate.Version", "2")]);
    fleet.call("CreateOrUpdateTags", &tag);
    fleet.terminate(&first);
    let second = fleet.in_service(1);
    fleet.call("DeleteTags", &tag);
    fleet.update(&[("LaunchTemplate.LaunchTemplateName", "kafka"), ("LaunchTemplate.Version", "9")]);
    let acts = fleet.sim.events().acts();
    let shown: Vec<_> =
        acts.iter().map(|act| (act.kind.clone(), act.instance.clone().unwrap(), act.version, act.done)).collect();
    let id = |id: &InstanceId| id.to_string();
    let key = "node-agent:roll".to_owned();
    assert_eq!(
        shown,
        [
            (ActKind::Update, id(&first), Some(1), true),
            (ActKind::Tag { key: key.clone(), value: "run".to_owned() }, id(&first), Some(1), true),
            (ActKind::Terminate, id(&first), Some(1), true),
            (ActKind::Untag { key }, id(&second), Some(2), true),
            (ActKind::Update, id(&second), Some(2), false),
        ]
    );
    assert!(
        acts.iter()
            .all(|Act { group, caller, .. }| group.as_deref() == Some(GROUP) && caller.as_deref() == Some("static"))
    );
}
