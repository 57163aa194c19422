//! `complete`: Auto Scaling is told how the launch ended. Also whether this instance is still wanted at all.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use crate::aws::autoscaling::{AutoScaling, Completion, LifecycleState};
use crate::config;
use crate::failure::{Class, Code, Failure};
use crate::journal::{Journal, LaunchOutcome};
use crate::step::{Observed, Step, StepName, Stopped};
use crate::steps::identity::Node;

/// This instance's launch, as Auto Scaling sees it.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Auto Scaling.
    pub autoscaling: &'a AutoScaling,
    /// This instance.
    pub node: &'a Node,
    /// `[lifecycle]`
    pub config: Option<&'a config::Lifecycle>,
}

impl Launch<'_> {
    /// Fails if the instance is being terminated: it is left alone then.
    pub async fn must_be_wanted(&self) -> Result<(), Failure> {
        if self.config.is_none() {
            return Ok(());
        }
        match self.autoscaling.state(&self.node.instance_id).await? {
            LifecycleState::Terminating(state) => Err(self.terminating(&state)),
            _ => Ok(()),
        }
    }

    /// Whether a failure is to be answered with ABANDON now. One of the report itself never is, nor one that another
    /// process or the operator caused.
    pub fn abandons_on(&self, stopped: &Stopped) -> bool {
        stopped.step != StepName::Complete
            && !matches!(stopped.failure.class(), Class::Stopped | Class::Locked | Class::LifecycleLost)
            && self.config.is_some_and(|config| config.on_failure == config::OnFailure::Abandon)
    }

    fn terminating(&self, state: &str) -> Failure {
        Failure::new(Code::Terminating, format!("instance {} is {state}", self.node.instance_id))
    }
}

/// The two results Auto Scaling takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchResult {
    /// The node is healthy.
    Continue,
    /// The node failed: terminate and replace it.
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

/// Completes the launch lifecycle action, exactly once.
#[derive(Debug)]
pub struct Complete<'a> {
    /// Knows what was sent.
    pub journal: &'a Journal,
    /// The launch.
    pub launch: &'a Launch<'a>,
    /// How it ended.
    pub result: LaunchResult,
    /// `timeouts.complete`
    pub deadline: Duration,
    /// Auto Scaling has said that it took the result.
    pub accepted: Cell<bool>,
}

impl Step for Complete<'_> {
    type Output = ();

    fn name(&self) -> StepName {
        StepName::Complete
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }

    /// The node is healthy: it goes on reporting as long as it may.
    fn rides_out_outages(&self) -> bool {
        true
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        if self.journal.launch_outcome().is_some() {
            return Ok(Observed::Done(()));
        }
        Ok(Observed::Todo(match self.launch.config {
            Some(config) => format!("{} for hook {} of {}", self.result, config.hook_name, config.asg_name),
            None => "no lifecycle hook is configured: nobody to tell".to_owned(),
        }))
    }

    async fn act(&self) -> Result<(), Failure> {
        let Some(config) = self.launch.config else { return self.record(LaunchOutcome::NoHook) };
        let autoscaling = self.launch.autoscaling;
        let instance = &self.launch.node.instance_id;
        // An intent that is there already was followed by a call whose effect nobody has seen.
        let unconfirmed = self.journal.read(|state| state.lifecycle.intent.is_some());
        if unconfirmed && self.has_taken_effect(&autoscaling.state(instance).await?) {
            return self.record(self.sent());
        }
        self.intend(Some(self.result))?;
        match autoscaling.complete(&config.asg_name, &config.hook_name, instance, &self.result.to_string()).await {
            Ok(Completion::Accepted) => {
                self.accepted.set(true);
                self.confirm(&autoscaling.state(instance).await?)
            }
            // Taken before: what holds the instance now is another hook.
            Ok(Completion::NoActiveAction(_)) if self.accepted.get() => self.record(self.sent()),
            Ok(Completion::NoActiveAction(message)) => {
                if !unconfirmed {
                    self.intend(None)?;
                }
                self.decide(config, unconfirmed, &message).await
            }
            Err(failure) => {
                // A refusal has no effect; after an outage it is not known.
                if !unconfirmed && failure.class() != Class::Outage {
                    self.intend(None)?;
                }
                Err(failure)
            }
        }
    }
}

