//! Auto Scaling's actions.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::iso;
use crate::config::{ActionResult, HookSpec};
use crate::core::Core;
use crate::ec2::{ACCOUNT, TYPE};
use crate::error::ApiError;
use crate::ids::{InstanceId, random_uuid};
use crate::lifecycle::{self, Which};
use crate::query::{Node, Params};
use crate::wire::Response;
use crate::world::{Group, Instance, Kept, Member, World};

const NAMESPACE: &str = "http://autoscaling.amazonaws.com/doc/2011-01-01/";
const VERSION: &str = "2011-01-01";
/// The most names that one call of `DescribeAutoScalingGroups` takes.
const MOST_NAMES: usize = 100;

/// Carries an action out. `back` is how many changes ago a description looks.
pub(crate) fn call(core: &Arc<Core>, name: &str, params: &Params, back: usize) -> Result<Vec<Node>, ApiError> {
    if params.get("Version") != Some(VERSION) {
        return Err(ApiError::client("NoSuchVersion", format!("The only API version is {VERSION}.")));
    }
    match name {
        "autoscaling:CompleteLifecycleAction" => complete(core, params),
        "autoscaling:RecordLifecycleActionHeartbeat" => heartbeat(core, params),
        "autoscaling:DescribeAutoScalingInstances" => describe_instances(core, params, back),
        "autoscaling:DescribeAutoScalingGroups" => describe_groups(core, params, back),
        "autoscaling:DescribeLifecycleHooks" => describe_hooks(core, params),
        "autoscaling:TerminateInstanceInAutoScalingGroup" => terminate(core, params),
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

fn terminate(core: &Arc<Core>, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(params, &["InstanceId", "ShouldDecrementDesiredCapacity"])?;
    let id = InstanceId::from(require(params, "InstanceId")?);
    require(params, "ShouldDecrementDesiredCapacity")?;
    let mut world = core.world();
    let Some(member) = world.members.get(&id).map(|kept| kept.get().clone()) else {
        return Err(invalid(format!("Instance Id not found - No managed instance found for instance ID: {id}")));
    };
    lifecycle::terminate(core, &mut world, &id, "TerminateInstanceInAutoScalingGroup");
    let activity = Node::new("Activity")
        .with("ActivityId", random_uuid())
        .with("AutoScalingGroupName", &member.group)
        .with("Cause", "terminated on a user's request")
        .with("Description", format!("Terminating EC2 instance: {id}"))
        .with("StartTime", iso(core.clock.now()))
        .with("StatusCode", "InProgress")
        .with("Progress", 0);
    Ok(vec![activity])
}

fn describe_instances(core: &Core, params: &Params, back: usize) -> Result<Vec<Node>, ApiError> {
    known(params, &["InstanceIds.member.*", "MaxRecords", "NextToken"])?;
    let wanted = params.list("InstanceIds.member");
    let world = core.world();
    let members: Vec<_> = world
        .members
        .iter()
        .filter(|(id, _)| wanted.is_empty() || wanted.contains(&id.as_str()))
        .filter_map(|(id, member)| Some((world.instances.get(id)?.back(back), member.back(back))))
        .collect();
    let (members, next) = params.page(members, "MaxRecords")?;
    let items = members.into_iter().map(|(instance, member)| {
        member_node(instance, member, Spelling::Capitals).with("AutoScalingGroupName", &member.group)
    });
    Ok(listing("AutoScalingInstances", items, next))
}

/// How a description spells the health of an instance: `HEALTHY` among instances, `Healthy` in a group (API reference).
#[derive(Clone, Copy)]
enum Spelling {
    Capitals,
    Word,
}

/// What both descriptions tell of a member.
fn member_node(instance: &Instance, member: &Member, spelling: Spelling) -> Node {
    let health = match (member.healthy && !instance.state.is_ending(), spelling) {
        (true, Spelling::Capitals) => "HEALTHY",
        (false, Spelling::Capitals) => "UNHEALTHY",
        (true, Spelling::Word) => "Healthy",
        (false, Spelling::Word) => "Unhealthy",
    };
    Node::new("member")
        .with("InstanceId", &instance.id)
        .with("InstanceType", TYPE)
        .with("AvailabilityZone", &instance.zone)
        .with("LifecycleState", &member.state)
        .with("HealthStatus", health)
        .with("ProtectedFromScaleIn", false)
}

fn describe_groups(core: &Core, params: &Params, back: usize) -> Result<Vec<Node>, ApiError> {
    known(params, &["AutoScalingGroupNames.member.*", "Filters.member.*", "MaxRecords", "NextToken"])?;
    let wanted = params.list("AutoScalingGroupNames.member");
    if wanted.len() > MOST_NAMES {
        return Err(invalid(format!("The number of groups that can be named is {MOST_NAMES}")));
    }
    let filters = tag_filters(params)?;
    let world = core.world();
    let groups: Vec<_> = world
        .groups
        .values()
        .filter(|group| wanted.is_empty() || wanted.contains(&group.spec.name.as_str()))
        .filter(|group| filters.iter().all(|filter| filter.admits(&group.spec.tags)))
        .collect();
    let (groups, next) = params.page(groups, "MaxRecords")?;
    let items = groups.into_iter().map(|group| group_node(core, &world, group, back));
    Ok(listing("AutoScalingGroups", items, next))
}

fn group_node(core: &Core, world: &World, group: &Group, back: usize) -> Node {
    let name = &group.spec.name;
    let of_group = |(id, kept): (&InstanceId, &Kept<Member>)| {
        let member = kept.back(back);
        let instance = world.instances.get(id)?.back(back);
        (&member.group == name).then(|| member_node(instance, member, Spelling::Word))
    };
    let mut node = Node::new("member")
        .with("AutoScalingGroupName", name)
        .with(
            "AutoScalingGroupARN",
            format!(
                "arn:aws:autoscaling:{}:{ACCOUNT}:autoScalingGroup:00000000-0000-0000-0000-000000000000:\
                 autoScalingGroupName/{name}",
                core.config.region
            ),
        )
        .with("MinSize", group.spec.wants)
        .with("MaxSize", group.spec.wants)
        .with("DesiredCapacity", group.spec.wants)
        .with("DefaultCooldown", 300)
        .child(Node::new("AvailabilityZones").with("member", &core.config.zone))
        .with("HealthCheckType", "EC2")
        .with("HealthCheckGracePeriod", 0)
        .child(Node::new("Instances").children(world.members.iter().filter_map(of_group)))
        .child(Node::new("Tags").children(group.spec.tags.iter().map(|(key, value)| tag_node(name, key, value))))
        .with("CreatedTime", iso(group.created));
    if group.spec.deleting {
        node = node.with("Status", "Delete in progress");
    }
    if let Some((least, most)) = group.spec.maintenance_policy {
        let policy = Node::new("InstanceMaintenancePolicy");
        node = node.child(policy.with("MinHealthyPercentage", least).with("MaxHealthyPercentage", most));
    }
    if group.spec.retains {
        let triggers = Node::new("RetentionTriggers").with("TerminateHookAbandon", "retain");
        node = node.child(Node::new("InstanceLifecyclePolicy").child(triggers));
    }
    node
}

fn tag_node(group: &str, key: &str, value: &str) -> Node {
    Node::new("member")
        .with("ResourceId", group)
        .with("ResourceType", "auto-scaling-group")
        .with("Key", key)
        .with("Value", value)
        .with("PropagateAtLaunch", false)
}

/// A filter of `DescribeAutoScalingGroups`: `tag:KEY` or `tag-key`, with the values of which one must match.
struct TagFilter<'a> {
    key: Option<&'a str>,
    values: Vec<&'a str>,
}

impl TagFilter<'_> {
    fn admits(&self, tags: &BTreeMap<String, String>) -> bool {
        match self.key {
            Some(key) => tags.get(key).is_some_and(|value| self.values.contains(&value.as_str())),
            None => self.values.iter().any(|key| tags.contains_key(*key)),
        }
    }
}

