//! Runs an operator's command for the rolling update: its check of the cluster, its question for the leader.
//!
//! The command ends with all that it started, whether it returned, ran into its limit, or is no longer wanted because the
//! future was dropped. Its processes are found in two ways: by the process group, and by a variable in the environment that
//! marks them, which a child that began a session of its own (setsid, a daemon) has inherited. Not found is a process that left
//! the group and also cleared its environment; not ended is one of another user (sudo), and what a daemon started on the
//! command's behalf (a container). If this program is killed by SIGKILL, the command runs on.

mod processes;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use tempfile::NamedTempFile;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use self::processes::{MARK, Processes};
use super::command::{self, quoted};
use super::random_uuid;

/// How many bytes of each text of an [`Answer`] are kept: the last ones.
pub const KEPT: usize = 8 << 10;

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `bash -c` runs this text.
    Shell(String),
    /// A function of a hook script, called without arguments; the script is sourced with the shell options of hooks.
    Function {
        /// The script.
        file: PathBuf,
        /// The function's name.
        name: String,
    },
}

/// Where the command's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// Into one pipe: [`Answer::output`] has the order in which the command wrote, and [`Answer::stdout`] is empty.
    Joined,
    /// Into two: what is written to both in the same instant may change its order in [`Answer::output`].
    Apart,
}

/// How a command ended, and what it printed. Bytes that are not UTF-8 are replaced by U+FFFD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How it ended.
    pub outcome: Outcome,
    /// The last [`KEPT`] bytes of its standard output, where that was read apart.
    pub stdout: String,
    /// The last [`KEPT`] bytes of both streams together, in the order of arrival.
    pub output: String,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// By itself, with this exit status.
    Exited(i32),
    /// By this signal, which it did not get from here.
    Killed(i32),
    /// It was still running at its limit, and was ended.
    TimedOut,
    /// The command, or the function of the script, never ran. The text says why.
    NotStarted(String),
}

/// Runs a command with the caller's environment, `environment` added, and without input. `limit` is the time until SIGTERM;
/// SIGKILL follows after
/// [`GRACE`](super::group::GRACE).
///
/// When its shell ends, what it left running is ended, and the answer is there. Dropping the future kills all at once.
pub async fn ask(command: &Command, environment: &[(&str, String)], limit: Duration, streams: Streams) -> Answer {
    match Run::start(command, environment, streams) {
        Ok(run) => run.finish(limit).await,
        Err(why) => Answer { outcome: Outcome::NotStarted(why), stdout: String::new(), output: String::new() },
    }
}

/// A running command.
struct Run<'a> {
    command: &'a Command,
    processes: Processes,
    child: Child,
    printed: Printed,
    called: Option<CallMarker>,
}

impl<'a> Run<'a> {
    fn start(command: &'a Command, environment: &[(&str, String)], streams: Streams) -> Result<Self, String> {
        let (called, script) = match command {
            Command::Shell(text) => (None, OsString::from(text)),
            Command::Function { file, name } => {
                let marker = CallMarker::new().map_err(|error| format!("writing a temporary file: {error}"))?;
                let script =
                    calling(file, name, marker.0.path()).map_err(|error| format!("{}: {error}", file.display()))?;
                (Some(marker), script)
            }
        };
        let mark = random_uuid().map_err(|failure| failure.to_string())?;
        let (printed, stdout, stderr) = Printed::pipes(streams).map_err(|error| format!("a pipe: {error}"))?;
        let mut bash = command::operators_bash(&script);
        bash.envs(environment.iter().map(|(name, value)| (name, value))).env(MARK, &mark).stdout(stdout).stderr(stderr);
        let child = bash.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "bash is not installed".to_owned(),
            _ => format!("bash cannot be started: {error}"),
        })?;
        // The pipes' ends are in the builder, too; without them the output ends with its last writer.
        drop(bash);
        let group = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default();
        Ok(Run { command, processes: Processes::of(group, &mark), child, printed, called })
    }

    async fn finish(mut self, limit: Duration) -> Answer {
        let ended = self.wait(limit).await;
        {
            let end = self.processes.end();
            tokio::pin!(end);
            loop {
                tokio::select! {
                    biased;
                    () = &mut end => break,
                    // A process that prints before it ends must not block in that.
                    () = self.printed.take() => {}
                }
            }
        }
        self.printed.take_rest();
        // Reaps the shell that was ended.
        let _ = self.child.try_wait();
        let outcome = match ended {
            Ok(Some(status)) => self.outcome(status),
            Ok(None) => Outcome::TimedOut,
            Err(error) => Outcome::NotStarted(format!("waiting for bash: {error}")),
        };
        Answer { outcome, stdout: self.printed.stdout.text(), output: self.printed.output.text() }
    }

    /// Reads the output until the shell ends; none at the limit.
    async fn wait(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            tokio::select! {
                biased;
                status = self.child.wait() => return status.map(Some),
                () = sleep_until(deadline) => return self.child.try_wait(),
                () = self.printed.take() => {}
            }
        }
    }

    fn outcome(&self, status: ExitStatus) -> Outcome {
        if let (Command::Function { file, name }, Some(called)) = (self.command, &self.called)
            && let Err(why) = called.read()
        {
            let file = file.display();
            return Outcome::NotStarted(match why {
                NotCalled::Undefined => format!("{file} defines no function {name}"),
                NotCalled::Ended => format!(
                    "{file} ended before {name} was called ({status}); it is sourced: remove any exit outside its functions, or \
                     correct the error in its last lines"
                ),
            });
        }
        match (status.code(), status.signal()) {
            (Some(code), _) => Outcome::Exited(code),
            (None, signal) => Outcome::Killed(signal.unwrap_or_default()),
        }
    }
}

