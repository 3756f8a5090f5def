//! Knocking by other ways than a TCP port in clear.

use std::fs;
use std::io;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokenward::rehearsal::Rehearsal;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{API, House, Identity, Setup, read_head};

/// A TLS connection as a client that trusts this CA and offers these protocols.
pub(crate) async fn shake<I>(
    stream: I,
    name: &str,
    ca_pem: &str,
    alpn: &[&str],
) -> io::Result<TlsStream<I>>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut trust = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap();
    trust.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trust)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// A CONNECT over any stream; the status.
pub(crate) async fn connect(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    fields: &str,
) -> u16 {
    let head = format!("CONNECT {API}:443 HTTP/1.1\r\nhost: {API}:443\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    read_head(stream).await.status()
}

/// One request inside a tunnel that is opened over this stream.
pub(crate) async fn get<I>(house: &House, mut stream: I, fields: &str) -> u16
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    assert_eq!(connect(&mut stream, fields).await, 200);
    let tls = shake(stream, API, &house.ca, &["http/1.1"]).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("/v1/items").header("host", API);
    let body = Empty::<bytes::Bytes>::new().map_err(|e| match e {});
    let request = request.body(body.boxed()).unwrap();
    let request: http::Request<http_body_util::combinators::BoxBody<_, io::Error>> = request;
    sender
        .send_request(request)
        .await
        .unwrap()
        .status()
        .as_u16()
}

/// A house that listens as this says; `<DIR>` is its folder.
pub(crate) async fn house(mut setup: Setup, listen: &str, identity: &Identity) -> House {
    let folder = TempDir::new().unwrap();
    let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    put("listener.pem", &identity.cert_pem);
    put("listener.key", &identity.key_pem);
    setup.listen = listen.replace(
        "<TLS>",
        "tls: {cert: {file: listener.pem}, key: {file: listener.key}}",
    );
    let rehearsal = Rehearsal::start(setup.options.clone()).await.unwrap();
    setup.start_in(folder, rehearsal).await
}
