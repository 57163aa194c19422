//! `mount`: the filesystem is mounted at its mount point as configured, now and at the next boot. In one file,
//! because the fstab line, the mount and the check before it depend on each other.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::{Instant, sleep};

use crate::config;
use crate::failure::{Code, Failure, Named};
use crate::host::device::{self, Device};
use crate::host::ext4::Superblock;
use crate::host::fstab::{Conflict, Entry, Line, Ours};
use crate::host::mountinfo::Mounted;
use crate::host::probe::Found;
use crate::host::{self, blkid, filesystem, fstab, mount, preen, resize, systemd};
use crate::node::steps::filesystem::Formatted;
use crate::runner::allowance::Allowance;
use crate::runner::{Acted, Header, Observed, Step};
use crate::sequence::StepName;
use crate::state::{Journal, MountRecord};

/// How long a mount is retried while the device is busy.
const BUSY_LIMIT: Duration = Duration::from_secs(10);
const BUSY_POLL: Duration = Duration::from_millis(100);

/// The first systemd whose failed check of a `nofail` filesystem does not end the boot in emergency mode.
const SYSTEMD_CHECKS_SINCE: u32 = 250;

/// Writes the fstab line and mounts.
pub struct MountVolume<'a> {
    /// Records how this boot's mount was made.
    journal: &'a Journal,
    want: &'a config::Volume,
    device: &'a Device,
    found: &'a Found,
    /// Allows heartbeats for as long as a check of the filesystem takes.
    allowance: &'a Allowance,
    deadline: Duration,
    /// Whether this run has tried to prepare the next boot.
    prepared: Cell<bool>,
}

impl<'a> MountVolume<'a> {
    /// Mounts `formatted` within `timeouts.volume`.
    pub fn new(
        journal: &'a Journal,
        formatted: &'a Formatted<'a>,
        allowance: &'a Allowance,
        deadline: Duration,
    ) -> Self {
        let Formatted { want, device, found } = formatted;
        MountVolume { journal, want, device, found, allowance, deadline, prepared: Cell::default() }
    }
}

impl Step for MountVolume<'_> {
    type Output = ();

    fn header(&self) -> Header<'_> {
        Header {
            // Neither a check of the filesystem nor a mount that replays a log is cancelled.
            keeps_own_deadline: true,
            ..Header::of(StepName::Mount, self.deadline).about(self.want.id.as_str())
        }
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        systemd::must_share_mounts().await?;
        let place = self.want.mount_path.display();
        let Some(mounted) = self.mounted()? else {
            return Ok(Observed::Todo(format!("{place} is not mounted")));
        };
        self.must_be_this_disk(&mounted)?;
        self.must_take_writes(&mounted)?;
        let pass = self.pass().await;
        if let Some(why) = self.check_due(pass)? {
            return Ok(Observed::Todo(format!("the ext4 at {place} needs a check: {why}")));
        }
        let options = self.options(is_nouuid(&mounted));
        if let Some(how) = self.difference(&mounted, &options) {
            return Ok(Observed::Todo(format!("{place} is not mounted as configured: {how}")));
        }
        let prepared = self.next_boot_is_prepared(&self.line(&self.source(), &options, pass));
        match prepared {
            Err(failure) if failure.code == Code::FstabConflict => return Err(failure),
            Ok(true) => {}
            // Tried in vain: this only matters to the next boot, and a warning was given.
            _ if self.prepared.get() => {}
            _ => return Ok(Observed::Todo(format!("{place} is mounted, but has no line in /etc/fstab"))),
        }
        self.record_mount(&mounted, &options, Some(mount::flags(&mounted)));
        Ok(Observed::Done(()))
    }

    async fn act(&self) -> Result<Acted, Failure> {
        let pass = self.pass().await;
        // Until udev has made the link, fstab would name the filesystem instead of the volume.
        if device::link_to(&self.want.id.serial(), self.device.number).is_none() {
            systemd::wait_for_udev().await;
        }
        let source = self.source();
        if let Some(mounted) = self.mounted()? {
            self.must_be_this_disk(&mounted)?;
            let options = self.options(is_nouuid(&mounted));
            let due = self.check_due(pass)?;
            let differs = self.difference(&mounted, &options).is_some();
            let before = self.options_before(&options);
            if let (Some(before), None) = (&before, &due) {
                // Recorded before fstab is changed: if this process ends, the next one must not take the new options for those in force.
                self.record_mount(&mounted, before, None);
                self.journal.keep(|_| {});
            }
            self.prepare_next_boot(&self.line(&source, &options, pass)).await?;
            if let Some(why) = due {
                self.recheck(&mounted, &why, before.as_ref().unwrap_or(&options), &options).await?;
            } else if differs {
                self.remount(before.as_ref().unwrap_or(&options), &options).await?;
            }
        } else {
            let options = self.options(self.has_twin()?);
            self.drop_record();
            self.prepare_mount_point()?;
            self.check().await?;
            self.prepare_next_boot(&self.line(&source, &options, pass)).await?;
            self.mount(&options).await?;
        }
        systemd::restore_labels(&self.want.mount_path).await?;
        Ok(Acted::Changed)
    }
}

