//! The instance metadata service, version 2, one for every instance.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::json;

use crate::clock::iso;
use crate::core::Core;
use crate::ec2::{ACCOUNT, instance_tags};
use crate::events::{WebCall, What};
use crate::ids::InstanceId;
use crate::lifecycle;
use crate::lock;
use crate::pages::{PlainWords, plain};
use crate::serve;
use crate::wire::{Outcome, Request, Response, Service};
use crate::world::{Instance, Kept, Member};

const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";
/// The longest a token may live, six hours (EC2 user guide).
const MAX_TTL: u64 = 21_600;
/// The versions served besides `latest`; all have the same content.
const VERSIONS: [&str; 6] = ["1.0", "2009-04-04", "2019-10-01", "2021-01-03", "2021-03-23", "2021-07-15"];

/// One instance's service.
pub(crate) struct Imds {
    core: Arc<Core>,
    instance: InstanceId,
    /// Token → when it was issued, and when it expires.
    tokens: Mutex<HashMap<String, (Instant, Instant)>>,
}

impl Imds {
    pub(crate) fn new(core: Arc<Core>, instance: InstanceId) -> Self {
        Self { core, instance, tokens: Mutex::default() }
    }

    fn respond(&self, request: &Request, path: &str) -> Response {
        let Some((instance, lifecycle_state)) = self.look() else {
            return not_found();
        };
        if !instance.spec.imds {
            return plain(403, "Forbidden");
        }
        match (request.method.as_str(), path) {
            ("PUT", "/latest/api/token") => self.issue_token(request),
            ("GET" | "HEAD", _) => {
                if let Err(refusal) = self.check_token(request, instance.tokens_since) {
                    return refusal;
                }
                let tree = self.tree(&instance, lifecycle_state.as_deref());
                let response = read(&tree, path);
                if request.method == "HEAD" { response.head_only() } else { response }
            }
            _ => plain(405, "Method Not Allowed"),
        }
    }

    fn look(&self) -> Option<(Instance, Option<String>)> {
        let world = self.core.world();
        let instance = world.instance(&self.instance).ok()?.clone();
        let now = Instant::now();
        let shown = |kept: &Kept<Member>| {
            let member = kept.history().find(|member| member.shown_from <= now)?;
            Some(member.state.clone())
        };
        let state = world.members.get(&self.instance).and_then(shown);
        Some((instance, state))
    }

    fn issue_token(&self, request: &Request) -> Response {
        // A token asked for through a proxy would leave the instance.
        if request.header("x-forwarded-for").is_some() {
            return plain(403, "Forbidden");
        }
        let ttl = request.header(TTL_HEADER).and_then(|ttl| ttl.parse().ok());
        let Some(ttl) = ttl.filter(|ttl| (1..=MAX_TTL).contains(ttl)) else {
            return plain(400, "Bad Request");
        };
        let token = URL_SAFE.encode((0..42).map(|_| fastrand::u8(..)).collect::<Vec<_>>());
        let now = Instant::now();
        let mut tokens = lock(&self.tokens);
        tokens.retain(|_, (_, expires)| *expires > now);
        tokens.insert(token.clone(), (now, now + Duration::from_secs(ttl)));
        plain(200, &token).with("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", ttl.to_string())
    }

    fn check_token(&self, request: &Request, since: Instant) -> Result<(), Response> {
        let good = |(issued, expires): &(Instant, Instant)| *issued >= since && *expires > Instant::now();
        let valid = request.header(TOKEN_HEADER).is_some_and(|token| lock(&self.tokens).get(token).is_some_and(good));
        if valid { Ok(()) } else { Err(plain(401, "Unauthorized")) }
    }

