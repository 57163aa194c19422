//! Fetching files and scripts: `s3://`, `https://`, `file://`.

mod https;
mod s3;

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

pub use https::https_client;
use s3::S3;

use super::proxy::Proxies;
use crate::config::{Sha256Digest, Source};
use crate::failure::{Code, Failure, Named};
use crate::host::read::{self, Pipes, Unreadable};

/// The largest download, in bytes: a hook should fetch a larger file to the data volume.
pub const LIMIT: u64 = 256 * 1024 * 1024;

/// The clients that fetch files and scripts.
pub struct Sources {
    s3: S3,
    proxies: Arc<Proxies>,
    /// Built when first needed: reading the trust store takes longer than the rest of the agent's start.
    https: OnceCell<reqwest::Client>,
}

/// Fetched contents, in an unnamed file on disk.
#[derive(Debug)]
pub struct Fetched {
    /// Read from the start.
    pub file: File,
    pub(crate) sha256: Sha256Digest,
    /// In bytes.
    pub size: u64,
}

impl Fetched {
    /// Stores inline contents as if they had been fetched.
    pub fn inline(contents: &[u8], scratch: &Path) -> Result<Self, Failure> {
        let mut sink = Sink::new("inline contents".to_owned(), scratch)?;
        sink.take(contents)?;
        sink.end()
    }
}

impl Sources {
    pub(super) fn new(config: &SdkConfig, proxies: Arc<Proxies>) -> Self {
        Sources { s3: S3::new(config), proxies, https: OnceCell::new() }
    }

    /// Streams `source` into an unnamed file in `scratch`. `patience` bounds the wait for a local file's storage; the callers
    /// bound downloads over the network.
    pub async fn fetch(&self, source: &Source, scratch: &Path, patience: Duration) -> Result<Fetched, Failure> {
        let name = source.to_string();
        match source {
            Source::File(path) => fetch_local(name, path, scratch, patience).await,
            Source::S3 { bucket, key } => self.s3.fetch(&name, bucket, key, scratch).await,
            Source::Https(url) => {
                let client = self.https.get_or_try_init(async || https_client(&self.proxies)).await?;
                https::fetch(client, &self.proxies, &name, url, scratch).await
            }
        }
    }

    /// Tests by reading the first byte that an object exists and that IAM allows reading it and using its KMS key, or fails
    /// with `AccessDenied`. Not by `HeadObject`, whose refusals carry no reason.
    pub async fn try_s3(&self, bucket: &str, key: &str) -> Result<(), Failure> {
        self.s3.try_get(bucket, key).await
    }
}

/// Reads a local file on a thread of its own, because its storage may hang.
async fn fetch_local(name: String, path: &Path, scratch: &Path, patience: Duration) -> Result<Fetched, Failure> {
    let (path, scratch) = (path.to_owned(), scratch.to_owned());
    let about = name.clone();
    let copied = tokio::task::spawn_blocking(move || {
        read::with_deadline(patience, move || {
            let mut file = read::open(&path, LIMIT, Pipes::Refused)?;
            let mut sink = Sink::new(name, &scratch).map_err(Local::Failed)?;
            read::copy(&mut file, LIMIT, |chunk| sink.take(chunk).map_err(Local::Failed))?;
            sink.end().map_err(Local::Failed)
        })
    });
    match copied.await {
        Ok(Ok(fetched)) => Ok(fetched),
        Ok(Err(Local::Failed(failure))) => Err(failure),
        Ok(Err(Local::Unreadable(why))) => Err(unreadable(&about, &why)),
        Err(error) => Err(Failure::new(Code::DownloadFailed, format!("reading {about}")).because(error)),
    }
}

/// Failed to read the local file, or to store its contents.
enum Local {
    Unreadable(Unreadable),
    Failed(Failure),
}

impl From<Unreadable> for Local {
    fn from(why: Unreadable) -> Self {
        Local::Unreadable(why)
    }
}

/// The failure of a local file or script that cannot be read.
pub fn unreadable(name: &str, why: &Unreadable) -> Failure {
    let code = match why {
        Unreadable::TooLarge(_) => Code::DownloadTooLarge,
        Unreadable::TimedOut(_) => Code::StorageSilent,
        Unreadable::Io(_) | Unreadable::Not(_) | Unreadable::EmptyPipe => Code::DownloadFailed,
    };
    Failure::new(code, format!("{name} {why}"))
}

/// Stores and digests contents up to [`LIMIT`].
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
