//! `node-agent roll status`: who rolls, since when, which node, and who has paused it, from the groups' tags alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::{ArgGroup, Args};
use serde_json::json;

use super::flag::{self, DEAD_AFTER};
use super::marks::{AwsTime, FlagMark, LastMark, PausedMark, key, shown};
use super::options;
use crate::aws::fleet::FleetGroup;
use crate::aws::operator::Operator;
use crate::failure::{Code, Failure};
use crate::readable;

/// `node-agent roll status`
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("list").required(true).args(["asg", "cluster"])))]
pub(crate) struct StatusOptions {
    /// The cluster's Auto Scaling groups; may be repeated
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub(crate) asg: Vec<String>,
    /// The cluster's Auto Scaling groups by a tag of theirs
    #[arg(long, value_name = "TAG=VALUE")]
    pub(crate) cluster: Option<String>,
    /// Print a JSON document
    #[arg(long)]
    pub(crate) json: bool,
    /// The region; the environment's or the profile's where absent
    #[arg(long, value_name = "REGION")]
    pub(crate) region: Option<String>,
}

/// Asks AWS, and renders the answer.
pub(crate) async fn status(options: &StatusOptions) -> Result<String, Failure> {
    let cluster = options::groups(&options.asg, options.cluster.as_deref())
        .map_err(|what| Failure::new(Code::RollUsage, what))?;
    let aws = Operator::connect(options.region.as_deref()).await?;
    let groups = aws.autoscaling.fleet(&cluster).await?;
    if groups.is_empty() {
        let remedy = "correct --asg or --cluster, or the region (AWS_REGION, --region)";
        return Err(Failure::new(Code::RollRefused, "there is no such Auto Scaling group").remedy(remedy));
    }
    let now = aws.clock.now();
    Ok(if options.json { as_json(&groups, now) } else { as_text(&groups, now) })
}

/// The marks of one kind, each with its groups.
fn marks(groups: &[FleetGroup], key: &str) -> BTreeMap<String, Vec<String>> {
    let mut marks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for group in groups {
        if let Some(value) = group.tags.get(key) {
            marks.entry(value.clone()).or_default().push(group.name.clone());
        }
    }
    marks
}

fn flags(groups: &[FleetGroup]) -> Vec<FlagMark> {
    let mut newest: BTreeMap<String, FlagMark> = BTreeMap::new();
    for flag in marks(groups, key::FLAG).keys().filter_map(|value| FlagMark::parse(value)) {
        let is_newer = newest.get(&flag.run).is_none_or(|known| known.beat < flag.beat);
        if is_newer {
            newest.insert(flag.run.clone(), flag);
        }
    }
    newest.into_values().collect()
}

fn as_text(groups: &[FleetGroup], now: Option<AwsTime>) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = (|| {
        let flags = flags(groups);
        if flags.is_empty() {
            writeln!(text, "nobody rolls")?;
        }
        for flag in &flags {
            let alive = if flag::is_alive(flag, now) {
                String::new()
            } else {
                format!(
                    " (dead: no sign of life for {} or more, or its process is gone)",
                    humantime::format_duration(DEAD_AFTER)
                )
            };
            writeln!(text, "rolls: {}{alive}", flag::describe(flag))?;
        }
        for (reason, on) in marks(groups, key::PAUSE) {
            writeln!(text, "paused by a person: {reason:?} ({} on {})", key::PAUSE, on.join(", "))?;
        }
        for mark in marks(groups, key::PAUSED).keys().filter_map(|value| PausedMark::parse(value)) {
            writeln!(text, "paused by --{} of run {} at {}: --continue goes on", mark.by, mark.run, shown(mark.at))?;
        }
        for (reason, on) in marks(groups, key::DO_NOT_ROLL) {
            writeln!(text, "left alone: {} ({} {reason:?})", on.join(", "), key::DO_NOT_ROLL)?;
        }
        for group in groups {
            if let Some(last) = LastMark::of(&group.tags) {
                let from = last.from.map(|from| format!("from version {from} ")).unwrap_or_default();
                writeln!(
                    text,
                    "{}: last rolled {from}to version {} at {} by run {}",
                    group.name,
                    last.to,
                    shown(last.at),
                    last.run
                )?;
            }
        }
        Ok::<_, std::fmt::Error>(())
    })();
    readable::text(&text).into_owned()
}

fn as_json(groups: &[FleetGroup], now: Option<AwsTime>) -> String {
    let flags: Vec<_> = flags(groups)
        .iter()
        .map(|flag| {
            json!({
                "run": flag.run, "by": flag.by, "since": shown(flag.since), "beat": shown(flag.beat), "node": flag.node,
                "alive": flag::is_alive(flag, now),
            })
        })
        .collect();
    let groups: Vec<_> = groups
        .iter()
        .map(|group| {
            let last = LastMark::of(&group.tags);
            let last = last.map(|last| {
                json!({ "run": last.run, "victim": last.victim, "from": last.from, "to": last.to, "at": shown(last.at) })
            });
            json!({
                "group": group.name, "pause": group.tags.get(key::PAUSE), "paused": group.tags.get(key::PAUSED),
                "do_not_roll": group.tags.get(key::DO_NOT_ROLL), "last": last,
            })
        })
        .collect();
    format!("{:#}\n", json!({ "schema": 1, "rolls": flags, "groups": groups }))
}
