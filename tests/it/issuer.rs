//! The issuer: how tokens are had, and what its failures are to agents.

use std::time::Duration;

use tempfile::TempDir;
use tokenward::rehearsal::{Call, ExpiresIn, Failure, MetadataFault, Options, Rehearsal, Service};
use tokio::time::{Instant, sleep};

use crate::kit::{
    API, Auth, Credential, House, KEYS, PLAIN, Setup, Svc, ask, claims, distinct_proofs, refused,
    token_of,
};

/// A service that is not the failing one goes on.
async fn others_go_on(house: &House) {
    let answer = ask(&house.agent(), KEYS, true, Call::get("/v1/items")).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_down_fails_its_own_services_alone() {
    let house = House::start().await;
    house.rehearsal.take_down(Service::Issuer).await;
    let begun = Instant::now();
    let answer = house.get("/v1/items").await;
    refused(&answer, 503, "as-unavailable");
    assert!(answer.headers.contains_key("retry-after"));
    assert!(begun.elapsed() < Duration::from_secs(6));
    others_go_on(&house).await;
    assert!(house.at_api().is_empty());

    house.rehearsal.bring_up(Service::Issuer).await.unwrap();
    let mut last = 0;
    for _ in 0..100 {
        last = house.get("/v1/items").await.status.as_u16();
        if last == 200 {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(last, 200, "the issuer is back and nobody noticed");
    let metrics = house.metrics().await;
    let healthy = r#"tokenward_token_health{service="items",state="healthy"} 1"#;
    assert!(metrics.contains(healthy), "{metrics}");
    let written = house.end().await;
    assert!(!written.of("token.request_failed").is_empty());
    assert_eq!(written.of("token.issued").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_issuer_keeps_nobody_waiting_long() {
    let house = House::start().await;
    house
        .rehearsal
        .controls()
        .fail(Service::Issuer, 99, Failure::Hang);
    let begun = Instant::now();
    let (answer, ()) = tokio::join!(house.get("/v1/items"), others_go_on(&house));
    assert_eq!(
        answer.code().as_deref(),
        Some("as-unavailable"),
        "{}",
        answer.text()
    );
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
    house.end().await;
}

/// A token in use outlives an outage of its issuer.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_at_hand_needs_no_issuer() {
    let house = House::start().await;
    assert_eq!(house.get("/v1/items").await.status, 200);
    house.rehearsal.take_down(Service::Issuer).await;
    for _ in 0..5 {
        assert_eq!(house.get("/v1/items").await.status, 200);
    }
    house.end().await;
}

/// What an issuer may not answer: the change, what the agent is told, and how.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_as_configured_is_never_used() {
    type Change = fn(&mut tokenward::rehearsal::IssuerSettings);
    let table: [(&str, Change, u16, &str); 9] = [
        (
            "downgrade",
            |i| i.token_type = Some("Bearer".into()),
            502,
            "downgrade-refused",
        ),
        (
            "no type that is known",
            |i| i.token_type = Some("MAC".into()),
            502,
            "downgrade-refused",
        ),
        (
            "another key",
            |i| i.wrong_jkt = true,
            502,
            "binding-mismatch",
        ),
        (
            "wider",
            |i| i.scope = Some("items:read items:admin".into()),
            403,
            "scope-denied",
        ),
        (
            "other",
            |i| i.scope = Some("items:admin".into()),
            403,
            "scope-denied",
        ),
        (
            "twice",
            |i| i.duplicate_members = true,
            503,
            "as-unavailable",
        ),
        (
            "negative",
            |i| i.expires_in = ExpiresIn::Said((-1).into()),
            503,
            "as-unavailable",
        ),
        (
            "endless challenges",
            |i| i.always_challenge = true,
            503,
            "as-unavailable",
        ),
        (
            "not for us",
            |i| i.metadata = Some(MetadataFault::Algorithms(vec!["RS256".into()])),
            403,
            "client-misconfigured",
        ),
    ];
    for (what, change, status, code) in table {
        let house = House::start().await;
        house.rehearsal.controls().issuer(change);
        let answer = house.get("/v1/items").await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_deref()),
            (status, Some(code)),
            "{what}: {}",
            answer.text()
        );
        assert!(house.at_api().is_empty(), "{what}");
        assert!(house.token_requests().len() <= 3, "{what}");
        others_go_on(&house).await;
        let written = house.end().await;
        assert_eq!(
            written.of("token.request_failed")[0]["code"],
            code,
            "{what}"
        );
        assert!(written.of("token.issued").is_empty(), "{what}");
        if what == "downgrade" {
            assert_eq!(written.of("downgrade.refused").len(), 1);
        }
    }
}

/// What is odd but allowed.
#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_may_be_brief_or_old_fashioned() {
    type Change = fn(&mut tokenward::rehearsal::IssuerSettings);
    let table: [(&str, Change); 6] = [
        ("no scope", |i| i.omit_scope = true),
        ("no life", |i| i.expires_in = ExpiresIn::Omitted),
        ("life as text", |i| {
            i.expires_in = ExpiresIn::Said("300".into())
        }),
        ("type in lower case", |i| i.token_type = Some("dpop".into())),
        ("challenge with 401", |i| i.challenge_status = 401),
        ("silence about DPoP", |i| {
            i.metadata = Some(MetadataFault::NoDpop)
        }),
    ];
    for (what, change) in table {
        let house = House::start().await;
        house.rehearsal.controls().issuer(change);
        let answer = house.get("/v1/items").await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        house.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_is_not_the_issuers_is_not_believed() {
    for fault in [
        MetadataFault::WrongIssuer,
        MetadataFault::HttpTokenEndpoint,
        MetadataFault::DuplicateMembers,
    ] {
        let house = House::start().await;
        house
            .rehearsal
            .controls()
            .issuer(|i| i.metadata = Some(fault.clone()));
        let answer = house.get("/v1/items").await;
        assert_eq!(
            answer.code().as_deref(),
            Some("as-metadata-invalid"),
            "{fault:?}: {}",
            answer.text()
        );
        assert_eq!(answer.status, 502);
        assert!(
            house.token_requests().is_empty(),
            "{fault:?}: a credential was sent"
        );
        others_go_on(&house).await;
        house.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_leads_nowhere_else() {
    let to = "https://evil.test/token".to_owned();
    for status in [302, 307, 308] {
        let house = House::start().await;
        let redirect = Failure::Redirect {
            status,
            to: to.clone(),
        };
        house
            .rehearsal
            .controls()
            .fail_path(Service::Issuer, "/token", 9, redirect);
        let answer = house.get("/v1/items").await;
        assert_eq!(
            answer.code().as_deref(),
            Some("as-metadata-invalid"),
            "{}",
            answer.text()
        );
        house.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_in_trouble_is_asked_again_later() {
    for failure in [
        Failure::Status {
            status: 500,
            retry_after: None,
        },
        Failure::Status {
            status: 429,
            retry_after: Some("1".into()),
        },
        Failure::Html {
            status: 200,
            canary: "canary-html".into(),
        },
        Failure::Huge { bytes: 1 << 20 },
        Failure::DropAfterHead,
    ] {
        let house = House::start().await;
        house
            .rehearsal
            .controls()
            .fail_path(Service::Issuer, "/token", 1, failure.clone());
        let answer = house.get("/v1/items").await;
        refused(&answer, 503, "as-unavailable");
        assert!(!answer.text().contains("canary"), "{failure:?}");
        let mut last = answer;
        for _ in 0..50 {
            if last.status == 200 {
                break;
            }
            sleep(Duration::from_millis(100)).await;
            last = house.get("/v1/items").await;
        }
        assert_eq!(last.status, 200, "{failure:?}: {}", last.text());
        house.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_not_known_does_not_insist() {
    let house = House::start().await;
    let failure = Failure::OAuth {
        status: 401,
        error: "invalid_client".into(),
    };
    house
        .rehearsal
        .controls()
        .fail_path(Service::Issuer, "/token", 99, failure);
    for _ in 0..20 {
        let answer = house.get("/v1/items").await;
        refused(&answer, 403, "client-misconfigured");
        assert!(
            answer.text().contains("\"oauth_error\":\"invalid_client\""),
            "{}",
            answer.text()
        );
    }
    assert!(
        house.token_requests().len() <= 2,
        "{}",
        house.token_requests().len()
    );
    others_go_on(&house).await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_without_a_trusted_certificate_is_told_nothing() {
    let other = Rehearsal::start(Options::default()).await.unwrap();
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("other.pem"), other.ca_pem()).unwrap();
    let mut setup = Setup::usual();
    setup.issuer_ca = "other.pem";
    let rehearsal = Rehearsal::start(Options::default()).await.unwrap();
    let house = setup.start_in(folder, rehearsal).await;
    refused(&house.get("/v1/items").await, 502, "as-tls-error");
    assert!(house.rehearsal.seen_by(Service::Issuer).is_empty());
    others_go_on(&house).await;
    house.end().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_without_a_trusted_certificate_is_told_nothing() {
    let mut items = Svc::items();
    let rehearsal = Rehearsal::start(Options::default()).await.unwrap();
    items.upstream = Some(format!(
        "{{connect: \"{}\", allow_private: true}}",
        rehearsal.api_addr()
    ));
    let house = Setup::of([items])
        .start_in(TempDir::new().unwrap(), rehearsal)
        .await;
    refused(&house.get("/v1/items").await, 502, "upstream-tls-error");
    assert!(house.at_api().is_empty());
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_who_wait_are_one_token_request() {
    let house = House::start().await;
    house
        .rehearsal
        .controls()
        .site(Service::Issuer, |s| s.delay = Duration::from_millis(50));
    let calls = (0..50).map(|_| house.get("/v1/items"));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let requests = house.token_requests();
    // The first one learned the issuer's nonce.
    assert!(requests.len() <= 2, "{}", requests.len());
    assert_eq!(requests.iter().filter(|s| s.status == Some(200)).count(), 1);
    distinct_proofs(&house.rehearsal.seen());
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_authentication_is_taken() {
    for (client, auth) in [
        ("svc-basic", Auth::Basic),
        ("svc-post", Auth::Post),
        ("svc-pkjwt", Auth::PrivateKeyJwt),
    ] {
        let items = Svc::items().with(Credential::oauth(client, auth, "dpop"));
        let house = Setup::of([items]).start().await;
        let answer = house.get("/v1/items").await;
        assert_eq!(answer.status, 200, "{client}: {}", answer.text());
        assert_eq!(
            house.at_api().pop().unwrap().client.as_deref(),
            Some(client)
        );
        house.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn assertions_are_for_whom_the_configuration_says() {
    for (legacy, configured) in [(false, ""), (true, ", assertion_audience: token_endpoint")] {
        let mut setup = Setup::usual();
        setup.options.legacy_assertions = legacy;
        setup.issuer = configured;
        let house = setup.start().await;
        let answer = house.get("/v1/items").await;
        assert_eq!(answer.status, 200, "{legacy}: {}", answer.text());
        let requests = house.token_requests();
        let assertion = requests[0]
            .form
            .iter()
            .find(|(name, _)| name == "client_assertion");
        let claims = claims(&assertion.unwrap().1);
        let audience = if legacy {
            house.rehearsal.token_endpoint()
        } else {
            house.rehearsal.issuer_url().to_owned()
        };
        assert_eq!(claims["aud"], audience);
        house.end().await;
    }
}

/// An issuer with a path in its identifier keeps its metadata elsewhere (RFC 8414 §3.1).
#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_may_be_a_tenant() {
    let mut setup = Setup::usual();
    setup.options.issuer_path = "/tenant/7".into();
    let house = setup.start().await;
    assert_eq!(house.get("/v1/items").await.status, 200);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weaker_bindings_are_named_where_they_are_used() {
    let of = |client, auth, binding| {
        let mut svc = Svc::plain().with(Credential::oauth(client, auth, binding));
        svc.rules = vec![r#"{allow: "GET /v1/items", scopes: ["items:read"]}"#.into()];
        svc
    };
    for (svc, binding, proves) in [
        (
            of("svc-refresh-only", Auth::PrivateKeyJwt, "refresh_only"),
            "refresh_only",
            true,
        ),
        (of("svc-bearer", Auth::Basic, "bearer"), "bearer", false),
    ] {
        let house = Setup::of([svc]).start().await;
        let answer = ask(&house.agent(), PLAIN, true, Call::get("/v1/items")).await;
        assert_eq!(answer.status, 200, "{binding}: {}", answer.text());
        assert_eq!(
            house.token_requests().iter().all(|s| s.proof.is_some()),
            proves
        );
        let seen = house.at_static().pop().unwrap();
        assert!(
            seen.header("authorization").unwrap().starts_with("Bearer ") && seen.proof.is_none()
        );
        let metrics = house.metrics().await;
        let counted =
            format!(r#"tokenward_tokens{{binding="{binding}",service="plain",state="live"}} 1"#);
        assert!(metrics.contains(&counted), "{metrics}");
        let written = house.end().await;
        assert_eq!(written.only()["binding"], binding);
        assert_eq!(written.of("token.issued")[0]["binding"], binding);
    }
}

/// Tokens of three seconds, and a request every 50 ms for seven: none of them fails or meets an expired token.
#[tokio::test(flavor = "multi_thread")]
async fn a_short_token_is_renewed_ahead_of_its_end() {
    let house = House::start().await;
    house.rehearsal.controls().issuer(|i| i.token_life = 3);
    let mut session = house.agent().open(API, 443, true).await.unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(7) {
        let answer = session.send(Call::get("/v1/items")).await.unwrap();
        assert_eq!(
            answer.status,
            200,
            "{:?}: {}",
            begun.elapsed(),
            answer.text()
        );
        sleep(Duration::from_millis(50)).await;
    }
    let challenged: Vec<_> = house
        .at_api()
        .into_iter()
        .filter(|s| s.status == Some(401))
        .collect();
    assert!(challenged.len() <= 1, "{challenged:#?}");
    let granted: Vec<_> = house
        .token_requests()
        .into_iter()
        .filter(|s| s.status == Some(200))
        .collect();
    assert!((3..=7).contains(&granted.len()), "{}", granted.len());
    let keys: std::collections::BTreeSet<_> = house
        .at_api()
        .iter()
        .map(|s| claims(token_of(s))["cnf"]["jkt"].to_string())
        .collect();
    assert_eq!(keys.len(), 1, "a renewal keeps the key");
    drop(session);
    let written = house.end().await;
    assert_eq!(written.of("token.issued").len(), 1);
    assert!(written.of("token.refreshed").len() >= 2);
}
