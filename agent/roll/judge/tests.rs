use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::aws::autoscaling::LifecycleState;
use crate::aws::fleet::FleetMember;
use crate::roll::decision::Turn;
use crate::roll::marks::LastMark;

/// A node in service that runs the target.
fn current(id: &str) -> Node {
    Node {
        id: id.to_owned(),
        group: format!("kafka-node-{id}"),
        condition: Condition::Serving(format!("i-{id}")),
        going: Vec::new(),
        outdated: None,
        staged: Staged::Target,
        hands_off: None,
        last: None,
        doubt: None,
    }
}

/// A node in service that runs version 6; the target is 7.
fn behind(id: &str) -> Node {
    Node { outdated: Some(Outdated::Version("6".to_owned())), staged: Staged::Other, ..current(id) }
}

fn held(id: &str) -> Node {
    let condition = Condition::Coming {
        instance: format!("i-{id}"),
        state: LifecycleState::PendingWait,
        held: Some("configure: it broke".to_owned()),
    };
    Node { condition, ..behind(id) }
}

fn missing(id: &str) -> Node {
    Node { condition: Condition::Missing, outdated: None, ..behind(id) }
}

fn going(id: &str, state: &str) -> FleetMember {
    FleetMember {
        instance_id: format!("i-{id}-old"),
        state: LifecycleState::parse(state),
        is_healthy: true,
        template: None,
        is_protected: false,
        zone: "eu-west-1a".to_owned(),
        instance_type: "m5.large".to_owned(),
    }
}

/// A turn that is prepared.
fn ready(id: &str) -> Memory {
    let turn = Turn {
        passes: PASSES,
        inspected_at: Some(Duration::ZERO),
        looked: true,
        ..Turn::of(&format!("kafka-node-{id}"))
    };
    Memory { turn: Some(turn), now: Some(1_795_000_000), ..Memory::default() }
}

fn inspected_at(inspected: bool) -> Option<Duration> {
    inspected.then_some(Duration::ZERO)
}

fn group(id: &str) -> String {
    format!("kafka-node-{id}")
}

fn take(id: &str) -> Decision {
    Decision::Take { group: group(id), victim: format!("i-{id}") }
}

fn decide(nodes: &[Node], memory: &Memory) -> Decision {
    judge(nodes, memory, &Wish::default())
}

#[test]
fn nodes_go_one_at_a_time_and_by_name() {
    let nodes = [behind("00"), behind("01"), current("02")];
    assert_eq!(decide(&nodes, &ready("00")), take("00"));
    // Another node's turn is not this one's.
    assert_eq!(decide(&nodes, &ready("01")), Decision::Inspect { group: group("00") });
    assert_eq!(decide(&[current("00"), current("01")], &Memory::default()), Decision::End(End::Done));
}

#[test]
fn an_unhealthy_node_goes_first_and_the_leader_last() {
    let unhealthy = Node { condition: Condition::Unhealthy("i-01".to_owned()), ..behind("01") };
    assert_eq!(decide(&[behind("00"), unhealthy, behind("02")], &ready("01")), take("01"));
    let memory = |id| Memory { leader: Leader::Is(group("00")), ..ready(id) };
    assert_eq!(decide(&[behind("00"), behind("01")], &memory("01")), take("01"));
    assert_eq!(decide(&[behind("00"), current("01")], &memory("00")), take("00"));
}

#[test]
fn a_node_that_is_unhealthy_and_current_stops_the_roll() {
    let unhealthy = Node { condition: Condition::Unhealthy("i-01".to_owned()), ..current("01") };
    assert!(matches!(decide(&[behind("00"), unhealthy], &ready("00")), Decision::Stop { .. }));
}

#[test]
fn nothing_is_decided_before_every_node_is_proven() {
    let doubtful = Node { doubt: Some("AWS's descriptions of it disagree"), ..current("01") };
    assert!(matches!(decide(&[behind("00"), doubtful], &ready("00")), Decision::Wait(_)));
}

