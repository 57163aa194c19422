//! An emulated machine that looks like an EC2 instance to its software.
//!
//! Root disk, console log and the rack of NVMe slots outlive a power cut. EBS volumes are plugged into the rack while the machine
//! runs (by QMP) or while it is off (on QEMU's command line).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ec2_sim::{InstanceId, Slots, VolumeId};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::STUCK;
use crate::qmp::Qmp;
use crate::shell::Shell;

/// PCIe root ports for volumes.
const SLOTS: usize = 4;
/// How many boots a machine gets to reach init.
const BOOTS: usize = 3;
/// How long a kernel may take to start init. It takes 2 s, and some 10 s on a loaded host.
const INIT_WITHIN: Duration = Duration::from_mins(3);
/// The metadata service's address (EC2 user guide), at which QEMU's network shows the host's loopback address to its guest.
pub const HOST: &str = "169.254.169.254";

/// The settings that all machines of a world share.
#[derive(Debug, Clone)]
pub struct Platform {
    /// The kernel, which has what the root disk needs built in.
    pub kernel: PathBuf,
    /// Added to the kernel's command line.
    pub append: String,
    /// Where the machines' files are.
    pub dir: PathBuf,
}

/// The slots for volumes.
#[derive(Default)]
pub struct Rack(Mutex<Plugged>);

impl std::fmt::Debug for Rack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rack")
    }
}

#[derive(Default)]
struct Plugged {
    /// Slot and backing file of each.
    volumes: BTreeMap<VolumeId, (usize, PathBuf)>,
    /// Volumes that the guest was asked to release, and how often it had released one before.
    leaving: BTreeMap<VolumeId, usize>,
    /// Of the machine while it is on.
    qmp: Option<Arc<Qmp>>,
}

/// As the disk's serial number has it, and as QEMU may name a thing.
fn serial(volume: &VolumeId) -> String {
    volume.replace('-', "")
}

/// A volume's block device. What the guest was told to be written is in the host's page cache, which outlives QEMU.
fn blockdev(volume: &VolumeId, backing: &Path) -> Value {
    json!({
        "node-name": serial(volume), "driver": "raw", "discard": "unmap",
        "file": { "driver": "file", "filename": backing, "discard": "unmap" },
    })
}

fn disk(volume: &VolumeId) -> String {
    format!("disk-{}", serial(volume))
}

/// QEMU's event for a device that the guest has released.
fn deleted(volume: &VolumeId) -> impl Fn(&Value) -> bool {
    let disk = disk(volume);
    move |event| event["event"] == "DEVICE_DELETED" && event["data"]["device"] == disk.as_str()
}

fn device(volume: &VolumeId, slot: usize) -> Value {
    let serial = serial(volume);
    json!({ "driver": "nvme", "id": disk(volume), "drive": serial, "serial": serial, "bus": format!("slot{slot}") })
}

impl Slots for Rack {
    fn plug(&self, volume: &VolumeId, backing: &Path) -> io::Result<String> {
        let mut plugged = self.0.lock().unwrap();
        let taken: BTreeSet<usize> = plugged.volumes.values().map(|(slot, _)| *slot).collect();
        let slot = (0..SLOTS).find(|slot| !taken.contains(slot)).ok_or_else(|| io::Error::other("no slot is free"))?;
        if let Some(qmp) = &plugged.qmp {
            qmp.execute("blockdev-add", blockdev(volume, backing))?;
            qmp.execute("device_add", device(volume, slot))?;
        }
        plugged.volumes.insert(volume.clone(), (slot, backing.to_owned()));
        Ok(format!("slot {slot}"))
    }

    fn unplug(&self, volume: &VolumeId) {
        let mut plugged = self.0.lock().unwrap();
        if let Some(qmp) = &plugged.qmp {
            // The guest is asked, and releases the device later: see below.
            let before = qmp.count(deleted(volume));
            let _ = qmp.execute("device_del", json!({ "id": disk(volume) }));
            plugged.leaving.insert(volume.clone(), before);
        } else {
            plugged.volumes.remove(volume);
        }
    }

    fn is_gone(&self, volume: &VolumeId) -> bool {
        let mut plugged = self.0.lock().unwrap();
        if let Some(qmp) = &plugged.qmp {
            if plugged.leaving.get(volume).is_some_and(|before| qmp.count(deleted(volume)) == *before) {
                return false;
            }
            let _ = qmp.execute("blockdev-del", json!({ "node-name": serial(volume) }));
        }
        plugged.leaving.remove(volume);
        plugged.volumes.remove(volume);
        true
    }

    fn reread_size(&self, volume: &VolumeId) -> io::Result<()> {
        let plugged = self.0.lock().unwrap();
        let (Some(qmp), Some((_, backing))) = (&plugged.qmp, plugged.volumes.get(volume)) else {
            return Ok(());
        };
        let size = fs::metadata(backing)?.len();
        qmp.execute("block_resize", json!({ "node-name": serial(volume), "size": size })).map(|_| ())
    }
}

