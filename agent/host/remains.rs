//! Recognises the remains of a killed mkfs by the blocks that mkfs writes. The process that reads the disk ([`super::blank`])
//! compares the blocks; [`super::unfinished`] draws the conclusion.
//!
//! XFS and ext4 are in one file: what may be cleared, and in which order, is one promise about both.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::unistd::{Whence, lseek64};

use super::ext4::Superblock;

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
/// The unit of comparison: the model's page size and the alignment of direct reads.
const BLOCK: u64 = 4 * KIB;

/// The ranges that a mkfs writes, in the order in which they are cleared: if the clearing is interrupted, the rest is still
/// recognised as unfinished.
pub struct Traces {
    /// Cleared and flushed before the others.
    pub(super) first: Vec<Range<u64>>,
    /// The others.
    pub(super) then: Vec<Range<u64>>,
}

/// The remains of a killed mkfs that a disk may have.
pub enum Remains {
    /// Zeros only.
    None,
    /// Blocks with this UUID, in these ranges.
    Xfs {
        /// Where mkfs.xfs writes.
        ranges: Vec<Range<u64>>,
        /// The filesystem's UUID.
        uuid: [u8; 16],
    },
    /// Parts of this model.
    Ext4(Model),
}

impl Remains {
    /// The remains that the superblock at the head of the device declares; none unless it is marked in progress.
    pub fn of_xfs(head: &[u8], size: u64) -> Remains {
        match XfsSuperblock::parse(head, size) {
            Some(superblock) if superblock.in_progress => {
                Remains::Xfs { ranges: superblock.ranges(size), uuid: superblock.uuid }
            }
            _ => Remains::None,
        }
    }

    /// The remains that this model file contains.
    pub fn of_ext4(model: File) -> io::Result<Remains> {
        Model::read(model).map(Remains::Ext4)
    }

    /// The ranges that can have remains.
    pub fn ranges(&self) -> &[Range<u64>] {
        match self {
            Remains::None => &[],
            Remains::Xfs { ranges, .. } => ranges,
            Remains::Ext4(model) => &model.ranges,
        }
    }

    /// Whether mkfs can have written this block of the disk.
    pub fn explain(&self, offset: u64, block: &[u8]) -> bool {
        match self {
            Remains::None => false,
            Remains::Xfs { ranges, uuid } => {
                ranges.iter().any(|range| range.contains(&offset))
                    && XFS_BLOCKS.iter().any(|magic| block.starts_with(magic))
                    && block.windows(uuid.len()).any(|bytes| bytes == uuid)
            }
            Remains::Ext4(model) => model.explains(offset, block),
        }
    }

    /// ext4's superblock goes first: the model recognises the rest without it.
    pub(super) fn traces(&self) -> Traces {
        let (first, then) = self.ranges().iter().cloned().partition(|range| range.start == 0);
        Traces { first, then }
    }
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset + N)?.try_into().ok()
}

/// The magic numbers of the blocks that mkfs.xfs writes (Linux, `fs/xfs/libxfs/xfs_format.h` and `xfs_log_format.h`): the four headers of a
/// group, the roots of its trees by block, size, inode, free inode, owner and reference, inodes, and the log's record.
const XFS_BLOCKS: [&[u8]; 12] =
    [b"XFSB", b"XAGF", b"XAGI", b"XAFL", b"AB3B", b"AB3C", b"IAB3", b"FIB3", b"RMB3", b"R3FC", b"IN", XFS_LOG];
const XFS_LOG: &[u8] = b"\xfe\xed\xba\xbe";

/// The most inodes that mkfs.xfs itself uses: three (root, bitmap and summary of the realtime section), in newer versions a few
/// more.
pub(super) const XFS_OWN_INODES: u64 = 16;

/// XFS's superblock (Linux, `fs/xfs/libxfs/xfs_format.h`, `struct xfs_dsb`).
pub(super) struct XfsSuperblock {
    uuid: [u8; 16],
    pub(super) in_progress: bool,
    pub(super) used_inodes: u64,
    block_size: u64,
    group_blocks: u64,
    groups: u64,
    log: u64,
}

