//! What is in the certificates, when they are made anew, and whether TLS clients take them.

use std::collections::HashSet;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::ResolvesServerCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::super::pem;
use super::super::{CaError, Leaves, Origin, Permitted, Root};
use super::{chain_of, host, leaves, openssl};
use crate::vocab::{Clock, WallTime};

const NOON: WallTime = WallTime(1_800_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A whole handshake and one message through memory; the client's error where it refuses.
pub(super) async fn talk(
    trusted: &rustls_pki_types::CertificateDer<'static>,
    certified: Arc<CertifiedKey>,
    name: &str,
) -> Result<(), rustls::Error> {
    let mut store = RootCertStore::empty();
    store.add(trusted.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    let resolver: Arc<dyn ResolvesServerCert> = Arc::new(SingleCertAndKey::from(certified));
    let server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(resolver);

    let (near, far) = tokio::io::duplex(16 * 1024);
    let serving = tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        if let Ok(mut tls) = acceptor.accept(far).await {
            tls.write_all(b"hello").await.unwrap();
            tls.shutdown().await.unwrap();
        }
    });
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let outcome = match connector.connect(name, near).await {
        Ok(mut tls) => {
            let mut text = String::new();
            tls.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "hello");
            Ok(())
        }
        Err(error) => Err(error.downcast::<rustls::Error>().unwrap()),
    };
    serving.await.unwrap();
    outcome
}

#[tokio::test]
async fn clients_take_a_leaf_for_its_host_and_for_no_other() {
    let clock = Clock::system();
    let leaves = leaves(
        Root::generate(&clock, &Permitted::Everything).unwrap(),
        &clock,
    );
    let trusted = leaves.root().certificate_der().clone();
    let long = format!("{}.test", ["a".repeat(60), "b".repeat(60)].join("."));
    for (asked, verified) in [
        ("api.items.test", "api.items.test"),
        ("API.items.test.", "api.items.test"),
        ("192.0.2.7", "192.0.2.7"),
        ("[2001:db8::7]", "2001:db8::7"),
        (&long, &long),
    ] {
        let certified = leaves.leaf(&host(asked)).unwrap().certified;
        assert_eq!(talk(&trusted, certified, verified).await, Ok(()), "{asked}");
    }
    let certified = leaves.leaf(&host("api.items.test")).unwrap().certified;
    for other in ["items.test", "x.api.items.test", "192.0.2.7"] {
        assert!(
            talk(&trusted, Arc::clone(&certified), other).await.is_err(),
            "{other}"
        );
    }
    let stranger = Root::generate(&clock, &Permitted::Everything).unwrap();
    assert!(
        talk(stranger.certificate_der(), certified, "api.items.test")
            .await
            .is_err()
    );
}

#[test]
fn a_leaf_says_exactly_what_it_should() {
    let clock = Clock::manual(NOON);
    let leaves = leaves(
        Root::generate(&clock, &Permitted::Everything).unwrap(),
        &clock,
    );
    let root = leaves.root().certificate_der().clone();
    let (_, root) = X509Certificate::from_der(&root).unwrap();
    let root_id = root
        .iter_extensions()
        .find_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
    assert!(root_id.is_some());

    for name in ["api.items.test", "[2001:db8::7]"] {
        let chain = chain_of(&leaves, name);
        assert_eq!(chain.len(), 1, "a self-signed root is not sent");
        let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
        assert_eq!(leaf.issuer().as_raw(), root.subject().as_raw());
        assert!(!leaf.is_ca());

        let validity = leaf.validity();
        let now = NOON.seconds();
        assert_eq!(validity.not_before.timestamp(), now - 3600);
        assert_eq!(validity.not_after.timestamp(), now + 23 * 3600);

        let names = leaf.subject_alternative_name().unwrap().unwrap();
        let expected = match host(name).ip() {
            None => GeneralName::DNSName("api.items.test"),
            Some(_) => {
                GeneralName::IPAddress(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7])
            }
        };
        assert_eq!(names.value.general_names, vec![expected]);

        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && !usage.any && !usage.client_auth && usage.other.is_empty());
        let usage = leaf.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.digital_signature());
        assert!(!usage.value.key_cert_sign());

        let mut own_id = None;
        let mut authority_id = None;
        for extension in leaf.iter_extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => own_id = Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    authority_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                _ => {}
            }
        }
        assert!(own_id.is_some() && own_id != root_id);
        assert_eq!(authority_id, root_id);
    }
}

