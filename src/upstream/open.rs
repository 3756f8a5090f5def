//! A new connection: dialled, shaken hands with, and given to hyper on a task of its own.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::poll_fn;
use http::Version;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::connection::{Http1Line, Http1Wire, Http2Line, Http2Shared, Line, Protocol};
use super::dial::{Destination, Progress};
use super::error::UpstreamError;
use super::key::Key;
use super::pool::Pool;
use super::shelf::Busy;
use super::stream::{Counted, Observer, Stream};
use super::tls::Endpoint;
use super::way::Way;
use crate::vocab::Scheme;
use crate::wire::{Frames, Responses};

/// Largest head of a reply.
const HEAD_MAX: u32 = 64 * 1024;
/// Largest buffer of an HTTP/1.1 connection: a head must fit. An answer that a slow agent does not take pins several.
const HTTP1_BUFFER_MAX: usize = HEAD_MAX as usize + 8 * 1024;
/// Flow-control window of one stream: what an answer may have waiting for a slow agent. 25 MB/s at 10 ms.
const STREAM_WINDOW: u32 = 256 * 1024;
/// That of a connection: of all streams that a server usually admits, so that slow ones do not stop the others.
const CONNECTION_WINDOW: u32 = 128 * STREAM_WINDOW;
/// What waits unsent on one HTTP/2 stream at most.
const SEND_BUFFER_MAX: usize = 64 * 1024;
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a new connection will belong.
pub(super) struct Place {
    /// 0 is no shelf at all.
    pub(super) shelf: u64,
    pub(super) opening: Option<Opening>,
    pub(super) busy: Busy,
}

impl Place {
    /// For a request of an older generation: it is carried, and its connection is not kept.
    pub(super) fn apart(busy: Busy) -> Self {
        Self {
            shelf: 0,
            opening: None,
            busy,
        }
    }
}

/// Keeps others from opening more of the same, until the connection can be shared or has failed.
pub(super) struct Opening {
    pub(super) pool: Arc<Pool>,
    pub(super) key: Key,
    pub(super) shelf: u64,
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(shelf) = self.pool.kept().shelf(&self.key, self.shelf) {
            shelf.opening = shelf.opening.saturating_sub(1);
            shelf.opened.notify_waiters();
        }
    }
}

/// A connection without TLS to the destination, counted.
pub(super) struct Raw {
    pub(super) stream: Way,
    pub(super) open: Open,
}

/// Counts an open connection for as long as its task lives.
pub(super) struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Pool {
    /// Looks up and dials.
    pub(super) async fn dial(
        self: &Arc<Self>,
        key: &Key,
        endpoint: &Endpoint,
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
            name: authority.host(),
            host,
            port,
            allow_private: endpoint.allow_private(),
            asker: key.asker(),
        };
        let stream = self.dialer.connect(&to, progress).await?;
        Ok(Raw { stream, open })
    }

    /// Makes an HTTP connection of a TCP one.
    pub(super) async fn open(
        self: &Arc<Self>,
        key: &Key,
        endpoint: &Arc<Endpoint>,
        need: Protocol,
        place: Place,
        raw: Raw,
    ) -> Result<Line, UpstreamError> {
        let Raw { stream, open } = raw;
        let authority = &key.authority;
        if authority.scheme() == Scheme::Http {
            return self
                .start_http1(key, place, Stream::Plain(stream), open)
                .await;
        }
        let shown = key.certificate.as_deref();
        let stream = endpoint
            .handshake(authority.host(), need, shown, stream)
            .await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let stream = Stream::Tls(Box::new(stream));
        let version = if http2 {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        };
        if need != Protocol::Http1
            && let Some(shelf) = self.kept().shelf(key, place.shelf)
        {
            shelf.known = Some(version);
        }
        if http2 {
            self.start_http2(key, place, stream, open).await
        } else if need == Protocol::Http2 {
            Err(UpstreamError::NoHttp2)
        } else {
            self.start_http1(key, place, stream, open).await
        }
    }

    async fn start_http1(
        self: &Arc<Self>,
        key: &Key,
        place: Place,
        stream: Stream,
        open: Open,
    ) -> Result<Line, UpstreamError> {
        let observer = Observer::Http1(Responses::new(HEAD_MAX as usize));
        let (stream, meter) = Counted::new(stream, observer);
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
        Ok(Line::Http1(Box::new(Http1Line {
            wire: Http1Wire { sender, meter },
            pool: self.clone(),
            key: key.clone(),
            shelf: place.shelf,
            reused: false,
            _busy: place.busy,
        })))
    }

    async fn start_http2(
        self: &Arc<Self>,
        key: &Key,
        place: Place,
        stream: Stream,
        open: Open,
    ) -> Result<Line, UpstreamError> {
        let (stream, meter) = Counted::new(stream, Observer::Http2(Frames::default()));
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
        if let Some(shelf) = self.kept().shelf(key, place.shelf) {
            shelf.http2.push(shared.clone());
        }
        let mut opening = place.opening;
        self.tasks.spawn(async move {
            let _open = open;
            // Polled at every request and once when the peer's SETTINGS came: its stream limit is known from then on.
            let driven = poll_fn(|cx| {
                meter.watcher().register(cx.waker());
                let state = Pin::new(&mut connection).poll(cx);
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

    /// Counts a connection in. From three quarters of the bound on, idle ones make room for what comes: whoever leaves
    /// many of them behind takes no place from a request.
    fn count_in(&self) -> Result<Open, UpstreamError> {
        let before = self.open.fetch_add(1, Ordering::AcqRel);
        let open = Open(self.open.clone());
        let most = self.limits.connections;
        if before >= most - most / 4 {
            self.kept().close_unused();
        }
        if before < most {
            return Ok(open);
        }
        Err(UpstreamError::Limit)
    }
}