#[test]
fn a_check_passes_twice_before_the_version_and_the_cluster_are_looked_at() {
    let wish = Wish { has_check: true, ..Wish::default() };
    let nodes = [behind("00"), current("01")];
    let turn = |passes, inspected, looked| Memory {
        turn: Some(Turn { passes, inspected_at: inspected_at(inspected), looked, ..Turn::of(&group("00")) }),
        ..ready("00")
    };
    let check = Decision::Check { group: group("00"), after: false };
    assert_eq!(judge(&nodes, &turn(1, false, false), &wish), check);
    assert_eq!(judge(&nodes, &turn(2, false, false), &wish), Decision::Inspect { group: group("00") });
    assert!(matches!(judge(&nodes, &turn(2, true, false), &wish), Decision::Wait(_)));
    assert_eq!(judge(&nodes, &turn(2, true, true), &wish), take("00"));
}

#[test]
fn a_node_that_is_out_is_taken_up_and_staged_before_any_other_goes() {
    let nodes = [behind("00"), held("01")];
    assert_eq!(decide(&nodes, &ready("00")), Decision::TakeUp { group: group("01") });
    let work = Work { group: group("01"), victim: None, arrived: false, passes: 0 };
    let memory = Memory { work: Some(work), ..ready("00") };
    assert_eq!(decide(&nodes, &memory), Decision::Stage { group: group("01") });
    let staged = Node { staged: Staged::Target, ..held("01") };
    assert!(matches!(decide(&[behind("00"), staged], &memory), Decision::Wait(_)));
}

#[test]
fn a_second_node_that_dies_is_not_staged_while_the_first_one_is_out() {
    let broken = Node { staged: Staged::Target, ..held("00") };
    let work = Work { group: group("00"), victim: Some("i-old".to_owned()), arrived: false, passes: 0 };
    let memory = Memory { work: Some(work), ..ready("00") };
    let Decision::Wait(wait) = decide(&[broken, missing("01")], &memory) else { panic!("it acts") };
    assert_eq!(wait.group, group("00"));
}

#[test]
fn only_replace_held_gives_up_what_is_outdated_or_was_held_at_first_and_alone() {
    let wish = Wish { replace_held: true, ..Wish::default() };
    let staged = |id| Node { staged: Staged::Target, outdated: None, ..held(id) };
    let work = Work { group: group("00"), victim: None, arrived: false, passes: 0 };
    let memory = |held: &[&str]| Memory {
        work: Some(work.clone()),
        held_at_first: held.iter().map(ToString::to_string).collect(),
        ..Memory::default()
    };
    let nodes = [staged("00"), current("01")];
    let abandon = Decision::Abandon { group: group("00"), instance: "i-00".to_owned() };
    assert_eq!(judge(&nodes, &memory(&["i-00"]), &wish), abandon);
    assert!(matches!(judge(&nodes, &memory(&[]), &wish), Decision::Wait(_)));
    assert!(matches!(judge(&nodes, &memory(&["i-00"]), &Wish::default()), Decision::Wait(_)));
    // It came up on an old version, and failed after the roll had begun.
    let outdated = [Node { staged: Staged::Target, ..held("00") }, current("01")];
    assert_eq!(judge(&outdated, &memory(&[]), &wish), abandon);
    assert!(matches!(judge(&outdated, &memory(&[]), &Wish::default()), Decision::Wait(_)));
    let Decision::Wait(wait) = judge(&[staged("00"), staged("01")], &memory(&["i-00", "i-01"]), &wish) else {
        panic!("it gives one of two up")
    };
    assert!(wait.why.contains("node-agent complete abandon"), "{}", wait.why);
}

