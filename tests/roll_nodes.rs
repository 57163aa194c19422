//! A node that does not come back as it should: what the roll makes of it, and that no other node goes meanwhile.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/cluster.rs"]
mod cluster;

use std::time::Duration;

use cluster::witness::{at_most_one_was_out, nothing_was_taken_wrongly, order, story, terminated};
use cluster::{Behaviour, Cluster, Healthy, Outcome, group};
use ec2_sim::{
    ActKind, ActionResult, ImageState, InstanceId, Latencies, LaunchFailure, LightNode, Spread, TemplateChoice,
    TemplateVersion, Times, Transition, VolumeSpec, What,
};

fn seconds(seconds: u64) -> Spread {
    Duration::from_secs(seconds).into()
}

/// Two nodes, and a version whose launches go this way.
fn two_with(change: impl Fn(&mut LightNode)) -> Cluster {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    publish_with(&cluster, change);
    cluster
}

fn publish_with(cluster: &Cluster, change: impl Fn(&mut LightNode)) {
    for number in 0..2 {
        let mut version = cluster.version(number, "ami-2", Healthy);
        change(version.launch.as_mut().unwrap());
        cluster.publish_for(number, version);
    }
}

/// Sets the timeout of a node's hooks of this transition, and what that amounts to.
fn hooks_end(cluster: &Cluster, number: usize, transition: Transition, after: Duration, in_: ActionResult) {
    cluster.change(number, |spec| {
        for hook in spec.hooks.iter_mut().filter(|hook| hook.transition == transition) {
            (hook.heartbeat_timeout, hook.default_result) = (after, in_);
        }
    });
}

/// The instance never ends its departure.
fn hangs_in_its_departure(cluster: &Cluster, id: &InstanceId) {
    cluster.sim.change_instance(id, |spec| spec.light.as_mut().unwrap().hangs = true).unwrap();
}

/// The launches of a group that failed with these words.
fn failed_launches(cluster: &Cluster, number: usize, words: &str) -> usize {
    let events = cluster.sim.events();
    let failed = events.iter().filter(|event| {
        matches!(&event.what, What::Activity(activity)
            if activity.group == group(number) && activity.instance.is_none() && activity.status.contains(words))
    });
    failed.count()
}

/// Only this node was taken, the others run what they ran, and the roll's flag is gone.
fn only_the_first_was_taken(cluster: &Cluster, log: &str) {
    assert_eq!(order(&cluster.sim), [group(0)], "{log}");
    assert_eq!(
        (cluster.staged(1), cluster.version_of(&cluster.in_service(1))),
        ("1".to_owned(), "1".to_owned()),
        "{log}"
    );
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
    cluster.has_no_flag();
}

#[test]
fn a_new_node_that_dies_right_after_its_start_lets_no_other_go() {
    let cluster = two_with(|node| node.dies = Some(seconds(2)));
    let log = cluster.roll(&["--timeout", "40s"]).must_end(1);
    assert!(log.contains("gave up after 40s (--timeout)"), "{log}");
    only_the_first_was_taken(&cluster, &log);
}

#[test]
fn a_new_node_that_dies_again_and_again_while_it_is_watched_ends_the_roll() {
    // Long enough for two looks to prove it each time that it is there, and each time that it is not.
    let cluster = Cluster::new(&Behaviour { nodes: 2, boot: Duration::from_secs(15).into(), ..Behaviour::default() });
    publish_with(&cluster, |node| node.dies = Some(seconds(13)));
    let log = cluster.roll(&["--bake", "40s", "--timeout", "70s"]).must_end(1);
    assert!(log.matches("00: is done").count() > 1, "{log}");
    assert!(log.contains("gave up after 1m 10s (--timeout)"), "{log}");
    only_the_first_was_taken(&cluster, &log);
}

#[test]
fn a_new_node_that_its_group_finds_unhealthy_at_once_stops_the_roll() {
    let cluster = two_with(|_| {});
    cluster.change(0, |spec| spec.replaces_unhealthy = Some(seconds(30)));
    let old = cluster.in_service(0);
    let roll = cluster.roll(&["--check", "true"]);
    roll.wait_for("is terminated");
    let new = cluster.successor(0, &old);
    cluster.sim.set_health(&new, false).unwrap();
    let log = roll.must_end(1);
    assert!(log.contains(&format!("00 has come into service as {new} and is unhealthy")), "{log}");
    only_the_first_was_taken(&cluster, &log);
}

