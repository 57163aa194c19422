//! A world for a test, and raw clients for the wire protocols.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

pub(crate) mod fleet;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ec2_sim::{
    Credentials, GroupSpec, HookSpec, InstanceId, InstanceSpec, Latencies, Sim, SimConfig, Transition, VolumeId,
    VolumeSpec,
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use time::OffsetDateTime;
use time::macros::format_description;

/// Long enough for a loaded machine; a test that waits as long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const GROUP: &str = "kafka-00";
pub(crate) const HOOK: &str = "launch-hook";

/// One volume, one group with a launching hook, one instance in it.
pub(crate) struct World {
    pub(crate) sim: Sim,
    pub(crate) dir: TempDir,
    pub(crate) volume: VolumeId,
    pub(crate) instance: InstanceId,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_| {}, |_| {})
    }

    pub(crate) fn with(config: impl FnOnce(&mut SimConfig), group: impl FnOnce(&mut GroupSpec)) -> Self {
        let dir = TempDir::new().unwrap();
        let mut settings = SimConfig { work_dir: dir.path().join("world"), latencies: quick(), ..SimConfig::default() };
        config(&mut settings);
        let sim = Sim::start_blocking(settings).unwrap();
        let volume = sim.create_volume(VolumeSpec { size_bytes: 64 << 20, ..VolumeSpec::default() }).unwrap();
        let mut spec =
            GroupSpec { name: GROUP.to_owned(), hooks: vec![hook(Transition::Launching)], ..GroupSpec::default() };
        group(&mut spec);
        sim.create_group(spec).unwrap();
        let instance = sim
            .launch(InstanceSpec {
                group: Some(GROUP.to_owned()),
                by_id_dir: dir.path().join("by-id"),
                user_data: Some(b"hello".to_vec()),
                ..InstanceSpec::default()
            })
            .unwrap();
        Self { sim, dir, volume, instance }
    }

    /// Another instance in the same group.
    pub(crate) fn second_instance(&self) -> InstanceId {
        self.sim
            .launch(InstanceSpec {
                group: Some(GROUP.to_owned()),
                by_id_dir: self.dir.path().join("by-id-2"),
                ..InstanceSpec::default()
            })
            .unwrap()
    }

    pub(crate) fn wait_lifecycle(&self, instance: &InstanceId, state: &str) {
        block_on(self.sim.wait_for_lifecycle(instance, state, PATIENCE))
            .unwrap_or_else(|| panic!("never {state}: {:?}", self.sim.lifecycle_state(instance)));
    }

    /// A value of the instance's metadata; none where the service answers 404.
    pub(crate) fn metadata(&self, path: &str) -> Option<String> {
        let url = self.sim.imds_url(&self.instance);
        let ttl = [("x-aws-ec2-metadata-token-ttl-seconds", "60")];
        let token = request("PUT", &url, "/latest/api/token", &ttl, b"", PATIENCE).unwrap().text();
        let header = [("x-aws-ec2-metadata-token", token.as_str())];
        let reply = request("GET", &url, &format!("/latest/meta-data/{path}"), &header, b"", PATIENCE).unwrap();
        (reply.status == 200).then(|| reply.text())
    }

    pub(crate) fn client(&self) -> Client {
        Client { url: self.sim.api_url(), credentials: self.sim.static_credentials(), stamp: None }
    }
}

pub(crate) fn quick() -> Latencies {
    let step = Duration::from_millis(30);
    Latencies {
        attach: step,
        device: step * 2,
        detach: step,
        shutting_down: step * 3,
        pending_to_wait: step,
        proceed_to_in_service: step,
        ..Latencies::none()
    }
}

pub(crate) fn hook(transition: Transition) -> HookSpec {
    let name = match transition {
        Transition::Launching => HOOK,
        Transition::Terminating => "terminate-hook",
    };
    HookSpec { name: name.to_owned(), transition, ..HookSpec::default() }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The text of the first element of that name.
    pub(crate) fn element(&self, name: &str) -> Option<String> {
        let text = self.text();
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0.to_owned())
    }
}

