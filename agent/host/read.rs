//! Reads files that a configuration names, within limits of time and size.
//!
//! The configured path may lead to a FIFO without a writer, to an endless device, or to a network filesystem without its server.
//! The file is opened and read on a thread of its own, so that the agent continues if that hangs, and only up to a size limit.
//! Symlinks are followed, but only a regular file is read.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use humantime::format_duration;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// The time limit for reading a configuration or a script. Both are small: a disk needs milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The largest configuration or script, in bytes; real ones have a thousandth of it.
pub const TEXT_LIMIT: u64 = 16 << 20;

/// Why a file was not read.
///
/// Shown behind the file's name: `/x is a FIFO; a regular file is wanted`.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It could not be opened or read.
    #[error("{}", io_trouble(.0))]
    Io(#[from] io::Error),
    /// The path leads to this instead of a regular file.
    #[error("is {0}; a regular file is wanted")]
    Not(&'static str),
    /// A pipe that ended without data.
    #[error("is a FIFO without data; a regular file is wanted")]
    EmptyPipe,
    /// The file is longer than this many bytes.
    #[error("is larger than {} MiB", .0 >> 20)]
    TooLarge(u64),
    /// The read did not finish within this time.
    #[error("could not be read within {}: the storage it is on does not answer", format_duration(*.0))]
    TimedOut(Duration),
}

impl Unreadable {
    /// Whether the path does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, Unreadable::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

fn io_trouble(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

/// Whether a pipe is accepted instead of a regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipes {
    /// For a file that is read again at the next start.
    Refused,
    /// As in `--config <(…)` and `--config /dev/stdin`.
    Allowed,
}

/// The whole contents of a text, up to [`TEXT_LIMIT`] and within [`PATIENCE`].
pub fn text(path: &Path, pipes: Pipes) -> Result<Vec<u8>, Unreadable> {
    let path = path.to_owned();
    with_deadline(PATIENCE, move || {
        let mut contents = Vec::new();
        let mut file = open(&path, TEXT_LIMIT, pipes)?;
        copy(&mut file, TEXT_LIMIT, |chunk| {
            contents.extend_from_slice(chunk);
            Ok::<(), Unreadable>(())
        })?;
        if contents.is_empty() && pipes == Pipes::Allowed && file.metadata()?.file_type().is_fifo() {
            return Err(Unreadable::EmptyPipe);
        }
        Ok(contents)
    })
}

/// As [`text`], without blocking the runtime.
pub async fn text_async(path: PathBuf, pipes: Pipes) -> Result<Vec<u8>, Unreadable> {
    // Ends within its time limit, so that it does not occupy a thread of the runtime for ever.
    tokio::task::spawn_blocking(move || text(&path, pipes))
        .await
        .map_err(|error| Unreadable::Io(io::Error::other(error)))?
}

/// Opens a file of at most `limit` bytes, without waiting for a FIFO's writer or acquiring a controlling terminal.
pub fn open(path: &Path, limit: u64, pipes: Pipes) -> Result<File, Unreadable> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = match File::options().read(true).custom_flags(flags.bits()).open(path) {
        // A socket cannot be opened; naming its type is clearer than the error.
        Err(error) => {
            let kind = path.metadata().ok().and_then(|about| kind(about.file_type()));
            return Err(kind.map_or(Unreadable::Io(error), Unreadable::Not));
        }
        Ok(file) => file,
    };
    let about = file.metadata()?;
    match kind(about.file_type()) {
        None if about.len() > limit => return Err(Unreadable::TooLarge(limit)),
        None => {}
        Some(_) if pipes == Pipes::Allowed && about.file_type().is_fifo() => {}
        Some(kind) => return Err(Unreadable::Not(kind)),
    }
    // Reads may block from here on: the caller's thread and deadline bound them.
    fcntl(file.as_fd(), FcntlArg::F_SETFL(OFlag::empty())).map_err(io::Error::from)?;
    Ok(file)
}

/// Reads to the end in chunks. The file's size is not reliable: it is 0 in /proc, and a file may grow.
pub fn copy<E: From<Unreadable>>(
    file: &mut File,
    limit: u64,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffer = vec![0; 64 << 10];
    let mut size = 0;
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Unreadable::Io(error).into()),
        };
        size += count as u64;
        if size > limit {
            return Err(Unreadable::TooLarge(limit).into());
        }
        take(&buffer[..count])?;
    }
}

