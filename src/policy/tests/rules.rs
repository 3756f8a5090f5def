//! Which rule decides (attack class H, as far as it is policy).

use super::*;
use crate::vocab::{Clock, Code, PathError};

fn with_rules(rules: &[&str]) -> Snapshot {
    snapshot(vec![service("items", &["api.test"], rules)])
}

#[test]
fn the_most_specific_allow_decides() {
    let snapshot = with_rules(&[
        "allow * /**",
        "allow * /v1/**",
        "allow GET|HEAD /v1/**",
        "allow * /v1/*",
        "allow GET /v1/a*",
        "allow * /v1/abc",
        "allow POST|PROPFIND /v1/abc",
        "allow * /v1/*/x",
        "allow * /*/abc/x",
        "allow * /v1",
    ]);
    for (request, rule) in [
        ("GET /", "allow * /**"),
        ("PUT /v1/a/b/c", "allow * /v1/**"),
        ("GET /v1/a/b/c", "allow GET|HEAD /v1/**"),
        ("PUT /v1/abd", "allow * /v1/*"),
        ("GET /v1/abd", "allow GET /v1/a*"),
        // The path counts before the method.
        ("GET /v1/abc", "allow * /v1/abc"),
        ("POST /v1/abc", "allow POST|PROPFIND /v1/abc"),
        // From the left: the literal first segment beats the literal second one.
        ("GET /v1/abc/x", "allow * /v1/*/x"),
        ("GET /v2/abc/x", "allow * /*/abc/x"),
        ("GET /v1", "allow * /v1"),
        ("GET /v1/", "allow GET|HEAD /v1/**"),
        ("PROPFIND /v1/abc", "allow POST|PROPFIND /v1/abc"),
        ("PROPFIND /v1/abd", "policy-denied"),
    ] {
        assert_eq!(outcome(&snapshot, request), rule, "{request}");
    }
}

#[test]
fn a_method_named_beside_the_star_counts_as_named() {
    let snapshot = with_rules(&[
        "allow *|GET /a",
        "allow * /**",
        "allow HEAD|* /b",
        "allow POST|GET /b",
    ]);
    assert_eq!(outcome(&snapshot, "GET /a"), "allow *|GET /a");
    assert_eq!(outcome(&snapshot, "GET /b"), "allow POST|GET /b");
    assert_eq!(outcome(&snapshot, "HEAD /b"), "allow HEAD|* /b");
    assert_eq!(outcome(&snapshot, "PUT /b"), "allow HEAD|* /b");
}

#[test]
fn deny_wins_however_wide_it_is() {
    let snapshot = with_rules(&[
        "allow GET /v1/items/1/secrets",
        "allow * /v1/**",
        "deny * /v1/items/*/secrets",
        "deny GET /v1/items/7*/**",
        "deny * /v1/items/**",
    ]);
    assert_eq!(
        outcome(&snapshot, "GET /v1/items/1/secrets"),
        "policy-denied by deny * /v1/items/*/secrets"
    );
    assert_eq!(
        outcome(&snapshot, "GET /v1/items/77/a"),
        "policy-denied by deny GET /v1/items/7*/**"
    );
    assert_eq!(
        outcome(&snapshot, "POST /v1/items"),
        "policy-denied by deny * /v1/items/**"
    );
    assert_eq!(outcome(&snapshot, "GET /v1/other"), "allow * /v1/**");
    // A method outside of `*` is covered neither by the deny nor by the allow.
    assert_eq!(outcome(&snapshot, "MKCOL /v1/items"), "policy-denied");
}

#[test]
fn without_a_rule_nothing_is_allowed() {
    for request in ["GET /", "OPTIONS /", "HEAD /a"] {
        assert_eq!(outcome(&with_rules(&[]), request), "policy-denied");
        assert_eq!(
            outcome(&with_rules(&["deny GET /x"]), request),
            "policy-denied"
        );
    }
}

