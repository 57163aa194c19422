//! Where the time of each node's replacement went, for the end of a roll.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::follow::{Milestone, Replacement};
use super::marks::AwsTime;
use super::node::Setting;
use super::report::{About, Report};
use crate::log::Level;
use crate::time::rough;

/// The stretches, each with the milestone that ends it.
const STRETCHES: [(&str, Milestone); 7] = [
    ("drain", Milestone::Drained),
    ("EC2's end", Milestone::Ended),
    ("interface free", Milestone::InterfaceFree),
    ("launch", Milestone::Launched),
    ("boot", Milestone::Attaching),
    ("attach", Milestone::Attached),
    ("hooks", Milestone::InService),
];

/// Shows the time line of each node.
pub(super) fn show(report: &mut Report, past: &[Replacement], settings: &BTreeMap<String, Setting>) {
    for replacement in past {
        let stretches: Vec<(&str, Duration)> =
            phases(replacement, None).into_iter().map(|(name, from, to)| (name, seconds(to - from))).collect();
        let total = match (replacement.reached.get(&Milestone::Told), replacement.reached.get(&Milestone::InService)) {
            (Some(told), Some(back)) => seconds(back - told),
            _ => continue,
        };
        let tries = replacement.tries + replacement.failed.values().sum::<usize>();
        let mut parts: Vec<String> = stretches.iter().map(|(name, time)| format!("{name} {}", shown(*time))).collect();
        if tries > 0 {
            parts.push(format!("launches that failed: {tries}"));
        }
        let mut fields: Map<String, Value> = Map::new();
        let seconds_of: Map<String, Value> =
            stretches.iter().map(|(name, time)| ((*name).to_owned(), json!(time.as_secs()))).collect();
        fields.insert("total_seconds".to_owned(), json!(total.as_secs()));
        fields.insert("seconds".to_owned(), Value::Object(seconds_of));
        fields.insert("failed_launches".to_owned(), json!(tries));
        let id = settings.get(&replacement.group).map(|setting| setting.id.as_str());
        let about = About { node: id, group: Some(&replacement.group), instance: None };
        let text = format!("out for {}: {}", shown(total), parts.join(", "));
        report.event_with(Level::Info, "timeline", about, &text, fields);
    }
}

/// The stretches whose two ends were seen, and up to `now` the one that lasts. A milestone that was not seen joins its stretches: the
/// later one begins where the earlier one began.
pub(super) fn phases(replacement: &Replacement, now: Option<AwsTime>) -> Vec<(&'static str, AwsTime, AwsTime)> {
    let mut phases = Vec::new();
    let mut from = replacement.reached.get(&Milestone::Told).copied();
    for (name, to) in STRETCHES {
        let Some(to) = replacement.reached.get(&to).copied() else { continue };
        if let Some(from) = from {
            phases.push((name, from, to));
        }
        // AWS's times are whole seconds, and some come from looks: a later milestone may seem earlier.
        from = Some(from.map_or(to, |from| from.max(to)));
    }
    let last = replacement.reached.keys().next_back();
    let lasting = last.and_then(|last| STRETCHES.iter().find(|(_, to)| to > last));
    if let (Some((name, _)), Some(from), Some(now)) = (lasting, from, now) {
        phases.push((name, from, now.max(from)));
    }
    phases
}

/// AWS tells whole seconds.
pub(super) fn shown(time: Duration) -> String {
    if time < Duration::from_secs(1) { "under 1s".to_owned() } else { rough(time) }
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or_default())
}
