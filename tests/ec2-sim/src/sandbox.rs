//! A sandbox in which demos and benchmarks run the real agent on machines, and which leaves nothing behind.
//!
//! The body runs as the first process of a PID namespace, with a private `/proc` and an empty private `/tmp` in memory. However it
//! ends, even by SIGKILL, the kernel ends all its processes, and with them go mounts, disks and files.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Uid, getpid};

use crate::agent::{self, INSTALLED};
use crate::machine::{Machine, RootDisk};
use crate::{InstanceId, InstanceSpec, Sim, SimError, What};

/// Names the agent's binary.
pub const NODE_AGENT: &str = "NODE_AGENT";
/// Set for the process that plays.
const IN_SANDBOX: &str = "EC2_SIM_IN_SANDBOX";
/// What boots and ends within milliseconds has had more than enough time after this.
const STUCK: Duration = Duration::from_mins(1);

/// The place where the body goes on.
#[derive(Debug)]
pub struct Sandbox {
    /// Where the agent's binary is on the host.
    pub agent: PathBuf,
    binary: PathBuf,
    dir: PathBuf,
    /// The host's `/tmp`, over which the sandbox's own is mounted.
    outer_tmp: File,
}

/// Runs `body` on a sandbox, and returns its exit code.
///
/// To be called first thing in `main`: it starts the same program again.
pub fn enter(body: impl FnOnce(&Sandbox) -> ExitCode) -> ExitCode {
    let result =
        if env::var_os(IN_SANDBOX).is_none() { run_in_child() } else { Sandbox::set().map(|sandbox| body(&sandbox)) };
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

fn run_in_child() -> Result<ExitCode, SimError> {
    if !Uid::effective().is_root() {
        return Err(SimError::Invalid("this needs root: it mounts disks and makes loop devices".to_owned()));
    }
    let failed = |source: nix::Error| SimError::io("make a PID namespace")(source.into());
    unshare(CloneFlags::CLONE_NEWPID).map_err(failed)?;
    let mut command = Command::new("/proc/self/exe");
    command.args(env::args_os().skip(1)).env(IN_SANDBOX, "1").stdin(Stdio::null());
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe.
    unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
    let status = command.status().map_err(SimError::io("start itself again"))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

impl Sandbox {
    fn set() -> Result<Self, SimError> {
        if getpid().as_raw() != 1 {
            return Err(SimError::Invalid(format!("{IN_SANDBOX} is not to be set by hand")));
        }
        let agent = env::var_os(NODE_AGENT)
            .map(PathBuf::from)
            .ok_or_else(|| SimError::Invalid(format!("{NODE_AGENT} must name the agent's binary")))?;
        let what = format!("read the agent's binary {}", agent.display());
        // Opened before /tmp is another one.
        let mut source = File::open(&agent).map_err(SimError::io(what.clone()))?;
        let outer_tmp = File::open("/tmp").map_err(SimError::io("open the host's /tmp"))?;
        mount_private().map_err(|errno| SimError::io("mount /proc and /tmp")(errno.into()))?;
        let dir = PathBuf::from("/tmp");
        let binary = dir.join("node-agent");
        let mut copy = File::create(&binary).map_err(SimError::io(what.clone()))?;
        io::copy(&mut source, &mut copy).map_err(SimError::io(what.clone()))?;
        copy.set_permissions(fs::Permissions::from_mode(0o755)).map_err(SimError::io(what))?;
        Ok(Self { agent, binary, dir, outer_tmp })
    }

    /// An empty directory in memory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a file of the host is in the sandbox: its `/tmp` is under another one.
    pub fn outside(&self, path: &Path) -> PathBuf {
        match path.strip_prefix("/tmp") {
            Ok(rest) => Path::new("/proc/self/fd").join(self.outer_tmp.as_raw_fd().to_string()).join(rest),
            Err(_) => path.to_owned(),
        }
    }

    /// The agent's binary, where the body and its machines see it.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Launches an instance with a fresh root disk, boots its machine and installs the agent on it.
    pub fn launch(&self, sim: &Sim, spec: InstanceSpec) -> Result<Node, SimError> {
        let id = spec.id.clone().map_or_else(InstanceId::random, InstanceId::from);
        let dir = self.dir.join(id.as_str());
        let by_id_dir = dir.join("by-id");
        let failed = || SimError::io(format!("boot the machine of {id}"));
        let before = Instant::now();
        let spec = InstanceSpec { id: Some(id.to_string()), by_id_dir: by_id_dir.clone(), ..spec };
        let id = sim.launch(spec)?;
        let elapsed = before.elapsed();
        let launched = sim
            .events()
            .iter()
            .find(|event| matches!(&event.what, What::Instance(change) if change.id == id.as_str()))
            .map_or(0.0, |event| event.t);
        let launched = Duration::from_secs_f64(launched);
        let log_began = (before + elapsed / 2).checked_sub(launched).unwrap_or(before);
        let disk = RootDisk::create(dir.join("disk")).map_err(failed())?;
        let machine = Machine::boot(&disk, &by_id_dir).map_err(failed())?;
        let node = Node { id, log_began, sim: sim.clone(), dir, machine };
        let binary = File::open(&self.binary).map_err(failed())?;
        node.install(binary).map_err(failed())?;
        Ok(node)
    }
}

/// The mounts that only the body and its machines see.
fn mount_private() -> nix::Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    // The namespace's own processes; the host's would have other numbers.
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)?;
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::empty(), Some("mode=0700"))
}

