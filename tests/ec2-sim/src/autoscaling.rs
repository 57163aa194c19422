//! Auto Scaling's actions.

mod describe;
mod history;
mod update;

use std::sync::Arc;

use crate::activities::{self, Kind};
use crate::config::{ActionResult, HookSpec};
use crate::core::Core;
use crate::credentials::Issued;
use crate::error::ApiError;
use crate::ids::{InstanceId, random_uuid};
use crate::lifecycle::{self, Which};
use crate::query::{Node, Params};
use crate::wire::Response;
use crate::world::View;

const NAMESPACE: &str = "http://autoscaling.amazonaws.com/doc/2011-01-01/";
const VERSION: &str = "2011-01-01";

/// Carries an action out. A description shows what `view` says.
pub(crate) fn call(
    core: &Arc<Core>,
    name: &str,
    params: &Params,
    view: View,
    caller: &Issued,
) -> Result<Vec<Node>, ApiError> {
    if params.get("Version") != Some(VERSION) {
        return Err(ApiError::client("NoSuchVersion", format!("The only API version is {VERSION}.")));
    }
    match name {
        "autoscaling:CompleteLifecycleAction" => complete(core, params),
        "autoscaling:RecordLifecycleActionHeartbeat" => heartbeat(core, params),
        "autoscaling:CreateOrUpdateTags" => update::create_or_update_tags(core, params),
        "autoscaling:DeleteTags" => update::delete_tags(core, params),
        "autoscaling:DescribeAutoScalingInstances" => describe::describe_instances(core, params, view),
        "autoscaling:DescribeAutoScalingGroups" => describe::describe_groups(core, params, view),
        "autoscaling:DescribeAccountSettings" => history::describe_settings(core, params),
        "autoscaling:DescribeInstanceRefreshes" => history::describe_refreshes(core, params),
        "autoscaling:DescribeScalingActivities" => history::describe_activities(core, params),
        "autoscaling:DescribeLifecycleHooks" => describe_hooks(core, params),
        "autoscaling:TerminateInstanceInAutoScalingGroup" => terminate(core, params),
        "autoscaling:UpdateAutoScalingGroup" => update::update_group(core, params, caller),
        _ => Err(ApiError::client("InvalidAction", format!("The action {name} is not simulated."))),
    }
}

/// The answer to an action that succeeded.
pub(crate) fn response(name: &str, nodes: Vec<Node>) -> Response {
    let action = name.split_once(':').map_or(name, |(_, action)| action);
    let root = Node::new(format!("{action}Response"))
        .child(Node::new(format!("{action}Result")).children(nodes))
        .child(Node::new("ResponseMetadata").with("RequestId", random_uuid()));
    Response::new(200, "text/xml", root.document(Some(NAMESPACE)))
}

/// Auto Scaling's form of an error.
pub(crate) fn error_response(error: &ApiError) -> Response {
    let kind = if error.http < 500 { "Sender" } else { "Receiver" };
    let inner = Node::new("Error").with("Type", kind).with("Code", &error.code).with("Message", &error.message);
    let root = Node::new("ErrorResponse").child(inner).with("RequestId", random_uuid());
    Response::new(error.http, "text/xml", root.document(Some(NAMESPACE)))
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::client("ValidationError", message)
}

fn known(params: &Params, names: &[&str]) -> Result<(), ApiError> {
    match params.unknown(names) {
        Some(name) => Err(invalid(format!("The parameter {name} is not simulated"))),
        None => Ok(()),
    }
}

fn require<'a>(params: &'a Params, name: &str) -> Result<&'a str, ApiError> {
    params.get(name).filter(|value| !value.is_empty()).ok_or_else(|| {
        let field = name[..1].to_lowercase() + &name[1..];
        invalid(format!(
            "1 validation error detected: Value null at '{field}' failed to satisfy constraint: Member must not be null"
        ))
    })
}

fn which(params: &Params) -> Result<Which<'_>, ApiError> {
    match (params.get("LifecycleActionToken"), params.get("InstanceId")) {
        (Some(token), _) => Ok(Which::Token(token)),
        (None, Some(instance)) => Ok(Which::Instance(instance)),
        (None, None) => Err(invalid("Either the instance ID or the lifecycle action token must be given")),
    }
}

