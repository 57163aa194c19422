//! The https file server, for configurations that fetch from the web.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::core::Core;
use crate::error::SimError;
use crate::events::{WebCall, What};
use crate::lock;
use crate::serve::{self, Words};
use crate::wire::{Outcome, Request, Response, Service};

/// The metadata service's address on an instance (EC2 user guide).
const LINK_LOCAL: &str = "169.254.169.254";

/// What the server has, by path.
#[derive(Default)]
pub(crate) struct Pages(Mutex<BTreeMap<String, Page>>);

#[derive(Clone)]
enum Page {
    Contents(Vec<u8>),
    /// 302, to this address if the answer says where to.
    Redirect(Option<String>),
}

impl Pages {
    pub(crate) fn put(&self, path: String, bytes: Vec<u8>) {
        lock(&self.0).insert(path, Page::Contents(bytes));
    }

    pub(crate) fn redirect(&self, path: String, location: Option<String>) {
        lock(&self.0).insert(path, Page::Redirect(location));
    }

    fn get(&self, path: &str) -> Option<Page> {
        lock(&self.0).get(path).cloned()
    }
}

/// The server.
pub(crate) struct PageServer {
    pub(crate) core: Arc<Core>,
}

impl Service for PageServer {
    async fn answer(&self, request: Request) -> Outcome {
        let action = format!("https:{} {}", request.method, request.path);
        let fault = self.core.strike(&action);
        let handled = serve::under(fault.as_ref(), &PlainWords, |_| match self.core.pages.get(&request.path) {
            Some(Page::Redirect(location)) => {
                let response = plain(302, "elsewhere");
                location.into_iter().fold(response, |response, location| response.with("Location", location))
            }
            Some(Page::Contents(body)) if request.method == "GET" => {
                Response::new(200, "application/octet-stream", body)
            }
            Some(Page::Contents(body)) if request.method == "HEAD" => {
                Response::new(200, "application/octet-stream", body).head_only()
            }
            Some(_) => plain(405, "method not allowed"),
            None => plain(404, "not found"),
        })
        .await;
        let fault = fault.map(|fault| fault.name().to_owned());
        self.core.log.push(What::Https(WebCall { action, instance: None, http: handled.http, fault }));
        handled.outcome
    }
}

/// Refusals in plain text.
pub(crate) struct PlainWords;

impl Words for PlainWords {
    fn throttling(&self) -> Response {
        plain(503, "slow down")
    }

    fn server_error(&self) -> Response {
        plain(500, "internal server error")
    }

    fn error(&self, http: u16, code: &str, message: &str) -> Response {
        plain(http, &format!("{code}: {message}"))
    }
}

pub(crate) fn plain(status: u16, text: &str) -> Response {
    Response::new(status, "text/plain", text)
}

/// Makes a certificate authority, writes its certificate to `ca_pem`, and has it certify the server.
pub(crate) fn tls(ca_pem: &Path) -> Result<TlsAcceptor, SimError> {
    let failed = |error: &dyn std::fmt::Display| SimError::Certificate(error.to_string());
    let ca_key = KeyPair::generate().map_err(|error| failed(&error))?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "ec2-sim");
    let ca_certificate = ca.self_signed(&ca_key).map_err(|error| failed(&error))?;
    std::fs::write(ca_pem, ca_certificate.pem()).map_err(SimError::io(format!("write {}", ca_pem.display())))?;

    let key = KeyPair::generate().map_err(|error| failed(&error))?;
    // The address is where the guest of a virtual machine may see its host's loopback address; the last two are for tests in
    // which a proxy leads here.
    let names = ["127.0.0.1", "localhost", LINK_LOCAL, "*.sim.example", "*.s3.sim.example"].map(str::to_owned);
    let leaf = CertificateParams::new(names)
        .and_then(|params| params.signed_by(&key, &Issuer::new(ca, ca_key)))
        .map_err(|error| failed(&error))?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], private))
        .map_err(|error| failed(&error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
