//! A failed node is held for an operator: heartbeats, retry, status, the end of the hold.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use ec2_sim::{Fault, FaultRule, HookSpec, What};
use nix::sys::signal::Signal;
use serde_json::Value;
use support::{
    HOOKS, Instance, Running, World, config_with, each, heartbeats, run, serve, status, volume_at, wait_for_state,
    wait_until,
};

/// A hook script whose configure function fails until /tmp/repaired exists.
const BROKEN: &str = r#"
configure_cluster_node() {
  echo "configure $1 $2" >> /var/log/hooks.log
  [ -e /tmp/repaired ] || { echo "no such listener"; return 3; }
}
wait_for_healthy_cluster() {
  echo "health $1 $2" >> /var/log/hooks.log
}
"#;

/// A hook with this timeout.
fn hook(timeout: Duration) -> HookSpec {
    HookSpec { heartbeat_timeout: timeout, ..HookSpec::default() }
}

/// A node with these hooks, and its service.
fn held(world: &World, hooks: &str, lifecycle: &str, rest: &str) -> (Instance, Running) {
    let (node, volume) = world.node();
    let service = serve(&node, hooks, &config_with(lifecycle, &[volume_at("/mydata", &volume, "xfs")], rest));
    (node, service)
}

/// Waits for Pending:Wait: until then the simulator moves the instance on by itself.
fn wait_for_the_hook(world: &World, node: &Instance) {
    let state = || world.sim.lifecycle_state(&node.id);
    wait_until(|| state().as_deref() == Some("Pending:Wait"), || format!("{:?}", state()));
}

/// The instance's status tag; empty where it has none.
fn tag(world: &World, node: &Instance) -> String {
    world.sim.instance_tags(&node.id).unwrap().remove("node-agent:status").unwrap_or_default()
}

