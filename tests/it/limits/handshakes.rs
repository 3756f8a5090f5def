//! TLS towards agents: floods of names, broken ClientHellos, old versions, other hosts' sessions.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::client::{Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokenward::rehearsal::Call;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::{events, series};
use crate::kit::{API, House, KEYS, PATIENCE, Setup, Svc, agent_token, ask, speak};

/// A wildcard that both agents have.
async fn wild() -> House {
    let mut wild = Svc::keys();
    wild.name = "wild";
    wild.host = "*.wild.rehearsal.test".into();
    wild.more.clear();
    let mut setup = Setup::of([Svc::keys(), wild]);
    setup.agents = vec![("a", "wild, keys"), ("b", "wild, keys")];
    setup.start().await
}

async fn greet(house: &House, agent: &str, host: &str) -> bool {
    let token = agent_token(agent);
    let head = format!(
        "CONNECT {host}:443 HTTP/1.1\r\nhost: {host}:443\r\nproxy-authorization: Bearer {token}\r\n\r\n"
    );
    let tunnel = house.tunnel_by(&head).await;
    house.handshake(tunnel, host, "http/1.1").await.is_ok()
}

async fn leaves(house: &House, result: &str) -> u64 {
    let labels = format!("result=\"{result}\"");
    series(house, "tokenward_leaf_certificates_total", &labels).await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_without_end_cost_one_agent_its_own_certificates() {
    let house = wild().await;
    // Nothing is made for names that no service has.
    let token = agent_token("a");
    let denied = format!(
        "CONNECT a.evil.test:443 HTTP/1.1\r\nhost: a.evil.test:443\r\nproxy-authorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(speak(house.proxy(), denied.as_bytes()).await.status(), 403);
    assert_eq!(leaves(&house, "minted").await, 0);

    let begun = Instant::now();
    let names: Vec<_> = (0..400)
        .map(|i| format!("n{i}.wild.rehearsal.test"))
        .collect();
    let made = join_all(names.iter().map(|name| greet(&house, "a", name))).await;
    let made = made.iter().filter(|ok| **ok).count() as u64;
    let most = 50 + 50 * (begun.elapsed().as_secs() + 3);
    assert!((50..=most).contains(&made), "{made} of {most}");
    let minted = leaves(&house, "minted").await;
    let refused = events(&house, "agent.certificates").await;
    assert_eq!(minted + refused, 400);
    // The other agent has its own, and what is made already costs nobody anything.
    assert!(greet(&house, "b", "new.wild.rehearsal.test").await);
    assert!(greet(&house, "b", "n0.wild.rehearsal.test").await || made < 400);
    let written = house.end().await.requests();
    let hasty = written.iter().filter(|l| l["code"] == "agent-rate-limited");
    assert_eq!(hasty.count() as u64, refused);
}

/// A record of a handshake with these bytes in it.
fn record(version: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[22, 3, version][..], &length, bytes].concat()
}

/// A ClientHello of a version, with extensions as they are given.
fn hello(version: u8, extensions: &[u8]) -> Vec<u8> {
    let length = u16::try_from(extensions.len()).unwrap().to_be_bytes();
    // Random, no session, ECDHE-ECDSA-AES128-SHA, RC4-SHA, no compression.
    let body = [
        &[3, version][..],
        &[7; 32],
        &[0],
        &[0, 4, 0xc0, 0x09, 0, 5],
        &[1, 0],
        &length,
        extensions,
    ]
    .concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1, length[1], length[2], length[3]][..], &body].concat()
}

