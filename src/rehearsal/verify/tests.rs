use super::*;
use crate::rehearsal::jose::{Key, base64url};
use serde_json::{Value, json};

const NOW: i64 = 1_700_000_000;
const URI: &str = "https://api.rehearsal.test/v1/items";
const TOKEN: &str = "token.of.ours";

fn parts(key: &Key) -> (Value, Value) {
    (
        json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": key.jwk()}),
        json!({
            "htm": "GET", "htu": URI, "iat": NOW, "jti": "0123456789abcdef",
            "ath": sha256_base64url(TOKEN), "nonce": "n-1",
        }),
    )
}

fn judge(text: &str, token: Option<&str>) -> Result<GoodProof, ProofFault> {
    let request = Request {
        method: "GET",
        uris: &[URI.to_owned()],
        token,
        now: NOW,
        window: 60,
    };
    proof(text, &request)
}

#[test]
fn a_correct_proof_is_taken() {
    let key = Key::generate().unwrap();
    let (header, claims) = parts(&key);
    let good = judge(&key.sign(&header, &claims), Some(TOKEN)).unwrap();
    assert_eq!(good.jkt, key.jwk().thumbprint());
    assert_eq!(good.jti, "0123456789abcdef");
    assert_eq!(good.nonce.as_deref(), Some("n-1"));
}

#[test]
fn every_claim_is_checked() {
    use ProofFault as F;
    let key = Key::generate().unwrap();
    let table = [
        ("htm", json!("POST"), F::Htm),
        ("htm", json!("get"), F::Htm),
        ("htm", Value::Null, F::Claims),
        ("htu", json!(format!("{URI}?a=1")), F::Htu),
        ("htu", json!(format!("{URI}/")), F::Htu),
        ("htu", json!(URI.replace("https", "http")), F::Htu),
        ("htu", json!(URI.replace(".test/", ".test:443/")), F::Htu),
        ("iat", json!(NOW - 61), F::Iat),
        ("iat", json!(NOW + 61), F::Iat),
        ("iat", json!(i64::MIN), F::Iat),
        ("iat", json!(1_700_000_000.5), F::Claims),
        ("iat", json!("1700000000"), F::Claims),
        ("jti", json!("short"), F::Jti),
        ("jti", json!("x".repeat(257)), F::Jti),
        ("ath", json!(sha256_base64url("another")), F::Ath),
        (
            "ath",
            json!(format!("{}=", sha256_base64url(TOKEN))),
            F::Ath,
        ),
        ("ath", Value::Null, F::Claims),
        ("nonce", Value::Null, F::Claims),
        ("nonce", json!(7), F::Claims),
        ("exp", json!(NOW + 60), F::Claims),
        ("aud", json!("x"), F::Claims),
    ];
    for (name, value, fault) in table {
        let (header, mut claims) = parts(&key);
        claims[name] = value.clone();
        let verdict = judge(&key.sign(&header, &claims), Some(TOKEN));
        assert_eq!(verdict.unwrap_err(), fault, "{name}: {value}");
    }
    for name in ["htm", "htu", "iat", "jti"] {
        let (header, mut claims) = parts(&key);
        claims.as_object_mut().unwrap().remove(name);
        let verdict = judge(&key.sign(&header, &claims), Some(TOKEN));
        assert_eq!(verdict.unwrap_err(), F::Claims, "without {name}");
    }
}

#[test]
fn ath_goes_with_a_token_and_only_with_one() {
    let key = Key::generate().unwrap();
    let (header, mut claims) = parts(&key);
    let text = key.sign(&header, &claims);
    assert_eq!(judge(&text, None).unwrap_err(), ProofFault::StrayAth);
    claims.as_object_mut().unwrap().remove("ath");
    let text = key.sign(&header, &claims);
    assert!(judge(&text, None).is_ok());
    assert_eq!(judge(&text, Some(TOKEN)).unwrap_err(), ProofFault::Ath);
}

