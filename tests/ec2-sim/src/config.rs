//! What a simulated world is made from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::devices::Slots;
use crate::faults::{FaultRule, RandomFaults};
use crate::light::LightNode;
use crate::quota::Quota;
use crate::templates::{LaunchedFrom, MixedPolicy, TemplateChoice};
use crate::world::InstanceState;

/// The settings of a simulator.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimConfig {
    /// Where backing files, `events.jsonl` and `ca.pem` go; made if missing, never removed. Required.
    pub work_dir: PathBuf,
    /// The address on which all services listen: loopback, or one that machines in network namespaces reach.
    pub address: IpAddr,
    /// The region every instance is in.
    pub region: String,
    /// The availability zone of what names none.
    pub zone: String,
    /// How long things take.
    pub latencies: Latencies,
    /// Request quotas: none by default.
    pub quotas: Vec<Quota>,
    /// Scripted faults, in force from the start.
    pub faults: Vec<FaultRule>,
    /// Seeded faults on any call.
    pub random_faults: Option<RandomFaults>,
    /// How long the credentials of a role live.
    #[serde(deserialize_with = "duration")]
    pub credential_lifetime: Duration,
    /// How many seconds the services' clock is ahead of the machine's (negative: behind). AWS refuses requests signed
    /// more than 5 minutes off.
    pub clock_ahead_seconds: i64,
    /// What every [`Spread`] is drawn by; random where absent.
    pub seed: Option<u64>,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            work_dir: PathBuf::new(),
            address: Ipv4Addr::LOCALHOST.into(),
            region: "eu-west-1".to_owned(),
            zone: "eu-west-1a".to_owned(),
            latencies: Latencies::default(),
            quotas: Vec::new(),
            faults: Vec::new(),
            random_faults: None,
            // What the metadata service of a real instance hands out lives about six hours.
            credential_lifetime: Duration::from_hours(6),
            clock_ahead_seconds: 0,
            seed: None,
        }
    }
}

/// How long transitions take. The defaults are far below AWS's, so that scenarios run in real time.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Latencies {
    /// From the attach call until the attachment is `attached`.
    #[serde(deserialize_with = "duration")]
    pub attach: Duration,
    /// From the attach call until the device appears.
    #[serde(deserialize_with = "duration")]
    pub device: Duration,
    /// From the detach call until the device goes; the volume is free once no process holds the device open.
    #[serde(deserialize_with = "duration")]
    pub detach: Duration,
    /// From `shutting-down` to `terminated`; the instance keeps its volumes as long.
    #[serde(deserialize_with = "duration")]
    pub shutting_down: Duration,
    /// From `shutting-down` until the network interface is free, whatever becomes of the volumes. Absent: with `terminated`.
    pub interface: Option<Spread>,
    /// From `Pending` to `Pending:Wait`.
    #[serde(deserialize_with = "duration")]
    pub pending_to_wait: Duration,
    /// From `Pending:Proceed` to `InService`.
    #[serde(deserialize_with = "duration")]
    pub proceed_to_in_service: Duration,
    /// From `Terminating` to `Terminating:Wait`.
    pub terminating_to_wait: Spread,
    /// From the end of an instance that its group did not order until the group notices. As long it is `InService` and healthy in
    /// the group's descriptions.
    pub notice: Spread,
    /// From a new lifecycle state until the metadata service's `autoscaling/target-lifecycle-state` follows it. AWS
    /// documents no bound.
    pub target_state: Spread,
    /// Added to every call of EC2, Auto Scaling and S3.
    #[serde(deserialize_with = "duration")]
    pub api: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            attach: Duration::from_millis(200),
            device: Duration::from_millis(300),
            detach: Duration::from_millis(200),
            shutting_down: Duration::from_millis(500),
            interface: None,
            pending_to_wait: Duration::from_millis(100),
            proceed_to_in_service: Duration::from_millis(100),
            terminating_to_wait: Spread::default(),
            notice: Spread::default(),
            target_state: Spread::default(),
            api: Duration::ZERO,
        }
    }
}

impl Latencies {
    /// Everything happens at once: for benchmarks and for tests that are about something else.
    pub fn none() -> Self {
        Self {
            attach: Duration::ZERO,
            device: Duration::ZERO,
            detach: Duration::ZERO,
            shutting_down: Duration::ZERO,
            interface: None,
            pending_to_wait: Duration::ZERO,
            proceed_to_in_service: Duration::ZERO,
            terminating_to_wait: Spread::default(),
            notice: Spread::default(),
            target_state: Spread::default(),
            api: Duration::ZERO,
        }
    }
}

/// A time that AWS does not document: drawn anew each time between two bounds. In TOML `"2s"` or `"1s..10s"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spread {
    /// The shortest.
    pub least: Duration,
    /// The longest.
    pub most: Duration,
}

