//! A volume is mounted as configured, in its own place, now and at the next boot.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::process::{Child, Command};
use std::time::Duration;

use ec2_sim::{Sim, VolumeId};
use support::{Instance, Outcome, World, config, volume_at, wait_until};

const PLACE: &str = "/mydata";

/// A node whose fstab is empty, with its scripts.
fn launch(world: &World) -> Instance {
    let node = world.launch();
    node.write("/etc/fstab", "");
    node
}

/// The `[[volume]]` with these mount options and without owner, so that a read-only mount comes up too.
fn with_options(id: &VolumeId, file_system: &str, options: &[&str]) -> String {
    let volume = format!(
        "[[volume]]\nid = \"{id}\"\nmount_path = \"{PLACE}\"\nfile_system = \"{file_system}\"\nmount_options = {options:?}\n"
    );
    config(&[volume])
}

fn link(volume: &VolumeId) -> String {
    format!("/dev/disk/by-id/{}", Sim::link_name(volume))
}

fn device(world: &World, node: &Instance, volume: &VolumeId) -> String {
    world.sim.device(volume, &node.id).expect("it is attached").display().to_string()
}

/// The line of fstab for this place.
fn line_of(node: &Instance, place: &str) -> String {
    let fstab = node.read("/etc/fstab");
    let mut lines = fstab.lines().filter(|line| line.split_whitespace().nth(1) == Some(place));
    let line = lines.next().unwrap_or_else(|| panic!("no line for {place}: {fstab}")).to_owned();
    assert_eq!(lines.next(), None, "{fstab}");
    line
}

/// The flags and options that mountinfo shows, or nothing.
fn shown(node: &Instance) -> String {
    // findmnt exits with 1 where nothing is mounted: then it shows nothing.
    node.shell("findmnt -rno VFS-OPTIONS,FS-OPTIONS --mountpoint /mydata || true")
}

/// A reboot that the kernel's boot id tells: the machines of a test share their host's.
fn next_boot(node: &mut Instance, id: &str) {
    node.reboot();
    node.shell(&format!("echo {id} > /run/boot_id; mount --bind /run/boot_id /proc/sys/kernel/random/boot_id"));
}

/// Waits until the kernel has ended the mounts of a machine that is off.
fn wait_until_free(device: &str) {
    use std::os::unix::fs::OpenOptionsExt;
    let exclusive = nix::fcntl::OFlag::O_EXCL.bits();
    let free = || std::fs::OpenOptions::new().read(true).custom_flags(exclusive).open(device).is_ok();
    wait_until(free, || format!("{device} stays in use"));
}

/// A node comes up, writes a file and is terminated.
fn used_once(world: &World, volume: &VolumeId, file_system: &str) {
    let node = launch(world);
    node.come_up(&config(&[volume_at(PLACE, volume, file_system)]));
    node.shell("echo precious > /mydata/segment; sync");
    node.terminate();
    let free = |_: &ec2_sim::Event| world.sim.volume_state(volume).is_ok_and(|volume| volume.status == "available");
    world.sim.wait_for_blocking(free, Duration::from_secs(30)).expect("the volume comes free");
}

/// As a volume made from a snapshot of the other.
fn copy_of(world: &World, original: &VolumeId) -> VolumeId {
    let copy = world.volume(1);
    let file = |volume: &VolumeId| world.sim.volume_state(volume).unwrap().backing_file;
    let copied = Command::new("cp").args(["--sparse=always"]).arg(file(original)).arg(file(&copy)).status().unwrap();
    assert!(copied.success());
    copy
}

/// The commands in a remedy before the retry, which the test runs itself.
fn follow(node: &Instance, outcome: &Outcome, first: &str, last: &str) {
    let (_, remedy) = outcome.last().split_once("remedy=").unwrap();
    let begin = remedy.find(first).unwrap_or_else(|| panic!("{first}: {remedy}"));
    let end = begin + remedy[begin..].find(last).unwrap_or_else(|| panic!("{last}: {remedy}"));
    node.shell(&remedy[begin..end]);
}

/// e2fsck must have checked this ext4 between its last two mounts: a check resets the mount count.
fn must_be_checked(world: &World, node: &Instance, volume: &VolumeId) {
    let device = device(world, node, volume);
    let seen = node.shell(&format!("dumpe2fs -h {device} 2>/dev/null | grep -E '^(Filesystem state|Mount count):'"));
    let seen: Vec<_> = seen.split_whitespace().collect();
    assert_eq!(seen, ["Filesystem", "state:", "clean", "Mount", "count:", "1"]);
}

