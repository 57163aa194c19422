//! Logging, for people and machines.
//!
//! Every event becomes a [`Line`], which goes to this process's one sink (text, JSON, systemd's journal or live progress on
//! a terminal) and to those who [`follow`]. Nothing here fails, panics or waits: a vanished or stopped terminal, or a closed
//! or unread pipe, must not stop the work. A thread writes to each (`outlet.rs`); [`flush`] waits for it, within bounds.

mod journal;
mod line;
mod live;
mod outlet;
mod text;

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::broadcast;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use journal::Journal;
use line::OURS;
pub use line::{Kind, Level, Line};
use live::Live;
use outlet::{Item, Outlet};
use text::Text;

use crate::readable;

/// `--log-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people: lines, live progress on a terminal, entries with fields in systemd's journal.
    Text,
    /// One JSON object a line, for log shippers.
    Json,
}

/// Where this process's lines go.
enum Sink {
    Text(Text, Outlet<Plain>),
    /// As JSON or to the journal.
    Lines(Outlet<Line>),
    Live(Live),
}

/// Text for the standard error or the console, newlines included.
struct Plain(String);

impl Item for Plain {
    fn size(&self) -> usize {
        self.0.len()
    }

    fn dropped(lines: u64) -> Self {
        Plain(Text::new().render(&Line::dropped(lines)))
    }
}

impl Item for Line {
    fn size(&self) -> usize {
        // 128: the names and the short values.
        self.message.len() + 128
    }

    fn dropped(lines: u64) -> Self {
        Line::note(Level::Warning, format!("{lines} lines were dropped here: nobody read them"))
    }
}

impl Sink {
    fn choose(format: Format) -> Self {
        match format {
            Format::Json => Sink::Lines(Outlet::new(|line: &Line| write(&line.json()))),
            Format::Text => Journal::if_connected()
                .map(|journal| Sink::Lines(Outlet::new(move |line: &Line| journal.send(&line.readable()))))
                .or_else(|| Live::if_possible().map(Sink::Live))
                .unwrap_or_else(Sink::text),
        }
    }

    fn text() -> Self {
        Sink::Text(Text::new(), stderr())
    }

    fn flush(&self) -> Box<dyn FnOnce(Instant)> {
        match self {
            Sink::Text(_, outlet) | Sink::Live(Live { outlet, .. }) => Box::new(outlet.flush()),
            Sink::Lines(outlet) => Box::new(outlet.flush()),
        }
    }
}

fn stderr() -> Outlet<Plain> {
    Outlet::new(|text: &Plain| write(&text.0))
}

static SINK: OnceLock<Mutex<Sink>> = OnceLock::new();
static FOLLOWERS: OnceLock<broadcast::Sender<Line>> = OnceLock::new();

static CONSOLE: OnceLock<Outlet<Plain>> = OnceLock::new();

/// How long to retry while the console is busy.
const CONSOLE_PATIENCE: Duration = Duration::from_secs(1);

/// How long an ending process waits for the readers of its lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How many lines a follower may lag behind before it misses some.
const FOLLOWER_BACKLOG: usize = 512;

/// Starts logging; `verbose` adds requests and commands. Called once, at the start.
pub fn init(format: Format, verbose: bool) {
    let (ours, others) =
        if verbose { (LevelFilter::DEBUG, LevelFilter::WARN) } else { (LevelFilter::INFO, LevelFilter::ERROR) };
    SINK.get_or_init(|| Mutex::new(Sink::choose(format)));
    let filter = Targets::new().with_default(others).with_target(OURS, ours);
    // It fails if called before; then the sink stays the same.
    let _ = tracing_subscriber::registry().with(filter).with(Lines).try_init();
}

/// Turns events into lines.
struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = Line::of(event);
        show(&line);
        if line.level <= Level::Info
            && let Some(followers) = FOLLOWERS.get()
        {
            // It fails once all followers have left.
            let _ = followers.send(line);
        }
    }
}

/// All lines from now on, from [`Level::Info`] up and with [`Kind::Begin`]. A slow follower misses the oldest and learns how
/// many.
pub fn follow() -> broadcast::Receiver<Line> {
    FOLLOWERS.get_or_init(|| broadcast::Sender::new(FOLLOWER_BACKLOG)).subscribe()
}

/// Shows a line, this process's or another's.
pub fn show(line: &Line) {
    match &mut *sink() {
        Sink::Live(progress) => progress.show(&line.readable()),
        _ if line.kind == Kind::Begin => {}
        Sink::Text(text, outlet) => outlet.push(Plain(text.render(&line.readable()))),
        Sink::Lines(outlet) => outlet.push(line.clone()),
    }
}

/// Whether a table would be seen.
pub fn is_live() -> bool {
    matches!(&*sink(), Sink::Live(_))
}

/// Shows a table below the lines of a terminal, in place of the one before; elsewhere nothing.
pub fn show_table(rows: Vec<String>) {
    if let Sink::Live(live) = &mut *sink() {
        live.show_table(rows);
    }
}

/// Ends live progress: the terminal shows nothing any more that changes.
pub fn finish() {
    if let Sink::Live(live) = &mut *sink() {
        live.finish();
    }
}

