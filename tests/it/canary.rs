//! Nothing that is secret turns up where agents or operators read: not in answers, logs, metrics, audit or public files,
//! raw or encoded. The real binary, with every log line of every library.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use http::Method;
use tokenward::rehearsal::{
    Call, Caller, CallerError, ChallengeForm, ClientMethod, Failure, Registration, Service,
    TokenKind,
};

use crate::kit::{API, Auth, Credential, KEYS, PLAIN, Served, Setup, Svc, agent_token, speak};

/// A secret as it could stand in a text.
struct Canary {
    name: String,
    forms: Vec<String>,
    /// Agents have their own proxy token; nobody else does.
    agents_own: bool,
}

/// Bytes as characters of the same number: searching texts is fast, and this holds for any bytes.
fn wide(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

impl Canary {
    fn new(name: &str, secret: &[u8]) -> Self {
        assert!(secret.len() >= 16, "{name} is too short to be looked for");
        let hex: String = secret.iter().map(|b| format!("{b:02x}")).collect();
        let mut forms = vec![wide(secret), hex.to_uppercase(), hex];
        let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        for space in ["%20", "+"] {
            let escape = |&b: &u8| match b {
                b' ' => space.to_owned(),
                b if keep(b) => char::from(b).to_string(),
                b => format!("%{b:02X}"),
            };
            let percent: String = secret.iter().map(escape).collect();
            forms.push(lower_escapes(&percent));
            forms.push(percent);
        }
        if let Ok(text) = std::str::from_utf8(secret) {
            let json = serde_json::to_string(&text).unwrap();
            forms.push(json.trim_matches('"').to_owned());
        }
        // Base64 of a text that holds the secret, wherever it begins: the groups that do not depend on what is around.
        for offset in 0..3 {
            let shifted = [&vec![0; offset][..], secret].concat();
            let first = if offset == 0 { 0 } else { 4 };
            let last = shifted.len() / 3 * 4;
            for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                forms.push(engine.encode(&shifted)[first..last].to_owned());
            }
        }
        forms.sort();
        forms.dedup();
        Self {
            name: name.to_owned(),
            forms,
            agents_own: false,
        }
    }

    fn stands_in(&self, text: &str) -> bool {
        self.forms.iter().any(|form| text.contains(form))
    }
}

/// `%3A` as `%3a`, all else as it is.
fn lower_escapes(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        out += &format!("%{}{rest}", digits.to_lowercase());
    }
    out
}

#[test]
fn a_canary_is_found_in_every_coding() {
    let canary = Canary::new("x", b"s:%+ \"&=0123456789abcdef");
    for text in [
        "a s:%+ \"&=0123456789abcdef z".to_owned(),
        STANDARD_NO_PAD.encode("user:s:%+ \"&=0123456789abcdef"),
        STANDARD_NO_PAD.encode("s:%+ \"&=0123456789abcdef, and more"),
        URL_SAFE_NO_PAD.encode("us:s:%+ \"&=0123456789abcdef!"),
        "s%3A%25%2B%20%22%26%3D0123456789abcdef".to_owned(),
        "s%3a%25%2b+%22%26%3d0123456789abcdef".to_owned(),
        serde_json::to_string("s:%+ \"&=0123456789abcdef").unwrap(),
    ] {
        assert!(canary.stands_in(&text), "{text}");
    }
    assert!(!canary.stands_in("s:%+ \"&=0123456789abcde_"));
}

/// The base64 lines of a PEM file, one canary.
fn pem(name: &str, text: &str) -> Canary {
    let body: String = text.lines().filter(|l| !l.starts_with("-----")).collect();
    let mut canary = Canary::new(name, body.as_bytes());
    // Broken into lines as it stands in the file, and decoded.
    canary
        .forms
        .extend(text.lines().filter(|l| l.len() == 64).map(str::to_owned));
    let der = base64::engine::general_purpose::STANDARD
        .decode(&body)
        .unwrap();
    canary.forms.extend(Canary::new(name, &der).forms);
    canary
}

/// Everything that agents got.
#[derive(Default)]
struct Got(Vec<u8>);

impl Got {
    async fn call(&mut self, agent: &Caller, host: &str, h2: bool, call: Call) {
        let text = match agent.call(host, 443, h2, call).await {
            Ok(answer) => format!(
                "{:?} {:?}\n{}\n",
                answer.headers,
                answer.trailers,
                answer.text()
            ),
            Err(CallerError::Refused(answer)) => {
                format!("{:?}\n{}\n", answer.headers, answer.text())
            }
            Err(error) => format!("{error}\n"),
        };
        self.0.extend(text.into_bytes());
    }
}

