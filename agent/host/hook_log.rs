//! The log file of the hooks' output, bounded in size.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::OFlag;

/// The file's name in the state directory.
const FILE: &str = "hooks.log";
/// The rotated file's name.
const OLD: &str = "hooks.log.1";

/// The size at which the file is rotated, in bytes.
pub const ROTATED_AT: u64 = 8 << 20;

/// The most that is buffered while the file cannot be written, in bytes.
const BUFFER_LIMIT: usize = 1 << 20;

/// Lines longer than this are logged in pieces, in bytes.
pub const LINE: usize = 4096;

/// The log's path.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// The log as one of the processes that append to it and rotate it concurrently.
///
/// The file is opened for each write, so that a rotated, removed or replaced file is never written to by mistake. While it cannot
/// be written (a full disk, a missing directory), lines are buffered up to 1 MiB and those beyond are counted; the buffer and
/// the count are written as soon as possible.
pub struct HookLog {
    path: PathBuf,
    old: PathBuf,
    step: String,
    rotated_at: u64,
    buffer: Vec<u8>,
    last_write_failed: bool,
    lost: Lost,
}

/// Counts lines that did not fit into the buffer.
#[derive(Debug, Default)]
struct Lost {
    lines: u64,
    bytes: u64,
    why: String,
}

impl HookLog {
    /// The log in `state_dir`, for what this step's hook prints.
    pub fn new(state_dir: &Path, step: &str, rotated_at: u64) -> Self {
        HookLog {
            path: path(state_dir),
            old: state_dir.join(OLD),
            step: step.to_owned(),
            rotated_at,
            buffer: Vec::new(),
            last_write_failed: false,
            lost: Lost::default(),
        }
    }

    /// Buffers a line, which [`HookLog::flush`] writes.
    pub fn add(&mut self, line: &[u8]) {
        if self.last_write_failed && self.buffer.len() + line.len() > BUFFER_LIMIT {
            self.lost.lines += 1;
            self.lost.bytes += line.len() as u64;
        } else {
            self.record(line);
        }
    }

    fn record(&mut self, line: &[u8]) {
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        self.buffer.extend_from_slice(format!("{time} {}: ", self.step).as_bytes());
        self.buffer.extend_from_slice(line);
        self.buffer.push(b'\n');
    }

    /// Whether some output is not in the file yet.
    pub fn is_behind(&self) -> bool {
        !self.buffer.is_empty() || self.lost.lines > 0
    }

    /// Tries to write all added lines.
    pub fn flush(&mut self) -> io::Result<()> {
        let mut result = self.write();
        if result.is_ok() && self.lost.lines > 0 {
            let Lost { lines, bytes, why } = std::mem::take(&mut self.lost);
            self.record(format!("[{lines} lines ({bytes} bytes) are missing here: {why}]").as_bytes());
            result = self.write();
        }
        self.last_write_failed = result.is_err();
        result.inspect_err(|error| self.lost.why = error.to_string())
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.buffer.is_empty() {
            let mut file = self.open()?;
            let before = file.metadata()?;
            if !before.is_file() {
                return Err(io::Error::other("not a regular file"));
            }
            if before.len() > 0 && before.len() + self.buffer.len() as u64 > self.rotated_at && self.rotate(&file)? {
                continue;
            }
            // O_APPEND keeps one write contiguous among concurrent writers.
            match file.write(&self.buffer) {
                // Rotated and removed since it was opened: the lines must go into the new file.
                Ok(_) if file.metadata()?.nlink() == 0 => {}
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.buffer.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn open(&self) -> io::Result<File> {
        // O_NONBLOCK: a FIFO in the file's place must not block the reader.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags.bits()).open(&self.path)
    }

    /// Renames the file away. False while another process is rotating it.
    fn rotate(&self, file: &File) -> io::Result<bool> {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let opened = file.metadata()?;
        match fs::symlink_metadata(&self.path) {
            Ok(current) if (current.dev(), current.ino()) == (opened.dev(), opened.ino()) => {
                fs::rename(&self.path, &self.old)?;
            }
            // Rotated by another process since it was opened.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

/// Splits a stream of bytes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Passes on each complete line, without its newline, and each piece of a line longer than [`LINE`].
    pub fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, complete) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            self.partial.extend_from_slice(text);
            while self.partial.len() > LINE {
                let cut = boundary(&self.partial[..LINE]);
                line(&self.partial[..cut]);
                self.partial.drain(..cut);
            }
            if complete {
                line(&self.partial);
                self.partial.clear();
            }
        }
    }

    /// Passes on a last line without a newline.
    pub fn end(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            line(&self.partial);
            self.partial.clear();
        }
    }
}

/// The end of the last complete character of `piece`.
fn boundary(piece: &[u8]) -> usize {
    let begins_a_character = |start: &usize| match str::from_utf8(&piece[*start..]) {
        // An error without a length is an incomplete character, not an invalid one.
        Err(error) => error.valid_up_to() == 0 && error.error_len().is_none(),
        Ok(_) => false,
    };
    // A character has at most four bytes.
    (piece.len().saturating_sub(3)..piece.len()).find(begins_a_character).unwrap_or(piece.len())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut lines = Lines::default();
        for chunk in chunks {
            lines.push(chunk, |line| found.push(line.to_vec()));
        }
        lines.end(|line| found.push(line.to_vec()));
        found
    }

