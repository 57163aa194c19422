//! An image made of a node contains nothing of that node.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use support::{Instance, World, config, config_for, volume_at};

const CLEAN: &str = include_str!("../packaging/ami/clean.sh");

/// A node that is up, with the files of a real machine.
fn node(world: &World) -> Instance {
    let (node, volume) = world.node();
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
fn a_data_volume_that_another_tool_has_in_fstab_stops_it_too() {
    let world = World::new();
    let node = node(&world);
    for known_by in ["the journal", "the configuration"] {
        node.shell("sed -i /x-node-agent/d /etc/fstab; echo 'LABEL=data /my\\040data xfs nofail 0 0' >>/etc/fstab");
        if known_by == "the configuration" {
            node.shell("rm /var/lib/node-agent/state.json");
        }
        let said = node.shell("! bash /root/clean.sh 2>&1");
        assert!(said.contains("/my data is a node's data volume: unmount it"), "{known_by}: {said}");
    }
}

#[test]
fn the_lines_of_another_nodes_volumes_are_taken_out_of_fstab_at_the_first_launch() {
    let world = World::new();
    let (node, volume) = world.node();
    let others = "LABEL=root / ext4 defaults 0 1\nUUID=u /backup xfs nofail 0 0\n";
    node.write("/etc/fstab", format!("{others}UUID=old /archive ext4 nofail,x-node-agent=vol-0123456789abcdef0 0 2\n"));

    node.come_up(&config_for(&volume));

    let fstab = node.read("/etc/fstab");
    assert!(fstab.starts_with(others) && fstab.lines().count() == 3 && fstab.contains(volume.as_str()), "{fstab}");
}

#[test]
fn what_is_the_nodes_the_instances_or_secret_is_gone_and_the_rest_is_as_it_was() {
    let world = World::new();
    let node = node(&world);

    node.shell("echo \"$HOSTNAME was here\" | tee /var/log/syslog /var/log/syslog.1 /var/log/messages");
    node.shell("umount '/my data'; bash /root/clean.sh");
    assert_eq!(node.shell("cat /var/log/syslog* /var/log/messages*"), "");

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
        node.configure(text);
        node.shell("bash /root/clean.sh");
        assert_eq!(node.read("/etc/node-agent/config.toml"), text);
    }
}
