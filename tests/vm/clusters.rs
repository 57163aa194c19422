//! A shipped hook where systemd runs: the server is a unit of its own, which starts and stops with the volume. Three nodes are
//! `tests/cluster_etcd.rs`.

use crate::departures::{FOR_GOOD, assert_order, ended, log};
use crate::world::{GROUP, HOOK, Root, TERMINATE_HOOK, World};
use crate::{UP, VOLUMES, instance, prepare_with_package, shipped};

const BUCKET: &str = "my-bucket";
/// etcd says so of the setting below.
const COMPLAINT: &str = "--election-timeout[10ms] should be at least as 5 times as --heartbeat-interval";
const ETCDCTL: &str = "etcdctl --endpoints=http://10.0.1.10:2379";

/// etcd as Debian's package leaves it on an image: its own unit enabled, with data on the root disk.
fn prepare(root: &Root) {
    prepare_with_package(root);
    root.run("useradd --system etcd; install -d -o etcd /var/lib/etcd");
    for file in ["/usr/bin/etcd", "/usr/bin/etcdctl", "/etc/default/etcd", "/lib/systemd/system/etcd.service"] {
        root.bring(file);
    }
    root.run("systemctl enable etcd.service");
    // The fixed address, beside the one that the emulator gives.
    root.write("/etc/systemd/network/address.network", "[Match]\nName=lo\n[Network]\nAddress=10.0.1.10/32\n");
}

/// The shipped hook for a cluster of this node alone.
fn hooks(extra_config: &str) -> String {
    let settings = [
        ("MEMBERS=\"00=10.0.1.10 01=10.0.1.11 02=10.0.1.12\"", "MEMBERS=\"00=10.0.1.10\"".to_owned()),
        ("NEW_CLUSTER_BEFORE=\"\"", "NEW_CLUSTER_BEFORE=\"2999-01-01T00:00:00Z\"".to_owned()),
        ("EXTRA_CONFIG=\"\"", format!("EXTRA_CONFIG=\"{extra_config}\"")),
    ];
    settings.iter().fold(shipped("packaging/hooks/etcd.sh"), |hook, (from, to)| {
        assert!(hook.contains(from), "{from}");
        hook.replacen(from, to, 1)
    })
}

fn settings(volume: &str) -> String {
    format!(
        "[node]\nid = \"00\"\nip = \"10.0.1.10\"\n\
         [lifecycle]\nasg_name = \"{GROUP}\"\nhook_name = \"{HOOK}\"\nterminate_hook_name = \"{TERMINATE_HOOK}\"\n\
         [[volume]]\nid = \"{volume}\"\nmount_path = \"/mydata\"\nfile_system = \"ext4\"\nowner = \"etcd\"\n\
         [hooks]\nscript_source = \"s3://{BUCKET}/etcd.sh\"\n"
    )
}

#[test]
fn a_shipped_hooks_server_is_a_unit_that_starts_and_stops_with_the_volume() {
    let world = World::new("clusters", "plain");
    let volume = world.volume(VOLUMES[1]);
    let image = world.bake(prepare);
    world.sim.put_object(BUCKET, "etcd.sh", hooks("election-timeout: 10"));
    let mut machine = world.launch(&image, instance(&settings(&volume)));
    machine.power_on();
    let mut shell = machine.shell();

    // A server that ends again and again is told from one that is slow, with its own words.
    shell.wait_for("systemctl show --property StatusText node-agent.service | grep held");
    let (said, code) = shell.attempt("node-agent status");
    let last_words =
        said.contains(COMPLAINT) && said.contains("the server has ended by itself; its last words are above");
    assert!(code == 1 && last_words, "{code} {said}");
    world.sim.put_object(BUCKET, "etcd.sh", hooks(""));
    shell.run("node-agent retry");
    machine.wait_until("in service", || world.is_in_service(&machine));
    shell.wait_for(UP);

    let runs = |shell: &mut crate::shell::Shell| {
        let told = shell.run(
            "systemctl is-active etcd.service; systemctl show --value --property User etcd.service
             tr '\\0' ' ' </proc/$(systemctl show --value --property MainPID etcd.service)/cmdline",
        );
        assert_eq!(told, "active\netcd\n/usr/bin/etcd --config-file=/etc/etcd/node.yml");
    };
    runs(&mut shell);
    let identity = shell.run("cat /mydata/etcd.identity");
    assert!(identity.contains("cluster=etcd\nnode=00\nmember="), "{identity}");
    shell.run(&format!("{ETCDCTL} put key value"));

    // systemd starts it again when it is killed, and at a reboot, as soon as the volume is mounted.
    let restarts = "systemctl show --value --property NRestarts etcd.service";
    let before = shell.run(restarts);
    shell.run("systemctl kill --signal=KILL etcd.service");
    shell.wait_for(&format!("[ $({restarts}) -gt {before} ] && {ETCDCTL} endpoint health"));
    let resets = machine.resets();
    shell.send("systemctl reboot\n");
    machine.wait_for_reset(resets + 1);
    shell.wait_until_there();
    shell.wait_for(UP);
    shell.wait_for(&format!("{ETCDCTL} endpoint health"));
    runs(&mut shell);
    assert_eq!(
        shell.run(&format!("cat /mydata/etcd.identity; {ETCDCTL} get --print-value-only key")),
        identity + "\nvalue"
    );

    // A departure drains it.
    world.sim.terminate_in_group(&machine.id).unwrap();
    shell.wait_for("! systemctl is-active node-agent.service");
    assert_eq!(ended(&mut shell, "node-agent.service"), FOR_GOOD);
    assert_eq!(world.completions(&machine.id), ["CONTINUE", "CONTINUE"]);
    let log = log(&mut shell, 0);
    assert_order(&log, &["Stopped etcd.service", "drain: done", "Unmounted mydata.mount", "leave: done"]);
    machine.cut();
}
