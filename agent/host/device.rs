//! The block device of a volume.
//!
//! Names lie: by-id links can be missing, late or stale, and kernel names change between boots. A volume's device is
//! identified by its NVMe serial or, if it has none (Xen, loop), by a link or the device name. It is opened once, and all
//! later operations use that descriptor.
//!
//! In one file, because which name is believed, and when, is one decision.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::{major, makedev, minor};

use crate::config::VolumeId;
use crate::failure::{Code, Failure, Named};

const BY_ID: &str = "/dev/disk/by-id";

/// An open block device.
#[derive(Debug)]
pub struct Device {
    /// As `/dev/nvme1n1`.
    pub path: PathBuf,
    pub(crate) number: u64,
    /// In bytes.
    pub size: u64,
    file: File,
}

/// A block device on top of another one: a partition, LVM, LUKS, RAID, multipath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependent {
    /// The kernel's name, as `nvme1n1p1` or `dm-0`.
    pub name: String,
    pub(crate) number: u64,
}

/// The lock that udev and systemd respect, released when this and every child that inherited it are gone.
pub type Locked = Flock<File>;

impl Device {
    /// The device of the volume with this serial (`vol0123…`); none until it appears.
    pub fn find(serial: &str, device_name: &str) -> Result<Option<Device>, Failure> {
        Device::find_by_identity(serial)?.map_or_else(|| by_xen_name(device_name), |device| Ok(Some(device)))
    }

    /// As [`Device::find`], but by the volume's id alone, never by the Xen device name.
    pub fn find_by_identity(serial: &str) -> Result<Option<Device>, Failure> {
        by_serial(serial)?.map_or_else(|| by_link(serial), |device| Ok(Some(device)))
    }

    fn open(path: &Path) -> Result<Option<Device>, Failure> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            // The node does not exist yet (sysfs comes before devtmpfs), or the device has just been removed.
            Err(error) if matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOENT | Errno::ENXIO)) => {
                return Ok(None);
            }
            Err(error) => {
                let text = format!("opening {}", path.display());
                return Err(Failure::new(Code::DeviceUnreadable, text).because(error));
            }
        };
        let meta = file.metadata().named(format_args!("inspecting {}", path.display()))?;
        if !meta.file_type().is_block_device() {
            return Err(Failure::new(Code::DeviceUntrusted, format!("{} is not a block device", path.display())));
        }
        let size = file.seek(SeekFrom::End(0)).named(format_args!("reading the size of {}", path.display()))?;
        Ok(Some(Device { path: path.to_owned(), number: meta.rdev(), size, file }))
    }

    /// The open descriptor.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The current size in bytes: a volume can be enlarged while it is attached.
    pub fn size_now(&self) -> io::Result<u64> {
        (&self.file).seek(SeekFrom::End(0))
    }

    /// Takes the exclusive lock; fails with [`Code::DeviceBusy`] while another process holds it (udev probing the device, an
    /// mkfs that outlived its agent).
    pub fn lock(&self) -> Result<Locked, Failure> {
        // A descriptor of its own: closing it releases the lock.
        let file = File::open(&self.path).named(format_args!("opening {}", self.path.display()))?;
        self.must_be(&file)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(lock),
            Err((_, Errno::EWOULDBLOCK)) => {
                let text = format!("{} is locked by another process", self.path.display());
                Err(Failure::new(Code::DeviceBusy, text))
            }
            Err((_, errno)) => Err(Failure::io(format_args!("locking {}", self.path.display()), errno.into())),
        }
    }

    /// Fails if `file`, opened by the device's path, is no longer this device.
    fn must_be(&self, file: &File) -> Result<(), Failure> {
        if file.metadata().named(format_args!("inspecting {}", self.path.display()))?.rdev() == self.number {
            return Ok(());
        }
        let text = format!("{} now names another device", self.path.display());
        Err(Failure::new(Code::DeviceUntrusted, text))
    }

    /// Whether the kernel holds the device: it is mounted in some mount namespace, or another device is built on it.
    pub fn is_held(&self) -> bool {
        let open = File::options().read(true).custom_flags(OFlag::O_EXCL.bits()).open(&self.path);
        open.is_err_and(|error| error.raw_os_error() == Some(Errno::EBUSY as i32))
    }

    /// The device's folder in sysfs.
    pub fn sysfs(&self) -> PathBuf {
        sysfs_of(self.number)
    }

    /// Opens the device exclusively for writing: the kernel permits this only while the device is mounted in no mount namespace
    /// and no device is built on it, and prevents both until the descriptor is closed.
    pub fn exclusive(&self) -> Result<File, Failure> {
        let opened = File::options().write(true).custom_flags(OFlag::O_EXCL.bits()).open(&self.path);
        let file = match opened {
            Err(error) if error.raw_os_error().map(Errno::from_raw) == Some(Errno::EBUSY) => {
                let text = format!("{} is in use: it cannot be opened exclusively", self.path.display());
                return Err(Failure::new(Code::DeviceBusy, text));
            }
            opened => opened.named(format_args!("opening {} exclusively", self.path.display()))?,
        };
        self.must_be(&file)?;
        Ok(file)
    }

    /// The block devices on top of this one, directly or through others: partitions, LVM, LUKS, RAID, multipath.
    pub fn dependents(&self) -> Result<Vec<Dependent>, Failure> {
        let sysfs = self.sysfs();
        dependents(&sysfs).named(format_args!(
            "finding the devices on top of {} in {}",
            self.path.display(),
            sysfs.display()
        ))
    }

    /// Why the device must not be formatted, regardless of its contents: partitions, holders, read-only.
    pub fn in_use(&self) -> Result<Option<String>, Failure> {
        let sysfs = self.sysfs();
        let at = |what: &str| format!("reading {}/{what}", sysfs.display());
        if fs::read_to_string(sysfs.join("ro")).named(at("ro"))?.trim() != "0" {
            return Ok(Some("it is read-only".to_owned()));
        }
        for entry in fs::read_dir(&sysfs).named(at(""))? {
            let entry = entry.named(at(""))?;
            if entry.path().join("partition").exists() {
                return Ok(Some(format!("it has the partition {}", entry.file_name().display())));
            }
        }
        match fs::read_dir(sysfs.join("holders")) {
            Ok(mut holders) => Ok(holders
                .next()
                .and_then(Result::ok)
                .map(|holder| format!("{} is built on it", holder.file_name().display()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::io(at("holders"), error)),
        }
    }
}

/// The by-id link for this serial that leads to this device, if there is one. The plain name is preferred: names with the
/// namespace appended depend on the version of udev's rules.
pub fn link_to(serial: &str, number: u64) -> Option<PathBuf> {
    link_in(Path::new(BY_ID), serial, number)
}

fn link_in(dir: &Path, serial: &str, number: u64) -> Option<PathBuf> {
    let links = links_to(number, dir)?.filter(|link| is_link_name(link, serial));
    links.min_by_key(|link| (link.as_os_str().len(), link.clone()))
}

/// The links in `dir` to the device with this number.
fn links_to(number: u64, dir: &Path) -> Option<impl Iterator<Item = PathBuf>> {
    let links = fs::read_dir(dir).ok()?.filter_map(Result::ok).map(|link| link.path());
    Some(links.filter(move |link| fs::metadata(link).is_ok_and(|meta| meta.rdev() == number)))
}

/// Whether this is the path of a by-id link for the volume with this serial; the link need not exist.
pub fn is_link_for(path: &Path, serial: &str) -> bool {
    path.parent() == Some(Path::new(BY_ID)) && is_link_name(path, serial)
}

fn is_link_name(path: &Path, serial: &str) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| link_names(name, serial))
}

