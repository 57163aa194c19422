//! A node comes up on a blank volume, stays up, and hands its data to its replacement.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::time::Duration;

use ec2_sim::Sim;
use support::{World, config, config_for, volume_at};

fn first_boot(file_system: &str) {
    let world = World::new();
    let volume = world.volume(2);
    let node = world.launch();
    let config = config(&[volume_at("/mydata", &volume, file_system)]);

    let up = node.come_up(&config);

    assert!(up.last().contains("result=done"), "{}", up.log);
    let mounted = node.shell("findmnt -no FSTYPE,OPTIONS /mydata");
    assert!(mounted.starts_with(file_system) && mounted.contains("noatime"), "{mounted}");
    assert_eq!(node.shell("stat -c %U:%G /mydata"), "daemon:daemon");
    assert_eq!(node.read("/etc/kafka/server.properties"), "broker.id=00");
    assert_eq!(node.read("/var/log/hooks.log"), "configure 00 10.0.1.10 /mydata\nhealth 00 10.0.1.10 kafka-node-00\n");
    let uuid = node.shell("findmnt -no UUID /mydata || blkid -p -s UUID -o value $(findmnt -no SOURCE /mydata)");
    let fstab = node.read("/etc/fstab");
    let ours: Vec<_> = fstab.lines().filter(|line| line.contains("/mydata")).collect();
    let link = format!("/dev/disk/by-id/{}", Sim::link_name(&volume));
    assert_eq!(ours, [format!("{link} /mydata {file_system} noatime,nofail,x-node-agent={volume} 0 0")]);
    assert_eq!(world.completions(), ["CONTINUE"]);
    world.sim.wait_for_blocking(|_| world.sim.lifecycle_state(&node.id).as_deref() == Some("InService"), SOON).unwrap();

    // The same instance again changes nothing and sends nothing.
    node.shell("echo precious > /mydata/segment; sync");
    let before = (world.events().mutations().len(), node.read("/etc/fstab"), node.read("/var/log/hooks.log"));
    let again = node.come_up(&config);
    assert!(!again.log.contains("start:"), "something was done again:\n{}", again.log);
    assert_eq!((world.events().mutations().len(), node.read("/etc/fstab"), node.read("/var/log/hooks.log")), before);

    // A second instance with the same volume keeps every byte and formats nothing.
    node.terminate();
    let replacement = world.launch();
    let up = replacement.come_up(&config);
    assert!(!up.log.contains("formatted"), "{}", up.log);
    assert_eq!(replacement.shell("cat /mydata/segment; stat -c %U /mydata"), "precious\ndaemon");
    assert_eq!(replacement.shell("blkid -p -s UUID -o value $(findmnt -no SOURCE /mydata)"), uuid);
    assert_eq!(world.completions(), ["CONTINUE", "CONTINUE"]);
}

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_node_comes_up_on_xfs_stays_up_and_its_replacement_finds_every_byte() {
    first_boot("xfs");
}

#[test]
fn a_node_comes_up_on_ext4_stays_up_and_its_replacement_finds_every_byte() {
    first_boot("ext4");
}

#[test]
fn a_reboot_mounts_again_and_runs_no_hook() {
    let world = World::new();
    let (mut node, volume) = world.node();
    let config = config_for(&volume);
    node.come_up(&config);
    let (fstab, hooks) = (node.read("/etc/fstab"), node.read("/var/log/hooks.log"));

    node.reboot();
    assert_eq!(node.shell("findmnt /mydata || echo none"), "none");
    node.come_up(&config);

    assert_eq!(node.shell("findmnt -no FSTYPE /mydata"), "xfs");
    assert_eq!((node.read("/etc/fstab"), node.read("/var/log/hooks.log")), (fstab, hooks));
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn two_volumes_come_up_at_once_each_with_its_own_device_name() {
    let world = World::new();
    let (data, log) = (world.volume(1), world.volume(2));
    let node = world.launch();
    // Both ask for the default device name.
    let config = config(&[volume_at("/mydata", &data, "xfs"), volume_at("/mylog", &log, "ext4")]);

    node.come_up(&config);

    assert_eq!(node.shell("findmnt -no FSTYPE /mydata; findmnt -no FSTYPE /mylog"), "xfs\next4");
    let mut names = Vec::new();
    for volume in [&data, &log] {
        names.push(world.sim.volume_state(volume).unwrap().attachments[0].device.clone());
    }
    names.sort();
    assert_eq!(names, ["/dev/sdf", "/dev/sdg"]);
    assert_eq!(node.read("/etc/fstab").matches("x-node-agent=").count(), 2);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_node_without_volumes_lifecycle_and_hooks_still_gets_its_files() {
    let world = World::new();
    let node = world.launch();
    let config = r#"
[node]
id = "00"
ip = "10.0.1.10"
[[file]]
destination = "/etc/app/a/b.conf"
contents_base64 = "aGVsbG8="
mode = "0640"
owner = "daemon"
group = "1"
"#;

    node.come_up(config);

    assert_eq!(node.shell("cat /etc/app/a/b.conf; echo; stat -c '%a %U %g' /etc/app/a/b.conf"), "hello\n640 daemon 1");
    assert!(world.events().mutations().is_empty());
}
