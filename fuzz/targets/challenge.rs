//! Challenges that were understood can be written down and are understood the same way again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenward::proof::{Nonce, parse_challenges};

fuzz_target!(|text: &str| {
    let found = parse_challenges(text.split('\n'));
    for challenge in &found {
        assert!(
            !challenge.scheme.is_empty()
                && !challenge.scheme.bytes().any(|b| b.is_ascii_uppercase())
        );
        let params: Vec<String> = challenge
            .params
            .iter()
            .map(|(name, value)| {
                format!(
                    "{name}=\"{}\"",
                    value.replace('\\', "\\\\").replace('"', "\\\"")
                )
            })
            .collect();
        let written = match &challenge.token68 {
            // What follows one is nobody else's and stays with it.
            Some(token) => format!("{} {token}, {}", challenge.scheme, params.join(", ")),
            None => format!("{} {}", challenge.scheme, params.join(", ")),
        };
        let again = parse_challenges([written.as_str()].into_iter());
        assert_eq!(again.len(), 1, "{written}");
        assert_eq!(
            (&again[0].scheme, &again[0].params, &again[0].token68),
            (&challenge.scheme, &challenge.params, &challenge.token68)
        );
    }
    if let Some(nonce) = Nonce::parse(text) {
        assert!(
            (1..=1024).contains(&nonce.as_str().len())
                && nonce.as_str().bytes().all(|b| (0x21..0x7f).contains(&b))
        );
    }
});
