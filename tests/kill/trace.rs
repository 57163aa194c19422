//! Stops the agent right before a system call by which it changes something.
//!
//! Between two of these calls nothing changes but what others do, so "right before the next" is also "right after the one
//! before": a kill before each of them covers every state that the agent itself can leave behind.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::ptr::null_mut;

use nix::errno::Errno;
use nix::libc;

use crate::support::Running;

/// Grows ext4 and XFS (FACTS of the kernel: `EXT4_IOC_RESIZE_FS`, `XFS_IOC_FSGROWFSDATA`).
const GROW: [u64; 2] = [0x4008_6610, 0x4010_586e];

/// What the agent publishes there it never reads back, and a power cut takes it away.
const RUNTIME: &str = " /run/node-agent";

/// Follows the agent, asking before each effect, told by name and number, whether to go on. Returns false once it was told
/// not to: the agent is then stopped right before it and killed. True where it came to its end before.
pub(crate) fn follow(running: &Running, mut go_on: impl FnMut(&str) -> bool) -> bool {
    let leader = libc::pid_t::try_from(running.child.id()).unwrap();
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
    request(libc::PTRACE_SEIZE, leader, usize::try_from(options).unwrap()).expect("a tracer; it needs root");
    request(libc::PTRACE_INTERRUPT, leader, 0).unwrap();
    let mut seen = BTreeMap::new();
    let mut killed = false;
    loop {
        let (thread, ended) = next();
        if ended && thread == leader {
            // Left for its parent to reap.
            return !killed;
        }
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let reaped = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        assert_eq!(reaped, thread);
        if ended || killed {
            continue;
        }
        let signal = libc::WSTOPSIG(status);
        let mut deliver = 0;
        if signal == libc::SIGTRAP | 0x80 {
            if let Some(effect) = entered(thread).and_then(|call| call.effect()) {
                let number = seen.entry(effect.clone()).or_insert(0);
                *number += 1;
                if !go_on(&format!("{effect} ({number})")) {
                    running.signal(nix::sys::signal::Signal::SIGKILL);
                    killed = true;
                    continue;
                }
            }
        } else if status >> 16 == 0 {
            deliver = usize::try_from(signal).unwrap();
        }
        // A thread that was killed meanwhile is gone: its end is told next.
        let _ = request(libc::PTRACE_SYSCALL, thread, deliver);
    }
}

/// Waits for the next thing that happens to a thread of the agent, and leaves it to be waited for; and whether it is its end.
fn next() -> (libc::pid_t, bool) {
    let flags = libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT | libc::__WALL | libc::__WNOTHREAD;
    loop {
        // SAFETY: all zeros is a siginfo_t, and it outlives the call.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        match Errno::result(unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) }) {
            Err(Errno::EINTR) => {}
            result => {
                result.expect("something to wait for");
                // SAFETY: after a waitid that succeeded, si_pid is there.
                let thread = unsafe { info.si_pid() };
                let ended = [libc::CLD_EXITED, libc::CLD_KILLED, libc::CLD_DUMPED].contains(&info.si_code);
                return (thread, ended);
            }
        }
    }
}

fn request(what: libc::c_uint, thread: libc::pid_t, data: usize) -> nix::Result<()> {
    // SAFETY: these requests take numbers, no memory of ours.
    Errno::result(unsafe { libc::ptrace(what, thread, null_mut::<libc::c_void>(), data as *mut libc::c_void) })
        .map(drop)
}

/// A system call that a thread is about to enter.
struct Call {
    thread: libc::pid_t,
    number: libc::c_long,
    arguments: [u64; 6],
}

fn entered(thread: libc::pid_t) -> Option<Call> {
    // SAFETY: all zeros is a ptrace_syscall_info.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of_val(&info) as *mut libc::c_void;
    // SAFETY: the kernel writes at most `size` bytes, and `info` outlives the call.
    let got = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread, size, &raw mut info) };
    if got <= 0 || info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // SAFETY: at an entry, this is the part that was written.
    let entry = unsafe { info.u.entry };
    Some(Call { thread, number: entry.nr.try_into().ok()?, arguments: entry.args })
}

impl Call {
    /// What it would change, in words; none where it changes nothing that outlives the agent.
    fn effect(&self) -> Option<String> {
        self.any_effect().filter(|effect| !effect.contains(RUNTIME))
    }

    fn any_effect(&self) -> Option<String> {
        let path = |argument: usize| self.text(argument);
        Some(match self.number {
            #[cfg(target_arch = "x86_64")]
            libc::SYS_rename => format!("rename to {}", path(1)),
            libc::SYS_renameat | libc::SYS_renameat2 => format!("rename to {}", self.below(2, 3)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mkdir => format!("mkdir {}", path(0)),
            libc::SYS_mkdirat => format!("mkdir {}", self.below(0, 1)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink | libc::SYS_rmdir => format!("unlink {}", path(0)),
            libc::SYS_unlinkat => format!("unlink {}", self.below(0, 1)),
            libc::SYS_mount => format!("mount {}", path(1)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_lchown | libc::SYS_chown => format!("chown {}", path(0)),
            libc::SYS_fchownat => format!("chown {}", self.below(0, 1)),
            libc::SYS_write | libc::SYS_pwrite64 if self.file(0).starts_with("/dev/loop") => {
                "write to the device".to_owned()
            }
            libc::SYS_fsync if self.file(0).starts_with("/dev") => "flush the device".to_owned(),
            libc::SYS_ioctl if GROW.contains(&self.arguments[1]) => "grow".to_owned(),
            libc::SYS_sendto | libc::SYS_sendmsg | libc::SYS_writev if self.file(0).starts_with("socket") => {
                "send a request".to_owned()
            }
            libc::SYS_write if self.file(0).starts_with("pipe") => "tell a child to go".to_owned(),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_fork | libc::SYS_vfork => "start a program".to_owned(),
            libc::SYS_clone if is_program(self.arguments[0]) => "start a program".to_owned(),
            libc::SYS_clone3 if is_program(self.memory(self.arguments[0])) => "start a program".to_owned(),
            libc::SYS_kill => "signal a process".to_owned(),
            _ => return None,
        })
    }

    /// The path that one argument names, below the folder that another one, a descriptor, leads to.
    fn below(&self, folder: usize, argument: usize) -> String {
        let name = self.text(argument);
        if name.starts_with('/') { name } else { format!("{}/{name}", self.file(folder)) }
    }

    /// What an argument, a descriptor, leads to.
    fn file(&self, argument: usize) -> String {
        let link = PathBuf::from(format!("/proc/{}/fd/{}", self.thread, self.arguments[argument]));
        fs::read_link(link).map(|target| target.display().to_string()).unwrap_or_default()
    }

    fn read(&self, address: u64, buffer: &mut [u8]) -> usize {
        let memory = File::open(format!("/proc/{}/mem", self.thread));
        memory.and_then(|memory| memory.read_at(buffer, address)).unwrap_or_default()
    }

    fn memory(&self, address: u64) -> u64 {
        let mut word = [0; 8];
        self.read(address, &mut word);
        u64::from_ne_bytes(word)
    }

    fn text(&self, argument: usize) -> String {
        let mut bytes = [0; 256];
        let got = self.read(self.arguments[argument], &mut bytes);
        let text = bytes[..got].split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }
}

/// Whether these flags of clone(2) make a process rather than a thread.
fn is_program(flags: u64) -> bool {
    flags & u64::try_from(libc::CLONE_THREAD).unwrap() == 0
}
