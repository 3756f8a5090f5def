//! The transparent listener and its rules, as far as a process without privileges can show them. What redirected
//! connections may and may not do is shown in network namespaces, by `tests/netns`.

use std::net::TcpListener;

use tempfile::TempDir;
use tokenward::listen::{RedirectMode, TransparentSettings};
use tokenward::rehearsal::{Options, Rehearsal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::kit::{API, House, PATIENCE, Setup, code, err, out, run, speak, tokenward};

fn transparent() -> Setup {
    Setup {
        tune: |plan| {
            plan.listen.transparent = vec![TransparentSettings {
                address: "127.0.0.1:0".parse().unwrap(),
                mode: RedirectMode::Redirect,
                agent: None,
            }];
        },
        ..Setup::usual()
    }
}

/// What was made to a listener itself is closed without a word, and counted.
async fn is_closed(house: &House, listener: std::net::SocketAddr, count: usize) {
    let hello: &[u8] = &[22, 3, 1, 0, 5, 1, 0, 0, 1, 0];
    let head = format!("GET / HTTP/1.1\r\nhost: {API}\r\n\r\n");
    for bytes in [hello, head.as_bytes()] {
        let mut stream = TcpStream::connect(listener).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut got = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut got)).await;
        // Closed with bytes unread, the system may say so.
        drop(ended.expect("the connection stays open"));
        assert!(got.is_empty(), "{got:?}");
    }
    let counted =
        format!("tokenward_security_events_total{{kind=\"transparent.not_redirected\"}} {count}");
    let metrics = house.metrics().await;
    assert!(metrics.contains(&counted), "{metrics}");
}

#[tokio::test]
async fn what_nobody_redirected_is_refused() {
    let house = transparent().start().await;
    let [listener] = house.running.transparent() else {
        panic!("one listener");
    };
    is_closed(&house, *listener, 2).await;
    // The same behind a socket that somebody else has bound.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let served = house
        .running
        .serve_redirected(socket, RedirectMode::Redirect, None);
    served.unwrap();
    is_closed(&house, address, 4).await;
    // The explicit proxy beside it knows its callers as ever.
    let target = format!("GET http://{API}/ HTTP/1.1\r\nhost: {API}\r\nconnection: close\r\n\r\n");
    let answer = speak(house.proxy(), target.as_bytes()).await;
    assert_eq!(answer.status(), 403);
    let written = house.end().await;
    let refused = written.requests();
    let loops = refused.iter().filter(|line| line["code"] == "proxy-loop");
    let doors = loops.map(|line| line["listener"].as_str().unwrap());
    assert_eq!(doors.collect::<Vec<_>>(), ["transparent"; 4]);
}

/// A placeholder that goes astray is noticed here as at the other doors.
#[tokio::test]
async fn a_placeholder_on_its_way_to_somewhere_else_is_refused() {
    let house = Setup::usual().start().await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mode = RedirectMode::Everywhere;
    house.running.serve_redirected(socket, mode, None).unwrap();
    let own = house.variable("default", "ITEMS_TOKEN");
    let evil = format!("evil.test:{}", address.port());
    for (field, code) in [
        ("x-note: nothing of ours".to_owned(), "destination-denied"),
        (
            format!("authorization: Bearer {own}"),
            "placeholder-mismatch",
        ),
    ] {
        let head =
            format!("GET / HTTP/1.1\r\nhost: {evil}\r\n{field}\r\nconnection: close\r\n\r\n");
        let answer = speak(address, head.as_bytes()).await;
        assert_eq!((answer.status(), answer.code()), (403, code.to_owned()));
    }
    let written = house.end().await;
    assert_eq!(written.of("placeholder.misused").len(), 1);
    assert!(!written.text.contains(&own));
}

#[tokio::test]
async fn rules_are_printed_without_privilege() {
    let rehearsal = Rehearsal::start(Options::default()).await.unwrap();
    let folder = TempDir::new().unwrap();
    let mut setup = Setup::usual();
    setup.listen = "127.0.0.1:8080, transparent: [127.0.0.1:15001, \"[::1]:15001\"]".into();
    setup.write(folder.path(), &rehearsal);
    let print = async |words: &[&str]| {
        let mut command = tokenward(folder.path());
        command.current_dir(folder.path());
        run(command.args(["netfilter", "print"]).args(words)).await
    };
    let printed = print(&["--exempt-gid", "1337"]).await;
    assert_eq!(code(&printed), 0, "{}", err(&printed));
    let text = out(&printed);
    assert!(text.contains("meta nfproto ipv6 tcp dport { 80, 443 } redirect to :15001"));
    let legacy = print(&["--exempt-gid", "1337", "--format", "iptables", "--json"]).await;
    let legacy: serde_json::Value = serde_json::from_str(&out(&legacy)).unwrap();
    for program in ["iptables", "ip6tables"] {
        let text = legacy["rules"][program].as_str().unwrap();
        assert!(text.contains("-j REDIRECT --to-ports 15001"), "{text}");
    }
    let wrong = print(&["--shape", "gateway"]).await;
    assert_eq!(code(&wrong), 2);
    let nowhere = print(&["--shape", "gateway", "--interface", "eth1"]).await;
    assert_eq!(code(&nowhere), 1);
    assert!(err(&nowhere).contains("0.0.0.0:15001"), "{}", err(&nowhere));
}

#[tokio::test]
async fn an_agent_with_a_listener_of_its_own_gets_no_proxy_variables() {
    let agents = "agents: {mute: {}}";
    let listener = "{address: 127.0.0.1:0, agent: mute}";
    let mut setup = Setup::usual().line(agents);
    setup.listen = format!("127.0.0.1:0, transparent: {listener}");
    let house = setup.start().await;
    let [seat] = house.running.seats() else {
        panic!("one agent");
    };
    let names: Vec<&str> = seat
        .environment
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert!(names.contains(&"SSL_CERT_FILE") && !names.contains(&"HTTPS_PROXY"));
    // At the explicit proxy it is nobody.
    let target = format!("GET http://{API}/ HTTP/1.1\r\nhost: {API}\r\nconnection: close\r\n\r\n");
    let answer = speak(house.proxy(), target.as_bytes()).await;
    assert_eq!(answer.status(), 407);
    drop(house.end().await);
}
