use super::client::{Client, basic, encoded};
use crate::rehearsal::{ExpiresIn, MetadataFault, NonceMode, Options, Service};
use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};

fn claims_of(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&crate::rehearsal::jose::from_base64url(payload).unwrap()).unwrap()
}

#[tokio::test]
async fn a_token_takes_two_requests_when_nonces_are_on() {
    for h2 in [false, true] {
        let mut client = Client::start().await;
        client.h2 = h2;
        let challenged = client.ask(&client.form("svc-pkjwt"), None).await;
        assert_eq!(
            (challenged.status, challenged.error()),
            (400, "use_dpop_nonce".into())
        );
        let nonce = challenged.header("dpop-nonce").to_owned();
        let form = client.form("svc-pkjwt") + "&scope=items%3Aread";
        let got = client.ask(&form, Some(&nonce)).await;
        let answer = got.json();
        assert_eq!(got.status, 200);
        assert_eq!(answer["token_type"], "DPoP");
        assert_eq!(answer["expires_in"], 300);
        assert_eq!(answer["scope"], "items:read");
        let claims = claims_of(answer["access_token"].as_str().unwrap());
        assert_eq!(claims["cnf"]["jkt"], client.key.jwk().thumbprint());
        assert_eq!(claims["aud"], client.rehearsal.api_origin());
        let seen = client.rehearsal.seen();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[1].version, if h2 { "HTTP/2" } else { "HTTP/1.1" });
        assert_eq!(seen[1].proof.as_ref().unwrap()["nonce"], nonce);
        assert_eq!(seen[1].client.as_deref(), Some("svc-pkjwt"));
        assert_eq!(seen[1].status, Some(200));
        client.rehearsal.clear_seen();
        assert!(client.rehearsal.seen().is_empty());
    }
}

#[tokio::test]
async fn metadata_stands_where_rfc_8414_puts_it() {
    let client = Client::with(Options {
        issuer_path: "/tenant/a".into(),
        ..Options::default()
    })
    .await;
    let url = "https://issuer.rehearsal.test/.well-known/oauth-authorization-server/tenant/a";
    let document = client.fetch(url).await.json();
    assert_eq!(document["issuer"], "https://issuer.rehearsal.test/tenant/a");
    assert_eq!(
        document["token_endpoint"],
        "https://issuer.rehearsal.test/tenant/a/token"
    );
    assert_eq!(
        document["dpop_signing_alg_values_supported"],
        json!(["ES256"])
    );
    let wrong = "https://issuer.rehearsal.test/.well-known/oauth-authorization-server";
    assert_eq!(client.fetch(wrong).await.status, 404);
    client.token("").await;

    let controls = client.rehearsal.controls();
    let fault = async |fault| {
        controls.issuer(|issuer| issuer.metadata = Some(fault));
        client.fetch(url).await
    };
    let http = fault(MetadataFault::HttpTokenEndpoint).await.json();
    assert!(
        http["token_endpoint"]
            .as_str()
            .unwrap()
            .starts_with("http:")
    );
    let none = fault(MetadataFault::NoDpop).await.json();
    assert_eq!(none["dpop_signing_alg_values_supported"], Value::Null);
    let wrong = fault(MetadataFault::WrongIssuer).await.json();
    assert_ne!(wrong["issuer"], document["issuer"]);
    let twice = fault(MetadataFault::DuplicateMembers).await;
    let text = String::from_utf8(twice.body).unwrap();
    assert_eq!(text.matches("\"issuer\":").count(), 2);
    assert_eq!(fault(MetadataFault::Huge).await.body.len(), 8 << 20);
}

