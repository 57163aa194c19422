//! Auto Scaling's descriptions of groups and of their members.

use std::collections::{BTreeMap, BTreeSet};

use super::{invalid, known, listing};
use crate::clock::iso;
use crate::config::GroupSpec;
use crate::core::Core;
use crate::ec2::ACCOUNT;
use crate::error::ApiError;
use crate::query::{Node, Params};
use crate::templates::{LaunchedFrom, MixedPolicy, TemplateChoice};
use crate::world::{Group, Instance, Member, View, World};

/// How many groups `DescribeAutoScalingGroups` names or tells of in one answer: usually, and at most, by `MaxRecords`.
const USUAL_GROUPS: usize = 50;
const MOST_GROUPS: usize = 100;
/// The same of `DescribeAutoScalingInstances`.
const MOST_IDS: usize = 50;

pub(super) fn describe_instances(core: &Core, params: &Params, view: View) -> Result<Vec<Node>, ApiError> {
    known(params, &["InstanceIds.member.*", "MaxRecords", "NextToken"])?;
    let wanted: BTreeSet<&str> = params.list("InstanceIds.member").into_iter().collect();
    if wanted.len() > MOST_IDS {
        return Err(invalid(format!("The number of instances that can be named is {MOST_IDS}")));
    }
    let world = core.world();
    let named = |instance: &Instance| wanted.is_empty() || wanted.contains(instance.id.as_str());
    let members = world.members_seen(view).filter(|(instance, _)| named(instance)).collect();
    let (members, next) = params.page_within(members, "MaxRecords", MOST_IDS, MOST_IDS)?;
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
    let ends = instance.state.is_ending() && member.state.starts_with("Terminating");
    let health = match (member.healthy && !ends, spelling) {
        (true, Spelling::Capitals) => "HEALTHY",
        (false, Spelling::Capitals) => "UNHEALTHY",
        (true, Spelling::Word) => "Healthy",
        (false, Spelling::Word) => "Unhealthy",
    };
    let template = instance.spec.template.as_ref().map(|LaunchedFrom { id, name, version }| {
        Node::new("LaunchTemplate")
            .with("LaunchTemplateId", id)
            .with("LaunchTemplateName", name)
            .with("Version", version)
    });
    let weight = instance.spec.weighted_capacity.as_ref().map(|weight| Node::leaf("WeightedCapacity", weight));
    Node::new("member")
        .with("InstanceId", &instance.id)
        .with("InstanceType", instance.instance_type())
        .with("AvailabilityZone", &instance.zone)
        .with("LifecycleState", &member.state)
        .with("HealthStatus", health)
        .with("ProtectedFromScaleIn", member.protected)
        .children(template)
        .children(weight)
}

pub(super) fn describe_groups(core: &Core, params: &Params, view: View) -> Result<Vec<Node>, ApiError> {
    known(params, &["AutoScalingGroupNames.member.*", "Filters.member.*", "MaxRecords", "NextToken"])?;
    let wanted: BTreeSet<&str> = params.list("AutoScalingGroupNames.member").into_iter().collect();
    let filters = tag_filters(params)?;
    let world = core.world();
    let seen = |group| Group::seen(group, view).map(|spec| (group, spec));
    let groups = world
        .groups
        .values()
        .filter_map(seen)
        .filter(|(_, spec)| wanted.is_empty() || wanted.contains(spec.name.as_str()))
        .filter(|(_, spec)| filters.iter().all(|filter| filter.admits(&spec.tags)))
        .collect();
    let (groups, next) = params.page_within(groups, "MaxRecords", USUAL_GROUPS, MOST_GROUPS)?;
    let most: usize = params.get("MaxRecords").and_then(|most| most.parse().ok()).unwrap_or(USUAL_GROUPS);
    if wanted.len() > most {
        return Err(invalid(format!("The number of groups that can be named is {most}, by MaxRecords")));
    }
    let mut members: BTreeMap<&str, Vec<Node>> = BTreeMap::new();
    for (instance, member) in world.members_seen(view) {
        members.entry(&member.group).or_default().push(member_node(instance, member, Spelling::Word));
    }
    let items = groups.into_iter().map(|(group, spec)| {
        let members = members.remove(spec.name.as_str()).unwrap_or_default();
        group_node(core, &world, spec, members).with("CreatedTime", iso(group.created))
    });
    let items: Vec<Node> = items.collect();
    Ok(listing("AutoScalingGroups", items, next))
}

