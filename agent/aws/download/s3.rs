//! `s3://`: the object, from whichever region its bucket is in.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use aws_config::{Region, SdkConfig};
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::https::interrupted;
use super::{Fetched, Sink};
use crate::aws::error::{self, CallError};
use crate::failure::{Class, Code, Failure};

/// S3.
#[derive(Debug)]
pub(super) struct S3 {
    client: aws_sdk_s3::Client,
    /// The region that requests are signed for, unless the bucket is known to be elsewhere.
    region: String,
    /// The regions of buckets that are elsewhere, by S3's answers.
    elsewhere: RefCell<BTreeMap<String, String>>,
}

impl S3 {
    pub(super) fn new(config: &SdkConfig) -> Self {
        let region = config.region().map(ToString::to_string).unwrap_or_default();
        S3 { client: aws_sdk_s3::Client::new(config), region, elsewhere: RefCell::default() }
    }

    /// Streams the object into an unnamed file in `scratch`.
    pub(super) async fn fetch(&self, name: &str, bucket: &str, key: &str, scratch: &Path) -> Result<Fetched, Failure> {
        let answer = self.get_object(bucket, key, None).await.map_err(|error| match error.failure.code {
            Code::ApiRefused => Failure::new(Code::DownloadFailed, format!("{name}: {}", error.failure)),
            Code::AccessDenied => error.about(name).remedy(format!(
                "allow s3:GetObject on it in the instance role's policy and the bucket's; S3 says the same of an object \
                 that is not there: aws s3 ls {name}; then: node-agent retry"
            )),
            _ => error.about(name),
        })?;
        let mut sink = Sink::new(name.to_owned(), scratch)?;
        let mut body = answer.body;
        while let Some(chunk) = body.next().await {
            sink.take(&chunk.map_err(|error| interrupted(name, None, error))?)?;
        }
        sink.end()
    }

    /// See [`super::Sources::try_s3`].
    pub(super) async fn try_get(&self, bucket: &str, key: &str) -> Result<(), Failure> {
        match self.get_object(bucket, key, Some("bytes=0-0")).await {
            // An empty object has no first byte.
            Err(error) if !error.is("InvalidRange") => Err(error.failure),
            _ => Ok(()),
        }
    }

    /// Asks for the object, and where S3 says that the bucket is in another region, asks once more there.
    async fn get_object(&self, bucket: &str, key: &str, range: Option<&str>) -> Result<GetObjectOutput, CallError> {
        let known = self.elsewhere.borrow().get(bucket).cloned();
        let ours = &self.region;
        let region = if let Some(region) = known {
            region
        } else {
            let error = match self.request(bucket, key, range, None).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let mut refused = error::read(GET, &error);
            match whereabouts(&error, bucket, ours) {
                Whereabouts::Here => return Err(refused),
                Whereabouts::Named(region) if is_region(&region) => region,
                Whereabouts::Named(region) => {
                    let said = refused.failure;
                    let text = format!("S3 says that the bucket {bucket} is in {region:?}, which is no region: {said}");
                    refused.failure = Failure::new(Code::BucketElsewhere, text);
                    return Err(refused);
                }
                Whereabouts::Unknown => {
                    let said = refused.failure;
                    let text = format!(
                        "the bucket {bucket} is in another region than {ours}, and S3 does not say in which: {said}"
                    );
                    refused.failure = Failure::new(Code::BucketElsewhere, text);
                    return Err(refused);
                }
            }
        };
        tracing::debug!("the bucket {bucket} is in {region}, not in {ours}: asked there");
        let error = match self.request(bucket, key, range, Some(&region)).await {
            Ok(answer) => {
                self.elsewhere.borrow_mut().insert(bucket.to_owned(), region);
                return Ok(answer);
            }
            Err(error) => error,
        };
        let mut refused = error::read(GET, &error);
        if !matches!(whereabouts(&error, bucket, &region), Whereabouts::Here) {
            self.elsewhere.borrow_mut().remove(bucket);
            let said = refused.failure;
            let text = format!(
                "S3 says that the bucket {bucket} is in {region}, not in {ours}, and it cannot be read there either: {said}"
            );
            refused.failure = Failure::new(Code::BucketElsewhere, text);
            return Err(refused);
        }
        // Kept for the next try, too: the embedded script must not stand in because S3 here fails meanwhile.
        self.elsewhere.borrow_mut().insert(bucket.to_owned(), region.clone());
        if refused.failure.class() == Class::Outage && refused.failure.code != Code::CertificateUntrusted {
            let text = format!("the bucket {bucket} is in {region}, not in {ours}, and S3 there: {}", refused.failure);
            refused.failure = Failure::new(Code::BucketUnreachable, text);
        } else {
            refused.failure.message = format!("in {region}, where the bucket is: {}", refused.failure.message);
        }
        Err(refused)
    }

