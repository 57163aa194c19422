//! Heartbeats restart the lifecycle hook's timeout while the work is within its own deadline, so that Auto Scaling does not
//! give up a long but healthy boot. A step beyond its deadline gets none.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Launch;
use crate::aws::autoscaling::{Completion, LifecycleState};
use crate::failure::{Class, Code, Failure};
use crate::runner::allowance::Allowance;
use crate::sequence::StepName;
use crate::state::Journal;
use crate::time::rough;

/// The shortest heartbeat timeout of a hook (docs/facts.md, "Lifecycle hooks"); assumed where the real one cannot be read.
const SHORTEST: Duration = Duration::from_secs(30);

/// The shortest interval between heartbeats, however short the hook's timeout is.
const FASTEST: Duration = Duration::from_secs(1);

/// The first heartbeat is sent at most this long after the agent started: the hook began to wait before that.
const FIRST: Duration = Duration::from_secs(10);

/// How often the journal is checked for a launch that has to be kept waiting.
const IDLE: Duration = Duration::from_secs(1);

/// How often in a row Auto Scaling must contradict itself (the instance waits; no action waits under the hook's name) before a
/// warning is given: the two answers come from different APIs, and the instance may move on between them.
const CONTRADICTIONS: u32 = 3;
/// The pause between two such answers.
const AFTER_CONTRADICTION: Duration = Duration::from_secs(5);

/// Sends heartbeats for a launch.
pub struct Heart<'a> {
    pub(crate) launch: &'a Launch<'a>,
    /// Records whether the launch was completed.
    pub(crate) journal: &'a Journal,
    pub(crate) allowance: &'a Allowance,
}

impl Heart<'_> {
    /// Sends heartbeats, beside the work, until the launch is lost, and returns that failure. None are sent while the launch is
    /// completed, which changes when the instance is launched anew from a warm pool.
    pub async fn beat(&self) -> Failure {
        let Some(config) = self.launch.config else { return std::future::pending().await };
        self.until_there_is_a_launch().await;
        let third = (self.timeout(config).await / 3).max(FASTEST);
        let mut pause = match self.allowance.beat.get() {
            Some(last) => third.saturating_sub(last.elapsed()),
            None => third.min(FIRST).saturating_sub(self.allowance.began.elapsed()),
        };
        let mut denied = false;
        let mut contradictions = 0;
        loop {
            sleep(pause).await;
            pause = third;
            self.until_there_is_a_launch().await;
            if !self.allowance.holds() {
                continue;
            }
            let (autoscaling, instance) = (self.launch.autoscaling, &self.launch.instance.instance_id);
            self.allowance.beat.set(Some(Instant::now()));
            match autoscaling.heartbeat(&config.asg_name, &config.hook_name, instance).await {
                Ok(Completion::Accepted) => {
                    tracing::debug!("heartbeat; the next one in {}", rough(third));
                    contradictions = 0;
                }
                // One such answer does not end the heartbeats: the hook may not have begun to wait, and a description may be
                // older than the answer. The `complete` step decides what the answer means for the launch.
                Ok(Completion::NoActiveAction(message)) => match autoscaling.state(instance).await {
                    Ok(LifecycleState::Terminating(state)) => return self.launch.terminating(state),
                    Ok(state @ LifecycleState::PendingWait) => {
                        contradictions += 1;
                        if contradictions < CONTRADICTIONS {
                            pause = third.min(AFTER_CONTRADICTION);
                        }
                        if contradictions == CONTRADICTIONS {
                            let text = format!(
                                "heartbeats are refused: {message}; {instance} is {state}, so lifecycle.hook_name or asg_name may be wrong"
                            );
                            self.journal.warn(StepName::Complete, None, text);
                        }
                    }
                    Ok(state) => {
                        tracing::debug!("no heartbeat: {message}; {instance} is {state}");
                        contradictions = 0;
                    }
                    Err(failure) => tracing::debug!("no heartbeat: {message}; {failure}"),
                },
                // IAM may allow it later.
                Err(failure) if failure.code == Code::AccessDenied => {
                    if !std::mem::replace(&mut denied, true) {
                        let text = format!("no heartbeat: {failure}; {}", failure.what_to_do());
                        self.journal.warn(StepName::Complete, None, text);
                    }
                }
                Err(failure) => {
                    tracing::debug!("no heartbeat: {failure}");
                    pause = (third / 4).min(Duration::from_secs(5));
                }
            }
        }
    }

    /// Waits for a launch that is not completed.
    async fn until_there_is_a_launch(&self) {
        while self.journal.launch_outcome().is_some() {
            sleep(IDLE).await;
        }
    }

    /// The hook's heartbeat timeout: from Auto Scaling, else from the configuration, else the shortest that is allowed.
    async fn timeout(&self, config: &crate::config::Lifecycle) -> Duration {
        let mut pauses = [1, 2, 4, 8].into_iter().map(Duration::from_secs);
        loop {
            let why = match self.launch.autoscaling.hook(&config.asg_name, &config.hook_name).await {
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
            let (hook, assumed) = (&config.hook_name, rough(timeout));
            tracing::info!("the timeout of hook {hook} cannot be read ({why}); taken to be {assumed}, {from}");
            return timeout;
        }
    }
}
