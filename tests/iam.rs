//! The nodes' IAM policy in the Terraform module: it allows the calls that the agent makes, on what is this cluster's, and no
//! more.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "terraform/cluster.rs"]
mod cluster;
#[path = "terraform/module.rs"]
mod module;
#[path = "terraform/policy.rs"]
mod policy;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster::{Modules, cluster, config_text, volume, volume_id, with};
use ec2_sim::{ActionResult, ApiCall, Event, HookSpec, Transition, VolumeSpec, What};
use hcl::Value;
use module::Object;
use policy::{Request, allows, ec2, glob, group, tagged};
use support::{GROUP, World};

const SCRIPT_URL: &str = "s3://config/hooks/script.sh";
/// The module's termination hook.
const TERMINATE_HOOK: &str = "kafka-node-terminate-hook";

/// The cluster that the scenarios' node 00 belongs to.
fn kafka() -> Object {
    let inputs = with(with(cluster(), "app_name", "kafka"), "node_config_script_s3_url", SCRIPT_URL);
    // Accounts that every machine has.
    volume(&volume(&inputs, "mount_path_owner_user", "daemon"), "mount_path_owner_group", "daemon")
}

fn node_policy(inputs: &Object) -> Vec<policy::Statement> {
    policy::document("node_policy", inputs)
}

/// What the module puts on the volume of this node.
fn volume_tags(inputs: &Object, node: &str) -> BTreeMap<String, Vec<String>> {
    let modules = Modules::read();
    let nodes = modules.nodes(inputs).unwrap();
    let block = modules.node.block("resource", &["aws_ebs_volume", "node_data"]);
    let tags = nodes[node].value(&block.body, "tags");
    let tags: Vec<_> =
        tags.as_object().unwrap().iter().map(|(key, value)| (key.as_str(), value.as_str().unwrap())).collect();
    tagged(&tags)
}

/// What Auto Scaling puts on the instances of this group.
fn instance_tags(group: &str) -> BTreeMap<String, Vec<String>> {
    tagged(&[("aws:autoscaling:groupName", group)])
}

/// What IAM is asked for a call: one question for each resource.
fn requests(call: &ApiCall, inputs: &Object) -> Vec<Request> {
    let request = |resource: String, keys| Request { action: call.action.clone(), resource, keys };
    let of = |id: &str| -> (String, BTreeMap<String, Vec<String>>) {
        if id.starts_with("vol-") {
            (ec2("volume", id), volume_tags(inputs, "00"))
        } else {
            (ec2("instance", id), instance_tags(GROUP))
        }
    };
    let parameter = |name: &str| call.parameters.get(name).unwrap_or_else(|| panic!("{name}: {:?}", call.parameters));
    let all = |pattern: &str| -> Vec<String> {
        call.parameters.iter().filter(|(name, _)| glob(pattern, name)).map(|(_, value)| value.clone()).collect()
    };
    match call.action.as_str() {
        "ec2:AttachVolume" | "ec2:DetachVolume" => ["VolumeId", "InstanceId"]
            .map(|name| {
                let (resource, keys) = of(parameter(name));
                request(resource, keys)
            })
            .into(),
        "ec2:CreateTags" => all("ResourceId.*")
            .iter()
            .map(|id| {
                let (resource, mut keys) = of(id);
                keys.insert("aws:TagKeys".to_owned(), all("Tag.*.Key"));
                request(resource, keys)
            })
            .collect(),
        "autoscaling:CompleteLifecycleAction" | "autoscaling:RecordLifecycleActionHeartbeat" => {
            vec![request(group(parameter("AutoScalingGroupName")), BTreeMap::new())]
        }
        "s3:GetObject" => {
            let object = format!("arn:aws:s3:::{}/{}", parameter("Bucket"), parameter("Key"));
            vec![request(object, BTreeMap::new())]
        }
        // What only looks has no resource.
        _ => vec![request("*".to_owned(), BTreeMap::new())],
    }
}

