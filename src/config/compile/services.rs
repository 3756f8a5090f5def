//! The APIs: hosts and rules, and that placeholders do not get into each other's way.

use std::collections::{BTreeMap, BTreeSet};

use super::agents::Agents;
use super::credentials::{self, Credential};
use super::issuers::Issuers;
use super::{Context, Origins, carriage, health};
use crate::config::raw::{List, Named, RawEscapedSlashes, RawRule, RawService};
use crate::exchange;
use crate::policy::{self, Effect, HostPattern, Rule};
use crate::tokens::{self, CredentialSettings};
use crate::upstream;
use crate::vocab::{Binding, Scheme, Scope, ScopeSet, ServiceName};

/// All services, for the rooms that need them.
#[derive(Default)]
pub(super) struct Services {
    pub(super) policy: Vec<policy::ServiceSettings>,
    pub(super) exchange: Vec<exchange::ServiceSettings>,
    pub(super) tokens: tokens::Settings,
    /// Names that the file gives but that are not in the lists above.
    pub(super) refused: BTreeSet<String>,
    /// Positions of hosts and rules, by the key of the list.
    pub(super) origins: Origins,
}

/// Reads the services.
pub(super) fn compile(
    raw: Named<RawService>,
    mut issuers: Issuers,
    it: &mut Context<'_>,
) -> Services {
    let mut services = Services::default();
    for (text, raw) in raw {
        let Ok(name) = ServiceName::new(&text) else {
            let remedy = "use letters, digits, `-`, `_` and `.`, at most 64, beginning with a letter or digit";
            it.findings
                .error("services", "a service's name is not a name", remedy);
            continue;
        };
        match raw {
            Some(raw) => service(name, raw, &mut issuers, &mut services, it),
            None => {
                services.refused.insert(text);
            }
        }
    }
    services
}

fn service(
    name: ServiceName,
    mut raw: RawService,
    issuers: &mut Issuers,
    services: &mut Services,
    it: &mut Context<'_>,
) {
    let key = format!("services.{name}");
    let (rules, rule_places) = rules(&key, raw.rules.take().unwrap_or_default(), it);
    let wanted = rules.iter().flat_map(|rule| rule.scopes().iter().cloned());
    let wanted = ScopeSet::of(wanted);
    let credential = credentials::compile(&key, raw.credential.take(), &wanted, issuers, it);
    let credentialed = credential.binding != Binding::None;
    let port = raw.port.unwrap_or(443);
    let clear = port == 80 || dangerous(&raw);
    let (hosts, host_places) = hosts(&key, raw.hosts.take(), it);
    services.origins.insert(format!("{key}.hosts"), host_places);
    services.origins.insert(format!("{key}.rules"), rule_places);
    services.policy.push(policy::ServiceSettings {
        name: name.clone(),
        hosts,
        scheme: if clear { Scheme::Http } else { Scheme::Https },
        port,
        credentialed,
        escaped_slashes: match raw.escaped_slashes.take() {
            Some(RawEscapedSlashes::Literal) => true,
            None | Some(RawEscapedSlashes::Refuse) => false,
        },
        oauth: matches!(credential.settings, CredentialSettings::Oauth(_)),
        rules,
    });
    let Credential {
        mut settings,
        slot,
        binding,
    } = credential;
    let checks = raw.health.take();
    let carried = carriage::compile(name.clone(), raw, slot, binding, it);
    if let Some(judged) = services.policy.last() {
        health::compile(&key, checks, (judged, &carried), &mut settings, it);
    }
    services.tokens.services.push((name, settings));
    services.exchange.push(carried);
}

/// Whether the service is reached in clear text on any port; policy says to which hosts.
#[cfg(feature = "danger-plain-http")]
fn dangerous(raw: &RawService) -> bool {
    let upstream = raw.upstream.as_ref();
    upstream.and_then(|up| up.danger_plain_http) == Some(true)
}

#[cfg(not(feature = "danger-plain-http"))]
fn dangerous(_: &RawService) -> bool {
    false
}

