//! `https://`: downloads, and the redirects they may follow.

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

/// A server that sends nothing for this long has failed, and the fetch is retried.
const STALL: Duration = Duration::from_secs(20);

/// Streams `url` into an unnamed file in `scratch`.
pub(super) async fn fetch(
    client: &reqwest::Client,
    proxies: &Proxies,
    name: &str,
    url: &str,
    scratch: &Path,
) -> Result<Fetched, Failure> {
    let proxy = match Url::parse(url) {
        Ok(url) => {
            let proxy = proxies.of(&url).map_err(BadProxy::failure)?;
            proxy.map(|proxy| (proxy.clone(), url.host_str().unwrap_or_default().to_owned()))
        }
        Err(_) => None,
    };
    let answer = client.get(url).send().await;
    let answer = answer.map_err(|error| match error::find::<BadRedirect>(&error) {
        Some(redirect) => redirect.failure(name),
        None => interrupted(name, proxy.as_ref(), error.without_url()),
    })?;
    let status = answer.status();
    if status.is_server_error() || status.as_u16() == 429 {
        return Err(Failure::new(Code::ApiOverloaded, format!("{name} answers {status}")));
    }
    if status.is_redirection() {
        return Err(Failure::new(Code::RedirectRefused, format!("{name} answers {status}, without a new address")));
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

/// A redirect that is not followed, with its target.
#[derive(Debug, thiserror::Error)]
#[error("a redirect that is not followed")]
enum BadRedirect {
    Unencrypted(String),
    Loop(String),
    TooMany(String),
}

impl BadRedirect {
    /// The most redirects that are followed.
    const LIMIT: usize = 10;

    fn check(attempt: Attempt<'_>) -> Action {
        let reason = if attempt.url().scheme() != "https" {
            BadRedirect::Unencrypted
        } else if attempt.previous().contains(attempt.url()) {
            BadRedirect::Loop
        } else if attempt.previous().len() > BadRedirect::LIMIT {
            BadRedirect::TooMany
        } else {
            return attempt.follow();
        };
        let target = without_secrets(attempt.url().as_str());
        attempt.error(reason(target))
    }

    fn failure(&self, name: &str) -> Failure {
        match self {
            BadRedirect::Unencrypted(url) => {
                let text = format!("{name} redirects to an unencrypted address: {url}");
                Failure::new(Code::RedirectRefused, text).remedy(
                    "an unencrypted download can be tampered with: have the server redirect to an https:// address, or \
                     write the file's own https:// or s3:// address as the source; then: node-agent retry",
                )
            }
            BadRedirect::Loop(url) => {
                Failure::new(Code::RedirectRefused, format!("{name} redirects in a loop, back to {url}"))
            }
            BadRedirect::TooMany(url) => {
                Failure::new(Code::RedirectRefused, format!("{name} redirects too often, at last to {url}"))
            }
        }
    }
}

/// A client for https; fails without CA certificates.
pub fn https_client(proxies: &Arc<Proxies>) -> Result<reqwest::Client, Failure> {
    let proxies = Arc::clone(proxies);
    reqwest::Client::builder()
        .https_only(true)
        .redirect(Policy::custom(BadRedirect::check))
        .proxy(reqwest::Proxy::custom(move |url| proxies.of(url).ok().flatten().map(|proxy| proxy.url.clone())))
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(STALL)
        .build()
        .map_err(|error| {
            Failure::new(Code::DownloadFailed, "https cannot be used")
                .remedy("install the CA certificates (package ca-certificates), then: node-agent retry")
                .because(error)
        })
}

/// The failure of a broken transfer, through `proxy` to the host beside it.
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
