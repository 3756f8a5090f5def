//! The job itself: what the agent sends, what the API receives, and what is left of it on the way back.

use tokenward::rehearsal::{Alpn, Call, Failure, Service};

use crate::kit::{
    API, House, KEYS, PLAIN, Setup, Svc, ask, claims, distinct_proofs, refused, token_of,
};

async fn crossing(h2: bool, alpn: Alpn) {
    let house = House::start().await;
    let controls = house.rehearsal.controls();
    controls.site(Service::Api, |s| s.alpn = alpn);
    let answer = house.ask(h2, Call::get("/v1/items?page=2")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let expected = r#"{"items":[{"id":"1","name":"lamp"},{"id":"2","name":"chair"}]}"#;
    assert_eq!(answer.text(), expected);
    for name in ["dpop-nonce", "www-authenticate", "proxy-status"] {
        assert!(!answer.headers.contains_key(name), "{name}");
    }

    let seen = house.at_api();
    // The first attempt learned the nonce.
    assert_eq!(seen.len(), 2, "{seen:#?}");
    let last = seen.last().unwrap();
    let upstream_h2 = alpn != Alpn::H1;
    assert_eq!(
        last.version,
        if upstream_h2 { "HTTP/2" } else { "HTTP/1.1" }
    );
    assert_eq!(last.authority, API);
    assert_eq!(last.query.as_deref(), Some("page=2"));
    assert!(last.header("authorization").unwrap().starts_with("DPoP "));
    assert_eq!(last.all("dpop").count(), 1);
    let proof = last.proof.as_ref().unwrap();
    assert_eq!(proof["htm"], "GET");
    assert_eq!(proof["htu"], format!("https://{API}/v1/items"));
    distinct_proofs(&house.rehearsal.seen());
    let jti = proof["jti"].clone();

    let line = house.end().await.only();
    assert_eq!(line["decision"], "allowed");
    assert_eq!(line["binding"], "dpop");
    assert_eq!(line["proofs"][1], jti);
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

/// Every place where agents put keys, with the placeholder in one and a real-looking secret in the others.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_held_never_reaches_the_api() {
    const STRANGER: &str = "sk-live-stranger-0123456789";
    let house = House::start().await;
    let placeholder = house.variable("default", "ITEMS_TOKEN");
    for h2 in [false, true] {
        let target = format!("/v1/items?access_token={STRANGER}&page=3&api_key={placeholder}");
        let call = Call::get(&target)
            .field("authorization", &format!("Bearer {placeholder}"))
            .field("x-api-key", STRANGER)
            .field("dpop", STRANGER)
            .field("cookie", &format!("session={STRANGER}"))
            .field("proxy-authorization", &format!("Bearer {STRANGER}"))
            .field("x-forwarded-for", STRANGER)
            .field("forwarded", &format!("for={STRANGER}"))
            .field("x-real-ip", STRANGER)
            .field("x_api_key", STRANGER);
        assert_eq!(house.ask(h2, call).await.status, 200);
    }
    for seen in house.at_api() {
        let everything = format!("{seen:?}");
        assert!(
            !everything.contains(&placeholder) && !everything.contains(STRANGER),
            "{everything}"
        );
        assert!(
            !everything.to_ascii_lowercase().contains("bearer"),
            "{everything}"
        );
        assert_eq!(seen.all("authorization").count(), 1);
        assert_eq!(seen.query.as_deref(), Some("page=3"));
    }
    let written = house.end().await;
    assert!(!written.text.contains(&placeholder) && !written.text.contains(STRANGER));
    for line in written.requests() {
        assert_eq!(line["placeholder"], "present");
        let stripped = line["stripped"].as_array().unwrap();
        assert!(
            stripped.iter().any(|name| name == "authorization"),
            "{line}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_rides_on_the_least_token() {
    let house = House::start().await;
    assert_eq!(house.get("/v1/items").await.status, 200);
    assert_eq!(house.get("/v1/items/7").await.status, 200);
    let asked: Vec<_> = house
        .token_requests()
        .iter()
        .filter(|s| s.status == Some(200))
        .flat_map(|s| s.form.clone())
        .collect();
    assert!(
        asked.contains(&("scope".into(), "items:read".into())),
        "{asked:?}"
    );
    assert!(asked.contains(&("resource".into(), format!("https://{API}"))));
    assert_eq!(asked.iter().filter(|(name, _)| name == "scope").count(), 1);
    for seen in house.at_api() {
        let claims = claims(token_of(&seen));
        assert_eq!(claims["scope"], "items:read");
        assert_eq!(claims["aud"], format!("https://{API}"));
    }

    house.rehearsal.clear_seen();
    let post = Call::new(http::Method::POST, "/v1/items").bytes("{}");
    assert_eq!(house.ask(true, post).await.status, 201);
    let seen = house.at_api();
    assert_eq!(
        claims(token_of(seen.last().unwrap()))["scope"],
        "items:write"
    );
    let written = house.end().await;
    let scopes: Vec<_> = written
        .requests()
        .iter()
        .map(|l| l["scopes"][0].clone())
        .collect();
    assert_eq!(scopes, ["items:read", "items:read", "items:write"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn fixed_credentials_go_where_the_service_wants_them() {
    let house = House::start().await;
    let agent = house.agent();
    let key = house.rehearsal.api_key().to_owned();
    let bearer = format!("Bearer {}", house.rehearsal.bearer_key());
    for (host, name, value) in [(KEYS, "x-api-key", &key), (PLAIN, "authorization", &bearer)] {
        for h2 in [false, true] {
            let call = Call::get("/v1/items")
                .field("authorization", "Bearer mine")
                .field("x-api-key", "mine");
            let answer = ask(&agent, host, h2, call).await;
            assert_eq!(answer.status, 200, "{host}");
            let last = house.at_static().pop().unwrap();
            assert_eq!(last.authority, host);
            assert_eq!(last.header(name), Some(value.as_str()));
            assert!(!format!("{last:?}").contains("mine"));
        }
    }
    assert!(house.rehearsal.seen_by(Service::Issuer).is_empty());
    let written = house.end().await;
    let bindings: Vec<_> = written
        .requests()
        .iter()
        .map(|l| l["binding"].clone())
        .collect();
    assert_eq!(bindings, ["static", "static", "bearer", "bearer"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_the_agents_to_follow() {
    let house = House::start().await;
    let answer = house
        .get("/v1/redirect?status=307&to=https://evil.test/x")
        .await;
    assert_eq!(answer.status, 307);
    assert_eq!(answer.headers["location"], "https://evil.test/x");
    assert_eq!(
        house
            .at_api()
            .iter()
            .filter(|s| s.status == Some(307))
            .count(),
        1
    );
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_wants_more_scope_is_not_given_it() {
    let mut items = Svc::items();
    items.rules = vec![r#"{allow: "GET /v1/items", scopes: ["items:write"]}"#.into()];
    let house = Setup::of([items]).start().await;
    refused(&house.get("/v1/items").await, 403, "scope-denied");
    assert_eq!(
        house
            .token_requests()
            .iter()
            .filter(|s| s.status == Some(200))
            .count(),
        1
    );
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_died_while_idle_costs_nothing() {
    for alpn in [Alpn::H1, Alpn::H2] {
        let house = House::start().await;
        let controls = house.rehearsal.controls();
        controls.site(Service::Api, |s| s.alpn = alpn);
        assert_eq!(house.get("/v1/items").await.status, 200);
        house.rehearsal.take_down(Service::Api).await;
        house.rehearsal.bring_up(Service::Api).await.unwrap();
        assert_eq!(house.get("/v1/items").await.status, 200);
        // And one that ends in order.
        controls.fail(Service::Api, 1, Failure::CloseAfter);
        assert_eq!(house.get("/v1/items").await.status, 200);
        assert_eq!(house.get("/v1/items").await.status, 200);
        distinct_proofs(&house.rehearsal.seen());
        house.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_down_is_told_in_our_words() {
    let house = House::start().await;
    house.rehearsal.take_down(Service::Api).await;
    refused(&house.get("/v1/items").await, 502, "upstream-unreachable");
    house.rehearsal.bring_up(Service::Api).await.unwrap();
    assert_eq!(house.get("/v1/items").await.status, 200);
    // Written, and then the connection ends: nobody knows whether it was carried out.
    let controls = house.rehearsal.controls();
    controls.fail(Service::Api, 9, Failure::DropBeforeAnswer);
    house.rehearsal.clear_seen();
    let post = Call::new(http::Method::POST, "/v1/items").bytes("{}");
    refused(&house.ask(true, post).await, 502, "upstream-unreachable");
    assert_eq!(house.at_api().len(), 1, "a POST went out twice");
    house.end().await;
}

/// A hundred requests side by side on one connection share a token and a connection, and no proof.
#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_share_one_token() {
    let house = House::start().await;
    let session = house.agent().open(API, 443, true).await.unwrap();
    let calls = (0..100).map(|i| {
        let mut session = session.beside().unwrap();
        async move {
            session
                .send(Call::get(&format!("/v1/items/{i}")))
                .await
                .unwrap()
        }
    });
    for (i, answer) in futures_util::future::join_all(calls)
        .await
        .into_iter()
        .enumerate()
    {
        assert_eq!(answer.text(), format!(r#"{{"id":"{i}","name":"lamp"}}"#));
    }
    assert_eq!(
        house
            .token_requests()
            .iter()
            .filter(|s| s.status == Some(200))
            .count(),
        1
    );
    assert!(distinct_proofs(&house.rehearsal.seen()) >= 100);
    drop(session);
    assert_eq!(house.end().await.requests().len(), 100);
}
