//! A changed configuration: as a whole, at once, or not at all.

use std::fs;
use std::path::Path;
use std::time::Duration;

use http::Method;
use rustix::process::Signal;
use tokenward::app::ReloadError;
use tokenward::config::{self, Plan, SecretReading};
use tokenward::rehearsal::Call;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::kit::{API, House, KEYS, Served, Setup, Svc, WebSocket, ask, eventually, refused};

#[expect(clippy::unwrap_used, reason = "a file of our own")]
fn load(file: &Path) -> Plan {
    config::load(file, SecretReading::Resolve).unwrap()
}

/// The house's own file after a change.
fn changed(house: &House, from: &str, to: &str) -> Plan {
    let file = house.folder.path().join("tokenward.yaml");
    let text = fs::read_to_string(&file).unwrap_or_default();
    assert!(text.contains(from), "{text}");
    let written = fs::write(&file, text.replace(from, to));
    assert!(written.is_ok());
    load(&file)
}

const STREAM_RULE: &str = r#"{allow: "GET|HEAD /v1/*", scopes: ["items:read"]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn rules_change_and_what_they_forbid_ends_at_once() {
    let house = House::start().await;
    assert_eq!(house.get("/v1/items").await.status, 200);

    // A stream, a WebSocket and a request that waits for its answer, all under the rule that will go.
    let mut stream = house.inside(API).await;
    let ask = format!("GET /v1/stream?n=1000&ms=50 HTTP/1.1\r\nhost: {API}\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut bytes = vec![0; 16 * 1024];
    assert!(stream.read(&mut bytes).await.unwrap() > 0);
    let tls = house.inside(API).await;
    let mut socket = WebSocket::open(tls, API, "")
        .await
        .map_err(|a| a.text())
        .unwrap();
    socket.say("hello").await;
    socket.hear().await.unwrap();
    let mut slow = house.inside(API).await;
    let ask = format!("GET /v1/slow?ms=20000 HTTP/1.1\r\nhost: {API}\r\n\r\n");
    slow.write_all(ask.as_bytes()).await.unwrap();
    eventually("the slow request", || {
        house.at_api().iter().any(|s| s.path.contains("slow"))
    })
    .await;
    // Another rule's, which stays.
    let mut kept = house.inside(KEYS).await;
    let ask = format!("GET /v1/stream?n=40&ms=50 HTTP/1.1\r\nhost: {KEYS}\r\n\r\n");
    kept.write_all(ask.as_bytes()).await.unwrap();

    let next = changed(
        &house,
        STREAM_RULE,
        r#"{allow: "GET /v1/echo", scopes: ["items:read"]}"#,
    );
    let done = house.running.reload(next).await.unwrap();
    assert_eq!((done.generation.0, done.ended), (2, 3));
    let cut = async {
        while stream.read(&mut bytes).await.is_ok_and(|n| n > 0) {}
        let (first, why) = socket.hear().await.unwrap();
        assert_eq!((first, why), (0x88, 1008_u16.to_be_bytes().to_vec()));
        assert!(socket.hear().await.is_err());
        let mut answer = vec![0; 4096];
        let n = slow.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..n]).into_owned()
    };
    let answer = timeout(Duration::from_secs(1), cut)
        .await
        .expect("cut at once");
    assert!(
        answer.contains(" 503 ") && answer.contains("config-changed"),
        "{answer}"
    );
    let mut all = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&all).contains("0\r\n\r\n") {
            let n = kept.read(&mut bytes).await.unwrap();
            assert!(n > 0, "the other service's stream was cut");
            all.extend_from_slice(&bytes[..n]);
        }
    };
    timeout(Duration::from_secs(10), read).await.unwrap();

    refused(&house.get("/v1/slow").await, 403, "policy-denied");
    assert_eq!(house.get("/v1/items").await.status, 200);
    // The token is the one of before.
    assert_eq!(house.token_requests().len(), 2);
    assert!(
        house
            .metrics()
            .await
            .contains("tokenward_config_generation 2")
    );
    let written = house.end().await;
    assert_eq!(written.of("config.reloaded")[0]["generation"], 2);
    let requests = written.requests();
    let cut = requests.iter().filter(|l| l["ended"] == "early").count();
    assert_eq!(cut, 2, "{}", written.text);
    assert!(requests.iter().all(|l| l["generation"].as_u64() <= Some(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn services_and_agents_come_and_go() {
    let mut setup = Setup::of([Svc::items(), Svc::keys()]);
    setup.agents = vec![("coder", "items"), ("writer", "items, keys")];
    let house = setup.start().await;
    let coder = house.named("coder");
    let get = || Call::get("/v1/items");
    assert_eq!(ask(&coder, API, true, get()).await.status, 200);
    assert_eq!(
        ask(&coder, KEYS, true, get()).await.code().as_deref(),
        Some("destination-denied")
    );

    let next = changed(&house, "services: [items]", "services: [items, keys]");
    let done = house.running.reload(next).await.unwrap();
    assert_eq!(ask(&coder, KEYS, true, get()).await.status, 200);
    let seat = done
        .seats
        .iter()
        .find(|s| s.agent.as_str() == "coder")
        .unwrap();
    assert!(
        seat.environment
            .iter()
            .any(|(name, _)| name == "KEYS_TOKEN")
    );

    // An agent that is gone calls no more, not through what it has open either.
    let next = changed(&house, "  writer: {", "  editor: {");
    let writer = house.named("writer");
    assert_eq!(ask(&writer, API, true, get()).await.status, 200);
    house.running.reload(next).await.unwrap();
    let gone = ask(&writer, API, true, get()).await;
    assert_eq!(gone.code().as_deref(), Some("agent-unauthenticated"));

    // A key that was replaced is used from the next request on, and the one of before not once more.
    fs::write(
        house.folder.path().join("api.key"),
        "another-key-0123456789",
    )
    .unwrap();
    let file = house.folder.path().join("tokenward.yaml");
    let next = config::load(&file, SecretReading::Resolve).unwrap();
    house.running.reload(next).await.unwrap();
    let answer = ask(&coder, KEYS, true, get()).await;
    refused(&answer, 502, "upstream-unauthorized");
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_proxy_cannot_change_is_named_and_changes_nothing() {
    let house = House::start().await;
    for (from, to, key) in [
        ("drain: ", "limits: {connections: 77}\ndrain: ", "limits"),
        ("audit.jsonl", "other.jsonl", "audit"),
        ("health: ", "# ", "health"),
    ] {
        let file = house.folder.path().join("tokenward.yaml");
        let before = fs::read_to_string(&file).unwrap();
        let next = changed(&house, from, to);
        fs::write(&file, before).unwrap();
        match house.running.reload(next).await {
            Err(ReloadError::Fixed(named)) => assert_eq!(named, key),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{key} was taken"),
        }
        assert_eq!(house.get("/v1/items").await.status, 200);
    }
    assert!(
        house
            .metrics()
            .await
            .contains("tokenward_config_reload_failures_total 3")
    );
    let written = house.end().await;
    let refused = written.of("config.refused");
    assert!(refused.len() == 3 && refused.iter().all(|l| l["generation"] == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_judged_by_one_of_two_policies_that_alternate() {
    let house = House::start().await;
    let open = changed(
        &house,
        STREAM_RULE,
        r#"{allow: "GET /v1/echo", scopes: ["items:read"]}"#,
    );
    let file = house.folder.path().join("tokenward.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("GET /v1/echo", "HEAD /v1/echo")).unwrap();
    let closed = config::load(&file, SecretReading::Resolve).unwrap();
    let agent = house.agent();
    let asking = async {
        let mut seen = [0_u32; 2];
        for _ in 0..300 {
            let answer = ask(&agent, API, true, Call::new(Method::GET, "/v1/echo")).await;
            match (answer.status.as_u16(), answer.code().as_deref()) {
                (200, None) => seen[0] += 1,
                (403, Some("policy-denied")) | (503, Some("config-changed")) => seen[1] += 1,
                other => panic!("{other:?} {}", answer.text()),
            }
        }
        seen
    };
    let reloading = async {
        loop {
            for plan in [&open, &closed] {
                house.running.reload(plan.clone()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        }
    };
    let seen = tokio::select! {
        seen = asking => seen,
        () = reloading => unreachable!(),
    };
    assert!(seen[0] > 30 && seen[1] > 30, "{seen:?}");
    let written = house.end().await;
    for line in written.requests() {
        let odd = line["generation"]
            .as_u64()
            .is_some_and(|g| g % 2 == 1 && g > 1);
        if line["code"] == "policy-denied" {
            assert_eq!(line["generation"], serde_json::Value::Null);
        } else if line["status"] == 200 {
            // The even generations are those that allow.
            assert!(!odd, "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_sees_a_changed_file_and_obeys_hangup() {
    let mut served = Served::start(Setup::usual(), "info").await;
    let get = || Call::get("/v1/echo");
    assert_eq!(ask(&served.agent(), API, true, get()).await.status, 200);
    let text = fs::read_to_string(&served.config).unwrap();
    let closed = text.replace(
        STREAM_RULE,
        r#"{allow: "HEAD /v1/echo", scopes: ["items:read"]}"#,
    );
    let log =
        |served: &Served| fs::read_to_string(served.folder.path().join("stderr.txt")).unwrap();

    // A broken one is said and changes nothing, also where what is wrong with it is longer than a line of the log.
    let long = "x".repeat(300);
    let wrong: String = (0..60).map(|n| format!("{long}{n}: 1\n")).collect();
    let broken = text.replace("services:", "servces:");
    fs::write(&served.config, format!("{wrong}{broken}")).unwrap();
    eventually("the word about it", || log(&served).contains("servces")).await;
    let said = log(&served);
    let lines = said.lines().filter(|line| line.contains("is not used"));
    assert!(lines.count() > 60, "{said}");
    assert_eq!(ask(&served.agent(), API, true, get()).await.status, 200);

    // Another file behind a link, as Kubernetes does it.
    let folder = served.folder.path();
    fs::create_dir(folder.join("next")).unwrap();
    fs::write(folder.join("next/tokenward.yaml"), &closed).unwrap();
    fs::remove_file(&served.config).unwrap();
    std::os::unix::fs::symlink("next/tokenward.yaml", folder.join("link")).unwrap();
    fs::rename(folder.join("link"), &served.config).unwrap();

    eventually("the reload", || log(&served).contains("\"generation\":2")).await;
    refused(
        &ask(&served.agent(), API, true, get()).await,
        403,
        "policy-denied",
    );

    served.signal(Signal::HUP);
    eventually("the reload", || log(&served).contains("\"generation\":3")).await;
    assert!(served.terminate().await.success());
}

/// A ConfigMap of Kubernetes: the file is a link into `..data`, which is a link to a folder, and that one is swapped.
#[tokio::test(flavor = "multi_thread")]
async fn serve_follows_the_swap_of_a_config_map() {
    let mut served = Served::start_with(Setup::usual(), "info", |folder| {
        let file = folder.join("tokenward.yaml");
        fs::create_dir(folder.join("..1")).unwrap();
        fs::rename(&file, folder.join("..1/tokenward.yaml")).unwrap();
        std::os::unix::fs::symlink("..1", folder.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/tokenward.yaml", &file).unwrap();
    })
    .await;
    let get = || Call::get("/v1/echo");
    assert_eq!(ask(&served.agent(), API, true, get()).await.status, 200);
    let folder = served.folder.path().to_owned();
    let swap = |number: u32, text: &str| {
        let name = format!("..{number}");
        fs::create_dir(folder.join(&name)).unwrap();
        fs::write(folder.join(&name).join("tokenward.yaml"), text).unwrap();
        std::os::unix::fs::symlink(&name, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        fs::remove_dir_all(folder.join(format!("..{}", number - 1))).unwrap();
    };
    let text = fs::read_to_string(&served.config).unwrap();
    let closed = text.replace(
        STREAM_RULE,
        r#"{allow: "HEAD /v1/echo", scopes: ["items:read"]}"#,
    );
    let log = |served: &Served| served.file("stderr.txt");
    swap(2, &closed);
    eventually("the swap", || log(&served).contains("\"generation\":2")).await;
    let answer = ask(&served.agent(), API, true, get()).await;
    refused(&answer, 403, "policy-denied");
    swap(3, &text.replace("services:", "servces:"));
    eventually("the word about it", || log(&served).contains("is not used")).await;
    swap(4, &text);
    eventually("the next swap", || {
        log(&served).contains("\"generation\":3")
    })
    .await;
    assert_eq!(ask(&served.agent(), API, true, get()).await.status, 200);
    assert!(served.terminate().await.success());
}
