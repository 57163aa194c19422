//! The Step contract and its runner: observe → act → observe, with deadline, backoff, journal and log.
//!
//! A step's needs are its fields. [`Step::observe`] reads the state of the world and returns done, to do, or not yet;
//! [`Step::act`] changes it and returns only whether more remains to be done. Only an observation yields the output, so every
//! step proves itself, and to wait is to observe again.
//!
//! A failed step is retried here and nowhere else, with [`patience`]; within a step only `mount` waits, for a device that
//! systemd holds. Outside of the sequence some requests are repeated where they are made: the user data (`node::settings`),
//! the requests of `check`, heartbeats and the status tag. After a failed sequence the service decides when to repeat it.

pub mod allowance;
mod contract;
pub mod patience;
pub mod plan;
pub mod process;
mod progress;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{FutureExt, future};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use self::allowance::Allowance;
pub use self::contract::{Acted, Header, Observed, Step};
use self::patience::{Patience, SETTLING};
use self::plan::{Finding, Planned};
use self::progress::Progress;
use crate::failure::{Class, Code, FailedStep, Failure};
use crate::sequence::StepName;
use crate::state::Journal;

/// How long a plan waits for services: an operator is waiting for it.
const PLAN_OUTAGE: Duration = Duration::from_secs(20);

/// Runs steps.
pub struct Runner<'a> {
    journal: &'a Journal,
    outage: Duration,
    stop: watch::Receiver<bool>,
    allowance: &'a Allowance,
    /// The steps that began in this run: a later part of the same step continues its record.
    begun: RefCell<BTreeSet<(StepName, Option<String>)>>,
    /// The findings of a plan; `None` for a runner that acts.
    plan: Option<RefCell<Vec<Planned>>>,
}

impl<'a> Runner<'a> {
    /// A runner that records in `journal`, retries outages of AWS for `outage` (`timeouts.aws`), and stops once `stop` is
    /// true.
    pub fn new(journal: &'a Journal, outage: Duration, stop: watch::Receiver<bool>, allowance: &'a Allowance) -> Self {
        Runner { journal, outage, stop, allowance, begun: RefCell::default(), plan: None }
    }

    /// A runner that only observes, up to the first state that cannot be known yet.
    pub fn planning(journal: &'a Journal, stop: watch::Receiver<bool>, allowance: &'a Allowance) -> Self {
        Runner { plan: Some(RefCell::default()), ..Runner::new(journal, PLAN_OUTAGE, stop, allowance) }
    }

    /// Whether it only observes.
    pub fn is_planning(&self) -> bool {
        self.plan.is_some()
    }

    /// The findings, in the order of the observations.
    pub fn into_plan(self) -> Vec<Planned> {
        self.plan.map(RefCell::into_inner).unwrap_or_default()
    }

    /// Runs one step to its end.
    pub async fn step<S: Step>(&self, step: S) -> Result<S::Output, FailedStep> {
        if let Some(plan) = &self.plan {
            return self.observe_only(&step, plan).await;
        }
        let header = step.header();
        let _permit = self.allowance.permit(Some(Instant::now() + header.deadline));
        let key = (header.name, header.subject.map(str::to_owned));
        let first_part = self.begun.borrow_mut().insert(key);
        let mut progress = Progress::begin(header, self.journal, first_part);
        let result = self.drive(&step, &mut progress).await;
        progress.end(self.journal, result).map_err(|failure| FailedStep::at(header.name, failure))
    }

    /// Runs the same step for several subjects concurrently; the first failure ends all of them.
    pub async fn together<S: Step>(&self, steps: impl IntoIterator<Item = S>) -> Result<Vec<S::Output>, FailedStep> {
        if self.is_planning() {
            return self.in_turn(steps).await;
        }
        future::try_join_all(steps.into_iter().map(|step| self.step(step))).await
    }

    /// As [`Runner::together`], but each to its end: what a step has started must not be dropped.
    pub async fn each_to_its_end<S: Step>(
        &self,
        steps: impl IntoIterator<Item = S>,
    ) -> Result<Vec<S::Output>, FailedStep> {
        if self.is_planning() {
            return self.in_turn(steps).await;
        }
        future::join_all(steps.into_iter().map(|step| self.step(step))).await.into_iter().collect()
    }

    /// Runs the same step for several subjects, one after another.
    pub async fn in_turn<S: Step>(&self, steps: impl IntoIterator<Item = S>) -> Result<Vec<S::Output>, FailedStep> {
        let mut outputs = Vec::new();
        let mut unknown = None;
        for step in steps {
            match self.step(step).await {
                Ok(output) => outputs.push(output),
                // A plan reports all of them.
                Err(failed) if self.is_planning() => unknown = unknown.or(Some(failed)),
                Err(failed) => return Err(failed),
            }
        }
        unknown.map_or(Ok(outputs), Err)
    }

