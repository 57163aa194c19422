//! Groups launch from launch templates, and operators change and read both.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::collections::BTreeMap;

use common::fleet::{Fleet, TEMPLATE, must_have};
use common::{Client, GROUP, PATIENCE, World, block_on};
use ec2_sim::{
    Credentials, InstanceId, MixedPolicy, Override, Spread, TemplateChoice, TemplateSpec, TemplateVersion, What,
};

#[test]
fn an_instance_is_launched_from_the_version_in_force_at_its_launch() {
    let fleet = Fleet::new(|_| {});
    let first = fleet.in_service(0);
    must_have(
        &fleet.group(),
        &[
            "<LaunchTemplate><LaunchTemplateId>lt-0123456789abcdef0</LaunchTemplateId><LaunchTemplateName>kafka</LaunchTemplateName><Version>1</Version></LaunchTemplate>",
        ],
    );
    let shown = |id: &InstanceId| fleet.call("DescribeInstances", &[("InstanceId.1", id)]).text();
    must_have(
        &shown(&first),
        &[
            "<imageId>ami-one<",
            "<networkInterfaceId>eni-0a<",
            "<privateIpAddress>10.0.1.20<",
            "<key>aws:ec2launchtemplate:version</key><value>1<",
            "<key>aws:ec2launchtemplate:id</key><value>lt-0123456789abcdef0<",
            "<key>version</key><value>one<",
        ],
    );
    assert_eq!(
        fleet.update(&[("LaunchTemplate.LaunchTemplateName", "kafka"), ("LaunchTemplate.Version", "2")]).status,
        200
    );
    assert!(!fleet.group().contains("<Version>3<"));
    fleet.terminate(&first);
    let second = fleet.in_service(1);
    must_have(&shown(&second), &["<imageId>ami-two<", "<networkInterfaceId>eni-0a<", "<value>two<"]);
    let member = fleet.call("DescribeAutoScalingInstances", &[("InstanceIds.member.1", &second)]).text();
    must_have(&member, &["<LaunchTemplateName>kafka</LaunchTemplateName><Version>2</Version></LaunchTemplate>"]);
    let events = fleet.sim.events();
    let failed = events.iter().find_map(|event| match &event.what {
        What::Activity(activity) if activity.instance.is_none() => Some(activity.status.clone()),
        _ => None,
    });
    assert_eq!(failed.unwrap(), "Interface: [eni-0a] in use. Launching EC2 instance failed.");
}

#[test]
fn a_default_or_latest_version_is_resolved_at_each_launch() {
    let fleet = Fleet::new(|group| group.template = Some(TemplateChoice::new("kafka", "$Default")));
    let first = fleet.in_service(0);
    fleet.sim.set_default_version("kafka", 2).unwrap();
    must_have(&fleet.group(), &["<Version>$Default<", "<Version>1<"]);
    fleet.terminate(&first);
    fleet.in_service(1);
    must_have(&fleet.group(), &["<Version>$Default<", "<Version>2<"]);
    let versions = [("LaunchTemplateVersion.1", "$Default"), ("LaunchTemplateVersion.2", "$Latest")];
    let all = fleet.call("DescribeLaunchTemplateVersions", &versions).text();
    must_have(&all, &["<versionNumber>2<", "<defaultVersion>true<", "<imageId>ami-two<", "<userData>dHdv<"]);
    assert!(!all.contains("<versionNumber>1<"), "{all}");
}

