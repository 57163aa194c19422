//! Configured files that are not regular files, never end, or lie on storage that does not answer: the agent says so and goes on
//! with its other work.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::time::Duration;

use ec2_sim::{HookSpec, What};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use support::{CONFIG_PATH, HOOKS_PATH, Instance, World, config_with, volume_at, wait_until};

const OVERRIDE: &str = "/etc/node-agent/override.toml";
const SOURCE: &str = "/srv/file";

/// A configuration whose only file comes from [`SOURCE`].
fn config(volumes: &[String], downloads: &str) -> String {
    let text = config_with("", volumes, &format!("[timeouts]\ndownloads = \"{downloads}\""));
    text.replace("contents = \"broker.id=00\"", &format!("source = \"file://{SOURCE}\""))
}

/// A node that would come up.
fn node(world: &World) -> Instance {
    let node = world.launch();
    node.configure(config(&[], "20s"));
    node.write(OVERRIDE, "");
    node.write(SOURCE, "contents");
    node
}

/// Mounts a filesystem over the file whose server never answers, as one on NFS whose server is away. It ends with this value.
fn silence(node: &Instance, path: &str) -> File {
    let server = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
    let options = format!("fd={},rootmode=100600,user_id=0,group_id=0", server.as_raw_fd());
    let over = || mount(Some("silent"), path, Some("fuse"), MsFlags::empty(), Some(options.as_str())).unwrap();
    node.machine().inside(over).unwrap();
    server
}

/// Whether the process has a handler for SIGTERM.
fn catches_sigterm(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
    u64::from_str_radix(caught.trim(), 16).unwrap() >> (Signal::SIGTERM as u32 - 1) & 1 == 1
}

#[test]
fn a_fifo_in_place_of_any_file_that_is_read_is_named_at_once() {
    let world = World::new();
    for (path, code, exit) in [
        (CONFIG_PATH, "config-unreadable", 5),
        (OVERRIDE, "config-unreadable", 5),
        (HOOKS_PATH, "config-invalid", 5),
        (SOURCE, "download-failed", 1),
    ] {
        let node = node(&world);
        node.shell(&format!("rm {path}; mkfifo {path}"));
        for command in [&["plan"][..], &["check"], &["check", "--offline"]] {
            // What each of them reads.
            let reads = match command {
                ["check", "--offline"] => path == CONFIG_PATH,
                ["check"] => path != SOURCE,
                _ => true,
            };
            let outcome = node.start_with(command).end();
            assert_eq!(outcome.log.contains("is a FIFO"), reads, "{command:?} {path}\n{}", outcome.log);
            assert!(outcome.took < Duration::from_secs(60), "{command:?} {path} {:?}", outcome.took);
        }
        // The last, because a check tells of a run that has failed.
        let outcome = node.start_with(&["run", "--once"]).end();
        outcome.must_fail(exit, &[&format!("code={code}"), path, "is a FIFO", "a regular file is wanted"]);
        assert!(outcome.took < Duration::from_secs(15), "{path} {:?}", outcome.took);
        node.terminate();
    }
}

#[test]
fn what_is_no_regular_file_is_no_source_and_a_symlink_to_one_is() {
    let world = World::new();
    for (make, said) in [
        ("mkdir", "is a directory"),
        ("ln -s /dev/zero", "is a character device"),
        ("ln -s nothing", "does not exist"),
        ("python3 -c 'import socket,sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])'", "is a socket"),
    ] {
        let node = node(&world);
        node.shell(&format!("rm {SOURCE}; {make} {SOURCE}"));
        let outcome = node.start_with(&["run", "--once"]).end();
        outcome.must_fail(1, &["step=files code=download-failed", SOURCE, said]);
        node.terminate();
    }
    let node = node(&world);
    node.shell(&format!(
        "mv {SOURCE} /srv/real; ln -s real /srv/link; ln -s link {SOURCE}; mv {HOOKS_PATH} /srv/s; ln -s /srv/s {HOOKS_PATH}"
    ));
    node.come_up(&config(&[], "20s"));
    assert_eq!(node.read("/etc/kafka/server.properties"), "contents");
}

