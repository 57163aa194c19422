//! Many block devices behind few loop devices: each is a partition of a sparse loop device.
//!
//! The kernel's loop devices are the whole host's, and the machines of other tests know 256 of them. A fleet of a thousand real
//! agents with a real disk each takes no more than a handful this way. The partitions are in no partition table: the kernel is
//! told of them, and forgets them with the loop device.

use std::ffi::c_void;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::devices::{LoopDevice, Slots, link_name};
use crate::ids::VolumeId;
use crate::machine::Machine;

/// The kernel has 256 partitions of a disk at most (Linux, `DISK_MAX_PARTS`).
const OF_ONE_DISK: usize = 200;
/// Nothing lies before the first partition, where a partition table would be.
const FIRST: u64 = 1 << 20;

/// `struct blkpg_ioctl_arg` of `linux/blkpg.h`.
#[repr(C)]
struct Request {
    operation: i32,
    flags: i32,
    length: i32,
    data: *mut c_void,
}

/// `struct blkpg_partition` of `linux/blkpg.h`.
#[repr(C)]
struct NewPartition {
    start: i64,
    length: i64,
    number: i32,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

/// `BLKPG_ADD_PARTITION`
const ADD: i32 = 1;

mod ioctl {
    // BLKPG of linux/blkpg.h.
    nix::ioctl_write_ptr_bad!(blkpg, 0x1269, super::Request);
}

/// Disks of one size, for one instance each.
#[derive(Debug)]
pub struct Partitions {
    disks: Vec<Disk>,
    dir: PathBuf,
    size: u64,
}

#[derive(Debug)]
struct Disk {
    device: LoopDevice,
    backing: PathBuf,
}

impl Partitions {
    /// Makes `count` disks of `size` bytes, over sparse files in `dir`.
    pub fn create(dir: &Path, count: usize, size: u64) -> io::Result<Arc<Self>> {
        fs::create_dir_all(dir)?;
        let mut disks = Vec::new();
        for first in (0..count).step_by(OF_ONE_DISK) {
            let here = OF_ONE_DISK.min(count - first);
            let backing = dir.join(format!("disks-{first}.img"));
            File::create(&backing)?.set_len(FIRST + size * u64::try_from(here).map_err(io::Error::other)?)?;
            let device = LoopDevice::attach(&backing)?;
            for index in 0..here {
                add(&device, index, size)?;
            }
            disks.push(Disk { device, backing });
        }
        Ok(Arc::new(Self { disks, dir: dir.to_owned(), size }))
    }

    /// The slot of a machine whose by-id links are in `by_id_dir`: what is attached to it is disk `index`.
    pub fn slot(self: &Arc<Self>, index: usize, by_id_dir: &Path) -> io::Result<Slot> {
        let (_, name) = self.locate(index)?;
        let numbers = fs::read_to_string(Path::new("/sys/class/block").join(&name).join("dev"))?;
        let (major, minor) = numbers.trim().split_once(':').ok_or_else(|| io::Error::other("no major:minor"))?;
        let number = makedev(major.parse().map_err(io::Error::other)?, minor.parse().map_err(io::Error::other)?);
        let node = self.dir.join(&name);
        make_node(&node, number)?;
        let by_id_dir = by_id_dir.to_owned();
        Ok(Slot { all: Arc::clone(self), index, name, number, node, by_id_dir })
    }

    /// The loop device of a disk, and the partition's name.
    fn locate(&self, index: usize) -> io::Result<(&Disk, String)> {
        let disk = self.disks.get(index / OF_ONE_DISK).ok_or_else(|| io::Error::other("there is no such disk"))?;
        let name = disk.device.path.file_name().unwrap_or_default().display();
        Ok((disk, format!("{name}p{}", index % OF_ONE_DISK + 1)))
    }

    /// Gives the memory of a disk back, with all that was on it.
    fn wipe(&self, index: usize) -> io::Result<()> {
        let (disk, _) = self.locate(index)?;
        let size = i64::try_from(self.size).map_err(io::Error::other)?;
        let start = start_of(index % OF_ONE_DISK, self.size)?;
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(&File::options().write(true).open(&disk.backing)?, hole, start, size)?)
    }
}

fn start_of(index: usize, size: u64) -> io::Result<i64> {
    let before = u64::try_from(index).map_err(io::Error::other)? * size;
    i64::try_from(FIRST + before).map_err(io::Error::other)
}

fn add(device: &LoopDevice, index: usize, size: u64) -> io::Result<()> {
    let mut partition = NewPartition {
        start: start_of(index, size)?,
        length: i64::try_from(size).map_err(io::Error::other)?,
        number: i32::try_from(index + 1).map_err(io::Error::other)?,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let length = i32::try_from(size_of::<NewPartition>()).map_err(io::Error::other)?;
    let request = Request { operation: ADD, flags: 0, length, data: (&raw mut partition).cast() };
    // SAFETY: both structures have the layout that the kernel reads, and outlive the call; the descriptor is open.
    unsafe { ioctl::blkpg(device.file.as_raw_fd(), &raw const request) }?;
    Ok(())
}

fn make_node(path: &Path, number: u64) -> io::Result<()> {
    match mknod(path, SFlag::S_IFBLK, Mode::from_bits_truncate(0o660), number) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The slot of one machine, with its own disk.
#[derive(Debug)]
pub struct Slot {
    all: Arc<Partitions>,
    index: usize,
    /// The kernel's name of the partition.
    name: String,
    number: u64,
    /// A node outside the machine.
    node: PathBuf,
    by_id_dir: PathBuf,
}

impl Slot {
    /// Makes the device's node on the machine, as devtmpfs would.
    pub fn prepare(&self, machine: &Machine) -> io::Result<()> {
        let (node, number) = (Path::new("/dev").join(&self.name), self.number);
        machine.inside(move || make_node(&node, number))?
    }

    /// Gives the disk's memory back. To be called once it is [gone](Slots::is_gone).
    pub fn wipe(&self) -> io::Result<()> {
        self.all.wipe(self.index)
    }
}

impl Slots for Slot {
    fn plug(&self, volume: &VolumeId, _: &Path) -> io::Result<String> {
        let device = format!("/dev/{}", self.name);
        symlink(&device, self.by_id_dir.join(link_name(volume)))?;
        Ok(device)
    }

    fn unplug(&self, volume: &VolumeId) {
        let _ = fs::remove_file(self.by_id_dir.join(link_name(volume)));
    }

    fn is_gone(&self, _: &VolumeId) -> bool {
        // As long as it is mounted somewhere, the kernel lets nobody open it exclusively.
        File::options().read(true).custom_flags(OFlag::O_EXCL.bits()).open(&self.node).is_ok()
    }

    fn reread_size(&self, _: &VolumeId) -> io::Result<()> {
        Err(io::Error::other("a partition does not grow"))
    }
}
