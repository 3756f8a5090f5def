//! The APIs: hosts, rules, placeholders and how requests are carried.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::agents::Agents;
use super::credentials::{self, Credential};
use super::issuers::{self, Issuers};
use super::{Context, DAY, Origins};
use crate::config::env::environment;
use crate::config::raw::{
    List, Named, RawHtu, RawPlaceholder, RawPlaceholderMode, RawRule, RawService, RawTimeouts,
};
use crate::credential::{PlaceholderMode, PlaceholderSettings, Shape};
use crate::exchange::{self, Timeouts};
use crate::policy::{self, Effect, HostPattern, Rule};
use crate::proof::HtuProfile;
use crate::tokens::{self, CredentialSettings};
use crate::vocab::{Binding, Scheme, Scope, ScopeSet, ServiceName};

/// Variables that would do more to an agent than carry a placeholder.
const RESERVED: &[&str] = &[
    "BASH_ENV", "ENV", "HOME", "IFS", "LD_AUDIT", "LD_LIBRARY_PATH", "LD_PRELOAD", "NODE_OPTIONS",
    "PATH", "PYTHONPATH", "PYTHONSTARTUP", "SHELL", "USER",
];

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
    raw: RawService,
    issuers: &mut Issuers,
    services: &mut Services,
    it: &mut Context<'_>,
) {
    let key = format!("services.{name}");
    let credential = credentials::compile(&key, raw.credential, issuers, it);
    let credentialed = credential.binding != Binding::None;
    let port = raw.port.unwrap_or(443);
    let (hosts, host_places) = hosts(&key, raw.hosts, it);
    let (rules, rule_places) = rules(&key, raw.rules.unwrap_or_default(), it);
    services.origins.insert(format!("{key}.hosts"), host_places);
    services.origins.insert(format!("{key}.rules"), rule_places);
    services.policy.push(policy::ServiceSettings {
        name: name.clone(),
        hosts,
        scheme: if port == 80 {
            Scheme::Http
        } else {
            Scheme::Https
        },
        port,
        credentialed,
        oauth: matches!(credential.settings, CredentialSettings::Oauth(_)),
        rules,
    });
    let Credential {
        settings,
        slot,
        binding,
    } = credential;
    services.tokens.services.push((name.clone(), settings));
    let (ca, connect, allow_private) = raw.upstream.map_or((None, None, None), |up| {
        (up.ca, up.connect, up.allow_private)
    });
    let target = issuers::target(
        &format!("{key}.upstream"),
        (ca.as_ref(), connect.as_deref(), allow_private),
        it,
    );
    let age_key = format!("{key}.max_stream_age");
    let age = it.span(
        &age_key,
        raw.max_stream_age,
        Duration::ZERO,
        (Duration::ZERO, DAY),
    );
    services.exchange.push(exchange::ServiceSettings {
        name,
        slot,
        binding,
        target,
        placeholder: placeholder(&key, raw.placeholder, it),
        htu: htu(&key, raw.htu, it),
        timeouts: timeouts(&key, raw.timeouts, it),
        replay_buffer: it.size(
            &format!("{key}.replay_buffer"),
            raw.replay_buffer,
            64 << 10,
            (0, 16 << 20),
        ),
        max_stream_age: (!age.is_zero()).then_some(age),
    });
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
    let word = if effect == Effect::Allow { "allow" } else { "deny" };
    let mut scopes = Vec::new();
    for (i, text) in raw.scopes.into_iter().flatten().enumerate() {
        match text.as_deref().map(Scope::new) {
            Some(Ok(scope)) => scopes.push(scope),
            Some(Err(error)) => {
                let key = format!("{key}.scopes[{i}]");
                let remedy = "write each scope as an entry of its own";
                it.findings.error(&key, &error.to_string(), remedy);
            }
            None => {}
        }
    }
    if effect == Effect::Deny && !scopes.is_empty() {
        let what = "a denied request gets no token";
        let key = format!("{key}.scopes");
        it.findings.error(&key, what, "remove the scopes");
    }
    Rule::parse(effect, &text, ScopeSet::of(scopes))
        .map_err(|error| report(&format!("{key}.{word}"), &error.to_string(), it))
        .ok()
}

