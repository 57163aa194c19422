//! `configure` and `health-check`: the user's functions.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::config::Sha256Digest;
use crate::failure::{Code, Failure, Named};
use crate::host::{environment, group};
use crate::journal::{Journal, Process};
use crate::step::{Observed, Step, StepName, rough, stopped};
use crate::steps::fetch::StagedScript;
use crate::steps::lifecycle::Launch;

/// Waits for the word to go, which comes once the process group is journaled; without it the agent has died.
/// The script is sourced with the node's id and address as its arguments, as the function is called.
const SHELL: &str =
    r#"read -r go || exit 125; unset go; exec </dev/null; umask 022; set -Eeuo pipefail; source "$0" "$2" "$3"; "$@""#;

/// As `status` and the error show them.
const LAST_LINES: usize = 10;

/// A line longer than this is logged in pieces.
const LINE: usize = 4096;

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
    /// The function.
    pub function: &'a str,
    /// The node's id and address.
    pub arguments: [&'a str; 2],
    /// What the script finds in its environment.
    pub environment: &'a BTreeMap<&'static str, String>,
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

    fn name(&self) -> StepName {
        self.step
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }

    /// What the hook started is ended with it, and that takes more than dropping a future.
    fn keeps_own_deadline(&self) -> bool {
        true
    }

    async fn observe(&self) -> Result<Observed<String>, Failure> {
        let inputs = self.inputs();
        if self.journal.once_done(self.step, &inputs) {
            return Ok(Observed::Done(inputs));
        }
        Ok(Observed::Todo(format!("{} {} of {}", self.function, self.arguments.join(" "), self.script.path.display())))
    }

    async fn act(&self) -> Result<(), Failure> {
        self.launch.must_be_wanted().await?;
        let deadline = Instant::now() + self.deadline;
        let (mut child, output) = self.spawn().await?;
        let mut tail = Tail::new(self.step);
        let ended = self.follow(&mut child, output, &mut tail, deadline).await;
        let printed = Vec::from(tail.last);
        self.journal.update(|state| {
            state.hook = None;
            state.output.insert(self.step, printed.clone());
        })?;
        let status = match ended {
            Ok(status) => status,
            Err(failure) => return Err(failure.with_output(printed)),
        };
        if status.success() {
            return self.journal.record_once(self.step, &self.inputs());
        }
        let text = format!("{} ended with {status}", self.function);
        Err(Failure::new(Code::HookFailed, text).with_output(printed))
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

    /// Starts the function in a process group of its own, which is in the journal before it runs.
    async fn spawn(&self) -> Result<(Child, pipe::Receiver), Failure> {
        let (reader, writer) = io::pipe().named("a pipe for the hook")?;
        let output = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).named("a pipe for the hook")?;
        let mut command = Command::new("bash");
        command
            .args(["-c", SHELL])
            .arg(&self.script.path)
            .arg(self.function)
            .args(self.arguments)
            .envs(self.environment)
            // What systemd gives the service is not for what the service starts.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(writer.try_clone().named("a pipe for the hook")?)
            .stderr(writer)
            .process_group(0);
        environment::of_hooks(&mut command);
        let mut child = command.spawn().map_err(|error| match error.kind() {
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

    /// Logs the output until the function returns. What it left running may keep the output open: only what is there by
    /// then is read.
    async fn follow(
        &self,
        child: &mut Child,
        output: pipe::Receiver,
        tail: &mut Tail,
        deadline: Instant,
    ) -> Result<ExitStatus, Failure> {
        let group = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default();
        let mut stop = self.stop.clone();
        let mut open = true;
        loop {
            let cut_short = tokio::select! {
                // Output that never ends must not hide the deadline.
                biased;
                status = child.wait() => {
                    if open {
                        tail.take(&output)?;
                    }
                    tail.end();
                    return status.named("waiting for the hook");
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
                ready = output.readable(), if open => {
                    ready.named("the hook's output")?;
                    open = tail.take(&output)?;
                    continue;
                }
            };
            tracing::warn!(step = self.step.as_str(), "ending {} with all it started", self.function);
            let ((), status) = tokio::join!(group::end(group), child.wait());
            status.named("waiting for the hook")?;
            if open {
                tail.take(&output)?;
            }
            tail.end();
            return Err(cut_short);
        }
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
    partial: Vec<u8>,
}

impl Tail {
    fn new(step: StepName) -> Self {
        Tail { step, last: VecDeque::new(), partial: Vec::new() }
    }

    /// Reads what is there. False once the output is closed.
    fn take(&mut self, output: &pipe::Receiver) -> Result<bool, Failure> {
        let mut buffer = [0_u8; LINE];
        // Bounded, so that endless output cannot hold up the deadline; a pipe holds 16 of these.
        for _ in 0..32 {
            match output.try_read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(got) => {
                    for byte in &buffer[..got] {
                        if *byte == b'\n' || self.partial.len() >= LINE {
                            self.line();
                        }
                        if *byte != b'\n' {
                            self.partial.push(*byte);
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(Failure::io("the hook's output", error)),
            }
        }
        Ok(true)
    }

    fn end(&mut self) {
        if !self.partial.is_empty() {
            self.line();
        }
    }

    fn line(&mut self) {
        let line = String::from_utf8_lossy(&self.partial).trim_end().to_owned();
        self.partial.clear();
        tracing::info!(step = self.step.as_str(), kind = "output", "{line}");
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }
}
