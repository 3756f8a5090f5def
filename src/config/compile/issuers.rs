//! Authorization servers. Services that mean the same one share its settings.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use http::Uri;

use super::{Context, pem};
use crate::config::problem::printable;
use crate::config::raw::{Named, RawAssertionAudience, RawFileRef, RawIssuer};
use crate::tokens::{AssertionAudience, IssuerSettings};
use crate::upstream::{ConnectTo, TargetSettings};
use crate::vocab::{Authority, Host, Scheme, danger};

/// Issuers by name, and by URL where services give that.
pub(super) struct Issuers(BTreeMap<String, Option<Arc<IssuerSettings>>>);

/// Reads the issuers that have a name.
pub(super) fn compile(raw: Named<RawIssuer>, it: &mut Context<'_>) -> Issuers {
    let mut issuers = BTreeMap::new();
    for (name, raw) in raw {
        let key = format!("issuers.{name}");
        if !printable(&name) {
            let remedy = "use letters, digits, `-`, `_` and `.`";
            it.findings
                .error("issuers", "an issuer's name is not a name", remedy);
            continue;
        }
        let settings = raw.and_then(|raw| issuer(&key, &raw, it));
        issuers.insert(name, settings.map(Arc::new));
    }
    Issuers(issuers)
}

impl Issuers {
    /// The issuer that a service means: a name, or a URL if it has `://`.
    pub(super) fn named(
        &mut self,
        key: &str,
        text: &str,
        it: &mut Context<'_>,
    ) -> Option<Arc<IssuerSettings>> {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        if !text.contains("://") {
            let what = "no such issuer";
            let remedy = "name an entry of `issuers`, or give the issuer's URL with https://";
            it.findings.error(key, what, remedy);
            return None;
        }
        let url = url(key, text, it)?;
        let settings = Arc::new(IssuerSettings {
            url,
            target: TargetSettings::default(),
            assertion_audience: AssertionAudience::default(),
        });
        self.0.insert(text.to_owned(), Some(Arc::clone(&settings)));
        Some(settings)
    }
}

fn issuer(key: &str, raw: &RawIssuer, it: &mut Context<'_>) -> Option<IssuerSettings> {
    let target = target(
        key,
        (raw.ca.as_ref(), raw.connect.as_deref(), raw.allow_private),
        it,
    );
    let url = url(&format!("{key}.url"), raw.url.as_deref()?, it)?;
    Some(IssuerSettings {
        url,
        target,
        assertion_audience: match raw.assertion_audience {
            None | Some(RawAssertionAudience::Issuer) => AssertionAudience::Issuer,
            Some(RawAssertionAudience::TokenEndpoint) => AssertionAudience::TokenEndpoint,
        },
    })
}

/// An issuer identifier: https, without query and fragment (RFC 8414 §2), and with a host that means one thing.
fn url(key: &str, text: &str, it: &mut Context<'_>) -> Option<String> {
    let plain = text.bytes().all(|b| matches!(b, 0x21..=0x7e)) && !text.contains(['?', '#', '@']);
    let host = text.parse::<Uri>().ok().filter(|_| plain).and_then(|uri| {
        let host = Authority::parse(Scheme::Https, uri.authority()?.as_str()).ok()?;
        let clear = text.starts_with("http://") && danger::plain_http(host.host());
        (clear || text.starts_with("https://")).then_some(host)
    });
    if host.is_none() {
        let what = "not the URL of an issuer";
        let remedy = "write https://HOST[:PORT][/PATH], without user, query and fragment";
        it.findings.error(key, what, remedy);
        return None;
    }
    Some(text.to_owned())
}

/// How to reach a service or an issuer: (`ca`, `connect`, `allow_private`) of the key.
pub(super) fn target(
    key: &str,
    (ca, connect, allow_private): (Option<&RawFileRef>, Option<&str>, Option<bool>),
    it: &mut Context<'_>,
) -> TargetSettings {
    let allow_private = allow_private.unwrap_or(false);
    let connect_key = format!("{key}.connect");
    let connect = connect.and_then(|text| {
        let parsed = connect_to(text);
        if parsed.is_none() {
            let remedy = "write an address or a name, with a port if another one is dialled";
            it.findings
                .error(&connect_key, "not an address to dial", remedy);
        }
        parsed
    });
    let private = connect.as_ref().and_then(|c| c.host.ip());
    if !allow_private && private.is_some_and(is_private) {
        let what = "this address is private, so every connection will be refused";
        let remedy = "add `allow_private: true` beside it";
        it.findings.warn(&connect_key, what, remedy);
    }
    TargetSettings {
        connect,
        allow_private,
        extra_roots: pem::roots(&format!("{key}.ca"), ca, it),
    }
}

/// `name`, `name:port`, `10.0.0.5`, `10.0.0.5:8443`, `::1`, `[::1]:8443`.
fn connect_to(text: &str) -> Option<ConnectTo> {
    if let Ok(bare) = text.parse::<Ipv6Addr>() {
        let host = Host::parse(&format!("[{bare}]")).ok()?;
        return Some(ConnectTo { host, port: None });
    }
    if let Ok(authority) = Authority::parse_connect(text) {
        return Some(ConnectTo {
            host: authority.host().clone(),
            port: Some(authority.port()),
        });
    }
    let host = Host::parse(text).ok()?;
    Some(ConnectTo { host, port: None })
}

fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            ip.is_private() || ip.is_loopback() || shared
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local(),
    }
}
