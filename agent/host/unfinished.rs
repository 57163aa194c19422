//! Distinguishes the remains of a killed mkfs from everything else that can be on a disk.
//!
//! A recorded begin of a format does not prove what is on the disk: it may have been partitioned, encrypted or filled since. Only
//! a disk with provably nothing but that mkfs's remains is cleared and formatted again. The proof relies on the two programs'
//! behaviour (traced: xfsprogs 6.1, e2fsprogs 1.47); remains of a version that behaves differently are not recognised and refused.
//!
//! - `mkfs.xfs` writes directly (`O_DIRECT`) and in order. Its first write that is not zero is the superblock, marked in
//!   progress; its last one clears the mark. A killed mkfs leaves a blank disk or that mark. Everything else it writes is at
//!   the heads of the allocation groups and of the log, and each of those blocks has the filesystem's UUID.
//! - `mke2fs` writes the primary superblock last, after a flush. A killed mkfs leaves no signature, and any part of the rest,
//!   because the cache is written back in any order. The contents depend on the version and its mke2fs.conf; the same program is
//!   therefore run with the same options and UUID on a sparse file of the same size in memory, the *model*. Each word of the
//!   disk must be the model's or zero, except for times, checksums over times, and random seeds. The model of 1 TiB has 16 MB,
//!   that of 16 TiB 250 MB, almost all of it copies of the group descriptors.
//!
//! Everywhere else, and everywhere after clearing, the disk must be as blank as before a first format ([`super::blank`]).

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::blank::{self, Allowed, Reading};
use super::device::Device;
use super::filesystem::{self, Maker, Soundness};
use super::probe::{self, Check, Evidence, Found, UNRECOGNISED};
use super::remains::{Ext4Superblock, Remains, Traces, XFS_OWN_INODES, XfsSuperblock};
use crate::config::FileSystemType;
use crate::failure::{Code, Failure, Named};

/// The contents of a disk on which a format was begun.
pub(crate) enum Remnant {
    /// Blank: mkfs wrote nothing, or its remains were cleared.
    Blank(Evidence),
    /// The remains of a killed mkfs, and nothing else.
    Unfinished {
        evidence: Evidence,
        /// The ranges that mkfs writes.
        traces: Traces,
    },
    /// A complete filesystem of the type.
    Complete {
        found: Found,
        /// Whether it has no files and, as far as it shows, was never mounted.
        unused: bool,
    },
    /// Anything else: not to be touched.
    Other {
        /// In a few words.
        reason: String,
        /// The observations, the last one against it.
        evidence: Evidence,
    },
}

/// Inspects a device that `maker` began to format, with this UUID if it is known. Nothing is written.
pub(crate) async fn inspect(device: &Device, maker: &Maker, uuid: Option<&str>) -> Result<Remnant, Failure> {
    let mut inspection = Inspection { device, maker, uuid, evidence: Evidence::default() };
    let mut found = None;
    for check in [probe::mounts(device)?, probe::uses(device)?, probe::superblocks(device).await?] {
        match check {
            Check::Clear(line) => inspection.evidence.add(line),
            Check::Filesystem(filesystem) => {
                inspection.evidence.add(format!("it holds {} (UUID {})", filesystem.kind, filesystem.uuid));
                found = Some(filesystem);
            }
            Check::Against(reason, line) => return Ok(inspection.other(reason, line)),
        }
    }
    let kind = maker.kind();
    match (found, kind) {
        (Some(found), _) if found.kind != kind.as_str() => {
            let reason = format!("it holds {} (UUID {})", found.kind, found.uuid);
            Ok(inspection.other(reason, "not made by this agent"))
        }
        (Some(found), FileSystemType::Xfs) => inspection.xfs(found).await,
        (Some(found), FileSystemType::Ext4) => inspection.ext4(found).await,
        (None, _) => inspection.no_superblock().await,
    }
}

/// A disk, the format that was begun on it, and what was seen on it so far.
struct Inspection<'a> {
    device: &'a Device,
    maker: &'a Maker,
    uuid: Option<&'a str>,
    evidence: Evidence,
}

