//! How long a step retries a failure, and how often.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::Instant;

use crate::failure::{Class, Code, Failure};
use crate::time::rough;

/// How long a failure that is probably eventual consistency is retried. AWS names no bound for new ids and changed policies.
pub const SETTLING: Duration = Duration::from_mins(1);

/// Decides between another round and failure, and how long to pause.
#[derive(Default)]
pub(super) struct Patience {
    /// When the present kind of failure began, and its backoff.
    trouble: Option<Trouble>,
    /// What it was the last time.
    pub(super) last: Option<Failure>,
    /// The shortest pause, after a service has throttled: it halves with each answer.
    slowed: Duration,
}

struct Trouble {
    class: Class,
    /// How long it may last.
    limit: Duration,
    since: Instant,
    delays: Box<dyn Iterator<Item = Duration>>,
}

impl Patience {
    /// The step has acted: a failure after that is a new one.
    pub(super) fn reset_trouble(&mut self) {
        self.trouble = None;
    }

    /// The pause before the next round, or the failure that ends the step.
    pub(super) fn next(
        &mut self,
        failure: Failure,
        outage: Duration,
        settling: Duration,
        deadline: Instant,
        allowed: Duration,
    ) -> Result<Duration, Failure> {
        let class = failure.class();
        let now = Instant::now();
        if failure.code == Code::OutOfTime {
            // An observation that was cancelled says less than what earlier observations have seen.
            return Err(self.last.take().unwrap_or(failure).given_up(&rough(allowed)));
        }
        let limit = match class {
            // An instance profile may arrive minutes after the instance.
            _ if failure.code == Code::Credentials => outage,
            // The service is well. With a thousand nodes at once the turn of one may come late.
            _ if failure.code == Code::ApiThrottled => allowed,
            Class::Outage => outage,
            Class::Settling => settling,
            Class::Waiting | Class::SafetyWaiting | Class::LifecycleWaiting => allowed,
            _ => return Err(failure),
        };
        // The same class with another limit is another failure: an action that is not allowed yet is not part of the wait for
        // credentials.
        let same = self.trouble.take_if(|trouble| (trouble.class, trouble.limit) == (class, limit));
        let throttled = failure.code == Code::ApiThrottled;
        let delays = || if throttled { Box::new(throttled_delays()) } else { delays(class) };
        let begin = || Trouble { class, limit, since: now, delays: delays() };
        let trouble = self.trouble.insert(same.unwrap_or_else(begin));
        let lasted = now - trouble.since;
        let pause = trouble.delays.next().unwrap_or(Duration::from_secs(5));
        self.slowed = if throttled { pause } else { self.slowed / 2 };
        let pause = pause.max(self.slowed);
        if lasted >= limit {
            return Err(failure.given_up(&rough(lasted)));
        }
        if now >= deadline {
            return Err(failure.given_up(&rough(allowed)));
        }
        self.last = Some(failure);
        Ok(pause.min(deadline - now))
    }
}

/// Waits are polled fast at first, because a volume that becomes free must be attached within a second, and more slowly when
/// they last, because the whole account shares EC2's request quota. Errors back off exponentially.
fn delays(class: Class) -> Box<dyn Iterator<Item = Duration>> {
    let exponential =
        |first: u64, most: u64| exponential(Duration::from_millis(first), Duration::from_millis(most), 1.6);
    match class {
        // Jitter adds up to the same amount again: at most 0.5 s between polls for the first two minutes.
        Class::Waiting | Class::SafetyWaiting => {
            Box::new(exponential(20, 250).take(322).chain(exponential(500, 2_500)))
        }
        // A report that arrives some seconds later costs nothing, and each try uses up the account's request quota.
        Class::LifecycleWaiting => Box::new(exponential(50, 5_000)),
        _ => Box::new(exponential(100, 4_000)),
    }
}

