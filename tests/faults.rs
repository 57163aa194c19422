//! Faults of AWS, each kind on each call and then at random: the result is always the same.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::thread;
use std::time::Duration;

use ec2_sim::{Fault, FaultRule, RandomFaults, SimConfig};
use support::{HOOKS, Instance, World, config_with, volume_at};

/// Every call that a first boot makes.
const CALLS: &[&str] = &[
    "imds:PUT /latest/api/token",
    "imds:GET /latest/dynamic/instance-identity/document",
    "imds:GET /latest/meta-data/iam/security-credentials/",
    "imds:GET /latest/meta-data/iam/security-credentials/*",
    "autoscaling:DescribeAutoScalingInstances",
    "autoscaling:DescribeLifecycleHooks",
    "ec2:DescribeVolumes",
    "ec2:AttachVolume",
    "ec2:CreateTags",
    "s3:GetObject",
    "https:GET /server.properties",
    "autoscaling:CompleteLifecycleAction",
];

/// A first boot with sources of every kind; its result must be that of a boot without faults.
fn first_boot(world: &World) {
    let volume = world.volume(1);
    world.sim.put_object("config", "hooks.sh", HOOKS);
    let url = world.sim.put_page("/server.properties", "broker.id=00");
    let node = world.launch();
    let config = config_with("", &[volume_at("/mydata", &volume, "xfs")], "")
        .replace("contents = \"broker.id=00\"", &format!("source = {url:?}"))
        .replace("script = \"/usr/local/lib/node/hooks.sh\"", "script_source = \"s3://config/hooks.sh\"");

    let outcome = node.come_up(&config);
    must_be_up(world, &node, &outcome.log);
}

fn must_be_up(world: &World, node: &Instance, log: &str) {
    assert_eq!(node.shell("findmnt -no FSTYPE /mydata; stat -c %U /mydata"), "xfs\ndaemon", "{log}");
    assert_eq!(node.read("/etc/kafka/server.properties"), "broker.id=00", "{log}");
    assert_eq!(node.read("/var/log/hooks.log").lines().count(), 2, "{log}");
    assert_eq!(node.read("/etc/fstab").matches("x-node-agent=").count(), 1, "{log}");
    assert_eq!(log.matches("formatted /dev/").count(), 1, "{log}");
    assert_eq!(world.completions(), ["CONTINUE"], "{log}");
    let up = |_: &ec2_sim::Event| world.sim.lifecycle_state(&node.id).as_deref() == Some("InService");
    assert!(world.sim.wait_for_blocking(up, Duration::from_secs(20)).is_some(), "{log}");
}

/// Boots with one fault after the other, each on its own; some at a time, because they mostly wait.
fn each_alone(rules: &[FaultRule]) {
    each_alone_with(rules, |_| {});
}

/// As [`each_alone`], in a world with other settings.
fn each_alone_with(rules: &[FaultRule], change: impl Fn(&mut SimConfig) + Sync) {
    let change = &change;
    for some in rules.chunks(4) {
        thread::scope(|scope| {
            for rule in some {
                scope.spawn(move || {
                    let world = World::with(change);
                    world.sim.add_fault(rule.clone()).unwrap();
                    first_boot(&world);
                    assert!(!world.events().faults().is_empty(), "{rule:?} never struck");
                });
            }
        });
    }
}

fn on_each_call(fault: &Fault) {
    each_alone(&CALLS.iter().map(|call| FaultRule::once(call, fault.clone())).collect::<Vec<_>>());
}

#[test]
fn throttling_of_each_call_is_waited_out() {
    on_each_call(&Fault::Throttling);
}

#[test]
fn a_server_error_of_each_call_is_waited_out() {
    on_each_call(&Fault::ServerError);
}

#[test]
fn a_connection_reset_of_each_call_is_tried_again() {
    on_each_call(&Fault::Reset);
}

#[test]
fn an_answer_lost_after_the_effect_of_each_call_leaves_one_effect() {
    on_each_call(&Fault::LostReply);
}

#[test]
fn a_call_that_is_never_answered_is_given_up_and_tried_again() {
    on_each_call(&Fault::Hang);
}

