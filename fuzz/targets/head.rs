//! A head that arrives is one that can be read in one way, and what goes out has nothing of the agent's that could be a
//! credential, an order to a proxy or an end of the message. Input: method, target and fields in lines.
#![no_main]

use http::header::{HeaderName, HeaderValue};
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use libfuzzer_sys::fuzz_target;
use tokenward::credential::{
    self, Bench, InstanceKey, Lease, LeaseFacts, PlaceholderMode, Placeholders, Shape, Slot, Stamp,
    Wire,
};
use tokenward::exchange::{Door, fuzzing::judged};
use tokenward::proof::{HtuProfile, Jti};
use tokenward::vocab::{AgentName, Authority, Binding, GrantId, ScopeSet, Secret, ServiceName};

fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|b| *b == b'\n');
    let (Some(method), Some(target)) = (lines.next(), lines.next()) else {
        return;
    };
    let h2 = data.len() % 3 == 0;
    let version = if h2 {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    };
    let Ok(mut request) = Request::builder()
        .method(method)
        .uri(target)
        .version(version)
        .body(())
    else {
        return;
    };
    for line in lines {
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            continue;
        };
        let (name, value) = (
            HeaderName::from_bytes(&line[..colon]),
            HeaderValue::from_bytes(line[colon + 1..].trim_ascii()),
        );
        if let (Ok(name), Ok(value)) = (name, value) {
            request.headers_mut().append(name, value);
        }
    }
    let (parts, ()) = request.into_parts();
    let authority = Authority::parse_connect("api.test:443").expect("an authority");
    let Ok((path, query, intent)) = judged(&parts, &authority, Door::Connect) else {
        return;
    };
    let hosts: Vec<_> = parts.headers.get_all("host").iter().collect();
    assert!(hosts.len() <= 1 && (h2 || hosts.len() == 1));

    let (agent, service) = (
        AgentName::fallback(),
        ServiceName::new("api").expect("a name"),
    );
    let placeholders = Placeholders::new(
        &InstanceKey::new(&Secret::new(vec![7; 32])),
        [(&agent, &service, &Shape::default())],
    );
    let slot = Slot::Authorization;
    let bench = Bench {
        agent: &agent,
        service: &service,
        slot: &slot,
        mode: PlaceholderMode::Optional,
        placeholders: &placeholders,
        pseudonym: "us",
        guarded: true,
        cookies: &[],
    };
    let Ok(stripped) = credential::strip(&parts, path.clone(), query.as_deref(), intent, &bench)
    else {
        return;
    };
    let facts = LeaseFacts {
        id: 1,
        grant: GrantId {
            service,
            agent: agent.clone(),
        },
        binding: Binding::Bearer,
        scopes: ScopeSet::default(),
        expires: None,
        cancel: Default::default(),
    };
    let lease = Lease::bearer(facts, &Secret::new("OURS".to_owned())).expect("a token");
    let htu = HtuProfile::default();
    let wire = Wire {
        version: Version::HTTP_11,
        authority: &authority,
        htu: &htu,
        pseudonym: "us",
        expects: false,
        cookie: None,
    };
    let stamp = Stamp {
        nonce: None,
        iat: 0,
        jti: Jti::from_random([1; 16]),
    };
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let Ok(armed) = credential::attach(&stripped.head, body, &lease, (), &wire, Some(stamp)) else {
        return;
    };
    let ((), out) = armed.into_parts();
    assert_eq!(out.uri().path(), path.wire());
    assert!(out.uri().authority().is_none() && out.uri().scheme().is_none());
    let all = |name: &str| {
        out.headers()
            .get_all(name)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect::<Vec<_>>()
    };
    assert_eq!(all("host"), [b"api.test"]);
    assert_eq!(all("authorization"), [b"Bearer OURS"]);
    for name in [
        "content-length",
        "transfer-encoding",
        "keep-alive",
        "expect",
        "cookie",
        "dpop",
        "x-api-key",
        "proxy-authorization",
        "forwarded",
        "x-http-method-override",
    ] {
        assert!(all(name).is_empty(), "{name} passed");
    }
    for (name, value) in out.headers() {
        let name = name.as_str();
        assert!(
            !name.contains('_') && !name.starts_with("proxy-") && !name.starts_with("x-forwarded-"),
            "{name} passed"
        );
        assert!(
            name == "te"
                || name == "connection"
                || name == "upgrade"
                || !value.as_bytes().contains(&b'\n')
        );
    }
    let connection = all("connection");
    assert!(
        connection.is_empty() || connection == [&b"te"[..]] || connection == [&b"upgrade"[..]],
        "{connection:?}"
    );
});
