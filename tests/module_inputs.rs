//! Whatever the plan of the Terraform module accepts, the agent accepts: odd inputs, one at a time, go through the module's checks, and
//! what passes them goes to the agent's offline check.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "terraform/cluster.rs"]
mod cluster;
#[path = "terraform/module.rs"]
mod module;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cluster::{Modules, cluster, config_text, volume, volume_id, with};
use hcl::Value;
use module::{Object, object};
use node_agent::config::{self, Scope, Text};

const ODD: [&str; 71] = [
    "",
    " ",
    "a",
    "0",
    "-1",
    "-0",
    "007",
    "4294967294",
    "4294967295",
    "99999999999999999999",
    "-a",
    "a b",
    "a:b",
    "a/b",
    "/",
    "//",
    "/a",
    "/a/",
    "/a//b",
    "/a/./b",
    "/a/../b",
    "/a/..",
    "/etc",
    "/etc/a",
    "/var/lib",
    "/var/lib/",
    "/var/lib/node-agent/x",
    "/var/run/x",
    "/usr/local/bin",
    "/usr/share/x",
    "/usr/lib",
    "/usr/x",
    "/proc/x",
    "/dev/x",
    "/root",
    "/home/x",
    "\u{1}",
    "a\u{7f}",
    "/a\nb",
    "/a\tb",
    "/a\u{85}",
    "/a\u{9f}b",
    "a\u{a0}b",
    "\u{feff}",
    "\u{2003}",
    "/\u{2028}x",
    "ä",
    "~",
    "~/x",
    "1.5h",
    "10m",
    "s3://bucket/key",
    "s3://b/k",
    "s3://bucket/",
    "https://x",
    "$x",
    "%{x}",
    "${x}",
    "'",
    "\"",
    "\\",
    "`",
    "x=y",
    "nouuid",
    "bind",
    "X-mount.subdir=x",
    "x-systemd.automount",
    "noatime,bind",
    "offset=1",
    "/dev/xvdaaa",
    "/dev/sdf123",
];
const ADDRESSES: [&str; 9] =
    ["10.0.0.1", "0.0.0.0", "255.255.255.255", "999.1.1.1", "256.1.1.1", "010.1.1.1", "1.2.3", "1.2.3.4.5", "::1"];
const BASE64: [&str; 9] =
    ["aGVsbG8=", "aGVsbG9=", "aGVsbG8", "aGVs bG8=", "aGVs\nbG8=\n", "YQ==", "YR==", "aGVsbG8_", "===="];
const MODES: [&str; 8] = ["0644", "644", "0", "7777", "17777", "0000644", "0o644", "rw-r--r--"];
const SCRIPTS: [&str; 7] = [
    "\n \n",
    "#!/bin/bash\n",
    "configure_cluster_node() { :; }\n",
    "configure_clusternode() { :; }\nwait_for_healthy_cluster() { :; }\n",
    "source /opt/hooks.sh\n",
    ". /opt/hooks.sh\n",
    "\"$LOADER\" all\n",
];
const NUMBERS: [f64; 9] = [-1.0, 0.0, 0.5, 1.0, 29.0, 7200.0, 31_536_000.0, 31_622_401.0, 1e12];

/// A cluster of one node, because each goes through the same checks.
fn one_node() -> Object {
    let mut inputs = cluster();
    for name in ["nodes", "node_files"] {
        inputs[name].as_array_mut().unwrap().truncate(1);
    }
    inputs
}

fn node(key: &str, value: &str) -> Object {
    let mut inputs = one_node();
    inputs["nodes"].as_array_mut().unwrap()[0].as_object_mut().unwrap().insert(key.to_owned(), value.into());
    with(inputs, "node_files", Value::Array(vec![]))
}

/// One file with this changed; a second one where a text is to be its destination.
fn file(key: &str, value: &str) -> Object {
    let mut first = object([("contents", "".into()), ("destination", "/a".into())]);
    first.as_object_mut().unwrap().insert(key.to_owned(), value.into());
    let second = object([("contents", "".into()), ("destination", "/etc/a/b".into())]);
    let files = object([("node_id", "00".into()), ("node_files_toupload", Value::Array(vec![first, second]))]);
    with(one_node(), "node_files", Value::Array(vec![files]))
}

/// Every input in which a text may be wrong, with all odd texts in its place.
fn texts() -> Vec<(String, Object)> {
    let mut cases = Vec::new();
    let mut add = |name: &str, texts: &[&str], make: &dyn Fn(&str) -> Object| {
        cases.extend(texts.iter().map(|text| (format!("{name} = {text:?}"), make(text))));
    };
    for name in ["app_name", "node_config_script_s3_url", "drain_timeout"] {
        add(name, &ODD, &|text| with(one_node(), name, text));
    }
    add("node_config_script", &BASE64, &|text| with(one_node(), "node_config_script", text));
    add("node_id", &ODD, &|text| node("node_id", text));
    add("node_ip", &[&ODD[..], &ADDRESSES].concat(), &|text| node("node_ip", text));
    for name in ["device_name", "mount_path", "file_system_type", "mount_path_owner_user", "mount_path_owner_group"] {
        add(name, &ODD, &|text| volume(&one_node(), name, text));
    }
    add("mount_params", &ODD, &|text| volume(&one_node(), "mount_params", vec![text]));
    add("contents", &[&ODD[..], &BASE64].concat(), &|text| file("contents", text));
    for name in ["destination", "owner", "group"] {
        add(name, &ODD, &|text| file(name, text));
    }
    add("mode", &[&ODD[..], &MODES].concat(), &|text| file("mode", text));
    add("script", &SCRIPTS, &|text| with(one_node(), "node_config_script", BASE64_STANDARD.encode(text)));
    cases
}

fn numbers() -> Vec<(String, Object)> {
    let of = |name: &'static str| {
        NUMBERS.into_iter().map(move |number| (format!("{name} = {number}"), with(one_node(), name, number)))
    };
    let names = ["command_timeout_seconds", "asg_lifecycle_hook_heartbeat_timeout", "asg_inservice_timeout_in_mins"];
    names.into_iter().flat_map(of).collect()
}

#[test]
fn whatever_the_plan_accepts_the_agents_offline_check_accepts() {
    let modules = Modules::read();
    let (mut planned, mut refused, mut wrong) = (0, 0, Vec::new());
    for (case, inputs) in texts().into_iter().chain(numbers()) {
        let Ok(nodes) = modules.nodes(&inputs) else {
            refused += 1;
            continue;
        };
        planned += 1;
        for (id, node) in &nodes {
            let text = config_text(node.local("user_data").as_str().unwrap());
            // As EC2 makes them: the tests make one of the node's id.
            let text = text.replace(&volume_id(id), "vol-0123456789abcdef0");
            if let Err(mistakes) = config::load(Text { name: "config.toml".to_owned(), text }, None, Scope::Offline) {
                wrong.push(format!("{case}: {mistakes}"));
            }
        }
    }
    println!("{planned} planned, {refused} refused");
    assert!(planned > 200 && refused > 500, "{planned} planned, {refused} refused: the inputs show nothing");
    assert!(wrong.is_empty(), "planned, and refused by the agent:\n{}", wrong.join("\n"));
}
