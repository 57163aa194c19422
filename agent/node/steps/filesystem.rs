//! `filesystem`: the device has the filesystem; made only where the disk is proven blank.

use std::time::Duration;

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

/// Looks at the device, and formats it where that is allowed.
#[derive(Debug)]
pub struct MakeFilesystem<'a> {
    /// Knows of formats begun and completed.
    pub journal: &'a Journal,
    /// EC2, for the volume's tags.
    pub ec2: &'a Ec2,
    /// Whether this instance is still wanted.
    pub launch: &'a Launch<'a>,
    /// The attached volume and its device.
    pub disk: &'a Disk<'a>,
    /// `timeouts.volume`
    pub deadline: Duration,
}

/// A volume whose device has its filesystem.
#[derive(Clone, Debug)]
pub struct Formatted<'a> {
    /// The volume, as configured.
    pub want: &'a Volume,
    /// Its device.
    pub device: &'a Device,
    /// The filesystem on it.
    pub found: Found,
}

impl<'a> Step for MakeFilesystem<'a> {
    type Output = Formatted<'a>;

    fn header(&self) -> Header<'_> {
        Header {
            // A running mkfs is never cut off.
            keeps_own_deadline: true,
            ..Header::of(StepName::Filesystem, self.deadline).about(self.disk.volume.want.id.as_str())
        }
    }

    async fn observe(&self) -> Result<Observed<Formatted<'a>>, Failure> {
        let found = self.look().await?;
        Ok(found.map(|found| Formatted { want: self.disk.volume.want, device: &self.disk.device, found }))
    }

    async fn act(&self) -> Result<Acted, Failure> {
        let id = self.disk.volume.want.id.as_str();
        let known = self.journal.volume(id);
        if known.tag_due && known.formatting.is_none() {
            self.tag_as_formatted(id).await?;
            return Ok(Acted::Changed);
        }
        self.launch.must_be_wanted().await?;
        let lock = self.disk.device.lock()?;
        let maker = self.maker().await?;
        // Under the lock, everything is looked at once more.
        let uuid = if let Some(intent) = &known.formatting {
            match self.take_up(id, intent, &maker).await? {
                Resumed::Format(uuid) => uuid,
                Resumed::NotNeeded => return Ok(Acted::Again),
            }
        } else {
            let evidence = match probe(&self.disk.device).await? {
                Verdict::Blank(evidence) => self.may_be_formatted(evidence)?,
                Verdict::Refused { reason, evidence } => return Err(self.not_blank(&reason, &evidence)),
                // Somebody else was faster: the next look finds it.
                Verdict::Filesystem(_) => return Ok(Acted::Again),
            };
            self.intend(id, &evidence).await?
        };
        self.make(id, &maker, &lock, &uuid).await?;
        lock.sync_all().named(format_args!("flushing {}", self.disk.device.path.display()))?;
        self.record_format(id)?;
        let kind = self.disk.volume.want.file_system;
        tracing::info!(step = "filesystem", volume = id, "formatted {} as {kind}", self.disk.device.path.display());
        drop(lock);
        systemd::refresh_device(&self.disk.device.path).await;
        // The tag comes next.
        Ok(Acted::Again)
    }
}

/// What is to be done about a format that was begun.
enum Resumed {
    /// It is begun anew, with this UUID: the disk is blank.
    Format(String),
    /// The disk has its filesystem, or is used by somebody.
    NotNeeded,
}

/// What makes an ext4 of an ext2 or ext3 and can be switched on where files are (tune2fs(8)): the journal for ext2, and what new
/// files are stored with; what is there stays as it is.
const EXT4_FEATURES: &str = "has_journal,extents,dir_index,huge_file,flex_bg,uninit_bg,dir_nlink,extra_isize";

fn is_mounted(device: &Device) -> Result<bool, Failure> {
    Ok(!mount::of_device(device.number)?.is_empty())
}

