//! The explicit proxy: one HTTP/1.1 port for CONNECT and absolute form.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::{CONNECTION, HeaderValue, PROXY_AUTHORIZATION};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::accept::Doors;
use super::linger::{Linger, Wanted};
use super::quota::{Guest, Haste, Quota};
use super::watched::{Flying, Heads, Judged, Refuse, Severing, Watched};
use crate::agent::{Agent, Connection, Unauthenticated};
use crate::exchange::{AgentBody, Arrival, Door, Interim, Refusal, absolute_authority, watched};
use crate::policy::Admission;
use crate::vocab::{AgentName, Authority, Code, Host, Moment};

/// How much more than its limit of a head is read, so that one slightly too large has a line with its path. The observer
/// ends what is larger still, and hyper's own bound, as much larger again, is never reached.
pub(super) const HEAD_SLACK: usize = 16 * 1024;

/// Whose requests a connection carries, as far as that is known before a head is read.
#[derive(Clone)]
pub(super) enum Whose {
    /// The proxy port: every request says it anew.
    Nobodys,
    /// Redirected and in clear: every request names its destination, and the agent is known or it is not.
    Placed(Option<Agent>),
    /// Requests of this agent to this destination, by this door.
    Tunnel(Door, Arc<(Agent, Authority)>),
}

impl Whose {
    fn words(&self) -> (Door, Option<&AgentName>, Option<&Authority>) {
        match self {
            Self::Nobodys => (Door::Absolute, None, None),
            Self::Placed(agent) => (Door::Transparent, agent.as_ref().map(Agent::name), None),
            Self::Tunnel(door, caller) => (*door, Some(caller.0.name()), Some(&caller.1)),
        }
    }
}

/// An agent that was named, and what it may use up.
pub(super) struct Caller {
    pub(super) agent: Agent,
    pub(super) quota: Arc<Quota>,
    /// Is cancelled when what named it counts no more: what it has opened ends.
    pub(super) proof: CancellationToken,
    /// From where; none at a unix socket.
    pub(super) from: Option<IpAddr>,
    /// Which way it came in.
    pub(super) door: Door,
}