/// Reports an error of another room, which says what is wrong and what to do with a semicolon between.
pub(super) fn report(key: &str, error: &str, it: &mut Context<'_>) {
    let (what, remedy) = error
        .split_once("; ")
        .unwrap_or((error, "see the rules of the file"));
    it.findings.error(key, what, remedy);
}

fn placeholder(
    key: &str,
    raw: Option<RawPlaceholder>,
    it: &mut Context<'_>,
) -> PlaceholderSettings {
    let Some(raw) = raw else {
        return PlaceholderSettings::default();
    };
    let key = format!("{key}.placeholder");
    let shape = raw.shape.map_or_else(Shape::default, |text| {
        Shape::parse(&text).unwrap_or_else(|error| {
            let remedy = "write one such as \"sk-{random:32}\"";
            let key = format!("{key}.shape");
            it.findings.error(&key, &error.to_string(), remedy);
            Shape::default()
        })
    });
    let variable = raw.variable.filter(|name| {
        let fine = variable_name(name);
        if !fine {
            let what = "not a variable that an agent may be given";
            let remedy = "write one such as ITEMS_TOKEN";
            it.findings.error(&format!("{key}.variable"), what, remedy);
        }
        fine
    });
    PlaceholderSettings {
        variable,
        shape,
        mode: match raw.mode.unwrap_or(RawPlaceholderMode::Optional) {
            RawPlaceholderMode::Optional => PlaceholderMode::Optional,
            RawPlaceholderMode::Required => PlaceholderMode::Required,
        },
    }
}

/// A name that shells accept and that no program reads for another purpose.
fn variable_name(name: &str) -> bool {
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let rest = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let ours = environment();
    let taken = RESERVED.contains(&name)
        || ours.proxy_variables().contains(&name)
        || ours.ca_variables().contains(&name);
    first && rest && name.len() <= 128 && !taken
}

/// For one agent, each variable can hold one placeholder.
pub(super) fn check_variables(services: &Services, agents: &Agents, it: &mut Context<'_>) {
    let everything = [None];
    let lists: Vec<Option<&Vec<ServiceName>>> = if agents.policy.is_empty() {
        everything.to_vec()
    } else {
        agents.policy.iter().map(|a| a.services.as_ref()).collect()
    };
    for list in lists {
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

fn htu(key: &str, raw: Option<RawHtu>, it: &mut Context<'_>) -> HtuProfile {
    match raw {
        None | Some(RawHtu::AsSent) => HtuProfile::AsSent,
        Some(RawHtu::DecodeUnreserved) => HtuProfile::DecodeUnreserved,
        Some(RawHtu::PercentDecoded) => HtuProfile::PercentDecoded,
        Some(RawHtu::StripPrefix(prefix)) => {
            let plain = prefix.len() > 1
                && prefix.starts_with('/')
                && !prefix.ends_with('/')
                && prefix.bytes().all(|b| matches!(b, 0x21..=0x7e))
                && !prefix.contains(['?', '#', '\\']);
            if !plain {
                let key = format!("{key}.htu.strip_prefix");
                let remedy = "write one such as /gateway, without a final slash";
                it.findings.error(&key, "not a path prefix", remedy);
            }
            HtuProfile::StripPrefix(prefix)
        }
    }
}

fn timeouts(key: &str, raw: Option<RawTimeouts>, it: &mut Context<'_>) -> Timeouts {
    let default = Timeouts::default();
    let Some(raw) = raw else {
        return default;
    };
    let at = |name: &str| format!("{key}.timeouts.{name}");
    let least = Duration::from_millis(1);
    let minute = Duration::from_secs(60);
    Timeouts {
        connect: it.span(&at("connect"), raw.connect, default.connect, (least, minute)),
        first_byte: it.span(
            &at("first_byte"),
            raw.first_byte,
            default.first_byte,
            (least, DAY),
        ),
        idle: it.span(&at("idle"), raw.idle, default.idle, (least, DAY)),
    }
}
