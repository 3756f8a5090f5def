//! A CA that the operator brings along.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::super::{CaError, Root};
use super::{chain_of, leaves, openssl};
use crate::vocab::{Clock, Secret};

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn secret(pem: &str) -> Secret<Vec<u8>> {
    Secret::new(pem.as_bytes().to_vec())
}

#[test]
fn other_key_kinds_sign_too() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params("Corp").self_signed(&key).unwrap();
        let root =
            Root::from_pem(certificate.pem().as_bytes(), &secret(&key.serialize_pem())).unwrap();
        assert_eq!(root.certificate_der(), certificate.der());
        let clock = Clock::system();
        assert_eq!(chain_of(&leaves(root, &clock), "a.test").len(), 1);
    }
}

#[test]
fn a_given_key_is_saved_as_it_came() {
    let dir = tempfile::tempdir().unwrap();
    for (made, label) in [
        (
            &["ecparam", "-name", "prime256v1", "-genkey", "-noout"][..],
            "EC PRIVATE KEY",
        ),
        (&["genrsa", "-traditional", "2048"], "RSA PRIVATE KEY"),
    ] {
        let Some((_, text)) = openssl(made, dir.path()) else {
            return;
        };
        let pem = &text[text.find("-----BEGIN").unwrap()..];
        assert!(pem.contains(label));
        let key = KeyPair::from_pem(pem).unwrap();
        let certificate = params("Corp").self_signed(&key).unwrap();
        let root = Root::from_pem(certificate.pem().as_bytes(), &secret(pem)).unwrap();
        let place = dir.path().join(label);
        root.save(&place).unwrap();
        let again = Root::load(&place).unwrap();
        assert_eq!(again.certificate_der(), root.certificate_der());
    }
}

#[test]
fn an_intermediate_is_sent_along() {
    let top = KeyPair::generate().unwrap();
    let top_certificate = params("Corp Top").self_signed(&top).unwrap();
    let issuer = Issuer::new(params("Corp Top"), top);
    let key = KeyPair::generate().unwrap();
    let middle = params("Corp Agents").signed_by(&key, &issuer).unwrap();
    let pem = format!("{}{}", middle.pem(), top_certificate.pem());
    let root = Root::from_pem(pem.as_bytes(), &secret(&key.serialize_pem())).unwrap();
    assert_eq!(root.certificate_pem(), pem);
    let chain = chain_of(&leaves(root, &Clock::system()), "a.test");
    assert_eq!(
        chain[1..],
        [middle.der().clone(), top_certificate.der().clone()]
    );
}

#[test]
fn what_cannot_sign_is_refused() {
    let key = KeyPair::generate().unwrap();
    let pem = secret(&key.serialize_pem());
    let refused = |params: CertificateParams| {
        let certificate = params.self_signed(&key).unwrap();
        Root::from_pem(certificate.pem().as_bytes(), &pem).unwrap_err()
    };
    let mut leaf = params("Leaf");
    leaf.is_ca = IsCa::ExplicitNoCa;
    assert_eq!(refused(leaf), CaError::NotCa);
    let mut old = params("No basic constraints");
    old.is_ca = IsCa::NoCa;
    assert_eq!(refused(old), CaError::NotCa);
    let mut usage = params("Wrong usage");
    usage.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    assert_eq!(refused(usage), CaError::NotCa);

    let good = params("Corp").self_signed(&key).unwrap();
    let stranger = KeyPair::generate().unwrap();
    assert_eq!(
        Root::from_pem(good.pem().as_bytes(), &secret(&stranger.serialize_pem())).unwrap_err(),
        CaError::Mismatch
    );
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert!(matches!(
        Root::from_pem(good.pem().as_bytes(), &secret(encrypted)).unwrap_err(),
        CaError::Corrupt { file: "ca.key", .. }
    ));
}

#[test]
fn a_subject_that_leaves_could_not_repeat_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let made = |subject: &str| {
        let arguments = [
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "k.pem",
            "-out",
            "c.pem",
            "-days",
            "2",
            "-subj",
            subject,
            "-multivalue-rdn",
            "-addext",
            "keyUsage=critical,keyCertSign",
        ];
        let (good, text) = openssl(&arguments, dir.path())?;
        assert!(good, "{text}");
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        Some(Root::from_pem(&read("c.pem"), &Secret::new(read("k.pem"))))
    };
    if let Some(plain) = made("/C=DE/O=Corp/CN=Corp RSA CA") {
        let leaves = leaves(plain.unwrap(), &Clock::system());
        std::fs::write(
            dir.path().join("leaf.pem"),
            super::super::pem::certificate(&chain_of(&leaves, "a.test")[0]),
        )
        .unwrap();
        let verify = ["verify", "-x509_strict", "-CAfile", "c.pem", "leaf.pem"];
        let (good, text) = openssl(&verify, dir.path()).unwrap();
        assert!(good, "{text}");
        for subject in ["/DC=com/DC=corp/CN=CA", "/O=Corp+OU=Agents/CN=CA"] {
            assert_eq!(made(subject).unwrap().unwrap_err(), CaError::Subject);
        }
    }
}

#[test]
fn an_expired_ca_mints_nothing() {
    let key = KeyPair::generate().unwrap();
    let mut old = params("Old");
    old.not_before = rcgen::date_time_ymd(2001, 1, 1);
    old.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let certificate = old.self_signed(&key).unwrap();
    let root = Root::from_pem(certificate.pem().as_bytes(), &secret(&key.serialize_pem())).unwrap();
    let refused = leaves(root, &Clock::system()).leaf(&super::host("a.test"));
    assert_eq!(refused.unwrap_err(), CaError::Expired);
}

#[test]
fn a_list_of_certificates_has_an_end() {
    let key = KeyPair::generate().unwrap();
    let pem = params("Corp").self_signed(&key).unwrap().pem();
    let root = Root::from_pem(pem.repeat(9).as_bytes(), &secret(&key.serialize_pem()));
    assert!(matches!(
        root.unwrap_err(),
        CaError::Corrupt { file: "ca.pem", .. }
    ));
    let one = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    assert!(!one.is_empty());
}
