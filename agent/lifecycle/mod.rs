//! A lifecycle action of this instance: whether the instance is wanted, its results, and the heartbeats that keep it waiting.

pub mod cluster;
pub mod heartbeat;

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

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
}

/// What Auto Scaling wants of the instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be the node.
    Node,
    /// To wait in a warm pool, in this state: nothing is touched, above all not the volume.
    WarmPool(State),
}

impl Launch<'_> {
    /// What Auto Scaling wants of the instance. Fails for one that is being terminated, which is left alone.
    pub async fn purpose(&self) -> Result<Purpose, Failure> {
        let state = match self.config {
            Some(_) => self.autoscaling.state(&self.instance.instance_id).await?,
            None => LifecycleState::Unreadable,
        };
        match state {
            LifecycleState::Terminating(state) => Err(self.terminating(state)),
            LifecycleState::Warmed(state) => Ok(Purpose::WarmPool(state)),
            LifecycleState::Unreadable => match self.imds.target_lifecycle_state().await? {
                Some(LifecycleState::Terminating(state)) => {
                    Err(self.terminating(format_args!("on its way to {state}")))
                }
                Some(LifecycleState::Warmed(state)) => Ok(Purpose::WarmPool(state)),
                _ => Ok(Purpose::Node),
            },
            _ => Ok(Purpose::Node),
        }
    }

    /// Fails unless the instance is to be the node now.
    pub async fn must_be_wanted(&self) -> Result<(), Failure> {
        match self.purpose().await? {
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
