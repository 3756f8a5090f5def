//! Where a credential goes on a request. It belongs to the service, not to where the agent put its placeholder.

use http::HeaderName;

/// The place of a service's credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// `Authorization`, with the scheme of the token's type.
    Authorization,
    /// A field that the service names, such as `x-api-key`.
    Header(HeaderName),
    /// The service takes no credential.
    Nothing,
}

impl Slot {
    /// The field's name, where there is one.
    #[must_use]
    pub fn header(&self) -> Option<&HeaderName> {
        match self {
            Self::Authorization => Some(&http::header::AUTHORIZATION),
            Self::Header(name) => Some(name),
            Self::Nothing => None,
        }
    }
}
