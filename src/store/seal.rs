//! Sealing, as pure functions: bytes and the place that they belong to in, sealed bytes out.
//!
//! The place is authenticated with the bytes (AAD): the file's salt, what kind of thing it is, its name and its
//! version. So a row that is copied to another name, another file or back from an older file does not open.
//!
//! AES-GCM and not JWE: a JWE would carry the same cipher in base64 with a header that says nothing we do not know, and
//! its library brings OpenSSL; aws-lc-rs is the provider that TLS and proofs already rest on.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use zeroize::Zeroizing;

use super::RowId;
use super::error::Why;
use crate::vocab::Secret;

/// Length of the operator's key, in bytes.
const KEY_LEN: usize = 32;
/// Length of a file's salt, in bytes.
pub(super) const SALT_LEN: usize = 32;
/// Length of what tells a wrong key from a damaged file, in bytes.
pub(super) const CHECK_LEN: usize = 16;
/// What sealing adds: the nonce before and the tag behind.
pub(super) const SEAL_LEN: usize = NONCE_LEN + 16;

/// The operator's key: 32 random bytes.
#[derive(Debug, Clone)]
pub struct StoreKey(Secret<[u8; KEY_LEN]>);

/// The text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a store key is 32 random bytes in hexadecimal or base64")]
pub struct BadKey;

impl StoreKey {
    /// Whether both are the same key, found out without telling by its duration where they differ.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        verify_slices_are_equal(self.0.expose(), other.0.expose()).is_ok()
    }

    /// Reads 64 hexadecimal digits, or 32 bytes in base64. A passphrase is refused: it would need a slow derivation,
    /// and would still be the weakest part of the store.
    ///
    /// # Errors
    /// [`BadKey`], which says nothing of the text.
    pub fn parse(text: &Secret<Vec<u8>>) -> Result<Self, BadKey> {
        use base64::Engine as _;
        use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
        let text = text.expose();
        let mut key = [0; KEY_LEN];
        if text.len() == 2 * KEY_LEN {
            for (byte, pair) in key.iter_mut().zip(text.chunks_exact(2)) {
                let digit = |c: &u8| (*c as char).to_digit(16).and_then(|d| u8::try_from(d).ok());
                let (high, low) = (pair.first().and_then(digit), pair.get(1).and_then(digit));
                *byte = high.zip(low).map(|(h, l)| h << 4 | l).ok_or(BadKey)?;
            }
            return Ok(Self(Secret::new(key)));
        }
        let mut room = Zeroizing::new([0; 2 * KEY_LEN]);
        let decoded = STANDARD
            .decode_slice(text, room.as_mut_slice())
            .or_else(|_| STANDARD_NO_PAD.decode_slice(text, room.as_mut_slice()))
            .map_err(|_| BadKey)?;
        let bytes = room.get(..decoded).ok_or(BadKey)?;
        key = bytes.try_into().map_err(|_| BadKey)?;
        Ok(Self(Secret::new(key)))
    }
}

/// What sealed bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Head = 1,
    Row = 2,
    Witness = 3,
}

/// Where sealed bytes belong.
pub(super) struct Place<'a> {
    pub(super) kind: Kind,
    /// The row; heads and witnesses have none.
    pub(super) row: Option<&'a RowId>,
    /// The number of the write that brought them.
    pub(super) version: u64,
}

/// Seals and opens with the key of one file.
pub(super) struct Sealer {
    key: LessSafeKey,
    salt: [u8; SALT_LEN],
    check: [u8; CHECK_LEN],
}

impl Sealer {
    /// Derives the file's key.
    pub(super) fn new(key: &StoreKey, salt: [u8; SALT_LEN]) -> Result<Self, Why> {
        let prk = Salt::new(HKDF_SHA256, &salt).extract(key.0.expose());
        let sealing = expand(&prk, b"tokenward store 1 seal")?;
        let check = expand(&prk, b"tokenward store 1 check")?;
        let key = UnboundKey::new(&AES_256_GCM, sealing.as_slice()).map_err(|_| Why::Randomness)?;
        Ok(Self {
            key: LessSafeKey::new(key),
            salt,
            check: std::array::from_fn(|at| check.get(at).copied().unwrap_or_default()),
        })
    }

    pub(super) fn salt(&self) -> &[u8; SALT_LEN] {
        &self.salt
    }

    /// Tells the right key from a wrong one, and nothing of either.
    pub(super) fn check(&self) -> &[u8; CHECK_LEN] {
        &self.check
    }

    pub(super) fn is_right(&self, check: &[u8]) -> bool {
        verify_slices_are_equal(&self.check, check).is_ok()
    }

    /// Nonces are drawn at random: a key may seal 2^32 times (SP 800-38D §8.3), which is a write a second for forty
    /// years, each with a row and two heads.
    pub(super) fn seal(&self, place: &Place<'_>, plain: &[u8]) -> Result<Vec<u8>, Why> {
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut sealed = Vec::with_capacity(plain.len() + SEAL_LEN);
        sealed.extend_from_slice(&nonce);
        // Encrypted in a buffer of its own, overwritten on drop: the tag is appended without growing it.
        let mut content = Zeroizing::new(Vec::with_capacity(plain.len() + 16));
        content.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(self.aad(place)), &mut *content)
            .map_err(|_| Why::TooLarge)?;
        sealed.extend_from_slice(&content);
        Ok(sealed)
    }

    /// `None`: these are not the bytes that were sealed for this place.
    pub(super) fn open(&self, place: &Place<'_>, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, content) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut content = Zeroizing::new(content.to_vec());
        let aad = Aad::from(self.aad(place));
        let length = self.key.open_in_place(nonce, aad, &mut content).ok()?.len();
        content.truncate(length);
        Some(content)
    }

    /// Every part has a fixed length but the last, so two places never read the same.
    fn aad(&self, place: &Place<'_>) -> Vec<u8> {
        let mut aad = Vec::with_capacity(SALT_LEN + 300);
        aad.extend_from_slice(b"tokenward store 1\0");
        aad.extend_from_slice(&self.salt);
        aad.push(place.kind as u8);
        aad.extend_from_slice(&place.version.to_be_bytes());
        if let Some(row) = place.row {
            aad.push(row.kind);
            aad.extend_from_slice(row.name.as_bytes());
        }
        aad
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

/// Random bytes.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Why> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Why::Randomness)?;
    Ok(bytes)
}

fn expand(prk: &Prk, info: &[u8]) -> Result<Zeroizing<[u8; 32]>, Why> {
    let mut out = Zeroizing::new([0; 32]);
    prk.expand(&[info], HKDF_SHA256)
        .and_then(|okm| okm.fill(out.as_mut_slice()))
        .map_err(|_| Why::Randomness)?;
    Ok(out)
}
