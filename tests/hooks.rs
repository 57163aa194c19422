//! The user's functions: what a failure, a hang and a long life of what they start come to.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::{HOOKS, Instance, World, config_with, volume_at, wait_until};

const GOOD: &str = "true";

/// A node with these two functions, that gives up at once.
fn node(world: &World, configure: &str, health: &str) -> (Instance, String) {
    let volume = world.volume(1);
    let node = world.launch();
    node.write(
        "/usr/local/lib/node/hooks.sh",
        format!("configure_cluster_node() {{\n{configure}\n}}\nwait_for_healthy_cluster() {{\n{health}\n}}\n"),
    );
    let config =
        config_with("on_failure = \"abandon\"", &[volume_at("/mydata", &volume, "xfs")], "[timeouts]\nhooks = \"30s\"");
    (node, config)
}

/// Exactly one ABANDON, and the group terminates the instance.
fn must_be_abandoned(world: &World, node: &Instance) {
    assert_eq!(world.completions(), ["ABANDON"]);
    wait_until(
        || world.sim.lifecycle_state(&node.id).is_none_or(|state| state.starts_with("Terminat")),
        || format!("{:?}", world.sim.lifecycle_state(&node.id)),
    );
}

#[test]
fn a_failing_configure_hook_is_abandoned_once_with_its_last_lines() {
    let world = World::new();
    let (node, config) = node(&world, "echo one\necho 'no such broker' >&2\nfalse\necho not reached", GOOD);

    let outcome = node.run(&config);

    outcome.must_fail(1, &["configure: | one", "step=configure code=hook-failed", "one | no such broker"]);
    assert!(!outcome.log.contains("| not reached"), "{}", outcome.log);
    must_be_abandoned(&world, &node);
}

#[test]
fn a_failing_health_check_is_abandoned_once() {
    let world = World::new();
    let (node, config) = node(&world, GOOD, "printf 'quorum lost'; exit 7");

    let outcome = node.run(&config);

    outcome.must_fail(1, &["step=health-check code=hook-failed", "exit status: 7; its last lines: quorum lost"]);
    must_be_abandoned(&world, &node);
    // A node that was given up is not used by a later start either.
    node.run(&config).must_fail(7, &[]);
    assert_eq!(world.completions(), ["ABANDON"]);
}

#[test]
fn a_hanging_hook_is_ended_with_its_whole_process_group_at_its_deadline() {
    let world = World::new();
    // Deaf to TERM, and with a child that is too.
    let hang =
        "trap '' TERM\n(trap '' TERM; echo $BASHPID > /tmp/child; while :; do sleep 0.1; done) &\necho waiting\nwait";
    let (node, config) = node(&world, hang, GOOD);

    let outcome = node.run(&config.replace("hooks = \"30s\"", "hooks = \"5s\""));

    outcome.must_fail(1, &["step=configure code=hook-timed-out", "has not ended within 5s", "waiting"]);
    assert!(outcome.took >= Duration::from_secs(5), "{:?}", outcome.took);
    assert!(!node.is_alive("/tmp/child"));
    must_be_abandoned(&world, &node);
}

