//! Reboots of a node in service, without an operator and without AWS.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ec2_sim::{Event, VolumeId, What};

use crate::shell::Shell;
use crate::world::World;
use crate::{
    MOUNTS, UP, VOLUMES, assert_in_order, assert_sound, assert_started, instance, lifecycle_calls, moment,
    prepare_with_package, settings, settings_for,
};

/// How long the application may take after the login.
const NEVER: Duration = Duration::from_mins(2);

const EXT4: [&str; 2] = ["ext4", "ext4"];

/// Hooks that leave two files in each volume: one to check, one to lose.
const FILES: &str = r#"configure_cluster_node() {
  for volume in /mydata /archive; do
    mountpoint --quiet $volume || continue
    [ -e $volume/precious ] || echo "of $volume" >$volume/precious
    [ -e $volume/lost ] || echo "once in $volume" >$volume/lost
  done
}
wait_for_healthy_cluster() { :; }
"#;

/// The calls answered since then.
fn answers(world: &World, since: usize) -> Vec<String> {
    let answered = |event: &Event| match &event.what {
        What::Api(call) => call.http.map(|_| call.action.clone()),
        What::Imds(call) => call.http.map(|_| call.action.clone()),
        _ => None,
    };
    world.sim.events().iter().skip(since).filter_map(answered).collect()
}

/// Waits until the node is up in this boot, or the agent gives up.
fn wait_until_up_again(shell: &mut Shell) {
    let status = shell.wait_for("node-agent status; code=$?; [ $code -ne 3 ] && echo exit $code");
    assert!(status.ends_with("exit 0"), "{status}");
    shell.wait_for(UP);
}

/// How long this boot's application was up after the first of the agent's units started, by systemd's clock.
fn from_start_to_application(shell: &mut Shell, first: &str) -> Duration {
    let started = moment(shell, "ExecMainStart", first);
    let active = moment(shell, "ActiveEnter", "example-application.service");
    assert!(started < active, "the application was up before the agent: {active:?}, {started:?}");
    active - started
}

/// What is missing at a boot.
#[derive(Debug, Clone, Copy)]
enum Missing {
    /// Connections are accepted and never answered.
    Aws,
    /// No link: no address, and no network-online.target for minutes.
    Network,
}

#[test]
fn a_node_in_service_comes_up_at_a_reboot_without_aws_and_without_a_network() {
    let world = World::new("silence", "plain");
    let volumes = VOLUMES.map(|id| world.volume(id));
    let image = world.bake(prepare_with_package);
    let mut machine = world.launch(&image, instance(&settings(&volumes, FILES)));
    machine.power_on();
    let mut shell = machine.shell();
    world.wait_until_up(&machine);
    assert_in_order(&mut shell, &volumes[0], 1);
    // Machines differ in speed, so a reboot is compared with this launch, which waited for AWS and formatted the volumes.
    let launch = from_start_to_application(&mut shell, "node-agent.service");
    // The instance id as the machine's own firmware has it.
    assert_eq!(shell.run("cat /sys/class/dmi/id/board_asset_tag"), machine.id.as_str());

    for (starts, missing) in [(2, Missing::Aws), (3, Missing::Network)] {
        machine.power_off();
        let since = world.sim.events().len();
        if matches!(missing, Missing::Aws) {
            world.fall_silent();
        }
        machine.power_on();
        if matches!(missing, Missing::Network) {
            machine.link(false);
        }
        let mut shell = machine.shell();
        let end = Instant::now() + NEVER;
        while shell.attempt("systemctl is-active example-application.service").1 != 0 {
            assert!(Instant::now() < end, "{missing:?}: no application: {}", shell.attempt("node-agent status").0);
        }
        let took = from_start_to_application(&mut shell, "node-agent-mount.service");
        println!("without {missing:?}: the application was up {took:?} after the start of the agent's unit");
        assert!(took < 2 * launch, "{missing:?}: {took:?}, and {launch:?} at the launch");
        if matches!(missing, Missing::Network) {
            // Nor was the start of the unit waiting for that.
            assert_eq!(shell.attempt("systemctl is-active network-online.target").0, "inactive", "after {took:?}");
        }
        assert_in_order(&mut shell, &volumes[0], starts);
        assert_eq!(
            shell.run("findmnt --noheadings --output FSTYPE /archive; cat /mydata/precious"),
            "ext4\nof /mydata"
        );
        assert_eq!(answers(&world, since), [""; 0]);

        // AWS is back; the node is left alone.
        world.sim.clear_faults();
        machine.link(true);
        let back = Instant::now();
        let status = shell.wait_for("node-agent status");
        println!("without {missing:?}: up again {:?} after the end of that", back.elapsed());
        assert!(status.contains("up (CONTINUE was sent)"), "{status}");
        shell.wait_for(UP);
        // The journal alone does not prove which instance this is.
        assert!(!answers(&world, since).is_empty());
        assert_eq!(lifecycle_calls(&world, since), [""; 0]);
        assert_eq!(shell.run("systemctl show --value --property NRestarts node-agent.service"), "0");
        assert_in_order(&mut shell, &volumes[0], starts);
    }
    machine.power_off();
}

