//! Auto Scaling: the instance's lifecycle state and the launch lifecycle action.

use std::fmt;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_autoscaling::Client;
use aws_sdk_autoscaling::types::LifecycleHook;
pub use aws_sdk_autoscaling::types::LifecycleState as State;

use super::error::{self, CallError};
use crate::failure::{Code, Failure};

/// Auto Scaling.
#[derive(Debug)]
pub struct AutoScaling {
    client: Client,
}

/// Where the instance stands in its group (docs/facts.md, "Lifecycle states").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LifecycleState {
    /// `Pending`: the launch hook's wait has not begun.
    Pending,
    /// `Pending:Wait`: a launch hook waits.
    PendingWait,
    /// `Pending:Proceed`: the launch hooks are through.
    PendingProceed,
    /// `InService`.
    InService,
    /// `Terminating…`, `Terminated`, `Warmed:Terminating…`: on its way out.
    Terminating(State),
    /// `Warmed:…`: in the warm pool.
    Warmed(State),
    /// `Standby`, `Detached`, …: it has been in service, so its launch is complete.
    OutOfService(State),
    /// Anything else, also what AWS adds later.
    Other(State),
    /// In no group.
    NoGroup,
    /// IAM does not let the state be read.
    Unreadable,
}

/// What the states of a warm pool begin with.
const POOL: &str = "Warmed:";

/// What the states of instances begin with that have been in service and are not any more (FACTS: lifecycle states).
const OUT_OF_SERVICE: [&str; 5] = ["Standby", "EnteringStandby", "ReplacingRootVolume", "RootVolumeReplaced", "Detach"];

impl fmt::Display for LifecycleState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LifecycleState::Pending => State::Pending.as_str(),
            LifecycleState::PendingWait => State::PendingWait.as_str(),
            LifecycleState::PendingProceed => State::PendingProceed.as_str(),
            LifecycleState::InService => State::InService.as_str(),
            LifecycleState::Terminating(state)
            | LifecycleState::Warmed(state)
            | LifecycleState::OutOfService(state)
            | LifecycleState::Other(state) => state.as_str(),
            LifecycleState::NoGroup => "in no group",
            LifecycleState::Unreadable => "in an unknown state",
        })
    }
}

impl LifecycleState {
    /// Reads a state as Auto Scaling and the metadata service write it.
    pub fn parse(text: &str) -> Self {
        let begins = |beginning: &&str| text.starts_with(*beginning);
        match State::from(text) {
            State::Pending => LifecycleState::Pending,
            State::PendingWait => LifecycleState::PendingWait,
            State::PendingProceed => LifecycleState::PendingProceed,
            State::InService => LifecycleState::InService,
            // The others by their beginnings, so that a state which AWS adds to one of these groups is known, too.
            // `Terminated` too, and an instance that leaves its warm pool for good.
            state if text.strip_prefix(POOL).unwrap_or(text).starts_with("Terminat") => {
                LifecycleState::Terminating(state)
            }
            state if begins(&POOL) => LifecycleState::Warmed(state),
            state if OUT_OF_SERVICE.iter().any(begins) => LifecycleState::OutOfService(state),
            state => LifecycleState::Other(state),
        }
    }

    /// Whether the instance is in a warm pool, be it on its way out of the group.
    pub fn is_in_pool(&self) -> bool {
        matches!(self, LifecycleState::Warmed(state) | LifecycleState::Terminating(state) if state.as_str().starts_with(POOL))
    }
}

/// What a request about a lifecycle action came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Accepted.
    Accepted,
    /// `No active Lifecycle Action found`, with the service's message: the state decides.
    NoActiveAction(String),
}

/// An instance in its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The group's name.
    pub group: String,
    /// The instance's state in it.
    pub state: LifecycleState,
}

/// A lifecycle hook as Auto Scaling has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchHook {
    /// Its name, unique in the group.
    pub name: String,
    /// How long an action waits without a heartbeat.
    pub heartbeat_timeout: Duration,
    /// What an action whose time is over amounts to: `ABANDON` or `CONTINUE`.
    pub default_result: String,
    /// [`LAUNCHING`] or `autoscaling:EC2_INSTANCE_TERMINATING`.
    pub transition: String,
    /// When an action ends whatever its heartbeats.
    pub global_timeout: Duration,
}

/// The transition of a launch hook.
pub const LAUNCHING: &str = "autoscaling:EC2_INSTANCE_LAUNCHING";

impl LaunchHook {
    /// Whether instances wait for it when they are launched.
    pub fn is_for_launches(&self) -> bool {
        self.transition == LAUNCHING
    }
}

/// When an action ends whatever its heartbeats, by the hook's heartbeat timeout (docs/facts.md, "Lifecycle hooks").
pub fn global_limit(heartbeat_timeout: Duration) -> Duration {
    heartbeat_timeout.saturating_mul(100).min(Duration::from_hours(48))
}

impl AutoScaling {
    pub(super) fn new(config: &SdkConfig) -> Self {
        AutoScaling { client: Client::new(config) }
    }

    /// The group the instance is in and its state there; none where it is in no group. Not being allowed to read it is a
    /// failure with the code `AccessDenied`.
    pub async fn membership(&self, instance_id: &str) -> Result<Option<Membership>, Failure> {
        let answer = self.client.describe_auto_scaling_instances().instance_ids(instance_id).send().await;
        let answer = answer.map_err(|error| error::read("autoscaling:DescribeAutoScalingInstances", &error).failure)?;
        let instances = answer.auto_scaling_instances();
        let instance = instances.iter().find(|instance| instance.instance_id() == Some(instance_id));
        Ok(instance.and_then(|instance| {
            Some(Membership {
                group: instance.auto_scaling_group_name().unwrap_or_default().to_owned(),
                state: LifecycleState::parse(instance.lifecycle_state()?),
            })
        }))
    }

