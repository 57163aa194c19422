//! Groups that are not the plain case: a mixed instances policy, a second member, an instance in standby or protected, a volume to save.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/cluster.rs"]
mod cluster;

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::witness::{changes, nothing_was_taken_wrongly, order};
use cluster::{Behaviour, CLUSTER, Cluster, Healthy, group, interface, template};
use ec2_sim::{
    GroupSpec, InstanceSpec, Latencies, LightNode, MixedPolicy, Override, Spread, TemplateChoice, TemplateSpec,
    TemplateVersion, VolumeSpec,
};

const SPARE: &str = "kafka-spare";
const OTHER_TYPE: &str = "m7i.large";

/// The first node's group with a mixed instances policy: the base template, and an override with a template of its own, which is
/// launched.
fn mixed() -> Cluster {
    let cluster = Cluster::new(&Behaviour { nodes: 1, ..Behaviour::default() });
    // The numbers of the two templates have nothing to do with each other.
    let versions = vec![cluster.version(0, "ami-1", Healthy); 5];
    cluster.sim.create_template(TemplateSpec { name: SPARE.to_owned(), id: None, versions }).unwrap();
    let policy = MixedPolicy {
        base: TemplateChoice::new(&template(0), "1"),
        overrides: vec![
            Override {
                instance_type: Some("m6i.large".to_owned()),
                weighted_capacity: Some("1".to_owned()),
                ..Override::default()
            },
            Override {
                instance_type: Some(OTHER_TYPE.to_owned()),
                template: Some(TemplateChoice::new(SPARE, "5")),
                ..Override::default()
            },
        ],
        distribution: BTreeMap::from([
            ("OnDemandBaseCapacity".to_owned(), "1".to_owned()),
            ("SpotMaxPrice".to_owned(), "0.05".to_owned()),
        ]),
        launches: 1,
    };
    let old = cluster.in_service(0);
    cluster.change(0, |spec| (spec.template, spec.mixed) = (None, Some(policy)));
    cluster.sim.kill_instance(&old).unwrap();
    cluster.successor(0, &old);
    cluster.publish("ami-2", Healthy);
    cluster
}

fn publish_spare(cluster: &Cluster, version: TemplateVersion) {
    cluster.sim.add_template_version(SPARE, version).unwrap();
}

fn policy_of(cluster: &Cluster) -> MixedPolicy {
    let mut policy = None;
    cluster.change(0, |spec| policy.clone_from(&spec.mixed));
    policy.unwrap()
}

#[test]
fn a_mixed_instances_policy_is_staged_whole_and_only_its_versions_change() {
    let cluster = mixed();
    publish_spare(&cluster, cluster.version(0, "ami-2", Healthy));
    let before = policy_of(&cluster);
    let log = cluster.roll(&[]).must_end(0);
    let after = policy_of(&cluster);
    let own = |policy: &MixedPolicy| policy.overrides[1].template.clone().unwrap().version;
    assert_eq!((after.base.version.as_str(), own(&after).as_str()), ("2", "6"), "{log}");
    let unversioned = |mut policy: MixedPolicy| {
        for choice in [&mut policy.base].into_iter().chain(policy.overrides[1].template.as_mut()) {
            *choice = TemplateChoice::new("", "");
        }
        policy
    };
    assert_eq!(unversioned(after), unversioned(before), "{log}");
    assert_eq!(order(&cluster.sim), [group(0)], "{log}");
    let (mut launched_from, mut launched_type) = (None, None);
    let read = |spec: &mut InstanceSpec| {
        (launched_from, launched_type) = (spec.template.clone(), spec.instance_type.clone());
    };
    cluster.sim.change_instance(&cluster.in_service(0), read).unwrap();
    let launched_from = launched_from.unwrap();
    assert_eq!((launched_from.name.as_str(), launched_from.version), (SPARE, 6), "{log}");
    assert_eq!(launched_type.as_deref(), Some(OTHER_TYPE), "{log}");
}

