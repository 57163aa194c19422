//! Heartbeats restart the lifecycle hook's timeout while the work is within its own deadline, so that Auto Scaling does not
//! give up a long but healthy boot, nor end a departure. A step beyond its deadline gets none.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Launch;
use crate::aws::autoscaling::{Completion, LifecycleState, State};
use crate::config;
use crate::failure::{Class, Code, Failure, without_retry};
use crate::runner::allowance::Allowance;
use crate::sequence::{Sequence, StepName};
use crate::state::Journal;
use crate::time::rough;

/// The shortest heartbeat timeout of a hook (docs/facts.md, "Lifecycle hooks"); assumed where the real one cannot be read.
const SHORTEST: Duration = Duration::from_secs(30);

/// The shortest interval between heartbeats, however short the hook's timeout is.
const FASTEST: Duration = Duration::from_secs(1);

/// The first heartbeat is sent at most this long after the agent started: the hook began to wait before that.
const FIRST: Duration = Duration::from_secs(10);

/// How often the journal is checked for an action that has to be kept waiting.
const IDLE: Duration = Duration::from_secs(1);

/// How often in a row Auto Scaling must contradict itself (the instance waits; no action waits under the hook's name) before a
/// warning is given: the two answers come from different APIs, and the instance may move on between them.
const CONTRADICTIONS: u32 = 3;
/// The pause between two such answers.
const AFTER_CONTRADICTION: Duration = Duration::from_secs(5);

/// Sends heartbeats for a launch or a departure.
pub struct Heart<'a> {
    pub(crate) launch: &'a Launch<'a>,
    /// Records whether the action was completed.
    pub(crate) journal: &'a Journal,
    pub(crate) allowance: &'a Allowance,
    /// Whose hook it is: the launch hook or the termination hook.
    pub(crate) of: Sequence,
}

