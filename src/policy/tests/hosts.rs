//! Which service a destination is (attack class B, as far as it is policy).

use super::*;
use crate::vocab::Code;

fn plain(name: &str, hosts: &[&str]) -> ServiceSettings {
    let mut service = without_credential(service(name, hosts, &["allow GET /**"]));
    service.scheme = Scheme::Http;
    service.port = 80;
    service
}

/// The fixture of the attack corpus.
fn corpus() -> Snapshot {
    let mut settings = settings(vec![
        service(
            "ro",
            &["api.ro.test"],
            &["allow GET /v1/items/**", "allow GET /v1/public/**"],
        ),
        service("rw", &["api.rw.test"], &["allow GET|POST /v1/items"]),
        without_credential(service("wild", &["*.wild.test"], &["allow GET /**"])),
        service("deep", &["**.deep.example.com"], &["allow GET /**"]),
        service("idn", &["xn--bcher-kva.test"], &["allow GET /**"]),
        plain("plain", &["plain.test"]),
    ]);
    settings.agents = vec![
        may_use("A", &["ro", "rw", "wild", "deep", "idn", "plain"]),
        may_use("B", &["ro"]),
        may_use("none", &[]),
    ];
    settings.tunnel = vec![Authority::parse_connect("pinned.test:443").unwrap()];
    Snapshot::build(settings).unwrap()
}

fn admitted(snapshot: &Snapshot, who: &str, authority: &Authority) -> String {
    match snapshot.admits(&agent(who), authority) {
        Ok(Admission::Intercept(service)) => service.to_string(),
        Ok(Admission::Tunnel) => "tunnel".to_owned(),
        Err(Denial {
            code,
            service,
            rule,
        }) => {
            assert_eq!(rule, None);
            match service {
                Some(service) => format!("{code} {service}"),
                None => code.to_string(),
            }
        }
    }
}

#[test]
fn destinations_of_class_b() {
    let snapshot = corpus();
    for (connect, expected) in [
        ("api.ro.test:443", "ro"),
        ("api.ro.test.:443", "ro"),
        ("API.RO.TEST:443", "ro"),
        ("a.wild.test:443", "wild"),
        ("xwild.test:443", "destination-denied"),
        ("evilwild.test:443", "destination-denied"),
        ("wild.test:443", "destination-denied"),
        ("api.ro.test.evil.test:443", "destination-denied"),
        ("a.b.c.wild.test:443", "destination-denied"),
        ("a.b.c.deep.example.com:443", "deep"),
        ("deep.example.com:443", "destination-denied"),
        ("xn--bcher-kva.test:443", "idn"),
        ("XN--BCHER-KVA.test:443", "idn"),
        ("xn--api-ro.test:443", "destination-denied"),
        ("api.ro.test:22", "destination-denied"),
        ("api.ro.test:80", "destination-denied"),
        ("api.ro.test:8443", "destination-denied"),
        ("plain.test:80", "destination-denied"),
        ("45.33.32.10:443", "destination-denied"),
        ("127.0.0.1:443", "destination-denied"),
        ("[::1]:443", "destination-denied"),
        ("localhost:443", "destination-denied"),
        ("a_b.wild.test:443", "wild"),
        ("a_b.deep.example.com:443", "destination-denied"),
        ("pinned.test:443", "tunnel"),
        ("pinned.test:8443", "destination-denied"),
        ("sub.pinned.test:443", "destination-denied"),
    ] {
        let authority = Authority::parse_connect(connect).unwrap();
        assert_eq!(admitted(&snapshot, "A", &authority), expected, "{connect}");
    }
}

#[test]
fn clear_text_goes_only_where_it_is_meant() {
    let snapshot = corpus();
    for (who, authority, expected) in [
        ("A", http("plain.test"), "plain"),
        ("A", http("plain.test:8080"), "destination-denied"),
        ("A", https("plain.test"), "destination-denied"),
        ("A", http("api.ro.test"), "tls-required ro"),
        ("A", http("api.ro.test:443"), "tls-required ro"),
        ("A", http("a.wild.test"), "tls-required wild"),
        ("A", http("evil.test"), "destination-denied"),
        // What an agent may not use is not told to it either.
        ("B", http("api.rw.test"), "destination-denied"),
        ("A", http("pinned.test"), "destination-denied"),
        ("A", http("pinned.test:443"), "destination-denied"),
    ] {
        assert_eq!(
            admitted(&snapshot, who, &authority),
            expected,
            "{authority}"
        );
    }
    let decision = ask(&snapshot, "A", &http("api.ro.test"), "GET /v1/items/1");
    assert_eq!(word(decision), "tls-required");
    let decision = ask(&snapshot, "A", &http("plain.test"), "GET /x");
    assert!(matches!(decision, Decision::Permit(permit) if !permit.credentialed()));
}

#[test]
fn agents_reach_their_own_services_only() {
    let snapshot = corpus();
    for (who, host, expected) in [
        ("A", "api.rw.test", "rw"),
        ("B", "api.ro.test", "ro"),
        ("B", "api.rw.test", "destination-denied"),
        ("B", "a.wild.test", "destination-denied"),
        ("B", "pinned.test", "tunnel"),
        ("none", "api.ro.test", "destination-denied"),
        ("Z", "api.ro.test", "destination-denied"),
        ("Z", "pinned.test", "destination-denied"),
        ("default", "api.ro.test", "destination-denied"),
        ("a", "api.ro.test", "destination-denied"),
    ] {
        assert_eq!(
            admitted(&snapshot, who, &https(host)),
            expected,
            "{who} {host}"
        );
        if expected == "destination-denied" {
            assert_eq!(
                word(ask(&snapshot, who, &https(host), "GET /v1/items/1")),
                expected
            );
        }
    }
}

