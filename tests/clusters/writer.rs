//! A client outside the nodes that writes without pause, goes to the next node when one fails, and records each acknowledged write.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::kind::Kind;

/// From one write to the next.
const PACE: Duration = Duration::from_millis(5);
/// No call of the client may take longer: it then asks another node.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// A client's connection to one node.
pub trait Session {
    /// Writes a key that was never written before. Success means that the cluster has acknowledged it.
    fn write(&mut self, key: u64) -> io::Result<()>;
}

/// An acknowledged write.
#[derive(Clone, Copy)]
struct Ack {
    key: u64,
    /// The part of the cluster that has it, where parts fail by themselves.
    part: usize,
    at: Instant,
}

/// What a client has seen.
#[derive(Default)]
pub struct Record {
    acks: Mutex<Vec<Ack>>,
    last_error: Mutex<Option<String>>,
    ends: AtomicBool,
}

impl Record {
    /// A write was acknowledged.
    pub fn ack(&self, key: u64, part: usize) {
        self.acks.lock().unwrap().push(Ack { key, part, at: Instant::now() });
    }

    /// A write has failed, or nobody knows what became of it.
    pub fn fail(&self, error: impl ToString) {
        *self.last_error.lock().unwrap() = Some(error.to_string());
    }

    /// Whether the client is to end.
    pub fn ends(&self) -> bool {
        self.ends.load(Ordering::SeqCst)
    }
}

/// The client at work. Dropped, it ends.
pub struct Writer {
    record: Arc<Record>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Begins to write to these nodes, and returns after the first acknowledged write.
    pub fn start<K: Kind>(nodes: Vec<Ipv4Addr>) -> Writer {
        let record = Arc::<Record>::default();
        let writers = Arc::clone(&record);
        let thread = thread::spawn(move || K::write(&nodes, &writers));
        let writer = Writer { record, thread: Some(thread) };
        writer.wait_for_more(1);
        writer
    }

    /// Waits until so many more writes are acknowledged.
    pub fn wait_for_more(&self, count: usize) {
        let (wanted, began) = (self.record.acks.lock().unwrap().len() + count, Instant::now());
        while self.record.acks.lock().unwrap().len() < wanted {
            assert!(
                began.elapsed() < Duration::from_mins(1),
                "nothing is acknowledged: {:?}",
                self.record.last_error.lock().unwrap()
            );
            thread::sleep(PACE);
        }
    }

    /// The longest time without an acknowledged write since then, up to now; of several parts, in the worst of them.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let mut last = BTreeMap::new();
        let mut longest = Duration::ZERO;
        for ack in self.record.acks.lock().unwrap().iter() {
            if ack.at < since {
                last.insert(ack.part, since);
            } else {
                longest = longest.max(ack.at - last.insert(ack.part, ack.at).unwrap_or(since));
            }
        }
        last.into_values().map(|at| at.elapsed()).fold(longest, Duration::max)
    }

    /// Ends, and returns every acknowledged key.
    pub fn stop(mut self) -> BTreeSet<u64> {
        self.end();
        self.record.acks.lock().unwrap().iter().map(|ack| ack.key).collect()
    }

    fn end(&mut self) {
        self.record.ends.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.end();
        }
    }
}

/// Writes one key after the other, in a session with one node until a write fails, then with the next one.
pub fn write_one_by_one<S: Session>(nodes: &[Ipv4Addr], record: &Record, connect: fn(Ipv4Addr) -> io::Result<S>) {
    let (mut key, mut node) = (0, 0);
    let mut session = None;
    while !record.ends() {
        // What became of a write that failed is not known: its key is not written again.
        key += 1;
        match attempt(&mut session, || connect(nodes[node]), key) {
            Ok(()) => record.ack(key, 0),
            Err(error) => {
                record.fail(error);
                session = None;
                node = (node + 1) % nodes.len();
            }
        }
        thread::sleep(PACE);
    }
}

fn attempt<S: Session>(session: &mut Option<S>, connect: impl FnOnce() -> io::Result<S>, key: u64) -> io::Result<()> {
    if session.is_none() {
        *session = Some(connect()?);
    }
    session.as_mut().map_or(Ok(()), |session| session.write(key))
}
