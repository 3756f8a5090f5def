use super::*;
use crate::credential::placeholder::{InstanceKey, Shape, derive};
use crate::vocab::Secret;

struct World {
    agent: AgentName,
    other: AgentName,
    service: ServiceName,
    key: InstanceKey,
    placeholders: Placeholders,
}

impl World {
    fn new() -> Self {
        let key = InstanceKey::new(&Secret::new(vec![9; 32]));
        let (agent, other) = (AgentName::new("a").unwrap(), AgentName::new("b").unwrap());
        let service = ServiceName::new("items").unwrap();
        let shape = Shape::default();
        let placeholders = Placeholders::new(
            &key,
            [(&agent, &service, &shape), (&other, &service, &shape)],
        );
        Self {
            agent,
            other,
            service,
            key,
            placeholders,
        }
    }

    fn placeholder(&self, agent: &AgentName) -> String {
        derive(&self.key, agent, &self.service, &Shape::default())
    }

    fn strip(
        &self,
        slot: &Slot,
        mode: PlaceholderMode,
        query: &str,
        fields: &[(&str, &str)],
    ) -> Result<Stripped, Code> {
        let mut request = http::Request::builder().method("GET").uri("/v1/items");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let bench = Bench {
            agent: &self.agent,
            service: &self.service,
            slot,
            mode,
            placeholders: &self.placeholders,
            pseudonym: "tokenward-1",
            guarded: true,
            cookies: &["lang".into(), "theme".into()],
        };
        let path = RequestPath::parse("/v1/items").unwrap();
        let query = (!query.is_empty()).then_some(query);
        strip(&parts, path, query, Intent::Plain, &bench).map_err(|e| e.0)
    }
}

fn names(stripped: &Stripped) -> Vec<&str> {
    stripped
        .head
        .headers
        .keys()
        .map(HeaderName::as_str)
        .collect()
}

#[test]
fn only_harmless_fields_remain() {
    let world = World::new();
    let mine = world.placeholder(&world.agent);
    let bearer = format!("Bearer {mine}");
    let fields = [
        ("accept", "*/*"),
        ("authorization", bearer.as_str()),
        ("authorization", ""),
        ("dpop", "x"),
        ("DPoP", "y"),
        ("x-api-key", "attacker"),
        ("proxy-authorization", "Basic eDp5"),
        ("proxy-connection", "keep-alive"),
        ("connection", "close, x-note, authorization"),
        ("x-note", "named by Connection"),
        ("x_forwarded_host", "evil.test"),
        ("x-forwarded-for", "1.2.3.4"),
        ("forwarded", "host=evil.test"),
        ("proxy", "http://evil.test/"),
        ("x-original-url", "/admin"),
        ("x-tokenward-agent", "b"),
        ("cookie", "session=1"),
        ("te", "trailers"),
        ("host", "api.test"),
        ("content-length", "3"),
        ("user-agent", "curl"),
    ];
    let stripped = world
        .strip(&Slot::Authorization, PlaceholderMode::Required, "", &fields)
        .unwrap();
    assert_eq!(names(&stripped), ["accept", "user-agent"]);
    assert_eq!(stripped.seen, Seen::Placeholder);
    assert!(stripped.head.takes_trailers);
}

#[test]
fn a_real_secret_of_the_agents_is_taken_and_reported() {
    let world = World::new();
    let fields = [("authorization", "Bearer ghp_real")];
    let stripped = world
        .strip(&Slot::Authorization, PlaceholderMode::Optional, "", &fields)
        .unwrap();
    assert_eq!(stripped.seen, Seen::Stranger);
    assert_eq!(stripped.removed, [header::AUTHORIZATION]);
    let none = world
        .strip(&Slot::Authorization, PlaceholderMode::Optional, "", &[])
        .unwrap();
    assert_eq!(none.seen, Seen::Nothing);
}

#[test]
fn a_placeholder_of_somebody_else_is_refused() {
    use base64::Engine as _;
    let world = World::new();
    let theirs = world.placeholder(&world.other);
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("git:{theirs}"));
    for (name, value) in [
        ("authorization", format!("Bearer {theirs}")),
        ("authorization", format!("token {theirs}")),
        ("authorization", theirs.clone()),
        ("authorization", format!("Basic {basic}")),
        ("x-api-key", theirs),
    ] {
        let refused = world.strip(
            &Slot::Authorization,
            PlaceholderMode::Optional,
            "",
            &[(name, &value)],
        );
        assert_eq!(
            refused.map(|_| ()),
            Err(Code::PlaceholderMismatch),
            "{name}: {value}"
        );
    }
}

