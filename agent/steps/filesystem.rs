//! `filesystem`: the device has the filesystem; made only where the disk is proven blank.

use std::time::Duration;

use crate::config::Format;
use crate::failure::{Code, Failure, Named};
use crate::host::device::Device;
use crate::host::filesystem::{self, Evidence, Found, Verdict};
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
    /// Whether this instance is still wanted.
    pub launch: &'a Launch<'a>,
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
        // Mounted means that it has a filesystem; the kernel knows, and nothing is to be made.
        let mounted = !mount::of_device(self.device.number)?.is_empty();
        let intent = self.journal.volume(id).formatting;
        if let Some(intent) = &intent {
            if mounted {
                return Ok(Observed::Todo("a format was begun, and somebody has mounted the result".to_owned()));
            }
            self.must_match(intent)?;
            return Ok(Observed::Todo(format!("a format begun at {} was not completed", intent.at)));
        }
        match filesystem::probe(self.device).await? {
            Verdict::Filesystem(found) if found.kind == self.volume.want.file_system.as_str() => {
                Ok(Observed::Done(found))
            }
            Verdict::Filesystem(found) => Err(Failure::new(
                Code::WrongFilesystem,
                format!(
                    "volume {id} ({}) holds {} (UUID {}), configured is {}",
                    self.device.path.display(),
                    found.kind,
                    found.uuid,
                    self.volume.want.file_system
                ),
            )),
            Verdict::Blank(evidence) => {
                self.may_be_formatted(&evidence)?;
                Ok(Observed::Todo(format!("volume {id} is blank: {evidence}")))
            }
            Verdict::Refused { reason, evidence } => Err(self.not_blank(&reason, &evidence)),
        }
    }

    async fn act(&self) -> Result<(), Failure> {
        let id = self.volume.want.id.as_str();
        let kind = self.volume.want.file_system;
        self.launch.must_be_wanted().await?;
        let Some(lock) = self.device.lock()? else {
            let text = format!("{} is locked by another process", self.device.path.display());
            return Err(Failure::new(Code::DeviceBusy, text));
        };
        // Under the lock, everything is looked at once more.
        let intent = self.journal.volume(id).formatting.is_some();
        if intent && !mount::of_device(self.device.number)?.is_empty() {
            // Whatever is there is in use by now: never to be formatted again.
            return self.journal.update_volume(id, |volume| volume.formatting = None);
        }
        if let Some(mounted) = mount::of_device(self.device.number)?.first() {
            let text = format!("{} is mounted at {}", self.device.path.display(), mounted.mount_point.display());
            return Err(Failure::new(Code::NotBlank, text));
        }
        if !intent {
            let evidence = match filesystem::probe(self.device).await? {
                Verdict::Blank(evidence) => evidence,
                Verdict::Refused { reason, evidence } => return Err(self.not_blank(&reason, &evidence)),
                // Somebody else was faster: the next look finds it.
                Verdict::Filesystem(_) => return Ok(()),
            };
            self.may_be_formatted(&evidence)?;
            self.tools().await?;
            let intent = FormatIntent {
                device: self.device.path.display().to_string(),
                size: self.device.size,
                file_system: kind.to_string(),
                evidence: evidence.to_string(),
                at: journal::now(),
            };
            self.journal.update_volume(id, |volume| volume.formatting = Some(intent))?;
        }
        filesystem::make(kind, self.device, &lock).await?;
        lock.sync_all().named(format_args!("flushing {}", self.device.path.display()))?;
        self.journal.update_volume(id, |volume| {
            volume.formatting = None;
            volume.formatted_at = Some(journal::now());
            volume.ownership_due = true;
        })?;
        tracing::info!(step = "filesystem", volume = id, "formatted {} as {kind}", self.device.path.display());
        drop(lock);
        systemd::settle(&self.device.path).await
    }
}

impl MakeFilesystem<'_> {
    /// Whether a blank disk may be formatted.
    fn may_be_formatted(&self, evidence: &Evidence) -> Result<(), Failure> {
        let want = self.volume.want;
        let unexpected = |why: String| {
            let text = format!("volume {} is blank, but {why} ({evidence})", want.id);
            Err(Failure::new(Code::UnexpectedlyBlank, text))
        };
        if want.format == Format::Never {
            return unexpected("format is \"never\"".to_owned());
        }
        if let Some(snapshot) = &self.volume.view.snapshot_id {
            return unexpected(format!("it was made from the snapshot {snapshot}"));
        }
        if let Some(at) = self.journal.volume(want.id.as_str()).formatted_at {
            return unexpected(format!("this agent formatted it at {at}"));
        }
        Ok(())
    }

    /// A format is resumed only on the very device it was begun on.
    fn must_match(&self, intent: &FormatIntent) -> Result<(), Failure> {
        let kind = self.volume.want.file_system.as_str();
        if intent.size == self.device.size && intent.file_system == kind {
            return Ok(());
        }
        Err(Failure::new(
            Code::NotBlank,
            format!(
                "an {} format of volume {} with {} bytes was begun at {}, but {} now has {} bytes and {kind} is configured",
                intent.file_system,
                self.volume.want.id,
                intent.size,
                intent.at,
                self.device.path.display(),
                self.device.size,
            ),
        ))
    }

    fn not_blank(&self, reason: &str, evidence: &Evidence) -> Failure {
        let path = self.device.path.display();
        Failure::new(Code::NotBlank, format!("volume {} ({path}) is not touched: {reason} ({evidence})", self.volume.want.id))
            .remedy(format!(
                "find out what is on {path}; only if it is not needed: wipefs -a {path} && blkdiscard -z {path}, then: node-agent retry"
            ))
    }

    /// mkfs is there, or is installed where the configuration says so.
    async fn tools(&self) -> Result<(), Failure> {
        let kind = self.volume.want.file_system;
        match crate::host::command::run(filesystem::maker(kind), &["-V"], None).await {
            Err(missing) if missing.code == Code::ToolMissing => {
                if self.volume.want.install_tools {
                    tracing::info!("{missing}; installing {}", filesystem::package(kind));
                    return filesystem::install_maker(kind).await;
                }
                Err(missing.remedy(format!(
                    "install {} in the image, or set install_tools = true, then: node-agent retry",
                    filesystem::package(kind)
                )))
            }
            result => result.map(drop),
        }
    }
}
