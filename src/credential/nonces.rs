//! The newest DPoP nonce of each server, per key (RFC 9449 §8, §9). Never persisted: a lost nonce costs one challenge.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;

use crate::proof::Nonce;
use crate::vocab::Moment;

/// Origins that one key keeps nonces for; a service with a wildcard may have many.
const ORIGINS: usize = 64;

/// How long a nonce is taken to be good: servers that change theirs every minute take the old ones for about as long.
const FRESH: Duration = Duration::from_secs(180);

/// What is known of one server.
struct Known {
    origin: Arc<str>,
    /// `None`: it took a proof without one, and gave none.
    nonce: Option<Nonce>,
    since: Moment,
}

/// The servers that one key was shown to, oldest first.
type ByOrigin = Vec<Known>;

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
            .find(|known| *known.origin == *origin)
            .and_then(|known| known.nonce.clone())
    }

    /// Whether the next request may well be answered with a demand for another nonce: nothing is known of the server, or
    /// its nonce is old.
    #[must_use]
    pub fn doubtful(&self, origin: &str, thumbprint: &str, now: Moment) -> bool {
        let of_key = self.known.get(thumbprint);
        let known = of_key
            .as_ref()
            .and_then(|of_key| of_key.iter().find(|known| *known.origin == *origin));
        known.is_none_or(|known| known.nonce.is_some() && now.since(known.since) >= FRESH)
    }

    /// Keeps the nonce of the newest answer. An answer without one changes nothing: never back to empty.
    pub fn note(&self, origin: &str, thumbprint: &str, nonce: Nonce, now: Moment) {
        self.keep(origin, thumbprint, Some(nonce), now);
    }

    /// The server gave the nonce again that the request had brought. That was good when it was sent: where another one has
    /// come since, on an answer that was faster, that one is newer.
    pub fn note_again(&self, origin: &str, thumbprint: &str, nonce: Nonce, now: Moment) {
        let newer = |current: Nonce| current != nonce;
        if !self.current(origin, thumbprint).is_some_and(newer) {
            self.keep(origin, thumbprint, Some(nonce), now);
        }
    }

    /// The server took a proof, and gave no nonce. One that it gave before is kept.
    pub fn note_none(&self, origin: &str, thumbprint: &str, now: Moment) {
        // Most servers, at every answer: they wait for nobody's lock.
        if !self.knows(origin, thumbprint) {
            self.keep(origin, thumbprint, None, now);
        }
    }

    fn knows(&self, origin: &str, thumbprint: &str) -> bool {
        let of_key = self.known.get(thumbprint);
        of_key.is_some_and(|of_key| of_key.iter().any(|known| *known.origin == *origin))
    }

    fn keep(&self, origin: &str, thumbprint: &str, nonce: Option<Nonce>, now: Moment) {
        let new = |nonce| Known {
            origin: origin.into(),
            nonce,
            since: now,
        };
        if let Some(mut of_key) = self.known.get_mut(thumbprint) {
            if let Some(old) = of_key.iter_mut().find(|known| *known.origin == *origin) {
                if nonce.is_some() {
                    (old.nonce, old.since) = (nonce, now);
                }
                return;
            }
            if of_key.len() >= ORIGINS {
                of_key.remove(0);
            }
            of_key.push(new(nonce));
            return;
        }
        if self.known.len() >= self.capacity {
            self.known.clear();
        }
        self.known.insert(thumbprint.into(), vec![new(nonce)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(1_000);

    fn nonce(text: &str) -> Nonce {
        Nonce::parse(text).unwrap()
    }

    #[test]
    fn nonces_stay_with_their_origin_and_key() {
        let nonces = Nonces::new(8);
        nonces.note("https://a.test", "k1", nonce("n1"), NOW);
        assert_eq!(nonces.current("https://a.test", "k1"), Some(nonce("n1")));
        assert_eq!(nonces.current("https://a.test", "k2"), None);
        assert_eq!(nonces.current("https://b.test", "k1"), None);
    }

    #[test]
    fn a_server_is_doubtful_until_it_has_shown_what_it_wants_and_again_when_its_nonce_is_old() {
        let nonces = Nonces::new(8);
        let doubtful = |now| nonces.doubtful("https://a.test", "k", now);
        assert!(doubtful(NOW));
        // One that wants none never comes to want one by growing old.
        nonces.note_none("https://a.test", "k", NOW);
        assert!(!doubtful(NOW) && !doubtful(NOW + FRESH * 100));
        nonces.note("https://a.test", "k", nonce("n1"), NOW);
        assert!(!doubtful(NOW) && doubtful(NOW + FRESH));
        nonces.note("https://a.test", "k", nonce("n2"), NOW + FRESH);
        assert!(!doubtful(NOW + FRESH));
        // An answer without a nonce does not make an old one young.
        nonces.note_none("https://a.test", "k", NOW + FRESH * 2);
        assert!(doubtful(NOW + FRESH * 2));
        assert_eq!(nonces.current("https://a.test", "k"), Some(nonce("n2")));
        assert!(nonces.doubtful("https://a.test", "k2", NOW));
    }

    #[test]
    fn a_slow_answer_brings_no_older_nonce_back() {
        let nonces = Nonces::new(8);
        let current = || nonces.current("https://a.test", "k");
        nonces.note_again("https://a.test", "k", nonce("n1"), NOW);
        assert_eq!(current(), Some(nonce("n1")));
        nonces.note("https://a.test", "k", nonce("n2"), NOW);
        // Sent with n1, and answered after n2 had come.
        nonces.note_again("https://a.test", "k", nonce("n1"), NOW);
        assert_eq!(current(), Some(nonce("n2")));
        // Confirmed, it is young again.
        nonces.note_again("https://a.test", "k", nonce("n2"), NOW + FRESH);
        assert!(!nonces.doubtful("https://a.test", "k", NOW + FRESH));
    }

    #[test]
    fn the_store_is_bounded() {
        let nonces = Nonces::new(4);
        for i in 0..100 {
            nonces.note(&format!("https://{i}.test"), "k", nonce("n"), NOW);
            nonces.note("https://a.test", &format!("k{i}"), nonce("n"), NOW);
        }
        assert!(nonces.known.len() <= 4);
        assert!(nonces.known.iter().all(|of_key| of_key.len() <= ORIGINS));
        assert!(nonces.current("https://a.test", "k99").is_some());
    }
}
