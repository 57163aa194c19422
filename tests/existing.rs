//! Existing filesystems: checked, their logs replayed, clones told apart, volumes tagged.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use ec2_sim::VolumeId;
use nix::fcntl::OFlag;
use support::{Outcome, World, config, config_for, config_with, volume_at, wait_until};

/// A node comes up, writes a file and is terminated; the volume's contents are then in its backing file.
fn used_once(world: &World, volume: &VolumeId, file_system: &str) {
    let node = world.launch();
    node.come_up(&config(&[volume_at("/mydata", volume, file_system)]));
    node.shell("echo precious > /mydata/segment; sync");
    node.terminate();
    let id = volume.clone();
    let free = |_: &ec2_sim::Event| world.sim.volume_state(&id).is_ok_and(|volume| volume.status == "available");
    world.sim.wait_for_blocking(free, std::time::Duration::from_secs(30)).expect("the volume comes free");
}

fn on_backing_file(world: &World, volume: &VolumeId, program: &str, arguments: &[&str]) {
    let file = world.sim.volume_state(volume).unwrap().backing_file;
    let output = Command::new(program).args(arguments).arg(&file).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn ext4_with_small_damage_is_repaired_before_it_is_mounted() {
    let world = World::new();
    let volume = world.volume(1);
    used_once(&world, &volume, "ext4");
    // A wrong count of free blocks in the superblock, and "not cleanly unmounted".
    on_backing_file(&world, &volume, "debugfs", &["-w", "-R", "ssv free_blocks_count 7"]);
    on_backing_file(&world, &volume, "debugfs", &["-w", "-R", "ssv state 0"]);
    let node = world.launch();

    let outcome = node.come_up(&config(&[volume_at("/mydata", &volume, "ext4")]));

    assert!(outcome.log.contains("e2fsck repaired"), "{}", outcome.log);
    assert_eq!(node.shell("cat /mydata/segment"), "precious");
}

#[test]
fn ext4_with_damage_that_needs_a_decision_is_refused_and_left_as_it_is() {
    let world = World::new();
    let volume = world.volume(1);
    used_once(&world, &volume, "ext4");
    // Two files claim the same blocks: `e2fsck -p` does not repair that by itself.
    on_backing_file(&world, &volume, "debugfs", &["-w", "-R", "clri <2>"]);
    on_backing_file(&world, &volume, "debugfs", &["-w", "-R", "ssv state 0"]);
    let before = std::fs::read(world.sim.volume_state(&volume).unwrap().backing_file).unwrap();
    let node = world.launch();

    let outcome = node.run(&config(&[volume_at("/mydata", &volume, "ext4")]));

    outcome.must_fail(6, &["step=mount code=filesystem-damaged", "e2fsck -p", "errors left uncorrected", "snapshot"]);
    assert_eq!(node.shell("findmnt /mydata || echo none; grep -c x-node-agent /etc/fstab || true"), "none\n0");
    assert!(world.completions().len() == 1 && !before.is_empty());
}

#[test]
fn a_filesystem_of_the_other_type_is_refused_and_left_as_it_is() {
    for (there, wanted) in [("xfs", "ext4"), ("ext4", "xfs")] {
        let world = World::new();
        let volume = world.volume(1);
        used_once(&world, &volume, there);
        let node = world.launch();

        let outcome = node.run(&config(&[volume_at("/mydata", &volume, wanted)]));

        outcome.must_fail(6, &["code=wrong-filesystem", &format!("holds {there}"), &format!("configured is {wanted}")]);
        node.come_up(&config(&[volume_at("/mydata", &volume, there)]));
        assert_eq!(node.shell("cat /mydata/segment"), "precious");
    }
}

#[test]
fn an_xfs_whose_machine_died_is_replayed_by_mounting() {
    let world = World::new();
    let (node, volume) = world.node();
    node.come_up(&config_for(&volume));
    node.shell("for i in $(seq 200); do echo $i > /mydata/$i; done; sync /mydata/*");
    // The log is full of what is not in its place yet; a copy of the disk at this instant is what a power cut leaves.
    let file = world.sim.volume_state(&volume).unwrap().backing_file;
    node.shell("xfs_io -x -c 'shutdown -f' /mydata 2>/dev/null || xfs_io -x -c shutdown /mydata");
    node.terminate();
    let free = |_: &ec2_sim::Event| world.sim.volume_state(&volume).is_ok_and(|volume| volume.status == "available");
    world.sim.wait_for_blocking(free, std::time::Duration::from_secs(30)).expect("the volume comes free");
    let dirty = Command::new("xfs_logprint").args(["-t"]).arg(&file).output().unwrap();
    assert!(String::from_utf8_lossy(&dirty.stdout).contains("DIRTY"), "nothing to replay: this shows nothing");
    let node = world.launch();

    node.come_up(&config_for(&volume));

    assert_eq!(node.shell("cat /mydata/200; ls /mydata | wc -l"), "200\n200");
}

#[test]
fn a_clone_with_the_same_xfs_uuid_is_mounted_with_nouuid_and_only_then() {
    let world = World::new();
    let (original, clone) = (world.volume(1), world.volume(1));
    used_once(&world, &original, "xfs");
    let file = |volume: &VolumeId| world.sim.volume_state(volume).unwrap().backing_file;
    std::fs::copy(file(&original), file(&clone)).unwrap();
    let node = world.launch();

    let alone = node.come_up(&config(&[volume_at("/mydata", &original, "xfs")]));
    assert!(!alone.log.contains("nouuid") && !node.read("/etc/fstab").contains("nouuid"));
    let both = node.come_up(&config(&[volume_at("/mydata", &original, "xfs"), volume_at("/myclone", &clone, "xfs")]));

    assert!(both.log.contains("has the same UUID; mounting with nouuid"), "{}", both.log);
    assert_eq!(node.shell("cat /mydata/segment /myclone/segment"), "precious\nprecious");
    let fstab = node.read("/etc/fstab");
    let line_of = |path: &str| fstab.lines().find(|line| line.contains(path)).unwrap().to_owned();
    assert!(!line_of("/mydata").contains("nouuid"), "{fstab}");
    // Two disks answer to the UUID now: the clone's line names the volume itself.
    assert!(line_of("/myclone").contains("nouuid") && line_of("/myclone").starts_with("/dev/disk/by-id/"), "{fstab}");
}

#[test]
fn a_formatted_volume_is_tagged_and_never_formatted_again_when_it_looks_blank() {
    let world = World::new();
    let volume = world.volume(1);
    used_once(&world, &volume, "xfs");
    let tags = world.sim.volume_state(&volume).unwrap().tags;
    assert_eq!(tags["node-agent:formatting"], "done");
    assert!(tags["node-agent:formatted"].starts_with("xfs "), "{tags:?}");
    let file = world.sim.volume_state(&volume).unwrap().backing_file;
    let wiped = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    wiped.set_len(0).unwrap();
    wiped.set_len(1 << 30).unwrap();
    let node = world.launch();

    let outcome = node.run(&config_for(&volume));

    outcome.must_fail(6, &["code=unexpectedly-blank", "node-agent:formatted", "data loss"]);
    node.shell(told(&outcome, "make the filesystem by hand: ", ", then: node-agent retry"));
    node.come_up(&config_for(&volume));
}

/// The command between these two texts in a remedy.
fn told<'o>(outcome: &'o Outcome, before: &str, after: &str) -> &'o str {
    let (_, remedy) = outcome.last().split_once("remedy=").unwrap();
    let command = remedy.split_once(before).and_then(|(_, rest)| rest.split_once(after));
    command.unwrap_or_else(|| panic!("{before}…{after}: {remedy}")).0
}

