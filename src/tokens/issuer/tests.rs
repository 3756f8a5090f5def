//! A scripted issuer behind the transport seam, and what a client does with it. No sockets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::HeaderName;
use serde_json::{Value, json};

use super::*;
use crate::credential::BoxFuture;
use crate::tokens::Brought;
use crate::tokens::settings::HealthSettings;
use crate::tokens::settings::{
    AssertionAudience, AssertionSource, CertificateSettings, ClientAuth, ExchangeSettings, Grant,
    OauthSettings, Platform, Presented, WorkloadSettings,
};
use crate::tokens::supply::Supply;
use crate::upstream::{IssuerError, TargetSettings};
use crate::vocab::{AgentName, Binding, ScopeSet, Secret, WallTime};

pub(in crate::tokens) const ISSUER: &str = "https://as.test";

/// A call as the issuer saw it.
#[derive(Debug, Clone)]
pub(in crate::tokens) struct Seen {
    pub(in crate::tokens) path: String,
    pub(in crate::tokens) url: String,
    pub(in crate::tokens) headers: HeaderMap,
    pub(in crate::tokens) form: BTreeMap<String, String>,
}

impl Seen {
    /// The claims of the call's proof.
    pub(in crate::tokens) fn proof(&self) -> Option<Value> {
        let proof = self.headers.get("dpop")?.to_str().unwrap();
        Some(claims(proof))
    }
}

fn claims(jws: &str) -> Value {
    let payload = jws.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

type Outcome = Result<IssuerReply, IssuerError>;
type Rule = Box<dyn Fn(&Seen) -> Outcome + Send + Sync>;

/// Answers metadata from a document, the next token requests from a list, all further ones by a rule.
pub(in crate::tokens) struct FakeIssuer {
    pub(in crate::tokens) calls: Mutex<Vec<Seen>>,
    pub(in crate::tokens) metadata: Mutex<Document>,
    pub(in crate::tokens) next: Mutex<VecDeque<Outcome>>,
    pub(in crate::tokens) rule: Mutex<Rule>,
    pub(in crate::tokens) delay: Mutex<Duration>,
}

/// A metadata answer that can be given many times.
pub(in crate::tokens) type Document = Result<(u16, Value), IssuerError>;

impl FakeIssuer {
    pub(in crate::tokens) fn new() -> Arc<Self> {
        Arc::new(Self {
            calls: Mutex::default(),
            metadata: Mutex::new(Ok((200, metadata()))),
            next: Mutex::default(),
            rule: Mutex::new(Box::new(|_| Ok(granted(&json!({}))))),
            delay: Mutex::default(),
        })
    }

    pub(in crate::tokens) fn then(&self, outcome: Outcome) {
        self.next.lock().unwrap().push_back(outcome);
    }

    pub(in crate::tokens) fn always(
        &self,
        rule: impl Fn(&Seen) -> Outcome + Send + Sync + 'static,
    ) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    pub(in crate::tokens) fn at(&self, path: &str) -> Vec<Seen> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|s| s.path == path).cloned().collect()
    }

    pub(in crate::tokens) fn tokens(&self) -> Vec<Seen> {
        self.at("/token")
    }

    fn answer(&self, seen: &Seen) -> Outcome {
        if seen.path.contains("/.well-known/") {
            let (status, body) = self.metadata.lock().unwrap().clone()?;
            return Ok(reply(status, &[], &body));
        }
        if seen.path == "/revoke" {
            return Ok(reply(200, &[], &json!({})));
        }
        let next = self.next.lock().unwrap().pop_front();
        next.unwrap_or_else(|| {
            // A rule may panic on purpose; the next call must still find it.
            let rule = self.rule.lock();
            rule.unwrap_or_else(PoisonError::into_inner)(seen)
        })
    }
}

impl Transport for FakeIssuer {
    fn send<'a>(&'a self, call: IssuerRequest<'a>) -> BoxFuture<'a, Outcome> {
        let form = call.form.map(|f| f.expose().clone()).unwrap_or_default();
        let seen = Seen {
            path: call.url.path().to_owned(),
            url: call.url.as_str().to_owned(),
            headers: call.headers,
            form: decode(&form),
        };
        self.calls.lock().unwrap().push(seen.clone());
        let delay = *self.delay.lock().unwrap();
        Box::pin(async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            self.answer(&seen)
        })
    }
}

fn decode(form: &str) -> BTreeMap<String, String> {
    let plain = |text: &str| {
        let mut out = Vec::new();
        let mut bytes = text.bytes();
        while let Some(b) = bytes.next() {
            out.push(match b {
                b'+' => b' ',
                b'%' => {
                    let hex = [bytes.next().unwrap(), bytes.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
                }
                b => b,
            });
        }
        String::from_utf8(out).unwrap()
    };
    form.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (plain(name), plain(value)))
        .collect()
}

pub(in crate::tokens) fn metadata() -> Value {
    json!({
        "issuer": ISSUER,
        "token_endpoint": "https://as.test/token",
        "revocation_endpoint": "https://as.test/revoke",
        "dpop_signing_alg_values_supported": ["ES256"],
    })
}