impl MountVolume<'_> {
    /// Mounts the filesystem unless it is mounted by now. After a reload systemd unmounts what it believes stale, and mounts what
    /// an earlier fstab line for the same mount point made it wait for. The kernel refuses a second mount during the first.
    async fn mount(&self, options: &[String]) -> Result<(), Failure> {
        let (device, place, kind) = (&self.device.path, self.mount_point(), self.found.kind.as_str());
        let what = format!("mounting {} at {} as {kind}", device.display(), place.display());
        let patience = Instant::now() + BUSY_LIMIT;
        while self.mounted()?.is_none() {
            let Some(said) = mount::mount(device, &place, kind, options).await? else {
                return self.must_be_mounted(options).await;
            };
            // EBUSY in the words of mount(8) before and since 2.39, or a device that is held.
            let busy = said.contains("busy") || said.contains("already mounted") || self.device.is_held();
            if (busy || said.contains("Can't open blockdev")) && Instant::now() < patience {
                sleep(BUSY_POLL).await;
            } else if busy {
                return Err(Failure::new(Code::DeviceBusy, format!("{what}: {said}")));
            } else {
                return Err(Failure::new(Code::MountFailed, format!("{what}: {said}")).remedy(format!(
                    "see the filesystem's own message in dmesg; if it is about an option, correct mount_options ({}); then: \
                     node-agent retry",
                    options.join(",")
                )));
            }
        }
        Ok(())
    }

    /// Fails if mount(8) has mounted another device, which is then unmounted: it was given names, and a name can be redirected.
    async fn must_be_mounted(&self, options: &[String]) -> Result<(), Failure> {
        let (device, place) = (self.device.path.display(), self.mount_point());
        let seen = match self.mounted()? {
            // systemd has unmounted what it believed stale: the next observation decides.
            None => return Ok(()),
            Some(mounted) if mounted.device == self.device.number => {
                self.record_mount(&mounted, options, Some(mount::flags(&mounted)));
                return mount::ensure_writable(&mounted, self.want.id.as_str(), self.wants_read_only());
            }
            Some(other) => {
                let gone = mount::unmount(&place).await;
                let gone =
                    gone.map_or_else(|errno| format!("cannot be unmounted: {errno}"), |()| "is unmounted".into());
                format!("{} ({}) was mounted there, and {gone}", other.source, other.kind)
            }
        };
        let text = format!("mount(8) was asked to mount {device} at {}, but {seen}", place.display());
        Err(Failure::new(Code::DeviceUntrusted, text))
    }

    /// Changes the options of an existing mount. Options that the kernel refuses or silently ignores are a failure.
    async fn remount(&self, before: &[String], options: &[String]) -> Result<(), Failure> {
        let (place, kind) = (self.mount_point(), self.found.kind.as_str());
        let refused = mount::remount(&self.device.path, &place, kind, options).await?;
        let Some(mounted) = self.mounted()? else { return Ok(()) };
        let seen = refused.unwrap_or_else(|| {
            [mount::differences(&mounted, options), mount::not_applied(&mounted, before, options)].concat().join("; ")
        });
        if seen.is_empty() {
            self.record_mount(&mounted, options, Some(mount::flags(&mounted)));
            return Ok(());
        }
        let (place, wanted) = (self.want.mount_path.display(), options.join(","));
        let text = format!("{place} cannot be remounted with mount_options {wanted:?}: {seen}");
        Err(Failure::new(Code::MountOptions, text).remedy(format!(
            "correct mount_options; or stop what uses the volume (fuser -vm {place}), then: umount {place} && node-agent \
             retry; or reboot: the next boot mounts it as configured"
        )))
    }

    /// The mount at the mount point; the kernel lists it by its real path.
    fn mounted(&self) -> Result<Option<Mounted>, Failure> {
        mount::at(&self.mount_point())
    }

    /// The mount point's real path. A symlink as its last component is not followed.
    fn mount_point(&self) -> PathBuf {
        let path = &self.want.mount_path;
        let real =
            path.parent().zip(path.file_name()).and_then(|(dir, name)| Some(fs::canonicalize(dir).ok()?.join(name)));
        real.unwrap_or_else(|| path.clone())
    }

    /// The configured options, with `nouuid` for a twin and only then: without it the kernel refuses to mount one disk twice.
    fn options(&self, twin: bool) -> Vec<String> {
        let mut options = self.want.mount_options.clone();
        options.extend(twin.then(|| "nouuid".to_owned()));
        options
    }

    fn wants_read_only(&self) -> bool {
        mount::asks_for_read_only(&self.want.mount_options)
    }

    /// Whether another XFS with the same UUID is mounted: a copy made from a snapshot.
    fn has_twin(&self) -> Result<bool, Failure> {
        if self.found.kind != config::XFS {
            return Ok(false);
        }
        let twin = mount::all()?.into_iter().find(|other| {
            other.kind == config::XFS
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

    /// Fails unless all of this disk is mounted. The remedy for another disk also removes the cause of its mount.
    fn must_be_this_disk(&self, mounted: &Mounted) -> Result<(), Failure> {
        let (id, place) = (&self.want.id, self.want.mount_path.display());
        let what = format!("{} ({}) is mounted at {place} already", mounted.source, mounted.kind);
        if mounted.device == self.device.number {
            if mounted.root == Path::new("/") {
                return Ok(());
            }
            let text = format!("{what}, but only its directory {}", mounted.root.display());
            return Err(
                Failure::new(Code::MountPointTaken, text).remedy(format!("umount {place}; then: node-agent retry"))
            );
        }
        let other = device::volume_of(mounted.device).map(|other| format!(", which is volume {other}"));
        let copy = uuid_of(mounted).is_some_and(|uuid| uuid == self.found.uuid);
        let copy =
            if copy { format!("; it has the UUID of volume {id}: one is a copy of the other") } else { String::new() };
        let text = format!("{what}{}{copy}", other.unwrap_or_default());
        let failure = Failure::new(Code::MountPointTaken, text);
        Err(match fstab::entry(&self.line("", &[], 0))? {
            Entry::Foreign(Conflict { line, .. }) => failure.remedy(format!(
                "if it is not needed there: remove its line from /etc/fstab ({line}), then: umount {place}; node-agent \
                 retry; otherwise set another mount_path"
            )),
            // The agent's own line names the volume, so that no copy of it is mounted any more.
            Entry::AsWanted | Entry::Missing => failure.remedy(format!(
                "stop what uses it (fuser -vm {place}) and see what was written to it; then: umount {place}; \
                 node-agent retry, which mounts volume {id} and enters it in /etc/fstab; or set another mount_path"
            )),
        })
    }

    fn must_take_writes(&self, mounted: &Mounted) -> Result<(), Failure> {
        // A mount that was configured as read-only is no failure: the remount makes it writable.
        let was_wanted = self.options_in_force().is_some_and(|options| mount::asks_for_read_only(&options));
        mount::ensure_writable(mounted, self.want.id.as_str(), self.wants_read_only() || was_wanted)
    }

    /// How the mount differs from the configured options.
    fn difference(&self, mounted: &Mounted, options: &[String]) -> Option<String> {
        if let Some(before) = self.options_before(options) {
            return Some(format!("its options are {:?}, wanted are {:?}", before.join(","), options.join(",")));
        }
        // mount(8) has turned these options into these flags: nothing differs.
        if self.mount_record().is_some_and(|known| known.flags == Some(mount::flags(mounted))) {
            return None;
        }
        let differences = mount::differences(mounted, options);
        (!differences.is_empty()).then(|| differences.join("; "))
    }

    /// The options in force, if they are known and differ from `options`.
    fn options_before(&self, options: &[String]) -> Option<Vec<String>> {
        self.options_in_force().filter(|before| !mount::are_equivalent(before, options))
    }

    /// The options in force, if they are known: from the journal's record of a mount in this boot, or from the agent's line in
    /// fstab if the boot itself has mounted it.
    fn options_in_force(&self) -> Option<Vec<String>> {
        let known = self.mount_record().map(|known| known.options);
        known.or_else(|| self.line_in_fstab().map(|ours| ours.options))
    }

    /// The record of this boot's mount.
    fn mount_record(&self) -> Option<MountRecord> {
        let known = self.journal.volume(self.want.id.as_str()).mounted?;
        (known.boot_id == host::boot_id().ok()? && known.mount_point == self.mount_point()).then_some(known)
    }

    /// Records the mount for later observations and for `status`. The step's own record makes it durable; a full disk must not
    /// prevent a mount.
    fn record_mount(&self, mounted: &Mounted, options: &[String], flags: Option<String>) {
        let Ok(boot_id) = host::boot_id() else { return };
        let (mount_point, device) = (mounted.mount_point.clone(), mounted.device);
        let record = MountRecord { boot_id, mount_point, device, options: options.to_vec(), flags };
        let id = self.want.id.as_str();
        if self.journal.volume(id).mounted.as_ref() != Some(&record) {
            self.journal.note(|state| state.volumes.entry(id.to_owned()).or_default().mounted = Some(record));
        }
    }

    /// Drops the record of a mount that is gone.
    fn drop_record(&self) {
        let id = self.want.id.as_str();
        if self.mount_record().is_some() {
            self.journal.keep(|state| state.volumes.entry(id.to_owned()).or_default().mounted = None);
        }
    }

    /// Checks an ext4 before it is mounted. XFS replays its log when it is mounted.
    async fn check(&self) -> Result<(), Failure> {
        if self.found.kind != config::EXT4 {
            return Ok(());
        }
        let lock = self.device.lock()?;
        // Observed under the lock: a mounted device is never checked.
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

    /// The pass of the fstab line: 2 if systemd checks an ext4 at boot, else 0. Before systemd 250 a failed check ends in
    /// emergency mode in spite of `nofail`, and with the boot scripts of other inits (`fsck -A`) in a maintenance shell. There
    /// the agent checks instead: the machine boots, and a failure is reported.
    async fn pass(&self) -> u8 {
        let by_systemd = self.found.kind == config::EXT4
            && systemd::version().await.is_some_and(|version| version >= SYSTEMD_CHECKS_SINCE);
        if by_systemd { 2 } else { 0 }
    }

    /// Why an ext4 that the boot itself mounted unchecked needs a check. Only at the first observation in a boot: later,
    /// applications use the mount.
    fn check_due(&self, pass: u8) -> Result<Option<String>, Failure> {
        let by_systemd = pass != 0 && self.line_in_fstab().is_none_or(|ours| ours.is_checked);
        if self.found.kind != config::EXT4 || by_systemd || self.mount_record().is_some() {
            return Ok(None);
        }
        let text = || format!("reading the superblock of {}", self.device.path.display());
        preen::wants_check(self.device.file())
            .map_err(|error| Failure::new(Code::DeviceUnreadable, text()).because(error))
    }

    /// Unmounts a filesystem that was mounted unchecked, checks it, and mounts it again. If it is in use already, a warning must
    /// do.
    async fn recheck(
        &self,
        mounted: &Mounted,
        why: &str,
        before: &[String],
        options: &[String],
    ) -> Result<(), Failure> {
        let place = self.want.mount_path.display();
        let in_use = if systemd::is_active(systemd::MOUNTED_TARGET).await {
            Some("its applications were started already")
        } else {
            match mount::unmount(&self.mount_point()).await {
                Ok(()) if self.device.is_held() => Some("another mount namespace has it too"),
                Ok(()) => None,
                Err(Errno::EBUSY) => Some("it is in use"),
                Err(errno) => return Err(Failure::io(format_args!("unmounting {place} for a check"), errno.into())),
            }
        };
        let Some(in_use) = in_use else {
            tracing::info!(step = "mount", volume = self.want.id.as_str(), "checking the ext4 of {place}: {why}");
            self.check().await?;
            return self.mount(options).await;
        };
        let text = format!(
            "the ext4 at {place} needs a check ({why}), but {in_use}; NOT CHECKED: stop what uses it (fuser -vm \
             {place}), then: umount {place} && node-agent retry, which checks it"
        );
        self.journal.warn(StepName::Mount, Some(self.want.id.as_str()), text);
        // If the unmount succeeded, this mounts it with the new options.
        self.record_mount(mounted, before, None);
        self.mount(options).await
    }

    /// The udev link that names the volume, because a copy made from a snapshot has the same filesystem UUID. The UUID only if
    /// neither a link nor fstab names the volume, as on Xen. A link that fstab has is kept, because udev can be late.
    fn source(&self) -> String {
        let serial = self.want.id.serial();
        if let Some(link) = device::link_to(&serial, self.device.number) {
            return link.display().to_string();
        }
        let known = self.line_in_fstab().map(|ours| ours.source);
        let missing = |link: &String| device::is_link_for(Path::new(link), &serial) && fs::metadata(link).is_err();
        known.filter(missing).unwrap_or_else(|| format!("UUID={}", self.found.uuid))
    }

    /// The agent's line. An unreadable fstab counts as without one, and is reported when the line is written.
    fn line_in_fstab(&self) -> Option<Ours> {
        fstab::ours(self.want.id.as_str()).ok().flatten()
    }

    fn line<'b>(&'b self, source: &'b str, options: &'b [String], pass: u8) -> Line<'b> {
        let want = self.want;
        Line { volume: want.id.as_str(), source, mount_point: &want.mount_path, kind: &self.found.kind, options, pass }
    }

    /// Whether fstab mounts this disk here at the next boot, by the agent's line or by another tool's, which is left alone.
    fn next_boot_is_prepared(&self, line: &Line<'_>) -> Result<bool, Failure> {
        let conflict = match fstab::entry(line)? {
            Entry::AsWanted => return Ok(true),
            Entry::Missing => return Ok(false),
            Entry::Foreign(conflict) => conflict,
        };
        let place = line.mount_point.display();
        if !self.is_this_disk(&conflict.source) {
            let text = format!("/etc/fstab has a line for {place} already: {}", conflict.line);
            return Err(Failure::new(Code::FstabConflict, text));
        }
        let by_uuid = if conflict.source.starts_with('/') {
            ""
        } else {
            "; it would also mount a copy of the volume made from a snapshot: remove it, and the agent writes its own"
        };
        let text = format!(
            "/etc/fstab has another tool's line for {place}; it is left alone, and the agent adds none: {}{by_uuid}",
            conflict.line
        );
        let known = |state: &crate::state::State| state.warnings.iter().any(|warning| warning.message == text);
        if !self.journal.read(known) {
            self.journal.warn(StepName::Mount, Some(self.want.id.as_str()), text);
        }
        Ok(true)
    }

    /// Whether an fstab line with this source mounts this disk.
    fn is_this_disk(&self, source: &str) -> bool {
        let by = |kind: &str, value: &str| Path::new("/dev/disk").join(kind).join(value);
        let path = match source.split_once('=') {
            Some(("UUID", uuid)) => return uuid.eq_ignore_ascii_case(&self.found.uuid),
            Some(("LABEL", label)) => by("by-label", label),
            Some(("ID", id)) => by("by-id", id),
            _ => PathBuf::from(source),
        };
        path.is_absolute() && fs::metadata(path).is_ok_and(|meta| meta.rdev() == self.device.number)
    }

    /// Writes the fstab line and reloads systemd. Both matter only to the next boot, so that a failure is a warning; only another
    /// disk's line for the mount point is refused.
    async fn prepare_next_boot(&self, line: &Line<'_>) -> Result<(), Failure> {
        self.prepared.set(true);
        let prepared = match self.next_boot_is_prepared(line) {
            // A reload during the boot costs seconds on a small machine.
            Ok(true) if fstab::is_unchanged_since_boot() => return Ok(()),
            Ok(false) => fstab::put(line),
            Err(failure) if failure.code == Code::FstabConflict => return Err(failure),
            prepared => prepared.map(drop),
        };
        for failure in [prepared, systemd::reload().await].into_iter().filter_map(Result::err) {
            let text = format!(
                "the next boot may not mount {} before the agent does: {failure}; {}",
                line.mount_point.display(),
                failure.what_to_do()
            );
            self.journal.warn(StepName::Mount, Some(self.want.id.as_str()), text);
        }
        Ok(())
    }

    /// Fails unless the mount point is an empty directory: the mount would hide its contents, perhaps written there by mistake.
    fn prepare_mount_point(&self) -> Result<(), Failure> {
        let path = &self.want.mount_path;
        let taken = |what: &str| Err(Failure::new(Code::MountPointTaken, format!("{} {what}", path.display())));
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_symlink() => taken("is a symlink"),
            Ok(meta) if !meta.is_dir() => taken("is not a directory"),
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

/// Whether it was mounted as a twin. The other disk may have been unmounted since.
fn is_nouuid(mounted: &Mounted) -> bool {
    mounted.super_options.split(',').any(|option| option == "nouuid")
}

/// The UUID of a mounted filesystem of one of our kinds.
fn uuid_of(mounted: &Mounted) -> Option<String> {
    if mounted.kind == config::XFS {
        return resize::xfs_uuid(&mounted.mount_point).ok();
    }
    let device = File::open(&mounted.source).ok()?;
    if device.metadata().ok()?.rdev() != mounted.device {
        return None;
    }
    Superblock::read(&device).ok().map(|superblock| blkid::uuid_text(superblock.uuid()))
}
