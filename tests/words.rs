//! The messages that a person paged at night acts on: each states what is true and what to do.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ec2_sim::{Fault, FaultRule, InstanceSpec};
use serde_json::Value;
use support::{
    HOOKS, Instance, Running, World, config, config_for, config_with, node_with, run, status, volume_at, wait_until,
};

const BROKEN: &str = "configure_cluster_node() {\n  [ -e /tmp/repaired ] || { echo 'no such listener'; return 3; }\n}\n\
                      wait_for_healthy_cluster() { :; }\n";

/// A node with one volume, and the service at work on it.
fn serve(world: &World, hooks: &str) -> (Instance, Running) {
    let node = node_with(world, hooks);
    node.shell("chmod 0600 /etc/node-agent/config.toml");
    let service = node.start_with(&["run"]);
    (node, service)
}

fn held(world: &World) -> (Instance, Running) {
    let (node, service) = serve(world, BROKEN);
    service.wait_for("held for");
    (node, service)
}

fn up(world: &World) -> (Instance, Running) {
    let (node, service) = serve(world, HOOKS);
    service.wait_for("result=done");
    (node, service)
}

/// Each step with how it stands, as `status --json` tells.
fn steps(document: &Value) -> Vec<(String, String)> {
    let text = |step: &Value, field: &str| step[field].as_str().unwrap_or_default().to_owned();
    document["steps"].as_array().unwrap().iter().map(|step| (text(step, "step"), text(step, "outcome"))).collect()
}

const ALL: [&str; 10] = [
    "identity",
    "attach",
    "filesystem",
    "mount",
    "grow",
    "ownership",
    "files",
    "configure",
    "health-check",
    "complete",
];

#[test]
fn status_lists_every_step_and_calls_no_file_written_that_is_only_fetched() {
    let world = World::new();
    let volume = world.volume(1);
    let holder = world.launch_as(InstanceSpec { private_ips: vec!["10.0.1.99".to_owned()], ..InstanceSpec::default() });
    world.sim.attach(&volume, &holder.id, "/dev/sdf").unwrap();
    let node = world.launch();
    node.configure(config_for(&volume));
    let service = node.start_with(&["run"]);
    service.wait_for("files: fetched; to be written once the volumes are mounted");
    service.wait_for("wait: ");

    let (document, _) = status(&node);

    let steps = steps(&document);
    let names: Vec<_> = steps.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ALL, "{document}");
    let (now, to_come) = (["already-so", "running"], "pending");
    let expected = ALL.iter().zip(now.into_iter().chain(std::iter::repeat(to_come)));
    assert!(steps.iter().zip(expected).all(|((_, seen), (_, outcome))| seen == outcome), "{document}");
    assert_eq!(document["steps"][6]["prepared"], "fetched", "{document}");
    let text = run(&node, &["status"]).log;
    assert!(text.contains("-     files         fetched\n"), "{text}");
}

#[test]
fn status_lists_what_comes_after_a_refused_disk() {
    let world = World::new();
    let (node, volume) = world.node();
    node.configure(config(&[volume_at("/mydata", &volume, "ext4")]));
    node.shell("mkdir -p /mydata && echo precious > /mydata/file");
    let service = node.start_with(&["run"]);
    service.wait_for("held for");

    let (document, _) = status(&node);

    let seen = steps(&document);
    let names: Vec<_> = seen.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ALL, "{document}");
    assert_eq!(seen[3].1, "failed", "{document}");
    assert!(seen[4..].iter().all(|(_, outcome)| outcome == "pending"), "{document}");
}

#[test]
fn a_held_node_says_what_abandon_does_and_how_much_time_is_left() {
    let world = World::new();
    let (node, service) = held(&world);

    let log = service.log();
    assert!(
        log.contains("held for repair: 59m ") && log.contains(" left, then ABANDON, which terminates this"),
        "{log}"
    );
    let text = run(&node, &["status"]).log;
    assert!(text.contains("HELD, 59 min left, then ABANDON, which terminates this instance\n"), "{text}");
    assert!(!text.contains("attempts"), "{text}");
}

#[test]
fn a_failed_hook_says_where_its_text_and_its_files_come_from() {
    let world = World::new();
    world.sim.put_object("config", "hooks.sh", BROKEN);
    let file =
        "the files of [[file]] come from /etc/node-agent/config.toml, and an edit of them on this node is overwritten";
    let script = "script = \"/usr/local/lib/node/hooks.sh\"";
    for (key, origin) in [
        (script.to_owned(), "is in /usr/local/lib/node/hooks.sh (hooks.script of /etc/node-agent/config.toml); "),
        (
            "script_source = \"s3://config/hooks.sh\"".to_owned(),
            "is in s3://config/hooks.sh (hooks.script_source of /etc/node-agent/config.toml); ",
        ),
        (
            format!("script_base64 = \"{}\"", STANDARD.encode(BROKEN)),
            "is in hooks.script_base64 of /etc/node-agent/config.toml; ",
        ),
    ] {
        let node = world.launch();
        node.hooks(BROKEN);

        let outcome = node.run(&config(&[]).replace(script, &key));

        outcome.must_fail(1, &["code=hook-failed", origin, file]);
        // The copy in the state directory does not last, so it must not be named as the script.
        assert!(!outcome.log.contains("/var/lib/node-agent/fetched"), "{}", outcome.log);
    }
}

