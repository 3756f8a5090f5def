//! Where the system leads connections to. Such a connection brings no credential of its caller, so whose it is must be
//! settled here.

use std::collections::BTreeSet;

use super::Context;
use super::listeners::{Taken, address, beyond};
use crate::config::plan::{ListenPlan, ProxyAt};
use crate::config::raw::{OneOrMany, RawFullTransparent, RawRedirectMode, RawTransparent};
use crate::listen::{RedirectMode, TransparentSettings};
use crate::vocab::AgentName;

/// Reads the transparent listeners.
pub(super) fn compile(
    raw: Option<OneOrMany<RawTransparent>>,
    taken: &mut Taken,
    it: &mut Context<'_>,
) -> Vec<TransparentSettings> {
    let listeners = match raw {
        None => return Vec::new(),
        Some(OneOrMany::One(one)) => vec![("listen.transparent".to_owned(), Some(one))],
        Some(OneOrMany::Many(many)) => {
            if many.is_empty() {
                let remedy = "give an address, or remove the key: it is off without it";
                it.findings
                    .error("listen.transparent", "the list is empty", remedy);
            }
            let numbered = many.into_iter().enumerate();
            numbered
                .map(|(i, one)| (format!("listen.transparent[{i}]"), one))
                .collect()
        }
    };
    let mut found = Vec::new();
    for (key, raw) in listeners {
        let (address_key, full) = match raw {
            Some(RawTransparent::Address(text)) => {
                let full = RawFullTransparent {
                    address: Some(text),
                    agent: None,
                    mode: None,
                };
                (key.clone(), full)
            }
            Some(RawTransparent::Full(full)) => (format!("{key}.address"), *full),
            None => continue,
        };
        let Some(text) = full.address.as_deref() else {
            continue;
        };
        let Some(address) = address(&address_key, text, it) else {
            continue;
        };
        taken.check_one_family(&address_key, &ProxyAt::Tcp(address), it);
        let agent = full.agent.and_then(|text| {
            let name = AgentName::new(&text);
            if name.is_err() {
                let (key, remedy) = (format!("{key}.agent"), "name one of `agents`");
                it.findings.error(&key, "not the name of an agent", remedy);
            }
            name.ok()
        });
        found.push(TransparentSettings {
            address,
            mode: match full.mode {
                Some(RawRedirectMode::Tproxy) => RedirectMode::Tproxy,
                Some(RawRedirectMode::Redirect) | None => RedirectMode::Redirect,
            },
            agent,
        });
    }
    found
}

/// Checks that it is known of each listener whose connections it gets. `named`: the agents of the file, if it names any.
pub(super) fn check(
    listen: &ListenPlan,
    named: Option<&BTreeSet<AgentName>>,
    it: &mut Context<'_>,
) {
    let mut error = |listener: &TransparentSettings, what: &str, remedy: &str| {
        let what = format!("{}: {what}", listener.address);
        it.findings.error("listen.transparent", &what, remedy);
    };
    for listener in &listen.transparent {
        match (named, &listener.agent) {
            (None, None) => {
                let tproxy = listener.mode == RedirectMode::Tproxy;
                if tproxy || beyond(&ProxyAt::Tcp(listener.address)) {
                    let what = "without named agents only what this machine's own programs open is taken, by redirect to loopback";
                    let remedy =
                        "name `agents`, and the one whose connections these are with `agent`";
                    error(listener, what, remedy);
                }
            }
            (None, Some(_)) => {
                let remedy =
                    "name the agent in `agents`, or remove `agent` for the one agent `default`";
                error(listener, "its agent is not one of `agents`", remedy);
            }
            (Some(named), Some(agent)) if !named.contains(agent) => {
                let remedy = "name the agent in `agents`";
                error(listener, "its agent is not one of `agents`", remedy);
            }
            (Some(_), Some(_)) => {}
            (Some(_), None) => {
                let what = "nobody could tell whose its connections are, and all would be refused";
                let remedy = "write {address: …, agent: NAME}, one listener for each agent";
                error(listener, what, remedy);
            }
        }
    }
}

/// The agents that have a listener of their own.
pub(super) fn owners(listen: &ListenPlan) -> BTreeSet<AgentName> {
    let owners = listen.transparent.iter();
    owners.filter_map(|one| one.agent.clone()).collect()
}
