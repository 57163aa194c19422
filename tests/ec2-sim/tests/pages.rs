//! The https file server is one a client can verify.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::sync::Arc;

use common::{World, block_on};
use ec2_sim::{Fault, FaultRule, What};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The whole answer, as text.
async fn get(world: &World, url: &str) -> String {
    let (host, path) = url.strip_prefix("https://").unwrap().split_once('/').unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(world.sim.ca_pem_path()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(host).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The end of the stream is not of interest here, only what came.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[test]
fn a_page_is_served_over_tls_and_takes_faults() {
    let world = World::new();
    let url = world.sim.put_page("/hooks.sh", "echo hello");
    world.sim.add_fault(FaultRule::once("https:GET /hooks.sh", Fault::ServerError)).unwrap();
    assert!(block_on(get(&world, &url)).starts_with("HTTP/1.1 500 "));
    let answer = block_on(get(&world, &url));
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\necho hello"), "{answer}");
    assert!(block_on(get(&world, &format!("{url}.sha256"))).starts_with("HTTP/1.1 404 "));
    let events = world.sim.events();
    let statuses: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Https(call) => call.http,
            _ => None,
        })
        .collect();
    assert_eq!(statuses, [500, 200, 404]);
}