/// An instance with its machine, on which the agent is installed.
pub struct Node {
    /// The instance's id.
    pub id: InstanceId,
    /// When the clock of the event log stood at zero, to a fraction of a millisecond.
    pub log_began: Instant,
    /// Its machine.
    pub machine: Machine,
    sim: Sim,
    dir: PathBuf,
}

impl Node {
    fn install(&self, mut binary: File) -> io::Result<()> {
        self.machine.inside(|| {
            let installed = Path::new(INSTALLED);
            fs::create_dir_all(installed.parent().unwrap_or(installed))?;
            let mut copy = File::create(installed)?;
            io::copy(&mut binary, &mut copy)?;
            copy.set_permissions(fs::Permissions::from_mode(0o755))
        })?
    }

    /// Writes a file of the machine.
    pub fn write(&self, path: impl AsRef<Path> + Send + Sync, contents: impl AsRef<[u8]> + Send) -> io::Result<()> {
        self.machine.write(path, contents)
    }

    /// What a shell command prints on the machine; that it fails is an error.
    pub fn shell(&self, script: impl AsRef<OsStr>) -> io::Result<String> {
        self.machine.shell(script)
    }

    /// The agent on this instance, with nothing in its environment but the addresses of the services.
    pub fn agent(&self, arguments: &[&str]) -> Command {
        agent::command(&self.machine, &self.sim, &self.id, arguments)
    }

    /// Terminates the instance, as EC2 would: the machine is off, and its volumes come free in a while.
    pub fn terminate(self) -> Result<Gone, SimError> {
        let Self { id, machine, sim, dir, .. } = self;
        drop(machine);
        sim.terminate(&id)?;
        Ok(Gone { id, sim, dir })
    }
}

/// An instance on its way out.
pub struct Gone {
    /// The instance's id.
    pub id: InstanceId,
    sim: Sim,
    dir: PathBuf,
}

impl Gone {
    /// Waits until it is terminated, and removes its root disk.
    pub fn wait(self) -> Result<(), SimError> {
        let Self { id, sim, dir } = self;
        let terminated = |event: &crate::Event| matches!(&event.what, What::Instance(change) if change.id == id.as_str() && change.to == "terminated");
        if sim.wait_for_blocking(terminated, STUCK).is_none() {
            return Err(SimError::Invalid(format!("{id} is not terminated after {} s", STUCK.as_secs())));
        }
        fs::remove_dir_all(&dir).map_err(SimError::io(format!("remove {}", dir.display())))
    }
}
