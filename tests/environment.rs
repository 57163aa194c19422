//! The caller's environment (umask, path, limits, signals, open files) changes nothing on the node.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Instance, PROGRAM, World, config_for, wait_until};

const SHOW: &str = r#"configure_cluster_node() {
  {
    echo "umask $(umask)"
    echo "PATH $PATH"
    echo "HOME $HOME"
    echo "locale ${LANG-} ${LC_ALL-} ${LC_CTYPE-} ${LANGUAGE-}"
    echo "session ${SSH_CONNECTION-}${SUDO_USER-}${XDG_RUNTIME_DIR-}${TMPDIR-}${LD_LIBRARY_PATH-}"
    echo "kept $KEPT"
    echo "user $USER"
    echo "limits $(ulimit -S -f) $(ulimit -S -t) $(ulimit -S -v)"
    echo "files $(( $(ulimit -S -n) >= 1024 ))"
    # 32 and 33 are the C library's own.
    echo "signals $(awk '/^Sig(Blk|Ign)/ { print substr($2, 9) }' /proc/self/status | sed 's/^8/0/' | xargs)"
    echo "oom $(cat /proc/$$/oom_score_adj)"
    echo "open $(for fd in /proc/$$/fd/*; do readlink "$fd"; done | grep -c /tmp/held-open)"
  } > /tmp/shown
}
wait_for_healthy_cluster() { :; }
"#;

/// What the hook must see, whatever the caller had.
const SEEN: &str = "umask 0022\nPATH /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nHOME /root\n\
                    locale C.UTF-8   \nsession \nkept 1\nuser root\nlimits unlimited unlimited unlimited\nfiles 1\n\
                    signals 00000000 00000000\noom 0\nopen 0\n";

fn node(world: &World) -> Instance {
    let (node, volume) = world.node();
    node.hooks(SHOW);
    node.configure(config_for(&volume).replace("/etc/kafka/server.properties", "/etc/made/by/files/server.properties"));
    node
}

/// The agent's command, run from a shell after this script has changed its environment.
fn spoilt(node: &Instance, spoil: &str, exec: &str) -> Command {
    let agent = node.agent(&[]);
    let mut shell = node.machine().command("bash");
    shell.args(["-c", &format!("{spoil}\nexec {exec} {PROGRAM} run --once")]).env_clear();
    shell.envs(agent.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("KEPT", "1");
    shell
}

#[test]
fn nothing_of_the_callers_surroundings_reaches_files_and_hooks() {
    let world = World::new();
    let node = node(&world);

    let mut command = spoilt(
        &node,
        "umask 077\nulimit -S -n 64\nulimit -S -f 100000\nulimit -S -t 600\nulimit -S -v 4000000\ntrap '' HUP INT QUIT USR1\n\
         exec 9>/tmp/held-open 17</tmp/held-open\necho 500 > /proc/self/oom_score_adj\n\
         export PATH=/usr/bin:/bin HOME=/nonexistent LANG=de_DE.UTF-8 LC_ALL=tr_TR LC_CTYPE=x LANGUAGE=de TMPDIR=/nonexistent\n\
         export SSH_CONNECTION=x SUDO_USER=joe XDG_RUNTIME_DIR=/run/user/1000 LD_LIBRARY_PATH=/nonexistent USER=joe\n\
         cd /etc",
        "",
    );

    let output = command.output().unwrap();

    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert_eq!(node.read("/tmp/shown"), SEEN, "{log}");
    let modes = "stat -c %a /etc/made /etc/made/by /etc/made/by/files /etc/made/by/files/server.properties /mydata";
    assert_eq!(node.shell(modes), "755\n755\n755\n644\n755", "{log}");
}

#[test]
fn a_blocked_stop_signal_still_stops_the_agent() {
    let world = World::new();
    let node = node(&world);
    node.hooks("configure_cluster_node() { touch /tmp/here; sleep 600; }\nwait_for_healthy_cluster() { :; }\n");
    let mut command = spoilt(&node, "", "env --block-signal=TERM --ignore-signal=INT");
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    wait_until(
        || node.machine().command("test").args(["-e", "/tmp/here"]).status().unwrap().success(),
        || "the hook never ran".to_owned(),
    );

    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();

    assert_eq!(child.wait().unwrap().code(), Some(3));
}
