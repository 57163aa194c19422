//! A node whose agent can be killed at a chosen point, and what must hold in the end.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use ec2_sim::{Event, VolumeId};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{IP, Instance, Running, World, config_with, volume_at, wait_until};

const SOON: Duration = Duration::from_mins(1);

/// Which processes are killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    /// The agent alone: what it started lives on.
    Agent,
    /// With everything it started.
    Tree,
    /// As a power cut: with everything it started, and what was mounted is not any more.
    Machine,
}

pub(crate) const VICTIMS: [Victim; 3] = [Victim::Agent, Victim::Tree, Victim::Machine];

/// Waits at a named point while a file of that name exists, and logs that it does; at most a minute, in case the test is killed.
const HOLD: &str = r#"
hold() {
  [ -e "/run/hold/$1" ] || return 0
  echo "$1" >> /var/log/held
  for ((left = 6000; left > 0; left--)); do
    [ -e "/run/hold/$1" ] || return 0
    sleep 0.01
  done
}
"#;

/// Wraps a program of e2fsprogs or xfsprogs: logs its runs, and can be held before and after it.
const WRAPPER: &str = r#"#!/bin/bash
. /opt/real/hold
name=${0##*/}
# The model of a filesystem, in memory: no disk is touched.
[[ $* != *\ /proc/self/fd/0 ]] || exec "/opt/real/$name" "$@"
case $1 in
-V)
  echo >> /var/log/versions
  hold "version-$(wc -l < /var/log/versions)"
  exec "/opt/real/$name" "$@" ;;
esac
echo "start $*" >> "/var/log/$name"
hold "before-$name"
"/opt/real/$name" "$@"
status=$?
echo "end $status" >> "/var/log/$name"
hold "after-$name"
exit $status
"#;

/// Each function appends to a file on the volume and syncs it.
const HOOKS: &str = r#"
. /opt/real/hold
configure_cluster_node() {
  echo start >> /var/log/configure
  hold before-configure
  echo "configure $1 $2" >> "$MOUNT_PATH/segment"
  sync "$MOUNT_PATH/segment"
  echo end >> /var/log/configure
  hold after-configure
}
wait_for_healthy_cluster() {
  echo start >> /var/log/health
  hold before-health
  grep -qx "configure $1 $2" "$MOUNT_PATH/segment"
  hold after-health
}
"#;

pub(crate) struct Fixture {
    pub node: Instance,
    pub volume: VolumeId,
    pub file_system: &'static str,
    pub world: World,
    /// What was written on the volume when something was killed: path and contents.
    sentinels: Vec<(String, String)>,
    /// How often the journal held an intent to format at a kill, nothing having been mounted.
    inside_format: usize,
    /// Runs of mkfs that were begun when the journal first said that the format was done.
    settled: Option<usize>,
    /// Runs of mkfs on the root disks of earlier instances: all, and those that succeeded.
    formats_before: (usize, usize),
    /// Launches completed by earlier instances.
    launches_before: usize,
}

impl Fixture {
    pub(crate) fn new(file_system: &'static str) -> Fixture {
        let world = World::with(|config| {
            let latencies = &mut config.latencies;
            latencies.attach = Duration::from_millis(30);
            latencies.device = Duration::from_millis(50);
            latencies.detach = Duration::from_millis(20);
            latencies.shutting_down = Duration::from_millis(50);
            latencies.pending_to_wait = Duration::from_millis(20);
            latencies.proceed_to_in_service = Duration::from_millis(50);
        });
        let volume = world.volume(1);
        let node = world.launch();
        prepare(&node, &volume, file_system);
        Fixture {
            node,
            volume,
            file_system,
            world,
            sentinels: Vec::new(),
            inside_format: 0,
            settled: None,
            formats_before: (0, 0),
            launches_before: 0,
        }
    }

    /// The instance is gone, with its root disk and the journal on it; another one takes the volume.
    pub(crate) fn replace(mut self) -> Fixture {
        self.end_tree();
        self.formats_before = self.formats();
        self.launches_before = self.world.completions().len();
        let old = std::mem::replace(&mut self.node, self.world.launch());
        prepare(&self.node, &self.volume, self.file_system);
        old.terminate();
        self
    }

    /// The journal is lost, alone or with the whole root disk.
    pub(crate) fn without_journal(self, root_disk_too: bool) -> Fixture {
        if root_disk_too {
            return self.replace();
        }
        self.node.shell("rm /var/lib/node-agent/state.json");
        self
    }

    pub(crate) fn start(&self) -> Running {
        self.node.start_with(&["run", "--once"])
    }

