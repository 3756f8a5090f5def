//! What is believed of metadata, and for how long.

use http::HeaderValue;
use serde_json::json;

use super::*;
use crate::vocab::Code;

const ISSUER: &str = "https://as.test/t1";

fn document(more: &serde_json::Value) -> Vec<u8> {
    let mut document =
        json!({"issuer": ISSUER, "token_endpoint": "https://as.test/t1/token", "x": [1]});
    for (name, value) in more.as_object().unwrap() {
        document[name] = value.clone();
    }
    document.to_string().into_bytes()
}

fn read(more: &serde_json::Value) -> Result<Metadata, MetadataError> {
    Metadata::read(&document(more), ISSUER)
}

#[test]
fn the_places_are_those_of_rfc_8414_in_order() {
    let of = |issuer: &str| -> Vec<String> {
        places(&Address::parse(issuer).unwrap())
            .iter()
            .map(|url| url.as_str().to_owned())
            .collect()
    };
    let tenant = [
        "https://as.test/.well-known/oauth-authorization-server/t1",
        "https://as.test/.well-known/openid-configuration/t1",
        "https://as.test/t1/.well-known/openid-configuration",
    ];
    assert_eq!(of("https://as.test/t1"), tenant);
    assert_eq!(of("https://as.test/t1/"), tenant);
    assert_eq!(
        of("https://as.test:8443"),
        [
            "https://as.test:8443/.well-known/oauth-authorization-server",
            "https://as.test:8443/.well-known/openid-configuration",
        ]
    );
}

#[test]
fn only_the_very_issuer_is_believed() {
    assert!(read(&json!({})).is_ok());
    for other in [
        "https://as.test/t1/",
        "https://AS.test/t1",
        "https://as.test:443/t1",
        "https://as.test/t2",
        "https://evil.test/t1",
        "",
    ] {
        assert_eq!(
            read(&json!({"issuer": other})),
            Err(MetadataError::Invalid),
            "{other}"
        );
    }
    assert_eq!(read(&json!({"issuer": null})), Err(MetadataError::Invalid));
}

#[test]
fn endpoints_are_https_or_nothing() {
    for bad in [
        json!({"token_endpoint": "http://as.test/token"}),
        json!({"token_endpoint": "https://u:p@as.test/token"}),
        json!({"token_endpoint": 7}),
        json!({"token_endpoint": null}),
        json!({"revocation_endpoint": "http://as.test/revoke"}),
        json!({"dpop_signing_alg_values_supported": "ES256"}),
    ] {
        assert_eq!(read(&bad), Err(MetadataError::Invalid), "{bad}");
    }
}

#[test]
fn repeated_members_are_an_attack_and_pages_are_not_metadata() {
    let twice = format!(
        r#"{{"issuer":"{ISSUER}","token_endpoint":"https://as.test/a","token_endpoint":"https://as.test/b"}}"#
    );
    assert_eq!(
        Metadata::read(twice.as_bytes(), ISSUER),
        Err(MetadataError::Invalid)
    );
    assert_eq!(
        Metadata::read(b"<html>", ISSUER),
        Err(MetadataError::NotJson)
    );
}

#[test]
fn silence_about_dpop_is_consent_until_it_was_broken() {
    let with = |list: serde_json::Value| read(&json!({"dpop_signing_alg_values_supported": list}));
    assert!(read(&json!({})).unwrap().takes_proofs());
    assert!(with(json!(["RS256", "ES256"])).unwrap().takes_proofs());
    assert!(!with(json!(["EdDSA"])).unwrap().takes_proofs());
    assert!(!with(json!([])).unwrap().takes_proofs());
    let before = with(json!(["ES256"])).unwrap();
    let after = read(&json!({})).unwrap().after(&before).unwrap();
    assert!(!after.takes_proofs());
    let healed = with(json!(["ES256"])).unwrap().after(&after).unwrap();
    assert!(healed.takes_proofs());
}

#[test]
fn endpoints_stay_on_their_hosts() {
    let before = read(&json!({"revocation_endpoint": "https://as.test/revoke"})).unwrap();
    let same_host = read(&json!({"token_endpoint": "https://as.test/new"})).unwrap();
    assert!(same_host.after(&before).is_ok());
    for moved in [
        json!({"token_endpoint": "https://as.test.evil.test/token"}),
        json!({"token_endpoint": "https://as.test:8443/token"}),
        json!({"revocation_endpoint": "https://evil.test/revoke"}),
    ] {
        let moved = read(&moved).unwrap();
        assert_eq!(moved.after(&before), Err(MetadataError::Moved));
    }
    let bare = read(&json!({})).unwrap();
    let grown = read(&json!({"revocation_endpoint": "https://evil.test/revoke"})).unwrap();
    assert_eq!(grown.after(&bare), Err(MetadataError::Moved));
}

