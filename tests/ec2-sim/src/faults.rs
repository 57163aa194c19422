//! Faults: what goes wrong with a call, scripted by action and count or drawn from a seed.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::actions;
use crate::config::duration;
use crate::error::SimError;
use crate::lock;

/// What goes wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// An error of one's choice, in the service's own form; no effect.
    Error {
        /// The HTTP status.
        http: u16,
        /// The error code.
        code: String,
        /// The message.
        #[serde(default)]
        message: String,
    },
    /// The service's throttling answer; no effect. EC2: 503 `RequestLimitExceeded`; Auto Scaling: 400 `Throttling`; S3:
    /// 503 `SlowDown`; metadata and https: 503.
    Throttling,
    /// 500 `InternalError`; no effect.
    ServerError,
    /// The connection is reset before any effect.
    Reset,
    /// The effect happens, then the connection is reset without an answer.
    LostReply,
    /// Never answered, the connection stays open; no effect.
    Hang,
    /// HTTP 200 with a body that is not the protocol's; no effect.
    Garbage,
    /// The effect happens, then as [`Fault::Garbage`].
    GarbageReply,
    /// The effect happens, then the answer ends in the middle of its announced length.
    Truncated,
    /// A `Describe…` call tells of each volume, instance and lifecycle as it was some changes ago.
    Stale {
        /// How many changes of each; as far as its first state.
        back: usize,
    },
    /// The call takes longer, by this much, and is then carried out.
    Slow(#[serde(deserialize_with = "duration")] Duration),
}

impl Fault {
    /// The name in the event log and in TOML.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Error { .. } => "error",
            Self::Throttling => "throttling",
            Self::ServerError => "server-error",
            Self::Reset => "reset",
            Self::LostReply => "lost-reply",
            Self::Hang => "hang",
            Self::Garbage => "garbage",
            Self::GarbageReply => "garbage-reply",
            Self::Truncated => "truncated",
            Self::Stale { .. } => "stale",
            Self::Slow(_) => "slow",
        }
    }

    /// What a client should survive without help and without a long wait: everything but [`Fault::Hang`] and
    /// [`Fault::Error`].
    pub fn transient() -> Vec<Self> {
        vec![
            Self::Throttling,
            Self::ServerError,
            Self::Reset,
            Self::LostReply,
            Self::Garbage,
            Self::GarbageReply,
            Self::Truncated,
            Self::Stale { back: 1 },
            Self::Slow(Duration::from_millis(50)),
        ]
    }

    /// Whether a random draw may put this fault on the action. A file or a metadata value may have any content, so
    /// garbage there is not a failed call but wrong data, which no client can tell.
    fn suits(&self, action: &str) -> bool {
        let query = action.starts_with("ec2:") || action.starts_with("autoscaling:");
        match self {
            Self::Stale { .. } => query && action.contains(":Describe"),
            Self::Garbage | Self::GarbageReply => query,
            _ => true,
        }
    }
}

/// How often a rule strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// That many calls.
    Count(u32),
    /// Every call.
    Forever,
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Count(u32),
            Word(String),
        }
        match Raw::deserialize(input)? {
            Raw::Count(count) => Ok(Self::Count(count)),
            Raw::Word(word) if word == "forever" => Ok(Self::Forever),
            Raw::Word(word) => Err(serde::de::Error::custom(format!("{word:?}: a number or \"forever\""))),
        }
    }
}

/// A scripted fault.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// The calls it is for: `ec2:AttachVolume`, `autoscaling:*`, `s3:GetObject`, `imds:PUT /latest/api/token`,
    /// `https:GET /hooks.sh`, `*`. A star stands for any text.
    pub action: String,
    /// How many calls pass before it strikes.
    #[serde(default)]
    pub skip: u32,
    /// How often it strikes after that.
    #[serde(default = "once")]
    pub times: Times,
    /// What it does.
    pub fault: Fault,
}

fn once() -> Times {
    Times::Count(1)
}

impl FaultRule {
    /// Strikes the first matching call.
    pub fn once(action: &str, fault: Fault) -> Self {
        Self::times(action, 1, fault)
    }

    /// Strikes the first `count` matching calls.
    pub fn times(action: &str, count: u32, fault: Fault) -> Self {
        Self { action: action.to_owned(), skip: 0, times: Times::Count(count), fault }
    }

    /// Strikes every matching call.
    pub fn always(action: &str, fault: Fault) -> Self {
        Self { action: action.to_owned(), skip: 0, times: Times::Forever, fault }
    }

    /// Lets the first `count` matching calls pass.
    #[must_use]
    pub fn after(mut self, count: u32) -> Self {
        self.skip = count;
        self
    }
}

/// Faults drawn from a seed. The draw for the n-th call of an action depends on the seed, the action and n alone, so
/// that concurrency does not change it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomFaults {
    /// The seed.
    pub seed: u64,
    /// The chance of each call, 0 to 1.
    pub probability: f64,
    /// What is drawn from, as far as it suits the action: [`Fault::Stale`] only `Describe…`, garbage only EC2 and Auto
    /// Scaling.
    #[serde(default = "Fault::transient")]
    pub kinds: Vec<Fault>,
    /// Patterns of the actions concerned.
    #[serde(default = "every_action")]
    pub actions: Vec<String>,
}

fn every_action() -> Vec<String> {
    vec!["*".to_owned()]
}

