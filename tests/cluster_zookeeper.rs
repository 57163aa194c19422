//! A ZooKeeper ensemble comes up by the shipped hook, is rolled while a client writes, and loses nothing.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod clusters;
#[path = "clusters/zookeeper.rs"]
mod zookeeper;

use clusters::network::address;
use clusters::promises;
use clusters::region::Cluster;
use clusters::room::{in_room, shell};
use zookeeper::ZooKeeper;

#[test]
fn a_zookeeper_ensemble_comes_up_from_nothing_and_a_roll_loses_no_write() {
    in_room(promises::a_roll_under_writes_loses_nothing::<ZooKeeper>);
}

#[test]
fn a_zookeeper_ensemble_loses_no_acknowledged_write_to_a_node_killed_amid_a_roll() {
    in_room(promises::a_node_killed_amid_a_roll_costs_no_acknowledged_write::<ZooKeeper>);
}

#[test]
fn a_zookeeper_ensemble_serves_on_while_a_broken_first_node_is_repaired() {
    in_room(promises::a_broken_configuration_stops_the_roll_until_a_retry::<ZooKeeper>);
}

#[test]
fn a_zookeeper_ensemble_takes_back_in_a_node_that_lost_its_data() {
    in_room(promises::a_node_without_its_data_is_taken_back_in_by_a_person::<ZooKeeper>);
}

#[test]
fn a_zookeeper_ensemble_begins_after_its_time_only_when_a_person_says_so() {
    in_room(promises::a_late_cluster_begins_only_when_a_person_says_so::<ZooKeeper>);
}

#[test]
fn a_zookeeper_ensemble_begins_nothing_on_a_lost_volume_while_all_are_down() {
    in_room(promises::a_node_without_its_data_waits_for_those_that_have_theirs::<ZooKeeper>);
}

#[test]
fn a_zookeeper_node_that_says_imok_without_a_quorum_does_not_pass_the_check() {
    in_room(|| {
        let cluster = Cluster::<ZooKeeper>::up();
        let (code, said) = cluster.ask("check_cluster");
        assert_eq!(code, Some(0), "{said}");
        cluster.kill_server(2);
        let (code, said) = cluster.ask("check_cluster");
        assert!(code == Some(1) && said.contains("02 does not serve"), "{code:?} {said}");
        cluster.kill_server(1);
        let ruok = format!("exec 3<>/dev/tcp/{}/{}; printf ruok >&3; cat <&3", address(0), zookeeper::PORT);
        assert_eq!(shell(&ruok), "imok");
        cluster.wait("no quorum", || cluster.ask("check_cluster").1.contains("no node leads").then_some(()));
        let (code, said) = cluster.ask("leader_node");
        assert!(code == Some(1) && said == "no node leads", "{code:?} {said}");
    });
}

#[test]
fn a_zookeeper_node_comes_back_while_another_one_is_away_for_good() {
    in_room(|| promises::an_absent_node_holds_no_other_one_up(&Cluster::<ZooKeeper>::up()));
}
