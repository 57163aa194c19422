//! `/etc/fstab`: one line per volume, marked as ours; every other byte stays. [`table`] edits the text, this module the file.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::SystemTime;

use super::atomic::{Replacement, remove_leftovers};
use super::since_boot;
use crate::failure::{Failure, Named};

pub mod table;

pub use table::{Conflict, Line, Ours};

const PATH: &str = "/etc/fstab";

/// The entry of a mount point.
pub enum Entry {
    /// Exactly the wanted line, once.
    AsWanted,
    /// The wanted line is missing, or there is an older one of ours.
    Missing,
    /// Another tool's line.
    Foreign(Conflict),
}

/// The entry of the line's mount point.
pub fn entry(line: &Line<'_>) -> Result<Entry, Failure> {
    Ok(match table::rewrite(&read()?, line) {
        Ok(None) => Entry::AsWanted,
        Ok(Some(_)) => Entry::Missing,
        Err(conflict) => Entry::Foreign(conflict),
    })
}

/// Our line for this volume, if there is one.
pub fn ours(volume: &str) -> Result<Option<Ours>, Failure> {
    Ok(table::ours(&read()?, volume))
}

/// Puts the line into fstab, unless another tool has a line for the mount point.
pub fn put(line: &Line<'_>) -> Result<(), Failure> {
    match table::rewrite(&read()?, line) {
        Ok(Some(new)) => replace(&new),
        _ => Ok(()),
    }
}

/// Whether fstab was not written since the machine started, so that systemd has read its present contents.
pub fn is_unchanged_since_boot() -> bool {
    let written = fs::metadata(PATH).and_then(|meta| meta.modified());
    let booted = SystemTime::now().checked_sub(since_boot());
    written.ok().zip(booted).is_some_and(|(written, booted)| written < booted)
}

/// Removes our lines for all volumes but these from fstab, and returns the removed lines.
pub fn drop_others(volumes: &[&str]) -> Result<Vec<String>, Failure> {
    let Some((new, dropped)) = table::without_others(&read()?, volumes) else { return Ok(Vec::new()) };
    replace(&new)?;
    Ok(dropped)
}

fn replace(new: &[u8]) -> Result<(), Failure> {
    let path = path()?;
    let mut file = Replacement::new(&path);
    if let Ok(meta) = fs::metadata(&path) {
        file = file.mode(meta.mode() & 0o7777).owner(meta.uid(), meta.gid());
    }
    if let Some(dir) = path.parent() {
        remove_leftovers(dir).named(format_args!("removing leftovers in {}", dir.display()))?;
    }
    file.write(new).named(format_args!("writing {PATH}"))
}

/// The file to replace: a symlinked fstab stays a symlink.
fn path() -> Result<PathBuf, Failure> {
    match fs::canonicalize(PATH) {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(PATH.into()),
        Err(error) => Err(Failure::io(format_args!("following {PATH}"), error)),
    }
}

fn read() -> Result<Vec<u8>, Failure> {
    match fs::read(PATH) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Failure::io(format_args!("reading {PATH}"), error)),
    }
}
