//! A subnet whose only way out is a proxy.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use node_agent::aws::proxy::Proxies;
use support::{HOOKS, Instance, World, config_for, config_with};

/// A proxy on loopback that knows where a few names lead, and notes what it is asked for.
struct Proxy {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<SeenRequest>>>,
}

/// One request.
#[derive(Clone, Debug)]
struct SeenRequest {
    /// `CONNECT host:443` or `POST http://host/`.
    line: String,
    authorization: Option<String>,
}

/// How the proxy answers a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Leads,
    Refuses(&'static str),
}

impl Proxy {
    /// Names by their end.
    fn new(behaviour: Behaviour, names: &[(&'static str, SocketAddr)]) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let names: Vec<_> = names.to_vec();
        let notes = Arc::clone(&seen);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (names, notes) = (names.clone(), Arc::clone(&notes));
                // A client that gives up does not stop the proxy.
                thread::spawn(move || drop(serve(client, behaviour, &names, &notes)));
            }
        });
        Proxy { address, seen }
    }

    fn seen(&self) -> Vec<SeenRequest> {
        self.seen.lock().unwrap().clone()
    }

    fn saw(&self, what: &str) -> bool {
        self.seen().iter().any(|seen| seen.line.contains(what))
    }
}

fn serve(
    mut client: TcpStream,
    behaviour: Behaviour,
    names: &[(&'static str, SocketAddr)],
    notes: &Mutex<Vec<SeenRequest>>,
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.lines().next().unwrap().split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let header = |name: &str| {
        let found =
            head.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_owned())
    };
    notes
        .lock()
        .unwrap()
        .push(SeenRequest { line: format!("{method} {target}"), authorization: header("proxy-authorization") });
    if let Behaviour::Refuses(status) = behaviour {
        return write!(client, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let bare = target.strip_prefix("http://").unwrap_or(target);
    let host = bare.split(['/', ':']).next().unwrap();
    let Some((_, upstream)) = names.iter().find(|(end, _)| host.ends_with(end)) else {
        return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let mut upstream = TcpStream::connect(upstream)?;
    if method == "CONNECT" {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    } else {
        // One request a connection, so that every one is seen.
        let path = bare.find('/').map_or("/", |at| &bare[at..]);
        let rest = head.split_once("\r\n").unwrap().1;
        write!(upstream, "{method} {path} HTTP/1.1\r\nConnection: close\r\n{rest}")?;
    }
    let (mut from, mut to) = (client.try_clone()?, upstream.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    io::copy(&mut upstream, &mut client)?;
    client.shutdown(Shutdown::Both)
}

/// A world with a script, a file and a volume, all behind names that this machine cannot look up.
struct BehindProxy {
    world: World,
    node: Instance,
}

impl BehindProxy {
    fn new() -> BehindProxy {
        let world = World::new();
        let volume = world.volume(1);
        world.sim.put_object("config", "file", "by S3");
        world.sim.put_page("/hooks.sh", HOOKS);
        let node = world.launch();
        let text = config_for(&volume).replace("contents = \"broker.id=00\"", "source = \"s3://config/file\"").replace(
            "script = \"/usr/local/lib/node/hooks.sh\"",
            "script_source = \"https://files.sim.example/hooks.sh\"",
        );
        node.configure(text + "\n[timeouts]\naws = \"6s\"\ndownloads = \"6s\"\n");
        BehindProxy { world, node }
    }

    fn proxy(&self, behaviour: Behaviour) -> Proxy {
        let page = self.world.sim.put_page("/", "");
        let port = page.trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
        let plain = self.world.sim.api_url();
        Proxy::new(
            behaviour,
            &[
                ("files.sim.example", SocketAddr::from(([127, 0, 0, 1], port))),
                ("s3.sim.example", self.world.sim.api_https_address()),
                ("plain.example", plain.trim_start_matches("http://").parse().unwrap()),
            ],
        )
    }

    /// The agent, with metadata at a name that only this machine knows.
    fn agent(&self, arguments: &[&str], endpoint: &str) -> Command {
        let imds = self.world.sim.imds_url(&self.node.id).replace("127.0.0.1", "imds.example");
        self.node.write("/etc/hosts", "127.0.0.1 imds.example\n");
        let mut command = self.node.agent(arguments);
        command.env("AWS_ENDPOINT_URL", endpoint).env("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds);
        command
    }
}

const HTTPS: &str = "https://s3.sim.example";

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn a_node_comes_up_where_only_a_proxy_leads_to_aws() {
    let behind = BehindProxy::new();
    let proxy = behind.proxy(Behaviour::Leads);

    let output = behind
        .agent(&["run", "--once"], HTTPS)
        .env("HTTPS_PROXY", format!("http://user:p%40ss@{}", proxy.address))
        .output()
        .unwrap();

    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(behind.world.completions(), ["CONTINUE"]);
    assert_eq!(behind.node.read("/etc/kafka/server.properties"), "by S3");
    for host in ["CONNECT s3.sim.example:443", "CONNECT config.s3.sim.example:443", "CONNECT files.sim.example:443"] {
        assert!(proxy.saw(host), "{host} {:?}", proxy.seen());
    }
    assert!(!proxy.saw("imds"), "{:?}", proxy.seen());
    // user:p@ss
    let wanted = Some("Basic dXNlcjpwQHNz".to_owned());
    assert!(proxy.seen().iter().all(|seen| seen.authorization == wanted), "{:?}", proxy.seen());
    assert!(!said(&output).contains("p%40ss") && !said(&output).contains("p@ss"), "{}", said(&output));
}

#[test]
fn a_service_by_plain_http_is_asked_through_the_other_variables_proxy() {
    let behind = BehindProxy::new();
    let (plain, secure) = (behind.proxy(Behaviour::Leads), behind.proxy(Behaviour::Leads));

    let output = behind
        .agent(&["run", "--once"], "http://s3.plain.example")
        .env("http_proxy", plain.address.to_string())
        .env("all_proxy", format!("http://{}", secure.address))
        .output()
        .unwrap();

    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(plain.saw("POST http://s3.plain.example/") && !plain.saw("imds"), "{:?}", plain.seen());
    let lines: Vec<String> = secure.seen().into_iter().map(|seen| seen.line).collect();
    assert_eq!(lines, ["CONNECT files.sim.example:443"]);
}

#[test]
fn no_proxy_and_this_machine_itself_are_reached_directly() {
    let behind = BehindProxy::new();
    let proxy = behind.proxy(Behaviour::Refuses("403 Forbidden"));
    let port = behind.world.sim.api_https_address().port();
    let page = behind.world.sim.put_page("/hooks.sh", HOOKS);
    let text = behind.node.read("/etc/node-agent/config.toml");
    behind.node.configure(text.replace("https://files.sim.example/hooks.sh", &page));
    let url = format!("https://s3.sim.example:{port}");
    let mut agent = behind.agent(&["run", "--once"], &url);
    behind.node.write("/etc/hosts", "127.0.0.1 imds.example s3.sim.example config.s3.sim.example\n");

    let output = agent
        .env("https_proxy", format!("http://{}", proxy.address))
        .env("NO_PROXY", "example.com, .sim.example")
        .output()
        .unwrap();

    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
}

#[test]
fn a_proxy_that_fails_is_named_with_its_variable() {
    let behind = BehindProxy::new();
    let (asks, refuses) = (
        behind.proxy(Behaviour::Refuses("407 Proxy Authentication Required")),
        behind.proxy(Behaviour::Refuses("403 Forbidden")),
    );
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let cases = [
        (
            format!("http://u:SECRET@{closed}"),
            "api-unreachable",
            format!("the proxy http://{closed} (HTTPS_PROXY) cannot be reached"),
        ),
        (
            format!("http://u:SECRET@{}", asks.address),
            "proxy-refused",
            format!("the proxy http://{} (HTTPS_PROXY) answers 407", asks.address),
        ),
        (
            format!("http://u:SECRET@{}", refuses.address),
            "api-unreachable",
            format!("the proxy http://{} (HTTPS_PROXY) does not connect to s3.sim.example", refuses.address),
        ),
        ("http://u:SECRET@host:port".to_owned(), "proxy-invalid", "HTTPS_PROXY names no proxy".to_owned()),
        ("socks5://u:SECRET@host:1080".to_owned(), "proxy-invalid", "socks5:// proxies are not supported".to_owned()),
    ];
    for (proxy, code, text) in cases {
        let began = Instant::now();
        let output = behind.agent(&["run", "--once"], HTTPS).env("HTTPS_PROXY", &proxy).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for text in [&format!("code={code}"), &text] {
            assert!(said.contains(text), "{text:?} is missing in\n{said}");
        }
        assert!(!said.contains("SECRET"), "{said}");
        if code != "api-unreachable" {
            assert!(began.elapsed() < Duration::from_secs(5), "{proxy} {:?}", began.elapsed());
        }
    }
}

#[test]
fn a_download_through_a_proxy_that_fails_names_it_too() {
    let world = World::new();
    let node = world.launch();
    let behind = Proxy::new(Behaviour::Refuses("407 Proxy Authentication Required"), &[]);
    let text = config_with("", &[], "[timeouts]\ndownloads = \"1s\"")
        .replace("script = \"/usr/local/lib/node/hooks.sh\"", "script_source = \"https://files.sim.example/hooks.sh\"");
    node.configure(text);
    for (proxy, code, text) in [
        (format!("http://u:SECRET@{}", behind.address), "proxy-refused", "answers 407"),
        ("nonsense:port".to_owned(), "proxy-invalid", "https_proxy names no proxy"),
    ] {
        let output = node.agent(&["run", "--once"]).env("https_proxy", proxy).output().unwrap();
        let said = said(&output);
        for text in [&format!("step=files code={code}"), text] {
            assert!(said.contains(text), "{text:?} is missing in\n{said}");
        }
        assert!(!said.contains("SECRET"), "{said}");
    }
}

#[test]
fn check_names_the_proxy() {
    let behind = BehindProxy::new();
    let proxy = behind.proxy(Behaviour::Leads);
    let variable = |name: &str| {
        let url = format!("http://user:SECRET@{}", proxy.address);
        said(&behind.agent(&["check"], HTTPS).env(name, url).output().unwrap())
    };
    let told = variable("HTTPS_PROXY");
    let text = format!("https://s3.sim.example/ answers through the proxy http://{} (HTTPS_PROXY)", proxy.address);
    assert!(told.replace("example answers", "example/ answers").contains(&text), "{told}");
    assert!(!told.contains("SECRET") && !told.contains("does not resolve"), "{told}");
    assert!(told.contains("IAM ec2:DescribeVolumes  allowed") || told.contains("allowed"), "{told}");
    let bad = said(&behind.agent(&["check"], HTTPS).env("HTTPS_PROXY", "ftp://proxy").output().unwrap());
    assert!(bad.contains("HTTPS_PROXY names no proxy: ftp:// proxies are not supported"), "{bad}");
}

/// Lists and hosts, and whether the host is reached directly.
const EXCEPTIONS: &[(&str, &str, bool)] = &[
    ("", "example.com", false),
    ("example.com", "example.com", true),
    ("example.com", "EXAMPLE.com", true),
    ("EXAMPLE.com", "www.example.com", true),
    ("example.com", "notexample.com", false),
    ("example.com", "example.com.evil.org", false),
    (".example.com", "www.example.com", true),
    (".example.com", "example.com", true),
    (".example.com", "notexample.com", false),
    ("a.org, example.com ,b.org", "deep.www.example.com", true),
    ("*", "example.com", true),
    ("*", "10.1.2.3", true),
    ("10.1.2.3", "10.1.2.3", true),
    ("10.1.2.3", "10.1.2.30", false),
    ("10.1.2.0/24", "10.1.2.3", true),
    ("10.1.2.0/24", "10.1.3.3", false),
    ("10.1.2.99/31", "10.1.2.98", true),
    ("10.0.0.0/8", "example.com", false),
    ("10.0.0.0/33", "10.1.2.3", false),
    ("com", "example.com", true),
];

#[test]
fn no_proxy_means_what_curl_takes_it_for() {
    for (list, host, direct) in EXCEPTIONS {
        let proxy = Proxy::new(Behaviour::Refuses("403 Forbidden"), &[]);
        let output = Command::new("curl")
            .args(["--silent", "--output", "/dev/null", "--max-time", "5", "--resolve", &format!("{host}:9:127.0.0.1")])
            // Addresses are not looked up: to this machine's loopback all the same.
            .args(["--connect-to", &format!("{host}:9:127.0.0.1:9"), &format!("http://{host}:9/")])
            .env_clear()
            .env("http_proxy", format!("http://{}", proxy.address))
            .env("no_proxy", list)
            .output()
            .unwrap();
        assert!(output.status.code().is_some());
        assert_eq!(proxy.seen().is_empty(), *direct, "curl: {list:?} {host:?}");
        assert_eq!(is_direct(list, &format!("http://{host}:9/")), *direct, "{list:?} {host:?}");
    }
}

#[test]
fn no_proxy_means_what_the_aws_cli_takes_it_for() {
    // Python's rule, which the CLI uses, knows no networks.
    let script = "import sys, urllib.request as u\n\
        for line in sys.stdin.read().splitlines():\n\
        \x20   no, host = line.split('\\t')\n\
        \x20   print(int(bool(u.proxy_bypass_environment(host, {'no': no}))))";
    let python = [
        ("example.com:8080", "example.com:8080", true),
        ("example.com:8080", "example.com:443", false),
        ("10.1.2.3:8080", "10.1.2.3:8080", true),
        ("10.1.2.3:8080", "10.1.2.3:443", false),
    ];
    let plain = EXCEPTIONS.iter().filter(|(list, _, _)| !list.contains('/'));
    let cases: Vec<_> = plain.copied().chain(python).collect();
    let input: String = cases.iter().map(|(list, host, _)| format!("{list}\t{host}\n")).collect();
    let mut child = Command::new("python3")
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    assert_eq!(answers.lines().count(), cases.len());
    for ((list, host, direct), answer) in cases.iter().zip(answers.lines()) {
        assert_eq!(answer == "1", *direct, "python: {list:?} {host:?}");
        assert_eq!(is_direct(list, &format!("https://{host}/")), *direct, "{list:?} {host:?}");
    }
}

#[test]
fn what_answers_to_this_machine_alone_is_never_asked_for_through_a_proxy() {
    for host in [
        "127.0.0.1",
        "127.8.8.8:8080",
        "localhost",
        "bucket.localhost:4566",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "[fd00:ec2::254]",
        "[fd00:ec2::23]",
        "[fe80::1]",
    ] {
        assert!(is_direct("", &format!("http://{host}/")), "{host}");
    }
    for host in ["10.0.0.1", "localhost.example.com", "[fd00:ec3::254]", "ec2.eu-west-1.amazonaws.com"] {
        assert!(!is_direct("", &format!("http://{host}/")), "{host}");
    }
    assert!(is_direct("[fd01::1]:443,fd02::/16", "https://[fd01::1]/"));
    assert!(is_direct("[fd01::1]:443,fd02::/16", "https://[fd02:3::1]/"));
    assert!(!is_direct("[fd01::1]:443,fd02::/16", "http://[fd01::1]/"));
    // As Go has them: curl 7.88 knows neither.
    assert!(is_direct("*.example.com", "http://www.example.com/"));
    assert!(is_direct("0.0.0.0/0", "http://10.1.2.3/"));
}

#[test]
fn each_scheme_has_its_variable_and_small_letters_win() {
    type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>, Option<&'a str>);
    let cases: &[Case<'_>] = &[
        (&[], None, None),
        (&[("HTTP_PROXY", "a:1")], Some("the proxy http://a:1 (HTTP_PROXY)"), None),
        (&[("https_proxy", "http://a")], None, Some("the proxy http://a:80 (https_proxy)")),
        (
            &[("https_proxy", "http://u:p@small:1"), ("HTTPS_PROXY", "http://large:1"), ("ALL_PROXY", "https://all")],
            Some("the proxy https://all:443 (ALL_PROXY)"),
            Some("the proxy http://small:1 (https_proxy)"),
        ),
        (
            &[("https_proxy", " "), ("HTTPS_PROXY", "http://large:1")],
            None,
            Some("the proxy http://large:1 (HTTPS_PROXY)"),
        ),
    ];
    for (variables, plain, secure) in cases {
        let of = |url: &str| {
            let proxies = proxies(variables);
            let proxy = proxies.of(&url.parse().unwrap()).unwrap().map(ToString::to_string);
            assert!(!format!("{proxies:?}").contains("u:p"));
            proxy
        };
        assert_eq!(of("http://example.com/").as_deref(), *plain, "{variables:?}");
        assert_eq!(of("https://example.com/").as_deref(), *secure, "{variables:?}");
    }
    for value in ["http://", "http://a:99999", "socks5://a", "http://a/path", "http://u:p/w@host:1"] {
        let proxies = proxies(&[("HTTPS_PROXY", value)]);
        let bad = proxies.of(&"https://example.com".parse().unwrap()).unwrap_err().to_string();
        assert!(bad.starts_with("HTTPS_PROXY names no proxy: ") && !bad.contains("p/w"), "{value} {bad}");
    }
}

fn proxies(variables: &[(&str, &str)]) -> Proxies {
    let variables: BTreeMap<_, _> = variables.iter().copied().collect();
    Proxies::read(|name| variables.get(name).map(|value| (*value).to_owned()))
}

fn is_direct(list: &str, url: &str) -> bool {
    let variables = [("all_proxy", "http://proxy:3128"), ("no_proxy", list)];
    proxies(&variables).of(&url.parse().unwrap()).unwrap().is_none()
}
