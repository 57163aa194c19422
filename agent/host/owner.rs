//! Sets the owner of a folder and of everything below it.
//!
//! A folder's owner can replace its entries at any time. Each entry is therefore opened first, without following a symlink, and
//! inspected and changed through its descriptor; folders are opened relative to their parent, never by a path.
//!
//! A file with several hard links gets the owner, too: below a mount point all its links are on that volume, and the whole volume
//! belongs to one user.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::unistd::{Gid, Uid, fchownat};

use super::path::{FOLDER, Folder};

/// The most folders that are open at once, however deeply they are nested.
const MOST_OPEN: usize = 32;

/// The owner and group to set; one that is `None` is left unchanged.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
}

impl Owner {
    /// Whether the present owner or group is another one.
    pub fn differs(self, stat: &FileStat) -> bool {
        self.user.is_some_and(|user| user != stat.st_uid) || self.group.is_some_and(|group| group != stat.st_gid)
    }

    /// Sets the owner of an open file. A correct one is not set again, so that change times stay and a second pass is fast.
    pub fn apply(self, file: impl AsFd, stat: &FileStat) -> nix::Result<()> {
        if !self.differs(stat) {
            return Ok(());
        }
        let (user, group) = (self.user.map(Uid::from_raw), self.group.map(Gid::from_raw));
        fchownat(file, c"", user, group, AtFlags::AT_EMPTY_PATH)
    }

    /// Sets the owner of everything below `top` on the same filesystem; of symlinks themselves, never of their targets.
    pub fn apply_below(self, top: &Folder) -> io::Result<()> {
        let mut walk = Walk { owner: self, top, device: top.stat()?.st_dev, levels: Vec::new() };
        walk.all().map_err(|errno| {
            let error = io::Error::from(errno);
            io::Error::new(error.kind(), format!("{}: {error}", walk.path().display()))
        })
    }
}

struct Walk<'a> {
    owner: Owner,
    top: &'a Folder,
    device: libc::dev_t,
    /// From `top` to the current folder.
    levels: Vec<Level>,
}

/// An entered folder.
struct Level {
    name: CString,
    /// None while it is closed to limit the number of open folders.
    dir: Option<OwnedFd>,
    /// Identifies the folder when it is reopened.
    inode: libc::ino_t,
    /// Subfolders not entered yet.
    below: Vec<CString>,
}

impl Walk<'_> {
    fn all(&mut self) -> nix::Result<()> {
        self.enter(CString::default(), openat(self.top, c".", FOLDER, Mode::empty())?)?;
        while let Some(level) = self.levels.last_mut() {
            let Some(name) = level.below.pop() else {
                self.leave()?;
                continue;
            };
            let Some(dir) = &level.dir else { return Err(Errno::EBADF) };
            match openat(dir, name.as_c_str(), FOLDER, Mode::empty()) {
                Ok(dir) => self.enter(name, dir)?,
                // Removed or replaced since it was seen.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Changes a folder's files, and records its subfolders.
    fn enter(&mut self, name: CString, dir: OwnedFd) -> nix::Result<()> {
        let stat = fstat(&dir)?;
        if stat.st_dev != self.device {
            return Ok(());
        }
        let is_top = self.levels.is_empty();
        if let Some(far) = (self.levels.len() + 1).checked_sub(MOST_OPEN).and_then(|far| self.levels.get_mut(far)) {
            far.dir = None;
        }
        self.levels.push(Level { name, dir: None, inode: stat.st_ino, below: Vec::new() });
        // The caller changes the top last: until then the walk counts as incomplete.
        if !is_top {
            self.owner.apply(&dir, &stat)?;
        }
        let mut below = Vec::new();
        for entry in Dir::openat(&dir, c".", FOLDER, Mode::empty())?.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." && self.is_folder(&dir, name)? {
                below.push(name.to_owned());
            }
        }
        if let Some(level) = self.levels.last_mut() {
            (level.dir, level.below) = (Some(dir), below);
        }
        Ok(())
    }

    /// Whether an entry is a folder, to be entered later. Everything else is changed at once.
    fn is_folder(&self, dir: &OwnedFd, name: &CStr) -> nix::Result<bool> {
        let gone = |error| if error == Errno::ENOENT { Ok(false) } else { Err(error) };
        let stat = match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(error) => return gone(error),
        };
        if stat.st_mode & libc::S_IFMT == libc::S_IFDIR || !self.owner.differs(&stat) {
            return Ok(stat.st_mode & libc::S_IFMT == libc::S_IFDIR);
        }
        let file = match openat(dir, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(file) => file,
            Err(error) => return gone(error),
        };
        let stat = fstat(&file)?;
        if stat.st_dev == self.device {
            self.owner.apply(&file, &stat)?;
        }
        Ok(false)
    }

    /// Returns to the parent folder, and reopens it if it was closed and is still the same.
    fn leave(&mut self) -> nix::Result<()> {
        let left = self.levels.pop();
        if let Some(above) = self.levels.last_mut()
            && let Some(Level { dir: Some(left), .. }) = left
            && above.dir.is_none()
        {
            let dir = openat(&left, c"..", FOLDER, Mode::empty())?;
            let stat = fstat(&dir)?;
            // Moved meanwhile: the walk would continue somewhere else.
            if (stat.st_dev, stat.st_ino) != (self.device, above.inode) {
                return Err(Errno::ESTALE);
            }
            above.dir = Some(dir);
        }
        Ok(())
    }

    /// The current folder.
    fn path(&self) -> PathBuf {
        let names = self.levels.iter().skip(1).map(|level| level.name.to_string_lossy().into_owned());
        self.top.path().join(names.collect::<PathBuf>())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;
    use crate::host::path::Missing;

    const OWNER: Owner = Owner { user: Some(1), group: Some(2) };

    #[test]
    fn a_tree_deeper_than_descriptors_may_be_open_is_changed_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut deepest = dir.path().to_owned();
        let mut all = Vec::new();
        for level in 0..3 * MOST_OPEN {
            // Two at each level, so that the walk has to come back.
            all.extend([deepest.join("side/file"), deepest.join(format!("{level}"))]);
            fs::create_dir_all(deepest.join("side")).unwrap();
            File::create(deepest.join("side/file")).unwrap();
            deepest.push(format!("{level}"));
            fs::create_dir(&deepest).unwrap();
        }
        let open = || fs::read_dir("/proc/thread-self/fd").unwrap().count();
        let before = open();

        OWNER.apply_below(&Folder::reach(dir.path(), Missing::Fail).unwrap()).unwrap();

        assert!(open() <= before + 1, "descriptors stay open");
        for path in all {
            let meta = fs::metadata(&path).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (1, 2), "{}", path.display());
        }
        assert_eq!(fs::metadata(dir.path()).unwrap().uid(), 0, "the top is the caller's");
    }

    #[test]
    fn a_symlink_is_changed_and_its_target_is_not() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        File::create(other.path().join("file")).unwrap();
        symlink(other.path(), dir.path().join("folder")).unwrap();
        symlink(other.path().join("file"), dir.path().join("file")).unwrap();

        OWNER.apply_below(&Folder::reach(dir.path(), Missing::Fail).unwrap()).unwrap();

        for name in ["folder", "file"] {
            assert_eq!(fs::symlink_metadata(dir.path().join(name)).unwrap().uid(), 1, "{name}");
        }
        assert_eq!(fs::metadata(other.path()).unwrap().uid(), 0);
        assert_eq!(fs::metadata(other.path().join("file")).unwrap().uid(), 0);
    }
}
