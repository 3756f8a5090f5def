//! Where agents knock. A listener that others on the network can reach needs TLS or a word of consent that proxy tokens
//! travel in clear text, and names of agents.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Context, admin, pem, transparent};
use crate::config::plan::{AdminPlan, ListenPlan, ListenerTls, ProxyAddress, ProxyAt};
use crate::config::raw::{OneOrMany, RawAdmin, RawFullListener, RawListen, RawListener, RawMode};

/// Only the owner may connect.
const MODE: u32 = 0o600;
/// Longest path of a socket, which the system ends with a zero byte.
const SOCKET_PATH_MAX: usize = 107;

/// Reads all listener addresses.
pub(super) fn compile(
    raw: Option<RawListen>,
    health: Option<&str>,
    admin: Option<RawAdmin>,
    it: &mut Context<'_>,
) -> (ListenPlan, Option<SocketAddr>, Option<AdminPlan>) {
    let (proxy, redirected) = raw.map_or((None, None), |raw| (raw.proxy, raw.transparent));
    let listeners = match proxy {
        None if it.findings.tainted("listen") => Vec::new(),
        None => vec![(
            "listen.proxy".to_owned(),
            Some(RawListener::Address("127.0.0.1:8080".into())),
        )],
        Some(OneOrMany::One(one)) => vec![("listen.proxy".to_owned(), Some(one))],
        Some(OneOrMany::Many(many)) => {
            if many.is_empty() {
                let remedy = "give an address, or remove the key for 127.0.0.1:8080";
                it.findings
                    .error("listen.proxy", "the list is empty", remedy);
            }
            let numbered = many.into_iter().enumerate();
            numbered
                .map(|(i, one)| (format!("listen.proxy[{i}]"), one))
                .collect()
        }
    };
    let mut taken = Taken::default();
    let mut proxy = Vec::new();
    for (key, raw) in listeners {
        let raw = match raw {
            Some(RawListener::Address(text)) => one(&key, &key, &text, None, it),
            Some(RawListener::Full(full)) => {
                let text = full.address.clone();
                text.and_then(|text| one(&key, &format!("{key}.address"), &text, Some(*full), it))
            }
            None => continue,
        };
        let Some((address_key, listener)) = raw else {
            continue;
        };
        taken.check(&address_key, &listener.at, it);
        proxy.push(listener);
    }
    let transparent = transparent::compile(redirected, &mut taken, it);
    let health = health.and_then(|text| address("health", text, it));
    if let Some(addr) = health {
        taken.check("health", &ProxyAt::Tcp(addr), it);
    }
    let admin = admin::compile(admin, &mut taken, it);
    let listen = ListenPlan { proxy, transparent };
    (listen, health, admin)
}

/// The agent `default` has no token: whoever reaches the listener is it, so only this machine may.
pub(super) fn check_reach(listen: &ListenPlan, named_agents: bool, it: &mut Context<'_>) {
    let beyond = listen.proxy.iter().any(|listener| beyond(&listener.at));
    if beyond && !named_agents {
        let what = "without named agents only loopback and unix listeners are allowed";
        let remedy = "name `agents` with tokens, or listen on 127.0.0.1";
        it.findings.error("listen.proxy", what, remedy);
    }
}

/// One listener, and the key of its address.
fn one(
    key: &str,
    address_key: &str,
    text: &str,
    full: Option<RawFullListener>,
    it: &mut Context<'_>,
) -> Option<(String, ProxyAddress)> {
    let (tls, mode, plaintext) = full.map_or((None, None, None), |full| {
        (full.tls, full.mode, full.plaintext)
    });
    let at = match text.strip_prefix("unix:") {
        Some(path) => unix((key, address_key), path, mode.as_ref(), it)?,
        None => {
            if mode.is_some() {
                let what = "only a unix socket has a mode";
                it.findings.error(&format!("{key}.mode"), what, "remove it");
            }
            ProxyAt::Tcp(address(address_key, text, it)?)
        }
    };
    let plaintext = plaintext.unwrap_or(false);
    if plaintext && (tls.is_some() || matches!(at, ProxyAt::Unix { .. })) {
        let what = "this listener does not send proxy tokens over a network in clear";
        it.findings
            .error(&format!("{key}.plaintext"), what, "remove it");
    }
    if tls.is_none() && !plaintext && beyond(&at) {
        let what = "beyond this machine, proxy tokens would travel in clear text";
        let remedy =
            "listen on 127.0.0.1, give it `tls`, or accept it with {address: …, plaintext: true}";
        it.findings.error(address_key, what, remedy);
    }
    let tls = tls.and_then(|tls| {
        let (cert, tls_key) = (tls.cert?, tls.key?);
        let key = format!("{key}.tls");
        let (cert_pem, key_pem, hosts) = pem::identity(&key, &cert, &tls_key, it);
        Some(ListenerTls {
            cert_pem,
            key_pem,
            hosts,
        })
    });
    Some((address_key.to_owned(), ProxyAddress { at, tls }))
}

