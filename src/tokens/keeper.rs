//! Decides when access tokens are fetched, published, renewed and dropped.
//!
//! A state machine without I/O: `(now, wall, event) -> actions`. It reads no clock, draws no randomness (its jitter is
//! a sequence that follows from a seed given by the caller) and never sees a token's bytes: a token passes through
//! [`Event::Granted`] into [`Action::Publish`] as an opaque value. It knows nothing of issuers, HTTP or agents' requests.
//!
//! One entry a grant and scope set. Invariants, checked by the simulation in `keeper/sim.rs`: at most one fetch under
//! way per entry; nothing is published or served that either clock calls expired; whoever asks is answered; a grant
//! that is refused for good is tried at most eight times in the first minute.

mod doubt;
mod pace;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::failure::Failure;
use crate::credential::{Expiry, Unavailable};
use crate::vocab::{AgentName, Code, GrantId, Moment, ScopeSet, WallTime};
pub(super) use pace::Jitter;
use pace::Trouble;
pub(super) use words::{Action, Event, Reason};

/// Most entries. The keys come from the configuration, so this is a backstop.
const ENTRIES_MAX: usize = 4096;
/// An entry that nobody asked for is forgotten after this time.
const IDLE: Duration = Duration::from_mins(10);
/// After this time a fetch counts as lost. Fetches end after thirty seconds; only one that died silently gets here.
const FLIGHT_MAX: Duration = Duration::from_secs(40);
/// Rest after an API refused a token and its replacement (C-21), and the shortest time between two fetches that an
/// API's refusals cause. A hostile API could otherwise drive us against the issuer (F-AS9).
const COOL_DOWN: Duration = Duration::from_secs(30);

/// What is kept apart from everything else: the tokens of one grant with one scope set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    /// Which version of the service's credential; a reload that changes the credential changes this.
    pub(super) edition: u64,
    /// Whose tokens.
    pub(super) grant: GrantId,
    /// What is asked for.
    pub(super) scopes: ScopeSet,
}

/// The state of all entries.
pub(super) struct Keeper {
    /// In an order that does not change from run to run, so that a seed tells the whole story.
    entries: BTreeMap<Key, Entry>,
    /// Which entry a live lease belongs to.
    holders: HashMap<u64, Key>,
    jitter: Jitter,
    /// When the next tick was asked for.
    wake: Option<Moment>,
    /// Numbers attempts and leases.
    counter: u64,
}

struct Entry {
    live: Option<Live>,
    flight: Option<Flight>,
    trouble: Option<Trouble>,
    /// No fetch before this moment, because an API refused two tokens in a row.
    rest: Option<Moment>,
    /// When an API's refusal last caused a fetch.
    forced: Option<Moment>,
    /// Somebody waits.
    waiting: bool,
    /// A token is wanted whether or not somebody waits.
    pursued: bool,
    used: Moment,
    /// How long the last token lived.
    life: Option<Duration>,
}

/// The published token.
struct Live {
    lease: u64,
    expires: Expiry,
    renew: Expiry,
}

/// The fetch under way.
struct Flight {
    attempt: u64,
    began: Moment,
    began_wall: WallTime,
}

impl Keeper {
    /// Whether there is anything about this grant under this edition.
    pub(super) fn knows(&self, edition: u64, grant: &GrantId) -> bool {
        let mut keys = self.entries.keys();
        keys.any(|key| key.edition == edition && key.grant == *grant)
    }

