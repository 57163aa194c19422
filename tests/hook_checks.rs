//! What the hooks for etcd and ZooKeeper make of a cluster with one fault, as the servers' tools tell it. `tests/cluster_*.rs` run them
//! on clusters, and `tests/kafka_hook.rs` does the same for Kafka.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod hook_script;

use hook_script::{changed, run};

/// Calls the check of a hook, of which these functions are replaced: its exit code and what it prints.
fn check(hook: &str, functions: &str, told: &[(&str, &str)]) -> (Option<i32>, String) {
    run(hook, &format!("{functions}\ncheck_cluster"), told)
}

/// Address, member, leader, cluster, index, applied index, learner, errors.
const ETCD_STATUS: &str = "\
10.0.1.10 11 12 7 5000 5000 false
10.0.1.11 12 12 7 5000 5000 false
10.0.1.12 13 12 7 5000 4990 false
";
const ETCD_MEMBERS: &str = "\
b, started, 00, http://10.0.1.10:2380, http://10.0.1.10:2379, false
c, started, 01, http://10.0.1.11:2380, http://10.0.1.11:2379, false
d, started, 02, http://10.0.1.12:2380, http://10.0.1.12:2379, false
";
const ETCD: &str = r#"
read_status() { read -r _ MEMBER LEADER CLUSTER_ID INDEX APPLIED LEARNER ERRORS < <(grep "^$1 " <<<"$STATUS"); }
ctl() {
    case "$2 $3" in
        "endpoint health") [[ $1 != "$UNHEALTHY" ]] ;;
        "member list") [[ $LIST ]] && printf %s "$LIST" ;;
        "alarm list") printf %s "$ALARMS" ;;
    esac
}"#;

#[test]
fn each_fault_of_an_etcd_cluster_fails_the_check_and_is_named() {
    let ask = |status: &str, unhealthy: &str, list: &str, alarms: &str| {
        check("etcd", ETCD, &[("STATUS", status), ("UNHEALTHY", unhealthy), ("LIST", list), ("ALARMS", alarms)])
    };
    let well = (Some(0), "all 3 nodes serve and are in sync".to_owned());
    assert_eq!(ask(ETCD_STATUS, "", ETCD_MEMBERS, ""), well);
    let status = |from, to, fault| (ask(&changed(ETCD_STATUS, from, to), "", ETCD_MEMBERS, ""), fault);
    let list = |from, to, fault| (ask(ETCD_STATUS, "", &changed(ETCD_MEMBERS, from, to), ""), fault);
    let learner = "e, started, x, http://10.0.1.19:2380, http://10.0.1.19:2379, true\n";
    let cases = [
        status("10.0.1.11 ", "10.0.1.19 ", "01 does not answer at http://10.0.1.11:2379"),
        status("4990 false", "4990 true", "02 is a learner, without a vote"),
        status("4990 false", "4990 false etcdserver: corrupt", "02 says: etcdserver: corrupt"),
        status("4990", "3999", "02 is 1001 log entries behind"),
        status("13 12", "13 11", "the nodes do not agree on one leader"),
        status("13 12 7", "13 12 8", "the nodes are not of one cluster"),
        (ask(&ETCD_STATUS.replace(" 12 7", " 0 7"), "", ETCD_MEMBERS, ""), "the nodes do not agree on one leader"),
        (ask(ETCD_STATUS, "10.0.1.12", ETCD_MEMBERS, ""), "02 does not serve a read that the quorum confirms"),
        list("b, ", &format!("{learner}b, "), "the cluster has 4 members, and the settings name 3"),
        list(", http://10.0.1.12:2379", ", ", "a member that was added has never served"),
        (ask(ETCD_STATUS, "", "", ""), "no node tells the members and the alarms"),
        (
            ask(ETCD_STATUS, "", ETCD_MEMBERS, "memberID:13 alarm:NOSPACE "),
            "an alarm is raised: memberID:13 alarm:NOSPACE ",
        ),
    ];
    for ((code, said), fault) in cases {
        assert!(code == Some(1) && said.lines().any(|line| line == fault.trim_end()), "{fault}: {code:?} {said}");
    }
}

/// Address, state, phase; of the leader, too: followers in sync, voters.
const ZOOKEEPER_STATES: &str = "\
10.0.1.10 follower broadcast
10.0.1.11 leader broadcast 2 3
10.0.1.12 follower broadcast
";
const ZOOKEEPER: &str = r#"
ask() {
    local state phase synced size
    read -r _ state phase synced size < <(grep "^$1 " <<<"$STATES") || return 1
    printf 'zk_server_state\t%s\nzk_peer_state\t%s\n' "$state" "$phase"
    [[ ! $synced ]] || printf 'zk_synced_followers\t%s\nzk_quorum_size\t%s\n' "$synced" "$size"
}"#;

#[test]
fn each_fault_of_a_zookeeper_ensemble_fails_the_check_and_is_named() {
    let ask = |states: &str| check("zookeeper", ZOOKEEPER, &[("STATES", states)]);
    assert_eq!(ask(ZOOKEEPER_STATES), (Some(0), "01 leads, and 2 nodes follow in sync".to_owned()));
    let cases = [
        ("10.0.1.12 ", "10.0.1.19 ", "02 does not serve at 10.0.1.12:2181"),
        ("10.0.1.12 ", "10.0.1.19 ", "only 1 of 2 nodes follow"),
        (
            "10.0.1.12 follower broadcast",
            "10.0.1.12 follower synchronization",
            "02 is not in sync yet: follower, synchronization",
        ),
        ("10.0.1.12 follower", "10.0.1.12 observer", "02 is observer, and neither leads nor follows"),
        ("10.0.1.12 follower broadcast", "10.0.1.12 leader broadcast 2 3", "01 and 02 both lead"),
        ("10.0.1.11 leader", "10.0.1.11 follower", "no node leads"),
        ("2 3", "1 3", "the leader 01 counts 1 followers in sync, not 2"),
        ("2 3", "2 4", "the leader 01 knows 4 voters, and the settings name 3"),
    ];
    for (from, to, fault) in cases {
        let (code, said) = ask(&changed(ZOOKEEPER_STATES, from, to));
        assert!(code == Some(1) && said.lines().any(|line| line == fault), "{fault}: {code:?} {said}");
    }
}
