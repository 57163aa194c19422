//! Late answers tell of the past, each service by itself and never of more than the bound.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::time::{Duration, Instant};

use common::fleet::{Fleet, must_have};
use common::{GROUP, PATIENCE};
use ec2_sim::{Lag, Spread};

/// Later than a test takes.
const LATE: Duration = Duration::from_hours(1);

/// How long a state lasts that late answers are to show.
const LASTS: Duration = Duration::from_millis(500);

/// The group as it was soon after this time. A busy machine makes a call late, so that it shows a later time than was meant.
fn group_as_of(fleet: &Fleet, time: Instant, shows: &str) -> String {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        fleet.sim.set_lag(Lag { groups: Spread::from(time.elapsed()), backwards: 1.0, ..Lag::default() });
        let group = fleet.group();
        if group.contains(shows) {
            return group;
        }
    }
    panic!("{shows} is never shown: {}", fleet.group());
}

fn tag(fleet: &Fleet, value: &str) {
    let parameters = [
        ("Tags.member.1.ResourceId", GROUP),
        ("Tags.member.1.ResourceType", "auto-scaling-group"),
        ("Tags.member.1.Key", "node-agent:roll"),
        ("Tags.member.1.Value", value),
    ];
    assert_eq!(fleet.call("CreateOrUpdateTags", &parameters).status, 200);
}

#[test]
fn the_services_disagree_about_a_member_that_was_replaced() {
    let fleet = Fleet::new(|_| {});
    let first = fleet.in_service(0);
    let settled = Instant::now();
    std::thread::sleep(LASTS);
    fleet.terminate(&first);
    let second = fleet.in_service(1);
    let group = group_as_of(&fleet, settled, &format!("<InstanceId>{first}<"));
    must_have(&group, &["<LifecycleState>InService<"]);
    assert!(!group.contains(second.as_str()), "{group}");
    let members = fleet.call("DescribeAutoScalingInstances", &[]).text();
    assert!(members.contains(second.as_str()) && !members.contains(first.as_str()), "{members}");
    fleet.sim.set_lag(Lag { members: Spread::from(LATE), instances: Spread::from(LATE), ..Lag::default() });
    assert!(!fleet.call("DescribeAutoScalingInstances", &[]).text().contains("<InstanceId>"));
    assert!(!fleet.call("DescribeInstances", &[]).text().contains("<instanceId>"));
    assert!(fleet.group().contains(second.as_str()));
}

#[test]
fn settings_and_tags_of_a_group_are_as_late_as_its_members() {
    let fleet = Fleet::new(|_| {});
    fleet.in_service(0);
    tag(&fleet, "before");
    let tagged = Instant::now();
    std::thread::sleep(LASTS);
    tag(&fleet, "after");
    let update = [("LaunchTemplate.LaunchTemplateName", "kafka"), ("LaunchTemplate.Version", "$Latest")];
    assert_eq!(fleet.update(&update).status, 200);
    let late = group_as_of(&fleet, tagged, "<Value>before<");
    assert!(!late.contains("$Latest"), "{late}");
    fleet.sim.set_lag(Lag::default());
    must_have(&fleet.group(), &["<Value>after<", "$Latest"]);
}

#[test]
fn an_instance_that_does_not_exist_yet_in_a_late_answer_is_not_found() {
    let fleet = Fleet::new(|_| {});
    let instance = fleet.in_service(0);
    fleet.sim.set_lag(Lag { instances: Spread::from(LATE), ..Lag::default() });
    let reply = fleet.call("DescribeInstances", &[("InstanceId.1", &instance)]);
    assert_eq!(reply.element("Code").unwrap(), "InvalidInstanceID.NotFound");
}
