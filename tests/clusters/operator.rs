//! The operator's side of a cluster: `node-agent roll` with the shipped hook, and the functions that it calls.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::kind::Kind;
use super::network::address;
use super::process::Rolling;
use super::region::{Cluster, NODES, STUCK, group, hooks, id};
use super::room::{AGENT, DIR};

impl<K: Kind> Cluster<K> {
    /// Begins `node-agent roll` of the cluster with the shipped hook.
    pub fn roll(&self, arguments: &[&str]) -> Rolling {
        let hooks = operators_hooks::<K>();
        let mut command = Command::new(AGENT);
        command.args(["roll", "--cluster", &format!("stateful-cluster={}", K::NAME), "--yes", "--hooks"]);
        command.arg(hooks).args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", "/root").env("USER", "ann").envs(self.sim.operator_env(&[]));
        Rolling::start(command, Path::new(DIR), STUCK, 4 * STUCK)
    }

    /// A function of the shipped hook, called as the roll calls it: its exit code, and what it prints.
    pub fn ask(&self, function: &str) -> (Option<i32>, String) {
        let nodes = NODES.map(|node| {
            let instance = self.member(node).map(|(instance, _)| instance.to_string());
            serde_json::json!({ "id": id(node), "ip": address(node), "group": group::<K>(node), "instance": instance })
        });
        let script = format!("set -Eeuo pipefail; . {}; {function}", operators_hooks::<K>().display());
        let mut command = Command::new("bash");
        command.args(["-c", &script]).env("ROLL_NODES", serde_json::json!(nodes).to_string()).stdin(Stdio::null());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
        (output.status.code(), said)
    }

    /// The node that leads.
    pub fn leader(&self) -> usize {
        self.wait("a leader", || {
            let (code, said) = self.ask("leader_node");
            if code == Some(0) { NODES.into_iter().find(|node| id(*node) == said) } else { None }
        })
    }
}

fn operators_hooks<K: Kind>() -> PathBuf {
    let path = Path::new(DIR).join("hooks.sh");
    if !path.exists() {
        fs::write(&path, hooks::<K>(&[])).unwrap();
    }
    path
}
