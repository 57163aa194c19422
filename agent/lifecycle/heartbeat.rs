//! Heartbeats: while work is inside its own deadline, the lifecycle hook's timeout is begun anew again and again, so that a
//! long but healthy boot is not given up by Auto Scaling. A step that is over its time gets none.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Launch;
use crate::aws::autoscaling::{Completion, LifecycleState};
use crate::failure::{Class, Code, Failure};
use crate::runner::allowance::Allowance;
use crate::sequence::StepName;
use crate::state::Journal;
use crate::time::rough;

/// The shortest timeout that Auto Scaling lets a hook have (FACTS); taken where nobody says how long it is.
const SHORTEST: Duration = Duration::from_secs(30);

/// Heartbeats come no faster, whatever the hook's timeout is said to be.
const FASTEST: Duration = Duration::from_secs(1);

/// The first heartbeat comes no later than this after the agent began, if it can: the hook has been waiting since before.
const FIRST: Duration = Duration::from_secs(10);

/// How often the journal is asked whether there is a launch to be kept waiting.
const IDLE: Duration = Duration::from_secs(1);

/// So often in a row Auto Scaling must say that the hook waits and that nothing waits under its name, before somebody is told:
/// the two answers come from different places, and between them the instance may have moved on.
const CONTRADICTIONS: u32 = 3;
/// The pause between two of these.
const AFTER_CONTRADICTION: Duration = Duration::from_secs(5);

/// Sends heartbeats for a launch.
#[derive(Debug)]
pub struct Heart<'a> {
    /// The launch.
    pub launch: &'a Launch<'a>,
    /// Knows whether it was completed.
    pub journal: &'a Journal,
    /// When there may be heartbeats.
    pub allowance: &'a Allowance,
}

impl Heart<'_> {
    /// Beats until the launch is lost, which is what it returns. To be run beside the work. As long as the launch is completed
    /// there are none; that may change when the instance is launched anew from a warm pool.
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
            let (autoscaling, instance) = (self.launch.autoscaling, &self.launch.node.instance_id);
            self.allowance.beat.set(Some(Instant::now()));
            match autoscaling.heartbeat(&config.asg_name, &config.hook_name, instance).await {
                Ok(Completion::Accepted) => {
                    tracing::debug!("heartbeat; the next one in {}", rough(third));
                    contradictions = 0;
                }
                // One such answer does not end the heartbeats: the hook may not have begun to wait, and a description may be older
                // than the answer. The `complete` step decides what the answer means for the launch.
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
                // IAM may come to allow it.
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

    /// Returns when a launch is not completed.
    async fn until_there_is_a_launch(&self) {
        while self.journal.launch_outcome().is_some() {
            sleep(IDLE).await;
        }
    }

    /// The hook's timeout: as Auto Scaling says, or else as configured, or else the shortest there is.
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
            tracing::info!(
                "the timeout of hook {} cannot be read ({why}); taken to be {}, {from}",
                config.hook_name,
                rough(timeout)
            );
            return timeout;
        }
    }
}
