//! Agents that are known by the certificate of their connection.

use std::fs;
use std::io;
use std::sync::Arc;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::Resumption;
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tempfile::TempDir;
use tokenward::config::{self, SecretReading};
use tokenward::rehearsal::Rehearsal;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::kit::{
    House, Identity, Setup, Svc, Written, agent_token, connect, eventually, get, reasons,
};

const ID: &str = "spiffe://example.org/ns/agents/sa/coder";

/// Who signs clients.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A client's certificate, and its key in PKCS #8.
type Client = (CertificateDer<'static>, Vec<u8>);

impl Ca {
    fn new() -> Self {
        Self::called("Clients")
    }

    fn called(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    fn client(&self, names: Vec<SanType>, change: impl Fn(&mut CertificateParams)) -> Client {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (cert.der().clone(), key.serialize_der())
    }

    fn svid(&self, id: &str) -> Client {
        self.client(vec![uri(id)], |_| {})
    }

    fn host(&self, name: &str) -> Client {
        self.client(vec![SanType::DnsName(name.try_into().unwrap())], |_| {})
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

/// How a client with this certificate, or none, speaks to a proxy under this CA.
fn client(identity: &Identity, shown: Option<&Client>) -> Arc<ClientConfig> {
    let mut trust = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(identity.ca_pem.as_bytes()).unwrap();
    trust.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trust);
    let mut config = match shown {
        Some((cert, key)) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.clone()));
            config
                .with_client_auth_cert(vec![cert.clone()], key)
                .unwrap()
        }
        None => config.with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

async fn shake(house: &House, config: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(house.proxy()).await?;
    let name = ServerName::try_from("proxy.test").unwrap();
    TlsConnector::from(config.clone())
        .connect(name, stream)
        .await
}

/// The status of a CONNECT by a client.
async fn knock(house: &House, config: &Arc<ClientConfig>, fields: &str) -> u16 {
    connect(&mut shake(house, config).await.unwrap(), fields).await
}

/// Whether the handshake ended with the connection. In TLS 1.3 the client learns of it when it reads.
async fn turned_away(house: &House, config: &Arc<ClientConfig>) -> bool {
    let Ok(mut stream) = shake(house, config).await else {
        return true;
    };
    stream.read(&mut [0; 16]).await.is_err()
}

/// `coder` by its SPIFFE ID, `builder` by a name of DNS, `pinned` by this certificate; `writer` has a token.
async fn house(ca: &Ca, pinned: &Client, more: &str) -> (House, Identity) {
    let identity = Identity::of(&["proxy.test"]);
    let folder = TempDir::new().unwrap();
    let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    put("listener.pem", &identity.cert_pem);
    put("listener.key", &identity.key_pem);
    put("clients.pem", &ca.pem);
    let mut setup = Setup::of([Svc::items(), Svc::keys()]);
    setup.listen = format!(
        "[{{address: 127.0.0.1:0, tls: {{cert: {{file: listener.pem}}, key: {{file: listener.key}}, client_ca: {{file: clients.pem}}{more}}}}}]"
    );
    setup.agents = ["coder", "builder", "pinned", "writer"]
        .map(|name| (name, "items"))
        .to_vec();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &pinned.0);
    let hex: String = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    setup.auth = vec![
        ("coder", format!("{{mtls: {{spiffe: \"{ID}\"}}}}")),
        ("builder", "{mtls: {dns: builder.agents.test}}".into()),
        ("pinned", format!("{{mtls: {{sha256: {hex}}}}}")),
    ];
    let rehearsal = Rehearsal::start(setup.options.clone()).await.unwrap();
    (setup.start_in(folder, rehearsal).await, identity)
}

fn token(name: &str) -> String {
    format!("proxy-authorization: Bearer {}\r\n", agent_token(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_names_its_agent() {
    let ca = Ca::new();
    let pinned = ca.client(vec![], |_| {});
    let (house, identity) = house(&ca, &pinned, "").await;
    let svid = ca.svid(ID);
    for shown in [&svid, &ca.host("builder.agents.test"), &pinned] {
        let config = client(&identity, Some(shown));
        let stream = shake(&house, &config).await.unwrap();
        assert_eq!(get(&house, stream, "").await, 200);
    }
    // Who shows none may have a token, and is nobody without.
    let bare = client(&identity, None);
    let stream = shake(&house, &bare).await.unwrap();
    assert_eq!(get(&house, stream, &token("writer")).await, 200);
    assert_eq!(knock(&house, &bare, "").await, 407);
    let written = house.end().await;
    let agents: Vec<_> = written
        .requests()
        .iter()
        .map(|l| l["agent"].clone())
        .collect();
    assert_eq!(agents[..4], ["coder", "builder", "pinned", "writer"]);
    assert_eq!(reasons(&written), ["absent"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_shown_must_be_one_agents() {
    let ca = Ca::new();
    let pinned = ca.client(vec![], |_| {});
    let (house, identity) = house(&ca, &pinned, "").await;
    // A certificate of the right CA that is no agent's: with its own token as little as with none.
    let both = vec![
        uri(ID),
        SanType::DnsName("builder.agents.test".try_into().unwrap()),
    ];
    let cases = [
        (
            ca.svid("spiffe://example.org/ns/agents/sa/x"),
            "",
            "unknown_certificate",
        ),
        (
            ca.client(vec![uri(ID), uri("https://x.test")], |_| {}),
            "",
            "unknown_certificate",
        ),
        (
            ca.svid("spiffe://example.org/y"),
            "writer",
            "unknown_certificate",
        ),
        (ca.svid(ID), "writer", "other_agent"),
        (ca.client(both, |_| {}), "", "other_agent"),
        (ca.svid(ID), "nobody", "unknown_token"),
    ];
    for (shown, name, why) in &cases {
        let fields = if name.is_empty() {
            String::new()
        } else {
            token(name)
        };
        let config = client(&identity, Some(shown));
        assert_eq!(knock(&house, &config, &fields).await, 407, "{why}");
    }
    assert!(house.rehearsal.seen().is_empty());
    let expected: Vec<&str> = cases.iter().map(|(.., why)| *why).collect();
    assert_eq!(reasons(&house.end().await), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_nobody_we_know_end_the_handshake() {
    // One has the right name and another key.
    let (ca, impostor, stranger) = (Ca::new(), Ca::new(), Ca::called("Others"));
    let pinned = ca.client(vec![], |_| {});
    let (house, identity) = house(&ca, &pinned, "").await;
    let over = ca.client(vec![uri(ID)], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let early = ca.client(vec![uri(ID)], |params| {
        params.not_before = rcgen::date_time_ymd(2090, 1, 1);
        params.not_after = rcgen::date_time_ymd(2091, 1, 1);
    });
    let server = ca.client(vec![uri(ID)], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    let own = {
        // Signed by itself.
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(ID)];
        let key = KeyPair::generate().unwrap();
        (
            params.self_signed(&key).unwrap().der().clone(),
            key.serialize_der(),
        )
    };
    let cases = [
        (impostor.svid(ID), "forged"),
        (stranger.svid(ID), "untrusted_certificate"),
        (own, "untrusted_certificate"),
        (server, "untrusted_certificate"),
        (over, "expired"),
        (early, "not_yet_valid"),
    ];
    for (shown, why) in &cases {
        assert!(
            turned_away(&house, &client(&identity, Some(shown))).await,
            "{why}"
        );
    }
    let metric = "tokenward_security_events_total{kind=\"auth.agent_failed\"} 6";
    let counted = house.metrics().await;
    assert!(counted.contains(metric), "{counted}");
    let written = house.end().await;
    let expected: Vec<&str> = cases.iter().map(|(_, why)| *why).collect();
    assert_eq!(reasons(&written), expected);
    let failed = written.of("auth.agent_failed");
    assert!(failed.iter().all(|line| line["listener"] == "handshake"));
    assert!(written.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_may_insist() {
    let ca = Ca::new();
    let pinned = ca.client(vec![], |_| {});
    let (house, identity) = house(&ca, &pinned, ", client_certificates: required").await;
    assert!(turned_away(&house, &client(&identity, None)).await);
    let config = client(&identity, Some(&ca.svid(ID)));
    let stream = shake(&house, &config).await.unwrap();
    assert_eq!(get(&house, stream, "").await, 200);
    assert_eq!(reasons(&house.end().await), ["absent"]);
}

/// A session that is taken up again is still its agent's, and a reload counts for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_taken_up_again_keeps_its_certificate() {
    let ca = Ca::new();
    let pinned = ca.client(vec![], |_| {});
    let (house, identity) = house(&ca, &pinned, "").await;
    let config = client(&identity, Some(&ca.svid(ID)));
    assert_eq!(knock(&house, &config, "").await, 200);
    let mut again = shake(&house, &config).await.unwrap();
    assert_eq!(
        again.get_ref().1.handshake_kind(),
        Some(HandshakeKind::Resumed)
    );
    assert_eq!(connect(&mut again, "").await, 200);
    let mut mixed = shake(&house, &config).await.unwrap();
    assert_eq!(
        mixed.get_ref().1.handshake_kind(),
        Some(HandshakeKind::Resumed)
    );
    assert_eq!(connect(&mut mixed, &token("writer")).await, 407);
    // A connection that was open before the agent went.
    let mut open = shake(&house, &config).await.unwrap();
    let file = house.folder.path().join("tokenward.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(ID, "spiffe://example.org/other")).unwrap();
    let plan = config::load(&file, SecretReading::Resolve).unwrap();
    house.running.reload(plan).await.unwrap();
    assert_eq!(connect(&mut open, "").await, 407);
    let mut resumed = shake(&house, &config).await.unwrap();
    assert_eq!(
        resumed.get_ref().1.handshake_kind(),
        Some(HandshakeKind::Resumed)
    );
    assert_eq!(connect(&mut resumed, "").await, 407);
    let expected = ["other_agent", "unknown_certificate", "unknown_certificate"];
    eventually("the lines", || {
        reasons(&Written::read(&house.audit_file())) == expected
    })
    .await;
    drop((again, mixed, open, resumed));
    house.end().await;
}

/// It was good when the connection began.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_ends_while_its_connection_is_open() {
    let ca = Ca::new();
    let pinned = ca.client(vec![], |_| {});
    let (house, identity) = house(&ca, &pinned, "").await;
    let now = tokenward::vocab::Clock::system().wall().seconds();
    let ends = time::OffsetDateTime::from_unix_timestamp(now + 4).unwrap();
    let brief = ca.client(vec![uri(ID)], |params| params.not_after = ends);
    let config = client(&identity, Some(&brief));
    let mut early = shake(&house, &config).await.unwrap();
    assert_eq!(connect(&mut early, "").await, 200);
    let mut open = shake(&house, &config).await.unwrap();
    let over = || tokenward::vocab::Clock::system().wall().seconds() > now + 4;
    eventually("the end", over).await;
    assert_eq!(connect(&mut open, "").await, 407);
    // Not by taking up the session either.
    assert_eq!(knock(&house, &config, "").await, 407);
    assert_eq!(reasons(&house.end().await), ["expired", "expired"]);
}
