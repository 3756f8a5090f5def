//! The proxy through which everything leaves.

use std::net::IpAddr;

use super::{Context, header_value, pem};
use crate::config::raw::{List, RawParentProxy};
use crate::upstream::{Except, ParentSettings, never_dialled};
use crate::vocab::{Authority, Host, Scheme};

/// Reads it; `None` where there is none, or a finding says what is wrong with it.
pub(super) fn compile(raw: Option<RawParentProxy>, it: &mut Context<'_>) -> Option<ParentSettings> {
    let raw = raw?;
    let auth = raw.auth.as_ref();
    let credential = auth.map(|auth| it.secret_text("parent_proxy.auth", auth, user_and_password));
    let except = exceptions(raw.except.as_ref(), it);
    let extra_roots = pem::roots("parent_proxy.ca", raw.ca.as_ref(), it);
    let authority = url(raw.url.as_deref()?, it)?;
    let local = authority.host().ip().is_some_and(|ip| ip.is_loopback());
    if credential.is_some() && authority.scheme() == Scheme::Http && !local {
        let what = "the proxy's credential travels in clear text";
        let remedy = "write https:// if the proxy can be spoken to in TLS";
        it.findings.warn("parent_proxy.url", what, remedy);
    }
    Some(ParentSettings {
        authority,
        credential,
        except,
        extra_roots,
    })
}

/// RFC 7617 §2: everything before the first colon is the user.
fn user_and_password(text: &str) -> bool {
    header_value(text) && text.find(':').is_some_and(|at| at > 0)
}

fn url(text: &str, it: &mut Context<'_>) -> Option<Authority> {
    let key = "parent_proxy.url";
    let (scheme, rest) = match text.split_once("://") {
        Some(("http", rest)) => (Scheme::Http, rest),
        Some(("https", rest)) => (Scheme::Https, rest),
        _ => {
            let remedy = "write http://HOST:PORT, or https://HOST:PORT";
            it.findings.error(key, "not the URL of a proxy", remedy);
            return None;
        }
    };
    if rest.contains('@') {
        let what = "a credential does not stand in a URL";
        it.findings
            .error(key, what, "give it with `auth: {env: NAME}`");
        return None;
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    match Authority::parse(scheme, rest) {
        Ok(authority) if authority.host().ip().is_some_and(never_dialled) => {
            let what = "this address is never dialled";
            it.findings.error(key, what, "name the proxy's own address");
            None
        }
        Ok(authority) => Some(authority),
        Err(error) => {
            let remedy = "write http://HOST:PORT, or https://HOST:PORT";
            it.findings.error(key, &error.to_string(), remedy);
            None
        }
    }
}

fn exceptions(raw: Option<&List<String>>, it: &mut Context<'_>) -> Vec<Except> {
    let mut found = Vec::new();
    for (i, text) in raw.into_iter().flatten().enumerate() {
        let Some(text) = text else { continue };
        match exception(text) {
            Some(except) => found.push(except),
            None => {
                let remedy = "write a host, which also means those below it, an address, or a network such as 10.0.0.0/8";
                let key = format!("parent_proxy.except[{i}]");
                it.findings.error(&key, "not a destination", remedy);
            }
        }
    }
    found
}

/// `internal.example`, `.internal.example`, `10.0.0.5`, `::1`, `10.0.0.0/8`.
fn exception(text: &str) -> Option<Except> {
    if let Some((address, bits)) = text.split_once('/') {
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let plain = bits.bytes().all(|b| b.is_ascii_digit());
        let bits = bits.parse().ok().filter(|bits| plain && *bits <= most)?;
        return Some(Except::Network(address, bits));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        return Some(Except::Network(address, bits));
    }
    let name = text.strip_prefix('.').unwrap_or(text);
    Host::parse(name).ok().map(Except::Host)
}
