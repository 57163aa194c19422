//! `filesystem`: the device has the filesystem, which is made only on a disk that is proven blank. In one file, because every
//! way to a format, and every refusal of one, is weighed against the others.

use std::time::Duration;

use tokio::sync::Mutex;

use crate::aws::ec2::Ec2;
use crate::aws::ec2::tag::{FORMATTED, FORMATTING};
use crate::config::{EXT4, FileSystemType, Format, Volume, XFS};
use crate::failure::{Code, Failure, Named};
use crate::host::device::{Device, Locked};
use crate::host::filesystem::{self, Maker, Soundness};
use crate::host::probe::{Evidence, Found, Verdict, probe};
use crate::host::unfinished::{self, Remnant};
use crate::host::{self, command, mount, systemd};
use crate::lifecycle::Launch;
use crate::node::steps::device::Disk;
use crate::runner::{Acted, Header, Observed, Step};
use crate::sequence::StepName;
use crate::state::{FormatIntent, Journal};
use crate::time;

/// Probes the device, and formats it if that is allowed.
pub struct MakeFilesystem<'a> {
    /// Records the formats that were begun and completed.
    pub(crate) journal: &'a Journal,
    /// EC2, for the volume's tags.
    pub ec2: &'a Ec2,
    /// Whether this instance is still wanted.
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) disk: &'a Disk<'a>,
    pub(crate) deadline: Duration,
}

/// A volume whose device has the configured filesystem.
#[derive(Clone, Debug)]
pub struct Formatted<'a> {
    pub(crate) want: &'a Volume,
    pub(crate) device: &'a Device,
    pub(crate) found: Found,
}

impl<'a> Step for MakeFilesystem<'a> {
    type Output = Formatted<'a>;

    fn header(&self) -> Header<'_> {
        Header {
            // A running mkfs is never cancelled.
            keeps_own_deadline: true,
            ..Header::of(StepName::Filesystem, self.deadline).about(self.disk.volume.want.id.as_str())
        }
    }

    async fn observe(&self) -> Result<Observed<Formatted<'a>>, Failure> {
        let found = self.probe_device().await?;
        Ok(found.map(|found| Formatted { want: self.disk.volume.want, device: &self.disk.device, found }))
    }

    async fn act(&self) -> Result<Acted, Failure> {
        let id = self.disk.volume.want.id.as_str();
        let known = self.journal.volume(id);
        self.launch.must_be_wanted().await?;
        let lock = self.disk.device.lock()?;
        let maker = self.maker().await?;
        // Under the lock, the disk is probed once more.
        let uuid = if let Some(intent) = &known.formatting {
            match self.resume(id, intent, &maker).await? {
                Resumed::Format(uuid) => uuid,
                Resumed::NotNeeded => return Ok(Acted::Again),
            }
        } else {
            let evidence = match probe(&self.disk.device).await? {
                Verdict::Blank(evidence) => self.may_be_formatted(evidence)?,
                Verdict::Refused { reason, evidence } => return Err(self.not_blank(&reason, &evidence)),
                // Another program was faster: the next observation finds the filesystem.
                Verdict::Filesystem(_) => return Ok(Acted::Again),
            };
            self.record_intent(id, &evidence).await?
        };
        self.make(id, &maker, &lock, &uuid).await?;
        lock.sync_all().named(format_args!("flushing {}", self.disk.device.path.display()))?;
        self.record_format(id)?;
        let kind = self.disk.volume.want.file_system;
        tracing::info!(step = "filesystem", volume = id, "formatted {} as {kind}", self.disk.device.path.display());
        drop(lock);
        systemd::refresh_device(&self.disk.device.path).await;
        Ok(Acted::Changed)
    }
}

/// How a begun format continues.
enum Resumed {
    /// The disk is blank: mkfs runs with this UUID.
    Format(String),
    /// The disk has its filesystem, or is in use.
    NotNeeded,
}

/// The features that turn an ext2 or ext3 into an ext4 and can be enabled on one that holds files (tune2fs(8)): the journal for
/// ext2, and the formats of new files. Existing files stay unchanged.
const EXT4_FEATURES: &str = "has_journal,extents,dir_index,huge_file,flex_bg,uninit_bg,dir_nlink,extra_isize";

/// Held while a package is installed.
static INSTALLING: Mutex<()> = Mutex::const_new(());