/// Good days and bad ones.
async fn load(served: &Served, got: &mut Got) {
    let agent = served.agent().named("coder", &agent_token("coder"));
    let controls = served.rehearsal.controls();
    let placeholder = served.variable("coder", "ITEMS_TOKEN");
    let with = |call: Call| call.field("authorization", &format!("Bearer {placeholder}"));
    for h2 in [false, true] {
        for host in [API, KEYS, PLAIN, "basic.rehearsal.test", "other.test"] {
            got.call(&agent, host, h2, with(Call::get("/v1/items?page=2")))
                .await;
            got.call(&agent, host, h2, Call::get("/v2/nothing")).await;
            got.call(&agent, host, h2, Call::get("/v1/status/401"))
                .await;
            got.call(&agent, host, h2, Call::get("/v1/redirect?to=/v1/items"))
                .await;
            let post = Call::new(Method::POST, "/v1/items").bytes("{\"a\":1}");
            got.call(&agent, host, h2, with(post)).await;
            got.call(&agent, host, h2, Call::get("/v1/stream?n=3&ms=1"))
                .await;
        }
        // An API in every bad mood.
        served.rehearsal.expire_nonces(Service::Api);
        got.call(&agent, API, h2, Call::get("/v1/items")).await;
        let large = Call::new(Method::POST, "/v1/upload").bytes(vec![b'x'; 100_000]);
        served.rehearsal.expire_nonces(Service::Api);
        got.call(&agent, API, h2, large).await;
        controls.api(|api| api.reject_proofs = true);
        got.call(&agent, API, h2, Call::get("/v1/items")).await;
        controls.reset();
        controls.api(|api| api.always_challenge = true);
        got.call(&agent, API, h2, Call::get("/v1/items")).await;
        controls.reset();
        for failure in [
            Failure::DropAfterHead,
            Failure::DropBeforeAnswer,
            Failure::Html {
                status: 500,
                canary: "x".into(),
            },
        ] {
            controls.fail(Service::Api, 1, failure);
            got.call(
                &agent,
                API,
                h2,
                Call::new(Method::POST, "/v1/items").bytes("{}"),
            )
            .await;
        }
    }
    // Last, for after it the API's refusals are not believed for a while.
    served.rehearsal.revoke_tokens();
    got.call(&agent, API, true, Call::get("/v1/items")).await;
    controls.api(|api| {
        api.challenge = ChallengeForm::BearerOnly;
        api.reject_proofs = true;
    });
    got.call(&agent, API, true, Call::get("/v1/items")).await;
    controls.reset();
    // An issuer in every bad mood; each scope set is a new token request.
    let scopes = ["a", "b", "c", "d", "e"];
    for (i, scope) in scopes.iter().enumerate() {
        match i {
            0 => controls.issuer(|s| s.token_type = Some("Bearer".into())),
            1 => controls.issuer(|s| s.wrong_jkt = true),
            2 => controls.issuer(|s| s.duplicate_members = true),
            3 => controls.fail_path(
                Service::Issuer,
                "/token",
                1,
                Failure::OAuth {
                    status: 401,
                    error: "invalid_client".into(),
                },
            ),
            _ => served.rehearsal.take_down(Service::Issuer).await,
        }
        got.call(&agent, API, true, Call::get(&format!("/v1/items/{scope}")))
            .await;
        controls.reset();
    }
}

fn everything_below(folder: &Path, found: &mut Vec<u8>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            everything_below(&path, found);
        } else {
            found.extend(fs::read(&path).unwrap());
        }
    }
}