impl Heart<'_> {
    /// Sends heartbeats, beside the work, until the action is lost, and returns that failure. None are sent while the action is
    /// completed, which changes when the instance is launched anew from a warm pool.
    pub async fn beat(&self) -> Failure {
        let Some(config) = self.launch.config else { return std::future::pending().await };
        let Some(hook) = self.hook(config) else { return std::future::pending().await };
        self.until_there_is_an_action().await;
        let timeout = self.timeout(config, hook).await;
        self.allowance.timeout.set(Some(timeout));
        let third = (timeout / 3).max(FASTEST);
        let mut pause = match self.allowance.beat.get() {
            Some(last) => third.saturating_sub(last.elapsed()),
            None => third.min(FIRST).saturating_sub(self.allowance.began.elapsed()),
        };
        let mut denied = false;
        let mut contradictions = 0;
        loop {
            sleep(pause).await;
            pause = third;
            self.until_there_is_an_action().await;
            if !self.allowance.holds() {
                continue;
            }
            let (autoscaling, instance) = (self.launch.autoscaling, &self.launch.instance.instance_id);
            let now = Instant::now();
            self.allowance.beat.set(Some(now));
            let answer = autoscaling.heartbeat(&config.asg_name, hook, instance).await;
            self.allowance.is_refused.set(!matches!(answer, Ok(Completion::Accepted)));
            match answer {
                Ok(Completion::Accepted) => {
                    self.allowance.taken.set(Some(now));
                    tracing::debug!("heartbeat; the next one in {}", rough(third));
                    contradictions = 0;
                }
                Ok(Completion::NoActiveAction(message)) => match self.refused(&message, &mut contradictions).await {
                    Ok(false) => {}
                    Ok(true) => pause = third.min(AFTER_CONTRADICTION),
                    Err(lost) => return lost,
                },
                // IAM may allow it later.
                Err(failure) if failure.code == Code::AccessDenied => {
                    if !std::mem::replace(&mut denied, true) {
                        let text = format!("no heartbeat: {failure}; {}", self.remedy(&failure));
                        self.journal.warn(self.step(), None, text);
                    }
                }
                Err(failure) => {
                    tracing::debug!("no heartbeat: {failure}");
                    pause = (third / 4).min(Duration::from_secs(5));
                }
            }
        }
    }

    /// What the answer means that no action waits: whether to ask soon again, or the failure of a lost action.
    ///
    /// One such answer does not end the heartbeats: the hook may not have begun to wait, and a description may be older than the
    /// answer. The step that completes the action decides what the answer means for it.
    async fn refused(&self, message: &str, contradictions: &mut u32) -> Result<bool, Failure> {
        let instance = &self.launch.instance.instance_id;
        match self.launch.autoscaling.state(instance).await {
            Ok(state) if self.is_lost(&state) => return Err(self.launch.terminating(state)),
            Ok(state) if self.waits(&state) => {
                *contradictions += 1;
                if *contradictions == CONTRADICTIONS {
                    let text = format!(
                        "heartbeats are refused: {message}; {instance} is {state}, so lifecycle.{} or asg_name may be wrong",
                        self.key()
                    );
                    self.journal.warn(self.step(), None, text);
                }
                return Ok(*contradictions < CONTRADICTIONS);
            }
            Ok(state) => {
                tracing::debug!("no heartbeat: {message}; {instance} is {state}");
                *contradictions = 0;
            }
            Err(failure) => tracing::debug!("no heartbeat: {message}; {failure}"),
        }
        Ok(false)
    }

    /// Waits for an action that is not completed.
    async fn until_there_is_an_action(&self) {
        let is_completed = || match self.of {
            Sequence::Boot => self.journal.launch_outcome().is_some(),
            Sequence::Departure => self.journal.has_left(),
        };
        while is_completed() {
            sleep(IDLE).await;
        }
    }

    fn hook<'c>(&self, config: &'c config::Lifecycle) -> Option<&'c str> {
        match self.of {
            Sequence::Boot => Some(&config.hook_name),
            Sequence::Departure => config.terminate_hook_name.as_deref(),
        }
    }

    /// The key of the hook's name in `[lifecycle]`.
    fn key(&self) -> &'static str {
        match self.of {
            Sequence::Boot => "hook_name",
            Sequence::Departure => "terminate_hook_name",
        }
    }

    /// The step that completes the action.
    fn step(&self) -> StepName {
        match self.of {
            Sequence::Boot => StepName::Complete,
            Sequence::Departure => StepName::Leave,
        }
    }

    fn remedy<'f>(&self, failure: &'f Failure) -> &'f str {
        match self.of {
            Sequence::Boot => failure.what_to_do(),
            Sequence::Departure => without_retry(failure.what_to_do()),
        }
    }

    /// Whether the instance in this state waits for one of its hooks.
    fn waits(&self, state: &LifecycleState) -> bool {
        match self.of {
            Sequence::Boot => *state == LifecycleState::PendingWait,
            Sequence::Departure => *state == LifecycleState::Terminating(State::TerminatingWait),
        }
    }

    /// Whether the action is over, whatever this machine does.
    fn is_lost(&self, state: &LifecycleState) -> bool {
        match self.of {
            Sequence::Boot => matches!(state, LifecycleState::Terminating(_)),
            Sequence::Departure => state.has_left(),
        }
    }

    /// The hook's heartbeat timeout: from Auto Scaling, else from the configuration, else the shortest that is allowed.
    async fn timeout(&self, config: &config::Lifecycle, hook: &str) -> Duration {
        let mut pauses = [1, 2, 4, 8].into_iter().map(Duration::from_secs);
        loop {
            let why = match self.launch.autoscaling.hook(&config.asg_name, hook).await {
                Ok(Some(hook)) => return hook.heartbeat_timeout,
                Ok(None) => "the group has no such hook".to_owned(),
                Err(failure) => match (failure.class(), pauses.next()) {
                    (Class::Outage, Some(pause)) => {
                        sleep(pause).await;
                        continue;
                    }
                    _ => failure.to_string(),
                },
            };
            let (timeout, from) = match config.heartbeat_timeout {
                Some(timeout) => (timeout, "as lifecycle.heartbeat_timeout says"),
                None => (SHORTEST, "the shortest there is; set lifecycle.heartbeat_timeout to the hook's own"),
            };
            let assumed = rough(timeout);
            tracing::info!("the timeout of hook {hook} cannot be read ({why}); taken to be {assumed}, {from}");
            return timeout;
        }
    }
}
