//! An agent's HTTP/1.1 connection, read beside the parser.
//!
//! Every byte is shown to the observer of `wire` before hyper gets it. What hyper would take and another parser would
//! read differently is refused where its request comes up, in order ([`Heads::judge`]). What hyper would answer without
//! a document, or wait for, ends here: with the last words of the connection, said only when no answer is under way.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::exchange::Interim;
use crate::vocab::Code;
use crate::vocab::variant::{Variant, broken};
use crate::wire::{Fault, Requests, Stop};

/// How long a head that has begun may take to arrive.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a new connection may be silent. Later silences are hyper's to bound.
const OPENING_TIMEOUT: Duration = Duration::from_secs(30);

/// What the observer of one connection knows, for those who answer its requests.
#[derive(Clone)]
pub(super) struct Heads {
    seen: Arc<Mutex<Requests>>,
    /// Answers that have not ended.
    flights: Arc<AtomicUsize>,
}

impl Heads {
    /// For a connection whose heads may have this many bytes on the wire.
    pub(super) fn new(head_max: usize) -> Self {
        Self {
            seen: Arc::new(Mutex::new(Requests::new(head_max))),
            flights: Arc::default(),
        }
    }

    /// Judges the next request that the parser hands up, which has this many fields. A request that does not stand on
    /// the wire like that is one that the parser and the observer disagree about: nobody knows where it ends.
    ///
    /// # Errors
    /// Why the request is refused.
    pub(super) fn judge(&self, fields: usize) -> Result<(), Code> {
        let verdict = self.seen().verdict().ok_or(Code::BadRequest)?;
        match verdict.fault {
            Some(fault) if !overlooked(fault) => Err(fault.code()),
            None if verdict.fields != fields => Err(Code::BadRequest),
            Some(_) | None => Ok(()),
        }
    }

    /// A request came up; its answer is under way until what is returned is dropped.
    pub(super) fn flight(&self) -> Flight {
        self.flights.fetch_add(1, Ordering::AcqRel);
        Flight(self.flights.clone())
    }

    /// A CONNECT was refused: requests go on.
    pub(super) fn refused(&self) {
        self.seen().refused();
    }

    /// No more requests: the connection is a tunnel, or a WebSocket.
    pub(super) fn switched(&self) {
        self.seen().switched();
    }

    fn quiet(&self) -> bool {
        self.flights.load(Ordering::Acquire) == 0 && !self.seen().waiting()
    }

    fn seen(&self) -> MutexGuard<'_, Requests> {
        // Only the connection's own task looks; what a panic left is refused or bounded all the same.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a broken variant takes all the same.
fn overlooked(fault: Fault) -> bool {
    match fault {
        Fault::BareLf => broken(Variant::BareLf),
        Fault::Both | Fault::Coding | Fault::Codings | Fault::Length | Fault::Lengths => {
            broken(Variant::FramingKept)
        }
        Fault::ConnectBody => false,
    }
}

/// What the observer says of a request's head; every request of HTTP/1.1 brings it along.
#[derive(Clone, Copy)]
pub(super) struct Judged(pub(super) Result<(), Code>);

/// An answer under way.
pub(super) struct Flight(Arc<AtomicUsize>);

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An answer's body that knows when it has ended.
pub(super) struct Flying<B> {
    pub(super) body: B,
    pub(super) _flight: Flight,
}

impl<B: Body + Unpin> Body for Flying<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Writes the audit line of a request that nobody could read, and words its refusal.
pub(super) type Refuse = Box<dyn Fn(Code) -> Bytes + Send>;

/// A connection whose bytes are seen.
pub(super) struct Watched<I> {
    io: I,
    heads: Heads,
    interim: Interim,
    /// An interim answer of which a part has been written.
    announcing: Bytes,
    refuse: Refuse,
    /// Whether anything has come at all.
    opened: bool,
    /// Whether the last write is still waiting: words in the middle of an answer would be taken for a part of it.
    stuck: bool,
    patience: Option<(Wait, Pin<Box<Sleep>>)>,
    ending: Option<Ending>,
}

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Opening,
    /// The head of this number.
    Head(u64),
}

/// How a connection ends from our side.
enum Ending {
    /// When what is under way has been answered.
    Due(Code),
    Saying(Bytes),
    Closing,
    Over,
}

impl<I> Watched<I> {
    pub(super) fn new(io: I, heads: Heads, interim: Interim, refuse: Refuse) -> Self {
        Self {
            io,
            heads,
            interim,
            announcing: Bytes::new(),
            refuse,
            opened: false,
            stuck: false,
            patience: None,
            ending: None,
        }
    }

