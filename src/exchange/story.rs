//! The story of one request, top to bottom.
//!
//! 1. A door makes an [`Arrival`]: caller, destination and meaning are fixed. The [`Line`] is open from here on.
//! 2. One snapshot of policy and services is taken; it serves this request to its end.
//! 3. Policy decides: a `Permit`, or a refusal with a code. No token was asked for so far.
//! 4. The head is stripped: what the agent sent as credentials is gone, whether or not ours can be had.
//! 5. At most three attempts: lease → connection → attach → send → judge the answer.
//! 6. The answer is guarded and streams to the agent; the line closes when its last byte has gone.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::sync::watch;

use super::arrival::{Arrival, Door};
use super::attempts;
use super::bare::{Bare, Crossing};
use super::body::AgentBody;
use super::canary::Canary;
use super::chance::random;
use super::ending::Ending;
use super::floor::BodyFloor;
use super::guard::{Guarded, guard};
use super::interim::Interim;
use super::kept::{Kept, Patience, ReplayBudget};
use super::live::{About, Live, Severed};
use super::media::Media;
use super::outgoing::{Lent, Outgoing};
use super::plan::{Plan, Service};
use super::record::Line;
use super::refusal::Refusal;
use super::respond::{Form, last_words, respond};
use super::settings::{RequestGuard, ResponseGuard, ServiceSettings};
use super::shield::Alarm;
use super::stepup::StepUps;
use crate::agent::{Agent, Unauthenticated};
use crate::audit::{Audit, Event};
use crate::credential::{self, Bench, Intent, Nonces, Seen, Source, Stripped};
use crate::metrics::Metrics;
use crate::policy::{Admission, Decision, Facts, Permit};
use crate::upstream::Upstream;
use crate::vocab::variant::{Variant, broken};
use crate::vocab::{AgentName, Authority, Clock, Code, RequestId, ServiceName, Stopwatch};

/// Nonces kept for APIs.
const NONCES: usize = 1024;
/// How often a request is decided anew because the policy changed that very moment.
const SETTLING_MAX: usize = 3;
/// How long an exchange may go on that a new policy does not allow.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What an exchange works with.
pub struct Deps {
    /// The first generation.
    pub plan: Plan,
    /// Who lends credentials.
    pub source: Arc<dyn Source>,
    /// The way out.
    pub upstream: Upstream,
    /// Where lines go.
    pub audit: Audit,
    /// What is counted.
    pub metrics: Metrics,
    /// Time.
    pub clock: Clock,
    /// Our own name in `Via`; nothing that an agent could not see is in it.
    pub pseudonym: String,
    /// Bytes of request bodies kept for a second attempt, all together.
    pub replay_total: usize,
    /// The slowest that an agent's body may be.
    pub body_floor: BodyFloor,
    /// Tells what must not leave in a request, where a service wants it searched.
    pub lent: Lent,
}

/// Carries requests. Shared by all listeners.
pub struct Exchange {
    pub(super) plan: ArcSwap<Plan>,
    pub(super) live: Live,
    pub(super) step_ups: StepUps,
    /// What was severed last, for those who have no exchange yet.
    severed: watch::Sender<Option<Arc<Severed>>>,
    pub(super) source: Arc<dyn Source>,
    pub(super) upstream: Upstream,
    audit: Audit,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
    pub(super) nonces: Nonces,
    pub(super) pseudonym: String,
    pub(super) ending: Ending,
    budget: ReplayBudget,
    pub(super) body_floor: BodyFloor,
    alarm: Arc<Alarm>,
    lent: Lent,
    pub(super) canary: Canary,
}

impl Exchange {
    /// Puts an exchange together.
    #[must_use]
    pub fn new(deps: Deps) -> Self {
        let alarm = Arc::new(Alarm {
            audit: deps.audit.clone(),
            metrics: deps.metrics.clone(),
            source: deps.source.clone(),
        });
        Self {
            plan: ArcSwap::from_pointee(deps.plan),
            live: Live::default(),
            step_ups: StepUps::default(),
            severed: watch::Sender::new(None),
            source: deps.source,
            upstream: deps.upstream,
            audit: deps.audit,
            metrics: deps.metrics,
            clock: deps.clock,
            nonces: Nonces::new(NONCES),
            pseudonym: deps.pseudonym,
            ending: Ending::default(),
            budget: ReplayBudget::new(deps.replay_total),
            body_floor: deps.body_floor,
            alarm,
            lent: deps.lent,
            canary: Canary::default(),
        }
    }

    /// What is under way, and how it is cut.
    #[must_use]
    pub fn ending(&self) -> &Ending {
        &self.ending
    }

