//! A node that is to go: drained, unmounted, detached where that is configured, CONTINUE, on real filesystems.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "departure/common.rs"]
mod common;
mod support;

use common::{
    DETACHES, HOOKS, Leaving, TERMINATE_HOOK, asked_to_detach, completed, draining, in_service, is_attached, is_clean,
    is_mounted, leaving, must_have_left, of_volumes, ordered, outcome_of, steps, wait_for_lifecycle, wait_for_looks,
    with_hooks, world,
};
use ec2_sim::What;
use nix::sys::signal::Signal;
use support::{Guarded, World, each, hooks_called, status, volume_at, wait_until};

/// The place of the first call of this action in the event log, of those that took effect.
fn place_of(world: &World, wanted: impl Fn(&What) -> bool) -> usize {
    world.events().iter().position(|event| wanted(&event.what)).unwrap()
}

fn is_call(what: &What, action: &str, hook: Option<&str>) -> bool {
    matches!(what, What::Api(call) if call.done && call.action == action
        && hook.is_none_or(|hook| call.parameters["LifecycleHookName"] == hook))
}

#[test]
fn a_node_that_is_told_to_go_drains_unmounts_detaches_and_continues_once() {
    each(&["xfs", "ext4"], |file_system| {
        let Leaving { world, node, volume, service } = leaving(file_system, DETACHES, "");

        ordered(&world, &node);
        let outcome = service.end();

        must_have_left(&world, &node, &outcome);
        assert_eq!(hooks_called(&node), ["configure", "health", "drain"], "{}", outcome.log);
        assert!(!is_mounted(&node) && !is_attached(&world, &volume), "{}", outcome.log);
        let mut order: Vec<_> = steps(&node).into_iter().map(|(step, _)| step).collect();
        order.dedup();
        assert_eq!(order, ["drain", "unmount", "detach", "leave"], "{}", outcome.log);
        // EC2 finds the device free when it takes it, and Auto Scaling hears of the departure after that.
        assert!(!world.events().iter().any(|event| matches!(&event.what, What::Device(it) if it.state == "busy")));
        let detached = place_of(&world, |what| is_call(what, "ec2:DetachVolume", None));
        let gone = place_of(&world, |what| matches!(what, What::Device(it) if it.state == "gone"));
        let completed =
            place_of(&world, |what| is_call(what, "autoscaling:CompleteLifecycleAction", Some(TERMINATE_HOOK)));
        assert!(detached < gone && gone < completed, "{detached} {gone} {completed}");
    });
}

#[test]
fn the_next_mount_has_nothing_to_replay_and_finds_what_drain_wrote_last() {
    each(&["xfs", "ext4"], |file_system| {
        let Leaving { world, node, volume, service } = leaving(file_system, DETACHES, "");
        node.hooks(draining(
            "dd if=/dev/urandom of=$MOUNT_PATH/last bs=1M count=8 status=none; sha256sum < $MOUNT_PATH/last > /tmp/sum",
        ));
        node.shell("dd if=/dev/urandom of=/mydata/log bs=1M count=8 status=none; sync -f /mydata");
        let log = node.shell("sha256sum < /mydata/log");
        // Else the question below would always be answered with yes.
        assert!(!is_clean(&world, &volume, file_system));

        ordered(&world, &node);
        must_have_left(&world, &node, &service.end());

        assert!(is_clean(&world, &volume, file_system));
        let replacement = world.launch();
        replacement.hooks(HOOKS);
        replacement.come_up(&common::config(&volume, file_system, DETACHES, ""));
        assert_eq!(replacement.shell("sha256sum < /mydata/log"), log);
        assert_eq!(replacement.shell("sha256sum < /mydata/last"), node.shell("cat /tmp/sum"));
    });
}

#[test]
fn a_volume_without_detach_on_terminate_is_unmounted_and_stays_attached() {
    each(&["xfs", "ext4"], |file_system| {
        let Leaving { world, node, volume, service } = leaving(file_system, "", "");
        node.shell("echo precious > /mydata/segment");

        ordered(&world, &node);
        let outcome = service.end();

        must_have_left(&world, &node, &outcome);
        assert!(!asked_to_detach(&world) && !is_mounted(&node), "{}", outcome.log);
        assert!(is_clean(&world, &volume, file_system), "{}", outcome.log);
    });
}

