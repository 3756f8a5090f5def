//! What both sides of the room see: the leases that are in use, and what went wrong where there are none.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use dashmap::DashMap;

use super::catalogue::Catalogue;
use super::checks::Checkup;
use super::journal::Standing;
use super::keeper::Key;
use crate::credential::{Kin, Lease};
use crate::vocab::{Clock, Code, GrantId, Moment, ServiceName};

/// Shared by the door, which reads, and the worker, which writes.
pub(super) struct Shelf {
    pub(super) clock: Clock,
    pub(super) catalogue: ArcSwap<Catalogue>,
    slots: DashMap<Key, Slot>,
    /// The tokens of each grant that its issuer still honours, under whatever edition: all that an API has seen of it.
    kin: Mutex<BTreeMap<GrantId, Arc<Kin>>>,
    /// Reports of refused leases. Each lease is on the shelf once and is reported when it is taken off, so there are
    /// never more of these than leases.
    rejections: Mutex<Vec<Rejection>>,
    troubles: Mutex<BTreeMap<Key, Code>>,
    /// What the last check of a lease said: never more of these than leases, but for those just replaced.
    checks: Mutex<BTreeMap<Key, Said>>,
}

/// What a check said of a lease, and when.
struct Said {
    lease: u64,
    by: &'static str,
    outcome: &'static str,
    at: Moment,
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
            kin: Mutex::default(),
            rejections: Mutex::default(),
            troubles: Mutex::default(),
            checks: Mutex::default(),
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

    /// Every lease in use.
    pub(super) fn leases(&self) -> Vec<Lease> {
        self.slots.iter().map(|slot| slot.lease.clone()).collect()
    }

    /// Puts a lease into use in place of the one before it.
    pub(super) fn put(&self, key: Key, lease: Lease) {
        self.troubles().remove(&key);
        let since = self.clock.now();
        // A renewal is nobody's use: a session that nobody uses must come to its end whatever its tokens' life.
        let used = self
            .slots
            .get(&key)
            .map_or(since.0, |slot| slot.used.load(Ordering::Relaxed));
        let used = AtomicU64::new(used);
        // The answers of each are searched for the tokens of all.
        self.forget();
        lease.join(self.kin().entry(key.grant.clone()).or_default());
        self.slots.insert(key, Slot { lease, since, used });
    }

    /// Forgets the tokens that nobody honours any more. Those of an answer that still flows keep each other's company.
    pub(super) fn forget(&self) {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        self.kin()
            .retain(|_, kin| !kin.forget(now, wall) || Arc::strong_count(kin) > 1);
    }

    fn kin(&self) -> MutexGuard<'_, BTreeMap<GrantId, Arc<Kin>>> {
        self.kin.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.kin().clear();
        self.troubles().clear();
        self.checks().clear();
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
        let (troubles, checks) = (self.troubles(), self.checks());
        for slot in &self.slots {
            if slot.key().grant.service != *service {
                continue;
            }
            let said = checks.get(slot.key());
            if troubles.contains_key(slot.key()) {
                standing.degraded += 1;
            } else if said
                .is_some_and(|said| said.lease == slot.lease.facts().id && said.outcome != "active")
            {
                standing.unknown += 1;
            } else {
                standing.healthy += 1;
            }
        }
        let all = troubles.keys().filter(|key| key.grant.service == *service);
        standing.failed = all.count().saturating_sub(standing.degraded);
        standing
    }

    /// Notes what a check said of a lease: by whom, and what.
    pub(super) fn checked(
        &self,
        key: &Key,
        lease: u64,
        (by, outcome): (&'static str, &'static str),
    ) {
        let said = Said {
            lease,
            by,
            outcome,
            at: self.clock.now(),
        };
        self.checks().insert(key.clone(), said);
    }

    /// What the last check of this lease said.
    pub(super) fn checkup(&self, key: &Key, lease: u64) -> Option<Checkup> {
        let checks = self.checks();
        let said = checks.get(key).filter(|said| said.lease == lease)?;
        Some(Checkup {
            by: said.by,
            outcome: said.outcome,
            ago: self.clock.now().since(said.at),
        })
    }

    /// Forgets what was said of an entry that is gone.
    pub(super) fn unchecked(&self, key: &Key) {
        self.checks().remove(key);
    }

    fn checks(&self) -> MutexGuard<'_, BTreeMap<Key, Said>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::credential::{Expiry, LeaseFacts};
    use crate::vocab::{AgentName, Binding, GrantId, ScopeSet, Secret, WallTime};

    #[test]
    fn a_renewal_is_nobodys_use() {
        let clock = Clock::manual(WallTime(1_700_000_000_000));
        let shelf = Shelf::new(clock.clone(), Catalogue::default());
        let grant = GrantId {
            service: ServiceName::new("items").unwrap(),
            agent: AgentName::fallback(),
        };
        let key = Key {
            edition: 1,
            grant: grant.clone(),
            scopes: ScopeSet::default(),
        };
        let put = |id| {
            let facts = LeaseFacts {
                id,
                grant: grant.clone(),
                binding: Binding::None,
                scopes: ScopeSet::default(),
                expires: None,
                cancel: CancellationToken::new(),
            };
            shelf.put(key.clone(), Lease::nothing(facts));
        };
        put(1);
        let first = clock.now();
        clock.advance(Duration::from_mins(5));
        put(2);
        assert_eq!(shelf.uses(), [(key.clone(), first)]);
        shelf.take(&key).unwrap();
        assert_eq!(shelf.uses(), [(key.clone(), clock.now())]);
    }

    #[test]
    fn a_renewed_token_knows_the_one_before_it_until_that_is_over() {
        let clock = Clock::manual(WallTime(1_700_000_000_000));
        let shelf = Shelf::new(clock.clone(), Catalogue::default());
        let grant = GrantId {
            service: ServiceName::new("items").unwrap(),
            agent: AgentName::fallback(),
        };
        let put = |id: u64, edition, minutes| {
            let life = Duration::from_mins(minutes);
            let facts = LeaseFacts {
                id,
                grant: grant.clone(),
                binding: Binding::Bearer,
                scopes: ScopeSet::default(),
                expires: Some(Expiry {
                    monotonic: clock.now() + life,
                    wall: clock.wall() + life,
                }),
                cancel: CancellationToken::new(),
            };
            let key = Key {
                edition,
                grant: grant.clone(),
                scopes: ScopeSet::default(),
            };
            let lease = Lease::bearer(facts, &Secret::new(format!("token-number-{id}"))).unwrap();
            shelf.put(key.clone(), lease);
            shelf.take(&key).unwrap()
        };
        let first = put(1, 1, 10);
        let second = put(2, 1, 20);
        let third = put(3, 2, 30);
        assert_eq!(
            [&first, &second, &third].map(|l| l.sought().len()),
            [3, 3, 3]
        );
        clock.advance(Duration::from_mins(10));
        shelf.forget();
        assert_eq!((second.sought().len(), third.sought().len()), (2, 2));
        shelf.clear();
        assert!(shelf.kin().is_empty());
    }
}
