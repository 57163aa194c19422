//! Who goes next, or why nobody does: a pure function of what was seen. Nothing here asks, waits or acts.

use super::decision::{Decision, End, Leader, Memory, Wait, Wish, Work};
use super::marks::AwsTime;
use super::node::{Condition, Node};
use super::target::{Outdated, Staged};

/// How long a terminate whose answer was lost may still take effect, in seconds: until then nobody sends another one.
pub(crate) const UNCERTAIN: AwsTime = 60;
/// How often a roll takes the same group's node.
const MOST_TAKEN: u8 = 3;
/// How often the check has to pass in a row.
pub(crate) const PASSES: u8 = 2;
/// Why the next node does not go yet after the last one.
pub(crate) const BAKES: &str = "--bake is not over yet";

/// Decides.
pub(crate) fn judge(nodes: &[Node], memory: &Memory, wish: &Wish) -> Decision {
    if let Some(node) = nodes.iter().find(|node| node.doubt.is_some()) {
        let why = format!("not proven yet: {}", node.doubt.unwrap_or_default());
        return wait(node, why);
    }
    if let Some(decision) = memory.work.as_ref().and_then(|work| go_on(nodes, memory, wish, work)) {
        return decision;
    }
    let out: Vec<&Node> = nodes.iter().filter(|node| node.is_out()).collect();
    if !out.is_empty() {
        return take_up(nodes, &out, memory, wish);
    }
    if let Some(node) = nodes.iter().find(|node| !node.is_serving() && node.outdated.is_none()) {
        return stop(
            node,
            format!("{} is in service and unhealthy, and runs the target already", named(node)),
            "see what its group's health check finds (aws autoscaling describe-scaling-activities), repair the node or wait until its group has \
             replaced it; then roll again",
        );
    }
    if let Some(node) = nodes.iter().find(|node| !node.going.is_empty()) {
        return wait(node, going(node));
    }
    next(nodes, memory, wish)
}

/// The node that is out because of this roll: none where nothing of it is left to do or to wait for.
fn go_on(nodes: &[Node], memory: &Memory, wish: &Wish, work: &Work) -> Option<Decision> {
    let node = nodes.iter().find(|node| node.group == work.group)?;
    let is_victim = work.victim.is_some() && node.condition.instance() == work.victim.as_deref();
    match &node.condition {
        Condition::Serving(instance) if !is_victim && node.outdated.is_none() && node.going.is_empty() => {
            Some(if !work.arrived {
                Decision::Arrived { group: work.group.clone(), instance: instance.clone() }
            } else if wish.has_check && work.passes < PASSES && !nodes.iter().any(needs_taking_up) {
                // While another node is out that needs the roll, the check would fail because of that node.
                Decision::Check { group: work.group.clone(), after: true }
            } else {
                Decision::Finished { group: work.group.clone() }
            })
        }
        // It was on its way back with its old version when it was taken up, or its group had replaced the victim by itself just before
        // it was staged: now its turn comes as any other's.
        Condition::Serving(_) if node.outdated.is_some() && (work.victim.is_none() || was_too_late(node, memory)) => {
            None
        }
        Condition::Serving(instance) if !is_victim => Some(match &node.outdated {
            None => wait(node, going(node)),
            Some(outdated) => stop(
                node,
                format!(
                    "{} has come back as {instance}, which {outdated}: somebody has changed the group {} meanwhile",
                    node.id, node.group
                ),
                "see who changed the group's launch template (CloudTrail: UpdateAutoScalingGroup); then roll again",
            ),
        }),
        Condition::Unhealthy(instance) if !is_victim => Some(stop(
            node,
            format!(
                "{} has come into service as {instance} and is unhealthy: its group is about to terminate it",
                node.id
            ),
            "see what the group's health check finds (aws autoscaling describe-scaling-activities), and repair that; then roll again",
        )),
        // The victim is still there.
        Condition::Serving(_) | Condition::Unhealthy(_) => is_under_way(node, memory).then(|| {
            wait(
                node,
                format!("Auto Scaling has not begun to terminate {}", work.victim.as_deref().unwrap_or_default()),
            )
        }),
        _ => Some(wait_for(node, nodes, memory, wish)),
    }
}

/// Whether an instance of another version is there although its group is set to the target: the group had launched it before. That
/// happens once or twice, and not for ever.
fn was_too_late(node: &Node, memory: &Memory) -> bool {
    let is_by_version = matches!(node.outdated, Some(Outdated::Version(_) | Outdated::Template(_)));
    is_by_version
        && node.staged == Staged::Target
        && memory.taken.get(&node.group).is_none_or(|times| *times < MOST_TAKEN)
}

