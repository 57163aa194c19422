//! What differs from one cluster to another.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;

use ec2_sim::machine::Machine;

use super::room::shell;
use super::writer::Record;

/// A kind of cluster.
pub trait Kind: Sized + 'static {
    /// The name of the hook, of the cluster and of the groups.
    const NAME: &'static str;
    /// The hook that is shipped.
    const HOOKS: &'static str;
    /// The user that runs the server.
    const USER: &'static str;
    /// A file of the server's package.
    const NEEDS: &'static str;
    /// The files that say whose data a volume holds; they never change.
    const IDENTITY: &'static [&'static str];
    /// A line of settings by which the server does not start.
    const BROKEN: (&'static str, &'static str);
    /// What the server says of that line.
    const COMPLAINT: &'static str;

    /// How the commands begin that the hook's message has for a person who takes a node back in.
    const COMMANDS: &'static [&'static str] = &[];

    /// Settings of the hook that differ from the shipped ones.
    fn settings() -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// What the operator's machine needs beside the host's programs.
    fn prepare() {}

    /// What a node's image brings beside the host's programs.
    fn install(machine: &Machine) -> io::Result<()>;

    /// Writes to these nodes without pause, until the record says that it ends, and records each acknowledged write.
    fn write(nodes: &[Ipv4Addr], record: &Record);

    /// All keys that were written, as the whole cluster has them at this moment, told by this node.
    fn read_all(node: Ipv4Addr) -> io::Result<BTreeSet<u64>>;

    /// Types a command that the hook's message has for a person.
    fn type_command(command: &str) {
        shell(command);
    }
}
