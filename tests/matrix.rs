//! Everything that a hold depends on, broken in several ways before the start, at the failure and in the hold: what Auto Scaling is
//! told, when, and how the service exits. A promised end of a hold is kept.
//!
//! The table is printed (cargo nextest --no-capture) and written to `matrix.txt` in the tests' temporary folder of the target
//! directory.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::fmt::Write as _;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::path::Path;
use std::process::Child;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ec2_sim::{Fault, FaultRule, HookSpec};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Instance, World, config_with};

/// How long a failed node is held.
const HOLD: Duration = Duration::from_secs(7);
/// How late ABANDON may be on a busy machine.
const LATE: Duration = Duration::from_secs(6);
/// Longer than any cell: the hold, the time for reporting with what the runner adds to it, and starting.
const STUCK: Duration = Duration::from_secs(45);
/// The cells wait more than they compute.
const AT_ONCE: usize = 10;

const JOURNAL: &str = "/var/lib/node-agent/state.json";

/// The hook fails when the test says so, so that the test can break something before.
const HOOKS: &str = r#"
configure_cluster_node() {
  touch /tmp/at-work
  until [ -e /tmp/fail ]; do sleep 0.05; done
  return 3
}
wait_for_healthy_cluster() { :; }
"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Before,
    AtFailure,
    InHold,
}
use When::{AtFailure, Before, InHold};

/// The result of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// ABANDON when the promised end has come, then this exit code.
    Abandon(i32),
    /// Auto Scaling cannot be told, which is logged; after the hold this exit code.
    Nobody(i32),
    /// Nothing is promised or sent: no launch is known. The node stays for its repair.
    Stays,
}
use End::{Abandon, Nobody, Stays};

