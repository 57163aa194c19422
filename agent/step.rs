//! The Step contract and its runner: observe → act → observe, with deadline, backoff, journal and log.
//!
//! A step's needs are its fields. [`Step::observe`] looks at the world and says done, to do, or not yet;
//! [`Step::act`] changes the world and returns nothing. Only observing yields the output, so every step proves itself, and
//! waiting is observing again. Nothing but this file retries.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::future;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::failure::{Class, Code, FailedStep, Failure};
use crate::heartbeat::Allowance;
use crate::sequence::StepName;
use crate::state::{Journal, Outcome, StepRecord};
use crate::time::{self, rough};

/// How long an answer that is probably eventual consistency is asked again (FACTS: about 60 s for ids and IAM).
pub const SETTLING: Duration = Duration::from_mins(1);

/// How long a plan waits for services: somebody sits before it.
const PLAN_OUTAGE: Duration = Duration::from_secs(20);

/// How often a wait that goes on unchanged is logged again.
const REMINDER: Duration = Duration::from_secs(30);

/// What observing found.
#[derive(Debug)]
pub enum Observed<T> {
    /// The effect holds.
    Done(T),
    /// There is something to do, and why.
    Todo(String),
    /// It may come to hold by itself; the failure it is if it has not by the deadline.
    NotYet(Failure),
}

/// One step of the sequence, or a part of one.
#[expect(async_fn_in_trait, reason = "the runtime is one thread; nothing needs these futures to be Send")]
pub trait Step {
    /// What the next steps get from it.
    type Output;

    /// The step it is, or is a part of. Parts of one step share its record.
    fn name(&self) -> StepName;

    /// The volume it is about, where it is about one.
    fn subject(&self) -> Option<&str> {
        None
    }

    /// How long it may take.
    fn deadline(&self) -> Duration;

    /// The kinds of trouble that it goes on with to its own deadline, rather than for `timeouts.aws` or [`SETTLING`].
    fn outlasts(&self) -> &'static [Class] {
        &[]
    }

    /// Whether `act` keeps the deadline itself, because what it started must not simply be dropped (hooks, mkfs).
    fn keeps_own_deadline(&self) -> bool {
        false
    }

    /// Whether there is never anything to do but to look.
    fn only_looks(&self) -> bool {
        false
    }

    /// For a part that only prepares a later part of the same step: the word for its end (`fetched`). The step itself is not
    /// done then, and nobody is told that it is.
    fn prepares(&self) -> Option<&'static str> {
        None
    }

    /// Looks, and changes nothing.
    async fn observe(&self) -> Result<Observed<Self::Output>, Failure>;

    /// Brings the effect about. Must bear being called again.
    async fn act(&self) -> Result<(), Failure>;
}

/// Runs steps.
#[derive(Debug)]
pub struct Runner<'a> {
    journal: &'a Journal,
    outage: Duration,
    stop: watch::Receiver<bool>,
    allowance: &'a Allowance,
    /// What began in this run: a later part of the same step goes on with its record.
    begun: RefCell<BTreeSet<(StepName, Option<String>)>>,
    /// Only looks, and puts down what would be done.
    plan: Option<RefCell<Vec<Planned>>>,
}

/// What a step of a plan has come to.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    /// The step.
    pub step: StepName,
    /// The volume's id, where it is about one.
    pub volume: Option<String>,
    /// What would happen.
    pub finding: Finding,
    /// Why, or what was seen.
    pub because: String,
    /// What to do about it, where there is something to do.
    pub remedy: Option<String>,
    /// The exit code that it comes to.
    pub exit_code: u8,
}

/// What would happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// Nothing: it is so already.
    AlreadySo,
    /// It would be done.
    WouldDo,
    /// It would be waited for.
    WouldWait,
    /// It would fail.
    WouldFail,
    /// It would be refused.
    WouldRefuse,
    /// It cannot be known yet.
    Unknown,
}

