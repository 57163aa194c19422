//! Warm pools: an instance enters its pool, and a launch out of the pool is distinguished from the launch before.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::aws::autoscaling::{Completion, LifecycleState, State};
use crate::config;
use crate::failure::{Class, Code, Failure};
use crate::lifecycle::{Launch, LaunchResult};
use crate::runner::patience::SETTLING;
use crate::runner::{Acted, Header, Observed, Step};
use crate::sequence::StepName;
use crate::state::Journal;

/// Completes the lifecycle action of an instance that enters its warm pool. The real launch has an action of its own.
pub struct EnterPool<'a> {
    launch: &'a Launch<'a>,
    deadline: Duration,
    began: Instant,
    /// Whether Auto Scaling has accepted CONTINUE.
    accepted: Cell<bool>,
}

impl<'a> EnterPool<'a> {
    /// Enters the pool within `timeouts.complete`.
    pub fn new(launch: &'a Launch<'a>, deadline: Duration) -> Self {
        EnterPool { launch, deadline, began: Instant::now(), accepted: Cell::default() }
    }
}

impl Step for EnterPool<'_> {
    type Output = ();

    fn header(&self) -> Header<'_> {
        Header { outlasts: &[Class::Outage, Class::Settling], ..Header::of(StepName::Complete, self.deadline) }
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        if self.launch.config.is_none() || self.accepted.get() {
            return Ok(Observed::Done(()));
        }
        match self.launch.autoscaling.state(&self.launch.instance.instance_id).await? {
            LifecycleState::Warmed(state @ State::WarmedPending) => {
                let text =
                    format!("instance {} is {state}: its hook has not begun to wait", self.launch.instance.instance_id);
                Ok(Observed::NotYet(Failure::new(Code::LifecycleNotWaiting, text)))
            }
            LifecycleState::Warmed(state @ State::WarmedPendingWait) => {
                Ok(Observed::Todo(format!("CONTINUE into the warm pool ({state})")))
            }
            LifecycleState::Unreadable => Ok(Observed::Todo("CONTINUE into the warm pool".to_owned())),
            _ => Ok(Observed::Done(())),
        }
    }

    async fn act(&self) -> Result<Acted, Failure> {
        let Some(config) = self.launch.config else { return Ok(Acted::Changed) };
        let instance = &self.launch.instance.instance_id;
        let result = LaunchResult::Continue.to_string();
        let answer = self.launch.autoscaling.complete(&config.asg_name, &config.hook_name, instance, &result).await?;
        match answer {
            // The state cannot be read: the hook has not begun to wait, or the instance is in the pool already.
            Completion::NoActiveAction(message) if self.began.elapsed() < SETTLING => {
                return Err(Failure::new(Code::LifecycleNotWaiting, format!("CONTINUE was not accepted: {message}")));
            }
            Completion::Accepted | Completion::NoActiveAction(_) => self.accepted.set(true),
        }
        Ok(Acted::Changed)
    }
}

/// Distinguishes a new launch of the same instance from the completed one: a warm pool that is reused on scale-in launches
/// its instances repeatedly.
pub struct Relaunch<'a> {
    /// Records the completed launch.
    pub(crate) journal: &'a Journal,
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) config: &'a config::Lifecycle,
    pub(crate) deadline: Duration,
    pub(crate) began: Instant,
    /// Whether nothing may be sent, not even a heartbeat.
    pub(crate) planning: bool,
}

impl Step for Relaunch<'_> {
    type Output = ();

    fn header(&self) -> Header<'_> {
        Header::of(StepName::Identity, self.deadline)
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        let config = self.config;
        if self.journal.launch_outcome().is_none() {
            return Ok(Observed::Done(()));
        }
        let instance = &self.launch.instance.instance_id;
        let state = self.launch.autoscaling.state(instance).await?;
        let anew = |how: &str| {
            let text =
                format!("{instance} {how}, launched anew from a warm pool: files, hooks and complete are due again");
            Ok(Observed::Todo(text))
        };
        match state {
            LifecycleState::Pending if self.began.elapsed() < SETTLING.min(self.deadline / 2) => {
                let text = format!("{instance} is Pending, although its launch was completed before");
                Ok(Observed::NotYet(Failure::new(Code::LifecycleNotWaiting, text)))
            }
            // Auto Scaling's description never lags this far behind.
            LifecycleState::Pending => anew("is Pending"),
            LifecycleState::PendingWait if self.planning => anew("is Pending:Wait"),
            LifecycleState::Unreadable if self.planning => Ok(Observed::Done(())),
            // After this hook was completed, another hook of the group may hold the instance. A heartbeat shows which one waits.
            LifecycleState::PendingWait | LifecycleState::Unreadable => {
                match self.launch.autoscaling.heartbeat(&config.asg_name, &config.hook_name, instance).await {
                    Ok(Completion::Accepted) => anew(&format!("is held by hook {} again", config.hook_name)),
                    Ok(Completion::NoActiveAction(message)) => {
                        tracing::debug!("{instance} is {state}, but not by this hook: {message}");
                        Ok(Observed::Done(()))
                    }
                    Err(failure) if failure.code == Code::AccessDenied => {
                        tracing::debug!("whether {instance} was launched anew is unknown: {failure}");
                        Ok(Observed::Done(()))
                    }
                    Err(failure) => Err(failure),
                }
            }
            _ => Ok(Observed::Done(())),
        }
    }

    async fn act(&self) -> Result<Acted, Failure> {
        self.journal.launched_anew()?;
        Ok(Acted::Changed)
    }
}
