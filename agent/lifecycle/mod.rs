//! A lifecycle action of this instance: whether the instance is wanted, its results, and the heartbeats that keep it waiting.

pub mod cluster;
pub mod heartbeat;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::aws::autoscaling::{AutoScaling, LifecycleState, State};
use crate::aws::imds::{IdentityDocument, Imds};
use crate::config;
use crate::failure::{Class, Code, FailedStep, Failure};
use crate::sequence::StepName;

/// This instance's launch, as Auto Scaling sees it.
pub struct Launch<'a> {
    pub(crate) autoscaling: &'a AutoScaling,
    /// The metadata service, asked where IAM does not allow the state to be read.
    pub(crate) imds: &'a Imds,
    pub(crate) instance: &'a IdentityDocument,
    pub(crate) config: Option<&'a config::Lifecycle>,
    /// When the question was sent whose answer was that the instance is wanted.
    wanted_at: Cell<Option<Instant>>,
    /// A question about the state that was sent ahead, and when.
    ahead: RefCell<Option<(Instant, Question)>>,
}

/// One task, which ends with its set.
type Question = JoinSet<Result<LifecycleState, Failure>>;

/// How long an answer counts. Auto Scaling's descriptions lag behind by more than this.
const WANTED_FOR: Duration = Duration::from_millis(500);

/// What Auto Scaling wants of the instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be the node.
    Node,
    /// To wait in a warm pool, in this state: nothing is touched, above all not the volume.
    WarmPool(State),
}

impl<'a> Launch<'a> {
    /// The launch of `instance` into the group of `config`.
    pub fn new(
        autoscaling: &'a AutoScaling,
        imds: &'a Imds,
        instance: &'a IdentityDocument,
        config: Option<&'a config::Lifecycle>,
    ) -> Self {
        Launch { autoscaling, imds, instance, config, wanted_at: Cell::default(), ahead: RefCell::default() }
    }

    /// Asks for the state ahead of [`Launch::must_be_wanted`], which then waits only for what is left of the answer.
    pub fn ask_ahead(&self) {
        if self.config.is_none() {
            return;
        }
        let (autoscaling, id) = (self.autoscaling.clone(), self.instance.instance_id.clone());
        let mut question = Question::new();
        question.spawn(async move { autoscaling.state(&id).await });
        self.ahead.replace(Some((Instant::now(), question)));
    }

    /// What Auto Scaling wants of the instance. Fails for one that is being terminated, which is left alone.
    pub async fn purpose(&self) -> Result<Purpose, Failure> {
        let asked_at = Instant::now();
        let state = match self.config {
            Some(_) => self.autoscaling.state(&self.instance.instance_id).await?,
            None => LifecycleState::Unreadable,
        };
        self.purpose_by(state, asked_at).await
    }

    /// What Auto Scaling wants of an instance in this state.
    async fn purpose_by(&self, state: LifecycleState, asked_at: Instant) -> Result<Purpose, Failure> {
        let purpose = match state {
            LifecycleState::Terminating(state) => return Err(self.terminating(state)),
            LifecycleState::Warmed(state) => Purpose::WarmPool(state),
            LifecycleState::Unreadable => match self.imds.target_lifecycle_state().await? {
                Some(LifecycleState::Terminating(state)) => {
                    return Err(self.terminating(format_args!("on its way to {state}")));
                }
                Some(LifecycleState::Warmed(state)) => Purpose::WarmPool(state),
                _ => Purpose::Node,
            },
            _ => Purpose::Node,
        };
        self.wanted_at.set((purpose == Purpose::Node).then_some(asked_at));
        Ok(purpose)
    }

    /// Fails unless the instance is to be the node now.
    pub async fn must_be_wanted(&self) -> Result<(), Failure> {
        let counts = |asked_at: Instant| asked_at.elapsed() < WANTED_FOR;
        if self.wanted_at.get().is_some_and(counts) {
            return Ok(());
        }
        let ahead = self.ahead.take().filter(|(asked_at, _)| counts(*asked_at));
        let purpose = match ahead {
            Some((asked_at, mut question)) => match question.join_next().await {
                Some(Ok(state)) => self.purpose_by(state?, asked_at).await?,
                // The task was cancelled with the runtime.
                _ => self.purpose().await?,
            },
            None => self.purpose().await?,
        };
        match purpose {
            Purpose::Node => Ok(()),
            Purpose::WarmPool(state) => {
                Err(Failure::new(Code::WarmPool, format!("instance {} is {state}", self.instance.instance_id)))
            }
        }
    }

    /// Whether ABANDON is sent for this failure at once.
    pub fn abandons_on(&self, failed: &FailedStep) -> bool {
        may_abandon(failed) && self.config.is_some_and(|config| config.on_failure == config::OnFailure::Abandon)
    }

    /// The failure of an instance that is being terminated.
    pub fn terminating(&self, state: impl fmt::Display) -> Failure {
        Failure::new(Code::Terminating, format!("instance {} is {state}", self.instance.instance_id))
    }
}

/// Whether ABANDON may be sent for this failure: never for a failure to report, for one that another process or the operator
/// caused, or for an instance that is lost already.
pub fn may_abandon(failed: &FailedStep) -> bool {
    failed.step != Some(StepName::Complete)
        && !matches!(
            failed.failure.class(),
            Class::Stopped | Class::Locked | Class::LifecycleLost | Class::LifecycleWaiting
        )
}

/// The two results that Auto Scaling accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "UPPERCASE")]
pub enum LaunchResult {
    /// The node is healthy.
    Continue,
    /// The node failed: Auto Scaling terminates and replaces the instance.
    Abandon,
}

impl fmt::Display for LaunchResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LaunchResult::Continue => "CONTINUE",
            LaunchResult::Abandon => "ABANDON",
        })
    }
}
