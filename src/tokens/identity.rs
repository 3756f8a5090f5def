//! The certificate that a client shows (RFC 8705), and its successor when the files are replaced.
//!
//! A token that is bound to a certificate dies with it. So the files are looked at before each token request and from
//! time to time, and a new certificate comes into use while the old one is still good: tokens are fetched anew first,
//! and the old ones go on, over connections that showed the old certificate, until then.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::settings::CertificateSettings;
use crate::credential::{BadCertificate, Certificate};
use crate::vocab::{Clock, WallTime};

/// A certificate is not used in the last moments of its life: a request is under way for a while.
const MARGIN: Duration = Duration::from_secs(5);

/// One client's certificate over time.
pub(super) struct Identity {
    settings: CertificateSettings,
    clock: Clock,
    held: Mutex<Held>,
}

struct Held {
    current: Arc<Certificate>,
    /// Whether the last reading failed; told once.
    broken: bool,
}

/// Why what the files hold now is not used.
#[derive(Debug, thiserror::Error)]
enum Unread {
    /// It is of no use at all.
    #[error("{0}")]
    Bad(#[from] BadCertificate),
    /// It has ended, or has not begun.
    #[error("the certificate is not valid at this time")]
    Untimely,
}

impl Identity {
    /// Reads the files for the first time.
    pub(super) fn new(settings: CertificateSettings, clock: Clock) -> Result<Self, BadCertificate> {
        let chain = settings.cert.read_now().ok_or(BadCertificate::Chain)?;
        let key = settings.key.read_now().ok_or(BadCertificate::Key)?;
        let current = Arc::new(Certificate::from_pem(chain.expose(), &key)?);
        let held = Mutex::new(Held {
            current,
            broken: false,
        });
        Ok(Self {
            settings,
            clock,
            held,
        })
    }

    /// The certificate in use.
    pub(super) fn current(&self) -> Arc<Certificate> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&held.current)
    }

    /// Reads the files again. A pair that does not fit is one that is just being replaced, or a mistake, and so is one
    /// whose time is over or has not come: the certificate in use stays.
    pub(super) async fn refresh(&self) {
        let before = self.current();
        let read = self.read(&before).await;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(next) => {
                held.broken = false;
                // Two readings may run side by side: only the first replaces what both of them saw.
                if let Some(next) = next.filter(|_| held.current == before) {
                    held.current = Arc::new(next);
                }
            }
            Err(error) if !held.broken => {
                held.broken = true;
                tracing::warn!(%error, "a client certificate cannot be read again; the one before it stays");
            }
            Err(_) => {}
        }
    }

    /// What is to replace `before`; nothing where the chain is the same. The key is then left alone, for it may come of
    /// a command that asks somebody.
    async fn read(&self, before: &Certificate) -> Result<Option<Certificate>, Unread> {
        let chain = self.settings.cert.read().await;
        let chain = chain.ok_or(BadCertificate::Chain)?;
        if before.is_of(chain.expose()) {
            return Ok(None);
        }
        let key = self.settings.key.read().await.ok_or(BadCertificate::Key)?;
        let next = Certificate::from_pem(chain.expose(), &key)?;
        let now = self.clock.wall();
        if !next.is_valid(now) && before.is_valid(now) {
            return Err(Unread::Untimely);
        }
        Ok(Some(next))
    }
}

/// How long a token that is bound to this certificate can be of use.
pub(super) fn remaining(certificate: &Certificate, wall: WallTime) -> Option<Duration> {
    let left = certificate.expires().0.checked_sub(wall.0)?;
    Duration::from_millis(left)
        .checked_sub(MARGIN)
        .filter(|left| !left.is_zero())
}