#[test]
fn a_hook_ends_when_its_function_returns_and_what_it_started_lives_on() {
    let world = World::new();
    // The child keeps the output open.
    let (node, config) = node(&world, "sleep 600 &\necho $! > /tmp/broker\necho started", GOOD);
    let began = Instant::now();

    let outcome = node.come_up(&config);

    assert!(began.elapsed() < Duration::from_mins(1) && outcome.log.contains("| started"), "{}", outcome.log);
    assert_eq!(node.shell("kill $(cat /tmp/broker) && echo was alive"), "was alive");
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_hook_sees_what_the_user_data_script_left_in_scope() {
    let world = World::new();
    let show = r#"
      for name in NODE_ID NODE_IP VOLUME_ID DEVICE_NAME MOUNT_PATH FILE_SYSTEM_TYPE OWNER GROUP INSTANCE_ID REGION ASG_NAME ASG_HOOK_NAME PATH HOME; do
        echo "$name=${!name}"
      done > /tmp/env
      echo "$NODE_AGENT_VOLUMES" > /tmp/volumes
      { echo "args $*"; echo "pwd $PWD"; echo "umask $(umask)"; echo "stdin $(cat | wc -c)"; echo "flags $-"; } > /tmp/shell
      set_in_configure=1"#;
    let (node, config) = node(&world, show, "echo \"leaked ${set_in_configure-no}\"");

    let outcome = node.come_up(&config);

    let volume = node.journal()["volumes"].as_object().unwrap().keys().next().unwrap().clone();
    let expected = format!(
        "NODE_ID=00\nNODE_IP=10.0.1.10\nVOLUME_ID={volume}\nDEVICE_NAME=/dev/sdf\nMOUNT_PATH=/mydata\nFILE_SYSTEM_TYPE=xfs\n\
         OWNER=daemon\nGROUP=daemon\nINSTANCE_ID={}\nREGION=eu-west-1\nASG_NAME=kafka-node-00\n\
         ASG_HOOK_NAME=kafka-node-asg-hook\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nHOME=/root\n",
        node.id
    );
    assert_eq!(node.read("/tmp/env"), expected);
    let volumes: serde_json::Value = serde_json::from_str(&node.read("/tmp/volumes")).unwrap();
    assert_eq!(volumes[0]["mount_path"], "/mydata");
    let shell = node.read("/tmp/shell");
    assert!(shell.starts_with("args 00 10.0.1.10\npwd /\numask 0022\nstdin 0\nflags "), "{shell}");
    for flag in ['e', 'u', 'E'] {
        assert!(shell.lines().last().unwrap().contains(flag), "{shell}");
    }
    assert!(outcome.log.contains("leaked no"), "{}", outcome.log);
}

#[test]
fn output_without_newline_or_utf8_is_logged() {
    let world = World::new();
    let (node, config) = node(&world, r"printf 'caf\xe9 \xff\nlast'", "for i in $(seq 2000); do echo line $i; done");

    let outcome = node.come_up(&config);

    assert!(outcome.log.contains("| caf\u{fffd} \u{fffd}\n") && outcome.log.contains("| last\n"), "{}", outcome.log);
    assert!(outcome.log.contains("| line 1\n") && outcome.log.contains("| line 2000\n"));
}

#[test]
fn after_a_fix_the_failed_step_is_resumed_and_earlier_ones_are_not_redone() {
    let world = World::new();
    let volume = world.volume(1);
    let node = world.launch();
    let config = config_with("", &[volume_at("/mydata", &volume, "ext4")], "");
    let broken = HOOKS.replace("echo \"health", "[ -e /tmp/fixed ]; echo \"health");
    node.write("/usr/local/lib/node/hooks.sh", broken);

    node.run(&config).must_fail(1, &["step=health-check"]);
    // Nothing is sent under `hold`: that is for the resident service, and `--once` never holds.
    assert!(world.completions().is_empty());
    node.shell("touch /tmp/fixed");
    let outcome = node.come_up(&config);

    assert!(outcome.log.contains("configure: already so"), "{}", outcome.log);
    assert_eq!(node.read("/var/log/hooks.log").matches("configure").count(), 1);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn changed_inputs_redo_the_steps_that_depend_on_them() {
    let world = World::new();
    let volume = world.volume(1);
    let node = world.launch();
    node.write("/usr/local/lib/node/hooks.sh", HOOKS.replace("echo \"health", "[ -e /tmp/fixed ]; echo \"health"));
    let config = config_with("", &[volume_at("/mydata", &volume, "xfs")], "");
    node.run(&config).must_fail(1, &["step=health-check"]);

    node.shell("touch /tmp/fixed");
    node.come_up(&config.replace("broker.id=00", "broker.id=01"));

    assert_eq!(node.read("/etc/kafka/server.properties"), "broker.id=01");
    assert_eq!(node.read("/var/log/hooks.log").matches("configure").count(), 2);
}

#[test]
fn sigterm_ends_the_hook_and_completes_nothing_and_the_next_start_resumes() {
    let world = World::new();
    let (node, config) =
        node(&world, "[ -e /tmp/go ] && return 0\nsleep 600 & echo $! > /tmp/child; echo here; wait", GOOD);
    let config = config.replace("hooks = \"2s\"", "hooks = \"10m\"");

    let running = node.start(&config);
    running.wait_for("| here");
    running.signal(Signal::SIGTERM);
    let outcome = running.end();

    outcome.must_fail(3, &["code=stopped"]);
    assert!(!node.is_alive("/tmp/child"));
    assert!(world.completions().is_empty());
    node.shell("touch /tmp/go");
    node.come_up(&config);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_hook_that_outlived_its_killed_agent_is_ended_first() {
    let world = World::new();
    let (node, config) =
        node(&world, "[ -e /tmp/go ] && return 0\nsleep 600 & echo $! > /tmp/child; echo here; wait", GOOD);
    let config = config.replace("hooks = \"2s\"", "hooks = \"10m\"");

    let running = node.start(&config);
    running.wait_for("| here");
    running.signal(Signal::SIGKILL);
    assert_eq!(running.end().code, None);
    assert!(node.is_alive("/tmp/child"));
    node.shell("touch /tmp/go");
    let outcome = node.come_up(&config);

    assert!(outcome.log.contains("is still at work"), "{}", outcome.log);
    assert!(!node.is_alive("/tmp/child"));
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_second_agent_at_the_same_time_is_told_who_has_the_lock() {
    let world = World::new();
    let (node, config) = node(&world, "echo here; until [ -e /tmp/go ]; do sleep 0.05; done", GOOD);
    let config = config.replace("hooks = \"2s\"", "hooks = \"10m\"");
    let running = node.start(&config);
    running.wait_for("| here");

    let second = node.start_with(&["run", "--once"]).end();

    second.must_fail(4, &["code=locked", &format!("process {} holds", running.child.id())]);
    node.shell("touch /tmp/go");
    assert_eq!(running.end().code, Some(0));
}

#[test]
fn a_hook_that_ended_in_time_has_not_timed_out_however_late_the_agent_learns_of_it() {
    // Both are there at once when the agent goes on: the end and the deadline.
    for _ in 0..3 {
        let world = World::new();
        let node = world.launch();
        let hooks = HOOKS.replace(
            "echo \"configure",
            "echo $$ > /tmp/hook; echo here; until [ -e /tmp/go ]; do sleep 0.01; done; echo \"configure",
        );
        node.write("/usr/local/lib/node/hooks.sh", hooks);
        let running = node.start(&config_with("", &[], "[timeouts]\nhooks = \"5s\""));
        running.wait_for("| here");
        running.signal(Signal::SIGSTOP);
        node.shell("touch /tmp/go");
        wait_until(|| !node.is_alive("/tmp/hook"), || running.log());
        // Beyond the deadline.
        sleep(Duration::from_secs(5));
        running.signal(Signal::SIGCONT);

        let outcome = running.end();

        assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    }
}
