//! What a step is.

use std::time::Duration;

use crate::failure::{Class, Failure};
use crate::sequence::StepName;

/// What observing found.
#[derive(Debug)]
pub enum Observed<T> {
    /// The effect holds.
    Done(T),
    /// There is something to do, and why.
    Todo(String),
    /// It may come to hold by itself; the failure it is if it has not by the deadline.
    NotYet(Failure),
}

/// One step of the sequence, or a part of one.
#[expect(async_fn_in_trait, reason = "the runtime is one thread; nothing needs these futures to be Send")]
pub trait Step {
    /// What the next steps get from it.
    type Output;

    /// The step it is, or is a part of. Parts of one step share its record.
    fn name(&self) -> StepName;

    /// The volume it is about, where it is about one.
    fn subject(&self) -> Option<&str> {
        None
    }

    /// How long it may take.
    fn deadline(&self) -> Duration;

    /// The kinds of trouble that it goes on with to its own deadline, rather than for `timeouts.aws` or [`super::patience::SETTLING`].
    fn outlasts(&self) -> &'static [Class] {
        &[]
    }

    /// Whether `act` keeps the deadline itself, because what it started must not simply be dropped (hooks, mkfs).
    fn keeps_own_deadline(&self) -> bool {
        false
    }

    /// Whether there is never anything to do but to look.
    fn only_looks(&self) -> bool {
        false
    }

    /// For a part that only prepares a later part of the same step: the word for its end (`fetched`). The step itself is not
    /// done then, and nobody is told that it is.
    fn prepares(&self) -> Option<&'static str> {
        None
    }

    /// Looks, and changes nothing.
    async fn observe(&self) -> Result<Observed<Self::Output>, Failure>;

    /// Brings the effect about. Must bear being called again.
    async fn act(&self) -> Result<(), Failure>;
}
