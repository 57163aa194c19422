//! A volume that another instance holds: the agent waits for it, attaches it as soon as it is free, and never takes it from a
//! running instance.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::time::Duration;

use ec2_sim::{Event, InstanceSpec, InstanceState, VolumeId, VolumeSpec, What};
use support::{World, config_for, config_with, volume_at};

fn time_of(world: &World, wanted: impl Fn(&Event) -> bool) -> f64 {
    world.events().iter().find(|event| wanted(event)).map(|event| event.t).expect("it happened")
}

fn change(event: &Event, id: &VolumeId, status: &str, attachment: Option<&str>) -> bool {
    matches!(&event.what, What::Volume(change)
        if change.id == id.as_str() && change.status == status && change.attachment.as_deref() == attachment)
}

#[test]
fn a_volume_of_a_dying_instance_is_attached_by_the_first_look_that_finds_it_free() {
    let dying = Duration::from_secs(8);
    let world = World::with(|config| config.latencies.shutting_down = dying);
    let volume = world.volume(1);
    let old = world.launch();
    world.sim.attach(&volume, &old.id, "/dev/sdf").unwrap();
    world
        .sim
        .wait_for_blocking(|event| change(event, &volume, "in-use", Some("attached")), Duration::from_secs(9))
        .unwrap();
    let old_id = old.id.clone();
    old.terminate();
    let node = world.launch();

    let outcome = node.come_up(&config_for(&volume));

    assert!(outcome.log.contains(&format!("to {old_id} (shutting-down)")), "{}", outcome.log);
    let free = time_of(&world, |event| change(event, &volume, "available", Some("detached")));
    let call = |event: &Event, action: &str| matches!(&event.what, What::Api(call) if call.action == action);
    let asked = time_of(&world, |event| call(event, "ec2:AttachVolume"));
    println!("free at {free:.3} s, asked for {:.3} s later", asked - free);
    // agent/runner/patience.rs tests that the agent asks at least twice a second. One call may have been in flight when the volume
    // came free.
    let events = world.events();
    let looks = |from: f64, to: f64| {
        events.iter().filter(|event| event.t > from && event.t < to && call(event, "ec2:DescribeVolumes")).count()
    };
    assert!(looks(0.0, free) > 2, "it was not waited for: {}", outcome.log);
    assert!(
        (1..=2).contains(&looks(free, asked)),
        "{} looks, asked for {:.3} s later",
        looks(free, asked),
        asked - free
    );
}

#[test]
fn a_volume_of_a_running_instance_is_refused_at_the_deadline_and_left_where_it_is() {
    let world = World::new();
    let volume = world.volume(1);
    let holder = world.launch_as(InstanceSpec { private_ips: vec!["10.0.1.99".to_owned()], ..InstanceSpec::default() });
    world.sim.attach(&volume, &holder.id, "/dev/sdf").unwrap();
    let node = world.launch();
    let config = config_with("", &[volume_at("/mydata", &volume, "xfs")], "[timeouts]\nvolume = \"8s\"");

    for state in [InstanceState::Running, InstanceState::Stopped] {
        world.sim.set_instance_state(&holder.id, state).unwrap();
        let outcome = node.run(&config);
        outcome.must_fail(
            6,
            &["code=volume-held", volume.as_str(), holder.id.as_str(), state.name(), "then: node-agent retry"],
        );
    }

    let attachments = world.sim.volume_state(&volume).unwrap().attachments;
    assert_eq!(attachments[0].instance, holder.id);
    assert!(world.events().attempts("ec2:DetachVolume").is_empty());
    assert!(world.events().attempts("ec2:AttachVolume").is_empty());
}

#[test]
fn a_volume_of_another_zone_with_multi_attach_or_of_nobody_is_refused_at_once() {
    let world = World::new();
    let elsewhere =
        world.sim.create_volume(VolumeSpec { zone: Some("eu-west-1b".to_owned()), ..VolumeSpec::default() }).unwrap();
    let shared = world.sim.create_volume(VolumeSpec { multi_attach: true, ..VolumeSpec::default() }).unwrap();
    let node = world.launch();
    for (volume, code, said) in [(elsewhere, 1, "zone-mismatch"), (shared, 6, "multi-attach")] {
        let outcome = node.run(&config_for(&volume));
        outcome.must_fail(code, &[said, volume.as_str()]);
        assert!(outcome.took < Duration::from_secs(20), "{:?}", outcome.took);
    }
    assert!(world.events().attempts("ec2:AttachVolume").is_empty());
}

#[test]
fn the_instance_that_is_terminated_touches_nothing() {
    let world = World::new();
    let (node, volume) = world.node();
    world.sim.set_lifecycle_state(&node.id, "Terminating:Wait").unwrap();

    let outcome = node.run(&config_with("on_failure = \"abandon\"", &[volume_at("/mydata", &volume, "xfs")], ""));

    outcome.must_fail(7, &["code=terminating", "Terminating:Wait"]);
    assert!(world.events().mutations().is_empty());
}

#[test]
fn without_permission_to_look_at_lifecycle_and_instances_the_node_comes_up() {
    let world = World::new();
    let volume = world.volume(1);
    let node = world.launch_without(&["autoscaling:Describe*", "ec2:DescribeInstances", "ec2:CreateTags"]);

    node.come_up(&config_for(&volume));

    assert_eq!(world.completions(), ["CONTINUE"]);
}