pub(in crate::tokens) fn reply(status: u16, headers: &[(&str, &str)], body: &Value) -> IssuerReply {
    let mut map = HeaderMap::new();
    map.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    for (name, value) in headers {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    IssuerReply {
        status,
        headers: map,
        body: Bytes::from(body.to_string()),
    }
}

pub(in crate::tokens) fn granted(more: &Value) -> IssuerReply {
    let mut body = json!({"access_token": "canary-at", "token_type": "DPoP", "expires_in": 600});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    reply(200, &[], &body)
}

pub(in crate::tokens) fn refused(status: u16, error: &str) -> IssuerReply {
    reply(
        status,
        &[],
        &json!({"error": error, "error_description": "canary-text"}),
    )
}

fn challenge(status: u16, nonce: &str) -> IssuerReply {
    reply(
        status,
        &[("dpop-nonce", nonce)],
        &json!({"error": "use_dpop_nonce"}),
    )
}

/// Notes as text.
#[derive(Default)]
pub(in crate::tokens) struct Notebook(pub(in crate::tokens) Mutex<Vec<String>>);

impl Journal for Notebook {
    fn note(&self, note: &Note<'_>) {
        self.0.lock().unwrap().push(format!("{note:?}"));
    }
}

impl Notebook {
    pub(in crate::tokens) fn count(&self, word: &str) -> usize {
        let notes = self.0.lock().unwrap();
        notes.iter().filter(|note| note.starts_with(word)).count()
    }
}

pub(in crate::tokens) fn oauth() -> OauthSettings {
    let issuer = IssuerSettings {
        url: ISSUER.into(),
        target: TargetSettings::default(),
        assertion_audience: AssertionAudience::Issuer,
    };
    OauthSettings {
        issuer: Arc::new(issuer),
        client_id: "agent-proxy".into(),
        client_auth: ClientAuth::Nothing,
        grant: Grant::ClientCredentials,
        resource: None,
        audience: None,
        parameters: Vec::new(),
        binding: Binding::Dpop,
        max_token_age: Duration::from_mins(30),
        fapi: false,
        require_rotation: false,
        revoke_on_exit: false,
        any_scopes: false,
        health: HealthSettings::default(),
    }
}

pub(in crate::tokens) struct Bench {
    pub(in crate::tokens) fake: Arc<FakeIssuer>,
    pub(in crate::tokens) client: Client,
    clock: Clock,
    pub(super) notes: Notebook,
}

impl Bench {
    pub(in crate::tokens) fn new(change: impl FnOnce(&mut OauthSettings)) -> Self {
        let mut settings = oauth();
        change(&mut settings);
        let fake = FakeIssuer::new();
        let clock = Clock::manual(WallTime(1_700_000_000_000));
        let transport: Arc<dyn Transport> = Arc::<FakeIssuer>::clone(&fake);
        let issuer = Issuer::new(Arc::clone(&settings.issuer), transport, clock.clone()).unwrap();
        let service = ServiceName::new("items").unwrap();
        Self {
            fake,
            client: Client::new(service, settings, Arc::new(issuer)).unwrap(),
            clock,
            notes: Notebook::default(),
        }
    }

    pub(super) async fn obtain(&self, scopes: &str) -> Result<Obtained, Failure> {
        let scopes = ScopeSet::parse(scopes).unwrap();
        self.client
            .obtain(&AgentName::fallback(), &scopes, &self.notes)
            .await
    }

    pub(super) async fn fails(&self, scopes: &str) -> Failure {
        self.obtain(scopes).await.err().unwrap()
    }
}

#[tokio::test]
async fn the_token_request_carries_what_is_configured_and_a_proof() {
    let bench = Bench::new(|s| {
        s.resource = Some("https://api.test".into());
        s.audience = Some("api".into());
        s.parameters = vec![("tenant".into(), "a&b".into())];
    });
    bench.fake.then(Ok(granted(
        &json!({"scope": "a b", "refresh_token": "canary-rt"}),
    )));
    let obtained = bench.obtain("b a").await.unwrap();
    assert_eq!(obtained.life, Some(Duration::from_secs(600)));
    assert_eq!(obtained.token.scopes.to_string(), "a b");
    let seen = &bench.fake.tokens()[0];
    let want = [
        ("audience", "api"),
        ("client_id", "agent-proxy"),
        ("grant_type", "client_credentials"),
        ("resource", "https://api.test"),
        ("scope", "a b"),
        ("tenant", "a&b"),
    ];
    let form: Vec<_> = seen
        .form
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    assert_eq!(form, want);
    let proof = seen.proof().unwrap();
    assert_eq!(proof["htm"], "POST");
    assert_eq!(proof["htu"], "https://as.test/token");
    assert_eq!(proof["iat"], 1_700_000_000);
    assert_eq!(proof.get("ath"), None);
    assert_eq!(proof.get("nonce"), None);
}

#[tokio::test]
async fn without_scopes_there_is_no_scope_parameter() {
    let bench = Bench::new(|_| {});
    bench.fake.then(Ok(granted(&json!({"scope": "whatever"}))));
    let obtained = bench.obtain("").await.unwrap();
    assert_eq!(obtained.token.scopes.to_string(), "whatever");
    assert!(!bench.fake.tokens()[0].form.contains_key("scope"));
}

#[tokio::test]
async fn a_nonce_is_met_once_with_a_new_proof_and_a_new_assertion() {
    for status in [400, 401] {
        let key = josekit::jws::ES256.generate_key_pair().unwrap();
        let bench = Bench::new(|s| {
            s.client_auth = ClientAuth::PrivateKeyJwt {
                key_pem: Secret::new(key.to_pem_private_key()),
                kid: None,
            };
        });
        bench.fake.then(Ok(challenge(status, "n1")));
        bench.fake.then(Ok({
            let mut ok = granted(&json!({}));
            ok.headers
                .insert("dpop-nonce", HeaderValue::from_static("n2"));
            ok
        }));
        bench.obtain("").await.unwrap();
        bench.obtain("").await.unwrap();
        let seen = bench.fake.tokens();
        let nonces: Vec<_> = seen
            .iter()
            .map(|s| s.proof().unwrap()["nonce"].clone())
            .collect();
        assert_eq!(nonces, [json!(null), json!("n1"), json!("n2")]);
        let unique = |values: Vec<Value>| {
            values
                .iter()
                .map(Value::to_string)
                .collect::<BTreeSet<_>>()
                .len()
        };
        assert_eq!(
            unique(
                seen.iter()
                    .map(|s| s.proof().unwrap()["jti"].clone())
                    .collect()
            ),
            3
        );
        let assertions = seen
            .iter()
            .map(|s| claims(&s.form["client_assertion"])["jti"].clone());
        assert_eq!(unique(assertions.collect()), 3);
        assert_eq!(bench.notes.count("NonceChallenge"), 1);
    }
}

#[tokio::test]
async fn a_nonce_loop_ends_after_one_more_try() {
    let bench = Bench::new(|_| {});
    let count = std::sync::atomic::AtomicU64::new(0);
    bench.fake.always(move |_| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        Ok(challenge(400, &format!("n{n}")))
    });
    let failure = bench.fails("").await;
    assert_eq!(
        failure,
        Failure::because(Code::AsUnavailable, "use_dpop_nonce")
    );
    assert_eq!(bench.fake.tokens().len(), 2);
}

