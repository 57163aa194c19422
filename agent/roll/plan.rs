//! What a roll would do: which nodes, in which order, why, and what would change on each.

use std::collections::BTreeMap;

use serde_json::{Map, json};

use super::decision::{End, Memory, Wish};
use super::finding::Inspected;
use super::judge::{phase, rank};
use super::node::{Node, Setting};
use super::report::{About, Report};
use super::rules::Broken;
use super::target::Staged;
use crate::config::Change;
use crate::log::Level;

/// Whether the roll has anything to do with this node.
pub(super) fn is_behind(node: &Node) -> bool {
    node.outdated.is_some() || node.is_out()
}

/// A group whose version moves by itself and is not the target: its node would come back with something else.
pub(super) fn astray(node: &Node) -> Option<Broken> {
    let Staged::Astray(word, resolves_to) = node.staged else { return None };
    Some(Broken {
        rule: None,
        group: node.group.clone(),
        what: format!(
            "its launch template's version is {word}, which is {resolves_to} now and not the target, and cannot be staged"
        ),
        remedy: format!(
            "set a number in place of {word} (aws autoscaling update-auto-scaling-group), or make {word} the target"
        ),
    })
}

/// Shows the plan.
pub(super) fn show(
    report: &mut Report,
    nodes: &[Node],
    inspected: &BTreeMap<String, Inspected>,
    memory: &Memory,
    wish: &Wish,
    settings: &BTreeMap<String, Setting>,
) {
    let mut place = 0;
    for node in in_order(nodes, memory, wish) {
        let Some(setting) = settings.get(&node.group) else { continue };
        let is_leader = memory.leader.is(&node.group);
        let will = will(node, setting, is_leader, &mut place);
        let changes = inspected.get(&node.group).map(|inspected| inspected.changes.as_slice()).unwrap_or_default();
        let changes = if is_behind(node) { changes } else { &[] };
        show_node(report, node, setting, &will, changes);
    }
}

/// In the order in which the nodes would go.
fn in_order<'a>(nodes: &'a [Node], memory: &Memory, wish: &Wish) -> Vec<&'a Node> {
    let mut order: Vec<&Node> = nodes.iter().collect();
    order.sort_by_key(|node| {
        (node.hands_off.is_some(), !is_behind(node), !node.is_out(), rank(node, memory, wish.canary()))
    });
    order
}

/// What would become of a node.
fn will(node: &Node, setting: &Setting, is_leader: bool, place: &mut usize) -> String {
    let runs = node.outdated.as_ref().map(ToString::to_string);
    let to = setting.target.number;
    match (&node.hands_off, &runs) {
        (Some(why), Some(runs)) => format!("is left alone although it {runs}: {why}"),
        (Some(why), None) => format!("is left alone: {why}"),
        (None, None) if node.is_serving() => format!("runs version {to}, stays"),
        (None, None) if !node.is_out() => "is unhealthy, and runs the target: nothing can be rolled".to_owned(),
        (None, _) => {
            *place += 1;
            let runs = runs.map_or_else(
                || phase(node),
                |runs| if node.is_out() { format!("{runs}, and is out of service") } else { runs },
            );
            let last = if is_leader { ", the leader, goes last" } else { "" };
            format!("{place}. to version {to}: {runs}{last}")
        }
    }
}

fn show_node(report: &mut Report, node: &Node, setting: &Setting, will: &str, changes: &[Change]) {
    let about = About { node: Some(&setting.id), group: Some(&node.group), instance: node.condition.instance() };
    let mut fields = Map::new();
    let listed = changes.iter().map(|change| json!({ "key": change.key, "old": change.old, "new": change.new }));
    fields.insert("changes".to_owned(), listed.collect());
    fields.insert("target".to_owned(), json!(setting.target.number));
    report.event_with(Level::Info, "plan", about, will, fields);
    if report.is_json() {
        return;
    }
    for Change { key, old, new } in changes {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
        let text = format!("   {key}: {} -> {}", shown(old), shown(new));
        report.event(Level::Info, "change", about, &text);
    }
}

/// The end of a roll, for people.
pub(crate) fn ending(end: &End) -> String {
    match end {
        End::Planned => "nothing was done: to do it, add --yes".to_owned(),
        End::Done => "every node that may be touched runs the target".to_owned(),
        End::PausedByTag(reason) => format!("paused: {reason}; to go on, take the tag away and roll again"),
        End::PausedBefore(by) => format!("paused: {by}; to go on, roll again with --continue"),
        End::PausedNow(by) => format!("paused by --{by}; to go on, roll again with --continue"),
    }
}
