//! `make bench`: what the agent costs over bare mkfs and mount, where there is nothing to wait for; what the service costs
//! that holds a failed node; how fast `status` answers; what the service costs on a node in service; how soon a replacement has
//! the volume of a node that goes.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use ec2_sim::sandbox::{self, Sandbox};
use ec2_sim::{
    ActionResult, Event, GroupSpec, HookSpec, InstanceId, InstanceSpec, Latencies, Sim, SimConfig, Spread, Transition,
    VolumeId, VolumeSpec, What,
};
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount, umount};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::time::ClockId;
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Measures the agent named by `NODE_AGENT`.
#[derive(Debug, Parser)]
struct Arguments {
    /// Runs for each filesystem
    #[arg(long, default_value_t = 15)]
    runs: usize,
    /// The disk's size
    #[arg(long, default_value_t = 8)]
    gib: u64,
    /// How long the service that holds a node is watched
    #[arg(long, default_value_t = 60)]
    idle_seconds: u64,
    /// How long the service on a node in service is watched
    #[arg(long, default_value_t = 600)]
    steady_seconds: u64,
    /// Departures with, and as many without, `detach_on_terminate`
    #[arg(long, default_value_t = 5)]
    departures: usize,
    /// How long EC2 takes to shut an instance down in these
    #[arg(long, default_value_t = 30)]
    shutting_down_seconds: u64,
    /// Measures the node in service and the departures alone
    #[arg(long)]
    only_later: bool,
}

const GROUP: &str = "bench";
const HOOK: &str = "bench-hook";
const HELD: &str = "held";
const TERMINATE_HOOK: &str = "bench-terminate-hook";
/// AWS's shortest heartbeat timeout.
const SHORTEST: Duration = Duration::from_secs(30);
/// An answer that takes longer never comes.
const STUCK: Duration = Duration::from_secs(30);

const HOOKS: &str = "configure_cluster_node() { :; }\nwait_for_healthy_cluster() { :; }\n";

