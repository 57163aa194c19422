//! `node-agent retry` and `node-agent complete`, on the operator's side: the service does the work if it runs.

use std::fs;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::client::{self, Pending};
use super::requests::Request;
use crate::aws::Aws;
use crate::config::Scope;
use crate::config::schema::timeouts;
use crate::failure::{Code, FailedStep, Failure};
use crate::host::this_host::ThisHost;
use crate::host::{self, process, systemd};
use crate::lifecycle::LaunchResult;
use crate::node::lock;
use crate::node::places::{Places, take_lock};
use crate::node::session::Session;
use crate::node::settings;
use crate::node::status;
use crate::node::status::report::Overall;
use crate::runner::process::stop_signal;
use crate::runner::{stopped, unless_stopped};
use crate::sequence::StepName;
use crate::state::{FailedStepRecord, Journal, Phase, store};

/// How long a service may take from its start to its first answer, which it gives before any other work.
const START_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// How long a service without a socket may take to restore it.
const SOCKET_LIMIT: Duration = Duration::from_secs(7);

/// Runs the sequence again: in the service, which is started if it is installed but does not run, or else in this process.
pub async fn retry(places: Places, from: Option<StepName>) -> Result<(), FailedStepRecord> {
    let was_up = status::observe(&places).is_ok_and(|report| report.state == Overall::Phase(Phase::Done));
    if was_up && from.is_none() {
        tracing::info!(
            "this node is up and nothing has failed: only the steps of every boot are checked again; to redo more: \
             node-agent retry --from STEP"
        );
    }
    if let Some(pending) = ask(&places, Request::Retry { from }).await? {
        return to_result(pending.follow().await?);
    }
    // The unit reads its own configuration.
    if places.config != settings::CONFIG || !systemd::has_unit(systemd::UNIT).await {
        return once(places, from).await.map_err(FailedStepRecord::from);
    }
    if !fs::exists(settings::CONFIG).unwrap_or(true) {
        let text = format!("{} is missing, and {} does not start without it", settings::CONFIG, systemd::UNIT);
        return Err(Failure::new(Code::ConfigUnreadable, text)
            .remedy("write the file, then: node-agent retry; or name another: node-agent retry --config PATH")
            .into());
    }
    {
        // Another process that works on the node without a service must not be disturbed.
        let _lock = take_lock(&places)?;
        if let Some(step) = from {
            Journal::open(&places.state_dir, &host::boot_id()?, None).redo_from(step)?;
        }
    }
    tracing::info!("starting {}", systemd::UNIT);
    systemd::start(systemd::UNIT).await?;
    let give_up = Instant::now() + START_LIMIT;
    loop {
        if let Some(pending) = client::ask(&places.runtime_dir, Request::Follow).await? {
            return to_result(pending.follow().await?);
        }
        if Instant::now() >= give_up {
            let text = format!("{} was started, but does not answer", systemd::UNIT);
            return Err(Failure::new(Code::ServiceGone, text)
                .remedy(format!("see why: systemctl status {}", systemd::UNIT))
                .into());
        }
        sleep(POLL).await;
    }
}

/// Runs the sequence once in this process, without a hold. A configuration with mistakes fails before anything is touched.
pub async fn once(places: Places, from: Option<StepName>) -> Result<(), FailedStep> {
    let stop = stop_signal()?;
    let aws = Aws::new();
    let load = settings::load(&places.config, &aws.imds, Scope::ThisHost(&ThisHost));
    let config = unless_stopped(&stop, load).await?;
    let session = Session::open(places, aws, stop)?;
    if let Some(step) = from {
        session.journal.redo_from(step)?;
    }
    let result = session.attempt(Some(config)).await.result.map(drop);
    if let Err(failed) = &result
        && !failed.was_stopped()
    {
        session.record_failure(failed, Phase::Failed);
    }
    session.tag(result.as_ref().err()).await;
    result
}

/// Completes the launch: in the service, which holds the node, or else in this process.
pub async fn complete(places: Places, result: LaunchResult) -> Result<(), FailedStepRecord> {
    if let Some(pending) = ask(&places, Request::Complete { result }).await? {
        return to_result(pending.follow().await?);
    }
    let mut stop = stop_signal()?;
    let session = Session::open(places, Aws::new(), stop.clone())?;
    let texts = tokio::select! {
        texts = settings::read(&session.places.config, &session.aws.imds, timeouts::AWS.default_span()) => texts,
        _ = stop.wait_for(|stop| *stop) => return Err(stopped().into()),
    };
    let (config, named) = match texts {
        Ok(texts) => (texts.clone().validate(Scope::Offline), texts.lifecycle()),
        Err(failure) => (Err(failure), None),
    };
    let journal = &session.journal;
    let (lifecycle, deadline) = match config {
        Ok(config) => (config.lifecycle.or_else(|| journal.promised_action()), config.timeouts.complete),
        // Mistakes outside of [lifecycle] do not matter here, nor a missing configuration if the journal has the hook.
        Err(failure) => (Some(named.or_else(|| journal.action()).ok_or(failure)?), timeouts::COMPLETE.default_span()),
    };
    session.complete(lifecycle.as_ref(), deadline, result).await.map_err(FailedStepRecord::from)
}

/// Sends the request to the service; none if none runs. A service whose socket is missing restores it if it can.
async fn ask(places: &Places, request: Request) -> Result<Option<Pending>, Failure> {
    let give_up = Instant::now() + SOCKET_LIMIT;
    loop {
        if let Some(pending) = client::ask(&places.runtime_dir, request).await? {
            return Ok(Some(pending));
        }
        match service_pid(places) {
            None => return Ok(None),
            Some(pid) if Instant::now() >= give_up => return Err(client::unreachable(&places.runtime_dir, pid)),
            Some(_) => sleep(POLL).await,
        }
    }
}

/// The pid of the service, as recorded in one of the locks or else in the journal.
fn service_pid(places: &Places) -> Option<i32> {
    let locked_by = [&places.runtime_dir, &places.state_dir].into_iter().filter_map(|dir| lock::holder(dir));
    let journaled = store::read(&places.state_dir).ok().flatten().and_then(|state| state.agent).map(|agent| agent.pid);
    locked_by.chain(journaled).find(|pid| process::is_service(*pid))
}

fn to_result(fault: Option<FailedStepRecord>) -> Result<(), FailedStepRecord> {
    fault.map_or(Ok(()), Err)
}
