use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use super::*;
use crate::proof::{Jti, Nonce, ProofClaims, Signer, base64url};

const NOW: i64 = 1_700_000_000;

/// A signer that signs whatever header and payload a test wants.
struct Forger(EcdsaKeyPair);

impl Forger {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn jwk(&self) -> Value {
        let point = self.0.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "x": base64url(&point[1..33]), "y": base64url(&point[33..])})
    }

    fn header(&self) -> Value {
        json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk()})
    }

    fn sign(&self, header: &str, payload: &str) -> String {
        let input = format!(
            "{}.{}",
            base64url(header.as_bytes()),
            base64url(payload.as_bytes())
        );
        let signature = self.0.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", base64url(signature.as_ref()))
    }
}

fn payload() -> Value {
    json!({"jti": "j-1", "htm": "GET", "htu": "https://api.test/a", "iat": NOW})
}

fn expected() -> Expected<'static> {
    Expected {
        htm: "GET",
        htu: "https://api.test/a",
        now: NOW,
        max_age: 25,
        max_ahead: 5,
        nonce: None,
        token: None,
        thumbprint: None,
    }
}

fn with(mut value: Value, name: &str, member: Value) -> Value {
    value[name] = member;
    value
}

fn without(mut value: Value, name: &str) -> Value {
    value.as_object_mut().unwrap().remove(name);
    value
}

#[test]
fn our_own_proofs_pass() {
    let key = ProofKey::generate().unwrap();
    let jti = Jti::from_random([3; 16]);
    let nonce = Nonce::parse("n-1").unwrap();
    let hash = ath("token");
    let proof = key
        .proof(&ProofClaims {
            htm: "GET",
            htu: "https://api.test/a",
            iat: NOW,
            jti: &jti,
            ath: Some(&hash),
            nonce: Some(&nonce),
        })
        .unwrap();
    let checked = check(
        proof.as_str(),
        &Expected {
            nonce: Some("n-1"),
            token: Some("token"),
            thumbprint: Some(key.thumbprint()),
            ..expected()
        },
    )
    .unwrap();
    assert_eq!(checked.thumbprint(), key.thumbprint());
    assert_eq!((checked.jti(), checked.iat()), (jti.as_str(), NOW));
}

#[test]
fn the_examples_of_rfc_9449_pass() {
    const HEADER: &str = concat!(
        "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJ",
        "oRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19"
    );
    const JKT: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
    // §4.1
    let at_issuer = format!(
        "{HEADER}.{}.{}",
        "eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ",
        "2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
    );
    let checked = check(
        &at_issuer,
        &Expected {
            htm: "POST",
            htu: "https://server.example.com/token",
            now: 1_562_262_616,
            ..expected()
        },
    )
    .unwrap();
    assert_eq!(checked.thumbprint(), JKT);
    assert_eq!(checked.jti(), "-BwC3ESc6acc2lTc");
    // §7.1
    let at_api = format!(
        "{HEADER}.{}.{}",
        concat!(
            "eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0Z",
            "WRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9"
        ),
        "2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
    );
    let request = Expected {
        htu: "https://resource.example.org/protectedresource",
        now: 1_562_262_618,
        token: Some("Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"),
        thumbprint: Some(JKT),
        ..expected()
    };
    assert!(check(&at_api, &request).is_ok());
    let stolen = Expected {
        token: Some("another token"),
        ..request
    };
    assert_eq!(check(&at_api, &stolen), Err(CheckError::TokenHash));
}

#[test]
fn each_violation_in_the_header_is_refused() {
    let forger = Forger::new();
    let (header, jwk) = (forger.header(), forger.jwk());
    let other = Forger::new().jwk();
    let rsa = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"});
    let short = base64url(&[1; 31]);
    let table = [
        (without(header.clone(), "typ"), CheckError::Type),
        (with(header.clone(), "typ", json!("JWT")), CheckError::Type),
        (
            with(header.clone(), "typ", json!("DPOP+JWT")),
            CheckError::Type,
        ),
        (without(header.clone(), "alg"), CheckError::Algorithm),
        (
            with(header.clone(), "alg", json!("none")),
            CheckError::Algorithm,
        ),
        (
            with(header.clone(), "alg", json!("HS256")),
            CheckError::Algorithm,
        ),
        (
            with(header.clone(), "crit", json!(["x"])),
            CheckError::Critical,
        ),
        (without(header.clone(), "jwk"), CheckError::Key),
        (with(header.clone(), "jwk", rsa), CheckError::Key),
        (
            with(header.clone(), "jwk", with(jwk.clone(), "x", json!(short))),
            CheckError::Key,
        ),
        (
            with(
                header.clone(),
                "jwk",
                with(jwk.clone(), "crv", json!("P-384")),
            ),
            CheckError::Key,
        ),
        (
            with(
                header.clone(),
                "jwk",
                with(jwk.clone(), "y", jwk["x"].clone()),
            ),
            CheckError::Signature,
        ),
        (
            with(header.clone(), "jwk", with(jwk, "d", json!("AAAA"))),
            CheckError::PrivateKey,
        ),
        (with(header.clone(), "jwk", other), CheckError::Signature),
    ];
    for (changed, error) in table {
        let proof = forger.sign(&changed.to_string(), &payload().to_string());
        assert_eq!(check(&proof, &expected()), Err(error), "{changed}");
    }
    let good = forger.sign(&header.to_string(), &payload().to_string());
    assert!(check(&good, &expected()).is_ok());
}

