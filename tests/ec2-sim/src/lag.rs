//! Answers that are late: each describes the world as it was some time ago, so that two services disagree.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::time::Instant;

use crate::config::Spread;
use crate::lock;
use crate::world::View;

/// How late descriptions are. No answer is later than `most` of its spread.
///
/// The n-th call of an action is as late as the seed, the action and n say: concurrency changes nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Lag {
    /// What is drawn by.
    pub seed: u64,
    /// `DescribeAutoScalingGroups`: members, versions, settings and tags.
    pub groups: Spread,
    /// `DescribeAutoScalingInstances`.
    pub members: Spread,
    /// `DescribeInstances`.
    pub instances: Spread,
    /// The chance, 0 to 1, that an answer may be older than one that was given before.
    pub backwards: f64,
}

impl Lag {
    fn of(&self, action: &str) -> Option<Spread> {
        let spread = match action {
            "autoscaling:DescribeAutoScalingGroups" => self.groups,
            "autoscaling:DescribeAutoScalingInstances" => self.members,
            "ec2:DescribeInstances" => self.instances,
            _ => return None,
        };
        (!spread.most.is_zero()).then_some(spread)
    }
}

/// The lag in force.
#[derive(Default)]
pub(crate) struct Lags(Mutex<State>);

#[derive(Default)]
struct State {
    lag: Lag,
    /// By action: how many calls there were, and the newest time that was shown.
    calls: HashMap<String, (u64, Option<Instant>)>,
}

impl Lags {
    /// Counts calls anew. What was shown already stays shown, but for draws that may go back.
    pub(crate) fn set(&self, lag: Lag) {
        let mut state = lock(&self.0);
        state.lag = lag;
        state.calls.values_mut().for_each(|(count, _)| *count = 0);
    }

    /// What this call shows.
    pub(crate) fn view(&self, action: &str) -> View {
        self.view_at(action, Instant::now()).map_or(View::Back(0), View::At)
    }

    fn view_at(&self, action: &str, now: Instant) -> Option<Instant> {
        let mut state = lock(&self.0);
        let lag = state.lag;
        let spread = lag.of(action)?;
        let (count, newest) = state.calls.entry(action.to_owned()).or_default();
        let mut hasher = DefaultHasher::new();
        (lag.seed, action, *count).hash(&mut hasher);
        let mut random = fastrand::Rng::with_seed(hasher.finish());
        *count += 1;
        let drawn = now.checked_sub(spread.draw(&mut random)).unwrap_or(now);
        let steps_back = random.f64() < lag.backwards;
        let shown = newest.filter(|newest| !steps_back && *newest > drawn).unwrap_or(drawn);
        *newest = (*newest).max(Some(shown));
        Some(shown)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const GROUPS: &str = "autoscaling:DescribeAutoScalingGroups";

    fn draws(lag: Lag) -> Vec<Duration> {
        let lags = Lags::default();
        lags.set(lag);
        let start = Instant::now() + Duration::from_hours(1);
        let call = |n: u32| {
            let now = start + Duration::from_secs(1) * n;
            let late = now - lags.view_at(GROUPS, now).expect("late");
            assert!(late <= lag.groups.most);
            late
        };
        (0..200).map(call).collect()
    }

    #[test]
    fn draws_repeat_with_their_seed_are_bounded_and_go_back_only_where_they_may() {
        let spread = Spread::between(Duration::ZERO, Duration::from_secs(20));
        let lag = Lag { seed: 1, groups: spread, backwards: 1.0, ..Lag::default() };
        assert_eq!(draws(lag), draws(lag));
        assert_ne!(draws(lag), draws(Lag { seed: 2, ..lag }));
        // A call a second: a step back makes the lateness grow by more than that second.
        let goes_back = |draws: &[Duration]| draws.windows(2).any(|pair| pair[1] > pair[0] + Duration::from_secs(1));
        assert!(goes_back(&draws(lag)));
        assert!(!goes_back(&draws(Lag { backwards: 0.0, ..lag })));
        assert!(Lags::default().view_at(GROUPS, Instant::now()).is_none());
    }
}
