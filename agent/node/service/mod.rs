//! `node-agent run`: the resident service. It brings the node up, holds a failed node until it is repaired, and stays small
//! and quiet while all is well.

pub mod client;
pub mod control;
mod hold;
mod leave;
mod pauses;
pub mod requests;
pub mod retry;
mod warm;
mod watch;

use std::rc::Rc;

use tokio::sync::watch as signal;

use self::control::Control;
use self::pauses::Pauses;
use crate::config::Config;
use crate::config::schema::timeouts;
use crate::failure::FailedStep;
use crate::host::notify;
use crate::node::boot::BootOutcome;
use crate::node::order::Order;
use crate::node::session::{Attempt, Session};
use crate::runner::process::last_words;
use crate::state::{Action, FailedStepRecord, Phase};

/// What follows.
enum Next {
    /// Another attempt.
    Again,
    /// The departure.
    Leave(Order),
    /// The end of the process.
    End(Result<(), FailedStep>),
}

/// The service: its session and its clients' requests.
pub struct Service {
    session: Session,
    control: Control,
    pauses: Pauses,
    /// The last configuration that was valid.
    config: Option<Rc<Config>>,
    /// Why the instance was given up, until it has left.
    given_up: Option<FailedStep>,
}

impl Service {
    /// Opens the control socket, and reports readiness to systemd at once: a slow node must not delay the machine's boot.
    pub fn open(session: Session) -> Self {
        let control = control::listen(&session.places.runtime_dir, session.publisher.clone());
        notify::ready();
        notify_watchdog();
        notify_when_stopping(session.stop.clone());
        Service { session, control, pauses: Pauses::new(), config: None, given_up: None }
    }

    /// Runs until the stop signal, the end of a hold, or the node's departure. The stop signal is no failure once the node is up.
    pub async fn run(mut self) -> Result<(), FailedStep> {
        let mut next = Box::pin(self.begin()).await;
        loop {
            next = match next {
                Next::Again => Box::pin(self.attempt()).await,
                Next::Leave(order) => self.leave(order).await,
                Next::End(Err(failed)) if self.leaves_given_up(&failed) => {
                    self.given_up = Some(failed);
                    self.leave(Order::GIVEN_UP).await
                }
                Next::End(result) => {
                    match &result {
                        // After the stop signal the result is unknown.
                        Ok(()) => self.control.requests.drop_followers(),
                        Err(failed) if failed.was_stopped() => self.control.requests.drop_followers(),
                        Err(failed) => self.control.requests.answer_followers(Some(&failed.into())),
                    }
                    self.control.finish().await;
                    return result;
                }
            };
        }
    }

    /// Brings the node up, and waits for what follows.
    async fn attempt(&mut self) -> Next {
        let attempt = self.control.requests.during(self.session.attempt(None)).await;
        let Attempt { result, config, lifecycle, cluster, order } = attempt;
        let completing = config.as_ref().map_or_else(|| timeouts::COMPLETE.default_span(), |it| it.timeouts.complete);
        if let Some(config) = config {
            self.config = Some(Rc::new(config));
        }
        let order = match order.filter(|_| !*self.session.stop.borrow()) {
            None => Box::pin(self.is_told_to_go(&result, lifecycle.as_ref())).await,
            order => order,
        };
        if let Some(order) = order {
            return Next::Leave(order);
        }
        if result.is_ok() {
            self.pauses = Pauses::new();
        }
        let action = lifecycle.as_ref().map(|lifecycle| Action::new(lifecycle, cluster.as_ref()));
        // Recorded before any client is answered: a query that follows must see the failure and the end of the hold.
        if let Err(failed) = &result
            && !failed.was_stopped()
        {
            let held = self.is_held(failed);
            if held {
                self.hold_left(failed, action.clone());
            }
            self.session.record_failure(failed, if held { Phase::Held } else { Phase::Failed });
        }
        let failed = result.as_ref().err().map(FailedStepRecord::from);
        if !result.as_ref().is_err_and(FailedStep::was_stopped) {
            last_words(failed.as_ref());
        }
        self.control.requests.answer_followers(failed.as_ref());
        match result {
            Ok(BootOutcome::Up) => self.watch(lifecycle.as_ref(), completing).await,
            Ok(BootOutcome::WarmPool) => self.wait_in_pool().await,
            Err(failed) if !failed.was_stopped() && self.is_held(&failed) => {
                Box::pin(self.hold(failed, action, completing)).await
            }
            Err(failed) => Next::End(Err(failed)),
        }
    }
}

fn notify_when_stopping(mut stop: signal::Receiver<bool>) {
    tokio::spawn(async move {
        if stop.wait_for(|stop| *stop).await.is_ok() {
            notify::stopping();
        }
    });
}

/// If systemd's watchdog is enabled, reports twice per interval that the runtime is not stuck.
fn notify_watchdog() {
    let Some(within) = sd_notify::watchdog_enabled() else { return };
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(within / 2);
        loop {
            tick.tick().await;
            notify::watchdog();
        }
    });
}