#[test]
fn a_format_begun_on_a_disk_of_another_size_is_refused_until_the_remedy_is_followed() {
    let world = World::new();
    let (node, volume) = world.node();
    let journal = serde_json::json!({
        "schema": 1,
        "instance_id": node.id.as_str(),
        "boot_id": "",
        "config_digest": "",
        "volumes": { volume.as_str(): { "formatting": {
            "device": "/dev/nvme1n1",
            "size": 512 << 20,
            "file_system": "xfs",
            "evidence": "all zero",
            "at": "2026-01-01T00:00:00.000Z",
        } } },
    });
    node.write("/var/lib/node-agent/state.json", journal.to_string());
    let config = config_for(&volume);

    let outcome = node.run(&config);

    outcome.must_fail(6, &["code=not-blank", "with 536870912 bytes was begun", "now has 1073741824 bytes"]);
    node.shell(told(&outcome, "if nothing on the disk is needed: ", "; then: node-agent retry"));
    node.come_up(&config);
    assert_eq!(node.shell("findmnt -no FSTYPE /mydata; grep -c x-node-agent /etc/fstab"), "xfs\n1");
}

#[test]
fn without_permission_to_tag_the_node_comes_up_and_says_once_what_it_cannot_check() {
    let world = World::new();
    let volume = world.volume(1);
    let node = world.launch_without(&["ec2:CreateTags"]);

    let outcome = node.come_up(&config_for(&volume));

    assert_eq!(outcome.log.matches("ec2:CreateTags is not allowed").count(), 1, "{}", outcome.log);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_device_that_somebody_holds_for_a_moment_is_mounted_when_it_is_free() {
    let world = World::new();
    let volume = world.volume(1);
    used_once(&world, &volume, "xfs");
    let node = world.launch();
    world.sim.attach(&volume, &node.id, "/dev/sdf").unwrap();
    wait_until(|| world.sim.device(&volume, &node.id).is_some(), || "no device".to_owned());
    let device = world.sim.device(&volume, &node.id).unwrap();
    // As a mount by systemd holds it.
    let held = OpenOptions::new().read(true).custom_flags(OFlag::O_EXCL.bits()).open(device).unwrap();

    let agent = node.start(&config_for(&volume));
    agent.wait_for("is not mounted");
    // The mount, which logs nothing while it waits, must find the device held.
    sleep(Duration::from_millis(500));
    drop(held);
    let outcome = agent.end();

    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert_eq!(node.shell("cat /mydata/segment"), "precious");
}

#[test]
fn what_stands_in_the_mount_points_place_is_named_and_left_alone() {
    let world = World::new();
    let (node, volume) = world.node();
    let config = config(&[volume_at("/mydata", &volume, "ext4")]);
    let cases = [
        ("mkdir /mydata; echo x > /mydata/forgotten", "is not empty: it has forgotten", "rm -r /mydata"),
        ("ln -s /tmp /mydata", "is a symlink", "rm /mydata"),
        ("touch /mydata", "is not a directory", "rm /mydata"),
        (
            "mkdir /mydata; mount -t tmpfs other /mydata",
            "other (tmpfs) is mounted at /mydata already",
            "umount /mydata",
        ),
    ];
    for (arrange, said, mend) in cases {
        node.shell(arrange);
        node.run(&config).must_fail(6, &["step=mount code=mount-point-taken", said]);
        assert!(!node.read("/etc/fstab").contains("x-node-agent"), "{said}");
        node.shell(mend);
    }
    node.come_up(&config);
    assert_eq!(node.shell("findmnt -no FSTYPE /mydata"), "ext4");
}

#[test]
fn a_volume_inside_another_is_mounted_after_it_whatever_the_configured_order() {
    let world = World::new();
    let (inner, outer) = (world.volume(1), world.volume(1));
    let node = world.launch();

    node.come_up(&config(&[volume_at("/mydata/log", &inner, "xfs"), volume_at("/mydata", &outer, "xfs")]));

    assert_eq!(
        node.shell("findmnt -no TARGET /mydata; findmnt -no TARGET /mydata/log; ls /mydata"),
        "/mydata\n/mydata/log\nlog"
    );
}

#[test]
fn an_ext2_or_ext3_becomes_an_ext4_by_the_remedy_and_keeps_its_data() {
    for kind in ["ext2", "ext3"] {
        let world = World::new();
        let volume = world.volume(1);
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("segment"), "precious\n").unwrap();
        // With the features of its time.
        let options = ["-q", "-t", kind, "-O", "none,filetype,sparse_super,large_file,resize_inode", "-d"];
        let journal: &[&str] = if kind == "ext3" { &["-j"] } else { &[] };
        on_backing_file(&world, &volume, "mke2fs", &[&options[..], &[data.path().to_str().unwrap()], journal].concat());
        let node = world.launch();
        let config = config(&[volume_at("/mydata", &volume, "ext4")]);

        let outcome = node.run(&config);

        outcome.must_fail(6, &["code=wrong-filesystem", &format!("holds {kind}"), "snapshot"]);
        node.shell(told(&outcome, "is not mounted: ", "; otherwise correct volume.id"));
        let device = world.sim.device(&volume, &node.id).unwrap();
        assert_eq!(node.shell(&format!("blkid -p -o value -s TYPE {}", device.display())), "ext4");
        node.come_up(&config);
        assert_eq!(node.shell("cat /mydata/segment; findmnt -no FSTYPE /mydata"), "precious\next4");
        node.shell("echo more > /mydata/more; sync");
    }
}

