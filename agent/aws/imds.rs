//! The instance metadata service, version 2.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::imds::Client;
use aws_config::imds::client::error::{ImdsError, TokenError};
use aws_config::provider_config::ProviderConfig;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_types::os_shim_internal::{Env, Fs};
use reqwest::StatusCode;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::autoscaling::LifecycleState;
use crate::failure::{Code, Failure};

/// A client of the service that keeps its token until the service refuses the token.
pub struct Imds {
    provider: ProviderConfig,
    connection: Mutex<Option<Arc<Connection>>>,
}

struct Connection {
    endpoint: String,
    client: Client,
}

/// The parts of the instance identity document that the agent uses.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityDocument {
    /// `i-…`
    pub instance_id: String,
    /// `eu-west-1`
    pub region: String,
    /// `eu-west-1a`
    pub availability_zone: String,
    /// The account's number; empty where the document omits it.
    #[serde(default)]
    pub account_id: String,
    /// The primary private IPv4 address.
    pub private_ip: Option<IpAddr>,
}

/// A spot instance's notice: `{"action": "terminate", "time": "2017-09-18T08:22:00Z"}`.
#[derive(Deserialize)]
struct SpotNotice {
    time: String,
}

/// How long before the end of a spot instance EC2 gives its notice (EC2 user guide, "Spot Instance interruption notices").
const SPOT_NOTICE: Duration = Duration::from_mins(2);

impl Imds {
    pub(super) fn new(provider: &ProviderConfig) -> Self {
        Imds { provider: provider.clone(), connection: Mutex::default() }
    }