#[test]
fn templates_are_found_by_id_and_name_and_come_in_pages() {
    let fleet = Fleet::new(|_| {});
    for number in 0..3 {
        let (name, versions) = (format!("other-{number}"), vec![TemplateVersion::default()]);
        fleet.sim.create_template(TemplateSpec { name, id: None, versions }).unwrap();
    }
    let named = [("LaunchTemplateName.1", "kafka"), ("LaunchTemplateId.1", TEMPLATE)];
    let one = fleet.call("DescribeLaunchTemplates", &named);
    assert_eq!(one.element("latestVersionNumber").unwrap(), "2");
    assert_eq!(one.element("defaultVersionNumber").unwrap(), "1");
    let page = fleet.call("DescribeLaunchTemplates", &[("MaxResults", "3")]);
    let rest = fleet
        .call("DescribeLaunchTemplates", &[("MaxResults", "3"), ("NextToken", &page.element("nextToken").unwrap())]);
    assert_eq!(rest.text().matches("<launchTemplateId>").count(), 1);
    assert!(rest.element("nextToken").is_none());
    let missing = fleet.call("DescribeLaunchTemplates", &[("LaunchTemplateId.1", "lt-9")]);
    assert_eq!(missing.element("Code").unwrap(), "InvalidLaunchTemplateId.NotFound");
    let missing = [("LaunchTemplateId", TEMPLATE), ("LaunchTemplateVersion.1", "3")];
    let missing = fleet.call("DescribeLaunchTemplateVersions", &missing);
    assert_eq!(missing.element("Code").unwrap(), "InvalidLaunchTemplateId.VersionNotFound");
    let every = fleet.call("DescribeLaunchTemplateVersions", &[("LaunchTemplateVersion.1", "1")]);
    assert_eq!(every.element("Code").unwrap(), "MissingParameter");
}

#[test]
fn an_image_may_be_named_by_a_parameter() {
    let fleet = Fleet::new(|group| group.wants = 0);
    let by_parameter = TemplateVersion { image: "resolve:ssm:/images/kafka".to_owned(), ..TemplateVersion::default() };
    fleet.sim.add_template_version(TEMPLATE, by_parameter).unwrap();
    let asked = [("LaunchTemplateId", TEMPLATE), ("LaunchTemplateVersion.1", "3"), ("ResolveAlias", "true")];
    assert_eq!(
        fleet.call("DescribeLaunchTemplateVersions", &asked[..2]).element("imageId").unwrap(),
        "resolve:ssm:/images/kafka"
    );
    assert_eq!(fleet.call("DescribeLaunchTemplateVersions", &asked).status, 400);
    fleet.sim.set_parameter("/images/kafka", "ami-0parameter");
    assert_eq!(fleet.call("DescribeLaunchTemplateVersions", &asked).element("imageId").unwrap(), "ami-0parameter");
    fleet
        .sim
        .change_group(GROUP, |group| (group.wants, group.template) = (1, Some(TemplateChoice::new("kafka", "3"))))
        .unwrap();
    let instance = fleet.in_service(0);
    must_have(&fleet.call("DescribeInstances", &[("InstanceId.1", &instance)]).text(), &["<imageId>ami-0parameter<"]);
}

#[test]
fn a_mixed_policy_launches_its_override_and_is_replaced_as_a_whole() {
    let own = TemplateSpec { name: "own".to_owned(), id: None, versions: vec![TemplateVersion::default(); 3] };
    let fleet = Fleet::new(|group| group.wants = 0);
    fleet.sim.create_template(own).unwrap();
    let overrides = ["m6i.xlarge", "r6i.large"].map(|kind| Override {
        instance_type: Some(kind.to_owned()),
        weighted_capacity: Some("1".to_owned()),
        template: (kind == "r6i.large").then(|| TemplateChoice::new("own", "$Latest")),
        image: None,
    });
    let mixed = MixedPolicy {
        base: TemplateChoice::new("kafka", "1"),
        overrides: overrides.to_vec(),
        distribution: BTreeMap::from([("OnDemandBaseCapacity".to_owned(), "1".to_owned())]),
        launches: 1,
    };
    fleet.sim.change_group(GROUP, |group| (group.wants, group.mixed, group.template) = (1, Some(mixed), None)).unwrap();
    fleet.in_service(0);
    must_have(
        &fleet.group(),
        &[
            "<InstanceType>r6i.large</InstanceType><AvailabilityZone>",
            "<LaunchTemplateName>own</LaunchTemplateName><Version>3</Version></LaunchTemplate><WeightedCapacity>1<",
            "<InstanceType>m6i.xlarge</InstanceType><WeightedCapacity>1<",
            "<LaunchTemplateName>own</LaunchTemplateName><Version>$Latest<",
            "<OnDemandBaseCapacity>1<",
        ],
    );
    let base = "MixedInstancesPolicy.LaunchTemplate.LaunchTemplateSpecification";
    let first = "MixedInstancesPolicy.LaunchTemplate.Overrides.member.1";
    let id = (format!("{base}.LaunchTemplateId"), format!("{base}.Version"), format!("{first}.InstanceType"));
    let update = fleet.update(&[(&id.0, TEMPLATE), (&id.1, "2"), (&id.2, "m6i.xlarge")]);
    assert_eq!(update.status, 200);
    let group = fleet.group();
    must_have(&group, &["<Version>2</Version></LaunchTemplateSpecification>", "<InstancesDistribution></"]);
    assert!(!group.contains("$Latest"), "{group}");
    assert_eq!(fleet.update(&[(&id.2, "m6i.xlarge")]).status, 400);
}

