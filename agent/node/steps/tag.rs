//! `filesystem`, last part: the volume that was formatted is tagged, so that a disk which later looks blank is data loss.
//!
//! The mount does not depend on it.

use std::time::Duration;

use crate::aws::ec2::Ec2;
use crate::aws::ec2::tag::{FORMATTED, FORMATTING};
use crate::config::Volume;
use crate::failure::Failure;
use crate::runner::{Acted, Header, Observed, Step};
use crate::sequence::StepName;
use crate::state::Journal;

/// Tags a volume that this agent has formatted, where IAM allows it.
pub struct TagFormatted<'a> {
    /// Records that the tag is due, and that it is set.
    pub(crate) journal: &'a Journal,
    pub(crate) ec2: &'a Ec2,
    pub(crate) volume: &'a Volume,
    pub(crate) instance_id: &'a str,
    pub(crate) deadline: Duration,
}

impl TagFormatted<'_> {
    /// Whether the tag is still to be set.
    pub fn is_due(&self) -> bool {
        self.journal.volume(self.volume.id.as_str()).tag_due
    }
}

impl Step for TagFormatted<'_> {
    type Output = ();

    fn header(&self) -> Header<'_> {
        Header::of(StepName::Filesystem, self.deadline).about(self.volume.id.as_str())
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        Ok(if self.is_due() {
            Observed::Todo("the volume is not tagged as formatted yet".to_owned())
        } else {
            Observed::Done(())
        })
    }

    async fn act(&self) -> Result<Acted, Failure> {
        let id = self.volume.id.as_str();
        let at = self.journal.volume(id).formatted_at.unwrap_or_default();
        let done = format!("{} {at} by {}", self.volume.file_system, self.instance_id);
        self.ec2.tag(id, &[(FORMATTING, "done"), (FORMATTED, &done)]).await?;
        self.journal.update_volume(id, |volume| volume.tag_due = false)?;
        Ok(Acted::Changed)
    }
}
