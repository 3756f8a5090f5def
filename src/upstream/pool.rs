//! Connections that are kept, per agent and service.
//!
//! A connection never changes hands between agents: bytes that a server sent too much on one exchange can then only
//! ever reach the agent that they were for (the class of "HTTP/1.1 must die"), and no agent learns by timing what
//! another one does. The lock is held for look-ups only, never across an await.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::poll_fn;
use http::Version;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Http1Line, Http1Wire, Http2Line, Http2Shared, Line, Protocol};
use super::dial::{Destination, Dialer, Progress};
use super::error::UpstreamError;
use super::stream::{Counted, Stream};
use super::tasks::Tasks;
use super::tls::Endpoint;
use crate::policy::Permit;
use crate::vocab::{AgentName, Authority, Clock, Moment, Scheme, ServiceName};

/// How often old connections are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How long a request waits for a connection that another request is opening, before it opens one itself.
const SHARE_WAIT: Duration = Duration::from_secs(1);
/// Largest head of a reply.
const HEAD_MAX: u32 = 64 * 1024;
/// Largest buffer of an HTTP/1.1 connection.
const HTTP1_BUFFER_MAX: usize = 256 * 1024;
/// Flow-control windows: enough for 100 MB/s at 10 ms on one stream.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// What waits unsent on one HTTP/2 stream at most.
const SEND_BUFFER_MAX: usize = 256 * 1024;
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Bounds of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Connections in use and kept, in all.
    pub connections: usize,
    /// HTTP/1.1 connections kept for one agent, service and authority; also its HTTP/2 connections.
    pub per_key: usize,
    /// HTTP/1.1 connections kept, in all.
    pub idle: usize,
    /// How long a connection is kept unused.
    pub idle_for: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            connections: 8192,
            per_key: 64,
            idle: 1024,
            idle_for: Duration::from_secs(60),
        }
    }
}

/// Whose connections: an agent's to a service, at one authority.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// `None` for calls of our own to an issuer, which have a pool of their own besides.
    owner: Option<(AgentName, ServiceName)>,
    authority: Authority,
}

impl Key {
    /// The key of an agent's requests to a service.
    #[must_use]
    pub fn new(agent: AgentName, service: ServiceName, authority: Authority) -> Self {
        Self {
            owner: Some((agent, service)),
            authority,
        }
    }

    pub(super) fn issuer(authority: Authority) -> Self {
        Self {
            owner: None,
            authority,
        }
    }
}

/// The key of what a permit allows.
#[must_use]
pub fn key(permit: &Permit) -> Key {
    Key::new(
        permit.agent().clone(),
        permit.service().clone(),
        permit.authority().clone(),
    )
}

pub(super) struct Pool {
    limits: PoolLimits,
    dialer: Arc<Dialer>,
    tasks: Tasks,
    clock: Clock,
    kept: Mutex<Kept>,
    open: Arc<AtomicUsize>,
    sweeping: AtomicBool,
    closing: CancellationToken,
}

#[derive(Default)]
struct Kept {
    shelves: HashMap<Key, Shelf>,
    /// HTTP/1.1 connections on all shelves.
    idle: usize,
}

/// What is kept under one key, all for one endpoint.
#[derive(Default)]
struct Shelf {
    endpoint: u64,
    http1: Vec<Idle>,
    http2: Vec<Arc<Http2Shared>>,
    /// What the server chose the last time.
    known: Option<Version>,
    /// Connections being opened that others may come to share.
    opening: usize,
    opened: Arc<Notify>,
}

struct Idle {
    wire: Http1Wire,
    since: Moment,
}

enum Taken {
    Line(Line),
    Open(Option<Opening>),
    Wait(OwnedNotified),
}

/// Keeps others from opening more of the same, until the connection can be shared or has failed.
struct Opening {
    pool: Arc<Pool>,
    key: Key,
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(shelf) = self.pool.kept().shelves.get_mut(&self.key) {
            shelf.opening = shelf.opening.saturating_sub(1);
            shelf.opened.notify_waiters();
        }
    }
}

