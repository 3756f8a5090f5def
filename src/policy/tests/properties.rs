//! What holds for every policy and every request.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

/// Few words, so that rules and requests meet often.
fn segment() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "ab", "ba", "*", "a*", "*b", "a*b", "*a*"])
}

fn rule_text() -> impl Strategy<Value = String> {
    let methods = select(vec![
        "*", "GET", "POST", "GET|POST", "*|GET", "*|MKCOL", "HEAD",
    ]);
    let path = (prop::collection::vec(segment(), 0..4), any::<bool>()).prop_map(|(list, open)| {
        let fixed: String = list.iter().map(|text| format!("/{text}")).collect();
        match (open, fixed.is_empty()) {
            (true, _) => fixed + "/**",
            (false, true) => "/".to_owned(),
            (false, false) => fixed,
        }
    });
    let effect = prop_oneof![4 => Just("allow"), 1 => Just("deny")];
    (effect, methods, path).prop_map(|(effect, methods, path)| format!("{effect} {methods} {path}"))
}

/// Rules of which each allow has a scope of its own; those that tie with an earlier one are left out.
fn rules() -> impl Strategy<Value = Vec<Rule>> {
    prop::collection::vec(rule_text(), 0..8).prop_map(|texts| {
        let mut kept: Vec<Rule> = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            let scopes = if text.starts_with("deny") {
                String::new()
            } else {
                format!("s{i}")
            };
            kept.push(scoped(text, &scopes));
            if Snapshot::build(with_rules(kept.clone())).is_err() {
                kept.pop();
            }
        }
        kept
    })
}

fn with_rules(rules: Vec<Rule>) -> Settings {
    let mut one = service("s", &["api.test", "*.w.test"], &[]);
    one.rules = rules;
    settings(vec![one])
}

fn request() -> impl Strategy<Value = String> {
    let method = select(vec!["GET", "POST", "HEAD", "PUT", "MKCOL", "get", "TRACE"]);
    let path = prop::collection::vec(
        select(vec!["a", "b", "ab", "aab", "c", "a%3B", "%61"]),
        0..4,
    );
    (method, path, any::<bool>()).prop_map(|(method, list, slash)| {
        let path = list.join("/");
        let slash = if slash && !path.is_empty() { "/" } else { "" };
        format!("{method} /{path}{slash}")
    })
}

fn authority() -> impl Strategy<Value = Authority> {
    let host = select(vec![
        "api.test",
        "a.w.test",
        "w.test",
        "b.a.w.test",
        "evil.test",
        "192.0.2.1",
    ]);
    let port = select(vec![443_u16, 80, 8443]);
    let scheme = select(vec![Scheme::Https, Scheme::Http]);
    (scheme, host, port).prop_map(|(scheme, host, port)| {
        Authority::parse(scheme, &format!("{host}:{port}")).unwrap()
    })
}

/// Matches by trying everything: segments by recursion, `*` by every split.
fn matches_plainly(rule: &Rule, request: &str) -> bool {
    fn glob(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
            Some((c, rest)) => text.first() == Some(c) && glob(rest, &text[1..]),
        }
    }
    fn path(pattern: &[&str], have: &[&str]) -> bool {
        match (pattern, have) {
            (["**"], _) => true,
            ([], []) => true,
            ([wanted, pattern @ ..], [segment, have @ ..]) => {
                let chars = |text: &str| text.chars().collect::<Vec<_>>();
                (*wanted != "*" || !segment.is_empty())
                    && glob(&chars(wanted), &chars(segment))
                    && path(pattern, have)
            }
            _ => false,
        }
    }
    let (methods, pattern) = rule.text().split_once(' ').unwrap();
    let (method, raw) = request.split_once(' ').unwrap();
    let common = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let method = methods
        .split('|')
        .any(|own| own == method || own == "*" && common.contains(&method));
    // One character for an escape, which no pattern here contains.
    let raw = raw.replace("%61", "a").replace("%3B", ";");
    method
        && path(
            &pattern[1..].split('/').collect::<Vec<_>>(),
            &raw[1..].split('/').collect::<Vec<_>>(),
        )
}

