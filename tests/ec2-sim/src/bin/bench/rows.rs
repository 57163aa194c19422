//! The boots that are measured: one row each.

use std::fmt::Write;
use std::time::Duration;

use ec2_sim::{Latencies, Spread};

/// A kind of boot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) file_system: &'static str,
    pub(crate) volumes: usize,
    /// From S3.
    pub(crate) files: usize,
    /// Whether the volumes hold a filesystem already; they are blank otherwise.
    pub(crate) existing: bool,
    pub(crate) waiting: Waiting,
}

/// What a boot waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Nothing: EC2 does everything at once.
    Nothing,
    /// EC2 takes its time to attach.
    Ec2,
    /// Another instance has the volume and is shutting down; then EC2 takes its time to attach.
    Replaced,
}

impl Row {
    /// All rows, in the order of the table.
    pub(crate) fn all() -> Vec<Row> {
        let mut rows = Vec::new();
        for file_system in ["xfs", "ext4"] {
            let row = Row { file_system, volumes: 1, files: 0, existing: false, waiting: Waiting::Nothing };
            rows.extend([
                row,
                Row { existing: true, ..row },
                Row { volumes: 4, ..row },
                Row { volumes: 16, ..row },
                Row { files: 10, ..row },
                Row { files: 200, ..row },
                Row { waiting: Waiting::Ec2, ..row },
                Row { waiting: Waiting::Ec2, volumes: 16, ..row },
                Row { waiting: Waiting::Replaced, existing: true, ..row },
            ]);
        }
        rows
    }

    pub(crate) fn name(&self) -> String {
        let state = if self.existing { "existing" } else { "blank" };
        let mut name = format!("{}, {state}", self.file_system);
        if self.volumes > 1 {
            let _ = write!(name, ", {} volumes", self.volumes);
        }
        if self.files > 0 {
            let _ = write!(name, ", {} files from S3", self.files);
        }
        name += match self.waiting {
            Waiting::Nothing => ", nothing to wait for",
            Waiting::Ec2 => ", EC2 attaches in 2.6 s",
            Waiting::Replaced => ", replacement",
        };
        name
    }

    /// What the floor is made of, and so what limits this boot.
    pub(crate) fn limit(&self) -> &'static str {
        match (self.waiting, self.existing, self.volumes, self.files) {
            (Waiting::Nothing, true, ..) if self.file_system == "ext4" => "e2fsck and the mount",
            (Waiting::Nothing, true, ..) => "the mount",
            (Waiting::Nothing, false, 1, 0) => "mkfs",
            (Waiting::Nothing, false, 1, _) => "mkfs, and the downloads beside it",
            (Waiting::Nothing, false, ..) => "one mkfs for each volume, on two cores",
            (Waiting::Ec2, ..) => "EC2's `attached`",
            (Waiting::Replaced, ..) => "the old instance's end, then EC2's `attached`",
        }
    }

    /// Rows that wait for seconds are run less often.
    pub(crate) fn runs(&self, wanted: usize) -> usize {
        if self.waiting == Waiting::Nothing { wanted } else { wanted.min(5) }
    }
}

/// What EC2 takes its time for in the rows that wait, as was seen on real instances: the device comes some time before EC2 says
/// `attached`. AWS documents none of these.
pub(crate) fn ec2_latencies() -> Latencies {
    Latencies {
        attach: Duration::from_millis(2600),
        device: Duration::from_millis(1900),
        shutting_down: Duration::from_secs(2),
        target_state: Spread::default(),
        api: Duration::from_millis(60),
        ..Latencies::none()
    }
}
