//! Seeds, many of them at once: their worlds wait more than they work.

use std::ops::Range;
use std::sync::Mutex;
use std::thread;

/// Runs `work` for each seed, this many at once, and returns what each has brought, in the order of their ends.
pub(crate) fn side_by_side<T: Send>(
    seeds: Range<u64>,
    at_once: usize,
    work: impl Fn(u64) -> T + Sync,
) -> Vec<(u64, T)> {
    let workers = at_once.min(seeds.clone().count());
    let (next, results) = (Mutex::new(seeds), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let Some(seed) = next.lock().unwrap().next() else { break };
                    let result = work(seed);
                    results.lock().unwrap().push((seed, result));
                }
            });
        }
    });
    results.into_inner().unwrap()
}
