//! The life of volumes: made, attached, detached, grown.

use std::fs::OpenOptions;
use std::sync::Arc;
use std::time::Duration;

use crate::config::VolumeSpec;
use crate::core::Core;
use crate::error::{ApiError, SimError};
use crate::events::{DeviceChange, VolumeChange, What};
use crate::ids::{InstanceId, VolumeId};
use crate::world::{Attachment, AttachmentStatus, InstanceState, Kept, Volume, World, no_volume};

/// How often a device that should be gone is looked at.
const GONE_POLL: Duration = Duration::from_millis(5);

/// Makes a volume. A backing file that exists keeps its content.
pub(crate) fn create(core: &Core, spec: VolumeSpec) -> Result<VolumeId, SimError> {
    let id = spec.id.map_or_else(VolumeId::random, VolumeId::from);
    let mut world = core.world();
    if world.volumes.contains_key(&id) {
        return Err(SimError::Invalid(format!("the volume {id} exists already")));
    }
    let backing = core.work_dir.join(format!("{id}.img"));
    let wanted = spec.size_bytes.next_multiple_of(512);
    let size_bytes = set_size(&backing, wanted)?;
    let volume = Volume {
        id: id.clone(),
        size_bytes,
        zone: spec.zone.unwrap_or_else(|| core.config.zone.clone()),
        snapshot_id: spec.snapshot_id,
        multi_attach: spec.multi_attach,
        kms_key_id: spec.kms_key_id,
        kms_key_disabled: spec.kms_key_disabled,
        tags: spec.tags,
        created: core.clock.now(),
        backing,
        attachments: Vec::new(),
    };
    tell(core, &volume, None);
    world.volumes.insert(id.clone(), Kept::new(volume));
    Ok(id)
}

/// Makes the sparse file at least that long and tells how long it is.
fn set_size(path: &std::path::Path, wanted: u64) -> Result<u64, SimError> {
    let what = || format!("size {}", path.display());
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(SimError::io(what()))?;
    let length = file.metadata().map_err(SimError::io(what()))?.len();
    if length < wanted {
        file.set_len(wanted).map_err(SimError::io(what()))?;
    }
    Ok(length.max(wanted))
}

/// Begins to attach.
pub(crate) fn attach(core: &Arc<Core>, volume: &str, instance: &str, device: &str) -> Result<Attachment, ApiError> {
    let mut world = core.world();
    refuse_attach(&world, volume, instance, device)?;
    let generation = world.next_generation();
    let attachment = Attachment {
        instance: InstanceId::from(instance),
        device: device.to_owned(),
        status: AttachmentStatus::Attaching,
        since: core.clock.now(),
        generation,
    };
    let kept = world.volume_mut(volume)?;
    kept.change(|volume| volume.attachments.push(attachment.clone()));
    tell(core, kept.get(), Some(&attachment));
    let (volume, instance) = (kept.get().id.clone(), attachment.instance.clone());
    let unusable = kept.get().kms_key_disabled;
    drop(world);

    let latencies = &core.config.latencies;
    let of = volume.clone();
    if unusable {
        let dropped = attachment.clone();
        core.later(latencies.attach, move |core| end_attachment(core, &mut core.world(), &of, &dropped));
        return Ok(attachment);
    }
    core.later(latencies.attach, move |core| {
        let mut world = core.world();
        set_status(core, &mut world, &of, generation, AttachmentStatus::Attaching, AttachmentStatus::Attached);
    });
    core.later(latencies.device, move |core| {
        appear(core, &volume, &instance, generation);
    });
    Ok(attachment)
}