    /// What is in use now.
    #[must_use]
    pub fn plan(&self) -> Arc<Plan> {
        self.plan.load_full()
    }

    /// Replaces policy and services. A request is judged under one generation. What is under way and not allowed any more
    /// has half a second to come to its end, as most requests do, and is cut then. How many that are.
    pub fn replace(self: &Arc<Self>, plan: Plan) -> usize {
        plan.empty_jars(|service, agent| !plan.reaches(agent, service));
        let plan = Arc::new(plan);
        // First the plan, then the judgement: whoever takes a place in between has asked the new plan again.
        self.plan.store(plan.clone());
        let forbidden = self.live.forbidden(&plan.snapshot);
        let many = forbidden.len();
        if many > 0 {
            let exchange = self.clone();
            self.ending.tasks.spawn(async move {
                tokio::time::sleep(LAST_WORDS).await;
                forbidden.end(&exchange.plan.load().snapshot);
            });
        }
        many
    }

    /// Ends at once every exchange, and every head on its way, of which `who` says yes: the operator has revoked what they
    /// ride on. New ones must be refused by the source already. How many exchanges that were.
    pub fn sever(&self, who: Arc<Severed>) -> usize {
        let many = self.live.sever(&*who);
        self.plan.load().empty_jars(&*who);
        self.severed.send_replace(Some(who));
        many
    }

    /// Ends at once everything that these agents have under way: what they were known by counts no more.
    pub fn leave(&self, agents: &[AgentName]) {
        self.live.leave(agents);
    }

    /// Forgets the sessions that APIs have opened for those of whom `who` says yes: they log in anew, with other credentials.
    pub fn forget_sessions(&self, who: impl Fn(&ServiceName, &AgentName) -> bool) {
        self.plan.load().empty_jars(who);
    }