/// A format that was begun, and the agent ended before mkfs did. The journal says what this agent meant; what is to be done
/// is decided by what is on the disk ([`unfinished`]).
impl MakeFilesystem<'_> {
    async fn look(&self) -> Result<Observed<Found>, Failure> {
        let id = self.disk.volume.want.id.as_str();
        let known = self.journal.volume(id);
        if let Some(intent) = &known.formatting {
            return self.observe_begun(intent).await;
        }
        match probe(&self.disk.device).await? {
            Verdict::Filesystem(found) if found.kind != self.disk.volume.want.file_system.as_str() => {
                Err(self.wrong_filesystem(&found))
            }
            Verdict::Filesystem(_) if known.tag_due => Ok(Observed::Todo("the volume gets its tag".to_owned())),
            Verdict::Filesystem(found) => {
                self.must_be_the_same(&found)?;
                self.must_be_whole(&found).await?;
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
            return Ok(Observed::Todo("a format was begun, and somebody has mounted the result".to_owned()));
        }
        self.must_match(intent)?;
        // An mkfs that outlived its agent is still at work: what is on the disk is for later.
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
            Remnant::Blank(evidence) => format!("{begun}; it is blank: {}", self.may_be_formatted(evidence)?),
            Remnant::Unfinished { evidence, .. } => {
                format!("{begun}; it is what a killed mkfs leaves: {}", self.may_be_formatted(evidence)?)
            }
            Remnant::Complete { found, .. } => {
                format!("{begun}; there is a whole {} (UUID {})", found.kind, found.uuid)
            }
            Remnant::Other { reason, evidence } => return Err(self.not_unfinished(intent, &reason, &evidence)),
        }))
    }

    /// Brings the device to where a format may begin, if it is to.
    async fn take_up(&self, id: &str, intent: &FormatIntent, maker: &Maker) -> Result<Resumed, Failure> {
        if is_mounted(&self.disk.device)? {
            // The filesystem is in use by now, and must never be formatted again.
            self.drop_intent(id).await?;
            return Ok(Resumed::NotNeeded);
        }
        self.must_match(intent)?;
        // Nobody can begin to use the device between the look and the clearing.
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
        // mkfs wants the device for itself.
        drop(exclusive);
        match uuid {
            Some(uuid) => Ok(Resumed::Format(uuid.to_owned())),
            None => self.intend(id, &evidence).await.map(Resumed::Format),
        }
    }

    /// A whole filesystem is used, whoever made it. It counts as formatted by this agent only where it can be the one that was
    /// begun, and nobody has used it: the mount point's new owner would be given everything in it.
    async fn adopt(&self, id: &str, intent: &FormatIntent, found: &Found, unused: bool) -> Result<(), Failure> {
        if unused && intent.uuid.as_ref().is_none_or(|uuid| *uuid == found.uuid) {
            return self.record_format(id);
        }
        let text = format!(
            "a format was begun at {}, but {} holds a whole {} (UUID {}) that was made or used by somebody else: it is used as it is",
            intent.at,
            self.disk.device.path.display(),
            found.kind,
            found.uuid
        );
        self.journal.warn(StepName::Filesystem, Some(id), text);
        self.drop_intent(id).await
    }

    /// The format that was begun is over, in the volume's tag first: the journal is what brings the agent here again.
    async fn drop_intent(&self, id: &str) -> Result<(), Failure> {
        self.ec2.tag(id, &[(FORMATTING, "done")]).await?;
        self.journal.update_volume(id, |volume| volume.formatting = None)
    }

    /// Runs mkfs. One that fails by itself will not do better the next time: the intent is taken back, so that what it has
    /// written is for a person to judge. One that is killed leaves the intent.
    async fn make(&self, id: &str, maker: &Maker, lock: &Locked, uuid: &str) -> Result<(), Failure> {
        let (kind, path) = (self.disk.volume.want.file_system, self.disk.device.path.display());
        let output = match maker.make(&self.disk.device, lock, uuid).await {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) if output.status.code().is_none() => {
                let text = format!("mkfs.{kind} of {path} was killed: {}", output.status);
                return Err(Failure::new(Code::ToolFailed, text).remedy(
                    "find out who killed it (dmesg, out of memory?), then: node-agent retry, which makes the filesystem anew",
                ));
            }
            result => {
                self.journal.update_volume(id, |volume| volume.formatting = None)?;
                result?
            }
        };
        let text = format!("mkfs.{kind} of {path} ended with {}: {}", output.status, command::last_lines(&output));
        Err(Failure::new(Code::ToolFailed, text).remedy(format!(
            "correct what the message says; {path} was blank before, and what mkfs has written goes with: wipefs -a {path} && \
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
            "see what is on {path} and who uses it (lsblk -o +FSTYPE,RO,MOUNTPOINT {path}); to keep a filesystem that is there, \
             mount it by hand ({mount}), which also replays its log; to keep anything else, correct volume.id; only if nothing on \
             it is needed: wipefs -a {path} && blkdiscard -z {path}; then: node-agent retry"
        ))
    }

    fn not_cleared(&self, left: &Remnant) -> Failure {
        let (id, path) = (&self.disk.volume.want.id, self.disk.device.path.display());
        let text = format!("volume {id} ({path}) is not blank although what a killed mkfs left was cleared: {left:?}");
        Failure::new(Code::NotBlank, text)
    }
}

