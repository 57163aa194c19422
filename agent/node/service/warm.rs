//! An instance that is in a warm pool, leaves it, or returns to it.

use std::time::Duration;

use tokio::time::Instant;

use super::requests::Wanted;
use super::{Next, Service};
use crate::aws::autoscaling::LifecycleState;
use crate::failure::{Code, Failure};

/// How often the metadata service is asked whether the instance enters or leaves a warm pool. The request stays on the host.
const WARM_POLL: Duration = Duration::from_secs(5);

impl Service {
    /// Waits in the warm pool until Auto Scaling launches the instance, with or without another boot.
    pub(super) async fn wait_in_pool(&mut self) -> Next {
        let session = &self.session;
        let mut stop = session.stop.clone();
        let mut poll = tokio::time::interval_at(Instant::now() + WARM_POLL, WARM_POLL);
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return Next::End(Ok(())),
                Some(wanted) = self.control.requests.next(&session.journal, None) => match wanted {
                    Wanted::Retry => return Next::Again,
                    Wanted::Complete(asked, _) => {
                        asked.refuse(&Failure::new(Code::WarmPool, "the instance is in a warm pool").into());
                    }
                },
                _ = poll.tick() => match session.aws.imds.target_lifecycle_state().await {
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