#[test]
fn a_demanded_placeholder_must_be_there() {
    let world = World::new();
    let absent = world.strip(
        &Slot::Authorization,
        PlaceholderMode::Required,
        "",
        &[("authorization", "Bearer x")],
    );
    assert_eq!(absent.map(|_| ()), Err(Code::PlaceholderRequired));
    let mine = world.placeholder(&world.agent);
    let own = Slot::Header(HeaderName::from_static("x-own-key"));
    let present = world
        .strip(&own, PlaceholderMode::Required, "", &[("x-own-key", &mine)])
        .unwrap();
    assert_eq!(present.seen, Seen::Placeholder);
}

#[test]
fn overrides_and_loops_end_here() {
    let world = World::new();
    for (fields, code) in [
        (("x-http-method-override", "DELETE"), Code::MethodOverride),
        (("x-method-override", "DELETE"), Code::MethodOverride),
        (("X-HTTP-Method", "DELETE"), Code::MethodOverride),
        (("http-method-override", "DELETE"), Code::MethodOverride),
        (("via", "1.1 other, 1.1 tokenward-1"), Code::ProxyLoop),
    ] {
        let refused = world.strip(
            &Slot::Authorization,
            PlaceholderMode::Optional,
            "",
            &[fields],
        );
        assert_eq!(refused.map(|_| ()), Err(code));
    }
}

#[test]
fn a_query_that_overrides_the_method_is_refused() {
    let world = World::new();
    let ask = |slot: &Slot, query: &str| {
        let stripped = world.strip(slot, PlaceholderMode::Optional, query, &[]);
        stripped.map(|_| ())
    };
    for slot in [Slot::Authorization, Slot::Nothing] {
        for query in [
            "_method=DELETE",
            "a=1&_method=delete",
            "a=1;_METHOD=x",
            "%5fmethod=DELETE",
            "+_method=PUT",
            "_HttpMethod=PATCH",
            "X-HTTP-Method-Override=PATCH",
            "_method",
        ] {
            assert_eq!(ask(&slot, query), Err(Code::MethodOverride), "{query}");
        }
        for query in [
            "method=flickr.photos.search",
            "a=_method",
            "payment_method=card",
            "_=1",
        ] {
            assert_eq!(ask(&slot, query), Ok(()), "{query}");
        }
    }
}

#[test]
fn a_chain_of_proxies_stays_visible_and_a_loop_over_two_ends() {
    let world = World::new();
    let via = ("via", "1.1 other, 1.1 tokenward-2");
    let stripped = world
        .strip(&Slot::Authorization, PlaceholderMode::Optional, "", &[via])
        .unwrap();
    assert_eq!(stripped.head.headers[header::VIA], via.1);
}

