use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::kit::*;
use crate::upstream::*;
use crate::vocab::{Code, Secret};

fn client(world: &World, server: &Server) -> IssuerClient {
    IssuerClient::new(&world.upstream, &target(server.address)).unwrap()
}

fn url() -> IssuerUrl {
    IssuerUrl::parse("https://as.test/token?x=1").unwrap()
}

fn post(url: &IssuerUrl) -> IssuerRequest<'_> {
    IssuerRequest {
        method: Method::POST,
        url,
        headers: HeaderMap::new(),
        form: Some(Secret::new("grant_type=client_credentials".into())),
        certificate: None,
    }
}

async fn answering(world: &World, answer: String) -> Server {
    Server::start(Some(world.ca.server("as.test", &[])), move |mut io, _| {
        let answer = answer.clone();
        async move {
            while let Some(head) = read_head(&mut io).await {
                let mut form = [0; 29];
                if head.starts_with("POST") {
                    io.read_exact(&mut form).await.unwrap();
                }
                let echo = String::from_utf8_lossy(&form).into_owned();
                let text = answer.replace("ECHO", &format!("{head}{echo}"));
                let length = text
                    .split_once("\r\n\r\n")
                    .map_or(0, |(_, body)| body.len());
                let text = text.replace("LEN", &length.to_string());
                io.write_all(text.as_bytes()).await.unwrap();
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_form_is_posted_and_the_answer_read() {
    let world = World::new();
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: LEN\r\ndpop-nonce: n1\r\n\r\nECHO";
    let server = answering(&world, answer.into()).await;
    let client = client(&world, &server);
    let url = url();
    for _ in 0..2 {
        let reply = client.send(post(&url)).await.unwrap();
        assert_eq!(reply.status, 200);
        assert_eq!(reply.headers["dpop-nonce"], "n1");
        let echo = String::from_utf8(reply.body.to_vec()).unwrap();
        assert!(echo.starts_with("POST /token?x=1 HTTP/1.1\r\n"), "{echo}");
        assert!(echo.contains("host: as.test\r\n"), "{echo}");
        assert!(echo.contains("content-type: application/x-www-form-urlencoded\r\n"));
        assert!(echo.contains("content-length: 29\r\n"));
        assert!(echo.ends_with("\r\n\r\ngrant_type=client_credentials"));
        settle().await;
    }
    assert_eq!(server.connections(), 1);
    // The agents' pool knows nothing of it.
    let endpoint = client.endpoint.clone();
    let found = world
        .connect_as("a", "https://as.test", &endpoint, Protocol::Any)
        .await
        .unwrap();
    assert!(!found.reused());
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_nobody_follows_it() {
    let world = World::new();
    let trap = answering(
        &world,
        "HTTP/1.1 200 OK\r\ncontent-length: LEN\r\n\r\n".into(),
    )
    .await;
    let answer = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: https://127.0.0.1:{}/\r\ncontent-length: LEN\r\n\r\n",
        trap.address.port()
    );
    let server = answering(&world, answer).await;
    let reply = client(&world, &server).send(post(&url())).await.unwrap();
    assert_eq!((reply.status, trap.connections()), (307, 0));
}

#[tokio::test]
async fn a_large_answer_is_not_read_to_its_end() {
    let world = World::new();
    for (size, fits) in [(64 * 1024, true), (64 * 1024 + 1, false)] {
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: LEN\r\n\r\n{}",
            "x".repeat(size)
        );
        let server = answering(&world, answer).await;
        let reply = client(&world, &server).send(post(&url())).await;
        assert_eq!(reply.err(), (!fits).then_some(IssuerError::TooLarge));
    }
}

#[tokio::test]
async fn other_failures_are_told_apart() {
    let world = World::new();
    let wrong = Server::start(Some(world.ca.server("evil.test", &[])), |_, _| async {}).await;
    let reply = client(&world, &wrong).send(post(&url())).await;
    assert_eq!(reply.err(), Some(IssuerError::Tls));
    assert_eq!(IssuerError::Tls.code(), Code::AsTlsError);

    let broken = answering(
        &world,
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n".into(),
    )
    .await;
    let reply = client(&world, &broken).send(post(&url())).await;
    assert_eq!(reply.err(), Some(IssuerError::Protocol));

    let private = TargetSettings {
        allow_private: false,
        ..target(broken.address)
    };
    let strict = IssuerClient::new(&world.upstream, &private).unwrap();
    let reply = strict.send(post(&url())).await;
    assert_eq!(reply.err(), Some(IssuerError::Address));

    // Closed without an answer: a POST is not sent again, it may have been processed.
    let tries = Arc::new(AtomicUsize::new(0));
    let count = tries.clone();
    let closing = Server::start(Some(world.ca.server("as.test", &[])), move |mut io, _| {
        let count = count.clone();
        async move {
            read_head(&mut io).await;
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let reply = client(&world, &closing).send(post(&url())).await;
    assert_eq!(reply.err(), Some(IssuerError::Unreachable));
    assert_eq!(tries.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_silent_issuer_is_not_waited_for() {
    let world = World::new();
    let server = Server::start(
        Some(world.ca.server("as.test", &[])),
        |mut io, _| async move {
            let mut all = Vec::new();
            drop(io.read_to_end(&mut all).await);
        },
    )
    .await;
    let mut client = client(&world, &server);
    assert_eq!(client.total, Duration::from_secs(10));
    client.total = Duration::from_millis(100);
    let reply = client.send(post(&url())).await;
    assert_eq!(reply.err(), Some(IssuerError::Timeout));
    assert_eq!(IssuerError::Timeout.code(), Code::AsTimeout);
}

#[test]
fn urls_of_issuers() {
    let url = IssuerUrl::parse("https://as.test:8443/tenant/token?x=1").unwrap();
    assert_eq!(url.authority().to_string(), "as.test:8443");
    assert_eq!(url.path_and_query(), "/tenant/token?x=1");
    assert_eq!(url.path(), "/tenant/token");
    let bare = IssuerUrl::parse("https://as.test").unwrap();
    assert_eq!(
        (bare.path_and_query(), bare.as_str()),
        ("/", "https://as.test")
    );
    let table = [
        ("http://as.test/token", IssuerUrlError::Scheme),
        ("//as.test/token", IssuerUrlError::Scheme),
        ("as.test", IssuerUrlError::Scheme),
        ("https://as.test/#x", IssuerUrlError::Malformed),
        ("https://as.test/a b", IssuerUrlError::Malformed),
        ("https://as.test/\r\nx", IssuerUrlError::Malformed),
        ("https://as.test\\@evil.test/", IssuerUrlError::Malformed),
        ("https://as.test?x", IssuerUrlError::Malformed),
        (
            "https://user@as.test/",
            IssuerUrlError::Authority(crate::vocab::AuthorityError::UserInfo),
        ),
        (
            "https://",
            IssuerUrlError::Authority(crate::vocab::AuthorityError::Host),
        ),
        (
            "https://as.test:0/",
            IssuerUrlError::Authority(crate::vocab::AuthorityError::Port),
        ),
    ];
    for (text, error) in table {
        assert_eq!(IssuerUrl::parse(text), Err(error), "{text}");
    }
}
