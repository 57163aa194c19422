//! `node-agent status`: the node's state, from the agent's records and the present mounts. Needs neither the service nor the
//! network.

pub mod mounts;
mod plot;
pub mod report;
mod text;

use std::fs;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use self::report::{Overall, Report};
pub use self::text::headline;
use crate::failure::{Code, Failure};
use crate::host;
use crate::node::places::Places;
use crate::node::service::client;
use crate::node::service::requests::Request;
use crate::readable;
use crate::state::publish::LIVE;
use crate::state::store::{self, Unreadable};
use crate::state::{Phase, State};

/// How often [`wait`] observes the node again.
const POLL: Duration = Duration::from_millis(200);

/// Waits until the node is up or has failed, at most for `timeout`, and returns its report then.
pub async fn wait(places: &Places, timeout: Option<Duration>) -> Result<Report, Failure> {
    let decided = async {
        loop {
            let report = observe(places)?;
            if report.state.is_decided() {
                return Ok(report);
            }
            // A working service that can be reached reports its progress and its end.
            if report.state == Overall::Phase(Phase::Running)
                && let Ok(Some(pending)) = client::ask(&places.runtime_dir, Request::Follow).await
            {
                match pending.follow().await {
                    Err(failure) if failure.code == Code::ServiceHangs => return Err(failure),
                    _ => continue,
                }
            }
            sleep(POLL).await;
        }
    };
    match timeout {
        None => decided.await,
        Some(timeout) => match tokio::time::timeout(timeout, decided).await {
            Ok(report) => report,
            Err(_) => Ok(Report { exit_code: Overall::Phase(Phase::Running).exit_code(), ..observe(places)? }),
        },
    }
}

/// The report as it is printed.
pub fn render(report: &Report, json: bool) -> String {
    if json {
        let mut report = report.clone();
        let errors = report.steps.iter_mut().filter_map(|step| step.error.as_mut());
        for error in errors.chain(report.failure.as_mut().map(|fault| &mut fault.error)) {
            error.remedy = readable::remedy(&error.remedy);
        }
        return serde_json::to_string_pretty(&report).unwrap_or_default() + "\n";
    }
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    text::render(report, colours)
}

/// The node's present state.
pub fn observe(places: &Places) -> Result<Report, Failure> {
    Ok(observe_with_state(places)?.0)
}

/// The picture of the launch, and of the departure where there is one, as an SVG document. None if no agent has ever run here.
pub fn plot(places: &Places) -> Result<(Option<String>, Report), Failure> {
    let (report, state) = observe_with_state(places)?;
    let drawn = state.map(|state| plot::of(&state, &report, SystemTime::now()).svg());
    Ok((drawn, report))
}

fn observe_with_state(places: &Places) -> Result<(Report, Option<State>), Failure> {
    let boot_id = host::boot_id()?;
    let live = live(&places.runtime_dir).filter(|live| live.boot_id == boot_id);
    let lives = |live: &State| live.agent.as_ref().is_some_and(|agent| agent.is_alive(&boot_id));
    let state = match (live, store::read(&places.state_dir)) {
        (Some(live), Ok(Some(journal))) => Some(current(live, journal, lives)),
        (Some(live), Ok(None)) => Some(live),
        (Some(live), Err(_)) if lives(&live) => Some(live),
        (_, journal) => journal.map_err(|why| unreadable(&places.state_dir, &why))?,
    };
    let broken = state.as_ref().filter(|state| state.phase == Phase::Done).and_then(mounts::broken);
    let mut report = Report::of(state.clone(), &boot_id, SystemTime::now());
    if let Some((volume, failure)) = broken.filter(|_| report.state == Overall::Phase(Phase::Done)) {
        report.mark_broken(volume.as_deref(), &failure);
    }
    Ok((report, state))
}

/// Why commands cannot reach the service of this report, if so.
pub fn trouble(places: &Places, report: &Report) -> Option<Failure> {
    client::trouble(&places.runtime_dir, report.pid?)
}

/// The state that counts. If both are of one process, the newer: some changes are only published, a full runtime directory
/// leaves only the journal current, and a full disk only the published state, even at the end of a process. If they are of
/// two processes, the published one if its process is alive, or else the journal.
fn current(live: State, journal: State, lives: impl Fn(&State) -> bool) -> State {
    let wins = if live.agent == journal.agent { live.revision >= journal.revision } else { lives(&live) };
    if wins { live } else { journal }
}

/// The state that the present or the last process published.
fn live(runtime_dir: &Path) -> Option<State> {
    store::parse(&fs::read(runtime_dir.join(LIVE)).ok()?).ok()
}

fn unreadable(dir: &Path, why: &Unreadable) -> Failure {
    match why {
        Unreadable::Newer(schema) => store::newer(dir, *schema),
        Unreadable::Broken(why) => {
            Failure::new(Code::StateUnusable, format!("the journal in {} cannot be read: {why}", dir.display()))
                .remedy("the next run sets it aside and begins a new one: node-agent retry")
        }
    }
}
