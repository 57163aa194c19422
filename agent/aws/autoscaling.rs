//! Auto Scaling: groups and their instances, lifecycle hooks and their actions.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_sdk_autoscaling::config::Builder;
use aws_sdk_autoscaling::operation::describe_auto_scaling_groups::builders::DescribeAutoScalingGroupsFluentBuilder as DescribeGroups;
use aws_sdk_autoscaling::types::{AutoScalingGroup, Filter, LifecycleHook, RetentionAction};
use aws_sdk_autoscaling::{Client, Config};

use super::error::{CallError, Caller};
pub use super::states::{LifecycleState, State};
use crate::config::Groups;
use crate::failure::{Code, Failure};

/// The Auto Scaling client.
#[derive(Clone)]
pub struct AutoScaling {
    pub(super) client: Client,
    pub(super) caller: Caller,
}

/// The outcome of a request about a lifecycle action.
pub enum Completion {
    /// Accepted.
    Accepted,
    /// `No active Lifecycle Action found`, with the service's message: the lifecycle state tells whether the action completed.
    NoActiveAction(String),
}

/// An instance's membership of a group.
pub struct Membership {
    pub(crate) group: String,
    pub(crate) state: LifecycleState,
}

/// An Auto Scaling group as Auto Scaling describes it. The description lags behind, and can step backwards in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub(crate) name: String,
    /// How many instances it wants.
    pub(crate) desired: usize,
    pub(crate) is_being_deleted: bool,
    pub(crate) members: Vec<Member>,
}

/// An instance of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub(crate) instance_id: String,
    pub(crate) state: LifecycleState,
    pub(crate) is_healthy: bool,
}

/// A lifecycle hook as Auto Scaling describes it.
pub struct Hook {
    /// Its name, unique in the group.
    pub name: String,
    /// How long an action waits without a heartbeat.
    pub heartbeat_timeout: Duration,
    /// The result of an action that times out: `ABANDON` or `CONTINUE`.
    pub default_result: String,
    /// [`LAUNCHING`] or [`TERMINATING`].
    pub transition: String,
    /// How long an action waits at most, whatever its heartbeats.
    pub global_timeout: Duration,
}

/// How many groups one call may name, and return (docs/facts.md, "Auto Scaling groups").
const MOST_GROUPS: usize = 100;
const PAGE: i32 = 100;

/// The transition of a launch hook.
pub const LAUNCHING: &str = "autoscaling:EC2_INSTANCE_LAUNCHING";
/// The transition of a termination hook.
pub const TERMINATING: &str = "autoscaling:EC2_INSTANCE_TERMINATING";

impl Hook {
    /// Whether this is a launch hook.
    pub fn is_for_launches(&self) -> bool {
        self.transition == LAUNCHING
    }

    /// Whether this is a termination hook.
    pub fn is_for_terminations(&self) -> bool {
        self.transition == TERMINATING
    }
}

/// How long an action waits at most, whatever its heartbeats (docs/facts.md, "Lifecycle hooks").
pub fn global_limit(heartbeat_timeout: Duration) -> Duration {
    heartbeat_timeout.saturating_mul(100).min(Duration::from_hours(48))
}

impl AutoScaling {
    pub(super) fn new(config: &SdkConfig) -> Self {
        AutoScaling { client: Client::new(config), caller: Caller::Node }
    }

    /// An operator's client.
    pub(super) fn of_operator(config: Config) -> Self {
        AutoScaling { client: Client::from_conf(config), caller: Caller::Operator }
    }

    /// The instance's group and its state there; `None` outside any group. Fails with `AccessDenied` where IAM denies it.
    pub async fn membership(&self, instance_id: &str) -> Result<Option<Membership>, Failure> {
        let answer = self.client.describe_auto_scaling_instances().instance_ids(instance_id).send().await;
        let answer =
            answer.map_err(|error| self.caller.read("autoscaling:DescribeAutoScalingInstances", &error).failure)?;
        let instances = answer.auto_scaling_instances();
        let instance = instances.iter().find(|instance| instance.instance_id() == Some(instance_id));
        Ok(instance.and_then(|instance| {
            Some(Membership {
                group: instance.auto_scaling_group_name().unwrap_or_default().to_owned(),
                state: LifecycleState::parse(instance.lifecycle_state()?),
            })
        }))
    }

