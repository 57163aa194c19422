//! Who goes first, what the check and the leader decide, and what becomes of the other nodes meanwhile.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/cluster.rs"]
mod cluster;

use std::fs;
use std::path::Path;
use std::time::Duration;

use cluster::witness::{at_most_one_was_out, changes, nothing_was_taken_wrongly, order, story};
use cluster::{Behaviour, Cluster, Healthy, Held, group};

fn nodes(nodes: usize) -> Cluster {
    let cluster = Cluster::new(&Behaviour { nodes, ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    cluster
}

#[test]
fn an_unhealthy_node_goes_first_and_the_leader_last() {
    let cluster = nodes(3);
    cluster.sim.set_health(&cluster.in_service(2), false).unwrap();
    let log = cluster.roll(&["--leader", "echo 00"]).must_end(0);
    assert_eq!(order(&cluster.sim), [group(2), group(1), group(0)], "{log}");
    assert!(log.contains("00: is the leader: it goes last"), "{log}");
    cluster.all_run("2");
    at_most_one_was_out(&cluster.sim, &cluster.groups());
}

#[test]
fn a_leader_command_that_fails_leaves_the_order_by_name() {
    let cluster = nodes(2);
    let log = cluster.roll(&["--leader", "echo no quorum; exit 3"]).must_end(0);
    assert!(log.contains("the leader is not known, so the nodes go by name: it exited with 3"), "{log}");
    assert!(log.contains("no quorum"), "{log}");
    assert_eq!(order(&cluster.sim), [group(0), group(1)], "{log}");
    cluster.all_run("2");
}

#[test]
fn an_unhealthy_node_that_runs_the_target_stops_the_roll() {
    let cluster = nodes(2);
    let ill = cluster.in_service(0);
    cluster.sim.set_health(&ill, false).unwrap();
    let log = cluster.roll(&["--to", "00=1", "--to", "2"]).must_end(1);
    assert!(log.contains(&format!("00 ({ill}) is in service and unhealthy, and runs the target already")), "{log}");
    assert_eq!(order(&cluster.sim), Vec::<String>::new(), "{log}");
    cluster.has_no_flag();
}

#[test]
fn a_check_that_fails_is_asked_again_until_it_passes_twice() {
    let cluster = nodes(1);
    let (ready, calls) = (cluster.dir().join("ready"), cluster.dir().join("calls"));
    let check = format!("echo asked >> {}; echo under-replicated: 7; test -e {}", calls.display(), ready.display());
    let roll = cluster.roll(&["--check", &check]);
    roll.wait_for("under-replicated: 7");
    assert_eq!(order(&cluster.sim), Vec::<String>::new());
    fs::write(&ready, "").unwrap();
    let log = roll.must_end(0);
    assert!(log.contains("the check has not passed: it exited with 1"), "{log}");
    let calls = fs::read_to_string(&calls).unwrap().lines().count();
    assert!(calls >= 5, "one fails, two pass before the node goes, two after it: {calls}\n{log}");
    cluster.all_run("2");
}

#[test]
fn a_check_that_hangs_is_ended_after_a_minute_with_all_it_started() {
    let cluster = nodes(1);
    let log = cluster.roll(&["--check", "echo asks; sleep 7654.25 & sleep 7654.25", "--timeout", "30s"]).must_end(1);
    assert!(log.contains("it was still running after 1m, and was ended; its last lines: asks"), "{log}");
    assert_eq!(order(&cluster.sim), Vec::<String>::new(), "{log}");
    let is_left = |process: fs::DirEntry| {
        fs::read(process.path().join("cmdline")).is_ok_and(|line| line.windows(7).any(|part| part == b"7654.25"))
    };
    assert!(!fs::read_dir(Path::new("/proc")).unwrap().flatten().any(is_left), "{log}");
    cluster.has_no_flag();
}

#[test]
fn a_check_that_fails_after_the_node_is_back_stops_with_its_output() {
    let cluster = nodes(2);
    let lags = cluster.dir().join("lags");
    let check = format!("echo lag 9; ! test -e {}", lags.display());
    let roll = cluster.roll(&["--check", &check, "--timeout", "60s"]);
    roll.wait_for("is terminated");
    fs::write(&lags, "").unwrap();
    let log = roll.must_end(1);
    assert!(log.contains("the check has not passed: it exited with 1; its last lines: lag 9"), "{log}");
    assert_eq!(order(&cluster.sim), [group(0)], "{log}");
    cluster.in_service(0);
    cluster.has_no_flag();
}

#[test]
fn a_pause_that_is_set_midway_ends_the_roll_after_its_node() {
    let cluster = nodes(2);
    let roll = cluster.roll(&["--check", "true"]);
    roll.wait_for("is terminated");
    cluster.set_tag(1, "node-agent:roll-pause", "disks are swapped");
    let log = roll.must_end(0);
    assert!(log.contains("disks are swapped") && log.contains("00: is done"), "{log}");
    assert_eq!(order(&cluster.sim), [group(0)], "{log}");
    assert_eq!(cluster.version_of(&cluster.in_service(0)), "2", "{log}");
    cluster.has_no_flag();
    let before = changes(&cluster.sim).len();
    let log = cluster.roll(&["--continue"]).must_end(0);
    assert!(log.contains("disks are swapped"), "--continue does not lift it:\n{log}");
    assert_eq!(changes(&cluster.sim).len(), before, "{log}");
}

#[test]
fn a_node_that_dies_during_a_replacement_comes_back_before_the_next_goes() {
    let cluster = nodes(3);
    let roll = cluster.roll(&["--check", "true"]);
    roll.wait_for("is terminated");
    cluster.sim.terminate(&cluster.in_service(2)).unwrap();
    let log = roll.must_end(0);
    cluster.all_run("2");
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
    assert_eq!(order(&cluster.sim), [group(0), group(1), group(2)], "{log}");
}

#[test]
fn a_node_that_is_on_its_way_back_when_its_turn_comes_is_replaced_too() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, boot: Duration::from_secs(20).into(), ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    let roll = cluster.roll(&[]);
    roll.wait_for("is terminated");
    cluster.wait_until(0, "Pending:Wait");
    cluster.wait_until(0, "InService");
    cluster.sim.terminate(&cluster.in_service(1)).unwrap();
    let log = roll.must_end(0);
    assert_eq!(cluster.version_of(&cluster.in_service(1)), "2", "{log}\n{}", story(&cluster.sim));
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
}

#[test]
fn a_launch_that_fails_three_times_alike_stops_the_roll() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    for number in 0..2 {
        cluster.publish_for(number, cluster.version(0x99, "ami-2", Healthy));
    }
    let log = cluster.roll(&["--override", "interface"]).must_end(1);
    assert!(log.contains("launches have failed for the same reason"), "{log}");
    assert!(log.contains("The networkInterface ID 'eni-00000000000000099' does not exist"), "AWS's words:\n{log}");
    assert_eq!(order(&cluster.sim), [group(0)], "{log}");
    cluster.has_no_flag();
}

#[test]
fn a_roll_that_times_out_names_the_node_and_what_aws_knows_of_it() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    cluster.publish("ami-2", Held);
    let log = cluster.roll(&["--timeout", "45s"]).must_end(1);
    let held = cluster.wait_until(0, "Pending:Wait");
    for text in [
        "00 (kafka-node-00)",
        "45s",
        held.as_str(),
        "health-check: the cluster is not healthy",
        "the group's last activity",
    ] {
        assert!(log.contains(text), "{text:?} is missing:\n{log}");
    }
}
