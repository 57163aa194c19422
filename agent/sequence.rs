//! The sequences and the names of their steps, as on the command line, in the journal and in published documents.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The agent's work on an instance, as steps in a fixed order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequence {
    /// Brings the node up.
    Boot,
    /// Takes the node out of its cluster before the instance is terminated.
    Departure,
}

impl Sequence {
    /// Its steps, in their order.
    pub fn steps(self) -> &'static [StepName] {
        match self {
            Sequence::Boot => &[
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
            ],
            Sequence::Departure => {
                &[StepName::Gate, StepName::Drain, StepName::Unmount, StepName::Detach, StepName::Leave]
            }
        }
    }
}

/// A step of one sequence: no two sequences share a name. Sorted in the order in which the sequences run them.
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
    /// The result has been reported to Auto Scaling.
    Complete,
    /// No other node of the cluster is away.
    #[value(skip)]
    Gate,
    /// The drain hook has run.
    #[value(skip)]
    Drain,
    /// Each volume is unmounted.
    #[value(skip)]
    Unmount,
    /// Each volume that is to be detached is detached.
    #[value(skip)]
    Detach,
    /// Auto Scaling has been told that the instance may be terminated.
    #[value(skip)]
    Leave,
}

impl StepName {
    /// The sequence of this step.
    pub fn sequence(self) -> Sequence {
        match self {
            StepName::Identity
            | StepName::Attach
            | StepName::Filesystem
            | StepName::Mount
            | StepName::Grow
            | StepName::Ownership
            | StepName::Files
            | StepName::Configure
            | StepName::HealthCheck
            | StepName::Complete => Sequence::Boot,
            StepName::Gate | StepName::Drain | StepName::Unmount | StepName::Detach | StepName::Leave => {
                Sequence::Departure
            }
        }
    }

    /// Whether it comes before the other one in the same sequence.
    pub fn precedes(self, other: StepName) -> bool {
        self.sequence() == other.sequence() && self < other
    }

    /// Whether it comes after the other one in the same sequence.
    pub fn follows(self, other: StepName) -> bool {
        other.precedes(self)
    }

    /// The name in the journal and on the command line.
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
            StepName::Gate => "gate",
            StepName::Drain => "drain",
            StepName::Unmount => "unmount",
            StepName::Detach => "detach",
            StepName::Leave => "leave",
        }
    }

    /// The step of this name, in any sequence.
    pub fn named(name: &str) -> Option<StepName> {
        let steps = [Sequence::Boot, Sequence::Departure].into_iter().flat_map(Sequence::steps);
        steps.copied().find(|step| step.as_str() == name)
    }
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_sorted_as_their_sequence_runs_them() {
        for sequence in [Sequence::Boot, Sequence::Departure] {
            let steps = sequence.steps();
            assert!(steps.is_sorted() && steps.iter().all(|step| step.sequence() == sequence));
            for step in steps {
                assert_eq!(StepName::named(step.as_str()), Some(*step));
                assert_eq!(serde_json::to_value(step).unwrap(), step.as_str());
            }
        }
        assert_eq!(StepName::named("unknown"), None);
    }

    #[test]
    fn operators_name_the_steps_of_the_boot_alone() {
        let named: Vec<_> =
            StepName::value_variants().iter().filter(|step| step.to_possible_value().is_some()).collect();
        assert_eq!(named, Sequence::Boot.steps().iter().collect::<Vec<_>>());
    }
}
