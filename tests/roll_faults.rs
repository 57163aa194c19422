//! A roll whose AWS loses answers, throttles, lags behind or denies: it ends well or says why not, and takes no node twice.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/cluster.rs"]
mod cluster;

use std::time::Duration;

use cluster::witness::{at_most_one_was_out, changes, nothing_was_taken_wrongly, order, story, terminated};
use cluster::{Behaviour, Cluster, Healthy};
use ec2_sim::{Fault, FaultRule};

const TERMINATE: &str = "autoscaling:TerminateInstanceInAutoScalingGroup";
const STAGE: &str = "autoscaling:UpdateAutoScalingGroup";
const TAG: &str = "autoscaling:CreateOrUpdateTags";
const GROUPS: &str = "autoscaling:DescribeAutoScalingGroups";
const INSTANCES: &str = "autoscaling:DescribeAutoScalingInstances";

fn cluster_behind() -> Cluster {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    cluster
}

/// A roll under these faults ends well, each node taken once.
fn survives(rules: Vec<FaultRule>) -> String {
    let cluster = cluster_behind();
    for rule in rules {
        cluster.sim.add_fault(rule).unwrap();
    }
    let log = cluster.roll(&[]).must_end(0);
    assert!(!cluster.sim.events().faults().is_empty(), "no fault struck\n{log}");
    cluster.sim.clear_faults();
    cluster.all_run("2");
    at_most_one_was_out(&cluster.sim, &cluster.groups());
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
    assert_eq!(terminated(&cluster.sim).len(), 2, "{log}\n{}", story(&cluster.sim));
    cluster.has_no_flag();
    log
}

#[test]
fn a_terminate_whose_answer_is_lost_is_not_sent_again() {
    let log = survives(vec![FaultRule::once(TERMINATE, Fault::LostReply)]);
    assert!(log.contains("is not known, looks again"), "{log}");
}

#[test]
fn a_terminate_that_fails_without_effect_is_sent_again_after_its_time() {
    survives(vec![FaultRule::once(TERMINATE, Fault::ServerError)]);
}

#[test]
fn lost_answers_of_staging_and_tagging_are_looked_at_anew() {
    survives(vec![
        FaultRule::once(STAGE, Fault::LostReply),
        FaultRule::once(TAG, Fault::LostReply),
        FaultRule::once(TAG, Fault::GarbageReply).after(2),
    ]);
}

#[test]
fn a_terminate_that_is_refused_while_the_group_is_busy_is_a_reason_to_look_again() {
    let busy = Fault::Error {
        http: 400,
        code: "ScalingActivityInProgress".to_owned(),
        message: "Scaling activity is in progress".to_owned(),
    };
    let log = survives(vec![FaultRule::once(TERMINATE, busy.clone()), FaultRule::once(TERMINATE, busy).after(2)]);
    assert!(log.contains("Auto Scaling is busy"), "{log}");
}

#[test]
fn a_roll_waits_while_aws_throttles_its_descriptions() {
    let log = survives(vec![
        FaultRule::times(GROUPS, 9, Fault::Throttling).after(4),
        FaultRule::times(INSTANCES, 4, Fault::ServerError).after(6),
        FaultRule::times("ec2:Describe*", 6, Fault::Throttling).after(20),
    ]);
    assert!(log.contains("AWS cannot be asked"), "{log}");
}

/// Both descriptions tell for a while how things were this many changes ago.
fn survives_a_lag(back: usize) {
    survives(vec![
        FaultRule::times(GROUPS, 12, Fault::Stale { back }).after(6),
        FaultRule::times(INSTANCES, 12, Fault::Stale { back }).after(8),
    ]);
}

#[test]
fn descriptions_that_lag_behind_take_no_node_too_early() {
    survives_a_lag(1);
}

#[test]
fn descriptions_that_lag_far_behind_take_no_node_too_early() {
    survives_a_lag(3);
}

#[test]
fn descriptions_that_step_back_now_and_then_do_no_harm() {
    let step = |action: &str, at: u32| FaultRule::times(action, 1, Fault::Stale { back: 2 }).after(at);
    survives((3..18).flat_map(|nth| [step(GROUPS, 3 * nth), step(INSTANCES, 2 * nth + 1)]).collect());
}

#[test]
fn a_look_that_has_grown_old_is_not_acted_on() {
    // Longer than one attempt may last: whichever is over first, the look's age or the attempts, nothing is terminated.
    let log = survives(vec![FaultRule::times(TAG, 3, Fault::Slow(Duration::from_secs(17))).after(1)]);
    assert!(log.contains("nothing was done, it is looked at anew"), "{log}");
}

#[test]
fn a_roll_that_may_not_tag_is_refused() {
    let cluster = cluster_behind();
    let log = cluster.roll_as(&[TAG], &[]).must_end(6);
    assert!(log.contains("autoscaling:CreateOrUpdateTags"), "{log}");
    assert_eq!(changes(&cluster.sim), Vec::<String>::new(), "{log}");
}

#[test]
fn a_roll_that_may_not_stage_stops_and_names_the_permissions() {
    for denied in [STAGE, "ec2:RunInstances"] {
        let cluster = cluster_behind();
        let log = cluster.roll_as(&[denied], &[]).must_end(1);
        for permission in [STAGE, "ec2:RunInstances", "iam:PassRole"] {
            assert!(log.contains(permission), "{permission} is missing:\n{log}");
        }
        assert_eq!(order(&cluster.sim), Vec::<String>::new(), "{log}");
        cluster.has_no_flag();
    }
}

#[test]
fn a_roll_that_may_not_terminate_stops_and_names_the_permission() {
    let cluster = cluster_behind();
    let log = cluster.roll_as(&[TERMINATE], &[]).must_end(1);
    assert!(log.contains(TERMINATE), "{log}");
    assert_eq!(order(&cluster.sim), Vec::<String>::new(), "{log}");
    cluster.has_no_flag();
}

#[test]
fn what_may_not_be_read_is_said_and_refuses_nothing() {
    let cluster = cluster_behind();
    let denied = [
        "autoscaling:DescribeAccountSettings",
        "autoscaling:DescribeInstanceRefreshes",
        "autoscaling:DescribeLifecycleHooks",
        "autoscaling:DescribeScalingActivities",
        "ec2:DescribeImages",
        "ec2:DescribeInstanceTypeOfferings",
        "ec2:DescribeInstances",
        "ec2:DescribeNetworkInterfaces",
    ];
    let log = cluster.roll_as(&denied, &[]).must_end(0);
    let said = [
        "launchBeforeTerminate",
        "its lifecycle hooks",
        "its instance refreshes",
        "its new image",
        "the instance types",
    ];
    for what in said {
        let is_said = log.lines().any(|line| line.contains(what) && line.contains("cannot be read"));
        assert!(is_said, "{what} is not said:\n{log}");
    }
    cluster.all_run("2");
    at_most_one_was_out(&cluster.sim, &cluster.groups());
}

#[test]
fn credentials_that_may_not_look_at_groups_fail_at_once() {
    let cluster = cluster_behind();
    let log = cluster.roll_as(&[GROUPS], &[]).must_end(1);
    assert!(log.contains(GROUPS), "{log}");
    assert_eq!(changes(&cluster.sim), Vec::<String>::new(), "{log}");
}
