//! What is recorded of a departure.

use serde::{Deserialize, Serialize};

use super::lifecycle::Deadline;
use super::record::StepRecord;
use super::words;

/// The departure of the instance, from the order to go to its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DepartureRecord {
    pub(crate) reason: Reason,
    /// When the agent learned of it, RFC 3339.
    pub(crate) ordered_at: String,
    /// When it ends at the latest, RFC 3339: for people, and for other boots.
    pub(crate) until: String,
    pub(crate) deadline: Deadline,
    /// Its steps, in their order.
    #[serde(default, deserialize_with = "words::known_among")]
    pub(super) steps: Vec<StepRecord>,
    /// The gate is behind this node.
    #[serde(default)]
    pub(crate) passed: bool,
    /// The drain hook has ended: it is not called again, whatever became of it.
    #[serde(default)]
    pub(crate) drained: bool,
    /// CONTINUE was sent; its answer is not known yet.
    #[serde(default)]
    pub(crate) intent: bool,
    /// How the termination hook's action was completed.
    #[serde(default, deserialize_with = "words::known", skip_serializing_if = "Option::is_none")]
    pub(crate) ended: Option<DepartureOutcome>,
}

/// Why the instance is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Its Auto Scaling group terminates it.
    Terminated,
    /// EC2 takes a spot instance back.
    Spot,
    /// Its root volume is replaced: it keeps its volumes.
    RootVolume,
    /// ABANDON was sent for its launch.
    GivenUp,
}

/// How the termination hook's action ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DepartureOutcome {
    /// CONTINUE was accepted, or the instance has moved on.
    Continued,
    /// There was no action to complete.
    NothingToComplete,
    /// CONTINUE was sent, but whether it was accepted is unknown.
    Unconfirmed,
}
