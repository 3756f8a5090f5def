//! A server's checks of a proof, RFC 9449 §4.3, in its order.
//!
//! Nothing in the request path asks it: it is the second look at what we sign, for tests and fuzzing. It is stricter
//! than a server must be where we promise more: a nonce or `ath` that nobody asked for is refused.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::key::canonical_jwk;
use super::{ProofKey, ath, sha256_base64url};
use crate::vocab::{Authority, Scheme};

/// Longest proof that is looked at, in bytes.
const PROOF_MAX: usize = 16 * 1024;

/// What the request and the server's memory say the proof must be.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The request's method.
    pub htm: &'a str,
    /// The request's target; query and fragment are not compared.
    pub htu: &'a str,
    /// The server's time in seconds since 1970.
    pub now: i64,
    /// How old a proof may be, in seconds.
    pub max_age: i64,
    /// How far ahead of the server's time a proof may be, in seconds.
    pub max_ahead: i64,
    /// The nonce that the server gave, if it gave one.
    pub nonce: Option<&'a str>,
    /// The access token that came along, if one did.
    pub token: Option<&'a str>,
    /// The thumbprint that the token or grant is bound to, if it is.
    pub thumbprint: Option<&'a str>,
}

/// A proof that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedProof {
    thumbprint: String,
    jti: String,
    iat: i64,
}

impl CheckedProof {
    /// The thumbprint of the key that signed it.
    #[must_use]
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// Its name; whether it was seen before is for the caller to know (§11.1).
    #[must_use]
    pub fn jti(&self) -> &str {
        &self.jti
    }

    /// When it says it was signed.
    #[must_use]
    pub fn iat(&self) -> i64 {
        self.iat
    }
}

/// Which check of §4.3 a proof failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// `alg` is not the asymmetric algorithm that we know.
    #[error("the algorithm is not ES256")]
    Algorithm,
    /// A required claim is missing, empty or of the wrong type.
    #[error("a required claim is missing")]
    Claims,
    /// A header extension that must be understood and is not (RFC 7515 §4.1.11).
    #[error("a critical extension is not known")]
    Critical,
    /// `jwk` is not a P-256 public key.
    #[error("the key is not a P-256 public key")]
    Key,
    /// It is not one compact JWS with JSON inside.
    #[error("not a compact JWS")]
    Malformed,
    /// `htm` is not the request's method.
    #[error("the method differs")]
    Method,
    /// `nonce` is not what the server gave, or is there although it gave none.
    #[error("the nonce differs")]
    Nonce,
    /// `jwk` holds a private key.
    #[error("the key is private")]
    PrivateKey,
    /// The signature is not that of the key in the header.
    #[error("the signature does not verify")]
    Signature,
    /// The token is bound to another key.
    #[error("the key is not the one the token is bound to")]
    Thumbprint,
    /// `iat` lies outside the window.
    #[error("the time is outside the window")]
    Time,
    /// `ath` is not the hash of the token, or is there although no token is.
    #[error("the token hash differs")]
    TokenHash,
    /// `typ` is not `dpop+jwt`.
    #[error("the type is not dpop+jwt")]
    Type,
    /// `htu` is not the request's target.
    #[error("the target differs")]
    Uri,
}

/// The members that RFC 9449 needs. Members not named here are ignored (RFC 7515 §4), repeated ones refused.
#[derive(Deserialize)]
struct Header {
    typ: Option<String>,
    alg: Option<String>,
    jwk: Option<Jwk>,
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<IgnoredAny>,
    p: Option<IgnoredAny>,
    q: Option<IgnoredAny>,
    dp: Option<IgnoredAny>,
    dq: Option<IgnoredAny>,
    qi: Option<IgnoredAny>,
    oth: Option<IgnoredAny>,
    k: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    jti: String,
    htm: String,
    htu: String,
    iat: i64,
    ath: Option<String>,
    nonce: Option<String>,
}

