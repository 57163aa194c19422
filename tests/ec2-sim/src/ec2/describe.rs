//! EC2's descriptions: what is there, filtered and paged.

use std::collections::BTreeMap;

use super::{ACCOUNT, SUBNET, VPC, attachment_fields, dry_run, known, state_node, well_formed};
use crate::api::{require, tag_items};
use crate::clock::iso;
use crate::core::Core;
use crate::error::ApiError;
use crate::faults::glob;
use crate::query::{Node, Params};
use crate::templates::LaunchedFrom;
use crate::world::{Attachment, Instance, InstanceState, View, Volume, World, no_instance, no_volume};

/// Where an instance has its root volume, which goes with it.
const ROOT_DEVICE: &str = "/dev/xvda";

pub(super) fn describe_volumes(core: &Core, params: &Params, view: View) -> Result<Vec<Node>, ApiError> {
    known(params, &["VolumeId.*", "Filter.*", "MaxResults", "NextToken"])?;
    let filters = Filters::parse(params)?;
    dry_run(params)?;
    let world = core.world();
    let wanted = params.list("VolumeId");
    for id in &wanted {
        well_formed(id, "vol-", "InvalidParameterValue")?;
        world.volumes.get(*id).ok_or_else(|| no_volume(id))?;
    }
    let mut volumes = Vec::new();
    for volume in world.volumes.values().filter_map(|kept| kept.seen(view)) {
        let named = wanted.is_empty() || wanted.contains(&volume.id.as_str());
        if filters.admit(|name| volume_field(volume, name))? && named {
            volumes.push(volume);
        }
    }
    let (volumes, next) = params.page(volumes, "MaxResults")?;
    let items = volumes.into_iter().map(volume_node);
    Ok(listing("volumeSet", items, next))
}

/// A set of items, and the token for more.
pub(super) fn listing(name: &str, items: impl IntoIterator<Item = Node>, next: Option<String>) -> Vec<Node> {
    let mut nodes = vec![Node::new(name).children(items)];
    nodes.extend(next.map(|token| Node::leaf("nextToken", token)));
    nodes
}

fn volume_node(volume: &Volume) -> Node {
    let attachments = volume
        .attachments
        .iter()
        .map(|attachment| Node::new("item").children(attachment_fields(&volume.id, attachment)));
    let kind = if volume.multi_attach { "io2" } else { "gp3" };
    let mut item = Node::new("item")
        .with("volumeId", &volume.id)
        .with("size", volume.size_gib())
        .with("snapshotId", volume.snapshot_id.as_deref().unwrap_or_default())
        .with("availabilityZone", &volume.zone)
        .with("status", volume.status())
        .with("createTime", iso(volume.created))
        .child(Node::new("attachmentSet").children(attachments))
        .child(Node::new("tagSet").children(tag_items(&volume.tags)))
        .with("volumeType", kind)
        .with("iops", 3000)
        .with("encrypted", volume.kms_key_id.is_some())
        .with("multiAttachEnabled", volume.multi_attach);
    if let Some(key) = &volume.kms_key_id {
        item = item.with("kmsKeyId", key);
    }
    item
}

fn volume_field(volume: &Volume, name: &str) -> Option<Vec<String>> {
    let of_attachments = |field: fn(&Attachment) -> String| volume.attachments.iter().map(field).collect();
    Some(match name {
        "volume-id" => vec![volume.id.to_string()],
        "status" => vec![volume.status().to_owned()],
        "size" => vec![volume.size_gib().to_string()],
        "availability-zone" => vec![volume.zone.clone()],
        "snapshot-id" => volume.snapshot_id.iter().cloned().collect(),
        "attachment.instance-id" => of_attachments(|attachment| attachment.instance.to_string()),
        "attachment.status" => of_attachments(|attachment| attachment.status.name().to_owned()),
        "attachment.device" => of_attachments(|attachment| attachment.device.clone()),
        _ => return tag_field(&volume.tags, name),
    })
}

