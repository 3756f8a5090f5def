//! A path that is taken means the same to everybody: what is sent has nothing left to resolve.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenward::vocab::RequestPath;

fuzz_target!(|text: &str| {
    let Ok(path) = RequestPath::of_request(text) else {
        return;
    };
    assert_eq!(RequestPath::parse(text).is_err(), path.has_escaped_slash());
    assert_eq!(path.wire(), text);
    assert!(text.is_ascii() && text.starts_with('/') && !text.contains(['?', '#', '\\', ' ']));
    // The compared form is a path of its own, and its own compared form.
    let again = RequestPath::of_request(path.compared()).expect("the compared form is a path");
    assert_eq!(again.compared(), path.compared());
    let (sent, compared) = (decoded(text), decoded(path.compared()));
    assert_eq!(sent, compared, "both forms decode to the same bytes");
    // Nobody who decodes it once finds a dot segment, an empty segment, a back-slash or a control character.
    assert!(sent.iter().all(|b| !matches!(b, b'\\' | 0..=0x1f | 0x7f)));
    let slashes = sent.iter().filter(|b| **b == b'/').count();
    let more = slashes > text.matches('/').count();
    assert_eq!(more, path.has_escaped_slash(), "escaped slashes are told");
    let segments: Vec<&[u8]> = sent[1..].split(|b| *b == b'/').collect();
    for (at, segment) in segments.iter().enumerate() {
        let bare = segment.split(|b| *b == b';').next().unwrap_or_default();
        assert!(!matches!(bare.trim_ascii_end(), b"." | b".."));
        assert!(!segment.is_empty() || at + 1 == segments.len());
    }
    // Nor whoever decodes it twice.
    let twice = decoded(&String::from_utf8_lossy(&sent));
    assert!(!String::from_utf8_lossy(&twice).contains("/../"));
});

fn decoded(text: &str) -> Vec<u8> {
    let (bytes, mut out, mut i) = (text.as_bytes(), Vec::new(), 0);
    while i < bytes.len() {
        let digits = text
            .get(i + 1..i + 3)
            .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits
            .and_then(|d| u8::from_str_radix(d, 16).ok())
            .filter(|_| bytes[i] == b'%')
        {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    out
}
