//! Names with their role in the type, so that an agent can never be passed where a service is meant.

use std::fmt;
use std::sync::Arc;

/// Longest agent or service name, in bytes.
const NAME_MAX: usize = 64;

/// Why a name from the configuration was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name is 1 to 64 characters of a-z, A-Z, 0-9, '-', '_' and '.', and begins with a letter or digit"
)]
pub struct NameError;

fn checked(name: &str) -> Result<Arc<str>, NameError> {
    let mut bytes = name.bytes();
    let head = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let tail = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if head && tail && name.len() <= NAME_MAX {
        Ok(name.into())
    } else {
        Err(NameError)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the name's length and alphabet.
            ///
            /// # Errors
            /// [`NameError`] where it is empty, too long or holds a character that labels and paths cannot carry.
            pub fn new(name: &str) -> Result<Self, NameError> {
                checked(name).map(Self)
            }

            /// The name as the configuration spells it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// Who calls: an agent of the configuration, `default` where none is named.
    AgentName
}
name! {
    /// An API with one credential, as the configuration names it.
    ServiceName
}

impl AgentName {
    /// The agent that exists when the configuration names none.
    #[must_use]
    pub fn fallback() -> Self {
        Self("default".into())
    }

    /// In place of an agent's name where a grant belongs to its service and all agents ride on it. No agent of a
    /// configuration can have this name.
    #[must_use]
    pub fn everyone() -> Self {
        Self("*".into())
    }

    /// Whether this is [`everyone`](Self::everyone).
    #[must_use]
    pub fn is_everyone(&self) -> bool {
        &*self.0 == "*"
    }
}

/// A rule, named by its service and its position and text (`items: allow GET /v1/items/**`). Comes from the
/// configuration, so it may be a label and may be shown to agents.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuleName(Arc<str>);

impl RuleName {
    /// Names a rule by the text that the configuration gives it.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text of the rule.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How tokens are had for one service and one agent: the owner of a key and of a token cache.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantId {
    /// The service whose credential it is.
    pub service: ServiceName,
    /// The agent it serves; [`AgentName::everyone`] where all agents share it.
    pub agent: AgentName,
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.agent)
    }
}

/// One request's name in answers, logs and the audit file: a version 4 UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(uuid::Uuid);

impl RequestId {
    /// Names a request by 16 random bytes, which the caller draws.
    #[must_use]
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// The number of a policy snapshot: 1 at start, one more with each accepted reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_ascii_and_short() {
        for good in ["a", "default", "items-2", "a.b_c", "9lives"] {
            assert_eq!(AgentName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a b", "a\n", "é", "a/b", &"x".repeat(65)] {
            assert_eq!(ServiceName::new(bad), Err(NameError), "{bad:?}");
        }
    }

    #[test]
    fn request_ids_are_version_4() {
        let text = RequestId::from_random([0xff; 16]).to_string();
        assert_eq!(text, "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
