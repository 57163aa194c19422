//! A machine for an instance: a fresh root disk in memory, in a mount namespace of its own.
//!
//! What runs on it has the host's programs (`PROGRAMS`) and the settings that they cannot do without (`SETTINGS`). It sees
//! nothing else of the host's root: a host that has a `/mydata` or is a node itself makes no difference. It writes to its own
//! root disk, mounts what only it sees, and finds in `/dev/disk/by-id` the links of its instance alone. Nothing of it stays:
//! the namespace ends with its last process, and the disk with its directory.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Pid, chdir, pivot_root};

/// The major number of loop devices (Linux, Documentation/admin-guide/devices.txt).
const LOOP_MAJOR: u64 = 7;
/// How often processes that were killed are looked at.
const GONE_POLL: Duration = Duration::from_millis(2);
/// More loop devices than a suite has attached at once.
const LOOPS: u64 = 256;

/// The host's folders that hold programs and their libraries, where it has them. A machine writes over them on its own disk.
const PROGRAMS: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Below [`PROGRAMS`], but the host's own business: empty on a machine.
const LOCAL: &str = "local";
/// What is copied of the host's `/etc`, where it is there: what its programs need in order to start, and the public
/// certificates.
const SETTINGS: [&str; 12] = [
    "alternatives",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "mke2fs.conf",
    "nsswitch.conf",
    "os-release",
    "pki/ca-trust/extracted",
    "pki/tls/cert.pem",
    "pki/tls/certs",
    "ssl/cert.pem",
    "ssl/certs",
];
/// Folders that a machine has from the start, empty.
const EMPTY: [&str; 21] = [
    "boot",
    "dev",
    "etc",
    "home",
    "media",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "tmp",
    "var",
    "var/cache",
    "var/lib",
    "var/log",
    "var/opt",
    "var/spool",
    "var/tmp",
    "var/lib/misc",
];
/// Links that a machine has from the start.
const LINKS: [(&str, &str); 3] = [("var/run", "/run"), ("var/lock", "/run/lock"), ("etc/mtab", "/proc/self/mounts")];
/// Files that a machine has from the start, in place of the host's.
const FILES: [(&str, &str); 4] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/bash\n\
         daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
         bin:x:2:2:bin:/bin:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("etc/group", "root:x:0:\ndaemon:x:1:\nbin:x:2:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/fstab", ""),
];

/// A root disk: what was written on it outlives the machine's reboots.
#[derive(Debug, Clone)]
pub struct RootDisk {
    dir: PathBuf,
}

impl RootDisk {
    /// A freshly installed one in `dir`, which must be on a filesystem that overlayfs can write to (tmpfs, ext4, XFS).
    pub fn create(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let disk = Self { dir: dir.into() };
        let root = disk.root();
        fs::create_dir_all(&root)?;
        for folder in EMPTY {
            fs::create_dir(root.join(folder))?;
        }
        for private in ["root", "tmp", "var/tmp"] {
            let mode = if private == "root" { 0o700 } else { 0o1777 };
            fs::set_permissions(root.join(private), fs::Permissions::from_mode(mode))?;
        }
        for (link, target) in LINKS {
            symlink(target, root.join(link))?;
        }
        for setting in SETTINGS {
            let (from, to) = (Path::new("/etc").join(setting), root.join("etc").join(setting));
            if from.symlink_metadata().is_ok() {
                fs::create_dir_all(to.parent().unwrap_or(&root))?;
                copy(&from, &to)?;
            }
        }
        for (file, text) in FILES {
            fs::write(root.join(file), text)?;
        }
        for (host, name) in programs() {
            let here = root.join(name);
            if let Ok(target) = fs::read_link(&host) {
                symlink(target, here)?;
                continue;
            }
            fs::create_dir(here)?;
            for part in [disk.written(name), disk.scratch(name)] {
                fs::create_dir_all(part)?;
            }
        }
        // Hides the host's. A folder that is made in place of a whiteout hides what is below it, too (Linux,
        // Documentation/filesystems/overlayfs.rst).
        mknod(&disk.written("usr").join(LOCAL), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))?;
        Ok(disk)
    }

    /// One that [`RootDisk::create`] has made before.
    pub fn open(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The root directory, without what is mounted there.
    fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// What was written over one of [`PROGRAMS`].
    fn written(&self, name: &str) -> PathBuf {
        self.dir.join("written").join(name)
    }

    /// Overlayfs's working directory for it.
    fn scratch(&self, name: &str) -> PathBuf {
        self.dir.join("scratch").join(name)
    }
}

/// Those of [`PROGRAMS`] that the host has, each with its path there.
fn programs() -> impl Iterator<Item = (PathBuf, &'static str)> {
    let all = PROGRAMS.into_iter().map(|name| (Path::new("/").join(name), name));
    all.filter(|(host, _)| host.symlink_metadata().is_ok())
}

