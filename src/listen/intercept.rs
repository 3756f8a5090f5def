//! Inside a tunnel: TLS with a leaf for the tunnel's own name, then HTTP/1.1 or HTTP/2 requests that must repeat it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::server::Accepted;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::server::{StartHandshake, TlsStream};

use super::accept::Doors;
use super::bucket::Rate;
use super::calm::{Calm, Withdrawals};
use super::hello;
use super::proxy::{Caller, HEAD_SLACK, Whose, names_host};
use super::quota::Quota;
use crate::audit::Event;
use crate::ca::{Leaf, Origin};
use crate::exchange::{AgentBody, Arrival, watched};
use crate::metrics::LeafResult;
use crate::vocab::variant::{Variant, broken};
use crate::vocab::{Authority, Code, Host, Scheme};

/// How long a TLS handshake may take, from the opening of the tunnel to its end: a tunnel in which the server should
/// speak first ends here, and so does one that brings its ClientHello byte by byte.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a handshake waits for its turn where its agent asks for too many certificates at once.
const MINT_PATIENCE: Duration = Duration::from_secs(2);
/// Flow-control windows towards the agent: what an upload may have waiting for a slow API, on one stream and on one
/// connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// What an answer may have waiting for a slow agent, on one stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that an agent may open and reset before they were looked at; one more, and the connection ends with
/// ENHANCE_YOUR_CALM (the rapid reset attack, CVE-2023-44487).
const RESETS_PENDING: usize = 20;
/// How long the reason may take to be written.
const CALM_TIMEOUT: Duration = Duration::from_secs(1);
/// Streams that we may have to reset for errors in them, over a connection's life (CVE-2025-8671).
const RESETS_LOCAL: usize = 1024;
/// How often an agent that says nothing on HTTP/2 is asked whether it is there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(30);

