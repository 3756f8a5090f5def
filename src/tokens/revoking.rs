//! Tokens that the operator has revoked, on their way to their issuers (RFC 7009): tried until the issuer says yes, or
//! until they are over by themselves.
//!
//! One task a grant. Nothing else has the tokens any more, so the end of the process is the end of trying: each then has one
//! more try.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::issuer::{Client, Spent, Tried};
use super::journal::{Journal, Note};
use crate::vocab::{Clock, GrantId, Moment};

/// Most grants whose tokens are under way.
const GRANTS_MAX: usize = 4096;
/// Most requests at a time to one issuer. One that hangs holds up no other.
const AT_ONCE: usize = 16;
/// Longest time for one try.
const TRY_MAX: Duration = Duration::from_secs(10);
/// The first pause after a try that failed; each later one is twice as long, up to the second of these.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A refresh token does not say when it ends. No longer than this.
const REFRESH_LIFE: Duration = Duration::from_hours(24);

/// How the revocation of one token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The issuer says that it is over.
    Confirmed,
    /// It came to its end by itself, or it was tried for a day.
    GivenUp,
    /// The issuer takes no revocations of such tokens: it stays good there until it expires.
    Impossible,
    /// It is tried again.
    Pending,
}

/// How the tokens of a grant stand: their kind, and how far it has come with them.
pub(super) type Fates = Vec<(&'static str, Fate)>;

/// All of them.
#[derive(Default)]
pub(super) struct Revoking {
    jobs: JoinSet<()>,
    /// By the URL of the issuer; as many as have tokens under way.
    rooms: HashMap<String, Arc<Semaphore>>,
    closing: CancellationToken,
}

/// What one task works on.
struct Job {
    client: Arc<Client>,
    grant: GrantId,
    tokens: Vec<(Spent, Moment)>,
    fates: watch::Sender<Fates>,
    journal: Arc<dyn Journal>,
    clock: Clock,
    /// It was told that this one waits.
    told: bool,
}

impl Revoking {
    /// Begins with these tokens of one grant, in this order; each with the moment at which it is over by itself.
    pub(super) fn begin(
        &mut self,
        (client, grant): (Arc<Client>, GrantId),
        tokens: Vec<(Spent, Option<Moment>)>,
        journal: &Arc<dyn Journal>,
        clock: &Clock,
    ) -> watch::Receiver<Fates> {
        while self.jobs.try_join_next().is_some() {}
        let now = clock.now();
        let tokens = tokens.into_iter();
        let tokens: Vec<_> = tokens
            .map(|(spent, end)| (spent, end.unwrap_or(now + REFRESH_LIFE)))
            .collect();
        let full = self.jobs.len() >= GRANTS_MAX;
        let first = if full { Fate::GivenUp } else { Fate::Pending };
        let fates = tokens.iter().map(|(spent, _)| (spent.hint(), first));
        let (fates, seen) = watch::channel(fates.collect());
        if full {
            tracing::error!(%grant, "too many tokens wait for their revocation; these are only forgotten");
            return seen;
        }
        // A room that no task has is empty.
        self.rooms.retain(|_, room| Arc::strong_count(room) > 1);
        let url = client.settings().issuer.url.clone();
        let room = self.rooms.entry(url);
        let room = Arc::clone(room.or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE))));
        let job = Job {
            client,
            grant,
            tokens,
            fates,
            journal: Arc::clone(journal),
            clock: clock.clone(),
            told: false,
        };
        self.jobs.spawn(job.run(room, self.closing.clone()));
        seen
    }

    /// The process ends: each has one more try. The caller bounds the time.
    pub(super) async fn end(&mut self) {
        self.closing.cancel();
        while self.jobs.join_next().await.is_some() {}
    }

    /// That time is over: what is still under way is told as unconfirmed.
    pub(super) async fn cut(&mut self) {
        self.jobs.shutdown().await;
    }
}

/// However it ends, what was not confirmed is told.
impl Drop for Job {
    fn drop(&mut self) {
        for (at, (spent, _)) in self.tokens.iter().enumerate() {
            if self.fate(at) == Some(Fate::Pending) {
                self.note(spent, false);
            }
        }
    }
}

impl Job {
    async fn run(mut self, room: Arc<Semaphore>, closing: CancellationToken) {
        let mut pause = PAUSE_FIRST;
        loop {
            let last = closing.is_cancelled();
            let asked = self.pass(&room).await;
            let waits = self.fates.borrow().iter().any(|(_, f)| *f == Fate::Pending);
            if !waits || last {
                break;
            }
            let wait = asked.unwrap_or(pause).max(pause);
            pause = (pause * 2).min(PAUSE_MAX);
            // The end of the process cuts the wait and not the try.
            let _ended = closing.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
    }

    /// Tries each token that waits once. How long the issuer asks us to stay away.
    async fn pass(&mut self, room: &Semaphore) -> Option<Duration> {
        let mut away = None;
        for (at, (spent, end)) in self.tokens.iter().enumerate() {
            if self.fate(at) != Some(Fate::Pending) {
                continue;
            }
            let fate = if self.clock.now() >= *end {
                Fate::GivenUp
            } else {
                let Ok(_place) = room.acquire().await else {
                    return None;
                };
                let told = self.client.try_to_revoke(spent, self.journal.as_ref());
                match tokio::time::timeout(TRY_MAX, told).await {
                    Ok(Tried::Confirmed) => Fate::Confirmed,
                    Ok(Tried::Impossible) => Fate::Impossible,
                    Ok(Tried::Later(wait)) => {
                        away = away.max(wait);
                        Fate::Pending
                    }
                    Err(_) => Fate::Pending,
                }
            };
            if fate == Fate::Pending {
                continue;
            }
            self.note(spent, fate == Fate::Confirmed);
            self.fates.send_modify(|fates| {
                if let Some((_, of)) = fates.get_mut(at) {
                    *of = fate;
                }
            });
        }
        self.tell();
        away
    }

    fn fate(&self, at: usize) -> Option<Fate> {
        self.fates.borrow().get(at).map(|(_, fate)| *fate)
    }

    /// Says once that something waits.
    fn tell(&mut self) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        for (kind, fate) in self.fates.borrow().iter() {
            if *fate == Fate::Pending {
                tracing::warn!(grant = %self.grant, token = kind, "the issuer was not reached; the revocation is tried again");
                let grant = &self.grant;
                self.journal.note(&Note::RevocationPending { grant, kind });
            }
        }
    }

    fn note(&self, spent: &Spent, confirmed: bool) {
        self.journal.note(&Note::Revoked {
            grant: &self.grant,
            kind: spent.hint(),
            lease: spent.lease(),
            confirmed,
        });
    }
}

#[cfg(test)]
mod tests;
