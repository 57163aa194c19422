//! The races that every roll must survive (docs/facts.md, "Rolling"), and the tests that show each.
//!
//! | | race | shown by |
//! |---|---|---|
//! | 1 | a stale description shows the old instance in service after the kill | `descriptions_that_lag_behind_take_no_node_too_early`, `services_that_are_late_each_by_itself_take_no_node_too_early` |
//! | 2 | a description steps back when the new one is up | `descriptions_that_step_back_now_and_then_do_no_harm`, and as 1 |
//! | 3 | the two descriptions disagree | `services_that_are_late_each_by_itself_take_no_node_too_early` |
//! | 4 | kill -9 between the stage and the terminate, the terminate and its answer, while it waits | roll_kill: `a_roll_killed_once_it_has_staged_is_finished_by_the_next` and its neighbours |
//! | 5 | the answer to the terminate is lost | `a_terminate_whose_answer_is_lost_is_not_sent_again` |
//! | 6 | two rolls in one second, in the same and in another order | `of_two_rolls_in_the_same_instant_exactly_one_goes_on`, `of_two_rolls_with_other_orders_and_old_views_exactly_one_goes_on` |
//! | 7 | one of them has an old view | `of_two_rolls_with_other_orders_and_old_views_exactly_one_goes_on`; over all ages: `of_two_rolls_exactly_one_goes_on` |
//! | 8 | a flag's holder sleeps, and wakes right before its kill | `a_roll_that_slept_while_another_one_took_over_withdraws_and_takes_nothing` |
//! | 9 | another node dies between the check and the kill | `a_node_that_dies_after_the_last_look_keeps_the_next_one_in_service` |
//! | 10 | another dies while the first is held on a broken version | `a_node_that_dies_beside_a_held_one_comes_back_on_the_proven_version` |
//! | 11 | a new version appears midway | `a_version_that_is_published_midway_stops_the_roll` |
//! | 12 | the health check kills the new node right after `InService` | `a_new_node_that_dies_right_after_its_start_lets_no_other_go`, `a_new_node_that_its_group_finds_unhealthy_at_once_stops_the_roll`, `a_new_node_that_dies_again_and_again_while_it_is_watched_ends_the_roll` |
//! | 13 | the launch hook times out | `a_launch_hook_that_times_out_again_and_again_stops_the_roll` |
//! | 14 | the interface is free before the volume, and after | `an_interface_that_is_free_before_the_volume_lets_the_new_node_wait_for_its_data`, `a_drain_longer_than_the_groups_patience_delays_the_node_and_stops_nothing` |
//! | 15 | the drain takes longer than the group's pause between launches | `a_drain_longer_than_the_groups_patience_delays_the_node_and_stops_nothing` |
//! | 16 | launches fail by capacity, then for a missing image | `launches_that_fail_by_capacity_and_then_for_a_missing_image_stop_the_roll` |
//! | 17 | an administrative suspension | `an_administrative_suspension_midway_is_refused_by_its_name_until_it_is_lifted`; from the start: `what_keeps_a_node_from_coming_back_is_refused_and_each_override_lifts_its_own` |
//! | 18 | `launchBeforeTerminate` is on | `an_account_that_launches_first_is_refused_but_where_the_group_has_its_policy` |
//! | 19 | the instance is retained | `a_victim_that_its_group_retains_stops_the_roll_until_it_is_terminated` |
//! | 20 | somebody swaps the instance | `an_instance_that_is_swapped_by_hand_before_the_act_is_not_taken_for_the_old_one`, `a_node_that_comes_back_with_a_version_that_somebody_else_has_set_stops_the_roll` |
//! | 21 | the leader moves during the check | `a_leader_that_moves_during_the_check_goes_last_all_the_same` |
//! | 22 | the check flaps, hangs, leaves children | `a_check_that_flaps_takes_nothing_and_leaves_no_child_behind`, `a_check_that_hangs_is_ended_after_a_minute_with_all_it_started` |
//! | 23 | the credentials expire | `credentials_that_expire_midway_are_waited_for_and_the_roll_goes_on` |
//! | 24 | throttled for minutes | `a_roll_that_is_throttled_for_minutes_goes_on_and_takes_no_node_twice` |
//! | 25 | two operators' clocks differ | `flags_are_told_by_awss_clock_and_not_by_the_machines` |
//! | 26 | a node in `Standby` | `while_a_node_is_in_standby_no_other_goes_and_the_roll_goes_on_behind_it` |
//! | 27 | a group with two members | `a_group_with_two_members_is_refused_and_both_are_named` |
//! | 28 | a spot notice during the drain | `a_spot_notice_during_the_drain_ends_the_node_and_the_roll_goes_on`; on the node: `a_spot_notice_during_a_long_drain_cuts_it` |
//! | 29 | the agent is killed in the drain | `a_node_whose_agent_is_killed_in_the_drain_is_waited_for_until_its_hook_ends`; on the node: `a_departure_that_is_killed_goes_on_at_the_next_start` |
//! | 30 | two nodes wait for each other at their gates | `while_two_nodes_wait_in_their_departures_no_third_goes`; on the nodes: `without_the_tags_two_that_wait_for_each_other_wait_to_the_gates_end_and_say_so` |
//!
//! *The machine that rolls is asleep for an hour between its look and the act.* An hour cannot be waited for. That an old look is not
//! acted on is shown by `a_look_that_has_grown_old_is_not_acted_on` and race 9, with a look that is older than the limit of 15 s because of slow
//! answers; that a roll which wakes looks anew, by `a_roll_that_slept_before_the_act_does_nothing_on_its_old_look`, which it does even without
//! the limit, because it was stopped while it waited. That sleep counts is one line, host::since_boot, and shown by
//! `an_hour_of_sleep_counts_as_time_since_boot`: a stopped process does not tell `CLOCK_BOOTTIME` from a clock that stands still in sleep.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/cluster.rs"]
mod cluster;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use cluster::witness::{at_most_one_was_out, changes, nothing_was_taken_wrongly, order, terminated};
use cluster::{Behaviour, Cluster, Healthy, STUCK, group};
use ec2_sim::{Fault, FaultRule, Lag, LaunchFailure, Spread, Times};
use nix::sys::signal::Signal;
use node_agent::host::since_boot;

