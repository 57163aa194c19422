//! What the machine image of a Kafka node brings.

use std::io;

use ec2_sim::machine::Machine;

/// The accounts that a package of the broker would have made.
const ACCOUNTS: &str =
    "getent passwd kafka >/dev/null || echo 'kafka:x:9092:9092::/nonexistent:/usr/sbin/nologin' >> /etc/passwd
getent group kafka >/dev/null || echo 'kafka:x:9092:' >> /etc/group";

pub(crate) fn install(machine: &Machine) -> io::Result<()> {
    machine.shell(ACCOUNTS).map(drop)
}