    /// Waits until what this agent does at this destination is severed.
    pub async fn severed(&self, agent: &AgentName, authority: &Authority) {
        let mut seen = self.severed.subscribe();
        loop {
            // Also what was severed a moment ago: the head may have begun just then.
            let who = seen.borrow_and_update().clone();
            let admitted = self.plan.load().snapshot.admits(agent, authority);
            if let (Some(who), Ok(Admission::Intercept(service))) = (who, admitted)
                && who(&service, agent)
            {
                return;
            }
            if seen.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether an agent may open a tunnel to this destination, asked before a leaf is minted.
    ///
    /// # Errors
    /// A refusal where no service of the agent has the destination.
    pub fn admits(&self, agent: &Agent, authority: &Authority) -> Result<Admission, Refusal> {
        self.plan
            .load()
            .snapshot
            .admits(agent.name(), authority)
            .map_err(Refusal::from)
    }

    /// Opens the line of a request: its place in the audit queue is reserved here, before anything is decided.
    ///
    /// # Errors
    /// The finished answer where there is no room for the line: an act that cannot be recorded is not done.
    pub fn open<B>(&self, request: &Request<B>) -> Result<Line, Box<Response<AgentBody>>> {
        let id = RequestId::from_random(random());
        let form = Form::of(request.method(), request.headers(), request.version());
        match self.audit.open(id) {
            Ok(record) => Ok(Line::open(record, self.metrics.clone(), id, form, request)),
            Err(_) => Err(Box::new(respond(
                &Refusal::from(Code::AuditUnavailable),
                id,
                form,
            ))),
        }
    }

    /// Records a request whose head could not be read; the connection has answered it already, or has just ended.
    pub fn unread(
        &self,
        code: Code,
        door: Door,
        agent: Option<&AgentName>,
        authority: Option<&Authority>,
    ) {
        drop(self.unread_line(code, door, agent, authority));
    }

    /// Records a request whose head could not be read, and words its refusal: the last bytes of an HTTP/1.1 connection.
    /// Without room for the line there are no words either.
    #[must_use]
    pub fn last_words(
        &self,
        code: Code,
        door: Door,
        agent: Option<&AgentName>,
        authority: Option<&Authority>,
    ) -> Bytes {
        let line = self.unread_line(code, door, agent, authority);
        line.map_or_else(Bytes::new, |line| {
            last_words(&Refusal::from(code), line.id())
        })
    }

    fn unread_line(
        &self,
        code: Code,
        door: Door,
        agent: Option<&AgentName>,
        authority: Option<&Authority>,
    ) -> Option<Line> {
        let mut line = self.open_unseen(door, agent, authority)?;
        line.refused(&Refusal::from(code));
        Some(line)
    }

    /// Opens the line of something that has no head of ours to read. Nothing where there is no room for the line.
    #[must_use]
    pub fn open_unseen(
        &self,
        door: Door,
        agent: Option<&AgentName>,
        authority: Option<&Authority>,
    ) -> Option<Line> {
        let id = RequestId::from_random(random());
        let record = self.audit.open(id).ok()?;
        let mut line = Line::unread(record, self.metrics.clone(), id);
        line.at(door, agent, authority);
        Some(line)
    }

    /// Ends a line with a refusal.
    #[must_use]
    pub fn refuse(&self, mut line: Line, refusal: &Refusal) -> Response<AgentBody> {
        line.refused(refusal);
        if matches!(
            refusal.code,
            Code::AgentUnauthenticated | Code::AgentUnknown
        ) {
            let why = refusal.unauthenticated.unwrap_or(Unauthenticated::Absent);
            self.event(Event::AgentAuthFailed {
                listener: line.door(),
                reason: why.as_str(),
            });
        }
        respond(refusal, line.id(), line.form())
    }

    /// Carries one request to its end. Whatever goes wrong inside ends this request alone.
    pub async fn answer(&self, arrival: Arrival, mut line: Line) -> Response<AgentBody> {
        match AssertUnwindSafe(self.walk(arrival, &mut line))
            .catch_unwind()
            .await
        {
            Ok(Ok(guarded)) => guarded.into_response(line, &self.ending),
            Ok(Err(refusal)) => self.refuse(line, &refusal),
            Err(_panic) => {
                self.metrics.panic();
                tracing::error!(request = %line.id(), "a request ended in a panic");
                self.refuse(line, &Refusal::from(Code::Internal))
            }
        }
    }

    async fn walk(&self, arrival: Arrival, line: &mut Line) -> Result<Guarded, Refusal> {
        if broken(Variant::DialsFirst) {
            drop(self.dial_blind(&arrival.authority).await);
        }
        let (plan, permit) = match self.settle(&arrival, line) {
            Ok(settled) => settled,
            Err(refusal) => return Err(self.unsettled(&arrival, refusal)),
        };
        line.permitted(&permit);

        let service = plan.service(&permit)?;
        let about = |refusal: Refusal| refusal.about(permit.service());
        line.hold(
            plan.share(permit.agent())
                .map_err(|code| about(code.into()))?,
        );
        let bare = self
            .bare(&plan, service, arrival, &permit, line)
            .await
            .map_err(about)?;
        let crossing = Crossing {
            permit: &permit,
            service,
        };
        let (reply, used) = attempts::run(self, &crossing, bare, line)
            .await
            .map_err(about)?;
        #[cfg(feature = "variants")]
        let (reply, used) = super::variant::follow(self, &crossing, (reply, used), line).await?;

        let fill = plan.placeholders.text(permit.agent(), permit.service());
        guard(reply, used, &service.settings, (&self.alarm, fill), line)
            .await
            .map_err(about)
    }

    /// A request that policy denies: whether that is all there is to say of it.
    fn unsettled(&self, arrival: &Arrival, refusal: Refusal) -> Refusal {
        let whose = (arrival.agent.name(), &arrival.authority);
        let said = (&arrival.parts.headers, arrival.query.as_deref());
        self.goes_nowhere(whose, said, refusal)
    }

    /// Decides under the plan that is in use, and takes the exchange's place, where later plans find it. A plan that was
    /// replaced between the two is not the one to go by.
    fn settle(&self, arrival: &Arrival, line: &mut Line) -> Result<(Arc<Plan>, Permit), Refusal> {
        for _ in 0..SETTLING_MAX {
            let plan = self.plan.load_full();
            let permit = self.permit(&plan, arrival)?;
            let about = About::Request {
                method: arrival.parts.method.clone(),
                path: arrival.path.clone(),
                service: permit.service().clone(),
            };
            let (agent, authority) = (permit.agent().clone(), permit.authority().clone());
            line.enter(self.live.enter(agent, authority, about));
            if Arc::ptr_eq(&plan, &self.plan.load()) {
                return Ok((plan, permit));
            }
        }
        Err(Code::ConfigChanged.into())
    }

    /// One function from the first day, so that rules which read bodies change nothing else.
    fn permit(&self, plan: &Plan, arrival: &Arrival) -> Result<Permit, Refusal> {
        let facts = Facts {
            agent: arrival.agent.name(),
            authority: &arrival.authority,
            method: arrival.parts.method.as_str(),
            path: &arrival.path,
        };
        #[cfg(feature = "variants")]
        if let Some(permit) = super::variant::first_of_tunnel(&arrival.parts) {
            return Ok(permit);
        }
        match plan.snapshot.decide(&facts) {
            Decision::Permit(permit) => {
                #[cfg(feature = "variants")]
                super::variant::note_first(&arrival.parts, &permit);
                Ok(permit)
            }
            Decision::Denied(denial) => Err(denial.into()),
            Decision::NeedsBody(pending) => match pending {},
        }
    }

    /// Strips the head and takes charge of the body.
    async fn bare(
        &self,
        plan: &Plan,
        service: &Service,
        arrival: Arrival,
        permit: &Permit,
        line: &mut Line,
    ) -> Result<Bare, Refusal> {
        let settings = &service.settings;
        let bench = Bench {
            agent: permit.agent(),
            service: permit.service(),
            slot: &settings.slot,
            mode: settings.placeholder.mode,
            placeholders: &plan.placeholders,
            pseudonym: &self.pseudonym,
            guarded: settings.response_guard != ResponseGuard::Off,
            cookies: settings.session_cookies.passing(),
        };
        let guard = self.guard_request(settings, &arrival, permit, line)?;
        let interim = arrival.parts.extensions.get::<Interim>().cloned();
        let upgrade = (arrival.intent == Intent::WebSocket).then_some(arrival.upgrade);
        let query = arrival.query.as_deref();
        let stripped =
            credential::strip(&arrival.parts, arrival.path, query, arrival.intent, &bench);
        if let Err(credential::StripError(Code::PlaceholderMismatch)) = &stripped {
            let service = Some(permit.service());
            self.misused(plan, permit.agent(), service, permit.authority());
        }
        let stripped = stripped?;
        line.stripped(stripped.seen, &stripped.removed);
        self.note_stranger(&stripped, permit);
        let media = Media::of(&arrival.parts.headers);
        // HTTP/1.0 knows no expectation (RFC 9110 §10.1.1), and on HTTP/2 no agent of ours is told to go on.
        let expects = arrival.parts.version == Version::HTTP_11
            && arrival.parts.headers.contains_key(http::header::EXPECT);
        let patience = Patience {
            idle: settings.timeouts.idle,
            floor: self.body_floor,
            // Their silence ends by `timeouts.idle` alone, and each takes one of its agent's places meanwhile.
            unhurried: arrival.parts.version == Version::HTTP_2 && media.speaks_both_ways(),
        };
        let body = self.keep(arrival.body, settings, patience, line).await?;
        if let Some(guard) = &guard {
            guard.kept(&body)?;
        }
        Ok(Bare {
            head: stripped.head,
            body,
            guard,
            patience,
            media,
            version: arrival.parts.version,
            expects,
            may_wait: true,
            upgrade,
            fill: plan
                .placeholders
                .text(permit.agent(), permit.service())
                .cloned(),
            interim,
        })
    }

    /// Tells of a credential that is not ours: in the audit file where it is known what it is.
    fn note_stranger(&self, stripped: &Stripped, permit: &Permit) {
        if let Some(kind) = stripped.kind {
            self.event(Event::StrangerCredential {
                agent: permit.agent().clone(),
                service: permit.service().clone(),
                kind: kind.as_str(),
            });
        } else if stripped.seen == Seen::Stranger {
            self.metrics.security_event("credential.stranger");
        }
    }

    /// What the request is searched for, where the service wants that; its head holds none of it.
    fn guard_request(
        &self,
        settings: &ServiceSettings,
        arrival: &Arrival,
        permit: &Permit,
        line: &mut Line,
    ) -> Result<Option<Outgoing>, Refusal> {
        if settings.request_guard == RequestGuard::Off {
            return Ok(None);
        }
        let guard = Outgoing::new(&(self.lent)(), &self.alarm, permit, line.id());
        let (path, query) = (arrival.path.wire(), arrival.query.as_deref());
        let host = arrival.authority.host();
        guard.head(host, path, query, &arrival.parts.headers, line)?;
        Ok(Some(guard))
    }

    /// Takes charge of a body. What is being kept for a second attempt may come slowly, and must end with its permit all
    /// the same.
    async fn keep(
        &self,
        body: Incoming,
        settings: &ServiceSettings,
        patience: Patience,
        line: &mut Line,
    ) -> Result<Kept, Refusal> {
        let (limit, budget, progress) = (settings.replay_buffer, &self.budget, line.progress());
        let empty = body.is_end_stream();
        let reading = Stopwatch::start();
        let kept = Kept::of(body, limit, budget, patience, &progress);
        if empty {
            return kept.await;
        }
        let kept = line.cancel().run_until_cancelled_owned(kept).await;
        let kept = kept.unwrap_or_else(|| Err(line.over().unwrap_or(Code::ConfigChanged).into()));
        line.waited(reading.elapsed());
        kept
    }

    /// Notes a security event, in the audit file and in the metrics.
    pub fn event(&self, event: Event) {
        self.metrics.security_event(event.name());
        self.audit.event(event);
    }
}
