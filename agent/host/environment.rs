//! Sets everything that a process inherits to fixed values, so that the agent works the same whether it is started by hand, by
//! user data or by systemd.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{BorrowedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::unistd::getppid;
use tokio::process::Command;

/// `PATH` for the agent and the hooks: root's usual one.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const HOME: &str = "/root";

/// The soft limit of open files that systemd gives a service by default.
const OPEN_FILES: u64 = 1024;

/// Prefixes of variables of a login session, of sudo and of the dynamic linker, which are removed.
const OF_A_SESSION: [&str; 8] = ["SSH_", "SUDO_", "XDG_", "LD_", "TMPDIR", "DISPLAY", "MAIL", "OLDPWD"];

/// Prefixes of variables that hooks do not inherit: language settings and bash's own.
const NOT_FOR_HOOKS: [&str; 3] = ["LC_", "LANGUAGE", "BASH"];

/// Other variables that bash acts on.
const OF_BASH: &str = "ENV SHELLOPTS POSIXLY_CORRECT POSIX_PEDANTIC CDPATH GLOBIGNORE EXECIGNORE IFS PS4 TMOUT";

/// Sets umask, variables, open files and signals and, unless a systemd unit sets them, resource limits and the OOM score.
/// `keeps_variables` leaves the variables as they are. Must be called before a second thread is started.
pub fn normalize(keeps_variables: bool) {
    umask(Mode::from_bits_truncate(0o022));
    if !keeps_variables {
        set_variables();
    }
    close_files_on_exec();
    reset_signals();
    if !is_service() {
        raise_limits();
        // Without CAP_SYS_RESOURCE the score cannot go below the lowest value it ever had; it then stays.
        let _ = fs::write("/proc/self/oom_score_adj", "0");
    }
}

/// Removes variables that change how bash runs a hook: a caller's options, functions and startup files (`BASH_ENV`).
pub fn of_hooks(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if begins_with_one_of(&name, &NOT_FOR_HOOKS) || OF_BASH.split(' ').any(|of_bash| name == of_bash) {
            command.env_remove(name);
        }
    }
    command.env("LANG", "C.UTF-8");
}

fn set_variables() {
    let set = [("PATH", PATH), ("HOME", HOME), ("USER", "root"), ("LOGNAME", "root"), ("SHELL", "/bin/bash")];
    let gone: Vec<_> =
        env::vars_os().map(|(name, _)| name).filter(|name| begins_with_one_of(name, &OF_A_SESSION)).collect();
    // SAFETY: no other thread reads or writes the environment, because there is none yet.
    unsafe {
        for name in gone {
            env::remove_var(name);
        }
        for (name, value) in set {
            env::set_var(name, value);
        }
    }
}

fn begins_with_one_of(name: &OsStr, beginnings: &[&str]) -> bool {
    beginnings.iter().any(|beginning| name.as_encoded_bytes().starts_with(beginning.as_bytes()))
}

/// Keeps child processes from inheriting open files: a database that a hook starts would hold them for years.
fn close_files_on_exec() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    for number in numbers.filter(|number| *number > libc::STDERR_FILENO) {
        // SAFETY: for a descriptor that is no longer open fcntl(2) only fails.
        let file = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = fcntl(file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    }
}

/// Unblocks all signals and ignores only SIGPIPE: children inherit both, and a blocked SIGTERM would not stop the agent.
fn reset_signals() {
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    for number in Signal::iterator().filter(|number| *number != Signal::SIGPIPE) {
        // SAFETY: the default action is not a function. For SIGKILL and SIGSTOP the call fails without effect.
        let _ = unsafe { signal(number, SigHandler::SigDfl) };
    }
}

/// A service's parent is systemd, which gives it an invocation id.
fn is_service() -> bool {
    getppid().as_raw() == 1 && env::var_os("INVOCATION_ID").is_some()
}

/// Raises soft limits to the hard ones, which only a privileged process can raise.
fn raise_limits() {
    let limits = [Resource::RLIMIT_FSIZE, Resource::RLIMIT_CPU, Resource::RLIMIT_AS, Resource::RLIMIT_DATA];
    for limit in limits {
        if let Ok((_, hard)) = getrlimit(limit) {
            let _ = setrlimit(limit, hard, hard);
        }
    }
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft.max(OPEN_FILES.min(hard)), hard);
    }
}
