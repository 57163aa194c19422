//! What all parts of a running simulator share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::clock::Clock;
use crate::config::{SimConfig, Spread};
use crate::credentials::Issuer;
use crate::deaths::Deaths;
use crate::devices::Devices;
use crate::events::{EventLog, What};
use crate::faults::{Faults, Struck};
use crate::lag::Lags;
use crate::lock;
use crate::pages::Pages;
use crate::quota::Quotas;
use crate::s3::Objects;
use crate::world::World;

/// The parts of a running simulator.
pub(crate) struct Core {
    pub(crate) config: SimConfig,
    pub(crate) work_dir: PathBuf,
    pub(crate) clock: Clock,
    pub(crate) log: EventLog,
    pub(crate) devices: Devices,
    pub(crate) faults: Faults,
    pub(crate) quotas: Quotas,
    pub(crate) lags: Lags,
    pub(crate) deaths: Deaths,
    pub(crate) issuer: Issuer,
    pub(crate) objects: Objects,
    pub(crate) pages: Pages,
    pub(crate) api: SocketAddr,
    pub(crate) api_https: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) runtime: Handle,
    pub(crate) state: Mutex<World>,
    pub(crate) random: Mutex<fastrand::Rng>,
}

impl Core {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.state)
    }

    /// Draws a time.
    pub(crate) fn draw(&self, spread: Spread) -> Duration {
        spread.draw(&mut lock(&self.random))
    }

    /// Does something after a while, unless the simulator ends before.
    pub(crate) fn later(self: &Arc<Self>, after: Duration, act: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let core = Arc::clone(self);
        self.runtime.spawn(async move {
            tokio::time::sleep(after).await;
            act(&core);
        });
    }

    /// What strikes a call of this action: an empty quota, a scripted fault, a random one. It is logged.
    pub(crate) fn strike(&self, action: &str) -> Option<crate::faults::Fault> {
        let struck = match self.quotas.take(action) {
            Ok(()) => self.faults.decide(action)?,
            Err(pattern) => Struck { fault: crate::faults::Fault::Throttling, source: format!("quota {pattern}") },
        };
        self.log.push(What::Fault(crate::events::FaultHit {
            action: action.to_owned(),
            fault: struck.fault.name().to_owned(),
            source: struck.source,
        }));
        Some(struck.fault)
    }
}
