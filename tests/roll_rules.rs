//! What must hold before a node is taken, and the word by which each rule is overridden.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/cluster.rs"]
mod cluster;

use cluster::witness::{changes, nothing_was_taken_wrongly, order};
use cluster::{Behaviour, CLUSTER, Cluster, Healthy, group};
use ec2_sim::{ActionResult, GroupSpec, TemplateChoice, Transition};

/// A group's defect, what the refusal says, and the override; none where there is none.
type Defect = (fn(&mut GroupSpec), &'static str, Option<&'static str>);

fn without_launch_hook(spec: &mut GroupSpec) {
    spec.hooks.retain(|hook| hook.transition != Transition::Launching);
}

fn continuing_launch_hook(spec: &mut GroupSpec) {
    for hook in spec.hooks.iter_mut().filter(|hook| hook.transition == Transition::Launching) {
        hook.default_result = ActionResult::Continue;
    }
}

const DEFECTS: [Defect; 7] = [
    (|spec| spec.max = Some(2), "min = 1, max = 2, desired = 1", None),
    (|spec| spec.min = Some(0), "min = 0, max = 1, desired = 1", None),
    (|spec| spec.deleting = true, "it is being deleted (Delete in progress)", None),
    (|spec| spec.maintenance_policy = Some((100, 110)), "launches first (max 110 %)", Some("maintenance-policy")),
    (without_launch_hook, "it has no launch lifecycle hook", Some("launch-hook")),
    (continuing_launch_hook, "has the default result CONTINUE", Some("launch-hook")),
    (|_| {}, "of the listed groups, but is not listed", Some("partial-list")),
];

#[test]
fn each_rule_refuses_with_its_word_and_only_its_override_lifts_it() {
    let cluster = Cluster::new(&Behaviour { nodes: DEFECTS.len(), ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    for (number, (change, ..)) in DEFECTS.iter().enumerate() {
        cluster.change(number, change);
    }
    // Each group is a list of its own.
    let start = |number: usize, more: &[&str]| {
        let name = group(number);
        cluster.start(&[], &[&["--asg", name.as_str()], more].concat())
    };
    let partial = ["--override", "partial-list"];
    for (number, (_, says, word)) in DEFECTS.iter().enumerate() {
        let is_partial = *word == Some("partial-list");
        let refused = start(number, if is_partial { &["--yes"] } else { &["--yes", "--override", "partial-list"] });
        let lifted = word.map(|word| start(number, &[&partial[..], &["--override", word]].concat()));
        let log = refused.must_end(6);
        assert!(log.contains(says), "{says:?} is missing:\n{log}");
        match (word, lifted) {
            (Some(word), Some(lifted)) => {
                assert!(log.contains(&format!("--override {word}")), "{log}");
                let log = lifted.must_end(0);
                assert!(log.contains(&format!("overridden ({word}): ")) && log.contains(says), "{log}");
            }
            _ => assert!(!log.contains("--override "), "{log}"),
        }
    }
    assert_eq!(changes(&cluster.sim), Vec::<String>::new());
}

#[test]
fn another_interface_is_refused_and_a_retained_instance_too() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    let other = cluster.version(77, "ami-3", Healthy);
    cluster.publish_for(0, other);
    let log = cluster.roll(&["--to", "00=3", "--to", "2"]).must_end(6);
    assert!(log.contains("version 3 has the network interface eni-"), "{log}");
    assert!(log.contains("--override interface"), "{log}");
    let log = cluster.start(&[], &["--cluster", CLUSTER, "--to", "00=3", "--to", "2", "--override", "interface"]);
    let log = log.must_end(0);
    assert!(log.contains("overridden (interface)"), "{log}");

    let kept = cluster.in_service(1);
    cluster.sim.set_lifecycle_state(&kept, "Terminating:Retained").unwrap();
    let refused = cluster.roll(&["--to", "2"]);
    let lifted = cluster.start(&[], &["--cluster", CLUSTER, "--to", "2", "--override", "retained"]);
    let log = refused.must_end(6);
    assert!(log.contains(&format!("{kept} is Terminating:Retained")) && log.contains("--override retained"), "{log}");
    let log = lifted.must_end(0);
    assert!(log.contains("overridden (retained)"), "{log}");
    assert_eq!(changes(&cluster.sim), Vec::<String>::new());
}

#[test]
fn a_partial_list_that_is_meant_so_touches_only_its_own_groups() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    let other = cluster.in_service(1);
    let name = group(0);
    let log = cluster.start(&[], &["--asg", &name, "--override", "partial-list", "--yes"]).must_end(0);
    assert!(log.contains("overridden (partial-list)"), "{log}");
    assert_eq!(order(&cluster.sim), [name], "{log}");
    assert_eq!(cluster.in_service(1), other, "{log}");
    assert_eq!(cluster.tags(1).len(), 1, "a group that is not listed gets no tag: {:?}", cluster.tags(1));
}

#[test]
fn a_version_that_is_published_midway_stops_the_roll() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    let roll = cluster.roll(&[]);
    roll.wait_for("is terminated");
    cluster.publish("ami-3", Healthy);
    let log = roll.must_end(1);
    assert!(log.contains("has a version 3 by now, and this roll's target is 2"), "{log}");
    assert_eq!(order(&cluster.sim), [group(0)], "{log}");
    cluster.has_no_flag();
    let log = cluster.roll(&[]).must_end(0);
    cluster.all_run("3");
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
    assert_eq!(order(&cluster.sim).len(), 3, "{log}");
}

#[test]
fn a_rule_that_breaks_midway_refuses_the_next_node() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    let roll = cluster.roll(&[]);
    roll.wait_for("is terminated");
    cluster.change(1, without_launch_hook);
    let log = roll.must_end(6);
    assert!(log.contains("kafka-node-01: it has no launch lifecycle hook"), "{log}");
    assert_eq!(order(&cluster.sim), [group(0)], "{log}");
    cluster.in_service(0);
    cluster.has_no_flag();
}

#[test]
fn groups_on_the_latest_or_the_default_version_are_not_staged() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    let set = |number: usize, version: &str| {
        cluster.change(number, |spec| {
            spec.template = Some(TemplateChoice::new(&cluster::template(number), version));
        });
    };
    set(0, "$Latest");
    set(1, "$Default");
    cluster.publish("ami-2", Healthy);
    let log = cluster.roll(&[]).must_end(6);
    assert!(log.contains("kafka-node-01: its launch template's version is $Default, which is 1 now"), "{log}");
    assert_eq!(changes(&cluster.sim), Vec::<String>::new(), "{log}");

    cluster.sim.set_default_version(&cluster::template(1), 2).unwrap();
    let log = cluster.roll(&[]).must_end(0);
    for word in ["$Latest", "$Default"] {
        assert!(log.contains(&format!("version is {word}: it cannot be staged")), "{log}");
    }
    assert!(!changes(&cluster.sim).contains(&"autoscaling:UpdateAutoScalingGroup".to_owned()), "{log}");
    assert_eq!(order(&cluster.sim), [group(0), group(1)], "{log}");
    for number in 0..2 {
        assert_eq!(cluster.version_of(&cluster.in_service(number)), "2", "{log}");
    }
}
