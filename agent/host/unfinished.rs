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
use super::probe::{self, Check, Evidence, Found};
use super::remains::{Ext4Superblock, Remains, Traces, XFS_OWN_INODES, XfsSuperblock};
use crate::config::FileSystemType;
use crate::failure::{Code, Failure, Named};

/// The contents of a disk on which a format was begun.
#[derive(Debug)]
pub enum Remnant {
    /// Blank: mkfs wrote nothing, or its remains were cleared.
    Blank(Evidence),
    /// The remains of a killed mkfs, and nothing else.
    Unfinished {
        /// The observations.
        evidence: Evidence,
        /// The ranges that mkfs writes.
        traces: Traces,
    },
    /// A complete filesystem of the type.
    Complete {
        /// The filesystem.
        found: Found,
        /// Whether it has no files and, as far as it shows, was never mounted.
        unused: bool,
    },
    /// Anything else: not to be touched.
    Other {
        /// The reason in a few words.
        reason: String,
        /// The observations, the last one against it.
        evidence: Evidence,
    },
}

/// Inspects a device that `maker` began to format, with this UUID if it is known. Nothing is written.
pub async fn inspect(device: &Device, maker: &Maker, uuid: Option<&str>) -> Result<Remnant, Failure> {
    let mut evidence = Evidence::default();
    let mut found = None;
    for check in [probe::mounts(device)?, probe::uses(device)?, probe::superblocks(device).await?] {
        match check {
            Check::Clear(line) => evidence.add(line),
            Check::Filesystem(filesystem) => {
                evidence.add(format!("it holds {} (UUID {})", filesystem.kind, filesystem.uuid));
                found = Some(filesystem);
            }
            Check::Against(reason, line) => return Ok(other(reason, evidence, line)),
        }
    }
    let kind = maker.kind();
    match (found, kind) {
        (Some(found), _) if found.kind != kind.as_str() => {
            Ok(other(format!("it holds {} (UUID {})", found.kind, found.uuid), evidence, "not made by this agent"))
        }
        (Some(found), FileSystemType::Xfs) => xfs(device, found, uuid, evidence).await,
        (Some(found), FileSystemType::Ext4) => ext4(device, found, maker, uuid, evidence).await,
        (None, _) => no_superblock(device, maker, uuid, evidence).await,
    }
}

fn other(reason: impl Into<String>, mut evidence: Evidence, line: impl Into<String>) -> Remnant {
    evidence.add(line);
    Remnant::Other { reason: reason.into(), evidence }
}

async fn xfs(device: &Device, found: Found, uuid: Option<&str>, mut evidence: Evidence) -> Result<Remnant, Failure> {
    let head = blank::head(device).await?;
    let Some(superblock) = XfsSuperblock::parse(&head, device.size) else {
        return Ok(other(
            "its superblock is not one that mkfs.xfs writes",
            evidence,
            "its numbers do not fit the device",
        ));
    };
    if !superblock.in_progress {
        return complete_or_other(
            device,
            FileSystemType::Xfs,
            found,
            superblock.used_inodes <= XFS_OWN_INODES,
            evidence,
        )
        .await;
    }
    evidence.add("the superblock says that mkfs is in progress");
    if uuid.is_some_and(|uuid| uuid != found.uuid) {
        return Ok(other(
            "it was made by another mkfs than this agent's",
            evidence,
            "the UUID is not the begun format's",
        ));
    }
    // An unfinished copy by xfs_copy has the same mark.
    if superblock.used_inodes > XFS_OWN_INODES {
        let line = format!("{} inodes are in use", superblock.used_inodes);
        return Ok(other("it holds files", evidence, line));
    }
    let reading = blank::read(device, Allowed::UnfinishedXfs).await?;
    judge(device, reading, superblock.traces(device.size), evidence)
}