#[test]
fn sizes_are_kept_apart_and_must_agree() {
    let fleet = Fleet::new(|_| {});
    let instance = fleet.in_service(0);
    must_have(&fleet.group(), &["<MinSize>1<", "<MaxSize>1<", "<DesiredCapacity>1<"]);
    assert_eq!(fleet.update(&[("MinSize", "2")]).status, 400);
    assert_eq!(fleet.update(&[("DesiredCapacity", "2")]).status, 400);
    assert_eq!(fleet.update(&[("MinSize", "0"), ("MaxSize", "3"), ("DesiredCapacity", "0")]).status, 200);
    must_have(&fleet.group(), &["<MinSize>0<", "<MaxSize>3<", "<DesiredCapacity>0<"]);
    block_on(fleet.sim.wait_for_lifecycle(&instance, "Terminated", PATIENCE)).unwrap();
    let unknown = fleet.update(&[("HealthCheckType", "ELB")]);
    must_have(&unknown.text(), &["HealthCheckType is not simulated"]);
    fleet.sim.change_group(GROUP, |group| group.deleting = true).unwrap();
    must_have(&fleet.update(&[("MinSize", "0")]).text(), &["Delete in progress"]);
}

#[test]
fn a_version_that_does_not_exist_is_refused() {
    let fleet = Fleet::new(|_| {});
    for (template, version) in [("kafka", "3"), ("kafka", "latest"), ("nothing", "1")] {
        let choice = [("LaunchTemplate.LaunchTemplateName", template), ("LaunchTemplate.Version", version)];
        let reply = fleet.update(&choice);
        assert_eq!(reply.element("Code").unwrap(), "ValidationError", "{template} {version}");
    }
    must_have(&fleet.group(), &["<Version>1</Version></LaunchTemplate>"]);
}

#[test]
fn tags_of_a_group_are_written_overwritten_deleted_and_stale() {
    let fleet = Fleet::new(|_| {});
    let tag = |value: &'static str, propagates: &'static str| {
        [
            ("Tags.member.1.ResourceId", GROUP),
            ("Tags.member.1.ResourceType", "auto-scaling-group"),
            ("Tags.member.1.Key", "node-agent:roll"),
            ("Tags.member.1.Value", value),
            ("Tags.member.1.PropagateAtLaunch", propagates),
        ]
    };
    assert_eq!(fleet.call("CreateOrUpdateTags", &tag("a", "true")).status, 200);
    assert_eq!(fleet.call("CreateOrUpdateTags", &tag("b", "false")).status, 200);
    must_have(&fleet.group(), &["<Value>b</Value><PropagateAtLaunch>false<"]);
    let stale = ec2_sim::Fault::Stale { back: 1 };
    fleet.sim.add_fault(ec2_sim::FaultRule::once("autoscaling:DescribeAutoScalingGroups", stale)).unwrap();
    must_have(&fleet.group(), &["<Value>a</Value><PropagateAtLaunch>true<"]);
    assert_eq!(fleet.call("DeleteTags", &tag("anything", "false")).status, 200);
    assert!(!fleet.group().contains("node-agent:roll"));
    let mut wrong = tag("a", "false");
    wrong[0].1 = "nothing";
    assert_eq!(fleet.call("CreateOrUpdateTags", &wrong).element("Code").unwrap(), "ValidationError");
    assert_eq!(fleet.call("CreateOrUpdateTags", &[]).status, 400);
}

