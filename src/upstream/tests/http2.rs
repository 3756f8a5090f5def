use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Response, Version};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::kit::*;
use crate::upstream::shelf::HTTP1_AT_A_TIME;
use crate::upstream::tasks::Tasks;
use crate::upstream::*;

/// A real HTTP/2 server whose answers wait for a permit of `gate`.
async fn http2(world: &World, streams: u32, gate: Arc<Semaphore>) -> (Server, Arc<AtomicUsize>) {
    http2_among(world, &["h2", "http/1.1"], streams, gate).await
}

/// The same with what it says that it speaks.
async fn http2_among(
    world: &World,
    alpn: &[&str],
    streams: u32,
    gate: Arc<Semaphore>,
) -> (Server, Arc<AtomicUsize>) {
    let busiest = Arc::new(AtomicUsize::new(0));
    let (seen, tls) = (busiest.clone(), world.ca.server("api.test", alpn));
    let server = Server::start(Some(tls), move |io, _| {
        let (gate, seen, now) = (gate.clone(), seen.clone(), Arc::new(AtomicUsize::new(0)));
        async move {
            let service = service_fn(move |_| {
                let (gate, seen, now) = (gate.clone(), seen.clone(), now.clone());
                async move {
                    let busy = now.fetch_add(1, Ordering::SeqCst) + 1;
                    seen.fetch_max(busy, Ordering::SeqCst);
                    drop(gate.acquire().await);
                    now.fetch_sub(1, Ordering::SeqCst);
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("ok"))))
                }
            });
            let served = hyper::server::conn::http2::Builder::new(Tasks::default())
                .max_concurrent_streams(streams)
                .serve_connection(TokioIo::new(io), service);
            drop(served.await);
        }
    })
    .await;
    (server, busiest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_share_one_connection_from_the_first_moment() {
    let world = World::new();
    let gate = Arc::new(Semaphore::new(0));
    let (server, busiest) = http2(&world, 200, gate.clone()).await;
    let endpoint = world.endpoint(&server);
    let fetch = || async {
        let connection = world.connect("a", &endpoint).await.unwrap();
        assert_eq!(connection.version(), Version::HTTP_2);
        read(get(connection).await.unwrap()).await.unwrap()
    };
    let all = join_all((0..50).map(|_| fetch()));
    let release = async {
        while busiest.load(Ordering::SeqCst) < 50 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        gate.add_permits(50);
    };
    let (bodies, ()) = timeout(SOON, futures_util::future::join(all, release))
        .await
        .unwrap();
    assert!(bodies.iter().all(|body| body == "ok"));
    assert_eq!(server.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_connection_is_opened_when_the_peers_limit_is_reached() {
    let world = World::new();
    let gate = Arc::new(Semaphore::new(0));
    let (server, busiest) = http2(&world, 2, gate.clone()).await;
    let endpoint = world.endpoint(&server);
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(world.connect("a", &endpoint).await.unwrap());
    }
    assert_eq!(server.connections(), 3);
    gate.add_permits(100);
    let replies = join_all(held.into_iter().map(get)).await;
    for reply in replies {
        assert_eq!(read(reply.unwrap()).await.unwrap(), "ok");
    }
    assert!(busiest.load(Ordering::SeqCst) <= 2);
    settle().await;
    assert!(world.connect("a", &endpoint).await.unwrap().reused());
}

#[tokio::test]
async fn two_agents_never_share_an_http2_connection() {
    let world = World::new();
    let (server, _) = http2(&world, 100, Arc::new(Semaphore::new(100))).await;
    let endpoint = world.endpoint(&server);
    assert_eq!(world.fetch("a", &endpoint).await, (false, "ok".into()));
    assert_eq!(world.fetch("b", &endpoint).await, (false, "ok".into()));
    assert_eq!(world.fetch("a", &endpoint).await, (true, "ok".into()));
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn an_upgrade_gets_http1_although_http2_is_there() {
    let world = World::new();
    let (server, _) = http2(&world, 100, Arc::new(Semaphore::new(100))).await;
    let endpoint = world.endpoint(&server);
    drop(world.fetch("a", &endpoint).await);
    let found = world
        .connect_as("a", "https://api.test", &endpoint, Protocol::Http1)
        .await
        .unwrap();
    assert_eq!((found.version(), found.reused()), (Version::HTTP_11, false));
}

#[tokio::test]
async fn who_speaks_http1_gets_it_where_it_is_spoken() {
    let world = World::new();
    let first = Protocol::Http1First;
    let tls = world.ca.server("api.test", &["h2", "http/1.1"]);
    let server = Server::http1(Some(tls), |_| {
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned()
    })
    .await;
    let endpoint = world.endpoint(&server);
    for reused in [false, true] {
        let found = world.connect_as("a", "https://api.test", &endpoint, first);
        let found = found.await.unwrap();
        assert_eq!(
            (found.version(), found.reused()),
            (Version::HTTP_11, reused)
        );
        assert_eq!(read(get(found).await.unwrap()).await.unwrap(), "ok");
        settle().await;
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn many_at_a_time_share_http2_although_http1_is_spoken() {
    let world = World::new();
    let gate = Arc::new(Semaphore::new(100));
    let (server, _) = http2(&world, 100, gate).await;
    let endpoint = world.endpoint(&server);
    let mut held = Vec::new();
    for number in 0..HTTP1_AT_A_TIME + 3 {
        let found = world
            .connect_as("a", "https://api.test", &endpoint, Protocol::Http1First)
            .await
            .unwrap();
        let alone = number < HTTP1_AT_A_TIME;
        assert_eq!(found.version() == Version::HTTP_11, alone, "{number}");
        held.push(found);
    }
    assert_eq!(server.connections(), HTTP1_AT_A_TIME + 1);
    // What becomes free is left alone while many are under way.
    held.remove(0);
    settle().await;
    let among_many = world
        .connect_as("a", "https://api.test", &endpoint, Protocol::Http1First)
        .await
        .unwrap();
    assert_eq!(among_many.version(), Version::HTTP_2);
    held.push(among_many);
    // With room again, the next one is alone again.
    drop(held);
    settle().await;
    let next = world
        .connect_as("a", "https://api.test", &endpoint, Protocol::Http1First)
        .await
        .unwrap();
    assert_eq!(next.version(), Version::HTTP_11);
}

#[tokio::test]
async fn who_speaks_http1_gets_http2_where_nothing_else_is_spoken() {
    let world = World::new();
    let gate = Arc::new(Semaphore::new(100));
    let (server, _) = http2_among(&world, &["h2"], 100, gate).await;
    let endpoint = world.endpoint(&server);
    for reused in [false, true, true] {
        let found = world
            .connect_as("a", "https://api.test", &endpoint, Protocol::Http1First)
            .await
            .unwrap();
        assert_eq!((found.version(), found.reused()), (Version::HTTP_2, reused));
        assert_eq!(read(get(found).await.unwrap()).await.unwrap(), "ok");
        settle().await;
    }
    // The refusal is met once.
    assert_eq!((server.connections(), server.handshakes()), (2, 1));
    // What needs HTTP/1.1 does not have it.
    let upgrade = world
        .connect_as("a", "https://api.test", &endpoint, Protocol::Http1)
        .await;
    assert_eq!(upgrade.err(), Some(UpstreamError::NoHttp1));
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags];
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A server that reads up to the first HEADERS frame and then writes `last` and closes.
async fn frames(world: &World, last: Vec<u8>) -> Server {
    let tls = world.ca.server("api.test", &["h2"]);
    Server::start(Some(tls), move |mut io, _| {
        let last = last.clone();
        async move {
            let mut preface = [0; 24];
            io.read_exact(&mut preface).await.unwrap();
            io.write_all(&frame(4, 0, 0, &[])).await.unwrap();
            io.flush().await.unwrap();
            loop {
                let mut head = [0; 9];
                io.read_exact(&mut head).await.unwrap();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut payload = vec![0; length as usize];
                io.read_exact(&mut payload).await.unwrap();
                match head[3] {
                    1 => break,
                    4 if head[4] == 0 => io.write_all(&frame(4, 1, 0, &[])).await.unwrap(),
                    _ => {}
                }
                io.flush().await.unwrap();
            }
            io.write_all(&last).await.unwrap();
            io.flush().await.unwrap();
            drop(io.shutdown().await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
}

/// What a server may say last, what we make of it, and whether the request counts as unprocessed.
fn last_words() -> [(&'static str, Vec<u8>, SendFailure, bool); 9] {
    let goaway = |last_stream: u32, reason: u32, debug: &[u8]| {
        let mut payload = last_stream.to_be_bytes().to_vec();
        payload.extend_from_slice(&reason.to_be_bytes());
        payload.extend_from_slice(debug);
        frame(7, 0, 0, &payload)
    };
    let refusal = b"stream error received: refused stream before processing any application logic";
    [
        (
            "refused",
            frame(3, 0, 1, &7u32.to_be_bytes()),
            SendFailure::Closed,
            true,
        ),
        (
            "goaway below",
            goaway(0, 0, b"bye"),
            SendFailure::Closed,
            true,
        ),
        (
            "goaway below with error",
            goaway(0, 11, b""),
            SendFailure::Closed,
            true,
        ),
        (
            "cancelled",
            frame(3, 0, 1, &8u32.to_be_bytes()),
            SendFailure::Closed,
            false,
        ),
        (
            "internal error",
            frame(3, 0, 1, &2u32.to_be_bytes()),
            SendFailure::Closed,
            false,
        ),
        (
            "goaway at ours",
            goaway(1, 0, refusal),
            SendFailure::Closed,
            false,
        ),
        (
            "goaway above ours with error",
            goaway(1, 2, refusal),
            SendFailure::Closed,
            false,
        ),
        ("just closed", Vec::new(), SendFailure::Closed, false),
        (
            "nonsense",
            frame(0, 0, 0, b"x"),
            SendFailure::Protocol,
            false,
        ),
    ]
}

#[tokio::test]
async fn what_the_server_disclaims_is_unprocessed_and_nothing_else() {
    let world = World::new();
    for (name, last, failure, unprocessed) in last_words() {
        let server = frames(&world, last).await;
        let endpoint = world.endpoint(&server);
        let connection = world.connect("a", &endpoint).await.unwrap();
        let error = get(connection).await.unwrap_err();
        assert_eq!(
            (error.failure, error.unprocessed),
            (failure, unprocessed),
            "{name}"
        );
        assert!(!error.reused_idle_died, "{name}");
        // Where the connection ended, the next attempt gets another at once, whatever hyper's task has seen so far.
        if !["refused", "cancelled", "internal error"].contains(&name) {
            let next = world.connect("a", &endpoint).await.unwrap();
            assert!(!next.reused(), "{name}");
        }
    }
}

#[tokio::test]
async fn an_http2_body_that_breaks_off_is_an_error() {
    let world = World::new();
    // HEADERS with `:status: 200`, then DATA, then RST_STREAM(INTERNAL_ERROR).
    let mut last = frame(1, 4, 1, &[0x88]);
    last.extend(frame(0, 0, 1, b"ok"));
    last.extend(frame(3, 0, 1, &2u32.to_be_bytes()));
    let server = frames(&world, last).await;
    let endpoint = world.endpoint(&server);
    let reply = get(world.connect("a", &endpoint).await.unwrap())
        .await
        .unwrap();
    assert_eq!(
        read(reply).await,
        Err(crate::credential::BodyError::Upstream)
    );
}

#[tokio::test]
async fn interim_answers_are_counted_there_too() {
    let world = World::new();
    for (hints, taken) in [(8, true), (1000, false)] {
        let tls = world.ca.server("api.test", &["h2"]);
        let server = Server::start(Some(tls), move |mut io, _| async move {
            let mut greeting = [0; 24];
            io.read_exact(&mut greeting).await.unwrap();
            io.write_all(&[frame(4, 0, 0, &[]), frame(4, 1, 0, &[])].concat())
                .await
                .unwrap();
            // Until the request's HEADERS frame has come.
            let mut head = [0; 9];
            while head[3] != 1 {
                io.read_exact(&mut head).await.unwrap();
                let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
                io.read_exact(&mut payload).await.unwrap();
            }
            // `:status` by its place in the static table (RFC 7541 appendix A): 103 spelled out, 200 as it is.
            let mut answer = frame(1, 4, 1, &[0x08, 3, b'1', b'0', b'3']).repeat(hints);
            answer.extend(frame(1, 5, 1, &[0x88]));
            drop(io.write_all(&answer).await);
            drop(io.read_to_end(&mut Vec::new()).await);
        })
        .await;
        let endpoint = world.endpoint(&server);
        let answered = get(world.connect("a", &endpoint).await.unwrap()).await;
        match answered {
            Ok(reply) => assert!(taken && reply.response.status() == 200),
            Err(error) => assert!(
                !taken && error.failure == SendFailure::Protocol,
                "{error:?}"
            ),
        }
    }
}
