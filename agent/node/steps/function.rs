//! Calls the user's functions, each in a process group of its own.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::OFlag;
use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::failure::{Code, Failure, Named};
use crate::host::command::{self, quoted};
use crate::host::group;
use crate::host::hook_log::{self, Lines};
use crate::host::hook_reader::{Drain, Output};
use crate::node::steps::fetch::StagedScript;
use crate::runner::stopped;
use crate::sequence::StepName;
use crate::state::{Journal, Process};
use crate::time::rough;

/// How many last lines of the output `status` and the error show.
const LAST_LINES: usize = 10;

/// The name of the [`CallMarker`] in the state directory.
const MARKER: &str = "hook-called";

/// How often a call looks whether its end was moved.
const CUT_POLL: Duration = Duration::from_secs(1);

/// One call of one function of the hook script.
pub struct Call<'a> {
    pub(crate) step: StepName,
    /// Records the process group before the function runs, and its last lines.
    pub(crate) journal: &'a Journal,
    pub(crate) script: &'a StagedScript,
    /// The configuration's source, for whoever corrects it.
    pub(crate) config: &'a str,
    pub(crate) function: &'a str,
    /// Whether a script that does not define the function is none the worse for it.
    pub(crate) optional: bool,
    pub(crate) arguments: [&'a str; 2],
    pub(crate) environment: &'a BTreeMap<&'static str, String>,
    /// The directory of the output's log and of the call marker.
    pub(crate) state_dir: &'a Path,
    pub(crate) boot_id: &'a str,
    pub(crate) deadline: Duration,
    /// An earlier end, which may be set while the function runs.
    pub(crate) cut: &'a Cell<Option<Instant>>,
    /// Becomes true at the stop signal.
    pub(crate) stop: watch::Receiver<bool>,
}

impl Call<'_> {
    /// What is called, for people.
    pub fn shown(&self) -> String {
        format!("{} {} of {}", self.function, self.arguments.join(" "), self.script.name)
    }

    /// Calls the function, and ends it with all that it started at the deadline or the stop signal.
    pub async fn make(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.deadline;
        let marker = CallMarker::unset(self.state_dir.join(MARKER))?;
        let (mut child, mut output) = self.spawn(&marker).await?;
        let mut output_log = OutputLog::new(self.step);
        let ended = self.follow(&mut child, &mut output, &mut output_log, deadline).await;
        let called = marker.is_set()?;
        marker.remove();
        let printed = Vec::from(output_log.last);
        self.journal.update(|state| {
            state.hook = None;
            state.output.insert(self.step.into(), printed.clone());
        })?;
        let failure = match ended {
            Ok(status) if called && status.success() => return Ok(()),
            Ok(status) if called => self.failed(status),
            Ok(status) => self.ended_early(status),
            Err(mut failure) => {
                if !called && failure.code == Code::HookTimedOut {
                    failure.message.push_str(": the script was still being sourced");
                }
                failure
            }
        };
        Err(failure.with_output(printed, hook_log::path(self.state_dir)))
    }

    /// The failure of a function that was called. A repair needs the origin of the script and of the files.
    fn failed(&self, status: ExitStatus) -> Failure {
        let (function, origin, config) = (self.function, self.origin(), self.config);
        Failure::new(Code::HookFailed, format!("{function} ended with {status}")).remedy(format!(
            "correct what its last lines say, then: node-agent retry, which calls the function anew; the function is in {origin}; \
             the files of [[file]] come from {config}, and an edit of them on this node is overwritten"
        ))
    }

    /// Where the script can be changed.
    fn origin(&self) -> String {
        let StagedScript { name, key, .. } = self.script;
        let config = self.config;
        if name == key { format!("{key} of {config}") } else { format!("{name} ({key} of {config})") }
    }

    /// The failure of a shell that ended before it called the function, even with exit status 0.
    fn ended_early(&self, status: ExitStatus) -> Failure {
        let (script, function) = (&self.script.name, self.function);
        let text = format!("the script {script} ended before {function} was called ({status})");
        Failure::new(Code::HookFailed, text).remedy(format!(
            "the script is sourced, not executed: remove any `exit` or `exec` that it reaches outside its functions, or correct \
             the error in its last lines; then: node-agent retry, which calls {function} anew"
        ))
    }

    /// Starts the function in a process group of its own, which is journaled before the function runs.
    async fn spawn(&self, marker: &CallMarker) -> Result<(Child, Output), Failure> {
        let (output, writer) = Output::start(self.state_dir, self.step.as_str()).await?;
        let mut bash = command::bash(&self.shell(&marker.path));
        bash.envs(self.environment)
            // systemd meant these for the service, not for its children.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::piped())
            .stdout(writer.try_clone().named("a pipe for the hook")?)
            .stderr(writer);
        let mut child = bash.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::new(Code::ToolMissing, "bash is not installed"),
            _ => Failure::io("starting bash", error),
        })?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default();
        let process = Process::of(group, self.boot_id);
        self.journal.update(|state| state.hook = Some(process))?;
        if let Some(mut stdin) = child.stdin.take() {
            // If the shell has ended already, its exit status says so.
            let _ = stdin.write_all(b"go\n").await;
        }
        Ok((child, output))
    }

    /// Logs the output until the function returns. Processes that it left running may write on: the reader process serves them.
    async fn follow(
        &self,
        child: &mut Child,
        output: &mut Output,
        output_log: &mut OutputLog,
        deadline: Instant,
    ) -> Result<ExitStatus, Failure> {
        let group = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default();
        let mut stop = self.stop.clone();
        let began = Instant::now();
        let end = || self.cut.get().map_or(deadline, |cut| cut.min(deadline));
        loop {
            let cut_short = tokio::select! {
                // Endless output must not starve the deadline.
                biased;
                status = child.wait() => {
                    let status = status.named("waiting for the hook")?;
                    let drain = if status.success() { Drain::Short } else { Drain::Long };
                    output.finish(drain, |bytes| output_log.take(bytes)).await;
                    output_log.end();
                    return Ok(status);
                }
                () = sleep_until(end().min(Instant::now() + CUT_POLL)) => {
                    if Instant::now() < end() {
                        continue;
                    }
                    // After a suspension the agent may see the deadline before it sees that the hook has ended.
                    if child.try_wait().named("waiting for the hook")?.is_some() {
                        continue;
                    }
                    let is_cut = end() < deadline;
                    let allowed = if is_cut { began.elapsed() } else { self.deadline };
                    let text = format!("{} has not ended within {}", self.function, rough(allowed));
                    Failure::new(Code::HookTimedOut, text)
                }
                _stop = stop.wait_for(|stop| *stop) => stopped(),
                () = output.readable() => {
                    output.take(|bytes| output_log.take(bytes)).await;
                    continue;
                }
            };
            tracing::warn!(step = self.step.as_str(), "ending {} with all it started", self.function);
            let ((), status) = tokio::join!(group::end(group), child.wait());
            status.named("waiting for the hook")?;
            output.finish(Drain::Long, |bytes| output_log.take(bytes)).await;
            output_log.end();
            return Err(cut_short);
        }
    }

    /// The program for bash. It waits for a line that the agent sends once the process group is journaled; end of file means
    /// that the agent has died. All words are quoted literals, on lines of their own, because a sourced script can change
    /// everything that a shell expands: the arguments (`set --`), IFS, aliases, variables. A bare redirection sets the marker: it
    /// needs no program, no disk space, and nothing that a script can redefine.
    fn shell(&self, marker: &Path) -> OsString {
        let (script, marker) = (quoted(self.script.path.as_os_str()), quoted(marker.as_os_str()));
        let [id, address] = self.arguments;
        let [function, id, address] = [self.function, id, address].map(|word| quoted(word.as_ref()));
        let if_defined: &[&[u8]] =
            &[b"declare -F ", &function, b" >/dev/null || { >| ", &marker, b" || exit 125; exit 0; }\n"];
        let lines: [&[&[u8]]; 4] = [
            &[b"read -r go || exit 125\nunset go\nexec </dev/null\numask 022\nset -Eeuo pipefail\n"],
            &[b"source ", &script, b" ", &id, b" ", &address, b"\n"],
            if self.optional { if_defined } else { &[] },
            &[b">| ", &marker, b" || exit 125\n", &function, b" ", &id, b" ", &address, b"\n"],
        ];
        OsString::from_vec(lines.concat().concat())
    }
}

