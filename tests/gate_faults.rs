//! The gate where AWS does not answer, or does not allow to ask.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "gate/cluster.rs"]
mod cluster;
#[path = "gate/common.rs"]
mod common;
#[path = "departure/common.rs"]
mod departure;
mod support;

use std::thread;
use std::time::Duration;

use cluster::{Behaviour, Cluster};
use common::{AWAY, CLUSTER, LATER, drained_at, must_leave_after, node_of_cluster, other, uptime, wait_at_the_gate};
use departure::{Leaving, TERMINATE_HOOK, ordered};
use ec2_sim::{Fault, FaultRule, Transition, What};
use support::{GROUP, Instance, World, each, heartbeats, wait_until};

const DESCRIBE_GROUPS: &str = "autoscaling:DescribeAutoScalingGroups";
const HEARTBEAT: &str = "autoscaling:RecordLifecycleActionHeartbeat";
/// The steps after the gate are short, but for the minute that is kept for detaching.
const SHORT: &str = "[timeouts]\ndrain = \"5s\"\nunmount = \"5s\"\n";

/// The termination hook waits for this long without a heartbeat.
fn hook_waits(world: &World, timeout: Duration) {
    let change = |group: &mut ec2_sim::GroupSpec| {
        for hook in group.hooks.iter_mut().filter(|hook| hook.transition == Transition::Terminating) {
            hook.heartbeat_timeout = timeout;
        }
    };
    world.sim.change_group(GROUP, change).unwrap();
}

/// Why the node's termination hook ended.
fn end_of_hook(world: &World, node: &Instance) -> String {
    let events = world.events();
    let end = events.lifecycle(node.id.as_str()).into_iter().find(|change| change.to == "Terminating:Proceed");
    end.map(|change| change.cause.clone()).unwrap_or_default()
}

fn waiting_since(world: &World, node: &Instance) -> f64 {
    let waits = |what: &What| {
        matches!(what, What::Lifecycle(change)
            if change.instance == node.id.as_str() && change.to == "Terminating:Wait")
    };
    common::when(world, waits).unwrap()
}

#[test]
fn without_the_tags_two_that_wait_for_each_other_wait_to_the_gates_end_and_say_so() {
    each(&["ec2:CreateTags", "ec2:DescribeInstances"], |denied| {
        let behaviour = Behaviour {
            denied: vec![(*denied).to_owned()],
            cluster: format!("{CLUSTER}gate = \"30s\"\n"),
            ..Behaviour::default()
        };
        let mut cluster = Cluster::new(2, behaviour);

        let absences = cluster.tell(&[0, 1].map(|node| (Duration::ZERO, node)));

        for absence in &absences {
            let waited = absence.drained - absence.told;
            assert!((30.0..60.0).contains(&waited), "{denied}: {waited:.1} s\n{}", absence.log);
            let ends = |line: &&str| line.contains("gate: warning: the node leaves without knowing");
            let said = absence.log.lines().find(ends).unwrap_or_default();
            assert!(said.contains(AWAY) && said.contains("its time at the gate is over"), "{said}\n{}", absence.log);
        }
    });
}

#[test]
fn groups_that_iam_hides_are_said_to_be_hidden_and_keep_nobody_beyond_a_minute() {
    let Leaving { world, node, service, .. } = node_of_cluster(CLUSTER);
    world.sim.change_instance(&node.id, |spec| spec.denied.push(DESCRIBE_GROUPS.to_owned())).unwrap();
    let told = uptime();
    ordered(&world, &node);

    let log = must_leave_after(told + 60.0, &node, service);

    assert!(log.contains("without knowing that no other node is away: ") && log.contains(DESCRIBE_GROUPS), "{log}");
    let drained = drained_at(&node).unwrap();
    assert!(drained - told < 90.0, "{:.1} s\n{log}", drained - told);
}