fn hosts(
    key: &str,
    raw: Option<List<String>>,
    it: &mut Context<'_>,
) -> (Vec<HostPattern>, Vec<usize>) {
    let mut found = (Vec::new(), Vec::new());
    for (i, text) in raw.into_iter().flatten().enumerate() {
        let Some(text) = text else { continue };
        match HostPattern::parse(&text) {
            Ok(pattern) => {
                if pattern.base().ip().is_some_and(upstream::never_dialled) {
                    let what = "this address is never dialled, so every request to it is refused";
                    let key = format!("{key}.hosts[{i}]");
                    it.findings.warn(&key, what, "remove it");
                }
                found.0.push(pattern);
                found.1.push(i);
            }
            Err(error) => report(&format!("{key}.hosts[{i}]"), &error.to_string(), it),
        }
    }
    found
}

fn rules(key: &str, raw: List<RawRule>, it: &mut Context<'_>) -> (Vec<Rule>, Vec<usize>) {
    let mut found = (Vec::new(), Vec::new());
    for (i, raw) in raw.into_iter().enumerate() {
        let key = format!("{key}.rules[{i}]");
        let Some(raw) = raw else { continue };
        if let Some(rule) = rule(&key, raw, it) {
            found.0.push(rule);
            found.1.push(i);
        }
    }
    found
}

fn rule(key: &str, raw: RawRule, it: &mut Context<'_>) -> Option<Rule> {
    let (effect, text) = match (raw.allow, raw.deny) {
        (Some(text), None) => (Effect::Allow, text),
        (None, Some(text)) => (Effect::Deny, text),
        _ if it.findings.tainted(key) => return None,
        _ => {
            let what = "a rule has exactly one of `allow` and `deny`";
            it.findings
                .error(key, what, "write allow: METHODS PATH, or deny");
            return None;
        }
    };
    let word = if effect == Effect::Allow {
        "allow"
    } else {
        "deny"
    };
    let mut lists = Vec::new();
    for (name, list) in [("scopes", raw.scopes), ("step_up", raw.step_up)] {
        let key = format!("{key}.{name}");
        let scopes = scopes(&key, list.unwrap_or_default(), it);
        if effect == Effect::Deny && !scopes.is_empty() {
            let what = "a denied request gets no token";
            it.findings.error(&key, what, "remove the scopes");
        }
        lists.push(scopes);
    }
    let step_up = lists.pop().unwrap_or_default();
    let scopes = lists.pop().unwrap_or_default();
    if scopes.is_empty() && !step_up.is_empty() {
        let what = "without `scopes` the token has whatever the issuer gives";
        let remedy = "add the scopes that these requests need at first";
        it.findings.error(&format!("{key}.step_up"), what, remedy);
    }
    Rule::parse(effect, &text, scopes)
        .map(|rule| rule.stepping_up_to(step_up))
        .map_err(|error| report(&format!("{key}.{word}"), &error.to_string(), it))
        .ok()
}

fn scopes(key: &str, raw: List<String>, it: &mut Context<'_>) -> ScopeSet {
    let mut scopes = Vec::new();
    for (i, text) in raw.into_iter().enumerate() {
        match text.as_deref().map(Scope::new) {
            Some(Ok(scope)) => scopes.push(scope),
            Some(Err(error)) => {
                let remedy = "write each scope as an entry of its own";
                let key = format!("{key}[{i}]");
                it.findings.error(&key, &error.to_string(), remedy);
            }
            None => {}
        }
    }
    ScopeSet::of(scopes)
}

/// Reports an error of another room, which says what is wrong and what to do with a semicolon between.
pub(super) fn report(key: &str, error: &str, it: &mut Context<'_>) {
    let (what, remedy) = error
        .split_once("; ")
        .unwrap_or((error, "see the rules of the file"));
    it.findings.error(key, what, remedy);
}

/// For one agent, each variable can hold one placeholder.
pub(super) fn check_variables(services: &Services, agents: &Agents, it: &mut Context<'_>) {
    for list in agents.policy.iter().map(|agent| agent.services.as_ref()) {
        let mut taken: BTreeMap<&str, &ServiceName> = BTreeMap::new();
        for service in &services.exchange {
            let Some(variable) = service.placeholder.variable.as_deref() else {
                continue;
            };
            if list.is_some_and(|list| !list.contains(&service.name)) {
                continue;
            }
            if let Some(other) = taken.insert(variable, &service.name) {
                let key = format!("services.{}.placeholder.variable", service.name);
                let what = format!("service {other} uses this variable for the same agent");
                it.findings.error(&key, &what, "choose another name");
            }
        }
    }
}
