//! What is never carried, and that nobody outside hears of it.

use http::{Method, Request};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokenward::rehearsal::{Alpn, Answer, Call, CallerError, Service};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::kit::{
    API, Credential, House, KEYS, Setup, Svc, ask, exchange, read_head, refused, speak,
};

fn nobody_heard(house: &House) {
    let seen = house.rehearsal.seen();
    assert!(seen.is_empty(), "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_rule_allows_is_refused_in_silence() {
    let house = House::start().await;
    for h2 in [false, true] {
        let calls = [
            Call::get("/v2/items"),
            Call::get("/v1"),
            Call::get("/v1/itemsadmin/x"),
            Call::get("/V1/items"),
            Call::new(Method::DELETE, "/v1/items/1"),
            Call::new(Method::from_bytes(b"get").unwrap(), "/v1/items"),
            Call::new(Method::from_bytes(b"PURGE").unwrap(), "/v1/items"),
            Call::new(Method::POST, "/v1/items/1").bytes("{}"),
        ];
        for call in calls {
            refused(&house.ask(h2, call).await, 403, "policy-denied");
        }
    }
    nobody_heard(&house);
    for line in house.end().await.requests() {
        assert_eq!(
            (&line["code"], &line["fault"]),
            (&"policy-denied".into(), &"agent".into())
        );
        assert_eq!(line["service"], "items");
        assert_eq!(line.get("attempts"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deny_rule_wins() {
    let house = House::start().await;
    for path in [
        "/v1/items/1/secrets",
        "/v1/items/1/%73ecrets",
        "/v1/items/1/secrets?x=/v1/items",
    ] {
        let answer = house.get(path).await;
        refused(&answer, 403, "policy-denied");
        let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(document["rule"], "deny * /v1/items/*/secrets");
    }
    nobody_heard(&house);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_of_nobody_is_refused_at_the_door() {
    let house = House::start().await;
    let agent = house.agent();
    for (host, port) in [
        ("other.rehearsal.test", 443),
        ("sub.api.rehearsal.test", 443),
        ("issuer.rehearsal.test", 443),
        (API, 8443),
        (API, 80),
        ("127.0.0.1", house.rehearsal.api_addr().port()),
    ] {
        let Err(CallerError::Refused(answer)) = agent.open(host, port, true).await else {
            panic!("{host}:{port} was let in");
        };
        let code = answer.code().unwrap();
        assert_eq!(answer.status, 403, "{host}:{port}");
        assert!(
            matches!(code.as_str(), "destination-denied" | "tls-required"),
            "{host}:{port} {code}"
        );
    }
    nobody_heard(&house);
    let metrics = house.metrics().await;
    assert!(
        metrics.contains("tokenward_leaf_certificates_total{result=\"minted\"} 0"),
        "{metrics}"
    );
    assert_eq!(house.end().await.requests().len(), 6);
}

/// Requests inside a tunnel that name something else than the tunnel's host.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_must_name_the_host_of_its_tunnel() {
    let house = House::start().await;
    let head = |first: &str, fields: &str| {
        format!("{first} HTTP/1.1\r\n{fields}connection: close\r\n\r\n")
    };
    let own = format!("host: {API}\r\n");
    let table = [
        (
            head("GET /v1/items", &format!("host: {KEYS}\r\n")),
            421,
            "authority-mismatch",
        ),
        (
            head("GET /v1/items", &format!("host: {API}:8443\r\n")),
            421,
            "authority-mismatch",
        ),
        (
            head(&format!("GET https://{KEYS}/v1/items"), &own),
            421,
            "authority-mismatch",
        ),
        (
            head(
                &format!("GET https://{API}/v1/items"),
                &format!("host: {KEYS}\r\n"),
            ),
            421,
            "authority-mismatch",
        ),
        (
            head(&format!("GET http://{API}/v1/items"), &own),
            400,
            "bad-request",
        ),
        (head("GET /v1/items", ""), 400, "bad-request"),
        (
            head("GET /v1/items", &format!("{own}{own}")),
            400,
            "bad-request",
        ),
        (
            head("GET /v1/items", &format!("host: {API}, {KEYS}\r\n")),
            400,
            "bad-request",
        ),
        (
            head("GET /v1/items", &format!("host: {KEYS}@{API}\r\n")),
            400,
            "bad-request",
        ),
    ];
    for (bytes, status, code) in &table {
        let answer = house.speak_inside(API, bytes).await;
        assert_eq!(
            (answer.status(), answer.code().as_str()),
            (*status, *code),
            "{bytes}"
        );
    }
    nobody_heard(&house);
    // And the other way round: what means the same is the same.
    for named in [
        format!("host: {API}:443\r\n"),
        "host: API.Rehearsal.Test.\r\n".into(),
    ] {
        let answer = house
            .speak_inside(API, &head("GET /v1/items", &named))
            .await;
        assert_eq!(answer.status(), 200, "{named}");
    }
    assert!(house.at_api().iter().all(|s| s.authority == API));
    house.end().await;
}

async fn over_h2(house: &House, uri: &str, host: Option<&str>) -> Answer {
    let tunnel = house.tunnel(API).await;
    let tls = house.handshake(tunnel, API, "h2").await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut request = Request::get(uri);
    if let Some(host) = host {
        request = request.header("host", host);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
    Answer::read(sender.send_request(request).await.unwrap())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_request_must_name_the_host_of_its_tunnel() {
    let house = House::start().await;
    let good = format!("https://{API}/v1/items");
    refused(
        &over_h2(&house, &format!("https://{KEYS}/v1/items"), None).await,
        421,
        "authority-mismatch",
    );
    refused(
        &over_h2(&house, &format!("https://{API}:8443/v1/items"), None).await,
        421,
        "authority-mismatch",
    );
    refused(
        &over_h2(&house, &good, Some(KEYS)).await,
        421,
        "authority-mismatch",
    );
    refused(
        &over_h2(&house, &format!("http://{API}/v1/items"), None).await,
        400,
        "bad-request",
    );
    nobody_heard(&house);
    assert_eq!(over_h2(&house, &good, Some(API)).await.status, 200);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_for_another_name_ends_in_an_alert() {
    let house = House::start().await;
    let tunnel = house.tunnel(API).await;
    let error = house.handshake(tunnel, KEYS, "h2").await.unwrap_err();
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    nobody_heard(&house);
    let metrics = house.metrics().await;
    assert!(
        metrics.contains("tokenward_leaf_certificates_total{result=\"minted\"} 0"),
        "{metrics}"
    );
    assert!(
        metrics.contains(r#"tokenward_security_events_total{kind="tls.name_mismatch"} 1"#),
        "{metrics}"
    );
    assert_eq!(house.end().await.of("tls.name_mismatch").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_carries_tls_and_nothing_else() {
    let house = House::start().await;
    for bytes in [
        &b"GET /v1/items HTTP/1.1\r\nhost: api.rehearsal.test\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0; 64],
    ] {
        let answer = exchange(house.tunnel(API).await, bytes).await;
        assert!(answer.0.is_empty(), "{}", answer.text());
    }
    nobody_heard(&house);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_never_travels_in_clear() {
    let house = House::start().await;
    for host in [API, KEYS] {
        for port in ["", ":80", ":443"] {
            let bytes = format!(
                "GET http://{host}{port}/v1/items HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
            );
            let answer = speak(house.proxy(), bytes.as_bytes()).await;
            assert_eq!(
                (answer.status(), answer.code().as_str()),
                (403, "tls-required"),
                "{bytes}"
            );
        }
    }
    nobody_heard(&house);
    house.end().await;
}

/// Some clients leave TLS to the proxy.
#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_https_target_is_carried_over_tls() {
    let house = House::start().await;
    let bytes =
        format!("GET https://{API}/v1/items HTTP/1.1\r\nhost: {KEYS}\r\nconnection: close\r\n\r\n");
    let answer = speak(house.proxy(), bytes.as_bytes()).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert!(house.at_api().iter().all(|s| s.authority == API));
    assert_eq!(house.end().await.only()["listener"], "absolute");
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_that_would_echo_or_tunnel_are_never_carried() {
    let mut items = Svc::items();
    items
        .rules
        .push(r#"{allow: "* /**", scopes: ["items:read"]}"#.into());
    let house = Setup::of([items]).start().await;
    for h2 in [false, true] {
        let answer = house.ask(h2, Call::new(Method::TRACE, "/v1/items")).await;
        refused(&answer, 405, "method-not-supported");
        assert!(!answer.headers["allow"].to_str().unwrap().contains("TRACE"));
    }
    let connect =
        format!("CONNECT {API}:443 HTTP/1.1\r\nhost: {API}:443\r\nconnection: close\r\n\r\n");
    let answer = house.speak_inside(API, &connect).await;
    assert_eq!(
        (answer.status(), answer.code().as_str()),
        (405, "method-not-supported")
    );
    let trace = format!(
        "TRACE https://{API}/v1/items HTTP/1.1\r\nhost: {API}\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(speak(house.proxy(), trace.as_bytes()).await.status(), 405);
    nobody_heard(&house);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_field_changes_the_method() {
    let house = House::start().await;
    for name in [
        "x-http-method-override",
        "x-http-method",
        "X-Method-Override",
    ] {
        for h2 in [false, true] {
            let name = name.to_ascii_lowercase();
            let call = Call::get("/v1/items").field(&name, "DELETE");
            refused(&house.ask(h2, call).await, 403, "method-override");
        }
    }
    nobody_heard(&house);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_query_changes_the_method() {
    let house = House::start().await;
    for query in ["_method=DELETE", "a=1&%5fmethod=PUT", "_HttpMethod=PATCH"] {
        for h2 in [false, true] {
            let call = Call::get(&format!("/v1/items?{query}"));
            refused(&house.ask(h2, call).await, 403, "method-override");
        }
    }
    nobody_heard(&house);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_speaks_for_a_proxy_and_a_loop_ends() {
    let house = House::start().await;
    let taken = [
        ("x-forwarded-host", "evil.test"),
        ("x-original-url", "/v1/admin"),
        ("x-rewrite-url", "/v1/admin"),
        ("forwarded", "host=evil.test"),
        ("x-client-cert", "MIIB"),
        ("client-cert", ":MIIB:"),
        ("x-tokenward-agent", "other"),
        ("proxy-status", "x"),
        ("x_forwarded_host", "evil.test"),
        ("accept-encoding", "zzz, *;q=1"),
    ];
    for h2 in [false, true] {
        let call = Call::get("/v1/items?a=1&access_token=attacker&b=%2f&token=t");
        let call = taken
            .iter()
            .fold(call, |call, (name, value)| call.field(name, value));
        let answer = house.ask(h2, call.field("via", "1.1 corp")).await;
        assert_eq!(answer.status, 200);
        let seen = house.at_api().pop().unwrap();
        assert_eq!(seen.query.as_deref(), Some("a=1&b=%2f"));
        for (name, _) in &taken[..taken.len() - 1] {
            assert_eq!(seen.header(name), None);
        }
        assert_eq!(seen.header("accept-encoding"), Some("identity"));
        let hops: Vec<&str> = seen.all("via").collect();
        let [corp, ours] = hops[..] else {
            panic!("{hops:?}")
        };
        assert_eq!(corp, "1.1 corp");
        let before = house.at_api().len();
        let again = house
            .ask(h2, Call::get("/v1/items").field("via", ours))
            .await;
        refused(&again, 508, "proxy-loop");
        assert_eq!(house.at_api().len(), before);
    }
    house.end().await;
}

/// Heads that two programs could read in two ways. Some get an answer, some a closed connection; none goes further.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_could_be_read_two_ways_goes_nowhere() {
    let house = House::start().await;
    let host = format!("host: {API}\r\n");
    let long = "x".repeat(200_000);
    let heads = [
        format!(
            "POST /v1/items HTTP/1.1\r\n{host}connection: close\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde"
        ),
        format!(
            "POST /v1/items HTTP/1.1\r\n{host}connection: close\r\ncontent-length: +4\r\n\r\nabcd"
        ),
        format!(
            "POST /v1/items HTTP/1.1\r\n{host}connection: close\r\ncontent-length: 4, 4\r\n\r\nabcd"
        ),
        format!(
            "POST /v1/items HTTP/1.1\r\n{host}connection: close\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n"
        ),
        format!(
            "POST /v1/items HTTP/1.1\r\n{host}connection: close\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n"
        ),
        format!(
            "POST /v1/items HTTP/1.1\r\n{host}connection: close\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n"
        ),
        format!(
            "POST /v1/items HTTP/1.0\r\n{host}connection: close\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        format!("GET /v1/items HTTP/1.1\r\n{host}x-a: 1\r\n folded: 2\r\n\r\n"),
        format!("GET /v1/items HTTP/1.1\r\n{host}x-a: a\0b\r\n\r\n"),
        format!("GET /v1/items HTTP/1.1\r\n{host}no colon\r\n\r\n"),
        format!("GET /v1/items x HTTP/1.1\r\n{host}\r\n"),
        format!("GET /v1/items HTTP/2.0\r\n{host}\r\n"),
        format!("GET  /v1/items HTTP/1.1\r\n{host}\r\n"),
        format!("GET /v1/items/../items HTTP/1.1\r\n{host}connection: close\r\n\r\n"),
        format!("GET /v1//items HTTP/1.1\r\n{host}connection: close\r\n\r\n"),
        format!("GET /v1/items/%2e%2e/x HTTP/1.1\r\n{host}connection: close\r\n\r\n"),
        format!("GET /v1/items%2f1 HTTP/1.1\r\n{host}connection: close\r\n\r\n"),
        format!("GET /v1/items/1%00 HTTP/1.1\r\n{host}connection: close\r\n\r\n"),
        format!("GET /v1/items\\1 HTTP/1.1\r\n{host}connection: close\r\n\r\n"),
        format!("GET * HTTP/1.1\r\n{host}connection: close\r\n\r\n"),
        format!("GET /v1/items HTTP/1.1\r\n{host}x-long: {long}\r\nconnection: close\r\n\r\n"),
        format!(
            "GET /v1/items/{} HTTP/1.1\r\n{host}connection: close\r\n\r\n",
            "x".repeat(9_000)
        ),
        format!("GET /v1/items HTTP/1.1\r\n{host}expect: magic\r\nconnection: close\r\n\r\n"),
        "GET /v1/items\r\n\r\n".to_owned(),
    ];
    let mut wrong = Vec::new();
    for head in &heads {
        let status = house.speak_inside(API, head).await.status();
        if !matches!(status, 0 | 400 | 414 | 417 | 431 | 501) {
            wrong.push(format!("{status} {head:.200}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    nobody_heard(&house);
    house.end().await;
}

/// hyper settles these before we see them: what goes out is framed anew, in one way.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_out_in_one_framing() {
    let house = House::start().await;
    let controls = house.rehearsal.controls();
    controls.site(Service::Api, |s| s.alpn = Alpn::H1);
    assert_eq!(house.get("/v1/items").await.status, 200);
    house.rehearsal.clear_seen();
    let smuggled = format!("GET /v1/items/smuggled HTTP/1.1\r\nhost: {API}\r\n\r\n");
    for (fields, body) in [
        (
            "content-length: 4\r\ntransfer-encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        (
            "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
            "0\r\n\r\n",
        ),
        ("content-length: 4\r\ncontent-length: 4\r\n", "null"),
    ] {
        let head = format!(
            "POST /v1/items HTTP/1.1\r\nhost: {API}\r\nconnection: close\r\n{fields}\r\n{body}{smuggled}"
        );
        let status = house.speak_inside(API, &head).await.status();
        assert!(matches!(status, 201 | 400), "{status} {fields}");
    }
    for seen in house.at_api() {
        assert_eq!(seen.method, "POST");
        let length = seen.all("content-length").count();
        assert_eq!(
            length + seen.all("transfer-encoding").count(),
            1,
            "{seen:?}"
        );
    }
    house.end().await;
}

/// A chunk that is none ends the exchange; its request was whole until there.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_chunk_is_not_passed_on() {
    let house = House::start().await;
    assert_eq!(house.get("/v1/items").await.status, 200);
    house.rehearsal.clear_seen();
    for chunk in [
        "zz\r\nabc\r\n0\r\n\r\n",
        "-1\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nabc\r\n",
    ] {
        let head = format!(
            "POST /v1/items HTTP/1.1\r\nhost: {API}\r\ntransfer-encoding: chunked\r\n\r\n{chunk}"
        );
        let answer = house.speak_inside(API, &head).await;
        assert!(
            matches!(answer.status(), 0 | 400 | 502),
            "{}",
            answer.text()
        );
    }
    assert!(
        house.at_api().iter().all(|s| s.status.is_none()),
        "{:#?}",
        house.at_api()
    );
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_connect_of_http10_opens_a_tunnel() {
    let house = House::start().await;
    for head in [
        format!("CONNECT {API}:443 HTTP/1.0\r\n\r\n"),
        format!("CONNECT {API}:443 HTTP/1.1\r\nhost: {API}:443\r\nconnection: close\r\n\r\n"),
        format!(
            "CONNECT {API}:443 HTTP/1.1\r\nhost: {API}:443\r\nproxy-connection: keep-alive\r\n\r\n"
        ),
        format!("CONNECT {API}:443 HTTP/1.0\r\nuser-agent: old\r\nconnection: close\r\n\r\n"),
    ] {
        let tunnel = house.tunnel_by(&head).await;
        let mut tls = house.handshake(tunnel, API, "http/1.1").await.unwrap();
        let request = format!("GET /v1/items HTTP/1.1\r\nhost: {API}\r\n\r\n");
        // Twice: `Connection: close` was about the CONNECT, not about what is inside.
        for _ in 0..2 {
            tokio::io::AsyncWriteExt::write_all(&mut tls, request.as_bytes())
                .await
                .unwrap();
            let answer = read_head(&mut tls).await;
            assert_eq!(answer.status(), 200, "{head}");
            let text = answer.text();
            let length = text
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "))
                .unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            tokio::io::AsyncReadExt::read_exact(&mut tls, &mut body)
                .await
                .unwrap();
        }
    }
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_that_could_be_read_two_ways_opens_nothing() {
    let house = House::start().await;
    for target in [
        "api.rehearsal.test".to_owned(),
        "api.rehearsal.test:".to_owned(),
        "api.rehearsal.test:0443".to_owned(),
        "api.rehearsal.test:70000".to_owned(),
        format!("user@{API}:443"),
        format!("https://{API}:443/"),
        format!("/{API}:443"),
        "0x7f000001:443".to_owned(),
        "127.1:443".to_owned(),
        "[::1%25lo]:443".to_owned(),
        "api.rehearsal.test..:443".to_owned(),
    ] {
        let bytes =
            format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\nconnection: close\r\n\r\n");
        let answer = speak(house.proxy(), bytes.as_bytes()).await;
        assert!(
            matches!(answer.status(), 0 | 400 | 403),
            "{target}: {}",
            answer.text()
        );
    }
    nobody_heard(&house);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_address_needs_the_services_consent() {
    let mut items = Svc::items();
    items.upstream = Some("{ca: {file: ca.pem}, connect: \"127.0.0.1:9\"}".into());
    let house = Setup::of([items]).start().await;
    let answer = house.get("/v1/items").await;
    refused(&answer, 403, "destination-ip-prohibited");
    assert!(!answer.text().contains("127.0.0.1"), "{}", answer.text());
    assert!(house.at_api().is_empty());
    assert_eq!(house.end().await.of("connect.address_prohibited").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_addresses_are_refused_whatever_the_service_says() {
    for address in [
        "169.254.169.254:80",
        "[fe80::1]:443",
        "0.0.0.0:443",
        "[::ffff:127.0.0.1]:443",
        "100.100.100.200:80",
    ] {
        let mut keys = Svc::keys();
        keys.upstream = Some(format!("{{connect: \"{address}\", allow_private: true}}"));
        let house = Setup::of([keys]).start().await;
        let answer = ask(&house.agent(), KEYS, true, Call::get("/v1/items")).await;
        refused(&answer, 403, "destination-ip-prohibited");
        house.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_listeners_are_no_destination() {
    // A port that is free now; whoever takes it meanwhile fails this test and no other.
    let port = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut ourselves = Svc::keys();
    ourselves.host = "localhost".into();
    ourselves.credential = Credential::Nothing;
    ourselves.more = vec![format!("port: {port}")];
    ourselves.upstream = Some("{allow_private: true}".into());
    let mut setup = Setup::of([ourselves]);
    setup.listen = format!("127.0.0.1:{port}");
    let house = setup.start().await;
    let answer = house
        .agent()
        .call("localhost", port, false, Call::get("/v1/items"))
        .await
        .unwrap();
    refused(&answer, 403, "destination-ip-prohibited");
    assert_eq!(house.end().await.of("connect.self_refused").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_callers_get_trailers_only() {
    let house = House::start().await;
    for kind in ["application/grpc", "application/grpc+proto"] {
        let call = Call::new(Method::POST, "/v2/Service/Method")
            .field("content-type", kind)
            .field("te", "trailers")
            .bytes(vec![0; 5]);
        let answer = house.ask(true, call).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
        assert_eq!(answer.headers["grpc-status"], "7");
        assert_eq!(answer.headers["grpc-message"], "policy-denied");
        assert_eq!(answer.headers["content-type"], "application/grpc");
    }
    nobody_heard(&house);
    assert_eq!(house.end().await.requests()[0]["status"], 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_field_stands_once_on_the_proxy_port_too() {
    let house = House::start().await;
    let host = format!("host: {API}:443\r\n");
    let table = [
        ("HTTP/1.0", "", 200),
        ("HTTP/1.1", "", 400),
        ("HTTP/1.1", host.as_str(), 200),
        ("HTTP/1.1", &host.repeat(2), 400),
        ("HTTP/1.0", &host.repeat(2), 400),
    ];
    for (version, fields, status) in table {
        let mut stream = TcpStream::connect(house.proxy()).await.unwrap();
        let head = format!("CONNECT {API}:443 {version}\r\n{fields}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_head(&mut stream).await;
        assert_eq!(answer.status(), status, "{version} {fields:?}");
    }
    let absolute = format!("GET https://{API}/v1/items HTTP/1.1\r\n\r\n");
    assert_eq!(
        speak(house.proxy(), absolute.as_bytes()).await.status(),
        400
    );
    nobody_heard(&house);
    house.end().await;
}

/// Node's `fetch` opens a tunnel for `http://` too. What is spoken inside is judged as everywhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_to_a_service_of_plain_http_is_served_in_clear() {
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut plain = Svc::keys();
    plain.name = "clear";
    plain.host = "clear.rehearsal.test".into();
    plain.credential = Credential::Nothing;
    plain.rules = vec![r#"{allow: "GET /open"}"#.into()];
    plain.more = vec!["port: 80".into()];
    let address = origin.local_addr().unwrap();
    plain.upstream = Some(format!("{{connect: \"{address}\", allow_private: true}}"));
    let house = Setup::of([Svc::items(), plain]).start().await;
    let heard = tokio::spawn(async move {
        let (mut stream, _) = origin.accept().await.unwrap();
        let head = read_head(&mut stream).await;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
        stream.write_all(answer).await.unwrap();
        head.text()
    });
    let tunnel =
        "CONNECT clear.rehearsal.test:80 HTTP/1.1\r\nhost: clear.rehearsal.test:80\r\n\r\n";
    let ask = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: clear.rehearsal.test\r\nconnection: close\r\n\r\n")
    };
    let open = exchange(house.tunnel_by(tunnel).await, ask("/open").as_bytes()).await;
    assert_eq!(open.status(), 200, "{}", open.text());
    let heard = heard.await.unwrap();
    assert!(heard.starts_with("GET /open HTTP/1.1\r\n"), "{heard}");
    let shut = exchange(house.tunnel_by(tunnel).await, ask("/shut").as_bytes()).await;
    assert_eq!(
        (shut.status(), shut.code().as_str()),
        (403, "policy-denied")
    );
    // TLS is nothing that such a service speaks, and no way to it for another host.
    let hello = exchange(
        house.tunnel_by(tunnel).await,
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    )
    .await;
    assert_eq!(hello.status(), 400, "{}", hello.text());
    let other = exchange(
        house.tunnel_by(tunnel).await,
        format!("GET /open HTTP/1.1\r\nhost: {API}\r\nconnection: close\r\n\r\n").as_bytes(),
    )
    .await;
    assert_eq!(other.status(), 421, "{}", other.text());
    house.end().await;
}

/// One path or two: the service's settings say how it reads an escaped slash.
#[tokio::test(flavor = "multi_thread")]
async fn an_escaped_slash_passes_where_the_service_takes_it_literally() {
    for (line, status) in [
        ("escaped_slashes: literal", 404),
        ("escaped_slashes: refuse", 400),
        ("max_stream_age: 0s", 400),
    ] {
        let house = Setup::of([Svc::keys().line(line)]).start().await;
        let bytes = format!("GET /@a%2fb HTTP/1.1\r\nhost: {KEYS}\r\nconnection: close\r\n\r\n");
        let answer = house.speak_inside(KEYS, &bytes).await;
        assert_eq!(answer.status(), status, "{line}: {}", answer.text());
        let bytes = format!("GET /a/..%2fb HTTP/1.1\r\nhost: {KEYS}\r\nconnection: close\r\n\r\n");
        let answer = house.speak_inside(KEYS, &bytes).await;
        assert_eq!(
            (answer.status(), answer.code().as_str()),
            (400, "bad-request"),
            "{line}"
        );
        house.end().await;
    }
}
