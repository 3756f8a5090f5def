//! Files that are right: every key reaches its place in the plan, and what is absent has its default.

use std::time::Duration;

use super::*;
use crate::audit::{SinkSettings, WhenFull};
use crate::config::{AdminAt, CaPlan, ProxyAt, schema};
use crate::credential::{PlaceholderMode, Shape, Slot};
use crate::exchange::{RequestGuard, SessionCookies};
use crate::proof::HtuProfile;
use crate::tokens::{
    AssertionAudience, AssertionSource, ClientAuth, CredentialSettings, Grant, Platform,
};
use crate::vocab::{Binding, Scheme};

/// The example of the product page, without what is not built yet.
const EXAMPLE: &str = r#"
listen:
  proxy: 127.0.0.1:8080
health: 127.0.0.1:9091
runtime_dir: /run/tokenward
ca: {dir: /var/lib/tokenward/ca}
store: memory
audit: {file: /var/log/tokenward/audit.jsonl}

agents:
  coder:
    auth: {token: {env: CODER_TOKEN}}
    services: [items, llm]

issuers:
  corp:
    url: https://as.example
    ca: {file: internal-ca.pem}
    connect: 10.0.0.6
    allow_private: true
    assertion_audience: issuer

services:
  items:
    hosts: [api.items.example]
    port: 443
    upstream:
      ca: {file: internal-ca.pem}
      connect: 10.0.0.5:8443
      allow_private: true
    credential:
      oauth:
        issuer: corp
        client_id: agent-proxy
        client_auth: {private_key_jwt: {key: {file: client.pem}, kid: k1}}
        grant: client_credentials
        resource: https://api.items.example
        binding: dpop
    placeholder: {variable: ITEMS_TOKEN, shape: "sk-test-{random:32}", mode: optional}
    rules:
      - allow: GET|HEAD /v1/items/**
        scopes: [items:read]
      - allow: POST /v1/items
        scopes: [items:write]
      - deny: "* /v1/items/*/secrets"
  llm:
    hosts: [api.llm.example]
    credential: {header: {name: x-api-key, value: {env: LLM_KEY}}}
    rules: [{allow: "* /**"}]

tunnel: []
"#;

fn accepted(yaml: &str) -> Plan {
    match Place::new().load(yaml) {
        Ok(plan) => plan,
        Err(problems) => panic!("{problems}"),
    }
}

#[test]
fn the_example_of_the_product_page_compiles() {
    let plan = accepted(EXAMPLE);
    assert_eq!(
        plan.listen.proxy[0].at,
        ProxyAt::Tcp("127.0.0.1:8080".parse().unwrap())
    );
    assert_eq!(plan.health, Some("127.0.0.1:9091".parse().unwrap()));
    assert_eq!(plan.runtime_dir, Path::new("/run/tokenward"));
    assert!(matches!(&plan.ca, CaPlan::Dir(dir) if dir == Path::new("/var/lib/tokenward/ca")));
    assert_eq!(plan.audit.when_full, WhenFull::Refuse);
    assert_eq!(plan.secret_variables, ["CODER_TOKEN", "LLM_KEY"]);
    assert_eq!(plan.agents.agents.len(), 1);
    assert_eq!(plan.proxy_tokens.len(), 1);
    assert_eq!(plan.policy.services.len(), 2);
    assert_eq!(plan.policy.services[0].rules.len(), 3);
    assert!(plan.policy.services[0].oauth && plan.policy.services[1].credentialed);
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);

    let items = &plan.services[0];
    assert_eq!(items.binding, Binding::Dpop);
    assert_eq!(items.slot, Slot::Authorization);
    assert_eq!(items.target.extra_roots.len(), 1);
    let connect = items.target.connect.as_ref().unwrap();
    assert_eq!(
        (connect.host.to_string(), connect.port),
        ("10.0.0.5".into(), Some(8443))
    );
    assert_eq!(items.placeholder.variable.as_deref(), Some("ITEMS_TOKEN"));
    assert_eq!(
        items.placeholder.shape,
        Shape::parse("sk-test-{random:32}").unwrap()
    );
    assert_eq!((items.replay_buffer, items.max_stream_age), (65_536, None));
    let CredentialSettings::Oauth(oauth) = &plan.tokens.services[0].1 else {
        panic!("not OAuth");
    };
    assert_eq!(oauth.issuer.url, "https://as.example");
    assert_eq!(oauth.issuer.assertion_audience, AssertionAudience::Issuer);
    assert_eq!(oauth.max_token_age, Duration::from_secs(1800));
    assert!(!oauth.require_rotation && !oauth.revoke_on_exit);
    assert!(
        matches!(&oauth.client_auth, ClientAuth::PrivateKeyJwt { kid: Some(kid), .. } if kid == "k1")
    );
    let CredentialSettings::Header { name, value } = &plan.tokens.services[1].1 else {
        panic!("not a header");
    };
    assert_eq!(
        (name.as_str(), value.expose().as_str()),
        ("x-api-key", CANARY)
    );
}

