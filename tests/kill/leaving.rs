//! A node that is to go, whose agent is killed on the way, and what must hold in the end.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use ec2_sim::{Fault, FaultRule, VolumeId, What};
use nix::sys::signal::{Signal, kill};

use crate::common::{self, TERMINATE_HOOK, in_service};
use crate::fixture::{Victim, processes};
use crate::support::{Instance, Outcome, Running, World, wait_until};

const COMPLETE: &str = "autoscaling:CompleteLifecycleAction";

/// The drain function takes a while, and says on the root disk and on the volume that it came to its end.
const HOOKS: &str = r#"
configure_cluster_node() { :; }
wait_for_healthy_cluster() { :; }
drain_cluster_node() {
  echo start >> /var/log/drain
  for part in 1 2 3 4; do
    echo "$part" >> "$MOUNT_PATH/drained"
    sleep 0.1
  done
  sync "$MOUNT_PATH/drained"
  echo end >> /var/log/drain
}
"#;

/// What becomes of the first call that completes the termination hook's action.
pub(crate) fn faults() -> [Option<Fault>; 5] {
    let late = Fault::Slow(Duration::from_millis(500));
    [None, Some(Fault::LostReply), Some(Fault::Reset), Some(late), Some(Fault::ServerError)]
}

pub(crate) struct LeavingFixture {
    node: Instance,
    volume: VolumeId,
    file_system: &'static str,
    detaches: bool,
    world: World,
    /// How often the drain function had been begun when the journal first said at a kill that it had ended.
    drained: Option<usize>,
}

impl LeavingFixture {
    /// A node in service, and its agent.
    pub(crate) fn new(file_system: &'static str, detaches: bool, fault: Option<Fault>) -> (LeavingFixture, Running) {
        let world = common::world(|config| {
            config.latencies.detach = Duration::from_millis(50);
            config.latencies.shutting_down = Duration::from_millis(300);
        });
        let (node, volume) = world.node();
        node.hooks(HOOKS);
        let of_volume = format!("detach_on_terminate = {detaches}");
        node.configure(common::config(&volume, file_system, &of_volume, ""));
        let service = in_service(&node);
        node.shell("dd if=/dev/urandom of=/mydata/log bs=1M count=4 status=none");
        if let Some(fault) = fault {
            world.sim.add_fault(FaultRule::once(COMPLETE, fault)).unwrap();
        }
        (LeavingFixture { node, volume, file_system, detaches, world, drained: None }, service)
    }

    /// Auto Scaling terminates the node's instance.
    pub(crate) fn ordered(&self) {
        common::ordered(&self.world, &self.node);
    }

    pub(crate) fn start(&self) -> Running {
        self.node.start_with(&["run"])
    }