/// The file that is behind a volume.
pub fn backing(world: &World, volume: &VolumeId) -> PathBuf {
    world.sim.volume_state(volume).unwrap().backing_file
}

/// Runs debugfs on the volume of a machine that is off. debugfs always exits with 0, so the result must be checked.
fn debugfs(disk: &Path, requests: &[&str]) {
    for request in requests {
        assert!(Command::new("debugfs").args(["-w", "-R", request]).arg(disk).status().unwrap().success());
    }
}

/// What e2fsck -p repairs: a wrong count of links.
const REPAIRABLE: &str = "set_inode_field /precious links_count 5";
/// What e2fsck -p does not repair: a file without a name.
const BY_HAND: &str = "unlink /lost";

/// The kernel has found an error in the ext4, and there is one.
fn damage(disk: &Path, how: &str) {
    let superblock = || {
        let output = Command::new("dumpe2fs").arg("-h").arg(disk).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // Replaying the journal would bring the old blocks back.
    assert!(!superblock().contains("needs_recovery"), "{} was not unmounted", disk.display());
    // Whole, with errors: linux/ext4.h.
    debugfs(disk, &[how, "set_super_value state 3"]);
    assert!(superblock().contains("clean with errors"), "{}", superblock());
    let check = Command::new("e2fsck").args(["-f", "-n"]).arg(disk).output().unwrap();
    assert_eq!(check.status.code(), Some(4), "no damage: {}", String::from_utf8_lossy(&check.stdout));
}

/// Each volume is mounted at its own path: checked by serial number, which cannot be copied, and by its contents.
fn assert_in_places(shell: &mut Shell, volumes: &[VolumeId; 2]) {
    for (volume, mount) in volumes.iter().zip(MOUNTS) {
        let disk = format!(
            "disk=$(findmnt --noheadings --output SOURCE {mount}); cat /sys/block/${{disk#/dev/}}/device/serial"
        );
        assert_eq!(
            shell.run(&disk).trim(),
            volume.replace('-', ""),
            "{mount}: {}",
            shell.run("findmnt; cat /etc/fstab")
        );
        assert_eq!(shell.run(&format!("cat {mount}/which")), volume.as_str());
    }
}

#[test]
fn two_clones_are_each_mounted_in_their_place_and_checked_there_at_each_boot() {
    let world = World::new("clones", "plain");
    let volumes = VOLUMES.map(|id| world.volume(id));
    let disks = [backing(&world, &volumes[0]), backing(&world, &volumes[1])];
    assert!(Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&disks[0]).status().unwrap().success());
    fs::copy(&disks[0], &disks[1]).unwrap();
    for (disk, volume) in disks.iter().zip(&volumes) {
        let name = world.dir().join("which");
        fs::write(&name, volume.as_bytes()).unwrap();
        debugfs(disk, &[&format!("write {} which", name.display())]);
    }
    let image = world.bake(prepare_with_package);
    let mut machine = world.launch(&image, instance(&settings_for(&volumes, EXT4, FILES)));
    machine.power_on();
    let mut shell = machine.shell();
    world.wait_until_up(&machine);
    assert_in_places(&mut shell, &volumes);
    assert_started(&mut shell, &volumes[0], 1);
    let uuids = shell.run("findmnt --noheadings --output UUID /mydata; findmnt --noheadings --output UUID /archive");
    let uuids: Vec<&str> = uuids.lines().collect();
    assert_eq!(uuids[0], uuids[1]);

    // The kernel finds them in the other order.
    machine.power_off();
    machine.rack.reverse();
    machine.power_on();
    let mut shell = machine.shell();
    wait_until_up_again(&mut shell);
    assert_in_places(&mut shell, &volumes);
    assert_started(&mut shell, &volumes[0], 2);

    // One of them is to be checked: that one is, by systemd.
    machine.power_off();
    machine.rack.reverse();
    damage(&disks[1], REPAIRABLE);
    machine.power_on();
    let mut shell = machine.shell();
    wait_until_up_again(&mut shell);
    assert_in_places(&mut shell, &volumes);
    assert_started(&mut shell, &volumes[0], 3);
    assert_eq!(shell.run("stat --format %h /archive/precious; cat /archive/precious"), "1\nof /archive");
    let checks = shell.run("journalctl --quiet --boot --output=cat --identifier systemd-fsck");
    assert!(checks.contains("check forced"), "{checks}");
    assert_eq!(shell.run("grep ' /archive ' /etc/fstab | cut -d ' ' -f 5-"), "0 2");
    assert_eq!(shell.run("systemctl --failed --no-legend"), "");
    machine.power_off();
    for disk in &disks {
        assert_sound(disk, "ext4");
    }
}