/// One request on a connection of its own. An answer shorter than announced is `UnexpectedEof`.
pub(crate) fn request(
    method: &str,
    url: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    timeout: Duration,
) -> io::Result<Reply> {
    let host = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(timeout))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.extend(["Host: ", host, "\r\n"]);
    }
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;

    let mut parsed = [httparse::EMPTY_HEADER; 50];
    let mut response = httparse::Response::new(&mut parsed);
    let start = match response.parse(&answer).map_err(io::Error::other)? {
        httparse::Status::Complete(start) => start,
        httparse::Status::Partial => return Err(io::ErrorKind::UnexpectedEof.into()),
    };
    let headers: Vec<(String, String)> = response
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    let reply = Reply { status: response.code.unwrap(), headers, body: answer[start..].to_vec() };
    let announced: usize = reply.header("content-length").unwrap().parse().unwrap();
    if method != "HEAD" && reply.body.len() < announced {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(reply)
}

/// A client that signs by itself and retries nothing.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) url: String,
    pub(crate) credentials: Credentials,
    /// The time it signs with; now where absent.
    pub(crate) stamp: Option<OffsetDateTime>,
}

impl Client {
    pub(crate) fn call(&self, service: &str, action: &str, parameters: &[(&str, &str)]) -> io::Result<Reply> {
        self.call_within(service, action, parameters, PATIENCE)
    }

    pub(crate) fn call_within(
        &self,
        service: &str,
        action: &str,
        parameters: &[(&str, &str)],
        timeout: Duration,
    ) -> io::Result<Reply> {
        let version = if service == "ec2" { "2016-11-15" } else { "2011-01-01" };
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("Action", action)
            .append_pair("Version", version)
            .extend_pairs(parameters)
            .finish();
        self.send(service, "POST", "/", &[], body.as_bytes(), timeout)
    }

    pub(crate) fn get_object(&self, path: &str, headers: &[(&str, &str)]) -> io::Result<Reply> {
        self.send("s3", "GET", path, headers, b"", PATIENCE)
    }

    pub(crate) fn send(
        &self,
        service: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        timeout: Duration,
    ) -> io::Result<Reply> {
        let at = self.stamp.unwrap_or_else(OffsetDateTime::now_utc);
        let stamp = at.format(format_description!("[year][month][day]T[hour][minute][second]Z")).unwrap();
        let scope = format!("{}/eu-west-1/{service}/aws4_request", &stamp[..8]);
        let host = headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("host"))
            .map_or(self.url.strip_prefix("http://").unwrap(), |(_, value)| value);
        let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
        let mut signed = vec![("host", host), ("x-amz-date", stamp.as_str())];
        if let Some(token) = &self.credentials.session_token {
            signed.push(("x-amz-security-token", token));
        }
        let lines: String = signed.iter().map(|(name, value)| [name, ":", value, "\n"].concat()).collect();
        let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let canonical = format!("{method}\n{path}\n\n{lines}\n{names}\n{}", digest(body));
        let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", digest(canonical.as_bytes()));
        let mac = |key: &[u8], text: &str| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
            mac.update(text.as_bytes());
            mac.finalize().into_bytes().to_vec()
        };
        let first = format!("AWS4{}", self.credentials.secret_access_key).into_bytes();
        let key = scope.split('/').fold(first, |key, part| mac(&key, part));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={}",
            self.credentials.access_key_id,
            hex::encode(mac(&key, &to_sign))
        );
        let mut all: Vec<(&str, &str)> = headers.to_vec();
        all.extend(signed.into_iter().filter(|(name, _)| *name != "host"));
        all.push(("authorization", &authorization));
        request(method, &self.url, path, &all, body, timeout)
    }
}
