//! Server state for proofs: nonces handed out and identifiers seen. Bounded; knows no HTTP.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use super::controls::NonceMode;
use super::jose::random_text;

/// How many identifiers are remembered. With an iat window of a minute that is far more than a rehearsal signs.
const REMEMBERED: usize = 200_000;

/// How many handed-out nonces stay good.
const GOOD_NONCES: usize = 100;

/// Identifiers that may be used once.
#[derive(Default)]
pub(super) struct Once(Mutex<Spent>);

#[derive(Default)]
struct Spent {
    known: HashSet<String>,
    order: VecDeque<String>,
}

impl Once {
    /// Whether this is the identifier's first use.
    pub(super) fn spend(&self, identifier: &str) -> bool {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !spent.known.insert(identifier.to_owned()) {
            return false;
        }
        spent.order.push_back(identifier.to_owned());
        if spent.order.len() > REMEMBERED
            && let Some(oldest) = spent.order.pop_front()
        {
            spent.known.remove(&oldest);
        }
        true
    }

    /// Forgets every identifier.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Spent::default();
    }

    /// Forgets one identifier.
    pub(super) fn take(&self, identifier: &str) {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spent.known.remove(identifier);
    }

    pub(super) fn contains(&self, identifier: &str) -> bool {
        let spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spent.known.contains(identifier)
    }
}

/// The nonces of one server (RFC 9449 §8, §9), newest last.
#[derive(Default)]
pub(super) struct Nonces(Mutex<VecDeque<String>>);

impl Nonces {
    /// Whether a proof with this nonce is taken.
    pub(super) fn accepts(&self, mode: NonceMode, presented: Option<&str>) -> bool {
        let mut good = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(presented) = presented else {
            return mode == NonceMode::Off;
        };
        let place = good.iter().position(|nonce| nonce == presented);
        match mode {
            NonceMode::Off => true,
            NonceMode::Stable | NonceMode::Rotating => place.is_some(),
            NonceMode::SingleUse => place.and_then(|at| good.remove(at)).is_some(),
        }
    }

    /// The nonce that goes out with a response.
    pub(super) fn to_send(&self, mode: NonceMode) -> Option<String> {
        match mode {
            NonceMode::Off => None,
            NonceMode::Stable => {
                let newest = {
                    let good = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    good.back().cloned()
                };
                newest.or_else(|| self.rotate())
            }
            NonceMode::Rotating | NonceMode::SingleUse => self.rotate(),
        }
    }

    /// Makes a new nonce the newest; older ones stay good. `None` only where the system has no randomness.
    pub(super) fn rotate(&self) -> Option<String> {
        let fresh = random_text(16).ok()?;
        let mut good = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        good.push_back(fresh.clone());
        if good.len() > GOOD_NONCES {
            good.pop_front();
        }
        Some(fresh)
    }

    /// Makes every nonce handed out so far worthless.
    pub(super) fn expire(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_live_by_their_mode() {
        let nonces = Nonces::default();
        assert!(nonces.to_send(NonceMode::Off).is_none());
        assert!(nonces.accepts(NonceMode::Off, None));
        let first = nonces.to_send(NonceMode::Stable).unwrap();
        assert_eq!(nonces.to_send(NonceMode::Stable).unwrap(), first);
        assert!(!nonces.accepts(NonceMode::Stable, None));
        assert!(!nonces.accepts(NonceMode::Stable, Some("x")));
        let second = nonces.to_send(NonceMode::Rotating).unwrap();
        assert_ne!(first, second);
        assert!(nonces.accepts(NonceMode::Rotating, Some(&first)));
        assert!(nonces.accepts(NonceMode::SingleUse, Some(&second)));
        assert!(!nonces.accepts(NonceMode::SingleUse, Some(&second)));
        nonces.expire();
        assert!(!nonces.accepts(NonceMode::Stable, Some(&first)));
        for _ in 0..500 {
            nonces.rotate();
        }
        assert_eq!(nonces.0.lock().unwrap().len(), GOOD_NONCES);
    }

    #[test]
    fn an_identifier_is_spent_once() {
        let once = Once::default();
        assert!(once.spend("a"));
        assert!(!once.spend("a"));
        assert!(once.contains("a") && !once.contains("b"));
    }
}
