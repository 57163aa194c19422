//! The machine: the only code that starts programs ([`command`] alone), mounts, issues ioctls and reads `/sys` and `/proc`.

pub mod accounts;
pub mod activity;
pub mod ask;
pub mod atomic;
pub mod blank;
pub mod blkid;
pub mod command;
pub mod device;
pub mod environment;
pub mod export;
pub mod ext4;
pub mod filesystem;
pub mod fstab;
pub mod group;
pub mod holders;
pub mod hook_log;
pub mod hook_reader;
pub mod identity;
pub mod mount;
pub mod mountinfo;
pub mod notify;
pub mod octal;
pub mod owner;
pub mod path;
pub mod preen;
pub mod probe;
pub mod process;
pub mod read;
pub mod remains;
pub mod resize;
pub mod systemd;
pub mod this_host;
pub mod uevents;
pub mod unfinished;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::failure::{Failure, Named};

/// The device and inode of the file at a path. Two paths with the same pair lead to the same file.
pub fn file_id(path: impl AsRef<Path>) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// This boot's id.
pub fn boot_id() -> Result<String, Failure> {
    read_trimmed("/proc/sys/kernel/random/boot_id")
}

/// A new UUID, drawn by the kernel.
pub fn random_uuid() -> Result<String, Failure> {
    read_trimmed("/proc/sys/kernel/random/uuid")
}

fn read_trimmed(path: &str) -> Result<String, Failure> {
    Ok(fs::read_to_string(path).named(format_args!("reading {path}"))?.trim().to_owned())
}

/// The time since this boot began, suspended time included; steps of the wall clock do not change it.
pub fn since_boot() -> Duration {
    // The call cannot fail: every kernel that the agent runs on has this clock.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// The instance's id without any network request: Nitro hypervisors write it into the board's asset tag (EC2 user guide,
/// "Detect whether a host is an EC2 instance"). None on other machines.
pub fn instance_id() -> Option<String> {
    // The path that the guide names, then the path by device class.
    let tag = fs::read_to_string("/sys/devices/virtual/dmi/id/board_asset_tag")
        .or_else(|_| fs::read_to_string("/sys/class/dmi/id/board_asset_tag"))
        .ok()?;
    let tag = tag.trim();
    tag.starts_with("i-").then(|| tag.to_owned())
}
