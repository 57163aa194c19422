//! Other programs, run to their end.

use std::fs::File;
use std::io::ErrorKind;
use std::process::{Output, Stdio};

use tokio::process::Command;

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
    tracing::debug!("running {program} {}", args.join(" "));
    let output = Command::new(program).args(args).env("LC_ALL", "C").stdin(stdin).output().await;
    output.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failure::new(Code::ToolMissing, format!("{program} is not installed")),
        _ => Failure::new(Code::ToolFailed, format!("{program} cannot be started")).because(error),
    })
}

/// As [`run`], and the program must exit with 0.
pub async fn must(program: &str, args: &[&str], device: Option<&File>) -> Result<Output, Failure> {
    let output = run(program, args, device).await?;
    if output.status.success() {
        return Ok(output);
    }
    Err(Failure::new(
        Code::ToolFailed,
        format!("{program} {} ended with {}: {}", args.join(" "), output.status, said(&output)),
    ))
}

/// The last of what a program printed, on one line.
pub fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(4)..];
    if last.is_empty() { "it printed nothing".to_owned() } else { last.join("; ") }
}
