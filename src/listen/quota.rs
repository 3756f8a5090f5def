//! What one agent may use up, and what a source may try before it is an agent. None of it is shared, so what one uses
//! up is missing to nobody else.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use quick_cache::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::accept::Limits;
use super::bucket::{Bucket, Rate};
use super::crowd::{Source, Ticket};
use crate::agent::{Watch, WatchSettings};
use crate::exchange::Refusal;
use crate::vocab::{AgentName, Code, Moment};

/// Wrong proxy credentials of one source in a second.
const WRONG: Rate = Rate {
    per_second: 5,
    burst: 5,
};
/// Requests without any credential of one source: clients that wait for the challenge begin every connection so.
const ABSENT: Rate = Rate {
    per_second: 50,
    burst: 200,
};
/// Sources remembered. One that is forgotten begins anew.
const SOURCES: usize = 4096;
/// How long a refusal for haste is held back at most: answered at once it would be asked for again at once, and each
/// is a line of the audit file.
const HELD_BACK: Duration = Duration::from_secs(1);

/// One agent's share of everything at the doors.
pub(super) struct Quota {
    connections: Arc<Semaphore>,
    requests: Paced,
    tunnels: Paced,
    /// Leaf certificates.
    pub(super) mints: Bucket,
    /// Looks whether what it does is usual, where the configuration says what is.
    pub(super) watch: ArcSwapOption<Watch>,
    proof: ArcSwap<CancellationToken>,
}

impl Quota {
    fn new(limits: &Limits, watch: Option<Arc<Watch>>) -> Self {
        let rate = |per_second| Rate {
            per_second,
            burst: per_second,
        };
        Self {
            connections: Arc::new(Semaphore::new(limits.per_agent)),
            requests: Paced::new(rate(limits.requests_per_second)),
            tunnels: Paced::new(rate(limits.requests_per_second)),
            mints: Bucket::new(rate(limits.certificates_per_second)),
            watch: ArcSwapOption::new(watch),
            proof: ArcSwap::default(),
        }
    }

    /// Is cancelled when what the agent is known by now counts no more.
    pub(super) fn proof(&self) -> CancellationToken {
        CancellationToken::clone(&self.proof.load())
    }

    /// Counts a request.
    pub(super) fn request(&self, now: Moment) -> Result<(), Haste> {
        self.requests.take(now)
    }

    /// Counts a CONNECT. It has a bucket of its own: one tunnel for one request is what many clients do.
    pub(super) fn tunnel(&self, now: Moment) -> Result<(), Haste> {
        self.tunnels.take(now)
    }
}

/// All quotas, by agent.
pub(super) struct Quotas {
    limits: Limits,
    of: Mutex<HashMap<AgentName, Arc<Quota>>>,
    watches: Mutex<HashMap<AgentName, Arc<Watch>>>,
}

impl Quotas {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            of: Mutex::default(),
            watches: Mutex::default(),
        }
    }

    /// Watches these agents from now on, open tunnels included. What was learned of one stays.
    pub(super) fn watch(&self, settings: &BTreeMap<AgentName, WatchSettings>) {
        let quotas = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *watches);
        for (agent, settings) in settings {
            let watch = match before.get(agent) {
                Some(watch) if watch.settings() == settings => Arc::clone(watch),
                Some(watch) => Arc::new(watch.succeed(settings.clone())),
                None => Arc::new(Watch::new(settings.clone())),
            };
            watches.insert(agent.clone(), watch);
        }
        for (agent, quota) in quotas.iter() {
            quota.watch.store(watches.get(agent).cloned());
        }
    }

    /// Ends what these agents have opened by a proof that counts no more.
    pub(super) fn withdraw(&self, agents: &[AgentName]) {
        let quotas = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        for quota in agents.iter().filter_map(|agent| quotas.get(agent)) {
            quota.proof.swap(Arc::default()).cancel();
        }
    }

    /// The quota of an agent; the same one whenever it is asked for.
    pub(super) fn of(&self, agent: &AgentName) -> Arc<Quota> {
        // Keyed by names from the configuration, so the map cannot grow by what callers send.
        let mut quotas = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(quota) = quotas.get(agent) {
            return quota.clone();
        }
        let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let watch = watches.get(agent).cloned();
        let quota = Arc::new(Quota::new(&self.limits, watch));
        quotas.insert(agent.clone(), quota.clone());
        quota
    }
}

/// Too many in too short a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Haste {
    /// When to come again.
    retry_after: Duration,
    /// How long to hold the answer back.
    pub(super) hold: Duration,
}

impl Haste {
    /// The refusal; `Retry-After` counts whole seconds.
    pub(super) fn refusal(self) -> Refusal {
        let seconds = self.retry_after.as_secs() + 1;
        Refusal {
            retry_after: Some(Duration::from_secs(seconds)),
            ..Refusal::from(Code::AgentRateLimited)
        }
    }
}

/// A bucket whose refusals are held back to the same rate.
struct Paced {
    taken: Bucket,
    refused: Bucket,
}

impl Paced {
    fn new(rate: Rate) -> Self {
        Self {
            taken: Bucket::new(rate),
            refused: Bucket::new(rate),
        }
    }

    fn take(&self, now: Moment) -> Result<(), Haste> {
        self.taken.take(now).map_err(|retry_after| Haste {
            retry_after,
            hold: self.refused.reserve(now, HELD_BACK).unwrap_or(HELD_BACK),
        })
    }
}

/// Failures to say who calls, by source.
pub(super) struct Strangers(Cache<Source, Arc<Failures>>);

struct Failures {
    wrong: Paced,
    absent: Paced,
}

impl Strangers {
    pub(super) fn new() -> Self {
        Self(Cache::new(SOURCES))
    }

