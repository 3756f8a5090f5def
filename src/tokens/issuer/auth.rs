//! How the client proves its name (RFC 6749 §2.3): exactly one method a request.
//!
//! Assertions are made anew for each request, also for one that is sent again because of a nonce: an issuer keeps
//! their `jti` and refuses the second use (RFC 7523 §3).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, header};
use josekit::jwk::alg::ed::{EdCurve, EdKeyPair};
use josekit::jwk::alg::rsa::RsaKeyPair;
use josekit::jws::{ES256, ES384, EdDSA, JwsHeader, JwsSigner, PS256, RS256};
use serde_json::json;
use zeroize::Zeroizing;

use super::form::{Form, encode};
use super::workload::{self, Unfit};
use crate::credential::BadCertificate;
use crate::tokens::settings::{AssertionAudience, ClientAuth, Platform, WorkloadSettings};
use crate::vocab::Secret;

/// Life of an assertion.
const ASSERTION_LIFE: i64 = 60;

/// FAPI 2.0 Security Profile §5.4.1.
const FAPI: &[&str] = &["PS256", "ES256", "EdDSA"];
/// RFC 7523 §2.2.
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// draft-ietf-oauth-spiffe-client-auth.
const JWT_SPIFFE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";

/// The client's name and its means to prove it.
pub(super) struct Authenticator {
    client_id: String,
    method: Method,
}

/// Never printed: josekit's signers show their key in `Debug`.
enum Method {
    Assertion(Signed),
    Basic(HeaderValue),
    /// The name alone: of a public client, or of one whose certificate says the rest.
    Name,
    Post(Secret<String>),
    Workload(WorkloadSettings),
}

/// A key and who signs with it.
struct Signed {
    signers: Vec<Box<dyn JwsSigner>>,
    kid: Option<String>,
    issuer: String,
    subject: String,
}

/// Time, freshness and addressee of one assertion.
pub(super) struct Occasion<'a> {
    /// Seconds since 1970, by the issuer's clock as far as we know it.
    pub(super) now: i64,
    /// Fresh random identifier.
    pub(super) jti: &'a str,
    /// The issuer identifier from the configuration.
    pub(super) issuer: &'a str,
    /// The token endpoint.
    pub(super) token_endpoint: &'a str,
    pub(super) audience: AssertionAudience,
    /// `token_endpoint_auth_signing_alg_values_supported`.
    pub(super) algorithms: Option<&'a [String]>,
}

/// Why a client credential is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::tokens) enum AuthError {
    /// The certificate cannot be used.
    #[error("{0}")]
    Certificate(BadCertificate),
    /// The private key cannot be read.
    #[error(
        "not a private key in PEM of a kind that is supported: EC P-256 or P-384, RSA of 2048 bits or more, Ed25519"
    )]
    Key,
    /// The library refused to sign.
    #[error("the assertion could not be signed")]
    Signature,
    /// The secret cannot stand in a header.
    #[error("the client secret cannot be encoded")]
    Value,
}

impl Authenticator {
    /// Reads the configured credential.
    pub(super) fn new(client_id: &str, auth: &ClientAuth) -> Result<Self, AuthError> {
        let method = match auth {
            ClientAuth::Nothing | ClientAuth::Mtls(_) => Method::Name,
            ClientAuth::PrivateKeyJwt { key_pem, kid } => Method::Assertion(Signed {
                signers: signers(key_pem)?,
                kid: kid.clone(),
                issuer: client_id.to_owned(),
                subject: client_id.to_owned(),
            }),
            ClientAuth::Workload(settings) => Method::Workload(settings.clone()),
            ClientAuth::SecretBasic(secret) => Method::Basic(basic(client_id, secret)?),
            ClientAuth::SecretPost(secret) => Method::Post(secret.clone()),
        };
        Ok(Self {
            client_id: client_id.to_owned(),
            method,
        })
    }

    /// The same with the algorithms of FAPI 2.0 (§5.4) and no others.
    pub(super) fn held_to_fapi(mut self) -> Result<Self, AuthError> {
        if let Method::Assertion(signed) = &mut self.method {
            signed.hold_to_fapi()?;
        }
        Ok(self)
    }

    /// What the platform gives us to show, read for this very request; `None` where nothing is shown.
    pub(super) async fn platform_token(
        &self,
        issuer: &str,
        now: i64,
    ) -> Result<Option<Secret<String>>, Unfit> {
        let Method::Workload(settings) = &self.method else {
            return Ok(None);
        };
        let token = settings.token.read_text().await.ok_or(Unfit::Missing)?;
        let wanted = workload::Wanted {
            audience: settings.audience.as_deref().unwrap_or(issuer),
            now,
            spiffe: settings.platform != Platform::Kubernetes,
        };
        workload::vet(token.expose(), &wanted)?;
        Ok(Some(token))
    }

