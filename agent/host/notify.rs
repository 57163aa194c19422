//! What systemd is told of the service (`sd_notify(3)`), by a thread of its own: a manager that does not read must not stop the
//! work. Without systemd there is nobody to tell.
//!
//! What was not sent yet is not queued but replaced by what is newer: however long nobody reads, READY=1 and the last status
//! come, in one message.

use std::env;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// A message that the socket refuses is sent again after this long, this often.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
const MAX_RETRIES: u32 = 60;

/// What is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Message {
    ready: bool,
    stopping: bool,
    watchdog: bool,
    status: Option<String>,
}

impl Message {
    fn is_empty(&self) -> bool {
        *self == Message::default()
    }

    /// This one, and of the older one what this one does not replace.
    fn merged_over(self, older: Message) -> Message {
        Message {
            ready: self.ready || older.ready,
            stopping: self.stopping || older.stopping,
            watchdog: self.watchdog || older.watchdog,
            status: self.status.or(older.status),
        }
    }

    fn send(&self) -> std::io::Result<()> {
        let mut states = Vec::new();
        states.extend(self.ready.then_some(NotifyState::Ready));
        states.extend(self.status.as_deref().map(NotifyState::Status));
        states.extend(self.stopping.then_some(NotifyState::Stopping));
        states.extend(self.watchdog.then_some(NotifyState::Watchdog));
        sd_notify::notify(&states)
    }
}

#[derive(Default)]
struct Outbox {
    next: Message,
    /// The thread is there.
    has_thread: bool,
    /// A message is being sent.
    sending: bool,
}

static OUTBOX: Mutex<Outbox> = Mutex::new(Outbox {
    next: Message { ready: false, stopping: false, watchdog: false, status: None },
    has_thread: false,
    sending: false,
});
static CHANGED: Condvar = Condvar::new();

fn outbox() -> MutexGuard<'static, Outbox> {
    OUTBOX.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The service is ready: the boot goes on.
pub fn ready() {
    enqueue(Message { ready: true, ..Message::default() });
}

/// The service has been told to stop.
pub fn stopping() {
    enqueue(Message { stopping: true, ..Message::default() });
}

/// The service is not stuck.
pub fn watchdog() {
    enqueue(Message { watchdog: true, ..Message::default() });
}

/// How the node stands, in one line: a second one would be another variable.
pub fn status(line: &str) {
    enqueue(Message { status: Some(line.to_owned()), ..Message::default() });
}

/// Waits until all is sent, at most this long: the process is about to end.
pub fn flush(limit: Duration) {
    let end = Instant::now() + limit;
    let mut outbox = outbox();
    while outbox.has_thread && (outbox.sending || !outbox.next.is_empty()) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        outbox = CHANGED.wait_timeout(outbox, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn enqueue(message: Message) {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let mut outbox = outbox();
    outbox.next = message.merged_over(std::mem::take(&mut outbox.next));
    if !outbox.has_thread {
        // Without a thread nothing is told: only the work matters.
        outbox.has_thread = thread::Builder::new().name("notify".to_owned()).spawn(serve).is_ok();
    }
    CHANGED.notify_all();
}

fn serve() {
    let mut refusals = 0;
    let mut outbox = outbox();
    loop {
        while outbox.next.is_empty() {
            outbox = CHANGED.wait(outbox).unwrap_or_else(PoisonError::into_inner);
        }
        let message = std::mem::take(&mut outbox.next);
        outbox.sending = true;
        drop(outbox);
        // Blocks as long as systemd does not read.
        let sent = message.send();
        outbox = self::outbox();
        outbox.sending = false;
        refusals = if sent.is_ok() { 0 } else { refusals + 1 };
        if sent.is_err() && refusals <= MAX_RETRIES {
            outbox.next = std::mem::take(&mut outbox.next).merged_over(message);
            outbox = CHANGED.wait_timeout(outbox, RETRY_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
        CHANGED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_sent_is_kept_but_an_older_status() {
        let old = Message { ready: true, status: Some("attach".to_owned()), ..Message::default() };
        let new = Message { watchdog: true, status: Some("mount".to_owned()), ..Message::default() };
        let both = Message { ready: true, watchdog: true, stopping: false, status: Some("mount".to_owned()) };
        assert_eq!(new.merged_over(old.clone()), both);
        assert_eq!(Message { stopping: true, ..Message::default() }.merged_over(old).status.as_deref(), Some("attach"));
    }
}
