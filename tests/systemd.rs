//! The service under a service manager: readiness, status, watchdog, the unit that is started and installed.
//!
//! The service manager's side of the protocols is real sockets; where `systemctl` is asked, a stand-in answers.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::{HOOKS, Instance, World, config_with, node_with, volume_at, wait_until};

/// What a service manager was told.
struct Manager(UnixDatagram);

impl Manager {
    const SOCKET: &str = "/run/notify";

    fn on(node: &Instance) -> Manager {
        let socket = node.machine().inside(|| UnixDatagram::bind(Manager::SOCKET).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Manager(socket)
    }

    /// The next message that begins like this.
    fn hears(&self, begin: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let got = self.0.recv(&mut buffer).unwrap_or_else(|error| panic!("no {begin}: {error}"));
            let text = String::from_utf8_lossy(&buffer[..got]).into_owned();
            if let Some(line) = text.lines().find(|line| line.starts_with(begin)) {
                return line.to_owned();
            }
        }
    }
}

#[test]
fn the_service_is_ready_before_the_node_is_and_tells_how_it_goes() {
    let world = World::new();
    let waiting = HOOKS.replace("echo \"configure", "until [ -e /tmp/go ]; do sleep 0.05; done; echo \"configure");
    let node = node_with(&world, &waiting);
    let manager = Manager::on(&node);
    let mut command = node.agent(&["run"]);
    command.env("NOTIFY_SOCKET", Manager::SOCKET).env("WATCHDOG_USEC", "400000");
    let mut service = command.spawn().unwrap();

    // The hook waits for what comes after this.
    manager.hears("READY=1");
    manager.hears("STATUS=configure: running since ");
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    node.shell("touch /tmp/go");
    manager.hears("STATUS=the node is up");
    manager.hears("WATCHDOG=1");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(service.id() as i32), Signal::SIGTERM).unwrap();
    manager.hears("STOPPING=1");
    assert_eq!(service.wait().unwrap().code(), Some(0));
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_hold_is_told_with_its_reason_and_remedy() {
    let world = World::new();
    let node = node_with(&world, &HOOKS.replace("echo \"configure", "false; echo \"configure"));
    let manager = Manager::on(&node);
    let mut service = node.agent(&["run"]).env("NOTIFY_SOCKET", Manager::SOCKET).spawn().unwrap();

    let status = manager.hears("STATUS=held until ");

    assert!(status.contains("configure_cluster_node ended with") && status.contains("node-agent retry"), "{status}");
    service.kill().unwrap();
    service.wait().unwrap();
}

/// Stands in for a systemd that has the unit, and logs what it is asked.
const SYSTEMCTL: &str = r#"#!/bin/bash
echo "$*" >> /var/log/systemctl
case "$*" in
"cat node-agent.service") ;;
"start --no-block node-agent.service") setsid node-agent run >> /var/log/service 2>&1 & ;;
"cat "*) exit 1 ;;
esac
"#;

#[test]
fn a_unit_that_is_installed_but_stopped_is_started_by_retry_and_followed() {
    let world = World::new();
    let waits = "echo \"configure $1\"; until [ -e /tmp/go ]; do sleep 0.05; done; echo \"configure";
    let node = node_with(&world, &HOOKS.replace("echo \"configure", waits));
    node.run_systemd();
    node.write("/usr/bin/systemctl", SYSTEMCTL);
    node.shell("chmod 0755 /usr/bin/systemctl");

    let retry = node.start_with(&["retry"]);
    retry.wait_for("configure: start:");
    node.shell("touch /tmp/go");
    let outcome = retry.end();

    assert_eq!(outcome.code, Some(0), "{}\n{}", outcome.log, node.read("/var/log/service"));
    assert!(outcome.log.contains("complete: done"), "{}", outcome.log);
    assert_eq!(world.completions(), ["CONTINUE"]);
    // The service goes on; so does a retry from a step.
    let outcome = node.start_with(&["retry", "--from", "health-check"]).end();
    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert_eq!(node.read("/var/log/hooks.log").matches("health").count(), 2);
    let pid = node.shell("node-agent status --json | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p'");
    node.shell(&format!("kill {pid}"));
    wait_until(|| !std::path::Path::new(&format!("/proc/{pid}")).exists(), || "the service goes on".to_owned());

    // Stopped, and asked to redo something.
    let outcome = node.start_with(&["retry", "--from", "configure"]).end();
    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert_eq!(node.read("/var/log/hooks.log").matches("configure").count(), 2);
    assert_eq!(world.completions(), ["CONTINUE"]);
    let pid = node.shell("node-agent status --json | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p'");
    node.shell(&format!("kill {pid}"));
}

