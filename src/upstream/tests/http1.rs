use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, Channel};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::kit::*;
use crate::credential::BodyError;
use crate::upstream::client::send;
use crate::upstream::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_connection_is_kept_after_a_clean_end_only() {
    let world = World::new();
    let table = [
        (OK, true),
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
            false,
        ),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok", false),
        // What comes after the end belongs to nobody.
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 100 Continue\r\n\r\n",
            false,
        ),
        ("HTTP/1.1 204 No Content\r\n\r\nevil", false),
        (
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\nevil",
            false,
        ),
    ];
    for (answer, kept) in table {
        let tls = world.ca.server("api.test", &[]);
        let server = Server::http1(Some(tls), move |_| answer.to_owned()).await;
        let endpoint = world.endpoint(&server);
        for round in 0..3 {
            let (reused, body) = world.fetch("a", &endpoint).await;
            assert_eq!(reused, kept && round > 0, "{answer:?}");
            assert!(body.is_empty() || body == "ok", "{body:?}");
        }
        assert_eq!(server.connections(), if kept { 1 } else { 3 }, "{answer:?}");
    }
}

#[tokio::test]
async fn one_user_at_a_time() {
    let world = World::new();
    let server = Server::http1(None, |_| OK.to_owned()).await;
    let endpoint = world.endpoint(&server);
    let connect = || world.connect_as("a", "http://api.test", &endpoint, Protocol::Any);
    let (one, two) = (connect().await.unwrap(), connect().await.unwrap());
    assert!(!one.reused() && !two.reused());
    let reply = get(one).await.unwrap();
    // The reply has not been read: its connection is not free.
    assert!(!connect().await.unwrap().reused());
    assert_eq!(read(reply).await.unwrap(), "ok");
    assert_eq!(read(get(two).await.unwrap()).await.unwrap(), "ok");
    settle().await;
    assert!(connect().await.unwrap().reused());
}

#[tokio::test]
async fn an_unused_connection_goes_back() {
    let world = World::new();
    let server = Server::http1(None, |_| OK.to_owned()).await;
    let endpoint = world.endpoint(&server);
    for round in 0..3 {
        let found = world
            .connect_as("a", "http://api.test", &endpoint, Protocol::Any)
            .await
            .unwrap();
        assert_eq!(found.reused(), round > 0);
        drop(found);
        settle().await;
    }
}

#[tokio::test]
async fn a_reply_that_is_dropped_takes_its_connection_along() {
    let world = World::new();
    let server = Server::http1(None, |_| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 900000\r\n\r\n{}",
            "x".repeat(500_000)
        )
    })
    .await;
    let endpoint = world.endpoint(&server);
    for _ in 0..2 {
        let found = world
            .connect_as("a", "http://api.test", &endpoint, Protocol::Any)
            .await
            .unwrap();
        assert!(!found.reused());
        let reply = get(found).await.unwrap();
        let mut body = reply.response.into_body();
        assert!(body.frame().await.unwrap().unwrap().is_data());
        drop(body);
        settle().await;
    }
}

#[tokio::test]
async fn a_request_that_still_flows_keeps_its_connection_from_others() {
    let world = World::new();
    let server = Server::http1(None, |_| OK.to_owned()).await;
    let endpoint = world.endpoint(&server);
    let connect = || world.connect_as("a", "http://api.test", &endpoint, Protocol::Any);
    let connection = connect().await.unwrap();
    let (mut tx, body) = Channel::<Bytes, BodyError>::new(4);
    let request = request(&connection, "POST", body.boxed_unsync());
    tx.send(Frame::data(Bytes::from("some"))).await.unwrap();
    let reply = send(connection, request).await.unwrap();
    assert_eq!(read(reply).await.unwrap(), "ok");
    settle().await;
    assert!(!connect().await.unwrap().reused());
    drop(tx);
}

