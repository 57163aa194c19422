//! Which looks open the gate, and that no two nodes pass it at the same time.

use proptest::prelude::*;

use super::*;

fn group(name: &str, state: &str, is_healthy: bool) -> Group {
    let member = Member { instance_id: format!("i-{name}"), state: LifecycleState::parse(state), is_healthy };
    Group { name: name.to_owned(), desired: 1, is_being_deleted: false, members: vec![member] }
}

fn own(group: &str) -> (String, String) {
    (group.to_owned(), format!("i-{group}"))
}

fn judged(who: &str, groups: &[Group], words: &[(&str, &str)]) -> Verdict {
    let (group, instance_id) = own(who);
    let words = words.iter().map(|(from, to)| {
        let waited = Waited { instance_id: format!("i-{to}"), group: (*to).to_owned() };
        (format!("i-{from}"), Word { hold_over: false, waits_for: Some(waited) })
    });
    let seen = Seen { groups: groups.to_vec(), words: words.collect() };
    judge(Own { group: &group, instance_id: &instance_id, hold_over: false }, &seen)
}

fn waits(verdict: &Verdict) -> Option<&str> {
    match verdict {
        Verdict::Wait { word, .. } => word.waits_for.as_ref().map(|waited| waited.group.as_str()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_word_is_read_back_and_no_other_status_is_taken_for_one() {
    for hold_over in [false, true] {
        let waited = Waited { instance_id: "i-1".to_owned(), group: "kafka node in 00".to_owned() };
        for word in [Word { hold_over, waits_for: Some(waited) }, Word::first(hold_over)] {
            assert_eq!(Word::parse(&word.to_string()), Some(word));
        }
    }
    assert_eq!(Word::parse("configure: configure_cluster_node ended with exit status: 1"), None);
    assert_eq!(Word::parse("gate: waits for i-1"), None);
    assert_eq!(Word::parse("drain: the node leaves"), None);
}

#[test]
fn who_is_away_is_waited_for_and_who_is_no_part_of_the_cluster_is_not() {
    let me = group("a", "Terminating:Wait", true);
    let go = |other: Group| judged("a", &[me.clone(), other], &[]) == Verdict::Go;
    assert!(go(group("b", "InService", true)));
    assert!(!go(group("b", "InService", false)));
    assert!(!go(group("b", "Pending:Wait", true)));
    assert!(!go(group("b", "Standby", true)));
    assert!(!go(Group { desired: 0, ..group("b", "Standby", true) }));
    assert!(!go(Group { members: Vec::new(), ..group("b", "", true) }));
    assert!(go(Group { members: Vec::new(), desired: 0, ..group("b", "", true) }));
    assert!(go(Group { is_being_deleted: true, ..group("b", "Terminating:Wait", true) }));
    let whole = judged("a", &[Group { is_being_deleted: true, ..me.clone() }, group("b", "Pending", true)], &[]);
    assert_eq!(whole, Verdict::TornDown);
}

#[test]
fn of_two_that_leave_one_goes_first_and_only_once_the_other_has_said_so() {
    let both = [group("a", "Terminating:Wait", true), group("b", "Terminating:Wait", true)];
    assert_eq!(waits(&judged("a", &both, &[])), None);
    assert_eq!(waits(&judged("b", &both, &[])), Some("a"));
    assert_eq!(judged("a", &both, &[("b", "a")]), Verdict::Go);
    assert_eq!(waits(&judged("b", &both, &[("b", "a")])), Some("a"));
    // A word for somebody else counts for nothing.
    assert_eq!(waits(&judged("a", &both, &[("b", "c")])), None);
    // An unhealthy node goes first.
    let sick = [group("a", "Terminating:Wait", true), group("b", "Terminating:Wait", false)];
    assert_eq!(waits(&judged("a", &sick, &[])), Some("b"));
    assert_eq!(judged("b", &sick, &[("a", "b")]), Verdict::Go);
    // A word of one's own is taken back first.
    assert_eq!(waits(&judged("b", &sick, &[("a", "b"), ("b", "a")])), None);
}

#[test]
fn a_launching_successor_is_waited_for_whatever_was_written_before() {
    let mut b = group("b", "Terminating:Wait", true);
    let successor = Member { instance_id: "i-b2".to_owned(), state: LifecycleState::Pending, is_healthy: true };
    b.members.push(successor);
    let seen = [group("a", "Terminating:Wait", true), b];
    assert!(matches!(judged("a", &seen, &[("b", "a")]), Verdict::Wait { .. }));
}

#[test]
fn a_held_node_says_that_its_hold_is_over_and_then_goes_before_one_that_leaves() {
    let both = [group("a", "Terminating:Wait", true), group("b", "Pending:Wait", true)];
    let judged = |who: &str, words: &[(&str, Word)]| {
        let words = words.iter().map(|(from, word)| (format!("i-{from}"), word.clone()));
        let seen = Seen { groups: both.to_vec(), words: words.collect() };
        judge(Own { group: who, instance_id: &format!("i-{who}"), hold_over: who == "b" }, &seen)
    };
    // Until it has said so, it looks like any other launch.
    assert_eq!(waits(&judged("a", &[])), None);
    let Verdict::Wait { word: first, .. } = judged("b", &[]) else { panic!("it went without a word") };
    assert_eq!(first, Word::first(true));
    let verdict = judged("a", &[("b", first.clone())]);
    assert_eq!(waits(&verdict), Some("b"));
    let Verdict::Wait { word: waiting, .. } = verdict else { panic!("it did not wait") };
    assert_eq!(judged("b", &[("b", first), ("a", waiting)]), Verdict::Go);
}

/// How far a node's departure came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Went {
    #[default]
    Not,
    Away,
    /// Its replacement serves.
    Back,
}

/// One node of the simulated cluster.
#[derive(Clone, Debug, Default)]
struct Node {
    /// It is held from the beginning: its order is the end of its hold.
    held: bool,
    sick: bool,
    told: bool,
    went: Went,
    /// How many looks in a row said that it may go.
    looks: u32,
    word: Option<Word>,
}

impl Node {
    /// Whether the cluster misses it.
    fn is_away(&self) -> bool {
        self.went == Went::Away || self.held && self.went == Went::Not
    }

    fn state(&self) -> &'static str {
        match self.went {
            Went::Back => "InService",
            Went::Not if self.held => "Pending:Wait",
            Went::Not if !self.told => "InService",
            Went::Not | Went::Away => "Terminating:Wait",
        }
    }
}

/// The simulated cluster, and its past.
struct Cluster {
    nodes: Vec<Node>,
    past: Vec<Vec<Node>>,
}

impl Cluster {
    /// This node looks at a state that is so many steps old, and does what it must.
    fn look(&mut self, who: usize, back: usize) -> Result<(), TestCaseError> {
        let name = |node: usize| ["a", "b", "c"][node].to_owned();
        let view = &self.past[self.past.len().saturating_sub(1 + back)];
        let own = view[who].clone();
        let groups = view.iter().enumerate();
        let groups = groups.map(|(node, seen)| group(&name(node), seen.state(), !seen.sick || seen.went == Went::Back));
        let words = view.iter().enumerate().filter_map(|(node, seen)| {
            Some((format!("i-{}", name(node)), seen.word.clone().filter(|_| seen.went != Went::Back)?))
        });
        let seen = Seen { words: words.collect(), groups: groups.collect() };
        let node = &mut self.nodes[who];
        if node.went != Went::Not {
            // Its replacement comes into service only some time after it has gone.
            if node.looks == 5 {
                node.went = Went::Back;
            }
            node.looks += 1;
        } else if node.told && own.told {
            let (group, instance_id) = (name(who), format!("i-{}", name(who)));
            match judge(Own { group: &group, instance_id: &instance_id, hold_over: node.held }, &seen) {
                Verdict::Wait { word, .. } => (node.looks, node.word) = (0, Some(word)),
                _ => node.looks += 1,
            }
            // Two answers in a row, the second newer than the first: here by more than any look can be old.
            if node.looks == 4 {
                (node.went, node.looks, node.word) = (Went::Away, 0, None);
                let held = node.held;
                let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != who);
                // A held node was away before it went: then only those that went count.
                let away = others.filter(|(_, it)| if held { it.went == Went::Away } else { it.is_away() });
                let away: Vec<_> = away.collect();
                prop_assert!(away.is_empty(), "{} goes, and {away:?}", name(who));
            }
        }
        self.past.push(self.nodes.clone());
        Ok(())
    }
}

