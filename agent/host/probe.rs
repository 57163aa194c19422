//! Probes a device: provably blank, one filesystem, or not to be touched.
//!
//! A device is blank if every check below finds it so; each checks one property and adds its evidence. Nothing is written.

use std::fmt;

use super::blank::{self, Allowed, Reading};
use super::device::Device;
use super::{blkid, mount};
use crate::failure::{Code, Failure};

/// The contents of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Provably blank.
    Blank(Evidence),
    /// One filesystem, unambiguously.
    Filesystem(Found),
    /// Other or unknown contents: not to be touched.
    Refused {
        /// The reason in a few words.
        reason: String,
        /// The observations, the last one against it.
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

/// The observations of the checks, a line each.
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

/// The result of one check.
pub(super) enum Check {
    /// The device may be blank; the evidence.
    Clear(String),
    /// A filesystem.
    Filesystem(Found),
    /// The device must not be touched; the reason and the evidence.
    Against(String, String),
}

/// Runs all checks.
pub async fn probe(device: &Device) -> Result<Verdict, Failure> {
    let mut evidence = Evidence::default();
    for check in [superblocks(device).await?, mounts(device)?, uses(device)?] {
        if let Some(verdict) = conclude(check, &mut evidence) {
            return Ok(verdict);
        }
    }
    // The reads come last: they take longest, and any other result makes them unnecessary.
    let check = contents(device, &evidence).await?;
    Ok(conclude(check, &mut evidence).unwrap_or(Verdict::Blank(evidence)))
}

/// Records a check's evidence. None while the device may be blank.
fn conclude(check: Check, evidence: &mut Evidence) -> Option<Verdict> {
    match check {
        Check::Clear(line) => evidence.add(line),
        Check::Filesystem(found) => return Some(Verdict::Filesystem(found)),
        Check::Against(reason, line) => {
            evidence.add(line);
            return Some(Verdict::Refused { reason, evidence: std::mem::take(evidence) });
        }
    }
    None
}

/// Clear if libblkid finds neither a superblock nor a partition table, without ambiguity.
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
        // Exit 2 means nothing found, an error or, since util-linux 2.39, ambivalent: the reads decide.
        2 if !probed.found_something() => Ok(Check::Clear(probed.to_string())),
        2 | 8 => against("it carries signatures of more than one format".to_owned()),
        _ => against("blkid cannot identify its contents".to_owned()),
    }
}

/// Clear if neither the device nor a device on top of it is mounted.
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

/// Clear if the device is writable and has neither partitions nor holders.
pub(super) fn uses(device: &Device) -> Result<Check, Failure> {
    Ok(match device.in_use()? {
        None => Check::Clear("writable, without partitions and holders".to_owned()),
        Some(use_) => Check::Against(use_.clone(), use_),
    })
}

/// The reason against contents that nothing is known of.
pub(super) const UNRECOGNISED: &str = "it is not blank, and no known format was recognised on it";

/// Clear if direct reads of all regions succeed and return zeros. A read error does not count as blank.
async fn contents(device: &Device, so_far: &Evidence) -> Result<Check, Failure> {
    match blank::read(device, Allowed::Nothing).await? {
        Reading::Zero { regions, bytes } => {
            Ok(Check::Clear(format!("all zero: {bytes} bytes in {regions} regions of {} bytes", device.size)))
        }
        Reading::NonZero { offset, region } => {
            Ok(Check::Against(UNRECOGNISED.to_owned(), format!("the byte at {offset} is not zero ({region})")))
        }
        Reading::Unreadable { offset, error } => Err(Failure::new(
            Code::DeviceUnreadable,
            format!("{}: reading at {offset}: {error} ({so_far})", device.path.display()),
        )),
    }
}