/// Waits until all lines are written, for two seconds at most: before the process ends or writes to another stream.
pub fn flush() {
    let end = Instant::now() + FLUSH_TIMEOUT;
    loop {
        let (wait, complete) = {
            let mut sink = sink();
            let complete = if let Sink::Live(live) = &mut *sink { live.paint() } else { true };
            (sink.flush(), complete)
        };
        wait(end);
        if complete || Instant::now() >= end {
            break;
        }
    }
    if let Some(console) = CONSOLE.get() {
        console.flush()(end);
    }
}

/// Writes a text without time and place to the standard error; in JSON and in the journal it is a note.
pub fn say(level: Level, text: &str) {
    match &mut *sink() {
        Sink::Text(_, outlet) => outlet.push(Plain(format!("{}\n", readable::text(text)))),
        Sink::Live(live) => live.say(&readable::text(text)),
        Sink::Lines(outlet) => outlet.push(Line::note(level, text)),
    }
}

/// The last line of a run: `text` as by [`say`], and `console` on the machine's console, for people who cannot log in. Anyone
/// with ec2:GetConsoleOutput can read the console: `console` must hold no hook's output and no secret.
pub fn last_words(level: Level, text: &str, console: &str) {
    say(level, text);
    // At a terminal a person reads the text already.
    if !io::stderr().is_terminal() {
        let outlet = CONSOLE.get_or_init(|| Outlet::new(|text: &Plain| write_to_console(&text.0)));
        outlet.push(Plain(format!("{}\n", readable::text(console))));
    }
}

/// Returns whether the console accepted the text.
fn write_to_console(text: &str) -> bool {
    // O_NONBLOCK: an unread console must not block. O_NOCTTY: the console must not become the agent's terminal.
    let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let device = OpenOptions::new().append(true).custom_flags(flags.bits()).open("/dev/console");
    device.and_then(|device| write_within(device, text.as_bytes(), CONSOLE_PATIENCE)).is_ok()
}

/// Writes to a non-blocking device, and retries while it is busy: Linux allows one write to a terminal at a time, and
/// journald and systemd write to the console, too.
fn write_within(mut device: impl io::Write, mut text: &[u8], patience: Duration) -> io::Result<()> {
    let end = Instant::now() + patience;
    while !text.is_empty() {
        match device.write(text) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => text = &text[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The sink; before [`init`], plain text.
fn sink() -> MutexGuard<'static, Sink> {
    let sink = SINK.get_or_init(|| Mutex::new(Sink::text()));
    sink.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes to the standard error, and returns whether it is still open. May block: for the writing threads only.
fn write(text: &str) -> bool {
    let mut text = text.as_bytes();
    while !text.is_empty() {
        // Not by std's handle, which would hold its lock while the reader sleeps.
        match nix::unistd::write(io::stderr(), text) {
            Ok(written) => text = &text[written..],
            Err(Errno::EINTR) => {}
            // Another process has made the file description non-blocking.
            Err(Errno::EAGAIN) => {
                let stderr = io::stderr();
                let mut ready = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut ready, PollTimeout::NONE).is_err_and(|errno| errno != Errno::EINTR) {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}

/// Whether to use colours on the standard error (no-color.org).
fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{FcntlArg, fcntl};
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn followers_get_every_field_of_an_event_and_learn_how_many_they_missed() {
        let mut followers = follow();
        let subscriber = tracing_subscriber::registry().with(Lines);
        tracing::subscriber::with_default(subscriber, || {
            let volume = Some("vol-0abc");
            let (attempt, allowed_ms) = (2_u32, 90_000_u64);
            let (step, kind, holder) = ("attach", "begin", "i-0");
            tracing::info!(step, volume, kind, attempt, allowed_ms, holder, "held by {}", 7);
            tracing::debug!("not for followers");
            tracing::info!(target: "another_crate", "its own");
        });
        let line = followers.try_recv().unwrap();
        assert_eq!((line.step.as_deref(), line.volume.as_deref()), (Some("attach"), Some("vol-0abc")));
        assert_eq!((line.kind, line.attempt, line.allowed_ms), (Kind::Begin, Some(2), Some(90_000)));
        assert_eq!(line.message, "held by 7 holder=i-0");
        assert_eq!(followers.try_recv().unwrap().message, "another_crate: its own");

        for number in 0..=FOLLOWER_BACKLOG {
            let _ = FOLLOWERS.get().unwrap().send(Line::note(Level::Info, number.to_string()));
        }
        assert_eq!(followers.try_recv(), Err(broadcast::error::TryRecvError::Lagged(1)));
        assert_eq!(followers.try_recv().unwrap().message, "1");
    }

    #[test]
    fn a_write_to_a_busy_console_is_retried_until_it_succeeds() {
        /// A pipe that is emptied whenever a write finds it full.
        struct Console(io::PipeReader, io::PipeWriter, Vec<u8>);

        impl io::Write for Console {
            fn write(&mut self, text: &[u8]) -> io::Result<usize> {
                self.1.write(text).inspect_err(|_| self.0.read_exact(&mut self.2).unwrap())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let (reader, mut writer) = io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let full = vec![b'x'; fcntl(&writer, FcntlArg::F_GETPIPE_SZ).unwrap().try_into().unwrap()];
        writer.write_all(&full).unwrap();
        let busy = write_within(&writer, b"x", Duration::from_millis(1)).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::WouldBlock);

        let mut console = Console(reader, writer, full);
        write_within(&mut console, b"the last word", Duration::from_mins(1)).unwrap();
        let Console(mut reader, writer, _) = console;
        drop(writer);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "the last word");
    }
}
