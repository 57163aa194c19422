//! The control socket: misbehaving clients do not block others, a runtime directory that is deleted or full stops nothing, and a
//! suspended service is told from a busy one.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::{Instance, Running, World, node_with, serving, status, wait_for_state, wait_until};

/// A configure function that fails until /tmp/repaired exists.
const BROKEN: &str =
    "configure_cluster_node() { [ -e /tmp/repaired ] || return 3; }\nwait_for_healthy_cluster() { :; }\n";
const HANGS: &str = "configure_cluster_node() { echo here; sleep 600; }\nwait_for_healthy_cluster() { :; }\n";

fn held(world: &World) -> (Instance, Running) {
    serving(world, BROKEN, "held for")
}

/// A service in a hook that does not end.
fn at_work(world: &World) -> (Instance, Running) {
    serving(world, HANGS, "| here")
}

/// The socket's path from outside the machine.
fn socket(service: &Running) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root/run/node-agent/control.sock", service.child.id()))
}

/// How long the first answer to a good request took, and the answer.
fn first_answer(socket: &Path, request: &str) -> (Duration, String) {
    let began = Instant::now();
    loop {
        // Among hundreds of others, one that comes to write only after the time of grace loses its place: it comes again.
        let asked = ask(socket, request);
        match asked {
            Ok(answer) if !answer.is_empty() => return (began.elapsed(), answer),
            _ => assert!(began.elapsed() < Duration::from_secs(60), "{asked:?}"),
        }
    }
}

fn ask(socket: &Path, request: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

type Misbehave = fn(&mut UnixStream);

/// What a misbehaving client does. Each returns when the service closes its connection.
const BAD: [(&str, Misbehave); 6] = [
    ("half a line", |stream| {
        let _ = stream.write_all(b"{\"do\":\"ret");
    }),
    ("no UTF-8", |stream| {
        let _ = stream.write_all(b"\xff\xfe\x80{}\n");
    }),
    ("a line without an end", |stream| while stream.write_all(&[b'x'; 4096]).is_ok() {}),
    ("a byte now and then", |stream| {
        while stream.write_all(b" ").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
    }),
    ("nothing, and away", |stream| {
        let _ = stream.shutdown(Shutdown::Both);
    }),
    ("never reads its answer", |stream| {
        let _ = stream.write_all(b"{\"do\":\"follow\"}\n");
        thread::sleep(Duration::from_millis(200));
    }),
];

/// Ends the bad clients when it goes.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_hundred_bad_clients_of_every_kind_keep_no_good_one_waiting() {
    let world = World::new();
    let (node, service) = held(&world);
    let socket = socket(&service);
    // A longer run, for measurements: BAD_CLIENTS_SECONDS=60.
    let given = std::env::var("BAD_CLIENTS_SECONDS").ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs(given.unwrap_or(6));
    let (over, came) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut longest, mut answers, mut open) = (Duration::ZERO, 0, 0);
    thread::scope(|scope| {
        // However this ends, a failure included: the scope waits for the others.
        let _over = Over(&over);
        for (_, misbehave) in BAD {
            for _ in 0..100 {
                let (socket, over, came) = (&socket, &over, &came);
                thread::Builder::new()
                    .stack_size(64 << 10)
                    .spawn_scoped(scope, move || {
                        while !over.load(Ordering::Relaxed) {
                            let Ok(mut stream) = UnixStream::connect(socket) else {
                                // Turned away, it connects again.
                                thread::sleep(Duration::from_millis(20));
                                continue;
                            };
                            came.fetch_add(1, Ordering::Relaxed);
                            let limit = Some(Duration::from_secs(2));
                            stream.set_write_timeout(limit).unwrap();
                            stream.set_read_timeout(limit).unwrap();
                            misbehave(&mut stream);
                            let _ = stream.read(&mut [0]);
                            thread::sleep(Duration::from_millis(20));
                        }
                    })
                    .unwrap();
            }
        }
        let began = Instant::now();
        while began.elapsed() < time || answers < 4 {
            let (took, answer) = first_answer(&socket, "{\"do\":\"retry\",\"from\":null}");
            assert!(answer.contains("accepted") || answer.contains("busy"), "{answer:?}");
            (longest, answers) = (longest.max(took), answers + 1);
            open = open.max(fs::read_dir(format!("/proc/{}/fd", service.child.id())).unwrap().count());
            thread::sleep(Duration::from_millis(200));
        }
    });
    println!(
        "{} bad connections in {time:?}; {answers} good ones, the longest waited {longest:?}; at most {open} open files",
        came.load(Ordering::Relaxed)
    );
    // Without other work on the machine; with it, generously.
    let bound = if given.is_some() { Duration::from_secs(1) } else { Duration::from_secs(10) };
    assert!(longest < bound && open < 200, "{longest:?} {open}");
    let log = service.log();
    assert!(log.matches("connections to the control socket were closed").count() <= 3, "{log}");
    assert!(log.contains("connections to the control socket were closed"), "{log}");

    node.shell("touch /tmp/repaired");
    wait_for_state(&node, "held", &service);
    let retried = node.start_with(&["retry"]).end();
    assert_eq!(retried.code, Some(0), "{}", retried.log);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_request_is_read_whole_whenever_it_comes_after_the_connection() {
    let world = World::new();
    let (_node, service) = held(&world);
    let socket = socket(&service);
    // The service reads from a connection as soon as it has accepted it: before, while or after the request arrives.
    for delay in (0..10_000).map(|number| Duration::from_nanos(number % 100 * 500)) {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let began = Instant::now();
        while began.elapsed() < delay {}
        stream.write_all(b"{\"do\":\"follow\"}\n").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        assert!(answer.contains("ended"), "{delay:?} after the connection: {answer:?}\n{}", service.log());
    }
}

