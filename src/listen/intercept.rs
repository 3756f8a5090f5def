//! Inside a tunnel: TLS with a leaf for the tunnel's own name, then HTTP/1.1 or HTTP/2 requests that must repeat it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::server::ServerSessionMemoryCache;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::{StartHandshake, TlsStream};

use super::accept::Doors;
use super::connect::Room;
use super::hello;
use super::proxy::{HEAD_SLACK, Whose, names_host};
use crate::agent::Agent;
use crate::audit::Event;
use crate::ca::{CaError, Leaf, Origin};
use crate::exchange::{AgentBody, Arrival, Door};
use crate::metrics::LeafResult;
use crate::vocab::{Authority, Code, Host};

/// How long a ClientHello may take: a tunnel in which the server should speak first ends here.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the rest of the handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// TLS sessions remembered per host.
const SESSIONS: usize = 64;
/// Flow-control windows towards the agent.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// How often an agent that says nothing on HTTP/2 is asked whether it is there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(30);

impl Doors {
    /// Serves the requests of one tunnel.
    pub(super) async fn intercept<I>(
        self: Arc<Self>,
        io: I,
        agent: Agent,
        authority: Authority,
        room: Room,
    ) where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let greeted = self.handshake(io, &agent, &authority);
        let Some(Some(stream)) = self.draining.run_until_cancelled(greeted).await else {
            return;
        };
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let doors = self.clone();
        let caller = Arc::new((agent, authority));
        let whose = caller.clone();
        let service = service_fn(move |request| {
            let (doors, caller) = (doors.clone(), caller.clone());
            async move { Ok::<_, Infallible>(doors.inside(request, &caller.0, &caller.1).await) }
        });
        if h2 {
            self.serve_http2(stream, service).await;
        } else {
            self.serve_http1(stream, service, Whose::Tunnel(whose))
                .await;
        }
        drop(room);
    }

    /// The TLS handshake: the name is compared before a leaf is looked for.
    async fn handshake<I>(
        &self,
        mut io: I,
        agent: &Agent,
        authority: &Authority,
    ) -> Option<TlsStream<I>>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let hello = tokio::time::timeout(HELLO_TIMEOUT, hello::read(&mut io)).await;
        let Some(hello) = hello.ok()?.ok()? else {
            // Something else than TLS was spoken: nothing is dialled for it, and somebody should hear of it.
            self.exchange.unread(
                Code::BadRequest,
                Door::Connect,
                Some(agent.name()),
                Some(authority),
            );
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
        let config = match self.config(authority.host()) {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(%error, "a leaf certificate could not be minted");
                return None;
            }
        };
        let accept = StartHandshake::from_parts(hello, io).into_stream(config);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, accept).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                // Most often a client that does not trust our CA: worth a line that an operator can find.
                tracing::info!(agent = %agent, %error, "a TLS handshake with an agent failed");
                None
            }
            Err(_) => None,
        }
    }

    /// The TLS configuration for one host; kept while its leaf is.
    fn config(&self, host: &Host) -> Result<Arc<ServerConfig>, CaError> {
        let Leaf { certified, origin } = self
            .leaves
            .leaf(host)
            .inspect_err(|_| self.metrics.leaf(LeafResult::Failed))?;
        self.metrics.leaf(match origin {
            Origin::Minted => LeafResult::Minted,
            Origin::Reused => LeafResult::Cached,
        });
        if origin == Origin::Reused
            && let Some(config) = self.configs.get(host)
        {
            return Ok(config);
        }
        let config = Arc::new(server_config(certified)?);
        self.configs.insert(host.clone(), config.clone());
        Ok(config)
    }

    async fn serve_http2<I, S>(&self, io: I, service: S)
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
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.streams)
            .max_header_list_size(head)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(TokioIo::new(io), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.draining.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = self.cut.cancelled() => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "an agent's HTTP/2 connection ended early");
        }
    }

    /// One request inside a tunnel.
    async fn inside(
        &self,
        request: Request<Incoming>,
        agent: &Agent,
        authority: &Authority,
    ) -> Response<AgentBody> {
        let mut line = match self.exchange.open(&request) {
            Ok(line) => line,
            Err(answer) => return *answer,
        };
        line.at(Door::Connect, Some(agent.name()), Some(authority));
        let arrival = self
            .head_holds(&request)
            .and_then(|()| Arrival::new(agent.clone(), authority.clone(), Door::Connect, request));
        match arrival {
            Ok(arrival) => Box::pin(self.exchange.answer(arrival, line)).await,
            Err(refusal) => self.exchange.refuse(line, &refusal),
        }
    }
}

fn server_config(leaf: Arc<CertifiedKey>) -> Result<ServerConfig, CaError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| CaError::Signing)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(leaf)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    // A replayed first flight would be a second request with our proof on it.
    config.max_early_data_size = 0;
    Ok(config)
}
