//! One boot by the real agent, measured from outside, beside its floor.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ec2_sim::sandbox::{Gone, Node};
use ec2_sim::{InstanceSpec, VolumeId, What};
use nix::unistd::Pid;

use crate::Result;
use crate::config::{self, CONFIG, HOOKS, HOOKS_BEGAN, SCRIPT, device_name, mount_path};
use crate::floor;
use crate::lab::{GROUP, Lab};
use crate::rows::{Row, Waiting};
use crate::usage::{Usage, memory, millis};

/// What one boot came to. Times in milliseconds from the start of the agent's process, memory in MiB.
pub(crate) struct Run {
    pub(crate) to_continue: f64,
    pub(crate) to_exit: f64,
    pub(crate) bare: f64,
    pub(crate) floor: f64,
    pub(crate) cpu_own: f64,
    pub(crate) cpu_all: f64,
    pub(crate) peak_own: f64,
    pub(crate) calls: BTreeMap<String, usize>,
    /// In the rows that wait for EC2.
    pub(crate) moments: Option<Moments>,
}

/// When something was seen, in milliseconds from the start of the agent's process.
#[derive(Clone, Copy)]
pub(crate) struct Moments {
    /// The last device appeared.
    pub(crate) device: f64,
    /// The volumes were seen mounted.
    pub(crate) mounted: f64,
    /// The first hook began.
    pub(crate) hooks: f64,
    /// EC2 called the last volume attached.
    pub(crate) attached: f64,
}

/// The regions that boots are measured in.
pub(crate) struct Labs<'a> {
    /// Where everything happens at once.
    pub(crate) fast: Lab<'a>,
    /// Where EC2 takes its time.
    pub(crate) slow: Lab<'a>,
    /// The size of each disk.
    pub(crate) disk_bytes: u64,
}

/// A boot that is to be measured.
struct Boot<'a> {
    lab: &'a Lab<'a>,
    row: &'a Row,
    node: Node,
    volumes: Vec<VolumeId>,
    log: PathBuf,
}

/// The agent's process, at work.
struct Started {
    pid: Pid,
    began: Instant,
    /// The same moment by the wall clock.
    began_at: SystemTime,
}

impl Labs<'_> {
    /// One boot of this row, and its floor.
    pub(crate) fn run(&self, row: &Row) -> Result<Run> {
        let lab = if row.waiting == Waiting::Nothing { &self.fast } else { &self.slow };
        let node = lab.launch(GROUP)?;
        let bare = floor::bare(&self.fast, &node.machine, row, self.disk_bytes)?;
        let volumes = floor::make_volumes(lab, row, self.disk_bytes)?;
        let old = if row.waiting == Waiting::Replaced { Some(leave(lab, &volumes)?) } else { None };
        node.write(CONFIG, config::node(GROUP, &volumes, row.file_system, row.files))?;
        node.write(SCRIPT, HOOKS)?;
        let boot = Boot { lab, row, node, volumes, log: lab.sandbox.dir().join("agent.log") };
        let run = boot.measure(bare)?;
        if let Some(old) = old {
            old.wait()?;
        }
        boot.end()?;
        Ok(run)
    }
}

/// Another instance has the volumes, and is shutting down.
fn leave(lab: &Lab<'_>, volumes: &[VolumeId]) -> Result<Gone> {
    let old = lab.sandbox.launch(&lab.sim, InstanceSpec::default())?;
    for (volume, letter) in volumes.iter().zip(0..) {
        lab.sim.attach(volume, &old.id, &device_name(letter))?;
    }
    for volume in volumes {
        lab.attached(volume, &old.id)?;
    }
    Ok(old.terminate()?)
}