fn is_mounted(device: &Device) -> Result<bool, Failure> {
    Ok(!mount::of_device(device.number)?.is_empty())
}

/// Formats that the agent began and did not see end. The journal has the intent; the contents of the disk decide how the
/// format continues ([`unfinished`]).
impl MakeFilesystem<'_> {
    async fn probe_device(&self) -> Result<Observed<Found>, Failure> {
        let id = self.disk.volume.want.id.as_str();
        let known = self.journal.volume(id);
        if let Some(intent) = &known.formatting {
            return self.observe_begun(intent).await;
        }
        match probe(&self.disk.device).await? {
            Verdict::Filesystem(found) if found.kind != self.disk.volume.want.file_system.as_str() => {
                Err(self.wrong_filesystem(&found))
            }
            Verdict::Filesystem(found) => {
                self.must_be_the_same(&found)?;
                self.must_be_complete(&found).await?;
                Ok(Observed::Done(found))
            }
            Verdict::Blank(evidence) => {
                let evidence = self.may_be_formatted(evidence)?;
                Ok(Observed::Todo(format!("volume {id} is blank: {evidence}")))
            }
            Verdict::Refused { reason, evidence } => Err(self.not_blank(&reason, &evidence)),
        }
    }

    async fn observe_begun(&self, intent: &FormatIntent) -> Result<Observed<Found>, Failure> {
        if is_mounted(&self.disk.device)? {
            return Ok(Observed::Todo("a format was begun, and the filesystem was mounted since".to_owned()));
        }
        self.must_match(intent)?;
        // An mkfs that outlived its agent still runs: the contents are examined once it ends.
        let _lock = match self.disk.device.lock() {
            Err(failure) if failure.code == Code::DeviceBusy => return Ok(Observed::NotYet(failure)),
            result => result?,
        };
        let begun = format!("a format begun at {} was not completed", intent.at);
        let maker = match Maker::find(self.disk.volume.want.file_system).await {
            Err(failure) if failure.code == Code::ToolMissing => return Ok(Observed::Todo(begun)),
            result => result?,
        };
        Ok(Observed::Todo(match unfinished::inspect(&self.disk.device, &maker, intent.uuid.as_deref()).await? {
            Remnant::Blank(evidence) => format!("{begun}; the disk is blank: {}", self.may_be_formatted(evidence)?),
            Remnant::Unfinished { evidence, .. } => {
                format!("{begun}; the disk holds what a killed mkfs leaves: {}", self.may_be_formatted(evidence)?)
            }
            Remnant::Complete { found, .. } => {
                format!("{begun}; the disk has a complete {} (UUID {})", found.kind, found.uuid)
            }
            Remnant::Other { reason, evidence } => return Err(self.not_unfinished(intent, &reason, &evidence)),
        }))
    }

    /// Clears the device so that a begun format can resume, or ends that format.
    async fn resume(&self, id: &str, intent: &FormatIntent, maker: &Maker) -> Result<Resumed, Failure> {
        if is_mounted(&self.disk.device)? {
            // The filesystem is in use, and must never be formatted again.
            self.drop_intent(id).await?;
            return Ok(Resumed::NotNeeded);
        }
        self.must_match(intent)?;
        // No program can begin to use the device between the observation and the clearing.
        let exclusive = self.disk.device.exclusive()?;
        let uuid = intent.uuid.as_deref();
        let evidence = match unfinished::inspect(&self.disk.device, maker, uuid).await? {
            Remnant::Complete { found, unused } => {
                self.adopt(id, intent, &found, unused).await?;
                return Ok(Resumed::NotNeeded);
            }
            Remnant::Other { reason, evidence } => return Err(self.not_unfinished(intent, &reason, &evidence)),
            Remnant::Blank(evidence) => self.may_be_formatted(evidence)?,
            Remnant::Unfinished { evidence, traces } => {
                let evidence = self.may_be_formatted(evidence)?;
                let path = self.disk.device.path.display();
                tracing::info!(
                    step = "filesystem",
                    volume = id,
                    "clearing what a killed mkfs left on {path}: {evidence}"
                );
                unfinished::clear(&exclusive, &self.disk.device, &traces)?;
                match unfinished::inspect(&self.disk.device, maker, uuid).await? {
                    Remnant::Blank(evidence) => evidence,
                    left => return Err(self.not_cleared(&left)),
                }
            }
        };
        // mkfs opens the device exclusively itself.
        drop(exclusive);
        match uuid {
            Some(uuid) => Ok(Resumed::Format(uuid.to_owned())),
            None => self.record_intent(id, &evidence).await.map(Resumed::Format),
        }
    }

    /// Adopts a complete filesystem. It counts as formatted by this agent only if it can be the begun one and was never used:
    /// otherwise the mount point's owner would get all files in it.
    async fn adopt(&self, id: &str, intent: &FormatIntent, found: &Found, unused: bool) -> Result<(), Failure> {
        if unused && intent.uuid.as_ref().is_none_or(|uuid| *uuid == found.uuid) {
            return self.record_format(id);
        }
        let text = format!(
            "a format was begun at {}, but {} holds a complete {} (UUID {}) that the agent did not make or that was used since: it is kept as it is",
            intent.at,
            self.disk.device.path.display(),
            found.kind,
            found.uuid
        );
        self.journal.warn(StepName::Filesystem, Some(id), text);
        self.drop_intent(id).await
    }

    /// Ends the begun format, in the volume's tag first: if that fails, the journal's record makes the next round try again.
    async fn drop_intent(&self, id: &str) -> Result<(), Failure> {
        self.ec2.tag(id, &[(FORMATTING, "done")]).await?;
        self.journal.update_volume(id, |volume| volume.formatting = None)
    }

    /// Runs mkfs. If mkfs fails by itself, it would fail again: the intent is withdrawn, so that an operator judges what was
    /// written. If mkfs is killed, the intent stays.
    async fn make(&self, id: &str, maker: &Maker, lock: &Locked, uuid: &str) -> Result<(), Failure> {
        let (kind, path) = (self.disk.volume.want.file_system, self.disk.device.path.display());
        let output = match maker.make(&self.disk.device, lock, uuid).await {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) if output.status.code().is_none() => {
                let text = format!("mkfs.{kind} of {path} was killed: {}", output.status);
                return Err(Failure::new(Code::ToolFailed, text).remedy(
                    "find out what killed it (dmesg, out of memory?), then: node-agent retry, which makes the filesystem again",
                ));
            }
            result => {
                self.journal.update_volume(id, |volume| volume.formatting = None)?;
                result?
            }
        };
        let text = format!("mkfs.{kind} of {path} ended with {}: {}", output.status, command::last_lines(&output));
        Err(Failure::new(Code::ToolFailed, text).remedy(format!(
            "correct what the message says; {path} was blank before; to clear what mkfs has written: wipefs -a {path} && \
             blkdiscard -z {path}; then: node-agent retry"
        )))
    }

    fn not_unfinished(&self, intent: &FormatIntent, reason: &str, evidence: &Evidence) -> Failure {
        let (want, path, mount) = (self.disk.volume.want, self.disk.device.path.display(), self.mount_by_hand());
        let text = format!(
            "an {} format of volume {} was begun at {}, but {path} does not hold what a killed mkfs leaves, and is not touched: \
             {reason} ({evidence})",
            intent.file_system, want.id, intent.at
        );
        Failure::new(Code::NotBlank, text).remedy(format!(
            "see what is on {path} and what uses it (lsblk -o +FSTYPE,RO,MOUNTPOINT {path}); to keep a filesystem that is there, \
             mount it by hand ({mount}), which also replays its log; to keep anything else, correct volume.id; only if nothing on \
             it is needed: wipefs -a {path} && blkdiscard -z {path}; then: node-agent retry"
        ))
    }

    fn not_cleared(&self, left: &Remnant) -> Failure {
        let (id, path) = (&self.disk.volume.want.id, self.disk.device.path.display());
        let seen = match left {
            Remnant::Blank(evidence) | Remnant::Unfinished { evidence, .. } => evidence.to_string(),
            Remnant::Complete { found, .. } => format!("it holds {} (UUID {})", found.kind, found.uuid),
            Remnant::Other { reason, evidence } => format!("{reason}; {evidence}"),
        };
        let text = format!("volume {id} ({path}) is not blank although what a killed mkfs left was cleared: {seen}");
        Failure::new(Code::NotBlank, text)
    }
}

