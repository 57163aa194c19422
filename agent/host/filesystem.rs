//! Makes filesystems and checks existing ones.

use std::fmt;
use std::fs::{self, File};
use std::path::Path;
use std::process::Output;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::command;
use super::device::Device;
use crate::config::FileSystemType;
use crate::failure::{Code, Failure, Named};

/// The program that makes a filesystem of this type.
fn mkfs_program(kind: FileSystemType) -> &'static str {
    match kind {
        FileSystemType::Xfs => "mkfs.xfs",
        FileSystemType::Ext4 => "mkfs.ext4",
    }
}

/// The package with the filesystem's tools, in every distribution that the agent supports.
pub fn package(kind: FileSystemType) -> &'static str {
    match kind {
        FileSystemType::Xfs => "xfsprogs",
        FileSystemType::Ext4 => "e2fsprogs",
    }
}

/// An installed mkfs.
pub struct Maker {
    kind: FileSystemType,
    /// Major and minor version.
    version: (u32, u32),
}

/// Formats the version, as `6.1`.
impl fmt::Display for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.version.0, self.version.1)
    }
}

impl Maker {
    /// Runs `mkfs -V` to get the version.
    pub async fn find(kind: FileSystemType) -> Result<Self, Failure> {
        let output = command::run(mkfs_program(kind), &["-V"], None).await?;
        let said = command::printed(&output);
        let version = parse_version(&said).ok_or_else(|| {
            let text = format!("{} -V does not print a version: {}", mkfs_program(kind), said.trim());
            Failure::new(Code::ToolFailed, text)
        })?;
        Ok(Maker { kind, version })
    }

    /// The type of filesystem it makes.
    pub fn kind(&self) -> FileSystemType {
        self.kind
    }

    /// Makes a filesystem with this UUID on a device that was proven blank, never with a force option. The child inherits
    /// `lock`, the device's lock. Returns mkfs's status and output.
    pub async fn make(&self, device: &Device, lock: &File, uuid: &str) -> Result<Output, Failure> {
        let path = device.path.to_string_lossy();
        let mut arguments = self.options();
        let id = self.uuid_option(uuid);
        arguments.extend([id.0, &id.1, &path]);
        command::run(mkfs_program(self.kind), &arguments, Some(lock)).await
    }

    /// A sparse file in memory with everything that the same mkfs writes on a disk of `size` bytes.
    ///
    /// For ext4 only: `mkfs.xfs` would write its whole log, gigabytes, and its remains are recognised without a model.
    pub async fn model(&self, size: u64, uuid: &str) -> Result<File, Failure> {
        let what = || format!("making a model of the filesystem in memory ({size} bytes, sparse)");
        let file = File::from(memfd_create("model", MFdFlags::MFD_CLOEXEC).named(what())?);
        file.set_len(size).named(what())?;
        let mut arguments = self.options();
        let id = self.uuid_option(uuid);
        // The child's only access to the file is its standard input. Without -F, e2fsprogs before 1.43 asks for confirmation
        // before it writes to a regular file.
        arguments.extend([id.0, &id.1, "-F", "/proc/self/fd/0"]);
        command::must(mkfs_program(self.kind), &arguments, Some(&file)).await?;
        Ok(file)
    }

    fn uuid_option(&self, uuid: &str) -> (&'static str, String) {
        match self.kind {
            FileSystemType::Xfs => ("-m", format!("uuid={uuid}")),
            FileSystemType::Ext4 => ("-U", uuid.to_owned()),
        }
    }