    async fn connection(&self) -> Result<Arc<Connection>, Failure> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = &*connection {
            return Ok(Arc::clone(connection));
        }
        let endpoint = endpoint().await?;
        // Two attempts, because the client renews an expired token only by retrying; all other retries are the step runner's.
        let client = Client::builder().configure(&self.provider).max_attempts(2).endpoint(&endpoint);
        let client = client.map_err(|error| {
            Failure::new(Code::ImdsUnreachable, format!("{endpoint} is not a usable address of the metadata service"))
                .because(error)
                .remedy("correct AWS_EC2_METADATA_SERVICE_ENDPOINT, or ec2_metadata_service_endpoint in the AWS profile, then: node-agent retry")
        })?;
        Ok(Arc::clone(connection.insert(Arc::new(Connection { client: client.build(), endpoint }))))
    }

    /// Requests `path`, and if the token is refused, once more with a new one: the client renews a token by the machine's clock
    /// alone, which may have been set back, and the service forgets tokens when the instance resumes from hibernation.
    async fn get(&self, path: &str) -> Result<Result<String, ImdsError>, Failure> {
        let first = self.connection().await?;
        match first.client.get(path).await {
            Err(error) if status(&error) == Some(401) => {
                // A concurrent request may have renewed the token already.
                let _ = self.connection.lock().await.take_if(|now| Arc::ptr_eq(now, &first));
                tracing::debug!("the metadata service refuses its token: asking for a new one");
                Ok(self.connection().await?.client.get(path).await.map(String::from))
            }
            answer => Ok(answer.map(String::from)),
        }
    }

    /// The instance identity document.
    pub async fn identity(&self) -> Result<IdentityDocument, Failure> {
        let path = "/latest/dynamic/instance-identity/document";
        let text = self.required(path).await?;
        serde_json::from_str(&text).map_err(|error| {
            Failure::new(Code::ImdsUnreachable, format!("instance metadata {path} is not an identity document"))
                .because(error)
        })
    }

    /// The private addresses of all network interfaces.
    pub async fn private_addresses(&self) -> Result<Vec<IpAddr>, Failure> {
        let base = "/latest/meta-data/network/interfaces/macs/";
        let mut addresses = Vec::new();
        for mac in self.required(base).await?.lines() {
            let mac = mac.trim_end_matches('/');
            for list in ["local-ipv4s", "ipv6s"] {
                let found = self.optional(&format!("{base}{mac}/{list}")).await?.unwrap_or_default();
                addresses.extend(found.lines().filter_map(|address| address.trim().parse::<IpAddr>().ok()));
            }
        }
        Ok(addresses)
    }

    /// The state Auto Scaling is taking the instance to (`InService`, `Terminated`, …), not its current one. `None` outside any
    /// group.
    pub async fn target_lifecycle_state(&self) -> Result<Option<LifecycleState>, Failure> {
        let state = self.optional("/latest/meta-data/autoscaling/target-lifecycle-state").await?;
        Ok(state.as_deref().map(LifecycleState::parse))
    }

    /// When EC2 takes this spot instance back; `None` without such a notice. EC2 gives it two minutes before.
    pub async fn spot_notice(&self) -> Result<Option<SystemTime>, Failure> {
        let path = "/latest/meta-data/spot/instance-action";
        let Some(text) = self.optional(path).await? else { return Ok(None) };
        let notice: serde_json::Result<SpotNotice> = serde_json::from_str(&text);
        let time = notice.ok().and_then(|notice| humantime::parse_rfc3339(&notice.time).ok());
        // A notice that cannot be read is one all the same: it has come just now.
        Ok(Some(time.unwrap_or_else(|| SystemTime::now() + SPOT_NOTICE)))
    }

    /// Whether EC2 recommends to replace this spot instance, because it is more likely to take it back soon.
    pub async fn is_rebalance_recommended(&self) -> Result<bool, Failure> {
        Ok(self.optional("/latest/meta-data/events/recommendations/rebalance").await?.is_some())
    }

    /// The role of the instance profile; `None` if the instance has no profile.
    pub async fn role(&self) -> Result<Option<String>, Failure> {
        let names = self.optional("/latest/meta-data/iam/security-credentials/").await?;
        Ok(names.and_then(|names| names.lines().next().map(|name| name.trim().to_owned())))
    }

    async fn required(&self, path: &str) -> Result<String, Failure> {
        self.optional(path)
            .await?
            .ok_or_else(|| Failure::new(Code::ImdsIncomplete, format!("instance metadata has no {path} (404)")))
    }

    /// `None` where the service answers 404.
    async fn optional(&self, path: &str) -> Result<Option<String>, Failure> {
        match self.get(path).await? {
            Ok(text) => Ok(Some(text)),
            Err(error) => match status(&error) {
                Some(404) => Ok(None),
                Some(403) => Err(switched_off(path)),
                Some(status) => {
                    Err(Failure::new(Code::ImdsUnreachable, format!("instance metadata answers {status} to {path}")))
                }
                None => Err(Failure::new(Code::ImdsUnreachable, format!("instance metadata {path}")).because(error)),
            },
        }
    }

    /// The user data as bytes. Not by the SDK's client, which returns only text: user data may be gzip.
    pub async fn user_data(&self) -> Result<Vec<u8>, Failure> {
        let connection = self.connection().await?;
        let base = connection.endpoint.trim_end_matches('/');
        let failed = |what: &str, error: reqwest::Error| match error.status() {
            Some(StatusCode::FORBIDDEN) => switched_off(what),
            _ => Failure::new(Code::ImdsUnreachable, format!("instance metadata {what}")).because(error),
        };
        let http = reqwest::Client::builder()
            .no_proxy()
            // The service speaks plain HTTP, so an image without CA certificates can read its user data too.
            .tls_certs_only([])
            .connect_timeout(Duration::from_secs(1))
            .timeout(Duration::from_secs(5))
            .build()
            .map_err(|error| failed("client", error))?;
        let token = http
            .put(format!("{base}/latest/api/token"))
            .header("x-aws-ec2-metadata-token-ttl-seconds", "60")
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(|error| failed("token", error))?
            .text()
            .await
            .map_err(|error| failed("token", error))?;
        let answer = http
            .get(format!("{base}/latest/user-data"))
            .header("x-aws-ec2-metadata-token", token)
            .send()
            .await
            .map_err(|error| failed("user-data", error))?;
        if answer.status().as_u16() == 404 {
            return Err(Failure::new(Code::ConfigUnreadable, "the instance has no user data").remedy(
                "give the instance the configuration as its user data, or use --config PATH, then: node-agent retry",
            ));
        }
        let answer = answer.error_for_status().map_err(|error| failed("user-data", error))?;
        Ok(answer.bytes().await.map_err(|error| failed("user-data", error))?.to_vec())
    }
}