#[test]
fn half_lines_up_to_the_descriptor_limit_neither_end_nor_block_the_service() {
    let world = World::new();
    let node = node_with(&world, BROKEN);
    let agent = node.agent(&[]);
    let mut shell = node.machine().command("bash");
    shell.args(["-c", &format!("ulimit -n 40; exec {} run 2> /tmp/log", support::PROGRAM)]).env_clear();
    shell.envs(agent.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = support::Guarded(shell.spawn().unwrap());
    let log = || node.read("/tmp/log");
    wait_until(|| node.machine().inside(|| Path::new("/tmp/log").exists()).unwrap(), || "no log".to_owned());
    wait_until(|| log().contains("held for"), log);
    let socket = PathBuf::from(format!("/proc/{}/root/run/node-agent/control.sock", child.0.id()));

    let mut clients: Vec<_> = (0..60).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    // The service may have closed some of these connections already.
    clients.iter_mut().for_each(|client| drop(client.write_all(b"{\"do\"")));
    let (took, answer) = first_answer(&socket, "{\"do\":\"retry\",\"from\":null}");

    assert!(answer.contains("accepted") && took < Duration::from_secs(20), "{answer} {took:?}\n{}", log());
    assert!(child.0.try_wait().unwrap().is_none(), "{}", log());
    drop(clients);
    wait_until(|| log().matches("held for").count() == 2, log);
    node.shell("touch /tmp/repaired");
    node.start_with(&["retry"]).end().must_fail(0, &["result=done"]);
}

#[test]
fn a_client_that_sends_no_whole_request_is_dropped_after_five_seconds() {
    let world = World::new();
    let (_node, service) = held(&world);
    let mut client = UnixStream::connect(socket(&service)).unwrap();
    client.write_all(b"{\"do\":").unwrap();
    client.set_read_timeout(Some(Duration::from_mins(1))).unwrap();

    let began = Instant::now();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);

    assert!(began.elapsed() > Duration::from_secs(3), "{:?}", began.elapsed());
    service.wait_for("no request within 5 s");
}

#[test]
fn a_runtime_directory_deleted_while_held_is_there_again_for_the_retry() {
    let world = World::new();
    let (node, service) = held(&world);

    node.shell("rm -rf /run/node-agent; touch /tmp/repaired");
    let retried = node.start_with(&["retry"]).end();

    assert_eq!(retried.code, Some(0), "{}\n{}", retried.log, service.log());
    assert_eq!(world.completions(), ["CONTINUE"]);
    // The published files return even when the state does not change.
    node.shell("rm -rf /run/node-agent");
    let there =
        "cd /run/node-agent && [ -S control.sock ] && [ -s live.json ] && [ -s node_agent.prom ] && [ -s lock ]";
    let check = || node.machine().command("bash").args(["-c", there]).status().unwrap().success();
    wait_until(check, || service.log());
    assert_eq!(status(&node).0["state"], "done");
    node.start_with(&["run", "--once"]).end().must_fail(4, &["holds the lock"]);
}