fn setup() -> Setup {
    let scopes = ["read", "write", "a", "b", "c", "d", "e"];
    let client = Registration {
        id: "svc-canary".into(),
        method: ClientMethod::PrivateKeyJwt,
        kind: TokenKind::Dpop,
        scopes: scopes.iter().map(|s| format!("items:{s}")).collect(),
    };
    let oauth = Credential::oauth("svc-canary", Auth::PrivateKeyJwt, "dpop");
    let mut items = Svc::items().with(oauth);
    // Further scope sets, for further token requests.
    for scope in ["a", "b", "c", "d", "e"] {
        items.rules.push(format!(
            "{{allow: \"GET /v1/items/{scope}\", scopes: [\"items:{scope}\"]}}"
        ));
    }
    let mut basic = Svc::plain().with(Credential::oauth("svc-bearer", Auth::Basic, "bearer"));
    basic.name = "basic";
    basic.host = "basic.rehearsal.test".into();
    basic.more.clear();
    let mut setup = Setup::of([items, Svc::keys(), Svc::plain(), basic]);
    setup.options.clients.push(client);
    setup.agents = vec![("coder", "items, keys, plain, basic")];
    setup
        .options
        .static_names
        .push("basic.rehearsal.test".into());
    setup
}

fn canaries(served: &Served) -> Vec<Canary> {
    let rehearsal = &served.rehearsal;
    let mut all = vec![
        Canary::new("the API key", rehearsal.api_key().as_bytes()),
        Canary::new("the fixed bearer token", rehearsal.bearer_key().as_bytes()),
        Canary::new(
            "the client secret",
            rehearsal.client_secret("svc-bearer").unwrap().as_bytes(),
        ),
        pem(
            "the client key",
            &rehearsal.client_key_pem("svc-canary").unwrap(),
        ),
        pem("the CA key", &served.file("ca/ca.key")),
        Canary::new(
            "the instance key",
            &fs::read(served.folder.path().join("ca/instance.key")).unwrap(),
        ),
    ];
    let mut token = Canary::new("the proxy token", agent_token("coder").as_bytes());
    token.agents_own = true;
    all.push(token);
    for seen in rehearsal.seen() {
        for (name, value) in seen
            .headers
            .iter()
            .filter(|(n, _)| n == "authorization" || n == "dpop")
        {
            let token = value.rsplit(' ').next().unwrap();
            all.push(Canary::new(
                &format!("{name} of {} {}", seen.method, seen.path),
                token.as_bytes(),
            ));
            // A part of a token is a part too many.
            if let Some((_, signature)) = token.rsplit_once('.') {
                all.push(Canary::new(
                    &format!("the signature of {name}"),
                    signature.as_bytes(),
                ));
            }
        }
        let assertion = seen
            .form
            .iter()
            .find(|(name, _)| name == "client_assertion");
        all.extend(assertion.map(|(_, value)| Canary::new("a client assertion", value.as_bytes())));
    }
    all.sort_by(|a, b| a.forms.cmp(&b.forms));
    all.dedup_by(|a, b| a.forms == b.forms);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_turns_up_anywhere() {
    let mut served = Served::start(setup(), "trace").await;
    let mut got = Got::default();
    load(&served, &mut got).await;
    let metrics = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let metrics = speak(served.health, metrics).await.0;
    assert!(served.terminate().await.success());
    let mut public = Vec::new();
    everything_below(&served.folder.path().join("run"), &mut public);
    let places = [
        ("what agents got", got.0),
        ("the log", served.file("stderr.txt").into_bytes()),
        ("standard output", served.file("stdout.txt").into_bytes()),
        ("the audit file", served.file("audit.jsonl").into_bytes()),
        ("the metrics", metrics),
        ("the runtime directory", public),
    ];
    let places = places.map(|(place, bytes)| (place, wide(&bytes)));
    let canaries = canaries(&served);
    assert!(canaries.len() > 50, "{}", canaries.len());
    assert!(
        places[1].1.len() > 100_000,
        "the log is too short to be everything"
    );
    let mut leaks = Vec::new();
    for canary in &canaries {
        for (place, text) in &places {
            let own = canary.agents_own && *place == "the runtime directory";
            if !own && canary.stands_in(text) {
                leaks.push(format!("{} in {place}", canary.name));
            }
        }
    }
    // The load was what it should be.
    for code in [
        "as-unavailable",
        "binding-mismatch",
        "client-misconfigured",
        "destination-denied",
        "downgrade-refused",
        "dpop-nonce-loop",
        "dpop-nonce-retry",
        "dpop-proof-rejected",
        "policy-denied",
        "upstream-rejected-credential",
        "upstream-unauthorized",
        "upstream-unreachable",
    ] {
        assert!(places[0].1.contains(code), "{code}");
    }
    let log = &places[1].1;
    for library in ["\"target\":\"h2", "\"target\":\"rustls"] {
        assert!(log.contains(library), "{library}");
    }
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
}
