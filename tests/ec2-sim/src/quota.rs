//! Request quotas: token buckets, as EC2 has them per account and region.

use std::sync::Mutex;
use std::time::Instant;

use serde::Deserialize;

use crate::actions;
use crate::error::SimError;
use crate::faults::glob;
use crate::lock;

/// A quota on the actions that match a pattern, which share its bucket.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// The actions, for example `ec2:Describe*`.
    pub action: String,
    /// The size of the bucket: how many calls may come at once.
    pub capacity: f64,
    /// How many calls a second the bucket gains.
    pub refill_per_second: f64,
}

struct Bucket {
    quota: Quota,
    tokens: f64,
    filled: Instant,
}

/// The quotas in force.
pub(crate) struct Quotas(Mutex<Vec<Bucket>>);

impl Quotas {
    /// Refuses a quota that no simulated action matches.
    pub(crate) fn new(quotas: Vec<Quota>) -> Result<Self, SimError> {
        quotas.iter().try_for_each(|quota| actions::check_pattern(&quota.action))?;
        let filled = Instant::now();
        let bucket = |quota: Quota| Bucket { tokens: quota.capacity, quota, filled };
        Ok(Self(Mutex::new(quotas.into_iter().map(bucket).collect())))
    }

    /// Takes a token from every bucket the action belongs to; the pattern of the first empty one is the refusal.
    pub(crate) fn take(&self, action: &str) -> Result<(), String> {
        self.take_at(action, Instant::now())
    }

    fn take_at(&self, action: &str, now: Instant) -> Result<(), String> {
        let mut buckets = lock(&self.0);
        let mut concerned: Vec<&mut Bucket> =
            buckets.iter_mut().filter(|bucket| glob(&bucket.quota.action, action)).collect();
        for bucket in &mut concerned {
            let gained = now.saturating_duration_since(bucket.filled).as_secs_f64() * bucket.quota.refill_per_second;
            bucket.tokens = (bucket.tokens + gained).min(bucket.quota.capacity);
            bucket.filled = now;
        }
        if let Some(empty) = concerned.iter().find(|bucket| bucket.tokens < 1.0) {
            return Err(empty.quota.action.clone());
        }
        for bucket in concerned {
            bucket.tokens -= 1.0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_empties_and_refills() {
        let quota = Quota { action: "ec2:Describe*".to_owned(), capacity: 2.0, refill_per_second: 10.0 };
        let quotas = Quotas::new(vec![quota]).expect("a known action");
        let start = Instant::now();
        assert!(quotas.take_at("ec2:DescribeVolumes", start).is_ok());
        assert!(quotas.take_at("ec2:DescribeTags", start).is_ok());
        assert_eq!(quotas.take_at("ec2:DescribeVolumes", start), Err("ec2:Describe*".to_owned()));
        assert!(quotas.take_at("ec2:AttachVolume", start).is_ok());
        assert!(quotas.take_at("ec2:DescribeVolumes", start + Duration::from_millis(150)).is_ok());
    }
}
