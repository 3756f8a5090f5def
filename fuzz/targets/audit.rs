//! Every request is one line of JSON in ASCII, of bounded length, and the chain of all of them holds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenward::audit::fuzzing::sealed;
use tokenward::audit::{RequestFacts, verify};

const LINE_MAX: usize = 8 * 1024;

fuzz_target!(|data: &[u8]| {
    let texts: Vec<String> = data
        .split(|b| *b == 0xff)
        .map(|piece| String::from_utf8_lossy(piece).into_owned())
        .collect();
    let requests: Vec<RequestFacts> = texts
        .chunks(3)
        .map(|texts| {
            let text = |at: usize| texts.get(at).cloned().unwrap_or_default();
            RequestFacts {
                method: text(0),
                host: text(1),
                path: text(2),
                stripped: texts.to_vec(),
                proofs: texts.to_vec(),
                ..RequestFacts::default()
            }
        })
        .collect();
    let count = requests.len();
    let text = sealed(requests);
    assert_eq!(text.lines().count(), count);
    assert!(
        text.bytes()
            .all(|b| b == b'\n' || (0x20..0x7f).contains(&b))
    );
    for line in text.lines() {
        assert!(line.len() <= LINE_MAX, "{} bytes", line.len());
        let value: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
        assert_eq!(value["event"], "request");
        for name in ["method", "host", "path"] {
            let told = value[name].as_str().unwrap_or_default();
            assert!(
                told.chars().all(|c| !c.is_control()),
                "undone, {name} holds a control character"
            );
        }
    }
    assert!(verify(text.as_bytes()).is_ok());
    // One byte less or other is noticed.
    if let Some(at) = data
        .first()
        .map(|b| usize::from(*b) % text.len().max(1))
        .filter(|_| !text.is_empty())
    {
        let mut other = text.into_bytes();
        other[at] ^= 1;
        assert!(verify(&other[..]).is_err());
    }
});
