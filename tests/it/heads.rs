//! Heads that are too large, and heads that no parser takes: each is refused, and each is one audit line.

use serde_json::Value;
use tokenward::rehearsal::Call;

use super::kit::{API, House, refused};

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
