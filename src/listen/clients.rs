//! Certificates that agents show to a listener that speaks TLS: verified by rustls against the listener's own roots and
//! nothing else. Whose they are, `agent` says.

use std::io;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, RootCertStore, ServerConnection};

use super::listener::ListenerTlsError;
use crate::agent::{Certificate, Unauthenticated};

/// Which certificates a listener asks agents for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// Who signs them; the system's roots are not among them.
    pub roots: Vec<CertificateDer<'static>>,
    /// Whether a handshake without one fails. Otherwise who shows none must show something else.
    pub required: bool,
}

impl ClientCertificates {
    /// What verifies them.
    pub(super) fn verifier(
        &self,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, ListenerTlsError> {
        let mut roots = RootCertStore::empty();
        for root in &self.roots {
            roots.add(root.clone()).map_err(|_| ListenerTlsError)?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = if self.required {
            builder
        } else {
            builder.allow_unauthenticated()
        };
        builder.build().map_err(|_| ListenerTlsError)
    }
}

/// The certificate that the other end has shown. A session that is taken up again has that of its first handshake.
pub(super) fn shown(connection: &ServerConnection) -> Option<Arc<Certificate>> {
    let chain = connection.peer_certificates()?;
    // An empty chain is not that of nobody: it names nobody.
    let first = chain.first().map_or(&[][..], |first| first.as_ref());
    Some(Arc::new(Certificate::read(first)))
}

/// Why a handshake failed, where it was for the certificate that the other end has shown or not.
pub(super) fn refused(error: &io::Error) -> Option<Unauthenticated> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match error {
        rustls::Error::NoCertificatesPresented => Some(Unauthenticated::Absent),
        rustls::Error::InvalidCertificate(why) => Some(match why {
            CertificateError::BadSignature => Unauthenticated::Forged,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Unauthenticated::Expired
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Unauthenticated::NotYetValid
            }
            _ => Unauthenticated::UntrustedCertificate,
        }),
        _ => None,
    }
}
