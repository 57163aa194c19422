//! The volumes: whether each exists, is in this zone, and is free or attached here.

use std::cell::RefCell;
use std::collections::BTreeSet;

use futures_util::future::join_all;

use super::{Context, Finding, ask, permissions};
use crate::aws::ec2::{Attachment, InstanceStateName, VolumeAttachmentState, VolumeState, VolumeView};
use crate::config;
use crate::failure::{Code, Failure};

/// One finding per volume, and one per key of the volumes that are still to be attached.
pub(super) async fn check(context: &Context<'_>) -> Vec<Finding> {
    let keys = RefCell::default();
    let mut findings = join_all(context.config.volumes.iter().map(|want| volume(context, want, &keys))).await;
    findings.extend(keys.into_inner().iter().map(|key| key_finding(context, key)));
    findings
}

/// KMS has no dry run, and only KMS knows whose key it is.
fn key_finding(context: &Context<'_>, key: &str) -> Finding {
    let seen = "cannot be tried without attaching a volume: a dry run of ec2:AttachVolume does not ask KMS";
    let statement = permissions::kms(&context.instance.region, key);
    Finding::unknown(format!("KMS key {key}"), seen).advise(format!(
        "nothing if it is the AWS managed key aws/ebs; for a key of your own, check that it is enabled, that the role's policy \
         has {statement}, and that the key's policy allows the role or the account the same"
    ))
}

async fn volume(context: &Context<'_>, want: &config::Volume, keys: &RefCell<BTreeSet<String>>) -> Finding {
    let name = format!("volume {}", want.id);
    if let Err(why) = &context.reachable.ec2 {
        return Finding::unknown(name, format!("not checked: {why}"));
    }
    match ask(async || context.services.ec2.volume(want.id.as_str()).await).await {
        Ok(view) => {
            let here = |attachment: &Attachment| attachment.instance_id == context.instance.instance_id;
            // The key of a volume that is attached here has proved itself.
            if !view.attachments.iter().any(here) {
                keys.borrow_mut().extend(view.kms_key_id.clone());
            }
            judge(context, name, &view).await
        }
        Err(failure) if failure.code == Code::AccessDenied => {
            Finding::unknown(name, "not checked: ec2:DescribeVolumes is not allowed")
        }
        Err(failure) => Finding::failed(name, &failure),
    }
}

async fn judge(context: &Context<'_>, name: String, view: &VolumeView) -> Finding {
    let fix = |failure: Failure| Finding::failed(&name, &failure);
    let instance = context.instance;
    if view.zone != instance.availability_zone {
        let seen = format!("is in {}, this instance in {}", view.zone, instance.availability_zone);
        return fix(Failure::new(Code::ZoneMismatch, seen));
    }
    if view.multi_attach {
        return fix(Failure::new(Code::MultiAttach, "has Multi-Attach on"));
    }
    let encrypted = if view.kms_key_id.is_some() { ", encrypted" } else { "" };
    let size = format!("{} GiB in {}{encrypted}", view.size_gib, view.zone);
    let attachments =
        || view.attachments.iter().filter(|attachment| attachment.state != VolumeAttachmentState::Detached);
    if let Some(other) = attachments().find(|attachment| attachment.instance_id != instance.instance_id) {
        return held(context, name, &size, other).await;
    }
    if let Some(here) = attachments().next() {
        return Finding::ok(name, format!("{size}, {} here as {}", here.state, here.device));
    }
    match &view.state {
        VolumeState::Available => Finding::ok(name, format!("{size}, free")),
        // The description may lag behind: a detached volume stays `in-use` for a moment.
        VolumeState::Creating | VolumeState::InUse => {
            Finding::ok(name, format!("{size}, {}: a run would wait for it", view.state))
        }
        state => fix(Failure::new(Code::VolumeUnusable, format!("is {state}"))),
    }
}

/// The finding of a volume that another instance has: fine if that instance is being terminated.
async fn held(context: &Context<'_>, name: String, size: &str, by: &Attachment) -> Finding {
    let state = match ask(async || context.services.ec2.instance_state(&by.instance_id).await).await {
        Ok(state) => state,
        Err(failure) => return Finding::failed(name, &failure),
    };
    let seen = format!("{size}, {} to {} ({state})", by.state, by.instance_id);
    if matches!(state, InstanceStateName::ShuttingDown | InstanceStateName::Terminated) {
        return Finding::ok(name, format!("{seen}: a run would wait until it is free"));
    }
    Finding::failed(name, &Failure::new(Code::VolumeHeld, seen))
        .advise("terminate that instance, or stop using the volume there and detach it: the agent never detaches it")
}
