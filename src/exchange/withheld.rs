//! Answers in which an issuer hands out tokens (RFC 6749 §5.1, RFC 8628 §3.2). An agent that got one would hold a
//! credential after all.

use bytes::Bytes;
use http::header::{self, HeaderMap};
use memchr::memmem;
use serde_json::Value;

/// Longest document that is read as a whole; issuers' are shorter.
pub(super) const DOCUMENT_MAX: usize = 64 * 1024;
/// One of these stands in each such document, early in it.
const MARKS: [&[u8]; 2] = [b"_token\"", b"device_code\""];

/// Whether a body says to be JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Whether the first piece of a document makes it worth reading.
pub(super) fn may_be(piece: &[u8]) -> bool {
    MARKS.iter().any(|mark| memmem::find(piece, mark).is_some())
}

/// Whether a document is such an answer.
pub(super) fn is_token_response(document: &[Bytes]) -> bool {
    let Ok(Value::Object(members)) = serde_json::from_slice(&document.concat()) else {
        return false;
    };
    let text = |name: &str| {
        members
            .get(name)
            .is_some_and(|v| v.as_str().is_some_and(|s| !s.is_empty()))
    };
    let issued = text("access_token") && text("token_type");
    issued
        || text("refresh_token")
        || text("id_token")
        || (text("device_code") && text("user_code"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_issuers_hand_out_is_known_by_its_shape() {
        for (text, expected) in [
            (r#"{"access_token":"a","token_type":"Bearer"}"#, true),
            (
                r#"{"token_type":"N_A","access_token":"a","issued_token_type":"x"}"#,
                true,
            ),
            (r#"{"refresh_token":"r"}"#, true),
            (r#"{"id_token":"i","x":1}"#, true),
            (
                r#"{"device_code":"d","user_code":"u","verification_uri":"v"}"#,
                true,
            ),
            (r#"{"access_token":"a page of the manual about it"}"#, false),
            (r#"{"access_token":7,"token_type":"x"}"#, false),
            (r#"{"docs":{"access_token":"a","token_type":"b"}}"#, false),
            (r#"[{"refresh_token":"r"}]"#, false),
            ("refresh_token\"", false),
        ] {
            let found = may_be(text.as_bytes()) && is_token_response(&[Bytes::from(text)]);
            assert_eq!(found, expected, "{text}");
        }
    }
}
