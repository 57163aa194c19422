//! What an operator reads before and during a rolling update.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use common::fleet::{Fleet, TEMPLATE, must_have};
use common::{Client, GROUP, HOOK, Reply, World, hook};
use ec2_sim::{Credentials, Fault, FaultRule, ImageState, Transition, VolumeSpec, What};

fn activities(fleet: &Fleet) -> Reply {
    fleet.call("DescribeScalingActivities", &[("AutoScalingGroupName", GROUP)])
}

#[test]
fn activities_tell_of_launches_that_fail_and_of_lives_the_newest_first() {
    let fleet = Fleet::new(|group| group.hooks = vec![hook(Transition::Launching)]);
    let first = fleet.wait(|what| matches!(what, What::Lifecycle(change) if change.to == "Pending:Wait"));
    let first = match first {
        What::Lifecycle(change) => change.instance,
        other => panic!("{other:?}"),
    };
    must_have(
        &activities(&fleet).text(),
        &[
            &format!("<Description>Launching a new EC2 instance: {first}</Description>"),
            "<StatusCode>MidLifecycleAction<",
            r#""Availability Zone":"eu-west-1a""#,
        ],
    );
    let names = [("AutoScalingGroupName", GROUP), ("LifecycleHookName", HOOK), ("InstanceId", first.as_str())];
    let abandon = [&names[..], &[("LifecycleActionResult", "ABANDON")]].concat();
    assert_eq!(fleet.call("CompleteLifecycleAction", &abandon).status, 200);
    fleet.wait(|what| matches!(what, What::Activity(activity) if activity.instance.is_none()));
    fleet.wait(|what| matches!(what, What::Instance(change) if change.id == first && change.to == "terminated"));
    let text = activities(&fleet).text();
    let cancelled = "<StatusCode>Cancelled</StatusCode><StatusMessage>Instance failed to complete user's Lifecycle Action: Lifecycle Action with token ";
    must_have(
        &text,
        &[
            "<Description>Launching a new EC2 instance.  Status Reason: Interface: [eni-0a] in use. Launching EC2 instance failed.<",
            "<StatusCode>Failed</StatusCode><StatusMessage>Interface: [eni-0a] in use.",
            &format!("<Description>Terminating EC2 instance: {first}<"),
            cancelled,
            " was abandoned: Lifecycle Action Completed with ABANDON Result</StatusMessage>",
            "<StatusCode>Successful<",
        ],
    );
    assert!(text.find("Status Reason").unwrap() < text.find(cancelled).unwrap(), "the newest is first: {text}");
    let page = [("AutoScalingGroupName", GROUP), ("MaxRecords", "1")];
    assert!(fleet.call("DescribeScalingActivities", &page).element("NextToken").is_some());
}

#[test]
fn a_group_shows_its_suspensions_refresh_and_zonal_shift() {
    let fleet = Fleet::new(|group| group.wants = 0);
    let set = |group: &mut ec2_sim::GroupSpec| {
        group.suspended.insert("Launch".to_owned(), "User suspended at 2026-01-02T03:04:05Z".to_owned());
        group.zonal_shift = Some("IgnoreUnhealthy".to_owned());
        group.refresh = Some("InProgress".to_owned());
        group.wants = 1;
    };
    fleet.sim.change_group(GROUP, set).unwrap();
    must_have(
        &fleet.group(),
        &[
            "<ProcessName>Launch</ProcessName><SuspensionReason>User suspended at 2026-01-02T03:04:05Z<",
            "<ZonalShiftEnabled>true</ZonalShiftEnabled><ImpairedZoneHealthCheckBehavior>IgnoreUnhealthy<",
        ],
    );
    let refresh = fleet.call("DescribeInstanceRefreshes", &[("AutoScalingGroupName", GROUP)]);
    assert_eq!(refresh.element("Status").unwrap(), "InProgress");
    fleet.sim.change_group(GROUP, |group| group.suspended.clear()).unwrap();
    fleet.in_service(0);
    let launches = |what: &What| matches!(what, What::Activity(_));
    assert_eq!(fleet.sim.events().iter().filter(|event| launches(&event.what)).count(), 1);
}

