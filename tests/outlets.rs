//! An output that is not read (a full pipe, a stopped terminal, a journald or systemd that hangs, a full console) does not keep a
//! node from coming up; once it is read again, it shows what was kept and how much was dropped.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{FlowArg, tcflow};
use nix::unistd::Pid;
use support::{Guarded, Instance, World, node_with, status, wait_until};

/// A configure function that prints a lot and fails until it is repaired.
const CHATTY: &str = r#"
configure_cluster_node() {
  [ -e /tmp/quiet ] || for number in {1..40000}; do echo "line $number of a hook that says a lot, for a log that nobody reads"; done
  [ -e /tmp/repaired ] || return 3
}
wait_for_healthy_cluster() { :; }
"#;

fn state(node: &Instance) -> String {
    status(node).0["state"].as_str().unwrap_or_default().to_owned()
}

/// Although its output is not read, the service must be held, be repaired by a retry, report the node and end on SIGTERM within the
/// usual times.
fn goes_its_way(world: &World, node: &Instance, mut child: Guarded, name: &str) -> Guarded {
    wait_until(|| state(node) == "held", || format!("{name}: {}", status(node).0));
    node.shell("touch /tmp/repaired /tmp/quiet");
    let retried = node.start_with(&["retry"]).end();
    assert_eq!(retried.code, Some(0), "{name}: {}", retried.log);
    assert_eq!(world.completions(), ["CONTINUE"], "{name}");
    assert!(child.0.try_wait().unwrap().is_none(), "{name}");
    child
}

fn terminate(child: &mut Guarded, name: &str) {
    let began = Instant::now();
    kill(Pid::from_raw(child.0.id().cast_signed()), Signal::SIGTERM).unwrap();
    let code = child.0.wait().unwrap().code();
    assert_eq!(code, Some(0), "{name}");
    assert!(began.elapsed() < Duration::from_secs(30), "{name}: {:?}", began.elapsed());
}

