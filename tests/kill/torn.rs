//! What a mkfs that was cut off may leave on a disk: any part of what it would have written.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Whence, lseek};

use crate::fixture::{Fixture, Random};
use crate::trace;

const BLOCK: usize = 4096;

/// A block that is not all zero, and where it is.
pub(crate) type Block = (u64, Vec<u8>);

/// Which part was written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Torn {
    /// The first blocks, this many of a hundred.
    Beginning(usize),
    /// All but what lies last.
    AllButTheLast,
    /// All but the primary superblock, which mke2fs writes last.
    AllButTheFirst,
    /// The primary superblock alone.
    OnlyTheFirst,
    /// Everything, but XFS's superblock still says that mkfs is at work.
    InProgress,
    /// Blocks drawn from a seed, about half of them: a cache writes them back in any order.
    Some(u64),
}

impl Torn {
    fn part(self, whole: Vec<Block>) -> Vec<Block> {
        let count = whole.len();
        match self {
            Torn::Beginning(percent) => whole.into_iter().take((count * percent).div_ceil(100)).collect(),
            Torn::AllButTheLast => whole.into_iter().take(count - 1).collect(),
            Torn::AllButTheFirst => whole.into_iter().skip(1).collect(),
            Torn::OnlyTheFirst => whole.into_iter().take(1).collect(),
            Torn::InProgress => whole.into_iter().map(in_progress).collect(),
            Torn::Some(seed) => {
                let mut random = Random::new(seed);
                whole.into_iter().filter(|_| random.below(2) == 0).collect()
            }
        }
    }
}

/// The blocks of a file or device that are not all zero.
pub(crate) fn blocks(path: &Path) -> Vec<Block> {
    let file = File::open(path).unwrap();
    let mut blocks = Vec::new();
    let mut offset = 0;
    // Where nothing was ever written, nothing needs to be read.
    while let Ok(data) = lseek(&file, offset, Whence::SeekData) {
        offset = data;
        let end = lseek(&file, data, Whence::SeekHole).unwrap();
        while offset < end {
            let mut block = vec![0; BLOCK];
            let at = u64::try_from(offset).unwrap();
            file.read_exact_at(&mut block, at).unwrap();
            if block != [0; BLOCK] {
                blocks.push((at, block));
            }
            offset += i64::try_from(BLOCK).unwrap();
        }
    }
    blocks
}

/// The point at which a mkfs is killed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KillPoint {
    /// Right before the write with this number.
    pub(crate) write: usize,
    /// In the midst of it: half of its sectors are on the disk.
    pub(crate) halfway: bool,
    /// With half of what it has written, drawn from this seed: a power cut, and the cache had not written that back.
    pub(crate) lost: Option<u64>,
}

/// Runs the mkfs that is held before its work, and kills it. False if it came to its end before.
pub(crate) fn kill_held_mkfs(fixture: &Fixture, instant: KillPoint) -> bool {
    let log = fixture.lines(&format!("/var/log/mkfs.{}", fixture.file_system));
    let arguments: Vec<_> = log.last().unwrap().split(' ').skip(1).collect();
    kill_mkfs(fixture, &arguments, instant)
}

/// Runs the real mkfs with these arguments, the device last, and kills it. False if it came to its end before.
pub(crate) fn kill_mkfs(fixture: &Fixture, arguments: &[&str], instant: KillPoint) -> bool {
    let program = Path::new("/usr/sbin").join(format!("mkfs.{}", fixture.file_system));
    // The file below the device: it knows where it has data.
    let disk = fixture.world.sim.volume_state(&fixture.volume).unwrap().backing_file;
    let killed = trace::kill_before_write(&program, arguments, instant.write, instant.halfway);
    let device = OpenOptions::new().write(true).open(arguments.last().unwrap()).unwrap();
    device.sync_all().unwrap();
    if let Some(seed) = instant.lost {
        let mut random = Random::new(seed);
        for (offset, _) in blocks(&disk) {
            if random.below(2) == 0 {
                device.write_all_at(&[0; BLOCK], offset).unwrap();
            }
        }
        device.sync_all().unwrap();
    }
    killed
}

/// Writes a part of what the mkfs that is held before its work would write.
pub(crate) fn write(fixture: &Fixture, torn: Torn) {
    let program = format!("mkfs.{}", fixture.file_system);
    let log = fixture.lines(&format!("/var/log/{program}"));
    let mut arguments: Vec<_> = log.last().unwrap().split(' ').skip(1).collect();
    let device = arguments.pop().unwrap();
    let model = fixture.world.dir().join("model");
    File::create(&model).unwrap().set_len(1 << 30).unwrap();
    assert!(Command::new(&program).args(&arguments).arg(&model).status().unwrap().success());
    let device = OpenOptions::new().write(true).open(device).unwrap();
    for (offset, block) in torn.part(blocks(&model)) {
        device.write_all_at(&block, offset).unwrap();
    }
    device.sync_all().unwrap();
}

/// `sb_inprogress` is at 126, the checksum of the sector at 224 (`fs/xfs/libxfs/xfs_format.h`).
fn in_progress((offset, mut block): Block) -> Block {
    if offset == 0 {
        assert_eq!(&block[..4], b"XFSB");
        block[126] = 1;
        block[224..228].fill(0);
        let sum = crc32c(&block[..512]);
        block[224..228].copy_from_slice(&sum.to_le_bytes());
    }
    (offset, block)
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 })
    })
}