fn status(node: &Instance) -> (Option<i32>, String) {
    let output = node.agent(&["status"]).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

// In its own place.

#[test]
fn two_copies_of_one_volume_are_each_mounted_in_their_place_at_the_next_boot() {
    for file_system in ["ext4", "xfs"] {
        let world = World::new();
        let original = world.volume(1);
        used_once(&world, &original, file_system);
        let copy = copy_of(&world, &original);
        let mut node = launch(&world);
        node.come_up(&config(&[volume_at(PLACE, &original, file_system), volume_at("/mycopy", &copy, file_system)]));
        node.shell("echo original > /mydata/which; echo copy > /mycopy/which; sync");
        let devices = [device(&world, &node, &original), device(&world, &node, &copy)];

        node.reboot();
        devices.iter().for_each(|device| wait_until_free(device));
        node.shell("mount -a");

        assert_eq!(node.shell("cat /mydata/which /mycopy/which"), "original\ncopy", "{file_system}");
        assert!(line_of(&node, PLACE).starts_with(&link(&original)), "{}", node.read("/etc/fstab"));
        assert!(line_of(&node, "/mycopy").starts_with(&link(&copy)), "{}", node.read("/etc/fstab"));
    }
}

#[test]
fn a_line_of_an_earlier_version_is_replaced_although_all_is_mounted() {
    let world = World::new();
    let volume = world.volume(1);
    let node = launch(&world);
    let config = config(&[volume_at(PLACE, &volume, "ext4")]);
    node.come_up(&config);
    let uuid = node.shell(&format!("blkid -p -s UUID -o value {}", device(&world, &node, &volume)));
    node.write("/etc/fstab", format!("# kept\nUUID={uuid} {PLACE} ext4 noatime,nofail,x-node-agent={volume} 0 2\n"));

    node.come_up(&config);

    let ours = format!("{} {PLACE} ext4 noatime,nofail,x-node-agent={volume} 0 0", link(&volume));
    assert_eq!(node.read("/etc/fstab"), format!("# kept\n{ours}\n"));
}

#[test]
fn where_no_link_names_the_volume_fstab_names_its_uuid() {
    let world = World::new();
    let volume = world.volume(1);
    let node = launch(&world);
    // udev takes the links away when the device changes, and is late.
    node.shell("mv /usr/sbin/mkfs.xfs /usr/sbin/mkfs.real");
    node.write("/usr/sbin/mkfs.xfs", "#!/bin/bash\n/usr/sbin/mkfs.real \"$@\" && rm -f /dev/disk/by-id/*\n");
    node.shell("chmod 0755 /usr/sbin/mkfs.xfs; sed -i 's/ && rm/ || exit; [ \"$1\" = -V ] || rm/' /usr/sbin/mkfs.xfs");

    node.come_up(&config(&[volume_at(PLACE, &volume, "xfs")]));

    let uuid = node.shell(&format!("blkid -p -s UUID -o value {}", device(&world, &node, &volume)));
    assert!(line_of(&node, PLACE).starts_with(&format!("UUID={uuid} ")), "{}", node.read("/etc/fstab"));
}

#[test]
fn a_copy_that_is_mounted_in_the_volumes_place_is_named_and_the_remedy_works() {
    for file_system in ["ext4", "xfs"] {
        let world = World::new();
        let original = world.volume(1);
        used_once(&world, &original, file_system);
        let copy = copy_of(&world, &original);
        let mut node = launch(&world);
        world.sim.attach(&copy, &node.id, "/dev/sdg").unwrap();
        wait_until(|| world.sim.device(&copy, &node.id).is_some(), || "no device".to_owned());
        let copied = device(&world, &node, &copy);
        // As udev decided at the boot, on a line of an earlier version.
        let uuid = node.shell(&format!("blkid -p -s UUID -o value {copied}"));
        let old = format!("UUID={uuid} {PLACE} {file_system} noatime,nofail,x-node-agent={original} 0 0\n");
        node.write("/etc/fstab", old);
        node.shell(&format!("mkdir {PLACE}; mount {copied} {PLACE}"));
        let config = config(&[volume_at(PLACE, &original, file_system)]);

        let outcome = node.run(&config);

        let which = format!(
            "{copied} ({file_system}) is mounted at /mydata already, which is volume {copy}; it has the UUID of"
        );
        outcome.must_fail(6, &["step=mount code=mount-point-taken", &which, "one is a copy of the other"]);
        follow(&node, &outcome, "umount", "; node-agent retry");
        node.come_up(&config);
        assert!(line_of(&node, PLACE).starts_with(&link(&original)));
        // The next boot does not do it again.
        let own = device(&world, &node, &original);
        node.reboot();
        wait_until_free(&own);
        node.shell("mount -a");
        assert_eq!(node.shell("findmnt -no SOURCE /mydata"), own);
        node.come_up(&config);
    }
}

#[test]
fn a_part_of_the_volume_in_its_place_is_not_the_volume() {
    let world = World::new();
    let volume = world.volume(1);
    let node = launch(&world);
    let config = config(&[volume_at(PLACE, &volume, "xfs")]);
    node.come_up(&config);
    node.shell("mkdir /mydata/part /mnt/all; mount --move /mydata /mnt/all; mount --bind /mnt/all/part /mydata");

    node.run(&config).must_fail(6, &["step=mount code=mount-point-taken", "only its directory /part"]);
}

#[test]
fn another_tools_line_for_the_same_disk_is_left_alone_and_said() {
    let world = World::new();
    let volume = world.volume(1);
    used_once(&world, &volume, "xfs");
    let node = launch(&world);
    let uuid = {
        let file = world.sim.volume_state(&volume).unwrap().backing_file;
        let output = Command::new("blkid").args(["-p", "-s", "UUID", "-o", "value"]).arg(file).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    for (source, said) in [(format!("UUID=\"{uuid}\""), true), (link(&volume), false)] {
        let theirs = format!("{source} {PLACE} xfs defaults,nofail 0 0\n");
        node.write("/etc/fstab", theirs.clone());

        let outcome = node.come_up(&config(&[volume_at(PLACE, &volume, "xfs")]));

        assert_eq!(node.read("/etc/fstab"), theirs);
        assert_eq!(outcome.log.matches("another tool's line for /mydata").count(), 1, "{}", outcome.log);
        assert_eq!(outcome.log.contains("would also mount a copy of the volume"), said);
        assert!(status(&node).1.contains("another tool's line"), "{}", status(&node).1);
        node.shell("umount /mydata");
    }
    // Another disk's is refused as ever.
    node.write("/etc/fstab", format!("UUID=0-1 {PLACE} xfs defaults 0 0\n"));
    let outcome = node.run(&config(&[volume_at(PLACE, &volume, "xfs")]));
    outcome.must_fail(6, &["step=mount code=fstab-conflict", "UUID=0-1 /mydata"]);
    assert_eq!(shown(&node), "");
}

#[test]
fn an_fstab_that_cannot_be_written_does_not_keep_the_node_down() {
    let world = World::new();
    let volume = world.volume(1);
    let node = launch(&world);
    node.shell(
        "mkdir /run/full; mount -t tmpfs full /run/full; mv /etc/fstab /run/full/fstab; mount -o remount,ro /run/full; \
         ln -s /run/full/fstab /etc/fstab",
    );
    let node_config = config(&[volume_at(PLACE, &volume, "xfs")]);

    let outcome = node.come_up(&node_config);

    assert_eq!(outcome.log.matches("the next boot may not mount /mydata").count(), 1, "{}", outcome.log);
    assert!(outcome.log.contains("Read-only file system"), "{}", outcome.log);
    assert_eq!(node.shell("findmnt -no FSTYPE /mydata"), "xfs");
}

// As configured.

#[test]
fn changed_mount_options_reach_a_volume_that_is_mounted() {
    for file_system in ["ext4", "xfs"] {
        let world = World::new();
        let volume = world.volume(1);
        let node = launch(&world);
        let set = |options: &[&str]| with_options(&volume, file_system, options);
        node.come_up(&set(&["noatime", "nodev"]));

        let outcome = node.come_up(&set(&["noexec", "sync", "x-of-somebody"]));

        assert!(outcome.log.contains("is not mounted as configured"), "{}", outcome.log);
        let flags = shown(&node);
        for (word, there) in
            [("noexec", true), ("sync", true), ("relatime", true), ("noatime", false), ("nodev", false)]
        {
            assert_eq!(flags.split([',', ' ']).any(|flag| flag == word), there, "{word}: {flags}");
        }
        assert!(line_of(&node, PLACE).contains(" noexec,sync,x-of-somebody,nofail,"), "{}", line_of(&node, PLACE));
        // A remount by hand is reverted; unchanged options are left alone.
        node.shell("mount -o remount,exec /mydata");
        node.come_up(&set(&["noexec", "sync", "x-of-somebody"]));
        assert_eq!(shown(&node), flags);
        let again = node.come_up(&set(&["noexec", "sync", "x-of-somebody-else"]));
        assert!(!again.log.contains("not mounted as configured"), "{}", again.log);
        // From read-only, as configured, to writable.
        node.come_up(&set(&["ro"]));
        assert!(shown(&node).starts_with("ro,"), "{}", shown(&node));
        assert_eq!(status(&node).0, Some(0), "{}", status(&node).1);
        node.come_up(&set(&[]));
        node.shell("touch /mydata/writable");
    }
}

#[test]
fn an_option_that_a_remount_cannot_change_fails_until_the_remedy_is_followed() {
    // The kernel refuses the one, and passes the other over without a word.
    for (file_system, option) in [("ext4", "data=journal"), ("xfs", "logbufs=4")] {
        let world = World::new();
        let volume = world.volume(1);
        let node = launch(&world);
        node.come_up(&with_options(&volume, file_system, &["noatime"]));
        let changed = with_options(&volume, file_system, &["noatime", option]);
        for _ in 0..2 {
            let outcome = node.run(&changed);
            outcome.must_fail(1, &["step=mount code=mount-options", option]);
            assert!(!shown(&node).contains(option), "{}", shown(&node));
        }
        let outcome = node.run(&changed);

        follow(&node, &outcome, "umount", " && node-agent retry");
        node.come_up(&changed);

        assert!(shown(&node).contains(option), "{}", shown(&node));
        // Back again: what is still in force is seen too.
        node.run(&with_options(&volume, file_system, &["noatime"])).must_fail(1, &["code=mount-options"]);
    }
}

#[test]
fn an_option_of_ext4_that_a_remount_changes_is_changed() {
    let world = World::new();
    let volume = world.volume(1);
    let node = launch(&world);
    node.come_up(&with_options(&volume, "ext4", &["commit=30"]));
    assert!(shown(&node).contains("commit=30"));

    // The default of one, which mountinfo does not show, and another one.
    node.come_up(&with_options(&volume, "ext4", &["commit=5", "barrier", "discard"]));

    let flags = shown(&node);
    assert!(flags.contains("discard") && !flags.contains("commit=30"), "{flags}");
}

#[test]
fn a_reboot_brings_the_options_that_a_remount_could_not() {
    let world = World::new();
    let volume = world.volume(1);
    let mut node = launch(&world);
    node.come_up(&with_options(&volume, "xfs", &["noatime"]));
    let changed = with_options(&volume, "xfs", &["noatime", "logbufs=4"]);
    node.run(&changed).must_fail(1, &["code=mount-options", "or reboot"]);
    let device = device(&world, &node, &volume);

    next_boot(&mut node, "second");
    wait_until_free(&device);
    node.shell("mount -a");
    let outcome = node.come_up(&changed);

    assert!(shown(&node).contains("logbufs=4"), "{}", shown(&node));
    assert!(!outcome.log.contains("not mounted as configured"), "{}", outcome.log);
}

#[test]
fn an_ext4_that_has_become_read_only_is_a_failure_and_status_says_so() {
    let world = World::new();
    let volume = world.volume(1);
    let node = launch(&world);
    let config = with_options(&volume, "ext4", &["noatime", "errors=remount-ro"]);
    node.come_up(&config);
    assert_eq!(status(&node).0, Some(0));

    let name = device(&world, &node, &volume).replace("/dev/", "");
    node.shell(&format!("echo test > /sys/fs/ext4/{name}/trigger_fs_error"));

    let (code, text) = status(&node);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("FAILED") && text.contains("has become read-only"), "{text}");
    assert!(text.contains("what to do: see why in dmesg"), "{text}");
    let outcome = node.run(&config);
    outcome.must_fail(1, &["step=mount code=read-only", "has become read-only", volume.as_str()]);
    follow(&node, &outcome, "umount", " && node-agent retry");
    node.come_up(&config);
    must_be_checked(&world, &node, &volume);
    node.shell("touch /mydata/writable");
    assert_eq!(status(&node).0, Some(0));
}

#[test]
fn an_xfs_that_has_shut_itself_down_is_a_failure_and_status_says_so() {
    let world = World::new();
    let volume = world.volume(1);
    let node = launch(&world);
    let config = with_options(&volume, "xfs", &[]);
    node.come_up(&config);

    node.shell("xfs_io -x -c 'shutdown -f' /mydata 2>/dev/null || xfs_io -x -c shutdown /mydata");

    let (code, text) = status(&node);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("has shut itself down"), "{text}");
    let outcome = node.run(&config);
    outcome.must_fail(1, &["step=mount code=read-only", "has shut itself down"]);
    follow(&node, &outcome, "umount", " && node-agent retry");
    node.come_up(&config);
    node.shell("touch /mydata/writable");
}

