//! `https://`: what is fetched over the network, and where a redirect may lead.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::Url;
use reqwest::redirect::{Action, Attempt, Policy};

use super::{Fetched, Sink};
use crate::aws::error;
use crate::aws::proxy::{BadProxy, Proxies, Proxy, ProxyError};
use crate::config::without_secrets;
use crate::failure::{Code, Failure};

/// A server that sends nothing for this long is asked again.
const STALL: Duration = Duration::from_secs(20);

/// Streams what is at `url` into an unnamed file in `scratch`.
pub(super) async fn fetch(
    client: &reqwest::Client,
    proxies: &Proxies,
    name: &str,
    url: &str,
    scratch: &Path,
) -> Result<Fetched, Failure> {
    let proxy = match Url::parse(url) {
        Ok(url) => proxies.of(&url).map_err(BadProxy::failure)?.map(|proxy| (proxy.clone(), host(&url))),
        Err(_) => None,
    };
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
pub(super) fn interrupted(
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