    /// One request. In another region its endpoint is composed anew, as for a client of that region; an endpoint that the
    /// environment sets stays.
    async fn request(
        &self,
        bucket: &str,
        key: &str,
        range: Option<&str>,
        region: Option<&str>,
    ) -> Result<GetObjectOutput, GetError> {
        let request = self.client.get_object().bucket(bucket).key(key).set_range(range.map(str::to_owned));
        match region {
            None => request.send().await,
            Some(region) => {
                let there = aws_sdk_s3::config::Builder::new().region(Region::new(region.to_owned()));
                request.customize().config_override(there).send().await
            }
        }
    }
}

/// The action that fetches an object.
const GET: &str = "s3:GetObject";

type GetError = SdkError<GetObjectError, HttpResponse>;

/// What an answer of S3 says of the bucket's place.
#[derive(Debug, PartialEq, Eq)]
enum Whereabouts {
    /// Nothing: it is where it was asked for.
    Here,
    /// It is in another region, which the answer calls this.
    Named(String),
    /// It is in another region.
    Unknown,
}

/// Reads S3's refusal (S3 user guide, "Request redirection and the REST API"). The region stands in the header
/// `x-amz-bucket-region`, or in the body as `<Region>` or as a part of `<Endpoint>`.
fn whereabouts(error: &GetError, bucket: &str, asked: &str) -> Whereabouts {
    let SdkError::ServiceError(answer) = error else { return Whereabouts::Here };
    let raw = answer.raw();
    let body = raw.body().bytes().map(String::from_utf8_lossy).unwrap_or_default();
    let region = raw.headers().get("x-amz-bucket-region").map(str::to_owned);
    let region = region.or_else(|| element(&body, "Region").map(str::to_owned));
    let region = region.or_else(|| {
        let host = element(&body, "Endpoint")?;
        let host = host.strip_prefix(bucket).unwrap_or(host);
        // "s3.us-west-2.amazonaws.com", "s3-us-west-2.amazonaws.com", "s3.dualstack.us-west-2.amazonaws.com"
        host.split('.')
            .map(|label| label.strip_prefix("s3-").unwrap_or(label))
            .find(|label| is_region(label))
            .map(str::to_owned)
    });
    let redirected = (300..400).contains(&raw.status().as_u16())
        || matches!(answer.err().meta().code(), Some("PermanentRedirect" | "TemporaryRedirect"));
    match region {
        Some(region) if region != asked => Whereabouts::Named(region),
        _ if redirected => Whereabouts::Unknown,
        _ => Whereabouts::Here,
    }
}

/// The text of the first element of that name.
fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text.trim())
}

