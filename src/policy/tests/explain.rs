//! The words for whoever writes the rules.

use super::*;
use crate::vocab::Code;

fn explained(snapshot: &Snapshot, who: &str, authority: &Authority, request: &str) -> Explanation {
    let (method, path) = request.split_once(' ').unwrap();
    snapshot.explain(&Facts {
        agent: &agent(who),
        authority,
        method,
        path: &RequestPath::parse(path).unwrap(),
    })
}

fn policy() -> Snapshot {
    let mut items = service("items", &["api.test"], &["deny * /v1/items/*/secrets"]);
    items
        .rules
        .push(scoped("allow GET /v1/items/**", "items:read"));
    let mut settings = settings(vec![
        items,
        service("llm", &["llm.test"], &["allow POST /**"]),
    ]);
    settings.agents = vec![may_use("coder", &["items"]), may_use("idle", &[])];
    settings.tunnel = vec![https("pinned.test")];
    Snapshot::build(settings).unwrap()
}

#[test]
fn an_allowed_request_has_its_rule_and_scopes() {
    let answer = explained(&policy(), "coder", &https("api.test"), "GET /v1/items/1");
    assert_eq!(answer.service, Some(service_name("items")));
    let Outcome::Allowed {
        rule,
        position,
        scopes,
    } = answer.outcome
    else {
        panic!("refused");
    };
    assert_eq!(
        (rule.as_str(), position, scopes.to_string().as_str()),
        ("allow GET /v1/items/**", 1, "items:read")
    );
    let tunnelled = explained(&policy(), "coder", &https("pinned.test"), "GET /");
    assert_eq!(tunnelled.outcome, Outcome::Tunnelled);
}

#[test]
fn a_refused_request_has_its_remedy() {
    for (who, authority, request, code, remedy) in [
        (
            "coder",
            https("api.test"),
            "POST /v1/items/1",
            Code::PolicyDenied,
            "add `allow: POST /v1/items/1` to the `rules` of service items",
        ),
        (
            "coder",
            https("api.test"),
            "GET /v1/items/1/secrets",
            Code::PolicyDenied,
            "remove or narrow `deny * /v1/items/*/secrets` in the `rules` of service items",
        ),
        (
            "coder",
            https("llm.test"),
            "POST /",
            Code::DestinationDenied,
            "add llm to the `services` of agent coder",
        ),
        (
            "coder",
            https("new.test:8443"),
            "GET /",
            Code::DestinationDenied,
            "add `new.test` to the `hosts` of a service with port 8443",
        ),
        (
            "nobody",
            https("api.test"),
            "GET /",
            Code::DestinationDenied,
            "define agent nobody under `agents`",
        ),
        (
            "coder",
            http("api.test"),
            "GET /",
            Code::TlsRequired,
            "use https and the port of the service",
        ),
        (
            "coder",
            https("api.test"),
            "TRACE /",
            Code::MethodNotSupported,
            "",
        ),
        (
            "coder",
            http("new.test:8080"),
            "GET /",
            Code::DestinationDenied,
            "",
        ),
    ] {
        let Outcome::Refused {
            code: given, fix, ..
        } = explained(&policy(), who, &authority, request).outcome
        else {
            panic!("allowed {request}");
        };
        let fix = fix.map(|fix| fix.to_string()).unwrap_or_default();
        assert_eq!((given, fix.as_str()), (code, remedy), "{request}");
    }
}

#[test]
fn the_line_is_a_rule_and_yaml() {
    for (request, expected) in [
        ("GET /v2/%69tems", "allow: GET /v2/items"),
        ("GET /a**b/***", "allow: GET /a*b/*"),
        ("GET /a:", "allow: 'GET /a:'"),
        ("GET /it's:", "allow: 'GET /it''s:'"),
        ("GET /it's", "allow: GET /it's"),
        ("!BANG /a", "allow: '!BANG /a'"),
    ] {
        let answer = explained(&policy(), "coder", &https("api.test"), request);
        let Outcome::Refused {
            fix: Some(Fix::AddRule { line, .. }),
            ..
        } = answer.outcome
        else {
            panic!("{request}");
        };
        assert_eq!(line, expected);
    }
    for request in ["G*T /a", "GET|PUT /a", " /a"] {
        let answer = explained(&policy(), "coder", &https("api.test"), request);
        assert!(
            matches!(answer.outcome, Outcome::Refused { fix: None, .. }),
            "{request}"
        );
    }
}

#[test]
fn who_can_reach_what() {
    let policy = policy();
    let of = |who| -> Vec<String> {
        policy
            .services_of(&agent(who))
            .map(|service| service.name.to_string())
            .collect()
    };
    assert_eq!(of("coder"), ["items"]);
    assert_eq!(of("idle"), Vec::<String>::new());
    assert_eq!(of("nobody"), Vec::<String>::new());
    assert_eq!(policy.services().count(), 2);
    assert_eq!(
        policy.agents().map(AgentName::as_str).collect::<Vec<_>>(),
        ["coder", "idle"]
    );
}

#[test]
fn what_is_seldom_meant_is_a_warning() {
    let mut settings = settings(vec![
        service("items", &["api.test"], &["deny GET /x", "allow GET /a"]),
        without_credential(service("open", &["open.test"], &["allow GET /a"])),
        service("shut", &["shut.test"], &["deny GET /x"]),
    ]);
    settings.agents = vec![may_use("a", &["items", "shut"])];
    let warnings = Snapshot::build(settings).unwrap().warnings();
    let expected = [
        PolicyWarning::NoScopes {
            service: service_name("items"),
            rule: 1,
            text: "allow GET /a".to_owned(),
        },
        PolicyWarning::Unused {
            service: service_name("open"),
        },
        PolicyWarning::NothingAllowed {
            service: service_name("shut"),
        },
    ];
    assert_eq!(warnings, expected);
    for warning in warnings {
        assert_eq!(warning.to_string().matches("; ").count(), 1);
    }
}