#[test]
fn the_binary_installs_itself_and_its_units_into_an_image_twice_alike() {
    let world = World::new();
    let node = world.launch();
    let listing = "cd /image && find . -type f -o -type l | sort && sha256sum usr/local/bin/node-agent etc/systemd/system/node-agent.service && find . -type f -printf '%m %T@ %p\\n' | sort";
    node.shell("mkdir /image");

    let first = node.start_with(&["install", "--root", "/image"]).end();
    assert_eq!(first.code, Some(0), "{}", first.log);
    let installed = node.shell(listing);
    for path in [
        "./usr/local/bin/node-agent",
        "./etc/systemd/system/node-agent.service",
        "./etc/systemd/system/node-agent-mounted.target",
        "./etc/systemd/system/multi-user.target.wants/node-agent.service",
    ] {
        assert!(installed.lines().any(|line| line == path), "{path} is missing in\n{installed}");
    }
    let unit = node.read("/image/etc/systemd/system/node-agent.service");
    assert!(unit.contains("ExecStart=/usr/local/bin/node-agent run"), "{unit}");
    let version = node.shell("/image/usr/local/bin/node-agent --version");
    assert!(version.starts_with("node-agent "), "{version}");

    // The installed one installs itself: nothing changes.
    node.shell("/image/usr/local/bin/node-agent install --root /image");
    assert_eq!(node.shell(listing), installed);
    node.start_with(&["install", "--root", "/image", "--now"]).end().must_fail(1, &["omit one of the two"]);
}

#[test]
fn install_leaves_masks_and_an_administrators_units_alone() {
    let world = World::new();
    let node = world.launch();
    let unit = "/image/etc/systemd/system/node-agent.service";
    for mask in ["ln -s /dev/null", "touch"] {
        node.shell("rm -rf /image; mkdir -p /image/etc/systemd/system");
        let mask = if mask == "touch" { format!("touch {unit}") } else { format!("ln -s /dev/null {unit}") };
        node.shell(&mask);
        let refused = node.start_with(&["install", "--root", "/image"]).end();
        refused.must_fail(1, &["node-agent.service is masked", "systemctl unmask node-agent.service"]);
        assert_eq!(node.shell("find /image -type f -size +0 -o -name node-agent.service -print"), unit, "{mask}");
    }
    // As systemctl edit --full leaves it.
    for edit in
        [format!("echo Nice=5 >> {unit}"), format!("echo '[Service]' > {unit}; echo ExecStart=/opt/own >> {unit}")]
    {
        node.shell("rm -rf /image");
        node.start_with(&["install", "--root", "/image"]).end().must_fail(0, &[]);
        node.shell(&edit);
        let edited = node.read(unit);
        let outcome = node.start_with(&["install", "--root", "/image"]).end();
        outcome.must_fail(0, &["was written or edited by an administrator and stays as it is"]);
        assert_eq!(node.read(unit), edited);
    }
}

#[test]
fn install_replaces_what_an_earlier_version_has_installed() {
    let world = World::new();
    let node = world.launch();
    let units = "/image/etc/systemd/system";
    let old = include_str!("0.1.0/node-agent.service").replace("/usr/bin/node-agent", "/usr/local/bin/node-agent");
    node.write(&format!("{units}/node-agent.service"), old);
    node.write(&format!("{units}/node-agent-mounted.target"), include_str!("0.1.0/node-agent-mounted.target"));

    let outcome = node.start_with(&["install", "--root", "/image"]).end();

    outcome.must_fail(0, &[]);
    assert!(!outcome.log.contains("administrator"), "{}", outcome.log);
    assert!(node.read(&format!("{units}/node-agent.service")).contains("node-agent-mount.service"));
}