#[tokio::test]
async fn a_body_that_ends_early_is_an_error() {
    let world = World::new();
    let table = [
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nok",
        // No length at all: over TLS the end must be announced (RFC 9112 §9.8).
        "HTTP/1.1 200 OK\r\n\r\nok",
    ];
    for answer in table {
        let tls = world.ca.server("api.test", &[]);
        let server = Server::start(Some(tls), move |mut io, _| async move {
            read_head(&mut io).await;
            io.write_all(answer.as_bytes()).await.unwrap();
            io.flush().await.unwrap();
        })
        .await;
        let endpoint = world.endpoint(&server);
        let reply = get(world.connect("a", &endpoint).await.unwrap())
            .await
            .unwrap();
        assert_eq!(read(reply).await, Err(BodyError::Upstream), "{answer:?}");
        settle().await;
        assert!(!world.connect("a", &endpoint).await.unwrap().reused());
    }
}

#[tokio::test]
async fn trailers_pass_and_end_the_reply() {
    let world = World::new();
    let server = Server::http1(None, |_| {
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n".to_owned()
    })
    .await;
    let endpoint = world.endpoint(&server);
    for round in 0..2 {
        let found = world
            .connect_as("a", "http://api.test", &endpoint, Protocol::Any)
            .await
            .unwrap();
        assert_eq!(found.reused(), round > 0);
        let mut body = get(found).await.unwrap().response.into_body();
        assert!(body.frame().await.unwrap().unwrap().is_data());
        let trailers = body
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_trailers()
            .unwrap();
        assert_eq!(trailers["x-sum"], "7");
        drop(body);
        settle().await;
    }
}

#[tokio::test]
async fn a_reply_that_can_be_read_in_two_ways_is_refused() {
    let world = World::new();
    let padding = format!("x-a: {}\r\n", "a".repeat(70_000));
    let table = [
        "content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "transfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "transfer-encoding: identity\r\n\r\nok",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "transfer-encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "content-length: 2\r\ncontent-length: 2\r\n\r\nok",
        "content-length: 2\r\ncontent-length: 3\r\n\r\nok",
        "content-length: -1\r\n\r\nok",
        "content-length: +2\r\n\r\nok",
        "content-length: 2, 2\r\n\r\nok",
        "bad name: x\r\ncontent-length: 2\r\n\r\nok",
        &format!("{padding}content-length: 2\r\n\r\nok"),
    ];
    let whole = [
        "HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
        "HTTP/1.1 200 OK\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 999 No\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 099 No\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/0.9 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        &format!("{}{OK}", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(9)),
        &format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(2_000_000)),
    ];
    let heads = table.map(|rest| format!("HTTP/1.1 200 OK\r\n{rest}"));
    for answer in heads.into_iter().chain(whole.map(str::to_owned)) {
        let rest = answer.clone();
        let server = Server::http1(None, move |_| answer.clone()).await;
        let endpoint = world.endpoint(&server);
        let connect = || world.connect_as("a", "http://api.test", &endpoint, Protocol::Any);
        let error = get(connect().await.unwrap()).await.unwrap_err();
        let name = &rest[..rest.len().min(60)];
        assert_eq!(error.failure, SendFailure::Protocol, "{name:?}");
        assert!(!error.unprocessed && !error.reused_idle_died, "{name:?}");
        settle().await;
        assert!(!connect().await.unwrap().reused());
    }
}

#[tokio::test]
async fn early_hints_are_swallowed() {
    let world = World::new();
    let server = Server::http1(None, |_| {
        let hint = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
        format!("{}{OK}", hint.repeat(8))
    })
    .await;
    let endpoint = world.endpoint(&server);
    let found = world
        .connect_as("a", "http://api.test", &endpoint, Protocol::Any)
        .await
        .unwrap();
    assert_eq!(read(get(found).await.unwrap()).await.unwrap(), "ok");
}

async fn plain(world: &World, endpoint: &Arc<Endpoint>) -> Connection {
    world
        .connect_as("a", "http://api.test", endpoint, Protocol::Any)
        .await
        .unwrap()
}

/// A server that answers once, says so, and on a second request does what the test wants.
async fn answers_once(then: &'static str) -> (Server, oneshot::Receiver<()>) {
    let (tx, rx) = oneshot::channel();
    let tx = std::sync::Mutex::new(Some(tx));
    let server = Server::start(None, move |mut io, _| {
        let tx = tx.lock().unwrap().take();
        async move {
            read_head(&mut io).await;
            io.write_all(OK.as_bytes()).await.unwrap();
            if then != "closes idle" {
                read_head(&mut io).await;
                io.write_all(then.as_bytes()).await.unwrap();
            }
            drop(io);
            if let Some(tx) = tx {
                tx.send(()).unwrap_or_default();
            }
        }
    })
    .await;
    (server, rx)
}