impl Doors {
    /// Serves the requests of one tunnel: behind TLS that ends here, or in clear where the service is plain HTTP. Node's
    /// `fetch` opens tunnels for those too.
    pub(super) async fn intercept<I>(self: Arc<Self>, io: I, caller: Caller, authority: Authority)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        // In boxes, so that a tunnel that is open for hours does not hold room for what it did in its first milliseconds,
        // or for the protocol that it does not speak.
        if authority.scheme() == Scheme::Http {
            return Box::pin(self.serve_tunnel(io, false, caller, authority)).await;
        }
        let greeted = Box::pin(self.handshake(io, &caller, &authority));
        let Some(Some(stream)) = self.draining.run_until_cancelled(greeted).await else {
            return;
        };
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        self.serve_tunnel(stream, h2, caller, authority).await;
    }

    /// The requests of a tunnel, once it is known what is spoken in it.
    pub(super) async fn serve_tunnel<I>(
        self: Arc<Self>,
        stream: I,
        h2: bool,
        caller: Caller,
        authority: Authority,
    ) where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let doors = self.clone();
        #[cfg(feature = "variants")]
        let ride = crate::exchange::Ride::default();
        let withdrawals = Withdrawals::new(self.withdrawals(), self.clock.clone());
        let door = caller.door;
        // Of the tunnel's own: asked with each step, it is no place where all tunnels of an agent meet.
        let proof = caller.proof.child_token();
        let tunnel = Arc::new((caller, authority, withdrawals.clone()));
        let whose = tunnel.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            #[cfg(feature = "variants")]
            let request = crate::exchange::riding(request, &ride);
            let (doors, tunnel) = (doors.clone(), tunnel.clone());
            async move {
                let (caller, authority, withdrawals) = &*tunnel;
                let asked = withdrawals.asked();
                let answer = doors.inside(request, caller, authority).await;
                asked.answered();
                Ok::<_, Infallible>(answer)
            }
        });
        let whose = Arc::new((whose.0.agent.clone(), whose.1.clone()));
        let agent = whose.clone();
        let served = async {
            if h2 {
                Box::pin(self.serve_http2(stream, service, withdrawals)).await;
            } else {
                let whose = Whose::Tunnel(door, whose);
                Box::pin(watched(self.serve_http1(stream, service, whose))).await;
            }
        };
        if proof.run_until_cancelled(served).await.is_none() {
            tracing::info!(agent = %agent.0, "a tunnel ends: what its agent was known by counts no more");
        }
    }

    /// The TLS handshake: the name is compared before a leaf is looked for.
    async fn handshake<I>(
        &self,
        mut io: I,
        caller: &Caller,
        authority: &Authority,
    ) -> Option<Box<TlsStream<I>>>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let agent = &caller.agent;
        let end = Instant::now() + HANDSHAKE_TIMEOUT;
        let unread = |code| {
            let (door, agent) = (caller.door, Some(agent.name()));
            self.exchange.unread(code, door, agent, Some(authority));
        };
        let Ok(hello) = timeout_at(end, hello::read(&mut io)).await else {
            unread(Code::RequestTimeout);
            return None;
        };
        let Some(hello) = hello.ok()? else {
            // Something else than TLS was spoken: nothing is dialled for it, and somebody should hear of it.
            unread(Code::BadRequest);
            return None;
        };
        if !names_host(hello.client_hello().server_name(), authority.host()) {
            self.exchange.event(Event::SniMismatch {
                agent: agent.name().clone(),
            });
            let refused = hello::refuse_name(&mut io).await;
            tracing::debug!(
                refused = refused.is_ok(),
                "a tunnel asked for another name than it was opened for"
            );
            return None;
        }
        self.shake((hello, io), caller, authority, end).await
    }

    /// The rest of a handshake whose ClientHello names the host: with a leaf for it.
    pub(super) async fn shake<I>(
        &self,
        (hello, mut io): (Accepted, I),
        caller: &Caller,
        authority: &Authority,
        end: Instant,
    ) -> Option<Box<TlsStream<I>>>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let agent = &caller.agent;
        let (config, waited) = match self.config(authority.host(), &caller.quota).await {
            Ok(config) => config,
            Err(code) => {
                let (door, named) = (caller.door, Some(agent.name()));
                self.exchange.unread(code, door, named, Some(authority));
                let refused = hello::refuse_for_now(&mut io).await;
                tracing::debug!(refused = refused.is_ok(), "a handshake got no certificate");
                return None;
            }
        };
        let accept = StartHandshake::from_parts(hello, io).into_stream(config);
        match timeout_at(end + waited, accept).await {
            // In a box: it is handed on several times, and each time whoever hands it on would keep room for all of it.
            Ok(Ok(stream)) => Some(Box::new(stream)),
            Ok(Err(error)) => {
                // Most often a client that does not trust our CA: worth a line that an operator can find.
                tracing::info!(agent = %agent, %error, "a TLS handshake with an agent failed");
                None
            }
            Err(_) => {
                tracing::info!(agent = %agent, "a TLS handshake with an agent took too long");
                None
            }
        }
    }

    /// The TLS configuration for one host, kept while its leaf is, and how long its agent had to wait for it.
    async fn config(
        &self,
        host: &Host,
        quota: &Quota,
    ) -> Result<(Arc<ServerConfig>, Duration), Code> {
        let mut waited = Duration::ZERO;
        if self.leaves.holds(host) {
            if let Some(config) = self.interception.kept(host) {
                self.metrics.leaf(LeafResult::Cached);
                return Ok((config, waited));
            }
        } else {
            // Below a wildcard an agent may think up names without end, and each costs a signature and a place.
            waited = quota
                .mints
                .reserve(self.clock.now(), MINT_PATIENCE)
                .map_err(|_| {
                    self.metrics.security_event("agent.certificates");
                    Code::AgentRateLimited
                })?;
            tokio::time::sleep(waited).await;
        }
        let Leaf { certified, origin } = self.leaves.leaf(host).map_err(|error| {
            self.metrics.leaf(LeafResult::Failed);
            tracing::error!(%error, "a leaf certificate could not be minted");
            Code::Internal
        })?;
        self.metrics.leaf(match origin {
            Origin::Minted => LeafResult::Minted,
            Origin::Reused => LeafResult::Cached,
        });
        Ok((self.interception.with(host, certified), waited))
    }

    /// What one connection may take back: as much as it may have open, and then half of its agent's rate. Callers that
    /// hedge or give up early stay below that.
    fn withdrawals(&self) -> Rate {
        Rate {
            per_second: self.limits.requests_per_second / 2,
            burst: self.limits.streams,
        }
    }

    async fn serve_http2<I, S>(&self, io: I, service: S, withdrawals: Arc<Withdrawals>)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        S: hyper::service::Service<
                Request<Incoming>,
                Response = Response<AgentBody>,
                Error = Infallible,
            > + Send
            + 'static,
        S::Future: Send + 'static,
    {
        let head = u32::try_from(self.limits.request_head + HEAD_SLACK).unwrap_or(u32::MAX);
        let connection = http2::Builder::new(Watched)
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.streams)
            .max_header_list_size(head)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(RESETS_PENDING)
            .max_local_error_reset_streams(RESETS_LOCAL)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(TokioIo::new(Calm::new(io, withdrawals.clone())), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = withdrawals.too_many() => {
                tokio::select! {
                    ended = connection => ended,
                    () = tokio::time::sleep(CALM_TIMEOUT) => Ok(()),
                }
            }
            () = self.draining.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = self.cut.cancelled() => return,
                }
            }
        };
        if withdrawals.were_too_many() {
            self.metrics.security_event("agent.resets");
        }
        if let Err(error) = ended {
            tracing::debug!(%error, "an agent's HTTP/2 connection ended early");
        }
    }

    /// One request inside a tunnel.
    async fn inside(
        &self,
        request: Request<Incoming>,
        caller: &Caller,
        authority: &Authority,
    ) -> Response<AgentBody> {
        let named = broken(Variant::HostTrusting).then(|| told(&request));
        let authority = named.as_ref().and_then(Option::as_ref).unwrap_or(authority);
        let Caller {
            agent, quota, door, ..
        } = caller;
        let counted = self.paced(quota.request(self.clock.now())).await;
        let mut line = match self.exchange.open(&request) {
            Ok(line) => line,
            Err(answer) => return *answer,
        };
        line.at(*door, Some(agent.name()), Some(authority));
        let arrival = counted
            .and_then(|()| self.usual(caller, true))
            .and_then(|()| self.head_holds(&request))
            .and_then(|()| Arrival::new(agent.clone(), authority.clone(), *door, request));
        match arrival {
            Ok(arrival) => Box::pin(self.exchange.answer(arrival, line)).await,
            Err(refusal) => self.exchange.refuse(line, &refusal),
        }
    }
}

/// What the request itself calls its destination; believed by a broken variant alone.
fn told(request: &Request<Incoming>) -> Option<Authority> {
    let field = request.headers().get(http::header::HOST);
    let name = match field {
        Some(field) => field.to_str().ok()?,
        None => request.uri().authority()?.as_str(),
    };
    Authority::parse(Scheme::Https, name).ok()
}

/// Runs the streams of an HTTP/2 connection, each watched: one that its agent does not take is reset.
#[derive(Clone, Copy)]
struct Watched;

impl<F> Executor<F> for Watched
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        tokio::spawn(async move {
            if watched(stream).await.is_none() {
                tracing::debug!("an agent did not take its answer in time");
            }
        });
    }
}
