//! Filesystems on devices: what is there, and making a new one.

use std::collections::BTreeMap;
use std::fmt;

use super::blank::{self, Reading};
use super::command;
use super::device::Device;
use crate::config::FileSystemType;
use crate::failure::{Code, Failure};

/// What is on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing, as the evidence shows.
    Blank(Evidence),
    /// One filesystem, unambiguously.
    Filesystem(Found),
    /// Something else, or nobody knows what: not to be touched.
    Refused {
        /// In a word.
        reason: String,
        /// What was seen.
        evidence: Evidence,
    },
}

/// A filesystem that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// libblkid's name for its type: `xfs`, `ext4`, …
    pub kind: String,
    /// Its UUID.
    pub uuid: String,
}

/// What was looked at and seen, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence(Vec<String>);

impl Evidence {
    fn add(&mut self, line: impl Into<String>) {
        self.0.push(line.into());
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// Looks at the device. Writes nothing.
pub async fn probe(device: &Device) -> Result<Verdict, Failure> {
    let mut evidence = Evidence::default();
    let (status, tags, said) = blkid(device).await?;
    evidence.add(format!("blkid -p: exit {status}, {said}"));
    let tag = |name: &str| tags.get(name).map(String::as_str).unwrap_or_default();
    let refused = |reason: &str, evidence| Ok(Verdict::Refused { reason: reason.to_owned(), evidence });
    match status {
        0 if !tag("PTTYPE").is_empty() => {
            return refused(&format!("it has a {} partition table", tag("PTTYPE")), evidence);
        }
        0 if tag("USAGE") == "filesystem" && !tag("TYPE").is_empty() && !tag("UUID").is_empty() => {
            return Ok(Verdict::Filesystem(Found { kind: tag("TYPE").to_owned(), uuid: tag("UUID").to_owned() }));
        }
        0 => return refused(&format!("it holds {}", if said.is_empty() { "something" } else { &said }), evidence),
        // Nothing found, or an error, or since util-linux 2.39 ambivalent: the reads decide.
        2 => {}
        8 => return refused("it carries the marks of more than one format", evidence),
        _ => return refused("blkid cannot tell what is on it", evidence),
    }
    if let Some(use_) = device.in_use()? {
        evidence.add(use_.clone());
        return refused(&use_, evidence);
    }
    match blank::read(device).await? {
        Reading::Zero { places, bytes } => {
            evidence.add(format!("all zero: {bytes} bytes in {places} places of {} bytes", device.size));
            Ok(Verdict::Blank(evidence))
        }
        Reading::NonZero { offset, place } => {
            evidence.add(format!("the byte at {offset} is not zero ({place})"));
            refused("it is not blank, and no filesystem was recognised", evidence)
        }
        Reading::Unreadable { offset, error } => Err(Failure::new(
            Code::DeviceUnreadable,
            format!("{}: reading at {offset}: {error} ({evidence})", device.path.display()),
        )),
    }
}

/// libblkid's low-level probe, never its cache.
async fn blkid(device: &Device) -> Result<(i32, BTreeMap<String, String>, String), Failure> {
    let path = device.path.to_string_lossy();
    let output = command::run("blkid", &["-p", "-o", "export", &path], None).await?;
    let Some(status) = output.status.code() else {
        return Err(Failure::new(Code::ToolFailed, format!("blkid {path} was ended by a signal")));
    };
    let tags = parse_export(&String::from_utf8_lossy(&output.stdout));
    let said: Vec<_> = tags
        .iter()
        .filter(|(name, _)| matches!(name.as_str(), "TYPE" | "PTTYPE" | "USAGE" | "UUID" | "AMBIVALENT"))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let said = if said.is_empty() { "nothing found".to_owned() } else { said.join(" ") };
    Ok((status, tags, said))
}

/// `blkid -o export`: `NAME=value` lines in which unusual bytes are escaped by a backslash.
fn parse_export(text: &str) -> BTreeMap<String, String> {
    let unescape = |value: &str| {
        let mut plain = String::new();
        let mut chars = value.chars();
        while let Some(char) = chars.next() {
            plain.push(if char == '\\' { chars.next().unwrap_or('\\') } else { char });
        }
        plain
    };
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), unescape(value)))
        .collect()
}

/// The program that makes a filesystem of this type.
pub fn maker(kind: FileSystemType) -> &'static str {
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

/// Makes a filesystem on a device that was proven blank. `lock` is the device's lock, which the child inherits.
///
/// No force option, ever. No discard pass: a fresh EBS volume has nothing to discard, and on one made from a snapshot it
/// would only take time. ext4's tables are initialised in the background after the mount.
pub async fn make(kind: FileSystemType, device: &Device, lock: &std::fs::File) -> Result<(), Failure> {
    let path = device.path.to_string_lossy();
    let options: &[&str] = match kind {
        FileSystemType::Xfs => &["-q", "-K", &path],
        FileSystemType::Ext4 => &["-q", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", &path],
    };
    command::must(maker(kind), options, Some(lock)).await.map(drop)
}

/// Installs the package that makes this filesystem, with the distribution's own package manager.
pub async fn install_maker(kind: FileSystemType) -> Result<(), Failure> {
    let package = package(kind);
    let attempts: [(&str, &[&str]); 3] = [
        ("dnf", &["install", "-y", "-q", package]),
        ("yum", &["install", "-y", "-q", package]),
        ("apt-get", &["install", "-y", "-q", package]),
    ];
    for (manager, args) in attempts {
        if manager == "apt-get" {
            // A fresh image has no package lists. Without this manager the next line says so.
            drop(command::run(manager, &["update", "-q"], None).await);
        }
        match command::must(manager, args, None).await {
            Err(failure) if failure.code == Code::ToolMissing => {}
            result => return result.map(drop),
        }
    }
    Err(Failure::new(Code::ToolMissing, format!("{package} cannot be installed: neither dnf, yum nor apt-get is here")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blkid_export_is_read_with_its_escapes() {
        let tags = parse_export("DEVNAME=/dev/loop0\nLABEL=my\\ disk\nUUID=1-2\nTYPE=ext4\n\nnonsense\n");
        assert_eq!(tags["LABEL"], "my disk");
        assert_eq!(tags["TYPE"], "ext4");
        assert_eq!(tags.len(), 4);
    }
}
