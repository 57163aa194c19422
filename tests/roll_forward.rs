//! A version that does not come up, the mended one after it, and the way back.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/cluster.rs"]
mod cluster;

use std::time::Duration;

use cluster::witness::{at_most_one_was_out, changes, nothing_was_taken_wrongly, story};
use cluster::{Behaviour, Cluster, Healthy, Held, interface, template};
use ec2_sim::{Spread, TemplateChoice, TemplateVersion};

#[test]
fn a_broken_version_stops_the_roll_and_a_mended_one_heals_it() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    cluster.publish("ami-2", Held);
    let log = cluster.roll(&["--timeout", "45s"]).must_end(1);
    let held = cluster.wait_until(0, "Pending:Wait");
    assert!(log.contains("health-check: the cluster is not healthy") && log.contains(&held.to_string()), "{log}");
    assert!(log.contains("--replace-held"), "{log}");
    assert!(log.contains(" node-agent retry"), "the path of the program here is not that of the node's:\n{log}");
    cluster.has_no_flag();
    assert_eq!(cluster.staged(0), "2", "{log}");
    assert_eq!(cluster.staged(1), "1", "only the node that goes is staged\n{log}");

    let version = cluster.publish("ami-3", Healthy);
    assert_eq!(version, 3);
    let before = changes(&cluster.sim).len();
    let log = cluster.roll(&["--timeout", "25s"]).must_end(1);
    assert!(log.contains(&format!("{held} is held")) && log.contains("--replace-held"), "{log}");
    let later = changes(&cluster.sim).split_off(before);
    let staged = later.iter().filter(|action| action.ends_with(":UpdateAutoScalingGroup")).count();
    let others =
        later.iter().filter(|action| !action.ends_with("Tags") && !action.ends_with(":UpdateAutoScalingGroup"));
    assert_eq!((staged, others.count()), (1, 0), "the held node's group is set to the mended version\n{log}");
    assert_eq!(cluster.staged(0), "3", "{log}");

    let log = cluster.roll(&["--replace-held", "--check", "true"]).must_end(0);
    assert!(log.contains(&format!("{held} was held and is given up")), "{log}");
    cluster.all_run("3");
    at_most_one_was_out(&cluster.sim, &cluster.groups());
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
    cluster.has_no_flag();
}

#[test]
fn a_node_that_fails_on_an_old_version_after_the_roll_has_begun_is_given_up_too() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    let mut broken = cluster.version(0, "ami-2", Held);
    broken.launch.as_mut().unwrap().hooks = Spread::between(Duration::from_secs(25), Duration::from_secs(25));
    let (died, broken) = (cluster.in_service(0), cluster.publish_for(0, broken).to_string());
    cluster.change(0, |spec| spec.template = Some(TemplateChoice::new(&template(0), &broken)));
    cluster.sim.kill_instance(&died).unwrap();
    let fails = cluster.wait_until(0, "Pending:Wait");
    let mended = cluster.version(0, "ami-3", Healthy);
    cluster.publish_for(0, mended.clone());
    for _ in 0..2 {
        cluster.publish_for(1, TemplateVersion { interface: Some(interface(1)), ..mended.clone() });
    }

    let log = cluster.roll(&["--replace-held"]).must_end(0);
    assert!(log.contains(&format!("{fails} was held and is given up")), "{log}");
    cluster.all_run("3");
    at_most_one_was_out(&cluster.sim, &cluster.groups());
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
}

#[test]
fn a_node_that_dies_beside_a_held_one_comes_back_on_the_proven_version() {
    let cluster = Cluster::new(&Behaviour::default());
    cluster.publish("ami-2", Held);
    let roll = cluster.roll(&["--timeout", "60s"]);
    roll.wait_for("is held");
    let dies = cluster.in_service(2);
    cluster.sim.terminate(&dies).unwrap();
    let log = roll.must_end(1);
    let back = cluster.in_service(2);
    assert_ne!(back, dies, "{log}");
    assert_eq!((cluster.version_of(&back), cluster.staged(2)), ("1".to_owned(), "1".to_owned()), "{log}");
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
}

#[test]
fn a_held_node_that_was_repaired_lets_the_next_roll_go_on() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    cluster.publish("ami-2", Held);
    cluster.roll(&["--timeout", "40s"]).must_end(1);
    let held = cluster.wait_until(0, "Pending:Wait");
    let roll = cluster.roll(&["--max-nodes", "1"]);
    roll.wait_for(&format!("waits: {held} is held"));
    cluster.repair(&held);
    let log = roll.must_end(0);
    assert_eq!(cluster.in_service(0), held, "{log}\n{}", story(&cluster.sim));
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
}

#[test]
fn a_roll_back_goes_to_the_version_that_each_node_ran_before() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    cluster.publish("ami-3", Healthy);
    cluster.roll(&[]).must_end(0);
    cluster.all_run("3");
    let log = cluster.roll(&["--to", "previous"]).must_end(0);
    assert!(log.contains("rolls back"), "{log}");
    cluster.all_run("1");
    at_most_one_was_out(&cluster.sim, &cluster.groups());
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
}

#[test]
fn a_roll_back_of_a_held_node_says_that_it_must_be_given_up() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    cluster.publish("ami-2", Held);
    cluster.roll(&["--timeout", "40s"]).must_end(1);
    let held = cluster.wait_until(0, "Pending:Wait");
    let log = cluster.roll(&["--to", "previous", "--timeout", "40s"]).must_end(1);
    assert!(log.contains("--replace-held"), "{log}");
    let log = cluster.roll(&["--to", "previous", "--replace-held"]).must_end(0);
    assert!(log.contains(&format!("{held} was held and is given up")), "{log}");
    cluster.all_run("1");
    at_most_one_was_out(&cluster.sim, &cluster.groups());
}