#[test]
fn status_of_a_node_in_service_sees_what_is_mounted_now() {
    let world = World::new();
    let volume = world.volume(1);
    let node = launch(&world);
    node.come_up(&config(&[volume_at(PLACE, &volume, "xfs")]));
    assert_eq!(status(&node).0, Some(0));

    node.shell("mount -t tmpfs over /mydata");
    let (code, text) = status(&node);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("over (tmpfs) is mounted at /mydata, over volume"), "{text}");
    node.shell("umount /mydata");
    assert_eq!(status(&node).0, Some(0));

    node.shell("mount -o remount,bind,ro /mydata");
    let (code, text) = status(&node);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("was remounted read-only"), "{text}");
    node.come_up(&config(&[volume_at(PLACE, &volume, "xfs")]));
    assert_eq!(status(&node).0, Some(0));

    node.shell("umount /mydata");
    let (code, text) = status(&node);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("was mounted at /mydata and is no longer mounted"), "{text}");
    let output = node.agent(&["status", "--json"]).output().unwrap();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["failure"]["error"]["code"], "not-mounted", "{document}");
}

/// mount(8), "filesystem-independent mount options"; contradictions, and what only mount(8) knows.
const GENERAL: &[&[&str]] = &[
    &[],
    &["async"],
    &["atime"],
    &["noatime"],
    &["auto"],
    &["noauto"],
    &["context=system_u:object_r:var_t:s0"],
    &["defaults"],
    &["dev"],
    &["nodev"],
    &["diratime"],
    &["nodiratime"],
    &["dirsync"],
    &["exec"],
    &["noexec"],
    &["group"],
    &["iversion"],
    &["noiversion"],
    &["mand"],
    &["nomand"],
    &["_netdev"],
    &["nofail"],
    &["relatime"],
    &["norelatime"],
    &["strictatime"],
    &["nostrictatime"],
    &["lazytime"],
    &["nolazytime"],
    &["suid"],
    &["nosuid"],
    &["silent"],
    &["loud"],
    &["owner"],
    &["ro"],
    &["rw"],
    &["sync"],
    &["user"],
    &["nouser"],
    &["users"],
    &["symfollow"],
    &["nosymfollow"],
    &["X-mount.mkdir"],
    &["X-mount.mkdir=0750"],
    &["X-of-somebody"],
    &["x-of-somebody=a"],
    &["x-systemd.device-timeout=9"],
    &["comment=of-somebody"],
    &["private"],
    &["shared"],
    &["user", "exec"],
    &["exec", "user"],
    &["users", "suid", "dev"],
    &["owner", "dev"],
    &["group", "suid"],
    &["ro", "rw"],
    &["rw", "ro"],
    &["noexec", "exec"],
    &["exec", "noexec"],
    &["noatime", "relatime"],
    &["relatime", "noatime"],
    &["noatime", "strictatime"],
    &["noatime", "atime"],
    &["nodiratime", "noatime"],
    &["sync", "async"],
    &["lazytime", "nolazytime"],
    &["no-such-option"],
];