#[test]
fn a_truncated_answer_of_each_call_is_tried_again() {
    on_each_call(&Fault::Truncated);
}

#[test]
fn a_slow_answer_of_each_call_is_waited_for() {
    on_each_call(&Fault::Slow(Duration::from_millis(1500)));
}

/// A file may have any contents, so there garbage is for the checksum to find; everywhere else it is seen.
fn calls_with_a_protocol() -> impl Iterator<Item = &'static str> {
    CALLS.iter().copied().filter(|call| !call.starts_with("s3:") && !call.starts_with("https:"))
}

#[test]
fn garbage_in_place_of_each_answer_is_tried_again() {
    each_alone(
        &calls_with_a_protocol()
            // Any text passes for a token; the next call is refused.
            .filter(|call| !call.contains("api/token"))
            .flat_map(|call| [Fault::Garbage, Fault::GarbageReply].map(|fault| FaultRule::once(call, fault)))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn a_description_of_the_past_is_not_believed_for_long() {
    let rule = |call, skip, times, back| FaultRule::times(call, times, Fault::Stale { back }).after(skip);
    let (state, volumes) = ("autoscaling:DescribeAutoScalingInstances", "ec2:DescribeVolumes");
    let rules = [
        rule(state, 0, 1, 1),
        rule(state, 1, 2, 1),
        rule(volumes, 0, 1, 1),
        rule(volumes, 1, 2, 1),
        rule(volumes, 2, 3, 2),
        rule(volumes, 3, 3, 1),
    ];
    // While the device is awaited, the volume is described every two seconds.
    each_alone_with(&rules, |config| {
        config.latencies.attach = Duration::from_secs(7);
        config.latencies.device = Duration::from_secs(7);
    });
}

#[test]
fn codes_that_are_probably_eventual_consistency_are_tried_again() {
    let error =
        |http, code: &str, message: &str| Fault::Error { http, code: code.to_owned(), message: message.to_owned() };
    each_alone(&[
        FaultRule::times("ec2:DescribeVolumes", 2, error(400, "InvalidVolume.NotFound", "The volume does not exist.")),
        FaultRule::times("ec2:AttachVolume", 2, error(400, "InvalidVolume.NotFound", "The volume does not exist.")),
        FaultRule::times("ec2:AttachVolume", 2, error(400, "InvalidInstanceID.NotFound", "No such instance")),
        FaultRule::times("ec2:AttachVolume", 2, error(400, "IncorrectState", "Instance is not 'running'.")),
        FaultRule::times("ec2:AttachVolume", 2, error(403, "UnauthorizedOperation", "Not yet.")),
        FaultRule::once("ec2:AttachVolume", error(400, "VolumeInUse", "vol-1 is already attached to an instance")),
        FaultRule::once(
            "ec2:AttachVolume",
            error(400, "InvalidParameterValue", "Attachment point /dev/sdf is already in use"),
        ),
        FaultRule::times("autoscaling:CompleteLifecycleAction", 2, error(403, "AccessDenied", "Not yet.")),
        FaultRule::once("autoscaling:CompleteLifecycleAction", error(400, "ResourceContention", "Busy.")),
    ]);
}

/// One call in five fails, with a fault drawn by the seed, the call and its number alone.
fn at_random(seeds: std::ops::Range<u64>) {
    let seeds: Vec<_> = seeds.collect();
    for some in seeds.chunks(4) {
        thread::scope(|scope| {
            for seed in some {
                scope.spawn(move || {
                    let mut kinds = Fault::transient();
                    kinds.push(Fault::Hang);
                    let random = RandomFaults { kinds, ..RandomFaults::new(*seed, 0.2) };
                    let world = World::with(|config| config.random_faults = Some(random));
                    first_boot(&world);
                    println!("seed {seed}: {} faults", world.events().faults().len());
                });
            }
        });
    }
}

#[test]
fn a_fifth_of_all_calls_fails_at_random_seeds_0_to_24() {
    at_random(0..25);
}

#[test]
fn a_fifth_of_all_calls_fails_at_random_seeds_25_to_49() {
    at_random(25..50);
}
