//! The findings of a plan.

use serde::Serialize;

use crate::sequence::StepName;

/// What a run would do in one step.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    pub(crate) step: StepName,
    /// The volume's id, if the step is about one.
    pub(crate) volume: Option<String>,
    pub(crate) finding: Finding,
    /// The reason, or what was seen.
    pub(crate) because: String,
    /// What to do about it, if anything.
    pub(crate) remedy: Option<String>,
    /// The exit code that a run would end with because of it.
    pub(crate) exit_code: u8,
}

/// What would happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// Nothing: the effect holds already.
    AlreadySo,
    /// The step would act.
    WouldDo,
    /// The step would wait.
    WouldWait,
    /// The step would fail.
    WouldFail,
    /// The step would refuse, because going on could lose data.
    WouldRefuse,
    /// It cannot be known yet.
    Unknown,
}
