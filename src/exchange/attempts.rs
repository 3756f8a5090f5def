//! Lease → connection → attach → send → judge, at most three times.
//!
//! A request is sent again at most once for each of three reasons, and at most twice in all, always with a new proof:
//! a nonce challenge (RFC 9449 §9), `invalid_token` with a new lease (RFC 6750 §3.1), and what was provably not
//! processed. A body that began to flow and was not kept is never sent again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::{self, HeaderMap};
use http::{Method, StatusCode, Version};
use tower::Service as _;

use super::bare::{Bare, Crossing};
use super::body::Progress;
use super::chance::random;
use super::cookies::{Jars, Loan, Visit};
use super::held::Gate;
use super::interim::Cleaning;
use super::kept::Wait;
use super::media::Media;
use super::record::Line;
use super::refusal::Refusal;
use super::sent::{Sent, Used};
use super::settings::ResponseGuard;
use super::stepup::{self, Useless};
use super::story::Exchange;
use crate::audit::Event;
use crate::credential::{self, Feedback, Intent, Lease, LeaseFacts, Slot, Stamp, Wire};
use crate::metrics::Peer;
use crate::policy::Permit;
use crate::proof::{self, Challenge, Jti, Nonce};
use crate::upstream::{Client, Connection, Protocol, Reply, SendError, UpstreamError, WhenInterim};
use crate::vocab::variant::{Variant, broken, overhear};
use crate::vocab::{Code, ScopeSet, Stopwatch};

/// Most times that one request goes out.
const ROUNDS: usize = 3;
/// How long a body waits for a 100 at most: as long as the clients do that expect one.
const ASKED_WITHIN: Duration = Duration::from_secs(1);
/// How long it waits on HTTP/2, where nobody tells us of a 100: long enough for an API that answers at once.
const ANSWERED_WITHIN: Duration = Duration::from_millis(300);
/// Where nothing caps them, the test has to end.
const ROUNDS_UNCAPPED: usize = 1000;

/// Reasons to send again that are used up.
#[derive(Default)]
struct Spent {
    expectation: bool,
    nonce: bool,
    lease: bool,
    proof: bool,
    scope: bool,
    unprocessed: bool,
}

/// What to do with an attempt's outcome.
enum Next {
    AgainWithoutWaiting,
    /// The same once more; where it may not go out again, the answer is this refusal.
    Again(Code),
    Done(Box<Reply>),
    FreshLease,
    FreshNonce(Nonce),
    /// A token with these scopes as well, which this permit allows.
    MoreScope(Box<Permit>, ScopeSet),
}

/// Sends a request until an answer stands.
///
/// # Errors
/// A refusal where no credential, no connection or no acceptable answer can be had.
pub(super) async fn run(
    exchange: &Exchange,
    crossing: &Crossing<'_>,
    mut bare: Bare,
    line: &mut Line,
) -> Result<(Reply, Used), Refusal> {
    let mut spent = Spent::default();
    let now = exchange.clock.now();
    let mut raised = exchange.step_ups.remembered(crossing.permit, now);
    let mut loan = lend(exchange, crossing, raised.as_ref(), line).await?;
    let mut sent = Sent::default();
    let mut demanded = None;
    let rounds = if broken(Variant::NonceUncapped) {
        ROUNDS_UNCAPPED
    } else {
        ROUNDS
    };
    let mut last = Code::UpstreamRejectedCredential;
    for _ in 0..rounds {
        let (sent_nonce, outcome) = attempt(
            exchange,
            crossing,
            &mut bare,
            &loan,
            demanded.take(),
            line,
            &mut sent,
        )
        .await?;
        let round = Round {
            exchange,
            crossing,
            bare: &bare,
            lease: &loan.lease,
            sent_nonce,
        };
        match round.judge(outcome, &mut spent)? {
            Next::Done(reply) => {
                if reply.response.version() != Version::HTTP_2 {
                    bare.body.forgo();
                }
                return Ok((*reply, sent.used(bare, loan.lease)));
            }
            Next::AgainWithoutWaiting => bare.may_wait = false,
            Next::FreshLease => {
                last = Code::UpstreamRejectedCredential;
                sent.replaced(&loan.lease);
                loan = lend(exchange, crossing, raised.as_ref(), line).await?;
            }
            Next::MoreScope(permit, asked) => {
                sent.replaced(&loan.lease);
                last = Code::ScopeDenied;
                loan = stepped_up(exchange, crossing, &permit, &asked, line).await?;
                raised = Some(*permit);
            }
            Next::FreshNonce(nonce) => {
                // The agent's own retry will carry it.
                last = Code::DpopNonceRetry;
                demanded = Some(nonce);
            }
            Next::Again(code) => last = code,
        }
    }
    Err(last.into())
}

