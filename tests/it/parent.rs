//! The proxy through which everything leaves: it is asked for each connection, gets its credential and nothing else,
//! and what it refuses is told in our own words.

use std::collections::HashMap;

use tempfile::TempDir;
use tokenward::rehearsal::{Alpn, Call, Rehearsal, Service};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::kit::{
    API, Credential, Forward, House, Identity, KEYS, Manner, Raw, Setup, Svc, ask, read_head,
    refused,
};

const CREDENTIAL: &str = "tokenward:parent-CANARY-4711";
/// The same in base64.
const BASIC: &str = "Basic dG9rZW53YXJkOnBhcmVudC1DQU5BUlktNDcxMQ==";

fn opens() -> Manner {
    Manner::Opens(HashMap::new())
}

/// A house that leaves through this proxy, with these further keys of `parent_proxy`.
async fn house(setup: Setup, scheme: &str, forward: &Forward, more: &str) -> House {
    let rehearsal = Rehearsal::start(setup.options.clone()).await.unwrap();
    house_in(
        TempDir::new().unwrap(),
        rehearsal,
        setup,
        scheme,
        forward,
        more,
    )
    .await
}

async fn house_in(
    folder: TempDir,
    rehearsal: Rehearsal,
    setup: Setup,
    scheme: &str,
    forward: &Forward,
    more: &str,
) -> House {
    std::fs::write(folder.path().join("corp.secret"), CREDENTIAL).unwrap();
    let port = forward.address.port();
    let line = format!(
        "parent_proxy: {{url: \"{scheme}://127.0.0.1:{port}\", auth: {{file: corp.secret}}{more}}}"
    );
    setup.line(&line).start_in(folder, rehearsal).await
}

