//! Folders reached as root without being led astray.
//!
//! A service user may replace whatever lies in a folder of its own by a symlink, also between two looks of a program that
//! runs as root. Therefore a path is walked once, from `/`, one descriptor after the other, and what then happens in the
//! folder happens through its descriptor. Symlinks are followed only as long as every folder on the way can be changed by root
//! alone (`/var/run`); below the first one that somebody else can change, none is. systemd-tmpfiles calls the opposite an
//! unsafe path transition. Not openat2(2) with `RESOLVE_NO_SYMLINKS`: that needs Linux 5.6, and would say less of where it ended.

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

/// A folder itself, never what a symlink in its place leads to.
pub const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// As many symlinks as the kernel follows in one path (`path_resolution(7)`).
const MOST_LINKS: usize = 40;

/// A folder that is held open: what is done in it is done there, whatever becomes of its path meanwhile.
#[derive(Debug)]
pub struct Folder {
    dir: File,
    path: PathBuf,
}

/// What becomes of folders that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// They are made, with mode 0755, root's.
    Make,
    /// That is an error.
    Fail,
}

impl Folder {
    /// Opens a folder by its path and follows every symlink: for paths of which each folder is root's own.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Folder { dir: File::open(path)?, path: path.to_owned() })
    }

    /// Walks to a folder. A symlink that somebody else than root can have made is a refusal.
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
                // openat(2) says this of a symlink where a folder is wanted.
                Err(not_a_folder @ (Errno::ENOTDIR | Errno::ELOOP)) => {
                    links += 1;
                    let Ok(target) = readlinkat(&at.dir, name.as_os_str()) else {
                        // A file stays one. What was a symlink just now may be a folder by now.
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

    /// Its path when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is now.
    pub fn stat(&self) -> nix::Result<FileStat> {
        fstat(&self.dir)
    }

    /// Makes its entries durable.
    pub fn sync(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn enter(&self, name: &OsStr) -> nix::Result<Folder> {
        let dir = openat(&self.dir, name, FOLDER, Mode::empty())?.into();
        // The kernel's own: no symlink was followed to come here.
        let path =
            if name == ".." { self.path.parent().unwrap_or(&self.path).to_owned() } else { self.path.join(name) };
        Ok(Folder { dir, path })
    }

    fn make(&self, name: &OsStr) -> nix::Result<()> {
        match mkdirat(&self.dir, name, Mode::from_bits_truncate(0o755)) {
            // Made by somebody else in the meantime; entering it shows what it is.
            Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.sync().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))),
        }
    }

    /// Which user other than root can replace an entry of this folder, in words.
    fn untrusted_writer(&self) -> nix::Result<Option<String>> {
        let stat = self.stat()?;
        let path = self.path.display();
        // Where it has an access control list, the group's bits are its mask (acl(5)).
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

/// The names on the way, the first one last.
fn names(path: &Path) -> Vec<OsString> {
    let named = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(named).collect()
}

/// A user as people know it.
fn user_name(id: u32) -> String {
    let user = User::from_uid(Uid::from_raw(id)).ok().flatten();
    user.map_or_else(|| format!("user {id}"), |user| user.name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    /// A folder that only root can change, wherever the tests run; it is gone with the value.
    fn safe() -> tempfile::TempDir {
        tempfile::Builder::new().prefix("node-agent-test-").tempdir_in("/var/lib").unwrap()
    }

    fn owner_of_walk(path: &Path) -> Result<PathBuf, Failure> {
        Folder::reach(path, Missing::Fail).map(|folder| folder.path)
    }

    #[test]
    fn links_of_roots_own_are_followed_and_missing_folders_are_made() {
        let root = safe();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("real/inner")).unwrap();
        symlink("real/../real", at("relative")).unwrap();
        symlink(at("relative"), at("absolute")).unwrap();
        assert_eq!(owner_of_walk(&at("absolute/inner")).unwrap(), at("real/inner"));

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

        assert_eq!(owner_of_walk(&at("app/deep/link")).unwrap(), Path::new("/etc"));
        mode(0o1777);
        let refused = owner_of_walk(&at("app/deep/link")).unwrap_err();
        assert_eq!(refused.code, Code::UnsafePath);
        assert!(refused.to_string().contains(&format!("everybody can write to {}", app.display())), "{refused}");
        mode(0o775);
        assert!(owner_of_walk(&at("app/deep/link")).unwrap_err().to_string().contains("the group of"));
        mode(0o755);
        chown(&app, Some(1), Some(1)).unwrap();
        let refused = owner_of_walk(&at("app/deep/link")).unwrap_err().to_string();
        let said =
            format!("{} is a symlink to /etc, and {} belongs to daemon", at("app/deep/link").display(), app.display());
        assert!(refused.contains(&said), "{refused}");
        // A real folder may belong to anybody.
        assert_eq!(owner_of_walk(&at("app/deep/real")).unwrap(), at("app/deep/real"));
    }

    #[test]
    fn a_circle_of_links_and_a_file_on_the_way_are_errors() {
        let root = safe();
        let at = |name: &str| root.path().join(name);
        symlink("b", at("a")).unwrap();
        symlink("a", at("b")).unwrap();
        fs::write(at("file"), "").unwrap();
        assert!(owner_of_walk(&at("a/x")).unwrap_err().to_string().contains("symbolic links"));
        assert!(owner_of_walk(&at("file/x")).unwrap_err().to_string().contains("Not a directory"));
    }
}
