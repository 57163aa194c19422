//! `mount`: the filesystem is mounted at its mount point, now and at the next boot.

use std::cell::Cell;
use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::{Instant, sleep};

use crate::config;
use crate::failure::{Code, Failure, Named};
use crate::heartbeat::Allowance;
use crate::host::device::{self, Device};
use crate::host::mountinfo::Mounted;
use crate::host::probe::Found;
use crate::host::{filesystem, fstab, mount, resize, systemd};
use crate::journal::Journal;
use crate::step::{Observed, Step, StepName};

/// How long a device may be busy before somebody is told.
const BUSY: Duration = Duration::from_secs(10);
const BUSY_POLL: Duration = Duration::from_millis(100);

/// Writes the fstab line and mounts.
#[derive(Debug)]
pub struct MountVolume<'a> {
    /// Knows how this boot's mount was made.
    pub journal: &'a Journal,
    /// The volume, as configured.
    pub want: &'a config::Volume,
    /// Its device.
    pub device: &'a Device,
    /// The filesystem on it.
    pub found: &'a Found,
    /// A check of the filesystem may have heartbeats for as long as it takes.
    pub allowance: &'a Allowance,
    /// `timeouts.volume`
    pub deadline: Duration,
    /// What is tried only once in a run was tried.
    pub tried: Cell<bool>,
}

impl Step for MountVolume<'_> {
    type Output = ();

    fn name(&self) -> StepName {
        StepName::Mount
    }

    fn subject(&self) -> Option<&str> {
        Some(self.want.id.as_str())
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }

    /// A check of the filesystem is never cut off.
    fn keeps_own_deadline(&self) -> bool {
        true
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        let path = &self.want.mount_path;
        match self.mounted()? {
            Some(mounted) if mounted.device != self.device.number => {
                let place = path.display();
                let text = format!("{} ({}) is mounted at {place} already", mounted.source, mounted.kind);
                Err(Failure::new(Code::MountPointTaken, text).remedy(format!(
                    "if that is not needed there: umount {place}, and take it out of /etc/fstab; or set another mount_path; \
                     then: node-agent retry"
                )))
            }
            // Mounted as it was decided then; the other disk may have gone since.
            Some(_) if self.is_in_fstab(false)? || self.is_in_fstab(true)? => Ok(Observed::Done(())),
            Some(_) => Ok(Observed::Todo(format!("{} is mounted, but fstab lacks its line", path.display()))),
            None => Ok(Observed::Todo(format!("{} is not mounted", path.display()))),
        }
    }

    async fn act(&self) -> Result<(), Failure> {
        let want = self.want;
        let path = &want.mount_path;
        let twin = self.has_twin()?;
        let (source, options) = (self.source(twin), self.options(twin));
        if self.mounted()?.is_none() {
            self.prepare_mount_point()?;
            self.check().await?;
        }
        fstab::put(&self.line(&source, &options))?;
        systemd::reload().await?;
        self.mount(&options).await?;
        systemd::restore_labels(path).await
    }
}

