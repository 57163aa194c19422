//! Files replaced whole: a reader sees the old contents or the new ones, also after a power cut.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// A file to be put in the place of another.
#[derive(Debug)]
pub struct Replacement {
    path: PathBuf,
    mode: u32,
    owner: Option<(u32, u32)>,
}

impl Replacement {
    /// For `path`, whose directory exists. A symlink there is replaced, not followed. Mode 0644 and the caller's owner,
    /// unless said otherwise.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Replacement { path: path.into(), mode: 0o644, owner: None }
    }

    /// The new file's mode bits.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// The new file's user and group id.
    #[must_use]
    pub fn owner(mut self, user: u32, group: u32) -> Self {
        self.owner = Some((user, group));
        self
    }

    /// Writes `contents` and puts the file in its place.
    pub fn write(&self, mut contents: &[u8]) -> io::Result<()> {
        self.write_from(&mut contents)
    }

    /// As [`Replacement::write`], from a reader.
    pub fn write_from(&self, contents: &mut dyn Read) -> io::Result<()> {
        let dir = self.path.parent().ok_or_else(|| io::Error::other("a path without a directory"))?;
        let mut file = tempfile::Builder::new()
            .prefix(".node-agent-")
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(dir)?;
        io::copy(contents, &mut file)?;
        file.flush()?;
        if let Some((user, group)) = self.owner {
            fchown(file.as_file(), Some(user), Some(group))?;
        }
        // After the owner: changing it clears set-user-id bits.
        file.as_file().set_permissions(Permissions::from_mode(self.mode))?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        sync_dir(dir)
    }
}

/// Makes a directory's entries durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Removes files that a killed agent left in `dir`.
pub fn remove_leftovers(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".node-agent-") && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
