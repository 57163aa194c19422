//! Fetching files and scripts: `s3://`, `https://`, `file://`.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::Path;
use std::time::Duration;

use aws_config::SdkConfig;
use futures_util::StreamExt;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use super::error;
use crate::config::{Sha256Digest, Source};
use crate::failure::{Code, Failure, Named};

/// A file larger than this is no node file: the hook should fetch it to the data volume instead.
pub const LIMIT: u64 = 256 * 1024 * 1024;

/// A server that sends nothing for this long is asked again.
const STALL: Duration = Duration::from_secs(20);

/// Where files and scripts come from.
#[derive(Debug)]
pub struct Sources {
    s3: aws_sdk_s3::Client,
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
        let mut sink = Sink::new("inline contents", scratch)?;
        sink.take(contents)?;
        sink.end()
    }
}

impl Sources {
    pub(super) fn new(config: &SdkConfig) -> Self {
        Sources { s3: aws_sdk_s3::Client::new(config), https: OnceCell::new() }
    }

    /// Streams `source` into an unnamed file in `scratch`.
    pub async fn fetch(&self, source: &Source, scratch: &Path) -> Result<Fetched, Failure> {
        let name = source.to_string();
        match source {
            Source::File(path) => {
                let contents = fs::read(path)
                    .map_err(|error| Failure::new(Code::DownloadFailed, format!("reading {name}")).because(error))?;
                Fetched::inline(&contents, scratch)
            }
            Source::S3 { bucket, key } => self.fetch_s3(&name, bucket, key, scratch).await,
            Source::Https(url) => self.fetch_https(&name, url, scratch).await,
        }
    }

    async fn fetch_s3(&self, name: &str, bucket: &str, key: &str, scratch: &Path) -> Result<Fetched, Failure> {
        let answer = self.s3.get_object().bucket(bucket).key(key).send().await;
        let answer = answer.map_err(|error| {
            let error = error::read("s3:GetObject", &error);
            match error.failure.code {
                Code::ApiRefused => Failure::new(Code::DownloadFailed, format!("{name}: {}", error.failure)),
                Code::AccessDenied => error.about(name).remedy(format!(
                    "allow s3:GetObject on it in the instance role's policy and the bucket's; S3 says the same of an object \
                     that is not there: aws s3 ls {name}; then: node-agent retry"
                )),
                _ => error.about(name),
            }
        })?;
        let mut sink = Sink::new(name, scratch)?;
        let mut body = answer.body;
        while let Some(chunk) = body.next().await {
            sink.take(&chunk.map_err(|error| interrupted(name, error))?)?;
        }
        sink.end()
    }

    /// Whether an object is there and may be read, its key for encryption too: reads its first byte. Not `HeadObject`,
    /// whose refusals say nothing. Not allowed is a failure with the code `AccessDenied`.
    pub async fn try_s3(&self, bucket: &str, key: &str) -> Result<(), Failure> {
        let answer = self.s3.get_object().bucket(bucket).key(key).range("bytes=0-0").send().await;
        match answer.map_err(|error| error::read("s3:GetObject", &error)) {
            // An empty object has no first byte.
            Err(error) if !error.is("InvalidRange") => Err(error.failure),
            _ => Ok(()),
        }
    }

    async fn fetch_https(&self, name: &str, url: &str, scratch: &Path) -> Result<Fetched, Failure> {
        let client = self.https.get_or_try_init(async || https_client()).await?;
        let answer = client.get(url).send().await.map_err(|error| interrupted(name, error))?;
        let status = answer.status();
        if status.is_server_error() || status.as_u16() == 429 {
            return Err(Failure::new(Code::ApiOverloaded, format!("{name} answers {status}")));
        }
        if !status.is_success() {
            return Err(Failure::new(Code::DownloadFailed, format!("{name} answers {status}")));
        }
        let mut sink = Sink::new(name, scratch)?;
        let mut body = answer.bytes_stream();
        while let Some(chunk) = body.next().await {
            sink.take(&chunk.map_err(|error| interrupted(name, error))?)?;
        }
        sink.end()
    }
}

/// A client for https; fails where no CA certificates are found.
pub fn https_client() -> Result<reqwest::Client, Failure> {
    reqwest::Client::builder()
        .https_only(true)
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(STALL)
        .build()
        .map_err(|error| {
            Failure::new(Code::DownloadFailed, "https cannot be used")
                .remedy("install the CA certificates (package ca-certificates), then: node-agent retry")
                .because(error)
        })
}

fn interrupted(name: &str, error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    let code = if error::is_untrusted(&error) { Code::CertificateUntrusted } else { Code::ApiUnreachable };
    Failure::new(code, format!("fetching {name}")).because(error)
}

/// Takes contents up to [`LIMIT`] and digests them on the way.
struct Sink<'a> {
    name: &'a str,
    file: File,
    digest: Sha256,
    size: u64,
}

impl<'a> Sink<'a> {
    fn new(name: &'a str, scratch: &Path) -> Result<Self, Failure> {
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
