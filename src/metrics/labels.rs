//! Label values that are closed lists.

/// Where a leaf certificate came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafResult {
    /// It was made before.
    Cached,
    /// It could not be made.
    Failed,
    /// It was made now.
    Minted,
}

impl LeafResult {
    pub(super) const ALL: [Self; 3] = [Self::Cached, Self::Failed, Self::Minted];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Failed => "failed",
            Self::Minted => "minted",
        }
    }
}

/// Who asked for a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The API.
    Api,
    /// The authorization server.
    Issuer,
}

impl Peer {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Issuer => "issuer",
        }
    }
}