#[test]
fn a_step_of_several_parts_ends_in_one_line() {
    let world = World::new();
    let (_node, service) = up(&world);

    let log = service.log();

    for step in ["identity", "attach", "filesystem", "files"] {
        let ends = |line: &&str| {
            let (_, line) = line.split_once(' ').unwrap_or_default();
            let whose = line.split([' ', ':']).next();
            whose == Some(step) && (line.contains(": done (") || line.contains(": already so ("))
        };
        assert_eq!(log.lines().filter(ends).count(), 1, "{step} in\n{log}");
    }
}

#[test]
fn a_plan_of_a_node_that_is_up_names_every_step() {
    let world = World::new();
    let (node, _service) = up(&world);

    let plan = run(&node, &["plan"]).log;

    let steps: Vec<_> =
        plan.lines().filter_map(|line| line.strip_prefix("already so    ")?.split(' ').next()).collect();
    assert_eq!(steps, ALL, "{plan}");
    assert!(plan.contains("node-agent retry --from configure") && plan.contains("CONTINUE was sent"), "{plan}");
}

#[test]
fn a_retry_of_a_node_that_is_up_says_that_nothing_had_failed() {
    let world = World::new();
    let (node, service) = up(&world);

    let outcome = run(&node, &["retry"]);

    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert!(outcome.log.contains("this node is up and nothing has failed"), "{}", outcome.log);
    // The same where no service runs.
    drop(service);
    let outcome = run(&node, &["retry"]);
    assert!(outcome.log.contains("this node is up and nothing has failed"), "{}", outcome.log);
}

#[test]
fn a_result_that_was_sent_before_is_said_without_a_question() {
    let world = World::new();
    let (node, service) = up(&world);

    let asked_again = || {
        let outcome = run(&node, &["complete", "continue"]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.log);
        assert!(outcome.log.contains("CONTINUE was sent before: there is nothing more to send"), "{}", outcome.log);
        let other = run(&node, &["complete", "abandon"]);
        other.must_fail(7, &["ABANDON cannot be sent: the launch of this instance is completed (CONTINUE was sent)"]);
    };
    asked_again();
    // The same where no service runs.
    drop(service);
    asked_again();
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_check_of_a_held_node_needs_attention_and_its_own_volume_raises_no_question() {
    let world = World::new();
    let (node, service) = held(&world);
    wait_until(|| world.sim.instance_tags(&node.id).is_ok_and(|tags| !tags.is_empty()), || service.log());

    let code = "VolumeInUse".to_owned();
    let message = "volume is already attached to an instance".to_owned();
    world.sim.add_fault(FaultRule::always("ec2:AttachVolume", Fault::Error { http: 400, code, message })).unwrap();

    let check = run(&node, &["check"]);

    check.must_fail(1, &["FIX   this node: HELD, ", "; configure: configure_cluster_node ended with exit status: 3"]);
    assert!(
        check.log.contains("ok    IAM ec2:AttachVolume: not tried: the volume is attached here already"),
        "{}",
        check.log
    );
    assert!(!check.log.contains(" 0 need attention"), "{}", check.log);
    // What a hook printed is shown by status.
    assert!(!check.log.contains("no such listener"), "{}", check.log);
}

#[test]
fn a_check_of_a_node_that_is_up_says_so() {
    let world = World::new();
    let (node, _service) = up(&world);

    let check = run(&node, &["check"]);

    assert!(check.log.contains("ok    this node: up (CONTINUE was sent)"), "{}", check.log);
}

#[test]
fn the_help_of_the_commands_of_a_repair_shows_examples_and_what_becomes_of_the_hold() {
    let world = World::new();
    let node = world.launch();
    for (arguments, said) in [
        (&["--help"][..], &["On a node that did not come up:", "node-agent retry"][..]),
        (&["status", "--help"], &["node-agent status --wait --timeout 15m", "HELD", "terminates the instance"]),
        (&["retry", "--help"], &["node-agent retry --from configure", "does not extend the time", "overwrites"]),
    ] {
        let help = run(&node, arguments);
        assert_eq!(help.code, Some(0), "{}", help.log);
        for text in said {
            assert!(help.log.contains(text), "{text:?} is missing in\n{}", help.log);
        }
    }
}

#[test]
fn the_schema_shows_the_keys_in_the_order_in_which_one_writes_them() {
    let world = World::new();
    let node = world.launch();
    let schema = run(&node, &["config", "schema"]).log;
    let at = |key: &str| schema.find(key).unwrap_or_else(|| panic!("{key} is missing in\n{schema}"));

    let keys =
        ["\"node\": {", "\"lifecycle\": {", "\"volume\": {", "\"device_name\": {", "\"mount_path\": {", "\"hooks\": {"];

    assert!(keys.map(at).is_sorted(), "{schema}");
}

#[test]
fn a_day_is_said_as_people_say_it() {
    let world = World::new();
    let node = world.launch();
    let outcome = node.come_up(&config_with("", &[], "[timeouts]\nhooks = \"1day\""));
    assert!(outcome.log.contains("deadline 1 day)"), "{}", outcome.log);
}