/// The id of a device's EBS volume, from its serial or its by-id link.
pub fn volume_of(number: u64) -> Option<VolumeId> {
    let of_serial = |serial: String| serial.replacen("vol", "vol-", 1).parse().ok();
    if let Some(serial) = serial_at(&sysfs_of(number)) {
        return of_serial(serial.replace('-', ""));
    }
    links_to(number, Path::new(BY_ID))?.find_map(|link| {
        let name = link.file_name()?.to_str()?.to_owned();
        let serial: String = name[name.find("vol")?..].chars().take_while(char::is_ascii_alphanumeric).collect();
        of_serial(serial)
    })
}

/// The machine's disks and their serials, for messages.
pub fn list_disks() -> String {
    let Ok(entries) = fs::read_dir("/sys/block") else { return "/sys/block is not readable".to_owned() };
    let mut disks: Vec<_> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| fs::read_to_string(path.join("size")).is_ok_and(|size| size.trim() != "0"))
        .filter(|path| !is_hidden(path))
        .map(|path| {
            let name = path.file_name().unwrap_or_default().display().to_string();
            serial_at(&path).map_or(name.clone(), |serial| format!("{name} (serial {serial})"))
        })
        .collect();
    disks.sort();
    format!("the disks here are: {}", disks.join(", "))
}

