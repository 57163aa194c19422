//! The path to AWS: trust store, DNS, endpoints, clock, credentials.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use reqwest::Url;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::{Finding, LIMIT, ask};
use crate::aws::credentials::Origin;
use crate::aws::imds::Imds;
use crate::aws::proxy::Proxy;
use crate::aws::{Services, download, endpoint};
use crate::config::{Config, Contents, Script, Source};
use crate::failure::{Code, Failure};
use crate::time::rough;

/// AWS accepts requests up to 5 minutes off (EC2's error reference, `RequestExpired`); the SDK corrects from 4 on.
const CLOCK_LIMIT: Duration = Duration::from_mins(4);

/// Whether the calls of a service are worth trying, or why not.
pub(super) type Reachability = Result<(), String>;

/// Which services can be reached.
pub(super) struct Reachable {
    pub(super) ec2: Reachability,
    pub(super) autoscaling: Reachability,
    /// By bucket.
    pub(super) s3: BTreeMap<String, Reachability>,
}

/// One service and its address.
struct Endpoint {
    service: String,
    url: String,
    /// The host that this machine must resolve: the service's, or the proxy's.
    host: String,
    proxy: Option<Proxy>,
}

/// A service to reach.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Api<'a> {
    Ec2,
    AutoScaling,
    Bucket(&'a str),
}

/// Every source that the configuration names.
pub(super) fn sources(config: &Config) -> impl Iterator<Item = &Source> {
    let files = config.files.iter().filter_map(|file| match &file.contents {
        Contents::Source(source) => Some(source),
        Contents::Inline(_) => None,
    });
    let script = config.hooks.as_ref().and_then(|hooks| match &hooks.script {
        Script::Remote { source, .. } => Some(source),
        Script::Path(_) | Script::Inline(_) => None,
    });
    files.chain(script)
}

/// Checks everything that a signed call depends on.
pub(super) async fn check(services: &Services, imds: &Imds, config: Option<&Config>) -> (Vec<Finding>, Reachable) {
    let buckets: BTreeSet<&str> = config.into_iter().flat_map(sources).filter_map(bucket).collect();
    let mut apis = vec![Api::Ec2];
    apis.extend(config.and_then(|config| config.lifecycle.as_ref()).map(|_| Api::AutoScaling));
    apis.extend(buckets.iter().copied().map(Api::Bucket));
    let endpoints = join_all(apis.iter().map(|api| endpoint_of(services, *api))).await;

    let web: Vec<Url> = config
        .into_iter()
        .flat_map(sources)
        .filter_map(|source| if let Source::Https(url) = source { Url::parse(url).ok() } else { None })
        .collect();
    let mut findings = Vec::new();
    let secure = |endpoint: &Result<Endpoint, Failure>| {
        endpoint.as_ref().is_ok_and(|endpoint| endpoint.url.starts_with("https:"))
    };
    let is_asked = endpoints.iter().any(secure) || !web.is_empty();
    let trust = is_asked.then(|| download::https_client(&services.proxies));
    let trusted = trust.as_ref().is_none_or(Result::is_ok);
    findings.extend(trust.map(|trust| match trust {
        Ok(_) => Finding::ok("CA certificates", "found"),
        Err(failure) => Finding::failed("CA certificates", &failure).advise("install the package ca-certificates"),
    }));

    // A proxy resolves the host itself.
    let web = web.iter().filter_map(|url| match services.proxies.of(url) {
        Ok(Some(proxy)) => Some(proxy.host()),
        Ok(None) => url.host_str(),
        Err(_) => None,
    });
    let hosts = endpoints.iter().flatten().map(|endpoint| endpoint.host.as_str()).chain(web);
    let hosts: BTreeSet<&str> = hosts.filter(|host| !is_address(host)).collect();
    let names = join_all(hosts.iter().map(|host| resolve(host))).await;
    let unknown: BTreeSet<&str> =
        hosts.iter().zip(&names).filter(|(_, resolved)| resolved.is_err()).map(|(host, _)| *host).collect();
    findings.extend(hosts.iter().zip(&names).map(|(host, resolved)| name(host, resolved)));

    let reached = join_all(endpoints.iter().map(|endpoint| reach(endpoint, &unknown, trusted))).await;
    let (answers, reachable, seconds): (Vec<_>, Vec<Reachability>, Vec<_>) = reached.into_iter().collect();
    findings.extend(answers);
    // EC2 is the first.
    let ahead = seconds.first().copied().flatten();
    findings.push(clock(ahead));
    let (finding, signed) = credentials(services, imds, reachable.first().is_some_and(Result::is_ok), ahead).await;
    findings.push(finding);

    let reachability = |wanted: Api<'_>| {
        let found = apis.iter().position(|api| *api == wanted).and_then(|at| reachable.get(at).cloned());
        found.unwrap_or(Ok(())).and_then(|()| signed.clone())
    };
    let s3 = buckets.iter().map(|bucket| ((*bucket).to_owned(), reachability(Api::Bucket(bucket)))).collect();
    (findings, Reachable { ec2: reachability(Api::Ec2), autoscaling: reachability(Api::AutoScaling), s3 })
}

