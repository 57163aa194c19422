//! What cannot come up is refused by the plan of the Terraform module, with what to write instead. Run with the real `terraform`, as
//! `terraform_plans.rs`. Terraform reports all mistakes of one kind together, so one plan shows many.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "terraform/cluster.rs"]
mod cluster;
#[path = "terraform/module.rs"]
mod module;
#[path = "terraform/real.rs"]
mod real;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cluster::{cluster, volume, with};
use hcl::Value;
use module::{Object, object};
use real::{OURS, Workspace, applied, terraform_is_missing};

/// A cluster of which nothing is there yet.
fn ready() -> Workspace {
    applied("ready", |new| {
        new.configure(OURS, &cluster());
        new.init();
    })
}

/// The input `node_files` with these files, destination and contents, of one node.
fn files(node: &str, files: &[(&str, &str)]) -> Value {
    let file = |(destination, contents): &(&str, &str)| {
        object([("contents", (*contents).into()), ("destination", (*destination).into())])
    };
    let files = files.iter().map(file).collect();
    Value::Array(vec![object([("node_id", node.into()), ("node_files_toupload", Value::Array(files))])])
}

/// These inputs with keys of one node changed.
fn node<const N: usize>(mut inputs: Object, at: usize, changed: [(&str, Value); N]) -> Object {
    let node = inputs["nodes"].as_array_mut().unwrap()[at].as_object_mut().unwrap();
    node.extend(changed.map(|(key, value)| (key.to_owned(), value)));
    inputs
}

/// A fresh cluster's plan with these inputs is refused, with all of these messages.
fn refused(inputs: &Object, messages: &[&str]) {
    let ready = ready();
    ready.configure(OURS, inputs);
    let text = ready.refusal(&["plan"]);
    for said in messages {
        assert!(text.contains(said), "{said:?} is not in {text}");
    }
}

#[test]
fn a_plan_without_an_agent_is_refused_and_says_what_to_set() {
    if terraform_is_missing() {
        return;
    }
    let said = "set node_agent_url and node_agent_sha256, or node_agent_in_image = true";
    refused(&with(cluster(), "node_agent_in_image", false), &[said]);
}

#[test]
fn inputs_that_cannot_be_right_are_refused_all_at_once() {
    if terraform_is_missing() {
        return;
    }
    let disk = |key: &str| ("node_data_disk", object([(key, "x".into())]));
    let inputs = node(cluster(), 0, [("node_ip", "999.1.1.1".into()), ("node_id", "a b".into()), disk("mount_pth")]);
    let inputs = node(inputs, 1, [("node_ip", "10.0.1.12".into()), disk("mount_params")]);
    let mut inputs = with(inputs, "node_files", files("00", &[("/etc/file", "plain text")]));
    let others: [(&str, Value); 11] = [
        ("app_name", "kafka cluster".into()),
        ("asg_inservice_timeout_in_mins", 0.5.into()),
        ("asg_lifecycle_hook_heartbeat_timeout", (-1).into()),
        ("command_timeout_seconds", 0.into()),
        ("drain_timeout", "soon".into()),
        ("kms_key_arn", "alias/ebs".into()),
        ("node_agent_sha256", "1234".into()),
        ("node_agent_url", "http://example.com/node-agent".into()),
        ("node_config_script", "echo 1".into()),
        ("node_config_script_s3_url", "s3://b/key".into()),
        ("roll_command", " ".into()),
    ];
    inputs.extend(others.map(|(name, value)| (name.to_owned(), value)));
    let messages = [
        "app_name must be 1 to 59 letters",
        "asg_inservice_timeout_in_mins must be whole minutes",
        "whole seconds from 30 to 7200",
        "command_timeout_seconds must be whole seconds",
        "drain_timeout must be a time",
        "kms_key_arn must be the ARN of a key",
        "node_agent_sha256 must be 64 lower-case hex digits",
        "node_agent_url must be an https:// URL",
        "node_config_script must be base64",
        "node_config_script_s3_url must be s3://bucket/key",
        "roll_command must be one line",
        "contents of node_files_toupload must be base64",
        "Each node_ip must be an IPv4 address",
        "Each node_id must be 1 to 60 letters",
        "Two nodes have one node_ip in one subnet",
        "node_data_disk takes device_name, file_system_type,",
    ];
    refused(&inputs, &messages);
}