impl Spread {
    /// Between these two, both included.
    pub const fn between(least: Duration, most: Duration) -> Self {
        Self { least, most }
    }

    /// Draws one.
    pub(crate) fn draw(self, random: &mut fastrand::Rng) -> Duration {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (least, most) = (milliseconds(self.least), milliseconds(self.most.max(self.least)));
        Duration::from_millis(random.u64(least..=most))
    }
}

impl From<Duration> for Spread {
    fn from(time: Duration) -> Self {
        Self::between(time, time)
    }
}

impl<'de> Deserialize<'de> for Spread {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        let parse = |text: &str| humantime::parse_duration(text).map_err(serde::de::Error::custom);
        let (least, most) = text.split_once("..").unwrap_or((&text, &text));
        Ok(Self::between(parse(least)?, parse(most)?))
    }
}

/// A volume to make. The backing file is sparse, so size is free; EC2 tells sizes in GiB, rounded up, so give whole
/// GiB where a client compares the device with what EC2 says.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VolumeSpec {
    /// Bytes, rounded up to whole 512-byte sectors.
    pub size_bytes: u64,
    /// The zone; the simulator's where absent.
    pub zone: Option<String>,
    /// The identifier; random where absent.
    pub id: Option<String>,
    /// The snapshot the volume was made from, as `DescribeVolumes` tells it.
    pub snapshot_id: Option<String>,
    /// Whether several instances may hold it at once (io2 Multi-Attach).
    pub multi_attach: bool,
    /// The KMS key that it is encrypted with. An instance whose role is denied `kms:CreateGrant` cannot attach it.
    pub kms_key_id: Option<String>,
    /// Whether that key is disabled: EC2 accepts to attach the volume, and then it is available again.
    pub kms_key_disabled: bool,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

impl Default for VolumeSpec {
    fn default() -> Self {
        Self {
            size_bytes: 1 << 30,
            zone: None,
            id: None,
            snapshot_id: None,
            multi_attach: false,
            kms_key_id: None,
            kms_key_disabled: false,
            tags: BTreeMap::new(),
        }
    }
}

/// An Auto Scaling group to make.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupSpec {
    /// Its name.
    pub name: String,
    /// Its lifecycle hooks.
    pub hooks: Vec<HookSpec>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The keys of those tags that its instances are given at their launch.
    pub propagated: BTreeSet<String>,
    /// How many instances it wants: its desired capacity, and its minimum and maximum where they are absent.
    pub wants: usize,
    /// Its minimum.
    pub min: Option<usize>,
    /// Its maximum.
    pub max: Option<usize>,
    /// The launch template that it launches from.
    pub template: Option<TemplateChoice>,
    /// The mixed instances policy that it launches from, in the place of a template.
    pub mixed: Option<MixedPolicy>,
    /// Its instance maintenance policy: the minimum and the maximum healthy percentage.
    pub maintenance_policy: Option<(u32, u32)>,
    /// Whether an instance whose termination hook ends in ABANDON is kept, in `Terminating:Retained`.
    pub retains: bool,
    /// Whether it is being deleted: `Delete in progress`.
    pub deleting: bool,
    /// The suspended processes, each with its reason. A suspended `Launch` launches nothing, a suspended `ReplaceUnhealthy` or
    /// `Terminate` replaces nothing; the others are only shown.
    pub suspended: BTreeMap<String, String>,
    /// From the mark that a member in service is unhealthy, or from its being stopped, until it is terminated and replaced.
    /// Absent: never.
    pub replaces_unhealthy: Option<Spread>,
    /// The status of its instance refresh, where it has one; it is only shown.
    pub refresh: Option<String>,
    /// What becomes of unhealthy instances in an impaired zone, where zonal shift is enabled: `IgnoreUnhealthy` or
    /// `ReplaceUnhealthy`. It is only shown.
    pub zonal_shift: Option<String>,
    /// What it launches where it has fewer instances than it wants. Absent: nothing, the scenario launches.
    pub launches: Option<Launches>,
}

impl Default for GroupSpec {
    fn default() -> Self {
        Self {
            name: String::new(),
            hooks: Vec::new(),
            tags: BTreeMap::new(),
            propagated: BTreeSet::new(),
            wants: 1,
            min: None,
            max: None,
            template: None,
            mixed: None,
            maintenance_policy: None,
            retains: false,
            deleting: false,
            suspended: BTreeMap::new(),
            replaces_unhealthy: None,
            refresh: None,
            zonal_shift: None,
            launches: None,
        }
    }
}

impl GroupSpec {
    /// The fewest instances that it may have.
    pub fn min(&self) -> usize {
        self.min.unwrap_or(self.wants)
    }

    /// The most instances that it may have.
    pub fn max(&self) -> usize {
        self.max.unwrap_or(self.wants)
    }
}