fn service(node: &Instance) -> Command {
    let mut command = node.agent(&["run"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// How many lines the text says were dropped.
fn dropped(text: &str) -> u64 {
    let said = text.split('\n').filter_map(|line| line.strip_suffix(" lines were dropped here: nobody read them"));
    said.map(|line| line.rsplit([' ', '=']).next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn a_pipe_that_nobody_reads_stops_nothing_and_says_afterwards_how_much_is_missing() {
    let world = World::new();
    let node = node_with(&world, CHATTY);
    let (mut reader, writer) = io::pipe().unwrap();
    let child = Guarded(service(&node).stderr(writer).spawn().unwrap());

    let mut child = goes_its_way(&world, &node, child, "pipe");
    kill(Pid::from_raw(child.0.id().cast_signed()), Signal::SIGTERM).unwrap();
    // It reads again within the time that the process waits at its end.
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();

    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    assert!(text.ends_with("node-agent: result=done\n"), "{}", &text[text.len().saturating_sub(2000)..]);
    // The hook's lines that arrived and those that were dropped make up all of them; some of the dropped lines are not the hook's.
    let hook = text.matches(" configure: | line ").count() as u64;
    let missing = dropped(&text);
    assert!((40_000..40_200).contains(&(hook + missing)), "{hook} and {missing}");
    assert!(missing > 0 && text.matches("lines were dropped here").count() == 1, "{missing}");
    // Those that are there are in order.
    let numbers: Vec<u64> = text
        .lines()
        .filter_map(|line| line.split_once(" configure: | line ")?.1.split(' ').next()?.parse().ok())
        .collect();
    assert!(numbers.is_sorted());
}

#[test]
fn a_pipe_that_is_never_read_holds_the_end_of_the_service_up_for_seconds_only() {
    let world = World::new();
    let node = node_with(&world, CHATTY);
    let (_reader, writer) = io::pipe().unwrap();
    let child = Guarded(service(&node).stderr(writer).spawn().unwrap());
    terminate(&mut goes_its_way(&world, &node, child, "unread pipe"), "unread pipe");
}

#[test]
fn a_slow_reader_misses_nothing() {
    let world = World::new();
    let node = node_with(&world, CHATTY);
    node.shell("touch /tmp/repaired /tmp/quiet");
    node.hooks("configure_cluster_node() { for n in {1..3000}; do echo \"line $n\"; done; }\nwait_for_healthy_cluster() { :; }\n",
    );
    let (mut reader, writer) = io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let mut child = Guarded(node.agent(&["run", "--once"]).stdout(Stdio::null()).stderr(writer).spawn().unwrap());
    let (mut text, mut some) = (Vec::new(), [0; 2048]);
    loop {
        let length = reader.read(&mut some).unwrap();
        if length == 0 {
            break;
        }
        text.extend_from_slice(&some[..length]);
        // 100 ms for 200 KB, of which the flush at the end waits for 2 s.
        thread::sleep(Duration::from_millis(1));
    }
    let text = String::from_utf8(text).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(0), "{text}");
    assert_eq!(text.matches("| line ").count(), 3000, "{}", dropped(&text));
    assert!(text.ends_with("node-agent: result=done\n"));
}

#[test]
fn a_systemd_that_does_not_read_stops_nothing_and_hears_ready_when_it_does() {
    let world = World::new();
    let node = node_with(&world, CHATTY);
    let bind = || UnixDatagram::bind("/run/notify").unwrap();
    let manager = node.machine().inside(bind).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // As many as the kernel queues for a reader, but one.
    let filler = node.machine().inside(|| {
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        while sender.send_to(b"FILLER=1", "/run/notify").is_ok() {}
        sender
    });
    let child =
        Guarded(service(&node).env("NOTIFY_SOCKET", "/run/notify").env("WATCHDOG_USEC", "1000000").spawn().unwrap());

    let mut child = goes_its_way(&world, &node, child, "notify");

    let (mut said, mut datagram) = (String::new(), [0; 4096]);
    while !(said.contains("READY=1") && said.contains("STATUS=the node is up")) {
        let length = manager.recv(&mut datagram).unwrap_or_else(|error| panic!("{error}: {said}"));
        said += &String::from_utf8_lossy(&datagram[..length]);
        said += "\n";
    }
    terminate(&mut child, "notify");
    while !said.contains("STOPPING=1") {
        let length = manager.recv(&mut datagram).unwrap_or_else(|error| panic!("{error}: {said}"));
        said += &String::from_utf8_lossy(&datagram[..length]);
    }
    assert!(said.contains("WATCHDOG=1"), "{said}");
    drop(filler);
}

#[test]
fn a_journald_that_does_not_read_stops_nothing_and_hears_how_much_is_missing() {
    let world = World::new();
    let node = node_with(&world, CHATTY);
    let bind = || {
        fs::create_dir_all("/run/systemd/journal").unwrap();
        UnixDatagram::bind("/run/systemd/journal/socket").unwrap()
    };
    let journald = node.machine().inside(bind).unwrap();
    journald.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // The standard error goes there too, by a stream that is not read either.
    let (stream, writer) = std::os::unix::net::UnixStream::pair().unwrap();
    let id = File::from(OwnedFd::from(writer.try_clone().unwrap())).metadata().unwrap();
    let child = Guarded(
        service(&node)
            .env("JOURNAL_STREAM", format!("{}:{}", id.dev(), id.ino()))
            .stderr(OwnedFd::from(writer))
            .spawn()
            .unwrap(),
    );

    let mut child = goes_its_way(&world, &node, child, "journald");

    let (mut said, mut datagram) = (String::new(), vec![0; 1 << 20]);
    while !said.contains("result=done") {
        let length = journald.recv(&mut datagram).unwrap();
        said += &String::from_utf8_lossy(&datagram[..length]);
    }
    assert!(dropped(&said) > 0, "nothing was dropped");
    let hook = said.matches("MESSAGE=configure: | line ").count() as u64;
    assert!((40_000..40_200).contains(&(hook + dropped(&said))), "{hook} and {}", dropped(&said));
    terminate(&mut child, "journald");
    drop(stream);
}

#[test]
fn a_console_that_nobody_empties_stops_nothing() {
    let world = World::new();
    let node = node_with(&world, CHATTY);
    node.shell("mkfifo /dev/console");
    let open = || OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open("/dev/console");
    let mut console = node.machine().inside(open).unwrap().unwrap();
    while console.write(b"full").is_ok() {}
    let child = Guarded(service(&node).spawn().unwrap());

    terminate(&mut goes_its_way(&world, &node, child, "console"), "console");
}

#[test]
fn a_stopped_terminal_stops_nothing_and_shows_the_end_when_it_goes_on() {
    let world = World::new();
    let node = node_with(&world, CHATTY);
    let pty = openpty(None, None).unwrap();
    tcflow(&pty.slave, FlowArg::TCOOFF).unwrap();
    let child = Guarded(service(&node).env("TERM", "xterm").stderr(pty.slave.try_clone().unwrap()).spawn().unwrap());

    let mut child = goes_its_way(&world, &node, child, "terminal");

    tcflow(&pty.slave, FlowArg::TCOON).unwrap();
    drop(pty.slave);
    let (mut master, mut text) = (File::from(pty.master), String::new());
    let mut some = vec![0; 1 << 16];
    while !text.contains("result=done") {
        let mut ready = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
        let waited = poll(&mut ready, PollTimeout::try_from(30_000).unwrap()).unwrap();
        assert_eq!(waited, 1, "{}", &text[text.len().saturating_sub(3000)..]);
        let length = master.read(&mut some).unwrap();
        text += &String::from_utf8_lossy(&some[..length]);
    }
    assert!(text.contains("lines were dropped here: nobody read them"));
    // What is read from here on, the end does not wait for.
    terminate(&mut child, "terminal");
}
