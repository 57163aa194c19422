//! The names of the sequences' steps: on the command line, in the journal, in what is published.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The steps of the boot sequence, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum StepName {
    /// This machine is the configured node.
    Identity,
    /// Each volume is attached to this instance.
    Attach,
    /// Each volume's device has the filesystem.
    Filesystem,
    /// Each filesystem is mounted, and will be at the next boot.
    Mount,
    /// Each filesystem fills its device.
    Grow,
    /// Each mount point has its owner.
    Ownership,
    /// The node's files are in place.
    Files,
    /// The configure hook has run.
    Configure,
    /// The health check has passed.
    HealthCheck,
    /// Auto Scaling has been told.
    Complete,
}

impl StepName {
    /// All of them.
    pub const ALL: [StepName; 10] = [
        StepName::Identity,
        StepName::Attach,
        StepName::Filesystem,
        StepName::Mount,
        StepName::Grow,
        StepName::Ownership,
        StepName::Files,
        StepName::Configure,
        StepName::HealthCheck,
        StepName::Complete,
    ];

    /// As in the journal and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            StepName::Identity => "identity",
            StepName::Attach => "attach",
            StepName::Filesystem => "filesystem",
            StepName::Mount => "mount",
            StepName::Grow => "grow",
            StepName::Ownership => "ownership",
            StepName::Files => "files",
            StepName::Configure => "configure",
            StepName::HealthCheck => "health-check",
            StepName::Complete => "complete",
        }
    }
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
