//! Mounting, and what is mounted.

use std::fs;
use std::io;
use std::path::Path;

use sys_mount::{Mount, MountFlags};

use super::mountinfo::{self, Mounted};
use crate::failure::{Failure, Named};

/// What is mounted at `path` now: the topmost mount.
pub fn at(path: &Path) -> Result<Option<Mounted>, Failure> {
    Ok(all()?.into_iter().rev().find(|mount| mount.mount_point == path))
}

/// Everywhere a device is mounted.
pub fn of_device(device: u64) -> Result<Vec<Mounted>, Failure> {
    Ok(all()?.into_iter().filter(|mount| mount.device == device).collect())
}

/// All mounts of this process's namespace, in the order in which they lie upon each other.
pub fn all() -> Result<Vec<Mounted>, Failure> {
    let path = "/proc/self/mountinfo";
    let text = fs::read(path).named(format_args!("reading {path}"))?;
    Ok(mountinfo::parse(&text))
}

/// Mounts `device` at `path`, with options as in fstab. Off the agent's own thread: replaying a log can take minutes.
pub async fn mount(device: &Path, path: &Path, kind: &str, options: &[String]) -> io::Result<()> {
    let (flags, data) = split(options);
    let (device, path, kind) = (device.to_owned(), path.to_owned(), kind.to_owned());
    let mounting =
        move || Mount::builder().fstype(kind.as_str()).flags(flags).data(&data).mount(device, path).map(drop);
    tokio::task::spawn_blocking(mounting).await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
}

/// Divides fstab's options into the kernel's flags and the filesystem's own; what only mount(8) and systemd read goes.
fn split(options: &[String]) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    for option in options {
        match option.as_str() {
            "ro" => flags |= MountFlags::RDONLY,
            "rw" => flags.remove(MountFlags::RDONLY),
            "nosuid" => flags |= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            "dirsync" => flags |= MountFlags::DIRSYNC,
            "mand" => flags |= MountFlags::MANDLOCK,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "strictatime" => flags |= MountFlags::STRICTATIME,
            "lazytime" => flags |= MountFlags::from_bits_retain(LAZYTIME),
            "defaults" | "auto" | "noauto" | "nofail" | "_netdev" | "user" | "nouser" | "users" | "suid" | "dev"
            | "exec" | "async" | "atime" | "diratime" | "norelatime" | "nolazytime" => {}
            other if other.starts_with("x-") || other.starts_with("X-") || other.starts_with("comment=") => {}
            other => data.push(other),
        }
    }
    (flags, data.join(","))
}

/// `MS_LAZYTIME`, mount(2); sys-mount has no name for it.
const LAZYTIME: u64 = 1 << 25;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_divided_between_kernel_and_filesystem() {
        let options = ["noatime", "nofail", "x-systemd.device-timeout=9", "logbufs=8", "inode64"].map(str::to_owned);
        assert_eq!(split(&options), (MountFlags::NOATIME, "logbufs=8,inode64".to_owned()));
    }
}
