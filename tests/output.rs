//! What people and machines see of a run, and that the run goes on when its output is gone.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ec2_sim::{Fault, FaultRule};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};
use node_agent::log::{Kind, Line};
use serde_json::Value;
use support::{INSTALLED, Instance, PROGRAM, World, node_with, wait_until};

const RUN: [&str; 2] = ["run", "--once"];
const STUCK: Duration = Duration::from_mins(3);

/// A node with this configure hook, its configuration in place.
fn node(world: &World, configure: &str) -> Instance {
    let hooks = format!(
        "configure_cluster_node() {{
{configure}
}}
wait_for_healthy_cluster() {{ true; }}
"
    );
    node_with(world, &hooks)
}

/// The agent at work.
struct Agent(Child);

impl Agent {
    fn start(mut command: Command) -> Agent {
        Agent(command.spawn().unwrap())
    }

    /// Waits for its end.
    fn exit_code(mut self) -> Option<i32> {
        let began = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < STUCK, "the agent is stuck");
            thread::sleep(Duration::from_millis(5));
        }
        self.0.wait().unwrap().code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A terminal with the agent on it.
struct Terminal {
    seen: Arc<Mutex<Vec<u8>>>,
    frozen: Arc<AtomicBool>,
    hung_up: Arc<AtomicBool>,
    screen: JoinHandle<()>,
    keyboard: File,
    agent: Agent,
}

impl Terminal {
    /// Starts the command as the leader of the terminal's session.
    fn start(mut command: Command) -> Terminal {
        let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
        // The agent must not hold the other end of its own terminal.
        fcntl(&master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        fcntl(&slave, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
        let take_terminal = || {
            setsid()?;
            // SAFETY: the ioctl takes an integer; descriptor 0 is the terminal.
            match unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec only setsid(2) and ioctl(2) are called, which are async-signal-safe.
        unsafe { command.pre_exec(take_terminal) };
        // The command holds the terminal open, too, and goes here.
        let agent = Agent::start(command);
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let (frozen, hung_up) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let keyboard = File::from(master.try_clone().unwrap());
        let screen = thread::spawn({
            let (seen, frozen, hung_up) = (seen.clone(), frozen.clone(), hung_up.clone());
            move || show(master, &seen, &frozen, &hung_up)
        });
        Terminal { seen, frozen, hung_up, screen, keyboard, agent }
    }

    fn press(&self, keys: &str) {
        (&self.keyboard).write_all(keys.as_bytes()).unwrap();
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    fn wait_for(&self, text: &str) {
        wait_until(|| self.seen().contains(text), || format!("{text:?} never appeared in\n{}", self.seen()));
    }

    /// Whether it takes what is written.
    fn freeze(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Relaxed);
    }

    /// Signals the agent.
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.agent.0.id().try_into().unwrap()), signal).unwrap();
    }

    /// Takes the terminal away, and returns the agent.
    fn hang_up(self) -> Agent {
        self.hung_up.store(true, Ordering::Relaxed);
        drop(self.keyboard);
        self.screen.join().unwrap();
        self.agent
    }

    /// The exit code, and everything that appeared.
    fn end(self) -> (Option<i32>, String) {
        let code = self.agent.exit_code();
        self.screen.join().unwrap();
        let seen = self.seen.lock().unwrap();
        (code, String::from_utf8_lossy(&seen).into_owned())
    }
}

/// Reads what appears, unless it is frozen, until all others have closed the terminal (Linux answers EIO then) or it is hung up.
fn show(terminal: OwnedFd, seen: &Mutex<Vec<u8>>, frozen: &AtomicBool, hung_up: &AtomicBool) {
    let mut terminal = File::from(terminal);
    let mut buffer = [0; 4096];
    while !hung_up.load(Ordering::Relaxed) {
        let wanted = if frozen.load(Ordering::Relaxed) { PollFlags::empty() } else { PollFlags::POLLIN };
        let mut ready = [PollFd::new(terminal.as_fd(), wanted)];
        if poll(&mut ready, PollTimeout::from(20_u8)).unwrap() == 0 {
            continue;
        }
        let Ok(got @ 1..) = terminal.read(&mut buffer) else { return };
        seen.lock().unwrap().extend_from_slice(&buffer[..got]);
    }
}