#[test]
fn the_smallest_file_has_every_default() {
    let plan = accepted("services: {web: {hosts: [web.example], rules: [{allow: GET /}]}}");
    assert_eq!(
        plan.listen.proxy[0].at,
        ProxyAt::Tcp("127.0.0.1:8080".parse().unwrap())
    );
    assert_eq!(plan.health, None);
    assert!(matches!(plan.ca, CaPlan::Memory));
    assert_eq!(plan.audit.sink, SinkSettings::Stdout);
    assert!(plan.agents.agents.is_empty());
    assert_eq!(plan.policy.agents[0].name.as_str(), "default");
    let limits = plan.limits;
    assert_eq!(
        (limits.connections, limits.agent_connections),
        (10_000, 1024)
    );
    assert_eq!((limits.agent_streams, limits.request_head), (256, 65_536));
    assert_eq!(
        (
            limits.agent_requests,
            limits.agent_certificates,
            limits.replay_total
        ),
        (500, 50, 64 << 20)
    );
    let floor = limits.body_floor;
    assert_eq!((floor.rate, floor.window), (100, Duration::from_secs(30)));
    assert_eq!(plan.drain.timeout, Duration::from_secs(30));
    assert_eq!(plan.drain.pre_stop, Duration::ZERO);
    assert_eq!(plan.services[0].binding, Binding::None);
    assert_eq!(plan.services[0].slot, Slot::Nothing);
    assert_eq!(plan.policy.services[0].port, 443);
}

#[test]
fn the_advanced_keys_reach_their_places() {
    let plan = accepted(
        r#"
listen: {proxy: [127.0.0.1:8080, {address: "0.0.0.0:8081", plaintext: true}, "[::1]:8080"]}
health: 127.0.0.1:0
ca: {cert: {file: internal-ca.pem}, key: {file: ca-key.pem}}
audit: {when_full: count}
limits: {connections: 10, per_agent: {connections: 5, streams: 4, requests_per_second: 7, certificates_per_second: 8, body_floor: 1KiB/s}, request_head: 16KiB, replay_total: 1MiB}
drain: {timeout: 1m, pre_stop: 500ms}
agents:
  hashed: {auth: {token_sha256: 0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789abcdef}}
services:
  items:
    hosts: ["**.items.example"]
    htu: {strip_prefix: /gw}
    escaped_slashes: literal
    timeouts: {connect: 1s, first_byte: 2s, idle: 3s}
    max_stream_age: 1h
    replay_buffer: 1MiB
    credential:
      oauth:
        issuer: https://as.example/tenant
        client_id: 12345
        client_auth: {private_key_jwt: {key: {file: client.pem}, kid: 0123}}
        grant: client_credentials
        audience: items
        parameters: {tenant: "7"}
        max_token_age: 5m
        require_rotation: false
        revoke_on_exit: true
    placeholder: {shape: "{jwt}", mode: required}
    rules: [{allow: "* /**", scopes: [a]}]
  plain:
    hosts: [plain.example]
    port: 80
    credential: none
    rules: [{allow: GET /}]
tunnel: [blind.example:443]
"#,
    );
    assert_eq!(plan.listen.proxy.len(), 3);
    assert!(matches!(&plan.ca, CaPlan::Given { cert_pem, .. } if !cert_pem.is_empty()));
    assert_eq!(plan.audit.when_full, WhenFull::Count);
    assert_eq!(
        (plan.limits.connections, plan.limits.agent_connections),
        (10, 5)
    );
    assert_eq!(
        (plan.limits.agent_streams, plan.limits.request_head),
        (4, 16_384)
    );
    assert_eq!(
        (
            plan.limits.agent_requests,
            plan.limits.agent_certificates,
            plan.limits.replay_total
        ),
        (7, 8, 1 << 20)
    );
    assert_eq!(plan.limits.body_floor.rate, 1024);
    assert_eq!(plan.drain.pre_stop, Duration::from_millis(500));
    assert_eq!(plan.agents.agents[0].token_sha256[..2], [0x01, 0x23]);
    assert!(plan.proxy_tokens.is_empty());
    let items = &plan.services[0];
    assert_eq!(items.htu, HtuProfile::StripPrefix("/gw".into()));
    assert_eq!(items.timeouts.idle, Duration::from_secs(3));
    assert_eq!(items.max_stream_age, Some(Duration::from_secs(3600)));
    assert_eq!(items.replay_buffer, 1 << 20);
    assert_eq!(items.placeholder.mode, PlaceholderMode::Required);
    let CredentialSettings::Oauth(oauth) = &plan.tokens.services[0].1 else {
        panic!("not OAuth");
    };
    assert_eq!(oauth.client_id, "12345");
    assert!(
        matches!(&oauth.client_auth, ClientAuth::PrivateKeyJwt { kid: Some(kid), .. } if kid == "0123")
    );
    assert_eq!(oauth.parameters, [("tenant".to_owned(), "7".to_owned())]);
    assert_eq!(plan.policy.services[1].scheme, Scheme::Http);
    assert_eq!(plan.policy.tunnel[0].port(), 443);
}

