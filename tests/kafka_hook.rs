//! What the hook for Kafka makes of the answers of Kafka's tools, as Kafka 4.2.1 prints them. `tests/cluster_kafka.rs` runs it on a
//! cluster.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod hook_script;

use hook_script::{changed, run};

/// A cluster as its tools describe it.
struct Cluster {
    /// The addresses that take connections.
    listen: &'static str,
    quorum: &'static str,
    brokers: &'static str,
    topics: &'static str,
}

/// Everything is well.
const HEALTHY: Cluster = Cluster {
    listen: "10.0.1.10 10.0.1.11 10.0.1.12",
    quorum: "\
NodeId\tDirectoryId           \tLogEndOffset\tLag\tLastFetchTimestamp\tLastCaughtUpTimestamp\tStatus\t
2     \tejF4y04kSuuN12VfS9VLQQ\t138         \t0  \t1795795486651     \t1795795486651        \tLeader\t
1     \tPfF4y04kSuuN12VfS9VLQQ\t138         \t0  \t1795795486600     \t1795795486600        \tFollower\t
3     \tQfF4y04kSuuN12VfS9VLQQ\t137         \t1  \t1795795486600     \t1795795486600        \tFollower\t
",
    brokers: "\
ID         HOST      PORT       RACK       STATE      ENDPOINT_TYPE  \n\
1          10.0.1.10 9092       null       unfenced   broker         \n\
2          10.0.1.11 9092       null       unfenced   broker         \n\
3          10.0.1.12 9092       null       unfenced   broker         \n",
    topics: "\
Topic: a\tTopicId: e5a4tO7tQ9CUdFkJFi7g0Q\tPartitionCount: 2\tReplicationFactor: 3\tConfigs: min.insync.replicas=2,retention.ms=1
\tTopic: a\tPartition: 0\tLeader: 1\tReplicas: 1,2,3\tIsr: 3,1,2\tElr: \tLastKnownElr: 
\tTopic: a\tPartition: 1\tLeader: 2\tReplicas: 2,3,1\tIsr: 2,3,1\tElr: \tLastKnownElr: 
",
};

/// Kafka's tools, which answer as the cluster is described.
const TOOLS: &str = r#"
listens() { [[ " $LISTEN " == *" $1 "* ]]; }
quorum() { listens "$1" && printf %s "$QUORUM"; }
brokers() { listens "$1" && printf %s "$BROKERS"; }
topics() { listens "$1" && [[ $TOPICS != fail ]] && printf %s "$TOPICS"; }
"#;

/// Runs a function of the hook against the cluster: its exit code and what it prints.
fn ask(cluster: &Cluster, function: &str) -> (Option<i32>, String) {
    let Cluster { listen, quorum, brokers, topics } = *cluster;
    let told = [("LISTEN", listen), ("QUORUM", quorum), ("BROKERS", brokers), ("TOPICS", topics)];
    run("kafka", &format!("{TOOLS}{function}"), &told)
}

fn check(cluster: &Cluster) -> (Option<i32>, String) {
    ask(cluster, "check_cluster")
}

#[test]
fn a_whole_kafka_cluster_passes_the_check_and_names_its_active_controller() {
    assert_eq!(check(&HEALTHY), (Some(0), "all 3 brokers serve, and every replica is in sync".to_owned()));
    assert_eq!(ask(&HEALTHY, "leader_node"), (Some(0), "01".to_owned()));
    // A cluster without a topic.
    assert_eq!(check(&Cluster { topics: "", ..HEALTHY }).0, Some(0));
}

