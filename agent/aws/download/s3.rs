//! `s3://`: objects, whatever their bucket's region.

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

pub(super) struct S3 {
    client: aws_sdk_s3::Client,
    /// The default region.
    region: String,
    /// The regions of buckets that are not in the default region, from S3's answers.
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
                "allow s3:GetObject on it in the instance role's policy and the bucket's; S3 answers the same for an \
                 object that does not exist: aws s3 ls {name}; then: node-agent retry"
            )),
            _ => error.about(name),
        })?;
        let (mut sink, mut body) = (Sink::new(name.to_owned(), scratch)?, answer.body);
        while let Some(chunk) = body.next().await {
            sink.take(&chunk.map_err(|error| interrupted(name, None, error))?)?;
        }
        sink.end()
    }

    pub(super) async fn try_get(&self, bucket: &str, key: &str) -> Result<(), Failure> {
        match self.get_object(bucket, key, Some("bytes=0-0")).await {
            // An empty object has no first byte.
            Err(error) if !error.is("InvalidRange") => Err(error.failure),
            _ => Ok(()),
        }
    }

    /// Requests the object; if S3 says that the bucket is in another region, requests it there.
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
            let refused = error::read(GET, &error);
            let said = &refused.failure;
            let elsewhere = |text: String| Err(Failure::new(Code::BucketElsewhere, text));
            let named = match bucket_region(&error, bucket, ours) {
                BucketRegion::Same => return Err(refused),
                BucketRegion::Named(region) if is_region(&region) => Ok(region),
                BucketRegion::Named(region) => elsewhere(format!(
                    "S3 says that the bucket {bucket} is in {region:?}, which is not a region: {said}"
                )),
                BucketRegion::Unnamed => elsewhere(format!(
                    "the bucket {bucket} is in another region than {ours}, and S3 does not say in which: {said}"
                )),
            };
            named.map_err(|failure| CallError { failure, ..refused })?
        };
        tracing::debug!("the bucket {bucket} is in {region}, not in {ours}: requesting the object there");
        let error = match self.request(bucket, key, range, Some(&region)).await {
            Ok(answer) => {
                self.elsewhere.borrow_mut().insert(bucket.to_owned(), region);
                return Ok(answer);
            }
            Err(error) => error,
        };
        let mut refused = error::read(GET, &error);
        if bucket_region(&error, bucket, &region) != BucketRegion::Same {
            self.elsewhere.borrow_mut().remove(bucket);
            let said = refused.failure;
            let text = format!(
                "S3 says that the bucket {bucket} is in {region}, not in {ours}, and it cannot be read there either: {said}"
            );
            refused.failure = Failure::new(Code::BucketElsewhere, text);
            return Err(refused);
        }
        // Also after a failure: if S3 in our region then fails, the embedded script must not replace the object.
        self.elsewhere.borrow_mut().insert(bucket.to_owned(), region.clone());
        if refused.failure.class() == Class::Outage && refused.failure.code != Code::CertificateUntrusted {
            let text = format!("the bucket {bucket} is in {region}, not in {ours}, and S3 there: {}", refused.failure);
            refused.failure = Failure::new(Code::BucketUnreachable, text);
        } else {
            refused.failure.message = format!("in {region}, where the bucket is: {}", refused.failure.message);
        }
        Err(refused)
    }

    /// One request. `region` changes the endpoint, too, unless the environment sets one.
    async fn request(&self, bucket: &str, key: &str, range: Option<&str>, region: Option<&str>) -> GetResult {
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
type GetResult = Result<GetObjectOutput, GetError>;

/// What S3's answer says of the bucket's region.
#[derive(PartialEq, Eq)]
enum BucketRegion {
    /// Nothing: the bucket is where it was requested.
    Same,
    /// The bucket is in another region, by this name.
    Named(String),
    /// The bucket is in another region, which the answer does not name.
    Unnamed,
}

/// Reads S3's refusal (S3 user guide, "Request redirection and the REST API"). The region is in the header
/// `x-amz-bucket-region`, or in the body as `<Region>` or as a part of `<Endpoint>`.
fn bucket_region(error: &GetError, bucket: &str, asked: &str) -> BucketRegion {
    let SdkError::ServiceError(answer) = error else { return BucketRegion::Same };
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
        Some(region) if region != asked => BucketRegion::Named(region),
        _ if redirected => BucketRegion::Unnamed,
        _ => BucketRegion::Same,
    }
}