fn refuse_attach(world: &World, volume: &str, instance: &str, device: &str) -> Result<(), ApiError> {
    let volume = world.volume(volume)?;
    let instance = world.instance(instance)?;
    if volume.zone != instance.zone {
        let message =
            format!("The volume '{}' is not in the same availability zone as instance '{}'", volume.id, instance.id);
        return Err(ApiError::client("InvalidVolume.ZoneMismatch", message));
    }
    if !matches!(instance.state, InstanceState::Running | InstanceState::Stopped) {
        return Err(ApiError::client("IncorrectState", format!("Instance '{}' is not 'running'.", instance.id)));
    }
    let held = |attachment: &&Attachment| !volume.multi_attach || attachment.instance == instance.id;
    if let Some(attachment) = volume.attachments.iter().find(held) {
        return Err(if attachment.status.is_leaving() {
            ApiError::client("IncorrectState", format!("The volume '{}' is not 'available'.", volume.id))
        } else {
            ApiError::client("VolumeInUse", format!("{} is already attached to an instance", volume.id))
        });
    }
    let denied = |action: &str| instance.spec.denied.iter().any(|denied| denied == action);
    if volume.kms_key_id.is_some() && denied("kms:CreateGrant") {
        let message = format!(
            "Volume {} cannot be attached. The encrypted volume was unable to access the KMS master key.",
            volume.id
        );
        return Err(ApiError::client("CustomerKeyHasBeenRevoked", message));
    }
    if world.attached_to(&instance.id).any(|(_, attachment)| attachment.device == device) {
        let message = format!("Invalid value '{device}' for unixDevice. Attachment point {device} is already in use");
        return Err(ApiError::client("InvalidParameterValue", message));
    }
    Ok(())
}

/// The device's own schedule: it appears whatever the API says by then, unless the attachment is going already.
fn appear(core: &Core, volume: &VolumeId, instance: &InstanceId, generation: u64) {
    // Held until the device is registered, so that a detach cannot overtake it and leave the device behind.
    let world = core.world();
    let Ok(state) = world.volume(volume) else {
        return;
    };
    let Some(attachment) = state.attachments.iter().find(|attachment| attachment.generation == generation) else {
        return;
    };
    let Ok(holder) = world.instance(instance) else {
        return;
    };
    if attachment.status.is_leaving() || holder.spec.light.is_some() {
        return;
    }
    let made = core.devices.appear(volume, instance, &state.backing, &holder.spec, state.multi_attach);
    let (state, path) = match made {
        Ok(path) => ("appeared".to_owned(), path.display().to_string()),
        Err(error) => (format!("failed: {error}"), String::new()),
    };
    tell_device(core, volume, instance, state, path);
}

fn set_status(
    core: &Core,
    world: &mut World,
    volume: &str,
    generation: u64,
    from: AttachmentStatus,
    to: AttachmentStatus,
) {
    let Ok(kept) = world.volume_mut(volume) else {
        return;
    };
    let current = |attachment: &Attachment| attachment.generation == generation && attachment.status == from;
    if !kept.get().attachments.iter().any(current) {
        return;
    }
    kept.change(|volume| {
        for attachment in volume.attachments.iter_mut().filter(|attachment| attachment.generation == generation) {
            attachment.status = to;
        }
    });
    let volume = kept.get();
    let attachment = volume.attachments.iter().find(|attachment| attachment.generation == generation);
    tell(core, volume, attachment);
}

/// Begins to detach. Without an instance the only attachment is meant.
pub(crate) fn detach(core: &Arc<Core>, volume: &str, instance: Option<&str>) -> Result<Attachment, ApiError> {
    let mut world = core.world();
    let state = world.volume(volume)?;
    if let Some(instance) = instance {
        world.instance(instance)?;
    }
    let attachment = state
        .attachments
        .iter()
        .find(|attachment| instance.is_none_or(|instance| attachment.instance.as_str() == instance))
        .ok_or_else(|| ApiError::client("IncorrectState", format!("Volume '{volume}' is in the 'available' state.")))?;
    let holder = world.instance(&attachment.instance)?;
    if attachment.status.is_leaving() || holder.state.is_ending() {
        let message = format!("The volume '{volume}' is not 'attached'.");
        return Err(ApiError::client("IncorrectState", message));
    }
    let mut attachment = attachment.clone();
    let id = VolumeId::from(volume);
    set_status(core, &mut world, &id, attachment.generation, attachment.status, AttachmentStatus::Detaching);
    drop(world);
    attachment.status = AttachmentStatus::Detaching;
    let (after, leaving, shared) = (core.config.latencies.detach, attachment.clone(), Arc::clone(core));
    core.runtime.spawn(async move {
        tokio::time::sleep(after).await;
        free(&shared, &id, &leaving).await;
    });
    Ok(attachment)
}

