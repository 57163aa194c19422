//! What is on a volume.

use std::collections::BTreeMap;

use ec2_sim::machine::Machine;

use crate::Result;

/// A volume's contents.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Data {
    /// Path → SHA-256.
    pub(crate) files: BTreeMap<String, String>,
    pub(crate) uuid: String,
    pub(crate) in_words: String,
}

impl Data {
    /// The contents of the volume at `/mydata`.
    pub(crate) fn read(machine: &Machine) -> Result<Data> {
        let sums = machine.shell("cd /mydata && find . -type f -exec sha256sum {} + | sort -k 2")?;
        let files =
            sums.lines().filter_map(|line| line.split_once("  ")).map(|(sum, path)| (path.to_owned(), sum.to_owned()));
        let uuid = machine.shell("blkid -p -s UUID -o value \"$(findmnt -no SOURCE /mydata)\"")?;
        let bytes = machine.shell("find /mydata -type f -printf '%s\\n' | awk '{ sum += $1 } END { print sum }'")?;
        let files: BTreeMap<_, _> = files.collect();
        let in_words = format!("{} files, {bytes} bytes, filesystem {uuid}", files.len());
        Ok(Data { files, uuid, in_words })
    }
}
