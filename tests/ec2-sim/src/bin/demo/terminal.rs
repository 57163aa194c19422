//! What a terminal would show: commands as they are typed, and what they print.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

/// A command that has ended.
pub(crate) struct Ended {
    /// Its exit code; none where a signal has ended it.
    pub(crate) code: Option<i32>,
    /// What it has printed on its standard error.
    pub(crate) lines: Vec<String>,
}

/// Runs a command and passes on what it prints on its standard error as it comes, each line with the `name` before. One that lasts
/// longer than `most` is killed.
pub(crate) fn follow(name: &str, command: &mut Command, most: Duration) -> Result<Ended> {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let stderr = child.stderr.take().ok_or("the command has no standard error")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        BufReader::new(stderr).lines().map_while(std::io::Result::ok).try_for_each(|line| sender.send(line))
    });
    let deadline = Instant::now() + most;
    let mut lines = Vec::new();
    while let Ok(line) = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        println!("  {name} | {line}");
        lines.push(line);
    }
    if Instant::now() >= deadline {
        child.kill()?;
    }
    Ok(Ended { code: child.wait()?.code(), lines })
}

/// Shows the agent's command line as it is typed on a node, runs it, and returns what it prints.
pub(crate) fn type_in(arguments: &[&str], command: &mut Command) -> Result<String> {
    println!("  # node-agent {}", arguments.join(" "));
    let output = command.output()?;
    Ok(String::from_utf8([output.stdout, output.stderr].concat())?)
}

/// Shows what a command has printed.
pub(crate) fn show(text: &str) {
    text.lines().for_each(|line| println!("  {line}"));
    println!();
}

/// An exit code in words.
pub(crate) fn exit(code: Option<i32>) -> String {
    code.map_or_else(|| "by a signal".to_owned(), |code| code.to_string())
}
