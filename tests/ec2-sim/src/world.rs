//! The state of the world: volumes, instances, groups. No HTTP and no timers here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Deserialize;
use time::OffsetDateTime;

use crate::activities::ScalingActivity;
use crate::catalog::Catalog;
use crate::config::{ActionResult, GroupSpec, InstanceSpec, Transition};
use crate::error::ApiError;
use crate::faults::Times;
use crate::ids::{InstanceId, VolumeId};
use crate::interfaces::InterfaceSpec;
use crate::launches::LaunchFailure;
use crate::snapshots::SnapshotView;
use crate::templates::Template;

/// The image and type of every instance that names no others.
pub(crate) const IMAGE: &str = "ami-0123456789abcdef0";
pub(crate) const TYPE: &str = "m6i.large";

/// Which state of the world an answer shows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum View {
    /// Each thing as it was that many changes ago.
    Back(usize),
    /// Everything as it was then.
    At(Instant),
}

/// A thing with its past, from which stale answers are given.
#[derive(Debug)]
pub(crate) struct Kept<T> {
    now: T,
    since: Instant,
    past: Vec<Past<T>>,
}

#[derive(Debug)]
struct Past<T> {
    state: T,
    until: Instant,
    /// Whether it counts as a change for [`View::Back`].
    counts: bool,
}

impl<T: Clone> Kept<T> {
    pub(crate) fn new(now: T) -> Self {
        Self { now, since: Instant::now(), past: Vec::new() }
    }

    pub(crate) fn get(&self) -> &T {
        &self.now
    }

