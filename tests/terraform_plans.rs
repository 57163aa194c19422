//! The Terraform module as the real `terraform` plans and applies it, against a provider of the tests' own. Without a `terraform`
//! on the path the tests say that they did not run.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "terraform/cluster.rs"]
mod cluster;
#[path = "terraform/module.rs"]
mod module;
#[path = "terraform/real.rs"]
mod real;

use cluster::{cluster, with};
use module::object;
use real::{OURS, SEED, Workspace, applied, expected, terraform_is_missing, workspace};
use serde_json::{Value, json};

const NODES: [&str; 3] = ["cluster-test-setup-node-00", "cluster-test-setup-node-01", "cluster-test-setup-node-02"];
/// Nothing in AWS: creating it calls the roll.
const ROLL_AGAIN: (&str, usize) = ("delete then create null_resource.roll_instances", 1);

/// Three nodes that this module made.
fn fresh() -> Workspace {
    applied("fresh", |new| {
        new.configure(OURS, &cluster());
        new.init();
        new.plan();
        new.apply();
    })
}

/// Three nodes that the seed's module made, with the oldest provider that it takes.
fn seed() -> Workspace {
    applied("seed", |new| {
        new.configure(SEED, &cluster());
        new.require_provider("~> 4.50.0");
        new.init();
        new.plan();
        new.apply();
    })
}

/// As the upgrade guide has it: the provider under the old module first.
fn seed_with_new_provider() -> Workspace {
    let made = seed();
    made.require_provider(">= 5.26.0");
    made.init_with_upgrade();
    made
}

fn tag(group: &mut Value, key: &str, value: &str) {
    let tag = json!({"key": key, "value": value, "propagate_at_launch": false});
    group["tag"].as_array_mut().unwrap().push(tag);
}

/// What the agent writes on volumes, and a roll at work on groups.
fn note(workspace: &Workspace) {
    workspace.drift(|aws| {
        for volume in aws["aws_ebs_volume"].as_object_mut().unwrap().values_mut() {
            volume["tags"]["node-agent:formatted"] = "xfs 2026-01-01T00:00:00Z".into();
        }
        for name in NODES {
            let group = &mut aws["aws_autoscaling_group"][name];
            tag(group, "node-agent:roll", "run=1");
            tag(group, "node-agent:roll-pause", "a disk is replaced");
        }
    });
}

/// What a roll leaves: every group at its template's latest version, and its tags.
fn roll(workspace: &Workspace) {
    workspace.drift(|aws| {
        let templates = aws["aws_launch_template"].clone();
        for name in NODES {
            let group = &mut aws["aws_autoscaling_group"][name];
            let id = group["launch_template"][0]["id"].as_str().unwrap();
            let version = templates[id]["versions"].as_array().unwrap().len();
            group["launch_template"][0]["version"] = version.to_string().into();
            tag(group, "node-agent:roll-last", "run=1 victim=i-1 from=1 to=2");
        }
    });
}

#[test]
fn a_fresh_cluster_of_three_nodes_is_created_whole() {
    if terraform_is_missing() {
        return;
    }
    let new = workspace();
    new.configure(OURS, &cluster());
    new.init();

    let once = [
        "create aws_iam_instance_profile.node_instance_profile",
        "create aws_iam_policy.node_policy",
        "create aws_iam_role.node_role",
        "create aws_iam_role_policy_attachment.instance_userdata_policy",
        "create aws_iam_role_policy_attachment.ssm_policy",
        "create null_resource.roll_instances",
    ];
    let each = [
        "create aws_autoscaling_group.node_asg",
        "create aws_autoscaling_lifecycle_hook.terminate",
        "create aws_ebs_volume.node_data",
        "create aws_launch_template.node",
        "create aws_network_interface.node_network_interface",
    ];
    let mut whole: Vec<_> = once.map(|change| (change, 1)).into_iter().chain(each.map(|change| (change, 3))).collect();
    whole.push(("create aws_autoscaling_group_tag.node_asg", 9));
    assert_eq!(new.plan().changes(), expected(&whole));
}

#[test]
fn the_policies_of_a_hundred_nodes_with_a_long_name_fit_into_iams_limit() {
    if terraform_is_missing() {
        return;
    }
    let nodes = (0..100).map(|number| {
        object([
            ("node_id", format!("{number:02}").into()),
            ("node_ip", format!("10.0.1.{number}").into()),
            ("node_subnet_id", "subnet-1".into()),
        ])
    });
    let mut inputs = with(cluster(), "app_name", "a".repeat(25));
    inputs.extend([
        ("nodes".to_owned(), hcl::Value::Array(nodes.collect())),
        ("node_files".to_owned(), hcl::Value::Array(vec![])),
        ("node_config_script_s3_url".to_owned(), "s3://bucket/hooks/script.sh".into()),
        ("kms_key_arn".to_owned(), format!("arn:aws:kms:eu-central-1:123456789012:key/{}", "a".repeat(36)).into()),
    ]);
    let new = workspace();
    new.configure(OURS, &inputs);
    new.init();

    let plan = new.plan();
    let nodes = &plan.after("aws_iam_policy.node_policy")["policy"];
    let roll = &plan.read("aws_iam_policy_document.roll_policy")["json"];
    for (whose, policy) in [("nodes'", nodes), ("roll's", roll)] {
        let size = policy.as_str().unwrap().chars().filter(|c| !c.is_whitespace()).count();
        println!("the {whose} policy: {size} of 6144 characters");
        assert!(size <= 6144, "the {whose} policy: {size}");
    }
}

