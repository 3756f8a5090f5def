//! Cookies of a service with a credential, over real sockets: kept with us and sent again, dropped, or passed by name.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokenward::config::{self, SecretReading};
use tokenward::rehearsal::{Call, Rehearsal, Service, SiteSettings};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;

use super::kit::{
    API, Credential, House, Origin, PATIENCE, Raw, Setup, Svc, WebSocket, agent_token, ask,
    eventually, read_head,
};
use super::revoke::post;

const HOST: &str = "shop.test";
const SESSION: &str = "sid-canary-0123456789abcdef";

/// What the API was sent: paths, and the `Cookie` fields that came with them.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(String, String)>>>);

impl Seen {
    /// The cookies of the last request.
    fn last(&self) -> String {
        self.0.lock().unwrap().last().unwrap().1.clone()
    }

    fn many(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// An API that opens sessions.
async fn shop(name: &str, seen: &Seen) -> Origin {
    let seen = seen.clone();
    Origin::raw(name, &["http/1.1"], move |stream| {
        serve(stream, seen.clone())
    })
    .await
}

async fn serve(mut stream: TlsStream<TcpStream>, seen: Seen) {
    let head = read_head(&mut stream).await.text();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let cookies = head
        .lines()
        .filter_map(|line| line.strip_prefix("cookie: "));
    let cookies = cookies.collect::<Vec<_>>().join(" | ");
    seen.0.lock().unwrap().push((path.clone(), cookies.clone()));
    let set = format!(
        "set-cookie: sid={SESSION}; Path=/; Secure; HttpOnly\r\nset-cookie: lang=en; Path=/\r\n"
    );
    let answer = match path.as_str() {
        "/set" => format!("HTTP/1.1 200 OK\r\n{set}content-length: 2\r\n\r\nok"),
        "/trailer" => format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{set}\r\n"
        ),
        "/out" => {
            "HTTP/1.1 200 OK\r\nset-cookie: sid=; Max-Age=0; Path=/\r\ncontent-length: 2\r\n\r\nok"
                .into()
        }
        "/v1/ws" => format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n{set}\
             sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        ),
        "/v1/items" if !cookies.contains("affinity=b7") => {
            "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: DPoP error=\"use_dpop_nonce\"\r\n\
             dpop-nonce: n-1\r\nset-cookie: affinity=b7\r\ncontent-length: 0\r\n\r\n"
                .into()
        }
        _ => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".into(),
    };
    stream.write_all(answer.as_bytes()).await.ok();
    stream.shutdown().await.ok();
}

/// A way to an API on which the next connection can be held.
#[derive(Clone, Default)]
struct Gate(Arc<GateState>);

#[derive(Default)]
struct GateState {
    holds: AtomicBool,
    arrived: Notify,
    go: Notify,
}

impl Gate {
    /// Listens in front of this address.
    async fn before(self, there: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let gate = self.0.clone();
                tokio::spawn(async move {
                    if gate.holds.swap(false, Ordering::SeqCst) {
                        gate.arrived.notify_one();
                        gate.go.notified().await;
                    }
                    let mut far = TcpStream::connect(there).await.unwrap();
                    // How it ends is the two ends' concern.
                    tokio::io::copy_bidirectional(&mut near, &mut far)
                        .await
                        .ok();
                });
            }
        });
        here
    }

    /// Holds the next connection. It has come when `arrived` says so.
    fn hold(&self) -> &GateState {
        self.0.holds.store(true, Ordering::SeqCst);
        &self.0
    }
}

/// Two agents in front of the shop, and one more line for the service.
async fn house(credential: Credential, line: &str) -> (House, Seen) {
    let (house, seen, _) = gated(credential, line).await;
    (house, seen)
}

async fn gated(credential: Credential, line: &str) -> (House, Seen, Gate) {
    let gate = Gate::default();
    let seen = Seen::default();
    let rehearsal = Rehearsal::start(tokenward::rehearsal::Options::default())
        .await
        .unwrap();
    let folder = TempDir::new().unwrap();
    let host = match credential {
        Credential::Oauth { .. } => API,
        _ => HOST,
    };
    let mut origin = shop(host, &seen).await;
    origin.address = gate.clone().before(origin.address).await;
    let service = Svc {
        name: "shop",
        host: host.into(),
        credential,
        rules: vec![r#"{allow: "* /**"}"#.into()],
        more: vec![line.into()],
        upstream: Some(origin.upstream(folder.path())),
    };
    let mut setup = Setup::of([service]).line("admin: {listen: 'unix:admin/a.sock'}");
    setup.agents = vec![("coder", "shop"), ("writer", "shop")];
    (setup.start_in(folder, rehearsal).await, seen, gate)
}

/// One request; the `Set-Cookie` fields that the agent got.
async fn get(house: &House, agent: &str, path: &str) -> Vec<String> {
    let call = Call::get(path).field("cookie", "own=1; sid=mine; lang=de");
    let answer = ask(&house.named(agent), host_of(house), false, call).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let lines = answer.headers.get_all("set-cookie").iter();
    lines.map(|v| v.to_str().unwrap().to_owned()).collect()
}

fn host_of(house: &House) -> &'static str {
    let text = fs::read_to_string(house.folder.path().join("tokenward.yaml")).unwrap();
    if text.contains(HOST) { HOST } else { API }
}

