//! Whether a mounted ext4 asks for a check, as its superblock tells: for boots on which nobody else looks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

use super::resize::uuid_text;

/// `struct ext4_super_block` of the kernel's `fs/ext4/ext4.h`, which begins at byte 1024.
const SUPERBLOCK: u64 = 1024;
const MAGIC: u16 = 0xef53;
/// Bits of `s_state`: the filesystem was unmounted cleanly; the kernel met an error.
const VALID: u16 = 1;
const ERROR: u16 = 2;
/// Bit of `s_feature_compat`.
const HAS_JOURNAL: u32 = 4;

/// Why the ext4 on this device, which is mounted, wants to be checked, if it does. Read through the page cache, which the
/// mounted filesystem keeps up to date.
pub fn wants_check(device: &File) -> io::Result<Option<String>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(reason(&read(device)?, now))
}

/// The UUID of the ext4 on this device, as blkid writes it.
pub fn uuid(device: &File) -> io::Result<String> {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&read(device)?[0x68..0x78]);
    Ok(uuid_text(uuid))
}

fn read(device: &File) -> io::Result<[u8; 1024]> {
    let mut superblock = [0; 1024];
    device.read_exact_at(&mut superblock, SUPERBLOCK)?;
    if short(&superblock, 0x38) != MAGIC {
        return Err(io::Error::other("no ext4 superblock"));
    }
    Ok(superblock)
}

/// e2fsck's own rules (`check_if_skip` of its `unix.c`), for a filesystem that is mounted.
fn reason(superblock: &[u8; 1024], now: u64) -> Option<String> {
    let state = short(superblock, 0x3a);
    if state & ERROR != 0 {
        return Some("the kernel met an error in it".to_owned());
    }
    // While one without a journal is mounted, nothing tells whether it was unmounted cleanly before.
    if word(superblock, 0x5c) & HAS_JOURNAL == 0 && state & VALID == 0 {
        return Some("it has no journal and may not have been unmounted cleanly".to_owned());
    }
    // Signed: -1 is never. The mount that lasts was counted already.
    let (count, most) = (short(superblock, 0x34).cast_signed(), short(superblock, 0x36).cast_signed());
    if most > 0 && count > most {
        return Some(format!("it was mounted {count} times since its last check, and {most} are allowed"));
    }
    let (last, interval) = (u64::from(word(superblock, 0x40)), u64::from(word(superblock, 0x44)));
    let last = last | u64::from(superblock[0x277]) << 32;
    if interval > 0 && now.saturating_sub(last) >= interval {
        return Some(format!("its last check was {} days ago", now.saturating_sub(last) / 86_400));
    }
    None
}

fn short(superblock: &[u8; 1024], at: usize) -> u16 {
    u16::from_le_bytes([superblock[at], superblock[at + 1]])
}

fn word(superblock: &[u8; 1024], at: usize) -> u32 {
    u32::from(short(superblock, at + 2)) << 16 | u32::from(short(superblock, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ext4_asks_for_a_check_as_e2fsck_would_make_it() {
        const NOW: u64 = 1_800_000_000;
        let with = |changes: &[(usize, u32)]| {
            let mut superblock = [0; 1024];
            // Clean, with a journal, never to be checked by count or time, last checked an hour ago.
            let sound = [(0x34, 0xffff_0001), (0x38, 0x0001_ef53), (0x40, 1_799_996_400), (0x44, 0), (0x5c, 0x3c)];
            for (at, value) in sound.iter().chain(changes) {
                superblock[*at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            reason(&superblock, NOW)
        };
        assert_eq!(with(&[]), None);
        assert!(with(&[(0x38, 0x0003_ef53)]).unwrap().contains("met an error"));
        assert!(with(&[(0x38, 0x0000_ef53), (0x5c, 0x38)]).unwrap().contains("no journal"));
        assert_eq!(with(&[(0x38, 0x0000_ef53)]), None);
        assert!(with(&[(0x34, 0x0014_0015)]).unwrap().contains("21 times"));
        assert_eq!(with(&[(0x34, 0x0014_0014)]), None);
        assert!(with(&[(0x44, 3_600)]).unwrap().contains("0 days"));
        assert_eq!(with(&[(0x44, 3_601)]), None);
    }
}
