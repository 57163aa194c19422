//! The request quotas of an account, and what they allow.

use std::collections::BTreeMap;

use ec2_sim::Quota;

use crate::measured::number;

/// What EC2 documents for an account that has asked for no more ("Request throttling for the Amazon EC2 API"): each action has a bucket
/// of its own. Describes without a filter and pages have 50 and 10 a second, others 100 and 20; what changes something 50 and 5,
/// `CreateTags` 100 and 10. Auto Scaling's quotas are not published: taken as EC2's.
pub(crate) fn account() -> Vec<Quota> {
    let quota =
        |action: &str, capacity, refill_per_second| Quota { action: action.to_owned(), capacity, refill_per_second };
    let mut quotas = vec![
        quota("ec2:DescribeVolumes", 50.0, 10.0),
        quota("ec2:DescribeInstances", 50.0, 10.0),
        quota("ec2:CreateTags", 100.0, 10.0),
    ];
    for changes in [
        "ec2:AttachVolume",
        "autoscaling:CompleteLifecycleAction",
        "autoscaling:CreateOrUpdateTags",
        "autoscaling:RecordLifecycleActionHeartbeat",
    ] {
        quotas.push(quota(changes, 50.0, 5.0));
    }
    for reads in [
        "ec2:DescribeImages",
        "ec2:DescribeInstanceTypeOfferings",
        "ec2:DescribeLaunchTemplateVersions",
        "ec2:DescribeLaunchTemplates",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeTags",
        "autoscaling:Describe*",
    ] {
        quotas.push(quota(reads, 100.0, 20.0));
    }
    quotas
}

/// How long so many calls take at the least, in seconds, and the bucket that says so.
pub(crate) fn floor(calls: &BTreeMap<String, usize>) -> (f64, String) {
    let mut longest = (0.0, "none".to_owned());
    for quota in account() {
        let all: usize =
            calls.iter().filter(|(action, _)| matches(&quota.action, action)).map(|(_, count)| count).sum();
        let seconds = (number(all) - quota.capacity) / quota.refill_per_second;
        if seconds > longest.0 {
            longest = (seconds, quota.action);
        }
    }
    longest
}

fn matches(pattern: &str, action: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == action, |prefix| action.starts_with(prefix))
}
