//! Heads that are too large, and heads that no parser takes: each is refused, and each is one audit line.

use serde_json::Value;
use tokenward::rehearsal::Call;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::kit::{API, House, PATIENCE, Raw, exchange, read_head, refused, speak};

#[tokio::test(flavor = "multi_thread")]
async fn a_head_over_its_limit_is_told_so() {
    let house = House::start().await;
    for h2 in [false, true] {
        let long = "x".repeat(66 * 1024);
        let answer = house
            .ask(h2, Call::get("/v1/items").field("x-long", &long))
            .await;
        refused(&answer, 431, "head-too-large");
    }
    assert!(house.at_api().is_empty());
    let written = house.end().await.requests();
    assert_eq!(written.len(), 2);
    assert!(
        written.iter().all(|line| line["code"] == "head-too-large"),
        "{written:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_nobody_can_read_is_one_line() {
    let house = House::start().await;
    let unreadable = format!("GET /v1/items HTTP/1.1\r\nhost: {API}\r\nno colon\r\n\r\n");
    assert_eq!(house.speak_inside(API, &unreadable).await.status(), 400);
    let endless = format!(
        "GET / HTTP/1.1\r\nhost: {API}\r\nx: {}\r\n\r\n",
        "y".repeat(200_000)
    );
    assert!(matches!(
        house.speak_inside(API, &endless).await.status(),
        0 | 431
    ));
    let written = house.end().await.requests();
    let codes: Vec<&Value> = written.iter().map(|line| &line["code"]).collect();
    assert_eq!(codes, ["bad-request", "head-too-large"], "{written:?}");
    assert!(
        written
            .iter()
            .all(|line| line["agent"] == "default" && line["decision"] == "refused")
    );
}

/// Heads that hyper takes although another parser reads them differently.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_parser_forgives_is_refused_with_a_document() {
    let house = House::start().await;
    let smuggled = format!("GET /v1/items/smuggled HTTP/1.1\r\nhost: {API}\r\n\r\n");
    let table = [
        ("x: y\n", 400, "bad-request"),
        (
            "content-length: 6\r\ntransfer-encoding: chunked\r\n",
            400,
            "bad-request",
        ),
        (
            "transfer-encoding: chunked\r\ncontent-length: 6\r\n",
            400,
            "bad-request",
        ),
        (
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            400,
            "bad-request",
        ),
        (
            "transfer-encoding: gzip, chunked\r\n",
            501,
            "upgrade-not-supported",
        ),
        (
            "content-length: 2\r\ncontent-length: 2\r\n",
            400,
            "bad-request",
        ),
        ("content-length: 002\r\n", 400, "bad-request"),
    ];
    for (fields, status, code) in table {
        let head = format!("POST /v1/items HTTP/1.1\r\nhost: {API}\r\n{fields}\r\n{smuggled}");
        let answer = house.speak_inside(API, &head).await;
        let got = (answer.status(), answer.code());
        assert_eq!(got, (status, code.to_owned()), "{fields:?}");
        assert!(answer.text().contains("connection: close\r\n"));
    }
    assert!(house.at_api().is_empty());
    let written = house.end().await.requests();
    assert_eq!(written.len(), table.len(), "{written:?}");
    assert!(
        written
            .iter()
            .all(|line| line["path"] == "/v1/items" && line["decision"] == "refused")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_end_is_told_so_in_a_document() {
    let house = House::start().await;
    let host = format!("host: {API}\r\n");
    let table = [
        (
            format!(
                "GET / HTTP/1.1\r\n{host}x: {}\r\n\r\n",
                "y".repeat(2_000_000)
            ),
            431,
        ),
        (
            format!("GET / HTTP/1.1\r\n{host}{}\r\n", "x-a: y\r\n".repeat(300)),
            431,
        ),
        (
            format!("GET /{} HTTP/1.1\r\n{host}\r\n", "y".repeat(90_000)),
            414,
        ),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 400),
    ];
    for (head, status) in &table {
        let inside = house.speak_inside(API, head).await;
        let outside = speak(house.proxy(), head.as_bytes()).await;
        for answer in [inside, outside] {
            assert_eq!(answer.status(), *status, "{head:.40}");
            assert!(!answer.code().is_empty(), "{}", answer.text());
        }
    }
    assert!(house.at_api().is_empty());
    let written = house.end().await.requests();
    assert_eq!(written.len(), 2 * table.len(), "{written:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_a_row_are_answered_in_order_and_end_where_one_is_refused() {
    let house = House::start().await;
    let get =
        |path: &str, fields: &str| format!("GET {path} HTTP/1.1\r\nhost: {API}\r\n{fields}\r\n");
    let row = [
        get("/v1/items/1", ""),
        get("/v1/items/1/secrets", ""),
        get("/v1/items/2", ""),
        get("/v1/items/3", "x: y\n"),
        get("/v1/items/4", ""),
    ];
    let text = house.speak_inside(API, &row.concat()).await.text();
    let statuses: Vec<&str> = text
        .match_indices("HTTP/1.1 ")
        .map(|(at, _)| &text[at + 9..at + 12])
        .collect();
    assert_eq!(statuses, ["200", "403", "200", "400"], "{text}");
    // Too much of a head behind requests that are under way is told after their answers.
    let large = get("/", &format!("x: {}\r\n", "y".repeat(100_000)));
    let text = house
        .speak_inside(API, &format!("{}{large}", row[0]))
        .await
        .text();
    assert!(
        text.starts_with("HTTP/1.1 200 ") && text.contains("HTTP/1.1 431 "),
        "{text}"
    );
    let closing = format!("{}{}", get("/v1/items/5", "connection: close\r\n"), row[0]);
    let text = house.speak_inside(API, &closing).await.text();
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
    assert_eq!(house.end().await.requests().len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_tunnel_leaves_the_connection_to_the_next() {
    let house = House::start().await;
    let mut proxy = TcpStream::connect(house.proxy()).await.unwrap();
    let denied = "CONNECT evil.test:443 HTTP/1.1\r\nhost: evil.test:443\r\n\r\n";
    proxy.write_all(denied.as_bytes()).await.unwrap();
    let head = read_head(&mut proxy).await;
    assert_eq!(head.status(), 403);
    let length = head.text();
    let length = length.split("content-length: ").nth(1).unwrap();
    let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
    proxy.read_exact(&mut vec![0; length]).await.unwrap();
    let allowed = format!("CONNECT {API}:443 HTTP/1.1\r\nhost: {API}:443\r\n\r\n");
    proxy.write_all(allowed.as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut proxy).await.status(), 200);
    let tls = house.handshake(proxy, API, "http/1.1").await.unwrap();
    let ask = format!("GET /v1/items HTTP/1.1\r\nhost: {API}\r\nconnection: close\r\n\r\n");
    assert_eq!(exchange(tls, ask.as_bytes()).await.status(), 200);
    // With a tunnel taken for open there is no telling what comes next.
    let early = format!("{denied}{ask}");
    let text = speak(house.proxy(), early.as_bytes()).await.text();
    assert!(
        text.matches("HTTP/1.1 403").count() == 1 && !text.contains(" 200 "),
        "{text}"
    );
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_head_is_told_so_and_a_silent_connection_is_not() {
    let house = House::start().await;
    let mut silent = house.inside(API).await;
    let ask = format!("GET /v1/items HTTP/1.1\r\nhost: {API}\r\n");
    silent
        .write_all(format!("{ask}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    assert_eq!(read_head(&mut silent).await.status(), 200);

    let mut slow = house.inside(API).await;
    slow.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = slow.read_to_end(&mut answer);
    timeout(2 * PATIENCE, read).await.unwrap().unwrap();
    let answer = Raw(answer);
    assert_eq!(
        (answer.status(), answer.code().as_str()),
        (408, "request-timeout")
    );

    let last = format!("{ask}connection: close\r\n\r\n");
    silent.write_all(last.as_bytes()).await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, silent.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert!(Raw(rest).text().contains("HTTP/1.1 200 "));
    let written = house.end().await.requests();
    let codes: Vec<&Value> = written.iter().map(|line| &line["code"]).collect();
    assert_eq!(codes.len(), 3, "{written:?}");
    assert_eq!(codes[1], "request-timeout");
}
