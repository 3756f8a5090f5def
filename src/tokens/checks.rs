//! Asks after tokens in use. When, and what follows, `health` decides; here it is done.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};

use super::health::{Health, Judge, Look, Order, Report, Ruling, Subject, Verdict};
use super::issuer::{Client, Token};
use super::journal::{Journal, Note};
use super::keeper::Key;
use super::probe::{Probed, Shown};
use crate::vocab::{Moment, ScopeSet};

/// Longest time for all judges of one token: their own bounds, and a little.
const LIMIT: Duration = Duration::from_secs(55);

/// What the last check of a token in use said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkup {
    /// `introspection` or `probe`; empty where nobody answered.
    pub by: &'static str,
    /// `active`, `inactive` or `unknown`.
    pub outcome: &'static str,
    /// How long ago that was.
    pub ago: Duration,
}

/// All tokens in use, and the checks that are under way.
pub(super) struct Checks {
    health: Health,
    held: BTreeMap<Key, Held>,
    under_way: JoinSet<Vec<(Judge, Verdict)>>,
    /// Which order a task is.
    errands: HashMap<Id, Order>,
}

/// A token in use. As many as the keeper has entries.
struct Held {
    lease: u64,
    client: Arc<Client>,
    scopes: ScopeSet,
    shown: Arc<Shown>,
}

impl Checks {
    /// Nothing to ask after.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            health: Health::new(seed),
            held: BTreeMap::new(),
            under_way: JoinSet::new(),
            errands: HashMap::new(),
        }
    }

    /// A token came into use.
    pub(super) fn published(
        &mut self,
        now: Moment,
        client: &Arc<Client>,
        (key, lease): (&Key, u64),
        token: &Token,
    ) {
        let settings = client.settings();
        self.health.published(
            now,
            Subject {
                key: key.clone(),
                lease,
                interval: settings.health.interval,
                issuer: settings.issuer.url.as_str().into(),
            },
        );
        let held = Held {
            lease,
            client: Arc::clone(client),
            scopes: token.scopes.clone(),
            shown: Arc::new(Shown::of(token)),
        };
        self.held.insert(key.clone(), held);
    }

    /// This token, and no other, went out of use.
    pub(super) fn dropped(&mut self, key: &Key, lease: u64) {
        self.health.dropped(key, lease);
        if self.held.get(key).is_some_and(|held| held.lease == lease) {
            self.held.remove(key);
        }
    }

    /// Nothing is kept of this entry any more.
    pub(super) fn forgotten(&mut self, key: &Key) {
        self.health.forgotten(key);
        self.held.remove(key);
    }

    /// An entry has another name.
    pub(super) fn moved(&mut self, from: &Key, into: &Key) {
        self.health.moved(from, into);
        if let Some(held) = self.held.remove(from) {
            self.held.insert(into.clone(), held);
        }
    }

    /// Everything ends: no token stays in memory for this.
    pub(super) fn clear(&mut self) {
        self.under_way.abort_all();
        self.held.clear();
    }

    /// When there is something to be asked next.
    pub(super) fn wake(&self) -> Option<Moment> {
        self.health.wake()
    }

    /// Begins the checks that are due. `used`: when each token was last lent.
    pub(super) fn begin(
        &mut self,
        now: Moment,
        used: &BTreeMap<Key, Moment>,
        journal: &Arc<dyn Journal>,
    ) {
        let Self { health, held, .. } = self;
        let look = |key: &Key| Look {
            used: used.get(key).copied().unwrap_or_default(),
            judges: judges(held, key),
        };
        for order in health.orders(now, look) {
            let Some(held) = held.get(&order.key) else {
                continue;
            };
            let client = Arc::clone(&held.client);
            let shown = Arc::clone(&held.shown);
            let journal = Arc::clone(journal);
            let asked = order.clone();
            let task = self.under_way.spawn(async move {
                let asking = ask(&client, &shown, &asked, &journal);
                tokio::time::timeout(LIMIT, asking)
                    .await
                    .unwrap_or_default()
            });
            self.errands.insert(task.id(), order);
        }
    }

    /// The next check that has ended; `None` at once where none is under way.
    pub(super) async fn next_done(&mut self) -> Option<Ended> {
        self.under_way.join_next_with_id().await
    }

    /// What a check that has ended leads to.
    pub(super) fn ended(&mut self, now: Moment, ended: Ended) -> Option<(Report, Ruling)> {
        // A check that panicked is one without an answer.
        let (id, verdicts) = match ended {
            Ok((id, verdicts)) => (id, verdicts),
            Err(error) => (error.id(), Vec::new()),
        };
        let order = self.errands.remove(&id)?;
        let report = Report {
            key: order.key,
            lease: order.lease,
            issuer: order.issuer,
            verdicts,
        };
        let ruling = self.health.reported(now, &report)?;
        Some((report, ruling))
    }
}

/// A task that has ended.
pub(super) type Ended = Result<(Id, Vec<(Judge, Verdict)>), JoinError>;

/// Who can be asked about this token: its issuer, and then the API where this is the least of the grant's tokens that its
/// probe can be asked with.
fn judges(held: &BTreeMap<Key, Held>, key: &Key) -> Vec<Judge> {
    let Some(this) = held.get(key) else {
        return Vec::new();
    };
    let mut judges = Vec::new();
    if this.client.settings().health.introspection {
        judges.push(Judge::Issuer);
    }
    if let Some(probe) = this.client.probe() {
        let of_grant = |other: &Key| other.edition == key.edition && other.grant == key.grant;
        let fitting = held
            .iter()
            .filter(|(other, held)| of_grant(other) && probe.scopes().is_within(&held.scopes));
        let least = fitting.min_by_key(|(other, held)| (held.scopes.iter().count(), *other));
        if least.is_some_and(|(other, _)| other == key) {
            judges.push(Judge::Api);
        }
    }
    judges
}

/// Asks the judges of an order, until one says no.
async fn ask(
    client: &Client,
    shown: &Shown,
    order: &Order,
    journal: &Arc<dyn Journal>,
) -> Vec<(Judge, Verdict)> {
    let journal = journal.as_ref();
    let mut verdicts = Vec::new();
    for judge in &order.judges {
        let Probed { verdict, proofs } = match judge {
            Judge::Issuer => Probed {
                verdict: client.introspect(&shown.access, journal).await,
                proofs: Vec::new(),
            },
            Judge::Api => match client.probe() {
                Some(probe) => probe.ask(shown).await,
                None => continue,
            },
        };
        for _ in &proofs {
            journal.note(&Note::Proof {
                service: &order.key.grant.service,
            });
        }
        if verdict != Verdict::Unsupported {
            journal.note(&Note::Checked {
                grant: &order.key.grant,
                lease: order.lease,
                by: judge.as_str(),
                outcome: verdict.as_str(),
                proofs: &proofs,
            });
        }
        verdicts.push((*judge, verdict));
        if verdict == Verdict::Inactive {
            break;
        }
    }
    verdicts
}
