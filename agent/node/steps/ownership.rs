//! `ownership`: the mount point belongs to its user and group, and its contents too after a format or if configured.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use crate::config::Recursive;
use crate::failure::{Failure, Named};
use crate::host::accounts;
use crate::host::owner::Owner;
use crate::host::path::{Folder, Missing};
use crate::node::steps::attach::Attached;
use crate::runner::{Acted, Header, Observed, Step};
use crate::sequence::StepName;
use crate::state::Journal;

/// Recursion over tens of millions of files takes hours (docs/facts.md, "Mounting, checking, growing"); it is local work that
/// ends by itself.
const DEADLINE: Duration = Duration::from_hours(24);

/// Changes owner and group.
pub struct Own<'a> {
    /// Records whether the recursion after a format is still due.
    journal: &'a Journal,
    volume: &'a Attached<'a>,
    /// Whether the recursion was done in this run.
    swept: Cell<bool>,
}

impl<'a> Own<'a> {
    /// Sets the owner of this volume's mount point.
    pub fn new(journal: &'a Journal, volume: &'a Attached<'a>) -> Self {
        Own { journal, volume, swept: Cell::default() }
    }
}

impl Step for Own<'_> {
    type Output = ();

    fn header(&self) -> Header<'_> {
        Header {
            // The thread that changes the files cannot be cancelled.
            keeps_own_deadline: true,
            ..Header::of(StepName::Ownership, DEADLINE).about(self.volume.want.id.as_str())
        }
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        let owner = self.wanted().await?;
        let path = self.volume.want.mount_path.display();
        let stat = self.mount_point()?.stat().named(format_args!("looking at {path}"))?;
        if owner.differs(&stat) {
            return Ok(Observed::Todo(format!("{path} belongs to {}:{}", stat.st_uid, stat.st_gid)));
        }
        if self.sweeps_always() && !self.swept.get() && (owner.user.is_some() || owner.group.is_some()) {
            return Ok(Observed::Todo(format!("the contents of {path} get the same owner")));
        }
        Ok(Observed::Done(()))
    }

    async fn act(&self) -> Result<Acted, Failure> {
        let owner = self.wanted().await?;
        let what = format!("changing the owner of {}", self.volume.want.mount_path.display());
        let mount_point = self.mount_point()?;
        let always = self.sweeps_always();
        let if_differs = self.volume.want.recursive == Recursive::WhenOwnerDiffers;
        let changed = tokio::task::spawn_blocking(move || {
            let stat = mount_point.stat()?;
            if always || if_differs && owner.differs(&stat) {
                owner.apply_below(&mount_point)?;
            }
            // Last, so that an interrupted sweep is detected by the mount point's old owner.
            owner.apply(&mount_point, &stat)?;
            Ok(())
        })
        .await
        .unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        changed.named(what)?;
        self.swept.set(true);
        if self.journal.volume(self.volume.want.id.as_str()).ownership_due {
            self.journal.update_volume(self.volume.want.id.as_str(), |volume| volume.ownership_due = false)?;
        }
        Ok(Acted::Changed)
    }
}

impl Own<'_> {
    async fn wanted(&self) -> Result<Owner, Failure> {
        let (owner, group) = (self.volume.want.owner.clone(), self.volume.want.group.clone());
        // A name service may take seconds to answer.
        let found = tokio::task::spawn_blocking(move || {
            Ok(Owner {
                user: owner.as_ref().map(accounts::user).transpose()?,
                group: group.as_ref().map(accounts::group).transpose()?,
            })
        });
        found.await.unwrap_or_else(|panicked| Err(Failure::io("looking up the owner", io::Error::other(panicked))))
    }

    fn mount_point(&self) -> Result<Folder, Failure> {
        Folder::reach(&self.volume.want.mount_path, Missing::Fail)
    }

    /// Whether the contents get the owner even if the mount point has it already.
    fn sweeps_always(&self) -> bool {
        self.volume.want.recursive == Recursive::Always
            || self.journal.volume(self.volume.want.id.as_str()).ownership_due
    }
}