/// A lease with more scope. What the issuer did not give is not asked for again soon.
async fn stepped_up(
    exchange: &Exchange,
    crossing: &Crossing<'_>,
    permit: &Permit,
    asked: &ScopeSet,
    line: &mut Line,
) -> Result<Loan, Refusal> {
    let before = crossing.permit;
    let rule = (before.agent(), before.service(), before.rule());
    exchange.event(Event::ScopeRequested {
        agent: rule.0.clone(),
        service: rule.1.clone(),
        rule: rule.2.clone(),
        scopes: asked.clone(),
    });
    let loan = lend(exchange, crossing, Some(permit), line).await;
    let granted = loan
        .as_ref()
        .is_ok_and(|loan| asked.is_within(&loan.lease.facts().scopes));
    if !granted {
        exchange.step_ups.forget(before);
        exchange.event(Event::ScopeEscalated {
            agent: rule.0.clone(),
            service: rule.1.clone(),
            rule: rule.2.clone(),
            scopes: asked.clone(),
            reason: Useless::NotGranted.as_str(),
        });
        loan?;
        return Err(Code::ScopeDenied.into());
    }
    let loan = loan?;
    let facts = loan.lease.facts();
    exchange.event(Event::ScopeGranted {
        grant: facts.grant.clone(),
        token_id: facts.id,
        scopes: facts.scopes.clone(),
    });
    Ok(loan)
}

/// Asks for a lease, with more scope than the crossing's where it was `raised`.
async fn lend(
    exchange: &Exchange,
    crossing: &Crossing<'_>,
    raised: Option<&Permit>,
    line: &mut Line,
) -> Result<Loan, Refusal> {
    let permit = raised.unwrap_or(crossing.permit);
    let epoch = crossing.service.jars.as_deref().map(Jars::epoch);
    let waiting = Stopwatch::start();
    let lease = exchange.source.lease(permit).await;
    let lease = if broken(Variant::PassThrough) && !permit.credentialed() {
        lease.map(|lease| Lease::nothing(lease.facts().clone()))
    } else {
        lease
    };
    line.waited(waiting.elapsed());
    let lease = lease?;
    line.leased(&lease);
    Ok(Loan { lease, epoch })
}

type Attempt = (Option<Nonce>, Result<Reply, SendError>);