#[test]
fn the_time_to_live_has_bounds() {
    let ttl = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_str(value).unwrap());
        time_to_live(&headers)
    };
    assert_eq!(time_to_live(&HeaderMap::new()), TTL_MIN);
    assert_eq!(ttl("no-store"), TTL_MIN);
    assert_eq!(ttl("max-age=1"), TTL_MIN);
    assert_eq!(ttl("public, Max-Age=7200"), Duration::from_hours(2));
    assert_eq!(ttl("max-age=99999999999"), TTL_MAX);
    assert_eq!(ttl("max-age=x"), TTL_MIN);
}

#[test]
fn old_metadata_serves_through_an_outage_but_not_in_place_of_a_refusal() {
    let outage = |code: Code| Miss::Unreached(code.into());
    let mut book = Book::default();
    let (now, wall) = (Moment(0), WallTime(0));
    assert!(book.settled(now, wall).is_none());
    let down = Err(Code::AsUnavailable.into());
    assert_eq!(book.miss(outage(Code::AsUnavailable), now, wall), down);
    assert_eq!(book.settled(now, wall), Some(down));
    assert!(book.settled(now + UNREACHED_PAUSE, wall).is_none());

    let kept = book.keep(read(&json!({})).unwrap(), TTL_MIN, now, wall);
    let kept = kept.unwrap();
    assert_eq!(book.settled(now, wall), Some(Ok(Arc::clone(&kept))));
    let later = now + TTL_MIN;
    assert!(book.settled(later, wall).is_none());
    // A page in its place is an outage too.
    for miss in [outage(Code::AsTimeout), Miss::Absent] {
        assert_eq!(book.miss(miss, later, wall), Ok(Arc::clone(&kept)));
        assert_eq!(book.settled(later, wall), Some(Ok(Arc::clone(&kept))));
    }
    for miss in [outage(Code::AsTlsError), Miss::Refused] {
        assert!(book.miss(miss, later, wall).is_err());
    }
    let too_late = later + STALE_MAX;
    for miss in [outage(Code::AsTimeout), Miss::Absent] {
        assert!(book.miss(miss, too_late, wall).is_err());
    }
}

#[test]
fn what_was_refused_is_read_again_once_a_minute_at_most() {
    for miss in [Miss::Absent, Miss::Refused] {
        let mut book = Book::default();
        let (now, wall) = (Moment(0), WallTime(0));
        let failure = |left: u64| Failure {
            retry_after: Some(Duration::from_secs(left)),
            ..Code::AsMetadataInvalid.into()
        };
        assert_eq!(book.miss(miss, now, wall), Err(failure(60)));
        let later = now + Duration::from_secs(50);
        assert_eq!(book.settled(later, wall), Some(Err(failure(10))));
        assert!(book.settled(now + REFUSED_PAUSE, wall).is_none());
    }
}

#[test]
fn clients_with_a_certificate_go_to_the_aliases() {
    let mtls = "https://mtls.as.test/t1";
    let document = json!({
        "revocation_endpoint": "https://as.test/t1/revoke",
        "mtls_endpoint_aliases": {"token_endpoint": format!("{mtls}/token"), "unknown": 1},
        "tls_client_certificate_bound_access_tokens": true,
    });
    let plain = read(&document).unwrap();
    assert_eq!(plain.token_endpoint.as_str(), "https://as.test/t1/token");
    assert!(plain.binds_certificates);
    assert!(plain.endpoints().any(|url| url.as_str().starts_with(mtls)));
    let seen = plain.with_certificate();
    assert_eq!(seen.token_endpoint.as_str(), format!("{mtls}/token"));
    // What has no alias is where it always was.
    let revocation = seen.revocation_endpoint.as_ref().map(Address::as_str);
    assert_eq!(revocation, Some("https://as.test/t1/revoke"));
    for bad in [
        json!("x"),
        json!({"token_endpoint": "http://as.test/token"}),
        json!({"token_endpoint": 1}),
    ] {
        let document = json!({"mtls_endpoint_aliases": bad});
        assert_eq!(read(&document).unwrap_err(), MetadataError::Invalid);
    }
    let nothing = json!({"mtls_endpoint_aliases": {"token_endpoint": null}});
    let nothing = read(&nothing).unwrap();
    assert_eq!(nothing.with_certificate(), nothing);
    let absent = read(&json!({})).unwrap();
    assert!(!absent.binds_certificates);
    assert_eq!(absent.with_certificate(), absent);
}

#[test]
fn an_alias_stays_on_its_host() {
    let with =
        |url: &str| read(&json!({"mtls_endpoint_aliases": {"token_endpoint": url}})).unwrap();
    let (here, there) = ("https://mtls.as.test/token", "https://evil.test/token");
    assert_eq!(
        with(there).after(&with(here)).unwrap_err(),
        MetadataError::Moved
    );
    assert_eq!(
        with(there).after(&read(&json!({})).unwrap()).unwrap_err(),
        MetadataError::Moved
    );
    assert!(with("https://mtls.as.test/v2").after(&with(here)).is_ok());
    assert!(read(&json!({})).unwrap().after(&with(here)).is_ok());
}
