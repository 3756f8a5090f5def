//! Registered clients and how they prove themselves: RFC 6749 §2.3, RFC 7523 with RFC 10070's audience.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde::Deserialize;
use serde_json::Value;

use super::RehearsalError;
use super::controls::{IssuerSettings, Service};
use super::form;
use super::issuer::Refused;
use super::jose::{Compact, Key, present, random_text};
use super::stage::Stage;

/// How a client authenticates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientMethod {
    /// An assertion signed with the client's key (ES256).
    PrivateKeyJwt,
    /// HTTP Basic.
    SecretBasic,
    /// In the form.
    SecretPost,
}

/// What a client is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Bearer tokens; a proof is refused.
    Bearer,
    /// Tokens bound to the key of the proof.
    Dpop,
    /// Proofs are demanded, the access token is a bearer token all the same.
    RefreshOnly,
}

/// A client of the issuer.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Its `client_id`.
    pub id: String,
    /// How it authenticates.
    pub method: ClientMethod,
    /// What it is given.
    pub kind: TokenKind,
    /// What it may ask for, and gets when it asks for nothing.
    pub scopes: Vec<String>,
}

impl Registration {
    /// The clients of every rehearsal.
    pub(super) fn standard() -> Vec<Self> {
        use ClientMethod::{PrivateKeyJwt, SecretBasic, SecretPost};
        use TokenKind::{Bearer, Dpop, RefreshOnly};
        let client = |id: &str, method, kind, scopes: &[&str]| Self {
            id: id.into(),
            method,
            kind,
            scopes: scopes.iter().map(ToString::to_string).collect(),
        };
        let all = ["items:read", "items:write", "items:admin"];
        vec![
            client("svc-pkjwt", PrivateKeyJwt, Dpop, &all),
            client("svc-basic", SecretBasic, Dpop, &all),
            client("svc-post", SecretPost, Dpop, &all),
            client("svc-reader", PrivateKeyJwt, Dpop, &["items:read"]),
            client("svc-bearer", SecretBasic, Bearer, &all),
            client("svc-refresh-only", PrivateKeyJwt, RefreshOnly, &all),
        ]
    }
}

/// A registration with its credentials.
pub(super) struct Client {
    pub(super) registration: Registration,
    pub(super) secret: String,
    pub(super) key: Key,
}

impl Client {
    pub(super) fn new(registration: Registration) -> Result<Self, RehearsalError> {
        Ok(Self {
            registration,
            // Characters that only survive Basic where both halves are form-encoded first; RFC 6749 Appendix A.2 knows
            // ASCII alone.
            secret: format!("s:%+ \"&={}", random_text(24)?),
            key: Key::generate()?,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AssertionHeader {
    alg: String,
    #[serde(default, deserialize_with = "present")]
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    typ: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AssertionClaims {
    aud: Value,
    exp: i64,
    iat: i64,
    iss: String,
    jti: String,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<i64>,
    sub: String,
}

/// Finds out which client asks. Exactly one method may be used, and it must be the registered one.
///
/// # Errors
/// [`Refused`] with `invalid_client`, or `invalid_request` where the request uses two methods.
pub(super) fn authenticate<'a>(
    stage: &'a Stage,
    settings: &IssuerSettings,
    headers: &HeaderMap,
    form: &[(String, String)],
) -> Result<&'a Client, Refused> {
    let basic = headers.get_all(AUTHORIZATION).iter().count();
    let post = usize::from(form::value(form, "client_secret").is_some());
    let assertion = usize::from(form::value(form, "client_assertion").is_some());
    match (basic, post, assertion) {
        (1, 0, 0) => by_basic(stage, headers, form),
        (0, 1, 0) => by_post(stage, form),
        (0, 0, 1) => by_assertion(stage, settings, form),
        (0, 0, 0) => Err(Refused::client("no client authentication")),
        _ => Err(Refused::request("more than one client authentication")),
    }
}

fn known<'a>(stage: &'a Stage, id: &str, method: ClientMethod) -> Result<&'a Client, Refused> {
    let client = stage
        .clients
        .iter()
        .find(|client| client.registration.id == id)
        .ok_or_else(|| Refused::client("unknown client"))?;
    if client.registration.method == method {
        Ok(client)
    } else {
        Err(Refused::client("not the registered method"))
    }
}

fn by_basic<'a>(
    stage: &'a Stage,
    headers: &HeaderMap,
    form: &[(String, String)],
) -> Result<&'a Client, Refused> {
    let halves = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, encoded)| STANDARD.decode(encoded).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let (id, secret) = halves
        .as_deref()
        .and_then(|text| text.split_once(':'))
        .and_then(|(id, secret)| Some((form::decode(id)?, form::decode(secret)?)))
        .ok_or_else(|| Refused::client("unreadable Basic"))?;
    if form::value(form, "client_id").is_some_and(|other| other != id) {
        return Err(Refused::request("two client identifiers"));
    }
    let client = known(stage, &id, ClientMethod::SecretBasic)?;
    checked_secret(client, &secret)
}

