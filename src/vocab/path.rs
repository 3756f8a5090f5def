//! A request's path: the bytes that go out and the form that rules compare, made together and never apart.
//!
//! What an upstream might read differently from us is refused rather than normalised: dot segments (also escaped),
//! escaped back-slashes, empty segments, double escapes, control characters. What remains is sent byte for byte, so the
//! DPoP `htu` and the wire agree. An escaped slash makes two paths of one: it passes only to a service that is known to
//! take it for a part of its segment, and never where the other reading would be one of those refused here.

use std::borrow::Cow;

use super::variant::{Variant, broken};

/// Longest path, in bytes.
const PATH_MAX: usize = 8 * 1024;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash, or has characters that a URI does not.
    #[error("the path is not a URI path")]
    Malformed,
    /// Two programs could read it as two paths.
    #[error("the path is ambiguous")]
    Ambiguous,
    /// It is longer than 8 KiB.
    #[error("the path is longer than 8 KiB")]
    TooLong,
}

/// A path without query that means the same to us and to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPath {
    wire: Box<str>,
    /// Only where it differs from `wire`.
    compared: Option<Box<str>>,
    /// The compared form as a server sees it that takes an escaped slash for a slash; only where there is one.
    slashed: Option<Box<str>>,
}

impl RequestPath {
    /// Reads a path without its query, such as a rule's or an endpoint's.
    ///
    /// # Errors
    /// [`PathError`] where it is malformed, ambiguous or too long.
    pub fn parse(raw: &str) -> Result<Self, PathError> {
        let path = Self::of_request(raw)?;
        match path.slashed {
            None => Ok(path),
            Some(_) => Err(PathError::Ambiguous),
        }
    }

    /// Reads the path of a request target. Other than [`Self::parse`] it lets escaped slashes stand, for the service's
    /// settings to decide about.
    ///
    /// # Errors
    /// [`PathError`] where it is malformed, ambiguous in another way or too long.
    pub fn of_request(raw: &str) -> Result<Self, PathError> {
        if raw.len() > PATH_MAX {
            return Err(PathError::TooLong);
        }
        if !raw.starts_with('/')
            || !raw
                .bytes()
                .all(|b| matches!(b, 0x21..=0x7e) && !matches!(b, b'?' | b'#'))
        {
            return Err(PathError::Malformed);
        }
        if broken(Variant::PathAsSent) {
            return Ok(Self {
                wire: raw.into(),
                compared: None,
                slashed: None,
            });
        }
        if is_plain(raw.as_bytes()) {
            return Ok(Self {
                wire: raw.into(),
                compared: None,
                slashed: None,
            });
        }
        if raw.contains('\\') {
            return Err(PathError::Ambiguous);
        }
        let compared = decode_unreserved(raw)?;
        let slashed = compared
            .contains("%2F")
            .then(|| compared.replace("%2F", "/").into_boxed_str());
        if resolvable(&compared) || slashed.as_deref().is_some_and(resolvable) {
            return Err(PathError::Ambiguous);
        }
        let compared = match compared {
            Cow::Borrowed(_) => None,
            Cow::Owned(text) => Some(text.into_boxed_str()),
        };
        Ok(Self {
            wire: raw.into(),
            compared,
            slashed,
        })
    }

    /// The bytes that are sent.
    #[must_use]
    pub fn wire(&self) -> &str {
        &self.wire
    }

    /// Whether it has an escaped slash.
    #[must_use]
    pub fn has_escaped_slash(&self) -> bool {
        self.slashed.is_some()
    }

    /// The path as servers might see it that are less careful: that cut path parameters, outer spaces and a last slash,
    /// or take an escaped slash for one. At most three, none equal to [`Self::compared`]. Only for refusing: what is
    /// sent stays as it is.
    #[must_use]
    pub fn careless(&self) -> Vec<Cow<'_, str>> {
        let mut readings = Vec::new();
        readings.extend(loose(self.compared()).map(Cow::Owned));
        if let Some(slashed) = self.slashed.as_deref() {
            readings.extend(loose(slashed).map(Cow::Owned));
            readings.push(Cow::Borrowed(slashed));
        }
        readings
    }

    /// The form that rules compare: escapes of unreserved characters decoded (RFC 3986 §6.2.2.2), others in upper case.
    #[must_use]
    pub fn compared(&self) -> &str {
        self.compared.as_deref().unwrap_or(&self.wire)
    }
}

