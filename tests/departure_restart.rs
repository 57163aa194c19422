//! A departure that begins at any time, and is interrupted at any time.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "departure/common.rs"]
mod common;
mod support;

use common::{
    DETACHES, HOOKS, Leaving, completed, config, drains, hanging, is_attached, is_clean, is_mounted, leaving,
    must_have_left, must_have_left_with, ordered, wait_for_lifecycle, with_hooks, world,
};
use ec2_sim::{Fault, FaultRule, What};
use nix::sys::signal::Signal;
use support::{CONFIG_PATH, each, hooks_called, status, wait_for_state};

const FAILS: &str = "configure_cluster_node() { echo no; return 3; }\nwait_for_healthy_cluster() { :; }\n";

#[test]
fn a_held_node_that_is_told_to_go_leaves_undrained_with_7() {
    let world = world(|_| {});
    let (node, volume) = world.node();
    node.hooks(format!("{HOOKS}\n{FAILS}"));
    node.configure(config(&volume, "xfs", DETACHES, ""));
    let service = node.start_with(&["run"]);
    service.wait_for("held for");

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left_with(7, &world, &node, &outcome);
    assert_eq!(drains(&node), 0, "{}", outcome.log);
    assert!(is_clean(&world, &volume, "xfs") && !is_attached(&world, &volume), "{}", outcome.log);
}

/// It has failed at its restart, but it is a member of its cluster.
#[test]
fn a_node_in_service_that_is_held_after_a_failure_is_drained_when_told_to_go() {
    let Leaving { world, node, volume, service } = with_hooks(HOOKS, "");
    service.signal(Signal::SIGTERM);
    assert_eq!(service.end().code, Some(0));
    let good = node.read(CONFIG_PATH);
    node.configure(good.replace("ip = \"10.0.1.10\"", "ip = \"10.0.1.99\""));
    let service = node.start_with(&["run"]);
    wait_for_state(&node, "held", &service);

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert_eq!(drains(&node), 1, "{}", outcome.log);
    assert!(is_clean(&world, &volume, "xfs"), "{}", outcome.log);
}

#[test]
fn a_departure_that_is_stopped_completes_nothing_and_the_next_start_goes_on() {
    let Leaving { world, node, volume, service } = with_hooks(&hanging(), "");
    ordered(&world, &node);
    service.wait_for("| drains");

    service.signal(Signal::SIGTERM);
    let outcome = service.end();

    outcome.must_fail(3, &[]);
    assert!(completed(&world).is_empty() && is_mounted(&node) && is_attached(&world, &volume), "{}", outcome.log);
    assert!(!node.is_alive("/tmp/child"), "{}", outcome.log);
    node.hooks(HOOKS);
    let outcome = node.start_with(&["run"]).end();
    must_have_left(&world, &node, &outcome);
    assert_eq!(drains(&node), 2, "{}", outcome.log);
    assert!(is_clean(&world, &volume, "xfs") && !is_attached(&world, &volume), "{}", outcome.log);
    // A further start does nothing.
    let again = node.start_with(&["run"]).end();
    must_have_left(&world, &node, &again);
    assert_eq!(drains(&node), 2, "{}", again.log);
}

#[test]
fn a_departure_that_is_killed_goes_on_at_the_next_start() {
    let Leaving { world, node, volume, service } = with_hooks(&hanging(), "");
    ordered(&world, &node);
    service.wait_for("| drains");

    service.signal(Signal::SIGKILL);
    assert_eq!(service.end().code, None);
    node.hooks(HOOKS);
    let outcome = node.start_with(&["run"]).end();

    must_have_left(&world, &node, &outcome);
    assert!(!node.is_alive("/tmp/child"), "{}", outcome.log);
    assert!(is_clean(&world, &volume, "xfs") && !is_attached(&world, &volume), "{}", outcome.log);
}

