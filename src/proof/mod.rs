//! DPoP (RFC 9449) as pure functions: keys, proofs, the URI that a proof names, challenges, and the server's checks.
//!
//! What it does not know: tokens, services, issuers, connections, configuration. It does no I/O, waits for nothing
//! and reads no clock; time and `jti` are arguments. Serves RFC 9449 §4 (proofs), §8 (nonces), RFC 7638 (thumbprints),
//! RFC 7515 (compact serialisation) and RFC 9110 §11.6.1 (challenges).
//!
//! Invariant: a private key never leaves its [`Signer`]; what comes out is a [`Proof`], good for one request.

mod challenge;
mod check;
mod key;
mod mint;
mod uri;
mod words;

pub use challenge::{Challenge, parse_challenges};
pub use check::{CheckError, CheckedProof, Expected, check};
pub use key::ProofKey;
pub use mint::{Proof, ProofClaims, ProofError, Signer};
pub use uri::{HtuProfile, htu};
pub use words::{Jti, Nonce, ath};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// base64url without padding (RFC 7515 §2).
fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// base64url(SHA-256(text)): the form of both a thumbprint and an `ath`.
fn sha256_base64url(text: &str) -> String {
    base64url(digest(&SHA256, text.as_bytes()).as_ref())
}
