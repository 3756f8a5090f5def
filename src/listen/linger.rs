//! Closing in a way that lets the last answer arrive.
//!
//! An answer may come before the agent has sent its whole body: a refusal does, always. A socket that is closed while
//! bytes come in is reset by the system, and the reset overtakes the answer: the agent sees a broken connection instead
//! of the reason (RFC 9112 §9.6). So the writing side is closed first and what still comes is read and forgotten, for a
//! bounded time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long an agent may go on sending.
const TOTAL: Duration = Duration::from_secs(30);
/// How long it may be silent meanwhile. A drain waits for this at most.
const SILENCE: Duration = Duration::from_secs(2);
/// Bytes forgotten at a time.
const PIECE: usize = 8 * 1024;

/// A connection that is closed in two steps where that is wanted.
pub(super) struct Linger<I> {
    io: I,
    wanted: Wanted,
    total: Duration,
    silence: Duration,
    closing: Option<Closing>,
}

/// Whether the agent may still be sending a body when the connection is closed.
#[derive(Clone, Default)]
pub(super) struct Wanted(Arc<AtomicBool>);

impl Wanted {
    pub(super) fn set(&self, wanted: bool) {
        self.0.store(wanted, Ordering::Relaxed);
    }
}

/// The two ends of the second step.
struct Closing {
    end: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<I> Linger<I> {
    pub(super) fn new(io: I, wanted: Wanted) -> Self {
        Self {
            io,
            wanted,
            total: TOTAL,
            silence: SILENCE,
            closing: None,
        }
    }
}

impl<I: AsyncRead + Unpin> Linger<I> {
    /// Reads and forgets, until the agent closes its side or its time is over.
    fn poll_forget(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (total, silence) = (self.total, self.silence);
        let closing = self.closing.get_or_insert_with(|| Closing {
            end: Instant::now() + total,
            timer: Box::pin(tokio::time::sleep(silence)),
        });
        loop {
            let mut space = [0; PIECE];
            let mut piece = ReadBuf::new(&mut space);
            match Pin::new(&mut self.io).poll_read(cx, &mut piece) {
                Poll::Ready(Ok(())) if !piece.filled().is_empty() => {
                    let now = Instant::now();
                    if now >= closing.end {
                        return Poll::Ready(());
                    }
                    closing.timer.as_mut().reset(now + silence);
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return closing.timer.as_mut().poll(cx),
            }
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Linger<I> {
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
        if self.closing.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        }
        if self.wanted.0.load(Ordering::Relaxed) {
            ready!(self.poll_forget(cx));
        }
        Poll::Ready(Ok(()))
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

impl<I: AsyncRead + Unpin> AsyncRead for Linger<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Sends an answer to an agent that sends on and reads only afterwards; what the agent gets.
    async fn answered(wanted: bool) -> io::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let agent = tokio::spawn(async move {
            let mut agent = TcpStream::connect(address).await?;
            for _ in 0..64 {
                agent.write_all(&[b'x'; 1 << 17]).await?;
            }
            let mut got = String::new();
            agent.read_to_string(&mut got).await?;
            Ok(got)
        });
        let (mut stream, _) = listener.accept().await?;
        stream.read_exact(&mut [0; 1 << 10]).await?;
        let switch = Wanted::default();
        switch.set(wanted);
        let mut connection = Linger::new(stream, switch);
        connection.write_all(b"no").await?;
        connection.shutdown().await?;
        drop(connection);
        agent.await?
    }

    #[tokio::test]
    async fn an_answer_reaches_an_agent_that_is_still_sending() {
        assert_eq!(answered(true).await.unwrap(), "no");
    }

    #[tokio::test]
    async fn without_the_second_step_the_answer_is_lost() {
        answered(false).await.unwrap_err();
    }

    #[tokio::test]
    async fn neither_silence_nor_endless_sending_holds_a_connection() {
        for sends in [false, true] {
            let (ours, mut agent) = duplex(1 << 10);
            let sender = tokio::spawn(async move {
                while sends && agent.write_all(&[0; 100]).await.is_ok() {}
                agent
            });
            let wanted = Wanted::default();
            wanted.set(true);
            let mut connection = Linger::new(ours, wanted);
            connection.total = Duration::from_millis(50);
            connection.silence = Duration::from_millis(20);
            let closed = tokio::time::timeout(Duration::from_secs(10), connection.shutdown());
            closed.await.unwrap().unwrap();
            drop(connection);
            sender.await.unwrap();
        }
    }
}