    /// No discard pass: a fresh EBS volume has nothing to discard, and on a volume from a snapshot discarding only takes time.
    /// ext4's tables are initialised in the background after the mount.
    ///
    /// What a newer mkfs switches on by itself is left off where an older image's kernel could not mount the result
    /// (docs/facts.md, "What is on a disk"). The floor is Amazon Linux 2's first kernel, 4.14. An option is given only to a
    /// version that knows it; the older ones do not have the feature either.
    fn options(&self) -> Vec<&str> {
        match self.kind {
            FileSystemType::Xfs => {
                let mut options = vec!["-q", "-K"];
                // xfsprogs' own lts_4.19.conf switches off the same; reflink has been mountable since 4.9.
                if self.version >= (5, 10) {
                    options.extend(["-m", "bigtime=0,inobtcount=0"]);
                }
                if self.version >= (5, 19) {
                    options.extend(["-i", "nrext64=0"]);
                }
                if self.version >= (6, 10) {
                    options.extend(["-i", "exchange=0", "-n", "parent=0"]);
                }
                options
            }
            FileSystemType::Ext4 => {
                let mut options = vec!["-q", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"];
                // The kernel knows orphan_file since 5.15.
                if self.version >= (1, 47) {
                    options.extend(["-O", "^orphan_file"]);
                }
                options
            }
        }
    }
}

/// The first `NUMBER.NUMBER` of a version line.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let mut numbers = word.split('.');
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    })
}

/// Whether and how the running kernel supports a filesystem.
pub enum InKernel {
    /// Built in, or loaded.
    Running,
    /// In a module that can be loaded.
    Module,
    /// Unsupported.
    No {
        /// `uname -r`
        release: String,
    },
}

/// Whether the running kernel supports the filesystem.
pub fn in_kernel(kind: FileSystemType) -> InKernel {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    // The name is the last word, possibly after "nodev".
    if read("/proc/filesystems").lines().any(|line| line.split_whitespace().last() == Some(kind.as_str())) {
        return InKernel::Running;
    }
    let release = read("/proc/sys/kernel/osrelease").trim().to_owned();
    // depmod's lists: "kernel/fs/xfs/xfs.ko.zst: …".
    let file = format!("/{kind}.ko");
    let listed = |list: &str| read(&format!("/lib/modules/{release}/{list}")).contains(&file);
    if listed("modules.dep") || listed("modules.builtin") { InKernel::Module } else { InKernel::No { release } }
}

/// The package managers that are tried, in this order.
pub const MANAGERS: [&str; 3] = ["dnf", "yum", "apt-get"];

/// Installs the filesystem's tools with the distribution's package manager.
///
/// On a first boot other programs install packages, too (cloud-init, unattended upgrades, SSM): a locked manager fails with
/// [`Code::InstallerBusy`], which is retried.
pub async fn install_maker(kind: FileSystemType) -> Result<(), Failure> {
    let package = package(kind);
    for manager in MANAGERS {
        if manager == "apt-get" {
            // A fresh image has no package lists. The install below reports a missing manager.
            let updated = command::run(manager, &["update", "-q"], None).await;
            if let Ok(output) = updated
                && let Some(busy) = installer_busy(manager, &output)
            {
                return Err(busy);
            }
        }
        // Since 1.9.11 apt can wait for dpkg's lock; older versions ignore the option.
        let patience: &[&str] = if manager == "apt-get" { &["-o", "DPkg::Lock::Timeout=10"] } else { &[] };
        let arguments = [patience, &["install", "-y", "-q", package]].concat();
        let output = match command::run(manager, &arguments, None).await {
            Err(failure) if failure.code == Code::ToolMissing => continue,
            result => result?,
        };
        if output.status.success() {
            return Ok(());
        }
        if let Some(busy) = installer_busy(manager, &output) {
            return Err(busy);
        }
        let text =
            format!("{manager} install -y -q {package} ended with {}: {}", output.status, command::last_lines(&output));
        return Err(Failure::new(Code::ToolFailed, text));
    }
    let text = format!("{package} cannot be installed: neither dnf, yum nor apt-get is installed");
    Err(Failure::new(Code::ToolMissing, text))
}

