//! Nodes on machines that really boot: firmware, kernel, systemd, udev, cloud-init and NVMe disks are the real ones, emulated by
//! QEMU; EC2 is the simulator, at the real address of the metadata service.
//!
//! Run by `make test-vm`, one after the other. Consoles and event logs stay in `tmp/vm` of the target directory.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]
#![allow(unreachable_pub, missing_docs, reason = "one test's parts")]

mod clusters;
mod departures;
mod host;
mod machine;
mod qmp;
mod reboots;
mod shell;
mod world;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use departures::{assert_clean, assert_shut_down};
use ec2_sim::{Event, InstanceSpec, VolumeId, What};
use serde_json::Value;
use shell::Shell;
use world::{GROUP, HOOK, Root, TERMINATE_HOOK, World};

/// A machine that needs longer for anything is stuck: its first boot takes one and a half minutes on two idle cores.
const STUCK: Duration = Duration::from_mins(8);

/// The program of the example application that must not start without its disk: it records which disk its data is on.
const APPLICATION: &str = "#!/bin/sh
disk=$(findmnt --noheadings --output SOURCE --target /mydata)
cat /proc/sys/kernel/random/boot_id >>/mydata/application
sync /mydata/application
cat /sys/block/${disk#/dev/}/device/serial >>/var/log/application
exec sleep infinity
";

/// The part of Kafka that the example user data calls. It is healthy once /run/healthy exists.
const KAFKA_TOPICS: &str = "#!/bin/sh
echo \"$@\" >>/var/log/kafka-topics
[ -e /run/healthy ] || echo 'Topic: events Partition: 3 Leader: 1 Replicas: 1,0 Isr: 1'
";

/// Two volumes, one of each filesystem, and a node's settings in its user data.
const VOLUMES: [&str; 2] = ["vol-0123456789abcdef0", "vol-0fedcba9876543210"];
const MOUNTS: [&str; 2] = ["/mydata", "/archive"];
const FILE_SYSTEMS: [&str; 2] = ["xfs", "ext4"];

fn shipped(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// A machine image for the examples: the user, the programs and the units that they suppose.
fn prepare(root: &Root) {
    root.run("useradd --system kafka");
    root.write("/usr/bin/example-application", APPLICATION);
    root.write("/etc/systemd/system/example-application.service", &shipped("systemd/example-application.service"));
    root.write("/usr/local/bin/kafka-topics.sh", KAFKA_TOPICS);
    root.write(
        "/etc/systemd/system/kafka.service",
        "[Service]\nExecStart=/usr/bin/sleep infinity\n[Install]\nWantedBy=node-agent-mounted.target\n",
    );
    root.run("systemctl enable example-application.service");
}

/// The same with the package, which gets its settings from the user data.
fn prepare_with_package(root: &Root) {
    prepare(root);
    root.install_package();
    root.write("/etc/node-agent/config.toml", "source = \"imds\"\n");
}

/// User data that is the configuration: all volumes of the world, and this hook script.
fn settings(volumes: &[VolumeId], hooks: &str) -> String {
    settings_for(volumes, FILE_SYSTEMS, hooks)
}

/// The same with other filesystems.
fn settings_for(volumes: &[VolumeId], file_systems: [&str; 2], hooks: &str) -> String {
    let volume = |(at, id): (usize, &VolumeId)| {
        let (mount, file_system) = (MOUNTS[at], file_systems[at]);
        format!(
            "[[volume]]\nid = \"{id}\"\nmount_path = \"{mount}\"\nfile_system = \"{file_system}\"\nowner = \"kafka\"\n"
        )
    };
    let volumes: String = volumes.iter().enumerate().map(volume).collect();
    format!(
        "[node]\nid = \"00\"\nip = \"10.0.1.10\"\n\
         [lifecycle]\nasg_name = \"{GROUP}\"\nhook_name = \"{HOOK}\"\n\
         terminate_hook_name = \"{TERMINATE_HOOK}\"\n\
         {volumes}\
         [[file]]\ndestination = \"/etc/kafka/server.properties\"\ncontents = \"broker.id=0\"\n\
         [hooks]\nscript_base64 = \"{}\"\n",
        STANDARD.encode(hooks)
    )
}

fn instance(user_data: &str) -> InstanceSpec {
    InstanceSpec { user_data: Some(user_data.as_bytes().to_vec()), ..InstanceSpec::default() }
}

/// What must hold on any machine whose node is up: the right disk is mounted, and the application ran on it and nowhere else, in each
/// of its `starts` since the root disk was new.
fn assert_in_order(shell: &mut Shell, volume: &VolumeId, starts: usize) {
    assert_eq!(shell.run("findmnt --noheadings --output FSTYPE /mydata; stat --format %U /mydata"), "xfs\nkafka");
    assert_started(shell, volume, starts);
}

/// The application runs, and has never been started but on this disk.
fn assert_started(shell: &mut Shell, volume: &VolumeId, starts: usize) {
    let disks =
        shell.wait_for(&format!("[ $(wc --lines </var/log/application) -ge {starts} ] && cat /var/log/application"));
    assert_eq!(shell.run("systemctl is-active example-application.service"), "active");
    let disks: Vec<&str> = disks.lines().map(str::trim).collect();
    // The kernel's names follow the order in which it finds the disks.
    assert_eq!(disks, vec![volume.replace('-', ""); starts]);
}

/// The time of an event of a unit in this boot, by systemd's clock (its property `…TimestampMonotonic`); zero if there was none.
fn moment(shell: &mut Shell, what: &str, unit: &str) -> Duration {
    let shown = shell.run(&format!("systemctl show --value --property {what}TimestampMonotonic {unit}"));
    Duration::from_micros(shown.parse().unwrap_or_else(|_| panic!("{what} of {unit}: {shown}")))
}

/// Whether the service says that the node is up, in this boot.
const UP: &str = "systemctl show --property StatusText node-agent.service | grep 'the node is up'";

/// The UUIDs of what is mounted.
fn uuids(shell: &mut Shell) -> String {
    shell.run("for mount in /mydata /archive; do findmnt --noheadings --output UUID $mount; done")
}

/// What the agent has written into the journal for a step, with its fields.
fn journal(shell: &mut Shell, step: &str) -> Vec<Value> {
    let query = format!("journalctl --quiet --boot --output=json --unit node-agent.service NODE_AGENT_STEP={step}");
    shell.run(&query).lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// The calls of Auto Scaling since then that mean something to it.
fn lifecycle_calls(world: &World, since: usize) -> Vec<String> {
    let called = |event: &Event| match &event.what {
        What::Api(call) if call.action.starts_with("autoscaling:") && call.mutating => Some(call.action.clone()),
        _ => None,
    };
    world.sim.events().iter().skip(since).filter_map(called).collect()
}

#[test]
fn user_data_brings_a_node_up_at_its_first_boot_at_a_reboot_and_on_its_successor() {
    let world = World::new("user-data", "cloud");
    let volume = world.volume(VOLUMES[0]);
    let image = world.bake(prepare);
    let (url, checksum) = world.publish_agent();
    let fetched_from = |user_data: &str| {
        let filled = shipped(user_data)
            .replace("https://<where you keep it>/node-agent", &url)
            .replace("<what sha256sum prints>", &checksum);
        assert!(filled.contains(&url) && filled.contains(&checksum) && filled.contains(VOLUMES[0]), "{filled}");
        filled
    };

    // The first boot. The node becomes healthy only after the checks below.
    let mut machine = world.launch(&image, instance(&fetched_from("packaging/user-data/cloud-config.yaml")));
    machine.power_on();
    let mut shell = machine.shell();
    shell.wait_for("systemctl show --property StatusText node-agent.service | grep 'health-check: running since'");
    let status = shell.run("systemctl status --no-pager node-agent.service");
    assert!(status.contains("Status: \"health-check: running since"), "{status}");
    // Neither the boot nor the user data waits for the node.
    shell.wait_for("systemctl is-active multi-user.target && cloud-init status | grep done");
    assert_eq!(world.completions(&machine.id), [""; 0]);
    shell.run("touch /run/healthy");
    world.wait_until_up(&machine);

    assert_in_order(&mut shell, &volume, 1);
    assert_eq!(shell.run("stat --format '%a %U' /etc/node-agent/config.toml"), "600 root");
    assert!(shell.run("cat /etc/kafka/server.properties").contains("log.dirs=/mydata/kafka"));
    assert_eq!(shell.run("systemctl is-active kafka.service node-agent-mounted.target"), "active\nactive");
    let found = journal(&mut shell, "attach");
    assert!(!found.is_empty() && found.iter().all(|line| line["NODE_AGENT_VOLUME"] == volume.as_str()), "{found:?}");
    assert_eq!(shell.run("cat /sys/block/nvme1n1/device/serial").trim(), volume.replace('-', ""));
    let asked = shell.run("wc --lines </var/log/kafka-topics");
    let uuid = shell.run("findmnt --noheadings --output UUID /mydata");

    // A reboot.
    let (since, resets) = (world.sim.events().len(), machine.resets());
    shell.send("systemctl reboot\n");
    machine.wait_for_reset(resets + 1);
    shell.wait_until_there();
    shell.wait_for(UP);
    assert_shut_down(&mut shell);
    assert_in_order(&mut shell, &volume, 2);
    assert_eq!(shell.run("wc --lines </var/log/kafka-topics"), asked);
    assert_eq!(lifecycle_calls(&world, since), [""; 0]);

    // The machine dies; its successor takes the volume over, from user data that is a script.
    world.kill(machine);
    world.sim.put_object("my-bucket", "node-00/server.properties", "broker.id=0\n");
    world.sim.put_object(
        "my-bucket",
        "hooks.sh",
        "configure_cluster_node() { :; }\nwait_for_healthy_cluster() { :; }\n",
    );
    let mut successor = world.launch(&image, instance(&fetched_from("packaging/user-data/user-data.sh")));
    successor.power_on();
    let mut shell = successor.shell();
    world.wait_until_up(&successor);
    assert_in_order(&mut shell, &volume, 1);
    assert_eq!(shell.run("findmnt --noheadings --output UUID /mydata"), uuid);
    assert_eq!(shell.run("wc --lines </mydata/application"), "3");
    assert_eq!(shell.run("stat --format %a /etc/kafka/server.properties"), "640");
    successor.power_off();
}

/// Hooks that go on only when the boot has gone on.
const PATIENT: &str = r#"configure_cluster_node() {
  for _ in $(seq 600); do
    systemctl is-active multi-user.target && break
    sleep 0.5
  done
  systemctl is-active multi-user.target
  echo configured >>/var/log/hooks
  [ -e /mydata/precious ] || echo "of $HOSTNAME" >/mydata/precious
}
wait_for_healthy_cluster() {
  echo healthy >>/var/log/hooks
}
"#;

#[test]
fn a_baked_image_comes_up_grows_at_a_reboot_and_is_replaced_without_a_format() {
    let world = World::new("baked", "plain");
    let volumes = VOLUMES.map(|id| world.volume(id));
    let image = world.bake(prepare_with_package);
    let user_data = settings(&volumes, PATIENT);
    let mut machine = world.launch(&image, instance(&user_data));
    machine.power_on();
    let mut shell = machine.shell();
    world.wait_until_up(&machine);
    assert_in_order(&mut shell, &volumes[0], 1);
    assert_eq!(shell.run("findmnt --noheadings --output FSTYPE /archive"), "ext4");
    assert!(!journal(&mut shell, "complete").is_empty());
    let made = uuids(&mut shell);

    // The volumes are enlarged while the machine is down.
    let since = world.sim.events().len();
    machine.power_off();
    assert_clean(&world, &volumes);
    for volume in &volumes {
        world.sim.grow_volume(volume, 3 << 30).unwrap();
    }
    machine.power_on();
    let mut shell = machine.shell();
    shell.wait_for(UP);
    assert_shut_down(&mut shell);
    // The agent's own line, not the journal's copy of it; systemd may clear the rest of the line before it.
    let last_word = |line: &str| line.trim_start_matches("\x1b[K") == "node-agent: result=done";
    machine.wait_until("the last word on the console", || machine.console().lines().any(last_word));
    assert_in_order(&mut shell, &volumes[0], 2);
    let sizes = shell.run("df --block-size=1M --output=size /mydata /archive | tail -n 2");
    assert!(sizes.split_whitespace().all(|size| size.parse::<u32>().unwrap() > 2850), "{sizes}");
    let grown = journal(&mut shell, "grow");
    assert!(grown.iter().any(|line| line["MESSAGE"].as_str().unwrap().contains("done")), "{grown:?}");
    assert_eq!(shell.run("cat /var/log/hooks"), "configured\nhealthy");
    assert_eq!(lifecycle_calls(&world, since), [""; 0]);

    // The machine dies.
    world.kill(machine);
    let mut successor = world.launch(&image, instance(&user_data));
    successor.power_on();
    let mut shell = successor.shell();
    world.wait_until_up(&successor);
    assert_in_order(&mut shell, &volumes[0], 1);
    assert_eq!(uuids(&mut shell), made);
    assert_eq!(shell.run("wc --lines </mydata/application; cat /mydata/precious"), "3\nof node");

    // An image of this machine, as it is, for another node: its journal and its fstab are of a disk that is not there.
    successor.power_off();
    world.sim.terminate(&successor.id).unwrap();
    let other = [world.volume("vol-0aaaaaaaaaaaaaaaa")];
    let mut copy = world.launch(&successor.root, instance(&settings(&other, PATIENT)));
    copy.power_on();
    let mut shell = copy.shell();
    world.wait_until_up(&copy);
    let on = shell.run("findmnt --noheadings --output SOURCE,UUID /mydata");
    assert!(on.starts_with("/dev/nvme1n1 ") && !made.lines().any(|uuid| on.contains(uuid)), "{on}");
    assert_eq!(shell.run("cat /mydata/precious; tail -n 2 /var/log/hooks"), "of node\nconfigured\nhealthy");
    assert_eq!(shell.run("tail -n 1 /var/log/application").trim(), other[0].replace('-', ""));
    assert_eq!(shell.run("systemctl --failed --no-legend"), "");

    // A volume that is detached leaves the machine.
    shell.run("systemctl stop example-application.service && umount /mydata");
    world.sim.detach(&other[0], &copy.id).unwrap();
    shell.wait_for("! [ -e /dev/nvme1n1 ]");
    copy.wait_until("available", || world.sim.volume_state(&other[0]).unwrap().attachments.is_empty());
    copy.power_off();
}

/// A configure hook that fails until it is repaired, and then takes its time.
const BROKEN: &str = r#"configure_cluster_node() {
  echo configure >>/var/log/hooks
  [ -e /run/repaired ] || { echo "no such listener"; return 3; }
  echo at work
  until [ -e /run/go-on ]; do sleep 0.5; done
}
wait_for_healthy_cluster() { :; }
"#;

#[test]
fn an_operator_whose_terminal_is_cut_off_has_repaired_the_node_all_the_same() {
    let world = World::new("operator", "plain");
    let volumes = [world.volume(VOLUMES[0])];
    let image = world.bake(|root| {
        prepare_with_package(root);
        // A terminal for the operator, like the test's own.
        root.run(
            "cp -r /etc/systemd/system/serial-getty@ttyS{1,2}.service.d; systemctl enable serial-getty@ttyS2.service",
        );
    });
    let mut machine = world.launch(&image, instance(&settings(&volumes, BROKEN)));
    machine.power_on();
    let mut shell = machine.shell();
    shell.wait_for("systemctl show --property StatusText node-agent.service | grep held");

    // On the operator's terminal.
    let mut operator = machine.operator();
    let (told, code) = operator.attempt("node-agent status");
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("no such listener") && told.contains("node-agent retry"), "{told}");
    operator.run("touch /run/repaired");
    operator.send("node-agent retry; echo never told\n");
    operator.read_until("at work", Instant::now() + Duration::from_secs(60)).expect("the hook's own words");
    // The line hangs up: its processes get SIGHUP, and their output is lost.
    shell.run("systemctl stop serial-getty@ttyS2.service");
    shell.wait_for("! pgrep --full 'node-agent retry'");
    assert_eq!(world.completions(&machine.id), [""; 0]);
    shell.run("touch /run/go-on");
    machine.wait_until("in service", || world.is_in_service(&machine));
    assert_eq!(world.completions(&machine.id), ["CONTINUE"]);
    assert_eq!(shell.run("cat /var/log/hooks"), "configure\nconfigure");
    shell.wait_for("node-agent status");
    machine.power_off();
}

