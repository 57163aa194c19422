//! `node-agent run`: the resident service. It brings the node up, holds a failed one until somebody repairs it, and stays
//! small and quiet when all is well.

pub mod control;
pub mod retry;

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use self::control::{Asked, Control, Request};
use crate::aws::autoscaling::LifecycleState;
use crate::config;
use crate::failure::FailedStep;
use crate::failure::{Class, Code, Failure};
use crate::host::notify;
use crate::lifecycle::heartbeat::Heart;
use crate::lifecycle::{LaunchResult, may_abandon};
use crate::node::boot::Up;
use crate::node::session::{Attempt, Session, last_words};
use crate::node::status::mounts;
use crate::runner::stopped;
use crate::sequence::StepName;
use crate::state::{FailedStepRecord, LaunchOutcome, Phase, State, Warning};
use crate::time::rough;

/// Where no configuration says it: the default of `timeouts.complete`.
const COMPLETING: Duration = Duration::from_hours(1);

/// How often an instance asks its metadata service whether it goes into a warm pool, or out of it. The question stays on the host.
const WARM_POLL: Duration = Duration::from_secs(5);

/// How often a node in service is looked at: whether its volumes are mounted, and its applications' target is started.
const LOOK: Duration = Duration::from_secs(30);

/// What ends a wait.
enum Next {
    /// Another go.
    Again,
    /// The process ends.
    End(Result<(), FailedStep>),
}

/// What ends a hold.
enum HoldEnd {
    /// Somebody wants another go, or the service retries by itself.
    Again,
    /// The service is told to stop.
    Stopped,
    /// Its time is over.
    Over,
    /// Somebody gave the node up.
    GivenUp,
    /// Auto Scaling did.
    Lost(Failure),
}

/// The service: its session, and what is asked of it.
#[derive(Debug)]
pub struct Service {
    session: Session,
    control: Control,
    /// Who waits for the end of the present go.
    followers: Vec<Asked>,
    /// The pauses before retries that nobody asks for.
    pauses: Pauses,
}

/// The pauses before the service retries by itself.
struct Pauses(Box<dyn Iterator<Item = Duration>>);

impl Pauses {
    /// From ten seconds to five minutes, each with up to as much again at random, so that after an outage a region's nodes do
    /// not all retry at once.
    fn new() -> Self {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_secs(10))
            .with_max_delay(Duration::from_mins(5))
            .with_factor(2.0)
            .without_max_times()
            .with_jitter();
        Pauses(Box::new(pauses.build()))
    }

    /// The next one, if the failure may end by itself: an outage, throttling, credentials or permissions that are not there
    /// yet.
    fn next(&mut self, failed: &FailedStep) -> Option<Duration> {
        let mends = matches!(failed.failure.class(), Class::Outage | Class::Settling);
        if mends { self.0.next() } else { None }
    }
}

impl fmt::Debug for Pauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pauses")
    }
}

impl Service {
    /// Opens the control socket, and tells systemd that it is ready: a node that takes its time must not hold back the boot of
    /// the machine.
    pub fn open(session: Session) -> Self {
        let control = control::listen(&session.places.runtime_dir, session.publisher.clone());
        notify::ready();
        keep_watchdog_calm();
        say_when_stopping(session.stop.clone());
        Service { session, control, followers: Vec::new(), pauses: Pauses::new() }
    }

    /// Runs until it is told to stop, which is no failure once the node is up, or a hold has ended.
    pub async fn run(mut self) -> Result<(), FailedStep> {
        loop {
            let attempt =
                uninterrupted(&mut self.control.requests, &mut self.followers, self.session.attempt(None)).await;
            if attempt.result.is_ok() {
                self.pauses = Pauses::new();
            }
            let how = attempt.result.as_ref().err().map(FailedStepRecord::from);
            // Those who ask next must find it as it is now, the end of the hold included.
            if let Err(failed) = &attempt.result
                && !failed.was_stopped()
            {
                let held = self.is_held(failed);
                if held {
                    self.hold_left(failed, attempt.lifecycle.as_ref());
                }
                self.session.failed(failed, if held { Phase::Held } else { Phase::Failed });
            }
            if !attempt.result.as_ref().is_err_and(FailedStep::was_stopped) {
                last_words(how.as_ref());
            }
            settle(&mut self.followers, how.as_ref());
            if let Next::End(result) = self.after(attempt).await {
                match &result {
                    // Told to stop: how the node comes out is not known.
                    Ok(()) => self.followers.clear(),
                    Err(failed) if failed.was_stopped() => self.followers.clear(),
                    Err(failed) => settle(&mut self.followers, Some(&failed.into())),
                }
                self.control.finish().await;
                return result;
            }
        }
    }