#[test]
fn install_by_the_packaged_agent_only_enables_its_service() {
    let world = World::new();
    let node = world.launch();
    node.shell(&format!(
        "mkdir -p /image/usr/bin /image/usr/lib/systemd/system; cp {} /image/usr/bin/node-agent",
        support::PROGRAM
    ));
    let unit = include_str!("../systemd/node-agent.service");
    node.write("/image/usr/lib/systemd/system/node-agent.service", unit);

    let said = node.shell("/image/usr/bin/node-agent install --root /image 2>&1");

    assert!(said.contains("the package's agent"), "{said}");
    let installed = node.shell("cd /image; find . -type f -o -type l | sort");
    let link = "./etc/systemd/system/multi-user.target.wants/node-agent.service";
    assert_eq!(installed, format!("{link}\n./usr/bin/node-agent\n./usr/lib/systemd/system/node-agent.service"));
    assert_eq!(node.shell(&format!("cd /image; readlink {link}")), "/usr/lib/systemd/system/node-agent.service");

    // Another program shadows it, and says so.
    let said = node.shell(&format!("{} install --root /image 2>&1", support::PROGRAM));
    assert!(said.contains("the package node-agent is installed, too"), "{said}");
}

#[test]
fn the_service_is_enabled_where_no_systemd_runs_as_in_a_chroot() {
    let world = World::new();
    let node = world.launch();
    node.start_with(&["install"]).end().must_fail(0, &["node-agent.service is enabled"]);
    node.shell("test -h /etc/systemd/system/multi-user.target.wants/node-agent.service");
    // Without its tool nothing is enabled, which is no success.
    node.shell("rm /etc/systemd/system/multi-user.target.wants/node-agent.service /usr/bin/systemctl");
    node.start_with(&["install"]).end().must_fail(1, &["systemctl is not installed"]);
}

#[test]
fn install_says_of_an_older_process_that_it_goes_on() {
    let world = World::new();
    let node = node_with(&world, HOOKS);
    node.run_systemd();
    let service = node.agent(&["run"]).spawn().unwrap();
    let pid = service.id();
    let _service = support::Guarded(service);
    node.write("/usr/bin/systemctl", format!("#!/bin/sh\n[ \"$1\" != show ] || echo MainPID={pid}\n"));
    node.shell("chmod 0755 /usr/bin/systemctl");

    let outcome = node.start_with(&["install", "--now"]).end();

    outcome.must_fail(
        0,
        &[&format!("runs already (process {pid})"), "to replace it: systemctl restart node-agent.service"],
    );
}

#[test]
fn a_retry_with_a_configuration_of_its_own_reads_it_where_the_unit_is_stopped() {
    let world = World::new();
    let node = node_with(&world, HOOKS);
    node.run_systemd();
    node.write("/usr/bin/systemctl", SYSTEMCTL);
    node.shell("chmod 0755 /usr/bin/systemctl; mv /etc/node-agent/config.toml /root/mine.toml");

    // The unit would be skipped.
    let refused = node.start_with(&["retry"]).end();
    refused.must_fail(5, &["/etc/node-agent/config.toml is missing, and node-agent.service does not start without it"]);
    assert!(refused.took < Duration::from_secs(20), "{:?}", refused.took);
    node.start_with(&["retry", "--config", "/root/mine.toml"]).end().must_fail(0, &["result=done"]);
    assert!(!node.read("/var/log/systemctl").contains("start --no-block node-agent.service"));
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_service_that_is_told_to_stop_in_a_hook_ends_it_and_exits_cleanly() {
    let world = World::new();
    let (node, volume) = world.node();
    node.hooks(HOOKS.replace("echo \"configure", "echo here; sleep 600; echo \"configure"));
    node.configure(config_with("", &[volume_at("/mydata", &volume, "ext4")], ""));
    let service = node.start_with(&["run"]);
    service.wait_for("| here");
    let began = Instant::now();

    service.signal(Signal::SIGTERM);
    let outcome = service.end();

    assert_eq!(outcome.code, Some(3), "{}", outcome.log);
    // No failure of the unit.
    assert!(include_str!("../systemd/node-agent.service").contains("\nSuccessExitStatus=3\n"));
    assert!(began.elapsed() < Duration::from_secs(30));
    assert!(world.completions().is_empty());
}