#[tokio::test]
async fn a_challenge_without_a_new_nonce_is_not_worth_a_try() {
    let bench = Bench::new(|_| {});
    bench.fake.then(Ok(refused(400, "use_dpop_nonce")));
    bench.fails("").await;
    assert_eq!(bench.fake.tokens().len(), 1);
    bench.fake.then(Ok(challenge(400, "n1")));
    bench.fake.then(Ok(challenge(400, "n1")));
    bench.fails("").await;
    assert_eq!(bench.fake.tokens().len(), 3);
}

#[tokio::test]
async fn a_refused_proof_is_signed_again_by_the_issuers_clock_once() {
    let bench = Bench::new(|_| {});
    bench.fake.always(|seen| {
        let mut no = refused(400, "invalid_dpop_proof");
        no.headers.insert(
            header::DATE,
            HeaderValue::from_static("Tue, 14 Nov 2023 22:15:20 GMT"),
        );
        let ours = seen.proof().unwrap()["iat"].as_i64().unwrap();
        Ok(if ours < 1_700_000_100 {
            no
        } else {
            granted(&json!({}))
        })
    });
    bench.obtain("").await.unwrap();
    bench.obtain("").await.unwrap();
    assert_eq!(bench.fake.tokens().len(), 3);
    assert_eq!(bench.notes.count("ClockOffset"), 1);

    let stubborn = Bench::new(|_| {});
    stubborn
        .fake
        .always(|_| Ok(refused(400, "invalid_dpop_proof")));
    let failure = stubborn.fails("").await;
    assert_eq!(failure.oauth_error, Some("invalid_dpop_proof"));
    assert_eq!(stubborn.fake.tokens().len(), 1);
}

#[tokio::test]
async fn a_bearer_token_for_a_bound_service_is_refused_and_handed_back() {
    let bench = Bench::new(|_| {});
    bench
        .fake
        .then(Ok(granted(&json!({"token_type": "Bearer"}))));
    assert_eq!(bench.fails("").await.code, Code::DowngradeRefused);
    assert_eq!(bench.notes.count("DowngradeRefused"), 1);
    let back = &bench.fake.at("/revoke")[0];
    assert_eq!(back.form["token"], "canary-at");
    assert_eq!(back.form["token_type_hint"], "access_token");
    assert_eq!(back.form["client_id"], "agent-proxy");
    assert!(back.proof().is_none());
}

#[tokio::test]
async fn refresh_only_sends_proofs_and_lends_bearer_tokens() {
    let bench = Bench::new(|s| s.binding = Binding::RefreshOnly);
    bench
        .fake
        .then(Ok(granted(&json!({"token_type": "Bearer"}))));
    let token = bench.obtain("").await.unwrap().token;
    assert!(token.key.is_none());
    assert_eq!(token.binding, Binding::RefreshOnly);
    assert!(bench.fake.tokens()[0].proof().is_some());
}