async fn ext4(
    device: &Device,
    found: Found,
    maker: &Maker,
    uuid: Option<&str>,
    mut evidence: Evidence,
) -> Result<Remnant, Failure> {
    let head = blank::head(device).await?;
    let Some(superblock) = Ext4Superblock::parse(&head) else {
        return Ok(other("its superblock is not one that mke2fs writes", evidence, "its magic number is missing"));
    };
    let said = match filesystem::soundness(FileSystemType::Ext4, device).await? {
        Soundness::Sound => return Ok(Remnant::Complete { unused: superblock.is_untouched(), found }),
        Soundness::Unknown(why) => return Ok(other("whether it is complete is unknown", evidence, why)),
        Soundness::Unsound(said) => said,
    };
    evidence.add(said);
    if !superblock.is_untouched() {
        return Ok(other("it is incomplete or damaged, and was in use", evidence, superblock.history()));
    }
    if uuid.is_some_and(|uuid| uuid != found.uuid) {
        return Ok(other(
            "it was made by another mkfs than this agent's",
            evidence,
            "the UUID is not the begun format's",
        ));
    }
    evidence.add("never mounted, and never written since mkfs");
    compare_with_model(device, maker, &found.uuid, evidence).await
}

/// A filesystem without a mark of being unfinished: usable if it is complete, else not to be touched.
async fn complete_or_other(
    device: &Device,
    kind: FileSystemType,
    found: Found,
    unused: bool,
    evidence: Evidence,
) -> Result<Remnant, Failure> {
    Ok(match filesystem::soundness(kind, device).await? {
        Soundness::Sound => Remnant::Complete { found, unused },
        Soundness::Unknown(why) => other("whether it is complete is unknown", evidence, why),
        Soundness::Unsound(said) => other("it was finished, but is not clean (a dirty log, or damage)", evidence, said),
    })
}

async fn no_superblock(
    device: &Device,
    maker: &Maker,
    uuid: Option<&str>,
    mut evidence: Evidence,
) -> Result<Remnant, Failure> {
    let place = match blank::read(device, Allowed::Nothing).await? {
        Reading::Zero { regions, bytes } => {
            evidence.add(format!("all zero: {bytes} bytes in {regions} regions of {} bytes", device.size));
            return Ok(Remnant::Blank(evidence));
        }
        Reading::Unreadable { offset, error } => return Err(unreadable(device, offset, &error)),
        Reading::NonZero { offset, region } => format!("the byte at {offset} is not zero ({region})"),
    };
    match (maker.kind(), uuid) {
        (FileSystemType::Ext4, Some(uuid)) => compare_with_model(device, maker, uuid, evidence).await,
        // Without a recorded UUID there is nothing to compare with.
        (FileSystemType::Ext4, None) => Ok(other("its contents do not show what wrote them", evidence, place)),
        (FileSystemType::Xfs, _) => {
            evidence.add(place);
            Ok(other(UNRECOGNISED, evidence, "mkfs.xfs writes its superblock first"))
        }
    }
}

const UNRECOGNISED: &str = "it is not blank, and no known format was recognised on it";

/// Compares the disk with the output of the same mkfs.
async fn compare_with_model(
    device: &Device,
    maker: &Maker,
    uuid: &str,
    evidence: Evidence,
) -> Result<Remnant, Failure> {
    let model = maker.model(device.size, uuid).await?;
    let reading = blank::read(device, Allowed::UnfinishedExt4(&model)).await?;
    let traces = Remains::of_ext4(model).named("reading the model of the filesystem")?.traces();
    judge(device, reading, traces, evidence)
}

fn judge(device: &Device, reading: Reading, traces: Traces, mut evidence: Evidence) -> Result<Remnant, Failure> {
    match reading {
        Reading::Zero { regions, bytes } => {
            evidence.add(format!("only mkfs's own blocks: {bytes} bytes in {regions} regions"));
            Ok(Remnant::Unfinished { evidence, traces })
        }
        Reading::NonZero { offset, region } => {
            let line = format!("the byte at {offset} is not zero, and not what mkfs writes there ({region})");
            Ok(other("not all that is on it was written by mkfs", evidence, line))
        }
        Reading::Unreadable { offset, error } => Err(unreadable(device, offset, &error)),
    }
}

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
