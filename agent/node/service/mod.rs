//! `node-agent run`: the resident service. It brings the node up, holds a failed node until it is repaired, and stays small
//! and quiet while all is well.

pub mod client;
pub mod control;
mod hold;
mod pauses;
pub mod requests;
pub mod retry;
mod warm;
mod watch;

use tokio::sync::watch as signal;

use self::control::Control;
use self::pauses::Pauses;
use crate::config::schema::timeouts;
use crate::failure::FailedStep;
use crate::host::notify;
use crate::node::boot::BootOutcome;
use crate::node::process::last_words;
use crate::node::session::{Attempt, Session};
use crate::state::{FailedStepRecord, Phase};

/// What follows a wait.
enum Next {
    /// Another attempt.
    Again,
    /// The end of the process.
    End(Result<(), FailedStep>),
}

/// The service: its session and its clients' requests.
pub struct Service {
    session: Session,
    control: Control,
    pauses: Pauses,
}

impl Service {
    /// Opens the control socket, and reports readiness to systemd at once: a slow node must not delay the machine's boot.
    pub fn open(session: Session) -> Self {
        let control = control::listen(&session.places.runtime_dir, session.publisher.clone());
        notify::ready();
        notify_watchdog();
        notify_when_stopping(session.stop.clone());
        Service { session, control, pauses: Pauses::new() }
    }

    /// Runs until the stop signal or the end of a hold. The stop signal is no failure once the node is up.
    pub async fn run(mut self) -> Result<(), FailedStep> {
        loop {
            let attempt = self.control.requests.during(self.session.attempt(None)).await;
            if attempt.result.is_ok() {
                self.pauses = Pauses::new();
            }
            let failed = attempt.result.as_ref().err().map(FailedStepRecord::from);
            // Recorded before any client is answered: a query that follows must see the failure and the end of the hold.
            if let Err(failed) = &attempt.result
                && !failed.was_stopped()
            {
                let held = self.is_held(failed);
                if held {
                    self.hold_left(failed, attempt.lifecycle.as_ref());
                }
                self.session.record_failure(failed, if held { Phase::Held } else { Phase::Failed });
            }
            if !attempt.result.as_ref().is_err_and(FailedStep::was_stopped) {
                last_words(failed.as_ref());
            }
            self.control.requests.answer_followers(failed.as_ref());
            if let Next::End(result) = self.wait_after(attempt).await {
                match &result {
                    // After the stop signal the result is unknown.
                    Ok(()) => self.control.requests.drop_followers(),
                    Err(failed) if failed.was_stopped() => self.control.requests.drop_followers(),
                    Err(failed) => self.control.requests.answer_followers(Some(&failed.into())),
                }
                self.control.finish().await;
                return result;
            }
        }
    }

    async fn wait_after(&mut self, attempt: Attempt) -> Next {
        let Attempt { result, config, lifecycle } = attempt;
        let completing = config.map_or_else(|| timeouts::COMPLETE.default_span(), |config| config.timeouts.complete);
        match result {
            Ok(BootOutcome::Up) => self.watch(lifecycle.as_ref(), completing).await,
            Ok(BootOutcome::WarmPool) => self.wait_in_pool().await,
            Err(failed) if failed.was_stopped() => Next::End(Err(failed)),
            Err(failed) if self.is_held(&failed) => self.hold(failed, lifecycle.as_ref(), completing).await,
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