impl XfsSuperblock {
    /// None without a superblock of the present format (version 5) or if its numbers do not fit the device.
    pub(super) fn parse(head: &[u8], size: u64) -> Option<XfsSuperblock> {
        let u32_at = |offset| at(head, offset).map(u32::from_be_bytes).map(u64::from);
        let u64_at = |offset| at(head, offset).map(u64::from_be_bytes);
        let version = u16::from_be_bytes(at(head, 100)?);
        let (block_size, group_blocks, groups) = (u32_at(4)?, u32_at(84)?, u32_at(88)?);
        let group_bits = u32::from(*head.get(124)?);
        let log = u64_at(48)?;
        let sane = head.starts_with(b"XFSB")
            && version & 0xf == 5
            && (512..=64 * KIB).contains(&block_size)
            && group_blocks > 0
            && group_bits < 32
            // Only the last group can be smaller than 16 MiB.
            && (1..=size / (16 * MIB) + 1).contains(&groups)
            && u64_at(8)?.checked_mul(block_size).is_some_and(|bytes| bytes <= size && size - bytes < block_size.max(BLOCK));
        if !sane {
            return None;
        }
        let (log_group, log_block) = (log >> group_bits, log & ((1 << group_bits) - 1));
        Some(XfsSuperblock {
            uuid: at(head, 32)?,
            in_progress: *head.get(126)? != 0,
            used_inodes: u64_at(128)?.saturating_sub(u64_at(136)?),
            block_size,
            group_blocks,
            groups,
            log: log_group.saturating_mul(group_blocks).saturating_add(log_block).saturating_mul(block_size),
        })
    }

    /// The ranges in which mkfs.xfs writes more than zeros: headers, the roots of the trees and the free list at the head of each group,
    /// the log's first record, and in the first group the first inodes, aligned to a stripe.
    fn ranges(&self, size: u64) -> Vec<Range<u64>> {
        let group = |number: u64| number.saturating_mul(self.group_blocks).saturating_mul(self.block_size);
        let heads = (1..self.groups).map(group).chain([self.log]).map(|start| {
            let start = start / BLOCK * BLOCK;
            start..start.saturating_add(32 * self.block_size.max(BLOCK)).min(size)
        });
        let ranges = [0..BLOCK, BLOCK..(4 * MIB).min(size)].into_iter().chain(heads);
        ranges.filter(|range| range.start < range.end).collect()
    }

    /// The superblock, which marks the format as unfinished, goes last.
    pub(super) fn traces(&self, size: u64) -> Traces {
        let (then, first) = self.ranges(size).into_iter().partition(|range| range.start == 0);
        Traces { first, then }
    }
}

/// The fields of ext4's superblock that show the filesystem's use; times in seconds since 1970.
pub(super) struct Ext4Superblock {
    used_inodes: u32,
    first_inode: u32,
    mounts: u16,
    mounted: u32,
    written: u32,
    made: u32,
}

/// The longest time from mke2fs's start to its superblock's write, in seconds; the largest volume takes minutes.
const MAX_MAKING: u32 = 3600;

impl Ext4Superblock {
    pub(super) fn parse(head: &[u8]) -> Option<Ext4Superblock> {
        let superblock = Superblock::in_head(head)?;
        Some(Ext4Superblock {
            used_inodes: superblock.word(0).checked_sub(superblock.word(0x10))?,
            first_inode: superblock.word(0x54),
            mounts: superblock.short(0x34),
            mounted: superblock.word(0x2c),
            written: superblock.word(0x30),
            made: superblock.word(0x108),
        })
    }

    /// Never mounted, never written since mkfs, and without a file: the first unreserved inode is lost+found.
    pub(super) fn is_untouched(&self) -> bool {
        self.mounts == 0
            && self.mounted == 0
            && (self.made..=self.made.saturating_add(MAX_MAKING)).contains(&self.written)
            && self.used_inodes <= self.first_inode
    }

    pub(super) fn history(&self) -> String {
        format!(
            "mounted {} times, last at {}; written last at {}, made at {} (seconds since 1970); {} inodes are in use",
            self.mounts, self.mounted, self.written, self.made, self.used_inodes
        )
    }
}

/// The blocks that mke2fs would have written, and the words in them that differ between two runs of the same mke2fs.
pub struct Model {
    file: File,
    /// The file's ranges with data.
    ranges: Vec<Range<u64>>,
    uuid: [u8; 16],
    /// The range of the reserved inodes.
    inodes: Range<u64>,
    inode_size: u64,
}