impl Rack {
    /// Puts what is plugged into other slots while the machine is off, so that its kernel finds the disks in another order.
    pub fn reverse(&self) {
        let mut plugged = self.0.lock().unwrap();
        assert!(plugged.qmp.is_none(), "the machine is on");
        for (slot, _) in plugged.volumes.values_mut() {
            *slot = SLOTS - 1 - *slot;
        }
    }
}

/// A machine, on or off.
pub struct Machine {
    pub id: InstanceId,
    pub rack: Arc<Rack>,
    pub root: PathBuf,
    platform: Platform,
    mac: String,
    /// How often it was switched on.
    boots: usize,
    running: Option<Running>,
}

struct Running {
    qemu: Child,
    qmp: Arc<Qmp>,
}

impl Machine {
    /// One that is off. `image` is what its root disk begins as.
    ///
    /// A copy in the raw format: what QEMU has written to it is there when QEMU is killed. Of an overlay in the qcow2 format it
    /// keeps the tables in memory until a flush, and its NVMe disk does not flush for a write with FUA, by which ext4 commits.
    pub fn new(platform: &Platform, id: InstanceId, mac: String, rack: Arc<Rack>, image: &Path) -> Machine {
        let root = platform.dir.join(format!("{id}-root.img"));
        let copied = Command::new("cp").arg("--sparse=always").args([image, &root]).status().unwrap();
        assert!(copied.success(), "the root disk of {id} from {}", image.display());
        Machine { id, rack, root, platform: platform.clone(), mac, boots: 0, running: None }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.platform.dir.join(format!("{}-{}-{name}", self.id, self.boots))
    }

    /// Switches the machine on, and waits until its kernel has mounted the root disk and starts init.
    ///
    /// Once in some hundreds of boots QEMU's NVMe disk never answers the kernel's first command: after a minute the kernel gives
    /// up the disk and panics. The agent has not run by then, so the machine is switched off and on again, and the test's output
    /// says why. A root disk that is really broken fails every boot, and so the test.
    pub fn power_on(&mut self) {
        for _ in 0..BOOTS {
            self.start();
            if self.starts_init() {
                return;
            }
            println!("{}: switched on again, because its kernel did not start init: {}", self.id, self.why_no_init());
            self.kill();
        }
        panic!("{}: no init in {BOOTS} boots", self.id);
    }

    /// Whether the kernel starts init; false at once after a panic.
    fn starts_init(&self) -> bool {
        let shows = |text: &str| self.console().contains(text);
        poll(INIT_WITHIN, || shows("as init process") || shows("Kernel panic"));
        shows("as init process")
    }

    /// The console's first line about a lost disk or a panic, or else its last line.
    fn why_no_init(&self) -> String {
        let console = self.console();
        let telling = console.lines().find(|line| line.contains("timeout, ") || line.contains("Kernel panic"));
        telling.or(console.lines().last()).unwrap_or("nothing on the console").to_owned()
    }

