//! Whatever a cluster signs, a token names an agent only where all that it says holds; what it did not sign names nobody.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokenward::agent::fuzzing::{ISSUER, NOW, account, certificate, keys, signed};

fuzz_target!(|data: &[u8]| {
    // Whatever it is, it is read to its end or refused.
    let _read = (keys(data).is_ok(), certificate(data).len());
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(account(text).is_err(), "a forged token");
    }
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(0);
    let (header, claims) = data.split_at(at);
    let claims = claims.strip_prefix(&[0]).unwrap_or(claims);
    let token = signed(header, claims).expect("a key");
    if account(&token).is_ok() {
        let header: Value = serde_json::from_slice(header).expect("a header in JSON");
        assert_eq!(
            (&header["alg"], &header["kid"]),
            (&"ES256".into(), &"k".into())
        );
        assert!(header.get("crit").is_none());
        let claims: Value = serde_json::from_slice(claims).expect("claims in JSON");
        assert_eq!(claims["iss"], ISSUER);
        assert_eq!(claims["sub"], "system:serviceaccount:n:s");
        assert!(claims["exp"].as_i64().expect("an end") > NOW - 30);
        assert!(claims["nbf"].as_i64().is_none_or(|nbf| nbf <= NOW + 30));
        let bound = &claims["kubernetes.io"];
        assert_eq!(
            (&bound["namespace"], &bound["serviceaccount"]["name"]),
            (&"n".into(), &"s".into())
        );
        let aud = &claims["aud"];
        let many = aud.as_array().is_some_and(|all| all.contains(&"t".into()));
        assert!(many || aud == "t");
    }
});
