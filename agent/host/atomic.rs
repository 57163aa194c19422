//! Files replaced whole: a reader sees the old contents or the new ones, also after a power cut.

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

/// How the names of files begin that are not in their place yet.
const PREFIX: &str = ".node-agent-";

/// A file to be put in the place of another.
#[derive(Debug)]
pub struct Replacement<'a> {
    path: PathBuf,
    folder: Option<&'a Folder>,
    mode: u32,
    owner: Option<(u32, u32)>,
}

impl<'a> Replacement<'a> {
    /// For `path`, whose directory exists and is, with all above it, root's own. A symlink at `path` itself is replaced, not
    /// followed. Mode 0644 and the caller's owner, unless said otherwise.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Replacement { path: path.into(), folder: None, mode: 0o644, owner: None }
    }

    /// As [`Replacement::new`], for a file of this folder, wherever it is by then.
    pub fn within(folder: &'a Folder, name: &OsStr) -> Self {
        Replacement { folder: Some(folder), ..Replacement::new(name) }
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
        let nameless = || io::Error::other("a path without a directory");
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
        draft.file.sync_all()?;
        draft.put_in_place(name)?;
        folder.sync()
    }
}

/// A file that is not in its place yet; without being put there it is gone with the value.
struct Draft<'a> {
    folder: &'a Folder,
    name: CString,
    file: File,
}

impl<'a> Draft<'a> {
    fn create(folder: &'a Folder) -> io::Result<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        loop {
            // The standard library's only source of chance: who may write to the folder must not know the name before.
            let chance = RandomState::new().build_hasher().finish();
            let name = CString::new(format!("{PREFIX}{chance:016x}"))?;
            match openat(folder, name.as_c_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR) {
                Ok(file) => return Ok(Draft { folder, name, file: file.into() }),
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn put_in_place(mut self, name: &OsStr) -> io::Result<()> {
        renameat(self.folder, self.name.as_c_str(), self.folder, name)?;
        self.name = CString::default();
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // A file that cannot be removed now is a leftover, which the next replacement removes.
            let _ = unlinkat(self.folder, self.name.as_c_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Removes files that a killed agent left in `dir`, which is root's own.
pub fn remove_leftovers(dir: &Path) -> io::Result<()> {
    remove_leftovers_in(&Folder::open(dir)?)
}

/// Removes files that a killed agent left in this folder.
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
