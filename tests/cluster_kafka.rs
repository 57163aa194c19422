//! A Kafka cluster comes up by the shipped hook, is rolled while a client writes, and loses nothing.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod clusters;
#[path = "clusters/kafka.rs"]
mod kafka;

use clusters::promises;
use clusters::region::{Cluster, NODES};
use clusters::room;
use kafka::Kafka;

/// Runs the test where the server could be fetched.
fn in_room(body: impl FnOnce()) {
    if kafka::is_there() {
        room::in_room(body);
    }
}

#[test]
fn a_kafka_cluster_comes_up_from_nothing_and_a_roll_loses_no_write() {
    in_room(promises::a_roll_under_writes_loses_nothing::<Kafka>);
}

#[test]
fn a_kafka_cluster_loses_no_acknowledged_write_to_a_node_killed_amid_a_roll() {
    in_room(promises::a_node_killed_amid_a_roll_costs_no_acknowledged_write::<Kafka>);
}

#[test]
fn a_kafka_cluster_serves_on_while_a_broken_first_node_is_repaired() {
    in_room(promises::a_broken_configuration_stops_the_roll_until_a_retry::<Kafka>);
}

#[test]
fn a_kafka_cluster_takes_back_in_a_node_that_lost_its_data() {
    in_room(promises::a_node_without_its_data_is_taken_back_in_by_a_person::<Kafka>);
}

#[test]
fn a_kafka_cluster_begins_after_its_time_only_when_a_person_says_so() {
    in_room(promises::a_late_cluster_begins_only_when_a_person_says_so::<Kafka>);
}

#[test]
fn a_kafka_cluster_begins_nothing_on_a_lost_volume_while_all_are_down() {
    in_room(promises::a_node_without_its_data_waits_for_those_that_have_theirs::<Kafka>);
}

#[test]
fn a_kafka_topic_with_one_replica_is_named_and_holds_no_roll_up() {
    in_room(|| {
        let cluster = Cluster::<Kafka>::up();
        kafka::create_topic("single", 1);
        let (code, said) = cluster.ask("check_cluster");
        assert_eq!(code, Some(0), "{said}");
        for partition in 0..3 {
            assert!(said.contains(&format!("single-{partition}")), "{said}");
        }
        cluster.kill_server(2);
        let (code, said) = cluster.ask("check_cluster");
        assert!(code == Some(1) && said.contains("02 does not answer at 10.0.1.12:9092"), "{code:?} {said}");
        promises::an_absent_node_holds_no_other_one_up(&cluster);
    });
}

#[test]
fn a_kafka_broker_that_recovers_its_log_does_not_pass_the_check() {
    in_room(|| {
        let cluster = Cluster::<Kafka>::launch(&[("JAVA_OPTIONS", "-Xmx256m -Dlog4j2.level=INFO")]);
        for node in NODES {
            cluster.in_service(node);
        }
        kafka::create_topic("large", 3);
        kafka::fill("large");
        let old = cluster.kill(1);
        cluster.wait("another instance", || cluster.member(1).filter(|(instance, _)| *instance != old));
        cluster.wait("a server", || cluster.on(1, |machine| machine.shell("test -s /run/kafka.pid").ok()).flatten());
        // It is stopped in the middle, for as long as it takes to look.
        cluster.shell(
            1,
            "timeout 60 bash -c 'until grep -q \"Recovering unflushed segment\" /var/log/kafka.log; do sleep 0.005; done'
             kill -STOP $(cat /run/kafka.pid)",
        );
        assert!(!cluster.shell(1, "cat /var/log/kafka.log").contains("Kafka Server started"));
        // Until its session ends, the controllers know the killed broker, which does not answer.
        cluster.wait("a broker that is fenced", || {
            let (code, said) = cluster.ask("check_cluster");
            assert_eq!(code, Some(1), "{said}");
            said.contains("the broker of 01 is fenced, or not registered at 10.0.1.11:9092").then_some(())
        });
        assert_ne!(cluster.member(1).unwrap().1, "InService");
        cluster.shell(1, "kill -CONT $(cat /run/kafka.pid)");
        cluster.in_service(1);
        cluster.wait("a whole cluster", || (cluster.ask("check_cluster").0 == Some(0)).then_some(()));
    });
}
