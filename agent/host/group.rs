//! Process groups: everything that a hook started, ended together.

use std::fs;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgrp};
use tokio::time::{Instant, sleep};

use super::process;

/// The time between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);

/// A process's start in clock ticks since boot (proc(5), field 22 of stat); none if the process is gone.
pub fn start_time(pid: i32) -> Option<u64> {
    process::stat(pid)?.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Whether the number can be a hook's group. To kill(2) 0 means the caller's group, 1 every process, and a negative number
/// another group; none of these, nor the agent's own group, is ever signalled.
pub fn may_be_signalled(group: i32) -> bool {
    group > 1 && group != getpgrp().as_raw()
}

/// Whether a group has members other than zombies: a zombie that is never reaped would keep the group for ever.
fn is_alive(group: i32) -> bool {
    if killpg(Pid::from_raw(group), None) == Err(Errno::ESRCH) {
        return false;
    }
    let Ok(entries) = fs::read_dir("/proc") else { return true };
    entries.filter_map(Result::ok).filter_map(|entry| process::stat(entry.file_name().display())).any(|stat| {
        let mut fields = stat.split_ascii_whitespace();
        let (state, member_of) = (fields.next(), fields.nth(1).and_then(|group| group.parse::<i32>().ok()));
        member_of == Some(group) && !matches!(state, Some("Z" | "X"))
    })
}

/// Ends a process group: SIGTERM, and SIGKILL after [`GRACE`].
pub async fn end(group: i32) {
    if !may_be_signalled(group) {
        return;
    }
    let pid = Pid::from_raw(group);
    // Fails if the group is already gone.
    let _ = killpg(pid, Signal::SIGTERM);
    let kill_at = Instant::now() + GRACE;
    while is_alive(group) {
        if Instant::now() >= kill_at {
            let _ = killpg(pid, Signal::SIGKILL);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Whether the group whose leader started at `started` still has members. The kernel does not reuse a group's id while the
/// group has members, so a group without its leader is the same one.
pub fn survives(group: i32, started: u64) -> bool {
    if !may_be_signalled(group) {
        return false;
    }
    match start_time(group) {
        Some(now) if now != started => false,
        _ => is_alive(group),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_stand_for_other_processes_are_no_group_of_a_hook() {
        let own = getpgrp().as_raw();
        for group in [i32::MIN, -own, -1, 0, 1, own] {
            assert!(!may_be_signalled(group), "{group}");
            // With the start time of a living process and without.
            for started in [0, start_time(group).unwrap_or(1)] {
                assert!(!survives(group, started), "{group} {started}");
            }
        }
        assert!(may_be_signalled(i32::MAX));
    }
}