pub(super) fn unix(
    (key, address_key): (&str, &str),
    path: &str,
    mode: Option<&RawMode>,
    it: &mut Context<'_>,
) -> Option<ProxyAt> {
    let path: PathBuf = it.path(address_key, path);
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        let what = "too long for the path of a unix socket";
        let remedy = "write unix:PATH with at most 107 bytes";
        it.findings.error(address_key, what, remedy);
        return None;
    }
    let mode = mode.map_or(Some(MODE), |RawMode(text)| {
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| *mode <= 0o777)
    });
    if mode.is_none() {
        let remedy = "write three octal digits, such as 0660";
        let key = format!("{key}.mode");
        it.findings.error(&key, "the mode is none", remedy);
    }
    Some(ProxyAt::Unix { path, mode: mode? })
}

pub(super) fn address(key: &str, text: &str, it: &mut Context<'_>) -> Option<SocketAddr> {
    if text.starts_with("unix:") {
        let (what, remedy) = ("unix sockets: not supported yet", "write host:port");
        it.findings.error(key, what, remedy);
        return None;
    }
    let parsed = text.parse().ok();
    if parsed.is_none() {
        let remedy = "write one such as 127.0.0.1:8080 or \"[::1]:8080\"";
        it.findings
            .error(key, "not an IP address with a port", remedy);
    }
    parsed
}

/// Places that have a listener, and whether one of IPv6 takes IPv6 alone.
#[derive(Default)]
pub(super) struct Taken(Vec<(ProxyAt, bool)>);

impl Taken {
    pub(super) fn check(&mut self, key: &str, at: &ProxyAt, it: &mut Context<'_>) {
        self.add(key, (at.clone(), false), it);
    }

    /// For a listener that takes one family alone.
    pub(super) fn check_one_family(&mut self, key: &str, at: &ProxyAt, it: &mut Context<'_>) {
        self.add(key, (at.clone(), true), it);
    }

    fn add(&mut self, key: &str, new: (ProxyAt, bool), it: &mut Context<'_>) {
        if self.0.iter().any(|other| same(&new, other)) {
            let what = "another listener has this address already";
            it.findings.error(key, what, "choose another port or path");
        }
        self.0.push(new);
    }
}

fn same((one, one_alone): &(ProxyAt, bool), (other, other_alone): &(ProxyAt, bool)) -> bool {
    match (one, other) {
        // Port 0 asks the system for a free one.
        (ProxyAt::Tcp(a), ProxyAt::Tcp(b)) => {
            let apart = match (a.is_ipv6(), b.is_ipv6()) {
                (true, false) => *one_alone,
                (false, true) => *other_alone,
                _ => false,
            };
            let every = a.ip().is_unspecified() || b.ip().is_unspecified();
            let meet = a.ip() == b.ip() || (every && !apart);
            a.port() == b.port() && a.port() != 0 && meet
        }
        (ProxyAt::Unix { path: a, .. }, ProxyAt::Unix { path: b, .. }) => a == b,
        _ => false,
    }
}

/// Whether others than this machine's own programs can reach it.
pub(super) fn beyond(at: &ProxyAt) -> bool {
    match at {
        ProxyAt::Tcp(addr) => !addr.ip().to_canonical().is_loopback(),
        ProxyAt::Unix { .. } => false,
    }
}
