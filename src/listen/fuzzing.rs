//! What fuzz targets ask of this room, see `fuzz/`. It decides nothing itself.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{hello, names};

/// What a ClientHello in pieces of this many bytes is taken for, as words.
#[must_use]
pub fn hello(bytes: &[u8], piece: usize) -> String {
    let mut wire = Wire { bytes, piece };
    match hello::read(&mut wire).now_or_never() {
        Some(Ok(Some(accepted))) => format!("{:?}", accepted.client_hello().server_name()),
        Some(Ok(None)) => "not TLS".to_owned(),
        Some(Err(_)) => "nothing came".to_owned(),
        None => "it waits".to_owned(),
    }
}

/// The answer to a query for a name, where every name is known or none is.
#[must_use]
pub fn name(query: &[u8], known: bool) -> Option<Vec<u8>> {
    names::answer(query, |_| known)
}

/// Gives what it has, piece by piece, and takes whatever is written.
struct Wire<'a> {
    bytes: &'a [u8],
    piece: usize,
}

impl AsyncRead for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self
            .piece
            .max(1)
            .min(self.bytes.len())
            .min(into.remaining());
        let (now, later) = self.bytes.split_at(count);
        into.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
