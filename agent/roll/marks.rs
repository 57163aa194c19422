//! What a rolling update writes into the tags of Auto Scaling groups. All of it is for other rolls and for people: no tag decides
//! in which state a node is.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::host::identity::Identity;

/// The keys.
pub(crate) mod key {
    /// Who rolls, with a heartbeat: [`super::FlagMark`].
    pub(crate) const FLAG: &str = "node-agent:roll";
    /// What a roll did last to the group: [`super::LastMark`].
    pub(crate) const LAST: &str = "node-agent:roll-last";
    /// A roll has paused by `--canary` or `--max-nodes`: [`super::PausedMark`].
    pub(crate) const PAUSED: &str = "node-agent:roll-paused";
    /// A person pauses whoever rolls; the value is the reason.
    pub(crate) const PAUSE: &str = "node-agent:roll-pause";
    /// A person keeps every roll away from the group; the value is the reason.
    pub(crate) const DO_NOT_ROLL: &str = "node-agent:do-not-roll";
    /// The cluster that a group belongs to.
    pub(crate) const CLUSTER: &str = "stateful-cluster";
}

/// The longest free text in a value, so that the fields behind it fit in.
const TEXT: usize = 40;

/// A time as AWS's clock shows it: seconds since 1970.
pub(crate) type AwsTime = i64;

/// The flag of the roll at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FlagMark {
    /// The roll's own id.
    pub(crate) run: String,
    /// When the roll raised its flag.
    pub(crate) since: AwsTime,
    /// When it last said that it is alive.
    pub(crate) beat: AwsTime,
    /// The node that it works on.
    pub(crate) node: Option<String>,
    /// Who started it: user and machine.
    pub(crate) by: String,
    /// The process that rolls: on its own machine it tells at once whether that still runs.
    pub(crate) process: Identity,
}

/// What a roll did last to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastMark {
    pub(crate) run: String,
    /// The instance that it terminated, or was about to; none where the node was out already.
    pub(crate) victim: Option<String>,
    /// The version that the node ran before.
    pub(crate) from: Option<u64>,
    /// The version that the group was set to.
    pub(crate) to: u64,
    /// When it was written: just before the victim was terminated.
    pub(crate) at: AwsTime,
}

/// A roll that has paused by its own options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PausedMark {
    pub(crate) run: String,
    /// `canary` or `max-nodes`
    pub(crate) by: String,
    pub(crate) at: AwsTime,
}

impl fmt::Display for FlagMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { boot, namespace, pid, started } = &self.process;
        let (since, beat) = (shown(self.since), shown(self.beat));
        let node = self.node.as_deref().map(|node| format!(" node={}", word(node))).unwrap_or_default();
        let (run, by) = (&self.run, word(&self.by));
        write!(f, "run={run} since={since} beat={beat}{node} by={by} boot={boot} pid={namespace}/{pid}/{started}")
    }
}

impl FlagMark {
    /// Reads the tag's value; none if it is not a flag.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let fields = fields(text);
        let mut process = fields.get("pid")?.split('/');
        Some(FlagMark {
            run: fields.get("run")?.to_string(),
            since: time(fields.get("since")?)?,
            beat: time(fields.get("beat")?)?,
            node: fields.get("node").map(ToString::to_string),
            by: fields.get("by")?.to_string(),
            process: Identity {
                boot: fields.get("boot")?.to_string(),
                namespace: process.next()?.parse().ok()?,
                pid: process.next()?.parse().ok()?,
                started: process.next()?.parse().ok()?,
            },
        })
    }
}

impl fmt::Display for LastMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let victim = self.victim.as_deref().map(|victim| format!(" victim={victim}")).unwrap_or_default();
        let from = self.from.map(|from| format!(" from={from}")).unwrap_or_default();
        write!(f, "run={}{victim}{from} to={} at={}", self.run, self.to, shown(self.at))
    }
}

