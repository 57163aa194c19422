//! What a plan finds.

use serde::Serialize;

use crate::sequence::StepName;

/// What a step of a plan has come to.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    /// The step.
    pub step: StepName,
    /// The volume's id, where it is about one.
    pub volume: Option<String>,
    /// What would happen.
    pub finding: Finding,
    /// Why, or what was seen.
    pub because: String,
    /// What to do about it, where there is something to do.
    pub remedy: Option<String>,
    /// The exit code that it comes to.
    pub exit_code: u8,
}

/// What would happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// Nothing: it is so already.
    AlreadySo,
    /// It would be done.
    WouldDo,
    /// It would be waited for.
    WouldWait,
    /// It would fail.
    WouldFail,
    /// It would be refused.
    WouldRefuse,
    /// It cannot be known yet.
    Unknown,
}
