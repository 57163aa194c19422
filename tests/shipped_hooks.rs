//! The shipped hooks for real clusters, as far as they can be tried without a cluster: what they share, what they read, and the units
//! that they write. tests/cluster_*.rs run them on clusters.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the part begins that all hooks have.
const SHARED: &str = "# --- The same in every hook of this folder";

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/hooks");

fn hooks() -> Vec<PathBuf> {
    let files = fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path());
    let hooks: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "sh")).collect();
    assert!(hooks.len() >= 4, "{hooks:?}");
    hooks
}

/// Sources the hook as the agent does, runs this, and returns the exit code and all that is printed.
fn run(hook: &Path, script: &str) -> (i32, String) {
    let script = format!("set -Eeuo pipefail; . '{}'; {script}", hook.display());
    let output = Command::new("bash").args(["-c", &script]).env("MOUNT_PATH", "/mydata").output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.code().unwrap(), said)
}

#[test]
fn what_the_hooks_share_is_the_same_text_in_all() {
    let shared = |hook: &PathBuf| {
        let text = fs::read_to_string(hook).unwrap();
        text[text.find(SHARED).unwrap_or_else(|| panic!("{}: no {SHARED}", hook.display()))..].to_owned()
    };
    let all = hooks();
    for hook in &all[1..] {
        assert!(shared(hook) == shared(&all[0]), "{} differs from {}", hook.display(), all[0].display());
    }
}