fn bucket(source: &Source) -> Option<&str> {
    if let Source::S3 { bucket, .. } = source { Some(bucket) } else { None }
}

async fn endpoint_of(services: &Services, api: Api<'_>) -> Result<Endpoint, Failure> {
    let (service, url) = match api {
        Api::Ec2 => ("EC2".to_owned(), services.endpoints.ec2().await?),
        Api::AutoScaling => ("Auto Scaling".to_owned(), services.endpoints.autoscaling().await?),
        Api::Bucket(bucket) => (format!("S3 bucket {bucket}"), services.endpoints.bucket(bucket).await?),
    };
    let parsed = Url::parse(&url).ok();
    let proxy = match parsed.as_ref().map(|url| services.proxies.of(url)) {
        Some(Err(bad)) => return Err(bad.failure()),
        Some(Ok(proxy)) => proxy.cloned(),
        None => None,
    };
    let host = match &proxy {
        Some(proxy) => proxy.host().to_owned(),
        None => parsed.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default(),
    };
    Ok(Endpoint { service, url, host, proxy })
}

fn is_address(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

/// The addresses of a host.
async fn resolve(host: &str) -> Result<Vec<IpAddr>, String> {
    match timeout(LIMIT, lookup_host((host, 443))).await {
        Ok(Ok(addresses)) => Ok(addresses.map(|address| address.ip()).collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
    }
}

fn name(host: &str, resolved: &Result<Vec<IpAddr>, String>) -> Finding {
    let name = format!("DNS {host}");
    match resolved {
        Ok(addresses) => {
            let addresses: BTreeSet<_> = addresses.iter().map(IpAddr::to_string).collect();
            Finding::ok(name, addresses.into_iter().collect::<Vec<_>>().join(", "))
        }
        Err(error) => Finding::attention(
            name,
            format!("does not resolve: {error}"),
            "check /etc/resolv.conf and the VPC's DNS settings (enableDnsSupport, DHCP options)",
        ),
    }
}

/// Asks a service for any answer. Returns the finding, whether its calls are worth trying, and how many seconds its clock is
/// ahead.
async fn reach(
    endpoint: &Result<Endpoint, Failure>,
    unknown: &BTreeSet<&str>,
    trusted: bool,
) -> (Finding, Reachability, Option<i64>) {
    let Endpoint { service, url, host, proxy } = match endpoint {
        Ok(endpoint) => endpoint,
        Err(failure) => return (Finding::failed("endpoint", failure), Err(failure.to_string()), None),
    };
    let skipped = |why: &str| (Finding::unknown(service, format!("not asked: {why}")), Err(why.to_owned()), None);
    if unknown.contains(host.as_str()) {
        return skipped(&format!("{host} does not resolve"));
    }
    if !trusted && url.starts_with("https:") {
        return skipped("there are no CA certificates");
    }
    let by = proxy.as_ref().map(|proxy| format!(" through {proxy}")).unwrap_or_default();
    match ask(async || endpoint::ask(url, proxy.as_ref(), LIMIT).await).await {
        Ok(answer) => (Finding::ok(service, format!("{url} answers{by}")), Ok(()), answer.ahead_seconds),
        Err(failure) => (Finding::failed(service, &failure), Err(format!("{service} does not answer")), None),
    }
}

fn clock(ahead_seconds: Option<i64>) -> Finding {
    let Some(ahead) = ahead_seconds else {
        return Finding::unknown("clock", "not compared: EC2 has returned no time");
    };
    let off = rough(Duration::from_secs(ahead.unsigned_abs()));
    if is_off(ahead) {
        let which = if ahead > 0 { "behind" } else { "ahead of" };
        Finding::attention(
            "clock",
            format!("this machine's clock is {off} {which} EC2's; AWS refuses requests that are 5 minutes off"),
            "synchronize it by chrony or systemd-timesyncd, from the Amazon Time Sync Service at 169.254.169.123",
        )
    } else if ahead.unsigned_abs() <= 1 {
        Finding::ok("clock", "the same as EC2's")
    } else {
        Finding::ok("clock", format!("{off} off EC2's"))
    }
}

fn is_off(ahead: i64) -> bool {
    ahead.unsigned_abs() > CLOCK_LIMIT.as_secs()
}

/// Whether credentials exist, and whether EC2 accepts them.
async fn credentials(services: &Services, imds: &Imds, ec2: bool, ahead: Option<i64>) -> (Finding, Reachability) {
    let name = "credentials";
    let none = || Err("there are no credentials".to_owned());
    let found = match ask(async || services.credentials.find().await).await {
        Ok(found) => found,
        Err(failure) => {
            let finding = Finding::failed(name, &failure);
            return match ask(async || imds.role().await).await {
                Ok(None) => {
                    let seen = "none: the instance has no instance profile";
                    let remedy = "give the launch template an instance profile with the node's role";
                    (Finding::attention(name, seen, remedy), none())
                }
                _ => (finding, none()),
            };
        }
    };
    let whose = match found.origin {
        Origin::InstanceProfile => match imds.role().await {
            Ok(Some(role)) => format!("of the role {role}, from the instance profile"),
            _ => "from the instance profile".to_owned(),
        },
        Origin::Environment => "from the environment".to_owned(),
        Origin::Other => "from the AWS configuration files or a container's endpoint".to_owned(),
    };
    // By the service's clock.
    let shift = Duration::from_secs(ahead.unwrap_or_default().unsigned_abs());
    let now = SystemTime::now();
    let now = if ahead.is_some_and(|ahead| ahead < 0) { now - shift } else { now + shift };
    let left = found.expires.map(|expires| expires.duration_since(now));
    if let Some(Err(_)) = left {
        let remedy = "check the instance profile and its role's trust policy; to remove expired variables: unset \
                      AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN";
        let finding = Finding::attention(name, format!("{whose}, expired"), remedy);
        return (finding, Err("the credentials have expired".to_owned()));
    }
    let left = left.and_then(Result::ok).map(|left| format!(", for {} more", rough(left))).unwrap_or_default();
    let accepted = if ec2 { ask(async || services.ec2.try_describe_volumes().await).await } else { Ok(()) };
    match accepted {
        Err(failure) if failure.code == Code::Credentials => {
            let reachability = Err("the credentials are not accepted".to_owned());
            if ahead.is_some_and(is_off) {
                return (
                    Finding::unknown(name, format!("{whose}{left}; not accepted while the clock is wrong")),
                    reachability,
                );
            }
            let finding = Finding::failed(name, &failure);
            (finding.advise("check the instance profile and its role's trust policy"), reachability)
        }
        _ => (Finding::ok(name, format!("{whose}{left}")), Ok(())),
    }
}
