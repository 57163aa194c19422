//! The end of a hold waits at the gate: the held node may be one that the cluster's quorum needs.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "gate/common.rs"]
mod common;
#[path = "departure/common.rs"]
mod departure;
mod support;

use std::time::{Duration, SystemTime};

use common::{
    AWAY, CLUSTER, EARLIER, HOOKS, LATER, config_of, drained_at, other, tags, uptime, wait_until_written, when,
    write_status, written,
};
use departure::{TERMINATE_HOOK, hooks, in_service, ordered};
use ec2_sim::{GroupSpec, InstanceId, InstanceSpec, What};
use nix::sys::signal::Signal;
use support::{GROUP, Instance, Running, World, config_with, heartbeats, run, status, wait_until};

/// A configure function that fails until the node is repaired.
const BROKEN: &str = r#"
configure_cluster_node() {
  [ -e /tmp/repaired ] || return 3
}
wait_for_healthy_cluster() {
  :
}
drain_cluster_node() {
  :
}
"#;

/// A held node of a cluster.
struct Held {
    world: World,
    node: Instance,
    service: Running,
    /// When the simulated world began, in seconds since the boot of this host.
    began: f64,
}

impl Held {
    /// A node that is held for so long; its gate lasts so long.
    fn new(hold_for: &str, gate: &str) -> Held {
        let began = uptime();
        let world = departure::world(|_| {});
        world.sim.change_group(GROUP, |group| group.tags = tags()).unwrap();
        let node = world.launch();
        node.hooks(BROKEN);
        let lifecycle = format!("terminate_hook_name = \"{TERMINATE_HOOK}\"\nhold_for = \"{hold_for}\"");
        node.configure(config_with(&lifecycle, &[], &format!("{CLUSTER}gate = \"{gate}\"\n")));
        let service = node.start_with(&["run"]);
        service.wait_for("held for");
        Held { world, node, service, began }
    }

    /// Waits until ABANDON waits for this node.
    fn wait_at_the_gate(&self, id: &InstanceId) {
        self.service.wait_for(&format!("ABANDON waits: {AWAY}{id}"));
    }

    /// When ABANDON was sent, in seconds since the boot of this host.
    fn abandoned_at(&self) -> f64 {
        let sent = when(&self.world, |what| sends_abandon(what, &self.node));
        self.began + sent.unwrap_or_else(|| panic!("ABANDON was never sent\n{}", self.service.log()))
    }

    /// Waits for ABANDON, which must be the only thing that was sent, and after `released`.
    fn must_abandon_after(&self, released: f64) {
        wait_until(|| !self.world.completions().is_empty(), || self.service.log());
        assert_eq!(self.world.completions(), ["ABANDON"]);
        let early = released - self.abandoned_at();
        assert!(early < 0.05, "{early:.2} s too early\n{}", self.service.log());
    }
}

fn sends_abandon(what: &What, node: &Instance) -> bool {
    matches!(what, What::Api(call) if call.done
        && call.action == "autoscaling:CompleteLifecycleAction"
        && call.parameters.get("LifecycleActionResult").is_some_and(|result| result == "ABANDON")
        && call.parameters.get("InstanceId").is_some_and(|id| id == node.id.as_str()))
}

/// The end of the hold as `status` tells it, in seconds since the boot of this host.
fn hold_ends_at(node: &Instance) -> f64 {
    let document = status(node).0;
    let until = humantime::parse_rfc3339(document["hold"]["until"].as_str().unwrap()).unwrap();
    let left = until.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
    uptime() + left.as_secs_f64()
}

#[test]
fn abandon_waits_for_who_is_away_and_retries_are_taken_meanwhile() {
    let held = Held::new("3s", "2h");
    let Held { world, node, service, .. } = &held;
    let id = other(world, LATER);
    world.sim.set_lifecycle_state(&id, "Standby").unwrap();
    held.wait_at_the_gate(&id);

    let (document, code) = status(node);
    assert_eq!((code, &document["state"]), (1, &"held".into()), "{document}");
    let warning = document["warnings"].as_array().unwrap().iter().find(|warning| warning["step"] == "gate");
    let message = warning.unwrap()["message"].as_str().unwrap();
    assert!(message.contains(&format!("ABANDON waits: {AWAY}{id} in {LATER} is Standby")), "{message}");
    assert!(run(node, &["status"]).log.contains(message), "{message}");
    // A retry that fails changes nothing.
    run(node, &["retry"]).must_fail(1, &["code=hook-failed"]);
    wait_until(|| service.log().matches("ABANDON waits").count() >= 2, || service.log());
    assert!(world.completions().is_empty(), "{}", service.log());

    let released = uptime();
    world.sim.set_lifecycle_state(&id, "InService").unwrap();

    held.must_abandon_after(released);
    held.service.end().must_fail(1, &["the hold has ended", "code=hook-failed"]);
}

#[test]
fn a_node_repaired_while_abandon_waits_comes_into_service() {
    let held = Held::new("3s", "2h");
    let Held { world, node, .. } = &held;
    let id = other(world, LATER);
    world.sim.set_lifecycle_state(&id, "Standby").unwrap();
    held.wait_at_the_gate(&id);

    node.shell("touch /tmp/repaired");
    run(node, &["retry"]).must_fail(0, &["result=done"]);

    assert_eq!(world.completions(), ["CONTINUE"]);
    let document = status(node).0;
    assert_eq!((&document["state"], &document["warnings"]), (&"done".into(), &serde_json::json!([])), "{document}");
    wait_until(|| written(world, &node.id) == "done", || written(world, &node.id));
}

