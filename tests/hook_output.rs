//! The process that reads a hook's output goes on and loses nothing, whatever happens to the agent, the disk or the log file.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::fs::{self, OpenOptions};
use std::io::{self, PipeWriter, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{AGENT, wait_until};
use tempfile::TempDir;

/// A reader; the test takes the parts of the hook and of the agent.
struct Reader {
    child: Child,
    hook: Option<PipeWriter>,
    agent: Option<UnixStream>,
    dir: PathBuf,
}

impl Reader {
    fn start(dir: &Path) -> Reader {
        Reader::of_step(dir, "configure")
    }

    fn of_step(dir: &Path, step: &str) -> Reader {
        let (output, hook) = io::pipe().unwrap();
        let (mut agent, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new(AGENT.as_str());
        command.arg("read-hook").arg(dir).arg(step).stdin(output).stdout(OwnedFd::from(theirs)).stderr(Stdio::null());
        let child = command.process_group(0).spawn().unwrap();
        drop(command);
        let mut ready = [0];
        agent.read_exact(&mut ready).unwrap();
        Reader { child, hook: Some(hook), agent: Some(agent), dir: dir.to_owned() }
    }

    fn print(&mut self, text: impl AsRef<[u8]>) {
        self.hook.as_mut().unwrap().write_all(text.as_ref()).unwrap();
    }

    fn agent(&mut self) -> &mut UnixStream {
        self.agent.as_mut().unwrap()
    }

    /// Closes the hook's end of the pipe and returns the reader's exit status.
    fn end(&mut self) -> bool {
        self.hook = None;
        self.child.wait().unwrap().success()
    }

    /// The whole lines that the log has, without the times.
    fn logged(&self) -> Vec<String> {
        let read = |name| fs::read(self.dir.join(name)).unwrap_or_default();
        let text = [read("hooks.log.1"), read("hooks.log")].concat();
        let text = String::from_utf8_lossy(&text);
        let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        lines.map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    fn wait_for_lines(&self, count: usize) {
        wait_until(|| self.logged().len() >= count, || format!("{:?}", self.logged()));
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn numbered(range: std::ops::Range<usize>) -> String {
    range.map(|number| format!("line {number}\n")).collect()
}

fn expected(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("configure: line {number}")).collect()
}

/// A filesystem of this size for the log, visible to this thread and its children alone.
fn small_disk(options: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace; this needs root");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
    dir
}

/// Fills the disk to its last byte.
fn fill(dir: &Path) -> PathBuf {
    let path = dir.join("filler");
    let mut file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
    while file.write(&[0; 4096]).is_ok() {}
    path
}

#[test]
fn no_signal_but_sigkill_ends_the_reader_while_anything_can_print() {
    let dir = tempfile::tempdir().unwrap();
    let mut reader = Reader::start(dir.path());
    let pid = Pid::from_raw(reader.child.id().try_into().unwrap());
    for signal in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        kill(pid, signal).unwrap();
    }
    reader.print(numbered(0..10));
    reader.wait_for_lines(10);
    assert!(reader.end());
    assert_eq!(reader.logged(), expected(0..10));
}

#[test]
fn the_agents_end_costs_no_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut reader = Reader::start(dir.path());
    reader.print("line 0\nline 1\nli");
    let mut seen = [0; 16];
    reader.agent().read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"line 0\nline 1\nli");
    // Before the agent has a line, the log has it.
    assert_eq!(reader.logged(), expected(0..2));
    reader.agent = None;
    reader.print("ne 2\n");
    reader.print(numbered(3..50_000));
    reader.print("line 50000");
    assert!(reader.end());
    assert_eq!(reader.logged(), expected(0..50_001));
}

#[test]
fn an_agent_that_does_not_listen_holds_nobody_up_and_is_told_what_it_missed() {
    let dir = tempfile::tempdir().unwrap();
    let mut reader = Reader::start(dir.path());
    let lines = 150_000;
    let text = numbered(0..lines);

    reader.print(&text);
    reader.wait_for_lines(lines);
    reader.hook = None;
    let mut seen = String::new();
    reader.agent().read_to_string(&mut seen).unwrap();

    assert!(reader.end());
    assert_eq!(reader.logged(), expected(0..lines));
    let mut missed = 0;
    let mut numbers = Vec::new();
    for line in seen.lines() {
        if let Some(bytes) = line.strip_prefix('[').and_then(|line| line.strip_suffix(" bytes are only in the file]")) {
            missed += bytes.parse::<usize>().unwrap();
        } else if let Some(number) = line.strip_prefix("line ") {
            numbers.push(number.parse::<usize>().unwrap_or_default());
        }
    }
    // It has the first lines, as many as there was room for, and the last ones.
    assert!(missed > text.len() / 2 && missed < text.len(), "{missed} of {}", text.len());
    assert!(numbers[..1000].iter().copied().eq(0..1000));
    assert!(numbers[numbers.len() - 1000..].iter().copied().eq(lines - 1000..lines));
    let kept: usize = seen.lines().filter(|line| !line.starts_with('[')).map(|line| line.len() + 1).sum();
    // The line that was cut in two has one more newline.
    assert!((0..=1).contains(&(kept + missed - text.len())), "{kept} + {missed} of {}", text.len());
}

#[test]
fn an_agent_that_is_slow_misses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut reader = Reader::start(dir.path());
    let text = numbered(0..100_000);
    let mut hook = reader.hook.take().unwrap();
    let printed = text.clone();
    let printing = thread::spawn(move || hook.write_all(printed.as_bytes()).unwrap());
    let mut seen = Vec::new();
    let mut buffer = [0; 32 << 10];
    loop {
        // As an agent that is busy.
        thread::sleep(Duration::from_millis(5));
        match reader.agent().read(&mut buffer).unwrap() {
            0 => break,
            got => seen.extend_from_slice(&buffer[..got]),
        }
    }
    printing.join().unwrap();
    assert!(reader.end());
    assert!(seen == text.as_bytes(), "{} of {} bytes", seen.len(), text.len());
}