impl<'a> Runner<'a> {
    /// A runner that records in `journal`, rides out outages of AWS for `outage` (`timeouts.aws`), and stops when `stop`
    /// becomes true.
    pub fn new(journal: &'a Journal, outage: Duration, stop: watch::Receiver<bool>, allowance: &'a Allowance) -> Self {
        Runner { journal, outage, stop, allowance, begun: RefCell::default(), plan: None }
    }

    /// A runner that only looks, up to the first thing that cannot be known yet.
    pub fn planning(journal: &'a Journal, stop: watch::Receiver<bool>, allowance: &'a Allowance) -> Self {
        Runner { plan: Some(RefCell::default()), ..Runner::new(journal, PLAN_OUTAGE, stop, allowance) }
    }

    /// Whether it only looks.
    pub fn is_planning(&self) -> bool {
        self.plan.is_some()
    }

    /// What was found by looking.
    pub fn into_plan(self) -> Vec<Planned> {
        self.plan.map(RefCell::into_inner).unwrap_or_default()
    }

    /// Runs one step to its end.
    pub async fn step<S: Step>(&self, step: S) -> Result<S::Output, FailedStep> {
        if let Some(plan) = &self.plan {
            return self.look(&step, plan).await;
        }
        let _permit = self.allowance.permit(Some(Instant::now() + step.deadline()));
        let key = (step.name(), step.subject().map(str::to_owned));
        let first_part = self.begun.borrow_mut().insert(key);
        let mut progress = Progress::begin(&step, self.journal, first_part);
        let result = self.drive(&step, &mut progress).await;
        progress.end(self.journal, result).map_err(|failure| FailedStep::at(step.name(), failure))
    }

    /// Runs the same step for several subjects at once; the first failure ends it.
    pub async fn together<S: Step>(&self, steps: impl IntoIterator<Item = S>) -> Result<Vec<S::Output>, FailedStep> {
        if self.is_planning() {
            return self.in_turn(steps).await;
        }
        future::try_join_all(steps.into_iter().map(|step| self.step(step))).await
    }

    /// Runs the same step for several subjects, one after the other.
    pub async fn in_turn<S: Step>(&self, steps: impl IntoIterator<Item = S>) -> Result<Vec<S::Output>, FailedStep> {
        let mut outputs = Vec::new();
        let mut unknown = None;
        for step in steps {
            match self.step(step).await {
                Ok(output) => outputs.push(output),
                // A plan tells of all of them.
                Err(failed) if self.is_planning() => unknown = unknown.or(Some(failed)),
                Err(failed) => return Err(failed),
            }
        }
        unknown.map_or(Ok(outputs), Err)
    }

