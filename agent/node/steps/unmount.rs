//! `unmount`: the applications are stopped, and each volume is unmounted, so that the next mount finds a clean filesystem.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::config;
use crate::failure::{Code, Failure};
use crate::host::activity::{self, Activity};
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
    /// A part of `timeouts.unmount`: what still stops after that is waited for as what holds a volume.
    pub(crate) deadline: Duration,
}

impl Step for StopApplications {
    type Output = ();

    fn header(&self) -> Header<'_> {
        Header::of(StepName::Unmount, self.deadline)
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        if !systemd::has_ended(systemd::MOUNTED_TARGET).await {
            return Ok(Observed::Todo(format!("{} is active", systemd::MOUNTED_TARGET)));
        }
        // The target itself is ordered after nothing, and ends at once.
        let stopping = activity::still_stopping(systemd::MOUNTED_TARGET).await?;
        if stopping.is_empty() {
            return Ok(Observed::Done(()));
        }
        let text = format!("applications that are still stopping: {}", stopping.join(", "));
        Ok(Observed::NotYet(Failure::new(Code::MountBusy, text)))
    }

    async fn act(&self) -> Result<Acted, Failure> {
        systemd::stop(systemd::MOUNTED_TARGET).await?;
        Ok(Acted::Changed)
    }
}

/// Unmounts one volume.
pub struct Unmount<'a> {
    want: &'a config::Volume,
    /// The number of the device that was mounted in this boot.
    known: Option<u64>,
    /// `timeouts.unmount`
    deadline: Duration,
    /// Whether systemd was asked to stop the mount.
    asked: Cell<bool>,
    /// What the last search has found that holds it.
    holders: RefCell<Vec<Holder>>,
}

impl<'a> Unmount<'a> {
    /// Unmounts `want`, whose device was mounted in this boot as `known`, if it was.
    pub fn new(want: &'a config::Volume, known: Option<u64>, deadline: Duration) -> Self {
        Unmount { want, known, deadline, asked: Cell::default(), holders: RefCell::default() }
    }
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
        let (device, place) = (self.device(), self.place());
        let activity = Activity::of_mount(&place).await;
        let number = device.as_ref().map(|device| device.number).or(self.known);
        let places = number.map_or(Ok(Vec::new()), mount::of_device)?;
        let is_there = places.iter().any(|mounted| mounted.mount_point == place);
        match activity {
            // A boot mounts by fstab, and may not have come to it yet.
            Some(Activity::Starting) => {
                return Ok(Observed::Todo(format!(
                    "systemd is about to mount {} at {}",
                    self.want.id,
                    place.display()
                )));
            }
            Some(Activity::Stopping) => return Ok(Observed::NotYet(self.held(number.unwrap_or_default()).await)),
            _ if is_there => {
                return Ok(Observed::Todo(format!("{} is mounted at {}", self.want.id, place.display())));
            }
            _ => {}
        }
        // Mounted elsewhere, or in another mount namespace, the filesystem is still in use.
        if !places.is_empty() || device.is_some_and(|device| device.is_held()) {
            return Ok(Observed::NotYet(self.held(number.unwrap_or_default()).await));
        }
        Ok(Observed::Done(()))
    }

    async fn act(&self) -> Result<Acted, Failure> {
        let place = self.place();
        // systemd stops what has RequiresMountsFor= the place, and unmounts once that has ended.
        match Activity::of_mount(&place).await {
            Some(Activity::Starting) => {
                activity::stop_mount(&place).await;
                return Ok(Acted::Changed);
            }
            Some(Activity::Active) if !self.asked.replace(true) => {
                activity::stop_mount(&place).await;
                return Ok(Acted::Again);
            }
            _ => {}
        }
        // What systemd does not know, or could not unmount, is unmounted here.
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
