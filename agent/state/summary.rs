//! The state in one line, for systemd's status.

use std::time::Duration;

use super::lifecycle::Clock;
use super::model::{Phase, State};
use super::record::Outcome;
use crate::failure;
use crate::readable;
use crate::time::rough;

/// The state in one line, for `systemctl status`.
pub(super) fn in_a_line(state: &State) -> String {
    let at_work = || {
        let running = state.records(state.sequence()).iter().rev().find(|record| record.outcome == Outcome::Running);
        let Some(record) = running else { return "beginning".to_owned() };
        let volume = record.subject.as_deref().map(|volume| format!(" {volume}")).unwrap_or_default();
        let allowed = rough(Duration::from_millis(record.allowed_ms));
        match &record.waiting {
            Some(why) => format!("{}{volume}: waiting: {why}", record.step),
            None => format!("{}{volume}: running since {}, at most {allowed}", record.step, record.started_at),
        }
    };
    let failed = || {
        let Some(fault) = &state.fault else { return String::new() };
        let (step, message) = (failure::place(fault.step), fault.error.message.lines().next().unwrap_or_default());
        format!("{step}: {message}; {}", readable::remedy(&fault.error.remedy))
    };
    match state.phase {
        Phase::Running => at_work(),
        Phase::Held => match state.lifecycle.hold_until(&Clock::now(&state.boot_id)) {
            Some(until) if state.lifecycle.outcome().is_none() => format!("held until {until}: {}", failed()),
            _ => format!("held: {}", failed()),
        },
        Phase::Failed => format!("failed: {}", failed()),
        Phase::Done => "the node is up".to_owned(),
        Phase::Warm => "in a warm pool: nothing is touched".to_owned(),
        Phase::Stopped => "stopped before the end; the next start resumes".to_owned(),
        Phase::Leaving => format!("the node leaves: {}", at_work()),
        Phase::Left => "the node has left; the instance may be terminated".to_owned(),
    }
}