fn tag_filters(params: &Params) -> Result<Vec<TagFilter<'_>>, ApiError> {
    let read = |prefix: String| {
        let name = params.get(&format!("{prefix}.Name")).unwrap_or_default();
        let key = name.strip_prefix("tag:");
        if key.is_none() && name != "tag-key" {
            return Err(invalid(format!("The filter {name} is not simulated")));
        }
        Ok(TagFilter { key, values: params.list(&format!("{prefix}.Values.member")) })
    };
    params.structures("Filters.member").into_iter().map(read).collect()
}

fn describe_hooks(core: &Core, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(params, &["AutoScalingGroupName", "LifecycleHookNames.member.*"])?;
    let name = require(params, "AutoScalingGroupName")?;
    let wanted = params.list("LifecycleHookNames.member");
    let world = core.world();
    let group = world
        .groups
        .get(name)
        .ok_or_else(|| invalid(format!("AutoScalingGroup name not found - AutoScalingGroup '{name}' not found")))?;
    if let Some(missing) = wanted.iter().find(|wanted| group.spec.hooks.iter().all(|hook| hook.name != **wanted)) {
        return Err(invalid(format!("Lifecycle hook '{missing}' not found for AutoScalingGroup '{name}'")));
    }
    let hooks = group.spec.hooks.iter().filter(|hook| wanted.is_empty() || wanted.contains(&hook.name.as_str()));
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
