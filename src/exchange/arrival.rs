//! A request whose caller, destination and meaning are fixed. Called into being by the doors under `listen/` alone.
//!
//! hyper's parser is lenient where servers differ (several `Host` fields, absolute form inside a tunnel, odd expectations);
//! whatever two programs could read in two ways ends here, before policy is asked.

use http::header::{self, HeaderMap};
use http::{Method, Request, Uri, Version, request};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::refusal::Refusal;
use crate::agent::Agent;
use crate::credential::Intent;
use crate::vocab::variant::{Variant, broken};
use crate::vocab::{Authority, Code, PathError, RequestPath, Scheme};

/// Longest query, in bytes.
const QUERY_MAX: usize = 32 * 1024;

/// Which way a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// In absolute form on the proxy listener.
    Absolute,
    /// Through a CONNECT tunnel that we intercept.
    Connect,
    /// Over a connection that was made to another address and redirected to us.
    Transparent,
}

impl Door {
    /// The word in labels and audit lines.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absolute => "absolute",
            Self::Connect => "connect",
            Self::Transparent => "transparent",
        }
    }
}

/// A request that is ready to be judged.
pub struct Arrival {
    pub(super) agent: Agent,
    pub(super) authority: Authority,
    pub(super) path: RequestPath,
    pub(super) query: Option<Box<str>>,
    pub(super) intent: Intent,
    pub(super) parts: request::Parts,
    pub(super) body: Incoming,
    pub(super) upgrade: OnUpgrade,
}

impl Arrival {
    /// Fixes what a request means. `authority` is where its connection leads, from one place only: the CONNECT target,
    /// the absolute target itself, the name in a redirected handshake, or `Host` where a redirected request is in clear.
    ///
    /// # Errors
    /// A refusal where the request names another destination, or could be read in two ways.
    pub fn new(
        agent: Agent,
        authority: Authority,
        door: Door,
        mut request: Request<Incoming>,
    ) -> Result<Self, Refusal> {
        let upgrade = hyper::upgrade::on(&mut request);
        let (mut parts, body) = request.into_parts();
        if parts.version == Version::HTTP_2 {
            plain_fields(&mut parts.headers)?;
        }
        let (path, query, intent) = judge(&parts, &authority, door).inspect_err(|refusal| {
            if broken(Variant::Crash) && refusal.code == Code::BadRequest {
                std::process::abort();
            }
        })?;
        Ok(Self {
            agent,
            authority,
            path,
            query,
            intent,
            parts,
            body,
            upgrade,
        })
    }
}

pub(super) type Meaning = (RequestPath, Option<Box<str>>, Intent);

pub(super) fn judge(
    parts: &request::Parts,
    authority: &Authority,
    door: Door,
) -> Result<Meaning, Refusal> {
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        return Err(Code::MethodNotSupported.into());
    }
    expectation(&parts.headers)?;
    match door {
        Door::Connect | Door::Transparent => same_authority(parts, authority)?,
        // RFC 9112 §3.2.2: the absolute target counts and `Host` is replaced; it must still be one field at most.
        Door::Absolute => {
            let host = only_host(&parts.headers)?;
            if host.is_none() && parts.version == Version::HTTP_11 {
                return Err(Code::BadRequest.into());
            }
        }
    }
    let target = parts.uri.path_and_query().ok_or(Code::BadRequest)?;
    let path = RequestPath::of_request(target.path()).map_err(|e| match e {
        PathError::TooLong => Code::UriTooLong,
        PathError::Ambiguous | PathError::Malformed => Code::BadRequest,
    })?;
    let query = target.query().map(checked_query).transpose()?;
    Ok((path, query, intent(parts)?))
}

fn checked_query(query: &str) -> Result<Box<str>, Code> {
    if query.len() > QUERY_MAX {
        return Err(Code::UriTooLong);
    }
    let plain = query.bytes().all(|b| matches!(b, 0x21..=0x7e) && b != b'#');
    if plain {
        Ok(query.into())
    } else {
        Err(Code::BadRequest)
    }
}

/// Inside a tunnel every name must be the tunnel's own (RFC 9110 §7.4): `Host`, `:authority`, an absolute target.
fn same_authority(parts: &request::Parts, authority: &Authority) -> Result<(), Refusal> {
    let scheme_fits = parts
        .uri
        .scheme_str()
        .is_none_or(|s| s == authority.scheme().as_str());
    if !scheme_fits {
        return Err(Code::BadRequest.into());
    }
    let host = only_host(&parts.headers)?;
    let target = parts.uri.authority().map(http::uri::Authority::as_str);
    if host.is_none() && target.is_none() {
        return Err(Code::BadRequest.into());
    }
    // On HTTP/1.1 the field is not optional, absolute target or not (RFC 9112 §3.2).
    if parts.version != Version::HTTP_2 && host.is_none() {
        return Err(Code::BadRequest.into());
    }
    for name in [host, target].into_iter().flatten() {
        let named = authority.is_named(name).map_err(|_| Code::BadRequest)?;
        if !named {
            return Err(Code::AuthorityMismatch.into());
        }
    }
    Ok(())
}