/// Sends bytes into a tunnel, with a pause after each piece, and waits for its end; what came back.
async fn sent(house: &House, pieces: Vec<Vec<u8>>, pause: Duration) -> Vec<u8> {
    let tunnel = house.tunnel(API).await;
    let (mut reader, mut writer) = tunnel.into_split();
    let writing = tokio::spawn(async move {
        for piece in pieces {
            if writer.write_all(&piece).await.is_err() {
                break;
            }
            sleep(pause).await;
        }
        // Silence, and not an end.
        sleep(PATIENCE * 2).await;
    });
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, reader.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "a tunnel without a handshake stayed open");
    writing.abort();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_never_becomes_one_ends() {
    let house = House::start().await;
    let many: Vec<u8> = (0..10_000_u16)
        .flat_map(|i| [(i >> 8) as u8 | 0x40, i as u8, 0, 0])
        .collect();
    let many = hello(3, &many);
    let whole = record(1, &hello(3, &[]));
    let fragments =
        |bytes: &[u8], size: usize| bytes.chunks(size).map(|c| record(1, c)).collect::<Vec<_>>();
    let none = Duration::ZERO;
    let cases = [
        (vec![b"SSH-2.0-OpenSSH\r\n".to_vec()], none),
        (vec![vec![22, 3, 1, 0xff, 0xff, 1, 2, 3, 4]], none),
        (vec![vec![0x80, 0x2e, 1, 3, 0, 0, 0]], none),
        (fragments(&many, 16_000), none),
        (fragments(&many, 1), none),
        (vec![record(1, &[1, 0, 0x3f, 0xff]), vec![22; 40_000]], none),
        (vec![whole[..whole.len() / 2].to_vec()], none),
        (
            whole.iter().map(|b| vec![*b]).collect(),
            Duration::from_millis(300),
        ),
        (vec![vec![]], none),
    ];
    let tunnels = cases
        .into_iter()
        .map(|(pieces, pause)| sent(&house, pieces, pause));
    join_all(tunnels).await;
    assert_eq!(house.get("/v1/items").await.status, 200);
    assert!(house.metrics().await.contains("tokenward_panics_total 0"));
    let lines = house.end().await.requests();
    // Each is written down, and the good request.
    assert_eq!(lines.len(), 10, "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_are_refused() {
    let house = House::start().await;
    for version in [0, 1, 2] {
        let old = record(version, &hello(version, &[]));
        let answer = sent(&house, vec![old], Duration::ZERO).await;
        // A fatal alert: protocol_version, or handshake_failure.
        assert!(
            answer.len() == 7 && answer[0] == 21 && answer[5] == 2 && [70, 40].contains(&answer[6]),
            "{version}: {answer:?}"
        );
    }
    house.end().await;
}

/// A client that shows one server's session to every other.
#[derive(Debug)]
struct Anywhere(ClientSessionMemoryCache);

impl Anywhere {
    fn name() -> ServerName<'static> {
        ServerName::try_from("any.test").unwrap()
    }
}

impl ClientSessionStore for Anywhere {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(Self::name(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&Self::name())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(Self::name(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&Self::name())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&Self::name());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(Self::name(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&Self::name())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_resumed_at_its_host_and_nowhere_else() {
    let house = House::start().await;
    let mut trust = RootCertStore::empty();
    trust
        .add(CertificateDer::from_pem_slice(house.ca.as_bytes()).unwrap())
        .unwrap();
    for (version, name_sent) in [
        (&rustls::version::TLS13, true),
        (&rustls::version::TLS13, false),
        (&rustls::version::TLS12, true),
        (&rustls::version::TLS12, false),
    ] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(trust.clone())
            .with_no_client_auth();
        config.enable_sni = name_sent;
        let store = Arc::new(Anywhere(ClientSessionMemoryCache::new(8)));
        config.resumption = Resumption::store(store);
        let connector = TlsConnector::from(Arc::new(config));
        let visit = |host: &'static str| {
            let connector = connector.clone();
            let house = &house;
            async move {
                let tunnel = house.tunnel(host).await;
                let name = ServerName::try_from(host).unwrap();
                let mut tls = connector.connect(name, tunnel).await.unwrap();
                let head =
                    format!("GET /none HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
                tls.write_all(head.as_bytes()).await.unwrap();
                // Tickets come with the answer.
                let mut answer = Vec::new();
                tls.read_to_end(&mut answer).await.ok();
                tls.get_ref().1.handshake_kind().unwrap()
            }
        };
        let full = |kind| {
            matches!(
                kind,
                HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest
            )
        };
        assert!(full(visit(API).await));
        assert_eq!(visit(API).await, HandshakeKind::Resumed, "{version:?}");
        assert!(full(visit(KEYS).await), "{version:?} {name_sent}");
    }
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_in_a_tunnel_for_another_costs_no_certificate() {
    let house = wild().await;
    let token = agent_token("a");
    let head = format!(
        "CONNECT x.wild.rehearsal.test:443 HTTP/1.1\r\nhost: x.wild.rehearsal.test:443\r\nproxy-authorization: Bearer {token}\r\n\r\n"
    );
    let tunnel = house.tunnel_by(&head).await;
    house
        .handshake(tunnel, "y.wild.rehearsal.test", "h2")
        .await
        .unwrap_err();
    assert_eq!(leaves(&house, "minted").await, 0);
    assert_eq!(
        ask(&house.named("b"), KEYS, true, Call::get("/v1/items"))
            .await
            .status,
        200
    );
    house.end().await;
}