    async fn after(&mut self, attempt: Attempt) -> Next {
        let Attempt { result, config, lifecycle } = attempt;
        let completing = config.map_or(COMPLETING, |config| config.timeouts.complete);
        match result {
            Ok(Up::Done) => self.steady(lifecycle.as_ref(), completing).await,
            Ok(Up::Warm) => self.warm().await,
            Err(failed) if failed.was_stopped() => Next::End(Err(failed)),
            Err(failed) if self.is_held(&failed) => self.hold(failed, lifecycle.as_ref(), completing).await,
            Err(failed) => Next::End(Err(failed)),
        }
    }

    /// Whether a node that failed so is kept: where its launch is lost, nobody can repair it.
    fn is_held(&self, failed: &FailedStep) -> bool {
        !matches!(failed.failure.class(), Class::LifecycleLost | Class::LifecycleWaiting)
            && self.session.journal.launch_outcome() != Some(LaunchOutcome::Abandoned)
    }

    /// The node is up: nothing to do until somebody wants something.
    async fn steady(&mut self, lifecycle: Option<&config::Lifecycle>, completing: Duration) -> Next {
        let session = &self.session;
        let mut stop = session.stop.clone();
        let mut tag = pin!(session.keep_tagging(None).fuse());
        let mut pooled = pin!(back_in_pool(session, lifecycle));
        let mut look = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
        let mut seen = None;
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return Next::End(Ok(())),
                () = &mut tag => {}
                _ = look.tick() => seen = look_at_mounts(session, seen).await,
                target = &mut pooled => {
                    tracing::info!("the instance leaves service for its warm pool ({target})");
                    return Next::Again;
                }
                Some(asked) = self.control.requests.recv() => match asked.request {
                    Request::Retry { from } => {
                        again(session, &mut self.followers, asked, from);
                        return Next::Again;
                    }
                    Request::Follow => asked.answer(None),
                    Request::Complete { result } => {
                        asked.accept();
                        let work = session.complete(lifecycle, completing, result);
                        let done = uninterrupted(&mut self.control.requests, &mut self.followers, work).await;
                        asked.answer(done.as_ref().err().map(FailedStepRecord::from));
                        settle(&mut self.followers, None);
                    }
                },
            }
        }
    }

    /// The instance is in a warm pool: it goes to work when Auto Scaling launches it, with or without another boot.
    async fn warm(&mut self) -> Next {
        let session = &self.session;
        let mut stop = session.stop.clone();
        let mut poll = tokio::time::interval_at(Instant::now() + WARM_POLL, WARM_POLL);
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return Next::End(Ok(())),
                Some(asked) = self.control.requests.recv() => match asked.request {
                    Request::Retry { from } => {
                        again(session, &mut self.followers, asked, from);
                        return Next::Again;
                    }
                    Request::Follow => asked.answer(None),
                    Request::Complete { .. } => {
                        asked.refuse(&Failure::new(Code::WarmPool, "the instance is in a warm pool").into());
                    }
                },
                _ = poll.tick() => match self.session.aws.imds.target_lifecycle_state().await {
                    Ok(Some(target)) if matches!(LifecycleState::parse(&target), LifecycleState::Warmed(_)) => {}
                    Ok(target) => {
                        let target = target.unwrap_or_else(|| "no group".to_owned());
                        tracing::info!("the instance leaves its warm pool for {target}");
                        return Next::Again;
                    }
                    Err(failure) => tracing::debug!("{failure}"),
                },
            }
        }
    }

    /// The node has failed: it is kept for whoever repairs it, with heartbeats, until the hold ends.
    async fn hold(&mut self, failed: FailedStep, lifecycle: Option<&config::Lifecycle>, completing: Duration) -> Next {
        let left = self.hold_left(&failed, lifecycle);
        let how_long = left.map_or_else(String::new, |left| {
            format!(" for repair: {} left, then ABANDON, which terminates this instance", rough(left))
        });
        let pause = self.pauses.next(&failed);
        let what_next = match pause {
            Some(pause) => format!("the agent retries in {}; to retry now: node-agent retry", rough(pause)),
            None => "repair it, then: node-agent retry".to_owned(),
        };
        tracing::warn!("held{how_long}; {what_next}");
        let ending = self.held(&failed, lifecycle, left, pause, completing).await;
        match ending {
            HoldEnd::Again => Next::Again,
            HoldEnd::Stopped => self.stopped(),
            HoldEnd::GivenUp => self.given_up(failed),
            HoldEnd::Lost(failure) => self.given_up(FailedStep::at(StepName::Complete, failure)),
            HoldEnd::Over => {
                tracing::warn!("the hold has ended: ABANDON is sent, and Auto Scaling terminates this instance");
                let work = self.session.complete(lifecycle, completing, LaunchResult::Abandon);
                match uninterrupted(&mut self.control.requests, &mut self.followers, work).await {
                    Err(failed) if failed.was_stopped() => return self.stopped(),
                    Err(failed) => tracing::error!("{}; {}", failed.failure, failed.failure.what_to_do()),
                    Ok(()) => {}
                }
                self.given_up(failed)
            }
        }
    }

    /// Waits in a hold of this length for what ends it.
    async fn held(
        &mut self,
        failed: &FailedStep,
        lifecycle: Option<&config::Lifecycle>,
        left: Option<Duration>,
        pause: Option<Duration>,
        completing: Duration,
    ) -> HoldEnd {
        let session = &self.session;
        let end = left.map(|left| Instant::now() + left);
        let again_at = pause.map(|pause| Instant::now() + pause);
        let _permit = end.map(|end| session.allowance.permit(Some(end)));
        let mut contact = pin!(contact(session, failed, lifecycle.filter(|_| end.is_some())));
        let gives_up = end.map(|end| end + completing);
        let mut waits = false;
        let mut end = end;
        let mut stop = session.stop.clone();
        loop {
            tokio::select! {
                // What somebody asked for in time comes before the end.
                biased;
                _ = stop.wait_for(|stop| *stop) => return HoldEnd::Stopped,
                Some(asked) = self.control.requests.recv() => match asked.request {
                    Request::Follow => asked.answer(Some(failed.into())),
                    Request::Retry { from } => {
                        again(session, &mut self.followers, asked, from);
                        return HoldEnd::Again;
                    }
                    Request::Complete { result } => {
                        asked.accept();
                        let work = session.complete(lifecycle, completing, result);
                        let done = uninterrupted(&mut self.control.requests, &mut self.followers, work).await;
                        asked.answer(done.as_ref().err().map(FailedStepRecord::from));
                        settle(&mut self.followers, Some(&failed.into()));
                        match (done, result) {
                            (Ok(()), LaunchResult::Abandon) => return HoldEnd::GivenUp,
                            // Nothing ends it any more: the node is in service, and as broken as before.
                            (Ok(()), LaunchResult::Continue) => end = None,
                            (Err(_), _) => {}
                        }
                    }
                },
                what = &mut contact => return what,
                () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => {
                    let now = Instant::now();
                    if session.site.get().is_some() || gives_up.is_none_or(|gives_up| now >= gives_up) {
                        return HoldEnd::Over;
                    }
                    // ABANDON needs the instance's id. Until the metadata service tells it, the node can still be repaired.
                    if !std::mem::replace(&mut waits, true) {
                        tracing::warn!(
                            "the hold's time is over, but this instance's id is not known yet: ABANDON waits for the \
                             metadata service, at most {}",
                            rough(completing)
                        );
                    }
                    end = Some(now + Duration::from_secs(1));
                }
                () = sleep_until(again_at.unwrap_or_else(Instant::now)), if again_at.is_some() => return HoldEnd::Again,
            }
        }
    }

    /// How much is left of the hold, whose end was decided at the first failure. Without a launch that can be given up it has
    /// no end.
    fn hold_left(&self, failed: &FailedStep, lifecycle: Option<&config::Lifecycle>) -> Option<Duration> {
        let journal = &self.session.journal;
        if journal.launch_outcome().is_some() || !may_abandon(failed) {
            return None;
        }
        if lifecycle.is_none() {
            // Recorded by an earlier version, which did not record for whom.
            journal.take_back_hold();
        }
        lifecycle.map(|lifecycle| journal.hold(lifecycle))
    }

    /// The service is told to stop before the node is up.
    fn stopped(&self) -> Next {
        Next::End(Err(self.session.stopped().map_or_else(FailedStep::from, |()| stopped().into())))
    }

    fn given_up(&self, failed: FailedStep) -> Next {
        self.session.failed(&failed, Phase::Failed);
        Next::End(Err(failed))
    }
}

