//! Other processes, as /proc tells of them.

use std::fmt::Display;
use std::fs;

/// The file of the program that asks.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// The file of a process's program.
pub fn program(pid: i32) -> String {
    format!("/proc/{pid}/exe")
}

/// The fields of a process's stat from the third one on, its state (proc(5)); none where the process is gone.
pub(super) fn stat(pid: impl Display) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.trim_start().to_owned())
}

/// The state of a process, as ps(1) shows it; none where it is gone.
pub fn state(pid: i32) -> Option<char> {
    stat(pid)?.chars().next()
}

/// Whether a process of this state was stopped by a signal or a debugger.
pub fn is_stopped(state: char) -> bool {
    matches!(state, 'T' | 't')
}

/// Whether the process is a resident service of this program: `node-agent run`, without `--once`. One that only waits to be
/// reaped has no command line any more.
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
    fn a_service_is_told_by_its_command_line() {
        assert!(is_command_of_a_service(b"/usr/bin/node-agent\0run\0--config\0imds\0"));
        for other in [&b""[..], b"node-agent\0run\0--once\0", b"node-agent\0retry\0", b"/bin/sh\0run\0"] {
            assert!(!is_command_of_a_service(other), "{other:?}");
        }
    }

    #[test]
    fn this_process_runs() {
        let own = std::process::id().cast_signed();
        assert!(state(own).is_some_and(|state| !is_stopped(state)));
        assert_eq!(state(i32::MAX), None);
    }
}