/// How something is broken.
#[derive(Debug, Clone, Copy)]
enum How {
    /// A command on the machine.
    Shell(&'static str),
    /// The configuration without its table.
    NoLifecycle,
    /// The pipe of the standard error is full and is no longer read.
    FullPipe,
    /// Calls go wrong.
    Calls(&'static str, fn() -> Fault),
    /// The role may not do this.
    Denied(&'static str),
}
use How::{Calls, Denied, FullPipe, NoLifecycle, Shell};

struct Row {
    what: &'static str,
    spoilt: &'static str,
    how: How,
    /// Whether an operator tries a retry after the breakage in the hold.
    retried: bool,
    /// Before the start, at the failure, in the hold; none where the cell would be that of a healthy node.
    ends: [Option<End>; 3],
}

fn answers(http: u16) -> Fault {
    Fault::Error { http, code: "Spoilt".to_owned(), message: "spoilt".to_owned() }
}

const ALL_ABANDON: [Option<End>; 3] = [Some(Abandon(1)); 3];

fn rows() -> Vec<Row> {
    let row = |what, spoilt, how, retried, ends| Row { what, spoilt, how, retried, ends };
    let known = |before, retried| [Some(before), Some(Abandon(1)), Some(Abandon(retried))];
    vec![
        row("config", "deleted", Shell("rm /etc/node-agent/config.toml"), true, known(Stays, 5)),
        row(
            "config",
            "garbage",
            Shell("head -c 500 /dev/urandom > /etc/node-agent/config.toml"),
            true,
            known(Stays, 5),
        ),
        row("config", "without [lifecycle]", NoLifecycle, true, known(Stays, 1)),
        row("journal", "garbage", Shell("mkdir -p /var/lib/node-agent; echo '{\"schema\": 1' > $J"), true, ALL_ABANDON),
        row("journal", "deleted", Shell("rm $J"), true, [None, Some(Abandon(1)), Some(Abandon(1))]),
        row(
            "journal",
            "a read-only file",
            Shell("mkdir -p /var/lib/node-agent; [ -e $J ] || : > $J; mount --bind $J $J; mount -o remount,bind,ro $J"),
            true,
            ALL_ABANDON,
        ),
        row("runtime directory", "removed", Shell("rm -rf /run/node-agent"), false, ALL_ABANDON),
        row(
            "runtime directory",
            "read-only",
            Shell("mkdir -p $R; mount --bind $R $R; mount -o remount,bind,ro $R"),
            false,
            ALL_ABANDON,
        ),
        row(
            "runtime directory",
            "full",
            Shell("mkdir -p $R; mount -t tmpfs -o size=4k,nr_inodes=2 tmpfs $R; ! cat /dev/zero > $R/full 2>/dev/null"),
            false,
            ALL_ABANDON,
        ),
        row(
            "state directory",
            "read-only",
            Shell("mkdir -p $S; mount --bind $S $S; mount -o remount,bind,ro $S"),
            true,
            ALL_ABANDON,
        ),
        // From the start on a disk of its own, which is then filled.
        row("state directory", "full", Shell("! cat /dev/zero > $S/full 2>/dev/null"), true, ALL_ABANDON),
        row("log reader", "reads no more", FullPipe, false, ALL_ABANDON),
        row("metadata", "away", Calls("imds:*", || Fault::Reset), false, known(Nobody(1), 1)),
        row("metadata", "401", Calls("imds:*", || answers(401)), false, known(Nobody(1), 1)),
        row("metadata", "wrong", Calls("imds:*", || Fault::Garbage), false, known(Nobody(1), 1)),
        row(
            "role",
            "CompleteLifecycleAction denied",
            Denied("autoscaling:CompleteLifecycleAction"),
            false,
            [Some(Nobody(1)); 3],
        ),
        row(
            "role",
            "credentials gone",
            Calls("imds:GET /latest/meta-data/iam/*", || answers(404)),
            false,
            known(Nobody(1), 1),
        ),
    ]
}

/// Starts the agent, which logs to a pipe.
fn start(node: &Instance) -> (Child, PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    let child = node.agent(&["run"]).stderr(writer.try_clone().unwrap()).spawn().unwrap();
    (child, reader, writer)
}

/// The log, and whether reading it has stopped.
type Log = (Mutex<String>, AtomicBool);

/// Reads the log until told to stop.
fn read(log: &Log, mut pipe: PipeReader) -> PipeReader {
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut buffer = [0; 65_536];
    while !log.1.load(Ordering::SeqCst) {
        match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => log.0.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..got])),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
    pipe
}

/// What came of a cell.
#[derive(Default)]
struct Observed {
    /// What was sent and took effect, and how long after the promised end.
    sent: Option<(String, Option<f64>)>,
    tries: usize,
    exit: Option<i32>,
    promised: bool,
    log: String,
}

fn wait(end: Instant, mut holds: impl FnMut() -> bool) -> bool {
    while !holds() {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Fills the pipe that is not read.
fn fill(pipe: &PipeWriter) {
    // The flag is the open file's, which the agent has too: taken back at once.
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut pipe_end = pipe;
    for size in [65_536, 4096, 1] {
        while pipe_end.write(&vec![b'.'; size]).is_ok() {}
    }
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
}

fn cell(row: &Row, when: When) -> Observed {
    let hook = HookSpec { heartbeat_timeout: Duration::from_secs(6), ..HookSpec::default() };
    let world = World::with_hook(&hook, |_| {});
    let node = world.launch();
    let config =
        config_with(&format!("hold_for = \"{}s\"", HOLD.as_secs()), &[], "[timeouts]\naws = \"2s\"\ncomplete = \"2s\"");
    node.hooks(HOOKS);
    node.configure(config.clone());
    if (row.what, row.spoilt) == ("state directory", "full") {
        node.shell("mkdir -p /var/lib/node-agent; mount -t tmpfs -o size=512k tmpfs /var/lib/node-agent");
    }
    let (log, filled) = (Log::default(), AtomicBool::new(false));
    let mut seen = Observed::default();
    thread::scope(|scope| {
        let spoil = |pipe: Option<&PipeWriter>| match row.how {
            Shell(script) => {
                node.shell(&format!("J={JOURNAL} S=/var/lib/node-agent R=/run/node-agent; {script}"));
            }
            NoLifecycle => {
                let (before, table) = config.split_once("[lifecycle]").unwrap();
                let rest = &table[table.find("\n[").unwrap()..];
                node.configure(format!("{before}{rest}"));
            }
            FullPipe => {
                log.1.store(true, Ordering::SeqCst);
                while !filled.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(1));
                }
                if let Some(pipe) = pipe {
                    fill(pipe);
                }
            }
            Calls(action, fault) => world.sim.add_fault(FaultRule::always(action, fault())).unwrap(),
            Denied(action) => {
                world.sim.change_instance(&node.id, |spec| spec.denied.push(action.to_owned())).unwrap();
            }
        };
        if when == Before && !matches!(row.how, FullPipe) {
            spoil(None);
        }
        let (mut service, reader, writer) = start(&node);
        let reading = scope.spawn(|| {
            let pipe = read(&log, reader);
            filled.store(true, Ordering::SeqCst);
            // Kept open: a pipe without a reader is another case.
            pipe
        });
        if when == Before && matches!(row.how, FullPipe) {
            spoil(Some(&writer));
        }
        let end = Instant::now() + STUCK;
        let exited = |service: &mut Child| service.try_wait().unwrap();
        let exists = |path: &'static str| node.machine().inside(move || Path::new(path).exists()).unwrap();
        let held = || log.0.lock().unwrap().contains("held");
        if wait(end.min(Instant::now() + HOLD), || exists("/tmp/at-work") || held() || exited(&mut service).is_some())
            && exists("/tmp/at-work")
        {
            if when == AtFailure {
                spoil(Some(&writer));
            }
            node.shell("touch /tmp/fail");
        }
        // `status` tells of the hold, or else the log.
        let mut promised_end = None;
        let mut look = |limit| {
            wait(limit, || {
                let output = node.agent(&["status", "--json"]).output().unwrap();
                let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
                let until = document["hold"]["until"].as_str().filter(|_| document["state"] == "held");
                promised_end = until.map(|until| humantime::parse_rfc3339(until).unwrap());
                promised_end.is_some() || document["state"] == "held" || exited(&mut service).is_some()
            })
        };
        look(Instant::now() + Duration::from_secs(5).max(HOLD / 2));
        if when == InHold {
            spoil(Some(&writer));
            if row.retried {
                let mut retry = node.start_with(&["retry"]);
                wait(Instant::now() + HOLD, || retry.child.try_wait().unwrap().is_some());
            }
        }
        let stays = |seen: &Observed| row_end(row, when) == Stays && !seen.promised;
        seen.promised = promised_end.is_some();
        let limit = if stays(&seen) { Instant::now() + HOLD + LATE } else { end };
        let mut completed = None;
        wait(limit, || {
            if completed.is_none()
                && let Some(sent) = world.completions().first()
            {
                completed = Some((sent.clone(), SystemTime::now()));
            }
            exited(&mut service).is_some()
        });
        let last = world.completions();
        let completed = completed.or_else(|| last.first().map(|sent| (sent.clone(), SystemTime::now())));
        seen.sent = completed.map(|(sent, at)| {
            let after = |end: SystemTime| {
                at.duration_since(end).map_or_else(|early| -early.duration().as_secs_f64(), |late| late.as_secs_f64())
            };
            (sent, promised_end.map(after))
        });
        seen.tries = world.events().attempts("autoscaling:CompleteLifecycleAction").len();
        seen.exit = exited(&mut service).and_then(|status| status.code());
        let pid = Pid::from_raw(service.id().try_into().unwrap());
        let _ = kill(pid, Signal::SIGKILL);
        service.wait().unwrap();
        // The log is read to its end, unless reading was stopped.
        drop((writer, service));
        drop(reading.join().unwrap());
    });
    seen.log = log.0.into_inner().unwrap();
    seen
}

fn row_end(row: &Row, when: When) -> End {
    row.ends[when as usize].unwrap()
}

/// Whether the cell has the expected result.
fn judge(end: End, seen: &Observed) -> Result<(), String> {
    let exit = |code: i32| match seen.exit {
        Some(got) if got == code => Ok(()),
        got => Err(format!("exit {got:?}, not {code}")),
    };
    let last = seen.log.split("the hold has ended").nth(1).unwrap_or_default();
    let said = ["complete: failed", "identity: failed"].iter().any(|step| last.contains(step));
    match (end, &seen.sent) {
        (Abandon(code), Some((sent, after))) if sent == "ABANDON" => match after {
            Some(after) if !(-1.0..=LATE.as_secs_f64()).contains(after) => Err(format!("{after:.1} s after its end")),
            Some(_) => exit(code),
            None => Err("the end was not told".to_owned()),
        },
        (Abandon(_), sent) => Err(format!("sent {sent:?}, not ABANDON")),
        (Nobody(code), None) if said => exit(code),
        (Nobody(_), None) => Err("nobody is told, and nothing is said of it".to_owned()),
        (Stays, None) if seen.promised => Err("an end is promised, and does not come".to_owned()),
        (Stays, None) => seen.exit.map_or(Ok(()), |code| Err(format!("exit {code}"))),
        (Nobody(_) | Stays, Some(sent)) => Err(format!("sent {sent:?}")),
    }
}

#[test]
fn whatever_is_spoilt_and_whenever_no_promise_of_a_hold_is_broken() {
    let rows = rows();
    let mut cells = Vec::new();
    for row in &rows {
        cells.extend(
            [Before, AtFailure, InHold]
                .into_iter()
                .filter(|when| row.ends[*when as usize].is_some())
                .map(|when| (row, when)),
        );
    }
    // The longest first.
    cells.sort_by_key(|(row, when)| match row_end(row, *when) {
        Nobody(_) => 0,
        Stays => 1,
        Abandon(_) => 2,
    });
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((row, when)) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // A thread of its own, because a world lives in the mount namespace of its thread.
                    let seen = thread::scope(|scope| scope.spawn(|| cell(row, *when)).join());
                    results.lock().unwrap().push((row.what, row.spoilt, *when, row_end(row, *when), seen));
                }
            });
        }
    });
    let place = |what: &str, spoilt: &str| rows.iter().position(|row| (row.what, row.spoilt) == (what, spoilt));
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(what, spoilt, when, ..)| (place(what, spoilt), *when as usize));

    let mut table = format!(
        "{:<18} {:<31} {:<10} {:<28} {:<18} {:<6} {}\n",
        "what", "spoilt", "when", "sent", "after the end", "exit", "as expected"
    );
    let mut wrong = Vec::new();
    for (what, spoilt, when, end, seen) in &results {
        let (sent, after, exit, verdict, log) = match seen {
            Ok(seen) => {
                let sent = match &seen.sent {
                    Some((sent, _)) => sent.clone(),
                    None if seen.tries > 0 => format!("nothing taken of {} tries", seen.tries),
                    None => "nothing".to_owned(),
                };
                let after = seen.sent.as_ref().and_then(|(_, after)| *after);
                let after = match (after, seen.promised) {
                    (Some(after), _) => format!("{after:+.1} s"),
                    (None, true) => "an end was told".to_owned(),
                    (None, false) => "none was told".to_owned(),
                };
                let exit = seen.exit.map_or("stays".to_owned(), |code| code.to_string());
                (sent, after, exit, judge(*end, seen), seen.log.clone())
            }
            Err(_) => (String::new(), String::new(), String::new(), Err("panicked".to_owned()), String::new()),
        };
        let word = match &verdict {
            Ok(()) => "yes".to_owned(),
            Err(why) => format!("NO: {why}"),
        };
        let _ = writeln!(
            table,
            "{what:<18} {spoilt:<31} {:<10} {sent:<28} {after:<18} {exit:<6} {word}",
            format!("{when:?}")
        );
        if verdict.is_err() {
            wrong.push(format!("{what}, {spoilt}, {when:?}: expected {end:?}: {word}\n{log}"));
        }
    }
    let _ = writeln!(table, "{} cells in {:?}", results.len(), began.elapsed());
    println!("{table}");
    std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("matrix.txt"), &table).unwrap();
    assert!(wrong.is_empty(), "{}\n{table}", wrong.join("\n\n"));
}
