use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, date_time_ymd};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::kit::*;
use crate::upstream::*;
use crate::vocab::Code;

/// A server that counts the application bytes that reach it.
async fn counting(tls: Arc<ServerConfig>) -> (Server, Arc<AtomicUsize>) {
    let heard = Arc::new(AtomicUsize::new(0));
    let count = heard.clone();
    let server = Server::start(Some(tls), move |mut io, _| {
        let count = count.clone();
        async move {
            let mut buffer = [0; 1024];
            while let Ok(n) = io.read(&mut buffer).await
                && n > 0
            {
                count.fetch_add(n, Ordering::SeqCst);
            }
        }
    })
    .await;
    (server, heard)
}

fn names(params: &mut CertificateParams, list: &[&str]) {
    let list: Vec<String> = list.iter().map(|&name| name.to_owned()).collect();
    params.subject_alt_names = CertificateParams::new(list).unwrap().subject_alt_names;
}

#[tokio::test]
async fn a_certificate_that_does_not_prove_the_name_ends_it_before_the_first_byte() {
    let world = World::new();
    let selfmade = {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let params = CertificateParams::new(vec!["api.test".to_owned()]).unwrap();
        server_config(params.self_signed(&key).unwrap().der().clone(), &key, &[])
    };
    let ca = &world.ca;
    let table = [
        ("wrong name", ca.server("other.test", &["h2"])),
        ("wildcard too deep", ca.server("*.api.test", &["h2"])),
        ("no name", ca.server_with(&[], &|_| {})),
        ("unknown authority", Ca::new().server("api.test", &[])),
        ("self-signed", selfmade),
        (
            "expired",
            ca.server_with(&[], &|params| {
                names(params, &["api.test"]);
                params.not_after = date_time_ymd(2020, 1, 1);
            }),
        ),
        (
            "not yet valid",
            ca.server_with(&[], &|params| {
                names(params, &["api.test"]);
                params.not_before = date_time_ymd(4000, 1, 1);
                params.not_after = date_time_ymd(4090, 1, 1);
            }),
        ),
        (
            "for clients",
            ca.server_with(&[], &|params| {
                names(params, &["api.test"]);
                params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            }),
        ),
        (
            "protocols that we do not speak",
            ca.server("api.test", &["spdy/3"]),
        ),
    ];
    for (name, tls) in table {
        let (server, heard) = counting(tls).await;
        let endpoint = world.endpoint(&server);
        let error = world.connect("a", &endpoint).await.err();
        assert_eq!(error, Some(UpstreamError::Tls), "{name}");
        settle().await;
        assert_eq!(heard.load(Ordering::SeqCst), 0, "{name}");
    }
    assert_eq!(UpstreamError::Tls.code(), Code::UpstreamTlsError);
}

#[tokio::test]
async fn our_own_ca_is_never_trusted() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let again = KeyPair::from_pem(&key.serialize_pem()).unwrap();
    let (ours, renewed, theirs) = (Ca::with_key(key), Ca::with_key(again), Ca::new());
    let forbidden = [ours.certificate()];
    let all = [
        ours.certificate(),
        renewed.certificate(),
        theirs.certificate(),
    ];
    let roots = Roots::of(all, &forbidden);
    assert_eq!(
        roots.len(),
        1,
        "a renewed certificate of our key is ours as well"
    );
    let settings = UpstreamSettings {
        roots,
        own_listeners: Vec::new(),
        limits: PoolLimits::default(),
        parent: None,
    };
    let upstream = Upstream::new(settings, Clock::system());
    let server = Server::start(Some(ours.server("api.test", &[])), |_, _| async {}).await;
    let with = |extra| TargetSettings {
        extra_roots: extra,
        ..target(server.address)
    };
    for certificate in [ours.certificate(), renewed.certificate()] {
        let refused = upstream.endpoint(&with(vec![certificate])).err();
        assert_eq!(refused, Some(EndpointError::OwnRoot));
    }
    let bad = upstream.endpoint(&with(vec![vec![1, 2, 3].into()])).err();
    assert_eq!(bad, Some(EndpointError::BadRoot));
    let world = World {
        ca: theirs,
        clock: Clock::system(),
        upstream,
    };
    let endpoint = world.endpoint(&server);
    let error = world.connect("a", &endpoint).await.err();
    assert_eq!(error, Some(UpstreamError::Tls));
}

#[tokio::test]
async fn an_additional_root_serves_its_own_service_only() {
    let world = World::new();
    let private = Ca::new();
    let server = Server::start(Some(private.server("api.test", &[])), |_, _| async {}).await;
    let settings = TargetSettings {
        extra_roots: vec![private.certificate()],
        ..target(server.address)
    };
    let internal = world.upstream.endpoint(&settings).unwrap();
    assert!(world.connect("a", &internal).await.is_ok());
    let public = world.endpoint(&server);
    assert_eq!(
        world.connect("a", &public).await.err(),
        Some(UpstreamError::Tls)
    );
}