#[test]
fn a_reboot_in_the_middle_of_a_departure_mounts_nothing_and_completes() {
    let Leaving { world, mut node, volume, service } = with_hooks(&hanging(), "");
    ordered(&world, &node);
    service.wait_for("| drains");
    service.signal(Signal::SIGTERM);
    service.end().must_fail(3, &[]);

    node.reboot();
    node.hooks(HOOKS);
    let at_boot = node.start_with(&["mount-at-boot"]).end();
    assert!(!is_mounted(&node), "{}", at_boot.log);
    let outcome = node.start_with(&["run"]).end();

    must_have_left(&world, &node, &outcome);
    assert!(!outcome.log.contains(" mount vol-"), "{}", outcome.log);
    assert!(!is_mounted(&node) && !is_attached(&world, &volume), "{}", outcome.log);
}

#[test]
fn an_instance_that_goes_before_its_first_start_is_not_touched_and_completes_with_7() {
    let world = world(|_| {});
    let (node, volume) = world.node();
    wait_for_lifecycle(&world, &node, "Pending:Wait");
    node.hooks(HOOKS);
    node.configure(config(&volume, "xfs", DETACHES, ""));
    ordered(&world, &node);

    let outcome = node.start_with(&["run"]).end();

    must_have_left_with(7, &world, &node, &outcome);
    assert!(hooks_called(&node).is_empty(), "{}", outcome.log);
    assert!(world.events().attempts("ec2:AttachVolume").is_empty() && !is_mounted(&node), "{}", outcome.log);
}

#[test]
fn an_instance_that_goes_without_a_configured_hook_is_left_alone_with_7() {
    let world = world(|_| {});
    let (node, volume) = world.node();
    wait_for_lifecycle(&world, &node, "Pending:Wait");
    node.configure(support::config_for(&volume));
    ordered(&world, &node);

    let outcome = node.start_with(&["run"]).end();

    assert_eq!(outcome.code, Some(7), "{}", outcome.log);
    assert!(world.events().mutations().is_empty() && !is_mounted(&node), "{}", outcome.log);
}

#[test]
fn a_stop_in_service_completes_nothing_and_leaves_the_mount() {
    let Leaving { world, node, service, .. } = leaving("xfs", DETACHES, "");

    service.signal(Signal::SIGTERM);
    let outcome = service.end();

    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert!(completed(&world).is_empty() && is_mounted(&node) && drains(&node) == 0, "{}", outcome.log);
    assert!(node.journal()["departure"].is_null());
}

/// The order to go comes after the restart, or has come before it.
#[test]
fn a_node_whose_configuration_is_gone_or_broken_leaves_by_its_journal() {
    each(&[("", true), ("", false), ("[node\n", true), ("[node\n", false)], |(config_now, after)| {
        let Leaving { world, node, volume, service } = with_hooks(&hanging(), "");
        if *after {
            service.signal(Signal::SIGTERM);
            assert_eq!(service.end().code, Some(0));
        } else {
            ordered(&world, &node);
            service.wait_for("| drains");
            service.signal(Signal::SIGTERM);
            service.end().must_fail(3, &[]);
        }
        match *config_now {
            "" => drop(node.shell(&format!("rm {CONFIG_PATH}"))),
            broken => node.configure(broken),
        }
        node.hooks(HOOKS);
        let service = node.start_with(&["run"]);
        if *after {
            service.wait_for("held;");
            ordered(&world, &node);
        }
        let outcome = service.end();

        must_have_left(&world, &node, &outcome);
        assert!(!is_mounted(&node) && is_clean(&world, &volume, "xfs"), "{config_now:?} {after}: {}", outcome.log);
    });
}

#[test]
fn a_node_whose_root_volume_is_replaced_keeps_its_volume_attached() {
    let Leaving { world, node, volume, service } = with_hooks(HOOKS, "");
    let target = |value: &str| {
        let value = value.to_owned();
        let key = "autoscaling/target-lifecycle-state".to_owned();
        world.sim.change_instance(&node.id, |spec| drop(spec.metadata.insert(key, value))).unwrap();
    };
    world.sim.set_lifecycle_state(&node.id, "ReplacingRootVolume:Wait").unwrap();
    target("ReplacingRootVolume");

    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert_eq!(drains(&node), 1, "{}", outcome.log);
    assert!(is_clean(&world, &volume, "xfs") && !is_mounted(&node), "{}", outcome.log);
    assert!(!common::asked_to_detach(&world), "{}", outcome.log);
    let is_over = |what: &What| matches!(what, What::Lifecycle(it) if it.to == "ReplacingRootVolume:Proceed");
    assert!(world.events().iter().any(|event| is_over(&event.what)));
}

