//! Contents of disks, made by the real tools where these are small, else from the few bytes by which libblkid recognises them; each
//! such image names its source file in libblkid (util-linux, libblkid/src). The corpus checks that libblkid does recognise it.

use std::fs;
use std::io::Read;
use std::process::Command;

use super::disk::{Disk, GIB, KIB, MIB};

/// The contents of the file `precious` on every filesystem.
pub(crate) const PRECIOUS: &str = "the only copy";

/// An XFS with a file on it.
pub(crate) fn xfs(disk: &Disk, options: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let (precious, prototype) = (dir.path().join("precious"), dir.path().join("prototype"));
    fs::write(&precious, PRECIOUS).unwrap();
    fs::write(&prototype, format!("/dev/null\n0 0\nd--755 0 0\nprecious ---644 0 0 {}\n$\n", precious.display()))
        .unwrap();
    disk.tool("mkfs.xfs", &[options, &["-q", "-f", "-K", "-p", prototype.to_str().unwrap()]].concat());
}

/// An ext2, ext3 or ext4 with a file on it.
pub(crate) fn ext(disk: &Disk, kind: &str, options: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("precious"), PRECIOUS).unwrap();
    let root = dir.path().to_str().unwrap();
    disk.tool("mke2fs", &[options, &["-t", kind, "-q", "-F", "-E", "nodiscard", "-d", root]].concat());
}

pub(crate) fn ext4(disk: &Disk) {
    ext(disk, "ext4", &[]);
}

/// Where ext4 keeps its superblock, and its magic in it.
pub(crate) const EXT4_SUPERBLOCK: u64 = 1024;
pub(crate) const EXT4_MAGIC: u64 = EXT4_SUPERBLOCK + 0x38;

/// The backups of ext4's superblock on a disk of `size` bytes, from the definition of sparse_super (ext4(5); Linux,
/// Documentation/filesystems/ext4/blockgroup.rst): groups 1 and the powers of 3, 5 and 7; a group has as many blocks as a
/// block has bits, and with blocks of 1 KiB the first group begins at block 1.
pub(crate) fn ext4_backups(size: u64) -> Vec<u64> {
    let mut backups = Vec::new();
    for block in [KIB, 2 * KIB, 4 * KIB] {
        let first = if block == KIB { KIB } else { 0 };
        for base in [3, 5, 7_u64] {
            let mut group = 1;
            while let offset = group * 8 * block * block + first
                && offset + KIB <= size
            {
                backups.push(offset);
                group *= base;
            }
        }
    }
    backups.sort_unstable();
    backups.dedup();
    backups
}

/// The headers of XFS's allocation groups but the first, by mkfs.xfs's rule (xfsprogs, `calc_default_ag_geometry`): four
/// groups below 4 TiB; from there on groups of the largest size, which is a block less than 1 TiB, and no rest of under 16 MiB.
pub(crate) fn xfs_headers(size: u64) -> Vec<u64> {
    const BLOCK: u64 = 4 * KIB;
    let blocks = size / BLOCK;
    let (group, rest) = if size < 4 << 40 { (blocks.div_ceil(4), 1) } else { ((1 << 28) - 1, 16 * MIB / BLOCK) };
    (1..)
        .map(|number| number * group.max(1))
        .take_while(|start| start + rest <= blocks)
        .map(|start| start * BLOCK)
        .collect()
}