    /// Puts the proof of our name on a request.
    pub(super) fn apply(
        &self,
        form: &mut Form,
        headers: &mut HeaderMap,
        occasion: &Occasion<'_>,
        platform_token: Option<&Secret<String>>,
    ) -> Result<(), AuthError> {
        match &self.method {
            Method::Assertion(signed) => {
                let assertion = signed.assertion("client-authentication+jwt", occasion)?;
                form.add("client_id", &self.client_id);
                form.add("client_assertion_type", JWT_BEARER);
                form.add_secret("client_assertion", &assertion);
            }
            Method::Workload(settings) => {
                let token = platform_token.ok_or(AuthError::Value)?;
                form.add("client_id", &self.client_id);
                let kind = match settings.platform {
                    Platform::Kubernetes | Platform::SpiffePlain => JWT_BEARER,
                    Platform::Spiffe => JWT_SPIFFE,
                };
                form.add("client_assertion_type", kind);
                form.add_secret("client_assertion", token);
            }
            Method::Basic(value) => {
                headers.insert(header::AUTHORIZATION, value.clone());
            }
            Method::Name => form.add("client_id", &self.client_id),
            Method::Post(secret) => {
                form.add("client_id", &self.client_id);
                form.add_secret("client_secret", secret);
            }
        }
        Ok(())
    }
}

/// The assertion of a `jwt_bearer` grant that we sign ourselves (RFC 7523 §2.1).
pub(super) fn grant_assertion(
    key_pem: &Secret<Vec<u8>>,
    kid: Option<&str>,
    (issuer, subject): (&str, &str),
    occasion: &Occasion<'_>,
    fapi: bool,
) -> Result<Secret<String>, AuthError> {
    let mut signed = Signed {
        signers: signers(key_pem)?,
        kid: kid.map(str::to_owned),
        issuer: issuer.to_owned(),
        subject: subject.to_owned(),
    };
    if fapi {
        signed.hold_to_fapi()?;
    }
    signed.assertion("JWT", occasion)
}

impl Signed {
    /// Leaves the algorithms of FAPI 2.0 (§5.4).
    fn hold_to_fapi(&mut self) -> Result<(), AuthError> {
        self.signers
            .retain(|signer| FAPI.contains(&signer.algorithm().name()));
        if self.signers.is_empty() {
            return Err(AuthError::Key);
        }
        Ok(())
    }

    /// RFC 7523 §3, with the audience and type of RFC 10070. The audience is what the operator configured or what is
    /// pinned to the issuer, never an address that an API offered.
    fn assertion(
        &self,
        typed: &'static str,
        occasion: &Occasion<'_>,
    ) -> Result<Secret<String>, AuthError> {
        let listed = |name: &str| {
            occasion
                .algorithms
                .is_some_and(|list| list.iter().any(|a| a == name))
        };
        let signer = self
            .signers
            .iter()
            .find(|signer| listed(signer.algorithm().name()))
            .or_else(|| self.signers.last())
            .ok_or(AuthError::Key)?;
        let (kind, audience) = match occasion.audience {
            AssertionAudience::Issuer => (typed, occasion.issuer),
            AssertionAudience::TokenEndpoint => ("JWT", occasion.token_endpoint),
        };
        let mut head = JwsHeader::new();
        head.set_token_type(kind);
        if let Some(kid) = &self.kid {
            head.set_key_id(kid);
        }
        let claims = json!({
            "iss": self.issuer,
            "sub": self.subject,
            "aud": audience,
            "jti": occasion.jti,
            "iat": occasion.now,
            "exp": occasion.now.saturating_add(ASSERTION_LIFE),
        });
        josekit::jws::serialize_compact(claims.to_string().as_bytes(), &head, signer.as_ref())
            .map(Secret::new)
            .map_err(|_| AuthError::Signature)
    }
}

/// Every algorithm that the key can sign with; the last one is for issuers that do not list any.
///
/// An RSA key that is not restricted to PSS prefers PS256 where the issuer lists it (FAPI 2.0 wants it) and falls back
/// on RS256, which every server knows.
fn signers(pem: &Secret<Vec<u8>>) -> Result<Vec<Box<dyn JwsSigner>>, AuthError> {
    let pem = pem.expose();
    if let Ok(signer) = ES256.signer_from_pem(pem) {
        return Ok(vec![Box::new(signer)]);
    }
    if let Ok(signer) = ES384.signer_from_pem(pem) {
        return Ok(vec![Box::new(signer)]);
    }
    if EdKeyPair::from_pem(pem).is_ok_and(|pair| pair.curve() == EdCurve::Ed25519) {
        let signer = EdDSA.signer_from_pem(pem).map_err(|_| AuthError::Key)?;
        return Ok(vec![Box::new(signer)]);
    }
    if let Ok(signer) = RS256.signer_from_pem(pem) {
        let jwk = RsaKeyPair::from_pem(pem)
            .map_err(|_| AuthError::Key)?
            .to_jwk_private_key();
        let pss = PS256.signer_from_jwk(&jwk).map_err(|_| AuthError::Key)?;
        return Ok(vec![Box::new(pss), Box::new(signer)]);
    }
    let signer = PS256.signer_from_pem(pem).map_err(|_| AuthError::Key)?;
    Ok(vec![Box::new(signer)])
}

/// RFC 6749 §2.3.1: both halves are form-encoded before they are joined, so a colon in the name cannot move the border.
fn basic(client_id: &str, secret: &Secret<String>) -> Result<HeaderValue, AuthError> {
    let secret = secret.expose();
    let room = 3 * (client_id.len() + secret.len()) + 1;
    let mut pair = Zeroizing::new(String::with_capacity(room));
    encode(client_id, &mut pair);
    pair.push(':');
    encode(secret, &mut pair);
    let mut text = Zeroizing::new(String::with_capacity(2 * room + 16));
    text.push_str("Basic ");
    STANDARD.encode_string(pair.as_bytes(), &mut text);
    let mut value = HeaderValue::from_str(&text).map_err(|_| AuthError::Value)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;
