//! A departure while AWS does not answer, or does not allow what the node needs.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "departure/common.rs"]
mod common;
mod support;

use std::time::Duration;

use common::{
    DETACHES, HOOKS, Leaving, TERMINATE_HOOK, api_outage, attempts_to_complete, completed, config, draining, drains,
    in_service, is_attached, is_clean, is_mounted, must_have_left, ordered, outcome_of, wait_for_lifecycle, with_hooks,
    world,
};
use ec2_sim::{Fault, FaultRule, Spread};
use support::{each, run, status, wait_until};

#[test]
fn a_metadata_service_that_is_away_before_and_during_the_departure_delays_it() {
    let Leaving { world, node, volume, service } =
        with_hooks(&draining("echo drains; while [ ! -e /tmp/go ]; do sleep 0.1; done"), "");
    let away = || world.sim.add_fault(FaultRule::always("imds:*", Fault::Reset)).unwrap();
    away();
    ordered(&world, &node);
    let faults = || world.events().faults().len();
    wait_until(|| faults() >= 2, || service.log());
    assert_eq!(drains(&node), 0);

    world.sim.clear_faults();
    service.wait_for("| drains");
    away();
    node.shell("touch /tmp/go");
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert!(is_clean(&world, &volume, "xfs") && !is_attached(&world, &volume), "{}", outcome.log);
}

#[test]
fn refused_metadata_tokens_are_asked_for_anew() {
    let Leaving { world, node, service, .. } = with_hooks(HOOKS, "");
    world.sim.revoke_tokens(&node.id).unwrap();

    ordered(&world, &node);

    must_have_left(&world, &node, &service.end());
}

#[test]
fn without_any_api_a_node_drains_and_unmounts_and_completes_once_it_is_back() {
    each(&["xfs", "ext4"], |file_system| {
        let world = world(|_| {});
        let (node, volume) = world.node();
        node.hooks(HOOKS);
        node.configure(config(&volume, file_system, "", ""));
        let service = in_service(&node);
        wait_for_lifecycle(&world, &node, "InService");

        api_outage(&world);
        ordered(&world, &node);
        wait_until(|| outcome_of(&node, "leave") == "running", || service.log());

        assert_eq!(drains(&node), 1, "{}", service.log());
        assert!(!is_mounted(&node) && is_clean(&world, &volume, file_system), "{}", service.log());
        assert!(completed(&world).is_empty(), "{}", service.log());
        wait_until(|| attempts_to_complete(&world) > 0 || service.log().contains("leave: wait"), || service.log());
        assert_eq!(status(&node).0["state"], "leaving", "{}", service.log());
        world.sim.clear_faults();
        let outcome = service.end();
        must_have_left(&world, &node, &outcome);
        assert_eq!(drains(&node), 1, "{}", outcome.log);
    });
}

#[test]
fn a_continue_whose_answer_was_lost_is_not_sent_to_effect_twice() {
    let Leaving { world, node, service, .. } = with_hooks(HOOKS, "");
    world.sim.add_fault(FaultRule::once("autoscaling:CompleteLifecycleAction", Fault::LostReply)).unwrap();

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert_eq!(node.journal()["departure"]["ended"], "continued", "{}", outcome.log);
}

#[test]
fn the_metadata_service_is_believed_where_iam_hides_the_own_state() {
    let world = world(|_| {});
    let node = world.launch_without(&["autoscaling:DescribeAutoScalingInstances"]);
    let volume = world.volume(1);
    node.hooks(HOOKS);
    node.configure(config(&volume, "xfs", DETACHES, ""));
    let service = in_service(&node);

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert!(is_clean(&world, &volume, "xfs") && !is_attached(&world, &volume), "{}", outcome.log);
}

