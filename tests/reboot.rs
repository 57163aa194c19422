//! A reboot needs no one: neither AWS nor space on the root disk is needed to mount the data.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::time::Duration;

use ec2_sim::{Fault, FaultRule, HookSpec, InstanceSpec, VolumeId};
use nix::sys::signal::Signal;
use support::{
    Instance, Running, World, config_with, in_group, run, runs, status, volume_at, wait_for_state, wait_until,
};

/// Outages are ridden out for seconds, so that a test sees how they end.
const BRIEF: &str = "[timeouts]\naws = \"2s\"";

/// Stands in for a systemd that has the applications' target.
const SYSTEMCTL: &str =
    "#!/bin/sh\necho \"$*\" >> /var/log/systemctl\n[ \"$1\" != --version ] || echo 'systemd 252 (252)'\n";

/// Sets the DMI asset tag, in which Nitro instances have their instance id; lost at the next boot.
fn label(node: &Instance, instance_id: &str) {
    node.run_systemd();
    node.shell(&format!(
        "mount -t tmpfs dmi /sys/class; mkdir -p /sys/class/dmi/id
         echo {instance_id} > /sys/class/dmi/id/board_asset_tag"
    ));
}

fn launch(world: &World, config: &str) -> Instance {
    let node = world.launch_as(InstanceSpec { user_data: Some(config.as_bytes().to_vec()), ..in_group() });
    node.write("/usr/bin/systemctl", SYSTEMCTL);
    node.shell("chmod 0755 /usr/bin/systemctl");
    node.configure(config.to_owned());
    node
}

/// A node in service, rebooted.
fn rebooted(node: &mut Instance) {
    let service = node.start_with(&["run"]);
    wait_for_state(node, "done", &service);
    node.shell("echo precious > /mydata/segment");
    service.signal(Signal::SIGTERM);
    service.end();
    node.reboot();
    node.shell("rm -f /var/log/systemctl");
    let id = node.id.to_string();
    label(node, &id);
}

/// No service of AWS answers any more.
fn outage(world: &World, fault: Fault) {
    for action in ["imds:*", "ec2:*", "autoscaling:*"] {
        world.sim.add_fault(FaultRule::always(action, fault.clone())).unwrap();
    }
}

fn is_mounted(node: &Instance) -> bool {
    is_mounted_as(node, "xfs")
}

fn is_mounted_as(node: &Instance, file_system: &str) -> bool {
    // findmnt exits with 1 where nothing is mounted.
    node.shell("findmnt -no FSTYPE /mydata || true") == file_system
}

/// Applications have been told to start, after the mount.
fn is_announced(node: &Instance) -> bool {
    node.machine().read("/var/log/systemctl").unwrap_or_default().contains("start --no-block node-agent-mounted.target")
}

fn volume_and_config(world: &World) -> (VolumeId, String) {
    let volume = world.volume(1);
    let config = config_with("", &[volume_at("/mydata", &volume, "xfs")], BRIEF);
    (volume, config)
}

#[test]
fn a_node_in_service_is_mounted_after_a_reboot_without_any_answer_from_aws() {
    for (fault, source) in [(Fault::Hang, "file"), (Fault::Reset, "user data")] {
        let world = World::new();
        let (_, config) = volume_and_config(&world);
        let mut node = launch(&world, &config);
        if source == "user data" {
            node.configure("source = \"imds\"\n");
        }
        rebooted(&mut node);
        outage(&world, fault);

        let service = node.start_with(&["run"]);

        wait_until(|| is_mounted(&node) && is_announced(&node), || service.log());
        assert_eq!(node.shell("cat /mydata/segment; stat -c %U /mydata"), "precious\ndaemon");
        if source == "file" {
            // The sequence, which needs AWS, has failed by now and says so.
            wait_for_state(&node, "held", &service);
            assert_eq!(status(&node).0["failure"]["error"]["code"], "imds-unreachable");
        }
        // The node is left alone.
        world.sim.clear_faults();
        wait_for_state(&node, "done", &service);
        assert_eq!(node.read("/var/log/hooks.log").lines().count(), 2, "{}", service.log());
        assert_eq!(world.completions(), ["CONTINUE"]);
    }
}