    /// The instance's lifecycle state; [`LifecycleState::Unreadable`], not a failure, where IAM denies it: the nodes' policy
    /// of `stateful_application_module` does.
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

    /// The group's hook of this name; `None` without such a hook or group. Fails with `AccessDenied` where IAM denies it.
    pub async fn hook(&self, group: &str, name: &str) -> Result<Option<Hook>, Failure> {
        Ok(self.hooks(group).await?.unwrap_or_default().into_iter().find(|hook| hook.name == name))
    }

    /// The groups of a cluster and, whatever the cluster, the group `own`. Fails with `AccessDenied` where IAM denies it.
    pub async fn groups(&self, cluster: &Groups, own: &str) -> Result<Vec<Group>, Failure> {
        let mut groups = self.cluster(cluster).await?;
        if groups.iter().all(|group| group.name != own) {
            groups.extend(self.describe_groups(|call| call.auto_scaling_group_names(own)).await?.iter().map(group));
        }
        Ok(groups)
    }

    /// The groups of a cluster: those that have its tag, or those of its names that exist.
    pub async fn cluster(&self, cluster: &Groups) -> Result<Vec<Group>, Failure> {
        Ok(self.describe_cluster(cluster).await?.iter().map(group).collect())
    }

    /// The same, as Auto Scaling answers.
    pub(super) async fn describe_cluster(&self, cluster: &Groups) -> Result<Vec<AutoScalingGroup>, Failure> {
        match cluster {
            Groups::Tagged { key, value } => {
                let filter = Filter::builder().name(format!("tag:{key}")).values(value).build();
                self.describe_groups(|call| call.filters(filter.clone())).await
            }
            Groups::Named(names) => {
                let mut groups = Vec::new();
                for names in names.chunks(MOST_GROUPS) {
                    let set = |call: DescribeGroups| call.set_auto_scaling_group_names(Some(names.to_vec()));
                    groups.extend(self.describe_groups(set).await?);
                }
                Ok(groups)
            }
        }
    }

    /// Whether the group keeps an instance whose termination is abandoned, by its instance lifecycle policy (docs/facts.md,
    /// "Lifecycle hooks").
    pub async fn retains(&self, group: &str) -> Result<bool, Failure> {
        Ok(self.describe_groups(|call| call.auto_scaling_group_names(group)).await?.iter().any(retains))
    }

    async fn describe_groups(
        &self,
        which: impl Fn(DescribeGroups) -> DescribeGroups,
    ) -> Result<Vec<AutoScalingGroup>, Failure> {
        let (mut groups, mut next) = (Vec::new(), None);
        loop {
            let call = which(self.client.describe_auto_scaling_groups()).max_records(PAGE).set_next_token(next);
            let answer = call.send().await;
            let answer =
                answer.map_err(|error| self.caller.read("autoscaling:DescribeAutoScalingGroups", &error).failure)?;
            next = answer.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            groups.extend(answer.auto_scaling_groups.unwrap_or_default());
            if next.is_none() {
                return Ok(groups);
            }
        }
    }

    /// All lifecycle hooks of the group; `None` if the group does not exist.
    pub async fn hooks(&self, group: &str) -> Result<Option<Vec<Hook>>, Failure> {
        let answer = self.client.describe_lifecycle_hooks().auto_scaling_group_name(group).send().await;
        match answer.map_err(|error| self.caller.read("autoscaling:DescribeLifecycleHooks", &error)) {
            Ok(answer) => Ok(Some(answer.lifecycle_hooks().iter().map(hook_of).collect())),
            // Not modelled by the SDK: "AutoScalingGroup name not found - …".
            Err(error) if error.is("ValidationError") && error.message.contains("not found") => Ok(None),
            Err(error) => Err(error.failure),
        }
    }

