//! A failed node is held until it is repaired, a retry succeeds, or its hold ends.

use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::requests::Wanted;
use super::{Next, Service};
use crate::config;
use crate::failure::{Class, Code, FailedStep, Failure};
use crate::lifecycle::heartbeat::Heart;
use crate::lifecycle::{LaunchResult, may_abandon};
use crate::node::order::Order;
use crate::node::session::Session;
use crate::node::steps::gate::{Gate, Looks, Passage};
use crate::runner::{Observed, Step, stopped};
use crate::sequence::{Sequence, StepName};
use crate::state::{Action, FailedStepRecord, LaunchOutcome, Phase, State, Warning};
use crate::time::rough;

/// How often a hold that is over looks whether it may end.
const GATE_POLL: Duration = Duration::from_secs(1);

/// What ends a hold.
enum HoldEnd {
    /// An operator asks for a retry, or an automatic one is due.
    Again,
    /// The service received the stop signal.
    Stopped,
    /// The hold's time is over.
    Over,
    /// An operator gave the node up.
    GivenUp,
    /// Auto Scaling gave it up.
    Lost(Failure),
    /// The instance is to go.
    Leave(Order),
}

impl Service {
    /// Whether a node is held after this failure. If its launch is lost, a repair would be useless.
    pub(super) fn is_held(&self, failed: &FailedStep) -> bool {
        !matches!(failed.failure.class(), Class::LifecycleLost | Class::LifecycleWaiting)
            && self.session.journal.launch_outcome() != Some(LaunchOutcome::Abandoned)
    }

    /// Holds the failed node for repair, with heartbeats, until the hold ends.
    pub(super) async fn hold(&mut self, failed: FailedStep, action: Option<Action>, completing: Duration) -> Next {
        let lifecycle = action.as_ref().map(config::Lifecycle::from);
        let lifecycle = lifecycle.as_ref();
        let left = self.hold_left(&failed, action.clone());
        let how_long = left.map_or_else(String::new, |left| {
            format!(" for repair: {} left, then ABANDON, which terminates this instance", rough(left))
        });
        let pause = self.pauses.next(&failed);
        let what_next = match pause {
            Some(pause) => format!("the agent retries in {}; to retry now: node-agent retry", rough(pause)),
            None => "repair it, then: node-agent retry".to_owned(),
        };
        tracing::warn!("held{how_long}; {what_next}");
        match Box::pin(self.wait_in_hold(&failed, lifecycle, left, pause, completing)).await {
            HoldEnd::Again => Next::Again,
            HoldEnd::Stopped => self.stopped(),
            HoldEnd::GivenUp => self.given_up(failed),
            HoldEnd::Leave(order) => Next::Leave(order),
            HoldEnd::Lost(failure) if failure.code == Code::Terminating && leaves(lifecycle) => {
                Next::Leave(Order::TERMINATED)
            }
            HoldEnd::Lost(failure) => self.given_up(FailedStep::at(StepName::Complete, failure)),
            HoldEnd::Over => {
                tracing::warn!("the hold has ended: ABANDON is sent, and Auto Scaling terminates this instance");
                let work = self.session.complete(lifecycle, completing, LaunchResult::Abandon);
                match self.control.requests.during(work).await {
                    Err(failed) if failed.was_stopped() => return self.stopped(),
                    Err(failed) => tracing::error!("{}; {}", failed.failure, failed.failure.what_to_do()),
                    Ok(()) => {}
                }
                self.given_up(failed)
            }
        }
    }

    /// Waits for the end of a hold of which `left` is left.
    async fn wait_in_hold(
        &mut self,
        failed: &FailedStep,
        lifecycle: Option<&config::Lifecycle>,
        left: Option<Duration>,
        pause: Option<Duration>,
        completing: Duration,
    ) -> HoldEnd {
        let session = &self.session;
        let mut end = left.map(|left| Instant::now() + left);
        let retry_at = pause.map(|pause| Instant::now() + pause);
        let _permit = end.map(|end| session.allowance.permit(Some(end)));
        let mut contact = pin!(keep_contact(session, failed, lifecycle, end.is_some()));
        let abandon_by = end.map(|end| end + completing);
        let (mut warned, mut stop) = (false, session.stop.clone());
        let mut is_over = false;
        let mut gate = pin!(pass_the_gate(session, failed, lifecycle));
        loop {
            tokio::select! {
                // A request that arrived in time takes precedence over the end.
                biased;
                _ = stop.wait_for(|stop| *stop) => return HoldEnd::Stopped,
                Some(wanted) = self.control.requests.next(&session.journal, Some(failed)) => match wanted {
                    Wanted::Retry => return HoldEnd::Again,
                    Wanted::Complete(asked, result) => {
                        asked.accept();
                        let work = session.complete(lifecycle, completing, result);
                        let done = self.control.requests.during(work).await;
                        asked.answer(done.as_ref().err().map(FailedStepRecord::from));
                        self.control.requests.answer_followers(Some(&failed.into()));
                        match (done, result) {
                            (Ok(()), LaunchResult::Abandon) => return HoldEnd::GivenUp,
                            // The hold has no end any more: the node is in service, though still broken.
                            (Ok(()), LaunchResult::Continue) => (end, is_over) = (None, false),
                            (Err(_), _) => {}
                        }
                    }
                },
                end_of_hold = &mut contact => return end_of_hold,
                () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => {
                    let now = Instant::now();
                    if session.site.get().is_some() || abandon_by.is_none_or(|abandon_by| now >= abandon_by) {
                        (end, is_over) = (None, true);
                        continue;
                    }
                    // ABANDON needs the instance's id. Until the metadata service returns it, the node can still be repaired.
                    if !std::mem::replace(&mut warned, true) {
                        tracing::warn!(
                            "the hold's time is over, but this instance's id is not known yet: ABANDON waits for the \
                             metadata service, at most {}",
                            rough(completing)
                        );
                    }
                    end = Some(now + Duration::from_secs(1));
                }
                () = &mut gate, if is_over => return HoldEnd::Over,
                () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => return HoldEnd::Again,
            }
        }
    }