    /// The instance's lifecycle state. Not being allowed to read it is an answer, not a failure: the nodes' policy of
    /// `stateful_application_module` does not allow it.
    pub async fn state(&self, instance_id: &str) -> Result<LifecycleState, Failure> {
        match self.membership(instance_id).await {
            Ok(membership) => Ok(membership.map_or(LifecycleState::NoGroup, |membership| membership.state)),
            Err(failure) if failure.code == Code::AccessDenied => {
                tracing::debug!("the lifecycle state cannot be read: {failure}");
                Ok(LifecycleState::Unreadable)
            }
            Err(failure) => Err(failure),
        }
    }

    /// The group's lifecycle hook of that name; none where the group has no such hook, or does not exist itself. Not being
    /// allowed to read it is a failure with the code `AccessDenied`.
    pub async fn hook(&self, group: &str, name: &str) -> Result<Option<LaunchHook>, Failure> {
        let hooks = self.hooks(group).await?.unwrap_or_default();
        Ok(hooks.into_iter().find(|hook| hook.name == name))
    }

    /// All lifecycle hooks of the group; none where there is no such group.
    pub async fn hooks(&self, group: &str) -> Result<Option<Vec<LaunchHook>>, Failure> {
        let answer = self.client.describe_lifecycle_hooks().auto_scaling_group_name(group).send().await;
        match answer.map_err(|error| error::read("autoscaling:DescribeLifecycleHooks", &error)) {
            Ok(answer) => Ok(Some(answer.lifecycle_hooks().iter().map(launch_hook).collect())),
            // Not modelled by the SDK: "AutoScalingGroup name not found - …".
            Err(error) if error.is("ValidationError") && error.message.contains("not found") => Ok(None),
            Err(error) => Err(error.failure),
        }
    }

    /// Completes the launch lifecycle action with `CONTINUE` or `ABANDON`.
    pub async fn complete(
        &self,
        group: &str,
        hook: &str,
        instance_id: &str,
        result: &str,
    ) -> Result<Completion, Failure> {
        let answer = self
            .client
            .complete_lifecycle_action()
            .auto_scaling_group_name(group)
            .lifecycle_hook_name(hook)
            .instance_id(instance_id)
            .lifecycle_action_result(result)
            .send()
            .await;
        let answer = answer.map(drop).map_err(|error| error::read("autoscaling:CompleteLifecycleAction", &error));
        accepted(answer, group, hook)
    }

    /// Begins the launch lifecycle action's timeout anew.
    pub async fn heartbeat(&self, group: &str, hook: &str, instance_id: &str) -> Result<Completion, Failure> {
        let answer = self
            .client
            .record_lifecycle_action_heartbeat()
            .auto_scaling_group_name(group)
            .lifecycle_hook_name(hook)
            .instance_id(instance_id)
            .send()
            .await;
        let answer =
            answer.map(drop).map_err(|error| error::read("autoscaling:RecordLifecycleActionHeartbeat", &error));
        accepted(answer, group, hook)
    }
}

fn accepted(answer: Result<(), CallError>, group: &str, hook: &str) -> Result<Completion, Failure> {
    match answer {
        Ok(()) => Ok(Completion::Accepted),
        // Not modelled by the SDK: known by code and message (docs/facts.md, "Lifecycle hooks").
        Err(error) if error.is("ValidationError") && error.message.contains("No active Lifecycle Action") => {
            Ok(Completion::NoActiveAction(error.message))
        }
        Err(error) => Err(error.about(format_args!("hook {hook} of {group}"))),
    }
}

fn launch_hook(hook: &LifecycleHook) -> LaunchHook {
    let seconds = |value: Option<i32>| value.and_then(|value| u64::try_from(value).ok()).map(Duration::from_secs);
    // AWS's own defaults, for an answer that leaves them out.
    let heartbeat_timeout = seconds(hook.heartbeat_timeout()).unwrap_or(Duration::from_hours(1));
    LaunchHook {
        name: hook.lifecycle_hook_name().unwrap_or_default().to_owned(),
        heartbeat_timeout,
        default_result: hook.default_result().unwrap_or("ABANDON").to_owned(),
        transition: hook.lifecycle_transition().unwrap_or_default().to_owned(),
        global_timeout: seconds(hook.global_timeout()).unwrap_or_else(|| global_limit(heartbeat_timeout)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_on_the_way_out_is_told_from_the_others() {
        for out in [
            "Terminating",
            "Terminating:Wait",
            "Terminating:Retained",
            "Terminated",
            "Warmed:Terminating:Wait",
            "Warmed:Terminated",
        ] {
            let state = LifecycleState::parse(out);
            assert_eq!(state.is_in_pool(), out.starts_with("Warmed:"), "{out}");
            assert_eq!(state, LifecycleState::Terminating(out.into()));
        }
        for warm in ["Warmed:Pending:Wait", "Warmed:Stopped", "Warmed:Hibernated"] {
            let state = LifecycleState::parse(warm);
            assert!(state.is_in_pool(), "{warm}");
            assert_eq!(state, LifecycleState::Warmed(warm.into()));
        }
    }
}