/// ext4(5).
const EXT4: &[&[&str]] = &[
    &["acl"],
    &["noacl"],
    &["bsddf"],
    &["minixdf"],
    &["check=none"],
    &["nocheck"],
    &["debug"],
    &["errors=continue"],
    &["errors=remount-ro"],
    &["errors=panic"],
    &["grpid"],
    &["bsdgroups"],
    &["nogrpid"],
    &["sysvgroups"],
    &["grpquota"],
    &["noquota"],
    &["quota"],
    &["usrquota"],
    &["prjquota"],
    &["nouid32"],
    &["oldalloc"],
    &["orlov"],
    &["resgid=1"],
    &["resuid=1"],
    &["sb=1"],
    &["user_xattr"],
    &["nouser_xattr"],
    &["journal_dev=1"],
    &["journal_path=/dev/null"],
    &["norecovery"],
    &["noload"],
    &["ro", "noload"],
    &["data=journal"],
    &["data=ordered"],
    &["data=writeback"],
    &["data_err=ignore"],
    &["data_err=abort"],
    &["barrier"],
    &["nobarrier"],
    &["barrier=0"],
    &["barrier=1"],
    &["commit=7"],
    &["commit=0"],
    &["jqfmt=vfsv1"],
    &["usrjquota=aquota.user", "jqfmt=vfsv1"],
    &["grpjquota=aquota.group", "jqfmt=vfsv0"],
    &["journal_checksum"],
    &["nojournal_checksum"],
    &["journal_async_commit"],
    &["inode_readahead_blks=64"],
    &["stripe=16"],
    &["delalloc"],
    &["nodelalloc"],
    &["max_batch_time=1000"],
    &["min_batch_time=1"],
    &["journal_ioprio=2"],
    &["abort"],
    &["auto_da_alloc"],
    &["noauto_da_alloc"],
    &["noinit_itable"],
    &["init_itable=20"],
    &["discard"],
    &["nodiscard"],
    &["block_validity"],
    &["noblock_validity"],
    &["dioread_lock"],
    &["dioread_nolock"],
    &["max_dir_size_kb=1024"],
    &["i_version"],
    &["nombcache"],
    &["dax"],
    &["bh"],
    &["nobh"],
    &["data=journal", "data=ordered"],
];