#[tokio::test]
async fn bearer_sends_no_proof_and_takes_no_bound_token() {
    let bench = Bench::new(|s| s.binding = Binding::Bearer);
    bench
        .fake
        .then(Ok(granted(&json!({"token_type": "bearer"}))));
    assert!(bench.obtain("").await.is_ok());
    assert!(bench.fake.tokens()[0].proof().is_none());
    bench.fake.then(Ok(granted(&json!({}))));
    assert_eq!(bench.fails("").await.code, Code::ClientMisconfigured);
    bench.fake.then(Ok(challenge(400, "n1")));
    bench.fails("").await;
    assert_eq!(bench.fake.tokens().len(), 3);
}

#[tokio::test]
async fn other_scopes_than_asked_for_are_refused() {
    for granted_scopes in ["a admin", "a b admin", "a", "x"] {
        let bench = Bench::new(|_| {});
        bench
            .fake
            .then(Ok(granted(&json!({"scope": granted_scopes}))));
        assert_eq!(bench.fails("a b").await.code, Code::ScopeDenied);
        assert_eq!(bench.notes.count("ScopeChanged"), 1);
        assert_eq!(bench.fake.at("/revoke").len(), 1);
    }
}

#[tokio::test]
async fn a_token_of_another_key_is_refused() {
    let bench = Bench::new(|_| {});
    let claims = URL_SAFE_NO_PAD.encode(json!({"cnf": {"jkt": "x"}}).to_string());
    let token = format!("e30.{claims}.c2ln");
    bench
        .fake
        .then(Ok(granted(&json!({"access_token": token}))));
    assert_eq!(bench.fails("").await.code, Code::BindingMismatch);
    assert_eq!(bench.notes.count("BindingMismatch"), 1);
}

#[tokio::test]
async fn a_token_that_names_our_key_is_taken_and_each_agent_has_its_own() {
    let bench = Bench::new(|_| {});
    let mut thumbprints = BTreeSet::new();
    for agent in ["a", "b", "a"] {
        bench.fake.always(|seen| {
            let proof = seen.headers["dpop"].to_str().unwrap();
            let head = proof.split('.').next().unwrap();
            let head: Value =
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).unwrap()).unwrap();
            let jkt = crate::proof::ath(&head["jwk"].to_string());
            let claims = URL_SAFE_NO_PAD.encode(json!({"cnf": {"jkt": jkt}}).to_string());
            Ok(granted(
                &json!({"access_token": format!("e30.{claims}.c2ln")}),
            ))
        });
        let agent = AgentName::new(agent).unwrap();
        let got = bench
            .client
            .obtain(&agent, &ScopeSet::default(), &bench.notes)
            .await;
        let key = got.unwrap().token.key.unwrap();
        thumbprints.insert(crate::proof::Signer::thumbprint(key.as_ref()).to_owned());
    }
    assert_eq!(thumbprints.len(), 2);
}

#[tokio::test]
async fn transport_faults_have_codes() {
    let table = [
        (IssuerError::Unreachable, Code::AsUnavailable),
        (IssuerError::Protocol, Code::AsUnavailable),
        (IssuerError::TooLarge, Code::AsUnavailable),
        (IssuerError::Timeout, Code::AsTimeout),
        (IssuerError::Tls, Code::AsTlsError),
        (IssuerError::Address, Code::AsUnavailable),
    ];
    for (error, code) in table {
        let bench = Bench::new(|_| {});
        bench.fake.then(Err(error));
        assert_eq!(bench.fails("").await.code, code);
        let bench = Bench::new(|_| {});
        *bench.fake.metadata.lock().unwrap() = Err(error);
        assert_eq!(bench.fails("").await.code, code);
        assert!(bench.fake.tokens().is_empty());
    }
}

#[tokio::test]
async fn metadata_is_looked_for_in_order_and_read_once() {
    let bench = Bench::new(|_| {});
    *bench.fake.metadata.lock().unwrap() = Ok((404, json!({})));
    assert_eq!(bench.fails("").await.code, Code::AsMetadataInvalid);
    let urls: Vec<_> = bench
        .fake
        .calls
        .lock()
        .unwrap()
        .iter()
        .map(|s| s.url.clone())
        .collect();
    assert_eq!(
        urls,
        [
            "https://as.test/.well-known/oauth-authorization-server",
            "https://as.test/.well-known/openid-configuration",
        ]
    );
    *bench.fake.metadata.lock().unwrap() = Ok((200, metadata()));
    bench.clock.advance(Duration::from_secs(59));
    assert_eq!(bench.fails("").await.code, Code::AsMetadataInvalid);
    bench.clock.advance(Duration::from_secs(1));
    let all = [bench.obtain("a"), bench.obtain("b"), bench.obtain("c")];
    assert!(
        futures_util::future::join_all(all)
            .await
            .iter()
            .all(Result::is_ok)
    );
    let all = bench.fake.calls.lock().unwrap().len();
    assert_eq!(all - bench.fake.tokens().len(), 3);
}