#[test]
fn paths_of_class_h() {
    let snapshot = with_rules(&["allow GET /v1/items/**", "allow GET /v1/public/**"]);
    for (request, expected) in [
        ("GET /v1/items/1", "allow GET /v1/items/**"),
        ("GET /v1/items", "allow GET /v1/items/**"),
        ("GET /v1/admin", "policy-denied"),
        ("GET /V1/ADMIN", "policy-denied"),
        ("GET /v1/Items/1", "policy-denied"),
        ("GET /v1/%49tems/1", "policy-denied"),
        ("GET /v1/%69tems/1", "allow GET /v1/items/**"),
        ("GET /v1/itemsadmin", "policy-denied"),
        ("GET /v1/items_", "policy-denied"),
        ("GET /v1/items;x=1", "policy-denied"),
        ("GET /v1/public%23/admin", "policy-denied"),
        ("GET /v1/public%3F", "policy-denied"),
        ("POST /v1/items/1", "policy-denied"),
        ("HEAD /v1/items/1", "policy-denied"),
        ("OPTIONS /v1/items/1", "policy-denied"),
        ("PATCH /v1/items/1", "policy-denied"),
        ("PROPFIND /v1/items/1", "policy-denied"),
        ("get /v1/items/1", "policy-denied"),
        ("GETT /v1/items/1", "policy-denied"),
        ("TRACE /v1/items/1", "method-not-supported"),
        ("trace /v1/items/1", "method-not-supported"),
        ("CONNECT /v1/items/1", "method-not-supported"),
    ] {
        assert_eq!(outcome(&snapshot, request), expected, "{request}");
    }
    // What could mean `/v1/admin` to somebody else never becomes a path that could be judged.
    for raw in [
        "/v1/items/../admin",
        "/v1/items/%2e%2e/admin",
        "/v1/items/..%2fadmin",
        "/v1/items\\..\\admin",
        "/v1/items//../admin",
        "/v1/items/..;/admin",
        "//evil.test/v1/items/1",
    ] {
        assert_eq!(RequestPath::parse(raw), Err(PathError::Ambiguous), "{raw}");
    }
}

#[test]
fn trace_has_one_answer_everywhere() {
    let snapshot = with_rules(&["allow * /**"]);
    let unknown = ask(&snapshot, "default", &https("evil.test"), "TRACE /");
    let Decision::Denied(denial) = unknown else {
        panic!("allowed");
    };
    assert_eq!(
        (denial.code, denial.service),
        (Code::MethodNotSupported, None)
    );
    let Decision::Denied(denial) = ask(&snapshot, "default", &https("api.test"), "TRACE /") else {
        panic!("allowed");
    };
    assert_eq!(denial.service, Some(service_name("items")));
}

#[test]
fn a_permit_says_what_was_decided() {
    let mut items = service("items", &["api.test"], &[]);
    items.rules = vec![
        scoped("allow GET /v1/items/**", "items:read"),
        scoped("allow POST /v1/items", "items:write items:read"),
    ];
    let snapshot = snapshot(vec![items]);
    let Decision::Permit(permit) = ask(&snapshot, "default", &https("API.test."), "POST /v1/items")
    else {
        panic!("refused");
    };
    assert_eq!(permit.agent(), &agent("default"));
    assert_eq!(permit.service(), &service_name("items"));
    assert_eq!(permit.authority(), &https("api.test"));
    assert_eq!(permit.rule().as_str(), "allow POST /v1/items");
    assert_eq!(permit.scopes().to_string(), "items:read items:write");
    assert_eq!(permit.generation(), Generation(7));
    assert!(permit.credentialed());
    assert_eq!(permit.grant().to_string(), "items/default");
}

