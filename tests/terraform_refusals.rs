//! What cannot come up is refused by the plan of the Terraform module, with what to write instead. Run with the real `terraform`, as
//! `terraform_plans.rs`.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "terraform/cluster.rs"]
mod cluster;
#[path = "terraform/module.rs"]
mod module;
#[path = "terraform/real.rs"]
mod real;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cluster::{SCRIPT, cluster, volume, with};
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

/// The cluster with these keys of its first node changed.
fn node(changed: Value) -> Object {
    let mut inputs = cluster();
    let first = inputs["nodes"].as_array_mut().unwrap()[0].as_object_mut().unwrap();
    first.extend(changed.as_object().unwrap().clone());
    inputs
}

/// A fresh cluster's plan with each of these inputs is refused, with these words.
fn refused(cases: Vec<(Object, &str)>) {
    let ready = ready();
    for (inputs, said) in cases {
        ready.configure(OURS, &inputs);
        let text = ready.refusal(&["plan"]);
        assert!(text.contains(said), "{said:?} is not in {text}");
    }
}

#[test]
fn a_plan_without_an_agent_is_refused_and_says_what_to_set() {
    if terraform_is_missing() {
        return;
    }
    let said = "set node_agent_url and node_agent_sha256, or node_agent_in_image = true";
    refused(vec![(with(cluster(), "node_agent_in_image", false), said)]);
}

#[test]
fn user_data_over_16_kib_is_refused_before_a_volume_has_its_id() {
    if terraform_is_missing() {
        return;
    }
    let script = BASE64_STANDARD.encode(format!("{SCRIPT}{}", "#".repeat(12_288)));
    refused(vec![(with(cluster(), "node_config_script", script), "user data is larger than 16 KiB")]);
}

#[test]
fn contents_and_scripts_that_are_not_base64_are_refused() {
    if terraform_is_missing() {
        return;
    }
    let contents = |text: &str| with(cluster(), "node_files", files("00", &[("/etc/file", text)]));
    refused(vec![
        (contents("plain text"), "contents of node_files_toupload must be base64"),
        (contents("aGVsbG8"), "contents of node_files_toupload must be base64"),
        (with(cluster(), "node_config_script", "echo 1"), "node_config_script must be base64"),
        (with(cluster(), "node_config_script", ""), "node_config_script must not be empty"),
    ]);
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
fn an_unknown_key_of_node_data_disk_is_refused_with_those_that_there_are() {
    if terraform_is_missing() {
        return;
    }
    let disk = |key: &str| node(object([("node_data_disk", object([(key, "x".into())]))]));
    let said = "node_data_disk takes device_name, file_system_type,";
    refused(vec![(disk("mount_pth"), said), (disk("mount_params"), said)]);
}

#[test]
fn files_of_a_node_that_is_none_are_refused() {
    if terraform_is_missing() {
        return;
    }
    let stray = with(cluster(), "node_files", files("03", &[("/etc/file", "")]));
    refused(vec![(stray, "node_files names a node_id that is not among nodes")]);
}

#[test]
fn volumes_that_the_agent_would_refuse_are_refused_by_the_plan() {
    if terraform_is_missing() {
        return;
    }
    let one = |name: &str, value: &str| volume(&cluster(), name, value);
    let absolute = "mount_path must be an absolute path";
    let own = "mount_path must be a directory for the data alone";
    let owner = "mount_path_owner_user and mount_path_owner_group must each be";
    refused(vec![
        (one("mount_path", "mydata"), absolute),
        (one("mount_path", "/a/../b"), absolute),
        (one("mount_path", "/var/lib/"), own),
        (one("mount_path", "/usr/bin"), own),
        (one("mount_path_owner_user", ""), owner),
        (one("mount_path_owner_group", "a:b"), owner),
        (one("device_name", "/dev/nvme1n1"), "device_name must be one of EC2's"),
        (volume(&cluster(), "mount_params", vec!["noatime,nouuid"]), "mount_params has what the agent refuses"),
    ]);
}

#[test]
fn timeouts_that_are_not_positive_are_refused() {
    if terraform_is_missing() {
        return;
    }
    let number = |name: &str, value: i32| with(cluster(), name, value);
    refused(vec![
        (number("command_timeout_seconds", 0), "command_timeout_seconds must be whole seconds"),
        (number("asg_inservice_timeout_in_mins", 0), "asg_inservice_timeout_in_mins must be whole minutes"),
        (number("asg_lifecycle_hook_heartbeat_timeout", -1), "whole seconds from 30 to 7200"),
    ]);
}

#[test]
fn destinations_that_the_agent_would_refuse_are_refused_by_the_plan() {
    if terraform_is_missing() {
        return;
    }
    let destinations = |given: &[&str]| {
        let given: Vec<_> = given.iter().map(|destination| (*destination, "")).collect();
        with(cluster(), "node_files", files("00", &given))
    };
    refused(vec![
        (destinations(&["/etc/file", "/etc/file"]), "Two of node_files_toupload have one destination"),
        (destinations(&["/etc/"]), "must be a file's absolute path"),
        (destinations(&["/etc/../root/file"]), "must be a file's absolute path"),
        (destinations(&["/proc/sys/vm/swappiness"]), "in a kernel filesystem"),
        (destinations(&["/mydata"]), "is the volume's mount_path"),
    ]);
}

#[test]
fn an_address_that_is_none_is_refused() {
    if terraform_is_missing() {
        return;
    }
    refused(vec![(node(object([("node_ip", "10.0.1".into())])), "Each node_ip must be an IPv4 address")]);
}
