//! A roll that is killed, stopped or frozen at any moment: the next one goes on, and nothing is done twice.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/cluster.rs"]
mod cluster;

use std::thread;
use std::time::{Duration, Instant};

use cluster::witness::{at_most_one_was_out, nothing_was_taken_wrongly, order, terminated};
use cluster::{Behaviour, Cluster, Healthy, STUCK, group};
use nix::sys::signal::Signal;

fn slow_boot(boot: u64) -> Cluster {
    let behaviour = Behaviour { nodes: 2, boot: Duration::from_secs(boot).into(), ..Behaviour::default() };
    let cluster = Cluster::new(&behaviour);
    cluster.publish("ami-2", Healthy);
    cluster
}

/// Kills a roll once it has printed this, and lets a second one finish.
fn killed_at(text: &str) {
    // Long enough for two looks to prove that the new instance is on its way.
    let cluster = slow_boot(15);
    let roll = cluster.roll(&["--check", "true"]);
    roll.wait_for(text);
    roll.signal(Signal::SIGKILL);
    let (_, first) = roll.end();
    let log = cluster.roll(&["--check", "true"]).must_end(0);
    assert!(!log.contains("another roll is at work"), "the flag of a process that is gone is dead at once:\n{log}");
    cluster.all_run("2");
    at_most_one_was_out(&cluster.sim, &cluster.groups());
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
    assert_eq!(terminated(&cluster.sim).len(), 2, "{first}\n{log}");
    cluster.has_no_flag();
}

#[test]
fn a_roll_killed_before_it_has_done_anything_is_finished_by_the_next() {
    killed_at("the last look before it goes");
}

#[test]
fn a_roll_killed_once_it_has_staged_is_finished_by_the_next() {
    killed_at("is set to version");
}

#[test]
fn a_roll_killed_once_it_has_terminated_is_finished_by_the_next() {
    killed_at("is terminated");
}

#[test]
fn a_roll_killed_while_it_waits_for_the_node_is_finished_by_the_next() {
    killed_at("is Pending:Wait");
}

#[test]
fn a_roll_killed_once_the_node_is_back_is_finished_by_the_next() {
    killed_at("is in service and healthy");
}

#[test]
fn a_roll_killed_again_and_again_takes_no_node_twice() {
    let cluster = slow_boot(1);
    for pause in [6, 12, 18, 24, 30] {
        let roll = cluster.roll(&[]);
        // Each kill comes at another place of the roll.
        thread::sleep(Duration::from_secs(pause));
        roll.signal(Signal::SIGKILL);
        roll.end();
    }
    cluster.roll(&[]).must_end(0);
    cluster.all_run("2");
    at_most_one_was_out(&cluster.sim, &cluster.groups());
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
}

#[test]
fn a_stop_signal_ends_the_roll_with_3_and_takes_its_flag_away() {
    let cluster = slow_boot(3);
    let roll = cluster.roll(&[]);
    roll.wait_for("is terminated");
    roll.signal(Signal::SIGTERM);
    let log = roll.must_end(3);
    assert!(log.contains("roll again"), "{log}");
    cluster.has_no_flag();
    cluster.in_service(0);
    assert_eq!(order(&cluster.sim), [group(0)], "{log}");
}

#[test]
fn a_stop_signal_during_a_check_ends_the_check_too() {
    let cluster = slow_boot(1);
    let asked = cluster.dir().join("asked");
    let roll = cluster.roll(&["--check", &format!("touch {}; exec sleep 50", asked.display())]);
    let until = Instant::now() + STUCK;
    while !asked.exists() {
        assert!(Instant::now() < until, "the check was never asked:\n{}", roll.log());
        thread::sleep(Duration::from_millis(50));
    }
    roll.signal(Signal::SIGTERM);
    let log = roll.must_end(3);
    cluster.has_no_flag();
    assert_eq!(order(&cluster.sim), Vec::<String>::new(), "{log}");
}

#[test]
fn a_roll_that_slept_before_the_act_does_nothing_on_its_old_look() {
    let cluster = slow_boot(30);
    let roll = cluster.roll(&[]);
    roll.wait_for("the last look before it goes");
    roll.signal(Signal::SIGSTOP);
    cluster.sim.terminate(&cluster.in_service(1)).unwrap();
    // Longer than a look may be acted on: 15 s.
    thread::sleep(Duration::from_secs(20));
    assert_eq!(order(&cluster.sim), Vec::<String>::new());
    roll.signal(Signal::SIGCONT);
    let log = roll.must_end(0);
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
    cluster.all_run("2");
    assert!(order(&cluster.sim).contains(&group(0)), "{log}");
}
