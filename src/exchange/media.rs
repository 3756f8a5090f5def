//! What a request's media type says about its call: how it is refused, how silent it may be, and what carries it.

use http::header::{self, HeaderMap, HeaderValue};

/// What kind of call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    /// gRPC (gRPC over HTTP/2): its outcome stands in trailers.
    Grpc,
    /// gRPC-Web, whose trailers are part of the body, so that any version of HTTP carries it.
    GrpcWeb,
    /// The same in base64.
    GrpcWebText,
    /// A Connect stream, which speaks both ways on HTTP/2.
    Connect,
    /// Anything else.
    Other,
}

impl Media {
    /// Reads the first `Content-Type`; further ones are nobody's business here, only the form of an answer hangs on it.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let kind = headers.get(header::CONTENT_TYPE);
        let kind = kind.map_or(&b""[..], HeaderValue::as_bytes);
        let essence = kind.split(|b| *b == b';').next().unwrap_or_default();
        let essence = essence.trim_ascii_end();
        // `application/grpc+proto` is gRPC with a message format; `application/grpcish` is something else.
        let is = |name: &[u8]| {
            essence
                .split_at_checked(name.len())
                .is_some_and(|(start, rest)| {
                    start.eq_ignore_ascii_case(name) && matches!(rest.first(), None | Some(b'+'))
                })
        };
        if is(b"application/grpc") {
            Self::Grpc
        } else if is(b"application/grpc-web") {
            Self::GrpcWeb
        } else if is(b"application/grpc-web-text") {
            Self::GrpcWebText
        } else if is(b"application/connect") {
            Self::Connect
        } else {
            Self::Other
        }
    }

    /// The media type of an answer that has nothing but a gRPC outcome.
    pub(super) fn outcome(self) -> Option<&'static str> {
        match self {
            Self::Grpc => Some("application/grpc"),
            Self::GrpcWeb => Some("application/grpc-web"),
            Self::GrpcWebText => Some("application/grpc-web-text"),
            Self::Connect | Self::Other => None,
        }
    }

    /// Whether its body is one side of a conversation, silent while there is nothing to say.
    pub(super) fn speaks_both_ways(self) -> bool {
        matches!(self, Self::Grpc | Self::Connect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_media_type_says_what_kind_of_call_it_is() {
        for (kind, expected) in [
            ("application/grpc", Media::Grpc),
            ("application/grpc+proto", Media::Grpc),
            ("Application/GRPC+json; charset=utf-8", Media::Grpc),
            ("application/grpc ;x=y", Media::Grpc),
            ("application/grpc-web", Media::GrpcWeb),
            ("application/grpc-web+proto", Media::GrpcWeb),
            ("application/grpc-web-text+proto", Media::GrpcWebText),
            ("application/connect+json", Media::Connect),
            ("application/grpcish", Media::Other),
            ("application/grp", Media::Other),
            ("application/json", Media::Other),
            ("text/plain; application/grpc", Media::Other),
            ("", Media::Other),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            assert_eq!(Media::of(&headers), expected, "{kind:?}");
        }
        assert_eq!(Media::of(&HeaderMap::new()), Media::Other);
    }
}