#[test]
fn every_hook_defines_the_five_functions_and_says_with_what_it_was_run() {
    for hook in hooks() {
        let functions = "configure_cluster_node wait_for_healthy_cluster drain_cluster_node check_cluster leader_node";
        let (code, said) = run(&hook, &format!("declare -F {functions} >/dev/null"));
        assert_eq!(code, 0, "{}: {said}", hook.display());
        let text = fs::read_to_string(&hook).unwrap();
        let first: Vec<&str> = text.lines().take(6).collect();
        assert!(first.iter().any(|line| line.contains("Run with") || line.contains("NEVER RUN")), "{first:?}");
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units_that_hooks_write() {
    let dir = tempfile::tempdir().unwrap();
    for hook in hooks() {
        // Any program that is there.
        let (code, unit) = run(&hook, "SERVER[0]=/bin/true; unit 00");
        assert_eq!(code, 0, "{unit}");
        let path = dir.path().join("server.service");
        let of_root =
            |line: &str| if line.starts_with("User=") { "User=root\n".to_owned() } else { format!("{line}\n") };
        fs::write(&path, unit.lines().map(of_root).collect::<String>()).unwrap();
        let mut verify = Command::new("systemd-analyze");
        let output = verify.args(["verify", "--man=no", "--recursive-errors=no"]).arg(path).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && said.is_empty(), "{}: {said}\n{unit}", hook.display());
    }
}

#[test]
fn the_nodes_of_a_roll_must_be_those_of_the_settings() {
    const MEMBERS: &str = "MEMBERS='00=10.0.1.10 01=10.0.1.11'";
    let cases = [
        (0, r#"[{"id": "00", "ip": "10.0.1.10", "group": "a", "instance": "i-1"}, {"id": "01", "ip": "10.0.1.11"}]"#),
        // Without spaces, in another order, with keys that are not known, without an address.
        (0, r#"[{"group":"x","ip":"10.0.1.11","id":"01"},{"new":7,"id":"00","ip":null,"instance":null}]"#),
        (1, r#"[{"id": "00", "ip": "10.0.1.10"}]"#),
        (1, r#"[{"id": "00", "ip": "10.0.1.10"}, {"id": "01", "ip": "10.0.1.12"}]"#),
        (1, r#"[{"id": "00", "ip": "10.0.1.10"}, {"id": "01", "ip": "10.0.1.11"}, {"id": "02", "ip": "10.0.1.12"}]"#),
        (1, "[]"),
        (1, "not JSON"),
    ];
    for hook in hooks() {
        for (wanted, nodes) in cases {
            let (code, said) = run(&hook, &format!("{MEMBERS}; ROLL_NODES='{nodes}'; nodes_are_the_members"));
            assert_eq!(code, wanted, "{}: {nodes}: {said}", hook.display());
            assert_eq!(said.contains("are not those of MEMBERS"), wanted == 1, "{said}");
        }
    }
}

#[test]
fn a_new_cluster_may_begin_only_before_its_time() {
    let cases = [(0, "2999-01-01T00:00:00Z"), (1, "2020-01-01T00:00:00Z"), (1, ""), (1, "some day")];
    for hook in hooks() {
        for (wanted, time) in cases {
            let (code, said) = run(&hook, &format!("NEW_CLUSTER_BEFORE='{time}'; new_cluster_may_begin"));
            assert_eq!(code, wanted, "{}: {time:?}: {said}", hook.display());
            assert_eq!(said.contains("is no time such as"), time == "some day", "{said}");
        }
    }
}

#[test]
fn a_volume_of_another_node_or_another_cluster_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let identity = dir.path().join("identity");
    let cases =
        [(0, "cluster=c\nnode=00\nmember=1"), (1, "cluster=c\nnode=01\nmember=2"), (1, "cluster=d\nnode=00\nmember=1")];
    for hook in hooks() {
        for (wanted, text) in cases {
            fs::write(&identity, text).unwrap();
            let script = format!("CLUSTER=c; IDENTITY='{}'; data_is_this_nodes 00", identity.display());
            let (code, said) = run(&hook, &script);
            assert_eq!(code, wanted, "{}: {text}: {said}", hook.display());
            assert_eq!(said.contains("is not the one of node 00"), wanted == 1, "{said}");
        }
    }
}

#[test]
fn the_check_of_etcd_does_not_pass_where_no_node_lists_the_members() {
    let hook = Path::new(FOLDER).join("etcd.sh");
    // Every node answers and is in sync, but for the one question.
    let answers = "read_status() { MEMBER=1 LEADER=1 CLUSTER_ID=1 INDEX=5 APPLIED=5 LEARNER=false ERRORS=''; }; \
         ctl() { [[ $2 != member ]]; }";
    let nodes = r#"ROLL_NODES='[{"id": "00", "ip": "10.0.1.10"}]'"#;
    let (code, said) = run(&hook, &format!("MEMBERS=00=10.0.1.10; {nodes}; {answers}; check_cluster"));
    assert!(code == 1 && said == "no node tells the members and the alarms\n", "{code} {said}");
}

#[test]
fn a_blank_etcd_node_begins_nothing_beside_a_cluster_that_does_not_know_it() {
    let hook = Path::new(FOLDER).join("etcd.sh");
    let member = |ip: &str, clients: &str| format!("8e9e05c52164694d, started, x, http://{ip}:2380, {clients}, false");
    let served = member("10.0.1.12", "http://10.0.1.12:2379");
    let cases = [
        (0, "false", "new"),
        (0, &format!("echo '{}'", member("10.0.1.12", "")), "new"),
        (
            1,
            &format!("echo '{}'", member("10.0.9.9", "http://10.0.9.9:2379")),
            "member add 02 --peer-urls=http://10.0.1.12:2380",
        ),
        (1, &format!("echo '{served}'"), "member remove 8e9e05c52164694d"),
    ];
    for (wanted, list, says) in cases {
        let script = "NEW_CLUSTER_BEFORE=2999-01-01T00:00:00Z DECISION=/nonexistent; state_without_data 02 10.0.1.12";
        let (code, said) = run(&hook, &format!("ctl() {{ {list}; }}; {script}"));
        assert!(code == wanted && said.contains(says), "{list}: {code} {said}");
    }
}

#[test]
fn a_hook_of_members_that_lack_this_node_is_refused() {
    for hook in hooks() {
        let (code, said) = run(&hook, "configure_cluster_node 07 10.0.1.17");
        assert!(code == 1 && said.contains("does not have 07=10.0.1.17"), "{}: {said}", hook.display());
    }
}

#[test]
fn a_servers_last_words_have_the_reason_however_deep_javas_stack_is() {
    let log: String = std::iter::once("Exception: Invalid value none\\n".to_owned())
        .chain((0..20).map(|depth| format!("\\tat kafka.Kafka.f{depth}(Kafka.scala)\\n")))
        .collect();
    for hook in hooks() {
        let (code, said) = run(&hook, &format!("printf '{log}' | last_words"));
        assert_eq!((code, said.trim()), (0, "Exception: Invalid value none"), "{}", hook.display());
    }
}