#[test]
fn base64_that_was_cut_short_and_an_empty_script_are_refused() {
    if terraform_is_missing() {
        return;
    }
    let cut = with(cluster(), "node_files", files("00", &[("/etc/file", "aGVsbG8")]));
    let messages = ["contents of node_files_toupload must be base64", "node_config_script must not be empty"];
    refused(&with(cut, "node_config_script", "\n"), &messages);
}

#[test]
fn an_address_outside_of_its_subnet_is_refused() {
    if terraform_is_missing() {
        return;
    }
    let outside = node(cluster(), 0, [("node_ip", "10.1.1.10".into())]);
    refused(&outside, &["node_ip is not an address of the subnet node_subnet_id"]);
}

#[test]
fn binary_contents_are_planned() {
    if terraform_is_missing() {
        return;
    }
    let binary = BASE64_STANDARD.encode([0, 159, 146, 150]);
    let ready = ready();
    ready.configure(OURS, &with(cluster(), "node_files", files("00", &[("/etc/file", &binary)])));
    ready.plan();
}

#[test]
fn files_of_a_node_that_is_none_are_refused() {
    if terraform_is_missing() {
        return;
    }
    let stray = with(cluster(), "node_files", files("03", &[("/etc/file", "")]));
    refused(&stray, &["node_files names a node_id that is not among nodes"]);
}

#[test]
fn volumes_and_files_that_the_agent_would_refuse_are_refused_by_the_plan() {
    if terraform_is_missing() {
        return;
    }
    let disk = |keys: &[(&str, &str)]| {
        let keys = keys.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
        [("node_data_disk", Value::Object(keys))]
    };
    let wrong = [
        ("mount_path", "mydata"),
        ("device_name", "/dev/nvme1n1"),
        ("file_system_type", "btrfs"),
        ("size_in_gibs", "0"),
    ];
    let inputs = node(cluster(), 0, disk(&wrong));
    let inputs = node(inputs, 1, disk(&[("mount_path", "/var/lib/"), ("mount_path_owner_user", "")]));
    let inputs = node(inputs, 2, disk(&[("mount_path", "/usr/bin"), ("mount_path_owner_group", "4294967295")]));
    let destinations = ["/etc/file", "/etc/file", "/etc/file/below", "/etc/", "/proc/sys/vm/swappiness"];
    let mut files = files("00", &destinations.map(|destination| (destination, "")));
    let first = &mut files.as_array_mut().unwrap()[0].as_object_mut().unwrap()["node_files_toupload"];
    let first = first.as_array_mut().unwrap()[0].as_object_mut().unwrap();
    first.extend([("mode".to_owned(), "rw-r--r--".into()), ("owner".to_owned(), "4294967295".into())]);
    let messages = [
        "mount_path must be an absolute path",
        "device_name must be one of EC2's",
        "file_system_type must be ext4 or xfs",
        "size_in_gibs must be whole GiB",
        "mount_path must be a directory for the data alone",
        "mount_path_owner_user and mount_path_owner_group must each be",
        "Two of node_files_toupload have one destination",
        "is below another one, which is a file",
        "must be a file's absolute path",
        "in a kernel filesystem",
        "Each mode of node_files_toupload",
        "Each owner and group of node_files_toupload",
    ];
    refused(&with(inputs, "node_files", files), &messages);
}

#[test]
fn a_node_that_cannot_come_up_is_refused_before_its_volume_has_an_id() {
    if terraform_is_missing() {
        return;
    }
    let inputs = volume(&cluster(), "mount_params", vec!["noatime,nouuid"]);
    let inputs = with(inputs, "node_files", files("00", &[("/mydata", "")]));
    let inputs = with(inputs, "node_config_script", BASE64_STANDARD.encode("#".repeat(12_288)));
    let messages = [
        "mount_params has what the agent refuses",
        "is the volume's mount_path",
        "user data is larger than 16 KiB",
        "node_config_script has no function configure_cluster_node",
        "node_agent_url and node_agent_sha256 go together",
    ];
    refused(&with(inputs, "node_agent_url", "https://example.com/node-agent"), &messages);
}

#[test]
fn a_check_beside_the_hooks_that_have_one_is_refused() {
    if terraform_is_missing() {
        return;
    }
    let both = with(with(cluster(), "roll_hooks", "hooks.sh"), "roll_check", "true");
    refused(&both, &["leave out roll_check and roll_leader"]);
}
