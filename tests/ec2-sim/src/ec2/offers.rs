//! EC2's images and instance types, consoles, and snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::describe::{Filters, listing};
use super::{ACCOUNT, check_tag, dry_run, known, well_formed};
use crate::api::{may, require, tag_items};
use crate::catalog::ImageState;
use crate::clock::iso;
use crate::core::Core;
use crate::credentials::Issued;
use crate::error::ApiError;
use crate::ids::{VolumeId, random_hex};
use crate::query::{Node, Params};
use crate::snapshots::SnapshotView;
use crate::world::{IMAGE, TYPE, World};

/// The images that anything names, and those that are asked for.
fn images(world: &World, asked: impl Iterator<Item = String>) -> BTreeSet<String> {
    let templates = world.templates.values().flat_map(|template| &template.versions);
    let named = templates.map(|version| version.image.clone()).filter(|image| image.starts_with("ami-"));
    let always = std::iter::once(IMAGE.to_owned());
    world.catalog.images().cloned().chain(named).chain(asked).chain(always).collect()
}

pub(super) fn describe_images(core: &Core, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(
        params,
        &["ImageId.*", "Owner.*", "Filter.*", "IncludeDeprecated", "IncludeDisabled", "MaxResults", "NextToken"],
    )?;
    let filters = Filters::parse(params)?;
    dry_run(params)?;
    let wanted = params.list("ImageId");
    let world = core.world();
    for id in &wanted {
        // As EC2 has them: `ami-` and letters or digits; short and made-up ones serve in scenarios.
        if !id.starts_with("ami-") {
            return Err(ApiError::client(
                "InvalidAMIID.Malformed",
                format!("Invalid id: \"{id}\" (expecting \"ami-...\")"),
            ));
        }
        if world.catalog.image(id) == ImageState::Absent {
            return Err(ApiError::client("InvalidAMIID.NotFound", format!("The image id '[{id}]' does not exist")));
        }
    }
    let mut items = Vec::new();
    let asked = wanted.iter().map(|image| (*image).to_owned()).chain(filters.plain("image-id"));
    for id in images(&world, asked.filter(|image| image.starts_with("ami-"))) {
        let state = world.catalog.image(&id);
        let field = |name: &str| match name {
            "image-id" => Some(vec![id.clone()]),
            "state" => Some(vec![state.name().to_owned()]),
            _ => None,
        };
        let named = wanted.is_empty() || wanted.contains(&id.as_str());
        if filters.admit(field)? && named && state != ImageState::Absent {
            items.push(
                Node::new("item")
                    .with("imageId", &id)
                    .with("imageState", state.name())
                    .with("imageOwnerId", ACCOUNT)
                    .with("name", &id)
                    .with("isPublic", false)
                    .with("imageType", "machine")
                    .with("architecture", "x86_64")
                    .with("rootDeviceType", "ebs")
                    .with("rootDeviceName", "/dev/xvda"),
            );
        }
    }
    let (items, next) = params.page(items, "MaxResults")?;
    Ok(listing("imagesSet", items, next))
}

/// Only by zone. What is offered is what the filters, the templates and the simulator itself name.
pub(super) fn describe_offerings(core: &Core, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(params, &["LocationType", "Filter.*", "MaxResults", "NextToken"])?;
    if params.get("LocationType") != Some("availability-zone") {
        return Err(ApiError::client("InvalidParameterValue", "The only location type simulated is availability-zone"));
    }
    let filters = Filters::parse(params)?;
    dry_run(params)?;
    let world = core.world();
    let templates = world.templates.values().flat_map(|template| &template.versions);
    let mut types: BTreeSet<String> = templates.map(|version| version.instance_type.clone()).collect();
    types.insert(TYPE.to_owned());
    types.extend(filters.plain("instance-type"));
    let mut zones = BTreeSet::from([core.config.zone.clone()]);
    zones.extend(filters.plain("location"));
    let mut items = Vec::new();
    for instance_type in &types {
        for zone in &zones {
            let field = |name: &str| match name {
                "instance-type" => Some(vec![instance_type.clone()]),
                "location" => Some(vec![zone.clone()]),
                _ => None,
            };
            if filters.admit(field)? && world.catalog.offers(instance_type, zone) {
                let item = Node::new("item").with("instanceType", instance_type);
                items.push(item.with("locationType", "availability-zone").with("location", zone));
            }
        }
    }
    let (items, next) = params.page(items, "MaxResults")?;
    Ok(listing("instanceTypeOfferingSet", items, next))
}

pub(super) fn console_output(core: &Core, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(params, &["InstanceId", "Latest"])?;
    let id = require(params, "InstanceId")?;
    well_formed(id, "i-", "InvalidInstanceID.Malformed")?;
    dry_run(params)?;
    let world = core.world();
    world.instance(id)?;
    let text = world.consoles.get(id).map(|text| Node::leaf("output", STANDARD.encode(text)));
    let mut nodes = vec![Node::leaf("instanceId", id), Node::leaf("timestamp", iso(core.clock.now()))];
    nodes.extend(text);
    Ok(nodes)
}

pub(super) fn create_snapshot(core: &Arc<Core>, params: &Params, caller: &Issued) -> Result<Vec<Node>, ApiError> {
    known(
        params,
        &[
            "VolumeId",
            "Description",
            "TagSpecification.*.ResourceType",
            "TagSpecification.*.Tag.*.Key",
            "TagSpecification.*.Tag.*.Value",
        ],
    )?;
    let id = require(params, "VolumeId")?;
    well_formed(id, "vol-", "InvalidParameterValue")?;
    let tags = snapshot_tags(params)?;
    if !tags.is_empty() && !may(core, caller, "ec2:CreateTags")? {
        let message = "You are not authorized to perform this operation: ec2:CreateTags";
        return Err(ApiError::new(403, "UnauthorizedOperation", message));
    }
    dry_run(params)?;
    let mut world = core.world();
    let volume = world.volume(id)?;
    let attached_to = volume.attachments.first().map(|attachment| attachment.instance.clone());
    let size = volume.size_gib();
    let snapshot = SnapshotView {
        id: format!("snap-{}", random_hex(17)),
        volume: VolumeId::from(id),
        attached_to,
        description: params.get("Description").unwrap_or_default().to_owned(),
        tags,
        started: core.clock.now(),
    };
    let nodes = vec![
        Node::leaf("snapshotId", &snapshot.id),
        Node::leaf("volumeId", id),
        Node::leaf("status", "pending"),
        Node::leaf("startTime", iso(snapshot.started)),
        Node::leaf("progress", ""),
        Node::leaf("ownerId", ACCOUNT),
        Node::leaf("volumeSize", size),
        Node::leaf("description", &snapshot.description),
        Node::leaf("encrypted", false),
        Node::new("tagSet").children(tag_items(&snapshot.tags)),
    ];
    world.snapshots.push(snapshot);
    Ok(nodes)
}

fn snapshot_tags(params: &Params) -> Result<BTreeMap<String, String>, ApiError> {
    let mut tags = BTreeMap::new();
    for specification in params.structures("TagSpecification") {
        if params.get(&format!("{specification}.ResourceType")) != Some("snapshot") {
            let message = "The resource type of a snapshot's tags is 'snapshot'";
            return Err(ApiError::client("InvalidParameterValue", message));
        }
        for tag in params.structures(&format!("{specification}.Tag")) {
            let key = require(params, &format!("{tag}.Key"))?;
            let value = params.get(&format!("{tag}.Value")).unwrap_or_default();
            check_tag(key, value)?;
            tags.insert(key.to_owned(), value.to_owned());
        }
    }
    Ok(tags)
}
