//! The bytes between us and the other side, counted.
//!
//! The counts are what makes "nothing was written" and "no response byte came" facts rather than guesses drawn from
//! the text of an error. They are taken above TLS: a byte that TLS accepted counts as written although it may still
//! be in a buffer, which errs towards not sending again.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A connection's bytes, with or without TLS.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What has passed over a connection.
#[derive(Default)]
pub(super) struct Meter {
    read: AtomicU64,
    written: AtomicU64,
    /// Bytes that the reader had been given when it came back for more: those it has dealt with.
    digested: AtomicU64,
    watcher: AtomicWaker,
}

/// A reading of both counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    read: u64,
    written: u64,
}

impl Meter {
    pub(super) fn mark(&self) -> Mark {
        Mark {
            read: self.read.load(Ordering::Acquire),
            written: self.written.load(Ordering::Acquire),
        }
    }

    /// Whether no byte was written since.
    pub(super) fn silent_since(&self, mark: Mark) -> bool {
        self.written.load(Ordering::Acquire) == mark.written
    }

    /// Whether no byte came since.
    pub(super) fn unanswered_since(&self, mark: Mark) -> bool {
        self.read.load(Ordering::Acquire) == mark.read
    }

    /// Whether the first bytes came and were dealt with; in HTTP/2 these are the peer's SETTINGS (RFC 9113 §3.4).
    pub(super) fn greeted(&self) -> bool {
        self.digested.load(Ordering::Acquire) > 0
    }

    /// Who is woken when the first bytes have been dealt with.
    pub(super) fn watcher(&self) -> &AtomicWaker {
        &self.watcher
    }

    fn reader_returns(&self) {
        let read = self.read.load(Ordering::Acquire);
        if read > 0 && self.digested.swap(read, Ordering::AcqRel) == 0 {
            self.watcher.wake();
        }
    }
}

/// A stream that counts.
pub(super) struct Counted {
    stream: Stream,
    meter: Arc<Meter>,
}

impl Counted {
    pub(super) fn new(stream: Stream) -> (Self, Arc<Meter>) {
        let meter = Arc::new(Meter::default());
        let counted = Self {
            stream,
            meter: meter.clone(),
        };
        (counted, meter)
    }

    fn wrote(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = &outcome {
            self.meter.written.fetch_add(*n as u64, Ordering::AcqRel);
        }
        outcome
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.meter.reader_returns();
        let before = buffer.filled().len();
        let outcome = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        let came = buffer.filled().len() - before;
        this.meter.read.fetch_add(came as u64, Ordering::AcqRel);
        outcome
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        #[cfg(feature = "variants")]
        let bytes = &*super::variant::misframed(bytes);
        let outcome = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        this.wrote(outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        this.wrote(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        #[cfg(feature = "variants")]
        if super::variant::misframes() {
            return false;
        }
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
