//! A node in service: its mounts are observed, and requests are answered.

use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::requests::Wanted;
use super::{Next, Service};
use crate::config;
use crate::node::order::News;
use crate::node::session::Session;
use crate::node::status::mounts;
use crate::sequence::StepName;
use crate::state::{FailedStepRecord, State, Warning};

/// How often the mounts of a node in service and the target of its applications are observed.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(30);

impl Service {
    /// Watches a node in service until a retry, the stop signal, or a return to the warm pool.
    pub(super) async fn watch(&mut self, lifecycle: Option<&config::Lifecycle>, completing: Duration) -> Next {
        let session = &self.session;
        let mut stop = session.stop.clone();
        let mut tag = pin!(session.keep_tagging(None).fuse());
        let mut news = pin!(session.wait_for_news(lifecycle));
        let mut observe = tokio::time::interval_at(Instant::now() + OBSERVE_INTERVAL, OBSERVE_INTERVAL);
        let mut warning = None;
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return Next::End(Ok(())),
                () = &mut tag => {}
                _ = observe.tick() => warning = observe_mounts(session, warning).await,
                news = &mut news => match news {
                    News::Leave(order) => return Next::Leave(order),
                    News::Pool(target) => {
                        tracing::info!("the instance leaves service for its warm pool ({target})");
                        return Next::Again;
                    }
                },
                Some(wanted) = self.control.requests.next(&session.journal, None) => match wanted {
                    Wanted::Retry => return Next::Again,
                    Wanted::Complete(asked, result) => {
                        asked.accept();
                        let work = session.complete(lifecycle, completing, result);
                        let done = self.control.requests.during(work).await;
                        asked.answer(done.as_ref().err().map(FailedStepRecord::from));
                        self.control.requests.answer_followers(None);
                    }
                },
            }
        }
    }
}

/// Observes whether the mounts of a node in service are as the agent left them. Returns the present warning, which replaces
/// `earlier` and is withdrawn once it no longer holds.
async fn observe_mounts(session: &Session, earlier: Option<Warning>) -> Option<Warning> {
    let state = session.journal.read(State::clone);
    let broken = spawn_blocking(move || mounts::broken(&state)).await.ok().flatten();
    let now = broken.map(|(subject, failure)| {
        let message = format!("{failure}; {}", failure.what_to_do());
        Warning { step: StepName::Mount, subject, message }
    });
    if earlier != now {
        if let Some(gone) = earlier {
            session.journal.take_back(&gone);
        }
        if let Some(Warning { step, subject, message }) = &now {
            session.journal.warn(*step, subject.as_deref(), message);
        }
    }
    now
}
