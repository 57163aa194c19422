//! An agent that is killed at the gate, or after it.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "gate/common.rs"]
mod common;
#[path = "departure/common.rs"]
mod departure;
mod support;

use common::{
    CLUSTER, EARLIER, HOOKS, LATER, must_leave_after, node_of_cluster, other, uptime, wait_at_the_gate,
    wait_until_written, write_status, written,
};
use departure::{Leaving, ordered};
use ec2_sim::What;
use nix::sys::signal::Signal;
use support::{GROUP, Instance, Running, each, hooks_called, wait_until};

/// The service is killed, or stopped as systemd stops it, and started again.
fn restart(node: &Instance, service: Running, signal: Signal) -> Running {
    service.signal(signal);
    let outcome = service.end();
    let expected = (signal == Signal::SIGTERM).then_some(3);
    assert_eq!(outcome.code, expected, "{}", outcome.log);
    node.start_with(&["run"])
}

#[test]
fn a_restart_at_the_gate_goes_on_waiting() {
    each(&[Signal::SIGKILL, Signal::SIGTERM], |signal| {
        let Leaving { world, node, mut service, .. } = node_of_cluster(CLUSTER);
        let id = other(&world, LATER);
        world.sim.set_lifecycle_state(&id, "Standby").unwrap();
        ordered(&world, &node);
        for _ in 0..2 {
            wait_at_the_gate(&service, id.as_str());
            service = restart(&node, service, *signal);
        }
        wait_at_the_gate(&service, id.as_str());

        let released = uptime();
        world.sim.set_lifecycle_state(&id, "InService").unwrap();

        must_leave_after(released, &node, service);
        assert_eq!(hooks_called(&node), ["configure", "health", "drain"]);
        assert_eq!(world.completions(), ["CONTINUE", "CONTINUE"]);
    });
}

#[test]
fn a_kill_after_the_gate_waits_at_no_gate_again() {
    let Leaving { world, node, service, .. } = node_of_cluster(CLUSTER);
    let id = other(&world, LATER);
    let waits =
        "touch /tmp/draining; for ((left = 6000; left > 0; left--)); do [ ! -e /tmp/go ] || break; sleep 0.01; done\n";
    node.hooks(HOOKS.replace("  echo \"drain", &format!("  {waits}  echo \"drain")));
    // The hooks are read when the node is brought up: the ones that are kept are taken.
    let service = restart(&node, service, Signal::SIGKILL);
    service.wait_for("result=done");
    ordered(&world, &node);
    wait_until(|| node.machine().read("/tmp/draining").is_ok(), || service.log());

    world.sim.set_lifecycle_state(&id, "Standby").unwrap();
    node.write("/tmp/go", "");
    let service = restart(&node, service, Signal::SIGKILL);

    let log = must_leave_after(0.0, &node, service);
    assert!(!log.contains("gate: "), "{log}");
    assert_eq!(world.completions(), ["CONTINUE", "CONTINUE"]);
}

#[test]
fn a_word_that_was_written_before_a_kill_is_taken_back_before_the_drain() {
    let Leaving { world, node, service, .. } = node_of_cluster(CLUSTER);
    let id = other(&world, EARLIER);
    world.sim.set_lifecycle_state(&id, "Terminating:Wait").unwrap();
    write_status(&world, &id, "gate: goes first");
    ordered(&world, &node);
    wait_until_written(&world, &node, &format!("gate: waits for {id} in {EARLIER}"), &service);

    service.signal(Signal::SIGKILL);
    service.end();
    // Opens the gate before the new process has had a reason to write anything.
    world.sim.change_group(GROUP, |group| group.wants = 0).unwrap();
    let service = node.start_with(&["run"]);

    must_leave_after(0.0, &node, service);
    assert_eq!(written(&world, &node.id), "drain: the node leaves");
    let took_back = |what: &What| {
        matches!(what, What::Api(call) if call.action == "ec2:CreateTags"
            && call.parameters.values().any(|value| value == "drain: the node leaves"))
    };
    let left = |what: &What| matches!(what, What::Lifecycle(change) if change.to == "Terminating:Proceed");
    assert!(common::between(&world, took_back, left).is_some_and(|time| !time.is_zero()));
}
