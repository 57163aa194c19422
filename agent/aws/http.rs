//! The HTTP clients below the AWS clients: one connects directly, one through the environment's proxies.

use std::sync::Arc;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use reqwest::Url;

use super::proxy::{Proxies, Proxy, ProxyError};

/// Connects to every host directly.
pub(super) fn direct() -> SharedHttpClient {
    Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

/// Connects to each host through its proxy, if it has one.
pub(super) fn routed(direct: &SharedHttpClient, proxies: &Arc<Proxies>) -> SharedHttpClient {
    if proxies.is_empty() {
        return direct.clone();
    }
    let through = proxies.valid().map(|proxy| (proxy.clone(), through(proxy))).collect();
    SharedHttpClient::new(Routed { proxies: Arc::clone(proxies), direct: direct.clone(), through })
}

/// Connects to every host through this proxy.
fn through(proxy: &Proxy) -> SharedHttpClient {
    let url = proxy.url.to_string();
    Builder::new().build_with_connector_fn(move |settings, components| {
        let config = ProxyConfig::all(url.as_str()).unwrap_or_else(|error| {
            // Unreachable: this client accepts every URL that `Proxy::parse` does.
            tracing::error!("a proxy's URL: {error}");
            ProxyConfig::disabled()
        });
        let mut builder = Connector::builder().proxy_config(config).tls_provider(Provider::Rustls(CryptoMode::Ring));
        builder.set_connector_settings(settings.cloned());
        builder.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        builder.build()
    })
}

/// Chooses the proxy per request.
#[derive(Debug)]
struct Routed {
    proxies: Arc<Proxies>,
    direct: SharedHttpClient,
    through: Vec<(Proxy, SharedHttpClient)>,
}

impl HttpClient for Routed {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(Routes {
            proxies: Arc::clone(&self.proxies),
            direct: self.direct.http_connector(settings, components),
            through: self
                .through
                .iter()
                .map(|(proxy, client)| (proxy.clone(), client.http_connector(settings, components)))
                .collect(),
        })
    }
}

#[derive(Debug)]
struct Routes {
    proxies: Arc<Proxies>,
    direct: SharedHttpConnector,
    through: Vec<(Proxy, SharedHttpConnector)>,
}

impl HttpConnector for Routes {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Ok(url) = Url::parse(request.uri()) else { return self.direct.call(request) };
        let proxy = match self.proxies.of(&url) {
            Ok(None) => return self.direct.call(request),
            Ok(Some(proxy)) => proxy,
            Err(bad) => return HttpConnectorFuture::ready(Err(ConnectorError::user(Box::new(bad.clone())))),
        };
        let Some((_, connector)) = self.through.iter().find(|(through, _)| through == proxy) else {
            return self.direct.call(request);
        };
        let answer = connector.call(request);
        let (proxy, host) = (proxy.clone(), url.host_str().unwrap_or_default().to_owned());
        HttpConnectorFuture::new(async move {
            match answer.await {
                Ok(answer) if answer.status().as_u16() == 407 => {
                    Err(ConnectorError::other(Box::new(ProxyError::unauthorized(&proxy)), None))
                }
                Ok(answer) => Ok(answer),
                Err(error) => Err(name_proxy(&proxy, &host, error)),
            }
        })
    }
}

/// The same kind of error, naming the proxy.
fn name_proxy(proxy: &Proxy, host: &str, error: ConnectorError) -> ConnectorError {
    let (timeout, user, io, other) = (error.is_timeout(), error.is_user(), error.is_io(), error.as_other());
    let source = Box::new(ProxyError::new(proxy, host, error.into_source()));
    match () {
        () if timeout => ConnectorError::timeout(source),
        () if user => ConnectorError::user(source),
        () if io => ConnectorError::io(source),
        () => ConnectorError::other(source, other),
    }
}
