//! A token response yields a bound token that can stand in a header, or nothing; an error says nothing of the issuer's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenward::tokens::fuzzing::{refused, taken};
use tokenward::vocab::ScopeSet;

fuzz_target!(|body: &[u8]| {
    let wanted = ScopeSet::parse("read").expect("a scope");
    if let Some((token, scopes)) = taken(body, "OURKEY", &wanted) {
        assert!(
            (1..=16 * 1024).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic())
        );
        assert_eq!(scopes, wanted);
        let json: serde_json::Value = serde_json::from_slice(body).expect("what is taken is JSON");
        assert_eq!(json["access_token"], token.as_str());
        assert!(
            json["token_type"]
                .as_str()
                .is_some_and(|kind| kind.eq_ignore_ascii_case("dpop"))
        );
    }
    for status in [400, 401, 429, 500] {
        let (code, error) = refused(status, body);
        assert!(!code.is_empty());
        assert!(error.is_none_or(|e| e.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }
});
