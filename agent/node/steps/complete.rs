//! `complete`: the launch's result is reported to Auto Scaling.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::aws::autoscaling::{Completion, LifecycleState};
use crate::config;
use crate::failure::{Class, Code, Failure};
use crate::lifecycle::{Launch, LaunchResult};
use crate::runner::{Acted, Header, Observed, Step};
use crate::sequence::StepName;
use crate::state::{Journal, LaunchOutcome, State};

/// Completes the launch lifecycle action, exactly once.
pub struct Complete<'a> {
    journal: &'a Journal,
    launch: &'a Launch<'a>,
    result: LaunchResult,
    deadline: Duration,
    /// When the step began, for the decision at its deadline.
    began: Instant,
    /// Whether Auto Scaling has accepted the result.
    accepted: Cell<bool>,
}

impl<'a> Complete<'a> {
    /// Reports this result; `deadline` is `timeouts.complete`, or shorter for an operator who waits.
    pub fn new(journal: &'a Journal, launch: &'a Launch<'a>, result: LaunchResult, deadline: Duration) -> Self {
        Complete { journal, launch, result, deadline, began: Instant::now(), accepted: Cell::default() }
    }
}

impl Step for Complete<'_> {
    type Output = ();

    fn header(&self) -> Header<'_> {
        // The extra time exceeds the longest pause between two attempts, so that the decision about an unconfirmed result is
        // made before the deadline.
        Header {
            // The node is healthy: the report is retried until the deadline.
            outlasts: &[Class::Outage, Class::Settling],
            ..Header::of(StepName::Complete, self.deadline + Duration::from_secs(15))
        }
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        if self.journal.launch_outcome().is_some() {
            return Ok(Observed::Done(()));
        }
        Ok(Observed::Todo(match self.launch.config {
            Some(config) => format!("{} for hook {} of {}", self.result, config.hook_name, config.asg_name),
            None => "no lifecycle hook is configured: there is nothing to report".to_owned(),
        }))
    }

    async fn act(&self) -> Result<Acted, Failure> {
        let Some(config) = self.launch.config else {
            self.record(LaunchOutcome::NoHook);
            return Ok(Acted::Changed);
        };
        self.report(config).await.map_err(|failure| match (self.result, failure.class()) {
            // The node is healthy, and the cause may be temporary: the group's name is wrong, or the disk is full.
            (LaunchResult::Continue, Class::Permanent) => self.refused(config, &failure),
            _ => failure,
        })?;
        Ok(Acted::Changed)
    }
}

