//! `make demo`: the agent brings up a node of a cluster on the simulated EC2, and the story of it is told.
//!
//! What is told is checked: the demo ends with 0 only if everything was so.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::{Debug, Display};
use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ec2_sim::sandbox::{self, Gone, Node, Sandbox};
use ec2_sim::{
    Event, GroupSpec, HookSpec, InstanceId, InstanceSpec, Latencies, Sim, SimConfig, VolumeId, VolumeSpec, What,
};
use serde_json::Value;

/// As it stands in docs/configuration.md.
const CONFIG: &str = include_str!("demo/config.toml");
const HOOKS: &str = include_str!("demo/hooks.sh");
/// Replaces the stand-in for a broker by one that never answers.
const BROKEN: &str = "TRIES=3\nbroker_answers() { false; }\n";
/// Replaces the configure function by one that misses a file.
const UNLICENSED: &str = "configure_cluster_node() {\n  [ -s /etc/kafka/licence ] || { echo '/etc/kafka/licence is missing' >&2; return 1; }\n  touch \"$STARTED\"\n  echo \"broker $1 listens on $2\"\n}\n";
const LICENCE: &str = "/etc/kafka/licence";
/// Wins key by key over the configuration.
const OVERRIDE: &str = "[lifecycle]\non_failure = \"abandon\"\n";

const VOLUME: &str = "vol-0123456789abcdef0";
const GROUP: &str = "kafka-node-00";
const HOOK: &str = "kafka-node-asg-hook";
const FILE: &str = "broker.id=00\nlisteners=PLAINTEXT://10.0.1.10:9092\nlog.dirs=/mydata/kafka\n";

