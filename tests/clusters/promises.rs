//! What every cluster must show.

use std::time::{Duration, Instant};

use ec2_sim::{Gap, InstanceId};

use super::kind::Kind;
use super::region::{Cluster, LONG_AGO, NODES, group, id};

/// Three nodes are brought up from nothing, and all replaced under writes.
pub fn a_roll_under_writes_loses_nothing<K: Kind>() {
    let began = Instant::now();
    let cluster = Cluster::<K>::up();
    let came_up = began.elapsed();
    let data = NODES.map(|node| cluster.data(node));
    let leader = cluster.leader();
    let old = NODES.map(|node| cluster.in_service(node));
    cluster.publish(2, &[]);

    let writer = cluster.writer();
    let began = Instant::now();
    let log = cluster.roll(&["--timeout", "5m"]).must_end(0);
    let (rolled, gap) = (began.elapsed(), writer.longest_gap(began));
    let writes = cluster.loses_nothing(writer);

    let taken: Vec<&str> = log.lines().filter(|line| line.contains(" is terminated; ")).collect();
    assert_eq!(taken.len(), 3, "{log}");
    assert!(taken[2].contains(old[leader].as_str()), "the leader {} did not go last:\n{log}", id(leader));
    for node in NODES {
        assert_eq!(cluster.data(node), data[node], "the data of {}", id(node));
        assert_ne!(cluster.in_service(node), old[node]);
    }
    never_two_out(&cluster);
    println!(
        "{}: up in {:.1} s, rolled in {:.1} s, {writes} writes, longest gap {} ms",
        K::NAME,
        came_up.as_secs_f64(),
        rolled.as_secs_f64(),
        gap.as_millis()
    );
    assert!(gap < Duration::from_secs(10), "the quorum was lost: no write for {gap:?}\n{log}");
}

/// Another node is killed while the first one is out. The writes stop at most while both are away, and none is lost.
pub fn a_node_killed_amid_a_roll_costs_no_acknowledged_write<K: Kind>() {
    let cluster = Cluster::<K>::up();
    let before = NODES.map(|node| cluster.in_service(node));
    let data = NODES.map(|node| cluster.data(node));
    cluster.publish(2, &[]);
    let writer = cluster.writer();
    let began = Instant::now();
    let roll = cluster.roll(&["--timeout", "8m"]);
    roll.wait_for(" is terminated; ");
    let at_work =
        NODES.into_iter().find(|node| roll.log().contains(&format!(" {}: its group is set", id(*node)))).unwrap();
    // Before it is drained it would wait, and serve, while another node is away.
    let drained = || cluster.fleet.log(&before[at_work]).contains("drain: done").then_some(());
    cluster.wait("the drain", drained);
    let seed = fastrand::u64(..);
    let others: Vec<usize> = NODES.into_iter().filter(|node| *node != at_work).collect();
    let victim = fastrand::Rng::with_seed(seed).choice(others).unwrap();
    println!("{} is at work, {} is killed (seed {seed})", id(at_work), id(victim));
    let old = cluster.kill(victim);
    cluster.successor(victim, &old);
    let log = roll.must_end(0);
    let gap = writer.longest_gap(began);
    let writes = cluster.loses_nothing(writer);
    let away = both_away(&cluster, at_work, victim);
    println!("{}: {writes} writes, both away for {away:.1} s, longest gap {:.1} s", K::NAME, gap.as_secs_f64());
    assert!(gap.as_secs_f64() < away + 10.0, "no write for {gap:?}, and both nodes were away for {away} s:\n{log}");
    for node in NODES {
        assert_eq!(cluster.data(node), data[node], "the data of {}", id(node));
    }
}

/// Seconds in which neither node was in service.
fn both_away<K: Kind>(cluster: &Cluster<K>, one: usize, other: usize) -> f64 {
    let events = cluster.sim.events();
    let (one, other) = (events.gaps(&group::<K>(one)), events.gaps(&group::<K>(other)));
    let end = |gap: &Gap| gap.to.unwrap_or(f64::INFINITY);
    let pairs = one.iter().flat_map(|one| other.iter().map(move |other| (one, other)));
    pairs.map(|(one, other)| (end(one).min(end(other)) - one.from.max(other.from)).max(0.0)).sum()
}