#[tokio::test]
async fn both_protocols_and_both_tls_versions() {
    let world = World::new();
    let table: [(&[&str], http::Version); 4] = [
        (&["h2", "http/1.1"], http::Version::HTTP_2),
        (&["h2"], http::Version::HTTP_2),
        (&["http/1.1"], http::Version::HTTP_11),
        (&[], http::Version::HTTP_11),
    ];
    for (alpn, version) in table {
        for old in [false, true] {
            let mut tls = ServerConfig::clone(&world.ca.server("api.test", alpn));
            if old {
                let provider = rustls::crypto::aws_lc_rs::default_provider();
                let mut twelve = ServerConfig::builder_with_provider(Arc::new(provider))
                    .with_protocol_versions(&[&rustls::version::TLS12])
                    .unwrap()
                    .with_no_client_auth()
                    .with_cert_resolver(tls.cert_resolver.clone());
                twelve.alpn_protocols = tls.alpn_protocols.clone();
                tls = twelve;
            }
            let server = Server::start(Some(Arc::new(tls)), |mut io, _| async move {
                drop(io.read(&mut [0; 1]).await);
            })
            .await;
            let endpoint = world.endpoint(&server);
            let found = world.connect("a", &endpoint).await.unwrap();
            assert_eq!(found.version(), version, "{alpn:?}");
        }
    }
}

/// What the ClientHello said, as the server read it.
async fn hello(world: &World, origin: &str, certificate: &str) -> Option<String> {
    let (tx, rx) = tokio::sync::oneshot::channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let tls = world.ca.server(certificate, &["http/1.1"]);
    drop(tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let stream = tokio_rustls::TlsAcceptor::from(tls)
            .accept(tcp)
            .await
            .unwrap();
        let sni = stream.get_ref().1.server_name().map(str::to_owned);
        tx.send(sni).unwrap();
        let mut stream = stream;
        drop(stream.read(&mut [0; 1]).await);
        drop(stream.shutdown().await);
    }));
    let endpoint = world.upstream.endpoint(&target(address)).unwrap();
    let found = world
        .connect_as("a", origin, &endpoint, Protocol::Any)
        .await;
    assert!(found.is_ok(), "{:?}", found.err());
    rx.await.unwrap()
}

#[tokio::test]
async fn the_name_is_the_authoritys_whatever_is_dialled() {
    let world = World::new();
    let sni = hello(&world, "https://api.test", "api.test").await;
    assert_eq!(sni.as_deref(), Some("api.test"));
    // A literal goes without a name and must stand in the certificate as an address.
    let sni = hello(&world, "https://192.0.2.7", "192.0.2.7").await;
    assert_eq!(sni, None);
    let server = Server::start(Some(world.ca.server("api.test", &[])), |_, _| async {}).await;
    let endpoint = world.endpoint(&server);
    let error = world
        .connect_as("a", "https://192.0.2.7", &endpoint, Protocol::Any)
        .await
        .err();
    assert_eq!(error, Some(UpstreamError::Tls));
}

#[tokio::test]
async fn every_connection_shakes_hands_in_full() {
    let world = World::new();
    let server = Server::http1(Some(world.ca.server("api.test", &[])), |_| {
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".into()
    })
    .await;
    let endpoint = world.endpoint(&server);
    for _ in 0..3 {
        world.fetch("a", &endpoint).await;
    }
    assert_eq!((server.connections(), server.handshakes()), (3, 3));
}

#[tokio::test]
async fn closing_instead_of_a_handshake_is_not_a_certificate_error() {
    let world = World::new();
    let server = Server::start(None, |_, _| async {}).await;
    let endpoint = world.endpoint(&server);
    let error = world.connect("a", &endpoint).await.err();
    assert_eq!(error, Some(UpstreamError::Unreachable));
    // Clear text where TLS is expected is.
    let server = Server::start(None, |mut io, _| async move {
        drop(io.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
        drop(io.read(&mut [0; 1000]).await);
    })
    .await;
    let endpoint = world.endpoint(&server);
    let error = world.connect("a", &endpoint).await.err();
    assert_eq!(error, Some(UpstreamError::Tls));
}

#[test]
fn the_systems_bundle_is_found_by_path() {
    // Where the machine has none, the error says so.
    match Roots::system(&[]) {
        Ok(roots) => assert!(!roots.is_empty() && roots.bundle().is_some()),
        Err(error) => assert_eq!(error, RootsError::NotFound),
    }
}
