//! Mounting, and what is mounted.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::makedev;
use sys_mount::{Mount, MountFlags};

use super::fstab::unescape;
use crate::failure::{Failure, Named};

/// One mount of this process's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The device number.
    pub device: u64,
    /// Where.
    pub mount_point: PathBuf,
    /// The filesystem's type.
    pub kind: String,
    /// What the mount was made from, for messages.
    pub source: String,
}

/// What is mounted at `path` now: the topmost mount.
pub fn at(path: &Path) -> Result<Option<Mounted>, Failure> {
    Ok(all()?.into_iter().rev().find(|mount| mount.mount_point == path))
}

/// Everywhere a device is mounted.
pub fn of_device(device: u64) -> Result<Vec<Mounted>, Failure> {
    Ok(all()?.into_iter().filter(|mount| mount.device == device).collect())
}

fn all() -> Result<Vec<Mounted>, Failure> {
    let path = "/proc/self/mountinfo";
    let text = fs::read(path).named(format_args!("reading {path}"))?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// proc(5): `36 35 98:0 /root /mount/point options [optional…] - type source super-options`
fn parse(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let number = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = number.split_once(':')?;
    let mount_point = unescape(fields.nth(1)?);
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    Some(Mounted {
        device: makedev(major.parse().ok()?, minor.parse().ok()?),
        mount_point: PathBuf::from(OsString::from_vec(mount_point)),
        kind: String::from_utf8_lossy(after.next()?).into_owned(),
        source: String::from_utf8_lossy(&unescape(after.next()?)).into_owned(),
    })
}

/// Mounts `device` at `path`, with options as in fstab.
pub fn mount(device: &Path, path: &Path, kind: &str, options: &[String]) -> io::Result<()> {
    let (flags, data) = split(options);
    Mount::builder().fstype(kind).flags(flags).data(&data).mount(device, path).map(drop)
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
    fn mountinfo_is_read_with_optional_fields_and_escapes() {
        let line = b"36 35 98:1 / /mnt/my\\040data rw,noatime shared:1 master:2 - xfs /dev/nvme1n1 rw,attr2";
        let mount = parse(line).unwrap();
        assert_eq!(mount.mount_point, Path::new("/mnt/my data"));
        assert_eq!((mount.kind.as_str(), mount.source.as_str()), ("xfs", "/dev/nvme1n1"));
        assert_eq!(mount.device, makedev(98, 1));
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"36 35 98:1 / /mnt"), None);
    }

    #[test]
    fn options_are_divided_between_kernel_and_filesystem() {
        let options = ["noatime", "nofail", "x-systemd.device-timeout=9", "logbufs=8", "inode64"].map(str::to_owned);
        assert_eq!(split(&options), (MountFlags::NOATIME, "logbufs=8,inode64".to_owned()));
    }
}
