//! Kafka, from Maven Central's jars. The clients are Kafka's own: a producer that Kafka's developers verify clusters with, idempotent
//! and with `acks=all`, and the consumer for the console.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use ec2_sim::machine::Machine;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::clusters::java;
use super::clusters::kind::Kind;
use super::clusters::network::address;
use super::clusters::region::NODES;
use super::clusters::room::shell;
use super::clusters::writer::Record;

/// The port for clients.
pub(crate) const PORT: u16 = 9092;
/// Where `.ci/tools clusters` puts the jars.
const FETCHED: &str = "/var/cache/node-agent/kafka-4.2.1";
/// Where the nodes and the operator have them: a folder that the host's is not seen in.
const JARS: &str = "/tmp/kafka";
const TOPIC: &str = "writes";
/// So many keys in turn, so that each partition is written to.
const KEYS: u32 = 30;
/// Two hundred writes a second, as the other clients.
const THROUGHPUT: u32 = 200;
/// What a record is tried again for, how often that may be, and how long the client waits for an answer.
const PRODUCER: &str = "enable.idempotence=true\nretries=2147483647\nrequest.timeout.ms=5000\nlinger.ms=0\n";

pub(crate) struct Kafka;

/// Whether the server could be fetched.
pub(crate) fn is_there() -> bool {
    let there = Path::new(Kafka::NEEDS).exists();
    if !there {
        eprintln!("NOT RUN: {} is missing (.ci/tools clusters), so this test has shown NOTHING.", Kafka::NEEDS);
    }
    there
}

impl Kind for Kafka {
    const NAME: &'static str = "kafka";
    const HOOKS: &'static str = include_str!("../../packaging/hooks/kafka.sh");
    const USER: &'static str = "kafka";
    const NEEDS: &'static str = "/var/cache/node-agent/kafka-4.2.1/kafka_2.13-4.2.1.jar";
    const IDENTITY: &'static [&'static str] = &["/mydata/kafka.identity", "/mydata/kafka/meta.properties"];
    const BROKEN: (&'static str, &'static str) = ("EXTRA_CONFIG", "num.io.threads=none");
    const COMPLAINT: &'static str = "Invalid value none for configuration num.io.threads";
    const COMMANDS: &'static [&'static str] = &["kafka-leader-election.sh ", "kafka-metadata-quorum.sh "];

    fn settings() -> Vec<(&'static str, String)> {
        vec![("JAVA_OPTIONS", "-Xmx256m".to_owned()), ("CLASS_PATH", format!("{JARS}/*"))]
    }

    fn prepare() {
        symlink(FETCHED, JARS).unwrap();
    }

    fn install(machine: &Machine) -> io::Result<()> {
        machine.shell(
            "echo 'kafka:x:9092:9092::/nonexistent:/usr/sbin/nologin' >> /etc/passwd; echo 'kafka:x:9092:' >> /etc/group",
        )?;
        java::settings(machine)?;
        java::copy(machine, Path::new(FETCHED), Path::new(JARS))
    }

    fn write(nodes: &[Ipv4Addr], record: &Record) {
        create_topic(TOPIC, 3);
        let mut producer = producer(&bootstrap(nodes));
        let id = Pid::from_raw(i32::try_from(producer.id()).unwrap());
        let output = BufReader::new(producer.stdout.take().unwrap());
        thread::scope(|scope| {
            scope.spawn(|| {
                while !record.ends() {
                    thread::sleep(Duration::from_millis(20));
                }
                kill(id, Signal::SIGTERM).unwrap();
            });
            for line in output.lines() {
                note(&line.unwrap(), record);
            }
        });
        producer.wait().unwrap();
    }

    fn read_all(node: Ipv4Addr) -> io::Result<BTreeSet<u64>> {
        let node = bootstrap(&[node]);
        let ends = tool("org.apache.kafka.tools.GetOffsetShell", &["--bootstrap-server", &node, "--topic", TOPIC])?;
        let ends: usize = ends.lines().filter_map(|line| line.rsplit(':').next()?.parse::<usize>().ok()).sum();
        let count = ends.to_string();
        let arguments = [
            "--bootstrap-server",
            &node,
            "--topic",
            TOPIC,
            "--from-beginning",
            "--max-messages",
            &count,
            "--timeout-ms",
            "60000",
        ];
        let read = tool("org.apache.kafka.tools.consumer.ConsoleConsumer", &arguments)?;
        Ok(read.lines().filter_map(|line| line.parse().ok()).collect())
    }

    fn type_command(command: &str) {
        // The jars come without Kafka's scripts.
        let class = if command.contains("leader-election") { "LeaderElectionCommand" } else { "MetadataQuorumCommand" };
        let (_, arguments) = command.split_once(' ').unwrap();
        shell(&format!("java -Xmx128m -cp '{JARS}/*' org.apache.kafka.tools.{class} {arguments}"));
    }
}

