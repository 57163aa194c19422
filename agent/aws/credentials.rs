//! The SDK's default credentials chain with its panics caught, and a cache that discards credentials which AWS refuses.
//!
//! aws-config's metadata client panics on a role name that is not valid in a URL ("valid request", `imds/client.rs`): after a
//! garbled answer the agent must ask again, not crash.
//!
//! The SDK's own cache keeps credentials until they expire, and aws-config extends the expiry of those that the metadata
//! service renews too late: the credentials of a replaced role would stay in use for the life of the process.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_config::Region;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::credential_feature::AwsCredentialFeature;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use futures_util::FutureExt;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::failure::{Code, Failure, with_sources};

/// The sources every AWS client searches: environment, profile, instance profile. Rebuilt after an error, and with it the
/// metadata service's token, which the SDK's client renews by the machine's clock alone.
#[derive(Debug)]
pub(super) struct Chain {
    provider: ProviderConfig,
    /// For the metadata service: never through a proxy, whatever its address.
    metadata: ProviderConfig,
    region: Region,
    built: Mutex<Option<DefaultCredentialsChain>>,
}

impl Chain {
    pub(super) fn new(provider: ProviderConfig, metadata: ProviderConfig, region: Region) -> Self {
        Chain { provider, metadata, region, built: Mutex::default() }
    }

    async fn build(&self) -> DefaultCredentialsChain {
        let imds = aws_config::imds::Client::builder().configure(&self.metadata).build();
        let chain = DefaultCredentialsChain::builder().imds_client(imds).configure(self.provider.clone());
        chain.region(self.region.clone()).build().await
    }

    /// While the metadata service is silent, the SDK's provider repeats its last credentials: it must not repeat refused ones.
    async fn forget(&self) {
        *self.built.lock().await = None;
    }

    async fn find(&self) -> Result<aws_credential_types::Credentials, CredentialsError> {
        // Taken out, so that a chain which fails or times out is not reused.
        let built = self.built.lock().await.take();
        let chain = match built {
            Some(chain) => chain,
            None => self.build().await,
        };
        let found = AssertUnwindSafe(chain.provide_credentials())
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(CredentialsError::provider_error("the metadata service's answer is garbled")))?;
        *self.built.lock().await = Some(chain);
        Ok(found)
    }
}

/// How long a node's chain may take; the SDK's own cache allows the same.
pub(super) const LOADING: Duration = Duration::from_secs(5);
/// Credentials are replaced this long before they expire; the metadata service offers new ones five minutes before.
const EARLY: Duration = Duration::from_mins(1);
/// A refusal does not replace credentials younger than this: concurrent calls are refused together.
const REFUSED_AFTER: Duration = Duration::from_secs(1);
/// The same for a missing permission, which is rarely the credentials' fault: not each such call asks the metadata service.
const DENIED_AFTER: Duration = Duration::from_secs(30);

/// Counters of the events that invalidate this process's cache: [`Credentials::forget`], refused credentials, denied
/// permissions.
static FORGOTTEN: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
static DENIED: AtomicU64 = AtomicU64::new(0);

/// Records that AWS has refused a call's credentials.
pub(super) fn were_refused() {
    REFUSED.fetch_add(1, Ordering::Relaxed);
}

/// Records that AWS has denied a permission, which the credentials of another role may have.
pub(super) fn were_denied() {
    DENIED.fetch_add(1, Ordering::Relaxed);
}

/// Keeps credentials until they are about to expire or AWS refuses them.
#[derive(Debug)]
pub(super) struct Cache(Arc<Loader>);

#[derive(Debug)]
struct Loader {
    chain: Chain,
    /// How long loading may take.
    limit: Duration,
    cached: Mutex<Option<Cached>>,
}

#[derive(Debug)]
struct Cached {
    credentials: aws_credential_types::Credentials,
    loaded: Instant,
    /// [`FORGOTTEN`], [`REFUSED`] and [`DENIED`] before the load.
    counts: [u64; 3],
    /// When to replace the credentials.
    until: Option<SystemTime>,
}

