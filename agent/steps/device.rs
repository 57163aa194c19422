//! `filesystem`, first part: the attached volume's block device.

use std::time::Duration;

use crate::failure::{Code, Failure};
use crate::host::device::{self, Device};
use crate::step::{Observed, Step, StepName};
use crate::steps::attach::Attached;

/// Finds and opens the device, and compares its size with what EC2 says.
#[derive(Debug)]
pub struct FindDevice<'a> {
    /// The attached volume.
    pub volume: &'a Attached<'a>,
    /// `timeouts.volume`
    pub deadline: Duration,
}

impl Step for FindDevice<'_> {
    type Output = Device;

    fn name(&self) -> StepName {
        StepName::Filesystem
    }

    fn subject(&self) -> Option<&str> {
        Some(self.volume.want.id.as_str())
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }

    fn only_looks(&self) -> bool {
        true
    }

    async fn observe(&self) -> Result<Observed<Device>, Failure> {
        let id = &self.volume.want.id;
        let Some(device) = Device::find(&id.serial(), &self.volume.device_name)? else {
            let text =
                format!("EC2 says that volume {id} is attached, but its device has not appeared; {}", device::seen());
            return Ok(Observed::NotYet(Failure::new(Code::DeviceMissing, text)));
        };
        let expected = self.volume.view.size_gib << 30;
        if device.size != expected {
            let text = format!(
                "{} has {} bytes, but EC2 says that volume {id} has {} GiB ({expected} bytes)",
                device.path.display(),
                device.size,
                self.volume.view.size_gib
            );
            return Ok(Observed::NotYet(Failure::new(Code::DeviceSize, text)));
        }
        Ok(Observed::Done(device))
    }

    async fn act(&self) -> Result<(), Failure> {
        Ok(())
    }
}
