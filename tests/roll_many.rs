//! A cluster of many groups costs few calls, and bears the quotas of an account.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/cluster.rs"]
mod cluster;

use std::collections::BTreeMap;
use std::time::Instant;

use cluster::{Behaviour, CLUSTER, Cluster, Healthy};
use ec2_sim::{Quota, What};

const VERSIONS: &str = "ec2:DescribeLaunchTemplateVersions";
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
    let (mut answered, mut refused) = (BTreeMap::<String, usize>::new(), 0);
    for event in cluster.sim.events().iter() {
        match &event.what {
            What::Api(call) if call.fault.is_none() => *answered.entry(call.action.clone()).or_default() += 1,
            What::Api(_) => refused += 1,
            _ => {}
        }
    }
    let all: usize = answered.values().sum();
    println!("{GROUPS} groups: {took:.0?}, {all} calls answered, {refused} throttled: {answered:#?}");
    // What AWS tells of one group a call.
    let one_by_one = ["autoscaling:DescribeInstanceRefreshes", "autoscaling:DescribeLifecycleHooks", VERSIONS];
    for action in one_by_one {
        assert_eq!(answered.remove(action), Some(GROUPS), "{action}");
    }
    // A hundred groups or two hundred templates, images or instances a call; and no proof takes more than four looks here.
    let batched: usize = answered.values().sum();
    assert!(batched <= 100, "{answered:#?}");
}