#[test]
fn names_and_words_are_what_they_look_like() {
    let plan = accepted(
        "agents: {123: {auth: {token: {env: CODER_TOKEN}}, services: [no]}}\n\
         services: {no: {hosts: [a.example], rules: [{allow: GET /}]}}\n",
    );
    assert_eq!(plan.policy.agents[0].name.as_str(), "123");
    assert_eq!(plan.policy.services[0].name.as_str(), "no");
}

#[test]
fn anchors_may_repeat_a_part() {
    let plan = accepted(
        "services:\n  a: {hosts: [a.example], rules: &r [{allow: GET /}]}\n  b: {hosts: [b.example], rules: *r}\n",
    );
    assert_eq!(plan.policy.services[1].rules.len(), 1);
}

#[test]
fn services_that_name_one_issuer_share_it() {
    let service = |name: &str| {
        format!(
            "  {name}: {{hosts: [{name}.example], rules: [{{allow: GET /, scopes: [s]}}], credential: {{oauth: {{issuer: https://as.example, client_id: c, client_auth: {{private_key_jwt: {{key: {{file: client.pem}}}}}}, grant: client_credentials}}}}}}\n"
        )
    };
    let plan = accepted(&format!("services:\n{}{}", service("a"), service("b")));
    let issuer = |at: usize| match &plan.tokens.services[at].1 {
        CredentialSettings::Oauth(oauth) => oauth.issuer.clone(),
        _ => panic!("not OAuth"),
    };
    assert!(std::sync::Arc::ptr_eq(&issuer(0), &issuer(1)));
}

#[test]
fn a_login_asks_for_everything_that_any_rule_wants() {
    let file = |redirect: &str| {
        format!(
            "services:\n  a: {{hosts: [a.example], rules: [{{allow: GET /, scopes: [r, x]}}, {{allow: POST /, scopes: [w]}}, {{deny: PUT /}}], credential: {{oauth: {{issuer: https://as.example, client_id: c, client_auth: none, grant: authorization_code{redirect}}}}}}}\n"
        )
    };
    for (given, port, uri) in [
        ("", None, "http://127.0.0.1:9/callback"),
        (
            ", redirect_uri: 'http://127.0.0.1:7001/'",
            Some(7001),
            "http://127.0.0.1:9/",
        ),
        (
            ", redirect_uri: 'http://[::1]/a/b'",
            None,
            "http://[::1]:9/a/b",
        ),
    ] {
        let plan = accepted(&file(given));
        assert_eq!(
            plan.tokens.needs_login().map(ToString::to_string),
            Some("a".into())
        );
        let CredentialSettings::Oauth(oauth) = &plan.tokens.services[0].1 else {
            panic!("not OAuth");
        };
        let Grant::AuthorizationCode { redirect, scopes } = &oauth.grant else {
            panic!("another grant");
        };
        assert_eq!((redirect.port, redirect.uri(9).as_str()), (port, uri));
        assert_eq!(scopes.to_string(), "r w x");
    }
    assert_eq!(accepted(EXAMPLE).tokens.needs_login(), None);
}

