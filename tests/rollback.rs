//! An upgrade of the agent and its rollback repeat no work: not on a node in service, on a held one, or in the middle of a step. The
//! other version is the real binary of 0.1.0.
//!
//! Run by `make test-rollback`, which builds it and names it in `OLD_AGENT`. What ran again in each case is printed.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "departure/common.rs"]
mod common;
mod support;

use std::fs;
use std::sync::LazyLock;

use ec2_sim::{Fault, FaultRule};
use nix::sys::signal::Signal;
use support::{HOOKS, Instance, PROGRAM, World, config_with, hooks_called, stop, volume_at, wait_until};

/// Read before a world hides the host's folders.
static OLD_AGENT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = std::env::var("OLD_AGENT").expect("OLD_AGENT names the binary of the other version: make test-rollback");
    fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
});

const OLD: &str = "/opt/other-version/node-agent";
const DIRECTIONS: [(&str, &str, &str); 2] = [("upgrade", OLD, PROGRAM), ("rollback", PROGRAM, OLD)];

fn world() -> World {
    assert!(!OLD_AGENT.is_empty());
    World::new()
}

/// A node with both versions, and these hooks.
fn node(world: &World, hooks: &str) -> Instance {
    let (node, volume) = world.node();
    node.hooks(hooks);
    let config = config_with("hold_for = \"10m\"", &[volume_at("/mydata", &volume, "xfs")], "");
    node.configure(config);
    node.write(OLD, OLD_AGENT.as_slice());
    node.shell(&format!("chmod 0755 {OLD}; {OLD} --version; {PROGRAM} --version"));
    node
}

fn formats(node: &Instance) -> usize {
    node.machine().read("/var/log/mkfs").unwrap_or_default().lines().count()
}

