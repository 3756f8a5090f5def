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
/// How long a new connection may be silent.
const OPENING_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two requests a connection is looked at this often, and may have been silent this many times. So ten minutes of
/// silence end it, a look more or less, and no request has to set a timer.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const LOOKS: u8 = 10;

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

/// Waits until the operator has revoked what the head would ride on.
pub(super) type Severing = Pin<Box<dyn Future<Output = ()> + Send>>;

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
    /// Begins to wait for the operator, where the agent and its destination are known.
    sever: Option<Box<dyn Fn() -> Severing + Send>>,
    /// While a head is on its way.
    severing: Option<Severing>,
    /// Whether anything has come at all.
    opened: bool,
    /// Whether the last write is still waiting: words in the middle of an answer would be taken for a part of it.
    stuck: bool,
    patience: Option<(Wait, Pin<Box<Sleep>>)>,
    /// Whether anything has come since the last look.
    heard: bool,
    /// Looks since anything was heard.
    looks: u8,
    look_every: Duration,
    ending: Option<Ending>,
}

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Opening,
    /// The head of this number.
    Head(u64),
    /// The next look at a connection between two requests.
    Look,
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
            sever: None,
            severing: None,
            opened: false,
            stuck: false,
            patience: None,
            heard: false,
            looks: 0,
            look_every: LOOK_EVERY,
            ending: None,
        }
    }

    /// A head that is on its way ends with what it would ride on.
    pub(super) fn severed_by(self, sever: Option<Box<dyn Fn() -> Severing + Send>>) -> Self {
        Self { sever, ..self }
    }

    /// Asked while a head is on its way and nothing of it is there.
    fn poll_severed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(sever) = &self.sever else {
            return Poll::Pending;
        };
        self.severing.get_or_insert_with(sever).as_mut().poll(cx)
    }

    /// Asked while there is nothing to read: whether it was waited for long enough.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Option<Code>> {
        let in_head = self.heads.seen().in_head();
        let (kind, span) = match in_head {
            _ if !self.opened => (Wait::Opening, OPENING_TIMEOUT),
            Some(number) => (Wait::Head(number), HEAD_TIMEOUT),
            None => (Wait::Look, self.look_every),
        };
        if let Wait::Head(_) = kind {
            if self.poll_severed(cx).is_ready() {
                return Poll::Ready(Some(Code::ServiceRevoked));
            }
        } else {
            self.severing = None;
        }
        loop {
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
            if kind != Wait::Look || self.silent() {
                return Poll::Ready(matches!(kind, Wait::Head(_)).then_some(Code::RequestTimeout));
            }
            self.patience = None;
        }
    }

    /// One look: whether the connection has been silent in so many that it must go. While something is answered it is not
    /// silent.
    fn silent(&mut self) -> bool {
        let heard = std::mem::take(&mut self.heard) || !self.heads.quiet();
        self.looks = if heard { 0 } else { self.looks + 1 };
        self.looks >= LOOKS
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
        if buffer.filled().len() > before {
            (this.opened, this.heard) = (true, true);
        }
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::timeout;

    use super::*;

    const LOOK: Duration = Duration::from_millis(20);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    /// A connection whose first request has been answered.
    async fn between_requests() -> (Watched<DuplexStream>, DuplexStream, Heads) {
        let (ours, mut agent) = duplex(1024);
        let heads = Heads::new(1024);
        let refuse = Box::new(|_| Bytes::new());
        let mut watched = Watched::new(ours, heads.clone(), Interim::default(), refuse);
        watched.look_every = LOOK;
        agent.write_all(REQUEST).await.unwrap();
        watched.read_exact(&mut REQUEST.to_vec()).await.unwrap();
        heads.judge(1).unwrap();
        (watched, agent, heads)
    }

    #[tokio::test]
    async fn a_long_silence_between_two_requests_ends_a_connection() {
        let (mut watched, _agent, _) = between_requests().await;
        let begun = tokio::time::Instant::now();
        let ended = watched.read_u8().await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= LOOK * u32::from(LOOKS));
    }

    #[tokio::test]
    async fn requests_and_answers_break_the_silence() {
        let (mut watched, mut agent, heads) = between_requests().await;
        for _ in 0..2 {
            let silence = LOOK * u32::from(LOOKS) * 3 / 4;
            timeout(silence, watched.read_u8()).await.unwrap_err();
            agent.write_all(REQUEST).await.unwrap();
            watched.read_exact(&mut REQUEST.to_vec()).await.unwrap();
            heads.judge(1).unwrap();
        }
        let answer = heads.flight();
        let long = LOOK * u32::from(LOOKS) * 2;
        timeout(long, watched.read_u8()).await.unwrap_err();
        drop(answer);
        let ended = timeout(long, watched.read_u8()).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