impl MakeFilesystem<'_> {
    /// A launched node goes on with the filesystem that it was launched with.
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

    /// Whether a blank disk may be formatted: it is wanted, and nothing says that there should be data on it.
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
    async fn intend(&self, id: &str, evidence: &Evidence) -> Result<String, Failure> {
        let uuid = host::random_uuid()?;
        let at = time::now();
        let tag = format!("begun {at} by {}", &self.launch.instance.instance_id);
        if !self.ec2.tag(id, &[(FORMATTING, &tag)]).await? {
            let text = "ec2:CreateTags is not allowed: that this agent formatted the volume will be known on this root disk only; allow it in the role's policy";
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

    async fn tag_as_formatted(&self, id: &str) -> Result<(), Failure> {
        let at = self.journal.volume(id).formatted_at.unwrap_or_default();
        let done = format!("{} {at} by {}", self.disk.volume.want.file_system, &self.launch.instance.instance_id);
        self.ec2.tag(id, &[(FORMATTING, "done"), (FORMATTED, &done)]).await?;
        self.journal.update_volume(id, |volume| volume.tag_due = false)
    }

    fn record_format(&self, id: &str) -> Result<(), Failure> {
        self.journal.update_volume(id, |volume| {
            volume.formatting = None;
            volume.formatted_at = Some(time::now());
            volume.tag_due = true;
            volume.ownership_due = true;
        })
    }

    /// Where the journal is lost, the tag of a begun format is all that tells that a filesystem may be half made.
    async fn must_be_whole(&self, found: &Found) -> Result<(), Failure> {
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
                    "volume {id} ({path}) holds an {kind}, a format was {begun}, and whether it is whole cannot be told: {why}"
                );
                return Err(Failure::new(Code::NotBlank, text).remedy(format!(
                    "install what checks it ({}), or mount it by hand if you know it is whole ({mount}); then: node-agent retry",
                    filesystem::package(want.file_system)
                )));
            }
        };
        let text =
            format!("volume {} ({path}) holds an incomplete {}: a format was {begun} ({said})", want.id, found.kind);
        Err(Failure::new(Code::NotBlank, text)
            .remedy(format!("if it is not needed: wipefs -a {path} && blkdiscard -z {path}, then: node-agent retry")))
    }

    /// A format is resumed only on the very device it was begun on.
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
        // Wiping is not enough: what was begun is over once something is mounted.
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
            "see what is on {path} and who uses it (lsblk -o +FSTYPE,RO {path}); only if it is not needed: wipefs -a {path} && \
                 blkdiscard -z {path}, then: node-agent retry"
        ))
    }

    /// mkfs is there, or is installed where the configuration says so.
    async fn maker(&self) -> Result<Maker, Failure> {
        let kind = self.disk.volume.want.file_system;
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
