//! The metrics for `node_exporter`'s textfile collector, in Prometheus' text format.

use std::fmt::{Display, Write as _};
use std::time::SystemTime;

use super::lifecycle::Clock;
use super::model::{Phase, State};
use super::record::{Outcome, StepRecord};
use crate::readable;
use crate::sequence::{Sequence, StepName};

/// The whole file.
pub(super) fn of(state: &State) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, help: &str, samples: Vec<(Vec<(&str, &str)>, f64)>| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP node_agent_{name} {help}\n# TYPE node_agent_{name} gauge");
        for (labels, value) in samples {
            let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", Escaped(value))).collect();
            let braces = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(text, "node_agent_{name}{braces} {value}");
        }
    };
    let (version, node_id) = (env!("CARGO_PKG_VERSION"), state.node.id.as_str());
    let node = vec![("version", version), ("node_id", node_id), ("instance_id", &state.instance_id)];
    metric("info", "The node that the metrics describe.", vec![(node, 1.0)]);
    let flag = |set: bool| f64::from(u8::from(set));
    let states = Phase::ALL.iter().map(|phase| (vec![("state", phase.as_str())], flag(*phase == state.phase)));
    metric("state", "1 for the node's state, 0 for every other.", states.collect());
    metric(
        "state_since_timestamp_seconds",
        "Since when the node has been in its state.",
        vec![(Vec::new(), seconds(&state.since))],
    );
    let until = || state.lifecycle.hold_until(&Clock::now(&state.boot_id));
    let held = Some(until).filter(|_| state.phase == Phase::Held && state.lifecycle.outcome().is_none());
    let held: Vec<_> = held.and_then(|until| until()).map(|until| (Vec::new(), seconds(&until))).into_iter().collect();
    metric("hold_until_timestamp_seconds", "When the hold ends and ABANDON is sent.", held);
    let rebalance = vec![(Vec::new(), flag(state.rebalance_recommended))];
    metric("rebalance_recommended", "1 while EC2 recommends to replace this spot instance.", rebalance);
    let steps = |value: &dyn Fn(&StepRecord) -> f64| {
        let records = [Sequence::Boot, Sequence::Departure].into_iter().flat_map(|sequence| state.records(sequence));
        records.map(|record| (labels(record.step, record.subject.as_deref()), value(record))).collect()
    };
    metric("step_failed", "1 where the step failed.", steps(&|record| flag(record.outcome == Outcome::Failed)));
    let attempts = steps(&|record| f64::from(record.attempts));
    metric("step_attempts", "Rounds in which something was tried or went wrong.", attempts);
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a boot are far below 2^52")]
    metric("step_duration_seconds", "How long the step has taken.", steps(&|record| record.took_ms as f64 / 1e3));
    let warnings = state.warnings.iter().map(|warning| (labels(warning.step, warning.subject.as_deref()), 1.0));
    let mut warnings: Vec<_> = warnings.collect();
    // One sample a name, as the format wants it.
    warnings.sort_by(|a, b| a.0.cmp(&b.0));
    warnings.dedup_by(|a, b| a.0 == b.0);
    metric("warning", "1 for a warning: the node is up, but something needs attention.", warnings);
    text
}

fn labels(step: StepName, volume: Option<&str>) -> Vec<(&'static str, &str)> {
    vec![("step", step.as_str()), ("volume", volume.unwrap_or_default())]
}

fn seconds(time: &str) -> f64 {
    let time = humantime::parse_rfc3339(time).unwrap_or(SystemTime::UNIX_EPOCH);
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A label's value: backslash, quote and newline are escaped.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for char in readable::text(self.0).chars() {
            match char {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                char => f.write_char(char)?,
            }
        }
        Ok(())
    }
}