#[test]
fn an_ext4_with_a_feature_of_the_future_is_not_called_damaged() {
    for feature in ["FEATURE_I30", "FEATURE_R30", "FEATURE_C30"] {
        let world = World::new();
        let volume = world.volume(1);
        used_once(&world, &volume, "ext4");
        on_backing_file(&world, &volume, "debugfs", &["-w", "-R", &format!("feature {feature}")]);
        let node = world.launch();

        let outcome = node.run(&config(&[volume_at("/mydata", &volume, "ext4")]));

        outcome
            .must_fail(6, &["step=mount code=filesystem-too-new", "has unsupported feature(s)", "newer", "e2fsprogs"]);
        assert!(!outcome.last().contains("repair"), "{}", outcome.log);
    }
}

#[test]
fn an_ext4_that_another_program_works_on_is_waited_for_and_not_called_damaged() {
    let world = World::new();
    let volume = world.volume(1);
    used_once(&world, &volume, "ext4");
    let node = world.launch();
    world.sim.attach(&volume, &node.id, "/dev/sdf").unwrap();
    wait_until(|| world.sim.device(&volume, &node.id).is_some(), || "no device".to_owned());
    let device = world.sim.device(&volume, &node.id).unwrap();
    // As an e2fsck that systemd has started holds it.
    let held = OpenOptions::new().read(true).custom_flags(OFlag::O_EXCL.bits()).open(&device).unwrap();

    let agent = node.start(&config(&[volume_at("/mydata", &volume, "ext4")]));
    agent.wait_for("another program is using the device");
    assert!(agent.log().contains(" is in use."), "{}", agent.log());
    drop(held);
    let outcome = agent.end();

    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert_eq!(node.shell("cat /mydata/segment"), "precious");

    // A device that stays busy to the deadline is refused, and the message says so.
    node.shell("umount /mydata");
    let held = OpenOptions::new().read(true).custom_flags(OFlag::O_EXCL.bits()).open(&device).unwrap();
    let impatient = config_with("", &[volume_at("/mydata", &volume, "ext4")], "[timeouts]\nvolume = \"3s\"");
    node.run(&impatient).must_fail(6, &["step=mount code=device-busy", " is in use."]);
    drop(held);
}

