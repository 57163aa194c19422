//! EC2's actions.

mod describe;
mod network;
mod offers;
mod templates;

pub(crate) use describe::instance_tags;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::require;
use crate::clock::iso;
use crate::core::Core;
use crate::credentials::Issued;
use crate::error::ApiError;
use crate::ids::{InstanceId, random_uuid};
use crate::instances;
use crate::query::{Node, Params};
use crate::volumes;
use crate::wire::Response;
use crate::world::{Attachment, InstanceState, View, World};

/// The account everything belongs to (the documentation's example number).
pub(crate) const ACCOUNT: &str = "123456789012";
/// The network's identifiers, which nothing looks into.
const VPC: &str = "vpc-0123456789abcdef0";
pub(crate) const SUBNET: &str = "subnet-0123456789abcdef0";
/// EC2's limit of a tag's key and value, in characters.
const TAG_KEY_LIMIT: usize = 127;
const TAG_VALUE_LIMIT: usize = 256;
const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

/// Carries an action out. A description shows what `view` says.
pub(crate) fn call(
    core: &Arc<Core>,
    name: &str,
    params: &Params,
    view: View,
    caller: &Issued,
) -> Result<Vec<Node>, ApiError> {
    match name {
        "ec2:AttachVolume" => attach_volume(core, params),
        "ec2:DetachVolume" => detach_volume(core, params),
        "ec2:ModifyVolume" => modify_volume(core, params),
        "ec2:TerminateInstances" => terminate_instances(core, params),
        "ec2:CreateTags" => change_tags(core, params, &|tags, key, value| {
            tags.insert(key.to_owned(), value.unwrap_or_default().to_owned());
        }),
        "ec2:DeleteTags" => change_tags(core, params, &|tags, key, value| {
            if value.is_none_or(|value| tags.get(key).is_some_and(|has| has == value)) {
                tags.remove(key);
            }
        }),
        "ec2:CreateSnapshot" => offers::create_snapshot(core, params, caller),
        "ec2:GetConsoleOutput" => offers::console_output(core, params),
        "ec2:DescribeImages" => offers::describe_images(core, params),
        "ec2:DescribeInstanceTypeOfferings" => offers::describe_offerings(core, params),
        "ec2:DescribeVolumes" => describe::describe_volumes(core, params, view),
        "ec2:DescribeInstances" => describe::describe_instances(core, params, view),
        "ec2:DescribeLaunchTemplateVersions" => templates::describe_versions(core, params),
        "ec2:DescribeLaunchTemplates" => templates::describe_templates(core, params),
        "ec2:DescribeNetworkInterfaces" => network::describe_interfaces(core, params),
        "ec2:DescribeTags" => describe::describe_tags(core, params, view),
        _ => Err(ApiError::client("InvalidAction", format!("The action {name} is not simulated."))),
    }
}

/// The answer to an action that succeeded.
pub(crate) fn response(name: &str, nodes: Vec<Node>) -> Response {
    let action = name.split_once(':').map_or(name, |(_, action)| action);
    let root = Node::new(format!("{action}Response")).with("requestId", random_uuid()).children(nodes);
    Response::new(200, "text/xml;charset=UTF-8", root.document(Some(NAMESPACE)))
}

/// EC2's form of an error.
pub(crate) fn error_response(error: &ApiError) -> Response {
    let inner = Node::new("Error").with("Code", &error.code).with("Message", &error.message);
    let root = Node::new("Response").child(Node::new("Errors").child(inner)).with("RequestID", random_uuid());
    Response::new(error.http, "text/xml;charset=UTF-8", root.document(None))
}

fn known(params: &Params, names: &[&str]) -> Result<(), ApiError> {
    match params.unknown(names) {
        Some(name) => Err(ApiError::client("UnknownParameter", format!("The parameter {name} is not recognized"))),
        None => Ok(()),
    }
}

/// Ends a dry run; comes after the parameters' own checks and before everything that looks at the world.
fn dry_run(params: &Params) -> Result<(), ApiError> {
    if params.is_true("DryRun") {
        return Err(ApiError::new(412, "DryRunOperation", "Request would have succeeded, but DryRun flag is set."));
    }
    Ok(())
}

fn attach_volume(core: &Arc<Core>, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(params, &["VolumeId", "InstanceId", "Device"])?;
    let (volume, instance) = (require(params, "VolumeId")?, require(params, "InstanceId")?);
    let device = require(params, "Device")?;
    well_formed(volume, "vol-", "InvalidVolumeID.Malformed")?;
    well_formed(instance, "i-", "InvalidInstanceID.Malformed")?;
    if !device.starts_with("/dev/") && !device.starts_with("xvd") {
        let message =
            format!("Value ({device}) for parameter device is invalid. {device} is not a valid EBS device name.");
        return Err(ApiError::client("InvalidParameterValue", message));
    }
    dry_run(params)?;
    let attachment = volumes::attach(core, volume, instance, device)?;
    Ok(attachment_fields(volume, &attachment))
}

fn detach_volume(core: &Arc<Core>, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(params, &["VolumeId", "InstanceId", "Device", "Force"])?;
    let volume = require(params, "VolumeId")?;
    if params.is_true("Force") {
        return Err(ApiError::client("UnsupportedOperation", "Forced detachment is not simulated."));
    }
    dry_run(params)?;
    let attachment = volumes::detach(core, volume, params.get("InstanceId"))?;
    Ok(attachment_fields(volume, &attachment))
}