impl Doors {
    /// Serves one connection of the proxy port.
    pub(super) async fn proxy_connection<I>(
        self: Arc<Self>,
        stream: I,
        shown: Connection,
        guest: Arc<Guest>,
    ) where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let doors = self.clone();
        let service = service_fn(move |request| {
            let (doors, shown, guest) = (doors.clone(), shown.clone(), guest.clone());
            async move { Ok::<_, Infallible>(doors.enter(request, shown, guest).await) }
        });
        watched(self.serve_http1(stream, service, Whose::Nobodys)).await;
    }

    /// Serves HTTP/1.1 until the peer leaves or the drain ends the last exchange.
    pub(super) async fn serve_http1<I, S>(&self, io: I, service: S, whose: Whose)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        S: Service<Request<Incoming>, Response = Response<AgentBody>, Error = Infallible>
            + Send
            + 'static,
        S::Future: Send,
    {
        let wanted = Wanted::default();
        let heads = Heads::new(self.limits.request_head + HEAD_SLACK);
        let refuse = self.refuse_unread(whose.clone(), wanted.clone());
        let interim = Interim::default();
        let io = Linger::new(io, wanted.clone());
        let io = Watched::new(io, heads.clone(), interim.clone(), refuse);
        let io = io.severed_by(self.severing(whose.clone()));
        let asked = Arc::new(AtomicBool::new(false));
        let service = service_fn({
            let asked = asked.clone();
            move |request| {
                asked.store(true, Ordering::Relaxed);
                let signs = Signs {
                    heads: heads.clone(),
                    wanted: wanted.clone(),
                    interim: interim.clone(),
                };
                judged(request, &service, signs)
            }
        });
        let connection = http1::Builder::new()
            // How long a head, and the silence before it, may last is measured beside the parser (`Watched`).
            .header_read_timeout(None)
            .max_buf_size(self.limits.request_head + 2 * HEAD_SLACK)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.draining.cancelled() => {
                // hyper would go on waiting for the first request.
                if !asked.load(Ordering::Relaxed) {
                    return;
                }
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = self.cut.cancelled() => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "an agent's connection ended early");
            self.note_unread(&error, &whose);
        }
    }

    /// A head that the parser refused was answered by it, without a document; it is a refused request all the same.
    fn note_unread(&self, error: &hyper::Error, whose: &Whose) {
        let code = if error.is_parse_too_large() {
            Code::HeadTooLarge
        } else if error.is_parse() {
            Code::BadRequest
        } else {
            return;
        };
        let (door, agent, authority) = whose.words();
        self.exchange.unread(code, door, agent, authority);
    }

    /// What ends a head that is on its way in a tunnel, where its agent and its destination are known.
    fn severing(&self, whose: Whose) -> Option<Box<dyn Fn() -> Severing + Send>> {
        let Whose::Tunnel(_, caller) = whose else {
            return None;
        };
        let exchange = self.exchange.clone();
        Some(Box::new(move || {
            let (exchange, caller) = (exchange.clone(), caller.clone());
            Box::pin(async move { exchange.severed(caller.0.name(), &caller.1).await })
        }))
    }

    /// How a connection ends whose next head the parser is not given: a line, and a document.
    fn refuse_unread(&self, whose: Whose, wanted: Wanted) -> Refuse {
        let exchange = self.exchange.clone();
        Box::new(move |code| {
            // The agent may be sending still, and should read what it is told.
            wanted.set(true);
            let (door, agent, authority) = whose.words();
            exchange.last_words(code, door, agent, authority)
        })
    }

    /// Whether a head is one that every reader reads alike, and within its limit. In HTTP/1.1 the observer of the
    /// connection has the word; without one there is no request.
    pub(super) fn head_holds(&self, request: &Request<Incoming>) -> Result<(), Refusal> {
        if request.version() != Version::HTTP_2 {
            let judged = request.extensions().get::<Judged>();
            judged.map_or(Err(Code::BadRequest), |judged| judged.0)?;
        }
        let fields = request.headers().iter();
        let fields: usize = fields
            .map(|(name, value)| name.as_str().len() + value.len() + 4)
            .sum();
        let target = request
            .uri()
            .path_and_query()
            .map_or(0, |target| target.as_str().len());
        if fields + target > self.limits.request_head {
            return Err(Code::HeadTooLarge.into());
        }
        Ok(())
    }

    /// One request on the proxy port.
    async fn enter(
        self: Arc<Self>,
        request: Request<Incoming>,
        shown: Connection,
        guest: Arc<Guest>,
    ) -> Response<AgentBody> {
        let caller = self.caller(&request, &shown, &guest).await;
        if request.method() == Method::CONNECT {
            self.connect(request, caller, guest).await
        } else {
            self.absolute(request, caller).await
        }
    }

    /// Who asks, counted: the connection among its agent's, the request in its rate, a failure in its source's.
    async fn caller(
        &self,
        request: &Request<Incoming>,
        shown: &Connection,
        guest: &Guest,
    ) -> Result<Caller, Refusal> {
        let headers = request.headers();
        let wall = self.clock.wall();
        let named = self.named(|agents| agents.identify(shown, headers, wall));
        let now = self.clock.now();
        let (agent, quota, proof) = match named {
            Ok(named) => named,
            Err(why) => {
                let tried = headers.contains_key(PROXY_AUTHORIZATION);
                return Err(self.stranger(why, tried, guest, now).await);
            }
        };
        if let Err(refusal) = guest.claim(agent.name(), &quota) {
            self.metrics.security_event("agent.connections");
            return Err(refusal);
        }
        let (door, counted) = if request.method() == Method::CONNECT {
            (Door::Connect, quota.tunnel(now))
        } else {
            (Door::Absolute, quota.request(now))
        };
        self.paced(counted).await?;
        Ok(Caller {
            agent,
            quota,
            proof,
            from: guest.address,
            door,
        })
    }

    /// Refuses whoever was not identified, and counts it in its source's failures.
    async fn stranger(
        &self,
        why: Unauthenticated,
        tried: bool,
        guest: &Guest,
        now: Moment,
    ) -> Refusal {
        let Err(haste) = self.strangers.failed(guest.source, tried, now) else {
            return why.into();
        };
        self.metrics.security_event("auth.too_many_failures");
        tokio::time::sleep(haste.hold).await;
        haste.refusal()
    }

    /// A refusal for haste, held back to the pace that is allowed.
    pub(super) async fn paced(&self, counted: Result<(), Haste>) -> Result<(), Refusal> {
        let Err(haste) = counted else {
            return Ok(());
        };
        self.metrics.security_event("agent.rate");
        tokio::time::sleep(haste.hold).await;
        Err(haste.refusal())
    }

    /// Whether this agent may send a request in clear to a host. A placeholder that goes astray with it is noticed.
    pub(super) fn admitted(
        &self,
        agent: &Agent,
        authority: &Authority,
        request: &Request<Incoming>,
    ) -> Result<Admission, Refusal> {
        let admitted = self.exchange.admits(agent, authority);
        admitted.map_err(|refusal| {
            let said = (request.headers(), request.uri().query());
            self.exchange
                .goes_nowhere((agent.name(), authority), said, refusal)
        })
    }

    /// `GET http://host/path`: the caller is named with each request.
    async fn absolute(
        &self,
        request: Request<Incoming>,
        caller: Result<Caller, Refusal>,
    ) -> Response<AgentBody> {
        let mut line = match self.exchange.open(&request) {
            Ok(line) => line,
            Err(answer) => return *answer,
        };
        let authority = absolute_authority(request.uri());
        line.at(
            Door::Absolute,
            caller.as_ref().ok().map(|caller| caller.agent.name()),
            authority.as_ref().ok(),
        );
        let holds = self.head_holds(&request);
        let arrival = holds.and(caller).and_then(|caller| {
            self.usual(&caller, true)?;
            let agent = caller.agent;
            let authority = authority?;
            match self.admitted(&agent, &authority, &request)? {
                Admission::Intercept(_) => Arrival::new(agent, authority, Door::Absolute, request),
                // A blind host is reached through its own TLS only; in clear there is nothing to pass through.
                Admission::Tunnel => Err(Code::TlsRequired.into()),
            }
        });
        match arrival {
            Ok(arrival) => Box::pin(self.exchange.answer(arrival, line)).await,
            Err(refusal) => ends(self.exchange.refuse(line, &refusal), &refusal),
        }
    }
}

