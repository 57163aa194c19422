//! The report of `status` as text.

use std::fmt::Write as _;
use std::time::Duration;

use super::report::{Overall, Report, StepOutcome, StepReport};
use crate::readable::{self, Page};
use crate::state::{LaunchOutcome, Phase};
use crate::time::rough;

const GREEN: &str = "32";
const RED: &str = "31";
const YELLOW: &str = "33";
const DIM: &str = "2";

/// The whole text.
pub(super) fn render(report: &Report, colours: bool) -> String {
    let mut text = Page::new(colours);
    // Writing to a Page cannot fail.
    let _ = write!(text, "{}: ", subject(report));
    text.paint(colour(report.state), &headline(report));
    let _ = text.write_str("\n");
    let mut unreported = report.failure.as_ref();
    for step in &report.steps {
        let (word, code) = match step.outcome {
            StepOutcome::Pending => ("-", DIM),
            StepOutcome::Running => ("...", YELLOW),
            StepOutcome::Interrupted => ("cut", YELLOW),
            StepOutcome::AlreadySo | StepOutcome::Changed => ("ok", GREEN),
            StepOutcome::Failed => ("FAIL", RED),
        };
        let line = format!("{:<13} {}", step.step.as_str(), details(step));
        let _ = text.write_str("  ");
        text.paint(code, &format!("{word:<4}"));
        let _ = writeln!(text, "  {}", line.trim_end());
        if let Some(why) = step.waiting.as_ref().filter(|_| step.outcome == StepOutcome::Running) {
            let _ = writeln!(text, "        waits: {why}");
        }
        let is_failed_step = matches!(step.outcome, StepOutcome::Failed | StepOutcome::Interrupted);
        let decisive = unreported.take_if(|failure| is_failed_step && failure.step == Some(step.step));
        // The remedy of the failure that has ended the sequence stands at the end.
        let remedy = step.error.as_ref().filter(|_| decisive.is_none()).map(|error| &error.remedy);
        if let Some(error) = decisive.map(|failure| &failure.error).or(step.error.as_ref()) {
            // The output follows line by line.
            for line in error.public.lines() {
                let _ = writeln!(text, "        {line}");
            }
            for line in &step.output {
                let _ = writeln!(text, "        | {}", readable::last_state(line));
            }
        }
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "        what to do: {}", readable::remedy(remedy));
        }
    }
    for line in unreported.iter().flat_map(|failure| failure.error.message.lines()) {
        let _ = writeln!(text, "  {line}");
    }
    for warning in &report.warnings {
        let volume = warning.subject.as_deref().map(|volume| format!(" {volume}")).unwrap_or_default();
        let line = format!("warning: {}{volume}: {}", warning.step, readable::commands(&warning.message));
        text.paint(YELLOW, &line);
        let _ = text.write_str("\n");
    }
    if report.rebalance_recommended {
        let _ = writeln!(text, "EC2 recommends to replace this spot instance: it may take it soon");
    }
    let remedy =
        report.failure.as_ref().map(|failure| failure.error.remedy.as_str()).or_else(|| what_to_do(report.state));
    let remedy =
        remedy.filter(|_| !matches!(report.state, Overall::Phase(Phase::Running | Phase::Leaving | Phase::Left)));
    if let Some(remedy) = remedy {
        let _ = writeln!(text, "what to do: {}", readable::remedy(remedy));
    }
    text.into_text()
}

fn colour(state: Overall) -> &'static str {
    match state {
        Overall::Phase(Phase::Done | Phase::Warm | Phase::Left) => GREEN,
        Overall::Phase(Phase::Held | Phase::Failed) | Overall::Dead => RED,
        Overall::Phase(Phase::Running | Phase::Stopped | Phase::Leaving) | Overall::NeverStarted => YELLOW,
    }
}

/// `node 00 (10.0.1.10) on i-0abc in kafka-node-00`
pub(super) fn subject(report: &Report) -> String {
    let mut text = match &report.node {
        Some(node) => format!("node {} ({})", node.id, node.ip),
        None => "this node".to_owned(),
    };
    if let Some(instance) = &report.instance_id {
        let _ = write!(text, " on {instance}");
    }
    if let Some(group) = report.node.as_ref().and_then(|node| node.asg_name.as_ref()) {
        let _ = write!(text, " in {group}");
    }
    text
}

/// The node's state in a few words.
pub fn headline(report: &Report) -> String {
    let left = report.hold.as_ref().map(|hold| whole_minutes(hold.seconds_left));
    match (report.state, left) {
        (Overall::Phase(Phase::Running), Some(left)) => format!("running again, {left} of its hold left"),
        (Overall::Phase(Phase::Running), None) => "running".to_owned(),
        (Overall::Phase(Phase::Held), Some(left)) => {
            format!("HELD, {left} left, then ABANDON, which terminates this instance")
        }
        (Overall::Phase(Phase::Held), None) if report.launch.is_some() => {
            "FAILED after its launch was completed; held".to_owned()
        }
        (Overall::Phase(Phase::Held), None) => "HELD".to_owned(),
        (Overall::Phase(Phase::Failed), _) => match report.launch {
            Some(LaunchOutcome::Abandoned) => "FAILED, ABANDON was sent".to_owned(),
            _ => "FAILED".to_owned(),
        },
        (Overall::Phase(Phase::Done), _) => match report.launch {
            Some(outcome) => format!("up ({outcome})"),
            None => "up".to_owned(),
        },
        (Overall::Phase(Phase::Warm), _) => "in a warm pool, nothing is touched".to_owned(),
        (Overall::Phase(Phase::Stopped), _) => "stopped before the end".to_owned(),
        (Overall::Phase(Phase::Leaving), _) => "leaving: the instance is to go".to_owned(),
        (Overall::Phase(Phase::Left), _) if report.untold().is_some() => {
            "has left, but Auto Scaling was not told: it waits until its hook times out".to_owned()
        }
        (Overall::Phase(Phase::Left), _) => "has left: the instance may be terminated".to_owned(),
        (Overall::Dead, _) => "DEAD, never finished".to_owned(),
        (Overall::NeverStarted, _) => "never started in this boot".to_owned(),
    }
}

fn what_to_do(state: Overall) -> Option<&'static str> {
    match state {
        Overall::Dead => Some("see why it died (journalctl -u node-agent, dmesg), then: node-agent retry"),
        Overall::Phase(Phase::Stopped) => Some("node-agent retry resumes it"),
        Overall::NeverStarted => Some("node-agent retry starts it; it needs a configuration: node-agent check"),
        Overall::Phase(_) => None,
    }
}

/// `vol-0abc  12s of 30m`
fn details(step: &StepReport) -> String {
    let mut parts = Vec::new();
    let took = rough(Duration::from_millis(step.took_ms));
    match step.outcome {
        StepOutcome::Pending => parts.extend(step.prepared.clone()),
        StepOutcome::Running => parts.push(format!("{took} of {}", rough(Duration::from_millis(step.allowed_ms)))),
        StepOutcome::AlreadySo => parts.push("already so".to_owned()),
        StepOutcome::Changed | StepOutcome::Failed | StepOutcome::Interrupted => parts.push(took),
    }
    let volume = step.volume.as_deref().map(|volume| format!("{volume}  ")).unwrap_or_default();
    volume + &parts.join(", ")
}

/// A duration in minutes, and in seconds only below two minutes.
fn whole_minutes(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}
