//! The SDK's default chain of credentials, made to survive its own panics.
//!
//! aws-config's metadata client panics on a role name that is no part of a URL ("valid request", `imds/client.rs`): a garbled
//! answer must not end the agent, but be asked again.

use std::panic::AssertUnwindSafe;

use aws_config::Region;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future;
use futures_util::FutureExt;

/// The environment, the profile, the instance profile: what every AWS client looks at.
#[derive(Debug)]
pub(super) struct Chain(DefaultCredentialsChain);

impl Chain {
    pub(super) async fn new(provider: ProviderConfig, region: Region) -> Self {
        Chain(DefaultCredentialsChain::builder().configure(provider).region(region).build().await)
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
