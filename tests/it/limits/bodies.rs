//! Slow bodies, up and down.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::Method;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokenward::rehearsal::{Alpn, Call, CallBody, Service};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

use super::FLOOR;
use crate::kit::{API, House, PATIENCE, Setup, Svc, refused};

async fn house() -> House {
    let mut setup = Setup::of([Svc::items()]);
    setup.tune = |plan| plan.limits.body_floor = FLOOR;
    let house = setup.start().await;
    // The nonce is known from here on, so that streamed bodies go through at once.
    assert_eq!(house.get("/v1/items").await.status, 200);
    house
}

/// Pieces of a body, each after a pause.
fn paced(pieces: usize, size: usize, pause: Duration) -> CallBody {
    let frames = stream::iter(0..pieces).then(move |_| async move {
        sleep(pause).await;
        Ok(Frame::data(Bytes::from(vec![b'x'; size])))
    });
    StreamBody::new(frames).boxed_unsync()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_is_cut() {
    for alpn in [Alpn::H1, Alpn::H2] {
        let house = house().await;
        house
            .rehearsal
            .controls()
            .site(Service::Api, |s| s.alpn = alpn);
        // Declared and small, so that it would be kept; and without end.
        for head in ["content-length: 5000", "transfer-encoding: chunked"] {
            let mut tls = house.inside(API).await;
            let head = format!("POST /v1/upload HTTP/1.1\r\nhost: {API}\r\n{head}\r\n\r\n");
            tls.write_all(head.as_bytes()).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(tls);
            let trickle = tokio::spawn(async move {
                while writer.write_all(b"1\r\nx\r\n").await.is_ok() {
                    sleep(Duration::from_millis(20)).await;
                }
            });
            let mut answer = Vec::new();
            timeout(PATIENCE, reader.read_to_end(&mut answer))
                .await
                .unwrap()
                .ok();
            trickle.abort();
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
            assert!(answer.contains("\"request-timeout\""), "{answer}");
        }
        let mut call = Call::new(Method::POST, "/v1/upload");
        call.body = paced(10_000, 1, Duration::from_millis(20));
        refused(&house.ask(true, call).await, 408, "request-timeout");
        let lines = house.end().await.requests();
        let slow = lines.iter().filter(|l| l["code"] == "request-timeout");
        assert_eq!(slow.count(), 3, "{lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_waits_for_the_api_is_not_cut() {
    for alpn in [Alpn::H1, Alpn::H2] {
        let house = house().await;
        house.rehearsal.controls().site(Service::Api, |s| {
            s.alpn = alpn;
            s.delay = FLOOR.window * 4;
        });
        for h2 in [false, true] {
            let body = Bytes::from(vec![b'x'; 8 << 20]);
            let call = Call::new(Method::POST, "/v1/upload").bytes(body);
            let answer = house.ask(h2, call).await;
            assert_eq!(answer.status, 200, "{h2} {}", answer.text());
        }
        house.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_may_be_silent() {
    let house = house().await;
    for kind in [
        "application/grpc",
        "application/grpc+proto",
        "application/connect+json",
    ] {
        let mut call = Call::new(Method::POST, "/v1/upload").field("content-type", kind);
        call.body = paced(3, 10, FLOOR.window * 2);
        let answer = house.ask(true, call).await;
        assert_eq!(answer.status, 200, "{kind} {}", answer.text());
    }
    // On HTTP/1.1 it is no conversation, whatever it calls itself.
    let mut call = Call::new(Method::POST, "/v1/upload").field("content-type", "application/grpc");
    call.body = paced(3, 10, FLOOR.window * 2);
    let answer = house.ask(false, call).await;
    assert_eq!(answer.headers["grpc-message"], "request-timeout");
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_more_can_be_kept_bodies_stream() {
    let items = Svc::items().line("replay_buffer: 100KiB");
    let house = Setup::of([items])
        .line("limits: {replay_total: 64KiB}")
        .start()
        .await;
    assert_eq!(house.get("/v1/items").await.status, 200);
    let body = Bytes::from(vec![b'x'; 90 << 10]);
    let upload = || Call::new(Method::POST, "/v1/upload").bytes(body.clone());
    // Longer than the total, so that it is sent on and not kept: the challenge behind it cannot be met.
    assert_eq!(house.ask(true, upload()).await.status, 200);
    house.rehearsal.expire_nonces(Service::Api);
    refused(&house.ask(true, upload()).await, 503, "dpop-nonce-retry");
    // What fits is kept, and the room is free again after each.
    for _ in 0..3 {
        house.rehearsal.expire_nonces(Service::Api);
        let small = Call::new(Method::POST, "/v1/upload").bytes(vec![b'x'; 60 << 10]);
        assert_eq!(house.ask(true, small).await.status, 200);
    }
    house.end().await;
}

/// An agent that asks for much and reads nothing: the exchange ends, with its line, and its place is free again.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_takes_is_cut() {
    let items = Svc::items().line("timeouts: {idle: 500ms}");
    let house = Setup::of([items])
        .line("limits: {per_agent: {streams: 1}}")
        .start()
        .await;
    assert_eq!(house.get("/v1/items").await.status, 200);
    let target = "/v1/download?bytes=100000000";
    // HTTP/1.1: the connection is full.
    let mut tls = house.inside(API).await;
    let head = format!("GET {target} HTTP/1.1\r\nhost: {API}\r\n\r\n");
    tls.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(house.lines(2).await[1]["ended"], "early");
    drop(tls);
    // HTTP/2: the stream's window is closed, and the connection lives.
    let mut session = house.agent().open(API, 443, true).await.unwrap();
    let stuck = session.start(Call::get(target)).await.unwrap();
    assert_eq!(house.lines(3).await[2]["ended"], "early");
    drop(stuck);
    assert_eq!(
        session.send(Call::get("/v1/items")).await.unwrap().status,
        200
    );
    drop(session);
    house.end().await;
}

/// Whoever reads slowly is served, and a pause of the API is not the agent's.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_everything() {
    let items = Svc::items().line("timeouts: {idle: 2s}");
    let house = Setup::of([items]).start().await;
    assert_eq!(house.get("/v1/items").await.status, 200);
    for h2 in [false, true] {
        let mut session = house.agent().open(API, 443, h2).await.unwrap();
        let target = "/v1/download?bytes=3000000";
        let mut response = session.start(Call::get(target)).await.unwrap();
        let mut length = 0;
        while let Some(frame) = response.frame().await {
            length += frame.unwrap().data_ref().map_or(0, Bytes::len);
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(length, 3_000_000);
        // The connection is kept for longer than an answer may wait, and is still good.
        sleep(Duration::from_millis(2500)).await;
        let again = session.send(Call::get("/v1/items")).await.unwrap();
        assert_eq!(again.status, 200, "{h2}");
    }
    house.end().await;
}