/// Ends a connection of HTTP/1.1 behind a refusal for too much of something, or of somebody who will not be known later
/// either: kept open it would be more of it.
pub(super) fn ends(mut answer: Response<AgentBody>, refusal: &Refusal) -> Response<AgentBody> {
    if matches!(refusal.code, Code::AgentRateLimited | Code::AgentUnknown) {
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(CONNECTION, close);
    }
    answer
}

/// What the service of a connection of HTTP/1.1 and its bytes tell each other.
struct Signs {
    heads: Heads,
    wanted: Wanted,
    interim: Interim,
}

/// Hands one request to its service, with what the observer says of its head. The answer's end is noted.
fn judged<S>(
    mut request: Request<Incoming>,
    service: &S,
    signs: Signs,
) -> impl Future<Output = Result<Response<Flying<AgentBody>>, Infallible>> + use<S>
where
    S: Service<Request<Incoming>, Response = Response<AgentBody>, Error = Infallible>,
{
    let Signs {
        heads,
        wanted,
        interim,
    } = signs;
    let flight = heads.flight();
    let verdict = Judged(heads.judge(request.headers().len()));
    let connect = request.method() == Method::CONNECT;
    let has_body = !request.body().is_end_stream();
    request.extensions_mut().insert(verdict);
    // HTTP/1.0 knows no interim answers (RFC 9110 §15.2), and in front of a tunnel they would be taken for its bytes.
    if request.version() == Version::HTTP_11 && !connect {
        interim.open();
        request.extensions_mut().insert(interim.clone());
    }
    let answer = service.call(request);
    async move {
        let answer = answer.await?;
        interim.close().await;
        let status = answer.status();
        let switched = status == StatusCode::SWITCHING_PROTOCOLS;
        if switched || (connect && status.is_success()) {
            heads.switched();
        } else if connect {
            heads.refused();
        }
        wanted.set(has_body && !switched);
        Ok(answer.map(|body| Flying {
            body,
            _flight: flight,
        }))
    }
}

/// Whether a name in a TLS handshake is the host that was admitted.
pub(super) fn names_host(sni: Option<&str>, host: &Host) -> bool {
    match sni {
        // Addresses never stand in SNI (RFC 6066 §3), and some clients send none for names either: the tunnel's own
        // name then counts, and every request inside must repeat it.
        None => true,
        Some(name) => Host::parse(name).is_ok_and(|named| named == *host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sni_must_name_the_tunnels_host() {
        let host = Host::parse("api.test").unwrap();
        assert!(names_host(None, &host));
        assert!(names_host(Some("API.test"), &host));
        assert!(!names_host(Some("evil.test"), &host));
        assert!(!names_host(Some("api.test.evil.test"), &host));
        assert!(!names_host(Some(""), &host));
    }
}
