//! `configure` and `health-check`: the user's functions.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::OFlag;
use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::config::Sha256Digest;
use crate::failure::{Code, Failure, Named};
use crate::host::hook_log::{self, Lines};
use crate::host::hook_reader::{Drain, Output};
use crate::host::{command, group};
use crate::lifecycle::Launch;
use crate::node::steps::fetch::StagedScript;
use crate::runner::{Acted, Header, Observed, Step, stopped};
use crate::sequence::StepName;
use crate::state::{Journal, Process};
use crate::time::rough;

/// As `status` and the error show them.
const LAST_LINES: usize = 10;

/// The [`Mark`]'s name in the state directory.
const MARK: &str = "hook-called";

/// Runs one function of the hook script.
#[derive(Debug)]
pub struct Hook<'a> {
    /// `configure` or `health-check`.
    pub step: StepName,
    /// Knows with which inputs it was done.
    pub journal: &'a Journal,
    /// Whether this instance is still wanted.
    pub launch: &'a Launch<'a>,
    /// The script.
    pub script: &'a StagedScript,
    /// Where the configuration was read from.
    pub config: &'a str,
    /// The function.
    pub function: &'a str,
    /// The node's id and address.
    pub arguments: [&'a str; 2],
    /// What the script finds in its environment.
    pub environment: &'a BTreeMap<&'static str, String>,
    /// Where the log of its output is, and the mark of its call.
    pub state_dir: &'a Path,
    /// The digest of what came before: when that is redone, so is this.
    pub after: &'a str,
    /// This boot.
    pub boot_id: &'a str,
    /// `timeouts.hooks`
    pub deadline: Duration,
    /// Becomes true when the agent is told to stop.
    pub stop: watch::Receiver<bool>,
}

impl Step for Hook<'_> {
    /// The digest of all inputs, for the step that depends on it.
    type Output = String;

    fn header(&self) -> Header<'_> {
        Header {
            // What the hook started is ended with it, and that takes more than dropping a future.
            keeps_own_deadline: true,
            ..Header::of(self.step, self.deadline)
        }
    }

    async fn observe(&self) -> Result<Observed<String>, Failure> {
        let inputs = self.inputs();
        if self.journal.once_done(self.step, &inputs) {
            return Ok(Observed::Done(inputs));
        }
        Ok(Observed::Todo(format!("{} {} of {}", self.function, self.arguments.join(" "), self.script.name)))
    }

    async fn act(&self) -> Result<Acted, Failure> {
        self.launch.must_be_wanted().await?;
        let deadline = Instant::now() + self.deadline;
        let mark = Mark::unset(self.state_dir.join(MARK))?;
        let (mut child, mut output) = self.spawn(&mark).await?;
        let mut tail = Tail::new(self.step);
        let ended = self.follow(&mut child, &mut output, &mut tail, deadline).await;
        let called = mark.is_set()?;
        mark.remove();
        let printed = Vec::from(tail.last);
        self.journal.update(|state| {
            state.hook = None;
            state.output.insert(self.step.into(), printed.clone());
        })?;
        let failure = match ended {
            Ok(status) if called && status.success() => {
                self.journal.record_once(self.step, &self.inputs())?;
                return Ok(Acted::Changed);
            }
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
}

impl Hook<'_> {
    fn inputs(&self) -> String {
        let line = format!(
            "{}\0{}\0{}\0{:?}\0{:?}",
            self.after, self.script.sha256, self.function, self.arguments, self.environment
        );
        Sha256Digest::of(line.as_bytes()).to_string()
    }

    /// The function was called and has failed. A repair needs to know where its text and its files come from.
    fn failed(&self, status: ExitStatus) -> Failure {
        let (function, origin, config) = (self.function, self.origin(), self.config);
        Failure::new(Code::HookFailed, format!("{function} ended with {status}")).remedy(format!(
            "correct what its last lines say, then: node-agent retry, which calls the function anew; the function is in {origin}; \
             the files of [[file]] come from {config}, and an edit of them on this node is overwritten"
        ))
    }

    /// Where the script is to be changed.
    fn origin(&self) -> String {
        let StagedScript { name, key, .. } = self.script;
        let config = self.config;
        if name == key { format!("{key} of {config}") } else { format!("{name} ({key} of {config})") }
    }

    /// The shell has ended without having called the function. Whatever its exit status, nothing was done.
    fn ended_early(&self, status: ExitStatus) -> Failure {
        let (script, function) = (&self.script.name, self.function);
        let text = format!("the script {script} ended before {function} was called ({status})");
        Failure::new(Code::HookFailed, text).remedy(format!(
            "the script is sourced, not executed: remove any `exit` or `exec` that it reaches outside its functions, or correct \
             the error in its last lines; then: node-agent retry, which calls {function} anew"
        ))
    }

    /// Starts the function in a process group of its own, which is in the journal before it runs.
    async fn spawn(&self, mark: &Mark) -> Result<(Child, Output), Failure> {
        let (output, writer) = Output::start(self.state_dir, self.step.as_str()).await?;
        let mut bash = command::bash(&shell(&self.script.path, self.function, self.arguments, &mark.path));
        bash.envs(self.environment)
            // What systemd gives the service is not for what the service starts.
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
            // A shell that is gone already shows in its exit status.
            let _ = stdin.write_all(b"go\n").await;
        }
        Ok((child, output))
    }

    /// Logs the output until the function returns. What it left running may keep the output open: the reader goes on alone.
    async fn follow(
        &self,
        child: &mut Child,
        output: &mut Output,
        tail: &mut Tail,
        deadline: Instant,
    ) -> Result<ExitStatus, Failure> {
        let group = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default();
        let mut stop = self.stop.clone();
        loop {
            let cut_short = tokio::select! {
                // Output that never ends must not hide the deadline.
                biased;
                status = child.wait() => {
                    let status = status.named("waiting for the hook")?;
                    let drain = if status.success() { Drain::Short } else { Drain::Long };
                    output.finish(drain, |bytes| tail.take(bytes)).await;
                    tail.end();
                    return Ok(status);
                }
                () = sleep_until(deadline) => {
                    // An agent that did not run for a while learns of the deadline before it learns of the end.
                    if child.try_wait().named("waiting for the hook")?.is_some() {
                        continue;
                    }
                    let text = format!("{} has not ended within {}", self.function, rough(self.deadline));
                    Failure::new(Code::HookTimedOut, text)
                }
                _stop = stop.wait_for(|stop| *stop) => stopped(),
                () = output.readable() => {
                    output.take(|bytes| tail.take(bytes)).await;
                    continue;
                }
            };
            tracing::warn!(step = self.step.as_str(), "ending {} with all it started", self.function);
            let ((), status) = tokio::join!(group::end(group), child.wait());
            status.named("waiting for the hook")?;
            output.finish(Drain::Long, |bytes| tail.take(bytes)).await;
            tail.end();
            return Err(cut_short);
        }
    }
}