fn modify_volume(core: &Arc<Core>, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(params, &["VolumeId", "Size"])?;
    let volume = require(params, "VolumeId")?;
    let size: u64 = require(params, "Size")?
        .parse()
        .map_err(|_| ApiError::client("InvalidParameterValue", "Value for parameter Size is invalid"))?;
    dry_run(params)?;
    let before = core.world().volume(volume)?.size_gib();
    volumes::grow(core, volume, size << 30)?;
    Ok(vec![
        Node::new("volumeModification")
            .with("volumeId", volume)
            .with("modificationState", "optimizing")
            .with("originalSize", before)
            .with("targetSize", size)
            .with("progress", 0)
            .with("startTime", iso(core.clock.now())),
    ])
}

fn terminate_instances(core: &Arc<Core>, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(params, &["InstanceId.*"])?;
    let ids = params.list("InstanceId");
    if ids.is_empty() {
        return Err(ApiError::client("MissingParameter", "The request must contain the parameter InstanceId"));
    }
    dry_run(params)?;
    let mut world = core.world();
    // All or nothing, as EC2 does it.
    ids.iter().try_for_each(|id| world.instance(id).map(|_| ()))?;
    let mut items = Vec::new();
    for id in ids {
        let before = world.instance(id)?.state;
        instances::set_state(
            core,
            &mut world,
            &InstanceId::from(id),
            InstanceState::ShuttingDown,
            "TerminateInstances",
        );
        let now = world.instance(id)?.state;
        items.push(
            Node::new("item")
                .with("instanceId", id)
                .child(state_node("currentState", now))
                .child(state_node("previousState", before)),
        );
    }
    Ok(vec![Node::new("instancesSet").children(items)])
}

type ChangeTag<'a> = &'a dyn Fn(&mut BTreeMap<String, String>, &str, Option<&str>);

fn change_tags(core: &Core, params: &Params, change: ChangeTag<'_>) -> Result<Vec<Node>, ApiError> {
    known(params, &["ResourceId.*", "Tag.*"])?;
    let resources = params.list("ResourceId");
    if resources.is_empty() {
        return Err(ApiError::client("MissingParameter", "The request must contain the parameter resourceIdSet"));
    }
    let keys: Vec<(String, Option<String>)> = params
        .structures("Tag")
        .iter()
        .map(|tag| {
            let key = require(params, &format!("{tag}.Key"))?;
            Ok((key.to_owned(), params.get(&format!("{tag}.Value")).map(str::to_owned)))
        })
        .collect::<Result<_, ApiError>>()?;
    for (key, value) in &keys {
        check_tag(key, value.as_deref().unwrap_or_default())?;
    }
    dry_run(params)?;
    let mut world = core.world();
    resources.iter().try_for_each(|id| check_resource(&world, id))?;
    for id in resources {
        let apply = |tags: &mut BTreeMap<String, String>| {
            for (key, value) in &keys {
                change(tags, key, value.as_deref());
            }
        };
        if id.starts_with("vol-") {
            world.volume_mut(id)?.change(|volume| apply(&mut volume.tags));
        } else {
            world.instance_mut(id)?.change(|instance| apply(&mut instance.spec.tags));
        }
    }
    Ok(vec![Node::leaf("return", true)])
}

fn check_tag(key: &str, value: &str) -> Result<(), ApiError> {
    let refuse = |message: String| Err(ApiError::client("InvalidParameterValue", message));
    if key.starts_with("aws:") {
        return refuse(format!("Tag keys starting with 'aws:' are reserved for internal use: {key}"));
    }
    if key.chars().count() > TAG_KEY_LIMIT {
        return refuse(format!("Tag key exceeds the maximum length of {TAG_KEY_LIMIT} characters"));
    }
    if value.chars().count() > TAG_VALUE_LIMIT {
        return refuse(format!("Tag value exceeds the maximum length of {TAG_VALUE_LIMIT} characters"));
    }
    Ok(())
}

fn check_resource(world: &World, id: &str) -> Result<(), ApiError> {
    if id.starts_with("vol-") {
        world.volume(id).map(|_| ())
    } else if id.starts_with("i-") {
        world.instance(id).map(|_| ())
    } else {
        Err(ApiError::client("InvalidID", format!("The ID '{id}' is not valid")))
    }
}

fn well_formed(id: &str, prefix: &str, code: &str) -> Result<(), ApiError> {
    let digits = id.strip_prefix(prefix).unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    Err(ApiError::client(code, format!("Invalid id: \"{id}\" (expecting \"{prefix}...\")")))
}

fn attachment_fields(volume: &str, attachment: &Attachment) -> Vec<Node> {
    vec![
        Node::leaf("volumeId", volume),
        Node::leaf("instanceId", &attachment.instance),
        Node::leaf("device", &attachment.device),
        Node::leaf("status", attachment.status.name()),
        Node::leaf("attachTime", iso(attachment.since)),
        Node::leaf("deleteOnTermination", false),
    ]
}

fn state_node(name: &str, state: InstanceState) -> Node {
    Node::new(name).with("code", state.code()).with("name", state.name())
}
