//! What is no policy, and that all of it is told at once.

use super::*;

fn errors(settings: Settings) -> Vec<PolicyError> {
    Snapshot::build(settings).expect_err("a policy was built")
}

fn places(services: Vec<ServiceSettings>) -> Vec<Place> {
    match Snapshot::build(settings(services)) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(PolicyError::place).collect(),
    }
}

fn tie(rules: &[&str]) -> bool {
    let service = service("s", &["api.test"], rules);
    match Snapshot::build(settings(vec![service])) {
        Ok(_) => false,
        Err(errors) => {
            assert!(matches!(
                errors[..],
                [PolicyError::RuleTie {
                    rule: 1,
                    other: 0,
                    ..
                }]
            ));
            true
        }
    }
}

#[test]
fn allows_that_tie_and_overlap_are_refused() {
    for (one, two, expected) in [
        ("allow GET /a", "allow GET /a", true),
        ("allow GET|POST /a", "allow PUT|POST /a", true),
        ("allow GET|POST /a", "allow PUT|PATCH /a", false),
        ("allow GET /a", "allow get /a", false),
        ("allow * /a", "allow GET /a", false),
        ("allow * /a", "allow * /a", true),
        ("allow *|GET /a", "allow * /a", true),
        (
            "allow *|GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS /a",
            "allow * /a",
            false,
        ),
        ("allow *|GET /a", "allow GET /a", true),
        ("allow *|PROPFIND /a", "allow GET|PROPFIND /a", true),
        ("allow *|PROPFIND /a", "allow GET|MKCOL /a", false),
        ("allow GET /a*", "allow GET /*b", true),
        ("allow GET /a*", "allow GET /ab*", true),
        ("allow GET /a*", "allow GET /b*", false),
        ("allow GET /*.json", "allow GET /*.xml", false),
        ("allow GET /a*/x", "allow GET /*b/y", false),
        ("allow GET /a*/x", "allow GET /*b/x", true),
        ("allow GET /a*/**", "allow GET /*b/**", true),
        ("allow GET /a*/**", "allow GET /*b", false),
        ("allow GET /*/a", "allow GET /*/a", true),
        ("allow GET /*/a", "allow GET /a/*", false),
        ("allow GET /a/**", "allow GET /a", false),
        ("allow GET /a/**", "allow GET /a/", false),
        ("allow GET /a", "allow GET /a/", false),
        ("allow GET /%61", "allow GET /a", true),
        ("allow GET /a%3b", "allow GET /a%3B", true),
        ("allow GET /*20", "allow GET /*%20", false),
        ("deny GET /a", "deny GET /a", false),
        ("allow GET /a", "deny GET /a", false),
    ] {
        assert_eq!(tie(&[one, two]), expected, "{one} | {two}");
        assert_eq!(tie(&[two, one]), expected, "{two} | {one}");
    }
}

#[test]
fn a_credential_needs_more_than_a_public_suffix() {
    for (host, refused) in [
        ("*.com", true),
        ("**.com", true),
        ("*.co.uk", true),
        ("**.co.uk", true),
        ("*.github.io", true),
        ("*.test", true),
        ("*.wild.test", false),
        ("**.example.co.uk", false),
        ("api.example.com", false),
        ("a_b.example.com", true),
        ("*.a_b.example.com", true),
    ] {
        let service = service("s", &["ok.example", host], &[]);
        let expected = vec![Place::Host(service_name("s"), 1)];
        let found = places(vec![service.clone()]);
        assert_eq!(found, if refused { expected } else { Vec::new() }, "{host}");
        assert_eq!(
            places(vec![without_credential(service)]),
            Vec::new(),
            "{host}"
        );
    }
    // Saying OAuth is saying credential.
    let mut half = service("s", &["*.com"], &[]);
    half.credentialed = false;
    assert_eq!(places(vec![half]), [Place::Host(service_name("s"), 0)]);
    assert!(HostPattern::parse("*").is_err());
}

#[test]
fn one_host_has_one_service_for_each_agent() {
    for (one, two, overlap) in [
        ("api.test", "API.test.", true),
        ("*.x.test", "*.x.test", true),
        ("**.x.test", "**.x.test", true),
        ("**.x.test", "**.a.x.test", true),
        ("**.x.test", "*.x.test", false),
        ("**.x.test", "*.a.x.test", false),
        ("*.x.test", "a.x.test", false),
        ("*.x.test", "*.a.x.test", false),
        ("**.x.test", "**.y.test", false),
        ("**.x.test", "**.ax.test", false),
    ] {
        for (first, second) in [(one, two), (two, one)] {
            let pair = vec![
                service("first", &[first], &[]),
                service("second", &["other.test", second], &[]),
            ];
            let found = Snapshot::build(settings(pair.clone()));
            assert_eq!(found.is_err(), overlap, "{first} | {second}");
            if let Err(errors) = found {
                assert!(
                    matches!(&errors[..], [PolicyError::HostOverlap { port: 443, agent, .. }] if agent.as_str() == "default"),
                    "{errors:?}"
                );
            }
            // Agents of which each has one of the two.
            let mut apart = settings(pair.clone());
            apart.agents = vec![may_use("a", &["first"]), may_use("b", &["second"])];
            assert!(Snapshot::build(apart.clone()).is_ok());
            apart.agents.push(AgentSettings {
                name: agent("c"),
                services: None,
            });
            assert_eq!(Snapshot::build(apart).is_err(), overlap);
            let mut other_port = pair;
            other_port[1].port = 8443;
            assert!(Snapshot::build(settings(other_port)).is_ok());
        }
    }
    // Within one service nothing has to be decided.
    let same = service("s", &["a.test", "a.test", "**.x.test", "**.a.x.test"], &[]);
    assert_eq!(places(vec![same]), Vec::new());
}

