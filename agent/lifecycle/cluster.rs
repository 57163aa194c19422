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
mod tests;
