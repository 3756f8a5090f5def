//! A connection in hand: an HTTP/1.1 connection that nobody else uses, or one stream's place on an HTTP/2 connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::Version;
use hyper::client::conn::{http1, http2};
use tokio::time::timeout;

use super::client::Outgoing;
use super::key::Key;
use super::pool::Pool;
use super::shelf::Busy;
use super::stream::Meter;
use crate::vocab::Clock;

/// How long a connection may take to become free after its reply has ended; longer means that the request's body is
/// still flowing, and then it is not kept.
const FREE_AFTER_MAX: Duration = Duration::from_secs(5);

/// Which protocols will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 or HTTP/1.1, as the server prefers.
    Any,
    /// HTTP/1.1 only: the exchange will be upgraded (RFC 6455 §4.1).
    Http1,
    /// HTTP/1.1, and HTTP/2 where the server speaks nothing else, or where many requests are under way, which then share a
    /// connection. For agents that speak HTTP/1.1 themselves: a single request gains nothing by being translated.
    Http1First,
    /// HTTP/2 only: gRPC.
    Http2,
}

/// A connection that was checked out for one request. Dropped unused, it goes back.
pub struct Connection {
    line: Option<Line>,
    reused: bool,
}

pub(super) enum Line {
    /// Boxed: it is eight times as large as the other, and moves with its request.
    Http1(Box<Http1Line>),
    Http2(Http2Line),
}

impl Connection {
    pub(super) fn new(line: Line, reused: bool) -> Self {
        Self {
            line: Some(line),
            reused,
        }
    }

    /// `HTTP_11` or `HTTP_2`.
    #[must_use]
    pub fn version(&self) -> Version {
        match &self.line {
            Some(Line::Http2(_)) => Version::HTTP_2,
            Some(Line::Http1(_)) | None => Version::HTTP_11,
        }
    }

    /// Whether it carried a request before.
    #[must_use]
    pub fn reused(&self) -> bool {
        self.reused
    }

    /// Hands over the line; nothing goes back by itself from then on.
    pub(super) fn into_line(mut self) -> Option<Line> {
        self.line.take()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(Line::Http1(line)) = self.line.take() {
            line.give_back();
        }
    }
}

/// An HTTP/1.1 connection in exclusive use.
pub(super) struct Http1Line {
    pub(super) wire: Http1Wire,
    pub(super) pool: Arc<Pool>,
    pub(super) key: Key,
    pub(super) shelf: u64,
    pub(super) reused: bool,
    pub(super) _busy: Busy,
}

/// The sending half, and what has passed.
pub(super) struct Http1Wire {
    pub(super) sender: http1::SendRequest<Outgoing>,
    pub(super) meter: Arc<Meter>,
}

impl Http1Line {
    /// Keeps the connection for the next request of the same agent and service, once hyper says that it is free: the
    /// reply has been read to its end and the request has been written to its end. Bytes of one exchange cannot be
    /// taken for another's then.
    pub(super) fn give_back(mut self: Box<Self>) {
        if self.wire.sender.is_ready() {
            return Pool::park(*self);
        }
        if self.wire.sender.is_closed() {
            return;
        }
        let tasks = self.pool.tasks().clone();
        tasks.spawn(async move {
            if let Ok(Ok(())) = timeout(FREE_AFTER_MAX, self.wire.sender.ready()).await {
                Pool::park(*self);
            }
        });
    }
}

/// One stream's place on a shared HTTP/2 connection; given up when dropped.
pub(super) struct Http2Line {
    pub(super) shared: Arc<Http2Shared>,
    /// Whether the connection carried requests before and none at that moment.
    pub(super) was_idle: bool,
}

/// An HTTP/2 connection.
pub(super) struct Http2Shared {
    pub(super) sender: http2::SendRequest<Outgoing>,
    pub(super) meter: Arc<Meter>,
    pub(super) streams: AtomicUsize,
    /// How many streams the peer takes at a time, as far as known.
    pub(super) limit: Arc<AtomicUsize>,
    pub(super) idle_since: AtomicU64,
    pub(super) clock: Clock,
}

impl Http2Shared {
    /// Takes a place, if there is one.
    pub(super) fn place(self: &Arc<Self>) -> Option<Http2Line> {
        let limit = self.limit.load(Ordering::Acquire);
        let take = |n: usize| (n < limit).then_some(n + 1);
        let before = self
            .streams
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take)
            .ok()?;
        Some(Http2Line {
            shared: self.clone(),
            was_idle: before == 0,
        })
    }
}

impl Drop for Http2Line {
    fn drop(&mut self) {
        let now = self.shared.clock.now().0;
        self.shared.idle_since.store(now, Ordering::Release);
        self.shared.streams.fetch_sub(1, Ordering::AcqRel);
    }
}
