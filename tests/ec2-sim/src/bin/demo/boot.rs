//! A run of the agent on a fresh instance: what it did is told, and compared with what the region has seen.

use std::time::{Duration, SystemTime};

use ec2_sim::What;
use ec2_sim::sandbox::Node;
use serde_json::Value;

use crate::Result;
use crate::checks::Checks;
use crate::data::Data;
use crate::terminal::exit;
use crate::world::{FILE, VOLUME, World};

/// A run of the agent and its results.
pub(crate) struct Boot {
    pub(crate) node: Node,
    /// By the event log's clock, in seconds.
    pub(crate) started: f64,
    pub(crate) wall_clock: SystemTime,
    pub(crate) code: Option<i32>,
    pub(crate) log: Vec<String>,
    pub(crate) journal: Value,
}

impl Boot {
    fn last_line(&self) -> &str {
        self.log.last().map_or("", String::as_str)
    }

    /// Whether this run made the filesystem: by the journal's record of the volume, and by that of the step.
    pub(crate) fn formatted(&self) -> bool {
        let formatted = self.journal["volumes"][VOLUME]["formatted_at"].is_string();
        let steps = self.journal["steps"].as_array().into_iter().flatten();
        formatted || steps.filter(|step| step["step"] == "filesystem").any(|step| step["outcome"] != "already-so")
    }

    pub(crate) fn must_have_come_up(&self, world: &World<'_>, checks: &mut Checks) -> Result<()> {
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

    pub(crate) fn must_have_failed(&self, world: &World<'_>, checks: &mut Checks) {
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

    pub(crate) fn tell(&self, world: &World<'_>, checks: &mut Checks) -> Result<()> {
        println!("\nWhat happened, in seconds since the agent's start:\n");
        self.tell_steps(checks)?;
        println!();
        self.tell_volume(world, checks)?;
        println!();
        self.tell_lifecycle(world);
        println!("  result    exit {}, exactly one CONTINUE", exit(self.code));
        Ok(())
    }

    pub(crate) fn tell_disk(&self) -> Result<()> {
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
    pub(crate) fn data(&self) -> Result<Data> {
        Data::read(&self.node.machine)
    }
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