/// The program that sources a script and calls its function. The words are literals, because a script can change all that a
/// shell expands. Without a slash in its path, a script would be searched in PATH.
fn calling(file: &Path, name: &str, marker: &Path) -> io::Result<OsString> {
    let file = quoted(std::path::absolute(file)?.as_os_str());
    let [name, marker] = [name.as_ref(), marker.as_os_str()].map(quoted);
    let lines: [&[&[u8]]; 3] = [
        &[b"set -Eeuo pipefail\nsource ", &file, b"\n"],
        &[b"declare -F ", &name, b" >/dev/null || { builtin printf undefined >| ", &marker, b"; exit 127; }\n"],
        &[b">| ", &marker, b" || exit 125\n", &name, b"\n"],
    ];
    Ok(OsString::from_vec(lines.concat().concat()))
}

/// Proves that a script was sourced to its end: a file with one byte, which the shell truncates right before it calls the
/// function, or with more, where the function is not defined. A script's own `exit 0` must not pass for the function's success.
struct CallMarker(NamedTempFile);

impl CallMarker {
    fn new() -> io::Result<Self> {
        let file = NamedTempFile::with_prefix("node-agent-called-")?;
        fs::write(file.path(), "-")?;
        Ok(CallMarker(file))
    }

    fn read(&self) -> Result<(), NotCalled> {
        match self.0.as_file().metadata().map(|about| about.len()) {
            Ok(0) => Ok(()),
            Ok(2..) => Err(NotCalled::Undefined),
            _ => Err(NotCalled::Ended),
        }
    }
}

/// Why a function was not called.
enum NotCalled {
    Undefined,
    /// The shell ended before.
    Ended,
}

/// What a command prints.
struct Printed {
    /// Standard output, or both streams.
    first: Option<pipe::Receiver>,
    /// Standard error, where it is read apart.
    second: Option<pipe::Receiver>,
    stdout: Tail,
    output: Tail,
    is_apart: bool,
}

impl Printed {
    /// Returns the command's ends, too: standard output and standard error.
    fn pipes(streams: Streams) -> io::Result<(Self, io::PipeWriter, io::PipeWriter)> {
        let open = || -> io::Result<_> {
            let (reader, writer) = io::pipe()?;
            Ok((pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?, writer))
        };
        let is_apart = streams == Streams::Apart;
        let (first, stdout) = open()?;
        let (second, stderr) = if is_apart {
            let (second, stderr) = open()?;
            (Some(second), stderr)
        } else {
            (None, stdout.try_clone()?)
        };
        let (tail, output) = Default::default();
        Ok((Printed { first: Some(first), second, stdout: tail, output, is_apart }, stdout, stderr))
    }

    /// Waits for output and reads a bounded amount; waits for ever once both streams have ended.
    async fn take(&mut self) {
        tokio::select! {
            () = readable(self.first.as_ref()) => {}
            () = readable(self.second.as_ref()) => {}
        }
        self.read();
        // The single-threaded runtime handles timers and signals only between tasks.
        yield_now().await;
    }

    /// Reads what has arrived, at most what two pipes hold: a process that could not be ended may print for ever.
    fn take_rest(&mut self) {
        for _ in 0..64 {
            if !self.read() {
                break;
            }
        }
    }

    /// Reads once from each stream. Whether there was any output.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let mut any = false;
        for (pipe, is_stdout) in [(&mut self.first, self.is_apart), (&mut self.second, false)] {
            let Some(open) = pipe else { continue };
            match open.try_read(&mut buffer) {
                Ok(0) => *pipe = None,
                Ok(got) => {
                    any = true;
                    self.output.push(&buffer[..got]);
                    if is_stdout {
                        self.stdout.push(&buffer[..got]);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => *pipe = None,
            }
        }
        any
    }
}

async fn readable(pipe: Option<&pipe::Receiver>) {
    match pipe {
        // Its error is the next read's, too.
        Some(pipe) => drop(pipe.readable().await),
        None => std::future::pending().await,
    }
}

/// The last bytes of a text.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        // Seldom, so that not every byte moves the others.
        if self.0.len() > 4 * KEPT {
            self.0.drain(..self.0.len() - 2 * KEPT);
        }
    }

    fn text(&self) -> String {
        let mut bytes = &self.0[self.0.len().saturating_sub(KEPT)..];
        // The rest of a character that was cut.
        while bytes.len() < self.0.len() && bytes.first().is_some_and(|byte| byte & 0xc0 == 0x80) {
            bytes = &bytes[1..];
        }
        String::from_utf8_lossy(bytes).into_owned()
    }
}

#[cfg(test)]
mod tests;
