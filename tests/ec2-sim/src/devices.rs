//! The block devices instances see: loop devices over the volumes' backing files with the links udev would make, or what a
//! machine of its own has slots for.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::config::InstanceSpec;
use crate::ids::{InstanceId, VolumeId};
use crate::lock;

/// `LO_FLAGS_AUTOCLEAR`: the kernel frees the device at its last close, also when the simulator is killed.
const AUTOCLEAR: u32 = 4;
/// `LO_FLAGS_PARTSCAN`: partitions show, as they do on a real volume.
const PARTSCAN: u32 = 8;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

mod ioctl {
    use super::LoopConfig;

    // Numbers of linux/loop.h.
    nix::ioctl_none_bad!(loop_ctl_get_free, 0x4C82);
    nix::ioctl_none_bad!(loop_set_capacity, 0x4C07);
    nix::ioctl_write_ptr_bad!(loop_configure, 0x4C0A, LoopConfig);
}

/// A loop device, which lives at least as long as this.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    /// Held open, so that the device outlives the clients' own opens.
    pub(crate) file: File,
    pub(crate) path: PathBuf,
}

impl LoopDevice {
    pub(crate) fn attach(backing: &Path) -> io::Result<Self> {
        let backing_file = OpenOptions::new().read(true).write(true).open(backing)?;
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
        // Between being told a free device and taking it another process may take it: then ask again.
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            // SAFETY: takes no argument; the descriptor is open.
            let number = unsafe { ioctl::loop_ctl_get_free(control.as_raw_fd()) }?;
            match Self::configure(number, &backing_file) {
                Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(1));
                }
                done => return done,
            }
        }
    }

    fn configure(number: i32, backing_file: &File) -> io::Result<Self> {
        let path = PathBuf::from(format!("/dev/loop{number}"));
        make_node(&path, number)?;
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let config = LoopConfig {
            fd: u32::try_from(backing_file.as_raw_fd()).map_err(io::Error::other)?,
            block_size: 512,
            info: LoopInfo {
                device: 0,
                inode: 0,
                rdevice: 0,
                offset: 0,
                size_limit: 0,
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags: AUTOCLEAR | PARTSCAN,
                file_name: [0; 64],
                crypt_name: [0; 64],
                encrypt_key: [0; 32],
                init: [0; 2],
            },
            reserved: [0; 8],
        };
        // SAFETY: `config` has the layout the kernel reads and outlives the call; both descriptors are open.
        unsafe { ioctl::loop_configure(file.as_raw_fd(), &raw const config) }?;
        Ok(Self { file, path })
    }

    fn reread_size(&self) -> io::Result<()> {
        // SAFETY: takes no argument; the descriptor is open.
        unsafe { ioctl::loop_set_capacity(self.file.as_raw_fd()) }?;
        Ok(())
    }
}

/// Makes the node where no devtmpfs does.
fn make_node(path: &Path, number: i32) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device()) {
        return Ok(());
    }
    let numbers = fs::read_to_string(format!("/sys/block/loop{number}/dev"))?;
    let (major, minor) = numbers.trim().split_once(':').ok_or_else(|| io::Error::other("no major:minor in sysfs"))?;
    let device = makedev(major.parse().map_err(io::Error::other)?, minor.parse().map_err(io::Error::other)?);
    match mknod(path, SFlag::S_IFBLK, Mode::from_bits_truncate(0o660), device) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The slots of a machine that is not this one, such as a virtual machine: what is attached to it is plugged in there.
pub trait Slots: fmt::Debug + Send + Sync {
    /// Plugs in the volume whose bytes are in `backing`, and tells where, for the log.
    fn plug(&self, volume: &VolumeId, backing: &Path) -> io::Result<String>;

    /// Asks the machine to let go of it.
    fn unplug(&self, volume: &VolumeId);

    /// Whether the machine has let go of it; one that is off has.
    fn is_gone(&self, volume: &VolumeId) -> bool;

    /// Tells the machine that the backing file has grown.
    fn reread_size(&self, volume: &VolumeId) -> io::Result<()>;
}

/// A released device, which another process may still hold open.
#[derive(Debug)]
pub(crate) struct Released {
    pub(crate) path: PathBuf,
    from: Origin,
}

#[derive(Debug)]
enum Origin {
    /// A loop device over this file.
    Loop(PathBuf),
    Slot(Arc<dyn Slots>, VolumeId),
}

