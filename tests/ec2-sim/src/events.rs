//! The event log: what every client asked for and what the world did, in order, with monotonic times.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::error::SimError;
use crate::faults::glob;
use crate::lock;

/// One thing that happened; a line of `events.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Seconds since the simulator started, monotonic.
    pub t: f64,
    /// Its place in the log, from 0.
    pub seq: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum What {
    /// A call of EC2, Auto Scaling or S3.
    Api(ApiCall),
    /// A call of an instance's metadata service.
    Imds(WebCall),
    /// A call of the https file server.
    Https(WebCall),
    /// A volume or one of its attachments changed.
    Volume(VolumeChange),
    /// A block device came or went.
    Device(DeviceChange),
    /// An instance changed its state.
    Instance(InstanceChange),
    /// A group member changed its lifecycle state.
    Lifecycle(LifecycleChange),
    /// A group member was marked healthy or unhealthy.
    Health(HealthChange),
    /// A group tried to launch an instance.
    Activity(Activity),
    /// A fault or a quota struck a call, whose own event follows.
    Fault(FaultHit),
}

/// A call of EC2, Auto Scaling or S3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiCall {
    /// For example `ec2:AttachVolume`.
    pub action: String,
    /// The instance whose role signed it; `static`, `operator-1`, `operator-2`, … for the credentials made for clients outside
    /// an instance; none where nobody could be recognised.
    pub caller: Option<String>,
    /// The parameters as sent; never a signature, a token or a key.
    pub parameters: BTreeMap<String, String>,
    /// The HTTP status answered, or that would have been where a fault kept the answer back. None: nothing was meant to
    /// be answered.
    pub http: Option<u16>,
    /// The error code, where the answer is an error.
    pub code: Option<String>,
    /// Whether the operation was carried out with success, whatever became of the answer.
    pub done: bool,
    /// Whether the action changes the world.
    pub mutating: bool,
    /// Whether it was only asked whether it would be allowed.
    pub dry_run: bool,
    /// The fault that struck it.
    pub fault: Option<String>,
}

/// A call of the metadata service or of the https file server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebCall {
    /// For example `imds:GET /latest/meta-data/instance-id`.
    pub action: String,
    /// The instance whose metadata service it is.
    pub instance: Option<String>,
    /// The HTTP status, as in [`ApiCall::http`].
    pub http: Option<u16>,
    /// The fault that struck it.
    pub fault: Option<String>,
}

/// A volume or one of its attachments changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeChange {
    /// The volume.
    pub id: String,
    /// Its status.
    pub status: String,
    /// The attachment's status; none where the volume itself changed.
    pub attachment: Option<String>,
    /// The attachment's instance.
    pub instance: Option<String>,
    /// The size in bytes.
    pub size_bytes: u64,
}

/// A block device came or went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceChange {
    /// The volume behind it.
    pub id: String,
    /// The instance that sees it.
    pub instance: String,
    /// `appeared`, `busy` (to go, but somebody still holds it open), `gone`, `grown` or `failed: …`.
    pub state: String,
    /// The device node.
    pub path: String,
}

/// An instance changed its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceChange {
    /// The instance.
    pub id: String,
    /// The state it left; none at launch.
    pub from: Option<String>,
    /// The state it is in.
    pub to: String,
    /// Why.
    pub cause: String,
}

/// A group member changed its lifecycle state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleChange {
    /// The instance.
    pub instance: String,
    /// The group.
    pub group: String,
    /// The state it left; none where it joined.
    pub from: Option<String>,
    /// The state it is in; `Terminated` once it left the group.
    pub to: String,
    /// Why: `CompleteLifecycleAction CONTINUE`, `heartbeat timeout`, …
    pub cause: String,
    /// The version of the launch template that the instance was launched from.
    pub version: Option<u64>,
}

/// A group member was marked healthy or unhealthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthChange {
    /// The instance.
    pub instance: String,
    /// The group.
    pub group: String,
    /// Whether it is healthy.
    pub healthy: bool,
}

/// A group tried to launch an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// The group.
    pub group: String,
    /// The instance; none where the launch failed.
    pub instance: Option<String>,
    /// Auto Scaling's own words.
    pub status: String,
}

/// A fault or a quota struck a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultHit {
    /// The call.
    pub action: String,
    /// The kind of fault, for example `lost-reply`.
    pub fault: String,
    /// What decided it: `rule 0 (ec2:*)`, `random seed 7` or `quota ec2:Describe*`.
    pub source: String,
}

/// A copy of the log with ways to ask it.
#[derive(Debug, Clone, Default)]
pub struct Events(Vec<Event>);

impl Deref for Events {
    type Target = [Event];
    fn deref(&self) -> &[Event] {
        &self.0
    }
}

impl Events {
    /// API calls whose action matches `pattern` and that were carried out with success, dry runs excluded: what really
    /// took effect, also where the reply was lost.
    pub fn calls(&self, pattern: &str) -> Vec<&ApiCall> {
        self.attempts(pattern).into_iter().filter(|call| call.done && !call.dry_run).collect()
    }