/// A request that is throttled takes nothing from the quota, but a thousand nodes that ask again at once keep it from filling: each
/// asks less often the longer it lasts.
fn throttled_delays() -> impl Iterator<Item = Duration> {
    exponential(Duration::from_millis(200), Duration::from_secs(16), 2.0)
}

/// Pauses that grow by `factor` from `first` to `most`, and without end. Each is at random up to twice as long, so that not all
/// who wait for the same thing try again at once.
pub fn exponential(first: Duration, most: Duration, factor: f32) -> impl Iterator<Item = Duration> {
    let builder = ExponentialBuilder::default().with_min_delay(first).with_max_delay(most).with_factor(factor);
    builder.without_max_times().with_jitter().build()
}

/// A pause of about this length, at random up to a tenth shorter or longer: the machines of a host must not all ask at once.
pub fn jitter(pause: Duration) -> Duration {
    let mut drawn = exponential(pause / 5, pause / 5, 1.0);
    pause * 7 / 10 + drawn.next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_waited_for_as_long_as_timeouts_aws_and_permissions_a_minute() {
        let minutes = Duration::from_mins;
        let mut patience = Patience::default();
        let mut next = |code, after: Duration| {
            if let Some(trouble) = &mut patience.trouble {
                trouble.since -= after;
            }
            let deadline = Instant::now() + minutes(60);
            patience.next(Failure::new(code, "no"), minutes(5), SETTLING, deadline, minutes(60)).is_ok()
        };
        assert!(next(Code::Credentials, minutes(0)));
        assert!(next(Code::Credentials, minutes(4)));
        // Its minute begins now.
        assert!(next(Code::AccessDenied, minutes(0)));
        assert!(!next(Code::AccessDenied, SETTLING));
        assert!(next(Code::Credentials, minutes(0)));
        assert!(!next(Code::Credentials, minutes(5)));
    }

    #[test]
    fn a_throttled_step_asks_less_and_less_often_and_recovers_with_the_answers() {
        let (minutes, mut patience) = (Duration::from_mins, Patience::default());
        let mut next = |code| {
            let deadline = Instant::now() + minutes(60);
            patience.next(Failure::new(code, "no"), minutes(5), SETTLING, deadline, minutes(60)).unwrap()
        };
        let throttled: Vec<_> = (0..8).map(|_| next(Code::ApiThrottled)).collect();
        assert!(
            throttled[0] >= Duration::from_millis(200) && throttled[0] <= Duration::from_millis(400),
            "{throttled:?}"
        );
        assert!(throttled[7] >= Duration::from_secs(16), "{throttled:?}");
        let answered: Vec<_> = (0..8).map(|_| next(Code::VolumeInTransit)).collect();
        assert!(answered[0] >= Duration::from_secs(8) && answered[7] <= Duration::from_millis(500), "{answered:?}");
    }

    #[test]
    fn a_throttled_step_has_until_its_own_deadline() {
        let (minutes, mut patience) = (Duration::from_mins, Patience::default());
        let deadline = Instant::now() + minutes(60);
        for _ in 0..3 {
            let failure = Failure::new(Code::ApiThrottled, "no");
            assert!(patience.next(failure, minutes(5), SETTLING, deadline, minutes(60)).is_ok());
            if let Some(trouble) = &mut patience.trouble {
                trouble.since -= minutes(6);
            }
        }
    }

    #[test]
    fn what_may_come_free_is_observed_twice_a_second_for_two_minutes_then_less_often() {
        let pauses: Vec<Duration> = delays(Class::Waiting).take(400).collect();
        let brisk = pauses.iter().take_while(|pause| **pause <= Duration::from_millis(500));
        assert!(brisk.clone().count() >= 322, "{pauses:?}");
        // The shortest that they can be together: without jitter.
        assert!(brisk.sum::<Duration>() >= Duration::from_secs(75), "{pauses:?}");
        assert!(pauses[390..].iter().all(|pause| (2_500..=5_000).contains(&pause.as_millis())), "{pauses:?}");
    }
}
