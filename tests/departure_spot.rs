//! A spot notice: everything ends within it.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "departure/common.rs"]
mod common;
mod support;

use std::time::Duration;

use common::{
    DETACHES, HOOKS, Leaving, asked_to_detach, completed, config, drains, hanging, in_service, is_attached, is_clean,
    is_mounted, must_have_left, ordered, outcome_of, wait_for_lifecycle, with_hooks, world,
};
use ec2_sim::{InstanceState, What};
use nix::sys::signal::Signal;
use support::{Instance, Outcome, World, status};

/// Shorter than EC2's two minutes. Fifteen seconds of it are left at the end.
const NOTICE: Duration = Duration::from_secs(45);

/// The node has left before EC2 took the instance.
fn must_be_in_time(world: &World, node: &Instance, outcome: &Outcome) {
    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert_eq!(world.sim.instance_state(&node.id).unwrap(), InstanceState::Running, "too late: {}", outcome.log);
    assert_eq!(status(node).0["state"], "left", "{}", outcome.log);
    assert!(!is_mounted(node), "{}", outcome.log);
}

#[test]
fn a_spot_notice_takes_the_node_out_of_its_cluster_with_nothing_to_complete() {
    let Leaving { world, node, volume, service } = with_hooks(HOOKS, "");

    world.sim.interrupt(&node.id, NOTICE).unwrap();
    let outcome = service.end();

    must_be_in_time(&world, &node, &outcome);
    assert_eq!(drains(&node), 1, "{}", outcome.log);
    assert!(is_clean(&world, &volume, "xfs") && !is_attached(&world, &volume), "{}", outcome.log);
    assert!(completed(&world).is_empty(), "{}", outcome.log);
    let departure = &node.journal()["departure"];
    assert_eq!((&departure["reason"], &departure["ended"]), (&"spot".into(), &"nothing-to-complete".into()));
}

#[test]
fn a_spot_notice_needs_no_answer_of_auto_scaling() {
    let Leaving { world, node, volume, service } = with_hooks(HOOKS, "");
    common::api_outage(&world);

    world.sim.interrupt(&node.id, NOTICE).unwrap();
    service.wait_for("unmount");
    common::wait_for_lifecycle(&world, &node, "Terminating");

    assert_eq!(drains(&node), 1, "{}", service.log());
    // Before EC2 took the instance.
    let unmounted = service.log().lines().any(|line| line.contains("unmount") && line.contains(": done"));
    assert!(unmounted && is_clean(&world, &volume, "xfs"), "{}", service.log());
    assert!(completed(&world).is_empty());
}

#[test]
fn a_drain_that_hangs_is_cut_in_time_to_unmount_and_detach_within_the_notice() {
    let Leaving { world, node, volume, service } = with_hooks(&hanging(), "");

    world.sim.interrupt(&node.id, NOTICE).unwrap();
    let outcome = service.end();

    must_be_in_time(&world, &node, &outcome);
    assert!(!node.is_alive("/tmp/child"), "{}", outcome.log);
    assert_eq!(outcome_of(&node, "drain"), "failed", "{}", outcome.log);
    assert!(is_clean(&world, &volume, "xfs") && !is_attached(&world, &volume), "{}", outcome.log);
}

#[test]
fn a_spot_notice_during_a_long_drain_cuts_it() {
    let Leaving { world, node, volume, service } = with_hooks(&hanging(), "");
    ordered(&world, &node);
    service.wait_for("| drains");

    world.sim.interrupt(&node.id, NOTICE).unwrap();
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    let taken = world.events().iter().any(|event| {
        matches!(&event.what, What::Instance(it) if it.id == node.id.as_str() && it.cause == "set by the scenario")
    });
    assert!(!taken, "too late: {}", outcome.log);
    assert_eq!((drains(&node), node.is_alive("/tmp/child")), (1, false));
    assert_eq!(node.journal()["departure"]["reason"], "spot");
    assert!(is_clean(&world, &volume, "xfs") && !is_attached(&world, &volume), "{}", outcome.log);
}

#[test]
fn without_a_termination_hook_in_the_configuration_a_spot_notice_starts_nothing() {
    let world = world(|_| {});
    let (node, volume) = world.node();
    node.hooks(HOOKS);
    let lifecycle = format!("terminate_hook_name = \"{}\"", common::TERMINATE_HOOK);
    node.configure(config(&volume, "xfs", DETACHES, "").replace(&lifecycle, ""));
    let service = in_service(&node);
    wait_for_lifecycle(&world, &node, "InService");

    world.sim.interrupt(&node.id, Duration::from_mins(2)).unwrap();
    common::wait_for_looks(&world, 2);

    assert!(is_mounted(&node) && drains(&node) == 0 && !asked_to_detach(&world), "{}", service.log());
    service.signal(Signal::SIGTERM);
    assert_eq!(service.end().code, Some(0));
}
