//! Answers, good and bad, one by one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::*;

const WALL: WallTime = WallTime(1_700_000_000_000);

fn reply(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> IssuerReply {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    IssuerReply {
        status,
        headers: map,
        body: body.into(),
    }
}

fn json_reply(status: u16, body: &Value) -> IssuerReply {
    let json = [("content-type", "application/json;charset=UTF-8")];
    reply(status, &json, body.to_string())
}

fn issued(more: &Value) -> Result<Issued, Failure> {
    let mut body = json!({"access_token": "at-1", "token_type": "DPoP", "expires_in": 60});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    Issued::read(&json_reply(200, &body))
}

fn weigh(
    more: &Value,
    binding: Binding,
    jkt: Option<&str>,
    scopes: &str,
) -> Result<String, Objection> {
    let scopes = ScopeSet::parse(scopes).unwrap();
    let wanted = Wanted {
        binding,
        jkt,
        scopes: &scopes,
        most: None,
        certificate: None,
        exchanged: false,
        any_scopes: false,
    };
    issued(more)
        .unwrap()
        .weigh(&wanted)
        .map(|scopes| scopes.to_string())
}

#[test]
fn a_token_response_is_read_once_and_strictly() {
    let good = issued(&json!({"refresh_token": "rt", "id_token": "it", "x": {"y": 1}})).unwrap();
    assert_eq!(good.access.expose(), "at-1");
    assert_eq!(good.life, Some(Duration::from_secs(60)));
    for (life, want) in [
        (json!("3600"), Some(Duration::from_secs(3600))),
        (json!(0), Some(Duration::ZERO)),
        (json!(null), None),
    ] {
        assert_eq!(issued(&json!({"expires_in": life})).unwrap().life, want);
    }
    for bad in [
        json!({"access_token": null}),
        json!({"access_token": 5}),
        json!({"access_token": ""}),
        json!({"access_token": "a b"}),
        json!({"access_token": "a\r\nx: y"}),
        json!({"access_token": "x".repeat(TOKEN_MAX + 1)}),
        json!({"expires_in": -1}),
        json!({"expires_in": "soon"}),
        json!({"expires_in": 1.5}),
        json!({"scope": 7}),
        json!({"scope": "a\"b"}),
    ] {
        let failure = issued(&bad).err().unwrap();
        assert_eq!(failure.code, Code::AsUnavailable);
    }
}

#[test]
fn what_is_not_json_is_no_token_response() {
    let body = r#"{"access_token":"a","token_type":"DPoP"}"#;
    let json = [("content-type", "application/json")];
    assert!(Issued::read(&reply(200, &json, body)).is_ok());
    let html = [("content-type", "text/html")];
    let large = format!(
        "{{\"access_token\":\"a\",\"x\":\"{}\"}}",
        "y".repeat(BODY_MAX)
    );
    for bad in [
        reply(200, &html, body),
        reply(200, &[], body),
        reply(200, &json, "<html>canary</html>"),
        reply(200, &json, &body[..20]),
        reply(
            200,
            &json,
            r#"{"access_token":"a","access_token":"b","token_type":"DPoP"}"#,
        ),
        reply(
            200,
            &json,
            r#"{"access_token":"a","token_type":"Bearer","token_type":"DPoP"}"#,
        ),
        reply(200, &json, large),
        reply(200, &json, ""),
    ] {
        assert_eq!(
            Issued::read(&bad).err().map(|f| f.code),
            Some(Code::AsUnavailable)
        );
    }
}

#[test]
fn a_bound_token_is_wanted_and_nothing_less_is_taken() {
    let dpop = |kind: Value| weigh(&json!({"token_type": kind}), Binding::Dpop, Some("k"), "");
    for kind in ["DPoP", "dpop", "DPOP"] {
        assert!(dpop(json!(kind)).is_ok());
    }
    for kind in [
        json!("Bearer"),
        json!("N_A"),
        json!(null),
        json!(7),
        json!("DPoP2"),
    ] {
        assert_eq!(dpop(kind), Err(Objection::Downgrade));
    }
    for binding in [Binding::Bearer, Binding::RefreshOnly] {
        let kind = |kind: &str| weigh(&json!({"token_type": kind}), binding, None, "");
        assert!(kind("bearer").is_ok());
        assert_eq!(kind("DPoP"), Err(Objection::Unexpected));
        assert_eq!(kind("N_A"), Err(Objection::Unexpected));
    }
}

#[test]
fn a_jwt_that_names_another_key_is_not_used() {
    let jwt = |claims: Value| {
        let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
        json!({"access_token": format!("e30.{claims}.c2ln")})
    };
    let ours = |more: &Value| weigh(more, Binding::Dpop, Some("our-key"), "");
    assert!(ours(&jwt(json!({"cnf": {"jkt": "our-key"}}))).is_ok());
    assert!(ours(&jwt(json!({"sub": "x"}))).is_ok());
    assert!(ours(&json!({"access_token": "not.a.jwt"})).is_ok());
    assert!(ours(&json!({"access_token": "a.b.c.d.e"})).is_ok());
    for other in [
        json!({"cnf": {"jkt": "her-key"}}),
        json!({"cnf": {"x5t#S256": "her-certificate"}}),
    ] {
        assert_eq!(ours(&jwt(other)), Err(Objection::Mismatch));
    }
    let mut bearer = jwt(json!({"cnf": {"jkt": "her-key"}}));
    bearer["token_type"] = json!("Bearer");
    assert_eq!(
        weigh(&bearer, Binding::Bearer, None, ""),
        Err(Objection::Mismatch)
    );
}

#[test]
fn scopes_are_those_that_were_asked_for() {
    let got = |more: Value, asked: &str| weigh(&more, Binding::Dpop, Some("k"), asked);
    assert_eq!(got(json!({}), "a b").unwrap(), "a b");
    assert_eq!(got(json!({"scope": "b a"}), "a b").unwrap(), "a b");
    assert_eq!(
        got(json!({"scope": "what we get"}), "").unwrap(),
        "get we what"
    );
    for granted in ["a", "a b admin", "c", ""] {
        let objection = got(json!({"scope": granted}), "a b").unwrap_err();
        assert_eq!(
            objection,
            Objection::Scope(ScopeSet::parse(granted).unwrap())
        );
        assert_eq!(objection.code(), Code::ScopeDenied);
    }
}

#[test]
fn errors_map_to_the_closed_list() {
    use Code as C;
    let table = [
        (400, "invalid_client", C::ClientMisconfigured, true),
        (401, "invalid_client", C::ClientMisconfigured, true),
        (400, "unauthorized_client", C::ClientMisconfigured, true),
        (400, "invalid_scope", C::ClientMisconfigured, true),
        (400, "invalid_target", C::ClientMisconfigured, true),
        (400, "unsupported_grant_type", C::ClientMisconfigured, true),
        (400, "invalid_grant", C::ReauthorizationRequired, true),
        (403, "access_denied", C::ReauthorizationRequired, true),
        (400, "temporarily_unavailable", C::AsUnavailable, true),
        (400, "my_own_error canary", C::ClientMisconfigured, false),
        (429, "invalid_grant", C::AsUnavailable, false),
        (500, "invalid_client", C::AsUnavailable, false),
        (503, "server_error", C::AsUnavailable, false),
        (302, "x", C::AsMetadataInvalid, false),
        (404, "x", C::AsUnavailable, false),
        (204, "x", C::AsUnavailable, false),
    ];
    for (status, error, code, kept) in table {
        let body = json!({"error": error, "error_description": "canary-desc", "error_uri": "x"});
        let failure = failure(&json_reply(status, &body), WALL);
        assert_eq!(failure.code, code, "{status} {error}");
        assert_eq!(
            failure.oauth_error,
            kept.then_some(error),
            "{status} {error}"
        );
        assert!(!format!("{failure:?}").contains("canary"));
    }
    let page = reply(400, &[("content-type", "text/html")], "<h1>canary</h1>");
    assert_eq!(failure(&page, WALL).code, C::ClientMisconfigured);
    let twice = reply(400, &[], r#"{"error":"invalid_grant","error":"slow_down"}"#);
    assert_eq!(failure(&twice, WALL).oauth_error, None);
}

#[test]
fn retry_after_in_both_forms_and_bounded() {
    let wait = |text: &str| retry_after(&reply(503, &[("retry-after", text)], "").headers, WALL);
    assert_eq!(wait("7"), Some(Duration::from_secs(7)));
    assert_eq!(wait("86400"), Some(RETRY_AFTER_MAX));
    assert_eq!(
        wait("Tue, 14 Nov 2023 22:13:50 GMT"),
        Some(Duration::from_secs(30))
    );
    assert_eq!(wait("Tue, 14 Nov 2000 22:13:50 GMT"), Some(Duration::ZERO));
    for bad in ["soon", "-1", "1.5", ""] {
        assert_eq!(wait(bad), None, "{bad}");
    }
}

#[test]
fn one_clean_nonce_is_taken() {
    let of = |headers: &[(&str, &str)]| nonce(&reply(200, headers, "").headers);
    assert_eq!(of(&[("dpop-nonce", "n1")]), Nonce::parse("n1"));
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[("dpop-nonce", "n1"), ("dpop-nonce", "n2")]), None);
    assert_eq!(of(&[("dpop-nonce", "a b")]), None);
    assert_eq!(of(&[("dpop-nonce", &"n".repeat(2000))]), None);
}