/// How long a dying instance keeps its volume.
const DYING: Duration = Duration::from_secs(4);
/// A boot that takes longer is stuck.
const STUCK: Duration = Duration::from_mins(2);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    sandbox::enter(|sandbox| match run(sandbox) {
        Ok(Checks { made, differing }) if differing.is_empty() => {
            println!("\nAll of this was checked while it was told: {made} checks, none differed.");
            ExitCode::SUCCESS
        }
        Ok(Checks { made, differing }) => {
            println!("\nNOT AS TOLD: {} of {made} checks differed.", differing.len());
            for line in differing {
                println!("  {line}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("\nThe demo could not be played to its end: {error}");
            ExitCode::FAILURE
        }
    })
}

/// The demo's statements, compared with the facts.
#[derive(Default)]
struct Checks {
    made: usize,
    differing: Vec<String>,
}

impl Checks {
    fn equal<T: PartialEq + Debug + ?Sized>(&mut self, what: impl Display, seen: &T, told: &T) {
        let differs = seen != told;
        self.holds(format_args!("{what}: seen {seen:?}, told {told:?}"), !differs);
    }

    fn holds(&mut self, what: impl Display, holds: bool) {
        self.made += 1;
        if !holds {
            self.differing.push(what.to_string());
        }
    }
}

fn run(sandbox: &Sandbox) -> Result<Checks> {
    let mut checks = Checks::default();
    println!(
        "node-agent brings up a node of a Kafka cluster.\n\n\
         Simulated: EC2, Auto Scaling, S3 and the instance metadata, on this machine's loopback. Real: the agent, run as\n\
         root, and its disk, filesystem, mounts, files and hooks. Each instance has a root disk and mounts of its own."
    );
    let began = Instant::now();
    let world = World::new(sandbox)?;

    println!(
        "\n== 1. First boot, while another instance still holds the volume ==\n\n\
         Auto Scaling launches an instance and holds it in Pending:Wait until the node is healthy. The node's volume is new\n\
         and blank, but still attached to {}, which failed and is shutting down. On the new instance runs:\n\
         node-agent run --once\n",
        world.first_holder
    );
    let first = world.boot(HOOKS)?;
    first.must_have_come_up(&world, &mut checks)?;
    first.tell(&world, &mut checks)?;
    first.tell_disk()?;
    checks.holds("the blank disk was formatted", first.formatted());
    let data = first.data()?;
    println!("  data      {}", data.in_words);

    println!(
        "\n== 2. The instance is replaced, the data stays ==\n\n\
         That instance is terminated. Auto Scaling launches another one, with an empty root disk; the volume comes free when\n\
         the old instance is gone.\n"
    );
    let gone = first.node.terminate()?;
    let second = world.boot(HOOKS)?;
    gone.wait()?;
    second.must_have_come_up(&world, &mut checks)?;
    second.tell(&world, &mut checks)?;
    checks.holds("the second instance formatted nothing", !second.formatted());
    let found = second.data()?;
    let found_again = if found == data { "the same, byte for byte; nothing was formatted" } else { "NOT the same" };
    println!("  data      {}: {found_again}", found.in_words);
    checks.equal("the data found by the second instance", &found, &data);

    println!(
        "\n== 3. A node that does not get healthy ==\n\n\
         The next instance gets a release whose broker never answers. It is told to give up at once: on_failure = \"abandon\".\n"
    );
    let gone = second.node.terminate()?;
    let third = world.boot(&[HOOKS, BROKEN].concat())?;
    gone.wait()?;
    third.must_have_failed(&world, &mut checks);
    let found = third.data()?;
    println!("  data      {}: {}", found.in_words, if found == data { "untouched" } else { "NOT the same" });
    checks.equal("the data after the failed launch", &found, &data);

    println!(
        "\n== 4. A node is held, repaired and reported ==\n\n\
         The next instance runs the resident service, with on_failure = \"hold\" as it is by default. Its configure hook misses\n\
         a file. Somebody opens a session on it:\n"
    );
    let gone = third.node.terminate()?;
    let held = world.hold(&mut checks)?;
    gone.wait()?;
    let seconds = began.elapsed().as_secs();
    println!("\nFour launches in {seconds} s. The simulated world, its disks and mounts are gone when this ends.");
    finish(held.terminate()?, world)?;
    Ok(checks)
}

/// Shows a command as it is typed on the node, and what it prints, which it returns.
fn type_in(node: &Node, arguments: &[&str]) -> Result<String> {
    println!("  # node-agent {}", arguments.join(" "));
    let output = node.agent(arguments).output()?;
    let text = String::from_utf8([output.stdout, output.stderr].concat())?;
    text.lines().for_each(|line| println!("  {line}"));
    println!();
    Ok(text)
}

/// The devices are free before the world ends, so that nothing is left to the kernel.
fn finish(gone: Gone, world: World<'_>) -> Result<()> {
    gone.wait()?;
    drop(world);
    Ok(())
}

/// The simulated EC2 with the node's group and volume.
struct World<'a> {
    sandbox: &'a Sandbox,
    sim: Sim,
    volume: VolumeId,
    first_holder: InstanceId,
}