/// The service's address.
#[expect(clippy::default_trait_access, reason = "aws-config exports the type only as deprecated")]
async fn endpoint() -> Result<String, Failure> {
    let (fs, env) = (Fs::real(), Env::real());
    // As in the SDK's own clients, an unreadable profile is ignored.
    let profile = aws_config::profile::load(&fs, &env, &Default::default(), None).await.ok();
    let in_profile = |key: &str| profile.as_ref().and_then(|profile| profile.get(key)).map(str::to_owned);
    resolve(|name| env.get(name).ok(), in_profile)
}

/// The address by the SDK's rules, which its credentials client applies by itself: the address, or else the mode, each from the
/// environment or else from the profile.
fn resolve<F: Fn(&str) -> Option<String>>(
    variable: F,
    profile: impl Fn(&str) -> Option<String>,
) -> Result<String, Failure> {
    let set = |name: &str, key: &str| variable(name).or_else(|| profile(key));
    if let Some(endpoint) = set("AWS_EC2_METADATA_SERVICE_ENDPOINT", "ec2_metadata_service_endpoint") {
        return Ok(endpoint);
    }
    let mode = set("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ec2_metadata_service_endpoint_mode");
    match mode.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("ipv4") => Ok("http://169.254.169.254".to_owned()),
        Some("ipv6") => Ok("http://[fd00:ec2::254]".to_owned()),
        Some(other) => {
            let text = format!("the metadata service's endpoint mode {other:?} is neither IPv4 nor IPv6");
            Err(Failure::new(Code::ImdsUnreachable, text).remedy(
                "correct AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE, or ec2_metadata_service_endpoint_mode in the AWS profile, then: node-agent retry",
            ))
        }
    }
}

/// The status of the answer, which may be the answer to the token request.
fn status(error: &ImdsError) -> Option<u16> {
    let answer = match error {
        ImdsError::ErrorResponse(answer) => Some(answer.response()),
        ImdsError::FailedToLoadToken(_) => error
            .source()
            .and_then(<dyn Error>::downcast_ref::<SdkError<TokenError, HttpResponse>>)
            .and_then(SdkError::raw_response),
        _ => None,
    };
    answer.map(|answer| answer.status().as_u16())
}

/// The failure of a request that the service answers with 403.
fn switched_off(path: &str) -> Failure {
    Failure::new(Code::ImdsRefused, format!("instance metadata answers 403 to {path}: it is switched off"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_address_follows_environment_and_profile_by_the_sdks_rules() {
        const ENDPOINT: (&str, &str) = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "ec2_metadata_service_endpoint");
        const MODE: (&str, &str) = ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ec2_metadata_service_endpoint_mode");
        const FOUR: &str = "http://169.254.169.254";
        const SIX: &str = "http://[fd00:ec2::254]";
        // The environment's address and mode, the profile's, and the resolved address.
        let cases = [
            ([None, None, None, None], FOUR),
            ([None, Some("IPv6"), None, None], SIX),
            ([None, Some("ipv6"), None, Some("IPv4")], SIX),
            ([None, None, None, Some("IPv6")], SIX),
            ([None, Some("IPv4"), None, Some("IPv6")], FOUR),
            ([Some("http://[::1]:8080"), Some("IPv6"), Some("http://elsewhere"), None], "http://[::1]:8080"),
            ([None, Some("IPv6"), Some("http://elsewhere/"), None], "http://elsewhere/"),
        ];
        for ([endpoint, mode, profile_endpoint, profile_mode], wanted) in cases {
            let of = |pairs: [(&'static str, Option<&'static str>); 2]| {
                let set: BTreeMap<_, _> = pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
                move |name: &str| set.get(name).map(|value| (*value).to_owned())
            };
            let variables = of([(ENDPOINT.0, endpoint), (MODE.0, mode)]);
            let profile = of([(ENDPOINT.1, profile_endpoint), (MODE.1, profile_mode)]);
            assert_eq!(resolve(variables, profile).unwrap(), wanted, "{endpoint:?} {mode:?}");
        }
        let wrong = resolve(|name| (name == MODE.0).then(|| "IPv5".to_owned()), |_| None).unwrap_err();
        assert!(wrong.to_string().contains("\"ipv5\" is neither IPv4 nor IPv6"), "{wrong}");
    }
}
