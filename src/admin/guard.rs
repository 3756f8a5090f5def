//! Who may speak to the admin API where it listens on TCP, and what a page in somebody's browser may not.
//!
//! A browser on the operator's machine reaches loopback, and any page in it can send requests there. Such a request has an
//! `Origin`, or a name in `Host` that the page's owner has just pointed here (DNS rebinding), or a body of a type that needs
//! no permission. None of them passes, and no answer carries a word of CORS. What remains needs the token.

use std::fmt;
use std::net::IpAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, Method, Request};

use crate::vocab::{Authority, Host, Scheme, Secret};

/// What a caller must bring.
#[derive(Clone)]
pub struct Guard {
    /// SHA-256 of the token; the token itself is not kept.
    token: Option<Vec<u8>>,
    /// Further names by which we are called: those of our certificate.
    names: Vec<Host>,
}

impl Guard {
    /// Callers must show this token, and may call us by these names as well as by ours on loopback.
    #[must_use]
    pub fn new(token: Option<&Secret<String>>, names: Vec<Host>) -> Self {
        Self {
            token: token.map(|token| sha256(token.expose().as_bytes())),
            names,
        }
    }

    /// Whether a request may be answered. `local`: the address that it came to; none on a unix socket, where no browser is.
    pub(super) fn admits<B>(
        &self,
        request: &Request<B>,
        local: Option<IpAddr>,
    ) -> Result<(), Objection> {
        let headers = request.headers();
        if headers.contains_key(ORIGIN) {
            return Err(Objection::Page);
        }
        if let Some(local) = local {
            if !self.names_us(request, local) {
                return Err(Objection::Name);
            }
            if request.method() == Method::POST && !is_json(headers) {
                return Err(Objection::Page);
            }
        }
        match &self.token {
            Some(token) if !shows(headers, token) => Err(Objection::Token),
            _ => Ok(()),
        }
    }

    fn names_us<B>(&self, request: &Request<B>, local: IpAddr) -> bool {
        let mut hosts = request.headers().get_all(HOST).iter();
        let (Some(host), None, None) = (hosts.next(), hosts.next(), request.uri().authority())
        else {
            return false;
        };
        let host = host.to_str().ok();
        let host = host.and_then(|host| Authority::parse(Scheme::Http, host).ok());
        let Some(host) = host.as_ref().map(Authority::host) else {
            return false;
        };
        let ours = match host {
            Host::Ip(ip) => ip.to_canonical().is_loopback() || ip.to_canonical() == local,
            Host::Name(name) => &**name == "localhost",
        };
        ours || self.names.contains(host)
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Objection {
    /// It calls us by a name that is not ours.
    Name,
    /// A page in a browser could have sent it.
    Page,
    /// It does not show the token.
    Token,
}

/// Whether the token is shown, in time that does not depend on how near a guess was.
fn shows(headers: &HeaderMap, token: &[u8]) -> bool {
    let mut shown = headers.get_all(AUTHORIZATION).iter();
    let (Some(shown), None) = (shown.next(), shown.next()) else {
        return false;
    };
    let shown = shown.to_str().unwrap_or_default();
    let (scheme, shown) = shown.split_once(' ').unwrap_or_default();
    let same = verify_slices_are_equal(&sha256(shown.trim().as_bytes()), token);
    scheme.eq_ignore_ascii_case("bearer") && same.is_ok()
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

    fn guard() -> Guard {
        let token = Secret::new("operator-token-1".to_owned());
        Guard::new(Some(&token), vec![Host::parse("admin.corp.test").unwrap()])
    }

    fn judged(method: &str, uri: &str, fields: &[(&str, &str)]) -> Result<(), Objection> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        guard().admits(&request.body(()).unwrap(), Some(LOCAL))
    }

    #[test]
    fn the_token_is_shown_once_and_as_it_is() {
        let with = |fields: &[(&str, &str)]| {
            let mut all = vec![("host", "localhost:9901")];
            all.extend(fields);
            judged("GET", "/v1/status", &all)
        };
        let good = ("authorization", "Bearer operator-token-1");
        assert_eq!(with(&[good]), Ok(()));
        assert_eq!(
            with(&[("authorization", "bearer  operator-token-1 ")]),
            Ok(())
        );
        for bad in [
            vec![],
            vec![("authorization", "Bearer operator-token-2")],
            vec![("authorization", "Bearer ")],
            vec![("authorization", "operator-token-1")],
            vec![("authorization", "Basic operator-token-1")],
            vec![good, good],
            vec![("proxy-authorization", "Bearer operator-token-1")],
        ] {
            assert_eq!(with(&bad), Err(Objection::Token), "{bad:?}");
        }
    }

    #[test]
    fn only_our_own_names_are_answered() {
        let named = |host: &str| {
            let fields = [("host", host), ("authorization", "Bearer operator-token-1")];
            judged("GET", "/v1/status", &fields)
        };
        for ours in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:9901",
            "127.8.8.8",
            "[::1]:9901",
            "10.0.0.9",
            "admin.corp.test:443",
        ] {
            assert_eq!(named(ours), Ok(()), "{ours}");
        }
        for other in [
            "evil.test",
            "localhost.evil.test",
            "127.0.0.1.evil.test",
            "10.0.0.8",
            "0.0.0.0",
            "0x7f.1",
            "localhost@evil.test",
            "",
        ] {
            assert_eq!(named(other), Err(Objection::Name), "{other}");
        }
        let good = ("authorization", "Bearer operator-token-1");
        assert_eq!(judged("GET", "/", &[good]), Err(Objection::Name));
        let two = [("host", "localhost"), ("host", "localhost"), good];
        assert_eq!(judged("GET", "/", &two), Err(Objection::Name));
        let absolute = judged("GET", "http://localhost/", &[("host", "localhost"), good]);
        assert_eq!(absolute, Err(Objection::Name));
    }

    #[test]
    fn a_page_gets_nothing_even_with_the_token() {
        let good = [
            ("host", "localhost"),
            ("authorization", "Bearer operator-token-1"),
        ];
        let with = |method: &str, more: &[(&str, &str)]| {
            let all: Vec<_> = good.iter().chain(more).copied().collect();
            judged(method, "/v1/rotate", &all)
        };
        let json = ("content-type", "application/json; charset=utf-8");
        assert_eq!(with("POST", &[json]), Ok(()));
        assert_eq!(with("POST", &[]), Err(Objection::Page));
        let form = ("content-type", "text/plain");
        assert_eq!(with("POST", &[form]), Err(Objection::Page));
        let origin = ("origin", "http://localhost");
        assert_eq!(with("POST", &[json, origin]), Err(Objection::Page));
        assert_eq!(with("GET", &[("origin", "null")]), Err(Objection::Page));
    }

    #[test]
    fn a_unix_socket_needs_no_name() {
        let request = Request::builder().method("POST").uri("/v1/rotate");
        let request = request.body(()).unwrap();
        assert_eq!(Guard::new(None, Vec::new()).admits(&request, None), Ok(()));
        assert_eq!(guard().admits(&request, None), Err(Objection::Token));
    }
}
