//! Opens folders as root without following other users' symlinks.
//!
//! A service user can replace any entry of its own folder by a symlink, even between two system calls of a program that runs as
//! root. A path is therefore walked once, from `/`, descriptor by descriptor, and the folder is used only through its descriptor.
//! Symlinks are followed only while root alone can change every folder on the way (`/var/run`); below the first folder that
//! another user can change, none is. systemd-tmpfiles calls the opposite an unsafe path transition. openat2(2) with
//! `RESOLVE_NO_SYMLINKS` needs Linux 5.6, and its errors do not say where it stopped.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};
use nix::unistd::{Uid, User};

use crate::failure::{Code, Failure, Named};

/// Flags that open a folder, never the target of a symlink.
pub const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The kernel's own limit of symlinks in one path (`path_resolution(7)`).
const MOST_LINKS: usize = 40;

/// An open folder: operations on it stay in the same folder even if its path changes.
#[derive(Debug)]
pub struct Folder {
    dir: File,
    path: PathBuf,
}

/// How missing folders are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Create them with mode 0755, owned by root.
    Make,
    /// Return an error.
    Fail,
}

impl Folder {
    /// Opens a folder by its path and follows every symlink: for paths on which root owns each folder.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Folder { dir: File::open(path)?, path: path.to_owned() })
    }

    /// Walks to a folder. Fails with [`Code::UnsafePath`] at a symlink that a user other than root may have made.
    pub fn reach(path: &Path, missing: Missing) -> Result<Self, Failure> {
        let mut at = Folder::open(Path::new("/")).named("opening /")?;
        let mut names = names(path);
        let mut others = None;
        let mut links = 0;
        while let Some(name) = names.pop() {
            let here = at.path.join(&name);
            let what = || format!("opening {}", here.display());
            if others.is_none() {
                others = at.untrusted_writer().named(what())?;
            }
            let next = match at.enter(&name) {
                Err(Errno::ENOENT) if missing == Missing::Make => at.make(&name).and_then(|()| at.enter(&name)),
                next => next,
            };
            match next {
                Ok(next) => at = next,
                // openat(2)'s errors for a symlink in a folder's place.
                Err(not_a_folder @ (Errno::ENOTDIR | Errno::ELOOP)) => {
                    links += 1;
                    let Ok(target) = readlinkat(&at.dir, name.as_os_str()) else {
                        // Not a symlink: a file, which fails again, or a symlink that has just become a folder.
                        if links > MOST_LINKS {
                            return Err(Failure::io(what(), not_a_folder.into()));
                        }
                        names.push(name);
                        continue;
                    };
                    let target = PathBuf::from(target);
                    if let Some(others) = others {
                        let text = format!(
                            "{} is a symlink to {}, and {others}: root does not follow it",
                            here.display(),
                            target.display()
                        );
                        return Err(Failure::new(Code::UnsafePath, text));
                    }
                    if links > MOST_LINKS {
                        return Err(Failure::io(what(), Errno::ELOOP.into()));
                    }
                    if target.is_absolute() {
                        at = Folder::open(Path::new("/")).named("opening /")?;
                    }
                    names.extend(self::names(&target));
                }
                Err(error) => return Err(Failure::io(what(), error.into())),
            }
        }
        Ok(at)
    }

    /// The folder's path when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder's current attributes.
    pub fn stat(&self) -> nix::Result<FileStat> {
        fstat(&self.dir)
    }

    /// Flushes the folder's entries to disk.
    pub fn sync(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn enter(&self, name: &OsStr) -> nix::Result<Folder> {
        let dir = openat(&self.dir, name, FOLDER, Mode::empty())?.into();
        // `..` is the path's parent: no symlink was followed on the way.
        let path =
            if name == ".." { self.path.parent().unwrap_or(&self.path).to_owned() } else { self.path.join(name) };
        Ok(Folder { dir, path })
    }

    fn make(&self, name: &OsStr) -> nix::Result<()> {
        match mkdirat(&self.dir, name, Mode::from_bits_truncate(0o755)) {
            // Made by another process meanwhile; entering it checks its type.
            Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.sync().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))),
        }
    }

    /// Who besides root can replace an entry of this folder, in words.
    fn untrusted_writer(&self) -> nix::Result<Option<String>> {
        let stat = self.stat()?;
        let path = self.path.display();
        // With an access control list, the group's bits are its mask (acl(5)).
        Ok(if stat.st_uid != 0 {
            Some(format!("{path} belongs to {}", user_name(stat.st_uid)))
        } else if stat.st_mode & libc::S_IWOTH != 0 {
            Some(format!("everybody can write to {path}"))
        } else if stat.st_mode & libc::S_IWGRP != 0 {
            Some(format!("the group of {path} can write to it"))
        } else {
            None
        })
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// The path's components, the first one last.
fn names(path: &Path) -> Vec<OsString> {
    let named = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(named).collect()
}

/// The user's name, or its number if it has none.
fn user_name(id: u32) -> String {
    let user = User::from_uid(Uid::from_raw(id)).ok().flatten();
    user.map_or_else(|| format!("user {id}"), |user| user.name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    /// A temporary folder that only root can change.
    fn safe() -> tempfile::TempDir {
        tempfile::Builder::new().prefix("node-agent-test-").tempdir_in("/var/lib").unwrap()
    }

    fn walk(path: &Path) -> Result<PathBuf, Failure> {
        Folder::reach(path, Missing::Fail).map(|folder| folder.path)
    }

    #[test]
    fn roots_symlinks_are_followed_and_missing_folders_are_made() {
        let root = safe();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("real/inner")).unwrap();
        symlink("real/../real", at("relative")).unwrap();
        symlink(at("relative"), at("absolute")).unwrap();
        assert_eq!(walk(&at("absolute/inner")).unwrap(), at("real/inner"));

        let made = Folder::reach(&at("absolute/a/b"), Missing::Make).unwrap();
        assert_eq!(made.path, at("real/a/b"));
        assert_eq!(fs::metadata(at("real/a")).unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(Folder::reach(&at("c/d"), Missing::Fail).unwrap_err().code, Code::LocalIo);
        assert!(!at("c").exists());
    }

    #[test]
    fn a_link_below_a_folder_that_others_can_change_is_refused() {
        let root = safe();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("app/deep/real")).unwrap();
        symlink("/etc", at("app/deep/link")).unwrap();
        let app = at("app");
        let mode = |mode| fs::set_permissions(&app, fs::Permissions::from_mode(mode)).unwrap();

        assert_eq!(walk(&at("app/deep/link")).unwrap(), Path::new("/etc"));
        mode(0o1777);
        let refused = walk(&at("app/deep/link")).unwrap_err();
        assert_eq!(refused.code, Code::UnsafePath);
        assert!(refused.to_string().contains(&format!("everybody can write to {}", app.display())), "{refused}");
        mode(0o775);
        assert!(walk(&at("app/deep/link")).unwrap_err().to_string().contains("the group of"));
        mode(0o755);
        chown(&app, Some(1), Some(1)).unwrap();
        let refused = walk(&at("app/deep/link")).unwrap_err().to_string();
        let said =
            format!("{} is a symlink to /etc, and {} belongs to daemon", at("app/deep/link").display(), app.display());
        assert!(refused.contains(&said), "{refused}");
        // A real folder may belong to any user.
        assert_eq!(walk(&at("app/deep/real")).unwrap(), at("app/deep/real"));
    }

    #[test]
    fn a_circle_of_links_and_a_file_on_the_way_are_errors() {
        let root = safe();
        let at = |name: &str| root.path().join(name);
        symlink("b", at("a")).unwrap();
        symlink("a", at("b")).unwrap();
        fs::write(at("file"), "").unwrap();
        assert!(walk(&at("a/x")).unwrap_err().to_string().contains("symbolic links"));
        assert!(walk(&at("file/x")).unwrap_err().to_string().contains("Not a directory"));
    }
}
