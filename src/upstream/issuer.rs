//! Our own calls to authorization servers: https only, no redirects, small answers, short waits, and connections that
//! no agent's request shares.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Uri, Version};
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::Upstream;
use super::client::{SendError, SendFailure, send};
use super::connection::{Connection, Protocol};
use super::error::{EndpointError, UpstreamError};
use super::key::{Key, PoolLimits};
use super::pool::Pool;
use super::reply::{Reply, ReplyBody};
use super::settings::TargetSettings;
use super::tls::Endpoint;
use crate::credential::{Certificate, OutBody};
use crate::vocab::{Authority, AuthorityError, Code, Scheme, Secret, danger};

/// Largest answer.
const BODY_MAX: usize = 64 * 1024;
/// Longest URL.
const URL_MAX: usize = 4 * 1024;
const CONNECT_MAX: Duration = Duration::from_secs(3);
const TOTAL_MAX: Duration = Duration::from_secs(10);

/// Few connections, kept for the length of a nonce dance and no longer: a token request must not meet a connection
/// that the server is just closing.
const LIMITS: PoolLimits = PoolLimits {
    connections: 64,
    per_key: 8,
    idle: 8,
    idle_for: Duration::from_secs(15),
};

/// An `https` URL of an issuer, as its metadata or the configuration spells it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IssuerUrl {
    text: String,
    authority: Authority,
    path_at: usize,
}

/// Why a text is not the URL of an issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IssuerUrlError {
    /// Its host or port is not canonical.
    #[error("{0}")]
    Authority(#[from] AuthorityError),
    /// It has a fragment, characters that a URL does not, or is longer than 4 KiB.
    #[error("not a URL")]
    Malformed,
    /// It does not begin with `https://`.
    #[error("an issuer is reached by https only")]
    Scheme,
}

impl IssuerUrl {
    /// Reads an absolute `https` URL without fragment and user information.
    ///
    /// # Errors
    /// [`IssuerUrlError`] where it is none.
    pub fn parse(text: &str) -> Result<Self, IssuerUrlError> {
        let clear = danger::PLAIN_HTTP && text.starts_with("http://");
        let (scheme, prefix) = if clear {
            (Scheme::Http, "http://")
        } else {
            (Scheme::Https, "https://")
        };
        let rest = text.strip_prefix(prefix).ok_or(IssuerUrlError::Scheme)?;
        let plain =
            |b: u8| matches!(b, 0x21..=0x7e) && !matches!(b, b'#' | b'\\' | b'"' | b'<' | b'>');
        if text.len() > URL_MAX || !text.bytes().all(plain) {
            return Err(IssuerUrlError::Malformed);
        }
        let host_len = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(host_len);
        let authority = Authority::parse(scheme, host)?;
        if clear && !danger::plain_http(authority.host()) {
            return Err(IssuerUrlError::Scheme);
        }
        let url = Self {
            text: text.to_owned(),
            authority,
            path_at: prefix.len() + host_len,
        };
        // A query right behind the host needs its slash before it can be sent (RFC 9112 §3.2.1).
        if path.starts_with('?') || url.path_and_query().parse::<Uri>().is_err() {
            return Err(IssuerUrlError::Malformed);
        }
        Ok(url)
    }

    /// The URL as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Host and port.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Path and query, at least `/`.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        match &self.text[self.path_at..] {
            "" => "/",
            path => path,
        }
    }

    /// The path alone, at least `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        let whole = self.path_and_query();
        whole.split_once('?').map_or(whole, |(path, _)| path)
    }
}

/// One call.
pub struct IssuerRequest<'a> {
    /// GET or POST.
    pub method: Method,
    /// Where to.
    pub url: &'a IssuerUrl,
    /// Fields besides `Host`, `Content-Type` and `Content-Length`.
    pub headers: HeaderMap,
    /// An `application/x-www-form-urlencoded` body.
    pub form: Option<Secret<String>>,
    /// What we show in the handshake (RFC 8705 §2).
    pub certificate: Option<Arc<Certificate>>,
}

/// What the issuer answered. The body may hold tokens: there is no `Debug`.
pub struct IssuerReply {
    /// The status, also where it is a redirect: nobody follows it.
    pub status: u16,
    /// The fields.
    pub headers: HeaderMap,
    /// At most 64 KiB.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// Its address is one that must not be dialled.
    #[error("the issuer's address is not allowed")]
    Address,
    /// No connection; nothing was sent.
    #[error("there is no connection to the issuer")]
    Connect,
    /// No connection in time; nothing was sent.
    #[error("there was no connection to the issuer in time")]
    ConnectTimeout,
    /// It broke the rules of HTTP.
    #[error("the issuer broke the rules of HTTP")]
    Protocol,
    /// No answer in time.
    #[error("the issuer did not answer in time")]
    Timeout,
    /// Its certificate was not accepted.
    #[error("the issuer's TLS certificate was not accepted")]
    Tls,
    /// The answer is larger than 64 KiB.
    #[error("the issuer's answer is too large")]
    TooLarge,
    /// The connection ended before the answer did.
    #[error("the issuer cannot be reached")]
    Unreachable,
}