/// The devices on top of the one with this folder in sysfs. One that vanishes meanwhile is left out.
fn dependents(sysfs: &Path) -> io::Result<Vec<Dependent>> {
    let gone = |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    let list = |dir: PathBuf| match fs::read_dir(dir) {
        Err(error) if gone(&error) => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>(),
    };
    let mut found: Vec<Dependent> = Vec::new();
    let mut pending = vec![sysfs.to_owned()];
    while let Some(dir) = pending.pop() {
        let partitions = list(dir.clone())?.into_iter().filter(|path| path.join("partition").exists());
        for path in partitions.chain(list(dir.join("holders"))?) {
            let number = match fs::read_to_string(path.join("dev")) {
                Err(error) if gone(&error) => continue,
                text => text?,
            };
            let (major, minor) = number.trim().split_once(':').unwrap_or_default();
            let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else {
                return Err(io::Error::other(format!("{} is not a device number", number.trim())));
            };
            let dependent = Dependent {
                name: path.file_name().unwrap_or_default().display().to_string(),
                number: makedev(major, minor),
            };
            // A RAID of two partitions of one disk is found twice.
            if !found.contains(&dependent) {
                pending.push(path);
                found.push(dependent);
            }
        }
    }
    Ok(found)
}

fn sysfs_of(number: u64) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{}:{}", major(number), minor(number)))
}

/// NVMe has the serial, padded with blanks, in the controller's folder; virtio in the disk's.
fn serial_at(sysfs: &Path) -> Option<String> {
    ["device/serial", "serial"]
        .iter()
        .find_map(|file| fs::read_to_string(sysfs.join(file)).ok())
        .map(|serial| serial.trim().to_owned())
        .filter(|serial| !serial.is_empty())
}

fn by_serial(serial: &str) -> Result<Option<Device>, Failure> {
    let Some(name) = name_of(Path::new("/sys/block"), serial)? else { return Ok(None) };
    let Some(device) = Device::open(&Path::new("/dev").join(name))? else { return Ok(None) };
    match serial_at(&device.sysfs()) {
        Some(seen) if same_serial(&seen, serial) => Ok(Some(device)),
        seen => Err(Failure::new(
            Code::DeviceUntrusted,
            format!("{} should have the serial {serial}, but has {seen:?}", device.path.display()),
        )),
    }
}

/// The kernel's name of the disk with this serial; `block` is /sys/block.
fn name_of(block: &Path, serial: &str) -> Result<Option<OsString>, Failure> {
    let what = || format!("reading {}", block.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(block).named(what())? {
        let entry = entry.named(what())?;
        if !is_hidden(&entry.path()) && serial_at(&entry.path()).is_some_and(|seen| same_serial(&seen, serial)) {
            found.push(entry.file_name());
        }
    }
    if found.len() > 1 {
        let text = format!("{} disks have the serial {serial}: {found:?}", found.len());
        return Err(Failure::new(Code::DeviceUntrusted, text));
    }
    Ok(found.pop())
}

/// Native NVMe multipath has a hidden disk for each path (`nvme1c0n1`) with the same serial as the usable one (`nvme1n1`), but
/// without a node in /dev.
fn is_hidden(sysfs: &Path) -> bool {
    fs::read_to_string(sysfs.join("hidden")).is_ok_and(|hidden| hidden.trim() == "1")
}

/// EBS writes `vol0123…`; a dash is tolerated.
fn same_serial(seen: &str, serial: &str) -> bool {
    seen.replace('-', "") == serial
}

/// Accepts `nvme-Amazon_Elastic_Block_Store_vol…`, also with the namespace as `_1` or `-ns-1`, but no partition's link.
fn link_names(link: &str, serial: &str) -> bool {
    let Some((_, rest)) = link.split_once(serial) else { return false };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    rest.is_empty() || rest.strip_prefix('_').is_some_and(digits) || rest.strip_prefix("-ns-").is_some_and(digits)
}

fn by_link(serial: &str) -> Result<Option<Device>, Failure> {
    let entries = match fs::read_dir(BY_ID) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::io(format_args!("reading {BY_ID}"), error)),
    };
    for entry in entries {
        let entry = entry.named(format_args!("reading {BY_ID}"))?;
        if !is_link_name(&entry.path(), serial) {
            continue;
        }
        let Ok(path) = fs::canonicalize(entry.path()) else { continue };
        let Some(device) = Device::open(&path)? else { continue };
        if let Some(other) = serial_at(&device.sysfs()) {
            let (link, path) = (entry.path(), device.path.display());
            let text = format!("{} leads to {path}, which has the serial {other}", link.display());
            return Err(Failure::new(Code::DeviceUntrusted, text));
        }
        return Ok(Some(device));
    }
    Ok(None)
}

/// Whether this is a Xen instance, whose volumes have no serial.
pub fn is_xen() -> bool {
    fs::read_to_string("/sys/hypervisor/type").is_ok_and(|kind| kind.trim() == "xen")
}

