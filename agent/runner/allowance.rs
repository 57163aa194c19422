//! When heartbeats may be sent: only while the work is within its own deadline.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use tokio::time::Instant;

/// The permits that allow heartbeats, and their deadlines.
#[derive(Debug)]
pub struct Allowance {
    /// When the agent started. The lifecycle hook began to wait before that.
    pub began: Instant,
    given: RefCell<BTreeMap<u64, Option<Instant>>>,
    last: Cell<u64>,
    /// When the last heartbeat was sent. The next one is due relative to it, even if another [`Heart`] sends it.
    ///
    /// [`Heart`]: crate::lifecycle::heartbeat::Heart
    pub beat: Cell<Option<Instant>>,
}

/// Allows heartbeats until it is dropped or its deadline has passed.
pub struct Permit<'a> {
    allowance: &'a Allowance,
    number: u64,
}

impl Default for Allowance {
    fn default() -> Self {
        Allowance { began: Instant::now(), given: RefCell::default(), last: Cell::default(), beat: Cell::default() }
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
