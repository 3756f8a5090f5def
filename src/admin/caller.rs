//! The other side of the admin API, for the verbs: one call, one answer. It blocks.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error,
    SignatureScheme, StreamOwned,
};

use crate::vocab::Secret;

/// Largest answer.
const ANSWER_MAX: u64 = 4 * 1024 * 1024;
/// Longest line of a stream: the longest of the audit file, and its name.
const LINE_MAX: u64 = 256 * 1024 + 64;
/// Longest wait for an answer: a little more than a login may take.
const TIMEOUT: Duration = Duration::from_secs(660);
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How a running proxy is reached.
pub struct Caller {
    /// Where it listens.
    pub to: Reach,
    /// What it wants to be shown.
    pub token: Option<Secret<String>>,
}

/// Where an admin API listens.
pub enum Reach {
    /// A TCP address; behind TLS where the certificate that it has is given, in PEM.
    Tcp(SocketAddr, Option<Vec<u8>>),
    /// A unix socket.
    Unix(PathBuf),
}

/// What was answered.
pub struct Answered {
    /// The status.
    pub status: u16,
    /// The document.
    pub body: Value,
}

impl Caller {
    /// Whether somebody listens there. `false`: nobody does.
    ///
    /// # Errors
    /// The system's, where that cannot be said.
    pub fn is_there(&self) -> io::Result<bool> {
        match self.connect() {
            Ok(_) => Ok(true),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// One call.
    ///
    /// # Errors
    /// The system's; `InvalidData` for what is not the answer of a proxy.
    pub fn call(&self, method: &str, target: &str, body: Option<&Value>) -> io::Result<Answered> {
        let stream = self.send(method, target, "1.1", body)?;
        let mut text = String::new();
        stream.take(ANSWER_MAX).read_to_string(&mut text)?;
        let odd = || io::Error::from(io::ErrorKind::InvalidData);
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(odd)?;
        let status = head.split_ascii_whitespace().nth(1);
        Ok(Answered {
            status: status.and_then(|s| s.parse().ok()).ok_or_else(odd)?,
            body: serde_json::from_str(body).map_err(|_| odd())?,
        })
    }

    /// Follows a stream of events, from each of which `each` is given kind and data, until `each` says no or the other
    /// side ends. What was answered instead of a stream comes back.
    ///
    /// # Errors
    /// As [`Caller::call`].
    pub fn follow(
        &self,
        target: &str,
        mut each: impl FnMut(&str, &str) -> bool,
    ) -> io::Result<Option<Answered>> {
        // HTTP/1.0 knows no chunks: the stream is what it is until its end.
        let mut lines = Lines(BufReader::new(self.send("GET", target, "1.0", None)?));
        let odd = || io::Error::from(io::ErrorKind::InvalidData);
        let first = lines.next()?.ok_or_else(odd)?;
        let status = first.split_ascii_whitespace().nth(1);
        let status = status.and_then(|s| s.parse().ok()).ok_or_else(odd)?;
        while !lines.next()?.ok_or_else(odd)?.is_empty() {}
        if status != 200 {
            let body = lines.next()?.ok_or_else(odd)?;
            let body = serde_json::from_str(&body).map_err(|_| odd())?;
            return Ok(Some(Answered { status, body }));
        }
        let mut kind = String::new();
        while let Some(line) = lines.next()? {
            if let Some(named) = line.strip_prefix("event: ") {
                named.clone_into(&mut kind);
            } else if let Some(data) = line.strip_prefix("data: ")
                && !each(&kind, data)
            {
                break;
            }
        }
        Ok(None)
    }

    /// Sends a request; what comes back is the stream of its answer, head and all.
    fn send(
        &self,
        method: &str,
        target: &str,
        version: &str,
        body: Option<&Value>,
    ) -> io::Result<Box<dyn Stream>> {
        let mut stream = self.connect()?;
        let body = body.map(ToString::to_string).unwrap_or_default();
        let mut head = format!(
            "{method} {target} HTTP/{version}\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        head.clear();
        if let Some(token) = &self.token {
            stream.write_all(b"Authorization: Bearer ")?;
            stream.write_all(token.expose().as_bytes())?;
            stream.write_all(b"\r\n")?;
        }
        stream.write_all(b"\r\n")?;
        stream.write_all(body.as_bytes())?;
        stream.flush()?;
        Ok(stream)
    }

    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match &self.to {
            Reach::Unix(path) => {
                let stream = own_socket(path)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                Ok(Box::new(stream))
            }
            Reach::Tcp(address, certificate) => {
                let stream = TcpStream::connect_timeout(&near(*address), CONNECT_TIMEOUT)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                match certificate {
                    None => Ok(Box::new(stream)),
                    Some(pem) => Ok(Box::new(in_tls(stream, address, pem)?)),
                }
            }
        }
    }
}

/// Lines of a stream, each within its bound.
struct Lines(BufReader<Box<dyn Stream>>);

impl Lines {
    /// The next one without its end; none at the end.
    fn next(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        let read = (&mut self.0).take(LINE_MAX).read_line(&mut line)?;
        let whole = line.ends_with('\n');
        line.truncate(line.trim_end_matches(['\r', '\n']).len());
        match (read, whole) {
            (0, _) => Ok(None),
            (_, true) => Ok(Some(line)),
            (_, false) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// Who listens on every address is called on this machine's own.
fn near(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// A socket that somebody else made would be told what we want, and could show us a URL of theirs.
fn own_socket(path: &Path) -> io::Result<UnixStream> {
    let found = fs::symlink_metadata(path)?;
    if found.uid() != 0 && found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    UnixStream::connect(path)
}

/// The token goes to whoever has the key of the certificate that the configuration names, and to nobody else.
fn in_tls(
    stream: TcpStream,
    address: &SocketAddr,
    pem: &[u8],
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let odd = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let known = CertificateDer::from_pem_slice(pem).map_err(|_| io::ErrorKind::InvalidInput)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(odd)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Known { known, provider }))
        .with_no_client_auth();
    let name = ServerName::from(address.ip());
    let session = ClientConnection::new(Arc::new(config), name).map_err(odd)?;
    Ok(StreamOwned::new(session, stream))
}

/// Accepts one certificate, byte by byte: stricter than any authority's word.
#[derive(Debug)]
struct Known {
    known: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.known {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
