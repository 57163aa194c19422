//! The AWS clients of an operator's machine: a laptop or a CI job, with whatever credentials the AWS CLI would use there.
//!
//! Unlike a node's clients these retry by themselves, because their callers look at many groups in a row and one throttled call
//! should not repeat them all. What changes a cluster is sent once (`once` in `aws::autoscaling` and `aws::machines`): a lost
//! reply must be looked into, not answered by a second request. Tags may be written twice.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::identity::IdentityCache;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::DateTime;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::Format;

use super::autoscaling::AutoScaling;
use super::credentials::{Cache, Chain, Credentials};
use super::ec2::Ec2;
use super::error::Caller;
use super::proxy::Proxies;
use super::{ATTEMPT, CONNECT, http};
use crate::failure::{Code, Failure};
use crate::host;

/// How often a call is sent. The SDK waits up to 1, 2, 4, 8, 16, 20 and 20 s between the attempts, half of that on average: this
/// outlives a burst of other tools' calls on the account's quota. Longer trouble is the caller's to tell.
const ATTEMPTS: u32 = 8;

/// How long finding credentials may take: a role chain is several calls, and a program may ask a person.
const LOADING: Duration = Duration::from_mins(2);

/// The clients and what they share.
pub struct Operator {
    /// The Auto Scaling client.
    pub autoscaling: AutoScaling,
    /// The EC2 client.
    pub ec2: Ec2,
    /// AWS's time, by the answers to both clients.
    pub clock: AwsClock,
    /// The region of both clients.
    pub region: String,
}

impl Operator {
    /// Finds region and credentials as the AWS CLI does, and builds the clients. The region is `region`, or else the
    /// environment's or the profile's.
    pub async fn connect(region: Option<&str>) -> Result<Operator, Failure> {
        let direct = http::direct();
        let http = http::routed(&direct, &Arc::new(Proxies::from_env()));
        let provider = ProviderConfig::without_region().with_http_client(http.clone());
        let region = find_region(region, &provider).await?;
        let metadata = ProviderConfig::without_region().with_http_client(direct);
        let chain = Chain::new(provider, metadata, region.clone());
        let credentials = SharedCredentialsProvider::new(Cache::new(chain, LOADING));
        // Now, when nothing has begun; and without a call's time limit.
        Credentials(credentials.clone()).find().await.map_err(|failure| Caller::Operator.advise(failure))?;
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(ATTEMPT).build();
        let config = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .http_client(http)
            .region(region.clone())
            .credentials_provider(credentials)
            // The credentials provider is a cache itself.
            .identity_cache(IdentityCache::no_cache())
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(timeouts)
            .load()
            .await;
        let clock = AwsClock::default();
        let autoscaling = aws_sdk_autoscaling::config::Builder::from(&config).interceptor(clock.clone()).build();
        let ec2 = aws_sdk_ec2::config::Builder::from(&config).interceptor(clock.clone()).build();
        Ok(Operator {
            autoscaling: AutoScaling::of_operator(autoscaling),
            ec2: Ec2::of_operator(ec2),
            clock,
            region: region.to_string(),
        })
    }
}

/// The region that was asked for, the environment's, or the profile's. Not an instance's: an operator's machine may be one in
/// another region.
async fn find_region(asked: Option<&str>, provider: &ProviderConfig) -> Result<Region, Failure> {
    let asked = asked.map(|region| Region::new(region.to_owned()));
    let profile = ProfileFileRegionProvider::builder().configure(provider).build();
    let chain =
        RegionProviderChain::first_try(asked).or_else(EnvironmentVariableRegionProvider::new()).or_else(profile);
    chain.region().await.filter(|region| !region.as_ref().is_empty()).ok_or_else(|| {
        Failure::new(Code::ApiRefused, "no AWS region is set: neither by AWS_REGION nor by the AWS profile")
            .remedy("name it by AWS_REGION, or in the profile (aws configure set region REGION), or choose another by AWS_PROFILE")
    })
}

/// AWS's time, by the `Date` of its answers: two operators whose machines disagree go by the same clock.
#[derive(Clone, Debug, Default)]
pub struct AwsClock(Arc<Mutex<Option<Reading>>>);

#[derive(Clone, Copy, Debug)]
struct Reading {
    /// AWS's time, in seconds since the epoch.
    date: i64,
    /// This machine's time since its boot when the answer came.
    at: Duration,
}

impl AwsClock {
    /// AWS's time in seconds since the epoch; `None` before the first answer. It is late by the last answer's way, and by up to
    /// a second.
    pub fn now(&self) -> Option<i64> {
        self.at(host::since_boot())
    }

    fn at(&self, since_boot: Duration) -> Option<i64> {
        let reading = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let passed = since_boot.saturating_sub(reading.at).as_secs();
        Some(reading.date.saturating_add_unsigned(passed))
    }

    /// Notes an answer's date; an unreadable one changes nothing.
    fn note(&self, date: &str, at: Duration) {
        if let Ok(date) = DateTime::from_str(date, Format::HttpDate) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Reading { date: date.secs(), at });
        }
    }
}

impl Intercept for AwsClock {
    fn name(&self) -> &'static str {
        "AwsClock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(date) = context.response().headers().get("date") {
            self.note(date, host::since_boot());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn awss_time_goes_on_by_the_time_since_boot() {
        let clock = AwsClock::default();
        assert_eq!(clock.now(), None);
        clock.note("Thu, 01 Jan 1970 00:01:40 GMT", Duration::from_millis(5_500));
        assert_eq!(clock.at(Duration::from_millis(5_500)), Some(100));
        assert_eq!(clock.at(Duration::from_millis(65_500)), Some(160));
        // A later answer counts, also where it goes back; one without a date that can be read does not.
        clock.note("Thu, 01 Jan 1970 00:01:30 GMT", Duration::from_secs(70));
        clock.note("yesterday", Duration::from_secs(90));
        assert_eq!(clock.at(Duration::from_secs(71)), Some(91));
    }
}
