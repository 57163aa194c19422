//! Finds and ends the processes of a command.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use crate::host::{group, process};

/// The variable that marks the processes of a command.
pub(super) const MARK: &str = "NODE_AGENT_COMMAND";

/// The time between two looks at the processes that were told to end.
pub(super) const POLL: Duration = Duration::from_millis(20);

/// The processes of a command. Dropped before they are ended, they are killed.
pub(super) struct Processes {
    group: i32,
    /// When the group's leader started: a later group of the same number is another one.
    started: u64,
    /// The entry of their environment.
    mark: String,
    are_ended: bool,
}

impl Processes {
    /// Those of a command whose shell, just started, leads the group `group`, and has the variable [`MARK`] with this value.
    pub(super) fn of(group: i32, value: &str) -> Self {
        let started = group::start_time(group).unwrap_or_default();
        Processes { group, started, mark: format!("{MARK}={value}"), are_ended: false }
    }

    /// Ends them: SIGTERM, and SIGKILL after [`group::GRACE`]. One that even SIGKILL does not end (a read that hangs) is left
    /// behind after the same time again.
    pub(super) async fn end(&mut self) {
        signal(&self.left(), Signal::SIGTERM);
        let kill_at = Instant::now() + group::GRACE;
        loop {
            let left = self.left();
            if left.is_empty() {
                break;
            }
            if Instant::now() >= kill_at + group::GRACE {
                tracing::warn!("these processes of the command could not be ended: {left:?}");
                break;
            }
            if Instant::now() >= kill_at {
                signal(&left, Signal::SIGKILL);
            }
            sleep(POLL).await;
        }
        self.are_ended = true;
    }

    /// Those that have not ended. A zombie has, even if its parent never learns of it.
    fn left(&self) -> Vec<i32> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let has_group = group::survives(self.group, self.started);
        let own = std::process::id().cast_signed();
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| *pid != own && self.include(*pid, has_group)).collect()
    }

    fn include(&self, pid: i32, has_group: bool) -> bool {
        let Some(stat) = process::stat(pid) else { return false };
        let mut fields = stat.split_ascii_whitespace();
        let (state, group) = (fields.next(), fields.nth(1).and_then(|group| group.parse::<i32>().ok()));
        if matches!(state, Some("Z" | "X")) {
            return false;
        }
        let is_marked = || {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == self.mark.as_bytes())
        };
        has_group && group == Some(self.group) || is_marked()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        let mut killed = Vec::new();
        // A process may start another one before the signal arrives; each look finds those that are new.
        while !self.are_ended {
            let mut new = self.left();
            new.retain(|pid| !killed.contains(pid));
            signal(&new, Signal::SIGKILL);
            self.are_ended = new.is_empty();
            killed.extend(new);
        }
    }
}

fn signal(pids: &[i32], signal: Signal) {
    for pid in pids {
        // Fails if the process has just ended, or belongs to another user.
        let _ = kill(Pid::from_raw(*pid), signal);
    }
}