    /// An empty table. The seed spreads renewals of a fleet; it need not be secret.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            holders: HashMap::new(),
            jitter: Jitter::new(seed),
            wake: None,
            counter: 0,
        }
    }

    /// Takes one event. The two clocks are those of this moment.
    #[expect(clippy::too_many_lines, reason = "a table: one arm an event")]
    pub(super) fn handle<T>(
        &mut self,
        now: Moment,
        wall: WallTime,
        event: Event<T>,
    ) -> Vec<Action<T>> {
        let mut actions = Vec::new();
        let touched = match event {
            Event::Answered(key) => {
                self.answered(now, wall, &key, &mut actions);
                Some(key)
            }
            Event::Asked(key) => {
                self.asked(now, wall, &key, &mut actions);
                Some(key)
            }
            Event::Distrusted(key) => {
                self.distrusted(&key, &mut actions);
                Some(key)
            }
            Event::Doubted { lease, dead } => self.doubted(now, wall, (lease, dead), &mut actions),
            Event::Failed {
                key,
                attempt,
                failure,
            } => {
                self.failed(now, &key, attempt, failure, &mut actions);
                Some(key)
            }
            Event::Granted {
                key,
                attempt,
                token,
                life,
                cap,
            } => {
                let life = pace::usable(life, cap);
                self.granted(now, wall, &key, attempt, (token, life), &mut actions);
                Some(key)
            }
            Event::Merged { from, into } => {
                self.merged(from.as_ref(), &into, &mut actions);
                Some(into)
            }
            Event::Pursued(key) => {
                self.pursued(now, wall, &key, &mut actions);
                Some(key)
            }
            Event::Rejected { lease, again } => {
                self.rejected(now, wall, lease, again, &mut actions)
            }
            Event::Renew { edition, agent } => {
                self.renew(now, wall, (edition, agent.as_ref()), &mut actions);
                None
            }
            Event::Retired { edition } => {
                self.end(edition, None, Reason::ConfigChanged, &mut actions);
                None
            }
            Event::Revoked { edition, agent } => {
                self.end(edition, agent.as_ref(), Reason::Revoked, &mut actions);
                None
            }
            Event::Tick => {
                self.tick(now, wall, &mut actions);
                None
            }
            Event::Used { key, at } => {
                self.used(&key, at);
                None
            }
        };
        self.wake_for(touched.as_ref(), &mut actions);
        actions
    }

    /// Has the worker wake when this entry is due, if that is sooner than it would.
    fn wake_for<T>(&mut self, touched: Option<&Key>, actions: &mut Vec<Action<T>>) {
        if let Some(due) = touched.and_then(|key| self.entries.get(key).map(Entry::due))
            && self.wake.is_none_or(|wake| due < wake)
        {
            self.wake = Some(due);
            actions.push(Action::WakeAt(due));
        }
    }

    fn used(&mut self, key: &Key, at: Moment) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.used = entry.used.max(at);
        }
    }

    /// Asked for by nobody who waits, and tried until there is a token.
    fn pursued<T>(&mut self, now: Moment, wall: WallTime, key: &Key, actions: &mut Vec<Action<T>>) {
        self.asked(now, wall, key, actions);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.pursued = entry.live.is_none();
        }
    }

    fn asked<T>(&mut self, now: Moment, wall: WallTime, key: &Key, actions: &mut Vec<Action<T>>) {
        if !self.entries.contains_key(key) && !self.make_room(actions) {
            actions.push(Action::Refuse {
                key: key.clone(),
                refusal: Code::Overloaded.into(),
            });
            return;
        }
        let entry = self
            .entries
            .entry(key.clone())
            .or_insert_with(|| Entry::new(now));
        entry.used = entry.used.max(now);
        if let Some(lease) = entry.end_if_expired(now, wall) {
            self.holders.remove(&lease);
            actions.push(Action::Drop {
                key: key.clone(),
                lease,
                reason: Reason::Expired,
            });
        }
        if entry.live.is_some() {
            actions.push(Action::Wake(key.clone()));
        } else if entry.flight.is_some() {
            entry.waiting = true;
        } else if let Some(refusal) = entry.barred(now) {
            actions.push(Action::Refuse {
                key: key.clone(),
                refusal,
            });
        } else {
            entry.waiting = true;
            entry.launch(now, wall, key, &mut self.counter, actions);
        }
    }

    fn failed<T>(
        &mut self,
        now: Moment,
        key: &Key,
        attempt: u64,
        failure: Failure,
        actions: &mut Vec<Action<T>>,
    ) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if entry.flight.as_ref().is_none_or(|f| f.attempt != attempt) {
            return;
        }
        entry.flight = None;
        entry.stumble(now, failure, &mut self.jitter, key, actions);
    }

    /// A token and its life from the moment it was asked for.
    fn granted<T>(
        &mut self,
        now: Moment,
        wall: WallTime,
        key: &Key,
        attempt: u64,
        (token, life): (T, Duration),
        actions: &mut Vec<Action<T>>,
    ) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let Some(flight) = entry.flight.take_if(|f| f.attempt == attempt) else {
            return;
        };
        // The token began to age when it was asked for, at the latest. A machine that slept meanwhile shows that on
        // one clock only, so the greater age counts.
        let by_wall = Duration::from_millis(wall.0.saturating_sub(flight.began_wall.0));
        let age = now.since(flight.began).max(by_wall);
        let remaining = life.saturating_sub(age);
        if remaining.is_zero() {
            entry.stumble(
                now,
                Code::AsUnavailable.into(),
                &mut self.jitter,
                key,
                actions,
            );
            return;
        }
        self.counter += 1;
        let lease = self.counter;
        let expires = Expiry {
            monotonic: now + remaining,
            wall: wall + remaining,
        };
        let renew_in = pace::renew_in(life, age, remaining, &mut self.jitter);
        let before = entry.live.replace(Live {
            lease,
            expires,
            renew: Expiry {
                monotonic: now + renew_in,
                wall: wall + renew_in,
            },
        });
        if let Some(before) = &before {
            self.holders.remove(&before.lease);
        }
        entry.trouble = None;
        entry.rest = None;
        entry.waiting = false;
        entry.pursued = false;
        entry.life = Some(life);
        self.holders.insert(lease, key.clone());
        actions.push(Action::Publish {
            key: key.clone(),
            lease,
            expires,
            token,
            renewal: before.is_some(),
        });
        actions.push(Action::Wake(key.clone()));
    }

    /// Compare and drop: a report about any other than the live lease changes nothing, so two hundred requests that
    /// were refused with one token cause one fetch.
    fn rejected<T>(
        &mut self,
        now: Moment,
        wall: WallTime,
        lease: u64,
        again: bool,
        actions: &mut Vec<Action<T>>,
    ) -> Option<Key> {
        let key = self.holders.remove(&lease)?;
        let entry = self.entries.get_mut(&key)?;
        entry.live = None;
        actions.push(Action::Drop {
            key: key.clone(),
            lease,
            reason: Reason::InvalidToken,
        });
        let soon = entry.forced.is_some_and(|at| now.since(at) < COOL_DOWN);
        if again || soon {
            entry.rest = Some(now + COOL_DOWN);
            actions.push(Action::Trouble {
                key: key.clone(),
                code: Code::UpstreamRejectedCredential,
            });
            return Some(key);
        }
        entry.forced = Some(now);
        if entry.flight.is_none() && entry.barred(now).is_none() {
            entry.launch(now, wall, &key, &mut self.counter, actions);
        }
        Some(key)
    }

    /// A login was answered: what went wrong with the grant before counts no more. The token in use is an earlier login's,
    /// so whoever asks waits for the new one; those for less follow it.
    fn answered<T>(
        &mut self,
        now: Moment,
        wall: WallTime,
        key: &Key,
        actions: &mut Vec<Action<T>>,
    ) {
        let of_grant = self
            .entries
            .iter_mut()
            .filter(|(k, _)| k.edition == key.edition && k.grant == key.grant);
        for (of, entry) in of_grant {
            (entry.trouble, entry.rest) = (None, None);
            if of != key {
                if let Some(live) = &mut entry.live {
                    live.renew = Expiry {
                        monotonic: now,
                        wall,
                    };
                }
            } else if let Some(live) = entry.live.take() {
                self.holders.remove(&live.lease);
                actions.push(Action::Drop {
                    key: of.clone(),
                    lease: live.lease,
                    reason: Reason::Replaced,
                });
            }
        }
    }

    /// The key that tokens are bound to has a successor: whoever waits for the end of the old one waits too long.
    fn renew<T>(
        &mut self,
        now: Moment,
        wall: WallTime,
        (edition, agent): (u64, Option<&AgentName>),
        actions: &mut Vec<Action<T>>,
    ) {
        let of_edition = self.entries.iter_mut().filter(|(k, _)| {
            k.edition == edition && agent.is_none_or(|agent| k.grant.agent == *agent)
        });
        for live in of_edition.filter_map(|(_, entry)| entry.live.as_mut()) {
            live.renew = Expiry {
                monotonic: now,
                wall,
            };
        }
        self.tick(now, wall, actions);
    }

    /// Brings what is kept of a grant together. Entries with a fetch under way stay until that has ended.
    fn merged<T>(&mut self, from: Option<&Key>, into: &Key, actions: &mut Vec<Action<T>>) {
        let of_grant = |key: &Key| key.edition == into.edition && key.grant == into.grant;
        let still = self.entries.iter().filter(|(_, e)| e.flight.is_none());
        let others: Vec<Key> = still
            .map(|(key, _)| key.clone())
            .filter(|key| of_grant(key) && key != into)
            .collect();
        for key in others {
            let taken = self.entries.get(into);
            let free = taken.is_none_or(|entry| entry.live.is_none() && entry.flight.is_none());
            if Some(&key) == from && free {
                if let Some(entry) = self.entries.remove(&key) {
                    if let Some(live) = &entry.live {
                        self.holders.insert(live.lease, into.clone());
                    }
                    self.entries.insert(into.clone(), entry);
                    let into = into.clone();
                    actions.push(Action::Move { from: key, into });
                }
            } else {
                self.forget(&key, Reason::Merged, actions);
            }
        }
    }

    fn distrusted<T>(&mut self, key: &Key, actions: &mut Vec<Action<T>>) {
        let entry = self.entries.get_mut(key);
        if let Some(live) = entry.and_then(|entry| entry.live.take()) {
            self.holders.remove(&live.lease);
            actions.push(Action::Drop {
                key: key.clone(),
                lease: live.lease,
                reason: Reason::Distrusted,
            });
        }
    }

    /// Forgets what an edition has, or what it has for one owner.
    fn end<T>(
        &mut self,
        edition: u64,
        agent: Option<&AgentName>,
        reason: Reason,
        actions: &mut Vec<Action<T>>,
    ) {
        let of_it = |key: &&Key| {
            key.edition == edition && agent.is_none_or(|agent| key.grant.agent == *agent)
        };
        let gone: Vec<Key> = self.entries.keys().filter(of_it).cloned().collect();
        for key in gone {
            self.forget(&key, reason, actions);
        }
    }

    /// Looks at every entry: a wall clock that jumped may have ended any of them.
    fn tick<T>(&mut self, now: Moment, wall: WallTime, actions: &mut Vec<Action<T>>) {
        let mut idle = Vec::new();
        for (key, entry) in &mut self.entries {
            if entry
                .flight
                .take_if(|f| now.since(f.began) >= FLIGHT_MAX)
                .is_some()
            {
                entry.stumble(now, Code::AsTimeout.into(), &mut self.jitter, key, actions);
            }
            if let Some(lease) = entry.end_if_expired(now, wall) {
                self.holders.remove(&lease);
                // An outage outlived the token. Whoever asks first after it should not have to wait for its end to be
                // noticed, so it goes on being looked for.
                entry.pursued = entry.trouble.as_ref().is_some_and(|t| !t.terminal());
                actions.push(Action::Drop {
                    key: key.clone(),
                    lease,
                    reason: Reason::Expired,
                });
            }
            if entry.flight.is_some() {
                continue;
            }
            if now.since(entry.used) >= IDLE {
                idle.push(key.clone());
            } else if entry.wants_one(now, wall) && entry.barred(now).is_none() {
                entry.launch(now, wall, key, &mut self.counter, actions);
            }
        }
        for key in idle {
            self.forget(&key, Reason::Idle, actions);
        }
        self.wake = self.entries.values().map(Entry::due).min();
        actions.extend(self.wake.map(Action::WakeAt));
    }

    fn forget<T>(&mut self, key: &Key, reason: Reason, actions: &mut Vec<Action<T>>) {
        let Some(entry) = self.entries.remove(key) else {
            return;
        };
        if let Some(live) = entry.live {
            self.holders.remove(&live.lease);
            actions.push(Action::Drop {
                key: key.clone(),
                lease: live.lease,
                reason,
            });
        }
        // Only an entry with a fetch under way has somebody waiting, and only a reload or the operator takes such an entry
        // away.
        if entry.waiting {
            let code = if reason == Reason::Revoked {
                Code::ServiceRevoked
            } else {
                Code::ConfigChanged
            };
            actions.push(Action::Refuse {
                key: key.clone(),
                refusal: code.into(),
            });
        }
        actions.push(Action::Forget(key.clone()));
    }

    /// Makes room for one more entry at the cost of the one that was used least recently.
    fn make_room<T>(&mut self, actions: &mut Vec<Action<T>>) -> bool {
        if self.entries.len() < ENTRIES_MAX {
            return true;
        }
        let oldest = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.flight.is_none())
            .min_by_key(|(_, entry)| entry.used)
            .map(|(key, _)| key.clone());
        let Some(key) = oldest else {
            return false;
        };
        self.forget(&key, Reason::Evicted, actions);
        true
    }
}

