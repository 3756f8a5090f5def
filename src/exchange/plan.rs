//! One policy generation as the exchange uses it: the snapshot, and beside it what each service needs to be carried.
//! Swapped whole, so no request sees half of a reload.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::clocks::Clocks;
use super::cookies::{Jars, Shelf};
use super::settings::{ServiceSettings, SessionCookies};
use crate::credential::{Placeholders, Slot};
use crate::policy::{Permit, Snapshot};
use crate::upstream::{Endpoint, EndpointError, Upstream};
use crate::vocab::{AgentName, Code, ServiceName};

/// One generation of everything that judges and carries requests.
pub struct Plan {
    pub(super) snapshot: Snapshot,
    services: HashMap<ServiceName, Service>,
    pub(super) placeholders: Placeholders,
    shares: HashMap<AgentName, Arc<Semaphore>>,
    shelf: Shelf,
    /// Agents that are stopped where they misuse a placeholder.
    quarantined: BTreeSet<AgentName>,
}

/// One service of a generation.
pub(super) struct Service {
    pub(super) settings: ServiceSettings,
    pub(super) endpoint: Arc<Endpoint>,
    /// The clocks of the API's origins.
    pub(super) clocks: Arc<Clocks>,
    /// The sessions that its credential opened; `None`: none are kept.
    pub(super) jars: Option<Arc<Jars>>,
}

/// A service that cannot be reached as configured.
#[derive(Debug, thiserror::Error)]
#[error("service {service}: {why}")]
pub struct PlanError {
    service: ServiceName,
    why: EndpointError,
}

impl Plan {
    /// Compiles a generation. `streams` is how many exchanges one agent may have open at once.
    ///
    /// # Errors
    /// A service whose additional roots cannot be used.
    pub fn new(
        snapshot: Snapshot,
        services: Vec<ServiceSettings>,
        placeholders: Placeholders,
        streams: usize,
        upstream: &Upstream,
    ) -> Result<Self, PlanError> {
        Self::build(None, (snapshot, services, placeholders), streams, upstream)
    }

    /// The generation after this one. A service that is reached as before keeps its connections and what is known about
    /// its clock, and what agents have open counts on.
    ///
    /// # Errors
    /// A service whose additional roots cannot be used; nothing has changed then.
    pub fn succeed(
        &self,
        snapshot: Snapshot,
        services: Vec<ServiceSettings>,
        placeholders: Placeholders,
        streams: usize,
        upstream: &Upstream,
    ) -> Result<Self, PlanError> {
        let parts = (snapshot, services, placeholders);
        Self::build(Some(self), parts, streams, upstream)
    }

    fn build(
        old: Option<&Self>,
        (snapshot, services, placeholders): (Snapshot, Vec<ServiceSettings>, Placeholders),
        streams: usize,
        upstream: &Upstream,
    ) -> Result<Self, PlanError> {
        let shelf = old.map(|old| old.shelf.clone()).unwrap_or_default();
        let mut compiled = HashMap::new();
        for settings in services {
            let service = settings.name.clone();
            let before = old.and_then(|old| old.services.get(&service));
            let keeps =
                settings.slot != Slot::Nothing && settings.session_cookies == SessionCookies::Keep;
            let jars = keeps.then(|| {
                let same = before.filter(|before| before.settings == settings);
                let same =
                    same.filter(|_| old.is_some_and(|old| old.judges_as(&snapshot, &service)));
                let jars = same.and_then(|before| before.jars.clone());
                jars.unwrap_or_else(|| Arc::new(Jars::new(shelf.clone())))
            });
            let before = before.filter(|before| before.settings.target == settings.target);
            let (endpoint, clocks) = match before {
                Some(before) => (before.endpoint.clone(), before.clocks.clone()),
                None => {
                    let endpoint = upstream.endpoint(&settings.target);
                    let endpoint = endpoint.map_err(|why| PlanError {
                        service: service.clone(),
                        why,
                    })?;
                    (endpoint, Arc::default())
                }
            };
            compiled.insert(
                service,
                Service {
                    settings,
                    endpoint,
                    clocks,
                    jars,
                },
            );
        }
        let share = |agent: &AgentName| {
            let before = old.and_then(|old| old.shares.get(agent)).cloned();
            let share = before.unwrap_or_else(|| Arc::new(Semaphore::new(streams)));
            (agent.clone(), share)
        };
        let shares = snapshot.agents().map(share).collect();
        Ok(Self {
            snapshot,
            services: compiled,
            placeholders,
            shares,
            shelf,
            quarantined: BTreeSet::new(),
        })
    }

    /// The same plan, under which these agents are stopped where they misuse a placeholder.
    #[must_use]
    pub fn quarantining(mut self, agents: BTreeSet<AgentName>) -> Self {
        self.quarantined = agents;
        self
    }

    pub(super) fn quarantines(&self, agent: &AgentName) -> bool {
        self.quarantined.contains(agent)
    }

    /// Whether another policy says the same of a service.
    fn judges_as(&self, other: &Snapshot, service: &ServiceName) -> bool {
        let of = |snapshot: &Snapshot| snapshot.services().find(|s| s.name == *service).cloned();
        of(&self.snapshot) == of(other)
    }

    /// Whether an agent may use a service at all.
    pub(super) fn reaches(&self, agent: &AgentName, service: &ServiceName) -> bool {
        let mut services = self.snapshot.services_of(agent);
        services.any(|judged| judged.name == *service)
    }

    /// Empties the cookie jars of whom `who` says yes: what opened those sessions is over.
    pub(super) fn empty_jars(&self, who: impl Fn(&ServiceName, &AgentName) -> bool) {
        for (name, service) in &self.services {
            if let Some(jars) = &service.jars {
                jars.empty(|agent| who(name, agent));
            }
        }
    }

    /// The policy of this generation.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(super) fn service(&self, permit: &Permit) -> Result<&Service, Code> {
        self.services.get(permit.service()).ok_or(Code::Internal)
    }

    /// One exchange's share of what its agent may have open.
    pub(super) fn share(&self, agent: &AgentName) -> Result<OwnedSemaphorePermit, Code> {
        let share = self.shares.get(agent).ok_or(Code::Internal)?;
        share
            .clone()
            .try_acquire_owned()
            .map_err(|_| Code::AgentRateLimited)
    }
}