#[test]
fn heartbeats_keep_the_launch_waiting_while_abandon_waits() {
    let began = uptime();
    let world = departure::world(|_| {});
    let short = |group: &mut GroupSpec| {
        group.tags = tags();
        group.hooks[0].heartbeat_timeout = Duration::from_secs(6);
    };
    world.sim.change_group(GROUP, short).unwrap();
    let id = other(&world, LATER);
    world.sim.set_lifecycle_state(&id, "Standby").unwrap();
    let node = world.launch();
    node.hooks(BROKEN);
    node.configure(config_with("hold_for = \"3s\"", &[], CLUSTER));
    let service = node.start_with(&["run"]);
    let held = Held { world, node, service, began };
    held.wait_at_the_gate(&id);
    let before = heartbeats(&held.world);
    wait_until(|| heartbeats(&held.world) >= before + 5, || held.service.log());

    let released = uptime();
    held.world.sim.set_lifecycle_state(&id, "InService").unwrap();

    held.must_abandon_after(released);
}

#[test]
fn abandon_is_sent_at_the_latest_when_the_gate_ends_also_after_restarts() {
    let mut held = Held::new("4s", "16s");
    let id = other(&held.world, LATER);
    held.world.sim.set_lifecycle_state(&id, "Standby").unwrap();
    let latest = hold_ends_at(&held.node) + 16.0;
    // Within the hold, and within the gate.
    for said in ["held for", "ABANDON waits: "] {
        held.service.wait_for(said);
        held.service.signal(Signal::SIGKILL);
        let Held { world, node, service, began } = held;
        assert_eq!(service.end().code, None);
        held = Held { service: node.start_with(&["run"]), world, node, began };
    }
    held.wait_at_the_gate(&id);

    held.must_abandon_after(latest - 1.0);

    let late = held.abandoned_at() - latest;
    assert!(late < 3.0, "{late:.1} s too late\n{}", held.service.log());
    held.service.end().must_fail(1, &["ABANDON is sent now, after "]);
}

#[test]
fn an_operator_who_gives_the_node_up_waits_at_no_gate() {
    for hold_for in ["1h", "3s"] {
        let held = Held::new(hold_for, "2h");
        let id = other(&held.world, LATER);
        held.world.sim.set_lifecycle_state(&id, "Standby").unwrap();
        if hold_for == "3s" {
            held.wait_at_the_gate(&id);
        }

        run(&held.node, &["complete", "abandon", "--yes"]).must_fail(0, &[]);

        assert_eq!(held.world.completions()[0], "ABANDON");
        held.service.end().must_fail(1, &["code=hook-failed"]);
    }
}

#[test]
fn the_word_for_whom_a_held_node_waits_is_taken_back_before_abandon() {
    let held = Held::new("3s", "14s");
    let Held { world, node, service, .. } = &held;
    // Another held node, which goes first.
    let id = other(world, EARLIER);
    world.sim.set_lifecycle_state(&id, "Pending:Wait").unwrap();
    write_status(world, &id, "gate: the hold is over; waits for i-0123456789abcdef0 in nobody");
    wait_until_written(world, node, &format!("gate: the hold is over; waits for {id} in {EARLIER}"), service);

    held.must_abandon_after(0.0);

    let events = world.events();
    let sent = events.iter().position(|event| sends_abandon(&event.what, node)).unwrap();
    let mut statuses = events[..sent].iter().filter_map(|event| match &event.what {
        What::Api(call) if call.action == "ec2:CreateTags" && call.done => {
            call.parameters.values().find(|value| value.starts_with("gate: ") || value.starts_with("configure: "))
        }
        _ => None,
    });
    let last = statuses.next_back().unwrap();
    assert!(last.starts_with("configure: "), "{last:?} was there when ABANDON was sent\n{}", service.log());
}

#[test]
fn a_held_node_at_its_end_goes_before_one_that_is_told_to_go() {
    let held = Held::new("3s", "2h");
    let Held { world, node, .. } = &held;
    let first = GroupSpec { name: EARLIER.to_owned(), hooks: hooks(), tags: tags(), ..GroupSpec::default() };
    world.sim.create_group(first).unwrap();
    let serving = world.launch_as(InstanceSpec {
        group: Some(EARLIER.to_owned()),
        private_ips: vec!["10.0.1.11".to_owned()],
        ..InstanceSpec::default()
    });
    serving.hooks(HOOKS);
    // Its own launch keeps the held node from going until then.
    serving.configure(config_of(EARLIER, "10.0.1.11", &[], CLUSTER));
    world.sim.set_lifecycle_state(&other(world, LATER), "Standby").unwrap();
    let service = in_service(&serving);
    world.sim.change_group(LATER, |group| group.tags.clear()).unwrap();
    ordered(world, &serving);

    wait_until(
        || world.completions().iter().any(|result| result == "ABANDON"),
        || format!("{}\n{}\n{}", written(world, &node.id), held.service.log(), service.log()),
    );

    // It still serves: the held node's replacement is not there.
    assert!(drained_at(&serving).is_none(), "{}", service.log());
}
