//! Nodes on machines that really boot: firmware, kernel, systemd, udev, cloud-init and NVMe disks are the real ones, emulated by
//! QEMU; EC2 is the simulator, at the real address of the metadata service.
//!
//! Run by `make test-vm`, one after the other. Consoles and event logs stay in `tmp/vm` of the target directory.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]
#![allow(unreachable_pub, missing_docs, reason = "one test's parts")]

mod machine;
mod qmp;
mod shell;
mod world;

use std::fs;
use std::path::Path;

use ec2_sim::InstanceSpec;
use world::{Root, World};

/// What the example of an application that must not start without its disk starts: it notes what its data is on.
const APPLICATION: &str = "#!/bin/sh
findmnt --noheadings --output SOURCE,FSTYPE --target /mydata >>/var/log/application
echo \"$(cat /proc/sys/kernel/random/boot_id)\" >>/mydata/application
exec sleep infinity
";

/// Kafka, as far as the user data of the examples knows it. It is healthy as soon as somebody says so.
const KAFKA_TOPICS: &str = "#!/bin/sh
echo \"$@\" >>/var/log/kafka-topics
[ -e /run/healthy ] || echo 'Topic: events Partition: 3 Leader: 1 Replicas: 1,0 Isr: 1'
";

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

#[test]
fn user_data_brings_a_node_up_on_its_first_boot_and_holds_nothing_back() {
    let world = World::new("first-boot");
    let volume = world.volume("vol-0123456789abcdef0");
    let image = world.bake("cloud", prepare);
    let (url, checksum) = world.publish_agent();
    let user_data = shipped("packaging/user-data/cloud-config.yaml")
        .replace("https://<where you keep it>/node-agent", &url)
        .replace("<what sha256sum prints>", &checksum);
    assert!(!user_data.contains("'<"), "{user_data}");
    let mut machine =
        world.launch(&image, InstanceSpec { user_data: Some(user_data.into_bytes()), ..InstanceSpec::default() });

    machine.power_on();
    let mut shell = machine.shell();
    eprintln!("a shell after {:?}", machine.uptime());
    world.wait_for_call("ec2:AttachVolume", &machine);
    eprintln!("attach after {:?}", machine.uptime());
    shell.wait_for("systemctl show --property StatusText node-agent.service | grep health-check");
    eprintln!("hook after {:?}", machine.uptime());
    println!(
        "{}",
        shell
            .attempt(
                "systemctl status --no-pager --full node-agent.service; lsblk; cat /etc/fstab; cat /var/log/application"
            )
            .0
    );
    shell.run("touch /run/healthy");
    world.wait_until_up(&machine);
    eprintln!("up after {:?}", machine.uptime());
    let _ = volume;
    machine.power_off();
}
