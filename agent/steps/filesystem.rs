//! `filesystem`: the device has the filesystem; made only where the disk is proven blank.

use std::time::Duration;

use crate::aws::ec2::Ec2;
use crate::config::Format;
use crate::failure::{Code, Failure, Named};
use crate::host::device::Device;
use crate::host::filesystem::{self, Maker};
use crate::host::probe::{Evidence, Found, Verdict, probe};
use crate::host::{mount, systemd};
use crate::journal::{self, FormatIntent, Journal};
use crate::step::{Observed, Step, StepName};
use crate::steps::attach::Attached;
use crate::steps::lifecycle::Launch;

/// Looks at the device, and formats it where that is allowed.
#[derive(Debug)]
pub struct MakeFilesystem<'a> {
    /// Knows of formats begun and completed.
    pub journal: &'a Journal,
    /// EC2, for the volume's tags.
    pub ec2: &'a Ec2,
    /// Whether this instance is still wanted.
    pub launch: &'a Launch<'a>,
    /// This instance's id.
    pub instance_id: &'a str,
    /// The attached volume.
    pub volume: &'a Attached<'a>,
    /// Its device.
    pub device: &'a Device,
    /// `timeouts.volume`
    pub deadline: Duration,
}

impl Step for MakeFilesystem<'_> {
    type Output = Found;

    fn name(&self) -> StepName {
        StepName::Filesystem
    }

    fn subject(&self) -> Option<&str> {
        Some(self.volume.want.id.as_str())
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }

    /// A running mkfs is never cut off.
    fn keeps_own_deadline(&self) -> bool {
        true
    }

    async fn observe(&self) -> Result<Observed<Found>, Failure> {
        let id = self.volume.want.id.as_str();
        let known = self.journal.volume(id);
        if let Some(intent) = &known.formatting {
            if is_mounted(self.device)? {
                return Ok(Observed::Todo("a format was begun, and somebody has mounted the result".to_owned()));
            }
            self.must_match(intent)?;
            return Ok(Observed::Todo(format!("a format begun at {} was not completed", intent.at)));
        }
        match probe(self.device).await? {
            Verdict::Filesystem(found) if found.kind != self.volume.want.file_system.as_str() => {
                Err(self.wrong_filesystem(&found))
            }
            Verdict::Filesystem(_) if known.tag_due => Ok(Observed::Todo("the volume gets its tag".to_owned())),
            Verdict::Filesystem(found) => {
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

    async fn act(&self) -> Result<(), Failure> {
        let id = self.volume.want.id.as_str();
        let known = self.journal.volume(id);
        if known.tag_due && known.formatting.is_none() {
            return self.tag_as_formatted(id).await;
        }
        self.launch.must_be_wanted().await?;
        let Some(lock) = self.device.lock()? else {
            let text = format!("{} is locked by another process", self.device.path.display());
            return Err(Failure::new(Code::DeviceBusy, text));
        };
        // Under the lock, everything is looked at once more.
        if known.formatting.is_some() {
            if is_mounted(self.device)? {
                // Whatever is there is in use by now: never to be formatted again.
                return self.journal.update_volume(id, |volume| volume.formatting = None);
            }
            if self.is_complete().await? {
                return self.record_format(id);
            }
        } else {
            let evidence = match probe(self.device).await? {
                Verdict::Blank(evidence) => self.may_be_formatted(evidence)?,
                Verdict::Refused { reason, evidence } => return Err(self.not_blank(&reason, &evidence)),
                // Somebody else was faster: the next look finds it.
                Verdict::Filesystem(_) => return Ok(()),
            };
            self.intend(id, &evidence).await?;
        }
        let maker = self.maker().await?;
        maker.make(self.device, &lock).await?;
        lock.sync_all().named(format_args!("flushing {}", self.device.path.display()))?;
        self.record_format(id)?;
        let kind = self.volume.want.file_system;
        tracing::info!(step = "filesystem", volume = id, "formatted {} as {kind}", self.device.path.display());
        drop(lock);
        systemd::settle(&self.device.path).await;
        Ok(())
    }
}

/// Tags of a volume. A begun format that was not completed shows to people; a completed one keeps a disk that later looks
/// blank from being formatted again.
const FORMATTING: &str = "node-agent:formatting";
pub(crate) const FORMATTED: &str = "node-agent:formatted";

fn is_mounted(device: &Device) -> Result<bool, Failure> {
    Ok(!mount::of_device(device.number)?.is_empty())
}

impl MakeFilesystem<'_> {
    /// Whether a blank disk may be formatted: it is wanted, and nothing says that there should be data on it.
    fn may_be_formatted(&self, mut evidence: Evidence) -> Result<Evidence, Failure> {
        let want = self.volume.want;
        let unexpected = if want.format == Format::Never {
            Some("format is \"never\"".to_owned())
        } else if let Some(snapshot) = &self.volume.view.snapshot_id {
            Some(format!("it was made from the snapshot {snapshot}"))
        } else if let Some(at) = self.journal.volume(want.id.as_str()).formatted_at {
            Some(format!("this agent formatted it at {at}"))
        } else {
            self.volume.view.tags.get(FORMATTED).map(|tag| format!("its tag {FORMATTED} says: {tag}"))
        };
        if let Some(why) = unexpected {
            let text = format!("volume {} is blank, but {why} ({evidence})", want.id);
            return Err(Failure::new(Code::UnexpectedlyBlank, text).remedy(format!(
                "this may be data loss: check volume.id and the volume's history; only if it is to be empty, make the \
                 filesystem by hand: mkfs.{} {}, then: node-agent retry",
                want.file_system,
                self.device.path.display()
            )));
        }
        evidence.add("made from no snapshot, never formatted by this agent");
        Ok(evidence)
    }

    /// Makes the intent durable before the first write.
    async fn intend(&self, id: &str, evidence: &Evidence) -> Result<(), Failure> {
        // A missing mkfs is found before an intent is left behind.
        self.maker().await?;
        let at = journal::now();
        let tag = format!("begun {at} by {}", self.instance_id);
        if !self.ec2.tag(id, &[(FORMATTING, &tag)]).await? {
            let text = "ec2:CreateTags is not allowed: that this agent formatted the volume will be known on this root disk only; allow it in the role's policy";
            self.journal.warn(StepName::Filesystem, Some(id), text);
        }
        let intent = FormatIntent {
            device: self.device.path.display().to_string(),
            size: self.device.size,
            file_system: self.volume.want.file_system.to_string(),
            evidence: evidence.to_string(),
            at,
        };
        self.journal.update_volume(id, |volume| volume.formatting = Some(intent))
    }

    async fn tag_as_formatted(&self, id: &str) -> Result<(), Failure> {
        let at = self.journal.volume(id).formatted_at.unwrap_or_default();
        let done = format!("{} {at} by {}", self.volume.want.file_system, self.instance_id);
        self.ec2.tag(id, &[(FORMATTING, "done"), (FORMATTED, &done)]).await?;
        self.journal.update_volume(id, |volume| volume.tag_due = false)
    }

    fn record_format(&self, id: &str) -> Result<(), Failure> {
        self.journal.update_volume(id, |volume| {
            volume.formatting = None;
            volume.formatted_at = Some(journal::now());
            volume.tag_due = true;
            volume.ownership_due = true;
        })
    }

    /// Where the journal is lost, the tag of a begun format is all that tells that a filesystem may be half made.
    async fn must_be_whole(&self, found: &Found) -> Result<(), Failure> {
        let want = self.volume.want;
        let begun = self.volume.view.tags.get(FORMATTING).filter(|tag| *tag != "done");
        let Some(begun) = begun else { return Ok(()) };
        if self.journal.volume(want.id.as_str()).formatted_at.is_some()
            || is_mounted(self.device)?
            || filesystem::is_whole(want.file_system, &self.device.path).await?
        {
            return Ok(());
        }
        let path = self.device.path.display();
        let text = format!("volume {} ({path}) holds an incomplete {}: a format was {begun}", want.id, found.kind);
        Err(Failure::new(Code::NotBlank, text)
            .remedy(format!("if it is not needed: wipefs -a {path} && blkdiscard -z {path}, then: node-agent retry")))
    }

    /// Whether the killed mkfs had come to its end after all: a whole filesystem is never made again. Otherwise prepares
    /// the device for another mkfs, if what is on it can be from the one that was killed.
    async fn is_complete(&self) -> Result<bool, Failure> {
        match probe(self.device).await? {
            Verdict::Filesystem(found) if found.kind != self.volume.want.file_system.as_str() => {
                let text = format!(
                    "an {} format of volume {} was begun, but {} holds {} (UUID {}) now",
                    self.volume.want.file_system,
                    self.volume.want.id,
                    self.device.path.display(),
                    found.kind,
                    found.uuid
                );
                let (path, mount) = (self.device.path.display(), self.mount_by_hand());
                Err(Failure::new(Code::NotBlank, text).remedy(format!(
                    "if what is there now is not needed: wipefs -a {path} && blkdiscard -z {path}; to keep it, mount it by \
                     hand ({mount}); then: node-agent retry"
                )))
            }
            Verdict::Blank(_) => Ok(false),
            Verdict::Filesystem(_) if filesystem::is_whole(self.volume.want.file_system, &self.device.path).await? => {
                Ok(true)
            }
            Verdict::Filesystem(_) | Verdict::Refused { .. } => {
                filesystem::clear_unfinished(self.device)?;
                Ok(false)
            }
        }
    }

    /// A format is resumed only on the very device it was begun on.
    fn must_match(&self, intent: &FormatIntent) -> Result<(), Failure> {
        let kind = self.volume.want.file_system.as_str();
        if intent.size == self.device.size && intent.file_system == kind {
            return Ok(());
        }
        let (path, mount) = (self.device.path.display(), self.mount_by_hand());
        let text = format!(
            "an {} format of volume {} with {} bytes was begun at {}, but {path} now has {} bytes and {kind} is configured",
            intent.file_system, self.volume.want.id, intent.size, intent.at, self.device.size,
        );
        // Wiping is not enough: what was begun is over once something is mounted.
        Err(Failure::new(Code::NotBlank, text).remedy(format!(
            "set file_system back to \"{}\" if that is what changed; or, if nothing on the disk is needed: wipefs -a {path} && \
             mkfs.{kind} {path} && {mount}; then: node-agent retry",
            intent.file_system
        )))
    }

    fn mount_by_hand(&self) -> String {
        let place = self.volume.want.mount_path.display();
        format!("mkdir -p {place} && mount {} {place}", self.device.path.display())
    }

    fn wrong_filesystem(&self, found: &Found) -> Failure {
        let want = self.volume.want;
        let (id, path, kind) = (&want.id, self.device.path.display(), &found.kind);
        let text =
            format!("volume {id} ({path}) holds {kind} (UUID {}), configured is {}", found.uuid, want.file_system);
        let failure = Failure::new(Code::WrongFilesystem, text);
        if ["xfs", "ext4"].contains(&kind.as_str()) {
            return failure.remedy(format!(
                "set file_system = \"{kind}\" for {id}, or correct volume.id; the agent never converts or overwrites; then: \
                 node-agent retry"
            ));
        }
        failure.remedy(format!(
            "correct volume.id; only if what is on {path} is not needed: wipefs -a {path} && blkdiscard -z {path}; then: \
             node-agent retry"
        ))
    }

    fn not_blank(&self, reason: &str, evidence: &Evidence) -> Failure {
        let path = self.device.path.display();
        Failure::new(
            Code::NotBlank,
            format!("volume {} ({path}) is not touched: {reason} ({evidence})", self.volume.want.id),
        )
        .remedy(format!(
            "see what is on {path} and who uses it (lsblk -o +FSTYPE,RO {path}); only if it is not needed: wipefs -a {path} && \
                 blkdiscard -z {path}, then: node-agent retry"
        ))
    }

    /// mkfs is there, or is installed where the configuration says so.
    async fn maker(&self) -> Result<Maker, Failure> {
        let kind = self.volume.want.file_system;
        let missing = match Maker::find(kind).await {
            Err(failure) if failure.code == Code::ToolMissing => failure,
            result => return result,
        };
        if !self.volume.want.install_tools {
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
