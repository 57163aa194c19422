//! The binary runs a world from its file and leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use common::{PATIENCE, request};
use tempfile::TempDir;

const WORLD: &str = r#"
[sim]
work_dir = "DIR/world"
latencies = { device = "10ms", attach = "10ms" }

[[sim.faults]]
action = "ec2:AttachVolume"
times = "forever"
fault = { stale = { back = 1 } }

[[sim.faults]]
action = "s3:GetObject"
fault = "lost-reply"

[[sim.quotas]]
action = "ec2:*"
capacity = 100.0
refill_per_second = 20.0

[sim.random_faults]
seed = 1
probability = 0.0
kinds = ["reset", { slow = "20ms" }]

[[volume]]
id = "vol-0123456789abcdef0"
size_bytes = 16777216

[[interface]]
id = "eni-0123456789abcdef0"
private_ips = ["10.0.1.10"]

[[template]]
name = "kafka"
versions = [{ image = "ami-0123456789abcdef1", interface = "eni-0123456789abcdef0", launch = { outcome = "held" } }]

[[group]]
name = "kafka-00"
template = { template = "kafka", version = "$Latest" }

[[group.hooks]]
name = "launch-hook"
heartbeat_timeout = "30s"
default_result = "ABANDON"

[[instance]]
id = "i-0123456789abcdef0"
group = "kafka-00"
by_id_dir = "DIR/by-id"
user_data = "hello"

[[attach]]
volume = "vol-0123456789abcdef0"
instance = "i-0123456789abcdef0"
device = "/dev/sdf"

[[terminate]]
instance = "i-0123456789abcdef0"
after = "1h"

[[object]]
bucket = "b"
key = "k"
content = "x"

[[page]]
path = "/hooks.sh"
content = "true"
"#;

struct Started {
    child: Child,
    output: BufReader<ChildStdout>,
    lines: Vec<String>,
}

/// Starts the binary and waits until it is ready and its device is there.
fn start(dir: &Path) -> Started {
    let config = dir.join("sim.toml");
    fs::write(&config, WORLD.replace("DIR", dir.to_str().unwrap())).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_ec2-sim"))
        .arg("--config")
        .arg(&config)
        .arg("--exit-with-stdin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut lines = Vec::new();
    while !lines.last().is_some_and(|line: &String| line.starts_with("# ready")) {
        let mut line = String::new();
        assert!(output.read_line(&mut line).unwrap() > 0, "ended early: {lines:?}");
        lines.push(line.trim_end().to_owned());
    }
    until("a device", || link(dir).exists());
    Started { child, output, lines }
}

fn link(dir: &Path) -> std::path::PathBuf {
    dir.join("by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0")
}

fn until(what: &str, reached: impl Fn() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < PATIENCE, "never {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn has_loop_device(dir: &Path) -> bool {
    let file = dir.join("world/vol-0123456789abcdef0.img");
    !Command::new("losetup").arg("-j").arg(file).output().unwrap().stdout.is_empty()
}

#[test]
fn the_binary_serves_its_file_and_ends_with_stdin() {
    let dir = TempDir::new().unwrap();
    let Started { mut child, output, lines } = start(dir.path());
    assert_eq!(lines[0], "# i-0123456789abcdef0");
    assert!(lines[1].starts_with("export AWS_ENDPOINT_URL=http://127.0.0.1:"), "{lines:?}");
    let imds = lines[2].strip_prefix("export AWS_EC2_METADATA_SERVICE_ENDPOINT=").unwrap();
    let ttl = [("x-aws-ec2-metadata-token-ttl-seconds", "60")];
    assert_eq!(request("PUT", imds, "/latest/api/token", &ttl, b"", PATIENCE).unwrap().status, 200);
    assert!(has_loop_device(dir.path()));
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    drop(output);
    assert!(!has_loop_device(dir.path()));
    assert!(fs::symlink_metadata(link(dir.path())).is_err());
    let log = fs::read_to_string(dir.path().join("world/events.jsonl")).unwrap();
    for line in log.lines() {
        serde_json::from_str::<ec2_sim::Event>(line).unwrap();
    }
}

#[test]
fn the_kernel_frees_the_devices_of_a_killed_simulator() {
    let dir = TempDir::new().unwrap();
    let Started { mut child, .. } = start(dir.path());
    child.kill().unwrap();
    child.wait().unwrap();
    until("free", || !has_loop_device(dir.path()));
}

#[test]
fn a_mistyped_key_is_an_error() {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("sim.toml");
    fs::write(&config, "[sim]\nwork_dirr = \"/nowhere\"\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ec2-sim")).arg("--config").arg(&config).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("work_dirr"));
}