/// The first node does not come up with the new version: the roll stops, the others serve on, and a mended hook, a retry and another
/// roll finish it.
pub fn a_broken_configuration_stops_the_roll_until_a_retry<K: Kind>() {
    let cluster = Cluster::<K>::up();
    let old = NODES.map(|node| cluster.in_service(node));
    let data = NODES.map(|node| cluster.data(node));
    cluster.publish(2, &[K::BROKEN]);
    let writer = cluster.writer();
    let began = Instant::now();
    let log = cluster.roll(&["--timeout", "2m"]).must_end(1);
    let first = NODES.into_iter().find(|node| cluster.member(*node).unwrap().0 != old[*node]).unwrap();
    let said = cluster.held(first);
    assert!(said.contains(K::COMPLAINT), "{said}");
    assert!(log.contains("is held"), "{log}");
    for node in NODES.into_iter().filter(|node| *node != first) {
        assert_eq!(cluster.in_service(node), old[node], "{log}");
    }
    let (code, said) = cluster.ask("check_cluster");
    assert!(code == Some(1) && said.contains(&id(first)), "{code:?} {said}");
    writer.wait_for_more(100);

    cluster.mend(2, &[]);
    let (code, said) = cluster.type_in(first, &["retry"]);
    assert_eq!(code, Some(0), "{said}");
    cluster.in_service(first);
    cluster.roll(&["--timeout", "5m"]).must_end(0);
    let gap = writer.longest_gap(began);
    let writes = cluster.loses_nothing(writer);
    println!("{}: {writes} writes, longest gap {} ms", K::NAME, gap.as_millis());
    assert!(gap < Duration::from_secs(10), "no write for {gap:?}");
    for node in NODES {
        assert_eq!(cluster.data(node), data[node], "the data of {}", id(node));
    }
}

/// A blank volume in place of the node's own, after the time for new clusters: nothing is begun until a person says so.
pub fn a_node_without_its_data_is_taken_back_in_by_a_person<K: Kind>() {
    let cluster = Cluster::<K>::up();
    let writer = cluster.writer();
    writer.wait_for_more(200);
    lose_data(&cluster, 1);
    let old = cluster.kill(1);
    let said = held_without_data(&cluster, 1, &old);
    writer.wait_for_more(100);
    take_back_in(&cluster, 1, &said);
    writer.wait_for_more(100);
    cluster.loses_nothing(writer);
    assert_eq!(cluster.ask("check_cluster").0, Some(0));
}

/// The same while no other node is up: nothing can be rejoined before the others are back with their data.
pub fn a_node_without_its_data_waits_for_those_that_have_theirs<K: Kind>() {
    let cluster = Cluster::<K>::up();
    let writer = cluster.writer();
    writer.wait_for_more(200);
    lose_data(&cluster, 1);
    for node in [0, 2] {
        cluster.set_launching(node, false);
        cluster.kill(node);
    }
    let old = cluster.kill(1);
    let said = held_without_data(&cluster, 1, &old);
    assert!(said.contains("Bring those up first that have their data."), "{said}");
    decide(&cluster, 1, "rejoin");
    let (code, said) = cluster.type_in(1, &["retry"]);
    assert!(code == Some(1) && said.contains("Nothing was started"), "{code:?} {said}");

    for node in [0, 2] {
        cluster.set_launching(node, true);
    }
    for node in [0, 2] {
        cluster.in_service(node);
    }
    cluster.shell(1, &format!("rm {}", decision::<K>()));
    let (_, said) = cluster.type_in(1, &["retry"]);
    take_back_in(&cluster, 1, &said);
    cluster.loses_nothing(writer);
}

