//! The job itself: what the agent sends, what the API receives, and what happens when either side is difficult.

use tokenward::rehearsal::{Alpn, Call, Service};

use crate::kit::{API, House, distinct_proofs};

async fn crossing(h2: bool, alpn: Alpn) {
    let house = House::start().await;
    house
        .rehearsal
        .controls()
        .site(Service::Api, |s| s.alpn = alpn);
    let answer = house.ask(h2, Call::get("/v1/items?page=2")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        answer.text(),
        r#"{"items":[{"id":"1","name":"lamp"},{"id":"2","name":"chair"}]}"#
    );

    let seen = house.at_api();
    // The first one learned the nonce.
    assert!(seen.len() <= 2, "{seen:#?}");
    let last = seen.last().unwrap();
    let version = if alpn == Alpn::H1 {
        "HTTP/1.1"
    } else {
        "HTTP/2"
    };
    assert_eq!(last.version, version);
    assert_eq!(last.query.as_deref(), Some("page=2"));
    assert!(last.header("authorization").unwrap().starts_with("DPoP "));
    let proof = last.proof.as_ref().unwrap();
    assert_eq!(proof["htm"], "GET");
    assert_eq!(proof["htu"], format!("https://{API}/v1/items"));
    distinct_proofs(&house.rehearsal.seen());

    let line = house.end().await.only();
    assert_eq!(line["decision"], "allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_crosses_from_http1_to_http1() {
    crossing(false, Alpn::H1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_crosses_from_http1_to_http2() {
    crossing(false, Alpn::H2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_crosses_from_http2_to_http1() {
    crossing(true, Alpn::H1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_crosses_from_http2_to_http2() {
    crossing(true, Alpn::H2).await;
}
