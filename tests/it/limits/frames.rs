//! HTTP/2 as bytes: streams that are opened and reset, headers without end, frames that mean nothing, closed windows.

use std::io;
use std::time::Duration;

use tokenward::rehearsal::Call;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

use super::{events, two};
use crate::kit::{API, House, KEYS, PATIENCE, Tls, agent_token, ask};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
/// END_STREAM and END_HEADERS.
const WHOLE: u8 = 5;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A literal field that is not indexed, with a name from the static table (RFC 7541).
fn field(index: u8, value: &str) -> Vec<u8> {
    let mut bytes = vec![index, u8::try_from(value.len()).unwrap()];
    bytes.extend(value.as_bytes());
    bytes
}

/// GET or POST over https.
fn head(method: u8, host: &str, path: &str) -> Vec<u8> {
    [vec![0x80 | method, 0x87], field(1, host), field(4, path)].concat()
}

const GET: u8 = 2;
const POST: u8 = 3;

/// A connection of agent `a`, behind the preface and SETTINGS.
async fn connection(house: &House, host: &str) -> Tls {
    let token = agent_token("a");
    let tunnel = house
        .tunnel_by(&format!(
            "CONNECT {host}:443 HTTP/1.1\r\nhost: {host}:443\r\nproxy-authorization: Bearer {token}\r\n\r\n"
        ))
        .await;
    let mut tls = house.handshake(tunnel, host, "h2").await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    tls.write_all(&[&preface[..], &frame(SETTINGS, 0, 0, &[])].concat())
        .await
        .unwrap();
    tls
}

/// Sends pieces until the other side has had enough; the reason that it gives, if it gives one.
async fn flood(tls: Tls, pieces: impl Iterator<Item = Vec<u8>> + Send + 'static) -> Option<u32> {
    let (mut reader, mut writer) = tokio::io::split(tls);
    let writing = tokio::spawn(async move {
        for piece in pieces {
            if writer.write_all(&piece).await.is_err() {
                break;
            }
        }
        // What was sent last is read before the end.
        writer.flush().await.ok();
        writer
    });
    let reason = timeout(PATIENCE, goaway(&mut reader)).await;
    writing.abort();
    reason.expect("the connection stayed open").ok()
}