/// The agent as on a login terminal of this type.
fn on_terminal(node: &Instance, term: &str, arguments: &[&str]) -> Command {
    let mut command = node.agent(arguments);
    command.env("TERM", term).env("LANG", "C.UTF-8");
    command
}

const OUTPUT: &str = "echo a word from the hook";

#[test]
fn json_is_one_line_an_object_with_the_documented_names() {
    let world = World::new();
    let node = node(&world, OUTPUT);

    let outcome = node.start_with(&["run", "--once", "--log-format", "json"]).end();

    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    let names = ["time", "level", "step", "volume", "kind", "attempt", "allowed_ms", "message"];
    for line in outcome.log.lines() {
        let object: BTreeMap<String, Value> = serde_json::from_str(line).unwrap();
        assert!(object.keys().all(|name| names.contains(&name.as_str())), "{line}");
    }
    let lines: Vec<Line> = outcome.log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |step: &str, kind: Kind| lines.iter().find(|line| line.step.as_deref() == Some(step) && line.kind == kind);
    let attached = of("attach", Kind::Start).unwrap();
    assert_eq!((attached.attempt, attached.allowed_ms), (Some(1), Some(1_800_000)));
    assert!(attached.volume.as_ref().is_some_and(|volume| volume.starts_with("vol-")), "{attached:?}");
    assert!(humantime::parse_rfc3339(&attached.time).is_ok(), "{attached:?}");
    assert_eq!(of("configure", Kind::Output).unwrap().message, "a word from the hook");
    assert!(of("complete", Kind::Done).is_some());
    assert!(lines.iter().all(|line| line.kind != Kind::Begin), "{}", outcome.log);
    assert_eq!(lines.last().unwrap().message, "node-agent: result=done");
}

#[test]
fn the_journal_gets_entries_with_fields() {
    let world = World::new();
    let node = node(&world, "echo a word from the hook\nfalse");
    let journald = node
        .machine()
        .inside(|| {
            fs::create_dir_all("/run/systemd/journal").unwrap();
            UnixDatagram::bind("/run/systemd/journal/socket").unwrap()
        })
        .unwrap();
    journald.set_read_timeout(Some(STUCK)).unwrap();
    let log = world.dir().join("stderr");
    let stderr = File::create(&log).unwrap();
    let stat = stderr.metadata().unwrap();
    let mut command = node.agent(&RUN);
    command.env("JOURNAL_STREAM", format!("{}:{}", stat.dev(), stat.ino())).stderr(stderr);

    let agent = Agent::start(command);
    let mut entries: Vec<BTreeMap<String, String>> = Vec::new();
    let mut datagram = vec![0; 1 << 20];
    while !entries.iter().any(|entry| entry["MESSAGE"].starts_with("node-agent: result=")) {
        let size = journald.recv(&mut datagram).unwrap();
        entries.push(fields(&datagram[..size]));
    }

    assert_eq!(agent.exit_code(), Some(1));
    let with = |name: &str, value: &str| {
        let has = |entry: &&BTreeMap<String, String>| entry.get(name).is_some_and(|seen| seen == value);
        entries.iter().filter(has).cloned().collect::<Vec<_>>()
    };
    let attach = with("NODE_AGENT_STEP", "attach");
    let start = attach.iter().find(|entry| entry["NODE_AGENT_KIND"] == "start").unwrap();
    assert_eq!(start["PRIORITY"], "6");
    assert_eq!(start["SYSLOG_IDENTIFIER"], "node-agent");
    assert_eq!(start["NODE_AGENT_ATTEMPT"], "1");
    assert_eq!(start["NODE_AGENT_ALLOWED_MS"], "1800000");
    assert!(start["MESSAGE"].starts_with(&format!("attach {}: start: ", start["NODE_AGENT_VOLUME"])), "{start:?}");
    assert_eq!(with("NODE_AGENT_KIND", "output")[0]["MESSAGE"], "configure: | a word from the hook");
    assert!(with("NODE_AGENT_KIND", "begin").is_empty());
    let last = entries.last().unwrap();
    assert!(last["MESSAGE"].contains("result=failed step=configure code=hook-failed"), "{last:?}");
    assert_eq!(last["PRIORITY"], "3");
    assert_eq!(fs::read_to_string(log).unwrap(), "", "nothing is said twice");
}

