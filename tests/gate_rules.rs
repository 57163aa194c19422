//! For whom the gate waits, and what opens it.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "gate/common.rs"]
mod common;
#[path = "departure/common.rs"]
mod departure;
mod support;

use std::time::Duration;

use common::{
    AWAY, CLUSTER, EARLIER, LATER, drained_at, must_leave_after, node_of_cluster, other, other_of, uptime,
    wait_at_the_gate, wait_until_written, write_status,
};
use departure::{Leaving, ordered};
use ec2_sim::{GroupSpec, InstanceId};
use support::{GROUP, World, each};

/// Makes another node be away, so that only the rule of the case can open the gate.
fn away(world: &World, group: &str, state: &str) -> InstanceId {
    let id = other(world, group);
    world.sim.set_lifecycle_state(&id, state).unwrap();
    id
}

/// It leaves without having waited for anybody.
fn must_not_wait(leaving: Leaving) -> String {
    let Leaving { world, node, service, .. } = leaving;
    ordered(&world, &node);
    let log = must_leave_after(0.0, &node, service);
    assert!(!log.contains(AWAY), "{log}");
    log
}

#[test]
fn a_node_in_standby_or_pending_or_without_health_is_away_until_it_serves() {
    each(&["Standby", "Pending:Wait", "Terminating:Wait", "unhealthy", "none"], |state| {
        let Leaving { world, node, service, .. } = node_of_cluster(CLUSTER);
        let id = other(&world, LATER);
        let why = match *state {
            "unhealthy" => {
                world.sim.set_health(&id, false).unwrap();
                format!("{id} in {LATER} is InService")
            }
            "none" => {
                world.sim.terminate(&id).unwrap();
                support::wait_until(|| world.sim.lifecycle_state(&id).is_none(), || format!("{id} is still there"));
                format!("{LATER} has no instance")
            }
            state => {
                world.sim.set_lifecycle_state(&id, state).unwrap();
                format!("{id} in {LATER} is {state}")
            }
        };
        ordered(&world, &node);
        wait_at_the_gate(&service, &why);

        let released = uptime();
        match *state {
            "unhealthy" => world.sim.set_health(&id, true).unwrap(),
            "none" => world.sim.change_group(LATER, |group| group.wants = 0).unwrap(),
            _ => world.sim.set_lifecycle_state(&id, "InService").unwrap(),
        }

        must_leave_after(released, &node, service);
    });
}

#[test]
fn standby_is_away_also_where_it_lowers_what_its_group_wants() {
    let Leaving { world, node, service, .. } = node_of_cluster(CLUSTER);
    let id = away(&world, LATER, "Standby");
    world.sim.change_group(LATER, |group| group.wants = 0).unwrap();
    ordered(&world, &node);
    wait_at_the_gate(&service, &format!("{id} in {LATER} is Standby"));

    let released = uptime();
    world.sim.change_group(LATER, |group| group.wants = 1).unwrap();
    world.sim.set_lifecycle_state(&id, "InService").unwrap();

    must_leave_after(released, &node, service);
}

#[test]
fn groups_that_want_no_instance_or_are_torn_down_keep_nobody() {
    each(&["wants none", "deleting", "no cluster's"], |case| {
        let leaving = node_of_cluster(CLUSTER);
        let id = other(&leaving.world, LATER);
        let change = |group: &mut GroupSpec| match *case {
            "wants none" => group.wants = 0,
            "deleting" => group.deleting = true,
            _ => group.tags.clear(),
        };
        leaving.world.sim.change_group(LATER, change).unwrap();
        leaving.world.sim.set_lifecycle_state(&id, "Terminating:Wait").unwrap();
        must_not_wait(leaving);
    });
}

#[test]
fn a_node_whose_own_group_is_torn_down_waits_for_nobody() {
    each(&["wants none", "deleting", "all"], |case| {
        let leaving = node_of_cluster(CLUSTER);
        away(&leaving.world, EARLIER, "Terminating:Wait");
        let groups: &[&str] = if *case == "all" { &[GROUP, EARLIER] } else { &[GROUP] };
        for group in groups {
            let wants = usize::from(*case == "deleting");
            let change = |group: &mut GroupSpec| (group.deleting, group.wants) = (*case != "wants none", wants);
            leaving.world.sim.change_group(group, change).unwrap();
        }
        must_not_wait(leaving);
    });
}

