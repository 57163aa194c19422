//! Auto Scaling as an operator uses it: groups with all that decides whether a node may go, their activities, and the requests that
//! replace a node.

use std::collections::BTreeMap;

use aws_sdk_autoscaling::types::{
    self as sdk, AutoScalingGroup, AutoScalingInstanceDetails, ImpairedZoneHealthCheckBehavior, InstanceRefreshStatus,
    LaunchTemplateSpecification, Tag,
};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::autoscaling::{AutoScaling, LifecycleState, State, is_being_deleted, is_healthy, once, retains};
pub use super::launches::{MixedPolicy, Override, TemplateChoice, TemplateSource};
use crate::config::Groups;
use crate::failure::{Code, Failure};

/// An Auto Scaling group as Auto Scaling describes it. The description lags behind, and can step backwards in time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct FleetGroup {
    /// Its name.
    pub name: String,
    /// How many instances it has at least.
    pub min: i32,
    /// How many instances it has at most.
    pub max: i32,
    /// How many instances it wants.
    pub desired: i32,
    /// Whether somebody deletes it.
    pub is_being_deleted: bool,
    /// What it launches from.
    pub template: TemplateSource,
    /// Its instances, sorted by id.
    pub members: Vec<FleetMember>,
    /// The suspended processes, each with the reason.
    pub suspended: BTreeMap<String, String>,
    /// The instance maintenance policy: the minimum and the maximum healthy percentage.
    pub maintenance_policy: Option<(Option<i32>, Option<i32>)>,
    /// Whether it keeps an instance whose termination is abandoned.
    pub retains: bool,
    /// Whether zonal shift is enabled.
    pub zonal_shift: bool,
    /// Whether it leaves unhealthy instances alone in a zone that is shifted away (`IgnoreUnhealthy`).
    pub ignores_unhealthy: bool,
    /// Its availability zones.
    pub zones: Vec<String>,
    /// Its own tags.
    pub tags: BTreeMap<String, String>,
}

/// An instance of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetMember {
    /// `i-…`
    pub instance_id: String,
    /// Its lifecycle state.
    pub state: LifecycleState,
    /// Whether Auto Scaling takes it for healthy.
    pub is_healthy: bool,
    /// The template that it was launched from; `None`: from a launch configuration, or it was attached.
    pub template: Option<MemberTemplate>,
    /// Whether it is protected from scale-in.
    pub is_protected: bool,
    /// `eu-west-1a`
    pub zone: String,
    /// `m6i.large`
    pub instance_type: String,
}

/// The version of a launch template that an instance was launched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberTemplate {
    /// `lt-…`
    pub id: String,
    /// The template's name.
    pub name: String,
    /// The version's number: Auto Scaling resolves `$Latest` and `$Default` when it launches.
    pub version: String,
}

/// A scaling activity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    /// When it started, in seconds since the epoch.
    pub started: i64,
    /// When it ended.
    pub ended: Option<i64>,
    /// `Successful`, `Failed`, `InProgress`, …
    pub status: String,
    /// As in `Launching a new EC2 instance: i-…`.
    pub description: String,
    /// AWS's words about the status: why it failed.
    pub message: String,
    /// Why it was started.
    pub cause: String,
}

/// The outcome of a request to terminate an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Accepted.
    Accepted,
    /// Auto Scaling is at work on the group (`ScalingActivityInProgress`, `ResourceContention`), with its words: look again.
    Busy(String),
    /// The instance is in no group any more, with AWS's words.
    Gone(String),
}

/// How many instances one call of `DescribeAutoScalingInstances` may name.
const MOST_INSTANCES: usize = 50;
/// How many such calls are under way at once: ten for a cluster of 500 in a few seconds, without draining the account's quota.
const AT_ONCE: usize = 4;
/// How many tags one call sets or deletes; AWS names no limit for one call, and 50 for one group.
const MOST_TAGS: usize = 50;
/// The account setting by which Auto Scaling launches a replacement before it terminates an instance.
const LAUNCH_BEFORE_TERMINATE: &str = "launchBeforeTerminate";

impl AutoScaling {
    /// The groups of a cluster, sorted by name: those that have its tag, or those of its names that exist.
    pub async fn fleet(&self, cluster: &Groups) -> Result<Vec<FleetGroup>, Failure> {
        let mut groups: Vec<_> = self.describe_cluster(cluster).await?.into_iter().map(group).collect();
        groups.sort_by(|one, other| one.name.cmp(&other.name));
        groups.dedup_by(|one, other| one.name == other.name);
        Ok(groups)
    }

    /// These instances and their groups, by instance id, as `DescribeAutoScalingInstances` shows them. An instance in no group is
    /// missing from the answer.
    pub async fn fleet_members(&self, ids: &[String]) -> Result<BTreeMap<String, (String, FleetMember)>, Failure> {
        let calls = stream::iter(ids.chunks(MOST_INSTANCES)).map(|ids| async move {
            let answer =
                self.client.describe_auto_scaling_instances().set_instance_ids(Some(ids.to_vec())).send().await;
            answer.map_err(|error| self.caller.read("autoscaling:DescribeAutoScalingInstances", &error).failure)
        });
        let answers: Vec<_> = calls.buffered(AT_ONCE).try_collect().await?;
        let instances = answers.into_iter().flat_map(|answer| answer.auto_scaling_instances.unwrap_or_default());
        Ok(instances
            .map(|details| {
                let group = details.auto_scaling_group_name.clone().unwrap_or_default();
                let member = member_of(details);
                (member.instance_id.clone(), (group, member))
            })
            .collect())
    }

