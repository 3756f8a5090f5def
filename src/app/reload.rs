//! A changed configuration comes into force without a restart: as a whole, or not at all.
//!
//! Whatever can fail is done before anything is changed. Then the tokens' settings, the callers, and last the policy
//! change, each by one swap; a request has one generation, and what is under way and no longer allowed ends (§3.13-4 of
//! the architecture). Listeners, CA, store, limits and the rest of the process stay as they are.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};

use super::build::{placeholders, seats};
use super::environment::ProxyName;
use super::running::Seat;
use crate::admin::Reload;
use crate::agent::Agents;
use crate::audit::{Audit, Event};
use crate::ca::{Leaves, TrustFiles};
use crate::config::Plan;
use crate::credential::InstanceKey;
use crate::exchange::{Exchange, PlanError};
use crate::listen::Doors;
use crate::metrics::Metrics;
use crate::policy::Snapshot;
use crate::tokens::{self, SetupError};
use crate::upstream::Upstream;
use crate::vocab::Generation;

/// Most wishes of operators that wait for their turn.
const WISHES_MAX: usize = 8;

/// Why a configuration is not taken. The one before it stays in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It has a host for which the CA of this process may not sign.
    #[error("service {0}: the CA that was made at the start is for other hosts; restart tokenward")]
    Ca(crate::vocab::ServiceName),
    /// A key has changed that a running proxy cannot change.
    #[error("{0} has changed, which a running proxy cannot follow; restart tokenward")]
    Fixed(&'static str),
    /// The rules, which the configuration's check had accepted.
    #[error("policy: {0}")]
    Policy(String),
    /// A service that cannot be reached as configured.
    #[error(transparent)]
    Service(#[from] PlanError),
    /// A credential that cannot be used.
    #[error("tokens: {0}")]
    Tokens(#[from] SetupError),
}

/// What a reload did.
pub struct Reloaded {
    /// The number of the policy that is in force now.
    pub generation: Generation,
    /// What each agent is given now.
    pub seats: Vec<Seat>,
    /// Exchanges that end now because they are not allowed any more.
    pub ended: usize,
}

/// The operator's wish that the configuration be read again. It is answered once.
pub struct ReloadWish(oneshot::Sender<Result<u64, Vec<String>>>);

impl ReloadWish {
    /// Says what came of it: the generation that is in force now, or everything that is wrong, line by line.
    pub fn answer(self, outcome: Result<u64, Vec<String>>) {
        // The operator may have gone.
        let _gone = self.0.send(outcome);
    }
}

/// Where the operator's wishes come in. Whoever read the configuration at the start reads it again.
pub(super) struct ReloadWishes(Mutex<mpsc::Receiver<ReloadWish>>);

impl ReloadWishes {
    /// The place, and how the operator's socket reaches it.
    pub(super) fn new() -> (Self, Reload) {
        let (wish, wishes) = mpsc::channel(WISHES_MAX);
        let reload: Reload = Box::new(move || {
            let wish = wish.clone();
            Box::pin(async move {
                let (answer, outcome) = oneshot::channel();
                let sent = wish.send(ReloadWish(answer)).await;
                let ends = |_| vec!["the proxy is at its end".to_owned()];
                sent.map_err(|_| vec!["the proxy is at its end".to_owned()])?;
                outcome.await.unwrap_or_else(|gone| Err(ends(gone)))
            })
        });
        (Self(Mutex::new(wishes)), reload)
    }

    /// The next one; never, once there can be none.
    pub(super) async fn next(&self) -> ReloadWish {
        match self.0.lock().await.recv().await {
            Some(wish) => wish,
            None => std::future::pending().await,
        }
    }
}

/// Takes new configurations into force.
pub(super) struct Reloader {
    pub(super) exchange: Arc<Exchange>,
    pub(super) doors: Arc<Doors>,
    pub(super) door: Arc<tokens::Door>,
    pub(super) leaves: Arc<Leaves>,
    pub(super) upstream: Upstream,
    pub(super) audit: Audit,
    pub(super) metrics: Metrics,
    pub(super) instance: InstanceKey,
    pub(super) proxy: Option<ProxyName>,
    pub(super) trust: TrustFiles,
    /// What is in force; held while it is replaced, so that two reloads do not cross.
    pub(super) plan: Mutex<Plan>,
}

impl Reloader {
    /// Takes `next` into force.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing has changed then.
    pub(super) async fn reload(&self, next: Plan) -> Result<Reloaded, ReloadError> {
        let mut current = self.plan.lock().await;
        let outcome = self.follow(&current, next).await;
        match outcome {
            Ok((plan, reloaded)) => {
                *current = plan;
                let generation = reloaded.generation;
                self.metrics.config_generation(generation.0);
                self.audit.event(Event::ConfigReloaded { generation });
                Ok(reloaded)
            }
            Err(error) => {
                self.refused(current.policy.generation);
                Err(error)
            }
        }
    }

    /// Notes a configuration that could not even be read.
    pub(super) async fn note_unreadable(&self) {
        let current = self.plan.lock().await;
        self.refused(current.policy.generation);
    }

    fn refused(&self, generation: Generation) {
        self.metrics.reload_failure();
        self.audit.event(Event::ConfigRefused { generation });
    }

    async fn follow(
        &self,
        current: &Plan,
        mut next: Plan,
    ) -> Result<(Plan, Reloaded), ReloadError> {
        if let Some(key) = current.fixed_in(&next) {
            return Err(ReloadError::Fixed(key));
        }
        let generation = Generation(current.policy.generation.0 + 1);
        next.policy.generation = generation;
        let snapshot = Snapshot::build(next.policy.clone()).map_err(|errors| {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            ReloadError::Policy(errors.join("; "))
        })?;
        for service in next.policy.intercepted() {
            let bases = service.hosts.iter().map(|pattern| pattern.base());
            if bases.into_iter().any(|base| !self.leaves.permits(base)) {
                return Err(ReloadError::Ca(service.name.clone()));
            }
        }
        let seats = seats(
            &snapshot,
            &next,
            &self.instance,
            self.proxy.as_ref(),
            &self.trust,
        );
        let placeholders = placeholders(&self.instance, &snapshot, &next.services);
        let services = next.services.clone();
        let streams = next.limits.agent_streams;
        let plan = self.exchange.plan();
        let plan = plan.succeed(snapshot, services, placeholders, streams, &self.upstream)?;
        let plan = plan.quarantining(next.quarantined.clone());
        let agents = Agents::new(next.agents.clone());
        // The last that can fail. Permits of before are good for every credential that stays the same.
        self.door.replace(next.tokens.clone(), generation).await?;
        self.doors.replace_agents(agents);
        let ended = self.exchange.replace(plan);
        // Other credentials open other sessions.
        let changed = self.door.changed_in(generation);
        self.exchange
            .forget_sessions(|service, _| changed.contains(service));
        let reloaded = Reloaded {
            generation,
            seats,
            ended,
        };
        Ok((next, reloaded))
    }
}
