use serde_json::{Value, json};

use super::*;
use crate::tokens::issuer::form::pairs;
use crate::tokens::issuer::tests::{Bench, ISSUER, granted, metadata, refused, reply};
use crate::tokens::settings::{OauthSettings, Redirect};
use crate::vocab::{AgentName, ScopeSet, ServiceName};

const REDIRECT: &str = "http://127.0.0.1:4711/callback";

fn by_login(settings: &mut OauthSettings) {
    settings.grant = Grant::AuthorizationCode {
        redirect: Redirect {
            address: [127, 0, 0, 1].into(),
            port: None,
            path: "/callback".into(),
        },
        scopes: ScopeSet::parse("items:read items:write").unwrap(),
    };
}

/// An issuer with a login page; `more` goes into its metadata.
fn bench(more: &Value, change: impl FnOnce(&mut OauthSettings)) -> Bench {
    let bench = Bench::new(|settings| {
        by_login(settings);
        change(settings);
    });
    let mut document = metadata();
    document["authorization_endpoint"] = json!("https://as.test/authorize");
    for (name, value) in more.as_object().unwrap() {
        document[name] = value.clone();
    }
    *bench.fake.metadata.lock().unwrap() = Ok((200, document));
    bench
}

async fn begin(bench: &Bench) -> Result<Login, LoginError> {
    let grant = GrantId {
        service: ServiceName::new("items").unwrap(),
        agent: AgentName::fallback(),
    };
    let redirect = REDIRECT.to_owned();
    bench
        .client
        .begin_login(&grant, 1, redirect, &bench.notes)
        .await
}

/// The parameters of a login's URL.
fn asked(login: &Login) -> Vec<(String, String)> {
    pairs(login.url().split_once('?').unwrap().1).unwrap()
}

fn of<'a>(pairs: &'a [(String, String)], name: &str) -> &'a str {
    let mut found = pairs.iter().filter(|(n, _)| n == name);
    let value = &found.next().unwrap().1;
    assert_eq!(found.next(), None, "{name} stands there twice");
    value
}

fn answered(verdict: Verdict) -> Answered {
    match verdict {
        Verdict::Answered(answered) => *answered,
        Verdict::Foreign => panic!("foreign"),
        Verdict::Refused(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn the_url_ties_the_answer_to_us_and_the_code_brings_a_token() {
    let bench = bench(&json!({}), |s| s.resource = Some("https://api.test".into()));
    let login = begin(&bench).await.unwrap();
    let query = asked(&login);
    assert!(login.url().starts_with("https://as.test/authorize?"));
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "agent-proxy"),
        ("redirect_uri", REDIRECT),
        ("scope", "items:read items:write"),
        ("resource", "https://api.test"),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(of(&query, name), value);
    }
    let state = of(&query, "state");
    assert_eq!(state.len(), 43);
    let back = format!("code=c%2Bde&state={state}&iss=https%3A%2F%2Fas.test");
    let answer = answered(login.judge(&back));
    bench
        .client
        .take_answer(&AgentName::fallback(), answer, u64::MAX);
    bench.fake.then(Ok(granted(
        &json!({"scope": "items:read items:write", "refresh_token": "canary-rt"}),
    )));
    let obtained = bench.obtain("items:read items:write").await.unwrap();
    let seen = bench.fake.tokens().remove(0);
    let field = |name: &str| seen.form.get(name).map(String::as_str);
    assert_eq!(field("grant_type"), Some("authorization_code"));
    assert_eq!(field("code"), Some("c+de"));
    assert_eq!(field("redirect_uri"), Some(REDIRECT));
    assert_eq!(field("resource"), Some("https://api.test"));
    assert_eq!(field("scope"), None);
    let verifier = field("code_verifier").unwrap();
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
    assert_eq!(of(&query, "code_challenge"), challenge);
    // The code is bound to the key that signs the token request, and so is the token.
    let key = obtained.token.key.unwrap();
    assert_eq!(of(&query, "dpop_jkt"), key.thumbprint());
    assert!(seen.proof().is_some());
    // The code is good once: the next token comes by the refresh token, and without one needs a new login.
    bench.fake.then(Ok(refused(400, "invalid_grant")));
    for _ in 0..2 {
        let failure = bench.fails("items:read items:write").await;
        assert_eq!(failure.code, Code::ReauthorizationRequired);
    }
    let seen = bench.fake.tokens();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1].form["refresh_token"], "canary-rt");
    assert!(!seen[1].form.contains_key("code"));
}

#[tokio::test]
async fn parameters_are_pushed_where_the_issuer_takes_that() {
    let par = json!({"pushed_authorization_request_endpoint": "https://as.test/par"});
    let secret = || Secret::new("s3cret".to_owned());
    for auth in [
        ClientAuth::Nothing,
        ClientAuth::SecretBasic(secret()),
        ClientAuth::SecretPost(secret()),
    ] {
        let bench = bench(&par, |s| s.client_auth = auth);
        bench.fake.then(Ok(reply(
            201,
            &[],
            &json!({"request_uri": "urn:x:1&2", "expires_in": 60}),
        )));
        let login = begin(&bench).await.unwrap();
        let query = asked(&login);
        assert_eq!(query.len(), 2, "{query:?}");
        assert_eq!(of(&query, "request_uri"), "urn:x:1&2");
        let pushed = bench.fake.at("/par").remove(0);
        assert_eq!(pushed.form["client_id"], "agent-proxy");
        assert_eq!(pushed.form["redirect_uri"], REDIRECT);
        assert_eq!(pushed.form["code_challenge_method"], "S256");
        assert!(!login.url().contains(&pushed.form["state"]));
    }
    let bench = bench(&par, |_| {});
    bench.fake.then(Ok(refused(400, "invalid_scope")));
    let error = begin(&bench).await.err().unwrap();
    assert_eq!(error, LoginError::Refused("invalid_scope"));
}