    proptest! {
        #[test]
        fn text_is_cut_between_characters_and_nothing_is_lost(
            start in 0..LINE + 10,
            text in "[a\u{e9}\u{20ac}\u{1f511}]{0,40}",
            chunk in 1..700_usize,
        ) {
            let line = "x".repeat(start) + &text;
            let chunks: Vec<_> = line.as_bytes().chunks(chunk).collect();
            let pieces = cut(&chunks);
            prop_assert!(pieces.iter().all(|piece| piece.len() <= LINE && str::from_utf8(piece).is_ok()));
            prop_assert_eq!(pieces.concat(), line.as_bytes());
            prop_assert_eq!(pieces.len(), line.len().div_ceil(LINE - 3).min(line.len().div_ceil(LINE)));
        }

        #[test]
        fn bytes_of_any_kind_are_the_same_lines_however_they_come(
            lines in vec(vec(any::<u8>().prop_filter("a newline", |byte| *byte != b'\n'), 0..40), 1..20),
            repeat in 1..300_usize,
            chunk in 1..70_usize,
        ) {
            let lines: Vec<Vec<u8>> = lines.into_iter().map(|line| line.repeat(repeat)).collect();
            let text = lines.join(&b'\n');
            let chunks: Vec<_> = text.chunks(chunk).collect();
            prop_assert_eq!(cut(&chunks), cut(&[text.as_slice()]));
            let short: Vec<_> = lines.iter().filter(|line| line.len() <= LINE).cloned().collect();
            if short.len() == lines.len() && !lines.last().unwrap().is_empty() {
                prop_assert_eq!(cut(&[text.as_slice()]), lines);
            }
        }

        /// Several processes append at once, and between them the file is rotated once.
        #[test]
        fn lines_out_are_lines_in_while_the_file_is_rotated(
            batches in vec(vec(1..20_usize, 1..30), 2..5),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let record = "2026-01-01T00:00:00.000Z step-0: line 10000\n".len();
            let total = batches.iter().flatten().sum::<usize>() * record;
            let largest = batches.iter().flatten().max().unwrap() * record;
            // A second rotation would remove the file of the first. It would need more than the limit before each of two batches, and
            // the first of these counts in both.
            let limit = u64::try_from((total + largest).div_ceil(2)).unwrap();
            thread::scope(|scope| {
                for (number, batches) in batches.iter().enumerate() {
                    let mut log = HookLog::new(dir.path(), &format!("step-{number}"), limit);
                    scope.spawn(move || {
                        let mut line = 10_000;
                        for batch in batches {
                            for _ in 0..*batch {
                                log.add(format!("line {line}").as_bytes());
                                line += 1;
                            }
                            log.flush().unwrap();
                        }
                    });
                }
            });
            let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_default();
            let text = read(OLD) + &read(FILE);
            prop_assert_eq!(text.len(), total);
            for (number, batches) in batches.iter().enumerate() {
                let prefix = format!(" step-{number}: line ");
                let found: Vec<_> = text.lines().filter_map(|line| line.split_once(&prefix)).collect();
                let expected: Vec<_> = (10_000..10_000 + batches.iter().sum::<usize>()).map(|n| n.to_string()).collect();
                prop_assert_eq!(found.iter().map(|(_, line)| (*line).to_owned()).collect::<Vec<_>>(), expected);
            }
        }
    }