/// xfs(5).
const XFS: &[&[&str]] = &[
    &["allocsize=64k"],
    &["allocsize=1m"],
    &["attr2"],
    &["noattr2"],
    &["dax"],
    &["dax=inode"],
    &["dax=never"],
    &["dax=always"],
    &["discard"],
    &["nodiscard"],
    &["grpid"],
    &["bsdgroups"],
    &["nogrpid"],
    &["sysvgroups"],
    &["filestreams"],
    &["ikeep"],
    &["noikeep"],
    &["inode32"],
    &["inode64"],
    &["largeio"],
    &["nolargeio"],
    &["logbufs=4"],
    &["logbsize=64k"],
    &["logbsize=262144"],
    &["logdev=/dev/null"],
    &["rtdev=/dev/null"],
    &["noalign"],
    &["norecovery"],
    &["ro", "norecovery"],
    &["noquota"],
    &["uquota"],
    &["usrquota"],
    &["quota"],
    &["uqnoenforce"],
    &["qnoenforce"],
    &["gquota"],
    &["grpquota"],
    &["gqnoenforce"],
    &["pquota"],
    &["prjquota"],
    &["pqnoenforce"],
    &["sunit=8", "swidth=16"],
    &["swalloc"],
    &["wsync"],
    &["ikeep", "noikeep"],
];

