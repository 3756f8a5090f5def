//! The newest DPoP nonce of each server, per key (RFC 9449 §8, §9). Never persisted: a lost nonce costs one challenge.

use std::sync::Arc;

use dashmap::DashMap;

use crate::proof::Nonce;

/// Origins that one key keeps nonces for; a service with a wildcard may have many.
const ORIGINS: usize = 64;

/// The nonces of one key, oldest origin first.
type ByOrigin = Vec<(Arc<str>, Nonce)>;

/// Nonces by key thumbprint and origin. Bounded; cheap to clone; a look-up copies nothing.
///
/// Keys and hosts come from the configuration, so the bounds are a backstop: what is dropped costs its server one
/// challenge and nothing else.
#[derive(Clone)]
pub struct Nonces {
    known: Arc<DashMap<Arc<str>, ByOrigin>>,
    capacity: usize,
}

impl Nonces {
    /// An empty store for at most `capacity` keys.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            known: Arc::default(),
            capacity,
        }
    }

    /// What to send next to this origin with this key.
    #[must_use]
    pub fn current(&self, origin: &str, thumbprint: &str) -> Option<Nonce> {
        let of_key = self.known.get(thumbprint)?;
        of_key
            .iter()
            .find(|(known, _)| **known == *origin)
            .map(|(_, nonce)| nonce.clone())
    }

    /// Keeps the nonce of the newest answer. An answer without one changes nothing: never back to empty.
    pub fn note(&self, origin: &str, thumbprint: &str, nonce: Nonce) {
        if let Some(mut of_key) = self.known.get_mut(thumbprint) {
            if let Some((_, old)) = of_key.iter_mut().find(|(known, _)| **known == *origin) {
                *old = nonce;
                return;
            }
            if of_key.len() >= ORIGINS {
                of_key.remove(0);
            }
            of_key.push((origin.into(), nonce));
            return;
        }
        if self.known.len() >= self.capacity {
            self.known.clear();
        }
        self.known
            .insert(thumbprint.into(), vec![(origin.into(), nonce)]);
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
            nonces.note(
                "https://a.test",
                &format!("k{i}"),
                Nonce::parse("n").unwrap(),
            );
        }
        assert!(nonces.known.len() <= 4);
        assert!(nonces.known.iter().all(|of_key| of_key.len() <= ORIGINS));
        assert!(nonces.current("https://a.test", "k99").is_some());
    }
}