#[test]
fn a_full_disk_stops_no_hook_and_its_lines_come_when_there_is_room() {
    let dir = small_disk("size=256k");
    let mut reader = Reader::start(dir.path());
    reader.agent = None;
    reader.print(numbered(0..10));
    reader.wait_for_lines(10);
    let filler = fill(dir.path());

    // Some of it finds room behind what the log has already.
    reader.print(numbered(10..1000));
    reader.print(vec![b'\n'; 128 << 10]);
    fs::remove_file(filler).unwrap();

    // 1000 lines of text; of the empty ones, those that are held and a word on the others.
    let counted = || reader.logged().iter().any(|line| line.contains("lines (0 bytes) are missing here: "));
    // The disk takes less than what is held: more room is made.
    mount(None::<&str>, dir.path(), None::<&str>, MsFlags::MS_REMOUNT, Some("size=16m")).unwrap();
    wait_until(counted, || format!("{} lines", reader.logged().len()));
    reader.print("line 1000\n");
    reader.wait_for_lines(1);
    assert!(reader.end());
    let logged = reader.logged();
    assert_eq!(logged[..1000], expected(0..1000));
    let word = logged.iter().find(|line| line.contains("missing here")).unwrap();
    assert!(word.ends_with("missing here: No space left on device (os error 28)]"), "{word}");
    let missing: usize = word.split(['[', ' ']).find_map(|number| number.parse().ok()).unwrap();
    let empty = logged.iter().filter(|line| line.ends_with("configure: ")).count();
    assert_eq!(missing + empty, 128 << 10);
    assert_eq!(logged.last().unwrap(), "configure: line 1000");
}

#[test]
fn a_log_that_takes_nothing_stops_no_hook_and_is_tried_again() {
    let dir = small_disk("size=1m");
    let mut reader = Reader::start(dir.path());
    reader.agent = None;
    reader.print(numbered(0..10));
    reader.wait_for_lines(10);
    let remount = |flags| mount(None::<&str>, dir.path(), None::<&str>, MsFlags::MS_REMOUNT | flags, None::<&str>);
    // The reader may be about to close the file.
    wait_until(|| remount(MsFlags::MS_RDONLY) != Err(Errno::EBUSY), || "the disk is busy".to_owned());

    // More than a pipe holds: it is read all the same.
    reader.print(numbered(10..10_000));
    remount(MsFlags::empty()).unwrap();

    reader.wait_for_lines(10_000);
    fs::remove_file(dir.path().join("hooks.log")).unwrap();
    reader.print("line 10000\n");
    assert!(reader.end());
    assert_eq!(reader.logged(), ["configure: line 10000"]);
}

