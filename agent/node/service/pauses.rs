//! When the service retries by itself.

use std::fmt;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::failure::{Class, FailedStep};

/// The pauses before the service retries by itself.
pub(super) struct Pauses(Box<dyn Iterator<Item = Duration>>);

impl Pauses {
    /// From ten seconds to five minutes, each with up to as much again at random, so that after an outage a region's nodes do
    /// not all retry at once.
    pub(super) fn new() -> Self {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_secs(10))
            .with_max_delay(Duration::from_mins(5))
            .with_factor(2.0)
            .without_max_times()
            .with_jitter();
        Pauses(Box::new(pauses.build()))
    }

    /// The next one, if the failure may end by itself: an outage, throttling, credentials or permissions that are not there
    /// yet.
    pub(super) fn next(&mut self, failed: &FailedStep) -> Option<Duration> {
        let mends = matches!(failed.failure.class(), Class::Outage | Class::Settling);
        if mends { self.0.next() } else { None }
    }
}

impl fmt::Debug for Pauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pauses")
    }
}
