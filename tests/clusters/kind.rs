//! What differs from one cluster to another.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;

use ec2_sim::machine::Machine;

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

    /// Settings of the hook that differ from the shipped ones.
    fn settings() -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// What a node's image brings beside the host's programs.
    fn install(machine: &Machine) -> io::Result<()>;

    /// Connects a client to one node.
    fn connect(address: Ipv4Addr) -> io::Result<Box<dyn Session>>;
}

/// A client's connection to one node.
pub trait Session {
    /// Writes a key that was never written before. Success means that the cluster has acknowledged it.
    fn write(&mut self, key: u64) -> io::Result<()>;

    /// All keys that were written, as the whole cluster has them at this moment.
    fn read_all(&mut self) -> io::Result<BTreeSet<u64>>;
}
