//! The systemd units and the user data agree with what the agent does.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use node_agent::config::{self, Scope, Text};
use node_agent::failure::{Class, Code};
use support::AGENT;

const SERVICE: &str = include_str!("../systemd/node-agent.service");
const TARGET: &str = include_str!("../systemd/node-agent-mounted.target");
const APPLICATION: &str = include_str!("../systemd/example-application.service");

const CLOUD_CONFIG: &str = include_str!("../packaging/user-data/cloud-config.yaml");
const SHELL: &str = include_str!("../packaging/user-data/user-data.sh");
/// What the Terraform module gives a node.
const TERRAFORM: &str = include_str!("terraform/user-data.yaml");
/// What EC2 takes, before base64.
const USER_DATA_LIMIT: usize = 16 * 1024;

/// The words of every line `key=` of a unit.
fn words<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(k, _)| *k == key).flat_map(|(_, value)| value.split_whitespace()).collect()
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let dir = tempfile::tempdir().unwrap();
    let agent = AGENT.as_str();
    let units = [
        ("node-agent.service", SERVICE.replace("/usr/bin/node-agent", agent)),
        ("node-agent-mounted.target", TARGET.to_owned()),
        ("example-application.service", APPLICATION.replace("/usr/bin/example-application", agent)),
    ];
    let mut verify = Command::new("systemd-analyze");
    // The host's own units, which ours are ordered after, are not checked.
    verify.args(["verify", "--man=no", "--recursive-errors=no"]);
    for (name, text) in units {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        verify.arg(path);
    }
    let output = verify.output().expect("systemd-analyze, of Debian's package systemd");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    // It exits with 0 in spite of keys that it does not know, but says so.
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
}

#[test]
fn the_service_restarts_after_a_crash_or_a_held_lock_but_after_no_lasting_failure() {
    let prevented: BTreeSet<u8> =
        words(SERVICE, "RestartPreventExitStatus").iter().map(|code| code.parse().unwrap()).collect();
    let stopped: BTreeSet<u8> = words(SERVICE, "SuccessExitStatus").iter().map(|code| code.parse().unwrap()).collect();
    let ends_with: BTreeSet<u8> = Code::ALL.iter().map(|code| code.class().exit_code()).collect();
    let locked = Class::Locked.exit_code();
    // clap's.
    let usage = 2;

    assert_eq!(words(SERVICE, "Restart"), ["on-failure"]);
    assert_eq!(stopped, BTreeSet::from([Class::Stopped.exit_code()]));
    let expected = ends_with.into_iter().chain([usage]).filter(|code| *code != locked && !stopped.contains(code));
    assert_eq!(prevented, expected.collect());
}

/// systemd.exec(5) of systemd 257: whatever is said to give a service a mount namespace of its own, by any value but the
/// one that turns it off.
const NAMESPACED: &[&str] = &[
    "BindLogSockets",
    "BindPaths",
    "BindReadOnlyPaths",
    "DynamicUser",
    "ExecPaths",
    "ExtensionDirectories",
    "ExtensionImages",
    "InaccessiblePaths",
    "LogNamespace",
    "MountAPIVFS",
    "MountFlags",
    "MountImages",
    "NoExecPaths",
    "PrivateDevices",
    "PrivateIPC",
    "PrivateMounts",
    "PrivateNetwork",
    "PrivatePIDs",
    "PrivateTmp",
    "PrivateUsers",
    "ProcSubset",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "RootDirectory",
    "RootImage",
    "TemporaryFileSystem",
];

#[test]
fn what_the_service_mounts_is_mounted_for_the_whole_host() {
    for key in NAMESPACED {
        let off: &[&str] = if *key == "PrivateMounts" { &["no"] } else { &[] };
        assert_eq!(words(SERVICE, key), off, "{key}");
    }
}

#[test]
fn the_service_waits_for_nothing_that_waits_for_it() {
    let later = ["cloud-final.service", "multi-user.target", "cloud-init.target", "default.target"];
    let waited_for = ["After", "Wants", "Requires", "BindsTo"].map(|key| words(SERVICE, key)).concat();
    assert!(waited_for.iter().all(|unit| !later.contains(unit)), "{waited_for:?}");
    assert!(waited_for.contains(&"cloud-init.service") && waited_for.contains(&"cloud-init-network.service"));
}

#[test]
fn an_application_starts_only_with_the_target_that_the_agent_starts() {
    assert_eq!(words(APPLICATION, "WantedBy"), [node_agent::host::systemd::MOUNTED_TARGET]);
    assert!(words(TARGET, "WantedBy").is_empty());
}

