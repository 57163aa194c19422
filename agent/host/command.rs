//! Starts every external program. Most are awaited here; hooks, operators' commands, and the readers of hooks and disks run in
//! the background.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{AccessFlags, Pid, access};
use tokio::process::Command;
use tokio::time::timeout;

use super::{environment, process};
use crate::failure::{Code, Failure, Named};

/// Runs `program` to its end. The child gets the `device` as its standard input, and with it the lock on that descriptor: if the
/// agent dies, the lock is held until the child ends.
pub async fn run(program: &str, args: &[&str], device: Option<&File>) -> Result<Output, Failure> {
    let stdin = match device {
        Some(device) => device.try_clone().named(format_args!("handing the device to {program}"))?.into(),
        None => Stdio::null(),
    };
    let output = prepare(program, args, stdin).output().await;
    output.map_err(|error| not_started(program, error))
}

fn prepare(program: &str, args: &[&str], stdin: Stdio) -> Command {
    tracing::debug!("running {program} {}", args.join(" "));
    let mut command = Command::new(program);
    // A group of its own: Ctrl-C and a terminal's hangup reach the agent alone and must not interrupt mkfs or e2fsck.
    command.args(args).env("LC_ALL", "C").stdin(stdin).process_group(0);
    command
}

/// This program again, even if its file was replaced or removed: for work that may hang or must outlive the agent.
pub fn own_program(command: &str) -> Command {
    let mut child = Command::new(process::OWN_PROGRAM);
    // Ctrl-C and a terminal's hangup reach the agent alone.
    child.arg(command).process_group(0);
    child
}

/// A shell for the user's functions, in a process group of its own.
pub fn bash(script: &OsStr) -> Command {
    let mut bash = Command::new("bash");
    environment::of_hooks(&mut bash);
    // The second "bash" is $0.
    bash.arg("-c").arg(script).arg("bash").current_dir("/").process_group(0);
    bash
}

/// A shell for an operator's command: with the caller's own environment and directory, in a process group of its own.
pub fn operators_bash(script: &OsStr) -> Command {
    let mut bash = Command::new("bash");
    bash.arg("-c").arg(script).arg("bash").stdin(Stdio::null()).process_group(0);
    bash
}

/// Quotes any bytes as one word of the shell.
pub fn quoted(word: &OsStr) -> Vec<u8> {
    let between_quotes: Vec<_> = word.as_bytes().split(|byte| *byte == b'\'').collect();
    [b"'", between_quotes.join(br"'\''".as_slice()).as_slice(), b"'"].concat()
}

/// The outcome of [`query`].
pub enum Query {
    /// The program ended.
    Ended(Output),
    /// The program did not end in time, and was killed.
    Hung,
}

/// Runs a read-only program that may hang, and kills it after `limit`. Blocks the thread.
pub fn query(program: &str, args: &[&str], limit: Duration) -> Result<Query, Failure> {
    tracing::debug!("running {program} {}", args.join(" "));
    let mut command = std::process::Command::new(program);
    command.args(args).env("LC_ALL", "C").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| not_started(program, error))?;
    let group = Pid::from_raw(child.id().cast_signed());
    let (sender, receiver) = mpsc::channel();
    // The thread is not joined: a program that survives even SIGKILL (a read that hangs) is left behind with it.
    thread::spawn(move || sender.send(child.wait_with_output()));
    if let Ok(output) = receiver.recv_timeout(limit) {
        return Ok(Query::Ended(output.map_err(|error| not_started(program, error))?));
    }
    // The group may just have ended.
    let _ = killpg(group, Signal::SIGKILL);
    Ok(Query::Hung)
}

fn not_started(program: &str, error: io::Error) -> Failure {
    match error.kind() {
        ErrorKind::NotFound => Failure::new(Code::ToolMissing, format!("{program} is not installed")),
        _ => Failure::new(Code::ToolFailed, format!("{program} cannot be started")).because(error),
    }
}

/// The path of a program, searched in `PATH` as [`run`] does.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| access(file, AccessFlags::X_OK).is_ok() && file.metadata().is_ok_and(|about| about.is_file()))
}

/// The time limit of a program that reads a few blocks of a disk. EBS sets no timeout on NVMe: a read can hang for ever, and
/// its program, which then cannot be killed, is left behind.
pub const DISK_WATCHDOG: Duration = Duration::from_mins(1);

/// As [`run`], for a program that reads `disk`.
pub async fn run_on_disk(program: &str, args: &[&str], disk: &Path) -> Result<Output, Failure> {
    timeout(DISK_WATCHDOG, run(program, args, None)).await.unwrap_or_else(|_| {
        let text = format!("{program} has been reading {} for {} s", disk.display(), DISK_WATCHDOG.as_secs());
        Err(Failure::new(Code::DeviceUnreadable, text))
    })
}

/// As [`run`], but fails unless the program exits with 0.
pub async fn must(program: &str, args: &[&str], device: Option<&File>) -> Result<Output, Failure> {
    check_status(program, args, run(program, args, device).await?)
}

/// As [`must`], but kills the program and fails if it does not end within `limit`.
pub async fn must_within(program: &str, args: &[&str], limit: Duration) -> Result<Output, Failure> {
    let mut command = prepare(program, args, Stdio::null());
    command.kill_on_drop(true);
    let Ok(output) = timeout(limit, command.output()).await else {
        let text = format!("{program} {} has not ended within {} s", args.join(" "), limit.as_secs());
        return Err(Failure::new(Code::ToolFailed, text));
    };
    check_status(program, args, output.map_err(|error| not_started(program, error))?)
}

fn check_status(program: &str, args: &[&str], output: Output) -> Result<Output, Failure> {
    if output.status.success() {
        return Ok(output);
    }
    let text = format!("{program} {} ended with {}: {}", args.join(" "), output.status, last_lines(&output));
    Err(Failure::new(Code::ToolFailed, text))
}

/// All output of a program: stdout, then stderr.
pub fn printed(output: &Output) -> String {
    let bytes = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The last four lines that a program printed, joined to one.
pub fn last_lines(output: &Output) -> String {
    let text = printed(output);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(4)..];
    if last.is_empty() { "it printed nothing".to_owned() } else { last.join("; ") }
}
