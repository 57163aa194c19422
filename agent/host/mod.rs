//! The machine: the only code that starts programs, mounts, issues ioctls and reads `/sys` and `/proc`.

pub mod accounts;
pub mod atomic;
pub mod blank;
pub mod blkid;
pub mod command;
pub mod device;
pub mod export;
pub mod filesystem;
pub mod fstab;
pub mod group;
pub mod mount;
pub mod mountinfo;
pub mod octal;
pub mod probe;
pub mod remains;
pub mod resize;
pub mod systemd;
pub mod unfinished;

use std::fs;

use crate::failure::{Failure, Named};

/// This boot's id.
pub fn boot_id() -> Result<String, Failure> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path).named(format_args!("reading {path}"))?.trim().to_owned())
}
