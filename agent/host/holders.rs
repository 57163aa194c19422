//! What keeps a filesystem from being unmounted: processes, in any mount namespace, and the kernel itself.
//!
//! Read from /proc and /sys, where a filesystem whose disk does not answer can make a look-up hang: the caller sets a deadline.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::mountinfo::{self, Mounted};
use super::octal::unescape;

/// What holds a filesystem.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A process, and the first path on the filesystem by which it holds it.
    Process {
        /// Its id.
        pid: i32,
        /// Its command, as ps(1) shows it.
        command: String,
        /// How it holds the filesystem: `has open`, `works in`, …
        how: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// A mount namespace in which it is mounted, too, named by a process in it.
    Namespace {
        /// The lowest id of its processes.
        pid: i32,
        /// That process's command.
        command: String,
        /// Where it is mounted there.
        place: PathBuf,
    },
    /// Something is mounted inside it.
    Mount(PathBuf),
    /// It is mounted in a second place, too.
    Place(PathBuf),
    /// A swap file on it is in use.
    Swap(PathBuf),
    /// A loop device reads a file on it.
    Loop {
        /// The device.
        device: PathBuf,
        /// The file.
        file: PathBuf,
    },
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Process { pid, command, how, path } => {
                write!(f, "process {pid} ({command}) {how} {}", path.display())
            }
            Holder::Namespace { pid, command, place } => {
                let place = place.display();
                write!(f, "process {pid} ({command}) has a mount namespace in which it is mounted at {place}")
            }
            Holder::Mount(place) => write!(f, "a filesystem is mounted inside it, at {}", place.display()),
            Holder::Place(place) => write!(f, "it is mounted at {}, too", place.display()),
            Holder::Swap(file) => write!(f, "the swap file {} is in use", file.display()),
            Holder::Loop { device, file } => write!(f, "{} is a loop device of {}", device.display(), file.display()),
        }
    }
}

/// Everything that holds the filesystem on the device with this number, mounted at `place`. Blocks the thread.
pub fn of(device: u64, place: &Path) -> Vec<Holder> {
    let kernel = swap_files(device).chain(loop_devices(device));
    let mut holders: Vec<_> = inner_mounts(place).chain(other_mounts(device, place)).chain(kernel).collect();
    let own = namespace("self");
    let mut namespaces = BTreeSet::new();
    let mut pids: Vec<i32> = names("/proc").into_iter().filter_map(|name| name.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        holders.extend(held_by(pid, device));
        if let Some(namespace) = namespace(&pid.to_string()).filter(|namespace| Some(*namespace) != own)
            && namespaces.insert(namespace)
            && let Some(place) = mounts_of(pid).into_iter().find(|mount| mount.device == device)
        {
            holders.push(Holder::Namespace { pid, command: command(pid), place: place.mount_point });
        }
    }
    holders
}

/// How a process holds the filesystem.
fn held_by(pid: i32, device: u64) -> Option<Holder> {
    let is_on = |link: &Path| fs::metadata(link).is_ok_and(|found| found.dev() == device);
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let files = names(dir.join("fd")).into_iter().map(|name| ("has open", dir.join("fd").join(name)));
    let others = [("works in", "cwd"), ("has as its root", "root"), ("runs", "exe")];
    let links = files.chain(others.map(|(how, name)| (how, dir.join(name))));
    let held = links.filter(|(_, link)| is_on(link)).find_map(|(how, link)| Some((how, fs::read_link(link).ok()?)));
    let (how, path) = held.or_else(|| Some(("has mapped", mapped(&fs::read(dir.join("maps")).ok()?, device)?)))?;
    Some(Holder::Process { pid, command: command(pid), how, path })
}

/// The first file on the device in /proc/PID/maps (proc(5)): `address perms offset MAJOR:MINOR inode path`.
fn mapped(maps: &[u8], device: u64) -> Option<PathBuf> {
    maps.split(|byte| *byte == b'\n').find_map(|line| {
        let text = String::from_utf8_lossy(line);
        let number = text.split_whitespace().nth(3)?;
        let (major, minor) = number.split_once(':')?;
        let (major, minor) = (u64::from_str_radix(major, 16).ok()?, u64::from_str_radix(minor, 16).ok()?);
        let path = text.find('/').map(|at| PathBuf::from(&text[at..]));
        path.filter(|_| nix::sys::stat::makedev(major, minor) == device)
    })
}

fn inner_mounts(place: &Path) -> impl Iterator<Item = Holder> {
    let inside = mounts_of("self").into_iter().map(|mount| mount.mount_point);
    let inside = inside.filter(|inner| inner != place && inner.starts_with(place));
    inside.collect::<Vec<_>>().into_iter().map(Holder::Mount)
}

fn other_mounts(device: u64, place: &Path) -> impl Iterator<Item = Holder> {
    let places = mounts_of("self").into_iter().filter(move |mount| mount.device == device);
    let others = places.map(|mount| mount.mount_point).filter(|other| other != place);
    others.collect::<Vec<_>>().into_iter().map(Holder::Place)
}

/// /proc/swaps (proc(5)): a line of names, then `path type size used priority`.
fn swap_files(device: u64) -> impl Iterator<Item = Holder> {
    let swaps = fs::read("/proc/swaps").unwrap_or_default();
    let paths = swaps.split(|byte| *byte == b'\n').skip(1).map(|line| {
        let path = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(path)))
    });
    let on_device = paths.filter(|path| fs::metadata(path).is_ok_and(|file| file.is_file() && file.dev() == device));
    on_device.collect::<Vec<_>>().into_iter().map(Holder::Swap)
}

fn loop_devices(device: u64) -> impl Iterator<Item = Holder> {
    names("/sys/block").into_iter().filter_map(move |name| {
        let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
        let file = PathBuf::from(file.trim_end());
        let is_on = fs::metadata(&file).is_ok_and(|file| file.dev() == device);
        is_on.then(|| Holder::Loop { device: PathBuf::from(format!("/dev/{name}")), file })
    })
}

fn mounts_of(process: impl fmt::Display) -> Vec<Mounted> {
    mountinfo::parse(&fs::read(format!("/proc/{process}/mountinfo")).unwrap_or_default())
}

/// The mount namespace of a process, by its inode.
fn namespace(process: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{process}/ns/mnt")).ok().map(|namespace| namespace.ino())
}

fn command(pid: i32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end().to_owned()
}

fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::makedev;

    use super::*;

    #[test]
    fn a_process_that_has_a_file_open_is_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let device = file.as_file().metadata().unwrap().dev();
        let own = std::process::id().cast_signed();
        let holder = held_by(own, device).unwrap();
        assert!(matches!(&holder, Holder::Process { pid, .. } if *pid == own), "{holder}");
        assert_eq!(held_by(own, u64::MAX), None);
    }

    #[test]
    fn mapped_files_are_found_by_the_number_of_their_device() {
        let maps = b"5590-5591 r--p 00000000 00:1f 77 /usr/bin/x\n7f01-7f02 r-xp 00000000 103:0a 12   /mydata/lib with space.so\n";
        let path = mapped(maps, makedev(0x103, 0x0a)).unwrap();
        assert_eq!(path, Path::new("/mydata/lib with space.so"));
        assert_eq!(mapped(maps, makedev(1, 1)), None);
    }
}