#[test]
fn grants_that_refresh_are_for_everything_that_rules_want() {
    let file = |grant: &str| {
        format!(
            "services:\n  a:\n    hosts: [a.example]\n    credential:\n      oauth: {{issuer: https://as.example, client_id: c, client_auth: none, grant: {grant}}}\n    rules: [{{allow: GET /, scopes: [r]}}, {{allow: POST /, scopes: [w]}}]\nadmin: {{listen: 'unix:operator/a.sock'}}\n"
        )
    };
    for (text, word, by_login) in [
        ("device_code", "device_code", true),
        (
            "{refresh_token: {exec: [/bin/echo, rt]}}",
            "refresh_token",
            false,
        ),
    ] {
        let plan = accepted(&file(text));
        let admin = plan.admin.unwrap();
        assert!(admin.required && admin.token.is_none());
        let AdminAt::Unix(path) = admin.at else {
            panic!("not a socket");
        };
        assert!(path.ends_with("operator/a.sock"));
        let CredentialSettings::Oauth(oauth) = &plan.tokens.services[0].1 else {
            panic!("not OAuth");
        };
        assert_eq!(oauth.grant.word(), word);
        assert_eq!(oauth.grant.by_login(), by_login);
        assert_eq!(oauth.grant.whole().unwrap().to_string(), "r w");
    }
}

#[test]
fn what_is_weak_is_warned_of_with_its_line() {
    let plan = accepted(
        r"services:
  a:
    hosts: [a.example]
    upstream: {connect: 10.0.0.1}
    credential:
      oauth:
        issuer: https://as.example
        client_id: c
        client_auth: {secret_basic: {env: LLM_KEY}}
        grant: client_credentials
        binding: bearer
    rules:
      - allow: GET /
",
    );
    let seen: Vec<(usize, &str)> = plan
        .warnings
        .iter()
        .map(|w| (w.line, w.key.as_str()))
        .collect();
    let oauth = "services.a.credential.oauth";
    assert_eq!(
        seen,
        [
            (4, "services.a.upstream.connect"),
            (9, &*format!("{oauth}.client_auth.secret_basic")),
            (11, &*format!("{oauth}.binding")),
            (13, "services.a.rules[0]"),
        ]
    );
    assert!(
        plan.warnings
            .iter()
            .all(|w| !w.to_string().contains("8841"))
    );
}

/// R-116: the weaker the way to prove the client's name, the more is said.
#[test]
fn each_way_to_prove_the_clients_name_has_its_place() {
    let warned = |auth: &str, grant: &str| -> Vec<String> {
        let yaml = format!(
            "services:
  a:
    hosts: [a.example]
    credential:
      oauth:
        issuer: https://as.example
        client_id: c
        client_auth: {auth}
        grant: {grant}
    rules: [{{allow: GET /, scopes: [r]}}]
"
        );
        let warnings = accepted(&yaml).warnings;
        warnings.iter().map(ToString::to_string).collect()
    };
    let own = "client_credentials";
    let basic = warned("{secret_basic: {env: LLM_KEY}}", own);
    assert!(
        basic[0].contains("a static secret") && basic[0].contains("`mtls` or `private_key_jwt`")
    );
    assert!(!basic[0].contains("secret_basic`"), "{basic:?}");
    let post = warned("{secret_post: {env: LLM_KEY}}", own);
    assert!(post[0].contains("else `secret_basic`"), "{post:?}");
    let fixed = warned("none", "{jwt_bearer: {assertion: {env: LLM_KEY}}}");
    assert!(
        fixed[0].contains("does not change while tokenward runs"),
        "{fixed:?}"
    );
    assert_eq!((basic.len(), post.len(), fixed.len()), (1, 1, 1));
    for strong in [
        "{private_key_jwt: {key: {file: client.pem}}}",
        "{kubernetes: {token: {file: client.pem}}}",
        "{spiffe: {jwt_svid: {file: client.pem}}}",
    ] {
        assert_eq!(warned(strong, own), Vec::<String>::new(), "{strong}");
    }
}

