//! Revocation: nothing is lent from the operator's word on, what is open is cut, and the issuer is told.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::Method;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};
use tokenward::rehearsal::{Call, Caller, CallerError, Service};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::kit::{
    API, House, KEYS, Served, Setup, Svc, Tls, WebSocket, ask, code, err, eventually, out,
    read_head, refused, run, token_of,
};

/// Says something to the operator's socket.
pub(super) async fn post(folder: &Path, target: &str, body: &Value) -> (u16, Value) {
    let mut stream = UnixStream::connect(folder.join("admin/a.sock"))
        .await
        .unwrap();
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream
        .write_all(format!("{head}{body}").as_bytes())
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

async fn revoke(house: &House, body: Value) -> Value {
    let (status, report) = post(house.folder.path(), "/v1/revoke", &body).await;
    assert_eq!(status, 200, "{report}");
    report
}

/// A house with an operator's socket and two agents that use the same services.
fn two_agents() -> Setup {
    let mut setup =
        Setup::of([Svc::items(), Svc::keys()]).line("admin: {listen: 'unix:admin/a.sock'}");
    setup.agents = vec![("coder", "items, keys"), ("writer", "items, keys")];
    setup
}

/// What the issuer was told to forget.
fn revocations(house: &House) -> Vec<String> {
    let seen = house.rehearsal.seen_by(Service::Issuer).into_iter();
    let of_it = seen.filter(|s| s.path.ends_with("/revoke") && s.status == Some(200));
    of_it
        .map(|s| {
            s.form
                .iter()
                .find(|(name, _)| name == "token")
                .unwrap()
                .1
                .clone()
        })
        .collect()
}

/// TLS inside a named agent's tunnel.
async fn inside(house: &House, agent: &str) -> Tls {
    use base64::Engine as _;
    let token = crate::kit::agent_token(agent);
    let credential = base64::engine::general_purpose::STANDARD.encode(format!("{agent}:{token}"));
    let head = format!(
        "CONNECT {API}:443 HTTP/1.1\r\nhost: {API}:443\r\nproxy-authorization: Basic {credential}\r\n\r\n"
    );
    let tunnel = house.tunnel_by(&head).await;
    house.handshake(tunnel, API, "http/1.1").await.unwrap()
}

async fn streaming(house: &House, agent: &str) -> Tls {
    let mut tls = inside(house, agent).await;
    let ask = format!("GET /v1/stream?n=100000&ms=20 HTTP/1.1\r\nhost: {API}\r\n\r\n");
    tls.write_all(ask.as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut tls).await.status(), 200);
    tls
}

/// Reads to the end, whatever it is like. When that was.
async fn end_of(mut tls: Tls) -> Instant {
    let mut bytes = vec![0; 16 * 1024];
    while tls.read(&mut bytes).await.is_ok_and(|n| n > 0) {}
    Instant::now()
}

async fn soon(what: &str, end: impl Future<Output = Instant>) -> Instant {
    let ended = timeout(Duration::from_secs(5), end).await;
    ended.unwrap_or_else(|_| panic!("{what} was not cut"))
}

