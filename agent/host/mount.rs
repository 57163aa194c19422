//! Mounting, and what is mounted.
//!
//! mount(8) does the mounting, not mount(2): the next boot's mount is made by it, from systemd's mount unit or by
//! `mount -a`, and only one reader of the options gives both mounts the same flags. It is in the package that has `blkid`,
//! and systemd mounts nothing without it. `expected` is not a second reader: it decides nothing about a fresh mount, and
//! only says whether a mount that was there before carries the flags every mount(8) gives these options.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{major, minor};

use super::command;
use super::mountinfo::{self, Mounted};
use crate::failure::{Code, Failure, Named};

/// What is mounted at `path` now: the topmost mount.
pub fn at(path: &Path) -> Result<Option<Mounted>, Failure> {
    Ok(all()?.into_iter().rev().find(|mount| mount.mount_point == path))
}

/// Everywhere a device is mounted.
pub fn of_device(device: u64) -> Result<Vec<Mounted>, Failure> {
    Ok(all()?.into_iter().filter(|mount| mount.device == device).collect())
}

/// All mounts of this process's namespace, in the order in which they lie upon each other.
pub fn all() -> Result<Vec<Mounted>, Failure> {
    let path = "/proc/self/mountinfo";
    let text = fs::read(path).named(format_args!("reading {path}"))?;
    Ok(mountinfo::parse(&text))
}

/// Mounts `device` at `place`; returns what mount(8) says where it refuses. Never cut off: replaying a log can take minutes.
pub async fn mount(device: &Path, place: &Path, kind: &str, options: &[String]) -> Result<Option<String>, Failure> {
    mount8(device, place, kind, for_mount8(options)).await
}

/// Gives a mount other options, as far as the kernel lets it; returns what mount(8) says where it refuses.
pub async fn remount(device: &Path, place: &Path, kind: &str, options: &[String]) -> Result<Option<String>, Failure> {
    // Without a word on access times the kernel keeps those of the mount as it is.
    let atime = if access_time(options) == AccessTime::Default { vec!["relatime"] } else { Vec::new() };
    let given = [vec!["remount"], atime, for_mount8(options)].concat();
    mount8(device, place, kind, given).await
}

/// As systemd does: with `nofail`, mount(8) calls a device that is missing a success.
fn for_mount8(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).filter(|option| *option != "nofail").collect()
}

async fn mount8(device: &Path, place: &Path, kind: &str, options: Vec<&str>) -> Result<Option<String>, Failure> {
    let (device, place, options) = (device.to_string_lossy(), place.to_string_lossy(), options.join(","));
    // xfs and ext4 have no helpers (`/sbin/mount.TYPE`), and a program of that name is not to get between.
    let mut arguments = vec!["--internal-only", "-t", kind];
    if !options.is_empty() {
        arguments.extend(["-o", &options]);
    }
    arguments.extend([&*device, &*place]);
    let output = command::run("mount", &arguments, None).await?;
    Ok((!output.status.success()).then(|| command::last_lines(&output)))
}

/// Unmounts what is mounted at `place`, which is no symlink. Off the agent's own thread: what is not written yet is written.
pub async fn unmount(place: &Path) -> Result<(), Errno> {
    let place = place.to_owned();
    let unmounting = tokio::task::spawn_blocking(move || umount2(&place, MntFlags::UMOUNT_NOFOLLOW));
    unmounting.await.unwrap_or(Err(Errno::EIO))
}

/// Whether these options mount read-only.
pub fn asks_for_read_only(options: &[String]) -> bool {
    expected(options).contains(&("ro", true))
}

/// Fails where a mounted filesystem takes no writes although that was not asked for: the kernel made it so after an error.
pub fn ensure_writable(mounted: &Mounted, volume: &str, read_only_wanted: bool) -> Result<(), Failure> {
    let words: Vec<_> = mounted.super_options.split(',').collect();
    let shut_down =
        fs::metadata(&mounted.mount_point).is_err_and(|error| error.raw_os_error() == Some(Errno::EIO as i32));
    // ext4 says so with `emergency_ro` since Linux 6.15, before that with `ro`.
    let what = if shut_down || words.contains(&"shutdown") {
        "has shut itself down"
    } else if words.contains(&"emergency_ro") || (words.contains(&"ro") && !read_only_wanted) {
        "has become read-only"
    } else {
        return Ok(());
    };
    let (source, kind, place) = (&mounted.source, &mounted.kind, mounted.mount_point.display());
    let text = format!("the {kind} of volume {volume} ({source}), mounted at {place}, {what}");
    Err(Failure::new(Code::ReadOnly, text).remedy(format!(
        "see why in dmesg; take a snapshot first: aws ec2 create-snapshot --volume-id {volume}; stop what uses it (fuser \
         -vm {place}), then: umount {place} && node-agent retry, which checks the filesystem and mounts it again"
    )))
}