#[test]
fn without_secrets_nothing_but_the_file_is_read() {
    let place = Place::new();
    let yaml = EXAMPLE
        .replace("CODER_TOKEN", "NOT_SET")
        .replace("LLM_KEY", "NOT_SET_EITHER")
        .replace(".pem", ".absent");
    let plan = place.load_as(&yaml, SecretReading::Skip).unwrap();
    assert_eq!(plan.secret_variables, ["NOT_SET", "NOT_SET_EITHER"]);
    assert!(plan.proxy_tokens.is_empty());
    assert_eq!(plan.agents.agents[0].token_sha256, [0; 32]);
    assert!(place.load_as(&yaml, SecretReading::Resolve).is_err());
}

#[test]
fn guards_and_cookies_reach_their_places() {
    let yaml = "agents: {a: {auth: {token_sha256: 873f8d043856939089e30941bff5f3a8e20bcf743f4111ffcec2a91886a1db4a}, placeholder_misuse: revoke}}\n\
        services:\n  a: {hosts: [a.example], credential: {bearer: {env: LLM_KEY}}, rules: [{allow: GET /}]}\n  \
        b: {hosts: [b.example], credential: {bearer: {env: LLM_KEY}}, session_cookies: drop, request_guard: block, rules: [{allow: GET /}]}\n  \
        c: {hosts: [c.example], credential: {bearer: {env: LLM_KEY}}, session_cookies: {pass: [lang, theme]}, rules: [{allow: GET /}]}\n  \
        d: {hosts: [d.example], session_cookies: keep, request_guard: off, rules: [{allow: GET /}]}\n";
    let plan = accepted(yaml);
    let cookies: Vec<_> = plan.services.iter().map(|s| &s.session_cookies).collect();
    let named = SessionCookies::Pass(vec!["lang".into(), "theme".into()]);
    let wanted = [
        &SessionCookies::Keep,
        &SessionCookies::Drop,
        &named,
        &SessionCookies::Keep,
    ];
    assert_eq!(cookies, wanted);
    let guards: Vec<_> = plan.services.iter().map(|s| s.request_guard).collect();
    let (off, block) = (RequestGuard::Off, RequestGuard::Block);
    assert_eq!(guards, [off, block, off, off]);
    let stopped: Vec<_> = plan.quarantined.iter().map(|a| a.as_str()).collect();
    assert_eq!(stopped, ["a"]);
    let warned: Vec<_> = plan.warnings.iter().map(|w| w.key.as_str()).collect();
    assert!(warned.contains(&"services.d.session_cookies"), "{warned:?}");
}

#[test]
fn the_schema_lists_what_works_and_only_that() {
    let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    let keys = schema["properties"].as_object().unwrap();
    assert!(keys.contains_key("services") && keys.contains_key("admin"));
    let text = schema.to_string();
    for absent in ["gateway", "vault", "keyring", "null", "allOf"] {
        assert!(!text.contains(absent), "{absent}");
    }
    // The one place by which `shape` knows where a secret is expected.
    assert_eq!(text.matches("\"env\":").count(), 1);
    let undescribed = |object: &serde_json::Value| {
        let properties = object["properties"].as_object().into_iter().flatten();
        let bare = properties.filter(|(_, p)| p.get("description").is_none());
        bare.map(|(key, _)| key.clone()).collect::<Vec<_>>()
    };
    assert!(
        undescribed(&schema).is_empty(),
        "{:?}",
        undescribed(&schema)
    );
}