#[test]
fn an_ext4_with_errors_is_checked_on_debian_11_and_never_ends_its_boot() {
    let world = World::new("ext4-errors", "plain11");
    let volumes = [world.volume(VOLUMES[0])];
    let disk = backing(&world, &volumes[0]);
    let image = world.bake(prepare_with_package);
    let mut machine = world.launch(&image, instance(&settings_for(&volumes, EXT4, FILES)));
    machine.power_on();
    let mut shell = machine.shell();
    // The systemd that this test is about: a newer one is handled differently.
    assert!(shell.run("systemctl --version").starts_with("systemd 247 "));
    world.wait_until_up(&machine);
    assert_started(&mut shell, &volumes[0], 1);

    // What e2fsck -p can repair is repaired.
    machine.power_off();
    damage(&disk, REPAIRABLE);
    machine.power_on();
    let mut shell = machine.shell();
    wait_until_up_again(&mut shell);
    assert_started(&mut shell, &volumes[0], 2);
    assert_eq!(shell.run("stat --format %h /mydata/precious; cat /mydata/precious"), "1\nof /mydata");

    // Other damage is reported on a machine that still allows a login, and no application is started.
    machine.power_off();
    damage(&disk, BY_HAND);
    machine.power_on();
    let mut shell = machine.shell();
    let told = shell.wait_for("node-agent status; code=$?; [ $code -ne 3 ] && echo exit $code");
    assert!(told.contains("exit 1") && told.contains("e2fsck") && told.contains("by hand"), "{told}");
    shell.wait_for("systemctl is-active multi-user.target");
    for unit in ["node-agent-mounted.target", "example-application.service"] {
        assert_eq!(shell.attempt(&format!("systemctl is-active {unit}")).0, "inactive");
    }
    assert_eq!(shell.run("wc --lines </var/log/application"), "2");
    assert_eq!(shell.run("systemctl show --value --property ActiveState emergency.target"), "inactive");

    // The remedy works.
    let device = shell.run("readlink --canonicalize /dev/disk/by-id/*_vol0123456789abcdef0");
    let (said, code) = shell.attempt(&format!("e2fsck -y {device}"));
    assert_eq!(code, 1, "{said}");
    let (said, code) = shell.attempt("node-agent retry");
    assert_eq!(code, 0, "{said}");
    assert_started(&mut shell, &volumes[0], 3);
    assert_eq!(shell.run("cat /mydata/lost+found/*"), "once in /mydata");
    // Before systemd 250 a failed check of its own ends the boot.
    assert_eq!(shell.run("grep ' /mydata ' /etc/fstab | cut -d ' ' -f 5-"), "0 0");
    machine.power_off();
    assert_sound(&disk, "ext4");
}