/// The flags that mountinfo shows, of those that [`differences`] knows.
pub fn flags(mounted: &Mounted) -> String {
    let shown: BTreeSet<_> = mounted.options.split(',').chain(mounted.super_options.split(',')).collect();
    let words = expected(&[]).into_iter().map(|(word, _)| word).filter(|word| shown.contains(word));
    words.collect::<Vec<_>>().join(",")
}

/// How the flags of this mount differ from what every mount(8) makes of these options.
pub fn differences(mounted: &Mounted, options: &[String]) -> Vec<String> {
    let shown: BTreeSet<_> = mounted.options.split(',').chain(mounted.super_options.split(',')).collect();
    let differs = expected(options).into_iter().filter(|(word, wanted)| shown.contains(word) != *wanted);
    differs.map(|(word, wanted)| format!("{word} is {}", if wanted { "missing" } else { "in force" })).collect()
}

/// How the filesystem's own options that were changed are not in force after a remount. The kernel ignores some changes
/// without a word, so that what does not show is not in force.
pub fn not_applied(mounted: &Mounted, before: &[String], options: &[String]) -> Vec<String> {
    let shown: BTreeSet<_> = mounted.super_options.split(',').collect();
    let all = format!("{},{}", mounted.super_options, ext4_options(mounted.device));
    let all: BTreeSet<_> = all.split(',').collect();
    let (before, after) = (own_options(before), own_options(options));
    let missing = after.difference(&before).filter(|option| !all.contains(**option));
    let left = before.difference(&after).filter(|option| shown.contains(**option));
    missing
        .map(|option| format!("{option} is not in force"))
        .chain(left.map(|option| format!("{option} is still in force")))
        .collect()
}

/// Whether two lists of options ask the filesystem itself for the same.
pub fn are_equivalent(one: &[String], other: &[String]) -> bool {
    own_options(one) == own_options(other) && expected(one) == expected(other)
}

/// All that ext4 is mounted with: mountinfo leaves out what it does by default.
fn ext4_options(device: u64) -> String {
    let sysfs = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let name = fs::canonicalize(sysfs).ok().and_then(|path| path.file_name().map(|name| name.display().to_string()));
    let options = name.and_then(|name| fs::read_to_string(format!("/proc/fs/ext4/{name}/options")).ok());
    options.unwrap_or_default().lines().collect::<Vec<_>>().join(",")
}

/// What options say about access times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AccessTime {
    /// Nothing: `relatime`.
    Default,
    /// One thing, in the word that mountinfo shows; `strictatime` shows none.
    Is(&'static str),
    /// Two that contradict each other: which of them counts depends on the version of mount(8).
    Contradicting,
}

fn access_time(options: &[String]) -> AccessTime {
    let mut said = BTreeSet::new();
    for option in options {
        match option.as_str() {
            "noatime" => said.extend(["noatime"]),
            "relatime" => said.extend(["relatime"]),
            "strictatime" => said.extend(["strictatime"]),
            // The opposites take back what stands before them.
            "atime" | "norelatime" | "nostrictatime" => said.extend(["relatime", ""]),
            _ => {}
        }
    }
    match said.into_iter().collect::<Vec<_>>()[..] {
        [] => AccessTime::Default,
        [one] => AccessTime::Is(one),
        ["", "relatime"] => AccessTime::Is("relatime"),
        _ => AccessTime::Contradicting,
    }
}

