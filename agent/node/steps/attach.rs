//! `attach`: the volume is attached to this instance. It is never detached from another one.
//!
//! The disk is the proof: a block device with the volume's serial is attached here, some time before `DescribeVolumes` says so. The next
//! steps begin with it, and [`Confirm`] waits for EC2's answer before the node is reported.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeSet;
use std::future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::aws::ec2::{
    self, AttachAnswer, Attachment, Ec2, InstanceStateName, VolumeAttachmentState, VolumeState, VolumeView,
};
use crate::config::{self, VolumeId};
use crate::failure::{Code, Failure};
use crate::host::device::{self, Device};
use crate::host::uevents::BlockEvents;
use crate::lifecycle::Launch;
use crate::runner::{Acted, Header, Observed, Step};
use crate::sequence::StepName;

/// Attaches one volume.
pub struct Attach<'a> {
    ec2: &'a Ec2,
    /// Whether this instance is still wanted.
    launch: &'a Launch<'a>,
    want: &'a config::Volume,
    deadline: Duration,
    /// Device names that EC2 said are taken, for all volumes of this run.
    taken: &'a RefCell<BTreeSet<String>>,
    /// The instance that has the volume, as last observed.
    holder: RefCell<Option<Holder>>,
    /// How often EC2 has accepted the request to attach.
    accepted: Cell<u32>,
    /// The volume's last description.
    view: RefCell<Option<VolumeView>>,
    /// The device name of an attachment to this instance that is under way: EC2 has accepted the request, or says so.
    arriving_as: RefCell<Option<String>>,
    /// The kernel's events, where they may be heard.
    events: OnceCell<Option<BlockEvents>>,
}

/// The last observation of the instance that has the volume.
pub struct Holder {
    instance_id: String,
    state: InstanceStateName,
    observed_at: Instant,
}

/// How long an observation of the holder is valid. Its state is only shown to people, so it is requested less often than the
/// volume's: the whole account shares the request quota.
const HOLDER_VALID_FOR: Duration = Duration::from_secs(5);

/// After this many accepted requests, the earlier ones count as dropped: EC2 refuses to attach a volume that it is attaching.
const ACCEPTED_AND_DROPPED: u32 = 3;

/// When the device is looked for after an event: where it has no serial, udev makes its link some milliseconds later.
const LOOK_AFTER_AN_EVENT: Duration = Duration::from_millis(5);
/// How often at least it is looked for while events are heard, some of which may be lost.
const LOOK_BESIDE_EVENTS: Duration = Duration::from_millis(500);
/// How often it is looked for without them.
const LOOK_WITHOUT_EVENTS: Duration = Duration::from_millis(40);

/// How often at most EC2 is asked while the device is waited for, which takes some seconds: only a request that EC2 has dropped shows
/// in its answers alone, and the whole account shares the request quota. On Xen nothing but the answer tells that a device is the volume.
const REST_WHILE_ARRIVING: Duration = Duration::from_secs(2);

/// A volume attached to this instance.
#[derive(Clone, Debug)]
pub struct Attached<'a> {
    pub(crate) want: &'a config::Volume,
    pub(crate) view: VolumeView,
    /// The device name that it was attached with.
    pub(crate) device_name: String,
    /// Whether EC2 says so; otherwise its device alone has shown it.
    pub(crate) is_described: bool,
}

/// Where a volume is, by EC2's description.
enum Placement<'v> {
    /// Attached to this instance.
    Here(&'v Attachment),
    /// Being attached to this instance.
    Arriving(&'v Attachment),
    /// Attached to another instance, or on its way to or from it.
    Elsewhere(&'v Attachment),
    /// Attached to no instance, or leaving this one.
    Nowhere(Option<&'v Attachment>),
}

impl Placement<'_> {
    /// Matched by instance: the volume's own `in-use` and the first attachment may belong to another instance.
    fn of<'v>(view: &'v VolumeView, instance_id: &str) -> Placement<'v> {
        let attachments = view.attachments.iter().filter(|found| found.state != VolumeAttachmentState::Detached);
        let (ours, others): (Vec<_>, Vec<_>) = attachments.partition(|found| found.instance_id == instance_id);
        match (others.first(), ours.first()) {
            (Some(other), _) => Placement::Elsewhere(other),
            (None, Some(ours)) if ours.state == VolumeAttachmentState::Attached => Placement::Here(ours),
            (None, Some(ours)) if ours.state == VolumeAttachmentState::Attaching => Placement::Arriving(ours),
            (None, leaving) => Placement::Nowhere(leaving.copied()),
        }
    }
}

