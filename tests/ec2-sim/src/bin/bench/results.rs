//! All results, as they are written for programs.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use ec2_sim::sandbox::Sandbox;
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::Result;
use crate::boot::{METADATA, Moments, Run};
use crate::measured::{Aim, Measured, Section, number};
use crate::rows::{Row, Waiting};

/// Everything that one run of this program has measured.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) schema: u32,
    pub(crate) about: About,
    pub(crate) boots: Vec<BootResult>,
    pub(crate) aims: Vec<AimResult>,
    pub(crate) fleet: Vec<FleetResult>,
    pub(crate) roll: Vec<RollResult>,
    pub(crate) sections: Vec<Section>,
}

/// The agent and the machine.
#[derive(Debug, Serialize)]
pub(crate) struct About {
    pub(crate) agent: String,
    /// By the folder of its binary.
    pub(crate) profile: String,
    pub(crate) binary_kib: u64,
    pub(crate) date: String,
    pub(crate) processors: i64,
    pub(crate) kernel: String,
    /// Other work on the machine at the start: the load average of a minute.
    pub(crate) load: String,
    pub(crate) runs: usize,
    pub(crate) disk_gib: u64,
}

/// A row of the table of boots. Times in milliseconds, memory in MiB.
#[derive(Debug, Serialize)]
pub(crate) struct BootResult {
    pub(crate) name: String,
    pub(crate) limit: &'static str,
    pub(crate) file_system: &'static str,
    pub(crate) volumes: usize,
    pub(crate) files: usize,
    pub(crate) runs: usize,
    pub(crate) to_continue: Measured,
    pub(crate) to_exit: Measured,
    pub(crate) bare: Measured,
    pub(crate) floor: Measured,
    /// Time by floor, each in the same run.
    pub(crate) ratio: Measured,
    /// Time minus floor, each in the same run.
    pub(crate) above: Measured,
    pub(crate) cpu_own: Measured,
    pub(crate) cpu_all: Measured,
    pub(crate) peak: Measured,
    /// Of EC2 and Auto Scaling.
    pub(crate) api_calls: Measured,
    pub(crate) s3_calls: Measured,
    pub(crate) imds_calls: Measured,
    pub(crate) calls: BTreeMap<String, Measured>,
    pub(crate) moments: Option<MomentResult>,
}

/// What happened when, in a row that waits for EC2.
#[derive(Debug, Serialize)]
pub(crate) struct MomentResult {
    pub(crate) device: Measured,
    pub(crate) mounted: Measured,
    pub(crate) hooks: Measured,
    pub(crate) attached: Measured,
    pub(crate) mounted_by_device: Measured,
    pub(crate) hooks_by_device: Measured,
    pub(crate) continue_by_attached: Measured,
}

/// Something that should be at most so much.
#[derive(Debug, Serialize)]
pub(crate) struct AimResult {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) aim: Aim,
}

/// Many agents at once. Times in seconds.
#[derive(Debug, Serialize)]
pub(crate) struct FleetResult {
    pub(crate) agents: usize,
    /// From the first agent's start to the last one's.
    pub(crate) started_within: f64,
    pub(crate) last_continue: f64,
    /// A single agent's time without quotas.
    pub(crate) single: f64,
    pub(crate) floor: f64,
    /// The bucket that the floor comes from.
    pub(crate) limit: String,
    pub(crate) ratio: f64,
    pub(crate) calls_a_node: f64,
    pub(crate) single_calls: f64,
    pub(crate) calls_ratio: f64,
    pub(crate) throttled_share: f64,
    pub(crate) failures: usize,
    /// How the failed agents ended, each with how many.
    pub(crate) endings: BTreeMap<String, usize>,
    /// All calls and the throttled ones, by action.
    pub(crate) calls: BTreeMap<String, (usize, usize)>,
}

/// A plan of `node-agent roll`.
#[derive(Debug, Serialize)]
pub(crate) struct RollResult {
    pub(crate) groups: usize,
    pub(crate) quotas: bool,
    pub(crate) seconds: f64,
    pub(crate) floor: f64,
    pub(crate) ratio: f64,
    pub(crate) answered: usize,
    pub(crate) throttled: usize,
}

impl About {
    pub(crate) fn new(sandbox: &Sandbox, runs: usize, disk_gib: u64) -> Result<Self> {
        let agent = &sandbox.agent;
        let mut folders = agent.components().rev().filter_map(|part| part.as_os_str().to_str());
        let profile = folders.find(|part| matches!(*part, "debug" | "release" | "dist")).unwrap_or("unknown");
        let version = Command::new(sandbox.binary()).arg("--version").output()?.stdout;
        let read = |path: &str| Ok::<_, std::io::Error>(fs::read_to_string(path)?.trim().to_owned());
        Ok(Self {
            agent: String::from_utf8_lossy(&version).trim().to_owned(),
            profile: profile.to_owned(),
            binary_kib: fs::metadata(sandbox.binary())?.len() >> 10,
            date: OffsetDateTime::now_utc().format(format_description!("[year]-[month]-[day] [hour]:[minute] UTC"))?,
            processors: sysconf(SysconfVar::_NPROCESSORS_ONLN)?.unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease")?,
            load: read("/proc/loadavg")?.split(' ').next().unwrap_or_default().to_owned(),
            runs,
            disk_gib,
        })
    }
}

