//! One process at a time.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::failure::{Code, Failure, Named};

/// Held as long as it lives. The file is never removed: whoever has it open has the same lock.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock of the state directory, or says who has it.
    pub fn take(state_dir: &Path) -> Result<Lock, Failure> {
        let path = state_dir.join("lock");
        let what = || format!("the lock {}", path.display());
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).named(what())?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0).named(what())?;
                write!(&mut *file, "{}", std::process::id()).named(what())?;
                Ok(Lock { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).named(what())?;
                let text = format!("process {holder} holds {}", what());
                Err(Failure::new(Code::Locked, text)
                    .remedy(format!("wait until that run ends (ps -fp {holder}), then: node-agent retry")))
            }
            Err((_, errno)) => Err(Failure::io(what(), errno.into())),
        }
    }
}