/// The configuration in an example: cloud-config's block, or the shell's here-document.
fn config_in(user_data: &str) -> String {
    if let Some((_, block)) = user_data.split_once("    content: |\n") {
        let lines = block.lines().take_while(|line| line.starts_with("      ") || line.trim().is_empty());
        return lines.map(|line| format!("{}\n", line.get(6..).unwrap_or_default())).collect();
    }
    let (_, block) = user_data.split_once("<<'END'\n").unwrap();
    block.split_once("\nEND\n").unwrap().0.to_owned()
}

#[test]
fn the_user_data_examples_fit_and_hold_a_configuration_that_the_agent_accepts() {
    for (name, user_data) in [("cloud-config.yaml", CLOUD_CONFIG), ("user-data.sh", SHELL)] {
        assert!(user_data.len() < USER_DATA_LIMIT, "{name}: {} bytes", user_data.len());
        let text = Text { name: name.to_owned(), text: config_in(user_data) };
        let config = config::load(text, None, Scope::Offline).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert!(config.lifecycle.is_some() && config.volumes.len() == 1 && config.files.len() == 1, "{config:?}");
    }
    assert!(CLOUD_CONFIG.contains("permissions: \"0600\"") && SHELL.contains("umask 077"));
}

#[test]
fn the_binary_is_fetched_in_one_way_everywhere_and_the_service_is_not_waited_for() {
    // From the directory it is fetched into to its start, without where from and what it must hash to.
    let fetching = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        // Some are in a shell of their own.
        let lines = lines.skip_while(|line| !line.starts_with("dir=")).filter(|line| *line != ")");
        let quoted = regex_lite::Regex::new("'[^']*(//|  )[^']*'").unwrap();
        lines.map(|line| quoted.replace_all(line, "'…'").into_owned()).collect()
    };
    let shell = fetching(SHELL);
    assert_eq!(shell.len(), 7, "{shell:?}");
    assert_eq!(shell[6], "\"$dir/node-agent\" install --now");
    assert_eq!(fetching(CLOUD_CONFIG), shell);
    assert_eq!(fetching(TERRAFORM), shell);
}

#[test]
fn a_fetch_that_fails_keeps_no_later_command_of_the_user_data_from_running() {
    for (name, text) in [("cloud-config.yaml", CLOUD_CONFIG), ("Terraform's", TERRAFORM)] {
        // cloud-init makes one script of all commands.
        let (_, block) = text.split_once("\n  - |\n").unwrap();
        let lines = block.lines().take_while(|line| line.starts_with("    "));
        let script: String = lines.map(|line| format!("{}\n", line.trim())).collect();
        // The command that makes the folder for the download comes first; mktemp(1) fills in the X's. It fails here.
        let first = "mktemp -d /root/node-agent.XXXXXX";
        assert_eq!(script.matches(first).count(), 1, "{name}: {script}");
        let script = script.replace(first, "false");
        let output = Command::new("sh").args(["-c", &format!("{script}echo the next command\n")]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "the next command\n", "{name}: {script}");
    }
}

/// What `packaging/third-party.py` prints, from the crates' sources.
fn third_party(what: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/third-party.py");
    let output = Command::new(script).arg(what).output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_licences_of_all_that_is_linked_are_shipped_and_none_of_build_or_test_crates() {
    let notices = third_party("notices");
    let (crates, texts) = notices.split_once("\n====").unwrap();
    let listed = |name: &str| crates.lines().any(|line| line.starts_with(&format!("{name} ")));

    for linked in ["aws-sdk-ec2", "ring", "rustls", "tokio", "libc", "base64-simd"] {
        assert!(listed(linked), "{linked}");
    }
    for aside in ["syn", "serde_derive", "cc", "proptest", "boon", "hcl-rs", "clap_mangen", "node-agent"] {
        assert!(!listed(aside), "{aside}");
    }
    // ring's own, what is copied into it, one that its crate leaves out, what lies below all crates.
    for notice in [
        "Copyright 2015-2025 Brian Smith",
        "the fiat-crypto authors",
        "Copyright (c) 2021 Nugine",
        "Copyright © 2005-2020 Rich Felker",
        "The Rust Standard Library is dual-licensed",
    ] {
        assert!(texts.contains(notice), "{notice}");
    }
    assert!(!notices.contains(env!("CARGO_MANIFEST_DIR")));

    // The table of crates is the second paragraph after the title.
    let count = crates.split("\n\n").nth(2).unwrap().lines().count();
    let readme = include_str!("../packaging/README.md");
    assert!(readme.contains(&format!("The binary contains {count} crates")), "packaging/README.md: {count} crates");
}

#[test]
fn the_rpms_licence_is_that_of_all_that_is_linked() {
    let licence = third_party("licence");
    assert!(licence.starts_with("Apache-2.0 AND "), "{licence}");
    for part in ["(Apache-2.0 OR MIT)", "BSD-3-Clause", "ISC", "Unicode-3.0"] {
        assert!(licence.trim().split(" AND ").any(|other| other == part), "{part}: {licence}");
    }
}
