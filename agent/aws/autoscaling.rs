//! Auto Scaling: the instance's lifecycle state and the launch lifecycle action.

use std::fmt;

use aws_config::SdkConfig;
use aws_sdk_autoscaling::Client;

use super::error;
use crate::failure::{Code, Failure};

/// Auto Scaling.
#[derive(Debug)]
pub struct AutoScaling {
    client: Client,
}

/// Where the instance stands in its group (FACTS: lifecycle states).
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
    /// `Terminating…`: on its way out.
    Terminating(String),
    /// `Warmed:…`: in the warm pool.
    Warmed(String),
    /// Anything else, also what AWS adds later.
    Other(String),
    /// In no group.
    NoGroup,
    /// IAM does not let the state be read.
    Unreadable,
}

impl fmt::Display for LifecycleState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LifecycleState::Pending => "Pending",
            LifecycleState::PendingWait => "Pending:Wait",
            LifecycleState::PendingProceed => "Pending:Proceed",
            LifecycleState::InService => "InService",
            LifecycleState::Terminating(state) | LifecycleState::Warmed(state) | LifecycleState::Other(state) => state,
            LifecycleState::NoGroup => "in no group",
            LifecycleState::Unreadable => "in an unknown state",
        })
    }
}

impl LifecycleState {
    fn parse(text: &str) -> Self {
        match text {
            "Pending" => LifecycleState::Pending,
            "Pending:Wait" => LifecycleState::PendingWait,
            "Pending:Proceed" => LifecycleState::PendingProceed,
            "InService" => LifecycleState::InService,
            _ if text.starts_with("Terminating") => LifecycleState::Terminating(text.to_owned()),
            _ if text.starts_with("Warmed:") => LifecycleState::Warmed(text.to_owned()),
            _ => LifecycleState::Other(text.to_owned()),
        }
    }
}

/// What completing a lifecycle action came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Accepted.
    Accepted,
    /// `No active Lifecycle Action found`, with the service's message: the state decides.
    NoActiveAction(String),
}

impl AutoScaling {
    pub(super) fn new(config: &SdkConfig) -> Self {
        AutoScaling { client: Client::new(config) }
    }

    /// The instance's lifecycle state. Not being allowed to read it is an answer, not a failure: the seed's IAM policy
    /// does not grant it.
    pub async fn state(&self, instance_id: &str) -> Result<LifecycleState, Failure> {
        let answer = self.client.describe_auto_scaling_instances().instance_ids(instance_id).send().await;
        match answer.map_err(|error| error::read("autoscaling:DescribeAutoScalingInstances", &error)) {
            Ok(answer) => Ok(answer
                .auto_scaling_instances()
                .iter()
                .find(|instance| instance.instance_id() == Some(instance_id))
                .and_then(|instance| instance.lifecycle_state())
                .map_or(LifecycleState::NoGroup, LifecycleState::parse)),
            Err(error) if error.failure.code == Code::AccessDenied => {
                tracing::debug!("the lifecycle state cannot be read: {}", error.failure);
                Ok(LifecycleState::Unreadable)
            }
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
        match answer.map_err(|error| error::read("autoscaling:CompleteLifecycleAction", &error)) {
            Ok(_) => Ok(Completion::Accepted),
            // Not modelled by the SDK: known by code and message (FACTS).
            Err(error) if error.is("ValidationError") && error.message.contains("No active Lifecycle Action") => {
                Ok(Completion::NoActiveAction(error.message))
            }
            Err(error) => Err(error.about(format_args!("hook {hook} of {group}"))),
        }
    }
}
