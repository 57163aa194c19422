//! The environment of the user's functions.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::json;

use crate::aws::imds::IdentityDocument;
use crate::config::{self, Config};

/// The variables that the user-data script of `stateful_application_module` left in scope, so that hook scripts written for it
/// run unchanged.
///
/// `volumes` are all volumes, each with the name of its device.
pub fn of<'a>(
    config: &Config,
    instance: &IdentityDocument,
    ip: IpAddr,
    volumes: impl Iterator<Item = (&'a config::Volume, &'a str)>,
) -> BTreeMap<&'static str, String> {
    let volumes: Vec<_> = volumes.collect();
    let first = volumes.first();
    let text = |value: Option<String>| value.unwrap_or_default();
    // Sorted by key, as 0.1.0 wrote it. This text is an input of the hooks, and another order would call them again.
    let all: Vec<_> = volumes
        .iter()
        .map(|(want, device_name)| {
            BTreeMap::from([
                ("id", json!(want.id.as_str())),
                ("device_name", json!(device_name)),
                ("mount_path", json!(want.mount_path)),
                ("file_system", json!(want.file_system.as_str())),
                ("owner", json!(want.owner.as_ref().map(ToString::to_string))),
                ("group", json!(want.group.as_ref().map(ToString::to_string))),
            ])
        })
        .collect();
    BTreeMap::from([
        ("NODE_ID", config.node.id.clone()),
        ("NODE_IP", ip.to_string()),
        ("VOLUME_ID", text(first.map(|(want, _)| want.id.to_string()))),
        ("DEVICE_NAME", text(first.map(|(_, device_name)| (*device_name).to_owned()))),
        ("MOUNT_PATH", text(first.map(|(want, _)| want.mount_path.display().to_string()))),
        ("FILE_SYSTEM_TYPE", text(first.map(|(want, _)| want.file_system.to_string()))),
        ("OWNER", text(first.and_then(|(want, _)| want.owner.as_ref()).map(ToString::to_string))),
        ("GROUP", text(first.and_then(|(want, _)| want.group.as_ref()).map(ToString::to_string))),
        ("INSTANCE_ID", instance.instance_id.clone()),
        ("REGION", instance.region.clone()),
        ("ASG_NAME", text(config.lifecycle.as_ref().map(|lifecycle| lifecycle.asg_name.clone()))),
        ("ASG_HOOK_NAME", text(config.lifecycle.as_ref().map(|lifecycle| lifecycle.hook_name.clone()))),
        ("NODE_AGENT_VOLUMES", json!(all).to_string()),
    ])
}