/// Whether a path is one that nobody could read in two ways: nothing escaped, no parameters, no segment that is empty or
/// begins with a dot. The other paths are judged step by step.
fn is_plain(path: &[u8]) -> bool {
    let inside = |pair: &[u8]| pair[0] != b'/' || !matches!(pair[1], b'/' | b'.');
    !path.iter().any(|b| matches!(b, b'%' | b';' | b'\\')) && path.windows(2).all(inside)
}

/// Whether somebody could take a segment away or resolve it: an empty one inside the path, or a dot segment.
fn resolvable(path: &str) -> bool {
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        // `..;x` is a dot segment to servers that cut path parameters first, `..%20` to some that trim.
        let bare = without_parameters(segment);
        let empty_inside = segment.is_empty() && segments.peek().is_some();
        if empty_inside || bare == "." || bare == ".." {
            return true;
        }
    }
    false
}

/// A path without parameters, outer spaces and a last slash; `None` where that changes nothing.
fn loose(path: &str) -> Option<String> {
    if !path.bytes().any(|b| matches!(b, b';' | b'%')) && !path.ends_with('/') {
        return None;
    }
    let cut: Vec<&str> = path.split('/').map(without_parameters).collect();
    let cut = cut.join("/");
    let trimmed = cut
        .strip_suffix('/')
        .filter(|rest| !rest.is_empty())
        .unwrap_or(&cut);
    (trimmed != path).then(|| trimmed.to_owned())
}

/// A segment up to its first parameter (also behind an escaped semicolon), without escaped spaces at its end.
fn without_parameters(segment: &str) -> &str {
    let cut = segment
        .find(';')
        .into_iter()
        .chain(segment.find("%3B"))
        .min();
    let mut rest = &segment[..cut.unwrap_or(segment.len())];
    while let Some(shorter) = rest.strip_suffix("%20") {
        rest = shorter;
    }
    rest
}

fn decode_unreserved(raw: &str) -> Result<Cow<'_, str>, PathError> {
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw));
    }
    let bytes = raw.as_bytes();
    let mut out = String::with_capacity(raw.len());
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] != b'%' {
            out.push(char::from(bytes[i]));
            i += 1;
            continue;
        }
        let value = escape_at(bytes, i).ok_or(PathError::Malformed)?;
        if overlong(value, &bytes[i + 3..]) {
            return Err(PathError::Ambiguous);
        }
        match value {
            b'\\' | 0x00..=0x1f | 0x7f => return Err(PathError::Ambiguous),
            _ if value.is_ascii_alphanumeric() || matches!(value, b'-' | b'.' | b'_' | b'~') => {
                out.push(char::from(value))
            }
            _ => {
                out.push('%');
                out.push(char::from(bytes[i + 1].to_ascii_uppercase()));
                out.push(char::from(bytes[i + 2].to_ascii_uppercase()));
            }
        }
        i += 3;
    }
    // A second escape, its digits escaped or not: `%252e` and `%25%32%65` are both a dot to who decodes twice.
    let escapes = |at: usize| escape_at_hex(out.as_bytes(), at + 3);
    if out.match_indices("%25").any(|(at, _)| escapes(at)) {
        return Err(PathError::Ambiguous);
    }
    Ok(Cow::Owned(out))
}

/// Whether an escaped byte and those behind it are an overlong form: a slash or a dot in more bytes than UTF-8 gives it
/// (RFC 3629 §3), which careless decoders take all the same. Letters of other encodings that begin so are none.
fn overlong(first: u8, behind: &[u8]) -> bool {
    let (second, length) = match first {
        0xc0 | 0xc1 => return true,
        0xe0 => (0x80..=0x9f, 2),
        0xf0 => (0x80..=0x8f, 3),
        0xf8 => (0x80..=0x87, 4),
        0xfc => (0x80..=0x83, 5),
        _ => return false,
    };
    let escape = |n: usize| {
        let at = n * 3;
        escape_at(behind, at).filter(|_| behind.get(at) == Some(&b'%'))
    };
    escape(0).is_some_and(|byte| second.contains(&byte))
        && (1..length).all(|n| escape(n).is_some_and(|byte| matches!(byte, 0x80..=0xbf)))
}

/// The value of the escape `%XX` that begins at `at`.
fn escape_at(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
    let value = digit(at + 1)? * 16 + digit(at + 2)?;
    u8::try_from(value).ok()
}