#[test]
fn an_interface_is_available_where_no_instance_holds_it() {
    let fleet = Fleet::new(|group| group.wants = 0);
    let status = || fleet.call("DescribeNetworkInterfaces", &[("NetworkInterfaceId.1", "eni-0a")]);
    assert_eq!(status().element("status").unwrap(), "available");
    fleet.sim.change_group(GROUP, |group| group.wants = 1).unwrap();
    let instance = fleet.in_service(0);
    let held = status();
    must_have(&held.text(), &["<status>in-use<", &format!("<instanceId>{instance}<"), "<privateIpAddress>10.0.1.20<"]);
    let missing = fleet.call("DescribeNetworkInterfaces", &[("NetworkInterfaceId.1", "eni-0b")]);
    assert_eq!(missing.element("Code").unwrap(), "InvalidNetworkInterfaceID.NotFound");
    let filter = [("Filter.1.Name", "attachment.instance-id"), ("Filter.1.Value.1", instance.as_str())];
    assert_eq!(fleet.call("DescribeNetworkInterfaces", &filter).element("networkInterfaceId").unwrap(), "eni-0a");
}

#[test]
fn an_interface_can_come_free_before_the_volumes_do() {
    let world = World::with(
        |config| {
            config.latencies.interface = Some(Spread::default());
            config.latencies.shutting_down = std::time::Duration::from_hours(1);
        },
        |group| group.hooks.clear(),
    );
    let id = world.instance.replace("i-", "eni-");
    let client = world.client();
    let there = || client.call("ec2", "DescribeNetworkInterfaces", &[]).unwrap().text().contains(&id);
    assert!(there());
    world.sim.terminate(&world.instance).unwrap();
    while there() {
        std::thread::yield_now();
    }
    assert_eq!(world.sim.instance_state(&world.instance).unwrap(), ec2_sim::InstanceState::ShuttingDown);
}

#[test]
fn an_operator_may_do_what_is_not_denied() {
    let fleet = Fleet::new(|_| {});
    let env: BTreeMap<_, _> = fleet.sim.operator_env(&["ec2:RunInstances"]).into_iter().collect();
    assert_eq!(env["AWS_ENDPOINT_URL"], fleet.sim.api_url());
    assert_eq!(env["AWS_EC2_METADATA_DISABLED"], "true");
    let credentials = Credentials {
        access_key_id: env["AWS_ACCESS_KEY_ID"].clone(),
        secret_access_key: env["AWS_SECRET_ACCESS_KEY"].clone(),
        session_token: None,
    };
    let operator = Client { credentials, ..fleet.client.clone() };
    assert_eq!(operator.call("ec2", "DescribeLaunchTemplates", &[]).unwrap().status, 200);
    // A template in a group needs the permission to launch from it.
    let group = ("AutoScalingGroupName", GROUP);
    let size = operator.call("autoscaling", "UpdateAutoScalingGroup", &[group, ("MaxSize", "2")]).unwrap();
    assert_eq!(size.status, 200);
    let template = [group, ("LaunchTemplate.LaunchTemplateId", TEMPLATE), ("LaunchTemplate.Version", "2")];
    let refused = operator.call("autoscaling", "UpdateAutoScalingGroup", &template).unwrap();
    assert_eq!(refused.element("Code").unwrap(), "AccessDenied");
    let events = fleet.sim.events();
    assert_eq!(events.attempts("autoscaling:UpdateAutoScalingGroup")[1].caller.as_deref(), Some("operator-1"));
    assert!(fleet.dir.path().exists());
}