/// What bash runs. It begins with the word to go, which comes once the process group is journaled; without it the agent has
/// died. Everything is written out and quoted, on lines of its own, because a sourced script can change all that a shell
/// would fill in: the arguments (`set --`), IFS, aliases, variables. The mark is set by a redirection alone, which takes no
/// program, no space on the disk, and nothing that a script can redefine.
fn shell(script: &Path, function: &str, [id, address]: [&str; 2], mark: &Path) -> OsString {
    let (script, mark) = (quoted(script.as_os_str()), quoted(mark.as_os_str()));
    let [function, id, address] = [function, id, address].map(|word| quoted(word.as_ref()));
    let lines: [&[&[u8]]; 3] = [
        &[b"read -r go || exit 125\nunset go\nexec </dev/null\numask 022\nset -Eeuo pipefail\n"],
        &[b"source ", &script, b" ", &id, b" ", &address, b"\n"],
        &[b">| ", &mark, b" || exit 125\n", &function, b" ", &id, b" ", &address, b"\n"],
    ];
    OsString::from_vec(lines.concat().concat())
}

/// One word for the shell, whatever is in it.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(br"'\''"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// The proof that the script was sourced to its end: a file with one byte, which the shell empties right before it calls the
/// function. An exit status is no proof, since a script's `exit 0` ends the shell before any function is called.
struct Mark {
    path: PathBuf,
    file: File,
}

impl Mark {
    /// The file is opened once: what is removed or made at the same path later is not taken for it.
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
        Ok(Mark { path, file })
    }

    fn is_set(&self) -> Result<bool, Failure> {
        let metadata = self.file.metadata().named(format_args!("reading {}", self.path.display()))?;
        Ok(metadata.len() == 0)
    }

    fn remove(&self) {
        // One that stays is made anew before the next hook.
        let _ = fs::remove_file(&self.path);
    }
}

/// Ends the hook that an agent killed in its course has left behind.
pub async fn end_survivor(journal: &Journal, boot_id: &str) {
    let Some(hook) = journal.read(|state| state.hook.clone()) else { return };
    if hook.boot_id == boot_id && group::survives(hook.pid, hook.started) {
        tracing::warn!("a hook of an earlier run is still at work (process group {}); ending it", hook.pid);
        group::end(hook.pid).await;
    }
    journal.keep(|state| state.hook = None);
}

/// Logs lines as they come and keeps the last ones.
struct Tail {
    step: StepName,
    last: VecDeque<String>,
    lines: Lines,
}

impl Tail {
    fn new(step: StepName) -> Self {
        Tail { step, last: VecDeque::new(), lines: Lines::default() }
    }

    fn take(&mut self, bytes: &[u8]) {
        let Tail { step, last, lines } = self;
        lines.push(bytes, |line| log(*step, last, line));
    }

    fn end(&mut self) {
        let Tail { step, last, lines } = self;
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
