//! Which proxy a request takes: one rule for the AWS clients, the downloads and `check`.
//!
//! `http_proxy` and `https_proxy` apply to requests of that scheme, `all_proxy` to both; `no_proxy` lists the exceptions.
//! Each may be in capitals; as with curl and the AWS CLI, lower case wins. `no_proxy` holds domains (`example.com`,
//! `.example.com` and `*.example.com` all mean the domain and its subdomains), addresses and networks (`10.0.0.0/8`), each
//! but a network with an optional port, or `*`. As in Go, requests to loopback and link-local addresses never take a proxy:
//! instance metadata and the credentials of containers are answered to this machine alone.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use reqwest::Url;

use crate::failure::{Code, Failure, with_sources};

/// The environment's proxies.
#[derive(Debug, Default)]
pub struct Proxies {
    http: Option<Result<Proxy, BadProxy>>,
    https: Option<Result<Proxy, BadProxy>>,
    exceptions: Vec<Exception>,
}

/// A proxy; shown without its user name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    variable: &'static str,
    /// With the user name and the password.
    pub(super) url: Url,
}

/// A variable whose value is not a usable proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} names no proxy: {why}")]
pub struct BadProxy {
    variable: &'static str,
    why: String,
}

/// Hosts that are reached directly.
#[derive(Debug)]
enum Exception {
    Everything,
    Network(IpAddr, u8),
    Address(IpAddr, Option<u16>),
    /// The domain and its subdomains.
    Domain(String, Option<u16>),
}

impl Proxies {
    /// Reads the environment.
    pub fn from_env() -> Self {
        // A value that is not UTF-8 fails to parse as a URL.
        Proxies::read(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// Reads the variables through `variable`.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&'static str]| {
            let mut set = names.iter().filter_map(|name| Some((*name, variable(name)?.trim().to_owned())));
            set.find(|(_, value)| !value.is_empty())
        };
        let proxy = |names| first(names).map(|(variable, value)| Proxy::parse(variable, &value));
        Proxies {
            http: proxy(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
            https: proxy(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            exceptions: first(&["no_proxy", "NO_PROXY"]).map(|(_, list)| exceptions(&list)).unwrap_or_default(),
        }
    }

    /// The proxy for a request to `url`; `None` for a direct connection.
    pub fn of(&self, url: &Url) -> Result<Option<&Proxy>, &BadProxy> {
        let proxy = match url.scheme() {
            "http" => &self.http,
            "https" => &self.https,
            _ => &None,
        };
        let Some(proxy) = proxy else { return Ok(None) };
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else { return Ok(None) };
        if self.is_direct(host, port) { Ok(None) } else { proxy.as_ref().map(Some) }
    }

    /// The proxies that can be used.
    pub(super) fn valid(&self) -> impl Iterator<Item = &Proxy> {
        [&self.http, &self.https].into_iter().flatten().flatten()
    }

    /// Whether no variable names a proxy.
    pub(super) fn is_empty(&self) -> bool {
        self.http.is_none() && self.https.is_none()
    }

    fn is_direct(&self, host: &str, port: u16) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        match address {
            Some(address) if is_local(address) => return true,
            None if host == "localhost" || host.ends_with(".localhost") => return true,
            _ => {}
        }
        self.exceptions.iter().any(|exception| exception.covers(&host, address, port))
    }
}

/// Whether the address is loopback or link-local, or one of Amazon's that only this instance reaches.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
        // fd00:ec2::/32: metadata, time and the credentials of pods.
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unicast_link_local() || address.segments()[..2] == [0xfd00, 0x0ec2]
        }
    }
}