    /// Counts a failure. A right credential is never asked about here: behind one address there may be other agents,
    /// and a hostile one must not lock them out. What is left to a guesser is a token's own strength.
    pub(super) fn failed(&self, source: Source, tried: bool, now: Moment) -> Result<(), Haste> {
        let failures = self.0.get(&source).unwrap_or_else(|| {
            let new = Arc::new(Failures {
                wrong: Paced::new(WRONG),
                absent: Paced::new(ABSENT),
            });
            self.0.insert(source, new.clone());
            new
        });
        let bucket = if tried {
            &failures.wrong
        } else {
            &failures.absent
        };
        bucket.take(now)
    }
}

/// What a connection of the proxy port holds while it, or the tunnel that it became, is open.
pub(super) struct Guest {
    /// Where it comes from.
    pub(super) source: Source,
    /// Its address; none at a unix socket.
    pub(super) address: Option<IpAddr>,
    _place: OwnedSemaphorePermit,
    standing: Mutex<Standing>,
}

/// Whose connection it is.
enum Standing {
    /// It has not said so; the ticket is its place among the silent.
    Silent { _ticket: Ticket },
    /// It is this agent's, and counted there.
    Of {
        agent: AgentName,
        _share: OwnedSemaphorePermit,
    },
}

impl Guest {
    pub(super) fn new(
        (source, address): (Source, Option<IpAddr>),
        place: OwnedSemaphorePermit,
        ticket: Ticket,
    ) -> Self {
        Self {
            source,
            address,
            _place: place,
            standing: Mutex::new(Standing::Silent { _ticket: ticket }),
        }
    }

    /// Counts the connection among its agent's, once.
    pub(super) fn claim(&self, agent: &AgentName, quota: &Quota) -> Result<(), Refusal> {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(&*standing, Standing::Of { agent: whose, .. } if whose == agent) {
            return Ok(());
        }
        let share = quota.connections.clone().try_acquire_owned();
        let share = share.map_err(|_| Code::AgentRateLimited)?;
        *standing = Standing::Of {
            agent: agent.clone(),
            _share: share,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::crowd::Crowd;
    use super::*;

    fn limits() -> Limits {
        Limits {
            connections: 10,
            per_agent: 2,
            streams: 3,
            requests_per_second: 4,
            certificates_per_second: 5,
            request_head: 8192,
            write_stall: Duration::from_secs(1),
        }
    }

    fn agent(name: &str) -> AgentName {
        AgentName::new(name).unwrap()
    }

    #[test]
    fn what_one_agent_uses_up_another_still_has() {
        let quotas = Quotas::new(limits());
        let (a, b) = (quotas.of(&agent("a")), quotas.of(&agent("b")));
        let now = Moment(5_000);
        let through = (0..100).filter(|_| a.request(now).is_ok());
        assert_eq!(through.count(), 4);
        assert!(b.request(now).is_ok() && a.tunnel(now).is_ok());
        assert!(quotas.of(&agent("a")).request(now).is_err());
        assert!(quotas.of(&agent("a")).request(Moment(5_250)).is_ok());
    }

    #[test]
    fn refusals_come_at_the_same_pace() {
        let quota = Quota::new(&limits(), None);
        let now = Moment(0);
        let holds: Vec<_> = (0..20)
            .filter_map(|_| Some(quota.request(now).err()?.hold))
            .collect();
        assert_eq!(holds[..4], [Duration::ZERO; 4]);
        assert!(holds.is_sorted());
        assert_eq!(holds.last(), Some(&HELD_BACK));
        let refusal = quota.request(now).unwrap_err().refusal();
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(1)));
    }

    #[test]
    fn guesses_are_counted_by_source_and_challenges_apart() {
        let strangers = Strangers::new();
        let source = |text: &str| Source::of(text.parse().unwrap());
        let (near, far) = (source("10.0.0.1"), source("10.0.0.2"));
        let now = Moment(7_000);
        let tries = (0..50).filter(|_| strangers.failed(near, true, now).is_ok());
        assert_eq!(tries.count(), 5);
        assert!(strangers.failed(near, false, now).is_ok());
        assert!(strangers.failed(far, true, now).is_ok());
        assert!(strangers.failed(near, true, Moment(7_200)).is_ok());
        // The table is bounded, whatever comes.
        for i in 0..20_000_u32 {
            let ip = std::net::Ipv4Addr::from(i).into();
            assert!(strangers.failed(Source::of(ip), true, now).is_ok());
        }
        assert!(strangers.0.len() <= SOURCES);
    }

    #[tokio::test]
    async fn a_connection_counts_once_and_for_one_agent() {
        let quotas = Quotas::new(limits());
        let places = Arc::new(Semaphore::new(10));
        let crowd = Crowd::new(10);
        let source = Source::of([10, 0, 0, 1].into());
        let guest = || {
            let place = places.clone().try_acquire_owned().unwrap();
            Guest::new((source, None), place, crowd.enter(source).0)
        };
        let (a, b) = (agent("a"), agent("b"));
        let (of_a, of_b) = (quotas.of(&a), quotas.of(&b));
        let guests = [guest(), guest(), guest()];
        for _ in 0..3 {
            guests[0].claim(&a, &of_a).unwrap();
            guests[1].claim(&a, &of_a).unwrap();
        }
        guests[2].claim(&a, &of_a).unwrap_err();
        guests[2].claim(&b, &of_b).unwrap();
        // A connection that turns to another agent is that one's.
        guests[0].claim(&b, &of_b).unwrap();
        assert_eq!(of_a.connections.available_permits(), 1);
        drop(guests);
        assert_eq!(of_a.connections.available_permits(), 2);
        assert!(!crowd.cut_oldest());
    }
}