#[test]
fn nothing_inside_a_tunnel_is_permitted() {
    let Decision::Denied(denial) = ask(&corpus(), "A", &https("pinned.test"), "GET /") else {
        panic!("allowed");
    };
    assert_eq!(denial.code, Code::DestinationDenied);
}

#[test]
fn different_agents_may_have_different_services_on_one_host() {
    let mut reader = service("reader", &["api.test"], &[]);
    reader.rules = vec![scoped("allow GET /**", "read")];
    let mut writer = service("writer", &["api.test", "*.api.test"], &[]);
    writer.rules = vec![scoped("allow GET|POST /**", "read write")];
    let deep = service("deep", &["**.api.test"], &["allow GET /**"]);
    let mut settings = settings(vec![reader, writer, deep]);
    settings.agents = vec![
        may_use("r", &["reader"]),
        may_use("w", &["writer", "deep"]),
        may_use("d", &["deep"]),
    ];
    let snapshot = Snapshot::build(settings).unwrap();
    let scopes = |who| match ask(&snapshot, who, &https("api.test"), "GET /x") {
        Decision::Permit(permit) => format!("{} {}", permit.service(), permit.scopes()),
        refused => word(refused),
    };
    assert_eq!(scopes("r"), "reader read");
    assert_eq!(scopes("w"), "writer read write");
    assert_eq!(scopes("d"), "destination-denied");
    // Precedence among the agent's own: a wildcard of somebody else's service takes nothing away.
    assert_eq!(admitted(&snapshot, "w", &https("a.api.test")), "writer");
    assert_eq!(admitted(&snapshot, "w", &https("b.a.api.test")), "deep");
    assert_eq!(admitted(&snapshot, "d", &https("a.api.test")), "deep");
    let post = ask(&snapshot, "r", &https("api.test"), "POST /x");
    assert_eq!(word(post), "policy-denied");
}

#[test]
fn exact_before_one_label_before_any_depth() {
    let snapshot = snapshot(vec![
        service("deep", &["**.x.test"], &[]),
        service("one", &["*.x.test"], &[]),
        service("exact", &["a.x.test"], &[]),
        service("narrow", &["*.b.x.test"], &[]),
    ]);
    for (host, expected) in [
        ("a.x.test", "exact"),
        ("b.x.test", "one"),
        ("a.b.x.test", "narrow"),
        ("a.c.x.test", "deep"),
        ("a.a.b.x.test", "deep"),
    ] {
        assert_eq!(
            admitted(&snapshot, "default", &https(host)),
            expected,
            "{host}"
        );
    }
}

#[test]
fn ports_separate_services() {
    let mut other = service("other", &["api.test"], &[]);
    other.port = 8443;
    let snapshot = snapshot(vec![service("main", &["api.test"], &[]), other]);
    assert_eq!(admitted(&snapshot, "default", &https("api.test")), "main");
    assert_eq!(
        admitted(&snapshot, "default", &https("api.test:8443")),
        "other"
    );
}

/// Caddy CVE-2026-27588: another way of looking hosts up, above some number of them, had other rules for case.
#[test]
fn many_hosts_are_looked_up_as_few_are() {
    let services = (0..150)
        .map(|i| {
            service(
                &format!("s{i}"),
                &[&format!("H{i}.Many.test")],
                &["allow GET /**"],
            )
        })
        .collect();
    let snapshot = snapshot(services);
    for host in ["h77.many.test", "H77.MANY.TEST", "h77.many.test."] {
        assert_eq!(admitted(&snapshot, "default", &https(host)), "s77");
    }
    assert_eq!(
        admitted(&snapshot, "default", &https("h150.many.test")),
        "destination-denied"
    );
}

#[test]
fn addresses_are_hosts_only_where_they_are_named() {
    let snapshot = snapshot(vec![service("ip", &["192.0.2.7", "[2001:db8::1]"], &[])]);
    assert_eq!(admitted(&snapshot, "default", &https("192.0.2.7")), "ip");
    assert_eq!(
        admitted(&snapshot, "default", &https("[2001:db8:0::1]")),
        "ip"
    );
    assert_eq!(
        admitted(&snapshot, "default", &https("192.0.2.8")),
        "destination-denied"
    );
}

#[test]
fn a_label_that_only_looks_internationalised_is_nobodys() {
    let wild = without_credential(service("wild", &["**.wild.test"], &["allow GET /**"]));
    let snapshot = snapshot(vec![wild]);
    let admits = |host: &str| snapshot.admits(&agent("default"), &https(host)).is_ok();
    assert!(admits("xn--bcher-kva.wild.test") && admits("XN--BCHER-KVA.wild.test"));
    assert!(!admits("xn--api-ro.wild.test") && !admits("a.xn--api-ro.wild.test"));
}

#[test]
fn case_does_not_matter_among_a_hundred_and_fifty_hosts() {
    let hosts: Vec<String> = (0..150).map(|i| format!("Api{i}.Many.test")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let snapshot = snapshot(vec![service("many", &hosts, &["allow GET /**"])]);
    for i in 0..150 {
        for spelling in [
            format!("api{i}.many.test"),
            format!("API{i}.MANY.TEST."),
            format!("aPi{i}.mAny.test"),
        ] {
            assert!(
                snapshot
                    .admits(&agent("default"), &https(&spelling))
                    .is_ok(),
                "{spelling}"
            );
        }
    }
    assert!(
        snapshot
            .admits(&agent("default"), &https("api150.many.test"))
            .is_err()
    );
}