#[test]
fn a_log_that_never_takes_the_last_lines_is_an_error_of_the_reader_after_some_tries() {
    let dir = tempfile::tempdir().unwrap();
    let mut reader = Reader::start(&dir.path().join("nowhere"));
    reader.print("line 0\n");
    reader.hook = None;
    let mut seen = String::new();
    // The agent gets the line at once, without waiting for the writes that are tried again.
    reader.agent().read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "line 0\n");
    assert!(!reader.end());
}

#[test]
fn readers_that_log_at_the_same_time_tear_no_line() {
    let dir = tempfile::tempdir().unwrap();
    let lines = 20_000;
    let mut readers: Vec<_> = ["configure", "health-check", "files"]
        .map(|step| {
            let mut reader = Reader::of_step(dir.path(), step);
            reader.agent = None;
            (step, reader)
        })
        .into_iter()
        .collect();
    thread::scope(|scope| {
        for (_, reader) in &mut readers {
            scope.spawn(|| {
                reader.print(numbered(0..lines));
                assert!(reader.end());
            });
        }
    });
    let logged = readers[0].1.logged();
    assert_eq!(logged.len(), 3 * lines);
    for (step, _) in &readers {
        let own = logged.iter().filter(|line| line.starts_with(step));
        assert!(own.eq((0..lines).map(|number| format!("{step}: line {number}")).collect::<Vec<_>>().iter()), "{step}");
    }
}

/// The agent's word that the hook's shell has ended, and what the agent reads until the reader closes.
fn rest(reader: &mut Reader, word: u8) -> (String, Duration) {
    let began = Instant::now();
    let agent = reader.agent();
    agent.write_all(&[word]).unwrap();
    agent.shutdown(Shutdown::Write).unwrap();
    let mut seen = String::new();
    agent.read_to_string(&mut seen).unwrap();
    (seen, began.elapsed())
}

#[test]
fn what_was_printed_before_the_hooks_end_is_all_passed_on_however_short_the_wait() {
    let dir = tempfile::tempdir().unwrap();
    let mut reader = Reader::start(dir.path());
    // Stopped, it learns of the output and of the hook's end at the same time.
    let pid = Pid::from_raw(reader.child.id().try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let text = numbered(0..6000);
    assert!(text.len() < 64 << 10);
    reader.print(&text);
    reader.agent().write_all(b"s").unwrap();
    thread::sleep(Duration::from_millis(500));
    kill(pid, Signal::SIGCONT).unwrap();

    let mut seen = String::new();
    reader.agent().read_to_string(&mut seen).unwrap();

    assert_eq!(seen, text);
    reader.print("line 6000\n");
    assert!(reader.end());
    assert_eq!(reader.logged(), expected(0..6001));
}

#[test]
fn last_words_are_waited_for_and_a_process_that_prints_without_end_is_not() {
    let dir = tempfile::tempdir().unwrap();
    // One late line, then silence, although the pipe stays open.
    let mut reader = Reader::start(dir.path());
    let mut late = reader.hook.as_ref().unwrap().try_clone().unwrap();
    let printing = thread::spawn(move || {
        for number in 0..3 {
            thread::sleep(Duration::from_millis(100));
            writeln!(late, "line {number}").unwrap();
        }
    });
    assert_eq!(rest(&mut reader, b'l').0, numbered(0..3));
    printing.join().unwrap();
    assert!(reader.end());

    // Output that never ends.
    for word in [b's', b'l'] {
        let mut reader = Reader::start(dir.path());
        let mut endless = reader.hook.take().unwrap();
        let printing = thread::spawn(move || {
            for number in 0.. {
                thread::sleep(Duration::from_millis(10));
                if writeln!(endless, "line {number}").is_err() {
                    return;
                }
            }
        });
        let (seen, took) = rest(&mut reader, word);
        assert!(!seen.is_empty() && took < Duration::from_secs(20), "{took:?}: {seen}");
        assert!(reader.child.try_wait().unwrap().is_none());
        drop(reader);
        printing.join().unwrap();
    }
}