/// A datagram's fields, by the native protocol.
fn fields(mut datagram: &[u8]) -> BTreeMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut fields = BTreeMap::new();
    while !datagram.is_empty() {
        let end = datagram.iter().position(|byte| *byte == b'\n').unwrap();
        let (line, rest) = (&datagram[..end], &datagram[end + 1..]);
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            fields.insert(text(&line[..equals]), text(&line[equals + 1..]));
            datagram = rest;
        } else {
            let size = usize::try_from(u64::from_le_bytes(rest[..8].try_into().unwrap())).unwrap();
            fields.insert(text(line), text(&rest[8..8 + size]));
            datagram = &rest[8 + size + 1..];
        }
    }
    fields
}

#[test]
fn without_its_socket_the_journal_gets_lines_of_text() {
    let world = World::new();
    let node = node(&world, OUTPUT);
    let log = world.dir().join("stderr");
    let stderr = File::create(&log).unwrap();
    let stat = stderr.metadata().unwrap();
    let mut command = node.agent(&RUN);
    command.env("JOURNAL_STREAM", format!("{}:{}", stat.dev(), stat.ino())).stderr(stderr);

    assert_eq!(Agent::start(command).exit_code(), Some(0));

    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("configure: | a word from the hook") && log.contains("complete: done"), "{log}");
    assert!(log.trim_end().ends_with("node-agent: result=done"), "{log}");
}

#[test]
fn a_terminal_shows_progress_and_is_left_clean() {
    let world = World::new();
    let hook = "printf '\\033[2Ja word from the hook\\n'; until [[ -e /run/go ]]; do sleep 0.05; done";
    let node = node(&world, hook);

    let terminal = Terminal::start(on_terminal(&node, "xterm-256color", &RUN));
    terminal.wait_for(" configure     ");
    node.write("/run/go", "");
    let (code, seen) = terminal.end();

    assert_eq!(code, Some(0), "{seen}");
    for text in ["\x1b[32m✓\x1b[0m identity", "\x1b[32m✓\x1b[0m attach", "\x1b[32m✓\x1b[0m complete"] {
        assert!(seen.contains(text), "{text:?} is missing in\n{seen}");
    }
    let at_work = |sign: char| seen.contains(&format!("\x1b[36m{sign}\x1b[0m configure     "));
    assert!("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏".chars().any(at_work), "{seen}");
    assert!(seen.contains("\x1b[2m|\x1b[0m a word from the hook\r\n"), "{seen}");
    assert!(!seen.contains("\x1b[2J"), "what a hook prints does not control the terminal:\n{seen}");
    // The last redraw leaves nothing behind, then comes the last line.
    let (_, last) = seen.rsplit_once("\x1b[J").unwrap();
    assert_eq!(last, "node-agent: result=done\r\n");
}

#[test]
fn a_flood_of_output_is_all_shown_in_few_redraws() {
    let world = World::new();
    let node = node(&world, "for ((i = 1; i <= 5000; i++)); do echo \"line $i\"; done");

    let (code, seen) = Terminal::start(on_terminal(&node, "xterm", &RUN)).end();

    assert_eq!(code, Some(0), "{seen}");
    assert_eq!(numbered(&seen), (1..=5000).collect::<Vec<_>>());
    let redraws = seen.matches("\x1b[J").count();
    assert!(redraws < 1000, "{redraws} redraws");
}

/// The numbers in the hook's lines of this form.
fn numbered(seen: &str) -> Vec<u32> {
    let number = |line: &str| line.rsplit_once("line ").and_then(|(_, number)| number.trim().parse().ok());
    seen.lines().filter_map(number).collect()
}

