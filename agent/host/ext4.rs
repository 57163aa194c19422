//! ext4's superblock: `struct ext4_super_block` of the kernel's `fs/ext4/ext4.h`, at byte 1024 of the device.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// In bytes.
const OFFSET: u64 = 1024;
const LENGTH: usize = 1024;
const MAGIC: u16 = 0xef53;

/// A superblock. Fields are read by their offsets; all numbers are little-endian.
pub struct Superblock([u8; LENGTH]);

impl Superblock {
    /// Reads from a device or an image, through the page cache, which a mounted filesystem keeps up to date.
    pub fn read(device: &File) -> io::Result<Self> {
        let mut superblock = Superblock([0; LENGTH]);
        device.read_exact_at(&mut superblock.0, OFFSET)?;
        superblock.checked().ok_or_else(|| io::Error::other("no ext4 superblock"))
    }

    /// The superblock in the first 4 KiB of a disk; none without ext2, ext3 or ext4.
    pub fn in_head(head: &[u8]) -> Option<Self> {
        let start = usize::try_from(OFFSET).ok()?;
        Superblock(head.get(start..start + LENGTH)?.try_into().ok()?).checked()
    }

    fn checked(self) -> Option<Self> {
        (self.short(0x38) == MAGIC).then_some(self)
    }

    /// The byte at this offset.
    pub fn byte(&self, at: usize) -> u8 {
        self.0[at]
    }

    /// The 16 bits at this offset.
    pub fn short(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    /// The 32 bits at this offset.
    pub fn word(&self, at: usize) -> u32 {
        u32::from(self.short(at + 2)) << 16 | u32::from(self.short(at))
    }

    /// The size of a block, in bytes.
    pub fn block_size(&self) -> u64 {
        1024 << self.word(0x18).min(6)
    }

    /// The filesystem's UUID.
    pub fn uuid(&self) -> [u8; 16] {
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&self.0[0x68..0x78]);
        uuid
    }

    /// A superblock with these words and zeros elsewhere.
    #[cfg(test)]
    pub fn with(words: &[(usize, u32)]) -> Option<Self> {
        let mut superblock = Superblock([0; LENGTH]);
        for (at, word) in words {
            superblock.0[*at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        superblock.checked()
    }
}