#[test]
fn a_runtime_directory_that_takes_nothing_stops_neither_the_launch_nor_the_hold() {
    // How the directory is broken, and how it is repaired.
    let cases = [
        ("a file in its place", "touch /run/node-agent", "rm /run/node-agent"),
        (
            "read-only",
            "mkdir /run/node-agent; mount -t tmpfs -o ro none /run/node-agent",
            "mount -o remount,rw /run/node-agent",
        ),
        (
            "no inodes",
            "mkdir /run/node-agent; mount -t tmpfs -o nr_inodes=1 none /run/node-agent",
            "mount -o remount,nr_inodes=1000 /run/node-agent",
        ),
    ];
    for (name, spoil, repair) in cases {
        let world = World::new();
        let node = node_with(&world, BROKEN);
        node.shell(spoil);

        let service = node.start_with(&["run"]);
        service.wait_for("held for");

        assert!(service.log().contains("control.sock cannot be created"), "{name}: {}", service.log());
        let retried = node.start_with(&["retry"]).end();
        let pid = format!("the service (process {}) cannot be reached: its control socket", service.child.id());
        retried.must_fail(3, &["code=service-unreachable", &pid, "df -i /run", "systemctl restart node-agent"]);
        let told = node.start_with(&["status"]).end();
        told.must_fail(1, &["HELD", &pid]);

        node.shell(&format!("{repair}; touch /tmp/repaired"));
        let retried = node.start_with(&["retry"]).end();
        assert_eq!(retried.code, Some(0), "{name}: {}", retried.log);
        assert_eq!(world.completions(), ["CONTINUE"], "{name}");
        assert_eq!(service.log().matches("control.sock cannot be created").count(), 1, "{name}: {}", service.log());
    }
}

#[test]
fn a_runtime_directory_that_fills_up_later_leaves_status_with_the_journals_word() {
    let world = World::new();
    let node = node_with(&world, BROKEN);
    node.shell("mkdir /run/node-agent; mount -t tmpfs -o size=128k none /run/node-agent");
    let service = node.start_with(&["run"]);
    service.wait_for("held for");
    assert_eq!(status(&node).0["state"], "held");

    node.shell("! cat /dev/zero > /run/node-agent/full; touch /tmp/repaired");
    node.start_with(&["retry"]).end().must_fail(0, &["result=done"]);

    let (document, code) = status(&node);
    assert_eq!((code, &document["state"]), (0, &"done".into()), "{document}");
    let old = node.read("/run/node-agent/live.json");
    assert!(!old.contains("\"phase\":\"done\""), "nothing was full: {old}");
    // Once there is space, the state is published without waiting for a change.
    node.shell("rm /run/node-agent/full");
    wait_until(|| node.read("/run/node-agent/live.json").contains("\"phase\":\"done\""), || service.log());
}

#[test]
fn a_stopped_service_is_named_with_the_way_to_go_on() {
    let world = World::new();
    let (node, service) = held(&world);
    service.signal(Signal::SIGSTOP);
    let pid = service.child.id();
    let said = [
        format!("the service (process {pid}) is stopped or hangs (state T)"),
        format!("kill -CONT {pid}, or: systemctl restart node-agent"),
        "code=service-hangs".to_owned(),
    ];
    let said: Vec<_> = said.iter().map(String::as_str).collect();

    let retry = node.start_with(&["retry"]);
    let complete = node.start_with(&["complete", "continue", "--yes"]);
    retry.end().must_fail(3, &said);
    complete.end().must_fail(3, &said);
    node.start_with(&["status"]).end().must_fail(1, &["HELD", said[0]]);

    // A request that its client gave up is not carried out later: only this retry runs.
    service.signal(Signal::SIGCONT);
    node.start_with(&["retry"]).end().must_fail(1, &["code=hook-failed"]);
    wait_until(|| service.log().matches("held for").count() >= 2, || service.log());
    assert_eq!(service.log().matches("held for").count(), 2, "{}", service.log());
    assert!(world.completions().is_empty());
}

#[test]
fn status_that_waits_for_a_stopped_service_says_so() {
    let world = World::new();
    let (node, service) = at_work(&world);
    let following = node.start_with(&["status", "--wait"]);
    service.signal(Signal::SIGSTOP);

    let waiting = node.start_with(&["status", "--wait"]);

    waiting.end().must_fail(3, &["is stopped or hangs (state T)", "kill -CONT"]);
    following.end().must_fail(3, &["is stopped or hangs (state T)", "kill -CONT"]);
    service.signal(Signal::SIGCONT);
}

#[test]
fn a_service_at_work_answers_at_once_whatever_it_is_asked() {
    let world = World::new();
    let (_node, service) = at_work(&world);
    for request in
        ["{\"do\":\"retry\",\"from\":null}", "{\"do\":\"complete\",\"result\":\"CONTINUE\"}", "{\"do\":\"follow\"}"]
    {
        let (took, answer) = first_answer(&socket(&service), request);
        assert!(took < Duration::from_secs(5) && answer.len() > 5, "{request}: {took:?} {answer}");
    }
}
