//! The subnet of a cluster: a bridge, at which the region and the client are, and a network namespace for each node with the node's
//! address. A node's next instance has the same namespace, as it has the same network interface.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};

use super::room::shell;

/// Where the region, the client and the operator are.
pub const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));

/// The address of a node.
pub fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, 10 + u8::try_from(node).unwrap())
}

/// Makes the bridge and the namespaces of so many nodes.
pub fn build(nodes: usize) {
    shell(&format!("ip link add subnet type bridge; ip addr add {OUTSIDE}/24 dev subnet; ip link set subnet up"));
    for node in 0..nodes {
        shell(&format!(
            "ip netns add node-{node}
             ip link add node-{node} type veth peer name eth0 netns node-{node}
             ip link set node-{node} master subnet up
             ip -n node-{node} addr add {address}/24 dev eth0
             ip -n node-{node} link set lo up
             ip -n node-{node} link set eth0 up",
            address = address(node)
        ));
    }
}

/// The namespace of a node.
pub fn of(node: usize) -> File {
    File::open(format!("/run/netns/node-{node}")).unwrap()
}
