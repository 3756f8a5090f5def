//! For which hosts a CA can sign: what is written, what is read back, and what clients make of it.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, GeneralSubtree,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::super::{CaError, NameConstraints, Permitted, Root, pem};
use super::certificates::talk;
use super::{host, leaves, openssl};
use crate::vocab::{Clock, Host};

fn only(hosts: &[&str]) -> Permitted {
    Permitted::Only(hosts.iter().map(|text| host(text)).collect())
}

/// What a thief of `ca.key` would sign.
fn forged(dir: &std::path::Path, name: &Host) -> Arc<CertifiedKey> {
    let read = |file| std::fs::read_to_string(dir.join(file)).unwrap();
    let key = KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), key).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![match name {
        Host::Name(name) => SanType::DnsName(name.to_string().try_into().unwrap()),
        Host::Ip(ip) => SanType::IpAddress(*ip),
    }];
    params.use_authority_key_identifier_extension = true;
    let pair = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&pair, &issuer).unwrap();
    let der = PrivateKeyDer::from_pem_slice(pair.serialize_pem().as_bytes()).unwrap();
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).unwrap();
    Arc::new(CertifiedKey::new(vec![leaf.into()], signer))
}

#[tokio::test]
async fn name_constraints_bind_whoever_holds_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let root = Root::generate(&clock, &only(&["api.items.test", "192.0.2.7"])).unwrap();
    root.save(dir.path()).unwrap();
    let leaves = leaves(root, &clock);
    let trusted = leaves.root().certificate_der().clone();
    for (name, good) in [
        ("api.items.test", true),
        ("v2.api.items.test", true),
        ("192.0.2.7", true),
        ("items.test", false),
        ("xapi.items.test", false),
        ("evil.test", false),
        ("192.0.2.8", false),
        ("[2001:db8::7]", false),
    ] {
        let ours = leaves.leaf(&host(name));
        assert_eq!(ours.is_ok(), good, "{name}");
        if let Err(error) = &ours {
            assert_eq!(error, &CaError::NotPermitted, "{name}");
        }
        let both = ours
            .ok()
            .map(|leaf| leaf.certified)
            .into_iter()
            .chain([forged(dir.path(), &host(name))]);
        for leaf in both {
            std::fs::write(dir.path().join("leaf.pem"), pem::certificate(&leaf.cert[0])).unwrap();
            let bare = name.trim_matches(['[', ']']);
            assert_eq!(talk(&trusted, leaf, bare).await.is_ok(), good, "{name}");
            let arguments = ["verify", "-x509_strict", "-CAfile", "ca.pem", "leaf.pem"];
            if let Some((accepted, text)) = openssl(&arguments, dir.path()) {
                assert_eq!(accepted, good, "{name}: {text}");
            }
        }
    }
    assert_eq!(leaves.len(), 3);
}

#[tokio::test]
async fn a_root_for_no_host_signs_for_none() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::generate(&Clock::system(), &only(&[])).unwrap();
    root.save(dir.path()).unwrap();
    for name in ["a.test", "192.0.2.7", "[2001:db8::7]"] {
        assert!(!root.constraints().permit(&host(name)), "{name}");
        let leaf = forged(dir.path(), &host(name));
        let bare = name.trim_matches(['[', ']']);
        assert!(talk(root.certificate_der(), leaf, bare).await.is_err());
    }
}

#[test]
fn what_another_covers_is_not_written_twice() {
    let hosts = [
        "b.a.test",
        "a.test",
        "x.b.a.test",
        "ba.test",
        "192.0.2.7",
        "192.0.2.7",
        "a.test",
    ];
    let root = Root::generate(&Clock::system(), &only(&hosts)).unwrap();
    let (permitted, excluded) = root.constraints().subtrees();
    assert_eq!(permitted, ["192.0.2.7/32", "a.test", "ba.test"]);
    assert_eq!(excluded, ["::/0"]);
    let free = Root::generate(&Clock::system(), &Permitted::Everything).unwrap();
    assert!(free.constraints().is_empty() && free.constraints().permit(&host("a.test")));
}

#[test]
fn a_thousand_hosts_fit_and_too_many_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = |n: usize| {
        (0..n)
            .map(|i| host(&format!("{}.h{i}.test", "l".repeat(60))))
            .collect()
    };
    let root = Root::generate(&Clock::system(), &Permitted::Only(hosts(4096))).unwrap();
    root.save(dir.path()).unwrap();
    let loaded = Root::load(dir.path()).unwrap();
    assert_eq!(loaded.constraints(), root.constraints());
    assert_eq!(loaded.constraints().subtrees().0.len(), 4096);
    assert_eq!(
        Root::generate(&Clock::system(), &Permitted::Only(hosts(4097))).unwrap_err(),
        CaError::TooManyHosts
    );
}

