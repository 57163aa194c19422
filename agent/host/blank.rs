//! Whether a disk is blank: all zero wherever a known filesystem, volume manager or RAID keeps its metadata. Or blank
//! except for the remains of a killed mkfs, which [`super::remains`] recognises.
//!
//! The reads bypass every cache (`O_DIRECT`) and run in a child process of this binary ([`read_stdin`]), because a read that
//! never returns pins its process: EBS sets no timeout on NVMe.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::command::{self, DISK_WATCHDOG};
use super::device::Device;
use super::remains::{KIB, MIB, Remains};
use crate::config::{EXT4, XFS};
use crate::failure::{Code, Failure, Named};

/// The hidden command that makes this binary the reading child.
pub const READER: &str = "read-blank";

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// `O_DIRECT` needs offsets, lengths and memory aligned to the logical block; no disk has larger blocks than this.
const ALIGN: u64 = 4 * KIB;
/// The unit in which the contents are judged; equal to [`ALIGN`].
const BLOCK: usize = 4 << 10;
/// The longest read, in bytes; a multiple of [`ALIGN`].
const PIECE: u64 = 128 * KIB;
/// How many reads are under way at once. There are hundreds, and on EBS each takes about a millisecond.
const READERS: usize = 16;

/// What the reads showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "result")]
pub(crate) enum Reading {
    /// All zero.
    Zero {
        /// Number of regions read.
        regions: usize,
        /// Their total length.
        bytes: u64,
    },
    /// A byte is not zero.
    NonZero {
        /// The offset of the first byte that is not zero.
        offset: u64,
        /// The metadata expected there.
        region: String,
    },
    /// A read failed: the disk is not known to be blank.
    Unreadable { offset: u64, error: String },
}

/// A range of the device and the metadata that could be there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Region {
    offset: u64,
    length: u64,
    purpose: &'static str,
}

impl Region {
    /// The same range in pieces that are read at once.
    fn pieces(&self) -> impl Iterator<Item = Region> + use<> {
        let Region { offset, length, purpose } = *self;
        let starts = (offset..offset + length).step_by(usize::try_from(PIECE).unwrap_or(usize::MAX));
        starts.map(move |start| Region { offset: start, length: PIECE.min(offset + length - start), purpose })
    }
}

/// The contents that count as blank.
#[derive(Clone, Copy, Debug)]
pub enum Allowed<'a> {
    /// Zeros only.
    Nothing,
    /// The remains of the mkfs.xfs whose superblock, marked in progress, is on the disk.
    UnfinishedXfs,
    /// The remains of the mkfs.ext4 that would have written this file, a model of the disk with the same size.
    UnfinishedExt4(&'a File),
}

/// The child's argument for reading only the first 4 KiB; for the [`Allowed`] remains it is the filesystem's name.
const HEAD: &str = "head";

/// The regions of a device of `size` bytes where metadata could be: in ascending order, aligned and within the device.
fn regions(size: u64) -> Vec<Region> {
    let mut regions = Vec::new();
    let mut add = |offset: u64, length: u64, purpose| {
        let start = offset / ALIGN * ALIGN;
        let end = offset.saturating_add(length).min(size);
        if offset < size {
            regions.push(Region { offset: start, length: end - start, purpose });
        }
    };
    add(0, 4 * MIB, "the start of the device");
    add(size.saturating_sub(4 * MIB), 4 * MIB, "the end of the device");
    // ext2/3/4 with sparse_super: backups in groups 0, 1 and the powers of 3, 5 and 7; a group is 8 × block size blocks.
    let powers = |base: u64| std::iter::successors(Some(base), move |power| power.checked_mul(base));
    for block in [KIB, 2 * KIB, 4 * KIB] {
        let first = u64::from(block == KIB);
        for group in [1].into_iter().chain(powers(3)).chain(powers(5)).chain(powers(7)) {
            let offset = (group.saturating_mul(8 * block).saturating_add(first)).saturating_mul(block);
            add(offset, ALIGN, "ext4's backup superblock");
        }
    }
    // XFS: four groups up to 4 TiB, above that groups of almost 1 TiB; newer versions make more groups on more processors.
    // Rounding to blocks and stripes shifts the headers a little.
    for groups in [4, 8, 16, 32] {
        for group in 1..groups {
            add((size / groups * group).saturating_sub(32 * KIB), 64 * KIB, "XFS's allocation group header");
        }
    }
    // The largest group is one block short of 1 TiB (`XFS_AG_MAX_BLOCKS`).
    for group in 1..=size.div_ceil(TIB) {
        add((group * (TIB - 4 * KIB)).saturating_sub(32 * KIB), 96 * KIB, "XFS's allocation group header");
    }
    for mirror in [64 * MIB, 256 * GIB, 1 << 50] {
        add(mirror, 4 * KIB, "btrfs's mirror superblock");
    }
    for sample in 0..256 {
        add(size / 256 * sample, ALIGN, "a sample");
    }
    regions.sort_by_key(|region| region.offset);
    regions
}