/// Keeps a held node in touch with AWS once its instance is known: tags the instance with the failure, and sends heartbeats.
/// Returns what ends the hold.
async fn contact(session: &Session, failed: &FailedStep, lifecycle: Option<&config::Lifecycle>) -> HoldEnd {
    session.become_known().await;
    let promise_is_gone = |state: &State| state.lifecycle.outcome().is_none() && state.lifecycle.hold_until.is_none();
    if lifecycle.is_some() && session.journal.read(promise_is_gone) {
        // The journal, and the promise with it, were another instance's.
        return HoldEnd::Again;
    }
    let tag = async {
        session.keep_tagging(Some(failed)).await;
        std::future::pending::<HoldEnd>().await
    };
    let heart = async {
        let Some(launch) = session.launch(lifecycle) else { return std::future::pending().await };
        let heart = Heart { launch: &launch, journal: &session.journal, allowance: &session.allowance };
        HoldEnd::Lost(Box::pin(heart.beat()).await)
    };
    tokio::select! {
        what = tag => what,
        what = heart => what,
    }
}

/// Looks whether anything of a node in service is not as the agent left it, and warns of what has become so since `seen` was; returns
/// what is so now. The warning lasts as long.
async fn look_at_mounts(session: &Session, seen: Option<Warning>) -> Option<Warning> {
    let state = session.journal.read(State::clone);
    let broken = spawn_blocking(move || mounts::broken(&state)).await.ok().flatten();
    let now = broken.map(|(subject, failure)| {
        let message = format!("{failure}; {}", failure.what_to_do());
        Warning { step: StepName::Mount, subject, message }
    });
    if seen != now {
        if let Some(gone) = seen {
            session.journal.take_back(&gone);
        }
        if let Some(Warning { step, subject, message }) = &now {
            session.journal.warn(*step, subject.as_deref(), message);
        }
    }
    now
}

