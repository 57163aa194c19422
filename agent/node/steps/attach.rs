//! `attach`: the volume is attached to this instance. It is never detached from another one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::aws::ec2::{
    self, AttachAnswer, Attachment, Ec2, InstanceStateName, VolumeAttachmentState, VolumeState, VolumeView,
};
use crate::config;
use crate::failure::{Code, Failure};
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

/// A volume attached to this instance.
#[derive(Clone, Debug)]
pub struct Attached<'a> {
    pub(crate) want: &'a config::Volume,
    pub(crate) view: VolumeView,
    /// The device name that it was attached with.
    pub(crate) device_name: String,
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
        Attach { ec2, launch, want, deadline, taken, holder: RefCell::default(), accepted: Cell::default() }
    }
}

impl<'a> Step for Attach<'a> {
    type Output = Attached<'a>;

    fn header(&self) -> Header<'_> {
        Header::of(StepName::Attach, self.deadline).about(self.want.id.as_str())
    }

    async fn observe(&self) -> Result<Observed<Attached<'a>>, Failure> {
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
        let transit =
            |what: String| Ok(Observed::NotYet(Failure::new(Code::VolumeInTransit, format!("volume {id} is {what}"))));
        // Matched by instance: the volume's own `in-use` and the first attachment may belong to another instance.
        let (ours, others): (Vec<_>, Vec<_>) =
            view.attachments.iter().partition(|attachment| attachment.instance_id == self.launch.instance.instance_id);
        if let Some(other) = others.iter().find(|other| other.state != VolumeAttachmentState::Detached) {
            return self.held(other).await.map(Observed::NotYet);
        }
        match ours.first() {
            Some(attachment) if attachment.state == VolumeAttachmentState::Attached => {
                let device_name = attachment.device.clone();
                return Ok(Observed::Done(Attached { want: self.want, view, device_name }));
            }
            Some(attachment) if attachment.state != VolumeAttachmentState::Detached => {
                return transit(attachment.to_string());
            }
            _ => {}
        }
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
            state => transit(state.to_string()),
        }
    }

    async fn act(&self) -> Result<Acted, Failure> {
        self.launch.must_be_wanted().await?;
        let name = self.free_name()?;
        match self.ec2.attach(self.want.id.as_str(), &self.launch.instance.instance_id, &name).await? {
            AttachAnswer::Accepted => {
                self.accepted.set(self.accepted.get().saturating_add(1));
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

impl Attach<'_> {
    /// The failure of a volume that another instance has. The step waits whatever that instance's state, until its deadline.
    async fn held(&self, by: &Attachment) -> Result<Failure, Failure> {
        let last = self
            .holder
            .take()
            .filter(|last| last.instance_id == by.instance_id && last.observed_at.elapsed() < HOLDER_VALID_FOR);
        let holder = match last {
            Some(last) => last,
            None => Holder {
                instance_id: by.instance_id.clone(),
                state: self.ec2.instance_state(&by.instance_id).await?,
                observed_at: Instant::now(),
            },
        };
        let (id, instance) = (&self.want.id, &by.instance_id);
        let text = format!("volume {id} is {} to {instance} ({})", by.state, holder.state);
        self.holder.replace(Some(holder));
        Ok(Failure::new(Code::VolumeHeld, text).remedy(format!(
            "if {instance} does not need it: unmount it there, then aws ec2 detach-volume --volume-id {id} (never --force), \
             or aws ec2 terminate-instances --instance-ids {instance}; then: node-agent retry"
        )))
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