pub(super) fn tag_field(tags: &BTreeMap<String, String>, name: &str) -> Option<Vec<String>> {
    match (name, name.strip_prefix("tag:")) {
        ("tag-key", _) => Some(tags.keys().cloned().collect()),
        (_, Some(key)) => Some(tags.get(key).into_iter().cloned().collect()),
        _ => None,
    }
}

pub(super) fn describe_instances(core: &Core, params: &Params, view: View) -> Result<Vec<Node>, ApiError> {
    known(params, &["InstanceId.*", "Filter.*", "MaxResults", "NextToken"])?;
    let filters = Filters::parse(params)?;
    dry_run(params)?;
    let world = core.world();
    let wanted = params.list("InstanceId");
    for id in &wanted {
        well_formed(id, "i-", "InvalidInstanceID.Malformed")?;
        world.instances.get(*id).and_then(|kept| kept.seen(view)).ok_or_else(|| no_instance(id))?;
    }
    let mut instances = Vec::new();
    for instance in world.instances.values().filter_map(|kept| kept.seen(view)) {
        let tags = instance_tags(instance);
        let named = wanted.is_empty() || wanted.contains(&instance.id.as_str());
        if filters.admit(|name| instance_field(instance, &tags, name))? && named {
            instances.push(instance);
        }
    }
    let (instances, next) = params.page(instances, "MaxResults")?;
    let items = instances.into_iter().map(|instance| {
        let item = instance_node(&world, instance, view);
        Node::new("item")
            .with("reservationId", instance.id.replace("i-", "r-"))
            .with("ownerId", ACCOUNT)
            .child(Node::new("groupSet"))
            .child(Node::new("instancesSet").child(item))
    });
    Ok(listing("reservationSet", items, next))
}

fn instance_node(world: &World, instance: &Instance, view: View) -> Node {
    let addresses = &instance.spec.private_ips;
    let primary = addresses.first().map(String::as_str).unwrap_or_default();
    let address_items = addresses
        .iter()
        .enumerate()
        .map(|(place, address)| Node::new("item").with("privateIpAddress", address).with("primary", place == 0));
    let interface = Node::new("item")
        .with("networkInterfaceId", instance.interface())
        .with("macAddress", &instance.mac)
        .with("privateIpAddress", primary)
        .child(Node::new("attachment").with("deviceIndex", 0).with("status", "attached"))
        .child(Node::new("privateIpAddressesSet").children(address_items));
    let disks = world.volumes.values().filter_map(|kept| kept.seen(view)).filter_map(|volume| {
        let attachment = volume.attachment(&instance.id)?;
        let ebs = Node::new("ebs")
            .with("volumeId", &volume.id)
            .with("status", attachment.status.name())
            .with("attachTime", iso(attachment.since))
            .with("deleteOnTermination", false);
        Some(Node::new("item").with("deviceName", &attachment.device).child(ebs))
    });
    let root = (instance.state != InstanceState::Terminated).then(|| {
        let ebs = Node::new("ebs")
            .with("volumeId", instance.id.replace("i-", "vol-"))
            .with("status", "attached")
            .with("attachTime", iso(instance.launched))
            .with("deleteOnTermination", true);
        Node::new("item").with("deviceName", ROOT_DEVICE).child(ebs)
    });
    let profile = instance.spec.role.as_ref().map(|role| {
        Node::new("iamInstanceProfile").with("arn", format!("arn:aws:iam::{ACCOUNT}:instance-profile/{role}"))
    });
    Node::new("item")
        .with("instanceId", &instance.id)
        .with("imageId", instance.image())
        .child(state_node("instanceState", instance.state))
        .with("privateDnsName", "")
        .with("privateIpAddress", primary)
        .with("instanceType", instance.instance_type())
        .with("launchTime", iso(instance.launched))
        .child(Node::new("placement").with("availabilityZone", &instance.zone).with("tenancy", "default"))
        .with("subnetId", SUBNET)
        .with("vpcId", VPC)
        .with("architecture", "x86_64")
        .with("rootDeviceType", "ebs")
        .with("rootDeviceName", ROOT_DEVICE)
        .child(Node::new("networkInterfaceSet").children(instance.holds_interface.then_some(interface)))
        .child(Node::new("blockDeviceMapping").children(root).children(disks))
        .children(profile)
        .child(Node::new("tagSet").children(tag_items(&instance_tags(instance))))
}

