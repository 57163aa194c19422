//! How far a roll goes, what it leaves alone, and what people and programs see of it.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/cluster.rs"]
mod cluster;

use std::process::Command;

use cluster::witness::{at_most_one_was_out, changes, order};
use cluster::{Behaviour, CLUSTER, Cluster, Healthy, group};
use ec2_sim::What;
use serde_json::Value;

const PAUSED: &str = "node-agent:roll-paused";

fn nodes(nodes: usize) -> Cluster {
    let cluster = Cluster::new(&Behaviour { nodes, ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    cluster
}

/// What a command prints on its standard output. It must succeed.
fn stdout(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Pauses by this option after the named node, stays paused, and goes on.
fn pauses(arguments: &[&str], first: usize) {
    let cluster = nodes(2);
    let log = cluster.roll(arguments).must_end(0);
    assert!(log.contains(&format!("paused by {}", arguments[0])), "{log}");
    assert_eq!(order(&cluster.sim), [group(first)], "{log}");
    cluster.has_no_flag();
    assert!(cluster.tags(0)[PAUSED].contains(&format!("by={}", &arguments[0][2..])), "{:?}", cluster.tags(0));
    let before = changes(&cluster.sim).len();
    let log = cluster.roll(&[]).must_end(0);
    assert!(log.contains("--continue"), "{log}");
    assert_eq!(changes(&cluster.sim).len(), before, "a paused cluster is not touched\n{log}");
    let status = stdout(cluster.command(&[], &["status", "--cluster", CLUSTER]));
    assert!(status.contains("paused by --") && status.contains("--continue goes on"), "{status}");
    cluster.roll(&["--continue"]).must_end(0);
    cluster.all_run("2");
    at_most_one_was_out(&cluster.sim, &cluster.groups());
    for number in 0..2 {
        assert!(!cluster.tags(number).contains_key(PAUSED), "{:?}", cluster.tags(number));
    }
}

#[test]
fn a_canary_goes_first_and_the_roll_pauses_until_it_is_continued() {
    pauses(&["--canary", "01"], 1);
}

#[test]
fn a_roll_of_some_nodes_pauses_until_it_is_continued() {
    pauses(&["--max-nodes", "1"], 0);
}

#[test]
fn what_is_to_be_left_alone_is_left_alone() {
    let cluster = nodes(3);
    cluster.set_tag(1, "node-agent:do-not-roll", "legal hold");
    let log = cluster.roll(&["--skip", "kafka-node-00"]).must_end(0);
    assert!(log.contains("00: is left alone although it runs version 1: --skip names it"), "{log}");
    assert!(log.contains("01: is left alone") && log.contains("legal hold"), "{log}");
    assert_eq!(order(&cluster.sim), [group(2)], "{log}");
    cluster.has_no_flag();
}

#[test]
fn only_the_named_node_is_rolled() {
    let cluster = nodes(3);
    let log = cluster.roll(&["--only", "01"]).must_end(0);
    assert!(log.contains("--only names others"), "{log}");
    assert_eq!(order(&cluster.sim), [group(1)], "{log}");
}

#[test]
fn a_roll_watches_for_the_time_of_bake_and_no_timeout_counts_it() {
    let cluster = nodes(2);
    let log = cluster.roll(&["--bake", "60s", "--timeout", "55s"]).must_end(0);
    assert!(log.contains("--bake is not over yet"), "{log}");
    cluster.all_run("2");
    let events = cluster.sim.events();
    let mut back = events.iter().filter(
        |event| matches!(&event.what, What::Lifecycle(change) if change.group == group(0) && change.to == "InService"),
    );
    let back = back.next_back().unwrap().t;
    let mut next = events.iter().filter(|event| {
        matches!(&event.what, What::Lifecycle(change) if change.group == group(1) && change.to == "Terminating")
    });
    let next = next.next_back().unwrap().t;
    assert!(next - back >= 60.0, "{back} {next}\n{log}");
}

#[test]
fn the_status_tells_who_rolls_and_what_was_rolled_last() {
    let cluster = nodes(1);
    let status = |more: &[&str]| stdout(cluster.command(&[], &[&["status", "--cluster", CLUSTER], more].concat()));
    assert!(status(&[]).contains("nobody rolls"));
    let roll = cluster.roll(&[]);
    roll.wait_for("is terminated");
    let text = status(&[]);
    assert!(text.contains("rolls: run ") && text.contains("by ann@") && !text.contains("dead"), "{text}");
    let json: Value = serde_json::from_str(&status(&["--json"])).unwrap();
    assert_eq!((&json["schema"], &json["rolls"][0]["alive"]), (&Value::from(1), &Value::from(true)), "{json}");
    roll.must_end(0);
    let text = status(&[]);
    assert!(text.contains("nobody rolls"), "{text}");
    assert!(text.contains("kafka-node-00: last rolled from version 1 to version 2"), "{text}");
    let json: Value = serde_json::from_str(&status(&["--json"])).unwrap();
    assert_eq!(json["rolls"], Value::Array(Vec::new()), "{json}");
    let last = &json["groups"][0]["last"];
    assert_eq!((&last["from"], &last["to"]), (&Value::from(1), &Value::from(2)), "{json}");
}

#[test]
fn every_line_of_json_has_its_schema_time_event_and_run() {
    let cluster = nodes(1);
    let output = stdout(cluster.command(&[], &["--cluster", CLUSTER, "--yes", "--json", "--check", "true"]));
    let events: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for event in &events {
        assert_eq!(event["schema"], 1, "{event}");
        for field in ["time", "event", "run", "level", "text"] {
            assert!(event[field].is_string(), "{field}: {event}");
        }
        assert_eq!(event["run"], events[0]["run"], "{event}");
        for field in ["node", "group", "instance"] {
            assert!(event.get(field).is_some(), "{field}: {event}");
        }
    }
    let of =
        |name: &str| events.iter().find(|event| event["event"] == name).unwrap_or_else(|| panic!("{name}: {output}"));
    assert_eq!(of("plan")["changes"][0]["key"], "image", "{output}");
    assert_eq!((&of("taken")["node"], &of("taken")["group"]), (&Value::from("00"), &Value::from(group(0))));
    for name in ["staged", "check", "arrived", "finished", "timeline"] {
        of(name);
    }
    assert!(of("timeline")["total_seconds"].is_u64(), "{output}");
}

#[test]
fn the_last_roll_is_written_on_each_group_and_no_tag_is_propagated() {
    let cluster = nodes(2);
    let victims: Vec<_> = (0..2).map(|number| cluster.in_service(number)).collect();
    cluster.roll(&[]).must_end(0);
    for (number, victim) in victims.iter().enumerate() {
        let tags = cluster.tags(number);
        let last = &tags["node-agent:roll-last"];
        assert!(last.contains(" from=1 to=2 ") && last.contains(&format!("victim={victim}")), "{last}");
        let launched = cluster.sim.instance_tags(&cluster.in_service(number)).unwrap();
        assert!(launched.keys().all(|key| !key.starts_with("node-agent:roll")), "{launched:?}");
    }
    for call in cluster.sim.events().calls("autoscaling:CreateOrUpdateTags") {
        let propagates = call.parameters.iter().filter(|(name, _)| name.ends_with("PropagateAtLaunch"));
        assert!(propagates.clone().count() > 0, "{call:?}");
        assert!(propagates.into_iter().all(|(_, value)| value == "false"), "{call:?}");
    }
}