#[test]
fn a_mkfs_that_fails_takes_its_intent_back_and_says_how_to_go_on() {
    for (file_system, script) in [
        ("xfs", "printf XFSB > $device; echo 'no more space' >&2; exit 1"),
        ("ext4", "printf half > $device; echo 'no more space' >&2; exit 1"),
    ] {
        let world = World::new();
        let (node, volume) = world.node();
        let program = format!("/usr/sbin/mkfs.{file_system}");
        node.shell(&format!("mkdir -p /opt/real; cp -L {program} /opt/real/; rm {program}"));
        let stand_in = "#!/bin/bash\n[[ $1 = -V ]] && exec /opt/real/${0##*/} -V\ndevice=${@: -1}\n";
        node.write(&program, format!("{stand_in}{script}\n"));
        node.shell(&format!("chmod +x {program}"));
        let config = config(&[volume_at("/mydata", &volume, file_system)]);

        let failed = node.run(&config);

        failed.must_fail(1, &["step=filesystem code=tool-failed", "no more space", "was blank before"]);
        assert!(node.journal()["volumes"][volume.as_str()]["formatting"].is_null());
        node.shell(&format!("cp /opt/real/mkfs.{file_system} {program}"));
        // An operator must decide what that mkfs has written.
        node.run(&config).must_fail(6, &["step=filesystem code=not-blank"]);
        node.shell(told(&failed, "what mkfs has written: ", "; then: node-agent retry"));
        node.come_up(&config);
        assert_eq!(node.shell("findmnt -no FSTYPE /mydata"), file_system);
    }
}

#[test]
fn a_mkfs_that_is_killed_leaves_its_intent_and_the_next_run_comes_up() {
    let world = World::new();
    let (node, volume) = world.node();
    node.shell("mkdir -p /opt/real; cp -L /usr/sbin/mkfs.ext4 /opt/real/; rm /usr/sbin/mkfs.ext4");
    node.write("/usr/sbin/mkfs.ext4", "#!/bin/bash\n[[ $1 = -V ]] && exec /opt/real/mkfs.ext4 -V\nkill -9 $$\n");
    node.shell("chmod +x /usr/sbin/mkfs.ext4");
    let config = config(&[volume_at("/mydata", &volume, "ext4")]);

    node.run(&config).must_fail(1, &["step=filesystem code=tool-failed", "was killed", "signal: 9"]);

    assert!(!node.journal()["volumes"][volume.as_str()]["formatting"].is_null());
    node.shell("cp /opt/real/mkfs.ext4 /usr/sbin/mkfs.ext4");
    node.come_up(&config);
}
