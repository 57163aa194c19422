//! Changes of groups: their templates, their sizes, their tags.

use std::sync::Arc;

use super::{invalid, known, require};
use crate::api::may;
use crate::config::GroupSpec;
use crate::core::Core;
use crate::credentials::Issued;
use crate::error::ApiError;
use crate::launches;
use crate::query::{Node, Params};
use crate::templates::{self, MixedPolicy, Override, TemplateChoice};
use crate::world::World;

/// Auto Scaling's limits of a tag's key and value, in characters.
const TAG_KEY_LIMIT: usize = 128;
const TAG_VALUE_LIMIT: usize = 256;

/// `UpdateAutoScalingGroup`. A mixed instances policy replaces the one before as a whole: what is not sent is gone.
pub(super) fn update_group(core: &Arc<Core>, params: &Params, caller: &Issued) -> Result<Vec<Node>, ApiError> {
    known(
        params,
        &[
            "AutoScalingGroupName",
            "LaunchTemplate.*",
            "MixedInstancesPolicy.LaunchTemplate.*",
            "MixedInstancesPolicy.InstancesDistribution.*",
            "MinSize",
            "MaxSize",
            "DesiredCapacity",
        ],
    )?;
    let name = require(params, "AutoScalingGroupName")?;
    let wanted = {
        let world = core.world();
        let group = world.group(name)?.spec();
        if group.deleting {
            let message = format!("AutoScalingGroup '{name}' cannot be updated: Delete in progress");
            return Err(ApiError::client("ScalingActivityInProgress", message));
        }
        let wanted = read(params, group)?;
        check(&world, &wanted)?;
        wanted
    };
    if wanted.launches_anew {
        permitted(core, caller, &wanted.spec)?;
    }
    let mut world = core.world();
    let group = world.group_mut(name)?;
    let shrinks = wanted.spec.wants < group.spec().wants;
    group.change(|spec| *spec = wanted.spec);
    if shrinks {
        launches::shrink(core, &mut world, name);
    }
    launches::check(core, &mut world, name);
    Ok(Vec::new())
}

/// A group as it is asked for.
struct Wanted {
    spec: GroupSpec,
    /// Whether what it launches is among what is asked for.
    launches_anew: bool,
}

fn read(params: &Params, group: &GroupSpec) -> Result<Wanted, ApiError> {
    let mut spec = group.clone();
    let number = |name: &str| {
        let value = params.get(name).map(str::parse).transpose();
        value.map_err(|_| invalid(format!("{name} is not a number")))
    };
    // Bounds that nobody gave go on following the desired capacity, as a scenario sets it.
    if ["MinSize", "MaxSize", "DesiredCapacity"].iter().any(|size| params.get(size).is_some()) {
        let (min, max) = (number("MinSize")?.unwrap_or(group.min()), number("MaxSize")?.unwrap_or(group.max()));
        (spec.min, spec.max) = (Some(min), Some(max));
        // Auto Scaling moves the desired capacity into new bounds that it is not asked to break.
        spec.wants = number("DesiredCapacity")?.unwrap_or(group.wants.max(min).min(max));
    }
    let template = choice(params, "LaunchTemplate")?;
    let mixed = mixed(params, group)?;
    let launches_anew = template.is_some() || mixed.is_some();
    match (template, mixed) {
        (Some(_), Some(_)) => {
            return Err(invalid("Valid requests must contain either launchTemplate or mixedInstancesPolicy, not both"));
        }
        (None, None) => {}
        (template, mixed) => (spec.template, spec.mixed) = (template, mixed),
    }
    Ok(Wanted { spec, launches_anew })
}

/// A template's identifier or name, and a version, of which the default is `$Default`.
fn choice(params: &Params, prefix: &str) -> Result<Option<TemplateChoice>, ApiError> {
    let field = |name: &str| params.get(&format!("{prefix}.{name}"));
    let version = field("Version").unwrap_or("$Default");
    match (field("LaunchTemplateId"), field("LaunchTemplateName")) {
        (Some(_), Some(_)) => {
            Err(invalid("Valid requests must contain either LaunchTemplateId or LaunchTemplateName, not both"))
        }
        (Some(template), None) | (None, Some(template)) => Ok(Some(TemplateChoice::new(template, version))),
        (None, None) => Ok(None),
    }
}

fn mixed(params: &Params, group: &GroupSpec) -> Result<Option<MixedPolicy>, ApiError> {
    const DISTRIBUTION: [&str; 6] = [
        "OnDemandAllocationStrategy",
        "OnDemandBaseCapacity",
        "OnDemandPercentageAboveBaseCapacity",
        "SpotAllocationStrategy",
        "SpotInstancePools",
        "SpotMaxPrice",
    ];
    let prefix = "MixedInstancesPolicy.LaunchTemplate";
    let base = choice(params, &format!("{prefix}.LaunchTemplateSpecification"))?;
    let read = |at: String| {
        let field = |name: &str| params.get(&format!("{at}.{name}")).map(str::to_owned);
        let template = choice(params, &format!("{at}.LaunchTemplateSpecification"))?;
        let (instance_type, weighted_capacity) = (field("InstanceType"), field("WeightedCapacity"));
        Ok(Override { instance_type, weighted_capacity, template, image: field("ImageId") })
    };
    let overrides = params.structures(&format!("{prefix}.Overrides.member"));
    let overrides: Vec<Override> = overrides.into_iter().map(read).collect::<Result<_, ApiError>>()?;
    let value = |name: &str| params.get(&format!("MixedInstancesPolicy.InstancesDistribution.{name}"));
    let distribution = DISTRIBUTION.into_iter().filter_map(|name| Some((name.to_owned(), value(name)?.to_owned())));
    let launches = group.mixed.as_ref().map_or(0, |mixed| mixed.launches);
    match base {
        Some(base) => Ok(Some(MixedPolicy { base, overrides, distribution: distribution.collect(), launches })),
        None if overrides.is_empty() => Ok(None),
        None => Err(invalid("A mixed instances policy must have a launch template specification")),
    }
}