/// Whether two hex digits stand at `at`: behind an escaped per cent sign they would be a second escape.
fn escape_at_hex(bytes: &[u8], at: usize) -> bool {
    bytes.get(at).is_some_and(u8::is_ascii_hexdigit)
        && bytes.get(at + 1).is_some_and(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_keeps_its_bytes_and_rules_see_one_form() {
        for (raw, compared) in [
            ("/", "/"),
            ("/v1/items/1", "/v1/items/1"),
            ("/v1/items/", "/v1/items/"),
            ("/v1/%49tems/%7e%40", "/v1/Items/~%40"),
            ("/a%3bb;c=d", "/a%3Bb;c=d"),
            ("/a%25b", "/a%25b"),
            // The letters that begin so are no overlong forms, in UTF-8 or in Latin-1.
            ("/%e0%a4%85/%F0%9F%98%80/%fc", "/%E0%A4%85/%F0%9F%98%80/%FC"),
            ("/%e0%86x/%e0%8e%c3%a4", "/%E0%86x/%E0%8E%C3%A4"),
        ] {
            let path = RequestPath::parse(raw).unwrap();
            assert_eq!((path.wire(), path.compared()), (raw, compared));
        }
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        for raw in [
            "/v1/items/../admin",
            "/v1/items/%2e%2e/admin",
            "/%2E./a",
            "/.%2e/a",
            "/a/.",
            "/a/./b",
            "/a/..%2fb",
            "/v1%2Fadmin",
            "/a\\..\\b",
            "/a%5cb",
            "/a//b",
            "//evil.test/x",
            "/a/..;/b",
            "/a/.;x/b",
            "/a%00",
            "/a%0d%0a",
            "/a%7f",
            "/a%252e",
            "/%25%32%65%25%32e/admin",
            "/a%25b%30",
            "/a/..%3b/b",
            "/a/%2e%2e%3Bx/b",
            "/a/..%20/b",
            "/a/%c0%ae%c0%ae/b",
            "/a/%e0%80%ae%e0%80%ae/b",
            "/a/..%E0%80%AFb",
            "/a/%f0%80%80%ae/b",
            "/a/%f8%80%80%80%ae/b",
            "/a/%fc%80%80%80%80%ae/b",
        ] {
            assert_eq!(RequestPath::parse(raw), Err(PathError::Ambiguous), "{raw}");
        }
    }

    #[test]
    fn careless_servers_see_other_paths() {
        for (raw, readings) in [
            ("/a/b", &[][..]),
            ("/", &[]),
            ("/a/b/", &["/a/b"]),
            ("/a/b;x=1", &["/a/b"]),
            ("/a;y/b%3bz", &["/a/b"]),
            ("/a/b%20", &["/a/b"]),
            ("/a/b;/", &["/a/b"]),
            ("/@a%2fb", &["/@a/b"]),
            ("/a%3b%2Fb;c", &["/a", "/a/b", "/a%3B/b;c"]),
        ] {
            let path = RequestPath::of_request(raw).unwrap();
            assert_eq!(path.careless(), readings, "{raw}");
        }
    }

    #[test]
    fn an_escaped_slash_stands_in_requests_unless_its_other_reading_is_refused() {
        for raw in ["/@scope%2fname", "/a%2Fb/c", "/a%2F"] {
            let path = RequestPath::of_request(raw).unwrap();
            assert!(path.has_escaped_slash(), "{raw}");
            assert_eq!(path.wire(), raw);
            assert_eq!(RequestPath::parse(raw), Err(PathError::Ambiguous), "{raw}");
        }
        for raw in [
            "/a/..%2fb",
            "/a%2f../b",
            "/a%2f%2e%2e%2fb",
            "/%2fevil.test",
            "/a%2f%2fb",
            "/a/%2fb",
            "/a%2f/b",
            "/a%252fb",
            "/a%2f.;x%2fb",
            "/a/..%c0%afb",
        ] {
            assert_eq!(
                RequestPath::of_request(raw),
                Err(PathError::Ambiguous),
                "{raw}"
            );
        }
    }

    #[test]
    fn what_is_not_a_path_is_malformed() {
        for raw in [
            "",
            "*",
            "a/b",
            "/a b",
            "/a%zz",
            "/a%",
            "/a%0",
            "/é",
            "/a?b",
            "/a#b",
            "/a\tb",
            "http://a/",
        ] {
            assert_eq!(RequestPath::parse(raw), Err(PathError::Malformed), "{raw}");
        }
        assert_eq!(
            RequestPath::parse(&"/a".repeat(5000)),
            Err(PathError::TooLong)
        );
    }
}
