//! The bytes between us and the other side, counted.
//!
//! The counts are what makes "nothing was written" and "no response byte came" facts rather than guesses drawn from
//! the text of an error. They are taken above TLS: a byte that TLS accepted counts as written although it may still
//! be in a buffer, which errs towards not sending again.
//!
//! What comes is shown to an observer of `wire` before hyper reads it: an answer that breaks a rule is never read, and
//! bytes behind an answer are nobody's.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::way::Way;
use crate::wire::{Asked, Came, Frames, Responses};

/// A connection's bytes, with or without TLS.
pub(super) enum Stream {
    Plain(Way),
    Tls(Box<TlsStream<Way>>),
}

/// Who reads beside hyper.
pub(super) enum Observer {
    Http1(Responses),
    Http2(Frames),
}

impl Observer {
    fn feed(&mut self, bytes: &[u8]) -> Came {
        match self {
            Self::Http1(responses) => responses.feed(bytes),
            Self::Http2(frames) => {
                if frames.feed(bytes) {
                    Came::Fine
                } else {
                    Came::Broken
                }
            }
        }
    }
}

/// What has passed over a connection.
pub(super) struct Meter {
    observer: Mutex<Observer>,
    /// What was written before the last request.
    asked_at: AtomicU64,
    /// The peer broke the rules of HTTP, or our bounds.
    broken: AtomicBool,
    /// The peer does not take what we write any more, but may have answered already.
    deaf: AtomicBool,
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
    fn new(observer: Observer) -> Self {
        Self {
            observer: Mutex::new(observer),
            asked_at: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            digested: AtomicU64::new(0),
            watcher: AtomicWaker::new(),
        }
    }

    /// A request of HTTP/1.1 is about to be written; whether this connection may carry it.
    pub(super) fn ask(&self, asked: Asked) -> bool {
        let written = self.written.load(Ordering::Acquire);
        let mut observer = self.observer();
        self.asked_at.store(written, Ordering::Release);
        match &mut *observer {
            Observer::Http1(responses) => self.whole() && responses.ask(asked),
            Observer::Http2(_) => false,
        }
    }

    /// Whether a connection of HTTP/1.1 may be kept: what was asked is answered, and nothing came that answers nothing.
    pub(super) fn may_be_kept(&self) -> bool {
        let idle = matches!(&*self.observer(), Observer::Http1(responses) if responses.idle());
        idle && self.whole()
    }

    /// Whether the peer broke the rules of HTTP.
    pub(super) fn broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    fn whole(&self) -> bool {
        !self.broken() && !self.deaf.load(Ordering::Acquire)
    }

    fn observer(&self) -> MutexGuard<'_, Observer> {
        // What a panic left refuses or is bounded all the same.
        self.observer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of the bytes that came may be read.
    fn admit(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut observer = self.observer();
        let early = matches!(&*observer, Observer::Http1(_))
            && self.written.load(Ordering::Acquire) == self.asked_at.load(Ordering::Acquire);
        match observer.feed(bytes) {
            // An answer to what was not asked yet is one to somebody else.
            Came::Fine if !early || bytes.is_empty() => Ok(bytes.len()),
            Came::TooMany(own) if !early => Ok(own),
            _ => {
                self.broken.store(true, Ordering::Release);
                Err(io::ErrorKind::InvalidData.into())
            }
        }
    }

    /// Whether a write that failed is to be kept from hyper, which would give up before it has read what the peer said
    /// first: a refusal of a body comes before the body's end (RFC 9110 §15.5.14).
    fn may_have_answered(&self, error: &io::Error) -> bool {
        let closed = matches!(
            error.kind(),
            io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
        );
        let begun = self.written.load(Ordering::Acquire) > self.asked_at.load(Ordering::Acquire);
        closed && begun && matches!(&*self.observer(), Observer::Http1(_))
    }

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
    pub(super) fn new(stream: Stream, observer: Observer) -> (Self, Arc<Meter>) {
        let meter = Arc::new(Meter::new(observer));
        let counted = Self {
            stream,
            meter: meter.clone(),
        };
        (counted, meter)
    }

    /// Counts what was written of `whole` bytes.
    fn wrote(&self, whole: usize, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match outcome {
            Poll::Ready(Ok(n)) => {
                self.meter.written.fetch_add(n as u64, Ordering::AcqRel);
                Poll::Ready(Ok(n))
            }
            Poll::Ready(Err(error)) if self.meter.may_have_answered(&error) => {
                self.meter.deaf.store(true, Ordering::Release);
                Poll::Ready(Ok(whole))
            }
            other => other,
        }
    }

    /// Whether what is written goes nowhere; the end of what can be read ends the exchange.
    fn deaf(&self) -> bool {
        self.meter.deaf.load(Ordering::Acquire)
    }

    fn flushed(&self, outcome: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        match outcome {
            Poll::Ready(Err(error)) if self.meter.may_have_answered(&error) => {
                self.meter.deaf.store(true, Ordering::Release);
                Poll::Ready(Ok(()))
            }
            other => other,
        }
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
        if !matches!(outcome, Poll::Ready(Ok(()))) {
            return outcome;
        }
        let admitted = this.meter.admit(&buffer.filled()[before..]);
        buffer.set_filled(before + *admitted.as_ref().unwrap_or(&0));
        Poll::Ready(admitted.map(|_| ()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.deaf() {
            return Poll::Ready(Ok(bytes.len()));
        }
        #[cfg(feature = "variants")]
        let bytes = &*super::variant::misframed(bytes);
        let outcome = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        this.wrote(bytes.len(), outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let whole = slices.iter().map(|slice| slice.len()).sum();
        if this.deaf() {
            return Poll::Ready(Ok(whole));
        }
        let outcome = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        this.wrote(whole, outcome)
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
        let this = self.get_mut();
        if this.deaf() {
            return Poll::Ready(Ok(()));
        }
        let outcome = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        this.flushed(outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
