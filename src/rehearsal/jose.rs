//! Compact JWS with ES256 (RFC 7515, RFC 7518 §3.4), by p256 alone. Knows nothing of DPoP, OAuth or HTTP.
//!
//! Written a second time on purpose: if this shared code with `proof`, one mistake would fool both.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use p256::pkcs8::{EncodePrivateKey as _, LineEnding};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::RehearsalError;

/// Base64url without padding, as JOSE writes it.
pub(super) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The reverse of [`base64url`]; padding and stray bits are refused.
pub(super) fn from_base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Base64url of the SHA-256 of a text: thumbprints and `ath`.
pub(super) fn sha256_base64url(text: &str) -> String {
    base64url(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

/// Random bytes as base64url: nonces, identifiers, secrets.
///
/// # Errors
/// [`RehearsalError::Entropy`] where the system gives no randomness.
pub(super) fn random_text(bytes: usize) -> Result<String, RehearsalError> {
    let mut raw = vec![0; bytes];
    aws_lc_rs::rand::fill(&mut raw).map_err(|_| RehearsalError::Entropy)?;
    Ok(base64url(&raw))
}

/// A P-256 public key as a JWK. The allow-list of members is the type: a private member, a `kid` or a repeated
/// member makes it unreadable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Jwk {
    crv: String,
    kty: String,
    x: String,
    y: String,
}

impl Jwk {
    /// The key, where the JWK is a P-256 point with coordinates of full width (RFC 7518 §6.2.1.2).
    pub(super) fn key(&self) -> Option<VerifyingKey> {
        if self.kty != "EC" || self.crv != "P-256" {
            return None;
        }
        let (x, y) = (from_base64url(&self.x)?, from_base64url(&self.y)?);
        if x.len() != 32 || y.len() != 32 {
            return None;
        }
        VerifyingKey::from_sec1_bytes(&[&[4], x.as_slice(), y.as_slice()].concat()).ok()
    }

    /// RFC 7638.
    pub(super) fn thumbprint(&self) -> String {
        let Self { crv, kty, x, y } = self;
        sha256_base64url(&format!(
            r#"{{"crv":"{crv}","kty":"{kty}","x":"{x}","y":"{y}"}}"#
        ))
    }
}

/// A key pair that signs: the issuer's, and the clients' for `private_key_jwt`.
pub(super) struct Key(SigningKey);

impl Key {
    /// Draws a key.
    ///
    /// # Errors
    /// [`RehearsalError::Entropy`] where the system gives no randomness.
    pub(super) fn generate() -> Result<Self, RehearsalError> {
        // A draw outside the group's order has a chance of 2^-32; three in a row means broken randomness.
        for _ in 0..3 {
            let mut raw = [0; 32];
            aws_lc_rs::rand::fill(&mut raw).map_err(|_| RehearsalError::Entropy)?;
            if let Ok(key) = SigningKey::from_slice(&raw) {
                return Ok(Self(key));
            }
        }
        Err(RehearsalError::Entropy)
    }

    pub(super) fn public(&self) -> VerifyingKey {
        *self.0.verifying_key()
    }

    pub(super) fn jwk(&self) -> Jwk {
        let point = self.public().to_sec1_point(false);
        let bytes: &[u8] = point.as_ref();
        // Uncompressed SEC1: one byte 4, then x and y of 32 bytes each.
        let half = |range| bytes.get(range).map(base64url).unwrap_or_default();
        Jwk {
            crv: "P-256".into(),
            kty: "EC".into(),
            x: half(1..33),
            y: half(33..65),
        }
    }

    /// PKCS #8 in PEM, as a user would have it in a file.
    ///
    /// # Errors
    /// [`RehearsalError::Key`] where the key cannot be encoded.
    pub(super) fn pkcs8_pem(&self) -> Result<String, RehearsalError> {
        self.0
            .to_pkcs8_pem(LineEnding::LF)
            .map(|pem| pem.to_string())
            .map_err(|_| RehearsalError::Key)
    }

    /// Signs header and claims into a compact JWS.
    pub(super) fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!(
            "{}.{}",
            base64url(header.to_string().as_bytes()),
            base64url(claims.to_string().as_bytes())
        );
        let signature: Signature = self.0.sign(signed.as_bytes());
        format!("{signed}.{}", base64url(&signature.to_bytes()))
    }
}

/// A compact JWS taken apart, nothing believed yet.
pub(super) struct Compact<'a> {
    pub(super) header: Vec<u8>,
    pub(super) claims: Vec<u8>,
    signed: &'a str,
    signature: Signature,
}

impl<'a> Compact<'a> {
    /// Reads `header.claims.signature`. A signature that is not 64 bytes of r and s (a DER one, say) is refused.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        Some(Self {
            header: from_base64url(header)?,
            claims: from_base64url(claims)?,
            signed,
            signature: Signature::from_slice(&from_base64url(signature)?).ok()?,
        })
    }

    pub(super) fn is_signed_by(&self, key: &VerifyingKey) -> bool {
        key.verify(self.signed.as_bytes(), &self.signature).is_ok()
    }
}

/// For an optional member: present means present with a value; `null` is not absence.
pub(super) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_signed_is_verified_and_nothing_else() {
        let (key, other) = (Key::generate().unwrap(), Key::generate().unwrap());
        let text = key.sign(&json!({"alg": "ES256"}), &json!({"a": 1}));
        let compact = Compact::parse(&text).unwrap();
        assert!(compact.is_signed_by(&key.public()));
        assert!(!compact.is_signed_by(&other.public()));
        assert!(!compact.is_signed_by(&other.jwk().key().unwrap()));
        assert_eq!(key.jwk().key().unwrap(), key.public());
        for bad in [
            "",
            "a.b",
            "a.b.c.d",
            &format!("{text}="),
            &text[..text.len() - 2],
        ] {
            assert!(Compact::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_thumbprint_sorts_its_members() {
        let jwk: Jwk = serde_json::from_str(
            r#"{"kty":"EC","crv":"P-256","x":"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs","y":"9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA"}"#,
        )
        .unwrap();
        assert!(jwk.key().is_some());
        // The key of RFC 9449 §4.1 and its thumbprint of §6.1.
        assert_eq!(
            jwk.thumbprint(),
            "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
        );
    }
}