fn by_post<'a>(stage: &'a Stage, form: &[(String, String)]) -> Result<&'a Client, Refused> {
    let id = form::value(form, "client_id").unwrap_or_default();
    let client = known(stage, id, ClientMethod::SecretPost)?;
    checked_secret(
        client,
        form::value(form, "client_secret").unwrap_or_default(),
    )
}

fn checked_secret<'a>(client: &'a Client, secret: &str) -> Result<&'a Client, Refused> {
    // The secrets are made at start and protect nothing: time may tell.
    if client.secret == secret {
        Ok(client)
    } else {
        Err(Refused::client("wrong secret"))
    }
}

fn by_assertion<'a>(
    stage: &'a Stage,
    settings: &IssuerSettings,
    form: &[(String, String)],
) -> Result<&'a Client, Refused> {
    const KIND: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    if form::value(form, "client_assertion_type") != Some(KIND) {
        return Err(Refused::client("client_assertion_type"));
    }
    let text = form::value(form, "client_assertion").unwrap_or_default();
    let compact = Compact::parse(text).ok_or_else(|| Refused::client("assertion is not a JWS"))?;
    let header: AssertionHeader =
        serde_json::from_slice(&compact.header).map_err(|_| Refused::client("assertion header"))?;
    let claims: AssertionClaims =
        serde_json::from_slice(&compact.claims).map_err(|_| Refused::client("assertion claims"))?;
    let client = known(stage, &claims.sub, ClientMethod::PrivateKeyJwt)?;
    if header.alg != "ES256" || !compact.is_signed_by(&client.key.public()) {
        return Err(Refused::client("assertion signature"));
    }
    if header
        .kid
        .is_some_and(|kid| kid != client.key.jwk().thumbprint())
    {
        return Err(Refused::client("assertion kid"));
    }
    let (typ, audience) = if settings.legacy_assertions {
        ("JWT", stage.token_endpoint())
    } else {
        ("client-authentication+jwt", stage.issuer_url.clone())
    };
    if header.typ.as_deref() != Some(typ) {
        return Err(Refused::client("assertion typ"));
    }
    // A single string, not an array: RFC 10070. An array lets one assertion authenticate at two servers.
    if claims.aud != Value::String(audience) {
        return Err(Refused::client("assertion aud"));
    }
    let id = &client.registration.id;
    let other = form::value(form, "client_id").is_some_and(|other| other != id);
    if claims.iss != *id || other {
        return Err(Refused::client("assertion iss, sub and client_id differ"));
    }
    checked_times(stage.now(Service::Issuer), &claims)?;
    if claims.jti.len() < 16 || !stage.assertions.spend(&format!("{id} {}", claims.jti)) {
        return Err(Refused::client("assertion jti"));
    }
    Ok(client)
}

fn checked_times(now: i64, claims: &AssertionClaims) -> Result<(), Refused> {
    if claims.exp <= now || claims.exp.saturating_sub(now) > 60 {
        return Err(Refused::client("assertion exp"));
    }
    let age = now.saturating_sub(claims.iat);
    if !(-5..=60).contains(&age) || claims.nbf.is_some_and(|nbf| nbf > now.saturating_add(5)) {
        return Err(Refused::client("assertion iat or nbf"));
    }
    Ok(())
}
