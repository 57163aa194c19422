//! A client outside the nodes that writes without pause, goes to the next node when one fails, and records each acknowledged write.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::kind::{Kind, Session};

/// From one write to the next.
const PACE: Duration = Duration::from_millis(5);
/// No call of the client may take longer: it then asks another node.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// An acknowledged write.
#[derive(Clone, Copy)]
struct Ack {
    key: u64,
    at: Instant,
}

/// The client at work. Dropped, it ends.
pub struct Writer {
    acks: Arc<Mutex<Vec<Ack>>>,
    last_error: Arc<Mutex<Option<io::Error>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Begins to write to these nodes, and returns after the first acknowledged write.
    pub fn start<K: Kind>(nodes: Vec<Ipv4Addr>) -> Writer {
        let (acks, last_error, ends) = (Arc::default(), Arc::default(), Arc::new(AtomicBool::new(false)));
        let (written, failed, stopped) = (Arc::clone(&acks), Arc::clone(&last_error), Arc::clone(&ends));
        let thread = thread::spawn(move || write::<K>(&nodes, &written, &failed, &stopped));
        let writer = Writer { acks, last_error, ends, thread: Some(thread) };
        writer.wait_for_more(1);
        writer
    }

    /// Waits until so many more writes are acknowledged.
    pub fn wait_for_more(&self, count: usize) {
        let (wanted, began) = (self.acks.lock().unwrap().len() + count, Instant::now());
        while self.acks.lock().unwrap().len() < wanted {
            assert!(
                began.elapsed() < Duration::from_mins(1),
                "nothing is acknowledged: {:?}",
                self.last_error.lock().unwrap()
            );
            thread::sleep(PACE);
        }
    }

    /// The longest time without an acknowledged write since then, up to now.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let mut last = since;
        let mut longest = Duration::ZERO;
        for ack in self.acks.lock().unwrap().iter().filter(|ack| ack.at >= since) {
            longest = longest.max(ack.at - last);
            last = ack.at;
        }
        longest.max(last.elapsed())
    }

    /// Ends, and returns every acknowledged key.
    pub fn stop(mut self) -> BTreeSet<u64> {
        self.end();
        self.acks.lock().unwrap().iter().map(|ack| ack.key).collect()
    }

    fn end(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
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

fn write<K: Kind>(
    nodes: &[Ipv4Addr],
    acks: &Mutex<Vec<Ack>>,
    last_error: &Mutex<Option<io::Error>>,
    ends: &AtomicBool,
) {
    let (mut key, mut node) = (0, 0);
    let mut session: Option<Box<dyn Session>> = None;
    while !ends.load(Ordering::SeqCst) {
        // What became of a write that failed is not known: its key is not written again.
        key += 1;
        match attempt::<K>(&mut session, nodes[node], key) {
            Ok(()) => acks.lock().unwrap().push(Ack { key, at: Instant::now() }),
            Err(error) => {
                *last_error.lock().unwrap() = Some(error);
                session = None;
                node = (node + 1) % nodes.len();
            }
        }
        thread::sleep(PACE);
    }
}

fn attempt<K: Kind>(session: &mut Option<Box<dyn Session>>, node: Ipv4Addr, key: u64) -> io::Result<()> {
    if session.is_none() {
        *session = Some(K::connect(node)?);
    }
    session.as_mut().map_or(Ok(()), |session| session.write(key))
}
