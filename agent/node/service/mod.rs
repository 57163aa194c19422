//! `node-agent run`: the resident service. It brings the node up, holds a failed one until somebody repairs it, and stays
//! small and quiet when all is well.

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
use crate::node::boot::Up;
use crate::node::process::last_words;
use crate::node::session::{Attempt, Session};
use crate::state::{FailedStepRecord, Phase};

/// What ends a wait.
enum Next {
    /// Another go.
    Again,
    /// The process ends.
    End(Result<(), FailedStep>),
}

/// The service: its session, and what is asked of it.
#[derive(Debug)]
pub struct Service {
    session: Session,
    control: Control,
    /// The pauses before retries that nobody asks for.
    pauses: Pauses,
}

impl Service {
    /// Opens the control socket, and tells systemd that it is ready: a node that takes its time must not hold back the boot of
    /// the machine.
    pub fn open(session: Session) -> Self {
        let control = control::listen(&session.places.runtime_dir, session.publisher.clone());
        notify::ready();
        keep_watchdog_calm();
        say_when_stopping(session.stop.clone());
        Service { session, control, pauses: Pauses::new() }
    }

    /// Runs until it is told to stop, which is no failure once the node is up, or a hold has ended.
    pub async fn run(mut self) -> Result<(), FailedStep> {
        loop {
            let attempt = self.control.requests.during(self.session.attempt(None)).await;
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
            self.control.requests.settle(how.as_ref());
            if let Next::End(result) = self.after(attempt).await {
                match &result {
                    // Told to stop: how the node comes out is not known.
                    Ok(()) => self.control.requests.dismiss(),
                    Err(failed) if failed.was_stopped() => self.control.requests.dismiss(),
                    Err(failed) => self.control.requests.settle(Some(&failed.into())),
                }
                self.control.finish().await;
                return result;
            }
        }
    }

    async fn after(&mut self, attempt: Attempt) -> Next {
        let Attempt { result, config, lifecycle } = attempt;
        let completing = config.map_or_else(|| timeouts::COMPLETE.default_span(), |config| config.timeouts.complete);
        match result {
            Ok(Up::Done) => self.steady(lifecycle.as_ref(), completing).await,
            Ok(Up::Warm) => self.warm().await,
            Err(failed) if failed.was_stopped() => Next::End(Err(failed)),
            Err(failed) if self.is_held(&failed) => self.hold(failed, lifecycle.as_ref(), completing).await,
            Err(failed) => Next::End(Err(failed)),
        }
    }
}

fn say_when_stopping(mut stop: signal::Receiver<bool>) {
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