    /// How much is left of the hold. Its end is set at the first failure; without a launch that can be abandoned it has none.
    pub(super) fn hold_left(&self, failed: &FailedStep, action: Option<Action>) -> Option<Duration> {
        let journal = &self.session.journal;
        if journal.launch_outcome().is_some() || !may_abandon(failed) {
            return None;
        }
        if action.is_none() {
            // Recorded by an earlier version, which did not record the lifecycle action.
            journal.take_back_hold();
        }
        action.map(|action| journal.hold(action))
    }

    /// The stop signal arrived before the node is up.
    fn stopped(&self) -> Next {
        Next::End(Err(self.session.record_stop().map_or_else(FailedStep::from, |()| stopped().into())))
    }

    fn given_up(&self, failed: FailedStep) -> Next {
        self.session.record_failure(&failed, Phase::Failed);
        Next::End(Err(failed))
    }
}

/// Tags a held node's instance with the failure, and sends heartbeats for a hold that has an end, once the instance is known.
/// Returns what ends the hold. That the instance is to go ends every hold, also that of a node whose launch was completed before.
async fn keep_contact(
    session: &Session,
    failed: &FailedStep,
    lifecycle: Option<&config::Lifecycle>,
    has_end: bool,
) -> HoldEnd {
    session.wait_until_known().await;
    let promise_is_gone = |state: &State| state.lifecycle.outcome().is_none() && state.lifecycle.hold_until.is_none();
    if has_end && session.journal.read(promise_is_gone) {
        // The journal, and with it the promised end, belonged to another instance.
        return HoldEnd::Again;
    }
    let tag = session.keep_tagging(Some(failed)).then(|()| std::future::pending());
    // Without a configuration the journal knows what the instance is told to go by.
    let last = session.journal.last_action();
    let order = session.wait_for_order(lifecycle.or(last.as_ref()));
    let heart = async {
        let Some(launch) = session.launch(lifecycle).filter(|_| has_end) else { return std::future::pending().await };
        let (journal, allowance) = (&session.journal, &session.allowance);
        let heart = Heart { launch: &launch, journal, allowance, of: Sequence::Boot };
        HoldEnd::Lost(Box::pin(heart.beat()).await)
    };
    tokio::select! {
        end_of_hold = tag => end_of_hold,
        end_of_hold = heart => end_of_hold,
        order = order => HoldEnd::Leave(order),
    }
}

fn leaves(lifecycle: Option<&config::Lifecycle>) -> bool {
    lifecycle.is_some_and(|lifecycle| lifecycle.terminate_hook_name.is_some())
}

/// At the end of a hold, waits while another node of the cluster is away: the held node may be one that the quorum needs. Until the
/// time that was promised at the first failure.
async fn pass_the_gate(session: &Session, failed: &FailedStep, lifecycle: Option<&config::Lifecycle>) {
    let journal = &session.journal;
    let cluster = journal.cluster().filter(|cluster| !cluster.gate.is_zero());
    let (Some(cluster), Some(lifecycle), Some(site)) = (&cluster, lifecycle, session.site.get()) else { return };
    let launch = &site.launch(&session.aws, Some(lifecycle));
    let clock = journal.clock();
    let deadline = journal.read(|state| state.lifecycle.abandon_left(&clock)).unwrap_or(cluster.gate);
    let (ec2, looks, began) = (&site.services.ec2, &Looks::default(), Instant::now());
    let (group, passage) = (lifecycle.asg_name.as_str(), Passage::HoldOver);
    let gate = Gate { journal, launch, ec2, cluster, group, passage, deadline, began, looks };
    let _permit = session.allowance.permit(Some(began + deadline));
    let mut shown: Option<Warning> = None;
    let show = |shown: &mut Option<Warning>, text: Option<String>| {
        if shown.as_ref().map(|warning| &warning.message) == text.as_ref() {
            return;
        }
        if let Some(gone) = shown.take() {
            journal.take_back(&gone);
        }
        if let Some(message) = text {
            journal.warn(StepName::Gate, None, message.clone());
            *shown = Some(Warning { step: StepName::Gate, subject: None, message });
        }
    };
    loop {
        let why = match timeout_at(began + deadline, gate.observe()).await {
            Err(_) | Ok(Ok(Observed::Done(()) | Observed::Todo(_))) => break,
            Ok(Ok(Observed::NotYet(why)) | Err(why)) => why,
        };
        show(&mut shown, Some(format!("the hold is over, and ABANDON waits: {why}")));
        sleep(GATE_POLL.min(deadline.saturating_sub(began.elapsed()))).await;
        if began.elapsed() >= deadline {
            tracing::warn!("ABANDON is sent now, after {}: {why}", rough(deadline));
            break;
        }
    }
    show(&mut shown, None);
    if looks.may_have_word() {
        // Whoever reads the word would go, too.
        session.tag(Some(failed)).await;
    }
}
