//! QEMU's control protocol (QEMU documentation, "QEMU Machine Protocol"): JSON, a line each.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// QEMU answers within milliseconds; under full load within seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection. QEMU's events are kept.
pub struct Qmp {
    /// One command at a time, and its answer.
    line: Mutex<(UnixStream, Receiver<Value>)>,
    told: Arc<(Mutex<Vec<Value>>, Condvar)>,
}

impl Qmp {
    pub fn connect(path: &Path) -> io::Result<Qmp> {
        let stream = UnixStream::connect(path)?;
        let (sender, answers) = mpsc::channel();
        let told = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let (reader, kept) = (BufReader::new(stream.try_clone()?), Arc::clone(&told));
        thread::spawn(move || {
            for line in reader.lines() {
                let Some(message) = line.ok().and_then(|line| serde_json::from_str::<Value>(&line).ok()) else {
                    return;
                };
                if message.get("event").is_some() {
                    kept.0.lock().unwrap().push(message);
                    kept.1.notify_all();
                } else if message.get("QMP").is_none() && sender.send(message).is_err() {
                    return;
                }
            }
        });
        let qmp = Qmp { line: Mutex::new((stream, answers)), told };
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns its result.
    pub fn execute(&self, command: &str, arguments: Value) -> io::Result<Value> {
        let (stream, answers) = &mut *self.line.lock().unwrap();
        writeln!(stream, "{}", json!({ "execute": command, "arguments": arguments }))?;
        let answer = answers.recv_timeout(PATIENCE).map_err(io::Error::other)?;
        match answer.get("return") {
            Some(value) => Ok(value.clone()),
            None => Err(io::Error::other(format!("{command} {arguments}: {}", answer["error"]["desc"]))),
        }
    }

    /// How often this event has come.
    pub fn count(&self, wanted: impl Fn(&Value) -> bool) -> usize {
        self.told.0.lock().unwrap().iter().filter(|event| wanted(event)).count()
    }

    /// Whether this event comes for the `nth` time within the limit.
    pub fn wait_for(&self, nth: usize, timeout: Duration, wanted: impl Fn(&Value) -> bool) -> bool {
        let told = self.told.0.lock().unwrap();
        let few = |told: &mut Vec<Value>| told.iter().filter(|event| wanted(event)).count() < nth;
        !self.told.1.wait_timeout_while(told, timeout, few).unwrap().1.timed_out()
    }
}
