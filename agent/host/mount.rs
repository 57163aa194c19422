//! Mounts filesystems and inspects mounts.
//!
//! The agent runs mount(8) instead of mount(2), because mount(8) also makes the next boot's mount, from systemd's mount unit or by
//! `mount -a`, and one parser of the options gives both mounts the same flags. It is in the same package as `blkid`, and
//! systemd mounts nothing without it. `expected` is not a second parser: it does not influence a fresh mount, and only tells
//! whether an existing mount has the flags that every mount(8) gives these options.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{major, minor};

use super::command;
use super::mountinfo::{self, Mounted};
use crate::failure::{Code, Failure, Named};

/// The topmost mount at `path`.
pub fn at(path: &Path) -> Result<Option<Mounted>, Failure> {
    Ok(all()?.into_iter().rev().find(|mount| mount.mount_point == path))
}

/// All mounts of a device.
pub fn of_device(device: u64) -> Result<Vec<Mounted>, Failure> {
    Ok(all()?.into_iter().filter(|mount| mount.device == device).collect())
}

/// All mounts of this process's namespace, lower ones first.
pub fn all() -> Result<Vec<Mounted>, Failure> {
    let path = "/proc/self/mountinfo";
    let text = fs::read(path).named(format_args!("reading {path}"))?;
    Ok(mountinfo::parse(&text))
}

/// Mounts `device` at `place`; returns mount(8)'s message if it fails. No time limit: replaying a log can take minutes.
pub async fn mount(device: &Path, place: &Path, kind: &str, options: &[String]) -> Result<Option<String>, Failure> {
    mount8(device, place, kind, for_mount8(options)).await
}

/// Changes a mount's options as far as the kernel permits; returns mount(8)'s message if it fails.
pub async fn remount(device: &Path, place: &Path, kind: &str, options: &[String]) -> Result<Option<String>, Failure> {
    // Without an access time option the kernel keeps the mount's present one.
    let atime = if access_time(options) == AccessTime::Default { vec!["relatime"] } else { Vec::new() };
    let given = [vec!["remount"], atime, for_mount8(options)].concat();
    mount8(device, place, kind, given).await
}

/// Removes `nofail`, as systemd does: with it, mount(8) succeeds for a missing device.
fn for_mount8(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).filter(|option| *option != "nofail").collect()
}

async fn mount8(device: &Path, place: &Path, kind: &str, options: Vec<&str>) -> Result<Option<String>, Failure> {
    let (device, place, options) = (device.to_string_lossy(), place.to_string_lossy(), options.join(","));
    // xfs and ext4 have no helpers (`/sbin/mount.TYPE`); a program of that name must not be run.
    let mut arguments = vec!["--internal-only", "-t", kind];
    if !options.is_empty() {
        arguments.extend(["-o", &options]);
    }
    arguments.extend([&*device, &*place]);
    let output = command::run("mount", &arguments, None).await?;
    Ok((!output.status.success()).then(|| command::last_lines(&output)))
}

/// Unmounts `place`, which must not be a symlink. Runs on another thread, because unmounting writes back dirty data.
pub async fn unmount(place: &Path) -> Result<(), Errno> {
    let place = place.to_owned();
    let unmounting = tokio::task::spawn_blocking(move || umount2(&place, MntFlags::UMOUNT_NOFOLLOW));
    unmounting.await.unwrap_or(Err(Errno::EIO))
}

/// Whether these options mount read-only.
pub fn asks_for_read_only(options: &[String]) -> bool {
    expected(options).contains(&("ro", true))
}

/// Fails if a mounted filesystem is read-only without being configured so: the kernel did this after an error.
pub fn ensure_writable(mounted: &Mounted, volume: &str, read_only_wanted: bool) -> Result<(), Failure> {
    let words: Vec<_> = mounted.super_options.split(',').collect();
    let shut_down =
        fs::metadata(&mounted.mount_point).is_err_and(|error| error.raw_os_error() == Some(Errno::EIO as i32));
    // ext4 shows `emergency_ro` since Linux 6.15, `ro` before.
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

/// Those of the flags in mountinfo that [`differences`] checks.
pub fn flags(mounted: &Mounted) -> String {
    let shown: BTreeSet<_> = mounted.options.split(',').chain(mounted.super_options.split(',')).collect();
    let words = expected(&[]).into_iter().map(|(word, _)| word).filter(|word| shown.contains(word));
    words.collect::<Vec<_>>().join(",")
}

/// How the mount's flags differ from those that every mount(8) derives from these options.
pub fn differences(mounted: &Mounted, options: &[String]) -> Vec<String> {
    let shown: BTreeSet<_> = mounted.options.split(',').chain(mounted.super_options.split(',')).collect();
    let differs = expected(options).into_iter().filter(|(word, wanted)| shown.contains(word) != *wanted);
    differs.map(|(word, wanted)| format!("{word} is {}", if wanted { "missing" } else { "in force" })).collect()
}

/// The changed filesystem options that a remount has not put in force. The kernel silently ignores some changes, so that an
/// option counts as in force only if it is shown.
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

/// Whether two lists of options mean the same mount.
pub fn are_equivalent(one: &[String], other: &[String]) -> bool {
    own_options(one) == own_options(other) && expected(one) == expected(other)
}

/// All options of a mounted ext4; mountinfo omits the defaults.
fn ext4_options(device: u64) -> String {
    let sysfs = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let name = fs::canonicalize(sysfs).ok().and_then(|path| path.file_name().map(|name| name.display().to_string()));
    let options = name.and_then(|name| fs::read_to_string(format!("/proc/fs/ext4/{name}/options")).ok());
    options.unwrap_or_default().lines().collect::<Vec<_>>().join(",")
}

/// The access time option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AccessTime {
    /// Not given: `relatime`.
    Default,
    /// The word in mountinfo; empty for `strictatime`.
    Is(&'static str),
    /// The options contradict each other: which one wins depends on the version of mount(8).
    Contradicting,
}

fn access_time(options: &[String]) -> AccessTime {
    let mut said = BTreeSet::new();
    for option in options {
        match option.as_str() {
            "noatime" => said.extend(["noatime"]),
            "relatime" => said.extend(["relatime"]),
            "strictatime" => said.extend(["strictatime"]),
            // The opposites cancel preceding options.
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

/// The words that mountinfo can show, each with whether it does for a mount with these options. The last of contradicting options
/// wins; mount(8)'s "user" and "owner" imply others.
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

/// The options for the filesystem itself: neither the kernel's general flags nor those for mount(8), systemd or people.
fn own_options(options: &[String]) -> BTreeSet<&str> {
    const GENERAL: &str = "defaults ro rw suid nosuid dev nodev exec noexec symfollow nosymfollow sync async dirsync atime \
        noatime diratime nodiratime relatime norelatime strictatime nostrictatime lazytime nolazytime \
        mand nomand iversion noiversion silent loud auto noauto nofail _netdev user nouser users \
        nousers owner noowner group nogroup comment helper uhelper private shared slave unbindable \
        nouuid";
    let own = |option: &&str| {
        let name = option.split('=').next();
        !option.starts_with("x-")
            && !option.starts_with("X-")
            && GENERAL.split(' ').all(|general| Some(general) != name)
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
        // Contradicting access times: neither is expected.
        assert!(
            expected(&list("noatime,relatime"))
                .iter()
                .all(|(word, _)| !word.contains("atime") || *word == "nodiratime" || *word == "lazytime")
        );
    }

    #[test]
    fn missing_and_surplus_flags_of_a_mount_are_named() {
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