async fn reload(house: &House, from: &str, to: &str) {
    let file = house.folder.path().join("tokenward.yaml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&file, text.replace(from, to)).unwrap();
    let plan = config::load(&file, SecretReading::Resolve).unwrap();
    house.running.reload(plan).await.unwrap();
}

const KEPT: &str = "sid=sid-canary-0123456789abcdef; lang=en";

#[tokio::test(flavor = "multi_thread")]
async fn a_session_stays_with_us_and_goes_out_again() {
    let (house, seen) = house(Credential::ApiKey, "max_stream_age: 60s").await;
    assert!(get(&house, "coder", "/set").await.is_empty());
    assert_eq!(seen.last(), "", "the agent's own are dropped");
    get(&house, "coder", "/x").await;
    assert_eq!(seen.last(), KEPT);
    // It is this agent's alone.
    get(&house, "writer", "/x").await;
    assert_eq!(seen.last(), "");
    // The API ends it.
    get(&house, "coder", "/out").await;
    get(&house, "coder", "/x").await;
    assert_eq!(seen.last(), "lang=en");
    let written = house.end().await;
    assert!(!written.text.contains(SESSION));
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_set_nothing_and_a_switch_of_protocols_does() {
    let (house, seen) = house(Credential::Bearer, "max_stream_age: 60s").await;
    assert!(get(&house, "coder", "/trailer").await.is_empty());
    get(&house, "coder", "/x").await;
    assert_eq!(seen.last(), "");
    let head = connect(&house, "coder");
    let tunnel = house.tunnel_by(&head).await;
    let tls = house.handshake(tunnel, HOST, "http/1.1").await.unwrap();
    let socket = WebSocket::open(tls, HOST, "cookie: own=1\r\n").await;
    let head = socket.err().map(|answer| answer.text());
    assert_eq!(head, None, "it is open");
    assert_eq!(seen.last(), "");
    get(&house, "coder", "/x").await;
    assert_eq!(seen.last(), KEPT);
    house.end().await;
}

fn connect(house: &House, agent: &str) -> String {
    use base64::Engine as _;
    let host = host_of(house);
    let token = agent_token(agent);
    let credential = base64::engine::general_purpose::STANDARD.encode(format!("{agent}:{token}"));
    format!(
        "CONNECT {host}:443 HTTP/1.1\r\nhost: {host}:443\r\nproxy-authorization: Basic {credential}\r\n\r\n"
    )
}

async fn handshake(house: &House, path: &str, fields: &str) -> Raw {
    let tunnel = house.tunnel_by(&connect(house, "coder")).await;
    let tls = house.handshake(tunnel, HOST, "http/1.1").await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n{fields}\r\n");
    super::kit::exchange(tls, head.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_challenge_carries_what_the_challenge_set() {
    let oauth = Credential::oauth("svc-pkjwt", super::kit::Auth::PrivateKeyJwt, "dpop");
    let (house, seen) = house(oauth, "max_stream_age: 60s").await;
    assert!(get(&house, "coder", "/v1/items").await.is_empty());
    assert_eq!(seen.many(), 2);
    assert_eq!(seen.last(), "affinity=b7");
    // Another key, another session.
    let (status, report) = post(house.folder.path(), "/v1/rotate", &json!({})).await;
    assert_eq!(
        (status, &report["grants"][0]["renewed"]),
        (200, &json!(true)),
        "{report}"
    );
    get(&house, "coder", "/x").await;
    assert_eq!(seen.last(), "");
    house.end().await;
}

fn bearer() -> Credential {
    Credential::oauth("svc-bearer", super::kit::Auth::Basic, "bearer")
}

/// A token that is bound to no key looks like the one before it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_lent_before_a_rotation_neither_has_a_session_nor_leaves_one() {
    let (house, seen, gate) = gated(bearer(), "max_stream_age: 60s").await;
    let rotate = async || {
        let (status, report) = post(house.folder.path(), "/v1/rotate", &json!({})).await;
        let renewed = &report["grants"][0]["renewed"];
        assert_eq!((status, renewed), (200, &json!(true)), "{report}");
    };
    get(&house, "coder", "/set").await;
    get(&house, "coder", "/x").await;
    assert_eq!(seen.last(), KEPT);
    // It has its token, and waits for its connection meanwhile.
    let held = gate.hold();
    tokio::join!(get(&house, "coder", "/set"), async {
        held.arrived.notified().await;
        rotate().await;
        held.go.notify_one();
    });
    get(&house, "coder", "/x").await;
    assert_eq!(seen.last(), "", "the session is the old token's");

    let held = gate.hold();
    tokio::join!(get(&house, "coder", "/late"), async {
        held.arrived.notified().await;
        rotate().await;
        get(&house, "coder", "/set").await;
        held.go.notify_one();
    });
    assert_eq!(seen.last(), "", "the session is the new token's");
    get(&house, "coder", "/x").await;
    assert_eq!(seen.last(), KEPT);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_ends_sessions_also_where_its_operator_leaves() {
    let (house, seen) = house(bearer(), "max_stream_age: 60s").await;
    get(&house, "coder", "/set").await;
    get(&house, "coder", "/x").await;
    assert_eq!(seen.last(), KEPT);
    let issuer = Service::Issuer;
    let slow = |site: &mut SiteSettings| site.delay = Duration::from_millis(300);
    house.rehearsal.controls().site(issuer, slow);
    let before = house.rehearsal.seen_by(issuer).len();
    let socket = house.folder.path().join("admin/a.sock");
    let mut operator = UnixStream::connect(socket).await.unwrap();
    let order = "POST /v1/rotate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    operator.write_all(order.as_bytes()).await.unwrap();
    eventually("the issuer is asked", || {
        house.rehearsal.seen_by(issuer).len() > before
    })
    .await;
    drop(operator);
    let emptied = async {
        while !seen.last().is_empty() {
            get(&house, "coder", "/x").await;
        }
    };
    let emptied = tokio::time::timeout(PATIENCE, emptied).await;
    assert!(emptied.is_ok(), "the session goes on: {}", seen.last());
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_and_changes_of_the_service_empty_the_jar() {
    let (house, seen) = house(Credential::ApiKey, "max_stream_age: 60s").await;
    for agent in ["coder", "writer"] {
        get(&house, agent, "/set").await;
        get(&house, agent, "/x").await;
        assert_eq!(seen.last(), KEPT);
    }
    let (status, _) = post(
        house.folder.path(),
        "/v1/revoke",
        &json!({"agent": "coder"}),
    )
    .await;
    assert_eq!(status, 200);
    get(&house, "writer", "/x").await;
    assert_eq!(seen.last(), KEPT, "the other agent goes on");
    house.running.door().resume().await;
    get(&house, "coder", "/x").await;
    assert_eq!(seen.last(), "", "what was revoked does not come back");

    // A reload that changes something else keeps it.
    reload(
        &house,
        "drain: {timeout: 5s}\n",
        "drain: {timeout: 5s}\ntunnel: [\"x.test:443\"]\n",
    )
    .await;
    get(&house, "writer", "/x").await;
    assert_eq!(seen.last(), KEPT);
    // Of the way to the service, of its rules, of its credential: it is gone.
    for (from, to) in [
        ("max_stream_age: 60s", "max_stream_age: 61s"),
        ("* /**", "GET|POST /**"),
        ("name: x-api-key", "name: x-other-key"),
    ] {
        get(&house, "writer", "/set").await;
        get(&house, "writer", "/x").await;
        assert_eq!(seen.last(), KEPT);
        reload(&house, from, to).await;
        get(&house, "writer", "/x").await;
        assert_eq!(seen.last(), "", "{to}");
    }
    // So it is where its value is another.
    get(&house, "writer", "/set").await;
    fs::write(
        house.folder.path().join("api.key"),
        "another-key-0123456789",
    )
    .unwrap();
    reload(&house, "61s", "61s").await;
    get(&house, "writer", "/x").await;
    assert_eq!(seen.last(), "");
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_can_be_dropped_or_pass_by_name() {
    let (house, seen) = house(Credential::ApiKey, "session_cookies: drop").await;
    assert!(get(&house, "coder", "/set").await.is_empty());
    get(&house, "coder", "/x").await;
    assert_eq!(seen.last(), "");
    reload(
        &house,
        "session_cookies: drop",
        "session_cookies: {pass: [lang, theme]}",
    )
    .await;
    assert_eq!(get(&house, "coder", "/set").await, ["lang=en; Path=/"]);
    assert_eq!(seen.last(), "lang=de");
    get(&house, "coder", "/x").await;
    assert_eq!(seen.last(), "lang=de", "and nothing of ours");
    let text = handshake(
        &house,
        "/trailer",
        "te: trailers\r\ncookie: a=1; lang=fr; theme=x\r\n",
    );
    let text = text.await.text();
    assert!(!text.contains("lang=en"), "{text}");
    assert_eq!(seen.last(), "lang=fr; theme=x");
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_credential_cookies_are_the_agents() {
    let (house, seen) = house(Credential::Nothing, "max_stream_age: 60s").await;
    assert_eq!(get(&house, "coder", "/set").await.len(), 2);
    assert_eq!(seen.last(), "own=1; sid=mine; lang=de");
    house.end().await;
}
