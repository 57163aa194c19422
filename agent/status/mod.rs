//! `node-agent status`: how the node stands, from what the agent wrote down and what is mounted. Needs neither the service nor
//! the network.

pub mod metrics;
mod mounts;
pub mod report;
mod text;

use std::fs;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use self::report::{Overall, Report};
use crate::failure::{Code, Failure};
use crate::host;
use crate::journal::{self, State};
use crate::publish::LIVE;
use crate::readable;
use crate::service::control::{self, Request};
use crate::session::Places;

/// How often somebody who waits looks again.
const POLL: Duration = Duration::from_millis(200);

/// Waits until the node is done or has failed, at most for `timeout`, and tells how it stands then.
pub async fn wait(places: &Places, timeout: Option<Duration>) -> Result<Report, Failure> {
    let end = timeout.map(|timeout| Instant::now() + timeout);
    let settled = async {
        loop {
            let report = look(places)?;
            if report.state.is_settled() {
                return Ok(report);
            }
            // Where a service is at work and may be asked, it tells when it is through, and what happens meanwhile.
            if report.state == Overall::Running
                && let Ok(Some(pending)) = control::ask(&places.runtime_dir, Request::Follow).await
            {
                drop(pending.follow().await);
                continue;
            }
            sleep(POLL).await;
        }
    };
    match end {
        None => settled.await,
        Some(end) => match tokio::time::timeout_at(end, settled).await {
            Ok(report) => report,
            Err(_) => Ok(Report { exit_code: Overall::Running.exit_code(), ..look(places)? }),
        },
    }
}

/// The report as it is printed.
pub fn render(report: &Report, json: bool) -> String {
    if json {
        let mut report = report.clone();
        if let Some(fault) = &mut report.failure {
            fault.error.remedy = readable::remedy(&fault.error.remedy);
        }
        return serde_json::to_string_pretty(&report).unwrap_or_default() + "\n";
    }
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    text::render(report, colours)
}

/// How the node stands, in a few words.
pub fn headline(report: &Report) -> String {
    text::headline(report)
}

/// How things stand now.
pub fn look(places: &Places) -> Result<Report, Failure> {
    let boot_id = host::boot_id()?;
    let state = match live(&places.runtime_dir) {
        Some(live) if live.agent.as_ref().is_some_and(|agent| agent.is_alive(&boot_id)) => Some(live),
        live => {
            let journal = journal::read(&places.state_dir).map_err(|why| unreadable(&places.state_dir, &why))?;
            // How a process ended whose disk took no more journal is told by what it published last.
            let is_later = |live: &State| {
                journal.as_ref().is_none_or(|journal| live.agent == journal.agent && live.since > journal.since)
            };
            live.filter(|live| live.boot_id == boot_id && is_later(live)).or(journal)
        }
    };
    let broken = state.as_ref().and_then(mounts::broken);
    let mut report = Report::of(state, &boot_id, SystemTime::now());
    if let Some((volume, failure)) = broken.filter(|_| report.state == Overall::Done) {
        report.has_lost(&volume, &failure);
    }
    Ok(report)
}

/// What the present or the last process published.
fn live(runtime_dir: &Path) -> Option<State> {
    journal::parse(&fs::read(runtime_dir.join(LIVE)).ok()?).ok()
}

fn unreadable(dir: &Path, why: &str) -> Failure {
    Failure::new(Code::StateUnusable, format!("the journal in {} cannot be read: {why}", dir.display()))
        .remedy("the next run sets it aside and begins a new one: node-agent retry")
}