#[test]
fn a_continue_that_iam_refuses_is_sent_again_once_it_is_allowed() {
    let Leaving { world, node, service, .. } = with_hooks(HOOKS, "");
    let deny = |denied: &[&str]| {
        let denied: Vec<_> = denied.iter().map(|action| (*action).to_owned()).collect();
        world.sim.change_instance(&node.id, |spec| spec.denied = denied).unwrap();
    };
    deny(&["autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat"]);

    ordered(&world, &node);
    service.wait_for("CONTINUE cannot be sent");

    let shown = run(&node, &["status"]).log;
    assert!(shown.contains("CONTINUE cannot be sent") && shown.contains("CompleteLifecycleAction"), "{shown}");
    assert!(completed(&world).is_empty() && !is_mounted(&node));
    deny(&[]);
    must_have_left(&world, &node, &service.end());
}

#[test]
fn a_continue_that_is_refused_to_the_end_says_what_to_do_and_nothing_claims_success() {
    let Leaving { world, node, service, .. } = with_hooks(HOOKS, "[timeouts]\ncomplete = \"3s\"");
    let denied = vec!["autoscaling:CompleteLifecycleAction".to_owned()];
    world.sim.change_instance(&node.id, |spec| spec.denied = denied).unwrap();

    ordered(&world, &node);
    let outcome = service.end();

    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert!(completed(&world).is_empty());
    assert!(outcome.log.contains("allow autoscaling:CompleteLifecycleAction on the group"), "{}", outcome.log);
    assert_eq!(outcome_of(&node, "leave"), "failed");
    assert!(node.journal()["departure"]["ended"].is_null());
    let shown = run(&node, &["status"]).log;
    for said in ["CONTINUE cannot be sent", "Auto Scaling was not told", "what to do: allow autoscaling:Complete"] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
}

#[test]
fn a_wrong_name_of_the_termination_hook_is_said() {
    let world = world(|_| {});
    let (node, volume) = world.node();
    node.hooks(HOOKS);
    let config = config(&volume, "xfs", DETACHES, "[timeouts]\ncomplete = \"3s\"");
    node.configure(config.replace(TERMINATE_HOOK, "another-hook"));
    let service = in_service(&node);
    wait_for_lifecycle(&world, &node, "InService");

    ordered(&world, &node);
    let outcome = service.end();

    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    let said = "so the name of the hook (another-hook) or of the group (kafka-node-00) may be wrong";
    assert!(outcome.log.contains(said), "{}", outcome.log);
    let shown = run(&node, &["status"]).log;
    assert!(shown.contains(said), "{shown}");
    assert!(completed(&world).is_empty() && !is_mounted(&node) && drains(&node) == 1, "{}", outcome.log);
}

#[test]
fn a_detach_that_ec2_refuses_keeps_the_node_from_nothing() {
    let Leaving { world, node, volume, service } = with_hooks(HOOKS, "");
    let denied = vec!["ec2:DetachVolume".to_owned()];
    world.sim.change_instance(&node.id, |spec| spec.denied = denied).unwrap();

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert_eq!(outcome_of(&node, "detach"), "failed", "{}", outcome.log);
    assert!(is_clean(&world, &volume, "xfs"), "{}", outcome.log);
}

#[test]
fn an_instance_that_has_moved_on_by_itself_has_nothing_to_complete() {
    let Leaving { world, node, service, .. } = with_hooks(&draining("echo drains; sleep 6"), "");
    ordered(&world, &node);
    service.wait_for("| drains");

    world.sim.set_lifecycle_state(&node.id, "Terminating:Proceed").unwrap();
    let outcome = service.end();

    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert!(completed(&world).is_empty(), "{}", outcome.log);
    assert_eq!(node.journal()["departure"]["ended"], "nothing-to-complete", "{}", outcome.log);
    assert!(outcome.took < Duration::from_mins(2), "{}", outcome.log);
}

#[test]
fn a_termination_hook_that_begins_to_wait_late_is_completed_once_it_does() {
    let late = Spread::from(Duration::from_secs(12));
    let world = world(|config| config.latencies.terminating_to_wait = late);
    let (node, volume) = world.node();
    node.hooks(HOOKS);
    node.configure(config(&volume, "xfs", DETACHES, ""));
    let service = in_service(&node);
    wait_for_lifecycle(&world, &node, "InService");

    ordered(&world, &node);
    let outcome = service.end();

    must_have_left(&world, &node, &outcome);
    assert!(outcome.log.contains("its termination hook has not begun to wait"), "{}", outcome.log);
}