    /// Holds the programs and hooks that come to this point.
    pub(crate) fn hold(&self, place: &str) {
        self.node.write(&format!("/run/hold/{place}"), "");
    }

    pub(crate) fn release(&self) {
        self.node.shell("rm -rf /run/hold");
    }

    pub(crate) fn wait_until_held(&self, running: &Running, place: &str) {
        wait_until(
            || self.lines("/var/log/held").iter().any(|line| line == place),
            || format!("nobody came to {place}\n{}", running.log()),
        );
    }

    pub(crate) fn lines(&self, path: &str) -> Vec<String> {
        let text = self.node.machine().read(path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The runs of mkfs: all, and those that succeeded.
    pub(crate) fn formats(&self) -> (usize, usize) {
        let lines = self.lines(&format!("/var/log/mkfs.{}", self.file_system));
        let count = |wanted: &str| lines.iter().filter(|line| line.starts_with(wanted)).count();
        (self.formats_before.0 + count("start"), self.formats_before.1 + count("end 0"))
    }

    /// The journal, if there is one.
    pub(crate) fn journal(&self) -> Option<serde_json::Value> {
        let text = self.node.machine().read("/var/lib/node-agent/state.json").ok()?;
        Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("the journal is torn ({error}): {text}")))
    }

    fn is_mounted(&self) -> bool {
        self.node.shell("findmnt -rno FSTYPE --mountpoint /mydata || true") == self.file_system
    }

    /// The machine's processes, without zombies.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        processes(&self.node)
    }

    /// Kills the victim, and records what must survive.
    pub(crate) fn kill(&mut self, running: Running, victim: Victim) {
        running.signal(Signal::SIGKILL);
        drop(running);
        self.killed(victim);
    }

    /// The agent was killed: kills the rest of the victim.
    pub(crate) fn killed(&mut self, victim: Victim) {
        if victim != Victim::Agent {
            self.end_tree();
        }
        // A child that the agent has just forked has all its files, and with them the lock, until it executes its program.
        // The service is started again after ten seconds; here on a busy machine that may be too soon.
        let free = "[ ! -e /var/lib/node-agent/lock ] || flock --nonblock /var/lib/node-agent/lock true";
        let is_free = || self.node.machine().command("sh").args(["-c", free]).status().unwrap().success();
        wait_until(is_free, || "the lock outlives the agent".to_owned());
        let volume = self.journal().map(|journal| journal["volumes"][self.volume.as_str()].clone()).unwrap_or_default();
        let mounted = self.is_mounted();
        let intends = !volume["formatting"].is_null();
        assert!(!(intends && (mounted || !self.sentinels.is_empty())), "an intent to format a disk that was mounted");
        self.inside_format += usize::from(intends);
        if self.settled.is_none() && (mounted || !volume["formatted_at"].is_null()) {
            self.settled = Some(self.formats().0);
        }
        if mounted {
            let sentinel = (format!("/mydata/kill-{}", self.sentinels.len()), format!("{victim:?} {volume}"));
            self.node.write(&sentinel.0, sentinel.1.clone());
            self.node.shell(&format!("sync {}", sentinel.0));
            self.sentinels.push(sentinel);
        }
        if victim == Victim::Machine {
            self.node.reboot();
            // The kernel ends the mounts of a machine that is off in its own time.
            if let Some(device) = self.world.sim.device(&self.volume, &self.node.id) {
                let free = || OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&device).is_ok();
                wait_until(free, || format!("{} stays in use", device.display()));
            }
        }
    }

    /// Ends every process of the machine. One that is killed may have started another just before.
    pub(crate) fn end_tree(&self) {
        let end = || {
            let left = self.processes();
            for pid in &left {
                let _ = kill(*pid, Signal::SIGKILL);
            }
            left.is_empty()
        };
        wait_until(end, || format!("{:?} do not end", self.processes()));
    }

    /// Waits for an event, past ones included.
    pub(crate) fn sees(&self, wanted: impl FnMut(&Event) -> bool) -> Event {
        self.world.sim.wait_for_blocking(wanted, SOON).expect("the event never came")
    }

    /// Runs the agent to its end, which must be the expected one.
    pub(crate) fn comes_up(&self, label: &str) {
        self.ends(self.start(), label);
    }

    pub(crate) fn ends(&self, running: Running, label: &str) {
        let outcome = running.end();
        assert_eq!(outcome.code, Some(0), "{label}:\n{}", outcome.log);
        self.must_be_up(&format!("{label}:\n{}", outcome.log));
    }

    pub(crate) fn must_be_up(&self, log: &str) {
        let (node, volume) = (&self.node, &self.volume);
        let kind = self.file_system;
        let mounted = node.shell("findmnt -rno SOURCE,FSTYPE --mountpoint /mydata; stat -c %U:%G /mydata");
        let device = self.world.sim.device(volume, &node.id).unwrap();
        assert_eq!(mounted, format!("{} {kind}\ndaemon:daemon", device.display()), "{log}");
        let link = ec2_sim::Sim::link_name(volume);
        let line = format!("/dev/disk/by-id/{link} /mydata {kind} noatime,nofail,x-node-agent={volume} 0 0");
        let fstab = node.read("/etc/fstab");
        let ours: Vec<_> =
            fstab.lines().filter(|line| line.contains("/mydata") || line.contains("node-agent")).collect();
        assert_eq!(ours, [line], "{log}");
        assert_eq!(fstab.lines().next(), Some("# kept"), "{log}");
        for (file, contents) in [("/etc/kafka/server.properties", "broker.id=00"), ("/etc/kafka/jvm/options", "-Xmx1g")]
        {
            assert_eq!(node.read(file), contents, "{log}");
        }
        assert_eq!(
            node.shell("stat -c '%a %U' /etc/kafka/server.properties /etc/kafka/jvm/options"),
            "644 root\n640 daemon"
        );
        let segment = node.read("/mydata/segment");
        assert!(
            !segment.is_empty() && segment.lines().all(|line| line == format!("configure 00 {IP}")),
            "{segment} {log}"
        );
        for (path, contents) in &self.sentinels {
            assert_eq!(&node.read(path), contents, "{log}");
        }
        let (begun, completed) = self.formats();
        // One killed after its last write did not come to its end, but its filesystem is whole, and used.
        let least = usize::from(self.inside_format == 0);
        assert!((least..=1 + self.inside_format).contains(&completed), "mkfs was completed {completed} times\n{log}");
        if let Some(settled) = self.settled {
            assert_eq!(begun, settled, "mkfs ran after the format was done\n{log}");
        }
        assert_eq!(self.world.completions()[self.launches_before..], ["CONTINUE"], "{log}");
        self.sees(|_| self.world.sim.lifecycle_state(&node.id).as_deref() == Some("InService"));
        let journal = self.journal().unwrap();
        assert_eq!(journal["lifecycle"]["outcome"], "continued", "{log}");
        assert!(journal["volumes"][volume.as_str()]["formatting"].is_null(), "{journal}");
        // Nothing is left behind.
        wait_until(|| self.processes().is_empty(), || format!("{:?} are left\n{log}", self.processes()));
        let left = node.shell("find /etc /var/lib/node-agent /mydata -xdev -name '.node-agent-*'");
        assert_eq!(left, "", "left behind\n{log}");
    }
}