impl Entry {
    fn new(now: Moment) -> Self {
        Self {
            live: None,
            flight: None,
            trouble: None,
            rest: None,
            forced: None,
            waiting: false,
            pursued: false,
            used: now,
            life: None,
        }
    }

    fn launch<T>(
        &mut self,
        now: Moment,
        wall: WallTime,
        key: &Key,
        counter: &mut u64,
        actions: &mut Vec<Action<T>>,
    ) {
        *counter += 1;
        self.flight = Some(Flight {
            attempt: *counter,
            began: now,
            began_wall: wall,
        });
        actions.push(Action::Fetch {
            key: key.clone(),
            attempt: *counter,
        });
    }

    /// Notes a failure and tells those who wait. A token that is still valid stays in use.
    fn stumble<T>(
        &mut self,
        now: Moment,
        failure: Failure,
        jitter: &mut Jitter,
        key: &Key,
        actions: &mut Vec<Action<T>>,
    ) {
        let trouble = Trouble::after(self.trouble.take(), failure, now, self.life, jitter);
        self.pursued &= !trouble.terminal();
        if std::mem::take(&mut self.waiting) {
            actions.push(Action::Refuse {
                key: key.clone(),
                refusal: trouble.refusal(now),
            });
        }
        actions.push(Action::Trouble {
            key: key.clone(),
            code: trouble.code(),
        });
        self.trouble = Some(trouble);
    }

