use super::client::{Client, basic};
use crate::rehearsal::{ChallengeForm, ChallengeNonce, HtuRule, NonceMode, Options, Service};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn a_bound_token_with_its_proof_is_let_in() {
    for h2 in [false, true] {
        let mut client = Client::start().await;
        client.h2 = h2;
        let token = client.token("&scope=items%3Aread").await;
        let challenged = client.call("GET", "/v1/items", &token, None).await;
        assert_eq!(challenged.status, 401);
        let challenge = challenged.header("www-authenticate");
        assert!(
            challenge.starts_with("DPoP error=\"use_dpop_nonce\""),
            "{challenge}"
        );
        let nonce = challenged.header("dpop-nonce").to_owned();
        let got = client
            .call("GET", "/v1/items?a=1", &token, Some(&nonce))
            .await;
        assert_eq!(
            (got.status, got.header("dpop-nonce")),
            (200, nonce.as_str())
        );
        assert_eq!(got.json()["items"][0]["id"], "1");
        let lacking = client.call("POST", "/v1/items", &token, Some(&nonce)).await;
        assert_eq!(lacking.status, 403);
        assert!(
            lacking
                .header("www-authenticate")
                .contains("scope=\"items:write\"")
        );
        let seen = client.rehearsal.seen_by(Service::Api);
        assert_eq!(seen[1].query.as_deref(), Some("a=1"));
        assert_eq!(
            seen[1].header("authorization"),
            Some(format!("DPoP {token}").as_str())
        );
        assert_eq!(seen[1].status, Some(200));
    }
}

#[tokio::test]
async fn what_is_not_exactly_right_stays_out() {
    let client = Client::start().await;
    let token = client.token("").await;
    let nonce = client.api_nonce(&token).await;
    let url = format!("{}/v1/items", client.rehearsal.api_origin());
    let claims = || Client::claims("GET", &url, Some(&token), Some(&nonce));
    let ask = async |authorization: &[String], proofs: &[String]| {
        let mut request = Request::get(&url);
        for line in authorization {
            request = request.header("authorization", line);
        }
        for line in proofs {
            request = request.header("dpop", line);
        }
        let got = client.send(request.body(Full::default()).unwrap()).await;
        let error = got.json()["error"].as_str().unwrap_or("let in").to_owned();
        (got.status, error)
    };
    let bound = format!("DPoP {token}");
    let refused = |status, error: &str| (status, error.to_owned());
    let proof = || client.proof(&claims());
    let good = ask(std::slice::from_ref(&bound), &[proof()]).await;
    assert_eq!(good, refused(200, "let in"));
    assert_eq!(ask(&[], &[proof()]).await, refused(401, "unauthorized"));
    let two = ask(&[bound.clone(), bound.clone()], &[proof()]).await;
    assert_eq!(two, refused(400, "invalid_request"));
    let bearer = ask(&[format!("Bearer {token}")], &[proof()]).await;
    assert_eq!(bearer, refused(401, "invalid_token"));
    let invalid = refused(401, "invalid_dpop_proof");
    assert_eq!(ask(std::slice::from_ref(&bound), &[]).await, invalid);
    assert_eq!(
        ask(std::slice::from_ref(&bound), &[proof(), proof()]).await,
        invalid
    );
    let once = proof();
    ask(std::slice::from_ref(&bound), std::slice::from_ref(&once)).await;
    assert_eq!(ask(std::slice::from_ref(&bound), &[once]).await, invalid);

    // A stolen token with the thief's own key.
    let thief = Client::start().await;
    let stolen = ask(std::slice::from_ref(&bound), &[thief.proof(&claims())]).await;
    assert_eq!(stolen, refused(401, "invalid_token"));
    let forged = format!("DPoP {}", thief.token("").await);
    let forged = ask(&[forged], &[proof()]).await;
    assert_eq!(forged, refused(401, "invalid_token"));

    client.rehearsal.revoke_tokens();
    let revoked = ask(&[bound], &[proof()]).await;
    assert_eq!(revoked, refused(401, "invalid_token"));
}

#[tokio::test]
async fn a_trusting_api_takes_what_was_stolen() {
    let client = Client::start().await;
    let token = client.token("").await;
    client.rehearsal.controls().api(|api| api.trusting = true);
    let request = Request::get(format!("{}/v1/items", client.rehearsal.api_origin()))
        .header("authorization", format!("Bearer {token}"));
    let got = client.send(request.body(Full::default()).unwrap()).await;
    assert_eq!(got.status, 200);
}