impl IssuerError {
    /// What the agent is told.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::Address | Self::Connect | Self::Protocol | Self::TooLarge | Self::Unreachable => {
                Code::AsUnavailable
            }
            Self::ConnectTimeout | Self::Timeout => Code::AsTimeout,
            Self::Tls => Code::AsTlsError,
        }
    }

    /// Whether the issuer has certainly seen nothing of the call: what can be used once is as good as before.
    #[must_use]
    pub fn unsent(self) -> bool {
        match self {
            Self::Address | Self::Connect | Self::ConnectTimeout | Self::Tls => true,
            Self::Protocol | Self::Timeout | Self::TooLarge | Self::Unreachable => false,
        }
    }
}

impl From<UpstreamError> for IssuerError {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::AddressProhibited | UpstreamError::SelfConnect => Self::Address,
            UpstreamError::ConnectTimeout | UpstreamError::DnsTimeout => Self::ConnectTimeout,
            UpstreamError::NoHttp2 | UpstreamError::Plaintext | UpstreamError::Protocol => {
                Self::Protocol
            }
            UpstreamError::NoHttp1 | UpstreamError::Tls => Self::Tls,
            UpstreamError::Dns
            | UpstreamError::Draining
            | UpstreamError::Limit
            | UpstreamError::Unreachable => Self::Connect,
        }
    }
}

impl From<SendError> for IssuerError {
    fn from(error: SendError) -> Self {
        match error.failure {
            SendFailure::Protocol | SendFailure::Internal => Self::Protocol,
            SendFailure::Body(_) | SendFailure::Closed => Self::Unreachable,
        }
    }
}

/// Calls one issuer.
pub struct IssuerClient {
    pool: Arc<Pool>,
    pub(super) endpoint: Arc<Endpoint>,
    /// Longest wait for the whole of one call; tests are less patient.
    pub(super) total: Duration,
}

impl IssuerClient {
    /// A client with connections of its own. They end with a drain of `upstream` at the latest.
    ///
    /// # Errors
    /// [`EndpointError`] where an additional root is no certificate, or is our own.
    pub fn new(upstream: &Upstream, target: &TargetSettings) -> Result<Self, EndpointError> {
        let endpoint = upstream.endpoint(target)?;
        Ok(Self {
            pool: upstream.0.pool.sibling(LIMITS),
            endpoint,
            total: TOTAL_MAX,
        })
    }

    /// Sends a call and reads the whole answer: connected within 3 s, done within 10 s.
    ///
    /// # Errors
    /// [`IssuerError`]. A status that says no is an answer, not an error.
    pub async fn send(&self, request: IssuerRequest<'_>) -> Result<IssuerReply, IssuerError> {
        timeout(self.total, self.exchange(&request))
            .await
            .unwrap_or(Err(IssuerError::Timeout))
    }

    async fn exchange(&self, request: &IssuerRequest<'_>) -> Result<IssuerReply, IssuerError> {
        let reply = match self.attempt(request).await? {
            Ok(reply) => reply,
            // Nothing of it was processed, so its proof and assertion are as good as new.
            Err(error) if error.unprocessed => self.attempt(request).await??,
            Err(error) => return Err(error.into()),
        };
        let (head, body) = reply.response.into_parts();
        Ok(IssuerReply {
            status: head.status.as_u16(),
            headers: head.headers,
            body: read_bounded(body).await?,
        })
    }

    async fn attempt(
        &self,
        request: &IssuerRequest<'_>,
    ) -> Result<Result<Reply, SendError>, IssuerError> {
        let authority = request.url.authority();
        // Clear text is for loopback, not for what somebody would have us dial in its place.
        if authority.scheme() == Scheme::Http && self.endpoint.connect().is_some() {
            return Err(IssuerError::Address);
        }
        let certificate = request.certificate.as_ref();
        if certificate.is_some() && authority.scheme() == Scheme::Http {
            return Err(IssuerError::Protocol);
        }
        let key = Key::issuer(authority.clone()).showing(certificate);
        let connection = self
            .pool
            .checkout(&key, &self.endpoint, Protocol::Any, CONNECT_MAX)
            .await?;
        let request = compose(request, &connection)?;
        Ok(send(connection, request).await)
    }
}

fn compose(
    request: &IssuerRequest<'_>,
    connection: &Connection,
) -> Result<Request<OutBody>, IssuerError> {
    let http2 = connection.version() == Version::HTTP_2;
    let authority = request.url.authority();
    let mut target = if http2 {
        authority.origin()
    } else {
        String::new()
    };
    target.push_str(request.url.path_and_query());
    let mut out = Request::new(body(request.form.as_ref()));
    *out.method_mut() = request.method.clone();
    *out.uri_mut() = target.parse().map_err(|_| IssuerError::Protocol)?;
    *out.version_mut() = connection.version();
    let headers = out.headers_mut();
    headers.clone_from(&request.headers);
    if !http2 {
        let host = HeaderValue::from_str(&authority.to_string());
        headers.insert(header::HOST, host.map_err(|_| IssuerError::Protocol)?);
    }
    if request.form.is_some() {
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, form);
    }
    Ok(out)
}

/// The form's bytes are wiped when the last piece of them has been written.
fn body(form: Option<&Secret<String>>) -> OutBody {
    match form {
        Some(form) => {
            let bytes = Zeroizing::new(form.expose().as_bytes().to_vec());
            Full::new(Bytes::from_owner(bytes))
                .map_err(|never| match never {})
                .boxed_unsync()
        }
        None => Empty::new().map_err(|never| match never {}).boxed_unsync(),
    }
}

async fn read_bounded(mut body: ReplyBody) -> Result<Bytes, IssuerError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| IssuerError::Unreachable)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if whole.len() + data.len() > BODY_MAX {
            return Err(IssuerError::TooLarge);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}