/// Whether this has the form of a region's name, as `us-east-1`, `us-gov-west-1`, `eusc-de-east-1`. An answer's word becomes
/// a part of the host that the next request is sent to, so nothing else may be in it.
fn is_region(text: &str) -> bool {
    let words: Vec<&str> = text.split('-').collect();
    let [first, middle @ .., last] = words.as_slice() else { return false };
    let letters = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
    text.len() <= 32
        && (2..=4).contains(&first.len())
        && letters(first)
        && !middle.is_empty()
        && middle.iter().all(letters)
        && (1..=2).contains(&last.len())
        && last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use aws_credential_types::Credentials;
    use aws_credential_types::provider::SharedCredentialsProvider;
    use aws_smithy_runtime_api::client::http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
    };
    use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
    use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
    use aws_smithy_types::body::SdkBody;

    use super::*;

    #[test]
    fn only_what_has_the_form_of_a_region_is_one() {
        let regions = "us-east-1 us-gov-west-1 eu-central-2 ap-southeast-12 cn-north-1 us-isob-east-1 eu-isoe-west-1 \
            il-central-1 mx-central-1 eusc-de-east-1";
        assert!(regions.split_whitespace().all(is_region), "{regions}");
        let others = [
            "",
            "EU",
            "us-east",
            "us-1",
            "1",
            "-",
            "--1",
            "us--1",
            "US-EAST-1",
            "us-east-1.evil.com",
            "us-east-1/",
            "us-east-1:80",
            "us-east-1@x",
            "us-east-123",
            "u-east-1",
            "aws-global",
            "us-east-1a",
            "us-e\u{e4}st-1",
            " us-east-1",
            "us-east-1\n",
            "aaaa-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-1",
        ];
        assert_eq!(others.iter().find(|text| is_region(text)), None);
    }

    /// Status, `x-amz-bucket-region`, body.
    type First = (u16, Option<&'static str>, &'static str);

    /// Answers the first request with this and every later one with an object; keeps their addresses and signatures.
    #[derive(Clone, Debug)]
    struct Answers {
        first: Arc<Mutex<Option<First>>>,
        seen: Arc<Mutex<Vec<(String, String)>>>,
    }

    impl HttpConnector for Answers {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            let signature = request.headers().get("authorization").unwrap_or_default().to_owned();
            self.seen.lock().unwrap().push((request.uri().to_owned(), signature));
            let answer = self.first.lock().unwrap().take();
            let (status, region, body) = answer.unwrap_or((200, None, "contents"));
            let mut answer = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
            if let Some(region) = region {
                answer.headers_mut().insert("x-amz-bucket-region", region);
            }
            HttpConnectorFuture::ready(Ok(answer))
        }
    }

    impl HttpClient for Answers {
        fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
            SharedHttpConnector::new(self.clone())
        }
    }

    const MOVED: &str =
        "<Error><Code>PermanentRedirect</Code><Endpoint>the-bucket.s3-us-west-2.amazonaws.com</Endpoint></Error>";
    const DUALSTACK: &str = "<Error><Code>TemporaryRedirect</Code><Endpoint>the-bucket.s3.dualstack.eu-west-3.amazonaws.com</Endpoint></Error>";
    const STRICT: &str = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-3</Region></Error>";

    #[tokio::test]
    async fn a_bucket_is_asked_for_in_its_region_at_that_regions_host_and_signed_for_it() {
        // Our region; FIPS and dual stack; the first answer; the region it was signed for, and the host.
        let cases: [(&str, bool, bool, First, &str, &str); 7] = [
            ("us-east-1", false, false, (301, Some("eu-west-3"), MOVED), "eu-west-3", "s3.eu-west-3.amazonaws.com"),
            ("us-east-1", false, false, (301, None, MOVED), "us-west-2", "s3.us-west-2.amazonaws.com"),
            ("us-east-1", true, false, (301, None, MOVED), "us-west-2", "s3-fips.us-west-2.amazonaws.com"),
            ("us-east-1", false, true, (307, None, DUALSTACK), "eu-west-3", "s3.dualstack.eu-west-3.amazonaws.com"),
            ("us-east-1", false, false, (400, None, STRICT), "eu-west-3", "s3.eu-west-3.amazonaws.com"),
            ("us-east-1", false, false, (403, Some("eu-west-3"), ""), "eu-west-3", "s3.eu-west-3.amazonaws.com"),
            (
                "cn-north-1",
                false,
                false,
                (301, Some("cn-northwest-1"), ""),
                "cn-northwest-1",
                "s3.cn-northwest-1.amazonaws.com.cn",
            ),
        ];
        for (ours, fips, dual_stack, first, region, host) in cases {
            let answers = Answers { first: Arc::new(Mutex::new(Some(first))), seen: Arc::default() };
            let keys = Credentials::new("AKIDEXAMPLE", "secret", None, None, "test");
            let config = SdkConfig::builder()
                .behavior_version(aws_config::BehaviorVersion::v2026_01_12())
                .region(Region::new(ours))
                .use_fips(fips)
                .use_dual_stack(dual_stack)
                .credentials_provider(SharedCredentialsProvider::new(keys))
                .retry_config(aws_config::retry::RetryConfig::disabled())
                .http_client(answers.clone())
                .build();
            let s3 = S3::new(&config);
            let scratch = tempfile::tempdir().unwrap();
            for _ in 0..2 {
                let fetched = s3.fetch("the object", "the-bucket", "key", scratch.path()).await.unwrap();
                assert_eq!(fetched.size, 8);
            }
            let seen = answers.seen.lock().unwrap().clone();
            // The second time it is known where the bucket is.
            assert_eq!(seen.len(), 3, "{seen:?}");
            for (url, signature) in &seen[1..] {
                assert_eq!(url.split('?').next(), Some(format!("https://the-bucket.{host}/key").as_str()));
                assert!(signature.contains(&format!("/{region}/s3/aws4_request")), "{signature}");
            }
        }
    }

    #[tokio::test]
    async fn what_says_nothing_of_the_buckets_place_is_not_followed() {
        for first in
            [(403, Some("us-east-1"), ""), (404, None, "<Error><Code>NoSuchKey</Code></Error>"), (400, None, "")]
        {
            let answers = Answers { first: Arc::new(Mutex::new(Some(first))), seen: Arc::default() };
            let config = SdkConfig::builder()
                .behavior_version(aws_config::BehaviorVersion::v2026_01_12())
                .region(Region::new("us-east-1"))
                .retry_config(aws_config::retry::RetryConfig::disabled())
                .http_client(answers.clone())
                .build();
            let refused = S3::new(&config).try_get("the-bucket", "key").await.unwrap_err();
            assert_ne!(refused.code, Code::BucketElsewhere, "{refused}");
            assert!(answers.seen.lock().unwrap().len() < 2, "{first:?}");
        }
    }
}