#[test]
fn every_header_member_is_checked() {
    use ProofFault as F;
    let key = Key::generate().unwrap();
    let table = [
        ("typ", json!("JWT"), F::Typ),
        ("typ", json!("DPOP+JWT"), F::Typ),
        ("alg", json!("none"), F::Alg),
        ("alg", json!("HS256"), F::Alg),
        ("kid", json!("1"), F::Header),
        ("crit", json!(["x"]), F::Header),
        ("jwk", json!("x"), F::Jwk),
        ("jwk", Value::Null, F::Jwk),
    ];
    for (name, value, fault) in table {
        let (mut header, claims) = parts(&key);
        header[name] = value.clone();
        let verdict = judge(&key.sign(&header, &claims), Some(TOKEN));
        assert_eq!(verdict.unwrap_err(), fault, "{name}: {value}");
    }
    let members = [
        ("d", json!("c2VjcmV0")),
        ("kid", json!("1")),
        ("use", json!("sig")),
        ("kty", json!("RSA")),
        ("crv", json!("P-384")),
        ("x", json!(base64url(&[1; 31]))),
        ("y", json!(base64url(&[1; 32]))),
    ];
    for (name, value) in members {
        let (mut header, claims) = parts(&key);
        header["jwk"][name] = value;
        let verdict = judge(&key.sign(&header, &claims), Some(TOKEN));
        assert_eq!(verdict.unwrap_err(), F::Jwk, "jwk.{name}");
    }
}

#[test]
fn the_signature_is_checked_by_the_key_in_the_header() {
    let (key, other) = (Key::generate().unwrap(), Key::generate().unwrap());
    let (header, claims) = parts(&key);
    let text = other.sign(&header, &claims);
    assert_eq!(
        judge(&text, Some(TOKEN)).unwrap_err(),
        ProofFault::Signature
    );
    let good = key.sign(&header, &claims);
    let (signed, _) = good.rsplit_once('.').unwrap();
    for signature in ["", "AAAA", &base64url(&[0x30; 70])] {
        let verdict = judge(&format!("{signed}.{signature}"), Some(TOKEN));
        assert_eq!(verdict.unwrap_err(), ProofFault::Shape);
    }
    let two = format!("{good}, {good}");
    assert_eq!(judge(&two, Some(TOKEN)).unwrap_err(), ProofFault::Shape);
}

#[test]
fn a_member_written_twice_is_refused() {
    // serde_json's Value would silently take the last: an attacker would show two servers two claims.
    let read = |text: &str| serde_json::from_str::<ProofClaims>(text).is_ok();
    let rest = r#""htu":"u","iat":1,"jti":"j""#;
    assert!(read(&format!(r#"{{"htm":"GET",{rest}}}"#)));
    assert!(!read(&format!(r#"{{"htm":"GET","htm":"POST",{rest}}}"#)));
}

#[test]
fn tokens_are_checked_in_every_claim() {
    use TokenFault as F;
    let (key, other) = (Key::generate().unwrap(), Key::generate().unwrap());
    let header = json!({"alg": "ES256", "typ": "at+jwt"});
    let claims = json!({
        "iss": "https://i", "aud": "https://a", "exp": NOW + 1, "jti": "j", "client_id": "c",
        "scope": "items:read x", "cnf": {"jkt": "k"},
    });
    let judge = |text: &str| token(text, &key.public(), "https://i", &["https://a".into()], NOW);
    let good = judge(&key.sign(&header, &claims)).unwrap();
    assert!(good.has_scope("items:read") && !good.has_scope("items"));
    let fault = |text: &str| judge(text).unwrap_err();
    assert_eq!(fault(&other.sign(&header, &claims)), F::Signature);
    assert_eq!(fault("x"), F::Shape);
    let table = [
        ("iss", json!("https://other"), F::Issuer),
        ("aud", json!("https://other"), F::Audience),
        ("exp", json!(NOW), F::Expired),
        ("jti", Value::Null, F::Shape),
    ];
    for (name, value, expected) in table {
        let mut claims = claims.clone();
        claims[name] = value;
        assert_eq!(fault(&key.sign(&header, &claims)), expected, "{name}");
    }
    let mut header = header;
    header["typ"] = json!("JWT");
    assert_eq!(fault(&key.sign(&header, &claims)), F::Shape);
}
