//! A shipped hook, sourced as the agent does, with some of its functions replaced.

#![allow(unreachable_pub, reason = "two tests' part")]

use std::process::Command;

/// The nodes of the shipped settings, as `node-agent roll` names them.
const ROLL_NODES: &str =
    r#"[{"id": "00", "ip": "10.0.1.10"}, {"id": "01", "ip": "10.0.1.11"}, {"id": "02", "ip": "10.0.1.12"}]"#;

/// Sources the hook of this name and runs this, with these variables: the exit code and what it prints.
pub fn run(name: &str, script: &str, told: &[(&str, &str)]) -> (Option<i32>, String) {
    let hook = format!("{}/packaging/hooks/{name}.sh", env!("CARGO_MANIFEST_DIR"));
    let script = format!("set -Eeuo pipefail; . '{hook}'\n{script}");
    let mut command = Command::new("bash");
    command.args(["-c", &script]).env("ROLL_NODES", ROLL_NODES).envs(told.iter().copied());
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned())
}

/// What a text becomes by one change that it must have room for.
pub fn changed(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{text}: {from}");
    text.replacen(from, to, 1)
}
