//! EC2 around the machines: the simulator in a network namespace, so that its metadata service can have the real port.

use std::fs;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;

use ec2_sim::{
    Event, Fault, FaultRule, GroupSpec, HookSpec, InstanceId, InstanceSpec, Sim, SimConfig, Transition, VolumeId,
    VolumeSpec, What,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use sha2::{Digest, Sha256};

use crate::STUCK;
use crate::machine::{HOST, Machine, Platform, Rack};

/// The group and its hooks, as the examples have them.
pub const GROUP: &str = "kafka-node-00";
pub const HOOK: &str = "kafka-node-asg-hook";
pub const TERMINATE_HOOK: &str = "kafka-node-terminate-hook";

/// The directory that `tests/vm/image` has made.
static IMAGES: LazyLock<PathBuf> = LazyLock::new(|| {
    std::env::var_os("NODE_AGENT_VM_IMAGES").expect("NODE_AGENT_VM_IMAGES: run `make test-vm`").into()
});
/// The agent without its symbols, which are most of it.
static AGENT: LazyLock<PathBuf> = LazyLock::new(|| {
    std::env::var_os("NODE_AGENT_VM_BINARY").expect("NODE_AGENT_VM_BINARY: run `make test-vm`").into()
});
/// The package.
static DEB: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::var_os("NODE_AGENT_VM_DEB").expect("NODE_AGENT_VM_DEB: run `make test-vm`").into());

/// Run with a program and a directory: the program gets all libraries that it is linked with, and their loader, from there,
/// where they are put. Its own children are not concerned.
const CARRY: &str = r#"
libraries=$2/opt/node-agent-libraries
mkdir "$libraries"
# Each is named with its path; the kernel's own has none.
grep --only-matching '/[^ ]*' <<<"$(ldd "$1")" | xargs cp --dereference --target-directory="$libraries"
loader=$(patchelf --print-interpreter "$1")
patchelf --set-interpreter "${libraries#"$2"}/${loader##*/}" --set-rpath "${libraries#"$2"}" "$1"
"#;

/// A world in which at most one machine is on. Its consoles and event log are kept.
pub struct World {
    pub sim: Sim,
    platform: Platform,
    /// The image from which its machines' disks are copied.
    base: PathBuf,
    /// The metadata service of the instance that is on.
    metadata: Arc<Mutex<Option<SocketAddr>>>,
}

impl World {
    /// Makes a world for this thread and its children. `name` is the folder of its files, `base` the disk in [`IMAGES`] that its
    /// machines' images are made from.
    pub fn new(name: &str, base: &str) -> World {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("namespaces; this needs root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vm").join(name);
        let _ = fs::remove_dir_all(&dir);
        let sim = Sim::start_blocking(SimConfig { work_dir: dir.clone(), ..SimConfig::default() }).unwrap();
        let launching = HookSpec { name: HOOK.to_owned(), ..HookSpec::default() };
        let transition = Transition::Terminating;
        let terminating = HookSpec { name: TERMINATE_HOOK.to_owned(), transition, ..HookSpec::default() };
        let hooks = vec![launching, terminating];
        sim.create_group(GroupSpec { name: GROUP.to_owned(), hooks, ..GroupSpec::default() }).unwrap();
        let platform = Platform {
            kernel: IMAGES.join(format!("{base}.vmlinuz")),
            // What the services say is on the console, too, which outlives the machine.
            append: format!(
                "systemd.setenv=AWS_ENDPOINT_URL={} systemd.journald.forward_to_console=1",
                for_guests(&sim.api_url())
            ),
            dir,
        };
        let metadata = Arc::new(Mutex::new(None));
        let listener = TcpListener::bind("127.0.0.1:80").expect("port 80 of a network of its own");
        let target = Arc::clone(&metadata);
        thread::spawn(move || forward(&listener, &target));
        World { sim, platform, base: IMAGES.join(format!("{base}.img")), metadata }
    }

    pub fn dir(&self) -> &Path {
        &self.platform.dir
    }

    pub fn volume(&self, id: &str) -> VolumeId {
        let spec = VolumeSpec { id: Some(id.to_owned()), size_bytes: 1 << 30, ..VolumeSpec::default() };
        self.sim.create_volume(spec).unwrap()
    }

