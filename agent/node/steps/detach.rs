//! `detach`: the volume is detached from this instance, so that its replacement need not wait for this instance's end.

use std::time::Duration;

use crate::aws::ec2::{Ec2, VolumeAttachmentState};
use crate::failure::{Code, Failure};
use crate::runner::{Acted, Header, Observed, Step};
use crate::sequence::StepName;

/// Detaches one volume, which is unmounted.
pub struct Detach<'a> {
    pub(crate) ec2: &'a Ec2,
    pub(crate) volume: &'a str,
    pub(crate) instance: &'a str,
    pub(crate) deadline: Duration,
}

impl Step for Detach<'_> {
    type Output = ();

    fn header(&self) -> Header<'_> {
        Header::of(StepName::Detach, self.deadline).about(self.volume)
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        let view = self.ec2.volume(self.volume).await?;
        let ours = view.attachments.iter().find(|attachment| attachment.instance_id == self.instance);
        Ok(match ours {
            None => Observed::Done(()),
            Some(ours) if ours.state == VolumeAttachmentState::Detached => Observed::Done(()),
            Some(ours) if ours.state == VolumeAttachmentState::Attached => {
                Observed::Todo(format!("volume {} is {ours}", self.volume))
            }
            Some(ours) => {
                let text = format!("volume {} is {ours}", self.volume);
                Observed::NotYet(Failure::new(Code::VolumeInTransit, text))
            }
        })
    }

    async fn act(&self) -> Result<Acted, Failure> {
        self.ec2.detach(self.volume, self.instance).await?;
        Ok(Acted::Changed)
    }
}