/// The messages of package managers while another one is running: apt ("Could not get lock /var/lib/dpkg/lock-frontend", "Unable to
/// lock directory", "is another process using it?"), dpkg ("dpkg frontend lock was locked by another process"), yum
/// ("Existing lock /var/run/yum.pid: another copy is running", "yum lockfile is held by", "Another app is currently holding the
/// yum lock"), dnf ("Failed to obtain the transaction lock", "Waiting for process with pid … to finish"), and rpm beneath them
/// ("can't create transaction lock", "can't create … lock on /var/lib/rpm").
const LOCK_MESSAGES: [&str; 10] = [
    "could not get lock",
    "unable to lock",
    "unable to acquire the dpkg",
    "is another process using it",
    "locked by another process",
    "another copy is running",
    "yum lock",
    "obtain the transaction lock",
    "transaction lock on",
    "waiting for process with pid",
];

fn installer_busy(manager: &str, output: &Output) -> Option<Failure> {
    let text = command::printed(output).to_lowercase();
    let busy = !output.status.success() && LOCK_MESSAGES.iter().any(|message| text.contains(message));
    busy.then(|| {
        let text = format!("{manager} is locked by another process: {}", command::last_lines(output));
        Failure::new(Code::InstallerBusy, text)
    })
}

/// Checks an unmounted ext4 and makes the repairs that need no confirmation. Has no time limit: e2fsck must not be interrupted.
pub async fn check_ext4(device: &Path, lock: &File) -> Result<(), Failure> {
    let path = device.to_string_lossy();
    let output = command::run("e2fsck", &["-p", &path], Some(lock)).await?;
    let said = command::last_lines(&output);
    let failed = |what: &str| {
        let text = format!("e2fsck -p {path}: {what}: {said}");
        Err(Failure::new(Code::FilesystemDamaged, text).remedy(format!(
            "take a snapshot first: aws ec2 create-snapshot --volume-id VOLUME; repair by hand: e2fsck {path}; then: \
             node-agent retry"
        )))
    };
    match output.status.code() {
        Some(0) => Ok(()),
        Some(1) => {
            tracing::warn!("e2fsck repaired {path}: {said}");
            Ok(())
        }
        Some(code) => match operational_error(code, &path, &output) {
            Some(failure) => Err(failure),
            None => failed(&exit_mask(code)),
        },
        None => failed("killed by a signal"),
    }
}

/// e2fsck(8): the check could not be made. The filesystem itself may be fine.
const OPERATIONAL_ERROR: i32 = 8;

/// The failure of an operational error, unless it may be damage (e2fsprogs, `e2fsck/unix.c` and `e2fsck/super.c`). A disk is "in
/// use" while systemd checks it or a program has it open exclusively.
fn operational_error(code: i32, path: &str, output: &Output) -> Option<Failure> {
    let (text, said) = (command::printed(output), command::last_lines(output));
    let says = |lines: &[&str]| text.lines().any(|line| lines.iter().any(|end| line.trim_end().ends_with(end)));
    if code & OPERATIONAL_ERROR == 0 {
        None
    } else if text.contains("has unsupported feature(s)") || text.contains("Get a newer version of e2fsck") {
        let text = format!("e2fsck -p {path}: this e2fsck is older than the filesystem: {said}");
        Some(Failure::new(Code::FilesystemTooNew, text))
    } else if says(&[" is in use.", " is mounted."]) || text.contains("Device or resource busy") {
        let text = format!("e2fsck -p {path}: another program is using the device: {said}");
        Some(Failure::new(Code::DeviceBusy, text))
    } else {
        None
    }
}

/// Whether a filesystem is complete and undamaged.
pub enum Soundness {
    /// Complete and undamaged.
    Sound,
    /// Damaged, or with a log that is not replayed; the checker's output.
    Unsound(String),
    /// The checker is missing, did not finish, or printed nothing, which proves nothing.
    Unknown(String),
}