#[test]
fn an_order_that_auto_scaling_does_not_confirm_starts_nothing() {
    let Leaving { world, node, service, .. } = leaving("xfs", DETACHES, "");
    let key = "autoscaling/target-lifecycle-state".to_owned();
    world.sim.change_instance(&node.id, |spec| drop(spec.metadata.insert(key, "Terminated".to_owned()))).unwrap();

    common::wait_for_looks(&world, 3);

    assert_eq!(status(&node).0["state"], "done", "{}", service.log());
    assert!(node.journal()["departure"].is_null() && is_mounted(&node));
    // Then it does.
    ordered(&world, &node);
    must_have_left(&world, &node, &service.end());
}

#[test]
fn a_lost_journal_keeps_nobody_from_being_drained() {
    let Leaving { world, node, volume, service } = with_hooks(HOOKS, "");
    service.signal(Signal::SIGTERM);
    assert_eq!(service.end().code, Some(0));
    node.write("/var/lib/node-agent/state.json", "{\"schema\":");
    ordered(&world, &node);
    let service = node.start_with(&["run"]);

    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert_eq!(drains(&node), 1, "{}", outcome.log);
    assert!(is_clean(&world, &volume, "xfs") && !is_attached(&world, &volume), "{}", outcome.log);
}

/// The launch hook cannot be completed, so the node is at work when its launch is lost.
#[test]
fn a_launch_that_is_lost_at_its_last_step_is_drained_and_ends_with_7() {
    let world = world(|_| {});
    let (node, volume) = world.node();
    world.sim.add_fault(FaultRule::always("autoscaling:CompleteLifecycleAction", Fault::ServerError)).unwrap();
    node.hooks(HOOKS);
    node.configure(config(&volume, "xfs", DETACHES, ""));
    let service = node.start_with(&["run"]);
    service.wait_for("complete: wait");

    ordered(&world, &node);
    service.wait_for("unmount");
    world.sim.clear_faults();
    let outcome = service.end();

    must_have_left_with(7, &world, &node, &outcome);
    assert_eq!(drains(&node), 1, "{}", outcome.log);
    assert!(is_clean(&world, &volume, "xfs"), "{}", outcome.log);
}

#[test]
fn a_retry_that_is_at_work_when_the_node_is_told_to_go_is_answered() {
    let world = world(|_| {});
    let (node, volume) = world.node();
    node.hooks(format!("{HOOKS}\n{FAILS}"));
    node.configure(config(&volume, "xfs", DETACHES, ""));
    let service = node.start_with(&["run"]);
    service.wait_for("held for");
    node.hooks(format!("{HOOKS}\nconfigure_cluster_node() {{ echo hangs; sleep 600; }}\n"));
    let retry = node.start_with(&["retry"]);
    service.wait_for("| hangs");

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left_with(7, &world, &node, &outcome);
    let answered = retry.end();
    assert_eq!(answered.code, Some(7), "{}", answered.log);
}

#[test]
fn an_instance_that_is_terminated_in_its_warm_pool_is_left_alone() {
    let world = world(|_| {});
    let (node, volume) = world.node();
    wait_for_lifecycle(&world, &node, "Pending:Wait");
    world.sim.set_lifecycle_state(&node.id, "Warmed:Running").unwrap();
    node.hooks(HOOKS);
    node.configure(config(&volume, "xfs", DETACHES, ""));
    let service = node.start_with(&["run"]);
    wait_for_state(&node, "warm", &service);

    world.sim.set_lifecycle_state(&node.id, "Warmed:Terminating:Wait").unwrap();
    let outcome = service.end();

    outcome.must_fail(7, &["code=terminating", "Warmed:Terminating:Wait"]);
    assert!(world.completions().is_empty(), "{}", outcome.log);
    assert!(hooks_called(&node).is_empty() && !is_mounted(&node), "{}", outcome.log);
    assert!(world.events().attempts("ec2:*Volume").is_empty(), "{}", outcome.log);
}