impl LastMark {
    /// The mark among a group's tags.
    pub(crate) fn of(tags: &BTreeMap<String, String>) -> Option<Self> {
        tags.get(key::LAST).and_then(|text| LastMark::parse(text))
    }

    /// Reads the tag's value; none if it is not such a mark.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let fields = fields(text);
        Some(LastMark {
            run: fields.get("run")?.to_string(),
            victim: fields.get("victim").map(ToString::to_string),
            from: fields.get("from").and_then(|from| from.parse().ok()),
            to: fields.get("to")?.parse().ok()?,
            at: time(fields.get("at")?)?,
        })
    }
}

impl fmt::Display for PausedMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run={} by={} at={}", self.run, self.by, shown(self.at))
    }
}

impl PausedMark {
    /// Reads the tag's value; none if it is not such a mark.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let fields = fields(text);
        let field = |name: &str| fields.get(name).map(ToString::to_string);
        Some(PausedMark { run: field("run")?, by: field("by")?, at: time(fields.get("at")?)? })
    }
}

/// `a=b c=d`
fn fields(text: &str) -> BTreeMap<&str, &str> {
    text.split(' ').filter_map(|field| field.split_once('=')).collect()
}

/// A text as one word of a tag's value: a tag takes letters, digits and few other characters.
fn word(text: &str) -> String {
    let fit = |char: char| if char.is_alphanumeric() || "_.:/+-@".contains(char) { char } else { '_' };
    text.chars().map(fit).take(TEXT).collect()
}

/// `2026-11-26T20:00:00Z`
pub(crate) fn shown(time: AwsTime) -> String {
    let since = Duration::from_secs(u64::try_from(time).unwrap_or_default());
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string()
}

fn time(text: &str) -> Option<AwsTime> {
    let since = humantime::parse_rfc3339(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest value that a tag can have (Auto Scaling API reference, `Tag`).
    const VALUE: usize = 256;

    fn flag() -> FlagMark {
        let boot = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6".to_owned();
        FlagMark {
            run: "0123abcd".to_owned(),
            since: 1_795_000_000,
            beat: 1_795_000_030,
            node: Some("00".to_owned()),
            by: "ann@bastion".to_owned(),
            process: Identity { boot, namespace: 4_026_531_836, pid: 4_194_303, started: 18_446_744_073 },
        }
    }

    #[test]
    fn marks_are_read_as_they_were_written() {
        for node in [None, Some("00".to_owned())] {
            let flag = FlagMark { node, ..flag() };
            assert_eq!(FlagMark::parse(&flag.to_string()), Some(flag));
        }
        for (victim, from) in [(None, None), (Some("i-0abc".to_owned()), Some(6))] {
            let last = LastMark { run: "r".to_owned(), victim, from, to: 7, at: 1_795_000_000 };
            assert_eq!(LastMark::parse(&last.to_string()), Some(last));
        }
        let paused = PausedMark { run: "r".to_owned(), by: "canary".to_owned(), at: 1_795_000_000 };
        assert_eq!(PausedMark::parse(&paused.to_string()), Some(paused));
    }

    #[test]
    fn a_value_fits_into_a_tag_whatever_the_names() {
        let long = "name with blanks and ÄÖÜ=".repeat(20);
        let flag = FlagMark { node: Some(long.clone()), by: long, ..flag() };
        let text = flag.to_string();
        assert!(text.chars().count() <= VALUE, "{text}");
        assert_eq!(FlagMark::parse(&text).map(|read| read.run), Some(flag.run));
    }

    #[test]
    fn what_is_no_mark_is_not_read_as_one() {
        for text in ["", "rolled by hand", "run=1", "run=1 since=yesterday beat=now by=me boot=x pid=1/2/3"] {
            assert_eq!(FlagMark::parse(text), None, "{text:?}");
            assert_eq!(LastMark::parse(text), None, "{text:?}");
            assert_eq!(PausedMark::parse(text), None, "{text:?}");
        }
    }
}