impl MountVolume<'_> {
    /// Mounts it, if it is not by now: told of the new line, systemd unmounts what it believes stale, and mounts by itself what
    /// an earlier line for the same place had it wait for. The kernel refuses the second mount while the first is under way.
    async fn mount(&self, options: &[String]) -> Result<(), Failure> {
        let want = self.want;
        let device = &self.device.path;
        let patience = Instant::now() + BUSY;
        while self.mounted()?.is_none() {
            let Err(error) = mount::mount(device, &want.mount_path, &self.found.kind, options).await else {
                break;
            };
            let what = format!("mounting {} at {} as {}", device.display(), want.mount_path.display(), self.found.kind);
            match Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
                Errno::EBUSY if Instant::now() < patience => sleep(BUSY_POLL).await,
                Errno::EBUSY => return Err(Failure::new(Code::DeviceBusy, what).because(error)),
                Errno::EINVAL => {
                    let failure = Failure::new(Code::MountFailed, what).remedy(format!(
                        "check mount_options ({}) and see dmesg, then: node-agent retry",
                        options.join(",")
                    ));
                    return Err(failure.because(error));
                }
                _ => return Err(Failure::new(Code::MountFailed, what).because(error)),
            }
        }
        Ok(())
    }

    /// What is mounted there; the kernel knows the place by its real path. A symlink in the place itself is not followed.
    fn mounted(&self) -> Result<Option<Mounted>, Failure> {
        let path = &self.want.mount_path;
        let real =
            path.parent().zip(path.file_name()).and_then(|(dir, name)| Some(fs::canonicalize(dir).ok()?.join(name)));
        mount::at(real.as_deref().unwrap_or(path))
    }

    /// As configured; with `nouuid` for a twin, and only then, because it is what keeps one disk from being mounted twice.
    fn options(&self, twin: bool) -> Vec<String> {
        let mut options = self.want.mount_options.clone();
        options.extend(twin.then(|| "nouuid".to_owned()));
        options
    }

    /// Whether another XFS with the same UUID is mounted: a clone made by a snapshot.
    fn has_twin(&self) -> Result<bool, Failure> {
        if self.found.kind != "xfs" {
            return Ok(false);
        }
        let twin = mount::all()?.into_iter().find(|other| {
            other.kind == "xfs"
                && other.device != self.device.number
                && resize::xfs_uuid(&other.mount_point).is_ok_and(|uuid| uuid == self.found.uuid)
        });
        if let Some(twin) = &twin {
            tracing::warn!(
                step = "mount",
                volume = self.want.id.as_str(),
                "{} mounted at {} has the same UUID; mounting with nouuid",
                twin.source,
                twin.mount_point.display()
            );
        }
        Ok(twin.is_some())
    }

    /// ext4 is checked before it is mounted; XFS replays its log by being mounted.
    async fn check(&self) -> Result<(), Failure> {
        if self.found.kind != "ext4" {
            return Ok(());
        }
        let Some(lock) = self.device.lock()? else {
            let text = format!("{} is locked by another process", self.device.path.display());
            return Err(Failure::new(Code::DeviceBusy, text));
        };
        // Under the lock: a mounted device is never checked.
        if let Some(elsewhere) = mount::of_device(self.device.number)?.first() {
            tracing::warn!(
                step = "mount",
                volume = self.want.id.as_str(),
                "{} is mounted at {} too; not checked",
                self.device.path.display(),
                elsewhere.mount_point.display()
            );
            return Ok(());
        }
        let _permit = self.allowance.permit(None);
        filesystem::check_ext4(&self.device.path, &lock).await
    }

    fn is_in_fstab(&self, twin: bool) -> Result<bool, Failure> {
        fstab::has(&self.line(&self.source(twin), &self.options(twin)))
    }

    /// The filesystem's UUID; for a twin, to whose UUID two disks answer, the link that names the volume itself.
    fn source(&self, twin: bool) -> String {
        let by_uuid = || format!("UUID={}", self.found.uuid);
        let link = if twin { device::link_to(&self.want.id.serial()) } else { None };
        link.map_or_else(by_uuid, |link| link.display().to_string())
    }

    fn line<'b>(&'b self, source: &'b str, options: &'b [String]) -> fstab::Line<'b> {
        let want = self.want;
        fstab::Line { volume: want.id.as_str(), source, mount_point: &want.mount_path, kind: &self.found.kind, options }
    }

    /// The mount point is an empty directory: what lies in it would be hidden, and was perhaps written there by mistake.
    fn prepare_mount_point(&self) -> Result<(), Failure> {
        let path = &self.want.mount_path;
        let taken = |what: &str| Err(Failure::new(Code::MountPointTaken, format!("{} {what}", path.display())));
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_symlink() => taken("is a symlink"),
            Ok(meta) if !meta.is_dir() => taken("is no directory"),
            Ok(_) => {
                let first = fs::read_dir(path).and_then(|mut entries| entries.next().transpose());
                match first.named(format_args!("reading {}", path.display()))? {
                    Some(entry) => taken(&format!(
                        "is not empty: it has {}, which the mount would hide",
                        entry.file_name().display()
                    )),
                    None => Ok(()),
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(path).named(format_args!("making the mount point {}", path.display()))
            }
            Err(error) => Err(Failure::io(format_args!("looking at {}", path.display()), error)),
        }
    }
}