/// How a group replaces an instance. It does not wait for the old one: while that one still has the network interface (where
/// none is named: the first private address), the launch fails and is tried again.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Launches {
    /// The instance. What the group's launch template says goes before: image, type, user data, interface, tags, profile.
    pub instance: InstanceSpec,
    /// From the loss of an instance until the first launch.
    pub after: Spread,
    /// From the first launch that fails until the next one. Each further failure doubles it.
    pub retry: Spread,
}

/// Which transition a hook holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transition {
    /// `autoscaling:EC2_INSTANCE_LAUNCHING`.
    Launching,
    /// `autoscaling:EC2_INSTANCE_TERMINATING`.
    Terminating,
}

impl Transition {
    /// The name Auto Scaling has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Launching => "autoscaling:EC2_INSTANCE_LAUNCHING",
            Self::Terminating => "autoscaling:EC2_INSTANCE_TERMINATING",
        }
    }
}

/// What completes a lifecycle action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ActionResult {
    /// Go on.
    Continue,
    /// Give the instance up.
    Abandon,
}

impl ActionResult {
    /// The word on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Continue => "CONTINUE",
            Self::Abandon => "ABANDON",
        }
    }
}

/// A lifecycle hook.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HookSpec {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub transition: Transition,
    /// When an action without a heartbeat ends in the default result. AWS has 30 s to 7200 s; here any length runs in
    /// real time. Clients are told whole seconds, rounded up.
    #[serde(deserialize_with = "duration")]
    pub heartbeat_timeout: Duration,
    /// What the timeout amounts to.
    pub default_result: ActionResult,
}

impl Default for HookSpec {
    fn default() -> Self {
        Self {
            name: "launch-hook".to_owned(),
            transition: Transition::Launching,
            // AWS's own default.
            heartbeat_timeout: Duration::from_hours(1),
            default_result: ActionResult::Abandon,
        }
    }
}

/// An instance to launch.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InstanceSpec {
    /// The identifier; random where absent.
    pub id: Option<String>,
    /// The private addresses of its network interface, the primary one first.
    pub private_ips: Vec<String>,
    /// Its network interface, whose addresses go before; one that nobody made where absent.
    pub interface: Option<String>,
    /// Its image; always the same where absent.
    pub image: Option<String>,
    /// Its type; always the same where absent.
    pub instance_type: Option<String>,
    /// What its group and its own tags say that it was launched from.
    pub template: Option<LaunchedFrom>,
    /// How much of its group's capacity it is, by a mixed instances policy.
    pub weighted_capacity: Option<String>,
    /// The group it is launched by, which must exist.
    pub group: Option<String>,
    /// Its behaviour, where the simulator plays its agent and it has no machine.
    pub light: Option<LightNode>,
    /// Where the `/dev/disk/by-id` links of this instance's volumes go; made if missing. Absent: `by-id/ID` in the work
    /// directory.
    pub by_id_dir: PathBuf,
    /// Where its volumes are plugged in instead, in the place of a loop device with a link.
    #[serde(skip)]
    pub slots: Option<Arc<dyn Slots>>,
    /// The hardware address of its network interface; random where absent.
    pub mac: Option<String>,
    /// Its user data, raw.
    #[serde(deserialize_with = "text_bytes")]
    pub user_data: Option<Vec<u8>>,
    /// The name of its role (instance profile); without one the metadata service has no credentials.
    pub role: Option<String>,
    /// Patterns of actions its role does not permit, for example `ec2:CreateTags` or `autoscaling:Describe*`.
    pub denied: Vec<String>,
    /// Its state once launched.
    pub state: InstanceState,
    /// Its zone; the simulator's where absent.
    pub zone: Option<String>,
    /// The hop limit of the metadata service's answers (IP TTL). AWS's default is 1.
    pub hop_limit: u32,
    /// Whether the metadata service is enabled; disabled it answers 403.
    pub imds: bool,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// More metadata, or other values for what there is: path below `meta-data/` → value.
    pub metadata: BTreeMap<String, String>,
}

impl Default for InstanceSpec {
    fn default() -> Self {
        Self {
            id: None,
            private_ips: vec!["10.0.1.10".to_owned()],
            interface: None,
            image: None,
            instance_type: None,
            template: None,
            weighted_capacity: None,
            group: None,
            by_id_dir: PathBuf::new(),
            light: None,
            slots: None,
            mac: None,
            user_data: None,
            role: Some("node".to_owned()),
            denied: Vec::new(),
            state: InstanceState::Running,
            zone: None,
            hop_limit: 1,
            imds: true,
            tags: BTreeMap::new(),
            metadata: BTreeMap::new(),
        }
    }
}

/// Reads `200ms`, `5s`, `1h`.
pub(crate) fn duration<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(input)?;
    humantime::parse_duration(&text).map_err(serde::de::Error::custom)
}

pub(crate) fn text_bytes<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<u8>>, D::Error> {
    Ok(Option::<String>::deserialize(input)?.map(String::into_bytes))
}
