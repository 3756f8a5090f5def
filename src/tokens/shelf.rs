//! What both sides of the room see: the leases that are in use, and what went wrong where there are none.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use dashmap::DashMap;

use super::catalogue::Catalogue;
use super::journal::Standing;
use super::keeper::Key;
use crate::credential::Lease;
use crate::vocab::{Clock, Code, Moment, ServiceName};

/// Shared by the door, which reads, and the worker, which writes.
pub(super) struct Shelf {
    pub(super) clock: Clock,
    pub(super) catalogue: ArcSwap<Catalogue>,
    slots: DashMap<Key, Slot>,
    /// Reports of refused leases. Each lease is on the shelf once and is reported when it is taken off, so there are
    /// never more of these than leases.
    rejections: Mutex<Vec<Rejection>>,
    troubles: Mutex<BTreeMap<Key, Code>>,
}

/// A lease in use.
struct Slot {
    lease: Lease,
    /// When it came here.
    since: Moment,
    /// When it was last lent, in milliseconds of the monotonic clock.
    used: AtomicU64,
}

/// A lease and since when it is in use, and what went wrong last.
pub(super) type Stand = (Option<(Lease, Moment)>, Option<Code>);

/// An API refused this lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) key: Key,
    pub(super) lease: u64,
    pub(super) again: bool,
}

impl Shelf {
    pub(super) fn new(clock: Clock, catalogue: Catalogue) -> Self {
        Self {
            clock,
            catalogue: ArcSwap::from_pointee(catalogue),
            slots: DashMap::new(),
            rejections: Mutex::default(),
            troubles: Mutex::default(),
        }
    }

    /// The lease in use, unless either clock calls it expired.
    pub(super) fn take(&self, key: &Key) -> Option<Lease> {
        let now = self.clock.now();
        let slot = self.slots.get(key)?;
        if slot.lease.expired(now, self.clock.wall()) {
            return None;
        }
        slot.used.store(now.0, Ordering::Relaxed);
        Some(slot.lease.clone())
    }

    /// Puts a lease into use in place of the one before it.
    pub(super) fn put(&self, key: Key, lease: Lease) {
        self.troubles().remove(&key);
        let since = self.clock.now();
        let used = AtomicU64::new(since.0);
        self.slots.insert(key, Slot { lease, since, used });
    }

    /// Gives a lease another name.
    pub(super) fn rename(&self, from: &Key, into: Key) {
        self.calm(from);
        self.calm(&into);
        if let Some((_, slot)) = self.slots.remove(from) {
            self.slots.insert(into, slot);
        }
    }

    /// Whether the same grant has a lease with another scope set that is newer than this one.
    pub(super) fn has_newer(&self, key: &Key, lease: u64) -> bool {
        self.slots.iter().any(|slot| {
            let other = slot.key();
            other.edition == key.edition
                && other.grant == key.grant
                && other.scopes != key.scopes
                && slot.lease.facts().id > lease
        })
    }

    /// Takes everything out of use.
    pub(super) fn clear(&self) {
        self.slots.clear();
        self.troubles().clear();
    }

    /// Ends every exchange that rides on this lease.
    pub(super) fn end(&self, key: &Key, lease: u64) {
        let slot = self.slots.get(key);
        if let Some(slot) = slot.filter(|slot| slot.lease.facts().id == lease) {
            slot.lease.facts().cancel.cancel();
        }
    }

    /// Takes this lease, and no other, out of use.
    pub(super) fn remove(&self, key: &Key, lease: u64) {
        self.slots
            .remove_if(key, |_, slot| slot.lease.facts().id == lease);
    }

    /// Takes a refused lease out of use at once. Whether it was in use.
    pub(super) fn reject(&self, lease: &Lease, again: bool) -> bool {
        let id = lease.facts().id;
        let mut found = None;
        self.slots.retain(|key, slot| {
            let this = key.grant == lease.facts().grant && slot.lease.facts().id == id;
            if this {
                found = Some(key.clone());
            }
            !this
        });
        let Some(key) = found else {
            return false;
        };
        self.rejections().push(Rejection {
            key,
            lease: id,
            again,
        });
        true
    }

    /// Takes the reports that have come in.
    pub(super) fn take_rejections(&self) -> Vec<Rejection> {
        std::mem::take(&mut *self.rejections())
    }

    /// When each lease was last lent.
    pub(super) fn uses(&self) -> Vec<(Key, Moment)> {
        self.slots
            .iter()
            .map(|slot| {
                let used = slot.used.load(Ordering::Relaxed);
                (slot.key().clone(), Moment(used))
            })
            .collect()
    }

    /// The leases in use and what went wrong last, by key.
    pub(super) fn survey(&self) -> BTreeMap<Key, Stand> {
        let mut all: BTreeMap<Key, Stand> = self
            .slots
            .iter()
            .map(|slot| {
                let held = (slot.lease.clone(), slot.since);
                (slot.key().clone(), (Some(held), None))
            })
            .collect();
        for (key, code) in self.troubles().iter() {
            all.entry(key.clone()).or_default().1 = Some(*code);
        }
        all
    }

    /// How the grants of a service stand.
    pub(super) fn standing(&self, service: &ServiceName) -> Standing {
        let mut standing = Standing::default();
        let troubles = self.troubles();
        for slot in &self.slots {
            if slot.key().grant.service != *service {
                continue;
            }
            if troubles.contains_key(slot.key()) {
                standing.degraded += 1;
            } else {
                standing.healthy += 1;
            }
        }
        let all = troubles.keys().filter(|key| key.grant.service == *service);
        standing.failed = all.count().saturating_sub(standing.degraded);
        standing
    }

    /// Notes what went wrong.
    pub(super) fn trouble(&self, key: &Key, code: Code) {
        self.troubles().insert(key.clone(), code);
    }

    /// Forgets what went wrong.
    pub(super) fn calm(&self, key: &Key) {
        self.troubles().remove(key);
    }

    fn troubles(&self) -> MutexGuard<'_, BTreeMap<Key, Code>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rejections(&self) -> MutexGuard<'_, Vec<Rejection>> {
        self.rejections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
