//! The roll's IAM policy in the Terraform module: it allows the calls that a roll makes and what AWS asks of their caller, on what is
//! this cluster's, and no more.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "terraform/cluster.rs"]
mod cluster;
#[path = "terraform/module.rs"]
mod module;
#[path = "terraform/policy.rs"]
mod policy;

use std::collections::{BTreeMap, BTreeSet};

use cluster::{ACCOUNT, REGION, cluster, with};
use policy::{Request, Statement, allows, ec2, group};

/// A roll's clients. What else the operator's client of Auto Scaling does is in [`OTHER_CALLS`].
const CLIENTS: [(&str, &str); 3] = [
    ("autoscaling", include_str!("../agent/aws/fleet.rs")),
    ("ec2", include_str!("../agent/aws/templates.rs")),
    ("ec2", include_str!("../agent/aws/machines.rs")),
];
/// Of the clients that the nodes have too: the groups, the launch hooks, ABANDON, and the volumes of a snapshot.
const OTHER_CALLS: [&str; 4] = [
    "autoscaling:CompleteLifecycleAction",
    "autoscaling:DescribeAutoScalingGroups",
    "autoscaling:DescribeLifecycleHooks",
    "ec2:DescribeVolumes",
];
/// What no client calls, and AWS asks of the caller: UpdateAutoScalingGroup with a template, CreateSnapshot with tags.
const ASKED_BY_AWS: [&str; 3] = ["ec2:CreateTags", "ec2:RunInstances", "iam:PassRole"];

fn kafka() -> Vec<Statement> {
    policy::document("roll_policy", &with(cluster(), "app_name", "kafka"))
}

/// `describe_images` as `DescribeImages`.
fn action(service: &str, method: &str) -> String {
    let name = method.split('_').map(|word| format!("{}{}", word[..1].to_uppercase(), &word[1..]));
    format!("{service}:{}", name.collect::<String>())
}

#[test]
fn the_rolls_policy_allows_the_calls_that_a_roll_makes_no_more_and_no_fewer() {
    let call = regex_lite::Regex::new(r"\bclient\s*\.(\w+)\(\)").unwrap();
    let mut called: BTreeSet<String> = OTHER_CALLS.iter().chain(&ASKED_BY_AWS).map(ToString::to_string).collect();
    for (service, source) in CLIENTS {
        called.extend(call.captures_iter(source).map(|found| action(service, &found[1])));
    }
    let policy = kafka();
    let allowed: BTreeSet<String> = policy.iter().flat_map(|statement| statement.actions.clone()).collect();
    assert_eq!(allowed, called);
}

#[test]
fn the_rolls_policy_of_the_module_has_the_actions_of_the_documented_one() {
    let guide = include_str!("../docs/rolling.md");
    let (_, json) = guide.split_once("## IAM\n").unwrap().1.split_once("```json\n").unwrap();
    let documented: serde_json::Value = serde_json::from_str(json.split("```").next().unwrap()).unwrap();
    let mut actions = BTreeSet::new();
    for statement in documented["Statement"].as_array().unwrap() {
        match &statement["Action"] {
            serde_json::Value::String(one) => drop(actions.insert(one.clone())),
            many => actions.extend(many.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned())),
        }
    }
    let policy = kafka();
    assert_eq!(actions, policy.iter().flat_map(|statement| statement.actions.clone()).collect());
}

#[test]
fn a_roll_may_touch_this_clusters_groups_templates_volumes_and_role_alone() {
    let policy = kafka();
    let keys = |pairs: &[(&str, &str)]| -> BTreeMap<String, Vec<String>> {
        let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, value) in pairs {
            keys.entry((*key).to_owned()).or_default().push((*value).to_owned());
        }
        keys
    };
    let template = ec2("launch-template", "lt-0");
    let (ours, theirs) = (group("kafka-node-00"), group("other-node-00"));
    let tag = "autoscaling:ResourceTag/stateful-cluster";
    let (volume, snapshot) = (ec2("volume", "vol-0"), format!("arn:aws:ec2:{REGION}::snapshot/*"));
    let role = |name: &str| format!("arn:aws:iam::{ACCOUNT}:role/{name}");
    let (update, terminate) = ("autoscaling:UpdateAutoScalingGroup", "autoscaling:TerminateInstanceInAutoScalingGroup");
    let (write, launch, pass) = ("autoscaling:CreateOrUpdateTags", "ec2:RunInstances", "iam:PassRole");
    let of = |cluster: &str| keys(&[(tag, cluster)]);
    let flag = |key: &str| keys(&[(tag, "kafka"), ("aws:TagKeys", key)]);
    let named = |name: &str| keys(&[("aws:ResourceTag/Name", name)]);
    let from_a_template = keys(&[("ec2:LaunchTemplate", &template)]);
    let to = |service: &str| keys(&[("iam:PassedToService", service)]);
    let by = |call: &str| keys(&[("ec2:CreateAction", call)]);
    for (allowed, action, resource, keys) in [
        (true, update, &ours, of("kafka")),
        (false, update, &ours, of("other")),
        (false, update, &theirs, of("kafka")),
        (true, terminate, &ours, of("kafka")),
        (false, terminate, &theirs, of("other")),
        (true, "autoscaling:CompleteLifecycleAction", &ours, of("kafka")),
        (true, write, &ours, flag("node-agent:roll-last")),
        (true, "autoscaling:DeleteTags", &ours, flag("node-agent:roll")),
        (false, write, &ours, flag("stateful-cluster")),
        (false, write, &ours, of("kafka")),
        (true, launch, &template, named("kafka-node-02")),
        (false, launch, &template, named("other-node-02")),
        (false, launch, &template, from_a_template.clone()),
        (true, launch, &ec2("network-interface", "eni-0"), from_a_template.clone()),
        (true, launch, &format!("arn:aws:ec2:{REGION}::image/ami-0"), from_a_template),
        (false, launch, &ec2("instance", "*"), keys(&[])),
        (true, pass, &role("kafka-role"), to("ec2.amazonaws.com")),
        (false, pass, &role("kafka-role"), to("lambda.amazonaws.com")),
        (false, pass, &role("other-role"), to("ec2.amazonaws.com")),
        (true, "ec2:CreateSnapshot", &volume, keys(&[("aws:ResourceTag/stateful-cluster", "kafka")])),
        (false, "ec2:CreateSnapshot", &volume, keys(&[("aws:ResourceTag/stateful-cluster", "other")])),
        (true, "ec2:CreateTags", &snapshot, by("CreateSnapshot")),
        (false, "ec2:CreateTags", &snapshot, keys(&[])),
        (false, "ec2:CreateTags", &volume, by("CreateSnapshot")),
    ] {
        let request = Request { action: action.to_owned(), resource: resource.clone(), keys };
        assert_eq!(allows(&policy, &request), allowed, "{action} on {resource} {:?}", request.keys);
    }
}
