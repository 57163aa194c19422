//! The commands that only print.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::process::{Command, Output};

use serde_json::Value;
use support::AGENT;

fn agent(arguments: &[&str]) -> Output {
    let output = Command::new(AGENT.as_str()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output
}

#[test]
fn config_schema_prints_the_schema() {
    let printed: Value = serde_json::from_slice(&agent(&["config", "schema"]).stdout).unwrap();
    assert_eq!(printed, node_agent::config::json_schema::document());
}

#[test]
fn the_completions_know_every_subcommand() {
    let help = String::from_utf8(agent(&["help"]).stdout).unwrap();
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let commands: Vec<_> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.contains(&"run") && commands.contains(&"completions"), "{commands:?}");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = String::from_utf8(agent(&["completions", shell]).stdout).unwrap();
        for command in &commands {
            assert!(script.contains(command), "{shell}: {command}");
        }
        assert!(!script.contains("read-blank"), "{shell} offers a hidden command");
    }
}

/// What bash offers for the last word of the line, by the script itself.
fn offered(line: &[&str]) -> Vec<String> {
    let script = String::from_utf8(agent(&["completions", "bash"]).stdout).unwrap();
    let ask = r#"
        eval "$1"; shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        function=$(complete -p node-agent) function=${function#*-F } function=${function%% *}
        "$function" node-agent "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let output = Command::new("bash").args(["-ec", ask, "bash", &script]).args(line).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_options() {
    let script = agent(&["completions", "bash"]).stdout;
    let check = Command::new("bash").args(["-n", "-c", &String::from_utf8(script).unwrap()]).output().unwrap();
    assert!(check.status.success() && check.stderr.is_empty(), "{check:?}");
    assert_eq!(offered(&["node-agent", "completi"]), ["completions"]);
    assert_eq!(offered(&["node-agent", "config", "sch"]), ["schema"]);
    assert_eq!(offered(&["node-agent", "run", "--on"]), ["--once"]);
}