fn exceptions(list: &str) -> Vec<Exception> {
    let entries = list.split(|c: char| c == ',' || c.is_whitespace());
    entries.filter(|entry| !entry.is_empty()).filter_map(Exception::parse).collect()
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
        if entry == "*" {
            return Some(Exception::Everything);
        }
        let bare = |text: &str| text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if let Some((address, bits)) = entry.split_once('/')
            && let (Ok(address), Ok(bits)) = (bare(address), bits.parse::<u8>())
            && bits <= if address.is_ipv4() { 32 } else { 128 }
        {
            return Some(Exception::Network(address, bits));
        }
        let (host, port) = match entry.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
            // Not in an IPv6 address without a port.
            Some((host, Ok(port))) if bare(entry).is_err() => (host, Some(port)),
            _ => (entry, None),
        };
        if let Ok(address) = bare(host) {
            return Some(Exception::Address(address.to_canonical(), port));
        }
        let domain = host.strip_prefix('*').unwrap_or(host).trim_matches('.').to_ascii_lowercase();
        (!domain.is_empty()).then_some(Exception::Domain(domain, port))
    }

    fn covers(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        match (self, address) {
            (Exception::Everything, _) => true,
            (Exception::Network(network, bits), Some(address)) => is_in(address, *network, *bits),
            (Exception::Address(same, of), Some(address)) => *same == address && of.is_none_or(|of| of == port),
            (Exception::Domain(domain, of), None) => {
                let below = host.strip_suffix(domain.as_str());
                below.is_some_and(|below| below.is_empty() || below.ends_with('.')) && of.is_none_or(|of| of == port)
            }
            _ => false,
        }
    }
}

/// Whether the first `bits` of both addresses are equal.
fn is_in(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (address, network, width) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => (address.to_bits().into(), network.to_bits().into(), 32),
        (IpAddr::V6(address), IpAddr::V6(network)) => (Ipv6Addr::to_bits(address), Ipv6Addr::to_bits(network), 128),
        _ => return false,
    };
    let differing: u128 = address ^ network;
    differing.checked_shr(width - u32::from(bits)).unwrap_or_default() == 0
}

impl Proxy {
    fn parse(variable: &'static str, value: &str) -> Result<Self, BadProxy> {
        let bad = |why: String| BadProxy { variable, why };
        let url = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
        // The value itself is not shown: it may hold a password.
        let url = Url::parse(&url).map_err(|error| bad(format!("its value is no URL ({error})")))?;
        match url.scheme() {
            "http" | "https" if url.path() != "/" || url.query().is_some() || url.fragment().is_some() => {
                Err(bad("its URL has something after the port".to_owned()))
            }
            "http" | "https" => Ok(Proxy { variable, url }),
            scheme => Err(bad(format!("{scheme}:// proxies are not supported"))),
        }
    }

    /// The proxy's host name or address.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }
}

/// As in `the proxy http://10.0.0.1:3128 (HTTPS_PROXY)`.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.url.port_or_known_default().unwrap_or_default();
        write!(f, "the proxy {}://{}:{port} ({})", self.url.scheme(), self.host(), self.variable)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl BadProxy {
    /// The failure of a request that needs this proxy.
    pub fn failure(&self) -> Failure {
        let BadProxy { variable, why } = self;
        Failure::new(Code::ProxyInvalid, format!("{variable} names no proxy: {why}"))
    }
}

/// A request that failed at or behind a proxy.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct ProxyError {
    text: String,
    refused: bool,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ProxyError {
    /// The proxy answered 407.
    pub(super) fn unauthorized(proxy: &Proxy) -> Self {
        let text = format!("{proxy} answers 407: the user name and the password are missing or not accepted");
        ProxyError { text, refused: true, source: None }
    }

    /// Tells where the request failed, by hyper's words: both HTTP clients hide the types.
    pub(super) fn new(proxy: &Proxy, host: &str, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let error = error.into();
        let all = with_sources(error.to_string(), error.source());
        if all.contains("proxy authorization required") {
            return ProxyError::unauthorized(proxy);
        }
        let text = if all.contains("failed to create underlying connection") {
            format!("{proxy} cannot be reached")
        } else if all.contains("tunnel error: unsuccessful") {
            format!("{proxy} does not connect to {host}")
        } else {
            format!("{host} through {proxy}")
        };
        ProxyError { text, refused: false, source: Some(error) }
    }

    /// The failure with the code or the remedy for a proxy.
    pub(super) fn refine(&self, failure: Failure) -> Failure {
        match failure.code {
            _ if self.refused => Failure::new(Code::ProxyRefused, failure.message),
            Code::ApiUnreachable => failure.remedy(
                "see that the proxy runs and lets this machine reach that host (curl -v -x PROXY https://HOST), or name the \
                 host in NO_PROXY if it is reached directly; then: node-agent retry (after a change of the environment: \
                 systemctl restart node-agent)",
            ),
            _ => failure,
        }
    }
}