#[test]
fn a_disk_is_mounted_before_aws_answers_only_on_the_machine_of_the_journal() {
    for label_of in ["i-0000000000000dead", ""] {
        let world = World::new();
        let (_, config) = volume_and_config(&world);
        let mut node = launch(&world, &config);
        rebooted(&mut node);
        node.shell("umount /sys/class");
        label(&node, label_of);
        outage(&world, Fault::Hang);

        let service = node.start_with(&["run"]);

        wait_for_state(&node, "held", &service);
        assert!(!is_mounted(&node) && !is_announced(&node), "{}", service.log());
        world.sim.clear_faults();
        // Now it is told by AWS, if this is its instance.
        wait_until(|| is_mounted(&node) && is_announced(&node), || service.log());
    }
}

#[test]
fn a_disk_that_is_not_what_it_was_is_left_to_the_sequence_after_a_reboot() {
    let world = World::new();
    let (volume, config) = volume_and_config(&world);
    let mut node = launch(&world, &config);
    rebooted(&mut node);
    let device = world.sim.device(&volume, &node.id).unwrap();
    node.shell(&format!("blkdiscard -f -z {}", device.display()));
    outage(&world, Fault::Reset);

    let service = held_until_aws_is_back(&world, &node, "unexpectedly-blank");
    assert!(!is_announced(&node), "{}", service.log());
}

/// Starts a service that holds the node without starting an application, and waits until it reports this failure, with AWS back.
fn held_until_aws_is_back(world: &World, node: &Instance, failure: &str) -> Running {
    let service = node.start_with(&["run"]);
    wait_for_state(node, "held", &service);
    assert!(!is_announced(node), "{}", service.log());
    world.sim.clear_faults();
    let code = || status(node).0["failure"]["error"]["code"].clone();
    wait_until(|| code() == failure, || format!("{}: {}", code(), service.log()));
    service
}

/// A filesystem of this type, made by hand.
fn make_another(node: &Instance, device: &std::path::Path, file_system: &str) {
    let mkfs = if file_system == "xfs" { "mkfs.xfs -q -f" } else { "mkfs.ext4 -q -F" };
    node.shell(&format!("{mkfs} {}", device.display()));
}

#[test]
fn another_filesystem_of_the_right_type_is_refused_until_an_operator_takes_it() {
    for (file_system, answers) in [("xfs", true), ("ext4", true), ("xfs", false)] {
        let world = World::new();
        let volume = world.volume(1);
        let config = config_with("", &[volume_at("/mydata", &volume, file_system)], BRIEF);
        let mut node = launch(&world, &config);
        rebooted(&mut node);
        let device = world.sim.device(&volume, &node.id).unwrap();
        make_another(&node, &device, file_system);
        if !answers {
            outage(&world, Fault::Reset);
        }

        let service = held_until_aws_is_back(&world, &node, "another-filesystem");
        run(&node, &["retry"]).must_fail(6, &["code=another-filesystem", "node-agent retry --from filesystem"]);
        assert!(!is_announced(&node) && !is_mounted_as(&node, file_system), "{}", service.log());

        run(&node, &["retry", "--from", "filesystem"]).must_fail(0, &["result=done"]);
        assert!(is_announced(&node) && is_mounted_as(&node, file_system), "{}", service.log());
        // That is the node's own from now on.
        service.signal(Signal::SIGTERM);
        service.end();
        node.reboot();
        make_another(&node, &device, file_system);
        run(&node, &["run", "--once"]).must_fail(6, &["code=another-filesystem"]);
    }
}

