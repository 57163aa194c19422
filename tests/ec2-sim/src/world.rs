//! The state of the world: volumes, instances, groups. No HTTP and no timers here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Deserialize;
use time::OffsetDateTime;

use crate::config::{ActionResult, GroupSpec, InstanceSpec, Transition};
use crate::error::ApiError;
use crate::ids::{InstanceId, VolumeId};

/// A thing with its past, from which stale answers are given.
#[derive(Debug)]
pub(crate) struct Kept<T> {
    now: T,
    past: Vec<T>,
}

impl<T: Clone> Kept<T> {
    pub(crate) fn new(now: T) -> Self {
        Self { now, past: Vec::new() }
    }

    pub(crate) fn get(&self) -> &T {
        &self.now
    }

    /// Changes it; the state before becomes part of the past.
    pub(crate) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        self.past.push(self.now.clone());
        change(&mut self.now)
    }

    /// All its states, the newest first.
    pub(crate) fn history(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.now).chain(self.past.iter().rev())
    }

    /// Changes what no answer shows.
    pub(crate) fn adjust<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.now)
    }

    /// As it was `back` changes ago, or at first.
    pub(crate) fn back(&self, back: usize) -> &T {
        match back {
            0 => &self.now,
            _ => self.past.get(self.past.len().saturating_sub(back)).unwrap_or(&self.now),
        }
    }
}

/// An attachment's status, as `DescribeVolumes` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttachmentStatus {
    Attaching,
    Attached,
    Detaching,
    /// To go, but the device is still held open.
    Busy,
}

impl AttachmentStatus {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Detaching => "detaching",
            Self::Busy => "busy",
        }
    }

    pub(crate) fn is_leaving(self) -> bool {
        matches!(self, Self::Detaching | Self::Busy)
    }
}

/// A volume on an instance.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) instance: InstanceId,
    pub(crate) device: String,
    pub(crate) status: AttachmentStatus,
    pub(crate) since: OffsetDateTime,
    /// Tells this attachment from an earlier or later one of the same pair, for timers that fire late.
    pub(crate) generation: u64,
}

/// A volume.
#[derive(Debug, Clone)]
pub(crate) struct Volume {
    pub(crate) id: VolumeId,
    pub(crate) size_bytes: u64,
    pub(crate) zone: String,
    pub(crate) snapshot_id: Option<String>,
    pub(crate) multi_attach: bool,
    pub(crate) kms_key_id: Option<String>,
    pub(crate) kms_key_disabled: bool,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) created: OffsetDateTime,
    pub(crate) backing: PathBuf,
    pub(crate) attachments: Vec<Attachment>,
}

impl Volume {
    pub(crate) fn status(&self) -> &'static str {
        if self.attachments.is_empty() { "available" } else { "in-use" }
    }

    /// GiB, rounded up, as EC2 tells sizes.
    pub(crate) fn size_gib(&self) -> u64 {
        self.size_bytes.div_ceil(1 << 30)
    }

    pub(crate) fn attachment(&self, instance: &str) -> Option<&Attachment> {
        self.attachments.iter().find(|attachment| attachment.instance.as_str() == instance)
    }
}

/// An instance's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    /// Starting.
    Pending,
    /// Running.
    Running,
    /// On its way to `terminated`, still holding its volumes.
    ShuttingDown,
    /// Gone; its volumes are free.
    Terminated,
    /// On its way to `stopped`.
    Stopping,
    /// Stopped, still holding its volumes.
    Stopped,
}

impl InstanceState {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }

    /// EC2's number for it (API reference, `InstanceState`).
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::Pending => 0,
            Self::Running => 16,
            Self::ShuttingDown => 32,
            Self::Terminated => 48,
            Self::Stopping => 64,
            Self::Stopped => 80,
        }
    }

    pub(crate) fn is_ending(self) -> bool {
        matches!(self, Self::ShuttingDown | Self::Terminated)
    }
}

