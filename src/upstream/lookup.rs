//! Names to addresses, in a bounded number at a time.
//!
//! The system's resolver holds a thread until it has an answer or gives up, which may be long after we stopped waiting.
//! Below a wildcard an agent chooses names, and their name server may be its own and silent: so every asker has a
//! share, and those who only answer for themselves cannot take the issuers' one.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::error::UpstreamError;
use crate::credential::BoxFuture;
use crate::vocab::AgentName;
use crate::vocab::variant::overhear;

/// Longest wait for a turn and for the resolver's answer together, within the deadline of the whole.
const LOOKUP_MAX: Duration = Duration::from_secs(3);
/// Lookups of one asker at a time, those included whose answer nobody waits for any more.
const PER_ASKER: usize = 16;
/// Lookups of all agents and tunnels at a time. The runtime has 512 threads for blocking work.
const IN_ALL: usize = 128;
/// Answers of one lookup that are looked at. A DNS message of 64 KiB has room for some 4,000 addresses.
const ANSWERS_MAX: usize = 4096;

/// Where addresses come from. One call is one question: implementations must not ask again by themselves later.
pub trait Resolve: Send + Sync {
    /// All addresses of a name, the preferred one first.
    fn lookup<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn lookup<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = lookup_host((name, 0)).await?;
            Ok(found.take(ANSWERS_MAX).map(|socket| socket.ip()).collect())
        })
    }
}

/// On whose behalf a name is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Asker {
    Agent(AgentName),
    Issuers,
    Tunnels,
}

/// The resolver, and who is asking it.
pub(super) struct Lookups {
    resolver: Arc<dyn Resolve>,
    /// Tests are less patient.
    patience: Duration,
    all: Arc<Semaphore>,
    /// As many as there are agents in the configuration, and two.
    shares: Mutex<HashMap<Asker, Arc<Semaphore>>>,
}

impl Lookups {
    pub(super) fn new(resolver: Arc<dyn Resolve>) -> Self {
        Self {
            resolver,
            patience: LOOKUP_MAX,
            all: Arc::new(Semaphore::new(IN_ALL)),
            shares: Mutex::default(),
        }
    }

    /// The addresses of a name, asked for once.
    pub(super) async fn addresses(
        &self,
        asker: &Asker,
        name: &str,
    ) -> Result<Vec<IpAddr>, UpstreamError> {
        timeout(self.patience, self.ask(asker, name))
            .await
            .map_err(|_| UpstreamError::DnsTimeout)?
    }

    async fn ask(&self, asker: &Asker, name: &str) -> Result<Vec<IpAddr>, UpstreamError> {
        let share = self.share(asker);
        let own = share.acquire_owned().await;
        let of_all = match asker {
            Asker::Issuers => None,
            Asker::Agent(_) | Asker::Tunnels => Some(self.all.clone().acquire_owned().await),
        };
        let resolver = self.resolver.clone();
        let name = name.to_owned();
        // A task of its own: when the caller's patience ends the thread is still held, and so is the place.
        let asked = tokio::spawn(async move {
            let _places = (own, of_all);
            let found = resolver.lookup(&name).await;
            found.inspect_err(|error| overhear(|| format!("{name}: {error}")))
        });
        let found = asked.await.map_err(|_| UpstreamError::Dns)?;
        found.map_err(|_| UpstreamError::Dns)
    }

    fn share(&self, asker: &Asker) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let share = shares
            .entry(asker.clone())
            .or_insert_with(|| Arc::new(Semaphore::new(PER_ASKER)));
        share.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Never answers, and counts who waits.
    #[derive(Default)]
    struct Silent(AtomicUsize);

    impl Resolve for Silent {
        fn lookup<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
            if name == "live.test" {
                return Box::pin(async { Ok(vec![IpAddr::from([192, 0, 2, 1])]) });
            }
            self.0.fetch_add(1, Ordering::SeqCst);
            Box::pin(std::future::pending())
        }
    }

    fn hasty(silent: &Arc<Silent>) -> Arc<Lookups> {
        let mut lookups = Lookups::new(silent.clone());
        lookups.patience = Duration::from_millis(300);
        Arc::new(lookups)
    }

    fn agent(name: &str) -> Asker {
        Asker::Agent(AgentName::new(name).unwrap())
    }

    #[tokio::test]
    async fn a_silent_name_server_holds_its_askers_share_and_no_more() {
        let silent = Arc::new(Silent::default());
        let lookups = hasty(&silent);
        let dead: Vec<_> = (0..200)
            .map(|i| {
                let lookups = lookups.clone();
                tokio::spawn(
                    async move { lookups.addresses(&agent("a"), &format!("h{i}.test")).await },
                )
            })
            .collect();
        for outcome in dead {
            assert_eq!(outcome.await.unwrap(), Err(UpstreamError::DnsTimeout));
        }
        // Nobody waits any more, and the threads are still held.
        assert_eq!(silent.0.load(Ordering::SeqCst), PER_ASKER);
        let again = lookups.addresses(&agent("a"), "live.test").await;
        assert_eq!(again, Err(UpstreamError::DnsTimeout));
        for other in [agent("b"), Asker::Issuers, Asker::Tunnels] {
            assert!(lookups.addresses(&other, "live.test").await.is_ok());
        }
    }

    #[tokio::test]
    async fn all_agents_together_have_an_end_and_issuers_do_not_feel_it() {
        let silent = Arc::new(Silent::default());
        let lookups = hasty(&silent);
        let crowd: Vec<_> = (0..400)
            .map(|i| {
                let lookups = lookups.clone();
                let who = agent(&format!("a{}", i % 25));
                tokio::spawn(async move { lookups.addresses(&who, "dead.test").await })
            })
            .collect();
        for outcome in crowd {
            assert_eq!(outcome.await.unwrap(), Err(UpstreamError::DnsTimeout));
        }
        assert_eq!(silent.0.load(Ordering::SeqCst), IN_ALL);
        assert!(
            lookups
                .addresses(&Asker::Issuers, "live.test")
                .await
                .is_ok()
        );
    }
}
