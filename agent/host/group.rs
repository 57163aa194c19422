//! Process groups: what a hook started, ended as a whole.

use std::fs;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgrp};
use tokio::time::{Instant, sleep};

use super::process;

/// Between TERM and KILL.
pub const GRACE: Duration = Duration::from_secs(5);

/// When a process started, in clock ticks since boot (proc(5), field 22 of stat); none where it is gone.
pub fn start_time(pid: i32) -> Option<u64> {
    process::stat(pid)?.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Whether this can be the group of a hook, by its number alone. To kill(2) 0 and 1 stand for the caller's own group and for
/// every process, and a negative number for another one; none of these, nor the agent's own group, is ever signalled.
pub fn may_be_signalled(group: i32) -> bool {
    group > 1 && group != getpgrp().as_raw()
}

/// Whether a group has members that are more than zombies: one that nobody reaps would keep it for ever.
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

/// Ends a whole process group: TERM, and after [`GRACE`] KILL.
pub async fn end(group: i32) {
    if !may_be_signalled(group) {
        return;
    }
    let pid = Pid::from_raw(group);
    // A group that is gone already is what is wanted.
    let _ = killpg(pid, Signal::SIGTERM);
    let kill_at = Instant::now() + GRACE;
    while is_alive(group) {
        if Instant::now() >= kill_at {
            let _ = killpg(pid, Signal::SIGKILL);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Whether the group that was led by a process started at `started` still has members. A group's id is not given out again
/// while it has any, so without its leader it can be no other.
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
            // Whether the start time is that of a living process or not.
            for started in [0, start_time(group).unwrap_or(1)] {
                assert!(!survives(group, started), "{group} {started}");
            }
        }
        assert!(may_be_signalled(i32::MAX));
    }
}
