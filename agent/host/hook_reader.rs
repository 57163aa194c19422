//! The reader of a hook's output: a process that stays as long as anything that the hook started can print.
//!
//! A pipe whose only reader is the agent breaks when the agent ends, and SIGPIPE then ends whatever prints into it. The pipe
//! therefore belongs to a child process of this binary ([`read_stdin`]), which outlives both the hook and the agent. Each line
//! goes into the file first ([`HookLog`]) and then to the agent over a socket, so that a kill of the agent loses no line. Neither
//! a file that takes nothing nor an agent that does not listen keeps the process from reading.
//!
//! The hook's last words may still be on their way when its shell has ended, as with `exec > >(tee FILE)`. The agent then
//! sends a [`Drain`], and the reader passes on what comes within it. What comes later is in the file alone.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as Socket;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::yield_now;
use tokio::time::{sleep_until, timeout};

use super::command;
use super::hook_log::{self, HookLog, Lines, ROTATED_AT};
use crate::failure::{Code, Failure, Named};

/// The hidden command that makes this binary the reader.
pub const READER: &str = "read-hook";

/// What the reader says first: it reads from now on.
const READY: u8 = b'\n';

/// How long the reader may take to start, on a machine that is very busy.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How much longer than the reader's own time the agent waits for the last words.
const MARGIN: Duration = Duration::from_secs(3);

/// How much is kept for an agent that is slower than the hook, in bytes.
const QUEUE: usize = 256 << 10;

/// An agent that has read nothing for so long, while the queue is full, misses the oldest lines.
const STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a file that took nothing is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long that is tried after the last line.
const FINAL_RETRIES: Duration = Duration::from_secs(10);

/// How long what a hook prints is still passed on to the agent once its shell has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// The hook succeeded: hardly longer than what is there takes. A child that keeps the output open is nothing to wait for.
    Short,
    /// The hook failed: what it printed last says why.
    Long,
}

impl Drain {
    fn word(self) -> u8 {
        match self {
            Drain::Short => b's',
            Drain::Long => b'l',
        }
    }

    fn of(word: u8) -> Self {
        if word == Drain::Short.word() { Drain::Short } else { Drain::Long }
    }

    /// Until nothing more has come for so long.
    fn quiet(self) -> Duration {
        match self {
            Drain::Short => Duration::from_millis(50),
            Drain::Long => Duration::from_millis(500),
        }
    }

    /// In all.
    fn total(self) -> Duration {
        match self {
            Drain::Short => Duration::from_millis(200),
            Drain::Long => Duration::from_secs(2),
        }
    }
}

/// The agent's end of a hook's output.
#[derive(Debug)]
pub struct Output {
    socket: UnixStream,
    open: bool,
}

impl Output {
    /// Starts a reader that appends to the log in `state_dir`, and returns what it passes on and the end of the pipe that is
    /// for the hook.
    pub async fn start(state_dir: &Path, step: &'static str) -> Result<(Self, io::PipeWriter), Failure> {
        let what = "the process that reads the hook's output";
        let log = hook_log::path(state_dir);
        let no_reader = |text: String| {
            Failure::new(Code::ToolFailed, text).remedy(
                "the hook was not called; see what stopped the process (dmesg: out of memory?), then: node-agent retry",
            )
        };
        let (output, writer) = io::pipe().named("a pipe for the hook")?;
        let (ours, theirs) = Socket::pair().named("a socket for the hook's output")?;
        ours.set_nonblocking(true).named("a socket for the hook's output")?;
        let mut socket = UnixStream::from_std(ours).named("a socket for the hook's output")?;
        let mut child = command::own_program(READER)
            .arg(state_dir)
            .arg(step)
            .env_clear()
            .current_dir("/")
            .stdin(output)
            .stdout(OwnedFd::from(theirs))
            .stderr(Stdio::null())
            .spawn()
            .named(format_args!("starting {what}"))?;
        match timeout(START_TIMEOUT, socket.read_u8()).await {
            Ok(Ok(READY)) => {}
            Ok(_) => {
                let status = child.wait().await.named(what)?;
                return Err(no_reader(format!("{what} ended at once with {status}")));
            }
            Err(_) => {
                return Err(no_reader(format!("{what} has not started within {} s", START_TIMEOUT.as_secs())));
            }
        }
        tokio::spawn(async move {
            match child.wait().await {
                Ok(status) if status.success() => {}
                Ok(status) => {
                    tracing::warn!(step, "{what} ended with {status}: lines may be missing in {}", log.display());
                }
                Err(error) => tracing::warn!(step, "{what}: {error}"),
            }
        });
        Ok((Output { socket, open: true }, writer))
    }

