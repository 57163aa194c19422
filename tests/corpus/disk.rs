//! A volume's backing file: preparing it before a run and comparing it afterwards.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

const CHUNK: usize = 64 << 10;

/// The file.
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    file: File,
}

impl Disk {
    pub(crate) fn open(path: &Path) -> Disk {
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        Disk { path: path.to_owned(), file }
    }

    pub(crate) fn size(&self) -> u64 {
        self.file.metadata().unwrap().len()
    }

    pub(crate) fn resize(&self, size: u64) {
        self.file.set_len(size).unwrap();
    }

    pub(crate) fn write(&self, offset: u64, bytes: impl AsRef<[u8]>) {
        assert!(offset + bytes.as_ref().len() as u64 <= self.size(), "{offset} is beyond the end");
        self.file.write_all_at(bytes.as_ref(), offset).unwrap();
    }

    pub(crate) fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    /// Inverts bits of one byte.
    pub(crate) fn flip(&self, offset: u64, bits: u8) {
        let byte = self.read(offset, 1)[0];
        self.write(offset, [byte ^ bits]);
    }

    /// Writes zeros.
    pub(crate) fn zero(&self, offset: u64, length: u64) {
        self.fill(offset, length, &vec![0; 1 << 20]);
    }

    /// Writes `pattern` over and over.
    pub(crate) fn fill(&self, mut offset: u64, length: u64, pattern: &[u8]) {
        let end = offset + length;
        while offset < end {
            let part = usize::try_from(end - offset).unwrap().min(pattern.len());
            self.write(offset, &pattern[..part]);
            offset += part as u64;
        }
    }

    /// Runs a program on the file, which is its last argument.
    pub(crate) fn tool(&self, program: &str, arguments: &[&str]) {
        self.tool_with(program, arguments, &[]);
    }

    /// As [`Disk::tool`], with arguments after the file.
    pub(crate) fn tool_with(&self, program: &str, before: &[&str], after: &[&str]) {
        let output = Command::new(program).args(before).arg(&self.path).args(after).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}; `make tools` installs it"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// All that is on it, and when it was last written to.
    pub(crate) fn contents(&self) -> Contents {
        let size = self.size();
        let zeros = vec![0; CHUNK];
        let mut chunks = Vec::new();
        let mut offset = 0;
        // Holes are skipped; one up to the end answers none.
        while let Some(data) = self.seek_data(offset) {
            offset = data - data % CHUNK as u64;
            let bytes = self.read(offset, CHUNK.min(usize::try_from(size - offset).unwrap()));
            if bytes != zeros[..bytes.len()] {
                chunks.push((offset, bytes));
            }
            offset += CHUNK as u64;
        }
        Contents { size, chunks, written: self.file.metadata().unwrap().modified().unwrap() }
    }

    fn seek_data(&self, offset: u64) -> Option<u64> {
        match lseek64(&self.file, offset.try_into().unwrap(), Whence::SeekData) {
            Ok(at) => Some(at.try_into().unwrap()),
            Err(Errno::ENXIO) => None,
            Err(error) => panic!("{}: {}", self.path.display(), io::Error::from(error)),
        }
    }
}

/// Every byte of a disk; what is not in it is zero.
#[derive(PartialEq, Eq)]
pub(crate) struct Contents {
    size: u64,
    chunks: Vec<(u64, Vec<u8>)>,
    written: SystemTime,
}

impl Contents {
    /// How the other one differs, if it does.
    pub(crate) fn difference(&self, other: &Contents) -> Option<String> {
        if self == other {
            return None;
        }
        let different = self.chunks.iter().zip(&other.chunks).find(|(this, that)| this != that);
        Some(match different {
            Some(((offset, _), _)) => format!("near {offset}"),
            None if self.chunks.len() != other.chunks.len() => "something was zero".to_owned(),
            None if self.size != other.size => format!("{} bytes, now {}", self.size, other.size),
            None => "the same bytes were written again".to_owned(),
        })
    }
}
