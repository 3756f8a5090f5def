//! Sets of keys that are good, and many that are not.

use serde_json::{Value, json};

use super::*;

/// RFC 7515, appendix A.2.1 and A.3.1: public keys only.
fn rsa() -> Value {
    json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "r", "e": "AQAB",
        "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"})
}

fn ec() -> Value {
    json!({"kty": "EC", "crv": "P-256", "kid": "e",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"})
}

fn with(mut key: Value, member: &str, value: impl Into<Value>) -> Value {
    key[member] = value.into();
    key
}

fn parse(keys: &[Value]) -> Result<Vec<String>, KeysError> {
    let text = json!({ "keys": keys }).to_string();
    let keys = ClusterKeys::parse(text.as_bytes())?;
    Ok(keys.0.into_keys().collect())
}

#[test]
fn keys_are_known_by_their_names() {
    assert_eq!(parse(&[rsa(), ec()]).unwrap(), ["e", "r"]);
    // What signs no tokens is passed over.
    let others = [
        rsa(),
        with(with(rsa(), "use", "enc"), "kid", "encrypts"),
        json!({"kty": "OKP", "crv": "Ed25519", "kid": "o", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
        json!({"kty": "new", "kid": "n", "more": [1]}),
        with(with(ec(), "crv", "secp256k1"), "kid", "k1"),
    ];
    assert_eq!(parse(&others).unwrap(), ["r"]);
}

#[test]
fn sets_that_are_refused() {
    let nameless = |mut key: Value| {
        key.as_object_mut().unwrap().remove("kid");
        key
    };
    let short = "AQAB".repeat(40);
    let huge = "AQAB".repeat(400);
    let cases: Vec<(Vec<Value>, KeysError)> = vec![
        (vec![], KeysError::None),
        (vec![nameless(rsa())], KeysError::None),
        (vec![json!({"kty": "oct", "kid": "s"})], KeysError::None),
        (
            vec![json!({"kty": "oct", "kid": "s", "k": "AAAA"})],
            KeysError::Private,
        ),
        (vec![with(rsa(), "d", "AAAA")], KeysError::Private),
        (vec![with(rsa(), "p", Value::Null)], KeysError::Private),
        (vec![with(ec(), "d", "AAAA")], KeysError::Private),
        (vec![rsa(), rsa()], KeysError::Twice),
        (vec![with(rsa(), "n", short)], KeysError::Weak),
        (vec![with(rsa(), "n", huge)], KeysError::Weak),
        (vec![with(rsa(), "e", "AQ")], KeysError::Weak),
        (vec![with(rsa(), "e", "AAAB")], KeysError::Weak),
        (vec![with(rsa(), "e", "Ag")], KeysError::Weak),
        (vec![with(rsa(), "e", "")], KeysError::Weak),
        (vec![with(rsa(), "n", "n!")], KeysError::Malformed),
        (vec![with(rsa(), "n", 7)], KeysError::Malformed),
        (vec![with(rsa(), "kid", "")], KeysError::Malformed),
        (
            vec![with(rsa(), "kid", "k".repeat(257))],
            KeysError::Malformed,
        ),
        (vec![with(ec(), "x", "AAAA")], KeysError::Malformed),
        // On no curve.
        (
            vec![with(
                ec(),
                "y",
                "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            )],
            KeysError::Malformed,
        ),
        (
            (0..65).map(|i| with(rsa(), "kid", i.to_string())).collect(),
            KeysError::TooMany,
        ),
    ];
    for (keys, error) in cases {
        assert_eq!(parse(&keys), Err(error), "{keys:?}");
    }
    for text in [
        "",
        "[]",
        "{}",
        "{\"keys\": 1}",
        "{\"keys\": [], \"keys\": []}",
    ] {
        let parsed = ClusterKeys::parse(text.as_bytes()).err();
        assert_eq!(parsed, Some(KeysError::Malformed), "{text}");
    }
}