/// Runs `work`, which may hang, on a thread of its own, and abandons the thread after `patience`.
pub fn with_deadline<T: Send + 'static, E: From<Unreadable> + Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let (sender, receiver) = sync_channel(1);
    // Sending fails after the deadline.
    let work = move || drop(sender.send(work()));
    thread::Builder::new().name("read".to_owned()).spawn(work).map_err(Unreadable::Io)?;
    receiver.recv_timeout(patience).unwrap_or_else(|error| {
        Err(match error {
            RecvTimeoutError::Timeout => Unreadable::TimedOut(patience),
            RecvTimeoutError::Disconnected => Unreadable::Io(io::Error::other("the reader has ended")),
        }
        .into())
    })
}

/// The type's name unless it is a regular file.
fn kind(file_type: std::fs::FileType) -> Option<&'static str> {
    match file_type {
        other if other.is_file() => None,
        other if other.is_dir() => Some("a directory"),
        other if other.is_fifo() => Some("a FIFO"),
        other if other.is_socket() => Some("a socket"),
        other if other.is_char_device() => Some("a character device"),
        other if other.is_block_device() => Some("a block device"),
        _ => Some("a file of an unknown type"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    fn read(path: &str) -> Result<Vec<u8>, Unreadable> {
        text(Path::new(path), Pipes::Refused)
    }

    #[test]
    fn only_a_regular_file_is_read_and_other_types_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        mkfifo(at("fifo").as_str(), Mode::S_IRWXU).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        fs::write(at("file"), "contents").unwrap();
        symlink("file", at("link")).unwrap();
        symlink("link", at("second")).unwrap();
        symlink("fifo", at("to-fifo")).unwrap();
        symlink("round", at("round")).unwrap();

        for (path, said) in [
            (at("fifo"), "is a FIFO; a regular file is wanted"),
            (at("to-fifo"), "is a FIFO"),
            (at("socket"), "is a socket"),
            (dir.path().display().to_string(), "is a directory"),
            ("/dev/zero".to_owned(), "is a character device"),
            ("/dev/tty".to_owned(), "is a character device"),
            (at("none"), "does not exist"),
            (at("round"), "symbolic links"),
            ("/proc/kmsg/x".to_owned(), "ot a directory"),
        ] {
            let began = Instant::now();
            let text = read(&path).unwrap_err().to_string();
            assert!(text.contains(said), "{path} {text}");
            assert!(began.elapsed() < PATIENCE, "{path}");
        }
        for path in ["file", "link", "second"] {
            assert_eq!(read(&at(path)).unwrap(), b"contents", "{path}");
        }
        // Not empty although its size is 0.
        assert!(!read("/proc/self/status").unwrap().is_empty());
    }

    #[test]
    fn a_file_that_is_too_large_is_refused_before_and_while_it_is_read() {
        let sparse = tempfile::NamedTempFile::new().unwrap();
        sparse.as_file().set_len(TEXT_LIMIT).unwrap();
        assert_eq!(text(sparse.path(), Pipes::Refused).unwrap().len() as u64, TEXT_LIMIT);
        sparse.as_file().set_len(TEXT_LIMIT + 1).unwrap();
        let refused = text(sparse.path(), Pipes::Refused).unwrap_err();
        assert_eq!(refused.to_string(), "is larger than 16 MiB");
        // A file whose size is unknown.
        let mut endless = File::open("/dev/zero").unwrap();
        let mut seen = 0;
        let result: Result<(), Unreadable> = copy(&mut endless, 1 << 20, |chunk| {
            seen += chunk.len();
            Ok(())
        });
        assert!(matches!(result, Err(Unreadable::TooLarge(_))));
        assert_eq!(seen, 1 << 20);
    }

    #[test]
    fn a_read_that_never_ends_is_abandoned() {
        let patience = Duration::from_millis(50);
        let result: Result<(), Unreadable> = with_deadline(patience, || {
            loop {
                thread::park();
            }
        });
        let text = result.unwrap_err().to_string();
        assert_eq!(text, "could not be read within 50ms: the storage it is on does not answer");
    }

    #[test]
    fn a_pipe_is_read_to_its_end_where_pipes_are_allowed() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"[node]").unwrap();
        drop(writer);
        let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader)));
        assert_eq!(text(&path, Pipes::Allowed).unwrap(), b"[node]");
        assert!(matches!(text(&path, Pipes::Allowed), Err(Unreadable::EmptyPipe)));
        assert!(matches!(text(&path, Pipes::Refused), Err(Unreadable::Not("a FIFO"))));
    }
}
