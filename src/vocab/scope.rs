//! OAuth scopes as sets (RFC 6749 §3.3). The only comparison is inclusion; order and repetition do not exist.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// One scope token: printable ASCII without space, `"` and `\` (RFC 6749 §3.3), at most 256 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Arc<str>);

/// Why a text is not a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a scope is 1 to 256 printable ASCII characters without space, quote and backslash")]
pub struct ScopeError;

impl Scope {
    /// Checks the alphabet of RFC 6749 §3.3.
    ///
    /// # Errors
    /// [`ScopeError`] where the text is empty, too long or leaves the alphabet.
    pub fn new(text: &str) -> Result<Self, ScopeError> {
        let good = |b: u8| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        if !text.is_empty() && text.len() <= 256 && text.bytes().all(good) {
            Ok(Self(text.into()))
        } else {
            Err(ScopeError)
        }
    }

    /// The scope's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A set of scopes, sorted; cheap to clone, usable as a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ScopeSet(Arc<BTreeSet<Scope>>);

impl ScopeSet {
    /// The set of the given scopes.
    pub fn of(scopes: impl IntoIterator<Item = Scope>) -> Self {
        Self(Arc::new(scopes.into_iter().collect()))
    }

    /// Reads a space-separated `scope` parameter. Empty text is the empty set.
    ///
    /// # Errors
    /// [`ScopeError`] where a token leaves the alphabet of RFC 6749 §3.3.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        text.split(' ')
            .filter(|s| !s.is_empty())
            .map(Scope::new)
            .collect::<Result<BTreeSet<_>, _>>()
            .map(|s| Self(Arc::new(s)))
    }

    /// Whether no scope is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every scope of `self` is also in `other`.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// The scopes of both sets.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self(Arc::new(self.0.union(&other.0).cloned().collect()))
    }

    /// The scopes in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.0.iter()
    }
}

/// The value of a `scope` parameter: alphabetical, separated by single spaces.
impl fmt::Display for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, scope) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            f.write_str(&scope.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_forgets_order_and_repetition() {
        let set = ScopeSet::parse("b a  b").unwrap();
        assert_eq!(set.to_string(), "a b");
        assert!(ScopeSet::parse("a").unwrap().is_within(&set));
        assert!(!set.is_within(&ScopeSet::parse("a").unwrap()));
        assert!(ScopeSet::default().is_within(&set));
    }

    #[test]
    fn the_alphabet_is_that_of_rfc_6749() {
        for bad in ["a\"b", "a\\b", "a\tb", "é", "a\nb"] {
            assert_eq!(ScopeSet::parse(bad), Err(ScopeError), "{bad:?}");
        }
    }
}
