//! The journal of an agent that was killed in a format, put beside any disk: an intent says what the agent meant to do, not what is
//! on the disk.

use std::process::Command;

use ec2_sim::VolumeId;

use super::disk::{Disk, KIB};
use super::images::{EXT4_MAGIC, EXT4_SUPERBLOCK, ext4_backups, xfs_headers};
use crate::support::Instance;

/// Writes the journal with an intent that fits the volume, its device and its configuration in all that the intent says.
pub(crate) fn plant(node: &Instance, volume: &VolumeId, size: u64, file_system: &str, uuid: Option<&str>) {
    let mut intent = serde_json::json!({
        "device": "/dev/nvme1n1",
        "size": size,
        "file_system": file_system,
        "evidence": "all zero",
        "at": "2026-01-01T00:00:00.000Z",
    });
    if let Some(uuid) = uuid {
        intent["uuid"] = uuid.into();
    }
    let journal = serde_json::json!({
        "schema": 1,
        "instance_id": node.id.as_str(),
        "boot_id": "",
        "config_digest": "",
        "volumes": { volume.as_str(): { "formatting": intent } },
    });
    node.write("/var/lib/node-agent/state.json", journal.to_string());
}

/// The UUID of the filesystem that is, or was, on the disk, from any copy of its superblock: the intent that fits it best.
pub(crate) fn uuid_on(disk: &Disk, file_system: &str) -> Option<String> {
    let size = disk.size();
    let (superblocks, magic_at, magic, uuid_at): (Vec<u64>, u64, &[u8], u64) = if file_system == "xfs" {
        (std::iter::once(0).chain(xfs_headers(size)).collect(), 0, b"XFSB", 32)
    } else {
        let backups = ext4_backups(size);
        let copies = std::iter::once(EXT4_SUPERBLOCK).chain(backups).collect();
        (copies, EXT4_MAGIC - EXT4_SUPERBLOCK, &[0x53, 0xef], 0x68)
    };
    let copy = superblocks
        .into_iter()
        .filter(|at| at + KIB <= size)
        .find(|at| disk.read(at + magic_at, magic.len()) == magic)?;
    let bytes = disk.read(copy + uuid_at, 16);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Some([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

/// The options with which the agent makes a filesystem here.
fn options(file_system: &str, uuid: &str) -> Vec<String> {
    let options = match file_system {
        "xfs" => format!("-q -K -m bigtime=0,inobtcount=0 -i nrext64=0 -m uuid={uuid}"),
        _ => format!("-q -E nodiscard,lazy_itable_init=1,lazy_journal_init=1 -O ^orphan_file -U {uuid}"),
    };
    options.split(' ').map(str::to_owned).collect()
}

/// What a killed mkfs leaves, with its UUID: an XFS in progress; an ext4 without its primary superblock.
pub(crate) fn killed_mkfs(disk: &Disk, file_system: &str, uuid: &str) {
    let options = options(file_system, uuid);
    disk.tool(&format!("mkfs.{file_system}"), &options.iter().map(String::as_str).collect::<Vec<_>>());
    if file_system == "xfs" {
        // `xfs_db` writes the checksum, too.
        let output = Command::new("xfs_db")
            .args(["-x", "-c", "sb 0", "-c", "write -d inprogress 1"])
            .arg(&disk.path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(disk.read(126, 1), [1], "{}", String::from_utf8_lossy(&output.stdout));
    } else {
        disk.zero(EXT4_SUPERBLOCK, KIB);
    }
}
