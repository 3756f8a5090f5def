//! What an attacker found: each finding stays here.

use tokenward::rehearsal::Call;

use super::kit::{API, House, Setup, Svc, refused, speak};

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connect_never_looks_like_an_open_tunnel() {
    let house = House::start().await;
    let head = "CONNECT evil.test:443 HTTP/1.1\r\nhost: evil.test:443\r\ncontent-type: application/grpc\r\n\
                connection: close\r\n\r\n";
    let answer = speak(house.proxy(), head.as_bytes()).await;
    assert_eq!(
        (answer.status(), answer.code().as_str()),
        (403, "destination-denied")
    );
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deny_is_not_evaded_by_another_spelling() {
    let house = House::start().await;
    for path in [
        "secrets",
        "secret%73",
        "secrets/",
        "secrets;x=1",
        "secrets%3Bx",
        "secrets%20",
    ] {
        let answer = house.get(&format!("/v1/items/1/{path}")).await;
        refused(&answer, 403, "policy-denied");
    }
    assert!(house.at_api().is_empty());
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_upload_is_the_agents_own_delay() {
    let items = Svc::items().line("timeouts: {idle: 300ms}");
    let house = Setup::of([items]).start().await;
    let head = format!("POST /v1/items HTTP/1.1\r\nhost: {API}\r\n");
    for body in [
        "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "content-length: 9\r\n\r\nabc",
    ] {
        let answer = house
            .speak_inside(API, &format!("{head}connection: close\r\n{body}"))
            .await;
        assert_eq!(
            (answer.status(), answer.code().as_str()),
            (408, "request-timeout"),
            "{body:?}"
        );
    }
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_credentials_for_the_proxy_are_none() {
    let mut setup = Setup::usual();
    setup.agents = vec![("a", "items")];
    let house = setup.start().await;
    let token = super::kit::agent_token("a");
    let twice = format!("proxy-authorization: Bearer {token}\r\nproxy-authorization: Bearer x\r\n");
    let head = format!(
        "CONNECT {API}:443 HTTP/1.1\r\nhost: {API}:443\r\nconnection: close\r\n{twice}\r\n"
    );
    assert_eq!(speak(house.proxy(), head.as_bytes()).await.status(), 407);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_that_speaks_something_else_is_written_down() {
    let house = House::start().await;
    let tunnel = house.tunnel(API).await;
    let answer = super::kit::exchange(tunnel, b"SSH-2.0-OpenSSH_9.2\r\n").await;
    assert!(answer.0.is_empty());
    assert_eq!(house.get("/v1/items").await.status, 200);
    let lines = house.end().await.requests();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["code"], "bad-request");
    let ok = Call::get("/v1/items");
    assert_eq!(lines[1]["path"], ok.target.as_str());
}
