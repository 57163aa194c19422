//! The record of a step, and of a failure.

use serde::{Deserialize, Serialize};

use super::words;
use crate::failure::{FailedStep, Failure};
use crate::sequence::StepName;

/// How a step ended, or that it is still running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Running, or interrupted by the agent's end.
    Running,
    /// The effect held before.
    AlreadySo,
    /// The step brought the effect about.
    Changed,
    /// The step ended with the record's error.
    Failed,
}

/// The record of one step, and of one volume if the step is about volumes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepRecord {
    pub(crate) step: StepName,
    /// The volume's id, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    pub(crate) outcome: Outcome,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) waiting: Option<String>,
    /// How long it may take, in milliseconds.
    #[serde(default)]
    pub(crate) allowed_ms: u64,
    /// Rounds in which the step acted or an attempt failed.
    pub(crate) attempts: u32,
    /// When it began, RFC 3339.
    pub(crate) started_at: String,
    /// How long it took so far, in milliseconds.
    pub(crate) took_ms: u64,
    /// When it began, in milliseconds since the machine's start: the wall clock may be set meanwhile. Version 0.1.0 does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) began_ms: Option<u64>,
    /// Its parts, where other steps lay between them; none if it was done in one.
    #[serde(default, deserialize_with = "words::known_among", skip_serializing_if = "Vec::is_empty")]
    pub(crate) parts: Vec<PartRecord>,
    /// When and why it waited.
    #[serde(default, deserialize_with = "words::known_among", skip_serializing_if = "Vec::is_empty")]
    pub(crate) waits: Vec<WaitRecord>,
    /// The result of the step's first part while its last part is to come, in a word: `fetched`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prepared: Option<String>,
    /// What went wrong and what to do, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<FailureRecord>,
}

/// A time in which a step waited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitRecord {
    /// What it waited for.
    pub(crate) why: String,
    /// From the beginning of the step to the beginning of the wait, in milliseconds.
    pub(crate) after_ms: u64,
    /// How long it lasted; none while it lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) took_ms: Option<u64>,
}

/// A part of a step that was done in several parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// From the beginning of the step to the beginning of the part, in milliseconds.
    pub(crate) after_ms: u64,
    /// How long it lasted so far.
    pub(crate) took_ms: u64,
}

/// A [`Failure`] as the state file has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FailureRecord {
    /// The code's name in the table of failures.
    pub(crate) code: String,
    /// What happened and what was seen.
    pub(crate) message: String,
    pub(crate) remedy: String,
    /// The message without a hook's output, for places that users other than root can read.
    pub(crate) public: String,
}

impl From<&Failure> for FailureRecord {
    fn from(failure: &Failure) -> Self {
        FailureRecord {
            code: failure.code.name().to_owned(),
            message: failure.to_string(),
            remedy: failure.what_to_do().to_owned(),
            public: failure.in_public(),
        }
    }
}

/// A [`FailedStep`] as the state file has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FailedStepRecord {
    /// The step; none for a failure outside of the steps.
    #[serde(default, deserialize_with = "words::known", skip_serializing_if = "Option::is_none")]
    pub step: Option<StepName>,
    /// The exit code of its class.
    pub exit_code: u8,
    /// What went wrong and what to do.
    pub error: FailureRecord,
}

impl From<&FailedStep> for FailedStepRecord {
    fn from(failed: &FailedStep) -> Self {
        let FailedStep { step, failure } = failed;
        FailedStepRecord { step: *step, exit_code: failure.class().exit_code(), error: failure.into() }
    }
}

impl From<FailedStep> for FailedStepRecord {
    fn from(failed: FailedStep) -> Self {
        (&failed).into()
    }
}

impl From<Failure> for FailedStepRecord {
    fn from(failure: Failure) -> Self {
        FailedStep::from(failure).into()
    }
}
