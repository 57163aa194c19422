//! What Auto Scaling tells of the past and of the account: activities, instance refreshes, settings.

use super::{invalid, known, listing, require};
use crate::activities::ScalingActivity;
use crate::clock::iso;
use crate::core::Core;
use crate::ec2::SUBNET;
use crate::error::ApiError;
use crate::query::{Node, Params};

/// How many one answer tells of, usually and at most.
const MOST: usize = 100;
/// The setting of the account that has the replacement launched before the old instance is terminated.
const LAUNCH_FIRST: &str = "launchBeforeTerminate";
/// What is at work, as against what has ended (API reference, `InstanceRefresh`).
const ENDED: [&str; 5] = ["Successful", "Failed", "Cancelled", "RollbackFailed", "RollbackSuccessful"];

/// The newest first.
pub(super) fn describe_activities(core: &Core, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(params, &["AutoScalingGroupName", "ActivityIds.member.*", "MaxRecords", "NextToken"])?;
    let ids = params.list("ActivityIds.member");
    let world = core.world();
    let group = params.get("AutoScalingGroupName");
    if let Some(group) = group {
        world.group(group)?;
    }
    let wanted = |activity: &&ScalingActivity| {
        group.is_none_or(|group| activity.group == group) && (ids.is_empty() || ids.contains(&activity.id.as_str()))
    };
    let activities = world.activities.iter().rev().filter(wanted).collect();
    let (activities, next) = params.page_within(activities, "MaxRecords", MOST, MOST)?;
    let items = activities.into_iter().map(|activity| activity_node(core, "member", activity));
    let items: Vec<Node> = items.collect();
    Ok(listing("Activities", items, next))
}

pub(super) fn activity_node(core: &Core, element: &str, activity: &ScalingActivity) -> Node {
    let ended = activity.ended.map(|ended| Node::leaf("EndTime", iso(ended)));
    let message = activity.message.as_ref().map(|message| Node::leaf("StatusMessage", message));
    let progress = if activity.ended.is_some() { 100 } else { 30 };
    let details = format!(r#"{{"Subnet ID":"{SUBNET}","Availability Zone":"{}"}}"#, core.config.zone);
    Node::new(element)
        .with("ActivityId", &activity.id)
        .with("AutoScalingGroupName", &activity.group)
        .with("Description", &activity.description)
        .with("Cause", &activity.cause)
        .with("StartTime", iso(activity.started))
        .children(ended)
        .with("StatusCode", activity.status)
        .children(message)
        .with("Progress", progress)
        .with("Details", details)
}

/// The refresh that the group's specification tells of.
pub(super) fn describe_refreshes(core: &Core, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(params, &["AutoScalingGroupName", "InstanceRefreshIds.member.*", "MaxRecords", "NextToken"])?;
    let name = require(params, "AutoScalingGroupName")?;
    if let Some(id) = params.list("InstanceRefreshIds.member").first() {
        return Err(invalid(format!("No Instance Refresh found for ID {id} of group {name}")));
    }
    let world = core.world();
    let group = world.group(name)?;
    let refresh = group.spec().refresh.as_ref().map(|status| {
        let ended = ENDED.contains(&status.as_str());
        Node::new("member")
            .with("InstanceRefreshId", "00000000-0000-0000-0000-000000000000")
            .with("AutoScalingGroupName", name)
            .with("Status", status)
            .with("StartTime", iso(group.created))
            .children(ended.then(|| Node::leaf("EndTime", iso(group.created))))
            .with("PercentageComplete", if ended { 100 } else { 0 })
            .with("InstancesToUpdate", usize::from(!ended))
    });
    Ok(listing("InstanceRefreshes", refresh, None))
}

pub(super) fn describe_settings(core: &Core, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(params, &["Name", "MaxRecords", "NextToken"])?;
    if let Some(name) = params.get("Name").filter(|name| *name != LAUNCH_FIRST) {
        return Err(invalid(format!("The account setting {name} does not exist")));
    }
    let value = if core.world().launch_before_terminate { "enabled" } else { "disabled" };
    let setting = Node::new("member").with("Name", LAUNCH_FIRST).with("Value", value).with("EnforcementType", "none");
    Ok(listing("Settings", [setting], None))
}
