//! What every scenario needs: a simulated EC2, machines on which the real agent runs, and ways to inspect the result.
//!
//! All files of a test lie on a tmpfs in a mount namespace of the test's thread, so that nothing outlives the test, even when it is
//! killed.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each scenario uses its part")]

use std::fmt::Display;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use ec2_sim::machine::{Machine, RootDisk};
use ec2_sim::{Events, GroupSpec, HookSpec, InstanceId, InstanceSpec, Sim, SimConfig, VolumeId, VolumeSpec};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The node's address in every scenario.
pub const IP: &str = "10.0.1.10";
/// The group.
pub const GROUP: &str = "kafka-node-00";
/// The launch hook.
pub const HOOK: &str = "kafka-node-asg-hook";
/// The agent on this host, for tests without a [`World`], which may hide it: the binary that `NODE_AGENT` names, such as a static
/// release build, or else the one just built.
pub static AGENT: LazyLock<String> =
    LazyLock::new(|| std::env::var("NODE_AGENT").unwrap_or_else(|_| just_built().display().to_string()));
/// The agent on a machine.
pub const PROGRAM: &str = "/opt/under-test/node-agent";
/// The same file where packages install it, so that remedies name commands as they do on most nodes.
pub const INSTALLED: &str = "/usr/bin/node-agent";
/// Where a node's configuration is.
pub const CONFIG_PATH: &str = "/etc/node-agent/config.toml";
/// Where its hook script is.
pub const HOOKS_PATH: &str = "/usr/local/lib/node/hooks.sh";
/// What the simulator's https server is verified against.
pub const CA: &str = "/etc/ssl/simulator.pem";
/// A run that takes longer than this is stuck.
const STUCK: Duration = Duration::from_mins(3);

/// The agent that was built with this test. Cargo's target folder may have been moved since: then it is beside the test.
fn just_built() -> PathBuf {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_node-agent"));
    let test = std::env::current_exe().unwrap();
    let beside = test.parent().and_then(Path::parent).map(|dir| dir.join("node-agent"));
    beside.filter(|beside| beside.exists()).unwrap_or(built)
}

/// A tmpfs on /tmp for the scenario's files, visible to this thread and its children alone.
struct PrivateTmp;

impl PrivateTmp {
    const DIR: &str = "/tmp";
    /// The agent, wherever on the host it is.
    const AGENT: &str = "/tmp/node-agent";

    fn new() -> PrivateTmp {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace; the scenarios need root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        // Opened before the tmpfs hides it, because the target folder may be below /tmp. Where an earlier world of this thread hides it,
        // that world has a copy.
        let agent = File::open(AGENT.as_str()).or_else(|_| File::open(PrivateTmp::AGENT));
        let agent = agent.unwrap_or_else(|error| panic!("{}: {error}", AGENT.as_str()));
        let path = format!("/proc/self/fd/{}", agent.as_raw_fd());
        mount(Some("tmpfs"), PrivateTmp::DIR, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).unwrap();
        File::create(PrivateTmp::AGENT).unwrap();
        mount(Some(path.as_str()), PrivateTmp::AGENT, none, MsFlags::MS_BIND, none).unwrap();
        PrivateTmp
    }

    /// Boots a machine that has the agent.
    fn boot(disk: &RootDisk, by_id: &Path) -> Machine {
        let agent = Path::new(PrivateTmp::AGENT);
        Machine::boot_with(disk, by_id, &[(agent, Path::new(PROGRAM)), (agent, Path::new(INSTALLED))]).unwrap()
    }
}

impl Drop for PrivateTmp {
    fn drop(&mut self) {
        // The next world of this thread mounts its own; what is left ends with the namespace.
        let _ = umount2(PrivateTmp::DIR, MntFlags::MNT_DETACH);
    }
}

/// A simulated EC2 and the machines in it.
pub struct World {
    pub sim: Sim,
    /// Unmounted last.
    _tmp: PrivateTmp,
}

impl World {
    pub fn new() -> World {
        World::with(|_| {})
    }

    /// A world with other settings; its group has a launch hook that waits for an hour.
    pub fn with(change: impl FnOnce(&mut SimConfig)) -> World {
        World::with_hook(&HookSpec::default(), change)
    }

