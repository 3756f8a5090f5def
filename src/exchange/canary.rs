//! A placeholder where it does not belong: at another service, for another agent, or on its way to a host that is nobody's
//! service. It is worth nothing there, but somebody took it along, so the agent is steered by someone else: an event says
//! so, and where the configuration wants it the agent is lent nothing more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::HeaderMap;

use super::plan::Plan;
use super::refusal::Refusal;
use super::story::Exchange;
use crate::audit::Event;
use crate::credential;
use crate::vocab::{AgentName, Authority, Code, Moment, ServiceName};

/// How often the same agent is stopped: once a minute, because what is revoked stays so until the operator lifts it.
const STOPPED_EVERY: Duration = Duration::from_secs(60);

/// Revokes all that an agent is lent. Must not block.
pub type Quarantine = Arc<dyn Fn(&AgentName) + Send + Sync>;

/// Who is stopped, and when that was last. As many as there are agents in the configuration.
#[derive(Default)]
pub(super) struct Canary {
    quarantine: OnceLock<Quarantine>,
    stopped: Mutex<HashMap<AgentName, Moment>>,
}

impl Canary {
    fn is_due(&self, agent: &AgentName, now: Moment) -> bool {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let due = stopped
            .get(agent)
            .is_none_or(|last| now.since(*last) >= STOPPED_EVERY);
        if due {
            stopped.insert(agent.clone(), now);
        }
        due
    }
}

impl Exchange {
    /// How agents are stopped that misuse placeholders; to be said once, before the first request.
    pub fn quarantine_by(&self, quarantine: Quarantine) {
        if self.canary.quarantine.set(quarantine).is_err() {
            tracing::warn!("how agents are stopped was said twice; the first word holds");
        }
    }

    /// What becomes of a request that goes nowhere, because its agent has no such service or no such rule: it is told so,
    /// unless a placeholder of ours, and not that of the service it meant, stands where credentials do.
    #[must_use]
    pub fn goes_nowhere(
        &self,
        (agent, authority): (&AgentName, &Authority),
        (fields, query): (&HeaderMap, Option<&str>),
        refusal: Refusal,
    ) -> Refusal {
        if !matches!(refusal.code, Code::DestinationDenied | Code::PolicyDenied) {
            return refusal;
        }
        let plan = self.plan();
        let own = (agent, refusal.service.as_ref());
        if !credential::strays(fields, query, &plan.placeholders, own) {
            return refusal;
        }
        self.misused(&plan, agent, refusal.service.as_ref(), authority);
        Refusal {
            code: Code::PlaceholderMismatch,
            ..refusal
        }
    }

    /// Notes a misuse, and stops the agent where that is wanted.
    pub(super) fn misused(
        &self,
        plan: &Plan,
        agent: &AgentName,
        service: Option<&ServiceName>,
        authority: &Authority,
    ) {
        let stops = plan.quarantines(agent);
        self.event(Event::PlaceholderMisused {
            agent: agent.clone(),
            service: service.cloned(),
            host: authority.host().to_string(),
            action: if stops { "revoke" } else { "deny" },
        });
        if stops
            && self.canary.is_due(agent, self.clock.now())
            && let Some(quarantine) = self.canary.quarantine.get()
        {
            quarantine(agent);
        }
    }
}
