//! Rolls in worlds drawn by a seed, with everything against them at once: late, disagreeing and backward descriptions, lost replies,
//! throttling, nodes that die, versions that are broken, kills of the roll and a second roll beside it.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/adversity.rs"]
mod adversity;
#[path = "roll/cluster.rs"]
mod cluster;
#[path = "support/seeds.rs"]
mod seeds;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{self, AssertUnwindSafe};
use std::thread;
use std::time::{Duration, Instant};

use adversity::{Adversity, Blow, FROZEN};
use cluster::witness::{nobody_went_wrongly, story};
use cluster::{Behaviour, Cluster, Healthy, Rolling};
use ec2_sim::{Act, Fault, FaultRule, Lag, Spread, Transition};
use nix::sys::signal::Signal;
use serde_json::Value;

/// How many seeds run in `make test`. All of them, before a release: ROLL_SEEDS=300.
const SEEDS: u64 = 8;
/// How many clusters are rolled at once: they wait more than they work.
const AT_ONCE: usize = 60;
/// How many rolls a seed starts at most while the world is against them. Then it calms down, and one more must finish.
const ATTEMPTS: usize = 4;
/// How long rolls may last without a step of any of them, whatever is against them: `--timeout`, three times.
const STUCK: Duration = Duration::from_mins(5);

/// How the rolls of a seed have ended, by exit code; -1 for the killed ones.
type Ends = BTreeMap<i32, usize>;

