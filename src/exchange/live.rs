//! Everything that is under way, so that it ends at once when it is no longer allowed.
//!
//! Each exchange has a place here from its decision to its last byte, and a token whose cancellation ends it wherever it
//! is: waiting for the API, in a body, in a WebSocket, in a blind tunnel. The token is a child of the lease's, so a
//! revoked credential and a changed policy end an exchange in the same way. The table is as large as what agents may have
//! open (`limits.per_agent.streams`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Method;
use tokio_util::sync::CancellationToken;

use crate::credential::Lease;
use crate::policy::{Admission, Decision, Facts, Snapshot};
use crate::vocab::{AgentName, Authority, Code, RequestPath, ServiceName};

/// All exchanges of the process.
#[derive(Clone, Default)]
pub(super) struct Live(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    next: u64,
    all: HashMap<u64, Arc<Subject>>,
}

/// What a decision was about.
pub(super) enum About {
    /// A request to this service.
    Request {
        method: Method,
        path: RequestPath,
        service: ServiceName,
    },
    /// A tunnel that is passed through blind.
    Tunnel,
}

/// Whether what this agent does at this service ends now.
pub type Severed = dyn Fn(&ServiceName, &AgentName) -> bool + Send + Sync;

/// Exchanges that are not allowed any more.
pub(super) struct Forbidden(Vec<Arc<Subject>>);

impl Forbidden {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Ends those that are still not allowed.
    pub(super) fn end(self, snapshot: &Snapshot) {
        let still = self.0.iter().filter(|subject| !subject.allowed(snapshot));
        still.for_each(|subject| subject.end(Code::ConfigChanged));
    }
}

struct Subject {
    agent: AgentName,
    authority: Authority,
    about: About,
    end: Mutex<End>,
}

/// How a subject is ended.
#[derive(Default)]
struct End {
    /// Its token, as soon as there is one.
    cancel: CancellationToken,
    /// Why it must not go on: later tokens begin cancelled.
    over: Option<Code>,
}

/// One exchange's place; given up when dropped.
pub(super) struct Ticket {
    live: Live,
    number: u64,
    subject: Arc<Subject>,
}

impl Live {
    /// Takes a place. From here on a judgement reaches this exchange.
    pub(super) fn enter(&self, agent: AgentName, authority: Authority, about: About) -> Ticket {
        let subject = Arc::new(Subject {
            agent,
            authority,
            about,
            end: Mutex::default(),
        });
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        table.all.insert(number, subject.clone());
        drop(table);
        Ticket {
            live: self.clone(),
            number,
            subject,
        }
    }

    /// Judges everything anew: what is not allowed any more.
    pub(super) fn forbidden(&self, snapshot: &Snapshot) -> Forbidden {
        let mut all: Vec<Arc<Subject>> = self.table().all.values().cloned().collect();
        all.retain(|subject| !subject.allowed(snapshot));
        Forbidden(all)
    }

    /// Ends at once what has the operator's revoked credentials: all requests of which this says yes. How many.
    pub(super) fn sever(&self, who: &Severed) -> usize {
        let all: Vec<Arc<Subject>> = self.table().all.values().cloned().collect();
        let all = all.iter().filter(|subject| match &subject.about {
            About::Request { service, .. } => who(service, &subject.agent),
            // No credential of ours goes through it.
            About::Tunnel => false,
        });
        all.map(|subject| subject.end(Code::ServiceRevoked)).count()
    }

    /// Ends at once everything of these agents, blind tunnels too: nobody knows any more that it is theirs.
    pub(super) fn leave(&self, agents: &[AgentName]) {
        let all: Vec<Arc<Subject>> = self.table().all.values().cloned().collect();
        let theirs = all.iter().filter(|subject| agents.contains(&subject.agent));
        theirs.for_each(|subject| subject.end(Code::ConfigChanged));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subject {
    fn allowed(&self, snapshot: &Snapshot) -> bool {
        match &self.about {
            About::Tunnel => {
                let admitted = snapshot.admits(&self.agent, &self.authority);
                matches!(admitted, Ok(Admission::Tunnel))
            }
            About::Request {
                method,
                path,
                service,
            } => {
                let decision = snapshot.decide(&Facts {
                    agent: &self.agent,
                    authority: &self.authority,
                    method: method.as_str(),
                    path,
                });
                // The lease is the service's: another service's permit does not cover it.
                matches!(decision, Decision::Permit(permit) if permit.service() == service)
            }
        }
    }

    fn end(&self, why: Code) {
        let mut end = self.lock();
        end.over = Some(why);
        end.cancel.cancel();
    }

    fn lock(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// The exchange goes on with this lease, and ends with it.
    pub(super) fn bind(&self, lease: &Lease) {
        let mut end = self.subject.lock();
        end.cancel = lease.facts().cancel.child_token();
        if end.over.is_some() {
            end.cancel.cancel();
        }
    }

    /// Why it was ended, if it was.
    pub(super) fn over(&self) -> Option<Code> {
        self.subject.lock().over
    }

    /// What ends it.
    pub(super) fn cancel(&self) -> CancellationToken {
        self.subject.lock().cancel.clone()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.live.table().all.remove(&self.number);
    }
}
