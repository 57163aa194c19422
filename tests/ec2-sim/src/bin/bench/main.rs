//! `make bench`: what a boot by the agent costs beside its floor, which is the bare commands and the waiting that no program can
//! avoid; how many agents at once bear an account's request quotas; what a plan of a roll costs; what the service costs; how soon a
//! replacement has the volume of a node that goes.
//!
//! ```text
//! rows       which boots      lab      the region they are measured in
//! boot       one boot         floor    bare commands on disks of their own, in the same run
//! fleet      many agents      quotas   what an account allows
//! roll       a plan           service  holding, in service      handover  departures
//! usage      processor time and memory of a process             config    the nodes' configurations
//! measured   median and aims  results  everything, for JSON     table     as text    plot  as SVG
//! ```

mod boot;
mod config;
mod fleet;
mod floor;
mod handover;
mod lab;
mod measured;
mod plot;
mod quotas;
mod results;
mod roll;
mod rows;
mod service;
mod table;
mod usage;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use ec2_sim::Latencies;
use ec2_sim::sandbox::{self, Sandbox};

use boot::Labs;
use lab::Lab;
use results::{About, BootResult, Results};
use rows::{Row, ec2_latencies};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Measures the agent named by `NODE_AGENT`.
#[derive(Debug, Parser)]
struct Arguments {
    /// Measures these parts alone
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Boots of each row; of those that wait for EC2 five at most
    #[arg(long, default_value_t = 15)]
    runs: usize,
    /// Measures only boots whose name contains this, `xfs, blank` for example
    #[arg(long, default_value = "")]
    rows: String,
    /// The size of each disk
    #[arg(long, default_value_t = 8)]
    gib: u64,
    /// How many agents at once
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000])]
    agents: Vec<usize>,
    /// How many groups `roll` plans
    #[arg(long, default_value_t = 500)]
    groups: usize,
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
    /// Writes all results into this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Writes a plot into this file, as SVG; the document, which is to be in the same folder, shows it
    #[arg(long)]
    plot: Option<PathBuf>,
    /// Writes the tables into this document, between its comments
    #[arg(long)]
    document: Option<PathBuf>,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Boots beside their floors
    Boots,
    /// Many agents at once against an account's quotas
    Fleet,
    /// The plan of a roll of many groups
    Roll,
    /// A node that is held, and one in service
    Service,
    /// Departures, and replacements that take the volume
    Handover,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    sandbox::enter(|sandbox| match measure(sandbox, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    })
}

impl Arguments {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn check(&self, sandbox: &Sandbox) -> Result<()> {
        let counts = [self.runs, self.departures, self.groups];
        if self.gib == 0 || counts.contains(&0) || self.agents.contains(&0) {
            return Err("--runs, --gib, --agents, --groups and --departures are at least 1".into());
        }
        // Before minutes are spent on results that cannot be written.
        if let Some(document) = &self.document {
            within_comments(&read(sandbox, document)?, "", document)?;
        }
        Ok(())
    }
}

fn measure(sandbox: &Sandbox, arguments: &Arguments) -> Result<()> {
    arguments.check(sandbox)?;
    let about = About::new(sandbox, arguments.runs, arguments.gib)?;
    let mut results =
        Results { schema: 1, about, boots: vec![], aims: vec![], fleet: vec![], roll: vec![], sections: vec![] };
    if arguments.wants(Part::Boots) {
        measure_boots(sandbox, arguments, &mut results)?;
    }
    if arguments.wants(Part::Service) {
        let lab = Lab::new(sandbox, "service", Latencies::none())?;
        results.sections.extend(service::hold(&lab, arguments.runs, Duration::from_secs(arguments.idle_seconds))?);
        results.sections.push(service::steady(&lab, Duration::from_secs(arguments.steady_seconds))?);
    }
    if arguments.wants(Part::Handover) {
        let shutting_down = Duration::from_secs(arguments.shutting_down_seconds);
        results.sections.extend(handover::measure(sandbox, arguments.departures, shutting_down)?);
    }
    if arguments.wants(Part::Roll) {
        results.roll = roll::measure(sandbox, arguments.groups)?;
    }
    if arguments.wants(Part::Fleet) {
        results.fleet = fleet::measure(sandbox, &arguments.agents)?;
    }
    write(sandbox, arguments, &results)
}

fn measure_boots(sandbox: &Sandbox, arguments: &Arguments, results: &mut Results) -> Result<()> {
    let labs = Labs {
        fast: Lab::new(sandbox, "fast", Latencies::none())?,
        slow: Lab::new(sandbox, "slow", ec2_latencies())?,
        disk_bytes: arguments.gib << 30,
    };
    let mut measured = Vec::new();
    for row in Row::all().into_iter().filter(|row| row.name().contains(&arguments.rows)) {
        eprintln!("boot: {}", row.name());
        // One to warm up.
        labs.run(&row)?;
        let runs = (0..row.runs(arguments.runs)).map(|_| labs.run(&row)).collect::<Result<Vec<_>>>()?;
        measured.push((row, BootResult::new(&row, &runs)));
    }
    results.aims = results::aims(&measured);
    results.boots = measured.into_iter().map(|(_, result)| result).collect();
    Ok(())
}

fn write(sandbox: &Sandbox, arguments: &Arguments, results: &Results) -> Result<()> {
    let plot = arguments.plot.as_deref().and_then(Path::file_name).map(Path::new);
    let text = plot.map_or_else(String::new, table::plot_link) + &table::text(results);
    print!("{text}");
    let save = |path: &Path, text: String| {
        fs::write(sandbox.outside(path), text).map_err(|error| format!("writing {}: {error}", path.display()))
    };
    if let Some(path) = &arguments.json {
        save(path, serde_json::to_string_pretty(results)? + "\n")?;
    }
    if let Some(path) = &arguments.plot {
        save(path, plot::svg(results))?;
    }
    if let Some(path) = &arguments.document {
        save(path, within_comments(&read(sandbox, path)?, &text, path)?)?;
    }
    Ok(())
}

fn read(sandbox: &Sandbox, path: &Path) -> Result<String> {
    Ok(fs::read_to_string(sandbox.outside(path)).map_err(|error| format!("reading {}: {error}", path.display()))?)
}

/// The document with `text` between its comments.
fn within_comments(document: &str, text: &str, path: &Path) -> Result<String> {
    let (begin, end) = ("<!-- bench -->\n", "<!-- end of bench -->");
    let parts = document.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let (before, after) = parts.ok_or_else(|| format!("{} has no {} … {end}", path.display(), begin.trim_end()))?;
    Ok(format!("{before}{begin}{text}{end}{after}"))
}
