//! The agent is killed at any instant, alone or with everything it started, and started again: the result is always the same, and
//! no byte on the volume is lost.
//!
//! The agent has no test hooks for this. It is stopped by ptrace before each system call that changes something, by the simulator
//! before and after each call to AWS, and by wrappers around the programs it runs.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "departure/common.rs"]
mod common;
#[path = "kill/fixture.rs"]
mod fixture;
#[path = "kill/leaving.rs"]
mod leaving;
mod support;
#[path = "kill/torn.rs"]
mod torn;
#[path = "kill/trace.rs"]
mod trace;

use std::any::Any;
use std::fmt::Debug;
use std::iter;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ec2_sim::{Fault, FaultRule, What};
use fixture::{Fixture, Random, VICTIMS, Victim};
use leaving::{LeavingFixture, while_waiting};
use nix::sys::signal::Signal;
use torn::Torn;

/// The scenarios wait more than they compute.
const AT_ONCE: usize = 2;

/// Runs each scenario in a world of its own. All of them are run, and those that failed are named.
fn each<T: Sync + Debug>(scenarios: &[T], run: impl Fn(&T) + Sync) {
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let work = || {
        while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
            // A thread of its own, because a world lives in the mount namespace of its thread.
            if let Err(panic) = thread::scope(|scope| scope.spawn(|| run(scenario)).join()) {
                failed.lock().unwrap().push(format!("{scenario:?}: {}", said(panic.as_ref())));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().unwrap();
    println!("{} instants in {:?}", scenarios.len(), began.elapsed());
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), scenarios.len(), failed.join("\n\n"));
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Every effect of a boot on its own root disk, disks and sockets, in order.
fn effects(fixture: &Fixture) -> Vec<String> {
    let running = fixture.start();
    let mut effects = Vec::new();
    let ended = trace::follow(&running, |effect| {
        effects.push(effect.to_owned());
        true
    });
    effects.push(LAST.to_owned());
    assert!(ended && running.end().code == Some(0));
    fixture.must_be_up("without a kill");
    // A boot changes at least this much; fewer would mean that the effects are not seen.
    assert!(effects.len() > 60, "{effects:?}");
    effects
}

/// Kills the agent before each effect of a boot from this fixture, from the first named effect to the last.
fn before_each_effect(fixture: impl Fn() -> Fixture + Sync, victim: Victim, from: &str, to: &str) {
    // Effects before the tracer has attached are not seen.
    let whole = |effects: &Vec<String>| effects.first().is_some_and(|effect| effect.starts_with(FIRST));
    let seen = || thread::scope(|scope| scope.spawn(|| effects(&fixture())).join()).unwrap();
    let effects = iter::repeat_with(seen).take(5).find(whole).expect("a start that is followed from its beginning");
    let place = |of: &str| effects.iter().position(|effect| effect.starts_with(of)).unwrap();
    let effects = &effects[place(from)..=place(to)];
    let missed = AtomicUsize::new(0);
    each(effects, |effect| {
        let mut fixture = fixture();
        let running = fixture.start();
        let ended = trace::follow(&running, |seen| seen != effect);
        // How often the agent has to ask AWS depends on the time.
        let counts = ended && !effect.starts_with("send a request");
        missed.fetch_add(usize::from(counts), Ordering::Relaxed);
        fixture.kill(running, victim);
        fixture.comes_up("after the kill");
    });
    let missed = missed.into_inner();
    // One is the end itself, where nothing is left to kill.
    assert!(missed <= 5, "{missed} of {} were not met again", effects.len());
}

const FIRST: &str = "mkdir /var/lib/node-agent";
/// Before the first program looks at the disk, nothing depends on its filesystem, is mounted, or runs beside the agent.
const LOOK: &str = "start a program";
const LAST: &str = "the end";

#[test]
fn a_kill_before_and_after_each_effect_of_the_agent_is_harmless_on_xfs() {
    before_each_effect(|| Fixture::new("xfs"), Victim::Agent, FIRST, LAST);
}

#[test]
fn a_kill_before_and_after_each_effect_of_the_agent_is_harmless_on_ext4() {
    before_each_effect(|| Fixture::new("ext4"), Victim::Agent, LOOK, LAST);
}

#[test]
fn a_power_cut_before_and_after_each_effect_of_the_agent_is_harmless_on_xfs() {
    before_each_effect(|| Fixture::new("xfs"), Victim::Machine, LOOK, LAST);
}

#[test]
fn a_power_cut_before_and_after_each_effect_of_the_agent_is_harmless_on_ext4() {
    before_each_effect(|| Fixture::new("ext4"), Victim::Machine, LOOK, LAST);
}

/// A call of AWS, and how many like it come before.
const CALLS: &[(&str, u32)] = &[
    ("imds:PUT /latest/api/token", 0),
    ("imds:GET /latest/dynamic/instance-identity/document", 0),
    ("imds:GET /latest/meta-data/iam/security-credentials/*", 0),
    ("imds:GET /latest/meta-data/iam/security-credentials/*", 1),
    // At the start, ahead of the format, after CONTINUE; in between only where an answer is too old.
    ("autoscaling:DescribeAutoScalingInstances", 0),
    ("autoscaling:DescribeAutoScalingInstances", 1),
    ("autoscaling:DescribeAutoScalingInstances", 2),
    ("ec2:DescribeVolumes", 0),
    ("ec2:DescribeVolumes", 1),
    ("ec2:AttachVolume", 0),
    // The intent, and the completed format.
    ("ec2:CreateTags", 0),
    ("ec2:CreateTags", 1),
    ("autoscaling:CompleteLifecycleAction", 0),
];

fn around_each_call(file_system: &'static str) {
    let mut scenarios = Vec::new();
    for (call, skip) in CALLS {
        for before in [true, false] {
            scenarios.push((*call, *skip, before, VICTIMS[scenarios.len() % VICTIMS.len()]));
        }
    }
    each(&scenarios, |(call, skip, before, victim)| {
        let mut fixture = Fixture::new(file_system);
        // Hang: the call has no effect. Slow: it takes effect while the agent is stopped, so that the agent never learns of it.
        let fault = if *before { Fault::Hang } else { Fault::Slow(Duration::from_secs(1)) };
        fixture.world.sim.add_fault(FaultRule::once(call, fault).after(*skip)).unwrap();
        let running = fixture.start();
        let struck = fixture.sees(|event| matches!(event.what, What::Fault(_)));
        if !before {
            running.signal(Signal::SIGSTOP);
            fixture.sees(|event| {
                event.seq > struck.seq
                    && match &event.what {
                        What::Api(call) => call.fault.is_some() && call.done,
                        What::Imds(call) => call.fault.is_some(),
                        _ => false,
                    }
            });
        }
        fixture.kill(running, *victim);
        fixture.comes_up("after the kill");
    });
}

#[test]
fn a_kill_before_and_after_each_call_of_aws_is_harmless_on_xfs() {
    around_each_call("xfs");
}

#[test]
fn a_kill_before_and_after_each_call_of_aws_is_harmless_on_ext4() {
    around_each_call("ext4");
}

#[test]
fn a_kill_once_the_world_has_changed_is_harmless() {
    let changes: [fn(&What) -> bool; 5] = [
        |what| matches!(what, What::Volume(change) if change.attachment.as_deref() == Some("attaching")),
        |what| matches!(what, What::Volume(change) if change.attachment.as_deref() == Some("attached")),
        |what| matches!(what, What::Device(change) if change.state == "appeared"),
        |what| matches!(what, What::Lifecycle(change) if change.to == "Pending:Proceed"),
        |what| matches!(what, What::Lifecycle(change) if change.to == "InService"),
    ];
    let scenarios: Vec<_> = (0..changes.len())
        .flat_map(|change| ["xfs", "ext4"].map(|file_system| (change, file_system)))
        .flat_map(|(change, file_system)| VICTIMS.map(|victim| (change, file_system, victim)))
        .collect();
    each(&scenarios, |(change, file_system, victim)| {
        let mut fixture = Fixture::new(file_system);
        let running = fixture.start();
        fixture.sees(|event| changes[*change](&event.what));
        fixture.kill(running, *victim);
        fixture.comes_up("after the kill");
    });
}

/// The points at which the wrapped programs can be held.
fn places(file_system: &str) -> Vec<String> {
    let mut places = vec!["version-1".to_owned()];
    let mut around = |program: &str| places.extend([format!("before-{program}"), format!("after-{program}")]);
    around(&format!("mkfs.{file_system}"));
    if file_system == "ext4" {
        around("e2fsck");
    }
    around("configure");
    around("health");
    places
}

fn around_each_program(file_system: &'static str) {
    let scenarios: Vec<_> =
        places(file_system).into_iter().flat_map(|place| VICTIMS.map(|victim| (place.clone(), victim))).collect();
    each(&scenarios, |(place, victim)| {
        let mut fixture = Fixture::new(file_system);
        fixture.hold(place);
        let running = fixture.start();
        fixture.wait_until_held(&running, place);
        fixture.kill(running, *victim);
        // A killed agent's children go on: the next agent waits for those that hold the device, and ends a hook.
        let next = match victim {
            Victim::Agent if place.contains("mkfs") || place.contains("e2fsck") => {
                let next = fixture.start();
                next.wait_for("is locked by another process");
                next
            }
            Victim::Agent if !place.starts_with("version") => {
                let next = fixture.start();
                next.wait_for("is still running");
                next
            }
            Victim::Agent | Victim::Tree | Victim::Machine => {
                fixture.release();
                fixture.start()
            }
        };
        fixture.release();
        fixture.ends(next, "after the kill");
    });
}

#[test]
fn a_kill_before_and_after_each_program_is_harmless_on_xfs() {
    around_each_program("xfs");
}

#[test]
fn a_kill_before_and_after_each_program_is_harmless_on_ext4() {
    around_each_program("ext4");
}

/// Every kind of torn state, with the file system that it is for.
fn torn_states() -> Vec<(&'static str, Torn)> {
    let mut all = Vec::new();
    for file_system in ["xfs", "ext4"] {
        all.extend([0, 1, 10, 50, 90].map(|percent| (file_system, Torn::Beginning(percent))));
        let edges = [Torn::AllButTheLast, Torn::AllButTheFirst, Torn::OnlyTheFirst];
        all.extend(edges.map(|torn| (file_system, torn)));
        all.extend((0..4).map(|seed| (file_system, Torn::Some(seed))));
    }
    all.push(("xfs", Torn::InProgress));
    all
}

/// A fixture whose mkfs was killed with its writes torn.
fn torn(file_system: &'static str, torn: Torn, victim: Victim) -> Fixture {
    let mut fixture = Fixture::new(file_system);
    let place = format!("before-mkfs.{file_system}");
    fixture.hold(&place);
    let running = fixture.start();
    fixture.wait_until_held(&running, &place);
    torn::write(&fixture, torn);
    fixture.kill(running, victim);
    if victim != Victim::Machine {
        fixture.release();
    }
    fixture
}

/// Writes of a mkfs of 1 GiB (xfsprogs 6.1, e2fsprogs 1.47), so that every kind of block is met. Some instants are behind the
/// last one: mkfs had come to its end, and nobody had heard of it.
const XFS_WRITES: usize = 66;
const EXT4_WRITES: usize = 155;

/// A hundred instants in the real mkfs: before its writes, halfway in them, and for ext4, whose writes go through the cache,
/// with a part of the cache lost in a power cut.
fn instants(file_system: &str) -> Vec<torn::KillPoint> {
    let spread = |count: usize, over: usize| (0..count).map(move |number| number * over / count);
    let at = |write, halfway, lost| torn::KillPoint { write, halfway, lost };
    if file_system == "xfs" {
        let before = spread(60, XFS_WRITES + 4).map(|write| at(write, false, None));
        // The first two are zeros.
        return before.chain(spread(40, XFS_WRITES - 2).map(|write| at(write + 2, true, None))).collect();
    }
    let before = spread(45, EXT4_WRITES + 8).map(|write| at(write, false, None));
    let halfway = spread(20, EXT4_WRITES).map(|write| at(write, true, None));
    let lost = spread(35, EXT4_WRITES - 2).map(|write| at(write + 1, false, Some(write as u64)));
    before.chain(halfway).chain(lost).collect()
}

/// What the agent leaves when it is killed in a format: its intent, and how it calls mkfs.
struct Begun {
    intent: serde_json::Value,
    arguments: Vec<String>,
}

impl Begun {
    fn by_the_agent(file_system: &'static str) -> Begun {
        let fixture = Fixture::new(file_system);
        let place = format!("before-mkfs.{file_system}");
        fixture.hold(&place);
        let running = fixture.start();
        fixture.wait_until_held(&running, &place);
        let log = fixture.lines(&format!("/var/log/mkfs.{file_system}"));
        let arguments = log.last().unwrap().split(' ').skip(1).map(str::to_owned).collect();
        let intent = fixture.journal().unwrap()["volumes"][fixture.volume.as_str()]["formatting"].clone();
        drop(running);
        fixture.end_tree();
        Begun { intent, arguments }
    }

    /// The same on another node, with a UUID of its own. Returns the arguments of its mkfs.
    fn again(&self, fixture: &Fixture) -> Vec<String> {
        let (node, volume) = (&fixture.node, &fixture.volume);
        fixture.world.sim.attach(volume, &node.id, "/dev/sdf").unwrap();
        support::wait_until(|| fixture.world.sim.device(volume, &node.id).is_some(), || "no device".to_owned());
        let device = fixture.world.sim.device(volume, &node.id).unwrap().display().to_string();
        let old = self.intent["uuid"].as_str().unwrap();
        let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
        let mut intent = self.intent.clone();
        intent["uuid"] = uuid.trim().into();
        let volumes = serde_json::json!({ volume.as_str(): { "formatting": intent } });
        let journal = serde_json::json!({
            "schema": 1, "instance_id": node.id.as_str(), "boot_id": "", "config_digest": "", "volumes": volumes,
        });
        node.write("/var/lib/node-agent/state.json", journal.to_string());
        let mut arguments: Vec<_> = self.arguments.iter().map(|argument| argument.replace(old, uuid.trim())).collect();
        *arguments.last_mut().unwrap() = device;
        arguments
    }
}

/// Kills the real mkfs at each instant, and the agent with it. Whatever is left, the next agent makes a whole filesystem of it,
/// or refuses and writes nothing. Which of the two, counted.
fn inside_mkfs(file_system: &'static str) {
    let instants = instants(file_system);
    assert_eq!(instants.len(), 100);
    let (blank, made_again, finished, refused) =
        (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let killed = AtomicUsize::new(0);
    let begun = thread::scope(|scope| scope.spawn(|| Begun::by_the_agent(file_system)).join()).unwrap();
    let scenarios: Vec<_> = instants.into_iter().zip([Victim::Tree, Victim::Machine].into_iter().cycle()).collect();
    each(&scenarios, |(instant, victim)| {
        let mut fixture = Fixture::new(file_system);
        let arguments = begun.again(&fixture);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        killed.fetch_add(usize::from(torn::kill_mkfs(&fixture, &arguments, *instant)), Ordering::Relaxed);
        fixture.killed(*victim);
        let disk = fixture.world.sim.volume_state(&fixture.volume).unwrap().backing_file;
        let before = torn::blocks(&disk);
        let outcome = fixture.start().end();
        if outcome.code == Some(0) {
            fixture.must_be_up(&outcome.log);
            // The run of mkfs that was killed, and the next.
            let again = fixture.formats() == (1, 1);
            let cleared = outcome.log.contains("clearing what a killed mkfs left");
            // Some of the blocks that mke2fs writes first lie where a blank disk is not read.
            assert!(!cleared || again && !before.is_empty(), "{instant:?}\n{}", outcome.log);
            let end = if cleared { &made_again } else { [&finished, &blank][usize::from(again)] };
            end.fetch_add(1, Ordering::Relaxed);
            return;
        }
        outcome.must_fail(6, &["step=filesystem code=not-blank", "does not hold what a killed mkfs leaves"]);
        fixture.node.shell("sync");
        assert!(torn::blocks(&disk) == before, "something was written\n{}", outcome.log);
        println!("refused: {instant:?}: {}", outcome.last());
        refused.fetch_add(1, Ordering::Relaxed);
    });
    let [blank, made_again, finished, refused, killed] =
        [blank, made_again, finished, refused, killed].map(AtomicUsize::into_inner);
    println!(
        "{file_system}: {} instants, {killed} before its end: {blank} blank as before, {made_again} cleared and made again, \
         {finished} whole and used, {refused} refused",
        scenarios.len()
    );
    // The intent lets the agent resume by itself.
    assert!(refused * 10 <= scenarios.len(), "{refused} refused");
    assert!(killed >= 90 && made_again >= 60 && finished >= 1, "mkfs is not killed in its midst");
}

#[test]
fn a_kill_inside_mkfs_at_a_hundred_instants_comes_up_or_is_refused_on_xfs() {
    inside_mkfs("xfs");
}

#[test]
fn a_kill_inside_mkfs_at_a_hundred_instants_comes_up_or_is_refused_on_ext4() {
    inside_mkfs("ext4");
}

#[test]
fn any_part_of_what_mke2fs_writes_is_made_again_from_the_intent() {
    let mut states = torn_states();
    // Without its last backup superblock ext4 is whole as e2fsck sees it: it is used, not made again.
    states.retain(|state| state.0 == "ext4" && !matches!(state.1, Torn::AllButTheLast));
    let scenarios: Vec<_> = states.iter().zip([Victim::Tree, Victim::Machine].iter().cycle()).collect();
    each(&scenarios, |((file_system, state), victim)| {
        let fixture = torn(file_system, *state, **victim);
        fixture.comes_up("after the kill");
        assert_eq!(fixture.formats(), (2, 1));
    });
}

#[test]
fn a_part_of_an_xfs_that_no_killed_mkfs_leaves_is_refused_and_kept() {
    let mut states = torn_states();
    // Nothing, and all but the mark that it is finished, are what a killed one leaves.
    states.retain(|state| state.0 == "xfs" && !matches!(state.1, Torn::Beginning(0) | Torn::InProgress));
    each(&states, |(file_system, state)| {
        let fixture = torn(file_system, *state, Victim::Tree);
        let disk = fixture.world.sim.volume_state(&fixture.volume).unwrap().backing_file;
        let before = torn::blocks(&disk);
        let outcome = fixture.start().end();
        outcome.must_fail(6, &["step=filesystem code=not-blank", "does not hold what a killed mkfs leaves"]);
        fixture.node.shell("sync");
        assert!(torn::blocks(&disk) == before, "something was written\n{}", outcome.log);
    });
    for state in [Torn::Beginning(0), Torn::InProgress] {
        let fixture = torn("xfs", state, Victim::Machine);
        fixture.comes_up("after the kill");
        assert_eq!(fixture.formats(), (2, 1));
    }
}

#[test]
fn a_kill_before_and_after_each_effect_of_resuming_a_format_is_harmless() {
    for (file_system, write) in [("xfs", 55), ("ext4", 120)] {
        let resuming = || {
            let mut fixture = Fixture::new(file_system);
            let place = format!("before-mkfs.{file_system}");
            fixture.hold(&place);
            let running = fixture.start();
            fixture.wait_until_held(&running, &place);
            assert!(torn::kill_held_mkfs(&fixture, torn::KillPoint { write, halfway: false, lost: None }));
            fixture.kill(running, Victim::Tree);
            fixture.release();
            fixture
        };
        before_each_effect(resuming, Victim::Tree, LOOK, "rename to /etc/fstab");
    }
}

#[test]
fn a_kill_inside_mkfs_with_the_journal_lost_is_refused_and_nothing_is_written() {
    let mut states = torn_states();
    // Only the last copy of ext4's superblock is missing: by all that can be seen, the format was completed.
    states.retain(|state| !matches!(state, ("ext4", Torn::AllButTheLast)));
    let scenarios: Vec<_> = states.iter().zip([true, false].into_iter().cycle()).collect();
    each(&scenarios, |((file_system, state), replaced)| {
        let fixture = torn(file_system, *state, Victim::Tree).without_journal(*replaced);
        let disk = fixture.world.sim.volume_state(&fixture.volume).unwrap().backing_file;
        let before = torn::blocks(&disk);
        if before.is_empty() {
            // Killed before its first write: the disk is blank, and that is all there is to know.
            fixture.comes_up("blank");
            return;
        }
        let outcome = fixture.start().end();
        outcome.must_fail(6, &["step=filesystem code=not-blank"]);
        fixture.node.shell("sync");
        assert!(torn::blocks(&disk) == before, "something was written\n{}", outcome.log);
        assert_eq!(fixture.lines("/etc/fstab"), ["# kept"]);
    });
}

#[test]
fn a_completed_mkfs_with_the_journal_lost_is_used_as_it_is() {
    let scenarios = ["xfs", "ext4"].map(|file_system| [(file_system, true), (file_system, false)]).concat();
    each(&scenarios, |(file_system, replaced)| {
        let mut fixture = Fixture::new(file_system);
        let place = format!("after-mkfs.{file_system}");
        fixture.hold(&place);
        let running = fixture.start();
        fixture.wait_until_held(&running, &place);
        fixture.kill(running, Victim::Tree);
        fixture.release();
        fixture = fixture.without_journal(*replaced);
        fixture.comes_up("after the loss");
        assert_eq!(fixture.formats(), (1, 1));
    });
}

#[test]
fn a_kill_before_and_after_growing_is_harmless() {
    let scenarios: Vec<_> = ["xfs", "ext4"]
        .into_iter()
        .flat_map(|file_system| VICTIMS.map(|victim| (file_system, victim)))
        .flat_map(|(file_system, victim)| [(file_system, victim, 0), (file_system, victim, 1)])
        .collect();
    each(&scenarios, |(file_system, victim, effects_later)| {
        let mut fixture = Fixture::new(file_system);
        fixture.comes_up("at first");
        fixture.node.shell("echo precious > /mydata/precious; sync /mydata/precious");
        fixture = fixture.replace();
        fixture.world.sim.grow_volume(&fixture.volume, 2 << 30).unwrap();
        let running = fixture.start();
        let mut left = None;
        let ended = trace::follow(&running, |effect| {
            if effect.starts_with("grow") {
                left = Some(*effects_later);
            } else if let Some(left) = &mut left {
                *left -= 1;
            }
            left != Some(0)
        });
        assert!(!ended, "nothing was grown\n{}", running.log());
        fixture.kill(running, *victim);
        fixture.comes_up("after the kill");
        assert_eq!(fixture.node.read("/mydata/precious"), "precious\n");
        let mib: u32 = fixture.node.shell("df -BM --output=size /mydata | tail -1 | tr -dc 0-9").parse().unwrap();
        if *file_system == "xfs" || support::can_resize_ext4() {
            assert!(mib > 1024 + 512, "{mib} MiB");
        }
    });
}

/// Once or twice, at instants drawn from a seed.
fn at_random(file_system: &'static str, seeds: std::ops::Range<u64>) {
    // How long a boot takes here and now, beside others like it.
    let took = Mutex::new(Vec::new());
    each(&[(); AT_ONCE], |()| {
        let fixture = Fixture::new(file_system);
        let outcome = fixture.start().end();
        fixture.must_be_up(&outcome.log);
        took.lock().unwrap().push(outcome.took);
    });
    let took = u64::try_from(took.into_inner().unwrap().into_iter().max().unwrap().as_micros()).unwrap();
    let seeds: Vec<_> = seeds.collect();
    each(&seeds, |seed| {
        let mut random = Random::new(*seed);
        let mut fixture = Fixture::new(file_system);
        let mut story = format!("seed {seed}:");
        for _ in 0..=random.below(3) / 2 {
            let (after, victim) = (Duration::from_micros(random.below(took)), VICTIMS[random.index(VICTIMS.len())]);
            story = format!("{story} {victim:?} after {after:?};");
            let running = fixture.start();
            thread::sleep(after);
            fixture.kill(running, victim);
        }
        fixture.comes_up(&story);
    });
}

#[test]
fn a_kill_at_a_random_instant_is_harmless_on_xfs_seeds_0_to_49() {
    at_random("xfs", 0..50);
}

#[test]
fn a_kill_at_a_random_instant_is_harmless_on_xfs_seeds_50_to_99() {
    at_random("xfs", 50..100);
}

#[test]
fn a_kill_at_a_random_instant_is_harmless_on_ext4_seeds_100_to_149() {
    at_random("ext4", 100..150);
}

#[test]
fn a_kill_at_a_random_instant_is_harmless_on_ext4_seeds_150_to_199() {
    at_random("ext4", 150..200);
}

/// How long an order is not heard of at most: the agent asks every five seconds.
const UNHEARD: Duration = Duration::from_secs(8);

#[test]
fn a_kill_at_a_random_instant_of_a_departure_loses_nothing_and_repeats_no_continue() {
    let wanted = std::env::var("NODE_AGENT_DEPARTURE_KILLS").map_or(12, |count| count.parse().unwrap());
    // How long a departure takes here and now, beside others like it.
    let took = Mutex::new(Vec::new());
    each(&["xfs", "ext4"], |file_system| {
        let (fixture, service) = LeavingFixture::new(file_system, true, None);
        fixture.ordered();
        while_waiting(&service, UNHEARD, || fixture.is_leaving());
        let began = Instant::now();
        let outcome = service.end();
        took.lock().unwrap().push(began.elapsed());
        fixture.must_have_left(&outcome, "without a kill");
        assert_eq!(fixture.drains(), 1);
    });
    let took = took.into_inner().unwrap();
    println!("departures without a kill: {took:?}");
    let took = u64::try_from(took.into_iter().max().unwrap().as_micros()).unwrap();
    let (kills, again) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let seeds: Vec<u64> = (0..wanted).collect();
    each(&seeds, |seed| {
        let mut random = Random::new(*seed);
        let file_system = ["xfs", "ext4"][random.index(2)];
        let detaches = random.below(2) == 0;
        let faults = leaving::faults();
        let fault = faults[random.index(faults.len())].clone();
        let mut story = format!("seed {seed}: {file_system}, detaches: {detaches}, {fault:?};");
        let (mut fixture, mut running) = LeavingFixture::new(file_system, detaches, fault);
        fixture.ordered();
        for _ in 0..=random.below(3) {
            let victim = VICTIMS[random.index(VICTIMS.len())];
            // One in four before it is heard of, or at the start of the agent.
            let (heard, within) = if random.below(4) == 0 { (false, 3_000_000) } else { (true, took) };
            let after = Duration::from_micros(random.below(within));
            story = format!("{story} {victim:?} {after:?} after the order{};", if heard { " was heard" } else { "" });
            if heard {
                while_waiting(&running, UNHEARD, || fixture.is_leaving());
            }
            while_waiting(&running, after, || false);
            fixture.kill(running, victim);
            kills.fetch_add(1, Ordering::Relaxed);
            running = fixture.start();
        }
        let outcome = running.end();
        fixture.must_have_left(&outcome, &story);
        again.fetch_add(usize::from(fixture.drains() > 1), Ordering::Relaxed);
    });
    println!("{} kills in {wanted} departures; drained more than once in {}", kills.into_inner(), again.into_inner());
}

#[test]
fn a_kill_before_and_after_each_effect_of_a_departure_is_harmless() {
    let leaving = || {
        let (fixture, service) = LeavingFixture::new("xfs", true, None);
        support::stop(service);
        fixture.ordered();
        fixture
    };
    let seen = || {
        let fixture = leaving();
        let running = fixture.start();
        let mut effects = Vec::new();
        let ended = trace::follow(&running, |effect| {
            // How often the agent has to ask AWS depends on the time.
            if fixture.is_leaving() && !effect.starts_with("send a request") {
                effects.push(effect.to_owned());
            }
            true
        });
        assert!(ended);
        fixture.must_have_left(&running.end(), "without a kill");
        effects
    };
    let effects = thread::scope(|scope| scope.spawn(seen).join()).unwrap();
    assert!(effects.iter().any(|effect| effect.starts_with("unmount /mydata")) && effects.len() > 10, "{effects:?}");
    let missed = AtomicUsize::new(0);
    each(&effects, |effect| {
        let mut fixture = leaving();
        let running = fixture.start();
        let ended = trace::follow(&running, |seen| !(fixture.is_leaving() && seen == effect));
        missed.fetch_add(usize::from(ended), Ordering::Relaxed);
        fixture.kill(running, Victim::Agent);
        fixture.must_have_left(&fixture.start().end(), effect);
    });
    assert!(missed.into_inner() <= 2, "some were not met again: {effects:?}");
}