#[test]
fn a_launch_hook_that_times_out_again_and_again_stops_the_roll() {
    let cluster = two_with(|node| node.outcome = Outcome::TimesOut);
    hooks_end(&cluster, 0, Transition::Launching, Duration::from_secs(3), ActionResult::Abandon);
    let log = cluster.roll(&["--timeout", "3m"]).must_end(1);
    assert!(log.contains("launches have failed for the same reason: Instance failed to complete"), "{log}");
    assert!(log.contains("was abandoned: Heartbeat Timeout"), "AWS's words:\n{log}");
    only_the_first_was_taken(&cluster, &log);
}

#[test]
fn launches_that_fail_by_capacity_and_then_for_a_missing_image_stop_the_roll() {
    let cluster = two_with(|_| {});
    cluster.sim.fail_launches(&group(0), LaunchFailure::Capacity, Times::Count(2)).unwrap();
    let roll = cluster.roll(&[]);
    roll.wait_for("is terminated");
    cluster.sim.set_image("ami-2", ImageState::Absent);
    let log = roll.must_end(1);
    assert!(log.contains("a launch has failed: We currently do not have sufficient"), "{log}");
    let says = "3 launches have failed for the same reason: The image id '[ami-2]' does not exist";
    assert!(log.contains(says), "{log}");
    only_the_first_was_taken(&cluster, &log);
    // The image is there again: the group goes on trying, and the next roll goes on.
    cluster.sim.set_image("ami-2", ImageState::Available);
    cluster.roll(&[]).must_end(0);
    cluster.all_run("2");
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
}

#[test]
fn an_administrative_suspension_midway_is_refused_by_its_name_until_it_is_lifted() {
    let cluster = two_with(|_| {});
    let roll = cluster.roll(&[]);
    roll.wait_for("is terminated");
    let reason = "Administrative suspension: Launch has failed for over 24 hours";
    cluster.change(0, |spec| drop(spec.suspended.insert("Launch".to_owned(), reason.to_owned())));
    let log = roll.must_end(6);
    assert!(log.contains(&format!("kafka-node-00: the process Launch is suspended ({reason})")), "{log}");
    assert!(log.contains("resume-processes") && log.contains("--override suspended-process"), "{log}");
    only_the_first_was_taken(&cluster, &log);
    cluster.change(0, |spec| spec.suspended.clear());
    cluster.roll(&[]).must_end(0);
    cluster.all_run("2");
    at_most_one_was_out(&cluster.sim, &cluster.groups());
}

#[test]
fn a_victim_that_its_group_retains_stops_the_roll_until_it_is_terminated() {
    let cluster = two_with(|_| {});
    let victim = cluster.in_service(0);
    hangs_in_its_departure(&cluster, &victim);
    hooks_end(&cluster, 0, Transition::Terminating, Duration::from_secs(4), ActionResult::Abandon);
    cluster.change(0, |spec| spec.retains = true);
    let log = cluster.roll(&[]).must_end(6);
    assert!(log.contains(&format!("kafka-node-00: {victim} is Terminating:Retained")), "{log}");
    assert!(log.contains(&format!("aws ec2 terminate-instances --instance-ids {victim}")), "{log}");
    only_the_first_was_taken(&cluster, &log);
    cluster.sim.terminate(&victim).unwrap();
    cluster.roll(&[]).must_end(0);
    cluster.all_run("2");
    at_most_one_was_out(&cluster.sim, &cluster.groups());
}

#[test]
fn an_instance_that_is_swapped_by_hand_before_the_act_is_not_taken_for_the_old_one() {
    let cluster = two_with(|_| {});
    let old = cluster.in_service(0);
    let roll = cluster.roll(&[]);
    roll.wait_for("00: waits: the last look before it goes");
    cluster.sim.terminate_in_group(&old).unwrap();
    let log = roll.must_end(0);
    let taken = terminated(&cluster.sim);
    assert!(!taken.contains_key(old.as_str()), "{taken:?}\n{log}\n{}", story(&cluster.sim));
    cluster.all_run("2");
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
    at_most_one_was_out(&cluster.sim, &cluster.groups());
}

#[test]
fn a_node_that_comes_back_with_a_version_that_somebody_else_has_set_stops_the_roll() {
    let cluster = two_with(|_| {});
    let roll = cluster.roll(&[]);
    roll.wait_for("is terminated");
    cluster.change(0, |spec| spec.template = Some(TemplateChoice::new(&cluster::template(0), "1")));
    let log = roll.must_end(1);
    assert!(log.contains("somebody has changed the group kafka-node-00 meanwhile"), "{log}");
    only_the_first_was_taken(&cluster, &log);
}

