//! What an agent says that is stopped, or that lacks root.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use nix::sys::signal::Signal;
use support::{HOOKS, PROGRAM, World, serving};

const FAILS: &str = "configure_cluster_node() { echo no; return 3; }\nwait_for_healthy_cluster() { :; }\n";
const HANGS: &str = "configure_cluster_node() { echo here; sleep 600; }\nwait_for_healthy_cluster() { :; }\n";

#[test]
fn a_service_that_is_stopped_before_the_node_is_up_says_stopped_and_exits_3() {
    for (hooks, at) in [(FAILS, "held for"), (HANGS, "| here")] {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let world = World::new();
            let (_node, service) = serving(&world, hooks, at);

            service.signal(signal);

            let outcome = service.end();
            outcome.must_fail(3, &[]);
            assert!(outcome.last().starts_with("node-agent: result=stopped "), "{at} {signal}: {}", outcome.log);
            assert!(world.completions().is_empty());
        }
    }
}

#[test]
fn a_service_that_is_stopped_when_the_node_is_up_is_done() {
    let world = World::new();
    let (_node, service) = serving(&world, HOOKS, "result=done");

    service.signal(Signal::SIGTERM);

    let outcome = service.end();
    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert_eq!(outcome.last(), "node-agent: result=done");
}

#[test]
fn without_root_each_command_says_only_that_it_needs_root() {
    let world = World::new();
    let node = world.launch();
    for arguments in [
        &["run"][..],
        &["run", "--once"],
        &["status"],
        &["status", "--json"],
        &["retry"],
        &["plan"],
        &["complete", "continue", "--yes"],
        &["check"],
        &["install"],
    ] {
        let name = arguments[0];
        let output = node
            .machine()
            .command("setpriv")
            .args(["--reuid=daemon", "--regid=daemon", "--clear-groups", PROGRAM])
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("run it as root: sudo node-agent {name}\n"));
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}