impl Drop for Fixture {
    /// After a panic no held process stays either.
    fn drop(&mut self) {
        if thread::panicking() {
            for pid in self.processes() {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }
}

/// The machine's processes, without zombies.
pub(crate) fn processes(node: &Instance) -> Vec<Pid> {
    let namespace = |path: PathBuf| fs::read_link(path.join("ns/mnt")).ok();
    let own = node.machine().inside(|| namespace("/proc/thread-self".into())).unwrap();
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries
        .filter_map(|entry| Some((entry.path(), entry.file_name().to_str()?.parse().ok()?)))
        .filter(|(path, _)| namespace(path.clone()) == own)
        .map(|(_, pid)| Pid::from_raw(pid))
        .collect()
}

/// Puts the scripts and the configuration in their places.
fn prepare(node: &Instance, volume: &VolumeId, file_system: &str) {
    node.hooks(HOOKS);
    node.write("/opt/real/hold", HOLD);
    node.write("/opt/real/wrapper", WRAPPER);
    node.shell(
        "for name in mkfs.xfs mkfs.ext4 e2fsck; do
           cp -L /usr/sbin/$name /opt/real/$name
           rm /usr/sbin/$name
           cp /opt/real/wrapper /usr/sbin/$name
           chmod +x /usr/sbin/$name
         done
         echo '# kept' > /etc/fstab",
    );
    let more = "[[file]]\ndestination = \"/etc/kafka/jvm/options\"\ncontents = \"-Xmx1g\"\nmode = \"0640\"\nowner = \"daemon\"";
    let config = config_with("", &[volume_at("/mydata", volume, file_system)], more);
    node.configure(config);
}

/// Numbers drawn from a seed (`SplitMix64`).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % limit
    }

    pub(crate) fn index(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit.try_into().unwrap())).unwrap()
    }
}