#[test]
fn a_zone_that_offers_none_of_the_types_of_the_overrides_is_refused() {
    let cluster = mixed();
    publish_spare(&cluster, cluster.version(0, "ami-2", Healthy));
    let plan = || cluster.start(&[], &["--cluster", CLUSTER]);
    cluster.sim.set_offered("m6i.large", "eu-west-1a", false);
    plan().must_end(0);
    cluster.sim.set_offered(OTHER_TYPE, "eu-west-1a", false);
    let log = plan().must_end(6);
    let says = format!("none of the instance types m6i.large, {OTHER_TYPE} of its overrides is offered in eu-west-1a");
    assert!(log.contains(&says), "{log}");
}

#[test]
fn the_image_of_an_override_is_no_other_image_than_the_targets() {
    let cluster = mixed();
    publish_spare(&cluster, cluster.version(0, "ami-2", Healthy));
    let own = |spec: &mut GroupSpec| spec.mixed.as_mut().unwrap().overrides[1].image = Some("ami-arm".to_owned());
    cluster.change(0, own);
    cluster.roll(&[]).must_end(0);
    let log = cluster.roll(&[]).must_end(0);
    assert!(log.contains("runs version 2, stays"), "{log}");
    assert_eq!(order(&cluster.sim), [group(0)], "{log}");
}

#[test]
fn an_override_whose_template_has_another_interface_is_refused() {
    let cluster = mixed();
    let mut astray = cluster.version(0, "ami-2", Healthy);
    astray.interface = Some(interface(0x77));
    publish_spare(&cluster, astray);
    let lifted = cluster.start(&[], &["--cluster", CLUSTER, "--override", "interface"]);
    let log = cluster.roll(&[]).must_end(6);
    assert!(log.contains(&format!("version 6 has the network interface {}", interface(0x77))), "{log}");
    assert!(log.contains("--override interface"), "{log}");
    let log = lifted.must_end(0);
    assert!(log.contains("overridden (interface)"), "{log}");
    assert_eq!(changes(&cluster.sim), Vec::<String>::new(), "{log}");
}

#[test]
fn a_group_with_two_members_is_refused_and_both_are_named() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    let first = cluster.in_service(0);
    let second = InstanceSpec {
        group: Some(group(0)),
        private_ips: vec!["10.0.1.99".to_owned()],
        light: Some(LightNode::default()),
        ..InstanceSpec::default()
    };
    let second = cluster.sim.launch(second).unwrap();
    let log = cluster.roll(&[]).must_end(6);
    assert!(log.contains("kafka-node-00: it has 2 instances: "), "{log}");
    assert!(log.contains(first.as_str()) && log.contains(second.as_str()), "{log}");
    assert!(!log.contains("--override "), "{log}");
    assert_eq!(changes(&cluster.sim), Vec::<String>::new(), "{log}");
}

#[test]
fn while_a_node_is_in_standby_no_other_goes_and_the_roll_goes_on_behind_it() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    let parked = cluster.in_service(1);
    cluster.sim.set_lifecycle_state(&parked, "Standby").unwrap();
    let log = cluster.roll(&["--timeout", "25s"]).must_end(1);
    assert!(log.contains(&format!("gave up after 25s (--timeout): {parked} is Standby")), "{log}");
    let roll = cluster.roll(&[]);
    roll.wait_for(&format!("waits: {parked} is Standby"));
    assert_eq!((order(&cluster.sim), cluster.staged(1)), (Vec::new(), "1".to_owned()));
    cluster.sim.set_lifecycle_state(&parked, "InService").unwrap();
    let log = roll.must_end(0);
    cluster.all_run("2");
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
    assert_eq!(order(&cluster.sim), [group(0), group(1)], "{log}");
}

