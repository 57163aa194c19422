//! An instance in a warm pool, on its way out of it, and back into it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::requests::Request;
use super::{Next, Service};
use crate::aws::autoscaling::LifecycleState;
use crate::config;
use crate::failure::{Code, Failure};
use crate::node::session::Session;

/// How often an instance asks its metadata service whether it goes into a warm pool, or out of it. The question stays on the host.
const WARM_POLL: Duration = Duration::from_secs(5);

impl Service {
    /// The instance is in a warm pool: it goes to work when Auto Scaling launches it, with or without another boot.
    pub(super) async fn warm(&mut self) -> Next {
        let session = &self.session;
        let mut stop = session.stop.clone();
        let mut poll = tokio::time::interval_at(Instant::now() + WARM_POLL, WARM_POLL);
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return Next::End(Ok(())),
                Some(asked) = self.control.requests.next() => match asked.request {
                    Request::Retry { from } => {
                        self.control.requests.again(&session.journal, asked, from);
                        return Next::Again;
                    }
                    Request::Follow => asked.answer(None),
                    Request::Complete { .. } => {
                        asked.refuse(&Failure::new(Code::WarmPool, "the instance is in a warm pool").into());
                    }
                },
                _ = poll.tick() => match self.session.aws.imds.target_lifecycle_state().await {
                    Ok(Some(LifecycleState::Warmed(_))) => {}
                    Ok(target) => {
                        let target = target.map_or("no group".to_owned(), |target| target.to_string());
                        tracing::info!("the instance leaves its warm pool for {target}");
                        return Next::Again;
                    }
                    Err(failure) => tracing::debug!("{failure}"),
                },
            }
        }
    }
}

/// Waits until Auto Scaling takes an instance in service back into its warm pool, and returns the state it goes to. Such an
/// instance can be launched again without another boot.
pub(super) async fn back_in_pool(session: &Session, lifecycle: Option<&config::Lifecycle>) -> LifecycleState {
    if lifecycle.is_none() {
        return std::future::pending().await;
    }
    loop {
        sleep(WARM_POLL).await;
        match session.aws.imds.target_lifecycle_state().await {
            Ok(Some(target)) if target.is_in_pool() => return target,
            Ok(_) => {}
            Err(failure) => tracing::debug!("{failure}"),
        }
    }
}
