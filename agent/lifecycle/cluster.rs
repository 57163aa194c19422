//! The cluster that an instance leaves: which nodes are away, and which of those that leave at the same time goes first.
//!
//! Nothing here asks or waits: the gate looks ([`Seen`]) and this judges. A node that has passed its gate looks to the others
//! like one that waits in it, so nobody goes on the strength of its rank alone: the others must have written that they wait for it.

use std::collections::BTreeMap;
use std::fmt;

use crate::aws::autoscaling::{Group, LifecycleState, Member};

/// What one look has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The cluster's groups, and this node's own.
    pub(crate) groups: Vec<Group>,
    /// What leaving nodes have written about their waiting, by instance.
    pub(crate) words: BTreeMap<String, Word>,
}

/// This node.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    pub(crate) group: &'a str,
    pub(crate) instance_id: &'a str,
    /// Whether it is held, and its hold is over.
    pub(crate) hold_over: bool,
}

/// What a node at its gate writes into its status tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Whether its hold is over. Nothing else shows the others that it is about to go.
    pub(crate) hold_over: bool,
    /// The node for which it waits; none where it goes first.
    pub(crate) waits_for: Option<Waited>,
}

/// The node for which another one waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waited {
    pub(crate) instance_id: String,
    pub(crate) group: String,
}

/// How every word begins, so that no other status is taken for one.
const GATE: &str = "gate: ";
const HOLD_OVER: &str = "the hold is over; ";
const WAITS: &str = "waits for ";
const FIRST: &str = "goes first";

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hold_over = if self.hold_over { HOLD_OVER } else { "" };
        match &self.waits_for {
            Some(Waited { instance_id, group }) => write!(f, "{GATE}{hold_over}{WAITS}{instance_id} in {group}"),
            None => write!(f, "{GATE}{hold_over}{FIRST}"),
        }
    }
}

impl Word {
    /// The word of a node that goes first.
    pub fn first(hold_over: bool) -> Self {
        Word { hold_over, waits_for: None }
    }

    /// Reads a status tag; none if it says something else.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix(GATE)?;
        let over = text.strip_prefix(HOLD_OVER);
        let rest = over.unwrap_or(text);
        let waits_for = match rest.strip_prefix(WAITS) {
            None if rest == FIRST => None,
            waits => {
                let (instance_id, group) = waits?.split_once(" in ")?;
                Some(Waited { instance_id: instance_id.to_owned(), group: group.to_owned() })
            }
        };
        Some(Word { hold_over: over.is_some(), waits_for })
    }

    fn is_for(&self, instance_id: &str) -> bool {
        self.waits_for.as_ref().is_some_and(|waited| waited.instance_id == instance_id)
    }
}

/// What a look means for this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody is away, or everybody who is away waits for this node.
    Go,
    /// The whole cluster, or at least this node's group, is torn down: nobody's absence matters.
    TornDown,
    /// Somebody is away.
    Wait {
        /// Who, for people.
        away: Vec<Away>,
        /// The word to write. A node that goes first says so, and goes as soon as the others have written that they wait for it.
        word: Word,
    },
}

/// A group whose node is away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Away {
    pub(crate) group: String,
    /// Its instance, if it has one, and the state.
    pub(crate) node: Option<(String, LifecycleState)>,
}

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some((instance_id, state)) => write!(f, "{instance_id} in {} is {state}", self.group),
            None => write!(f, "{} has no instance", self.group),
        }
    }
}

/// Judges a look. Without the own group in it nothing is known about a tear-down.
pub fn judge(own: Own<'_>, seen: &Seen) -> Verdict {
    let own_group = seen.groups.iter().find(|group| group.name == own.group);
    if own_group.is_some_and(|group| group.is_being_deleted || group.desired == 0) {
        return Verdict::TornDown;
    }
    let others = seen.groups.iter().filter(|group| group.name != own.group);
    let away: Vec<_> = others.filter(|group| is_away(group)).collect();
    if away.is_empty() {
        return Verdict::Go;
    }
    let is_healthy = own_group.and_then(|group| member(group, own.instance_id)).is_none_or(|member| member.is_healthy);
    let own_rank = (!own.hold_over, is_healthy, own.group);
    let leaving: Vec<_> = away.iter().filter_map(|group| leaving(group, seen)).collect();
    let first =
        leaving.iter().map(|(member, group)| (rank(member, group, seen), member, group)).min_by_key(|(rank, ..)| *rank);
    let shown = away.iter().map(|group| {
        let member = leaving_or_any(group);
        Away {
            group: group.name.clone(),
            node: member.map(|member| (member.instance_id.clone(), member.state.clone())),
        }
    });
    let waits_for = match first {
        // A word for another one would let that one go, too.
        Some((rank, ..)) if own_rank < rank => None,
        None => None,
        Some((_, member, group)) => Some(Waited { instance_id: member.instance_id.clone(), group: group.name.clone() }),
    };
    let waits_for_us =
        |member: &Member| seen.words.get(&member.instance_id).is_some_and(|word| word.is_for(own.instance_id));
    let waited_before = seen.words.get(own.instance_id).is_some_and(|word| word.waits_for.is_some());
    if waits_for.is_none()
        && !waited_before
        && leaving.len() == away.len()
        && leaving.iter().all(|(member, _)| waits_for_us(member))
    {
        return Verdict::Go;
    }
    let word = Word { hold_over: own.hold_over, waits_for };
    Verdict::Wait { away: shown.collect(), word }
}

/// Whether a group's node is missing from the cluster. A group that wants no instance, or is being deleted, has no node.
fn is_away(group: &Group) -> bool {
    let in_standby = |state: &LifecycleState| matches!(state, LifecycleState::OutOfService(state) if state.as_str().contains("Standby"));
    let serves = |member: &Member| member.state == LifecycleState::InService && member.is_healthy;
    // Standby can lower what the group wants.
    group.members.iter().any(|member| in_standby(&member.state))
        || group.desired > 0 && !group.is_being_deleted && !group.members.iter().any(serves)
}

/// A member that may wait in its own gate: on its way out, or held beyond the end of its hold.
fn leaving<'a>(group: &'a Group, seen: &Seen) -> Option<(&'a Member, &'a Group)> {
    let hold_over = |member: &Member| seen.words.get(&member.instance_id).is_some_and(|word| word.hold_over);
    let is_leaving = |member: &&Member| matches!(member.state, LifecycleState::Terminating(_)) || hold_over(member);
    // With a successor that is launching already, the group is waited for, whatever the old instance says.
    let all = || group.members.iter();
    all().all(|member| is_leaving(&member)).then(|| all().find(is_leaving))?.map(|member| (member, group))
}

fn leaving_or_any(group: &Group) -> Option<&Member> {
    let is_leaving = |member: &&Member| matches!(member.state, LifecycleState::Terminating(_));
    group.members.iter().find(is_leaving).or_else(|| group.members.first())
}

fn member<'a>(group: &'a Group, instance_id: &str) -> Option<&'a Member> {
    group.members.iter().find(|member| member.instance_id == instance_id)
}

/// Who goes first sorts first: the end of a hold, an unhealthy node, the earlier group.
fn rank<'a>(member: &Member, group: &'a Group, seen: &Seen) -> (bool, bool, &'a str) {
    let hold_over = seen.words.get(&member.instance_id).is_some_and(|word| word.hold_over);
    (!hold_over, member.is_healthy, group.name.as_str())
}

#[cfg(test)]
mod tests {
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
            let groups =
                groups.map(|(node, seen)| group(&name(node), seen.state(), !seen.sick || seen.went == Went::Back));
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
}
