//! The magic strings by which libblkid knows what is on a disk (util-linux, `libblkid/src/superblocks` and `partitions`),
//! each at its offset. Few of them alone are enough for libblkid, so `images.rs` has whole images. Each of them means that the disk
//! is in use.

/// The offset of a magic string.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Offset {
    Start(u64),
    /// Before the end of the device.
    End(u64),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Signature {
    pub(crate) name: &'static str,
    place: Offset,
    pub(crate) bytes: &'static [u8],
}

impl Signature {
    pub(crate) fn offset(&self, size: u64) -> u64 {
        match self.place {
            Offset::Start(offset) => offset,
            Offset::End(offset) => size - offset,
        }
    }
}

const fn start(name: &'static str, offset: u64, bytes: &'static [u8]) -> Signature {
    Signature { name, place: Offset::Start(offset), bytes }
}

const fn end(name: &'static str, offset: u64, bytes: &'static [u8]) -> Signature {
    Signature { name, place: Offset::End(offset), bytes }
}

const KIB: u64 = 1 << 10;

pub(crate) const ALL: &[Signature] = &[
    // Filesystems
    start("xfs", 0, b"XFSB"),
    start("exfs", 0, b"EXFS"),
    start("xfs_log", 0, b"\xfe\xed\xba\xbe"),
    start("ext", KIB + 0x38, b"\x53\xef"),
    start("btrfs", 64 * KIB + 0x40, b"_BHRfS_M"),
    start("bcachefs", 4 * KIB + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"),
    start("f2fs", KIB, b"\x10\x20\xf5\xf2"),
    start("gfs2", 64 * KIB, b"\x01\x16\x19\x70"),
    start("ocfs", 8, b"OracleCFS"),
    start("ocfs2", 4 * KIB, b"OCFSV2"),
    start("reiserfs", 64 * KIB + 0x34, b"ReIsEr2Fs"),
    start("reiser4", 64 * KIB, b"ReIsEr4"),
    start("jfs", 32 * KIB, b"JFS1"),
    start("nilfs2", KIB + 6, b"\x34\x34"),
    start("minix", KIB + 0x10, b"\x8f\x13"),
    start("minix 3", KIB + 0x18, b"\x5a\x4d"),
    start("romfs", 0, b"-rom1fs-"),
    start("cramfs", 0, b"\x45\x3d\xcd\x28"),
    start("squashfs", 0, b"hsqs"),
    start("squashfs 3", 0, b"sqsh"),
    start("erofs", KIB, b"\xe2\xe1\xf5\xe0"),
    start("iso9660", 32 * KIB + 1, b"CD001"),
    start("High Sierra", 32 * KIB + 9, b"CDROM"),
    start("udf", 32 * KIB + 1, b"BEA01"),
    start("udf 2", 34 * KIB + 1, b"NSR02"),
    start("hfs", KIB, b"BD"),
    start("hfsplus", KIB, b"H+"),
    start("apfs", 32, b"NXSB"),
    start("ntfs", 3, b"NTFS    "),
    start("exfat", 3, b"EXFAT   "),
    start("vfat", 0x36, b"FAT16   "),
    start("vfat 32", 0x52, b"FAT32   "),
    start("hpfs", 8 * KIB, b"\x49\xe8\x95\xf9"),
    start("bfs", 0, b"\xce\xfa\xad\x1b"),
    start("befs", 0x20, b"BFS1"),
    start("ufs", 8 * KIB + 0x55c, b"\x54\x19\x01\x00"),
    start("sysv", KIB + 0x1f8, b"\x20\x7e\x18\xfd"),
    start("xenix", KIB + 0x3f8, b"\x2b\x55\x44"),
    start("vxfs", KIB, b"\xf5\xfc\x01\xa5"),
    start("zonefs", 0, b"SFOZ"),
    start("ubifs", 0, b"\x31\x18\x10\x06"),
    start("ubi", 0, b"UBI#"),
    start("netware", 4 * KIB, b"SPB5"),
    start("cephluks", 0, b"bluestore block device"),
    // Volume managers, encryption, caches, swap
    start("LVM2", 512, b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0 \0\0\0LVM2 001"),
    start("LVM1", 0, b"HM"),
    start("snapshot cow", 0, b"SnAp"),
    start("verity", 0, b"verity\0\0"),
    start("integrity", 0, b"integrt\0"),
    start("vdo", 0, b"dmvdo001"),
    start("stratis", 512 + 4, b"!Stra0tis\x86\xff\x02^\x41rh"),
    start("LUKS", 0, b"LUKS\xba\xbe\0\x01"),
    start("LUKS2, second header", 16 * KIB, b"SKUL\xba\xbe\0\x02"),
    start("BitLocker", 3, b"-FVE-FS-"),
    start("FileVault", 88, b"CS"),
    start("bcache", 4 * KIB + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    start("swap", 4086, b"SWAPSPACE2"),
    start("swap of old", 4086, b"SWAP-SPACE"),
    start("suspended", 4086, b"S1SUSPEND"),
    start("suspended by hand", 4086, b"ULSUSPEND"),
    start("zfs", 128 * KIB, b"\x0c\xb1\xba\0\0\0\0\0"),
    start("vmfs volume", KIB * KIB, b"\x0d\xd0\x01\xc0"),
    start("vmfs", 2 * KIB * KIB, b"\x5e\xf1\xab\x2f"),
    start("Oracle ASM", 32, b"ORCLDISK"),
    start("drbdmanage", 0, b"$DRBDmgr=q"),
    end("drbd", 4 * KIB - 60, b"\x83\x74\x02\x6b"),
    // RAID
    end("linux_raid 0.90", 64 * KIB, b"\xfc\x4e\x2b\xa9"),
    end("linux_raid 1.0", 8 * KIB, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    start("linux_raid 1.1", 0, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    start("linux_raid 1.2", 4 * KIB, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    end("ddf", 512, b"\xde\x11\xde\x11"),
    end("isw", KIB, b"Intel Raid ISM Cfg Sig. "),
    end("nvidia", KIB, b"NVIDIA"),
    end("lsi", 512, b"$XIDE$"),
    end("jmicron", 512, b"JM"),
    end("promise", 63 * 512, b"Promise Technology, Inc."),
    end("adaptec", 512, b"\xf5\x6e\x27\x4d"),
    end("silicon", 512 - 0x60, b"\x95\x18\x20\x95"),
    start("highpoint", 9 * 512 + 32, b"\xf0\x16\x7a\x5a"),
    // Partition tables
    start("dos", 510, b"\x55\xaa"),
    start("gpt", 512, b"EFI PART"),
    end("gpt's backup", 512, b"EFI PART"),
    start("mac", 0, b"ER"),
    start("mac's map", 512, b"PM"),
    start("bsd", 512, b"\x57\x45\x56\x82"),
    start("sgi", 0, b"\x0b\xe5\xa9\x41"),
    start("sun", 508, b"\xda\xbe"),
    start("unixware", 29 * 512 + 4, b"\x0d\x60\xe5\xca"),
];
