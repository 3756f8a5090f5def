//! gRPC from end to end: HTTP/2 on both sides, messages as they come, outcomes in trailers, refusals in gRPC's words.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use tempfile::TempDir;
use tokenward::rehearsal::{Alpn, Answer, Call, Rehearsal, Service};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::kit::{
    API, Credential, House, Origin, OwnBody, PATIENCE, Setup, Svc, ask, eventually, read_head,
};

const HOST: &str = "grpc.test";

/// One gRPC message.
fn message(text: &str) -> Bytes {
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(text.as_bytes());
    framed.into()
}

fn trailers(status: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    for (name, value) in [
        ("grpc-status", status),
        ("grpc-message", "n%C3%A4h"),
        ("detail-bin", "AAEC"),
        ("set-cookie", "session=1"),
    ] {
        trailers.append(name, value.parse().unwrap());
    }
    trailers
}

type Frames = mpsc::Receiver<Result<Frame<Bytes>, io::Error>>;
type Say = mpsc::Sender<Result<Frame<Bytes>, io::Error>>;

/// A body that is written while it is read.
fn live() -> (Say, OwnBody) {
    let (say, hear): (Say, Frames) = mpsc::channel(4);
    let pieces = stream::unfold(hear, |mut hear| async move {
        let next = hear.recv().await?;
        Some((next, hear))
    });
    (say, StreamBody::new(pieces).boxed_unsync())
}

fn answered(body: OwnBody) -> Response<OwnBody> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert("content-type", "application/grpc".parse().unwrap());
    response
}

/// Sends back every message as it comes, with the fields of the head in front; `/Echo/Fail` has trailers alone.
async fn echo(request: Request<Incoming>) -> Response<OwnBody> {
    let (head, mut body) = request.into_parts();
    let (say, out) = live();
    let mut response = answered(out);
    if head.uri.path() == "/Echo/Fail" {
        response.headers_mut().extend(trailers("5"));
        return response;
    }
    for name in ["te", "grpc-timeout", "x-note-bin"] {
        if let Some(value) = head.headers.get(name) {
            let told = format!("told-{name}").parse::<http::HeaderName>().unwrap();
            response.headers_mut().insert(told, value.clone());
        }
    }
    tokio::spawn(async move {
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data()
                && say.send(Ok(Frame::data(data))).await.is_err()
            {
                return;
            }
        }
        // It may be that nobody listens any more.
        say.send(Ok(Frame::trailers(trailers("0")))).await.ok();
    });
    response
}

