use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::EncodePrivateKey;
use serde_json::{Value, json};

use super::*;
use crate::proof::{Jti, Nonce};

fn decode(segment: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(segment).unwrap()
}

fn claims<'a>(jti: &'a Jti, nonce: Option<&'a Nonce>) -> ProofClaims<'a> {
    ProofClaims {
        htm: "PATCH",
        htu: "https://api.test/a%22b",
        iat: 1_700_000_000,
        jti,
        ath: Some("hash"),
        nonce,
    }
}

/// The key with the given small private scalar.
fn scalar(n: u64) -> SecretKey {
    let mut bytes = [0u8; 32];
    bytes[24..].copy_from_slice(&n.to_be_bytes());
    SecretKey::from_slice(&bytes).unwrap()
}

#[test]
fn another_library_verifies_what_we_sign() {
    for _ in 0..20 {
        let key = ProofKey::generate().unwrap();
        let jti = Jti::from_random([7; 16]);
        let nonce = Nonce::parse("n-1").unwrap();
        let proof = key.proof(&claims(&jti, Some(&nonce))).unwrap();
        let parts: Vec<&str> = proof.as_str().split('.').collect();
        let [header, payload, signature] = parts[..] else {
            panic!("three segments")
        };

        let header_json: Value = serde_json::from_slice(&decode(header)).unwrap();
        let jwk: Value = serde_json::from_str(key.public_jwk()).unwrap();
        assert_eq!(
            header_json,
            json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk})
        );
        let payload_json: Value = serde_json::from_slice(&decode(payload)).unwrap();
        assert_eq!(
            payload_json,
            json!({"jti": jti.as_str(), "htm": "PATCH", "htu": "https://api.test/a%22b",
                "iat": 1_700_000_000, "ath": "hash", "nonce": "n-1"})
        );

        let mut point = vec![4];
        point.extend(decode(jwk["x"].as_str().unwrap()));
        point.extend(decode(jwk["y"].as_str().unwrap()));
        let raw = decode(signature);
        assert_eq!(raw.len(), 64, "r and s, not DER");
        VerifyingKey::from_sec1_bytes(&point)
            .unwrap()
            .verify(
                format!("{header}.{payload}").as_bytes(),
                &Signature::from_slice(&raw).unwrap(),
            )
            .unwrap();
    }
}

#[test]
fn absent_claims_are_absent() {
    let key = ProofKey::generate().unwrap();
    let jti = Jti::from_random([1; 16]);
    let proof = key
        .proof(&ProofClaims {
            ath: None,
            ..claims(&jti, None)
        })
        .unwrap();
    let payload = proof.as_str().split('.').nth(1).unwrap().to_owned();
    let payload: Value = serde_json::from_slice(&decode(&payload)).unwrap();
    let mut names: Vec<&String> = payload.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["htm", "htu", "iat", "jti"]);
}

#[test]
fn coordinates_keep_their_leading_zeros() {
    // About one scalar in 128 has a coordinate that begins with a zero byte: both kinds turn up soon.
    let mut seen = (false, false);
    for n in 1.. {
        let secret = scalar(n);
        let point = secret.public_key().to_sec1_point(false);
        let (x, y) = point.as_bytes()[1..].split_at(32);
        if x[0] != 0 && y[0] != 0 {
            continue;
        }
        seen = (seen.0 || x[0] == 0, seen.1 || y[0] == 0);
        let key = ProofKey::from_secret(&secret).unwrap();
        let jwk: Value = serde_json::from_str(key.public_jwk()).unwrap();
        for (name, bytes) in [("x", x), ("y", y)] {
            let text = jwk[name].as_str().unwrap();
            assert_eq!(text.len(), 43);
            assert_eq!(decode(text), bytes);
        }
        assert_eq!(key.thumbprint(), sha256_base64url(key.public_jwk()));
        let jti = Jti::from_random([0; 16]);
        assert!(key.proof(&claims(&jti, None)).is_ok());
        if seen == (true, true) {
            return;
        }
    }
}

#[test]
fn thumbprints_are_those_of_the_rfcs() {
    // RFC 7638 §3.1.
    let rsa = concat!(
        r#"{"e":"AQAB","kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6"#,
        r#"tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0z"#,
        r#"gdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}"#
    );
    assert_eq!(
        sha256_base64url(rsa),
        "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    );
    // RFC 9449 §6.1 with the key of §4.1.
    let jwk = canonical_jwk(
        "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
        "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
    );
    assert_eq!(
        sha256_base64url(&jwk),
        "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    );
}

#[test]
fn a_stored_key_is_the_same_key() {
    let secret = scalar(77);
    let der = secret.to_pkcs8_der().unwrap();
    let read = ProofKey::from_pkcs8_der(&Secret::new(der.as_bytes().to_vec())).unwrap();
    let made = ProofKey::from_secret(&secret).unwrap();
    assert_eq!(read.thumbprint(), made.thumbprint());
    for bad in [&b""[..], b"\x30\x00", &der.as_bytes()[..40]] {
        let error = ProofKey::from_pkcs8_der(&Secret::new(bad.to_vec())).unwrap_err();
        assert_eq!(error, ProofError::Key);
    }
}

#[test]
fn nothing_prints_a_proof_or_a_private_key() {
    let key = ProofKey::from_secret(&scalar(5)).unwrap();
    let jti = Jti::from_random([0; 16]);
    let proof = key.proof(&claims(&jti, None)).unwrap();
    assert_eq!(format!("{proof:?}"), "[proof]");
    assert_eq!(
        format!("{key:?}"),
        format!("ProofKey({})", key.thumbprint())
    );
}

#[test]
fn no_two_keys_are_alike() {
    let (a, b) = (ProofKey::generate().unwrap(), ProofKey::generate().unwrap());
    assert_ne!(a.thumbprint(), b.thumbprint());
}
