//! Reads the state file, and handles one that cannot be read. [`super::journal`] writes it.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::lifecycle::LifecycleRecord;
use super::model::{Lost, State};
use super::words::Word;
use crate::failure::{Code, Failure};

/// The schema of the state file. A file of a later schema is left alone. A version adds keys of its own only, so that the
/// version before it can ignore them.
pub const SCHEMA: u32 = 1;

pub(super) const FILE: &str = "state.json";
pub(super) const STALE: &str = "state.json.stale";

/// The directory below the state directory to which contents are fetched.
pub const SCRATCH: &str = "fetched";

/// Why a journal cannot be read.
pub enum Unreadable {
    /// A newer version wrote it, with this schema.
    Newer(u32),
    /// It is damaged.
    Broken(String),
}

/// A newer version's journal is left alone.
pub fn newer(dir: &Path, schema: u32) -> Failure {
    let (path, own) = (dir.join(FILE), env!("CARGO_PKG_VERSION"));
    let text = format!(
        "the journal {0} has schema {schema}, and this agent ({own}) knows {SCHEMA}: it is left alone, nothing is recorded, and Auto \
         Scaling is told nothing",
        path.display()
    );
    Failure::new(Code::StateUnusable, text).remedy(format!(
        "install the version that wrote it, or a newer one, then: systemctl restart node-agent; if the journal came with the image \
         of another machine: mv {0} {0}.other && node-agent retry",
        path.display()
    ))
}

/// The state in `dir`, which is not changed; none if there is none.
pub fn read(dir: &Path) -> Result<Option<State>, Unreadable> {
    match fs::read(dir.join(FILE)) {
        Ok(text) => parse(&text).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Unreadable::Broken(error.to_string())),
    }
}

/// The state to begin with in `dir`, and why an existing one cannot be read.
pub(super) fn begin_from(dir: &Path) -> (State, Option<Unreadable>) {
    let lost = |lost| State { lost: Some(lost), ..State::default() };
    match read(dir) {
        Ok(Some(state)) => (state, None),
        // Every run makes this directory once its journal is written.
        Ok(None) if dir.join(SCRATCH).is_dir() => (lost(Lost::Missing), None),
        Ok(None) => (lost(Lost::Absent), None),
        Err(Unreadable::Newer(schema)) => (glimpse(dir), Some(Unreadable::Newer(schema))),
        Err(why) => (lost(Lost::Unreadable), Some(why)),
    }
}

/// What is used of a newer version's journal: the instance, and whether it was launched and set up.
fn glimpse(dir: &Path) -> State {
    let document: Value =
        fs::read(dir.join(FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    State {
        instance_id: document["instance_id"].as_str().unwrap_or_default().to_owned(),
        once_complete: Some(true),
        lifecycle: LifecycleRecord { ended: Some(Word::Other("newer".to_owned())), ..LifecycleRecord::default() },
        ..State::default()
    }
}

/// Reads a state; one of a later schema is not understood.
pub fn parse(text: &[u8]) -> Result<State, Unreadable> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    let broken = |error: serde_json::Error| Unreadable::Broken(error.to_string());
    let version: Version = serde_json::from_slice(text).map_err(broken)?;
    match version.schema {
        SCHEMA => serde_json::from_slice(text).map(State::rejoined).map_err(broken),
        newer if newer > SCHEMA => Err(Unreadable::Newer(newer)),
        none => Err(Unreadable::Broken(format!("there is no schema {none}"))),
    }
}

/// Renames the state file to [`STALE`]. If that fails, the next write replaces it.
pub(super) fn set_aside(dir: &Path) {
    match fs::rename(dir.join(FILE), dir.join(STALE)) {
        Err(error) if error.kind() != ErrorKind::NotFound => tracing::error!("setting the journal aside: {error}"),
        _ => {}
    }
}

/// Makes a directory for root alone (0700).
pub fn private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}