#[test]
fn a_parent_proxy_is_read() {
    use crate::upstream::Except;

    let yaml = "parent_proxy: {url: \"https://proxy.corp:3128/\", auth: {env: CORP}, except: [internal.example, .x.example, 10.0.0.0/8, \"::1\"], ca: {file: internal-ca.pem}}\ntunnel: [\"a.example:443\"]\n";
    let place = Place::new();
    let variables = Environment::of([("CORP", "user:pass word")]);
    place.write("tokenward.yaml", yaml);
    let plan = load_in(
        &place.path().join("tokenward.yaml"),
        SecretReading::Resolve,
        &variables,
    );
    let plan = plan.unwrap_or_else(|problems| panic!("{problems}"));
    let parent = plan.parent.unwrap();
    assert_eq!(parent.authority.origin(), "https://proxy.corp:3128");
    assert_eq!(parent.credential.unwrap().expose(), "user:pass word");
    assert_eq!(parent.extra_roots.len(), 1);
    let host = |name: &str| Except::Host(crate::vocab::Host::parse(name).unwrap());
    let network = |ip: &str, bits| Except::Network(ip.parse().unwrap(), bits);
    assert_eq!(
        parent.except,
        [
            host("internal.example"),
            host("x.example"),
            network("10.0.0.0", 8),
            network("::1", 128)
        ]
    );
    assert_eq!(plan.secret_variables, ["CORP"]);
    // In clear beyond this machine, the credential deserves a word.
    let clear = |url: &str| {
        let yaml = format!(
            "parent_proxy: {{url: \"{url}\", auth: {{exec: [printf, \"a:b\"]}}}}\ntunnel: [\"a.example:443\"]\n"
        );
        accepted(&yaml).warnings.len()
    };
    assert_eq!(clear("http://proxy.corp:3128"), 1);
    assert_eq!(clear("http://127.0.0.1:3128"), 0);
    assert_eq!(clear("https://proxy.corp"), 0);
    assert!(accepted(EXAMPLE).parent.is_none());
}

#[test]
fn listeners_may_be_sockets_and_may_speak_tls() {
    let plan = accepted(
        "listen:\n  proxy:\n    - unix:/run/p.sock\n    - {address: unix:q.sock, mode: 0660}\n    - {address: 0.0.0.0:8443, tls: {cert: {file: leaf.pem}, key: {file: client.pem}}}\n\
         agents: {a: {auth: {token: {env: CODER_TOKEN}}}}\ntunnel: [\"a.example:443\"]\n",
    );
    let [first, second, third] = plan.listen.proxy.as_slice() else {
        panic!("not three");
    };
    let socket = |path: &Path, mode| ProxyAt::Unix {
        path: path.to_owned(),
        mode,
    };
    assert_eq!(first.at, socket(Path::new("/run/p.sock"), 0o600));
    let ProxyAt::Unix { path, mode } = &second.at else {
        panic!("not a socket");
    };
    assert!(path.is_absolute() && path.ends_with("q.sock") && *mode == 0o660);
    let tls = third.tls.as_ref().unwrap();
    assert_eq!(tls.hosts, [crate::vocab::Host::parse("leaf.test").unwrap()]);
    assert!(first.tls.is_none() && second.tls.is_none());
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
}

/// Every client authentication and grant that needs no person reaches its place.
#[test]
fn machine_grants_reach_the_plan() {
    let file = |auth: &str, grant: &str, binding: &str| {
        format!(
            "services:\n  a:\n    hosts: [a.example]\n    credential:\n      oauth:\n        issuer: https://as.example\n        client_id: c\n        client_auth: {auth}\n        grant: {grant}\n        binding: {binding}\n    rules: [{{allow: GET /}}]\n"
        )
    };
    let read = |auth: &str, grant: &str, binding: &str| {
        let plan = accepted(&file(auth, grant, binding));
        match plan.tokens.services.into_iter().next().unwrap().1 {
            CredentialSettings::Oauth(oauth) => oauth,
            other => panic!("{other:?}"),
        }
    };
    let mtls = read(
        "{mtls: {cert: {file: leaf.pem}, key: {file: client.pem}}}",
        "client_credentials",
        "mtls",
    );
    assert!(matches!(mtls.client_auth, ClientAuth::Mtls(_)));
    assert_eq!(mtls.binding, Binding::Mtls);
    let spiffe = read(
        "{spiffe: {jwt_svid: {file: not-pem}, audience: x, assertion_type: jwt_bearer}}",
        "client_credentials",
        "dpop",
    );
    let ClientAuth::Workload(spiffe) = spiffe.client_auth else {
        panic!("no workload");
    };
    assert_eq!(
        (spiffe.audience.as_deref(), spiffe.platform),
        (Some("x"), Platform::SpiffePlain)
    );
    let exchange = read(
        "{kubernetes: {token: {file: not-pem}}}",
        "{token_exchange: {subject_token: {file: not-pem}, actor_token: {file: not-pem}, actor_token_type: access_token}}",
        "dpop",
    );
    let Grant::TokenExchange(exchange) = exchange.grant else {
        panic!("no exchange");
    };
    assert_eq!(
        exchange.subject.kind,
        "urn:ietf:params:oauth:token-type:jwt"
    );
    assert_eq!(
        exchange.actor.unwrap().kind,
        "urn:ietf:params:oauth:token-type:access_token"
    );
    let signed = read(
        "none",
        "{jwt_bearer: {key: {file: client.pem}, subject: alice}}",
        "dpop",
    );
    assert!(matches!(
        signed.grant,
        Grant::JwtBearer(AssertionSource::Signed { .. })
    ));
}

