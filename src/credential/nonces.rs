//! The newest DPoP nonce of each server, per key (RFC 9449 §8, §9). Never persisted: a lost nonce costs one challenge.

use std::sync::Arc;

use dashmap::DashMap;

use crate::proof::Nonce;

/// Nonces by origin and key thumbprint. Bounded; cheap to clone.
///
/// Both halves of the key come from the configuration, so the bound is a backstop: when it is reached the map is
/// emptied, which costs each server one challenge and nothing else.
#[derive(Clone)]
pub struct Nonces {
    known: Arc<DashMap<(Arc<str>, Arc<str>), Nonce>>,
    capacity: usize,
}

impl Nonces {
    /// An empty store for at most `capacity` pairs.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            known: Arc::new(DashMap::new()),
            capacity,
        }
    }

    /// What to send next to this origin with this key.
    #[must_use]
    pub fn current(&self, origin: &str, thumbprint: &str) -> Option<Nonce> {
        self.known
            .get(&(origin.into(), thumbprint.into()))
            .map(|nonce| nonce.clone())
    }

    /// Keeps the nonce of the newest answer. An answer without one changes nothing: never back to empty.
    pub fn note(&self, origin: &str, thumbprint: &str, nonce: Nonce) {
        if self.known.len() >= self.capacity {
            self.known.clear();
        }
        self.known.insert((origin.into(), thumbprint.into()), nonce);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_stay_with_their_origin_and_key() {
        let nonces = Nonces::new(8);
        nonces.note("https://a.test", "k1", Nonce::parse("n1").unwrap());
        assert_eq!(nonces.current("https://a.test", "k1"), Nonce::parse("n1"));
        assert_eq!(nonces.current("https://a.test", "k2"), None);
        assert_eq!(nonces.current("https://b.test", "k1"), None);
    }

    #[test]
    fn the_store_is_bounded() {
        let nonces = Nonces::new(4);
        for i in 0..100 {
            nonces.note(
                &format!("https://{i}.test"),
                "k",
                Nonce::parse("n").unwrap(),
            );
        }
        assert!(nonces.known.len() <= 4);
        assert!(nonces.current("https://99.test", "k").is_some());
    }
}