/// The first mount, by the agent, is the next boot's, by `mount -a`; what is refused is refused by both.
fn first_mount_is_the_next_boots(file_system: &str, own: &[&[&str]]) {
    let world = World::new();
    let volume = world.volume(1);
    let node = launch(&world);
    node.shell("echo 0 > /run/boot_id; mount --bind /run/boot_id /proc/sys/kernel/random/boot_id");
    let mut mounted = 0;
    for options in GENERAL.iter().chain(own) {
        let outcome = node.run(&with_options(&volume, file_system, options));
        let first = shown(&node);
        let by_mount = if options.contains(&"noauto") { "mount /mydata" } else { "mount -a" };
        // mount(8) may refuse the options, too: what it then shows is compared.
        node.shell(&format!("if mountpoint -q /mydata; then umount /mydata; fi; {by_mount} || true"));
        assert_eq!(shown(&node), first, "{options:?}\n{}", outcome.log);
        if first.is_empty() {
            outcome.must_fail(1, &["step=mount code=mount-failed", "mount: "]);
        } else {
            assert_eq!(outcome.code, Some(0), "{options:?}\n{}", outcome.log);
            mounted += 1;
            // The agent, which knows nothing of a new boot's mount, agrees that it is what is wanted.
            node.shell(&format!("echo {mounted} > /run/boot_id"));
            let again = node.come_up(&with_options(&volume, file_system, options));
            assert!(!again.log.contains("start:"), "{options:?}\n{}", again.log);
            node.shell("umount /mydata");
        }
    }
    assert!(mounted > 50, "only {mounted} of these options can be mounted here");
}

