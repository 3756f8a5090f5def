//! Authorities print as what they were read from, and patterns cover what they say. Input: pattern, line end, authority.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenward::policy::HostPattern;
use tokenward::vocab::{Authority, Host, Scheme};

fuzz_target!(|text: &str| {
    let (pattern, text) = text.split_once('\n').unwrap_or(("*.wild.test", text));
    for scheme in [Scheme::Http, Scheme::Https] {
        if let Ok(authority) = Authority::parse(scheme, text) {
            read(&authority);
        }
    }
    let Ok(authority) = Authority::parse_connect(text) else {
        return;
    };
    read(&authority);
    // Authority form names its port, and only once.
    assert!(
        text.rsplit_once(':')
            .is_some_and(|(_, port)| port.parse() == Ok(authority.port()))
    );
    let Ok(pattern) = HostPattern::parse(pattern) else {
        return;
    };
    let printed = pattern.to_string();
    assert_eq!(
        HostPattern::parse(&printed).expect("a pattern prints as one"),
        pattern
    );
    let host = authority.host().to_string();
    let (base, labels) = match printed.strip_prefix("**.") {
        Some(base) => (base, None),
        None => match printed.strip_prefix("*.") {
            Some(base) => (base, Some(1)),
            None => (printed.as_str(), Some(0)),
        },
    };
    let above = host.strip_suffix(base).map(|above| above.strip_suffix('.'));
    let expected = match (above, labels) {
        (Some(None), Some(0)) => host == base,
        (Some(Some(above)), Some(1)) => !above.is_empty() && !above.contains('.'),
        (Some(Some(above)), None) => !above.is_empty(),
        _ => false,
    };
    assert_eq!(
        pattern.covers(authority.host()),
        expected,
        "{printed} and {host}"
    );
});

fn read(authority: &Authority) {
    assert!(authority.port() != 0);
    let printed = authority.to_string();
    let again = Authority::parse(authority.scheme(), &printed).expect("an authority prints as one");
    assert_eq!(again, *authority);
    if let Host::Name(name) = authority.host() {
        assert!(name.len() <= 253 && name.split('.').all(|label| (1..=63).contains(&label.len())));
        let plain =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_');
        assert!(name.bytes().all(plain));
        // Whatever a resolver would take for an address is one, or nothing.
        let last = name.rsplit('.').next().unwrap_or_default();
        assert!(!last.bytes().all(|b| b.is_ascii_digit()) && !last.starts_with("0x"));
    }
}