const TAG: &str = "autoscaling:CreateOrUpdateTags";

fn two() -> Cluster {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    cluster
}

fn up_to(seconds: u64) -> Spread {
    Spread::between(Duration::ZERO, Duration::from_secs(seconds))
}

/// Every node runs the new version, each was taken once, and none while another one was out.
fn ended_well(cluster: &Cluster, log: &str) {
    cluster.all_run("2");
    at_most_one_was_out(&cluster.sim, &cluster.groups());
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
    assert_eq!(terminated(&cluster.sim).len(), 2, "{log}");
    cluster.has_no_flag();
}

#[test]
fn services_that_are_late_each_by_itself_take_no_node_too_early() {
    let cluster = two();
    let lag = Lag { seed: 3, groups: up_to(7), members: up_to(4), instances: up_to(9), backwards: 0.3 };
    cluster.sim.set_lag(lag);
    let log = cluster.roll(&["--check", "true"]).must_end(0);
    assert!(log.contains("AWS's descriptions of it disagree"), "no answers have disagreed:\n{log}");
    cluster.sim.set_lag(Lag::default());
    ended_well(&cluster, &log);
}

#[test]
fn of_two_rolls_with_other_orders_and_old_views_exactly_one_goes_on() {
    let cluster = two();
    cluster.sim.set_lag(Lag { seed: 5, groups: up_to(6), backwards: 0.2, ..Lag::default() });
    let rolls = ["00", "01"].map(|leader| cluster.roll(&["--leader", &format!("echo {leader}")]));
    let [(one, one_log), (other, other_log)] = rolls.map(cluster::Rolling::end);
    cluster.sim.set_lag(Lag::default());
    let log = format!("{one_log}\n--\n{other_log}");
    let mut codes = [one, other];
    codes.sort_unstable();
    assert_eq!(codes, [0, 4], "{log}");
    let leader_last = if one == 0 { [group(1), group(0)] } else { [group(0), group(1)] };
    assert_eq!(order(&cluster.sim), leader_last, "{log}");
    ended_well(&cluster, &log);
}