impl Complete<'_> {
    /// Whether the state shows that the instance has moved on as the result says.
    fn has_taken_effect(&self, state: &LifecycleState) -> bool {
        match (self.result, state) {
            (LaunchResult::Continue, LifecycleState::PendingProceed | LifecycleState::InService)
            | (LaunchResult::Abandon, LifecycleState::Terminating(_)) => true,
            (LaunchResult::Continue, LifecycleState::Other(state)) => state == "Standby" || state == "EnteringStandby",
            _ => false,
        }
    }

    /// An accepted result counts once the instance moves on, as far as it may be looked at: a healthy node must not be lost
    /// to an answer that was not Auto Scaling's.
    fn confirm(&self, state: &LifecycleState) -> Result<(), Failure> {
        if self.has_taken_effect(state) || matches!(state, LifecycleState::Unreadable | LifecycleState::NoGroup) {
            return self.record(self.sent());
        }
        let text = format!("{} was accepted, but {} is still {state}", self.result, self.launch.node.instance_id);
        Err(Failure::new(Code::LifecycleNotWaiting, text))
    }

    /// There is no such action now: the instance's state says why (SPEC 6).
    async fn decide(&self, config: &config::Lifecycle, unconfirmed: bool, message: &str) -> Result<(), Failure> {
        let instance = &self.launch.node.instance_id;
        let state = self.launch.autoscaling.state(instance).await?;
        let waiting = |why: &str| {
            let text = format!("{} was not taken: {message}; {instance} {why}", self.result);
            Err(Failure::new(Code::LifecycleNotWaiting, text))
        };
        match state {
            _ if self.has_taken_effect(&state) => self.record(self.sent()),
            LifecycleState::NoGroup => {
                tracing::warn!("{instance} is in no Auto Scaling group: there is nothing to complete");
                self.record(LaunchOutcome::NoGroup)
            }
            LifecycleState::Terminating(state) => Err(self.launch.terminating(&state)),
            LifecycleState::Pending => waiting("is Pending: its hook has not begun to wait"),
            LifecycleState::PendingWait if unconfirmed => {
                waiting("is Pending:Wait after an earlier call whose answer was lost: another hook may be waiting")
            }
            LifecycleState::PendingWait => waiting(&format!(
                "is Pending:Wait, so the name of the hook ({}) or of the group ({}) may be wrong",
                config.hook_name, config.asg_name
            )),
            LifecycleState::Unreadable => waiting("may not be looked at (autoscaling:DescribeAutoScalingInstances)"),
            LifecycleState::Warmed(state) | LifecycleState::Other(state) => waiting(&format!("is {state}")),
            LifecycleState::PendingProceed => waiting("is Pending:Proceed: its hooks are through"),
            LifecycleState::InService => {
                let text = format!("{} was not taken: {message}; {instance} is InService", self.result);
                Err(Failure::new(Code::ApiRefused, text)
                    .remedy("if it is to be replaced: aws autoscaling terminate-instance-in-auto-scaling-group --instance-id INSTANCE --no-should-decrement-desired-capacity"))
            }
        }
    }

    fn sent(&self) -> LaunchOutcome {
        match self.result {
            LaunchResult::Continue => LaunchOutcome::Continued,
            LaunchResult::Abandon => LaunchOutcome::Abandoned,
        }
    }

    fn intend(&self, result: Option<LaunchResult>) -> Result<(), Failure> {
        self.journal.update(|state| state.lifecycle.intent = result.map(|result| result.to_string()))
    }

    fn record(&self, outcome: LaunchOutcome) -> Result<(), Failure> {
        self.journal.update(|state| state.lifecycle.outcome = Some(outcome))
    }
}