    /// An image, changed as `change` does in its mounted root.
    pub fn bake(&self, change: impl FnOnce(&Root)) -> PathBuf {
        let file = self.dir().join("image.img");
        run(Command::new("cp").arg("--sparse=always").args([&self.base, &file]));
        let root = Root(self.dir().join("root"));
        fs::create_dir_all(&root.0).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).args([&file, &root.0]));
        run(Command::new("mount").args(["--bind", "/dev"]).arg(root.0.join("dev")));
        let bundle = root.0.join("etc/ssl/certs/ca-certificates.crt");
        let trusted = fs::read_to_string(&bundle).unwrap() + &fs::read_to_string(self.sim.ca_pem_path()).unwrap();
        fs::write(bundle, trusted).unwrap();
        change(&root);
        run(Command::new("umount").arg("--recursive").arg(&root.0));
        file
    }

    /// A new instance, off, whose root disk is as fresh as the image.
    pub fn launch(&self, image: &Path, spec: InstanceSpec) -> Machine {
        let rack = Arc::new(Rack::default());
        let mac = "02:00:0a:00:01:0a".to_owned();
        let id = self
            .sim
            .launch(InstanceSpec {
                group: Some(GROUP.to_owned()),
                slots: Some(Arc::clone(&rack) as _),
                mac: Some(mac.clone()),
                // One more than on EC2: the last hop is to the guest.
                hop_limit: 64,
                ..spec
            })
            .unwrap();
        let address = self.sim.imds_url(&id);
        *self.metadata.lock().unwrap() = Some(address.trim_start_matches("http://").parse().unwrap());
        Machine::new(&self.platform, id, mac, rack, image)
    }

    /// The machine's power fails for good, and EC2 terminates the instance.
    pub fn kill(&self, mut machine: Machine) {
        machine.cut();
        self.sim.terminate(&machine.id).unwrap();
    }

    /// Puts the agent on the https server; its address there, and its checksum.
    pub fn publish_agent(&self) -> (String, String) {
        let binary = fs::read(&*AGENT).unwrap();
        let checksum = Sha256::digest(&binary).iter().map(|byte| format!("{byte:02x}")).collect();
        (for_guests(&self.sim.put_page("/node-agent", binary)), checksum)
    }

    /// The results of this instance that took effect.
    pub fn completions(&self, instance: &InstanceId) -> Vec<String> {
        let result = |event: &Event| match &event.what {
            What::Api(call) if call.done && call.action == "autoscaling:CompleteLifecycleAction" => {
                (call.caller.as_deref() == Some(instance)).then(|| call.parameters["LifecycleActionResult"].clone())
            }
            _ => None,
        };
        self.sim.events().iter().filter_map(result).collect()
    }

    /// Waits for CONTINUE for this instance, or for the agent to say that it will not come.
    pub fn wait_until_up(&self, machine: &Machine) {
        let failed = || machine.console().contains("result=failed");
        machine.wait_until("in service", || self.is_in_service(machine) || failed());
        assert!(!failed(), "{}: {}", machine.id, machine.console());
        assert_eq!(self.completions(&machine.id), ["CONTINUE"]);
    }

    pub fn is_in_service(&self, machine: &Machine) -> bool {
        self.sim.lifecycle_state(&machine.id).as_deref() == Some("InService")
    }

    /// From now on nothing around the machine answers: connections to the metadata service and to all of AWS are taken, and
    /// stay silent.
    pub fn fall_silent(&self) {
        self.sim.add_fault(FaultRule::always("*", Fault::Hang)).unwrap();
    }

    /// Waits for a call that took effect.
    pub fn wait_for_call(&self, action: &str, machine: &Machine) {
        let called = |event: &Event| matches!(&event.what, What::Api(call) if call.done && call.action == action && call.caller.as_deref() == Some(&machine.id));
        assert!(self.sim.wait_for_blocking(called, STUCK).is_some(), "no {action}: {}", machine.console());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Disks are large and removed; logs stay.
        for entry in fs::read_dir(self.dir()).into_iter().flatten().flatten() {
            let path = entry.path();
            let kept = path.extension().is_some_and(|extension| extension == "log" || extension == "jsonl");
            if !kept {
                // The other one is where an image was mounted.
                let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
            }
        }
    }
}

/// A mounted root of an image.
pub struct Root(PathBuf);

impl Root {
    /// Writes a file; executable where it begins with `#!`.
    pub fn write(&self, path: &str, contents: &str) {
        let path = self.0.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        if contents.starts_with("#!") {
            run(Command::new("chmod").arg("0755").arg(&path));
        }
    }

    /// Gives it a file of this host's, at the same place.
    pub fn bring(&self, path: &str) {
        fs::copy(path, self.0.join(path.trim_start_matches('/'))).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// Runs a command in it, whose systemd is off.
    pub fn run(&self, script: &str) {
        run(Command::new("chroot").arg(&self.0).args(["bash", "-ec", script]));
    }

    /// Installs the package.
    pub fn install_package(&self) {
        fs::copy(&*DEB, self.0.join("node-agent.deb")).unwrap();
        self.run("dpkg --install /node-agent.deb; rm /node-agent.deb");
        // What is shipped is static. A development build is linked with this machine's C library, and a static one beside it
        // would have the EC2 client compiled once more: on an older Debian it brings its libraries along.
        let starts = Command::new("chroot").arg(&self.0).args(["/usr/bin/node-agent", "--version"]).output().unwrap();
        if !starts.status.success() {
            run(Command::new("bash")
                .args(["-euo", "pipefail", "-c", CARRY, "carry"])
                .args([&self.0.join("usr/bin/node-agent"), &self.0]));
            self.run("node-agent --version");
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said} {}", String::from_utf8_lossy(&output.stdout));
}

/// An address of this host's loopback as guests see it.
pub fn for_guests(url: &str) -> String {
    url.replace("127.0.0.1", HOST)
}

/// Hands each connection on to the service of the instance that is on.
fn forward(listener: &TcpListener, target: &Mutex<Option<SocketAddr>>) {
    for client in listener.incoming().flatten() {
        let Some(Ok(server)) = target.lock().unwrap().map(TcpStream::connect) else {
            continue;
        };
        for (mut from, mut to) in [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))]
            .into_iter()
            .filter_map(|(from, to)| Some((from.ok()?, to.ok()?)))
        {
            thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
    }
}
