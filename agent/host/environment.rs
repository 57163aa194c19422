//! The surroundings that a process inherits, set to the same values for all: a node comes up alike when the agent is started by
//! hand, by user data or by systemd.

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

/// Where programs are, for the agent and for the hooks: root's usual path.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Root's home.
const HOME: &str = "/root";

/// What systemd gives a service that asks for nothing, for the soft limit of open files.
const OPEN_FILES: u64 = 1024;

/// Variables of a login session, of sudo and of the dynamic linker, which are not for what runs on the node. All that begins
/// so goes.
const OF_A_SESSION: [&str; 8] = ["SSH_", "SUDO_", "XDG_", "LD_", "TMPDIR", "DISPLAY", "MAIL", "OLDPWD"];

/// Variables that tell of a language, and bash's own: all that begins so is gone for the hooks.
const NOT_FOR_HOOKS: [&str; 3] = ["LC_", "LANGUAGE", "BASH"];

/// Other variables that bash acts on.
const OF_BASH: [&str; 10] = [
    "ENV",
    "SHELLOPTS",
    "POSIXLY_CORRECT",
    "POSIX_PEDANTIC",
    "CDPATH",
    "GLOBIGNORE",
    "EXECIGNORE",
    "IFS",
    "PS4",
    "TMOUT",
];

/// Sets what this process has inherited: umask, path, home, open files, signals and, where it is no service of systemd's, whose
/// unit says them, resource limits and the OOM score. Called first thing, before there is a second thread.
pub fn settle() {
    umask(Mode::from_bits_truncate(0o022));
    variables();
    keep_open_files();
    hear_signals();
    if !is_service() {
        raise_limits();
        // Without CAP_SYS_RESOURCE it cannot go below the lowest value it ever had: then it stays.
        let _ = fs::write("/proc/self/oom_score_adj", "0");
    }
}

/// The environment of the user's functions, on top of this process's own: bash acts on some variables by itself, and a
/// caller's options, functions and files to be read first (`BASH_ENV`) are not for the hook.
pub fn of_hooks(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if begins_with_one_of(&name, &NOT_FOR_HOOKS) || OF_BASH.iter().any(|of_bash| name == *of_bash) {
            command.env_remove(name);
        }
    }
    command.env("LANG", "C.UTF-8");
}

fn variables() {
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

/// What is open already is not for programs that are started: a database that a hook starts would hold it for years.
fn keep_open_files() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    for number in numbers.filter(|number| *number > libc::STDERR_FILENO) {
        // SAFETY: a number that is not open any more only makes fcntl(2) fail.
        let file = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = fcntl(file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    }
}

/// Nothing is blocked, and nothing ignored but SIGPIPE: programs inherit both, and a blocked SIGTERM would not stop the agent.
fn hear_signals() {
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    for number in Signal::iterator().filter(|number| *number != Signal::SIGPIPE) {
        // SAFETY: the default action is no function. SIGKILL and SIGSTOP fail, and stay as they are.
        let _ = unsafe { signal(number, SigHandler::SigDfl) };
    }
}

/// systemd starts a service itself and gives it an id.
fn is_service() -> bool {
    getppid().as_raw() == 1 && env::var_os("INVOCATION_ID").is_some()
}

/// The soft limits of a shell end at the hard ones, which only a capability raises.
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
