//! Why tokens go out of use, in the words of audit lines.

/// Why a token goes out of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tokens) enum Reason {
    /// A reload changed or removed the credential.
    ConfigChanged,
    /// The table is full.
    Evicted,
    /// Its time is over.
    Expired,
    /// Nobody uses it.
    Idle,
    /// The API refused it.
    InvalidToken,
    /// Another token serves in its place.
    Merged,
    /// Somebody logged in anew.
    Replaced,
}

impl Reason {
    /// The word in audit lines.
    pub(in crate::tokens) fn as_str(self) -> &'static str {
        match self {
            Self::ConfigChanged => "config_changed",
            Self::Evicted => "evicted",
            Self::Expired => "expired",
            Self::Idle => "idle",
            Self::InvalidToken => "invalid_token",
            Self::Merged => "merged",
            Self::Replaced => "replaced",
        }
    }
}