fn group_node(core: &Core, world: &World, group: &GroupSpec, members: Vec<Node>) -> Node {
    let name = &group.name;
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
        .with("MinSize", group.min())
        .with("MaxSize", group.max())
        .with("DesiredCapacity", group.wants)
        .with("DefaultCooldown", 300)
        .child(Node::new("AvailabilityZones").with("member", &core.config.zone))
        .with("HealthCheckType", "EC2")
        .with("HealthCheckGracePeriod", 0)
        .child(Node::new("Instances").children(members))
        .child(Node::new("Tags").children(group.tags.iter().map(|(key, value)| tag_node(group, key, value))))
        .children(group.template.as_ref().map(|choice| choice_node(world, "LaunchTemplate", choice)))
        .children(group.mixed.as_ref().map(|mixed| mixed_node(world, mixed)));
    let suspended = group
        .suspended
        .iter()
        .map(|(process, reason)| Node::new("member").with("ProcessName", process).with("SuspensionReason", reason));
    node = node.child(Node::new("SuspendedProcesses").children(suspended));
    if let Some(behaviour) = &group.zonal_shift {
        let policy = Node::new("AvailabilityZoneImpairmentPolicy").with("ZonalShiftEnabled", true);
        node = node.child(policy.with("ImpairedZoneHealthCheckBehavior", behaviour));
    }
    if group.deleting {
        node = node.with("Status", "Delete in progress");
    }
    if let Some((least, most)) = group.maintenance_policy {
        let policy = Node::new("InstanceMaintenancePolicy");
        node = node.child(policy.with("MinHealthyPercentage", least).with("MaxHealthyPercentage", most));
    }
    if group.retains {
        let triggers = Node::new("RetentionTriggers").with("TerminateHookAbandon", "retain");
        node = node.child(Node::new("InstanceLifecyclePolicy").child(triggers));
    }
    node
}

/// A template as a group names it: by both its names, with the version as it was asked for.
fn choice_node(world: &World, element: &str, choice: &TemplateChoice) -> Node {
    let node = Node::new(element);
    let node = match world.template(&choice.template) {
        Some(template) => node.with("LaunchTemplateId", &template.id).with("LaunchTemplateName", &template.name),
        None => node.with("LaunchTemplateName", &choice.template),
    };
    node.with("Version", &choice.version)
}

fn mixed_node(world: &World, mixed: &MixedPolicy) -> Node {
    let overrides = mixed.overrides.iter().map(|item| {
        let texts = [
            ("InstanceType", &item.instance_type),
            ("WeightedCapacity", &item.weighted_capacity),
            ("ImageId", &item.image),
        ];
        let texts = texts.into_iter().filter_map(|(name, value)| Some(Node::leaf(name, value.as_ref()?)));
        let own = item.template.as_ref().map(|choice| choice_node(world, "LaunchTemplateSpecification", choice));
        Node::new("member").children(texts).children(own)
    });
    let template = Node::new("LaunchTemplate")
        .child(choice_node(world, "LaunchTemplateSpecification", &mixed.base))
        .child(Node::new("Overrides").children(overrides));
    let distribution = mixed.distribution.iter().map(|(name, value)| Node::leaf(name, value));
    Node::new("MixedInstancesPolicy").child(template).child(Node::new("InstancesDistribution").children(distribution))
}

fn tag_node(group: &GroupSpec, key: &str, value: &str) -> Node {
    Node::new("member")
        .with("ResourceId", &group.name)
        .with("ResourceType", "auto-scaling-group")
        .with("Key", key)
        .with("Value", value)
        .with("PropagateAtLaunch", group.propagated.contains(key))
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
