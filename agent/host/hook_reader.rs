//! The reader of a hook's output: a process that lives until every process that the hook started has closed the output.
//!
//! A pipe whose only reader is the agent breaks when the agent ends, and SIGPIPE then ends whatever prints into it. The pipe
//! therefore belongs to a child process of this binary ([`read_stdin`]), which outlives both the hook and the agent. Each line
//! goes into the file first ([`HookLog`]) and then to the agent over a socket, so that a kill of the agent loses no line. Neither
//! a file that cannot be written nor an agent that does not read keeps the process from reading the pipe.
//!
//! When the hook's shell ends, its last output may still be in transit, as with `exec > >(tee FILE)`. The agent then sends a
//! [`Drain`], and the reader passes on the output within its time; later output is only in the file.
//!
//! Both ends are in one file, because each parses what the other sends.

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

/// The reader's first byte to the agent: it has started reading.
const READY: u8 = b'\n';

/// The time limit for the reader's start, generous for a very busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How much longer than the reader's own time limit the agent waits for the last output.
const MARGIN: Duration = Duration::from_secs(3);

/// The most that is queued for an agent slower than the hook, in bytes.
const QUEUE: usize = 256 << 10;

/// Once an agent has read nothing for this long while the queue is full, the oldest lines are dropped.
const STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// The time between attempts to write a file that cannot be written.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long these attempts continue after the last line.
const FINAL_RETRIES: Duration = Duration::from_secs(10);

/// How long a hook's output is still passed on to the agent after its shell has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// After a success: just long enough for output already written. A child that keeps the output open is not waited for.
    Short,
    /// After a failure: the last output says why.
    Long,
}

impl Drain {
    fn byte(self) -> u8 {
        if self == Drain::Short { b's' } else { b'l' }
    }

    fn of(byte: u8) -> Self {
        if byte == Drain::Short.byte() { Drain::Short } else { Drain::Long }
    }

    /// Passing on ends after this long without output, …
    fn quiet(self) -> Duration {
        Duration::from_millis(if self == Drain::Short { 50 } else { 500 })
    }

    /// … and at the latest after this long.
    fn total(self) -> Duration {
        Duration::from_millis(if self == Drain::Short { 200 } else { 2000 })
    }
}

/// The agent's end of a hook's output.
pub struct Output {
    socket: UnixStream,
    open: bool,
}