#[test]
fn the_issuers_clock_is_read_from_its_date() {
    let of = |text: &str| clock_offset(&reply(400, &[("date", text)], "").headers, WALL);
    assert_eq!(of("Tue, 14 Nov 2023 22:15:20 GMT"), Some(120));
    assert_eq!(of("Tue, 14 Nov 2023 22:11:20 GMT"), Some(-120));
    assert_eq!(of("yesterday"), None);
}

#[test]
fn a_token_is_bound_to_our_certificate_or_not_taken() {
    let jwt = |claims: &Value| {
        let body = URL_SAFE_NO_PAD.encode(claims.to_string());
        format!("e30.{body}.sig")
    };
    let ours = jwt(&json!({"cnf": {"x5t#S256": "mine"}}));
    let (scopes, unbound) = (ScopeSet::default(), jwt(&json!({"sub": "x"})));
    let table = [
        (ours.clone(), false, "Bearer", Ok(())),
        (ours.clone(), true, "bearer", Ok(())),
        (ours.clone(), true, "DPoP", Err(Objection::Unexpected)),
        (
            jwt(&json!({"cnf": {"x5t#S256": "other"}})),
            true,
            "Bearer",
            Err(Objection::Mismatch),
        ),
        (
            jwt(&json!({"cnf": {"jkt": "k", "x5t#S256": "mine"}})),
            true,
            "Bearer",
            Err(Objection::Mismatch),
        ),
        // What shows that it is not bound is not believed to be, whatever the metadata says.
        (unbound, true, "Bearer", Err(Objection::Downgrade)),
        ("opaque".to_owned(), true, "Bearer", Ok(())),
        (
            "opaque".to_owned(),
            false,
            "Bearer",
            Err(Objection::Downgrade),
        ),
    ];
    for (token, promised, kind, verdict) in table {
        let wanted = Wanted {
            binding: Binding::Mtls,
            jkt: None,
            scopes: &scopes,
            most: None,
            certificate: Some(Bound {
                thumbprint: "mine",
                promised,
            }),
            exchanged: false,
            any_scopes: false,
        };
        let issued = issued(&json!({"access_token": token, "token_type": kind})).unwrap();
        assert_eq!(
            issued.weigh(&wanted).map(drop),
            verdict,
            "{token} {promised} {kind}"
        );
    }
    // A certificate's token is of no use where none is shown.
    let bound = json!({"access_token": ours, "token_type": "Bearer"});
    assert_eq!(
        weigh(&bound, Binding::Bearer, None, ""),
        Err(Objection::Mismatch)
    );
}

#[test]
fn what_comes_of_an_exchange_says_what_it_is() {
    let scopes = ScopeSet::default();
    let wanted = Wanted {
        binding: Binding::Dpop,
        jkt: None,
        scopes: &scopes,
        most: None,
        certificate: None,
        exchanged: true,
        any_scopes: false,
    };
    let kind = |kind: Value| {
        issued(&json!({"issued_token_type": kind}))
            .unwrap()
            .weigh(&wanted)
    };
    for good in ["access_token", "jwt"] {
        let urn = format!("urn:ietf:params:oauth:token-type:{good}");
        assert!(kind(json!(urn)).is_ok(), "{good}");
    }
    for bad in [
        json!(null),
        json!("access_token"),
        json!("urn:ietf:params:oauth:token-type:refresh_token"),
        json!("urn:ietf:params:oauth:token-type:id_token"),
    ] {
        assert_eq!(kind(bad), Err(Objection::Unexpected));
    }
}