    /// The group's latest scaling activities, at most `most` (AWS: 100), the newest first.
    pub async fn activities(&self, group: &str, most: i32) -> Result<Vec<Activity>, Failure> {
        let answer =
            self.client.describe_scaling_activities().auto_scaling_group_name(group).max_records(most).send().await;
        let answer = answer.map_err(|error| {
            self.caller.read("autoscaling:DescribeScalingActivities", &error).about(format_args!("group {group}"))
        })?;
        Ok(answer.activities.unwrap_or_default().into_iter().map(activity).collect())
    }

    /// The status of the group's instance refresh that is not over: `Pending`, `InProgress`, `Cancelling`, …
    pub async fn refresh_at_work(&self, group: &str) -> Result<Option<String>, Failure> {
        // The newest first; a group has one at work at most.
        let answer =
            self.client.describe_instance_refreshes().auto_scaling_group_name(group).max_records(1).send().await;
        let answer = answer.map_err(|error| {
            self.caller.read("autoscaling:DescribeInstanceRefreshes", &error).about(format_args!("group {group}"))
        })?;
        let statuses = answer.instance_refreshes().iter().filter_map(|refresh| refresh.status());
        Ok(statuses.filter(|status| !is_over(status)).map(ToString::to_string).next())
    }

    /// Whether the account launches a replacement before it terminates an instance; `None` where Auto Scaling's answer lacks that
    /// setting.
    pub async fn launches_before_terminate(&self) -> Result<Option<bool>, Failure> {
        let answer = self.client.describe_account_settings().name(LAUNCH_BEFORE_TERMINATE).send().await;
        let answer = answer.map_err(|error| self.caller.read("autoscaling:DescribeAccountSettings", &error).failure)?;
        let setting = answer.settings().iter().find(|setting| setting.name() == Some(LAUNCH_BEFORE_TERMINATE));
        Ok(setting.and_then(|setting| setting.value()).map(|value| value.eq_ignore_ascii_case("enabled")))
    }

    /// Makes the group launch from `source`, and changes nothing else. Sent once.
    pub async fn set_template(&self, group: &str, source: &TemplateSource) -> Result<(), Failure> {
        let call = self.client.update_auto_scaling_group().auto_scaling_group_name(group);
        let call = match source {
            TemplateSource::None => {
                let text = format!("group {group} launches from no launch template, so it has no version to set");
                let remedy = "give the group a launch template instead of its launch configuration";
                return Err(Failure::new(Code::ApiRefused, text).remedy(remedy));
            }
            TemplateSource::Template(choice) => call.launch_template(choice.specification()),
            TemplateSource::Mixed(policy) => call.mixed_instances_policy(policy.request()),
        };
        let answer = call.customize().config_override(once()).send().await;
        answer.map(drop).map_err(|error| {
            let error = self.caller.read("autoscaling:UpdateAutoScalingGroup", &error);
            match error.failure.code {
                Code::AccessDenied => error.about(format_args!("group {group}")).remedy(MAY_STAGE),
                _ => error.about(format_args!("group {group}")),
            }
        })
    }

    /// Sets tags of groups, each as (group, key, value); instances do not get them.
    pub async fn write_tags(&self, tags: &[(&str, &str, &str)]) -> Result<(), Failure> {
        for tags in tags.chunks(MOST_TAGS) {
            let tags = tags.iter().map(|(group, key, value)| tag(group, key).value(*value).build()).collect();
            let answer = self.client.create_or_update_tags().set_tags(Some(tags)).send().await;
            answer.map_err(|error| self.caller.read("autoscaling:CreateOrUpdateTags", &error).failure)?;
        }
        Ok(())
    }

    /// Deletes tags of groups, each as (group, key), whatever their values.
    pub async fn delete_tags(&self, tags: &[(&str, &str)]) -> Result<(), Failure> {
        for tags in tags.chunks(MOST_TAGS) {
            let tags = tags.iter().map(|(group, key)| tag(group, key).build()).collect();
            let answer = self.client.delete_tags().set_tags(Some(tags)).send().await;
            answer.map_err(|error| self.caller.read("autoscaling:DeleteTags", &error).failure)?;
        }
        Ok(())
    }