    /// Starts QEMU.
    fn start(&mut self) {
        assert!(self.running.is_none(), "{} is on", self.id);
        self.boots += 1;
        let mut plugged = self.rack.0.lock().unwrap();
        let mut command = self.command(&plugged);
        // Its errors, to be seen when it does not start.
        let errors = self.file("qemu.log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&errors).unwrap());
        // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe.
        unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
        let mut qemu = command.spawn().expect("qemu-system-x86_64");
        let end = Instant::now() + Duration::from_secs(30);
        let qmp = loop {
            match Qmp::connect(&self.file("qmp")) {
                Ok(qmp) => break Arc::new(qmp),
                Err(error) => {
                    let said = || fs::read_to_string(&errors).unwrap_or_default();
                    assert!(qemu.try_wait().unwrap().is_none(), "QEMU ended: {}", said());
                    assert!(Instant::now() < end, "no QEMU: {error} {}", said());
                    thread::sleep(Duration::from_millis(20));
                }
            }
        };
        plugged.qmp = Some(Arc::clone(&qmp));
        drop(plugged);
        self.running = Some(Running { qemu, qmp });
    }

    fn command(&self, plugged: &Plugged) -> Command {
        let socket = |name: &str| {
            format!(
                "socket,id={name},path={},server=on,wait=off,logfile={}",
                self.file(name).display(),
                self.file(&format!("{name}.log")).display()
            )
        };
        // EC2's own: the serial number is the UUID, which begins so (EC2 user guide, "Identify EC2 instances").
        let uuid = format!("ec2{}-0000-4000-8000-{}", &self.id[2..7], &self.id[7..19]);
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .arg("-kernel")
            .arg(&self.platform.kernel)
            .args(["-append", &format!("root=/dev/nvme0n1 rw console=ttyS0 {}", self.platform.append)])
            .args(["-smbios", &format!("type=1,manufacturer=Amazon EC2,product=t3.small,serial={uuid},uuid={uuid}")])
            // Without the metadata service, this tells the machine which instance it is.
            .args(["-smbios", &format!("type=2,manufacturer=Amazon EC2,asset={}", self.id)])
            .args(["-smbios", "type=3,manufacturer=Amazon EC2,asset=Amazon EC2"])
            .args(["-drive", &format!("if=none,id=root,format=raw,file={}", self.root.display())])
            // An EBS volume too, as on EC2.
            .args(["-device", "nvme,drive=root,serial=vol00000000000000000"])
            .args(["-device", "virtio-rng-pci"])
            .args(["-netdev", &format!("user,id=net,net=169.254.169.0/24,host={HOST},dhcpstart=169.254.169.10")])
            .args(["-device", &format!("virtio-net-pci,netdev=net,mac={},romfile=", self.mac)])
            .args(["-chardev", &format!("file,id=console,path={}", self.file("console.log").display())])
            .args(["-chardev", &socket("shell"), "-chardev", &socket("operator")])
            .args(["-serial", "chardev:console", "-serial", "chardev:shell", "-serial", "chardev:operator"])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", self.file("qmp").display())]);
        for slot in 0..SLOTS {
            command.args(["-device", &format!("pcie-root-port,id=slot{slot},chassis={},slot={}", slot + 1, slot + 1)]);
        }
        for (volume, (slot, backing)) in &plugged.volumes {
            command.args(["-blockdev", &blockdev(volume, backing).to_string()]);
            command.args(["-device", &device(volume, *slot).to_string()]);
        }
        command
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap_or_else(|| panic!("{} is off", self.id))
    }

    /// A root login shell for the test alone.
    pub fn shell(&self) -> Shell {
        self.login("shell")
    }

    /// A second root login shell, for an operator.
    pub fn operator(&self) -> Shell {
        self.login("operator")
    }

    fn login(&self, line: &str) -> Shell {
        let mut shell = Shell::connect(&self.file(line));
        let there = shell.wait_until_there_unless(|| self.console().contains("You are in emergency mode"));
        // The console shows how far the boot came.
        assert!(there, "{}: no shell on its serial line: {}", self.id, self.console());
        shell
    }

    /// The console's text since the machine was switched on.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.file("console.log")).unwrap_or_default()).into_owned()
    }

    /// Waits until the condition holds.
    pub fn wait_until(&self, what: &str, so: impl Fn() -> bool) {
        assert!(poll(STUCK, so), "{}: never: {what}: {}", self.id, self.console());
    }

    /// The power fails.
    pub fn cut(&mut self) {
        assert!(self.running.is_some(), "{} is off", self.id);
        self.kill();
    }

    /// Ends QEMU where it runs.
    fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            // Before QEMU ends: a volume plugged from now on is there at the next start.
            self.rack.0.lock().unwrap().qmp = None;
            let _ = running.qemu.kill();
            let _ = running.qemu.wait();
            self.is_off();
        }
    }

    /// Shuts the guest down and waits for it.
    pub fn power_off(&mut self) {
        self.running().qmp.execute("system_powerdown", json!({})).unwrap();
        let mut running = self.running.take().expect("it is on");
        let end = Instant::now() + STUCK;
        while running.qemu.try_wait().unwrap().is_none() {
            if Instant::now() >= end {
                running.qemu.kill().unwrap();
                panic!("{} does not end: {}", self.id, self.console());
            }
            thread::sleep(Duration::from_millis(50));
        }
        self.is_off();
    }

    /// Plugs its network in, as it is from the beginning, or out.
    pub fn link(&self, up: bool) {
        self.running().qmp.execute("set_link", json!({ "name": "net", "up": up })).unwrap();
    }

    /// How often the machine was reset since it was switched on.
    pub fn resets(&self) -> usize {
        self.running().qmp.count(reset)
    }

    /// Waits until it was reset that often.
    pub fn wait_for_reset(&self, nth: usize) {
        assert!(self.running().qmp.wait_for(nth, STUCK, reset), "no reset: {}", self.console());
    }

    fn is_off(&self) {
        let mut plugged = self.rack.0.lock().unwrap();
        plugged.qmp = None;
        let leaving = std::mem::take(&mut plugged.leaving);
        plugged.volumes.retain(|volume, _| !leaving.contains_key(volume));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_file(&self.root);
    }
}

/// Whether something becomes so within this time. Looks every few milliseconds, because a test may cut the power at that instant.
fn poll(within: Duration, so: impl Fn() -> bool) -> bool {
    let end = Instant::now() + within;
    while !so() {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

fn reset(event: &Value) -> bool {
    event["event"] == "RESET"
}
