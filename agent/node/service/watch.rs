//! A node in service: nothing to do until somebody wants something, or takes something away.

use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::requests::Request;
use super::warm::back_in_pool;
use super::{Next, Service};
use crate::config;
use crate::node::session::Session;
use crate::node::status::mounts;
use crate::sequence::StepName;
use crate::state::{FailedStepRecord, State, Warning};

/// How often a node in service is looked at: whether its volumes are mounted, and its applications' target is started.
const LOOK: Duration = Duration::from_secs(30);

impl Service {
    /// The node is up: nothing to do until somebody wants something.
    pub(super) async fn steady(&mut self, lifecycle: Option<&config::Lifecycle>, completing: Duration) -> Next {
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
                Some(asked) = self.control.requests.next() => match asked.request {
                    Request::Retry { from } => {
                        self.control.requests.again(&session.journal, asked, from);
                        return Next::Again;
                    }
                    Request::Follow => asked.answer(None),
                    Request::Complete { result } => {
                        asked.accept();
                        let work = session.complete(lifecycle, completing, result);
                        let done = self.control.requests.during(work).await;
                        asked.answer(done.as_ref().err().map(FailedStepRecord::from));
                        self.control.requests.settle(None);
                    }
                },
            }
        }
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