#[test]
fn groups_that_iam_hides_only_after_a_while_are_still_asked_for_a_minute() {
    let Leaving { world, node, service, .. } = node_of_cluster(CLUSTER);
    let id = other(&world, LATER);
    world.sim.set_lifecycle_state(&id, "Standby").unwrap();
    ordered(&world, &node);
    wait_at_the_gate(&service, id.as_str());
    // Longer than the minute that IAM is given.
    thread::sleep(Duration::from_secs(62));
    let denial = Fault::Error { http: 403, code: "AccessDenied".to_owned(), message: "not now".to_owned() };
    world.sim.add_fault(FaultRule::times(DESCRIBE_GROUPS, 2, denial)).unwrap();
    let looks = || world.events().attempts(DESCRIBE_GROUPS).len();
    let so_far = looks();
    wait_until(|| looks() >= so_far + 3, || service.log());

    let released = uptime();
    world.sim.set_lifecycle_state(&id, "InService").unwrap();

    must_leave_after(released, &node, service);
}

#[test]
fn an_outage_is_waited_for_while_heartbeats_are_taken() {
    // Of a hundred times the timeout, the gate gets what the later steps do not need.
    let Leaving { world, node, service, .. } = node_of_cluster(&format!("{CLUSTER}{SHORT}"));
    other(&world, LATER);
    hook_waits(&world, Duration::from_secs(15));
    world.sim.add_fault(FaultRule::always(DESCRIBE_GROUPS, Fault::ServerError)).unwrap();
    let before = heartbeats(&world);
    ordered(&world, &node);
    // Twice as long as the hook waits by itself.
    wait_until(|| heartbeats(&world) >= before + 6, || service.log());

    let released = uptime();
    world.sim.clear_faults();

    must_leave_after(released, &node, service);
    assert_eq!(end_of_hook(&world, &node), "CompleteLifecycleAction CONTINUE");
}

#[test]
fn an_outage_in_which_no_heartbeat_is_taken_ends_the_gate_in_time_for_the_rest() {
    // Drain, unmount and a minute for detaching fit into the longer time; of the shorter one they get half.
    each(&[(30, 15.0), (90, 70.0)], |(timeout, kept)| {
        let Leaving { world, node, service, .. } = node_of_cluster(&format!("{CLUSTER}{SHORT}"));
        other(&world, LATER);
        let began = uptime() - world.events().last().unwrap().t;
        hook_waits(&world, Duration::from_secs(*timeout));
        for action in [DESCRIBE_GROUPS, HEARTBEAT] {
            world.sim.add_fault(FaultRule::always(action, Fault::ServerError)).unwrap();
        }
        ordered(&world, &node);

        let log = must_leave_after(0.0, &node, service);

        assert!(log.contains("Auto Scaling takes no heartbeat, and ends the wait in "), "{log}");
        assert_eq!(end_of_hook(&world, &node), "CompleteLifecycleAction CONTINUE");
        let left = waiting_since(&world, &node) + *timeout as f64 - (drained_at(&node).unwrap() - began);
        // The order is seen up to 6 s late, and what stands in the way is looked at every few seconds.
        assert!((kept - 12.0..kept + 2.0).contains(&left), "{left:.1} s of {timeout} were left\n{log}");
    });
}

#[test]
fn an_outage_of_all_of_auto_scaling_from_the_order_on_ends_the_gate_in_time() {
    let Leaving { world, node, service, .. } = node_of_cluster(&format!("{CLUSTER}{SHORT}"));
    other(&world, LATER);
    hook_waits(&world, Duration::from_secs(120));
    world.sim.add_fault(FaultRule::always("autoscaling:*", Fault::ServerError)).unwrap();
    ordered(&world, &node);
    // The order is believed after 30 s, and the timeout that cannot be read is taken to be the shortest there is.
    wait_until(|| drained_at(&node).is_some(), || service.log());
    world.sim.clear_faults();

    let outcome = service.end();

    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert_eq!(end_of_hook(&world, &node), "CompleteLifecycleAction CONTINUE", "{TERMINATE_HOOK}\n{}", outcome.log);
}