/// A TCP connection, counted.
struct Raw {
    stream: TcpStream,
    open: Open,
}

/// Counts an open connection for as long as its task lives.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Pool {
    pub(super) fn new(
        limits: PoolLimits,
        dialer: Arc<Dialer>,
        tasks: Tasks,
        clock: Clock,
    ) -> Arc<Self> {
        Arc::new(Self {
            limits,
            dialer,
            tasks,
            clock,
            kept: Mutex::default(),
            open: Arc::default(),
            sweeping: AtomicBool::new(false),
            closing: CancellationToken::new(),
        })
    }

    /// A pool with connections and bounds of its own that is closed together with this one.
    pub(super) fn sibling(&self, limits: PoolLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            dialer: self.dialer.clone(),
            tasks: self.tasks.clone(),
            clock: self.clock.clone(),
            kept: Mutex::default(),
            open: Arc::default(),
            sweeping: AtomicBool::new(false),
            closing: self.closing.child_token(),
        })
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// A kept connection, or a new one within `deadline`.
    pub(super) async fn checkout(
        self: &Arc<Self>,
        key: &Key,
        endpoint: &Arc<Endpoint>,
        need: Protocol,
        deadline: Duration,
    ) -> Result<Connection, UpstreamError> {
        let progress = Progress::default();
        let found = timeout(deadline, async {
            let mut may_wait = true;
            loop {
                match self.take(key, endpoint.id(), need, may_wait)? {
                    Taken::Line(line) => return Ok(Connection::new(line, true)),
                    Taken::Open(opening) => {
                        let stream = self.dial(key, endpoint, deadline, &progress).await?;
                        let line = self.open(key, endpoint, need, opening, stream).await?;
                        return Ok(Connection::new(line, false));
                    }
                    Taken::Wait(opened) => may_wait = timeout(SHARE_WAIT, opened).await.is_ok(),
                }
            }
        });
        found.await.unwrap_or_else(|_| Err(progress.timed_out()))
    }

    fn take(
        self: &Arc<Self>,
        key: &Key,
        endpoint: u64,
        need: Protocol,
        may_wait: bool,
    ) -> Result<Taken, UpstreamError> {
        if self.closing.is_cancelled() {
            return Err(UpstreamError::Draining);
        }
        let now = self.clock.now();
        let mut kept = self.kept();
        let kept = &mut *kept;
        let shelf = kept.shelves.entry(key.clone()).or_default();
        if shelf.endpoint < endpoint {
            kept.idle -= shelf.clear();
            shelf.endpoint = endpoint;
        }
        let current = shelf.endpoint == endpoint;
        let multiplexed = need == Protocol::Any && key.authority.scheme() == Scheme::Https;
        if multiplexed && current {
            shelf.http2.retain(|shared| !shared.sender.is_closed());
            let place = shelf
                .http2
                .iter()
                .find_map(|s| s.meter.greeted().then(|| s.place())?);
            if let Some(line) = place {
                return Ok(Taken::Line(Line::Http2(line)));
            }
        }
        while let Some(idle) = current.then(|| shelf.http1.pop()).flatten() {
            kept.idle -= 1;
            let fresh = now.since(idle.since) < self.limits.idle_for;
            if fresh && idle.wire.sender.is_ready() {
                return Ok(Taken::Line(Line::Http1(Http1Line {
                    wire: idle.wire,
                    pool: self.clone(),
                    key: key.clone(),
                    endpoint,
                    reused: true,
                })));
            }
        }
        let shareable = multiplexed && current && shelf.known != Some(Version::HTTP_11);
        if shareable && shelf.opening > 0 && may_wait {
            return Ok(Taken::Wait(shelf.opened.clone().notified_owned()));
        }
        if multiplexed && shelf.http2.len() >= self.limits.per_key {
            return Err(UpstreamError::Limit);
        }
        let opening = shareable.then(|| {
            shelf.opening += 1;
            Opening {
                pool: self.clone(),
                key: key.clone(),
            }
        });
        Ok(Taken::Open(opening))
    }

    /// Looks up and dials.
    async fn dial(
        self: &Arc<Self>,
        key: &Key,
        endpoint: &Endpoint,
        deadline: Duration,
        progress: &Progress,
    ) -> Result<Raw, UpstreamError> {
        let open = self.count_in()?;
        self.sweep_from_time_to_time();
        let authority = &key.authority;
        let (host, port) = match endpoint.connect() {
            Some(to) => (&to.host, to.port.unwrap_or_else(|| authority.port())),
            None => (authority.host(), authority.port()),
        };
        let to = Destination {
            host,
            port,
            allow_private: endpoint.allow_private(),
        };
        let stream = self.dialer.connect(&to, deadline, progress).await?;
        Ok(Raw { stream, open })
    }

    /// Makes an HTTP connection of a TCP one.
    async fn open(
        self: &Arc<Self>,
        key: &Key,
        endpoint: &Arc<Endpoint>,
        need: Protocol,
        opening: Option<Opening>,
        raw: Raw,
    ) -> Result<Line, UpstreamError> {
        let Raw { stream, open } = raw;
        let authority = &key.authority;
        if authority.scheme() == Scheme::Http {
            return self
                .start_http1(key, endpoint, Stream::Plain(stream), open)
                .await;
        }
        let stream = endpoint.handshake(authority.host(), need, stream).await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let stream = Stream::Tls(Box::new(stream));
        let version = if http2 {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        };
        if need == Protocol::Any
            && let Some(shelf) = self.kept().shelves.get_mut(key)
        {
            shelf.known = Some(version);
        }
        if http2 {
            self.start_http2(key, endpoint, stream, open, opening).await
        } else {
            self.start_http1(key, endpoint, stream, open).await
        }
    }

    async fn start_http1(
        self: &Arc<Self>,
        key: &Key,
        endpoint: &Arc<Endpoint>,
        stream: Stream,
        open: Open,
    ) -> Result<Line, UpstreamError> {
        let (stream, meter) = Counted::new(stream);
        let handshake = http1::Builder::new()
            .max_buf_size(HTTP1_BUFFER_MAX)
            .max_header_size(HEAD_MAX as usize)
            .handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(|_| UpstreamError::Protocol)?;
        self.tasks.spawn(async move {
            let _open = open;
            // Whoever waits for the reply is told of the error; nobody else needs to be.
            connection.with_upgrades().await.is_ok()
        });
        Ok(Line::Http1(Http1Line {
            wire: Http1Wire { sender, meter },
            pool: self.clone(),
            key: key.clone(),
            endpoint: endpoint.id(),
            reused: false,
        }))
    }

    async fn start_http2(
        self: &Arc<Self>,
        key: &Key,
        endpoint: &Arc<Endpoint>,
        stream: Stream,
        open: Open,
        opening: Option<Opening>,
    ) -> Result<Line, UpstreamError> {
        let (stream, meter) = Counted::new(stream);
        let handshake = http2::Builder::new(self.tasks.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD_MAX)
            .max_send_buf_size(SEND_BUFFER_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(stream));
        let (sender, mut connection) = handshake.await.map_err(|_| UpstreamError::Protocol)?;
        let limit = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
        let shared = Arc::new(Http2Shared {
            sender,
            meter: meter.clone(),
            streams: AtomicUsize::new(1),
            limit: limit.clone(),
            idle_since: AtomicU64::new(self.clock.now().0),
            clock: self.clock.clone(),
        });
        if let Some(shelf) = self.kept().shelves.get_mut(key)
            && shelf.endpoint == endpoint.id()
            && !self.closing.is_cancelled()
        {
            shelf.http2.push(shared.clone());
        }
        let mut opening = opening;
        self.tasks.spawn(async move {
            let _open = open;
            // Polled at every request and once when the peer's SETTINGS came: its stream limit is known from then on.
            let driven = poll_fn(|cx| {
                meter.watcher().register(cx.waker());
                let state = std::pin::Pin::new(&mut connection).poll(cx);
                limit.store(connection.current_max_send_streams(), Ordering::Release);
                if meter.greeted() {
                    drop(opening.take());
                }
                state
            });
            driven.await.is_ok()
        });
        Ok(Line::Http2(Http2Line {
            shared,
            was_idle: false,
        }))
    }

    /// Puts an HTTP/1.1 connection on its shelf, or closes it where there is no room or no such shelf any more.
    pub(super) fn park(line: Http1Line) {
        let pool = line.pool;
        let since = pool.clock.now();
        let mut kept = pool.kept();
        let kept = &mut *kept;
        let Some(shelf) = kept.shelves.get_mut(&line.key) else {
            return;
        };
        let room = kept.idle < pool.limits.idle && shelf.http1.len() < pool.limits.per_key;
        if room && shelf.endpoint == line.endpoint && !pool.closing.is_cancelled() {
            kept.idle += 1;
            shelf.http1.push(Idle {
                wire: line.wire,
                since,
            });
        }
    }

    /// Closes what is kept of those whom `whose` names. Connections in use find no shelf when they come back.
    pub(super) fn close_idle(&self, whose: impl Fn(&AgentName, &ServiceName) -> bool) {
        self.kept().retain(|key, _| {
            let owner = key.owner.as_ref();
            !owner.is_some_and(|(agent, service)| whose(agent, service))
        });
    }

    /// Closes everything that is kept, and keeps nothing from then on.
    pub(super) fn close(&self) {
        self.closing.cancel();
        self.kept().retain(|_, _| false);
    }

    /// Closes what is dead or was unused for long.
    fn sweep(&self) {
        let now = self.clock.now();
        let idle_for = self.limits.idle_for;
        let mut kept = self.kept();
        let mut closed = 0;
        for shelf in kept.shelves.values_mut() {
            let before = shelf.http1.len();
            shelf
                .http1
                .retain(|idle| now.since(idle.since) < idle_for && !idle.wire.sender.is_closed());
            closed += before - shelf.http1.len();
            shelf.http2.retain(|shared| {
                let since = Moment(shared.idle_since.load(Ordering::Acquire));
                let used = shared.streams.load(Ordering::Acquire) > 0;
                !shared.sender.is_closed() && (used || now.since(since) < idle_for)
            });
        }
        kept.idle -= closed;
        kept.shelves
            .retain(|_, shelf| shelf.opening > 0 || !shelf.is_empty());
    }

    /// Starts the task that sweeps, once.
    fn sweep_from_time_to_time(self: &Arc<Self>) {
        if self.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let pool = Arc::downgrade(self);
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            while timeout(SWEEP_EVERY, closing.cancelled()).await.is_err() {
                match pool.upgrade() {
                    Some(pool) => pool.sweep(),
                    None => return,
                }
            }
            if let Some(pool) = pool.upgrade() {
                pool.close();
            }
        });
    }

    /// Counts a connection in. At the bound, idle ones make room for the next request.
    fn count_in(&self) -> Result<Open, UpstreamError> {
        let before = self.open.fetch_add(1, Ordering::AcqRel);
        let open = Open(self.open.clone());
        if before < self.limits.connections {
            return Ok(open);
        }
        self.kept().retain(|_, shelf| shelf.opening > 0);
        Err(UpstreamError::Limit)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // What a panicking thread left is a valid map; at worst a count is off by one.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn retain(&mut self, keep: impl Fn(&Key, &Shelf) -> bool) {
        let mut closed = 0;
        self.shelves.retain(|key, shelf| {
            let stays = keep(key, shelf);
            if !stays {
                closed += shelf.clear();
            }
            stays
        });
        self.idle -= closed;
    }
}

impl Shelf {
    /// Closes all; how many were HTTP/1.1.
    fn clear(&mut self) -> usize {
        self.http2.clear();
        self.known = None;
        std::mem::take(&mut self.http1).len()
    }

    fn is_empty(&self) -> bool {
        self.http1.is_empty() && self.http2.is_empty()
    }
}
