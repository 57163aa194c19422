//! Absolute, normalised paths, checked by their text alone.

use std::path::PathBuf;

use crate::config::report::{Location, Quoted, Reported};

/// How to treat a trailing slash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trailing {
    /// For directories.
    Trimmed,
    /// For files.
    Refused,
}

/// An absolute path without `.`, `..` and empty parts.
pub(super) fn absolute(text: &str, trailing: Trailing, location: &Location<'_>) -> Result<PathBuf, Reported> {
    let quoted = Quoted(text);
    if text.is_empty() {
        return Err(location.write("is empty", format_args!("{} = {}", location.key.name, location.key.example)));
    }
    if text.contains(char::is_control) {
        return Err(location.mistake("holds a line break or another control character", "remove it"));
    }
    if text.starts_with('~') {
        return Err(location.mistake(format_args!("{quoted} is not absolute"), "write the home directory's path"));
    }
    let normal = normalised(text);
    let normal = Quoted(&normal);
    if !text.starts_with('/') {
        return Err(location.write(format_args!("{quoted} is not absolute"), normal));
    }
    // Linux's limit: PATH_MAX, without its NUL.
    if text.len() > 4095 {
        return Err(location.mistake("is longer than 4095 bytes", "write a shorter path"));
    }
    let kept = if trailing == Trailing::Trimmed && text.len() > 1 { text.trim_end_matches('/') } else { text };
    if trailing == Trailing::Refused && text.ends_with('/') {
        return Err(location.mistake(format_args!("{quoted} names a directory"), "write the file's name after it"));
    }
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    if !kept.is_empty() && kept != "/" && kept.split('/').skip(1).any(odd) {
        return Err(location.write(format_args!("{quoted} has \".\", \"..\" or \"//\" in it"), normal));
    }
    // Only slashes are left of "//".
    Ok(PathBuf::from(if kept.is_empty() { "/" } else { kept }))
}

/// The path that was probably meant: absolute, its dots resolved by their text.
fn normalised(text: &str) -> String {
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// System directories: a mount on or below one would hide it from the running system. `/var/lib/node-agent` is the agent's own
/// journal.
const SYSTEM: &str = "/bin /boot /dev /etc /lib /lib32 /lib64 /libx32 /proc /root /run /sbin /sys /usr /var/run /var/lock \
    /var/lib/node-agent";

/// Directories that only hold others: a mount below one is fine, a mount on one hides its contents.
const SHARED: [&str; 8] = ["/home", "/tmp", "/var", "/var/cache", "/var/lib", "/var/log", "/var/spool", "/var/tmp"];

/// Directories within system directories below which volumes may be mounted.
const OWN: [&str; 3] = ["/usr/local", "/usr/share", "/usr/lib"];

/// Whether a mount there would hide part of the system.
pub(super) fn is_system(path: &str) -> bool {
    let within = |tree: &str| path.strip_prefix(tree).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let below = |tree: &str| path.strip_prefix(tree).is_some_and(|rest| rest.starts_with('/'));
    let own =
        OWN.iter().any(|tree| below(tree)) && !["/usr/local/bin", "/usr/local/lib", "/usr/local/sbin"].contains(&path);
    path == "/" || SHARED.contains(&path) || (!own && SYSTEM.split(' ').any(within))
}

/// Whether the path is in a kernel filesystem, which stores no files.
pub(super) fn is_in_kernel_filesystem(path: &str) -> bool {
    ["/dev/", "/proc/", "/sys/"].iter().any(|tree| path.starts_with(tree))
}