#[test]
fn a_held_node_is_repaired_retried_and_reported() {
    let world = World::with_hook(&hook(Duration::from_secs(6)), |_| {});
    let (node, service) = held(&world, BROKEN, "", "");
    service.wait_for("held for");

    let (document, code) = status(&node);
    assert_eq!((code, &document["state"], &document["schema"]), (1, &Value::from("held"), &Value::from(1)));
    assert_eq!(document["failure"]["step"], "configure");
    assert_eq!(document["failure"]["error"]["code"], "hook-failed");
    assert!(document["hold"]["seconds_left"].as_u64().unwrap() > 3500, "{document}");
    let text = run(&node, &["status"]);
    text.must_fail(1, &["HELD", "left, then ABANDON", "FAIL  configure", "| no such listener", "node-agent retry"]);
    // Longer than the hook waits by itself.
    wait_until(|| heartbeats(&world) >= 4, || service.log());
    assert_eq!(world.sim.lifecycle_state(&node.id).as_deref(), Some("Pending:Wait"));
    wait_until(|| !tag(&world, &node).is_empty(), || service.log());
    let tag = tag(&world, &node);
    assert!(tag.starts_with("configure: ") && !tag.contains("listener"), "{tag}");
    let metrics = node.read("/run/node-agent/node_agent.prom");
    assert!(metrics.contains("node_agent_state{state=\"held\"} 1\n"), "{metrics}");
    assert!(metrics.contains("node_agent_step_failed{step=\"configure\",volume=\"\"} 1\n"), "{metrics}");

    node.shell("touch /tmp/repaired");
    let retried = run(&node, &["retry"]);

    assert_eq!(retried.code, Some(0), "{}", retried.log);
    // The retry shows the service's progress live.
    assert!(retried.log.contains("configure: start:") && retried.log.contains("complete: done"), "{}", retried.log);
    assert_eq!(world.completions(), ["CONTINUE"]);
    let (document, code) = status(&node);
    assert_eq!((code, &document["state"]), (0, &Value::from("done")), "{document}");
    assert!(document["failure"].is_null() && document["hold"].is_null(), "{document}");
    wait_until(
        || world.sim.instance_tags(&node.id).unwrap()["node-agent:status"] == "done",
        || format!("{:?}", world.sim.instance_tags(&node.id)),
    );
    // After the repair nothing more is sent, and the service stays.
    let beats = || world.events().attempts("autoscaling:RecordLifecycleActionHeartbeat").len();
    let so_far = beats();
    // Time for three more heartbeats, if they went on.
    thread::sleep(Duration::from_secs(7));
    // One may have been under way.
    assert!(beats() <= so_far + 1, "{} and {so_far}", beats());
    service.signal(Signal::SIGTERM);
    assert_eq!(service.end().code, Some(0));
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_tag_whose_answer_was_lost_is_taken_back_after_the_repair() {
    let world = World::new();
    world.sim.add_fault(FaultRule::always("ec2:CreateTags", Fault::LostReply)).unwrap();
    let node = world.launch();
    let service = serve(&node, BROKEN, &config_with("", &[], ""));
    wait_until(|| tag(&world, &node).starts_with("configure: "), || service.log());

    world.sim.clear_faults();
    node.shell("touch /tmp/repaired");
    run(&node, &["retry"]).must_fail(0, &["result=done"]);

    wait_until(|| tag(&world, &node) == "done", || format!("{}\n{}", tag(&world, &node), service.log()));
}

#[test]
fn who_asks_while_the_tag_is_taken_back_is_answered() {
    let world = World::new();
    let node = world.launch();
    let service = serve(&node, BROKEN, &config_with("", &[], ""));
    wait_until(|| !tag(&world, &node).is_empty(), || service.log());
    world.sim.add_fault(FaultRule::once("ec2:CreateTags", Fault::Hang)).unwrap();
    node.shell("touch /tmp/repaired");
    run(&node, &["retry"]).must_fail(0, &["result=done"]);
    wait_until(|| !world.events().faults().is_empty(), || service.log());

    // As `retry` and `status --wait` follow a service that is at work.
    let connect = || UnixStream::connect("/run/node-agent/control.sock").unwrap();
    let mut service = node.machine().inside(connect).unwrap();
    service.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    service.write_all(b"{\"do\":\"follow\"}\n").unwrap();
    let mut said = String::new();
    service.read_to_string(&mut said).unwrap_or_else(|error| panic!("{error} after {said}"));
    assert!(said.ends_with("{\"ended\":null}\n"), "{said}");
}

#[test]
fn a_hold_that_ends_sends_exactly_one_abandon() {
    let world = World::with_hook(&hook(Duration::from_secs(6)), |_| {});
    let (node, service) = held(&world, BROKEN, "hold_for = \"13s\"", "");

    let outcome = service.end();

    outcome.must_fail(1, &["held for", "the hold has ended", "step=configure code=hook-failed"]);
    assert_eq!(world.completions(), ["ABANDON"]);
    let (document, code) = status(&node);
    assert_eq!((code, &document["state"], &document["launch"]), (1, &"failed".into(), &"abandoned".into()));
    // A later start leaves the instance alone.
    run(&node, &["run"]).must_fail(7, &[]);
    assert_eq!(world.completions(), ["ABANDON"]);
}

#[test]
fn neither_a_retry_nor_a_restart_puts_off_the_end_of_a_hold() {
    let world = World::new();
    let (node, service) = held(&world, BROKEN, "hold_for = \"20s\"", "");
    service.wait_for("held for");
    let until = status(&node).0["hold"]["until"].clone();

    run(&node, &["retry"]).must_fail(1, &["code=hook-failed"]);
    assert_eq!(status(&node).0["hold"]["until"], until);
    service.signal(Signal::SIGKILL);
    assert_eq!(service.end().code, None);
    assert_eq!(status(&node).0["state"], "dead");
    let service = node.start_with(&["run"]);
    service.wait_for("held for");
    assert_eq!(status(&node).0["hold"]["until"], until);

    assert_eq!(service.end().code, Some(1));
    assert_eq!(world.completions(), ["ABANDON"]);
}

#[test]
fn heartbeats_keep_a_hook_of_six_times_the_lifecycle_hooks_timeout_alive() {
    let world = World::with_hook(&hook(Duration::from_secs(4)), |_| {});
    let slow = HOOKS.replace("echo \"configure", "sleep 24; echo \"configure");
    let (_node, service) = held(&world, &slow, "", "");

    service.wait_for("complete: done");

    assert_eq!(world.completions(), ["CONTINUE"]);
    assert!(heartbeats(&world) >= 6, "{}", heartbeats(&world));
}

#[test]
fn a_hook_beyond_its_deadline_gets_no_further_heartbeat() {
    let world = World::with_hook(&hook(Duration::from_secs(4)), |_| {});
    // The hook ignores TERM, so that ending it takes longer than several heartbeats.
    let deaf = HOOKS.replace("echo \"configure", "trap '' TERM; while :; do sleep 0.1; done; echo \"configure");
    let (_node, service) = held(&world, &deaf, "on_failure = \"abandon\"", "[timeouts]\nhooks = \"3s\"");

    let outcome = service.end();

    outcome.must_fail(1, &["code=hook-timed-out"]);
    // The lifecycle hook timed out four seconds after the last heartbeat, while the agent was ending the hook, which takes five.
    let events = world.events();
    let ran_out = events
        .iter()
        .any(|event| matches!(&event.what, What::Lifecycle(change) if change.cause.contains("heartbeat timeout")));
    assert!(ran_out && heartbeats(&world) > 0, "{}", outcome.log);
    assert!(world.completions().is_empty());
}

#[test]
fn the_lifecycle_action_that_timed_out_ends_the_hold_with_seven() {
    // IAM denies heartbeats: the lifecycle hook times out during the hold.
    let world = World::with_hook(&hook(Duration::from_secs(15)), |_| {});
    let volume = world.volume(1);
    let node = world.launch_without(&["autoscaling:RecordLifecycleActionHeartbeat"]);
    let service = serve(&node, BROKEN, &config_with("", &[volume_at("/mydata", &volume, "xfs")], ""));
    service.wait_for("held for");
    wait_until(
        || world.sim.lifecycle_state(&node.id).is_none_or(|state| state.starts_with("Terminating")),
        || service.log(),
    );

    node.shell("touch /tmp/repaired");
    let retried = run(&node, &["retry"]);

    retried.must_fail(7, &["code=terminating"]);
    assert_eq!(service.end().code, Some(7));
    assert!(world.completions().is_empty());
}

#[test]
fn a_hold_whose_launch_is_lost_meanwhile_ends_with_seven() {
    let world = World::with_hook(&hook(Duration::from_secs(10)), |_| {});
    let (node, service) = held(&world, BROKEN, "", "");
    service.wait_for("held for");

    world.sim.set_lifecycle_state(&node.id, "Terminating:Wait").unwrap();

    service.end().must_fail(7, &["code=terminating"]);
    assert!(world.completions().is_empty());
}

#[test]
fn a_report_that_iam_refuses_is_tried_to_the_deadline_without_failing_the_node() {
    let world = World::with_hook(&hook(Duration::from_secs(10)), |_| {});
    let volume = world.volume(1);
    let node = world.launch_without(&["autoscaling:CompleteLifecycleAction"]);
    let config = config_with("on_failure = \"abandon\"", &[volume_at("/mydata", &volume, "xfs")], "");
    let service = serve(&node, HOOKS, &config);
    service.wait_for("complete: wait:");
    // Longer than the minute that eventual consistency is given elsewhere.
    thread::sleep(Duration::from_secs(65));

    let (document, code) = status(&node);
    assert_eq!((code, &document["state"]), (3, &Value::from("running")), "{document}");
    let complete = document["steps"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&complete["step"], &complete["outcome"]), (&"complete".into(), &"running".into()));
    assert!(complete["waiting"].as_str().unwrap().contains("autoscaling:CompleteLifecycleAction"), "{complete}");
    assert!(heartbeats(&world) > 10);
    world.sim.change_instance(&node.id, |spec| spec.denied.clear()).unwrap();
    service.wait_for("complete: done");
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn why_a_step_waits_is_told_also_while_it_tries_again() {
    let world = World::new();
    let node = world.launch_without(&["autoscaling:CompleteLifecycleAction"]);
    let service = serve(&node, HOOKS, &config_with("", &[], ""));
    service.wait_for("complete: wait:");

    // The next try hangs.
    world.sim.add_fault(FaultRule::once("autoscaling:CompleteLifecycleAction", Fault::Hang)).unwrap();
    wait_until(|| !world.events().faults().is_empty(), || service.log());

    let (document, code) = status(&node);
    assert_eq!((code, &document["state"]), (3, &Value::from("running")), "{document}");
    let complete = document["steps"].as_array().unwrap().last().unwrap();
    let waiting = complete["waiting"].as_str().unwrap_or_else(|| panic!("nothing of why: {document}"));
    assert!(waiting.contains("autoscaling:CompleteLifecycleAction"), "{complete}");
}

#[test]
fn a_report_that_iam_refuses_for_all_its_time_ends_with_seven_and_names_the_action() {
    let world = World::new();
    let volume = world.volume(1);
    let node = world.launch_without(&["autoscaling:CompleteLifecycleAction"]);
    let config = config_with(
        "on_failure = \"abandon\"",
        &[volume_at("/mydata", &volume, "xfs")],
        "[timeouts]\ncomplete = \"2s\"",
    );

    let outcome = serve(&node, HOOKS, &config).end();

    outcome.must_fail(
        7,
        &["step=complete code=report-refused", "the node is healthy", "allow autoscaling:CompleteLifecycleAction"],
    );
    assert!(world.completions().is_empty());
}

#[test]
fn no_active_lifecycle_action_is_decided_by_the_state() {
    // The state, whether it can be read, and what becomes of it.
    let cases: &[(&str, bool, &[&str])] = &[
        ("InService", true, &["result=done"]),
        ("Pending:Proceed", true, &["result=done"]),
        ("Standby", true, &["result=done"]),
        ("EnteringStandby", true, &["result=done"]),
        ("RootVolumeReplaced", true, &["result=done"]),
        ("Detached", true, &["result=done"]),
        ("Pending", true, &["step=complete code=lifecycle-not-waiting", "is Pending"]),
        ("Quarantined", true, &["step=complete code=lifecycle-not-waiting", "is Quarantined"]),
        ("InService", false, &["step=complete code=lifecycle-not-waiting", "autoscaling:DescribeAutoScalingInstances"]),
        ("Terminating:Wait", true, &["code=terminating"]),
    ];
    for (state, readable, said) in cases {
        let world = World::new();
        let denied: &[&str] = if *readable { &[] } else { &["autoscaling:Describe*"] };
        let node = world.launch_without(denied);
        wait_for_the_hook(&world, &node);
        world.sim.set_lifecycle_state(&node.id, state).unwrap();

        let outcome = node.run(&config_with("", &[], "[timeouts]\ncomplete = \"2s\""));

        let code = if said[0] == "result=done" { 0 } else { 7 };
        outcome.must_fail(code, said);
        assert!(world.completions().is_empty(), "{state}");
    }
}

#[test]
fn with_a_wrong_hook_name_the_waiting_launch_is_never_abandoned() {
    let world = World::new();
    let node = world.launch();
    let config = config_with("on_failure = \"abandon\"", &[], "[timeouts]\ncomplete = \"2s\"");

    let outcome = node.run(&config.replace("kafka-node-asg-hook", "another-hook"));

    outcome.must_fail(7, &["code=lifecycle-not-waiting", "Pending:Wait", "another-hook"]);
    assert!(world.completions().is_empty());
}

#[test]
fn a_lost_answer_that_nobody_can_check_counts_in_the_end_as_unconfirmed() {
    let world = World::new();
    let node = world.launch_without(&["autoscaling:Describe*"]);
    wait_for_the_hook(&world, &node);
    world.sim.add_fault(FaultRule::once("autoscaling:CompleteLifecycleAction", Fault::LostReply)).unwrap();

    let outcome = node.run(&config_with("", &[], "[timeouts]\ncomplete = \"2s\""));

    outcome.must_fail(0, &["warning: ", "whether it was accepted is unknown"]);
    assert_eq!(node.journal()["lifecycle"]["outcome"], "unconfirmed");
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn in_a_warm_pool_nothing_is_touched_and_the_real_launch_comes_later() {
    for readable in [true, false] {
        let world = World::new();
        let volume = world.volume(1);
        let denied: &[&str] = if readable { &[] } else { &["autoscaling:Describe*"] };
        let node = world.launch_without(denied);
        wait_for_the_hook(&world, &node);
        world.sim.set_lifecycle_state(&node.id, "Warmed:Pending:Wait").unwrap();
        let service = serve(&node, HOOKS, &config_with("", &[volume_at("/mydata", &volume, "xfs")], ""));
        wait_for_state(&node, "warm", &service);
        assert_eq!(world.completions(), ["CONTINUE"]);
        assert!(world.events().attempts("ec2:AttachVolume").is_empty());

        // Launched without another boot, as from Warmed:Running.
        world.sim.set_lifecycle_state(&node.id, "Pending:Wait").unwrap();
        wait_for_state(&node, "done", &service);

        assert_eq!(world.completions(), ["CONTINUE", "CONTINUE"]);
        assert!(node.read("/var/log/hooks.log").contains("health"));
    }
}

#[test]
fn who_asks_while_the_agent_is_at_work_is_told_so() {
    let world = World::new();
    let waiting =
        HOOKS.replace("echo \"configure", "echo here; until [ -e /tmp/go ]; do sleep 0.05; done; echo \"configure");
    let (node, service) = held(&world, &waiting, "", "");
    service.wait_for("| here");

    run(&node, &["retry"]).must_fail(4, &["is working on the node"]);
    run(&node, &["run"]).must_fail(4, &[&format!("process {}", service.child.id())]);
    run(&node, &["run", "--once"]).must_fail(4, &[&format!("process {}", service.child.id())]);
    run(&node, &["complete", "abandon", "--yes"]).must_fail(4, &["is working on the node"]);
    let waiter = node.start_with(&["status", "--wait"]);
    node.shell("touch /tmp/go");

    let waited = waiter.end();
    waited.must_fail(0, &["up (CONTINUE was sent)"]);
    assert_eq!(node.read("/var/log/hooks.log").matches("configure").count(), 1);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn of_two_retries_at_once_one_does_the_work_and_nothing_interleaves() {
    let world = World::new();
    let waits = "[ -e /tmp/repaired ] || return 3; until [ -e /tmp/go ]; do sleep 0.05; done; [ -e /tmp/repaired ]";
    let (node, service) = held(&world, &BROKEN.replace("[ -e /tmp/repaired ]", waits), "", "");
    service.wait_for("held for");
    node.shell("touch /tmp/repaired; : > /var/log/hooks.log");

    let both = [node.start_with(&["retry"]), node.start_with(&["retry"])];
    wait_until(|| both.iter().any(|retry| retry.log().contains("is working on the node")), || service.log());
    node.shell("touch /tmp/go");
    let both = both.map(Running::end);

    let mut codes = both.iter().map(|outcome| outcome.code.unwrap()).collect::<Vec<_>>();
    codes.sort_unstable();
    assert_eq!(codes, [0, 4], "{}\n----\n{}", both[0].log, both[1].log);
    assert_eq!(node.read("/var/log/hooks.log").matches("configure").count(), 1);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_retry_whose_terminal_goes_away_does_not_stop_the_work() {
    let world = World::new();
    let slow = BROKEN.replace("[ -e /tmp/repaired ]", "echo again; sleep 2; [ -e /tmp/repaired ]");
    let (node, service) = held(&world, &slow, "", "");
    service.wait_for("held for");
    node.shell("touch /tmp/repaired");

    let retry = node.start_with(&["retry"]);
    retry.wait_for("| again");
    retry.signal(Signal::SIGHUP);
    drop(retry);

    wait_for_state(&node, "done", &service);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn without_a_service_retry_works_in_the_foreground() {
    let world = World::new();
    let (node, volume) = world.node();
    node.hooks(BROKEN);
    node.run(&config_with("", &[volume_at("/mydata", &volume, "xfs")], "")).must_fail(1, &["code=hook-failed"]);
    assert_eq!(status(&node).0["state"], "failed");
    node.shell("touch /tmp/repaired");

    let outcome = run(&node, &["retry"]);

    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn retry_from_a_step_redoes_it_and_what_follows_but_sends_nothing_again() {
    let world = World::new();
    let (node, service) = held(&world, HOOKS, "", "");
    wait_for_state(&node, "done", &service);
    let count = |name: &str| node.read("/var/log/hooks.log").matches(name).count();
    run(&node, &["retry"]).must_fail(0, &["result=done"]);
    assert_eq!((count("configure"), count("health")), (1, 1));

    run(&node, &["retry", "--from", "health-check"]).must_fail(0, &["health-check: start:"]);
    assert_eq!((count("configure"), count("health")), (1, 2));
    run(&node, &["retry", "--from", "files"]).must_fail(0, &["files: start:"]);
    assert_eq!((count("configure"), count("health")), (2, 3));

    assert_eq!(world.completions(), ["CONTINUE"]);
    // Once redone, it is done.
    run(&node, &["retry"]).must_fail(0, &["result=done"]);
    assert_eq!((count("configure"), count("health")), (2, 3));
}

#[test]
fn a_launch_is_completed_by_hand_in_a_hold() {
    for (word, state, code) in [("continue", "InService", None), ("abandon", "Terminat", Some(1))] {
        let world = World::new();
        let (node, service) = held(&world, BROKEN, "", "");
        service.wait_for("held for");

        // Without a terminal there is no one to confirm.
        run(&node, &["complete", word]).must_fail(2, &["--yes"]);
        run(&node, &["complete", word, "--yes"]).must_fail(0, &["result=done"]);

        assert_eq!(world.completions(), [word.to_uppercase()]);
        wait_until(
            || world.sim.lifecycle_state(&node.id).is_none_or(|now| now.starts_with(state)),
            || format!("{:?}", world.sim.lifecycle_state(&node.id)),
        );
        match code {
            Some(code) => assert_eq!(service.end().code, Some(code)),
            None => {
                // Still broken: the service stays, and nothing more is sent.
                run(&node, &["status"]).must_fail(1, &["FAILED after its launch was completed"]);
                run(&node, &["complete", "abandon", "--yes"]).must_fail(7, &["code=launch-completed"]);
                service.signal(Signal::SIGTERM);
                assert_eq!(service.end().code, Some(3));
            }
        }
        assert_eq!(world.completions(), [word.to_uppercase()]);
    }
}

#[test]
fn a_failure_after_the_launch_holds_without_an_end_and_calls_nobody() {
    let world = World::new();
    let (mut node, volume) = world.node();
    let config = config_with("hold_for = \"1s\"", &[volume_at("/mydata", &volume, "xfs")], "");
    let service = serve(&node, HOOKS, &config);
    wait_for_state(&node, "done", &service);
    service.signal(Signal::SIGTERM);
    assert_eq!(service.end().code, Some(0));
    node.reboot();
    node.shell("mkdir -p /mydata; touch /mydata/in-the-way");

    let service = node.start_with(&["run"]);
    service.wait_for("held; repair it");
    thread::sleep(Duration::from_secs(2));

    assert_eq!(status(&node).0["failure"]["error"]["code"], "mount-point-taken");
    node.shell("rm /mydata/in-the-way");
    run(&node, &["retry"]).must_fail(0, &["mount"]);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_configuration_with_mistakes_is_held_with_heartbeats_and_repaired() {
    let world = World::with_hook(&hook(Duration::from_secs(6)), |_| {});
    let (node, volume) = world.node();
    let config = config_with("", &[volume_at("/mydata", &volume, "xfs")], "");
    let service = serve(&node, HOOKS, &config.replace("file_system", "filesystem"));
    service.wait_for("held for");
    wait_until(|| heartbeats(&world) >= 3, || service.log());
    run(&node, &["status"]).must_fail(1, &["HELD", "write file_system"]);

    node.configure(&config);
    run(&node, &["retry"]).must_fail(0, &["complete: done"]);

    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn sigterm_at_any_time_completes_nothing_and_the_next_start_resumes() {
    let world = World::new();
    let (node, service) = held(&world, BROKEN, "", "");
    service.wait_for("held for");
    service.signal(Signal::SIGTERM);
    assert_eq!(service.end().code, Some(3));
    let (document, code) = status(&node);
    assert_eq!((code, &document["state"]), (3, &Value::from("stopped")), "{document}");

    node.shell("touch /tmp/repaired");
    let service = node.start_with(&["run"]);
    wait_for_state(&node, "done", &service);

    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn status_tells_never_started_running_and_dead_apart() {
    let world = World::new();
    let (mut node, volume) = world.node();
    assert_eq!((status(&node).1, &status(&node).0["state"]), (3, &Value::from("never-started")));
    run(&node, &["status", "--wait", "--timeout", "300ms"]).must_fail(3, &["never started"]);
    let waiting = HOOKS.replace("echo \"configure", "echo here; [ -e /tmp/go ] || sleep 600; echo \"configure");
    let service = serve(&node, &waiting, &config_with("", &[volume_at("/mydata", &volume, "xfs")], ""));
    service.wait_for("| here");
    let (document, code) = status(&node);
    assert_eq!((code, &document["state"]), (3, &Value::from("running")), "{document}");
    let text = run(&node, &["status"]);
    text.must_fail(3, &["...   configure", "of 30m", "-     health-check"]);

    service.signal(Signal::SIGKILL);
    service.end();

    assert_eq!(status(&node).0["state"], "dead");
    run(&node, &["status"]).must_fail(3, &["DEAD, never finished", "cut   configure"]);
    // From the journal alone, too.
    node.shell("rm -r /run/node-agent");
    assert_eq!(status(&node).0["state"], "dead");
    node.reboot();
    node.shell("touch /tmp/go");
    let service = node.start_with(&["run"]);
    wait_for_state(&node, "done", &service);
}

#[test]
fn a_root_disk_that_fills_up_is_held_and_repaired() {
    let world = World::new();
    let full = HOOKS.replace(
        "echo \"configure",
        "[ -e /tmp/repaired ] || cat /dev/zero > /var/lib/node-agent/core 2>/dev/null || true; echo \"configure",
    );
    let (node, volume) = world.node();
    node.shell("mkdir -p /var/lib/node-agent; mount -t tmpfs -o size=512k tmpfs /var/lib/node-agent");
    let service = serve(&node, &full, &config_with("", &[volume_at("/mydata", &volume, "xfs")], ""));
    service.wait_for("held for");
    run(&node, &["status"]).must_fail(1, &["HELD", "No space left on device", "df -h"]);

    node.shell("rm /var/lib/node-agent/core; touch /tmp/repaired");
    run(&node, &["retry"]).must_fail(0, &["result=done"]);

    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_report_refused_in_any_words_is_sent_again_until_its_time_is_over() {
    let refusal =
        |code: &str, message: &str| Fault::Error { http: 400, code: code.to_owned(), message: message.to_owned() };
    let refusals = [
        refusal("ValidationError", "AutoScalingGroup name not found - null"),
        refusal("ValidationError", "1 validation error detected"),
        refusal("InvalidParameter", "Something is not as it should be"),
    ];
    each(&refusals, |fault| {
        let world =
            World::with_hook(&HookSpec { heartbeat_timeout: Duration::from_secs(6), ..HookSpec::default() }, |_| {});
        let node = world.launch();
        world.sim.add_fault(FaultRule::always("autoscaling:CompleteLifecycleAction", fault.clone())).unwrap();
        let service = serve(&node, HOOKS, &config_with("on_failure = \"abandon\"", &[], ""));
        service.wait_for("complete: wait: the node is healthy");
        let so_far = heartbeats(&world);
        wait_until(|| heartbeats(&world) >= so_far + 2, || service.log());
        assert_eq!(status(&node).0["state"], "running");
        world.sim.clear_faults();
        wait_for_state(&node, "done", &service);
        assert_eq!(world.completions(), ["CONTINUE"]);

        // For all its time.
        let node = world.launch();
        world.sim.add_fault(FaultRule::always("autoscaling:CompleteLifecycleAction", fault.clone())).unwrap();
        let brief = config_with("on_failure = \"abandon\"", &[], "[timeouts]\ncomplete = \"3s\"");
        serve(&node, HOOKS, &brief).end().must_fail(7, &["step=complete code=report-refused", "the node is healthy"]);
        let sent = world.events();
        let sent = sent.attempts("autoscaling:CompleteLifecycleAction");
        assert!(sent.iter().all(|call| call.parameters["LifecycleActionResult"] == "CONTINUE"));
    });
}

#[test]
fn an_instance_on_its_way_out_is_left_alone_in_every_such_state() {
    let cases = ["Terminated", "Terminating", "Warmed:Terminating", "Warmed:Terminating:Wait", "Warmed:Terminated"];
    let cases: Vec<_> = cases.iter().flat_map(|state| [(*state, true), (*state, false)]).collect();
    each(&cases, |(state, readable)| {
        let world = World::new();
        let volume = world.volume(1);
        let denied: &[&str] = if *readable { &[] } else { &["autoscaling:Describe*"] };
        let node = world.launch_without(denied);
        let now = || world.sim.lifecycle_state(&node.id);
        wait_until(|| now().as_deref() == Some("Pending:Wait"), || format!("{:?}", now()));
        world.sim.set_lifecycle_state(&node.id, state).unwrap();

        let outcome = serve(&node, HOOKS, &config_with("", &[volume_at("/mydata", &volume, "xfs")], "")).end();

        outcome.must_fail(7, &["code=terminating"]);
        assert!(world.events().attempts("ec2:AttachVolume").is_empty(), "{state}");
        assert!(world.events().attempts("autoscaling:CompleteLifecycleAction").is_empty(), "{state}");
        assert!(node.machine().read("/var/log/hooks.log").is_err(), "{state}");
    });
}

#[test]
fn an_abandon_that_comes_too_late_is_decided_at_once_or_asked_slowly() {
    // The state, whether it can be read, the most tries in the time there is, and what is said.
    let cases = [
        ("Detached", true, 1, "is Detached"),
        ("Standby", true, 1, "is Standby"),
        ("InService", true, 1, "is InService"),
        ("Quarantined", true, 16, "is Quarantined"),
        ("Standby", false, 16, "has an unknown state"),
    ];
    each(&cases, |case @ (state, readable, most, said)| {
        let world = World::new();
        let denied: &[&str] = if *readable { &[] } else { &["autoscaling:Describe*"] };
        let node = world.launch_without(denied);
        let text = config_with("hold_for = \"5s\"", &[], "[timeouts]\ncomplete = \"5s\"");
        let service = serve(&node, BROKEN, &text);
        service.wait_for("held for");
        world.sim.set_lifecycle_state(&node.id, state).unwrap();

        service.end().must_fail(1, &["the hold has ended", "code=hook-failed", said]);

        let tries = world.events().attempts("autoscaling:CompleteLifecycleAction").len();
        assert!((1..=*most).contains(&tries), "{case:?}: {tries}");
        assert!(world.completions().is_empty());
    });
}

#[test]
fn a_hook_whose_timeout_is_nothing_gets_no_more_than_a_heartbeat_a_second() {
    for written in ["1ms", "1s"] {
        let world = World::new();
        let node = world.launch_without(&["autoscaling:DescribeLifecycleHooks"]);
        let service = serve(&node, BROKEN, &config_with(&format!("heartbeat_timeout = {written:?}"), &[], ""));
        service.wait_for("held for");
        wait_until(|| heartbeats(&world) >= 2, || service.log());
        let (so_far, began) = (heartbeats(&world), Instant::now());
        thread::sleep(Duration::from_secs(5));
        let beats = heartbeats(&world) - so_far;
        assert!(beats as u64 <= began.elapsed().as_secs() + 2, "{beats} heartbeats");
    }
}
