//! Rates, connections and names: what one agent, or somebody who is no agent, may use up at the doors.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokenward::rehearsal::{Call, Caller};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{events, two};
use crate::kit::{API, KEYS, PATIENCE, Raw, Served, Setup, Svc, ask, refused, speak};

async fn gets(caller: &Caller, count: usize) -> Vec<u16> {
    let session = caller.open(KEYS, 443, true).await.unwrap();
    let calls = (0..count).map(|_| {
        let mut session = session.beside().unwrap();
        async move {
            let answer = session.send(Call::get("/v1/items")).await.unwrap();
            if answer.status != 200 {
                refused(&answer, 429, "agent-rate-limited");
                assert!(answer.headers.contains_key("retry-after"));
            }
            answer.status.as_u16()
        }
    });
    join_all(calls).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_haste_is_told_so_and_no_other() {
    let house = two("limits: {per_agent: {requests_per_second: 5}}")
        .start()
        .await;
    let statuses = gets(&house.named("a"), 30).await;
    let through = statuses.iter().filter(|s| **s == 200).count();
    assert!((5..30).contains(&through), "{statuses:?}");
    let other = gets(&house.named("b"), 5).await;
    assert_eq!(other, [200; 5]);
    assert_eq!(house.at_static().len(), through + 5);
    assert_eq!(events(&house, "agent.rate").await, 30 - through as u64);
    // Each has its line.
    let lines = house.end().await.requests();
    assert_eq!(lines.len(), 35);
    let hasty = lines.iter().filter(|l| l["code"] == "agent-rate-limited");
    assert!(hasty.clone().all(|l| l["agent"] == "a"));
    assert_eq!(hasty.count(), 30 - through);
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_and_plain_requests_have_a_rate_too() {
    let house = two("limits: {per_agent: {requests_per_second: 3}}")
        .start()
        .await;
    let token = crate::kit::agent_token("a");
    let auth = format!("proxy-authorization: Bearer {token}\r\nconnection: close\r\n");
    for head in [
        format!("CONNECT nowhere.test:443 HTTP/1.1\r\nhost: nowhere.test:443\r\n{auth}\r\n"),
        format!("GET http://nowhere.test/ HTTP/1.1\r\nhost: nowhere.test\r\n{auth}\r\n"),
    ] {
        let answers = join_all((0..12).map(|_| speak(house.proxy(), head.as_bytes()))).await;
        let statuses: Vec<u16> = answers.iter().map(Raw::status).collect();
        assert!(statuses.iter().filter(|s| **s == 403).count() >= 3);
        assert!(statuses.contains(&429), "{statuses:?}");
    }
    house.end().await;
}

/// Connections that say nothing.
async fn silent(proxy: SocketAddr, count: usize) -> Vec<TcpStream> {
    join_all((0..count).map(|_| async { TcpStream::connect(proxy).await.unwrap() })).await
}

/// How many of them are closed, once that many must be.
async fn closed(streams: Vec<TcpStream>, at_least: usize) -> usize {
    let mut open = streams;
    let mut closed = 0;
    let waiting = async {
        while closed < at_least {
            let mut still = Vec::new();
            for mut stream in std::mem::take(&mut open) {
                let read = timeout(Duration::from_millis(1), stream.read(&mut [0; 1])).await;
                match read {
                    Ok(_) => closed += 1,
                    Err(_) => still.push(stream),
                }
            }
            open = still;
        }
    };
    timeout(PATIENCE, waiting)
        .await
        .expect("too few were closed");
    closed
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_of_one_source_make_room_for_each_other() {
    let house = two("limits: {per_agent: {connections: 10}}").start().await;
    let streams = silent(house.proxy(), 60).await;
    assert!(closed(streams, 50).await >= 50);
    let answer = ask(&house.named("b"), KEYS, true, Call::get("/v1/items")).await;
    assert_eq!(answer.status, 200);
    assert!(events(&house, "connections.silent").await >= 50);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_places_are_taken_silence_goes_first() {
    let house = two("limits: {connections: 8}").start().await;
    let b = house.named("b");
    let mut held = b.open(KEYS, 443, true).await.unwrap();
    let streams = silent(house.proxy(), 30).await;
    for _ in 0..3 {
        // Whoever is slow to say its name on a busy machine can be the one that makes room, and then comes again.
        let served = async {
            loop {
                match b.call(KEYS, 443, true, Call::get("/v1/items")).await {
                    Ok(answer) => break answer.status,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        assert_eq!(timeout(PATIENCE, served).await.unwrap(), 200);
    }
    // Who has said its name stays.
    assert_eq!(held.send(Call::get("/v1/items")).await.unwrap().status, 200);
    assert!(closed(streams, 20).await >= 20);
    drop(held);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_for_plain_requests_count_as_well() {
    let house = two("limits: {per_agent: {connections: 2}}").start().await;
    let token = crate::kit::agent_token("a");
    let head = format!(
        "GET http://nowhere.test/ HTTP/1.1\r\nhost: nowhere.test\r\nproxy-authorization: Bearer {token}\r\n\r\n"
    );
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(house.proxy()).await.unwrap();
        for _ in 0..2 {
            stream.write_all(head.as_bytes()).await.unwrap();
            let answer = crate::kit::read_head(&mut stream).await;
            assert_eq!(answer.status(), 403);
            let text = answer.text();
            let length = text.split("content-length: ").nth(1).unwrap();
            let length = length.split('\r').next().unwrap().parse().unwrap();
            stream.read_exact(&mut vec![0; length]).await.unwrap();
        }
        kept.push(stream);
    }
    // The answer says that the connection ends, and it does.
    let answer = speak(house.proxy(), head.as_bytes()).await;
    assert_eq!(
        (answer.status(), answer.code().as_str()),
        (429, "agent-rate-limited")
    );
    assert_eq!(events(&house, "agent.connections").await, 1);
    drop(kept);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_are_slowed_down_and_the_right_word_is_not() {
    let house = two("").start().await;
    let wrong = format!(
        "CONNECT {API}:443 HTTP/1.1\r\nhost: {API}:443\r\nproxy-authorization: Bearer guess\r\nconnection: close\r\n\r\n"
    );
    let answers = join_all((0..20).map(|_| speak(house.proxy(), wrong.as_bytes()))).await;
    let count = |status| answers.iter().filter(|a| a.status() == status).count();
    assert!(
        count(407) >= 5 && count(429) >= 1,
        "{} {}",
        count(407),
        count(429)
    );
    assert_eq!(count(407) + count(429), 20);
    let hasty = answers.iter().find(|a| a.status() == 429).unwrap();
    assert_eq!(hasty.code(), "agent-rate-limited");
    assert!(
        hasty.text().contains("retry-after: 1\r\n"),
        "{}",
        hasty.text()
    );
    // Other agents sit behind the same address; and clients that wait for the challenge get it.
    let answer = ask(&house.named("b"), KEYS, true, Call::get("/v1/items")).await;
    assert_eq!(answer.status, 200);
    let plain =
        format!("CONNECT {API}:443 HTTP/1.1\r\nhost: {API}:443\r\nconnection: close\r\n\r\n");
    let challenges = join_all((0..40).map(|_| speak(house.proxy(), plain.as_bytes()))).await;
    assert!(challenges.iter().all(|a| a.status() == 407));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credential_however_odd_is_more_than_wrong() {
    let house = two("").start().await;
    let long = "x".repeat(30_000);
    for odd in [
        format!("Bearer {long}"),
        format!("Basic {long}"),
        "Basic \u{e9}\u{ff}".to_owned(),
        "Bearer".to_owned(),
    ] {
        let head = format!(
            "CONNECT {API}:443 HTTP/1.1\r\nhost: {API}:443\r\nproxy-authorization: {odd}\r\nconnection: close\r\n\r\n"
        );
        assert_eq!(speak(house.proxy(), head.as_bytes()).await.status(), 407);
    }
    house.end().await;
}

/// Two agents at once, many requests, answers that say whose they are: none crosses over, and none comes from a cache.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_ever_reaches_the_other_agent() {
    const EACH: usize = 600;
    let mut setup =
        Setup::of([Svc::keys()]).line("limits: {per_agent: {requests_per_second: 100000}}");
    setup.agents = vec![("a", "keys"), ("b", "keys")];
    let house = setup.start().await;
    let agents = ["a", "b"].map(|name| (name, house.named(name)));
    for h2 in [true, false] {
        house.rehearsal.clear_seen();
        let workers = agents
            .iter()
            .flat_map(|agent| [agent; 6])
            .map(|(name, caller)| async move {
                let mut session = caller.open(KEYS, 443, h2).await.unwrap();
                for i in 0..EACH / 6 {
                    let mark = format!("{name}-{i}");
                    let call = Call::get("/v1/echo?same=url")
                        .field("x-mark", &mark)
                        .field("cache-control", "max-age=600");
                    let answer = session.send(call).await.unwrap();
                    assert_eq!(answer.status, 200);
                    let other = if *name == "a" { "\"b-" } else { "\"a-" };
                    let text = answer.text();
                    assert!(
                        text.contains(&format!("\"{mark}\"")) && !text.contains(other),
                        "{text}"
                    );
                }
            });
        join_all(workers).await;
        assert_eq!(house.at_static().len(), 2 * EACH);
    }
    house.end().await;
}

/// Denials as fast as they come: each has its line, and none is dropped.
#[tokio::test(flavor = "multi_thread")]
async fn every_denial_of_a_flood_is_written_down() {
    const DENIALS: usize = 3000;
    let house = two("limits: {per_agent: {requests_per_second: 100000, streams: 1000}}")
        .start()
        .await;
    let session = house.named("a").open(API, 443, true).await.unwrap();
    let mut answered = 0;
    while answered < DENIALS {
        let calls = (0..100).map(|_| {
            let mut session = session.beside().unwrap();
            async move { session.send(Call::get("/v1/denied/for/all")).await.unwrap() }
        });
        for answer in join_all(calls).await {
            refused(&answer, 403, "policy-denied");
            answered += 1;
        }
    }
    drop(session);
    let written = house.end().await;
    let denied = written.requests();
    assert_eq!(denied.len(), DENIALS);
    assert!(written.of("lines.dropped").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_never_use_up_the_last_files() {
    let mut setup = Setup::of([Svc::keys()]);
    setup.files = Some(200);
    let mut served = Served::start(setup, "info").await;
    assert!(served.file("stderr.txt").contains("fewer connections than"));
    // A tunnel each: these have said whose they are, and are not closed for others.
    let mut tunnels = Vec::new();
    let agent = served.agent();
    while let Ok(tunnel) = agent.open(KEYS, 443, false).await {
        tunnels.push(tunnel);
        assert!(tunnels.len() <= 75, "more connections than files for them");
    }
    assert_eq!(tunnels.len(), 75);
    // Health and the audit have theirs, and so has each tunnel for its API.
    let ready = speak(
        served.health,
        b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    );
    assert_eq!(ready.await.status(), 200);
    for tunnel in &mut tunnels {
        let answer = tunnel.send(Call::get("/v1/items")).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    drop(tunnels);
    assert!(!served.file("stderr.txt").contains("could not be accepted"));
    served.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_files_accepting_rests_and_goes_on_afterwards() {
    let mut served = Served::start(Setup::of([Svc::keys()]), "info").await;
    let agent = served.agent();
    let proxy = served.proxy("default");
    assert_eq!(
        ask(&agent, KEYS, true, Call::get("/v1/items")).await.status,
        200
    );
    served.limit_files(40);
    let streams = silent(proxy, 60).await;
    let failures = |served: &Served| {
        served
            .file("stderr.txt")
            .matches("could not be accepted")
            .count()
    };
    crate::kit::eventually("a failure to accept", || failures(&served) > 0).await;
    // The rests grow to half a second, so a second has no more than these.
    let before = failures(&served);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let rested = failures(&served) - before;
    assert!(rested <= 8, "{rested} attempts in a second");
    drop(streams);
    let goes_on = async {
        while agent
            .call(KEYS, 443, true, Call::get("/v1/items"))
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, goes_on).await.unwrap();
    served.limit_files(1000);
    served.terminate().await;
}
