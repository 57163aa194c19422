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

/// What a waiting node writes into its status tag: for whom it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub(crate) hold_over: bool,
    pub(crate) instance_id: String,
    pub(crate) group: String,
}

/// How every word begins, so that no other status is taken for one.
const WAITS: &str = "gate: waits for ";
const HOLD_OVER: &str = "gate: the hold is over; waits for ";

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begin = if self.hold_over { HOLD_OVER } else { WAITS };
        write!(f, "{begin}{} in {}", self.instance_id, self.group)
    }
}

impl Word {
    /// Reads a status tag; none if it says something else.
    pub fn parse(text: &str) -> Option<Self> {
        let over = text.strip_prefix(HOLD_OVER);
        let (instance_id, group) = over.or_else(|| text.strip_prefix(WAITS))?.split_once(" in ")?;
        Some(Word { hold_over: over.is_some(), instance_id: instance_id.to_owned(), group: group.to_owned() })
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
        /// The word to write: none where this node goes first as soon as the others have written theirs.
        word: Option<Word>,
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
    let rivals = away.iter().filter_map(|group| rival(group, seen));
    let first = rivals.map(|(member, group)| (rank(member, group, seen), member, group)).min_by_key(|(rank, ..)| *rank);
    let shown = away.iter().map(|group| {
        let member = leaving_or_any(group);
        Away {
            group: group.name.clone(),
            node: member.map(|member| (member.instance_id.clone(), member.state.clone())),
        }
    });
    let word = match first {
        // Whoever goes first writes nothing: a word of its own would let another one go.
        Some((rank, ..)) if own_rank < rank => None,
        None => None,
        Some((_, member, group)) => {
            Some(Word { hold_over: own.hold_over, instance_id: member.instance_id.clone(), group: group.name.clone() })
        }
    };
    let waits_for_us =
        |member: &Member| seen.words.get(&member.instance_id).is_some_and(|word| word.instance_id == own.instance_id);
    let wrote_none = !seen.words.contains_key(own.instance_id);
    if word.is_none()
        && wrote_none
        && leaving.len() == away.len()
        && leaving.iter().all(|(member, _)| waits_for_us(member))
    {
        return Verdict::Go;
    }
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

/// A member that may go before this node: one that leaves, or one that may be held beyond the end of its hold without having said so.
fn rival<'a>(group: &'a Group, seen: &Seen) -> Option<(&'a Member, &'a Group)> {
    let is_held = |member: &&Member| member.state == LifecycleState::PendingWait;
    leaving(group, seen).or_else(|| group.members.iter().find(is_held).map(|member| (member, group)))
}

fn leaving_or_any(group: &Group) -> Option<&Member> {
    let is_leaving = |member: &&Member| matches!(member.state, LifecycleState::Terminating(_));
    group.members.iter().find(is_leaving).or_else(|| group.members.first())
}

fn member<'a>(group: &'a Group, instance_id: &str) -> Option<&'a Member> {
    group.members.iter().find(|member| member.instance_id == instance_id)
}

