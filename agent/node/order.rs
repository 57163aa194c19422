//! The order to go: what the metadata service says of the instance's future, confirmed by Auto Scaling where that can be asked.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use crate::aws::autoscaling::{LifecycleState, State};
use crate::failure::Failure;
use crate::lifecycle::Launch;
use crate::runner::patience::jitter;
use crate::state::{Journal, Reason};

/// How often the metadata service is asked. The requests stay on the host.
const POLL: Duration = Duration::from_secs(5);

/// How often it is asked for a rebalance recommendation, which is only shown.
const REBALANCE: Duration = Duration::from_secs(30);

/// How long the own state is asked for where Auto Scaling does not answer. After that the metadata service is believed.
const UNCONFIRMED: Duration = Duration::from_secs(30);

/// What the metadata service says of the instance's future.
#[derive(Clone, Debug)]
pub enum News {
    /// It is to go.
    Leave(Order),
    /// It returns to its warm pool, for this state.
    Pool(LifecycleState),
}

/// Why the instance is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub(crate) reason: Reason,
    /// When EC2 takes a spot instance.
    pub(crate) at: Option<SystemTime>,
}

impl Order {
    /// The group terminates the instance.
    pub const TERMINATED: Order = Order { reason: Reason::Terminated, at: None };
    /// The node's own ABANDON has the group terminate the instance.
    pub const GIVEN_UP: Order = Order { reason: Reason::GivenUp, at: None };
}

/// Asks the metadata service, again and again.
pub struct Watch<'a> {
    launch: &'a Launch<'a>,
    journal: &'a Journal,
    /// Whether a termination hook is configured: only then is there a departure.
    leaves: bool,
    /// When the order was first seen that Auto Scaling has not confirmed.
    first_seen: Option<Instant>,
    asked_for_rebalance: Option<Instant>,
}

impl<'a> Watch<'a> {
    /// The watch over this instance, whose launch is journaled there.
    pub fn new(launch: &'a Launch<'a>, journal: &'a Journal) -> Self {
        let leaves = launch.config.is_some_and(|config| config.terminate_hook_name.is_some());
        Watch { launch, journal, leaves, first_seen: None, asked_for_rebalance: None }
    }

    /// Waits for news. `Standby` and `Detached` are none.
    pub async fn news(&mut self) -> News {
        loop {
            sleep(jitter(POLL)).await;
            match self.look().await {
                Ok(Some(news)) => return news,
                Ok(None) => {}
                Err(failure) => tracing::debug!("{failure}"),
            }
        }
    }

    /// Waits until EC2 takes this spot instance, and returns when.
    pub async fn spot_notice(&self) -> SystemTime {
        loop {
            match self.launch.imds.spot_notice().await {
                Ok(Some(at)) => return at,
                Ok(None) => {}
                Err(failure) => tracing::debug!("{failure}"),
            }
            sleep(jitter(POLL)).await;
        }
    }

    async fn look(&mut self) -> Result<Option<News>, Failure> {
        let imds = self.launch.imds;
        if self.launch.config.is_some() {
            // The two answers are independent: one that fails keeps nobody from the other.
            if self.leaves {
                match imds.spot_notice().await {
                    Ok(Some(at)) => return Ok(Some(News::Leave(Order { reason: Reason::Spot, at: Some(at) }))),
                    Ok(None) => {}
                    Err(failure) => tracing::debug!("{failure}"),
                }
            }
            if let Some(news) = self.target().await? {
                return Ok(Some(news));
            }
        }
        if self.asked_for_rebalance.is_none_or(|at| at.elapsed() >= REBALANCE) {
            self.asked_for_rebalance = Some(Instant::now());
            let is_recommended = imds.is_rebalance_recommended().await?;
            if self.journal.read(|state| state.rebalance_recommended) != is_recommended {
                if is_recommended {
                    tracing::info!("EC2 recommends to replace this spot instance: it may take it soon");
                }
                self.journal.note(|state| state.rebalance_recommended = is_recommended);
            }
        }
        Ok(None)
    }

    /// What the target state means.
    async fn target(&mut self) -> Result<Option<News>, Failure> {
        let target = self.launch.imds.target_lifecycle_state().await?;
        let order = match target {
            Some(target) if target.is_in_pool() => return Ok(Some(News::Pool(target))),
            Some(LifecycleState::Terminating(State::Terminated)) if self.leaves => Order::TERMINATED,
            Some(target) if target.replaces_root_volume() && self.leaves => ROOT_VOLUME,
            _ => {
                self.first_seen = None;
                return Ok(None);
            }
        };
        let seen = *self.first_seen.get_or_insert_with(Instant::now);
        let order = match self.launch.autoscaling.state(&self.launch.instance.instance_id).await {
            Ok(LifecycleState::Terminating(_)) => Some(Order::TERMINATED),
            Ok(state) if state.replaces_root_volume() => Some(ROOT_VOLUME),
            Ok(LifecycleState::NoGroup | LifecycleState::Unreadable) => Some(order),
            Ok(state) => {
                self.first_seen = None;
                tracing::debug!(
                    "the metadata service says that the instance is to go, Auto Scaling that it is {state}"
                );
                None
            }
            Err(failure) => {
                tracing::debug!("the metadata service says that the instance is to go; {failure}");
                (seen.elapsed() >= UNCONFIRMED).then_some(order)
            }
        };
        Ok(order.map(News::Leave))
    }
}

const ROOT_VOLUME: Order = Order { reason: Reason::RootVolume, at: None };