/// The filesystems with the options that the agent gives to mkfs (agent/host/filesystem.rs).
const FILESYSTEMS: [(&str, &[&str]); 2] =
    [("xfs", &["-q", "-K"]), ("ext4", &["-q", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"])];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    sandbox::enter(|sandbox| match measure_all(sandbox, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    })
}

fn measure_all(sandbox: &Sandbox, arguments: &Arguments) -> Result<()> {
    let Arguments { runs, gib, .. } = *arguments;
    if runs == 0 || gib == 0 || arguments.departures == 0 {
        return Err("--runs, --gib and --departures are at least 1".into());
    }
    let world = World::new(sandbox, gib << 30)?;
    world.describe(runs)?;
    if !arguments.only_later {
        for (file_system, options) in FILESYSTEMS {
            world.run(file_system, options)?;
            let mut measured = Vec::new();
            for _ in 0..runs {
                measured.push(world.run(file_system, options)?);
            }
            report(file_system, &measured);
        }
        world.hold(runs, Duration::from_secs(arguments.idle_seconds))?;
    }
    world.steady(Duration::from_secs(arguments.steady_seconds))?;
    handovers(sandbox, arguments)
}

/// What one run came to. Times in milliseconds.
struct Run {
    to_continue: f64,
    to_exit: f64,
    bare: f64,
    cpu_own: f64,
    cpu_all: f64,
    /// In MiB.
    peak_own: f64,
    /// In MiB.
    peak_largest: f64,
    calls: BTreeMap<String, usize>,
}

struct World<'a> {
    sandbox: &'a Sandbox,
    sim: Sim,
    /// Has the disk while the bare programs are measured.
    other: InstanceId,
    size_bytes: u64,
}

impl World<'_> {
    fn new(sandbox: &Sandbox, size_bytes: u64) -> Result<World<'_>> {
        let config =
            SimConfig { work_dir: sandbox.dir().join("aws"), latencies: Latencies::none(), ..SimConfig::default() };
        let sim = Sim::start_blocking(config)?;
        let hook = HookSpec { name: HOOK.to_owned(), ..HookSpec::default() };
        sim.create_group(GroupSpec { name: GROUP.to_owned(), hooks: vec![hook], ..GroupSpec::default() })?;
        let other = sim.launch(InstanceSpec { by_id_dir: sandbox.dir().join("other"), ..InstanceSpec::default() })?;
        Ok(World { sandbox, sim, other, size_bytes })
    }

    /// The agent and the machine that are measured.
    fn describe(&self, runs: usize) -> Result<()> {
        let agent = &self.sandbox.agent;
        let profile = agent
            .components()
            .rev()
            .filter_map(|part| part.as_os_str().to_str())
            .find(|part| matches!(*part, "debug" | "release" | "dist"))
            .unwrap_or("unknown");
        let version = Command::new(agent).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        println!(
            "{}, {} ({} KiB, profile by its folder: {profile})\n\
             {runs} runs for each filesystem after one to warm up; {} processors, Linux {}; disk: {} GiB, a loop device in memory.\n\
             Each run: bare mkfs and mount(2), then the agent on the same disk, blank again. Nothing to wait for, empty hooks.",
            String::from_utf8_lossy(&version).trim(),
            agent.display(),
            fs::metadata(agent)?.len() >> 10,
            sysconf(SysconfVar::_NPROCESSORS_ONLN)?.unwrap_or_default(),
            kernel.trim(),
            self.size_bytes >> 30,
        );
        Ok(())
    }

    fn run(&self, file_system: &str, options: &[&str]) -> Result<Run> {
        let node = self
            .sandbox
            .launch(&self.sim, InstanceSpec { group: Some(GROUP.to_owned()), ..InstanceSpec::default() })?;
        let volume = self.sim.create_volume(VolumeSpec { size_bytes: self.size_bytes, ..VolumeSpec::default() })?;
        let bare = self.bare(&node, &volume, file_system, options)?;
        node.write("/etc/node-agent/config.toml", config(&volume, file_system))?;
        node.write("/usr/local/lib/node/hooks.sh", HOOKS)?;
        self.wait("Pending:Wait", |what| {
            matches!(what, What::Lifecycle(change) if change.instance == node.id.as_str() && change.to == "Pending:Wait")
        })?;

        let before = self.sim.events().len();
        let log = self.sandbox.dir().join("agent.log");
        let mut command = node.agent(&["run", "--once"]);
        command.stdout(File::create(&log)?).stderr(File::create(&log)?);
        let began = Instant::now();
        // Waited for below by wait4(2), which also returns its resource usage.
        let pid = Pid::from_raw(command.spawn()?.id().try_into()?);
        let told = self.wait("CONTINUE", |what| {
            matches!(what, What::Api(call) if call.action == "autoscaling:CompleteLifecycleAction"
                && call.done && call.caller.as_deref() == Some(node.id.as_str()))
        });
        // The peak only grows, and all but the last answer's reading is behind the agent by now.
        let peak_own = peak_memory(pid);
        let usage = Usage::wait_for(pid)?;
        let to_exit = millis(began.elapsed());
        let (Ok(told), true) = (told, usage.succeeded) else {
            return Err(format!("the agent failed:\n{}", fs::read_to_string(&log)?).into());
        };
        let told = node.log_began + Duration::from_secs_f64(told.t);
        let run = Run {
            to_continue: millis(told.saturating_duration_since(began)),
            to_exit,
            bare: millis(bare),
            cpu_own: millis(usage.own),
            cpu_all: millis(usage.all),
            // If the agent ended before it could be asked: a safe upper bound.
            peak_own: peak_own.unwrap_or(usage.peak_largest),
            peak_largest: usage.peak_largest,
            calls: self.calls_since(before, &node.id),
        };
        let backing_file = self.sim.volume_state(&volume)?.backing_file;
        node.terminate()?.wait()?;
        fs::remove_file(backing_file)?;
        Ok(run)
    }

    /// What the service costs that holds a failed node, and how fast `status` tells of it. The hook's timeout is the
    /// shortest that Auto Scaling has, so that there are as many heartbeats as there can be.
    fn hold(&self, runs: usize, idle: Duration) -> Result<()> {
        let hook = HookSpec { name: HOOK.to_owned(), heartbeat_timeout: SHORTEST, ..HookSpec::default() };
        self.sim.create_group(GroupSpec { name: HELD.to_owned(), hooks: vec![hook], ..GroupSpec::default() })?;
        let node =
            self.sandbox.launch(&self.sim, InstanceSpec { group: Some(HELD.to_owned()), ..InstanceSpec::default() })?;
        let volume = self.sim.create_volume(VolumeSpec { size_bytes: self.size_bytes, ..VolumeSpec::default() })?;
        node.write(
            "/etc/node-agent/config.toml",
            config(&volume, "xfs").replace(&format!("asg_name = \"{GROUP}\""), &format!("asg_name = \"{HELD}\"")),
        )?;
        node.write("/usr/local/lib/node/hooks.sh", HOOKS.replace("{ :; }", "{ false; }"))?;
        let log = self.sandbox.dir().join("held.log");
        let mut command = node.agent(&["run"]);
        let mut service = command.stdout(File::create(&log)?).stderr(File::create(&log)?).spawn()?;
        let pid = Pid::from_raw(service.id().try_into()?);
        let began = Instant::now();
        while !fs::read_to_string(&log)?.contains("held for") {
            if began.elapsed() > STUCK {
                return Err(format!("the node is not held:\n{}", fs::read_to_string(&log)?).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let used = || -> Result<Duration> { Ok(ClockId::pid_cpu_clock_id(pid)?.now()?.into()) };
        let before = used()?;
        std::thread::sleep(idle);
        let share = used()?.saturating_sub(before).as_secs_f64() / idle.as_secs_f64() * 100.0;
        let beats = self.sim.events().calls("autoscaling:RecordLifecycleActionHeartbeat").len();
        println!(
            "\nholding a node for {} s ({beats} heartbeats)\n  {:<44}{share:>9.3} %   aim: under 0.1\n  {:<44}{:>9.2} MiB aim: under 20\n  {:<44}{:>9.2} MiB",
            idle.as_secs(),
            "processor time",
            "resident memory",
            memory(pid, "VmRSS:")?,
            "peak memory",
            memory(pid, "VmHWM:")?,
        );
        let mut times = Vec::new();
        for _ in 0..runs.max(2) * 2 {
            let mut status = node.agent(&["status"]);
            let began = Instant::now();
            let code = status.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status()?.code();
            times.push(millis(began.elapsed()));
            if code != Some(1) {
                return Err(format!("status ended with {code:?}").into());
            }
        }
        println!("\n{:<46}{:>9}{:>10}{:>10}", "status", "median", "min", "max");
        line("from its start to its end", "ms", "aim: under 10", times);
        service.kill()?;
        service.wait()?;
        node.terminate()?.wait()?;
        Ok(())
    }

    /// What the service costs on a node in service, which can be told to go.
    fn steady(&self, watched: Duration) -> Result<()> {
        let group = "steady";
        self.sim.create_group(GroupSpec { name: group.to_owned(), hooks: both_hooks(), ..GroupSpec::default() })?;
        let node = self
            .sandbox
            .launch(&self.sim, InstanceSpec { group: Some(group.to_owned()), ..InstanceSpec::default() })?;
        let volume = self.sim.create_volume(VolumeSpec { size_bytes: self.size_bytes, ..VolumeSpec::default() })?;
        node.write("/etc/node-agent/config.toml", leaving_config(&volume, group, false))?;
        node.write("/usr/local/lib/node/hooks.sh", HOOKS)?;
        let mut service = Service::start(self.sandbox, &node, "steady", &["run"])?;
        service.wait_for("result=done")?;
        // Past what follows the boot.
        std::thread::sleep(Duration::from_secs(10));

        let pid = service.pid()?;
        let used = || -> Result<Duration> { Ok(ClockId::pid_cpu_clock_id(pid)?.now()?.into()) };
        let descriptors = || -> Result<usize> { Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count()) };
        let (events, before, began) = (self.sim.events().len(), used()?, Instant::now());
        let mut open = vec![descriptors()?];
        while began.elapsed() < watched {
            std::thread::sleep(Duration::from_secs(1).min(watched.saturating_sub(began.elapsed())));
            open.push(descriptors()?);
        }
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        let share = used()?.saturating_sub(before).as_secs_f64() / (minutes * 60.0) * 100.0;
        let (mut polls, mut beyond, mut others) = (0_u32, 0_u32, 0_u32);
        for event in &self.sim.events()[events..] {
            match &event.what {
                What::Imds(call) if POLLED.iter().any(|path| call.action.ends_with(path)) => polls += 1,
                What::Imds(_) => beyond += 1,
                What::Api(_) => others += 1,
                _ => {}
            }
        }
        println!("\na node in service for {} s", began.elapsed().as_secs());
        let figure = |what: &str, value: String, aim: &str| println!("  {what:<44}{value:>14}   {aim}");
        figure("processor time", format!("{share:.3} %"), "aim: at most 0.02");
        figure("resident memory", format!("{:.2} MiB", memory(pid, "VmRSS:")?), "aim: at most 12");
        figure("of it not of the binary's file", format!("{:.2} MiB", memory(pid, "RssAnon:")?), "");
        figure("peak memory", format!("{:.2} MiB", memory(pid, "VmHWM:")?), "");
        figure("polls of the metadata service", format!("{:.1} /min", f64::from(polls) / minutes), "two each 5 s");
        figure("its other calls", format!("{:.1} /min", f64::from(beyond) / minutes), "aim: at most 2");
        figure("calls of other services", format!("{:.1} /min", f64::from(others) / minutes), "");
        let (least, most) = (open.iter().min().copied().unwrap_or(0), open.iter().max().copied().unwrap_or(0));
        figure("open file descriptors", format!("{least} to {most}"), "aim: constant");
        service.end()?;
        node.terminate()?.wait()?;
        Ok(())
    }

    /// What a script could not do without: mkfs as the agent calls it, and the mount itself.
    fn bare(&self, node: &sandbox::Node, volume: &VolumeId, file_system: &str, options: &[&str]) -> Result<Duration> {
        self.sim.attach(volume, &self.other, "/dev/sdf")?;
        self.wait(
            "a device",
            |what| matches!(what, What::Device(change) if change.id == volume.as_str() && change.state == "appeared"),
        )?;
        let device = self.sim.device(volume, &self.other).ok_or("the device went away")?;
        let mut mkfs = node.machine.command(format!("mkfs.{file_system}"));
        mkfs.args(options).arg(&device).env("LC_ALL", "C");
        let mount_point = Path::new("/mnt");
        let began = Instant::now();
        let made = mkfs.status()?;
        let making = began.elapsed();
        if !made.success() {
            return Err(format!("mkfs.{file_system}: {made}").into());
        }
        let mounting = node.machine.inside(|| -> nix::Result<Duration> {
            let began = Instant::now();
            mount(Some(&device), mount_point, Some(file_system), MsFlags::MS_NOATIME, None::<&str>)?;
            let mounting = began.elapsed();
            umount(mount_point)?;
            Ok(mounting)
        })??;
        // Blank again, as the agent wants it.
        node.shell(format!("blkdiscard {}", device.display()))?;
        self.sim.detach(volume, &self.other)?;
        self.wait("a free volume", |what| {
            matches!(what, What::Volume(change) if change.id == volume.as_str()
                && change.attachment.as_deref() == Some("detached"))
        })?;
        Ok(making + mounting)
    }

    fn wait(&self, for_what: &str, wanted: impl Fn(&What) -> bool) -> Result<Event> {
        let event = self.sim.wait_for_blocking(|event| wanted(&event.what), STUCK);
        event.ok_or_else(|| format!("no {for_what} within {} s", STUCK.as_secs()).into())
    }

    fn calls_since(&self, before: usize, instance: &InstanceId) -> BTreeMap<String, usize> {
        let ours = |id: &Option<String>| id.as_deref() == Some(instance.as_str());
        let mut calls = BTreeMap::new();
        for event in &self.sim.events()[before..] {
            let action = match &event.what {
                What::Api(call) if ours(&call.caller) => call.action.clone(),
                What::Imds(call) if ours(&call.instance) => METADATA.to_owned(),
                _ => continue,
            };
            *calls.entry(action).or_insert(0) += 1;
        }
        calls
    }
}

/// What a node in service asks the metadata service every five seconds.
const POLLED: [&str; 2] = ["/autoscaling/target-lifecycle-state", "/spot/instance-action"];

/// A launch hook and a termination hook.
fn both_hooks() -> Vec<HookSpec> {
    let launch = HookSpec { name: HOOK.to_owned(), ..HookSpec::default() };
    let terminate = HookSpec {
        name: TERMINATE_HOOK.to_owned(),
        transition: Transition::Terminating,
        default_result: ActionResult::Continue,
        ..HookSpec::default()
    };
    vec![launch, terminate]
}

/// The configuration of a node that can be told to go.
fn leaving_config(volume: &VolumeId, group: &str, detaches: bool) -> String {
    let hook = format!("hook_name = \"{HOOK}\"");
    config(volume, "xfs")
        .replace(&format!("asg_name = \"{GROUP}\""), &format!("asg_name = \"{group}\""))
        .replace(&hook, &format!("{hook}\nterminate_hook_name = \"{TERMINATE_HOOK}\""))
        .replace("[[volume]]\n", &format!("[[volume]]\ndetach_on_terminate = {detaches}\n"))
}

/// An agent in the background.
struct Service {
    child: Child,
    log: PathBuf,
}

impl Service {
    fn start(sandbox: &Sandbox, node: &sandbox::Node, name: &str, arguments: &[&str]) -> Result<Self> {
        let log = sandbox.dir().join(format!("{name}-{}.log", node.id));
        let mut command = node.agent(arguments);
        let child = command.stdout(File::create(&log)?).stderr(File::options().append(true).open(&log)?).spawn()?;
        Ok(Service { child, log })
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(self.child.id().try_into()?))
    }

    fn wait_for(&self, text: &str) -> Result<()> {
        let began = Instant::now();
        loop {
            let log = fs::read_to_string(&self.log)?;
            if log.contains(text) {
                return Ok(());
            }
            if began.elapsed() > STUCK {
                return Err(format!("the agent has not logged {text:?}:\n{log}").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// What EC2 takes its time for. AWS documents none of these.
fn real_latencies(shutting_down: Duration) -> Latencies {
    Latencies {
        attach: Duration::from_secs(2),
        device: Duration::from_secs(2),
        detach: Duration::from_secs(3),
        shutting_down,
        interface: None,
        pending_to_wait: Duration::from_secs(1),
        proceed_to_in_service: Duration::from_secs(1),
        terminating_to_wait: Spread::from(Duration::from_secs(1)),
        notice: Spread::default(),
        target_state: Spread::from(Duration::from_secs(2)),
        api: Duration::from_millis(50),
    }
}

/// Seconds from the order to go: until a replacement that waits for the volume has it; until the network interface is free,
/// without which a group of one launches no replacement; until a replacement that is launched then has the volume.
#[derive(Clone, Copy)]
struct Handover {
    waiting: f64,
    interface: f64,
    launched: f64,
}

fn handovers(sandbox: &Sandbox, arguments: &Arguments) -> Result<()> {
    let latencies = real_latencies(Duration::from_secs(arguments.shutting_down_seconds));
    println!(
        "\nhandovers, in seconds from the order to go; empty hooks, no [cluster]; EC2 attaches in {} s, detaches in {} s, shuts \
         down in {} s",
        latencies.attach.as_secs(),
        latencies.detach.as_secs(),
        latencies.shutting_down.as_secs(),
    );
    let config = SimConfig { work_dir: sandbox.dir().join("handovers"), latencies, ..SimConfig::default() };
    let sim = Sim::start_blocking(config)?;
    let mut medians = Vec::new();
    for detaches in [true, false] {
        let mut measured = Vec::new();
        for number in 0..arguments.departures {
            let group = format!("handover-{detaches}-{number}");
            let waiting = handover(sandbox, &sim, &group, detaches, true)?;
            let launched = handover(sandbox, &sim, &format!("{group}-later"), detaches, false)?;
            measured.push(Handover { launched: launched.launched, ..waiting });
        }
        println!("\n{:<46}{:>9}{:>10}{:>10}", format!("detach_on_terminate = {detaches}"), "median", "min", "max");
        let values = |of: fn(&Handover) -> f64| measured.iter().map(of).collect::<Vec<_>>();
        line("a replacement that waits has the volume", "s", "", values(|it| it.waiting));
        line("the network interface is free", "s", "", values(|it| it.interface));
        line("a replacement launched then has the volume", "s", "", values(|it| it.launched));
        medians.push([median(values(|it| it.waiting)), median(values(|it| it.launched))]);
    }
    if let [with, without] = medians.as_slice() {
        println!(
            "\nratio, with by without detach_on_terminate\n  {:<44}{:>9.2}\n  {:<44}{:>9.2}",
            "a replacement that waits",
            with[0] / without[0],
            "a replacement launched later",
            with[1] / without[1],
        );
    }
    Ok(())
}

/// One handover. The replacement waits from the start, or is launched once the old instance's network interface is free.
fn handover(sandbox: &Sandbox, sim: &Sim, group: &str, detaches: bool, waits: bool) -> Result<Handover> {
    // The groups stand for one: the simulator gives a replacement of the same group the old one's address only after its end.
    let place = |name: &str| -> Result<sandbox::Node> {
        sim.create_group(GroupSpec { name: name.to_owned(), hooks: both_hooks(), ..GroupSpec::default() })?;
        Ok(sandbox.launch(sim, InstanceSpec { group: Some(name.to_owned()), ..InstanceSpec::default() })?)
    };
    let volume = sim.create_volume(VolumeSpec { size_bytes: 1 << 30, ..VolumeSpec::default() })?;
    let begin = |node: &sandbox::Node, group: &str| -> Result<Service> {
        node.write("/etc/node-agent/config.toml", leaving_config(&volume, group, detaches))?;
        node.write("/usr/local/lib/node/hooks.sh", HOOKS)?;
        Service::start(sandbox, node, group, &["run"])
    };
    let old = place(group)?;
    let mut service = begin(&old, group)?;
    service.wait_for("result=done")?;
    let next = format!("{group}-next");
    let mut replacement = None;
    if waits {
        let node = place(&next)?;
        let waiting = begin(&node, &next)?;
        waiting.wait_for(&format!("is attached to {}", old.id))?;
        replacement = Some((node, waiting));
    }

    sim.terminate_in_group(&old.id)?;
    let ordered = found(
        sim,
        |what| matches!(what, What::Lifecycle(change) if change.instance == old.id.as_str() && change.to == "Terminating"),
    )?;
    let gone = found(
        sim,
        |what| matches!(what, What::Instance(change) if change.id == old.id.as_str() && change.to == "terminated"),
    )?;
    let (node, mut successor) = if let Some(replacement) = replacement {
        replacement
    } else {
        let node = place(&next)?;
        let successor = begin(&node, &next)?;
        (node, successor)
    };
    let has = found(sim, |what| {
        matches!(what, What::Volume(change) if change.id == volume.as_str()
            && change.attachment.as_deref() == Some("attached") && change.instance.as_deref() == Some(node.id.as_str()))
    })?;
    successor.wait_for("result=done")?;
    let left = service.child.wait()?;
    if !left.success() {
        return Err(format!("the departure failed ({left}):\n{}", fs::read_to_string(&service.log)?).into());
    }
    successor.end()?;
    drop(old);
    node.terminate()?;
    let taken = has - ordered;
    Ok(Handover { waiting: taken, interface: gone - ordered, launched: taken })
}

/// When this happened, which may be a while from now.
fn found(sim: &Sim, wanted: impl Fn(&What) -> bool) -> Result<f64> {
    let event = sim.wait_for_blocking(|event| wanted(&event.what), STUCK * 10);
    Ok(event.ok_or("it has not happened")?.t)
}

/// Stands for all calls of the metadata service.
const METADATA: &str = "metadata service";

fn config(volume: &VolumeId, file_system: &str) -> String {
    format!(
        r#"
[node]
id = "00"
ip = "10.0.1.10"
[lifecycle]
asg_name = "{GROUP}"
hook_name = "{HOOK}"
[[volume]]
id = "{volume}"
mount_path = "/mydata"
file_system = "{file_system}"
mount_options = ["noatime"]
[hooks]
script = "/usr/local/lib/node/hooks.sh"
"#
    )
}

/// What a process used.
struct Usage {
    succeeded: bool,
    own: Duration,
    all: Duration,
    peak_largest: f64,
}

impl Usage {
    /// Waits for the end of a child. Its own processor time is read while it is a zombie; wait4(2) adds its children's.
    fn wait_for(pid: Pid) -> Result<Self> {
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
        let own = Duration::from(ClockId::pid_cpu_clock_id(pid)?.now()?);
        let mut status = 0;
        // SAFETY: rusage is a plain C struct of numbers, for which zero is a value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live values of the right types for the length of the call.
        let waited = unsafe { libc::wait4(pid.as_raw(), &raw mut status, 0, &raw mut usage) };
        Errno::result(waited)?;
        let time = |time: libc::timeval| -> Result<Duration> {
            Ok(Duration::from_secs(time.tv_sec.try_into()?) + Duration::from_micros(time.tv_usec.try_into()?))
        };
        Ok(Self {
            succeeded: status == 0,
            own,
            all: time(usage.ru_utime)? + time(usage.ru_stime)?,
            peak_largest: mebibytes(&usage.ru_maxrss.to_string())?,
        })
    }
}

/// The most memory that this process alone had resident so far, in MiB.
fn peak_memory(pid: Pid) -> Result<f64> {
    memory(pid, "VmHWM:")
}

/// A line of proc(5)'s status, in MiB.
fn memory(pid: Pid, what: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)).ok_or("the process has ended")?;
    mebibytes(line.trim().trim_end_matches(" kB"))
}

fn mebibytes(kibibytes: &str) -> Result<f64> {
    let kibibytes: u32 = kibibytes.parse().map_err(io::Error::other)?;
    Ok(f64::from(kibibytes) / 1024.0)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// One line of a table.
fn line(what: &str, unit: &str, aim: &str, values: Vec<f64>) {
    let (min, max) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), v| (min.min(*v), max.max(*v)));
    println!("  {what:<44}{:>9.2}{min:>10.2}{max:>10.2} {unit:<4}{aim}", median(values));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], values[middle]) } else { values[middle] }
}

