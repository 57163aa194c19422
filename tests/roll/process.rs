//! A `node-agent roll` at work.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A roll at work. Dropped, it is killed.
pub struct Rolling {
    child: Child,
    log: PathBuf,
    ended: Option<i32>,
    says_within: Duration,
    ends_within: Duration,
}

impl Rolling {
    /// Starts the command, which prints into a file of this directory. A wait for what it prints, or for its end, fails after these
    /// times.
    pub fn start(mut command: Command, dir: &Path, says_within: Duration, ends_within: Duration) -> Rolling {
        let log = dir.join(format!("roll-{}.log", fastrand::u64(..)));
        let file = File::create(&log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Rolling { child, log, ended: None, says_within, ends_within }
    }

    /// Everything that it has printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it has printed this.
    pub fn wait_for(&self, text: &str) {
        let until = Instant::now() + self.says_within;
        while !self.log().contains(text) {
            assert!(Instant::now() < until, "{text:?} was never printed:\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Its exit code, if it has ended; -1 where a signal ended it.
    pub fn code(&mut self) -> Option<i32> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1));
        }
        self.ended
    }

    /// Its exit code and its output, once it has ended.
    pub fn end(mut self) -> (i32, String) {
        let until = Instant::now() + self.ends_within;
        loop {
            if let Some(code) = self.code() {
                return (code, self.log());
            }
            assert!(Instant::now() < until, "it does not end:\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// It must end with this code.
    pub fn must_end(self, wanted: i32) -> String {
        let (code, log) = self.end();
        assert_eq!(code, wanted, "{log}");
        log
    }

    /// As [`Rolling::signal`]; nothing where it has ended.
    pub fn signal_if_alive(&mut self, signal: Signal) {
        if self.code().is_none() {
            self.signal(signal);
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Rolling {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
