//! The order to go: what the metadata service says of the instance's end, confirmed by Auto Scaling where that can be asked.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use crate::aws::autoscaling::LifecycleState;
use crate::lifecycle::Launch;
use crate::state::Reason;

/// How often the metadata service is asked. The requests stay on the host.
const POLL: Duration = Duration::from_secs(5);

/// How much a pause may differ, so that the machines of a host do not all ask at once.
const JITTER: Duration = Duration::from_millis(500);

/// How long the own state is asked for where Auto Scaling does not answer. After that the metadata service is believed.
const UNCONFIRMED: Duration = Duration::from_secs(30);

/// What the instance is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub(crate) reason: Reason,
    /// When a spot instance is taken.
    pub(crate) at: Option<SystemTime>,
}

/// Waits for the order to go. Target states of another kind (`Standby`, `Detached`, `Warmed:…`) are none.
pub async fn wait_for(launch: &Launch<'_>) -> Order {
    let mut first_seen = None;
    loop {
        sleep(POLL - JITTER + JITTER.mul_f64(2.0 * rand())).await;
        if let Some(order) = look(launch, &mut first_seen).await {
            return order;
        }
    }
}

async fn look(launch: &Launch<'_>, first_seen: &mut Option<Instant>) -> Option<Order> {
    match launch.imds.spot_notice().await {
        Ok(Some(at)) => return Some(Order { reason: Reason::Spot, at: Some(at) }),
        Ok(None) => {}
        Err(failure) => tracing::debug!("{failure}"),
    }
    let target = launch.imds.target_lifecycle_state().await.inspect_err(|failure| tracing::debug!("{failure}")).ok()?;
    let Some(LifecycleState::Terminating(target)) = target.filter(|target| !target.is_in_pool()) else {
        *first_seen = None;
        return None;
    };
    let seen = *first_seen.get_or_insert_with(Instant::now);
    let order = Order { reason: Reason::Terminated, at: None };
    match launch.autoscaling.state(&launch.instance.instance_id).await {
        Ok(LifecycleState::Terminating(_) | LifecycleState::NoGroup | LifecycleState::Unreadable) => Some(order),
        Ok(state) => {
            tracing::debug!("the metadata service says {target}, Auto Scaling {state}");
            None
        }
        Err(failure) if seen.elapsed() < UNCONFIRMED => {
            tracing::debug!("the metadata service says {target}; {failure}");
            None
        }
        Err(_) => Some(order),
    }
}