#[test]
fn the_first_mount_of_an_ext4_is_the_next_boots_for_every_option() {
    first_mount_is_the_next_boots("ext4", EXT4);
}

#[test]
fn the_first_mount_of_an_xfs_is_the_next_boots_for_every_option() {
    first_mount_is_the_next_boots("xfs", XFS);
}

// Older userlands.

/// A stand-in for systemctl and udevadm that knows the options of this version and no others.
fn install_systemd(node: &Instance, version: u32) {
    let systemctl = format!(
        r#"#!/bin/bash
echo "systemctl $*" >> /var/log/tools
operation=
for word; do
  case $word in
  --version) echo "systemd {version}"; echo "+PAM +AUDIT"; exit 0 ;;
  --no-block | -q | --quiet) ;;
  -*) echo "systemctl: unrecognized option '$word'" >&2; exit 1 ;;
  *) operation=${{operation:-$word}} ;;
  esac
done
case $operation in
daemon-reload | start) ;;
cat) exit 1 ;;
is-active) [ -e /run/target-is-active ] || exit 3 ;;
*) echo "Unknown operation '$operation'." >&2; exit 1 ;;
esac
"#
    );
    // udevadm-trigger.c and udevadm-settle.c of systemd 219.
    let udevadm = r#"#!/bin/bash
echo "udevadm $*" >> /var/log/tools
command=$1
shift
for word; do
  case $command:$word in
  trigger:--verbose | trigger:--dry-run | trigger:--type=* | trigger:--action=* | trigger:--subsystem-match=* | \
  trigger:--subsystem-nomatch=* | trigger:--attr-match=* | trigger:--property-match=* | trigger:--tag-match=* | \
  trigger:--sysname-match=* | trigger:--parent-match=* | settle:--timeout=* | settle:--exit-if-exists=*) ;;
  *) echo "udevadm $command: unrecognized option '$word'" >&2; exit 1 ;;
  esac
done
"#;
    node.write("/usr/bin/systemctl", systemctl);
    node.write("/usr/bin/udevadm", udevadm);
    node.shell("chmod 0755 /usr/bin/systemctl /usr/bin/udevadm");
    run_systemd(node);
}

fn run_systemd(node: &Instance) {
    node.run_systemd();
    node.shell("mkdir -p /run/udev; touch /run/udev/control");
}

#[test]
fn with_the_tools_of_systemd_219_a_first_format_comes_up() {
    for file_system in ["ext4", "xfs"] {
        let world = World::new();
        let volume = world.volume(1);
        let node = launch(&world);
        install_systemd(&node, 219);

        let outcome = node.come_up(&config(&[volume_at(PLACE, &volume, file_system)]));

        let tools = node.read("/var/log/tools");
        let name = device(&world, &node, &volume).replace("/dev/", "");
        assert!(
            tools.contains("udevadm trigger") && tools.contains(&name) && tools.contains("udevadm settle"),
            "{tools}"
        );
        assert!(!outcome.log.contains("udev was not"), "{}", outcome.log);
        assert!(line_of(&node, PLACE).ends_with(" 0 0"), "{}", line_of(&node, PLACE));
    }
}

#[test]
fn a_udev_that_fails_after_a_good_mkfs_is_only_a_warning() {
    let world = World::new();
    let volume = world.volume(1);
    let node = launch(&world);
    install_systemd(&node, 252);
    node.write("/usr/bin/udevadm", "#!/bin/bash\necho 'no udev today' >&2\nexit 1\n");

    let outcome = node.come_up(&config(&[volume_at(PLACE, &volume, "xfs")]));

    assert!(outcome.log.contains("no udev today"), "{}", outcome.log);
}

#[test]
fn a_daemon_reload_that_fails_is_a_warning_and_the_node_comes_up() {
    let world = World::new();
    let volume = world.volume(1);
    let node = launch(&world);
    install_systemd(&node, 252);
    node.shell(
        "sed -i 's/^daemon-reload/daemon-reload) echo broken generators >\\&2; exit 1 ;;\\n&/' /usr/bin/systemctl",
    );

    let outcome = node.come_up(&config(&[volume_at(PLACE, &volume, "xfs")]));

    assert!(outcome.log.contains("the next boot may not mount /mydata"), "{}", outcome.log);
    assert!(outcome.log.contains("broken generators"), "{}", outcome.log);
}