fn at(image: &mut [u8], offset: usize, bytes: &[u8]) {
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// superblocks/lvm.c: the label is in the second sector; its checksum is over what follows it.
pub(crate) fn lvm(disk: &Disk) {
    let mut label = vec![0; 512];
    at(&mut label, 0, b"LABELONE");
    at(&mut label, 8, &1_u64.to_le_bytes());
    at(&mut label, 20, &32_u32.to_le_bytes());
    at(&mut label, 24, b"LVM2 001");
    at(&mut label, 32, b"Tuvwx1abcdefghijklmnopqrstuvwxyz");
    at(&mut label, 64, &disk.size().to_le_bytes());
    let checksum = crc32(0xf597_a6cf, &label[20..]);
    at(&mut label, 16, &checksum.to_le_bytes());
    disk.write(512, label);
}

const MD_MAGIC: u32 = 0xa92b_4efc;

/// superblocks/linux_raid.c: version 0.90, in the last whole 64 KiB but one.
pub(crate) fn md_0_90(disk: &Disk) {
    let offset = disk.size() / (64 * KIB) * (64 * KIB) - 64 * KIB;
    let kib = u32::try_from(offset / KIB).unwrap();
    // Magic, version 0.90.0, words, part of the UUID, time, level, size, disks, disks, minor, persistent, more UUID
    let words = [MD_MAGIC, 0, 90, 0, 0, 0x1234_5678, 0x6000_0000, 1, kib, 2, 2, 0, 0, 1, 2, 3];
    disk.write(offset, words.map(u32::to_le_bytes).concat());
}

/// superblocks/linux_raid.c: version 1.x; only the place tells 1.0, 1.1 and 1.2.
fn md_1(disk: &Disk, offset: u64) {
    let mut superblock = vec![0; 256];
    at(&mut superblock, 0, &MD_MAGIC.to_le_bytes());
    at(&mut superblock, 4, &1_u32.to_le_bytes());
    at(&mut superblock, 16, b"0123456789abcdef");
    at(&mut superblock, 32, b"kafka:0");
    at(&mut superblock, 72, &1_u32.to_le_bytes());
    at(&mut superblock, 144, &(offset / 512).to_le_bytes());
    at(&mut superblock, 168, b"fedcba9876543210");
    let sum: u64 = superblock.chunks(4).map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap()))).sum();
    let folded = u32::try_from((sum >> 32) + (sum & 0xffff_ffff)).unwrap();
    at(&mut superblock, 216, &folded.to_le_bytes());
    disk.write(offset, superblock);
}

pub(crate) fn md_1_0(disk: &Disk) {
    md_1(disk, disk.size() / (4 * KIB) * (4 * KIB) - 8 * KIB);
}

pub(crate) fn md_1_1(disk: &Disk) {
    md_1(disk, 0);
}

pub(crate) fn md_1_2(disk: &Disk) {
    md_1(disk, 4 * KIB);
}

/// superblocks/zfs.c: the four labels, two at the start and two at the end; older versions look for überblocks, newer ones
/// for the list of names and values.
pub(crate) fn zfs(disk: &Disk) {
    const LABEL: u64 = 256 * KIB;
    let mut label = vec![0; 256 << 10];
    let mut list = vec![1, 1, 0, 0];
    list.extend([0; 8]);
    for (name, value) in [("guid", 0x1234_5678_9abc_def0_u64), ("state", 0), ("txg", 4), ("pool_guid", 77)] {
        let padded = name.len().next_multiple_of(4);
        let mut pair = Vec::new();
        for word in [12 + padded + 16, 0, name.len()] {
            pair.extend(u32::try_from(word).unwrap().to_be_bytes());
        }
        pair.extend(name.as_bytes());
        pair.resize(12 + padded, 0);
        // DATA_TYPE_UINT64, one element
        for word in [8, 1_u32] {
            pair.extend(word.to_be_bytes());
        }
        pair.extend(value.to_be_bytes());
        list.extend(pair);
    }
    at(&mut label, 16 << 10, &list);
    for number in 0..16 {
        let offset = (128 << 10) + number * 1024;
        // Magic, version, transaction, sum of the vdevs' ids
        let words = [0x00ba_b10c, 5000_u64, 4, 99];
        at(&mut label, offset, &words.map(u64::to_le_bytes).concat());
    }
    let end = disk.size() / LABEL * LABEL;
    for offset in [0, LABEL, end - 2 * LABEL, end - LABEL] {
        disk.write(offset, &label);
    }
}