impl World<'_> {
    fn new(sandbox: &Sandbox) -> Result<World<'_>> {
        let config = SimConfig {
            work_dir: sandbox.dir().join("aws"),
            latencies: Latencies { shutting_down: DYING, ..Latencies::default() },
            ..SimConfig::default()
        };
        let sim = Sim::start_blocking(config)?;
        let hook = HookSpec { name: HOOK.to_owned(), ..HookSpec::default() };
        sim.create_group(GroupSpec { name: GROUP.to_owned(), hooks: vec![hook], ..GroupSpec::default() })?;
        sim.put_object("kafka-config", "node-00/server.properties", FILE);
        let volume = sim.create_volume(VolumeSpec { id: Some(VOLUME.to_owned()), ..VolumeSpec::default() })?;
        let by_id_dir = sandbox.dir().join("first-holder");
        let first_holder = sim.launch(InstanceSpec { by_id_dir, ..InstanceSpec::default() })?;
        sim.attach(&volume, &first_holder, "/dev/sdf")?;
        let attached = |event: &Event| matches!(&event.what, What::Volume(change) if change.attachment.as_deref() == Some("attached"));
        sim.wait_for_blocking(attached, STUCK).ok_or("the volume was not attached")?;
        sim.terminate(&first_holder)?;
        Ok(World { sandbox, sim, volume, first_holder })
    }

    /// Launches an instance with what its image and its configuration bring.
    fn prepare(&self, hooks: &str) -> Result<Node> {
        let spec = InstanceSpec { group: Some(GROUP.to_owned()), ..InstanceSpec::default() };
        let node = self.sandbox.launch(&self.sim, spec)?;
        // What comes with the machine image.
        node.shell(
            "getent passwd kafka >/dev/null || echo 'kafka:x:9092:9092::/nonexistent:/usr/sbin/nologin' >> /etc/passwd",
        )?;
        node.shell("getent group kafka >/dev/null || echo 'kafka:x:9092:' >> /etc/group")?;
        node.write("/etc/node-agent/config.toml", CONFIG)?;
        if hooks.ends_with(BROKEN) {
            node.write("/etc/node-agent/override.toml", OVERRIDE)?;
        }
        node.write("/usr/local/lib/node/hooks.sh", hooks)?;
        Ok(node)
    }

    /// Launches an instance and runs the agent on it, its log passed through.
    fn boot(&self, hooks: &str) -> Result<Boot> {
        let node = self.prepare(hooks)?;
        let (started, wall_clock) = (node.log_began.elapsed(), SystemTime::now());
        let mut child = node.agent(&["run", "--once"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().ok_or("the agent has no standard error")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(std::io::Result::ok).try_for_each(|l| sender.send(l))
        });
        let deadline = Instant::now() + STUCK;
        let mut log = Vec::new();
        while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            println!("  agent | {line}");
            log.push(line);
        }
        if Instant::now() >= deadline {
            child.kill()?;
        }
        let code = child.wait()?.code();
        let journal = node.machine.read("/var/lib/node-agent/state.json");
        let journal = journal.map_err(|error| format!("the agent left no journal ({error}); exit {}", exit(code)))?;
        let journal = serde_json::from_str(&journal)?;
        Ok(Boot { node, started: started.as_secs_f64(), wall_clock, code, log, journal })
    }

    /// Launches an instance whose service holds it, and repairs it as an operator would.
    fn hold(&self, checks: &mut Checks) -> Result<Node> {
        let node = self.prepare(&[HOOKS, UNLICENSED].concat())?;
        let mut service = node.agent(&["run"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        // What a session shows does not begin before the node is held.
        let waited = node.agent(&["status", "--wait", "--timeout", "2m"]).output()?;
        checks.equal("the exit code of status", &waited.status.code(), &Some(1));

        let status = type_in(&node, &["status"])?;
        checks.holds("status says held, why, and what to do", {
            ["HELD", "then ABANDON", "FAIL  configure", LICENCE, "node-agent retry"]
                .iter()
                .all(|text| status.contains(text))
        });
        println!("  # echo A1B2 > {LICENCE}");
        node.write(LICENCE, "A1B2\n")?;
        let retried = type_in(&node, &["retry"])?;
        checks.holds("retry ends with success", retried.ends_with("node-agent: result=done\n"));
        type_in(&node, &["status"])?;
        checks.holds(format_args!("{} is InService", node.id), self.wait_for_state(&node.id, "InService"));
        checks.equal("what was sent to Auto Scaling", &*self.completions(&node.id), &["CONTINUE".to_owned()]);
        service.kill()?;
        service.wait()?;
        Ok(node)
    }

    /// The events about this volume, instance or group, with their times since the agent's start.
    fn events<'e>(&self, boot: &Boot, wanted: impl Fn(&What) -> Option<String> + 'e) -> Vec<(f64, String)> {
        let events = self.sim.events();
        events.iter().filter_map(|event| Some((event.t - boot.started, wanted(&event.what)?))).collect()
    }

    /// The results this instance sent that took effect.
    fn completions(&self, instance: &InstanceId) -> Vec<String> {
        self.sim
            .events()
            .calls("autoscaling:CompleteLifecycleAction")
            .into_iter()
            .filter(|call| call.parameters.get("InstanceId").is_some_and(|id| id == instance.as_str()))
            .filter_map(|call| call.parameters.get("LifecycleActionResult").cloned())
            .collect()
    }

    fn wait_for_state(&self, instance: &InstanceId, state: &str) -> bool {
        let entered = |event: &Event| matches!(&event.what, What::Lifecycle(change) if change.instance == instance.as_str() && change.to == state);
        self.sim.wait_for_blocking(entered, Duration::from_secs(10)).is_some()
    }
}