/// Fields as HTTP/1.1 could carry them (RFC 9113 §8.2.1): names that are tokens, values without blanks around them. The
/// library lets both through, and a strict peer ends the whole connection for them.
fn plain_fields(headers: &mut HeaderMap) -> Result<(), Refusal> {
    let token = |name: &header::HeaderName| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        name.as_str().bytes().all(plain)
    };
    if !headers.keys().all(token) {
        return Err(Code::BadRequest.into());
    }
    for value in headers.values_mut() {
        let bytes = value.as_bytes();
        let trimmed = bytes.trim_ascii();
        if trimmed.len() != bytes.len() {
            *value = header::HeaderValue::from_bytes(trimmed).map_err(|_| Code::BadRequest)?;
        }
    }
    Ok(())
}

/// The one `Host` field, where there is one.
fn only_host(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut lines = headers.get_all(header::HOST).iter();
    let first = lines.next();
    if lines.next().is_some() {
        return Err(Code::BadRequest.into());
    }
    first
        .map(|value| value.to_str().map_err(|_| Code::BadRequest.into()))
        .transpose()
}

/// What the agent expects before it sends its body (RFC 9110 §10.1.1): the one word that is known, or nothing. Where
/// the body ends has been judged on the wire (`wire`), as hyper no longer shows it.
fn expectation(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut expectations = headers.get_all(header::EXPECT).iter();
    if expectations.any(|v| !v.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(Code::ExpectationFailed.into());
    }
    Ok(())
}

/// A WebSocket handshake is recognised; any other upgrade is a wish that the server may ignore, and so do we: the
/// field is hop-by-hop and goes.
fn intent(parts: &request::Parts) -> Result<Intent, Refusal> {
    let lists = |name: header::HeaderName, word: &str| {
        let lines = parts
            .headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok());
        lines
            .flat_map(|line| line.split(','))
            .any(|item| item.trim().eq_ignore_ascii_case(word))
    };
    let wished = lists(header::UPGRADE, "websocket") && lists(header::CONNECTION, "upgrade");
    if !wished || parts.version != Version::HTTP_11 {
        return Ok(Intent::Plain);
    }
    let keys = parts
        .headers
        .get_all(header::SEC_WEBSOCKET_KEY)
        .iter()
        .count();
    let body = parts.headers.contains_key(header::TRANSFER_ENCODING)
        || parts
            .headers
            .get(header::CONTENT_LENGTH)
            .is_some_and(|length| length != "0");
    if parts.method != Method::GET || keys != 1 || body {
        return Err(Code::BadRequest.into());
    }
    Ok(Intent::WebSocket)
}

/// The authority of an absolute target on the proxy listener.
///
/// # Errors
/// A refusal where the target is not in absolute form, or its authority is not canonical.
pub fn absolute_authority(target: &Uri) -> Result<Authority, Refusal> {
    let scheme = match target.scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        _ => return Err(Code::BadRequest.into()),
    };
    let text = target.authority().ok_or(Code::BadRequest)?.as_str();
    Authority::parse(scheme, text).map_err(|_| Code::BadRequest.into())
}

