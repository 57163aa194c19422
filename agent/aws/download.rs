//! Fetching files and scripts: `s3://`, `https://`, `file://`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_config::{Region, SdkConfig};
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use futures_util::StreamExt;
use reqwest::Url;
use reqwest::redirect::{Action, Attempt, Policy};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use super::error::{self, CallError};
use super::proxy::{BadProxy, Proxies, Proxy, ProxyError};
use crate::config::{Sha256Digest, Source, without_secrets};
use crate::failure::{Class, Code, Failure, Named};
use crate::host::read::{self, Pipes, Unreadable};

/// A file larger than this is no node file: the hook should fetch it to the data volume instead.
pub const LIMIT: u64 = 256 * 1024 * 1024;

/// A server that sends nothing for this long is asked again.
const STALL: Duration = Duration::from_secs(20);

/// Where files and scripts come from.
#[derive(Debug)]
pub struct Sources {
    s3: aws_sdk_s3::Client,
    /// The region that requests to S3 are signed for, unless the bucket is known to be elsewhere.
    region: String,
    /// The regions of buckets that are elsewhere, by S3's answers.
    elsewhere: RefCell<BTreeMap<String, String>>,
    proxies: Arc<Proxies>,
    /// Made when first needed: reading the trust store takes longer than all the rest of a start.
    https: OnceCell<reqwest::Client>,
}

/// Fetched contents, on disk and without a name there.
#[derive(Debug)]
pub struct Fetched {
    /// Read from the start.
    pub file: File,
    /// Of the contents.
    pub sha256: Sha256Digest,
    /// In bytes.
    pub size: u64,
}

impl Fetched {
    /// Contents that are at hand, put where fetched ones are.
    pub fn inline(contents: &[u8], scratch: &Path) -> Result<Self, Failure> {
        let mut sink = Sink::new("inline contents".to_owned(), scratch)?;
        sink.take(contents)?;
        sink.end()
    }
}

impl Sources {
    pub(super) fn new(config: &SdkConfig, proxies: Arc<Proxies>) -> Self {
        let region = config.region().map(ToString::to_string).unwrap_or_default();
        let (s3, elsewhere, https) = (aws_sdk_s3::Client::new(config), RefCell::default(), OnceCell::new());
        Sources { s3, region, elsewhere, proxies, https }
    }

    /// Streams `source` into an unnamed file in `scratch`. The storage of a local file may keep it waiting for `patience`;
    /// the callers bound what comes over the network.
    pub async fn fetch(&self, source: &Source, scratch: &Path, patience: Duration) -> Result<Fetched, Failure> {
        let name = source.to_string();
        match source {
            Source::File(path) => fetch_local(name, path, scratch, patience).await,
            Source::S3 { bucket, key } => self.fetch_s3(&name, bucket, key, scratch).await,
            Source::Https(url) => self.fetch_https(&name, url, scratch).await,
        }
    }