/// H13: a thousand rules with globs against the paths that are worst for them. The bound is that of an optimised build
/// several times over, since tests run unoptimised and beside each other.
#[test]
fn a_decision_is_quick_whatever_the_path() {
    let rules: Vec<String> = (0..1000)
        .map(|i| match i % 4 {
            0 => format!("allow GET /v1/r{i}/**"),
            1 => format!("allow GET /*/a/*/b{i}/**"),
            2 => format!("deny GET /a*a*a*a*b{i}/**"),
            _ => format!("allow GET /a*ab*ba*x{i:04}"),
        })
        .collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let snapshot = with_rules(&rules);
    let clock = Clock::system();
    for path in [
        format!("/{}", "a".repeat(8000)),
        format!("/{}", "ab".repeat(4000)),
        "/a".repeat(4000),
        format!("/{}", "%3B".repeat(2700)),
        format!("/{}", "a%3B".repeat(2000)),
    ] {
        let begun = clock.now();
        for _ in 0..10 {
            assert_eq!(outcome(&snapshot, &format!("GET {path}")), "policy-denied");
        }
        let each = clock.now().since(begun).as_micros() / 10;
        assert!(each < 50_000, "{each} microseconds for {path:.20}");
    }
}

/// A thousand globs, each of which would search the whole of a segment.
fn hungry(effect: &str) -> Vec<String> {
    let one = |i| format!("{effect} GET /*abab{i}*x/end{i}");
    (0..1000).map(one).collect()
}

#[test]
fn one_decision_has_a_bound() {
    let judge = |rules: &[String], path: &str| {
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let snapshot = with_rules(&rules);
        outcome(&snapshot, &format!("GET {path}"))
    };
    let long = format!("/{}", "ab".repeat(4000));
    let tail = format!("{long}x/end7");
    // Neither a deny that was not asked to the end nor an allow behind it is guessed.
    let mut denies = hungry("deny");
    denies.push("allow GET /**".into());
    assert_eq!(judge(&denies, &tail), "allow GET /**");
    let denies: Vec<String> = denies.iter().map(|r| r.replace("/end", "/*end")).collect();
    assert_eq!(judge(&denies, &tail), "uri-too-long");
    let mut allows: Vec<String> = hungry("allow")
        .iter()
        .map(|r| r.replace("/end", "/*end"))
        .collect();
    allows.push("allow GET /**".into());
    assert_eq!(judge(&allows, &tail), "uri-too-long");
    // What people send is far from it.
    let plain = format!("/{}x/end", "ab".repeat(100));
    assert_eq!(judge(&allows, &plain), "allow GET /**");
    assert_eq!(judge(&denies, &plain), "allow GET /**");
    let mine = format!("/{}7cx/end7", "ab".repeat(100));
    assert_eq!(
        judge(&denies, &mine),
        "policy-denied by deny GET /*abab7*x/*end7"
    );
}

#[test]
fn an_escaped_slash_needs_the_services_word_and_gets_past_no_deny() {
    let rules = ["allow GET /*", "allow GET /**", "deny GET /a/secret/**"];
    for (literal, path, outcome) in [
        (false, "/a%2Fb", Err(Code::BadRequest)),
        (true, "/a%2Fb", Ok("allow GET /*")),
        (true, "/a/b%2fc", Ok("allow GET /**")),
        (true, "/a%2fsecret", Err(Code::PolicyDenied)),
        (true, "/a%2Fsecret%2Fx", Err(Code::PolicyDenied)),
        (true, "/a/secret%2Fx", Err(Code::PolicyDenied)),
        (true, "/a%2fsecret;x/y", Err(Code::PolicyDenied)),
    ] {
        let mut service = service("items", &["api.test"], &rules);
        service.escaped_slashes = literal;
        let snapshot = snapshot(vec![service]);
        let path = RequestPath::of_request(path).unwrap();
        let facts = Facts {
            agent: &agent("default"),
            authority: &https("api.test"),
            method: "GET",
            path: &path,
        };
        let decided = match snapshot.decide(&facts) {
            Decision::Permit(permit) => Ok(permit.rule().to_string()),
            Decision::Denied(denial) => Err(denial.code),
            Decision::NeedsBody(pending) => match pending {},
        };
        assert_eq!(decided, outcome.map(str::to_owned), "{path:?}");
    }
}