    /// Looks at one step, and puts down what it would come to.
    async fn look<S: Step>(&self, step: &S, plan: &RefCell<Vec<Planned>>) -> Result<S::Output, FailedStep> {
        let deadline = Instant::now() + step.deadline().min(PLAN_OUTAGE);
        let mut patience = Patience::default();
        let (finding, failure) = loop {
            match self.bounded("observing the present state", step.observe(), deadline, true).await {
                Ok(Observed::Done(output)) => {
                    self.put_down(plan, step, Finding::AlreadySo, None);
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
        self.put_down(plan, step, finding, Some(&failure));
        Err(FailedStep::at(step.name(), failure))
    }

    fn put_down<S: Step>(&self, plan: &RefCell<Vec<Planned>>, step: &S, finding: Finding, why: Option<&Failure>) {
        let volume = step.subject().map(str::to_owned);
        let first_part = self.begun.borrow_mut().insert((step.name(), volume.clone()));
        let mut plan = plan.borrow_mut();
        if !first_part {
            // A later part of the same step says more.
            plan.retain(|earlier| earlier.step != step.name() || earlier.volume != volume);
        }
        let exit_code = match (finding, why.map(Failure::class)) {
            (Finding::WouldFail | Finding::WouldRefuse, Some(class)) | (_, Some(class @ Class::SafetyWaiting)) => {
                class.exit_code()
            }
            _ => 0,
        };
        let remedy = why.filter(|why| why.code != Code::NotKnownYet).map(|why| why.what_to_do().to_owned());
        let because = why.map(ToString::to_string).unwrap_or_default();
        plan.push(Planned { step: step.name(), volume, finding, because, remedy, exit_code });
    }

    async fn drive<S: Step>(&self, step: &S, progress: &mut Progress) -> Result<S::Output, Failure> {
        let deadline = progress.began + step.deadline();
        let mut patience = Patience::default();
        let mut acted_because = None;
        loop {
            self.check_stop()?;
            let trouble = match self.bounded("observing the present state", step.observe(), deadline, true).await {
                Ok(Observed::Done(output)) => return Ok(output),
                Ok(Observed::NotYet(failure)) | Err(failure) => failure,
                // The same once more: what was done is not seen yet, or had no effect.
                Ok(Observed::Todo(because)) if acted_because.as_ref() == Some(&because) => {
                    acted_because = None;
                    Failure::new(Code::NoEffect, format!("the step has acted, but no effect is visible yet: {because}"))
                }
                Ok(Observed::Todo(because)) => {
                    progress.acting(self.journal, &because);
                    match self.bounded(&because, step.act(), deadline, !step.keeps_own_deadline()).await {
                        Ok(()) => {
                            patience.reset_trouble();
                            acted_because = Some(because);
                            continue;
                        }
                        Err(failure) => failure,
                    }
                }
            };
            let lasting = |class, usual| if step.outlasts().contains(&class) { step.deadline() } else { usual };
            let (outage, settling) = (lasting(Class::Outage, self.outage), lasting(Class::Settling, SETTLING));
            let pause = patience.next(trouble, outage, settling, deadline, step.deadline())?;
            progress.waiting(self.journal, &patience, pause);
            self.pause(pause).await?;
        }
    }

    /// `work`, cut at the deadline if it may be cut.
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
                result.unwrap_or_else(|_| Err(Failure::new(Code::OutOfTime, format!("timed out at this: {what}"))))
            }
            _ = stop.wait_for(|stop| *stop) => Err(stopped()),
        }
    }

    fn check_stop(&self) -> Result<(), Failure> {
        if *self.stop.borrow() { Err(stopped()) } else { Ok(()) }
    }

    async fn pause(&self, pause: Duration) -> Result<(), Failure> {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = sleep(pause) => Ok(()),
            _ = stop.wait_for(|stop| *stop) => Err(stopped()),
        }
    }
}

/// The failure of being told to stop.
pub fn stopped() -> Failure {
    Failure::new(Code::Stopped, "the agent was told to stop before it had finished")
}

/// Decides between another round and giving up, and how long to pause.
#[derive(Default)]
struct Patience {
    /// Since when the same kind of trouble lasts, and its backoff.
    trouble: Option<Trouble>,
    /// What it was the last time.
    last: Option<Failure>,
}

struct Trouble {
    class: Class,
    /// How long it may last.
    limit: Duration,
    since: Instant,
    delays: Box<dyn Iterator<Item = Duration>>,
}

impl Patience {
    fn reset_trouble(&mut self) {
        self.trouble = None;
    }

    /// The pause before the next round, or the failure that ends the step.
    fn next(
        &mut self,
        failure: Failure,
        outage: Duration,
        settling: Duration,
        deadline: Instant,
        allowed: Duration,
    ) -> Result<Duration, Failure> {
        let class = failure.class();
        let now = Instant::now();
        if failure.code == Code::OutOfTime {
            // That the time ran out during a look says less than what the looks before have seen.
            return Err(self.last.take().unwrap_or(failure).given_up(&rough(allowed)));
        }
        let limit = match class {
            // An instance profile may come minutes after the instance.
            _ if failure.code == Code::Credentials => outage,
            Class::Outage => outage,
            Class::Settling => settling,
            Class::Waiting | Class::SafetyWaiting | Class::LifecycleWaiting => allowed,
            _ => return Err(failure),
        };
        // Of the same class, but with another limit, is other trouble: an action that is not allowed yet is not part of the
        // wait for credentials.
        if self.trouble.as_ref().is_none_or(|trouble| (trouble.class, trouble.limit) != (class, limit)) {
            self.trouble = Some(Trouble { class, limit, since: now, delays: delays(class) });
        }
        let Some(trouble) = self.trouble.as_mut() else { return Err(failure) };
        let lasted = now - trouble.since;
        let pause = trouble.delays.next().unwrap_or(Duration::from_secs(5));
        if lasted >= limit {
            return Err(failure.given_up(&rough(lasted)));
        }
        if now >= deadline {
            return Err(failure.given_up(&rough(allowed)));
        }
        self.last = Some(failure);
        Ok(pause.min(deadline - now))
    }
}

