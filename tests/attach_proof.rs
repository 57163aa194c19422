//! The disk is the proof: what is done with a device that is here before EC2 says so, and with one that EC2 knows elsewhere.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::time::Duration;

use ec2_sim::Sim;
use node_agent::host::uevents::BlockEvents;
use support::{World, config_for, config_with, volume_at};
use tokio::time::timeout;

/// EC2 says "attaching" for so long, while the device appears at once.
fn attaching_for(long: Duration) -> World {
    World::with(|config| {
        config.latencies.attach = long;
        config.latencies.device = Duration::from_millis(100);
    })
}

#[test]
fn a_device_that_is_here_is_mounted_while_ec2_says_attaching_and_reported_after() {
    let world = attaching_for(Duration::from_secs(8));
    let (node, volume) = world.node();
    let running = node.start(&config_for(&volume));
    running.wait_for("health-check: done");
    let state = || world.sim.volume_state(&volume).unwrap().attachments[0].status;
    assert_eq!(state(), "attaching");
    node.shell("findmnt /mydata");
    running.wait_for(&format!("the device of volume {volume} is here, but EC2 says that the volume is attaching"));
    assert_eq!(world.completions(), [""; 0]);
    let outcome = running.end();
    assert_eq!((outcome.code, state()), (Some(0), "attached"), "{}", outcome.log);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_node_whose_volume_ec2_says_is_attaching_for_ever_is_not_reported_and_says_so() {
    let world = attaching_for(Duration::from_hours(1));
    let (node, volume) = world.node();
    let config = config_with("", &[volume_at("/mydata", &volume, "xfs")], "[timeouts]\nvolume = \"8s\"");
    let outcome = node.run(&config);
    let said =
        format!("the device of volume {volume} is here, but EC2 says that the volume is attaching to {}", node.id);
    outcome.must_fail(1, &["step=attach code=volume-in-transit", &said, "aws ec2 describe-volumes"]);
    assert_eq!(world.completions(), [""; 0]);
    // Its data was not touched for it: a retry goes on from there.
    assert_eq!(node.shell("findmnt -n -o FSTYPE /mydata; wc -l </var/log/hooks.log"), "xfs\n2");
}

#[test]
fn a_device_that_is_here_is_not_touched_while_ec2_says_another_instance_has_it() {
    let world = World::new();
    let (node, volume) = world.node();
    let other = world.launch();
    world.sim.attach(&volume, &other.id, "/dev/sdf").unwrap();
    support::wait_until(|| world.sim.device(&volume, &other.id).is_some(), || "no device".to_owned());
    let device = world.sim.device(&volume, &other.id).unwrap();
    node.shell(&format!("ln -s {} /dev/disk/by-id/{}", device.display(), Sim::link_name(&volume)));
    let config = config_with("", &[volume_at("/mydata", &volume, "xfs")], "[timeouts]\nvolume = \"4s\"");
    node.run(&config).must_fail(6, &["step=attach code=volume-held", &format!("attached to {} (running)", other.id)]);
    assert_eq!(node.shell(&format!("blkid -p {} || echo nothing", device.display())), "nothing");
}

#[test]
fn a_device_of_another_volume_is_no_proof_and_is_not_touched() {
    let world = World::with(|config| {
        config.latencies.attach = Duration::from_hours(1);
        config.latencies.device = Duration::from_hours(1);
    });
    let (node, volume) = world.node();
    let disk = node.shell("truncate -s 1G /var/other; losetup --find --show /var/other");
    node.shell(&format!("ln -s {disk} /dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0feedfeedfeedfeed"));
    let config = config_with("", &[volume_at("/mydata", &volume, "xfs")], "[timeouts]\nvolume = \"4s\"");
    let outcome = node.run(&config);
    let left = node.shell(&format!("blkid -p {disk} || echo nothing; losetup --detach {disk}"));
    outcome.must_fail(1, &["step=attach code=volume-in-transit", "is attaching to"]);
    assert_eq!(left, "nothing");
}

#[test]
fn ec2_is_asked_seldom_while_the_device_is_awaited() {
    let world = World::with(|config| {
        config.latencies.attach = Duration::from_secs(5);
        config.latencies.device = Duration::from_secs(5);
    });
    let (node, volume) = world.node();
    let outcome = node.run(&config_for(&volume));
    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    let asked = world.events().calls("ec2:DescribeVolumes").len();
    // Before and after the request, every two seconds, and at the end.
    assert!(asked <= 6, "{asked}");
}

#[test]
fn the_kernel_tells_of_a_block_device() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let events = BlockEvents::listen().unwrap();
        let world = World::new();
        let (node, _) = world.node();
        node.shell("truncate -s 1M /var/small; losetup --detach $(losetup --find --show /var/small)");
        timeout(Duration::from_secs(10), events.next()).await.unwrap().unwrap();
    });
}
