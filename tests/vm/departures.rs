//! Nodes that leave: applications, mounts and the service, as systemd has them.

use std::process::Command;

use ec2_sim::{HookSpec, Transition, VolumeId};

use crate::machine::Machine;
use crate::reboots::backing;
use crate::shell::Shell;
use crate::world::{GROUP, World};
use crate::{
    FILE_SYSTEMS, MOUNTS, UP, VOLUMES, assert_in_order, assert_sound, assert_started, instance, lifecycle_calls,
    prepare_with_package, settings,
};

/// A drain that goes on once it may.
const HOOKS: &str = r#"configure_cluster_node() { :; }
wait_for_healthy_cluster() { :; }
drain_cluster_node() {
  echo drain >>/var/log/hooks
  until [ -e /run/drained ]; do sleep 0.2; done
}
"#;

/// The example application as one that keeps a file open, and needs a second to stop. It waits in bash alone: systemd signals what
/// it starts, too.
const KEEPS_OPEN: &str = "#!/bin/bash
disk=$(findmnt --noheadings --output SOURCE --target /mydata)
cat /sys/block/${disk#/dev/}/device/serial >>/var/log/application
cat /proc/sys/kernel/random/boot_id >>/mydata/application
exec 3>>/mydata/application 4<> <(:)
trap 'read -rt 1 -u 4; echo ended >&3; exit' TERM
while :; do read -rt 3600 -u 4; done
";

/// One that keeps nothing open, and writes at its very end, some seconds after it was told to stop.
const KEEPS_NOTHING_OPEN: &str = "#!/bin/bash
exec 4<> <(:)
trap 'read -rt $2 -u 4; echo ended >>/mydata/$1; exit' TERM
while :; do read -rt 3600 -u 4; done
";

/// Units of the latter: stopped with the target alone, and with the mount alone.
const WITH_TARGET: &str = "[Unit]
PartOf=node-agent-mounted.target
[Service]
ExecStart=/usr/bin/keeps-nothing-open with-target 4
";
const WITH_MOUNT: &str = "[Unit]
RequiresMountsFor=/mydata
[Service]
ExecStart=/usr/bin/keeps-nothing-open with-mount 2
";

/// Holds back what is ordered after it.
const SLOW: &str = "[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'until [ -e /run/not-slow ]; do sleep 0.2; done'
";

/// A machine whose node is in service, and whose applications run.
fn in_service(world: &World) -> ([VolumeId; 2], Machine, Shell) {
    let volumes = VOLUMES.map(|id| world.volume(id));
    let image = world.bake(|root| {
        prepare_with_package(root);
        root.write("/usr/bin/example-application", KEEPS_OPEN);
        root.write("/usr/bin/keeps-nothing-open", KEEPS_NOTHING_OPEN);
        root.write("/etc/systemd/system/with-target.service", WITH_TARGET);
        root.write("/etc/systemd/system/with-mount.service", WITH_MOUNT);
        root.write("/etc/systemd/system/slow.service", SLOW);
    });
    let mut machine = world.launch(&image, instance(&settings(&volumes, HOOKS)));
    machine.power_on();
    let mut shell = machine.shell();
    world.wait_until_up(&machine);
    shell.wait_for(UP);
    assert_in_order(&mut shell, &volumes[0], 1);
    (volumes, machine, shell)
}

/// The log of this boot, or an earlier one, in the order in which it was written.
pub fn log(shell: &mut Shell, boot: i32) -> Vec<String> {
    let said = shell.run(&format!("journalctl --quiet --boot={boot} --no-hostname --output=short-monotonic"));
    said.lines().map(str::to_owned).collect()
}

/// Asserts that the log has lines with these texts, in this order, and prints them.
pub fn assert_order(log: &[String], texts: &[&str]) {
    let mut rest = log.iter();
    for text in texts {
        let found = rest.find(|line| line.contains(text));
        println!("{}", found.unwrap_or_else(|| panic!("not there, or too early: {text}: {}", log.join("\n"))));
    }
}

/// What a service came to: its state, its exit code, and how often it was restarted.
pub fn ended(shell: &mut Shell, unit: &str) -> String {
    shell.run(&format!(
        "systemctl show --property=ActiveState,SubState,Result,ExecMainStatus,NRestarts {unit} | sort | tr '\\n' ' '"
    ))
}

/// Ended by itself, for good.
pub const FOR_GOOD: &str = "ActiveState=inactive ExecMainStatus=0 NRestarts=0 Result=success SubState=dead";

/// The filesystems were unmounted: their logs hold nothing to replay.
pub fn assert_clean(world: &World, volumes: &[VolumeId; 2]) {
    for (volume, file_system) in volumes.iter().zip(FILE_SYSTEMS) {
        let disk = backing(world, volume);
        let is_xfs = file_system == "xfs";
        let (program, option) = if is_xfs { ("xfs_logprint", "-t") } else { ("dumpe2fs", "-h") };
        let output = Command::new(program).arg(option).arg(&disk).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let is_clean = if is_xfs { said.contains("state: <CLEAN>") } else { !said.contains("needs_recovery") };
        assert!(output.status.success() && is_clean, "{}: {said}", disk.display());
        assert_sound(&disk, file_system);
    }
}

/// Nothing is mounted, or was written where it was.
fn assert_unmounted(shell: &mut Shell) {
    for place in MOUNTS {
        let (said, code) = shell.attempt(&format!("grep ' {place} ' /proc/1/mountinfo || ls -A {place}"));
        assert_eq!((said.as_str(), code), ("", 0), "{place}");
    }
}

/// The last boot's shutdown of a node in service: its application ended before the unmount, and the agent was not killed.
pub fn assert_shut_down(shell: &mut Shell) {
    let log = log(shell, -1);
    assert_order(&log, &["Stopped example-application.service", "Unmounted mydata.mount"]);
    assert_order(&log, &["Stopping node-agent.service", "node-agent.service: Deactivated successfully"]);
}

#[test]
fn a_leaving_node_stops_its_applications_then_unmounts_and_only_then_continues() {
    let world = World::new("departure", "plain");
    let (volumes, mut machine, mut shell) = in_service(&world);
    shell.run("systemctl start with-target.service with-mount.service");

    // Stopped by an operator it leaves all as it is, and completes nothing.
    let since = world.sim.events().len();
    shell.run("systemctl stop node-agent.service");
    assert_eq!(ended(&mut shell, "node-agent.service"), FOR_GOOD);
    assert_started(&mut shell, &volumes[0], 1);
    assert_eq!(lifecycle_calls(&world, since), [""; 0]);
    shell.run("systemctl start node-agent.service");
    shell.wait_for(UP);

    world.sim.terminate_in_group(&machine.id).unwrap();
    shell.wait_for("grep drain /var/log/hooks");
    assert_started(&mut shell, &volumes[0], 1);
    shell.run("touch /run/drained");
    shell.wait_for("! systemctl is-active node-agent.service");
    assert_eq!(ended(&mut shell, "node-agent.service"), FOR_GOOD);
    assert_eq!(world.completions(&machine.id), ["CONTINUE", "CONTINUE"]);
    let log = log(&mut shell, 0);
    for application in ["example-application", "with-target", "with-mount"] {
        let stopped = format!("Stopped {application}.service");
        assert_order(&log, &[&stopped, "Unmounted mydata.mount", "leave: done", "the node has left"]);
    }
    assert_unmounted(&mut shell);
    assert_clean(&world, &volumes);
    machine.cut();
}

#[test]
fn a_departure_goes_on_after_a_reboot_unmounts_again_and_continues_once() {
    let world = World::new("departure-reboot", "plain");
    let (volumes, mut machine, mut shell) = in_service(&world);
    // Another hook keeps the instance after the agent's own, and systemd gets to this mount late.
    world
        .sim
        .change_group(GROUP, |group| {
            let (name, transition) = ("another-hook".to_owned(), Transition::Terminating);
            group.hooks.push(HookSpec { name, transition, ..HookSpec::default() });
        })
        .unwrap();
    shell.run(
        "mkdir /etc/systemd/system/archive.mount.d
         printf '[Unit]\\nWants=slow.service\\nAfter=slow.service\\n' >/etc/systemd/system/archive.mount.d/slow.conf",
    );
    world.sim.terminate_in_group(&machine.id).unwrap();
    shell.wait_for("grep drain /var/log/hooks");

    machine.power_off();
    assert_clean(&world, &volumes);
    machine.power_on();
    let mut shell = machine.shell();
    shell.wait_for("[ $(wc --lines </var/log/hooks) -eq 2 ]");
    assert_order(&log(&mut shell, -1), &["Stopped example-application.service", "Unmounted mydata.mount"]);
    // By its line in fstab.
    shell.wait_for("mountpoint --quiet /mydata");
    assert_eq!(world.completions(&machine.id), ["CONTINUE"]);

    shell.run("touch /run/drained");
    shell.wait_for("! systemctl is-active node-agent.service");
    shell.run("touch /run/not-slow");
    shell.wait_for("systemctl is-active slow.service");
    assert_eq!(ended(&mut shell, "node-agent.service"), FOR_GOOD);
    assert_eq!(world.completions(&machine.id), ["CONTINUE", "CONTINUE"]);
    let now = log(&mut shell, 0);
    assert_order(&now, &["Unmounted mydata.mount", "leave: done", "the node has left"]);
    for unit in ["node-agent-mounted.target", "example-application.service"] {
        let active = shell.run(&format!("systemctl show --property=ActiveEnterTimestampMonotonic --value {unit}"));
        assert_eq!(active, "0", "{unit}");
    }
    shell.wait_for("[ -z \"$(systemctl list-jobs --no-legend)\" ]");
    assert_unmounted(&mut shell);
    assert_clean(&world, &volumes);
    machine.cut();
}
