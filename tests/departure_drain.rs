//! The drain of a node that is to go: whatever becomes of it, the node is unmounted and leaves.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "departure/common.rs"]
mod common;
mod support;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{
    DETACHES, HOOKS, Leaving, SCRIPT, TERMINATE_HOOK, attempts_to_complete, completed, config, drains, hanging,
    in_service, is_attached, is_clean, is_mounted, must_have_left, must_have_left_with, ordered, outcome_of,
    wait_for_lifecycle, with_hooks, world,
};
use ec2_sim::{Fault, FaultRule};
use nix::sys::signal::Signal;
use support::{CONFIG_PATH, hooks_called, wait_until};

const SHORT: &str = "[timeouts]\ndrain = \"3s\"";

#[test]
fn a_drain_that_hangs_is_ended_with_all_it_started_and_the_node_leaves() {
    let Leaving { world, node, volume, service } = with_hooks(&hanging(), SHORT);

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert!(outcome.log.contains("drain_cluster_node has not ended within"), "{}", outcome.log);
    assert!(!node.is_alive("/tmp/child"), "{}", outcome.log);
    assert_eq!(drains(&node), 1);
    assert_eq!(outcome_of(&node, "drain"), "failed");
    assert!(is_clean(&world, &volume, "xfs") && !is_attached(&world, &volume), "{}", outcome.log);
}

#[test]
fn a_drain_that_fails_keeps_the_node_from_nothing() {
    let Leaving { world, node, volume, service } = with_hooks(&common::draining("echo no leader; return 3"), "");

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert_eq!(outcome_of(&node, "drain"), "failed", "{}", outcome.log);
    assert!(outcome.log.contains("no leader") && drains(&node) == 1, "{}", outcome.log);
    assert!(is_clean(&world, &volume, "xfs") && !is_attached(&world, &volume), "{}", outcome.log);
}

#[test]
fn a_script_without_a_drain_function_is_called_for_nothing() {
    let Leaving { world, node, service, .. } = with_hooks(support::HOOKS, "");

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert_eq!(hooks_called(&node), ["configure", "health"]);
    assert_ne!(outcome_of(&node, "drain"), "failed", "{}", outcome.log);
    assert!(outcome.log.contains("does not define drain_cluster_node"), "{}", outcome.log);
}

#[test]
fn a_script_that_is_gone_keeps_the_node_from_nothing() {
    let Leaving { world, node, volume, service } = with_hooks(HOOKS, "");
    node.shell(&format!("rm {}", support::HOOKS_PATH));

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert_eq!(drains(&node), 0);
    assert!(!is_attached(&world, &volume), "{}", outcome.log);
}

#[test]
fn the_node_is_drained_by_its_own_copy_of_a_script_whose_source_is_gone() {
    let world = world(|_| {});
    let (node, volume) = world.node();
    let url = world.sim.put_page("/hooks.sh", HOOKS);
    node.configure(config(&volume, "xfs", "", "").replace(SCRIPT, &format!("script_source = \"{url}\"")));
    let service = in_service(&node);
    world.sim.add_fault(FaultRule::always("https:GET /*", Fault::Reset)).unwrap();

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert_eq!(hooks_called(&node), ["configure", "health", "drain"], "{}", outcome.log);
}

#[test]
fn an_embedded_script_drains_even_where_the_configuration_is_gone() {
    let world = world(|_| {});
    let (node, volume) = world.node();
    let embedded = format!("script_base64 = \"{}\"", STANDARD.encode(HOOKS));
    node.configure(config(&volume, "xfs", DETACHES, "").replace(SCRIPT, &embedded));
    let service = in_service(&node);
    service.signal(Signal::SIGTERM);
    assert_eq!(service.end().code, Some(0));
    node.shell(&format!("rm {CONFIG_PATH}"));
    let service = node.start_with(&["run"]);
    service.wait_for("held;");

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert_eq!(hooks_called(&node), ["configure", "health", "drain"], "{}", outcome.log);
    assert!(is_clean(&world, &volume, "xfs"), "{}", outcome.log);
}

/// The launch is lost before the volume has come: another instance has it.
#[test]
fn a_node_that_was_not_configured_is_not_drained_and_ends_with_7() {
    let world = world(|_| {});
    let (node, volume) = world.node();
    let other = world.launch();
    world.sim.attach(&volume, &other.id, "/dev/sdf").unwrap();
    node.hooks(HOOKS);
    node.configure(config(&volume, "xfs", DETACHES, ""));
    let service = node.start_with(&["run"]);
    service.wait_for("attach");
    wait_for_lifecycle(&world, &node, "Pending:Wait");

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left_with(7, &world, &node, &outcome);
    assert!(hooks_called(&node).is_empty(), "{}", outcome.log);
    assert!(is_attached(&world, &volume), "it is the other instance's");
}

#[test]
fn a_launch_that_is_lost_during_configure_ends_it_and_leaves_undrained_with_7() {
    let world = world(|_| {});
    let (node, volume) = world.node();
    let hangs = "configure_cluster_node() { sleep 600 & echo $! > /tmp/child; echo here; sleep 600; }";
    node.hooks(format!("{HOOKS}\n{hangs}\n"));
    node.configure(config(&volume, "xfs", DETACHES, ""));
    let service = node.start_with(&["run"]);
    service.wait_for("| here");

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left_with(7, &world, &node, &outcome);
    assert!(hooks_called(&node).is_empty() && !node.is_alive("/tmp/child"), "{}", outcome.log);
    assert!(!is_mounted(&node) && is_clean(&world, &volume, "xfs"), "{}", outcome.log);
    assert!(!is_attached(&world, &volume), "{}", outcome.log);
}

#[test]
fn a_launch_that_is_lost_after_configure_is_drained_and_ends_with_7() {
    let world = world(|_| {});
    let (node, volume) = world.node();
    node.hooks(format!("{HOOKS}\nwait_for_healthy_cluster() {{ echo here; sleep 600; }}\n"));
    node.configure(config(&volume, "xfs", DETACHES, ""));
    let service = node.start_with(&["run"]);
    service.wait_for("| here");

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left_with(7, &world, &node, &outcome);
    assert_eq!(hooks_called(&node), ["configure", "drain"], "{}", outcome.log);
    assert!(is_clean(&world, &volume, "xfs"), "{}", outcome.log);
}

#[test]
fn a_drain_that_outlasts_the_hooks_timeout_is_kept_up_by_heartbeats() {
    let Leaving { world, node, service, .. } = with_hooks(&common::draining("sleep 16"), "");
    world
        .sim
        .change_group(support::GROUP, |group| {
            let hook = group.hooks.iter_mut().find(|hook| hook.name == TERMINATE_HOOK).unwrap();
            hook.heartbeat_timeout = std::time::Duration::from_secs(12);
        })
        .unwrap();

    ordered(&world, &node);
    wait_until(|| drains(&node) == 1, || service.log());
    assert_eq!(attempts_to_complete(&world), 0);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert_eq!(completed(&world), ["CONTINUE"]);
    assert!(support::heartbeats(&world) >= 2, "{}", outcome.log);
}
