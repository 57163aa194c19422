//! The gate: of a cluster's nodes at most one is away, whatever is told to go.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "gate/cluster.rs"]
mod cluster;
#[path = "gate/common.rs"]
mod common;
#[path = "departure/common.rs"]
mod departure;
#[path = "support/seeds.rs"]
mod seeds;
mod support;

use std::time::{Duration, Instant};

use cluster::{Absence, Behaviour, Cluster};
use ec2_sim::{Latencies, Spread};

/// How many seeds run in `make test`. All of them, before a release: GATE_SEEDS=40.
const SEEDS: u64 = 4;
/// How many clusters run at once: they wait more than they work.
const AT_ONCE: usize = 10;

/// How long things take at most, in milliseconds.
struct Pace {
    /// From one order to the other; of every second seed a sixth, so that the two often wait for each other.
    gap: u64,
    /// From the loss of an instance to the launch in its place.
    launch: u64,
    configure: u64,
    /// Until the metadata service shows that an instance is to go.
    target_state: u64,
}

const ALL: Pace = Pace { gap: 60_000, launch: 20_000, configure: 15_000, target_state: 20_000 };
/// A handful has little time. The orders come close together, which is what is hard.
const HANDFUL: Pace = Pace { gap: 12_000, launch: 5_000, configure: 3_000, target_state: 4_000 };

/// How often a describe is answered from the past, at most. Never twice in a row for the same node: the gate bears no more.
const STALE_EVERY: std::ops::Range<u64> = 5..12;

#[test]
fn at_no_time_are_two_nodes_away_whenever_two_are_told_to_go() {
    let given = std::env::var("GATE_SEEDS").ok().and_then(|text| text.parse().ok());
    let count = given.unwrap_or(SEEDS);
    let pace = if given.is_some() { ALL } else { HANDFUL };
    let began = Instant::now();
    let results = seeds::side_by_side(0..count, AT_ONCE, |seed| two_told_to_go(seed, &pace));
    assert_eq!(results.len() as u64, count);
    let waits = results.iter().flat_map(|(_, absences)| absences).map(|absence| absence.drained - absence.told);
    let longest = waits.fold(0.0, f64::max);
    println!("{count} seeds in {:.0?}: the longest wait from order to drain was {longest:.0} s", began.elapsed());
    let violations: Vec<_> =
        results.iter().filter_map(|(seed, absences)| Some((seed, never_two_away(absences).err()?))).collect();
    assert!(violations.is_empty(), "{violations:#?}");
}

/// Two of three nodes are told to go, by either order of their names, at times and in a world drawn by the seed.
fn two_told_to_go(seed: u64, pace: &Pace) -> Vec<Absence> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut up_to = |milliseconds: u64| Duration::from_millis(random.u64(0..=milliseconds));
    let latencies = Latencies {
        target_state: Spread::between(Duration::ZERO, up_to(pace.target_state)),
        terminating_to_wait: Spread::between(Duration::ZERO, up_to(4_000)),
        ..Latencies::default()
    };
    let launch = (Spread::from(up_to(pace.launch)), Spread::from(Duration::from_secs(1) + up_to(3_000)));
    let longest_gap = if seed.is_multiple_of(2) { pace.gap } else { pace.gap / 6 };
    let (configure, drain, gap) = (up_to(pace.configure), up_to(3_000), up_to(longest_gap));
    let mut stale = Vec::new();
    for action in
        ["autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeAutoScalingInstances", "ec2:DescribeInstances"]
    {
        let mut before = random.u64(STALE_EVERY);
        while before < 200 {
            stale.push((action, u32::try_from(before).unwrap(), random.usize(1..=3)));
            before += random.u64(STALE_EVERY);
        }
    }
    let mut nodes = vec![0, 1, 2];
    random.shuffle(&mut nodes);
    let mut cluster =
        Cluster::new(3, Behaviour { seed, latencies, launch, configure, drain, stale, ..Behaviour::default() });
    let absences = cluster.tell(&[(Duration::ZERO, nodes[0]), (gap, nodes[1])]);
    println!("seed {seed}: {:?}, {gap:.1?} apart: {absences:?}", &nodes[..2]);
    absences
}

/// At no time two of these were away: one that drains is away until its group has a node in service again.
fn never_two_away(absences: &[Absence]) -> Result<(), String> {
    let mut absences = absences.to_vec();
    absences.sort_by(|one, other| one.drained.total_cmp(&other.drained));
    match absences.windows(2).find(|pair| pair[1].drained < pair[0].back) {
        Some(pair) => Err(format!("two were away at once: {pair:?}")),
        None => Ok(()),
    }
}

#[test]
fn three_nodes_told_to_go_at_once_leave_one_after_the_other() {
    let mut cluster = Cluster::new(3, Behaviour::default());

    let absences = cluster.tell(&[0, 1, 2].map(|node| (Duration::ZERO, node)));

    never_two_away(&absences).unwrap();
    let mut order = absences.clone();
    order.sort_by(|one, other| one.drained.total_cmp(&other.drained));
    let order: Vec<_> = order.iter().map(|absence| absence.group.as_str()).collect();
    assert_eq!(order, ["kafka-node-00", "kafka-node-01", "kafka-node-02"], "{absences:?}");
}
