//! The `htu` claim (RFC 9449 §4.2): the target as it is sent, without query and fragment.
//!
//! The default names the path byte for byte as it goes out. The other profiles exist because deployed servers compare
//! something else: a decoded path (Okta), or the path behind a gateway that cut a prefix.

use crate::vocab::{Authority, RequestPath, Scheme, danger};

/// Which form of the path a server compares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HtuProfile {
    /// The bytes on the wire.
    #[default]
    AsSent,
    /// Escapes of unreserved characters decoded, the others in upper case (RFC 3986 §6.2.2).
    DecodeUnreserved,
    /// Every escape decoded, save those that would end the path or are not UTF-8.
    PercentDecoded,
    /// The bytes on the wire without this prefix of whole segments.
    StripPrefix(String),
}

/// `https://host[:port]/path` for a request to `authority`. Always `https`, also for WebSockets and for an agent that
/// asked in clear text: that is how it leaves us. (A build for tests that leaves in clear text says so.)
#[must_use]
pub fn htu(authority: &Authority, path: &RequestPath, profile: &HtuProfile) -> String {
    let mut uri = if danger::plain_http(authority.host()) {
        authority.origin()
    } else {
        authority.with_scheme(Scheme::Https).origin()
    };
    match profile {
        HtuProfile::AsSent => uri.push_str(path.wire()),
        HtuProfile::DecodeUnreserved => uri.push_str(path.compared()),
        HtuProfile::PercentDecoded => uri.push_str(&decoded(path.wire())),
        HtuProfile::StripPrefix(prefix) => uri.push_str(stripped(path.wire(), prefix)),
    }
    uri
}

/// Cuts whole segments only: `/api` is no prefix of `/apiary`. What does not carry the prefix stays whole.
fn stripped<'a>(path: &'a str, prefix: &str) -> &'a str {
    match path.strip_prefix(prefix.trim_end_matches('/')) {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    }
}

/// Decodes escapes. `?` and `#` stay escaped: as themselves they would begin a query or fragment, which the claim
/// must not have. Bytes that are not UTF-8 stay escaped too, for JSON could not carry them.
fn decoded(wire: &str) -> String {
    let mut bytes = Vec::with_capacity(wire.len());
    let mut rest = wire.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        match escape(rest) {
            Some(value) if !matches!(value, b'?' | b'#') => {
                bytes.push(value);
                rest = &rest[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// The value of the escape at the front.
fn escape(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else {
        return None;
    };
    let digit = |b: &u8| char::from(*b).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(authority: &str, path: &str, profile: &HtuProfile) -> String {
        let authority = Authority::parse(Scheme::Https, authority).unwrap();
        htu(&authority, &RequestPath::parse(path).unwrap(), profile)
    }

    #[test]
    fn the_authority_is_normal_and_keeps_a_port_of_its_own() {
        for (authority, expected) in [
            ("api.test", "https://api.test/a"),
            ("API.Test:443", "https://api.test/a"),
            ("api.test.:8443", "https://api.test:8443/a"),
            ("[::1]:8443", "https://[::1]:8443/a"),
            ("[2606:4700::77]", "https://[2606:4700::77]/a"),
        ] {
            assert_eq!(of(authority, "/a", &HtuProfile::AsSent), expected);
        }
        let clear = Authority::parse(Scheme::Http, "api.test:8080").unwrap();
        let path = RequestPath::parse("/a").unwrap();
        assert_eq!(
            htu(&clear, &path, &HtuProfile::default()),
            "https://api.test:8080/a"
        );
    }

    #[test]
    fn each_profile_names_the_path_its_own_way() {
        let sent = "/u/%7eann%40x.test/a;b=%c3%a9%20%3f%23/%25";
        for (profile, expected) in [
            (HtuProfile::AsSent, sent),
            (
                HtuProfile::DecodeUnreserved,
                "/u/~ann%40x.test/a;b=%C3%A9%20%3F%23/%25",
            ),
            (HtuProfile::PercentDecoded, "/u/~ann@x.test/a;b=é %3f%23/%"),
        ] {
            let expected = format!("https://api.test{expected}");
            assert_eq!(of("api.test", sent, &profile), expected);
        }
    }

    #[test]
    fn what_is_not_utf_8_stays_escaped() {
        assert_eq!(
            of("api.test", "/a%ff%c3x", &HtuProfile::PercentDecoded),
            "https://api.test/a%FF%C3x"
        );
    }

    #[test]
    fn a_prefix_is_cut_at_a_segment() {
        for (prefix, path, expected) in [
            ("/api", "/api/v1", "/v1"),
            ("/api/", "/api/v1", "/v1"),
            ("/api", "/api", "/"),
            ("/api", "/apiary/v1", "/apiary/v1"),
            ("/api", "/v1/api", "/v1/api"),
            ("/", "/v1", "/v1"),
            ("", "/v1", "/v1"),
        ] {
            let profile = HtuProfile::StripPrefix(prefix.to_owned());
            assert_eq!(
                of("api.test", path, &profile),
                format!("https://api.test{expected}"),
                "{prefix} {path}"
            );
        }
    }
}
