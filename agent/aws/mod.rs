//! The AWS services the agent talks to, as concrete clients. Tests replace the endpoint.
//!
//! No client retries by itself, except for an expired token of the metadata service: the step runner does (agent/runner, which
//! names the other callers that do). One HTTP client and one client per service, because the SDK corrects clock skew per
//! client. Requests for instance metadata go directly, all others through the environment's proxies (`proxy`).

pub mod autoscaling;
pub mod credentials;
pub mod download;
pub mod ec2;
pub mod endpoint;
mod error;
pub mod fleet;
mod http;
pub mod imds;
mod launches;
pub mod machines;
pub mod operator;
pub mod proxy;
mod states;
pub mod templates;

use std::sync::Arc;
use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use proxy::Proxies;

/// Connecting within a region takes milliseconds; Linux resends a lost SYN after 1 s.
const CONNECT: Duration = Duration::from_secs(3);
/// One call, from connecting to the last byte: even a busy EC2 answers within two seconds. A call that times out is repeated,
/// which is safe for every call of the agent.
const ATTEMPT: Duration = Duration::from_secs(6);

/// What does not depend on the region.
pub struct Aws {
    direct: SharedHttpClient,
    http: SharedHttpClient,
    proxies: Arc<Proxies>,
    pub(crate) imds: imds::Imds,
}

/// The regional services.
pub struct Services {
    pub(crate) ec2: ec2::Ec2,
    pub(crate) autoscaling: autoscaling::AutoScaling,
    pub(crate) sources: download::Sources,
    pub(crate) credentials: credentials::Credentials,
    pub(crate) endpoints: endpoint::Endpoints,
    pub(crate) proxies: Arc<Proxies>,
}

impl Aws {
    /// Builds the clients; calls nothing yet.
    pub(crate) fn new() -> Self {
        // For reqwest, which brings no TLS provider. An error means that one is installed already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let proxies = Arc::new(Proxies::from_env());
        let direct = http::direct();
        let provider = ProviderConfig::without_region().with_http_client(direct.clone());
        Aws { imds: imds::Imds::new(&provider), http: http::routed(&direct, &proxies), direct, proxies }
    }

    /// The services of the environment's region, or else of the instance's.
    pub async fn connect(&self, instance_region: &str) -> Services {
        let region = ["AWS_REGION", "AWS_DEFAULT_REGION"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|region| !region.is_empty()))
            .unwrap_or_else(|| instance_region.to_owned());
        let region = Region::new(region);
        let provider = ProviderConfig::without_region().with_http_client(self.http.clone());
        let metadata = ProviderConfig::without_region().with_http_client(self.direct.clone());
        let chain = credentials::Chain::new(provider, metadata, region.clone());
        let credentials = SharedCredentialsProvider::new(credentials::Cache::new(chain, credentials::LOADING));
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(ATTEMPT).build();
        let config = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .http_client(self.http.clone())
            .region(region)
            .credentials_provider(credentials.clone())
            // The credentials provider is a cache itself.
            .identity_cache(IdentityCache::no_cache())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .load()
            .await;
        Services {
            ec2: ec2::Ec2::new(&config),
            autoscaling: autoscaling::AutoScaling::new(&config),
            sources: download::Sources::new(&config, Arc::clone(&self.proxies)),
            credentials: credentials::Credentials(credentials),
            endpoints: endpoint::Endpoints::new(config),
            proxies: Arc::clone(&self.proxies),
        }
    }
}