#[test]
fn a_terminal_that_takes_nothing_does_not_hold_the_node_up_and_shows_all_later() {
    let world = World::new();
    // More than Linux keeps for a reader of a terminal: 64 KiB.
    let node = node(&world, "for ((i = 1; i <= 5000; i++)); do echo \"this is a longer line $i\"; done");
    let terminal = Terminal::start(on_terminal(&node, "xterm", &RUN));
    terminal.freeze(true);

    wait_until(|| world.completions() == ["CONTINUE"], || "CONTINUE was not sent".to_owned());
    assert!(numbered(&terminal.seen()).is_empty());
    terminal.freeze(false);

    let (code, seen) = terminal.end();
    assert_eq!(code, Some(0), "{seen}");
    assert_eq!(numbered(&seen), (1..=5000).collect::<Vec<_>>());
    assert!(seen.ends_with("node-agent: result=done\r\n"), "{seen}");
}

#[test]
fn no_color_leaves_progress_without_colours() {
    let world = World::new();
    let node = node(&world, OUTPUT);
    let mut command = on_terminal(&node, "xterm-256color", &RUN);
    command.env("NO_COLOR", "1");

    let (code, seen) = Terminal::start(command).end();

    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains("✓ complete") && seen.contains("  | a word from the hook"), "{seen}");
    let colours = seen
        .split("\x1b[")
        .skip(1)
        .filter(|rest| rest.trim_start_matches(|char: char| char.is_ascii_digit() || char == ';').starts_with('m'));
    assert_eq!(colours.count(), 0, "{seen}");
}

#[test]
fn a_dumb_terminal_gets_lines_of_text() {
    let world = World::new();
    let node = node(&world, OUTPUT);
    let mut command = on_terminal(&node, "dumb", &RUN);
    command.env("NO_COLOR", "1");

    let (code, seen) = Terminal::start(command).end();

    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains(" configure: | a word from the hook\r\n"), "{seen}");
    assert!(!seen.contains('\x1b'), "{seen}");
    assert!(seen.ends_with("\r\nnode-agent: result=done\r\n"), "{seen}");
}

#[test]
fn the_console_gets_the_last_line_without_the_hooks_output() {
    let world = World::new();
    let node = node(&world, "echo the password is swordfish; false");
    node.write("/dev/console", "login: ");

    let outcome = node.start_with(&RUN).end();

    outcome.must_fail(1, &["| the password is swordfish", "its last lines: the password is swordfish"]);
    let console = node.read("/dev/console");
    assert!(
        console.starts_with("login: node-agent: result=failed step=configure code=hook-failed reason=\"configure_cl")
            && console.ends_with("\"\n"),
        "{console}"
    );
    assert!(!console.contains("swordfish"), "{console}");

    node.hooks(support::HOOKS);
    assert_eq!(node.start_with(&RUN).end().code, Some(0));
    assert!(node.read("/dev/console").ends_with("\nnode-agent: result=done\n"));
}

#[test]
fn commands_that_are_no_run_leave_the_console_alone() {
    let world = World::new();
    let node = node(&world, "echo here; until [ -e /tmp/go ]; do sleep 0.05; done");
    node.write("/dev/console", "login: ");
    let service = node.start_with(&["run"]);
    service.wait_for("| here");

    // What another one kept off, or what is about no run.
    for (arguments, code) in [
        (&["run", "--once"][..], 4),
        (&["run"], 4),
        (&["retry"], 4),
        (&["complete", "continue", "--yes"], 4),
        (&["install", "--root", "/image"], 0),
        (&["install", "--root", "/image", "--now"], 1),
        (&["status"], 3),
    ] {
        let outcome = node.start_with(arguments).end();
        assert_eq!(outcome.code, Some(code), "{arguments:?}: {}", outcome.log);
        assert!(!outcome.log.contains("result="), "{arguments:?}: {}", outcome.log);
    }

    assert_eq!(node.read("/dev/console"), "login: ");
    node.shell("touch /tmp/go");
    service.wait_for("result=done");
}