#[test]
fn a_group_that_is_torn_down_while_its_node_waits_opens_the_gate() {
    let Leaving { world, node, service, .. } = node_of_cluster(CLUSTER);
    let id = away(&world, LATER, "Standby");
    ordered(&world, &node);
    wait_at_the_gate(&service, id.as_str());

    let released = uptime();
    world.sim.change_group(GROUP, |group| group.wants = 0).unwrap();

    must_leave_after(released, &node, service);
}

#[test]
fn the_node_that_its_group_calls_unhealthy_goes_first() {
    let Leaving { world, node, service, .. } = node_of_cluster(CLUSTER);
    let id = away(&world, EARLIER, "Terminating:Wait");
    // The other one believes that this one goes first, and this one that the other does, by its group's name.
    write_status(&world, &id, &format!("gate: waits for {} in {GROUP}", node.id));
    ordered(&world, &node);
    wait_until_written(&world, &node, &format!("gate: waits for {id} in {EARLIER}"), &service);

    let released = uptime();
    world.sim.set_health(&node.id, false).unwrap();

    must_leave_after(released, &node, service);
    // The word was taken back before the drain.
    let word = |call: &&ec2_sim::ApiCall| call.parameters.values().any(|value| value == "gate: goes first");
    assert!(world.events().calls("ec2:CreateTags").iter().any(word), "{:?}", world.events());
}

#[test]
fn the_first_goes_only_once_the_other_has_written_that_it_waits_for_this_one() {
    let Leaving { world, node, service, .. } = node_of_cluster(CLUSTER);
    let id = away(&world, LATER, "Terminating:Wait");
    write_status(&world, &id, &format!("gate: waits for i-0123456789abcdef0 in {GROUP}"));
    ordered(&world, &node);
    wait_at_the_gate(&service, &format!("{id} in {LATER} is Terminating:Wait"));

    let released = uptime();
    write_status(&world, &id, &format!("gate: waits for {} in {GROUP}", node.id));

    must_leave_after(released, &node, service);
}

#[test]
fn a_spot_notice_opens_the_gate_at_once() {
    let Leaving { world, node, service, .. } = node_of_cluster(CLUSTER);
    let id = away(&world, LATER, "Standby");
    ordered(&world, &node);
    wait_at_the_gate(&service, id.as_str());

    let released = uptime();
    world.sim.interrupt(&node.id, Duration::from_secs(120)).unwrap();

    let log = must_leave_after(released, &node, service);
    assert!(log.contains("without knowing that no other node is away: EC2 takes this spot instance"), "{log}");
    // The metadata service is asked every 5 s.
    let drained = drained_at(&node).unwrap();
    assert!(drained - released < 20.0, "{:.1} s\n{log}", drained - released);
}

#[test]
fn a_node_that_goes_for_a_spot_notice_passes_no_gate() {
    let Leaving { world, node, service, .. } = node_of_cluster(CLUSTER);
    away(&world, LATER, "Standby");
    world.sim.interrupt(&node.id, Duration::from_secs(120)).unwrap();
    let log = must_leave_after(0.0, &node, service);
    assert!(!log.contains(AWAY), "{log}");
}

#[test]
fn a_gate_of_no_time_is_no_gate() {
    let leaving = node_of_cluster(&format!("{CLUSTER}gate = \"0s\"\n"));
    away(&leaving.world, LATER, "Standby");
    must_not_wait(leaving);
}

#[test]
fn a_cluster_can_be_told_by_the_names_of_its_groups() {
    let names = format!("[cluster]\nasg_names = [\"{GROUP}\", \"{LATER}\", \"no-such-group\"]\n");
    let Leaving { world, node, service, .. } = node_of_cluster(&names);
    // Not named, though it has the tag.
    let unnamed = away(&world, EARLIER, "Standby");
    let named = other_of(&world, GroupSpec { name: LATER.to_owned(), ..GroupSpec::default() });
    world.sim.set_lifecycle_state(&named, "Standby").unwrap();
    ordered(&world, &node);
    wait_at_the_gate(&service, &format!("{named} in {LATER} is Standby"));

    let released = uptime();
    world.sim.set_lifecycle_state(&named, "InService").unwrap();

    let log = must_leave_after(released, &node, service);
    assert!(!log.contains(unnamed.as_str()), "{log}");
}
