//! Certificates of agents, and those that look like them.

use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};

use super::*;

const ID: &str = "spiffe://example.org/ns/agents/sa/coder";

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

fn made(names: Vec<SanType>, change: impl Fn(&mut CertificateParams)) -> Certificate {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2027, 1, 1);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    Certificate::read(params.self_signed(&key).unwrap().der())
}

fn id(text: &str) -> CertificateName {
    CertificateName::Spiffe(SpiffeId::parse(text).unwrap())
}

fn dns(text: &str) -> CertificateName {
    CertificateName::Dns(Host::parse(text).unwrap())
}

#[test]
fn ids_have_one_spelling() {
    for text in [
        ID,
        "spiffe://a/b",
        "spiffe://a.b-c_d/A.b-C_d/9",
        "spiffe://1.2.3.4/x",
    ] {
        assert!(SpiffeId::parse(text).is_some(), "{text}");
    }
    assert_eq!(SpiffeId::parse(ID).unwrap().domain(), "example.org");
    let long = format!("spiffe://a/{}", "b".repeat(2048));
    let domain = format!("spiffe://{}/b", "a".repeat(256));
    for text in [
        "",
        "spiffe://",
        "spiffe:///x",
        "spiffe://a",
        "spiffe://a/",
        "spiffe://a/b/",
        "spiffe://a//b",
        "spiffe://a/./b",
        "spiffe://a/../b",
        "spiffe://A/b",
        "SPIFFE://a/b",
        "https://a/b",
        "spiffe://a:1/b",
        "spiffe://u@a/b",
        "spiffe://a/b?c",
        "spiffe://a/b#c",
        "spiffe://a/%62",
        "spiffe://a/b c",
        "spiffe://a/\u{e9}",
        " spiffe://a/b",
        &long,
        &domain,
    ] {
        assert!(SpiffeId::parse(text).is_none(), "{text}");
    }
}

#[test]
fn the_one_uri_of_an_svid_names_its_holder() {
    let svid = made(vec![uri(ID)], |_| {});
    assert!(svid.is(&id(ID)));
    assert!(!svid.is(&id("spiffe://example.org/ns/agents/sa/other")));
    assert!(!svid.is(&id("spiffe://example.com/ns/agents/sa/coder")));
    let host = SanType::DnsName("coder.test".try_into().unwrap());
    let both = made(vec![host, uri(ID)], |_| {});
    assert!(both.is(&id(ID)) && both.is(&dns("coder.test")));
}

#[test]
fn what_is_no_svid_names_nobody() {
    let two = vec![uri(ID), uri("https://coder.example/")];
    let cases = [
        made(two, |_| {}),
        made(vec![uri(ID), uri(ID)], |_| {}),
        made(vec![uri("spiffe://example.org/x/../ns")], |_| {}),
        made(
            vec![SanType::DnsName("spiffe.test".try_into().unwrap())],
            |_| {},
        ),
        made(vec![], |_| {}),
        // What may sign others is nobody itself.
        made(vec![uri(ID)], |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }),
        made(vec![uri(ID)], |params| {
            params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        }),
        made(vec![uri(ID)], |params| {
            params.key_usages.push(KeyUsagePurpose::CrlSign);
        }),
        made(vec![uri(ID)], |params| params.key_usages.clear()),
        Certificate::read(b""),
        Certificate::read(b"\x30\x03\x02\x01\x01"),
    ];
    for certificate in cases {
        assert!(!certificate.is(&id(ID)), "{certificate:?}");
    }
}

#[test]
fn names_are_exact_and_wildcards_are_none() {
    let names = ["Coder.TEST", "*.agents.test", "other.test"];
    let names = names.map(|name| SanType::DnsName(name.try_into().unwrap()));
    let certificate = made(names.to_vec(), |_| {});
    assert!(certificate.is(&dns("coder.test")) && certificate.is(&dns("other.test")));
    assert!(!certificate.is(&dns("x.agents.test")) && !certificate.is(&dns("test")));
}

#[test]
fn a_fingerprint_is_of_the_whole() {
    let (one, other) = (made(vec![uri(ID)], |_| {}), made(vec![uri(ID)], |_| {}));
    let of_one = CertificateName::Fingerprint(one.sha256);
    assert!(one.is(&of_one) && !other.is(&of_one));
}

#[test]
fn it_has_a_beginning_and_an_end() {
    let certificate = made(vec![uri(ID)], |_| {});
    let (begins, ends) = (1_767_225_600, 1_798_761_600);
    assert_eq!(certificate.holds(begins), Ok(()));
    assert_eq!(certificate.holds(ends), Ok(()));
    assert_eq!(
        certificate.holds(begins - 1),
        Err(Unauthenticated::NotYetValid)
    );
    assert_eq!(certificate.holds(ends + 1), Err(Unauthenticated::Expired));
    assert_eq!(
        Certificate::read(b"x").holds(begins),
        Err(Unauthenticated::Expired)
    );
}