#[test]
fn a_roll_that_slept_while_another_one_took_over_withdraws_and_takes_nothing() {
    let cluster = two();
    let asleep = cluster.roll(&[]);
    asleep.wait_for("the last look before it goes");
    asleep.signal(Signal::SIGSTOP);
    // Its flag is dead two minutes after its last heartbeat, which is at most half a minute old.
    thread::sleep(Duration::from_secs(122));
    let other = cluster.roll(&[]);
    other.wait_for("the last look before it goes");
    asleep.signal(Signal::SIGCONT);
    let withdrawn = asleep.must_end(4);
    assert!(withdrawn.contains("another roll is at work"), "{withdrawn}");
    assert!(!withdrawn.contains("is terminated") && !withdrawn.contains("is set to version"), "{withdrawn}");
    let log = other.must_end(0);
    ended_well(&cluster, &format!("{withdrawn}\n--\n{log}"));
}

#[test]
fn a_node_that_dies_after_the_last_look_keeps_the_next_one_in_service() {
    let cluster = two();
    let roll = cluster.roll(&[]);
    roll.wait_for("00: waits: the last look before it goes");
    cluster.sim.add_fault(FaultRule::always(TAG, Fault::Slow(Duration::from_secs(17)))).unwrap();
    roll.wait_for("00: its group is set to version 2");
    let until = Instant::now() + STUCK;
    while cluster.sim.events().faults().is_empty() {
        assert!(Instant::now() < until, "{}", roll.log());
        thread::sleep(Duration::from_millis(20));
    }
    // Between the stage and the terminate: the other one dies, and does not come back for now.
    cluster.sim.fail_launches(&group(1), LaunchFailure::Capacity, Times::Forever).unwrap();
    cluster.sim.kill_instance(&cluster.in_service(1)).unwrap();
    // Longer than a look may be acted on.
    thread::sleep(Duration::from_secs(16));
    cluster.sim.clear_faults();
    roll.wait_for("nothing was done, it is looked at anew: the last look is more than 15s old");
    assert_eq!(order(&cluster.sim), Vec::<String>::new());
    cluster.sim.fail_launches(&group(1), LaunchFailure::Capacity, Times::Count(0)).unwrap();
    let log = roll.must_end(0);
    cluster.all_run("2");
    at_most_one_was_out(&cluster.sim, &cluster.groups());
    nothing_was_taken_wrongly(&cluster.sim, &cluster.groups());
    assert!(order(&cluster.sim).contains(&group(0)), "{log}");
}

#[test]
fn a_leader_that_moves_during_the_check_goes_last_all_the_same() {
    let cluster = two();
    let leader = cluster.dir().join("leader");
    fs::write(&leader, "01").unwrap();
    let check = format!("echo 00 > {}", leader.display());
    let log = cluster.roll(&["--leader", &format!("cat {}", leader.display()), "--check", &check]).must_end(0);
    let (asked, taken) = (log.find("00: the check has passed"), log.find("is terminated"));
    assert!(asked.is_some() && asked < taken, "the first turn was not the moving leader's:\n{log}");
    assert_eq!(order(&cluster.sim), [group(1), group(0)], "{log}");
    ended_well(&cluster, &log);
}

#[test]
fn a_check_that_flaps_takes_nothing_and_leaves_no_child_behind() {
    let cluster = two();
    let count = cluster.dir().join("count");
    fs::write(&count, "0").unwrap();
    let count = count.display();
    let check = format!("n=$(($(cat {count}) + 1)); echo $n > {count}; sleep 8765.5 & test $((n % 2)) = 1");
    let log = cluster.roll(&["--check", &check, "--timeout", "40s"]).must_end(1);
    assert!(log.contains("00: the check has passed"), "{log}");
    assert!(log.contains("gave up after 40s (--timeout): the check has not passed: it exited with 1"), "{log}");
    assert_eq!(order(&cluster.sim), Vec::<String>::new(), "{log}");
    let is_left = |process: fs::DirEntry| {
        fs::read(process.path().join("cmdline")).is_ok_and(|line| line.windows(6).any(|part| part == b"8765.5"))
    };
    assert!(!fs::read_dir(Path::new("/proc")).unwrap().flatten().any(is_left), "{log}");
    cluster.has_no_flag();
}

