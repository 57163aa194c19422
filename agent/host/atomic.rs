//! Files replaced whole: a reader sees the old contents or the new ones, also after a power cut unless the file is volatile.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{File, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::libc;
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::path::{FOLDER, Folder};

/// The prefix of temporary files' names.
const PREFIX: &str = ".node-agent-";

/// A file that replaces another one atomically.
pub struct Replacement<'a> {
    path: PathBuf,
    folder: Option<&'a Folder>,
    mode: u32,
    owner: Option<(u32, u32)>,
    outlives_power: bool,
}

impl<'a> Replacement<'a> {
    /// For `path`, whose directory must exist; root must own it and every directory above it. A symlink at `path` itself is
    /// replaced, not followed. By default the mode is 0644 and the owner is the caller.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Replacement { path: path.into(), folder: None, mode: 0o644, owner: None, outlives_power: true }
    }

    /// As [`Replacement::new`], for a file of this folder, even if the folder is moved.
    pub fn within(folder: &'a Folder, name: &OsStr) -> Self {
        Replacement { folder: Some(folder), ..Replacement::new(name) }
    }

    /// Sets the new file's mode bits.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the new file's user and group id.
    #[must_use]
    pub fn owner(mut self, user: u32, group: u32) -> Self {
        self.owner = Some((user, group));
        self
    }

    /// For a file that means nothing after the next boot: it is whole for every reader, but may be lost with the power.
    #[must_use]
    pub fn volatile(mut self) -> Self {
        self.outlives_power = false;
        self
    }

    /// Writes `contents` and renames the file into place.
    pub fn write(&self, mut contents: &[u8]) -> io::Result<()> {
        self.write_from(&mut contents)
    }

    /// As [`Replacement::write`], from a reader.
    pub fn write_from(&self, contents: &mut dyn Read) -> io::Result<()> {
        let nameless = || io::Error::other("the path has no directory or no file name");
        let name = self.path.file_name().ok_or_else(nameless)?;
        let opened;
        let folder = if let Some(folder) = self.folder {
            folder
        } else {
            opened = Folder::open(self.path.parent().ok_or_else(nameless)?)?;
            &opened
        };
        let mut draft = Draft::create(folder)?;
        io::copy(contents, &mut draft.file)?;
        draft.file.flush()?;
        if let Some((user, group)) = self.owner {
            fchown(&draft.file, Some(user), Some(group))?;
        }
        // After the owner: changing it clears set-user-id bits.
        draft.file.set_permissions(Permissions::from_mode(self.mode))?;
        if !self.outlives_power {
            return draft.rename_to(name);
        }
        draft.file.sync_all()?;
        draft.rename_to(name)?;
        folder.sync()
    }
}

/// A temporary file, removed on drop unless it was renamed into place.
struct Draft<'a> {
    folder: &'a Folder,
    name: CString,
    file: File,
}

impl<'a> Draft<'a> {
    fn create(folder: &'a Folder) -> io::Result<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        loop {
            // Unpredictable to other users who may write to the folder; std has no other source of randomness.
            let random = RandomState::new().build_hasher().finish();
            let name = CString::new(format!("{PREFIX}{random:016x}"))?;
            match openat(folder, name.as_c_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR) {
                Ok(file) => return Ok(Draft { folder, name, file: file.into() }),
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn rename_to(mut self, name: &OsStr) -> io::Result<()> {
        renameat(self.folder, self.name.as_c_str(), self.folder, name)?;
        self.name = CString::default();
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // On failure the file becomes a leftover, which the next replacement removes.
            let _ = unlinkat(self.folder, self.name.as_c_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Removes the temporary files that a killed agent left in `dir`, which root must own.
pub fn remove_leftovers(dir: &Path) -> io::Result<()> {
    remove_leftovers_in(&Folder::open(dir)?)
}

/// As [`remove_leftovers`], for an open folder.
pub fn remove_leftovers_in(folder: &Folder) -> io::Result<()> {
    let is_file = |name: &CStr| match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(stat.st_mode & libc::S_IFMT == libc::S_IFREG),
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error),
    };
    for entry in Dir::openat(folder, ".", FOLDER, Mode::empty())?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes().starts_with(PREFIX.as_bytes()) && is_file(name)? {
            match unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
