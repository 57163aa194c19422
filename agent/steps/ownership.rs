//! `ownership`: the mount point belongs to its user and group; what is below only after a format or when asked.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;
use std::time::Duration;

use crate::failure::{Failure, Named};
use crate::host::accounts;
use crate::journal::Journal;
use crate::step::{Observed, Step, StepName};
use crate::steps::attach::Attached;

/// Recursion over tens of millions of files takes hours (FACTS); it is local work that ends by itself.
const DEADLINE: Duration = Duration::from_hours(24);

/// Changes owner and group.
#[derive(Debug)]
pub struct Own<'a> {
    /// Knows whether a format's recursion is still due.
    pub journal: &'a Journal,
    /// The mounted volume.
    pub volume: &'a Attached<'a>,
    /// The recursion was done in this run.
    pub swept: Cell<bool>,
}

impl Step for Own<'_> {
    type Output = ();

    fn name(&self) -> StepName {
        StepName::Ownership
    }

    fn subject(&self) -> Option<&str> {
        Some(self.volume.want.id.as_str())
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }

    /// Files are changed in a thread that cannot be cut off.
    fn keeps_own_deadline(&self) -> bool {
        true
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        let (user, group) = self.wanted()?;
        let path = &self.volume.want.mount_path;
        let meta = fs::metadata(path).named(format_args!("looking at {}", path.display()))?;
        let differs = user.is_some_and(|user| user != meta.uid()) || group.is_some_and(|group| group != meta.gid());
        if differs {
            return Ok(Observed::Todo(format!("{} belongs to {}:{}", path.display(), meta.uid(), meta.gid())));
        }
        if self.recursion_due() && !self.swept.get() && (user.is_some() || group.is_some()) {
            return Ok(Observed::Todo(format!("what is below {} gets the same owner", path.display())));
        }
        Ok(Observed::Done(()))
    }

    async fn act(&self) -> Result<(), Failure> {
        let (user, group) = self.wanted()?;
        let path = self.volume.want.mount_path.clone();
        let recursive = self.recursion_due();
        let what = format!("changing the owner of {}", path.display());
        let changed = tokio::task::spawn_blocking(move || {
            let device = fs::metadata(&path)?.dev();
            if recursive {
                sweep(&path, device, user, group)?;
            }
            own(&path, user, group)
        })
        .await
        .unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        changed.named(what)?;
        self.swept.set(true);
        if self.journal.volume(self.volume.want.id.as_str()).ownership_due {
            self.journal.update_volume(self.volume.want.id.as_str(), |volume| volume.ownership_due = false)?;
        }
        Ok(())
    }
}

impl Own<'_> {
    fn wanted(&self) -> Result<(Option<u32>, Option<u32>), Failure> {
        let want = self.volume.want;
        Ok((
            want.owner.as_ref().map(accounts::user).transpose()?,
            want.group.as_ref().map(accounts::group).transpose()?,
        ))
    }

    fn recursion_due(&self) -> bool {
        self.volume.want.recursive || self.journal.volume(self.volume.want.id.as_str()).ownership_due
    }
}

/// Everything below `dir` on the same filesystem; symlinks themselves, never what they lead to.
fn sweep(dir: &Path, device: u64, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.dev() != device {
                continue;
            }
            own_if_different(&entry.path(), &meta, user, group)?;
            if meta.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    Ok(())
}

fn own(path: &Path, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
    own_if_different(path, &fs::symlink_metadata(path)?, user, group)
}

/// Left alone where it is right, so that change times stay and a second pass is fast.
fn own_if_different(path: &Path, meta: &fs::Metadata, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
    let user = user.filter(|user| *user != meta.uid());
    let group = group.filter(|group| *group != meta.gid());
    if user.is_none() && group.is_none() { Ok(()) } else { lchown(path, user, group) }
}
