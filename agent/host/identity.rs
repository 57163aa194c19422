//! Processes by more than their id.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::{boot_id, group};
use crate::failure::{Failure, Named};

/// A process as no other one is, on this or any machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The machine's boot.
    pub boot: String,
    /// The process id namespace, as its inode.
    pub namespace: u64,
    /// The process id.
    pub pid: i32,
    /// When it started, in clock ticks since the boot: tells a process from a later one of the same id.
    pub started: u64,
}

impl Identity {
    /// This process's.
    pub fn own() -> Result<Self, Failure> {
        let pid = std::process::id().cast_signed();
        let started = group::start_time(pid).unwrap_or_default();
        Ok(Identity { boot: boot_id()?, namespace: namespace()?, pid, started })
    }

    /// Whether the process still runs; none if it belongs to another machine, boot or container, of which this one knows nothing.
    pub fn is_running(&self) -> Option<bool> {
        let is_here = boot_id().ok()? == self.boot && namespace().ok()? == self.namespace;
        is_here.then(|| group::start_time(self.pid) == Some(self.started))
    }
}

/// The inode of this process's process id namespace (namespaces(7)).
fn namespace() -> Result<u64, Failure> {
    const NAMESPACE: &str = "/proc/self/ns/pid";
    Ok(fs::metadata(NAMESPACE).named(format_args!("reading {NAMESPACE}"))?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_another_one_of_the_same_id() {
        let own = Identity::own().unwrap();
        assert_eq!(own.is_running(), Some(true));
        let before = Identity { started: own.started - 1, ..own.clone() };
        let gone = Identity { pid: i32::MAX, ..own.clone() };
        assert_eq!((before.is_running(), gone.is_running()), (Some(false), Some(false)));
        let elsewhere = Identity { boot: "another".to_owned(), ..own.clone() };
        let in_a_container = Identity { namespace: 1, ..own };
        assert_eq!((elsewhere.is_running(), in_a_container.is_running()), (None, None));
    }
}