#[test]
fn health_and_step_up_reach_their_places() {
    let plan = accepted(
        r#"
services:
  items:
    hosts: ["*.items.example", api.items.example]
    port: 8443
    htu: {strip_prefix: /gw}
    health: {interval: 30s, introspection: false, probe: HEAD /v1/ping}
    credential:
      oauth: {issuer: "https://as.example", client_id: c, client_auth: none, grant: client_credentials, scope_changes: pass}
    rules:
      - {allow: "GET|HEAD /v1/ping", scopes: [ping]}
      - {allow: "* /v1/**", scopes: [read], step_up: [read, write]}
  other:
    hosts: [other.example]
    credential:
      oauth: {issuer: "https://as.example", client_id: c, client_auth: none, grant: client_credentials}
    rules: [{allow: "* /**", scopes: [read]}]
"#,
    );
    let oauth = |at: usize| match &plan.tokens.services[at].1 {
        CredentialSettings::Oauth(oauth) => oauth.clone(),
        other => panic!("{other:?}"),
    };
    let health = oauth(0).health;
    assert_eq!(health.interval, Duration::from_secs(30));
    assert!(!health.introspection && oauth(0).any_scopes);
    let probe = health.probe.unwrap();
    assert!(probe.head);
    assert_eq!(probe.url.as_str(), "https://api.items.example:8443/v1/ping");
    assert_eq!(probe.scopes.to_string(), "ping");
    assert_eq!(probe.htu, HtuProfile::StripPrefix("/gw".into()));
    let other = oauth(1);
    assert_eq!(other.health.interval, Duration::from_mins(5));
    assert!(other.health.introspection && other.health.probe.is_none() && !other.any_scopes);
    let ceiling = |rule: usize| plan.policy.services[0].rules[rule].ceiling();
    assert_eq!(ceiling(0), None);
    assert_eq!(ceiling(1).unwrap().to_string(), "read write");
}

#[test]
fn connections_may_be_redirected() {
    use crate::listen::{RedirectMode, TransparentSettings};
    let redirect = RedirectMode::Redirect;
    let plan = accepted("listen: {transparent: 127.0.0.1:15001}\ntunnel: [\"a.example:443\"]\n");
    let one = |address: &str, mode, agent: Option<&str>| TransparentSettings {
        address: address.parse().unwrap(),
        mode,
        agent: agent.map(|name| crate::vocab::AgentName::new(name).unwrap()),
    };
    assert_eq!(
        plan.listen.transparent,
        [one("127.0.0.1:15001", redirect, None)]
    );
    assert_eq!(plan.listen.proxy.len(), 1);
    let plan = accepted(
        "listen:\n  transparent:\n    - {address: '0.0.0.0:15001', agent: mute}\n    - {address: '[::]:15001', agent: mute}\n    - {address: '[::1]:15002', mode: tproxy, agent: a}\n\
         agents: {mute: {}, a: {auth: {token: {env: CODER_TOKEN}}}}\ntunnel: [\"a.example:443\"]\n",
    );
    let expected = [
        one("0.0.0.0:15001", redirect, Some("mute")),
        one("[::]:15001", redirect, Some("mute")),
        one("[::1]:15002", RedirectMode::Tproxy, Some("a")),
    ];
    assert_eq!(plan.listen.transparent, expected);
    let placed: Vec<_> = plan.agents.placed.iter().map(ToString::to_string).collect();
    assert_eq!(placed, ["a", "mute"]);
    let with_token: Vec<_> = plan.agents.agents.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(with_token, ["a"]);
}