/// Offsets of a superblock's words that differ between runs: times of writing, check and making, the seed of the directories'
/// hashes, the checksum; and the stripe, which a device reports and a file does not.
const SUPERBLOCK_VARIES: &[u64] = &[0x30, 0x40, 0xec, 0xf0, 0xf4, 0xf8, 0x108, 0x164, 0x170, 0x274, 0x278, 0x3fc];
/// The same of an inode: its times and its checksum; the counts of links and blocks grow while mke2fs runs.
const INODE_VARIES: &[u64] = &[0x8, 0xc, 0x10, 0x18, 0x1c, 0x7c, 0x80, 0x84, 0x88, 0x8c, 0x90, 0x94];

impl Model {
    fn read(file: File) -> io::Result<Model> {
        let superblock = Superblock::read(&file)?;
        let block_size = superblock.block_size();
        let first_block = u64::from(superblock.word(0x14));
        let (first_inode, inode_size) = (u64::from(superblock.word(0x54)), u64::from(superblock.short(0x58)).max(128));
        // With 64-bit block numbers a descriptor has 64 bytes, but the first group's inodes are always below block 2^32.
        let mut table = [0; 4];
        file.read_exact_at(&mut table, (first_block + 1) * block_size + 8)?;
        let inodes = u64::from(u32::from_le_bytes(table)) * block_size;
        let ranges = data(&file)?;
        Ok(Model {
            file,
            ranges,
            uuid: superblock.uuid(),
            inodes: inodes..inodes + first_inode * inode_size,
            inode_size,
        })
    }

    /// Whether each word of the disk's block is the model's, zero, or may vary.
    fn explains(&self, offset: u64, block: &[u8]) -> bool {
        let mut model = vec![0; block.len()];
        if self.file.read_exact_at(&mut model, offset).is_err() {
            return false;
        }
        block.chunks(4).zip(model.chunks(4)).zip((0..).step_by(4)).all(|((word, modelled), place)| {
            word == modelled || word.iter().all(|byte| *byte == 0) || self.varies(offset, place, block, &model)
        })
    }

    /// Whether this word of a block may differ. Only inside a superblock or the reserved inodes, whose identifying fields must be
    /// the model's: a word alone identifies nothing.
    fn varies(&self, offset: u64, place: u64, block: &[u8], model: &[u8]) -> bool {
        let same = |at: u64, length: usize| {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let part = at..at.saturating_add(length);
            matches!((block.get(part.clone()), model.get(part)), (Some(this), Some(that)) if this == that)
        };
        let place_on_disk = offset + place;
        if self.inodes.contains(&place_on_disk) {
            // The root directory's type and permissions; its inode is the second.
            let root = self.inodes.start + self.inode_size;
            let is_table = root >= offset && same(root - offset, 4);
            return is_table && INODE_VARIES.contains(&((place_on_disk - self.inodes.start) % self.inode_size));
        }
        // A superblock, the primary or a backup, begins at a whole KiB.
        let start = place / KIB * KIB;
        let (magic, uuid) = (start + 0x38, start + 0x68);
        let is_superblock = at(model, usize::try_from(magic).unwrap_or(usize::MAX)) == Some([0x53, 0xef])
            && at(model, usize::try_from(uuid).unwrap_or(usize::MAX)) == Some(self.uuid)
            && same(magic, 2)
            && same(uuid, self.uuid.len());
        is_superblock && SUPERBLOCK_VARIES.contains(&(place % KIB))
    }
}

