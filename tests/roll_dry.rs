//! Where a roll has nothing to do, or may do nothing, it changes nothing.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/cluster.rs"]
mod cluster;

use cluster::witness::changes;
use cluster::{Behaviour, CLUSTER, Cluster, Healthy, group};

#[test]
fn a_cluster_that_runs_the_target_is_not_touched() {
    let cluster = Cluster::new(&Behaviour::default());
    let log = cluster.roll(&["--check", "false"]).must_end(0);
    assert!(log.contains("runs version 1, stays"), "{log}");
    assert_eq!(changes(&cluster.sim), Vec::<String>::new(), "{log}");
    for number in 0..3 {
        assert_eq!(cluster.tags(number).len(), 1, "{:?}", cluster.tags(number));
    }
}

#[test]
fn a_dry_run_shows_order_and_difference_and_changes_nothing() {
    let cluster = Cluster::new(&Behaviour::default());
    cluster.publish("ami-2", Healthy);
    let log = cluster.start(&[], &["--cluster", CLUSTER, "--leader", "echo 00"]).must_end(0);
    let places: Vec<_> = ["01: 1. to version 2", "02: 2. to version 2", "00: 3. to version 2"]
        .iter()
        .map(|text| log.find(text).unwrap_or_else(|| panic!("{text:?} is missing:\n{log}")))
        .collect();
    assert!(places.is_sorted(), "{log}");
    assert!(log.contains("image: ami-1 -> ami-2"), "{log}");
    assert!(log.contains("runs version 1, the leader, goes last"), "{log}");
    assert!(log.contains("--yes"), "{log}");
    assert_eq!(changes(&cluster.sim), Vec::<String>::new(), "{log}");
}

#[test]
fn a_dry_run_of_what_would_be_refused_ends_with_6() {
    let cluster = Cluster::new(&Behaviour::default());
    cluster.publish("ami-2", Healthy);
    cluster.change(1, |spec| spec.hooks.retain(|hook| hook.name != "launch-hook"));
    let log = cluster.start(&[], &["--cluster", CLUSTER]).must_end(6);
    assert!(log.contains("1. to version 2"), "the plan is shown all the same:\n{log}");
    assert!(log.contains("kafka-node-01: it has no launch lifecycle hook"), "{log}");
    assert!(log.contains("--override launch-hook"), "{log}");
    assert_eq!(changes(&cluster.sim), Vec::<String>::new(), "{log}");
}

#[test]
fn a_list_that_is_not_the_cluster_is_refused() {
    let cluster = Cluster::new(&Behaviour::default());
    cluster.publish("ami-2", Healthy);
    let (a, b, c) = (group(0), group(1), group(2));
    let stale = cluster.start(&[], &["--asg", &a, &b, "--yes"]);
    let unknown = cluster.start(&[], &["--asg", &a, &b, &c, "kafka-node-09", "--yes"]);
    let no_tag = cluster.start(&[], &["--cluster", "stateful-cluster=zookeeper", "--yes"]);
    let no_node = cluster.roll(&["--canary", "09"]);
    let log = stale.must_end(6);
    assert!(log.contains("kafka-node-02: it has the tag stateful-cluster=kafka"), "{log}");
    assert!(log.contains("--override partial-list"), "{log}");
    let log = unknown.must_end(6);
    assert!(log.contains("kafka-node-09: there is no such Auto Scaling group"), "{log}");
    let log = no_tag.must_end(6);
    assert!(log.contains("no Auto Scaling group has the tag stateful-cluster=zookeeper"), "{log}");
    let log = no_node.must_end(2);
    assert!(log.contains("09 is no node of the list"), "{log}");
    assert_eq!(changes(&cluster.sim), Vec::<String>::new());
}
