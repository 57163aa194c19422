//! `filesystem`, first part: the attached volume's block device.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::aws::ec2::Ec2;
use crate::failure::{Code, Failure};
use crate::host::device::{self, Device};
use crate::host::systemd;
use crate::node::steps::attach::Attached;
use crate::runner::{Header, Observed, Step};
use crate::sequence::StepName;

/// Finds and opens the device, and compares its size with what EC2 says.
pub struct FindDevice<'a> {
    /// EC2, for the volume's current size.
    ec2: &'a Ec2,
    volume: &'a Attached<'a>,
    deadline: Duration,
    /// The last size in GiB that EC2 returned, and when.
    described: Cell<Option<(u64, Instant)>>,
}

/// An attached volume and its device.
pub struct Disk<'a> {
    pub(crate) volume: &'a Attached<'a>,
    pub(crate) device: Device,
}

/// How long EC2's answer is valid while the sizes differ: the whole account shares the request quota.
const SIZE_VALID_FOR: Duration = Duration::from_secs(5);

impl<'a> FindDevice<'a> {
    /// Finds the device of `volume` within `timeouts.volume`.
    pub fn new(ec2: &'a Ec2, volume: &'a Attached<'a>, deadline: Duration) -> Self {
        FindDevice { ec2, volume, deadline, described: Cell::default() }
    }
}

impl<'a> Step for FindDevice<'a> {
    type Output = Disk<'a>;

    fn header(&self) -> Header<'_> {
        Header {
            observes_only: true,
            prepares: Some("device found"),
            ..Header::of(StepName::Filesystem, self.deadline).about(self.volume.want.id.as_str())
        }
    }

    async fn observe(&self) -> Result<Observed<Disk<'a>>, Failure> {
        let id = &self.volume.want.id;
        let Some(device) = Device::find(&id.serial(), &self.volume.device_name)? else {
            // PrivateDevices= hides all disks from a service.
            systemd::must_share_mounts().await?;
            let what = if self.volume.is_described {
                format!("EC2 says that volume {id} is attached, but its device has not appeared")
            } else {
                format!("the device of volume {id} was here, and has gone")
            };
            let text = format!("{what}; {}", device::list_disks());
            return Ok(Observed::NotYet(Failure::new(Code::DeviceMissing, text)));
        };
        let attached = self.volume.view.size_gib;
        let size_gib = if device.size == attached << 30 { attached } else { self.current_size().await? };
        let expected = size_gib << 30;
        if device.size == expected {
            return Ok(Observed::Done(Disk { volume: self.volume, device }));
        }
        let text = format!(
            "{} has {} bytes, but EC2 says that volume {id} has {size_gib} GiB ({expected} bytes)",
            device.path.display(),
            device.size,
        );
        Ok(Observed::NotYet(Failure::new(Code::DeviceSize, text)))
    }
}

impl FindDevice<'_> {
    /// The volume's current size in GiB: the volume may have been enlarged since it was attached.
    async fn current_size(&self) -> Result<u64, Failure> {
        if let Some((size_gib, _)) = self.described.get().filter(|(_, at)| at.elapsed() < SIZE_VALID_FOR) {
            return Ok(size_gib);
        }
        let size_gib = self.ec2.volume(self.volume.want.id.as_str()).await?.size_gib;
        self.described.set(Some((size_gib, Instant::now())));
        Ok(size_gib)
    }
}