/// Waits until Auto Scaling takes an instance in service back into its warm pool, and returns the state it goes to. Such an
/// instance can be launched again without another boot.
async fn back_in_pool(session: &Session, lifecycle: Option<&config::Lifecycle>) -> String {
    if lifecycle.is_none() {
        return std::future::pending().await;
    }
    loop {
        sleep(WARM_POLL).await;
        match session.aws.imds.target_lifecycle_state().await {
            Ok(Some(target)) if target.starts_with("Warmed:") => return target,
            Ok(_) => {}
            Err(failure) => tracing::debug!("{failure}"),
        }
    }
}

/// Another go; from a step on where that is asked for.
fn again(session: &Session, followers: &mut Vec<Asked>, asked: Asked, from: Option<StepName>) {
    match from.map(|step| session.journal.redo_from(step)).transpose() {
        Ok(_) => {
            asked.accept();
            followers.push(asked);
        }
        Err(failure) => asked.refuse(&failure.into()),
    }
}

/// Tells those who wait for the end what it was.
fn settle(followers: &mut Vec<Asked>, how: Option<&FailedStepRecord>) {
    followers.drain(..).for_each(|asked| asked.answer(how.cloned()));
}

/// Does the work; who asks for something meanwhile is told that the agent is at work.
async fn uninterrupted<T>(
    requests: &mut mpsc::Receiver<Asked>,
    followers: &mut Vec<Asked>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            Some(asked) = requests.recv() => {
                if asked.request == Request::Follow {
                    asked.accept();
                    followers.push(asked);
                    continue;
                }
                let text = format!("the service (process {}) is at work on the node", std::process::id());
                asked.refuse(&Failure::new(Code::Busy, text).into());
            }
        }
    }
}

fn say_when_stopping(mut stop: watch::Receiver<bool>) {
    tokio::spawn(async move {
        if stop.wait_for(|stop| *stop).await.is_ok() {
            notify::stopping();
        }
    });
}

/// Where systemd watches the service, tells it twice in its time that the runtime is not stuck.
fn keep_watchdog_calm() {
    let Some(within) = sd_notify::watchdog_enabled() else { return };
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(within / 2);
        loop {
            tick.tick().await;
            notify::watchdog();
        }
    });
}