#[test]
fn a_victim_that_is_still_seen_is_waited_for_and_then_taken_anew() {
    let last = LastMark { run: "r".to_owned(), victim: Some("i-00".to_owned()), from: None, to: 7, at: 1_795_000_000 };
    let node = Node { last: Some(last), staged: Staged::Target, ..behind("00") };
    let work = Work { group: group("00"), victim: Some("i-00".to_owned()), arrived: false, passes: 0 };
    let memory = |now| Memory { work: Some(work.clone()), now: Some(now), ..ready("00") };
    let nodes = [node, current("01")];
    assert!(matches!(decide(&nodes, &memory(1_795_000_059)), Decision::Wait(_)));
    assert_eq!(decide(&nodes, &memory(1_795_000_060)), take("00"));
    // Another roll sees the tag alone.
    assert!(matches!(decide(&nodes, &Memory { work: None, ..memory(1_795_000_059) }), Decision::Wait(_)));
    let refused = Memory { refused: Some("i-00".to_owned()), ..memory(1_795_000_001) };
    assert_eq!(decide(&nodes, &refused), take("00"));
}

#[test]
fn a_node_is_done_when_its_old_instance_is_gone_and_the_check_has_passed_twice() {
    let wish = Wish { has_check: true, ..Wish::default() };
    let work = |arrived, passes| Memory {
        work: Some(Work { group: group("00"), victim: Some("i-00-old".to_owned()), arrived, passes }),
        ..Memory::default()
    };
    let back = current("00");
    let arrived = Decision::Arrived { group: group("00"), instance: "i-00".to_owned() };
    assert_eq!(judge(std::slice::from_ref(&back), &work(false, 0), &wish), arrived);
    assert_eq!(
        judge(std::slice::from_ref(&back), &work(true, 1), &wish),
        Decision::Check { group: group("00"), after: true }
    );
    assert_eq!(judge(std::slice::from_ref(&back), &work(true, 2), &wish), Decision::Finished { group: group("00") });
    let beside = Node { going: vec![going("00", "Terminating:Proceed")], ..back };
    assert!(matches!(judge(&[beside], &work(false, 0), &wish), Decision::Wait(_)));
    let old = Node { staged: Staged::Other, ..behind("00") };
    assert!(matches!(judge(&[old], &work(false, 0), &wish), Decision::Stop { .. }));
    let unhealthy = Node { condition: Condition::Unhealthy("i-00".to_owned()), ..current("00") };
    assert!(matches!(judge(&[unhealthy], &work(true, 0), &wish), Decision::Stop { .. }));
}

#[test]
fn a_node_that_its_group_replaced_just_before_it_was_staged_is_taken_once_more() {
    let work = Work { group: group("00"), victim: Some("i-00-old".to_owned()), arrived: false, passes: 0 };
    let memory = |times| Memory { work: Some(work.clone()), taken: [(group("00"), times)].into(), ..Memory::default() };
    let old = Node { staged: Staged::Target, ..behind("00") };
    assert_eq!(decide(&[old.clone(), behind("01")], &memory(1)), Decision::Inspect { group: group("00") });
    assert!(matches!(decide(std::slice::from_ref(&old), &memory(MOST_TAKEN)), Decision::Stop { .. }), "not for ever");
    let image = Outdated::Image { runs: "ami-1".to_owned(), wanted: "ami-2".to_owned() };
    let other = Node { outdated: Some(image), ..old };
    assert!(
        matches!(decide(&[other], &memory(1)), Decision::Stop { .. }),
        "no launch of its version brings another image"
    );
}

#[test]
fn a_pause_keeps_the_next_node_and_lets_the_one_at_work_come_back() {
    let memory = |pause: Option<&str>| Memory { pause: pause.map(str::to_owned), ..ready("00") };
    let end = Decision::End(End::PausedByTag("upgrade day".to_owned()));
    assert_eq!(decide(&[behind("00"), current("01")], &memory(Some("upgrade day"))), end);
    let work = Work { group: group("00"), victim: Some("i-00-old".to_owned()), arrived: false, passes: 0 };
    let at_work = Memory { work: Some(work), ..memory(Some("upgrade day")) };
    assert!(matches!(decide(&[missing("00"), behind("01")], &at_work), Decision::Stage { .. } | Decision::Wait(_)));
}

