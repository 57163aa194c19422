//! A simulated EC2 on loopback.
//!
//! Instance metadata (`IMDSv2`), EC2, Auto Scaling and S3 over their real wire protocols on real sockets, volumes as real
//! loop devices, lifecycle hooks whose timeouts really run out, faults, quotas and an event log. Any AWS client can talk
//! to it. Needs root for the loop devices.
//!
//! ```no_run
//! # async fn scenario() -> Result<(), Box<dyn std::error::Error>> {
//! use ec2_sim::{GroupSpec, HookSpec, InstanceSpec, Sim, SimConfig, VolumeSpec};
//!
//! let sim = Sim::start(SimConfig { work_dir: "/tmp/world".into(), ..SimConfig::default() }).await?;
//! let volume = sim.create_volume(VolumeSpec { size_bytes: 1 << 30, ..VolumeSpec::default() })?;
//! let group = sim.create_group(GroupSpec { name: "kafka-00".into(), hooks: vec![HookSpec::default()], ..GroupSpec::default() })?;
//! let instance = sim.launch(InstanceSpec {
//!     group: Some(group),
//!     by_id_dir: "/tmp/world/by-id".into(),
//!     ..InstanceSpec::default()
//! })?;
//! let environment = sim.env(&instance);
//! # Ok(()) }
//! ```
//!
//! How the code is laid out: `sim` is the handle; `world` the state; `volumes`, `instances` and `lifecycle` its
//! transitions, `devices` their loop devices; `wire` speaks HTTP, `serve` puts faults on calls; `api` routes to `ec2`,
//! `autoscaling` and `s3`, whose shared protocol is `query`; `imds` and `pages` are servers of their own. `templates`,
//! `interfaces` and `catalog` are what groups launch from, `launches` how, `activities` what they tell of it; `light` plays
//! agents, `deaths` kills, `lag` makes answers late; `witness` asks the event log. `machine`, `sandbox`, `fleet`, `partitions` and
//! `agent` are for those who run agents in that world.

mod actions;
mod activities;
pub mod agent;
mod api;
mod autoscaling;
mod catalog;
mod clock;
mod config;
mod core;
mod credentials;
mod deaths;
mod devices;
mod ec2;
mod error;
mod events;
mod faults;
pub mod fleet;
mod ids;
mod imds;
mod instances;
mod interfaces;
mod lag;
mod launches;
mod lifecycle;
mod light;
pub mod machine;
mod pages;
pub mod partitions;
mod query;
mod quota;
mod s3;
pub mod sandbox;
mod scenario;
mod serve;
mod sigv4;
mod sim;
mod snapshots;
mod templates;
mod volumes;
mod wire;
mod witness;
mod world;

pub use actions::actions;
pub use catalog::ImageState;
pub use config::{
    ActionResult, GroupSpec, HookSpec, InstanceSpec, Latencies, Launches, SimConfig, Spread, Transition, VolumeSpec,
};
pub use credentials::Credentials;
pub use deaths::RandomDeaths;
pub use devices::Slots;
pub use error::{ApiError, SimError};
pub use events::{
    Activity, ApiCall, DeviceChange, Event, Events, FaultHit, HealthChange, InstanceChange, LifecycleChange,
    VolumeChange, WebCall, What,
};
pub use faults::{Fault, FaultRule, RandomFaults, Times};
pub use ids::{InstanceId, VolumeId};
pub use interfaces::InterfaceSpec;
pub use lag::Lag;
pub use launches::LaunchFailure;
pub use light::{LightNode, Outcome};
pub use quota::Quota;
pub use s3::WrongRegion;
pub use scenario::{Attach, Page, Running, Scenario, StoredObject, Terminate};
pub use sim::{AttachmentView, Sim, VolumeView};
pub use snapshots::SnapshotView;
pub use templates::{LaunchedFrom, MixedPolicy, Override, TemplateChoice, TemplateSpec, TemplateVersion};
pub use witness::{Act, ActKind, Gap};
pub use world::InstanceState;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also after a panic of another holder: a broken test must still be able to clean up.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
