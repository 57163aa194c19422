//! The SDK's default chain of credentials, made to survive its own panics.
//!
//! aws-config's metadata client panics on a role name that is no part of a URL ("valid request", `imds/client.rs`): a garbled
//! answer must not end the agent, but be asked again.

use std::panic::AssertUnwindSafe;
use std::time::SystemTime;

use aws_config::Region;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::credential_feature::AwsCredentialFeature;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use futures_util::FutureExt;

use crate::failure::{Code, Failure, with_sources};

/// The environment, the profile, the instance profile: what every AWS client looks at.
#[derive(Debug)]
pub(super) struct Chain(DefaultCredentialsChain);

impl Chain {
    /// `metadata` is what asks for the instance profile: by no proxy, wherever the metadata service is.
    pub(super) async fn new(provider: ProviderConfig, metadata: &ProviderConfig, region: Region) -> Self {
        let imds = aws_config::imds::Client::builder().configure(metadata).build();
        Chain(DefaultCredentialsChain::builder().imds_client(imds).configure(provider).region(region).build().await)
    }
}

impl ProvideCredentials for Chain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            AssertUnwindSafe(self.0.provide_credentials())
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Err(CredentialsError::provider_error("the metadata service's answer is garbled")))
        })
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
