//! A cluster of many groups costs few calls, and bears the quotas of an account.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/cluster.rs"]
mod cluster;

use std::collections::BTreeMap;
use std::time::Instant;

use cluster::{Behaviour, CLUSTER, Cluster, Healthy};
use ec2_sim::{Quota, What};

/// The groups, each with a launch template of its own; every one is behind.
const GROUPS: usize = 500;

/// What EC2 documents for its describes, resource-intensive ones apart ("Request throttling for the Amazon EC2 API"), and as much for
/// Auto Scaling, whose quotas are not published.
fn quotas() -> Vec<Quota> {
    let quota = |action: &str| Quota { action: action.to_owned(), capacity: 100.0, refill_per_second: 20.0 };
    vec![quota("ec2:Describe*"), quota("autoscaling:Describe*")]
}

#[test]
fn a_dry_run_of_five_hundred_groups_asks_each_group_what_only_it_can_tell() {
    let cluster = Cluster::new(&Behaviour { nodes: GROUPS, quotas: quotas(), ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    let began = Instant::now();
    let log = cluster.start(&[], &["--cluster", CLUSTER]).must_end(0);
    let took = began.elapsed();
    assert_eq!(log.matches("to version 2: runs version 1").count(), GROUPS, "{log}");
    let mut calls: BTreeMap<String, usize> = BTreeMap::new();
    let mut refused = 0;
    for event in cluster.sim.events().iter() {
        if let What::Api(call) = &event.what {
            *calls.entry(call.action.clone()).or_default() += 1;
            refused += usize::from(call.code.is_some());
        }
    }
    println!(
        "{GROUPS} groups: {took:.1?}, {} calls, {refused} of them refused: {calls:#?}",
        calls.values().sum::<usize>()
    );
    panic!();
}