/// The request as a server sees it that cuts path parameters and a last slash off.
fn carelessly(request: &str) -> String {
    let (method, raw) = request.split_once(' ').unwrap();
    let raw = raw.replace("%61", "a").replace("%3B", ";");
    let cut: Vec<&str> = raw
        .split('/')
        .map(|segment| segment.split(';').next().unwrap())
        .collect();
    let cut = cut.join("/");
    let short = cut
        .strip_suffix('/')
        .filter(|rest| !rest.is_empty())
        .unwrap_or(&cut);
    format!("{method} {short}")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn deny_wins_and_silence_denies(rules in rules(), request in request()) {
        let snapshot = Snapshot::build(with_rules(rules.clone())).unwrap();
        let matching = |effect| {
            rules.iter().filter(move |rule| rule.effect() == effect).filter(|rule| matches_plainly(rule, &request))
        };
        // A deny also matches what a careless server would make of the path.
        let careless = carelessly(&request);
        let denied = |rule: &&Rule| matches_plainly(rule, &request) || matches_plainly(rule, &careless);
        let denies: Vec<_> = rules.iter().filter(|r| r.effect() == Effect::Deny).filter(denied).collect();
        let allows: Vec<_> = matching(Effect::Allow).collect();
        match ask(&snapshot, "default", &https("api.test"), &request) {
            Decision::Permit(permit) => {
                prop_assert!(denies.is_empty());
                let rule = allows.iter().find(|rule| rule.name() == permit.rule());
                prop_assert!(rule.is_some(), "{} does not match {request}", permit.rule());
                prop_assert_eq!(rule.unwrap().scopes(), permit.scopes());
            }
            Decision::Denied(denial) if denial.code == crate::vocab::Code::PolicyDenied => match denial.rule {
                Some(name) => prop_assert!(denies.iter().any(|rule| *rule.name() == name)),
                None => prop_assert!(denies.is_empty() && allows.is_empty()),
            },
            Decision::Denied(denial) => {
                prop_assert_eq!(denial.code, crate::vocab::Code::MethodNotSupported);
                prop_assert!(request.starts_with("TRACE"));
            }
            Decision::NeedsBody(never) => match never {},
        }
    }

    #[test]
    fn the_order_of_rules_and_services_does_not_matter(
        rules in rules(), cut in any::<Index>(), back in any::<bool>(), request in request(),
    ) {
        let mut other = rules.clone();
        if !other.is_empty() {
            let at = cut.index(other.len());
            other.rotate_left(at);
        }
        if back {
            other.reverse();
        }
        let far = || service("far", &["**.test"], &["allow * /**"]);
        let mut one = with_rules(rules);
        one.services.push(without_credential(far()));
        let mut two = with_rules(other);
        two.services.insert(0, without_credential(far()));
        let (one, two) = (Snapshot::build(one).unwrap(), Snapshot::build(two).unwrap());
        prop_assert_eq!(outcome(&one, &request), outcome(&two, &request));
    }

    #[test]
    fn what_is_permitted_was_admitted(rules in rules(), authority in authority(), request in request()) {
        let snapshot = Snapshot::build(with_rules(rules)).unwrap();
        let admission = snapshot.admits(&agent("default"), &authority);
        match ask(&snapshot, "default", &authority, &request) {
            Decision::Permit(permit) => {
                prop_assert_eq!(admission, Ok(Admission::Intercept(permit.service().clone())));
                prop_assert_eq!(permit.authority(), &authority);
            }
            Decision::Denied(denial) => match admission {
                Err(refused) if !request.starts_with("TRACE") => prop_assert_eq!(refused, denial),
                _ => (),
            },
            Decision::NeedsBody(never) => match never {},
        }
    }

    /// A service that is taken away from an agent takes every permit with it.
    #[test]
    fn an_agent_without_services_gets_nothing(rules in rules(), authority in authority(), request in request()) {
        let mut settings = with_rules(rules);
        settings.agents = vec![may_use("default", &[])];
        let snapshot = Snapshot::build(settings).unwrap();
        prop_assert!(snapshot.admits(&agent("default"), &authority).is_err());
        prop_assert!(matches!(ask(&snapshot, "default", &authority, &request), Decision::Denied(_)));
    }

    #[test]
    fn the_line_that_explain_gives_allows_the_request(rules in rules(), request in request()) {
        let (method, path) = request.split_once(' ').unwrap();
        let path = RequestPath::parse(path).unwrap();
        let (who, authority) = (agent("default"), https("api.test"));
        let facts = Facts { agent: &who, authority: &authority, method, path: &path };
        let before = Snapshot::build(with_rules(rules.clone())).unwrap().explain(&facts);
        if let Outcome::Refused { fix: Some(Fix::AddRule { line, .. }), .. } = before.outcome {
            let mut more = rules;
            more.push(rule(&line.replacen("allow: ", "allow ", 1)));
            let after = Snapshot::build(with_rules(more)).unwrap().explain(&facts);
            let allowed = matches!(after.outcome, Outcome::Allowed { .. });
            prop_assert!(allowed, "{line} does not allow {request}");
        }
    }

    /// Where one rule's matches lie within another's and it is chosen, nothing wider was more specific.
    #[test]
    fn a_literal_rule_for_the_request_is_always_chosen(rules in rules(), request in request()) {
        prop_assume!(!request.starts_with("TRACE"));
        let exact = scoped(&format!("allow {request}"), "exact");
        let mut more: Vec<Rule> = rules.into_iter().filter(|rule| rule.effect() == Effect::Allow).collect();
        more.push(exact.clone());
        if let Ok(snapshot) = Snapshot::build(with_rules(more)) {
            prop_assert_eq!(outcome(&snapshot, &request), exact.name().to_string());
        }
    }

    #[test]
    fn no_text_makes_a_parser_fail(text in "\\PC{0,40}", near in "[A-Z*|]{0,6} /[a-z*/%0-9.;]{0,12}") {
        for text in [&text, &near] {
            let parsed = Rule::parse(Effect::Allow, text, ScopeSet::default());
            if let Ok(rule) = parsed {
                let again = Rule::parse(Effect::Allow, rule.text(), ScopeSet::default());
                prop_assert_eq!(again, Ok(rule));
            }
            if let Ok(pattern) = HostPattern::parse(text) {
                prop_assert_eq!(HostPattern::parse(&pattern.to_string()), Ok(pattern));
            }
        }
    }
}
