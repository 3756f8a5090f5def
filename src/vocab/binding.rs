//! How a credential is tied to a key, from strongest to not at all.

use std::fmt;

/// What keeps a stolen access token from being used elsewhere. Shown in configuration, status, metrics and audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Binding {
    /// A static bearer token: whoever holds it may use it.
    Bearer,
    /// Bound to our key by DPoP (RFC 9449), at the issuer and at the API.
    Dpop,
    /// Bound to our client certificate (RFC 8705).
    Mtls,
    /// No credential at all.
    None,
    /// DPoP proofs at the issuer only; the access token itself is a bearer token.
    RefreshOnly,
    /// An API key or other fixed value.
    Static,
}

impl Binding {
    /// The word used in configuration, labels and audit lines.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Dpop => "dpop",
            Self::Mtls => "mtls",
            Self::None => "none",
            Self::RefreshOnly => "refresh_only",
            Self::Static => "static",
        }
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
