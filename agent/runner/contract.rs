//! What a step is.

use std::time::Duration;

use crate::failure::{Class, Failure};
use crate::sequence::StepName;

/// What observing found.
pub enum Observed<T> {
    /// The effect holds.
    Done(T),
    /// There is something to do, and why.
    Todo(String),
    /// The effect may come about by itself. At the deadline the step fails with this.
    NotYet(Failure),
}

impl<T> Observed<T> {
    /// Applies `make` to the output.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Observed<U> {
        match self {
            Observed::Done(output) => Observed::Done(make(output)),
            Observed::Todo(because) => Observed::Todo(because),
            Observed::NotYet(failure) => Observed::NotYet(failure),
        }
    }
}

/// The result of acting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acted {
    /// The effect was brought about: the next observation should confirm it.
    Changed,
    /// More remains to be done: the next observation says what.
    Again,
}

/// What is known of a step before it runs.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// The step, or the step that this is a part of. All parts of a step share one record.
    pub name: StepName,
    /// The volume that the step is about, if any.
    pub subject: Option<&'a str>,
    /// How long it may take.
    pub deadline: Duration,
    /// The classes of failure that are retried until the step's own deadline, rather than for `timeouts.aws` or
    /// [`super::patience::SETTLING`].
    pub outlasts: &'static [Class],
    /// Whether `act` enforces the deadline itself, because a hook or mkfs that it started must not simply be dropped.
    pub keeps_own_deadline: bool,
    /// Whether the step only observes and never acts.
    pub observes_only: bool,
    /// For a part that prepares a later part of the same step: the word for its result (`fetched`). The step is not reported
    /// as done at that point.
    pub prepares: Option<&'static str>,
}

impl<'a> Header<'a> {
    /// A step that may act and is cancelled at its deadline.
    pub fn of(name: StepName, deadline: Duration) -> Self {
        Header {
            name,
            subject: None,
            deadline,
            outlasts: &[],
            keeps_own_deadline: false,
            observes_only: false,
            prepares: None,
        }
    }

    /// Makes it a step about this volume.
    #[must_use]
    pub fn about(self, volume: &'a str) -> Self {
        Header { subject: Some(volume), ..self }
    }
}

/// One step of a sequence, or a part of one.
#[expect(async_fn_in_trait, reason = "the runtime is one thread; nothing needs these futures to be Send")]
pub trait Step {
    /// What later steps receive from it.
    type Output;

    /// What is known before it runs.
    fn header(&self) -> Header<'_>;

    /// Observes the present state without changing it.
    async fn observe(&self) -> Result<Observed<Self::Output>, Failure>;

    /// Brings the effect about. May be called several times. A step that only observes keeps this default.
    async fn act(&self) -> Result<Acted, Failure> {
        Ok(Acted::Changed)
    }

    /// The shortest pause before the next observation. More than the usual where [`Step::woken`] tells of what the step waits for.
    fn rest(&self) -> Duration {
        Duration::ZERO
    }

    /// Ends a pause before its time, when there is something new to observe.
    async fn woken(&self) {
        std::future::pending::<()>().await;
    }
}