#[tokio::test]
async fn a_redirect_of_metadata_or_token_endpoint_is_not_followed() {
    let bench = Bench::new(|_| {});
    bench.fake.then(Ok(reply(
        307,
        &[("location", "https://evil.test/token")],
        &json!({}),
    )));
    assert_eq!(bench.fails("").await.code, Code::AsMetadataInvalid);
    let bench = Bench::new(|_| {});
    *bench.fake.metadata.lock().unwrap() = Ok((302, json!({})));
    assert_eq!(bench.fails("").await.code, Code::AsMetadataInvalid);
    assert!(
        bench
            .fake
            .calls
            .lock()
            .unwrap()
            .iter()
            .all(|s| s.url.starts_with(ISSUER))
    );
}

#[tokio::test]
async fn an_endpoint_that_moves_gets_no_credential() {
    let bench = Bench::new(|_| {});
    bench.obtain("").await.unwrap();
    let mut moved = metadata();
    moved["token_endpoint"] = json!("https://evil.test/token");
    *bench.fake.metadata.lock().unwrap() = Ok((200, moved));
    bench.clock.advance(Duration::from_hours(1));
    assert_eq!(bench.fails("").await.code, Code::AsMetadataInvalid);
    assert_eq!(bench.notes.count("EndpointMoved"), 1);
    assert_eq!(bench.fake.tokens().len(), 1);
    *bench.fake.metadata.lock().unwrap() = Err(IssuerError::Unreachable);
    bench.clock.advance(Duration::from_mins(1));
    assert!(bench.obtain("").await.is_ok());
}

#[tokio::test]
async fn a_page_in_place_of_metadata_ends_nothing_that_was_known() {
    let bench = Bench::new(|_| {});
    bench.obtain("").await.unwrap();
    *bench.fake.metadata.lock().unwrap() = Ok((200, json!("a page")));
    bench.clock.advance(Duration::from_hours(1));
    let before = bench.fake.calls.lock().unwrap().len();
    bench.obtain("").await.unwrap();
    bench.obtain("").await.unwrap();
    let after = bench.fake.calls.lock().unwrap().len();
    assert_eq!(after - before, 2 + 2, "looked for once, in both places");
}

#[tokio::test]
async fn an_issuer_does_not_lead_to_another_one() {
    let bench = Bench::new(|_| {});
    let at = |text: &str| Address::parse(text).unwrap().authority().clone();
    let introduce = |others: &[&str]| {
        let all: Vec<_> = others
            .iter()
            .map(|text| at(text))
            .chain([at(ISSUER)])
            .collect();
        bench.client.issuer().introduce(&all);
    };
    let mut document = metadata();
    document["token_endpoint"] = json!("https://tokens.honest.test/token");
    *bench.fake.metadata.lock().unwrap() = Ok((200, document));
    introduce(&["https://tokens.honest.test/"]);
    assert_eq!(bench.fails("").await.code, Code::AsMetadataInvalid);
    assert!(bench.fake.tokens().is_empty());
    // Once that is mended it is as if it had never been.
    let astray = bench.fake.metadata.lock().unwrap().clone();
    *bench.fake.metadata.lock().unwrap() = Ok((200, metadata()));
    bench.clock.advance(Duration::from_mins(1));
    bench.obtain("").await.unwrap();
    // An endpoint on a host of its own is usual where nobody else is configured there.
    let bench = Bench::new(|_| {});
    *bench.fake.metadata.lock().unwrap() = astray;
    let introduce = |others: &[&str]| {
        let all: Vec<_> = others.iter().map(|text| at(text)).collect();
        bench.client.issuer().introduce(&all);
    };
    introduce(&["https://honest.test", "https://tokens.honest.test:8443"]);
    bench.obtain("").await.unwrap();
    // A reload that configures another issuer there ends it, also for metadata that is known already.
    introduce(&["https://tokens.honest.test"]);
    assert_eq!(bench.fails("").await.code, Code::AsMetadataInvalid);
}

#[tokio::test]
async fn an_issuer_without_our_algorithm_gets_no_request() {
    let bench = Bench::new(|_| {});
    let mut other = metadata();
    other["dpop_signing_alg_values_supported"] = json!(["EdDSA"]);
    *bench.fake.metadata.lock().unwrap() = Ok((200, other));
    assert_eq!(bench.fails("").await.code, Code::UnsupportedDpopAlg);
    assert!(bench.fake.tokens().is_empty());
}

#[tokio::test]
async fn dpop_that_vanishes_from_metadata_does_not_vanish_from_us() {
    let bench = Bench::new(|_| {});
    bench.obtain("").await.unwrap();
    let mut silent = metadata();
    silent
        .as_object_mut()
        .unwrap()
        .remove("dpop_signing_alg_values_supported");
    *bench.fake.metadata.lock().unwrap() = Ok((200, silent));
    bench.clock.advance(Duration::from_hours(1));
    assert_eq!(bench.fails("").await.code, Code::UnsupportedDpopAlg);
}