/// One attempt: the connection first, so that the proof is signed when the head can be written at once.
async fn attempt(
    exchange: &Exchange,
    crossing: &Crossing<'_>,
    bare: &mut Bare,
    loan: &Loan,
    demanded: Option<Nonce>,
    line: &mut Line,
    sent: &mut Sent,
) -> Result<Attempt, Refusal> {
    let Crossing { permit, service } = crossing;
    let (lease, settings) = (&loan.lease, &service.settings);
    let connection = connect(exchange, crossing, needed(bare), lease, line).await?;
    let progress = line.progress();
    // The nonce of a challenge answers that challenge: of one that is good once, another request may have had the use.
    let nonce = demanded.or_else(|| {
        let key = lease.thumbprint()?;
        exchange.nonces.current(&permit.authority().origin(), key)
    });
    let wait = wait(exchange, crossing, bare, lease, connection.version());
    let cancel = line.cancel();
    if cancel.is_cancelled() {
        return Err(ended(lease, line).into());
    }
    let (body, gate) = bare.take_body(&cancel, &progress, wait)?;
    let visit = service.jars.as_deref().map(|jars| {
        let path = bare.head.path();
        Visit::new(jars, permit, path, loan, &exchange.clock)
    });
    let wire = Wire {
        cookie: visit.as_ref().and_then(Visit::cookie),
        version: connection.version(),
        authority: permit.authority(),
        htu: &settings.htu,
        pseudonym: &exchange.pseudonym,
        expects: gate.is_some(),
    };
    let stamp = lease.thumbprint().map(|_| stamp(exchange, crossing, nonce));
    let armed = credential::attach(&bare.head, body, lease, connection, &wire, stamp)?;
    line.attempted(armed.jti());
    sent.proof(armed.proof());
    if armed.jti().is_some() {
        exchange.metrics.dpop_proof(permit.service().as_str());
    }
    let nonce = armed.nonce().cloned();
    let cleaning = || Cleaning {
        credentialed: settings.slot != Slot::Nothing,
        lease: (settings.response_guard != ResponseGuard::Off).then(|| lease.clone()),
        proof: armed.proof().cloned(),
        fill: bare.fill.clone(),
        progress: progress.clone(),
    };
    let told = when_interim(bare, gate, cleaning);
    let armed = match told {
        Some(told) => armed.noting(told),
        None => armed,
    };

    let waiting = Stopwatch::start();
    // Always ready: what would be waited for is the connection, and that is in hand.
    let answer = Client.call(armed);
    let answer = within(answer, settings.timeouts.first_byte, &progress);
    let outcome = cancel.run_until_cancelled(answer).await;
    line.upstream_took(waiting.elapsed());
    let outcome = outcome.ok_or_else(|| ended(lease, line))?;
    let outcome = outcome.ok_or(Code::UpstreamTimeout)?;
    if let (Some(visit), Ok(reply)) = (visit, &outcome) {
        visit.answered(reply.response.headers());
    }
    Ok((nonce, outcome))
}

/// Why an exchange was ended before it was answered: its credential is gone, or its permit.
fn ended(lease: &Lease, line: &Line) -> Code {
    let gone = lease.facts().cancel.is_cancelled();
    let otherwise = if gone {
        Code::ServiceRevoked
    } else {
        Code::ConfigChanged
    };
    line.over().unwrap_or(otherwise)
}

/// What becomes of interim answers: a 100 asks for a body that waits, others are the agent's.
fn when_interim(
    bare: &Bare,
    gate: Option<Arc<Gate>>,
    cleaning: impl FnOnce() -> Cleaning,
) -> Option<WhenInterim> {
    if gate.is_none() && bare.interim.is_none() {
        return None;
    }
    let (interim, cleaning) = (bare.interim.clone(), cleaning());
    Some(WhenInterim::new(move |status, headers| {
        if let (StatusCode::CONTINUE, Some(gate)) = (status, &gate) {
            gate.open();
        } else if let Some(interim) = &interim {
            interim.pass(status, headers, &cleaning);
        }
    }))
}

/// What the next proof says.
fn stamp(exchange: &Exchange, crossing: &Crossing<'_>, nonce: Option<Nonce>) -> Stamp {
    let offset = crossing.service.clocks.offset(crossing.permit.authority());
    let now = exchange.clock.wall().seconds();
    Stamp {
        nonce,
        iat: now.saturating_add(offset.into()),
        jti: Jti::from_random(random()),
    }
}

/// Whether the body is to wait until the API asks for it, and how long. It streams and can be sent once, so it waits
/// where the head alone may be refused: where the API may want another nonce (RFC 9449 §9), and where the agent itself
/// waits for a word before it sends anything (RFC 9110 §10.1.1).
fn wait(
    exchange: &Exchange,
    crossing: &Crossing<'_>,
    bare: &Bare,
    lease: &Lease,
    version: Version,
) -> Option<Wait> {
    // A conversation may be silent from its start, and its first word must not be late.
    if !bare.may_wait || bare.patience.unhurried || !bare.body.can_wait() {
        return None;
    }
    let http2 = version == Version::HTTP_2;
    let doubtful = |key: &str| {
        let origin = crossing.permit.authority().origin();
        exchange.nonces.doubtful(&origin, key, exchange.clock.now())
    };
    let wanted = (bare.expects && !http2) || lease.thumbprint().is_some_and(doubtful);
    let most = if http2 { ANSWERED_WITHIN } else { ASKED_WITHIN };
    let patience = most.min(crossing.service.settings.timeouts.first_byte / 2);
    wanted.then_some(Wait { patience, version })
}

