//! A P-256 key that signs proofs with ES256, and its public half as JWK and thumbprint.

use std::fmt;

use aws_lc_rs::encoding::{AsBigEndian, EcPrivateKeyBin};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use p256::SecretKey;
use p256::elliptic_curve::sec1::ToSec1Point;
use p256::pkcs8::DecodePrivateKey;
use zeroize::Zeroizing;

use super::mint::{header_segment, seal};
use super::{Proof, ProofClaims, ProofError, Signer, base64url, sha256_base64url};
use crate::vocab::Secret;

/// A value drawn at random is no private key once in 2^32; so many draws fail only where the generator is broken.
const DRAWS: usize = 8;

/// A proof key: the private half stays inside and is overwritten on drop.
///
/// p256 makes the key and its coordinates; aws-lc-rs signs, which is several times faster and the same code that TLS
/// rests on.
pub struct ProofKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    jwk: String,
    thumbprint: String,
    header: String,
}

impl ProofKey {
    /// The algorithm of every proof, as `alg` and as in `dpop_signing_alg_values_supported` (RFC 7518 §3.4).
    pub const ALG: &'static str = "ES256";

    /// Makes a new key.
    ///
    /// # Errors
    /// [`ProofError::Randomness`] where the system gives no random numbers.
    pub fn generate() -> Result<Self, ProofError> {
        let random = SystemRandom::new();
        for _ in 0..DRAWS {
            let mut scalar = Zeroizing::new([0u8; 32]);
            random
                .fill(scalar.as_mut_slice())
                .map_err(|_| ProofError::Randomness)?;
            if let Ok(secret) = SecretKey::from_slice(scalar.as_slice()) {
                return Self::from_secret(&secret);
            }
        }
        Err(ProofError::Randomness)
    }

    /// Reads a key that was made elsewhere.
    ///
    /// # Errors
    /// [`ProofError::Key`] where the bytes are not a P-256 private key in PKCS #8.
    pub fn from_pkcs8_der(der: &Secret<Vec<u8>>) -> Result<Self, ProofError> {
        let secret = SecretKey::from_pkcs8_der(der.expose()).map_err(|_| ProofError::Key)?;
        Self::from_secret(&secret)
    }

    /// Reads a key that [`ProofKey::sealable`] wrote.
    ///
    /// # Errors
    /// [`ProofError::Key`] where the bytes are no private key.
    pub fn restored(scalar: &Secret<[u8; 32]>) -> Result<Self, ProofError> {
        let secret = SecretKey::from_slice(scalar.expose()).map_err(|_| ProofError::Key)?;
        Self::from_secret(&secret)
    }

    /// The private key, to be sealed into the store and for nothing else: a refresh token that is bound to it
    /// (RFC 9449 §5) outlives the process only together with it. `tests/walls.rs` names the one caller.
    ///
    /// # Errors
    /// [`ProofError::Key`] where the library does not give it out.
    pub fn sealable(&self) -> Result<Secret<[u8; 32]>, ProofError> {
        let scalar: EcPrivateKeyBin<'_> = self
            .pair
            .private_key()
            .as_be_bytes()
            .map_err(|_| ProofError::Key)?;
        let scalar = scalar.as_ref().try_into().map_err(|_| ProofError::Key)?;
        Ok(Secret::new(scalar))
    }

    /// The public key as canonical JSON (RFC 7638 §3.2): the required members in alphabetical order, nothing else.
    #[must_use]
    pub fn public_jwk(&self) -> &str {
        &self.jwk
    }

    fn from_secret(secret: &SecretKey) -> Result<Self, ProofError> {
        let point = secret.public_key().to_sec1_point(false);
        // SEC 1 §2.3.3: 0x04, then both coordinates at full width. RFC 7518 §6.2.1.2 wants that width in the JWK too;
        // an encoder that drops leading zeros yields another thumbprint than the server's for one key in 128.
        let coordinates = point.as_bytes().get(1..).ok_or(ProofError::Key)?;
        let (x, y) = coordinates.split_at_checked(32).ok_or(ProofError::Key)?;
        let scalar = Zeroizing::new(secret.to_bytes());
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            scalar.as_slice(),
            point.as_bytes(),
        )
        .map_err(|_| ProofError::Key)?;
        let jwk = canonical_jwk(&base64url(x), &base64url(y));
        Ok(Self {
            pair,
            random: SystemRandom::new(),
            thumbprint: sha256_base64url(&jwk),
            header: header_segment(Self::ALG, &jwk),
            jwk,
        })
    }
}

impl Signer for ProofKey {
    fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    fn proof(&self, claims: &ProofClaims<'_>) -> Result<Proof, ProofError> {
        seal(&self.header, claims, |input| {
            let signature = self
                .pair
                .sign(&self.random, input)
                .map_err(|_| ProofError::Signature)?;
            // RFC 7518 §3.4: r and s side by side, 64 bytes, never DER.
            signature
                .as_ref()
                .try_into()
                .map_err(|_| ProofError::Signature)
        })
    }
}

/// Names the key by its thumbprint, which every server it talks to knows.
impl fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProofKey({})", self.thumbprint)
    }
}

/// The JSON that RFC 7638 §3.2 hashes for a P-256 key.
pub(super) fn canonical_jwk(x: &str, y: &str) -> String {
    format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)
}

#[cfg(test)]
mod tests;
