//! One line for one request: the audit record, and the metrics from the same facts.
//!
//! A [`Line`] is opened before anything is decided and closes itself when it is dropped, so an agent that hangs up, a
//! panic and a finished download all end in exactly one record.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Request, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::arrival::Door;
use super::body::Progress;
use super::live::Ticket;
use super::refusal::Refusal;
use super::respond::Form;
use crate::audit::{Record, Verdict};
use crate::credential::{Lease, Seen};
use crate::metrics::Metrics;
use crate::policy::Permit;
use crate::proof::Jti;
use crate::vocab::{AgentName, Authority, Code, RequestId, ServiceName, Stopwatch};

/// The open record of one request.
pub struct Line {
    record: Record,
    metrics: Metrics,
    id: RequestId,
    form: Form,
    begun: Stopwatch,
    /// Time spent waiting for others: the issuer, the upstream, the agent's own body.
    waited: Duration,
    upstream: Option<Duration>,
    overhead: Option<Duration>,
    progress: Arc<Progress>,
    /// This exchange's share of what its agent may have open.
    share: Option<Arc<OwnedSemaphorePermit>>,
    /// Its place among all that is under way.
    ticket: Option<Ticket>,
}

impl Line {
    /// The line of a request whose head could not be read.
    pub(super) fn unread(record: Record, metrics: Metrics, id: RequestId) -> Self {
        let request = Request::new(());
        let mut line = Self::open(
            record,
            metrics,
            id,
            Form::plain(request.version()),
            &request,
        );
        let facts = line.record.facts();
        facts.method.clear();
        facts.path.clear();
        line
    }

    pub(super) fn open<B>(
        record: Record,
        metrics: Metrics,
        id: RequestId,
        form: Form,
        request: &Request<B>,
    ) -> Self {
        let mut line = Self {
            record,
            metrics,
            id,
            form,
            begun: Stopwatch::start(),
            waited: Duration::ZERO,
            upstream: None,
            overhead: None,
            progress: Arc::new(Progress::default()),
            share: None,
            ticket: None,
        };
        let facts = line.record.facts();
        facts.method = request.method().as_str().to_owned();
        facts.path = request.uri().path().to_owned();
        line
    }

    /// Notes where the request came in and where it wants to go.
    pub fn at(&mut self, door: Door, agent: Option<&AgentName>, authority: Option<&Authority>) {
        let facts = self.record.facts();
        facts.listener = door.as_str();
        facts.agent = agent.cloned();
        facts.host = authority.map(Authority::text).unwrap_or_default();
    }

    /// The path held what no line may hold; it is shown like this.
    pub(super) fn shows_path(&mut self, path: String) {
        self.record.facts().path = path;
    }

    /// The name of the host held what no line may hold; this word stands for all of it.
    pub(super) fn shows_host(&mut self, word: &str) {
        word.clone_into(&mut self.record.facts().host);
    }

