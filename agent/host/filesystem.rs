//! Making filesystems, and checking those that are there.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::command;
use super::device::Device;
use crate::config::FileSystemType;
use crate::failure::{Code, Failure, Named};

/// The program that makes a filesystem of this type.
fn maker(kind: FileSystemType) -> &'static str {
    match kind {
        FileSystemType::Xfs => "mkfs.xfs",
        FileSystemType::Ext4 => "mkfs.ext4",
    }
}

/// The package that has it, in every distribution the agent runs on.
pub fn package(kind: FileSystemType) -> &'static str {
    match kind {
        FileSystemType::Xfs => "xfsprogs",
        FileSystemType::Ext4 => "e2fsprogs",
    }
}

/// A mkfs that is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maker {
    kind: FileSystemType,
    /// Major and minor version.
    version: (u32, u32),
}

/// Its version, as in `6.1`.
impl fmt::Display for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.version.0, self.version.1)
    }
}

impl Maker {
    /// Finds the program and asks for its version.
    pub async fn find(kind: FileSystemType) -> Result<Self, Failure> {
        let output = command::run(maker(kind), &["-V"], None).await?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let version = parse_version(&said).ok_or_else(|| {
            Failure::new(Code::ToolFailed, format!("{} -V does not tell its version: {}", maker(kind), said.trim()))
        })?;
        Ok(Maker { kind, version })
    }

    /// Makes a filesystem on a device that was proven blank. `lock` is the device's lock, which the child inherits.
    ///
    /// No force option, ever.
    pub async fn make(&self, device: &Device, lock: &File) -> Result<(), Failure> {
        let path = device.path.to_string_lossy();
        let mut arguments = self.options();
        arguments.push(&path);
        command::must(maker(self.kind), &arguments, Some(lock)).await.map(drop)
    }

    /// No discard pass: a fresh EBS volume has nothing to discard, and on one made from a snapshot it only takes time. ext4's
    /// tables are initialised in the background after the mount.
    ///
    /// What a newer mkfs switches on by itself is left off where an older image's kernel could not mount the result
    /// (FACTS: rollback hazard). The floor is Amazon Linux 2's first kernel, 4.14. An option is given only to a version that
    /// knows it; the older ones do not have the feature either.
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

/// Clears what a killed mkfs of this agent left at the start of the device: `mkfs.xfs` refuses a device that carries a
/// superblock, and a force option would refuse nothing at all.
pub fn clear_unfinished(device: &Device) -> Result<(), Failure> {
    let what = || format!("clearing the unfinished format of {}", device.path.display());
    let file = File::options().write(true).open(&device.path).named(what())?;
    if file.metadata().named(what())?.rdev() != device.number {
        let text = format!("{} has become another device", device.path.display());
        return Err(Failure::new(Code::DeviceUntrusted, text));
    }
    // Both kinds keep their primary superblock in the first 2 KiB.
    file.write_all_at(&vec![0; 64 * 1024], 0).named(what())?;
    file.sync_all().named(what())
}

/// The first `NUMBER.NUMBER` of a version line.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let mut numbers = word.split('.');
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    })
}

/// Installs the package that makes this filesystem, with the distribution's own package manager.
pub async fn install_maker(kind: FileSystemType) -> Result<(), Failure> {
    let package = package(kind);
    for manager in ["dnf", "yum", "apt-get"] {
        if manager == "apt-get" {
            // A fresh image has no package lists. That the manager is missing is said by the next line.
            drop(command::run(manager, &["update", "-q"], None).await);
        }
        match command::must(manager, &["install", "-y", "-q", package], None).await {
            Err(failure) if failure.code == Code::ToolMissing => {}
            result => return result.map(drop),
        }
    }
    Err(Failure::new(Code::ToolMissing, format!("{package} cannot be installed: neither dnf, yum nor apt-get is here")))
}

/// Checks an ext4 filesystem that is not mounted, and repairs what can be repaired without a question. Never cut off.
pub async fn check_ext4(device: &Path, lock: &File) -> Result<(), Failure> {
    let path = device.to_string_lossy();
    let output = command::run("e2fsck", &["-p", &path], Some(lock)).await?;
    let failed = |what: &str| {
        let text = format!("e2fsck -p {path}: {what}: {}", command::said(&output));
        Err(Failure::new(Code::FilesystemDamaged, text).remedy(format!(
            "take a snapshot first: aws ec2 create-snapshot --volume-id VOLUME; repair by hand: e2fsck {path}; then: \
             node-agent retry"
        )))
    };
    match output.status.code() {
        Some(0) => Ok(()),
        Some(1) => {
            tracing::warn!("e2fsck repaired {path}: {}", command::said(&output));
            Ok(())
        }
        Some(code) => failed(&exit_mask(code)),
        None => failed("ended by a signal"),
    }
}

/// Whether the filesystem is complete and without fault. Looks only; a missing checker proves nothing.
pub async fn is_whole(kind: FileSystemType, device: &Path) -> Result<bool, Failure> {
    let path = device.to_string_lossy();
    let (program, option) = match kind {
        FileSystemType::Xfs => ("xfs_repair", "-n"),
        FileSystemType::Ext4 => ("e2fsck", "-fn"),
    };
    match command::run_on_disk(program, &[option, &path], device).await {
        Err(failure) if failure.code == Code::ToolMissing => Ok(false),
        result => Ok(result?.status.success()),
    }
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
    fn versions_are_read_from_what_the_programs_say() {
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
    fn the_exit_mask_of_e2fsck_is_spelled_out() {
        assert_eq!(exit_mask(12), "exit 12 (errors left uncorrected, operational error)");
    }
}
