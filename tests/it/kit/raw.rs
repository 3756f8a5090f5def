//! Bytes as they stand on the wire, for what no well-behaved client would send.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{House, PATIENCE};

pub(crate) type Tls = TlsStream<TcpStream>;

/// An answer as bytes.
pub(crate) struct Raw(pub(crate) Vec<u8>);

impl Raw {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    /// The status, or 0 where nothing was answered.
    pub(crate) fn status(&self) -> u16 {
        let text = self.text();
        let status = text.split(' ').nth(1);
        status.and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    /// The problem code.
    pub(crate) fn code(&self) -> String {
        let text = self.text();
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let document: Value = serde_json::from_str(body).unwrap_or_default();
        document["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends bytes on a connection and reads until its end.
pub(crate) async fn exchange(mut io: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Raw {
    let mut answer = Vec::new();
    // A peer that has seen enough may close while we still write or read: what came before counts.
    if io.write_all(bytes).await.is_ok() {
        let read = timeout(PATIENCE, io.read_to_end(&mut answer)).await;
        assert!(
            read.is_ok(),
            "the connection stayed open: {:?}",
            Raw(answer).text()
        );
    }
    Raw(answer)
}

/// Sends bytes on a new connection and reads until its end.
pub(crate) async fn speak(to: SocketAddr, bytes: &[u8]) -> Raw {
    exchange(TcpStream::connect(to).await.unwrap(), bytes).await
}

/// Reads the head of an answer, byte by byte.
pub(crate) async fn read_head(io: &mut (impl AsyncRead + Unpin)) -> Raw {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(PATIENCE, io.read_u8()).await.unwrap();
        let Ok(byte) = byte else { break };
        head.push(byte);
    }
    Raw(head)
}

impl House {
    /// A tunnel that was opened with these bytes.
    pub(crate) async fn tunnel_by(&self, head: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.proxy()).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_head(&mut stream).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        stream
    }

    /// A tunnel to a host.
    pub(crate) async fn tunnel(&self, host: &str) -> TcpStream {
        self.tunnel_by(&format!(
            "CONNECT {host}:443 HTTP/1.1\r\nhost: {host}:443\r\n\r\n"
        ))
        .await
    }

    /// TLS over a stream, as a client that trusts the proxy's CA.
    pub(crate) async fn handshake(
        &self,
        stream: TcpStream,
        name: &str,
        alpn: &str,
    ) -> io::Result<Tls> {
        let mut trust = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap();
        trust.add(certificate).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(trust)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        timeout(PATIENCE, connector.connect(name, stream))
            .await
            .unwrap()
    }

    /// TLS with HTTP/1.1 inside a tunnel.
    pub(crate) async fn inside(&self, host: &str) -> Tls {
        let tunnel = self.tunnel(host).await;
        self.handshake(tunnel, host, "http/1.1").await.unwrap()
    }

    /// Sends bytes inside a tunnel and reads until its end.
    pub(crate) async fn speak_inside(&self, host: &str, bytes: &str) -> Raw {
        exchange(self.inside(host).await, bytes.as_bytes()).await
    }
}