impl Output {
    /// Starts a reader that appends to the log in `state_dir`. Returns its output and the hook's end of the pipe.
    pub async fn start(state_dir: &Path, step: &'static str) -> Result<(Self, io::PipeWriter), Failure> {
        let what = "the process that reads the hook's output";
        let log = hook_log::path(state_dir);
        let no_reader = |text: String| {
            Failure::new(Code::ToolFailed, text).remedy(
                "the hook was not called; find out what ended the process (dmesg: out of memory?), then: node-agent retry",
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

    /// Waits until output can be read; for ever after its end.
    pub async fn readable(&self) {
        if !self.open || self.socket.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Reads available output, a bounded amount per call. False at its end.
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
                // The reader has ended or was killed.
                Ok(_) | Err(_) => self.open = false,
            }
        }
        // The single-threaded runtime handles timers and signals only between tasks.
        yield_now().await;
        self.open
    }

    /// Reads the rest after the hook's shell has ended.
    pub async fn finish(&mut self, drain: Drain, mut bytes: impl FnMut(&[u8])) {
        let end = tokio::time::Instant::now() + drain.total() + MARGIN;
        // Fails if the reader has already ended.
        let _ = self.socket.try_write(&[drain.byte()]);
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

/// The child process: reads the pipe on standard input to its end. Standard output is the socket to the agent.
pub fn read_stdin(state_dir: &Path, step: &str) -> io::Result<()> {
    // Signals that stop the agent or the machine are for the printing processes: their last output is still read.
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
    let mut ended: Option<Instant> = None;
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
        // The file comes before the agent.
        let flushed = log.flush();
        agent.handle(event, ended.is_some(), reading && !ready);
        if let Some(ended) = ended
            && agent.socket.is_none()
            && (flushed.is_ok() || ended.elapsed() >= FINAL_RETRIES)
        {
            return flushed;
        }
    }
}

/// Waits for output, for the agent, or until `tick` has passed. Returns whether there is output, and the agent's events.
fn wait(output: Option<&File>, agent: &Agent, tick: Option<Duration>) -> io::Result<(bool, PollFlags)> {
    let output = output.map(|output| PollFd::new(output.as_fd(), PollFlags::POLLIN));
    let agent = agent.socket.as_ref().map(|socket| PollFd::new(socket.as_fd(), agent.interest()));
    let has_output = output.is_some();
    let mut fds: Vec<PollFd<'_>> = output.into_iter().chain(agent).collect();
    // Rounded up, so that a remainder below 1 ms does not become a busy loop.
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

/// The reader's connection to the agent.
struct Agent {
    /// None once the agent is gone or has received everything.
    socket: Option<Socket>,
    queue: VecDeque<u8>,
    /// When the agent last read, or the queue was last empty.
    progress: Instant,
    /// The agent did not read in time: lines are dropped instead of blocking the hook.
    is_stalled: bool,
    /// Bytes dropped at the head of the queue.
    skipped: usize,
    last_sent: u8,
    /// When the hook's shell has ended, and how long its output is still passed on.
    drain: Option<(Drain, Instant)>,
    /// When the last output was read.
    latest: Instant,
    /// No more output is queued.
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
            last_sent: READY,
            drain: None,
            latest: Instant::now(),
            is_closing: false,
        }
    }

    fn interest(&self) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::POLLIN, self.drain.is_none());
        interest.set(PollFlags::POLLOUT, !self.queue.is_empty());
        interest
    }

    /// Whether the hook must wait for an agent that is slow, but makes progress.
    fn blocks_hook(&self) -> bool {
        self.socket.is_some() && !self.is_stalled && !self.is_closing && self.queue.len() >= QUEUE
    }

    /// The time until [`Agent::handle`] must be called even without an event.
    fn tick(&self) -> Option<Duration> {
        self.socket.as_ref()?;
        let stall = self.blocks_hook().then(|| self.progress + STALL_TIMEOUT);
        let close = self.drain.filter(|_| !self.is_closing).map(|(drain, since)| {
            let total = since + drain.total();
            if self.blocks_hook() { total } else { total.min(since.max(self.latest) + drain.quiet()) }
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

    /// Receives, sends, and decides whether to close. `has_ended`: no more output can come. `is_quiet`: there was none just now.
    fn handle(&mut self, event: PollFlags, has_ended: bool, is_quiet: bool) {
        if event.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
            self.socket = None;
        }
        if event.contains(PollFlags::POLLIN) {
            self.receive();
        }
        // The notice of dropped bytes is queued only right before it can be sent; otherwise it could itself be dropped.
        if self.skipped == 0 || event.contains(PollFlags::POLLOUT) {
            self.send();
        }
        if self.blocks_hook() && self.progress.elapsed() >= STALL_TIMEOUT {
            self.is_stalled = true;
            self.drop_oldest();
        }
        if let Some((drain, since)) = self.drain {
            let quiet = is_quiet && since.max(self.latest).elapsed() >= drain.quiet();
            self.is_closing |= quiet || since.elapsed() >= drain.total();
        }
        self.is_closing |= has_ended;
        if self.is_closing
            && self.queue.is_empty()
            && let Some(socket) = self.socket.take()
        {
            // Standard output is another descriptor of the same socket.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn receive(&mut self) {
        let mut byte = [0];
        let Some(mut socket) = self.socket.as_ref() else { return };
        match socket.read(&mut byte) {
            // Closed without a byte.
            Ok(0) => self.drain = Some((Drain::Short, Instant::now())),
            Ok(_) => self.drain = Some((Drain::of(byte[0]), Instant::now())),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.socket = None,
        }
    }

    fn send(&mut self) {
        let Some(mut socket) = self.socket.as_ref() else { return };
        if self.skipped > 0 {
            let newline = if self.last_sent == b'\n' { "" } else { "\n" };
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
                    self.last_sent = head[sent - 1];
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
