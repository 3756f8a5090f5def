//! The door between the wings: who needs a credential, and what can be said about one.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::Lease;
use crate::policy::Permit;
use crate::vocab::Code;

/// A future behind a pointer, as a trait object needs it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Lends credentials to the hot path. Implemented by the control wing; there is no third method.
pub trait Source: Send + Sync {
    /// Lends the credential that this permit calls for. Warm: a map read. Cold: waits for the one fetch under way,
    /// at most five seconds.
    ///
    /// # Errors
    /// [`Unavailable`] where no credential can be had; the request must then not be sent.
    fn lease<'a>(&'a self, permit: &'a Permit) -> BoxFuture<'a, Result<Lease, Unavailable>>;

    /// Tells what an API said about a lease. Never blocks.
    fn report(&self, lease: &Lease, feedback: Feedback);
}

/// What an API said about a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feedback {
    /// 401 `invalid_token` for this very token (RFC 6750 §3.1): drop it, and only it.
    InvalidToken,
    /// The token that replaced a refused one was refused as well: rest for a while before asking for a third.
    InvalidTokenAgain,
    /// Its answer held the token: whoever has read that may have it, so the grant needs a new key and a new token.
    Reflected,
}

/// Why no credential can be lent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no credential: {code}")]
pub struct Unavailable {
    /// The situation, as the agent is told.
    pub code: Code,
    /// When trying again makes sense.
    pub retry_after: Option<Duration>,
    /// The issuer's error code where it is one that the standards define; free text of an issuer never gets here.
    pub oauth_error: Option<&'static str>,
}

impl From<Code> for Unavailable {
    fn from(code: Code) -> Self {
        Self {
            code,
            retry_after: None,
            oauth_error: None,
        }
    }
}