/// Reads the regions of `device`, which was opened with `O_DIRECT`. Every block that is not zero must be one of the `remains`. Of
/// several findings the first on the device is returned.
fn read_regions(device: &File, size: u64, remains: &Remains) -> Reading {
    let mut regions = regions(size);
    for range in remains.ranges() {
        let (offset, length) = (range.start, range.end.min(size).saturating_sub(range.start));
        regions.push(Region { offset, length, purpose: "where mkfs writes" });
    }
    regions.sort_by_key(|region| region.offset);
    let pieces: Vec<Region> = regions.iter().flat_map(Region::pieces).collect();
    let (next, bytes, first) = (AtomicUsize::new(0), AtomicU64::new(0), Mutex::new(None::<(u64, Reading)>));
    let first = || first.lock().unwrap_or_else(PoisonError::into_inner);
    let read = || {
        let mut memory = vec![0_u8; usize::try_from(PIECE + ALIGN).unwrap_or(usize::MAX)];
        let aligned = memory.as_ptr().align_offset(BLOCK);
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            if first().as_ref().is_some_and(|(offset, _)| *offset < piece.offset) {
                break;
            }
            let against = read_piece(device, piece, &mut memory[aligned..], remains, &bytes).err();
            let mut first = first();
            if let Some(found) = against
                && first.as_ref().is_none_or(|(offset, _)| found.0 < *offset)
            {
                *first = Some(found);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..READERS.min(pieces.len()) {
            scope.spawn(read);
        }
    });
    let zero = Reading::Zero { regions: regions.len(), bytes: bytes.load(Ordering::Relaxed) };
    first().take().map_or(zero, |(_, against)| against)
}

/// Reads one piece into `memory`, which is aligned. Fails with what speaks against it, and where.
fn read_piece(
    device: &File,
    piece: &Region,
    memory: &mut [u8],
    remains: &Remains,
    bytes: &AtomicU64,
) -> Result<(), (u64, Reading)> {
    let end = piece.offset + piece.length;
    let mut offset = piece.offset;
    let unreadable = |offset, error| Err((offset, Reading::Unreadable { offset, error }));
    while offset < end {
        // A device's size need not be a multiple of the alignment: the device's end cuts the last read short.
        let want = (end - offset).next_multiple_of(ALIGN);
        let buffer = &mut memory[..usize::try_from(want).unwrap_or(usize::MAX)];
        let got = match device.read_at(buffer, offset) {
            Ok(0) => return unreadable(offset, "the device ends before its size".to_owned()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return unreadable(offset, error.to_string()),
        };
        for (block, start) in buffer[..got].chunks(BLOCK).zip((offset..).step_by(BLOCK)) {
            if let Some(at) = block.iter().position(|byte| *byte != 0)
                && !remains.explain(start, block)
            {
                let offset = start + at as u64;
                return Err((offset, Reading::NonZero { offset, region: piece.purpose.to_owned() }));
            }
        }
        bytes.fetch_add(got as u64, Ordering::Relaxed);
        offset += got as u64;
    }
    Ok(())
}

/// The child process: reads the device on its standard input and prints a `Reading`. `arguments`: `HEAD`, or the name of
/// the allowed filesystem and, for ext4, the path of the model.
pub fn read_stdin(arguments: &[String]) -> io::Result<()> {
    // Reopening gives a descriptor with its own flags; the path through /proc leads to the same device.
    let mut device = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECT.bits()).open("/proc/self/fd/0")?;
    let size = device.seek(SeekFrom::End(0))?;
    let remains = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Remains::None,
        [HEAD] => return io::stdout().write_all(&read_head(&device)?),
        [XFS] => Remains::of_xfs(&read_head(&device)?, size),
        [EXT4, model] => Remains::of_ext4(File::open(model)?)?,
        _ => return Err(io::Error::other("unknown arguments")),
    };
    writeln!(io::stdout(), "{}", serde_json::to_string(&read_regions(&device, size, &remains))?)
}

/// The first 4 KiB of a device that was opened with `O_DIRECT`.
fn read_head(device: &File) -> io::Result<Vec<u8>> {
    let mut memory = vec![0; 2 * BLOCK];
    let aligned = memory.as_ptr().align_offset(BLOCK);
    let head = &mut memory[aligned..aligned + BLOCK];
    let got = device.read_at(head, 0)?;
    Ok(head[..got].to_vec())
}

