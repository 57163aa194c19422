//! The agent's paths, and the lock over them.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::failure::Failure;
use crate::node::lock::Lock;
use crate::node::settings;
use crate::state::{publish, store};

/// The options for the agent's paths.
#[derive(Args, Clone, Debug)]
pub struct PlaceOptions {
    /// The configuration: a path, or "imds" for the instance's user data
    #[arg(long, value_name = "PATH", default_value = settings::CONFIG)]
    pub(super) config: String,
    /// Where the journal and the lock are [default: $STATE_DIRECTORY or /var/lib/node-agent]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where the control socket and the metrics are [default: `$RUNTIME_DIRECTORY` or /run/node-agent]
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
}

/// The agent's paths.
#[derive(Clone, Debug)]
pub struct Places {
    pub(crate) config: String,
    pub(crate) state_dir: PathBuf,
    pub(crate) runtime_dir: PathBuf,
}

impl Places {
    /// A directory that is `None` is the one that systemd names, or else the default.
    pub fn new(PlaceOptions { config, state_dir, runtime_dir }: PlaceOptions) -> Self {
        let dir = |given: Option<PathBuf>, variable: &str, default: &str| {
            // systemd separates several directories by colons; the first is ours.
            let first = |dirs: OsString| {
                let dirs = dirs.into_string().ok()?;
                dirs.split(':').next().filter(|dir| !dir.is_empty()).map(PathBuf::from)
            };
            given.or_else(|| std::env::var_os(variable).and_then(first)).unwrap_or_else(|| PathBuf::from(default))
        };
        let state_dir = dir(state_dir, "STATE_DIRECTORY", "/var/lib/node-agent");
        Places {
            config,
            // Absolute, because hooks and the reader of their output have another working directory.
            state_dir: std::path::absolute(&state_dir).unwrap_or(state_dir),
            runtime_dir: dir(runtime_dir, "RUNTIME_DIRECTORY", "/run/node-agent"),
        }
    }
}

/// Creates the state and the runtime directory if they are missing, and takes the lock. A directory that cannot be created
/// fails the operations that need it later.
pub fn take_lock(places: &Places) -> Result<Lock, Failure> {
    let (state_dir, runtime_dir) = (&places.state_dir, &places.runtime_dir);
    if let Err(error) = store::private_dir(state_dir) {
        tracing::error!("making {}: {error}", state_dir.display());
    }
    publish::make_dir(runtime_dir);
    Lock::take(state_dir, runtime_dir)
}
