//! Where agents knock. A listener that others on the network can reach needs two words of consent: that proxy tokens
//! travel in clear text, and who the agents are.

use std::net::SocketAddr;

use super::Context;
use crate::config::plan::{ListenPlan, ProxyAddress};
use crate::config::raw::{OneOrMany, RawListen, RawListener};

/// Reads all listener addresses.
pub(super) fn compile(
    raw: Option<RawListen>,
    health: Option<&str>,
    it: &mut Context<'_>,
) -> (ListenPlan, Option<SocketAddr>) {
    let listeners = match raw.and_then(|raw| raw.proxy) {
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
    let mut taken: Vec<SocketAddr> = Vec::new();
    let mut proxy = Vec::new();
    for (key, raw) in listeners {
        let (key, text, plaintext) = match raw {
            Some(RawListener::Address(text)) => (key, Some(text), false),
            Some(RawListener::Full(full)) => {
                let plaintext = full.plaintext.unwrap_or(false);
                (format!("{key}.address"), full.address, plaintext)
            }
            None => continue,
        };
        let Some(addr) = text.and_then(|text| address(&key, &text, it)) else {
            continue;
        };
        check_free(&key, addr, &mut taken, it);
        proxy.push(ProxyAddress { addr, plaintext });
        if !plaintext && !on_loopback(addr) {
            let what = "beyond this machine, proxy tokens would travel in clear text";
            let remedy = "listen on 127.0.0.1, or accept it with {address: …, plaintext: true}";
            it.findings.error(&key, what, remedy);
        }
    }
    let health = health.and_then(|text| address("health", text, it));
    if let Some(addr) = health {
        check_free("health", addr, &mut taken, it);
    }
    (ListenPlan { proxy }, health)
}

/// The agent `default` has no token: whoever reaches the listener is it, so only this machine may.
pub(super) fn check_reach(listen: &ListenPlan, named_agents: bool, it: &mut Context<'_>) {
    let beyond = listen.proxy.iter().any(|l| !on_loopback(l.addr));
    if beyond && !named_agents {
        let what = "without named agents only loopback listeners are allowed";
        let remedy = "name `agents` with tokens, or listen on 127.0.0.1";
        it.findings.error("listen.proxy", what, remedy);
    }
}

fn address(key: &str, text: &str, it: &mut Context<'_>) -> Option<SocketAddr> {
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

fn check_free(key: &str, addr: SocketAddr, taken: &mut Vec<SocketAddr>, it: &mut Context<'_>) {
    let same = |other: &SocketAddr| {
        let every = addr.ip().is_unspecified() || other.ip().is_unspecified();
        addr.port() == other.port() && (addr.ip() == other.ip() || every)
    };
    // Port 0 asks the system for a free one.
    if addr.port() != 0 && taken.iter().any(same) {
        let what = "another listener has this address already";
        it.findings.error(key, what, "choose another port");
    }
    taken.push(addr);
}

fn on_loopback(addr: SocketAddr) -> bool {
    addr.ip().to_canonical().is_loopback()
}
