//! The commands that only print.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::process::{Command, Output};

use serde_json::Value;

fn agent(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_node-agent")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output
}

#[test]
fn config_schema_prints_the_schema() {
    let printed: Value = serde_json::from_slice(&agent(&["config", "schema"]).stdout).unwrap();
    assert_eq!(printed, node_agent::config::json_schema::document());
}