fn complete(core: &Arc<Core>, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(
        params,
        &["AutoScalingGroupName", "LifecycleHookName", "InstanceId", "LifecycleActionToken", "LifecycleActionResult"],
    )?;
    let (group, hook) = (require(params, "AutoScalingGroupName")?, require(params, "LifecycleHookName")?);
    let result = match require(params, "LifecycleActionResult")? {
        "CONTINUE" => ActionResult::Continue,
        "ABANDON" => ActionResult::Abandon,
        other => {
            return Err(invalid(format!("Lifecycle action result {other} is not CONTINUE or ABANDON")));
        }
    };
    lifecycle::complete(core, group, hook, &which(params)?, result)?;
    Ok(Vec::new())
}

fn heartbeat(core: &Core, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(params, &["AutoScalingGroupName", "LifecycleHookName", "InstanceId", "LifecycleActionToken"])?;
    let (group, hook) = (require(params, "AutoScalingGroupName")?, require(params, "LifecycleHookName")?);
    lifecycle::heartbeat(core, group, hook, &which(params)?)?;
    Ok(Vec::new())
}

/// Terminates a member. One that is on its way out already is answered with the activity at work: AWS documents nothing.
fn terminate(core: &Arc<Core>, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(params, &["InstanceId", "ShouldDecrementDesiredCapacity"])?;
    let id = InstanceId::from(require(params, "InstanceId")?);
    require(params, "ShouldDecrementDesiredCapacity")?;
    let mut world = core.world();
    let Some(member) = world.members.get(&id).map(|kept| kept.get().clone()) else {
        return Err(invalid(format!("Instance Id not found - No managed instance found for instance ID: {id}")));
    };
    if params.is_true("ShouldDecrementDesiredCapacity") {
        let spec = world.group(&member.group)?.spec();
        if spec.wants <= spec.min() {
            return Err(invalid(format!(
                "Currently, desiredSize equals minSize ({}). Terminating instance without replacement will violate group's \
                 min size constraint. Either set shouldDecrementDesiredCapacity flag to false or lower group's min size.",
                spec.min()
            )));
        }
        world.group_mut(&member.group)?.change(|spec| spec.wants -= 1);
    }
    lifecycle::terminate(core, &mut world, &id, "TerminateInstanceInAutoScalingGroup");
    let activity = activities::open(&mut world, &id, Kind::Termination);
    Ok(activity.map(|activity| history::activity_node(core, "Activity", activity)).into_iter().collect())
}

fn describe_hooks(core: &Core, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(params, &["AutoScalingGroupName", "LifecycleHookNames.member.*"])?;
    let name = require(params, "AutoScalingGroupName")?;
    let wanted = params.list("LifecycleHookNames.member");
    let world = core.world();
    let group = world.group(name)?;
    if let Some(missing) = wanted.iter().find(|wanted| group.spec().hooks.iter().all(|hook| hook.name != **wanted)) {
        return Err(invalid(format!("Lifecycle hook '{missing}' not found for AutoScalingGroup '{name}'")));
    }
    let hooks = group.spec().hooks.iter().filter(|hook| wanted.is_empty() || wanted.contains(&hook.name.as_str()));
    Ok(listing("LifecycleHooks", hooks.map(|hook| hook_node(name, hook)), None))
}

fn hook_node(group: &str, hook: &HookSpec) -> Node {
    // Whole seconds on the wire, and never 0.
    let seconds = |length: std::time::Duration| length.as_millis().div_ceil(1000).max(1);
    Node::new("member")
        .with("LifecycleHookName", &hook.name)
        .with("AutoScalingGroupName", group)
        .with("LifecycleTransition", hook.transition.name())
        .with("HeartbeatTimeout", seconds(hook.heartbeat_timeout))
        .with("GlobalTimeout", seconds(lifecycle::global_limit(hook.heartbeat_timeout)))
        .with("DefaultResult", hook.default_result.name())
}

/// A list of members, and the token for more.
fn listing(name: &str, items: impl IntoIterator<Item = Node>, next: Option<String>) -> Vec<Node> {
    let mut nodes = vec![Node::new(name).children(items)];
    nodes.extend(next.map(|token| Node::leaf("NextToken", token)));
    nodes
}