    async fn fetch_s3(&self, name: &str, bucket: &str, key: &str, scratch: &Path) -> Result<Fetched, Failure> {
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

    /// Whether an object is there and may be read, its key for encryption too: reads its first byte. Not `HeadObject`,
    /// whose refusals say nothing. Not allowed is a failure with the code `AccessDenied`.
    pub async fn try_s3(&self, bucket: &str, key: &str) -> Result<(), Failure> {
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
        let request = self.s3.get_object().bucket(bucket).key(key).set_range(range.map(str::to_owned));
        match region {
            None => request.send().await,
            Some(region) => {
                let there = aws_sdk_s3::config::Builder::new().region(Region::new(region.to_owned()));
                request.customize().config_override(there).send().await
            }
        }
    }

    async fn fetch_https(&self, name: &str, url: &str, scratch: &Path) -> Result<Fetched, Failure> {
        let proxy = match Url::parse(url) {
            Ok(url) => self.proxies.of(&url).map_err(BadProxy::failure)?.map(|proxy| (proxy.clone(), host(&url))),
            Err(_) => None,
        };
        let client = self.https.get_or_try_init(async || https_client(&self.proxies)).await?;
        let answer = client.get(url).send().await;
        let answer = answer.map_err(|error| match error::find::<Astray>(&error) {
            Some(astray) => astray.failure(name),
            None => interrupted(name, proxy.as_ref(), error.without_url()),
        })?;
        let status = answer.status();
        if status.is_server_error() || status.as_u16() == 429 {
            return Err(Failure::new(Code::ApiOverloaded, format!("{name} answers {status}")));
        }
        if status.is_redirection() {
            let text = format!("{name} answers {status}, without saying where to");
            return Err(Failure::new(Code::RedirectRefused, text));
        }
        if !status.is_success() {
            return Err(Failure::new(Code::DownloadFailed, format!("{name} answers {status}")));
        }
        let mut sink = Sink::new(name.to_owned(), scratch)?;
        let mut body = answer.bytes_stream();
        while let Some(chunk) = body.next().await {
            sink.take(&chunk.map_err(|error| interrupted(name, proxy.as_ref(), error.without_url()))?)?;
        }
        sink.end()
    }
}

/// A local file is read on a thread of its own: what it lies on may not answer.
async fn fetch_local(name: String, path: &Path, scratch: &Path, patience: Duration) -> Result<Fetched, Failure> {
    let (path, scratch) = (path.to_owned(), scratch.to_owned());
    let about = name.clone();
    let copied = tokio::task::spawn_blocking(move || {
        read::aside(patience, move || {
            let mut file = read::open(&path, LIMIT, Pipes::Refused)?;
            let mut sink = Sink::new(name, &scratch)?;
            read::copy(&mut file, LIMIT, |chunk| sink.take(chunk).map_err(Local::Failed))?;
            Ok(sink.end()?)
        })
    });
    match copied.await {
        Ok(Ok(fetched)) => Ok(fetched),
        Ok(Err(Local::Failed(failure))) => Err(failure),
        Ok(Err(Local::Unreadable(why))) => Err(unreadable(&about, &why)),
        Err(error) => Err(Failure::new(Code::DownloadFailed, format!("reading {about}")).because(error)),
    }
}

/// A failure of one side or the other.
enum Local {
    Unreadable(Unreadable),
    Failed(Failure),
}

impl From<Unreadable> for Local {
    fn from(why: Unreadable) -> Self {
        Local::Unreadable(why)
    }
}

impl From<Failure> for Local {
    fn from(failure: Failure) -> Self {
        Local::Failed(failure)
    }
}

/// The failure of a local file or script that was not read.
pub fn unreadable(name: &str, why: &Unreadable) -> Failure {
    let code = match why {
        Unreadable::TooLarge(_) => Code::DownloadTooLarge,
        Unreadable::Silent(_) => Code::StorageSilent,
        Unreadable::Io(_) | Unreadable::Not(_) | Unreadable::EmptyPipe => Code::DownloadFailed,
    };
    Failure::new(code, format!("{name} {why}"))
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

/// A redirect that is not followed.
#[derive(Debug, thiserror::Error)]
#[error("a redirect that is not followed")]
enum Astray {
    Unencrypted(String),
    Circle(String),
    TooFar(String),
}

impl Astray {
    /// How often a request is led on at most.
    const LIMIT: usize = 10;

    fn judge(attempt: Attempt<'_>) -> Action {
        let shown = || without_secrets(attempt.url().as_str());
        if attempt.url().scheme() != "https" {
            let astray = Astray::Unencrypted(shown());
            attempt.error(astray)
        } else if attempt.previous().contains(attempt.url()) {
            let astray = Astray::Circle(shown());
            attempt.error(astray)
        } else if attempt.previous().len() > Astray::LIMIT {
            let astray = Astray::TooFar(shown());
            attempt.error(astray)
        } else {
            attempt.follow()
        }
    }

    fn failure(&self, name: &str) -> Failure {
        match self {
            Astray::Unencrypted(url) => {
                let text = format!("{name} leads to an address that is not encrypted: {url}");
                Failure::new(Code::RedirectRefused, text).remedy(
                    "what comes unencrypted can be changed on its way: have the server lead to an https:// address, or \
                     write the file's own https:// or s3:// address as the source; then: node-agent retry",
                )
            }
            Astray::Circle(url) => {
                Failure::new(Code::RedirectRefused, format!("{name} leads back to {url}: a redirect loop"))
            }
            Astray::TooFar(url) => {
                let text = format!("{name} leads from address to address, at last to {url}");
                Failure::new(Code::RedirectRefused, text)
            }
        }
    }
}

/// A client for https; fails where no CA certificates are found.
pub fn https_client(proxies: &Arc<Proxies>) -> Result<reqwest::Client, Failure> {
    let proxies = Arc::clone(proxies);
    reqwest::Client::builder()
        .https_only(true)
        .redirect(Policy::custom(Astray::judge))
        .proxy(reqwest::Proxy::custom(move |url| proxies.of(url).ok().flatten().map(|proxy| proxy.url().clone())))
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(STALL)
        .build()
        .map_err(|error| {
            Failure::new(Code::DownloadFailed, "https cannot be used")
                .remedy("install the CA certificates (package ca-certificates), then: node-agent retry")
                .because(error)
        })
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

/// `proxy` is the one that was taken, and for which host.
fn interrupted(
    name: &str,
    proxy: Option<&(Proxy, String)>,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Failure {
    let code = if error::is_untrusted(&error) { Code::CertificateUntrusted } else { Code::ApiUnreachable };
    let failure = Failure::new(code, format!("fetching {name}"));
    match proxy {
        None => failure.because(error),
        Some((proxy, host)) => {
            let error = ProxyError::new(proxy, host, error);
            error.refine(failure).because(error)
        }
    }
}

/// Takes contents up to [`LIMIT`] and digests them on the way.
struct Sink {
    name: String,
    file: File,
    digest: Sha256,
    size: u64,
}

impl Sink {
    fn new(name: String, scratch: &Path) -> Result<Self, Failure> {
        let file = tempfile::tempfile_in(scratch).named(format_args!("making a file in {}", scratch.display()))?;
        Ok(Sink { name, file, digest: Sha256::new(), size: 0 })
    }

    fn take(&mut self, chunk: &[u8]) -> Result<(), Failure> {
        self.size += chunk.len() as u64;
        if self.size > LIMIT {
            let text = format!("{} is larger than {} MiB", self.name, LIMIT >> 20);
            return Err(Failure::new(Code::DownloadTooLarge, text));
        }
        self.digest.update(chunk);
        self.file.write_all(chunk).named(format_args!("storing {}", self.name))
    }

    fn end(mut self) -> Result<Fetched, Failure> {
        self.file.rewind().named(format_args!("storing {}", self.name))?;
        let digest: [u8; 32] = self.digest.finalize().into();
        Ok(Fetched { file: self.file, sha256: Sha256Digest(digest), size: self.size })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

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
            let sources = Sources::new(&config, Arc::default());
            let source = Source::S3 { bucket: "the-bucket".to_owned(), key: "key".to_owned() };
            let scratch = tempfile::tempdir().unwrap();
            for _ in 0..2 {
                let fetched = sources.fetch(&source, scratch.path(), Duration::from_secs(5)).await.unwrap();
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
            let sources = Sources::new(&config, Arc::default());
            let refused = sources.try_s3("the-bucket", "key").await.unwrap_err();
            assert_ne!(refused.code, Code::BucketElsewhere, "{refused}");
            assert!(answers.seen.lock().unwrap().len() < 2, "{first:?}");
        }
    }
}