/// The ranges of a sparse file that have data.
fn data(file: &File) -> io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut offset = 0;
    // After the last data lseek64 fails with ENXIO.
    while let Ok(start) = lseek64(file, offset, Whence::SeekData) {
        let end = lseek64(file, start, Whence::SeekHole)?;
        let number = |offset: i64| u64::try_from(offset).map_err(io::Error::other);
        let (start, stop) = (number(start)? / BLOCK * BLOCK, number(end)?.next_multiple_of(BLOCK));
        // A range of its own for the first block, because the superblock is cleared separately.
        if start == 0 {
            ranges.push(0..BLOCK);
        }
        ranges.push(start.max(BLOCK)..stop);
        offset = end;
    }
    Ok(ranges.into_iter().filter(|range| range.start < range.end).collect())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const UUID: &str = "0f1e2d3c-4b5a-4697-8877-665544332211";

    /// A file of this size, formatted by mke2fs.
    fn made(size: u64) -> File {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        let options = "-q -F -t ext4 -E nodiscard,lazy_itable_init=1,lazy_journal_init=1 -U";
        let output = Command::new("mke2fs").args(options.split(' ')).arg(UUID).arg(file.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        file.into_file()
    }

    fn blocks(file: &File) -> Vec<(u64, Vec<u8>)> {
        let starts = data(file).unwrap().into_iter().flat_map(|range| range.step_by(4096));
        let read = |start| {
            let mut block = vec![0; 4096];
            file.read_exact_at(&mut block, start).unwrap();
            (start, block)
        };
        // Written zeros do not count.
        starts.map(read).filter(|(_, block)| *block != [0; 4096]).collect()
    }

    #[test]
    fn every_block_of_another_run_of_the_same_mke2fs_is_the_models() {
        for size in [100 * MIB, 1 << 30, 3 << 30] {
            let remains = Remains::of_ext4(made(size)).unwrap();
            // The times have a resolution of seconds.
            std::thread::sleep(std::time::Duration::from_millis(1100));
            for (offset, block) in blocks(&made(size)) {
                assert!(remains.explain(offset, &block), "{offset} of {size}");
                for half in [0..2048, 2048..4096] {
                    let mut torn = block.clone();
                    torn[half].fill(0);
                    // Half of an inode table's block cannot be identified, unless it is zero.
                    let explained = remains.explain(offset, &torn);
                    assert!(explained || offset == 0 || size < 512 * MIB || block[..4] == [0; 4], "{offset} of {size}");
                }
            }
        }
    }

    #[test]
    fn one_word_that_mke2fs_did_not_write_is_seen_in_any_of_its_blocks() {
        let file = made(1 << 30);
        let remains = Remains::of_ext4(file.try_clone().unwrap()).unwrap();
        let mut varying = 0;
        // Without the blocks reserved for growing, copies that differ in one number.
        let reserved = 12 * KIB..512 * KIB;
        for (offset, block) in blocks(&file).into_iter().filter(|(offset, _)| !reserved.contains(offset)) {
            for place in (0..4096).step_by(4) {
                let mut other = block.clone();
                other[place] ^= 0x5a;
                if other[place..place + 4] != [0; 4] {
                    varying += usize::from(remains.explain(offset, &other));
                }
                // The same word alone on a blank disk is not mke2fs's.
                let mut alone = vec![0; 4096];
                alone[place..place + 4].copy_from_slice(b"XFSB");
                assert!(!remains.explain(offset, &alone), "{place} of {offset}");
            }
        }
        // Twelve words of a superblock and of an inode: 5 superblocks, 11 inodes.
        assert_eq!(varying, 12 * (5 + 11));
        assert!(!remains.explain(512 * MIB + 12 * MIB, &[1; 4096]));
    }

    #[test]
    fn an_xfs_in_progress_is_distinguished_from_any_other() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 30).unwrap();
        let output = Command::new("mkfs.xfs").arg("-q").arg(file.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut head = vec![0; 4096];
        file.as_file().read_exact_at(&mut head, 0).unwrap();
        assert!(matches!(Remains::of_xfs(&head, 1 << 30), Remains::None));
        head[126] = 1;
        let remains = Remains::of_xfs(&head, 1 << 30);
        for (offset, block) in blocks(file.as_file()) {
            assert!(remains.explain(offset, &block), "{offset}");
            let mut other = block.clone();
            other[..4].copy_from_slice(b"text");
            assert!(!remains.explain(offset, &other), "{offset}");
        }
        assert!(!remains.explain(400 * MIB, &head));
        // A superblock that belongs to a disk of another size.
        assert!(matches!(Remains::of_xfs(&head, 2 << 30), Remains::None));
        for length in 0..head.len().min(300) {
            assert!(matches!(Remains::of_xfs(&head[..length], 1 << 30), Remains::None) || length > 143);
        }
    }

    #[test]
    fn a_superblock_with_nonsensical_numbers_is_rejected() {
        for byte in [0, 0x7f, 0xff] {
            let mut head = vec![byte; 4096];
            head[..4].copy_from_slice(b"XFSB");
            head[100..102].copy_from_slice(&[0xb4, 0xa5]);
            assert!(matches!(Remains::of_xfs(&head, 1 << 30), Remains::None));
            head[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
            assert!(Ext4Superblock::parse(&head).is_none_or(|superblock| superblock.used_inodes == 0));
        }
    }
}
