//! What people see of a departure: status, metrics, the instance's tag, and the answer to a retry.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "departure/common.rs"]
mod common;
mod support;

use common::{Leaving, draining, must_have_left, ordered, with_hooks};
use serde_json::Value;
use support::{Instance, World, run, status, wait_until};

/// A drain that goes on until it is told to end.
fn waiting() -> String {
    draining("echo drains; while [ ! -e /tmp/go ]; do sleep 0.1; done")
}

fn tag(world: &World, node: &Instance) -> String {
    world.sim.instance_tags(&node.id).unwrap().remove("node-agent:status").unwrap_or_default()
}

fn step<'a>(document: &'a Value, name: &str) -> &'a Value {
    let steps = document["steps"].as_array().unwrap();
    steps.iter().rfind(|step| step["step"] == name).unwrap_or_else(|| panic!("no {name}: {document}"))
}

#[test]
fn status_metrics_and_plan_show_a_departure_at_work_and_at_its_end() {
    let Leaving { world, node, service, .. } = with_hooks(&waiting(), "");
    ordered(&world, &node);
    service.wait_for("| drains");

    let (document, code) = status(&node);
    assert_eq!((&document["state"], code), (&"leaving".into(), 3), "{document}");
    assert_eq!(step(&document, "drain")["outcome"], "running", "{document}");
    assert_eq!(step(&document, "leave")["outcome"], "pending", "{document}");
    let text = run(&node, &["status"]);
    text.must_fail(3, &["leaving: the instance is to go", "...   drain"]);
    let metrics = node.read("/run/node-agent/node_agent.prom");
    assert!(metrics.contains("node_agent_state{state=\"leaving\"} 1\n"), "{metrics}");
    assert!(metrics.contains("node_agent_step_duration_seconds{step=\"drain\",volume=\"\"}"), "{metrics}");

    node.shell("touch /tmp/go");
    must_have_left(&world, &node, &service.end());

    let (document, code) = status(&node);
    assert_eq!((&document["state"], code), (&"left".into(), 0), "{document}");
    for name in ["drain", "unmount", "detach", "leave"] {
        assert_eq!(step(&document, name)["outcome"], "changed", "{name}: {document}");
    }
    run(&node, &["status"]).must_fail(0, &["has left: the instance may be terminated", "ok    leave"]);
    let metrics = node.read("/run/node-agent/node_agent.prom");
    assert!(metrics.contains("node_agent_state{state=\"left\"} 1\n"), "{metrics}");
}

#[test]
fn a_step_of_the_departure_that_failed_is_in_the_instances_tag() {
    let Leaving { world, node, service, .. } = with_hooks(&draining("echo secret; return 3"), "");

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    let tag = tag(&world, &node);
    assert!(tag.starts_with("drain: ") && !tag.contains("secret"), "{tag}");
    let metrics = node.read("/run/node-agent/node_agent.prom");
    assert!(metrics.contains("node_agent_step_failed{step=\"drain\",volume=\"\"} 1\n"), "{metrics}");
    run(&node, &["status"]).must_fail(0, &["FAIL  drain", "drain_cluster_node ended with", "| secret"]);
    assert_eq!(step(&status(&node).0, "drain")["error"]["code"], "hook-failed", "{}", status(&node).0);
}

#[test]
fn a_retry_and_a_complete_during_a_departure_are_refused_with_4() {
    let Leaving { world, node, service, .. } = with_hooks(&waiting(), "");
    ordered(&world, &node);
    service.wait_for("| drains");

    for arguments in [&["retry"][..], &["complete", "abandon", "--yes"], &["run", "--once"]] {
        let refused = run(&node, arguments);
        assert_eq!(refused.code, Some(4), "{arguments:?}: {}", refused.log);
    }
    node.shell("touch /tmp/go");

    must_have_left(&world, &node, &service.end());
}

#[test]
fn what_takes_long_says_for_whom_it_waits() {
    let Leaving { world, node, service, .. } = with_hooks(&waiting(), "");
    node.shell("mkdir /mydata/inner; mount -t tmpfs inner /mydata/inner; touch /tmp/go");
    ordered(&world, &node);
    wait_until(|| service.log().contains("is busy"), || service.log());

    wait_until(
        || step(&status(&node).0, "unmount")["waiting"].as_str().is_some_and(|why| why.contains("/mydata/inner")),
        || status(&node).0.to_string(),
    );

    node.shell("umount /mydata/inner");
    must_have_left(&world, &node, &service.end());
}