/// The words that mountinfo shows of a mount with these options, each with whether it is shown: the last of two that
/// contradict each other counts, and mount(8), "user", "owner" and what they imply.
fn expected(options: &[String]) -> Vec<(&'static str, bool)> {
    let switches = [
        ("ro", "rw"),
        ("nosuid", "suid"),
        ("nodev", "dev"),
        ("noexec", "exec"),
        ("nosymfollow", "symfollow"),
        ("nodiratime", "diratime"),
        ("sync", "async"),
        ("lazytime", "nolazytime"),
    ];
    let mut on = BTreeSet::new();
    for option in options {
        let name = option.split('=').next().unwrap_or(option);
        match name {
            "user" | "users" => on.extend(["noexec", "nosuid", "nodev"]),
            "owner" | "group" => on.extend(["nosuid", "nodev"]),
            "dirsync" => on.extend(["dirsync"]),
            _ => {
                for (word, opposite) in switches {
                    if option == word {
                        on.insert(word);
                    } else if option == opposite {
                        on.remove(word);
                    }
                }
            }
        }
    }
    let mut words: Vec<_> = switches.iter().map(|(word, _)| (*word, on.contains(word))).collect();
    words.push(("dirsync", on.contains("dirsync")));
    let atime = match access_time(options) {
        AccessTime::Default => "relatime",
        AccessTime::Is(word) => word,
        AccessTime::Contradicting => return words,
    };
    words.extend(["noatime", "relatime"].map(|word| (word, word == atime)));
    words
}

/// What is the filesystem's own: neither the kernel's general flags nor what only mount(8), systemd and people read.
fn own_options(options: &[String]) -> BTreeSet<&str> {
    const GENERAL: [&str; 50] = [
        "defaults",
        "ro",
        "rw",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "exec",
        "noexec",
        "symfollow",
        "nosymfollow",
        "sync",
        "async",
        "dirsync",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "lazytime",
        "nolazytime",
        "mand",
        "nomand",
        "iversion",
        "noiversion",
        "silent",
        "loud",
        "auto",
        "noauto",
        "nofail",
        "_netdev",
        "user",
        "nouser",
        "users",
        "nousers",
        "owner",
        "noowner",
        "group",
        "nogroup",
        "comment",
        "helper",
        "uhelper",
        "private",
        "shared",
        "slave",
        "unbindable",
        "nouuid",
    ];
    let name = |option: &str| option.split('=').next().unwrap_or_default().to_owned();
    let own = |option: &&str| {
        !option.starts_with("x-") && !option.starts_with("X-") && !GENERAL.contains(&name(option).as_str())
    };
    options.iter().map(String::as_str).filter(own).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn list(options: &str) -> Vec<String> {
        options.split(',').map(str::to_owned).collect()
    }

    fn mounted(options: &str, super_options: &str) -> Mounted {
        Mounted {
            device: 0,
            root: PathBuf::from("/"),
            mount_point: PathBuf::from("/"),
            options: options.to_owned(),
            kind: "xfs".to_owned(),
            source: "/dev/nvme1n1".to_owned(),
            super_options: super_options.to_owned(),
            is_slave: false,
        }
    }

    #[test]
    fn implied_and_contradicting_options_count_as_mount_8_counts_them() {
        let shown = |options: &str| {
            let words = expected(&list(options)).into_iter().filter(|(_, shown)| *shown).map(|(word, _)| word);
            words.collect::<Vec<_>>().join(",")
        };
        assert_eq!(shown("defaults"), "relatime");
        assert_eq!(shown("user"), "nosuid,nodev,noexec,relatime");
        assert_eq!(shown("exec,user,suid,noatime"), "nodev,noexec,noatime");
        assert_eq!(shown("owner,ro,rw,dirsync"), "nosuid,nodev,dirsync,relatime");
        assert_eq!(shown("strictatime,sync,async,nodiratime"), "nodiratime");
        // Of access times that contradict each other nothing is expected.
        assert!(
            expected(&list("noatime,relatime"))
                .iter()
                .all(|(word, _)| !word.contains("atime") || *word == "nodiratime" || *word == "lazytime")
        );
    }

    #[test]
    fn what_a_mount_lacks_and_has_too_much_is_named() {
        let there = mounted("rw,noatime", "rw,attr2,sync");
        assert_eq!(differences(&there, &list("noatime,sync")), Vec::<String>::new());
        let said = differences(&there, &list("nodev")).join("; ");
        assert_eq!(said, "nodev is missing; sync is in force; noatime is in force; relatime is missing");
    }

    #[test]
    fn an_option_that_the_kernel_ignored_is_named() {
        let there = mounted("rw,relatime", "rw,attr2,logbufs=8,discard");
        let said = |before: &str, now: &str| not_applied(&there, &list(before), &list(now)).join("; ");
        assert_eq!(said("noatime", "noatime,logbufs=8,nodev,x-a=b"), "");
        assert_eq!(said("logbufs=8", "logbufs=4"), "logbufs=4 is not in force; logbufs=8 is still in force");
        assert_eq!(said("discard", "largeio"), "largeio is not in force; discard is still in force");
    }
}