/// Proves that the script was sourced to its end: a file with one byte, which the shell truncates right before it calls the
/// function. An exit status proves nothing, since a script's `exit 0` ends the shell before any function is called.
struct CallMarker {
    path: PathBuf,
    file: File,
}

impl CallMarker {
    /// The file is opened once, so that a later file at the same path is not mistaken for it.
    fn unset(path: PathBuf) -> Result<Self, Failure> {
        let write = || -> io::Result<File> {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
            let mut file = options.open(&path)?;
            file.write_all(b"-")?;
            Ok(file)
        };
        let file = write()
            .map_err(|error| Failure::new(Code::StateUnusable, format!("writing {}", path.display())).because(error))?;
        Ok(CallMarker { path, file })
    }

    fn is_set(&self) -> Result<bool, Failure> {
        let metadata = self.file.metadata().named(format_args!("reading {}", self.path.display()))?;
        Ok(metadata.len() == 0)
    }

    fn remove(&self) {
        // The next hook truncates a leftover file.
        let _ = fs::remove_file(&self.path);
    }
}

/// Ends the hook that a killed agent left running.
pub async fn end_leftover(journal: &Journal, boot_id: &str) {
    let Some(hook) = journal.read(|state| state.hook.clone()) else { return };
    if hook.boot_id == boot_id && group::survives(hook.pid, hook.started) {
        tracing::warn!("a hook of an earlier run is still running (process group {}); ending it", hook.pid);
        group::end(hook.pid).await;
    }
    journal.keep(|state| state.hook = None);
}

/// Logs a hook's output line by line and keeps the last lines.
struct OutputLog {
    step: StepName,
    last: VecDeque<String>,
    lines: Lines,
}

impl OutputLog {
    fn new(step: StepName) -> Self {
        OutputLog { step, last: VecDeque::new(), lines: Lines::default() }
    }

    fn take(&mut self, bytes: &[u8]) {
        let OutputLog { step, last, lines } = self;
        lines.push(bytes, |line| log(*step, last, line));
    }

    fn end(&mut self) {
        let OutputLog { step, last, lines } = self;
        lines.end(|line| log(*step, last, line));
    }
}

fn log(step: StepName, last: &mut VecDeque<String>, line: &[u8]) {
    let line = String::from_utf8_lossy(line).trim_end().to_owned();
    tracing::info!(step = step.as_str(), kind = "output", "{line}");
    if last.len() == LAST_LINES {
        last.pop_front();
    }
    last.push_back(line);
}