proptest! {
    /// Nodes that are told to go at any time, or are held and at the end of their hold, look at any time, each at a state that
    /// is up to two steps old, and their groups change their minds about their health. None goes while another one is away,
    /// and in the end each has gone.
    #[test]
    fn no_node_goes_while_another_one_is_away_and_in_the_end_each_has_gone(
        held in proptest::collection::vec(any::<bool>(), 2..=3),
        told in proptest::collection::vec(0_usize..40, 3),
        moves in proptest::collection::vec((0_usize..3, 0_usize..=2, 0_u8..10), 200..400),
    ) {
        let nodes: Vec<_> = held.iter().map(|held| Node { held: *held, ..Node::default() }).collect();
        let count = nodes.len();
        let mut cluster = Cluster { past: vec![nodes.clone()], nodes };
        for (step, (who, back, flip)) in moves.into_iter().enumerate() {
            for (node, at) in told.iter().take(count).enumerate() {
                cluster.nodes[node].told |= *at == step;
            }
            cluster.nodes[who % count].sick ^= flip == 0;
            cluster.look(who % count, back)?;
        }
        for step in 0..100 * count {
            cluster.look(step % count, 0)?;
        }
        prop_assert!(cluster.nodes.iter().all(|node| node.went == Went::Back), "{:?}", cluster.nodes);
    }
}
