//! Publishes the state while the agent runs: for `status`, for systemd, and for `node_exporter`. The agent itself never reads
//! it back.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{metrics, model::State, summary};
use crate::host::atomic::Replacement;
use crate::host::notify;
use crate::readable;

/// The present state; newer than the journal in what is only for people.
pub const LIVE: &str = "live.json";
/// For `node_exporter`'s textfile collector.
pub const METRICS: &str = "node_agent.prom";

/// Makes the runtime directory where it is missing. Other users may read in it.
pub fn make_dir(dir: &Path) {
    if let Err(error) = try_make_dir(dir) {
        tracing::warn!("{} cannot be made ({error}): no live status and no metrics", dir.display());
    }
}

/// As [`make_dir`], for a caller that handles the error.
pub fn try_make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)
}

/// Publishes to the runtime directory. Clones share the last state.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    last: Mutex<Option<Last>>,
}

/// What was published last.
struct Last {
    live: Vec<u8>,
    metrics: Vec<u8>,
    /// Whether all of it is in the directory.
    written: bool,
}

impl Last {
    fn write(&mut self, dir: &Path) {
        self.written = true;
        for (name, mode, contents) in [(LIVE, 0o600, &self.live), (METRICS, 0o644, &self.metrics)] {
            if let Err(error) = Replacement::new(dir.join(name)).mode(mode).volatile().write(contents) {
                tracing::debug!("{name} cannot be written: {error}");
                self.written = false;
            }
        }
    }
}

impl Publisher {
    /// Publishes to this directory, whether it exists yet or not: a node comes up without it.
    pub fn new(dir: &Path) -> Self {
        Publisher { shared: Arc::new(Shared { dir: dir.to_owned(), last: Mutex::default() }) }
    }

    /// Publishes the state. An error to publish is no reason to stop.
    pub fn publish(&self, state: &State) {
        let live = serde_json::to_vec(state).unwrap_or_default();
        let mut last = Last { live, metrics: metrics::of(state).into_bytes(), written: false };
        last.write(&self.shared.dir);
        *self.shared.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        notify::status(&readable::line(&summary::in_a_line(state)));
    }

    /// Writes the last state again if it could not be written or was deleted.
    pub fn restore(&self) {
        let dir = &self.shared.dir;
        let mut last = self.shared.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = &mut *last
            && !(last.written && dir.join(LIVE).exists() && dir.join(METRICS).exists())
        {
            last.write(dir);
        }
    }
}