fn report(file_system: &str, runs: &[Run]) {
    println!("\n{file_system:<46}{:>9}{:>10}{:>10}", "median", "min", "max");
    let line = |what: &str, unit: &str, aim: &str, value: &dyn Fn(&Run) -> f64| {
        line(what, unit, aim, runs.iter().map(value).collect());
    };
    line("agent, from its start to CONTINUE", "ms", "", &|run| run.to_continue);
    line("agent, from its start to its end", "ms", "", &|run| run.to_exit);
    line("bare mkfs and mount", "ms", "", &|run| run.bare);
    line("overhead: to CONTINUE minus bare", "ms", "aim: under 150", &|run| run.to_continue - run.bare);
    line("ratio: to CONTINUE by bare", "", "", &|run| run.to_continue / run.bare);
    line("processor time, the agent alone", "ms", "", &|run| run.cpu_own);
    line("processor time, with its children", "ms", "", &|run| run.cpu_all);
    line("peak memory, the agent alone", "MiB", "aim: at most 20", &|run| run.peak_own);
    line("peak memory, the largest of it and its children", "MiB", "", &|run| run.peak_largest);
    println!("  calls in a run:");
    let mut actions: Vec<_> = runs.iter().flat_map(|run| run.calls.keys()).collect();
    actions.sort();
    actions.dedup();
    for action in actions {
        let counts = || runs.iter().map(|run| run.calls.get(action).copied().unwrap_or_default());
        let (least, most) = (counts().min().unwrap_or_default(), counts().max().unwrap_or_default());
        let counts = if least == most { least.to_string() } else { format!("{least} to {most}") };
        println!("    {action:<42}{counts:>9}");
    }
}
