//! Every program that the agent starts: most run to their end here, a hook and the readers of hooks and disks go on beside it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind};
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
use crate::failure::{Code, Failure};

/// Runs `program` to its end. With a `device`, the child gets it as its standard input, and with it the lock that is held
/// through it: should the agent die, the lock lasts as long as the child's work.
pub async fn run(program: &str, args: &[&str], device: Option<&File>) -> Result<Output, Failure> {
    let stdin = match device {
        Some(device) => device
            .try_clone()
            .map(Stdio::from)
            .map_err(|error| Failure::io(format_args!("handing the device to {program}"), error))?,
        None => Stdio::null(),
    };
    let output = prepare(program, args, stdin).output().await;
    output.map_err(|error| unstarted(program, error))
}

fn prepare(program: &str, args: &[&str], stdin: Stdio) -> Command {
    tracing::debug!("running {program} {}", args.join(" "));
    let mut command = Command::new(program);
    // A group of its own: Ctrl-C and a hangup of the terminal are for the agent; they must not cut mkfs or e2fsck off.
    command.args(args).env("LC_ALL", "C").stdin(stdin).process_group(0);
    command
}

/// This very program again, whatever has become of its file: for work that may hang or has to outlive the agent.
pub fn ourselves(command: &str) -> Command {
    let mut ourselves = Command::new(process::OWN_PROGRAM);
    // Ctrl-C and a hangup of the terminal are for the agent.
    ourselves.arg(command).process_group(0);
    ourselves
}

/// A shell for the user's functions, in a process group of its own.
pub fn bash(script: &OsStr) -> Command {
    let mut bash = Command::new("bash");
    environment::of_hooks(&mut bash);
    // The second is $0.
    bash.arg("-c").arg(script).arg("bash").current_dir("/").process_group(0);
    bash
}

/// What became of a question to a program.
#[derive(Debug)]
pub enum Asked {
    /// It ended.
    Ended(Output),
    /// It did not end in time, and was killed.
    Hung,
}

/// Asks a program that only answers and may hang; it is killed then. For threads that may block.
pub fn ask(program: &str, args: &[&str], limit: Duration) -> Result<Asked, Failure> {
    tracing::debug!("running {program} {}", args.join(" "));
    let mut command = std::process::Command::new(program);
    command.args(args).env("LC_ALL", "C").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| unstarted(program, error))?;
    let group = i32::try_from(child.id()).map(Pid::from_raw);
    let (sender, receiver) = mpsc::channel();
    // Nobody waits for this thread: a program that not even a kill ends is left behind with it.
    thread::spawn(move || sender.send(child.wait_with_output()));
    if let Ok(output) = receiver.recv_timeout(limit) {
        return Ok(Asked::Ended(output.map_err(|error| unstarted(program, error))?));
    }
    if let Ok(group) = group {
        // It may have ended just now.
        let _ = killpg(group, Signal::SIGKILL);
    }
    Ok(Asked::Hung)
}

fn unstarted(program: &str, error: io::Error) -> Failure {
    match error.kind() {
        ErrorKind::NotFound => Failure::new(Code::ToolMissing, format!("{program} is not installed")),
        _ => Failure::new(Code::ToolFailed, format!("{program} cannot be started")).because(error),
    }
}

/// Where a program is, looked for as [`run`] finds it.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| access(file, AccessFlags::X_OK).is_ok() && file.metadata().is_ok_and(|about| about.is_file()))
}

/// How long a program that only reads a few blocks of a disk may take. EBS sets no timeout on NVMe: a read can hang for ever,
/// and with it the program, which cannot be killed then and is left behind.
pub const DISK_WATCHDOG: Duration = Duration::from_mins(1);

/// As [`run`], for a program that reads `disk`.
pub async fn run_on_disk(program: &str, args: &[&str], disk: &Path) -> Result<Output, Failure> {
    timeout(DISK_WATCHDOG, run(program, args, None)).await.unwrap_or_else(|_| {
        let text = format!("{program} has been reading {} for {} s", disk.display(), DISK_WATCHDOG.as_secs());
        Err(Failure::new(Code::DeviceUnreadable, text))
    })
}

/// As [`run`], and the program must exit with 0.
pub async fn must(program: &str, args: &[&str], device: Option<&File>) -> Result<Output, Failure> {
    succeeded(program, args, run(program, args, device).await?)
}

/// As [`must`], for a program that may hang and may be killed: it must end within `limit`.
pub async fn must_within(program: &str, args: &[&str], limit: Duration) -> Result<Output, Failure> {
    let mut command = prepare(program, args, Stdio::null());
    command.kill_on_drop(true);
    let Ok(output) = timeout(limit, command.output()).await else {
        let text = format!("{program} {} has not ended within {} s", args.join(" "), limit.as_secs());
        return Err(Failure::new(Code::ToolFailed, text));
    };
    succeeded(program, args, output.map_err(|error| unstarted(program, error))?)
}

fn succeeded(program: &str, args: &[&str], output: Output) -> Result<Output, Failure> {
    if output.status.success() {
        return Ok(output);
    }
    Err(Failure::new(
        Code::ToolFailed,
        format!("{program} {} ended with {}: {}", args.join(" "), output.status, said(&output)),
    ))
}

/// All that a program printed.
pub fn printed(output: &Output) -> String {
    let bytes = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The last of what a program printed, on one line.
pub fn said(output: &Output) -> String {
    let text = printed(output);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(4)..];
    if last.is_empty() { "it printed nothing".to_owned() } else { last.join("; ") }
}
