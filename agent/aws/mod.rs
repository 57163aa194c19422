//! The AWS services the agent talks to, as concrete clients. The seam for tests is the endpoint.
//!
//! No client retries by itself, but for a token of the metadata service that has expired: those who call it do, mostly the step
//! runner (agent/runner names the others). One HTTP client and one client per service, because the SDK corrects clock skew per client. Instance metadata is always asked directly, everything else as
//! the environment's proxies say (`proxy`).

pub mod autoscaling;
pub mod credentials;
pub mod download;
pub mod ec2;
pub mod endpoint;
mod error;
mod http;
pub mod imds;
pub mod proxy;

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

/// Connecting within a region takes milliseconds; a lost SYN is sent again after 1 s.
const CONNECT: Duration = Duration::from_secs(3);
/// One call, from connecting to the last byte: EC2 answers within a second or two, also when it is busy. One that takes longer
/// is asked again; every call the agent makes bears that.
const ATTEMPT: Duration = Duration::from_secs(6);

/// What is there before the region is known.
#[derive(Debug)]
pub struct Aws {
    /// Takes no proxy.
    direct: SharedHttpClient,
    http: SharedHttpClient,
    proxies: Arc<Proxies>,
    /// The instance metadata service.
    pub imds: imds::Imds,
}

/// The regional services.
#[derive(Debug)]
pub struct Services {
    /// Volumes and instances.
    pub ec2: ec2::Ec2,
    /// Lifecycle actions.
    pub autoscaling: autoscaling::AutoScaling,
    /// Files and scripts.
    pub sources: download::Sources,
    /// What calls are signed with.
    pub credentials: credentials::Credentials,
    /// Where the services are.
    pub endpoints: endpoint::Endpoints,
    /// Which proxies lead there.
    pub proxies: Arc<Proxies>,
}

impl Aws {
    /// Nothing is called yet.
    pub fn new() -> Self {
        // For reqwest, which brings none of its own. An error means that one is installed already, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let proxies = Arc::new(Proxies::from_env());
        let direct = http::direct();
        let provider = ProviderConfig::without_region().with_http_client(direct.clone());
        Aws { imds: imds::Imds::new(&provider), http: http::routed(&direct, &proxies), direct, proxies }
    }

    /// The services of the region: the environment's, or else the instance's.
    pub async fn connect(&self, instance_region: &str) -> Services {
        let region = ["AWS_REGION", "AWS_DEFAULT_REGION"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|region| !region.is_empty()))
            .unwrap_or_else(|| instance_region.to_owned());
        let region = Region::new(region);
        let provider = ProviderConfig::without_region().with_http_client(self.http.clone());
        let metadata = ProviderConfig::without_region().with_http_client(self.direct.clone());
        let chain = credentials::Chain::new(provider, metadata, region.clone());
        let credentials = SharedCredentialsProvider::new(credentials::Cache::new(chain));
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(ATTEMPT).build();
        let config = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .http_client(self.http.clone())
            .region(region)
            .credentials_provider(credentials.clone())
            // The provider is one.
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

impl Default for Aws {
    fn default() -> Self {
        Aws::new()
    }
}