#[test]
fn codings_that_nobody_here_can_read_are_not_offered() {
    let world = World::new();
    let offer = |slot: &Slot, lines: &[&str]| {
        let fields: Vec<_> = lines
            .iter()
            .map(|line| ("accept-encoding", *line))
            .collect();
        let head = world
            .strip(slot, PlaceholderMode::Optional, "", &fields)
            .unwrap()
            .head;
        let lines = head.headers.get_all(header::ACCEPT_ENCODING).iter();
        lines
            .map(|v| v.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let auth = Slot::Authorization;
    for (given, expected) in [
        (&["gzip, deflate, br, zstd"][..], &["gzip, deflate, br"][..]),
        (&["GZIP;q=0.5,identity"], &["GZIP;q=0.5,identity"]),
        (&["zzz, br;q=0, *;q=1"], &["br;q=0"]),
        (&["gzip", "dcb"], &["gzip"]),
        (&["zzz"], &["identity"]),
        (&[""], &[""]),
        (&[], &[]),
    ] {
        assert_eq!(offer(&auth, given), expected, "{given:?}");
    }
    assert_eq!(offer(&Slot::Nothing, &["zzz, *"]), ["zzz, *"]);
}

#[test]
fn parts_and_differences_are_not_asked_for_where_answers_are_searched() {
    let world = World::new();
    let asked = [
        ("range", "bytes=0-5"),
        ("if-range", "\"a\""),
        ("a-im", "feed"),
        ("grpc-accept-encoding", "gzip"),
        ("accept", "x/y"),
    ];
    let left = |slot: &Slot| {
        let stripped = world.strip(slot, PlaceholderMode::Optional, "", &asked);
        names(&stripped.unwrap()).join(" ")
    };
    assert_eq!(left(&Slot::Authorization), "accept");
    assert!(left(&Slot::Nothing).contains("range"));
}

#[test]
fn websocket_extensions_are_not_offered() {
    let world = World::new();
    let offered = [("sec-websocket-extensions", "permessage-deflate")];
    let stripped = world
        .strip(&Slot::Nothing, PlaceholderMode::Optional, "", &offered)
        .unwrap();
    assert!(names(&stripped).is_empty());
}

#[test]
fn query_credentials_go_and_the_rest_keeps_its_bytes() {
    let world = World::new();
    let query = |slot: &Slot, text: &str| {
        world
            .strip(slot, PlaceholderMode::Optional, text, &[])
            .unwrap()
            .head
            .query
            .map(String::from)
    };
    let auth = Slot::Authorization;
    assert_eq!(
        query(&auth, "a=%2f&access_token=x&b&API_KEY=y"),
        Some("a=%2f&b".into())
    );
    assert_eq!(query(&auth, "access_token=x"), None);
    assert_eq!(query(&auth, "a=1&&b=+"), Some("a=1&&b=+".into()));
    assert_eq!(
        query(&Slot::Nothing, "access_token=x"),
        Some("access_token=x".into())
    );
}

#[test]
fn cookies_stay_where_no_credential_is_ours() {
    let world = World::new();
    let stripped = world
        .strip(
            &Slot::Nothing,
            PlaceholderMode::Optional,
            "",
            &[("cookie", "a=1"), ("cookie", "b=2")],
        )
        .unwrap();
    assert_eq!(stripped.head.headers[header::COOKIE], "a=1; b=2");
}

#[test]
fn of_the_agents_cookies_those_that_are_named_go_out() {
    let world = World::new();
    for (lines, sent) in [
        (
            vec!["sid=1; lang=en", "theme=a=b;x"],
            Some("lang=en; theme=a=b"),
        ),
        (vec!["lang=en"], Some("lang=en")),
        (vec!["LANG=en; lang ; langs=1"], None),
        (vec!["sid=1"], None),
        // Some readers find a second cookie in these.
        (vec!["lang=a sid=evil; theme=\"x\""], Some("theme=\"x\"")),
        (vec!["lang=a,sid=evil", "theme=a\tsid=1"], None),
        (vec!["lang=\"a\\\"", "theme=\"a", "theme=a\"b\""], None),
    ] {
        let fields: Vec<_> = lines.iter().map(|line| ("cookie", *line)).collect();
        let slot = Slot::Authorization;
        let stripped = world.strip(&slot, PlaceholderMode::Optional, "", &fields);
        let stripped = stripped.unwrap();
        let left = stripped.head.headers.get_all(header::COOKIE).iter();
        let left: Vec<_> = left.collect();
        assert!(
            left.len() <= 1 && left.first().map(|v| v.to_str().unwrap()) == sent,
            "{lines:?}: {left:?}"
        );
    }
}

#[test]
fn names_that_sound_like_credentials_are_taken() {
    let world = World::new();
    let taken = [
        "xi-api-key",
        "x-gitlab-token",
        "x-shopify-access-token",
        "cf-access-client-secret",
        "circle-token",
        "x-auth",
        "dd-api-key",
        "cookie2",
        "x-original-uri",
        "remote-user",
        "x-auth-request-email",
        "x-tokenward",
        "x-host",
        "x-rewrite-url",
        "x-forwarded-client-cert",
        "x-client-cert-subject",
        "x-ssl-client-s-dn",
        "x-ms-client-principal-id",
        "x-amzn-oidc-data",
        "proxy-status",
        "client-cert-chain",
        "x-cluster-client-ip",
        "remote_user",
        "authorization_",
    ];
    let kept = [
        "x-csrf-token",
        "x-continuation-token",
        "x-request-id",
        "idempotency-key",
        "x-original",
    ];
    let fields: Vec<(&str, &str)> = taken.iter().chain(&kept).map(|name| (*name, "v")).collect();
    let stripped = world
        .strip(&Slot::Authorization, PlaceholderMode::Optional, "", &fields)
        .unwrap();
    assert_eq!(names(&stripped), kept);
}

#[test]
fn of_trailers_digests_remain() {
    let mut trailers = HeaderMap::new();
    for name in ["content-digest", "x-sum", "host", "authorization", "via"] {
        let name = name.parse::<HeaderName>().unwrap();
        trailers.append(name.clone(), HeaderValue::from_static("1"));
        trailers.append(name, HeaderValue::from_static("2"));
    }
    let kept = strip_trailers(trailers);
    let kept: Vec<_> = kept.iter().map(|(n, v)| (n.as_str(), v)).collect();
    assert_eq!(kept, [("content-digest", &HeaderValue::from_static("1"))]);
    let world = World::new();
    let announced = |text: &str| {
        let fields = [("trailer", text)];
        let stripped = world
            .strip(&Slot::Nothing, PlaceholderMode::Optional, "", &fields)
            .unwrap();
        stripped.head.headers.get("trailer").cloned()
    };
    assert_eq!(announced("x-sum, host"), None);
    assert_eq!(
        announced("x-sum, Repr-Digest").unwrap(),
        HeaderValue::from_static("repr-digest")
    );
}

#[test]
fn escaped_and_semicolon_parameters_are_seen_through() {
    let world = World::new();
    let query = |text: &str| {
        let stripped = world
            .strip(&Slot::Authorization, PlaceholderMode::Optional, text, &[])
            .unwrap();
        stripped.head.query.map(String::from)
    };
    assert_eq!(query("access%5Ftoken=x&a=1"), Some("a=1".into()));
    assert_eq!(query("%61ccess_token=x"), None);
    assert_eq!(query("a=1;access_token=x"), Some("a=1".into()));
    assert_eq!(query("a=1;b=%zz&%"), Some("a=1;b=%zz&%".into()));
    for hidden in [
        "access_token[]=x",
        "access_token%5b0%5D=x",
        "access.token=x",
        "access%20token=x",
        "+access_token=x",
        "access[token=x",
        "Access-Token=x",
        "token=xoxb-1",
        "X-Amz-Signature=x",
        "client_assertion=x",
        "private-token=x",
    ] {
        assert_eq!(query(hidden), None, "{hidden}");
    }
    for harmless in [
        "page_token=x",
        "pageToken=x",
        "next_token=x",
        "key=a",
        "author=x",
        "tokens=5",
        "%+5access_token=x",
        "q=access_token",
    ] {
        assert_eq!(query(harmless), Some(harmless.into()));
    }
}

#[test]
fn subprotocols_that_carry_keys_are_left_out() {
    let world = World::new();
    let offered = [(
        "sec-websocket-protocol",
        "realtime, openai-insecure-api-key.sk-1, chat",
    )];
    let stripped = world
        .strip(
            &Slot::Authorization,
            PlaceholderMode::Optional,
            "",
            &offered,
        )
        .unwrap();
    assert_eq!(
        stripped.head.headers[header::SEC_WEBSOCKET_PROTOCOL],
        "realtime, chat"
    );
}

#[test]
fn a_signed_request_is_refused_where_a_credential_of_ours_would_go() {
    let world = World::new();
    let signed = "AWS4-HMAC-SHA256 Credential=AKID/20261124/eu-west-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=0a1b";
    let ask = |slot: &Slot, value: &str| {
        world
            .strip(
                slot,
                PlaceholderMode::Optional,
                "",
                &[("authorization", value)],
            )
            .map(|stripped| names(&stripped).contains(&"authorization"))
    };
    for value in [
        signed.to_owned(),
        signed.replace("HMAC-SHA256", "ECDSA-P256-SHA256"),
        signed.replace("AWS4", "aws4"),
        signed.replace(", ", ","),
    ] {
        assert_eq!(ask(&Slot::Authorization, &value), Err(Code::SignedRequest));
        // Without a credential of ours it goes out as any other: without its signature.
        assert_eq!(ask(&Slot::Nothing, &value), Ok(false));
    }
    // What only looks like one is a credential like any other.
    for value in ["AWS4-HMAC-SHA256 Credential=x", "AWS4", "Signature="] {
        assert_eq!(ask(&Slot::Authorization, value), Ok(false));
    }
}