impl Complete<'_> {
    async fn report(&self, config: &config::Lifecycle) -> Result<(), Failure> {
        let autoscaling = self.launch.autoscaling;
        let instance = &self.launch.instance.instance_id;
        // An intent of an earlier attempt: its call may have taken effect without an answer.
        let unconfirmed = self.journal.read(|state| state.lifecycle.intent.is_some());
        if unconfirmed && self.has_taken_effect(&autoscaling.state(instance).await?) {
            self.record(self.outcome());
            return Ok(());
        }
        self.record_intent(Some(self.result))?;
        match autoscaling.complete(&config.asg_name, &config.hook_name, instance, &self.result.to_string()).await {
            Ok(Completion::Accepted) => {
                self.accepted.set(true);
                self.confirm(&autoscaling.state(instance).await?)
            }
            // Accepted before: another hook holds the instance now.
            Ok(Completion::NoActiveAction(_)) if self.accepted.get() => {
                self.record(self.outcome());
                Ok(())
            }
            Ok(Completion::NoActiveAction(message)) => {
                if !unconfirmed {
                    self.record_intent(None)?;
                }
                self.decide(config, unconfirmed, &message).await
            }
            Err(failure) => {
                // A refused call has no effect; after an outage the effect is unknown.
                if !unconfirmed && failure.class() != Class::Outage {
                    self.record_intent(None)?;
                }
                Err(if failure.code == Code::AccessDenied { self.refused(config, &failure) } else { failure })
            }
        }
    }

    /// The failure of a refused report. It is retried until the deadline, because an operator may correct the cause meanwhile.
    fn refused(&self, config: &config::Lifecycle, failure: &Failure) -> Failure {
        let to_do = match failure.code {
            Code::AccessDenied => format!(
                "allow autoscaling:CompleteLifecycleAction on the group {} in the instance role's policy",
                config.asg_name
            ),
            Code::StateUnusable => "make the state directory writable and give it space (ls -ld, df -h)".to_owned(),
            _ => format!(
                "correct what the message says: lifecycle.asg_name is {}, hook_name {}",
                config.asg_name, config.hook_name
            ),
        };
        let text = format!("{} cannot be reported: {failure}", self.result);
        let refused = match self.result {
            LaunchResult::Continue => Failure::new(Code::ReportRefused, format!("the node is healthy, but {text}")),
            LaunchResult::Abandon => Failure::new(Code::ReportRefused, text),
        };
        refused.remedy(format!("{to_do}; the agent retries until the step's deadline; after that: node-agent retry"))
    }

    /// Whether the state shows that the instance has moved on as the result says.
    fn has_taken_effect(&self, state: &LifecycleState) -> bool {
        match self.result {
            LaunchResult::Continue => matches!(
                state,
                LifecycleState::PendingProceed | LifecycleState::InService | LifecycleState::OutOfService(_)
            ),
            LaunchResult::Abandon => matches!(state, LifecycleState::Terminating(_)),
        }
    }

    /// An accepted result counts once the instance has moved on, if its state can be read: a healthy node must not be lost
    /// because of an answer that did not come from Auto Scaling.
    fn confirm(&self, state: &LifecycleState) -> Result<(), Failure> {
        if self.has_taken_effect(state) || matches!(state, LifecycleState::Unreadable | LifecycleState::NoGroup) {
            self.record(self.outcome());
            return Ok(());
        }
        let text = format!("{} was accepted, but {} is still {state}", self.result, self.launch.instance.instance_id);
        Err(Failure::new(Code::LifecycleNotWaiting, text))
    }

    /// There is no such action now: the instance's state says why (docs/design.md, "The lifecycle action").
    async fn decide(&self, config: &config::Lifecycle, unconfirmed: bool, message: &str) -> Result<(), Failure> {
        let instance = &self.launch.instance.instance_id;
        let state = self.launch.autoscaling.state(instance).await?;
        let waiting = |why: &str| {
            let text = format!("{} was not accepted: {message}; {instance} {why}", self.result);
            Err(Failure::new(Code::LifecycleNotWaiting, text))
        };
        match state {
            _ if self.has_taken_effect(&state) => {
                self.record(self.outcome());
                Ok(())
            }
            // An ABANDON that was not accepted ends no launch.
            LifecycleState::NoGroup if self.result == LaunchResult::Abandon => Err(Failure::new(
                Code::NothingToComplete,
                format!(
                    "{instance} is in no Auto Scaling group, so ABANDON has no recipient: there is nothing to complete"
                ),
            )),
            LifecycleState::NoGroup => {
                let text = format!("{instance} is in no Auto Scaling group: there is nothing to complete");
                self.journal.warn(StepName::Complete, None, text);
                self.record(LaunchOutcome::NoGroup);
                Ok(())
            }
            LifecycleState::Terminating(state) => Err(self.launch.terminating(state)),
            LifecycleState::Pending => waiting("is Pending: its hook has not begun to wait"),
            LifecycleState::PendingWait if unconfirmed => {
                waiting("is Pending:Wait after an earlier call whose answer was lost: another hook may be waiting")
            }
            LifecycleState::PendingWait => waiting(&format!(
                "is Pending:Wait, so the name of the hook ({}) or of the group ({}) may be wrong",
                config.hook_name, config.asg_name
            )),
            // A healthy node is not given up because of a lost answer.
            LifecycleState::Unreadable if unconfirmed && self.began.elapsed() >= self.deadline => {
                let text = format!(
                    "{} was sent to {instance}'s hook {}, but whether it was accepted is unknown: allow autoscaling:DescribeAutoScalingInstances",
                    self.result, config.hook_name
                );
                self.journal.warn(StepName::Complete, None, text);
                self.record(LaunchOutcome::Unconfirmed);
                Ok(())
            }
            LifecycleState::Unreadable => {
                waiting("has an unknown state: autoscaling:DescribeAutoScalingInstances is not allowed")
            }
            // An instance whose launch has ended does not return to it.
            LifecycleState::InService
            | LifecycleState::OutOfService(_)
            | LifecycleState::PendingProceed
            | LifecycleState::Warmed(_)
                if self.result == LaunchResult::Abandon =>
            {
                Err(self.too_late(&state, message))
            }
            _ => waiting(&format!("is {state}")),
        }
    }

    /// The failure of an ABANDON that comes after the launch has ended.
    fn too_late(&self, state: &LifecycleState, message: &str) -> Failure {
        let instance = &self.launch.instance.instance_id;
        let text = format!("{} was not accepted: {message}; {instance} is {state}", self.result);
        Failure::new(Code::ApiRefused, text).remedy("to replace the instance: aws autoscaling terminate-instance-in-auto-scaling-group --instance-id INSTANCE --no-should-decrement-desired-capacity")
    }

    fn outcome(&self) -> LaunchOutcome {
        match self.result {
            LaunchResult::Continue => LaunchOutcome::Continued,
            LaunchResult::Abandon => LaunchOutcome::Abandoned,
        }
    }

    /// Journals the result that is about to be sent. Only CONTINUE depends on the record: a failed node is given up even if a
    /// full disk does not take it.
    fn record_intent(&self, result: Option<LaunchResult>) -> Result<(), Failure> {
        let change = |state: &mut State| state.lifecycle.intent = result.map(|result| result.to_string());
        if result == Some(LaunchResult::Continue) {
            return self.journal.update(change);
        }
        self.journal.keep(change);
        Ok(())
    }

    fn record(&self, outcome: LaunchOutcome) {
        self.journal.launch_ended(outcome);
    }
}
