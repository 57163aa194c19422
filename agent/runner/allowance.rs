//! When heartbeats may be sent: only while the work is within its own deadline.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// The permits that allow heartbeats, and their deadlines.
pub struct Allowance {
    /// When the agent started. The lifecycle hook began to wait before that.
    pub began: Instant,
    given: RefCell<BTreeMap<u64, Option<Instant>>>,
    last: Cell<u64>,
    /// When the last heartbeat was sent. The next one is due relative to it, even if another [`Heart`] sends it.
    ///
    /// [`Heart`]: crate::lifecycle::heartbeat::Heart
    pub beat: Cell<Option<Instant>>,
    /// When Auto Scaling last took a heartbeat.
    pub taken: Cell<Option<Instant>>,
    /// Whether it has not taken the last one that was sent.
    pub is_refused: Cell<bool>,
    /// The hook's heartbeat timeout, once it is known.
    pub timeout: Cell<Option<Duration>>,
    /// Whether the action that heartbeats are sent for is over, whatever this machine does.
    pub is_over: Cell<bool>,
}

/// Allows heartbeats until it is dropped or its deadline has passed.
pub struct Permit<'a> {
    allowance: &'a Allowance,
    number: u64,
}

impl Default for Allowance {
    fn default() -> Self {
        Allowance {
            began: Instant::now(),
            given: RefCell::default(),
            last: Cell::default(),
            beat: Cell::default(),
            taken: Cell::default(),
            is_refused: Cell::default(),
            timeout: Cell::default(),
            is_over: Cell::default(),
        }
    }
}

impl Allowance {
    /// Allows heartbeats until `deadline`, or without one until the permit is dropped.
    pub fn permit(&self, deadline: Option<Instant>) -> Permit<'_> {
        let number = self.last.get() + 1;
        self.last.set(number);
        self.given.borrow_mut().insert(number, deadline);
        Permit { allowance: self, number }
    }

    /// How long Auto Scaling goes on waiting if it takes no heartbeat any more, and the whole timeout; none while it takes them.
    pub fn left_without_heartbeats(&self) -> Option<(Duration, Duration)> {
        let timeout = self.timeout.get().filter(|_| self.is_refused.get())?;
        let since = self.taken.get().unwrap_or(self.began);
        Some((timeout.saturating_sub(since.elapsed()), timeout))
    }

    /// Whether heartbeats may be sent now.
    pub fn holds(&self) -> bool {
        let now = Instant::now();
        self.given.borrow().values().any(|deadline| deadline.is_none_or(|deadline| now < deadline))
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.allowance.given.borrow_mut().remove(&self.number);
    }
}
