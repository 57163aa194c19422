//! Every action the simulator knows: what can be called, and what a fault or a quota can name.

use crate::error::SimError;
use crate::faults::glob;

/// One action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Action {
    /// `service:Name`.
    pub(crate) name: &'static str,
    /// Whether it changes the world.
    pub(crate) mutating: bool,
}

const fn reads(name: &'static str) -> Action {
    Action { name, mutating: false }
}

const fn changes(name: &'static str) -> Action {
    Action { name, mutating: true }
}

const API: &[Action] = &[
    changes("ec2:AttachVolume"),
    changes("ec2:CreateSnapshot"),
    changes("ec2:CreateTags"),
    changes("ec2:DeleteTags"),
    reads("ec2:DescribeImages"),
    reads("ec2:DescribeInstanceTypeOfferings"),
    reads("ec2:DescribeInstances"),
    reads("ec2:DescribeLaunchTemplateVersions"),
    reads("ec2:DescribeLaunchTemplates"),
    reads("ec2:DescribeNetworkInterfaces"),
    reads("ec2:DescribeTags"),
    reads("ec2:DescribeVolumes"),
    changes("ec2:DetachVolume"),
    reads("ec2:GetConsoleOutput"),
    changes("ec2:ModifyVolume"),
    changes("ec2:TerminateInstances"),
    changes("autoscaling:CompleteLifecycleAction"),
    changes("autoscaling:CreateOrUpdateTags"),
    changes("autoscaling:DeleteTags"),
    reads("autoscaling:DescribeAccountSettings"),
    reads("autoscaling:DescribeAutoScalingGroups"),
    reads("autoscaling:DescribeAutoScalingInstances"),
    reads("autoscaling:DescribeInstanceRefreshes"),
    reads("autoscaling:DescribeLifecycleHooks"),
    reads("autoscaling:DescribeScalingActivities"),
    changes("autoscaling:RecordLifecycleActionHeartbeat"),
    changes("autoscaling:TerminateInstanceInAutoScalingGroup"),
    changes("autoscaling:UpdateAutoScalingGroup"),
    reads("s3:GetObject"),
    reads("s3:HeadObject"),
];

/// What the metadata service has, a star for what differs by instance. Versions other than `latest` count as `latest`.
const IMDS: &[&str] = &[
    "imds:PUT /latest/api/token",
    "imds:GET /",
    "imds:GET /latest/",
    "imds:GET /latest/dynamic/instance-identity/document",
    "imds:GET /latest/meta-data/",
    "imds:GET /latest/meta-data/ami-id",
    "imds:GET /latest/meta-data/autoscaling/target-lifecycle-state",
    "imds:GET /latest/meta-data/events/recommendations/rebalance",
    "imds:GET /latest/meta-data/hostname",
    "imds:GET /latest/meta-data/iam/info",
    "imds:GET /latest/meta-data/iam/security-credentials/",
    "imds:GET /latest/meta-data/iam/security-credentials/*",
    "imds:GET /latest/meta-data/instance-id",
    "imds:GET /latest/meta-data/instance-type",
    "imds:GET /latest/meta-data/local-hostname",
    "imds:GET /latest/meta-data/local-ipv4",
    "imds:GET /latest/meta-data/mac",
    "imds:GET /latest/meta-data/network/interfaces/macs/",
    "imds:GET /latest/meta-data/network/interfaces/macs/*/device-number",
    "imds:GET /latest/meta-data/network/interfaces/macs/*/local-ipv4s",
    "imds:GET /latest/meta-data/network/interfaces/macs/*/mac",
    "imds:GET /latest/meta-data/placement/availability-zone",
    "imds:GET /latest/meta-data/placement/region",
    "imds:GET /latest/meta-data/spot/instance-action",
    "imds:GET /latest/meta-data/tags/instance/*",
    "imds:GET /latest/user-data",
];

/// Looks an API action up.
pub(crate) fn find(name: &str) -> Option<Action> {
    API.iter().copied().find(|action| action.name == name)
}

/// The names of every action a fault or a quota can be for. The https file server's are `https:GET /PATH`.
pub fn actions() -> impl Iterator<Item = &'static str> {
    API.iter().map(|action| action.name).chain(IMDS.iter().copied()).chain(["https:GET /*"])
}

/// Refuses a pattern that no action can match.
pub(crate) fn check_pattern(pattern: &str) -> Result<(), SimError> {
    if actions().any(|known| glob(pattern, known) || glob(known, pattern)) {
        Ok(())
    } else {
        Err(SimError::UnknownAction(pattern.to_owned()))
    }
}