#[test]
fn each_violation_in_the_claims_is_refused() {
    let forger = Forger::new();
    let header = forger.header().to_string();
    let table = [
        (without(payload(), "jti"), CheckError::Claims),
        (with(payload(), "jti", json!("")), CheckError::Claims),
        (without(payload(), "htm"), CheckError::Claims),
        (without(payload(), "htu"), CheckError::Claims),
        (without(payload(), "iat"), CheckError::Claims),
        (with(payload(), "iat", json!("1")), CheckError::Claims),
        (with(payload(), "iat", json!(1.5)), CheckError::Claims),
        (with(payload(), "htm", json!("get")), CheckError::Method),
        (with(payload(), "htm", json!("POST")), CheckError::Method),
        (
            with(payload(), "htu", json!("https://api.test/b")),
            CheckError::Uri,
        ),
        (
            with(payload(), "htu", json!("http://api.test/a")),
            CheckError::Uri,
        ),
        (
            with(payload(), "htu", json!("https://api.test:8443/a")),
            CheckError::Uri,
        ),
        (
            with(payload(), "htu", json!("https://evil@api.test/a")),
            CheckError::Uri,
        ),
        (with(payload(), "htu", json!("/a")), CheckError::Uri),
        (with(payload(), "iat", json!(NOW - 26)), CheckError::Time),
        (with(payload(), "iat", json!(NOW + 6)), CheckError::Time),
        (with(payload(), "iat", json!(i64::MIN)), CheckError::Time),
        (with(payload(), "iat", json!(i64::MAX)), CheckError::Time),
        (with(payload(), "nonce", json!("stray")), CheckError::Nonce),
        (
            with(payload(), "ath", json!("stray")),
            CheckError::TokenHash,
        ),
    ];
    for (changed, error) in table {
        let proof = forger.sign(&header, &changed.to_string());
        assert_eq!(check(&proof, &expected()), Err(error), "{changed}");
    }
}

#[test]
fn what_the_server_expects_must_be_there() {
    let forger = Forger::new();
    let good = forger.sign(&forger.header().to_string(), &payload().to_string());
    let bound = |e: Expected<'static>| check(&good, &e).unwrap_err();
    let wanted = expected();
    assert_eq!(
        bound(Expected {
            nonce: Some("n"),
            ..wanted
        }),
        CheckError::Nonce
    );
    assert_eq!(
        bound(Expected {
            token: Some("t"),
            ..wanted
        }),
        CheckError::TokenHash
    );
    assert_eq!(
        bound(Expected {
            thumbprint: Some("other"),
            ..wanted
        }),
        CheckError::Thumbprint
    );
}

#[test]
fn targets_compare_as_rfc_3986_says() {
    let forger = Forger::new();
    let header = forger.header().to_string();
    for same in [
        "https://api.test/a",
        "HTTPS://API.test:443/a",
        "https://api.test/a?q=1",
        "https://api.test/a#f",
    ] {
        let proof = forger.sign(&header, &with(payload(), "htu", json!(same)).to_string());
        assert!(check(&proof, &expected()).is_ok(), "{same}");
    }
    let proof = forger.sign(
        &header,
        &with(payload(), "htu", json!("https://api.test")).to_string(),
    );
    let root = Expected {
        htu: "https://api.test/?x",
        ..expected()
    };
    assert!(check(&proof, &root).is_ok());
}

#[test]
fn what_is_not_one_compact_jws_is_malformed() {
    let forger = Forger::new();
    let header = forger.header().to_string();
    let good = forger.sign(&header, &payload().to_string());
    let parts: Vec<&str> = good.split('.').collect();
    let twice = header.replacen('{', r#"{"typ":"dpop+jwt","#, 1);
    for bad in [
        String::new(),
        "a".to_owned(),
        "a.b".to_owned(),
        "..".to_owned(),
        format!("{good}, {good}"),
        format!("{good}="),
        format!("{good}.x"),
        format!(" {good}"),
        format!("{}.{}+.{}", parts[0], parts[1], parts[2]),
        forger.sign("[]x", &payload().to_string()),
        forger.sign(&twice, &payload().to_string()),
        "a".repeat(PROOF_MAX + 1),
    ] {
        assert_eq!(
            check(&bad, &expected()),
            Err(CheckError::Malformed),
            "{bad}"
        );
    }
    let repeated = payload().to_string().replacen('{', r#"{"htm":"GET","#, 1);
    let proof = forger.sign(&header, &repeated);
    assert_eq!(check(&proof, &expected()), Err(CheckError::Claims));
    let cut = format!("{}.{}.{}", parts[0], parts[1], &parts[2][..40]);
    assert_eq!(check(&cut, &expected()), Err(CheckError::Signature));
}