    /// Changes it; the state before becomes part of the past.
    pub(crate) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        self.keep(true);
        change(&mut self.now)
    }

    /// Changes it, but the change does not count for [`View::Back`]: a scenario that prepares the world does it in steps
    /// that nobody is to see.
    pub(crate) fn prepare<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        self.keep(false);
        change(&mut self.now)
    }

    fn keep(&mut self, counts: bool) {
        self.past.push(Past { state: self.now.clone(), until: Instant::now(), counts });
    }

    /// All its states, the newest first.
    pub(crate) fn history(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.now).chain(self.past.iter().rev().map(|past| &past.state))
    }

    /// Changes what no answer shows.
    pub(crate) fn adjust<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.now)
    }

    /// As it was `back` changes ago, or at first.
    pub(crate) fn back(&self, back: usize) -> &T {
        let counted = || self.past.iter().filter(|past| past.counts);
        match back {
            0 => &self.now,
            _ => counted().rev().nth(back - 1).or(counted().next()).map_or(&self.now, |past| &past.state),
        }
    }

    /// As it was at that time; none where there was no such thing yet.
    pub(crate) fn at(&self, time: Instant) -> Option<&T> {
        let later = self.past.partition_point(|past| past.until <= time);
        (time >= self.since).then(|| self.past.get(later).map_or(&self.now, |past| &past.state))
    }

    pub(crate) fn seen(&self, view: View) -> Option<&T> {
        match view {
            View::Back(back) => Some(self.back(back)),
            View::At(time) => self.at(time),
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

    /// Whether a machine of such an instance is on.
    pub(crate) fn is_up(self) -> bool {
        matches!(self, Self::Pending | Self::Running)
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
    /// Where its metadata service answers.
    pub(crate) imds: Option<SocketAddr>,
    /// The metadata service refuses tokens that were issued before.
    pub(crate) tokens_since: Instant,
    /// Whether its network interface is in use by it.
    pub(crate) holds_interface: bool,
}

impl Instance {
    /// The identifier of its network interface.
    pub(crate) fn interface(&self) -> String {
        self.spec.interface.clone().unwrap_or_else(|| self.id.replace("i-", "eni-"))
    }

    pub(crate) fn image(&self) -> &str {
        self.spec.image.as_deref().unwrap_or(IMAGE)
    }

    pub(crate) fn instance_type(&self) -> &str {
        self.spec.instance_type.as_deref().unwrap_or(TYPE)
    }
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
    /// Whether a smaller desired capacity lets it be.
    pub(crate) protected: bool,
    /// When the metadata service begins to show this state's target.
    pub(crate) shown_from: Instant,
}

/// An Auto Scaling group.
#[derive(Debug)]
pub(crate) struct Group {
    spec: Kept<GroupSpec>,
    pub(crate) created: OffsetDateTime,
    /// Whether it is launching in the place of a lost instance.
    pub(crate) launching: bool,
    /// What its launches fail by, and how many of them.
    pub(crate) failing: Option<(LaunchFailure, Times)>,
}

impl Group {
    pub(crate) fn new(spec: GroupSpec, created: OffsetDateTime) -> Self {
        Self { spec: Kept::new(spec), created, launching: false, failing: None }
    }

    pub(crate) fn spec(&self) -> &GroupSpec {
        self.spec.get()
    }

    pub(crate) fn seen(&self, view: View) -> Option<&GroupSpec> {
        self.spec.seen(view)
    }

    pub(crate) fn change<R>(&mut self, change: impl FnOnce(&mut GroupSpec) -> R) -> R {
        self.spec.change(change)
    }

    pub(crate) fn prepare<R>(&mut self, change: impl FnOnce(&mut GroupSpec) -> R) -> R {
        self.spec.prepare(change)
    }

    pub(crate) fn hooks(&self, transition: Transition) -> impl Iterator<Item = &crate::config::HookSpec> {
        self.spec().hooks.iter().filter(move |hook| hook.transition == transition)
    }
}

/// Everything there is.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) volumes: BTreeMap<VolumeId, Kept<Volume>>,
    pub(crate) instances: BTreeMap<InstanceId, Kept<Instance>>,
    pub(crate) members: BTreeMap<InstanceId, Kept<Member>>,
    /// Who was a member, and until when, in the order of leaving.
    departed: Vec<(Instant, InstanceId, Kept<Member>)>,
    pub(crate) groups: BTreeMap<String, Group>,
    /// By their identifiers.
    pub(crate) templates: BTreeMap<String, Template>,
    /// By their identifiers.
    pub(crate) interfaces: BTreeMap<String, InterfaceSpec>,
    /// The parameters of Systems Manager that name images.
    pub(crate) parameters: BTreeMap<String, String>,
    /// In the order of their begin.
    pub(crate) activities: Vec<ScalingActivity>,
    pub(crate) catalog: Catalog,
    /// What the instances have written on their consoles.
    pub(crate) consoles: BTreeMap<InstanceId, String>,
    pub(crate) snapshots: Vec<SnapshotView>,
    pub(crate) launch_before_terminate: bool,
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

    pub(crate) fn group(&self, name: &str) -> Result<&Group, ApiError> {
        self.groups.get(name).ok_or_else(|| no_group(name))
    }

    pub(crate) fn group_mut(&mut self, name: &str) -> Result<&mut Group, ApiError> {
        self.groups.get_mut(name).ok_or_else(|| no_group(name))
    }

    /// A template by its identifier or its name.
    pub(crate) fn template(&self, template: &str) -> Option<&Template> {
        self.templates.get(template).or_else(|| self.templates.values().find(|other| other.name == template))
    }

    /// A member leaves its group; answers that are late still show it.
    pub(crate) fn depart(&mut self, id: &InstanceId) -> Option<Member> {
        let kept = self.members.remove(id)?;
        let member = kept.get().clone();
        self.departed.push((Instant::now(), id.clone(), kept));
        Some(member)
    }

    /// The members of all groups, each with its instance, as this view shows them.
    pub(crate) fn members_seen(&self, view: View) -> impl Iterator<Item = (&Instance, &Member)> {
        let gone = match view {
            View::Back(_) => &[],
            View::At(time) => &self.departed[self.departed.partition_point(|(until, ..)| *until <= time)..],
        };
        let there = self.members.iter().chain(gone.iter().map(|(_, id, kept)| (id, kept)));
        there.filter_map(move |(id, kept)| Some((self.instances.get(id)?.seen(view)?, kept.seen(view)?)))
    }

    /// The instance that holds this network interface.
    pub(crate) fn interface_user(&self, interface: &str) -> Option<&Instance> {
        let mut there = self.instances.values().map(Kept::get);
        there.find(|instance| instance.holds_interface && instance.interface() == interface)
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

pub(crate) fn no_group(name: &str) -> ApiError {
    let message = format!("AutoScalingGroup name not found - AutoScalingGroup '{name}' not found");
    ApiError::client("ValidationError", message)
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

    #[test]
    fn what_a_scenario_prepares_is_not_counted_but_has_its_time() {
        let mut kept = Kept::new(0);
        let first = Instant::now();
        kept.prepare(|now| *now = 1);
        assert_eq!(*kept.back(1), 1);
        kept.change(|now| *now = 2);
        assert_eq!([1, 2].map(|back| *kept.back(back)), [1, 1]);
        assert_eq!([kept.at(first), kept.at(Instant::now())], [Some(&0), Some(&2)]);
        assert_eq!(kept.at(kept.since.checked_sub(Duration::from_nanos(1)).unwrap()), None);
    }
}
