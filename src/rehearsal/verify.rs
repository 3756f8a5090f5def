//! What a strict server checks in a proof (RFC 9449 §4.3) and in an access token (RFC 9068, RFC 9449 §6.1).
//!
//! Pure: replay and nonces need a memory, which the servers have. Never uses `crate::proof`: this is the second
//! opinion on it. Where RFC 9449 leaves room, the narrow reading is taken: unknown claims and members are refused,
//! `htu` is compared byte for byte.

use serde::Deserialize;

use super::jose::{Compact, Jwk, present, sha256_base64url};
use p256::ecdsa::VerifyingKey;

/// What is wrong with a proof. The text names the check, never a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProofFault {
    #[error("the proof is signed by another alg than ES256")]
    Alg,
    #[error("ath is missing or is not the token's hash")]
    Ath,
    #[error("the claims are not exactly those of RFC 9449 §4.2")]
    Claims,
    #[error("the header is not exactly typ, alg and jwk")]
    Header,
    #[error("htm is not the request's method")]
    Htm,
    #[error("htu is not the request's URI without query")]
    Htu,
    #[error("iat is outside the window")]
    Iat,
    #[error("jti has fewer than 16 or more than 256 characters")]
    Jti,
    #[error("jwk is not a P-256 public key with coordinates of full width")]
    Jwk,
    #[error("the proof is not a compact JWS with a 64-byte signature")]
    Shape,
    #[error("the signature is not by jwk")]
    Signature,
    #[error("a stray ath at the issuer")]
    StrayAth,
    #[error("typ is not dpop+jwt")]
    Typ,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofHeader {
    alg: String,
    jwk: serde_json::Value,
    typ: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofClaims {
    htm: String,
    htu: String,
    iat: i64,
    jti: String,
    #[serde(default, deserialize_with = "present")]
    ath: Option<String>,
    #[serde(default, deserialize_with = "present")]
    nonce: Option<String>,
}

/// What the request itself says, for comparison.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    /// Every spelling of the URI that the server takes; usually one.
    pub(super) uris: &'a [String],
    /// The access token, where the request has one.
    pub(super) token: Option<&'a str>,
    pub(super) now: i64,
    pub(super) window: i64,
}

/// A proof that passed every check that needs no memory.
#[derive(Debug)]
pub(super) struct GoodProof {
    pub(super) jkt: String,
    pub(super) jti: String,
    pub(super) nonce: Option<String>,
}

/// Checks a proof against its request.
///
/// # Errors
/// The first [`ProofFault`] found.
pub(super) fn proof(text: &str, request: &Request<'_>) -> Result<GoodProof, ProofFault> {
    let compact = Compact::parse(text).ok_or(ProofFault::Shape)?;
    let header: ProofHeader =
        serde_json::from_slice(&compact.header).map_err(|_| ProofFault::Header)?;
    if header.typ != "dpop+jwt" {
        return Err(ProofFault::Typ);
    }
    if header.alg != "ES256" {
        return Err(ProofFault::Alg);
    }
    let jwk: Jwk = serde_json::from_value(header.jwk).map_err(|_| ProofFault::Jwk)?;
    let key = jwk.key().ok_or(ProofFault::Jwk)?;
    if !compact.is_signed_by(&key) {
        return Err(ProofFault::Signature);
    }
    let claims: ProofClaims =
        serde_json::from_slice(&compact.claims).map_err(|_| ProofFault::Claims)?;
    if claims.htm != request.method {
        return Err(ProofFault::Htm);
    }
    if !request.uris.contains(&claims.htu) {
        return Err(ProofFault::Htu);
    }
    if claims.iat.saturating_sub(request.now).saturating_abs() > request.window {
        return Err(ProofFault::Iat);
    }
    if !(16..=256).contains(&claims.jti.len()) {
        return Err(ProofFault::Jti);
    }
    match (&claims.ath, request.token) {
        (None, None) => {}
        (Some(_), None) => return Err(ProofFault::StrayAth),
        (Some(ath), Some(token)) if *ath == sha256_base64url(token) => {}
        (_, Some(_)) => return Err(ProofFault::Ath),
    }
    Ok(GoodProof {
        jkt: jwk.thumbprint(),
        jti: claims.jti,
        nonce: claims.nonce,
    })
}

/// What is wrong with an access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenFault {
    #[error("the token is for another audience")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is of another issuer")]
    Issuer,
    #[error("the token is not an access token of this issuer")]
    Shape,
    #[error("the token's signature is wrong")]
    Signature,
}

#[derive(Deserialize)]
struct TokenHeader {
    alg: String,
    typ: String,
}

/// The claims of an access token that the API reads.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct TokenClaims {
    iss: String,
    aud: String,
    exp: i64,
    pub(super) jti: String,
    pub(super) client_id: String,
    #[serde(default)]
    pub(super) scope: String,
    pub(super) cnf: Option<Confirmation>,
}

/// RFC 9449 §6.1.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Confirmation {
    pub(super) jkt: String,
}

impl TokenClaims {
    pub(super) fn has_scope(&self, scope: &str) -> bool {
        self.scope.split(' ').any(|one| one == scope)
    }
}

/// Checks an access token of `issuer` for one of `audiences`.
///
/// # Errors
/// The first [`TokenFault`] found.
pub(super) fn token(
    text: &str,
    key: &VerifyingKey,
    issuer: &str,
    audiences: &[String],
    now: i64,
) -> Result<TokenClaims, TokenFault> {
    let compact = Compact::parse(text).ok_or(TokenFault::Shape)?;
    let header: TokenHeader =
        serde_json::from_slice(&compact.header).map_err(|_| TokenFault::Shape)?;
    if header.alg != "ES256" || header.typ != "at+jwt" {
        return Err(TokenFault::Shape);
    }
    if !compact.is_signed_by(key) {
        return Err(TokenFault::Signature);
    }
    let claims: TokenClaims =
        serde_json::from_slice(&compact.claims).map_err(|_| TokenFault::Shape)?;
    if claims.iss != issuer {
        return Err(TokenFault::Issuer);
    }
    if !audiences.contains(&claims.aud) {
        return Err(TokenFault::Audience);
    }
    if claims.exp <= now {
        return Err(TokenFault::Expired);
    }
    Ok(claims)
}

#[cfg(test)]
mod tests;
