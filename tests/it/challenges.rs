//! APIs that say no: nonces, tokens, proofs, clocks, and every way to write a challenge.

use http::Method;
use tokenward::rehearsal::{Call, ChallengeForm, ChallengeNonce, NonceMode, Service};

use crate::kit::{API, House, distinct_proofs, refused};

/// A house whose agent has called once: token and nonce are at hand.
async fn warm() -> House {
    let house = House::start().await;
    assert_eq!(house.get("/v1/items").await.status, 200);
    house.rehearsal.clear_seen();
    house
}

fn challenged(house: &House) -> usize {
    house
        .at_api()
        .iter()
        .filter(|s| s.status == Some(401))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn nonces_that_change_with_every_answer_are_followed() {
    for mode in [NonceMode::Rotating, NonceMode::SingleUse] {
        let house = House::start().await;
        let controls = house.rehearsal.controls();
        controls.api(|api| api.nonces = mode);
        controls.issuer(|issuer| issuer.nonces = mode);
        let mut session = house.agent().open(API, 443, true).await.unwrap();
        for i in 0..30 {
            let answer = session.send(Call::get("/v1/items")).await.unwrap();
            assert_eq!(answer.status, 200, "call {i}: {}", answer.text());
        }
        assert_eq!(challenged(&house), 1);
        assert_eq!(distinct_proofs(&house.rehearsal.seen()), 31 + 2);
        drop(session);
        house.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonces_that_expire_cost_one_more_attempt() {
    let house = warm().await;
    for _ in 0..3 {
        house.rehearsal.expire_nonces(Service::Api);
        assert_eq!(house.get("/v1/items").await.status, 200);
    }
    assert_eq!((challenged(&house), house.at_api().len()), (3, 6));
    let metrics = house.metrics().await;
    let counter = r#"tokenward_dpop_nonce_challenges_total{peer="api",service="items"} 4"#;
    assert!(metrics.contains(counter), "{metrics}");
    distinct_proofs(&house.rehearsal.seen());
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_body_survives_a_challenge() {
    let house = warm().await;
    for h2 in [false, true] {
        house.rehearsal.expire_nonces(Service::Api);
        let post = Call::new(Method::POST, "/v1/items")
            .field("content-type", "application/json")
            .bytes(r#"{"name":"lamp"}"#);
        let answer = house.ask(h2, post).await;
        assert_eq!(answer.status, 201);
        assert_eq!(answer.text(), r#"{"id":"3","sent":{"name":"lamp"}}"#);
    }
    assert_eq!(challenged(&house), 2);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_is_sent_again_by_the_agent_alone() {
    for early in [false, true] {
        let house = warm().await;
        house
            .rehearsal
            .controls()
            .api(|api| api.early_answer = early);
        for h2 in [false, true] {
            house.rehearsal.clear_seen();
            house.rehearsal.expire_nonces(Service::Api);
            let post = || Call::new(Method::POST, "/v1/upload").bytes(vec![b'x'; 300_000]);
            let first = house.ask(h2, post()).await;
            refused(&first, 503, "dpop-nonce-retry");
            assert_eq!(first.headers["retry-after"], "0");
            assert_eq!(house.at_api().len(), 1, "the body was sent twice");
            let second = house.ask(h2, post()).await;
            assert_eq!(second.status, 200, "{}", second.text());
            assert!(
                second.text().contains("\"length\":300000"),
                "{}",
                second.text()
            );
        }
        house.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ended_early_is_replaced_once() {
    let house = warm().await;
    house.rehearsal.revoke_tokens();
    assert_eq!(house.get("/v1/items").await.status, 200);
    assert_eq!(house.token_requests().len(), 1);
    assert_eq!(house.at_api().len(), 2);
    let written = house.end().await;
    assert_eq!(written.of("token.rejected").len(), 1);
    assert_eq!(written.of("token.dropped").len(), 1);
    let line = written.requests().pop().unwrap();
    assert_eq!(
        (&line["attempts"], &line["decision"]),
        (&2.into(), &"allowed".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_takes_no_token_ends_after_one_replacement() {
    let house = warm().await;
    house
        .rehearsal
        .controls()
        .api(|api| api.reject_tokens = true);
    refused(
        &house.get("/v1/items").await,
        502,
        "upstream-rejected-credential",
    );
    assert_eq!((house.at_api().len(), house.token_requests().len()), (2, 1));
    // A hostile API must not be able to drive us against the issuer.
    for _ in 0..5 {
        let answer = house.get("/v1/items").await;
        assert_eq!(answer.status, 502, "{}", answer.text());
    }
    assert!(
        house.token_requests().len() <= 2,
        "{}",
        house.token_requests().len()
    );
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_challenges_end_after_two_attempts() {
    let house = warm().await;
    house
        .rehearsal
        .controls()
        .api(|api| api.always_challenge = true);
    refused(&house.get("/v1/items").await, 502, "dpop-nonce-loop");
    assert_eq!(house.at_api().len(), 2);
    distinct_proofs(&house.rehearsal.seen());
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_without_a_useful_nonce_is_not_met() {
    for (kind, attempts) in [
        (ChallengeNonce::Malformed, 1),
        (ChallengeNonce::Missing, 1),
        (ChallengeNonce::Same, 1),
        (ChallengeNonce::Twice, 1),
    ] {
        let house = warm().await;
        house.rehearsal.controls().api(|api| {
            api.always_challenge = true;
            api.challenge_nonce = kind;
        });
        refused(&house.get("/v1/items").await, 502, "dpop-nonce-loop");
        assert_eq!(house.at_api().len(), attempts, "{kind:?}");
        house.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_write_a_challenge_is_read() {
    for form in [
        ChallengeForm::AfterBearer,
        ChallengeForm::Dpop,
        ChallengeForm::LastParameter,
        ChallengeForm::OddCase,
        ChallengeForm::SecondLine,
    ] {
        for status in [400, 401] {
            let house = warm().await;
            house.rehearsal.controls().api(|api| {
                api.challenge = form;
                api.challenge_status = status;
            });
            house.rehearsal.expire_nonces(Service::Api);
            let answer = house.get("/v1/items").await;
            assert_eq!(answer.status, 200, "{form:?} {status}: {}", answer.text());
            assert_eq!(house.at_api().len(), 2, "{form:?} {status}");
            house.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bearer_challenge_never_turns_a_bound_token_into_one() {
    let house = warm().await;
    let placeholder = house.variable("default", "ITEMS_TOKEN");
    house.rehearsal.controls().api(|api| {
        api.challenge = ChallengeForm::BearerOnly;
        api.reject_proofs = true;
    });
    for h2 in [false, true] {
        let call = Call::get("/v1/items").field("authorization", &format!("Bearer {placeholder}"));
        let answer = house.ask(h2, call).await;
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert!(!answer.headers.contains_key("www-authenticate"));
    }
    for seen in house.at_api() {
        assert!(seen.header("authorization").unwrap().starts_with("DPoP "));
    }
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_that_are_never_taken_end_after_two_attempts() {
    let house = warm().await;
    house
        .rehearsal
        .controls()
        .api(|api| api.reject_proofs = true);
    refused(&house.get("/v1/items").await, 502, "dpop-proof-rejected");
    assert_eq!((house.at_api().len(), house.token_requests().len()), (2, 0));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_third_reason_comes_the_answer_is_about_that_one() {
    let house = warm().await;
    // So that one answer with another clock is not believed yet.
    for _ in 0..5 {
        assert_eq!(house.get("/v1/items").await.status, 200);
    }
    house.rehearsal.clear_seen();
    house.rehearsal.revoke_tokens();
    let controls = house.rehearsal.controls();
    controls.site(Service::Api, |site| site.clock_skew = 120);
    controls.api(|api| api.always_challenge = true);
    // The token, then the proof's time, then its nonce. The token has been replaced: it is not what is wrong.
    refused(&house.get("/v1/items").await, 503, "dpop-nonce-retry");
    assert_eq!((house.at_api().len(), house.token_requests().len()), (3, 1));
    controls.api(|api| api.always_challenge = false);
    assert_eq!(house.get("/v1/items").await.status, 200);
    assert_eq!(house.at_api().len(), 4);
    distinct_proofs(&house.rehearsal.seen());
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_with_another_clock_is_followed() {
    for skew in [-120, 120] {
        let house = House::start().await;
        let controls = house.rehearsal.controls();
        controls.site(Service::Api, |s| s.clock_skew = skew);
        let answer = house.get("/v1/items").await;
        assert_eq!(answer.status, 200, "{skew}: {}", answer.text());
        // From now on the first attempt is right.
        house.rehearsal.clear_seen();
        assert_eq!(house.get("/v1/items").await.status, 200);
        assert_eq!(house.at_api().len(), 1);
        let metrics = house.metrics().await;
        let line = metrics
            .lines()
            .find(|l| l.starts_with("tokenward_clock_offset_seconds"));
        let offset: f64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        assert!((offset - skew as f64).abs() <= 2.0, "{offset}");
        house.end().await;
    }
}