    /// Waits until there is something to read. Never, once all is read.
    pub async fn readable(&self) {
        if !self.open || self.socket.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Reads what is there, though not without end. False once there is nothing more to come.
    pub async fn take(&mut self, mut bytes: impl FnMut(&[u8])) -> bool {
        let mut buffer = [0_u8; 4096];
        // Bounded, so that endless output cannot hold up a deadline.
        for _ in 0..16 {
            if !self.open {
                break;
            }
            match self.socket.try_read(&mut buffer) {
                Ok(got) if got > 0 => bytes(&buffer[..got]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The reader's end, also where somebody has killed it.
                Ok(_) | Err(_) => self.open = false,
            }
        }
        // The runtime looks at clocks and signals only when its one thread is given back.
        yield_now().await;
        self.open
    }

    /// Reads the rest, once the hook's shell has ended.
    pub async fn finish(&mut self, patience: Drain, mut bytes: impl FnMut(&[u8])) {
        let end = tokio::time::Instant::now() + patience.total() + MARGIN;
        // A reader that has ended already needs no word.
        let _ = self.socket.try_write(&[patience.word()]);
        let _ = self.socket.shutdown().await;
        while self.take(&mut bytes).await {
            tokio::select! {
                biased;
                () = sleep_until(end) => break,
                () = self.readable() => {}
            }
        }
    }
}

/// The child's part: reads the pipe that is the standard input to its end. The standard output is the socket to the agent.
pub fn read_stdin(state_dir: &Path, step: &str) -> io::Result<()> {
    // A stop of the agent or of the machine is for those who print: their last words are still read.
    SigSet::all().thread_block()?;
    let mut output = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let socket = Socket::from(io::stdout().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    let mut log = HookLog::new(state_dir, step, ROTATED_AT);
    let mut lines = Lines::default();
    let mut agent = Agent::new(socket);
    agent.queue.push_back(READY);
    agent.send();
    let mut buffer = vec![0; 64 << 10];
    // Once the output has ended: when.
    let mut ended = None;
    loop {
        let reading = ended.is_none() && !agent.blocks_hook();
        let tick = if log.is_behind() { Some(RETRY_INTERVAL) } else { None };
        let (ready, event) = wait(reading.then_some(&output), &agent, tick.into_iter().chain(agent.tick()).min())?;
        if ready {
            let got = match output.read(&mut buffer) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            lines.push(&buffer[..got], |line| log.add(line));
            if got == 0 {
                lines.end(|line| log.add(line));
                ended = Some(Instant::now());
            }
            agent.add(&buffer[..got]);
        }
        // Before the agent hears of it.
        let flushed = log.flush();
        agent.handle(event, ended.is_some(), reading && !ready);
        if let Some(ended) = ended
            && agent.is_done()
            && (flushed.is_ok() || ended.elapsed() >= FINAL_RETRIES)
        {
            return flushed;
        }
    }
}

/// Waits for output, for the agent, or for the time to pass. Returns whether there is output, and what became of the agent.
fn wait(output: Option<&File>, agent: &Agent, tick: Option<Duration>) -> io::Result<(bool, PollFlags)> {
    let output = output.map(|output| PollFd::new(output.as_fd(), PollFlags::POLLIN));
    let agent = agent.socket.as_ref().map(|socket| PollFd::new(socket.as_fd(), agent.interest()));
    let has_output = output.is_some();
    let mut fds: Vec<PollFd<'_>> = output.into_iter().chain(agent).collect();
    // Rounded up: a time that is almost over must not become a busy loop.
    let tick = tick.map(|tick| PollTimeout::try_from(tick + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX));
    while let Err(errno) = poll(&mut fds, tick.unwrap_or(PollTimeout::NONE)) {
        if errno != Errno::EINTR {
            return Err(errno.into());
        }
    }
    let events: Vec<_> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
    let (output, agent) = events.split_at(usize::from(has_output));
    Ok((output.iter().any(|events| !events.is_empty()), agent.first().copied().unwrap_or(PollFlags::empty())))
}

/// The agent, as its reader sees it.
struct Agent {
    /// None once the agent is gone or has all that is for it.
    socket: Option<Socket>,
    queue: VecDeque<u8>,
    /// When the agent last read something, or had nothing to read.
    progress: Instant,
    /// It did not read in time: it misses lines, rather than holding up the hook.
    is_stalled: bool,
    /// How many bytes it misses at the head of the queue.
    skipped: usize,
    /// The last byte sent.
    last: u8,
    /// It sent its word: the hook's shell has ended.
    patience: Option<(Drain, Instant)>,
    /// When the last output came.
    latest: Instant,
    /// Nothing is added any more.
    is_closing: bool,
}

impl Agent {
    fn new(socket: Socket) -> Self {
        Agent {
            socket: Some(socket),
            queue: VecDeque::new(),
            progress: Instant::now(),
            is_stalled: false,
            skipped: 0,
            last: READY,
            patience: None,
            latest: Instant::now(),
            is_closing: false,
        }
    }

    fn is_done(&self) -> bool {
        self.socket.is_none()
    }

    fn interest(&self) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::POLLIN, self.patience.is_none());
        interest.set(PollFlags::POLLOUT, !self.queue.is_empty());
        interest
    }

    /// Whether the hook has to wait for the agent, as long as that makes progress.
    fn blocks_hook(&self) -> bool {
        self.socket.is_some() && !self.is_stalled && !self.is_closing && self.queue.len() >= QUEUE
    }

    /// After how long [`Agent::handle`] has something to do without any event.
    fn tick(&self) -> Option<Duration> {
        self.socket.as_ref()?;
        let stall = self.blocks_hook().then(|| self.progress + STALL_TIMEOUT);
        let close = self.patience.filter(|_| !self.is_closing).map(|(patience, since)| {
            let total = since + patience.total();
            if self.blocks_hook() { total } else { total.min(since.max(self.latest) + patience.quiet()) }
        });
        let next = stall.into_iter().chain(close).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.socket.is_none() || self.is_closing {
            return;
        }
        self.latest = Instant::now();
        if self.queue.is_empty() {
            self.progress = Instant::now();
        }
        self.queue.extend(bytes);
        if self.is_stalled && self.queue.len() > QUEUE {
            self.drop_oldest();
        }
    }

    /// Drops the older half of the queue, up to the end of a line.
    fn drop_oldest(&mut self) {
        let half = self.queue.len() - QUEUE / 2;
        let to_line = self.queue.iter().skip(half).position(|byte| *byte == b'\n').map_or(half, |at| half + at + 1);
        self.queue.drain(..to_line);
        self.skipped += to_line;
    }

    /// Sends what is due, and finds out whether more will be. `has_ended`: no more output can come. `is_quiet`: there was none
    /// just now.
    fn handle(&mut self, event: PollFlags, has_ended: bool, is_quiet: bool) {
        if event.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
            self.socket = None;
        }
        if event.contains(PollFlags::POLLIN) {
            self.receive();
        }
        // Inserted into a queue that is not sent right now, the notice of what is missing could itself be skipped.
        if self.skipped == 0 || event.contains(PollFlags::POLLOUT) {
            self.send();
        }
        if self.blocks_hook() && self.progress.elapsed() >= STALL_TIMEOUT {
            self.is_stalled = true;
            self.drop_oldest();
        }
        if let Some((patience, since)) = self.patience {
            let quiet = is_quiet && since.max(self.latest).elapsed() >= patience.quiet();
            self.is_closing |= quiet || since.elapsed() >= patience.total();
        }
        self.is_closing |= has_ended;
        if self.is_closing
            && self.queue.is_empty()
            && let Some(socket) = self.socket.take()
        {
            // The standard output is another descriptor of the same socket.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn receive(&mut self) {
        let mut word = [0];
        let Some(mut socket) = self.socket.as_ref() else { return };
        match socket.read(&mut word) {
            // Without a word: it has no more to say.
            Ok(0) => self.patience = Some((Drain::Short, Instant::now())),
            Ok(_) => self.patience = Some((Drain::of(word[0]), Instant::now())),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.socket = None,
        }
    }

    fn send(&mut self) {
        let Some(mut socket) = self.socket.as_ref() else { return };
        if self.skipped > 0 {
            let newline = if self.last == b'\n' { "" } else { "\n" };
            let notice = format!("{newline}[{} bytes are only in the file]\n", self.skipped);
            for byte in notice.bytes().rev() {
                self.queue.push_front(byte);
            }
            self.skipped = 0;
        }
        while !self.queue.is_empty() {
            let (head, _) = self.queue.as_slices();
            match socket.write(head) {
                Ok(0) => break,
                Ok(sent) => {
                    self.last = head[sent - 1];
                    self.queue.drain(..sent);
                    self.progress = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.socket = None;
                    return;
                }
            }
        }
        self.is_stalled = false;
    }
}
