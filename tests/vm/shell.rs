//! Root's login shell on one of the machine's serial lines.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::STUCK;

/// How long an ordinary command may take: the whole machine is emulated.
const PATIENCE: Duration = Duration::from_mins(2);

/// The shell, and all that it has printed.
pub struct Shell {
    line: UnixStream,
    seen: Vec<u8>,
    /// Where the unread output begins.
    from: usize,
    commands: usize,
}

impl Shell {
    /// Connects to the line; a shell need not be there yet.
    pub fn connect(socket: &Path) -> Shell {
        let line = UnixStream::connect(socket).unwrap();
        line.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Shell { line, seen: Vec::new(), from: 0, commands: 0 }
    }

    /// Waits until a shell answers. After a reboot that is another one.
    pub fn wait_until_there(&mut self) {
        assert!(self.wait_until_there_unless(|| false), "no shell answers: {}", self.tail());
    }

    /// Whether a shell answers. False as soon as `lost` returns true, and after [`STUCK`].
    pub fn wait_until_there_unless(&mut self, lost: impl Fn() -> bool) -> bool {
        let end = Instant::now() + STUCK;
        while !lost() && Instant::now() < end {
            self.commands += 1;
            let (told, token) = (self.commands, format!("@@here:{}@@", self.commands));
            // Input typed before the shell reads may be lost in part: so no quotes, which might stay open. Echo and prompt are
            // switched off, so that only output is printed.
            self.send(&format!("\nstty -echo; PS1=; PS2=; echo @@here:$(({told}))@@\n"));
            if self.read_until(&token, Instant::now() + Duration::from_secs(2)).is_some() {
                return true;
            }
        }
        false
    }

    /// What a command prints; it must succeed.
    pub fn run(&mut self, script: &str) -> String {
        let (said, code) = self.attempt(script);
        assert_eq!(code, 0, "{script}: {said}");
        said
    }

    /// What a command prints, and its exit code.
    pub fn attempt(&mut self, script: &str) -> (String, i32) {
        self.commands += 1;
        let (begins, ends) = (format!("@@begins:{}@@", self.commands), format!("@@ends:{}:", self.commands));
        let (number, script) = (self.commands, STANDARD.encode(script));
        self.send(&format!(
            "echo '@@begins:'{number}@@; echo {script} | base64 -d >/run/typed; bash /run/typed </dev/null 2>&1; echo '@@ends:'{number}:$?@@\n"
        ));
        let end = Instant::now() + PATIENCE;
        let found = self.read_until(&begins, end).and_then(|_| self.read_until(&ends, end));
        let said = found.unwrap_or_else(|| panic!("no end of {:?}: {}", number, self.tail()));
        let code = self.read_until("@@", end).expect("an exit code");
        (said.replace('\r', "").trim().to_owned(), code.trim().parse().expect("an exit code"))
    }

    /// Waits until a command succeeds, and returns what it printed.
    pub fn wait_for(&mut self, script: &str) -> String {
        let end = Instant::now() + STUCK;
        loop {
            let (said, code) = self.attempt(script);
            if code == 0 {
                return said;
            }
            assert!(Instant::now() < end, "never true: {script}: {said}");
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Types this.
    pub fn send(&mut self, text: &str) {
        self.line.write_all(text.as_bytes()).unwrap();
    }

    /// All output up to and including this text; none if it does not appear in time.
    pub fn read_until(&mut self, wanted: &str, end: Instant) -> Option<String> {
        loop {
            let unread = &self.seen[self.from..];
            if let Some(at) = unread.windows(wanted.len()).position(|window| window == wanted.as_bytes()) {
                let before = String::from_utf8_lossy(&unread[..at]).into_owned();
                self.from += at + wanted.len();
                return Some(before);
            }
            if Instant::now() >= end || !self.read() {
                return None;
            }
        }
    }

    /// Whether the line is still there.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.line.read(&mut bytes) {
            Ok(0) => false,
            Ok(count) => {
                self.seen.extend(&bytes[..count]);
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted),
        }
    }

    fn tail(&self) -> String {
        String::from_utf8_lossy(&self.seen[self.seen.len().saturating_sub(2000)..]).into_owned()
    }
}
