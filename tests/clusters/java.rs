//! What a machine needs for a server that Java runs.

use std::fs;
use std::io;
use std::path::Path;

use ec2_sim::machine::Machine;

/// Java's settings, to which links below /usr lead.
pub fn settings(machine: &Machine) -> io::Result<()> {
    for entry in fs::read_dir("/etc")? {
        let path = entry?.path();
        if path.to_str().is_some_and(|name| name.starts_with("/etc/java-")) {
            copy(machine, &path, &path)?;
        }
    }
    Ok(())
}

/// Copies a folder of the host to the machine.
pub fn copy(machine: &Machine, from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(machine, &path, &to)?;
        } else {
            machine.write(&to, fs::read(&path)?)?;
        }
    }
    Ok(())
}
