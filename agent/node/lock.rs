//! The lock that admits one process at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::failure::{Code, Failure};

/// The name of a lock file.
const FILE: &str = "lock";

/// Held until it is dropped. The files are never removed, so that all processes lock the same file.
pub struct Lock {
    _held: Vec<Flock<File>>,
}

impl Lock {
    /// Takes the lock. The failure names the holder.
    ///
    /// There are two lock files, one in the state directory and one in the runtime directory, and either is enough. A full or
    /// read-only root disk takes no new file, but a node in service must still be mounted, and a failed node held. Every
    /// process tries both, so that a process with only one of them still excludes others.
    pub fn take(state_dir: &Path, runtime_dir: &Path) -> Result<Lock, Failure> {
        let mut held = Vec::new();
        let mut unusable = None;
        for dir in [runtime_dir, state_dir] {
            match lock(dir) {
                Ok(file) => held.push(file),
                Err(failure) if failure.code == Code::Locked => return Err(failure),
                Err(failure) => unusable = Some(failure),
            }
        }
        match unusable {
            Some(failure) if held.is_empty() => return Err(failure),
            Some(failure) => tracing::error!("{failure}; the agent continues with its other lock"),
            None => {}
        }
        Ok(Lock { _held: held })
    }

    /// Takes the lock in a directory that was created again, for a process that holds the other one.
    pub fn again(dir: &Path) -> Result<Lock, Failure> {
        lock(dir).map(|file| Lock { _held: vec![file] })
    }
}

/// The pid in a lock file, whether that process still runs or not.
pub fn holder(dir: &Path) -> Option<i32> {
    fs::read_to_string(dir.join(FILE)).ok()?.trim().parse().ok()
}

fn lock(dir: &Path) -> Result<Flock<File>, Failure> {
    let path = dir.join(FILE);
    let unusable = |error: std::io::Error| {
        Failure::new(Code::StateUnusable, format!("the lock {}", path.display())).because(error)
    };
    // For root alone: a process that can open the file can lock it.
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    match Flock::lock(file.map_err(unusable)?, FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => {
            // The pid only serves messages and lookups: on a full disk the lock is held without it.
            if let Err(error) = file.set_len(0).and_then(|()| write!(&mut *file, "{}", std::process::id())) {
                tracing::debug!("the holder of {} is not recorded: {error}", path.display());
            }
            Ok(file)
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).map_err(unusable)?;
            let (who, look) = match holder.as_str() {
                "" => ("another process".to_owned(), format!("fuser -v {}", path.display())),
                pid => (format!("process {pid}"), format!("ps -fp {pid}")),
            };
            let text = format!("{who} holds the lock {}", path.display());
            Err(Failure::new(Code::Locked, text)
                .remedy(format!("wait until that run ends ({look}), then: node-agent retry")))
        }
        Err((_, errno)) => Err(unusable(errno.into())),
    }
}
