//! The record of the launch lifecycle action, and of the hold in which it waits.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::words::Word;
use crate::config::{self, Cluster, Groups, OnFailure};
use crate::host;
use crate::time::millis;

/// The launch lifecycle action.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LifecycleRecord {
    /// The result to be sent, journaled before the first call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<String>,
    /// How the launch ended. Once this is set, nothing more is sent.
    #[serde(default, rename = "outcome", skip_serializing_if = "Option::is_none")]
    pub ended: Option<Word<LaunchOutcome>>,
    /// When a failed node is given up, RFC 3339. Set at the first failure; neither a retry nor a restart of the service
    /// postpones it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_until: Option<String>,
    /// The boot in which the outcome was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_in: Option<String>,
    /// Whether the instance has been in a warm pool since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pooled_since: bool,
    /// The action as the configuration last named it, for a hold whose configuration is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// The end of the hold by the boot's own clock. `hold_until` is the same time for people and for other boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_deadline: Option<Deadline>,
    /// When ABANDON is sent at the latest, although another node of the cluster is away: RFC 3339, and by the boot's own clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abandon_by: Option<(String, Deadline)>,
    /// The journal was lost on a node in service: its steps count as done without a record.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub presumed: bool,
    /// Fields of a newer version, kept as they are.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// `[lifecycle]` as it was read, so that a hold ends as promised without the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    pub(crate) asg_name: String,
    pub(crate) hook_name: String,
    /// Whether `on_failure` is `abandon`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) abandons: bool,
    /// `hold_for`, in milliseconds.
    pub(crate) hold_for_ms: u64,
    /// `heartbeat_timeout`, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) heartbeat_timeout_ms: Option<u64>,
    /// `terminate_hook_name`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) terminate_hook_name: Option<String>,
    /// `[cluster]`, for the gate before ABANDON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<ClusterRecord>,
}

/// `[cluster]` as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// `tag`, as key and value; without it the groups' names count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tag: Option<(String, String)>,
    /// `asg_names`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    asg_names: Vec<String>,
    /// `gate`, in milliseconds.
    gate_ms: u64,
}

impl From<&Cluster> for ClusterRecord {
    fn from(cluster: &Cluster) -> Self {
        let (tag, asg_names) = match &cluster.groups {
            Groups::Tagged { key, value } => (Some((key.clone(), value.clone())), Vec::new()),
            Groups::Named(names) => (None, names.clone()),
        };
        ClusterRecord { tag, asg_names, gate_ms: millis(cluster.gate) }
    }
}

impl From<&ClusterRecord> for Cluster {
    fn from(record: &ClusterRecord) -> Self {
        let groups = match &record.tag {
            Some((key, value)) => Groups::Tagged { key: key.clone(), value: value.clone() },
            None => Groups::Named(record.asg_names.clone()),
        };
        Cluster { groups, gate: Duration::from_millis(record.gate_ms) }
    }
}

impl Action {
    /// The action as it is configured, and the cluster whose nodes it concerns.
    pub fn new(lifecycle: &config::Lifecycle, cluster: Option<&Cluster>) -> Self {
        Action {
            asg_name: lifecycle.asg_name.clone(),
            hook_name: lifecycle.hook_name.clone(),
            abandons: lifecycle.on_failure == OnFailure::Abandon,
            hold_for_ms: millis(lifecycle.hold_for),
            heartbeat_timeout_ms: lifecycle.heartbeat_timeout.map(millis),
            terminate_hook_name: lifecycle.terminate_hook_name.clone(),
            cluster: cluster.map(ClusterRecord::from),
        }
    }
}

impl Action {
    /// How long the end of the hold may wait for other nodes of the cluster.
    pub(super) fn gate(&self) -> Option<Duration> {
        self.cluster.as_ref().map(|cluster| Duration::from_millis(cluster.gate_ms))
    }
}