#[tokio::test]
async fn nonces_follow_their_mode() {
    let client = Client::start().await;
    let token = client.token("").await;
    let controls = client.rehearsal.controls();
    controls.api(|api| api.nonces = NonceMode::SingleUse);
    let nonce = client.api_nonce(&token).await;
    let first = client.call("GET", "/v1/items", &token, Some(&nonce)).await;
    assert_eq!(first.status, 200);
    assert_ne!(first.header("dpop-nonce"), nonce);
    let again = client.call("GET", "/v1/items", &token, Some(&nonce)).await;
    assert_eq!(again.status, 401);
    client.rehearsal.expire_nonces(Service::Api);
    let stale = first.header("dpop-nonce").to_owned();
    let late = client.call("GET", "/v1/items", &token, Some(&stale)).await;
    assert_eq!(late.error(), "use_dpop_nonce");
    controls.api(|api| api.nonces = NonceMode::Off);
    let free = client.call("GET", "/v1/items", &token, None).await;
    assert_eq!((free.status, free.header("dpop-nonce")), (200, ""));
}

#[tokio::test]
async fn challenges_take_every_form() {
    let client = Client::start().await;
    let token = client.token("").await;
    let controls = client.rehearsal.controls();
    let lines = async |form| {
        controls.api(|api| api.challenge = form);
        let got = client.call("GET", "/v1/items", &token, None).await;
        let all = got.headers.get_all("www-authenticate");
        all.iter()
            .map(|v| v.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(lines(ChallengeForm::SecondLine).await.len(), 2);
    assert!(lines(ChallengeForm::AfterBearer).await[0].contains(", DPoP error="));
    assert!(!lines(ChallengeForm::BearerOnly).await[0].contains("DPoP"));
    assert!(lines(ChallengeForm::LastParameter).await[0].ends_with("error=\"use_dpop_nonce\""));
    assert_eq!(
        lines(ChallengeForm::OddCase).await,
        ["dPOP ALGS=ES256 , ERROR=use_dpop_nonce"]
    );
    let nonces = async |kind, sent: Option<&str>| {
        controls.api(|api| (api.challenge_nonce, api.always_challenge) = (kind, true));
        let got = client.call("GET", "/v1/items", &token, sent).await;
        let all = got.headers.get_all("dpop-nonce");
        all.iter()
            .map(|v| v.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let good = nonces(ChallengeNonce::Good, None).await;
    let other = nonces(ChallengeNonce::Good, Some(&good[0])).await;
    assert_ne!(good, other);
    assert_eq!(nonces(ChallengeNonce::Same, Some("abc")).await, ["abc"]);
    assert!(nonces(ChallengeNonce::Missing, None).await.is_empty());
    assert_eq!(nonces(ChallengeNonce::Twice, None).await.len(), 2);
    assert!(nonces(ChallengeNonce::Malformed, None).await[0].contains('"'));
}

#[tokio::test]
async fn htu_may_be_read_in_other_ways() {
    let client = Client::start().await;
    let token = client.token("").await;
    let nonce = client.api_nonce(&token).await;
    let controls = client.rehearsal.controls();
    let plain = client
        .call("GET", "/v1/items/a%40b", &token, Some(&nonce))
        .await;
    assert_eq!(plain.status, 200);
    controls.api(|api| api.htu = HtuRule::PercentDecoded);
    let sent = client
        .call("GET", "/v1/items/a%40b", &token, Some(&nonce))
        .await;
    assert_eq!(sent.error(), "invalid_dpop_proof");
    controls.api(|api| api.htu = HtuRule::WithoutPrefix("/gateway".into()));
    let url = format!("{}/gateway/v1/items", client.rehearsal.api_origin());
    let htu = format!("{}/v1/items", client.rehearsal.api_origin());
    let claims = Client::claims("GET", &htu, Some(&token), Some(&nonce));
    let request = Request::get(url)
        .header("authorization", format!("DPoP {token}"))
        .header("dpop", client.proof(&claims));
    let got = client.send(request.body(Full::default()).unwrap()).await;
    assert_eq!(got.status, 200);
}

#[tokio::test]
async fn every_route_does_its_work() {
    for h2 in [false, true] {
        let mut client = Client::start().await;
        client.h2 = h2;
        let token = client.token("").await;
        let nonce = client.api_nonce(&token).await;
        let call = async |method: &str, path: &str, body: &'static str| {
            let request = client
                .api_request(method, path, &token, Some(&nonce))
                .header("te", "trailers");
            client.send(request.body(Full::from(body)).unwrap()).await
        };
        let made = call("POST", "/v1/items", "{\"name\":\"x\"}").await;
        assert_eq!(
            (made.status, &made.json()["sent"]["name"]),
            (201, &json!("x"))
        );
        assert_eq!(call("DELETE", "/v1/items/1", "").await.status, 204);
        assert_eq!(call("HEAD", "/v1/items", "").await.body.len(), 0);
        assert_eq!(call("PUT", "/v1/items", "").await.status, 405);
        assert_eq!(call("GET", "/v1/nothing", "").await.status, 404);
        let echoed = call("POST", "/v1/echo?q=1", "hi").await.json();
        assert_eq!(
            (&echoed["body"], &echoed["query"]),
            (&json!("hi"), &json!("q=1"))
        );
        assert!(echoed["headers"].to_string().contains(&token));
        assert_eq!(
            call("POST", "/v1/upload", "abc").await.json(),
            json!({"length": 3, "sha256":
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"})
        );
        let long = call("GET", "/v1/download?bytes=200000", "").await;
        assert_eq!(
            (long.body.len(), long.header("content-length")),
            (200_000, "200000")
        );
        let events = call("GET", "/v1/stream?n=2&ms=1", "").await;
        assert_eq!(events.header("content-type"), "text/event-stream");
        assert_eq!(
            events.body,
            b"id: 0\ndata: event 0\n\nid: 1\ndata: event 1\n\n"
        );
        let trailed = call("POST", "/v1/trailers", "abc").await;
        assert_eq!(trailed.trailers.get("x-checksum").unwrap(), "rehearsed");
        assert_eq!(trailed.json()["length"], 3);
        assert_eq!(call("GET", "/v1/slow?ms=1", "").await.status, 200);
        assert_eq!(call("GET", "/v1/status/503", "").await.status, 503);
        assert_eq!(call("GET", "/v1/status/304", "").await.status, 304);
        assert_eq!(call("GET", "/v1/status/100", "").await.status, 400);
        let moved = call("GET", "/v1/redirect?to=https%3A%2F%2Fx.test%2F", "").await;
        assert_eq!(
            (moved.status, moved.header("location")),
            (302, "https://x.test/")
        );
    }
}

#[tokio::test]
async fn web_sockets_echo() {
    let client = Client::start().await;
    let token = client.token("").await;
    let nonce = client.api_nonce(&token).await;
    let at = client.rehearsal.api_addr();
    let mut stream = client.tls(at, "api.rehearsal.test").await.unwrap();
    let request = client.api_request("GET", "/v1/ws", &token, Some(&nonce));
    let proof = request.headers_ref().unwrap()["dpop"]
        .to_str()
        .unwrap()
        .to_owned();
    let head = format!(
        "GET /v1/ws HTTP/1.1\r\nHost: api.rehearsal.test\r\nAuthorization: DPoP {token}\r\n\
         DPoP: {proof}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="));
    stream.write_all(b"\x81\x82\0\0\0\0hi").await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"\x81\x02hi");
}

#[tokio::test]
async fn the_static_api_takes_keys_and_unbound_tokens() {
    let client = Client::start().await;
    client
        .rehearsal
        .controls()
        .issuer(|issuer| issuer.nonces = NonceMode::Off);
    let ask = async |name: &str, value: &str| {
        let url = format!("{}/v1/items", client.rehearsal.static_origin());
        let request = Request::get(url).header(name, value);
        client
            .send(request.body(Full::<Bytes>::default()).unwrap())
            .await
            .status
    };
    let (key, bearer) = (client.rehearsal.api_key(), client.rehearsal.bearer_key());
    assert_eq!(ask("x-api-key", key).await, 200);
    assert_eq!(ask("x-api-key", bearer).await, 401);
    assert_eq!(ask("authorization", &format!("Bearer {bearer}")).await, 200);
    assert_eq!(ask("authorization", &format!("Bearer {key}")).await, 401);

    let form = "grant_type=client_credentials&scope=items%3Aread";
    let secret = client.rehearsal.client_secret("svc-bearer").unwrap();
    let request = client
        .token_request()
        .header("authorization", basic("svc-bearer", secret));
    let unbound = client
        .send(request.body(Full::from(form)).unwrap())
        .await
        .json();
    assert_eq!(unbound["token_type"], "Bearer");
    let refresh_only = client
        .ask(&client.form("svc-refresh-only"), None)
        .await
        .json();
    assert_eq!(refresh_only["token_type"], "Bearer");
    for answer in [unbound, refresh_only] {
        let token = answer["access_token"].as_str().unwrap();
        assert_eq!(ask("authorization", &format!("Bearer {token}")).await, 200);
    }
    let bound = format!(
        "{}&resource=https%3A%2F%2Fstatic.rehearsal.test",
        client.form("svc-pkjwt")
    );
    let bound = client.ask(&bound, None).await.json();
    let bound = bound["access_token"].as_str().unwrap();
    assert_eq!(ask("authorization", &format!("Bearer {bound}")).await, 401);
}

#[tokio::test]
async fn a_server_answers_to_its_own_names_only() {
    let client = Client::with(Options {
        api_names: vec!["api.rehearsal.test".into(), "api2.rehearsal.test".into()],
        ..Options::default()
    })
    .await;
    let named = async |host: &str| {
        let request = Request::get("https://api2.rehearsal.test/v1/items").header("host", host);
        client
            .send(request.body(Full::default()).unwrap())
            .await
            .status
    };
    assert_eq!(named("issuer.rehearsal.test").await, 421);
    assert_eq!(named("API2.rehearsal.test:443").await, 401);
    let with_port = format!("api.rehearsal.test:{}", client.rehearsal.api_addr().port());
    assert_eq!(named(&with_port).await, 401);
}
