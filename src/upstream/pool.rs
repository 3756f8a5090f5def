//! Connections that are kept, per agent and service.
//!
//! A connection never changes hands between agents: bytes that a server sent too much on one exchange can then only
//! ever reach the agent that they were for (the class of "HTTP/1.1 must die"), and no agent learns by timing what
//! another one does. The lock is held for look-ups only, never across an await.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Version;
use tokio::sync::futures::OwnedNotified;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Http1Line, Line, Protocol};
use super::dial::{Dialer, Progress};
use super::error::UpstreamError;
use super::key::{Key, PoolLimits};
use super::open::{Opening, Place};
use super::shelf::{Idle, Kept};
use super::tasks::Tasks;
use super::tls::Endpoint;
use crate::vocab::variant::{Variant, broken};
use crate::vocab::{AgentName, Clock, Moment, Scheme, ServiceName};

/// How often old connections are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How long a request waits for a connection that another request is opening, before it opens one itself.
const SHARE_WAIT: Duration = Duration::from_secs(1);

/// The connections of one way out.
pub(super) struct Pool {
    pub(super) limits: PoolLimits,
    pub(super) dialer: Arc<Dialer>,
    pub(super) tasks: Tasks,
    pub(super) clock: Clock,
    kept: Mutex<Kept>,
    pub(super) open: Arc<AtomicUsize>,
    sweeping: AtomicBool,
    closing: CancellationToken,
}

enum Taken {
    Line(Line),
    Open(Place, Protocol),
    Wait(OwnedNotified),
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
        if need == Protocol::Http2 && key.authority.scheme() == Scheme::Http {
            return Err(UpstreamError::NoHttp2);
        }
        let taken = self.take(key, endpoint.id(), need, true)?;
        if let Taken::Line(line) = taken {
            return Ok(Connection::new(line, true));
        }
        // What a new connection needs is many times as large as what a kept one does, and the request carries it.
        let progress = Progress::default();
        let found = Box::pin(self.find(taken, key, endpoint, need, &progress));
        let found = timeout(deadline, found).await;
        found.unwrap_or_else(|_| Err(progress.timed_out()))
    }

    /// Opens a connection, or waits for one that another request opens.
    async fn find(
        self: &Arc<Self>,
        mut taken: Taken,
        key: &Key,
        endpoint: &Arc<Endpoint>,
        mut need: Protocol,
        progress: &Progress,
    ) -> Result<Connection, UpstreamError> {
        let mut may_wait = true;
        loop {
            match taken {
                Taken::Line(line) => return Ok(Connection::new(line, true)),
                Taken::Open(place, settled) => {
                    let shelf = place.shelf;
                    let stream = self.dial(key, endpoint, progress).await?;
                    match self.open(key, endpoint, settled, place, stream).await {
                        Ok(line) => return Ok(Connection::new(line, false)),
                        Err(UpstreamError::NoHttp1) if need == Protocol::Http1First => {
                            self.note_http2_only(key, shelf);
                            need = Protocol::Any;
                        }
                        Err(error) => return Err(error),
                    }
                }
                Taken::Wait(opened) => may_wait = timeout(SHARE_WAIT, opened).await.is_ok(),
            }
            taken = self.take(key, endpoint.id(), need, may_wait)?;
        }
    }

    /// Whether a kept connection may carry another request.
    fn is_good(&self, idle: &Idle, now: Moment) -> bool {
        let fresh = now.since(idle.since) < self.limits.idle_for;
        fresh && idle.wire.sender.is_ready() && idle.wire.meter.may_be_kept()
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
        let endpoint = if broken(Variant::PoolUnkeyed) {
            1
        } else {
            endpoint
        };
        let now = self.clock.now();
        let mut kept = self.kept();
        let kept = &mut *kept;
        let shelf = kept.shelves.entry(key.clone()).or_default();
        shelf.used = now;
        if shelf.endpoint < endpoint {
            kept.idle -= shelf.clear();
            kept.made += 1;
            (shelf.endpoint, shelf.id) = (endpoint, kept.made);
        }
        let need = shelf.settle(need);
        if shelf.endpoint > endpoint {
            return Ok(Taken::Open(Place::apart(shelf.busy()), need));
        }
        let multiplexed = need != Protocol::Http1 && key.authority.scheme() == Scheme::Https;
        if let Some(line) = multiplexed.then(|| shelf.http2_line()).flatten() {
            return Ok(Taken::Line(Line::Http2(line)));
        }
        while need != Protocol::Http2
            && let Some(idle) = shelf.http1.pop()
        {
            kept.idle -= 1;
            if self.is_good(&idle, now) {
                return Ok(Taken::Line(Line::Http1(Box::new(Http1Line {
                    wire: idle.wire,
                    pool: self.clone(),
                    key: key.clone(),
                    shelf: shelf.id,
                    reused: true,
                    _busy: shelf.busy(),
                }))));
            }
        }
        let shareable = multiplexed && shelf.known != Some(Version::HTTP_11);
        if shareable && shelf.opening > 0 && may_wait {
            return Ok(Taken::Wait(shelf.opened.clone().notified_owned()));
        }
        if multiplexed && shelf.http2.len() >= self.limits.per_key {
            return Err(UpstreamError::Limit);
        }
        shelf.opening += usize::from(shareable);
        let id = shelf.id;
        let opening = shareable.then(|| self.opening(key, id));
        let place = Place {
            shelf: id,
            opening,
            busy: shelf.busy(),
        };
        Ok(Taken::Open(place, need))
    }

    fn opening(self: &Arc<Self>, key: &Key, shelf: u64) -> Opening {
        Opening {
            pool: self.clone(),
            key: key.clone(),
            shelf,
        }
    }

    /// The next request does not offer HTTP/1.1 in vain.
    fn note_http2_only(&self, key: &Key, shelf: u64) {
        if let Some(shelf) = self.kept().shelf(key, shelf) {
            shelf.http2_only = true;
        }
    }

    /// Puts an HTTP/1.1 connection on its shelf, or closes it where there is no room or no such shelf any
    /// more, or where its peer said more than it was asked.
    pub(super) fn park(line: Http1Line) {
        if !line.wire.meter.may_be_kept() {
            return;
        }
        let pool = line.pool;
        let since = pool.clock.now();
        let mut kept = pool.kept();
        let kept = &mut *kept;
        let full = kept.idle >= pool.limits.idle;
        if let Some(shelf) = kept.shelf(&line.key, line.shelf)
            && !full
            && shelf.http1.len() < pool.limits.per_key
        {
            shelf.http1.push(Idle {
                wire: line.wire,
                since,
            });
            kept.idle += 1;
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

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.kept().shelves.is_empty()
    }

    #[cfg(test)]
    pub(super) fn connections(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Closes what is dead or was unused for long.
    pub(super) fn sweep(&self) {
        self.kept().sweep(self.clock.now(), self.limits.idle_for);
    }

    /// Starts the task that sweeps, once.
    pub(super) fn sweep_from_time_to_time(self: &Arc<Self>) {
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

    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        // What a panicking thread left is a valid map; at worst a count is off by one.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
