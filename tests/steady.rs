//! The service on a node in service is quiet: it asks the metadata service whether the node is to go, and hardly anything else.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "departure/common.rs"]
mod common;
mod support;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use common::{Leaving, leaving};
use ec2_sim::What;
use support::Running;

const WATCHED: Duration = Duration::from_secs(60);
/// What is open for a moment only is in one sample, not in a row of them.
const IN_A_ROW: usize = 5;

fn open_descriptors(service: &Running) -> usize {
    fs::read_dir(format!("/proc/{}/fd", service.child.id())).unwrap().count()
}

#[test]
fn a_minute_in_service_costs_two_polls_each_five_seconds_and_two_other_calls() {
    let Leaving { world, service, .. } = leaving("xfs", "detach_on_terminate = true", "");
    // Past what follows the boot.
    thread::sleep(Duration::from_secs(5));
    let before = world.events().len();
    let (began, mut open) = (Instant::now(), Vec::new());
    while began.elapsed() < WATCHED {
        open.push(open_descriptors(&service));
        thread::sleep(Duration::from_millis(500));
    }

    let events = &world.events()[before..];
    let imds: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Imds(call) => Some(call.action.as_str()),
            _ => None,
        })
        .collect();
    let asked = |path: &str| imds.iter().filter(|action| action.ends_with(path)).count();
    let polls = ["/autoscaling/target-lifecycle-state", "/spot/instance-action"].map(asked);
    // The pauses are of five seconds, up to a tenth more or less.
    assert!(polls.iter().all(|count| (9..=14).contains(count)), "{polls:?} in {imds:?}");
    let others = imds.len() - polls.iter().sum::<usize>();
    assert!(others <= 2, "{others} beyond {polls:?} in {imds:?}");
    let calls: Vec<_> = events.iter().filter(|event| matches!(event.what, What::Api(_))).collect();
    assert!(calls.is_empty(), "{calls:?}");
    let lasting: Vec<_> = open.windows(IN_A_ROW).map(|row| row.iter().min().unwrap()).collect();
    // Connections of the boot are closed after a while; nothing is added.
    assert!(lasting.is_sorted_by(|before, after| before >= after), "open descriptors: {open:?}");
}
