//! `leave`: Auto Scaling is told that the instance may be terminated.

use std::time::Duration;

use tokio::time::Instant;

use crate::aws::autoscaling::{Completion, LifecycleState, State};
use crate::failure::{Class, Code, Failure};
use crate::lifecycle::{Launch, LaunchResult};
use crate::runner::{Acted, Header, Observed, Step};
use crate::sequence::StepName;
use crate::state::{DepartureOutcome, Journal, Reason};

/// Completes the termination hook's action with CONTINUE, exactly once, whatever happened before. Never with ABANDON: with a
/// retain policy the group would keep the instance, its network interface, and so the node, for ever.
pub struct Leave<'a> {
    pub(crate) journal: &'a Journal,
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) group: &'a str,
    pub(crate) hook: &'a str,
    pub(crate) reason: Reason,
    pub(crate) deadline: Duration,
    /// When the step began, for the decision at its deadline.
    pub(crate) began: Instant,
}

impl Step for Leave<'_> {
    type Output = ();

    fn header(&self) -> Header<'_> {
        // The extra time exceeds the longest pause between two attempts, so that an unconfirmed result is decided on in time.
        Header {
            outlasts: &[Class::Outage, Class::Settling],
            ..Header::of(StepName::Leave, self.deadline + Duration::from_secs(15))
        }
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        if self.journal.has_left() {
            return Ok(Observed::Done(()));
        }
        Ok(Observed::Todo(format!("CONTINUE for hook {} of {}", self.hook, self.group)))
    }

    async fn act(&self) -> Result<Acted, Failure> {
        let (autoscaling, instance) = (self.launch.autoscaling, &self.launch.instance.instance_id);
        // An intent of an earlier attempt: its call may have taken effect without an answer.
        let unconfirmed = self.journal.intends_to_leave();
        if unconfirmed && autoscaling.state(instance).await?.has_left() {
            return Ok(self.record(DepartureOutcome::Continued));
        }
        self.journal.intend_to_leave(true);
        let result = LaunchResult::Continue.to_string();
        match autoscaling.complete(self.group, self.hook, instance, &result).await {
            Ok(Completion::Accepted) => Ok(self.record(DepartureOutcome::Continued)),
            Ok(Completion::NoActiveAction(message)) => {
                self.journal.intend_to_leave(unconfirmed);
                self.decide(unconfirmed, &message).await
            }
            Err(failure) => {
                // A refused call has no effect; after an outage the effect is unknown.
                self.journal.intend_to_leave(unconfirmed || failure.class() == Class::Outage);
                Err(self.refused(failure))
            }
        }
    }
}

impl Leave<'_> {
    /// There is no such action now: the instance's state says why.
    async fn decide(&self, unconfirmed: bool, message: &str) -> Result<Acted, Failure> {
        let (hook, group, instance) = (self.hook, self.group, &self.launch.instance.instance_id);
        let state = self.launch.autoscaling.state(instance).await?;
        let waiting = |why: String| {
            let text = format!("CONTINUE was not accepted: {message}; {instance} {why}");
            Err(Failure::new(Code::LifecycleNotWaiting, text).remedy(self.what_to_do()))
        };
        let ended = if unconfirmed { DepartureOutcome::Continued } else { DepartureOutcome::NothingToComplete };
        match state {
            _ if state.has_left() => Ok(self.record(ended)),
            LifecycleState::Terminating(State::TerminatingWait) if unconfirmed => waiting(
                "is Terminating:Wait after an earlier call whose answer was lost: another hook may be waiting"
                    .to_owned(),
            ),
            LifecycleState::Terminating(State::TerminatingWait) => waiting(format!(
                "is Terminating:Wait, so the name of the hook ({hook}) or of the group ({group}) may be wrong"
            )),
            LifecycleState::Terminating(state) => {
                waiting(format!("is {state}: its termination hook has not begun to wait"))
            }
            // EC2 takes a spot instance whatever its group does.
            _ if self.reason == Reason::Spot => Ok(self.record(ended)),
            LifecycleState::Unreadable if self.began.elapsed() >= self.deadline => {
                let ended =
                    if unconfirmed { DepartureOutcome::Unconfirmed } else { DepartureOutcome::NothingToComplete };
                Ok(self.record(ended))
            }
            LifecycleState::Unreadable => {
                waiting("has an unknown state: autoscaling:DescribeAutoScalingInstances is not allowed".to_owned())
            }
            // The metadata service is ahead of the group's own description.
            state => waiting(format!("is {state}")),
        }
    }

    /// A refused report is tried again until the deadline: an operator may correct the cause meanwhile.
    fn refused(&self, failure: Failure) -> Failure {
        if failure.code != Code::AccessDenied && failure.class() != Class::Permanent {
            return failure;
        }
        let (hook, group) = (self.hook, self.group);
        Failure::new(Code::ReportRefused, format!("CONTINUE cannot be sent for hook {hook} of {group}: {failure}"))
            .remedy(self.what_to_do())
    }

    fn what_to_do(&self) -> String {
        let (hook, group, instance) = (self.hook, self.group, &self.launch.instance.instance_id);
        format!(
            "allow autoscaling:CompleteLifecycleAction on the group {group} in the instance role's policy, or correct \
             lifecycle.asg_name and terminate_hook_name; or send it by hand: aws autoscaling complete-lifecycle-action \
             --lifecycle-action-result CONTINUE --auto-scaling-group-name {group} --lifecycle-hook-name {hook} \
             --instance-id {instance}"
        )
    }

    fn record(&self, outcome: DepartureOutcome) -> Acted {
        self.journal.left(outcome);
        Acted::Changed
    }
}