/// A house whose one service is this server.
async fn house(origin: &Origin) -> House {
    let folder = TempDir::new().unwrap();
    let service = Svc {
        name: "grpc",
        host: HOST.into(),
        credential: Credential::Bearer,
        rules: vec![r#"{allow: "POST /Echo/*"}"#.into()],
        more: Vec::new(),
        upstream: Some(origin.upstream(folder.path())),
    };
    let setup = Setup::of([service]);
    let rehearsal = Rehearsal::start(setup.options.clone()).await.unwrap();
    setup.start_in(folder, rehearsal).await
}

fn rpc(path: &str) -> Call {
    Call::new(Method::POST, path)
        .field("content-type", "application/grpc")
        .field("te", "trailers")
        .field("grpc-timeout", "5S")
        .field("x-note-bin", "AAEC")
}

/// The answer has gRPC's form of this refusal.
#[track_caller]
fn refused_in_trailers(answer: &Answer, status: &str, code: &str) {
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
    let field = |name: &str| answer.headers.get(name).map(|v| v.to_str().unwrap());
    assert_eq!(
        (field("grpc-status"), field("grpc-message")),
        (Some(status), Some(code))
    );
    assert_eq!(field("content-type"), Some("application/grpc"));
    assert_eq!(answer.trailers, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_carried_with_its_deadline_and_its_trailers() {
    let origin = Origin::http2(HOST, echo).await;
    let house = house(&origin).await;
    let answer = ask(
        &house.agent(),
        HOST,
        true,
        rpc("/Echo/Say").bytes(message("hello")),
    )
    .await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body),
        (200, &message("hello"))
    );
    assert_eq!(answer.headers["told-te"], "trailers");
    assert_eq!(answer.headers["told-grpc-timeout"], "5S");
    assert_eq!(answer.headers["told-x-note-bin"], "AAEC");
    let told = answer.trailers.unwrap();
    assert_eq!(told["grpc-status"], "0");
    assert_eq!(told["grpc-message"], "n%C3%A4h");
    assert_eq!(told["detail-bin"], "AAEC");
    // What no trailer may say, and no agent of an authenticated service may hear.
    assert!(!told.contains_key("set-cookie"));
    // An outcome without any message stands in the head.
    let failed = ask(&house.agent(), HOST, true, rpc("/Echo/Fail")).await;
    assert_eq!(failed.headers["grpc-status"], "5");
    assert_eq!(failed.headers["detail-bin"], "AAEC");
    let lines = house.end().await.requests();
    assert!(
        lines.iter().all(|line| line.get("ended").is_none()),
        "{lines:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_of_a_stream_speak_when_they_like() {
    let origin = Origin::http2(HOST, echo).await;
    let house = house(&origin).await;
    let mut session = house.agent().open(HOST, 443, true).await.unwrap();
    let (say, body) = live();
    let mut call = rpc("/Echo/Chat");
    call.body = body;
    let mut response = session.start(call).await.unwrap();
    for text in ["one", "", "three"] {
        say.send(Ok(Frame::data(message(text)))).await.unwrap();
        let heard = timeout(PATIENCE, response.frame()).await.unwrap();
        assert_eq!(heard.unwrap().unwrap().into_data().unwrap(), message(text));
    }
    drop(say);
    let last = timeout(PATIENCE, response.frame()).await.unwrap();
    let last = last.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(last["grpc-status"], "0");
    drop((session, response));
    house.end().await;
}

/// Whoever hangs up, the other side hears of it: neither waits for somebody who has gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_cancelled_ends_on_both_sides() {
    let ended = Arc::new(AtomicUsize::new(0));
    let origin = Origin::http2(HOST, {
        let ended = ended.clone();
        move |request: Request<Incoming>| {
            let ended = ended.clone();
            async move {
                let path = request.uri().path().to_owned();
                let mut body = request.into_body();
                let (say, out) = live();
                tokio::spawn(async move {
                    if path == "/Echo/Abort" {
                        say.send(Ok(Frame::data(message("one")))).await.ok();
                        // Once the message has gone, so that it is the stream that breaks and not the answer.
                        body.frame().await;
                        say.send(Err(io::ErrorKind::Other.into())).await.ok();
                        return;
                    }
                    say.send(Ok(Frame::data(message("one")))).await.ok();
                    // The end of what the agent says is not its goodbye.
                    while let Some(Ok(_)) = body.frame().await {}
                    say.closed().await;
                    ended.fetch_add(1, Ordering::SeqCst);
                });
                answered(out)
            }
        }
    })
    .await;
    let house = house(&origin).await;
    let mut session = house.agent().open(HOST, 443, true).await.unwrap();
    // Cancelled while it still speaks, and while it only listens.
    for (n, speaks) in [(1, true), (2, false)] {
        let (say, body) = live();
        let mut call = rpc("/Echo/Watch");
        let mut say = Some(say);
        if speaks {
            call.body = body;
        } else {
            say = None;
        }
        let mut response = session.start(call).await.unwrap();
        let first = timeout(PATIENCE, response.frame()).await.unwrap();
        first.unwrap().unwrap();
        assert_eq!(ended.load(Ordering::SeqCst), n - 1);
        if let Some(say) = &say {
            let broken = Err(io::ErrorKind::Other.into());
            say.send(broken).await.unwrap();
        }
        drop(response);
        let heard = || ended.load(Ordering::SeqCst) == n;
        eventually("the end of the call at the API", heard).await;
    }

    // The connection lives on, and a stream that the API breaks is broken for the agent.
    let (say, body) = live();
    let mut call = rpc("/Echo/Abort");
    call.body = body;
    let mut response = session.start(call).await.unwrap();
    timeout(PATIENCE, response.frame())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    say.send(Ok(Frame::data(message("go")))).await.unwrap();
    let broken = timeout(PATIENCE, response.frame()).await.unwrap().unwrap();
    assert!(broken.is_err(), "{broken:?}");
    drop((session, response, say));
    let lines = house.end().await.requests();
    assert!(
        lines.iter().all(|line| line["ended"] == "early"),
        "{lines:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_in_the_words_of_grpc() {
    let origin = Origin::http2(HOST, echo).await;
    let house = house(&origin).await;
    let agent = house.agent();
    let one = message("x");
    let denied = ask(&agent, HOST, true, rpc("/Other/Say").bytes(one.clone())).await;
    refused_in_trailers(&denied, "7", "policy-denied");
    let odd = ask(
        &agent,
        HOST,
        true,
        rpc("/Echo/Say").field("expect", "tea").bytes(one.clone()),
    )
    .await;
    refused_in_trailers(&odd, "9", "expectation-failed");
    // gRPC-Web is answered in its own media type, and what merely looks alike in HTTP's words.
    for (kind, expected, status) in [
        ("application/grpc-web+proto", "application/grpc-web", 200),
        (
            "application/grpc-web-text",
            "application/grpc-web-text",
            200,
        ),
        ("application/grpcish", "application/problem+json", 403),
    ] {
        let call = Call::new(Method::POST, "/Other/Say").field("content-type", kind);
        let answer = ask(&agent, HOST, true, call.bytes(one.clone())).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.headers["content-type"]),
            (status, &expected.parse().unwrap())
        );
    }
    house.end().await;

    // An API that is not there, one that falls silent, and a token that cannot be had.
    let items = Svc::items().line("timeouts: {first_byte: 200ms}");
    let house = Setup::of([items]).start().await;
    let call = || rpc("/v1/items").bytes(one.clone());
    house
        .rehearsal
        .controls()
        .site(Service::Api, |s| s.delay = PATIENCE);
    refused_in_trailers(&house.ask(true, call()).await, "4", "upstream-timeout");
    house.rehearsal.take_down(Service::Api).await;
    refused_in_trailers(&house.ask(true, call()).await, "14", "upstream-unreachable");
    house.end().await;
    let house = Setup::of([Svc::items()]).start().await;
    house.rehearsal.take_down(Service::Issuer).await;
    refused_in_trailers(&house.ask(true, call()).await, "14", "as-unavailable");
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_agent_is_told_so_by_the_proxy_and_not_by_grpc() {
    let mut setup = Setup::usual();
    setup.agents = vec![("a", "items")];
    let house = setup.start().await;
    let mut stream = tokio::net::TcpStream::connect(house.proxy()).await.unwrap();
    let head = format!(
        "CONNECT {API}:443 HTTP/1.1\r\nhost: {API}:443\r\ncontent-type: application/grpc\r\n\r\n"
    );
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes())
        .await
        .unwrap();
    assert_eq!(read_head(&mut stream).await.status(), 407);
    house.end().await;
}

/// An API that speaks HTTP/1.1 alone would lose the trailers, so it is not asked; everything else goes on as ever.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_needs_http2_on_the_way_out() {
    for alpn in [Alpn::H1, Alpn::Both] {
        let house = Setup::usual().start().await;
        house
            .rehearsal
            .controls()
            .site(Service::Api, |s| s.alpn = alpn);
        let call = |kind: &str| {
            Call::new(Method::POST, "/v1/items")
                .field("content-type", kind)
                .bytes(message("{}"))
        };
        // A connection of HTTP/1.1 is kept from before, and must not be taken.
        assert_eq!(house.get("/v1/items").await.status, 200);
        let before = house.at_api().len();
        let answer = house.ask(true, call("application/grpc")).await;
        if alpn == Alpn::H1 {
            refused_in_trailers(&answer, "14", "upstream-protocol-error");
            assert_eq!(house.at_api().len(), before);
        } else {
            assert_eq!(answer.status, 201);
            assert_eq!(house.at_api().last().unwrap().version, "HTTP/2");
        }
        assert_eq!(
            house
                .ask(true, call("application/grpc-web+proto"))
                .await
                .status,
            201
        );
        assert_eq!(house.get("/v1/items").await.status, 200);
        house.end().await;
    }
}
