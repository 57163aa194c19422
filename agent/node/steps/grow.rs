//! `grow`: the filesystem fills its device. A failure is only a warning, because the data is intact.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use crate::config::FileSystemType;
use crate::failure::Failure;
use crate::host::resize::{self, Extent};
use crate::node::steps::device::Disk;
use crate::runner::{Acted, Header, Observed, Step};
use crate::sequence::StepName;
use crate::state::Journal;

/// Grows a mounted filesystem online, once per device size.
pub struct Grow<'a> {
    /// Records the device's size when growing was last tried.
    journal: &'a Journal,
    disk: &'a Disk<'a>,
    deadline: Duration,
    /// Whether growing was tried in this run.
    tried: Cell<bool>,
}

impl<'a> Grow<'a> {
    /// Grows the filesystem of `disk` within `timeouts.volume`.
    pub fn new(journal: &'a Journal, disk: &'a Disk<'a>, deadline: Duration) -> Self {
        Grow { journal, disk, deadline, tried: Cell::default() }
    }
}

impl Step for Grow<'_> {
    type Output = ();

    fn header(&self) -> Header<'_> {
        Header::of(StepName::Grow, self.deadline).about(self.disk.volume.want.id.as_str())
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        let extent = match self.measure() {
            Ok(extent) => extent,
            Err(error) => {
                self.warn("its size cannot be read", &error);
                return Ok(Observed::Done(()));
            }
        };
        // A remainder too small for another allocation group stays unused, so each size is tried only once.
        if !extent.can_grow() || self.tried.get() || self.tried_before() {
            return Ok(Observed::Done(()));
        }
        Ok(Observed::Todo(format!(
            "{} has {} blocks of {} bytes, the device {}",
            self.disk.volume.want.mount_path.display(),
            extent.blocks,
            extent.block_size,
            extent.possible
        )))
    }

    async fn act(&self) -> Result<Acted, Failure> {
        self.tried.set(true);
        let want = self.disk.volume.want;
        let grown = match self.measure() {
            Ok(extent) => {
                // In a thread of its own, because a slow disk would block the agent's.
                let (kind, path) = (want.file_system, want.mount_path.clone());
                let growing = tokio::task::spawn_blocking(move || resize::grow(kind, &path, &extent));
                growing.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
            }
            Err(error) => Err(error),
        };
        match grown {
            Ok(()) => {
                let size = self.disk.device.size;
                self.journal.update_volume(want.id.as_str(), |volume| volume.grow_tried_at = Some(size))?;
            }
            Err(error) => self.warn("it could not be grown", &error),
        }
        Ok(Acted::Changed)
    }
}

impl Grow<'_> {
    fn measure(&self) -> io::Result<Extent> {
        resize::measure(self.disk.volume.want.file_system, &self.disk.device, &self.disk.volume.want.mount_path)
    }

    fn tried_before(&self) -> bool {
        self.journal.volume(self.disk.volume.want.id.as_str()).grow_tried_at == Some(self.disk.device.size)
    }

    fn warn(&self, what: &str, error: &io::Error) {
        let want = self.disk.volume.want;
        let hint = match error.raw_os_error().map(nix::errno::Errno::from_raw) {
            Some(nix::errno::Errno::EPERM) => " (online resize needs CAP_SYS_RESOURCE and a filesystem without errors)",
            _ => "",
        };
        let by_hand = match want.file_system {
            FileSystemType::Xfs => format!("xfs_growfs {}", want.mount_path.display()),
            FileSystemType::Ext4 => format!("resize2fs {}", self.disk.device.path.display()),
        };
        let text = format!(
            "{} on {} was not grown: {what}: {error}{hint}; the data is fine, grow it by hand: {by_hand}",
            want.file_system,
            want.mount_path.display(),
        );
        self.journal.warn(StepName::Grow, Some(want.id.as_str()), text);
    }
}