/// An operator who mends the issuer does not wait for an hour.
#[tokio::test]
async fn metadata_that_does_not_serve_is_read_again_after_a_minute() {
    let reads = |bench: &Bench| {
        let all = bench.fake.calls.lock().unwrap();
        all.iter().filter(|s| s.path.contains("known")).count()
    };
    let bench = Bench::new(|_| {});
    let mut without = metadata();
    without["dpop_signing_alg_values_supported"] = json!([]);
    *bench.fake.metadata.lock().unwrap() = Ok((200, without));
    for _ in 0..3 {
        assert_eq!(bench.fails("").await.code, Code::UnsupportedDpopAlg);
    }
    *bench.fake.metadata.lock().unwrap() = Ok((200, metadata()));
    bench.clock.advance(Duration::from_secs(59));
    assert_eq!(bench.fails("").await.code, Code::UnsupportedDpopAlg);
    assert_eq!(reads(&bench), 1);
    bench.clock.advance(Duration::from_secs(1));
    bench.obtain("").await.unwrap();
    assert_eq!(reads(&bench), 2);

    // Its token endpoint goes to another path.
    bench.fake.then(Ok(reply(404, &[], &json!({}))));
    bench.fails("").await;
    let mut moved = metadata();
    moved["token_endpoint"] = json!("https://as.test/v2/token");
    *bench.fake.metadata.lock().unwrap() = Ok((200, moved));
    bench.clock.advance(Duration::from_mins(1));
    bench.obtain("").await.unwrap();
    assert_eq!(bench.fake.at("/v2/token").len(), 1);
    bench.clock.advance(Duration::from_mins(1));
    bench.obtain("").await.unwrap();
    assert_eq!(reads(&bench), 3, "nobody had a reason");
}

#[tokio::test]
async fn an_issuer_is_https_without_query() {
    for url in [
        "http://as.test",
        "https://as.test?x",
        "https://as.test/#f",
        "as.test",
    ] {
        let settings = IssuerSettings {
            url: url.into(),
            ..(*oauth().issuer).clone()
        };
        let transport: Arc<dyn Transport> = FakeIssuer::new();
        let clock = Clock::manual(WallTime(0));
        assert!(
            Issuer::new(Arc::new(settings), transport, clock).is_err(),
            "{url}"
        );
    }
}

#[tokio::test]
async fn at_most_eight_requests_at_a_time() {
    let bench = Bench::new(|_| {});
    bench.obtain("").await.unwrap();
    *bench.fake.delay.lock().unwrap() = Duration::from_millis(50);
    let scopes: Vec<String> = (0..20).map(|i| format!("s{i}")).collect();
    let all = futures_util::future::join_all(scopes.iter().map(|s| bench.obtain(s)));
    let counted = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        bench.fake.tokens().len()
    };
    let (results, under_way) = tokio::join!(all, counted);
    assert_eq!(under_way, 1 + 8);
    assert!(results.iter().all(Result::is_ok));
}

fn supply(text: &str) -> Supply {
    let text = text.to_owned();
    Supply::new(&text.clone(), move || {
        Some(Secret::new(text.clone().into_bytes()))
    })
}