#[test]
fn canary_and_max_nodes_end_as_paused_and_continue_goes_on() {
    let nodes = [behind("00"), behind("01"), current("02")];
    let wish = Wish { canary: Some(group("01")), ..Wish::default() };
    assert_eq!(judge(&nodes, &ready("01"), &wish), take("01"));
    let done = Memory { done: [group("01")].into(), ..ready("00") };
    let after = [behind("00"), current("01"), current("02")];
    assert_eq!(judge(&after, &done, &wish), Decision::End(End::PausedNow("canary")));
    let most = Wish { max_nodes: Some(1), ..Wish::default() };
    assert_eq!(judge(&after, &done, &most), Decision::End(End::PausedNow("max-nodes")));
    let paused = Memory { paused: Some("run 1".to_owned()), ..ready("00") };
    assert_eq!(decide(&after, &paused), Decision::End(End::PausedBefore("run 1".to_owned())));
    let resume = Wish { resume: true, ..Wish::default() };
    assert_eq!(judge(&after, &paused, &resume), take("00"));
}

#[test]
fn a_group_that_is_staged_while_another_node_goes_first_is_set_back() {
    let staged = Node { staged: Staged::Target, ..behind("00") };
    let unhealthy = Node { condition: Condition::Unhealthy("i-01".to_owned()), ..behind("01") };
    let nodes = [staged, unhealthy];
    assert_eq!(decide(&nodes, &ready("01")), Decision::SetBack { group: group("00") });
    // It counts as begun where nothing else decides.
    let staged = Node { staged: Staged::Target, ..behind("01") };
    assert_eq!(decide(&[behind("00"), staged], &ready("01")), take("01"));
}

#[test]
fn what_is_not_to_be_touched_is_neither_taken_nor_staged() {
    let off = |node: Node| Node { hands_off: Some("--skip names it".to_owned()), ..node };
    assert_eq!(decide(&[off(behind("00")), behind("01")], &ready("01")), take("01"));
    assert_eq!(decide(&[off(behind("00")), current("01")], &Memory::default()), Decision::End(End::Done));
    assert!(matches!(decide(&[off(held("00")), behind("01")], &ready("01")), Decision::Wait(_)));
}

#[test]
fn the_time_in_the_termination_hook_is_not_counted() {
    for (state, counts) in [("Terminating:Wait", false), ("Terminating", true), ("Terminating:Proceed", true)] {
        let node = Node { going: vec![going("00", state)], staged: Staged::Target, ..missing("00") };
        let work = Work { group: group("00"), victim: Some("i-00-old".to_owned()), arrived: false, passes: 0 };
        let Decision::Wait(wait) = decide(&[node], &Memory { work: Some(work), ..Memory::default() }) else { panic!() };
        assert_eq!(wait.counts, counts, "{state}");
    }
}

fn any_node(id: &'static str) -> impl Strategy<Value = Node> {
    let condition = prop_oneof![
        4 => Just(Condition::Serving(format!("i-{id}"))),
        1 => Just(Condition::Unhealthy(format!("i-{id}"))),
        1 => any::<bool>().prop_map(move |held| Condition::Coming {
            instance: format!("i-{id}"),
            state: LifecycleState::PendingWait,
            held: held.then(|| "configure".to_owned()),
        }),
        1 => Just(Condition::Missing),
        1 => Just(Condition::Elsewhere { instance: format!("i-{id}"), state: LifecycleState::parse("Standby") }),
    ];
    let staged = prop_oneof![Just(Staged::Target), Just(Staged::Other), Just(Staged::Floating("$Latest"))];
    (condition, any::<bool>(), staged, prop::bool::weighted(0.2), prop::bool::weighted(0.1), prop::bool::weighted(0.1))
        .prop_map(move |(condition, is_behind, staged, is_going, is_off, is_doubtful)| Node {
            outdated: (is_behind && condition != Condition::Missing).then(|| Outdated::Version("6".to_owned())),
            condition,
            going: if is_going { vec![going(id, "Terminating:Wait")] } else { Vec::new() },
            staged,
            hands_off: is_off.then(|| "off".to_owned()),
            doubt: is_doubtful.then_some("they disagree"),
            ..current(id)
        })
}

