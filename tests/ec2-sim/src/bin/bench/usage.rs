//! What a process uses: processor time and memory.

use std::fs;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::time::ClockId;
use nix::unistd::Pid;

use crate::Result;

/// What a process used until its end.
pub(crate) struct Usage {
    pub(crate) succeeded: bool,
    /// Its own processor time.
    pub(crate) own: Duration,
    /// Its own and its children's.
    pub(crate) all: Duration,
    /// The most memory that it or one of its children had resident, in MiB.
    pub(crate) peak_largest: f64,
}

impl Usage {
    /// Waits for the end of a child. Its own processor time is read while it is a zombie; wait4(2) adds its children's.
    pub(crate) fn wait_for(pid: Pid) -> Result<Self> {
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
        let own = processor_time(pid)?;
        let mut status = 0;
        // SAFETY: rusage is a plain C struct of numbers, for which zero is a value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live values of the right types for the length of the call.
        let waited = unsafe { libc::wait4(pid.as_raw(), &raw mut status, 0, &raw mut usage) };
        Errno::result(waited)?;
        let time = |time: libc::timeval| -> Result<Duration> {
            Ok(Duration::from_secs(time.tv_sec.try_into()?) + Duration::from_micros(time.tv_usec.try_into()?))
        };
        Ok(Self {
            succeeded: status == 0,
            own,
            all: time(usage.ru_utime)? + time(usage.ru_stime)?,
            peak_largest: mebibytes(&usage.ru_maxrss.to_string())?,
        })
    }
}

/// The processor time of a process alone, so far.
pub(crate) fn processor_time(pid: Pid) -> Result<Duration> {
    Ok(ClockId::pid_cpu_clock_id(pid)?.now()?.into())
}

/// A line of proc(5)'s status, in MiB.
pub(crate) fn memory(pid: Pid, what: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)).ok_or("the process has ended")?;
    mebibytes(line.trim().trim_end_matches(" kB"))
}

fn mebibytes(kibibytes: &str) -> Result<f64> {
    let kibibytes: u32 = kibibytes.parse().map_err(io::Error::other)?;
    Ok(f64::from(kibibytes) / 1024.0)
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
