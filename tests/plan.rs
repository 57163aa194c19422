//! `plan` says what a run would do, with the evidence, and neither it nor `check` changes anything.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::time::Duration;

use ec2_sim::{ApiCall, InstanceSpec, VolumeId, VolumeSpec};
use serde_json::Value;
use support::{HOOKS, Instance, World, config_for, wait_until};

fn node(world: &World, volume: &VolumeId) -> Instance {
    let node = world.launch();
    node.configure(config_for(volume));
    node.shell("chmod 0600 /etc/node-agent/config.toml");
    node
}

/// The plan as a document, its text, and its exit code. Nothing is changed by making it.
fn plan(world: &World, node: &Instance) -> (Value, String, i32) {
    // A holding service sends heartbeats meanwhile.
    let calls = || {
        let events = world.events();
        let heartbeat = "autoscaling:RecordLifecycleActionHeartbeat";
        events.attempts("*").iter().filter(|call| call.mutating && call.action != heartbeat).count()
    };
    let before = (calls(), files(node));
    let output = node.agent(&["plan", "--json"]).output().unwrap();
    let document = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let text = node.agent(&["plan"]).output().unwrap();
    assert_eq!(text.status.code(), output.status.code());
    assert_eq!(before, (calls(), files(node)));
    (document, String::from_utf8(text.stdout).unwrap(), output.status.code().unwrap())
}

/// Everything on the root disk that a run could have changed; before the first one not all of it is there. A service that
/// is running tells how it goes below /run/node-agent whenever it likes: there it is not looked at.
fn files(node: &Instance) -> String {
    node.shell(
        "[ ! -S /run/node-agent/control.sock ] || running='-path /run/node-agent -prune -o'
        find /etc/node-agent /etc/kafka /mydata /var/lib/node-agent /run /tmp -mindepth 1 ${running-} \
            -printf '%p %M %U %G %s %T+ %l\\n' 2>/dev/null | sort
        cat /etc/fstab /var/log/hooks.log 2>/dev/null || true",
    )
}

fn finding<'a>(plan: &'a Value, step: &str) -> &'a str {
    let steps = plan.as_array().unwrap();
    steps.iter().find(|planned| planned["step"] == step).map_or("", |planned| planned["finding"].as_str().unwrap())
}

fn attach(world: &World, volume: &VolumeId, node: &Instance) {
    world.sim.attach(volume, &node.id, "/dev/sdf").unwrap();
    wait_until(
        || world.sim.volume_state(volume).unwrap().attachments.iter().any(|at| at.status == "attached"),
        || "never attached".to_owned(),
    );
    wait_until(|| world.sim.device(volume, &node.id).is_some(), || "no device".to_owned());
}

#[test]
fn what_needs_the_disk_is_unknown_until_it_is_attached() {
    let world = World::new();
    let volume = world.volume(1);
    let node = node(&world, &volume);

    let (document, text, code) = plan(&world, &node);

    assert_eq!(code, 0, "{text}");
    let found = ["identity", "attach", "files", "filesystem", "mount", "configure", "complete"]
        .map(|step| finding(&document, step));
    assert_eq!(found, ["already-so", "would-do", "unknown", "unknown", "unknown", "unknown", "unknown"], "{text}");
    assert!(text.contains("unknown until the volume is attached"), "{text}");
}

#[test]
fn a_format_is_planned_with_its_evidence() {
    let world = World::new();
    let volume = world.volume(1);
    let node = node(&world, &volume);
    attach(&world, &volume, &node);

    let (document, text, code) = plan(&world, &node);

    assert_eq!((code, finding(&document, "filesystem")), (0, "would-do"), "{text}");
    for evidence in ["is blank", "blkid -p: exit 2", "all zero", "made from no snapshot"] {
        assert!(text.contains(evidence), "{evidence} is missing in {text}");
    }
    assert_eq!([finding(&document, "mount"), finding(&document, "files")], ["unknown", "unknown"], "{text}");
}

#[test]
fn a_disk_that_would_be_refused_gives_six_with_the_evidence() {
    let world = World::new();
    let volume = world.volume(1);
    let node = node(&world, &volume);
    attach(&world, &volume, &node);
    let device = world.sim.device(&volume, &node.id).unwrap();
    node.shell(&format!("echo precious | dd of={} bs=1 seek=1M conv=fsync,notrunc status=none", device.display()));

    let (document, text, code) = plan(&world, &node);

    assert_eq!((code, finding(&document, "filesystem")), (6, "would-refuse"), "{text}");
    assert!(text.contains("the byte at 1048576 is not zero") && text.contains("what to do: "), "{text}");
}

#[test]
fn a_volume_of_another_instance_would_be_waited_for_and_gives_six() {
    let world = World::new();
    let volume = world.volume(1);
    let holder = world.launch_as(InstanceSpec { private_ips: vec!["10.0.1.99".to_owned()], ..InstanceSpec::default() });
    attach(&world, &volume, &holder);
    let node = node(&world, &volume);

    let (document, text, code) = plan(&world, &node);

    assert_eq!((code, finding(&document, "attach")), (6, "would-wait"), "{text}");
    assert!(text.contains(holder.id.as_str()) && text.contains("running"), "{text}");
}

#[test]
fn what_is_permanent_would_fail() {
    let world = World::new();
    let spec = VolumeSpec { zone: Some("eu-west-1b".to_owned()), ..VolumeSpec::default() };
    let volume = world.sim.create_volume(spec).unwrap();
    let node = node(&world, &volume);

    let (document, text, code) = plan(&world, &node);

    assert_eq!((code, finding(&document, "attach")), (1, "would-fail"), "{text}");
}

#[test]
fn where_all_is_done_nothing_would_be() {
    let world = World::new();
    let volume = world.volume(1);
    let node = node(&world, &volume);
    node.come_up(&config_for(&volume));

    let (document, text, code) = plan(&world, &node);

    assert_eq!(code, 0, "{text}");
    assert!(document.as_array().unwrap().iter().all(|planned| planned["finding"] == "already-so"), "{text}");
    assert!(text.contains("ownership"), "{text}");
}

#[test]
fn a_plan_can_be_made_while_the_service_holds_the_node() {
    let world = World::new();
    let volume = world.volume(1);
    let node = node(&world, &volume);
    node.hooks(HOOKS.replace("echo \"health", "[ -e /tmp/repaired ]; echo \"health"));
    let service = node.start_with(&["run"]);
    service.wait_for("held for");
    // The last call of a held service. The simulator logs a call after it has taken effect.
    let tags_node = |call: &ApiCall| call.parameters.get("ResourceId.1") == Some(&node.id.to_string());
    wait_until(|| world.events().calls("ec2:CreateTags").into_iter().any(tags_node), || service.log());

    let (document, text, code) = plan(&world, &node);

    assert_eq!((code, finding(&document, "configure")), (0, "already-so"), "{text}");
    assert_eq!((finding(&document, "health-check"), finding(&document, "complete")), ("would-do", "unknown"), "{text}");
}

#[test]
fn a_check_makes_no_mutating_call_before_and_after_a_boot() {
    let world = World::with(|config| config.latencies.attach = Duration::from_millis(20));
    let volume = world.volume(1);
    let node = node(&world, &volume);
    for _ in 0..2 {
        let before = (world.events().mutations().len(), files(&node));
        assert!(node.agent(&["check"]).output().unwrap().status.code().is_some());
        assert_eq!(before, (world.events().mutations().len(), files(&node)));
        node.come_up(&config_for(&volume));
    }
}