impl<'a> Attach<'a> {
    /// Attaches `want` within `timeouts.volume`. All volumes of a run share `taken`.
    pub fn new(
        ec2: &'a Ec2,
        launch: &'a Launch<'a>,
        want: &'a config::Volume,
        taken: &'a RefCell<BTreeSet<String>>,
        deadline: Duration,
    ) -> Self {
        let (holder, accepted, view, arriving_as, events) = Default::default();
        Attach { ec2, launch, want, deadline, taken, holder, accepted, view, arriving_as, events }
    }
}

impl<'a> Step for Attach<'a> {
    type Output = Attached<'a>;

    fn header(&self) -> Header<'_> {
        Header::of(StepName::Attach, self.deadline).about(self.want.id.as_str())
    }

    async fn observe(&self) -> Result<Observed<Attached<'a>>, Failure> {
        // No question to EC2: what the volume is was known before it was requested.
        if let Some(attached) = self.shown_by_its_device() {
            return Ok(Observed::Done(attached));
        }
        let id = &self.want.id;
        let view = self.ec2.volume(id.as_str()).await?;
        let instance_zone = &self.launch.instance.availability_zone;
        if view.zone != *instance_zone {
            let text = format!("volume {id} is in {}, this instance in {instance_zone}", view.zone);
            return Err(Failure::new(Code::ZoneMismatch, text));
        }
        if view.multi_attach {
            return Err(Failure::new(Code::MultiAttach, format!("volume {id} has Multi-Attach on")));
        }
        let place = Placement::of(&view, &self.launch.instance.instance_id);
        match place {
            Placement::Arriving(by) => drop(self.arriving_as.replace(Some(by.device.clone()))),
            // The description may be older than a request that was accepted.
            Placement::Nowhere(None) => {}
            Placement::Here(_) | Placement::Elsewhere(_) | Placement::Nowhere(Some(_)) => drop(self.arriving_as.take()),
        }
        let found = match place {
            Placement::Here(by) => {
                let device_name = by.device.clone();
                return Ok(Observed::Done(Attached { want: self.want, view, device_name, is_described: true }));
            }
            Placement::Elsewhere(other) => Observed::NotYet(held(self.ec2, id, other, &self.holder).await?),
            Placement::Arriving(by) | Placement::Nowhere(Some(by)) => {
                Observed::NotYet(Failure::new(Code::VolumeInTransit, format!("volume {id} is {by}")))
            }
            Placement::Nowhere(None) => self.unattached(&view)?,
        };
        self.view.replace(Some(view));
        Ok(self.shown_by_its_device().map_or(found, Observed::Done))
    }

    fn rest(&self) -> Duration {
        let is_awaited = self.arriving_as.borrow().is_some() && !device::is_xen();
        if is_awaited { REST_WHILE_ARRIVING } else { Duration::ZERO }
    }

    async fn woken(&self) {
        if self.arriving_as.borrow().is_none() {
            return future::pending().await;
        }
        let events = self.events.get_or_init(|| BlockEvents::listen().ok()).as_ref();
        let longest = if events.is_some() { LOOK_BESIDE_EVENTS } else { LOOK_WITHOUT_EVENTS };
        let mut pause = LOOK_AFTER_AN_EVENT;
        while !self.is_here() {
            tokio::select! {
                () = next_of(events) => pause = LOOK_AFTER_AN_EVENT,
                () = sleep(pause) => pause = longest.min(pause * 2),
            }
        }
    }

    async fn act(&self) -> Result<Acted, Failure> {
        self.launch.must_be_wanted().await?;
        let name = self.free_name()?;
        match self.ec2.attach(self.want.id.as_str(), &self.launch.instance.instance_id, &name).await? {
            AttachAnswer::Accepted => {
                self.accepted.set(self.accepted.get().saturating_add(1));
                self.arriving_as.replace(Some(name));
                Ok(Acted::Changed)
            }
            // The next observation finds the holder; the description may lag behind.
            AttachAnswer::HeldAlready => {
                let text = format!("EC2 says that volume {} is attached already", self.want.id);
                Err(Failure::new(Code::VolumeInTransit, text))
            }
            AttachAnswer::DeviceNameTaken => {
                tracing::info!("device name {name} is taken on this instance; trying the next one");
                self.taken.borrow_mut().insert(name);
                Ok(Acted::Again)
            }
        }
    }
}