impl Released {
    /// Whether the kernel that had it has freed it.
    pub(crate) fn is_gone(&self) -> bool {
        let backing = match &self.from {
            Origin::Loop(backing) => backing,
            Origin::Slot(slots, volume) => return slots.is_gone(volume),
        };
        let Some(name) = self.path.file_name() else {
            return true;
        };
        let shown = Path::new("/sys/block").join(name).join("loop/backing_file");
        // The number may by now belong to a device over another file.
        fs::read_to_string(shown).map_or(true, |file| Path::new(file.trim_end()) != backing)
    }
}

struct Present {
    backing: PathBuf,
    path: PathBuf,
    device: Device,
}

enum Device {
    Loop { device: LoopDevice, link: PathBuf },
    Plugged(Arc<dyn Slots>),
}

/// The devices of all instances.
#[derive(Default)]
pub(crate) struct Devices(Mutex<BTreeMap<(VolumeId, InstanceId), Present>>);

impl Devices {
    /// Makes the device. One backing file is never behind two devices at once, unless `shared`.
    pub(crate) fn appear(
        &self,
        volume: &VolumeId,
        instance: &InstanceId,
        backing: &Path,
        spec: &InstanceSpec,
        shared: bool,
    ) -> io::Result<PathBuf> {
        let mut present = lock(&self.0);
        if !shared && present.values().any(|other| other.backing == backing) {
            return Err(io::Error::other(format!("{} is behind a device already", backing.display())));
        }
        let (device, path) = match &spec.slots {
            None => make_loop(volume, backing, &spec.by_id_dir)?,
            Some(slots) => (Device::Plugged(Arc::clone(slots)), slots.plug(volume, backing)?.into()),
        };
        let new = Present { backing: backing.to_owned(), path: path.clone(), device };
        present.insert((volume.clone(), instance.clone()), new);
        Ok(path)
    }

    /// Removes the device, unless a process holds it open.
    pub(crate) fn release(&self, volume: &VolumeId, instance: &InstanceId) -> Option<Released> {
        let present = lock(&self.0).remove(&(volume.clone(), instance.clone()))?;
        Some(release(volume, present))
    }

    /// Tells the kernel that the backing file has grown.
    pub(crate) fn reread_size(&self, volume: &VolumeId) -> Vec<(InstanceId, PathBuf, io::Result<()>)> {
        lock(&self.0)
            .iter()
            .filter(|((id, _), _)| id == volume)
            .map(|((_, instance), present)| {
                let told = match &present.device {
                    Device::Loop { device, .. } => device.reread_size(),
                    Device::Plugged(slots) => slots.reread_size(volume),
                };
                (instance.clone(), present.path.clone(), told)
            })
            .collect()
    }

    pub(crate) fn path(&self, volume: &VolumeId, instance: &InstanceId) -> Option<PathBuf> {
        lock(&self.0).get(&(volume.clone(), instance.clone())).map(|present| present.path.clone())
    }

    /// Releases everything and waits a moment for the kernel; a device that is still held open is freed at the
    /// last close.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *lock(&self.0));
        let mut left: Vec<Released> = all.into_iter().map(|((volume, _), present)| release(&volume, present)).collect();
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            left.retain(|device| !device.is_gone());
            if left.is_empty() {
                return;
            }
            if Instant::now() >= deadline {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        for device in left {
            eprintln!("ec2-sim: {} is still held open; the kernel frees it at the last close", device.path.display());
        }
    }
}

fn make_loop(volume: &VolumeId, backing: &Path, by_id: &Path) -> io::Result<(Device, PathBuf)> {
    let device = LoopDevice::attach(backing)?;
    let path = device.path.clone();
    let link = by_id.join(link_name(volume));
    // Renamed into place: nobody ever sees it half made, and a stale one is replaced.
    let fresh = by_id.join(format!(".{}.new", link_name(volume)));
    let _ = fs::remove_file(&fresh);
    symlink(&path, &fresh)?;
    fs::rename(&fresh, &link)?;
    Ok((Device::Loop { device, link }, path))
}

fn release(volume: &VolumeId, present: Present) -> Released {
    let Present { backing, path, device } = present;
    let from = match device {
        Device::Loop { device, link } => {
            let _ = fs::remove_file(link);
            drop(device);
            Origin::Loop(backing)
        }
        Device::Plugged(slots) => {
            slots.unplug(volume);
            Origin::Slot(slots, volume.clone())
        }
    };
    Released { path, from }
}

/// The link udev's rule of Amazon Linux and systemd make for an EBS volume: its serial has no dash.
pub(crate) fn link_name(volume: &VolumeId) -> String {
    format!("nvme-Amazon_Elastic_Block_Store_{}", volume.replace('-', ""))
}