/// Every call the agent made, from a first boot, a replacement that waits for the volume and leaves in its turn, and a failure.
fn calls() -> Vec<ApiCall> {
    // Long enough for a busy machine, short enough for a heartbeat (a third of it) during the slow function.
    let hook = HookSpec { heartbeat_timeout: Duration::from_secs(18), ..HookSpec::default() };
    // Before the world has a /tmp of its own: the checkout may lie there.
    let config = config_text(&cluster::user_data(&kafka()).unwrap()["00"]);
    assert!(config.contains("[cluster]") && config.contains(TERMINATE_HOOK), "{config}");
    let world = World::with_hook(&hook, |config| config.latencies.shutting_down = Duration::from_secs(3));
    let terminate = HookSpec {
        name: TERMINATE_HOOK.to_owned(),
        transition: Transition::Terminating,
        default_result: ActionResult::Continue,
        ..hook
    };
    world.sim.change_group(GROUP, |group| group.hooks.push(terminate)).unwrap();
    let id = Some(volume_id("00"));
    world.sim.create_volume(VolumeSpec { id, ..VolumeSpec::default() }).unwrap();
    let script = |configure: &str, health: &str| {
        let text = format!("configure_cluster_node() {{ {configure}; }}\nwait_for_healthy_cluster() {{ {health}; }}\n");
        world.sim.put_object("config", "hooks/script.sh", text);
    };

    script("sleep 7", "true");
    let first = world.launch();
    first.come_up(&config);
    script("true", "true");
    let second = world.launch();
    second.configure(config.replace("\n[[volume]]\n", "\n[[volume]]\ndetach_on_terminate = true\n"));
    let service = second.start_with(&["run"]);
    service.wait_for(&format!("is attached to {}", first.id));
    first.terminate();
    service.wait_for("result=done");
    world.sim.terminate_in_group(&second.id).unwrap();
    let left = service.end();
    assert_eq!(left.code, Some(0), "{}", left.log);
    assert!(left.log.contains("the node has left"), "{}", left.log);
    script("true", "false");
    world.launch().run(&config).must_fail(1, &["code=hook-failed"]);

    let events = world.events();
    let ours = |event: &Event| match &event.what {
        What::Api(call) if call.caller.as_deref().is_some_and(|caller| caller.starts_with("i-")) => Some(call.clone()),
        _ => None,
    };
    events.iter().filter_map(ours).collect()
}

#[test]
fn the_policy_allows_the_calls_that_the_agent_makes_no_more_and_no_fewer() {
    let inputs = kafka();
    let policy = node_policy(&inputs);
    let calls = calls();

    let called: BTreeSet<&str> = calls.iter().map(|call| call.action.as_str()).collect();
    let allowed: BTreeSet<&str> = policy.iter().flat_map(|statement| &statement.actions).map(String::as_str).collect();
    assert_eq!(allowed, called);

    for call in &calls {
        for request in requests(call, &inputs) {
            assert!(allows(&policy, &request), "{} on {} {:?}", request.action, request.resource, request.keys);
        }
    }
    // Terraform leaves alone what the agent notes on volumes.
    let modules = Modules::read();
    let block = modules.node.block("resource", &["aws_ebs_volume", "node_data"]);
    let ignored = block.body.blocks().next().unwrap().body.attributes().next().unwrap().expr.to_string();
    for call in calls
        .iter()
        .filter(|call| call.action == "ec2:CreateTags" && call.parameters["ResourceId.1"].starts_with("vol-"))
    {
        let key = &call.parameters["Tag.1.Key"];
        assert!(ignored.contains(&format!("tags[\"{key}\"]")), "{key} is not in ignore_changes: {ignored}");
    }
}

#[test]
fn without_a_script_on_s3_the_policy_reads_nothing_from_s3() {
    let policy = node_policy(&with(kafka(), "node_config_script_s3_url", Value::Null));
    assert!(policy.iter().all(|statement| statement.actions.iter().all(|action| !action.starts_with("s3:"))));
}