impl RandomFaults {
    /// Every kind of [`Fault::transient`] on every action.
    pub fn new(seed: u64, probability: f64) -> Self {
        Self { seed, probability, kinds: Fault::transient(), actions: every_action() }
    }

    fn draw(&self, action: &str, nth: u64) -> Option<Fault> {
        if !self.actions.iter().any(|pattern| glob(pattern, action)) {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        (self.seed, action, nth).hash(&mut hasher);
        let mut rng = fastrand::Rng::with_seed(hasher.finish());
        if rng.f64() >= self.probability {
            return None;
        }
        let suited: Vec<&Fault> = self.kinds.iter().filter(|kind| kind.suits(action)).collect();
        rng.choice(suited).cloned()
    }
}

/// The fault for a call, and what decided it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Struck {
    pub(crate) fault: Fault,
    pub(crate) source: String,
}

struct Armed {
    rule: FaultRule,
    number: usize,
    seen: u32,
}

/// The faults in force.
pub(crate) struct Faults(Mutex<Rules>);

#[derive(Default)]
struct Rules {
    random: Option<RandomFaults>,
    armed: Vec<Armed>,
    registered: usize,
    calls: HashMap<String, u64>,
}

impl Faults {
    pub(crate) fn new(rules: Vec<FaultRule>, random: Option<RandomFaults>) -> Result<Self, SimError> {
        if let Some(random) = &random {
            random.actions.iter().try_for_each(|pattern| actions::check_pattern(pattern))?;
        }
        let faults = Self(Mutex::new(Rules { random, ..Rules::default() }));
        rules.into_iter().try_for_each(|rule| faults.add(rule))?;
        Ok(faults)
    }

    /// Refuses a rule that no simulated action matches: a test with it would silently test nothing.
    pub(crate) fn add(&self, rule: FaultRule) -> Result<(), SimError> {
        actions::check_pattern(&rule.action)?;
        let mut rules = lock(&self.0);
        let number = rules.registered;
        rules.registered += 1;
        rules.armed.push(Armed { rule, number, seen: 0 });
        Ok(())
    }

    pub(crate) fn clear(&self) {
        let mut rules = lock(&self.0);
        rules.armed.clear();
        rules.random = None;
    }

    /// The fault for this call: the first rule that strikes, else a random one. Every matching rule counts the call.
    pub(crate) fn decide(&self, action: &str) -> Option<Struck> {
        let mut rules = lock(&self.0);
        let calls = rules.calls.entry(action.to_owned()).or_default();
        let nth = *calls;
        *calls += 1;
        let mut struck = None;
        for armed in rules.armed.iter_mut().filter(|armed| glob(&armed.rule.action, action)) {
            let seen = armed.seen;
            armed.seen = seen.saturating_add(1);
            let past = match armed.rule.times {
                Times::Count(count) => seen >= armed.rule.skip.saturating_add(count),
                Times::Forever => false,
            };
            if seen >= armed.rule.skip && !past && struck.is_none() {
                let source = format!("rule {} ({})", armed.number, armed.rule.action);
                struck = Some(Struck { fault: armed.rule.fault.clone(), source });
            }
        }
        struck.or_else(|| {
            let random = rules.random.as_ref()?;
            let fault = random.draw(action, nth)?;
            Some(Struck { fault, source: format!("random seed {}", random.seed) })
        })
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any text and `?` for any one character.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut star {
                Some((at, from)) => {
                    *from += 1;
                    p = *at + 1;
                    t = *from;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_text() {
        for (pattern, text, matches) in [
            ("*", "ec2:AttachVolume", true),
            ("ec2:*", "ec2:AttachVolume", true),
            ("ec2:*Volume", "ec2:AttachVolume", true),
            ("ec2:*Volume", "ec2:AttachVolumes", false),
            ("autoscaling:*", "ec2:AttachVolume", false),
            ("i-?", "i-1", true),
            ("", "", true),
        ] {
            assert_eq!(glob(pattern, text), matches, "{pattern} {text}");
        }
    }

    #[test]
    fn a_rule_skips_strikes_and_ends() {
        let rule = FaultRule::times("ec2:AttachVolume", 2, Fault::Reset).after(1);
        let faults = Faults::new(vec![rule], None).expect("a known action");
        let struck: Vec<bool> = (0..5).map(|_| faults.decide("ec2:AttachVolume").is_some()).collect();
        assert_eq!(struck, [false, true, true, false, false]);
        assert!(faults.decide("ec2:DescribeVolumes").is_none());
    }

    #[test]
    fn a_rule_for_an_unknown_action_is_refused() {
        for action in ["ec2:AttachVolumes", "ec2", "lambda:*", "imds:GET /latest/meta-data/nonsense"] {
            let rule = FaultRule::once(action, Fault::Reset);
            assert!(matches!(Faults::new(vec![rule], None), Err(SimError::UnknownAction(_))), "{action}");
        }
    }

    #[test]
    fn random_faults_repeat_with_their_seed_and_suit_the_action() {
        let draw = |seed| {
            let random = RandomFaults::new(seed, 0.5);
            (0..200).map(|nth| random.draw("imds:GET /latest/user-data", nth)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let hits = draw(1).into_iter().flatten().collect::<Vec<_>>();
        assert!((60..140).contains(&hits.len()), "{}", hits.len());
        assert!(hits.iter().all(|fault| fault.suits("imds:GET /latest/user-data")));
        assert!(!hits.contains(&Fault::Garbage));
    }
}
