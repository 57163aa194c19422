//! What the event log says of a roll: who was out, and what was told to whom.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use std::fmt;
use std::time::Duration;

use ec2_sim::{Act, ActKind, Events, Sim, What};

/// What happened to the members of the groups, and what the groups launched.
pub fn story(sim: &Sim) -> String {
    let mut story = String::new();
    for event in sim.events().iter() {
        match &event.what {
            What::Lifecycle(change) => {
                writeln!(story, "{:.1} {} {} {}", event.t, change.group, change.instance, change.to).unwrap()
            }
            What::Activity(activity) => {
                writeln!(story, "{:.1} {} {}", event.t, activity.group, activity.status).unwrap()
            }
            What::Api(call) if call.mutating => {
                let of = |name: &str| call.parameters.get(name).cloned().unwrap_or_default();
                let (group, instance) = (of("AutoScalingGroupName"), of("InstanceId"));
                let caller = call.caller.as_deref().unwrap_or_default();
                writeln!(story, "{:.1} {caller}: {} {group}{instance} {:?}", event.t, call.action, call.code).unwrap()
            }
            _ => {}
        }
    }
    story
}

/// The instances in service, by group, as the events go by.
#[derive(Default)]
struct Serving(BTreeMap<String, BTreeMap<String, bool>>);

impl Serving {
    fn see(&mut self, what: &What) {
        let What::Lifecycle(change) = what else { return };
        let group = self.0.entry(change.group.clone()).or_default();
        group.insert(change.instance.clone(), change.to == "InService");
    }

    fn out<'a>(&self, groups: &'a [String]) -> Vec<&'a String> {
        let serves = |group: &String| self.0.get(group).is_some_and(|all| all.values().any(|serves| *serves));
        groups.iter().filter(|group| !serves(group)).collect()
    }
}

/// At no instant were two groups without an instance in service, from the moment on at which all were.
pub fn at_most_one_was_out(sim: &Sim, groups: &[String]) {
    let mut serving = Serving::default();
    let mut began = false;
    for event in sim.events().iter() {
        serving.see(&event.what);
        let out = serving.out(groups);
        began |= out.is_empty();
        assert!(!began || out.len() <= 1, "at {:.1} s: {out:?} are out\n{}", event.t, story(sim));
    }
}

/// No node was taken or given up while another one was out, and no instance was told to go twice.
pub fn nothing_was_taken_wrongly(sim: &Sim, groups: &[String]) {
    let events = sim.events();
    for act in events.acts().into_iter().filter(takes_a_node) {
        let mut serving = Serving::default();
        events.iter().take_while(|event| event.seq < act.seq).for_each(|event| serving.see(&event.what));
        let others = serving.out(groups).into_iter().filter(|group| act.group.as_ref() != Some(*group));
        let (others, instance) = (others.collect::<Vec<_>>(), act.instance.unwrap_or_default());
        assert!(others.is_empty(), "at {:.1} s {instance} goes, {others:?} are out\n{}", act.t, story(sim));
    }
    for (instance, times) in terminated(sim) {
        assert_eq!(times, 1, "{instance} was terminated {times} times\n{}", story(sim));
    }
}

/// Whether an act has taken a node, or given one up.
fn takes_a_node(act: &Act) -> bool {
    act.done && matches!(act.kind, ActKind::Terminate | ActKind::Abandon)
}

/// How often each instance was told to terminate, with effect.
pub fn terminated(sim: &Sim) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for call in sim.events().calls("autoscaling:TerminateInstanceInAutoScalingGroup") {
        *times.entry(call.parameters["InstanceId"].clone()).or_default() += 1;
    }
    times
}

/// The nodes' groups in the order in which their instances were terminated.
pub fn order(sim: &Sim) -> Vec<String> {
    let acts = sim.events().acts().into_iter();
    acts.filter(|act| act.done && act.kind == ActKind::Terminate).filter_map(|act| act.group).collect()
}

/// The actions by which rolls have changed the world.
pub fn changes(sim: &Sim) -> Vec<String> {
    sim.events().mutations().into_iter().map(|call| call.action.clone()).collect()
}

/// A node that a roll has taken or given up.
#[derive(Debug)]
pub struct Taken {
    t: f64,
    group: String,
    instance: String,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s {} {}", self.t, self.group, self.instance)
    }
}

/// The nodes that rolls have taken or given up, each of which was theirs to take: no other node was out because of a roll, or had
/// been out, for whatever reason, for longer than a roll may not see it; no instance of the target's version was terminated, and
/// none twice. `target` tells the version that the roll which has acted was to bring about.
pub fn nobody_went_wrongly(
    sim: &Sim,
    groups: &[String],
    unseen: Duration,
    target: impl Fn(&Act) -> Option<u64>,
) -> Vec<Taken> {
    let events = sim.events();
    let mut taken: Vec<Taken> = Vec::new();
    for act in &events.acts().into_iter().filter(takes_a_node).collect::<Vec<_>>() {
        let (group, instance) = (act.group.clone().unwrap_or_default(), act.instance.clone().unwrap_or_default());
        let told = format!("at {:.1} s {instance} of {group} goes", act.t);
        for other in groups.iter().filter(|other| **other != group) {
            let Some(since) = out_since(&events, other, act.t) else { continue };
            let by_roll = taken.iter().any(|taken| taken.group == *other && taken.t >= since - SOON);
            assert!(!by_roll, "{told}, {other} is out because of a roll since {since:.1} s\n{}", story(sim));
            assert!(act.t - since <= unseen.as_secs_f64(), "{told}, {other} is out since {since:.1} s\n{}", story(sim));
        }
        if act.kind == ActKind::Terminate {
            let target = target(act);
            assert!(target.is_some(), "{told}, and the roll has planned nothing for it\n{}", story(sim));
            assert_ne!(act.version, target, "{told}, which is of the target's version\n{}", story(sim));
            let twice = taken.iter().any(|taken| taken.instance == instance);
            assert!(!twice, "{told} a second time\n{}", story(sim));
        }
        taken.push(Taken { t: act.t, group, instance });
    }
    taken
}

/// From a call until its effect is in the event log, in seconds.
const SOON: f64 = 1.0;

/// Since when the group has had no node in service, healthy and running, at that time.
fn out_since(events: &Events, group: &str, t: f64) -> Option<f64> {
    let gaps = events.gaps(group).into_iter();
    gaps.filter(|gap| gap.from < t && gap.to.is_none_or(|to| to > t)).map(|gap| gap.from).next_back()
}