/// Takes the device away and, once nobody holds it open any more, ends the attachment. As with a real detach, a mounted
/// device keeps the volume: otherwise two instances would write one disk.
pub(crate) async fn free(core: &Arc<Core>, volume: &VolumeId, attachment: &Attachment) {
    let instance = &attachment.instance;
    let device = {
        let mut world = core.world();
        let Some(device) = core.devices.release(volume, instance) else {
            // Under the same lock, so that the device cannot appear in between and stay.
            end_attachment(core, &mut world, volume, attachment);
            return;
        };
        device
    };
    let path = device.path.display().to_string();
    if !device.is_gone() {
        // A client may be between two calls; only what stays is worth telling.
        tokio::time::sleep(GONE_POLL).await;
    }
    if !device.is_gone() {
        tell_device(core, volume, instance, "busy".to_owned(), path.clone());
        let (was, busy) = (attachment.status, AttachmentStatus::Busy);
        set_status(core, &mut core.world(), volume, attachment.generation, was, busy);
        while !device.is_gone() {
            tokio::time::sleep(GONE_POLL).await;
        }
    }
    tell_device(core, volume, instance, "gone".to_owned(), path);
    end_attachment(core, &mut core.world(), volume, attachment);
}

fn end_attachment(core: &Core, world: &mut World, volume: &VolumeId, attachment: &Attachment) {
    if let Ok(kept) = world.volume_mut(volume) {
        let other = |other: &Attachment| other.generation != attachment.generation;
        kept.change(|volume| volume.attachments.retain(other));
        tell_attachment(core, kept.get(), "detached", &attachment.instance);
    }
}

/// Makes the volume larger, under its devices.
pub(crate) fn grow(core: &Core, volume: &str, size_bytes: u64) -> Result<(), ApiError> {
    let mut world = core.world();
    let kept = world.volume_mut(volume).map_err(|_| no_volume(volume))?;
    let size_bytes = size_bytes.next_multiple_of(512);
    if size_bytes < kept.get().size_bytes {
        return Err(ApiError::client("InvalidParameterValue", "New size cannot be smaller than existing size"));
    }
    set_size(&kept.get().backing, size_bytes)
        .map_err(|error| ApiError::new(500, "InternalError", error.to_string()))?;
    kept.change(|volume| volume.size_bytes = size_bytes);
    tell(core, kept.get(), None);
    for (instance, path, outcome) in core.devices.reread_size(&kept.get().id) {
        let state = outcome.map_or_else(|error| format!("failed: {error}"), |()| "grown".to_owned());
        tell_device(core, &kept.get().id, &instance, state, path.display().to_string());
    }
    Ok(())
}

fn tell(core: &Core, volume: &Volume, attachment: Option<&Attachment>) {
    core.log.push(What::Volume(VolumeChange {
        id: volume.id.to_string(),
        status: volume.status().to_owned(),
        attachment: attachment.map(|attachment| attachment.status.name().to_owned()),
        instance: attachment.map(|attachment| attachment.instance.to_string()),
        size_bytes: volume.size_bytes,
    }));
}

fn tell_attachment(core: &Core, volume: &Volume, status: &str, instance: &InstanceId) {
    core.log.push(What::Volume(VolumeChange {
        id: volume.id.to_string(),
        status: volume.status().to_owned(),
        attachment: Some(status.to_owned()),
        instance: Some(instance.to_string()),
        size_bytes: volume.size_bytes,
    }));
}

fn tell_device(core: &Core, volume: &VolumeId, instance: &InstanceId, state: String, path: String) {
    core.log.push(What::Device(DeviceChange { id: volume.to_string(), instance: instance.to_string(), state, path }));
}