/// Copies a file, a link or a folder as it is.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let kind = from.symlink_metadata()?.file_type();
    if kind.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if !kind.is_dir() {
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    namespace: File,
    /// The network namespace of its commands, where it is not the caller's.
    network: Option<File>,
}

impl Machine {
    /// Ends every process of the machine, as a power cut does. What is mounted there goes with the last of them.
    pub fn switch_off(self) -> io::Result<()> {
        let namespace = self.namespace.metadata()?.ino();
        // A process may have started another one meanwhile: until none is found.
        loop {
            let mut found = false;
            for entry in fs::read_dir("/proc")? {
                let name = entry?.file_name();
                let Some(process) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
                // A process that has gone meanwhile has no namespace, nor has one that only waits for its parent.
                let its = fs::metadata(format!("/proc/{process}/ns/mnt"));
                if its.is_ok_and(|its| its.ino() == namespace) {
                    found = true;
                    let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
                }
            }
            if !found {
                return Ok(());
            }
            thread::sleep(GONE_POLL);
        }
    }

    /// Boots a machine from `disk`, with the by-id links of `by_id_dir`.
    pub fn boot(disk: &RootDisk, by_id_dir: &Path) -> io::Result<Self> {
        Self::boot_with(disk, by_id_dir, &[])
    }

    /// As [`Machine::boot`], with files of the host, each at a place of the machine.
    pub fn boot_with(disk: &RootDisk, by_id_dir: &Path, files: &[(&Path, &Path)]) -> io::Result<Self> {
        fs::create_dir_all(by_id_dir)?;
        // The thread takes the new namespace on and hands it over as a descriptor.
        let namespace = thread::scope(|scope| {
            scope
                .spawn(|| {
                    enter_new_root(disk, by_id_dir, files)?;
                    File::open("/proc/thread-self/ns/mnt")
                })
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the machine's boot panicked")))
        })?;
        Ok(Self { namespace, network: None })
    }

    /// Puts the machine into a network namespace, a file such as `/proc/self/ns/net`. It has the host's network otherwise.
    pub fn join_network(&mut self, namespace: File) {
        self.network = Some(namespace);
    }

    /// A command that will run on the machine, as root.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = self.namespace.as_raw_fd();
        let network = self.network.as_ref().map(AsRawFd::as_raw_fd);
        let enter = move || {
            if let Some(network) = network {
                // SAFETY: as below.
                let network = unsafe { BorrowedFd::borrow_raw(network) };
                setns(network, CloneFlags::CLONE_NEWNET)?;
            }
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

    /// What a shell command prints on the machine; that it fails is an error.
    pub fn shell(&self, script: impl AsRef<OsStr>) -> io::Result<String> {
        let output = self.command("bash").arg("-ec").arg(script.as_ref()).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("{}: {} {}", script.as_ref().display(), output.status, said.trim())))
    }

    /// Writes a file of the machine.
    pub fn write(&self, path: impl AsRef<Path> + Send + Sync, contents: impl AsRef<[u8]> + Send) -> io::Result<()> {
        self.inside(|| {
            let path = path.as_ref();
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            fs::write(path, contents)
        })?
    }

    /// Reads a file of the machine as text.
    pub fn read(&self, path: impl AsRef<Path> + Send + Sync) -> io::Result<String> {
        self.inside(|| fs::read_to_string(path.as_ref()))?
    }
}

fn enter_new_root(disk: &RootDisk, by_id_dir: &Path, files: &[(&Path, &Path)]) -> io::Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Nothing mounted from here on shows outside.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let root = disk.root();
    mount(Some(&root), &root, none, MsFlags::MS_BIND, none)?;
    for (host, name) in programs().filter(|(host, _)| !host.is_symlink()) {
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            host.display(),
            disk.written(name).display(),
            disk.scratch(name).display()
        );
        mount(Some("overlay"), &root.join(name), Some("overlay"), MsFlags::empty(), Some(layers.as_str()))?;
    }
    fs::create_dir_all(root.join("usr").join(LOCAL).join("bin"))?;
    for shared in ["proc", "sys"] {
        mount(Some(&Path::new("/").join(shared)), &root.join(shared), none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    }
    for (fresh, options) in [("dev", "mode=0755"), ("run", "mode=0755"), ("tmp", "mode=1777")] {
        mount(Some("tmpfs"), &root.join(fresh), Some("tmpfs"), MsFlags::empty(), Some(options))?;
    }
    make_devices(&root.join("dev"))?;
    let by_id = root.join("dev/disk/by-id");
    fs::create_dir_all(&by_id)?;
    mount(Some(by_id_dir), &by_id, none, MsFlags::MS_BIND, none)?;
    for (file, place) in files {
        let place = root.join(place.strip_prefix("/").unwrap_or(place));
        fs::create_dir_all(place.parent().unwrap_or(&root))?;
        File::create(&place)?;
        mount(Some(*file), &place, none, MsFlags::MS_BIND, none)?;
    }
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
