//! Decides when tokens in use are asked after, and what follows from the answers.
//!
//! Pure: `(now, what happened) -> what to do`. It reads no clock, sends nothing and never sees a token. There are two
//! judges: the issuer (RFC 7662) and the API itself (a configured probe). Neither is believed blindly, because a wrong
//! "no" costs a token that was good: a judge that has never said yes about a client's tokens makes us renew, not drop; and
//! one that says no of three tokens in a row, each the successor of the one before, is not asked for an hour.
//!
//! Invariants, checked by seeds in `health/tests.rs`: one check at a time per issuer, and sixty a minute at most; an entry
//! is never looked at more often than its interval says; nothing is sent for what nobody uses; a judge
//! that cannot tell costs each entry two tokens an hour.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::keeper::{Jitter, Key};
use crate::vocab::Moment;

/// Shortest time between the beginnings of two checks at one issuer: sixty a minute, however many grants it has.
const SPACING: Duration = Duration::from_secs(1);
/// What nobody has used for so long is not asked after.
const UNUSED: Duration = Duration::from_mins(5);
/// A judge that cannot answer, or that is not believed, rests so long.
const REST: Duration = Duration::from_hours(1);
/// The so manieth "no" in a row is not believed: an issuer does not give out three tokens that are over.
const DENIALS: u8 = 3;

/// Whom a token is asked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Judge {
    /// The API, by a request that is configured for this.
    Api,
    /// The issuer, by introspection.
    Issuer,
}

impl Judge {
    /// The word in audit lines and in `status`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Api => "probe",
            Self::Issuer => "introspection",
        }
    }
}

/// What a judge says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The token is good.
    Active,
    /// It is not.
    Inactive,
    /// No answer, or one that says neither.
    Unknown,
    /// This judge does not answer such questions, or not to us.
    Unsupported,
}

impl Verdict {
    /// The word in audit lines and in `status`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Unknown | Self::Unsupported => "unknown",
        }
    }
}

/// A token that came into use.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) key: Key,
    pub(super) lease: u64,
    /// How often it may be asked after.
    pub(super) interval: Duration,
    /// Whose place in the queue it takes.
    pub(super) issuer: Arc<str>,
}

/// Who can be asked about a token now, in order, and when somebody used it last.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    pub(super) used: Moment,
    pub(super) judges: Vec<Judge>,
}

/// Ask these about this token, until one says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) key: Key,
    pub(super) lease: u64,
    pub(super) issuer: Arc<str>,
    pub(super) judges: Vec<Judge>,
}

/// What came of an order. Each order has one, whatever becomes of the token meanwhile.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) key: Key,
    pub(super) lease: u64,
    pub(super) issuer: Arc<str>,
    pub(super) verdicts: Vec<(Judge, Verdict)>,
}

/// What follows from a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ruling {
    /// Who decided it; `None`: nobody answered.
    pub(super) by: Option<Judge>,
    /// What counts now; [`Verdict::Unsupported`]: nobody can be asked.
    pub(super) verdict: Verdict,
    pub(super) fate: Fate,
}

/// What is to become of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is over: out of use at once, and another one in its place.
    Dead,
    /// It may be over: another one in its place, and it serves until that is there.
    Doubtful,
    /// It stays.
    Spared,
}

/// All entries, issuers and judges.
pub(super) struct Health {
    entries: BTreeMap<Key, Entry>,
    /// As many as the configuration has issuers.
    issuers: BTreeMap<Arc<str>, Pace>,
    /// By edition: what a judge says about one client's tokens tells nothing about another's.
    trust: BTreeMap<(u64, Judge), Trust>,
    jitter: Jitter,
}

struct Entry {
    /// The token in use.
    lease: Option<u64>,
    interval: Duration,
    issuer: Arc<str>,
    due: Moment,
    under_way: bool,
    /// How often each judge said no in a row.
    denied: BTreeMap<Judge, u8>,
}

#[derive(Default)]
struct Pace {
    busy: bool,
    next: Moment,
}

#[derive(Default)]
struct Trust {
    /// It has said yes of one of our tokens.
    proven: bool,
    /// Not asked before this moment.
    rests_until: Moment,
}