/// A run of the agent and its results.
struct Boot {
    node: Node,
    /// By the event log's clock, in seconds.
    started: f64,
    wall_clock: SystemTime,
    code: Option<i32>,
    log: Vec<String>,
    journal: Value,
}

impl Boot {
    fn last_line(&self) -> &str {
        self.log.last().map_or("", String::as_str)
    }

    /// Whether this run made the filesystem: by the journal's record of the volume, and by that of the step.
    fn formatted(&self) -> bool {
        let formatted = self.journal["volumes"][VOLUME]["formatted_at"].is_string();
        let steps = self.journal["steps"].as_array().into_iter().flatten();
        formatted || steps.filter(|step| step["step"] == "filesystem").any(|step| step["outcome"] != "already-so")
    }

    fn must_have_come_up(&self, world: &World<'_>, checks: &mut Checks) -> Result<()> {
        let id = &self.node.id;
        checks.equal("the agent's exit code", &self.code, &Some(0));
        checks.equal("the agent's last line", self.last_line(), "node-agent: result=done");
        checks.holds(format_args!("{id} is InService"), world.wait_for_state(id, "InService"));
        checks.equal("what was sent to Auto Scaling", &*world.completions(id), &["CONTINUE".to_owned()]);
        let mounted = self.node.shell("findmnt -no FSTYPE,OPTIONS /mydata")?;
        checks.holds(
            format_args!("XFS with noatime: {mounted}"),
            mounted.starts_with("xfs") && mounted.contains("noatime"),
        );
        let file = self.node.machine.read("/etc/kafka/server.properties")?;
        checks.equal("the file from S3", file.as_str(), FILE);
        let owners = self.node.shell("stat -c '%U:%G %a' /mydata /etc/kafka/server.properties")?;
        let [mount_point, file] = *owners.lines().collect::<Vec<_>>() else {
            return Err("stat said too little".into());
        };
        checks.holds(format_args!("/mydata belongs to kafka: {mount_point}"), mount_point.starts_with("kafka:kafka"));
        checks.equal("the file's owner and mode", file, "root:kafka 640");
        let lines = self.node.shell("grep -c /mydata /etc/fstab")?;
        checks.equal("lines for /mydata in fstab", lines.as_str(), "1");
        Ok(())
    }

    fn must_have_failed(&self, world: &World<'_>, checks: &mut Checks) {
        let id = &self.node.id;
        checks.equal("the agent's exit code", &self.code, &Some(1));
        let last = self.last_line();
        checks.holds(
            format_args!("the last line names step, reason and remedy: {last}"),
            last.starts_with("node-agent: result=failed step=health-check code=hook-failed reason=")
                && last.contains("broker 00 never answered")
                && last.contains(" remedy="),
        );
        checks.holds(format_args!("the group gives {id} up"), world.wait_for_state(id, "Terminating"));
        checks.equal("what was sent to Auto Scaling", &*world.completions(id), &["ABANDON".to_owned()]);
        println!();
        self.tell_lifecycle(world);
        println!("  result    exit {}; its last line above says the step, the reason and what to do", exit(self.code));
    }

