//! Stops the agent right before a system call by which it changes something.
//!
//! Between two of these calls nothing changes but what others do, so "right before the next" is also "right after the one
//! before": a kill before each of them covers every state that the agent itself can leave behind.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::ptr::null_mut;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::Running;

/// Grows ext4 and XFS: `EXT4_IOC_RESIZE_FS` and `XFS_IOC_FSGROWFSDATA` of the kernel.
const GROW: [u64; 2] = [0x4008_6610, 0x4010_586e];

/// The agent never reads back what it publishes there, and a power cut removes it.
const RUNTIME: &str = " /run/node-agent";

/// Follows the agent, asking before each effect, told by name and number, whether to go on. Returns false once it was told
/// not to: the agent is then stopped right before it and killed. True where it came to its end before.
pub(crate) fn follow(running: &Running, mut go_on: impl FnMut(&str) -> bool) -> bool {
    follow_process(&running.child, |call, number| {
        let effect = call.effect()?;
        let number = number(&effect);
        Some(go_on(&format!("{effect} ({number})")))
    })
}

/// Runs a program, which `sh` becomes when it is told to, and kills it right before the write to a disk with this number, or
/// halfway in it: the first half of its sectors is on the disk then. False if it came to its end before.
pub(crate) fn kill_before_write(program: &Path, arguments: &[&str], number: usize, halfway: bool) -> bool {
    let script = "read -r go; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut go = child.stdin.take();
    let mut seen = 0;
    let ended = follow_with(
        &child,
        |call, _| {
            let (bytes, offset) = call.write()?;
            seen += 1;
            if seen <= number {
                return Some(true);
            }
            if halfway {
                let sectors = bytes.len() / 512 / 2;
                // The program's own descriptor may want aligned memory.
                let path = fs::read_link(format!("/proc/{}/fd/{}", call.thread, call.arguments[0])).unwrap();
                let disk = File::options().write(true).open(path).unwrap();
                disk.write_all_at(&bytes[..sectors * 512], offset).unwrap();
                disk.sync_all().unwrap();
            }
            Some(false)
        },
        || go.take().unwrap().write_all(b"\n").unwrap(),
    );
    child.wait().unwrap();
    !ended
}

fn follow_process(child: &Child, go_on: impl FnMut(&Call, &mut dyn FnMut(&str) -> usize) -> Option<bool>) -> bool {
    follow_with(child, go_on, || {})
}

/// Follows a program, asking before each system call whether to go on; none where the call is nothing to ask about. `attached`
/// is called when nothing is missed any more.
fn follow_with(
    child: &Child,
    mut go_on: impl FnMut(&Call, &mut dyn FnMut(&str) -> usize) -> Option<bool>,
    attached: impl FnOnce(),
) -> bool {
    let leader = libc::pid_t::try_from(child.id()).unwrap();
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
    request(libc::PTRACE_SEIZE, leader, usize::try_from(options).unwrap()).expect("a tracer; it needs root");
    request(libc::PTRACE_INTERRUPT, leader, 0).unwrap();
    seize_threads(leader, options);
    attached();
    let mut seen = BTreeMap::new();
    let mut number = |effect: &str| -> usize {
        let number = seen.entry(effect.to_owned()).or_insert(0);
        *number += 1;
        *number
    };
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
            if entered(thread).and_then(|call| go_on(&call, &mut number)) == Some(false) {
                kill(Pid::from_raw(leader), Signal::SIGKILL).unwrap();
                killed = true;
                continue;
            }
        } else if status >> 16 == 0 {
            deliver = usize::try_from(signal).unwrap();
        }
        // A thread that was killed meanwhile is gone: its end is told next.
        let _ = request(libc::PTRACE_SYSCALL, thread, deliver);
    }
}

/// Seizes the threads that are there already: one of them may make a later effect. Those that a seized thread makes are seized
/// by the kernel.
fn seize_threads(leader: libc::pid_t, options: libc::c_int) {
    loop {
        let tasks = fs::read_dir(format!("/proc/{leader}/task")).into_iter().flatten().flatten();
        let threads = tasks.filter_map(|task| task.file_name().to_str()?.parse::<libc::pid_t>().ok());
        let options = usize::try_from(options).unwrap();
        // Refused for one that is seized already, and for one that has ended.
        let new: Vec<_> = threads.filter(|thread| request(libc::PTRACE_SEIZE, *thread, options).is_ok()).collect();
        if new.is_empty() {
            return;
        }
        for thread in new {
            let _ = request(libc::PTRACE_INTERRUPT, thread, 0);
        }
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
            libc::SYS_umount2 => format!("unmount {}", path(0)),
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

    /// The bytes that it would write to a disk, and where; none of a call that is told to write zeros.
    fn write(&self) -> Option<(Vec<u8>, u64)> {
        if !self.file(0).starts_with("/dev/loop") {
            return None;
        }
        match self.number {
            libc::SYS_pwrite64 => {
                let mut bytes = vec![0; usize::try_from(self.arguments[2]).unwrap()];
                assert_eq!(self.read(self.arguments[1], &mut bytes), bytes.len());
                Some((bytes, self.arguments[3]))
            }
            libc::SYS_fallocate => Some((Vec::new(), self.arguments[2])),
            libc::SYS_write => panic!("a mkfs that writes without saying where"),
            _ => None,
        }
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
