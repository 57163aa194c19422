//! The SDK's default chain of credentials, made to survive its own panics, and a cache that forgets what AWS refuses.
//!
//! aws-config's metadata client panics on a role name that is no part of a URL ("valid request", `imds/client.rs`): a garbled
//! answer must not end the agent, but be asked again.
//!
//! The SDK's own cache keeps credentials until they expire, and aws-config puts off the expiry of those that the metadata
//! service serves too late. Credentials of a role that was replaced would then be used for as long as the process lives.

use std::panic::AssertUnwindSafe;
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

/// The environment, the profile, the instance profile: what every AWS client looks at. After an error it is made anew, and with it
/// the token for the metadata service, which its client renews by the machine's clock alone.
#[derive(Debug)]
pub(super) struct Chain {
    provider: ProviderConfig,
    /// What asks for the instance profile: by no proxy, wherever the metadata service is.
    metadata: ProviderConfig,
    region: Region,
    made: Mutex<Option<DefaultCredentialsChain>>,
}

impl Chain {
    /// `metadata` is what asks for the instance profile.
    pub(super) fn new(provider: ProviderConfig, metadata: ProviderConfig, region: Region) -> Self {
        Chain { provider, metadata, region, made: Mutex::default() }
    }

    async fn make(&self) -> DefaultCredentialsChain {
        let imds = aws_config::imds::Client::builder().configure(&self.metadata).build();
        let chain = DefaultCredentialsChain::builder().imds_client(imds).configure(self.provider.clone());
        chain.region(self.region.clone()).build().await
    }

    /// The SDK's provider answers with the last credentials where the metadata service does not: not with those that were refused.
    async fn forget(&self) {
        *self.made.lock().await = None;
    }

    async fn find(&self) -> Result<aws_credential_types::Credentials, CredentialsError> {
        // Only one that has answered, in time, is kept.
        let kept = self.made.lock().await.take();
        let chain = match kept {
            Some(chain) => chain,
            None => self.make().await,
        };
        let found = AssertUnwindSafe(chain.provide_credentials())
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(CredentialsError::provider_error("the metadata service's answer is garbled")))?;
        *self.made.lock().await = Some(chain);
        Ok(found)
    }
}

impl ProvideCredentials for Chain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.find())
    }
}

/// How long the chain may take, as with the SDK's own cache.
const LOADING: Duration = Duration::from_secs(5);
/// Credentials are replaced this long before they expire: the metadata service has new ones five minutes before.
const EARLY: Duration = Duration::from_mins(1);
/// Credentials younger than this are not replaced because of a refusal: calls that were under way together are refused
/// together.
const REFUSED_AFTER: Duration = Duration::from_secs(1);
/// The same where a permission is missing, which is usually no fault of the credentials: the metadata service is not asked
/// for each such call.
const DENIED_AFTER: Duration = Duration::from_secs(30);

/// How often something has happened that makes the cache of this process forget: somebody wanted it to, AWS refused the
/// credentials, AWS denied a permission.
static WANTED: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
static DENIED: AtomicU64 = AtomicU64::new(0);

/// Tells the cache that AWS has refused the credentials of a call.
pub(super) fn were_refused() {
    REFUSED.fetch_add(1, Ordering::Relaxed);
}

/// Tells the cache that AWS has denied a permission, which credentials of another role may have.
pub(super) fn were_denied() {
    DENIED.fetch_add(1, Ordering::Relaxed);
}

/// Credentials until they are about to expire or AWS refuses them.
#[derive(Debug)]
pub(super) struct Cache {
    chain: Chain,
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    credentials: aws_credential_types::Credentials,
    loaded: Instant,
    /// [`WANTED`], [`REFUSED`] and [`DENIED`] before they were loaded.
    seen: [u64; 3],
    /// When they are replaced.
    until: Option<SystemTime>,
}

impl Kept {
    fn new(credentials: aws_credential_types::Credentials, seen: [u64; 3]) -> Self {
        let until = credentials.expiry().map(|expiry| {
            let left = expiry.duration_since(SystemTime::now()).unwrap_or_default();
            // Some live no longer than a minute.
            expiry - EARLY.min(left / 2)
        });
        Kept { credentials, loaded: Instant::now(), seen, until }
    }

    /// Whether nothing speaks against their use but their age.
    fn is_accepted(&self, now: [u64; 3]) -> bool {
        let age = self.loaded.elapsed();
        let [wanted, refused, denied] = self.seen;
        wanted == now[0] && (refused == now[1] || age < REFUSED_AFTER) && (denied == now[2] || age < DENIED_AFTER)
    }

    fn is_fresh(&self) -> bool {
        self.until.is_none_or(|until| SystemTime::now() < until)
    }
}

impl Cache {
    pub(super) fn new(chain: Chain) -> Self {
        Cache { chain, kept: Mutex::default() }
    }

    async fn get(&self) -> Result<aws_credential_types::Credentials, CredentialsError> {
        // Held while they are loaded: calls that come meanwhile wait for the same credentials.
        let mut kept = self.kept.lock().await;
        let seen = [&WANTED, &REFUSED, &DENIED].map(|count| count.load(Ordering::Relaxed));
        let accepted = kept.as_ref().filter(|kept| kept.is_accepted(seen));
        if let Some(good) = accepted.filter(|kept| kept.is_fresh()) {
            return Ok(good.credentials.clone());
        }
        if kept.is_some() && accepted.is_none() {
            self.chain.forget().await;
        }
        let loaded = timeout(LOADING, self.chain.provide_credentials()).await;
        match loaded.unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(LOADING))) {
            Ok(credentials) => {
                *kept = Some(Kept::new(credentials.clone(), seen));
                Ok(credentials)
            }
            Err(error) => match accepted {
                // The last minute before they expire.
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

/// The credentials every call is signed with.
#[derive(Debug)]
pub struct Credentials(pub(super) SharedCredentialsProvider);

/// Credentials that are there; the secrets themselves stay with the SDK.
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
    /// The next call asks for them anew: the instance may have another role by now.
    pub fn forget(&self) {
        WANTED.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks where every call looks.
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
