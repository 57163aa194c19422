//! An image of a machine that was a node has nothing of that node in it.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use support::{HOOKS, Instance, World, config, volume_at};

const CLEAN: &str = include_str!("../packaging/ami/clean.sh");

/// A node that is up, and what a real machine has besides.
fn node(world: &World) -> Instance {
    let volume = world.volume(1);
    let node = world.launch();
    node.write("/usr/local/lib/node/hooks.sh", HOOKS);
    node.write("/root/clean.sh", CLEAN);
    node.write("/etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    node.write("/etc/ssh/ssh_host_ed25519_key", "secret");
    node.write("/etc/ssh/sshd_config", "PasswordAuthentication no\n");
    node.write("/root/.ssh/authorized_keys", "ssh-ed25519 …");
    node.write("/etc/node-agent/override.toml", "[timeouts]\nhooks = \"5m\"\n");
    node.write("/etc/fstab", "LABEL=root / ext4 defaults 0 1\n");
    node.come_up(&config(&[volume_at("/my data", volume, "xfs")]));
    node
}

#[test]
fn a_data_volume_that_is_still_mounted_stops_it_before_anything_is_removed() {
    let world = World::new();
    let node = node(&world);
    let said = node.shell("! bash /root/clean.sh 2>&1");
    assert!(said.contains("/my data is a node's data volume: unmount it"), "{said}");
    assert_eq!(node.shell("ls /var/lib/node-agent/state.json /etc/ssh/ssh_host_*").lines().count(), 2);
    assert!(node.read("/etc/fstab").contains("x-node-agent="));
}

#[test]
fn what_is_the_nodes_the_instances_or_secret_is_gone_and_the_rest_is_as_it_was() {
    let world = World::new();
    let node = node(&world);

    node.shell("umount '/my data'; bash /root/clean.sh");

    let gone = "/var/lib/node-agent /etc/node-agent/config.toml /etc/node-agent/override.toml \
        /etc/ssh/ssh_host_ed25519_key /root/.ssh/authorized_keys";
    assert_eq!(node.shell(&format!("ls -d {gone} 2>/dev/null || true")), "");
    assert_eq!(node.read("/etc/machine-id"), "");
    assert_eq!(node.read("/etc/fstab"), "LABEL=root / ext4 defaults 0 1\n");
    assert_eq!(node.read("/etc/ssh/sshd_config"), "PasswordAuthentication no\n");
}

#[test]
fn a_configuration_that_only_points_at_the_user_data_stays() {
    let world = World::new();
    let node = world.launch();
    node.write("/root/clean.sh", CLEAN);
    for text in ["source = \"imds\"\n", "# Settings are in the user data.\n\n  source=\"imds\" # there\n"] {
        node.write("/etc/node-agent/config.toml", text);
        node.shell("bash /root/clean.sh");
        assert_eq!(node.read("/etc/node-agent/config.toml"), text);
    }
}
