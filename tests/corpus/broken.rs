//! A disk that breaks: its reads fail, or never return.
//!
//! A FUSE filesystem that consists of one file, mounted over a volume's backing file: reads and writes are passed on to the
//! file below, until [`BrokenDisk::breaks`]. The kernel's side of the protocol is in Linux, `include/uapi/linux/fuse.h`; the
//! few requests that a loop device causes need no library.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// How a read fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `EIO`, as after the kernel has given a disk up.
    Error,
    /// No answer: EBS sets no timeout on NVMe.
    Silence,
}

/// The file, as long as this; afterwards all reads are answered, and the file below shows again.
pub(crate) struct BrokenDisk {
    path: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    kernel: File,
    below: File,
    size: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    broken: Option<(Range<u64>, Fault)>,
    unanswered: Vec<u64>,
    struck: usize,
    writes: usize,
}

const ROOT: u64 = 1;
const BUFFER: usize = 1 << 20;

impl BrokenDisk {
    /// Puts itself over the file at `path`.
    pub(crate) fn over(path: &Path) -> BrokenDisk {
        let below = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let size = below.metadata().unwrap().len();
        let kernel = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        // The root of this filesystem is a regular file, so it goes over one.
        let options = format!("fd={},rootmode=100600,user_id=0,group_id=0", kernel.as_raw_fd());
        mount(Some("broken"), path, Some("fuse"), MsFlags::empty(), Some(options.as_str())).unwrap();
        let shared = Arc::new(Shared { kernel, below, size, state: Mutex::default() });
        let server = Arc::clone(&shared);
        // Ends when the filesystem is unmounted and its last user is gone.
        thread::spawn(move || server.serve());
        BrokenDisk { path: path.to_owned(), shared }
    }

    /// From now on reads that touch `range` fail.
    pub(crate) fn breaks(&self, range: Range<u64>, fault: Fault) {
        self.shared.state().broken = Some((range, fault));
    }

    /// How many reads failed.
    pub(crate) fn struck(&self) -> usize {
        self.shared.state().struck
    }

    /// How many writes arrived.
    pub(crate) fn writes(&self) -> usize {
        self.shared.state().writes
    }

    /// Works again; reads that were not answered fail now.
    pub(crate) fn recovers(&self) {
        let mut state = self.shared.state();
        state.broken = None;
        for request in state.unanswered.drain(..) {
            self.shared.answer(request, Err(Errno::EIO));
        }
    }
}

impl Drop for BrokenDisk {
    fn drop(&mut self) {
        self.recovers();
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut buffer = vec![0; BUFFER + 4096];
        loop {
            let length = match (&self.kernel).read(&mut buffer) {
                Ok(length) => length,
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EINTR | Errno::EAGAIN | Errno::ENOENT) => continue,
                    // Unmounted.
                    _ => return,
                },
            };
            self.handle(&buffer[..length]);
        }
    }

    /// `struct fuse_in_header`, 40 bytes, and the request's own.
    fn handle(&self, request: &[u8]) {
        let u32_at = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().unwrap());
        let (operation, unique) = (u32_at(4), u64_at(8));
        match operation {
            // FORGET, INTERRUPT, BATCH_FORGET: no answer is expected.
            2 | 36 | 42 => {}
            // GETATTR, SETATTR (times)
            3 | 4 => self.answer(unique, Ok(&self.attributes())),
            // OPEN: handle 0, FOPEN_DIRECT_IO, so that exactly what is asked for is read.
            14 => self.answer(unique, Ok(&words(&[0, 0, 1, 0]))),
            // READ: handle, offset, size
            15 => self.read(unique, u64_at(48), u32_at(56)),
            // WRITE: handle, offset, size, four more, and the data
            16 => {
                self.state().writes += 1;
                let data = &request[80..80 + u32_at(56) as usize];
                let done = self.below.write_all_at(data, u64_at(48)).map(|()| words(&[u32_at(56), 0]));
                self.answer(unique, done.as_deref().map_err(|_| Errno::EIO));
            }
            // RELEASE, FSYNC, FLUSH
            18 | 20 | 25 => self.answer(unique, Ok(&[])),
            // INIT: version 7.31, asynchronous reads and writes of more than a page; `struct fuse_init_out` has 64 bytes.
            26 => {
                let mut reply = words(&[7, 31, 0, 1 | 1 << 5, 64 | 64 << 16, 1 << 17, 1]);
                reply.resize(64, 0);
                self.answer(unique, Ok(&reply));
            }
            _ => self.answer(unique, Err(Errno::ENOSYS)),
        }
    }

    fn read(&self, unique: u64, offset: u64, size: u32) {
        let end = (offset + u64::from(size)).min(self.size);
        {
            let mut state = self.state();
            if let Some((range, fault)) = state.broken.clone()
                && range.start < end
                && offset < range.end
            {
                state.struck += 1;
                match fault {
                    Fault::Error => self.answer(unique, Err(Errno::EIO)),
                    Fault::Silence => state.unanswered.push(unique),
                }
                return;
            }
        }
        let mut data = vec![0; usize::try_from(end.saturating_sub(offset)).unwrap()];
        let done = self.below.read_exact_at(&mut data, offset).map(|()| data);
        self.answer(unique, done.as_deref().map_err(|_| Errno::EIO));
    }

    /// `struct fuse_attr_out`: valid for a long time; a regular file.
    fn attributes(&self) -> Vec<u8> {
        let mut reply = Vec::new();
        for long in [3600, 0, ROOT, self.size, self.size / 512, 0, 0, 0] {
            reply.extend(long.to_ne_bytes());
        }
        // Three fractions of seconds, mode, links, owner, group, device, block size, flags.
        reply.extend(words(&[0, 0, 0, 0o100_600, 1, 0, 0, 0, 4096, 0]));
        reply
    }

    /// `struct fuse_out_header` and the reply's own.
    fn answer(&self, unique: u64, reply: Result<&[u8], Errno>) {
        let (error, body) = reply.map_or_else(|errno| (-(errno as i32), &[][..]), |body| (0, body));
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend(u32::try_from(16 + body.len()).unwrap().to_ne_bytes());
        message.extend(error.to_ne_bytes());
        message.extend(unique.to_ne_bytes());
        message.extend(body);
        // Refused only where the request is gone meanwhile.
        let _ = (&self.kernel).write(&message);
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
