//! Why a token could not be had: a code of the closed list, and nothing that an issuer wrote.

use std::time::Duration;

use crate::vocab::Code;

/// Longest `Retry-After` that is honoured: an issuer must not be able to switch a service off for a day.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);

/// One failed attempt. `Copy`, so that no text of an issuer can hide in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    /// The situation, as the agent is told.
    pub(super) code: Code,
    /// The issuer's word for it, where it is one of the standards' words.
    pub(super) oauth_error: Option<&'static str>,
    /// How long the issuer asked us to stay away.
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    /// Whether asking again the same way can be expected to fail the same way.
    pub(super) fn terminal(self) -> bool {
        !self.code.retryable()
    }

    /// With the issuer's word.
    pub(super) fn because(code: Code, oauth_error: &'static str) -> Self {
        Self {
            oauth_error: Some(oauth_error),
            ..Self::from(code)
        }
    }
}

impl From<Code> for Failure {
    fn from(code: Code) -> Self {
        Self {
            code,
            oauth_error: None,
            retry_after: None,
        }
    }
}