/// The text of the first XML element of this name.
fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text.trim())
}

/// Whether this has the form of a region's name, as `us-east-1`, `us-gov-west-1`, `eusc-de-east-1`. Strict, because the name
/// from the answer becomes a part of the next request's host.
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
        let others = ",EU,us-east,us-1,1,-,--1,us--1,US-EAST-1,us-east-1.evil.com,us-east-1/,us-east-1:80,us-east-1@x,\
            us-east-123,u-east-1,aws-global,us-east-1a,us-e\u{e4}st-1,\u{20}us-east-1,us-east-1\n,\
            aaaa-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-1";
        assert_eq!(others.split(',').find(|text| is_region(text)), None);
    }

    /// Status, `x-amz-bucket-region`, body.
    type First = (u16, Option<&'static str>, &'static str);

    /// Answers the first request with `first`, the others with an object; records their addresses and signatures.
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

    /// A machine in this region, to which S3 answers so.
    fn answering(first: First, ours: &'static str) -> (Answers, aws_types::sdk_config::Builder) {
        let answers = Answers { first: Arc::new(Mutex::new(Some(first))), seen: Arc::default() };
        let keys = Credentials::new("AKIDEXAMPLE", "secret", None, None, "test");
        let config = SdkConfig::builder()
            .behavior_version(aws_config::BehaviorVersion::v2026_01_12())
            .region(Region::new(ours))
            .credentials_provider(SharedCredentialsProvider::new(keys))
            .retry_config(aws_config::retry::RetryConfig::disabled())
            .http_client(answers.clone());
        (answers, config)
    }

    const MOVED: &str =
        "<Error><Code>PermanentRedirect</Code><Endpoint>the-bucket.s3-us-west-2.amazonaws.com</Endpoint></Error>";
    const DUALSTACK: &str = "<Error><Code>TemporaryRedirect</Code><Endpoint>the-bucket.s3.dualstack.eu-west-3.amazonaws.com</Endpoint></Error>";
    const STRICT: &str = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-3</Region></Error>";

    #[tokio::test]
    async fn a_request_for_a_bucket_elsewhere_goes_to_its_region_and_is_signed_for_it() {
        // Our region; FIPS and dual stack; the first answer; the region the others are signed for, and the host.
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
            let (answers, config) = answering(first, ours);
            let s3 = S3::new(&config.use_fips(fips).use_dual_stack(dual_stack).build());
            let scratch = tempfile::tempdir().unwrap();
            for _ in 0..2 {
                let fetched = s3.fetch("the object", "the-bucket", "key", scratch.path()).await.unwrap();
                assert_eq!(fetched.size, 8);
            }
            let seen = answers.seen.lock().unwrap().clone();
            // The second fetch knows the bucket's region.
            assert_eq!(seen.len(), 3, "{seen:?}");
            for (url, signature) in &seen[1..] {
                assert_eq!(url.split('?').next(), Some(format!("https://the-bucket.{host}/key").as_str()));
                assert!(signature.contains(&format!("/{region}/s3/aws4_request")), "{signature}");
            }
        }
    }

    #[tokio::test]
    async fn an_answer_without_another_region_is_not_followed() {
        for first in
            [(403, Some("us-east-1"), ""), (404, None, "<Error><Code>NoSuchKey</Code></Error>"), (400, None, "")]
        {
            let (answers, config) = answering(first, "us-east-1");
            let refused = S3::new(&config.build()).try_get("the-bucket", "key").await.unwrap_err();
            assert_ne!(refused.code, Code::BucketElsewhere, "{refused}");
            assert_eq!(answers.seen.lock().unwrap().len(), 1, "{first:?}");
        }
    }
}