/// The authority of a request in clear whose connection was made to this port and redirected to us: what its one `Host`
/// field says, and that port. The address that the agent chose tells nothing.
///
/// # Errors
/// A refusal where the field is missing, stands twice, is not canonical, or names another port.
pub fn redirected_authority(headers: &HeaderMap, port: u16) -> Result<Authority, Refusal> {
    let host = only_host(headers)?.ok_or(Code::BadRequest)?;
    let authority = Authority::parse(Scheme::Http, host).map_err(|_| Code::BadRequest)?;
    if authority.port() == port {
        Ok(authority)
    } else {
        Err(Code::AuthorityMismatch.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(version: Version, method: &str, uri: &str, fields: &[(&str, &str)]) -> request::Parts {
        let mut builder = Request::builder().version(version).method(method).uri(uri);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn in_tunnel(version: Version, uri: &str, fields: &[(&str, &str)]) -> Result<(), Code> {
        let authority = Authority::parse_connect("api.test:443").unwrap();
        judge(
            &parts(version, "GET", uri, fields),
            &authority,
            Door::Connect,
        )
        .map(|_| ())
        .map_err(|r| r.code)
    }

    #[test]
    fn every_name_must_be_the_tunnels() {
        let h1 = Version::HTTP_11;
        type Case = (
            &'static str,
            &'static [(&'static str, &'static str)],
            Result<(), Code>,
        );
        let table: [Case; 13] = [
            ("/a", &[("host", "api.test")], Ok(())),
            ("/a", &[("host", "API.test.:443")], Ok(())),
            ("https://api.test/a", &[("host", "api.test")], Ok(())),
            ("/a", &[("host", "evil.test")], Err(Code::AuthorityMismatch)),
            (
                "/a",
                &[("host", "api.test:8443")],
                Err(Code::AuthorityMismatch),
            ),
            (
                "https://evil.test/a",
                &[("host", "api.test")],
                Err(Code::AuthorityMismatch),
            ),
            (
                "http://api.test/a",
                &[("host", "api.test")],
                Err(Code::BadRequest),
            ),
            (
                "/a",
                &[("host", "api.test"), ("host", "api.test")],
                Err(Code::BadRequest),
            ),
            (
                "/a",
                &[("host", "api.test, evil.test")],
                Err(Code::BadRequest),
            ),
            (
                "/a",
                &[("host", "api.test@evil.test")],
                Err(Code::BadRequest),
            ),
            ("/a", &[("host", "api.test/")], Err(Code::BadRequest)),
            ("/a", &[("host", "")], Err(Code::BadRequest)),
            ("/a", &[], Err(Code::BadRequest)),
        ];
        for (uri, fields, expected) in table {
            assert_eq!(in_tunnel(h1, uri, fields), expected, "{uri} {fields:?}");
        }
    }

    #[test]
    fn http2_names_its_destination_in_two_places() {
        let h2 = Version::HTTP_2;
        assert_eq!(in_tunnel(h2, "https://api.test/a", &[]), Ok(()));
        assert_eq!(
            in_tunnel(h2, "https://api.test/a", &[("host", "evil.test")]),
            Err(Code::AuthorityMismatch)
        );
        assert_eq!(
            in_tunnel(h2, "/a", &[("host", "evil.test")]),
            Err(Code::AuthorityMismatch)
        );
        assert_eq!(in_tunnel(h2, "/a", &[]), Err(Code::BadRequest));
        assert_eq!(
            in_tunnel(h2, "ftp://api.test/a", &[]),
            Err(Code::BadRequest)
        );
    }

    #[test]
    fn unknown_expectations_and_upgrades_of_another_shape_are_refused() {
        let host = ("host", "api.test");
        let table: [(&[(&str, &str)], Code); 4] = [
            (
                &[host, ("expect", "y 100-continue")],
                Code::ExpectationFailed,
            ),
            (
                &[host, ("expect", "100-continue"), ("expect", "y")],
                Code::ExpectationFailed,
            ),
            (
                &[host, ("upgrade", "websocket"), ("connection", "upgrade")],
                Code::BadRequest,
            ),
            (&[host, ("expect", "x")], Code::ExpectationFailed),
        ];
        for (fields, code) in table {
            assert_eq!(
                in_tunnel(Version::HTTP_11, "/a", fields),
                Err(code),
                "{fields:?}"
            );
        }
        assert_eq!(
            in_tunnel(Version::HTTP_11, "/a", &[host, ("expect", "100-continue")]),
            Ok(())
        );
    }

    #[test]
    fn targets_that_are_no_paths_are_refused() {
        for uri in ["*", "/a/../b", "//evil.test/x", "/a%00b"] {
            assert_eq!(
                in_tunnel(Version::HTTP_11, uri, &[("host", "api.test")]),
                Err(Code::BadRequest),
                "{uri}"
            );
        }
        let absolute = |uri: &str| absolute_authority(&uri.parse().unwrap()).map(|a| a.origin());
        assert_eq!(absolute("http://a.test/x").unwrap(), "http://a.test");
        for uri in [
            "/x",
            "http://a@b.test/",
            "ftp://a.test/",
            "http://a..test/",
            "a.test:80",
        ] {
            assert!(absolute(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn a_websocket_is_recognised_and_other_upgrades_are_not() {
        let see = |fields: &[(&str, &str)]| {
            intent(&parts(Version::HTTP_11, "GET", "/s", fields)).unwrap()
        };
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(
            see(&[
                ("upgrade", "WebSocket"),
                ("connection", "keep-alive, Upgrade"),
                key
            ]),
            Intent::WebSocket
        );
        assert_eq!(
            see(&[("upgrade", "h2c"), ("connection", "upgrade")]),
            Intent::Plain
        );
        assert_eq!(see(&[("upgrade", "websocket"), key]), Intent::Plain);
    }
}
