//! What the service costs: one that holds a failed node, and one on a node in service.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ec2_sim::sandbox::{Node, Sandbox};
use ec2_sim::{GroupSpec, HookSpec, VolumeId, VolumeSpec, What};
use nix::unistd::Pid;

use crate::Result;
use crate::config::{self, CONFIG, HOOKS, SCRIPT, both_hooks, launch_hook};
use crate::lab::{Lab, STUCK};
use crate::measured::{Figure, Section, number};
use crate::usage::{memory, millis, processor_time};

/// AWS's shortest heartbeat timeout.
const SHORTEST: Duration = Duration::from_secs(30);
/// The size of the disks.
const DISK_BYTES: u64 = 1 << 30;

/// What a node in service asks the metadata service every five seconds.
const POLLED: [&str; 2] = ["/autoscaling/target-lifecycle-state", "/spot/instance-action"];

/// An agent in the background.
pub(crate) struct Service {
    pub(crate) child: Child,
    pub(crate) log: PathBuf,
}

impl Service {
    pub(crate) fn start(sandbox: &Sandbox, node: &Node, name: &str) -> Result<Self> {
        let log = sandbox.dir().join(format!("{name}-{}.log", node.id));
        let mut command = node.agent(&["run"]);
        let child = command.stdout(File::create(&log)?).stderr(File::options().append(true).open(&log)?).spawn()?;
        Ok(Service { child, log })
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(self.child.id().try_into()?))
    }

    pub(crate) fn wait_for(&self, text: &str) -> Result<()> {
        let began = Instant::now();
        loop {
            let log = fs::read_to_string(&self.log)?;
            if log.contains(text) {
                return Ok(());
            }
            if began.elapsed() > STUCK {
                return Err(format!("the agent has not logged {text:?}:\n{log}").into());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn end(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// A node of a new group, with a volume and a script.
fn place(lab: &Lab<'_>, group: &str, hooks: Vec<HookSpec>, script: &str) -> Result<(Node, VolumeId)> {
    lab.sim.create_group(GroupSpec { name: group.to_owned(), hooks, ..GroupSpec::default() })?;
    let node = lab.launch(group)?;
    let volume = lab.sim.create_volume(VolumeSpec { size_bytes: DISK_BYTES, ..VolumeSpec::default() })?;
    node.write(SCRIPT, script)?;
    Ok((node, volume))
}

/// What the service costs that holds a failed node, and how fast `status` tells of it. The hook's timeout is the shortest that
/// Auto Scaling has, so that there are as many heartbeats as there can be.
pub(crate) fn hold(lab: &Lab<'_>, runs: usize, idle: Duration) -> Result<Vec<Section>> {
    let group = "held";
    let hook = HookSpec { heartbeat_timeout: SHORTEST, ..launch_hook() };
    let (node, volume) = place(lab, group, vec![hook], &HOOKS.replace("{ :; }", "{ false; }"))?;
    node.write(CONFIG, config::node(group, &[volume], "xfs", 0))?;
    let mut service = Service::start(lab.sandbox, &node, group)?;
    service.wait_for("held for")?;

    let pid = service.pid()?;
    let before = processor_time(pid)?;
    thread::sleep(idle);
    let share = processor_time(pid)?.saturating_sub(before).as_secs_f64() / idle.as_secs_f64() * 100.0;
    let beats = lab.sim.events().calls("autoscaling:RecordLifecycleActionHeartbeat").len();
    let held = Section {
        title: format!("Holding a failed node, for {} s with {beats} heartbeats", idle.as_secs()),
        figures: vec![
            Figure::new("processor time", "%", [share]).aim(0.1),
            Figure::new("resident memory", "MiB", [memory(pid, "VmRSS:")?]).aim(20.0),
            Figure::new("peak memory", "MiB", [memory(pid, "VmHWM:")?]),
        ],
    };
    let mut times = Vec::new();
    for _ in 0..runs.max(2) * 2 {
        let mut status = node.agent(&["status"]);
        let began = Instant::now();
        let code = status.stdout(Stdio::null()).stderr(Stdio::null()).status()?.code();
        times.push(millis(began.elapsed()));
        if code != Some(1) {
            return Err(format!("status ended with {code:?}").into());
        }
    }
    let status = Section {
        title: "`node-agent status` on that node".to_owned(),
        figures: vec![Figure::new("from its start to its end", "ms", times).aim(10.0)],
    };
    service.end()?;
    node.terminate()?.wait()?;
    Ok(vec![held, status])
}

/// What was seen of a node in service over some time.
struct Watched {
    minutes: f64,
    share: f64,
    descriptors: Vec<f64>,
}

/// What the service costs on a node in service, which can be told to go.
pub(crate) fn steady(lab: &Lab<'_>, watched: Duration) -> Result<Section> {
    let group = "steady";
    let (node, volume) = place(lab, group, both_hooks(), HOOKS)?;
    node.write(CONFIG, config::leaving(group, &volume, false))?;
    let mut service = Service::start(lab.sandbox, &node, group)?;
    service.wait_for("result=done")?;
    // Past what follows the boot.
    thread::sleep(Duration::from_secs(10));

    let pid = service.pid()?;
    let before = lab.sim.events().len();
    let Watched { minutes, share, descriptors } = watch(pid, watched)?;
    let (mut polls, mut beyond, mut others) = (0, 0, 0);
    for event in &lab.sim.events()[before..] {
        match &event.what {
            What::Imds(call) if POLLED.iter().any(|path| call.action.ends_with(path)) => polls += 1,
            What::Imds(_) => beyond += 1,
            What::Api(_) => others += 1,
            _ => {}
        }
    }
    let a_minute = |count: usize| [number(count) / minutes];
    let section = Section {
        title: format!("A node in service, for {:.0} s", minutes * 60.0),
        figures: vec![
            Figure::new("processor time", "%", [share]).aim(0.02),
            Figure::new("resident memory", "MiB", [memory(pid, "VmRSS:")?]).aim(12.0),
            Figure::new("of it not of the binary's file", "MiB", [memory(pid, "RssAnon:")?]),
            Figure::new("peak memory", "MiB", [memory(pid, "VmHWM:")?]),
            Figure::new("polls of the metadata service, two each 5 s", "/min", a_minute(polls)),
            Figure::new("its other calls", "/min", a_minute(beyond)).aim(2.0),
            Figure::new("calls of other services", "/min", a_minute(others)),
            Figure::new("open file descriptors", "", descriptors),
        ],
    };
    service.end()?;
    node.terminate()?.wait()?;
    Ok(section)
}

fn watch(pid: Pid, watched: Duration) -> Result<Watched> {
    let open = || -> Result<f64> { Ok(number(fs::read_dir(format!("/proc/{pid}/fd"))?.count())) };
    let (before, began) = (processor_time(pid)?, Instant::now());
    let mut descriptors = vec![open()?];
    while began.elapsed() < watched {
        thread::sleep(Duration::from_secs(1).min(watched.saturating_sub(began.elapsed())));
        descriptors.push(open()?);
    }
    let seconds = began.elapsed().as_secs_f64();
    let share = processor_time(pid)?.saturating_sub(before).as_secs_f64() / seconds * 100.0;
    Ok(Watched { minutes: seconds / 60.0, share, descriptors })
}