impl<'a> Attach<'a> {
    /// The volume, if it is on its way to this instance and its device has come.
    fn shown_by_its_device(&self) -> Option<Attached<'a>> {
        let device_name = self.arriving_as.borrow().clone()?;
        let view = self.view.borrow().clone()?;
        self.is_here().then_some(Attached { want: self.want, view, device_name, is_described: false })
    }

    /// Whether a device with the volume's serial is here. What is wrong with it is the next step's to tell.
    fn is_here(&self) -> bool {
        Device::find_by_identity(&self.want.id.serial()).is_ok_and(|device| device.is_some())
    }

    /// What to do with a volume that is attached to no instance.
    fn unattached(&self, view: &VolumeView) -> Result<Observed<Attached<'a>>, Failure> {
        let id = &self.want.id;
        match view.state {
            // EC2 also validates the key after accepting the request (docs/facts.md, "Attaching a volume").
            VolumeState::Available if self.accepted.get() >= ACCEPTED_AND_DROPPED && view.kms_key_id.is_some() => {
                let said = format!(
                    "EC2 has accepted {} requests to attach volume {id}, which is encrypted, but the volume became available again each time",
                    self.accepted.get()
                );
                Err(ec2::key_refused(&said, view.kms_key_id.as_deref().unwrap_or_default()))
            }
            VolumeState::Available => Ok(Observed::Todo(format!("volume {id} is available"))),
            VolumeState::Error | VolumeState::Deleting | VolumeState::Deleted => {
                Err(Failure::new(Code::VolumeUnusable, format!("volume {id} is in state {}", view.state)))
            }
            ref state => Ok(Observed::NotYet(Failure::new(Code::VolumeInTransit, format!("volume {id} is {state}")))),
        }
    }

    /// The configured device name, or the first free one EC2 allows for data volumes.
    fn free_name(&self) -> Result<String, Failure> {
        let taken = self.taken.borrow();
        let configured = self.want.device_name.clone();
        let stem = if configured.starts_with("/dev/xvd") { "/dev/xvd" } else { "/dev/sd" };
        // f to p: docs/facts.md, "Attaching a volume".
        std::iter::once(configured)
            .chain(('f'..='p').map(|letter| format!("{stem}{letter}")))
            .find(|name| !taken.contains(name))
            .ok_or_else(|| {
                let text =
                    format!("volume {}: the device names {stem}f to p are all taken on this instance", self.want.id);
                Failure::new(Code::NoDeviceName, text)
            })
    }
}

/// Waits for the next event, or for ever where none are heard.
async fn next_of(events: Option<&BlockEvents>) {
    match events {
        Some(events) if events.next().await.is_ok() => {}
        _ => future::pending().await,
    }
}

/// The failure of a volume that another instance has. The step waits whatever that instance's state, until its deadline.
async fn held(ec2: &Ec2, id: &VolumeId, by: &Attachment, last: &RefCell<Option<Holder>>) -> Result<Failure, Failure> {
    let valid =
        last.take().filter(|last| last.instance_id == by.instance_id && last.observed_at.elapsed() < HOLDER_VALID_FOR);
    let holder = match valid {
        Some(holder) => holder,
        None => Holder {
            instance_id: by.instance_id.clone(),
            state: ec2.instance_state(&by.instance_id).await?,
            observed_at: Instant::now(),
        },
    };
    let instance = &by.instance_id;
    let text = format!("volume {id} is {} to {instance} ({})", by.state, holder.state);
    last.replace(Some(holder));
    Ok(Failure::new(Code::VolumeHeld, text).remedy(format!(
        "if {instance} does not need it: unmount it there, then aws ec2 detach-volume --volume-id {id} (never --force), \
         or aws ec2 terminate-instances --instance-ids {instance}; then: node-agent retry"
    )))
}

/// `attach`, second part, of a volume that its device alone has shown: EC2 says that it is attached here.
pub struct Confirm<'a> {
    ec2: &'a Ec2,
    launch: &'a Launch<'a>,
    volume: &'a Attached<'a>,
    deadline: Duration,
    /// The instance that has the volume, as last observed.
    holder: RefCell<Option<Holder>>,
}

impl<'a> Confirm<'a> {
    /// Waits for EC2's answer about `volume` within `timeouts.volume`.
    pub fn new(ec2: &'a Ec2, launch: &'a Launch<'a>, volume: &'a Attached<'a>, deadline: Duration) -> Self {
        Confirm { ec2, launch, volume, deadline, holder: RefCell::default() }
    }
}

impl Step for Confirm<'_> {
    type Output = ();

    fn header(&self) -> Header<'_> {
        Header {
            observes_only: true,
            ..Header::of(StepName::Attach, self.deadline).about(self.volume.want.id.as_str())
        }
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        let id = &self.volume.want.id;
        let view = self.ec2.volume(id.as_str()).await?;
        let said = match Placement::of(&view, &self.launch.instance.instance_id) {
            Placement::Here(_) => return Ok(Observed::Done(())),
            Placement::Elsewhere(other) => return held(self.ec2, id, other, &self.holder).await.map(Observed::NotYet),
            Placement::Arriving(attachment) | Placement::Nowhere(Some(attachment)) => attachment.to_string(),
            Placement::Nowhere(None) => view.state.to_string(),
        };
        let text = format!("the device of volume {id} is here, but EC2 says that the volume is {said}");
        Ok(Observed::NotYet(Failure::new(Code::VolumeInTransit, text)))
    }
}
