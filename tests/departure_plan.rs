//! `node-agent leave --dry-run`: what a departure would do now, beside the running service.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "departure/common.rs"]
mod common;
mod support;

use common::{HOOKS, Leaving, TERMINATE_HOOK, in_service, leaving};
use ec2_sim::GroupSpec;
use support::{Instance, World, config_for};

/// The plan's lines.
fn dry_run(node: &Instance) -> String {
    let output = node.agent(&["leave", "--dry-run"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn must_have(text: &str, step: &str, words: &[&str]) {
    let line =
        text.lines().find(|line| line.contains(&format!(" {step} "))).unwrap_or_else(|| panic!("{step}: {text}"));
    for word in words {
        assert!(line.contains(word), "{step}: {word}: {text}");
    }
}

#[test]
fn a_dry_run_of_the_departure_says_each_step_and_changes_nothing() {
    let rest = "[cluster]\nasg_names = [\"kafka-node-01\"]";
    let Leaving { world, node, volume, service } = leaving("xfs", "detach_on_terminate = true", rest);
    world.sim.create_group(GroupSpec { name: "kafka-node-01".to_owned(), ..GroupSpec::default() }).unwrap();
    let journal = node.journal();
    let mutations = world.events().mutations().len();

    let text = dry_run(&node);

    must_have(&text, "gate", &["would wait", "kafka-node-01 has no instance"]);
    must_have(&text, "drain", &["would do", "drain_cluster_node 00 10.0.1.10"]);
    must_have(&text, "unmount", &["would do", volume.as_str(), "/mydata"]);
    must_have(&text, "detach", &["would do", volume.as_str(), node.id.as_str()]);
    must_have(&text, "leave", &["would do", "CONTINUE", TERMINATE_HOOK]);
    assert_eq!(world.events().mutations().len(), mutations);
    assert_eq!(node.journal(), journal);
    assert!(node.shell("findmnt -n /mydata").contains("xfs"));
    drop(service);
}

#[test]
fn a_dry_run_says_why_a_step_would_do_nothing() {
    let Leaving { node, service, .. } = leaving("ext4", "", "");
    node.hooks(HOOKS.replace("drain_cluster_node", "another_function"));
    let text = dry_run(&node);
    must_have(&text, "gate", &["already so", "no [cluster]"]);
    must_have(&text, "drain", &["already so", "does not define"]);
    must_have(&text, "detach", &["already so", "detach_on_terminate"]);
    drop(service);
}

#[test]
fn a_dry_run_without_a_termination_hook_says_that_nothing_is_done() {
    let world = World::new();
    let (node, volume) = world.node();
    node.configure(config_for(&volume));
    let service = in_service(&node);
    let text = dry_run(&node);
    for step in ["gate", "drain", "unmount", "detach", "leave"] {
        must_have(&text, step, &["already so", "terminate_hook_name is not set"]);
    }
    drop(service);
}
