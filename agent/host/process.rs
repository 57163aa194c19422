//! Processes in /proc.

use std::fmt::Display;
use std::fs;

/// The running program's own file.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// The program file of a process.
pub fn program(pid: i32) -> String {
    format!("/proc/{pid}/exe")
}

/// The fields of a process's stat from the third one, its state (proc(5)); none if the process is gone.
pub(super) fn stat(pid: impl Display) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.trim_start().to_owned())
}

/// The state of a process, as ps(1) shows it; none if the process is gone.
pub fn state(pid: i32) -> Option<char> {
    stat(pid)?.chars().next()
}

/// Whether this state means stopped by a signal or a debugger.
pub fn is_stopped(state: char) -> bool {
    matches!(state, 'T' | 't')
}

/// Whether the process is this program's resident service: `node-agent run` without `--once`. A zombie has no command line.
pub fn is_service(pid: i32) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    is_command_of_a_service(&line)
}

fn is_command_of_a_service(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    let mut words = words.peekable();
    program.ends_with(b"node-agent") && words.peek() == Some(&&b"run"[..]) && words.all(|word| word != b"--once")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_recognised_by_its_command_line() {
        assert!(is_command_of_a_service(b"/usr/bin/node-agent\0run\0--config\0imds\0"));
        for other in [&b""[..], b"node-agent\0run\0--once\0", b"node-agent\0retry\0", b"/bin/sh\0run\0"] {
            assert!(!is_command_of_a_service(other), "{other:?}");
        }
    }

    #[test]
    fn this_process_is_not_stopped() {
        let own = std::process::id().cast_signed();
        assert!(state(own).is_some_and(|state| !is_stopped(state)));
        assert_eq!(state(i32::MAX), None);
    }
}
