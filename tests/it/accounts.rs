//! Agents that are service accounts of a Kubernetes cluster: a projected token, judged offline.

use std::fs;
use std::net::SocketAddr;

use http::StatusCode;
use serde_json::{Value, json};
use tokenward::config::{self, SecretReading};
use tokenward::rehearsal::{Call, Caller, Session};
use tokio::net::{TcpSocket, TcpStream};

use crate::kit::{
    API, CLUSTER, Cluster, House, PATIENCE, Served, Setup, Svc, WebSocket, agent_token, ask,
    connect, eventually, get, reasons, refused, speak,
};

/// `coder` is agents/coder, `other` agents/other in its pod `other-0`; `writer` has a proxy token.
fn setup(jwks: String) -> Setup {
    let keys = format!("kubernetes: {{issuer: \"{CLUSTER}\", keys: {{file: jwks.json}}}}");
    let mut setup = Setup::of([Svc::items(), Svc::keys()]).line(&keys);
    setup.write_more = vec![("jwks.json", jwks)];
    setup.agents = vec![("coder", "items"), ("other", "keys"), ("writer", "items")];
    let of = |more: &str| format!("{{kubernetes: {{namespace: agents, service_account: {more}}}}}");
    setup.auth = vec![("coder", of("coder")), ("other", of("other, pod: other-0"))];
    setup
}

fn bearer(token: &str) -> String {
    format!("proxy-authorization: Bearer {token}\r\n")
}

/// A connection from another address of this machine: of wrong credentials a source may try five at once.
async fn from(number: usize, proxy: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let source = format!("127.0.1.{number}:0").parse().unwrap();
    socket.bind(source).unwrap();
    socket.connect(proxy).await.unwrap()
}