#[test]
fn systemd_checks_an_ext4_at_boot_from_version_250_on() {
    let world = World::new();
    let volume = world.volume(1);
    let node = launch(&world);
    let config = config(&[volume_at(PLACE, &volume, "ext4")]);
    for (version, pass) in [(249, 0), (250, 2), (252, 2), (239, 0)] {
        install_systemd(&node, version);
        node.come_up(&config);
        assert!(line_of(&node, PLACE).ends_with(&format!(" 0 {pass}")), "{version}: {}", line_of(&node, PLACE));
    }
}

/// A node with this version of systemd, rebooted, whose ext4 was mounted unchecked although the kernel had met an error in it.
fn rebooted_with_errors(world: &World, version: u32) -> (Instance, String, VolumeId) {
    let volume = world.volume(1);
    let mut node = launch(world);
    install_systemd(&node, version);
    let config = config(&[volume_at(PLACE, &volume, "ext4")]);
    node.come_up(&config);
    node.shell("echo precious > /mydata/segment; sync");
    let device = device(world, &node, &volume);
    next_boot(&mut node, "second");
    run_systemd(&node);
    wait_until_free(&device);
    node.shell(&format!("debugfs -w -R 'ssv state 3' {device} 2>/dev/null; mount -a"));
    assert_eq!(node.shell("cat /mydata/segment"), "precious");
    (node, config, volume)
}

#[test]
fn an_ext4_with_errors_that_an_older_systemd_mounted_is_checked_at_the_boot() {
    let world = World::new();
    let (node, config, volume) = rebooted_with_errors(&world, 219);

    let outcome = node.come_up(&config);

    assert!(outcome.log.contains("needs a check: the kernel met an error"), "{}", outcome.log);
    must_be_checked(&world, &node, &volume);
    assert_eq!(node.shell("cat /mydata/segment"), "precious");
    // It is checked once.
    let again = node.come_up(&config);
    assert!(!again.log.contains("needs a check"), "{}", again.log);
}

#[test]
fn an_unchecked_ext4_whose_applications_were_started_is_never_taken_from_them() {
    let world = World::new();
    let (node, config, _) = rebooted_with_errors(&world, 219);
    // As when the agent is upgraded on a node in service.
    node.shell("touch /run/target-is-active");

    let outcome = node.come_up(&config);

    assert!(outcome.log.contains("its applications were started already; NOT CHECKED"), "{}", outcome.log);
    let again = node.come_up(&config);
    assert!(!again.log.contains("NOT CHECKED"), "{}", again.log);
}

#[test]
fn an_unchecked_ext4_that_a_process_uses_is_left_mounted_and_said_loudly() {
    let world = World::new();
    let (node, config, volume) = rebooted_with_errors(&world, 219);
    let user = User(node.machine().command("sh").args(["-c", "cd /mydata && exec sleep 600"]).spawn().unwrap());
    let busy = "for i in $(seq 500); do [ \"$(readlink /proc/PID/cwd)\" = /mydata ] && exit; sleep 0.01; done; exit 1";
    node.shell(&busy.replace("PID", &user.0.id().to_string()));

    let outcome = node.come_up(&config);

    assert!(outcome.log.contains("NOT CHECKED"), "{}", outcome.log);
    assert!(status(&node).1.contains("NOT CHECKED"), "{}", status(&node).1);
    drop(user);
    // As the warning says.
    node.shell("umount /mydata");
    node.come_up(&config);
    must_be_checked(&world, &node, &volume);
    assert_eq!(node.shell("cat /mydata/segment"), "precious");
}

/// A process that uses the volume.
struct User(Child);

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_ext4_that_a_newer_systemd_checks_is_not_unmounted_at_the_boot() {
    let world = World::new();
    let (node, config, _) = rebooted_with_errors(&world, 252);

    let outcome = node.come_up(&config);

    assert!(!outcome.log.contains("needs a check"), "{}", outcome.log);
    assert!(line_of(&node, PLACE).ends_with(" 0 2"), "{}", line_of(&node, PLACE));
}

#[test]
fn at_the_first_boot_of_an_upgraded_systemd_the_agent_checks_once_more() {
    let world = World::new();
    let (node, config, volume) = rebooted_with_errors(&world, 239);
    install_systemd(&node, 252);

    node.come_up(&config);

    must_be_checked(&world, &node, &volume);
    assert!(line_of(&node, PLACE).ends_with(" 0 2"), "{}", line_of(&node, PLACE));
}