/// An instance.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) state: InstanceState,
    pub(crate) spec: InstanceSpec,
    pub(crate) zone: String,
    pub(crate) mac: String,
    pub(crate) launched: OffsetDateTime,
    pub(crate) imds: SocketAddr,
    /// The metadata service refuses tokens that were issued before.
    pub(crate) tokens_since: Instant,
}

/// An action that holds a group member until it is completed.
#[derive(Debug, Clone)]
pub(crate) struct LifecycleAction {
    pub(crate) hook: String,
    pub(crate) token: String,
    pub(crate) timeout: Duration,
    pub(crate) deadline: Instant,
    /// The global limit, which no heartbeat moves.
    pub(crate) limit: Instant,
    pub(crate) default_result: ActionResult,
    pub(crate) completed: bool,
}

/// A group's member.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) group: String,
    pub(crate) state: String,
    pub(crate) actions: Vec<LifecycleAction>,
    /// Whether its group calls it healthy.
    pub(crate) healthy: bool,
    /// When the metadata service begins to show this state's target.
    pub(crate) shown_from: Instant,
}

/// An Auto Scaling group.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) spec: GroupSpec,
    pub(crate) created: OffsetDateTime,
    /// Whether it is launching in the place of a lost instance.
    pub(crate) launching: bool,
}

impl Group {
    pub(crate) fn hooks(&self, transition: Transition) -> impl Iterator<Item = &crate::config::HookSpec> {
        self.spec.hooks.iter().filter(move |hook| hook.transition == transition)
    }
}

/// Everything there is.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) volumes: BTreeMap<VolumeId, Kept<Volume>>,
    pub(crate) instances: BTreeMap<InstanceId, Kept<Instance>>,
    pub(crate) members: BTreeMap<InstanceId, Kept<Member>>,
    pub(crate) groups: BTreeMap<String, Group>,
    generations: u64,
}

impl World {
    pub(crate) fn next_generation(&mut self) -> u64 {
        self.generations += 1;
        self.generations
    }

    pub(crate) fn volume(&self, id: &str) -> Result<&Volume, ApiError> {
        self.volumes.get(id).map(Kept::get).ok_or_else(|| no_volume(id))
    }

    pub(crate) fn volume_mut(&mut self, id: &str) -> Result<&mut Kept<Volume>, ApiError> {
        self.volumes.get_mut(id).ok_or_else(|| no_volume(id))
    }

    pub(crate) fn instance(&self, id: &str) -> Result<&Instance, ApiError> {
        self.instances.get(id).map(Kept::get).ok_or_else(|| no_instance(id))
    }

    pub(crate) fn instance_mut(&mut self, id: &str) -> Result<&mut Kept<Instance>, ApiError> {
        self.instances.get_mut(id).ok_or_else(|| no_instance(id))
    }

    /// The volumes on an instance, each with its attachment.
    pub(crate) fn attached_to<'a>(&'a self, instance: &'a str) -> impl Iterator<Item = (&'a Volume, &'a Attachment)> {
        self.volumes.values().filter_map(move |volume| {
            let volume = volume.get();
            volume.attachment(instance).map(|attachment| (volume, attachment))
        })
    }
}

pub(crate) fn no_volume(id: &str) -> ApiError {
    ApiError::client("InvalidVolume.NotFound", format!("The volume '{id}' does not exist."))
}

pub(crate) fn no_instance(id: &str) -> ApiError {
    ApiError::client("InvalidInstanceID.NotFound", format!("The instance ID '{id}' does not exist"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_is_counted_in_changes_and_ends_at_the_first_state() {
        let mut kept = Kept::new(0);
        kept.change(|now| *now = 1);
        kept.change(|now| *now = 2);
        assert_eq!([0, 1, 2, 9].map(|back| *kept.back(back)), [2, 1, 0, 0]);
        assert_eq!(*Kept::new(7).back(3), 7);
    }
}
