//! The admin API: over TCP and TLS, described, followed, and out of reach for agents.

use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::{Value, json};
use tokenward::rehearsal::Call;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::kit::{
    API, Credential, House, Identity, PATIENCE, Raw, Served, Setup, Svc, ask, code, err, free_port,
    misfits, out, refused, run, speak,
};

const TOKEN: &str = "operator-token-0123456789abcdef";
/// The document, as the repository has it.
const OPENAPI: &str = include_str!("../../src/admin/openapi.json");

/// A house whose admin API is on loopback.
async fn house(setup: Setup) -> House {
    let setup = setup.line(&format!(
        "admin: {{listen: '127.0.0.1:0', token: {{exec: [/bin/echo, {TOKEN}]}}}}"
    ));
    setup.start().await
}

fn request(method: &str, target: &str, body: Option<&Value>) -> String {
    let body = body.map(ToString::to_string).unwrap_or_default();
    format!(
        "{method} {target} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn document(answer: &Raw) -> Value {
    let text = answer.text();
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

/// Every answer of these calls is as the document says; what they say is for the caller to judge.
async fn asked(to: SocketAddr, method: &str, target: &str, body: Option<&Value>) -> (u16, Value) {
    let answer = speak(to, request(method, target, body).as_bytes()).await;
    let text = answer.text().to_ascii_lowercase();
    assert!(text.contains("cache-control: no-store"), "{text}");
    assert!(!text.contains("access-control-"), "{text}");
    let found = document(&answer);
    let root: Value = serde_json::from_str(OPENAPI).unwrap();
    let path = target.split('?').next().unwrap();
    let path = match path.strip_prefix("/v1/logins/") {
        Some(_) => "/v1/logins/{id}",
        None => path,
    };
    let method = method.to_lowercase();
    let responses = &root["paths"][path][&method]["responses"];
    let status = answer.status();
    let described = &responses[status.to_string()];
    let (kind, schema) = if described.is_null() {
        // Also where the path is described and the method is not, or neither is.
        let problem = &root["components"]["responses"]["Refused"];
        let kind = "application/problem+json";
        (kind, &problem["content"][kind]["schema"])
    } else {
        let kind = "application/json";
        (kind, &described["content"][kind]["schema"])
    };
    assert!(
        text.contains(&format!("content-type: {kind}\r\n")),
        "{text}"
    );
    if target == "/openapi.json" {
        assert_eq!(found, root);
        return (status, found);
    }
    let misfits = misfits(&root, schema, &found, target);
    assert!(misfits.is_empty(), "{misfits:#?}");
    (status, found)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_the_document_says() {
    let house = house(Setup::usual()).await;
    assert_eq!(house.get("/v1/items").await.status, 200);
    let to = house.running.admin().unwrap();
    let get = async |target: &str| asked(to, "GET", target, None).await;
    let (status, said) = get("/v1/status").await;
    assert_eq!(
        (status, &said["grants"][0]["health"]),
        (200, &json!("healthy"))
    );
    assert_eq!(get("/openapi.json").await.0, 200);
    assert_eq!(get("/v1/logins").await, (200, json!([])));
    assert_eq!(get("/v1/logins/7").await.0, 404);
    assert_eq!(get("/v1/audit?who=me").await.0, 400);
    assert_eq!(get("/v1/rotate").await.0, 405);
    assert_eq!(get("/nowhere").await.0, 404);
    let post = async |target: &str, body: Value| asked(to, "POST", target, Some(&body)).await;
    let (status, rotated) = post("/v1/rotate", json!({"service": "items"})).await;
    assert_eq!((status, &rotated["grants"][0]["key"]), (200, &json!("new")));
    assert_eq!(post("/v1/rotate", json!({"service": "x"})).await.0, 404);
    let wish = json!({"service": "items", "dry_run": true});
    let (status, foreseen) = post("/v1/revoke", wish).await;
    assert_eq!((status, &foreseen["cut"]), (200, &Value::Null));
    assert_eq!(post("/v1/revoke", json!({})).await.0, 400);
    let (status, revoked) = post("/v1/revoke", json!({"service": "items"})).await;
    assert_eq!(status, 200);
    assert_eq!(revoked["grants"][0]["comes_back_by"], "reload");
    assert_eq!(post("/v1/rotate", json!([])).await.0, 400);
    assert_eq!(post("/v1/logins", json!({"service": "items"})).await.0, 409);
    assert_eq!(asked(to, "DELETE", "/v1/logins/7", None).await.0, 404);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_token_or_from_a_page_there_is_nothing() {
    let house = house(Setup::usual()).await;
    let to = house.running.admin().unwrap();
    let raw = async |method: &str, fields: &str| {
        let request =
            format!("{method} /v1/rotate HTTP/1.1\r\n{fields}content-length: 2\r\n\r\n{{}}");
        let answer = speak(to, request.as_bytes()).await;
        assert!(
            !answer
                .text()
                .to_ascii_lowercase()
                .contains("access-control-")
        );
        (answer.status(), document(&answer)["code"].clone())
    };
    let good = format!("authorization: Bearer {TOKEN}\r\n");
    let json = "content-type: application/json\r\n";
    let host = "host: localhost\r\n";
    let fields = format!("{host}{json}{good}");
    assert_eq!(raw("POST", &fields).await.0, 200);
    for (what, fields, status, code) in [
        ("no token", format!("{host}{json}"), 401, "unauthorized"),
        (
            "half a token",
            format!("{host}{json}authorization: Bearer {}\r\n", &TOKEN[..20]),
            401,
            "unauthorized",
        ),
        (
            "another name",
            format!("host: evil.test\r\n{json}{good}"),
            421,
            "host",
        ),
        ("no name", format!("{json}{good}"), 421, "host"),
        (
            "a page",
            format!("{host}{json}{good}origin: http://localhost\r\n"),
            403,
            "forbidden",
        ),
        (
            "a form",
            format!("{host}{good}content-type: text/plain\r\n"),
            403,
            "forbidden",
        ),
        (
            "the proxy",
            format!("{fields}via: 1.1 tokenward-abcdefgh\r\n"),
            403,
            "forbidden",
        ),
    ] {
        let found = raw("POST", &fields).await;
        assert_eq!(found, (status, json!(code)), "{what}");
    }
    let preflight = raw("OPTIONS", &format!("{host}{good}")).await;
    assert_eq!(preflight.0, 405);
    let metrics = house.metrics().await;
    let counted = "tokenward_security_events_total{kind=\"auth.admin_failed\"} 2";
    assert!(metrics.contains(counted), "{metrics}");
    let written = house.end().await;
    assert_eq!(written.of("auth.admin_failed").len(), 1);
    assert!(!written.text.contains(TOKEN));
}

/// By its name, by its address, through another name that leads here, and where an API sends the agent.
#[tokio::test(flavor = "multi_thread")]
async fn no_agent_gets_there_through_the_proxy() {
    let port = free_port().await;
    let named = |name, host: &str, upstream: &str| {
        let mut svc = Svc::keys();
        svc.name = name;
        svc.host = host.into();
        svc.credential = Credential::Nothing;
        svc.more = vec![format!("port: {port}")];
        svc.upstream = Some(upstream.replace("<PORT>", &port.to_string()));
        svc
    };
    let services = [
        Svc::items(),
        named("name", "localhost", "{allow_private: true}"),
        named("address", "127.0.0.1", "{allow_private: true}"),
        named(
            "other",
            "other.test",
            "{connect: '127.0.0.1:<PORT>', allow_private: true}",
        ),
        named(
            "mapped",
            "mapped.test",
            "{connect: '[::ffff:127.0.0.1]:<PORT>', allow_private: true}",
        ),
    ];
    let setup = Setup::of(services).line(&format!(
        "admin: {{listen: '127.0.0.1:{port}', token: {{exec: [/bin/echo, {TOKEN}]}}}}"
    ));
    let house = setup.start().await;
    let credential = format!("Bearer {TOKEN}");
    // An API sends the agent there: the redirect is passed on, nobody follows it but the agent, and that is refused too.
    let to = format!("http://localhost:{port}/v1/status");
    let sent = house.get(&format!("/v1/redirect?to={to}")).await;
    assert_eq!(sent.status, 302);
    assert_eq!(sent.headers["location"], to);
    for host in ["localhost", "127.0.0.1", "other.test", "mapped.test"] {
        // With whatever the agent was told to send.
        let call = Call::get("/v1/status").field("authorization", &credential);
        let answer = house.agent().call(host, port, false, call).await.unwrap();
        refused(&answer, 403, "destination-ip-prohibited");
    }
    let agent = house.agent();
    let blind = agent.call("127.0.0.2", port, false, Call::get("/v1/status"));
    assert!(blind.await.is_err(), "no service has it");
    // An address that is written as another family's is prohibited as such.
    let written = house.end().await;
    let ours = written.of("connect.self_refused").len();
    assert_eq!(
        (ours, written.of("connect.address_prohibited").len()),
        (3, 1)
    );
}

/// A `serve` with its admin API on TCP, and the token in a file.
async fn served(listen: &str, identity: Option<&Identity>) -> Served {
    let mut setup = Setup::usual();
    setup.write_more = vec![("admin.token", format!("{TOKEN}\n"))];
    let mut tls = "";
    if let Some(identity) = identity {
        tls = ", tls: {cert: {file: admin.pem}, key: {file: admin.key}}";
        setup.write_more.extend([
            ("admin.pem", identity.cert_pem.clone()),
            ("admin.key", identity.key_pem.clone()),
        ]);
    }
    let line = format!("admin: {{listen: '{listen}', token: {{file: admin.token}}{tls}}}");
    Served::start(setup.line(&line), "info").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verbs_reach_it_over_tcp_and_over_tls() {
    for tls in [false, true] {
        let identity = Identity::of(&["admin.test"]);
        let port = free_port().await;
        // With TLS it may be heard on every address; the verbs then call this machine's own.
        let listen = format!("{}:{port}", if tls { "0.0.0.0" } else { "127.0.0.1" });
        let mut served = served(&listen, tls.then_some(&identity)).await;
        let answer = ask(&served.agent(), API, true, Call::get("/v1/items")).await;
        assert_eq!(answer.status, 200);
        let done = run(&mut served.verb(&["status", "--json"])).await;
        assert_eq!(code(&done), 0, "{}", err(&done));
        let said: Value = serde_json::from_str(&out(&done)).unwrap();
        assert_eq!(said["grants"][0]["health"], "healthy");
        let done = run(&mut served.verb(&["rotate"])).await;
        assert_eq!(code(&done), 0, "{}", err(&done));
        // Another token: it is read anew by each verb.
        let token = served.folder.path().join("admin.token");
        fs::write(&token, "operator-token-of-somebody-else").unwrap();
        let done = run(&mut served.verb(&["status"])).await;
        assert_eq!(code(&done), 1);
        assert!(err(&done).contains("admin.token"), "{}", err(&done));
        if tls {
            // Somebody else at the same place is told nothing.
            let other = Identity::of(&["admin.test"]);
            fs::write(served.folder.path().join("admin.pem"), &other.cert_pem).unwrap();
            let done = run(&mut served.verb(&["status"])).await;
            assert_eq!(code(&done), 1);
            assert!(err(&done).contains(&port.to_string()), "{}", err(&done));
        }
        assert!(served.terminate().await.success());
    }
}

/// Reads events until one of them is what is looked for.
async fn until(
    lines: &mut (impl tokio::io::AsyncBufRead + Unpin),
    holds: impl Fn(&Value) -> bool,
) -> Vec<Value> {
    let mut seen = Vec::new();
    loop {
        let mut line = String::new();
        let read = timeout(PATIENCE, lines.read_line(&mut line)).await;
        assert!(read.unwrap().unwrap() > 0, "it ended: {seen:?}");
        let data = line.strip_prefix("data: ").unwrap_or(&line);
        // What else looks like JSON is the length of a chunk.
        let found: Value = serde_json::from_str(data).unwrap_or_default();
        if !found.is_object() {
            continue;
        }
        seen.push(found);
        if seen.last().is_some_and(&holds) {
            return seen;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_can_be_followed() {
    let house = house(Setup::usual()).await;
    let to = house.running.admin().unwrap();
    let mut stream = TcpStream::connect(to).await.unwrap();
    let all = request("GET", "/v1/audit?decision=deny", None);
    stream.write_all(all.as_bytes()).await.unwrap();
    let mut denied = BufReader::new(stream);
    let mut head = String::new();
    while !head.contains(": following") {
        timeout(PATIENCE, denied.read_line(&mut head))
            .await
            .unwrap()
            .unwrap();
    }
    assert!(
        head.contains("content-type: text/event-stream\r\n"),
        "{head}"
    );
    assert!(head.contains("cache-control: no-store\r\n"), "{head}");
    assert_eq!(house.get("/v1/items").await.status, 200);
    assert_eq!(house.get("/v1/items/1/secrets").await.status, 403);
    let seen = until(&mut denied, |line| line["code"] == "policy-denied").await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    // What the file has, whichever of the two was written first.
    let lines = house.lines(2).await;
    assert!(lines.contains(&seen[0]), "{seen:?} {lines:?}");
    drop(denied);

    // Nine want to follow; the ninth is told so, until one of the others is gone.
    let mut all = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let follow = request("GET", "/v1/audit", None);
        stream.write_all(follow.as_bytes()).await.unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        timeout(PATIENCE, reader.read_line(&mut line))
            .await
            .unwrap()
            .unwrap();
        assert!(line.contains("200"), "{line}");
        all.push(reader);
    }
    let ninth = speak(to, request("GET", "/v1/audit", None).as_bytes()).await;
    assert_eq!((ninth.status(), ninth.code()), (429, "busy".to_owned()));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verb_follows_decisions() {
    let mut served = Served::start(Setup::usual(), "info").await;
    let follow = |words: &[&str]| {
        let mut command = served.verb(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        (child, stdout)
    };
    let (mut people, mut for_people) = follow(&["audit", "tail"]);
    let (mut program, mut lines) = follow(&[
        "audit",
        "tail",
        "--json",
        "--decision",
        "deny",
        "--agent",
        "default",
    ]);
    let agent = served.agent();
    let audit = served.folder.path().join("audit.jsonl");
    // A follower sees what comes after it; so the agent asks until it was heard.
    let asking = tokio::spawn(async move {
        loop {
            ask(&agent, API, true, Call::get("/v1/items/1/secrets")).await;
        }
    });
    let seen = until(&mut lines, |line| line["code"] == "policy-denied").await;
    let mut line = String::new();
    while !line.contains("policy-denied") {
        line.clear();
        timeout(PATIENCE, for_people.read_line(&mut line))
            .await
            .unwrap()
            .unwrap();
    }
    asking.abort();
    assert!(
        line.contains(" refused default GET api.rehearsal.test/v1/items/1/secrets 403"),
        "{line}"
    );
    let text = fs::read_to_string(audit).unwrap();
    let hash = seen.last().unwrap()["hash"].as_str().unwrap();
    assert!(text.contains(hash));
    let unknown = run(&mut served.verb(&["audit", "tail", "--agent", "nobody"])).await;
    assert_eq!(code(&unknown), 1);
    // It ends with the proxy.
    assert!(served.terminate().await.success());
    for child in [&mut people, &mut program] {
        timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    }
}

/// Beyond this machine a token needs TLS; on TCP there is no API without a token.
#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_open_to_others_is_not_started() {
    let rehearsal = tokenward::rehearsal::Rehearsal::start(Setup::usual().options);
    let rehearsal = rehearsal.await.unwrap();
    let home = tempfile::TempDir::new().unwrap();
    fs::write(home.path().join("admin.token"), TOKEN).unwrap();
    let config = Setup::usual().write(home.path(), &rehearsal);
    let text = fs::read_to_string(&config).unwrap();
    for (admin, what) in [
        ("{listen: '127.0.0.1:0'}", "token"),
        ("{listen: '0.0.0.0:0', token: {file: admin.token}}", "tls"),
        (
            "{listen: 'unix:a/b.sock', tls: {cert: {file: x.pem}, key: {file: x.key}}}",
            "unix socket",
        ),
        (
            "{listen: '127.0.0.1:0', token: {file: none.token}}",
            "does not exist",
        ),
    ] {
        fs::write(&config, format!("{text}admin: {admin}\n")).unwrap();
        let failed = run(super::kit::tokenward(home.path()).arg("serve")).await;
        assert_eq!(code(&failed), 1, "{admin}");
        assert!(err(&failed).contains(what), "{admin}: {}", err(&failed));
    }
}