/// Counts the formats, and waits in mkfs while /tmp/hold-mkfs exists.
fn watch_mkfs(node: &Instance) {
    node.shell(
        "mv $(readlink -f /usr/sbin/mkfs.xfs) /opt/mkfs.xfs
         cat >/usr/sbin/mkfs.xfs <<'END'
#!/bin/sh
[ \"$1\" = -V ] && exec /opt/mkfs.xfs -V
case \"$*\" in */dev/*) echo \"$*\" >>/var/log/mkfs ;; esac
while [ -e /tmp/hold-mkfs ]; do sleep 0.05; done
exec /opt/mkfs.xfs \"$@\"
END
         chmod 0755 /usr/sbin/mkfs.xfs",
    );
}

#[test]
fn a_node_in_service_stays_as_it_is_whatever_version_takes_over() {
    for (direction, first, second) in DIRECTIONS {
        let world = world();
        let mut node = node(&world, HOOKS);
        watch_mkfs(&node);
        let service = node.start_program(first, &["run"]);
        wait_until(|| world.completions().len() == 1, || service.log());
        service.wait_for("result=done");
        stop(service);
        // To the other version and back, with and without a reboot.
        for (program, reboots) in [(second, false), (first, false), (second, true), (first, true)] {
            if reboots {
                node.reboot();
            }
            let service = node.start_program(program, &["run"]);
            service.wait_for("result=done");
            assert!(!service.log().contains("set aside"), "{direction}: {}", service.log());
            stop(service);
            assert_eq!(node.shell("findmnt -no FSTYPE /mydata"), "xfs");
        }
        assert_eq!(hooks_called(&node), ["configure", "health"], "{direction}");
        assert_eq!((world.completions(), formats(&node)), (vec!["CONTINUE".to_owned()], 1), "{direction}");
        println!("{direction} of a node in service: nothing ran again");
    }
}

#[test]
fn a_held_node_keeps_its_end_and_is_repaired_by_the_other_version() {
    for (direction, first, second) in DIRECTIONS {
        for broken in ["configure", "health"] {
            let world = world();
            let hooks = HOOKS
                .replace(&format!("echo \"{broken}"), &format!("[ -e /tmp/repaired ] || return 3; echo \"{broken}"));
            let node = node(&world, &hooks);
            watch_mkfs(&node);
            let service = node.start_program(first, &["run"]);
            service.wait_for("held for");
            let until = |node: &Instance| node.journal()["lifecycle"]["hold_until"].as_str().unwrap().to_owned();
            let promised = until(&node);
            stop(service);

            let service = node.start_program(second, &["run"]);
            service.wait_for("held for");
            assert_eq!(until(&node)[..19], promised[..19], "{direction} {broken}");
            node.shell("touch /tmp/repaired");
            node.start_program(second, &["retry"]).end().must_fail(0, &["result=done"]);
            stop(service);

            assert_eq!(hooks_called(&node), ["configure", "health"], "{direction} {broken}");
            assert_eq!((world.completions(), formats(&node)), (vec!["CONTINUE".to_owned()], 1), "{direction} {broken}");
            println!(
                "{direction} of a node held at {broken}: nothing that was completed ran again, and the hold kept its end"
            );
        }
    }
}

/// Where the agent is killed, named by what holds it there.
#[derive(Clone, Copy, Debug)]
enum KillAt {
    /// A call that is not answered.
    Call(&'static str),
    /// An mkfs that does not end.
    Mkfs,
    /// The first line of a step.
    Line(&'static str),
    /// A hook that waits.
    Hook(&'static str),
}

#[test]
fn a_step_cut_off_in_one_version_is_completed_by_the_other_without_repeats() {
    let kills = [
        ("attach", KillAt::Call("ec2:AttachVolume")),
        ("filesystem", KillAt::Mkfs),
        ("mount", KillAt::Line(" mount vol-")),
        ("grow", KillAt::Line(" grow vol-")),
        ("ownership", KillAt::Line(" ownership vol-")),
        ("files", KillAt::Line(" files: ")),
        ("configure", KillAt::Hook("configure")),
        ("health-check", KillAt::Hook("health")),
        ("complete", KillAt::Call("autoscaling:CompleteLifecycleAction")),
    ];
    for (direction, first, second) in DIRECTIONS {
        for (step, at) in kills {
            let world = world();
            let waits = |hook: &str| {
                HOOKS.replace(
                    &format!("echo \"{hook}"),
                    &format!("until [ -e /tmp/go ]; do sleep 0.05; done; echo \"{hook}"),
                )
            };
            let node = node(&world, &if let KillAt::Hook(hook) = at { waits(hook) } else { HOOKS.to_owned() });
            watch_mkfs(&node);
            if let KillAt::Call(action) = at {
                world.sim.add_fault(FaultRule::always(action, Fault::Hang)).unwrap();
            }
            if let KillAt::Mkfs = at {
                node.shell("touch /tmp/hold-mkfs");
            }

            let service = node.start_program(first, &["run"]);
            match at {
                KillAt::Call(action) => wait_until(|| !world.events().attempts(action).is_empty(), || service.log()),
                KillAt::Mkfs => wait_until(|| formats(&node) > 0, || service.log()),
                KillAt::Line(line) => service.wait_for(line),
                KillAt::Hook(_) => service.wait_for(&format!("{step}: start")),
            }
            service.signal(Signal::SIGKILL);
            service.end();
            let before = hooks_called(&node);
            world.sim.clear_faults();
            node.shell("rm -f /tmp/hold-mkfs; touch /tmp/go");

            let service = node.start_program(second, &["run"]);
            service.wait_for("result=done");
            stop(service);

            let context = format!("{direction} in the middle of {step}");
            assert_eq!(hooks_called(&node), ["configure", "health"], "{context}, after {before:?}");
            assert_eq!(world.completions(), ["CONTINUE"], "{context}");
            assert_eq!(node.shell("findmnt -no FSTYPE /mydata"), "xfs", "{context}");
            let again = formats(&node) - 1;
            assert!(again == 0 || step == "filesystem", "{context}: {} formats", again + 1);
            println!(
                "{context}: {}",
                if again > 0 { "the format that was cut off" } else { "nothing that was completed ran again" }
            );
        }
    }
}

/// 0.1.0 knows no departure: it sees an instance that is to go, and leaves it alone. What it writes has no departure either, so
/// that the later version hears of the order anew.
#[test]
fn a_rollback_in_the_middle_of_a_departure_keeps_the_journal_and_harms_nothing() {
    for (step, called) in [("drain", 1), ("leave", 2)] {
        assert!(!OLD_AGENT.is_empty());
        let world = common::world(|_| {});
        let (node, volume) = world.node();
        let holds = "\n  until [ -e /tmp/go ]; do sleep 0.05; done\n  echo \"drain";
        node.hooks(common::HOOKS.replace("\n  echo \"drain", holds));
        node.configure(common::config(&volume, "xfs", "detach_on_terminate = true", ""));
        node.write(OLD, OLD_AGENT.as_slice());
        node.shell(&format!("chmod 0755 {OLD}"));
        watch_mkfs(&node);
        let service = common::in_service(&node);
        node.shell("echo precious > /mydata/precious");
        if step == "leave" {
            node.shell("touch /tmp/go");
            world.sim.add_fault(FaultRule::always("autoscaling:CompleteLifecycleAction", Fault::Hang)).unwrap();
        }
        common::ordered(&world, &node);
        service.wait_for(&format!("{step}: start"));
        service.signal(Signal::SIGKILL);
        service.end();
        world.sim.clear_faults();
        let before = node.journal();
        assert!(!before["departure"].is_null());
        let drained = usize::from(step == "leave");
        let detached = world.events().calls("ec2:DetachVolume").len();

        let old = node.start_program(OLD, &["run", "--once"]).end();
        old.must_fail(7, &["code=terminating"]);
        assert!(!old.log.contains("set aside"), "{step}: {}", old.log);
        let journal = node.journal();
        for key in ["volumes", "once", "lifecycle"] {
            assert_eq!(journal[key]["outcome"], before[key]["outcome"], "{step}: {}", old.log);
            assert!(!journal[key].as_object().unwrap().is_empty(), "{step}: {journal}");
        }
        assert_eq!(hooks_called(&node).len(), 2 + drained, "{step}: {}", old.log);
        assert_eq!((world.completions(), formats(&node)), (vec!["CONTINUE".to_owned()], 1), "{step}: {}", old.log);
        assert_eq!(world.events().calls("ec2:DetachVolume").len(), detached, "{step}: {}", old.log);
        assert_eq!(world.events().calls("ec2:AttachVolume").len(), 1, "{step}: {}", old.log);

        node.shell("touch /tmp/go");
        let back = node.start_with(&["run"]).end();
        assert_eq!(back.code, Some(0), "{step}: {}", back.log);
        let drains = hooks_called(&node).iter().filter(|hook| *hook == "drain").count();
        assert_eq!(drains, called, "{step}: {}", back.log);
        assert_eq!((world.completions(), formats(&node)), (vec!["CONTINUE".to_owned(); 2], 1), "{step}: {}", back.log);
        assert!(world.sim.volume_state(&volume).unwrap().attachments.is_empty(), "{step}: {}", back.log);
        println!("rollback and return in the middle of {step}: the drain function ran {drains} times");
    }
}
