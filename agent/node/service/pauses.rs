//! When the service retries automatically.

use std::fmt;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::failure::{Class, FailedStep};

/// The pauses before automatic retries.
pub(super) struct Pauses(Box<dyn Iterator<Item = Duration>>);

impl Pauses {
    /// From ten seconds to five minutes, at random up to twice as long, so that after an outage a region's nodes do not all retry
    /// at once.
    pub(super) fn new() -> Self {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_secs(10))
            .with_max_delay(Duration::from_mins(5))
            .with_factor(2.0)
            .without_max_times()
            .with_jitter();
        Pauses(Box::new(pauses.build()))
    }

    /// The next pause, if the failure may end by itself: an outage, throttling, credentials or permissions not yet in effect.
    pub(super) fn next(&mut self, failed: &FailedStep) -> Option<Duration> {
        let may_pass = matches!(failed.failure.class(), Class::Outage | Class::Settling);
        if may_pass { self.0.next() } else { None }
    }
}

impl fmt::Debug for Pauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pauses")
    }
}