#[test]
fn the_account_says_whether_it_launches_before_it_terminates() {
    let fleet = Fleet::new(|group| group.wants = 0);
    let value = || {
        let settings = fleet.call("DescribeAccountSettings", &[("Name", "launchBeforeTerminate")]);
        (settings.element("Name").unwrap(), settings.element("Value").unwrap())
    };
    assert_eq!(value(), ("launchBeforeTerminate".to_owned(), "disabled".to_owned()));
    fleet.sim.set_launch_before_terminate(true);
    assert_eq!(value().1, "enabled");
}

#[test]
fn protection_and_standby_are_shown() {
    let fleet = Fleet::new(|_| {});
    let instance = fleet.in_service(0);
    fleet.sim.set_protection(&instance, true).unwrap();
    must_have(&fleet.group(), &["<ProtectedFromScaleIn>true<"]);
    fleet.sim.change_group(GROUP, |group| group.wants = 0).unwrap();
    fleet.sim.set_lifecycle_state(&instance, "Standby").unwrap();
    must_have(&fleet.group(), &["<LifecycleState>Standby<"]);
}

#[test]
fn images_and_types_are_there_unless_they_are_not() {
    let fleet = Fleet::new(|group| group.wants = 0);
    let image = |id: &str| fleet.call("DescribeImages", &[("ImageId.1", id)]);
    assert_eq!(image("ami-0123456789abcdef1").element("imageState").unwrap(), "available");
    for (state, name) in [(ImageState::Pending, "pending"), (ImageState::Failed, "failed")] {
        fleet.sim.set_image("ami-one", state);
        assert_eq!(image("ami-one").element("imageState").unwrap(), name);
    }
    fleet.sim.set_image("ami-one", ImageState::Absent);
    assert_eq!(image("ami-one").element("Code").unwrap(), "InvalidAMIID.NotFound");
    let offered = |kind: &str| {
        let filters = [
            ("LocationType", "availability-zone"),
            ("Filter.1.Name", "instance-type"),
            ("Filter.1.Value.1", kind),
            ("Filter.2.Name", "location"),
            ("Filter.2.Value.1", "eu-west-1a"),
        ];
        fleet.call("DescribeInstanceTypeOfferings", &filters).element("location")
    };
    assert_eq!(offered("m6i.large").as_deref(), Some("eu-west-1a"));
    fleet.sim.set_offered("m6i.large", "eu-west-1a", false);
    assert_eq!(offered("m6i.large"), None);
    assert!(offered("r6i.large").is_some());
    fleet.sim.change_group(GROUP, |group| group.wants = 1).unwrap();
    let failed = fleet.wait(|what| matches!(what, What::Activity(_)));
    let missing = "The image id '[ami-one]' does not exist. Launching EC2 instance failed.";
    assert!(matches!(failed, What::Activity(activity) if activity.status == missing));
}

#[test]
fn an_instance_shows_its_root_device_and_its_volumes() {
    let world = World::new();
    world.sim.attach(&world.volume, &world.instance, "/dev/sdf").unwrap();
    let shown = world.client().call("ec2", "DescribeInstances", &[("InstanceId.1", &world.instance)]).unwrap().text();
    must_have(
        &shown,
        &[
            "<deviceName>/dev/xvda</deviceName><ebs>",
            "<deleteOnTermination>true<",
            "<deviceName>/dev/sdf</deviceName><ebs>",
            "<deleteOnTermination>false<",
            "<attachTime>",
        ],
    );
}

#[test]
fn a_console_is_what_the_scenario_says() {
    let fleet = Fleet::new(|_| {});
    let instance = fleet.in_service(0);
    let read = || fleet.call("GetConsoleOutput", &[("InstanceId", &instance), ("Latest", "true")]).element("output");
    assert_eq!(read(), None);
    fleet.sim.set_console(&instance, "panic\n");
    assert_eq!(read().unwrap(), "cGFuaWMK");
}