/// Runs the filesystem's checker in read-only mode.
pub async fn soundness(kind: FileSystemType, device: &Device) -> Result<Soundness, Failure> {
    let path = device.path.to_string_lossy();
    let (program, option) = match kind {
        FileSystemType::Xfs => ("xfs_repair", "-n"),
        FileSystemType::Ext4 => ("e2fsck", "-fn"),
    };
    let output = match command::run_on_disk(program, &[option, &path], &device.path).await {
        // DeviceUnreadable is also the time limit: reading a large filesystem takes more than a minute.
        Err(failure) if [Code::ToolMissing, Code::ToolFailed, Code::DeviceUnreadable].contains(&failure.code) => {
            return Ok(Soundness::Unknown(format!("{failure} (package {})", package(kind))));
        }
        result => result?,
    };
    let said = format!("{program} {option}: {}: {}", output.status, command::last_lines(&output));
    let silent = command::printed(&output).trim().is_empty();
    Ok(match output.status.code() {
        // Both checkers print their phases even without a finding.
        Some(0) if !silent => Soundness::Sound,
        Some(_) if !silent => Soundness::Unsound(said),
        _ => Soundness::Unknown(said),
    })
}

/// e2fsck(8): the exit code is the sum of conditions.
fn exit_mask(code: i32) -> String {
    let meanings = [
        (1, "errors corrected"),
        (2, "errors corrected, reboot needed"),
        (4, "errors left uncorrected"),
        (8, "operational error"),
        (16, "usage error"),
        (32, "cancelled"),
        (128, "shared library error"),
    ];
    let said: Vec<_> = meanings.iter().filter(|(bit, _)| code & bit != 0).map(|(_, meaning)| *meaning).collect();
    format!("exit {code} ({})", said.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_programs_output() {
        assert_eq!(parse_version("mkfs.xfs version 6.1.0\n"), Some((6, 1)));
        assert_eq!(parse_version("mke2fs 1.47.0 (5-Feb-2023)\n\tUsing EXT2FS Library version 1.47.0"), Some((1, 47)));
        assert_eq!(parse_version("mke2fs 1.42.9 (28-Dec-2013)"), Some((1, 42)));
        assert_eq!(parse_version("nonsense"), None);
    }

    #[test]
    fn an_option_is_given_only_to_a_version_that_knows_it() {
        let options = |kind, version| Maker { kind, version }.options().join(" ");
        assert!(!options(FileSystemType::Xfs, (4, 5)).contains("bigtime"));
        assert!(options(FileSystemType::Xfs, (6, 1)).contains("nrext64=0"));
        assert!(!options(FileSystemType::Xfs, (6, 1)).contains("exchange"));
        assert!(!options(FileSystemType::Ext4, (1, 46)).contains("orphan_file"));
        for kind in [FileSystemType::Xfs, FileSystemType::Ext4] {
            let all = options(kind, (9, 9));
            assert!(!all.split(' ').any(|option| option == "-f" || option == "-F"), "{all}");
        }
    }

    #[test]
    fn a_locked_package_manager_is_distinguished_from_a_failing_one() {
        use std::os::unix::process::ExitStatusExt;
        let output = |code: i32, text: &str| Output {
            status: std::process::ExitStatus::from_raw(code << 8),
            stdout: Vec::new(),
            stderr: text.as_bytes().to_vec(),
        };
        for locked in [
            "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 1021 (apt-get)\nE: Unable to acquire the \
             dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?",
            "E: Could not get lock /var/lib/dpkg/lock - open (11: Resource temporarily unavailable)\nE: Unable to lock the \
             administration directory (/var/lib/dpkg/), is another process using it?",
            "dpkg: error: dpkg frontend lock was locked by another process with pid 1021",
            "Existing lock /var/run/yum.pid: another copy is running as pid 1021.",
            "yum lockfile is held by another process",
            "Error: Failed to obtain the transaction lock",
            "error: can't create transaction lock on /var/lib/rpm/.rpm.lock (Resource temporarily unavailable)",
        ] {
            let busy = installer_busy("apt-get", &output(100, locked)).expect(locked);
            assert_eq!(busy.class(), crate::failure::Class::Waiting);
            assert!(installer_busy("apt-get", &output(0, locked)).is_none());
        }
        assert!(installer_busy("apt-get", &output(100, "E: Unable to locate package e2fsprogs")).is_none());
    }

    #[test]
    fn the_exit_mask_of_e2fsck_is_spelled_out() {
        assert_eq!(exit_mask(12), "exit 12 (errors left uncorrected, operational error)");
    }
}
