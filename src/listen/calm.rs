//! Agents that open HTTP/2 and do not go on, and agents that ask and take it back, over and over (the rapid reset attack, CVE-2023-44487).
//!
//! h2 ends a connection whose streams are reset before anybody looked at them. A stream that is reset a moment later
//! has cost a decision, perhaps a request to the API, and counts against nothing any more. So what is taken back
//! before its answer is counted for each connection, and one that does little else is told to calm down and closed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};

use super::bucket::{Bucket, Rate};
use crate::vocab::Clock;
use crate::wire::Underway;

/// GOAWAY (RFC 9113 §6.8) that admits nothing more, with ENHANCE_YOUR_CALM.
const GOAWAY: [u8; 17] = [
    0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 11,
];

/// How long the opening, a frame that is not DATA and a header block may take, each from its first byte: as long as a head of
/// HTTP/1. The library waits for them without a limit, and while it does, it answers pings.
const UNFINISHED_TIMEOUT: Duration = Duration::from_secs(10);

/// What one connection has taken back.
pub(super) struct Withdrawals {
    bucket: Bucket,
    clock: Clock,
    too_many: AtomicBool,
    told: Notify,
}

impl Withdrawals {
    pub(super) fn new(rate: Rate, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            bucket: Bucket::new(rate),
            clock,
            too_many: AtomicBool::new(false),
            told: Notify::new(),
        })
    }

    /// Waits until there were too many.
    pub(super) async fn too_many(&self) {
        self.told.notified().await;
    }

    pub(super) fn were_too_many(&self) -> bool {
        self.too_many.load(Ordering::Relaxed)
    }

    /// A request begins; until it is [answered](Asked::answered), its end is a withdrawal.
    pub(super) fn asked(&self) -> Asked<'_> {
        Asked(Some(self))
    }
}

/// A request without an answer.
pub(super) struct Asked<'a>(Option<&'a Withdrawals>);

impl Asked<'_> {
    pub(super) fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(all) = self.0
            && all.bucket.take(all.clock.now()).is_err()
        {
            all.too_many.store(true, Ordering::Relaxed);
            all.told.notify_one();
        }
    }
}

/// A connection that is ended where there were too many withdrawals. HTTP/2's library has no way to send a reason of
/// ours, so it is written when the library reads next, which is between two of its frames unless the agent reads
/// nothing.
pub(super) struct Calm<I> {
    io: I,
    withdrawals: Arc<Withdrawals>,
    written: usize,
    underway: Underway,
    /// What is unfinished, and when it must be whole.
    due: Option<(u64, Pin<Box<Sleep>>)>,
    patience: Duration,
}

impl<I> Calm<I> {
    pub(super) fn new(io: I, withdrawals: Arc<Withdrawals>) -> Self {
        Self {
            io,
            withdrawals,
            written: 0,
            underway: Underway::default(),
            due: None,
            patience: UNFINISHED_TIMEOUT,
        }
    }
}

impl<I: AsyncRead + Unpin> Calm<I> {
    /// Reads, while what has begun may still be finished.
    fn poll_underway(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        self.underway.feed(&buffer.filled()[before..]);
        let Some(unfinished) = self.underway.unfinished() else {
            self.due = None;
            return read;
        };
        let patience = self.patience;
        if self
            .due
            .as_ref()
            .is_none_or(|(what, _)| *what != unfinished)
        {
            self.due = Some((unfinished, Box::pin(sleep(patience))));
        }
        // Only when the agent has nothing to say: bytes that waited for us are not its delay.
        if read.is_pending()
            && let Some((_, due)) = &mut self.due
        {
            ready!(due.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Calm<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.withdrawals.were_too_many() {
            return self.poll_underway(cx, buffer);
        }
        while self.written < GOAWAY.len() {
            let rest = &GOAWAY[self.written..];
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if written == 0 {
                break;
            }
            self.written += written;
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Calm<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
        Pin::new(&mut self.io).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn too_many_withdrawals_end_a_connection_with_a_reason() {
        let rate = Rate {
            per_second: 1,
            burst: 3,
        };
        let clock = Clock::manual(crate::vocab::WallTime(0));
        let withdrawals = Withdrawals::new(rate, clock);
        let (ours, mut agent) = duplex(64);
        let mut stream = Calm::new(ours, withdrawals.clone());
        agent.write_all(b"x").await.unwrap();
        for _ in 0..100 {
            withdrawals.asked().answered();
        }
        for _ in 0..3 {
            drop(withdrawals.asked());
        }
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        drop(withdrawals.asked());
        withdrawals.too_many().await;
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        let mut got = [0; 17];
        agent.read_exact(&mut got).await.unwrap();
        assert_eq!(got, GOAWAY);
    }

    #[tokio::test]
    async fn what_is_begun_and_not_finished_is_not_waited_for() {
        const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        let opened = |rest: &[u8]| [OPENING, rest].concat();
        for (sent, ends) in [
            (b"PRI * HTTP/2".to_vec(), true),
            (OPENING[..24].to_vec(), true),
            (OPENING.to_vec(), false),
            (opened(b"\0\0\x08\x06\0\0\0\0\0...."), true),
            (opened(b"\0\0\x05\x01\x01\0\0\0\x01....."), true),
            (opened(b"\0\0\x05\x00\x00\0\0\0\x01..."), false),
        ] {
            let rate = Rate {
                per_second: 1,
                burst: 1,
            };
            let clock = Clock::manual(crate::vocab::WallTime(0));
            let (ours, mut agent) = duplex(64);
            let mut stream = Calm::new(ours, Withdrawals::new(rate, clock));
            stream.patience = Duration::from_millis(50);
            agent.write_all(&sent).await.unwrap();
            let mut got = vec![0; sent.len()];
            stream.read_exact(&mut got).await.unwrap();
            let next = tokio::time::timeout(stream.patience * 10, stream.read_u8()).await;
            let ended = next
                .is_ok_and(|read| read.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut));
            assert_eq!(ended, ends, "{sent:?}");
        }
    }
}