impl Inspection<'_> {
    fn other(mut self, reason: impl Into<String>, line: impl Into<String>) -> Remnant {
        self.evidence.add(line);
        Remnant::Other { reason: reason.into(), evidence: self.evidence }
    }

    fn made_by_another(self) -> Remnant {
        self.other("it was made by another mkfs than this agent's", "the UUID is not the begun format's")
    }

    async fn xfs(mut self, found: Found) -> Result<Remnant, Failure> {
        let head = blank::head(self.device).await?;
        let Some(superblock) = XfsSuperblock::parse(&head, self.device.size) else {
            let reason = "its superblock is not one that mkfs.xfs writes";
            return Ok(self.other(reason, "its numbers do not fit the device"));
        };
        // Without a mark of being unfinished: usable if it is complete, else not to be touched.
        if !superblock.in_progress {
            let unused = superblock.used_inodes <= XFS_OWN_INODES;
            return Ok(match filesystem::soundness(FileSystemType::Xfs, self.device).await? {
                Soundness::Sound => Remnant::Complete { found, unused },
                Soundness::Unknown(why) => self.other(UNKNOWN, why),
                Soundness::Unsound(said) => {
                    self.other("it was finished, but is not clean (a dirty log, or damage)", said)
                }
            });
        }
        self.evidence.add("the superblock says that mkfs is in progress");
        if self.uuid.is_some_and(|uuid| uuid != found.uuid) {
            return Ok(self.made_by_another());
        }
        // An unfinished copy by xfs_copy has the same mark.
        if superblock.used_inodes > XFS_OWN_INODES {
            return Ok(self.other("it holds files", format!("{} inodes are in use", superblock.used_inodes)));
        }
        let reading = blank::read(self.device, Allowed::UnfinishedXfs).await?;
        let traces = superblock.traces(self.device.size);
        self.judge(reading, traces)
    }

    async fn ext4(mut self, found: Found) -> Result<Remnant, Failure> {
        let head = blank::head(self.device).await?;
        let Some(superblock) = Ext4Superblock::parse(&head) else {
            let reason = "its superblock is not one that mke2fs writes";
            return Ok(self.other(reason, "its magic number is missing"));
        };
        match filesystem::soundness(FileSystemType::Ext4, self.device).await? {
            Soundness::Sound => return Ok(Remnant::Complete { unused: superblock.is_untouched(), found }),
            Soundness::Unknown(why) => return Ok(self.other(UNKNOWN, why)),
            Soundness::Unsound(said) => self.evidence.add(said),
        }
        if !superblock.is_untouched() {
            return Ok(self.other("it is incomplete or damaged, and was in use", superblock.history()));
        }
        if self.uuid.is_some_and(|uuid| uuid != found.uuid) {
            return Ok(self.made_by_another());
        }
        self.evidence.add("never mounted, and never written since mkfs");
        self.compare_with_model(&found.uuid).await
    }

    async fn no_superblock(mut self) -> Result<Remnant, Failure> {
        let place = match blank::read(self.device, Allowed::Nothing).await? {
            Reading::Zero { regions, bytes } => {
                self.evidence
                    .add(format!("all zero: {bytes} bytes in {regions} regions of {} bytes", self.device.size));
                return Ok(Remnant::Blank(self.evidence));
            }
            Reading::Unreadable { offset, error } => return Err(unreadable(self.device, offset, &error)),
            Reading::NonZero { offset, region } => format!("the byte at {offset} is not zero ({region})"),
        };
        match (self.maker.kind(), self.uuid) {
            (FileSystemType::Ext4, Some(uuid)) => self.compare_with_model(uuid).await,
            // Without a recorded UUID there is nothing to compare with.
            (FileSystemType::Ext4, None) => Ok(self.other("its contents do not show what wrote them", place)),
            (FileSystemType::Xfs, _) => {
                self.evidence.add(place);
                Ok(self.other(UNRECOGNISED, "mkfs.xfs writes its superblock first"))
            }
        }
    }

    /// Compares the disk with the output of the same mkfs.
    async fn compare_with_model(self, uuid: &str) -> Result<Remnant, Failure> {
        let model = self.maker.model(self.device.size, uuid).await?;
        let reading = blank::read(self.device, Allowed::UnfinishedExt4(&model)).await?;
        let traces = Remains::of_ext4(model).named("reading the model of the filesystem")?.traces();
        self.judge(reading, traces)
    }

    fn judge(mut self, reading: Reading, traces: Traces) -> Result<Remnant, Failure> {
        match reading {
            Reading::Zero { regions, bytes } => {
                self.evidence.add(format!("only mkfs's own blocks: {bytes} bytes in {regions} regions"));
                Ok(Remnant::Unfinished { evidence: self.evidence, traces })
            }
            Reading::NonZero { offset, region } => {
                let line = format!("the byte at {offset} is not zero, and not what mkfs writes there ({region})");
                Ok(self.other("not all that is on it was written by mkfs", line))
            }
            Reading::Unreadable { offset, error } => Err(unreadable(self.device, offset, &error)),
        }
    }
}

const UNKNOWN: &str = "whether it is complete is unknown";

fn unreadable(device: &Device, offset: u64, error: &str) -> Failure {
    let text = format!("{}: reading at {offset}: {error}", device.path.display());
    Failure::new(Code::DeviceUnreadable, text)
}

/// Clears a killed mkfs's remains. `exclusive` was opened by [`Device::exclusive`].
pub fn clear(exclusive: &File, device: &Device, traces: &Traces) -> Result<(), Failure> {
    let what = || format!("clearing the unfinished format of {}", device.path.display());
    let zeros = vec![0; 1 << 20];
    for ranges in [&traces.first, &traces.then] {
        for range in ranges {
            let mut offset = range.start;
            let end = range.end.min(device.size);
            while offset < end {
                let length = usize::try_from(end - offset).unwrap_or(usize::MAX).min(zeros.len());
                exclusive.write_all_at(&zeros[..length], offset).named(what())?;
                offset += length as u64;
            }
        }
        exclusive.sync_all().named(what())?;
    }
    Ok(())
}
