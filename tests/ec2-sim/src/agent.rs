//! The agent on a machine.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use crate::machine::Machine;
use crate::{InstanceId, Sim};

/// Where it is installed.
pub const INSTALLED: &str = "/usr/local/bin/node-agent";

/// The agent on the instance's machine, with nothing in its environment but the addresses of the services.
pub fn command(machine: &Machine, sim: &Sim, instance: &InstanceId, arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut command = machine.command(INSTALLED);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(sim.env(instance))
        .current_dir("/")
        .stdin(Stdio::null());
    command
}