#[test]
fn credentials_that_expire_midway_are_waited_for_and_the_roll_goes_on() {
    let cluster = two();
    let roll = cluster.roll(&[]);
    roll.wait_for("is terminated");
    let expired = Fault::Error {
        http: 403,
        code: "ExpiredToken".to_owned(),
        message: "The security token included in the request is expired".to_owned(),
    };
    cluster.sim.add_fault(FaultRule::always("*", expired)).unwrap();
    roll.wait_for("AWS cannot be asked");
    // Several looks fail meanwhile.
    let failed = cluster.sim.events().faults().len();
    let until = Instant::now() + STUCK;
    while cluster.sim.events().faults().len() < failed + 3 {
        assert!(Instant::now() < until, "{}", roll.log());
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(order(&cluster.sim), [group(0)]);
    cluster.sim.clear_faults();
    let log = roll.must_end(0);
    assert!(log.contains("The security token included in the request is expired"), "{log}");
    ended_well(&cluster, &log);
}

#[test]
fn a_roll_that_is_throttled_for_minutes_goes_on_and_takes_no_node_twice() {
    let cluster = two();
    let roll = cluster.roll(&[]);
    roll.wait_for("is terminated");
    cluster.sim.add_fault(FaultRule::always("*", Fault::Throttling)).unwrap();
    // Longer than its flag lives without a heartbeat.
    thread::sleep(Duration::from_secs(135));
    assert_eq!(order(&cluster.sim), [group(0)]);
    cluster.sim.clear_faults();
    let log = roll.must_end(0);
    assert!(log.contains("AWS cannot be asked"), "{log}");
    ended_well(&cluster, &log);
}

/// The flag of a roll on another machine, whose last heartbeat is this old by AWS's clock, which is so far ahead of this machine's.
fn flag(age: i64, ahead: i64) -> String {
    let shown = |age: i64| {
        let now = i64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
        let at = u64::try_from(now + ahead - age).unwrap();
        humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(at))
    };
    format!(
        "run=0badcafe since={} beat={} by=bob@elsewhere boot=f81d4fae-7dec-11d0-a765-00a0c91e6bf6 pid=4026531836/4242/99",
        shown(age + 60),
        shown(age)
    )
}

#[test]
fn flags_are_told_by_awss_clock_and_not_by_the_machines() {
    // By this machine's clock the living one would have been dead for minutes, and the dead one would live.
    let cases = [(-240, 5, 4), (240, 150, 0)];
    let rolls = cases.map(|(ahead, age, code)| {
        let cluster = two();
        cluster.sim.set_clock_ahead(ahead);
        for number in 0..2 {
            cluster.set_tag(number, "node-agent:roll", &flag(age, ahead));
        }
        (cluster.roll(&[]), cluster, code)
    });
    for (roll, cluster, code) in rolls {
        let log = roll.must_end(code);
        if code == 4 {
            assert!(log.contains("run 0badcafe by bob@elsewhere"), "{log}");
            assert_eq!(changes(&cluster.sim), Vec::<String>::new(), "{log}");
        } else {
            ended_well(&cluster, &log);
        }
    }
}

/// Set in the process of which the kernel says that its machine has slept for an hour.
const SLEPT: &str = "ROLL_RACES_SLEPT";

#[test]
fn an_hour_of_sleep_counts_as_time_since_boot() {
    if std::env::var_os(SLEPT).is_some() {
        println!("<{}>", since_boot().as_secs());
        return;
    }
    // As sleep does, the namespace puts this clock ahead and none of the others.
    let mut inside = Command::new("unshare");
    inside.args(["--time", "--boottime", "3600"]).arg(std::env::current_exe().unwrap()).env(SLEPT, "1");
    inside.args(["--exact", "an_hour_of_sleep_counts_as_time_since_boot", "--nocapture"]);
    let output = inside.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = text.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(said, _)| said.parse::<u64>());
    let Some(Ok(said)) = said else { panic!("{text}{}", String::from_utf8_lossy(&output.stderr)) };
    let ahead = said.abs_diff(since_boot().as_secs());
    assert!((3590..=3610).contains(&ahead), "{ahead}");
}
