//! `unmount`: the applications are stopped, and each volume is unmounted, so that the next mount finds a clean filesystem.

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
    /// Its device; none where the volume has none on this machine, so that nothing can be mounted.
    pub(crate) device: Option<&'a Device>,
    /// `timeouts.unmount`
    pub(crate) deadline: Duration,
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
        let Some(device) = self.device else { return Ok(Observed::Done(())) };
        let places = mount::of_device(device.number)?;
        if places.iter().any(|mounted| mounted.mount_point == self.place()) {
            return Ok(Observed::Todo(format!("{} is mounted at {}", device.path.display(), self.place().display())));
        }
        // Mounted elsewhere, or in another mount namespace, the filesystem is still in use.
        if !places.is_empty() || device.is_held() {
            return Ok(Observed::NotYet(self.held(device).await));
        }
        Ok(Observed::Done(()))
    }

    async fn act(&self) -> Result<Acted, Failure> {
        let Some(device) = self.device else { return Ok(Acted::Changed) };
        let place = self.place();
        // systemd stops what has RequiresMountsFor= the place, and unmounts. What it does not know is unmounted here.
        systemd::stop_mount(&place).await;
        match mount::unmount(&place).await {
            // EINVAL: unmounted meanwhile.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(Acted::Changed),
            Err(Errno::EBUSY) => Err(self.held(device).await),
            Err(errno) => Err(Failure::io(format_args!("unmounting {}", place.display()), errno.into())),
        }
    }
}

impl Unmount<'_> {
    /// The mount point's real path, as the kernel lists it.
    fn place(&self) -> PathBuf {
        let path: &Path = &self.want.mount_path;
        fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
    }

    /// The failure of a filesystem that something holds.
    async fn held(&self, device: &Device) -> Failure {
        let (number, place) = (device.number, self.place());
        let shown = place.display().to_string();
        let search = spawn_blocking(move || holders::of(number, &place));
        let found = timeout(SEARCH, search).await.ok().and_then(Result::ok).unwrap_or_default();
        let text = match found.as_slice() {
            [] => format!("{shown} is busy, and nothing was found that holds it"),
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