    /// Asked while there is nothing to read: whether it was waited for long enough.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Option<Code>> {
        let in_head = self.heads.seen().in_head();
        let (kind, span) = match in_head {
            _ if !self.opened => (Wait::Opening, OPENING_TIMEOUT),
            Some(number) => (Wait::Head(number), HEAD_TIMEOUT),
            None => {
                self.patience = None;
                return Poll::Pending;
            }
        };
        if self
            .patience
            .as_ref()
            .is_none_or(|(armed, _)| *armed != kind)
        {
            self.patience = Some((kind, Box::pin(tokio::time::sleep(span))));
        }
        let Some((_, timer)) = &mut self.patience else {
            return Poll::Pending;
        };
        ready!(timer.as_mut().poll(cx));
        Poll::Ready((kind != Wait::Opening).then_some(Code::RequestTimeout))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Watched<I> {
    /// Ends the connection: words, where there are any, then the writing side, then an error for the parser.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.ending = match self.ending.take() {
                // Whoever is still being answered comes first. The parser asks again when that is done.
                Some(Ending::Due(code)) if !self.heads.quiet() => {
                    self.ending = Some(Ending::Due(code));
                    return Poll::Pending;
                }
                Some(Ending::Due(code)) => {
                    let words = (self.refuse)(code);
                    Some(if self.stuck || !self.announcing.is_empty() {
                        Ending::Over
                    } else {
                        Ending::Saying(words)
                    })
                }
                Some(Ending::Saying(words)) if words.is_empty() => Some(Ending::Closing),
                Some(Ending::Saying(mut words)) => {
                    match Pin::new(&mut self.io).poll_write(cx, &words) {
                        Poll::Ready(Ok(n)) if n > 0 => {
                            words.advance(n);
                            Some(Ending::Saying(words))
                        }
                        Poll::Ready(_) => Some(Ending::Over),
                        Poll::Pending => {
                            // An agent that does not read what it is told holds nothing for that.
                            self.ending = Some(Ending::Over);
                            continue;
                        }
                    }
                }
                Some(Ending::Closing) => match Pin::new(&mut self.io).poll_shutdown(cx) {
                    Poll::Ready(_) => Some(Ending::Over),
                    Poll::Pending => {
                        self.ending = Some(Ending::Closing);
                        return Poll::Pending;
                    }
                },
                Some(Ending::Over) | None => {
                    self.ending = Some(Ending::Over);
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
            };
        }
    }

    fn end(&mut self, code: Code, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ending = Some(Ending::Due(code));
        self.poll_end(cx)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ending.is_some() {
            return this.poll_end(cx);
        }
        let before = buffer.filled().len();
        if Pin::new(&mut this.io).poll_read(cx, buffer)?.is_pending() {
            return match ready!(this.poll_patience(cx)) {
                Some(code) => this.end(code, cx),
                None => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            };
        }
        this.opened |= buffer.filled().len() > before;
        let seen = this.heads.seen().feed(&buffer.filled()[before..]);
        match seen {
            Ok(()) => Poll::Ready(Ok(())),
            Err(Stop::Body) => {
                // The request is under way and has its own line: it ends with its body.
                buffer.set_filled(before);
                this.ending = Some(Ending::Over);
                this.poll_end(cx)
            }
            Err(stop) => {
                // Where nothing is under way, the parser never sees the head. Otherwise it gets what came, which holds
                // the end of what it is reading, and the next read ends the connection.
                if this.heads.quiet() {
                    buffer.set_filled(before);
                    return this.end(stop.code(), cx);
                }
                this.ending = Some(Ending::Due(stop.code()));
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl<I: AsyncWrite + Unpin> Watched<I> {
    /// Writes the rest of an interim answer that has begun: nothing else may stand in the middle of it.
    fn poll_announce(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.announcing.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.announcing))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.announcing.advance(n);
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_announce(cx))?;
        let outcome = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.stuck = !matches!(&outcome, Poll::Ready(Ok(n)) if *n == bytes.len());
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_announce(cx))?;
        // hyper flushes when it has nothing of its own left to write, and until the answer is there it will not have.
        self.announcing = self.interim.take(cx);
        ready!(self.poll_announce(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_announce(cx))?;
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, pieces);
        let whole: usize = pieces.iter().map(|piece| piece.len()).sum();
        self.stuck = !matches!(&outcome, Poll::Ready(Ok(n)) if *n == whole);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