impl Health {
    /// Nothing to look after. The seed spreads checks of a fleet.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            issuers: BTreeMap::new(),
            trust: BTreeMap::new(),
            jitter: Jitter::new(seed),
        }
    }

    /// A token came into use. The first check of an entry comes after half an interval or later, so that a fleet that was
    /// started at once does not ask at once; a successor takes over the date of the one before.
    pub(super) fn published(&mut self, now: Moment, subject: Subject) {
        let share = u32::try_from(500 + self.jitter.below(501)).unwrap_or(1000);
        let Subject {
            key,
            lease,
            interval,
            issuer,
        } = subject;
        let entry = self.entries.entry(key).or_insert_with(|| Entry {
            lease: None,
            interval,
            issuer,
            due: now + interval * share / 1000,
            under_way: false,
            denied: BTreeMap::new(),
        });
        entry.lease = Some(lease);
    }

    /// This token, and no other, went out of use.
    pub(super) fn dropped(&mut self, key: &Key, lease: u64) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.lease.take_if(|held| *held == lease);
        }
    }

    /// Nothing is kept of this entry any more.
    pub(super) fn forgotten(&mut self, key: &Key) {
        self.entries.remove(key);
        if !self.entries.keys().any(|k| k.edition == key.edition) {
            self.trust.retain(|(edition, _), _| *edition != key.edition);
        }
    }

    /// An entry has another name.
    pub(super) fn moved(&mut self, from: &Key, into: &Key) {
        let Some(entry) = self.entries.remove(from) else {
            return;
        };
        let fresh = Entry {
            under_way: false,
            ..entry
        };
        match self.entries.get_mut(into) {
            Some(other) => other.lease = fresh.lease,
            None => drop(self.entries.insert(into.clone(), fresh)),
        }
    }

    /// What is to be asked now. Whoever has waited longest comes first.
    pub(super) fn orders(&mut self, now: Moment, look: impl Fn(&Key) -> Look) -> Vec<Order> {
        let Self {
            entries,
            issuers,
            trust,
            ..
        } = self;
        let mut due: Vec<_> = entries.iter_mut().filter(|(_, e)| e.waits(now)).collect();
        due.sort_by_key(|(_, entry)| entry.due);
        let mut orders = Vec::new();
        for (key, entry) in due {
            let pace = issuers.entry(Arc::clone(&entry.issuer)).or_default();
            if pace.busy || pace.next > now {
                continue;
            }
            let Some(lease) = entry.lease else { continue };
            let Look { used, mut judges } = look(key);
            judges.retain(|judge| {
                let trust = trust.get(&(key.edition, *judge));
                trust.is_none_or(|trust| trust.rests_until <= now)
            });
            entry.due = now + entry.interval;
            if judges.is_empty() || now.since(used) >= UNUSED {
                continue;
            }
            (pace.busy, pace.next) = (true, now + SPACING);
            entry.under_way = true;
            orders.push(Order {
                key: key.clone(),
                lease,
                issuer: Arc::clone(&entry.issuer),
                judges,
            });
        }
        orders
    }

    /// What follows from the answers; `None` where the token is not in use any more.
    pub(super) fn reported(&mut self, now: Moment, report: &Report) -> Option<Ruling> {
        let edition = report.key.edition;
        if let Some(pace) = self.issuers.get_mut(&report.issuer) {
            pace.busy = false;
        }
        for (judge, verdict) in &report.verdicts {
            let trust = self.trust.entry((edition, *judge)).or_default();
            match verdict {
                Verdict::Active => trust.proven = true,
                Verdict::Unsupported => trust.rests_until = now + REST,
                Verdict::Inactive | Verdict::Unknown => {}
            }
        }
        let entry = self.entries.get_mut(&report.key)?;
        entry.under_way = false;
        if entry.lease != Some(report.lease) {
            return None;
        }
        let mut verdicts = report.verdicts.iter().map(|(_, verdict)| *verdict);
        // Where nobody takes such questions, nothing is known to be wrong.
        let nobody = !report.verdicts.is_empty() && verdicts.all(|v| v == Verdict::Unsupported);
        let mut ruling = Ruling {
            by: None,
            verdict: if nobody {
                Verdict::Unsupported
            } else {
                Verdict::Unknown
            },
            fate: Fate::Spared,
        };
        for (judge, verdict) in &report.verdicts {
            match verdict {
                Verdict::Active => {
                    entry.denied.remove(judge);
                    (ruling.by, ruling.verdict) = (Some(*judge), Verdict::Active);
                }
                Verdict::Inactive => {
                    let trust = self.trust.entry((edition, *judge)).or_default();
                    return Some(entry.denied_by(*judge, trust, now));
                }
                Verdict::Unknown | Verdict::Unsupported => {}
            }
        }
        Some(ruling)
    }

    /// When there is something to be asked next.
    pub(super) fn wake(&self) -> Option<Moment> {
        let waiting = self.entries.values();
        let waiting = waiting.filter(|entry| entry.lease.is_some() && !entry.under_way);
        waiting
            .filter_map(|entry| match self.issuers.get(&entry.issuer) {
                Some(pace) if pace.busy => None,
                Some(pace) => Some(entry.due.max(pace.next)),
                None => Some(entry.due),
            })
            .min()
    }
}

impl Entry {
    fn waits(&self, now: Moment) -> bool {
        self.lease.is_some() && !self.under_way && self.due <= now
    }

    /// A judge said no.
    fn denied_by(&mut self, judge: Judge, trust: &mut Trust, now: Moment) -> Ruling {
        let by = Some(judge);
        let times = self.denied.entry(judge).or_default();
        *times += 1;
        if *times >= DENIALS {
            self.denied.remove(&judge);
            trust.rests_until = now + REST;
            trust.proven = false;
            return Ruling {
                by,
                verdict: Verdict::Unknown,
                fate: Fate::Spared,
            };
        }
        Ruling {
            by,
            verdict: Verdict::Inactive,
            fate: if trust.proven {
                Fate::Dead
            } else {
                Fate::Doubtful
            },
        }
    }
}