/// What can carry a request: a WebSocket takes over a connection of HTTP/1.1, and gRPC says its outcome in trailers that
/// only HTTP/2 carries for certain. Apart from these the API is spoken to as the agent speaks, where it can be.
fn needed(bare: &Bare) -> Protocol {
    match (bare.head.intent(), bare.media) {
        (Intent::WebSocket, _) => Protocol::Http1,
        (_, Media::Grpc) => Protocol::Http2,
        _ if bare.version == Version::HTTP_2 => Protocol::Any,
        _ => Protocol::Http1First,
    }
}

/// Checks out a connection to the service, with the certificate that the lease is bound to.
async fn connect(
    exchange: &Exchange,
    crossing: &Crossing<'_>,
    need: Protocol,
    lease: &Lease,
    line: &mut Line,
) -> Result<Connection, Refusal> {
    let Crossing { permit, service } = crossing;
    let limit = service.settings.timeouts.connect;
    let waiting = Stopwatch::start();
    let connection = exchange
        .upstream
        .connection(permit, &service.endpoint, need, lease.certificate(), limit)
        .await;
    line.upstream_took(waiting.elapsed());
    connection.map_err(|why| {
        let (agent, service) = (permit.agent().clone(), permit.service().clone());
        match why {
            UpstreamError::AddressProhibited => {
                exchange.event(Event::AddressProhibited { agent, service })
            }
            UpstreamError::SelfConnect => {
                exchange.event(Event::SelfConnect {
                    agent,
                    host: permit.authority().host().to_string(),
                });
            }
            _ => {}
        }
        Refusal::from(why.code())
    })
}

/// Waits for an answer: `limit` from the moment the upstream stopped taking the body. While the body waits for the
/// agent, the upstream owes nothing.
async fn within<F: Future>(
    answer: F,
    limit: Duration,
    progress: &Arc<Progress>,
) -> Option<F::Output> {
    tokio::pin!(answer);
    loop {
        let before = progress.frames.load(Ordering::Relaxed);
        if let Ok(output) = tokio::time::timeout(limit, &mut answer).await {
            return Some(output);
        }
        let moved = progress.frames.load(Ordering::Relaxed) != before;
        if !moved && !progress.waits_for_agent.load(Ordering::Relaxed) {
            return None;
        }
    }
}

/// One attempt as it is judged.
struct Round<'a> {
    exchange: &'a Exchange,
    crossing: &'a Crossing<'a>,
    bare: &'a Bare,
    lease: &'a Lease,
    sent_nonce: Option<Nonce>,
}

