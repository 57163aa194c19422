//! Grows mounted filesystems by ioctl, without external tools.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::blkid;
use super::device::Device;
use super::ext4::Superblock;
use crate::config::FileSystemType;

/// `XFS_MIN_AG_BLOCKS` of the kernel's `xfs_fs.h`: the kernel leaves a smaller remainder unused.
const XFS_MIN_GROUP_BLOCKS: u64 = 64;

/// `struct xfs_fsop_geom_v4` of the kernel's `xfs_fs.h`: the layout that every kernel since 2.4 supports.
#[repr(C)]
#[derive(Default)]
struct XfsGeometry {
    block_size: u32,
    /// `rtextsize` to `inodesize`.
    _sizes: [u32; 6],
    max_inode_percent: u32,
    data_blocks: u64,
    /// `rtblocks`, `rtextents`, `logstart`.
    _places: [u64; 3],
    uuid: [u8; 16],
    /// `sunit` to `logsunit`.
    _others: [u32; 8],
}

/// `struct xfs_growfs_data` of the kernel's `xfs_fs.h`.
#[repr(C)]
struct XfsGrow {
    new_blocks: u64,
    max_inode_percent: u32,
}

mod ioctl {
    use super::{XfsGeometry, XfsGrow};
    nix::ioctl_read!(xfs_geometry, b'X', 124, XfsGeometry);
    nix::ioctl_write_ptr!(xfs_grow, b'X', 110, XfsGrow);
    // EXT4_IOC_RESIZE_FS, fs/ext4/ext4.h.
    nix::ioctl_write_ptr!(ext4_resize, b'f', 16, u64);
}

/// The present and possible size of a mounted filesystem, in blocks.
pub struct Extent {
    /// The size of a block, in bytes.
    pub block_size: u64,
    /// The filesystem's blocks.
    pub blocks: u64,
    /// The blocks that it can grow to on this device.
    pub possible: u64,
    max_inode_percent: u32,
}

impl Extent {
    /// Whether the filesystem can grow on this device.
    pub fn can_grow(&self) -> bool {
        self.possible > self.blocks
    }
}

/// The UUID of the XFS mounted at `mount_point`, formatted as by blkid.
pub fn xfs_uuid(mount_point: &Path) -> io::Result<String> {
    Ok(blkid::uuid_text(xfs_geometry(mount_point)?.uuid))
}

fn xfs_geometry(mount_point: &Path) -> io::Result<XfsGeometry> {
    let dir = File::open(mount_point)?;
    let mut geometry = XfsGeometry::default();
    // SAFETY: the descriptor is open, and the structure has the layout and size that the request number encodes.
    unsafe { ioctl::xfs_geometry(dir.as_raw_fd(), &raw mut geometry) }?;
    Ok(geometry)
}

/// Measures the filesystem mounted at `mount_point`.
pub fn measure(kind: FileSystemType, device: &Device, mount_point: &Path) -> io::Result<Extent> {
    match kind {
        FileSystemType::Xfs => {
            let geometry = xfs_geometry(mount_point)?;
            let block_size = u64::from(geometry.block_size);
            let possible = device_blocks(device, block_size)?;
            let rest = possible.saturating_sub(geometry.data_blocks);
            Ok(Extent {
                block_size,
                blocks: geometry.data_blocks,
                possible: if rest < XFS_MIN_GROUP_BLOCKS { geometry.data_blocks } else { possible },
                max_inode_percent: geometry.max_inode_percent,
            })
        }
        FileSystemType::Ext4 => {
            let superblock = Superblock::read(device.file())?;
            let block_size = superblock.block_size();
            // s_blocks_count_hi is valid only with the 64bit feature (0x80 of the incompatible ones).
            let high = if superblock.word(0x60) & 0x80 == 0 { 0 } else { superblock.word(0x150) };
            Ok(Extent {
                block_size,
                blocks: u64::from(high) << 32 | u64::from(superblock.word(0x4)),
                possible: device_blocks(device, block_size)?,
                max_inode_percent: 0,
            })
        }
    }
}

/// Grows the filesystem mounted at `mount_point` to the device's size.
pub fn grow(kind: FileSystemType, mount_point: &Path, extent: &Extent) -> io::Result<()> {
    let dir = File::open(mount_point)?;
    match kind {
        FileSystemType::Xfs => {
            let request = XfsGrow { new_blocks: extent.possible, max_inode_percent: extent.max_inode_percent };
            // SAFETY: the descriptor is open, and the structure has the layout and size that the request number encodes.
            unsafe { ioctl::xfs_grow(dir.as_raw_fd(), &raw const request) }?;
        }
        FileSystemType::Ext4 => {
            // SAFETY: the descriptor is open, and the kernel reads one u64.
            unsafe { ioctl::ext4_resize(dir.as_raw_fd(), &raw const extent.possible) }?;
        }
    }
    Ok(())
}

/// Reads the size again, because the device may have grown since it was opened.
fn device_blocks(device: &Device, block_size: u64) -> io::Result<u64> {
    if block_size == 0 {
        return Err(io::Error::other("a filesystem with a block size of 0"));
    }
    Ok(device.size_now()? / block_size)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        // From the request numbers XFS_IOC_FSGEOMETRY_V4 0x8070587c and XFS_IOC_FSGROWFSDATA 0x4010586e.
        assert_eq!(size_of::<XfsGeometry>(), 0x70);
        assert_eq!((offset_of!(XfsGeometry, data_blocks), offset_of!(XfsGeometry, uuid)), (32, 64));
        assert_eq!(size_of::<XfsGrow>(), 0x10);
    }
}
