//! A warm pool that is reused on scale-in launches the same instance again: each launch is completed by itself.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use ec2_sim::{Fault, FaultRule, GroupSpec, HookSpec, InstanceSpec, VolumeId};
use support::{GROUP, HOOK, Instance, Outcome, World, config_for, wait_for_state, wait_until};

const TWO_HOOKS: &str = "kafka-node-01";

/// A node whose launch is completed, in this group.
fn launched(world: &World, group: &str) -> (Instance, VolumeId) {
    let volume = world.volume(1);
    let node = world.launch_as(InstanceSpec { group: Some(group.to_owned()), ..InstanceSpec::default() });
    wait_for_lifecycle_state(world, &node, "Pending:Wait");
    (node, volume)
}

fn wait_for_lifecycle_state(world: &World, node: &Instance, wanted: &str) {
    let state = || world.sim.lifecycle_state(&node.id);
    wait_until(|| state().as_deref() == Some(wanted), || format!("{:?}", state()));
}

fn text(volume: &VolumeId, group: &str) -> String {
    config_for(volume).replace(GROUP, group)
}

/// Reboots the node, with a new boot id.
fn reboot(node: &mut Instance) {
    node.reboot();
    node.shell(
        "cat /proc/sys/kernel/random/uuid > /run/boot_id
         mount --bind /run/boot_id /proc/sys/kernel/random/boot_id",
    );
}

fn hooks_run(node: &Instance) -> usize {
    node.read("/var/log/hooks.log").matches("configure").count()
}

#[test]
fn an_instance_launched_again_from_its_warm_pool_is_completed_again() {
    for by_way_of in ["Pending", "Pending:Wait"] {
        let world = World::new();
        let (mut node, volume) = launched(&world, GROUP);
        node.come_up(&text(&volume, GROUP));
        wait_for_lifecycle_state(&world, &node, "InService");
        node.shell("echo precious > /mydata/data; rm /etc/kafka/server.properties");

        world.sim.set_lifecycle_state(&node.id, "Warmed:Stopped").unwrap();
        world.sim.set_lifecycle_state(&node.id, by_way_of).unwrap();
        reboot(&mut node);
        if by_way_of == "Pending:Wait" {
            node.configure(text(&volume, GROUP));
            let beats = world.events().calls("autoscaling:RecordLifecycleActionHeartbeat").len();
            let plan = node.start_with(&["plan"]).end();
            plan.must_fail(0, &["would do      identity", "launched anew", "unknown       complete"]);
            assert_eq!(world.events().calls("autoscaling:RecordLifecycleActionHeartbeat").len(), beats);
        }
        let agent = node.start(&text(&volume, GROUP));
        if by_way_of == "Pending" {
            agent.wait_for("although its launch was completed before");
            world.sim.set_lifecycle_state(&node.id, "Pending:Wait").unwrap();
        }
        let outcome = agent.end();

        outcome.must_fail(0, &["launched anew from a warm pool: files, hooks and complete are due again"]);
        assert_eq!(world.completions(), ["CONTINUE", "CONTINUE"]);
        assert_eq!(node.read("/mydata/data"), "precious\n");
        assert_eq!(node.read("/etc/kafka/server.properties"), "broker.id=00");
        assert_eq!(hooks_run(&node), 2);
        wait_for_lifecycle_state(&world, &node, "InService");
        // The next boot has nothing to do.
        reboot(&mut node);
        node.come_up(&text(&volume, GROUP));
        assert_eq!((hooks_run(&node), world.completions().len()), (2, 2));
    }
}

#[test]
fn an_instance_seen_in_its_warm_pool_is_launched_anew_without_another_boot() {
    let world = World::new();
    let (node, volume) = launched(&world, GROUP);
    node.come_up(&text(&volume, GROUP));
    wait_for_lifecycle_state(&world, &node, "InService");

    world.sim.set_lifecycle_state(&node.id, "Warmed:Running").unwrap();
    let service = node.start_with(&["run"]);
    wait_for_state(&node, "warm", &service);
    world.sim.set_lifecycle_state(&node.id, "Pending:Wait").unwrap();
    wait_for_state(&node, "done", &service);

    assert_eq!(world.completions(), ["CONTINUE", "CONTINUE"]);
    assert_eq!(hooks_run(&node), 2);
}

#[test]
fn an_instance_that_goes_back_to_its_pool_in_service_is_launched_anew() {
    let world = World::new();
    let (node, volume) = launched(&world, GROUP);
    node.configure(text(&volume, GROUP));
    let service = node.start_with(&["run"]);
    wait_for_state(&node, "done", &service);
    wait_for_lifecycle_state(&world, &node, "InService");

    world.sim.set_lifecycle_state(&node.id, "Warmed:Running").unwrap();
    wait_for_state(&node, "warm", &service);
    world.sim.set_lifecycle_state(&node.id, "Pending:Wait").unwrap();
    wait_for_state(&node, "done", &service);

    assert_eq!(world.completions(), ["CONTINUE", "CONTINUE"]);
    assert_eq!(hooks_run(&node), 2);
}

#[test]
fn an_old_description_right_after_continue_is_no_new_launch() {
    let world = World::new();
    let (node, volume) = launched(&world, GROUP);
    node.come_up(&text(&volume, GROUP));
    wait_for_lifecycle_state(&world, &node, "InService");
    // Pending:Wait, Pending:Proceed, InService.
    let stale = FaultRule::once("autoscaling:DescribeAutoScalingInstances", Fault::Stale { back: 2 });
    world.sim.add_fault(stale).unwrap();

    node.come_up(&text(&volume, GROUP));

    assert_eq!((hooks_run(&node), world.completions().len()), (1, 1));
}

#[test]
fn a_second_hook_that_holds_the_instance_is_no_new_launch() {
    let world = World::new();
    let hooks = [HOOK, "another-hook"].map(|name| HookSpec { name: name.to_owned(), ..HookSpec::default() });
    world
        .sim
        .create_group(GroupSpec { name: TWO_HOOKS.to_owned(), hooks: hooks.to_vec(), ..GroupSpec::default() })
        .unwrap();
    let (mut node, volume) = launched(&world, TWO_HOOKS);
    // Accepted, but the other hook still holds it: counted as sent once nothing of ours is active.
    node.come_up(&text(&volume, TWO_HOOKS));
    assert_eq!(world.sim.lifecycle_state(&node.id).as_deref(), Some("Pending:Wait"));

    reboot(&mut node);
    let Outcome { log, .. } = node.come_up(&text(&volume, TWO_HOOKS));

    assert!(!log.contains("launched anew"), "{log}");
    assert_eq!((hooks_run(&node), world.completions().len()), (1, 1));
}