    fn logged(dir: &Path) -> Vec<String> {
        let text = fs::read_to_string(path(dir)).unwrap_or_default();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn a_large_log_is_rotated_and_both_files_are_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = HookLog::new(dir.path(), "configure", 1000);
        for line in 0..100 {
            log.add(format!("line {line}").as_bytes());
            log.flush().unwrap();
        }
        for name in [FILE, OLD] {
            let metadata = fs::metadata(dir.path().join(name)).unwrap();
            assert!((900..=1000).contains(&metadata.len()) || name == FILE, "{name}: {metadata:?}");
            assert!(metadata.len() <= 1000 && metadata.permissions().mode() & 0o777 == 0o600, "{name}: {metadata:?}");
        }
        assert_eq!(logged(dir.path()).last().unwrap(), "configure: line 99");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_log_that_is_removed_or_replaced_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = HookLog::new(dir.path(), "configure", ROTATED_AT);
        let mut write = |line: &str| {
            log.add(line.as_bytes());
            log.flush()
        };
        write("one").unwrap();
        fs::remove_file(path(dir.path())).unwrap();
        write("two").unwrap();
        fs::rename(path(dir.path()), dir.path().join("moved")).unwrap();
        write("three").unwrap();
        assert_eq!(logged(dir.path()), ["configure: three"]);
        // A FIFO or a directory in its place fails at once.
        fs::remove_file(path(dir.path())).unwrap();
        nix::unistd::mkfifo(&path(dir.path()), nix::sys::stat::Mode::S_IRWXU).unwrap();
        write("four").unwrap_err();
        fs::remove_file(path(dir.path())).unwrap();
        fs::create_dir(path(dir.path())).unwrap();
        write("five").unwrap_err();
        fs::remove_dir(path(dir.path())).unwrap();
        write("six").unwrap();
        assert_eq!(logged(dir.path()), ["configure: four", "configure: five", "configure: six"]);
    }

    #[test]
    fn lines_beyond_the_buffer_are_counted_and_reported() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("state");
        let mut log = HookLog::new(&state_dir, "configure", ROTATED_AT);
        let line = [b'x'; 1000];
        for _ in 0..2000 {
            log.add(&line);
            log.flush().unwrap_err();
        }
        assert!(log.is_behind());
        fs::create_dir(&state_dir).unwrap();
        log.flush().unwrap();
        assert!(!log.is_behind());
        let found = logged(&state_dir);
        let held = found.len() - 1;
        let missing = 2000 - held;
        assert!((900..1100).contains(&held), "{held}");
        let said = format!(
            "configure: [{missing} lines ({} bytes) are missing here: No such file or directory (os error 2)]",
            missing * 1000
        );
        assert_eq!(found[held], said);
    }

    #[test]
    fn a_batch_of_many_short_lines_is_written_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = HookLog::new(dir.path(), "configure", ROTATED_AT);
        for _ in 0..100_000 {
            log.add(b"");
        }
        log.flush().unwrap();
        assert_eq!(logged(dir.path()).len(), 100_000);
    }
}
