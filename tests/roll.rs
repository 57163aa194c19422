//! A cluster replaced node by node: the order, the rules, and what ends a roll.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/cluster.rs"]
mod cluster;

use cluster::witness::at_most_one_was_out;
use cluster::{Behaviour, Cluster, Healthy};

#[test]
fn three_nodes_are_replaced_one_at_a_time_and_by_name() {
    let cluster = Cluster::new(&Behaviour::default());
    let before: Vec<_> = (0..3).map(|number| cluster.in_service(number)).collect();
    cluster.publish("ami-2", Healthy);
    let log = cluster.roll(&["--check", "true"]).must_end(0);
    at_most_one_was_out(&cluster.sim, &cluster.groups());
    for (number, before) in before.iter().enumerate() {
        assert_ne!(cluster.in_service(number), *before, "{log}");
        assert_eq!(cluster.staged(number), "2", "{log}");
    }
}