#[test]
fn the_root_says_exactly_what_it_should() {
    let root = Root::generate(&Clock::manual(NOON), &Permitted::Everything).unwrap();
    let (_, certificate) = X509Certificate::from_der(root.certificate_der()).unwrap();
    let name = certificate.subject().to_string();
    let number = name.strip_prefix("CN=tokenward CA ").unwrap();
    assert!(number.len() == 8 && number.bytes().all(|b| b.is_ascii_hexdigit()));

    let basic = certificate.basic_constraints().unwrap().unwrap();
    assert!(basic.critical && basic.value.ca);
    assert_eq!(basic.value.path_len_constraint, Some(0));
    let usage = certificate.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign());
    // Bit 5 alone: it signs certificates and nothing else.
    assert_eq!(usage.value.flags, 1 << 5);
    assert!(!usage.value.digital_signature());

    let years = (root.not_after().seconds() - NOON.seconds()) / (24 * 3600);
    assert_eq!(years, 3652);
    assert_eq!(
        certificate.validity().not_after.timestamp(),
        root.not_after().seconds()
    );
}

#[test]
fn serials_are_long_positive_and_never_the_same() {
    let clock = Clock::manual(NOON);
    let leaves = leaves(
        Root::generate(&clock, &Permitted::Everything).unwrap(),
        &clock,
    );
    let mut seen = HashSet::new();
    for i in 0..50 {
        let chain = chain_of(&leaves, &format!("h{i}.test"));
        let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
        let serial = leaf.raw_serial().to_vec();
        assert!(serial.len() == 16 && (0x40..0x80).contains(&serial[0]));
        assert!(seen.insert(serial));
    }
}

#[test]
fn a_leaf_is_made_anew_at_half_of_its_life() {
    let clock = Clock::manual(NOON);
    let leaves = leaves(
        Root::generate(&clock, &Permitted::Everything).unwrap(),
        &clock,
    );
    let name = host("api.items.test");
    let first = leaves.leaf(&name).unwrap();
    assert_eq!(first.origin, Origin::Minted);
    clock.advance(HOUR * 11);
    let second = leaves.leaf(&name).unwrap();
    assert_eq!(second.origin, Origin::Reused);
    assert!(Arc::ptr_eq(&first.certified, &second.certified));
    clock.advance(HOUR);
    let third = leaves.leaf(&name).unwrap();
    assert_eq!(third.origin, Origin::Minted);
    assert_ne!(first.certified.cert, third.certified.cert);
    assert_eq!(leaves.len(), 1);
}

#[test]
fn no_leaf_outlives_the_root_and_none_comes_after_it() {
    let clock = Clock::manual(NOON);
    let leaves = leaves(
        Root::generate(&clock, &Permitted::Everything).unwrap(),
        &clock,
    );
    let name = host("api.items.test");
    clock.advance(Duration::from_secs(3652 * 24 * 3600) - HOUR);
    let chain = chain_of(&leaves, "api.items.test");
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    let end = leaves.root().not_after();
    assert_eq!(leaf.validity().not_after.timestamp(), end.seconds());

    clock.advance(HOUR);
    assert_eq!(leaves.leaf(&name).unwrap_err(), CaError::Expired);
    clock.advance(YEAR);
    assert_eq!(leaves.leaf(&name).unwrap_err(), CaError::Expired);
    assert_eq!(
        leaves.leaf(&host("other.test")).unwrap_err(),
        CaError::Expired
    );
}