fn any_memory() -> impl Strategy<Value = Memory> {
    let id = || prop_oneof![Just("00"), Just("01"), Just("02")];
    let work =
        prop::option::of((id(), any::<bool>(), any::<bool>(), 0..3_u8).prop_map(|(id, is_old, arrived, passes)| {
            Work {
                group: group(id),
                victim: Some(if is_old { format!("i-{id}") } else { format!("i-{id}-old") }),
                arrived,
                passes,
            }
        }));
    let turn =
        prop::option::of((id(), 0..3_u8, any::<bool>(), any::<bool>()).prop_map(|(id, passes, inspected, looked)| {
            Turn { group: group(id), passes, inspected_at: inspected_at(inspected || looked), looked }
        }));
    let leader = prop_oneof![Just(Leader::NotAsked), Just(Leader::Unknown), id().prop_map(|id| Leader::Is(group(id)))];
    (work, turn, leader, any::<bool>(), any::<bool>()).prop_map(|(work, turn, leader, bakes, pauses)| Memory {
        work,
        turn,
        leader,
        bakes,
        pause: pauses.then(|| "a reason".to_owned()),
        held_at_first: ["i-00", "i-01", "i-02"].map(str::to_owned).into(),
        now: Some(1_795_000_000),
        ..Memory::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    /// What may never happen, whatever is seen and remembered.
    #[test]
    fn no_node_is_taken_while_another_one_is_not_in_service(
        nodes in (any_node("00"), any_node("01"), any_node("02")).prop_map(|(a, b, c)| vec![a, b, c]),
        memory in any_memory(),
        replace_held in any::<bool>(),
        has_check in any::<bool>(),
        has_leader in any::<bool>(),
    ) {
        let wish = Wish { replace_held, has_check, has_leader, ..Wish::default() };
        let find = |group: &str| nodes.iter().find(|node| node.group == group).unwrap();
        let others_serve = |group: &str| nodes.iter().all(|node| node.group == group || node.is_serving());
        let all_proven = nodes.iter().all(|node| node.doubt.is_none());
        match judge(&nodes, &memory, &wish) {
            Decision::Take { group, victim } => {
                let node = find(&group);
                prop_assert!(all_proven && others_serve(&group) && memory.pause.is_none() && !memory.bakes);
                prop_assert!(node.outdated.is_some() && node.hands_off.is_none());
                prop_assert_eq!(node.condition.instance(), Some(victim.as_str()));
                prop_assert!(nodes.iter().all(|node| node.going.is_empty()));
                prop_assert!(memory.turn.as_ref().is_some_and(|turn| turn.group == group && turn.inspected_at.is_some() && turn.looked));
            }
            Decision::Abandon { group, instance } => {
                let node = find(&group);
                prop_assert!(all_proven && others_serve(&group) && replace_held && node.hands_off.is_none());
                let is_held = matches!(&node.condition, Condition::Coming { held: Some(_), .. });
                prop_assert!(is_held && node.condition.instance() == Some(instance.as_str()));
            }
            Decision::Stage { group } => {
                let node = find(&group);
                prop_assert!(all_proven && node.is_out() && node.hands_off.is_none() && node.staged == Staged::Other);
            }
            Decision::SetBack { group } => {
                let node = find(&group);
                prop_assert!(all_proven && node.outdated.is_some() && node.staged == Staged::Target && node.hands_off.is_none());
                prop_assert!(nodes.iter().all(|node| !node.is_out()));
            }
            Decision::End(End::Done) => {
                prop_assert!(nodes.iter().all(|node| node.is_serving() && (node.outdated.is_none() || node.hands_off.is_some())));
            }
            _ => {}
        }
    }
}
