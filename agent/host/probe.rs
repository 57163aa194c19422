//! What is on a device: blank beyond doubt, one filesystem, or not to be touched.
//!
//! Blank is what every check below says it is; each looks at one thing and brings its own evidence. Nothing is written.

use std::fmt;

use super::blank::{self, Allowed, Reading};
use super::device::Device;
use super::{blkid, mount};
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
        /// What was seen, up to what spoke against it.
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
    /// Adds a line.
    pub fn add(&mut self, line: impl Into<String>) {
        self.0.push(line.into());
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// What one check came to.
pub(super) enum Check {
    /// Nothing speaks against a blank disk; the evidence.
    Clear(String),
    /// A filesystem.
    Filesystem(Found),
    /// This does; the reason and the evidence.
    Against(String, String),
}

/// Looks at the device.
pub async fn probe(device: &Device) -> Result<Verdict, Failure> {
    let mut evidence = Evidence::default();
    for check in [superblocks(device).await?, mounts(device)?, uses(device)?] {
        match check {
            Check::Clear(line) => evidence.add(line),
            Check::Filesystem(found) => return Ok(Verdict::Filesystem(found)),
            Check::Against(reason, line) => {
                evidence.add(line);
                return Ok(Verdict::Refused { reason, evidence });
            }
        }
    }
    // The reads come last: they take longest, and every other answer makes them needless.
    match contents(device, &evidence).await? {
        Check::Against(reason, line) => {
            evidence.add(line);
            Ok(Verdict::Refused { reason, evidence })
        }
        Check::Clear(line) => {
            evidence.add(line);
            Ok(Verdict::Blank(evidence))
        }
        Check::Filesystem(found) => Ok(Verdict::Filesystem(found)),
    }
}

/// libblkid finds no superblock and no partition table, and says so unambiguously.
pub(super) async fn superblocks(device: &Device) -> Result<Check, Failure> {
    let probed = blkid::probe(device).await?;
    let against = |reason: String| Ok(Check::Against(reason, probed.to_string()));
    let (kind, table) = (probed.tag("TYPE"), probed.tag("PTTYPE"));
    match probed.status {
        0 if !table.is_empty() => against(format!("it has a partition table ({table})")),
        0 if probed.tag("USAGE") == "filesystem" && !kind.is_empty() && !probed.tag("UUID").is_empty() => {
            Ok(Check::Filesystem(Found { kind: kind.to_owned(), uuid: probed.tag("UUID").to_owned() }))
        }
        0 if !kind.is_empty() => against(format!("it holds {kind}")),
        0 => against("it holds something".to_owned()),
        // Nothing found; or an error; or, since util-linux 2.39, ambivalent: the reads decide.
        2 if !probed.found_something() => Ok(Check::Clear(probed.to_string())),
        2 | 8 => against("it carries the marks of more than one format".to_owned()),
        _ => against("blkid cannot tell what is on it".to_owned()),
    }
}

/// It is mounted nowhere, and nothing on it or built upon it is.
pub(super) fn mounts(device: &Device) -> Result<Check, Failure> {
    if let Some(mount) = mount::of_device(device.number)?.first() {
        let line = format!("mounted at {} as {}", mount.mount_point.display(), mount.kind);
        return Ok(Check::Against("it is mounted".to_owned(), line));
    }
    for dependent in device.dependents()? {
        if let Some(mount) = mount::of_device(dependent.number)?.first() {
            let line = format!("{} is mounted at {} as {}", dependent.name, mount.mount_point.display(), mount.kind);
            return Ok(Check::Against(format!("{}, which is on it, is mounted", dependent.name), line));
        }
    }
    Ok(Check::Clear("not mounted".to_owned()))
}

/// It has no partitions and no holders, and can be written to.
pub(super) fn uses(device: &Device) -> Result<Check, Failure> {
    Ok(match device.in_use()? {
        None => Check::Clear("writable, without partitions and holders".to_owned()),
        Some(use_) => Check::Against(use_.clone(), use_),
    })
}

/// Direct reads wherever something would be succeed and are all zero. A read error is not blankness.
async fn contents(device: &Device, so_far: &Evidence) -> Result<Check, Failure> {
    match blank::read(device, Allowed::Nothing).await? {
        Reading::Zero { regions, bytes } => {
            Ok(Check::Clear(format!("all zero: {bytes} bytes in {regions} places of {} bytes", device.size)))
        }
        Reading::NonZero { offset, region } => Ok(Check::Against(
            "it is not blank, and nothing known was recognised on it".to_owned(),
            format!("the byte at {offset} is not zero ({region})"),
        )),
        Reading::Unreadable { offset, error } => Err(Failure::new(
            Code::DeviceUnreadable,
            format!("{}: reading at {offset}: {error} ({so_far})", device.path.display()),
        )),
    }
}