    /// API calls whose action matches `pattern`, whatever became of them.
    pub fn attempts(&self, pattern: &str) -> Vec<&ApiCall> {
        self.api().filter(|call| glob(pattern, &call.action)).collect()
    }

    /// API calls that changed the world, dry runs excluded.
    pub fn mutations(&self) -> Vec<&ApiCall> {
        self.api().filter(|call| call.mutating && call.done && !call.dry_run).collect()
    }

    /// Calls of metadata services whose action matches `pattern`, for example `imds:PUT *`.
    pub fn imds(&self, pattern: &str) -> Vec<&WebCall> {
        self.0
            .iter()
            .filter_map(|event| match &event.what {
                What::Imds(call) if glob(pattern, &call.action) => Some(call),
                _ => None,
            })
            .collect()
    }

    /// The lifecycle states the instance went through.
    pub fn lifecycle(&self, instance: &str) -> Vec<&LifecycleChange> {
        self.0
            .iter()
            .filter_map(|event| match &event.what {
                What::Lifecycle(change) if change.instance == instance => Some(change),
                _ => None,
            })
            .collect()
    }

    /// The faults that struck.
    pub fn faults(&self) -> Vec<&FaultHit> {
        self.0
            .iter()
            .filter_map(|event| match &event.what {
                What::Fault(hit) => Some(hit),
                _ => None,
            })
            .collect()
    }

    fn api(&self) -> impl Iterator<Item = &ApiCall> {
        self.0.iter().filter_map(|event| match &event.what {
            What::Api(call) => Some(call),
            _ => None,
        })
    }
}

/// Where events are kept and waited for.
pub(crate) struct EventLog {
    started: Instant,
    kept: Mutex<Kept>,
    grown: Condvar,
    count: watch::Sender<usize>,
}

struct Kept {
    events: Vec<Event>,
    file: File,
}

impl EventLog {
    pub(crate) fn create(path: &Path) -> Result<Self, SimError> {
        let file = File::create(path).map_err(SimError::io(format!("create {}", path.display())))?;
        Ok(Self {
            started: Instant::now(),
            kept: Mutex::new(Kept { events: Vec::new(), file }),
            grown: Condvar::new(),
            count: watch::Sender::new(0),
        })
    }

    pub(crate) fn push(&self, what: What) {
        let mut kept = lock(&self.kept);
        // Taken under the lock, so that times never step backwards along the log.
        let t = (self.started.elapsed().as_secs_f64() * 1e6).round() / 1e6;
        let event = Event { t, seq: kept.events.len() as u64, what };
        if let Ok(mut line) = serde_json::to_vec(&event) {
            line.push(b'\n');
            if let Err(error) = kept.file.write_all(&line) {
                eprintln!("ec2-sim: event log: {error}");
            }
        }
        kept.events.push(event);
        self.count.send_replace(kept.events.len());
        self.grown.notify_all();
    }

    pub(crate) fn copy(&self) -> Events {
        Events(lock(&self.kept).events.clone())
    }

    /// What was logged since `seen`, which follows; empty after the time.
    pub(crate) fn next(&self, seen: &mut usize, timeout: Duration) -> Vec<Event> {
        let kept = lock(&self.kept);
        let waited = self.grown.wait_timeout_while(kept, timeout, |kept| kept.events.len() == *seen);
        let (kept, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        let new = kept.events[*seen..].to_vec();
        *seen += new.len();
        new
    }

    /// The first matching event, past ones included.
    pub(crate) async fn wait(&self, mut wanted: impl FnMut(&Event) -> bool, timeout: Duration) -> Option<Event> {
        let mut count = self.count.subscribe();
        let mut seen = 0;
        tokio::time::timeout(timeout, async {
            loop {
                if let Some(event) = self.find(&mut seen, &mut wanted) {
                    return Some(event);
                }
                // The sender lives in self: it cannot be gone.
                count.changed().await.ok()?;
            }
        })
        .await
        .ok()
        .flatten()
    }

    pub(crate) fn wait_blocking(&self, mut wanted: impl FnMut(&Event) -> bool, timeout: Duration) -> Option<Event> {
        let deadline = Instant::now() + timeout;
        let mut seen = 0;
        loop {
            if let Some(event) = self.find(&mut seen, &mut wanted) {
                return Some(event);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let kept = lock(&self.kept);
            if kept.events.len() == seen {
                drop(self.grown.wait_timeout(kept, left).unwrap_or_else(std::sync::PoisonError::into_inner));
            }
        }
    }

    fn find(&self, seen: &mut usize, wanted: &mut impl FnMut(&Event) -> bool) -> Option<Event> {
        // The predicate may ask the world, which logs: it is never called with the log locked.
        let new = lock(&self.kept).events[*seen..].to_vec();
        *seen += new.len();
        new.into_iter().find(wanted)
    }
}
