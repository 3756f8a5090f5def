//! Bodies of every kind, both ways: large ones, endless ones, broken ones, none at all.

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokenward::rehearsal::{Alpn, Call, CallBody, CallerError, Failure, Service};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::kit::{API, House, PATIENCE, WebSocket, read_head, refused};

/// Every pairing of versions: what the agent speaks and what the API does.
const PAIRS: [(bool, Alpn); 4] = [
    (false, Alpn::H1),
    (false, Alpn::H2),
    (true, Alpn::H1),
    (true, Alpn::H2),
];

async fn house(alpn: Alpn) -> House {
    let house = House::start().await;
    house
        .rehearsal
        .controls()
        .site(Service::Api, |s| s.alpn = alpn);
    // The nonce is known from here on, so that large bodies go through at once.
    assert_eq!(house.get("/v1/items").await.status, 200);
    house.rehearsal.clear_seen();
    house
}

fn streamed(frames: Vec<Frame<Bytes>>) -> CallBody {
    StreamBody::new(stream::iter(frames.into_iter().map(Ok))).boxed_unsync()
}

fn sha256(bytes: &[u8]) -> String {
    use aws_lc_rs::digest::{SHA256, digest};
    let hash = digest(&SHA256, bytes);
    hash.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_arrives_byte_for_byte() {
    let bytes: Vec<u8> = (0..8_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let expected = format!(
        r#"{{"length":{},"sha256":"{}"}}"#,
        bytes.len(),
        sha256(&bytes)
    );
    let bytes = Bytes::from(bytes);
    for (h2, alpn) in PAIRS {
        let house = house(alpn).await;
        // Once with its length declared, once without.
        let declared = Call::new(Method::POST, "/v1/upload").bytes(bytes.clone());
        let mut chunked = Call::new(Method::POST, "/v1/upload");
        let pieces = (0..bytes.len()).step_by(50_000);
        let pieces = pieces.map(|at| Frame::data(bytes.slice(at..bytes.len().min(at + 50_000))));
        chunked.body = streamed(pieces.collect());
        for call in [declared, chunked] {
            let answer = house.ask(h2, call).await;
            assert_eq!(answer.text(), expected, "{h2} {alpn:?}");
        }
        let written = house.end().await;
        for line in &written.requests()[1..] {
            assert_eq!(line["bytes_in"], bytes.len(), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_unsaid_length_arrives_whatever_the_method() {
    let expected = format!(r#"{{"length":4,"sha256":"{}"}}"#, sha256(b"body"));
    for (h2, alpn) in PAIRS {
        let house = house(alpn).await;
        for method in [Method::GET, Method::PUT] {
            let mut call = Call::new(method.clone(), "/v1/upload");
            if !h2 {
                call = call.field("transfer-encoding", "chunked");
            }
            call.body = streamed(vec![Frame::data("bo".into()), Frame::data("dy".into())]);
            let answer = house.ask(h2, call).await;
            assert_eq!(answer.text(), expected, "{method} {h2} {alpn:?}");
        }
        house.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_passed_on_and_never_held() {
    const SIZE: u64 = 64 << 20;
    for (h2, alpn) in [(false, Alpn::H1), (true, Alpn::H2)] {
        let house = house(alpn).await;
        let mut session = house.agent().open(API, 443, h2).await.unwrap();
        let target = format!("/v1/download?bytes={SIZE}");
        let mut response = session.start(Call::get(&target)).await.unwrap();
        assert_eq!(response.headers()["content-length"], SIZE.to_string());
        let mut length = 0;
        while let Some(frame) = response.frame().await {
            length += frame.unwrap().data_ref().map_or(0, Bytes::len) as u64;
        }
        assert_eq!(length, SIZE);
        drop((response, session));
        let line = house.end().await.requests().pop().unwrap();
        assert_eq!(
            (&line["bytes_out"], line.get("ended")),
            (&SIZE.into(), None)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_both_ways() {
    for (h2, alpn) in PAIRS {
        let house = house(alpn).await;
        let placeholder = house.variable("default", "ITEMS_TOKEN");
        let mut trailers = HeaderMap::new();
        trailers.insert("content-digest", HeaderValue::from_static("x=:42:"));
        // Everything else could be taken for a field of the head.
        trailers.insert("x-agent-sum", HeaderValue::from_static("42"));
        trailers.insert("x-api-key", placeholder.parse().unwrap());
        trailers.insert("x-forwarded-for", HeaderValue::from_static("10.0.0.1"));
        let mut call = Call::new(Method::POST, "/v1/trailers")
            .field("te", "trailers")
            .field(
                "trailer",
                "content-digest, x-agent-sum, x-api-key, x-forwarded-for",
            );
        if !h2 {
            call = call.field("connection", "te");
        }
        let frames = vec![
            Frame::data(Bytes::from_static(b"hello")),
            Frame::trailers(trailers),
        ];
        call.body = streamed(frames);
        let answer = house.ask(h2, call).await;
        let expected = r#"{"length":5,"trailers":[["content-digest","x=:42:"]]}"#;
        assert_eq!(answer.text(), expected, "{h2} {alpn:?}");
        let trailers = answer
            .trailers
            .unwrap_or_else(|| panic!("no trailers: {h2} {alpn:?}"));
        assert_eq!(trailers["x-checksum"], "rehearsed");
        house.end().await;
    }
}

/// The second event would come after a minute: whoever sees the first one has not waited for the end.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_passed_on_when_it_comes() {
    for (h2, alpn) in PAIRS {
        let house = house(alpn).await;
        let mut session = house.agent().open(API, 443, h2).await.unwrap();
        let mut response = session
            .start(Call::get("/v1/stream?n=2&ms=60000"))
            .await
            .unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let frame = timeout(PATIENCE, response.frame())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(frame.into_data().unwrap(), "id: 0\ndata: event 0\n\n");
        drop((response, session));
        // An agent that hangs up ends the exchange, and the line says so.
        let line = house.lines(2).await.pop().unwrap();
        assert_eq!(line["ended"], "early", "{line}");
        house.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_to_the_last() {
    for (h2, alpn) in PAIRS {
        let house = house(alpn).await;
        let answer = house.ask(h2, Call::get("/v1/stream?n=20&ms=1")).await;
        assert!(
            answer.text().ends_with("id: 19\ndata: event 19\n\n"),
            "{}",
            answer.text()
        );
        let line = house.end().await.requests().pop().unwrap();
        assert_eq!(line.get("ended"), None, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_speaks_through() {
    for alpn in [Alpn::H1, Alpn::Both] {
        let house = House::start().await;
        house
            .rehearsal
            .controls()
            .site(Service::Api, |s| s.alpn = alpn);
        let placeholder = house.variable("default", "ITEMS_TOKEN");
        let fields =
            format!("authorization: Bearer {placeholder}\r\nsec-websocket-protocol: chat, v2\r\n");
        let tls = house.inside(API).await;
        let opened = WebSocket::open(tls, API, &fields).await;
        let mut socket = opened.unwrap_or_else(|answer| panic!("{}", answer.text()));
        for text in ["hello", &"x".repeat(60_000), ""] {
            socket.say(text).await;
            assert_eq!(
                socket.hear().await.unwrap(),
                (0x81, text.as_bytes().to_vec())
            );
        }
        socket.close().await;
        let last = house.at_api().pop().unwrap();
        assert_eq!(last.version, "HTTP/1.1");
        assert!(!format!("{last:?}").contains(&placeholder));
        let line = house.end().await.only();
        assert_eq!(
            (&line["status"], &line["decision"]),
            (&101.into(), &"allowed".into())
        );
        assert!(line["bytes_in"].as_u64().unwrap() > 60_000, "{line}");
        assert!(line["bytes_out"].as_u64().unwrap() > 60_000, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_needs_a_rule_too() {
    let house = House::start().await;
    let mut tls = house.inside(API).await;
    let head = format!(
        "GET /v2/ws HTTP/1.1\r\nhost: {API}\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    );
    tls.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut tls).await.status(), 403);
    assert!(house.rehearsal.seen().is_empty());
    drop(tls);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_not_a_whole_one() {
    for (h2, alpn) in PAIRS {
        let house = house(alpn).await;
        house
            .rehearsal
            .controls()
            .fail(Service::Api, 1, Failure::DropAfterHead);
        let ended = house
            .agent()
            .call(API, 443, h2, Call::get("/v1/items"))
            .await;
        // Over HTTP/1.1 the connection may end before the head of the answer has gone.
        let torn = match &ended {
            Err(CallerError::Body) => true,
            Err(CallerError::Http(_)) => !h2,
            _ => false,
        };
        assert!(torn, "{h2} {alpn:?}: {ended:?}");
        assert_eq!(
            house.at_api().len(),
            1,
            "an answer that had begun was asked for again"
        );
        let line = house.end().await.requests().pop().unwrap();
        assert_eq!(line["ended"], "early", "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_have_none() {
    for (h2, alpn) in PAIRS {
        let house = house(alpn).await;
        let mut session = house.agent().open(API, 443, h2).await.unwrap();
        // One connection: whoever misreads where an answer ends fails at the next one.
        let whole = session.send(Call::get("/v1/items")).await.unwrap();
        let head = session
            .send(Call::new(Method::HEAD, "/v1/items"))
            .await
            .unwrap();
        assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
        assert_eq!(head.headers["content-length"], whole.body.len().to_string());
        for status in [204, 304] {
            let answer = session
                .send(Call::get(&format!("/v1/status/{status}")))
                .await
                .unwrap();
            assert_eq!((answer.status.as_u16(), answer.body.len()), (status, 0));
        }
        let again = session.send(Call::get("/v1/items")).await.unwrap();
        assert_eq!(again.body, whole.body);
        drop(session);
        for line in house.end().await.requests() {
            assert_eq!(line.get("ended"), None, "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_of_the_api_are_the_agents() {
    let house = house(Alpn::Both).await;
    for status in [200, 404, 409, 418, 429, 500, 503, 599] {
        let answer = house.get(&format!("/v1/status/{status}")).await;
        assert_eq!(answer.status.as_u16(), status);
        assert_eq!(answer.text(), format!(r#"{{"status":{status}}}"#));
    }
    // What HTTP does not know, and what belongs to a proxy, is not passed on.
    for status in [407, 600, 999] {
        refused(
            &house.get(&format!("/v1/status/{status}")).await,
            502,
            "upstream-protocol-error",
        );
    }
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_is_asked_for_only_when_it_is_wanted() {
    let house = house(Alpn::Both).await;
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: {API}\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\
             connection: close\r\n\r\n"
        )
    };
    let mut tls = house.inside(API).await;
    tls.write_all(head("/v1/upload").as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut tls).await.status(), 100);
    tls.write_all(b"body").await.unwrap();
    assert_eq!(read_head(&mut tls).await.status(), 200);
    drop(tls);

    let mut tls = house.inside(API).await;
    tls.write_all(head("/v2/upload").as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut tls).await.status(), 403);
    let received = house.at_api();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].header("expect"), None);
    drop(tls);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_breaks_off_ends_the_exchange() {
    for alpn in [Alpn::H1, Alpn::H2] {
        let house = house(alpn).await;
        let mut tls = house.inside(API).await;
        let head =
            format!("POST /v1/upload HTTP/1.1\r\nhost: {API}\r\ncontent-length: 1000000\r\n\r\n");
        tls.write_all(head.as_bytes()).await.unwrap();
        tls.write_all(&[b'x'; 100_000]).await.unwrap();
        tls.flush().await.unwrap();
        drop(tls);
        house.lines(2).await;
        assert!(
            house.at_api().iter().all(|s| s.status.is_none()),
            "half a body was taken for a whole one"
        );
        house.end().await;
    }
}