#[test]
fn each_fault_of_a_kafka_cluster_fails_the_check_and_is_named() {
    let quorum = |from, to| Cluster { quorum: replaced(HEALTHY.quorum, from, to), ..HEALTHY };
    let brokers = |from, to| Cluster { brokers: replaced(HEALTHY.brokers, from, to), ..HEALTHY };
    let topics = |from, to| Cluster { topics: replaced(HEALTHY.topics, from, to), ..HEALTHY };
    let cases = [
        (Cluster { listen: "10.0.1.10 10.0.1.12", ..HEALTHY }, "01 does not answer at 10.0.1.11:9092"),
        (Cluster { listen: "", ..HEALTHY }, "02 does not answer at 10.0.1.12:9092"),
        (quorum("\t1  \t", "\t101\t"), "controller 3 is 101 records behind"),
        (quorum("\t1  \t", "\t-1 \t"), "controller 3 is -1 records behind"),
        (quorum("Follower\t\n3", "Observer\t\n3"), "the metadata quorum has 2 controllers, and the settings name 3"),
        (quorum("Leader", "Follower"), "no controller is active"),
        (Cluster { quorum: "", ..HEALTHY }, "the metadata quorum has 0 controllers, and the settings name 3"),
        // It starts, or recovers its log.
        (
            brokers(
                "9092       null       unfenced   broker         \n3",
                "9092       null       fenced     broker         \n3",
            ),
            "the broker of 01 is fenced, or not registered at 10.0.1.11:9092",
        ),
        (brokers("10.0.1.12", "10.0.1.19"), "the broker of 02 is fenced, or not registered at 10.0.1.12:9092"),
        (
            brokers("10.0.1.12 9092", "10.0.1.12 9094"),
            "the broker of 02 is fenced, or not registered at 10.0.1.12:9092",
        ),
        (Cluster { brokers: "", ..HEALTHY }, "the broker of 00 is fenced, or not registered at 10.0.1.10:9092"),
        (topics("Isr: 2,3,1", "Isr: 2,3"), "without all their replicas: a-1"),
        (topics("Leader: 1\t", "Leader: none\t"), "without a leader: a-0"),
        (Cluster { topics: "fail", ..HEALTHY }, "the topics cannot be described"),
    ];
    for (cluster, fault) in cases {
        let (code, said) = check(&cluster);
        assert!(code == Some(1) && said.lines().any(|line| line == fault), "{fault}: {code:?} {said}");
    }
}

#[test]
fn a_topic_whose_writers_stop_with_any_node_is_named_and_holds_nothing_up() {
    let single = "\tTopic: a\tPartition: 0\tLeader: 1\tReplicas: 1\tIsr: 1\tElr: \tLastKnownElr: \n";
    let double = "\tTopic: a\tPartition: 0\tLeader: 1\tReplicas: 1,2\tIsr: 1,2\tElr: \tLastKnownElr: \n";
    let headed = |configs: &str, partitions: &str| {
        format!("Topic: a\tTopicId: x\tPartitionCount: 1\tReplicationFactor: 1\tConfigs: {configs}\n{partitions}")
    };
    let named = "their writers stop while one of their nodes is away: a-0\n";
    let cases = [
        (headed("min.insync.replicas=1", single), named),
        (headed("", single), named),
        (headed("retention.ms=5,min.insync.replicas=2", double), named),
        (headed("min.insync.replicas=1", double), ""),
        (headed("", double), ""),
        // What a topic sets holds for itself alone.
        (headed("min.insync.replicas=2", "") + &headed("", double), ""),
    ];
    for (topics, wanted) in cases {
        let topics = Box::leak(topics.into_boxed_str());
        let said = check(&Cluster { topics, ..HEALTHY });
        assert_eq!(said, (Some(0), format!("{wanted}all 3 brokers serve, and every replica is in sync")), "{topics}");
    }
}

#[test]
fn of_many_faulty_partitions_ten_are_named() {
    let partitions = (0..13).map(|number| {
        format!("\tTopic: t.x_y\tPartition: {number}\tLeader: 1\tReplicas: 1,2\tIsr: 1\tElr: \tLastKnownElr: \n")
    });
    let topics = Box::leak(partitions.collect::<String>().into_boxed_str());
    let names: Vec<_> = (0..10).map(|number| format!("t.x_y-{number}")).collect();
    let (code, said) = check(&Cluster { topics, ..HEALTHY });
    assert_eq!((code, said), (Some(1), format!("without all their replicas: {} and 3 more", names.join(" "))));
}