/// Asks until it is told to stop: how many answers were 200, and what else came.
fn load(caller: Caller, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<(usize, Vec<String>)> {
    tokio::spawn(async move {
        let (mut good, mut other) = (0, Vec::new());
        while !stop.load(Ordering::Relaxed) {
            let answer = ask(&caller, API, true, Call::get("/v1/items")).await;
            match (answer.status.as_u16(), answer.code()) {
                (200, None) => good += 1,
                (status, code) => other.push(format!("{status} {}", code.unwrap_or_default())),
            }
        }
        (good, other)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_agents_revocation_cuts_all_it_has_open_and_nobody_else() {
    let house = two_agents().start().await;
    let (coder, writer) = (house.named("coder"), house.named("writer"));
    for caller in [&coder, &writer] {
        assert_eq!(
            ask(caller, API, true, Call::get("/v1/items")).await.status,
            200
        );
        let post = Call::new(Method::POST, "/v1/items").bytes("{}");
        assert!(ask(caller, API, true, post).await.status.is_success());
    }
    let stop = Arc::new(AtomicBool::new(false));
    let loads = [&coder, &coder, &writer, &writer].map(|c| load(c.clone(), stop.clone()));

    // An upload on HTTP/2, a stream, a WebSocket, a request without an answer, and half a head.
    let (feed, body) = mpsc::channel::<Bytes>(4);
    let pieces = stream::unfold(body, async |mut body| {
        let piece = body.recv().await?;
        Some((Ok::<_, std::io::Error>(Frame::data(piece)), body))
    });
    let mut upload = Call::new(Method::POST, "/v1/upload");
    upload.body = StreamBody::new(pieces).boxed_unsync();
    let mut session = coder.open(API, 443, true).await.unwrap();
    let upload = tokio::spawn(async move {
        let answer = session.send(upload).await;
        (answer, Instant::now())
    });
    let sent = Arc::new(AtomicUsize::new(0));
    let feeding = tokio::spawn({
        let sent = sent.clone();
        async move {
            while feed.send(Bytes::from(vec![b'x'; 1024])).await.is_ok() {
                sent.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    let download = streaming(&house, "coder").await;
    let mut others = streaming(&house, "writer").await;
    let mut socket = WebSocket::open(inside(&house, "coder").await, API, "")
        .await
        .map_err(|a| a.text())
        .unwrap();
    socket.say("hello").await;
    socket.hear().await.unwrap();
    let mut slow = inside(&house, "coder").await;
    let wait = format!("GET /v1/slow?ms=60000 HTTP/1.1\r\nhost: {API}\r\n\r\n");
    slow.write_all(wait.as_bytes()).await.unwrap();
    let mut half = inside(&house, "coder").await;
    half.write_all(format!("GET /v1/items HTTP/1.1\r\nhost: {API}\r\nx-slo").as_bytes())
        .await
        .unwrap();
    eventually("the slow request and the upload", || {
        house.at_api().iter().any(|s| s.path.contains("slow")) && sent.load(Ordering::Relaxed) > 20
    })
    .await;

    let keys: Vec<String> = house
        .at_api()
        .iter()
        .map(|s| token_of(s).to_owned())
        .collect();
    let begun = Instant::now();
    let socket = async {
        let mut last = (0, Vec::new());
        while let Ok(frame) = socket.hear().await {
            last = frame;
        }
        assert_eq!(
            last,
            (0x88, 1008_u16.to_be_bytes().to_vec()),
            "closed without a word"
        );
        Instant::now()
    };
    let upload = async {
        let (answer, end) = upload.await.unwrap();
        match answer {
            Ok(answer) => refused(&answer, 403, "service-revoked"),
            Err(CallerError::Http(_) | CallerError::Body) => {}
            Err(error) => panic!("{error}"),
        }
        end
    };
    let ends = async {
        tokio::join!(
            soon("the download", end_of(download)),
            soon("the WebSocket", socket),
            soon("the slow request", async {
                assert_eq!(read_head(&mut slow).await.status(), 403);
                Instant::now()
            }),
            soon("the half head", end_of(half)),
            soon("the upload", upload)
        )
    };
    let order = revoke(&house, json!({"agent": "coder"}));
    let (report, ends) = tokio::join!(order, ends);
    let after = house.at_api().len();
    let all = [ends.0, ends.1, ends.2, ends.3, ends.4];
    let spans: Vec<u128> = all.iter().map(|end| (*end - begun).as_millis()).collect();
    println!(
        "cut after ms (download, WebSocket, slow request, half a head, upload): {spans:?}; report {report}"
    );
    assert!(spans.iter().all(|ms| *ms <= 1000), "{spans:?}");
    assert!(report["cut"].as_u64() >= Some(4), "{report}");

    // The issuer confirmed both of its tokens, and the writer's live on.
    let grants = report["grants"].as_array().unwrap();
    let items = grants.iter().find(|g| g["service"] == "items").unwrap();
    assert_eq!(items["agent"], "coder");
    let fates: Vec<&Value> = items["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| &t["issuer"])
        .collect();
    assert_eq!(fates, ["confirmed", "confirmed"]);
    let told = revocations(&house);
    assert_eq!(told.len(), 2);
    let keys_grant = grants.iter().find(|g| g["service"] == "keys").unwrap();
    assert_eq!(
        (&keys_grant["grant"], &keys_grant["comes_back_by"]),
        (&json!("static"), &json!("reload"))
    );

    refused(
        &ask(&coder, API, true, Call::get("/v1/items")).await,
        403,
        "service-revoked",
    );
    refused(
        &ask(&coder, KEYS, true, Call::get("/v1/items")).await,
        403,
        "service-revoked",
    );
    assert_eq!(
        ask(&writer, KEYS, true, Call::get("/v1/items"))
            .await
            .status,
        200
    );
    let mut bytes = [0; 4096];
    for _ in 0..10 {
        assert!(
            timeout(Duration::from_secs(2), others.read(&mut bytes))
                .await
                .unwrap()
                .unwrap()
                > 0
        );
    }
    stop.store(true, Ordering::Relaxed);
    let mut results = Vec::new();
    for load in loads {
        results.push(load.await.unwrap());
    }
    for (_, other) in &results[..2] {
        assert!(
            !other.is_empty() && other.iter().all(|o| o == "403 service-revoked"),
            "{other:?}"
        );
    }
    for (good, other) in &results[2..] {
        assert!(*good > 0 && other.is_empty(), "{other:?}");
    }
    let before: Vec<&String> = told.iter().filter(|token| keys.contains(*token)).collect();
    assert_eq!(before.len(), 2, "tokens were revoked that were never used");
    // No byte with these tokens came after the operator's answer.
    for seen in house.at_api().iter().skip(after) {
        assert!(
            !told.iter().any(|token| token == token_of(seen)),
            "{seen:?}"
        );
    }
    let fed = sent.load(Ordering::Relaxed);
    feeding.abort();
    assert!(fed > 0);

    // Back by the operator's word, with another key.
    assert_eq!(house.running.door().resume().await, 1);
    assert_eq!(
        ask(&coder, API, true, Call::get("/v1/items")).await.status,
        200
    );
    let jkt = |token: &str| crate::kit::claims(token)["cnf"]["jkt"].clone();
    let last = house.at_api().last().map(|s| jkt(token_of(s))).unwrap();
    assert!(
        told.iter().all(|token| jkt(token) != last),
        "the key came back"
    );

    drop(others);
    let written = house.end().await;
    assert_eq!(written.of("access.revoked")[0]["agent"], "coder");
    assert_eq!(written.of("access.restored").len(), 1);
    let of_it = |l: &&Value| l["code"] == "service-revoked" && l["agent"] == "coder";
    let cut: Vec<Value> = written.requests().iter().filter(of_it).cloned().collect();
    let paths: Vec<&str> = cut
        .iter()
        .map(|l| l["path"].as_str().unwrap_or_default())
        .collect();
    for path in ["/v1/upload", "/v1/stream", "/v1/ws", "/v1/slow", ""] {
        assert_eq!(
            paths.iter().filter(|p| **p == path).count(),
            1,
            "{path}: {paths:?}"
        );
    }
    let revoked = written.of("token.revoked");
    assert!(revoked.len() == 2 && revoked.iter().all(|l| l["outcome"] == "confirmed"));
    assert!(
        written
            .requests()
            .iter()
            .all(|l| l["agent"] != "writer" || l["code"].is_null())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_down_is_told_when_it_is_back() {
    let house = two_agents().start().await;
    let coder = house.named("coder");
    assert_eq!(
        ask(&coder, API, true, Call::get("/v1/items")).await.status,
        200
    );
    house.rehearsal.take_down(Service::Issuer).await;
    let report = revoke(&house, json!({"service": "items"})).await;
    assert_eq!(
        report["grants"][0]["tokens"][0]["issuer"], "pending",
        "{report}"
    );
    refused(
        &ask(&coder, API, true, Call::get("/v1/items")).await,
        403,
        "service-revoked",
    );
    assert!(revocations(&house).is_empty());
    house.rehearsal.bring_up(Service::Issuer).await.unwrap();
    eventually("the revocation", || revocations(&house).len() == 1).await;
    let written = house.end().await;
    assert_eq!(written.of("token.revocation_pending").len(), 1);
    assert_eq!(written.of("token.revoked")[0]["outcome"], "confirmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_revoked_is_said_and_a_rehearsed_revocation_changes_nothing() {
    let house = two_agents().start().await;
    house
        .rehearsal
        .controls()
        .issuer(|issuer| issuer.revokes = false);
    let coder = house.named("coder");
    let get = async || ask(&coder, API, true, Call::get("/v1/items")).await;
    assert_eq!(get().await.status, 200);
    for compromise in [false, true] {
        let body = json!({"all": true, "dry_run": true, "compromise": compromise});
        let report = revoke(&house, body).await;
        assert_eq!(
            (&report["cut"], &report["dry_run"]),
            (&Value::Null, &json!(true))
        );
        assert_eq!(
            report["grants"][0]["tokens"],
            json!([{"kind": "access_token", "issuer": "impossible"}])
        );
        let back = if compromise { "new_value" } else { "reload" };
        assert_eq!(report["grants"][1]["comes_back_by"], back);
    }
    assert_eq!(get().await.status, 200);
    let report = revoke(&house, json!({"all": true})).await;
    assert_eq!(report["grants"][0]["tokens"][0]["issuer"], "impossible");
    refused(&get().await, 403, "service-revoked");
    for (body, status) in [
        (json!({}), 400),
        (json!({"all": true, "agent": "coder"}), 400),
        (json!({"service": "nothing"}), 404),
        (json!({"agent": "nobody"}), 404),
    ] {
        let (got, answer) = post(house.folder.path(), "/v1/revoke", &body).await;
        assert_eq!(got, status, "{answer}");
        if status == 404 {
            let message = answer["detail"].as_str().unwrap();
            assert!(
                message.contains("items") || message.contains("coder"),
                "{message}"
            );
        }
    }
    let written = house.end().await;
    assert_eq!(written.of("access.revoked").len(), 1);
    assert_eq!(written.of("token.revoked")[0]["outcome"], "unconfirmed");
}

/// A suspicion replaces key and token while requests go on, and not again within the minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspicion_brings_a_new_key_and_a_new_token() {
    let house = two_agents().start().await;
    let coder = house.named("coder");
    let get = async || ask(&coder, API, true, Call::get("/v1/items")).await.status;
    assert_eq!(get().await, 200);
    let key = |house: &House| {
        let status = house.running.door().status();
        status.first().and_then(|s| s.thumbprint.clone())
    };
    let before = key(&house);
    let grant = house.running.door().status()[0].grant.clone();
    for _ in 0..3 {
        let door = house.running.door();
        door.suspect(&grant.service, &grant.agent, "reflected");
    }
    eventually("the new token", || {
        key(&house).is_some_and(|k| Some(k) != before)
    })
    .await;
    assert_eq!(get().await, 200);
    let written = house.end().await;
    assert_eq!(written.of("grant.suspected").len(), 1);
    assert_eq!(written.of("grant.suspected")[0]["reason"], "reflected");
    assert_eq!(written.of("key.rotated").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verbs_say_what_was_done_and_a_compromise_outlives_a_restart() {
    let setup = Setup::of([Svc::items(), Svc::keys()])
        .line("store: {file: {path: state/store, key: {file: store.key}}}");
    let mut served = Served::start_with(setup, "info", |folder| {
        fs::write(folder.join("store.key"), "07".repeat(32)).unwrap();
    })
    .await;
    let verb = async |served: &Served, words: &[&str], exit: i32| {
        let done = run(&mut served.verb(words)).await;
        assert_eq!(
            code(&done),
            exit,
            "{words:?}: {} {}",
            out(&done),
            err(&done)
        );
        format!("{}{}", out(&done), err(&done))
    };
    let get = async |served: &Served| ask(&served.agent(), API, true, Call::get("/v1/items")).await;
    assert_eq!(get(&served).await.status, 200);

    verb(&served, &["revoke"], 2).await;
    verb(&served, &["revoke", "--all", "--service", "items"], 2).await;
    let unknown = verb(&served, &["revoke", "--service", "itms"], 1).await;
    assert!(unknown.contains("items, keys"), "{unknown}");
    let dry = verb(&served, &["revoke", "--service", "items", "--dry-run"], 0).await;
    assert!(
        dry.contains("would be stopped") && dry.contains("nothing was changed"),
        "{dry}"
    );
    assert_eq!(get(&served).await.status, 200);

    // A plain one ends with the operator's reload, and not with a hangup or a changed file. A broken file is in nobody's way.
    let said = verb(&served, &["revoke", "--service", "items"], 0).await;
    assert!(
        said.contains("1 access token: revoked, the issuer confirms"),
        "{said}"
    );
    assert!(said.contains("`tokenward reload`"), "{said}");
    refused(&get(&served).await, 403, "service-revoked");
    let whole = fs::read_to_string(&served.config).unwrap();
    fs::write(&served.config, whole.replace("services:", "servces:")).unwrap();
    let broken = verb(&served, &["reload"], 1).await;
    assert!(broken.contains("servces"), "{broken}");
    assert!(
        verb(&served, &["revoke", "--service", "keys"], 0)
            .await
            .contains("only its API")
    );
    fs::write(&served.config, &whole).unwrap();
    served.signal(rustix::process::Signal::HUP);
    eventually("the hangup", || {
        served.file("stderr.txt").contains("\"generation\":2")
    })
    .await;
    refused(&get(&served).await, 403, "service-revoked");
    let said = verb(&served, &["reload", "--json"], 0).await;
    let said: Value = serde_json::from_str(&said).unwrap();
    assert!(
        said["generation"].as_u64() >= Some(3) && said["restored"] == 2,
        "{said}"
    );
    assert_eq!(get(&served).await.status, 200);

    // What cannot be written down holds, and it is said that a restart would forget it.
    let store = served.folder.path().join("state/store");
    let away = store.with_extension("away");
    fs::rename(&store, &away).unwrap();
    let words = ["revoke", "--service", "keys", "--compromise"];
    let said = verb(&served, &words, 1).await;
    assert!(said.contains("a restart would forget it"), "{said}");
    fs::rename(&away, &store).unwrap();

    let said = verb(&served, &["revoke", "--all", "--compromise", "--json"], 0).await;
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["grants"][0]["comes_back_by"], "rotate");
    assert_eq!(said["remembered"], true);
    verb(&served, &["reload"], 0).await;
    refused(&get(&served).await, 403, "service-revoked");
    let says = |told: &str, line: &str| told.lines().any(|one| one == line);
    let told = verb(&served, &["status"], 0).await;
    let all = "all services (all agents): revoked, compromised";
    assert!(says(&told, all), "{told}");
    assert!(
        says(&told, "keys: no grant, binding static, revoked"),
        "{told}"
    );
    assert!(served.terminate().await.success());
    served.again().await;
    refused(&get(&served).await, 403, "service-revoked");
    let warned = served.file("stderr.txt");
    assert!(warned.contains("an earlier process has revoked access"));
    assert!(says(&verb(&served, &["status"], 0).await, all));
    // Without a name `rotate` brings nothing back; and a key that was compromised never comes back as it was.
    let nothing = verb(&served, &["rotate"], 0).await;
    assert!(nothing.contains("nothing to rotate"), "{nothing}");
    verb(&served, &["rotate", "--service", "keys"], 0).await;
    refused(&get(&served).await, 403, "service-revoked");
    let keys =
        async |served: &Served| ask(&served.agent(), KEYS, true, Call::get("/v1/items")).await;
    refused(&keys(&served).await, 403, "service-revoked");
    let back = verb(&served, &["rotate", "--service", "items"], 0).await;
    assert_eq!(
        back,
        "items (all agents): it was revoked and is lent again\n"
    );
    assert_eq!(get(&served).await.status, 200);
    let told = verb(&served, &["status"], 0).await;
    assert!(
        told.contains(&format!("{all}; came back since: items (all agents)")),
        "{told}"
    );
    fs::write(
        served.folder.path().join("api.key"),
        "another-key-0123456789",
    )
    .unwrap();
    verb(&served, &["reload"], 0).await;
    refused(&keys(&served).await, 502, "upstream-unauthorized");
    // The same by a restart.
    verb(&served, &["revoke", "--service", "keys", "--compromise"], 0).await;
    assert!(served.terminate().await.success());
    served.again().await;
    refused(&keys(&served).await, 403, "service-revoked");
    assert!(served.terminate().await.success());
    let third = "a-third-key-0123456789";
    fs::write(served.folder.path().join("api.key"), third).unwrap();
    served.again().await;
    refused(&keys(&served).await, 502, "upstream-unauthorized");
    assert!(served.terminate().await.success());
    served.again().await;
    assert_eq!(
        get(&served).await.status,
        200,
        "the store was told that it is back"
    );
    assert!(served.terminate().await.success());
}
