//! The certificate that a client shows (RFC 8705), and its successor when the files are replaced.
//!
//! A token that is bound to a certificate dies with it. So the files are looked at before each token request and from
//! time to time, and a new certificate comes into use while the old one is still good: tokens are fetched anew first,
//! and the old ones go on, over connections that showed the old certificate, until then.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::settings::CertificateSettings;
use crate::credential::{BadCertificate, Certificate};
use crate::vocab::WallTime;

/// A certificate is not used in the last moments of its life: a request is under way for a while.
const MARGIN: Duration = Duration::from_secs(5);

/// One client's certificate over time.
pub(super) struct Identity {
    settings: CertificateSettings,
    held: Mutex<Held>,
}

struct Held {
    current: Arc<Certificate>,
    /// Whether the last reading failed; told once.
    broken: bool,
}

impl Identity {
    /// Reads the files for the first time.
    pub(super) fn new(settings: CertificateSettings) -> Result<Self, BadCertificate> {
        let chain = settings.cert.read_now().ok_or(BadCertificate::Chain)?;
        let key = settings.key.read_now().ok_or(BadCertificate::Key)?;
        let current = Arc::new(Certificate::from_pem(chain.expose(), &key)?);
        let held = Mutex::new(Held {
            current,
            broken: false,
        });
        Ok(Self { settings, held })
    }

    /// The certificate in use.
    pub(super) fn current(&self) -> Arc<Certificate> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&held.current)
    }

    /// Reads the files again. A pair that does not fit is one that is just being replaced, or a mistake: the
    /// certificate in use stays.
    pub(super) async fn refresh(&self) {
        let read = self.read().await;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(read) => {
                held.broken = false;
                if read.thumbprint() != held.current.thumbprint() {
                    held.current = Arc::new(read);
                }
            }
            Err(error) if !held.broken => {
                held.broken = true;
                tracing::warn!(%error, "a client certificate cannot be read again; the one before it stays");
            }
            Err(_) => {}
        }
    }

    async fn read(&self) -> Result<Certificate, BadCertificate> {
        let chain = self.settings.cert.read().await;
        let chain = chain.ok_or(BadCertificate::Chain)?;
        let key = self.settings.key.read().await.ok_or(BadCertificate::Key)?;
        Certificate::from_pem(chain.expose(), &key)
    }
}

/// How long a token that is bound to this certificate can be of use.
pub(super) fn remaining(certificate: &Certificate, wall: WallTime) -> Option<Duration> {
    let left = certificate.expires().0.checked_sub(wall.0)?;
    Duration::from_millis(left)
        .checked_sub(MARGIN)
        .filter(|left| !left.is_zero())
}
