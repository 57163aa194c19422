//! The addresses that the SDK's clients call, and an unsigned request to test them.

use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use aws_types::service_config::ServiceConfigKey;
use reqwest::Url;
use reqwest::redirect::Policy;

use super::error::is_untrusted;
use super::proxy::{Proxy, ProxyError};
use crate::failure::{Code, Failure};

/// The services' addresses.
pub struct Endpoints {
    config: SdkConfig,
}

/// An endpoint's answer.
pub struct Answer {
    /// By how many seconds the service's clock is ahead of this machine's; `None` if the answer has no date.
    pub ahead_seconds: Option<i64>,
}

/// Resolves an address as the service's own client does: by region, FIPS, dual stack and the environment's endpoints.
macro_rules! resolve {
    ($sdk:ident, $endpoints:expr, $service:literal $(, $set:ident = $value:expr)*) => {{
        use $sdk::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
        let config = &$endpoints.config;
        let params = Params::builder()
            .set_region(config.region().map(ToString::to_string))
            .set_use_fips(config.use_fips())
            .set_use_dual_stack(config.use_dual_stack())
            .set_endpoint($endpoints.overridden($service))
            $(.$set($value))*
            .build();
        let unknown = |error: String| Failure::new(Code::ApiRefused, format!("the address of {}: {error}", $service));
        let params = params.map_err(|error| unknown(error.to_string()))?;
        let endpoint = DefaultResolver::new().resolve_endpoint(&params).await;
        endpoint.map(|endpoint| endpoint.url().to_owned()).map_err(|error| unknown(error.to_string()))
    }};
}

impl Endpoints {
    pub(super) fn new(config: SdkConfig) -> Self {
        Endpoints { config }
    }

    /// EC2's URL.
    pub async fn ec2(&self) -> Result<String, Failure> {
        resolve!(aws_sdk_ec2, self, "EC2")
    }

    /// Auto Scaling's URL.
    pub async fn autoscaling(&self) -> Result<String, Failure> {
        resolve!(aws_sdk_autoscaling, self, "Auto Scaling")
    }

    /// A bucket's URL in S3.
    pub async fn bucket(&self, bucket: &str) -> Result<String, Failure> {
        resolve!(aws_sdk_s3, self, "S3", bucket = bucket)
    }

    /// The service's endpoint from the environment or the profile.
    fn overridden(&self, service: &str) -> Option<String> {
        let key =
            ServiceConfigKey::builder().service_id(service).env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
        let own = key.ok().and_then(|key| self.config.service_config()?.load_config(key));
        own.or_else(|| self.config.endpoint_url().map(str::to_owned))
    }
}

/// Sends an unsigned request, through `proxy` or directly as the SDK's clients do. Any answer will do: it proves that the
/// endpoint can be reached, and carries the service's time.
pub async fn ask(url: &str, proxy: Option<&Proxy>, limit: Duration) -> Result<Answer, Failure> {
    let about = format!("{url} does not answer");
    let unreachable = |error: reqwest::Error| {
        let code = if is_untrusted(&error) { Code::CertificateUntrusted } else { Code::ApiUnreachable };
        let failure = Failure::new(code, about.clone());
        let Some(proxy) = proxy else { return failure.because(error.without_url()) };
        let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
        let error = ProxyError::new(proxy, &host, error.without_url());
        error.refine(failure).because(error)
    };
    // A redirect is an answer, too.
    let mut client = reqwest::Client::builder().no_proxy().redirect(Policy::none()).timeout(limit);
    if let Some(proxy) = proxy {
        client = client.proxy(reqwest::Proxy::all(proxy.url.clone()).map_err(unreachable)?);
    }
    if url.starts_with("http:") {
        // Reading the trust store takes longer than the answer.
        client = client.tls_certs_only([]);
    }
    let client = client.build().map_err(unreachable)?;
    let asked = SystemTime::now();
    let answer = client.get(url).send().await.map_err(unreachable)?;
    if let Some(proxy) = proxy
        && answer.status().as_u16() == 407
    {
        return Err(Failure::new(Code::ProxyRefused, about).because(ProxyError::unauthorized(proxy)));
    }
    let middle = asked + asked.elapsed().unwrap_or_default() / 2;
    let date = answer.headers().get(reqwest::header::DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
    let ahead_seconds = date.map(|date| date.secs() - DateTime::from(middle).secs());
    Ok(Answer { ahead_seconds })
}