#[test]
fn the_console_is_left_alone_by_a_run_on_a_terminal() {
    let world = World::new();
    let node = node(&world, OUTPUT);
    node.write("/dev/console", "login: ");

    let (code, seen) = Terminal::start(on_terminal(&node, "xterm", &RUN)).end();

    assert_eq!(code, Some(0), "{seen}");
    assert_eq!(node.read("/dev/console"), "login: ");
}

#[test]
fn a_terminal_that_goes_away_midway_does_not_end_the_run() {
    for term in ["xterm", "dumb"] {
        let world = World::new();
        let wait = "echo waiting\nwhile [[ ! -e /run/go ]]; do sleep 0.05; done\necho going on";
        let node = node(&world, wait);
        let mut command = on_terminal(&node, term, &RUN);
        command.env("NO_COLOR", "1");
        let terminal = Terminal::start(command);
        terminal.wait_for("| waiting");

        let agent = terminal.hang_up();
        node.write("/run/go", "");

        assert_eq!(agent.exit_code(), Some(0), "TERM={term}");
        assert_eq!(world.completions(), ["CONTINUE"]);
    }
}

/// The node comes up with this in the standard error's place.
fn comes_up_unheard(command: impl FnOnce(&Instance) -> Command) {
    let world = World::new();
    let node = node(&world, OUTPUT);
    assert_eq!(Agent::start(command(&node)).exit_code(), Some(0));
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_closed_standard_error_does_not_end_the_run() {
    comes_up_unheard(|node| {
        // The shell closes it and becomes the agent.
        let mut command = node.machine().command("bash");
        command.args(["-c", "exec \"$0\" run --once 2>&-", PROGRAM]).env_clear();
        let agent = node.agent(&[]);
        command.envs(agent.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    });
}

#[test]
fn a_pipe_that_nobody_reads_does_not_end_the_run() {
    comes_up_unheard(|node| {
        let (_, writer) = io::pipe().unwrap();
        let mut command = node.agent(&RUN);
        command.stderr(writer);
        command
    });
}

#[test]
fn a_log_on_a_full_disk_does_not_end_the_run() {
    comes_up_unheard(|node| {
        let mut command = node.agent(&RUN);
        command.stderr(File::options().write(true).open("/dev/full").unwrap());
        command
    });
}

#[test]
fn a_retry_draws_the_services_progress_and_the_work_outlives_its_terminal() {
    let world = World::new();
    let node = node(&world, "echo from the service; until [ -e /tmp/go ]; do sleep 0.1; done; [ -e /tmp/repaired ]");
    let service = node.start_with(&["run"]);
    node.shell("touch /tmp/go");
    service.wait_for("held for");
    node.shell("rm /tmp/go; touch /tmp/repaired");

    let terminal = Terminal::start(on_terminal(&node, "xterm-256color", &["retry"]));
    terminal.wait_for("from the service");
    // Drawn, not only printed: the running step has its clock and its deadline.
    terminal.wait_for(" of 30m");
    drop(terminal.hang_up());
    node.shell("touch /tmp/go");

    wait_until(|| world.completions() == ["CONTINUE"], || service.log());
}

#[test]
fn a_node_that_is_up_is_done_over_on_a_terminal_only_after_a_yes() {
    let world = World::new();
    let node = node(&world, "echo again >> /var/log/configured");
    let service = node.start_with(&["run"]);
    service.wait_for("result=done");
    let calls = || node.read("/var/log/configured").lines().count();
    let arguments = ["retry", "--from", "configure"];
    let ask = |keys: &str| {
        let terminal = Terminal::start(on_terminal(&node, "xterm", &arguments));
        terminal.wait_for("This redoes configure and the steps after it, hooks included. Continue? [y/N]");
        terminal.press(keys);
        terminal.end()
    };

    let (code, seen) = ask("\n");
    assert_eq!((code, calls()), (Some(2), 1), "{seen}");
    assert!(seen.contains("nothing was done"), "{seen}");
    let (code, seen) = ask("y\n");
    assert_eq!((code, calls()), (Some(0), 2), "{seen}");

    let without = Terminal::start(on_terminal(&node, "xterm", &["retry", "--from", "configure", "--yes"]));
    let (code, seen) = without.end();
    assert_eq!((code, calls()), (Some(0), 3), "{seen}");
    // With `--yes` there is no question.
    assert_eq!(node.start_with(&arguments).end().code, Some(0));
    assert_eq!(calls(), 4);
}

#[test]
fn a_retry_that_cannot_keep_up_says_how_much_it_leaves_out() {
    let world = World::new();
    // More than the socket and the service keep for it.
    let flood = "[[ -e /tmp/repaired ]] || return 3\nuntil [[ -e /run/go ]]; do sleep 0.05; done\n\
                 for ((i = 1; i <= 9000; i++)); do echo \"this is a longer line $i\"; done";
    let node = node(&world, flood);
    let service = node.start_with(&["run"]);
    service.wait_for("held for");
    node.shell("touch /tmp/repaired");

    let terminal = Terminal::start(on_terminal(&node, "xterm", &["retry"]));
    terminal.wait_for(" configure     ");
    terminal.signal(Signal::SIGSTOP);
    node.write("/run/go", "");
    wait_until(|| world.completions() == ["CONTINUE"], || service.log());
    terminal.signal(Signal::SIGCONT);

    let (code, seen) = terminal.end();
    assert_eq!(code, Some(0), "{seen}");
    let shown = numbered(&seen);
    let left_out: usize = seen
        .split(" lines are omitted here")
        .filter_map(|before| before.rsplit(|char: char| !char.is_ascii_digit()).next()?.parse::<usize>().ok())
        .sum();
    assert!(left_out > 0, "{seen}");
    assert_eq!(shown.last(), Some(&9000));
    assert!(shown.is_sorted() && shown.len() + left_out >= 9000, "{} and {left_out}", shown.len());
}

/// Terminal sequences and control characters that hook output, a file name, an answer or a configuration may contain.
const FOREIGN: &str = "first\x1b]0;owned\x07\x1b[2Jsecond\rthird\u{9b}2Jfourth\u{202e}fifth\u{2028}sixth";
const WORDS: [&str; 6] = ["first", "second", "third", "fourth", "fifth", "sixth"];

/// The text has the words of [`FOREIGN`] and none of the sequences between them. On a terminal the agent's own sequences remain.
fn is_harmless(what: &str, shown: &str, words: &[&str]) {
    for foreign in ["\x1b]", "\x07", "\x1b[2J", "\u{9b}", "\u{202e}", "\u{2028}", "\rthird"] {
        assert!(!shown.contains(foreign), "{what} shows {foreign:?}: {shown:?}");
    }
    for word in words {
        assert!(shown.contains(word), "{what} lacks {word:?}: {shown:?}");
    }
}

/// All that the commands say to people of a node in this state: from a pipe, from a terminal, to systemd, on the console.
fn all_that_is_shown(node: &Instance, words: &[&str]) {
    node.write("/dev/console", "");
    let systemd = node.machine().inside(|| UnixDatagram::bind("/run/notify").unwrap()).unwrap();
    systemd.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut command = node.agent(&RUN);
    let ran = thread::spawn(move || command.env("NOTIFY_SOCKET", "/run/notify").output().unwrap());
    let mut datagram = vec![0; 1 << 16];
    loop {
        let ended = ran.is_finished();
        while let Ok(size) = systemd.recv(&mut datagram) {
            let told = String::from_utf8(datagram[..size].to_vec()).unwrap();
            is_harmless("the status for systemd", &told, &[]);
            assert!(told.lines().all(|line| line.starts_with("STATUS=")), "{told:?}");
        }
        if ended {
            break;
        }
    }
    let ran = ran.join().unwrap();
    assert_ne!(ran.status.code(), Some(0));
    is_harmless("run", &String::from_utf8(ran.stderr).unwrap(), words);
    is_harmless("the console", &node.read("/dev/console"), &[]);
    for command in ["status", "plan", "retry", "check"] {
        let output = node.agent(&[command]).output().unwrap();
        let shown = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        // A plan runs no hook, and a check mounts nothing.
        let words = if matches!(command, "plan" | "check") { &[][..] } else { words };
        is_harmless(command, &shown, words);
        is_harmless(command, &Terminal::start(on_terminal(node, "xterm-256color", &[command])).end().1, words);
    }
    is_harmless("a dumb terminal", &Terminal::start(on_terminal(node, "dumb", &RUN)).end().1, words);
    is_harmless("the metrics", &node.shell("cat /run/node-agent/*.prom || true"), &[]);
}

#[test]
fn what_a_hook_prints_controls_nobodys_terminal() {
    let world = World::new();
    let node = node(&world, &format!("echo '{FOREIGN}'\nfalse"));

    // Of a line that was rewritten in place, the last state.
    all_that_is_shown(&node, &WORDS[2..]);

    let (document, _) = support::status(&node);
    assert!(document.to_string().contains("\\u001b]0;owned\\u0007"), "JSON has each character: {document}");
}

#[test]
fn the_name_of_a_file_controls_nobodys_terminal() {
    let world = World::new();
    let node = node(&world, OUTPUT);
    node.write(&format!("/mydata/{FOREIGN}"), "");

    all_that_is_shown(&node, &WORDS);
}

#[test]
fn what_aws_says_controls_nobodys_terminal() {
    let world = World::new();
    let node = node(&world, OUTPUT);
    // XML has no C0 controls.
    let message = FOREIGN.replace(['\x1b', '\x07', '\r'], "");
    let fault = Fault::Error { http: 400, code: "Foreign".to_owned(), message };
    world.sim.add_fault(FaultRule::always("ec2:DescribeVolumes", fault)).unwrap();

    all_that_is_shown(&node, &WORDS);

    let tag = &world.sim.instance_tags(&node.id).unwrap()["node-agent:status"];
    is_harmless("the tag", tag, &WORDS);
    is_harmless("a check", &String::from_utf8(node.agent(&["check"]).output().unwrap().stdout).unwrap(), &WORDS);
}

#[test]
fn a_configurations_values_control_nobodys_terminal() {
    let world = World::new();
    let node = node(&world, OUTPUT);
    let toml: String = FOREIGN.chars().map(|char| format!("\\U{:08X}", u32::from(char))).collect();
    let config = node.read("/etc/node-agent/config.toml");
    node.configure(config.replace("\"xfs\"", &format!("\"{toml}\"")));

    all_that_is_shown(&node, &[]);
}

#[test]
fn remedies_name_the_programs_path_where_sudo_would_not_find_it() {
    let world = World::new();
    let node = node(&world, "false");
    node.shell(&format!("umount {INSTALLED}; rm {INSTALLED}; mkdir -p /usr/local/bin; cp {PROGRAM} /usr/local/bin/"));
    let agent = |arguments: &[&str]| {
        let mut command = node.machine().command("/usr/local/bin/node-agent");
        let like = node.agent(arguments);
        command.args(arguments).env_clear().envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.current_dir("/").output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let typed = "then: /usr/local/bin/node-agent retry, which calls the function anew";

    let ran = agent(&RUN);
    assert!(ran.lines().last().unwrap().contains(typed), "{ran}");
    for shown in [agent(&["status"]), agent(&["status", "--json"]), agent(&["retry"])] {
        assert!(shown.contains(typed) && !shown.contains(" node-agent retry"), "{shown}");
    }
    // Another binary may read it.
    assert!(node.journal()["fault"]["error"]["remedy"].as_str().unwrap().contains("then: node-agent retry"));
    // The same node with the program where packages install it.
    node.shell("cp /usr/local/bin/node-agent /usr/bin/ && ln -sf /usr/bin/node-agent /usr/local/bin/node-agent");
    let shown = agent(&["status"]);
    assert!(shown.contains("then: node-agent retry, which"), "{shown}");
}