#[test]
fn whatever_goes_wrong_one_node_at_most_is_out_because_of_a_roll() {
    let count = std::env::var("ROLL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS);
    let first = std::env::var("ROLL_SEED_FIRST").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let began = Instant::now();
    // A seed that fails keeps none of the others from running.
    let caught = |seed| panic::catch_unwind(AssertUnwindSafe(|| rolled(seed)));
    let results = seeds::side_by_side(first..first + count, AT_ONCE, caught);
    let mut ends = Ends::new();
    let (mut outages, mut failed) = (0, Vec::new());
    for (seed, result) in results {
        match result {
            Ok((of_seed, out)) => {
                of_seed.into_iter().for_each(|(code, times)| *ends.entry(code).or_default() += times);
                outages += out;
            }
            Err(_) => failed.push(seed),
        }
    }
    println!("{count} seeds in {:.0?}: {ends:?} (exit codes), {outages} nodes taken", began.elapsed());
    assert!(failed.is_empty(), "seeds {failed:?}");
}

/// A cluster of the seed's, and its operator.
struct Operator {
    world: Adversity,
    cluster: Cluster,
    /// The newest version.
    latest: u64,
    is_mended: bool,
    ends: Ends,
    /// What each roll has printed, in the order of their starts.
    logs: Vec<String>,
}

/// Rolls a cluster as its operator would, until it is uniform. Tells how the rolls ended and how many nodes they took.
fn rolled(seed: u64) -> (Ends, usize) {
    let world = Adversity::new(seed);
    let cluster = cluster_of(&world);
    let mut operator = Operator { world, cluster, latest: 2, is_mended: false, ends: Ends::new(), logs: Vec::new() };
    for attempt in 0..ATTEMPTS {
        let rolls = operator.rolls();
        let has_ended_with = |wanted: i32| rolls.iter().any(|(code, _)| *code == wanted);
        assert!(rolls.iter().any(|(code, _)| *code != 4), "{}", operator.told(&rolls));
        if has_ended_with(0) {
            break;
        }
        if operator.world.breaks.is_some() && (has_ended_with(1) || attempt >= ATTEMPTS / 2) {
            operator.publish();
        }
    }
    operator.publish();
    calm(&operator.cluster);
    let last = operator.cluster.roll(&["--json", "--replace-held", "--timeout", "10m"]);
    let rolls = operator.watched(vec![last], Blow::None, None, None);
    assert_eq!(rolls[0].0, 0, "a roll in a calm world: {}", operator.told(&rolls));
    let Operator { world, cluster, latest, ends, logs, .. } = operator;
    cluster.all_run(&latest.to_string());
    cluster.has_no_flag();
    let taken = nobody_went_wrongly(&cluster.sim, &cluster.groups(), blindness(&world), |act| target_of(&logs, act));
    println!("seed {seed}: {ends:?}; taken: {}", taken.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    (ends, taken.len())
}

/// The version that the roll which has acted has planned for the group. Each has credentials of its own, numbered in the order of
/// their starts.
fn target_of(logs: &[String], act: &Act) -> Option<u64> {
    let number: usize = act.caller.as_ref()?.strip_prefix("operator-")?.parse().ok()?;
    let events = logs.get(number - 1)?.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut plans = events.filter(|event| event["event"] == "plan");
    plans.find(|plan| plan["group"].as_str() == act.group.as_deref())?["target"].as_u64()
}

/// How long a node may have been away unseen when a roll acts: a look that is 15 s old, of answers that are late, of a death that
/// Auto Scaling has not noticed; and what a call takes.
fn blindness(world: &Adversity) -> Duration {
    let lag = world.lag.groups.most.max(world.lag.members.most);
    Duration::from_secs(15) + lag + world.latencies.notice.most + Duration::from_secs(1)
}

fn cluster_of(world: &Adversity) -> Cluster {
    let cluster = Cluster::new(&Behaviour {
        nodes: world.nodes,
        drain: world.drain,
        boot: world.boot,
        latencies: world.latencies.clone(),
        faults: Some(world.faults.clone()),
        ..Behaviour::default()
    });
    for node in 0..world.nodes {
        let mut version = cluster.version(node, "ami-2", world.outcome(node));
        if let Some(launch) = version.launch.as_mut().filter(|launch| launch.outcome != Healthy) {
            // A node that fails has booted before. What comes and goes faster than two looks is never proven to be out.
            launch.hooks = Spread::between(Duration::from_secs(10), Duration::from_secs(20));
        }
        cluster.publish_for(node, version);
        cluster.change(node, |group| {
            group.replaces_unhealthy = Some(Spread::between(Duration::from_secs(1), Duration::from_secs(5)));
            let launch_hooks = group.hooks.iter_mut().filter(|hook| hook.transition == Transition::Launching);
            // Nodes that say nothing are given up by their hooks.
            launch_hooks.for_each(|hook| hook.heartbeat_timeout = Duration::from_secs(12));
        });
    }
    cluster.sim.set_lag(world.lag);
    cluster.sim.set_random_deaths(world.deaths.clone());
    if world.throttled > 0 {
        let rule = FaultRule::times("*:Describe*", world.throttled, Fault::Throttling).after(world.throttled * 3);
        cluster.sim.add_fault(rule).unwrap();
    }
    cluster
}

impl Operator {
    /// Publishes a mended version for a broken one, once.
    fn publish(&mut self) {
        if self.world.breaks.is_some() && !self.is_mended {
            self.latest = self.cluster.publish("ami-3", Healthy);
            self.is_mended = true;
        }
    }

    fn start(&mut self) -> Rolling {
        let leader = self.world.leader().map(|node| format!("echo {node:02}"));
        let mut arguments = vec!["--json", "--timeout", "100s", "--check", self.world.check()];
        arguments.extend(leader.iter().flat_map(|command| ["--leader", command.as_str()]));
        arguments.extend(self.is_mended.then_some("--replace-held"));
        self.cluster.roll(&arguments)
    }

    /// One roll, perhaps with a second one beside it, and what is done to them; how they have ended.
    fn rolls(&mut self) -> Vec<(i32, String)> {
        let first = self.start();
        let (blow, second, published) = (self.world.blow(), self.world.second(), self.world.published());
        self.watched(vec![first], blow, second, published)
    }

    fn watched(
        &mut self,
        mut rolls: Vec<Rolling>,
        blow: Blow,
        mut second: Option<Duration>,
        mut published: Option<Duration>,
    ) -> Vec<(i32, String)> {
        let (began, before) = (Instant::now(), self.latest);
        let (mut looked, mut steps) = (Instant::now(), 0);
        let mut blow = Some(blow);
        let mut thaws: Option<Instant> = None;
        loop {
            let now = began.elapsed();
            if second.take_if(|after| now >= *after).is_some() {
                rolls.push(self.start());
            }
            if published.take_if(|after| now >= *after).is_some() {
                self.latest = self.cluster.publish("ami-4", Healthy);
            }
            match blow.take_if(|blow| blow.is_due(now)) {
                Some(Blow::Kill(_)) => rolls[0].signal_if_alive(Signal::SIGKILL),
                Some(Blow::Stop(_)) => rolls[0].signal_if_alive(Signal::SIGTERM),
                Some(Blow::Freeze(_)) => {
                    rolls[0].signal_if_alive(Signal::SIGSTOP);
                    thaws = Some(Instant::now() + FROZEN);
                }
                _ => {}
            }
            if thaws.take_if(|at| Instant::now() >= *at).is_some() {
                rolls[0].signal_if_alive(Signal::SIGCONT);
            }
            if rolls.iter_mut().all(|roll| roll.code().is_some()) && second.is_none() {
                break;
            }
            if looked.elapsed() > STUCK {
                let logs: String = rolls.iter().map(Rolling::log).collect();
                let so_far = steps_of(&logs);
                assert!(so_far > steps, "seed {} is stuck: {logs}\n{}", self.world.seed, story(&self.cluster.sim));
                (looked, steps) = (Instant::now(), so_far);
            }
            thread::sleep(Duration::from_millis(50));
        }
        let rolls: Vec<_> = rolls.into_iter().map(Rolling::end).collect();
        for (code, log) in &rolls {
            self.logs.push(log.clone());
            *self.ends.entry(*code).or_default() += 1;
            says_why(*code, log).unwrap_or_else(|why| panic!("{why}: {}", self.told(&rolls)));
        }
        if rolls.iter().any(|(code, _)| *code == 0) {
            assert!(self.is_uniform(before), "not uniform: {}", self.told(&rolls));
        }
        rolls
    }

    /// Every group is set to one version, not older than this one, and what it has launched and is not on its way out is of it.
    fn is_uniform(&self, at_least: u64) -> bool {
        let mut versions = BTreeSet::new();
        for node in 0..self.world.nodes {
            versions.insert(self.cluster.staged(node));
            let states = self.cluster.states(node).into_iter();
            let staying = states.filter(|(_, state)| !state.starts_with("Terminat"));
            versions.extend(staying.map(|(id, _)| self.cluster.version_of(&id)));
        }
        versions.len() == 1
            && versions.iter().all(|version| version.parse().is_ok_and(|version: u64| version >= at_least))
    }

    /// All that there is to say of a seed that fails.
    fn told(&self, rolls: &[(i32, String)]) -> String {
        let logs: String = rolls.iter().map(|(code, log)| format!("exit code {code}\n{log}--\n")).collect();
        format!("seed {}: {:?}\n{logs}{}", self.world.seed, self.world, story(&self.cluster.sim))
    }
}

/// Nothing is against the rolls any more.
fn calm(cluster: &Cluster) {
    cluster.sim.set_random_deaths(None);
    cluster.sim.clear_faults();
    cluster.sim.set_lag(Lag::default());
}

/// How many steps these rolls have logged.
fn steps_of(logs: &str) -> usize {
    let is_step = |line: &&str| {
        ["staged", "taken", "arrived", "finished"].iter().any(|step| line.contains(&format!("\"event\":\"{step}\"")))
    };
    logs.lines().filter(is_step).count()
}

/// A roll that was not killed tells by its last event how it has ended; one that failed, why, and what is to be done.
fn says_why(code: i32, log: &str) -> Result<(), String> {
    if code == -1 {
        return Ok(());
    }
    // People are told on standard error, last of all.
    let last: Value = log.lines().rev().find_map(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    let expected = match code {
        0 => "done",
        1 => "failed",
        3 => "stopped",
        4 => "withdrawn",
        6 => "refused",
        _ => return Err(format!("exit code {code}")),
    };
    let says = |field: &str| last[field].as_str().is_some_and(|text| text.len() > 10);
    if last["exit_code"] == code && last["event"] == expected && says("text") && (code == 0 || says("remedy")) {
        return Ok(());
    }
    Err(format!("exit code {code}, and the last event is {last}"))
}