/// Who goes first sorts first: the end of a hold, an unhealthy node, the earlier group. Whoever waits for its launch hook may be at the
/// end of its hold: it says nothing of it where it goes first.
fn rank<'a>(member: &Member, group: &'a Group, seen: &Seen) -> (bool, bool, &'a str) {
    let hold_over = member.state == LifecycleState::PendingWait
        || seen.words.get(&member.instance_id).is_some_and(|word| word.hold_over);
    (!hold_over, member.is_healthy, group.name.as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
            let word = Word { hold_over: false, instance_id: format!("i-{to}"), group: (*to).to_owned() };
            (format!("i-{from}"), word)
        });
        let seen = Seen { groups: groups.to_vec(), words: words.collect() };
        judge(Own { group: &group, instance_id: &instance_id, hold_over: false }, &seen)
    }

    fn waits(verdict: &Verdict) -> Option<&str> {
        match verdict {
            Verdict::Wait { word, .. } => word.as_ref().map(|word| word.group.as_str()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_word_is_read_back_and_no_other_status_is_taken_for_one() {
        for hold_over in [false, true] {
            let word = Word { hold_over, instance_id: "i-1".to_owned(), group: "kafka node in 00".to_owned() };
            assert_eq!(Word::parse(&word.to_string()), Some(word));
        }
        assert_eq!(Word::parse("configure: configure_cluster_node ended with exit status: 1"), None);
        assert_eq!(Word::parse("gate: waits for i-1"), None);
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
    fn a_held_node_at_the_end_of_its_hold_goes_before_one_that_is_terminated() {
        let both = [group("a", "Terminating:Wait", true), group("b", "Pending:Wait", true)];
        // Whether the hold of b is over, a cannot see; for it a writes its word.
        assert_eq!(waits(&judged("a", &both, &[])), Some("b"));
        assert_eq!(waits(&judged("a", &both, &[("b", "a")])), Some("b"));
        let over = |words: &[(&str, &str)]| {
            let (group, instance_id) = own("b");
            let words = words.iter().map(|(from, to)| {
                let word = Word { hold_over: false, instance_id: format!("i-{to}"), group: (*to).to_owned() };
                (format!("i-{from}"), word)
            });
            let seen = Seen { groups: both.to_vec(), words: words.collect() };
            judge(Own { group: &group, instance_id: &instance_id, hold_over: true }, &seen)
        };
        assert_eq!(waits(&over(&[])), None);
        assert_eq!(over(&[("a", "b")]), Verdict::Go);
    }

    #[test]
    fn a_launching_successor_is_waited_for_whatever_was_written_before() {
        let mut b = group("b", "Terminating:Wait", true);
        let successor = Member { instance_id: "i-b2".to_owned(), state: LifecycleState::Pending, is_healthy: true };
        b.members.push(successor);
        let seen = [group("a", "Terminating:Wait", true), b];
        assert!(matches!(judged("a", &seen, &[("b", "a")]), Verdict::Wait { .. }));
    }

    /// One node of the simulated cluster.
    #[derive(Clone, Debug, Default)]
    struct Node {
        told: bool,
        gone: bool,
        /// How many looks in a row said that it may go.
        looks: u32,
        word: Option<String>,
    }

    proptest! {
        /// Nodes that are told to go at any time look at any time, each at a state that is up to two steps old. At no time are
        /// two of them away, and in the end each has gone.
        #[test]
        fn at_no_time_two_nodes_have_passed(
            count in 2_usize..=3,
            told in proptest::collection::vec(0_usize..40, 3),
            moves in proptest::collection::vec((0_usize..3, 0_usize..=2), 200..400),
        ) {
            let name = |node: usize| ["a", "b", "c"][node].to_owned();
            let mut nodes = vec![Node::default(); count];
            let mut past = vec![nodes.clone()];
            let mut returned = BTreeSet::new();
            for (step, (who, back)) in moves.into_iter().enumerate() {
                let who = who % count;
                for (node, at) in told.iter().take(count).enumerate() {
                    nodes[node].told |= *at == step;
                }
                let view = &past[past.len().saturating_sub(1 + back)];
                let groups: Vec<_> = view.iter().enumerate().map(|(node, seen)| {
                    let state = match (seen.told, returned.contains(&node)) {
                        (true, false) => "Terminating:Wait",
                        _ => "InService",
                    };
                    group(&name(node), state, true)
                }).collect();
                let words = view.iter().enumerate().filter_map(|(node, seen)| {
                    let to = seen.word.clone()?;
                    let word = Word { hold_over: false, instance_id: format!("i-{to}"), group: to };
                    Some((format!("i-{}", name(node)), word))
                });
                let seen = Seen { words: words.collect(), groups };
                if nodes[who].gone {
                    // Its replacement comes into service only some time after it has gone.
                    if nodes[who].looks == 5 {
                        returned.insert(who);
                    }
                    nodes[who].looks += 1;
                } else if nodes[who].told && view[who].told {
                    let (group, instance_id) = own(&name(who));
                    let verdict = judge(Own { group: &group, instance_id: &instance_id, hold_over: false }, &seen);
                    if let Verdict::Wait { word, .. } = verdict {
                        nodes[who].looks = 0;
                        nodes[who].word = word.map(|word| word.group);
                    } else {
                        nodes[who].looks += 1;
                        // Two answers in a row, the second newer than the first: here by more than any look can be old.
                        if nodes[who].looks == 4 {
                            nodes[who] = Node { gone: true, told: true, ..Node::default() };
                        }
                    }
                }
                past.push(nodes.clone());
                let away = (0..count).filter(|node| nodes[*node].gone && !returned.contains(node)).count();
                prop_assert!(away <= 1, "step {step}: {nodes:?}");
            }
        }
    }
}