    pub fn with_hook(hook: &HookSpec, change: impl FnOnce(&mut SimConfig)) -> World {
        let tmp = PrivateTmp::new();
        let mut config = SimConfig { work_dir: Path::new(PrivateTmp::DIR).join("aws"), ..SimConfig::default() };
        change(&mut config);
        let sim = Sim::start_blocking(config).unwrap();
        let hook = HookSpec { name: HOOK.to_owned(), ..hook.clone() };
        sim.create_group(GroupSpec { name: GROUP.to_owned(), hooks: vec![hook], ..GroupSpec::default() }).unwrap();
        World { sim, _tmp: tmp }
    }

    pub fn dir(&self) -> &Path {
        Path::new(PrivateTmp::DIR)
    }

    pub fn volume(&self, gib: u64) -> VolumeId {
        self.sim.create_volume(VolumeSpec { size_bytes: gib << 30, ..VolumeSpec::default() }).unwrap()
    }

    pub fn launch(&self) -> Instance {
        self.launch_as(in_group())
    }

    /// Launches an instance, and makes a volume for it.
    pub fn node(&self) -> (Instance, VolumeId) {
        let volume = self.volume(1);
        (self.launch(), volume)
    }

    /// As [`World::launch`], with a role that may not call these actions.
    pub fn launch_without(&self, denied: &[&str]) -> Instance {
        let denied = denied.iter().map(|action| (*action).to_owned()).collect();
        self.launch_as(InstanceSpec { denied, ..in_group() })
    }

    /// Launches an instance with a fresh root disk, and boots its machine, which has [`HOOKS`] in place.
    pub fn launch_as(&self, spec: InstanceSpec) -> Instance {
        let by_id = self.folder("links-");
        let id = self.sim.launch(InstanceSpec { by_id_dir: by_id.clone(), ..spec }).unwrap();
        self.boot(id, by_id)
    }

    /// Boots the machine of an instance that was launched with this folder for the links of its volumes, as
    /// [`World::launch_as`] does.
    pub fn boot(&self, id: InstanceId, by_id: PathBuf) -> Instance {
        let dir = self.folder("machine-");
        let disk = RootDisk::create(dir.join("disk")).unwrap();
        let machine = PrivateTmp::boot(&disk, &by_id);
        let instance = Instance { id, sim: self.sim.clone(), dir, disk, by_id, machine: Some(machine) };
        // The scenario's own directory is on a mount that the machine does not see.
        instance.write(CA, fs::read(self.sim.ca_pem_path()).unwrap());
        instance.hooks(HOOKS);
        instance
    }

    /// A new folder for the scenario's files.
    pub fn folder(&self, prefix: &str) -> PathBuf {
        tempfile::Builder::new().prefix(prefix).tempdir_in(self.dir()).unwrap().keep()
    }

    pub fn events(&self) -> Events {
        self.sim.events()
    }

    /// The lifecycle results sent to Auto Scaling that took effect.
    pub fn completions(&self) -> Vec<String> {
        let events = self.events();
        events
            .calls("autoscaling:CompleteLifecycleAction")
            .iter()
            .map(|call| call.parameters["LifecycleActionResult"].clone())
            .collect()
    }
}

/// One instance with its machine.
pub struct Instance {
    pub id: InstanceId,
    sim: Sim,
    dir: PathBuf,
    disk: RootDisk,
    by_id: PathBuf,
    machine: Option<Machine>,
}

impl Instance {
    pub fn machine(&self) -> &Machine {
        self.machine.as_ref().expect("the machine is off")
    }

    /// Reboots the machine: mounts are gone, the root disk stays.
    pub fn reboot(&mut self) {
        self.machine = None;
        self.machine = Some(PrivateTmp::boot(&self.disk, &self.by_id));
    }

    /// The machine stops and EC2 terminates the instance.
    pub fn terminate(mut self) {
        self.machine = None;
        self.sim.terminate(&self.id).unwrap();
    }

    /// Writes a file of the machine.
    pub fn write(&self, path: &str, contents: impl AsRef<[u8]> + Send + Sync) {
        let write = || {
            fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        };
        self.machine().inside(write).unwrap();
    }

    /// Puts a hook script in the place of the one that is there.
    pub fn hooks(&self, script: impl AsRef<[u8]> + Send + Sync) {
        self.write(HOOKS_PATH, script);
    }

    /// Puts a configuration in its place.
    pub fn configure(&self, config: impl AsRef<[u8]> + Send + Sync) {
        self.write(CONFIG_PATH, config);
    }

