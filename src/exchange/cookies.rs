//! Cookies of services with a credential. What such a service sets is a session that our credential opened: handed to the
//! agent it would be a token of its own, which outlives every revocation. So it stays here, in a jar of that agent at that
//! service, and goes out again with the agent's next requests (RFC 6265, as a client).
//!
//! Jars live in memory only. A jar is emptied when what opened its sessions ends: access is revoked, somebody logs in again
//! or rotates, the lease has another key, or the service is described in another way.

mod date;
mod given;
mod jar;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use crate::credential::Lease;
use crate::policy::Permit;
use crate::vocab::{AgentName, Clock, RequestPath};
use given::{Cookie, Place};
use jar::Jar;

/// Most jars of the process: with [`jar::BYTES_MAX`] each they hold 8 MiB at most. Beyond it no new one is begun, and what
/// would have been put there is forgotten.
const JARS_MAX: usize = 1024;

/// How many jars there are, of all services together.
#[derive(Clone, Default)]
pub(super) struct Shelf(Arc<AtomicUsize>);

impl Shelf {
    fn take(&self) -> bool {
        let more = |many: usize| (many < JARS_MAX).then_some(many + 1);
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok()
    }

    fn give_back(&self, many: usize) {
        self.0.fetch_sub(many, Ordering::Relaxed);
    }
}

/// The jars of one service, by agent.
pub(super) struct Jars {
    shelf: Shelf,
    /// How many there are: a request whose service has none looks at nothing else.
    filled: AtomicUsize,
    /// Counts how often jars were emptied: a request that was lent its credential before that takes nothing out, and its
    /// answer puts nothing in.
    epoch: AtomicU64,
    all: Mutex<HashMap<AgentName, Owned>>,
}

/// How often jars had been emptied at one moment: read before a lease is asked for, it tells an attempt whether what it was
/// lent is from before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Epoch(u64);

/// A lease, and the epoch from before it was asked for; none where the service keeps no cookies.
pub(super) struct Loan {
    pub(super) lease: Lease,
    pub(super) epoch: Option<Epoch>,
}

/// A jar, and what opened its sessions.
struct Owned {
    jar: Jar,
    mark: Mark,
}

/// What tells one login from the next, as far as a lease shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mark {
    /// A token that is bound to this key.
    Key(Box<str>),
    /// A static credential with this number.
    Fixed(u64),
    /// A token that looks like the one before it.
    Token,
}

impl Mark {
    fn of(lease: &Lease) -> Self {
        match (lease.thumbprint(), lease.facts().expires) {
            (Some(key), _) => Self::Key(key.into()),
            (None, None) => Self::Fixed(lease.facts().id),
            (None, Some(_)) => Self::Token,
        }
    }
}

impl Jars {
    pub(super) fn new(shelf: Shelf) -> Self {
        Self {
            shelf,
            filled: AtomicUsize::new(0),
            epoch: AtomicU64::new(0),
            all: Mutex::default(),
        }
    }

    /// To be read before a lease is asked for: what is lent then is no older.
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Empties the jars of these agents, and keeps what is still under way from filling them again.
    pub(super) fn empty(&self, whose: impl Fn(&AgentName) -> bool) {
        let mut all = self.all();
        self.epoch.fetch_add(1, Ordering::Release);
        all.retain(|agent, _| !whose(agent));
        self.count(&all);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<AgentName, Owned>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the numbers up to date with what is there.
    fn count(&self, all: &HashMap<AgentName, Owned>) {
        let before = self.filled.swap(all.len(), Ordering::Relaxed);
        self.shelf.give_back(before.saturating_sub(all.len()));
    }
}

impl Drop for Jars {
    fn drop(&mut self) {
        self.shelf.give_back(*self.filled.get_mut());
    }
}

/// One attempt of a request, as far as cookies go.
pub(super) struct Visit<'a> {
    jars: &'a Jars,
    permit: &'a Permit,
    path: &'a RequestPath,
    loan: &'a Loan,
    clock: &'a Clock,
}

impl<'a> Visit<'a> {
    pub(super) fn new(
        jars: &'a Jars,
        permit: &'a Permit,
        path: &'a RequestPath,
        loan: &'a Loan,
        clock: &'a Clock,
    ) -> Self {
        Self {
            jars,
            permit,
            path,
            loan,
            clock,
        }
    }

    fn place(&self) -> Place<'_> {
        Place {
            authority: self.permit.authority(),
            path: self.path.wire(),
            now: self.clock.wall().seconds(),
        }
    }

    /// Whether jars were emptied since its lease was asked for. To be asked with the jars locked.
    fn is_late(&self) -> bool {
        self.loan.epoch != Some(self.jars.epoch())
    }

    /// What the request has to carry; most often nothing, which is one atomic load.
    pub(super) fn cookie(&self) -> Option<HeaderValue> {
        if self.jars.filled.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut all = self.jars.all();
        if self.is_late() {
            // What is there now was opened by another credential than this one.
            return None;
        }
        let owned = all.get_mut(self.permit.agent())?;
        if owned.mark == Mark::of(&self.loan.lease) {
            return owned.jar.field(self.place());
        }
        all.remove(self.permit.agent());
        self.jars.count(&all);
        None
    }

    /// Keeps what the answer sets.
    pub(super) fn answered(&self, headers: &HeaderMap) {
        if !headers.contains_key(header::SET_COOKIE) {
            return;
        }
        let (place, mark) = (self.place(), Mark::of(&self.loan.lease));
        let lines = headers.get_all(header::SET_COOKIE).iter();
        let given: Vec<Cookie> = lines
            .filter_map(|line| Cookie::read(line.as_bytes(), place))
            .collect();
        let mut all = self.jars.all();
        if given.is_empty() || self.is_late() {
            return;
        }
        let agent = self.permit.agent();
        if all.get(agent).is_none_or(|owned| owned.mark != mark) {
            let fresh = Owned {
                jar: Jar::default(),
                mark,
            };
            if all.insert(agent.clone(), fresh).is_none() && !self.jars.shelf.take() {
                all.remove(agent);
                tracing::warn!("there are too many cookie jars: a session of an API is not kept");
                return;
            }
            self.jars.filled.store(all.len(), Ordering::Relaxed);
        }
        if let Some(owned) = all.get_mut(agent) {
            given
                .into_iter()
                .for_each(|cookie| owned.jar.put(cookie, place.now));
            if owned.jar.is_empty() {
                all.remove(agent);
                self.jars.count(&all);
            }
        }
    }
}

/// Of an answer's `Set-Cookie` fields, those with one of these names, and nothing that some reader could take for another
/// one.
pub(super) fn passing(headers: &HeaderMap, names: &[Box<str>]) -> Vec<HeaderValue> {
    let lines = headers.get_all(header::SET_COOKIE).iter();
    let named = |line: &&HeaderValue| {
        let name = given::name_of(line.as_bytes());
        let known = name.is_some_and(|name| names.iter().any(|known| known.as_bytes() == name));
        known && given::is_one(line.as_bytes())
    };
    lines.filter(named).cloned().collect()
}

/// A field whose bytes are overwritten when the last clone of it is gone; `None`: there are none.
fn field(text: Zeroizing<Vec<u8>>) -> Option<HeaderValue> {
    if text.is_empty() {
        return None;
    }
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(text)).ok()?;
    value.set_sensitive(true);
    Some(value)
}
