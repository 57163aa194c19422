//! Notifies systemd of the service's state (`sd_notify(3)`) from a thread of its own: a manager that does not read must not stop
//! the work. Without systemd nothing is sent.
//!
//! Unsent messages are merged instead of queued: after any delay systemd receives READY=1 and the last status in one message.

use std::env;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// A message that the socket refuses is resent after this long, this many times.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
const MAX_RETRIES: u32 = 60;

/// A notification, possibly merged from several.
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

    /// The union of both; this message's status replaces the older one's.
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

struct Outbox {
    next: Message,
    has_thread: bool,
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

/// The service is ready: the boot continues.
pub fn ready() {
    enqueue(Message { ready: true, ..Message::default() });
}

/// The service has received a stop signal.
pub fn stopping() {
    enqueue(Message { stopping: true, ..Message::default() });
}

/// Resets systemd's watchdog timer.
pub fn watchdog() {
    enqueue(Message { watchdog: true, ..Message::default() });
}

/// The node's state, in one line: systemd would read a second line as another variable.
pub fn status(line: &str) {
    enqueue(Message { status: Some(line.to_owned()), ..Message::default() });
}

/// Waits until everything is sent, at most for `limit`; for the end of the process.
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
        // Notifications are optional: the work continues without the thread.
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
    fn unsent_messages_are_merged_and_the_newer_status_wins() {
        let old = Message { ready: true, status: Some("attach".to_owned()), ..Message::default() };
        let new = Message { watchdog: true, status: Some("mount".to_owned()), ..Message::default() };
        let both = Message { ready: true, watchdog: true, stopping: false, status: Some("mount".to_owned()) };
        assert_eq!(new.merged_over(old.clone()), both);
        assert_eq!(Message { stopping: true, ..Message::default() }.merged_over(old).status.as_deref(), Some("attach"));
    }
}
