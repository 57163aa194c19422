//! The namespaces of one test. The test starts itself again as a child of the first process of a PID namespace, with mounts and a
//! network of its own. When that process ends, also because the test was killed, the kernel ends all the others, and with them go
//! the mounts, the loop devices, the bridge and the nodes' namespaces.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// Set for the process in the room.
const IN_ROOM: &str = "NODE_AGENT_TEST_IN_ROOM";
/// All that the test writes lies below; a tmpfs.
pub const DIR: &str = "/tmp";
/// The agent, in there.
pub const AGENT: &str = "/tmp/node-agent";

/// Runs the body of the calling test in namespaces of its own.
pub fn in_room(body: impl FnOnce()) {
    if env::var_os(IN_ROOM).is_some() {
        return body();
    }
    let current = thread::current();
    let test = current.name().filter(|name| *name != "main").map(str::to_owned);
    let test = test.or_else(|| env::args().skip_while(|argument| argument != "--exact").nth(1)).unwrap();
    // The shell is the first process: it collects the orphans, as an init does. /run is hidden because `ip netns` keeps its
    // namespaces there.
    let start =
        "mount -t tmpfs tmpfs /run; touch /run/agent; mount --bind \"$AGENT\" /run/agent; mount -t tmpfs tmpfs /tmp
                 cp /run/agent /tmp/node-agent; ip link set lo up; \"$@\"; exit $?";
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
            "bash",
            "-c",
            start,
            "init",
        ])
        .arg(env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture", "--include-ignored"])
        .env(IN_ROOM, "1")
        .env("AGENT", agent())
        .stdin(Stdio::null());
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe.
    unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
    let status = command.status().expect("unshare, of Debian's package util-linux");
    assert!(status.success(), "{test} in its namespaces: {status}");
}

/// The agent that `NODE_AGENT` names, or else the one that was built with this test.
fn agent() -> PathBuf {
    let beside = env::current_exe().unwrap().ancestors().nth(2).unwrap().join("node-agent");
    let built = if beside.exists() { beside } else { Path::new(env!("CARGO_BIN_EXE_node-agent")).to_owned() };
    env::var_os("NODE_AGENT").map_or(built, PathBuf::from)
}

/// What a shell command prints; it must succeed.
pub fn shell(script: &str) -> String {
    let output = Command::new("bash").args(["-ec", script]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success(), "{script}: {said} {}", String::from_utf8_lossy(&output.stderr));
    said
}