fn check(world: &World, wanted: &Wanted) -> Result<(), ApiError> {
    let spec = &wanted.spec;
    if spec.min() > spec.max() {
        return Err(invalid("Max bound must be greater than or equal to min bound"));
    }
    if !(spec.min()..=spec.max()).contains(&spec.wants) {
        let message = "Desired capacity must be between the specified min size and max size";
        return Err(invalid(format!("{message}: {} is not in {} to {}", spec.wants, spec.min(), spec.max())));
    }
    let mixed = spec.mixed.iter();
    let own = mixed.clone().flat_map(|mixed| mixed.overrides.iter().filter_map(|item| item.template.as_ref()));
    for choice in spec.template.iter().chain(mixed.map(|mixed| &mixed.base)).chain(own) {
        let wrong = |why: &str| {
            let message = "You must use a valid fully-formed launch template.";
            invalid(format!("{message} {why}"))
        };
        let template = world
            .template(&choice.template)
            .ok_or_else(|| wrong(&format!("The specified launch template '{}' does not exist.", choice.template)))?;
        template.version(&choice.version).map_err(|error| wrong(&error.message))?;
    }
    Ok(())
}

/// Auto Scaling checks that the caller could launch the instances (Auto Scaling user guide, "launch template permissions").
fn permitted(core: &Core, caller: &Issued, spec: &GroupSpec) -> Result<(), ApiError> {
    let resolved = templates::in_force(&core.world(), spec);
    let version = resolved.and_then(Result::ok).map(|resolved| resolved.version);
    let needs = [
        ("ec2:RunInstances", true),
        ("iam:PassRole", version.as_ref().is_some_and(|version| version.instance_profile.is_some())),
        ("ec2:CreateTags", version.as_ref().is_some_and(|version| !version.tags.is_empty())),
    ];
    for (permission, _) in needs.into_iter().filter(|(_, needed)| *needed) {
        if !may(core, caller, permission)? {
            let message = format!("You are not authorized to use launch template: {permission} is not permitted");
            return Err(ApiError::new(403, "AccessDenied", message));
        }
    }
    Ok(())
}

/// A tag of a request.
struct GroupTag<'a> {
    group: &'a str,
    key: &'a str,
    value: &'a str,
    propagates: bool,
}

fn tags<'a>(params: &'a Params, world: &World) -> Result<Vec<GroupTag<'a>>, ApiError> {
    known(
        params,
        &[
            "Tags.member.*.ResourceId",
            "Tags.member.*.ResourceType",
            "Tags.member.*.Key",
            "Tags.member.*.Value",
            "Tags.member.*.PropagateAtLaunch",
        ],
    )?;
    let read = |at: String| {
        let group = require(params, &format!("{at}.ResourceId"))?;
        let key = require(params, &format!("{at}.Key"))?;
        let value = params.get(&format!("{at}.Value")).unwrap_or_default();
        if params.get(&format!("{at}.ResourceType")) != Some("auto-scaling-group") {
            return Err(invalid("The only resource type is auto-scaling-group"));
        }
        world.group(group)?;
        let long = key.chars().count() > TAG_KEY_LIMIT || value.chars().count() > TAG_VALUE_LIMIT;
        if long || key.starts_with("aws:") {
            return Err(invalid(format!("The tag {key} is too long or begins with the reserved word aws:")));
        }
        Ok(GroupTag { group, key, value, propagates: params.is_true(&format!("{at}.PropagateAtLaunch")) })
    };
    let tags: Vec<GroupTag<'_>> = params.structures("Tags.member").into_iter().map(read).collect::<Result<_, _>>()?;
    if tags.is_empty() {
        return Err(invalid("Tags must not be empty"));
    }
    Ok(tags)
}

/// Overwrites a tag that is there already, whatever its value.
pub(super) fn create_or_update_tags(core: &Core, params: &Params) -> Result<Vec<Node>, ApiError> {
    let mut world = core.world();
    for tag in tags(params, &world)? {
        world.group_mut(tag.group)?.change(|spec| {
            spec.tags.insert(tag.key.to_owned(), tag.value.to_owned());
            if tag.propagates {
                spec.propagated.insert(tag.key.to_owned());
            } else {
                spec.propagated.remove(tag.key);
            }
        });
    }
    Ok(Vec::new())
}

/// Deletes by key: AWS documents no comparison with the value, so that no client may count on one.
pub(super) fn delete_tags(core: &Core, params: &Params) -> Result<Vec<Node>, ApiError> {
    let mut world = core.world();
    for tag in tags(params, &world)? {
        world.group_mut(tag.group)?.change(|spec| {
            spec.tags.remove(tag.key);
            spec.propagated.remove(tag.key);
        });
    }
    Ok(Vec::new())
}
