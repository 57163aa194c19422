//! The environment of the user's functions.

use std::collections::BTreeMap;

use serde_json::json;

use crate::aws::imds::IdentityDocument;
use crate::config::Config;
use crate::node::steps::attach::Attached;
use crate::node::steps::identity::Node;

/// The variables that the user-data script of `stateful_application_module` left in scope, so that hook scripts written for it
/// run unchanged.
pub fn of(
    config: &Config,
    instance: &IdentityDocument,
    node: &Node,
    volumes: &[Attached<'_>],
) -> BTreeMap<&'static str, String> {
    let first = volumes.first();
    let text = |value: Option<String>| value.unwrap_or_default();
    // Sorted by key, as 0.1.0 wrote it. This text is an input of the hooks, and another order would call them again.
    let all: Vec<_> = volumes
        .iter()
        .map(|volume| {
            BTreeMap::from([
                ("id", json!(volume.want.id.as_str())),
                ("device_name", json!(volume.device_name)),
                ("mount_path", json!(volume.want.mount_path)),
                ("file_system", json!(volume.want.file_system.as_str())),
                ("owner", json!(volume.want.owner.as_ref().map(ToString::to_string))),
                ("group", json!(volume.want.group.as_ref().map(ToString::to_string))),
            ])
        })
        .collect();
    BTreeMap::from([
        ("NODE_ID", node.id.clone()),
        ("NODE_IP", node.ip.to_string()),
        ("VOLUME_ID", text(first.map(|volume| volume.want.id.to_string()))),
        ("DEVICE_NAME", text(first.map(|volume| volume.device_name.clone()))),
        ("MOUNT_PATH", text(first.map(|volume| volume.want.mount_path.display().to_string()))),
        ("FILE_SYSTEM_TYPE", text(first.map(|volume| volume.want.file_system.to_string()))),
        ("OWNER", text(first.and_then(|volume| volume.want.owner.as_ref()).map(ToString::to_string))),
        ("GROUP", text(first.and_then(|volume| volume.want.group.as_ref()).map(ToString::to_string))),
        ("INSTANCE_ID", instance.instance_id.clone()),
        ("REGION", instance.region.clone()),
        ("ASG_NAME", text(config.lifecycle.as_ref().map(|lifecycle| lifecycle.asg_name.clone()))),
        ("ASG_HOOK_NAME", text(config.lifecycle.as_ref().map(|lifecycle| lifecycle.hook_name.clone()))),
        ("NODE_AGENT_VOLUMES", json!(all).to_string()),
    ])
}
