//! libblkid's low-level probe, never its cache: the superblocks and partition tables on a device.

use std::collections::BTreeMap;
use std::fmt;

use super::device::Device;
use super::{command, export};
use crate::failure::{Code, Failure};

/// The result of `blkid -p`.
pub struct Probed {
    /// Its exit code. By itself it proves nothing (docs/facts.md, "What is on a disk").
    pub status: i32,
    tags: BTreeMap<String, String>,
}

impl Probed {
    /// The value of a tag, empty if it is missing.
    pub fn tag(&self, name: &str) -> &str {
        self.tags.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Whether blkid printed more than the device's name.
    pub fn found_something(&self) -> bool {
        self.tags.keys().any(|name| name != "DEVNAME")
    }
}

impl fmt::Display for Probed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blkid -p: exit {}", self.status)?;
        let shown = ["TYPE", "PTTYPE", "USAGE", "LABEL", "UUID", "VERSION", "AMBIVALENT"];
        for (name, value) in shown.iter().map(|name| (name, self.tag(name))).filter(|(_, value)| !value.is_empty()) {
            write!(f, " {name}={value}")?;
        }
        if self.found_something() { Ok(()) } else { f.write_str(", nothing found") }
    }
}

/// Formats a UUID as blkid does.
pub fn uuid_text(uuid: [u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(uuid));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Probes a device within [`command::DISK_WATCHDOG`]: a read of the device may never return.
pub async fn probe(device: &Device) -> Result<Probed, Failure> {
    let path = device.path.to_string_lossy();
    let output = command::run_on_disk("blkid", &["-p", "-o", "export", &path], &device.path).await?;
    let Some(status) = output.status.code() else {
        return Err(Failure::new(Code::ToolFailed, format!("blkid {path} was killed by a signal")));
    };
    Ok(Probed { status, tags: export::parse(&String::from_utf8_lossy(&output.stdout)) })
}