    /// Observes one step and records what a run would do.
    async fn observe_only<S: Step>(&self, step: &S, plan: &RefCell<Vec<Planned>>) -> Result<S::Output, FailedStep> {
        let deadline = Instant::now() + step.header().deadline.min(PLAN_OUTAGE);
        let mut patience = Patience::default();
        let (finding, failure) = loop {
            match self.bounded("observing the present state", step.observe(), deadline, true).await {
                Ok(Observed::Done(output)) => {
                    self.finding(plan, step.header(), Finding::AlreadySo, None);
                    return Ok(output);
                }
                Ok(Observed::Todo(because)) => break (Finding::WouldDo, Failure::new(Code::NotKnownYet, because)),
                Ok(Observed::NotYet(failure)) => break (Finding::WouldWait, failure),
                Err(failure) => match patience.next(failure, self.outage, PLAN_OUTAGE, deadline, PLAN_OUTAGE) {
                    Ok(pause) => sleep(pause).await,
                    Err(failure) if failure.class() == Class::Safety => break (Finding::WouldRefuse, failure),
                    Err(failure) => break (Finding::WouldFail, failure),
                },
            }
        };
        self.finding(plan, step.header(), finding, Some(&failure));
        Err(FailedStep::at(step.header().name, failure))
    }

    fn finding(&self, plan: &RefCell<Vec<Planned>>, header: Header<'_>, finding: Finding, why: Option<&Failure>) {
        let (step, volume) = (header.name, header.subject.map(str::to_owned));
        let first_part = self.begun.borrow_mut().insert((step, volume.clone()));
        let mut plan = plan.borrow_mut();
        if !first_part {
            // The finding of a later part of the same step replaces it.
            plan.retain(|earlier| earlier.step != step || earlier.volume != volume);
        }
        let exit_code = match (finding, why.map(Failure::class)) {
            (Finding::WouldFail | Finding::WouldRefuse, Some(class)) | (_, Some(class @ Class::SafetyWaiting)) => {
                class.exit_code()
            }
            _ => 0,
        };
        let remedy = why.filter(|why| why.code != Code::NotKnownYet).map(|why| why.what_to_do().to_owned());
        let because = why.map(ToString::to_string).unwrap_or_default();
        plan.push(Planned { step, volume, finding, because, remedy, exit_code });
    }

    async fn drive<S: Step>(&self, step: &S, progress: &mut Progress) -> Result<S::Output, Failure> {
        let header = step.header();
        let deadline = progress.began + header.deadline;
        let mut patience = Patience::default();
        let mut changed = false;
        loop {
            if *self.stop.borrow() {
                return Err(stopped());
            }
            let trouble = match self.bounded("observing the present state", step.observe(), deadline, true).await {
                Ok(Observed::Done(output)) => return Ok(output),
                Ok(Observed::NotYet(failure)) | Err(failure) => failure,
                // The change is not visible yet, or had no effect.
                Ok(Observed::Todo(because)) if changed => {
                    changed = false;
                    Failure::new(Code::NoEffect, format!("the step has acted, but no effect is visible yet: {because}"))
                }
                Ok(Observed::Todo(because)) => {
                    progress.acting(self.journal, &because);
                    let acting = format!("acting ({because})");
                    match self.bounded(&acting, step.act(), deadline, !header.keeps_own_deadline).await {
                        Ok(acted) => {
                            patience.reset_trouble();
                            changed = acted == Acted::Changed;
                            continue;
                        }
                        Err(failure) => failure,
                    }
                }
            };
            let lasting = |class, usual| if header.outlasts.contains(&class) { header.deadline } else { usual };
            let (outage, settling) = (lasting(Class::Outage, self.outage), lasting(Class::Settling, SETTLING));
            let pause = patience.next(trouble, outage, settling, deadline, header.deadline)?;
            let pause = pause.max(step.rest().min(deadline - Instant::now()));
            progress.waiting(self.journal, &patience, pause);
            let pause = async {
                tokio::select! {
                    () = sleep(pause) => {}
                    () = step.woken() => {}
                }
            };
            unless_stopped(&self.stop, pause.map(Ok)).await?;
        }
    }

    /// Runs `work`, cancelled at the deadline if `cut` is set.
    async fn bounded<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, Failure>>,
        deadline: Instant,
        cut: bool,
    ) -> Result<T, Failure> {
        if !cut {
            return work.await;
        }
        let mut stop = self.stop.clone();
        tokio::select! {
            result = timeout_at(deadline, work) => {
                result.unwrap_or_else(|_| Err(Failure::new(Code::OutOfTime, format!("timed out while {what}"))))
            }
            _ = stop.wait_for(|stop| *stop) => Err(stopped()),
        }
    }
}

/// Does the work, or fails as soon as the run receives the stop signal.
pub async fn unless_stopped<T>(
    stop: &watch::Receiver<bool>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut stop = stop.clone();
    tokio::select! {
        result = work => result,
        _ = stop.wait_for(|stop| *stop) => Err(stopped()),
    }
}

/// The failure of a run that received the stop signal.
pub fn stopped() -> Failure {
    Failure::new(Code::Stopped, "the agent was told to stop before it had finished")
}