#[test]
fn a_volume_inside_another_one_is_unmounted_first() {
    let world = world(|_| {});
    let (node, outer) = world.node();
    let inner = world.volume(1);
    node.hooks(HOOKS);
    let volumes = [("/mydata", &outer, "xfs"), ("/mydata/inner", &inner, "ext4")];
    let volumes = volumes.map(|(place, id, kind)| volume_at(place, id, kind) + DETACHES + "\n");
    node.configure(of_volumes(&volumes, ""));
    let service = in_service(&node);

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert!(!is_attached(&world, &outer) && !is_attached(&world, &inner), "{}", outcome.log);
    assert!(is_clean(&world, &outer, "xfs") && is_clean(&world, &inner, "ext4"), "{}", outcome.log);
    assert!(!outcome.log.contains("is busy"), "{}", outcome.log);
}

#[test]
fn one_busy_volume_keeps_no_other_from_being_unmounted_and_detached() {
    let world = world(|_| {});
    let (node, busy) = world.node();
    let free = world.volume(1);
    node.hooks(HOOKS);
    let volumes = [("/mydata", &busy), ("/other", &free)];
    let volumes = volumes.map(|(place, id)| volume_at(place, id, "xfs") + DETACHES + "\n");
    node.configure(of_volumes(&volumes, "[timeouts]\nunmount = \"4s\""));
    let service = in_service(&node);
    let _holder = Guarded(node.machine().command("sh").args(["-c", "cd /mydata && exec sleep 600"]).spawn().unwrap());
    wait_until(|| !node.shell("fuser -m /mydata 2>/dev/null || true").is_empty(), || service.log());

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert!(is_clean(&world, &free, "xfs"), "{}", outcome.log);
    let detached: Vec<_> =
        world.events().calls("ec2:DetachVolume").iter().map(|it| it.parameters["VolumeId"].clone()).collect();
    assert_eq!(detached, [free.to_string()], "{}", outcome.log);
}

#[test]
fn a_volume_that_is_mounted_in_a_second_place_is_not_detached_and_named() {
    let rest = "[timeouts]\nunmount = \"4s\"";
    let Leaving { world, node, service, .. } = with_hooks(HOOKS, rest);
    node.shell("mkdir /mnt/second; mount --bind /mydata /mnt/second");

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert_eq!(outcome_of(&node, "unmount"), "failed", "{}", outcome.log);
    assert!(outcome.log.contains("it is mounted at /mnt/second, too"), "{}", outcome.log);
    assert!(!asked_to_detach(&world), "{}", outcome.log);
}

#[test]
fn a_node_without_a_volume_drains_and_continues() {
    let world = world(|_| {});
    let node = world.launch();
    node.hooks(HOOKS);
    node.configure(of_volumes(&[], ""));
    let service = in_service(&node);

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert_eq!(hooks_called(&node), ["configure", "health", "drain"], "{}", outcome.log);
}

#[test]
fn standby_detached_and_the_warm_pool_start_no_departure() {
    each(&["EnteringStandby", "Standby", "Detaching", "Detached", "Warmed:Pending", "Warmed:Running"], |state| {
        let Leaving { world, node, service, .. } = leaving("xfs", DETACHES, "");

        world.sim.set_lifecycle_state(&node.id, state).unwrap();
        wait_for_looks(&world, 2);

        assert!(node.journal()["departure"].is_null(), "{state}: {}", service.log());
        assert!(is_mounted(&node), "{state}: {}", service.log());
        service.signal(Signal::SIGTERM);
        assert!(completed(&world).is_empty() && !hooks_called(&node).contains(&"drain".to_owned()), "{state}");
    });
}

#[test]
fn without_a_termination_hook_in_the_configuration_nothing_happens() {
    let world = world(|_| {});
    let (node, volume) = world.node();
    node.hooks(HOOKS);
    node.configure(support::config_for(&volume));
    let service = in_service(&node);
    wait_for_lifecycle(&world, &node, "InService");

    ordered(&world, &node);
    wait_for_looks(&world, 3);

    assert_eq!(status(&node).0["state"], "done", "{}", service.log());
    assert!(is_mounted(&node));
    service.signal(Signal::SIGTERM);
    assert_eq!(service.end().code, Some(0));
    assert!(completed(&world).is_empty());
    assert_eq!(hooks_called(&node), ["configure", "health"]);
}