/// On Xen the device name requested when attaching is the only identification: `/dev/sdf` appears as `/dev/xvdf`.
fn by_xen_name(device_name: &str) -> Result<Option<Device>, Failure> {
    if !is_xen() {
        return Ok(None);
    }
    let xen = device_name.replacen("/dev/sd", "/dev/xvd", 1);
    for path in [xen.as_str(), device_name] {
        if let Some(device) = Device::open(Path::new(path))?
            && serial_at(&device.sysfs()).is_none()
        {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_names_the_volume_or_its_namespace_never_a_partition() {
        let name = |rest: &str| format!("nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0{rest}");
        for rest in ["", "_1", "-ns-1"] {
            assert!(link_names(&name(rest), "vol0123456789abcdef0"), "{rest}");
        }
        for rest in ["-part1", "_1-part1", "1", "_", "-ns-"] {
            assert!(!link_names(&name(rest), "vol0123456789abcdef0"), "{rest}");
        }
        assert!(!link_names("nvme-Amazon_Elastic_Block_Store_vol0aaa", "vol0123456789abcdef0"));
    }

    #[test]
    fn the_plain_link_comes_first_and_one_that_leads_elsewhere_never() {
        let (dir, serial) = (tempfile::tempdir().unwrap(), "vol0123456789abcdef0");
        let number = fs::metadata("/dev/null").unwrap().rdev();
        let path = |suffix: &str| dir.path().join(format!("nvme-Amazon_Elastic_Block_Store_{serial}{suffix}"));
        let link = |suffix: &str, target: &str| std::os::unix::fs::symlink(target, path(suffix)).unwrap();
        assert_eq!(link_in(dir.path(), serial, number), None);
        link("-ns-1", "/dev/null");
        link("_1", "/dev/null");
        assert_eq!(link_in(dir.path(), serial, number), Some(path("_1")));
        link("", "/dev/zero");
        assert_eq!(link_in(dir.path(), serial, number), Some(path("_1")));
        fs::remove_file(path("")).unwrap();
        link("", "/dev/null");
        assert_eq!(link_in(dir.path(), serial, number), Some(path("")));
        assert!(is_link_for(Path::new("/dev/disk/by-id/x_vol0123456789abcdef0"), serial));
        assert!(!is_link_for(&path(""), serial));
    }

    /// A folder like /sys/block.
    fn sys_block(disks: &[(&str, &[(&str, &str)])]) -> tempfile::TempDir {
        let block = tempfile::tempdir().unwrap();
        for (disk, files) in disks {
            for (file, text) in *files {
                let path = block.path().join(disk).join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
        }
        block
    }

    #[test]
    fn a_hidden_path_of_a_multipath_disk_is_no_second_disk() {
        let serial = ("device/serial", "vol0123456789abcdef0  \n");
        let path: &[(&str, &str)] = &[serial, ("hidden", "1\n")];
        let other: &[(&str, &str)] = &[("device/serial", "vol0aaa\n"), ("hidden", "0\n")];
        for multipath in [&[serial, ("hidden", "0\n")][..], &[serial]] {
            let block =
                sys_block(&[("nvme1c0n1", path), ("nvme1n1", multipath), ("nvme1c1n1", path), ("nvme0n1", other)]);
            let name = name_of(block.path(), "vol0123456789abcdef0").unwrap();
            assert_eq!(name.as_deref(), Some("nvme1n1".as_ref()));
        }
        let twice = sys_block(&[("nvme1n1", &[serial]), ("nvme2n1", &[serial])]);
        assert_eq!(name_of(twice.path(), "vol0123456789abcdef0").unwrap_err().code, Code::DeviceUntrusted);
        assert_eq!(name_of(twice.path(), "vol0bbb").unwrap(), None);
    }

    #[test]
    fn partitions_and_the_devices_built_on_them_are_found_at_any_depth() {
        let dir = sys_block(&[
            ("nvme1n1", &[("dev", "259:0\n"), ("queue/rotational", "0\n")]),
            ("nvme1n1/nvme1n1p1", &[("dev", "259:1\n"), ("partition", "1\n")]),
            ("nvme1n1/nvme1n1p2", &[("dev", "259:2\n"), ("partition", "2\n")]),
            ("md0", &[("dev", "9:0\n")]),
            ("dm-0", &[("dev", "253:0\n")]),
        ]);
        let disk = dir.path().join("nvme1n1");
        for (below, above) in [("nvme1n1/nvme1n1p1", "md0"), ("nvme1n1/nvme1n1p2", "md0"), ("md0", "dm-0")] {
            let holders = dir.path().join(below).join("holders");
            fs::create_dir_all(&holders).unwrap();
            std::os::unix::fs::symlink(dir.path().join(above), holders.join(above)).unwrap();
        }

        let mut found = dependents(&disk).unwrap();

        found.sort_by(|one, other| one.name.cmp(&other.name));
        let expected = [("dm-0", 253, 0), ("md0", 9, 0), ("nvme1n1p1", 259, 1), ("nvme1n1p2", 259, 2)];
        let expected =
            expected.map(|(name, major, minor)| Dependent { name: name.to_owned(), number: makedev(major, minor) });
        assert_eq!(found, expected);
        assert_eq!(dependents(&dir.path().join("gone")).unwrap(), []);
    }
}
