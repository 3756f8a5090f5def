//! The seam between the OAuth of this room and the sockets of `upstream`: one call, one answer, nothing in between.
//!
//! No redirects are followed on this way (a redirect would carry a client credential wherever the answer points), the
//! scheme is https, the answer is bounded. Tests put a scripted issuer here.

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::failure::Failure;
use super::issuer::IssuerUrl;
use crate::credential::BoxFuture;
use crate::vocab::{Code, Secret};

/// Longest answer of an issuer that is read, in bytes.
pub(super) const BODY_MAX: usize = 64 * 1024;

/// Carries calls to one issuer.
pub(super) trait Transport: Send + Sync {
    /// Sends one call and reads the whole answer, within ten seconds.
    fn send<'a>(&'a self, call: Call) -> BoxFuture<'a, Result<Reply, TransportError>>;
}

/// One call.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: IssuerUrl,
    pub(super) headers: HeaderMap,
    /// The body of a POST, form-encoded.
    pub(super) form: Option<Secret<String>>,
}

/// The answer to it.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TransportError {
    /// The address is one that we never dial.
    #[error("the issuer's address is not allowed")]
    Address,
    /// The answer broke HTTP, broke off or was too large.
    #[error("the issuer's answer cannot be read")]
    Answer,
    /// It took too long.
    #[error("the issuer did not answer in time")]
    Timeout,
    /// Its certificate was not accepted.
    #[error("the issuer's TLS certificate was not accepted")]
    Tls,
    /// No connection.
    #[error("the issuer cannot be reached")]
    Unreachable,
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        Self::from(match error {
            TransportError::Address => Code::ClientMisconfigured,
            TransportError::Answer | TransportError::Unreachable => Code::AsUnavailable,
            TransportError::Timeout => Code::AsTimeout,
            TransportError::Tls => Code::AsTlsError,
        })
    }
}