#[tokio::test]
async fn an_assertion_is_good_once_for_one_audience_and_not_for_long() {
    let client = Client::start().await;
    let nonce = client.issuer_nonce().await;
    let now = Client::now();
    let table = [
        ("aud", json!([client.rehearsal.issuer_url()])),
        ("aud", json!(client.rehearsal.token_endpoint())),
        ("exp", json!(now + 120)),
        ("exp", json!(now - 1)),
        ("iat", json!(now - 600)),
        ("iss", json!("svc-reader")),
        ("sub", json!("svc-basic")),
        ("sub", json!("nobody")),
        ("jti", json!("short")),
        ("extra", json!(1)),
    ];
    let ask = async |typ: &str, claims: &Value| {
        let assertion = client.assertion("svc-pkjwt", typ, claims);
        let got = client
            .ask(&client.form_with(&assertion), Some(&nonce))
            .await;
        (got.status, got.json()["error"].as_str().map(str::to_owned))
    };
    let refused = (401, Some("invalid_client".to_owned()));
    for (name, value) in table {
        let mut claims = client.assertion_claims("svc-pkjwt");
        claims[name] = value.clone();
        let verdict = ask("client-authentication+jwt", &claims).await;
        assert_eq!(verdict, refused, "{name}: {value}");
    }
    let claims = client.assertion_claims("svc-pkjwt");
    assert_eq!(ask("JWT", &claims).await, refused);
    assert_eq!(ask("client-authentication+jwt", &claims).await, (200, None));
    assert_eq!(ask("client-authentication+jwt", &claims).await, refused);
    assert_eq!(client.last_note(Service::Issuer), "assertion jti");

    client
        .rehearsal
        .controls()
        .issuer(|issuer| issuer.legacy_assertions = true);
    let mut claims = client.assertion_claims("svc-pkjwt");
    assert_eq!(ask("JWT", &claims).await, refused);
    claims["aud"] = json!(client.rehearsal.token_endpoint());
    assert_eq!(ask("JWT", &claims).await, (200, None));
}

#[tokio::test]
async fn secrets_authenticate_in_their_registered_way_only() {
    let client = Client::start().await;
    let nonce = client.issuer_nonce().await;
    let secret = |id: &str| client.rehearsal.client_secret(id).unwrap().to_owned();
    let ask = async |authorization: Option<String>, form: &str| {
        let htu = client.rehearsal.token_endpoint();
        let proof = client.proof(&Client::claims("POST", &htu, None, Some(&nonce)));
        let mut request = client.token_request().header("dpop", proof);
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let got = client
            .send(request.body(Full::<Bytes>::from(form.to_owned())).unwrap())
            .await;
        got.json()["error"].as_str().unwrap_or("granted").to_owned()
    };
    let grant = "grant_type=client_credentials";
    let id = "svc-basic";
    assert_eq!(ask(Some(basic(id, &secret(id))), grant).await, "granted");
    assert_eq!(ask(Some(basic(id, "wrong")), grant).await, "invalid_client");
    use base64::Engine as _;
    let raw = format!("{id}:{}", secret(id));
    let raw = base64::engine::general_purpose::STANDARD.encode(raw);
    assert_eq!(
        ask(Some(format!("Basic {raw}")), grant).await,
        "invalid_client"
    );
    assert_eq!(ask(None, grant).await, "invalid_client");

    let post = |id: &str| {
        format!(
            "{grant}&client_id={id}&client_secret={}",
            encoded(&secret(id))
        )
    };
    assert_eq!(ask(None, &post("svc-post")).await, "granted");
    assert_eq!(ask(None, &post("svc-basic")).await, "invalid_client");
    let both = ask(Some(basic(id, &secret(id))), &post("svc-basic")).await;
    assert_eq!(both, "invalid_request");
    let twice = format!("{}&scope=a&scope=b", post("svc-post"));
    assert_eq!(ask(None, &twice).await, "invalid_request");
    let other = post("svc-post").replace("client_credentials", "password");
    assert_eq!(ask(None, &other).await, "unsupported_grant_type");
    let scope = post("svc-post") + "&scope=root";
    assert_eq!(ask(None, &scope).await, "invalid_scope");
    let resource = post("svc-post") + "&resource=https%3A%2F%2Felsewhere.test";
    assert_eq!(ask(None, &resource).await, "invalid_target");
}

