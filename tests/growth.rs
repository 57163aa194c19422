//! The filesystem of a volume that was enlarged in EC2 is grown online.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use support::{Instance, World, can_resize_ext4, config, volume_at};

/// Comes up with 1 GiB, is enlarged to 3 GiB while another instance takes over, and tells the size in MiB before and after.
fn grown(world: &World, file_system: &str) -> (u64, u64, Instance, String) {
    let (node, volume) = world.node();
    let config = config(&[volume_at("/mydata", &volume, file_system)]);
    node.come_up(&config);
    let size = |node: &Instance| node.shell("df -BM --output=size /mydata | tail -1 | tr -dc 0-9").parse().unwrap();
    let before = size(&node);
    node.shell("echo precious > /mydata/segment; sync");
    node.terminate();
    world.sim.grow_volume(&volume, 3 << 30).unwrap();
    let node = world.launch();
    let log = node.come_up(&config).log;
    assert_eq!(node.shell("cat /mydata/segment"), "precious");
    let after = size(&node);
    (before, after, node, log)
}

#[test]
fn an_xfs_volume_that_was_enlarged_is_grown_online() {
    let world = World::new();
    let (before, after, node, _) = grown(&world, "xfs");
    assert!(before < 1024 && after > 2 * 1024 + 512, "{before} MiB, then {after} MiB");
    // A second run has nothing to grow.
    let again = node.start_with(&["run", "--once"]).end();
    assert_eq!(again.code, Some(0));
    assert!(again.log.contains("grow") && !again.log.contains("start:"), "{}", again.log);
}

#[test]
fn an_ext4_volume_that_was_enlarged_is_grown_online_or_a_loud_warning_says_why_not() {
    let world = World::new();
    let (before, after, _node, log) = grown(&world, "ext4");
    if can_resize_ext4() {
        assert!(before < 1024 && after > 2 * 1024 + 512, "{before} MiB, then {after} MiB");
    } else {
        println!("SKIPPED: growing ext4 online needs CAP_SYS_RESOURCE; what is shown is the warning");
        assert_eq!(before, after);
        assert!(log.contains("warning: ext4 on /mydata was not grown") && log.contains("CAP_SYS_RESOURCE"), "{log}");
    }
}
