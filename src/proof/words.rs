//! The small values inside a proof.

use std::fmt;
use std::sync::Arc;

use super::{base64url, sha256_base64url};

/// Longest nonce that is remembered, in bytes. A server could otherwise make every later request of ours large.
const NONCE_MAX: usize = 1024;

/// A proof's unique name (RFC 9449 §4.2): 128 random bits as 22 base64url characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Jti(Arc<str>);

impl Jti {
    /// Names a proof by 16 random bytes, which the caller draws.
    #[must_use]
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(base64url(&bytes).into())
    }

    /// The claim's value.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Jti {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A server's nonce (RFC 9449 §8.1), kept byte for byte.
#[derive(Clone, PartialEq, Eq)]
pub struct Nonce(Arc<str>);

impl Nonce {
    /// Reads a `DPoP-Nonce` field value: `1*NQCHAR` (RFC 6749 appendix A), at most 1 KiB. Anything else is no nonce:
    /// a list of two nonces, quotes and control characters would not survive in the claim as the server meant them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let good = |b: u8| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        (!text.is_empty() && text.len() <= NONCE_MAX && text.bytes().all(good))
            .then(|| Self(text.into()))
    }

    /// The claim's value.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Says the length only: whoever reads a log needs no nonce.
impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({} bytes)", self.0.len())
    }
}

/// The hash that ties a proof to an access token (RFC 9449 §4.2): base64url(SHA-256(ASCII(token))).
#[must_use]
pub fn ath(token: &str) -> String {
    sha256_base64url(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jti_has_22_characters_and_128_bits() {
        assert_eq!(Jti::from_random([0; 16]).as_str(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(
            Jti::from_random([0xff; 16]).to_string(),
            "_____________________w"
        );
        let mut last_bit = [0; 16];
        last_bit[15] = 1;
        assert_ne!(Jti::from_random(last_bit), Jti::from_random([0; 16]));
    }

    #[test]
    fn a_nonce_is_one_or_more_nqchar() {
        for good in [
            "eyJ7S_zG.eyJH0-Z.HX4w-7v",
            "a",
            "!#[]~,'",
            &"n".repeat(1024),
        ] {
            assert_eq!(Nonce::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            " ",
            "a b",
            "a\r\nX: y",
            "a\"b",
            "a\\b",
            "é",
            "a\0",
            "a\u{7f}",
            " a",
            &"n".repeat(1025),
        ] {
            assert_eq!(Nonce::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn debug_of_a_nonce_tells_its_length_only() {
        let text = format!("{:?}", Nonce::parse("canary-7731").unwrap());
        assert_eq!(text, "Nonce(11 bytes)");
    }

    #[test]
    fn ath_is_that_of_rfc_9449_section_7_1() {
        assert_eq!(
            ath("Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"),
            "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"
        );
    }
}
