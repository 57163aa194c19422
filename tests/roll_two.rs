//! Two rolls of one cluster: exactly one is at work.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/cluster.rs"]
mod cluster;

use std::time::{Duration, SystemTime};

use cluster::witness::{at_most_one_was_out, changes, nothing_was_taken_wrongly, order};
use cluster::{Behaviour, Cluster, Healthy};

fn cluster_behind() -> Cluster {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    cluster
}

/// The flag of a roll on another machine, whose last heartbeat is this old.
fn flag(age: Duration) -> String {
    let beat = humantime::format_rfc3339_seconds(SystemTime::now() - age);
    let since = humantime::format_rfc3339_seconds(SystemTime::now() - age - Duration::from_mins(1));
    format!(
        "run=0badcafe since={since} beat={beat} by=bob@elsewhere boot=f81d4fae-7dec-11d0-a765-00a0c91e6bf6          pid=4026531836/4242/99"
    )
}

#[test]
fn of_two_rolls_in_the_same_instant_exactly_one_goes_on() {
    let cluster = cluster_behind();
    let (one, other) = (cluster.roll(&[]), cluster.roll(&[]));
    let ((one, one_log), (other, other_log)) = (one.end(), other.end());
    let mut codes = [one, other];
    codes.sort_unstable();
    assert_eq!(codes, [0, 4], "{one_log}\n--\n{other_log}");
    cluster.all_run("2");
    at_most_one_was_out(&cluster.sim, &cluster.groups());
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
    assert_eq!(order(&cluster.sim).len(), 2);
    cluster.has_no_flag();
}

#[test]
fn a_later_roll_withdraws_while_the_first_is_at_work() {
    let cluster = cluster_behind();
    let first = cluster.roll(&[]);
    first.wait_for("is terminated");
    let log = cluster.roll(&[]).must_end(4);
    assert!(log.contains("another roll is at work: run ") && log.contains(" by ann@"), "{log}");
    let first = first.must_end(0);
    assert!(!first.contains("another roll"), "{first}");
    cluster.all_run("2");
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
}

#[test]
fn a_living_roll_on_another_machine_is_respected() {
    let cluster = cluster_behind();
    for number in 0..2 {
        cluster.set_tag(number, "node-agent:roll", &flag(Duration::from_secs(1)));
    }
    let log = cluster.roll(&[]).must_end(4);
    assert!(log.contains("run 0badcafe by bob@elsewhere"), "{log}");
    assert_eq!(changes(&cluster.sim), Vec::<String>::new(), "{log}");
    assert!(cluster.tags(0).contains_key("node-agent:roll"), "its flag is not this roll's to take");
}

#[test]
fn a_flag_without_a_heartbeat_for_two_minutes_is_dead() {
    let cluster = cluster_behind();
    for number in 0..2 {
        cluster.set_tag(number, "node-agent:roll", &flag(Duration::from_secs(125)));
    }
    let log = cluster.roll(&[]).must_end(0);
    assert!(!log.contains("another roll"), "{log}");
    cluster.all_run("2");
    cluster.has_no_flag();
}

#[test]
fn a_roll_with_nothing_to_do_takes_a_dead_flag_away_and_leaves_a_living_one() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    cluster.set_tag(0, "node-agent:roll", &flag(Duration::from_secs(125)));
    cluster.set_tag(1, "node-agent:roll", &flag(Duration::from_secs(1)));
    let log = cluster.roll(&[]).must_end(0);
    assert!(!cluster.tags(0).contains_key("node-agent:roll"), "{log}");
    assert!(cluster.tags(1).contains_key("node-agent:roll"), "{log}");
    assert_eq!(changes(&cluster.sim), ["autoscaling:DeleteTags"], "{log}");
}
