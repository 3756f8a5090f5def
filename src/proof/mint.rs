//! Making a proof (RFC 9449 §4.2): what goes into it, who signs it, and the compact JWS that comes out.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::{Jti, Nonce, base64url};

/// Signs proofs with one key.
///
/// The contract: `proof` signs exactly the given claims and adds none, because some servers refuse claims that they do
/// not know; and no call gives out the private key. An error means that nothing was signed, and the request that
/// needed the proof must not go out.
pub trait Signer: Send + Sync {
    /// The key's name to servers, `jkt`: RFC 7638 with SHA-256, base64url.
    fn thumbprint(&self) -> &str;

    /// Signs a proof for one request.
    ///
    /// # Errors
    /// [`ProofError`] where the signature cannot be made.
    fn proof(&self, claims: &ProofClaims<'_>) -> Result<Proof, ProofError>;
}

/// What a proof says about the one request it is for.
pub struct ProofClaims<'a> {
    /// The method as it goes out, case preserved.
    pub htm: &'a str,
    /// The target without query and fragment; see [`super::htu`].
    pub htu: &'a str,
    /// Seconds since 1970, read when the head is written.
    pub iat: i64,
    /// New for each request that is sent, also for a resent one.
    pub jti: &'a Jti,
    /// [`super::ath`] of the access token; none at the issuer, where no token goes along.
    pub ath: Option<&'a str>,
    /// The server's last nonce; none where it never gave one.
    pub nonce: Option<&'a Nonce>,
}

/// A signed proof: the value of one `DPoP` header field.
#[derive(Clone)]
pub struct Proof(String);

impl Proof {
    /// The compact JWS.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The compact JWS, for whoever sends it.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

/// Until its window closes a proof is half of what a thief needs, so it is not printed.
impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[proof]")
    }
}

/// Why there is no key or no proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The bytes are not a P-256 private key in PKCS #8.
    #[error("not a P-256 private key in PKCS #8")]
    Key,
    /// The system gives no random numbers.
    #[error("no random numbers to be had")]
    Randomness,
    /// The cryptographic library refused to sign.
    #[error("the proof could not be signed")]
    Signature,
}

/// Two dots, a signature of 86 characters, and what rounding takes.
const SIGNATURE_ROOM: usize = 96;

/// The payload in the order of RFC 9449 §4.2. Absent claims are left out: a `null` nonce is a wrong nonce.
#[derive(Serialize)]
struct Payload<'a> {
    jti: &'a str,
    htm: &'a str,
    htu: &'a str,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ath: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
}

/// The protected header of every proof of one key, encoded once.
pub(super) fn header_segment(algorithm: &str, public_jwk: &str) -> String {
    base64url(format!(r#"{{"typ":"dpop+jwt","alg":"{algorithm}","jwk":{public_jwk}}}"#).as_bytes())
}

/// Puts the claims behind the header and the signature behind both (RFC 7515 §3.1).
pub(super) fn seal(
    header: &str,
    claims: &ProofClaims<'_>,
    sign: impl FnOnce(&[u8]) -> Result<[u8; 64], ProofError>,
) -> Result<Proof, ProofError> {
    let payload = serde_json::to_vec(&Payload {
        jti: claims.jti.as_str(),
        htm: claims.htm,
        htu: claims.htu,
        iat: claims.iat,
        ath: claims.ath,
        nonce: claims.nonce.map(Nonce::as_str),
    })
    .map_err(|_| ProofError::Signature)?;
    let mut jws = String::with_capacity(header.len() + payload.len() * 4 / 3 + SIGNATURE_ROOM);
    jws.push_str(header);
    jws.push('.');
    URL_SAFE_NO_PAD.encode_string(&payload, &mut jws);
    let signature = sign(jws.as_bytes())?;
    jws.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut jws);
    Ok(Proof(jws))
}
