//! EC2's launch templates.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::describe::{Filters, listing};
use super::{ACCOUNT, dry_run, known};
use crate::api::tag_items;
use crate::clock::iso;
use crate::core::Core;
use crate::error::ApiError;
use crate::query::{Node, Params};
use crate::templates::{Template, TemplateVersion, image};
use crate::world::World;

/// How many one answer tells of, usually and at most.
const MOST: usize = 200;

fn creator() -> String {
    format!("arn:aws:iam::{ACCOUNT}:root")
}

fn by_id<'a>(world: &'a World, id: &str) -> Result<&'a Template, ApiError> {
    world.templates.get(id).ok_or_else(|| {
        let message = format!("The specified launch template, with template ID {id}, does not exist.");
        ApiError::client("InvalidLaunchTemplateId.NotFound", message)
    })
}

fn by_name<'a>(world: &'a World, name: &str) -> Result<&'a Template, ApiError> {
    world.templates.values().find(|template| template.name == name).ok_or_else(|| {
        let message = format!("The specified launch template, with template name {name}, does not exist.");
        ApiError::client("InvalidLaunchTemplateName.NotFoundException", message)
    })
}

pub(super) fn describe_templates(core: &Core, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(params, &["LaunchTemplateId.*", "LaunchTemplateName.*", "Filter.*", "MaxResults", "NextToken"])?;
    let filters = Filters::parse(params)?;
    dry_run(params)?;
    let (ids, names) = (params.list("LaunchTemplateId"), params.list("LaunchTemplateName"));
    let world = core.world();
    ids.iter().try_for_each(|id| by_id(&world, id).map(|_| ()))?;
    names.iter().try_for_each(|name| by_name(&world, name).map(|_| ()))?;
    let all = ids.is_empty() && names.is_empty();
    let mut items = Vec::new();
    for template in world.templates.values() {
        let is_wanted = all || ids.contains(&template.id.as_str()) || names.contains(&template.name.as_str());
        let field = |name: &str| (name == "launch-template-name").then(|| vec![template.name.clone()]);
        if filters.admit(field)? && is_wanted {
            items.push(
                Node::new("item")
                    .with("launchTemplateId", &template.id)
                    .with("launchTemplateName", &template.name)
                    .with("createTime", iso(template.created))
                    .with("createdBy", creator())
                    .with("defaultVersionNumber", template.default)
                    .with("latestVersionNumber", template.latest()),
            );
        }
    }
    let (items, next) = params.page_within(items, "MaxResults", MOST, MOST)?;
    Ok(listing("launchTemplates", items, next))
}

/// Of one template any versions; of all templates only `$Latest` and `$Default`.
pub(super) fn describe_versions(core: &Core, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(
        params,
        &[
            "LaunchTemplateId",
            "LaunchTemplateName",
            "LaunchTemplateVersion.*",
            "MinVersion",
            "MaxVersion",
            "MaxResults",
            "NextToken",
            "ResolveAlias",
        ],
    )?;
    dry_run(params)?;
    let world = core.world();
    let one = match (params.get("LaunchTemplateId"), params.get("LaunchTemplateName")) {
        (Some(id), _) => Some(by_id(&world, id)?),
        (None, Some(name)) => Some(by_name(&world, name)?),
        (None, None) => None,
    };
    let wanted = params.list("LaunchTemplateVersion");
    let chosen = match one {
        Some(template) => of_one(params, template, &wanted)?,
        None => of_all(&world, &wanted)?,
    };
    let (chosen, next) = params.page_within(chosen, "MaxResults", MOST, MOST)?;
    let resolve = params.is_true("ResolveAlias");
    let items = chosen.into_iter().map(|(template, number, version)| {
        let image = if resolve { image(&world, &version.image).map_err(unresolved)? } else { version.image.clone() };
        Ok(version_node(template, number, version, &image))
    });
    let items: Vec<Node> = items.collect::<Result<_, ApiError>>()?;
    Ok(listing("launchTemplateVersionSet", items, next))
}

type Chosen<'a> = Vec<(&'a Template, u64, &'a TemplateVersion)>;

fn of_one<'a>(params: &Params, template: &'a Template, wanted: &[&str]) -> Result<Chosen<'a>, ApiError> {
    if !wanted.is_empty() {
        let found = wanted.iter().map(|version| template.version(version));
        return found.map(|found| found.map(|(number, version)| (template, number, version))).collect();
    }
    let bound = |name: &str, absent: u64| {
        let value = params.get(name).map_or(Ok(absent), str::parse);
        value.map_err(|_| ApiError::client("InvalidParameterValue", format!("Invalid value for {name}")))
    };
    let numbers = bound("MinVersion", 1)?..=bound("MaxVersion", u64::MAX)?;
    // The newest first, as EC2 lists them.
    let all = (1..=template.latest()).rev().zip(template.versions.iter().rev());
    Ok(all
        .filter(|(number, _)| numbers.contains(number))
        .map(|(number, version)| (template, number, version))
        .collect())
}

fn of_all<'a>(world: &'a World, wanted: &[&str]) -> Result<Chosen<'a>, ApiError> {
    if wanted.is_empty() || wanted.iter().any(|version| !["$Latest", "$Default"].contains(version)) {
        let message =
            "Either the launch template's ID or its name must be given, or only the versions $Latest and $Default";
        return Err(ApiError::client("MissingParameter", message));
    }
    let mut chosen = Vec::new();
    for template in world.templates.values() {
        for version in wanted {
            let (number, found) = template.version(version)?;
            if !chosen.iter().any(|(other, has, _): &(&Template, u64, _)| other.id == template.id && *has == number) {
                chosen.push((template, number, found));
            }
        }
    }
    Ok(chosen)
}

fn unresolved(message: String) -> ApiError {
    ApiError::client("InvalidParameterValue", message)
}

fn version_node(template: &Template, number: u64, version: &TemplateVersion, image: &str) -> Node {
    let interface = version.interface.as_ref().map(|interface| {
        let item = Node::new("item").with("deviceIndex", 0).with("networkInterfaceId", interface);
        Node::new("networkInterfaceSet").child(item)
    });
    let profile = version.instance_profile.as_ref();
    let profile = profile.map(|profile| Node::new("iamInstanceProfile").with("name", profile));
    let tags = (!version.tags.is_empty()).then(|| {
        let tags = Node::new("tagSet").children(tag_items(&version.tags));
        Node::new("tagSpecificationSet").child(Node::new("item").with("resourceType", "instance").child(tags))
    });
    let user_data = version.user_data.as_ref().map(|data| Node::leaf("userData", STANDARD.encode(data)));
    let data = Node::new("launchTemplateData")
        .with("imageId", image)
        .with("instanceType", &version.instance_type)
        .children(user_data)
        .children(profile)
        .children(interface)
        .children(tags);
    Node::new("item")
        .with("launchTemplateId", &template.id)
        .with("launchTemplateName", &template.name)
        .with("versionNumber", number)
        .with("createTime", iso(template.created))
        .with("createdBy", creator())
        .with("defaultVersion", number == template.default)
        .child(data)
}
