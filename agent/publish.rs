//! What is known of the node while the agent runs, put where others find it: for `status`, for systemd, and for
//! `node_exporter`. Nothing here is read back by the agent itself.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::host::atomic::Replacement;
use crate::journal::State;
use crate::readable;
use crate::status::{metrics, report};

/// The state as it is at this moment, newer than the journal in what only people look at.
pub const LIVE: &str = "live.json";
/// For `node_exporter`'s textfile collector.
pub const METRICS: &str = "node_agent.prom";

/// Makes the runtime directory where it is missing. Other users may read in it.
pub fn make_dir(dir: &Path) {
    if let Err(error) = fs::DirBuilder::new().recursive(true).mode(0o755).create(dir) {
        tracing::warn!("{} cannot be made ({error}): no live status and no metrics", dir.display());
    }
}

/// Publishes into the runtime directory.
#[derive(Debug)]
pub struct Publisher {
    dir: PathBuf,
}

impl Publisher {
    /// For the runtime directory; none where [`make_dir`] could not make it: a node comes up without.
    pub fn new(dir: &Path) -> Option<Self> {
        dir.is_dir().then(|| Publisher { dir: dir.to_owned() })
    }

    /// Tells of the state. What cannot be told is no reason to stop.
    pub fn publish(&self, state: &State) {
        let live = serde_json::to_vec(state).unwrap_or_default();
        let files = [(LIVE, 0o600, live), (METRICS, 0o644, metrics::of(state).into_bytes())];
        for (name, mode, contents) in files {
            if let Err(error) = Replacement::new(self.dir.join(name)).mode(mode).write(&contents) {
                tracing::debug!("{name} cannot be written: {error}");
            }
        }
        // Without systemd there is nobody to tell. A second line would be another variable (sd_notify(3)).
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(&readable::line(&report::in_a_line(state)))]);
    }
}
