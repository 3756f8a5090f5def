//! Scopes that change: an API that asks for more, an issuer that gives something else.

use http::Method;
use serde_json::json;
use tokenward::rehearsal::{Call, Rehearsal};

use crate::kit::{Auth, Credential, House, Setup, Svc, claims, refused, token_of};

/// A service with this rule alone. The API wants `items:admin` for DELETE and `items:write` for POST.
async fn with_rule(rule: &str) -> House {
    let mut items = Svc::items();
    items.rules = vec![rule.into()];
    Setup::of([items]).start().await
}

fn delete(item: &str) -> Call {
    Call::new(Method::DELETE, &format!("/v1/items/{item}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_gets_the_scope_that_the_rule_lets_it_ask_for() {
    let house =
        with_rule(r#"{allow: "* /v1/items/**", scopes: ["items:read"], step_up: ["items:admin"]}"#)
            .await;
    assert_eq!(house.get("/v1/items").await.status, 200);
    assert_eq!(house.ask(true, delete("1")).await.status, 204);
    let seen = house.at_api();
    let scopes = |at: usize| claims(token_of(&seen[at]))["scope"].clone();
    let last = seen.len() - 1;
    assert_eq!(scopes(last - 1), "items:read");
    assert_eq!(scopes(last), "items:admin items:read");
    // The next one begins with what was granted.
    let before = house.at_api().len();
    assert_eq!(house.ask(true, delete("2")).await.status, 204);
    assert_eq!(house.at_api().len(), before + 1);
    assert_eq!(
        house.token_requests().len(),
        2 + 1,
        "and one nonce challenge"
    );
    let written = house.end().await;
    let asked = written.of("scope.requested");
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0]["scopes"], json!(["items:admin"]));
    let granted = written.of("scope.granted");
    assert_eq!(granted[0]["scopes"], json!(["items:admin", "items:read"]));
    assert!(granted[0]["lease"].is_u64());
    assert!(written.of("scope.escalated").is_empty());
    let lines = written.requests();
    assert_eq!(lines[1]["scopes"], json!(["items:admin", "items:read"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_rule_allows_is_not_asked_for_and_told() {
    for (rule, why) in [
        (
            r#"{allow: "* /v1/items/**", scopes: ["items:read"]}"#,
            "beyond_policy",
        ),
        (
            r#"{allow: "* /v1/items/**", scopes: ["items:read"], step_up: ["items:write"]}"#,
            "beyond_policy",
        ),
    ] {
        let house = with_rule(rule).await;
        for _ in 0..3 {
            let answer = house.ask(true, delete("1")).await;
            refused(&answer, 403, "scope-denied");
        }
        let asked = house.token_requests();
        assert!(asked.len() <= 2, "one token, and perhaps a nonce");
        let written = house.end().await;
        let escalated = written.of("scope.escalated");
        assert_eq!(escalated.len(), 3);
        assert_eq!(escalated[0]["scopes"], json!(["items:admin"]));
        assert_eq!(escalated[0]["reason"], why);
        assert!(written.of("scope.requested").is_empty());
    }
}

/// The rule allows it and the issuer does not give it: asked for once, and the other requests go on.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_issuer_does_not_give_ends_the_request_alone() {
    let mut items = Svc::items().with(Credential::oauth("svc-reader", Auth::PrivateKeyJwt, "dpop"));
    items.rules = vec![
        r#"{allow: "* /v1/items/**", scopes: ["items:read"], step_up: ["items:admin"]}"#.into(),
    ];
    let house = Setup::of([items]).start().await;
    let answer = house.ask(true, delete("1")).await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(house.get("/v1/items").await.status, 200);
    let written = house.end().await;
    assert_eq!(written.of("scope.requested").len(), 1);
    assert_eq!(written.of("scope.escalated")[0]["reason"], "not_granted");
}

/// A body that was kept goes out again with the new token.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_body_survives_a_step_up() {
    let house =
        with_rule(r#"{allow: "POST /v1/items", scopes: ["items:read"], step_up: ["items:write"]}"#)
            .await;
    let post = Call::new(Method::POST, "/v1/items")
        .field("content-type", "application/json")
        .bytes(r#"{"name":"lamp"}"#);
    let answer = house.ask(true, post).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.text(), r#"{"id":"3","sent":{"name":"lamp"}}"#);
    house.end().await;
}

/// An issuer that grants less, or more: refused or taken, as configured, and told either way.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_issuer_grants_instead_is_refused_or_passed_as_configured() {
    let table = [
        ("", "items:read items:admin", 403, "refused"),
        ("", "items:admin", 403, "refused"),
        (
            ", scope_changes: pass",
            "items:read items:admin",
            200,
            "passed",
        ),
        // The token lacks what the route wants, and says so; the API refuses it.
        (", scope_changes: pass", "items:write", 403, "passed"),
    ];
    for (more, granted, status, outcome) in table {
        let credential = Credential::Oauth {
            client: "svc-pkjwt",
            auth: Auth::PrivateKeyJwt,
            binding: "dpop",
            more,
        };
        let setup = Setup::of([Svc::items().with(credential)]);
        let rehearsal = Rehearsal::start(setup.options.clone()).await.unwrap();
        let scope = granted.to_owned();
        rehearsal.controls().issuer(|i| i.scope = Some(scope));
        let house = setup
            .start_in(tempfile::TempDir::new().unwrap(), rehearsal)
            .await;
        let answer = house.get("/v1/items").await;
        assert_eq!(answer.status, status, "{more} {granted}: {}", answer.text());
        let written = house.end().await;
        let changed = written.of("scope.changed");
        assert_eq!(changed.len(), 1, "{}", written.text);
        assert_eq!(changed[0]["outcome"], outcome);
        assert_eq!(changed[0]["requested"], json!(["items:read"]));
    }
}
