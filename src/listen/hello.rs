//! Reads a ClientHello before anything is decided about the tunnel, and says no in TLS's own words.

use std::io;

use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest ClientHello, in bytes; post-quantum key shares fit many times over.
const HELLO_MAX: usize = 16 * 1024;
/// First byte of a TLS record that carries a handshake.
const HANDSHAKE: u8 = 22;
/// A fatal alert `unrecognized_name` (RFC 6066 §3) in a TLS record.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A fatal alert `internal_error` (RFC 8446 §6.2): nothing that the client asked for is wrong.
const INTERNAL_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// A fatal alert `access_denied` (RFC 8446 §6.2): whoever asks may not.
const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// Whether a connection that begins with this byte speaks TLS.
pub(super) fn is_tls(first: u8) -> bool {
    first == HANDSHAKE
}

/// Reads the ClientHello. `None`: what came is not TLS, or broken; whatever rustls has to say about it was sent.
///
/// # Errors
/// The connection failed.
pub(super) async fn read<I>(io: &mut I) -> io::Result<Option<Accepted>>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    read_through(io, |_| ()).await
}

/// The same, and shows every byte that it takes, 16 KiB at most: a connection that is passed through blind needs them
/// again.
///
/// # Errors
/// The connection failed.
pub(super) async fn read_through<I>(
    io: &mut I,
    mut taken: impl FnMut(&[u8]),
) -> io::Result<Option<Accepted>>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut acceptor = Acceptor::default();
    let mut buffer = [0; 4096];
    let mut total = 0;
    loop {
        let read = io.read(&mut buffer).await?;
        let not_tls = total == 0 && buffer[0] != HANDSHAKE;
        if read == 0 && total == 0 {
            // Opened and left: nothing was asked.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if read == 0 || not_tls || total + read > HELLO_MAX {
            return Ok(None);
        }
        total += read;
        let mut rest = &buffer[..read];
        taken(rest);
        while !rest.is_empty() {
            // An error is rustls's own bound on what it holds of a handshake.
            if acceptor.read_tls(&mut rest).is_err() {
                return Ok(None);
            }
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(Some(accepted)),
            Ok(None) => {}
            Err((_, mut alert)) => {
                let mut bytes = Vec::new();
                alert.write_all(&mut bytes)?;
                io.write_all(&bytes).await?;
                return Ok(None);
            }
        }
    }
}

/// Refuses the name that the agent asked for. Nothing is minted and nothing is dialled.
///
/// # Errors
/// The connection failed.
pub(super) async fn refuse_name<I: AsyncWrite + Unpin>(io: &mut I) -> io::Result<()> {
    io.write_all(&UNRECOGNIZED_NAME).await?;
    io.shutdown().await
}

/// Refuses a handshake that has no certificate at the moment.
///
/// # Errors
/// The connection failed.
pub(super) async fn refuse_for_now<I: AsyncWrite + Unpin>(io: &mut I) -> io::Result<()> {
    io.write_all(&INTERNAL_ERROR).await?;
    io.shutdown().await
}

/// Refuses whoever asks.
///
/// # Errors
/// The connection failed.
pub(super) async fn refuse_access<I: AsyncWrite + Unpin>(io: &mut I) -> io::Result<()> {
    io.write_all(&ACCESS_DENIED).await?;
    io.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_tls_is_nothing() {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SSH-2.0-x\r\n", b"\0"] {
            let (mut near, mut far) = tokio::io::duplex(1024);
            near.write_all(bytes).await.unwrap();
            assert!(read(&mut far).await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn an_endless_hello_is_cut() {
        let (mut near, mut far) = tokio::io::duplex(256 * 1024);
        // A handshake record that promises more than it brings, again and again.
        let mut record = vec![22, 3, 1, 0x3f, 0xff, 1, 0, 0xff, 0xff];
        record.resize(5 + 0x3fff, 0);
        for _ in 0..8 {
            near.write_all(&record).await.unwrap();
        }
        assert!(read(&mut far).await.unwrap().is_none());
    }
}