#[tokio::test]
async fn an_answer_counts_if_it_fits_and_only_then() {
    let silent = begin(&bench(&json!({}), |_| {})).await.unwrap();
    let named = json!({"authorization_response_iss_parameter_supported": true});
    let naming = begin(&bench(&named, |_| {})).await.unwrap();
    let state = |login: &Login| login.state.expose().clone();
    let foreign = |login: &Login, query: &str| {
        let verdict = login.judge(query);
        assert!(matches!(verdict, Verdict::Foreign), "{query}");
    };
    let refused = |login: &Login, query: String, why: LoginError| match login.judge(&query) {
        Verdict::Refused(error) => assert_eq!(error, why, "{query}"),
        _ => panic!("{query}"),
    };
    let good = state(&silent);
    for query in [
        String::new(),
        "code=c".to_owned(),
        "code=c&state=".to_owned(),
        format!("code=c&state={}", state(&naming)),
        format!("code=c&state={good}x"),
        format!("code=c&state={good}&state={good}"),
        format!("code=c&code=d&state={good}"),
        format!("code=c&state={good}&iss=a&iss=https%3A%2F%2Fas.test"),
        format!("error=access_denied&state=x{good}"),
        format!("code=%zz&state={good}"),
        format!("code={}&state={good}", "c".repeat(5000)),
    ] {
        foreign(&silent, &query);
    }
    answered(silent.judge(&format!("state={good}&code=c&session_state=y")));
    for iss in ["https%3A%2F%2Fevil.test", "https%3A%2F%2Fas.test%2F", ""] {
        let query = format!("code=c&state={good}&iss={iss}");
        refused(&silent, query, LoginError::AnotherIssuer);
    }
    // RFC 9207 §2.4: an issuer that says that it names itself does, also where it refuses.
    let good = state(&naming);
    for query in ["code=c", "error=access_denied"] {
        let query = format!("{query}&state={good}");
        refused(&naming, query, LoginError::AnotherIssuer);
    }
    let iss = "iss=https%3A%2F%2Fas.test";
    assert_eq!(naming.issuer, ISSUER);
    answered(naming.judge(&format!("code=c&state={good}&{iss}")));
    for (error, told) in [("access_denied", "access_denied"), ("<script>", "")] {
        let query = format!("error={error}&state={good}&{iss}");
        refused(&naming, query, LoginError::Refused(told));
    }
    for code in ["", "code=&", "code=%00&"] {
        let query = format!("{code}state={good}&{iss}");
        refused(&naming, query, LoginError::Refused(""));
    }
}

#[tokio::test]
async fn nobody_is_sent_to_a_place_that_is_not_the_issuers() {
    for (more, why) in [
        (
            json!({"authorization_endpoint": null}),
            LoginError::NotOffered,
        ),
        (
            json!({"authorization_endpoint": "http://as.test/authorize"}),
            LoginError::NotOffered,
        ),
        (
            json!({"code_challenge_methods_supported": ["plain"]}),
            LoginError::NotOffered,
        ),
        (
            json!({"authorization_endpoint": "https://other.test/authorize"}),
            Code::AsMetadataInvalid.into(),
        ),
        (
            json!({"pushed_authorization_request_endpoint": "https://other.test/par"}),
            Code::AsMetadataInvalid.into(),
        ),
    ] {
        let bench = bench(&more, |_| {});
        let other = Address::parse("https://other.test").unwrap();
        let own = Address::parse(ISSUER).unwrap();
        let all = [other.authority().clone(), own.authority().clone()];
        bench.client.issuer().introduce(&all);
        assert_eq!(begin(&bench).await.err(), Some(why), "{more}");
    }
    let other = Bench::new(|_| {});
    assert_eq!(begin(&other).await.err(), Some(LoginError::OtherGrant));
}

/// FAPI 2.0: parameters are pushed or there is no login, and an answer names its issuer whether or not the metadata promises it.
#[tokio::test]
async fn the_fapi_profile_wants_pushed_parameters_and_an_issuer_that_names_itself() {
    let fapi = |settings: &mut OauthSettings| settings.fapi = true;
    let open = bench(&json!({}), fapi);
    assert_eq!(begin(&open).await.err(), Some(LoginError::NotPushed));
    let pushing = bench(
        &json!({"pushed_authorization_request_endpoint": "https://as.test/par"}),
        fapi,
    );
    let pushed = json!({"request_uri": "urn:example:1", "expires_in": 60});
    pushing.fake.then(Ok(reply(201, &[], &pushed)));
    let login = begin(&pushing).await.unwrap();
    let state = pushing.fake.at("/par")[0].form["state"].clone();
    let nameless = login.judge(&format!("code=c&state={state}"));
    let another = LoginError::AnotherIssuer;
    assert!(matches!(nameless, Verdict::Refused(error) if error == another));
    let named = login.judge(&format!("code=c&state={state}&iss=https%3A%2F%2Fas.test"));
    assert!(matches!(named, Verdict::Answered(_)));
}