#[test]
fn a_snapshot_is_tagged_in_the_same_call_and_knows_who_held_the_volume() {
    let world = World::new();
    let free = world.sim.create_volume(VolumeSpec { size_bytes: 1 << 20, ..VolumeSpec::default() }).unwrap();
    world.sim.attach(&world.volume, &world.instance, "/dev/sdf").unwrap();
    let client = world.client();
    let take = |volume: &str| {
        let parameters = [
            ("VolumeId", volume),
            ("Description", "before the roll"),
            ("TagSpecification.1.ResourceType", "snapshot"),
            ("TagSpecification.1.Tag.1.Key", "node-agent:run"),
            ("TagSpecification.1.Tag.1.Value", "r1"),
        ];
        client.call("ec2", "CreateSnapshot", &parameters).unwrap()
    };
    assert_eq!(take(&free).element("status").unwrap(), "pending");
    assert_eq!(take(&world.volume).status, 200);
    let snapshots = world.sim.snapshots();
    assert_eq!((&snapshots[0].volume, &snapshots[0].attached_to), (&free, &None));
    assert_eq!((&snapshots[1].volume, &snapshots[1].attached_to), (&world.volume, &Some(world.instance.clone())));
    assert_eq!(
        (snapshots[0].tags["node-agent:run"].as_str(), snapshots[0].description.as_str()),
        ("r1", "before the roll")
    );

    let env = world.sim.operator_env(&["ec2:CreateTags"]);
    let value = |name: &str| env.iter().find(|(key, _)| key == name).unwrap().1.clone();
    let credentials = Credentials {
        access_key_id: value("AWS_ACCESS_KEY_ID"),
        secret_access_key: value("AWS_SECRET_ACCESS_KEY"),
        session_token: None,
    };
    let operator = Client { credentials, ..client.clone() };
    let tagged = [
        ("VolumeId", free.as_str()),
        ("TagSpecification.1.ResourceType", "snapshot"),
        ("TagSpecification.1.Tag.1.Key", "k"),
    ];
    let refused = operator.call("ec2", "CreateSnapshot", &tagged).unwrap();
    assert_eq!(refused.element("Code").unwrap(), "UnauthorizedOperation");
    assert_eq!(operator.call("ec2", "CreateSnapshot", &tagged[..1]).unwrap().status, 200);
}

#[test]
fn a_second_terminate_is_answered_with_the_activity_at_work_and_logged() {
    let fleet = Fleet::new(|group| group.hooks = vec![hook(Transition::Terminating)]);
    let instance = fleet.in_service(0);
    let terminate = |decrement: &str| {
        let parameters = [("InstanceId", instance.as_str()), ("ShouldDecrementDesiredCapacity", decrement)];
        fleet.call("TerminateInstanceInAutoScalingGroup", &parameters)
    };
    must_have(&terminate("true").text(), &["violate group's min size"]);
    let busy = Fault::Error {
        http: 400,
        code: "ScalingActivityInProgress".to_owned(),
        message: "Activity is in progress.".to_owned(),
    };
    fleet.sim.add_fault(FaultRule::once("autoscaling:TerminateInstanceInAutoScalingGroup", busy).after(1)).unwrap();
    let first = terminate("false");
    assert_eq!(terminate("false").element("Code").unwrap(), "ScalingActivityInProgress");
    assert_eq!(terminate("false").element("ActivityId").unwrap(), first.element("ActivityId").unwrap());
    let events = fleet.sim.events();
    let calls = events.calls("autoscaling:TerminateInstanceInAutoScalingGroup");
    assert_eq!(calls.iter().filter(|call| call.parameters["InstanceId"] == *instance).count(), 2);
}

#[test]
fn the_clock_of_aws_can_jump() {
    let fleet = Fleet::new(|group| group.wants = 0);
    let date = |client: &Client| {
        let reply = client.call("ec2", "DescribeLaunchTemplates", &[("LaunchTemplateId.1", TEMPLATE)]).unwrap();
        let date = reply.header("date").unwrap().to_owned();
        (reply.status, date)
    };
    let (status, before) = date(&fleet.client);
    assert_eq!(status, 200);
    fleet.sim.set_clock_ahead(100 * 24 * 3600);
    let (status, after) = date(&fleet.client);
    assert_eq!(status, 400, "signed in the past");
    assert_ne!(before[..16], after[..16]);
    let stamp = Some(time::OffsetDateTime::now_utc() + time::Duration::days(100));
    assert_eq!(date(&Client { stamp, ..fleet.client.clone() }).0, 200);
}