fn bootstrap(nodes: &[Ipv4Addr]) -> String {
    nodes.iter().map(|node| format!("{node}:{PORT}")).collect::<Vec<_>>().join(",")
}

fn java(class: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("java");
    command.args(["-Xmx128m", "-cp", &format!("{JARS}/*"), class]).args(arguments).stdin(Stdio::null());
    command
}

/// What one of Kafka's tools prints.
pub(crate) fn tool(class: &str, arguments: &[&str]) -> io::Result<String> {
    let Output { status, stdout, stderr } = java(class, arguments).output()?;
    let said = String::from_utf8_lossy(&stdout).into_owned();
    if status.success() { Ok(said) } else { Err(io::Error::other(said + &String::from_utf8_lossy(&stderr))) }
}

/// Creates a topic of three partitions on a cluster that is up.
pub(crate) fn create_topic(topic: &str, replicas: u8) {
    let nodes = bootstrap(&NODES.map(address));
    let arguments =
        ["--bootstrap-server", &nodes, "--create", "--if-not-exists", "--topic", topic, "--partitions", "3"];
    let replicas = replicas.to_string();
    tool("org.apache.kafka.tools.TopicCommand", &[&arguments[..], &["--replication-factor", &replicas]].concat())
        .unwrap();
}

/// Writes so much to a topic that a broker needs a second to look through it.
pub(crate) fn fill(topic: &str) {
    let nodes = format!("bootstrap.servers={}", bootstrap(&NODES.map(address)));
    let arguments = ["--topic", topic, "--num-records", "8000", "--record-size", "50000", "--throughput", "-1"];
    let settings = ["--command-property", &nodes, "acks=all"];
    tool("org.apache.kafka.tools.ProducerPerformance", &[&arguments[..], &settings].concat()).unwrap();
}

fn producer(nodes: &str) -> Child {
    let settings = Path::new("/tmp/producer.properties");
    fs::write(settings, PRODUCER).unwrap();
    let arguments =
        ["--bootstrap-server", nodes, "--topic", TOPIC, "--acks", "-1", "--command-config", settings.to_str().unwrap()];
    let mut command = java("org.apache.kafka.tools.VerifiableProducer", &arguments);
    command.args(["--throughput", &THROUGHPUT.to_string(), "--repeating-keys", &KEYS.to_string()]);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

/// Notes what the producer has printed: a line of JSON for each record.
fn note(line: &str, record: &Record) {
    let said: Value = serde_json::from_str(line).unwrap_or_default();
    let key = said["value"].as_str().and_then(|value| value.parse().ok());
    match (said["name"].as_str(), key, said["partition"].as_u64()) {
        (Some("producer_send_success"), Some(key), Some(partition)) => {
            record.ack(key, usize::try_from(partition).unwrap());
        }
        (Some("producer_send_error"), ..) => record.fail(line),
        _ => {}
    }
}