    /// Terminates an instance of a group, which then replaces it. Sent once.
    pub async fn terminate(&self, instance_id: &str) -> Result<Sent, Failure> {
        let call = self.client.terminate_instance_in_auto_scaling_group().instance_id(instance_id);
        let call = call.should_decrement_desired_capacity(false).customize().config_override(once());
        let Err(error) = call.send().await else { return Ok(Sent::Accepted) };
        let error = self.caller.read("autoscaling:TerminateInstanceInAutoScalingGroup", &error);
        match error.code.as_deref().unwrap_or_default() {
            "ScalingActivityInProgress"
            | "ScalingActivityInProgressFault"
            | "ResourceContention"
            | "ResourceContentionFault" => Ok(Sent::Busy(error.message)),
            // "Instance Id not found - No managed instance found for instance ID: i-…".
            "ValidationError" if error.message.contains("not found") => Ok(Sent::Gone(error.message)),
            _ => Err(error.about(format_args!("instance {instance_id}"))),
        }
    }
}

/// Auto Scaling checks whether the caller may launch from the template (Auto Scaling user guide, "Launch template permissions").
const MAY_STAGE: &str = "allow these credentials (whose they are: aws sts get-caller-identity) \
    autoscaling:UpdateAutoScalingGroup on the group; and, because Auto Scaling checks that the caller may launch from the \
    template: ec2:RunInstances, iam:PassRole on the role of the template's instance profile, and ec2:CreateTags where the template \
    tags instances";

fn is_over(status: &InstanceRefreshStatus) -> bool {
    use InstanceRefreshStatus::{Cancelled, Failed, RollbackFailed, RollbackSuccessful, Successful};
    matches!(status, Cancelled | Failed | RollbackFailed | RollbackSuccessful | Successful)
}

fn tag(group: &str, key: &str) -> sdk::builders::TagBuilder {
    Tag::builder().resource_type("auto-scaling-group").resource_id(group).key(key).propagate_at_launch(false)
}

fn group(group: AutoScalingGroup) -> FleetGroup {
    let (is_being_deleted, retains) = (is_being_deleted(&group), retains(&group));
    let impairment = group.availability_zone_impairment_policy();
    let behavior = impairment.and_then(|policy| policy.impaired_zone_health_check_behavior());
    let ignores_unhealthy = behavior == Some(&ImpairedZoneHealthCheckBehavior::IgnoreUnhealthy);
    let zonal_shift = impairment
        .and_then(aws_sdk_autoscaling::types::AvailabilityZoneImpairmentPolicy::zonal_shift_enabled)
        .unwrap_or_default();
    let mut members: Vec<_> = group.instances.unwrap_or_default().into_iter().map(member).collect();
    members.sort_by(|one: &FleetMember, other| one.instance_id.cmp(&other.instance_id));
    let suspended = group.suspended_processes.unwrap_or_default().into_iter();
    let tags = group.tags.unwrap_or_default().into_iter();
    FleetGroup {
        name: group.auto_scaling_group_name.unwrap_or_default(),
        min: group.min_size.unwrap_or_default(),
        max: group.max_size.unwrap_or_default(),
        desired: group.desired_capacity.unwrap_or_default(),
        is_being_deleted,
        template: TemplateSource::new(group.launch_template, group.mixed_instances_policy),
        members,
        suspended: suspended
            .map(|process| (process.process_name.unwrap_or_default(), process.suspension_reason.unwrap_or_default()))
            .collect(),
        maintenance_policy: group
            .instance_maintenance_policy
            .map(|policy| (policy.min_healthy_percentage, policy.max_healthy_percentage)),
        retains,
        zonal_shift,
        ignores_unhealthy,
        zones: group.availability_zones.unwrap_or_default(),
        tags: tags.map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default())).collect(),
    }
}

fn member(instance: sdk::Instance) -> FleetMember {
    FleetMember {
        state: LifecycleState::parse(instance.lifecycle_state.as_ref().map_or("", State::as_str)),
        is_healthy: is_healthy(instance.health_status.as_deref()),
        instance_id: instance.instance_id.unwrap_or_default(),
        template: instance.launch_template.map(member_template),
        is_protected: instance.protected_from_scale_in.unwrap_or_default(),
        zone: instance.availability_zone.unwrap_or_default(),
        instance_type: instance.instance_type.unwrap_or_default(),
    }
}

fn member_of(details: AutoScalingInstanceDetails) -> FleetMember {
    FleetMember {
        state: LifecycleState::parse(details.lifecycle_state.as_deref().unwrap_or_default()),
        is_healthy: is_healthy(details.health_status.as_deref()),
        instance_id: details.instance_id.unwrap_or_default(),
        template: details.launch_template.map(member_template),
        is_protected: details.protected_from_scale_in.unwrap_or_default(),
        zone: details.availability_zone.unwrap_or_default(),
        instance_type: details.instance_type.unwrap_or_default(),
    }
}

fn member_template(template: LaunchTemplateSpecification) -> MemberTemplate {
    MemberTemplate {
        id: template.launch_template_id.unwrap_or_default(),
        name: template.launch_template_name.unwrap_or_default(),
        version: template.version.unwrap_or_default(),
    }
}

fn activity(activity: sdk::Activity) -> Activity {
    Activity {
        started: activity.start_time.map_or(0, |time| time.secs()),
        ended: activity.end_time.map(|time| time.secs()),
        status: activity.status_code.map_or_else(String::new, |status| status.to_string()),
        description: activity.description.unwrap_or_default(),
        message: activity.status_message.unwrap_or_default(),
        cause: activity.cause.unwrap_or_default(),
    }
}
