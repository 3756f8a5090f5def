//! A plain HTTPS client that goes through a proxy, as an agent does, or past it, as a thief does.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Largest answer that is read whole.
const ANSWER_MAX: usize = 4 * 1024 * 1024;

/// The body of a request.
pub type CallBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// Why a call did not come to an answer.
#[derive(Debug, thiserror::Error)]
pub enum CallerError {
    /// HTTP went wrong.
    #[error("http: {0}")]
    Http(#[from] hyper::Error),
    /// A request that cannot be written.
    #[error("the request cannot be written: {0}")]
    Request(#[from] http::Error),
    /// The connection or the handshake failed.
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    /// The proxy refused the tunnel.
    #[error("the proxy answered CONNECT with {}", .0.status)]
    Refused(Box<Answer>),
    /// The trusted certificate is none.
    #[error("the certificate to trust cannot be read")]
    Trust,
    /// The answer is larger than 4 MiB, or broke off.
    #[error("the answer broke off or is too large")]
    Body,
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Its trailers.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// Reads an answer to its end.
    ///
    /// # Errors
    /// [`CallerError::Body`] where it breaks off or is too large.
    pub async fn read(response: Response<Incoming>) -> Result<Self, CallerError> {
        let (parts, body) = response.into_parts();
        #[expect(clippy::disallowed_methods, reason = "bounded by Limited")]
        let collected = Limited::new(body, ANSWER_MAX)
            .collect()
            .await
            .map_err(|_| CallerError::Body)?;
        let trailers = collected.trailers().cloned();
        Ok(Self {
            status: parts.status,
            headers: parts.headers,
            body: collected.to_bytes(),
            trailers,
        })
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The problem code of one of tokenward's own answers.
    #[must_use]
    pub fn code(&self) -> Option<String> {
        let document: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        document["code"].as_str().map(str::to_owned)
    }
}

/// Where a caller's connections lead.
#[derive(Debug, Clone)]
enum Way {
    Direct(SocketAddr),
    Proxy {
        address: SocketAddr,
        authorization: Option<String>,
    },
}

/// A client with one trusted CA.
#[derive(Clone)]
pub struct Caller {
    way: Way,
    trust: Arc<RootCertStore>,
}

impl Caller {
    /// A client that goes through the proxy and trusts its CA.
    ///
    /// # Errors
    /// [`CallerError::Trust`] where the PEM holds no certificate.
    pub fn through(proxy: SocketAddr, ca_pem: &str) -> Result<Self, CallerError> {
        Self::new(
            Way::Proxy {
                address: proxy,
                authorization: None,
            },
            ca_pem,
        )
    }

    /// A client that dials a server itself, whatever name it asks for.
    ///
    /// # Errors
    /// [`CallerError::Trust`] where the PEM holds no certificate.
    pub fn direct(server: SocketAddr, ca_pem: &str) -> Result<Self, CallerError> {
        Self::new(Way::Direct(server), ca_pem)
    }

    fn new(way: Way, ca_pem: &str) -> Result<Self, CallerError> {
        let mut trust = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            let certificate = certificate.map_err(|_| CallerError::Trust)?;
            trust.add(certificate).map_err(|_| CallerError::Trust)?;
        }
        if trust.is_empty() {
            return Err(CallerError::Trust);
        }
        Ok(Self {
            way,
            trust: Arc::new(trust),
        })
    }

    /// The same client as a named agent.
    #[must_use]
    pub fn named(mut self, agent: &str, token: &str) -> Self {
        if let Way::Proxy { authorization, .. } = &mut self.way {
            *authorization = Some(format!(
                "Basic {}",
                STANDARD.encode(format!("{agent}:{token}"))
            ));
        }
        self
    }

    /// Opens a connection to `host:port`, offering one protocol.
    ///
    /// # Errors
    /// [`CallerError`], with the proxy's answer where it refused.
    pub async fn open(&self, host: &str, port: u16, h2: bool) -> Result<Session, CallerError> {
        let stream = self.reach(host, port).await?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| CallerError::Trust)?
            .with_root_certificates(self.trust.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![if h2 {
            b"h2".to_vec()
        } else {
            b"http/1.1".to_vec()
        }];
        let name = ServerName::try_from(host.to_owned()).map_err(|_| CallerError::Trust)?;
        let tls = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?;
        let authority = if port == 443 {
            host.to_owned()
        } else {
            format!("{host}:{port}")
        };
        Session::over(TokioIo::new(tls), authority, h2).await
    }

    /// Opens a connection, sends one request and reads the answer.
    ///
    /// # Errors
    /// [`CallerError`]; a refused CONNECT is one.
    pub async fn call(
        &self,
        host: &str,
        port: u16,
        h2: bool,
        call: Call,
    ) -> Result<Answer, CallerError> {
        self.open(host, port, h2).await?.send(call).await
    }

    async fn reach(&self, host: &str, port: u16) -> Result<Box<dyn Wire>, CallerError> {
        let (address, authorization) = match &self.way {
            Way::Direct(address) => return Ok(Box::new(dial(*address).await?)),
            Way::Proxy {
                address,
                authorization,
            } => (*address, authorization),
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(dial(address).await?)).await?;
        tokio::spawn(connection.with_upgrades());
        let target = format!("{host}:{port}");
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(&target)
            .header(header::HOST, &target);
        if let Some(authorization) = authorization {
            request = request.header(header::PROXY_AUTHORIZATION, authorization);
        }
        let response = sender
            .send_request(request.body(Empty::<Bytes>::new())?)
            .await?;
        if response.status() != StatusCode::OK {
            return Err(CallerError::Refused(Box::new(
                Answer::read(response).await?,
            )));
        }
        Ok(Box::new(TokioIo::new(hyper::upgrade::on(response).await?)))
    }
}

async fn dial(address: SocketAddr) -> Result<TcpStream, CallerError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A byte stream of either way.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// One request.
pub struct Call {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Its fields, besides `Host`.
    pub fields: Vec<(String, String)>,
    /// Its body.
    pub body: CallBody,
}

impl Call {
    /// A GET without further fields.
    #[must_use]
    pub fn get(target: &str) -> Self {
        Self::new(Method::GET, target)
    }

    /// A request without body.
    #[must_use]
    pub fn new(method: Method, target: &str) -> Self {
        let body = Empty::new().map_err(|e| match e {}).boxed_unsync();
        Self {
            method,
            target: target.to_owned(),
            fields: Vec::new(),
            body,
        }
    }

    /// The same with one more field.
    #[must_use]
    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with this body, its length declared.
    #[must_use]
    pub fn bytes(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Full::new(body.into())
            .map_err(|e| match e {})
            .boxed_unsync();
        self
    }
}

/// One connection; several requests may use it.
pub struct Session {
    sender: Sender,
    authority: String,
}

enum Sender {
    Http1(http1::SendRequest<CallBody>),
    Http2(http2::SendRequest<CallBody>),
}

impl Session {
    async fn over<I>(io: I, authority: String, h2: bool) -> Result<Self, CallerError>
    where
        I: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    {
        let sender = if h2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection.with_upgrades());
            Sender::Http1(sender)
        };
        Ok(Self { sender, authority })
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// [`CallerError`] where the connection ends first.
    pub async fn start(&mut self, call: Call) -> Result<Response<Incoming>, CallerError> {
        let uri = match &self.sender {
            Sender::Http1(_) => call.target.clone(),
            Sender::Http2(_) => format!("https://{}{}", self.authority, call.target),
        };
        let mut request = Request::builder().method(call.method).uri(uri);
        if matches!(self.sender, Sender::Http1(_)) {
            request = request.header(header::HOST, &self.authority);
        }
        for (name, value) in &call.fields {
            request = request.header(name, value);
        }
        let request = request.body(call.body)?;
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                Ok(sender.send_request(request).await?)
            }
            Sender::Http2(sender) => Ok(sender.send_request(request).await?),
        }
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// [`CallerError`] where the connection or the answer ends early.
    pub async fn send(&mut self, call: Call) -> Result<Answer, CallerError> {
        Answer::read(self.start(call).await?).await
    }

    /// Another handle on the same HTTP/2 connection, for requests side by side; `None` on HTTP/1.1.
    #[must_use]
    pub fn beside(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => Some(Self {
                sender: Sender::Http2(sender.clone()),
                authority: self.authority.clone(),
            }),
        }
    }
}