    /// What the agent has recorded of the departure.
    fn departure(&self) -> serde_json::Value {
        let text = self.node.machine().read("/var/lib/node-agent/state.json").unwrap_or_default();
        let mut journal: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("the journal is torn ({error}): {text}"));
        journal["departure"].take()
    }

    pub(crate) fn is_leaving(&self) -> bool {
        !self.departure().is_null()
    }

    /// Kills the victim. It may have come to its end before.
    pub(crate) fn kill(&mut self, running: Running, victim: Victim) {
        running.signal(Signal::SIGKILL);
        drop(running);
        if victim != Victim::Agent {
            let end = || {
                let left = processes(&self.node);
                for pid in &left {
                    let _ = kill(*pid, Signal::SIGKILL);
                }
                left.is_empty()
            };
            wait_until(end, || format!("{:?} do not end", processes(&self.node)));
        }
        // As in a boot: a child that was just forked has the lock until it executes its program.
        let free = "[ ! -e /var/lib/node-agent/lock ] || flock --nonblock /var/lib/node-agent/lock true";
        let is_free = || self.node.machine().command("sh").args(["-c", free]).status().unwrap().success();
        wait_until(is_free, || "the lock outlives the agent".to_owned());
        if self.drained.is_none() && self.departure()["drained"] == true {
            self.drained = Some(self.drains());
        }
        if victim == Victim::Machine {
            // A machine's boot takes longer than what EC2 was at.
            thread::sleep(Duration::from_secs(1));
            let goes = {
                let events = self.world.events();
                events.calls("ec2:DetachVolume").len() + events.calls(COMPLETE).len() > 1
            };
            wait_until(
                || !goes || self.world.sim.device(&self.volume, &self.node.id).is_none(),
                || "the device stays".to_owned(),
            );
            self.node.reboot();
            // By fstab, as systemd does, with nofail: the volume may have gone already.
            self.node.shell("mount -a");
        }
    }

    /// The node's agent has come to its end.
    pub(crate) fn must_have_left(&self, outcome: &Outcome, label: &str) {
        let said = || format!("{label}:\n{}", outcome.log);
        assert_eq!(outcome.code, Some(0), "{}", said());
        let drain = self.node.machine().read("/var/log/drain").unwrap_or_default();
        assert!(
            drain.lines().any(|line| line == "end"),
            "the drain function did not come to its end: {drain} {}",
            said()
        );
        if let Some(drained) = self.drained {
            assert_eq!(self.drains(), drained, "drained again after its end: {}", said());
        }
        let events = self.world.events();
        let completed: Vec<_> = events
            .calls(COMPLETE)
            .iter()
            .filter(|call| call.parameters["LifecycleHookName"] == TERMINATE_HOOK)
            .map(|call| call.parameters["LifecycleActionResult"].clone())
            .collect();
        assert_eq!(completed, ["CONTINUE"], "{}", said());
        assert_eq!(self.node.shell("findmnt -rno TARGET --mountpoint /mydata || true"), "", "{}", said());
        let detached = events.calls("ec2:DetachVolume").len();
        assert_eq!(detached, usize::from(self.detaches), "{}", said());
        // Of a device that is to go while it is mounted, the log says that it is busy.
        let device =
            |event: &ec2_sim::Event, state: &str| matches!(&event.what, What::Device(change) if change.state == state);
        let is_gone = |event: &ec2_sim::Event| device(event, "gone");
        assert!(self.world.sim.wait_for_blocking(is_gone, Duration::from_secs(20)).is_some(), "{}", said());
        let events = self.world.events();
        assert!(!events.iter().any(|event| device(event, "busy")), "it went while it was mounted: {}", said());
        let place = |wanted: &dyn Fn(&What) -> bool| events.iter().position(|event| wanted(&event.what)).unwrap();
        let gone = place(&|what| matches!(what, What::Device(change) if change.state == "gone"));
        let told = place(&|what| {
            matches!(what, What::Api(call) if call.action == COMPLETE && call.done
                && call.parameters["LifecycleHookName"] == TERMINATE_HOOK)
        });
        assert_eq!(gone < told, self.detaches, "{}", said());
        must_be_clean(self.file_system, &self.world.sim.volume_state(&self.volume).unwrap().backing_file, &said);
        wait_until(|| processes(&self.node).is_empty(), || format!("{:?} are left\n{}", processes(&self.node), said()));
        let left = self.node.shell("find /etc /var/lib/node-agent -xdev -name '.node-agent-*'");
        assert_eq!(left, "", "left behind\n{}", said());
    }

    /// How often the drain function was begun.
    pub(crate) fn drains(&self) -> usize {
        self.node.read("/var/log/drain").lines().filter(|line| *line == "start").count()
    }
}

/// Nothing is to be repaired, and no log is to be replayed.
fn must_be_clean(file_system: &str, disk: &Path, said: &dyn Fn() -> String) {
    let (program, arguments) = if file_system == "xfs" { ("xfs_repair", "-nf") } else { ("e2fsck", "-fn") };
    let output = Command::new(program).arg(arguments).arg(disk).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{program}: {text}\n{}", said());
    assert!(!text.contains("valuable metadata changes") && !text.contains("skipping journal"), "{text}\n{}", said());
}

/// Waits until the condition holds, or the agent has ended, or so long.
pub(crate) fn while_waiting(running: &Running, limit: Duration, mut holds: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    let runs =
        || fs::read_to_string(format!("/proc/{}/stat", running.child.id())).is_ok_and(|stat| !stat.contains(") Z "));
    while began.elapsed() < limit && runs() && !holds() {
        thread::sleep(Duration::from_millis(2));
    }
}
