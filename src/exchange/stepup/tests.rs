use super::*;
use crate::policy::{
    AgentSettings, Decision, Effect, Facts, HostPattern, Rule, ServiceSettings, Settings, Snapshot,
};
use crate::proof::parse_challenges;
use crate::vocab::{Authority, Generation, RequestPath, Scheme};

fn set(text: &str) -> ScopeSet {
    ScopeSet::parse(text).unwrap()
}

/// A permit of a rule that wants `read` and lets the API ask for `write` and `admin`.
fn permit_with(step_up: &str) -> Permit {
    let rule = Rule::parse(Effect::Allow, "* /**", set("read")).unwrap();
    let service = ServiceSettings {
        name: ServiceName::new("items").unwrap(),
        hosts: vec![HostPattern::parse("api.test").unwrap()],
        scheme: Scheme::Https,
        port: 443,
        credentialed: true,
        oauth: true,
        escaped_slashes: false,
        rules: vec![rule.stepping_up_to(set(step_up))],
    };
    let snapshot = Snapshot::build(Settings {
        generation: Generation(1),
        services: vec![service],
        agents: vec![AgentSettings {
            name: AgentName::fallback(),
            services: None,
        }],
        tunnel: Vec::new(),
    })
    .unwrap();
    let facts = Facts {
        agent: &AgentName::fallback(),
        authority: &Authority::parse(Scheme::Https, "api.test").unwrap(),
        method: "GET",
        path: &RequestPath::parse("/v1/items").unwrap(),
    };
    match snapshot.decide(&facts) {
        Decision::Permit(permit) => permit,
        other => panic!("{other:?}"),
    }
}

fn at(minutes: u64) -> Moment {
    Moment(0) + Duration::from_mins(minutes)
}

#[test]
fn a_challenge_gets_what_the_rule_allows_and_nothing_else() {
    let permit = permit_with("write admin");
    let table = [
        ("write", Ok("read write")),
        ("read write", Ok("read write")),
        ("admin", Ok("admin read")),
        ("write root", Err(Useless::BeyondPolicy)),
        ("root", Err(Useless::BeyondPolicy)),
        ("read", Err(Useless::NothingNew)),
        ("", Err(Useless::NothingNew)),
    ];
    for (wanted, outcome) in table {
        let ups = StepUps::default();
        let raised = ups.raise(&permit, &set("read"), &set(wanted), at(0));
        let raised = raised.map(|permit| permit.scopes().to_string());
        assert_eq!(raised, outcome.map(str::to_owned), "{wanted}");
    }
    let ups = StepUps::default();
    let plain = permit_with("");
    assert!(plain.ceiling().is_none());
    let raised = ups.raise(&plain, &set("read"), &set("write"), at(0));
    assert_eq!(raised.err(), Some(Useless::BeyondPolicy));
    assert!(ups.remembered(&plain, at(0)).is_none());
}

#[test]
fn a_rule_steps_up_twice_an_hour_and_remembers_it_so_long() {
    let (permit, ups) = (permit_with("write admin extra"), StepUps::default());
    let raise = |scope: &str, minutes| {
        let raised = ups.raise(&permit, &set("read"), &set(scope), at(minutes));
        raised.map(|permit| permit.scopes().to_string())
    };
    let remembered = |minutes| {
        let remembered = ups.remembered(&permit, at(minutes));
        remembered.map(|permit| permit.scopes().to_string())
    };
    assert_eq!(remembered(0), None);
    assert!(raise("write", 0).is_ok());
    assert_eq!(remembered(1).unwrap(), "read write");
    // The same once more is no further step.
    assert!(raise("write", 1).is_ok());
    assert!(raise("admin", 2).is_ok());
    assert_eq!(remembered(3).unwrap(), "admin read write");
    assert_eq!(raise("extra", 3), Err(Useless::TooOften));
    assert!(raise("extra", 61).is_ok());
    assert_eq!(remembered(200), None);
    ups.forget(&permit);
    assert_eq!(remembered(61).unwrap(), "read");
}

#[test]
fn what_is_asked_for_is_read_from_the_right_challenge() {
    let permit = permit_with("write");
    let read = |line: &str| asked(&parse_challenges([line].into_iter()), &permit);
    let line = r#"Bearer realm="x", scope="root", DPoP error="insufficient_scope", scope="write""#;
    assert_eq!(read(line), Ok(set("write")));
    assert_eq!(
        read(r#"Bearer error="insufficient_scope""#),
        Ok(set("read write"))
    );
    assert_eq!(
        read("Bearer error=\"insufficient_scope\", scope=\"a\tb\""),
        Err(Useless::Unreadable)
    );
}

#[test]
fn a_wanted_login_is_told_bounded_and_plain() {
    let line = r#"Bearer error="insufficient_user_authentication", acr_values="urn:gold é silver", max_age="300""#;
    let told = wanted_login(&parse_challenges([line].into_iter()));
    assert_eq!(told, (vec!["urn:gold".into(), "silver".into()], Some(300)));
    let many = "a ".repeat(50);
    let line =
        format!(r#"DPoP error=insufficient_user_authentication, acr_values="{many}", max_age=-1"#);
    let (values, age) = wanted_login(&parse_challenges([line.as_str()].into_iter()));
    assert_eq!((values.len(), age), (8, None));
}
