//! When there may be heartbeats: while work is inside its own deadline.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use tokio::time::Instant;

/// Who may have heartbeats, and until when.
#[derive(Debug)]
pub struct Allowance {
    /// When the agent began: the hook has been waiting since before.
    pub began: Instant,
    given: RefCell<BTreeMap<u64, Option<Instant>>>,
    last: Cell<u64>,
    /// When the last heartbeat was sent: the next one is due by it, also where one heart takes over from another.
    pub beat: Cell<Option<Instant>>,
}

/// Heartbeats are allowed as long as this lives, but not beyond its deadline.
#[derive(Debug)]
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
    /// Allows heartbeats until `deadline`; without one, as long as the permit lives.
    pub fn permit(&self, deadline: Option<Instant>) -> Permit<'_> {
        let number = self.last.get() + 1;
        self.last.set(number);
        self.given.borrow_mut().insert(number, deadline);
        Permit { allowance: self, number }
    }

    /// Whether there may be heartbeats now.
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
