//! A volume that something holds: the holder is named and left alone, the volume stays attached, and the node leaves all the same.
//!
//! A swap file is not tried: most containers may not call swapon(2).

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "departure/common.rs"]
mod common;
mod support;

use std::process::Command;

use common::{
    HOOKS, Leaving, asked_to_detach, is_attached, is_clean, is_mounted, must_have_left, ordered, outcome_of, with_hooks,
};
use nix::sys::signal::Signal;
use support::{Guarded, Instance, each, run, runs, status, wait_until};

/// The time that the holders are given to let go.
const SHORT: &str = "[timeouts]\nunmount = \"4s\"";

/// A process on the machine that runs this script, whose last command is `exec sleep`.
fn process(node: &Instance, script: &str) -> Guarded {
    let mut command: Command = node.machine().command("bash");
    Guarded(command.args(["-ec", script]).spawn().unwrap())
}

/// Waits until it runs what holds the volume.
fn wait_for_sleep(process: &Guarded) {
    let name = || std::fs::read_to_string(format!("/proc/{}/comm", process.0.id())).unwrap_or_default();
    wait_until(|| name() == "sleep\n", name);
}

#[test]
fn a_process_that_holds_the_volume_is_named_and_not_killed() {
    let cases = [
        ("cd /mydata; exec sleep 600", "works in /mydata"),
        ("exec sleep 600 3>/mydata/open", "has open /mydata/open"),
        ("cp /usr/bin/sleep /mydata/sleep; exec /mydata/sleep 600", "runs /mydata/sleep"),
        ("exec unshare --mount sleep 600", "has a mount namespace in which it is mounted at /mydata"),
    ];
    each(&cases, |(script, how)| {
        let Leaving { world, node, service, .. } = with_hooks(HOOKS, SHORT);
        let holder = process(&node, script);
        wait_for_sleep(&holder);

        ordered(&world, &node);
        let outcome = service.end();

        must_have_left(&world, &node, &outcome);
        let named = format!("process {} (sleep) {how}", holder.0.id());
        assert!(outcome.log.contains(&named), "{named}: {}", outcome.log);
        assert!(node.journal().to_string().contains(&named), "{named}: {}", node.journal());
        let shown = run(&node, &["status"]).log;
        assert!(shown.contains(&named), "{named}: {shown}");
        assert!(status(&node).0.to_string().contains(&named), "{named}: {}", status(&node).0);
        assert!(runs(holder.0.id()), "{how}");
        assert!(!asked_to_detach(&world), "{how}: {}", outcome.log);
        assert_eq!(outcome_of(&node, "unmount"), "failed", "{how}");
    });
}

#[test]
fn a_mount_inside_the_volume_is_named() {
    let Leaving { world, node, service, .. } = with_hooks(HOOKS, SHORT);
    node.shell("mkdir /mydata/inner; mount -t tmpfs inner /mydata/inner");

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert!(outcome.log.contains("a filesystem is mounted inside it, at /mydata/inner"), "{}", outcome.log);
    assert!(is_mounted(&node) && !asked_to_detach(&world), "{}", outcome.log);
}

#[test]
fn a_loop_device_of_a_file_on_the_volume_is_named() {
    let Leaving { world, node, service, .. } = with_hooks(HOOKS, SHORT);
    // It goes with its mount, which goes with the machine.
    node.shell(
        "mknod /dev/loop-control c 10 237; mkdir /mnt/image
         truncate -s 16M /mydata/image; mkfs.ext4 -q /mydata/image; mount -o loop /mydata/image /mnt/image",
    );

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert!(outcome.log.contains("is a loop device of /mydata/image"), "{}", outcome.log);
    assert!(is_mounted(&node) && !asked_to_detach(&world), "{}", outcome.log);
    node.shell("umount /mnt/image");
}

#[test]
fn a_holder_that_lets_go_in_time_delays_the_departure_and_no_more() {
    let Leaving { world, node, volume, service } = with_hooks(HOOKS, "");
    let holder = process(&node, "cd /mydata; exec sleep 600");
    wait_for_sleep(&holder);

    ordered(&world, &node);
    service.wait_for("works in /mydata");
    assert!(is_attached(&world, &volume));
    drop(holder);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert_ne!(outcome_of(&node, "unmount"), "failed", "{}", outcome.log);
    assert!(is_clean(&world, &volume, "xfs") && !is_attached(&world, &volume), "{}", outcome.log);
}

#[test]
fn a_filesystem_that_was_unmounted_lazily_is_not_detached_while_a_process_holds_it() {
    let Leaving { world, node, service, .. } = with_hooks(HOOKS, SHORT);
    let holder = process(&node, "cd /mydata; exec sleep 600");
    wait_for_sleep(&holder);
    node.shell("umount --lazy /mydata");

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert!(outcome.log.contains(&format!("process {} (sleep)", holder.0.id())), "{}", outcome.log);
    assert!(!asked_to_detach(&world) && runs(holder.0.id()), "{}", outcome.log);
}

#[test]
fn a_departure_that_is_stopped_while_the_volume_is_busy_goes_on_at_the_next_start() {
    let Leaving { world, node, volume, service } = with_hooks(HOOKS, "");
    let holder = process(&node, "cd /mydata; exec sleep 600");
    wait_for_sleep(&holder);
    ordered(&world, &node);
    service.wait_for("works in /mydata");

    service.signal(Signal::SIGTERM);
    service.end().must_fail(3, &[]);
    assert!(common::completed(&world).is_empty() && is_mounted(&node));
    drop(holder);
    let outcome = node.start_with(&["run"]).end();

    must_have_left(&world, &node, &outcome);
    assert_eq!(common::drains(&node), 1, "{}", outcome.log);
    assert!(is_clean(&world, &volume, "xfs") && !is_attached(&world, &volume), "{}", outcome.log);
}