fn jwt(claims: &Value) -> String {
    format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

/// A secret that a test replaces.
fn changing(first: &str) -> (Arc<Mutex<String>>, Supply) {
    let text = Arc::new(Mutex::new(first.to_owned()));
    let read = Arc::clone(&text);
    let supply = Supply::new("file", move || {
        Some(Secret::new(read.lock().unwrap().clone().into_bytes()))
    });
    (text, supply)
}

const TYPE: &str = "urn:ietf:params:oauth:token-type:";

#[tokio::test]
async fn an_assertion_is_read_for_each_request_and_a_dead_one_is_not_shown() {
    let (file, assertion) = changing(&jwt(&json!({"exp": 1_700_000_100, "n": 1})));
    let bench = Bench::new(|s| s.grant = Grant::JwtBearer(AssertionSource::Found(assertion)));
    bench.obtain("a").await.unwrap();
    *file.lock().unwrap() = jwt(&json!({"exp": 1_700_000_200, "n": 2}));
    bench.obtain("a").await.unwrap();
    let seen = bench.fake.tokens();
    assert_eq!(
        seen[0].form["grant_type"],
        "urn:ietf:params:oauth:grant-type:jwt-bearer"
    );
    assert_eq!(seen[0].form["scope"], "a");
    assert_eq!(claims(&seen[0].form["assertion"])["n"], 1);
    assert_eq!(claims(&seen[1].form["assertion"])["n"], 2);
    assert!(seen.iter().all(|seen| seen.proof().is_some()));
    for dead in [
        jwt(&json!({"exp": 1_700_000_000})),
        String::new(),
        "a b".to_owned(),
    ] {
        *file.lock().unwrap() = dead;
        assert_eq!(bench.fails("a").await.code, Code::IdentityUnavailable);
    }
    assert_eq!(bench.fake.tokens().len(), 2);
}

#[tokio::test]
async fn an_assertion_of_our_own_is_new_each_time() {
    let key = josekit::jws::ES256.generate_key_pair().unwrap();
    let pem = String::from_utf8(key.to_pem_private_key()).unwrap();
    let bench = Bench::new(|s| {
        s.grant = Grant::JwtBearer(AssertionSource::Signed {
            key: supply(&pem),
            kid: Some("k1".into()),
            issuer: None,
            subject: "alice".into(),
        });
    });
    bench.obtain("a").await.unwrap();
    bench.obtain("a").await.unwrap();
    let seen = bench.fake.tokens();
    let (one, two) = (
        claims(&seen[0].form["assertion"]),
        claims(&seen[1].form["assertion"]),
    );
    assert_eq!(
        (&one["iss"], &one["sub"], &one["aud"]),
        (&json!("agent-proxy"), &json!("alice"), &json!(ISSUER))
    );
    assert_eq!(one["exp"], 1_700_000_060);
    assert_ne!(one["jti"], two["jti"]);

    // Also where the same request is sent again: issuers keep the `jti` of what they refused for want of a nonce.
    bench.fake.then(Ok(challenge(400, "n1")));
    bench.obtain("a").await.unwrap();
    let seen = bench.fake.tokens();
    let jti = |at: usize| claims(&seen[at].form["assertion"])["jti"].clone();
    assert_eq!(seen.len(), 4);
    assert_ne!(jti(2), jti(3));
}

#[tokio::test]
async fn an_exchange_shows_both_tokens_and_tells_who_acts() {
    let alice = jwt(&json!({"sub": "alice", "exp": 1_700_000_100}));
    let robot = jwt(&json!({"sub": "robot", "exp": 1_700_000_100}));
    let presented = |token: &str| Presented {
        token: supply(token),
        kind: format!("{TYPE}jwt"),
    };
    let bench = Bench::new(|s| {
        s.grant = Grant::TokenExchange(Box::new(ExchangeSettings {
            subject: presented(&alice),
            actor: Some(presented(&robot)),
            requested: Some(format!("{TYPE}access_token")),
        }));
    });
    let kind = json!({"issued_token_type": format!("{TYPE}access_token")});
    bench.fake.then(Ok(granted(&kind)));
    bench.obtain("a").await.unwrap();
    let form = &bench.fake.tokens()[0].form;
    assert_eq!(
        form["grant_type"],
        "urn:ietf:params:oauth:grant-type:token-exchange"
    );
    assert_eq!(
        (&form["subject_token"], &form["actor_token"]),
        (&alice, &robot)
    );
    assert_eq!(form["subject_token_type"], format!("{TYPE}jwt"));
    assert_eq!(form["requested_token_type"], format!("{TYPE}access_token"));
    let notes = bench.notes.0.lock().unwrap().join("\n");
    assert!(notes.contains(r#"chain: ["alice", "robot"]"#), "{notes}");
    assert!(!notes.contains(&alice));

    bench.fake.then(Ok(granted(&json!({}))));
    assert_eq!(bench.fails("a").await.code, Code::ClientMisconfigured);
    assert_eq!(
        bench.fake.at("/revoke").len(),
        1,
        "what is not understood is handed back"
    );
}

#[tokio::test]
async fn a_platforms_token_is_read_again_and_looked_at() {
    let table = [
        (Platform::Kubernetes, "jwt-bearer"),
        (Platform::Spiffe, "jwt-spiffe"),
        (Platform::SpiffePlain, "jwt-bearer"),
    ];
    for (platform, kind) in table {
        let good = |n: u32| {
            jwt(&json!({"aud": [ISSUER], "exp": 1_700_000_100, "sub": "spiffe://x.test/y", "n": n}))
        };
        let (file, token) = changing(&good(1));
        let bench = Bench::new(|s| {
            s.client_auth = ClientAuth::Workload(WorkloadSettings {
                token,
                audience: None,
                platform,
            });
        });
        bench.obtain("a").await.unwrap();
        *file.lock().unwrap() = good(2);
        bench.obtain("a").await.unwrap();
        let seen = bench.fake.tokens();
        let urn = format!("urn:ietf:params:oauth:client-assertion-type:{kind}");
        for (n, seen) in (1..).zip(&seen) {
            assert_eq!(seen.form["client_assertion_type"], urn);
            assert_eq!(seen.form["client_id"], "agent-proxy");
            assert_eq!(claims(&seen.form["client_assertion"])["n"], n);
        }
        for claims in [
            json!({"aud": [ISSUER], "exp": 1_700_000_000, "sub": "spiffe://x.test/y"}),
            json!({"aud": ["https://other.test"], "exp": 1_700_000_100, "sub": "spiffe://x.test/y"}),
        ] {
            *file.lock().unwrap() = jwt(&claims);
            assert_eq!(
                bench.fails("a").await.code,
                Code::IdentityUnavailable,
                "{claims}"
            );
        }
        assert_eq!(
            bench.fake.tokens().len(),
            2,
            "a token that is unfit is shown to nobody"
        );
    }
}

fn pair() -> (String, String) {
    lasting((2023, 11, 14), (2023, 11, 15))
}

fn lasting(from: (i32, u8, u8), until: (i32, u8, u8)) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["client.test".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
    params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// The clock stands at 2023-11-14T22:13:20Z; the certificates end with that day.
#[tokio::test]
async fn a_bound_token_ends_with_its_certificate_and_a_new_one_takes_over() {
    let (one, two) = (pair(), pair());
    let (cert_file, cert) = changing(&one.0);
    let (key_file, key) = changing(&one.1);
    let bench = Bench::new(|s| {
        s.binding = Binding::Mtls;
        s.client_auth = ClientAuth::Mtls(CertificateSettings { cert, key });
    });
    let mut document = metadata();
    document["mtls_endpoint_aliases"] = json!({"token_endpoint": "https://mtls.as.test/alias"});
    document["tls_client_certificate_bound_access_tokens"] = json!(true);
    *bench.fake.metadata.lock().unwrap() = Ok((200, document));
    bench.fake.always(|_| {
        Ok(granted(
            &json!({"token_type": "Bearer", "expires_in": 86400}),
        ))
    });
    let first = bench.obtain("a").await.unwrap();
    let seen = &bench.fake.at("/alias")[0];
    assert_eq!(seen.form["client_id"], "agent-proxy");
    assert!(seen.proof().is_none() && !seen.form.contains_key("client_secret"));
    let shown = first.token.certificate.unwrap();
    assert_eq!(first.cap, Duration::from_mins(30));

    // Half a replacement is none.
    cert_file.lock().unwrap().clone_from(&two.0);
    let between = bench.obtain("a").await.unwrap().token.certificate.unwrap();
    assert_eq!(between, shown);
    key_file.lock().unwrap().clone_from(&two.1);
    let after = bench.obtain("a").await.unwrap().token.certificate.unwrap();
    assert_ne!(after.thumbprint(), shown.thumbprint());

    bench.clock.advance(Duration::from_secs(6_300));
    let late = bench.obtain("a").await.unwrap();
    assert!(late.cap < Duration::from_secs(100), "{:?}", late.cap);
    bench.clock.advance(Duration::from_secs(100));
    let calls = bench.fake.at("/alias").len();
    assert_eq!(bench.fails("a").await.code, Code::IdentityUnavailable);
    assert_eq!(
        bench.fake.at("/alias").len(),
        calls,
        "an expired certificate is not shown"
    );
}

#[tokio::test]
async fn a_certificate_whose_time_is_not_now_replaces_none_that_is_good() {
    let one = pair();
    let (cert_file, cert) = changing(&one.0);
    let (key_file, key) = changing(&one.1);
    let bench = Bench::new(|s| {
        s.binding = Binding::Mtls;
        s.client_auth = ClientAuth::Mtls(CertificateSettings { cert, key });
    });
    let mut document = metadata();
    document["tls_client_certificate_bound_access_tokens"] = json!(true);
    *bench.fake.metadata.lock().unwrap() = Ok((200, document));
    bench
        .fake
        .always(|_| Ok(granted(&json!({"token_type": "Bearer"}))));
    let shown = async || {
        let certificate = bench.obtain("a").await.unwrap().token.certificate;
        certificate.unwrap().thumbprint().to_owned()
    };
    let first = shown().await;
    let put = |pair: &(String, String)| {
        cert_file.lock().unwrap().clone_from(&pair.0);
        key_file.lock().unwrap().clone_from(&pair.1);
    };
    let (over, to_come) = (
        lasting((2023, 11, 1), (2023, 11, 2)),
        lasting((2023, 11, 15), (2023, 11, 16)),
    );
    for untimely in [&over, &to_come] {
        put(untimely);
        assert_eq!(shown().await, first);
    }
    // When its time has come it is taken, without anybody touching the files again.
    bench.clock.advance(Duration::from_secs(2 * 3600));
    assert_ne!(shown().await, first);
}

/// The key may come of a command that asks somebody: every ten seconds would be too often.
#[tokio::test]
async fn the_key_is_read_when_the_certificate_is_another_one() {
    let (one, two) = (pair(), pair());
    let (file, cert) = changing(&one.0);
    let reads = Arc::new(Mutex::new(0));
    let (counted, pairs) = (Arc::clone(&reads), [one.1.clone(), two.1.clone()]);
    let key = Supply::new("exec", move || {
        let mut count = counted.lock().unwrap();
        *count += 1;
        Some(Secret::new(pairs[*count - 1].clone().into_bytes()))
    });
    let settings = CertificateSettings { cert, key };
    let clock = Clock::manual(WallTime(1_700_000_000_000));
    let identity = crate::tokens::identity::Identity::new(settings, clock).unwrap();
    let first = identity.current();
    identity.refresh().await;
    identity.refresh().await;
    assert_eq!(
        (identity.current(), *reads.lock().unwrap()),
        (first.clone(), 1)
    );
    file.lock().unwrap().clone_from(&two.0);
    identity.refresh().await;
    assert_ne!(identity.current(), first);
    assert_eq!(*reads.lock().unwrap(), 2);
}

/// What a login brought.
pub(in crate::tokens) fn answered() -> Answered {
    Answered::Code(Brought {
        code: Secret::new("code".into()),
        verifier: Secret::new("verifier".into()),
        redirect_uri: "http://127.0.0.1:1/callback".into(),
    })
}