/// The topics of [`HEALTHY`], of whose second partition the line behind its number ends so.
fn second_partition(ends: &str) -> Cluster {
    let (before, _) = HEALTHY.topics.split_once("Leader: 2").unwrap();
    Cluster { topics: Box::leak(format!("{before}{ends}\n").into_boxed_str()), ..HEALTHY }
}

#[test]
fn a_partition_that_waits_for_another_nodes_replica_holds_no_node_up() {
    // The hook of the node that is Kafka's first.
    let cases = [
        ("Leader: 2\tReplicas: 2,3,1\tIsr: 2,3,1\tElr: \tLastKnownElr: ", ""),
        ("Leader: 2\tReplicas: 2,3,1\tIsr: 2,3\tElr: \tLastKnownElr: ", "a-1"),
        ("Leader: 2\tReplicas: 2,3,11\tIsr: 2\tElr: \tLastKnownElr: ", ""),
        ("Leader: none\tReplicas: 2,3,1\tIsr: 2\tElr: N/A\tLastKnownElr: N/A", ""),
        ("Leader: none\tReplicas: 2,3,1\tIsr: \tElr: 2\tLastKnownElr: ", ""),
        ("Leader: none\tReplicas: 2,3,1\tIsr: \tElr: 2\tLastKnownElr: 1", ""),
        // It is to lead as soon as the controllers let it serve.
        ("Leader: none\tReplicas: 2,3,1\tIsr: \tElr: 3,1\tLastKnownElr: ", "a-1"),
        ("Leader: none\tReplicas: 2,3,1\tIsr: \tElr: \tLastKnownElr: 1", "a-1"),
    ];
    for (ends, wanted) in cases {
        let said = ask(&second_partition(ends), "out_of_sync 1 <<<\"$TOPICS\"");
        assert_eq!(said, (Some(i32::from(wanted.is_empty())), wanted.to_owned()), "{ends}");
    }
}

#[test]
fn a_node_without_data_is_not_taken_back_in_while_a_partition_could_be_led_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let decision = dir.path().join("decision");
    let removed = replaced(HEALTHY.quorum, "3     \tQ", "7     \tQ");
    let rejoin = |ends: &str| {
        std::fs::write(&decision, "rejoin\n").unwrap();
        let cluster = Cluster { quorum: removed, ..second_partition(ends) };
        ask(&cluster, &format!("DECISION='{}'; state_without_data 02", decision.display()))
    };
    assert_eq!(rejoin("Leader: 2\tReplicas: 2,3,1\tIsr: 2,1\tElr: \tLastKnownElr: "), (Some(0), "existing".to_owned()));
    assert_eq!(rejoin("Leader: none\tReplicas: 2,3,1\tIsr: 2,1\tElr: \tLastKnownElr: ").0, Some(0));
    for heirs in [
        "Isr: 3\tElr: N/A\tLastKnownElr: N/A",
        "Isr: \tElr: 3,2\tLastKnownElr: ",
        "Isr: \tElr: \tLastKnownElr: 3",
        // As soon as the second one has come back after an unclean shutdown.
        "Isr: \tElr: 2\tLastKnownElr: 3",
    ] {
        let (code, said) = rejoin(&format!("Leader: none\tReplicas: 2,3,1\t{heirs}"));
        assert!(
            code == Some(1) && said.contains("may let node 3 lead partitions whose data it no longer has"),
            "{said}"
        );
        assert!(said.contains("--election-type unclean --topic a --partition 1\n"), "{said}");
        assert!(!said.contains("remove-controller"), "{said}");
    }
}

fn replaced(text: &str, from: &str, to: &str) -> &'static str {
    Box::leak(changed(text, from, to).into_boxed_str())
}

#[test]
fn what_a_partition_is_like_leaves_the_settings_as_they_are() {
    let before = ask(&HEALTHY, "configuration 00 10.0.1.10");
    assert!(before.1.contains("\ndefault.replication.factor=3\n"), "{}", before.1);
    assert_eq!(ask(&HEALTHY, "check_partitions 10.0.1.10; configuration 00 10.0.1.10"), before);
}
