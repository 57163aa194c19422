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

impl<T> Observed<T> {
    /// The same of what is made of the output.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Observed<U> {
        match self {
            Observed::Done(output) => Observed::Done(make(output)),
            Observed::Todo(because) => Observed::Todo(because),
            Observed::NotYet(failure) => Observed::NotYet(failure),
        }
    }
}

/// What acting came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acted {
    /// The effect was brought about: observing should see it.
    Changed,
    /// There is more to do: observing says what.
    Again,
}

/// What is known of a step before it runs.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// The step it is, or is a part of. Parts of one step share its record.
    pub name: StepName,
    /// The volume it is about, where it is about one.
    pub subject: Option<&'a str>,
    /// How long it may take.
    pub deadline: Duration,
    /// The kinds of trouble that it goes on with to its own deadline, rather than for `timeouts.aws` or
    /// [`super::patience::SETTLING`].
    pub outlasts: &'static [Class],
    /// Whether `act` keeps the deadline itself, because what it started must not simply be dropped (hooks, mkfs).
    pub keeps_own_deadline: bool,
    /// Whether there is never anything to do but to look.
    pub only_looks: bool,
    /// For a part that only prepares a later part of the same step: the word for its end (`fetched`). The step itself is not
    /// done then, and nobody is told that it is.
    pub prepares: Option<&'static str>,
}

impl<'a> Header<'a> {
    /// A step that is cut off at its deadline and has something to do.
    pub fn of(name: StepName, deadline: Duration) -> Self {
        Header {
            name,
            subject: None,
            deadline,
            outlasts: &[],
            keeps_own_deadline: false,
            only_looks: false,
            prepares: None,
        }
    }

    /// The same, about a volume.
    #[must_use]
    pub fn about(self, volume: &'a str) -> Self {
        Header { subject: Some(volume), ..self }
    }
}

/// One step of the sequence, or a part of one.
#[expect(async_fn_in_trait, reason = "the runtime is one thread; nothing needs these futures to be Send")]
pub trait Step {
    /// What the next steps get from it.
    type Output;

    /// What is known of it beforehand.
    fn header(&self) -> Header<'_>;

    /// Looks, and changes nothing.
    async fn observe(&self) -> Result<Observed<Self::Output>, Failure>;

    /// Brings the effect about. Must bear being called again. A step that only looks has nothing to do here.
    async fn act(&self) -> Result<Acted, Failure> {
        Ok(Acted::Changed)
    }
}