impl Cached {
    fn new(credentials: aws_credential_types::Credentials, counts: [u64; 3]) -> Self {
        let until = credentials.expiry().map(|expiry| {
            let left = expiry.duration_since(SystemTime::now()).unwrap_or_default();
            // Some credentials expire within a minute.
            expiry - EARLY.min(left / 2)
        });
        Cached { credentials, loaded: Instant::now(), counts, until }
    }

    /// Whether the credentials were neither forgotten nor refused since they were loaded.
    fn is_accepted(&self, now: [u64; 3]) -> bool {
        let age = self.loaded.elapsed();
        let [forgotten, refused, denied] = self.counts;
        forgotten == now[0] && (refused == now[1] || age < REFUSED_AFTER) && (denied == now[2] || age < DENIED_AFTER)
    }

    fn is_fresh(&self) -> bool {
        self.until.is_none_or(|until| SystemTime::now() < until)
    }
}

impl Cache {
    pub(super) fn new(chain: Chain, limit: Duration) -> Self {
        Cache(Arc::new(Loader { chain, limit, cached: Mutex::default() }))
    }

    /// In a task of its own: a call asks for credentials within its time limit, and a load that takes longer must not begin anew
    /// with each call.
    async fn get(&self) -> Result<aws_credential_types::Credentials, CredentialsError> {
        let loader = Arc::clone(&self.0);
        let task = tokio::spawn(async move { loader.get().await });
        task.await.unwrap_or_else(|error| Err(CredentialsError::provider_error(error)))
    }
}

impl Loader {
    async fn get(&self) -> Result<aws_credential_types::Credentials, CredentialsError> {
        // Locked during the load: concurrent calls wait for the same credentials.
        let mut cached = self.cached.lock().await;
        let counts = [&FORGOTTEN, &REFUSED, &DENIED].map(|count| count.load(Ordering::Relaxed));
        let accepted = cached.as_ref().filter(|cached| cached.is_accepted(counts));
        if let Some(good) = accepted.filter(|cached| cached.is_fresh()) {
            return Ok(good.credentials.clone());
        }
        if cached.is_some() && accepted.is_none() {
            self.chain.forget().await;
        }
        let loaded = timeout(self.limit, self.chain.find()).await;
        match loaded.unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(self.limit))) {
            Ok(credentials) => {
                *cached = Some(Cached::new(credentials.clone(), counts));
                Ok(credentials)
            }
            Err(error) => match accepted {
                // In the last minute before the expiry.
                Some(old) if old.credentials.expiry().is_none_or(|expiry| SystemTime::now() < expiry) => {
                    Ok(old.credentials.clone())
                }
                _ => Err(error),
            },
        }
    }
}

impl ProvideCredentials for Cache {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.get())
    }
}

/// The credentials that sign every call.
pub struct Credentials(pub(super) SharedCredentialsProvider);

/// What is known of credentials; the secrets themselves stay with the SDK.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Where the SDK's chain found them.
    pub origin: Origin,
    /// When they expire.
    pub expires: Option<SystemTime>,
}

/// Where credentials come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The environment's variables.
    Environment,
    /// The role of the instance profile.
    InstanceProfile,
    /// A profile in the AWS configuration files, a web identity, a container's endpoint, …
    Other,
}

impl Credentials {
    /// Makes the next call load them anew: the instance may have another role by now.
    pub fn forget(&self) {
        FORGOTTEN.fetch_add(1, Ordering::Relaxed);
    }

    /// Resolves the credentials as every call does.
    pub async fn find(&self) -> Result<Found, Failure> {
        let found = self.0.provide_credentials().await.map_err(|error| {
            Failure::new(Code::Credentials, with_sources(error.to_string(), std::error::Error::source(&error)))
        })?;
        let features = found.get_property::<Vec<AwsCredentialFeature>>().map(Vec::as_slice).unwrap_or_default();
        let origin = if features.contains(&AwsCredentialFeature::CredentialsImds) {
            Origin::InstanceProfile
        } else if features.contains(&AwsCredentialFeature::CredentialsEnvVars) {
            Origin::Environment
        } else {
            Origin::Other
        };
        Ok(Found { origin, expires: found.expiry() })
    }
}
