//! The CodeBuild project of `packaging/ci`, as the real `terraform` plans and applies it, and what it runs.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "terraform/cluster.rs"]
mod cluster;
#[path = "terraform/module.rs"]
mod module;
#[path = "terraform/real.rs"]
mod real;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use cluster::cluster;
use real::{CODEBUILD, OURS, Workspace, expected, terraform_is_missing, workspace};
use serde_json::{Value, json};

const HOOKS: &str = "check_cluster() { echo \"it's \\\"$1\\\"\"; }\n";

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// What a build runs, in an empty directory, with a binary that prints how it was called.
fn build(new: &Workspace, name: &str, spec: &str, options: &str) -> (String, String) {
    let dir = new.path(name);
    fs::create_dir(&dir).unwrap();
    let agent = dir.join("agent");
    fs::write(&agent, "#!/bin/sh\nprintf '<%s>' \"$@\"\n").unwrap();
    let sum = Command::new("sha256sum").arg(&agent).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap()[..64].to_owned();
    let spec: Value = serde_json::from_str(spec).unwrap();
    assert_eq!(spec["env"]["shell"], "bash");
    let mut said = String::new();
    for command in spec["phases"]["build"]["commands"].as_array().unwrap() {
        let mut shell = Command::new("bash");
        shell.args(["-c", command.as_str().unwrap()]).current_dir(&dir).env("CLUSTER", "kafka").env("TMPDIR", &dir);
        shell.env("ROLL_OPTIONS", options).env("NODE_AGENT_SHA256", &sum);
        let output = shell.env("NODE_AGENT_URL", format!("file://{}", agent.display())).output().unwrap();
        assert!(output.status.success(), "{command}: {}", text(&output));
        said += &text(&output);
    }
    let hooks = fs::read_to_string(Path::new(&dir).join("hooks.sh")).unwrap_or_default();
    (said, hooks)
}

#[test]
fn a_codebuild_project_shows_what_a_roll_would_do_and_with_yes_does_it() {
    if terraform_is_missing() {
        return;
    }
    let new = workspace();
    new.configure(OURS, &cluster());
    let inputs = json!({
        "app_name": "kafka",
        "roll_policy_json": "${module.cluster.roll_policy_json}",
        "node_agent_url": "https://example.com/node-agent",
        "node_agent_sha256": "0".repeat(64),
        "hooks": HOOKS,
        "vpc_config": {"vpc_id": "vpc-1", "subnets": ["subnet-1"], "security_group_ids": ["sg-1"]},
    });
    new.add_module("kafka_roll", CODEBUILD, inputs.clone());
    new.init();
    let plan = new.plan();
    let spec = plan.after("aws_codebuild_project.roll")["source"][0]["buildspec"].as_str().unwrap().to_owned();
    new.apply();
    assert_eq!(new.plan().changes(), expected(&[]));

    let (said, hooks) = build(&new, "build-1", &spec, "");
    assert_eq!(said, "<roll><--cluster><stateful-cluster=kafka><--hooks><hooks.sh>");
    assert_eq!(hooks, HOOKS);
    let (said, _) = build(&new, "build-2", &spec, "--canary 00 --yes");
    assert_eq!(said, "<roll><--cluster><stateful-cluster=kafka><--hooks><hooks.sh><--canary><00><--yes>");

    let mut without = inputs;
    without.as_object_mut().unwrap().remove("hooks");
    new.add_module("kafka_roll", CODEBUILD, without);
    let spec = new.plan().after("aws_codebuild_project.roll")["source"][0]["buildspec"].as_str().unwrap().to_owned();
    let (said, hooks) = build(&new, "build-3", &spec, "");
    assert_eq!((said.as_str(), hooks.as_str()), ("<roll><--cluster><stateful-cluster=kafka>", ""));
}

#[test]
fn a_codebuild_project_without_a_verifiable_binary_is_refused() {
    if terraform_is_missing() {
        return;
    }
    let new = workspace();
    let good = json!({
        "app_name": "kafka",
        "roll_policy_json": "{}",
        "node_agent_url": "https://example.com/node-agent",
        "node_agent_sha256": "0".repeat(64),
    });
    new.configure(OURS, &cluster());
    new.add_module("kafka_roll", CODEBUILD, good.clone());
    new.init();
    for (key, value, said) in [
        ("node_agent_url", json!("http://example.com/node-agent"), "node_agent_url must be an https:// URL"),
        ("node_agent_sha256", json!("abc"), "node_agent_sha256 must be 64 lower-case hex digits"),
        ("timeout_in_minutes", json!(4), "timeout_in_minutes must be from 5 to 480"),
        ("hooks", json!("x".repeat(65537)), "hooks must be at most 64 KiB"),
    ] {
        let mut inputs = good.clone();
        inputs[key] = value;
        new.add_module("kafka_roll", CODEBUILD, inputs);
        let text = new.refusal(&["plan"]);
        assert!(text.contains(said), "{key}: {text}");
    }
}