/// Reads frames until a GOAWAY with a reason.
async fn goaway(reader: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<u32> {
    loop {
        let mut head = [0; 9];
        reader.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        reader.read_exact(&mut payload).await?;
        if head[3] == GOAWAY {
            let reason = u32::from_be_bytes([payload[4], payload[5], payload[6], payload[7]]);
            if reason != 0 {
                return Ok(reason);
            }
        }
    }
}

async fn lives_on(house: &House) {
    let answer = ask(&house.named("b"), KEYS, true, Call::get("/v1/items")).await;
    assert_eq!(answer.status, 200);
    assert!(house.metrics().await.contains("tokenward_panics_total 0"));
}

fn opened_and_reset(count: u32) -> impl Iterator<Item = Vec<u8>> {
    let cancel = 8_u32.to_be_bytes();
    (0..count).map(move |i| {
        let stream = 2 * i + 1;
        let opened = frame(HEADERS, WHOLE, stream, &head(GET, KEYS, "/v1/items"));
        [opened, frame(RST_STREAM, 0, stream, &cancel)].concat()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_opened_and_reset_end_their_connection() {
    let house = two("limits: {per_agent: {streams: 32}}").start().await;
    // As many as fit into a piece; and one by one, so that each is looked at before it is reset.
    let all: Vec<u8> = opened_and_reset(10_000).flatten().collect();
    let pieces = all.chunks(16_000).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let tls = connection(&house, KEYS).await;
    let reason = flood(tls, pieces.into_iter()).await;
    assert!(
        matches!(reason, None | Some(ENHANCE_YOUR_CALM)),
        "{reason:?}"
    );
    let seen = house.at_static().len();
    assert!(seen <= 64, "{seen} requests reached the API");
    house.rehearsal.clear_seen();
    let tls = connection(&house, KEYS).await;
    let reason = flood(tls, opened_and_reset(10_000)).await;
    assert!(
        matches!(reason, None | Some(ENHANCE_YOUR_CALM)),
        "{reason:?}"
    );
    let seen = house.at_static().len();
    assert!(seen <= 64, "{seen} requests reached the API");
    lives_on(&house).await;
    house.end().await;
}

/// Each stream is looked at, and reset a moment later: HTTP/2's library sees nothing wrong with that.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_taken_back_end_their_connection() {
    let house = two("limits: {per_agent: {streams: 32, requests_per_second: 100}}")
        .start()
        .await;
    // On a slow machine several rounds are read at once, and then it is the library that has had enough.
    while events(&house, "agent.resets").await == 0 {
        house.rehearsal.clear_seen();
        let tls = connection(&house, KEYS).await;
        let (mut reader, mut writer) = tokio::io::split(tls);
        let writing = tokio::spawn(async move {
            let path = "/v1/slow?ms=60000";
            for first in (0..10_000).step_by(4) {
                let streams = || (first..first + 4).map(|i| 2 * i + 1);
                let opened = streams().map(|s| frame(HEADERS, WHOLE, s, &head(GET, KEYS, path)));
                let reset = streams().map(|s| frame(RST_STREAM, 0, s, &8_u32.to_be_bytes()));
                for part in [opened.collect::<Vec<_>>(), reset.collect()] {
                    if writer.write_all(&part.concat()).await.is_err() {
                        return writer;
                    }
                    sleep(Duration::from_millis(5)).await;
                }
            }
            writer
        });
        let reason = timeout(PATIENCE, goaway(&mut reader)).await.unwrap();
        assert_eq!(reason.unwrap(), ENHANCE_YOUR_CALM);
        writing.abort();
        let seen = house.at_static().len();
        assert!(seen <= 200, "{seen} requests reached the API");
        // The count comes with the connection's end.
        sleep(Duration::from_millis(100)).await;
    }
    lives_on(&house).await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_end_end_their_connection() {
    let house = two("").start().await;
    let tls = connection(&house, API).await;
    let filler = [vec![0x40, 1, b'x', 0x7f, 0x81, 0x7d], vec![b'y'; 16_000]].concat();
    let begun = frame(HEADERS, 1, 1, &head(GET, API, "/v1/items"));
    let pieces =
        std::iter::once(begun).chain((0..1000).map(move |_| frame(CONTINUATION, 0, 1, &filler)));
    flood(tls, pieces).await;
    // The same, whose parts are empty.
    let tls = connection(&house, API).await;
    let begun = frame(HEADERS, 1, 1, &head(GET, API, "/v1/items"));
    let pieces =
        std::iter::once(begun).chain((0..1_000_000).map(|_| frame(CONTINUATION, 0, 1, &[])));
    flood(tls, pieces).await;
    lives_on(&house).await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_mean_nothing_end_their_connection() {
    let house = two("").start().await;
    let begun = || {
        std::iter::once(frame(
            HEADERS,
            END_HEADERS,
            1,
            &head(POST, KEYS, "/v1/upload"),
        ))
    };
    let empty = begun().chain((0..1_000_000).map(|_| frame(DATA, 0, 1, &[])));
    let tls = connection(&house, KEYS).await;
    assert_eq!(flood(tls, empty).await, Some(ENHANCE_YOUR_CALM));
    lives_on(&house).await;
    house.end().await;
}

/// Answers to these are wanted by nobody: what we would have to say waits, and so does what is still to be read.
#[tokio::test(flavor = "multi_thread")]
async fn pings_and_settings_do_not_pile_up() {
    let house = two("").start().await;
    for kind in [
        frame(PING, 0, 0, &[7; 8]),
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]),
    ] {
        let tls = connection(&house, KEYS).await;
        let (reader, mut writer) = tokio::io::split(tls);
        let piece = kind.repeat(1000);
        let writing = async {
            let mut sent = 0_usize;
            while sent < 64 << 20 && writer.write_all(&piece).await.is_ok() {
                sent += piece.len();
            }
            sent
        };
        // Nobody reads: sooner or later nothing more is taken.
        let sent = timeout(Duration::from_secs(1), writing).await;
        assert!(sent.is_err() || sent.is_ok_and(|sent| sent < 64 << 20));
        drop(reader);
    }
    lives_on(&house).await;
    house.end().await;
}
