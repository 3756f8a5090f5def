//! A client certificate and a handle that signs with its key (RFC 8705): what a lease holds of an identity that is
//! shown in the TLS handshake. The key's bytes do not come back out.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::crypto::aws_lc_rs as provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::vocab::{Secret, WallTime};

/// Most certificates of one chain.
const CHAIN_MAX: usize = 8;

/// Why a certificate and a key are of no use together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// There is no certificate, a broken one, or more than eight.
    #[error("the file holds no certificate in PEM, a broken one, or more than eight")]
    Chain,
    /// The key cannot be read.
    #[error("not a private key in PEM")]
    Key,
    /// They do not belong together.
    #[error("the key does not belong to the certificate")]
    Mismatch,
}

/// A certificate of ours. Two that were read at different times are two, whatever they hold: connections are keyed by
/// this, so that none outlives the reading it was made with.
pub struct Certificate {
    id: u64,
    key: Arc<CertifiedKey>,
    thumbprint: String,
    begins: WallTime,
    expires: WallTime,
}

impl Certificate {
    /// Reads a chain, its own certificate first, and the key of that.
    ///
    /// # Errors
    /// [`BadCertificate`].
    pub fn from_pem(chain: &[u8], key: &Secret<Vec<u8>>) -> Result<Self, BadCertificate> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let chain = certificates(chain).ok_or(BadCertificate::Chain)?;
        let first = chain.first().ok_or(BadCertificate::Chain)?;
        if chain.len() > CHAIN_MAX {
            return Err(BadCertificate::Chain);
        }
        let (_, read) =
            x509_parser::parse_x509_certificate(first).map_err(|_| BadCertificate::Chain)?;
        let (begins, expires) = (read.validity().not_before, read.validity().not_after);
        let (begins, expires) = (wall(begins.timestamp()), wall(expires.timestamp()));
        let thumbprint = URL_SAFE_NO_PAD.encode(digest(&SHA256, first));
        let der = PrivateKeyDer::from_pem_slice(key.expose()).map_err(|_| BadCertificate::Key)?;
        provider::sign::any_supported_type(&der).map_err(|_| BadCertificate::Key)?;
        let key = CertifiedKey::from_der(chain, der, &provider::default_provider())
            .map_err(|_| BadCertificate::Mismatch)?;
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            key: Arc::new(key),
            thumbprint,
            begins,
            expires,
        })
    }

    /// Whether a file in PEM holds this very chain.
    #[must_use]
    pub fn is_of(&self, chain: &[u8]) -> bool {
        certificates(chain).is_some_and(|chain| chain == self.key.cert)
    }

    /// `x5t#S256` (RFC 8705 §3.1).
    #[must_use]
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// The end of its validity.
    #[must_use]
    pub fn expires(&self) -> WallTime {
        self.expires
    }

    /// Whether this time is within its validity.
    #[must_use]
    pub fn is_valid(&self, wall: WallTime) -> bool {
        self.begins <= wall && wall < self.expires
    }

    /// What a handshake needs: it signs and does not show the key.
    pub(crate) fn handle(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .ok()
}

fn wall(seconds: i64) -> WallTime {
    WallTime(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Certificate {}

impl Hash for Certificate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("thumbprint", &self.thumbprint)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, Secret<Vec<u8>>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["client.test".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let pem = Secret::new(key.serialize_pem().into_bytes());
        (certificate.pem(), pem)
    }

    #[test]
    fn a_pair_is_read_and_shows_no_key() {
        let (chain, key) = pair();
        let one = Certificate::from_pem(chain.as_bytes(), &key).unwrap();
        let again = Certificate::from_pem(chain.as_bytes(), &key).unwrap();
        let der = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
        let hash = URL_SAFE_NO_PAD.encode(digest(&SHA256, &der));
        assert_eq!(one.thumbprint(), hash);
        assert_eq!(one.thumbprint(), again.thumbprint());
        assert_ne!(one, again, "read twice, used apart");
        assert!(!format!("{one:?}").contains("key"));
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let ((chain, key), (_, other)) = (pair(), pair());
        let bad = |chain: &str, key: &Secret<Vec<u8>>| {
            Certificate::from_pem(chain.as_bytes(), key).unwrap_err()
        };
        assert_eq!(bad(&chain, &other), BadCertificate::Mismatch);
        assert_eq!(bad("", &key), BadCertificate::Chain);
        assert_eq!(bad(&chain.repeat(9), &key), BadCertificate::Chain);
        assert_eq!(bad(&chain.replace('M', "N"), &key), BadCertificate::Chain);
        assert_eq!(
            bad(&chain, &Secret::new(b"x".to_vec())),
            BadCertificate::Key
        );
    }
}
