//! `unmount`: the applications are stopped, and each volume is unmounted, so that the next mount finds a clean filesystem.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::config;
use crate::failure::{Code, Failure};
use crate::host::device::Device;
use crate::host::holders::{self, Holder};
use crate::host::{mount, systemd};
use crate::runner::{Acted, Header, Observed, Step};
use crate::sequence::StepName;
use crate::time::rough;

/// How long the search for what holds a filesystem may take: a look-up on a disk that does not answer hangs.
const SEARCH: Duration = Duration::from_secs(2);

/// How many holders a message names.
const NAMED: usize = 5;

/// Stops the target of the applications, and with it what is `PartOf` it.
pub struct StopApplications {
    /// Stops them within `timeouts.unmount`.
    pub(crate) deadline: Duration,
}

impl Step for StopApplications {
    type Output = ();

    fn header(&self) -> Header<'_> {
        Header { prepares: Some("applications stopped"), ..Header::of(StepName::Unmount, self.deadline) }
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        if systemd::has_ended(systemd::MOUNTED_TARGET).await {
            return Ok(Observed::Done(()));
        }
        Ok(Observed::Todo(format!("{} is active", systemd::MOUNTED_TARGET)))
    }

    async fn act(&self) -> Result<Acted, Failure> {
        systemd::stop(systemd::MOUNTED_TARGET).await?;
        Ok(Acted::Changed)
    }
}

/// Unmounts one volume.
pub struct Unmount<'a> {
    pub(crate) want: &'a config::Volume,
    /// The number of the device that was mounted in this boot.
    pub(crate) known: Option<u64>,
    /// `timeouts.unmount`
    pub(crate) deadline: Duration,
    /// What the last search has found that holds it.
    pub(crate) holders: RefCell<Vec<Holder>>,
}

impl Step for Unmount<'_> {
    type Output = ();

    fn header(&self) -> Header<'_> {
        Header {
            // An unmount writes back what is dirty, and cannot be cancelled.
            keeps_own_deadline: true,
            ..Header::of(StepName::Unmount, self.deadline).about(self.want.id.as_str())
        }
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        let device = self.device();
        let Some(number) = device.as_ref().map(|device| device.number).or(self.known) else {
            return Ok(Observed::Done(()));
        };
        let (places, place) = (mount::of_device(number)?, self.place());
        if places.iter().any(|mounted| mounted.mount_point == place) {
            return Ok(Observed::Todo(format!("{} is mounted at {}", self.want.id, place.display())));
        }
        // Mounted elsewhere, or in another mount namespace, the filesystem is still in use.
        if !places.is_empty() || device.is_some_and(|device| device.is_held()) {
            return Ok(Observed::NotYet(self.held(number).await));
        }
        Ok(Observed::Done(()))
    }

    async fn act(&self) -> Result<Acted, Failure> {
        let place = self.place();
        // systemd stops what has RequiresMountsFor= the place, and unmounts. What it does not know is unmounted here.
        systemd::stop_mount(&place).await;
        match mount::unmount(&place).await {
            // EINVAL: unmounted meanwhile.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(Acted::Again),
            Err(Errno::EBUSY) => {
                let number = self.device().map(|device| device.number).or(self.known);
                Err(self.held(number.unwrap_or_default()).await)
            }
            Err(errno) => Err(Failure::io(format_args!("unmounting {}", place.display()), errno.into())),
        }
    }
}

impl Unmount<'_> {
    /// Its device; none where it has gone, or never came.
    fn device(&self) -> Option<Device> {
        Device::find(&self.want.id.serial(), &self.want.device_name).ok().flatten()
    }

    /// The mount point's real path, as the kernel lists it.
    fn place(&self) -> PathBuf {
        let path: &Path = &self.want.mount_path;
        fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
    }

    /// The failure of a filesystem that something holds.
    async fn held(&self, number: u64) -> Failure {
        let place = self.place();
        let shown = place.display().to_string();
        let search = spawn_blocking(move || holders::of(number, &place));
        let has_ended = match timeout(SEARCH, search).await {
            Ok(Ok(found)) => {
                self.holders.replace(found);
                true
            }
            // On a machine under load: what the search before has found still holds it, as far as is known.
            _ => false,
        };
        let text = match self.holders.borrow().as_slice() {
            [] if has_ended => format!("{shown} is busy, and nothing was found that holds it"),
            [] => format!("{shown} is busy; the search for what holds it took longer than {}", rough(SEARCH)),
            some => format!("{shown} is busy: {}", listed(some)),
        };
        Failure::new(Code::MountBusy, text)
    }
}

fn listed(holders: &[Holder]) -> String {
    let named: Vec<_> = holders.iter().take(NAMED).map(ToString::to_string).collect();
    let more = holders.len().saturating_sub(NAMED);
    named.join("; ") + &if more == 0 { String::new() } else { format!("; and {more} more") }
}
