//! The table of nodes on a terminal.

use std::collections::BTreeMap;
use std::time::Duration;

use super::judge::phase;
use super::node::{Condition, Node, Setting};
use crate::host::since_boot;
use crate::log;
use crate::readable;
use crate::time::rough;

/// The table, and since when each node is in its state.
#[derive(Debug, Default)]
pub(crate) struct Table {
    since: BTreeMap<String, (String, Duration)>,
}

impl Table {
    /// Shows the nodes as the last look does; `waits` is what the roll waits for, by group.
    pub(crate) fn show(&mut self, nodes: &[Node], settings: &BTreeMap<String, Setting>, waits: Option<(&str, &str)>) {
        if !log::is_live() {
            return;
        }
        let now = since_boot();
        let mut rows = vec![["node", "group", "instance", "version", "state", "since", "waits for"].map(str::to_owned)];
        for node in nodes {
            let state = state(node);
            let known = self.since.entry(node.group.clone()).or_insert_with(|| (state.clone(), now));
            if known.0 != state {
                *known = (state.clone(), now);
            }
            let since = now.saturating_sub(known.1);
            let waits = waits.filter(|(group, _)| *group == node.group).map(|(_, why)| why.to_owned());
            rows.push([
                node.id.clone(),
                node.group.clone(),
                node.condition.instance().unwrap_or("-").to_owned(),
                version(node, settings.get(&node.group)),
                state,
                if since.is_zero() { "now".to_owned() } else { rough(since) },
                waits.unwrap_or_default(),
            ]);
        }
        log::show_table(aligned(&rows));
    }
}

/// `6 -> 7`, or the target alone where the node runs it.
fn version(node: &Node, setting: Option<&Setting>) -> String {
    use super::target::Outdated;
    let target = setting.map(|setting| setting.target.number.to_string()).unwrap_or_default();
    match &node.outdated {
        None => target,
        Some(Outdated::Version(version)) => format!("{version} -> {target}"),
        Some(Outdated::NoTemplate) => format!("none -> {target}"),
        Some(Outdated::Template(_) | Outdated::Image { .. }) => format!("other -> {target}"),
    }
}

fn state(node: &Node) -> String {
    match &node.condition {
        Condition::Serving(_) => "in service".to_owned(),
        Condition::Unhealthy(_) => "unhealthy".to_owned(),
        Condition::Coming { held: Some(_), .. } => "held".to_owned(),
        Condition::Coming { state, .. } | Condition::Elsewhere { state, .. } => state.to_string(),
        Condition::Missing if node.going.is_empty() => "no instance".to_owned(),
        Condition::Missing => phase(node).rsplit(' ').next().unwrap_or_default().to_owned(),
    }
}

/// Columns as wide as their widest cell; the last one as it is.
fn aligned(rows: &[[String; 7]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 7]| {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = widths.get(column).copied().unwrap_or_default();
            format!("{:width$}", readable::line(cell))
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |id: &str, group: &str| [id, group, "i-0", "6 -> 7", "in service", "5s", ""].map(str::to_owned);
        let lines = aligned(&[row("00", "kafka-node-00"), row("1", "k")]);
        assert_eq!(lines[0], "00  kafka-node-00  i-0  6 -> 7  in service  5s");
        assert_eq!(lines[1], "1   k              i-0  6 -> 7  in service  5s");
    }
}