impl MakeFilesystem<'_> {
    /// Fails if a launched node's filesystem is not the one that it was launched with.
    fn must_be_the_same(&self, found: &Found) -> Result<(), Failure> {
        let (id, device) = (&self.disk.volume.want.id, self.disk.device.path.display());
        match self.journal.volume(id.as_str()).filesystem_uuid {
            Some(uuid) if uuid != found.uuid => {
                let text = format!(
                    "volume {id} ({device}) had the filesystem with UUID {uuid} when this node was launched, and has the {} with UUID {} now",
                    found.kind, found.uuid
                );
                Err(Failure::new(Code::AnotherFilesystem, text))
            }
            _ => Ok(()),
        }
    }

    /// Fails if a blank disk may not be formatted: by the configuration, or because it should hold data.
    fn may_be_formatted(&self, mut evidence: Evidence) -> Result<Evidence, Failure> {
        let want = self.disk.volume.want;
        let known = self.journal.volume(want.id.as_str());
        let retry =
            if known.filesystem_uuid.is_some() { "node-agent retry --from filesystem" } else { "node-agent retry" };
        let unexpected = if want.format == Format::Never {
            Some("format is \"never\"".to_owned())
        } else if let Some(snapshot) = &self.disk.volume.view.snapshot_id {
            Some(format!("it was made from the snapshot {snapshot}"))
        } else if let Some(uuid) = known.filesystem_uuid {
            Some(format!("it had the filesystem with UUID {uuid} when this node was launched"))
        } else if let Some(at) = known.formatted_at {
            Some(format!("this agent formatted it at {at}"))
        } else {
            self.disk.volume.view.tags.get(FORMATTED).map(|tag| format!("its tag {FORMATTED} says: {tag}"))
        };
        if let Some(why) = unexpected {
            let text = format!("volume {} is blank, but {why} ({evidence})", want.id);
            return Err(Failure::new(Code::UnexpectedlyBlank, text).remedy(format!(
                "this may be data loss: check volume.id and the volume's history; only if it is to be empty, make the \
                 filesystem by hand: mkfs.{} {}, then: {retry}",
                want.file_system,
                self.disk.device.path.display()
            )));
        }
        evidence.add("made from no snapshot, never formatted by this agent");
        Ok(evidence)
    }

    /// Makes the intent durable before the first write, and draws the filesystem's UUID.
    async fn record_intent(&self, id: &str, evidence: &Evidence) -> Result<String, Failure> {
        let uuid = host::random_uuid()?;
        let at = time::now();
        let tag = format!("begun {at} by {}", &self.launch.instance.instance_id);
        if !self.ec2.tag(id, &[(FORMATTING, &tag)]).await? {
            let text = "ec2:CreateTags is not allowed: only this root disk will record that the agent formatted the volume; allow the action in the role's policy";
            self.journal.warn(StepName::Filesystem, Some(id), text);
        }
        let intent = FormatIntent {
            device: self.disk.device.path.display().to_string(),
            size: self.disk.device.size,
            file_system: self.disk.volume.want.file_system.to_string(),
            uuid: Some(uuid.clone()),
            evidence: evidence.to_string(),
            at,
        };
        self.journal.update_volume(id, |volume| volume.formatting = Some(intent))?;
        Ok(uuid)
    }

    fn record_format(&self, id: &str) -> Result<(), Failure> {
        self.journal.update_volume(id, |volume| {
            volume.formatting = None;
            volume.formatted_at = Some(time::now());
            volume.tag_due = true;
            volume.ownership_due = true;
        })
    }

    /// After the journal is lost, only the tag of a begun format shows that a filesystem may be incomplete.
    async fn must_be_complete(&self, found: &Found) -> Result<(), Failure> {
        let want = self.disk.volume.want;
        let begun = self.disk.volume.view.tags.get(FORMATTING).filter(|tag| *tag != "done");
        let Some(begun) = begun else { return Ok(()) };
        if self.journal.volume(want.id.as_str()).formatted_at.is_some() || is_mounted(&self.disk.device)? {
            return Ok(());
        }
        let path = self.disk.device.path.display();
        let said = match filesystem::soundness(want.file_system, &self.disk.device).await? {
            Soundness::Sound => return Ok(()),
            Soundness::Unsound(said) => said,
            Soundness::Unknown(why) => {
                let (id, kind, mount) = (&want.id, &found.kind, self.mount_by_hand());
                let text = format!(
                    "volume {id} ({path}) holds an {kind}, a format was {begun}, and whether that format completed is unknown: {why}"
                );
                return Err(Failure::new(Code::NotBlank, text).remedy(format!(
                    "install {}, which checks it, or mount it by hand if you know that it is complete ({mount}); then: node-agent retry",
                    filesystem::package(want.file_system)
                )));
            }
        };
        let text =
            format!("volume {} ({path}) holds an incomplete {}: a format was {begun} ({said})", want.id, found.kind);
        Err(Failure::new(Code::NotBlank, text)
            .remedy(format!("if it is not needed: wipefs -a {path} && blkdiscard -z {path}, then: node-agent retry")))
    }

    /// Fails unless the device and the configuration are as they were when the format was begun.
    fn must_match(&self, intent: &FormatIntent) -> Result<(), Failure> {
        let kind = self.disk.volume.want.file_system.as_str();
        if intent.size == self.disk.device.size && intent.file_system == kind {
            return Ok(());
        }
        let (path, mount) = (self.disk.device.path.display(), self.mount_by_hand());
        let text = format!(
            "an {} format of volume {} with {} bytes was begun at {}, but {path} now has {} bytes and {kind} is configured",
            intent.file_system, self.disk.volume.want.id, intent.size, intent.at, self.disk.device.size,
        );
        // Wiping is not enough: only a mounted filesystem ends the begun format.
        Err(Failure::new(Code::NotBlank, text).remedy(format!(
            "set file_system back to \"{}\" if that is what changed; or, if nothing on the disk is needed: wipefs -a {path} && \
             mkfs.{kind} {path} && {mount}; then: node-agent retry",
            intent.file_system
        )))
    }

    fn mount_by_hand(&self) -> String {
        let place = self.disk.volume.want.mount_path.display();
        format!("mkdir -p {place} && mount {} {place}", self.disk.device.path.display())
    }

    fn wrong_filesystem(&self, found: &Found) -> Failure {
        let want = self.disk.volume.want;
        let (id, path, kind) = (&want.id, self.disk.device.path.display(), &found.kind);
        let text =
            format!("volume {id} ({path}) holds {kind} (UUID {}), configured is {}", found.uuid, want.file_system);
        let failure = Failure::new(Code::WrongFilesystem, text);
        if [XFS, EXT4].contains(&kind.as_str()) {
            return failure.remedy(format!(
                "set file_system = \"{kind}\" for {id}, or correct volume.id; the agent never converts or overwrites; then: \
                 node-agent retry"
            ));
        }
        if ["ext2", "ext3"].contains(&kind.as_str()) && want.file_system == FileSystemType::Ext4 {
            return failure.remedy(format!(
                "to keep the data, make it an ext4 where it is; take a snapshot first (aws ec2 create-snapshot --volume-id {id}), \
                 and see that {path} is not mounted: e2fsck -fp {path}; tune2fs -O {EXT4_FEATURES} {path} && e2fsck -fp {path}; \
                 otherwise correct volume.id; then: node-agent retry"
            ));
        }
        failure.remedy(format!(
            "correct volume.id; only if what is on {path} is not needed: wipefs -a {path} && blkdiscard -z {path}; then: \
             node-agent retry"
        ))
    }

    fn not_blank(&self, reason: &str, evidence: &Evidence) -> Failure {
        let path = self.disk.device.path.display();
        Failure::new(
            Code::NotBlank,
            format!("volume {} ({path}) is not touched: {reason} ({evidence})", self.disk.volume.want.id),
        )
        .remedy(format!(
            "see what is on {path} and what uses it (lsblk -o +FSTYPE,RO {path}); only if it is not needed: wipefs -a {path} && \
                 blkdiscard -z {path}, then: node-agent retry"
        ))
    }

    /// Finds mkfs, and installs it if it is missing and the configuration allows that.
    async fn maker(&self) -> Result<Maker, Failure> {
        let kind = self.disk.volume.want.file_system;
        // Package managers refuse to run twice, and another volume's installation may have brought the program.
        let _alone = INSTALLING.lock().await;
        let missing = match Maker::find(kind).await {
            Err(failure) if failure.code == Code::ToolMissing => failure,
            result => return result,
        };
        if !self.disk.volume.want.install_tools {
            return Err(missing.remedy(format!(
                "install {}, here and in the image, or set install_tools = true, then: node-agent retry",
                filesystem::package(kind)
            )));
        }
        tracing::info!("{missing}; installing {}", filesystem::package(kind));
        filesystem::install_maker(kind).await?;
        Maker::find(kind).await
    }
}