/// One node, whose data is on a volume that it lets go only with its end.
fn with_volume(drain: u64, latencies: Latencies) -> Cluster {
    let cluster = Cluster::new(&Behaviour {
        nodes: 1,
        drain: Duration::from_secs(drain).into(),
        latencies,
        ..Behaviour::default()
    });
    let volume = cluster.sim.create_volume(VolumeSpec::default()).unwrap().to_string();
    let version = |image: &str| {
        let mut version = cluster.version(0, image, Healthy);
        version.launch.as_mut().unwrap().volume = Some(volume.clone());
        version
    };
    let runs: TemplateVersion = version("ami-1");
    cluster.run_version(0, runs);
    cluster.publish_for(0, version("ami-2"));
    cluster
}

#[test]
fn an_interface_that_is_free_before_the_volume_lets_the_new_node_wait_for_its_data() {
    let latencies = Latencies {
        interface: Some(Spread::default()),
        shutting_down: Duration::from_secs(12),
        ..Latencies::default()
    };
    let cluster = with_volume(0, latencies);
    let old = cluster.in_service(0);
    let log = cluster.roll(&[]).must_end(0);
    assert!(!log.contains("a launch has failed"), "{log}");
    cluster.all_run("3");
    let new = cluster.in_service(0);
    let events = cluster.sim.events();
    let place = |wanted: &dyn Fn(&What) -> bool| events.iter().position(|event| wanted(&event.what)).unwrap();
    let enters = |id: &InstanceId, state: &str| {
        place(&|what| matches!(what, What::Lifecycle(change) if change.instance == id.as_str() && change.to == state))
    };
    let (waits, serves) = (enters(&new, "Pending:Wait"), enters(&new, "InService"));
    let ends =
        |what: &What| matches!(what, What::Instance(change) if change.id == old.as_str() && change.to == "terminated");
    let free = place(&ends);
    assert!(waits < free && free < serves, "{}", story(&cluster.sim));
}

#[test]
fn a_drain_longer_than_the_groups_patience_delays_the_node_and_stops_nothing() {
    // The interface is free six seconds after the volume; launches are tried after 1, 3, 7, 15, 31 and 63 seconds.
    let cluster = with_volume(40, Latencies { interface: Some(seconds(6)), ..Latencies::default() });
    let log = cluster.roll(&["--timeout", "60s"]).must_end(0);
    assert!(failed_launches(&cluster, 0, "in use") > 3, "{log}\n{}", story(&cluster.sim));
    assert!(log.contains("launches fail until the old instance's network interface is free, as expected"), "{log}");
    assert!(!log.contains("a launch has failed"), "{log}");
    cluster.all_run("3");
}

/// The node's agent is gone: only its hook's end, or EC2's, lets the instance go.
fn hangs_in_the_drain(end: impl FnOnce(&Cluster, &InstanceId)) {
    let cluster = two_with(|_| {});
    let victim = cluster.in_service(0);
    hangs_in_its_departure(&cluster, &victim);
    hooks_end(&cluster, 0, Transition::Terminating, Duration::from_secs(30), ActionResult::Continue);
    // The time in the hook is not counted.
    let roll = cluster.roll(&["--timeout", "50s"]);
    cluster.wait_until(0, "Terminating:Wait");
    end(&cluster, &victim);
    let log = roll.must_end(0);
    cluster.all_run("2");
    at_most_one_was_out(&cluster.sim, &cluster.groups());
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
    assert_eq!(order(&cluster.sim), [group(0), group(1)], "{log}");
    let gives_up = |act: &ec2_sim::Act| act.kind == ActKind::Abandon;
    assert!(!cluster.sim.events().acts().iter().any(gives_up), "{log}");
}

#[test]
fn a_node_whose_agent_is_killed_in_the_drain_is_waited_for_until_its_hook_ends() {
    hangs_in_the_drain(|_, _| {});
}

#[test]
fn a_spot_notice_during_the_drain_ends_the_node_and_the_roll_goes_on() {
    hangs_in_the_drain(|cluster, victim| cluster.sim.interrupt(victim, Duration::from_secs(8)).unwrap());
}

#[test]
fn while_two_nodes_wait_in_their_departures_no_third_goes() {
    let cluster = Cluster::new(&Behaviour { nodes: 3, drain: Duration::from_secs(9).into(), ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    let roll = cluster.roll(&["--check", "true"]);
    cluster.wait_until(0, "Terminating:Wait");
    // Somebody else takes another one: at most one of the two may really leave, which the nodes' gate decides.
    cluster.sim.terminate_in_group(&cluster.in_service(1)).unwrap();
    let log = roll.must_end(0);
    cluster.all_run("2");
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
    assert_eq!(order(&cluster.sim).last(), Some(&group(2)), "{log}");
}