#[tokio::test]
async fn an_idle_connection_that_died_is_told_apart() {
    let world = World::new();
    // It read the request and closed: perhaps processed, but no byte came back.
    let (server, _closed) = answers_once("").await;
    let endpoint = world.endpoint(&server);
    read(get(plain(&world, &endpoint).await).await.unwrap())
        .await
        .unwrap();
    settle().await;
    let second = plain(&world, &endpoint).await;
    assert!(second.reused());
    let error = get(second).await.unwrap_err();
    assert_eq!(error.failure, SendFailure::Closed);
    assert!(error.reused_idle_died && !error.unprocessed);

    // A byte of the reply came: it was processed.
    let (server, _closed) = answers_once("HTTP/1.1 2").await;
    let endpoint = world.endpoint(&server);
    read(get(plain(&world, &endpoint).await).await.unwrap())
        .await
        .unwrap();
    settle().await;
    let error = get(plain(&world, &endpoint).await).await.unwrap_err();
    assert!(!error.reused_idle_died && !error.unprocessed);

    // It closed while the connection was checked out, before anything was written.
    let (server, closed) = answers_once("closes idle").await;
    let endpoint = world.endpoint(&server);
    let reply = get(plain(&world, &endpoint).await).await.unwrap();
    // The server closes at once, but the pool cannot know before it looks.
    read(reply).await.unwrap();
    closed.await.unwrap();
    settle().await;
    assert!(
        !plain(&world, &endpoint).await.reused(),
        "dead connections are dropped"
    );
}

#[tokio::test]
async fn nothing_written_is_unprocessed() {
    let world = World::new();
    let (close, closing) = oneshot::channel::<()>();
    let closing = std::sync::Mutex::new(Some(closing));
    let server = Server::start(None, move |mut io, _| {
        let closing = closing.lock().unwrap().take();
        async move {
            read_head(&mut io).await;
            io.write_all(OK.as_bytes()).await.unwrap();
            drop(closing.unwrap().await);
        }
    })
    .await;
    let endpoint = world.endpoint(&server);
    let connect = || world.connect_as("a", "http://api.test", &endpoint, Protocol::Any);
    read(get(connect().await.unwrap()).await.unwrap())
        .await
        .unwrap();
    settle().await;
    let second = connect().await.unwrap();
    assert!(second.reused());
    close.send(()).unwrap();
    settle().await;
    let error = get(second).await.unwrap_err();
    assert_eq!(error.failure, SendFailure::Closed);
    assert!(error.unprocessed);
}

#[tokio::test]
async fn a_new_connection_that_died_may_have_processed_it() {
    let world = World::new();
    let server = Server::start(None, |mut io, _| async move {
        read_head(&mut io).await;
    })
    .await;
    let endpoint = world.endpoint(&server);
    let found = world
        .connect_as("a", "http://api.test", &endpoint, Protocol::Any)
        .await
        .unwrap();
    let error = get(found).await.unwrap_err();
    assert_eq!(error.failure, SendFailure::Closed);
    assert!(!error.unprocessed && !error.reused_idle_died);
}

#[tokio::test]
async fn a_request_body_that_breaks_off_is_named() {
    let world = World::new();
    let server = Server::start(None, |mut io, _| async move {
        let mut all = Vec::new();
        drop(io.read_to_end(&mut all).await);
        assert!(
            !all.ends_with(b"0\r\n\r\n"),
            "a broken body must not look whole"
        );
    })
    .await;
    let endpoint = world.endpoint(&server);
    for (cause, code) in [
        (BodyError::Agent, crate::vocab::Code::BadRequest),
        (BodyError::Cancelled, crate::vocab::Code::ServiceRevoked),
    ] {
        let connection = world
            .connect_as("a", "http://api.test", &endpoint, Protocol::Any)
            .await
            .unwrap();
        let (mut tx, body) = Channel::<Bytes, BodyError>::new(4);
        let request = request(&connection, "POST", body.boxed_unsync());
        tx.send(Frame::data(Bytes::from("some"))).await.unwrap();
        let sent = tokio::spawn(send(connection, request));
        settle().await;
        tx.abort(cause);
        let error = sent.await.unwrap().unwrap_err();
        assert_eq!(error.failure, SendFailure::Body(cause));
        assert_eq!(error.code(), code);
        assert!(!error.unprocessed && !error.reused_idle_died);
    }
}

