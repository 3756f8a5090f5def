//! What is written down, what is counted, and how it all ends.

use std::collections::BTreeSet;
use std::time::Duration;

use http::Method;
use tokenward::rehearsal::{Call, Service};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::kit::{
    API, House, KEYS, Setup, Svc, WebSocket, Written, ask, eventually, refused, speak,
};

/// Requests of every kind, one after the other and side by side; how many they were.
async fn mixed(house: &House) -> usize {
    let agent = house.agent();
    for h2 in [false, true] {
        house.ask(h2, Call::get("/v1/items")).await;
        house.ask(h2, Call::get("/v2")).await;
        house
            .ask(h2, Call::new(Method::POST, "/v1/items").bytes("{}"))
            .await;
        ask(&agent, KEYS, h2, Call::get("/v1/items")).await;
        ask(&agent, "other.test", h2, Call::get("/")).await;
        house.ask(h2, Call::get("/v1/stream?n=3&ms=1")).await;
    }
    let session = agent.open(API, 443, true).await.unwrap();
    let calls = (0..40).map(|i| {
        let mut session = session.beside().unwrap();
        async move {
            session
                .send(Call::get(&format!("/v1/items/{i}")))
                .await
                .unwrap()
        }
    });
    futures_util::future::join_all(calls).await;
    12 + 40
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_one_line() {
    let house = House::start().await;
    let count = mixed(&house).await;
    let written = house.end().await;
    let requests = written.requests();
    assert_eq!(requests.len(), count);
    let ids: BTreeSet<_> = requests.iter().map(|l| l["request"].to_string()).collect();
    assert_eq!(ids.len(), count);
    for (i, line) in written.lines.iter().enumerate() {
        let first = written.lines[0]["seq"].as_u64().unwrap();
        assert_eq!(line["seq"], first + i as u64);
        for name in ["time", "event", "prev", "hash"] {
            assert!(line.get(name).is_some(), "{name}: {line}");
        }
    }
    for line in &requests {
        for name in [
            "agent",
            "decision",
            "method",
            "host",
            "status",
            "bytes_in",
            "bytes_out",
            "duration_ms",
            "overhead_us",
            "listener",
        ] {
            assert!(line.get(name).is_some(), "{name}: {line}");
        }
    }
    assert_eq!(written.of("process.started").len(), 1);
    assert_eq!(written.lines.last().unwrap()["event"], "process.stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_tells_what_happened() {
    let house = House::start().await;
    let post = Call::new(Method::POST, "/v1/items?secret=in-query").bytes("{\"a\":1}");
    assert_eq!(house.ask(true, post).await.status, 201);
    let proofs: Vec<_> = house
        .at_api()
        .iter()
        .map(|s| s.proof.clone().unwrap()["jti"].clone())
        .collect();
    let refusal = house.get("/v2?secret=in-query").await;
    let document: serde_json::Value = serde_json::from_slice(&refusal.body).unwrap();
    let written = house.end().await;
    assert!(!written.text.contains("in-query"));
    let [line, refused] = written.requests().try_into().unwrap();
    let issued = written.of("token.issued").pop().unwrap();
    for (name, expected) in [
        ("agent", "default".into()),
        ("service", "items".into()),
        ("rule", "allow POST /v1/items".into()),
        ("decision", "allowed".into()),
        ("method", "POST".into()),
        ("host", API.into()),
        ("path", "/v1/items".into()),
        ("scopes", serde_json::json!(["items:write"])),
        ("binding", "dpop".into()),
        ("jkt", issued["jkt"].clone()),
        ("lease", issued["lease"].clone()),
        ("proofs", proofs.into()),
        ("status", 201.into()),
        ("upstream_status", 201.into()),
        ("bytes_in", 7.into()),
        ("attempts", 2.into()),
        ("listener", "connect".into()),
    ] {
        assert_eq!(line[name], expected, "{name}: {line}");
    }
    assert_eq!(refused["decision"], "refused");
    assert_eq!(
        (&refused["code"], &refused["status"]),
        (&"policy-denied".into(), &403.into())
    );
    // The agent's own words for it lead to the line.
    let instance = format!("urn:uuid:{}", refused["request"].as_str().unwrap());
    assert_eq!(document["instance"], instance);
    assert!(refused.get("lease").is_none() && refused.get("upstream_status").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_down_is_not_done() {
    let mut setup = Setup::usual();
    setup.audit = Some("/dev/full");
    let house = setup.start().await;
    let mut answer = house.get("/v1/items").await;
    // Until the first line has failed nobody knows.
    for _ in 0..100 {
        if answer.status == 503 {
            break;
        }
        sleep(Duration::from_millis(20)).await;
        answer = house.get("/v1/items").await;
    }
    house.rehearsal.clear_seen();
    for h2 in [false, true] {
        refused(
            &house.ask(h2, Call::get("/v1/items")).await,
            503,
            "audit-unavailable",
        );
    }
    let absolute =
        format!("GET https://{API}/v1/items HTTP/1.1\r\nhost: {API}\r\nconnection: close\r\n\r\n");
    assert_eq!(
        speak(house.proxy(), absolute.as_bytes()).await.code(),
        "audit-unavailable"
    );
    assert!(house.rehearsal.seen().is_empty());
    assert_eq!(house.health("/readyz").await.status(), 503);
    assert_eq!(house.health("/livez").await.status(), 200);
    assert!(house.running.shut_down().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_lines_may_be_counted_instead() {
    let mut setup = Setup::usual();
    setup.audit = Some("/dev/full, when_full: count");
    let house = setup.start().await;
    for _ in 0..5 {
        assert_eq!(house.get("/v1/items").await.status, 200);
    }
    assert!(house.running.shut_down().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_happened() {
    let house = House::start().await;
    mixed(&house).await;
    house.lines(52).await;
    let text = house.metrics().await;
    for line in [
        r#"tokenward_requests_total{agent="default",code="",decision="allowed",service="items"} 46"#,
        r#"tokenward_requests_total{agent="default",code="",decision="allowed",service="keys"} 2"#,
        r#"tokenward_requests_total{agent="default",code="policy-denied",decision="refused",service="items"} 2"#,
        r#"tokenward_requests_total{agent="default",code="destination-denied",decision="refused",service=""} 2"#,
        r#"tokenward_tokens{binding="dpop",service="items",state="live"} 2"#,
        r#"tokenward_token_events_total{event="issued",service="items"} 2"#,
        r#"tokenward_token_health{service="items",state="healthy"} 2"#,
        r#"tokenward_dpop_nonce_challenges_total{peer="api",service="items"} 1"#,
        r#"tokenward_dpop_nonce_challenges_total{peer="issuer",service="items"} 1"#,
        r#"tokenward_request_duration_seconds_count 52"#,
        r#"tokenward_overhead_seconds_count 52"#,
        r#"tokenward_panics_total 0"#,
        r#"tokenward_audit_dropped_total 0"#,
        r#"tokenward_config_generation 1"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    // Label values come from the configuration only.
    assert!(
        !text.contains("other.test") && !text.contains("/v1/"),
        "{text}"
    );
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_listener_has_three_paths() {
    let house = House::start().await;
    assert_eq!(house.health("/livez").await.status(), 200);
    assert_eq!(house.health("/readyz").await.status(), 200);
    assert_eq!(house.health("/metrics").await.status(), 200);
    assert_eq!(house.health("/").await.status(), 404);
    // What an agent sends by way of a translated address is known by our name in it.
    for (via, status) in [("1.1 corp", 200), ("1.1 corp, 1.1 tokenward-abcd1234", 403)] {
        let asked =
            format!("GET /metrics HTTP/1.1\r\nhost: x\r\nvia: {via}\r\nconnection: close\r\n\r\n");
        let health = house.running.health().unwrap();
        assert_eq!(
            speak(health, asked.as_bytes()).await.status(),
            status,
            "{via}"
        );
    }
    let address = house.running.health().unwrap();
    let post = b"POST /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(speak(address, post).await.status(), 405);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_answer_is_finished_before_the_end() {
    for h2 in [false, true] {
        let house = House::start().await;
        assert_eq!(house.get("/v1/items").await.status, 200);
        let mut session = house.agent().open(API, 443, h2).await.unwrap();
        let slow = tokio::spawn(async move { session.send(Call::get("/v1/slow?ms=600")).await });
        eventually("the slow request", || {
            house.at_api().iter().any(|s| s.path == "/v1/slow")
        })
        .await;
        let (proxy, health, file) = (
            house.proxy(),
            house.running.health().unwrap(),
            house.audit_file(),
        );
        let ending = tokio::spawn(house.running.shut_down());
        // New connections are refused while the old one goes on.
        let mut closed = false;
        for _ in 0..100 {
            closed = TcpStream::connect(proxy).await.is_err();
            if closed {
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
        assert!(closed, "a drained proxy takes connections");
        let ready = speak(
            health,
            b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        .await;
        assert!(
            ready.status() == 503 && ready.text().contains("draining"),
            "{}",
            ready.text()
        );
        let answer = slow.await.unwrap().unwrap();
        assert_eq!(answer.text(), r#"{"slow":true}"#);
        assert!(ending.await.unwrap(), "the drain was cut short");
        let line = Written::read(&file).requests().pop().unwrap();
        assert_eq!(
            (&line["path"], line.get("ended")),
            (&"/v1/slow".into(), None)
        );
    }
}

/// What does not end in time is cut, and even then it has its line.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_in_time_is_written_down_too() {
    for h2 in [false, true] {
        let mut setup = Setup::usual();
        setup.drain = "{timeout: 300ms}";
        let house = setup.start().await;
        let mut session = house.agent().open(API, 443, h2).await.unwrap();
        let endless = session
            .start(Call::get("/v1/stream?n=2&ms=60000"))
            .await
            .unwrap();
        let waiting = tokio::spawn({
            let agent = house.agent();
            async move {
                agent
                    .call(API, 443, h2, Call::get("/v1/slow?ms=60000"))
                    .await
            }
        });
        eventually("the slow request", || {
            house
                .at_api()
                .iter()
                .any(|s| s.path == "/v1/slow" && s.status.is_none())
        })
        .await;
        let file = house.audit_file();
        assert!(!house.running.shut_down().await);
        let requests = Written::read(&file).requests();
        assert_eq!(requests.len(), 2, "{requests:#?}");
        assert!(waiting.await.unwrap().is_err());
        drop((session, endless));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_websocket_is_cut_at_the_end_and_written_down() {
    let mut setup = Setup::usual();
    setup.drain = "{timeout: 300ms}";
    let house = setup.start().await;
    let tls = house.inside(API).await;
    let Ok(mut socket) = WebSocket::open(tls, API, "").await else {
        panic!("no WebSocket")
    };
    socket.say("hello").await;
    socket.hear().await.unwrap();
    let file = house.audit_file();
    house.running.shut_down().await;
    let requests = Written::read(&file).requests();
    assert_eq!(requests.len(), 1, "{requests:#?}");
    assert_eq!(requests[0]["ended"], "early");
    let (first, why) = socket.hear().await.unwrap();
    assert_eq!((first, why), (0x88, 1001_u16.to_be_bytes().to_vec()));
    assert!(socket.hear().await.is_err());
}

/// An idle connection keeps nobody waiting.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_delay_the_end() {
    let house = House::start().await;
    let agent = house.agent();
    let mut one = agent.open(API, 443, false).await.unwrap();
    let mut two = agent.open(API, 443, true).await.unwrap();
    assert_eq!(one.send(Call::get("/v1/items")).await.unwrap().status, 200);
    assert_eq!(two.send(Call::get("/v1/items")).await.unwrap().status, 200);
    let begun = tokio::time::Instant::now();
    let bare = TcpStream::connect(house.proxy()).await.unwrap();
    let tunnel = house.tunnel(API).await;
    house.end().await;
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    drop((one, two, bare, tunnel));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_side_by_side_are_told_apart() {
    let mut setup = Setup::of([Svc::items()]);
    setup.agents = vec![("a", "items"), ("b", "items")];
    let house = setup.start().await;
    let (a, b) = (house.named("a"), house.named("b"));
    let calls = (0..20).map(|i| {
        let agent = if i % 2 == 0 { &a } else { &b };
        ask(agent, API, i % 3 == 0, Call::get("/v1/items"))
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(
        house
            .rehearsal
            .seen_by(Service::Api)
            .iter()
            .filter(|s| s.status == Some(200))
            .count(),
        20
    );
    let written = house.end().await;
    for name in ["a", "b"] {
        let of = written
            .requests()
            .into_iter()
            .filter(|l| l["agent"] == name);
        assert_eq!(of.count(), 10);
    }
}