/// The constraints of a CA that somebody else made.
fn of(permitted: Vec<GeneralSubtree>, excluded: Vec<GeneralSubtree>) -> NameConstraints {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.name_constraints = Some(rcgen::NameConstraints {
        permitted_subtrees: permitted,
        excluded_subtrees: excluded,
    });
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    NameConstraints::of_pem(certificate.pem().as_bytes()).unwrap()
}

#[test]
fn what_others_wrote_is_read_as_clients_read_it() {
    let dns = |text: &str| GeneralSubtree::DnsName(text.to_owned());
    let net = |text: &str, bits| {
        let address: std::net::IpAddr = text.parse().unwrap();
        GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(address, bits))
    };
    let mut corp = DistinguishedName::new();
    corp.push(DnType::OrganizationName, "Corp");
    let people = || GeneralSubtree::DirectoryName(corp.clone());
    for (permitted, excluded, name, good) in [
        (vec![dns("x.test")], vec![], "x.test", true),
        (vec![dns("X.Test")], vec![], "a.b.x.test", true),
        (vec![dns("x.test")], vec![], "evilx.test", false),
        (vec![dns(".x.test")], vec![], "a.x.test", true),
        (vec![dns(".x.test")], vec![], "x.test", false),
        (
            vec![dns("x.test")],
            vec![dns("s.x.test")],
            "s.x.test",
            false,
        ),
        (
            vec![dns("x.test")],
            vec![dns("s.x.test")],
            "a.s.x.test",
            false,
        ),
        (vec![dns("x.test")], vec![dns("s.x.test")], "t.x.test", true),
        (vec![], vec![dns("")], "a.test", false),
        // A constraint binds names of its kind only.
        (vec![dns("x.test")], vec![], "192.0.2.7", true),
        (vec![net("192.0.2.0", 24)], vec![], "192.0.2.7", true),
        (vec![net("192.0.2.0", 24)], vec![], "192.0.3.7", false),
        (vec![net("192.0.2.0", 24)], vec![], "[2001:db8::7]", true),
        (vec![], vec![net("192.0.2.7", 32)], "192.0.2.7", false),
        (vec![net("2001:db8::", 32)], vec![], "[2001:db8::7]", true),
        (vec![net("2001:db8::", 32)], vec![], "[2001:db9::7]", false),
        // Our leaves' subjects do not begin with the names of Corp.
        (vec![people()], vec![], "x.test", false),
        (vec![dns("x.test")], vec![people()], "x.test", true),
    ] {
        let told = format!("{permitted:?} {excluded:?} {name}");
        assert_eq!(of(permitted, excluded).permit(&host(name)), good, "{told}");
    }
}

#[test]
fn the_constraints_of_every_ca_in_the_chain_bind() {
    let dir = tempfile::tempdir().unwrap();
    let outer = Root::generate(&Clock::system(), &only(&["x.test"])).unwrap();
    let inner = Root::generate(&Clock::system(), &only(&["a.x.test", "y.test"])).unwrap();
    let both = inner.certificate_pem() + &outer.certificate_pem();
    let constraints = NameConstraints::of_pem(both.as_bytes()).unwrap();
    assert!(constraints.permit(&host("a.x.test")));
    assert!(!constraints.permit(&host("b.x.test")));
    assert!(!constraints.permit(&host("y.test")));
    assert_eq!(
        NameConstraints::of_folder(&dir.path().join("none")),
        Ok(None)
    );
    assert_eq!(NameConstraints::of_folder(dir.path()), Ok(None));
}

#[test]
fn a_root_is_replaced_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let make = |hosts: &[&str]| Root::generate(&Clock::system(), &only(hosts)).unwrap();
    make(&["a.test"]).save(dir.path()).unwrap();
    let second = make(&["b.test"]);
    assert!(matches!(
        second.save(dir.path()),
        Err(CaError::Exists { .. })
    ));
    let kept = Root::load_or_create(dir.path(), &Clock::system(), &only(&["b.test"])).unwrap();
    assert!(kept.constraints().permit(&host("a.test")));
    second.replace(dir.path()).unwrap();
    let loaded = Root::load(dir.path()).unwrap();
    assert_eq!(loaded.certificate_pem(), second.certificate_pem());
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let chain: Vec<CertificateDer<'_>> =
        CertificateDer::pem_slice_iter(loaded.certificate_pem().as_bytes())
            .map(Result::unwrap)
            .collect();
    assert_eq!(chain.len(), 1);
}