    /// Every leaf there is, by its path below the version.
    fn tree(&self, instance: &Instance, lifecycle_state: Option<&str>) -> BTreeMap<String, Vec<u8>> {
        let spec = &instance.spec;
        let region = &self.core.config.region;
        let primary = spec.private_ips.first().cloned().unwrap_or_default();
        let host = format!("ip-{}.{region}.compute.internal", primary.replace('.', "-"));
        let interface = format!("network/interfaces/macs/{}", instance.mac);
        let mut meta = BTreeMap::from([
            ("ami-id".to_owned(), instance.image().to_owned()),
            ("hostname".to_owned(), host.clone()),
            ("instance-id".to_owned(), instance.id.to_string()),
            ("instance-type".to_owned(), instance.instance_type().to_owned()),
            ("local-hostname".to_owned(), host),
            ("local-ipv4".to_owned(), primary.clone()),
            ("mac".to_owned(), instance.mac.clone()),
            (format!("{interface}/device-number"), "0".to_owned()),
            (format!("{interface}/local-ipv4s"), spec.private_ips.join("\n")),
            (format!("{interface}/mac"), instance.mac.clone()),
            ("placement/availability-zone".to_owned(), instance.zone.clone()),
            ("placement/region".to_owned(), region.clone()),
        ]);
        if let Some(state) = lifecycle_state {
            let target = lifecycle::target(state).to_owned();
            meta.insert("autoscaling/target-lifecycle-state".to_owned(), target);
        }
        if let Some(role) = &spec.role {
            meta.extend(self.role(instance, role));
        }
        // A tag whose key holds a slash cannot be a path; EC2 does not allow such keys here either.
        let tags = instance_tags(instance).into_iter().filter(|(key, _)| !key.contains('/'));
        meta.extend(tags.map(|(key, value)| (format!("tags/instance/{key}"), value)));
        meta.extend(spec.metadata.clone());

        let mut tree: BTreeMap<String, Vec<u8>> =
            meta.into_iter().map(|(path, value)| (format!("meta-data/{path}"), value.into_bytes())).collect();
        let document = self.identity_document(instance, &primary);
        tree.insert("dynamic/instance-identity/document".to_owned(), document.into_bytes());
        if let Some(user_data) = spec.user_data.clone().filter(|data| !data.is_empty()) {
            tree.insert("user-data".to_owned(), user_data);
        }
        tree
    }

    fn role(&self, instance: &Instance, role: &str) -> [(String, String); 2] {
        let issued = self.core.issuer.role(role, &instance.id, self.core.clock.now());
        let updated = iso(issued.since);
        let credentials = json!({
            "Code": "Success",
            "LastUpdated": updated,
            "Type": "AWS-HMAC",
            "AccessKeyId": issued.credentials.access_key_id,
            "SecretAccessKey": issued.credentials.secret_access_key,
            "Token": issued.credentials.session_token,
            "Expiration": issued.expires.map(iso),
        });
        let info = json!({
            "Code": "Success",
            "LastUpdated": updated,
            "InstanceProfileArn": format!("arn:aws:iam::{ACCOUNT}:instance-profile/{role}"),
            "InstanceProfileId": "AIPAEXAMPLEEXAMPLEEX",
        });
        [
            (format!("iam/security-credentials/{role}"), format!("{credentials:#}")),
            ("iam/info".to_owned(), format!("{info:#}")),
        ]
    }

    fn identity_document(&self, instance: &Instance, primary: &str) -> String {
        let document = json!({
            "accountId": ACCOUNT,
            "architecture": "x86_64",
            "availabilityZone": instance.zone,
            "imageId": instance.image(),
            "instanceId": instance.id,
            "instanceType": instance.instance_type(),
            "pendingTime": iso(instance.launched),
            "privateIp": primary,
            "region": self.core.config.region,
            "version": "2017-09-30",
        });
        format!("{document:#}")
    }
}

impl Service for Imds {
    async fn answer(&self, request: Request) -> Outcome {
        let path = latest(&request.path);
        let action = format!("imds:{} {path}", request.method);
        let fault = self.core.strike(&action);
        let handled = serve::under(fault.as_ref(), &PlainWords, |_| self.respond(&request, &path)).await;
        self.core.log.push(What::Imds(WebCall {
            action,
            instance: Some(self.instance.to_string()),
            http: handled.http,
            fault: fault.map(|fault| fault.name().to_owned()),
        }));
        handled.outcome
    }
}

/// The path with `latest` in the place of any version.
fn latest(path: &str) -> String {
    let rest = path.trim_start_matches('/');
    let (version, rest) = rest.split_once('/').unwrap_or((rest, ""));
    if VERSIONS.contains(&version) { format!("/latest/{rest}") } else { path.to_owned() }
}

/// A leaf's value, or the list of what lies below a path.
fn read(tree: &BTreeMap<String, Vec<u8>>, path: &str) -> Response {
    if path.trim_matches('/').is_empty() {
        return plain(200, &[&VERSIONS[..], &["latest"]].concat().join("\n"));
    }
    let Some(path) = path.strip_prefix("/latest") else {
        return not_found();
    };
    let path = path.trim_matches('/');
    if let Some(value) = tree.get(path) {
        return Response::new(200, "text/plain", value.clone());
    }
    let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
    let names: BTreeSet<String> = tree
        .keys()
        .filter_map(|leaf| leaf.strip_prefix(&prefix))
        .map(|rest| rest.split_once('/').map_or_else(|| rest.to_owned(), |(name, _)| format!("{name}/")))
        .collect();
    if names.is_empty() { not_found() } else { plain(200, &names.into_iter().collect::<Vec<_>>().join("\n")) }
}

fn not_found() -> Response {
    plain(404, "Not Found")
}