/// Whether a terminate of the node's instance may still take effect: this roll's or another's, of which the tag tells.
fn is_under_way(node: &Node, memory: &Memory) -> bool {
    let Some(last) = node.last.as_ref().filter(|last| last.victim.as_deref() == node.condition.instance()) else {
        return false;
    };
    let is_refused = memory.refused.is_some() && memory.refused == last.victim;
    !is_refused && memory.now.is_none_or(|now| now - last.at < UNCERTAIN)
}

/// Some nodes are out, and none because of this roll: one of them is taken up.
fn take_up(nodes: &[Node], out: &[&Node], memory: &Memory, wish: &Wish) -> Decision {
    // A replacement that was begun is finished first, then one that is outdated, then by name.
    let rank = |node: &&&Node| (!needs_taking_up(node), node.staged != Staged::Target, node.group.clone());
    let Some(node) = out.iter().min_by_key(rank) else { return Decision::End(End::Done) };
    if !needs_taking_up(node) {
        return wait_for(node, nodes, memory, wish);
    }
    match pause(memory, wish) {
        Some(end) => Decision::End(end),
        None => Decision::TakeUp { group: node.group.clone() },
    }
}

/// Whether a node is out, and its replacement is the roll's affair: it comes back outdated by itself, or a roll has begun it.
fn needs_taking_up(node: &Node) -> bool {
    let is_begun = node.staged == Staged::Target && node.last.is_some();
    let comes_back = matches!(node.condition, Condition::Coming { .. } | Condition::Missing);
    comes_back && node.hands_off.is_none() && (node.outdated.is_some() || node.needs_staging() || is_begun)
}

/// The node is out. It is set to the target, given up where it is held and that is wanted, or waited for.
fn wait_for(node: &Node, nodes: &[Node], memory: &Memory, wish: &Wish) -> Decision {
    // An instance in standby comes back by itself, and as it is.
    if node.needs_staging() && !matches!(node.condition, Condition::Elsewhere { .. }) {
        return Decision::Stage { group: node.group.clone() };
    }
    let Condition::Coming { instance, held: Some(why), .. } = &node.condition else {
        return Decision::Wait(Wait { group: node.group.clone(), why: phase(node), counts: counts(node) });
    };
    // One that this roll has launched, and that has failed on the target, would only fail again.
    let may_go = node.outdated.is_some() || memory.held_at_first.contains(instance);
    let gives_up = wish.replace_held && node.hands_off.is_none() && may_go;
    let others: Vec<&Node> = nodes.iter().filter(|other| other.group != node.group && !other.is_serving()).collect();
    match others.first() {
        None if gives_up => Decision::Abandon { group: node.group.clone(), instance: instance.clone() },
        Some(other) if gives_up => wait(
            node,
            format!(
                "{instance} is held ({why}), but {} is not in service either: only one of them may be given up, by hand: node-agent complete \
                 abandon on it",
                named(other)
            ),
        ),
        _ => wait(
            node,
            format!(
                "{instance} is held ({why}); repair it with node-agent retry there, or give it up with --replace-held"
            ),
        ),
    }
}

/// All nodes are in service: who goes next.
fn next(nodes: &[Node], memory: &Memory, wish: &Wish) -> Decision {
    let open = |node: &&Node| node.outdated.is_some() && node.hands_off.is_none();
    let candidates: Vec<&Node> = nodes.iter().filter(open).collect();
    if let Some(node) = nodes.iter().find(|node| !node.is_serving() && node.hands_off.is_some()) {
        return wait(
            node,
            format!(
                "{} is unhealthy, and not to be touched: {}",
                named(node),
                node.hands_off.as_deref().unwrap_or_default()
            ),
        );
    }
    if memory.bakes {
        let node = memory.done.iter().next_back().cloned().unwrap_or_default();
        return Decision::Wait(Wait { group: node, why: BAKES.to_owned(), counts: false });
    }
    if candidates.is_empty() {
        return Decision::End(End::Done);
    }
    if let Some(node) = candidates.iter().find(|node| is_under_way(node, memory)) {
        return wait(node, "a terminate that was sent before may still take effect".to_owned());
    }
    if let Some(end) = pause(memory, wish) {
        return Decision::End(end);
    }
    if wish.has_leader && memory.leader == Leader::NotAsked && candidates.len() > 1 {
        return Decision::AskLeader;
    }
    let canary = wish.canary();
    match candidates.iter().min_by_key(|node| rank(node, memory, canary)) {
        Some(node) if canary.is_some_and(|canary| canary != node.group) => Decision::End(End::PausedNow("canary")),
        Some(node) => turn(node, nodes, memory, wish),
        None => Decision::End(End::Done),
    }
}