#[test]
fn the_second_plan_of_a_fresh_cluster_is_empty() {
    if terraform_is_missing() {
        return;
    }
    assert_eq!(fresh().plan().changes(), expected(&[]));
}

#[test]
fn an_applied_group_has_both_hooks_the_policy_and_its_tags() {
    if terraform_is_missing() {
        return;
    }
    let aws = fresh().aws();
    let group = &aws["aws_autoscaling_group"][NODES[0]];
    let hooks = &group["hooks"];
    let launch = &hooks["cluster-test-setup-node-asg-hook"];
    assert_eq!((&launch["default_result"], &launch["heartbeat_timeout"]), (&json!("ABANDON"), &json!(3600)));
    let terminate = &hooks["cluster-test-setup-node-terminate-hook"];
    assert_eq!((&terminate["default_result"], &terminate["heartbeat_timeout"]), (&json!("CONTINUE"), &json!(300)));
    let policy = json!([{"min_healthy_percentage": 0, "max_healthy_percentage": 100}]);
    assert_eq!(group["instance_maintenance_policy"], policy);
    let mut keys: Vec<_> = group["tag"].as_array().unwrap().iter().map(|tag| tag["key"].as_str().unwrap()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["Name", "stateful-cluster", "team"]);
}

#[test]
fn a_changed_image_makes_new_template_versions_and_moves_no_group() {
    if terraform_is_missing() {
        return;
    }
    let made = fresh();
    made.configure(OURS, &with(cluster(), "node_image", "ami-2"));

    let changes = [ROLL_AGAIN, ("update aws_launch_template.node: image_id latest_version", 3)];
    assert_eq!(made.plan().changes(), expected(&changes));
    made.apply();

    assert_eq!(made.plan().changes(), expected(&[]));
    let aws = made.aws();
    let versions = NODES.map(|name| aws["aws_autoscaling_group"][name]["launch_template"][0]["version"].clone());
    assert_eq!(versions, ["1", "1", "1"], "no group is moved before a roll moves it");
    roll(&made);
    assert_eq!(made.plan().changes(), expected(&[]), "after a roll");
}

#[test]
fn tags_that_the_agent_and_a_roll_write_leave_the_plan_empty() {
    if terraform_is_missing() {
        return;
    }
    let made = fresh();
    note(&made);
    roll(&made);
    assert_eq!(made.plan().changes(), expected(&[]));
}

#[test]
fn a_changed_timeout_of_the_launch_hook_replaces_no_group() {
    if terraform_is_missing() {
        return;
    }
    let made = fresh();
    made.configure(OURS, &with(cluster(), "asg_lifecycle_hook_heartbeat_timeout", 1800));
    let changes = [ROLL_AGAIN, ("update aws_launch_template.node: latest_version user_data", 3)];
    assert_eq!(made.plan().changes(), expected(&changes));
}

#[test]
fn a_pause_survives_an_apply() {
    if terraform_is_missing() {
        return;
    }
    let made = fresh();
    made.drift(|aws| tag(&mut aws["aws_autoscaling_group"][NODES[1]], "node-agent:roll-pause", "a disk is replaced"));
    made.configure(OURS, &with(cluster(), "node_image", "ami-2"));
    made.plan();
    made.apply();

    let aws = made.aws();
    let tags = aws["aws_autoscaling_group"][NODES[1]]["tag"].as_array().unwrap();
    assert!(tags.iter().any(|tag| tag["key"] == "node-agent:roll-pause"), "{tags:?}");
    assert_eq!(made.plan().changes(), expected(&[]));
}

#[test]
fn a_subnet_in_another_zone_than_the_nodes_volume_is_refused() {
    if terraform_is_missing() {
        return;
    }
    let made = fresh();
    let mut inputs = cluster();
    inputs["nodes"].as_array_mut().unwrap()[0]
        .as_object_mut()
        .unwrap()
        .insert("node_subnet_id".into(), "subnet-2".into());
    made.configure(OURS, &inputs);
    let said = made.refusal(&["plan"]);
    assert!(said.contains("another availability zone than the node's data volume"), "{said}");
}

#[test]
fn the_module_refuses_a_provider_that_has_no_maintenance_policy() {
    if terraform_is_missing() {
        return;
    }
    let made = seed();
    made.configure(OURS, &cluster());
    let said = made.refusal(&["init"]);
    assert!(said.contains("hashicorp/aws") && said.contains(">= 5.26.0"), "{said}");
}

