//! Light nodes come, hold, leave and die without a machine.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::fleet::{Fleet, must_have};
use common::{GROUP, PATIENCE, block_on, hook, quick};
use ec2_sim::{
    ActKind, GroupSpec, HookSpec, InstanceId, Launches, LightNode, Outcome, RandomDeaths, Sim, SimConfig, Spread,
    TemplateVersion, Transition, VolumeSpec, What,
};

fn both_hooks() -> Vec<HookSpec> {
    vec![hook(Transition::Launching), hook(Transition::Terminating)]
}

/// A group whose instances are light nodes.
fn light(node: LightNode, change: impl FnOnce(&mut GroupSpec)) -> Fleet {
    Fleet::new(|group| {
        group.hooks = both_hooks();
        let launches = group.launches.as_mut().unwrap();
        launches.instance.light = Some(node);
        launches.instance.by_id_dir = PathBuf::new();
        change(group);
    })
}

fn waits(fleet: &Fleet, state: &str) -> InstanceId {
    match fleet.wait(|what| matches!(what, What::Lifecycle(change) if change.to == state)) {
        What::Lifecycle(change) => change.instance.into(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_healthy_node_attaches_its_volume_and_detaches_it_when_it_leaves() {
    let fleet = light(LightNode::default(), |group| group.wants = 0);
    let volume = fleet.sim.create_volume(VolumeSpec { size_bytes: 1 << 20, ..VolumeSpec::default() }).unwrap();
    let node = LightNode { volume: Some(volume.to_string()), detaches: true, ..LightNode::default() };
    let set = |group: &mut GroupSpec| {
        group.launches.as_mut().unwrap().instance.light = Some(node);
        group.wants = 1;
    };
    fleet.sim.change_group(GROUP, set).unwrap();
    let first = fleet.in_service(0);
    assert_eq!(fleet.sim.instance_tags(&first).unwrap()["node-agent:status"], "done");
    assert_eq!(fleet.sim.volume_state(&volume).unwrap().attachments[0].instance, first);
    fleet.terminate(&first);
    fleet.wait(|what| matches!(what, What::Volume(change) if change.attachment.as_deref() == Some("detached")));
    let second = fleet.in_service(1);
    assert_eq!(fleet.sim.volume_state(&volume).unwrap().attachments[0].instance, second);
    assert!(fleet.sim.device(&volume, &second).is_none());
}

#[test]
fn a_held_node_says_so_and_is_repaired() {
    let timeout = Duration::from_secs(1);
    let held = LightNode { outcome: Outcome::Held, ..LightNode::default() };
    let fleet = light(held, |group| group.hooks[0].heartbeat_timeout = timeout);
    let instance = waits(&fleet, "Pending:Wait");
    let status = || fleet.sim.instance_tags(&instance).unwrap().get("node-agent:status").cloned();
    let begun = Instant::now();
    while status().is_none() {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    assert!(status().unwrap().starts_with("health-check: "));
    // Longer than the hook waits without heartbeats.
    std::thread::sleep(timeout + timeout / 2);
    assert_eq!(fleet.sim.lifecycle_state(&instance).as_deref(), Some("Pending:Wait"));
    fleet.sim.repair(&instance).unwrap();
    fleet.in_service(0);
    assert_eq!(status().as_deref(), Some("done"));
    assert!(fleet.sim.repair(&instance).is_err());
}

#[test]
fn a_node_abandons_and_nobody_has_called() {
    let fleet = light(LightNode { outcome: Outcome::Abandons, ..LightNode::default() }, |_| {});
    let gone = waits(&fleet, "Terminated");
    let events = fleet.sim.events();
    let terminating = events.lifecycle(&gone).into_iter().find(|change| change.to == "Terminating").unwrap();
    assert_eq!(terminating.cause, "light node ABANDON");
    assert!(!events.acts().iter().any(|act| act.kind == ActKind::Abandon));
}

#[test]
fn a_node_that_times_out_and_hangs_is_ended_by_its_hooks() {
    let node = LightNode { outcome: Outcome::TimesOut, hangs: true, ..LightNode::default() };
    let short = Duration::from_millis(100);
    let fleet = light(node, |group| group.hooks.iter_mut().for_each(|hook| hook.heartbeat_timeout = short));
    let gone = waits(&fleet, "Terminated");
    let events = fleet.sim.events();
    let causes: Vec<_> = events.lifecycle(&gone).iter().map(|change| change.cause.clone()).collect();
    assert_eq!(causes.iter().filter(|cause| *cause == "heartbeat timeout ABANDON").count(), 2, "{causes:?}");
}

#[test]
fn the_behaviour_comes_with_the_version_of_the_template() {
    let fleet = light(LightNode::default(), |_| {});
    let first = fleet.in_service(0);
    let broken = LightNode { outcome: Outcome::Held, ..LightNode::default() };
    let version = TemplateVersion { launch: Some(broken), ..TemplateVersion::default() };
    assert_eq!(fleet.sim.add_template_version("kafka", version).unwrap(), 3);
    fleet.update(&[("LaunchTemplate.LaunchTemplateName", "kafka"), ("LaunchTemplate.Version", "3")]);
    fleet.terminate(&first);
    let held = |what: &What| matches!(what, What::Lifecycle(change) if change.to == "Pending:Wait" && change.instance != *first);
    fleet.wait(held);
    must_have(&fleet.group(), &["<LifecycleState>Pending:Wait<", "<Version>3</Version></LaunchTemplate></member>"]);
}

#[test]
fn a_node_can_die_right_after_it_came_into_service() {
    let fleet = light(LightNode { dies: Some(Spread::default()), ..LightNode::default() }, |_| {});
    fleet.in_service(1);
    assert!(!fleet.sim.events().gaps(GROUP).is_empty());
}

#[test]
fn five_hundred_groups_of_light_nodes_come_into_service_and_some_die() {
    const GROUPS: usize = 500;
    let dir = tempfile::TempDir::new().unwrap();
    let config = SimConfig { work_dir: dir.path().join("world"), latencies: quick(), ..SimConfig::default() };
    let sim = Sim::start_blocking(config).unwrap();
    for number in 0..GROUPS {
        let mut launches = Launches { retry: Duration::from_millis(100).into(), ..Launches::default() };
        launches.instance.light = Some(LightNode::default());
        launches.instance.private_ips = vec![format!("10.0.{}.{}", number / 250, number % 250)];
        let name = format!("node-{number:03}");
        let spec = GroupSpec { name, hooks: both_hooks(), launches: Some(launches), ..GroupSpec::default() };
        sim.create_group(spec).unwrap();
    }
    let wait_for = |count: usize| {
        let mut seen = 0;
        let wanted = |event: &ec2_sim::Event| {
            seen += usize::from(matches!(&event.what, What::Lifecycle(change) if change.to == "InService"));
            seen >= count
        };
        block_on(sim.wait_for(wanted, PATIENCE * 3)).expect("all in service");
    };
    wait_for(GROUPS);
    let every = Duration::from_millis(20).into();
    sim.set_random_deaths(Some(RandomDeaths { seed: 1, every, groups: vec!["node-0*".to_owned()] }));
    wait_for(GROUPS + 5);
    sim.set_random_deaths(None);
    let events = sim.events();
    let died = events.iter().filter_map(|event| match &event.what {
        What::Instance(change) if change.cause == "died" => Some(change.id.as_str()),
        _ => None,
    });
    let groups: Vec<String> = died.map(|id| events.lifecycle(id)[0].group.clone()).collect();
    assert!(groups.len() >= 5 && groups.iter().all(|group| group.starts_with("node-0")), "{groups:?}");
}