    /// Completes the launch lifecycle action with `CONTINUE` or `ABANDON`.
    pub async fn complete(&self, group: &str, hook: &str, instance: &str, result: &str) -> Result<Completion, Failure> {
        let answer = self
            .client
            .complete_lifecycle_action()
            .auto_scaling_group_name(group)
            .lifecycle_hook_name(hook)
            .instance_id(instance)
            .lifecycle_action_result(result)
            .customize()
            .config_override(once())
            .send()
            .await;
        accepted(answer.map_err(|error| self.caller.read("autoscaling:CompleteLifecycleAction", &error)), group, hook)
    }

    /// Records a heartbeat: restarts the launch lifecycle action's timeout.
    pub async fn heartbeat(&self, group: &str, hook: &str, instance_id: &str) -> Result<Completion, Failure> {
        let answer = self
            .client
            .record_lifecycle_action_heartbeat()
            .auto_scaling_group_name(group)
            .lifecycle_hook_name(hook)
            .instance_id(instance_id)
            .send()
            .await;
        accepted(
            answer.map_err(|error| self.caller.read("autoscaling:RecordLifecycleActionHeartbeat", &error)),
            group,
            hook,
        )
    }
}

/// For a request that must not be repeated unseen: an operator's client repeats all others (`aws::operator`).
pub(super) fn once() -> Builder {
    Config::builder().retry_config(RetryConfig::disabled())
}

/// Whether the group keeps an instance whose termination is abandoned.
pub(super) fn retains(group: &AutoScalingGroup) -> bool {
    let triggers = group.instance_lifecycle_policy().and_then(|policy| policy.retention_triggers());
    triggers.and_then(|triggers| triggers.terminate_hook_abandon()) == Some(&RetentionAction::Retain)
}

/// `Healthy` in `DescribeAutoScalingGroups`, `HEALTHY` in `DescribeAutoScalingInstances`.
pub(super) fn is_healthy(status: Option<&str>) -> bool {
    status.is_some_and(|health| health.eq_ignore_ascii_case("healthy"))
}

/// `Delete in progress`; a group has no other status.
pub(super) fn is_being_deleted(group: &AutoScalingGroup) -> bool {
    group.status().is_some_and(|status| !status.is_empty())
}

fn accepted<T>(answer: Result<T, CallError>, group: &str, hook: &str) -> Result<Completion, Failure> {
    match answer {
        Ok(_) => Ok(Completion::Accepted),
        // Not modelled by the SDK: recognised by code and message (docs/facts.md, "Lifecycle hooks").
        Err(error) if error.is("ValidationError") && error.message.contains("No active Lifecycle Action") => {
            Ok(Completion::NoActiveAction(error.message))
        }
        Err(error) => Err(error.about(format_args!("hook {hook} of {group}"))),
    }
}

fn group(group: &AutoScalingGroup) -> Group {
    let members = group.instances().iter().map(|instance| Member {
        instance_id: instance.instance_id().unwrap_or_default().to_owned(),
        state: LifecycleState::parse(instance.lifecycle_state().map_or("", State::as_str)),
        is_healthy: is_healthy(instance.health_status()),
    });
    Group {
        name: group.auto_scaling_group_name().unwrap_or_default().to_owned(),
        desired: group.desired_capacity().and_then(|desired| usize::try_from(desired).ok()).unwrap_or_default(),
        is_being_deleted: is_being_deleted(group),
        members: members.collect(),
    }
}

fn hook_of(hook: &LifecycleHook) -> Hook {
    let seconds = |value: Option<i32>| value.and_then(|value| u64::try_from(value).ok()).map(Duration::from_secs);
    // AWS's defaults, where the answer omits them.
    let heartbeat_timeout = seconds(hook.heartbeat_timeout()).unwrap_or(Duration::from_hours(1));
    Hook {
        name: hook.lifecycle_hook_name().unwrap_or_default().to_owned(),
        heartbeat_timeout,
        default_result: hook.default_result().unwrap_or("ABANDON").to_owned(),
        transition: hook.lifecycle_transition().unwrap_or_default().to_owned(),
        global_timeout: seconds(hook.global_timeout()).unwrap_or_else(|| global_limit(heartbeat_timeout)),
    }
}
