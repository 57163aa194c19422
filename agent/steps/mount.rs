//! `mount`: the filesystem is mounted at its mount point, now and at the next boot.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use nix::errno::Errno;

use crate::failure::{Code, Failure, Named};
use crate::host::device::Device;
use crate::host::filesystem::Found;
use crate::host::{fstab, mount, systemd};
use crate::step::{Observed, Step, StepName};
use crate::steps::attach::Attached;

/// Writes the fstab line and mounts.
#[derive(Debug)]
pub struct MountVolume<'a> {
    /// The attached volume.
    pub volume: &'a Attached<'a>,
    /// Its device.
    pub device: &'a Device,
    /// The filesystem on it.
    pub found: &'a Found,
    /// `timeouts.volume`
    pub deadline: Duration,
}

impl Step for MountVolume<'_> {
    type Output = ();

    fn name(&self) -> StepName {
        StepName::Mount
    }

    fn subject(&self) -> Option<&str> {
        Some(self.volume.want.id.as_str())
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        let path = &self.volume.want.mount_path;
        match mount::at(path)? {
            Some(mounted) if mounted.device != self.device.number => Err(Failure::new(
                Code::MountPointTaken,
                format!("{} ({}) is mounted at {} already", mounted.source, mounted.kind, path.display()),
            )),
            Some(_) if fstab::has(&self.line())? => Ok(Observed::Done(())),
            Some(_) => Ok(Observed::Todo(format!("{} is mounted, but fstab lacks its line", path.display()))),
            None => Ok(Observed::Todo(format!("{} is not mounted", path.display()))),
        }
    }

    async fn act(&self) -> Result<(), Failure> {
        let want = self.volume.want;
        let path = &want.mount_path;
        let mounted = mount::at(path)?.is_some();
        if !mounted {
            self.prepare_mount_point()?;
        }
        fstab::put(&self.line())?;
        systemd::reload().await?;
        // systemd may have mounted it on the reload.
        if mount::at(path)?.is_none() {
            let device = &self.device.path;
            mount::mount(device, path, &self.found.kind, &want.mount_options).map_err(|error| {
                let what = format!("mounting {} at {} as {}", device.display(), path.display(), self.found.kind);
                let failure = Failure::new(Code::MountFailed, what);
                let kind = Errno::from_raw(error.raw_os_error().unwrap_or_default());
                match kind {
                    Errno::EINVAL => failure.remedy(format!(
                        "check mount_options {:?} and the kernel's log, then: node-agent retry",
                        want.mount_options
                    )),
                    _ => failure,
                }
                .because(error)
            })?;
        }
        systemd::restore_labels(path).await
    }
}

impl MountVolume<'_> {
    fn line(&self) -> fstab::Line<'_> {
        let want = self.volume.want;
        fstab::Line {
            volume: want.id.as_str(),
            uuid: &self.found.uuid,
            mount_point: &want.mount_path,
            kind: &self.found.kind,
            options: &want.mount_options,
        }
    }

    /// The mount point is an empty directory: what lies in it would be hidden, and was perhaps written there by mistake.
    fn prepare_mount_point(&self) -> Result<(), Failure> {
        let path = &self.volume.want.mount_path;
        let taken = |what: &str| Err(Failure::new(Code::MountPointTaken, format!("{} {what}", path.display())));
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_symlink() => taken("is a symlink"),
            Ok(meta) if !meta.is_dir() => taken("is no directory"),
            Ok(_) => {
                let first = fs::read_dir(path).and_then(|mut entries| entries.next().transpose());
                match first.named(path.display())? {
                    Some(entry) => {
                        taken(&format!("is not empty: it has {:?}, which the mount would hide", entry.file_name()))
                    }
                    None => Ok(()),
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(path).named(format_args!("making the mount point {}", path.display()))
            }
            Err(error) => Err(Failure::io(path.display(), error)),
        }
    }
}
