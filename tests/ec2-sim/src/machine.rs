//! A machine for an instance: a root disk in memory over the host's own, in a mount namespace of its own.
//!
//! What runs on it sees the host's programs, writes to its own root disk, mounts what only it sees, and finds in
//! `/dev/disk/by-id` the links of its instance alone. Nothing of it stays: the namespace ends with its last process, and
//! the disk with its directory.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{chdir, pivot_root};

/// The major number of loop devices (Linux, Documentation/admin-guide/devices.txt).
const LOOP_MAJOR: u64 = 7;
/// More loop devices than a suite has attached at once.
const LOOPS: u64 = 256;

/// A root disk: what was written on it outlives the machine's reboots.
#[derive(Debug, Clone)]
pub struct RootDisk {
    dir: PathBuf,
}

impl RootDisk {
    /// A fresh one in `dir`, which must be on a filesystem that overlayfs can write to (tmpfs, ext4, XFS) and must not be on
    /// the overlay's own way.
    pub fn create(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        for part in ["upper", "work", "root"] {
            fs::create_dir_all(dir.join(part))?;
        }
        Ok(Self { dir })
    }
}

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    namespace: File,
}

impl Machine {
    /// Boots a machine from `disk`, with the by-id links of `by_id_dir`.
    pub fn boot(disk: &RootDisk, by_id_dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(by_id_dir)?;
        // The thread takes the new namespace on and hands it over as a descriptor.
        let namespace = thread::scope(|scope| {
            scope
                .spawn(|| {
                    enter_new_root(&disk.dir, by_id_dir)?;
                    File::open("/proc/thread-self/ns/mnt")
                })
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the machine's boot panicked")))
        })?;
        Ok(Self { namespace })
    }

    /// A command that will run on the machine, as root.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = self.namespace.as_raw_fd();
        let enter = move || {
            // SAFETY: the descriptor belongs to the machine, which outlives the spawning of its commands.
            let namespace = unsafe { BorrowedFd::borrow_raw(namespace) };
            setns(namespace, CloneFlags::CLONE_NEWNS)?;
            Ok(())
        };
        // SAFETY: between fork and exec only setns(2) is called, which is async-signal-safe.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Does something on the machine, within this process.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // A thread shares its root directory with the others until it says otherwise.
                unshare(CloneFlags::CLONE_FS)?;
                setns(&self.namespace, CloneFlags::CLONE_NEWNS)?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the work on the machine panicked")))
        })
    }

    /// Reads a file of the machine as text.
    pub fn read(&self, path: impl AsRef<Path> + Send + Sync) -> io::Result<String> {
        self.inside(|| fs::read_to_string(path.as_ref()))?
    }
}

fn enter_new_root(disk: &Path, by_id_dir: &Path) -> io::Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Nothing mounted from here on shows outside.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let root = disk.join("root");
    let layers =
        format!("lowerdir=/,upperdir={},workdir={}", disk.join("upper").display(), disk.join("work").display());
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(layers.as_str()))?;
    for shared in ["proc", "sys"] {
        mount(Some(&Path::new("/").join(shared)), &root.join(shared), none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    }
    for fresh in ["dev", "run", "tmp"] {
        mount(Some("tmpfs"), &root.join(fresh), Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))?;
    }
    make_devices(&root.join("dev"))?;
    let by_id = root.join("dev/disk/by-id");
    fs::create_dir_all(&by_id)?;
    mount(Some(by_id_dir), &by_id, none, MsFlags::MS_BIND, none)?;
    chdir(&root)?;
    // pivot_root(2), "Notes": with both arguments the same, the old root lies over the new one until it is unmounted.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    Ok(())
}

/// The devices programs expect, and all loop devices: one that is not in use answers ENXIO, as if it were not there.
fn make_devices(dev: &Path) -> io::Result<()> {
    let mode = Mode::from_bits_truncate(0o666);
    for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
        mknod(&dev.join(name), SFlag::S_IFCHR, mode, makedev(1, minor))?;
    }
    for minor in 0..LOOPS {
        let mode = Mode::from_bits_truncate(0o660);
        mknod(&dev.join(format!("loop{minor}")), SFlag::S_IFBLK, mode, makedev(LOOP_MAJOR, minor))?;
    }
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        symlink(target, dev.join(link))?;
    }
    Ok(())
}
