//! When the service retries automatically.

use std::time::Duration;

use crate::failure::{Class, FailedStep};
use crate::runner::patience::exponential;

/// The pauses before automatic retries.
pub(super) struct Pauses(Box<dyn Iterator<Item = Duration>>);

impl Pauses {
    /// From ten seconds to five minutes, at random up to twice as long, so that after an outage a region's nodes do not all retry
    /// at once.
    pub(super) fn new() -> Self {
        Pauses(Box::new(exponential(Duration::from_secs(10), Duration::from_mins(5), 2.0)))
    }

    /// The next pause, if the failure may end by itself: an outage, throttling, credentials or permissions not yet in effect.
    pub(super) fn next(&mut self, failed: &FailedStep) -> Option<Duration> {
        let may_pass = matches!(failed.failure.class(), Class::Outage | Class::Settling);
        if may_pass { self.0.next() } else { None }
    }
}