/// Services that are reached by name, and where the proxy finds them.
async fn by_name() -> (Setup, Rehearsal, Manner) {
    let services = [Svc::items(), Svc::keys()].map(|service| Svc {
        upstream: Some("{ca: {file: ca.pem}}".into()),
        ..service
    });
    let mut setup = Setup::of(services);
    setup.more.push(format!("tunnel: [\"{KEYS}:8443\"]"));
    let rehearsal = Rehearsal::start(setup.options.clone()).await.unwrap();
    let known = [(API, rehearsal.api_addr()), (KEYS, rehearsal.static_addr())];
    let known = known.map(|(name, address)| (name.to_owned(), address));
    (setup, rehearsal, Manner::Opens(HashMap::from(known)))
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_leaves_through_the_parent() {
    for tls in [false, true] {
        for alpn in [Alpn::H1, Alpn::H2] {
            let (setup, rehearsal, manner) = by_name().await;
            rehearsal
                .controls()
                .site(Service::Api, |site| site.alpn = alpn);
            let identity = Identity::of(&["127.0.0.1"]);
            let forward = Forward::start(manner, tls.then_some(&identity)).await;
            let folder = TempDir::new().unwrap();
            std::fs::write(folder.path().join("corp.pem"), &identity.ca_pem).unwrap();
            let issuer = rehearsal.issuer_addr().to_string();
            let (scheme, more) = if tls {
                ("https", ", ca: {file: corp.pem}")
            } else {
                ("http", "")
            };
            let house = house_in(folder, rehearsal, setup, scheme, &forward, more).await;
            let agent = house.agent();
            for h2 in [false, true, true] {
                assert_eq!(
                    ask(&agent, API, h2, Call::get("/v1/items")).await.status,
                    200
                );
                assert_eq!(
                    ask(&agent, KEYS, h2, Call::get("/v1/items")).await.status,
                    200
                );
            }
            // A host that passes blind leaves the same way.
            let blind = format!("CONNECT {KEYS}:8443 HTTP/1.1\r\nhost: {KEYS}\r\n\r\n");
            drop(house.tunnel_by(&blind).await);
            let mut targets = forward.targets();
            targets.sort();
            targets.dedup();
            let mut expected = vec![
                format!("{API}:443"),
                format!("{KEYS}:443"),
                format!("{KEYS}:8443"),
                issuer,
            ];
            expected.sort();
            assert_eq!(targets, expected);
            for head in forward.heads() {
                let fields: Vec<_> = head.trim_end().split("\r\n").skip(1).collect();
                let target = head.split(' ').nth(1).unwrap();
                let (host, basic) = (
                    format!("Host: {target}"),
                    format!("Proxy-Authorization: {BASIC}"),
                );
                assert_eq!(fields, [host, basic]);
            }
            // Connections are kept and used again as ever: of calls by one protocol the second asked for no tunnel.
            let count = |target: String| forward.targets().iter().filter(|t| **t == target).count();
            assert!(
                count(format!("{API}:443")) <= 2 + usize::from(alpn == Alpn::H1),
                "{:?}",
                forward.targets()
            );
            for seen in house.rehearsal.seen() {
                let text = format!("{seen:?}");
                assert!(
                    seen.header("proxy-authorization").is_none() && !text.contains("CANARY"),
                    "{text}"
                );
            }
            let written = house.end().await;
            assert!(!written.text.contains("CANARY") && !written.text.contains(BASIC));
        }
    }
}

/// The tunnel is TLS from end to end, whatever the proxy does.
#[tokio::test(flavor = "multi_thread")]
async fn the_parent_cannot_pose_as_the_api() {
    let (setup, rehearsal, _) = by_name().await;
    let thief = Identity::of(&[API]);
    let origin = Forward::start(opens(), Some(&thief)).await;
    let manner = Manner::Opens(HashMap::from([(API.to_owned(), origin.address)]));
    let forward = Forward::start(manner, None).await;
    let folder = TempDir::new().unwrap();
    let house = house_in(folder, rehearsal, setup, "http", &forward, "").await;
    refused(&house.get("/v1/items").await, 502, "upstream-tls-error");
    assert!(origin.heads().is_empty() && house.at_api().is_empty());
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_parent_refuses_is_told_in_our_own_words() {
    let says = |text: &str| Manner::Says(format!("{text}secret-of-corp\r\n"));
    let holds = |text: &str| Manner::Holds(text.to_owned());
    for (manner, status, code) in [
        (
            says(
                "HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic realm=corp\r\n\r\n",
            ),
            502,
            "upstream-unreachable",
        ),
        (
            says("HTTP/1.1 403 Forbidden\r\n\r\n"),
            502,
            "upstream-unreachable",
        ),
        (
            says("HTTP/1.0 503 No\r\ncontent-length: 16\r\n\r\n"),
            502,
            "upstream-unreachable",
        ),
        (
            says("HTTP/1.1 302 Found\r\nlocation: https://login.corp/\r\n\r\n"),
            502,
            "upstream-unreachable",
        ),
        (
            says("HTTP/1.1 504 Gateway Timeout\r\n\r\n"),
            504,
            "upstream-timeout",
        ),
        (
            says("SSH-2.0-OpenSSH_9.2\r\n\r\n"),
            502,
            "upstream-protocol-error",
        ),
        (
            says("HTTP/1.1 101 Switching Protocols\r\n\r\n"),
            502,
            "upstream-protocol-error",
        ),
        (says(""), 502, "upstream-protocol-error"),
        (holds(""), 504, "upstream-timeout"),
        (holds("HTTP/1.1 200 OK\r\nx: "), 504, "upstream-timeout"),
        // A tunnel that was opened, and leads nowhere.
        (holds("HTTP/1.1 200 OK\r\n\r\n"), 504, "upstream-timeout"),
        (says("HTTP/1.1 200 OK\r\n\r\n"), 502, "upstream-tls-error"),
    ] {
        let forward = Forward::start(manner, None).await;
        let keys = Svc::keys().line("timeouts: {connect: 300ms}");
        let house = house(Setup::of([keys]), "http", &forward, "").await;
        let answer = ask(&house.agent(), KEYS, true, Call::get("/v1/items")).await;
        refused(&answer, status, code);
        assert!(!format!("{answer:?}").contains("corp"), "{answer:?}");
        assert_eq!(forward.heads().len(), 1, "{code}");
        house.end().await;
    }
    // It is not there at all, or is somebody else.
    let forward = Forward::start(opens(), Some(&Identity::of(&["127.0.0.1"]))).await;
    let stranger = house(Setup::of([Svc::keys()]), "https", &forward, "").await;
    let answer = ask(&stranger.agent(), KEYS, true, Call::get("/v1/items")).await;
    refused(&answer, 502, "upstream-tls-error");
    assert!(
        forward.heads().is_empty(),
        "the credential went to a stranger"
    );
    stranger.end().await;
    let mut gone = Forward::start(opens(), None).await;
    gone.address = "127.0.0.1:9".parse().unwrap();
    let nobody = house(Setup::of([Svc::keys()]), "http", &gone, "").await;
    let answer = ask(&nobody.agent(), KEYS, true, Call::get("/v1/items")).await;
    refused(&answer, 502, "upstream-unreachable");
    nobody.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exceptions_are_dialled_directly() {
    for (except, items, keys) in [
        (API, false, true),
        ("rehearsal.test", false, false),
        (".test", false, false),
        ("127.0.0.0/8", false, false),
        ("127.0.0.1", false, false),
        ("al.test", true, true),
        ("10.0.0.0/8", true, true),
    ] {
        let forward = Forward::start(opens(), None).await;
        let more = format!(", except: [\"other.example\", \"{except}\"]");
        let house = house(Setup::usual(), "http", &forward, &more).await;
        assert_eq!(house.get("/v1/items").await.status, 200, "{except}");
        let answer = ask(&house.agent(), KEYS, true, Call::get("/v1/items")).await;
        assert_eq!(answer.status, 200, "{except}");
        let asked =
            |address: std::net::SocketAddr| forward.targets().contains(&address.to_string());
        let (api, fixed) = (house.rehearsal.api_addr(), house.rehearsal.static_addr());
        assert_eq!((asked(api), asked(fixed)), (items, keys), "{except}");
        house.end().await;
    }
}

/// What nobody may dial, nobody may ask the parent to dial.
#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_judged_before_the_parent_is_asked() {
    let forward = Forward::start(opens(), None).await;
    let hosts = ["10.1.2.3", "127.0.0.1", "169.254.169.254", "localhost"];
    let names = ["a", "b", "c", "d"].into_iter();
    let services = names.zip(hosts).map(|(name, host)| Svc {
        name,
        host: host.into(),
        credential: Credential::Nothing,
        more: Vec::new(),
        upstream: Some("{ca: {file: ca.pem}}".into()),
        ..Svc::keys()
    });
    let house = house(Setup::of(services), "http", &forward, "").await;
    for host in hosts {
        let answer = ask(&house.agent(), host, true, Call::get("/")).await;
        refused(&answer, 403, "destination-ip-prohibited");
    }
    assert_eq!(forward.targets(), [""; 0]);
    house.end().await;
}

/// A destination that speaks first may do so in the same breath as the proxy.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_behind_the_parents_answer_is_the_destinations() {
    let text = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n220 ready\r\n\r\n";
    let forward = Forward::start(Manner::Holds(text.into()), None).await;
    let mut setup = Setup::of([Svc::keys()]);
    setup.more.push("tunnel: [\"mail.test:465\"]".into());
    let house = house(setup, "http", &forward, "").await;
    let mut tunnel = tokio::net::TcpStream::connect(house.proxy()).await.unwrap();
    let head = "CONNECT mail.test:465 HTTP/1.1\r\nhost: mail.test:465\r\n\r\n";
    tunnel.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut tunnel).await.status(), 200);
    let mut greeting = vec![0; 13];
    tunnel.read_exact(&mut greeting).await.unwrap();
    assert_eq!(Raw(greeting).text(), "220 ready\r\n\r\n");
    drop(tunnel);
    drop(forward);
    house.running.shut_down().await;
}