#[test]
fn plain_http_has_port_80_and_no_credential() {
    let port = || vec![Place::Port(service_name("s"))];
    let mut plain = without_credential(service("s", &["a.test"], &[]));
    plain.scheme = Scheme::Http;
    plain.port = 80;
    assert_eq!(places(vec![plain.clone()]), Vec::new());
    plain.port = 8080;
    assert_eq!(places(vec![plain.clone()]), port());
    plain.port = 0;
    assert_eq!(places(vec![plain.clone()]), port());
    plain.port = 80;
    plain.credentialed = true;
    assert_eq!(places(vec![plain]), port());
}

#[test]
fn tunnels_are_exact_hosts_of_their_own() {
    let tunnel = |list: &[&str]| {
        let mut settings = settings(vec![service("s", &["a.test", "*.w.test"], &[])]);
        settings.tunnel = list
            .iter()
            .map(|text| Authority::parse_connect(text).unwrap())
            .collect();
        Snapshot::build(settings)
    };
    let places = |list| -> Vec<Place> {
        tunnel(list)
            .unwrap_err()
            .iter()
            .map(PolicyError::place)
            .collect()
    };
    assert_eq!(places(&["b.test:443", "A.test:443"]), [Place::Tunnel(1)]);
    assert_eq!(places(&["b.test:443", "B.test.:443"]), [Place::Tunnel(1)]);
    let cut_out = tunnel(&["a.test:8443", "pinned.w.test:443"]).unwrap();
    let admit = |host| cut_out.admits(&agent("default"), &https(host));
    assert_eq!(admit("pinned.w.test"), Ok(Admission::Tunnel));
    assert_eq!(
        admit("x.w.test"),
        Ok(Admission::Intercept(service_name("s")))
    );
}

/// One mistake of each kind and a few that hide behind each other.
fn everything_wrong() -> Settings {
    let mut bad = service(
        "bad",
        &["*.com", "api.test"],
        &["allow GET /a", "allow GET /a"],
    );
    bad.port = 0;
    let mut fixed = service("fixed", &["api.test", "x_y.test"], &[]);
    fixed.oauth = false;
    fixed.port = 0;
    fixed.rules = vec![rule("allow GET /b"), scoped("allow GET /a", "a")];
    let mut clear = service("clear", &["clear.test"], &[]);
    clear.scheme = Scheme::Http;
    let mut odd = without_credential(service("odd", &["odd.test"], &[]));
    odd.scheme = Scheme::Http;
    let mut settings = settings(vec![
        bad,
        fixed,
        clear,
        odd,
        service("empty", &[], &[]),
        service("twin", &["twin.test"], &[]),
        service("twin", &["brother.test"], &[]),
    ]);
    settings.agents = vec![
        AgentSettings {
            name: agent("a"),
            services: None,
        },
        may_use("a", &["twin", "ghost"]),
        AgentSettings {
            name: agent("b"),
            services: None,
        },
    ];
    let pinned = Authority::parse_connect("twin.test:443").unwrap();
    let twice = Authority::parse_connect("twice.test:443").unwrap();
    settings.tunnel = vec![pinned, twice.clone(), twice];
    settings
}

#[test]
fn every_mistake_is_told_at_once() {
    let errors = errors(everything_wrong());
    for place in [
        Place::Agent(agent("a")),
        Place::AgentService(agent("a"), 1),
        Place::Host(service_name("bad"), 0),
        Place::Port(service_name("bad")),
        Place::Rule(service_name("bad"), 1),
        Place::Host(service_name("fixed"), 0),
        Place::Host(service_name("fixed"), 1),
        Place::Port(service_name("fixed")),
        Place::Rule(service_name("fixed"), 1),
        Place::Port(service_name("clear")),
        Place::Port(service_name("odd")),
        Place::Service(service_name("empty")),
        Place::Service(service_name("twin")),
        Place::Tunnel(0),
        Place::Tunnel(2),
    ] {
        let told = errors.iter().filter(|error| error.place() == place).count();
        assert_eq!(told, 1, "{place:?} in {errors:#?}");
    }
    assert_eq!(errors.len(), 15, "{errors:#?}");
    for error in &errors {
        let text = error.to_string();
        assert_eq!(text.matches("; ").count(), 1, "{text}");
        assert!(!text.contains('\n'));
    }
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let tie = "rules 1 and 2 of service bad (`allow GET /a`, `allow GET /a`) can match the same request and neither \
               is more specific; merge them, or make the paths or methods of one differ";
    assert!(shown.iter().any(|text| text == tie), "{shown:#?}");
}

#[test]
fn without_agents_there_is_one() {
    let snapshot = snapshot(vec![service("s", &["a.test"], &[])]);
    assert_eq!(
        snapshot.agents().collect::<Vec<_>>(),
        [&AgentName::fallback()]
    );
    assert_eq!(snapshot.generation(), Generation(7));
}