impl From<&Action> for config::Lifecycle {
    fn from(action: &Action) -> Self {
        config::Lifecycle {
            asg_name: action.asg_name.clone(),
            hook_name: action.hook_name.clone(),
            on_failure: if action.abandons { OnFailure::Abandon } else { OnFailure::Hold },
            hold_for: Duration::from_millis(action.hold_for_ms),
            heartbeat_timeout: action.heartbeat_timeout_ms.map(Duration::from_millis),
            terminate_hook_name: action.terminate_hook_name.clone(),
        }
    }
}

/// The end of a hold or a departure by the boot's own clock. The wall clock can be stepped at any time, and is often wrong early in a boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    pub(crate) boot_id: String,
    /// The end, in milliseconds since that boot (`CLOCK_BOOTTIME`).
    pub(crate) since_boot_ms: u64,
    /// The whole time in milliseconds: in another boot at most this much is left.
    #[serde(rename = "hold_for_ms")]
    pub(crate) whole_ms: u64,
}

impl Deadline {
    /// The end after `whole`, of which `left` is left now.
    pub fn new(clock: &Clock, left: Duration, whole: Duration) -> Self {
        let since_boot_ms = millis(clock.since_boot + left);
        Deadline { boot_id: clock.boot_id.clone(), since_boot_ms, whole_ms: millis(whole) }
    }

    /// The time that is left until this end, which is `until` (RFC 3339) by the wall clock.
    pub fn left(&self, until: &str, clock: &Clock) -> Duration {
        if self.boot_id == clock.boot_id {
            return Duration::from_millis(self.since_boot_ms).saturating_sub(clock.since_boot);
        }
        let most = Duration::from_millis(self.whole_ms);
        clock.until(until).unwrap_or(most).min(most)
    }
}

/// The present time, by both clocks.
#[derive(Clone, Debug)]
pub struct Clock {
    pub(crate) boot_id: String,
    /// Since that boot.
    pub(crate) since_boot: Duration,
    /// The wall clock.
    pub(crate) now: SystemTime,
}

impl Clock {
    /// The time now, in this boot.
    pub fn now(boot_id: &str) -> Self {
        Clock { boot_id: boot_id.to_owned(), since_boot: host::since_boot(), now: SystemTime::now() }
    }

    /// The time until this one (RFC 3339) by the wall clock; zero if it is over, none if it cannot be read.
    fn until(&self, time: &str) -> Option<Duration> {
        let time = humantime::parse_rfc3339(time).ok()?;
        Some(time.duration_since(self.now).unwrap_or_default())
    }

    /// The time after `left`, RFC 3339.
    pub fn after(&self, left: Duration) -> String {
        humantime::format_rfc3339_millis(self.now + left).to_string()
    }
}

impl LifecycleRecord {
    /// How the launch ended, if it has.
    pub fn outcome(&self) -> Option<LaunchOutcome> {
        self.ended.as_ref().map(|ended| ended.known().unwrap_or(LaunchOutcome::Unknown))
    }

    /// Forgets the promised end of a hold.
    pub(super) fn take_back_hold(&mut self) {
        (self.hold_until, self.hold_deadline, self.abandon_by) = (None, None, None);
    }

    /// How long the end of the hold may still wait for other nodes of the cluster, by the promise that was made for it.
    pub fn abandon_left(&self, clock: &Clock) -> Option<Duration> {
        self.abandon_by.as_ref().map(|(until, deadline)| deadline.left(until, clock))
    }

    /// The time that is left of the promised hold at this moment of this boot, if one was promised.
    pub fn hold_left(&self, clock: &Clock) -> Option<Duration> {
        let until = self.hold_until.as_ref()?;
        if let Some(end) = &self.hold_deadline {
            return Some(end.left(until, clock));
        }
        // Earlier versions recorded the wall clock's end alone.
        let most = self.action.as_ref().map_or(Duration::MAX, |action| Duration::from_millis(action.hold_for_ms));
        Some(clock.until(until).unwrap_or(most).min(most))
    }