impl Round<'_> {
    fn judge(&self, outcome: Result<Reply, SendError>, spent: &mut Spent) -> Result<Next, Refusal> {
        let reply = match outcome {
            Ok(reply) => reply,
            Err(error) => return self.after_failure(&error, spent),
        };
        let status = reply.response.status();
        let headers = reply.response.headers();
        self.note_date(headers, false);
        let fresh = self.note_nonce(status, headers);
        let unasked = status == StatusCode::EXPECTATION_FAILED && !self.bare.expects;
        if unasked && self.bare.body.waits() && !spent.expectation {
            // RFC 9110 §10.1.1: once more, without the expectation, which was ours alone. Nothing of the body has gone out.
            spent.expectation = true;
            return Ok(Next::AgainWithoutWaiting);
        }
        if !self.crossing.permit.credentialed() {
            return Ok(Next::Done(Box::new(reply)));
        }
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN => {
                overhear(|| format!("{headers:?}"));
                let challenges = challenges(headers);
                let next = self.after_challenge(reply, &challenges, fresh, spent);
                next.inspect_err(|refusal| self.note_rejection(refusal.code))
            }
            _ => Ok(Next::Done(Box::new(reply))),
        }
    }

    /// Nothing was answered. Only what was provably not processed goes out again (RFC 9110 §9.2.2).
    fn after_failure(&self, error: &SendError, spent: &mut Spent) -> Result<Next, Refusal> {
        let idempotent = matches!(
            *self.bare.head.method(),
            Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
        );
        let safe = error.unprocessed || (error.reused_idle_died && idempotent);
        if safe && !spent.unprocessed && self.bare.body.can_be_sent() {
            spent.unprocessed = true;
            return Ok(Next::Again(error.code()));
        }
        Err(error.code().into())
    }

    fn after_challenge(
        &self,
        reply: Reply,
        challenges: &[Challenge],
        fresh: Option<Nonce>,
        spent: &mut Spent,
    ) -> Result<Next, Refusal> {
        let status = reply.response.status();
        let refuse = |code: Code| Err(Refusal::from(code).answered(status));
        let says = |error: &str| challenges.iter().any(|c| c.param("error") == Some(error));
        let bound = self.lease.thumbprint().is_some();
        let can_be_sent = self.bare.body.can_be_sent();
        if status == StatusCode::FORBIDDEN {
            return if says("insufficient_scope") {
                self.after_scope_challenge(challenges, spent)
                    .map_err(|code| Refusal::from(code).answered(status))
            } else {
                Ok(Next::Done(Box::new(reply)))
            };
        }
        if bound && asks_for_nonce(challenges) {
            return self
                .after_nonce_challenge(fresh, spent)
                .map_err(|code| Refusal::from(code).answered(status));
        }
        if bound && says("invalid_dpop_proof") {
            let again = !spent.proof && can_be_sent;
            spent.proof = true;
            self.note_date(reply.response.headers(), true);
            return if again {
                Ok(Next::Again(Code::DpopProofRejected))
            } else {
                refuse(Code::DpopProofRejected)
            };
        }
        if status == StatusCode::BAD_REQUEST {
            return Ok(Next::Done(Box::new(reply)));
        }
        if says("insufficient_user_authentication") {
            let (acr_values, max_age) = stepup::wanted_login(challenges);
            self.exchange.event(Event::LoginWanted {
                grant: self.lease.facts().grant.clone(),
                rule: self.crossing.permit.rule().clone(),
                acr_values,
                max_age,
            });
            return refuse(Code::StepupRequired);
        }
        if says("invalid_token") && self.lease.facts().expires.is_some() {
            self.report_rejection(spent.lease);
            let again = !spent.lease && can_be_sent;
            spent.lease = true;
            return if again {
                Ok(Next::FreshLease)
            } else {
                refuse(Code::UpstreamRejectedCredential)
            };
        }
        refuse(Code::UpstreamUnauthorized)
    }

    /// The API wants more scope (RFC 6750 §3.1). It gets what the rule allows, once a request; a body that is gone cannot be
    /// sent with it, but the agent's next request begins with what was granted.
    fn after_scope_challenge(
        &self,
        challenges: &[Challenge],
        spent: &mut Spent,
    ) -> Result<Next, Code> {
        let permit = self.crossing.permit;
        let asked = stepup::asked(challenges, permit);
        let held = &self.lease.facts().scopes;
        let now = self.exchange.clock.now();
        let raised = match &asked {
            Ok(_) if spent.scope => Err(Useless::NotGranted),
            Ok(asked) => self.exchange.step_ups.raise(permit, held, asked, now),
            Err(why) => Err(*why),
        };
        let asked = asked.unwrap_or_default();
        match raised {
            Ok(raised) if self.bare.body.can_be_sent() => {
                spent.scope = true;
                Ok(Next::MoreScope(Box::new(raised), asked))
            }
            Ok(_) => Err(Code::ScopeDenied),
            Err(why) => {
                self.exchange.event(Event::ScopeEscalated {
                    agent: permit.agent().clone(),
                    service: permit.service().clone(),
                    rule: permit.rule().clone(),
                    scopes: asked,
                    reason: why.as_str(),
                });
                Err(Code::ScopeDenied)
            }
        }
    }

    /// The API does not accept what we showed, and that stands.
    fn note_rejection(&self, code: Code) {
        let rejected = matches!(
            code,
            Code::DpopNonceLoop
                | Code::DpopProofRejected
                | Code::UpstreamRejectedCredential
                | Code::UpstreamUnauthorized
        );
        if rejected {
            self.exchange.event(Event::ApiRejected {
                agent: self.crossing.permit.agent().clone(),
                service: self.crossing.permit.service().clone(),
                code,
            });
        }
    }

    /// The API wants another nonce (RFC 9449 §9). The same nonce again, or none, would be refused again.
    fn after_nonce_challenge(&self, fresh: Option<Nonce>, spent: &mut Spent) -> Result<Next, Code> {
        let service = self.crossing.permit.service().as_str();
        self.exchange.metrics.nonce_challenge(service, Peer::Api);
        if broken(Variant::NonceUncapped) {
            return fresh.map(Next::FreshNonce).ok_or(Code::DpopNonceLoop);
        }
        let useful = fresh.filter(|fresh| Some(fresh) != self.sent_nonce.as_ref());
        let nonce = useful.filter(|_| !spent.nonce).ok_or(Code::DpopNonceLoop)?;
        spent.nonce = true;
        if self.bare.body.can_be_sent() {
            Ok(Next::FreshNonce(nonce))
        } else {
            Err(Code::DpopNonceRetry)
        }
    }

    fn report_rejection(&self, again: bool) {
        let LeaseFacts { grant, id, .. } = self.lease.facts();
        self.exchange.event(Event::ServiceTokenRejected {
            grant: grant.clone(),
            token_id: *id,
        });
        let feedback = if again {
            Feedback::InvalidTokenAgain
        } else {
            Feedback::InvalidToken
        };
        self.exchange.source.report(self.lease, feedback);
    }

    /// The newest nonce of the origin, whatever the status of the answer that brings it (RFC 9449 §8.2).
    fn note_nonce(&self, status: StatusCode, headers: &HeaderMap) -> Option<Nonce> {
        let thumbprint = self.lease.thumbprint()?;
        let origin = self.crossing.permit.authority().origin();
        let (nonces, now) = (&self.exchange.nonces, self.exchange.clock.now());
        let mut lines = headers.get_all("dpop-nonce").iter();
        let Some(first) = lines.next() else {
            let taken = !matches!(
                status,
                StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::EXPECTATION_FAILED
            );
            if taken {
                nonces.note_none(&origin, thumbprint, now);
            }
            return None;
        };
        let nonce = first.to_str().ok().and_then(Nonce::parse);
        let nonce = nonce.filter(|_| lines.next().is_none())?;
        if self.sent_nonce.as_ref() == Some(&nonce) {
            nonces.note_again(&origin, thumbprint, nonce.clone(), now);
        } else {
            nonces.note(&origin, thumbprint, nonce.clone(), now);
        }
        Some(nonce)
    }

    /// Follows the clock that the answer shows. Where the answer `corrects` a proof it counts alone.
    fn note_date(&self, headers: &HeaderMap, corrects: bool) {
        if self.lease.thumbprint().is_none() {
            return;
        }
        let date = headers
            .get(header::DATE)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| httpdate::parse_http_date(v).ok());
        let since = date.and_then(|date| date.duration_since(std::time::UNIX_EPOCH).ok());
        let Some(date) = since.and_then(|span| i64::try_from(span.as_secs()).ok()) else {
            return;
        };
        let Crossing { permit, service } = self.crossing;
        let (origin, now) = (permit.authority(), self.exchange.clock.wall().seconds());
        let changed = if corrects {
            service.clocks.corrected(origin, date, now)
        } else {
            service.clocks.saw(origin, date, now)
        };
        if let Some(offset) = changed {
            let metrics = &self.exchange.metrics;
            metrics.clock_offset(permit.service().as_str(), f64::from(offset));
        }
    }
}

fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let lines = headers
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .filter_map(|v| v.to_str().ok());
    proof::parse_challenges(lines)
}

fn asks_for_nonce(challenges: &[Challenge]) -> bool {
    challenges
        .iter()
        .any(|c| c.scheme == "dpop" && c.param("error") == Some("use_dpop_nonce"))
}