/// Waits are polled briskly at first, because a volume that comes free must be taken within a second, and more
/// slowly when they last, because EC2's request quota is the whole account's. Errors back off exponentially.
fn delays(class: Class) -> Box<dyn Iterator<Item = Duration>> {
    let exponential = |first: u64, most: u64| {
        ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(first))
            .with_max_delay(Duration::from_millis(most))
            .with_factor(1.6)
            .without_max_times()
            .with_jitter()
            .build()
    };
    match class {
        // The jitter adds up to as much again: at most 0.5 s between polls for the first two minutes.
        Class::Waiting | Class::SafetyWaiting => {
            Box::new(exponential(20, 250).take(322).chain(exponential(500, 2_500)))
        }
        // Nothing is lost by a report that comes some seconds later, and each try is a call of a quota that is the account's.
        Class::LifecycleWaiting => Box::new(exponential(50, 5_000)),
        _ => Box::new(exponential(100, 4_000)),
    }
}

/// A step's record while it runs.
struct Progress {
    began: Instant,
    earlier: Duration,
    record: StepRecord,
    allowed: Duration,
    changed: bool,
    only_looks: bool,
    prepares: Option<&'static str>,
    /// What is or was last done, and why.
    doing: Option<String>,
    told: Option<(String, Instant)>,
}

impl Progress {
    fn begin<S: Step>(step: &S, journal: &Journal, first_part: bool) -> Self {
        let (name, subject) = (step.name(), step.subject());
        let earlier_part = || {
            journal.read(|state| {
                state.steps.iter().find(|old| old.step == name && old.subject.as_deref() == subject).cloned()
            })
        };
        let record = if first_part { None } else { earlier_part() }.unwrap_or_else(|| StepRecord {
            step: name,
            subject: subject.map(str::to_owned),
            outcome: Outcome::AlreadySo,
            waiting: None,
            allowed_ms: 0,
            attempts: 0,
            started_at: time::now(),
            took_ms: 0,
            prepared: None,
            error: None,
        });
        let mut progress = Progress {
            began: Instant::now(),
            earlier: Duration::from_millis(record.took_ms),
            changed: record.outcome == Outcome::Changed && record.prepared.is_none(),
            record: StepRecord { allowed_ms: time::millis(step.deadline()), prepared: None, ..record },
            allowed: step.deadline(),
            only_looks: step.only_looks(),
            prepares: step.prepares(),
            doing: None,
            told: None,
        };
        progress.log("begin", format_args!("observing the present state"));
        progress.record.outcome = Outcome::Running;
        journal.note_record(progress.record.clone());
        progress
    }

    fn acting(&mut self, journal: &Journal, because: &str) {
        self.record.attempts += 1;
        // A next try of the same thing goes on with what the last one met: who looks meanwhile is told why it lasts.
        if self.doing.as_deref() != Some(because) {
            self.record.waiting = None;
            self.doing = Some(because.to_owned());
        }
        self.changed = true;
        self.log(
            "start",
            format_args!("start: {because} (attempt {}, deadline {})", self.record.attempts, rough(self.allowed)),
        );
        self.save(journal, Outcome::Running);
    }