#[tokio::test]
async fn a_proof_is_demanded_and_good_once() {
    let client = Client::start().await;
    let nonce = client.issuer_nonce().await;
    let htu = client.rehearsal.token_endpoint();
    let ask = async |proofs: &[String]| {
        let form = client.form("svc-pkjwt");
        let mut request = client.token_request();
        for proof in proofs {
            request = request.header("dpop", proof);
        }
        let got = client.send(request.body(Full::from(form)).unwrap()).await;
        got.json()["error"].as_str().unwrap_or("granted").to_owned()
    };
    assert_eq!(ask(&[]).await, "invalid_dpop_proof");
    let good = client.proof(&Client::claims("POST", &htu, None, Some(&nonce)));
    assert_eq!(
        ask(&[good.clone(), good.clone()]).await,
        "invalid_dpop_proof"
    );
    assert_eq!(ask(std::slice::from_ref(&good)).await, "granted");
    assert_eq!(ask(&[good]).await, "invalid_dpop_proof");
    assert_eq!(client.last_note(Service::Issuer), "jti was used before");
    let stray = client.proof(&Client::claims("POST", &htu, Some("x"), Some(&nonce)));
    assert_eq!(ask(&[stray]).await, "invalid_dpop_proof");
    client.rehearsal.expire_nonces(Service::Issuer);
    let stale = client.proof(&Client::claims("POST", &htu, None, Some(&nonce)));
    assert_eq!(ask(std::slice::from_ref(&stale)).await, "use_dpop_nonce");
    // A challenged proof is spent as well.
    assert_eq!(ask(&[stale]).await, "invalid_dpop_proof");
}

#[tokio::test]
async fn the_answer_lies_as_it_is_told() {
    let client = Client::start().await;
    let controls = client.rehearsal.controls();
    controls.issuer(|issuer| {
        issuer.nonces = NonceMode::Off;
        issuer.token_type = Some("Bearer".into());
        issuer.wrong_jkt = true;
        issuer.scope = Some("items:read root".into());
        issuer.expires_in = ExpiresIn::Said(json!("soon"));
    });
    let answer = client.ask(&client.form("svc-reader"), None).await.json();
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!(answer["scope"], "items:read root");
    assert_eq!(answer["expires_in"], "soon");
    let claims = claims_of(answer["access_token"].as_str().unwrap());
    assert_ne!(claims["cnf"]["jkt"], client.key.jwk().thumbprint());
    controls.issuer(|issuer| {
        issuer.expires_in = ExpiresIn::Omitted;
        issuer.omit_scope = true;
        issuer.duplicate_members = true;
    });
    let got = client.ask(&client.form("svc-reader"), None).await;
    let text = String::from_utf8(got.body).unwrap();
    assert_eq!(text.matches("\"access_token\":").count(), 2);
    assert!(!text.contains("expires_in") && !text.contains("\"scope\""));
    controls.reset();
    controls.issuer(|issuer| issuer.always_challenge = true);
    let first = client.ask(&client.form("svc-reader"), None).await;
    let nonce = first.header("dpop-nonce").to_owned();
    let second = client.ask(&client.form("svc-reader"), Some(&nonce)).await;
    assert_eq!(second.error(), "use_dpop_nonce");
    assert_ne!(second.header("dpop-nonce"), nonce);
}

#[tokio::test]
async fn the_key_on_offer_is_the_registered_one() {
    let client = Client::start().await;
    let pem = client.rehearsal.client_key_pem("svc-pkjwt").unwrap();
    use p256::pkcs8::DecodePrivateKey as _;
    let key = p256::ecdsa::SigningKey::from_pkcs8_pem(&pem).unwrap();
    let clients = &client.rehearsal.stage.clients;
    assert_eq!(*key.verifying_key(), clients[0].key.public());
    assert!(client.rehearsal.client_key_pem("nobody").is_err());
    assert_eq!(client.rehearsal.clients().count(), 6);
}