/// Checks one `DPoP` field value. That there is only one, and that its `jti` is new, the caller must know.
///
/// # Errors
/// [`CheckError`] naming the first check that failed.
pub fn check(proof: &str, expected: &Expected<'_>) -> Result<CheckedProof, CheckError> {
    if proof.len() > PROOF_MAX {
        return Err(CheckError::Malformed);
    }
    let (input, signature) = proof.rsplit_once('.').ok_or(CheckError::Malformed)?;
    let (header, payload) = input.split_once('.').ok_or(CheckError::Malformed)?;
    let header: Header = json(header).ok_or(CheckError::Malformed)?;
    let payload = base64(payload).ok_or(CheckError::Malformed)?;
    let signature = base64(signature).ok_or(CheckError::Malformed)?;
    if header.typ.as_deref() != Some("dpop+jwt") {
        return Err(CheckError::Type);
    }
    if header.alg.as_deref() != Some(ProofKey::ALG) {
        return Err(CheckError::Algorithm);
    }
    if header.crit.is_some() {
        return Err(CheckError::Critical);
    }
    let key = header.jwk.ok_or(CheckError::Key)?;
    let thumbprint = verify(&key, input, &signature)?;
    let claims: Claims = serde_json::from_slice(&payload).map_err(|_| CheckError::Claims)?;
    claims.hold(expected)?;
    if expected.thumbprint.is_some_and(|jkt| jkt != thumbprint) {
        return Err(CheckError::Thumbprint);
    }
    Ok(CheckedProof {
        thumbprint,
        jti: claims.jti,
        iat: claims.iat,
    })
}

/// §4.3 (6) and (7): the signature is that of the public key in the header. Returns the key's thumbprint.
fn verify(key: &Jwk, input: &str, signature: &[u8]) -> Result<String, CheckError> {
    if key.is_private() {
        return Err(CheckError::PrivateKey);
    }
    let (Some("EC"), Some("P-256"), Some(x), Some(y)) = (
        key.kty.as_deref(),
        key.crv.as_deref(),
        key.x.as_deref(),
        key.y.as_deref(),
    ) else {
        return Err(CheckError::Key);
    };
    let mut point = vec![0x04];
    for coordinate in [x, y] {
        let bytes = base64(coordinate).ok_or(CheckError::Key)?;
        if bytes.len() != 32 {
            return Err(CheckError::Key);
        }
        point.extend(bytes);
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
        .verify(input.as_bytes(), signature)
        .map_err(|_| CheckError::Signature)?;
    Ok(sha256_base64url(&canonical_jwk(x, y)))
}

impl Jwk {
    /// RFC 7518 §6.2.2, §6.3.2 and §6.4.1: the members of private and symmetric keys.
    fn is_private(&self) -> bool {
        [
            self.d, self.p, self.q, self.dp, self.dq, self.qi, self.oth, self.k,
        ]
        .iter()
        .any(Option::is_some)
    }
}

impl Claims {
    /// §4.3 (3) and (8) to (12).
    fn hold(&self, expected: &Expected<'_>) -> Result<(), CheckError> {
        if self.jti.is_empty() {
            return Err(CheckError::Claims);
        }
        if self.htm != expected.htm {
            return Err(CheckError::Method);
        }
        let target = target(&self.htu).ok_or(CheckError::Uri)?;
        if Some(target) != self::target(expected.htu) {
            return Err(CheckError::Uri);
        }
        if self.nonce.as_deref() != expected.nonce {
            return Err(CheckError::Nonce);
        }
        let age = expected.now.saturating_sub(self.iat);
        if age > expected.max_age || age < expected.max_ahead.saturating_neg() {
            return Err(CheckError::Time);
        }
        if self.ath != expected.token.map(ath) {
            return Err(CheckError::TokenHash);
        }
        Ok(())
    }
}

/// The parts of an `https` URI that are compared, after the normalisation of RFC 3986 §6.2.2 and §6.2.3 that §4.3
/// asks for. The path is compared as it stands.
fn target(uri: &str) -> Option<(Authority, &str)> {
    let (scheme, rest) = uri.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let path = if path.is_empty() { "/" } else { path };
    Some((Authority::parse(Scheme::Https, authority).ok()?, path))
}

fn base64(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

fn json<T: DeserializeOwned>(segment: &str) -> Option<T> {
    serde_json::from_slice(&base64(segment)?).ok()
}

#[cfg(test)]
mod tests;
