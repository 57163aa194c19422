//! etcd, from Debian's packages. The client speaks etcd's JSON over HTTP.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ec2_sim::machine::Machine;
use serde_json::{Value, json};

use super::clusters::kind::Kind;
use super::clusters::region::STUCK;
use super::clusters::writer::{PATIENCE, Record, Session, write_one_by_one};

/// The port for clients.
pub(crate) const PORT: u16 = 2379;

pub(crate) struct Etcd;

impl Kind for Etcd {
    const NAME: &'static str = "etcd";
    const HOOKS: &'static str = include_str!("../../packaging/hooks/etcd.sh");
    const USER: &'static str = "etcd";
    const NEEDS: &'static str = "/usr/bin/etcd";
    const IDENTITY: &'static [&'static str] = &["/mydata/etcd.identity"];
    const BROKEN: (&'static str, &'static str) = ("EXTRA_CONFIG", "election-timeout: 10");
    const COMMANDS: &'static [&'static str] = &["etcdctl --endpoints"];
    const COMPLAINT: &'static str = "--election-timeout[10ms] should be at least as 5 times as --heartbeat-interval";

    fn install(machine: &Machine) -> io::Result<()> {
        machine
            .shell(
                "echo 'etcd:x:2379:2379::/nonexistent:/usr/sbin/nologin' >> /etc/passwd; echo 'etcd:x:2379:' >> /etc/group",
            )
            .map(drop)
    }

    fn write(nodes: &[Ipv4Addr], record: &Record) {
        write_one_by_one(nodes, record, Connection::open);
    }

    fn read_all(node: Ipv4Addr) -> io::Result<BTreeSet<u64>> {
        Connection::open(node)?.read_all()
    }

    fn type_command(command: &str) {
        let began = Instant::now();
        loop {
            let output = Command::new("bash").args(["-ec", command]).stdin(Stdio::null()).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                return;
            }
            assert!(said.contains("unhealthy cluster") && began.elapsed() < STUCK, "{command}: {said}");
            // As the hook's message says.
            thread::sleep(Duration::from_secs(1));
        }
    }
}

struct Connection {
    stream: TcpStream,
}

impl Connection {
    fn open(address: Ipv4Addr) -> io::Result<Connection> {
        Ok(Connection { stream: TcpStream::connect_timeout(&SocketAddr::from((address, PORT)), PATIENCE)? })
    }

    fn call(&mut self, path: &str, body: &Value) -> io::Result<Value> {
        self.stream.set_read_timeout(Some(PATIENCE))?;
        self.stream.set_nodelay(true)?;
        let body = body.to_string();
        let request = format!("POST {path} HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.stream.write_all(request.as_bytes())?;
        let text = read_answer(&mut self.stream)?;
        serde_json::from_str(&text).map_err(io::Error::other)
    }
}

/// The body of an answer of status 200.
fn read_answer(stream: &mut TcpStream) -> io::Result<String> {
    let mut received = Vec::new();
    let mut part = [0; 65536];
    loop {
        let read = stream.read(&mut part)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&received);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        if !head.starts_with("HTTP/1.1 200") {
            return Err(io::Error::other(text.into_owned()));
        }
        let head = head.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map(str::parse::<usize>);
        match length {
            Some(Ok(length)) if body.len() >= length => return Ok(body.to_owned()),
            None if body.ends_with("\r\n0\r\n\r\n") => return Ok(joined(body)),
            _ => {}
        }
    }
}

/// The chunks of a body.
fn joined(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or_default();
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

impl Session for Connection {
    fn write(&mut self, key: u64) -> io::Result<()> {
        let key = STANDARD.encode(format!("w{key:09}"));
        self.call("/v3/kv/put", &json!({ "key": key, "value": key })).map(drop)
    }
}

impl Connection {
    fn read_all(&mut self) -> io::Result<BTreeSet<u64>> {
        let mut all = BTreeSet::new();
        let mut from = "w".to_owned();
        // Each page is a linearizable read.
        loop {
            let request = json!({ "key": STANDARD.encode(&from), "range_end": STANDARD.encode("x"), "limit": 1000 });
            let answer = self.call("/v3/kv/range", &request)?;
            for pair in answer["kvs"].as_array().into_iter().flatten() {
                let decoded = STANDARD.decode(pair["key"].as_str().unwrap_or_default()).map_err(io::Error::other)?;
                from = String::from_utf8(decoded).map_err(io::Error::other)?;
                if pair["value"] == pair["key"] {
                    all.extend(from[1..].parse::<u64>());
                }
            }
            if answer["more"] != json!(true) {
                return Ok(all);
            }
            from.push('\0');
        }
    }
}
