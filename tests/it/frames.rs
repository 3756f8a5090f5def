//! HTTP/2 from an agent that writes its frames by hand.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::kit::{API, House, PATIENCE, Tls};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![0, length[0], length[1], kind, flags, 0, 0, 0, stream];
    bytes.extend(payload);
    bytes
}

/// Fields as literals without indexing (RFC 7541 §6.2.2), all shorter than 127 bytes.
fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in list {
        bytes.push(0);
        for text in [name, value] {
            bytes.push(u8::try_from(text.len()).unwrap());
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// Sends frames on a new connection; the kind and the first payload bytes of the first frame on stream 1.
async fn first_answer(house: &House, frames: &[Vec<u8>]) -> (Tls, u8, Vec<u8>) {
    let tunnel = house.tunnel(API).await;
    let mut tls = house.handshake(tunnel, API, "h2").await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frames.concat());
    tls.write_all(&bytes).await.unwrap();
    let answered = async {
        loop {
            let mut head = [0; 9];
            if tls.read_exact(&mut head).await.is_err() {
                return (7, Vec::new());
            }
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            tls.read_exact(&mut payload).await.unwrap();
            if head[8] == 1 || head[3] == 7 {
                return (head[3], payload);
            }
        }
    };
    let (kind, payload) = timeout(PATIENCE, answered).await.unwrap();
    (tls, kind, payload)
}

fn head(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut list = vec![
        (":method", method),
        (":scheme", "https"),
        (":authority", API),
        (":path", path),
    ];
    list.extend(more);
    fields(&list)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_another_length_than_announced_is_never_a_whole_request() {
    let house = House::start().await;
    // The nonce is known from here on: a body that is not kept goes out as it comes.
    assert_eq!(house.get("/v1/items").await.status, 200);
    house.rehearsal.clear_seen();
    for (announced, sent) in [("5", &b"abcdef"[..]), ("5", b"abcd"), ("200000", b"abcd")] {
        let post = head("POST", "/v1/items", &[("content-length", announced)]);
        let (tls, kind, _) = first_answer(
            &house,
            &[
                frame(HEADERS, END_HEADERS, 1, &post),
                frame(DATA, END_STREAM, 1, sent),
            ],
        )
        .await;
        assert!(matches!(kind, RST_STREAM | HEADERS), "{kind}");
        drop(tls);
    }
    let lines = house.lines(4).await;
    // The line of the GET is written when nobody holds its answer any more, which may be after these.
    let posted = || lines.iter().filter(|line| line["method"] == "POST");
    assert_eq!(posted().count(), 3, "{lines:?}");
    for line in posted() {
        // Which of the two is told first, the body's end or the stream's, is not ours to choose.
        let told = line["code"] == "bad-request" || line["decision"] == "abandoned";
        assert!(told, "{line}");
    }
    assert!(house.at_api().iter().all(|seen| seen.method != "POST"));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_http2_lets_through_is_refused_by_us() {
    let house = House::start().await;
    let heads = [
        head("GET", "*", &[]),
        head("GET", "/v1/items", &[("host", API), ("host", API)]),
        head("GET", "/v1/items", &[("host", "evil.test")]),
        fields(&[(":method", "CONNECT"), (":authority", API)]),
        fields(&[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", API),
            (":path", "/v1/items"),
        ]),
        fields(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/v1/items"),
        ]),
        head("GET", "/v1/items", &[("transfer-encoding", "chunked")]),
        head("GET", "/v1/items", &[("connection", "authorization")]),
        head("GET", "/v1/items", &[("x", "a\r\ny: z")]),
        head("GET", "/v1/%0d%0a", &[]),
        head("GET / HTTP/1.1", "/v1/items", &[]),
    ];
    for list in &heads {
        let frames = [frame(HEADERS, END_HEADERS | END_STREAM, 1, list)];
        let (tls, kind, payload) = first_answer(&house, &frames).await;
        // `:status: 200` is the first byte, by its place in the static table (RFC 7541 appendix A).
        let allowed = kind == HEADERS && payload.first() == Some(&0x88);
        assert!(!allowed, "{}", list.escape_ascii());
        drop(tls);
    }
    assert!(house.at_api().is_empty());
    house.end().await;
}
