//! Leaves by host: minted once however many ask at the same time, kept in a bounded number.
//!
//! The key is a name that an agent may choose below a wildcard, so the number is fixed and the least used go first
//! (a client that counts up names must not grow us).

use std::sync::Arc;

use quick_cache::sync::{Cache, EntryAction, EntryResult};
use rustls::sign::CertifiedKey;

use super::error::CaError;
use super::leaf::{LeafKey, Minted, mint};
use super::root::Root;
use crate::vocab::{Clock, Host};

/// Where a leaf came from; the label of the leaf metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Signed for this call.
    Minted,
    /// Out of the cache, or signed for a call that came at the same time.
    Reused,
}

impl Origin {
    /// The label value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minted => "minted",
            Self::Reused => "reused",
        }
    }
}

/// A leaf as rustls wants it, and whether it cost a signature.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Chain and signer.
    pub certified: Arc<CertifiedKey>,
    /// Minted or reused.
    pub origin: Origin,
}

/// All leaves of the process.
pub struct Leaves {
    root: Root,
    key: LeafKey,
    clock: Clock,
    minted: Cache<Host, Minted>,
}

impl Leaves {
    /// Begins with no leaf and room for `capacity`.
    ///
    /// # Errors
    /// [`CaError`] where the leaf key cannot be made.
    pub fn new(root: Root, clock: Clock, capacity: usize) -> Result<Self, CaError> {
        Ok(Self {
            root,
            key: LeafKey::generate()?,
            clock,
            minted: Cache::new(capacity),
        })
    }

    /// Whether the root may sign for this host.
    #[must_use]
    pub fn permits(&self, host: &Host) -> bool {
        self.root.constraints().permit(host)
    }

    /// Whether the host's leaf is at hand, so that [`Leaves::leaf`] signs nothing.
    #[must_use]
    pub fn holds(&self, host: &Host) -> bool {
        let now = self.clock.wall();
        self.minted
            .get(host)
            .is_some_and(|found| found.is_fresh(now))
    }

    /// The leaf for a host that policy has admitted. At most one caller per host signs (some 50 microseconds); the
    /// others of that moment wait for it on their thread.
    ///
    /// # Errors
    /// [`CaError::Expired`] and [`CaError::NotYetValid`] where the root's own validity does not hold now,
    /// [`CaError::NotPermitted`] where its name constraints leave the host out.
    pub fn leaf(&self, host: &Host) -> Result<Leaf, CaError> {
        let now = self.clock.wall();
        // Reads share the lock; only a stale or absent leaf takes the way below.
        if let Some(found) = self.minted.get(host)
            && found.is_fresh(now)
        {
            return Ok(reused(found));
        }
        let entry = self.minted.entry(host, None, |_, held| {
            if held.is_fresh(now) {
                EntryAction::Retain(held.clone())
            } else {
                EntryAction::ReplaceWithGuard
            }
        });
        match entry {
            EntryResult::Retained(found) => Ok(reused(found)),
            EntryResult::Vacant(place) | EntryResult::Replaced(place, _) => {
                let leaf = mint(&self.root, &self.key, host, now)?;
                // Refused only if the place was taken away meanwhile; the leaf is good all the same.
                drop(place.insert(leaf.clone()));
                Ok(minted(leaf))
            }
            // Neither happens: no wait has a limit and nothing is removed. A leaf is never withheld because of it.
            EntryResult::Removed(..) | EntryResult::Timeout => {
                mint(&self.root, &self.key, host, now).map(minted)
            }
        }
    }

    /// The root that signs them.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// How many leaves are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.minted.len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.minted.is_empty()
    }
}

fn minted(leaf: Minted) -> Leaf {
    Leaf {
        certified: leaf.certified,
        origin: Origin::Minted,
    }
}

fn reused(leaf: Minted) -> Leaf {
    Leaf {
        certified: leaf.certified,
        origin: Origin::Reused,
    }
}
