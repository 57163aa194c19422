//! Writes lines by a thread of its own: an unread pipe, a stopped terminal or a hanging journald blocks its writers, and must
//! not stop the work.
//!
//! The backlog is bounded. When it is full, the oldest item is dropped: the last line of a run is worth most. A line in place
//! of the dropped items counts them as soon as the reader reads again.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The most bytes in a backlog.
const LIMIT: usize = 1 << 20;

/// Something to be written.
pub(super) trait Item: Send + 'static {
    /// In bytes, roughly.
    fn size(&self) -> usize;

    /// An item that reports how many lines were dropped in its place.
    fn dropped(lines: u64) -> Self;
}

/// A bounded queue that drops the oldest items.
pub(super) struct Backlog<T> {
    items: VecDeque<T>,
    size: usize,
    dropped: u64,
}

impl<T> Default for Backlog<T> {
    fn default() -> Self {
        Backlog { items: VecDeque::new(), size: 0, dropped: 0 }
    }
}

impl<T: Item> Backlog<T> {
    pub(super) fn push(&mut self, item: T) {
        self.size += item.size();
        self.items.push_back(item);
        // The newest stays, whatever its size.
        while self.size > LIMIT && self.items.len() > 1 {
            let oldest = self.items.pop_front();
            self.size -= oldest.map_or(0, |oldest| oldest.size());
            self.dropped += 1;
        }
    }

    /// The oldest one, and how many were dropped before it.
    pub(super) fn pop(&mut self) -> Option<(u64, T)> {
        let item = self.items.pop_front()?;
        self.size -= item.size();
        Some((std::mem::take(&mut self.dropped), item))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// One reader, and the thread that writes to it.
pub(super) struct Outlet<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    queue: Mutex<Queue<T>>,
    changed: Condvar,
    /// Writes an item, and returns whether the reader accepted it.
    write: Box<dyn Fn(&T) -> bool + Send + Sync>,
}

struct Queue<T> {
    backlog: Backlog<T>,
    /// The writing thread runs.
    served: bool,
    /// An item is being written.
    writing: bool,
}

impl<T: Item> Outlet<T> {
    pub(super) fn new(write: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        let queue = Queue { backlog: Backlog::default(), served: false, writing: false };
        Outlet {
            shared: Arc::new(Shared { queue: Mutex::new(queue), changed: Condvar::new(), write: Box::new(write) }),
        }
    }

    pub(super) fn push(&self, item: T) {
        let shared = &self.shared;
        let mut queue = shared.lock();
        if !queue.served {
            let served = Arc::clone(shared);
            queue.served = thread::Builder::new().name("log".to_owned()).spawn(move || served.serve()).is_ok();
        }
        if !queue.served {
            // Without a thread the caller waits for the reader.
            (shared.write)(&item);
            return;
        }
        queue.backlog.push(item);
        shared.changed.notify_all();
    }

    /// Whether all items are written.
    pub(super) fn is_idle(&self) -> bool {
        self.shared.lock().is_idle()
    }

    /// Returns a closure that waits until all items are written, or the given end.
    pub(super) fn flush(&self) -> impl FnOnce(Instant) + use<T> {
        let shared = Arc::clone(&self.shared);
        move |end| {
            let mut queue = shared.lock();
            while !queue.is_idle() {
                let left = end.saturating_duration_since(Instant::now());
                if left == Duration::ZERO {
                    return;
                }
                queue = shared.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

impl<T: Item> Queue<T> {
    fn is_idle(&self) -> bool {
        !self.writing && self.backlog.is_empty()
    }
}

impl<T: Item> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut queue = self.lock();
        loop {
            let Some((dropped, item)) = queue.backlog.pop() else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.writing = true;
            drop(queue);
            let reported = dropped == 0 || (self.write)(&T::dropped(dropped));
            let lost = match (reported, reported && (self.write)(&item)) {
                (_, true) => 0,
                (true, false) => 1,
                (false, false) => dropped + 1,
            };
            queue = self.lock();
            queue.writing = false;
            queue.backlog.dropped += lost;
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use proptest::prelude::*;

    use super::*;

    /// A number and a size, which is 0 where items were dropped.
    impl Item for (u64, usize) {
        fn size(&self) -> usize {
            self.1
        }

        fn dropped(lines: u64) -> Self {
            (lines, 0)
        }
    }

    proptest! {
        /// Whenever items are popped in between, they come out in order, and each gap has its exact count.
        #[test]
        fn dropped_items_are_counted_where_they_are_missing(
            steps in proptest::collection::vec((1_usize..LIMIT / 3, 0_usize..3), 1..60)
        ) {
            let mut backlog = Backlog::default();
            let mut out = Vec::new();
            let mut pushed = 0_u64;
            for (size, taken) in steps {
                backlog.push((pushed, size));
                pushed += 1;
                prop_assert!(backlog.size <= LIMIT);
                out.extend((0..taken).map_while(|_| backlog.pop()));
            }
            out.extend(std::iter::from_fn(|| backlog.pop()));
            prop_assert!(backlog.is_empty() && backlog.size == 0);
            let mut next = 0;
            for (dropped, (number, _)) in out {
                prop_assert_eq!(number, next + dropped);
                next = number + 1;
            }
            prop_assert_eq!(next, pushed);
        }
    }

    #[test]
    fn refused_lines_are_counted_and_reported_once_the_reader_accepts_one() {
        // `None`: the reader refuses every line.
        let reader = Arc::new(Mutex::new(None::<Vec<(u64, usize)>>));
        let end = Arc::clone(&reader);
        let outlet = Outlet::new(move |line| end.lock().unwrap().as_mut().map(|lines| lines.push(*line)).is_some());
        (0..7).for_each(|number| outlet.push((number, 1)));
        outlet.flush()(Instant::now() + Duration::from_mins(1));
        *reader.lock().unwrap() = Some(Vec::new());
        outlet.push((8, 1));
        outlet.flush()(Instant::now() + Duration::from_mins(1));
        assert_eq!(reader.lock().unwrap().take().unwrap(), [(7, 0), (8, 1)]);
    }

    #[test]
    fn a_reader_that_reads_again_gets_the_rest_in_order_and_the_last_line() {
        const LAST: u64 = 4000;
        let (sender, receiver) = mpsc::sync_channel(0);
        let outlet = Outlet::new(move |line: &(u64, usize)| sender.send(*line).is_ok());
        for number in 0..=LAST {
            outlet.push((number, 1 << 10));
            // The writing thread takes the first line before the others come: otherwise there may be two gaps.
            while number == 0 && !outlet.shared.lock().backlog.is_empty() {
                thread::yield_now();
            }
        }
        assert!(!outlet.is_idle());

        let (mut gaps, mut next, mut last) = (Vec::new(), 0, 0);
        while last != LAST {
            let (number, size) = receiver.recv().unwrap();
            if size == 0 {
                gaps.push(number);
                next += number;
            } else {
                assert_eq!(number, next);
                (last, next) = (number, next + 1);
            }
        }
        assert_eq!(gaps.len(), 1, "{gaps:?}");
        outlet.flush()(Instant::now() + Duration::from_mins(1));
        assert!(outlet.is_idle());
    }
}