    /// Whether a fetch should begin although nobody waits.
    fn wants_one(&self, now: Moment, wall: WallTime) -> bool {
        match &self.live {
            Some(live) => live.renew.passed(now, wall),
            None => self.pursued,
        }
    }

    /// Why no fetch may begin now.
    fn barred(&self, now: Moment) -> Option<Unavailable> {
        if let Some(until) = self.rest.filter(|until| *until > now) {
            return Some(Unavailable {
                code: Code::UpstreamRejectedCredential,
                retry_after: Some(pace::hint(until.since(now))),
                oauth_error: None,
            });
        }
        let trouble = self.trouble.as_ref()?;
        (trouble.until > now).then(|| trouble.refusal(now))
    }

    fn end_if_expired(&mut self, now: Moment, wall: WallTime) -> Option<u64> {
        self.live
            .take_if(|live| live.expires.passed(now, wall))
            .map(|live| live.lease)
    }

    /// When this entry wants to be looked at next, by the monotonic clock.
    fn due(&self) -> Moment {
        let idle = self.used + IDLE;
        let mut due = self.flight.as_ref().map_or(idle, |f| f.began + FLIGHT_MAX);
        let wanted = match &self.live {
            Some(live) => {
                due = due.min(live.expires.monotonic);
                live.renew.monotonic
            }
            None if self.pursued => Moment(0),
            None => return due,
        };
        if self.flight.is_none() {
            let barred = self.trouble.as_ref().map_or(Moment(0), |t| t.until);
            let rest = self.rest.unwrap_or_default();
            due = due.min(wanted.max(barred).max(rest));
        }
        due
    }
}