/// Blank volumes after the time for new clusters begin one only where a person says so on every node.
pub fn a_late_cluster_begins_only_when_a_person_says_so<K: Kind>() {
    let cluster = Cluster::<K>::launch(&[("NEW_CLUSTER_BEFORE", LONG_AGO)]);
    for node in NODES {
        let said = cluster.held(node);
        assert!(
            said.contains(&format!(
                "To begin a new, empty cluster instead, on every node: echo new > {}",
                decision::<K>()
            )),
            "{said}"
        );
        decide(&cluster, node, "new");
    }
    for mut retry in NODES.map(|node| cluster.start(node, &["retry"])) {
        assert!(retry.wait().unwrap().success(), "{}", cluster.story());
    }
    for node in NODES {
        cluster.in_service(node);
        cluster.shell(node, &format!("test ! -e {}", decision::<K>()));
    }
    let writer = cluster.writer();
    writer.wait_for_more(100);
    cluster.loses_nothing(writer);
}

/// The node's next instance has a blank volume, and the time for new clusters is over.
fn lose_data<K: Kind>(cluster: &Cluster<K>, node: usize) {
    cluster.lose_volume(node);
    cluster.publish(2, &[("NEW_CLUSTER_BEFORE", LONG_AGO)]);
    cluster.set_version(node, 2);
}

/// Waits until the node is held, and proves that nothing was begun on it. Returns its agent's log.
fn held_without_data<K: Kind>(cluster: &Cluster<K>, node: usize, old: &InstanceId) -> String {
    cluster.wait("another instance", || cluster.member(node).filter(|(instance, _)| instance != old));
    let said = cluster.held(node);
    let gone = format!("the data of node {} is gone. Nothing was started.", id(node));
    assert!(said.contains(&gone), "{said}");
    let (code, status) = cluster.type_in(node, &["status"]);
    assert!(code == Some(1) && status.contains("FAIL  configure"), "{status}");
    cluster.shell(node, &format!("test ! -e /mydata/{0} -a ! -e /run/{0}.pid", K::NAME));
    said
}

fn decision<K: Kind>() -> String {
    format!("/etc/node-agent/{}-data-is-gone", K::NAME)
}

fn decide<K: Kind>(cluster: &Cluster<K>, node: usize, word: &str) {
    cluster.shell(node, &format!("mkdir -p /etc/node-agent; echo {word} > {}", decision::<K>()));
}

/// Does what the hook's message says.
fn take_back_in<K: Kind>(cluster: &Cluster<K>, node: usize, message: &str) {
    let message = message.rsplit("Nothing was started.").next().unwrap();
    assert!(message.contains(&format!("echo rejoin > {}; node-agent retry", decision::<K>())), "{message}");
    // A failure's reason has the hook's last lines with bars between them.
    let lines = message.split(['\n', '|']).map(str::trim);
    let command = |line: &str| K::COMMANDS.iter().find_map(|begins| line.find(begins)).map(|at| line[at..].to_owned());
    for command in lines.filter_map(command) {
        println!("{command}");
        K::type_command(&command);
    }
    decide(cluster, node, "rejoin");
    let (code, said) = cluster.type_in(node, &["retry"]);
    assert_eq!(code, Some(0), "{said}");
    cluster.in_service(node);
    cluster.shell(node, &format!("test ! -e {}", decision::<K>()));
}

/// A node that is away for good does not keep another one from coming up.
pub fn an_absent_node_holds_no_other_one_up<K: Kind>(cluster: &Cluster<K>) {
    cluster.set_launching(2, false);
    cluster.kill(2);
    let old = cluster.kill(1);
    let new = cluster.successor(1, &old);
    let log = cluster.fleet.log(&new);
    assert!(log.contains("node 02 does not serve yet; this node is not held up by it"), "{log}");
}

/// At no time were two nodes out of service.
fn never_two_out<K: Kind>(cluster: &Cluster<K>) {
    let events = cluster.sim.events();
    let mut gaps: Vec<_> = NODES.iter().flat_map(|node| events.gaps(&group::<K>(*node))).collect();
    gaps.sort_by(|one, other| one.from.total_cmp(&other.from));
    for pair in gaps.windows(2) {
        assert!(pair[0].to.is_some_and(|end| end <= pair[1].from), "two nodes were out at once: {pair:?}");
    }
}
