//! Puts the credential on, last of all, when the connection is in hand.
//!
//! The connection comes first so that a proof never ages in a queue and a token can only go out on the connection
//! that was checked out for its permit: [`Armed`] holds both, and whatever sends takes nothing else.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Uri, Version};
use http_body::Body as _;
use http_body_util::combinators::UnsyncBoxBody;

use super::lease::{Form, Lease};
use super::strip::{BareHead, Intent};
use crate::proof::{self, HtuProfile, Jti, Nonce, ProofClaims};
use crate::vocab::variant::{Variant, broken};
use crate::vocab::{Authority, Code};

/// The field of proofs (RFC 9449 §4.1).
const DPOP: HeaderName = HeaderName::from_static("dpop");

/// Why a request body ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The agent broke off or broke the framing.
    #[error("the agent's body ended early")]
    Agent,
    /// The lease was revoked or the policy changed while the body flowed.
    #[error("the exchange was cancelled")]
    Cancelled,
    /// It held a live secret, which did not go out.
    #[error("the agent's body held a secret")]
    Secret,
    /// The agent sent nothing for too long.
    #[error("the agent's body stalled")]
    Stalled,
    /// The upstream broke off or broke the framing.
    #[error("the upstream's body ended early")]
    Upstream,
}

/// A request body on its way out.
pub type OutBody = UnsyncBoxBody<Bytes, BodyError>;

/// What is fixed about the connection that the request will go out on.
pub struct Wire<'a> {
    /// The protocol that was negotiated.
    pub version: Version,
    /// The destination that policy judged.
    pub authority: &'a Authority,
    /// How this service compares `htu`.
    pub htu: &'a HtuProfile,
    /// Our name in `Via` (RFC 9110 §7.6.3).
    pub pseudonym: &'a str,
    /// Whether the body waits to be asked for (RFC 9110 §10.1.1).
    pub expects: bool,
    /// The sessions that the API has opened for this credential (RFC 6265 §5.4).
    pub cookie: Option<HeaderValue>,
}

/// What makes one proof unlike every other; used once, and needed by leases that sign alone.
pub struct Stamp {
    /// The nonce to answer with, where the API has given one (RFC 9449 §9).
    pub nonce: Option<Nonce>,
    /// Seconds since 1970, by the API's clock as far as we know it.
    pub iat: i64,
    /// Fresh random identifier.
    pub jti: Jti,
}

/// Why the credential cannot be put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The proof could not be signed.
    #[error("the proof could not be signed")]
    Proof,
    /// The head cannot be written.
    #[error("the request's head cannot be written")]
    Head,
}

impl AttachError {
    /// What the agent is told.
    #[must_use]
    pub fn code(self) -> Code {
        Code::Internal
    }
}

/// A request with the credential that its permit demands, and the connection that it goes out on.
pub struct Armed<C> {
    connection: C,
    request: Request<OutBody>,
    jti: Option<Jti>,
    nonce: Option<Nonce>,
    proof: Option<HeaderValue>,
}

impl<C> Armed<C> {
    /// The proof's identifier, for the audit line.
    #[must_use]
    pub fn jti(&self) -> Option<&Jti> {
        self.jti.as_ref()
    }

    /// The proof itself, marked sensitive.
    #[must_use]
    pub fn proof(&self) -> Option<&HeaderValue> {
        self.proof.as_ref()
    }

    /// The nonce that the proof carries.
    #[must_use]
    pub fn nonce(&self) -> Option<&Nonce> {
        self.nonce.as_ref()
    }

    /// The same with something that only the sender sees, and that is not written.
    #[must_use]
    pub fn noting(mut self, note: impl Clone + Send + Sync + 'static) -> Self {
        self.request.extensions_mut().insert(note);
        self
    }

    /// Takes it apart, for the sender.
    pub fn into_parts(self) -> (C, Request<OutBody>) {
        (self.connection, self.request)
    }
}

