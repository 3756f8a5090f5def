use std::time::Duration;

use super::client::Client;
use crate::rehearsal::{Alpn, Failure, NonceMode, Options, Service};
use http::Request;
use http_body_util::Full;

const METADATA: &str = "https://issuer.rehearsal.test/.well-known/oauth-authorization-server";

fn get(url: &str) -> Request<Full<bytes::Bytes>> {
    Request::get(url).body(Full::default()).unwrap()
}

#[tokio::test]
async fn answers_fail_as_asked_and_as_often() {
    let client = Client::start().await;
    let controls = client.rehearsal.controls();
    let fail = |failure| controls.fail(Service::Issuer, 1, failure);
    fail(Failure::Status {
        status: 503,
        retry_after: Some("7".into()),
    });
    fail(Failure::Html {
        status: 502,
        canary: "canary-1".into(),
    });
    fail(Failure::Redirect {
        status: 302,
        to: "https://elsewhere.test/".into(),
    });
    fail(Failure::OAuth {
        status: 400,
        error: "invalid_scope".into(),
    });
    fail(Failure::Huge { bytes: 3_000_000 });
    let unavailable = client.fetch(METADATA).await;
    assert_eq!(
        (unavailable.status, unavailable.header("retry-after")),
        (503, "7")
    );
    let page = client.fetch(METADATA).await;
    assert!(String::from_utf8(page.body).unwrap().contains("canary-1"));
    let moved = client.fetch(METADATA).await;
    assert_eq!(
        (moved.status, moved.header("location")),
        (302, "https://elsewhere.test/")
    );
    assert_eq!(client.fetch(METADATA).await.error(), "invalid_scope");
    assert_eq!(client.fetch(METADATA).await.body.len(), 3_000_000);
    assert_eq!(client.fetch(METADATA).await.status, 200);
}

#[tokio::test]
async fn connections_end_as_asked() {
    for h2 in [false, true] {
        let mut client = Client::start().await;
        client.h2 = h2;
        let controls = client.rehearsal.controls();
        for failure in [Failure::DropBeforeAnswer, Failure::DropAfterHead] {
            controls.fail(Service::Issuer, 1, failure);
            assert!(client.try_send(get(METADATA)).await.is_err());
        }
        controls.fail(Service::Issuer, 1, Failure::CloseAfter);
        let got = client.fetch(METADATA).await;
        assert_eq!(got.status, 200);
        assert_eq!(got.header("connection"), if h2 { "" } else { "close" });
        controls.fail(Service::Issuer, 1, Failure::Hang);
        let hanging = tokio::time::timeout(Duration::from_millis(50), client.fetch(METADATA));
        assert!(hanging.await.is_err());
        assert_eq!(client.rehearsal.seen().last().unwrap().status, None);
    }
}

#[tokio::test]
async fn a_server_that_is_down_comes_back_on_its_port() {
    let client = Client::start().await;
    let rehearsal = &client.rehearsal;
    let at = rehearsal.issuer_addr();
    for _ in 0..3 {
        rehearsal.take_down(Service::Issuer).await;
        assert!(client.try_send(get(METADATA)).await.is_err());
        assert_eq!(rehearsal.issuer_addr(), at);
        rehearsal.bring_up(Service::Issuer).await.unwrap();
        rehearsal.bring_up(Service::Issuer).await.unwrap();
        assert_eq!(client.fetch(METADATA).await.status, 200);
    }
    client.rehearsal.stop().await;
    assert!(tokio::net::TcpStream::connect(at).await.is_err());
}

#[tokio::test]
async fn a_dropped_rehearsal_stops_listening() {
    let client = Client::start().await;
    let at = client.rehearsal.api_addr();
    drop(client);
    let refused = async {
        while tokio::net::TcpStream::connect(at).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused)
        .await
        .unwrap();
}

#[tokio::test]
async fn alpn_and_clock_are_as_set() {
    let mut client = Client::start().await;
    let controls = client.rehearsal.controls();
    controls.site(Service::Issuer, |site| site.alpn = Alpn::H1);
    assert_eq!(client.fetch(METADATA).await.status, 200);
    client.h2 = true;
    assert!(client.try_send(get(METADATA)).await.is_err());
    controls.site(Service::Issuer, |site| {
        site.alpn = Alpn::H2;
        site.clock_skew = 3600;
    });
    let skewed = client.fetch(METADATA).await;
    let date = httpdate::parse_http_date(skewed.header("date")).unwrap();
    let ahead = date
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert!(i64::try_from(ahead).unwrap() > Client::now() + 3000);
    let got = client.ask(&client.form("svc-pkjwt"), None).await;
    assert_eq!(got.status, 401, "the assertion is an hour old there");
    client.h2 = false;
    assert!(client.try_send(get(METADATA)).await.is_err());
}

#[tokio::test]
async fn an_early_answer_does_not_wait_for_the_body() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let client = Client::start().await;
    let controls = client.rehearsal.controls();
    controls.api(|api| (api.early_answer, api.nonces) = (true, NonceMode::Off));
    let at = client.rehearsal.api_addr();
    let mut stream = client.tls(at, "api.rehearsal.test").await.unwrap();
    let head = "POST /v1/items HTTP/1.1\r\nHost: api.rehearsal.test\r\nContent-Length: 9\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 401");
}

#[tokio::test]
async fn names_can_carry_their_ports() {
    let client = Client::with(Options {
        ports_in_names: true,
        ..Options::default()
    })
    .await;
    let port = client.rehearsal.api_addr().port();
    let origin = format!("https://api.rehearsal.test:{port}");
    assert_eq!(client.rehearsal.api_origin(), origin);
    let token = client.token("").await;
    let nonce = client.api_nonce(&token).await;
    let got = client.call("GET", "/v1/items", &token, Some(&nonce)).await;
    assert_eq!(got.status, 200);
}