impl BootResult {
    pub(crate) fn new(row: &Row, runs: &[Run]) -> Self {
        let of = |value: fn(&Run) -> f64| Measured::of(runs.iter().map(value));
        let count = |counts: &dyn Fn(&str) -> bool| {
            let sum = |run: &Run| -> usize {
                run.calls.iter().filter(|(action, _)| counts(action)).map(|(_, count)| count).sum()
            };
            Measured::of(runs.iter().map(|run| number(sum(run))))
        };
        let mut actions: Vec<&String> = runs.iter().flat_map(|run| run.calls.keys()).collect();
        actions.sort();
        actions.dedup();
        let calls = actions.into_iter().map(|action| (action.clone(), count(&|other| other == action.as_str())));
        Self {
            name: row.name(),
            limit: row.limit(),
            file_system: row.file_system,
            volumes: row.volumes,
            files: row.files,
            runs: runs.len(),
            to_continue: of(|run| run.to_continue),
            to_exit: of(|run| run.to_exit),
            bare: of(|run| run.bare),
            floor: of(|run| run.floor),
            ratio: of(|run| run.to_continue / run.floor),
            above: of(|run| run.to_continue - run.floor),
            cpu_own: of(|run| run.cpu_own),
            cpu_all: of(|run| run.cpu_all),
            peak: of(|run| run.peak_own),
            api_calls: count(&|action| action.starts_with("ec2:") || action.starts_with("autoscaling:")),
            s3_calls: count(&|action| action.starts_with("s3:")),
            imds_calls: count(&|action| action == METADATA),
            calls: calls.collect(),
            moments: MomentResult::new(runs),
        }
    }
}

impl MomentResult {
    fn new(runs: &[Run]) -> Option<Self> {
        let seen: Vec<(&Run, Moments)> = runs.iter().filter_map(|run| Some((run, run.moments?))).collect();
        if seen.is_empty() {
            return None;
        }
        let of = |value: fn(&Run, &Moments) -> f64| Measured::of(seen.iter().map(|(run, at)| value(run, at)));
        Some(Self {
            device: of(|_, at| at.device),
            mounted: of(|_, at| at.mounted),
            hooks: of(|_, at| at.hooks),
            attached: of(|_, at| at.attached),
            mounted_by_device: of(|_, at| at.mounted / at.device),
            hooks_by_device: of(|_, at| at.hooks / at.device),
            continue_by_attached: of(|run, at| run.to_continue / at.attached),
        })
    }
}

/// What the boots should come to, as far as the rows were measured.
pub(crate) fn aims(boots: &[(Row, BootResult)]) -> Vec<AimResult> {
    let mut aims = Vec::new();
    let mut aim = |what: String, value: f64, unit: &'static str, at_most: f64| {
        aims.push(AimResult { what, value, unit, aim: Aim { at_most, held: value <= at_most } });
    };
    for (row, boot) in boots {
        let name = &boot.name;
        let twin = |volumes: usize| {
            let same = |other: &Row| {
                (other.file_system, other.existing, other.waiting, other.files, other.volumes)
                    == (row.file_system, row.existing, row.waiting, row.files, volumes)
            };
            boots.iter().find(|(other, _)| same(other)).map(|(_, result)| result)
        };
        if row.waiting == Waiting::Nothing && row.volumes == 1 && row.files == 0 {
            aim(format!("{name}: above the bare commands"), boot.above.median, "ms", 70.0);
            aim(format!("{name}: processor time of the agent alone"), boot.cpu_own.median, "ms", 30.0);
            aim(format!("{name}: peak memory"), boot.peak.max, "MiB", 8.0);
        }
        if let (true, Some(one)) = (row.volumes == 16, twin(1)) {
            let ratio = boot.to_continue.median / one.to_continue.median;
            aim(format!("{name}: by one volume's time"), ratio, "", 1.3);
        }
        if let Some(at) = &boot.moments {
            aim(format!("{name}: CONTINUE by EC2's `attached`"), at.continue_by_attached.median, "", 1.05);
            if row.volumes == 1 {
                aim(format!("{name}: hooks' begin by the device"), at.hooks_by_device.median, "", 1.05);
            }
        }
    }
    aims
}
