//! The outcome of a launch is recorded apart from its steps, and the promised end of a hold survives a changed configuration, clock
//! and disk.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::thread;
use std::time::{Duration, Instant};

use ec2_sim::{Fault, FaultRule, HookSpec, InstanceSpec};
use nix::sys::signal::Signal;
use serde_json::Value;
use support::{
    HOOK, HOOKS, Instance, World, config, config_for, config_with, each, heartbeats, hooks_called, run, serve, status,
    stop, volume_at, wait_for_state, wait_until,
};

const JOURNAL: &str = "/var/lib/node-agent/state.json";

/// Hooks of which `step` fails until /tmp/repaired exists.
fn broken(step: &str) -> String {
    HOOKS.replace(&format!("echo \"{step}"), &format!("[ -e /tmp/repaired ] || return 3; echo \"{step}"))
}

/// The configuration without `[lifecycle]`.
fn without_lifecycle(config: &str) -> String {
    let (before, table) = config.split_once("[lifecycle]").unwrap();
    let rest = table.find("\n[").map_or("", |end| &table[end..]);
    format!("{before}{rest}")
}

fn in_no_group(world: &World) -> Instance {
    world.launch_as(InstanceSpec { group: None, ..InstanceSpec::default() })
}

fn edit_journal(node: &Instance, change: impl FnOnce(&mut Value)) {
    let mut journal = node.journal();
    change(&mut journal);
    node.write(JOURNAL, serde_json::to_string_pretty(&journal).unwrap());
}