/// Hooks that write on both volumes data that must survive a power cut, and print it on the console.
const DURABLE: &str = r#"configure_cluster_node() {
  for volume in /mydata /archive; do
    [ -e $volume/precious ] && continue
    dd if=/dev/urandom of=$volume/new bs=64k count=4 conv=fsync status=none
    mv $volume/new $volume/precious
    sync $volume
  done
  echo "durable: $(cat /mydata/precious /archive/precious | sha256sum)"
}
wait_for_healthy_cluster() { :; }
"#;

/// When the power fails.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// A call of EC2 or Auto Scaling has taken effect.
    Call(&'static str),
    /// The first byte of this volume was written: mkfs is at work.
    Written(usize),
    /// The configure hook has told what it has written.
    Durable,
    /// This part of the way from the attach call to CONTINUE.
    Part(f64),
}

/// Cuts the power and restores it; the node must come up with the data written before. Returns how long the boot after it took, from
/// the attach call or the power button to CONTINUE, and whether the cut came at the intended moment.
fn cut_and_come_up(world: &World, image: &Path, number: usize, cut: Option<Cut>, way: Duration) -> (Duration, bool) {
    let volumes = ["a", "b"].map(|which| world.volume(&format!("vol-{which:0>9}{number:08}")));
    let mut machine = world.launch(image, instance(&settings(&volumes, DURABLE)));
    machine.power_on();
    let mut before = String::new();
    if let Some(cut) = cut {
        match cut {
            Cut::Call(action) => world.wait_for_call(action, &machine),
            Cut::Written(which) => {
                let backing = world.sim.volume_state(&volumes[which]).unwrap().backing_file;
                machine.wait_until("mkfs writes", || fs::metadata(&backing).unwrap().blocks() > 0);
            }
            Cut::Durable => machine.wait_until("durable", || {
                // The whole line.
                machine.console().split_once("durable: ").is_some_and(|(_, rest)| rest.contains('\n'))
            }),
            Cut::Part(part) => {
                world.wait_for_call("ec2:AttachVolume", &machine);
                std::thread::sleep(way.mul_f64(part));
            }
        }
        machine.cut();
        before = machine.console();
        machine.power_on();
    }
    world.wait_for_call("ec2:AttachVolume", &machine);
    let since = Instant::now();
    world.wait_until_up(&machine);
    let took = since.elapsed();
    let after = machine.console();
    let mut shell = machine.shell();
    let sum = shell.run("cat /mydata/precious /archive/precious | sha256sum");
    // What was printed before the cut had been synced to the disks.
    let told = before.split_once("durable: ").and_then(|(_, rest)| rest.lines().next()).map(str::trim);
    let told = told.filter(|told| told.len() == sum.len());
    if let Some(told) = told {
        assert_eq!(told, sum, "what was durable before {cut:?} is gone");
    }
    let aimed = match cut {
        Some(Cut::Written(_)) => after.contains("was not completed"),
        Some(Cut::Durable) => told.is_some(),
        _ => true,
    };
    machine.power_off();
    for (volume, file_system) in volumes.iter().zip(FILE_SYSTEMS) {
        let backing = world.sim.volume_state(volume).unwrap().backing_file;
        assert_sound(&backing, file_system);
    }
    world.sim.terminate(&machine.id).unwrap();
    (took, aimed)
}