/// Claims with one member changed.
fn with(member: &str, value: impl Into<Value>) -> Value {
    let mut claims = Cluster::claims("agents", "coder");
    claims[member] = value.into();
    claims
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projected_token_names_its_agent() {
    let cluster = Cluster::with_key("k1");
    let house = setup(cluster.jwks()).start().await;
    let token = cluster.token("agents", "coder");
    // As the password of a proxy URL, as Bearer, and again: it is known then.
    let caller = house.agent().named("coder", &token);
    for h2 in [true, false] {
        assert_eq!(
            ask(&caller, API, h2, Call::get("/v1/items")).await.status,
            200
        );
    }
    let tcp = TcpStream::connect(house.proxy()).await.unwrap();
    assert_eq!(get(&house, tcp, &bearer(&token)).await, 200);
    // In absolute form each request says who calls.
    let absolute = format!(
        "GET https://{API}/v1/items HTTP/1.1\r\nhost: {API}\r\n{}connection: close\r\n\r\n",
        bearer(&token)
    );
    assert_eq!(
        speak(house.proxy(), absolute.as_bytes()).await.status(),
        200
    );
    // Another account is another agent, with services of its own.
    let other = house
        .agent()
        .named("other", &cluster.token("agents", "other"));
    refused(
        &ask(&other, API, true, Call::get("/v1/items")).await,
        403,
        "destination-denied",
    );
    // Tokens that are no JWTs go on as they did.
    let writer = house.named("writer");
    assert_eq!(
        ask(&writer, API, true, Call::get("/v1/items")).await.status,
        200
    );
    for seen in house.rehearsal.seen() {
        assert!(!format!("{seen:?}").contains(&token));
    }
    let written = house.end().await;
    assert!(written.of("auth.agent_failed").is_empty());
    let parts: Vec<&str> = token.split('.').collect();
    assert!(parts.iter().all(|part| !written.text.contains(part)));
    let agents: Vec<_> = written
        .requests()
        .iter()
        .map(|l| l["agent"].clone())
        .collect();
    assert_eq!(
        agents,
        ["coder", "coder", "coder", "coder", "other", "writer"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_right_is_nobodys() {
    let (cluster, forger) = (Cluster::with_key("k1"), Cluster::with_key("k1"));
    let unknown = Cluster::with_key("k2");
    let house = setup(cluster.jwks()).start().await;
    let now = tokenward::vocab::Clock::system().wall().seconds();
    let mut loose = Cluster::claims("agents", "other");
    loose["kubernetes.io"]["pod"]["name"] = json!("other-1");
    let coder = cluster.token("agents", "coder");
    let (head, _) = coder.rsplit_once('.').unwrap();
    let cases = [
        (
            cluster.sign(&with("aud", json!(["https://kubernetes.default.svc"]))),
            "wrong_audience",
        ),
        (cluster.sign(&with("exp", now - 31)), "expired"),
        (cluster.sign(&with("nbf", now + 120)), "not_yet_valid"),
        (cluster.token("default", "coder"), "other_namespace"),
        (cluster.token("agents", "builder"), "other_account"),
        (cluster.sign(&loose), "other_pod"),
        (
            cluster.sign(&with("iss", "https://other.example")),
            "wrong_issuer",
        ),
        (
            cluster.sign(&with("sub", "system:node:n1")),
            "no_service_account",
        ),
        (forger.token("agents", "coder"), "forged"),
        (format!("{head}."), "forged"),
        (unknown.token("agents", "coder"), "unknown_key"),
        ("a.b.c".into(), "malformed"),
        ("t0ken".into(), "unknown_token"),
    ];
    for (number, (token, why)) in cases.iter().enumerate() {
        let mut tcp = from(number + 1, house.proxy()).await;
        assert_eq!(connect(&mut tcp, &bearer(token)).await, 407, "{why}");
    }
    // The right token under another's name, and beside another's token.
    let other = house.agent().named("other", &coder);
    let answer = ask(&other, API, true, Call::get("/v1/items")).await;
    refused(&answer, 407, "agent-unauthenticated");
    let two = format!("{}{}", bearer(&coder), bearer(&agent_token("writer")));
    let mut tcp = from(100, house.proxy()).await;
    assert_eq!(connect(&mut tcp, &two).await, 407);
    assert!(house.rehearsal.seen().is_empty());
    let written = house.end().await;
    let mut expected: Vec<&str> = cases.iter().map(|(_, why)| *why).collect();
    expected.extend(["other_agent", "malformed"]);
    assert_eq!(reasons(&written), expected);
    for (token, _) in cases.iter().filter(|(token, _)| token.len() > 100) {
        let mut parts = token.split('.').filter(|part| !part.is_empty());
        assert!(parts.all(|part| !written.text.contains(part)));
    }
}

/// The cluster has a new key, then an agent goes.
#[tokio::test(flavor = "multi_thread")]
async fn keys_and_accounts_change_with_a_reload() {
    let (old, new) = (Cluster::with_key("k1"), Cluster::with_key("k2"));
    let house = setup(old.jwks()).start().await;
    let by = |cluster: &Cluster| {
        let token = cluster.token("agents", "coder");
        house.agent().named("coder", &token)
    };
    let (before, after) = (by(&old), by(&new));
    let call = async |caller| ask(caller, API, true, Call::get("/v1/items")).await;
    assert_eq!(call(&before).await.status, 200);
    refused(&call(&after).await, 407, "agent-unauthenticated");
    let file = house.folder.path().join("tokenward.yaml");
    fs::write(house.folder.path().join("jwks.json"), new.jwks()).unwrap();
    let plan = config::load(&file, SecretReading::Resolve).unwrap();
    house.running.reload(plan).await.unwrap();
    // What was remembered of the old key is gone with it.
    refused(&call(&before).await, 407, "agent-unauthenticated");
    assert_eq!(call(&after).await.status, 200);
    let text = fs::read_to_string(&file).unwrap();
    let text = text.replace("service_account: coder", "service_account: coder2");
    fs::write(&file, text).unwrap();
    let plan = config::load(&file, SecretReading::Resolve).unwrap();
    house.running.reload(plan).await.unwrap();
    refused(&call(&after).await, 407, "agent-unauthenticated");
    let written = house.end().await;
    assert_eq!(
        reasons(&written),
        ["unknown_key", "unknown_key", "other_account"]
    );
}

/// `serve` reads the keys again by itself; broken ones change nothing.
#[tokio::test(flavor = "multi_thread")]
async fn serve_follows_the_file_of_keys() {
    let (old, new) = (Cluster::with_key("k1"), Cluster::with_key("k2"));
    let mut served = Served::start(setup(old.jwks()), "info").await;
    let caller = |cluster: &Cluster| {
        let token = cluster.token("agents", "coder");
        served.agent().named("coder", &token)
    };
    let (before, after) = (caller(&old), caller(&new));
    let call = async |caller| ask(caller, API, true, Call::get("/v1/items")).await.status;
    assert_eq!(
        (call(&before).await, call(&after).await),
        (StatusCode::OK, StatusCode::PROXY_AUTHENTICATION_REQUIRED)
    );
    let keys = served.folder.path().join("jwks.json");
    let log = |served: &Served| served.file("stderr.txt");
    fs::write(&keys, "{}").unwrap();
    eventually("the word about it", || log(&served).contains("is not used")).await;
    assert!(
        log(&served).contains("kubernetes.keys.file"),
        "{}",
        log(&served)
    );
    assert_eq!(call(&before).await, 200);
    fs::write(&keys, new.jwks()).unwrap();
    eventually("the reload", || log(&served).contains("\"generation\":2")).await;
    assert_eq!(
        (call(&before).await, call(&after).await),
        (StatusCode::PROXY_AUTHENTICATION_REQUIRED, StatusCode::OK)
    );
    assert!(served.terminate().await.success());
}

/// An agent without its token is nobody, and `run` says so before it starts anything.
#[tokio::test(flavor = "multi_thread")]
async fn run_has_no_token_for_such_an_agent() {
    use crate::kit::{code, err, out, run, tokenward};
    let house: House = setup(Cluster::with_key("k1").jwks()).start().await;
    let mut command = tokenward(house.folder.path());
    command
        .arg("--config")
        .arg(house.folder.path().join("tokenward.yaml"));
    command.args(["run", "--agent", "coder", "--", "true"]);
    let done = run(&mut command).await;
    assert_eq!(code(&done), 125);
    assert!(err(&done).contains("agents.coder.auth"), "{}", err(&done));
    // `check` says how each is known.
    let mut command = tokenward(house.folder.path());
    command
        .arg("--config")
        .arg(house.folder.path().join("tokenward.yaml"));
    let told = out(&run(command.arg("check")).await);
    for line in [
        "agent coder (auth: kubernetes)",
        "agent writer (auth: token)",
    ] {
        assert!(told.contains(line), "{told}");
    }
    house.end().await;
}

/// The house's own file read again, with a line of it changed.
async fn reload(house: &House, from: &str, to: &str) {
    let file = house.folder.path().join("tokenward.yaml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&file, text.replace(from, to)).unwrap();
    let plan = config::load(&file, SecretReading::Resolve).unwrap();
    house.running.reload(plan).await.unwrap();
}

/// Tunnels of an agent, in both protocols, that have carried a request.
async fn opened(caller: &Caller) -> Vec<Session> {
    let mut all = Vec::new();
    for h2 in [true, false] {
        let mut session = caller.open(API, 443, h2).await.unwrap();
        let answer = session.send(Call::get("/v1/items")).await.unwrap();
        assert_eq!(answer.status, 200);
        all.push(session);
    }
    all
}

/// How many of them carry another request.
async fn carrying(sessions: &mut [Session]) -> usize {
    let mut good = 0;
    for session in sessions {
        let answer = session.send(Call::get("/v1/items")).await;
        good += usize::from(answer.is_ok_and(|answer| answer.status == 200));
    }
    good
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_has_open_ends_with_its_proof() {
    let cluster = Cluster::with_key("k1");
    let house = setup(cluster.jwks()).start().await;
    let writer = house.named("writer");
    let coder = house
        .agent()
        .named("coder", &cluster.token("agents", "coder"));
    let mut of_writer = opened(&writer).await;
    let mut of_coder = opened(&coder).await;
    let head = format!(
        "CONNECT {API}:443 HTTP/1.1\r\nhost: {API}:443\r\n{}\r\n",
        bearer(&agent_token("writer"))
    );
    let tunnel = house.tunnel_by(&head).await;
    let tls = house.handshake(tunnel, API, "http/1.1").await.unwrap();
    let socket = WebSocket::open(tls, API, "").await;
    let mut socket = socket.map_err(|answer| answer.text()).unwrap();
    socket.say("hello").await;
    socket.hear().await.unwrap();

    // What has nothing to do with it ends nothing, and neither does one more key of the cluster.
    let both: Value = {
        let read = |text: String| serde_json::from_str::<Value>(&text).unwrap();
        let (mut all, next) = (read(cluster.jwks()), read(Cluster::with_key("k2").jwks()));
        let keys = all["keys"].as_array_mut().unwrap();
        keys.extend(next["keys"].as_array().unwrap().iter().cloned());
        all
    };
    fs::write(house.folder.path().join("jwks.json"), both.to_string()).unwrap();
    let drain = "drain: {timeout: 5s}\n";
    let more = format!("{drain}tunnel: [\"x.test:443\"]\n");
    reload(&house, drain, &more).await;
    assert_eq!(carrying(&mut of_writer).await, 2);
    assert_eq!(carrying(&mut of_coder).await, 2);
    socket.say("still").await;
    socket.hear().await.unwrap();

    let another = "another-token-0123456789abcdef";
    fs::write(house.folder.path().join("writer.token"), another).unwrap();
    reload(&house, drain, drain).await;
    assert_eq!(carrying(&mut of_writer).await, 0);
    assert_eq!(carrying(&mut of_coder).await, 2, "the other agent goes on");
    let ended = async { while socket.hear().await.is_ok() {} };
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    assert!(ended.is_ok(), "the WebSocket goes on");
    assert!(writer.open(API, 443, true).await.is_err());
    opened(&house.agent().named("writer", another)).await;

    // The key that signed its token is gone.
    let next = Cluster::with_key("k2").jwks();
    fs::write(house.folder.path().join("jwks.json"), next).unwrap();
    reload(&house, drain, drain).await;
    assert_eq!(carrying(&mut of_coder).await, 0);
    assert!(coder.open(API, 443, true).await.is_err());
    house.end().await;
}
