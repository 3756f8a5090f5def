//! A WebSocket echo (RFC 6455) by hand: handshake and frames, HTTP/1.1 only, no extensions. Bounded frames.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::reply::{self, Body};
use super::server::Wire;

const FRAME_MAX: u64 = 16 * 1024 * 1024;

const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Answers a handshake, and echoes from then on.
pub(super) fn upgrade(wire: &Wire, head: &mut Parts) -> Response<Body> {
    let Some(key) = handshake_key(&head.headers) else {
        return reply::empty(400);
    };
    let Some(upgraded) = head.extensions.remove::<OnUpgrade>() else {
        return reply::empty(400);
    };
    let cut = wire.cut.clone();
    tokio::spawn(async move {
        cut.run_until_cancelled_owned(async move {
            if let Ok(stream) = upgraded.await {
                // A peer that hangs up in the middle is no news to a test server.
                echo(TokioIo::new(stream)).await.ok();
            }
        })
        .await
    });
    let mut response = reply::empty(101);
    let headers = response.headers_mut();
    reply::add(headers, CONNECTION, "Upgrade");
    reply::add(headers, UPGRADE, "websocket");
    reply::add(headers, SEC_WEBSOCKET_ACCEPT, &accept_value(&key));
    let protocol = text(&head.headers, &SEC_WEBSOCKET_PROTOCOL);
    if let Some(first) = protocol.split(',').map(str::trim).find(|p| !p.is_empty()) {
        reply::add(headers, SEC_WEBSOCKET_PROTOCOL, first);
    }
    response
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn handshake_key(headers: &HeaderMap) -> Option<String> {
    let upgrade = text(headers, &CONNECTION)
        .split(',')
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    let websocket = text(headers, &UPGRADE).eq_ignore_ascii_case("websocket");
    let version = text(headers, &SEC_WEBSOCKET_VERSION) == "13";
    let key = text(headers, &SEC_WEBSOCKET_KEY);
    let sixteen = STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16);
    (upgrade && websocket && version && sixteen).then(|| key.to_owned())
}

/// RFC 6455 §4.2.2: SHA-1 is the protocol's, and protects nothing.
fn accept_value(key: &str) -> String {
    const SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let hash = digest::digest(
        &digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}{SUFFIX}").as_bytes(),
    );
    STANDARD.encode(hash)
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    loop {
        let mut start = [0; 2];
        stream.read_exact(&mut start).await?;
        let (first, second) = (start[0], start[1]);
        let length = match second & 0x7f {
            126 => u64::from(stream.read_u16().await?),
            127 => stream.read_u64().await?,
            short => u64::from(short),
        };
        if second & 0x80 == 0 {
            // Clients must mask (§5.1).
            return send(&mut stream, 0x80 | CLOSE, &1002_u16.to_be_bytes()).await;
        }
        let Some(length) = usize::try_from(length).ok().filter(|_| length <= FRAME_MAX) else {
            return send(&mut stream, 0x80 | CLOSE, &1009_u16.to_be_bytes()).await;
        };
        let mut mask = [0; 4];
        stream.read_exact(&mut mask).await?;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        match first & 0x0f {
            CLOSE => return send(&mut stream, 0x80 | CLOSE, &payload).await,
            PING => send(&mut stream, 0x80 | PONG, &payload).await?,
            PONG => {}
            _ => send(&mut stream, first, &payload).await?,
        }
    }
}

async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    first: u8,
    payload: &[u8],
) -> std::io::Result<()> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(u8::try_from(short).unwrap_or_default()),
        middle @ 126..=0xffff => {
            frame.push(126);
            frame.extend(u16::try_from(middle).unwrap_or_default().to_be_bytes());
        }
        long => {
            frame.push(127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    stream.write_all(&frame).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_value_is_that_of_rfc_6455() {
        assert_eq!(
            accept_value("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![first, 0x80 | u8::try_from(payload.len()).unwrap()];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        frame
    }

    #[tokio::test]
    async fn frames_come_back_unmasked() {
        let (mut client, server) = tokio::io::duplex(1024);
        let echoing = tokio::spawn(echo(server));
        client.write_all(&masked(0x81, b"hello")).await.unwrap();
        client.write_all(&masked(0x89, b"p")).await.unwrap();
        client.write_all(&masked(0x88, &[3, 232])).await.unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"\x81\x05hello\x8a\x01p\x88\x02\x03\xe8");
        echoing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_unmasked_frame_ends_it() {
        let (mut client, server) = tokio::io::duplex(1024);
        tokio::spawn(echo(server));
        client.write_all(b"\x81\x01a").await.unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"\x88\x02\x03\xea");
    }
}