/// The filesystem passes a forced check.
fn assert_sound(backing: &Path, file_system: &str) {
    let mut check = match file_system {
        "ext4" => Command::new("e2fsck"),
        _ => Command::new("xfs_repair"),
    };
    let arguments: &[&str] = if file_system == "ext4" { &["-f", "-n"] } else { &["-n", "-f"] };
    let output = check.args(arguments).arg(backing).output().unwrap();
    assert!(output.status.success(), "{check:?}: {}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_power_cut_at_any_instant_is_survived_with_all_that_was_durable() {
    let world = World::new("power-cuts", "plain");
    let image = world.bake(prepare_with_package);
    let wanted = std::env::var("NODE_AGENT_VM_CUTS").map_or(4, |count| count.parse().unwrap());
    let mut cuts = vec![Cut::Call("ec2:AttachVolume"), Cut::Written(0), Cut::Written(1), Cut::Durable];
    let mut way = Duration::ZERO;
    if wanted > cuts.len() {
        (way, _) = cut_and_come_up(&world, &image, 0, None, way);
        cuts.push(Cut::Call("autoscaling:CompleteLifecycleAction"));
        let parts = wanted - cuts.len();
        cuts.extend((0..parts).map(|part| Cut::Part((part as f64 + 0.5) / parts as f64)));
    }
    cuts.truncate(wanted);
    for (number, cut) in (1..).zip(cuts) {
        // mkfs is at work for tenths of a second: on a busy machine the cut may come too late.
        let aimed = (0..3).any(|again| {
            let (took, aimed) = cut_and_come_up(&world, &image, 10 * number + again, Some(cut), way);
            println!("{cut:?}: up {took:?} after the attach{}", if aimed { "" } else { "; it came too late" });
            aimed
        });
        assert!(aimed, "{cut:?} came too late three times");
    }
}