#[test]
fn what_is_protected_from_scale_in_is_left_alone_also_right_before_its_turn() {
    let cluster = Cluster::new(&Behaviour { nodes: 3, ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    let (late, protected) = (cluster.in_service(0), cluster.in_service(1));
    cluster.sim.set_protection(&protected, true).unwrap();
    let roll = cluster.roll(&["--check", "true"]);
    roll.wait_for("00: waits: the last look before it goes");
    cluster.sim.set_protection(&late, true).unwrap();
    let log = roll.must_end(0);
    let says = format!("01: is left alone although it runs version 1: {protected} is protected from scale-in");
    assert!(log.contains(&says), "{log}");
    assert_eq!(order(&cluster.sim), [group(2)], "{log}");
    for number in 0..2 {
        assert_eq!(cluster.staged(number), "1", "{log}");
    }
    cluster.has_no_flag();
}

/// A node whose data is on a volume of its own runs, and its next version is published.
fn with_volume(cluster: &Cluster, number: usize, multi_attach: bool, node: LightNode) -> String {
    let volume = cluster.sim.create_volume(VolumeSpec { multi_attach, ..VolumeSpec::default() }).unwrap().to_string();
    let node = LightNode { volume: Some(volume.clone()), ..node };
    let version =
        |image: &str| TemplateVersion { launch: Some(node.clone()), ..cluster.version(number, image, Healthy) };
    cluster.run_version(number, version("ami-1"));
    cluster.publish_for(number, version("ami-2"));
    volume
}

#[test]
fn a_snapshot_is_taken_of_a_free_volume_and_called_clean_only_after_the_hook() {
    // The interface is free before the volume is.
    let latencies = Latencies { interface: Some(Spread::default()), ..Latencies::default() };
    let cluster = Cluster::new(&Behaviour { nodes: 3, latencies, ..Behaviour::default() });
    // Long enough for a look at each.
    let seconds = |seconds| Spread::from(Duration::from_secs(seconds));
    let slow = LightNode { boot: seconds(12), drain: seconds(8), detaches: true, ..LightNode::default() };
    let clean = with_volume(&cluster, 0, false, slow.clone());
    let unclean = with_volume(&cluster, 1, false, slow);
    // The new instance attaches it before the old one is gone: it is free at no time.
    let never_free = with_volume(&cluster, 2, true, LightNode::default());
    cluster.change(1, |spec| spec.hooks.retain(|hook| hook.name == "launch-hook"));

    let rolls = [0, 1, 2].map(|number| cluster.roll_of(&[number], &["--snapshot"]));
    let logs = rolls.map(|roll| roll.must_end(0));
    let snapshots = cluster.sim.snapshots();
    for (number, volume) in [&clean, &unclean].into_iter().enumerate() {
        let of_volume: Vec<_> = snapshots.iter().filter(|snapshot| snapshot.volume.as_str() == volume).collect();
        let [snapshot] = of_volume.as_slice() else { panic!("{of_volume:?}\n{}", logs[number]) };
        assert_eq!(snapshot.attached_to, None, "{}", logs[number]);
        assert_eq!(snapshot.tags["Name"], group(number), "{snapshot:?}");
        let run = &snapshot.tags["node-agent:roll-run"];
        assert!(cluster.tags(number)["node-agent:roll-last"].contains(&format!("run={run} ")), "{snapshot:?}");
        let says = format!("{} of {volume} is being taken", snapshot.id);
        let line = logs[number].lines().find(|line| line.contains(&says)).unwrap_or_else(|| panic!("{}", logs[number]));
        assert_eq!(line.contains("clean"), number == 0, "{line}");
    }
    assert_eq!(snapshots.len(), 2, "{snapshots:?}");
    assert!(
        logs[2].contains(&format!("no snapshot of {never_free} was taken: it was never seen detached")),
        "{}",
        logs[2]
    );
    for (number, log) in logs.iter().enumerate() {
        assert_eq!(cluster.version_of(&cluster.in_service(number)), "3", "{log}");
    }
    let events = cluster.sim.events();
    assert!(events.attempts("ec2:CreateTags").is_empty(), "tagged by a call of its own");
}
