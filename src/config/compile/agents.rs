//! Who may call, by what token, and which services.

use std::collections::{BTreeMap, BTreeSet};

use super::services::Services;
use super::{Context, Origins, visible, watch};
use crate::agent::{AgentCredential, Settings};
use crate::config::raw::{Named, RawAgent, RawAgentAuth, RawMisuse, SecretRef};
use crate::policy::AgentSettings;
use crate::vocab::{AgentName, Secret, ServiceName};

/// Shortest token that is not worth a warning: 16 characters of base 62 hold 95 bits.
const TOKEN_MIN: usize = 16;

/// All agents, for the rooms that need them.
#[derive(Default)]
pub(super) struct Agents {
    pub(super) agents: Settings,
    /// Those that are stopped where they misuse a placeholder.
    pub(super) quarantined: BTreeSet<AgentName>,
    pub(super) policy: Vec<AgentSettings>,
    pub(super) proxy_tokens: BTreeMap<AgentName, Secret<String>>,
    /// Positions of the entries of `services` lists.
    pub(super) origins: Origins,
}

/// The names that the file gives.
pub(super) fn names(raw: &Named<RawAgent>) -> BTreeSet<AgentName> {
    let names = raw.keys().filter_map(|text| AgentName::new(text).ok());
    names.collect()
}

/// Reads the agents. `placed`: those that a listener of their own names.
pub(super) fn compile(
    raw: Option<Named<RawAgent>>,
    placed: &BTreeSet<AgentName>,
    services: &Services,
    it: &mut Context<'_>,
) -> Agents {
    let mut agents = Agents::default();
    let Some(raw) = raw else {
        // No credential: who sits on this machine is `default`.
        agents.policy.push(AgentSettings {
            name: AgentName::fallback(),
            services: None,
        });
        return agents;
    };
    if raw.is_empty() {
        let remedy = "name an agent, or remove the key for the one agent `default`";
        it.findings.error("agents", "names nobody", remedy);
    }
    for (text, raw) in raw {
        let Ok(name) = AgentName::new(&text) else {
            let remedy = "use letters, digits, `-`, `_` and `.`, at most 64, beginning with a letter or digit";
            it.findings
                .error("agents", "an agent's name is not a name", remedy);
            continue;
        };
        let raw = raw.unwrap_or(RawAgent {
            auth: None,
            services: None,
            placeholder_misuse: None,
            watch: None,
        });
        let key = format!("agents.{name}");
        if placed.contains(&name) {
            agents.agents.placed.insert(name.clone());
        } else if raw.auth.is_none() && !it.findings.tainted(&key) {
            let what = "nothing tells who this agent is";
            let remedy =
                "give it `auth: {token: …}`, or name it at a transparent listener of its own";
            it.findings.error(&key, what, remedy);
        }
        if let Some(auth) = raw.auth {
            let hash = auth_of(&key, &name, auth, &mut agents, it).unwrap_or_default();
            agents.agents.agents.push(AgentCredential {
                name: name.clone(),
                token_sha256: hash,
            });
        }
        if let Some(usual) = raw.watch {
            let usual = watch::compile(&key, usual, it);
            agents.agents.watches.insert(name.clone(), usual);
        }
        match raw.placeholder_misuse {
            Some(RawMisuse::Revoke) => {
                agents.quarantined.insert(name.clone());
            }
            None | Some(RawMisuse::Deny) => {}
        }
        let wanted = raw
            .services
            .map(|list| services_of(&key, list, services, &mut agents.origins, it));
        agents.policy.push(AgentSettings {
            name,
            services: wanted,
        });
    }
    check_distinct(&agents.agents, it);
    agents
}

/// The hash of the agent's token. `None`: not read.
fn auth_of(
    key: &str,
    name: &AgentName,
    auth: RawAgentAuth,
    agents: &mut Agents,
    it: &mut Context<'_>,
) -> Option<[u8; 32]> {
    match auth {
        RawAgentAuth::TokenSha256(hex) => {
            let hash = unhex(&hex);
            if hash.is_none() {
                let key = format!("{key}.auth.token_sha256");
                let remedy = "write the 64 hexadecimal digits that sha256sum prints";
                it.findings.error(&key, "not a SHA-256", remedy);
            }
            hash
        }
        RawAgentAuth::Token(reference) => {
            let token = token(&format!("{key}.auth.token"), &reference, it)?;
            let credential = AgentCredential::of(name.clone(), token.expose());
            agents.proxy_tokens.insert(name.clone(), token);
            Some(credential.token_sha256)
        }
    }
}

/// The agent's token, if it is read and can be sent in `Proxy-Authorization`.
fn token(key: &str, reference: &SecretRef, it: &mut Context<'_>) -> Option<Secret<String>> {
    let token = it.secret_text(key, reference, visible);
    let length = token.expose().len();
    if (1..TOKEN_MIN).contains(&length) {
        let what = "the token is short enough to be guessed";
        it.findings.warn(key, what, "use `openssl rand -hex 32`");
    }
    (length > 0).then_some(token)
}

fn services_of(
    key: &str,
    list: Vec<Option<String>>,
    services: &Services,
    origins: &mut Origins,
    it: &mut Context<'_>,
) -> Vec<ServiceName> {
    let mut found = Vec::new();
    let mut places = Vec::new();
    for (i, text) in list.into_iter().enumerate() {
        let Some(text) = text else { continue };
        let at = format!("{key}.services[{i}]");
        match ServiceName::new(&text) {
            Ok(name) if found.contains(&name) => {
                it.findings
                    .error(&at, "this service is listed twice", "remove one of the two");
            }
            // Policy would say the same, but not of a service that is there and has other mistakes.
            Ok(name) if services.refused.contains(&text) => drop(name),
            Ok(name) => {
                found.push(name);
                places.push(i);
            }
            Err(error) => {
                let remedy = "list names of `services`";
                it.findings.error(&at, &error.to_string(), remedy);
            }
        }
    }
    origins.insert(key.to_owned(), places);
    found
}

/// One token for two names would make the audit's word for who did it worthless.
fn check_distinct(settings: &Settings, it: &mut Context<'_>) {
    for (i, one) in settings.agents.iter().enumerate() {
        let before = settings.agents.iter().take(i);
        let same = |other: &AgentCredential| other.token_sha256 == one.token_sha256;
        if one.token_sha256 != [0; 32] && before.into_iter().any(same) {
            let key = format!("agents.{}.auth", one.name);
            let what = "another agent has the same token";
            it.findings.error(&key, what, "give each agent its own");
        }
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect();
    let bytes: Vec<u8> = digits?
        .chunks_exact(2)
        .map(|pair| pair[0] * 16 + pair[1])
        .collect();
    (text.len() == 64).then_some(())?;
    bytes.try_into().ok()
}