/// How the outcome of a launch became known although a hook had failed.
#[derive(Debug, Clone, Copy)]
enum Known {
    /// By hand, in the hold.
    ByHand(&'static str),
    /// By hand, while no service runs.
    Stopped(&'static str),
    /// By a journal of an earlier version, which has this outcome and no word of the steps.
    Earlier(&'static str, bool),
    /// By hand, by a process that was killed before it recorded it.
    Killed,
}

#[test]
fn a_retry_resumes_at_the_failed_step_however_the_launch_became_known() {
    use Known::{ByHand, Earlier, Killed, Stopped};
    // The failed step; whether [lifecycle] is configured, and the instance in its group; how the outcome became known, and
    // what was taken.
    let cases: &[(&str, bool, bool, Known, &[&str])] = &[
        ("configure", false, true, ByHand("abandon"), &[]),
        ("configure", false, true, ByHand("continue"), &[]),
        ("configure", false, true, Stopped("abandon"), &[]),
        ("configure", true, false, ByHand("abandon"), &[]),
        ("configure", true, false, ByHand("continue"), &[]),
        ("configure", true, false, Stopped("continue"), &[]),
        ("configure", true, true, ByHand("continue"), &["CONTINUE"]),
        ("health", true, true, ByHand("continue"), &["CONTINUE"]),
        ("health", true, true, Stopped("continue"), &["CONTINUE"]),
        ("configure", true, true, Earlier("continued", true), &[]),
        ("configure", true, true, Earlier("unconfirmed", true), &[]),
        ("configure", false, true, Earlier("no-hook", true), &[]),
        // Called up by the earlier version: nothing tells but the steps that it has recorded.
        ("configure", false, true, Earlier("no-hook", false), &[]),
        ("health", true, false, Earlier("no-group", false), &[]),
        ("configure", true, true, Killed, &[]),
    ];
    each(cases, |case @ (step, lifecycle, in_group, known, taken)| {
        let world = World::new();
        let volume = world.volume(1);
        let node = if *in_group { world.launch() } else { in_no_group(&world) };
        let config = config_for(&volume);
        let config = if *lifecycle { config } else { without_lifecycle(&config) };
        let mut service = serve(&node, &broken(step), &config);
        service.wait_for("held");
        wait_for_state(&node, "held", &service);
        match known {
            ByHand(word) => {
                let done = run(&node, &["complete", word, "--yes"]);
                if !taken.is_empty() {
                    done.must_fail(0, &["result=done"]);
                } else if *word == "abandon" || !*lifecycle {
                    done.must_fail(1, &["code=nothing-to-complete", "nothing to complete"]);
                }
                assert!(service.child.try_wait().unwrap().is_none(), "{case:?}: {}", service.log());
                run(&node, &["status"]).must_fail(1, &[]);
            }
            Stopped(word) => {
                stop(service);
                run(&node, &["complete", word, "--yes"]);
                service = node.start_with(&["run"]);
                service.wait_for("held");
            }
            Killed => {
                stop(service);
                edit_journal(&node, |journal| journal["lifecycle"]["intent"] = "CONTINUE".into());
                world.sim.set_lifecycle_state(&node.id, "InService").unwrap();
                service = node.start_with(&["run"]);
                service.wait_for("held");
            }
            Earlier(outcome, failed) => {
                stop(service);
                edit_journal(&node, |journal| {
                    journal.as_object_mut().unwrap().remove("once_complete");
                    journal["lifecycle"] = serde_json::json!({ "outcome": outcome });
                    if !*failed {
                        journal.as_object_mut().unwrap().remove("fault");
                        journal["phase"] = "done".into();
                        journal["steps"] = serde_json::json!([]);
                    }
                });
                if *in_group && *lifecycle {
                    world.sim.set_lifecycle_state(&node.id, "InService").unwrap();
                }
                service = node.start_with(&["run"]);
                service.wait_for("held");
            }
        }
        wait_for_state(&node, "held", &service);
        // Not up, as long as the step fails.
        let again = run(&node, &["retry"]);
        again.must_fail(1, &["code=hook-failed"]);
        assert_eq!(status(&node).0["state"], "held", "{case:?}");

        node.shell("touch /tmp/repaired");
        run(&node, &["retry"]).must_fail(0, &["result=done"]);

        let called = hooks_called(&node);
        assert_eq!(called, ["configure", "health"], "{case:?}: {}", service.log());
        let by_itself = *lifecycle && *in_group && taken.is_empty() && !matches!(known, Earlier(..) | Killed);
        let expected: Vec<&str> = if by_itself { vec!["CONTINUE"] } else { taken.to_vec() };
        assert_eq!(world.completions(), expected, "{case:?}");
        // A further retry does nothing.
        run(&node, &["retry"]).must_fail(0, &["result=done"]);
        assert_eq!(hooks_called(&node), called, "{case:?}");
    });
}

#[test]
fn after_continue_by_hand_a_failed_node_is_held_without_end_and_mounted_at_boot() {
    let world = World::new();
    let (mut node, volume) = world.node();
    let config = config_with("hold_for = \"10s\"", &[volume_at("/mydata", &volume, "xfs")], "");
    let service = serve(&node, &broken("configure"), &config);
    service.wait_for("held for");
    run(&node, &["complete", "continue", "--yes"]).must_fail(0, &["result=done"]);
    run(&node, &["retry"]).must_fail(1, &["code=hook-failed"]);
    // The hold would have ended by then.
    thread::sleep(Duration::from_secs(10));
    run(&node, &["status"]).must_fail(1, &["FAILED after its launch was completed"]);
    stop(service);

    node.reboot();
    let service = node.start_with(&["run"]);
    service.wait_for("held; repair it");
    assert_eq!(node.shell("findmnt -no FSTYPE /mydata"), "xfs", "{}", service.log());
    node.shell("touch /tmp/repaired");
    run(&node, &["retry"]).must_fail(0, &["result=done"]);
    assert_eq!(hooks_called(&node), ["configure", "health"]);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_hold_keeps_end_and_heartbeats_whatever_becomes_of_the_configuration() {
    // The operator's change of the configuration, and the retry's exit code.
    let config = |world: &World| {
        let volume = world.volume(1);
        config_with("hold_for = \"16s\"", &[volume_at("/mydata", &volume, "xfs")], "")
    };
    type Change = fn(&str) -> Option<String>;
    let cases: &[(&str, Change, i32)] = &[
        ("deleted", |_| None, 5),
        ("garbage", |_| Some("\u{1}\u{2}[[[".to_owned()), 5),
        ("empty", |_| Some(String::new()), 5),
        ("without [lifecycle]", |text| Some(without_lifecycle(text)), 1),
        ("a bad hold_for", |text| Some(text.replace("hold_for = \"16s\"", "hold_for = 16")), 5),
        ("a bad on_failure", |text| Some(text.replace("hold_for = \"16s\"", "on_failure = \"wait\"")), 5),
        ("no hook_name", |text| Some(text.replace("hook_name", "hook_nam")), 5),
        ("a longer hold", |text| Some(text.replace("16s", "3h")), 1),
    ];
    each(cases, |(what, change, code)| {
        let world =
            World::with_hook(&HookSpec { heartbeat_timeout: Duration::from_secs(6), ..HookSpec::default() }, |_| {});
        let text = config(&world);
        let node = world.launch();
        let service = serve(&node, &broken("configure"), &text);
        service.wait_for("held for");
        let until = status(&node).0["hold"]["until"].clone();

        match change(&text) {
            Some(text) => node.configure(text),
            None => {
                node.shell("rm /etc/node-agent/config.toml");
            }
        }
        run(&node, &["retry"]).must_fail(*code, &[]);

        assert_eq!(status(&node).0["hold"]["until"], until, "{what}: {}", service.log());
        let so_far = heartbeats(&world);
        wait_until(|| heartbeats(&world) >= so_far + 2, || format!("{what}: {}", service.log()));
        service.end().must_fail(*code, &["the hold has ended"]);
        assert_eq!(world.completions(), ["ABANDON"], "{what}");
    });
}

#[test]
fn a_node_repaired_without_its_lifecycle_table_is_reported_all_the_same() {
    let world = World::new();
    let node = world.launch();
    let text = config(&[]);
    let service = serve(&node, &broken("configure"), &text);
    service.wait_for("held for");
    node.configure(without_lifecycle(&text));
    node.shell("touch /tmp/repaired");

    run(&node, &["retry"]).must_fail(0, &["has no [lifecycle]", HOOK, "result=done"]);

    assert_eq!(world.completions(), ["CONTINUE"]);
    run(&node, &["status"]).must_fail(0, &["warning: complete: ", "has no [lifecycle]"]);
}

#[test]
fn without_a_configuration_at_the_first_failure_an_earlier_runs_hook_counts() {
    let world =
        World::with_hook(&HookSpec { heartbeat_timeout: Duration::from_secs(6), ..HookSpec::default() }, |_| {});
    let node = world.launch();
    let slow = HOOKS.replace("echo \"configure", "echo here; sleep 600; echo \"configure");
    let service = serve(&node, &slow, &config_with("hold_for = \"8s\"", &[], ""));
    service.wait_for("| here");
    service.signal(Signal::SIGKILL);
    service.end();
    node.shell("rm /etc/node-agent/config.toml");

    let outcome = node.start_with(&["run"]).end();

    outcome.must_fail(5, &["held for", "the hold has ended"]);
    assert_eq!(world.completions(), ["ABANDON"]);
}

#[test]
fn the_hook_of_a_hold_is_called_as_a_valid_configuration_calls_it_now() {
    let world =
        World::with_hook(&HookSpec { heartbeat_timeout: Duration::from_secs(30), ..HookSpec::default() }, |_| {});
    let node = world.launch();
    let text = config_with("hold_for = \"20s\"", &[], "");
    let service = serve(&node, &broken("configure"), &text.replace(HOOK, "another-hook"));
    service.wait_for("held for");
    let until = status(&node).0["hold"]["until"].clone();
    node.configure(text);
    run(&node, &["retry"]).must_fail(1, &["code=hook-failed"]);
    assert_eq!(status(&node).0["hold"]["until"], until);

    service.end().must_fail(1, &["the hold has ended"]);
    assert_eq!(world.completions(), ["ABANDON"]);
}

#[test]
fn a_stepped_clock_neither_lengthens_nor_ends_a_hold() {
    // The end by the wall clock, years off; whether the machine was booted anew; the seconds that may be left.
    let cases: &[(&str, bool, std::ops::RangeInclusive<u64>)] = &[
        ("2046-01-01T00:00:00Z", false, 1..=20),
        ("2006-01-01T00:00:00Z", false, 1..=20),
        ("2046-01-01T00:00:00Z", true, 15..=20),
        ("nonsense", true, 15..=20),
        ("2006-01-01T00:00:00Z", true, 0..=0),
    ];
    each(cases, |case @ (until, booted, left)| {
        let world = World::new();
        let mut node = world.launch();
        let service = serve(&node, &broken("configure"), &config_with("hold_for = \"20s\"", &[], ""));
        service.wait_for("held for");
        service.signal(Signal::SIGKILL);
        service.end();
        edit_journal(&node, |journal| journal["lifecycle"]["hold_until"] = (*until).into());
        if *booted {
            node.reboot();
            node.shell(
                "cat /proc/sys/kernel/random/uuid > /run/boot_id
                 mount --bind /run/boot_id /proc/sys/kernel/random/boot_id",
            );
        }

        let began = Instant::now();
        let service = node.start_with(&["run"]);
        service.wait_for("held for");
        if *left.end() > 0 {
            let seconds = status(&node).0["hold"]["seconds_left"].as_u64().unwrap();
            assert!(left.contains(&seconds), "{case:?}: {seconds}");
        }
        service.end().must_fail(1, &["the hold has ended"]);
        assert!(began.elapsed() < Duration::from_secs(left.end() + 30), "{case:?}");
        assert_eq!(world.completions(), ["ABANDON"], "{case:?}");
    });
}

#[test]
fn a_held_node_becomes_known_as_soon_as_the_metadata_are_back() {
    let world =
        World::with_hook(&HookSpec { heartbeat_timeout: Duration::from_secs(30), ..HookSpec::default() }, |_| {});
    world.sim.add_fault(FaultRule::always("imds:*", Fault::Reset)).unwrap();
    let node = world.launch();
    let text = config_with("hold_for = \"35s\"", &[], "").replace("id = \"00\"", "idd = \"00\"");
    let service = serve(&node, HOOKS, &text);
    service.wait_for("held for");

    world.sim.clear_faults();

    let tag = || world.sim.instance_tags(&node.id).unwrap().contains_key("node-agent:status");
    wait_until(tag, || service.log());
    wait_until(|| heartbeats(&world) >= 1, || service.log());
    service.end().must_fail(5, &["the hold has ended"]);
    assert_eq!(world.completions(), ["ABANDON"]);
}

#[test]
fn a_disk_that_fills_up_in_a_hold_keeps_no_node_from_being_given_up() {
    // Full; then read-only, too; full, and what is published lies on it.
    each(&["full", "read-only", "one disk"], |how| {
        let world = World::new();
        let node = world.launch();
        node.shell("mkdir -p /var/lib/node-agent; mount -t tmpfs -o size=512k tmpfs /var/lib/node-agent");
        if *how == "one disk" {
            node.shell("mkdir -p /var/lib/node-agent/run /run/node-agent; mount --bind /var/lib/node-agent/run /run/node-agent");
        }
        let service = serve(&node, &broken("configure"), &config_with("hold_for = \"8s\"", &[], ""));
        service.wait_for("held for");
        wait_for_state(&node, "held", &service);
        node.shell("! cat /dev/zero > /var/lib/node-agent/core 2>/dev/null");
        if *how == "read-only" {
            node.shell("D=/var/lib/node-agent; mount --bind $D $D; mount -o remount,bind,ro $D");
        }
        run(&node, &["retry"]).must_fail(1, &["code=state-unusable"]);

        service.end().must_fail(1, &["the hold has ended", "code=state-unusable"]);

        assert_eq!(world.completions(), ["ABANDON"], "{how}");
        // Where nothing more can be written, nothing more can be told.
        if *how != "one disk" {
            let (document, code) = status(&node);
            let told = (code, &document["state"], &document["launch"]);
            assert_eq!(told, (1, &"failed".into(), &"abandoned".into()), "{how}: {document}");
        }
    });
}
