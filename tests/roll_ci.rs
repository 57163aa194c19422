//! What CI jobs run: `packaging/ci/roll.sh` fetches the binary, checks it, and becomes the roll.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/cluster.rs"]
mod cluster;

use std::process::{Command, Output, Stdio};

use cluster::witness::changes;
use cluster::{Behaviour, CLUSTER, Cluster, Healthy};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/ci/roll.sh");
const AGENT: &str = env!("CARGO_BIN_EXE_node-agent");

/// The SHA-256 of the program, as `sha256sum` prints it.
fn checksum() -> String {
    let output = Command::new("sha256sum").arg(AGENT).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

/// Runs the script as a CI job does, the binary being at `url`.
fn job(cluster: &Cluster, url: &str, checksum: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("bash");
    command.arg(SCRIPT).args(["--cluster", CLUSTER]).args(arguments).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", cluster.dir()).env("TMPDIR", cluster.dir());
    command.env("NODE_AGENT_URL", url).env("NODE_AGENT_SHA256", checksum);
    command.envs(cluster.sim.operator_env(&[])).stdin(Stdio::null());
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

#[test]
fn a_ci_job_shows_the_plan_and_rolls_with_yes() {
    let cluster = Cluster::new(&Behaviour::default());
    cluster.publish("ami-2", Healthy);
    let (url, checksum) = (format!("file://{AGENT}"), checksum());
    let plan = job(&cluster, &url, &checksum, &[]);
    assert_eq!(plan.status.code(), Some(0), "{}", text(&plan));
    assert!(text(&plan).contains("image: ami-1 -> ami-2"), "{}", text(&plan));
    assert_eq!(changes(&cluster.sim), Vec::<String>::new());

    let roll = job(&cluster, &url, &checksum, &["--check", "true", "--yes"]);
    assert_eq!(roll.status.code(), Some(0), "{}", text(&roll));
    cluster.all_run("2");

    // The roll's own exit code.
    let refused = job(&cluster, &url, &checksum, &["--to", "9", "--yes"]);
    assert_eq!(refused.status.code(), Some(6), "{}", text(&refused));
}

#[test]
fn a_ci_job_runs_no_binary_that_it_cannot_verify() {
    let cluster = Cluster::new(&Behaviour::default());
    cluster.publish("ami-2", Healthy);
    let url = format!("file://{AGENT}");
    let other = "0".repeat(64);
    let cases = [
        (url.as_str(), other.as_str(), "nothing was rolled"),
        ("file:///nowhere/node-agent", &other, "curl"),
        (&url, "", "NODE_AGENT_SHA256"),
        ("", &other, "NODE_AGENT_URL"),
    ];
    for (url, checksum, said) in cases {
        let output = job(&cluster, url, checksum, &["--yes"]);
        assert!(!output.status.success() && text(&output).contains(said), "{said}: {}", text(&output));
    }
    assert_eq!(changes(&cluster.sim), Vec::<String>::new());
}