    pub fn read(&self, path: &str) -> String {
        self.machine().read(path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Runs a shell command on the machine, which must succeed, and returns its output.
    pub fn shell(&self, script: &str) -> String {
        let output = self.machine().command("bash").args(["-ec", script]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{script}: {text} {}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Makes the agent believe that systemd runs and shares its mounts with the agent.
    pub fn run_systemd(&self) {
        self.run_systemd_with("ln -sf /proc/self/ns/mnt /proc/1/ns/mnt");
    }

    /// As [`Instance::run_systemd`], with mounts of its own.
    pub fn run_systemd_apart(&self) {
        self.run_systemd_with("rm -f /proc/1/ns/mnt; touch /proc/1/ns/mnt");
    }

    fn run_systemd_with(&self, namespace: &str) {
        self.shell(&format!(
            "mkdir -p /run/systemd/system
             mountpoint -q /proc/1/ns || mount -t tmpfs namespaces /proc/1/ns
             {namespace}"
        ));
    }

    /// Starts the agent with this configuration.
    pub fn start(&self, config: &str) -> Running {
        self.configure(config);
        self.start_with(&["run", "--once"])
    }

    /// Starts the agent with these arguments.
    pub fn start_with(&self, arguments: &[&str]) -> Running {
        self.start_program(PROGRAM, arguments)
    }

    /// Starts this agent on the machine with these arguments.
    pub fn start_program(&self, program: &str, arguments: &[&str]) -> Running {
        let log = tempfile::Builder::new().prefix("agent-").suffix(".log").tempfile_in(&self.dir).unwrap();
        let (file, path) = log.keep().unwrap();
        let child = self.command_of(program, arguments).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Running { child, began: Instant::now(), log: path }
    }

    /// The agent with these arguments, and nothing in its environment but the addresses of the services.
    pub fn agent(&self, arguments: &[&str]) -> Command {
        self.command_of(PROGRAM, arguments)
    }

    fn command_of(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.machine().command(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("SSL_CERT_FILE", CA)
            .envs(self.sim.env(&self.id))
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    /// Runs the agent to its end.
    pub fn run(&self, config: &str) -> Outcome {
        self.start(config).end()
    }

    /// Runs the agent, which must succeed.
    pub fn come_up(&self, config: &str) -> Outcome {
        let outcome = self.run(config);
        assert_eq!(outcome.code, Some(0), "{}", outcome.log);
        outcome
    }

    /// Whether the process whose id is in this file runs; a zombie does not.
    pub fn is_alive(&self, pid_file: &str) -> bool {
        runs(self.read(pid_file).trim())
    }

    pub fn journal(&self) -> serde_json::Value {
        serde_json::from_str(&self.read("/var/lib/node-agent/state.json")).unwrap()
    }
}

impl Drop for Instance {
    /// Hooks outlive a killed agent, and their children outlive the hooks: all of them are found by the instance's id in their
    /// environment, and killed.
    fn drop(&mut self) {
        let mark = format!("INSTANCE_ID={}", self.id.as_str());
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let environment = fs::read(process.path().join("environ")).unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
                // It may have ended meanwhile.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// The agent at work.
pub struct Running {
    pub child: std::process::Child,
    began: Instant,
    log: PathBuf,
}

impl Running {
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until the log contains this text; panics if the agent ends without it.
    pub fn wait_for(&self, text: &str) {
        let missing = || format!("{text:?} never appeared in\n{}", self.log());
        wait_until(
            || {
                let ended = !runs(self.child.id());
                let said = self.log().contains(text);
                assert!(said || !ended, "{}", missing());
                said
            },
            missing,
        );
    }

    pub fn end(mut self) -> Outcome {
        while self.child.try_wait().unwrap().is_none() {
            if self.began.elapsed() > STUCK {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                panic!("the agent is stuck:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(5));
        }
        let code = self.child.wait().unwrap().code();
        Outcome { code, took: self.began.elapsed(), log: self.log() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that is killed at the end of its test, also of one that fails.
pub struct Guarded(pub std::process::Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether this process runs; a zombie does not.
pub fn runs(pid: impl Display) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains("(zombie)"))
}

/// The result of a run.
pub struct Outcome {
    pub code: Option<i32>,
    pub took: Duration,
    pub log: String,
}

impl Outcome {
    /// The run must have ended with this exit code and have logged each of these texts.
    pub fn must_fail(&self, code: i32, said: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.log);
        for text in said {
            assert!(self.log.contains(text), "{text:?} is missing in\n{}", self.log);
        }
    }

    /// The last line.
    pub fn last(&self) -> &str {
        self.log.lines().last().unwrap_or_default()
    }
}

/// An instance of the group.
pub fn in_group() -> InstanceSpec {
    InstanceSpec { group: Some(GROUP.to_owned()), ..InstanceSpec::default() }
}

/// A node with one volume and this hook script, configured and not started.
pub fn node_with(world: &World, hooks: &str) -> Instance {
    let volume = world.volume(1);
    let node = world.launch();
    node.hooks(hooks);
    node.configure(config_for(&volume));
    node
}

/// A node with this hook script, and its service, once the service has logged this text.
pub fn serving(world: &World, hooks: &str, said: &str) -> (Instance, Running) {
    let node = node_with(world, hooks);
    let service = node.start_with(&["run"]);
    service.wait_for(said);
    (node, service)
}

/// Starts the service with this hook script and this configuration.
pub fn serve(node: &Instance, hooks: &str, config: &str) -> Running {
    node.hooks(hooks);
    node.configure(config);
    node.start_with(&["run"])
}

/// Runs the agent with these arguments to its end.
pub fn run(node: &Instance, arguments: &[&str]) -> Outcome {
    node.start_with(arguments).end()
}

/// Stops a service as systemd does, by SIGTERM, and waits for its end.
pub fn stop(service: Running) {
    service.signal(Signal::SIGTERM);
    service.end();
}

/// Checks all cases, some at a time, each in a thread of its own: a world belongs to its thread.
pub fn each<T: Sync>(cases: &[T], check: impl Fn(&T) + Sync) {
    for some in cases.chunks(5) {
        thread::scope(|scope| {
            for case in some {
                scope.spawn(|| check(case));
            }
        });
    }
}

/// The hook functions that were called, in order.
pub fn hooks_called(node: &Instance) -> Vec<String> {
    let log = node.machine().read("/var/log/hooks.log").unwrap_or_default();
    log.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// How many heartbeats Auto Scaling has accepted.
pub fn heartbeats(world: &World) -> usize {
    world.events().calls("autoscaling:RecordLifecycleActionHeartbeat").len()
}

/// The document of `status --json`, and its exit code.
pub fn status(node: &Instance) -> (serde_json::Value, i32) {
    let output = node.agent(&["status", "--json"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let document = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (document, output.status.code().unwrap())
}

/// Waits until `status` shows this state.
pub fn wait_for_state(node: &Instance, state: &str, service: &Running) {
    wait_until(|| status(node).0["state"] == state, || format!("never {state}: {}\n{}", status(node).0, service.log()));
}

/// Waits until the condition holds; panics with `otherwise` after [`STUCK`].
pub fn wait_until(mut holds: impl FnMut() -> bool, otherwise: impl FnOnce() -> String) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < STUCK, "{}", otherwise());
        thread::sleep(Duration::from_millis(5));
    }
}

/// A hook script as a Kafka user would write it; it logs its calls on the root disk.
pub const HOOKS: &str = r#"
configure_cluster_node() {
  echo "configure $1 $2 $MOUNT_PATH" >> /var/log/hooks.log
}
wait_for_healthy_cluster() {
  echo "health $1 $2 $ASG_NAME" >> /var/log/hooks.log
}
"#;

/// A whole configuration: this volume, with XFS, at `/mydata`; one file, the hooks at their usual place, the lifecycle.
pub fn config_for(volume: &VolumeId) -> String {
    config(&[volume_at("/mydata", volume, "xfs")])
}

/// A whole configuration: these volumes, one file, the hooks at their usual place, the lifecycle.
pub fn config(volumes: &[String]) -> String {
    config_with("", volumes, "")
}

/// As [`config`], with more in `[lifecycle]`, and more at the end.
pub fn config_with(lifecycle: &str, volumes: &[String], rest: &str) -> String {
    format!(
        r#"
[node]
id = "00"
ip = "{IP}"

[lifecycle]
asg_name = "{GROUP}"
hook_name = "{HOOK}"
{lifecycle}

{}

[[file]]
destination = "/etc/kafka/server.properties"
contents = "broker.id=00"

[hooks]
script = "/usr/local/lib/node/hooks.sh"

{rest}
"#,
        volumes.concat()
    )
}

/// One `[[volume]]`, mounted at `path`, owned by `daemon`.
pub fn volume_at(path: &str, id: impl Display, file_system: &str) -> String {
    format!(
        r#"
[[volume]]
id = "{id}"
mount_path = "{path}"
file_system = "{file_system}"
mount_options = ["noatime"]
owner = "daemon"
group = "daemon"
"#
    )
}

/// Whether this process may grow ext4 online: `CAP_SYS_RESOURCE`, which root lacks in some containers.
pub fn can_resize_ext4() -> bool {
    // capabilities(7): number 24.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() >> 24 & 1 == 1
}