#[test]
fn another_clusters_volumes_instances_groups_and_objects_are_out_of_reach() {
    let inputs = kafka();
    let policy = node_policy(&inputs);
    let (ours, other) = (volume_tags(&inputs, "01"), volume_tags(&with(inputs.clone(), "app_name", "other"), "01"));
    let with_keys = |mut keys: BTreeMap<String, Vec<String>>, tags: &[&str]| {
        keys.insert("aws:TagKeys".to_owned(), tags.iter().map(|tag| (*tag).to_owned()).collect());
        keys
    };
    let (node, foreign) = (instance_tags("kafka-node-01"), instance_tags("other-node-01"));
    let (attach, detach) = ("ec2:AttachVolume", "ec2:DetachVolume");
    let tag = "ec2:CreateTags";
    let complete = "autoscaling:CompleteLifecycleAction";
    let (disk, machine) = (ec2("volume", "vol-0"), ec2("instance", "i-0"));
    let status = ["node-agent:status"];
    let none = BTreeMap::new();
    for (allowed, action, resource, keys) in [
        (true, attach, &disk, ours.clone()),
        (false, attach, &disk, other.clone()),
        (false, attach, &disk, none.clone()),
        (true, attach, &machine, node.clone()),
        (false, attach, &machine, foreign.clone()),
        (false, attach, &machine, none.clone()),
        (true, detach, &disk, ours.clone()),
        (false, detach, &disk, other.clone()),
        (false, detach, &disk, none.clone()),
        (true, detach, &machine, node.clone()),
        (false, detach, &machine, foreign.clone()),
        (false, detach, &machine, none.clone()),
        (true, tag, &disk, with_keys(ours.clone(), &["node-agent:formatted", "node-agent:formatting"])),
        (false, tag, &disk, with_keys(ours.clone(), &["node-agent:formatted", "stateful-cluster"])),
        (false, tag, &disk, with_keys(ours.clone(), &["Name"])),
        (false, tag, &disk, ours.clone()),
        (false, tag, &disk, with_keys(other, &["node-agent:formatted"])),
        (true, tag, &machine, with_keys(node.clone(), &status)),
        (false, tag, &machine, with_keys(foreign, &status)),
        (false, tag, &machine, node),
        (false, tag, &ec2("snapshot", "snap-0"), with_keys(ours, &["node-agent:formatted"])),
        (true, complete, &group("kafka-node-02"), none.clone()),
        // A name of this cluster's, though of no node yet.
        (true, complete, &group("kafka-node-03"), none.clone()),
        (false, complete, &group("kafka-node-003"), none.clone()),
        (false, complete, &group("other-node-02"), none.clone()),
        (true, "s3:GetObject", &"arn:aws:s3:::config/hooks/script.sh".to_owned(), none.clone()),
        (false, "s3:GetObject", &"arn:aws:s3:::config/hooks/script.sh.old".to_owned(), none.clone()),
        (false, "autoscaling:UpdateAutoScalingGroup", &group("kafka-node-02"), none.clone()),
        (false, "autoscaling:CreateOrUpdateTags", &group("kafka-node-02"), none),
    ] {
        let request = Request { action: action.to_owned(), resource: resource.clone(), keys };
        assert_eq!(allows(&policy, &request), allowed, "{action} on {resource} {:?}", request.keys);
    }
}

#[test]
fn a_key_of_ones_own_can_be_used_by_ec2_alone_and_only_where_it_is_named() {
    let key = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    let without = node_policy(&kafka());
    assert!(without.iter().all(|statement| statement.actions.iter().all(|action| !action.starts_with("kms:"))));
    let with_key = node_policy(&with(kafka(), "kms_key_arn", key));
    let keys = |pairs: &[(&str, &str)]| -> BTreeMap<String, Vec<String>> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()])).collect()
    };
    let ec2 = keys(&[("kms:ViaService", "ec2.eu-central-1.amazonaws.com")]);
    let granted = keys(&[("kms:GrantIsForAWSResource", "true"), ("kms:ViaService", "ec2.eu-central-1.amazonaws.com")]);
    let others = key.replace("1234abcd", "ffffffff");
    for (allowed, action, resource, keys) in [
        (true, "kms:CreateGrant", key, &granted),
        (false, "kms:CreateGrant", key, &ec2),
        (true, "kms:Decrypt", key, &ec2),
        (true, "kms:DescribeKey", key, &ec2),
        (true, "kms:GenerateDataKeyWithoutPlaintext", key, &ec2),
        (true, "kms:ReEncryptFrom", key, &ec2),
        (true, "kms:ReEncryptTo", key, &ec2),
        (false, "kms:Decrypt", key, &keys(&[("kms:ViaService", "s3.eu-central-1.amazonaws.com")])),
        (false, "kms:Decrypt", key, &BTreeMap::new()),
        (false, "kms:Decrypt", &others, &ec2),
        (false, "kms:CreateGrant", &others, &granted),
        (false, "kms:ScheduleKeyDeletion", key, &granted),
    ] {
        let request = Request { action: action.to_owned(), resource: resource.to_owned(), keys: keys.clone() };
        assert_eq!(allows(&with_key, &request), allowed, "{action} on {resource} {:?}", request.keys);
    }
}