    pub(super) fn door(&mut self) -> &'static str {
        self.record.facts().listener
    }

    /// Keeps the agent's share taken until the exchange has ended.
    pub(super) fn hold(&mut self, share: OwnedSemaphorePermit) {
        self.share = Some(Arc::new(share));
    }

    /// Keeps the exchange where judgements reach it until it has ended.
    pub(super) fn enter(&mut self, ticket: Ticket) {
        self.ticket = Some(ticket);
    }

    /// What ends the exchange before its end.
    pub(super) fn cancel(&self) -> CancellationToken {
        let ticket = self.ticket.as_ref();
        ticket.map_or_else(CancellationToken::new, Ticket::cancel)
    }

    /// Why it was ended before its end, if it was.
    pub(super) fn over(&self) -> Option<Code> {
        self.ticket.as_ref().and_then(Ticket::over)
    }

    /// The agent's share, for what outlives the line.
    pub(super) fn place(&self) -> Option<&Arc<OwnedSemaphorePermit>> {
        self.share.as_ref()
    }

    /// Who asked, and which service, as far as that is known.
    pub(super) fn parties(&mut self) -> (Option<AgentName>, Option<ServiceName>) {
        let facts = self.record.facts();
        (facts.agent.clone(), facts.service.clone())
    }

    pub(super) fn id(&self) -> RequestId {
        self.id
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    pub(super) fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    pub(super) fn permitted(&mut self, permit: &Permit) {
        let facts = self.record.facts();
        facts.service = Some(permit.service().clone());
        facts.rule = Some(permit.rule().clone());
        facts.scopes = permit.scopes().clone();
        facts.generation = Some(permit.generation());
    }

    pub(super) fn stripped(&mut self, seen: Seen, removed: &[http::HeaderName]) {
        let facts = self.record.facts();
        facts.placeholder = match seen {
            Seen::Nothing => None,
            Seen::Placeholder => Some("present"),
            Seen::Stranger => Some("stranger"),
        };
        facts.stripped = removed
            .iter()
            .map(|name| name.as_str().to_owned())
            .collect();
    }

    pub(super) fn leased(&mut self, lease: &Lease) {
        if let Some(ticket) = &self.ticket {
            ticket.bind(lease);
        }
        let facts = self.record.facts();
        facts.binding = Some(lease.facts().binding);
        facts.lease = Some(lease.facts().id);
        facts.jkt = lease.thumbprint().map(Into::into);
        // A token that was stepped up has more than the rule begins with, and one that serves a whole login too.
        if facts.scopes != lease.facts().scopes {
            facts.scopes = lease.facts().scopes.clone();
        }
    }

    /// One attempt is about to be written.
    pub(super) fn attempted(&mut self, jti: Option<&Jti>) {
        let facts = self.record.facts();
        facts.attempts = facts.attempts.saturating_add(1);
        if let Some(jti) = jti {
            facts.proofs.push(jti.as_str().to_owned());
        }
    }

    /// Time that somebody else took.
    pub(super) fn waited(&mut self, span: Duration) {
        self.waited += span;
    }

    /// Time between a request's last byte leaving and the head of its answer.
    pub(super) fn upstream_took(&mut self, span: Duration) {
        self.waited += span;
        *self.upstream.get_or_insert(Duration::ZERO) += span;
    }

    /// The upstream's answer goes to the agent.
    pub(super) fn allowed(&mut self, status: StatusCode) {
        self.overhead = Some(self.begun.elapsed().saturating_sub(self.waited));
        let facts = self.record.facts();
        facts.decision = Verdict::Allowed;
        facts.status = Some(status.as_u16());
        facts.upstream_status = Some(status.as_u16());
    }

    pub(super) fn refused(&mut self, refusal: &Refusal) {
        let status = self.form.status(refusal.code);
        let facts = self.record.facts();
        facts.decision = Verdict::Refused;
        facts.code = Some(refusal.code);
        facts.status = Some(status);
        facts.upstream_status = refusal.upstream_status;
        if facts.service.is_none() {
            facts.service = refusal.service.clone();
        }
        if refusal.rule.is_some() {
            facts.rule = refusal.rule.clone();
        }
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.record.facts().bytes_out += bytes as u64;
    }

    /// The body reached its end.
    pub(super) fn completed(&mut self) {
        self.record.facts().complete = true;
    }

    /// The body was broken off.
    pub(super) fn cut(&mut self) {
        self.record.facts().complete = false;
    }

    /// Bytes that went each way through an upgraded connection.
    pub(super) fn carried(&mut self, from_agent: u64, to_agent: u64) {
        self.progress.bytes.store(from_agent, Ordering::Relaxed);
        self.record.facts().bytes_out = to_agent;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        let bytes_in = self.progress.bytes.load(Ordering::Relaxed);
        let upstream = self.upstream;
        let overhead = self
            .overhead
            .unwrap_or_else(|| took.saturating_sub(self.waited));
        let ticket = self.ticket.as_ref();
        let facts = self.record.facts();
        if facts.code.is_none() && !facts.complete {
            facts.code = ticket.and_then(Ticket::over);
        }
        facts.bytes_in = bytes_in;
        facts.duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        facts.upstream_ms = upstream.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        facts.overhead_us = u64::try_from(overhead.as_micros()).unwrap_or(u64::MAX);
        let agent = facts.agent.as_ref().map_or("", AgentName::as_str);
        let service = facts.service.as_ref().map_or("", |s| s.as_str());
        let code = facts.code.map_or("", |c| c.as_str());
        self.metrics.request(
            agent,
            service,
            facts.decision.as_str(),
            code,
            took,
            overhead,
            upstream,
        );
    }
}