impl Boot<'_> {
    fn measure(&self, bare: Duration) -> Result<Run> {
        let Boot { lab, node, row, .. } = self;
        let events_before = lab.sim.events().len();
        let started = self.start()?;
        let (told, mounted) = self.wait_for_continue(&started);
        // The peak only grows, and all but the reading of the last answer is behind the agent by now.
        let peak_own = memory(started.pid, "VmHWM:");
        let usage = Usage::wait_for(started.pid)?;
        let to_exit = millis(started.began.elapsed());
        let (Ok(told), true) = (told, usage.succeeded) else {
            return Err(format!("{}: the agent failed:\n{}", row.name(), fs::read_to_string(&self.log)?).into());
        };
        let since = |t: f64| (node.log_began + Duration::from_secs_f64(t)).saturating_duration_since(started.began);
        let waits = row.waiting == Waiting::Replaced;
        let free = if waits { since(lab.free(&self.volumes[0])?) } else { Duration::ZERO };
        Ok(Run {
            to_continue: millis(since(told)),
            to_exit,
            bare: millis(bare),
            floor: millis(floor::floor(&lab.latencies, free, bare)),
            cpu_own: millis(usage.own),
            cpu_all: millis(usage.all),
            // If the agent ended before it could be asked: a safe upper bound.
            peak_own: peak_own.unwrap_or(usage.peak_largest),
            calls: self.calls_since(events_before),
            moments: self.moments(&started, mounted, |t| millis(since(t)))?,
        })
    }

    fn start(&self) -> Result<Started> {
        let mut command = self.node.agent(&["run", "--once"]);
        command.stdout(File::create(&self.log)?).stderr(File::options().append(true).open(&self.log)?);
        let (began, began_at) = (Instant::now(), SystemTime::now());
        // Waited for later by wait4(2), which also returns its resource usage.
        let pid = Pid::from_raw(command.spawn()?.id().try_into()?);
        Ok(Started { pid, began, began_at })
    }

    /// When Auto Scaling was told, by the log's clock; and when the volumes were seen mounted, in the rows that wait: looking costs
    /// processor time.
    fn wait_for_continue(&self, started: &Started) -> (Result<f64>, Option<Instant>) {
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let is_watched = self.row.waiting != Waiting::Nothing;
            let watcher = is_watched.then(|| scope.spawn(|| self.watch_mounts(started.pid, &ended)));
            let told = self.lab.wait("CONTINUE", |what| {
                matches!(what, What::Api(call) if call.action == "autoscaling:CompleteLifecycleAction"
                    && call.done && call.caller.as_deref() == Some(self.node.id.as_str()))
            });
            ended.store(true, Ordering::SeqCst);
            (told.map(|event| event.t), watcher.and_then(|watcher| watcher.join().ok().flatten()))
        })
    }

    /// The first moment at which all volumes are seen mounted.
    fn watch_mounts(&self, pid: Pid, ended: &AtomicBool) -> Option<Instant> {
        let paths: Vec<String> = (0..self.volumes.len()).map(|number| format!(" {} ", mount_path(number))).collect();
        while !ended.load(Ordering::SeqCst) {
            let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            if paths.iter().all(|path| mounts.contains(path.as_str())) {
                return Some(Instant::now());
            }
            thread::sleep(Duration::from_millis(2));
        }
        None
    }

    fn moments(
        &self,
        started: &Started,
        mounted: Option<Instant>,
        since: impl Fn(f64) -> f64,
    ) -> Result<Option<Moments>> {
        let Some(mounted) = mounted else { return Ok(None) };
        let (mut device, mut attached) = (0.0_f64, 0.0_f64);
        for volume in &self.volumes {
            let appeared = self.lab.wait("device", |what| {
                matches!(what, What::Device(change) if change.id == volume.as_str()
                    && change.instance == self.node.id.as_str() && change.state == "appeared")
            })?;
            device = device.max(appeared.t);
            attached = attached.max(self.lab.attached(volume, &self.node.id)?);
        }
        let hooks = Duration::from_secs_f64(self.node.machine.read(HOOKS_BEGAN)?.trim().parse()?);
        let hooks = (SystemTime::UNIX_EPOCH + hooks).duration_since(started.began_at)?;
        Ok(Some(Moments {
            device: since(device),
            mounted: millis(mounted.duration_since(started.began)),
            hooks: millis(hooks),
            attached: since(attached),
        }))
    }

    fn calls_since(&self, before: usize) -> BTreeMap<String, usize> {
        let ours = |id: &Option<String>| id.as_deref() == Some(self.node.id.as_str());
        let mut calls = BTreeMap::new();
        for event in &self.lab.sim.events()[before..] {
            let action = match &event.what {
                What::Api(call) if ours(&call.caller) => call.action.clone(),
                What::Imds(call) if ours(&call.instance) => METADATA.to_owned(),
                _ => continue,
            };
            *calls.entry(action).or_insert(0) += 1;
        }
        calls
    }

    fn end(self) -> Result<()> {
        let Boot { lab, node, volumes, .. } = self;
        node.terminate()?.wait()?;
        floor::remove_volumes(lab, &volumes)
    }
}

/// Stands for all calls of the metadata service.
pub(crate) const METADATA: &str = "imds";