/// Its own tags and those that Auto Scaling and EC2 put on what they launch.
pub(crate) fn instance_tags(instance: &Instance) -> BTreeMap<String, String> {
    let mut tags = instance.spec.tags.clone();
    if let Some(group) = &instance.spec.group {
        tags.insert("aws:autoscaling:groupName".to_owned(), group.clone());
    }
    if let Some(LaunchedFrom { id, version, .. }) = &instance.spec.template {
        tags.insert("aws:ec2launchtemplate:id".to_owned(), id.clone());
        tags.insert("aws:ec2launchtemplate:version".to_owned(), version.to_string());
    }
    tags
}

fn instance_field(instance: &Instance, tags: &BTreeMap<String, String>, name: &str) -> Option<Vec<String>> {
    Some(match name {
        "instance-id" => vec![instance.id.to_string()],
        "instance-state-name" => vec![instance.state.name().to_owned()],
        "private-ip-address" => instance.spec.private_ips.first().into_iter().cloned().collect(),
        "availability-zone" => vec![instance.zone.clone()],
        _ => return tag_field(tags, name),
    })
}

pub(super) fn describe_tags(core: &Core, params: &Params, view: View) -> Result<Vec<Node>, ApiError> {
    known(params, &["Filter.*", "MaxResults", "NextToken"])?;
    let filters = Filters::parse(params)?;
    dry_run(params)?;
    let world = core.world();
    let volumes = world.volumes.values().filter_map(|kept| kept.seen(view));
    let volumes = volumes.map(|volume| (volume.id.to_string(), "volume", volume.tags.clone()));
    let instances = world.instances.values().filter_map(|kept| kept.seen(view));
    let instances = instances.map(|instance| (instance.id.to_string(), "instance", instance_tags(instance)));
    let mut items = Vec::new();
    for (id, kind, tags) in volumes.chain(instances) {
        for (key, value) in tags {
            let field = |name: &str| match name {
                "resource-id" => Some(vec![id.clone()]),
                "resource-type" => Some(vec![kind.to_owned()]),
                "key" => Some(vec![key.clone()]),
                "value" => Some(vec![value.clone()]),
                _ => None,
            };
            if filters.admit(field)? {
                items.push(
                    Node::new("item")
                        .with("resourceId", &id)
                        .with("resourceType", kind)
                        .with("key", &key)
                        .with("value", &value),
                );
            }
        }
    }
    let (items, next) = params.page(items, "MaxResults")?;
    Ok(listing("tagSet", items, next))
}

/// `Filter.N.Name` and `Filter.N.Value.M`: all filters must be met, each by any of its values.
pub(super) struct Filters(Vec<(String, Vec<String>)>);

impl Filters {
    pub(super) fn parse(params: &Params) -> Result<Self, ApiError> {
        let filter = |prefix: String| {
            let name = require(params, &format!("{prefix}.Name"))?.to_owned();
            let values = params.list(&format!("{prefix}.Value"));
            Ok((name, values.into_iter().map(str::to_owned).collect()))
        };
        params.structures("Filter").into_iter().map(filter).collect::<Result<_, _>>().map(Self)
    }

    /// The values of the filter of that name that stand for themselves alone.
    pub(super) fn plain(&self, name: &str) -> impl Iterator<Item = String> {
        let values = self.0.iter().filter(move |(filter, _)| filter == name).flat_map(|(_, values)| values);
        values.filter(|value| !value.contains(['*', '?'])).cloned()
    }

    /// Whether a thing with these fields passes. A name the thing has no field for is an error, never ignored.
    pub(super) fn admit(&self, field: impl Fn(&str) -> Option<Vec<String>>) -> Result<bool, ApiError> {
        let mut admitted = true;
        for (name, patterns) in &self.0 {
            let values = field(name)
                .ok_or_else(|| ApiError::client("InvalidParameterValue", format!("The filter '{name}' is invalid")))?;
            admitted &= values.iter().any(|value| patterns.iter().any(|pattern| glob(pattern, value)));
        }
        Ok(admitted)
    }
}
