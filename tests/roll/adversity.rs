//! What a seed does against a roll: a world that is late, wrong and deadly, and people who kill, freeze and start again.

#![allow(unreachable_pub, reason = "for the tests of rolls")]

use std::time::Duration;

use ec2_sim::{Lag, Latencies, Outcome, RandomDeaths, RandomFaults, Spread};

/// The world of a seed.
#[derive(Debug, Clone)]
pub struct Adversity {
    pub seed: u64,
    pub nodes: usize,
    pub boot: Spread,
    pub drain: Spread,
    pub latencies: Latencies,
    pub lag: Lag,
    pub faults: RandomFaults,
    /// Members that are in service die now and then.
    pub deaths: Option<RandomDeaths>,
    /// Calls that AWS throttles, all in a row.
    pub throttled: u32,
    /// What becomes of the nodes of the version that is rolled first; of one, or of all.
    pub breaks: Option<(Outcome, Option<usize>)>,
    random: fastrand::Rng,
}

/// What happens to one roll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    None,
    Kill(Duration),
    Stop(Duration),
    /// It is stopped for longer than a look may be acted on.
    Freeze(Duration),
}

impl Blow {
    pub fn is_due(self, after: Duration) -> bool {
        match self {
            Blow::None => false,
            Blow::Kill(at) | Blow::Stop(at) | Blow::Freeze(at) => after >= at,
        }
    }
}

/// Longer than a look may be acted on, 15 s.
pub const FROZEN: Duration = Duration::from_secs(18);
/// How late an answer is at most, in milliseconds: two looks are 5 s apart (docs/rolling.md), so that the second one shows whatever was done before
/// the first. A roll that remembers what it has done bears more; one that was killed has nothing but AWS's answers.
const LATEST: u64 = 4_500;

impl Adversity {
    pub fn new(seed: u64) -> Adversity {
        let mut random = fastrand::Rng::with_seed(seed);
        let up_to = |random: &mut fastrand::Rng, most: u64| {
            Spread::between(Duration::ZERO, Duration::from_millis(random.u64(0..=most)))
        };
        let nodes = random.usize(3..=5);
        let latencies = Latencies {
            shutting_down: Duration::from_millis(random.u64(100..=6_000)),
            interface: random.bool().then(|| up_to(&mut random, 8_000)),
            terminating_to_wait: up_to(&mut random, 2_000),
            notice: up_to(&mut random, 3_000),
            ..Latencies::default()
        };
        let lag = Lag {
            seed,
            groups: up_to(&mut random, LATEST),
            members: up_to(&mut random, LATEST),
            instances: up_to(&mut random, LATEST),
            backwards: random.f64() / 2.0,
        };
        let probability = random.f64() / 10.0;
        let actions = ["autoscaling:*", "ec2:*"].map(str::to_owned).into();
        let faults = RandomFaults { actions, ..RandomFaults::new(seed, probability) };
        let deaths = (random.f64() < 0.6).then(|| RandomDeaths {
            seed,
            every: Spread::between(Duration::from_secs(30), Duration::from_secs(random.u64(60..=180))),
            groups: vec!["*".to_owned()],
        });
        let outcome = *random.choice(&[Outcome::Held, Outcome::Abandons, Outcome::TimesOut]).expect("there are three");
        let which = random.bool().then(|| random.usize(0..nodes));
        Adversity {
            seed,
            nodes,
            boot: up_to(&mut random, 6_000),
            drain: up_to(&mut random, 6_000),
            latencies,
            lag,
            faults,
            deaths,
            throttled: if random.f64() < 0.2 { random.u32(5..40) } else { 0 },
            breaks: (random.f64() < 0.4).then_some((outcome, which)),
            random,
        }
    }

    /// What becomes of this node's first launch from the version that is rolled first.
    pub fn outcome(&self, node: usize) -> Outcome {
        match self.breaks {
            Some((outcome, which)) if which.is_none_or(|which| which == node) => outcome,
            _ => Outcome::Healthy,
        }
    }

    /// What happens to the next roll.
    pub fn blow(&mut self) -> Blow {
        let after = Duration::from_millis(self.random.u64(2_000..50_000));
        match self.random.u32(0..100) {
            0..35 => Blow::Kill(after),
            35..45 => Blow::Stop(after),
            45..55 => Blow::Freeze(after),
            _ => Blow::None,
        }
    }

    /// When a second roll starts beside the next one, after the first.
    pub fn second(&mut self) -> Option<Duration> {
        let after = if self.random.bool() { 0 } else { self.random.u64(0..40_000) };
        (self.random.f64() < 0.4).then(|| Duration::from_millis(after))
    }

    /// How the nodes are ordered: at random by name, or one of them, as the leader, last.
    pub fn leader(&mut self) -> Option<usize> {
        self.random.bool().then(|| self.random.usize(0..self.nodes))
    }

    /// The check: always passing, or failing now and then.
    pub fn check(&mut self) -> &'static str {
        if self.random.bool() { "true" } else { "((RANDOM % 4)) || { echo not yet; exit 1; }" }
    }

    /// Whether a newer version is published while the next roll is at work, and when.
    pub fn published(&mut self) -> Option<Duration> {
        let after = Duration::from_millis(self.random.u64(5_000..60_000));
        (self.random.f64() < 0.15).then_some(after)
    }
}