#[test]
fn a_cluster_of_the_seed_is_moved_and_its_second_plan_is_empty() {
    if terraform_is_missing() {
        return;
    }
    let made = seed_with_new_provider();
    assert_eq!(made.plan().changes(), expected(&[]), "the provider alone changes nothing");
    assert_eq!(made.rolled(), format!("seed: 10m {}\n", NODES.join(" ")));
    made.configure(OURS, &cluster());
    made.init();

    let changes = [
        ("create aws_autoscaling_group_tag.node_asg", 9),
        ("create aws_autoscaling_lifecycle_hook.terminate", 3),
        ROLL_AGAIN,
        ("update aws_autoscaling_group.node_asg: instance_maintenance_policy", 3),
        ("update aws_ebs_volume.node_data: tags tags_all", 3),
        ("update aws_iam_policy.node_policy: policy", 1),
        ("update aws_launch_template.node: latest_version user_data", 3),
    ];
    assert_eq!(made.plan().changes(), expected(&changes));
    made.forget_rolls();
    made.apply();

    let groups = NODES.map(|name| format!(" <--asg> <{name}>")).concat();
    assert_eq!(made.rolled(), format!("eu-central-1: <roll> <--yes> <--timeout> <10m>{groups}\n"));
    let aws = made.aws();
    let versions = NODES.map(|name| aws["aws_autoscaling_group"][name]["launch_template"][0]["version"].clone());
    assert_eq!(versions, ["1", "1", "1"], "no group is moved before a roll moves it");
    assert_eq!(made.plan().changes(), expected(&[]));
    roll(&made);
    note(&made);
    assert_eq!(made.plan().changes(), expected(&[]), "after a roll");
}

#[test]
fn a_moved_cluster_can_go_back_to_the_seeds_module() {
    if terraform_is_missing() {
        return;
    }
    let made = seed_with_new_provider();
    made.configure(OURS, &cluster());
    made.init();
    made.plan();
    made.apply();
    roll(&made);
    made.configure(SEED, &cluster());
    made.init();

    let changes = [
        ROLL_AGAIN,
        ("delete aws_autoscaling_group_tag.node_asg", 9),
        ("delete aws_autoscaling_lifecycle_hook.terminate", 3),
        ("update aws_autoscaling_group.node_asg: instance_maintenance_policy launch_template tag", 3),
        ("update aws_ebs_volume.node_data: tags tags_all", 3),
        ("update aws_iam_policy.node_policy: policy", 1),
        ("update aws_launch_template.node: latest_version user_data", 3),
    ];
    assert_eq!(made.plan().changes(), expected(&changes));

    // The guide's way: the nodes without the script, twice because of the tags, and the script when it finds nothing to do.
    made.forget_rolls();
    let nodes = [
        "module.cluster.module.cluster_nodes",
        "module.cluster.aws_iam_role_policy_attachment.instance_userdata_policy",
    ];
    let without_the_roll: Vec<_> = changes.into_iter().filter(|change| *change != ROLL_AGAIN).collect();
    assert_eq!(made.plan_of(&nodes).changes(), expected(&without_the_roll));
    made.apply();
    made.plan_of(&nodes);
    made.apply();
    assert_eq!(made.rolled(), "");
    assert_eq!(made.plan().changes(), expected(&[ROLL_AGAIN]));
}

#[test]
fn an_imported_volume_that_is_not_encrypted_and_an_interface_are_kept() {
    if terraform_is_missing() {
        return;
    }
    let new = workspace();
    new.configure(OURS, &cluster());
    new.init();
    new.drift(|aws| {
        aws["aws_ebs_volume"] = json!({"vol-1": {
            "id": "vol-1", "availability_zone": "eu-central-1a", "encrypted": false, "size": 16, "type": "gp3",
            "kms_key_id": "", "snapshot_id": "", "iops": 3000, "throughput": 125, "tags": {},
        }});
        aws["aws_network_interface"] = json!({"eni-1": {
            "id": "eni-1", "subnet_id": "subnet-1", "private_ips": ["10.0.1.10"], "private_ip_list": ["10.0.1.10"],
            "security_groups": ["sg-1"], "interface_type": "interface", "tags": {},
        }});
    });
    let node = "module.cluster.module.cluster_nodes[\"00\"]";
    new.import(&format!("{node}.aws_ebs_volume.node_data"), "vol-1");
    new.import(&format!("{node}.aws_network_interface.node_network_interface"), "eni-1");

    let changes = new.plan().changes();
    let about = |what: &str| -> Vec<_> {
        changes
            .iter()
            .filter(|(change, _)| change.contains(what))
            .map(|(change, count)| (change.as_str(), *count))
            .collect()
    };
    let of_volumes = [("create aws_ebs_volume.node_data", 2), ("update aws_ebs_volume.node_data: tags tags_all", 1)];
    assert_eq!(about("aws_ebs_volume"), of_volumes);
    let interface = "aws_network_interface.node_network_interface";
    let of_interfaces = [(format!("create {interface}"), 2), (format!("update {interface}: tags tags_all"), 1)];
    assert_eq!(about(interface), of_interfaces.each_ref().map(|(change, count)| (change.as_str(), *count)));
}