#[tokio::test]
async fn a_switched_connection_can_be_taken_over_and_never_comes_back() {
    let world = World::new();
    let server = Server::start(None, |mut io, _| async move {
        read_head(&mut io).await;
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        io.write_all(head.as_bytes()).await.unwrap();
        let mut four = [0; 4];
        io.read_exact(&mut four).await.unwrap();
        io.write_all(&four).await.unwrap();
    })
    .await;
    let endpoint = world.endpoint(&server);
    let connect = || world.connect_as("a", "http://api.test", &endpoint, Protocol::Http1);
    let connection = connect().await.unwrap();
    let mut upgrade = request(&connection, "GET", nothing());
    upgrade
        .headers_mut()
        .insert("connection", "upgrade".parse().unwrap());
    upgrade
        .headers_mut()
        .insert("upgrade", "websocket".parse().unwrap());
    let reply = send(connection, upgrade).await.unwrap();
    assert_eq!(reply.response.status(), 101);
    let taken = hyper::upgrade::on(reply.response).await.unwrap();
    let mut taken = TokioIo::new(taken);
    taken.write_all(b"ping").await.unwrap();
    let mut four = [0; 4];
    taken.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"ping");
    assert!(!connect().await.unwrap().reused());
}

#[tokio::test]
async fn dropping_the_future_closes_the_connection() {
    let world = World::new();
    let (tx, gone) = oneshot::channel();
    let tx = std::sync::Mutex::new(Some(tx));
    let server = Server::start(None, move |mut io, _| {
        let tx = tx.lock().unwrap().take();
        async move {
            read_head(&mut io).await;
            assert_eq!(io.read(&mut [0; 1]).await.unwrap_or(0), 0);
            tx.unwrap().send(()).unwrap();
        }
    })
    .await;
    let endpoint = world.endpoint(&server);
    let found = world
        .connect_as("a", "http://api.test", &endpoint, Protocol::Any)
        .await
        .unwrap();
    let waited = timeout(Duration::from_millis(50), get(found)).await;
    assert!(waited.is_err());
    timeout(SOON, gone).await.unwrap().unwrap();
}

/// The server has seen enough: its refusal is the answer, not the broken connection behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_before_the_bodys_end_is_the_answer() {
    let world = World::new();
    for tls in [false, true] {
        let config = tls.then(|| world.ca.server("api.test", &["http/1.1"]));
        let server = Server::start(config, |mut io, _| async move {
            read_head(&mut io).await;
            let answer = "HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno";
            io.write_all(answer.as_bytes()).await.unwrap();
            io.flush().await.unwrap();
        })
        .await;
        let endpoint = world.endpoint(&server);
        let origin = if tls {
            "https://api.test"
        } else {
            "http://api.test"
        };
        for _ in 0..20 {
            let connection = world
                .connect_as("a", origin, &endpoint, Protocol::Any)
                .await
                .unwrap();
            assert!(!connection.reused());
            let piece = Bytes::from(vec![b'x'; 64 * 1024]);
            let pieces = (0..1_000).map(move |_| Ok(Frame::data(piece.clone())));
            let pieces = futures_util::stream::iter(pieces);
            let body = http_body_util::StreamBody::new(pieces).boxed_unsync();
            let asked = request(&connection, "POST", body);
            let reply = send(connection, asked).await.unwrap();
            assert_eq!(reply.response.status(), 413);
            assert_eq!(read(reply).await.unwrap(), "no");
            settle().await;
        }
    }
}

#[tokio::test]
async fn an_answer_to_nothing_is_nobodys() {
    let world = World::new();
    let server = Server::start(None, |mut io, _| async move {
        io.write_all(OK.as_bytes()).await.unwrap();
        read_head(&mut io).await;
    })
    .await;
    let endpoint = world.endpoint(&server);
    for wait in [false, true] {
        let connection = plain(&world, &endpoint).await;
        if wait {
            settle().await;
        }
        if let Err(error) = get(connection).await {
            assert!(error.unprocessed || !wait, "{error:?}");
        } else {
            assert!(!wait, "an answer was taken that came before its request");
        }
    }
}
