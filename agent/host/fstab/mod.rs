//! `/etc/fstab`: one line per volume, marked as ours; every other byte stays.
//!
//! [`table`] decides on the text; here it is read and replaced on the disk.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::atomic::{Replacement, remove_leftovers};
use crate::failure::{Code, Failure, Named};

pub mod table;

pub use table::Line;

const PATH: &str = "/etc/fstab";

/// Whether fstab has exactly this line, once.
pub fn has(line: &Line<'_>) -> Result<bool, Failure> {
    Ok(rewritten(line)?.is_none())
}

/// Puts the line into fstab.
pub fn put(line: &Line<'_>) -> Result<(), Failure> {
    let Some(new) = rewritten(line)? else { return Ok(()) };
    let path = path()?;
    let mut file = Replacement::new(&path);
    if let Ok(meta) = fs::metadata(&path) {
        file = file.mode(meta.mode() & 0o7777).owner(meta.uid(), meta.gid());
    }
    if let Some(dir) = path.parent() {
        remove_leftovers(dir).named(format_args!("clearing {}", dir.display()))?;
    }
    file.write(&new).named(format_args!("writing {PATH}"))
}

/// A symlinked fstab stays one: what it leads to is replaced.
fn path() -> Result<PathBuf, Failure> {
    match fs::canonicalize(PATH) {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(PATH.into()),
        Err(error) => Err(Failure::io(format_args!("following {PATH}"), error)),
    }
}

fn rewritten(line: &Line<'_>) -> Result<Option<Vec<u8>>, Failure> {
    table::rewrite(&read()?, line).map_err(|conflict| {
        let place = line.mount_point.display();
        Failure::new(Code::FstabConflict, format!("{PATH} has a line for {place} already: {}", conflict.line))
    })
}

fn read() -> Result<Vec<u8>, Failure> {
    match fs::read(PATH) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Failure::io(format_args!("reading {PATH}"), error)),
    }
}