    fn tell(&self, world: &World<'_>, checks: &mut Checks) -> Result<()> {
        println!("\nWhat happened, in seconds since the agent's start:\n");
        self.tell_steps(checks)?;
        println!();
        self.tell_volume(world, checks)?;
        println!();
        self.tell_lifecycle(world);
        println!("  result    exit {}, exactly one CONTINUE", exit(self.code));
        Ok(())
    }

    fn tell_disk(&self) -> Result<()> {
        println!();
        for (name, script) in [
            ("disk", "findmnt -no SOURCE,TARGET,FSTYPE,OPTIONS /mydata"),
            ("", "df -h --output=target,size,used,avail /mydata"),
            ("fstab", "grep /mydata /etc/fstab"),
            ("files", "stat -c '%A %U:%G %s bytes  %n' /etc/kafka/server.properties $(find /mydata/kafka -type f)"),
        ] {
            for (line, text) in self.node.shell(script)?.lines().enumerate() {
                println!("  {:<9} {text}", if line == 0 { name } else { "" });
            }
        }
        Ok(())
    }

    fn tell_steps(&self, checks: &mut Checks) -> Result<()> {
        let steps = self.journal["steps"].as_array().ok_or("the journal has no steps")?;
        for step in steps {
            let name = step["step"].as_str().unwrap_or_default();
            let changed = step["outcome"] == "changed";
            let began = humantime::parse_rfc3339(step["started_at"].as_str().unwrap_or_default())?;
            let began = began.duration_since(self.wall_clock).unwrap_or_default().as_secs_f64();
            let took = Duration::from_millis(step["took_ms"].as_u64().unwrap_or_default()).as_secs_f64();
            println!("  {began:6.2}  {name:<13} took {took:5.2}  {}", in_words(name, changed));
        }
        let names: Vec<_> = steps.iter().filter_map(|step| step["step"].as_str()).collect();
        let mut told = STEPS.map(|(name, ..)| name);
        // The journal lists them as they began; files are fetched while the volume is waited for.
        let mut seen = names;
        seen.sort_unstable();
        told.sort_unstable();
        checks.equal("the steps", seen.as_slice(), &told);
        let ended_well = |step: &Value| matches!(step["outcome"].as_str(), Some("changed" | "already-so"));
        checks.holds("every step ended well", steps.iter().all(ended_well));
        Ok(())
    }

