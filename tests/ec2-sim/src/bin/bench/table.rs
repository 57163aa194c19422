//! The results as text: Markdown that is readable on a terminal, so that what is printed is what the document holds.

use std::fmt::Write;
use std::path::Path;

use crate::measured::{Figure, Measured, Section};
use crate::results::{AimResult, BootResult, FleetResult, Results, RollResult};

/// Everything, in one text.
pub(crate) fn text(results: &Results) -> String {
    let mut text = about(results);
    if !results.boots.is_empty() {
        text += &boots(&results.boots);
    }
    if !results.aims.is_empty() {
        text += &aims(&results.aims);
    }
    if !results.fleet.is_empty() {
        text += &fleet(&results.fleet);
    }
    if !results.roll.is_empty() {
        text += &roll(&results.roll);
    }
    for part in &results.sections {
        text += &section(part);
    }
    text
}

/// The plot, in a document of the same folder.
pub(crate) fn plot_link(file: &Path) -> String {
    let described = "Bars of times divided by their floors, for each kind of boot and each fleet";
    format!("![{described}]({})\n\n", file.display())
}

fn about(results: &Results) -> String {
    let about = &results.about;
    format!(
        "{}, profile {}, {} KiB; {}. {} processors, Linux {}, load average at the start {}. Disks are loop devices of {} GiB in memory.\n",
        about.agent,
        about.profile,
        about.binary_kib,
        about.date,
        about.processors,
        about.kernel,
        about.load,
        about.disk_gib
    )
}

fn boots(boots: &[BootResult]) -> String {
    let rows = boots.iter().map(|boot| {
        vec![
            boot.name.clone(),
            spread(&boot.to_continue),
            short(boot.floor.median),
            format!("{:.2}", boot.ratio.median),
            format!("{} / {}", short(boot.cpu_own.median), short(boot.cpu_all.median)),
            short(boot.peak.max),
            format!("{:.0} / {:.0} / {:.0}", boot.api_calls.median, boot.s3_calls.median, boot.imds_calls.median),
            boot.limit.to_owned(),
        ]
    });
    let header = [
        "boot",
        "process start to CONTINUE, ms",
        "floor, ms",
        "÷ floor",
        "CPU of agent / with children, ms",
        "peak RSS, MiB",
        "API / S3 / IMDS calls",
        "limited by",
    ];
    let mut text = format!("\n### Boots\n\n{}", table(&header, &rows.collect::<Vec<_>>()));
    let waiting = boots.iter().filter_map(|boot| Some((boot, boot.moments.as_ref()?))).map(|(boot, at)| {
        vec![
            boot.name.clone(),
            short(at.device.median),
            format!("{:.3}", at.mounted_by_device.median),
            format!("{:.3}", at.hooks_by_device.median),
            short(at.attached.median),
            format!("{:.3}", at.continue_by_attached.median),
        ]
    });
    let waiting: Vec<Vec<String>> = waiting.collect();
    if !waiting.is_empty() {
        let header = [
            "boot that waits for EC2",
            "device, ms",
            "mounted ÷ device",
            "hooks ÷ device",
            "`attached`, ms",
            "CONTINUE ÷ `attached`",
        ];
        text += "\n";
        text += &table(&header, &waiting);
    }
    text
}

fn aims(aims: &[AimResult]) -> String {
    let rows = aims.iter().map(|aim| {
        vec![
            aim.what.clone(),
            format!("{} {}", short(aim.value), aim.unit).trim_end().to_owned(),
            format!("{} {}", aim.aim.at_most, aim.unit).trim_end().to_owned(),
            held(aim.aim.held).to_owned(),
        ]
    });
    format!("\n### Aims\n\n{}", table(&["aim", "measured", "at most", "held"], &rows.collect::<Vec<_>>()))
}

fn held(held: bool) -> &'static str {
    if held { "yes" } else { "no" }
}

fn fleet(fleets: &[FleetResult]) -> String {
    let rows = fleets.iter().map(|fleet| {
        let endings = fleet.endings.iter().map(|(ending, count)| format!(" ({count} × {ending})"));
        vec![
            fleet.agents.to_string(),
            short(fleet.started_within),
            short(fleet.last_continue),
            short(fleet.floor),
            fleet.limit.clone(),
            format!("{:.2}", fleet.ratio),
            format!("{} / {:.0}", short(fleet.calls_a_node), fleet.single_calls),
            format!("{:.2}", fleet.calls_ratio),
            format!("{:.0} %", fleet.throttled_share * 100.0),
            format!("{}{}", fleet.failures, endings.collect::<String>()),
        ]
    });
    let header = [
        "agents",
        "started within, s",
        "last CONTINUE, s",
        "floor, s",
        "floor's bucket",
        "÷ floor",
        "calls a node / of a single node",
        "ratio",
        "throttled",
        "failures",
    ];
    let mut text = format!("\n### Fleets\n\n{}", table(&header, &rows.collect::<Vec<_>>()));
    if let Some(largest) = fleets.iter().max_by_key(|fleet| fleet.agents) {
        let rows = largest
            .calls
            .iter()
            .map(|(action, (all, throttled))| vec![format!("`{action}`"), all.to_string(), throttled.to_string()]);
        let called = format!("called by {} agents", largest.agents);
        let _ = write!(text, "\n{}", table(&[called.as_str(), "calls", "throttled"], &rows.collect::<Vec<_>>()));
    }
    text
}

fn roll(rolls: &[RollResult]) -> String {
    let rows = rolls.iter().map(|roll| {
        vec![
            roll.groups.to_string(),
            if roll.quotas { "an account's" } else { "none" }.to_owned(),
            short(roll.seconds),
            short(roll.floor),
            if roll.floor > 0.0 { format!("{:.2}", roll.ratio) } else { "-".to_owned() },
            roll.answered.to_string(),
            roll.throttled.to_string(),
        ]
    });
    let header = ["groups", "quotas", "plan, s", "floor, s", "÷ floor", "calls answered", "throttled"];
    format!("\n### The plan of a roll\n\n{}", table(&header, &rows.collect::<Vec<_>>()))
}

fn section(section: &Section) -> String {
    let rows = section.figures.iter().map(|Figure { what, value, unit, aim }| {
        let aim = aim.map(|aim| format!("at most {} {unit}: {}", aim.at_most, held(aim.held)));
        vec![what.clone(), format!("{} {unit}", spread(value)).trim_end().to_owned(), aim.unwrap_or_default()]
    });
    format!("\n### {}\n\n{}", section.title, table(&["what", "measured", "aim"], &rows.collect::<Vec<_>>()))
}

/// The median, and between which values.
fn spread(value: &Measured) -> String {
    let Measured { median, min, max } = *value;
    if (max - min).abs() < f64::EPSILON {
        return short(median);
    }
    format!("{} ({}–{})", short(median), short(min), short(max))
}

/// About three digits.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// A Markdown table whose columns are aligned.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].chars().count(), 3]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |text: &mut String, cells: Vec<&str>| {
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
    };
    let mut text = String::new();
    line(&mut text, header.to_vec());
    for width in &widths {
        let _ = write!(text, "|{}", "-".repeat(width + 2));
    }
    text.push_str("|\n");
    for row in rows {
        line(&mut text, row.iter().map(String::as_str).collect());
    }
    text
}
