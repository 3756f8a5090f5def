//! The root's private key. It signs, and it is written to `ca.key`; there is nothing else that can be done with it.

use rcgen::{KeyPair, PublicKeyData, SigningKey};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::error::CaError;
use super::pem;
use crate::vocab::Secret;

/// The file's role in errors, and its name in a CA folder.
pub(super) const KEY_FILE: &str = "ca.key";

/// RFC 7468 §10.
const PKCS8: &str = "PRIVATE KEY";

/// A signing key without `Debug`, `Clone` or a way to its bytes.
pub(super) struct RootKey {
    pair: Secret<KeyPair>,
    /// How the key was encoded when it came: rcgen gives back the same bytes.
    label: &'static str,
}

impl RootKey {
    /// A new P-256 key.
    pub(super) fn generate() -> Result<Self, CaError> {
        let pair = KeyPair::generate().map_err(|_| CaError::Signing)?;
        Ok(Self {
            pair: Secret::new(pair),
            label: PKCS8,
        })
    }

    /// Reads PKCS#8, SEC1 or PKCS#1 in PEM.
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, CaError> {
        const DAMAGED: CaError = CaError::Corrupt {
            file: KEY_FILE,
            what: "an unencrypted PEM private key is expected",
        };
        let der = Zeroizing::new(PrivateKeyDer::from_pem_slice(pem).map_err(|_| DAMAGED)?);
        let label = match *der {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Pkcs8(_) => PKCS8,
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => return Err(DAMAGED),
        };
        let pair = KeyPair::try_from(&*der).map_err(|_| DAMAGED)?;
        Ok(Self {
            pair: Secret::new(pair),
            label,
        })
    }

    /// The key as `ca.key` holds it.
    pub(super) fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem::encode(self.label, self.pair.expose().serialized_der()))
    }
}

impl PublicKeyData for RootKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.expose().der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        PublicKeyData::algorithm(self.pair.expose())
    }
}

impl SigningKey for RootKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.pair.expose().sign(message)
    }
}