/// Writes the head for this connection and sets the credential.
///
/// # Errors
/// [`AttachError`] where the proof cannot be signed or the head cannot be written; nothing was sent then.
pub fn attach<C>(
    head: &BareHead,
    body: OutBody,
    lease: &Lease,
    connection: C,
    wire: &Wire<'_>,
    stamp: Option<Stamp>,
) -> Result<Armed<C>, AttachError> {
    let h2 = wire.version == Version::HTTP_2;
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = target(head, wire)?;
    *request.version_mut() = if h2 {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    };
    *request.headers_mut() = head.headers.clone();
    hop_fields(request.headers_mut(), head, wire)?;
    frame(&mut request);
    // From here on nothing else touches the fields: the credential is what goes out.
    let used = set_credential(&mut request, head, lease, wire, stamp)?;
    let (jti, nonce) = used.map_or((None, None), |(jti, nonce)| (Some(jti), nonce));
    let proof = jti
        .as_ref()
        .and_then(|_| request.headers().get(DPOP).cloned());
    Ok(Armed {
        connection,
        request,
        jti,
        nonce,
        proof,
    })
}

/// Sets the service's credential, and says which proof went with it, and with which nonce.
fn set_credential(
    request: &mut Request<OutBody>,
    head: &BareHead,
    lease: &Lease,
    wire: &Wire<'_>,
    stamp: Option<Stamp>,
) -> Result<Option<(Jti, Option<Nonce>)>, AttachError> {
    let mut used = None;
    match lease.form() {
        Form::Dpop { authorization, .. }
            if broken(Variant::BearerDowngrade)
                && stamp.as_ref().is_some_and(|stamp| stamp.nonce.is_some()) =>
        {
            let text = authorization.to_str().unwrap_or_default();
            let bearer = value(text.replacen("DPoP", "Bearer", 1))?;
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
        }
        Form::Dpop {
            authorization,
            ath,
            signer,
        } => {
            let stamp = stamp.ok_or(AttachError::Proof)?;
            let claims = ProofClaims {
                htm: head.method.as_str(),
                htu: &proof::htu(wire.authority, &head.path, wire.htu),
                iat: stamp.iat,
                jti: &stamp.jti,
                ath: Some(ath),
                nonce: stamp.nonce.as_ref(),
            };
            let proof = signer.proof(&claims).map_err(|_| AttachError::Proof)?;
            let mut proof = value(proof.into_string())?;
            proof.set_sensitive(true);
            request.headers_mut().insert(DPOP, proof);
            request
                .headers_mut()
                .insert(header::AUTHORIZATION, authorization.clone());
            used = Some((stamp.jti, stamp.nonce));
        }
        Form::Field { name, value } => {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        Form::Nothing => {}
    }
    if broken(Variant::TokenInLog) {
        let credential = request.headers().get(header::AUTHORIZATION);
        let credential = credential.and_then(|value| value.to_str().ok());
        tracing::debug!(credential, "a request is sent");
    }
    Ok(used)
}

/// hyper would take it that a GET has no body, and drop one whose length nobody said. HTTP/2 frames every body.
fn frame(request: &mut Request<OutBody>) {
    let flows = !request.body().is_end_stream() && request.body().size_hint().exact().is_none();
    if flows && request.version() != Version::HTTP_2 {
        let chunked = HeaderValue::from_static("chunked");
        request
            .headers_mut()
            .insert(header::TRANSFER_ENCODING, chunked);
    }
}

/// The fields that belong to this hop and were written by us alone.
fn hop_fields(
    headers: &mut HeaderMap,
    head: &BareHead,
    wire: &Wire<'_>,
) -> Result<(), AttachError> {
    let h2 = wire.version == Version::HTTP_2;
    if !h2 {
        headers.insert(header::HOST, value(wire.authority.text())?);
    }
    headers.append(header::VIA, value(["1.1 ", wire.pseudonym].concat())?);
    if head.takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if !h2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
    }
    if wire.expects {
        headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
    }
    if let Some(cookie) = &wire.cookie {
        headers.insert(header::COOKIE, cookie.clone());
    }
    if head.intent == Intent::WebSocket {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    Ok(())
}

/// Origin form on HTTP/1.1, scheme and authority with it on HTTP/2; the path's bytes are those that policy judged.
fn target(head: &BareHead, wire: &Wire<'_>) -> Result<Uri, AttachError> {
    let mut text = String::with_capacity(256);
    if wire.version == Version::HTTP_2 {
        text.push_str(&wire.authority.origin());
    }
    text.push_str(head.path.wire());
    if let Some(query) = &head.query {
        text.push('?');
        text.push_str(query);
    }
    Uri::try_from(text).map_err(|_| AttachError::Head)
}

fn value(text: String) -> Result<HeaderValue, AttachError> {
    HeaderValue::try_from(text).map_err(|_| AttachError::Head)
}
