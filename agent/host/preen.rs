//! Whether a mounted ext4's superblock asks for a check: for boots without an e2fsck of the volume.

use std::fs::File;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use super::ext4::Superblock;

/// Bits of `s_state`: the filesystem was unmounted cleanly; the kernel found an error.
const VALID: u16 = 1;
const ERROR: u16 = 2;
/// Bit of `s_feature_compat`.
const HAS_JOURNAL: u32 = 4;

/// Why the mounted ext4 on this device needs a check, if it does.
pub fn wants_check(device: &File) -> io::Result<Option<String>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(reason(&Superblock::read(device)?, now))
}

/// e2fsck's own rules (`check_if_skip` of its `unix.c`), for a filesystem that is mounted.
fn reason(superblock: &Superblock, now: u64) -> Option<String> {
    let state = superblock.short(0x3a);
    if state & ERROR != 0 {
        return Some("the kernel met an error in it".to_owned());
    }
    // Without a journal, a mounted filesystem does not show whether its last unmount was clean.
    if superblock.word(0x5c) & HAS_JOURNAL == 0 && state & VALID == 0 {
        return Some("it has no journal and may not have been unmounted cleanly".to_owned());
    }
    // Signed: -1 means never. The current mount is already counted.
    let (count, most) = (superblock.short(0x34).cast_signed(), superblock.short(0x36).cast_signed());
    if most > 0 && count > most {
        return Some(format!("it was mounted {count} times since its last check, and {most} are allowed"));
    }
    let (last, interval) = (u64::from(superblock.word(0x40)), u64::from(superblock.word(0x44)));
    let last = last | u64::from(superblock.byte(0x277)) << 32;
    if interval > 0 && now.saturating_sub(last) >= interval {
        return Some(format!("its last check was {} days ago", now.saturating_sub(last) / 86_400));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ext4_asks_for_a_check_as_e2fsck_would_make_it() {
        const NOW: u64 = 1_800_000_000;
        let with = |changes: &[(usize, u32)]| {
            // Clean, with a journal, never to be checked by count or time, last checked an hour ago.
            let sound = [(0x34, 0xffff_0001), (0x38, 0x0001_ef53), (0x40, 1_799_996_400), (0x44, 0), (0x5c, 0x3c)];
            let words: Vec<_> = sound.iter().chain(changes).copied().collect();
            reason(&Superblock::with(&words).unwrap(), NOW)
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