    /// The end of the hold for people, RFC 3339: as promised, corrected where the wall clock was stepped since.
    pub fn hold_until(&self, clock: &Clock) -> Option<String> {
        let promised = self.hold_until.clone()?;
        let now = clock.now;
        let end = now + self.hold_left(clock)?;
        let promised_end = humantime::parse_rfc3339(&promised).ok();
        let keeps = promised_end.is_some_and(|promised| {
            let apart = promised.duration_since(end).or_else(|_| end.duration_since(promised)).unwrap_or_default();
            // An end in the past stays where it was.
            apart < CLOCK_DRIFT || promised <= now && end == now
        });
        Some(if keeps { promised } else { humantime::format_rfc3339_seconds(end).to_string() })
    }
}

/// Over a hold, two clocks that were never stepped differ by less than this.
const CLOCK_DRIFT: Duration = Duration::from_secs(5);

/// How this instance's launch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaunchOutcome {
    /// CONTINUE was sent.
    Continued,
    /// ABANDON was sent.
    Abandoned,
    /// The instance is in no Auto Scaling group.
    NoGroup,
    /// No lifecycle hook is configured.
    NoHook,
    /// CONTINUE was sent, but cannot be confirmed: IAM does not allow the instance's state to be read.
    Unconfirmed,
    /// An outcome that only a newer version knows.
    #[serde(skip_deserializing)]
    Unknown,
}

impl fmt::Display for LaunchOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LaunchOutcome::Continued => "CONTINUE was sent",
            LaunchOutcome::Abandoned => "ABANDON was sent",
            LaunchOutcome::NoGroup => "the instance is in no group",
            LaunchOutcome::NoHook => "no lifecycle hook is configured",
            LaunchOutcome::Unconfirmed => "CONTINUE was sent, unconfirmed",
            LaunchOutcome::Unknown => "as a newer version of the agent has recorded",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_hold_follows_the_boots_clock_and_never_exceeds_the_promise() {
        let seconds = Duration::from_secs;
        let now = humantime::parse_rfc3339("2026-01-01T00:00:00Z").unwrap();
        let record = |until: &str, boot: Option<&str>| LifecycleRecord {
            hold_until: Some(until.to_owned()),
            hold_deadline: boot.map(|boot_id| Deadline {
                boot_id: boot_id.to_owned(),
                since_boot_ms: 5_000_000,
                whole_ms: 3_600_000,
            }),
            ..LifecycleRecord::default()
        };
        // The recorded end, the boot it was recorded in, and what is left 4,400 s into boot b.
        let cases = [
            ("2026-01-01T00:10:00Z", Some("b"), seconds(600)),
            ("2046-01-01T00:00:00Z", Some("b"), seconds(600)),
            ("2006-01-01T00:00:00Z", Some("b"), seconds(600)),
            ("2026-01-01T00:20:00Z", Some("a"), seconds(1200)),
            ("2046-01-01T00:00:00Z", Some("a"), seconds(3600)),
            ("2006-01-01T00:00:00Z", Some("a"), seconds(0)),
            ("never", Some("a"), seconds(3600)),
            ("2026-01-01T00:20:00Z", None, seconds(1200)),
        ];
        let clock = Clock { boot_id: "b".to_owned(), since_boot: seconds(4_400), now };
        for (until, boot, left) in cases {
            let record = record(until, boot);
            assert_eq!(record.hold_left(&clock), Some(left), "{until} {boot:?}");
            // What people are told is the same.
            let told = record.hold_until(&clock).unwrap();
            let end = humantime::parse_rfc3339(&told).unwrap_or_else(|error| panic!("{told}: {error}"));
            assert_eq!(end.duration_since(now).unwrap_or_default(), left, "{until} {boot:?}: {told}");
        }
        assert_eq!(LifecycleRecord::default().hold_left(&clock), None);
    }
}