    fn waiting(&mut self, journal: &Journal, patience: &Patience, pause: Duration) {
        self.record.attempts += 1;
        let now = Instant::now();
        let why = patience.last.as_ref().map(ToString::to_string).unwrap_or_default();
        if self.record.waiting.as_ref() != Some(&why) {
            self.record.waiting = Some(why.clone());
            journal.note_record(self.record.clone());
        }
        if self.told.as_ref().is_some_and(|(text, at)| *text == why && now - *at < REMINDER) {
            return;
        }
        self.log(
            "wait",
            format_args!(
                "wait: {why} (attempt {}, {} of {}, again in {})",
                self.record.attempts,
                rough(self.began.elapsed()),
                rough(self.allowed),
                rough(pause),
            ),
        );
        self.told = Some((why, now));
    }

    fn end<T>(mut self, journal: &Journal, result: Result<T, Failure>) -> Result<T, Failure> {
        self.record.waiting = None;
        match result {
            Ok(output) => {
                let outcome = if self.changed { Outcome::Changed } else { Outcome::AlreadySo };
                self.record.prepared = self.prepares.map(str::to_owned);
                self.save(journal, outcome);
                if let Some(prepared) = self.prepares {
                    tracing::debug!(
                        step = self.record.step.as_str(),
                        volume = self.record.subject.as_deref(),
                        "{prepared} ({})",
                        rough(self.began.elapsed())
                    );
                    return Ok(output);
                }
                let how = if self.changed || self.only_looks || self.told.is_some() { "done" } else { "already so" };
                self.log("done", format_args!("{how} ({})", rough(self.began.elapsed())));
                Ok(output)
            }
            Err(failure) => {
                self.record.error = Some((&failure).into());
                self.save(journal, Outcome::Failed);
                self.log("failed", format_args!("failed ({}): {failure}", rough(self.began.elapsed())));
                Err(failure)
            }
        }
    }

    fn save(&mut self, journal: &Journal, outcome: Outcome) {
        self.record.outcome = outcome;
        self.record.took_ms = time::millis(self.earlier + self.began.elapsed());
        journal.record(self.record.clone());
    }

    /// `kind` says what becomes of the step, for those who draw it (agent/log).
    fn log(&self, kind: &'static str, text: fmt::Arguments<'_>) {
        let step = self.record.step.as_str();
        let volume = self.record.subject.as_deref();
        let (attempt, allowed_ms) = (self.record.attempts, time::millis(self.allowed));
        tracing::info!(step, volume, kind, attempt, allowed_ms, "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_waited_for_as_long_as_timeouts_aws_and_permissions_a_minute() {
        let minutes = Duration::from_mins;
        let mut patience = Patience::default();
        let mut next = |code, after: Duration| {
            if let Some(trouble) = &mut patience.trouble {
                trouble.since -= after;
            }
            let deadline = Instant::now() + minutes(60);
            patience.next(Failure::new(code, "no"), minutes(5), SETTLING, deadline, minutes(60)).is_ok()
        };
        assert!(next(Code::Credentials, minutes(0)));
        assert!(next(Code::Credentials, minutes(4)));
        // Its minute begins now.
        assert!(next(Code::AccessDenied, minutes(0)));
        assert!(!next(Code::AccessDenied, SETTLING));
        assert!(next(Code::Credentials, minutes(0)));
        assert!(!next(Code::Credentials, minutes(5)));
    }

    #[test]
    fn what_may_come_free_at_any_moment_is_looked_at_twice_a_second_for_two_minutes_and_then_less_often() {
        let pauses: Vec<Duration> = delays(Class::Waiting).take(400).collect();
        let brisk = pauses.iter().take_while(|pause| **pause <= Duration::from_millis(500));
        assert!(brisk.clone().count() >= 322, "{pauses:?}");
        // The shortest that they can be together: without jitter.
        assert!(brisk.sum::<Duration>() >= Duration::from_secs(75), "{pauses:?}");
        assert!(pauses[390..].iter().all(|pause| (2_500..=5_000).contains(&pause.as_millis())), "{pauses:?}");
    }
}