#[test]
fn a_source_of_700_mib_is_refused_without_being_read_into_memory() {
    let world = World::new();
    let node = node(&world);
    node.shell(&format!("truncate -s 700M {SOURCE}"));

    let service = node.start_with(&["run"]);
    service.wait_for("code=download-too-large");

    let log = service.log();
    for said in [SOURCE, "is larger than 256 MiB"] {
        assert!(log.contains(said), "{said:?} is missing in\n{log}");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", service.child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB");
    assert!(peak.parse::<u64>().unwrap() < 200 << 10, "{peak} KiB");
}

#[test]
fn attach_and_heartbeats_go_on_while_a_source_does_not_answer_and_a_stop_is_heard() {
    let hook = HookSpec { heartbeat_timeout: Duration::from_secs(6), ..HookSpec::default() };
    let world = World::with_hook(&hook, |_| {});
    let volume = world.volume(1);
    let node = node(&world);
    let server = silence(&node, SOURCE);
    node.configure(config(&[volume_at("/mydata", &volume, "xfs")], "10m"));

    let service = node.start_with(&["run", "--once"]);
    let heartbeats = || world.events().calls("autoscaling:RecordLifecycleActionHeartbeat").len();
    let attached = || {
        let events = world.events();
        events.iter().any(|event| matches!(&event.what, What::Device(change) if change.state == "appeared"))
    };
    wait_until(|| attached() && heartbeats() >= 2, || format!("{}\n{}", heartbeats(), service.log()));
    service.signal(Signal::SIGTERM);
    let outcome = service.end();

    outcome.must_fail(3, &["told to stop"]);
    assert!(world.completions().is_empty());
    drop(server);
}

#[test]
fn a_source_that_does_not_answer_within_its_time_is_named_with_what_to_do() {
    let world = World::new();
    let node = node(&world);
    let _server = silence(&node, SOURCE);

    let outcome = node.run(&config(&[], "2s"));

    outcome.must_fail(1, &["step=files code=storage-silent", SOURCE, "within 2s", "does not answer", "findmnt -T"]);
    assert!(outcome.took < Duration::from_secs(20), "{:?}", outcome.took);
}

#[test]
fn a_configuration_or_script_that_does_not_answer_is_named_and_a_stop_still_works() {
    let world = World::new();
    for path in [CONFIG_PATH, OVERRIDE, HOOKS_PATH] {
        let node = node(&world);
        let _server = silence(&node, path);
        let outcome = node.start_with(&["run", "--once"]).end();
        outcome.must_fail(5, &[path, "within 10s", "does not answer", "findmnt -T"]);

        let stopped = node.start_with(&["run", "--once"]);
        wait_until(|| catches_sigterm(stopped.child.id()), || stopped.log());
        stopped.signal(Signal::SIGTERM);
        let stopped = stopped.end();
        assert_eq!(stopped.code, Some(3), "{}", stopped.log);
        assert!(stopped.took < Duration::from_secs(9), "{path} {:?}", stopped.took);
    }
}

#[test]
fn a_configuration_comes_through_a_pipe_too() {
    let world = World::new();
    let node = node(&world);
    let valid = format!("{} check --offline --config", support::PROGRAM);
    for command in [
        format!("{valid} <(cat {CONFIG_PATH})"),
        format!("cat {CONFIG_PATH} | {valid} /dev/stdin"),
        format!("(sleep 1; cat {CONFIG_PATH}) | {valid} /dev/stdin"),
        format!("{valid} /dev/stdin < {CONFIG_PATH}"),
    ] {
        let said = node.shell(&command);
        assert!(said.contains("is valid"), "{command}: {said}");
    }
}