#[test]
fn a_clock_before_the_root_mints_nothing() {
    let root = Root::generate(&Clock::manual(NOON), &Permitted::Everything).unwrap();
    let early = Clock::manual(WallTime(NOON.0 - 2 * 3_600_000));
    assert_eq!(
        leaves(root, &early).leaf(&host("a.test")).unwrap_err(),
        CaError::NotYetValid
    );
}

#[test]
fn a_hundred_callers_cost_one_signature() {
    let clock = Clock::manual(NOON);
    let leaves = leaves(
        Root::generate(&clock, &Permitted::Everything).unwrap(),
        &clock,
    );
    // The second round finds a stale leaf, which is another way through the cache.
    for _ in 0..2 {
        let gate = Barrier::new(100);
        let had: Vec<_> = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..100)
                .map(|_| {
                    scope.spawn(|| {
                        gate.wait();
                        leaves.leaf(&host("api.items.test")).unwrap()
                    })
                })
                .collect();
            callers.into_iter().map(|c| c.join().unwrap()).collect()
        });
        let minted = had.iter().filter(|l| l.origin == Origin::Minted).count();
        assert_eq!(minted, 1);
        assert!(
            had.iter()
                .all(|l| Arc::ptr_eq(&l.certified, &had[0].certified))
        );
        clock.advance(HOUR * 20);
    }
}

#[test]
fn names_without_end_do_not_grow_the_cache() {
    let clock = Clock::manual(NOON);
    let root = Root::generate(&clock, &Permitted::Everything).unwrap();
    let leaves = Leaves::new(root, clock, 64).unwrap();
    for i in 0..1000 {
        leaves.leaf(&host(&format!("h{i}.wild.test"))).unwrap();
    }
    assert!(leaves.len() <= 64, "{}", leaves.len());
    assert!(!leaves.is_empty());
}

#[test]
fn all_leaves_share_one_key() {
    let clock = Clock::manual(NOON);
    let leaves = leaves(
        Root::generate(&clock, &Permitted::Everything).unwrap(),
        &clock,
    );
    let key = |name: &str| {
        let chain = chain_of(&leaves, name);
        let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
        leaf.public_key().raw.to_vec()
    };
    assert_eq!(key("a.test"), key("b.test"));
    let (_, root) = X509Certificate::from_der(leaves.root().certificate_der()).unwrap();
    assert_ne!(key("a.test"), root.public_key().raw);
}

#[test]
fn openssl_accepts_the_chain_under_its_strict_rules() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let leaves = leaves(
        Root::generate(&clock, &Permitted::Everything).unwrap(),
        &clock,
    );
    std::fs::write(dir.path().join("ca.pem"), leaves.root().certificate_pem()).unwrap();
    let leaf = chain_of(&leaves, "api.items.test");
    std::fs::write(dir.path().join("leaf.pem"), pem::certificate(&leaf[0])).unwrap();
    let verify = |name: &str| {
        let arguments = [
            "verify",
            "-x509_strict",
            "-purpose",
            "sslserver",
            "-CAfile",
            "ca.pem",
            "-verify_hostname",
            name,
            "leaf.pem",
        ];
        openssl(&arguments, dir.path())
    };
    if let Some((good, text)) = verify("api.items.test") {
        assert!(good, "{text}");
        assert!(!verify("other.test").unwrap().0);
    }
}

#[test]
fn nothing_that_prints_shows_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(NOON);
    let root = Root::generate(&clock, &Permitted::Everything).unwrap();
    root.save(dir.path()).unwrap();
    let pem = std::fs::read_to_string(dir.path().join("ca.key")).unwrap();
    let secret: Vec<&str> = pem.lines().filter(|l| !l.starts_with('-')).collect();
    assert!(secret.len() >= 3);
    let shown = format!("{root:?} {root:#?} {}", root.certificate_pem());
    // The last line holds the public key, which the certificate repeats in another alignment at most.
    assert!(!secret[..2].iter().any(|line| shown.contains(line)));
    assert!(shown.contains("BEGIN CERTIFICATE") && !shown.contains("PRIVATE"));
}