#[test]
fn a_journal_of_an_earlier_version_takes_the_filesystem_that_it_finds() {
    let world = World::new();
    let (volume, config) = volume_and_config(&world);
    let mut node = launch(&world, &config);
    rebooted(&mut node);
    let mut journal = node.journal();
    let known = journal["volumes"][volume.as_str()].as_object_mut().unwrap().remove("filesystem_uuid").unwrap();
    node.write("/var/lib/node-agent/state.json", journal.to_string());

    run(&node, &["run", "--once"]).must_fail(0, &["result=done"]);

    assert_eq!(node.journal()["volumes"][volume.as_str()]["filesystem_uuid"], known);
    assert_eq!(node.read("/var/log/hooks.log").lines().count(), 2);
}

#[test]
fn an_outage_at_the_launch_is_tried_again_by_itself_while_the_node_is_held() {
    let world = World::new();
    let (_, config) = volume_and_config(&world);
    let node = launch(&world, &config);
    outage(&world, Fault::Reset);
    let service = node.start_with(&["run"]);
    service.wait_for("the agent retries in");

    world.sim.clear_faults();

    wait_for_state(&node, "done", &service);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_node_whose_mounts_only_the_agent_sees_is_refused() {
    let world = World::new();
    let (_, config) = volume_and_config(&world);
    let node = launch(&world, &config);
    node.run_systemd_apart();
    let refused = run(&node, &["run", "--once"]);
    refused.must_fail(6, &["code=private-mounts", "invisible to the rest of the machine"]);
    assert!(!is_mounted(&node) && !is_announced(&node), "{}", refused.log);
    assert!(world.completions().is_empty());
    // Also where it is mounted already.
    node.run_systemd();
    run(&node, &["run", "--once"]).must_fail(0, &["result=done"]);
    node.run_systemd_apart();
    run(&node, &["run", "--once"]).must_fail(6, &["code=private-mounts"]);
    run(&node, &["plan"]).must_fail(6, &["invisible to the rest of the machine"]);
}

#[test]
fn a_systemctl_that_hangs_is_ended_and_keeps_no_node_from_coming_up() {
    let world = World::new();
    let (_, config) = volume_and_config(&world);
    let node = launch(&world, &config);
    node.run_systemd();
    node.write(
        "/usr/bin/systemctl",
        "#!/bin/sh\n[ \"$1\" != --version ] || exit 0\necho $$ \"$@\" >> /var/log/systemctl\nexec sleep 600\n",
    );

    let outcome = run(&node, &["run", "--once"]);

    outcome.must_fail(0, &["result=done", "systemctl daemon-reload has not ended within 30 s"]);
    let asked = node.read("/var/log/systemctl");
    for line in asked.lines() {
        // Killed by the time the agent ends; whoever inherits the process reaps it.
        let pid = line.split(' ').next().unwrap();
        wait_until(|| !runs(pid), || format!("{line} is left behind"));
    }
}

/// The state directory is a disk of its own without any room: no journal and, at the start, no lock file.
fn fill_the_state_directory(node: &Instance) {
    node.shell(
        "mkdir -p /var/lib/node-agent; mount -t tmpfs -o size=64k,nr_inodes=2 tmpfs /var/lib/node-agent
         ! cat /dev/zero > /var/lib/node-agent/core 2>/dev/null",
    );
}

#[test]
fn a_full_state_directory_at_the_start_is_abandoned_where_that_is_asked_for() {
    let world = World::new();
    let volume = world.volume(1);
    let config = config_with("on_failure = \"abandon\"", &[volume_at("/mydata", &volume, "xfs")], "");
    let node = launch(&world, &config);
    fill_the_state_directory(&node);

    let outcome = node.start_with(&["run"]).end();

    outcome.must_fail(1, &["code=state-unusable", "No space left on device", "df -h"]);
    assert_eq!(world.completions(), ["ABANDON"]);
    assert!(world.events().attempts("ec2:AttachVolume").is_empty());
}

#[test]
fn a_full_state_directory_at_the_start_is_held_with_heartbeats_and_repaired() {
    let hook = HookSpec { heartbeat_timeout: Duration::from_secs(6), ..HookSpec::default() };
    let world = World::with_hook(&hook, |_| {});
    let (_, config) = volume_and_config(&world);
    let node = launch(&world, &config);
    fill_the_state_directory(&node);

    let service = node.start_with(&["run"]);

    service.wait_for("held for");
    let beats = || world.events().calls("autoscaling:RecordLifecycleActionHeartbeat").len();
    wait_until(|| beats() >= 3, || service.log());
    let (seen, _) = status(&node);
    assert_eq!(
        (&seen["state"], &seen["failure"]["error"]["code"]),
        (&"held".into(), &"state-unusable".into()),
        "{seen}"
    );
    // Another start is kept off although there is no lock in the state directory.
    node.start_with(&["run"]).end().must_fail(4, &["holds the lock /run/node-agent/lock"]);
    node.shell("rm /var/lib/node-agent/core; mount -o remount,size=1m,nr_inodes=100 /var/lib/node-agent");
    node.start_with(&["retry"]).end().must_fail(0, &["result=done"]);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_hold_whose_state_directory_is_full_ends_with_abandon() {
    let world = World::new();
    let volume = world.volume(1);
    let config = config_with("hold_for = \"2s\"", &[volume_at("/mydata", &volume, "xfs")], "");
    let node = launch(&world, &config);
    fill_the_state_directory(&node);

    let outcome = node.start_with(&["run"]).end();

    outcome.must_fail(1, &["the hold has ended", "code=state-unusable"]);
    assert_eq!(world.completions(), ["ABANDON"]);
}

#[test]
fn a_full_root_disk_keeps_no_node_in_service_from_its_data() {
    for known in [true, false] {
        let world = World::new();
        let (_, config) = volume_and_config(&world);
        let mut node = launch(&world, &config);
        rebooted(&mut node);
        if !known {
            // A machine that does not know its own instance.
            node.shell("umount /sys/class");
        }
        // The files that are there stay, and not a byte more fits.
        node.shell(
            "cp -a /var/lib/node-agent /run/before; mount -t tmpfs -o size=64k tmpfs /var/lib/node-agent
             cp -a /run/before/state.json /run/before/lock /var/lib/node-agent
             ! cat /dev/zero > /var/lib/node-agent/core 2>/dev/null",
        );

        let service = node.start_with(&["run"]);

        wait_for_state(&node, "held", &service);
        assert!(is_mounted(&node) && is_announced(&node), "{}", service.log());
        assert_eq!(status(&node).0["failure"]["error"]["code"], "state-unusable", "{}", service.log());
        node.shell("rm /var/lib/node-agent/core");
        node.start_with(&["retry"]).end().must_fail(0, &["result=done"]);
        assert_eq!(world.completions(), ["CONTINUE"]);
        assert_eq!(node.read("/var/log/hooks.log").lines().count(), 2);
    }
}

#[test]
fn a_volume_that_is_enlarged_while_it_is_attached_comes_up_at_its_new_size() {
    let world = World::with(|config| config.latencies.device = Duration::from_secs(5));
    let (volume, config) = volume_and_config(&world);
    let node = launch(&world, &config);
    let running = node.start_with(&["run", "--once"]);
    // EC2 has said its size for the last time before the device is there.
    running.wait_for("its device has not appeared");

    world.sim.grow_volume(&volume, 2 << 30).unwrap();

    let outcome = running.end();
    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert_eq!(node.shell("df -BG --output=size /mydata | tail -1 | tr -d ' '"), "2G");
}

#[test]
fn the_lock_of_a_directory_that_takes_no_file_is_a_fault_of_the_directory() {
    let world = World::new();
    let (_, config) = volume_and_config(&world);
    let node = launch(&world, &config);
    node.shell("mkdir -p /var/lib/node-agent; mount -t tmpfs -o ro tmpfs /var/lib/node-agent");

    let outcome = node.start_with(&["run", "--once"]).end();

    outcome.must_fail(1, &["code=state-unusable", "Read-only file system"]);
    assert!(world.completions().is_empty());
}