    /// Which instance had the volume, when it came free, and how soon it was attached.
    fn tell_volume(&self, world: &World<'_>, checks: &mut Checks) -> Result<()> {
        let id = &self.node.id;
        let volume = &world.volume;
        let changes = |attachment: &'static str, ours: bool| {
            world.events(self, move |what| match what {
                What::Volume(change)
                    if change.id == volume.as_str() && change.attachment.as_deref() == Some(attachment) =>
                {
                    change.instance.clone().filter(|holder| (holder == id.as_str()) == ours)
                }
                _ => None,
            })
        };
        let (free, holder) = changes("detached", false).pop().ok_or("nobody had the volume before")?;
        let (attached, _) = changes("attached", true).pop().ok_or("the volume was not attached")?;
        let asked = world.events(self, |what| match what {
            What::Api(call) if call.action == "ec2:AttachVolume" && call.caller.as_deref() == Some(id) => {
                call.code.clone().or(Some(String::new()))
            }
            _ => None,
        });
        let (appeared, path) = world
            .events(self, |what| match what {
                What::Device(change) if change.instance == id.as_str() && change.state == "appeared" => {
                    Some(change.path.clone())
                }
                _ => None,
            })
            .pop()
            .ok_or("the disk did not appear")?;
        checks.equal("attach calls", &asked.len(), &1);
        checks.holds("the attach call was taken", asked.iter().all(|(_, code)| code.is_empty()));
        let asked = asked.first().ok_or("the volume was not asked for")?.0;
        println!("    0.00  {volume} is held by {holder}, which is shutting-down");
        println!("  {free:6.2}  {holder} is gone, the volume is free");
        println!("  {asked:6.2}  the agent asks for it, {:.0} ms later", (asked - free) * 1e3);
        println!(
            "  {attached:6.2}  attached; the disk appears at {appeared:.2} as {path} (on EC2: /dev/nvme1n1 or so)"
        );
        checks.holds("the volume was held when the agent started", free > 0.0);
        let looks = world.events(self, |what| match what {
            What::Api(call) if call.action == "ec2:DescribeVolumes" && call.caller.as_deref() == Some(id) => {
                Some(String::new())
            }
            _ => None,
        });
        // One may have been under way. How soon it comes is shown, not judged: a machine may be busy.
        let looks = looks.iter().filter(|(at, _)| (free..asked).contains(at)).count();
        checks.holds(
            format_args!("asked for by the first look that found it free, of {looks} since then"),
            asked > free && (1..=2).contains(&looks),
        );
        Ok(())
    }

    fn tell_lifecycle(&self, world: &World<'_>) {
        let id = self.node.id.as_str();
        let states = world.events(self, |what| match what {
            What::Lifecycle(change) if change.instance == id => Some(change.to.clone()),
            _ => None,
        });
        let states: Vec<_> = states.into_iter().map(|(at, state)| format!("{state} ({at:.2})")).collect();
        println!("  lifecycle {}", states.join(", "));
        println!("  sent      {}", world.completions(&self.node.id).join(", "));
    }

    /// What is on the volume.
    fn data(&self) -> Result<Data> {
        let sums = self.node.shell("cd /mydata && find . -type f -exec sha256sum {} + | sort -k 2")?;
        let files =
            sums.lines().filter_map(|line| line.split_once("  ")).map(|(sum, path)| (path.to_owned(), sum.to_owned()));
        let uuid = self.node.shell("blkid -p -s UUID -o value \"$(findmnt -no SOURCE /mydata)\"")?;
        let bytes = self.node.shell("find /mydata -type f -printf '%s\\n' | awk '{ sum += $1 } END { print sum }'")?;
        let files: BTreeMap<_, _> = files.collect();
        let in_words = format!("{} files, {bytes} bytes, filesystem {uuid}", files.len());
        Ok(Data { files, uuid, in_words })
    }
}

/// A volume's contents.
#[derive(Debug, PartialEq)]
struct Data {
    /// Path → SHA-256.
    files: BTreeMap<String, String>,
    uuid: String,
    in_words: String,
}

/// The steps, what they do where there is something to do, and where there is not.
const STEPS: [(&str, &str, &str); 10] = [
    ("identity", "", "the instance metadata confirms the node's address"),
    ("attach", "the volume is waited for and attached", "the volume is attached already"),
    ("filesystem", "the disk is proven blank, and XFS is made on it", "XFS is on the disk: nothing is formatted"),
    ("mount", "mounted at /mydata, with a line in fstab", "mounted already"),
    ("grow", "the filesystem is grown to the disk's size", "the filesystem fills the disk already"),
    ("ownership", "/mydata gets its owner", "/mydata has its owner already"),
    ("files", "fetched from S3 while the volume is waited for, written now", "written before"),
    ("configure", "the user's function configures the broker", "done before"),
    ("health-check", "the user's function waits until the broker answers", "done before"),
    ("complete", "CONTINUE is sent to Auto Scaling", "sent before"),
];

fn in_words(name: &str, changed: bool) -> &'static str {
    let told = STEPS.iter().find(|(step, ..)| *step == name);
    told.map_or("", |(_, done, already_so)| if changed { done } else { already_so })
}

fn exit(code: Option<i32>) -> String {
    code.map_or_else(|| "by a signal".to_owned(), |code| code.to_string())
}
