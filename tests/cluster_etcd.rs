//! An etcd cluster comes up by the shipped hook, is rolled while a client writes, and loses nothing.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod clusters;
#[path = "clusters/etcd.rs"]
mod etcd;

use clusters::network::address;
use clusters::promises;
use clusters::region::Cluster;
use clusters::room::{in_room, shell};
use etcd::Etcd;

#[test]
fn an_etcd_cluster_comes_up_from_nothing_and_a_roll_loses_no_write() {
    in_room(promises::a_roll_under_writes_loses_nothing::<Etcd>);
}

#[test]
fn an_etcd_cluster_loses_no_acknowledged_write_to_a_node_killed_amid_a_roll() {
    in_room(promises::a_node_killed_amid_a_roll_costs_no_acknowledged_write::<Etcd>);
}

#[test]
fn an_etcd_cluster_serves_on_while_a_broken_first_node_is_repaired() {
    in_room(promises::a_broken_configuration_stops_the_roll_until_a_retry::<Etcd>);
}

#[test]
fn an_etcd_cluster_takes_back_in_a_node_that_lost_its_data() {
    in_room(promises::a_node_without_its_data_is_taken_back_in_by_a_person::<Etcd>);
}

#[test]
fn an_etcd_cluster_begins_after_its_time_only_when_a_person_says_so() {
    in_room(promises::a_late_cluster_begins_only_when_a_person_says_so::<Etcd>);
}

#[test]
fn an_etcd_cluster_begins_nothing_on_a_lost_volume_while_all_are_down() {
    in_room(promises::a_node_without_its_data_waits_for_those_that_have_theirs::<Etcd>);
}

#[test]
fn an_etcd_survivor_that_calls_itself_healthy_does_not_pass_the_check() {
    in_room(|| {
        let cluster = Cluster::<Etcd>::up();
        let (code, said) = cluster.ask("check_cluster");
        assert_eq!(code, Some(0), "{said}");
        cluster.kill_server(2);
        let health = format!("http://{}:{}/health", address(0), etcd::PORT);
        // False while a new leader is elected.
        let says_healthy = || (shell(&format!("curl -s {health}")) == r#"{"health":"true"}"#).then_some(());
        cluster.wait("a survivor that calls itself healthy", says_healthy);
        let (code, said) = cluster.ask("check_cluster");
        assert!(code == Some(1) && said.contains("02 does not answer at http://10.0.1.12:2379"), "{code:?} {said}");
        promises::an_absent_node_holds_no_other_one_up(&cluster);
    });
}