/// The order in which nodes in service go: the canary, what is unhealthy, and the leader last. A group that was staged, but whose node
/// was not taken, counts as begun.
pub(crate) fn rank(node: &Node, memory: &Memory, canary: Option<&str>) -> (bool, bool, bool, bool, String) {
    let is_begun = node.staged == Staged::Target;
    let is_leader = memory.leader.is(&node.group);
    (canary.is_some_and(|canary| canary != node.group), node.is_serving(), is_leader, !is_begun, node.group.clone())
}

/// What keeps the next node from being taken although it could go.
fn pause(memory: &Memory, wish: &Wish) -> Option<End> {
    if let Some(reason) = &memory.pause {
        return Some(End::PausedByTag(reason.clone()));
    }
    if wish.canary().is_some() && !memory.done.is_empty() {
        return Some(End::PausedNow("canary"));
    }
    if wish.max_nodes.is_some_and(|most| memory.done.len() >= most) {
        return Some(End::PausedNow("max-nodes"));
    }
    let paused = memory.paused.as_ref().filter(|_| !wish.resume && memory.done.is_empty());
    paused.map(|paused| End::PausedBefore(paused.clone()))
}

/// It is this node's turn.
fn turn(node: &Node, nodes: &[Node], memory: &Memory, wish: &Wish) -> Decision {
    let group = node.group.clone();
    let astray = |other: &&Node| {
        other.group != group && other.outdated.is_some() && other.hands_off.is_none() && other.staged == Staged::Target
    };
    if let Some(other) = nodes.iter().filter(astray).find(|other| other.set_back_to().is_some()) {
        return Decision::SetBack { group: other.group.clone() };
    }
    let turn = memory.turn.as_ref().filter(|turn| turn.group == group);
    let passes = turn.map_or(0, |turn| turn.passes);
    let (Condition::Serving(victim) | Condition::Unhealthy(victim)) = &node.condition else {
        return wait(node, phase(node));
    };
    match turn {
        _ if wish.has_check && passes < PASSES => Decision::Check { group, after: false },
        Some(turn) if turn.looked => match nodes.iter().find(|other| other.group != group && !other.is_serving()) {
            Some(other) => wait(other, phase(other)),
            None => Decision::Take { group, victim: victim.clone() },
        },
        Some(turn) if turn.inspected_at.is_some() => wait(node, "the last look before it goes".to_owned()),
        _ => Decision::Inspect { group },
    }
}

/// What a node that is out waits for.
pub(crate) fn phase(node: &Node) -> String {
    match &node.condition {
        Condition::Coming { instance, held: Some(why), .. } => format!("{instance} is held: {why}"),
        Condition::Coming { instance, state, .. } | Condition::Elsewhere { instance, state } => {
            format!("{instance} is {state}")
        }
        Condition::Unhealthy(instance) => format!("{instance} is unhealthy"),
        Condition::Serving(_) if node.going.is_empty() => "in service".to_owned(),
        Condition::Missing if node.going.is_empty() => "its group has no instance".to_owned(),
        Condition::Serving(_) | Condition::Missing => going(node),
    }
}

fn going(node: &Node) -> String {
    let going = node.going.iter().map(|member| format!("{} is {}", member.instance_id, member.state));
    going.collect::<Vec<_>>().join(", ")
}

/// The time of an instance that waits for its termination hook is the node's own, whatever it does there.
fn counts(node: &Node) -> bool {
    let waits = |state: &crate::aws::autoscaling::LifecycleState| state.to_string() == "Terminating:Wait";
    node.condition != Condition::Missing || !node.going.iter().any(|member| waits(&member.state))
}

/// The node and its instance.
fn named(node: &Node) -> String {
    match node.condition.instance() {
        Some(instance) => format!("{} ({instance})", node.id),
        None => node.name(),
    }
}

fn wait(node: &Node, why: String) -> Decision {
    Decision::Wait(Wait { group: node.group.clone(), why, counts: true })
}

fn stop(node: &Node, reason: String, remedy: &str) -> Decision {
    Decision::Stop { group: Some(node.group.clone()), reason, remedy: remedy.to_owned() }
}

#[cfg(test)]
mod tests;