/// Reads `device` in a child process that must finish within [`DISK_WATCHDOG`].
pub(crate) async fn read(device: &Device, allowed: Allowed<'_>) -> Result<Reading, Failure> {
    let arguments = match allowed {
        Allowed::Nothing => vec![],
        Allowed::UnfinishedXfs => vec![XFS.to_owned()],
        Allowed::UnfinishedExt4(model) => {
            vec![EXT4.to_owned(), format!("/proc/{}/fd/{}", std::process::id(), model.as_raw_fd())]
        }
    };
    let output = run_reader(device, &arguments).await?;
    serde_json::from_slice(&output.stdout).map_err(|_| reader_failed(device, &output))
}

/// The first 4 KiB of `device`, also read by a child process with a watchdog.
pub async fn head(device: &Device) -> Result<Vec<u8>, Failure> {
    let output = run_reader(device, &[HEAD.to_owned()]).await?;
    if output.status.success() && !output.stdout.is_empty() {
        return Ok(output.stdout);
    }
    Err(reader_failed(device, &output))
}

async fn run_reader(device: &Device, arguments: &[String]) -> Result<Output, Failure> {
    let path = device.path.display();
    let stdin = device.file().try_clone().named(format_args!("handing {path} to the process that reads it"))?;
    let child = command::own_program(READER)
        .args(arguments)
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A child that hangs in a read cannot be killed before the read returns; it is left behind.
        .kill_on_drop(true)
        .spawn()
        .named(format_args!("starting the process that reads {path}"))?;
    let Ok(output) = timeout(DISK_WATCHDOG, child.wait_with_output()).await else {
        let text = format!("a read of {path} has not returned for {} s", DISK_WATCHDOG.as_secs());
        return Err(Failure::new(Code::DeviceUnreadable, text));
    };
    output.named(format_args!("the process that reads {path}"))
}

fn reader_failed(device: &Device, output: &Output) -> Failure {
    let mut text = format!("the process that reads {} ended with {}", device.path.display(), output.status);
    let said = String::from_utf8_lossy(&output.stderr);
    if !said.trim().is_empty() {
        let _ = write!(text, ": {}", said.trim());
    }
    Failure::new(Code::DeviceUnreadable, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_regions_are_aligned_and_inside_the_device() {
        for size in [512, 4096, MIB + 512, 300 * MIB, GIB + 12_345 * 512, 5 * TIB] {
            for region in regions(size) {
                assert!(
                    region.offset.is_multiple_of(ALIGN) && region.offset + region.length <= size,
                    "{size}: {region:?}"
                );
            }
        }
    }

    #[test]
    fn of_several_bytes_the_first_is_reported() {
        let size = 64 * MIB;
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        let mut places: Vec<u64> = regions(size).iter().step_by(7).map(|region| region.offset).collect();
        for place in &places {
            file.write_at(&[1], *place).unwrap();
        }
        places.dedup();
        for place in places {
            let seen = read_regions(&file, size, &Remains::None);
            assert!(matches!(seen, Reading::NonZero { offset, .. } if offset == place), "{place}: {seen:?}");
            file.write_at(&[0], place).unwrap();
        }
    }

    #[test]
    fn known_superblocks_are_among_the_regions() {
        let regions = regions(300 * GIB);
        let covered = |offset: u64| regions.iter().any(|at| at.offset <= offset && offset < at.offset + at.length);
        // 1 KiB blocks: group 1 begins at block 8193; 4 KiB blocks: at block 32768.
        assert!(covered(8193 * KIB) && covered(32_768 * 4 * KIB) && covered(3 * 32_768 * 4 * KIB));
        assert!(covered(64 * MIB) && covered(256 * GIB));
        assert!(covered(75 * GIB) && covered(150 * GIB) && covered(225 * GIB));
        assert!(covered(0) && covered(300 * GIB - 1));
    }

    #[test]
    fn one_byte_in_any_region_is_seen_and_a_file_of_zeros_is_zero() {
        let size = 64 * MIB + 512;
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        assert!(matches!(read_regions(&file, size, &Remains::None), Reading::Zero { .. }));
        for region in regions(size).iter().step_by(17) {
            for offset in [region.offset, region.offset + region.length - 1] {
                file.write_at(&[1], offset).unwrap();
                let seen = read_regions(&file, size, &Remains::None);
                assert!(matches!(seen, Reading::NonZero { offset: at, .. } if at == offset), "{offset}: {seen:?}");
                file.write_at(&[0], offset).unwrap();
            }
        }
    }
}