/// superblocks/bcache.c: a backing device's superblock at 4 KiB, with a CRC-64 over all but itself.
pub(crate) fn bcache(disk: &Disk) {
    let mut superblock = vec![0; 208];
    at(&mut superblock, 8, &8_u64.to_le_bytes());
    at(&mut superblock, 16, &1_u64.to_le_bytes());
    at(&mut superblock, 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81");
    at(&mut superblock, 40, b"0123456789abcdef");
    at(&mut superblock, 192, &16_u64.to_le_bytes());
    let checksum = crc64_we(&superblock[8..]);
    at(&mut superblock, 0, &checksum.to_le_bytes());
    disk.write(4 * KIB, superblock);
}

/// partitions/dos.c: the signature.
pub(crate) fn mbr_signature(disk: &Disk) {
    disk.write(510, [0x55, 0xaa]);
}

/// partitions/dos.c: one Linux partition from 1 MiB on.
pub(crate) fn mbr(disk: &Disk) {
    let sectors = u32::try_from(disk.size() / 512).unwrap() - 2048;
    let mut entry = vec![0, 0, 0, 0, 0x83, 0, 0, 0];
    entry.extend(2048_u32.to_le_bytes());
    entry.extend(sectors.to_le_bytes());
    disk.write(446, entry);
    mbr_signature(disk);
}

/// partitions/gpt.c: header in the second sector, its backup in the last, each with its table of 128 entries.
pub(crate) fn gpt(disk: &Disk) {
    let last = disk.size() / 512 - 1;
    let mut entries = vec![0; 128 * 128];
    // Linux filesystem data, 0FC63DAF-8483-4772-8E79-3D69D8477DE4
    at(&mut entries, 0, b"\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4");
    at(&mut entries, 16, b"0123456789abcdef");
    at(&mut entries, 32, &2048_u64.to_le_bytes());
    at(&mut entries, 40, &(last - 2048).to_le_bytes());
    for (this, other, table) in [(1, last, 2), (last, 1, last - 32)] {
        let mut header = vec![0; 92];
        at(&mut header, 0, b"EFI PART\0\0\x01\0");
        at(&mut header, 12, &92_u32.to_le_bytes());
        at(&mut header, 24, &[this, other, 34, last - 33].map(u64::to_le_bytes).concat());
        at(&mut header, 56, b"fedcba9876543210");
        at(&mut header, 72, &table.to_le_bytes());
        at(&mut header, 80, &[128, 128, !crc32(!0, &entries)].map(u32::to_le_bytes).concat());
        let checksum = !crc32(!0, &header);
        at(&mut header, 16, &checksum.to_le_bytes());
        disk.write(this * 512, header);
        disk.write(table * 512, &entries);
    }
    // The protective MBR: one partition of type EE.
    let mut entry = vec![0, 0, 0, 0, 0xee, 0, 0, 0];
    entry.extend(1_u32.to_le_bytes());
    entry.extend(u32::try_from(last).unwrap().to_le_bytes());
    disk.write(446, entry);
    mbr_signature(disk);
}

/// The protective MBR, the header and its table.
pub(crate) const GPT_PRIMARY: u64 = 34 * 512;
/// The backup table and header, from the end.
pub(crate) const GPT_BACKUP: u64 = 33 * 512;

/// superblocks/iso9660.c: the primary volume descriptor.
pub(crate) fn iso9660(disk: &Disk) {
    disk.write(32 * KIB, b"\x01CD001\x01");
    disk.write(32 * KIB + 40, b"BACKUP-2019");
    // The logical block size, in both byte orders, and the end of the descriptors.
    disk.write(32 * KIB + 128, b"\x00\x08\x08\x00");
    disk.write(34 * KIB, b"\xffCD001\x01");
}

/// superblocks/squashfs.c
pub(crate) fn squashfs(disk: &Disk) {
    disk.write(0, b"hsqs");
    disk.write(12, (128 * 1024_u32).to_le_bytes());
    disk.write(28, [4, 0, 0, 0]);
    disk.write(40, (512 * KIB).to_le_bytes());
}

/// superblocks/ntfs.c: the boot sector, and the records 0 and 3 of the master file table.
pub(crate) fn ntfs(disk: &Disk) {
    disk.write(0, b"\xebR\x90NTFS    \x00\x02\x08");
    disk.write(21, [0xf8]);
    disk.write(40, [disk.size() / 512 - 1, 4, 8].map(u64::to_le_bytes).concat());
    disk.write(64, [0xf6, 0, 0, 0, 1]);
    disk.write(72, 0x1234_5678_9abc_def0_u64.to_le_bytes());
    mbr_signature(disk);
    for record in [0, 1, 2, 3] {
        disk.write(16 * KIB + record * KIB, b"FILE");
    }
}

/// superblocks/ocfs.c
pub(crate) fn oracle_asm(disk: &Disk) {
    disk.write(32, b"ORCLDISKVOL1");
}

/// superblocks/vmfs.c
pub(crate) fn vmfs(disk: &Disk) {
    disk.write(MIB, b"\x0d\xd0\x01\xc0\x05\0\0\0");
    disk.write(MIB + 130, b"0123456789abcdef");
}

/// superblocks/bitlocker.c
pub(crate) fn bitlocker(disk: &Disk) {
    disk.write(0, b"\xeb\x52\x90-FVE-FS-");
}

/// superblocks/drbd.c: internal metadata, 4 KiB before the end.
pub(crate) fn drbd(disk: &Disk) {
    let offset = disk.size() - 4 * KIB;
    disk.write(offset + 40, 0x1234_5678_9abc_def0_u64.to_be_bytes());
    disk.write(offset + 60, b"\x83\x74\x02\x6b");
    disk.write(offset + 80, 4096_u32.to_be_bytes());
}

/// A database that writes to the raw disk: pages of 8 KiB with a checksum and a header, unknown to libblkid.
pub(crate) fn database(disk: &Disk) {
    for page in 0..4096_u32 {
        let mut bytes = vec![0; 64];
        at(&mut bytes, 0, &page.wrapping_mul(0x9e37_79b1).to_le_bytes());
        at(&mut bytes, 4, &page.to_le_bytes());
        at(&mut bytes, 12, b"PAGE");
        disk.write(u64::from(page) * 8 * KIB, bytes);
    }
}

/// Random bytes from one end to the other, as on an encrypted disk without a header; an eighth of it, because it takes time.
pub(crate) fn random(disk: &Disk) {
    let mut bytes = vec![0; 1 << 20];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    for offset in (0..disk.size()).step_by(8 << 20) {
        disk.write(offset, &bytes);
    }
    disk.write(disk.size() - MIB, &bytes);
}

/// Removes signatures and leaves everything else, as people do who think that this makes a disk blank.
pub(crate) fn wipefs(disk: &Disk) {
    let output = Command::new("wipefs").args(["--all", "--quiet"]).arg(&disk.path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn luks(disk: &Disk, version: &str) {
    let key = tempfile::NamedTempFile::new().unwrap();
    fs::write(key.path(), "passphrase").unwrap();
    // The weakest key derivation: it is not what is tested.
    let options = ["luksFormat", "-q", "--type", version, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    disk.tool_with("cryptsetup", &options, &[key.path().to_str().unwrap()]);
}

/// A filesystem in a partition.
pub(crate) fn partitioned_ext4(disk: &Disk) {
    let blocks = ((disk.size() - MIB) / (4 * KIB)).to_string();
    disk.tool_with("mke2fs", &["-t", "ext4", "-q", "-F", "-E", "offset=1048576"], &[&blocks]);
    mbr(disk);
}

/// An ext4 and an XFS at once: ext4 leaves its first KiB to others, and XFS's superblock has 512 bytes.
pub(crate) fn ext4_with_xfs_superblock(disk: &Disk) {
    ext4(disk);
    disk.write(0, xfs_superblock(512));
}

/// The start of an XFS with its superblock.
fn xfs_superblock(length: usize) -> Vec<u8> {
    let other = tempfile::NamedTempFile::new().unwrap();
    other.as_file().set_len(GIB).unwrap();
    let other = Disk::open(other.path());
    xfs(&other, &[]);
    other.read(0, length)
}

/// An XFS on which somebody has put an ext4 superblock.
pub(crate) fn xfs_with_ext4_superblock(disk: &Disk) {
    let other = tempfile::NamedTempFile::new().unwrap();
    other.as_file().set_len(GIB).unwrap();
    let other = Disk::open(other.path());
    ext4(&other);
    xfs(disk, &[]);
    disk.write(EXT4_SUPERBLOCK, other.read(EXT4_SUPERBLOCK, 1024));
}

/// Reflected CRC-32 (0xEDB88320) without inversion.
fn crc32(start: u32, bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(start, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1))))
}

/// CRC-64 of ECMA-182, inverted before and after.
fn crc64_we(bytes: &[u8]) -> u64 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ (u64::from(*byte) << 56), |crc: u64, _| (crc << 1) ^ (0x42f0_e1eb_a9ea_3693 * (crc >> 63)))
    })
}
